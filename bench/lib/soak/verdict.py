"""Why a request did not get 2xx: which fault makes that response right, or that it is ours."""
from . import callers, program

TOKEN_CODES = {"token_unavailable", "token_refused", "token_timeout"}
BODIES = {"half", "cut", "stallbody"}       # wishes whose response begins well and breaks off


class Judge:
    def __init__(self, ledger):
        self.ledger = ledger

    def verdict(self, request):
        """None where all is well, else ("explained", "not judged" or "ours", why)."""
        attempts = self.ledger.seen.get(request.id, [])
        self.look_at_repeats(request, attempts)
        if request.trouble is None and request.status is not None and self.wished(request):
            return None
        why = self.explain(request, attempts)
        if why:
            return "explained", why
        if self.ledger.busy(request.start):
            return "not judged", "the machine was too busy"
        return "ours", "no fault explains it"

    @staticmethod
    def wished(request):
        if request.code is not None:
            return False
        if request.wish == "status":
            return request.status == request.argument
        return 200 <= request.status < 300 and (request.wish not in BODIES or request.method == "HEAD")

    def look_at_repeats(self, request, attempts):
        """What was not refused is not sent twice, unless it is safe to."""
        processed = [attempt for attempt in attempts if attempt.fate != "refused"]
        most = 2 if request.method in callers.IDEMPOTENT else 1
        if len(processed) > most and not request.route.behind_nginx:
            self.ledger.ours("repeated", f"{request}: the upstream got it {len(processed)} times")
        if sum(attempt.fate == "refused" for attempt in attempts) > 2:
            self.ledger.ours("repeated", f"{request}: refused by the upstream {len(attempts)} times")

    def explain(self, request, attempts):
        if request.code in TOKEN_CODES:
            return self.token_failure(request)
        if request.code == "upstream_timeout":
            return self.timeout(request, attempts)
        if request.code == "upstream_unreachable":
            return self.upstream_down(request)
        if request.code == "upstream_invalid":
            return self.broken_response(request, attempts)
        if request.code is not None:
            return None
        if request.trouble:
            return self.broken_body(request, attempts)
        if request.status == 401:
            return self.refused(request, attempts)
        if request.wish == "early" and request.status == 413:
            return "early response, as asked for"
        if request.route.behind_nginx and request.status in (502, 504) and self.troubles_of_upstream(request):
            return "nginx's own error while it restarts"
        return None

    def token_failure(self, request):
        issuer, slot = request.route.issuer, request.route.slot
        if issuer is None:
            return None
        if self.ledger.has_token(slot, request.start, request.end):
            return None                     # a valid token was there
        slack = self.ledger.slack + self.ledger.lag()
        right = [trouble for trouble in self.ledger.covering(issuer, request.start - slack, request.end)
                 if request.code in trouble.codes]
        if not right:
            return None
        if all(trouble.end is not None and trouble.end < request.start for trouble in right):
            last = max(right, key=lambda trouble: trouble.end)
            last.last_failure = max(last.last_failure or 0, request.start - last.end)
        return f"issuer: {right[-1].kind}"

    def timeout(self, request, attempts):
        if any(attempt.fate == "stalled" for attempt in attempts):
            return "stalled response, as asked for"
        return None

    def troubles_of_upstream(self, request):
        slack = 0.3 + self.ledger.lag()
        return self.ledger.covering(request.route.upstream_name, request.start - slack, request.end)

    def upstream_down(self, request):
        kinds = [trouble.kind for trouble in self.troubles_of_upstream(request)
                 if trouble.kind in ("upstream restart", "nginx restart")]
        return f"{kinds[-1]}: nobody listens" if kinds else None

    def broken_response(self, request, attempts):
        fates = [attempt.fate for attempt in attempts]
        if request.route.behind_nginx:
            kinds = [trouble.kind for trouble in self.troubles_of_upstream(request)]
            if "nginx restart" in kinds:
                return "nginx restart: connections reset"
            if kinds and request.method not in callers.IDEMPOTENT:
                return f"{kinds[-1]}: not idempotent, perhaps written"
            return None
        if "cut" in fates and request.wish == "garbage":
            return "no HTTP, as asked for"
        lost = [attempt for attempt in attempts if attempt.fate in ("reset", "aborted") and not attempt.responded]
        if lost:
            once_more = (request.method in callers.IDEMPOTENT and len(attempts) == 1 and lost[0].reused
                         and len(request.body) <= program.REPLAY_LIMIT)
            if once_more and not self.troubles_of_upstream(request):
                return None                 # its pooled connection died, and it may be repeated
            return "reset before the response" + ("" if request.method in callers.IDEMPOTENT else ", not idempotent")
        if any(at >= attempt.at for attempt in attempts for at in request.route.resets()):
            return "reset right after the response, which was lost with it"
        if not attempts and request.method not in callers.IDEMPOTENT:
            since = request.start - self.ledger.slack / 4 - self.ledger.lag()
            if request.start <= self.ledger.frozen_until:       # what was closed meanwhile is seen with what came meanwhile
                since = min(since, self.ledger.frozen_from)
            if any(since <= at <= request.end for at in request.route.closings()):
                return "pooled connection closed at that moment, not idempotent, perhaps written"
        if not attempts and self.troubles_of_upstream(request):
            return "upstream restart: connections reset"
        return None

    def broken_body(self, request, attempts):
        if not request.trouble.startswith("broken off") or request.trouble.endswith("closed without a word"):
            return None
        if request.wish in BODIES and any(attempt.fate in ("cut", "aborted") for attempt in attempts):
            return "body that breaks off, as asked for"
        if any(attempt.fate == "aborted" and attempt.responded for attempt in attempts):
            return "upstream reset amid the body"
        if any(at >= attempt.at for attempt in attempts if attempt.responded for at in request.route.resets()):
            return "upstream reset right after the body, whose end was lost with it"
        if request.route.behind_nginx and any(t.kind == "nginx restart" for t in self.troubles_of_upstream(request)):
            return "nginx restart amid the body"
        return None

    def refused(self, request, attempts):
        """A 401 of the upstream that the caller got."""
        if not any(attempt.fate == "refused" for attempt in attempts):
            return None
        if len(request.body) > program.REPLAY_LIMIT:
            return "revoked token, and a body too large to be kept"
        issuer = request.route.issuer
        slack = self.ledger.slack + self.ledger.lag()
        kinds = [t.kind for t in self.ledger.covering(issuer, request.start - slack, request.end) if t.kind != "revoked"]
        return f"revoked token while the issuer is in trouble: {kinds[-1]}" if kinds else None
