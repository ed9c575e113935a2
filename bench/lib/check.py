"""The self-check: does each proxy do in each scenario what is going to be measured?"""
import load
import measure
import peers
import wire
from bed import ANSWER, BIG, POSTED, TOKEN
from procs import Failed


def everything(bed, names):
    good = True
    for scenario in peers.SCENARIOS:
        for name in names:
            try:
                said = one(bed, peers.ALL[name], scenario)
            except (Failed, OSError) as error:
                said = str(error)
                good = good and said == "cannot"
                said = said if said == "cannot" else f"FAILED: {said}"
            print(f"{scenario.name:13} {name:8} {said}", flush=True)
    return good


def one(bed, peer, scenario):
    """Each 200 proves the token, for the upstream compares it; where one caller of HTTP/1.1 can, it is read, too."""
    running = peers.Running(peer, bed, scenario, measure.WORKERS)
    try:
        if "h2in" in scenario.flags:
            load.h2load(running, 10, 2, streams=2)
            return "ok"
        expect(wire.get(running.port, scenario.path()), ANSWER.encode(), "the small answer")
        if not scenario.routes:
            callers_own = ["Authorization: Bearer the-caller-s-own"]
            expect(wire.get(running.port, "/seen", callers_own), f"Bearer {TOKEN}".encode(), "the token at the upstream")
            status, read = wire.post(running.port, "/post", POSTED)
            if status != 200 or int(read) <= len(POSTED):       # its head counts, too
                raise Failed(f"the upstream has read {read[:20]!r} bytes of a POST (status {status})")
            big = wire.get(running.port, "/big")
            if big[0] != 200 or len(big[1]) != BIG:
                raise Failed(f"1 MiB came as {len(big[1])} bytes with status {big[0]}")
        running.requests = 0
        if "h2up" in scenario.flags:    # h2load cannot read HAProxy's answers there: they have no reason phrase
            load.wrk(running, 1, 5)
        else:
            load.h2load(running, 50, 5)
        running.stop()
        if "log" in scenario.flags and running.log_lines() < running.requests:
            raise Failed(f"{running.log_lines()} log lines for {running.requests} requests")
        return f"ok, first answer after {running.start_ms:.0f} ms"
    finally:
        running.discard()


def expect(got, body, what):
    if got != (200, body):
        raise Failed(f"{what}: status {got[0]}, {got[1][:100]!r}")
