//! A slot's task, the only one that asks the issuer for the slot's token.
//!
//! It sleeps until there is something to do or somebody pokes it, and ends with the slot, which it holds weakly between
//! its steps. It makes one token request at a time, in a task of its own, so that not even a panic in there ends the
//! slot's task.

use std::borrow::Cow;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use tokio::task::JoinError;
use tokio_util::task::AbortOnDropHandle;

use super::chain::InnerTokens;
use super::probe::{ProbeWatch, Probes};
use super::schedule::{HeldTokenView, NextStep, SlotView, Validity};
use super::shared::{Fetched, Sharing, Want};
use super::slot::{Signals, TokenSlot};
use super::state::{FetchFailure, HeldToken, Token};
use crate::clock::Moment;
use crate::config::{IssuerConfig, TokenEndpoint};
use crate::issuer::{FailureKind, Grant, IssuerError};
use crate::telemetry::Repeated;
use crate::trace::{SpanContext, SpanKind, Tracer};

/// When a changed file counts as complete ([`crate::config::Source::to_send`]).
const SETTLED: Duration = Duration::from_millis(1_100);

/// How a fetch ended.
enum FetchEnd {
    Completed(Result<Result<Fetched, IssuerError>, JoinError>),
    /// Meanwhile the token that was held at the start was refused or its binding changed, so the result is of no use.
    Superseded,
    SlotGone,
}

/// What is known at the start of a fetch.
struct Fetch {
    number: u64,
    asked: Moment,
    before: Option<Arc<HeldToken>>,
    /// An upstream had refused the held token before.
    forced: bool,
    fingerprint: [u8; 32],
    binding: [u8; 32],
}

impl Fetch {
    /// Whether the refusal was the only reason for the fetch. A refused token that had expired as well would have been
    /// replaced anyway, and its successor is a token like any other.
    fn replaces_a_refused_token(&self) -> bool {
        self.forced && self.before.as_ref().is_some_and(|before| before.validity.may_be_sent(self.asked))
    }

    /// The held token, if the issuer gave out the same one again and it can stay: no upstream refused it.
    fn same_token(&self, grant: &Grant) -> Option<&Arc<HeldToken>> {
        let before = self.before.as_ref()?;
        let same = before.token.secret.expose() == grant.token.expose();
        (same && !before.is_refused()).then_some(before)
    }

    /// The held token changed since the start, or was refused since.
    fn is_superseded(&self, held: Option<&Arc<HeldToken>>) -> bool {
        let refused = held.is_some_and(|held| held.is_refused());
        !is_same(self.before.as_ref(), held) || (refused && !self.forced)
    }
}

pub(super) struct SlotTask {
    slot: Weak<TokenSlot>,
    signals: Arc<Signals>,
    /// The generation of the last token.
    generation: u64,
    asked_at: Option<Duration>,
    /// Reasons to ask again that came during a fetch.
    causes: Causes,
    /// By the boot clock: when to check files again that may have been incomplete before.
    recheck_files_at: Option<Duration>,
    probes: Arc<Probes>,
    sharing: Sharing,
    /// Watches the issuer that the fetch of this number could not reach.
    watch: Option<(u64, ProbeWatch)>,
    is_back: bool,
    /// Limits the warnings about the current failure.
    repeated: Repeated,
}

/// The arguments of [`TokenSlot::retry_now`] since the last step.
#[derive(Debug, Clone, Copy, Default)]
struct Causes {
    operator: bool,
    files: bool,
}

impl SlotTask {
    pub(super) fn new(slot: &Arc<TokenSlot>, probes: Arc<Probes>, sharing: Sharing) -> Self {
        Self {
            slot: Arc::downgrade(slot),
            signals: Arc::clone(&slot.signals),
            generation: 0,
            asked_at: None,
            causes: Causes::default(),
            recheck_files_at: None,
            probes,
            sharing,
            watch: None,
            is_back: false,
            repeated: Repeated::default(),
        }
    }

