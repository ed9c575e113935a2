"""Load: each function makes requests, insists that all of them were answered 200, and returns what it saw."""
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


def h2load(running, requests, connections, path=None, body=None, streams=0):
    """A fixed number of requests as fast as they are answered; HTTP/2 with `streams` at a time on each connection."""
    argv = [running.bed.tools["h2load"], "-t1", f"-n{requests}", f"-c{min(connections, requests)}"]
    argv += [f"-m{streams}"] if streams else ["--h1"]
    argv += ["-d", body] if body else []
    out = run([*argv, url(running, path)], 600)
    good = re.search(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", out)
    rate = re.search(r"finished in .*?, ([\d.]+) req/s", out)
    succeeded = re.search(r"(\d+) succeeded", out)
    if not (good and rate and succeeded) or int(good[1]) != requests or int(succeeded[1]) != requests:
        raise Failed(f"not {requests} requests were answered 200: {good[0] if good else out[-200:]}")
    running.requests += requests
    return {"requests": requests, "rps": float(rate[1])}


def wrk(running, seconds, connections, close=False):
    """As many requests as are answered in a time; with `close`, each on a connection of its own."""
    argv = [running.bed.tools["wrk"], "-t1", f"-c{connections}", f"-d{seconds}s"]
    argv += ["-H", "Connection: close"] if close else []
    out = run([*argv, url(running, None)], seconds + 60)
    requests = re.search(r"(\d+) requests in", out)
    rate = re.search(r"Requests/sec: +([\d.]+)", out)
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", out)
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", out)
    if not (requests and rate) or int(requests[1]) == 0:
        raise Failed(f"wrk: {out[-200:]}")
    if refused:
        raise Failed(f"{refused[1]} of {requests[1]} requests were not answered 200")
    if errors and sum(map(int, errors.groups())) > int(requests[1]) / 1000:
        raise Failed(f"{errors[0]} in {requests[1]} requests")
    running.requests += int(requests[1])
    return {"requests": int(requests[1]), "rps": float(rate[1])}


def paced(running, rate, seconds, connections=32):
    """Calls on a schedule; latencies in microseconds, from when each request was due."""
    argv = [sys.executable, "-B", os.path.join(HERE, "pacer.py"), str(running.port), str(rate), str(seconds),
            str(connections), running.scenario.path()]
    seen = json.loads(run(argv, seconds + 60))
    if seen["refused"]:
        raise Failed(f"{seen['refused']} requests were not answered 200")
    if seen["rate"] < 0.95 * rate:
        raise Failed(f"only {seen['rate']:.0f} of {rate} requests a second came through")
    seen["requests"] += connections     # those before the clock started, which cost the proxy as much
    running.requests += seen["requests"]
    return {**seen, "rps": seen["rate"]}


def idle_connections(running, count):
    """Open connections that have made one request each, and keep them open until close() is called on all."""
    socks = []
    try:
        for _ in range(count):
            sock = wire.connect(running.port)
            socks.append(sock)
            sock.sendall(wire.request(running.scenario.path()))
            if wire.answer(sock)[0] != 200:
                raise Failed("a request was not answered 200")
            running.requests += 1
    except BaseException as error:
        for sock in socks:
            sock.close()
        if isinstance(error, OSError):
            raise Failed(f"connection {len(socks)}: {error}") from None
        raise
    return socks


def with_cpu(running, work, settle=0.1):
    """Run `work` and add the proxy's CPU time per request, in microseconds."""
    before = running.cpu()
    seen = work()
    time.sleep(settle)          # for what a proxy does behind an answer, such as writing its log
    spent = procs.cpu_between(before, running.cpu())
    return {**seen, "cpu": spent / 1000 / seen["requests"]}
