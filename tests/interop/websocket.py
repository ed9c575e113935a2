"""WebSocket by the package websockets, client and server: `serve` prints its port; `ask PORT` prints what came of each case."""
import asyncio
import json
import sys
import zlib

import websockets
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve

authorization = ""


async def echo(connection):
    global authorization
    authorization = connection.request.headers.get("Authorization", "")
    async for message in connection:
        if message == "who":
            await connection.send(authorization)
        elif isinstance(message, str) and message.startswith("close "):
            code, _, reason = message[6:].partition(" ")
            await connection.close(int(code), reason)
        elif isinstance(message, str) and message.startswith("pieces "):
            await connection.send([message[i:i + 1000] for i in range(0, len(message), 1000)])
        elif message == "ping":
            await (await connection.ping(b"payload"))
            await connection.send("ponged")
        else:
            await connection.send(message)


def choose(connection, offered):
    return next((name for name in ("chat", "superchat") if name in offered), None)


async def run_server():
    async with serve(echo, "127.0.0.1", 0, select_subprotocol=choose, max_size=None) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)      # until the test is over
        server.close(close_connections=True)


def summary(message):
    data = message.encode() if isinstance(message, str) else message
    return [type(message).__name__, len(data), zlib.crc32(data)]


async def exchange(port, messages, **options):
    async with connect(f"ws://localhost:{port}/", max_size=None, proxy=None, **options) as connection:
        got = []
        for message in messages:
            await connection.send(message)
            got.append(summary(await asyncio.wait_for(connection.recv(), 30)))
        return [got[-3:], connection.subprotocol, [type(one).__name__ for one in connection.protocol.extensions]]


async def closed_by_client(port, code, reason):
    connection = await connect(f"ws://localhost:{port}/", proxy=None)
    await connection.close(code, reason)
    return [connection.close_code, connection.close_reason]


async def closed_by_server(port, code, reason):
    connection = await connect(f"ws://localhost:{port}/", proxy=None)
    await connection.send(f"close {code} {reason}")
    try:
        await asyncio.wait_for(connection.recv(), 30)
    except websockets.ConnectionClosed:
        pass
    return [connection.close_code, connection.close_reason]


async def pings(port):
    async with connect(f"ws://localhost:{port}/", proxy=None) as connection:
        await asyncio.wait_for(await connection.ping(b"of the client"), 30)
        await connection.send("ping")
        return summary(await asyncio.wait_for(connection.recv(), 30))


async def in_pieces(port, size):
    async with connect(f"ws://localhost:{port}/", max_size=None, proxy=None) as connection:
        await connection.send(["pieces "] + ["ü" * 999] * (size // 999))
        return summary(await asyncio.wait_for(connection.recv(), 30))


async def broken_off(port):
    connection = await connect(f"ws://localhost:{port}/", proxy=None)
    connection.transport.abort()
    await connection.wait_closed()
    return [connection.close_code]


def cases(port):
    for size in (0, 1, 125, 126, 127, 65535, 65536, 65537, 1 << 20):
        for kind, message in (("text", "t" * size), ("binary", b"\x00\xff"[:1] * size)):
            for name, compression in (("deflate", "deflate"), ("plain", None)):
                yield f"{kind} of {size} bytes, {name}", exchange(port, [message], compression=compression)
    yield "characters of all lengths", exchange(port, ["aä€😀" * 100])
    yield "1,000 messages", exchange(port, [f"message {number}" for number in range(1000)])
    yield "subprotocol", exchange(port, ["x"], subprotocols=["superchat", "chat"])
    yield "no common subprotocol", exchange(port, ["x"], subprotocols=["other"])
    for size in (10_000, 500_000):
        yield f"{size} bytes in pieces", in_pieces(port, size)
    yield "pings of either side", pings(port)
    for code, reason in ((1000, ""), (1000, "done"), (1001, "going"), (1003, ""), (1008, "ü" * 60), (1011, "x"), (3000, "a"), (4999, "z")):
        yield f"closed by the client with {code} {reason[:4]}", closed_by_client(port, code, reason)
        yield f"closed by the server with {code} {reason[:4]}", closed_by_server(port, code, reason)
    yield "broken off", broken_off(port)


async def ask(port):
    for name, case in cases(port):
        try:
            result = await asyncio.wait_for(case, 60)
        except (websockets.WebSocketException, asyncio.TimeoutError, OSError) as error:
            result = type(error).__name__
        print(json.dumps([name, result]), flush=True)
    async with connect(f"ws://localhost:{port}/", proxy=None) as connection:
        await connection.send("who")
        print(await connection.recv(), file=sys.stderr)


asyncio.run(run_server() if sys.argv[1] == "serve" else ask(int(sys.argv[2])))
