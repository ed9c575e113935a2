"""As much of an HTTP/1.1 client as the harness needs: no pool, no retry, no surprise."""
import re
import socket

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.I)


def connect(port, timeout=5.0):
    sock = socket.create_connection(("127.0.0.1", port), timeout)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def request(path="/", headers=(), method="GET", body=b""):
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines + ["", ""]).encode() + body


def answer(sock):
    """One answer with a Content-Length: its status and its body."""
    data = b""
    while True:
        head, end, body = data.partition(b"\r\n\r\n")
        if end:
            length = LENGTH.search(head)
            if not length or len(body) >= int(length[1]):
                return int(head.split(b" ", 2)[1]), body
        more = sock.recv(65536)
        if not more:
            raise OSError("closed before the end of the answer")
        data += more


def get(port, path="/", headers=(), timeout=5.0):
    with connect(port, timeout) as sock:
        sock.sendall(request(path, ("Connection: close", *headers)))
        return answer(sock)


def post(port, path, body, timeout=5.0):
    with connect(port, timeout) as sock:
        sock.sendall(request(path, ("Connection: close",), "POST", body))
        return answer(sock)
