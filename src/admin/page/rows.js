// Tables and their rows. Each maker returns a function that writes an item into its nodes.

// --- tables: a body of rows for each item, so that a note can be below its row ---

function table(id, labels) {
  const made = node("table");
  made.setAttribute("role", "table");
  const head = made.createTHead();
  head.setAttribute("role", "rowgroup");
  const row = head.insertRow();
  row.setAttribute("role", "row");
  for (const label of labels) {
    const th = node("th", "", label);
    th.scope = "col";
    th.setAttribute("role", "columnheader");
    row.append(th);
  }
  const none = node("p", "none", "none");
  const more = node("p", "dim");
  at(id).append(made, none, more);
  return { made, none, more, labels };
}

function fill(shown, items, make) {
  shown.none.hidden = items.length > 0;
  shown.made.hidden = items.length === 0;
  sync(shown.made, items.slice(0, MOST_ROWS), (item) => body(shown.labels, item, make));
  put(shown.more, items.length > MOST_ROWS ? "and " + (items.length - MOST_ROWS) + " more; /status has all" : "");
}

function body(labels, item, make) {
  const made = node("tbody");
  made.setAttribute("role", "rowgroup");
  const row = made.insertRow();
  const note = made.insertRow();
  note.className = "note";
  row.setAttribute("role", "row");
  note.setAttribute("role", "row");
  const cells = labels.map((label, index) => {
    const td = row.insertCell();
    td.setAttribute("role", "cell");
    td.dataset.label = label;
    if (index === 0) td.className = "lead";
    const inner = node("div");
    td.append(inner);
    return inner;
  });
  const detail = note.insertCell();
  detail.setAttribute("role", "cell");
  detail.colSpan = labels.length;
  note.hidden = true;
  made.update = make(cells, { row: note, cell: detail }, item);
  return made;
}

function sub(parent, kind) {
  const made = node("span", kind === undefined ? "sub" : kind);
  parent.append(made);
  return made;
}

// The last error below a row: what, which code, when, what to do.
function noting(note) {
  const code = node("span", "code bad");
  const detail = node("span");
  const remedy = node("strong");
  const ago = time("");
  note.cell.append(code, " ", detail, " ", remedy, " ", node("span", "dim", "("), ago, node("span", "dim", ")"));
  ago.className = "dim";
  return (error) => {
    note.row.hidden = !error;
    if (!error) return;
    put(code, String(error.code || "error"));
    const parts = parted(error);
    put(detail, parts.why);
    put(remedy, parts.remedy);
    setTime(ago, error.at);
  };
}

// --- routes ---

function matches(match) {
  const parts = [];
  if (match.methods) parts.push(match.methods.join(", "));
  if (match.host) parts.push(match.host);
  parts.push(match.path !== null ? match.path + " (exactly)" : match.path_prefix);
  if (match.headers.length) parts.push("if " + match.headers.join(", "));
  if (match.listener) parts.push("on " + match.listener);
  return parts.join(" ");
}

function routeState(route) {
  const { requests, errors } = route.recent;
  if (isRefused(route, route.now)) return ["bad", "refused upstream"];
  if (errors > 0) return errors * 2 >= requests ? ["bad", "failing"] : ["warn", "some errors"];
  return requests > 0 ? ["good", "fine"] : ["idle", "no requests"];
}

