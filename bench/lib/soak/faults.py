"""Faults, drawn from the seed: what happens to issuers, secrets, upstreams, the config and the process, and callers that
misbehave."""
import asyncio
import os
import signal

from . import http1

# After the end of a fault, for so long may its failures go on, without the slack of a busy machine.
AFTER_UNREACHED = 2.0       # the contract: serving again within 2 s of an issuer that could not be reached
AFTER_FAILURES = 11.0       # and within 11 s after a 5xx or rubbish
AFTER_HANG = 3.0 + 2.5      # the request that still hangs until `timeout`, and one pause
AFTER_ROTATION = 4.0        # a new secret rests for a second before it is sent
UNAVAILABLE, REFUSED, TIMEOUT = "token_unavailable", "token_refused", "token_timeout"

GARBAGE = [b"<html><title>Login</title></html>", b"", b"{", b"[]", b"null", b'{"access_token":7}', b'{"access_token":"a b"}',
           b'{"access_token":"x","token_type":"mac","expires_in":60}', b"\xff\xfe{\x00}\x00", b"[" * 5000, b"x" * 100_000,
           b'{"access_token":"a\\r\\nx: y","token_type":"Bearer"}', b'{"error":"server_error"}', b"HTTP/1.1 302 -\r\nLocation: /\r\n"
           b"Content-Length: 0\r\n\r\n", b"HTTP/9.9 what\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n{}"]


