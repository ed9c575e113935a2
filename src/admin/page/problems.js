// What somebody who was called must see first: {key, kind, what, why, remedy, code, at, foot}.

// So long does a failed request stay among the problems, in seconds.
const RECENT = 120;

function since(now, at) {
  return (Date.parse(now) - Date.parse(at)) / 1000;
}

// An error's sentence says what to do at its end: shown on a line of its own.
function parted(error) {
  const remedy = error.remedy || "";
  const from = remedy ? error.detail.lastIndexOf(remedy) : -1;
  if (from < 0) return { why: error.detail, remedy };
  return { why: error.detail.slice(0, from).replace(/[\s;:,]+$/, "") + error.detail.slice(from + remedy.length), remedy };
}

function tokenProblem(token) {
  const last = token.last_error;
  if (!last) return null;
  const holds = token.state === "valid";
  const what = holds
    ? "The token of issuer " + token.issuer + " cannot be renewed; the one that is there still serves " + users(token)
    : "There is no token of issuer " + token.issuer + ": requests on " + users(token) + " fail";
  const foot = [last.failures_in_a_row + (last.failures_in_a_row === 1 ? " failure" : " failures in a row")];
  if (last.trace) foot.push(last.trace);
  return {
    key: "token " + tokenKey(token), kind: holds ? "warn" : "bad", what, ...parted(last),
    code: last.code, at: last.at, next: last.next_try, foot: foot.join(" · "),
  };
}

// A route whose token is among the problems is named there.
function routeProblem(route, now, without) {
  const { errors, requests } = route.recent;
  const last = route.last_error;
  const fresh = last !== null && last.status >= 500 && since(now, last.at) < RECENT;
  if (errors === 0 && !fresh) return null;
  if (fresh && last.code.startsWith("token_") && without.has(route.name)) return null;
  const said = errors > 0 ? errors + " of " + counted(requests, "request") + " failed recently" : "a request failed";
  return {
    key: "route " + route.name, kind: errors * 2 >= requests ? "bad" : "warn", what: "Route " + route.name + ": " + said,
    why: fresh ? last.detail : "the upstream " + route.upstream + " responded with a 5xx itself; see its log",
    remedy: "", code: fresh ? last.code : null, at: fresh ? last.at : null, next: null,
    foot: fresh ? "request " + last.request_id : "",
    group: (fresh ? last.code : "5xx") + " " + origin(route.upstream), route: route.name, upstream: origin(route.upstream),
    together: "requests fail",
  };
}

function origin(upstream) {
  const found = /^\w+:\/\/[^/]+/.exec(upstream);
  return found ? found[0] : upstream;
}

// One upstream that is down is one problem, however many routes lead to it.
function joined(found) {
  const groups = new Map();
  for (const problem of found) {
    const key = problem.group || problem.key;
    groups.set(key, [...(groups.get(key) || []), problem]);
  }
  return [...groups.values()].map((group) => {
    const [first] = group;
    if (group.length === 1) return first;
    const newest = group.reduce((a, b) => (Date.parse(b.at || 0) > Date.parse(a.at || 0) ? b : a));
    return {
      ...newest, key: "group " + first.group, kind: group.some((problem) => problem.kind === "bad") ? "bad" : "warn",
      what: "Upstream " + first.upstream + ": " + first.together + " on " + group.length + " routes: " + names(group.map((problem) => problem.route)),
    };
  });
}

function isRefused(route, now) {
  return route.upstream_refusal !== null && since(now, route.upstream_refusal.at) <= RECENT;
}

function refusalProblem(route, now) {
  const refusal = route.upstream_refusal;
  if (!isRefused(route, now)) return null;
  return {
    key: "refusal " + route.name, kind: "bad", what: "Route " + route.name + ": its upstream refuses good tokens",
    why: refusal.detail, remedy: "", code: String(refusal.status), at: refusal.at, next: null, foot: "",
    group: "refusal " + route.issuer + " " + origin(route.upstream), route: route.name, upstream: origin(route.upstream),
    together: "good tokens are refused",
  };
}

