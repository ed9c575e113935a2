"""How each kind of job is done, and in which order."""
import glob
import os
import re
import signal
import subprocess
import sys
import time

import load
import peers
import procs
import rows
from procs import Failed

WORKERS = 2
MIB = 1 << 20


# What is done to a proxy that runs; each returns one sample.

def saturate(running, job, size):
    load.h2load(running, max(200, size // 20), min(job.connections, 16))
    return load.with_cpu(running, lambda: load.h2load(running, size, job.connections))


def post(running, job, size):
    load.h2load(running, max(100, size // 20), 16, "/post", running.bed.posted)
    return load.with_cpu(running, lambda: load.h2load(running, size, job.connections, "/post", running.bed.posted))


def big(running, job, size):
    load.h2load(running, job.connections, job.connections, "/big")
    return load.with_cpu(running, lambda: load.h2load(running, size, job.connections, "/big"))


def h2_in(running, job, size):
    load.h2load(running, max(200, size // 20), job.connections, streams=8)
    return load.with_cpu(running, lambda: load.h2load(running, size, job.connections, streams=8))


def new_connection(running, job, size):
    return load.with_cpu(running, lambda: load.wrk(running, max(1, round(size)), job.connections, close=True))


def timed(running, job, size):
    return load.with_cpu(running, lambda: load.wrk(running, max(1, round(size)), job.connections))


def pace(running, job, size):
    return load.with_cpu(running, lambda: load.paced(running, rows.RATE, max(1, round(size))))


BURSTS = {"saturate": saturate, "post": post, "big": big, "h2_in": h2_in, "new_connection": new_connection,
          "timed": timed, "pace": pace}


# What starts its own proxies.

def memory(peer, bed, job, size):
    running = peers.Running(peer, bed, job.scenario, WORKERS)
    try:
        time.sleep(1)
        idle = procs.pss_kib(running.pid) / 1024
        socks = load.idle_connections(running, 1000)
        try:
            time.sleep(1)
            return {"idle": idle, "connection": (procs.pss_kib(running.pid) - 1024 * idle) / len(socks)}
        finally:
            for sock in socks:
                sock.close()
    finally:
        running.discard()


def start(peer, bed, job, size):
    running = peers.Running(peer, bed, job.scenario, WORKERS)
    running.discard()
    return {"ms": running.start_ms}


def binary(peer, bed, job, size):
    size, shared = peers.binary_bytes(bed.tools[peer.name])
    return {"size": size / MIB, "shared_libraries": shared}


def routes(peer, bed, job, size):
    """CPU per request with 10,000 routes over that with 10, as the median of short turns of two proxies that run side by
    side. Peers get fewer turns than bearerd: no target hangs on them."""
    ours = peer.name == "bearerd"
    turns, size = (job.bursts, size) if ours else (2, max(200, size // 4))
    both = []
    try:
        for scenario in (peers.FEW, peers.MANY):
            both.append(peers.Running(peer, bed, scenario, WORKERS))
            load.h2load(both[-1], max(100, size // 10), 16)
        pairs = []
        for turn in range(turns):
            spent = {}
            for running in both if turn % 2 else reversed(both):
                spent[running.scenario] = load.with_cpu(running, lambda: load.h2load(running, size, job.connections))["cpu"]
            pairs.append({"few": spent[peers.FEW], "many": spent[peers.MANY],
                          "flat": spent[peers.MANY] / spent[peers.FEW]})
        return pairs
    finally:
        for running in both:
            running.discard()


def syscalls(peer, bed, job, size):
    return count_calls(peer, bed, job, lambda running: load.h2load(running, size, job.connections))


def syscalls_paced(peer, bed, job, size):
    return count_calls(peer, bed, job, lambda running: load.paced(running, rows.RATE, max(1, round(size))))


def count_calls(peer, bed, job, work):
    running = peers.Running(peer, bed, job.scenario, WORKERS)
    try:
        load.paced(running, 1000, 1)
        tool = perf if perf_counts(bed) else strace
        tally, requests = tool(running, work)
        by_name = {name: round(count / requests, 3) for name, count in sorted(tally.items(), key=lambda item: -item[1])}
        return {"count": sum(tally.values()) / requests, "tool": tool.__name__, "by_name": {k: v for k, v in by_name.items() if v >= 0.005}}
    finally:
        running.discard()


_perf = None


def perf_counts(bed):
    """Whether perf is there and lets us count system calls."""
    global _perf
    if _perf is None:
        _perf = False
        if bed.tools["perf"]:
            done = subprocess.run([bed.tools["perf"], "stat", "-e", "syscalls:sys_enter_read", "-p", str(os.getpid()),
                                   "sleep", "0"], capture_output=True, text=True)
            _perf = done.returncode == 0 and "not supported" not in done.stderr
        if not _perf and not bed.tools["strace"]:
            raise Failed("perf may not count system calls here (root can), and strace is missing")
    return _perf


def perf(running, work):
    """Counts by perf's tracepoints, which hardly slow the proxy. Counting is switched on and off over pipes, so that it
    covers the work and nothing else."""
    report = os.path.join(running.dir, "syscalls")
    control_read, control = os.pipe()
    ack, ack_write = os.pipe()
    pids = ",".join(map(str, procs.tree(running.pid)))
    argv = [running.bed.tools["perf"], "stat", "-x;", "-D", "-1", f"--control=fd:{control_read},{ack_write}",
            "-e", "syscalls:sys_enter_*", "-o", report, "-p", pids]
    process = subprocess.Popen(argv, pass_fds=(control_read, ack_write), stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    os.close(control_read)
    os.close(ack_write)

    def tell(word):
        try:
            os.write(control, word)
        except BrokenPipeError:
            pass
        if not os.read(ack, 64):
            raise Failed(f"perf: {process.stderr.read().decode(errors='replace')[-200:]}")

    try:
        tell(b"enable\n")
        seen = work(running)
        tell(b"disable\n")
        process.send_signal(signal.SIGINT)
        process.wait(30)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stderr.close()
        os.close(control)
        os.close(ack)
    tally = {}
    with open(report) as file:
        for line in file:
            fields = line.split(";")
            if len(fields) > 2 and fields[0].isdigit() and int(fields[0]):
                tally[fields[2].replace("syscalls:sys_enter_", "")] = int(fields[0])
    return tally, seen["requests"]


def strace(running, work):
    """Counts by strace, which slows the proxy: it finds more to do at each wake-up than it would alone."""
    report = os.path.join(running.dir, "syscalls")
    attach = [part for pid in procs.tree(running.pid) for part in ("-p", str(pid))]
    process = subprocess.Popen([running.bed.tools["strace"], "-c", "-f", "-o", report, *attach],
                               stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            time.sleep(0.05)
            if all(traced(pid) for pid in procs.tree(running.pid)):
                break
        seen = work(running)
        process.send_signal(signal.SIGINT)
        process.wait(30)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    tally = {}
    with open(report) as file:
        for line in file:
            fields = line.split()
            if len(fields) >= 5 and fields[3].isdigit() and fields[-1] != "total":
                tally[fields[-1]] = int(fields[3])
    if not tally:
        raise Failed("strace may not attach to it (root may)")
    return tally, seen["requests"]


def traced(pid):
    try:
        with open(f"/proc/{pid}/status") as file:
            return "TracerPid:\t0" not in file.read()
    except OSError:
        return True


def instructions(peer, bed, job, size):
    """Two runs under callgrind that differ only in the number of requests; the difference has no start and no end in it."""
    fewer = max(100, size // 5)
    totals = {}
    for requests in (fewer, fewer + size):
        folder = bed.folder("callgrind")
        under = [bed.tools["valgrind"], "--tool=callgrind", "--callgrind-out-file=/dev/null",
                 f"--log-file={folder}/%p"]
        running = peers.Running(peer, bed, job.scenario, 1, under)
        load.h2load(running, requests, 32)
        running.child.stop(patience=40)
        running.discard()
        counts = []
        for path in glob.glob(f"{folder}/*"):
            with open(path) as file:
                counts += [int(count) for count in re.findall(r"Collected : (\d+)", file.read())]
        totals[requests] = sum(counts)
        if not totals[requests]:
            raise Failed("callgrind gave no count: the proxy did not end by itself")
    return {"count": (totals[fewer + size] - totals[fewer]) / size}


ALONE = {"memory": memory, "start": start, "binary": binary, "routes": routes, "syscalls": syscalls,
         "syscalls_paced": syscalls_paced, "instructions": instructions}


# The order.

class Results:
    """Samples by job, peer and turn; a turn is one go of all peers, close together in time, and ratios are taken within
    it. What did not come about is kept with its reason: a turn that failed is left out and told of; where it goes on
    failing, the row is given up for the peer."""

    PATIENCE = 3

    def __init__(self):
        self.samples = {}       # job: {peer: {turn: sample}}
        self.failures = {}      # "job peer": why there is no row
        self.faults = {}        # "job peer": why turns are missing

    def add(self, job, peer, turn, sample):
        turns = self.samples.setdefault(job, {}).setdefault(peer, {})
        many = sample if isinstance(sample, list) else [sample]
        for i, one in enumerate(many):
            turns[turn if one is sample else f"{turn}.{i}"] = one

    def fail(self, job, peer, reason):
        self.failures[f"{job} {peer}"] = str(reason)

    def fault(self, job, peer, reason):
        reasons = self.faults.setdefault(f"{job} {peer}", [])
        reasons.append(str(reason))
        if len(reasons) == self.PATIENCE:
            self.fail(job, peer, reason)


def lacking(job, tools):
    """The tools of a job that are missing; of "a|b" one is enough."""
    return [need for need in job.tools if len(tools.missing(need.split("|"))) == len(need.split("|"))]


def rotated(names, turn):
    turn %= len(names)
    return names[turn:] + names[:turn]


def work(bed, jobs, names, rounds, scale, say, results):
    """All rounds, into `results`; each burst starts with another peer than the one before."""
    turn = 0
    for job in jobs:
        if missing := lacking(job, bed.tools):
            for name in names:
                results.fail(job.name, name, "missing: " + ", ".join(missing))
    jobs = [job for job in jobs if not lacking(job, bed.tools)]
    shared = {}
    for job in jobs:
        if job.kind in BURSTS:
            shared.setdefault(job.scenario, []).append(job)
    for number in range(rounds):
        for scenario, group in shared.items():
            turn = side_by_side(bed, scenario, group, names, number, turn, scale, results, say)
        for job in jobs:
            if job.kind not in ALONE or number >= job.most_rounds:
                continue
            say(number, job.name)
            for burst in range(1 if job.kind == "routes" else job.bursts):
                turn += 1
                for name in rotated(names, turn):
                    if name not in job.only or f"{job.name} {name}" in results.failures:
                        continue
                    attempt(results, job, name, turn,
                            lambda: ALONE[job.kind](peers.ALL[name], bed, job, sized(job, scale)))


def side_by_side(bed, scenario, group, names, number, turn, scale, results, say):
    """Start every peer for a scenario; they rest while another one works."""
    running = {}
    try:
        for name in rotated(names, number):
            try:
                running[name] = peers.Running(peers.ALL[name], bed, scenario, WORKERS)
            except (Failed, OSError) as error:
                for job in group:
                    (results.fail if str(error) == "cannot" else results.fault)(job.name, name, error)
        for job in group:
            say(number, job.name)
            for burst in range(job.bursts):
                turn += 1
                for name in rotated(names, turn):
                    if name in running and f"{job.name} {name}" not in results.failures:
                        attempt(results, job, name, turn,
                                lambda: BURSTS[job.kind](running[name], job, sized(job, scale)))
        if "log" in scenario.flags:
            for name, one in running.items():
                one.stop()
                lines = one.log_lines()
                if lines < one.requests:
                    for job in group:
                        results.fail(job.name, name, f"wrote {lines} log lines for {one.requests} requests")
    finally:
        for one in running.values():
            one.discard()
    return turn


def attempt(results, job, name, turn, measure_it):
    try:
        results.add(job.name, name, turn, measure_it())
    except (Failed, OSError) as error:
        results.fault(job.name, name, error)
        print(f"  {job.name}, {name}: {error}", file=sys.stderr, flush=True)


def sized(job, scale):
    """Seconds stay as they are where they are small; requests are whole."""
    return job.size * scale if job.size < 100 else max(100, round(job.size * scale))