    /// Runs until nobody holds the slot any more.
    pub(super) async fn run(mut self) {
        while let Some(step) = self.next_step() {
            let pause = match step {
                NextStep::Fetch => {
                    self.fetch().await;
                    continue;
                }
                NextStep::Hold { pause, useful_for } => Some(pause.min(useful_for)),
                NextStep::Sleep(pause) => pause,
            };
            let pause = self.until_recheck(pause);
            tokio::select! {
                () = self.signals.closed.cancelled() => return,
                () = self.signals.poked.notified() => {}
                () = became_reachable(&mut self.watch), if !self.is_back => self.is_back = true,
                () = sleep(pause) => {}
            }
        }
    }

    /// The pause, or the time until files are checked again if that is shorter.
    fn until_recheck(&self, pause: Option<Duration>) -> Option<Duration> {
        let now = self.slot.upgrade()?.now().boot;
        let look = self.recheck_files_at.map(|at| at.saturating_sub(now));
        pause.into_iter().chain(look).min()
    }

    fn next_step(&mut self) -> Option<NextStep> {
        self.signals.look();
        let slot = self.slot.upgrade()?;
        self.take_causes(&slot, None);
        end_pause(&slot, std::mem::take(&mut self.causes));
        let now = slot.now();
        let (held, failure) = (slot.held.load(), slot.failure.load());
        let sound = held.as_ref().is_some_and(|held| held.is_sound(now));
        let mut view = SlotView {
            now,
            demanded: slot.is_demanded(),
            owed: slot.prefetched.load(Ordering::SeqCst) && self.generation == 0,
            held: held.as_ref().map(|held| HeldTokenView {
                validity: held.validity,
                used: held.used.load(Ordering::Relaxed) || slot.is_needed(),
                refused: held.is_refused(),
            }),
            retry_at: failure.as_ref().map(|failure| failure.retry_at(sound, self.watches(failure))),
            is_back: self.is_back,
            asked_at: self.asked_at,
            lost: self.generation > 0 && held.as_ref().is_none_or(|held| held.is_refused()),
            retired: slot.retired.load(Ordering::SeqCst),
        };
        let mut step = view.step();
        self.probe_if_needed(&step, failure.as_deref());
        if let (NextStep::Hold { .. }, Some(failure)) = (&step, &*failure) {
            // A probe that started just now may make the pause longer.
            view.retry_at = Some(failure.retry_at(sound, self.watches(failure)));
            step = view.step();
        }
        slot.set_quiet_until(match step {
            NextStep::Hold { pause, .. } => Some(now.boot.saturating_add(pause)),
            NextStep::Fetch | NextStep::Sleep(_) => None,
        });
        Some(step)
    }

    fn watches(&self, failure: &FetchFailure) -> bool {
        self.watch.as_ref().is_some_and(|(of, _)| *of == failure.fetch)
    }

    /// Probes an issuer that could not be reached, as long as a token is wanted.
    fn probe_if_needed(&mut self, step: &NextStep, failure: Option<&FetchFailure>) {
        let wanted = failure.filter(|_| matches!(step, NextStep::Hold { .. }));
        let unreached = wanted.and_then(|failure| Some((failure.fetch, failure.error.unreached.as_ref()?)));
        self.watch = match (unreached, self.watch.take()) {
            (Some((fetch, _)), Some((of, watch))) if of == fetch => Some((of, watch)),
            // The old watch ends after the new one has started, so that the probe goes on.
            (Some((fetch, unreached)), _before) => Some((fetch, self.probes.watch(unreached))),
            (None, _) => None,
        };
    }

    /// Takes what [`TokenSlot::retry_now`] left, and drops a token whose binding changed since. Returns `true` if the
    /// binding of the current `fetch` changed as well.
    fn take_causes(&mut self, slot: &TokenSlot, fetch: Option<&Fetch>) -> bool {
        let (operator, files) = slot.take_retry_causes();
        let now = slot.now().boot;
        if operator || files {
            self.recheck_files_at = Some(now + SETTLED);
        } else if self.recheck_files_at.take_if(|at| *at <= now).is_none() {
            return false;
        }
        self.causes.operator |= operator;
        self.causes.files |= !operator;
        let held = slot.held.load_full();
        if held.is_none() && fetch.is_none() {
            return false;
        }
        let binding = slot.source.binding_fingerprint(&slot.key);
        if let Some(held) = held.filter(|held| held.binding != binding) {
            let before = slot.held.compare_and_swap(&held, None);
            if before.as_ref().is_some_and(|before| Arc::ptr_eq(before, &held)) {
                slot.demand(slot.ended() + 1);
                log_binding_change(slot);
            }
        }
        fetch.is_some_and(|fetch| fetch.binding != binding)
    }

