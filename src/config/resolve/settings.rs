//! The top level, `[limits]`, `[log]`, `[admin]`.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::super::document::Place;
use super::super::model::{Admin, Callers, Limits, Log, LogFormat};
use super::super::raw::values::DurationText;
use super::super::raw::{RawAdmin, RawLimits, RawLog};
use super::super::report::Report;
use super::super::types;
use super::super::types::log_filter::log_filter;
use super::defaults;
use super::value::{check, choice, count, duration, size, timeout};

pub(super) struct Written {
    pub workers: Option<usize>,
    pub drain_delay: Option<DurationText>,
    pub shutdown_timeout: Option<DurationText>,
    pub limits: Option<RawLimits>,
    pub log: Option<RawLog>,
    pub admin: Option<RawAdmin>,
}

pub(super) struct Settings {
    pub workers: usize,
    pub drain_delay: Duration,
    pub shutdown_timeout: Duration,
    pub limits: Limits,
    pub log: Log,
    /// `None`: its address is wrong.
    pub admin: Option<Admin>,
}

/// More threads than this are a slip.
const MOST_WORKERS: usize = 1024;
/// Less holds no ordinary request, and more is held for each connection.
const HEADER_BYTES: RangeInclusive<usize> = 1 << 10..=1 << 20;
/// hyper has a table of so many for each request, and `http` can't hold more than twice of it.
const MOST_HEADERS: usize = 10_000;
/// As many descriptors as Linux gives a process.
const MOST_CONNECTIONS: usize = 1_000_000;
const MOST_WAITERS: usize = 1_000_000;

pub(super) fn resolve(top: &Place<'_>, written: Written, report: &mut Report) -> Settings {
    let workers = count(top, "workers", written.workers, defaults::WORKERS, MOST_WORKERS, report);
    let shutdown =
        timeout(top, "shutdown_timeout", written.shutdown_timeout, defaults::SHUTDOWN_TIMEOUT, report);
    Settings {
        workers,
        drain_delay: duration(top, "drain_delay", written.drain_delay, defaults::DRAIN_DELAY, report),
        shutdown_timeout: shutdown.unwrap_or(defaults::NEVER),
        limits: limits(&top.key("limits"), written.limits.unwrap_or_default(), report),
        log: log(&top.key("log"), written.log.unwrap_or_default(), report),
        admin: admin(&top.key("admin"), written.admin.unwrap_or_default(), report),
    }
}

fn limits(at: &Place<'_>, raw: RawLimits, report: &mut Report) -> Limits {
    let header_bytes = raw.header_bytes;
    Limits {
        header_bytes: size(at, "header_bytes", header_bytes, defaults::HEADER_BYTES, HEADER_BYTES, report),
        header_count: count(
            at,
            "header_count",
            raw.header_count,
            defaults::HEADER_COUNT,
            MOST_HEADERS,
            report,
        ),
        header_timeout: timeout(at, "header_timeout", raw.header_timeout, defaults::HEADER_TIMEOUT, report),
        keep_alive: timeout(at, "keep_alive", raw.keep_alive, defaults::KEEP_ALIVE, report),
        connections: count(
            at,
            "connections",
            raw.connections,
            defaults::CONNECTIONS,
            MOST_CONNECTIONS,
            report,
        ),
        waiters: count(at, "waiters", raw.waiters, defaults::WAITERS, MOST_WAITERS, report),
    }
}

fn log(at: &Place<'_>, raw: RawLog, report: &mut Report) -> Log {
    let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    let level = raw.level.and_then(|text| check(&at.key("level"), log_filter(&text), report));
    let default = Log::default();
    Log {
        format: choice(at, "format", raw.format, default.format, &formats, report),
        level: level.unwrap_or(default.level),
        access: raw.access.unwrap_or(default.access),
    }
}

fn admin(at: &Place<'_>, raw: RawAdmin, report: &mut Report) -> Option<Admin> {
    let callers = choice(at, "callers", raw.callers, Callers::Local, CALLERS, report);
    let Some(text) = raw.address else { return Some(Admin { callers, ..defaults::admin() }) };
    let folder = &at.document.file.folder;
    check(&at.key("address"), types::address(&text, folder), report).map(|address| Admin { address, callers })
}

pub(super) const CALLERS: &[(&str, Callers)] = &[("local", Callers::Local), ("network", Callers::Network)];
