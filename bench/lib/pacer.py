"""An open-loop load generator: requests start on a fixed schedule, whether or not earlier ones were answered.

    pacer.py PORT RATE SECONDS CONNECTIONS PATH

Each latency counts from the moment at which the request was due, not from when it could be sent, so a stall is charged to
every request that had to wait for it (no coordinated omission). Requests are due at even distances and take the connection
that has been idle longest; where all are busy they queue. Prints JSON with microseconds.
"""
import collections
import ctypes
import gc
import json
import select
import sys
import time

import wire

PR_SET_TIMERSLACK = 29


def main(port, rate, seconds, connections, path):
    gc.disable()
    ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)  # wake when asked to, not up to 50 us later
    request = wire.request(path)
    idle = collections.deque()
    for _ in range(connections):            # connections are made, and used once, before the clock starts
        sock = wire.connect(port)
        sock.sendall(request)
        if wire.answer(sock)[0] != 200:
            raise SystemExit("the first request was not answered 200")
        sock.setblocking(False)
        idle.append(sock)

    now = time.perf_counter_ns
    total, step = rate * seconds, 1_000_000_000 // rate
    busy, waiting = {}, collections.deque()
    latencies, refused, sent, worst_start = [], 0, 0, 0
    start = now() + 50_000_000
    while len(latencies) < total:
        time_now = now()
        while sent < total and start + sent * step <= time_now:
            waiting.append(start + sent * step)
            sent += 1
        while waiting and idle:
            due, sock = waiting.popleft(), idle.popleft()
            worst_start = max(worst_start, now() - due)
            if sock.send(request) != len(request):
                raise SystemExit("a request did not fit into the socket")
            busy[sock] = [due, b""]
        pause = (start + sent * step - now()) / 1e9 if sent < total else 1.0
        ready, _, _ = select.select(list(busy), [], [], max(0.0, pause))
        for sock in ready:
            state = busy[sock]
            part = sock.recv(65536)
            at = now()
            if not part:
                raise SystemExit("a connection was closed")
            state[1] += part
            head, end, body = state[1].partition(b"\r\n\r\n")
            if end and len(body) >= int(wire.LENGTH.search(head)[1]):
                latencies.append(at - state[0])
                refused += not head.startswith(b"HTTP/1.1 200")
                del busy[sock]
                idle.append(sock)
        if at_end(start, sent, total, step, now()):
            raise SystemExit(f"only {len(latencies)} of {total} requests were answered in time")
    spent = (now() - start) / 1e9
    latencies.sort()
    at = lambda share: round(latencies[min(total - 1, int(total * share))] / 1000, 1)
    print(json.dumps({"requests": total, "refused": refused, "rate": round(total / spent, 1), "p50": at(0.5), "p99": at(0.99),
                      "p99.9": at(0.999), "latest_start": round(worst_start / 1000, 1)}))


def at_end(start, sent, total, step, time_now):
    """Ten seconds after the last request was due."""
    return sent == total and time_now > start + total * step + 10_000_000_000


if __name__ == "__main__":
    main(*map(int, sys.argv[1:5]), sys.argv[5])