    /// Asks the issuer once, and puts the result into the slot.
    async fn fetch(&mut self) {
        let Some((fetch, request)) = self.start_fetch() else { return };
        let end = self.await_end(request, &fetch).await;
        let Some(slot) = self.slot.upgrade() else { return };
        let now = slot.now();
        // Taken before the fetch ends: a request that waits from then on waits for the next one.
        let waiter = slot.first_waiter.swap(None);
        let (mut status, mut asked, mut took) = (None, true, None);
        let outcome = match end {
            FetchEnd::SlotGone => return,
            FetchEnd::Superseded => log_superseded(&slot),
            FetchEnd::Completed(result) => {
                let result = result.unwrap_or_else(|fault| Err(internal_fault(&slot, &fault)));
                status = result.as_ref().err().and_then(|error| error.http_status);
                asked = was_asked(&result);
                if let Ok(fetched) = result.as_ref()
                    && asked
                {
                    // It may have waited for its values.
                    self.asked_at = Some(fetched.grant.asked.boot);
                }
                took = Some(result.as_ref().map_or_else(|error| error.took, |fetched| fetched.grant.took));
                self.publish(&slot, &fetch, result, now)
            }
        };
        if !asked {
            return;
        }
        slot.source.requested(outcome, took);
        if let Some(tracer) = slot.source.tracer() {
            let started = took.map_or(fetch.asked, |took| now.before(took)).wall;
            record_span(&tracer, &slot.issuer, started, outcome, status, waiter.as_deref());
        }
    }

    fn start_fetch(&mut self) -> Option<(Fetch, AbortOnDropHandle<Result<Fetched, IssuerError>>)> {
        let slot = self.slot.upgrade()?;
        slot.start_fetch();
        let before = slot.held.load_full();
        // Read before the request reads them: a change in between costs one request, but is not missed.
        let fingerprint = slot.source.credential_fingerprint();
        let binding = slot.source.binding_fingerprint(&slot.key);
        let asked = slot.now();
        let forced = before.as_ref().is_some_and(|held| held.is_refused());
        self.is_back = false;
        self.asked_at = Some(asked.boot);
        let (source, key) = (Arc::clone(&slot.source), Arc::clone(&slot.key));
        let want = self.want(&slot, before.as_deref(), asked);
        let (sharing, issuer) = (self.sharing.clone(), Arc::clone(&slot.issuer));
        let request = tokio::spawn(async move { sharing.fetch(&*source, &issuer, &key, want).await });
        let fetch = Fetch { number: slot.ended() + 1, asked, before, forced, fingerprint, binding };
        Some((fetch, AbortOnDropHandle::new(request)))
    }

    fn want(&self, slot: &TokenSlot, held: Option<&HeldToken>, now: Moment) -> Want {
        let waiting = Weak::clone(&self.slot);
        Want {
            have: held.and_then(|held| held.shared.as_ref()).map_or(0, |shared| shared.generation),
            refused: held.is_some_and(HeldToken::is_refused),
            inner: Arc::new(InnerTokens::new(slot.inner_of_either())),
            prepared: false,
            left: held
                .filter(|held| slot.serves(held, now) && !held.is_refused())
                .map_or(Duration::ZERO, |held| held.validity.left(now)),
            hurried: Arc::new(move || waiting.upgrade().is_some_and(|slot| slot.has_waiters())),
        }
    }

