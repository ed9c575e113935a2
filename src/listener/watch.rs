//! What a connection is doing, noted as it happens and judged when its one timer fires.
//!
//! hyper has one timeout for a slow head and an idle connection; here they differ. Nothing is armed or cancelled for a
//! request: reads and writes leave a time behind, and the timer, when it fires, looks at what is left to wait for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::config::Limits;
use crate::flow::Reading;
use crate::inbound::{Activity, OWN_STALL_MS, Outgoing};
use crate::proxy::Caller;

/// How long a connection is kept, after it was accepted or its last request was answered, once the listener stops: a
/// request may be on its way, and closing would lose it. The response to it says that it was the last one.
const FRESH: Duration = Duration::from_millis(500);

/// How often a busy HTTP/2 connection is looked at: its responses are polled by tasks of their own.
const LOOK: Duration = Duration::from_secs(2);

/// Shared by a connection's task, its socket and its requests, all on one thread: nothing is ordered but by program order.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) caller: Arc<Caller>,
    /// When the first byte of the head that is being read came: ms from the start, plus 1; 0: none is being read.
    head_since: AtomicU64,
    /// The caller speaks HTTP/2.
    http2: AtomicBool,
    /// Something was read since the last head.
    read: AtomicBool,
    /// When something was last written to the caller: ms from the start.
    last_write: AtomicU64,
    /// A write waits for the caller to read.
    blocked: AtomicBool,
    /// The connection was upgraded: hyper is done with it.
    tunnel: AtomicBool,
    /// The caller speaks HTTP/1.0: it takes the end of the connection for the end of a response.
    http10: AtomicBool,
    /// The connection is to end with a reset.
    reset: AtomicBool,
}

impl Watch {
    pub(super) fn new(caller: Arc<Caller>) -> Self {
        Self {
            caller,
            head_since: AtomicU64::new(0),
            http2: AtomicBool::new(false),
            read: AtomicBool::new(false),
            last_write: AtomicU64::new(0),
            blocked: AtomicBool::new(false),
            tunnel: AtomicBool::new(false),
            http10: AtomicBool::new(false),
            reset: AtomicBool::new(false),
        }
    }

    fn activity(&self) -> &Activity {
        &self.caller.activity
    }

    /// Bytes came from the caller. Where no request is in flight, they begin or continue a head.
    pub(super) fn bytes_read(&self) {
        self.read.store(true, Ordering::Relaxed);
        if self.head_since.load(Ordering::Relaxed) == 0 && !self.activity().is_busy() {
            self.head_since.store(self.activity().elapsed_ms().saturating_add(1), Ordering::Relaxed);
        }
    }

    /// Bytes went to the caller, or (`blocked`) it does not take them now.
    pub(super) fn bytes_written(&self, blocked: bool) {
        self.blocked.store(blocked, Ordering::Relaxed);
        self.last_write.store(self.activity().elapsed_ms(), Ordering::Relaxed);
    }

    /// What is being read.
    pub(super) fn reading(&self) -> Reading {
        if self.is_http2() {
            Reading::Http2
        } else if (self.activity().is_busy() && !self.activity().headway.is_doubtful()) || self.is_tunnel() {
            Reading::Body
        } else {
            Reading::Head
        }
    }

