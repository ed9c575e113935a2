"""Programs that a run starts, and what the kernel says they cost."""
import os
import re
import resource
import signal
import socket
import subprocess
import time


class Failed(Exception):
    """A measurement that did not come about; the text says why."""


class Child:
    """A program that we started. stop() ends it and what it started, by their ids."""

    running = []

    def __init__(self, argv, cwd=None, env=None, log=None):
        self.log = log
        out = open(log, "ab") if log else subprocess.DEVNULL
        self.started = time.perf_counter()
        self.process = subprocess.Popen(
            argv, cwd=cwd, env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        if log:
            out.close()
        self.pid = self.process.pid
        Child.running.append(self)

    def alive(self):
        return self.process.poll() is None

    def last_words(self):
        try:
            with open(self.log, errors="replace") as file:
                return " ".join(file.read()[-400:].split())
        except (OSError, TypeError):
            return ""

    def stop(self, patience=5):
        if self in Child.running:
            Child.running.remove(self)
        if not self.alive():
            return
        family = [(pid, born(pid)) for pid in tree(self.pid)]
        self.process.terminate()
        try:
            self.process.wait(patience)
        except subprocess.TimeoutExpired:
            for pid, birth in family:
                if birth is not None and born(pid) == birth:    # not another program that got the number since
                    try:
                        os.kill(pid, signal.SIGKILL)
                    except ProcessLookupError:
                        pass
            self.process.wait()

    @classmethod
    def stop_all(cls):
        for child in reversed(list(cls.running)):
            child.stop(patience=2)


def stat_fields(pid):
    """Fields of /proc/PID/stat from the third on (state, parent, …)."""
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()


def born(pid):
    try:
        return stat_fields(pid)[19]
    except OSError:
        return None


def tree(root):
    """A process and all that descend from it."""
    children = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                children.setdefault(int(stat_fields(name)[1]), []).append(int(name))
            except OSError:
                pass
    found = [root]
    for pid in found:
        found.extend(children.get(pid, []))
    return found


def cpu_clocks(pid):
    """Nanoseconds on a processor, by process of the tree. The clock is the scheduler's own sum, the one that
    /proc/PID/schedstat shows by thread, with the threads that have ended."""
    clocks = {}
    for member in tree(pid):
        try:
            clocks[member] = time.clock_gettime_ns((~member << 3) | 2)     # CPUCLOCK_SCHED of a process
        except OSError:
            pass
    return clocks


def cpu_between(before, after):
    return sum(spent - before.get(pid, 0) for pid, spent in after.items())


def pss_kib(pid):
    """Memory of the tree; what several processes share is divided between them."""
    total = 0
    for member in tree(pid):
        try:
            with open(f"/proc/{member}/smaps_rollup") as file:
                total += int(re.search(r"^Pss:\s+(\d+)", file.read(), re.M)[1])
        except ProcessLookupError:
            pass
        except PermissionError:
            raise Failed("its memory may not be read (root may)") from None
    return total


def raise_file_limit(wanted):
    """Lets this process open so many files, or as many as it may; returns how many that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if resource.RLIM_INFINITY in (soft, hard):
        soft, hard = (wanted if limit == resource.RLIM_INFINITY else limit for limit in (soft, hard))
    if soft < min(wanted, hard):
        soft = min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    return soft


_given = set()


def free_port():
    """A free port of 127.0.0.1 that was not given before."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        if port not in _given:
            _given.add(port)
            return port


def run(argv, seconds=120):
    """Run to the end and return what it printed."""
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        raise Failed(f"{argv[0]} did not end within {seconds} s") from None
    if done.returncode != 0:
        raise Failed(f"{os.path.basename(argv[0])}: {' '.join((done.stderr or done.stdout)[-300:].split())}")
    return done.stdout
