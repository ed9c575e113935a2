//! What a slot's task does next. Pure.

use std::time::Duration;

use super::life::{Life, Moment};

/// However short a token lives: its issuer is not asked more often, except for a refused token's successor.
const BETWEEN_REQUESTS: Duration = Duration::from_secs(1);

/// What is to be done now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NextStep {
    Fetch,
    /// At least so long there is nothing to do, unless poked; `None`: until poked.
    Sleep(Option<Duration>),
    /// A fetch is wanted, but must wait: pokes for a due renewal are of no use until then. Whether it is still wanted is
    /// looked at again when the held token ends.
    Hold {
        pause: Duration,
        worth_it_for: Duration,
    },
}

/// All that decides about the next step.
pub(super) struct View {
    pub(super) now: Moment,
    /// A request, a refusal or an operator wants a token.
    pub(super) demanded: bool,
    /// To be fetched without a request, and never was.
    pub(super) owed: bool,
    pub(super) held: Option<HeldView>,
    /// The end of the present failure's pause, by the boot clock.
    pub(super) retry_at: Option<Duration>,
    /// The issuer was away, and is back.
    pub(super) is_back: bool,
    /// When the issuer was last asked, by the boot clock.
    pub(super) asked_at: Option<Duration>,
    /// There was a token, and it is refused by an upstream, or was bound to what has changed.
    pub(super) lost: bool,
    pub(super) retired: bool,
}

#[derive(Clone, Copy)]
pub(super) struct HeldView {
    pub(super) life: Life,
    pub(super) used: bool,
    pub(super) refused: bool,
}

impl View {
    pub(super) fn step(&self) -> NextStep {
        if !self.is_wanted() {
            // An unused token is looked at again when it is due: it may have been used until then.
            let held = self.held.filter(|held| !self.retired && !held.life.is_due(self.now));
            return NextStep::Sleep(held.map(|held| held.life.due_in(self.now)));
        }
        let floor = self.asked_at.filter(|_| !self.lost).map(|asked| asked + BETWEEN_REQUESTS);
        let pause = self.retry_at.filter(|_| !self.is_back);
        match floor.max(pause).map(|earliest| earliest.saturating_sub(self.now.boot)) {
            Some(pause) if !pause.is_zero() => NextStep::Hold { pause, worth_it_for: self.worth_it_for() },
            Some(_) | None => NextStep::Fetch,
        }
    }

    /// A renewal that failed is worth it until the token ends: from then on only calls are a reason to ask.
    fn worth_it_for(&self) -> Duration {
        let renewal = self.held.filter(|held| !self.demanded && held.life.may_be_sent(self.now));
        renewal.map_or(Duration::MAX, |held| held.life.left(self.now))
    }

    fn is_wanted(&self) -> bool {
        let renewal = self.held.is_some_and(|HeldView { life, used, refused }| {
            // Once it may not be sent and asking failed, only calls are a reason to go on asking.
            let worth_it = life.may_be_sent(self.now) || self.retry_at.is_none();
            used && (refused || life.is_due(self.now)) && worth_it
        });
        self.demanded || (!self.retired && (self.owed || renewal))
    }
}
