//! The place of one credential: its current token, its fetch, and its last failure.
//!
//! Requests only read the slot and leave demands, on which the slot's task ([`super::slot_task`]) acts. The only thing
//! that a request changes is to mark a refused token ([`TokenSlot::reject`]).

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::cache::TokenSource;
use super::state::{
    FetchFailure, HeldToken, Rejected, RetryCause, SharedStatus, SlotStatus, Token, TokenError,
};
use crate::clock::{Moment, SharedClock};
use crate::config::{CredentialKey, IssuerConfig};
use crate::trace::SpanContext;

/// A token that was fetched because of a 401 is kept this long, whatever the upstream responds.
const KEPT_AFTER_REJECTION: Duration = Duration::from_secs(10);
/// How often requests that meet a refusal have the credential's files read again.
const RECHECK_FILES_EVERY_MS: u64 = 1_000;
/// The value of [`TokenSlot::quiet_until`] during a fetch.
const FETCHING: u64 = u64::MAX;

const RETRY_OPERATOR: u8 = 1;
const RETRY_FILES: u8 = 2;

/// One credential's place. See the module documentation.
pub struct TokenSlot {
    pub(super) key: Arc<CredentialKey>,
    pub(super) issuer: Arc<IssuerConfig>,
    pub(super) source: Arc<dyn TokenSource>,
    pub(super) clock: SharedClock,
    pub(super) signals: Arc<Signals>,
    /// Filled by the slot's task, which empties it if the token's binding changed.
    pub(super) held: ArcSwapOption<HeldToken>,
    pub(super) failure: ArcSwapOption<FetchFailure>,
    /// The number of finished token requests, successful or not.
    ended: AtomicU64,
    /// The number of the fetch that somebody wants. `ended + 1` is the current or the next one.
    demanded: AtomicU64,
    /// Wakes the requests that wait for the end of a fetch.
    fetch_ended: Notify,
    /// By the boot clock, in milliseconds. Until then a wanted fetch has to wait, and a poke for a renewal has no
    /// effect.
    quiet_until: AtomicU64,
    /// By the boot clock, in milliseconds: when a request may next have the credential's files read.
    recheck_at: AtomicU64,
    retry_causes: AtomicU8,
    /// At least one token was fetched.
    pub(super) fetched_once: AtomicBool,
    /// The task fetches a token without a request, until it has got one.
    pub(super) prefetched: AtomicBool,
    /// No longer configured. Current requests still get tokens, and nothing is renewed.
    pub(super) retired: AtomicBool,
    waiting: AtomicUsize,
    waiters_limit: AtomicUsize,
    /// The tokens of other issuers that this one's token requests need.
    pub(super) inner: Vec<Arc<Self>>,
    /// Those that requests with the issuer's `standby` need.
    pub(super) inner_of_standby: Vec<Arc<Self>>,
    /// The slots whose token requests need this one's token.
    outer: ArcSwap<Vec<Weak<Self>>>,
    /// The first traced request that waits for the current or the next fetch.
    pub(super) first_waiter: ArcSwapOption<SpanContext>,
}

/// What wakes the slot's task. It outlives the slot, and so tells the task that the slot ended.
#[derive(Default)]
pub(super) struct Signals {
    pub(super) poked: Notify,
    /// The task has not handled the last poke yet.
    awake: AtomicBool,
    pub(super) closed: CancellationToken,
}

impl Signals {
    fn poke(&self) {
        if !self.awake.swap(true, Ordering::SeqCst) {
            self.poked.notify_one();
        }
    }

    #[cfg(test)]
    pub(super) fn is_poked(&self) -> bool {
        self.awake.load(Ordering::SeqCst)
    }

    /// Call this before reading the slot: whatever changes afterwards has to poke again.
    pub(super) fn look(&self) {
        self.awake.store(false, Ordering::SeqCst);
    }
}

impl TokenSlot {
    pub(super) fn new(
        key: CredentialKey,
        issuer: Arc<IssuerConfig>,
        source: Arc<dyn TokenSource>,
        clock: SharedClock,
        waiters: usize,
    ) -> Self {
        Self {
            key: Arc::new(key),
            issuer,
            source,
            clock,
            signals: Arc::default(),
            held: ArcSwapOption::empty(),
            failure: ArcSwapOption::empty(),
            ended: AtomicU64::new(0),
            demanded: AtomicU64::new(0),
            fetch_ended: Notify::new(),
            quiet_until: AtomicU64::new(0),
            recheck_at: AtomicU64::new(0),
            retry_causes: AtomicU8::new(0),
            fetched_once: AtomicBool::new(false),
            prefetched: AtomicBool::new(false),
            retired: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            waiters_limit: AtomicUsize::new(waiters),
            inner: Vec::new(),
            inner_of_standby: Vec::new(),
            outer: ArcSwap::default(),
            first_waiter: ArcSwapOption::empty(),
        }
    }

