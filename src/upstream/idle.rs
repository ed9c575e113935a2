//! A limit on how long nothing may move. Armed only while something waits, so that a body which is there costs nothing.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

#[derive(Debug)]
pub(crate) struct Idle {
    limit: Option<Duration>,
    since: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Idle {
    /// `None`: no limit.
    pub(crate) fn new(limit: Option<Duration>) -> Self {
        Self { limit, since: None, sleep: None }
    }

    /// Something moved.
    pub(crate) fn moved(&mut self) {
        self.since = None;
    }

    /// Something moved just now, as a clock said that was read for another reason.
    pub(crate) fn moved_at(&mut self, now: Instant) {
        self.since = Some(now);
    }

    /// When something moved last, where that is known.
    pub(crate) fn since(&self) -> Option<Instant> {
        self.since
    }

    /// Nothing moves now: `true` once that has lasted for the limit; wakes the task when it will have.
    pub(crate) fn expired(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(limit) = self.limit else { return false };
        let deadline = *self.since.get_or_insert_with(Instant::now) + limit;
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        loop {
            if sleep.as_mut().poll(cx) == Poll::Pending {
                return false;
            }
            if sleep.deadline() >= deadline {
                return true;
            }
            sleep.as_mut().reset(deadline);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

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
