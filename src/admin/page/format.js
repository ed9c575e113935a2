"use strict";
// Words and nodes. Everything goes through textContent: whatever a name or an error holds is shown, not run.

const MOST_ROWS = 300;
const at = (id) => document.getElementById(id);

// As people say it: 45 s, 12 min, 1 h 5 min, 3 d.
function duration(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  if (whole < 120) return whole + " s";
  const [minutes, hours] = [Math.floor(whole / 60), Math.floor(whole / 3600)];
  if (hours < 1) return minutes + " min";
  if (hours < 10) return hours + " h" + (minutes % 60 ? " " + (minutes % 60) + " min" : "");
  return hours < 48 ? hours + " h" : Math.floor(hours / 24) + " d";
}

function milliseconds(value) {
  if (value === null) return "–";
  if (value >= 10000) return "≥ 10 s";
  if (value >= 1000) return (value / 1000).toFixed(1) + " s";
  return (value < 10 ? value.toFixed(1) : Math.round(value)) + " ms";
}

function rate(perSecond) {
  if (perSecond === 0) return "0/s";
  return (perSecond < 0.1 ? perSecond.toFixed(2) : perSecond < 10 ? perSecond.toFixed(1) : Math.round(perSecond)) + "/s";
}

// All of a few names, or the first ones: an issuer may have hundreds of routes.
const MOST_NAMES = 8;
function names(all) {
  if (all.length <= MOST_NAMES) return all.join(", ");
  return all.slice(0, MOST_NAMES).join(", ") + " and " + (all.length - MOST_NAMES) + " more";
}

// A token that other tokens are requested with is known by its issuer, any other by its first route.
function tokenKey(token) {
  if (!token.outer.length) return token.routes[0];
  return ["issuer", token.issuer, ...token.scopes, ...token.parameters].join(" ");
}

function counted(count, what) {
  return grouped(count) + " " + what + (count === 1 ? "" : "s");
}

// 12 345 678, so that large numbers are read at a glance.
function grouped(count) {
  return String(count).replace(/\B(?=(\d{3})+$)/g, "\u202f");
}

function node(tag, kind, text) {
  const made = document.createElement(tag);
  if (kind) made.className = kind;
  if (text !== undefined) made.textContent = text;
  return made;
}

// Only what changed is written: a selection stays, and a screen reader does not start again.
function put(at, text) {
  if (at.textContent !== text) at.textContent = text;
}

function dress(at, kind) {
  if (at.className !== kind) at.className = kind;
}

// What is good or bad is said by a sign and a word too, not by colour alone.
const SIGNS = { good: "✓", warn: "▲", bad: "✗", idle: "·" };

function mark(at, kind, word) {
  dress(at, "mark " + kind);
  put(at, SIGNS[kind] + " " + word);
}

// How long ago, by the clock of the machine that bearerd runs on: that of this page may be another.
function time(at) {
  const made = node("time");
  made.dateTime = at;
  made.title = at;
  return made;
}

function setTime(made, at) {
  if (made.dateTime !== at) {
    made.dateTime = at;
    made.title = at;
  }
}

// Puts `items` ({key, …}) below `parent` in their order, and keeps the nodes of those that were there.
function sync(parent, items, make) {
  const old = new Map();
  for (const child of parent.children) {
    if (child.dataset.key !== undefined) old.set(child.dataset.key, child);
  }
  let at = [...parent.children].find((child) => child.dataset.key !== undefined) || null;
  for (const item of items) {
    let made = old.get(item.key);
    if (made) {
      old.delete(item.key);
    } else {
      made = make(item);
      made.dataset.key = item.key;
    }
    if (made === at) at = at.nextElementSibling;
    else parent.insertBefore(made, at);
    made.update(item);
  }
  for (const gone of old.values()) gone.remove();
}