class Faults:
    def __init__(self, ledger, dice, program, callers, judge_flood, issuers, upstreams, nginx):
        self.ledger, self.dice, self.program, self.callers, self.judge_flood = ledger, dice, program, callers, judge_flood
        self.issuers = {issuer.name: issuer for issuer in issuers}
        self.upstreams = {upstream.name: upstream for upstream in upstreams}
        self.nginx = nginx
        self.busy = set()
        self.tasks = set()
        self.longest_reload = 0.0
        self.unconfirmed = 0
        self.last_revoked = {}
        self.every = self.kinds()

    def kinds(self):
        """(kind, what only one fault at a time may touch, how). The same weight for each."""
        out = []
        for name in self.issuers:
            key = f"issuer {name}"
            out += [(f"issuer {kind}", key, self.bind(how, name)) for kind, how in [
                ("away (refused)", self.away), ("away (refused)", self.away), ("hangs", self.hangs), ("resets", self.resets),
                ("slow", self.slow), ("5xx", self.status), ("429 or 503 with Retry-After", self.retry_after),
                ("garbage", self.garbage), ("truncated response", self.truncated), ("lifetimes of 2 s", self.short)]]
            out += [(kind, key, self.bind(how, name)) for kind, how in [
                ("secret rotated, the old one refused at once", self.rotate), ("secret rotated, both good", self.rotate_overlap),
                ("secret half written", self.half_written), ("secret file missing", self.missing),
                ("secret file empty", self.empty), ("secret file is a FIFO", self.fifo), ("secret file is /dev/zero", self.zero),
                ("token revoked", self.revoke), ("token revoked", self.revoke)]]
        for name in self.upstreams:
            key = f"upstream {name}"
            out += [(f"upstream {kind}", key, self.bind(how, name)) for kind, how in [
                ("restarts", self.restart), ("resets all connections", self.reset_all),
                ("closes idle connections", self.close_idle), ("slow", self.slow_upstream)]]
        if self.nginx:
            out += [("nginx reloads (GOAWAY)", "nginx", self.nginx_reload), ("nginx restarts", "nginx", self.nginx_restart)]
        out += [("config: SIGHUP", "program", self.sighup), ("config: changed file", "program", self.changed),
                ("config: broken file", "program", self.broken), ("config: storm of SIGHUPs", "program", self.storm),
                ("log reader stalls", "log", self.log_stalls), ("process stopped for a while", "program", self.frozen)]
        out += [(f"callers {kind}", f"callers {kind}", how) for kind, how in [
            ("break off", self.break_off), ("read nothing", self.read_nothing), ("flood by pipelining", self.flood),
            ("hold idle connections", self.idle), ("send heads slowly", self.slow_heads), ("send rubbish", self.rubbish)]]
        return out

    @staticmethod
    def bind(how, name):
        return lambda: how(name)

    async def run(self, every):
        """A new fault every so many seconds on average, beside those that last."""
        while True:
            await asyncio.sleep(self.dice.expovariate(1 / every))
            free = [kind for kind in self.every if kind[1] not in self.busy]
            if free:
                task = asyncio.ensure_future(self.one(*self.dice.choice(free)))
                self.tasks.add(task)
                task.add_done_callback(self.tasks.discard)

    async def end(self):
        """Ends what is still under way."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def one(self, kind, key, how):
        self.busy.add(key)
        self.ledger.faults[kind] += 1
        try:
            await how()
            await asyncio.sleep(self.dice.uniform(1, 12))       # so that recoveries are seen, too
        except (OSError, http1.Broken, asyncio.IncompleteReadError, asyncio.TimeoutError) as error:
            self.ledger.ours("fault did not work", f"{kind}: {error!r}")
        finally:
            self.busy.discard(key)

    def some_time(self, most=8.0):
        return self.dice.choice([self.dice.uniform(0.2, 2), self.dice.uniform(1, most), self.dice.uniform(most / 2, most)])

    # Issuers

    async def mode(self, name, mode, detail, kind, codes, grace, seconds):
        issuer = self.issuers[name]
        trouble = self.ledger.begin(name, kind, codes, grace)
        issuer.mode, issuer.detail = mode, detail
        try:
            await asyncio.sleep(seconds)
        finally:
            issuer.mode = issuer.detail = None
            self.ledger.end(trouble)

    async def away(self, name):
        issuer = self.issuers[name]
        trouble = self.ledger.begin(name, "away (refused)", {UNAVAILABLE}, AFTER_UNREACHED)
        issuer.shut()
        revoked = self.dice.random() < 0.2
        if revoked:
            self.mark_revoked(name)
        try:
            await asyncio.sleep(self.some_time(20))
        finally:
            await issuer.open()
            self.ledger.end(trouble)

    def hangs(self, name):
        return self.mode(name, "hang", None, "hangs", {TIMEOUT}, AFTER_HANG, self.some_time(12))

    def resets(self, name):
        return self.mode(name, "reset", None, "resets", {UNAVAILABLE}, AFTER_FAILURES, self.some_time())

    def slow(self, name):
        return self.mode(name, "slow", self.dice.uniform(0.3, 2), "slow", set(), 0, self.some_time())

    def status(self, name):
        detail = (self.dice.choice([500, 502, 503, 504]), [])
        return self.mode(name, "status", detail, "5xx", {UNAVAILABLE}, AFTER_FAILURES, self.some_time())

    def retry_after(self, name):
        seconds = self.dice.randrange(1, 6)
        detail = (self.dice.choice([429, 503]), [f"Retry-After: {seconds}"])
        return self.mode(name, "status", detail, "Retry-After", {UNAVAILABLE}, seconds + 1, self.some_time())

    def garbage(self, name):
        return self.mode(name, "garbage", self.dice.choice(GARBAGE), "garbage", {REFUSED, UNAVAILABLE}, AFTER_FAILURES,
                         self.some_time(5))

    def truncated(self, name):
        return self.mode(name, "truncated", self.dice.randrange(1, 150), "truncated", {REFUSED, UNAVAILABLE}, AFTER_FAILURES,
                         self.some_time(5))

    def short(self, name):
        return self.mode(name, "short", 2, "lifetimes of 2 s", set(), 0, self.some_time())

    # Secrets

    async def rotate(self, name):
        issuer = self.issuers[name]
        trouble = self.ledger.begin(name, "secret rotated", {REFUSED}, AFTER_ROTATION)
        secret = issuer.rotate()
        await asyncio.sleep(self.some_time(5))
        await self.write_somehow(issuer, secret)
        self.ledger.end(trouble)

    async def rotate_overlap(self, name):
        issuer = self.issuers[name]
        await self.write_somehow(issuer, issuer.rotate(overlap=True))

    async def write_somehow(self, issuer, secret):
        """As editors, shells and Kubernetes do."""
        way = self.dice.choice(["rename", "in place", "halves", "link"])
        if way == "rename":
            issuer.write(secret)
        elif way == "link":
            target = f"{issuer.secret_file}.{len(issuer.secrets)}"
            with open(target, "w") as file:
                file.write(secret + "\n")
            os.symlink(os.path.basename(target), issuer.secret_file + ".link")
            os.rename(issuer.secret_file + ".link", issuer.secret_file)
        else:
            await self.in_two(issuer, secret, 0.3 if way == "halves" else 0)

    async def in_two(self, issuer, secret, pause):
        if os.path.islink(issuer.secret_file):
            issuer.write(secret)        # what a link leads to is not written over
            return
        before = self.ledger.now()
        with open(issuer.secret_file, "w") as file:
            file.write(secret[:11])
            file.flush()
            await asyncio.sleep(pause)
            file.write(secret[11:])
        if self.ledger.now() - before > 0.9:        # the machine was busy: bearerd waits for a second and no longer
            issuer.torn_until = self.ledger.now() + 3

    async def half_written(self, name):
        await self.in_two(self.issuers[name], self.issuers[name].secrets[-1], self.dice.uniform(0.05, 0.5))

    async def replaced(self, name, put):
        issuer = self.issuers[name]
        os.unlink(issuer.secret_file)
        put(issuer.secret_file)
        await asyncio.sleep(self.some_time())
        issuer.write(issuer.secrets[-1])

    def missing(self, name):
        return self.replaced(name, lambda path: None)

    def empty(self, name):
        return self.replaced(name, lambda path: open(path, "w").close())

    def fifo(self, name):
        return self.replaced(name, os.mkfifo)

    def zero(self, name):
        return self.replaced(name, lambda path: os.symlink("/dev/zero", path))

    def mark_revoked(self, name):
        for slot, token in self.ledger.latest.items():
            if slot[0] == name and token.revoked is None:
                token.revoked = self.ledger.now()

    async def revoke(self, name):
        """Bearerd gets a token anew at most every 10 s because of a 401: a second revocation waits that long."""
        if self.ledger.now() - self.last_revoked.get(name, -100) < 15:
            return
        self.last_revoked[name] = self.ledger.now()
        self.mark_revoked(name)

    # Upstreams

    async def restart(self, name):
        upstream = self.upstreams[name]
        trouble = self.ledger.begin(f"upstream {name}", "upstream restart", set(), 0)
        upstream.shut()
        await asyncio.sleep(self.dice.uniform(0.05, 1.5))
        await upstream.open()
        self.ledger.end(trouble)

    async def reset_all(self, name):
        self.upstreams[name].reset_all()

    async def close_idle(self, name):
        self.upstreams[name].close_idle()

    async def slow_upstream(self, name):
        self.upstreams[name].delay = self.dice.uniform(0.1, 1)
        await asyncio.sleep(self.some_time(4))
        self.upstreams[name].delay = 0.0

    async def nginx_reload(self):
        trouble = self.ledger.begin("nginx", "nginx reload", set(), 1)
        self.nginx.reload()
        await asyncio.sleep(0.5)
        self.ledger.end(trouble)

    async def nginx_restart(self):
        trouble = self.ledger.begin("nginx", "nginx restart", set(), 0.5)
        await self.nginx.restart()
        self.ledger.end(trouble)

    # The config, the log, the process

    async def sighup(self):
        self.program.signal(signal.SIGHUP)

    async def changed(self):
        """Another level, another route, another value of a field, which must be seen at the steady route soon."""
        program = self.program
        program.generation += 1
        program.level = self.dice.choice(["info", "info", "debug", "trace", "warn"])
        program.extra = "".join(f'\n[[route]]\nname = "extra-{i}"\npath_prefix = "/extra-{i}"\nupstream = "http://127.0.0.1:9"\n'
                                "anonymous = true\n" for i in range(self.dice.randrange(4)))
        program.write_config(program.config())
        await self.until_generation(program.generation)

    async def until_generation(self, generation):
        begun = self.ledger.now()
        while True:
            fields = await self.callers.probe()
            waited = self.ledger.now() - begun
            if fields.get("x-generation") == str(generation):
                self.longest_reload = max(self.longest_reload, waited)
                if waited > 2 + self.ledger.slack + self.ledger.lag() and not self.ledger.busy(begun):
                    self.ledger.ours("slow reload", f"{waited:.1f} s until a changed config served")
                return
            if waited > 15 + 2 * self.ledger.lag():
                return self.ledger.ours("no reload", f"a changed config did not serve within {waited:.0f} s")
            await asyncio.sleep(0.05)

    async def broken(self):
        """The old config must serve on; then the good one comes back."""
        program, good = self.program, self.program.config()
        program.write_config(self.dice.choice([
            good[:len(good) // 2], "", good + "\nunknown = 1\n", good.replace("token_url", "tokn_url"), "\x00\xff", good + "[[route]]\n",
            good.replace('issuer = "steady"', 'issuer = "nobody"')]))
        await asyncio.sleep(self.some_time(3))
        program.write_config(good)
        program.signal(signal.SIGHUP)

    async def storm(self):
        for _ in range(self.dice.randrange(20, 100)):
            self.program.signal(signal.SIGHUP)
            await asyncio.sleep(self.dice.choice([0, 0.01, 0.05]))

    async def log_stalls(self):
        self.program.log.going.clear()
        try:
            await asyncio.sleep(self.some_time(8))
        finally:
            self.program.log.going.set()

    async def frozen(self):
        """As a suspended machine: SIGSTOP."""
        seconds = self.dice.uniform(0.1, 1.5)
        self.ledger.frozen_from = self.ledger.now()
        self.ledger.frozen_until = self.ledger.now() + seconds + 0.5
        self.program.signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            self.program.signal(signal.SIGCONT)
        self.ledger.frozen_until = self.ledger.now() + 0.5

    # Callers that misbehave

    async def open_many(self, count):
        return [await asyncio.open_connection("127.0.0.1", self.program.main, limit=http1.LIMIT) for _ in range(count)]

    async def break_off(self):
        for _ in range(self.dice.randrange(10, 60)):
            (_, writer), = await self.open_many(1)
            path = self.dice.choice(["/steady/big/1000000", "/basic/slow/1500", "/short/ok/0", "/h2/big/2000000", "/disco/trickle/0"])
            wanted = http1.message(f"GET {path} HTTP/1.1", ["Host: localhost"])
            upload = http1.message(f"POST {path} HTTP/1.1", ["Host: localhost", "Content-Length: 50000"], b"x" * 3000)
            writer.write(self.dice.choice([wanted, wanted[:20], upload]))
            await asyncio.sleep(self.dice.uniform(0, 0.1))
            http1.abort(writer) if self.dice.random() < 0.5 else writer.close()

    async def read_nothing(self):
        held = await self.open_many(self.dice.randrange(5, 40))
        for reader, writer in held:
            writer.transport.pause_reading()
            writer.write(http1.message("GET /%s/big/2000000 HTTP/1.1" % self.dice.choice(["steady", "h2"]), ["Host: localhost"]))
        await asyncio.sleep(self.some_time(6))
        for _, writer in held:
            http1.abort(writer)

    async def flood(self):
        """Pipelined requests: all of them get their responses, in order."""
        (reader, writer), = await self.open_many(1)
        count = self.dice.randrange(50, 400)
        requests = [http1.message("GET /steady/ok/0 HTTP/1.1", ["Host: localhost", f"X-Request-Id: flood-{i}"]) for i in range(count)]
        writer.write(b"".join(requests))
        for i in range(count):
            head = await asyncio.wait_for(http1.read_head(reader), 30)
            body = await http1.read_body(reader, head) if head else b""
            if not head or " 200 " not in head.first or b'"flood-%d"' % i not in body:
                self.judge_flood(i, count, head.first if head else "the end of the connection")
                break
            del self.ledger.seen[f"flood-{i}"]
        writer.close()

    async def idle(self):
        held = await self.open_many(self.dice.randrange(100, 500))
        await asyncio.sleep(self.some_time(8))
        for _, writer in held:
            writer.close()

    async def slow_heads(self):
        held = await self.open_many(self.dice.randrange(10, 50))
        for byte in b"GET /steady/ok/0 HTTP/1.1\r\nHost: loc":
            for _, writer in held:
                writer.write(bytes([byte]))
            await asyncio.sleep(0.1)
        for _, writer in held:
            writer.close()

    async def rubbish(self):
        for _ in range(self.dice.randrange(5, 40)):
            (reader, writer), = await self.open_many(1)
            writer.write(self.dice.choice([
                self.dice.getrandbits(800).to_bytes(100, "big"), b"\x16\x03\x01\x02\x00\x01", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nrubbish-rubbish",
                b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"GET /steady/../ok HTTP/1.1\r\nHost: localhost\r\n\r\n",
                b"POST /steady/ok/0 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n"]))
            await asyncio.sleep(0.02)
            writer.close()