function routeRow(cells, note) {
  const [lead, serves, to, traffic, errors, latency] = cells;
  const parts = { name: sub(lead, "name"), state: sub(lead, "mark") };
  parts.name.after(" ");
  const issuer = [node("span"), sub(to)];
  to.prepend(issuer[0]);
  const numbers = [traffic, errors, latency].map((cell) => [sub(cell, "number"), sub(cell)]);
  const graphs = [trafficGraph(traffic), latencyGraph(latency)];
  const tell = noting(note);
  return (route) => {
    const recent = route.recent;
    put(parts.name, route.name);
    mark(parts.state, ...routeState(route));
    put(serves, matches(route.match));
    put(issuer[0], route.upstream);
    put(issuer[1], route.issuer ? "token of " + route.issuer : "no token (anonymous)");
    put(numbers[0][0], rate(recent.per_second));
    put(numbers[0][1], counted(route.requests, "request") + " in all");
    put(numbers[1][0], String(recent.errors));
    dress(numbers[1][0], recent.errors > 0 ? "number bad" : "number");
    put(numbers[1][1], recent.errors > 0 ? Math.round((100 * recent.errors) / Math.max(1, recent.requests)) + " %" : "");
    put(numbers[2][0], milliseconds(recent.p50_ms));
    put(numbers[2][1], recent.p99_ms === null ? "" : "p99 " + milliseconds(recent.p99_ms));
    graphs.forEach((draw) => draw(histories.get(route.name)));
    tell(routeNote(route));
  };
}

// The newer of its errors; what is among the problems already is not repeated.
function routeNote(route) {
  const refusal = route.upstream_refusal && { ...route.upstream_refusal, code: route.upstream_refusal.status };
  const found = [route.last_error, refusal].filter(Boolean).sort((a, b) => Date.parse(b.at) - Date.parse(a.at));
  if (found.length === 0) return null;
  const shown = (found[0] === refusal || found[0].status >= 500) && since(route.now, found[0].at) < RECENT;
  return shown ? { ...found[0], detail: "see Problems" } : found[0];
}

// --- tokens ---

function tokenState(token) {
  if (token.fetching) return [token.state === "valid" ? "good" : "warn", token.state + ", being fetched"];
  if (token.state === "valid") return token.last_error ? ["warn", "valid, renewal fails"] : ["good", "valid"];
  if (token.last_error) return ["bad", token.state === "none" ? "no token" : "expired"];
  if (token.on_demand && token.state === "none") return ["idle", "not requested yet"];
  return token.state === "expired" ? ["idle", "expired, not in use"] : ["warn", "no token"];
}

function users(token) {
  return token.routes.length ? names(token.routes) : "token listeners";
}

function bar(parent) {
  const made = node("div", "bar");
  made.setAttribute("role", "meter");
  made.setAttribute("aria-label", "time left");
  made.setAttribute("aria-valuemin", "0");
  const inner = node("div", "fill");
  const renewal = node("div", "renewal");
  made.append(inner, renewal);
  const words = node("span", "number");
  parent.append(made, words);
  return { made, inner, renewal, words, end: null, of: null, life: 0, kind: "good" };
}

// The end by this page's clock. `seconds_left` is cut to whole seconds, so a later response only moves it where it says
// something else; the bar would go back and forth otherwise.
function setEnd(bar, token) {
  bar.life = token.age_seconds === null ? 0 : token.age_seconds + token.seconds_left;
  if (token.expires_at === null) {
    bar.end = null;
    bar.of = null;
    bar.renewal.hidden = true;
    return;
  }
  const end = heard / 1000 + token.seconds_left;
  const same = bar.of === token.expires_at && end > bar.end - 1.5 && end < bar.end + 1.5;
  if (!same) bar.end = end;
  bar.of = token.expires_at;
  // A whole life that is known to the second only must not make the bar jump either.
  bar.life = Math.max(1, (Date.parse(token.expires_at) - Date.parse(token.fetched_at)) / 1000);
  const renewal = token.renew_at === null ? null : (Date.parse(token.expires_at) - Date.parse(token.renew_at)) / 1000 / bar.life;
  bar.renewal.hidden = renewal === null || renewal <= 0 || renewal >= 1;
  if (!bar.renewal.hidden) bar.renewal.style.left = 100 * renewal + "%";
}

// It came a moment after it was asked for, and its life counts from there: an hour is not 59 minutes.
function whole(life) {
  return duration(life < 120 ? life : Math.round(life / 60) * 60);
}