    /// Whose token it is.
    pub fn issuer(&self) -> &Arc<IssuerConfig> {
        &self.issuer
    }

    /// The slots of other issuers whose tokens this one's token requests need, with the credential that worked last.
    pub fn inner(&self) -> &[Arc<Self>] {
        if self.source.standby_in_use() { &self.inner_of_standby } else { &self.inner }
    }

    /// As [`Self::inner`], with either credential.
    pub fn inner_of_either(&self) -> impl Iterator<Item = &Arc<Self>> {
        let is_new = |slot: &&Arc<Self>| self.inner.iter().all(|known| !Arc::ptr_eq(known, slot));
        self.inner.iter().chain(self.inner_of_standby.iter().filter(is_new))
    }

    /// `outer` needs this slot's token.
    pub(super) fn used_by(&self, outer: &Arc<Self>) {
        self.outer.rcu(|known| {
            let living = known.iter().filter(|outer| outer.strong_count() > 0).cloned();
            living.chain([Arc::downgrade(outer)]).collect::<Vec<_>>()
        });
    }

    /// Whether a token that is in use was requested with this slot's token, so that this one is renewed too.
    pub(super) fn is_needed(&self) -> bool {
        let is_used =
            |slot: &Self| slot.held.load().as_ref().is_some_and(|held| held.used.load(Ordering::Relaxed));
        let takes_this = |outer: &Self| outer.inner().iter().any(|inner| std::ptr::eq(&**inner, self));
        let outer = self.outer.load();
        let mut outer = outer.iter().filter_map(Weak::upgrade);
        outer.any(|outer| takes_this(&outer) && (is_used(&outer) || outer.is_needed()))
    }

    /// The hot path: the current token if it may be sent now. Takes no lock. Notes the use, and pokes the task if the
    /// token is due for renewal.
    pub fn current(&self) -> Option<Arc<Token>> {
        let held = self.held.load();
        let held = held.as_ref()?;
        let now = self.now();
        if !self.serves(held, now) {
            return None;
        }
        held.note_use();
        if held.validity.is_due(now) && millis(now) >= self.quiet_until.load(Ordering::Acquire) {
            self.signals.poke();
        }
        Some(Arc::clone(&held.token))
    }

    /// Reports that an upstream refused the token of this generation.
    ///
    /// The first request that reports it starts a fetch, whether or not anybody waits. Later requests find it started.
    /// A response to an older token says nothing about the current one.
    pub fn reject(&self, generation: u64) -> Rejected {
        let held = self.held.load();
        let Some(current) = held.as_ref().filter(|held| held.token.generation == generation) else {
            return Rejected::Replace;
        };
        let age = self.now().boot.saturating_sub(current.fetched.boot);
        if current.forced && age < KEPT_AFTER_REJECTION {
            return Rejected::Keep;
        }
        // Read before the held token is checked again: any later replacement is this fetch.
        let next = self.ended() + 1;
        let first = !current.refused.swap(true, Ordering::SeqCst);
        if first && self.held.load().as_ref().is_some_and(|held| Arc::ptr_eq(held, current)) {
            self.demand(next);
            return Rejected::Dropped;
        }
        Rejected::Replace
    }

    /// The cold path: waits for the current fetch or starts one, at most for the issuer's `timeout`. During the pause
    /// after a failure it returns that failure at once.
    ///
    /// Any token newer than `generation` will do: 0 after [`Self::current`] had none, the refused token's generation
    /// after [`Rejected::Dropped`] or [`Rejected::Replace`]. `waiter` is the span of a request whose waiting is traced.
    ///
    /// # Errors
    /// The failure of the fetch, for all who waited for it; too many waiters; no response in time.
    pub async fn newer_than(
        self: Arc<Self>,
        generation: u64,
        waiter: Option<SpanContext>,
    ) -> Result<Arc<Token>, TokenError> {
        self.obtain(generation, waiter).await
    }

    /// Has the task fetch the token without a request, with the usual pauses, until it has got one. Returns at once.
    pub fn prefetch(&self) {
        self.prefetched.store(true, Ordering::SeqCst);
        self.signals.poke();
    }

