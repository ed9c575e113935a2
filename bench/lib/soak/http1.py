"""As much of HTTP/1.1 as issuers, upstreams and callers need, over asyncio's streams."""
import asyncio
import socket
import struct

LIMIT = 1 << 20


class Broken(Exception):
    """A message that did not come whole; the text says how."""


class Head:
    def __init__(self, first, fields):
        self.first = first
        self.fields = fields

    def get(self, name, default=None):
        return next((value for known, value in self.fields if known == name), default)

    def all(self, name):
        return [value for known, value in self.fields if known == name]


async def read_head(reader):
    """The next head, or None where the connection ended before its first byte."""
    try:
        raw = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise Broken("the head broke off") from None
        return None
    except asyncio.LimitOverrunError:
        raise Broken("the head is too long") from None
    lines = raw[:-4].decode("latin-1").split("\r\n")
    fields = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines[1:])]
    return Head(lines[0], fields)


async def pieces(reader, head, until_close=False):
    """The body as it comes."""
    if "chunked" in head.get("transfer-encoding", ""):
        while True:
            try:
                size = int((await reader.readuntil(b"\r\n")).split(b";")[0], 16)
                piece = await reader.readexactly(size + 2)
            except (asyncio.IncompleteReadError, ValueError):
                raise Broken("a chunk broke off") from None
            if not size:
                return
            yield piece[:-2]
    left = head.get("content-length")
    if left is None:
        while until_close:
            piece = await reader.read(65536)
            if not piece:
                return
            yield piece
        return
    left = int(left)
    while left:
        piece = await reader.read(min(left, 65536))
        if not piece:
            raise Broken(f"{left} bytes are missing")
        left -= len(piece)
        yield piece


async def read_body(reader, head, until_close=False):
    return b"".join([piece async for piece in pieces(reader, head, until_close)])


def message(first, fields, body=b""):
    return "\r\n".join([first, *fields, "", ""]).encode("latin-1") + body


def response(status, body=b"", fields=(), kind="text/plain"):
    return message(f"HTTP/1.1 {status} -", [f"Content-Length: {len(body)}", f"Content-Type: {kind}", *fields], body)


def abort(writer):
    """Reset, not closed: so that the other side sees an error, not an end."""
    sock = writer.get_extra_info("socket")
    if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except OSError:
            pass
    writer.transport.abort()


class Port:
    """A port of 127.0.0.1 that stays ours while nobody listens there: a second socket is bound to it, and never
    listens. A connection is refused meanwhile."""

    def __init__(self):
        self.keeper = self.bound(0)
        self.number = self.keeper.getsockname()[1]

    @staticmethod
    def bound(port):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(("127.0.0.1", port))
        return sock

    async def serve(self, handler):
        return await asyncio.start_server(handler, sock=self.bound(self.number), limit=LIMIT, backlog=1024)


class Served:
    """A server whose port stays its own while it is away."""

    def __init__(self):
        self.port = Port()
        self.server = None

    async def open(self):
        if self.server is None:
            self.server = await self.port.serve(self.connection)

    def shut(self):
        if self.server is not None:
            self.server.close()
            self.server = None
