"""Redis's protocol, as much of it as bench/fleet needs."""
import asyncio


class Connection:
    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(cls, port):
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        self.writer.close()

    async def send(self, *words):
        parts = [f"*{len(words)}\r\n".encode()]
        for word in words:
            data = word if isinstance(word, bytes) else str(word).encode()
            parts.append(f"${len(data)}\r\n".encode() + data + b"\r\n")
        self.writer.write(b"".join(parts))
        return await self.message()

    async def message(self):
        """The next response, or what was published."""
        line = (await self.reader.readline()).rstrip(b"\r\n")
        kind, rest = line[:1], line[1:]
        if kind == b"-":
            raise RuntimeError(rest.decode())
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return None if rest == b"-1" else (await self.reader.readexactly(int(rest) + 2))[:-2]
        if kind == b"*":
            return [await self.message() for _ in range(int(rest))]
        return rest

    async def info(self, section):
        lines = (await self.send("INFO", section)).decode().splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)
