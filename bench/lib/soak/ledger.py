"""What is true of this run: tokens, faults with their times, what upstreams saw. Verdicts are read from here."""
import asyncio
import base64
import collections
import random
import re
import string


# Seconds. Where a busy machine holds this program up for longer, requests of that time are not judged.
TOO_LATE = 1.0


class Canary:
    """Each secret and each token has the same marker in its middle. Where a form of it is found, something leaked."""

    def __init__(self, seed):
        dice = random.Random(f"canary {seed}")
        letters = string.ascii_letters + string.digits
        self.secret_marker, self.token_marker = ("".join(dice.choices(letters, k=18)) for _ in range(2))
        self.dice, self.letters = dice, letters
        forms = set()
        for marker in (self.secret_marker, self.token_marker):
            for text in (marker[:9], marker[9:]):
                forms |= {text, text.lower(), text.encode().hex(), text.encode().hex().upper(),
                          "".join(f"%{byte:02X}" for byte in text.encode())}
            for offset in range(3):
                encoded = base64.b64encode(b"." * offset + marker.encode()).decode()
                forms.add(encoded[4:20])        # neither the first group nor the last: those depend on what is beside
        self.pattern = re.compile("|".join(map(re.escape, sorted(forms))).encode())

    def _around(self, marker):
        return "".join(self.dice.choices(self.letters, k=7)) + marker + "".join(self.dice.choices(self.letters, k=7))

    def secret(self):
        return self._around(self.secret_marker)

    def token(self):
        return self._around(self.token_marker)

    def found_in(self, data):
        return self.pattern.search(data) is not None


class Token:
    def __init__(self, text, slot, asked, life):
        self.text, self.slot, self.asked, self.life = text, slot, asked, life
        self.delivered = None
        self.revoked = None

    @property
    def ends(self):
        return self.asked + self.life

    @property
    def usable_until(self):
        return self.ends - min(5.0, 0.05 * self.life)


class Trouble:
    """A fault, from when to when, and for how long after it its traces are right."""

    def __init__(self, kind, codes, start, grace):
        self.kind, self.codes, self.start, self.grace = kind, codes, start, grace
        self.end = None
        self.last_failure = None

    def covers(self, start, end):
        return self.start <= end and (self.end is None or start <= self.end + self.grace)


class Attempt:
    """One request as an upstream saw it."""

    def __init__(self, at, reused):
        self.at, self.reused = at, reused
        self.fate = "under way"         # or: answered, refused (401), reset, cut, stalled, aborted
        self.responded = False


class Ledger:
    def __init__(self, canary, slack):
        self.canary, self.slack = canary, slack
        self.tokens = {}
        self.latest = {}                                # by slot
        self.seen = collections.defaultdict(list)       # attempts by request id
        self.troubles = collections.defaultdict(list)   # by issuer or upstream
        self.findings = []                              # what is ours
        self.finding_kinds = collections.Counter()
        self.faults = collections.Counter()
        self.frozen_from = self.frozen_until = 0.0
        self.lags = collections.deque(maxlen=200)
        self.worst_lag = self.time_lost = 0.0
        self.late_at = []
        self.begun = self.now()

    @staticmethod
    def now():
        return asyncio.get_running_loop().time()

    def busy(self, since=None):
        """Whether this program itself was late, since a moment or just now: then it cannot judge what took how long."""
        if self.lag() > TOO_LATE:
            return True
        return since is not None and any(at > since for at in self.late_at)

    def ours(self, kind, text):
        self.finding_kinds[kind] += 1
        if self.finding_kinds[kind] <= 20:
            self.findings.append(f"{self.now() - self.begun:8.2f} s  {kind}: {text}")

    def issue(self, slot, asked, life):
        token = Token(self.canary.token(), slot, asked, life)
        self.tokens[token.text] = token
        return token

    def deliver(self, token):
        token.delivered = self.now()
        self.latest[token.slot] = token

    def has_token(self, slot, start, end):
        """Whether bearerd surely held a token for all of this time that no upstream refuses. Its lifetime counts from
        when bearerd asked, which is before the issuer heard of it."""
        token, unsure = self.latest.get(slot), 0.5 + self.lag()
        return (token is not None and token.revoked is None and token.delivered + unsure < start
                and token.usable_until > end + unsure)

    def begin(self, where, kind, codes, grace):
        trouble = Trouble(kind, codes, self.now(), grace)
        self.troubles[where].append(trouble)
        return trouble

    def end(self, trouble):
        trouble.end = self.now()

    def covering(self, where, start, end):
        return [trouble for trouble in self.troubles[where] if trouble.covers(start, end)]

    def lag(self):
        """How late this program itself was in the last seconds: a busy machine must not look like a fault."""
        return max(self.lags, default=0.0)

    async def watch_lag(self):
        while True:
            before = self.now()
            await asyncio.sleep(0.05)
            late = self.now() - before - 0.05
            self.lags.append(late)
            self.worst_lag = max(self.worst_lag, late)
            if late > TOO_LATE:
                self.late_at.append(self.now())
                self.time_lost += late
