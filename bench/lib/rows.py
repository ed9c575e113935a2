"""The rows: what is done to each proxy, what is read from it, and the targets.

A job says what is done; several lines of the table may read the same job. A target against a peer is the most that the
median of paired ratios (bearerd / peer) may be; `limit` is the most that bearerd's own median may be.
"""
import dataclasses

import peers


@dataclasses.dataclass(frozen=True)
class Job:
    name: str
    kind: str                           # a function of measure.py
    scenario: peers.Scenario
    tools: tuple = ()                   # all of these; "perf|strace" means either
    bursts: int = 3                     # in each round
    size: float = 0                     # requests or seconds of a burst, times --scale
    connections: int = 64
    only: tuple = ("bearerd", "envoy", "haproxy", "nginx")
    most_rounds: int = 1000             # for what hardly differs from one time to the next


RATE = 2000
JOBS = [
    Job("get", "saturate", peers.PLAIN, ("h2load",), size=20_000),
    Job("get-2000", "pace", peers.PLAIN, bursts=2, size=3),
    Job("tls", "saturate", peers.TLS, ("h2load",), size=20_000),
    Job("tls-2000", "pace", peers.TLS, bursts=2, size=3),
    Job("post", "post", peers.PLAIN, ("h2load",), size=6_000),
    Job("big", "big", peers.PLAIN, ("h2load",), size=800, connections=16),
    Job("new-connection", "new_connection", peers.PLAIN, ("wrk",), size=1, connections=32),
    Job("h2-in", "h2_in", peers.H2IN, ("h2load",), size=20_000, connections=8),
    Job("h2-up", "timed", peers.H2UP, ("wrk",), size=1),
    Job("routes", "routes", peers.MANY, ("h2load",), bursts=8, size=8_000),
    Job("log", "saturate", peers.LOG, ("h2load",), size=20_000),
    Job("log-2000", "pace", peers.LOG, bursts=2, size=3),
    Job("memory", "memory", peers.PLAIN, bursts=1),
    Job("start", "start", peers.PLAIN, bursts=3),
    Job("start-tls", "start", peers.TLS, bursts=3),
    Job("binary", "binary", peers.PLAIN, bursts=1, most_rounds=1),
    Job("syscalls", "syscalls", peers.PLAIN, ("perf|strace", "h2load"), bursts=1, size=40_000, most_rounds=2),
    Job("syscalls-2000", "syscalls_paced", peers.PLAIN, ("perf|strace",), bursts=1, size=6, most_rounds=2),
    Job("instructions", "instructions", peers.PLAIN, ("valgrind", "h2load"), bursts=1, size=2_000, most_rounds=2,
        only=("bearerd", "haproxy", "nginx")),
]


@dataclasses.dataclass(frozen=True)
class Line:
    title: str
    job: str
    key: str                            # in what the job returns
    unit: str
    envoy: float = None                 # targets
    haproxy: float = None
    limit: float = None
    more_is_better: bool = False
    own: bool = False                   # the value is itself a ratio within one peer, not compared between peers


CPU = dict(key="cpu", unit="µs")
LINES = [
    Line("CPU per request: small GET, saturated", "get", **CPU, envoy=0.28, haproxy=1.10),
    Line("CPU per request: small GET, 2,000 per second", "get-2000", **CPU),
    Line("CPU per request: small GET, upstream over TLS, saturated", "tls", **CPU, envoy=0.37, haproxy=0.98),
    Line("CPU per request: small GET, upstream over TLS, 2,000 per second", "tls-2000", **CPU),
    Line("CPU per request: POST 16 KiB", "post", **CPU, envoy=0.36, haproxy=0.95),
    Line("CPU per request: GET 1 MiB", "big", **CPU, envoy=0.70, haproxy=0.85),
    Line("CPU per request: new connection each", "new-connection", **CPU, envoy=0.40, haproxy=1.25),
    Line("CPU per request: HTTP/2 in (h2c)", "h2-in", **CPU, envoy=0.32, haproxy=1.45),
    Line("CPU per request: HTTP/2 over TLS up", "h2-up", **CPU, envoy=0.38, haproxy=1.35),
    Line("CPU per request: 10,000 routes / 10 routes", "routes", "flat", "×", limit=1.03, own=True),
    Line("CPU per request: small GET, access logs on, saturated", "log", **CPU),
    Line("CPU per request: small GET, access logs on, 2,000 per second", "log-2000", **CPU),
    Line("p50 at 2,000 per second", "get-2000", "p50", "µs"),
    Line("p99 at 2,000 per second", "get-2000", "p99", "µs", envoy=0.80, haproxy=1.10),
    Line("p99.9 at 2,000 per second", "get-2000", "p99.9", "µs"),
    Line("p50 at 2,000 per second, upstream over TLS", "tls-2000", "p50", "µs"),
    Line("p99 at 2,000 per second, upstream over TLS", "tls-2000", "p99", "µs"),
    Line("p99.9 at 2,000 per second, upstream over TLS", "tls-2000", "p99.9", "µs"),
    Line("requests per second: small GET", "get", "rps", "/s", more_is_better=True),
    Line("requests per second: small GET, upstream over TLS", "tls", "rps", "/s", more_is_better=True),
    Line("requests per second: POST 16 KiB", "post", "rps", "/s", more_is_better=True),
    Line("requests per second: GET 1 MiB", "big", "rps", "/s", more_is_better=True),
    Line("requests per second: new connection each", "new-connection", "rps", "/s", more_is_better=True),
    Line("requests per second: HTTP/2 in (h2c)", "h2-in", "rps", "/s", more_is_better=True),
    Line("requests per second: HTTP/2 over TLS up", "h2-up", "rps", "/s", more_is_better=True),
    Line("memory idle", "memory", "idle", "MiB", limit=9),
    Line("memory for an idle connection", "memory", "connection", "KiB", limit=14),
    Line("start to first response with a token", "start", "ms", "ms"),
    Line("start to first response with a token, upstream over TLS", "start-tls", "ms", "ms"),
    Line("binary", "binary", "size", "MiB"),
    Line("system calls per request, saturated", "syscalls", "count", ""),
    Line("system calls per request, 2,000 per second", "syscalls-2000", "count", ""),
    Line("user instructions per request, one worker", "instructions", "count", "", limit=32_000),
]