    pub(super) fn speaks_http2(&self) {
        self.http2.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_http2(&self) -> bool {
        self.http2.load(Ordering::Relaxed)
    }

    /// A head is complete; whether it came together with the one before (pipelining).
    pub(super) fn request_begins(&self, http10: bool) -> bool {
        self.head_since.store(0, Ordering::Relaxed);
        self.http10.store(http10, Ordering::Relaxed);
        !self.read.swap(false, Ordering::Relaxed)
    }

    /// A response broke off: only a reset tells an HTTP/1.0 caller so.
    pub(super) fn response_broke(&self) {
        self.reset.store(self.http10.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    pub(super) fn ends_with_reset(&self) -> bool {
        self.reset.load(Ordering::Relaxed)
    }

    pub(super) fn becomes_tunnel(&self) {
        self.tunnel.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_tunnel(&self) -> bool {
        self.tunnel.load(Ordering::Relaxed)
    }

    fn is_blocked(&self) -> bool {
        self.blocked.load(Ordering::Relaxed)
    }

    fn has_served(&self) -> bool {
        self.activity().requests.load(Ordering::Relaxed) > 0
    }

    /// When the last response was written, or the connection's start.
    fn last_active(&self) -> Instant {
        let written = self.activity().born + Duration::from_millis(self.last_write.load(Ordering::Relaxed));
        written.max(self.activity().last_busy())
    }

    /// When the head that is being read began.
    fn head_began(&self) -> Option<Instant> {
        if self.activity().is_busy() {
            return None;
        }
        let since = self.head_since.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.activity().born + Duration::from_millis(since))
    }
}

/// What a connection's timer finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Look again then; `None`: nothing is timed.
    Wait(Option<Instant>),
    /// Nothing is going on: close it in order.
    Idle,
    /// The caller does not get on with its request or its response: drop it.
    Slow,
}

/// The rules for how long a connection may take, by protocol.
pub(super) enum Pace {
    /// Also while it is not known yet which protocol it is.
    Http1 {
        head: Option<Duration>,
        idle: Option<Duration>,
    },
    Http2 {
        idle: Option<Duration>,
        passed: Stall,
        own: Stall,
    },
}

/// Since when responses have waited for the caller's windows, and how many frames it had taken then.
#[derive(Debug, Default)]
pub(super) struct Stall(Option<(Instant, u64)>);

impl Pace {
    pub(super) fn http1(limits: &Limits) -> Self {
        Self::Http1 { head: limits.header_timeout, idle: limits.keep_alive }
    }

    pub(super) fn http2(limits: &Limits) -> Self {
        Self::Http2 { idle: limits.keep_alive, passed: Stall::default(), own: Stall::default() }
    }

    /// Whether a stopping listener may close the connection now, or else until when it waits.
    pub(super) fn may_stop(&self, watch: &Watch, now: Instant) -> Result<(), Option<Instant>> {
        let Self::Http1 { head, .. } = self else { return Ok(()) };
        // hyper ends the connection once the response is written, whatever is still to come of the request: a caller that
        // sends all before it reads would not get the response.
        if watch.activity().has_unread() {
            return Err(Some(now + FRESH));
        }
        if watch.activity().is_busy() {
            return Ok(());
        }
        if let Some(began) = watch.head_began() {
            return Err(head.map(|head| began + head));
        }
        let fresh_until = watch.last_active() + FRESH;
        if now < fresh_until { Err(Some(fresh_until)) } else { Ok(()) }
    }

    /// How long a connection that takes no more requests waits for its caller to take the last responses: over HTTP/2,
    /// they may be done with here, and wait for the caller's windows.
    pub(super) fn lingers_until(&self, watch: &Watch) -> Option<Instant> {
        match self {
            Self::Http2 { .. } if !watch.activity().is_busy() => {
                Some(watch.last_active() + Duration::from_millis(OWN_STALL_MS))
            }
            Self::Http1 { .. } | Self::Http2 { .. } => None,
        }
    }

    pub(super) fn judge(&mut self, watch: &Watch, now: Instant) -> Verdict {
        match self {
            Self::Http1 { head, idle } => judge_http1(watch, now, *head, *idle),
            Self::Http2 { idle, passed, own } => {
                let activity = watch.activity();
                let limit = activity.write_stall_ms.load(Ordering::Relaxed);
                let stalled = passed.judge(&activity.passed, limit, now);
                if own.judge(&activity.own, OWN_STALL_MS, now) || stalled {
                    return Verdict::Slow;
                }
                judge_http2(watch, now, *idle)
            }
        }
    }
}

fn judge_http1(watch: &Watch, now: Instant, head: Option<Duration>, idle: Option<Duration>) -> Verdict {
    if watch.activity().is_busy() || watch.is_blocked() {
        // An idle time that begins after now also ends after this.
        return Verdict::Wait(idle.map(|idle| now + idle));
    }
    let (since, limit, verdict) = match watch.head_began() {
        Some(began) => (began, head, Verdict::Slow),
        None if !watch.has_served() => (watch.activity().born, head, Verdict::Idle),
        None => (watch.last_active(), idle, Verdict::Idle),
    };
    match limit.map(|limit| since + limit) {
        Some(due) if due <= now => verdict,
        Some(due) => Verdict::Wait(Some(due)),
        // What comes next may have a limit.
        None => Verdict::Wait(head.or(idle).map(|limit| now + limit)),
    }
}

fn judge_http2(watch: &Watch, now: Instant, idle: Option<Duration>) -> Verdict {
    if watch.activity().is_busy() || watch.is_blocked() {
        return Verdict::Wait(Some(now + LOOK));
    }
    // By the end of the last request: a PING is no reason to keep a connection.
    match idle.map(|idle| watch.activity().last_busy() + idle) {
        Some(due) if due <= now => Verdict::Idle,
        due => Verdict::Wait(due),
    }
}

impl Stall {
    /// Whether responses have waited for their HTTP/2 caller for `limit_ms` (0: no limit), and it took nothing of any.
    fn judge(&mut self, outgoing: &Outgoing, limit_ms: u64, now: Instant) -> bool {
        if limit_ms == 0 || outgoing.held.load(Ordering::Relaxed) == 0 {
            self.0 = None;
            return false;
        }
        let taken = outgoing.taken.load(Ordering::Relaxed);
        match self.0 {
            Some((since, then)) if then == taken => now >= since + Duration::from_millis(limit_ms),
            Some(_) | None => {
                self.0 = Some((now, taken));
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inbound::InFlight;
    use crate::proxy::Peer;

    fn watch() -> Watch {
        Watch::new(Arc::new(Caller {
            listener: Arc::from("main"),
            address: crate::config::Address::Unix("/proxy.sock".into()),
            peer: Peer::Unix { uid: 0 },
            local: None,
            tls: false,
            activity: Arc::default(),
        }))
    }

    fn seconds(count: u64) -> Option<Duration> {
        Some(Duration::from_secs(count))
    }

    fn http2() -> Pace {
        Pace::Http2 { idle: seconds(4), passed: Stall::default(), own: Stall::default() }
    }

    fn request(watch: &Watch) -> InFlight {
        watch.bytes_read();
        watch.request_begins(false);
        watch.activity().requests.fetch_add(1, Ordering::Relaxed);
        InFlight::new(&watch.caller.activity)
    }

    #[tokio::test(start_paused = true)]
    async fn each_state_has_its_own_limit() {
        let (watch, mut pace) = (watch(), Pace::Http1 { head: seconds(10), idle: seconds(75) });
        let at = |secs| watch.activity().born + Duration::from_secs(secs);
        assert_eq!(pace.judge(&watch, at(0)), Verdict::Wait(Some(at(10))));
        assert_eq!(pace.judge(&watch, at(10)), Verdict::Idle);

        tokio::time::advance(Duration::from_secs(4)).await;
        watch.bytes_read();
        assert_eq!(pace.judge(&watch, at(5)), Verdict::Wait(Some(at(14))), "from the first byte of the head");
        tokio::time::advance(Duration::from_secs(1)).await;
        watch.bytes_read();
        assert_eq!(pace.judge(&watch, at(14)), Verdict::Slow);

        let in_flight = request(&watch);
        assert_eq!(pace.judge(&watch, at(1000)), Verdict::Wait(Some(at(1075))));
        tokio::time::advance(Duration::from_secs(100)).await;
        drop(in_flight);
        tokio::time::advance(Duration::from_secs(3)).await;
        watch.bytes_written(true);
        assert_eq!(pace.judge(&watch, at(500)), Verdict::Wait(Some(at(575))), "the caller is still reading");
        watch.bytes_written(false);
        assert_eq!(pace.judge(&watch, at(110)), Verdict::Wait(Some(at(183))));
        assert_eq!(pace.judge(&watch, at(183)), Verdict::Idle);
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_within_a_request_begin_no_head() {
        let (watch, mut pace) = (watch(), Pace::Http1 { head: seconds(10), idle: None });
        let in_flight = request(&watch);
        assert!(watch.request_begins(false), "nothing was read in between");
        watch.bytes_read();
        drop(in_flight);
        assert_eq!(watch.head_began(), None);
        watch.bytes_read();
        let began = watch.head_began().unwrap();
        assert_eq!(pace.judge(&watch, began), Verdict::Wait(Some(began + Duration::from_secs(10))));
    }

    #[tokio::test(start_paused = true)]
    async fn limits_that_are_off_are_off() {
        let watch = watch();
        let now = Instant::now();
        let mut off = Pace::Http1 { head: None, idle: None };
        assert_eq!(off.judge(&watch, now), Verdict::Wait(None));
        watch.bytes_read();
        assert_eq!(off.judge(&watch, now), Verdict::Wait(None));
        let mut no_head = Pace::Http1 { head: None, idle: seconds(75) };
        assert_eq!(no_head.judge(&watch, now), Verdict::Wait(Some(now + Duration::from_secs(75))));
        drop(request(&watch));
        let mut no_idle = Pace::Http1 { head: seconds(10), idle: None };
        assert_eq!(no_idle.judge(&watch, now), Verdict::Wait(Some(now + Duration::from_secs(10))));
    }

    #[tokio::test(start_paused = true)]
    async fn http2_is_idle_after_keep_alive_whatever_is_written() {
        let watch = watch();
        let mut pace = http2();
        let at = |secs| watch.activity().born + Duration::from_secs(secs);
        tokio::time::advance(Duration::from_secs(3)).await;
        let in_flight = request(&watch);
        assert_eq!(pace.judge(&watch, at(9)), Verdict::Wait(Some(at(9) + LOOK)));
        drop(in_flight);
        tokio::time::advance(Duration::from_secs(3)).await;
        watch.bytes_written(false);
        assert_eq!(pace.judge(&watch, at(6)), Verdict::Wait(Some(at(7))));
        assert_eq!(pace.judge(&watch, at(7)), Verdict::Idle);
    }

    #[tokio::test(start_paused = true)]
    async fn http2_caller_whose_window_stays_shut_is_slow() {
        let watch = watch();
        let mut pace = http2();
        let at = |secs| watch.activity().born + Duration::from_secs(secs);
        let activity = watch.activity();
        let _in_flight = request(&watch);
        activity.write_stall_ms.store(3_000, Ordering::Relaxed);
        let wait = |secs| Verdict::Wait(Some(at(secs) + LOOK));
        assert_eq!(pace.judge(&watch, at(0)), wait(0), "nothing is held up");
        activity.passed.held.store(1, Ordering::Relaxed);
        assert_eq!(pace.judge(&watch, at(10)), wait(10));
        activity.passed.taken.store(1, Ordering::Relaxed);
        assert_eq!(pace.judge(&watch, at(12)), wait(12), "something was taken");
        assert_eq!(pace.judge(&watch, at(14)), wait(14));
        assert_eq!(pace.judge(&watch, at(15)), Verdict::Slow);
        activity.write_stall_ms.store(0, Ordering::Relaxed);
        assert_eq!(pace.judge(&watch, at(16)), wait(16), "idle_timeout is off");
    }

    #[tokio::test(start_paused = true)]
    async fn a_response_of_ours_does_not_wait_as_long_as_a_route_allows() {
        let watch = watch();
        let mut pace = http2();
        let at = |secs| watch.activity().born + Duration::from_secs(secs);
        let activity = watch.activity();
        let _in_flight = request(&watch);
        activity.respond_within(300_000);
        activity.own.held.store(1, Ordering::Relaxed);
        assert_eq!(pace.judge(&watch, at(0)), Verdict::Wait(Some(at(0) + LOOK)));
        activity.passed.taken.store(9, Ordering::Relaxed);
        assert_eq!(pace.judge(&watch, at(9)), Verdict::Wait(Some(at(9) + LOOK)));
        assert_eq!(pace.judge(&watch, at(10)), Verdict::Slow);
    }

    #[test]
    fn the_longest_limit_of_responses_on_their_way_holds() {
        let activity = Activity::default();
        let limit = || activity.write_stall_ms.load(Ordering::Relaxed);
        activity.respond_within(500);
        assert_eq!(limit(), 500, "one after the other");
        activity.passed.open.store(1, Ordering::Relaxed);
        activity.respond_within(300);
        assert_eq!(limit(), 500);
        activity.respond_within(0);
        assert_eq!(limit(), 0, "no limit is the longest");
        activity.respond_within(600);
        assert_eq!(limit(), 0);
        activity.passed.open.store(0, Ordering::Relaxed);
        activity.respond_within(600);
        assert_eq!(limit(), 600);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stopping_listener_waits_for_a_head_and_for_a_fresh_connection() {
        let (watch, pace) = (watch(), Pace::Http1 { head: seconds(10), idle: seconds(75) });
        let start = watch.activity().born;
        assert_eq!(pace.may_stop(&watch, start), Err(Some(start + FRESH)));
        assert_eq!(pace.may_stop(&watch, start + FRESH), Ok(()));
        watch.bytes_read();
        assert_eq!(pace.may_stop(&watch, start + FRESH), Err(Some(start + Duration::from_secs(10))));
        let in_flight = request(&watch);
        assert_eq!(pace.may_stop(&watch, start), Ok(()), "hyper closes after the response");
        tokio::time::advance(Duration::from_secs(20)).await;
        watch.bytes_written(false);
        drop(in_flight);
        let answered = start + Duration::from_secs(20);
        assert_eq!(
            pace.may_stop(&watch, answered),
            Err(Some(answered + FRESH)),
            "the next request may be coming"
        );
        assert_eq!(pace.may_stop(&watch, answered + FRESH), Ok(()));
    }
}