function moveBar(bar) {
  if (gone) return;
  const left = bar.end === null ? 0 : Math.max(0, bar.end - performance.now() / 1000);
  const share = bar.life > 0 ? Math.min(1, left / bar.life) : 0;
  bar.inner.style.width = 100 * share + "%";
  dress(bar.inner, "fill " + (left === 0 ? "bad" : bar.kind));
  const words = bar.end === null ? "no token" : left === 0 ? "expired" : duration(left) + " left of " + whole(bar.life);
  put(bar.words, words);
  bar.made.setAttribute("aria-valuemax", String(Math.round(bar.life)));
  bar.made.setAttribute("aria-valuenow", String(Math.round(left)));
  bar.made.setAttribute("aria-valuetext", words);
}

const bars = new Map();

function tokenRow(cells, note, first) {
  const [lead, scopes, life, fetched, renewal] = cells;
  const parts = { name: sub(lead, "name"), state: sub(lead, "mark"), routes: sub(lead) };
  parts.name.after(" ");
  life.className = "life";
  const shown = bar(life);
  bars.set(first.key, shown);
  const ago = time("");
  const never = node("span", "dim", "never");
  fetched.append(ago, never);
  const [whose, generation] = [sub(fetched), sub(fetched)];
  const [granted, due, parameters] = [sub(scopes, ""), node("span"), sub(scopes)];
  const when = time("");
  renewal.append(due, when);
  const tell = noting(note);
  return (token) => {
    put(parts.name, token.issuer);
    mark(parts.state, ...tokenState(token));
    const needed = token.outer.length ? "issuer " + names(token.outer) + ", so for " : "";
    const made = token.inner.length ? ", with a token of " + names(token.inner) : "";
    put(parts.routes, "for " + needed + users(token) + made + (token.waiters ? "; " + counted(token.waiters, "request") + " waiting" : ""));
    put(granted, (token.granted_scope || token.scopes.join(" ")) || "no scopes");
    put(parameters, token.parameters.length ? "with " + token.parameters.join(", ") : "");
    ago.hidden = token.fetched_at === null;
    never.hidden = token.fetched_at !== null;
    setTime(ago, token.fetched_at || "");
    const shared = token.shared;
    put(whose, shared ? "by " + shared.by + (shared.own ? ", for all" : ", from the store") : "");
    put(generation, shared ? "generation " + shared.generation : "");
    const next = token.last_error && token.last_error.next_try;
    put(due, next ? "next try " : token.renew_at ? "when used, " : "–");
    when.hidden = !next && !token.renew_at;
    setTime(when, next || token.renew_at || "");
    shown.kind = token.last_error ? "warn" : "good";
    setEnd(shown, token);
    moveBar(shown);
    tell(token.last_error);
  };
}

// --- the rest ---

function plainRow(cells) {
  return (item) => item.cells.forEach((value, index) => {
    const [text, kind] = Array.isArray(value) ? value : [value, index === 0 ? "name" : ""];
    put(cells[index], String(text));
    dress(cells[index], kind);
  });
}

function issuerItem(issuer, tokens) {
  const own = tokens.filter((token) => token.issuer === issuer.name);
  const failing = own.filter((token) => token.last_error).length;
  const state = failing ? ["✗ " + failing + " of " + own.length + " tokens failing", "bad"] : own.length ? ["✓ fine", "good"] : ["· not in use", "idle"];
  return {
    key: issuer.name,
    cells: [issuer.name, state, issuer.url + (issuer.discovery ? " (discovery)" : ""), issuer.preset || "–", issuer.grant_type || "–",
      issuer.client_auth, issuer.credential === "standby" ? ["▲ standby", "warn"] : "current", issuer.required ? "yes" : "no", budgetCell(issuer.budget)],
  };
}

function budgetCell(budget) {
  if (!budget) return "–";
  const of = " of " + grouped(budget.requests) + " per " + duration(budget.per_seconds) + (budget.shared ? ", all replicas" : "");
  if (budget.next_request_at) return ["▲ 0" + of + "; next at " + budget.next_request_at, "warn"];
  return grouped(budget.remaining) + of;
}

