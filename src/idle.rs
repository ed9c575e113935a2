//! Limits on how long nothing may move, and on how much may arrive without effect. A timer is set only while something waits,
//! and set again only when it fires, so constant movement costs nothing.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Context;
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// A timer whose deadline may move.
#[derive(Debug, Default)]
pub struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// Whether the deadline has passed. If not, the task is woken when it has.
    pub fn poll(&mut self, deadline: Instant, cx: &mut Context<'_>) -> bool {
        let sleep = self.0.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        loop {
            // Unconstrained, because tokio would make a task that has done much wait, and its timer would not be set.
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
    /// `None` means no limit.
    pub fn new(limit: Option<Duration>) -> Self {
        Self { limit, since: None, alarm: Alarm::default() }
    }

    /// Changes the limit from now on.
    pub fn set_limit(&mut self, limit: Option<Duration>) {
        self.limit = limit;
    }

    /// Something moved.
    pub fn moved(&mut self) {
        self.since = None;
    }

    /// Nothing moves now. Returns `true` once this has lasted for the limit. Wakes the task at that time.
    pub fn expired(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(limit) = self.limit else { return false };
        let deadline = *self.since.get_or_insert_with(Instant::now) + limit;
        self.alarm.poll(deadline, cx)
    }
}

/// How many more bytes an HTTP/1 peer may send without effect: endless zeros before a chunk size, one interim response after
/// the other. The parser accepts all of them, and would do nothing else.
#[derive(Debug)]
pub struct Headway(AtomicU64);

/// Far more than any buffer holds, so that reading ahead does not reach it.
const MOST_WITHOUT_EFFECT: u64 = 1024 * 1024;
/// More than is read ahead. After these bytes, a peer gets less time.
const DOUBTFUL: u64 = 256 * 1024;

impl Default for Headway {
    fn default() -> Self {
        Self(AtomicU64::new(u64::MAX))
    }
}

impl Headway {
    /// What was read had an effect. Begins to count from here.
    pub fn made(&self) {
        self.0.store(MOST_WITHOUT_EFFECT, Ordering::Relaxed);
    }

    /// Stops counting.
    pub fn unlimited(&self) {
        self.0.store(u64::MAX, Ordering::Relaxed);
    }

    /// What arrived was invalid, so nothing more can have an effect.
    pub fn lost(&self) {
        self.0.store(MOST_WITHOUT_EFFECT - DOUBTFUL - 1, Ordering::Relaxed);
    }

    /// Whether much has arrived without effect.
    pub fn is_doubtful(&self) -> bool {
        let left = self.0.load(Ordering::Relaxed);
        left < MOST_WITHOUT_EFFECT - DOUBTFUL
    }

    /// # Errors
    /// The peer has sent too much without effect.
    pub fn read(&self, bytes: usize) -> io::Result<()> {
        let left = self.0.load(Ordering::Relaxed);
        if left == u64::MAX {
            return Ok(());
        }
        let left = left.checked_sub(bytes as u64).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, "a mebibyte arrived of which nothing can be passed on")
        })?;
        self.0.store(left, Ordering::Relaxed);
        Ok(())
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

    #[test]
    fn bytes_without_effect_have_a_limit_only_while_they_are_counted() {
        let headway = Headway::default();
        assert!(headway.read(usize::MAX).is_ok());
        headway.made();
        assert!(headway.read(256 * 1024).is_ok() && !headway.is_doubtful());
        assert!((0..12).all(|_| headway.read(64 * 1024).is_ok() && headway.is_doubtful()));
        assert!(headway.read(1).is_err());
        headway.made();
        assert!(headway.read(1).is_ok());
        headway.unlimited();
        assert!(headway.read(usize::MAX).is_ok() && !headway.is_doubtful());
        headway.lost();
        assert!(headway.read(1).is_ok() && headway.is_doubtful());
    }
}
