//! Which connections keep their place where there are more than places: a flood of connects keeps neither a probe nor a
//! webhook out.
//!
//! A place is kept free for the next connection. Where that takes the end of another one, it is one of those whose request
//! has come least far: first those without a whole head, then those without a whole body, then those that do not take their
//! response, and never one that is being answered. Among these it is the oldest of whoever holds most, but none that had no
//! time yet to say what it wants. As long as nobody can go, the next connection waits in the kernel's queue.

use std::cmp::Reverse;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

use crate::proxy::Peer;

/// How far a request has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// Its head has not come in whole.
    Head,
    /// Its head has, its body has not.
    Body,
    /// It is being answered before its body has come in whole.
    EarlyAnswer,
    /// All of it has come, and it is being answered.
    Answer,
}

const STAGES: [Stage; 4] = [Stage::Head, Stage::Body, Stage::EarlyAnswer, Stage::Answer];

impl Stage {
    /// For how long a connection in this stage keeps its place in any case; `None`: to its end.
    const fn patience(self) -> Option<Duration> {
        match self {
            // A head comes with the connection, as a rule.
            Self::Head => Some(Duration::from_millis(100)),
            Self::Body => Some(Duration::from_secs(2)),
            Self::EarlyAnswer | Self::Answer => None,
        }
    }
}

/// For how long a response may wait for its caller in any case.
const UNREAD: Duration = Duration::from_secs(1);

/// The stage that the request of one connection has reached.
#[derive(Debug, Clone, Default)]
pub(super) struct Progress(Arc<Reached>);

#[derive(Debug)]
struct Reached {
    stage: AtomicU8,
    since: Instant,
    /// When the response began to wait for its caller: ms from `since`, plus 1; 0: it does not.
    unread: AtomicU64,
}

impl Default for Reached {
    fn default() -> Self {
        Self { stage: AtomicU8::new(0), since: Instant::now(), unread: AtomicU64::new(0) }
    }
}

impl Progress {
    /// There is no way back.
    pub(super) fn reach(&self, stage: Stage) {
        self.0.stage.fetch_max(stage as u8, Ordering::Relaxed);
    }

    pub(super) fn stage(&self) -> Stage {
        *STAGES.get(usize::from(self.0.stage.load(Ordering::Relaxed))).expect("only stages are stored")
    }

    /// Whether a part of the response could not be written.
    pub(super) fn waits_for_reader(&self, waits: bool) {
        let now =
            u64::try_from(self.0.since.elapsed().as_millis()).map_or(u64::MAX, |ms| ms.saturating_add(1));
        if !waits {
            self.0.unread.store(0, Ordering::Relaxed);
        } else if self.0.unread.load(Ordering::Relaxed) == 0 {
            self.0.unread.store(now, Ordering::Relaxed);
        }
    }

    /// When its connection may go, and before which others; `None`: it stays.
    fn out(&self) -> Option<(Rank, Instant)> {
        let stage = self.stage();
        if let Some(patience) = stage.patience() {
            return Some((Rank::Sends(stage), self.0.since + patience));
        }
        let ms = self.0.unread.load(Ordering::Relaxed).checked_sub(1)?;
        Some((Rank::DoesNotRead, self.0.since + Duration::from_millis(ms) + UNREAD))
    }
}

/// Who goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Sends(Stage),
    DoesNotRead,
}

/// All open connections of one address.
pub(super) struct Room {
    tasks: JoinSet<()>,
    open: Vec<Open>,
    places: usize,
}

struct Open {
    peer: Peer,
    since: Instant,
    progress: Progress,
    handle: AbortHandle,
}

impl Room {
    pub(super) fn new(places: usize) -> Self {
        Self { tasks: JoinSet::new(), open: Vec::new(), places }
    }

    /// Whether the next connection must wait for [`Self::made`].
    pub(super) fn is_full(&self) -> bool {
        self.open.len() >= self.places
    }

    pub(super) fn let_in(
        &mut self,
        peer: Peer,
        progress: Progress,
        connection: impl Future<Output = ()> + Send + 'static,
    ) {
        while self.tasks.try_join_next().is_some() {}
        self.open.retain(|open| !open.handle.is_finished());
        let handle = self.tasks.spawn(connection);
        self.open.push(Open { peer, since: Instant::now(), progress, handle });
    }

    /// Waits until a connection has ended or may be ended for another one, which then happens, or until it is time to look
    /// again; whether one was ended.
    pub(super) async fn made(&mut self) -> bool {
        let due = self.next_out().map(|(_, due)| due);
        // Where nobody may go, somebody may stop reading.
        let look_at = due.unwrap_or_else(|| Instant::now() + UNREAD);
        tokio::select! {
            Some(_) = self.tasks.join_next() => {
                self.open.retain(|open| !open.handle.is_finished());
                false
            }
            () = sleep_until(look_at) => self.end_one(),
        }
    }

    fn end_one(&mut self) -> bool {
        // Meanwhile its request may have come.
        let Some((at, due)) = self.next_out() else { return false };
        if due > Instant::now() {
            return false;
        }
        self.open.swap_remove(at).handle.abort();
        true
    }

