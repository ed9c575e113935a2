//! What a connection is doing, noted as it happens, and judged when its one timer fires.
//!
//! hyper has one timeout for a slow head and an idle connection. Here they differ. A request arms and cancels nothing: reads
//! and writes store a time, and when the timer fires, [`drive`] looks at what there is to wait for.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::config::Limits;
use crate::flow::Reading;
use crate::idle::Alarm;
use crate::inbound::{Activity, OWN_STALL_MS, Outgoing};
use crate::proxy::Caller;

/// How long a connection stays open when the listener stops, after it was accepted or its last response was written. A
/// request may be on its way, and closing would lose it. The response to it says that it was the last one.
const FRESH: Duration = Duration::from_millis(500);

/// How often a busy HTTP/2 connection is judged: its responses are polled by tasks of their own.
const HTTP2_INTERVAL: Duration = Duration::from_secs(2);

/// How long an orderly close may take before the connection is dropped.
const CLOSING: Duration = Duration::from_secs(5);

/// The timer never fires more often than this, whatever a verdict says, so that it cannot spin.
const SHORTEST_WAIT: Duration = Duration::from_millis(1);

/// Tells all connections of one worker and listener to end.
#[derive(Debug, Default)]
pub(super) struct Drain {
    begun: AtomicBool,
    notify: Notify,
}

impl Drain {
    pub(super) fn begin(&self) {
        self.begun.store(true, Ordering::Relaxed);
        self.notify.notify_waiters();
    }

    pub(super) fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed)
    }
}

/// A stage of a connection: the detection of its protocol, or hyper's connection.
pub(super) trait Stage {
    type Output;
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Self::Output>;
    /// Takes no more requests. Those in progress end.
    fn shut_down(&mut self);
}

/// Runs `stage` until it ends, with one timer, and shuts it down when the listener stops. `None`: it took too long and must
/// be dropped.
pub(super) async fn drive<S: Stage>(
    stage: &mut S,
    mut limits: TimeLimits,
    watch: &Watch,
    drain: &Drain,
) -> Option<S::Output> {
    // Created before the flag is read, so that no stop is missed.
    let mut stop = pin!(drain.notify.notified());
    let mut listening = false;
    let mut closing_since: Option<Instant> = None;
    let mut shut_down = false;
    let mut alarm = Alarm::default();
    poll_fn(|cx| {
        loop {
            if let Poll::Ready(output) = stage.poll(cx) {
                return Poll::Ready(Some(output));
            }
            if !std::mem::replace(&mut listening, true) {
                // Polled once: it wakes this task, which stays the same. The flag then says whether it has fired.
                let _ = stop.as_mut().poll(cx);
            }
            let now = Instant::now();
            if closing_since.is_some_and(|since| since + CLOSING <= now) {
                return Poll::Ready(None);
            }
            let mut look_at = closing_since.map(|since| since + CLOSING);
            let mut close = false;
            if drain.has_begun() && !shut_down {
                match limits.may_stop(watch, now) {
                    Ok(()) => close = true,
                    Err(until) => look_at = earlier(look_at, until),
                }
            }
            match limits.judge(watch, now) {
                Verdict::TooSlow => return Poll::Ready(None),
                Verdict::Idle => {
                    close = true;
                    closing_since = closing_since.or(Some(now));
                }
                Verdict::Wait(until) => look_at = earlier(look_at, until),
            }
            if shut_down && let Some(until) = limits.lingers_until(watch) {
                if until <= now {
                    return Poll::Ready(None);
                }
                look_at = earlier(look_at, Some(until));
            }
            if close && !std::mem::replace(&mut shut_down, true) {
                stage.shut_down();
                continue;
            }
            match look_at {
                Some(at) if alarm.poll(at.max(now + SHORTEST_WAIT), cx) => {}
                Some(_) | None => return Poll::Pending,
            }
        }
    })
    .await
}

fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// Shared by the task, the socket and the requests of a connection. All run on one thread, so relaxed ordering is enough.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) caller: Arc<Caller>,
    /// When the first byte of the current head came: ms from the start, plus 1. 0 if no head is being read.
    head_since: AtomicU64,
    http2: AtomicBool,
    /// Something was read since the last head.
    read: AtomicBool,
    /// When something was last written to the caller: ms from the start.
    last_write: AtomicU64,
    /// A write waits for the caller to read.
    blocked: AtomicBool,
    /// hyper has read a request and has not polled its handler yet.
    handler_waits: AtomicBool,
    /// The connection was upgraded, so hyper no longer drives it.
    tunnel: AtomicBool,
    /// The caller speaks HTTP/1.0, which takes the end of the connection for the end of a response.
    http10: AtomicBool,
    /// The connection must end with a reset.
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
            handler_waits: AtomicBool::new(false),
            tunnel: AtomicBool::new(false),
            http10: AtomicBool::new(false),
            reset: AtomicBool::new(false),
        }
    }

    fn activity(&self) -> &Activity {
        &self.caller.activity
    }

    /// Bytes came from the caller. If no request is in flight, they begin or continue a head.
    pub(super) fn bytes_read(&self) {
        self.read.store(true, Ordering::Relaxed);
        if self.head_since.load(Ordering::Relaxed) == 0 && !self.activity().is_busy() {
            self.head_since.store(self.activity().elapsed_ms().saturating_add(1), Ordering::Relaxed);
        }
    }

    /// Bytes went to the caller, or (`blocked`) the caller does not take them now.
    pub(super) fn bytes_written(&self, blocked: bool) {
        self.blocked.store(blocked, Ordering::Relaxed);
        self.last_write.store(self.activity().elapsed_ms(), Ordering::Relaxed);
    }

    /// What the next read is for.
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

    /// A head is complete. Returns whether it came together with the previous one (pipelining).
    pub(super) fn request_begins(&self, http10: bool) -> bool {
        self.head_since.store(0, Ordering::Relaxed);
        self.http10.store(http10, Ordering::Relaxed);
        self.handler_waits.store(true, Ordering::Relaxed);
        !self.read.swap(false, Ordering::Relaxed)
    }

    pub(super) fn handler_begins(&self) {
        self.handler_waits.store(false, Ordering::Relaxed);
    }

    pub(super) fn handler_waits(&self) -> bool {
        self.handler_waits.load(Ordering::Relaxed)
    }

    /// A response ended early. Only a reset tells this to an HTTP/1.0 caller.
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

    /// When the last response was written, or when the connection began.
    fn last_active(&self) -> Instant {
        let written = self.activity().born + Duration::from_millis(self.last_write.load(Ordering::Relaxed));
        written.max(self.activity().last_busy())
    }

    /// When the current head began.
    fn head_began(&self) -> Option<Instant> {
        if self.activity().is_busy() {
            return None;
        }
        let since = self.head_since.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.activity().born + Duration::from_millis(since))
    }
}

/// What the timer of a connection finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Judge again at this time. `None`: nothing has a limit.
    Wait(Option<Instant>),
    /// Nothing happens: close it in order.
    Idle,
    /// The caller makes no progress with its request or its response: drop it.
    TooSlow,
}

/// The time limits of a connection, by protocol.
pub(super) enum TimeLimits {
    /// Also while the protocol is unknown.
    Http1 {
        head: Option<Duration>,
        idle: Option<Duration>,
    },
    Http2 {
        idle: Option<Duration>,
        passed: WindowStall,
        own: WindowStall,
    },
}

/// Since when responses have waited for the caller's windows, and how many frames it had taken by then.
#[derive(Debug, Default)]
pub(super) struct WindowStall(Option<(Instant, u64)>);

impl TimeLimits {
    pub(super) fn http1(limits: &Limits) -> Self {
        Self::Http1 { head: limits.header_timeout, idle: limits.keep_alive }
    }

    pub(super) fn http2(limits: &Limits) -> Self {
        Self::Http2 { idle: limits.keep_alive, passed: WindowStall::default(), own: WindowStall::default() }
    }