    /// A snapshot for people and probes. It takes no part in any decision.
    pub fn status(&self) -> SlotStatus {
        let now = self.now();
        let held = self.held.load();
        // A refused token that is no longer used counts as none.
        let held = held.as_ref().filter(|held| self.serves(held, now) || !held.validity.may_be_sent(now));
        let state = match held {
            None => "none",
            Some(held) if held.validity.may_be_sent(now) => "valid",
            Some(_) => "expired",
        };
        let served = held.is_some_and(|held| held.is_sound(now));
        SlotStatus {
            key: CredentialKey::clone(&self.key),
            state,
            granted_scope: held.and_then(|held| held.token.granted_scope.clone()),
            fetched_at: held.map(|held| held.fetched.wall),
            expires_at: held.map(|held| held.validity.expires_at()),
            renew_at: held.map(|held| held.validity.renew_at()),
            fetching: self.is_fetching(),
            waiters: self.waiting.load(Ordering::Relaxed),
            last_error: self.failure.load().as_ref().map(|failure| failure.for_status(now, served)),
            fetched_once: self.fetched_once.load(Ordering::SeqCst),
            standby: self.source.standby_in_use(),
            shared: held.and_then(|held| held.shared.as_ref()).map(|shared| SharedStatus {
                generation: shared.generation,
                by: Arc::clone(&shared.by),
                own: shared.taken.is_none(),
            }),
        }
    }

    /// For SIGHUP, and for a changed file or learned value. A refused client is asked again at once (but never within 1
    /// s of the last request), and a token that is bound to what changed is replaced. Any other token stays. Returns at
    /// once.
    pub fn retry_now(&self, why: RetryCause) {
        let cause = match why {
            RetryCause::Operator => RETRY_OPERATOR,
            RetryCause::FilesChanged => RETRY_FILES,
        };
        self.retry_causes.fetch_or(cause, Ordering::SeqCst);
        self.signals.poke();
    }

    /// The issuer's `timeout`, which limits [`Self::newer_than`]. `None`: no limit.
    pub fn timeout(&self) -> Option<Duration> {
        self.issuer.timeout
    }

    /// Whether this token, which was taken some time ago, may still be sent.
    pub fn may_send(&self, token: &Token) -> bool {
        token.validity.may_be_sent(self.now())
    }

    /// What is left of this token's lifetime.
    pub fn time_left(&self, token: &Token) -> Duration {
        token.validity.time_left(self.now())
    }

    /// What identifies its token.
    pub fn key(&self) -> &CredentialKey {
        &self.key
    }

    /// The time of day by the clock that token lifetimes use.
    pub fn time_of_day(&self) -> SystemTime {
        self.clock.wall()
    }

    async fn obtain(&self, than: u64, waiter: Option<SpanContext>) -> Result<Arc<Token>, TokenError> {
        if let Some(result) = self.immediate_result(than) {
            return result;
        }
        let _waiting = Waiting::enlist(self)?;
        if let Some(waiter) = waiter.filter(|_| self.first_waiter.load().is_none()) {
            self.first_waiter.store(Some(Arc::new(waiter)));
        }
        match self.issuer.timeout {
            None => self.await_fetch(than).await,
            Some(limit) => tokio::time::timeout(limit, self.await_fetch(than))
                .await
                .unwrap_or_else(|_| self.refused_but_valid(than, limit)),
        }
    }

    async fn await_fetch(&self, than: u64) -> Result<Arc<Token>, TokenError> {
        loop {
            // Created before anything is read, so that a fetch that ends from here on wakes it.
            let fetch_ended = self.fetch_ended.notified();
            let seen = self.ended();
            if let Some(result) = self.immediate_result(than) {
                return result;
            }
            self.demand(seen + 1);
            fetch_ended.await;
            if let Some(token) = self.usable(than) {
                return Ok(token);
            }
            let failure = self.failure.load();
            if let Some(failure) = failure.as_ref().filter(|failure| failure.fetch > seen) {
                return Err(failure.error(self.now()));
            }
            // The token was dropped again, or the fetch ended before this request woke: this request waits for the next
            // fetch.
        }
    }

    /// What needs no wait: a usable token, or the failure whose pause is not over.
    fn immediate_result(&self, than: u64) -> Option<Result<Arc<Token>, TokenError>> {
        if let Some(token) = self.usable(than) {
            return Some(Ok(token));
        }
        let now = self.now();
        let failure = self.failure.load();
        let failure =
            failure.as_ref().filter(|failure| failure.is_in_force(now) || self.is_held_back(now))?;
        if self.is_fetching() {
            return None;
        }
        // Demands the next fetch, so that a later request need not wait.
        if self.demanded.load(Ordering::SeqCst) <= failure.fetch {
            self.demand(failure.fetch + 1);
        }
        if failure.is_about_the_credential() {
            self.recheck_files(now);
        }
        Some(Err(failure.error(now)))
    }