    async fn await_end(
        &mut self,
        mut request: AbortOnDropHandle<Result<Fetched, IssuerError>>,
        fetch: &Fetch,
    ) -> FetchEnd {
        loop {
            tokio::select! {
                result = &mut request => return FetchEnd::Completed(result),
                () = self.signals.closed.cancelled() => return FetchEnd::SlotGone,
                () = self.signals.poked.notified() => self.signals.look(),
            }
            let Some(slot) = self.slot.upgrade() else { return FetchEnd::SlotGone };
            if self.take_causes(&slot, Some(fetch)) {
                slot.demand(fetch.number);
                return FetchEnd::Superseded;
            }
            if fetch.is_superseded(slot.held.load().as_ref()) {
                return FetchEnd::Superseded;
            }
        }
    }

    /// Puts the result of a fetch into the slot. Returns the outcome's name, for metrics.
    fn publish(
        &mut self,
        slot: &TokenSlot,
        fetch: &Fetch,
        result: Result<Fetched, IssuerError>,
        now: Moment,
    ) -> &'static str {
        match result.and_then(|fetched| self.hold(slot, fetch, fetched, now)) {
            Ok(held) => {
                if fetch.is_superseded(slot.held.load().as_ref()) {
                    return log_superseded(slot);
                }
                let before = slot.held.compare_and_swap(&fetch.before, Some(Arc::clone(&held)));
                if !is_same(fetch.before.as_ref(), before.as_ref()) {
                    return log_superseded(slot);
                }
                self.generation = held.token.generation;
                let recovered = slot.failure.swap(None);
                slot.fetched_once.store(true, Ordering::SeqCst);
                slot.finish(fetch.number);
                let kept = fetch.before.as_ref().is_some_and(|before| held.is_same_token(before));
                log_success(slot, &held, recovered.as_deref(), kept);
                "ok"
            }
            Err(error) => {
                let outcome = outcome_of(&error);
                let before = slot.failure.load();
                if before.as_ref().is_none_or(|before| !before.is_same_as(&error)) {
                    self.repeated = Repeated::default();
                }
                let in_a_row = before.as_ref().map_or(0, |before| before.in_a_row).saturating_add(1);
                let left = slot.held.load().as_ref().map_or(Duration::ZERO, |held| held.validity.left(now));
                let failure = FetchFailure::new(error, now, in_a_row, left, fetch.fingerprint, fetch.number);
                let failure = Arc::new(failure);
                slot.failure.store(Some(Arc::clone(&failure)));
                slot.finish(fetch.number);
                let due = match failure.error.kind {
                    // All tokens of the issuer have the same budget.
                    FailureKind::Budget => slot.source.budget_warning_due(),
                    _ => self.repeated.due(now.boot),
                };
                log_failure(slot, &failure, now, due);
                outcome
            }
        }
    }

    fn hold(
        &self,
        slot: &TokenSlot,
        fetch: &Fetch,
        fetched: Fetched,
        now: Moment,
    ) -> Result<Arc<HeldToken>, IssuerError> {
        let issuer = &slot.issuer;
        let taken = fetched.taken();
        let Fetched { grant, shared } = fetched;
        let (asked, lifetime) = (grant.asked, grant.lifetime(issuer.default_lifetime));
        let (refresh_at, chance) = (issuer.refresh_at, fastrand::f64());
        let kept = fetch.same_token(&grant).and_then(|before| {
            let validity = before.validity.again(asked, lifetime, refresh_at, chance);
            validity.may_be_sent(now).then_some((before, validity))
        });
        let validity =
            kept.map_or_else(|| Validity::new(asked, lifetime, refresh_at, chance), |(_, validity)| validity);
        if !validity.may_be_sent(now) {
            return Err(unusable(format!(
                "issuer {} granted a token with a lifetime of {} s from the request on, and took longer than that to respond",
                issuer.name,
                lifetime.as_secs()
            ))
            .advise("configure a longer lifetime at the issuer, or make it respond faster"));
        }
        let before = kept.map(|(before, _)| before);
        let generation = before.map_or(self.generation + 1, |before| before.token.generation);
        let token = Token::new(grant, generation, validity);
        let token = token.map_err(|_| {
            unusable(format!(
                "issuer {} granted a token with characters that a header field must not contain",
                issuer.name
            ))
        })?;
        let replaces = fetch.replaces_a_refused_token();
        Ok(Arc::new(HeldToken {
            token: Arc::new(token),
            validity,
            // Of a token that another replica fetched because of a 401, the age counts from then.
            fetched: match (before, taken) {
                (Some(before), _) => before.fetched,
                (None, Some(_)) if !replaces => asked,
                (None, _) => now,
            },
            forced: before
                .map_or_else(|| replaces || taken.is_some_and(|taken| taken.forced), |before| before.forced),
            shared,
            binding: fetch.binding,
            used: before.is_some_and(|before| before.used.load(Ordering::Relaxed)).into(),
            refused: false.into(),
        }))
    }
}

