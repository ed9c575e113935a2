// Asks /status again and again, and shows what it says.

const EVERY = 2000;
const PATIENCE = 5000;
// When the last response came, by this page's clock, and what the time was there.
let heard = null;
let serverNow = 0;
let gone = false;

const elapsed = () => (heard === null ? 0 : (performance.now() - heard) / 1000);

const shown = {
  routes: table("routes", ["route", "serves", "upstream", "rate", "errors", "latency"]),
  tokens: table("tokens", ["issuer", "scopes", "time left", "fetched", "renewal"]),
  issuers: table("issuers", ["issuer", "state", "url", "preset", "grant", "client auth", "credential", "required"]),
  listeners: table("listeners", ["listener", "address", "callers", "connections"]),
  webhooks: table("webhooks", ["webhook", "address", "value", "received", "last refusal"]),
  warnings: table("warnings", ["where", "key", "what", "hint"]),
};

// Where not all can be shown, those with something to see.
function busiestFirst(routes) {
  if (routes.length <= MOST_ROWS) return routes;
  const weight = (route) => route.recent.errors * 1e9 + route.recent.requests;
  return [...routes].sort((a, b) => weight(b) - weight(a));
}

function show(status) {
  serverNow = Date.parse(status.now);
  const found = problems(status);
  sync(at("problems").querySelector("ul"), found, problemCard);
  const none = at("problems").querySelector(".none");
  none.hidden = found.length > 0;
  put(none, "None. Every route, token and the config are fine.");
  const bad = found.filter((problem) => problem.kind === "bad").length;
  state(status.draining ? "ending" : !status.ready ? "not ready" : status.degraded ? "degraded" : bad ? "ready, with problems" : "ready", status.ready && !bad ? "good" : "bad");
  document.title = (bad ? "(" + bad + ") " : "") + "bearerd";
  put(at("facts"), "version " + status.version + " · up " + duration(status.uptime_seconds) + " · config version " + status.config.version);

  const seconds = status.routes.length ? Math.round(status.routes[0].recent.seconds) : 60;
  heading("routes", "calls of the last " + seconds + " s");
  fill(shown.routes, busiestFirst(status.routes).map((route) => ({ key: route.name, now: status.now, ...route })), routeRow);
  const tokens = status.tokens.map((token) => ({ key: token.routes[0], ...token }));
  const kept = new Set(tokens.map((token) => token.key));
  for (const key of bars.keys()) if (!kept.has(key)) bars.delete(key);
  fill(shown.tokens, tokens, tokenRow);
  fill(shown.issuers, status.issuers.map((issuer) => issuerItem(issuer, status.tokens)), plainRow);
  configFacts(status);
  fill(shown.listeners, status.listeners.map((listener) => ({
    key: listener.name, cells: [listener.name, listener.address + (listener.tls ? " (TLS)" : ""), listener.callers, listener.connections],
  })), plainRow);
  at("webhooks").hidden = status.webhooks.length === 0;
  fill(shown.webhooks, status.webhooks.map(webhookItem), plainRow);
  at("warnings").hidden = status.config.warnings.length === 0;
  fill(shown.warnings, status.config.warnings.map((warning, index) => ({
    key: String(index), cells: [warning.file + ":" + warning.line + ":" + warning.column, warning.key, warning.message, warning.hint || "–"],
  })), plainRow);
}

function heading(id, words) {
  const title = at("h-" + id);
  if (!title.querySelector("small")) title.append(" ", node("small"));
  put(title.querySelector("small"), words);
}

function state(text, kind) {
  put(at("state"), SIGNS[kind] + " " + text);
  dress(at("state"), "pill " + kind);
}

// Once a second: ages and bars, between two responses.
function tick() {
  if (gone) {
    put(at("facts"), heard === null ? "" : "what is shown is " + duration(elapsed()) + " old");
  } else {
    for (const made of document.querySelectorAll("time")) {
      if (!made.dateTime) continue;
      const age = (serverNow - Date.parse(made.dateTime)) / 1000 + elapsed();
      put(made, age >= 0 ? duration(age) + " ago" : "in " + duration(-age));
    }
    bars.forEach(moveBar);
  }
}

function setGone(now, why) {
  gone = now;
  document.body.classList.toggle("stale", now);
  at("gone").hidden = !now;
  if (!now) return;
  put(at("gone"), "bearerd does not answer any more (" + why + "): below is what it said last. This page goes on asking.");
  state("no response", "bad");
}

async function refresh() {
  if (!document.hidden) {
    try {
      const answer = await fetch("/status", { cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
      if (!answer.ok) throw new Error("status " + answer.status);
      const status = await answer.json();
      heard = performance.now();
      setGone(false, "");
      show(status);
    } catch (failure) {
      setGone(true, failure instanceof TypeError ? "no connection" : failure.name === "TimeoutError" ? "no response in time" : failure.message);
    }
    tick();
  }
}

async function again() {
  await refresh();
  setTimeout(again, EVERY);
}

document.addEventListener("visibilitychange", refresh);
setInterval(tick, 1000);
again();
