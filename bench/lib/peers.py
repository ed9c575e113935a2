"""The proxies: how each is started for a scenario, and how we learn that it does its job."""
import dataclasses
import os
import shutil
import subprocess
import time

import procs
import template
import wire
from bed import PEERS, TOKEN, root_flag


@dataclasses.dataclass(frozen=True)
class Scenario:
    """What a proxy must be configured for; requests that share a scenario share one started proxy."""
    name: str
    flags: frozenset = frozenset()      # tls, h2up (with tls), h2in, log
    routes: int = 0

    def path(self):
        return f"/r{self.routes - 1}/x" if self.routes else "/"


PLAIN = Scenario("plain")
TLS = Scenario("tls", frozenset({"tls"}))
H2UP = Scenario("h2up", frozenset({"tls", "h2up"}))
H2IN = Scenario("h2in", frozenset({"h2in"}))
LOG = Scenario("log", frozenset({"log"}))
FEW = Scenario("routes-10", routes=10)
MANY = Scenario("routes-10000", routes=10_000)
SCENARIOS = [PLAIN, TLS, H2UP, H2IN, LOG, FEW, MANY]


class Peer:
    name = "?"
    files = {}              # template: name of the file made of it; the first one is the config
    cannot = frozenset()    # flags of a Scenario

    def command(self, exe, config, workers):
        raise NotImplementedError


class Bearerd(Peer):
    name = "bearerd"
    files = {"bearerd.toml": "bearerd.toml"}

    def command(self, exe, config, workers):
        return [exe, "run", "--config", config]


class Envoy(Peer):
    name = "envoy"
    files = {"envoy.yaml": "envoy.yaml"}

    def command(self, exe, config, workers):
        return [exe, "-c", config, "--concurrency", str(workers), "--disable-hot-restart", "-l", "error"]


class Haproxy(Peer):
    name = "haproxy"
    files = {"haproxy.cfg": "haproxy.cfg", "haproxy.map": "routes.map"}

    def command(self, exe, config, workers):
        return [exe, "-db", "-f", config]


class Nginx(Peer):
    name = "nginx"
    files = {"nginx.conf": "nginx.conf"}
    cannot = frozenset({"h2up"})

    def command(self, exe, config, workers):
        return [exe, "-c", config, "-p", os.path.dirname(config), "-e", "stderr"]


ALL = {peer.name: peer for peer in (Bearerd(), Envoy(), Haproxy(), Nginx())}


class Running:
    """A started proxy that has answered with the token."""

    def __init__(self, peer, bed, scenario, workers, under=()):
        self.peer, self.bed, self.scenario = peer, bed, scenario
        if peer.cannot & scenario.flags:
            raise procs.Failed("cannot")
        self.dir = bed.folder(f"{peer.name}-{scenario.name}")
        self.port = procs.free_port()
        self.requests = 0               # that it has answered, as far as its access log goes
        # bearerd and HAProxy write the access log to what they were given as stderr or stdout
        self.log_file = os.path.join(self.dir, "access.log" if "log" in scenario.flags else "output")
        own_file = "log" in scenario.flags and peer.name in ("nginx", "envoy")
        argv = [*under, *peer.command(bed.tools[peer.name], self.configure(workers), workers)]
        self.child = procs.Child(argv, cwd=self.dir, log=os.path.join(self.dir, "output") if own_file else self.log_file)
        try:
            self.start_ms = 1000 * self.wait(patience=60)
        except BaseException:
            self.stop()
            raise
        self.pid = self.child.pid

    def configure(self, workers):
        tls, h2up = "tls" in self.scenario.flags, "h2up" in self.scenario.flags
        up_port = self.bed.h2_port if h2up else self.bed.tls_port if tls else self.bed.plain_port
        flags = set(self.scenario.flags) | root_flag() | ({"routes"} if self.scenario.routes else set())
        values = {
            "dir": self.dir, "port": self.port, "workers": workers, "token": TOKEN, "ca": self.bed.ca,
            "issuer_port": self.bed.issuer_port, "up_port": up_port, "log_file": self.log_file,
            "scheme": "https" if tls else "http",
            "upstream": f"{'https' if tls else 'http'}://127.0.0.1:{up_port}",
        }
        secret = os.path.join(self.dir, "secret")
        with open(os.open(secret, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
            file.write("not-a-secret")
        for source, name in self.peer.files.items():
            with open(os.path.join(PEERS, source)) as file:
                text = template.render(file.read(), flags, values, self.scenario.routes)
            with open(os.open(os.path.join(self.dir, name), os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
                file.write(text)
        return os.path.join(self.dir, next(iter(self.peer.files.values())))

    def wait(self, patience):
        """Seconds from the start to the first answer that proves a token."""
        until = self.child.started + patience
        said = None
        while time.perf_counter() < until:
            if not self.child.alive():
                raise procs.Failed(f"{self.peer.name} ended at once: {self.child.last_words()}")
            try:
                said = self.one_request()
                if said == 200:
                    return time.perf_counter() - self.child.started
            except OSError:
                pass
            time.sleep(0.0005)
        raise procs.Failed(f"{self.peer.name} gave no 200 within {patience} s (last status: {said}) {self.child.last_words()}")

    def one_request(self):
        if "h2in" not in self.scenario.flags:
            return wire.get(self.port, self.scenario.path())[0]
        wire.connect(self.port).close()
        out = procs.run([self.bed.tools["h2load"], "-n1", "-c1", f"http://127.0.0.1:{self.port}{self.scenario.path()}"], 10)
        return 200 if "status codes: 1 2xx" in out else 0

    def cpu(self):
        return procs.cpu_clocks(self.pid)

    def stop(self):
        self.child.stop()

    def discard(self):
        """Stop and remove its files."""
        self.stop()
        shutil.rmtree(self.dir, ignore_errors=True)

    def log_lines(self):
        """Lines of the access log, which is complete once the proxy has ended."""
        with open(self.log_file, "rb") as file:
            return sum(1 for line in file if b"status" in line)


def binary_bytes(path):
    """What is on the disk, without shared libraries, and whether there are any."""
    size = os.path.getsize(os.path.realpath(path))
    done = subprocess.run(["ldd", path], capture_output=True, text=True)
    shared = [line.split()[0] for line in done.stdout.splitlines() if "=>" in line]
    return size, len(shared)