    fn usable(&self, than: u64) -> Option<Arc<Token>> {
        self.take(than, |held| self.serves(held, self.now()))
    }

    /// After a wait without success: a refused token that is still valid is better than none.
    fn refused_but_valid(&self, than: u64, waited: Duration) -> Result<Arc<Token>, TokenError> {
        self.take(than, |held| held.validity.may_be_sent(self.now()))
            .ok_or_else(|| TokenError::waited_in_vain(&self.issuer.name, waited))
    }

    fn take(&self, than: u64, may_be_used: impl FnOnce(&HeldToken) -> bool) -> Option<Arc<Token>> {
        let held = self.held.load();
        let held = held.as_ref().filter(|held| held.token.generation > than && may_be_used(held))?;
        held.note_use();
        Some(Arc::clone(&held.token))
    }

    /// A refused token stays in use if no new one is available, unless the issuer refuses as well.
    pub(super) fn serves(&self, held: &HeldToken, now: Moment) -> bool {
        let none_to_be_had = || self.failure.load().as_ref().is_some_and(|failure| !failure.error.is_final());
        held.validity.may_be_sent(now) && (!held.is_refused() || none_to_be_had())
    }

    /// Has the slot's task check the credential's files, at most once a second.
    fn recheck_files(&self, now: Moment) {
        let now = millis(now);
        let next = self.recheck_at.load(Ordering::Relaxed);
        let later = now.saturating_add(RECHECK_FILES_EVERY_MS);
        let free = now >= next
            && self.recheck_at.compare_exchange(next, later, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if free {
            self.retry_now(RetryCause::FilesChanged);
        }
    }

    pub(super) fn demand(&self, fetch: u64) {
        self.demanded.fetch_max(fetch, Ordering::SeqCst);
        self.signals.poke();
    }

    pub(super) fn is_demanded(&self) -> bool {
        self.demanded.load(Ordering::SeqCst) > self.ended()
    }

    pub(super) fn ended(&self) -> u64 {
        self.ended.load(Ordering::SeqCst)
    }

    /// Ends the fetch of this number. Its result must be in the slot already.
    pub(super) fn finish(&self, fetch: u64) {
        self.set_quiet_until(None);
        self.ended.store(fetch, Ordering::SeqCst);
        self.fetch_ended.notify_waiters();
    }

    pub(super) fn start_fetch(&self) {
        self.quiet_until.store(FETCHING, Ordering::SeqCst);
    }

    pub(super) fn set_quiet_until(&self, boot: Option<Duration>) {
        let until = boot.map_or(0, |boot| u64::try_from(boot.as_millis()).unwrap_or(FETCHING - 1));
        self.quiet_until.store(until, Ordering::SeqCst);
    }

    /// A fetch is wanted, and the slot's task waits for the end of a pause.
    fn is_held_back(&self, now: Moment) -> bool {
        millis(now) < self.quiet_until.load(Ordering::SeqCst)
    }

    fn is_fetching(&self) -> bool {
        self.quiet_until.load(Ordering::SeqCst) == FETCHING
    }

    /// Takes what [`Self::retry_now`] left: (operator, files).
    pub(super) fn take_retry_causes(&self) -> (bool, bool) {
        let causes = self.retry_causes.swap(0, Ordering::SeqCst);
        (causes & RETRY_OPERATOR != 0, causes & RETRY_FILES != 0)
    }

    /// Whether requests wait for a token now.
    pub(super) fn has_waiters(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    pub(super) fn set_waiters(&self, waiters: usize) {
        self.waiters_limit.store(waiters, Ordering::Relaxed);
    }

    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::SeqCst);
    }

    pub(super) fn now(&self) -> Moment {
        Moment::now(&*self.clock)
    }
}

impl Drop for TokenSlot {
    fn drop(&mut self) {
        self.signals.closed.cancel();
    }
}

/// Counts a waiting request until it leaves, in whatever way.
struct Waiting<'a>(&'a TokenSlot);

impl<'a> Waiting<'a> {
    fn enlist(slot: &'a TokenSlot) -> Result<Self, TokenError> {
        let limit = slot.waiters_limit.load(Ordering::Relaxed);
        if slot.waiting.fetch_add(1, Ordering::Relaxed) >= limit {
            slot.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(TokenError::overloaded(&slot.issuer.name, limit));
        }
        slot.source.waiting();
        Ok(Self(slot))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
        self.0.source.waited();
    }
}

fn millis(now: Moment) -> u64 {
    u64::try_from(now.boot.as_millis()).unwrap_or(FETCHING - 1)
}
