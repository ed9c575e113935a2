"""bearerd under soak: its config, its log, what it takes of the machine."""
import asyncio
import json
import os
import re
import signal
import subprocess
import threading
import time

import procs

from . import http1, issuers

RESPONSE_TIMEOUT = 4.0
IDLE_TIMEOUT = 3.0
REPLAY_LIMIT = 64 << 10

CONFIG = """\
workers = 2
shutdown_timeout = "10s"

[log]
format = "json"
level = "{level}"

[admin]
address = "127.0.0.1:{admin}"

[listener.main]
address = "127.0.0.1:{main}"

[listener.tls]
address = "127.0.0.1:{tls}"
tls = {{ certificate = {{ file = "server.pem" }}, private_key = {{ file = "server.key" }} }}

[listener.socket]
address = "unix:{dir}/proxy.sock"
"""
ISSUER = """
[issuer.{name}]
{where}
client_id = "soak-{name}"
client_auth = "{auth}"
client_secret = {{ file = "{secret}" }}
timeout = "{timeout:g}s"
"""
ROUTE = """
[[route]]
name = "{name}"
path_prefix = "/{name}"
upstream = "{upstream}/{name}"
response_timeout = "{response:g}s"
idle_timeout = "{idle:g}s"
{more}
"""


class Program:
    def __init__(self, tools, bed, ledger, issuer_list, routes, log_path):
        self.bed, self.ledger = bed, ledger
        self.main, self.tls, self.admin = (procs.free_port() for _ in range(3))
        self.issuers, self.routes = issuer_list, routes
        self.generation, self.level, self.extra = 0, "info", ""
        self.config_path = os.path.join(bed.dir, "bearerd.toml")
        self.write_config(self.config())
        self.log = Log(ledger, log_path)
        self.process = subprocess.Popen(
            [tools["bearerd"], "run", "--config", self.config_path], cwd=bed.dir, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=self.log.write_end)
        self.log.start()
        self.pid = self.process.pid
        self.vitals = []                # (seconds, RSS in KiB, descriptors, threads)

    def config(self):
        text = CONFIG.format(level=self.level, admin=self.admin, main=self.main, tls=self.tls, dir=self.bed.dir)
        for issuer in self.issuers:
            where = f'issuer_url = "{issuer.url}"' if issuer.discovery else f'token_url = "{issuer.url}/token"'
            auth = "client_secret_post" if issuer.discovery else "client_secret_basic"
            text += ISSUER.format(name=issuer.name, where=where, auth=auth, secret=issuer.secret_file, timeout=issuers.TIMEOUT)
        for route in self.routes:
            text += ROUTE.format(name=route.name, upstream=route.upstream, response=RESPONSE_TIMEOUT, idle=IDLE_TIMEOUT,
                                 more=route.more)
            if route.name == "steady":
                text += f'response_headers = {{ set = {{ x-generation = "{self.generation}" }} }}\n'
        return text + self.extra

    def write_config(self, text):
        with open(self.config_path + ".new", "w") as file:
            file.write(text)
        os.rename(self.config_path + ".new", self.config_path)

    def signal(self, number):
        os.kill(self.pid, number)

    def alive(self):
        return self.process.poll() is None

    async def admin_get(self, path, patience=10):
        return await asyncio.wait_for(self._admin_get(path), patience)

    async def _admin_get(self, path):
        reader, writer = await asyncio.open_connection("127.0.0.1", self.admin, limit=http1.LIMIT)
        try:
            writer.write(http1.message(f"GET {path} HTTP/1.1", [f"Host: localhost:{self.admin}", "Connection: close"]))
            head = await http1.read_head(reader)
            if head is None:
                raise OSError("the admin address closed the connection")
            return int(head.first.split()[1]), await http1.read_body(reader, head, True)
        finally:
            writer.close()

    async def look(self):
        """RSS, descriptors and threads now; and what the admin address shows must hold no secret."""
        for path in ("/metrics", "/status", "/", "/readyz"):
            _, body = await self.admin_get(path)
            if self.ledger.canary.found_in(body):
                self.ledger.ours("secret in the open", f"the admin address shows one at {path}")
            if path == "/metrics":
                at = lambda name: int(float(re.search(rf"^{name} (\S+)", body.decode(), re.M)[1]))
                resident, files = at("process_resident_memory_bytes"), at("process_open_fds")
        with open(f"/proc/{self.pid}/status") as file:
            threads = int(re.search(r"^Threads:\s+(\d+)", file.read(), re.M)[1])
        self.vitals.append((self.ledger.now() - self.ledger.begun, resident // 1024, files, threads))
        return self.vitals[-1]

    async def watch(self):
        while True:
            await asyncio.sleep(2)
            if not self.alive():
                self.ledger.ours("ended", f"bearerd ended with {self.process.returncode}")
                return
            try:
                await self.look()
            except (OSError, asyncio.TimeoutError, http1.Broken) as error:
                if self.ledger.now() > self.ledger.frozen_until + 1 and not self.ledger.busy():
                    self.ledger.ours("admin address", f"did not respond: {error!r}")

    async def until_ready(self):
        until = time.monotonic() + 15
        while time.monotonic() < until and self.alive():
            try:
                if (await self.admin_get("/readyz"))[0] == 200:
                    return
            except OSError:
                pass
            await asyncio.sleep(0.05)
        raise procs.Failed(f"bearerd does not get ready: {self.log.last_words()}")

    async def end(self):
        """SIGTERM must end it, with exit code 0."""
        if not self.alive():
            return
        self.signal(signal.SIGTERM)
        until = time.monotonic() + 20
        while self.alive() and time.monotonic() < until:
            await asyncio.sleep(0.05)
        if self.alive():
            self.ledger.ours("SIGTERM", "bearerd did not end within 20 s")
            self.process.kill()
        elif self.process.returncode != 0:
            self.ledger.ours("SIGTERM", f"bearerd ended with {self.process.returncode}")

    def kill(self):
        if self.alive():
            self.signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()


class Log(threading.Thread):
    """Reads bearerd's log, looks for secrets in it, and stops reading when a fault asks for it."""

    def __init__(self, ledger, path):
        super().__init__(daemon=True)
        self.ledger, self.loop = ledger, asyncio.get_running_loop()
        self.read_end, self.write_end = os.pipe()
        self.going = threading.Event()
        self.going.set()
        self.file = open(path, "wb")
        self.lines = self.bytes = 0
        self.tail = b""

    def run(self):
        os.close(self.write_end)
        with open(self.read_end, "rb") as pipe:
            while True:
                self.going.wait()
                line = pipe.readline()
                if not line:
                    return
                self.take(line)

    def take(self, line):
        self.lines, self.bytes, self.tail = self.lines + 1, self.bytes + len(line), line
        if self.bytes < 1 << 30:
            self.file.write(line)
        if self.ledger.canary.found_in(line):
            self.say("secret in the log", line.decode(errors="replace")[:300])
        if b"panicked" in line:
            self.say("panic", line.decode(errors="replace")[:300])
        else:
            try:
                json.loads(line)
            except ValueError:
                self.say("log line that is no JSON", line.decode(errors="replace")[:300])

    def say(self, kind, text):
        self.loop.call_soon_threadsafe(self.ledger.ours, kind, text)

    def last_words(self):
        return self.tail.decode(errors="replace")[-400:]
