//! What a connection is doing, noted as it happens and judged when its one timer fires.
//!
//! A slow head and an idle connection have limits of their own. Nothing is armed or cancelled for a
//! call: reads and writes leave a time behind, and the timer, when it fires, looks at what is left to wait for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::config::Limits;
use crate::proxy::Caller;

/// How long a connection is kept, after it was accepted or its last call was answered, once the listener stops: a call
/// may be on its way, and closing would lose it. That call's answer says that it was the last one.
const FRESH: Duration = Duration::from_millis(500);

/// How often an HTTP/2 connection that may rest for ever is looked at.
const HELD_LOOK: Duration = Duration::from_secs(15);

/// Shared by a connection's task, its socket and its calls, all on one thread: nothing is ordered but by program order.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) caller: Arc<Caller>,
    started: Instant,
    /// When the first byte of the head that is being read came: ms from `started`, plus 1; 0: none is being read.
    head_since: AtomicU64,
    /// When something was last written to the caller: ms from `started`.
    last_write: AtomicU64,
    /// The connection was upgraded: it is no longer HTTP.
    tunnel: AtomicBool,
}

impl Watch {
    pub(super) fn new(caller: Arc<Caller>) -> Self {
        Self {
            caller,
            started: Instant::now(),
            head_since: AtomicU64::new(0),
            last_write: AtomicU64::new(0),
            tunnel: AtomicBool::new(false),
        }
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn in_flight(&self) -> bool {
        self.caller.activity.in_flight.load(Ordering::Relaxed) > 0
    }

    fn calls(&self) -> u64 {
        self.caller.activity.calls.load(Ordering::Relaxed)
    }

    /// A head is not whole yet; the first time that this is said of it, it has begun.
    pub(super) fn head_begins(&self) {
        if self.head_since.load(Ordering::Relaxed) == 0 && !self.in_flight() {
            self.head_since.store(self.elapsed_ms().saturating_add(1), Ordering::Relaxed);
        }
    }

    /// An answer is written, or its writing stood still or moved on: a write that goes well is not noted by itself.
    pub(super) fn bytes_written(&self) {
        self.last_write.store(self.elapsed_ms(), Ordering::Relaxed);
    }

    /// A head is complete.
    pub(super) fn call_begins(&self) {
        self.head_since.store(0, Ordering::Relaxed);
    }

    pub(super) fn becomes_tunnel(&self) {
        self.tunnel.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_tunnel(&self) -> bool {
        self.tunnel.load(Ordering::Relaxed)
    }

    /// Between two calls.
    fn is_idle(&self) -> bool {
        self.calls() > 0 && !self.in_flight() && self.head_since.load(Ordering::Relaxed) == 0
    }

    fn last_written(&self) -> Instant {
        self.started + Duration::from_millis(self.last_write.load(Ordering::Relaxed))
    }

    /// When the head that is being read began.
    fn head_began(&self) -> Option<Instant> {
        if self.in_flight() {
            return None;
        }
        let since = self.head_since.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.started + Duration::from_millis(since))
    }
}

/// What a connection's timer finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Look again then; `None`: nothing is timed.
    Wait(Option<Instant>),
    /// Nothing is going on: close it in order.
    Idle,
    /// The caller does not get on with its request: drop it.
    Slow,
}

/// The rules for how long a connection may take, by protocol.
pub(super) enum Pace {
    /// Also while it is not known yet which protocol it is.
    Http1 { head: Option<Duration>, idle: Option<Duration> },
    /// A quarter of `keep_alive` at a time, since the end of a call leaves no mark here that a PING could not leave too.
    /// `held`: since when callers' windows are shut, and how many frames had gone out then.
    Http2 { quarter: Option<Duration>, quiet: u32, calls: u64, held: Option<(Instant, u64)> },
}

impl Pace {
    pub(super) fn http1(limits: &Limits) -> Self {
        Self::Http1 { head: limits.header_timeout, idle: limits.keep_alive }
    }

    pub(super) fn http2(limits: &Limits) -> Self {
        Self::Http2 { quarter: limits.keep_alive.map(|whole| whole / 4), quiet: 0, calls: 0, held: None }
    }

    /// When a head that has begun must be complete.
    fn head_due(&self, watch: &Watch) -> Option<Instant> {
        match self {
            Self::Http1 { head: Some(head), .. } => Some(watch.head_began()? + *head),
            Self::Http1 { head: None, .. } | Self::Http2 { .. } => None,
        }
    }