    /// Whether a stopping listener may close the connection now. The error says until when it must wait.
    fn may_stop(&self, watch: &Watch, now: Instant) -> Result<(), Option<Instant>> {
        let Self::Http1 { head, .. } = self else { return Ok(()) };
        // hyper ends the connection once the response is written, even if a part of the request is still to come. A caller
        // that sends everything before it reads would not get the response.
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

    /// How long a connection without further requests waits for its caller to take the last responses. Over HTTP/2, they
    /// may be complete here and still wait for the caller's windows.
    fn lingers_until(&self, watch: &Watch) -> Option<Instant> {
        match self {
            Self::Http2 { .. } if !watch.activity().is_busy() => {
                Some(watch.last_active() + Duration::from_millis(OWN_STALL_MS))
            }
            Self::Http1 { .. } | Self::Http2 { .. } => None,
        }
    }

    fn judge(&mut self, watch: &Watch, now: Instant) -> Verdict {
        match self {
            Self::Http1 { head, idle } => judge_http1(watch, now, *head, *idle),
            Self::Http2 { idle, passed, own } => {
                let activity = watch.activity();
                let limit = activity.write_stall_ms.load(Ordering::Relaxed);
                let stalled = passed.judge(&activity.passed, limit, now);
                if own.judge(&activity.own, OWN_STALL_MS, now) || stalled {
                    return Verdict::TooSlow;
                }
                judge_http2(watch, now, *idle)
            }
        }
    }
}

fn judge_http1(watch: &Watch, now: Instant, head: Option<Duration>, idle: Option<Duration>) -> Verdict {
    if watch.activity().is_busy() || watch.is_blocked() {
        // Idle time that begins after now also ends after this.
        return Verdict::Wait(idle.map(|idle| now + idle));
    }
    let (since, limit, verdict) = match watch.head_began() {
        Some(began) => (began, head, Verdict::TooSlow),
        None if !watch.has_served() => (watch.activity().born, head, Verdict::Idle),
        None => (watch.last_active(), idle, Verdict::Idle),
    };
    match limit.map(|limit| since + limit) {
        Some(due) if due <= now => verdict,
        Some(due) => Verdict::Wait(Some(due)),
        // The next state may have a limit.
        None => Verdict::Wait(head.or(idle).map(|limit| now + limit)),
    }
}

fn judge_http2(watch: &Watch, now: Instant, idle: Option<Duration>) -> Verdict {
    if watch.activity().is_busy() || watch.is_blocked() {
        return Verdict::Wait(Some(now + HTTP2_INTERVAL));
    }
    // Counted from the end of the last request, because a PING does not keep a connection open.
    match idle.map(|idle| watch.activity().last_busy() + idle) {
        Some(due) if due <= now => Verdict::Idle,
        due => Verdict::Wait(due),
    }
}

impl WindowStall {
    /// Whether responses have waited for their HTTP/2 caller for `limit_ms` (0: no limit) without it taking anything.
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
            same_user: false,
            activity: Arc::default(),
            authority: None,
            inside: None,
        }))
    }

    fn seconds(count: u64) -> Option<Duration> {
        Some(Duration::from_secs(count))
    }

    fn http2() -> TimeLimits {
        TimeLimits::Http2 { idle: seconds(4), passed: WindowStall::default(), own: WindowStall::default() }
    }

    fn request(watch: &Watch) -> InFlight {
        watch.bytes_read();
        watch.request_begins(false);
        watch.activity().requests.fetch_add(1, Ordering::Relaxed);
        InFlight::new(&watch.caller.activity)
    }

    #[tokio::test(start_paused = true)]
    async fn each_state_has_its_own_limit() {
        let (watch, mut limits) = (watch(), TimeLimits::Http1 { head: seconds(10), idle: seconds(75) });
        let at = |secs| watch.activity().born + Duration::from_secs(secs);
        assert_eq!(limits.judge(&watch, at(0)), Verdict::Wait(Some(at(10))));
        assert_eq!(limits.judge(&watch, at(10)), Verdict::Idle);

        tokio::time::advance(Duration::from_secs(4)).await;
        watch.bytes_read();
        assert_eq!(
            limits.judge(&watch, at(5)),
            Verdict::Wait(Some(at(14))),
            "from the first byte of the head"
        );
        tokio::time::advance(Duration::from_secs(1)).await;
        watch.bytes_read();
        assert_eq!(limits.judge(&watch, at(14)), Verdict::TooSlow);

        let in_flight = request(&watch);
        assert_eq!(limits.judge(&watch, at(1000)), Verdict::Wait(Some(at(1075))));
        tokio::time::advance(Duration::from_secs(100)).await;
        drop(in_flight);
        tokio::time::advance(Duration::from_secs(3)).await;
        watch.bytes_written(true);
        assert_eq!(
            limits.judge(&watch, at(500)),
            Verdict::Wait(Some(at(575))),
            "the caller is still reading"
        );
        watch.bytes_written(false);
        assert_eq!(limits.judge(&watch, at(110)), Verdict::Wait(Some(at(183))));
        assert_eq!(limits.judge(&watch, at(183)), Verdict::Idle);
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_within_a_request_begin_no_head() {
        let (watch, mut limits) = (watch(), TimeLimits::Http1 { head: seconds(10), idle: None });
        let in_flight = request(&watch);
        assert!(watch.request_begins(false), "nothing was read in between");
        watch.bytes_read();
        drop(in_flight);
        assert_eq!(watch.head_began(), None);
        watch.bytes_read();
        let began = watch.head_began().unwrap();
        assert_eq!(limits.judge(&watch, began), Verdict::Wait(Some(began + Duration::from_secs(10))));
    }

    #[tokio::test(start_paused = true)]
    async fn limits_that_are_off_are_off() {
        let watch = watch();
        let now = Instant::now();
        let mut off = TimeLimits::Http1 { head: None, idle: None };
        assert_eq!(off.judge(&watch, now), Verdict::Wait(None));
        watch.bytes_read();
        assert_eq!(off.judge(&watch, now), Verdict::Wait(None));
        let mut no_head = TimeLimits::Http1 { head: None, idle: seconds(75) };
        assert_eq!(no_head.judge(&watch, now), Verdict::Wait(Some(now + Duration::from_secs(75))));
        drop(request(&watch));
        let mut no_idle = TimeLimits::Http1 { head: seconds(10), idle: None };
        assert_eq!(no_idle.judge(&watch, now), Verdict::Wait(Some(now + Duration::from_secs(10))));
    }

    #[tokio::test(start_paused = true)]
    async fn http2_is_idle_after_keep_alive_regardless_of_writes() {
        let watch = watch();
        let mut limits = http2();
        let at = |secs| watch.activity().born + Duration::from_secs(secs);
        tokio::time::advance(Duration::from_secs(3)).await;
        let in_flight = request(&watch);
        assert_eq!(limits.judge(&watch, at(9)), Verdict::Wait(Some(at(9) + HTTP2_INTERVAL)));
        drop(in_flight);
        tokio::time::advance(Duration::from_secs(3)).await;
        watch.bytes_written(false);
        assert_eq!(limits.judge(&watch, at(6)), Verdict::Wait(Some(at(7))));
        assert_eq!(limits.judge(&watch, at(7)), Verdict::Idle);
    }

    #[tokio::test(start_paused = true)]
    async fn http2_caller_whose_window_stays_shut_is_slow() {
        let watch = watch();
        let mut limits = http2();
        let at = |secs| watch.activity().born + Duration::from_secs(secs);
        let activity = watch.activity();
        let _in_flight = request(&watch);
        activity.write_stall_ms.store(3_000, Ordering::Relaxed);
        let wait = |secs| Verdict::Wait(Some(at(secs) + HTTP2_INTERVAL));
        assert_eq!(limits.judge(&watch, at(0)), wait(0), "nothing is held up");
        activity.passed.held.store(1, Ordering::Relaxed);
        assert_eq!(limits.judge(&watch, at(10)), wait(10));
        activity.passed.taken.store(1, Ordering::Relaxed);
        assert_eq!(limits.judge(&watch, at(12)), wait(12), "something was taken");
        assert_eq!(limits.judge(&watch, at(14)), wait(14));
        assert_eq!(limits.judge(&watch, at(15)), Verdict::TooSlow);
        activity.write_stall_ms.store(0, Ordering::Relaxed);
        assert_eq!(limits.judge(&watch, at(16)), wait(16), "idle_timeout is off");
    }

    #[tokio::test(start_paused = true)]
    async fn bearerds_own_response_does_not_wait_as_long_as_a_route_allows() {
        let watch = watch();
        let mut limits = http2();
        let at = |secs| watch.activity().born + Duration::from_secs(secs);
        let activity = watch.activity();
        let _in_flight = request(&watch);
        activity.respond_within(300_000);
        activity.own.held.store(1, Ordering::Relaxed);
        assert_eq!(limits.judge(&watch, at(0)), Verdict::Wait(Some(at(0) + HTTP2_INTERVAL)));
        activity.passed.taken.store(9, Ordering::Relaxed);
        assert_eq!(limits.judge(&watch, at(9)), Verdict::Wait(Some(at(9) + HTTP2_INTERVAL)));
        assert_eq!(limits.judge(&watch, at(10)), Verdict::TooSlow);
    }

    #[test]
    fn the_longest_limit_of_open_responses_applies() {
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
        let (watch, limits) = (watch(), TimeLimits::Http1 { head: seconds(10), idle: seconds(75) });
        let start = watch.activity().born;
        assert_eq!(limits.may_stop(&watch, start), Err(Some(start + FRESH)));
        assert_eq!(limits.may_stop(&watch, start + FRESH), Ok(()));
        watch.bytes_read();
        assert_eq!(limits.may_stop(&watch, start + FRESH), Err(Some(start + Duration::from_secs(10))));
        let in_flight = request(&watch);
        assert_eq!(limits.may_stop(&watch, start), Ok(()), "hyper closes after the response");
        tokio::time::advance(Duration::from_secs(20)).await;
        watch.bytes_written(false);
        drop(in_flight);
        let answered = start + Duration::from_secs(20);
        assert_eq!(
            limits.may_stop(&watch, answered),
            Err(Some(answered + FRESH)),
            "the next request may be coming"
        );
        assert_eq!(limits.may_stop(&watch, answered + FRESH), Ok(()));
    }
}