/// Ends the pause of the current failure if an operator asks for it or a changed file may fix the failure.
fn end_pause(slot: &TokenSlot, Causes { operator, files }: Causes) {
    let failure = slot.failure.load();
    let Some(failure) = failure.as_ref().filter(|_| operator || files) else { return };
    let is_fixed =
        || failure.is_about_the_credential() && slot.source.credential_fingerprint() != failure.fingerprint;
    let ends = match failure.error.kind {
        // Only another budget helps.
        FailureKind::Budget => slot.source.may_be_asked(),
        _ => operator || is_fixed(),
    };
    if ends {
        slot.failure.store(Some(Arc::new(failure.ended(slot.now()))));
        slot.demand(failure.fetch + 1);
    }
}

/// Whether the issuer got a token request. It got none if the store had the token, or if the budget was spent.
fn was_asked(result: &Result<Fetched, IssuerError>) -> bool {
    match result {
        Ok(fetched) => fetched.taken().is_none(),
        Err(error) => error.kind != FailureKind::Budget,
    }
}

fn is_same(one: Option<&Arc<HeldToken>>, other: Option<&Arc<HeldToken>>) -> bool {
    match (one, other) {
        (None, None) => true,
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (Some(_), None) | (None, Some(_)) => false,
    }
}

async fn became_reachable(watch: &mut Option<(u64, ProbeWatch)>) {
    match watch {
        Some((_, watch)) => watch.became_reachable().await,
        None => std::future::pending().await,
    }
}

async fn sleep(pause: Option<Duration>) {
    match pause {
        Some(pause) => tokio::time::sleep(pause).await,
        None => std::future::pending().await,
    }
}

fn unusable(detail: String) -> IssuerError {
    IssuerError::new(FailureKind::Unusable, detail)
}

/// Logs a superseded fetch. What superseded it has demanded the next one already, under the same number. Returns the
/// outcome's name.
fn log_superseded(slot: &TokenSlot) -> &'static str {
    tracing::debug!(
        event = "token.superseded",
        issuer = %slot.issuer.name,
        scopes = %scopes(slot),
        "the token was refused or its binding changed during a fetch: asking again"
    );
    "superseded"
}

fn log_binding_change(slot: &TokenSlot) {
    tracing::info!(
        event = "token.binding_changed",
        issuer = %slot.issuer.name,
        scopes = %scopes(slot),
        "the token's binding (a learned value, the client's certificate, the DPoP key) changed: fetching a new one"
    );
}

/// A panic must not keep a token away for good: it is a failure like others, and retried.
fn internal_fault(slot: &TokenSlot, fault: &JoinError) -> IssuerError {
    tracing::error!(
        event = "token.panicked", issuer = %slot.issuer.name, panicked = fault.is_panic(),
        "internal error during a token request"
    );
    let detail = format!("an internal error of bearerd during a request to issuer {}", slot.issuer.name);
    IssuerError::new(FailureKind::Unavailable, detail).advise("see the log")
}

/// The outcome's name, for metrics.
fn outcome_of(error: &IssuerError) -> &'static str {
    match error.kind {
        // A rate limit needs another remedy than an issuer that is down.
        FailureKind::Unavailable if error.http_status == Some(429) => "throttled",
        kind => kind.as_str(),
    }
}

