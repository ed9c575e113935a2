"""Callers: well-behaved ones on kept and new connections, over TCP, TLS and a Unix socket, and HTTP/2 by curl."""
import asyncio
import itertools
import json
import os
import re
import ssl
import zlib

from . import http1, upstreams

PATIENCE = 25.0         # longer than any timeout of the config together
REST = 20.0             # a kept connection is not used after it rested so long; bearerd keeps it for 75 s

WISHES = [("ok", 70), ("slow", 2), ("trickle", 1), ("big", 1.2), ("upload", 1.2), ("closing", 2), ("status", 2), ("reset", 1),
          ("half", 0.7), ("cut", 0.7), ("garbage", 0.7), ("stall", 0.3), ("stallbody", 0.3), ("early", 0.7)]
TAME = {"ok", "slow", "big", "upload", "status", "trickle"}     # what an nginx between passes on as it is
METHODS = [("GET", 60), ("POST", 25), ("HEAD", 3), ("PUT", 6), ("DELETE", 3), ("PATCH", 3)]
IDEMPOTENT = {"GET", "HEAD", "PUT", "DELETE", "OPTIONS"}


class Request:
    def __init__(self, number, route, method, wish, argument, body):
        self.id = f"soak-{number}"
        self.route, self.method, self.wish, self.argument, self.body = route, method, wish, argument, body
        self.path = f"/{route.name}/{wish}/{argument}?q={number}"
        self.start = self.end = 0.0
        self.status, self.fields, self.trouble = None, {}, None
        self.code = None                    # of bearerd's own errors
        self.reused = False

    def head(self, more=()):
        fields = ["Host: localhost", f"X-Request-Id: {self.id}", *more]
        if self.body or self.method in ("POST", "PUT", "PATCH"):
            fields.append(f"Content-Length: {len(self.body)}")
        return http1.message(f"{self.method} {self.path} HTTP/1.1", fields)

    def __str__(self):
        got = self.trouble or f"{self.status} {self.code or ''}".strip()
        return f"{self.id} {self.method} /{self.route.name}/{self.wish} from {self.start:.2f} to {self.end:.2f}: {got}"


