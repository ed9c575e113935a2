"""What stands around a proxy: a temporary folder, certificates, an upstream and an issuer."""
import base64
import hashlib
import os
import shutil
import subprocess
import tempfile
import time

import procs
import template
import wire

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PEERS = os.path.join(HERE, "peers")
ANSWER = "a" * 256
POSTED = b"p" * 16384
BIG = 1 << 20


def make_token():
    """A text of the size and the alphabet of a signed JWT (about 900 bytes); the same in each run."""
    noise = b"".join(hashlib.sha256(f"bearerd bench {i}".encode()).digest() for i in range(20))
    part = lambda data: base64.urlsafe_b64encode(data).decode().rstrip("=")
    return ".".join([part(b'{"alg":"RS256","typ":"at+jwt","kid":"2026-01"}'), part(noise[:360]), part(noise[360:616])])


TOKEN = make_token()


def certificates(tools, folder):
    """A CA, ca.pem, and server.pem with server.key for localhost."""
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    with open(os.path.join(folder, "names"), "w") as file:
        file.write("subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=CA:FALSE\nextendedKeyUsage=serverAuth\n")
    for args in (
        ["req", "-x509", *key, "-days", "30", "-subj", "/CN=bearerd bench", "-keyout", "ca.key", "-out", "ca.pem"],
        ["req", *key, "-subj", "/CN=localhost", "-keyout", "server.key", "-out", "server.csr"],
        ["x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "30",
         "-extfile", "names", "-out", "server.pem"],
    ):
        done = subprocess.run([tools["openssl"], *args], cwd=folder, capture_output=True, text=True)
        if done.returncode != 0:
            raise procs.Failed(f"openssl: {done.stderr[-300:]}")


class Bed:
    def __init__(self, tools):
        self.tools = tools
        self.dir = tempfile.mkdtemp(prefix="bearerd-bench.")
        os.chmod(self.dir, 0o755)
        self.ca = os.path.join(self.dir, "ca.pem")
        self.plain_port, self.tls_port, self.h2_port, self.issuer_port = (procs.free_port() for _ in range(4))
        try:
            certificates(self.tools, self.dir)
            self.big = self.write("big", os.urandom(BIG))
            self.posted = self.write("posted", POSTED)
            self.upstream = self.start()
        except BaseException:
            self.close()
            raise

    def write(self, name, data):
        path = os.path.join(self.dir, name)
        with open(path, "wb") as file:
            file.write(data)
        return path

    def folder(self, name):
        path = tempfile.mkdtemp(prefix=f"{name}.", dir=self.dir)
        os.chmod(path, 0o755)
        return path

    def start(self):
        with open(os.path.join(PEERS, "upstream.conf")) as file:
            text = template.render(file.read(), root_flag(), {
                "dir": self.dir, "token": TOKEN, "answer": ANSWER, "plain_port": self.plain_port,
                "tls_port": self.tls_port, "h2_port": self.h2_port, "issuer_port": self.issuer_port})
        config = self.write("upstream.conf", text.encode())
        child = procs.Child([self.tools["nginx"], "-c", config, "-p", self.dir, "-e", "stderr"],
                            log=os.path.join(self.dir, "upstream.log"))
        authorization = [f"Authorization: Bearer {TOKEN}"]
        until = time.monotonic() + 10
        while time.monotonic() < until and child.alive():
            try:
                if wire.get(self.plain_port, headers=authorization)[0] == 200 and wire.get(self.plain_port)[0] == 401:
                    return child
            except OSError:
                time.sleep(0.01)
        raise procs.Failed(f"the upstream does not answer: {child.last_words()}")

    def close(self):
        procs.Child.stop_all()
        shutil.rmtree(self.dir, ignore_errors=True)


def root_flag():
    return {"root"} if os.geteuid() == 0 else set()
