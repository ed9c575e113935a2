"""gRPC by grpcio (the C core), client and server: `serve` prints its port; `ask PORT` prints what came of each case."""
import concurrent.futures
import json
import sys
import threading

import grpc

SERVICE = "interop.Echo"
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


def metadata_of(context):
    return sorted((key, value if isinstance(value, str) else value.hex()) for key, value in context.invocation_metadata()
                  if key in ("x-a", "x-b-bin"))


def unary(request, context):
    context.send_initial_metadata((("x-initial", "one"), ("x-initial-bin", b"\x00\xff\x01")))
    context.set_trailing_metadata((("x-trailing", "two"), ("x-trailing-bin", bytes(range(256)))))
    return request[::-1] + json.dumps(metadata_of(context)).encode()


def who(request, context):
    return dict(context.invocation_metadata()).get("authorization", "").encode()


def fail(request, context):
    context.abort(list(grpc.StatusCode)[int(request)], "it is wrong: ü 100 % \n new line")


def count(request, context):
    for number in range(int(request)):
        yield str(number).encode()


def add(requests, context):
    return str(sum(len(request) for request in requests)).encode()


def both(requests, context):
    for request in requests:
        yield request.upper()


def fail_late(request, context):
    yield b"first"
    context.abort(grpc.StatusCode.DATA_LOSS, "after the first message")


def wait(request, context):
    gone = threading.Event()
    context.add_callback(gone.set)
    gone.wait(20)
    return b"late"


def serve():
    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary), "Who": grpc.unary_unary_rpc_method_handler(who),
        "Fail": grpc.unary_unary_rpc_method_handler(fail), "Wait": grpc.unary_unary_rpc_method_handler(wait),
        "Count": grpc.unary_stream_rpc_method_handler(count), "FailLate": grpc.unary_stream_rpc_method_handler(fail_late),
        "Add": grpc.stream_unary_rpc_method_handler(add), "Both": grpc.stream_stream_rpc_method_handler(both)}
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(64), options=OPTIONS)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    sys.stdin.read()        # until the test is over
    server.stop(None)


def outcome(ask):
    try:
        return ask()
    except grpc.RpcError as error:
        return [error.code().name, error.details()]


def cases(port):
    channel = grpc.insecure_channel(f"localhost:{port}", options=OPTIONS)
    path = lambda name: f"/{SERVICE}/{name}"
    text = lambda data: data.decode()
    limit = dict(timeout=30)

    def unary_case(size, **more):
        def ask():
            response, call = channel.unary_unary(path("Unary")).with_call(
                b"ab" * (size // 2), metadata=(("x-a", "1"), ("x-b-bin", b"\x00\xff")), **limit, **more)
            keys = lambda data: sorted((key, value if isinstance(value, str) else value.hex()) for key, value in data
                                       if key.startswith("x-initial") or key.startswith("x-trailing"))
            return [len(response), response[-80:].decode(), keys(call.initial_metadata()), keys(call.trailing_metadata())]
        return ask

    for size in (0, 1000, 100_000, 4_000_000):
        yield f"unary, {size} bytes", unary_case(size)
    yield "unary, gzip", unary_case(50_000, compression=grpc.Compression.Gzip)
    for number, status in enumerate(grpc.StatusCode):
        if status is not grpc.StatusCode.OK:
            yield f"status {status.name}", lambda number=number: text(channel.unary_unary(path("Fail"))(str(number).encode(), **limit))
    yield "no such method", lambda: text(channel.unary_unary(path("Nothing"))(b"", **limit))
    for messages in (0, 1, 1000):
        yield f"server streams {messages}", lambda messages=messages: [text(one) for one in channel.unary_stream(path("Count"))(
            str(messages).encode(), **limit)][-3:]
        yield f"client streams {messages}", lambda messages=messages: text(channel.stream_unary(path("Add"))(
            iter([b"x" * 100] * messages), **limit))
    yield "both stream, in turn", lambda: in_turn(channel.stream_stream(path("Both")))
    yield "failure after a message", lambda: [text(one) for one in channel.unary_stream(path("FailLate"))(b"", **limit)]
    yield "deadline", lambda: [channel.unary_unary(path("Wait"))(b"", timeout=0.5)]
    yield "cancelled", lambda: cancelled(channel.unary_unary(path("Wait")))
    yield "100 at a time", lambda: sorted({future.result().decode()[:3] for future in [
        channel.unary_unary(path("Unary")).future(b"cba", **limit) for _ in range(100)]})


def in_turn(call):
    """Each message is sent when the one before has come back."""
    back, said = threading.Semaphore(1), []

    def messages():
        for number in range(50):
            if not back.acquire(timeout=20):
                return
            yield f"m{number}".encode()

    for response in call(messages(), timeout=30):
        said.append(response.decode())
        back.release()
    return [len(said), said[-1]]


def cancelled(call):
    future = call.future(b"", timeout=30)
    future.cancel()
    return [future.cancelled()]


def ask(port):
    for name, case in cases(port):
        print(json.dumps([name, outcome(case)]), flush=True)
    who = grpc.insecure_channel(f"localhost:{port}").unary_unary(f"/{SERVICE}/Who")(b"", timeout=30)
    print(who.decode(), file=sys.stderr)


serve() if sys.argv[1] == "serve" else ask(sys.argv[2])
