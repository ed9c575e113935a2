
"use strict";
const at = (id) => document.getElementById(id);
const MOST_ROWS = 500;

function duration(seconds) {
  if (seconds === null) return "";
  if (seconds < 120) return seconds + " s";
  if (seconds < 7200) return Math.floor(seconds / 60) + " min";
  if (seconds < 172800) return Math.floor(seconds / 3600) + " h";
  return Math.floor(seconds / 86400) + " d";
}

// Everything goes through textContent: whatever a name or an error holds is shown, not run.
function cell(label, value, kind) {
  const td = document.createElement("td");
  td.dataset.label = label;
  const span = document.createElement("span");
  span.textContent = value;
  if (kind) span.className = kind;
  td.append(span);
  return td;
}

function table(id, labels, rows) {
  const section = at(id);
  const kept = section.firstElementChild;
  if (rows.length === 0) {
    const none = document.createElement("p");
    none.className = "dim";
    none.textContent = "none";
    section.replaceChildren(kept, none);
    return;
  }
  const made = document.createElement("table");
  const head = made.createTHead().insertRow();
  for (const label of labels) {
    const th = document.createElement("th");
    th.scope = "col";
    th.textContent = label;
    head.append(th);
  }
  const body = made.createTBody();
  for (const row of rows.slice(0, MOST_ROWS)) {
    const tr = body.insertRow();
    row.forEach((value, index) => {
      const [text, kind] = Array.isArray(value) ? value : [value, ""];
      tr.append(cell(labels[index], text, kind));
    });
  }
  const more = document.createElement("p");
  more.className = "dim";
  more.textContent = rows.length > MOST_ROWS ? "and " + (rows.length - MOST_ROWS) + " more; see /status" : "";
  section.replaceChildren(kept, made, more);
}

// A screen reader reads the state out when it changes, not every two seconds.
function state(text, good) {
  if (at("state").textContent !== text) at("state").textContent = text;
  at("state").className = "pill " + (good ? "good" : "bad");
}

function matches(match) {
  const parts = [];
  if (match.methods) parts.push(match.methods.join(", "));
  if (match.host) parts.push(match.host);
  parts.push(match.path !== null ? match.path + " (exactly)" : match.path_prefix);
  if (match.headers.length) parts.push("if " + match.headers.join(", "));
  if (match.listener) parts.push("on " + match.listener);
  return parts.join(" ");
}

function error(token) {
  const last = token.last_error;
  if (!last) return "";
  const next = last.next_try ? "; next try " + last.next_try : "";
  const trace = last.trace ? "; " + last.trace : "";
  return last.at + ": " + last.detail + trace + next;
}

function show(status) {
  state(status.draining ? "ending" : status.ready ? "ready" : "not ready", status.ready);
  at("about").textContent = "version " + status.version + ", up " + duration(status.uptime_seconds) +
    "; config " + status.config.path + ", version " + status.config.version + ", loaded " + status.config.loaded_at;
  const reload = status.config.last_reload;
  const failed = reload !== null && !reload.ok;
  at("problem").hidden = !failed;
  at("problem").textContent = failed ? "The last reload (" + reload.at + ") failed, the config before it serves on: " + reload.error : "";

  table("tokens", ["issuer", "scopes", "routes", "state", "age", "left", "renewal", "last error"], status.tokens.map((token) => [
    token.issuer, token.scopes.join(" "), token.routes.join(", "),
    [token.fetching ? token.state + ", fetching" : token.state, token.state === "valid" ? "good" : "bad"],
    duration(token.age_seconds), duration(token.seconds_left), token.renew_at || "", [error(token), "bad"],
  ]));
  table("routes", ["name", "serves", "upstream", "issuer", "calls", "connections"], status.routes.map((route) => [
    route.name, matches(route.match), route.upstream, route.issuer || "none (anonymous)",
    route.requests, route.upstream_connections,
  ]));
  table("issuers", ["name", "preset", "url", "grant", "client auth", "credential", "required"], status.issuers.map((issuer) => [
    issuer.name, issuer.preset || "", issuer.url + (issuer.discovery ? " (discovery)" : ""), issuer.grant_type || "",
    issuer.client_auth, [issuer.credential, issuer.credential === "standby" ? "bad" : ""], issuer.required ? "yes" : "no",
  ]));
  table("listeners", ["name", "address", "callers", "connections"], status.listeners.map((listener) => [
    listener.name, listener.address + (listener.tls ? " (TLS)" : ""), listener.callers, listener.connections,
  ]));
  at("webhooks").hidden = status.webhooks.length === 0;
  table("webhooks", ["name", "address", "value", "received", "last refusal"], status.webhooks.map((webhook) => [
    webhook.name, webhook.address + webhook.path,
    [webhook.problem || (webhook.has_value ? "there" : "none yet"), webhook.has_value ? "good" : "bad"],
    webhook.received_at || "", webhook.last_refusal ? webhook.last_refusal.at + ": " + webhook.last_refusal.detail : "",
  ]));
  at("warnings").hidden = status.config.warnings.length === 0;
  table("warnings", ["where", "key", "what", "hint"], status.config.warnings.map((warning) => [
    warning.file + ":" + warning.line + ":" + warning.column, warning.key, warning.message, warning.hint || "",
  ]));
}

async function refresh() {
  if (!document.hidden) {
    try {
      const answer = await fetch("/status");
      if (!answer.ok) throw new Error("status " + answer.status);
      show(await answer.json());
    } catch (failure) {
      state("no answer", false);
    }
  }
  setTimeout(refresh, 2000);
}

refresh();
