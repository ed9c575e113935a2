//! One credential's place: the current token, its fetch, its last failure.
//!
//! Requests only read what stands here and leave wishes behind; the slot's task ([`super::slot_task`]) acts on them.
//! The one thing that a request changes is to mark a refused token ([`TokenSlot::reject`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::cache::TokenSource;
use super::schedule::Moment;
use super::state::{HeldToken, Rejected, RetryCause, SlotStatus, Token, TokenError, Trouble};
use crate::clock::SharedClock;
use crate::config::{CredentialKey, IssuerConfig};
use crate::trace::SpanContext;

/// A token fetched because of a 401 is kept this long, whatever the upstream says.
const KEPT_AFTER_REJECTION: Duration = Duration::from_secs(10);
/// How often calls that meet a refusal have the credential's files read again.
const FINGERPRINT_EVERY_MS: u64 = 1_000;
/// [`TokenSlot::quiet_until`] while a request is under way.
const IN_FLIGHT: u64 = u64::MAX;

const RETRY_OPERATOR: u8 = 1;
const RETRY_FILES: u8 = 2;

/// See the module.
pub struct TokenSlot {
    pub(super) key: Arc<CredentialKey>,
    pub(super) issuer: Arc<IssuerConfig>,
    pub(super) source: Arc<dyn TokenSource>,
    pub(super) clock: SharedClock,
    pub(super) signals: Arc<Signals>,
    /// Filled by the slot's task, and emptied by it where the token's binding changed.
    pub(super) held: ArcSwapOption<HeldToken>,
    pub(super) trouble: ArcSwapOption<Trouble>,
    /// Token requests that ended, well or not.
    ended: AtomicU64,
    /// The number of the fetch that somebody wants: one above `ended` is the next, or the one under way.
    demanded: AtomicU64,
    /// Wakes those who wait for a fetch's end.
    landed: Notify,
    /// Milliseconds of the boot clock: until then a fetch that is wanted has to wait, and it is no use to poke because
    /// a renewal is due.
    quiet_until: AtomicU64,
    /// Milliseconds of the boot clock: when a request may next have the credential's files read.
    fingerprint_at: AtomicU64,
    retry_causes: AtomicU8,
    /// At least one token came.
    pub(super) fetched_once: AtomicBool,
    /// To be fetched without a request, until it was once.
    pub(super) prefetched: AtomicBool,
    /// No longer configured: calls under way are still served, nothing is renewed.
    pub(super) retired: AtomicBool,
    waiting: AtomicUsize,
    waiters_limit: AtomicUsize,
    /// The first traced call that waits for the fetch under way, or for the next one.
    pub(super) first_waiter: ArcSwapOption<SpanContext>,
}

/// What the slot's task listens to; it outlives the slot, and so tells the task of its end.
#[derive(Default)]
pub(super) struct Signals {
    pub(super) poked: Notify,
    /// A poke was sent that the task has not looked at yet.
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