    /// When something must have happened: the timer may stand at a later time.
    pub(super) fn due(&self, watch: &Watch) -> Option<Instant> {
        match self {
            Self::Http1 { idle: Some(idle), .. } if watch.is_idle() => Some(watch.last_written() + *idle),
            Self::Http1 { .. } | Self::Http2 { .. } => self.head_due(watch),
        }
    }

    /// Whether a stopping listener may close the connection now, or else until when it waits.
    pub(super) fn may_stop(&self, watch: &Watch, now: Instant) -> Result<(), Option<Instant>> {
        let Self::Http1 { .. } = self else { return Ok(()) };
        // It ends after the call that is under way.
        if watch.in_flight() {
            return Ok(());
        }
        if watch.head_began().is_some() {
            return Err(self.head_due(watch));
        }
        let fresh_until = if watch.calls() == 0 { watch.started } else { watch.last_written() } + FRESH;
        if now < fresh_until { Err(Some(fresh_until)) } else { Ok(()) }
    }

    pub(super) fn judge(&mut self, watch: &Watch, now: Instant) -> Verdict {
        match self {
            Self::Http1 { head, idle } => judge_http1(watch, now, *head, *idle),
            Self::Http2 { quarter, quiet, calls, held } => {
                if is_stalled(watch, now, held) {
                    return Verdict::Slow;
                }
                let Some(quarter) = quarter else { return Verdict::Wait(Some(now + HELD_LOOK)) };
                let calls_now = watch.calls();
                if watch.in_flight() || calls_now != *calls {
                    (*quiet, *calls) = (0, calls_now);
                } else {
                    *quiet += 1;
                }
                // The first quiet look may come right after a call.
                if *quiet > 4 { Verdict::Idle } else { Verdict::Wait(Some(now + *quarter)) }
            }
        }
    }
}

/// Whether a response has waited for its HTTP/2 caller as long as a write may stall, and nothing else went out.
fn is_stalled(watch: &Watch, now: Instant, held: &mut Option<(Instant, u64)>) -> bool {
    let activity = &watch.caller.activity;
    let limit = activity.write_stall_ms.load(Ordering::Relaxed);
    if limit == 0 || activity.held.load(Ordering::Relaxed) == 0 {
        *held = None;
        return false;
    }
    let frames = activity.frames.load(Ordering::Relaxed);
    match *held {
        Some((since, then)) if then == frames => now >= since + Duration::from_millis(limit),
        Some(_) | None => {
            *held = Some((now, frames));
            false
        }
    }
}

