//! Drives one stage of a connection: its one timer, and the listener's wish to stop.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::watch::{Pace, Verdict, Watch};
use crate::idle::Alarm;

/// How long an orderly close may take before the connection is dropped.
const CLOSING: Duration = Duration::from_secs(5);

/// The timer never fires more often than this, whatever a verdict says: it must not spin.
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

/// A stage: finding out the protocol, or hyper's connection.
pub(super) trait Driven {
    type Output;
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Self::Output>;
    /// No more requests; those under way end.
    fn shut_down(&mut self);
}

/// Runs `stage` to its end; `None` where it took too long and is to be dropped.
pub(super) async fn drive<D: Driven>(
    stage: &mut D,
    mut pace: Pace,
    watch: &Watch,
    drain: &Drain,
) -> Option<D::Output> {
    // Made before the flag is read, so that no stop falls between.
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
                // It wakes the task that polled it first: this one, until its end. The flag says the same, at less cost.
                let _ = stop.as_mut().poll(cx);
            }
            let now = Instant::now();
            if closing_since.is_some_and(|since| since + CLOSING <= now) {
                return Poll::Ready(None);
            }
            let mut look_at = closing_since.map(|since| since + CLOSING);
            let mut close = false;
            if drain.has_begun() && !shut_down {
                match pace.may_stop(watch, now) {
                    Ok(()) => close = true,
                    Err(until) => look_at = earlier(look_at, until),
                }
            }
            match pace.judge(watch, now) {
                Verdict::Slow => return Poll::Ready(None),
                Verdict::Idle => {
                    close = true;
                    closing_since = closing_since.or(Some(now));
                }
                Verdict::Wait(until) => look_at = earlier(look_at, until),
            }
            if shut_down && let Some(until) = pace.lingers_until(watch) {
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
