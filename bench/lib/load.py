"""Load: each function makes calls, insists that all of them were answered 200, and returns what it saw."""
import json
import os
import re
import sys
import time

import procs
import wire
from procs import Failed, run

HERE = os.path.dirname(os.path.abspath(__file__))


def url(running, path):
    return f"http://127.0.0.1:{running.port}{path or running.scenario.path()}"


def h2load(running, calls, connections, path=None, body=None, streams=0):
    """A fixed number of calls as fast as they are answered; HTTP/2 with `streams` at a time on each connection."""
    argv = [running.bed.tools["h2load"], "-t1", f"-n{calls}", f"-c{min(connections, calls)}"]
    argv += [f"-m{streams}"] if streams else ["--h1"]
    argv += ["-d", body] if body else []
    out = run([*argv, url(running, path)], 600)
    good = re.search(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", out)
    rate = re.search(r"finished in .*?, ([\d.]+) req/s", out)
    succeeded = re.search(r"(\d+) succeeded", out)
    if not (good and rate and succeeded) or int(good[1]) != calls or int(succeeded[1]) != calls:
        raise Failed(f"not {calls} calls were answered 200: {good[0] if good else out[-200:]}")
    running.calls += calls
    return {"calls": calls, "rps": float(rate[1])}


def wrk(running, seconds, connections, close=False):
    """As many calls as are answered in a time; with `close`, each on a connection of its own."""
    argv = [running.bed.tools["wrk"], "-t1", f"-c{connections}", f"-d{seconds}s"]
    argv += ["-H", "Connection: close"] if close else []
    out = run([*argv, url(running, None)], seconds + 60)
    calls = re.search(r"(\d+) requests in", out)
    rate = re.search(r"Requests/sec: +([\d.]+)", out)
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", out)
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", out)
    if not (calls and rate) or int(calls[1]) == 0:
        raise Failed(f"wrk: {out[-200:]}")
    if refused:
        raise Failed(f"{refused[1]} of {calls[1]} calls were not answered 200")
    if errors and sum(map(int, errors.groups())) > int(calls[1]) / 1000:
        raise Failed(f"{errors[0]} in {calls[1]} calls")
    running.calls += int(calls[1])
    return {"calls": int(calls[1]), "rps": float(rate[1])}


def paced(running, rate, seconds, connections=32):
    """Calls on a schedule; latencies in microseconds, from when each call was due."""
    argv = [sys.executable, "-B", os.path.join(HERE, "pacer.py"), str(running.port), str(rate), str(seconds),
            str(connections), running.scenario.path()]
    seen = json.loads(run(argv, seconds + 60))
    if seen["refused"]:
        raise Failed(f"{seen['refused']} calls were not answered 200")
    if seen["rate"] < 0.95 * rate:
        raise Failed(f"only {seen['rate']:.0f} of {rate} calls a second came through")
    seen["calls"] += connections        # those before the clock started, which cost the proxy as much
    running.calls += seen["calls"]
    return {**seen, "rps": seen["rate"]}


def idle_connections(running, count):
    """Open connections that have made one call each, and keep them open until close() is called on all."""
    socks = []
    try:
        for _ in range(count):
            sock = wire.connect(running.port)
            socks.append(sock)
            sock.sendall(wire.request(running.scenario.path()))
            if wire.answer(sock)[0] != 200:
                raise Failed("a call was not answered 200")
            running.calls += 1
    except BaseException as error:
        for sock in socks:
            sock.close()
        if isinstance(error, OSError):
            raise Failed(f"connection {len(socks)}: {error}") from None
        raise
    return socks


def with_cpu(running, work, settle=0.1):
    """Run `work` and add the proxy's CPU time per call, in microseconds."""
    before = running.cpu()
    seen = work()
    time.sleep(settle)          # for what a proxy does behind an answer, such as writing its log
    spent = procs.cpu_between(before, running.cpu())
    return {**seen, "cpu": spent / 1000 / seen["calls"]}