function served(listener) {
  if (listener.serve === "token") return "tokens: " + counted(listener.token_requests, "request");
  if (listener.serve !== "forward") return "routes";
  const { served, tunneled, refused } = listener.connects;
  const counts = [counted(served + tunneled + refused, "CONNECT")];
  if (tunneled) counts.push(grouped(tunneled) + " tunneled unread");
  if (refused) counts.push(grouped(refused) + " refused");
  const until = listener.ca ? "; CA until " + listener.ca.not_after.slice(0, 10) : "; no CA";
  return "forward proxy: " + counts.join(", ") + until;
}

function webhookItem(webhook) {
  const refusal = webhook.last_refusal;
  const value = webhook.problem ? ["✗ " + webhook.problem, "bad"] : webhook.has_value ? ["✓ there", "good"] : ["▲ none yet", "warn"];
  return {
    key: webhook.name,
    cells: [webhook.name, webhook.address + webhook.path, value, webhook.received_at || "never", refusal ? refusal.at + ": " + refusal.detail : "–"],
  };
}

function problemCard() {
  const made = node("li", "card");
  const what = node("p", "what");
  const [sign, said] = [node("span", "mark"), node("span")];
  what.append(sign, said);
  const [why, remedy, foot] = [node("p"), node("p", "remedy"), node("p", "foot")];
  const [code, ago, words, next] = [node("span", "code"), time(""), node("span"), time("")];
  foot.append(code, " ", ago, " ", words, " ", next);
  made.append(what, why, remedy, foot);
  made.update = (problem) => {
    dress(made, "card " + problem.kind);
    mark(sign, problem.kind, problem.kind === "bad" ? "failing" : "look");
    put(said, problem.what);
    put(why, problem.why);
    put(remedy, problem.remedy ? "→ " + problem.remedy : "");
    code.hidden = !problem.code;
    put(code, problem.code || "");
    ago.hidden = !problem.at;
    setTime(ago, problem.at || "");
    put(words, [problem.at ? "" : null, problem.foot || null, problem.next ? "next try" : null].filter((it) => it !== null).join(" · "));
    next.hidden = !problem.next;
    setTime(next, problem.next || "");
    foot.hidden = !problem.code && !problem.at && !problem.foot && !problem.next;
  };
  return made;
}

function storeWords(store) {
  const counts = [counted(store.hits, "hit"), counted(store.leases, "lease"), store.held + " held by others", counted(store.failures, "failure")];
  return (store.up ? "✓ " : "✗ ") + store.place + (store.up ? "" : ", unavailable") + " · " + counts.join(", ");
}

function configFacts(status) {
  const { config, store } = status;
  const reload = config.last_reload;
  const facts = [["file", config.path, null], ["version", String(config.version), null], ["loaded", "", config.loaded_at]];
  facts.push(["last reload", reload === null ? "none since the start" : reload.ok ? "✓ taken" : "✗ " + reload.error, reload && reload.at]);
  facts.push(["started", "", status.started_at]);
  if (store) facts.push(["token store", storeWords(store), store.failure && store.failure.since]);
  if (status.log_lines_dropped) facts.push(["log lines lost", String(status.log_lines_dropped), null]);
  const list = at("config").querySelector("dl");
  sync(list, facts.flatMap(([name, text, when]) => [{ key: "t " + name, text: name }, { key: "d " + name, text, when }]), (item) => {
    const made = node(item.key.startsWith("t ") ? "dt" : "dd");
    const [said, ago] = [node("span"), time("")];
    made.append(said, " ", ago);
    made.update = ({ text, when }) => {
      put(said, text);
      ago.hidden = !when;
      setTime(ago, when || "");
      dress(said, text.startsWith("✗") ? "bad" : "");
    };
    return made;
  });
}