fn log_success(slot: &TokenSlot, held: &HeldToken, recovered: Option<&FetchFailure>, kept: bool) {
    let (issuer, scopes, lifetime_s) = (&slot.issuer.name, scopes(slot), held.validity.lifetime().as_secs());
    // A spent budget is no failure of the issuer.
    let recovered = recovered.filter(|failure| failure.error.kind != FailureKind::Budget);
    if let Some(failure) = recovered {
        let failures = failure.in_a_row;
        tracing::info!(
            event = "token.recovered", %issuer, %scopes, lifetime_s, failures,
            "the issuer grants tokens again"
        );
    } else if let Some(shared) = held.shared.as_ref().filter(|shared| shared.taken.is_some()) {
        let (by, generation) = (&shared.by, shared.generation);
        if held.token.generation == 1 {
            tracing::info!(
                event = "token.taken", %issuer, %scopes, lifetime_s, %by, generation,
                "the token was in the store"
            );
        } else {
            tracing::debug!(
                event = "token.taken", %issuer, %scopes, lifetime_s, %by, generation,
                "the token was in the store"
            );
        }
    } else if kept {
        tracing::debug!(
            event = "token.kept", %issuer, %scopes, lifetime_s,
            "the issuer gave out the same token again; bearerd asks again closer to its expiry"
        );
    } else if held.forced {
        // Otherwise an upstream that refuses every token would leave no trace except its own 401s.
        tracing::warn!(
            event = "token.replaced",
            %issuer, %scopes, lifetime_s,
            "an upstream refused the token, so a new one was fetched; if this continues, check which audience and scopes \
             the upstream wants"
        );
    } else if held.token.generation == 1 {
        tracing::info!(event = "token.fetched", %issuer, %scopes, lifetime_s, "token fetched");
    } else {
        tracing::debug!(event = "token.renewed", %issuer, %scopes, lifetime_s, "token renewed");
    }
}

/// `due`: the same warning was not logged for a minute.
fn log_failure(slot: &TokenSlot, failure: &FetchFailure, now: Moment, due: Option<u64>) {
    let held = slot.held.load();
    let still_valid = held.as_ref().is_some_and(|held| slot.serves(held, now));
    let sound = held.as_ref().is_some_and(|held| held.is_sound(now));
    let (issuer, scopes, failures) = (&*slot.issuer.name, scopes(slot), failure.in_a_row);
    let IssuerError { detail, code, trace, .. } = &failure.error;
    let next_try_in_s = failure.next_try_in(now, sound).as_secs();
    if due.is_some() {
        tracing::warn!(
            event = "token.failed",
            issuer,
            scopes,
            detail,
            code,
            trace,
            failures,
            next_try_in_s,
            still_valid,
            "no token from the issuer"
        );
    } else {
        tracing::debug!(
            event = "token.failed",
            issuer,
            scopes,
            detail,
            code,
            trace,
            failures,
            next_try_in_s,
            still_valid,
            "no token from the issuer"
        );
    }
}

fn scopes(slot: &TokenSlot) -> String {
    slot.key.scopes.joined()
}

/// Records the span of a token request, discovery included. Many requests may wait for one token request, so it is a
/// trace of its own with a link to the first of them.
fn record_span(
    tracer: &Tracer,
    issuer: &IssuerConfig,
    started: SystemTime,
    outcome: &'static str,
    status: Option<u16>,
    waiter: Option<&SpanContext>,
) {
    let mut span = tracer.start_root("token", SpanKind::Client, started, waiter.cloned());
    if !span.is_recorded() {
        return;
    }
    span.rename(format!("token {}", issuer.name));
    let (TokenEndpoint::Url(url) | TokenEndpoint::Discovery(url)) = &issuer.endpoint;
    span.set("server.address", url.host.clone());
    span.set("server.port", i64::from(url.port));
    span.set("bearerd.issuer", issuer.name.to_string());
    span.set("bearerd.outcome", outcome);
    if let Some(status) = status {
        span.set("http.response.status_code", i64::from(status));
    }
    if !matches!(outcome, "ok" | "superseded") {
        span.fail(Cow::Borrowed(outcome));
    }
}