class Callers:
    def __init__(self, ledger, dice, program, routes, curl):
        self.ledger, self.dice, self.program, self.curl = ledger, dice, program, curl
        self.routes = routes
        self.numbers = itertools.count(1)
        self.kept = {"main": [], "socket": [], "tls": []}
        self.context = ssl.create_default_context(cafile=program.bed.ca)
        self.open_curls = 0

    def pick(self, weighted):
        names, weights = zip(*weighted)
        return self.dice.choices(names, weights)[0]

    def draw(self):
        """One request of the steady load."""
        route = self.dice.choice(self.routes)
        wish = self.pick([(name, weight) for name, weight in WISHES if not route.tame or name in TAME])
        method = self.pick(METHODS)
        body, argument = b"", 0
        if wish in ("upload", "early"):
            method, body = "POST", upstreams.BLOCK[:self.dice.randrange(1, 1 << 16)] * self.dice.randrange(1, 24)
        elif method in ("POST", "PUT", "PATCH"):
            body = bytes(self.dice.choices(b"abcdefgh", k=self.dice.choice([0, 10, 300, 3000])))
        if wish == "big":
            method, body, argument = "GET", b"", self.dice.randrange(1 << 16, 1 << 21)
        if method == "HEAD" and wish in ("trickle", "half", "cut", "garbage", "stallbody"):
            method = "GET"
        if wish == "slow":
            argument = self.dice.randrange(100, 2000)
        if wish == "status":
            argument = self.dice.choice([204, 301, 403, 404, 409, 500, 502, 503])
        return Request(next(self.numbers), route, method, "ok" if wish == "upload" else wish, argument, body)

    async def send(self, request):
        """Sends it in one of the ways that callers have, and fills in what came of it."""
        request.start = self.ledger.now()
        way = self.pick([("main", 70), ("socket", 10), ("tls", 8), ("new", 10), ("curl", 1)])
        try:
            if way == "curl" and not (self.curl and request.wish in TAME and self.open_curls < 20):
                way = "main"
            if way == "curl":
                await asyncio.wait_for(self.by_curl(request), PATIENCE + 5)
            else:
                await asyncio.wait_for(self.by_stream(request, way), PATIENCE)
        except asyncio.TimeoutError:
            request.trouble = f"nothing within {PATIENCE:g} s"
        except http1.Broken as error:
            request.trouble = f"broken off: {error}"
        except (OSError, asyncio.IncompleteReadError) as error:
            request.trouble = f"broken off: {type(error).__name__}"
        request.end = self.ledger.now()

    async def connection(self, way):
        if way == "socket":
            return await asyncio.open_unix_connection(os.path.join(self.program.bed.dir, "proxy.sock"), limit=http1.LIMIT)
        if way == "tls":
            return await asyncio.open_connection("127.0.0.1", self.program.tls, ssl=self.context, server_hostname="localhost",
                                                 limit=http1.LIMIT)
        return await asyncio.open_connection("127.0.0.1", self.program.main, limit=http1.LIMIT)

    def take_kept(self, way):
        kept = self.kept.get(way, [])
        while kept:
            reader, writer, since = kept.pop()
            if self.ledger.now() - since < REST:
                return reader, writer, True
            writer.close()
        return None

    async def by_stream(self, request, way):
        reader, writer, request.reused = self.take_kept(way) or (*await self.connection(way), False)
        keep = False
        try:
            more = ["Authorization: Bearer callers-own"] if self.dice.random() < 0.3 else []
            writer.write(request.head(more))
            sending = asyncio.ensure_future(self.send_body(writer, request.body))
            try:
                keep = await self.receive(request, reader) and way != "new"
                keep = keep and sending.done() and not sending.exception()
            finally:
                sending.cancel()
        finally:
            if keep:
                self.kept[way].append((reader, writer, self.ledger.now()))
            else:
                http1.abort(writer) if request.trouble else writer.close()

    @staticmethod
    async def send_body(writer, body):
        try:
            for start in range(0, len(body), 65536):
                writer.write(body[start:start + 65536])
                await writer.drain()
        except OSError:
            pass            # what the response is decides

    async def receive(self, request, reader):
        """Reads the response and judges its body; True where the connection may be used again."""
        head = await http1.read_head(reader)
        if head is None:
            raise http1.Broken("closed without a word")
        request.status = int(head.first.split(" ", 2)[1])
        request.fields = dict(head.fields)
        if self.ledger.canary.found_in("\n".join(value for _, value in head.fields).encode()):
            self.ledger.ours("secret in a response", f"{request}: in its fields")
        body = b""
        if request.method != "HEAD" and request.status not in (204, 304):
            body = await self.read(request, reader, head)
        self.understand(request, body)
        return "close" not in head.get("connection", "")

    async def read(self, request, reader, head):
        if request.wish != "big" or request.status != 200:
            return await http1.read_body(reader, head, True)
        crc, length = 0, 0
        async for piece in http1.pieces(reader, head):
            crc, length = zlib.crc32(piece, crc), length + len(piece)
        whole = upstreams.BLOCK * (request.argument // len(upstreams.BLOCK) + 1)
        if (length, crc) != (request.argument, zlib.crc32(whole[:request.argument])):
            self.ledger.ours("wrong body", f"{request}: {length} bytes of {request.argument}, or other ones")
        return b""

    def understand(self, request, body):
        if self.ledger.canary.found_in(body):
            self.ledger.ours("secret in a response", f"{request}: {body[:200]!r}")
        if "proxy-status" in request.fields:
            found = re.search(r'bearerd[^,]*details="(\w+)"', request.fields["proxy-status"])
            request.code = found[1] if found else request.fields["proxy-status"]
        elif request.status == 200 and request.wish in ("ok", "slow", "closing") and request.method != "HEAD":
            said = json.loads(body)
            expected = {"id": request.id, "crc": zlib.crc32(request.body), "length": len(request.body)}
            if said != expected:
                self.ledger.ours("wrong body", f"{request}: {said} and not {expected}")

    async def by_curl(self, request):
        """HTTP/2 without TLS; Python's library has no client for it."""
        self.open_curls += 1
        try:
            argv = [self.curl, "-sS", "-i", "--http2-prior-knowledge", "--max-time", str(PATIENCE),
                    "-H", f"X-Request-Id: {request.id}", f"http://localhost:{self.program.main}{request.path}"]
            argv += ["-I"] if request.method == "HEAD" else ["-X", request.method]
            argv += ["--data-binary", "@-"] if request.body else []
            child = await asyncio.create_subprocess_exec(
                *argv, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
            out, err = await child.communicate(request.body)
            if child.returncode != 0:
                raise http1.Broken(f"curl: {err.decode(errors='replace').strip()[:100]}")
            head, _, body = out.partition(b"\r\n\r\n")
            lines = head.decode("latin-1").split("\r\n")
            request.status = int(lines[0].split()[1])
            request.fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
            if request.wish == "big" and request.status == 200 and len(body) != request.argument:
                self.ledger.ours("wrong body", f"{request}: {len(body)} bytes of {request.argument}")
            self.understand(request, body)
        finally:
            self.open_curls -= 1

    async def probe(self):
        """The fields of a response of the steady route, on a connection of its own."""
        request = Request(next(self.numbers), next(route for route in self.routes if route.name == "steady"), "GET", "ok", 0, b"")
        request.start = self.ledger.now()
        try:
            await asyncio.wait_for(self.by_stream(request, "new"), PATIENCE)
        finally:
            self.ledger.seen.pop(request.id, None)
        return request.fields

    def close(self):
        for kept in self.kept.values():
            while kept:
                kept.pop()[1].close()
