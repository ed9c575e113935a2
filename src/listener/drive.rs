//! Drives one stage of a connection, with its one timer and an ear for the listener's stop.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, Sleep};

use super::watch::{Pace, Verdict, Watch};

/// How long an orderly close may take before the connection is dropped.
const CLOSING: Duration = Duration::from_secs(5);

/// Where a timer stands that times nothing.
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// Tells all connections of one worker and listener to come to their end.
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

/// A stage: an HTTP/1 connection, or hyper's of HTTP/2.
pub(super) trait Drive {
    type Output;
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Self::Output>;
    /// No more calls; those under way end.
    fn shut_down(&mut self);
}

/// Runs `stage` to its end; `None` where it took too long and is to be dropped.
pub(super) async fn drive<D: Drive>(
    stage: &mut D,
    mut pace: Pace,
    watch: &Watch,
    drain: &Drain,
) -> Option<D::Output> {
    // Made before the flag is read, so that no stop falls between.
    let mut stop = pin!(drain.notify.notified());
    // Both wake the task that polled them first: this one, until its end.
    let mut listening = false;
    let mut armed = false;
    let mut closing = false;
    let mut force_at = None;
    let mut timer = pin!(tokio::time::sleep_until(first_look(&mut pace, watch)));
    poll_fn(|context| {
        loop {
            if let Poll::Ready(output) = stage.poll(context) {
                return Poll::Ready(Some(output));
            }
            if !std::mem::replace(&mut listening, true) {
                // The flag says the same, at less cost.
                let _ = stop.as_mut().poll(context);
            }
            let stopping = drain.has_begun();
            let mut look_at = pace.due(watch);
            if stopping && !closing {
                match pace.may_stop(watch, Instant::now()) {
                    Ok(()) => {
                        closing = true;
                        stage.shut_down();
                        continue;
                    }
                    Err(until) => look_at = earlier(look_at, until),
                }
            }
            if let Some(at) = look_at
                && at < timer.deadline()
            {
                timer.as_mut().reset(at);
                armed = false;
            }
            if !std::mem::replace(&mut armed, true) {
                ready!(poll_timer(timer.as_mut(), context));
            } else if !timer.is_elapsed() {
                return Poll::Pending;
            }
            let now = Instant::now();
            if force_at.is_some_and(|at| at <= now) {
                return Poll::Ready(None);
            }
            let next = match pace.judge(watch, now) {
                Verdict::Slow => return Poll::Ready(None),
                Verdict::Idle => {
                    if !closing {
                        closing = true;
                        stage.shut_down();
                    }
                    force_at = force_at.or(Some(now + CLOSING));
                    force_at
                }
                Verdict::Wait(next) => next,
            };
            timer.as_mut().reset(next.unwrap_or(now + NEVER));
            armed = false;
        }
    })
    .await
}

/// Also where the task has done so much that it must yield: its timer would else not be set, and not be polled again.
fn poll_timer(timer: Pin<&mut Sleep>, context: &mut Context<'_>) -> Poll<()> {
    pin!(tokio::task::unconstrained(timer)).poll(context)
}

fn first_look(pace: &mut Pace, watch: &Watch) -> Instant {
    let now = Instant::now();
    match pace.judge(watch, now) {
        Verdict::Wait(Some(at)) => at,
        Verdict::Wait(None) => now + NEVER,
        Verdict::Idle | Verdict::Slow => now,
    }
}

fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}
