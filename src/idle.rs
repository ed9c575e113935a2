//! Limits on how long nothing may move. A timer is set only while something waits, and set again only when it fires: what
//! moves all the time costs nothing.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::Context;
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// A timer whose deadline may move.
#[derive(Debug, Default)]
pub struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// Whether the deadline has passed; where it has not, the task is woken when it has.
    pub fn poll(&mut self, deadline: Instant, cx: &mut Context<'_>) -> bool {
        let sleep = self.0.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        loop {
            // Unconstrained: a task that has done much in one go would be told to wait, and its timer would not be set.
            if pin!(tokio::task::unconstrained(sleep.as_mut())).poll(cx).is_pending() {
                return false;
            }
            if sleep.deadline() >= deadline {
                return true;
            }
            sleep.as_mut().reset(deadline);
        }
    }
}

/// Expires when nothing has moved for a limit.
#[derive(Debug)]
pub struct Idle {
    limit: Option<Duration>,
    since: Option<Instant>,
    alarm: Alarm,
}

impl Idle {
    /// `None`: no limit.
    pub fn new(limit: Option<Duration>) -> Self {
        Self { limit, since: None, alarm: Alarm::default() }
    }

    /// From now on, another limit.
    pub fn set_limit(&mut self, limit: Option<Duration>) {
        self.limit = limit;
    }

    /// Something moved.
    pub fn moved(&mut self) {
        self.since = None;
    }

    /// Nothing moves now: `true` once that has lasted for the limit; wakes the task when it will have.
    pub fn expired(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(limit) = self.limit else { return false };
        let deadline = *self.since.get_or_insert_with(Instant::now) + limit;
        self.alarm.poll(deadline, cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Poll;

    use super::*;

    async fn wait(idle: &mut Idle) {
        poll_fn(|cx| if idle.expired(cx) { Poll::Ready(()) } else { Poll::Pending }).await;
    }

    #[tokio::test(start_paused = true)]
    async fn expires_after_the_limit_without_movement() {
        let start = Instant::now();
        wait(&mut Idle::new(Some(Duration::from_secs(3)))).await;
        assert_eq!(start.elapsed().as_secs(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn counts_from_the_last_movement() {
        let start = Instant::now();
        let mut idle = Idle::new(Some(Duration::from_secs(3)));
        assert!(tokio::time::timeout(Duration::from_secs(2), wait(&mut idle)).await.is_err());
        idle.moved();
        wait(&mut idle).await;
        assert_eq!(start.elapsed().as_secs(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_it_never_expires() {
        let mut idle = Idle::new(None);
        assert!(tokio::time::timeout(Duration::from_secs(1_000_000), wait(&mut idle)).await.is_err());
    }
}
