//! The top level, `[limits]`, `[log]`, `[admin]`.

use std::time::Duration;

use super::super::document::Place;
use super::super::model::{Admin, Limits, Log};
use super::super::raw::keys::{Lasting, check};
use super::super::raw::{RawAdmin, RawLimits, RawLog};
use super::super::report::Report;
use super::super::types;
use super::super::types::log_filter::log_filter;

/// What "without end" is where a time must be added: longer than any process runs, short enough for every clock.
const NEVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// `shutdown_timeout`.
pub(super) fn shutdown<const SECONDS: u64>(
    top: &Place<'_>,
    written: Lasting<SECONDS>,
    report: &mut Report,
) -> Duration {
    written.timeout(top, "shutdown_timeout", report).unwrap_or(NEVER)
}

pub(super) fn limits(at: &Place<'_>, raw: RawLimits, report: &mut Report) -> Limits {
    Limits {
        header_bytes: raw.header_bytes.read(at, "header_bytes", report),
        header_count: raw.header_count.read(at, "header_count", report),
        header_timeout: raw.header_timeout.timeout(at, "header_timeout", report),
        keep_alive: raw.keep_alive.timeout(at, "keep_alive", report),
        connections: raw.connections.read(at, "connections", report),
        waiters: raw.waiters.read(at, "waiters", report),
    }
}

/// `None`: its level is wrong.
pub(super) fn log(at: &Place<'_>, raw: RawLog, report: &mut Report) -> Option<Log> {
    let level = raw.level.as_deref().unwrap_or(RawLog::LEVEL);
    let level = check(&at.key("level"), log_filter(level), report);
    let format = raw.format.read(at, "format", report);
    Some(Log { format, level: level?, access: raw.access.0 })
}

/// `None`: its address is wrong.
pub(super) fn admin(at: &Place<'_>, raw: RawAdmin, report: &mut Report) -> Option<Admin> {
    let callers = raw.callers.read(at, "callers", report);
    let address = raw.address.as_deref().unwrap_or(RawAdmin::ADDRESS);
    let address = check(&at.key("address"), types::address(address, &at.document.file.folder), report)?;
    Some(Admin { address, callers })
}