    /// The task looks at everything after this, so what comes later must poke again.
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
            trouble: ArcSwapOption::empty(),
            ended: AtomicU64::new(0),
            demanded: AtomicU64::new(0),
            landed: Notify::new(),
            quiet_until: AtomicU64::new(0),
            fingerprint_at: AtomicU64::new(0),
            retry_causes: AtomicU8::new(0),
            fetched_once: AtomicBool::new(false),
            prefetched: AtomicBool::new(false),
            retired: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            waiters_limit: AtomicUsize::new(waiters),
            first_waiter: ArcSwapOption::empty(),
        }
    }

    /// The hot path: the current token where it may be sent now. Lock-free. Notes the use, and pokes the renewal
    /// where it is due.
    pub fn current(&self) -> Option<Arc<Token>> {
        let held = self.held.load();
        let held = held.as_ref()?;
        let now = self.now();
        if !self.serves(held, now) {
            return None;
        }
        held.note_use();
        if held.life.is_due(now) && millis(now) >= self.quiet_until.load(Ordering::Acquire) {
            self.signals.poke();
        }
        Some(Arc::clone(&held.token))
    }

    /// An upstream refused the token of this generation.
    ///
    /// The first request that says so has a new one fetched, whether or not anybody waits; the requests after it find that
    /// done. A response about an older token says nothing about the present one.
    pub fn reject(&self, generation: u64) -> Rejected {
        let held = self.held.load();
        let Some(current) = held.as_ref().filter(|held| held.token.generation == generation) else {
            return Rejected::Replace;
        };
        let age = self.now().boot.saturating_sub(current.fetched.boot);
        if current.forced && age < KEPT_AFTER_REJECTION {
            return Rejected::Keep;
        }
        // Read before it is seen that the token is still held: whatever takes its place from then on is this fetch.
        let next = self.ended() + 1;
        let first = !current.refused.swap(true, Ordering::SeqCst);
        if first && self.held.load().as_ref().is_some_and(|held| Arc::ptr_eq(held, current)) {
            self.demand(next);
            return Rejected::Dropped;
        }
        Rejected::Replace
    }

    /// The cold path: waits for the fetch under way, or starts one; at most the issuer's `timeout`. After a failure
    /// that is still in force it answers at once.
    ///
    /// Any token that is newer than `generation` will do: 0 after [`Self::current`] had none, the refused token's after
    /// [`Rejected::Dropped`] or [`Rejected::Replace`]. `waiter`: the span of a request whose waiting is traced.
    ///
    /// # Errors
    /// The failure of the fetch that was waited for, to all who waited; too many waiters; no response in time.
    pub async fn newer_than(
        self: Arc<Self>,
        generation: u64,
        waiter: Option<SpanContext>,
    ) -> Result<Arc<Token>, TokenError> {
        self.obtain(generation, waiter).await
    }

    /// Fetches the token without a request, again and again (with the usual pauses) until it was fetched once.
    /// Returns at once.
    pub fn prefetch(&self) {
        self.prefetched.store(true, Ordering::SeqCst);
        self.signals.poke();
    }

    /// A snapshot for people and probes; takes no part in any decision.
    pub fn status(&self) -> SlotStatus {
        let now = self.now();
        let held = self.held.load();
        // A refused token that does not serve on is as good as none.
        let held = held.as_ref().filter(|held| self.serves(held, now) || !held.life.may_be_sent(now));
        let state = match held {
            None => "none",
            Some(held) if held.life.may_be_sent(now) => "valid",
            Some(_) => "expired",
        };
        let served = held.is_some_and(|held| held.is_sound(now));
        SlotStatus {
            key: CredentialKey::clone(&self.key),
            state,
            granted_scope: held.and_then(|held| held.granted_scope.clone()),
            fetched_at: held.map(|held| held.fetched.wall),
            expires_at: held.map(|held| held.life.expires_at()),
            renew_at: held.map(|held| held.life.renew_at()),
            fetching: self.is_in_flight(),
            waiters: self.waiting.load(Ordering::Relaxed),
            last_error: self.trouble.load().as_ref().map(|trouble| trouble.for_status(now, served)),
            fetched_once: self.fetched_once.load(Ordering::SeqCst),
            standby: self.source.standby_in_use(),
        }
    }

    /// SIGHUP, or a changed file or learned value: a refused client is asked again at once (but never within 1 s of the
    /// last try), and a token that is bound to what changed is replaced. Any other token stays. Returns at once.
    pub fn retry_now(&self, why: RetryCause) {
        let cause = match why {
            RetryCause::Operator => RETRY_OPERATOR,
            RetryCause::FilesChanged => RETRY_FILES,
        };
        self.retry_causes.fetch_or(cause, Ordering::SeqCst);
        self.signals.poke();
    }

    /// The issuer's `timeout`: the longest that [`Self::newer_than`] takes; `None`: no limit.
    pub fn timeout(&self) -> Option<Duration> {
        self.issuer.timeout
    }

    /// Whether this token, which was taken some time ago, may still be sent.
    pub fn may_send(&self, token: &Token) -> bool {
        token.life.may_be_sent(self.now())
    }

    /// The time of day, by the clock that tokens live by.
    pub fn time_of_day(&self) -> SystemTime {
        self.clock.wall()
    }

    async fn obtain(&self, than: u64, waiter: Option<SpanContext>) -> Result<Arc<Token>, TokenError> {
        if let Some(answer) = self.answer_at_once(than) {
            return answer;
        }
        let _waiting = Waiting::enlist(self)?;
        if let Some(waiter) = waiter.filter(|_| self.first_waiter.load().is_none()) {
            self.first_waiter.store(Some(Arc::new(waiter)));
        }
        match self.issuer.timeout {
            None => self.await_flight(than).await,
            Some(limit) => tokio::time::timeout(limit, self.await_flight(than))
                .await
                .unwrap_or_else(|_| self.stopgap(than, limit)),
        }
    }

    async fn await_flight(&self, than: u64) -> Result<Arc<Token>, TokenError> {
        loop {
            // Made before anything is read: a fetch that ends from here on wakes it.
            let landed = self.landed.notified();
            let seen = self.ended();
            if let Some(answer) = self.answer_at_once(than) {
                return answer;
            }
            self.demand(seen + 1);
            landed.await;
            if let Some(token) = self.usable(than) {
                return Ok(token);
            }
            let trouble = self.trouble.load();
            if let Some(trouble) = trouble.as_ref().filter(|trouble| trouble.fetch > seen) {
                return Err(trouble.error(self.now()));
            }
            // It was dropped again, or ended before this request woke: the next fetch is this request's.
        }
    }

    /// What needs no waiting: a usable token, or a failure that is in force while nobody asks the issuer.
    fn answer_at_once(&self, than: u64) -> Option<Result<Arc<Token>, TokenError>> {
        if let Some(token) = self.usable(than) {
            return Some(Ok(token));
        }
        let now = self.now();
        let trouble = self.trouble.load();
        let trouble =
            trouble.as_ref().filter(|trouble| trouble.is_in_force(now) || self.is_held_back(now))?;
        if self.is_in_flight() {
            return None;
        }
        // Requests come: ask again as soon as that is allowed, so that a later request need not wait.
        if self.demanded.load(Ordering::SeqCst) <= trouble.fetch {
            self.demand(trouble.fetch + 1);
        }
        if trouble.is_about_the_credential() {
            self.look_at_files(now);
        }
        Some(Err(trouble.error(now)))
    }

    fn usable(&self, than: u64) -> Option<Arc<Token>> {
        self.take(than, |held| self.serves(held, self.now()))
    }

    /// After waiting in vain: a refused token that is still valid is better than none.
    fn stopgap(&self, than: u64, waited: Duration) -> Result<Arc<Token>, TokenError> {
        self.take(than, |held| held.life.may_be_sent(self.now()))
            .ok_or_else(|| TokenError::waited_in_vain(&self.issuer.name, waited))
    }

    fn take(&self, than: u64, may_be_used: impl FnOnce(&HeldToken) -> bool) -> Option<Arc<Token>> {
        let held = self.held.load();
        let held = held.as_ref().filter(|held| held.token.generation > than && may_be_used(held))?;
        held.note_use();
        Some(Arc::clone(&held.token))
    }

    /// A refused token serves on where no new one can be had, unless because the issuer refuses as well.
    pub(super) fn serves(&self, held: &HeldToken, now: Moment) -> bool {
        let none_to_be_had = || self.trouble.load().as_ref().is_some_and(|trouble| !trouble.error.is_final());
        held.life.may_be_sent(now) && (!held.is_refused() || none_to_be_had())
    }

    /// Has the credential's files looked at, by the slot's task and at most once a second.
    fn look_at_files(&self, now: Moment) {
        let now = millis(now);
        let next = self.fingerprint_at.load(Ordering::Relaxed);
        let later = now.saturating_add(FINGERPRINT_EVERY_MS);
        let free = now >= next
            && self
                .fingerprint_at
                .compare_exchange(next, later, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
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

    /// Ends the fetch of this number. What it brought must stand in the slot already.
    pub(super) fn finish(&self, fetch: u64) {
        self.set_quiet_until(None);
        self.ended.store(fetch, Ordering::SeqCst);
        self.landed.notify_waiters();
    }

    pub(super) fn start_fetch(&self) {
        self.quiet_until.store(IN_FLIGHT, Ordering::SeqCst);
    }

    pub(super) fn set_quiet_until(&self, boot: Option<Duration>) {
        let until = boot.map_or(0, |boot| u64::try_from(boot.as_millis()).unwrap_or(IN_FLIGHT - 1));
        self.quiet_until.store(until, Ordering::SeqCst);
    }

    /// A fetch is wanted, and the slot's task waits with it.
    fn is_held_back(&self, now: Moment) -> bool {
        millis(now) < self.quiet_until.load(Ordering::SeqCst)
    }

    fn is_in_flight(&self) -> bool {
        self.quiet_until.load(Ordering::SeqCst) == IN_FLIGHT
    }

    /// Takes the wishes left by [`Self::retry_now`]: (operator, files).
    pub(super) fn take_retry_causes(&self) -> (bool, bool) {
        let causes = self.retry_causes.swap(0, Ordering::SeqCst);
        (causes & RETRY_OPERATOR != 0, causes & RETRY_FILES != 0)
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

/// A request that waits: counted until it leaves, however it leaves.
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
    u64::try_from(now.boot.as_millis()).unwrap_or(IN_FLIGHT - 1)
}