fn judge_http1(watch: &Watch, now: Instant, head: Option<Duration>, idle: Option<Duration>) -> Verdict {
    if watch.in_flight() {
        // An idle time that begins after now also ends after this.
        return Verdict::Wait(idle.map(|idle| now + idle));
    }
    let (since, limit, verdict) = match watch.head_began() {
        Some(began) => (began, head, Verdict::Slow),
        None if watch.calls() == 0 => (watch.started, head, Verdict::Idle),
        None => (watch.last_written(), idle, Verdict::Idle),
    };
    match limit.map(|limit| since + limit) {
        Some(due) if due <= now => verdict,
        Some(due) => Verdict::Wait(Some(due)),
        // What comes next may have a limit.
        None => Verdict::Wait(head.or(idle).map(|limit| now + limit)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::Peer;

    fn watch() -> Watch {
        Watch::new(Arc::new(Caller {
            listener: Arc::from("main"),
            address: crate::config::Address::Unix("/proxy.sock".into()),
            peer: Peer::Unix { uid: 0 },
            local: None,
            tls: false,
            activity: crate::proxy::caller::Activity::default(),
        }))
    }

    fn seconds(count: u64) -> Option<Duration> {
        Some(Duration::from_secs(count))
    }

    fn call(watch: &Watch) {
        watch.head_begins();
        watch.call_begins();
        watch.caller.activity.calls.fetch_add(1, Ordering::Relaxed);
        watch.caller.activity.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    fn answered(watch: &Watch) {
        watch.caller.activity.in_flight.fetch_sub(1, Ordering::Relaxed);
        watch.bytes_written();
    }

    #[test]
    fn each_state_has_its_own_limit() {
        let (watch, mut pace) = (watch(), Pace::Http1 { head: seconds(10), idle: seconds(75) });
        let at = |secs| watch.started + Duration::from_secs(secs);
        assert_eq!(pace.judge(&watch, at(0)), Verdict::Wait(Some(at(10))));
        assert_eq!(pace.judge(&watch, at(10)), Verdict::Idle);

        watch.head_since.store(4001, Ordering::Relaxed);
        watch.head_begins();
        assert_eq!(pace.head_due(&watch), Some(at(14)), "from the first byte of the head");
        assert_eq!(pace.judge(&watch, at(14)), Verdict::Slow);

        call(&watch);
        assert_eq!(pace.head_due(&watch), None);
        assert_eq!(pace.judge(&watch, at(1000)), Verdict::Wait(Some(at(1075))));
        answered(&watch);
        watch.last_write.store(108_000, Ordering::Relaxed);
        assert_eq!(pace.judge(&watch, at(110)), Verdict::Wait(Some(at(183))));
        assert_eq!(pace.judge(&watch, at(183)), Verdict::Idle);
    }

    #[test]
    fn bytes_within_a_call_begin_no_head() {
        let (watch, pace) = (watch(), Pace::Http1 { head: seconds(10), idle: None });
        call(&watch);
        watch.head_begins();
        answered(&watch);
        assert_eq!(pace.head_due(&watch), None);
        watch.head_begins();
        assert!(pace.head_due(&watch).is_some());
    }

    #[test]
    fn limits_that_are_off_are_off() {
        let watch = watch();
        let now = Instant::now();
        let mut off = Pace::Http1 { head: None, idle: None };
        assert_eq!(off.judge(&watch, now), Verdict::Wait(None));
        watch.head_begins();
        assert_eq!(off.judge(&watch, now), Verdict::Wait(None));
        let mut no_head = Pace::Http1 { head: None, idle: seconds(75) };
        assert_eq!(no_head.judge(&watch, now), Verdict::Wait(Some(now + Duration::from_secs(75))));
        call(&watch);
        answered(&watch);
        let mut no_idle = Pace::Http1 { head: seconds(10), idle: None };
        assert_eq!(no_idle.judge(&watch, now), Verdict::Wait(Some(now + Duration::from_secs(10))));
    }

    #[test]
    fn http2_is_idle_after_a_whole_quiet_keep_alive() {
        let watch = watch();
        let mut pace = Pace::Http2 { quarter: seconds(1), quiet: 0, calls: 0, held: None };
        let now = Instant::now();
        let mut looks = |expected: usize| {
            let mut looks = 0;
            while pace.judge(&watch, now) != Verdict::Idle {
                looks += 1;
                assert!(looks <= expected);
            }
            assert_eq!(looks, expected);
        };
        looks(4);
        call(&watch);
        answered(&watch);
        looks(5);
    }

    #[test]
    fn http2_caller_whose_window_stays_shut_is_slow() {
        let watch = watch();
        let mut pace = Pace::Http2 { quarter: seconds(1), quiet: 0, calls: 0, held: None };
        let at = |secs| watch.started + Duration::from_secs(secs);
        let activity = &watch.caller.activity;
        call(&watch);
        activity.write_stall_ms.store(3_000, Ordering::Relaxed);
        assert_eq!(pace.judge(&watch, at(0)), Verdict::Wait(Some(at(1))), "nothing is held up");
        activity.held.store(1, Ordering::Relaxed);
        assert_eq!(pace.judge(&watch, at(10)), Verdict::Wait(Some(at(11))));
        activity.frames.store(1, Ordering::Relaxed);
        assert_eq!(pace.judge(&watch, at(12)), Verdict::Wait(Some(at(13))), "something went out");
        assert_eq!(pace.judge(&watch, at(14)), Verdict::Wait(Some(at(15))));
        assert_eq!(pace.judge(&watch, at(15)), Verdict::Slow);
        activity.write_stall_ms.store(0, Ordering::Relaxed);
        assert_eq!(pace.judge(&watch, at(16)), Verdict::Wait(Some(at(17))), "idle_timeout is off");
    }

    #[test]
    fn a_stopping_listener_waits_for_a_head_and_for_a_fresh_connection() {
        let (watch, pace) = (watch(), Pace::Http1 { head: seconds(10), idle: seconds(75) });
        let start = watch.started;
        assert_eq!(pace.may_stop(&watch, start), Err(Some(start + FRESH)));
        assert_eq!(pace.may_stop(&watch, start + FRESH), Ok(()));
        watch.head_since.store(1, Ordering::Relaxed);
        assert_eq!(pace.may_stop(&watch, start + FRESH), Err(Some(start + Duration::from_secs(10))));
        call(&watch);
        assert_eq!(pace.may_stop(&watch, start), Ok(()), "it is closed after the answer");
        answered(&watch);
        watch.last_write.store(20_000, Ordering::Relaxed);
        let answered = start + Duration::from_secs(20);
        assert_eq!(
            pace.may_stop(&watch, answered),
            Err(Some(answered + FRESH)),
            "the next call may be coming"
        );
        assert_eq!(pace.may_stop(&watch, answered + FRESH), Ok(()));
    }
}
