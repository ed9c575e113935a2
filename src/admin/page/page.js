// Asks /status again and again, and shows what it says.

const EVERY = 2000;
const PATIENCE = 5000;
// When the last response came, by this page's clock, and what the time was there.
let heard = null;
let serverNow = 0;
let gone = false;

const elapsed = () => (heard === null ? 0 : (performance.now() - heard) / 1000);

// An hour of each route, by its name; asked for less often than the rest.
const histories = new Map();
const HISTORY_EVERY = 15000;
let historyAt = -HISTORY_EVERY;
let last = null;

const shown = {
  routes: table("routes", ["route", "serves", "upstream", "requests", "errors", "latency"]),
  tokens: table("tokens", ["issuer", "scopes", "time left", "fetched", "renewal"]),
  issuers: table("issuers", ["issuer", "state", "url", "preset", "grant", "client auth", "credential", "required", "budget"]),
  listeners: table("listeners", ["listener", "address", "serves", "callers", "connections"]),
  webhooks: table("webhooks", ["webhook", "address", "value", "received", "last refusal"]),
  warnings: table("warnings", ["where", "key", "what", "hint"]),
};

const SEVERITY = { bad: 0, warn: 1, good: 2, idle: 2 };
const ORDERS = {
  trouble: (a, b) => SEVERITY[routeState(a)[0]] - SEVERITY[routeState(b)[0]],
  rate: (a, b) => b.recent.per_second - a.recent.per_second,
  errors: (a, b) => b.recent.errors - a.recent.errors,
  slow: (a, b) => (b.recent.p99_ms || 0) - (a.recent.p99_ms || 0),
  name: (a, b) => a.name.localeCompare(b.name),
};

// Where not all can be shown, those with something to see. Sorting is stable: among equals the config's order stays.
function chosen(routes) {
  const words = at("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const text = (route) => [route.name, matches(route.match), route.upstream, route.issuer || "anonymous"].join(" ").toLowerCase();
  const found = words.length ? routes.filter((route) => words.every((word) => text(route).includes(word))) : [...routes];
  put(at("matching"), words.length ? found.length + " of " + counted(routes.length, "route") + " match" : "");
  if (found.length > MOST_ROWS) found.sort((a, b) => b.recent.requests - a.recent.requests);
  return found.sort(ORDERS[at("sort").value]);
}

function showRoutes(status) {
  fill(shown.routes, chosen(status.routes.map((route) => ({ key: route.name, now: status.now, ...route }))), routeRow);
}

function tile() {
  const made = node("li", "tile");
  const [label, value, more] = [node("span", "label"), node("div", "value"), node("span", "sub")];
  made.append(label, value, more);
  made.update = (item) => {
    put(label, item.key);
    put(value, item.value);
    dress(value, item.kind ? "value " + item.kind : "value");
    put(more, item.more);
  };
  return made;
}

function tiles(status) {
  const sum = (of) => status.routes.reduce((all, route) => all + of(route), 0);
  const [requests, errors] = [sum((route) => route.recent.requests), sum((route) => route.recent.errors)];
  const slowest = status.routes.reduce((a, b) => ((b.recent.p99_ms || 0) > ((a && a.recent.p99_ms) || 0) ? b : a), null);
  const wanted = status.tokens.filter((token) => !token.on_demand || token.fetched_once);
  const valid = wanted.filter((token) => token.state === "valid").length;
  const failing = status.tokens.filter((token) => token.last_error).length;
  const open = status.listeners.reduce((all, listener) => all + listener.connections, 0);
  return [
    { key: "Requests", value: rate(sum((route) => route.recent.per_second)), more: counted(sum((route) => route.requests), "request") + " in all" },
    { key: "Errors", value: requests ? percent(errors / requests) : "–", kind: errors ? "bad" : "", more: errors ? errors + " of " + counted(requests, "request") : "none in the last minute" },
    { key: "Slowest p99", value: slowest ? milliseconds(slowest.recent.p99_ms) : "–", more: slowest ? "route " + slowest.name : "no requests in the last minute" },
    { key: "Valid tokens", value: valid + " of " + wanted.length, kind: failing ? "bad" : "", more: failing ? failing + " cannot be fetched" : "all can be renewed" },
    { key: "Connections", value: grouped(open), more: "from callers, at " + counted(status.listeners.length, "listener") },
  ];
}

function percent(share) {
  const value = 100 * share;
  return (value > 0 && value < 10 ? value.toFixed(1) : Math.round(value)) + " %";
}

function show(status) {
  serverNow = Date.parse(status.now);
  const found = problems(status);
  sync(at("problems").querySelector("ul"), found, problemCard);
  const none = at("problems").querySelector(".none");
  none.hidden = found.length > 0;
  put(none, "None. Every route, token and the config are fine.");
  const bad = found.filter((problem) => problem.kind === "bad").length;
  const words = status.draining ? "ending" : !status.ready ? "not ready" : status.degraded ? "degraded" : bad ? "ready, with problems" : "ready";
  state(words, status.ready && !bad ? "good" : "bad");
  put(at("health"), status.listeners.map((listener) => listener.address + (listener.tls ? " (TLS)" : "")).join(", "));
  sync(at("tiles"), tiles(status), tile);
  document.title = (bad ? "(" + bad + ") " : "") + "bearerd";
  put(at("facts"), "version " + status.version + " · up " + duration(status.uptime_seconds) + " · config version " + status.config.version);

  const seconds = status.routes.length ? Math.round(status.routes[0].recent.seconds) : 60;
  heading("routes", "numbers of the last " + seconds + " s, graphs of the last hour");
  showRoutes(status);
  const tokens = status.tokens.map((token) => ({ key: tokenKey(token), ...token }));
  const kept = new Set(tokens.map((token) => token.key));
  for (const key of bars.keys()) if (!kept.has(key)) bars.delete(key);
  fill(shown.tokens, tokens, tokenRow);
  fill(shown.issuers, status.issuers.map((issuer) => issuerItem(issuer, status.tokens)), plainRow);
  configFacts(status);
  fill(shown.listeners, status.listeners.map((listener) => ({
    key: listener.name, cells: [listener.name, listener.address + (listener.tls ? " (TLS)" : ""), served(listener), listener.callers, listener.connections],
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
  put(at("gone"), "bearerd does not respond any more (" + why + "): the last known state is below. This page keeps trying.");
  state("no response", "bad");
}

async function refresh() {
  if (!document.hidden) {
    try {
      const history = performance.now() - historyAt >= HISTORY_EVERY;
      const response = await fetch(history ? "/status?history" : "/status", { cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
      if (!response.ok) throw new Error("status " + response.status);
      const status = await response.json();
      heard = performance.now();
      if (history) {
        historyAt = heard;
        histories.clear();
        for (const route of status.routes) if (route.history) histories.set(route.name, route.history);
      }
      setGone(false, "");
      last = status;
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

at("filter").addEventListener("input", () => last && showRoutes(last));
at("sort").addEventListener("change", () => last && showRoutes(last));
// As on many such pages: a slash goes to the filter, Escape empties it.
document.addEventListener("keydown", (event) => {
  const filter = at("filter");
  if (event.key === "/" && !["INPUT", "SELECT"].includes(document.activeElement.tagName)) {
    event.preventDefault();
    filter.focus();
  } else if (event.key === "Escape" && document.activeElement === filter) {
    filter.value = "";
    if (last) showRoutes(last);
  }
});
document.addEventListener("visibilitychange", refresh);
setInterval(tick, 1000);
again();