    /// The connection that is to go next, and when.
    fn next_out(&self) -> Option<(usize, Instant)> {
        let out =
            self.open.iter().enumerate().filter_map(|(at, open)| Some((at, open, open.progress.out()?)));
        let out: Vec<_> = out.collect();
        let first = out.iter().map(|(.., (rank, _))| *rank).min()?;
        let there = || out.iter().filter(|(.., (rank, _))| *rank == first);
        let held = |peer: &Peer| there().filter(|(_, open, _)| is_same(&open.peer, peer)).count();
        let (at, _, (_, due)) = there().max_by_key(|(_, open, _)| (held(&open.peer), Reverse(open.since)))?;
        Some((*at, *due))
    }

    /// Waits for the end of all.
    pub(super) async fn emptied(mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Whether both are one machine, or one user of this one.
fn is_same(one: &Peer, other: &Peer) -> bool {
    match (one, other) {
        (Peer::Tcp(one), Peer::Tcp(other)) => one.ip() == other.ip(),
        (Peer::Unix { uid: one }, Peer::Unix { uid: other }) => one == other,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::net::{Ipv4Addr, SocketAddr};

    use super::*;

    fn peer(last: u8) -> Peer {
        Peer::Tcp(SocketAddr::from((Ipv4Addr::new(192, 0, 2, last), 1)))
    }

    /// A full room of these, each a millisecond younger than the one before.
    async fn room(open: &[(u8, Stage)]) -> Room {
        let mut room = Room::new(open.len());
        for (last, stage) in open {
            let progress = Progress::default();
            progress.reach(*stage);
            room.let_in(peer(*last), progress, pending());
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert!(room.is_full());
        room
    }

    /// Waits until one was ended for another; that it ended is told afterwards.
    async fn one_is_ended(room: &mut Room) {
        while !room.made().await {}
    }

    fn left(room: &Room) -> Vec<(Peer, Stage)> {
        let mut open: Vec<_> = room.open.iter().collect();
        open.sort_by_key(|open| open.since);
        open.iter().map(|open| (open.peer, open.progress.stage())).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_come_least_far_goes_first() {
        let mut room =
            room(&[(1, Stage::Answer), (1, Stage::Body), (1, Stage::Head), (1, Stage::EarlyAnswer)]).await;
        let began = Instant::now();
        one_is_ended(&mut room).await;
        assert_eq!(
            left(&room).iter().map(|(_, stage)| *stage).collect::<Vec<_>>(),
            [Stage::Answer, Stage::Body, Stage::EarlyAnswer]
        );
        assert!(began.elapsed() >= Duration::from_millis(90), "it had its time");
        one_is_ended(&mut room).await;
        assert!(began.elapsed() >= Duration::from_secs(1), "and so had the next one");
        assert_eq!(left(&room).len(), 2);
        let never = tokio::time::timeout(Duration::from_secs(3600), one_is_ended(&mut room)).await;
        assert!(never.is_err(), "who is being answered stays");
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_take_its_response_goes_after_those_who_send_nothing() {
        let mut room = room(&[(1, Stage::Answer), (1, Stage::Answer), (1, Stage::Head)]).await;
        room.open[1].progress.waits_for_reader(true);
        one_is_ended(&mut room).await;
        assert_eq!(left(&room), [(peer(1), Stage::Answer), (peer(1), Stage::Answer)]);
        let began = Instant::now();
        one_is_ended(&mut room).await;
        assert!(began.elapsed() >= Duration::from_millis(800), "it had its time");
        assert!(room.open[0].progress.out().is_none(), "the other one has");
        // It begins to read, and stops again.
        room.open[0].progress.waits_for_reader(true);
        room.open[0].progress.waits_for_reader(false);
        let never = tokio::time::timeout(Duration::from_secs(3600), one_is_ended(&mut room)).await;
        assert!(never.is_err());
        room.open[0].progress.waits_for_reader(true);
        one_is_ended(&mut room).await;
        assert!(left(&room).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_of_who_holds_most_goes() {
        let mut room = room(&[(1, Stage::Head), (2, Stage::Head), (3, Stage::Head), (2, Stage::Head)]).await;
        one_is_ended(&mut room).await;
        assert_eq!(left(&room), [(peer(1), Stage::Head), (peer(3), Stage::Head), (peer(2), Stage::Head)]);
        one_is_ended(&mut room).await;
        assert_eq!(left(&room), [(peer(3), Stage::Head), (peer(2), Stage::Head)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_ends_makes_room_and_one_that_moves_on_stays() {
        let mut room = Room::new(2);
        let progress = Progress::default();
        room.let_in(peer(1), progress.clone(), pending());
        room.let_in(peer(1), Progress::default(), tokio::time::sleep(Duration::from_millis(50)));
        assert!(!room.made().await, "it ended by itself");
        assert!(!room.is_full());
        room.let_in(peer(1), Progress::default(), pending());
        tokio::time::advance(Duration::from_millis(60)).await;
        progress.reach(Stage::Answer);
        let made = tokio::time::timeout(Duration::from_millis(30), one_is_ended(&mut room)).await;
        assert!(made.is_err(), "the other one is young");
        one_is_ended(&mut room).await;
        assert_eq!(left(&room), [(peer(1), Stage::Answer)]);
    }
}