function otherProblems(status) {
  const found = [];
  const plain = { remedy: "", code: null, at: null, next: null, foot: "" };
  const reload = status.config.last_reload;
  if (reload && !reload.ok) {
    found.push({
      ...plain, key: "reload", kind: "bad", at: reload.at, why: reload.error || "",
      what: "The last reload failed: version " + status.config.version + " of the config stays in use",
    });
  }
  if (status.draining) {
    found.push({ ...plain, key: "ending", kind: "warn", what: "The process is ending", why: "It was asked to; requests under way are served to their end." });
  }
  const store = status.store;
  if (store && store.failure) {
    found.push({
      ...plain, key: "store", kind: "warn", what: "The token store is unavailable: tokens are fetched without it", why: store.failure.detail,
      code: store.failure.kind, at: store.failure.since, foot: counted(store.failures, "failure") + " in all",
    });
  }
  for (const webhook of status.webhooks.filter((webhook) => webhook.problem)) {
    found.push({ ...plain, key: "webhook " + webhook.name, kind: "bad", what: "Webhook " + webhook.name, why: webhook.problem });
  }
  for (const { name, ca } of status.listeners.filter((listener) => listener.ca && listener.ca.bundle_problem)) {
    found.push({ ...plain, key: "bundle " + name, kind: "warn", what: "The CA bundle of listener " + name + " was not written", why: ca.bundle_problem });
  }
  for (const issuer of status.issuers.filter((issuer) => issuer.credential === "standby")) {
    found.push({
      ...plain, key: "standby " + issuer.name, kind: "warn", what: "Issuer " + issuer.name + " takes its standby credential alone",
      why: "The first one is refused: fix client_id or client_secret of issuer " + issuer.name + ".",
    });
  }
  return found;
}

function requestProblem(key, what, last, now) {
  if (!last || since(now, last.at) > RECENT) return null;
  return { key, kind: "warn", what, why: last.detail, remedy: "", code: last.code, at: last.at, next: null, foot: "request " + last.request_id };
}

// What is among the problems of its token already is not repeated.
function listenerProblem(listener, now) {
  const last = listener.last_error;
  if (last && last.code.startsWith("token_")) return null;
  return requestProblem("listener " + listener.name, "A program got no token from listener " + listener.name, last, now);
}

function problems(status) {
  // Of a chain, the leg that failed is the problem, and not the tokens that are requested with it.
  const failing = new Set(status.tokens.filter((token) => token.last_error).map((token) => token.issuer));
  const legs = status.tokens.filter((token) => !token.inner.some((name) => failing.has(name)));
  const tokens = legs.map(tokenProblem).filter(Boolean);
  const without = new Set(status.tokens.filter((token) => token.last_error).flatMap((token) => token.routes));
  const routes = status.routes.flatMap((route) => [refusalProblem(route, status.now), routeProblem(route, status.now, without)]);
  const unrouted = requestProblem("unrouted", "A request reached no route", status.unrouted.last_error, status.now);
  const listeners = status.listeners.map((listener) => listenerProblem(listener, status.now));
  const all = [...otherProblems(status), ...tokens, ...joined(routes.filter(Boolean)), unrouted, ...listeners].filter(Boolean);
  const unready = !status.ready && !status.draining && !all.some((problem) => problem.kind === "bad");
  if (unready) {
    all.push({
      key: "unready", kind: "warn", what: "Not ready yet", why: "A token or a value that requests need is still missing; /readyz says which.",
      remedy: "", code: null, at: null, next: null, foot: "",
    });
  }
  // Stable: among equals the order above stays.
  return all.sort((a, b) => (a.kind === "bad" ? 0 : 1) - (b.kind === "bad" ? 0 : 1));
}
