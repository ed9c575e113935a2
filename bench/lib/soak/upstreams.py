"""Scripted upstreams over HTTP/1.1. The path says what is wanted: /ROUTE/WISH/NUMBER; each request must carry the token of
its route."""
import asyncio
import collections
import json
import zlib

from . import http1
from .ledger import Attempt

BLOCK = bytes(range(256)) * 256


class Upstream(http1.Served):
    def __init__(self, ledger, dice, name, slots):
        super().__init__()
        self.ledger, self.dice, self.name, self.slots = ledger, dice, name, slots
        self.connections = {}           # writer: the attempt under way, or None
        self.delay = 0.0
        self.resets = collections.deque(maxlen=200)
        self.closings = collections.deque(maxlen=200)              # when idle connections were closed without a word

    def shut(self):
        super().shut()
        self.reset_all()

    def reset_all(self):
        self.resets.append(self.ledger.now())
        self.closings.append(self.ledger.now())
        for writer, attempt in list(self.connections.items()):
            if attempt is not None:
                attempt.fate = "aborted"
            http1.abort(writer)

    def close_idle(self):
        self.closings.append(self.ledger.now())
        for writer, attempt in list(self.connections.items()):
            if attempt is None:
                writer.close()

    async def connection(self, reader, writer):
        self.connections[writer] = None
        served = 0
        try:
            while True:
                head = await http1.read_head(reader)
                if head is None:
                    return
                attempt = self.connections[writer] = self.note(head, served > 0)
                if not await self.respond(head, attempt, reader, writer):
                    return
                served += 1
                self.connections[writer] = None
        except (http1.Broken, OSError, asyncio.IncompleteReadError):
            pass
        finally:
            del self.connections[writer]
            writer.close()

    def note(self, head, reused):
        attempt = Attempt(self.ledger.now(), reused)
        self.ledger.seen[head.get("x-request-id", "")].append(attempt)
        return attempt

    def authorized(self, head, route, at):
        """Whether the token is good; what must never come is noted."""
        slot, lines = self.slots[route], head.all("authorization")
        if slot is None:
            if lines:
                self.ledger.ours("credential on an anonymous route", route)
            return True
        token = self.ledger.tokens.get(lines[0][7:]) if len(lines) == 1 and lines[0].startswith("Bearer ") else None
        if token is None:
            self.ledger.ours("no token", f"route {route} got {len(lines)} Authorization lines and no token of ours")
            return False
        if token.slot != slot:
            self.ledger.ours("another issuer's token", f"route {route} got one of {token.slot}")
        late = at - token.ends - self.ledger.lag() - self.ledger.slack / 4
        if late > 0 and at > self.ledger.frozen_until + 1 and not self.ledger.busy():
            self.ledger.ours("expired token", f"{head.get('x-request-id')} {head.first} came with one that had ended "
                             f"{at - token.ends:.2f} s before (lifetime {token.life} s, asked for {at - token.asked:.2f} s before)")
        return token.revoked is None

    async def respond(self, head, attempt, reader, writer):
        """True where the connection may be used again."""
        method, target, _ = head.first.split(" ", 2)
        _, route, wish, number = target.split("?")[0].split("/")[:4]
        if wish == "early":
            return await self.early(head, route, attempt, writer, reader)
        crc, length = 0, 0
        async for piece in http1.pieces(reader, head):
            crc, length = zlib.crc32(piece, crc), length + len(piece)
        if not self.authorized(head, route, attempt.at):
            attempt.fate = "refused"
            return await self.send(writer, attempt, method, http1.response(
                401, b"no", ['WWW-Authenticate: Bearer error="invalid_token"']))
        if self.delay:
            await asyncio.sleep(self.delay)
        attempt.fate = "answered"
        if wish in ("reset", "stall", "garbage", "half", "cut", "stallbody"):
            return await self.misbehave(wish, attempt, reader, writer)
        if wish == "slow":
            await asyncio.sleep(int(number) / 1000)
        if wish == "big":
            return await self.big(method, int(number), attempt, writer)
        if wish == "trickle":
            return await self.trickle(attempt, writer)
        status = int(number) if wish == "status" else 200
        body = json.dumps({"id": head.get("x-request-id"), "crc": crc, "length": length}).encode()
        if status in (204, 304):
            attempt.responded = True
            await self.write(writer, http1.message(f"HTTP/1.1 {status} -", []))
            return True
        await self.send(writer, attempt, method, http1.response(status, body))
        if wish == "closing":           # without having said so: whoever takes this connection next finds it dead
            self.closings.append(self.ledger.now())
        return wish != "closing"

    async def send(self, writer, attempt, method, data):
        attempt.responded = attempt.fate != "aborted"
        if method == "HEAD":
            data = data.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
        await self.write(writer, data)
        return True

    @staticmethod
    async def write(writer, data):
        writer.write(data)
        await writer.drain()

    async def early(self, head, route, attempt, writer, reader):
        """A response to the head alone; the body is never read."""
        good = self.authorized(head, route, attempt.at)
        attempt.fate = "answered" if good else "refused"
        attempt.responded = True
        await self.write(writer, http1.response(413 if good else 401, b"too much", ["Connection: close"]))
        await asyncio.sleep(0.2)        # closed at once, the reset could overtake the response
        return False

    async def misbehave(self, wish, attempt, reader, writer):
        if wish == "reset":
            attempt.fate = "reset"
            http1.abort(writer)
            return False
        if wish == "stall":
            attempt.fate = "stalled"
            await reader.read(1)
            return False
        attempt.fate, attempt.responded = "cut", True
        if wish == "garbage":
            await self.write(writer, b"\x15\x03\x01\x00\x02\x02\x50 this is not HTTP\r\n\r\n")
            return False
        if wish == "cut":
            await self.write(writer, http1.message("HTTP/1.1 200 OK", ["Transfer-Encoding: chunked"], b"400\r\n" + BLOCK[:700]))
            return False
        await self.write(writer, http1.message("HTTP/1.1 200 OK", ["Content-Length: 2000"], BLOCK[:1000]))
        if wish == "stallbody":
            await reader.read(1)
        return False

    async def big(self, method, size, attempt, writer):
        attempt.responded = True
        await self.write(writer, http1.message("HTTP/1.1 200 OK", [f"Content-Length: {size}"]))
        if method != "HEAD":
            for start in range(0, size, len(BLOCK)):
                await self.write(writer, BLOCK[:size - start])
        return True

    async def trickle(self, attempt, writer):
        attempt.responded = True
        await self.write(writer, http1.message("HTTP/1.1 200 OK", ["Transfer-Encoding: chunked"]))
        for _ in range(20):
            await self.write(writer, b"8\r\ntrickle.\r\n")
            await asyncio.sleep(0.05)
        await self.write(writer, b"0\r\n\r\n")
        return True
