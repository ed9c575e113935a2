"""Scripted issuers: HTTP/1.1, with or without discovery, and every way to fail that a fault asks for."""
import asyncio
import base64
import collections
import json
import os
import urllib.parse

from . import http1

TIMEOUT = 3.0       # `timeout` of each issuer in the config


class Issuer(http1.Served):
    def __init__(self, ledger, dice, name, life, folder, discovery=False):
        super().__init__()
        self.ledger, self.dice, self.name, self.life, self.discovery = ledger, dice, name, life, discovery
        self.url = f"http://127.0.0.1:{self.port.number}"
        self.secret_file = os.path.join(folder, f"secret-{name}")
        self.secrets = []                   # all that were ever whole in the file
        self.accepted = set()
        self.mode, self.detail = None, None
        self.requests = 0
        self.recent = collections.defaultdict(collections.deque)
        self.torn_until = 0.0               # a half-written value may have been sent honestly until then
        self.rotate()
        self.write(self.secrets[-1])

    def rotate(self, overlap=False):
        """Another secret is right from now on; the file is the caller's business."""
        secret = self.ledger.canary.secret()
        self.accepted = self.accepted | {secret} if overlap else {secret}
        self.secrets.append(secret)
        return secret

    def write(self, text):
        with open(self.secret_file + ".new", "w") as file:
            file.write(text)
        os.chmod(self.secret_file + ".new", 0o600)
        os.rename(self.secret_file + ".new", self.secret_file)

    async def connection(self, reader, writer):
        try:
            head = await http1.read_head(reader)
            if head is not None:
                asked = self.ledger.now()
                body = await http1.read_body(reader, head)
                await self.respond(head, body, asked, reader, writer)
        except (http1.Broken, OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def respond(self, head, body, asked, reader, writer):
        self.requests += 1
        mode, detail = self.mode, self.detail
        method, target, _ = head.first.split(" ", 2)
        if mode == "hang":
            await reader.read()             # until the client has had enough
            return
        if mode == "reset":
            return http1.abort(writer)
        if mode == "slow":
            await asyncio.sleep(detail)
        if mode == "status":
            status, fields = detail
            said = json.dumps({"error": "temporarily_unavailable", "error_description": self.echo(head, body)}).encode()
            return await send(writer, http1.response(status, said, fields, "application/json"))
        if mode == "garbage":
            return await send(writer, detail if detail.startswith(b"HTTP/") else http1.response(200, detail))
        if method == "GET" and self.discovery:
            document = {"issuer": self.url, "token_endpoint": f"{self.url}/token",
                        "token_endpoint_auth_methods_supported": ["client_secret_post"]}
            return await send(writer, http1.response(200, json.dumps(document).encode(), (), "application/json"))
        await self.grant(head, body, asked, writer)

    async def grant(self, head, body, asked, writer):
        form = dict(urllib.parse.parse_qsl(body.decode()))
        secret = self.secret_of(head, form)
        slot = (self.name, form.get("scope", ""))
        self.count(slot, asked)
        if secret not in self.secrets and asked > self.torn_until and not self.ledger.busy():
            self.ledger.ours("torn secret", f"issuer {self.name} got a secret that was never whole in its file")
        if secret not in self.accepted:
            said = json.dumps({"error": "invalid_client", "error_description": self.echo(head, body)}).encode()
            return await send(writer, http1.response(401, said, (), "application/json"))
        life = self.detail if self.mode == "short" else self.life
        token = self.ledger.issue(slot, asked, life)
        said = json.dumps({"access_token": token.text, "token_type": "Bearer", "expires_in": life}).encode()
        whole = http1.response(200, said, (), "application/json")
        if self.mode == "truncated":
            return await send(writer, whole[:-self.detail])
        await send(writer, whole)
        self.ledger.deliver(token)

    def secret_of(self, head, form):
        basic = head.get("authorization", "")
        if basic.startswith("Basic "):
            return urllib.parse.unquote_plus(base64.b64decode(basic[6:]).decode().partition(":")[2])
        return form.get("client_secret", "")

    def count(self, slot, at):
        """No more than a few token requests a second for one token, whatever happens."""
        times = self.recent[slot]
        times.append(at)
        while times[0] < at - 1.0:
            times.popleft()
        if len(times) > 8 and not self.ledger.busy():
            self.ledger.ours("token request storm", f"issuer {self.name} got {len(times)} requests for {slot} in a second")

    def echo(self, head, body):
        """Issuers that show what they were sent, in one encoding or another."""
        form = dict(urllib.parse.parse_qsl(body.decode(errors="replace")))
        secret = self.secret_of(head, form)
        return self.dice.choice([
            f"client secret {secret} is wrong", f"got {base64.b64encode(secret.encode()).decode()}",
            f"got {secret.encode().hex()}", f"got {head.get('authorization')}", body.decode(errors="replace"),
            " ".join(secret), urllib.parse.quote(urllib.parse.quote(secret)), "try again later"])


async def send(writer, data):
    writer.write(data)
    await writer.drain()
