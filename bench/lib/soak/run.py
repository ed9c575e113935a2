"""Puts a soak together: issuers, upstreams, bearerd, callers, faults; and sends the load."""
import asyncio
import collections
import logging
import random
import shutil
import sys
import types

import procs

from . import callers, faults, issuers, ledger, nginx, program, report, upstreams, verdict

KEEP_ALIVE = 80             # seconds after which no idle connection is left


class Route:
    def __init__(self, name, upstream, issuer=None, scope="", more="", behind_nginx=False, served_by=None):
        self.name, self.upstream, self.issuer, self.more = name, upstream, issuer, more
        self.slot = (issuer, scope) if issuer else None
        self.behind_nginx = self.tame = behind_nginx
        self.upstream_name = "nginx" if behind_nginx else f"upstream {served_by.name}"
        self.closings, self.resets = lambda: served_by.closings, lambda: served_by.resets


class Tally:
    """What came of the requests."""

    def __init__(self, book):
        self.book = book
        self.judge = verdict.Judge(book)
        self.requests = self.good = self.lost = self.unjudged = 0
        self.failures = collections.Counter()
        self.latencies = []                 # of requests that a healthy upstream answers at once

    def take(self, request):
        self.requests += 1
        found = self.judge.verdict(request)
        if found is None:
            self.good += 1
            if request.wish == "ok" and request.route.name == "steady" and self.book.now() > self.book.frozen_until:
                self.latencies.append(request.end - request.start)
        else:
            whose, why = found
            what = request.code or (f"upstream's {request.status}" if request.trouble is None else "broken off")
            self.failures[(what, whose, why)] += 1
            self.unjudged += whose == "not judged"
            if whose == "ours":
                self.lost += 1
                fates = [f"{attempt.fate}{'' if attempt.reused else ' (new connection)'}"
                         for attempt in self.book.seen.get(request.id, [])]
                self.book.ours("lost request", f"{request}; at the upstream: {', '.join(fates) or 'never seen'}")
        self.book.seen.pop(request.id, None)

    def flood(self, at, count, what):
        self.lost += 1
        self.book.ours("lost request", f"request {at} of {count} pipelined ones: {what}")


async def soak(tools, folder, options):
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)     # writes to connections that are gone are the point
    book = ledger.Ledger(ledger.Canary(options.seed), options.slack)
    dice = random.Random(options.seed)
    watching = asyncio.ensure_future(book.watch_lag())
    issuer_list, upstream_list, front, routes = await build(tools, folder, book, dice)
    bed = types.SimpleNamespace(dir=folder, ca=f"{folder}/ca.pem")
    run = program.Program(tools, bed, book, issuer_list, routes, options.log or "/dev/null")
    tally = Tally(book)
    try:
        await run.until_ready()
        load = callers.Callers(book, dice, run, routes, shutil.which("curl"))
        trouble = faults.Faults(book, random.Random(options.seed + 1), run, load, tally.flood,
                                [issuer for issuer in issuer_list if issuer.name != "steady"],
                                [upstream for upstream in upstream_list if upstream.name in "ab"], front)
        await rounds(options, book, run, load, trouble, tally)
        await run.end()
    finally:
        run.kill()
        watching.cancel()
    print(report.table(options, tools, book, run, load, trouble, tally, issuer_list), flush=True)
    return book.finding_kinds.total() if hasattr(book.finding_kinds, "total") else sum(book.finding_kinds.values())


async def build(tools, folder, book, dice):
    issuer_list = [issuers.Issuer(book, dice, "basic", 20, folder), issuers.Issuer(book, dice, "disco", 12, folder, True),
                   issuers.Issuer(book, dice, "short", 4, folder), issuers.Issuer(book, dice, "steady", 60, folder)]
    slots = {"basic": ("basic", ""), "disco": ("disco", ""), "short": ("short", ""), "steady": ("steady", ""),
             "h2": ("steady", "h2"), "open": None}
    a, b, c, d = upstream_list = [upstreams.Upstream(book, dice, name, slots) for name in "abcd"]
    for server in [*issuer_list, *upstream_list]:
        await server.open()
    url = lambda upstream: f"http://127.0.0.1:{upstream.port.number}"
    routes = [Route("basic", url(a), "basic", more='issuer = "basic"', served_by=a),
              Route("disco", url(b), "disco", more='issuer = "disco"', served_by=b),
              Route("short", url(a), "short", more='issuer = "short"', served_by=a),
              Route("open", url(b), more="anonymous = true", served_by=b),
              Route("steady", url(d), "steady", more='issuer = "steady"', served_by=d)]
    front = None
    if tools["nginx"]:
        front = nginx.Nginx(tools, folder, c.port.number)
        await front.start()
        more = 'issuer = "steady"\nscopes = ["h2"]\ntls = { ca = { file = "ca.pem" } }'
        routes.append(Route("h2", f"https://localhost:{front.port}", "steady", "h2", more, True, c))
    return issuer_list, upstream_list, front, routes


async def rounds(options, book, run, load, trouble, tally):
    """Quiet, then load with faults, then load without any, so that everything must be well again, then quiet."""
    await asyncio.sleep(1)
    under_way = set()

    async def one(request):
        try:
            await load.send(request)
            tally.take(request)
        except Exception as error:
            book.ours("fault of this program", repr(error))

    book.begun = started = book.now()
    seconds = options.minutes * 60
    warm, cool = min(10, seconds / 10), min(20, seconds / 4)
    drawing, running = None, asyncio.ensure_future(run.watch())
    sent, said = 0, started
    while run.alive() and book.now() < started + seconds:
        while sent < (book.now() - started) * options.rate:
            sent += 1
            if len(under_way) < 3000:
                task = asyncio.ensure_future(one(load.draw()))
                under_way.add(task)
                task.add_done_callback(under_way.discard)
        if drawing is None and book.now() > started + warm:
            await run.look()                # memory counts from here: pools and buffers are there
            drawing = asyncio.ensure_future(trouble.run(options.every))
        if drawing is not None and book.now() > started + seconds - cool:
            drawing.cancel()
        if book.now() > said + 60:
            said = book.now()
            print(f"  {said - started:5.0f} s: {tally.requests} requests, {tally.requests - tally.good} failures, "
                  f"{tally.lost} ours, {sum(book.faults.values())} faults, {run.vitals[-1][1] / 1024:.1f} MiB", file=sys.stderr, flush=True)
        await asyncio.sleep(0.004)
    await trouble.end()
    if under_way:
        await asyncio.wait(under_way, timeout=callers.PATIENCE + 5)
    load.close()
    running.cancel()
    if run.alive():
        await asyncio.sleep(min(5, seconds / 4))
        await run.look()
        over = book.now() + KEEP_ALIVE
        while run.alive() and not report.has_given_back(run) and book.now() < over:
            await asyncio.sleep(1)
            await run.look()
        report.judge_vitals(book, run)
