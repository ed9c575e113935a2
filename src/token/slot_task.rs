//! A slot's task: the only one that asks the issuer for the slot's token.
//!
//! It sleeps until something is to be done or somebody pokes it, and ends with the slot: between its steps it holds
//! the slot weakly. One request at a time is under way, in a task of its own, so that not even a fault in there
//! leaves the slot without its task.

use std::borrow::Cow;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use tokio::task::JoinError;
use tokio_util::task::AbortOnDropHandle;

use super::lookout::{Lookouts, Watch};
use super::schedule::{HeldView, Life, Moment, NextStep, View};
use super::slot::{Signals, TokenSlot};
use super::state::{HeldToken, Token, Trouble};
use crate::config::{IssuerConfig, TokenEndpoint};
use crate::issuer::{FailureKind, Grant, IssuerError};
use crate::telemetry::Repeated;
use crate::trace::{SpanContext, SpanKind, Tracer};

/// A file that changed is believed after a second ([`crate::config::Source::to_send`]).
const SETTLED: Duration = Duration::from_millis(1_100);

/// How a fetch ended.
enum FetchEnd {
    Answered(Result<Result<Grant, IssuerError>, JoinError>),
    /// The token that was held at its start was refused meanwhile, or what it is bound to changed: what was asked for
    /// before that is of no use.
    Superseded,
    SlotGone,
}

/// What is known at the start of a fetch.
struct Fetch {
    number: u64,
    asked: Moment,
    before: Option<Arc<HeldToken>>,
    /// An upstream had refused the token before.
    forced: bool,
    fingerprint: [u8; 32],
    binding: [u8; 32],
}

impl Fetch {
    /// Whether only the refusal was the reason: a refused token that had expired as well would have been replaced anyhow,
    /// and its successor is a token like any other.
    fn replaces_a_refused_token(&self) -> bool {
        self.forced && self.before.as_ref().is_some_and(|before| before.life.may_be_sent(self.asked))
    }

    /// `held` is no longer what it was at the start, or was refused since.
    fn is_superseded(&self, held: Option<&Arc<HeldToken>>) -> bool {
        let refused = held.is_some_and(|held| held.is_refused());
        !is_same(self.before.as_ref(), held) || (refused && !self.forced)
    }
}

pub(super) struct SlotTask {
    slot: Weak<TokenSlot>,
    signals: Arc<Signals>,
    /// Of the last token.
    generation: u64,
    asked_at: Option<Duration>,
    /// Reasons to try again that came during a fetch.
    causes: Causes,
    /// When files are looked at once more that may have been half written before, by the boot clock.
    look_again: Option<Duration>,
    lookouts: Arc<Lookouts>,
    /// Sees when the issuer is back that the present failure's fetch did not reach.
    watch: Option<(u64, Watch)>,
    is_back: bool,
    /// About the present failure.
    complaints: Repeated,
}

/// What [`TokenSlot::retry_now`] was called with.
#[derive(Debug, Clone, Copy, Default)]
struct Causes {
    operator: bool,
    files: bool,
}

impl SlotTask {
    pub(super) fn new(slot: &Arc<TokenSlot>, lookouts: Arc<Lookouts>) -> Self {
        Self {
            slot: Arc::downgrade(slot),
            signals: Arc::clone(&slot.signals),
            generation: 0,
            asked_at: None,
            causes: Causes::default(),
            look_again: None,
            lookouts,
            watch: None,
            is_back: false,
            complaints: Repeated::default(),
        }
    }

    /// Runs until nobody holds the slot any more.
    pub(super) async fn run(mut self) {
        while let Some(step) = self.next_step() {
            let pause = match step {
                NextStep::Fetch => {
                    self.fly().await;
                    continue;
                }
                NextStep::Hold { pause, worth_it_for } => Some(pause.min(worth_it_for)),
                NextStep::Sleep(pause) => pause,
            };
            let pause = self.until_look(pause);
            tokio::select! {
                () = self.signals.closed.cancelled() => return,
                () = self.signals.poked.notified() => {}
                () = answered(&mut self.watch), if !self.is_back => self.is_back = true,
                () = sleep(pause) => {}
            }
        }
    }

    /// The pause, or what is left until files are looked at once more.
    fn until_look(&self, pause: Option<Duration>) -> Option<Duration> {
        let now = self.slot.upgrade()?.now().boot;
        let look = self.look_again.map(|at| at.saturating_sub(now));
        pause.into_iter().chain(look).min()
    }

    fn next_step(&mut self) -> Option<NextStep> {
        self.signals.look();
        let slot = self.slot.upgrade()?;
        self.take_causes(&slot, None);
        end_pause(&slot, std::mem::take(&mut self.causes));
        let now = slot.now();
        let (held, trouble) = (slot.held.load(), slot.trouble.load());
        let sound = held.as_ref().is_some_and(|held| held.is_sound(now));
        let mut view = View {
            now,
            demanded: slot.is_demanded(),
            owed: slot.prefetched.load(Ordering::SeqCst) && self.generation == 0,
            held: held.as_ref().map(|held| HeldView {
                life: held.life,
                used: held.used.load(Ordering::Relaxed),
                refused: held.is_refused(),
            }),
            retry_at: trouble.as_ref().map(|trouble| trouble.retry_at(sound, self.watches(trouble))),
            is_back: self.is_back,
            asked_at: self.asked_at,
            lost: self.generation > 0 && held.as_ref().is_none_or(|held| held.is_refused()),
            retired: slot.retired.load(Ordering::SeqCst),
        };
        let mut step = view.step();
        self.look_out(&step, trouble.as_deref());
        if let (NextStep::Hold { .. }, Some(trouble)) = (&step, &*trouble) {
            // That it is looked out for now may make the pause longer.
            view.retry_at = Some(trouble.retry_at(sound, self.watches(trouble)));
            step = view.step();
        }
        slot.set_quiet_until(match step {
            NextStep::Hold { pause, .. } => Some(now.boot.saturating_add(pause)),
            NextStep::Fetch | NextStep::Sleep(_) => None,
        });
        Some(step)
    }

    fn watches(&self, trouble: &Trouble) -> bool {
        self.watch.as_ref().is_some_and(|(of, _)| *of == trouble.fetch)
    }

    /// As long as a token is wanted of an issuer that was not reached.
    fn look_out(&mut self, step: &NextStep, trouble: Option<&Trouble>) {
        let wanted = trouble.filter(|_| matches!(step, NextStep::Hold { .. }));
        let unreached = wanted.and_then(|trouble| Some((trouble.fetch, trouble.error.unreached.as_ref()?)));
        self.watch = match (unreached, self.watch.take()) {
            (Some((fetch, _)), Some((of, watch))) if of == fetch => Some((of, watch)),
            // The watch before ends after this one has begun, so that the lookout goes on.
            (Some((fetch, unreached)), _before) => Some((fetch, self.lookouts.watch(unreached))),
            (None, _) => None,
        };
    }

    /// Takes the wishes left by [`TokenSlot::retry_now`], and drops a token that is bound to what has changed since.
    /// `true`: what `fetch` asks for is bound to it as well.
    fn take_causes(&mut self, slot: &TokenSlot, fetch: Option<&Fetch>) -> bool {
        let (operator, files) = slot.take_retry_causes();
        let now = slot.now().boot;
        if operator || files {
            self.look_again = Some(now + SETTLED);
        } else if self.look_again.take_if(|at| *at <= now).is_none() {
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

    /// Asks the issuer once, and puts what came of it into the slot.
    async fn fly(&mut self) {
        let Some((fetch, request)) = self.start_fetch() else { return };
        let end = self.await_end(request, &fetch).await;
        let Some(slot) = self.slot.upgrade() else { return };
        let now = slot.now();
        // Before it lands: who waits from then on waits for another one.
        let waiter = slot.first_waiter.swap(None);
        let mut status = None;
        let outcome = match end {
            FetchEnd::SlotGone => return,
            FetchEnd::Superseded => log_superseded(&slot),
            FetchEnd::Answered(answer) => {
                let answer = answer.unwrap_or_else(|fault| Err(internal_fault(&slot, &fault)));
                status = answer.as_ref().err().and_then(|error| error.http_status);
                self.publish(&slot, &fetch, answer, now)
            }
        };
        slot.source.requested(outcome, now.boot.saturating_sub(fetch.asked.boot));
        if let Some(tracer) = slot.source.tracer() {
            record_span(&tracer, &slot.issuer, fetch.asked.wall, outcome, status, waiter.as_deref());
        }
    }

    fn start_fetch(&mut self) -> Option<(Fetch, AbortOnDropHandle<Result<Grant, IssuerError>>)> {
        let slot = self.slot.upgrade()?;
        slot.start_fetch();
        let before = slot.held.load_full();
        // Read before the request reads it: a change in between costs one request, but is not missed.
        let fingerprint = slot.source.credential_fingerprint();
        let binding = slot.source.binding_fingerprint(&slot.key);
        let asked = slot.now();
        let forced = before.as_ref().is_some_and(|held| held.is_refused());
        self.is_back = false;
        self.asked_at = Some(asked.boot);
        let (source, key) = (Arc::clone(&slot.source), Arc::clone(&slot.key));
        let request = tokio::spawn(async move { source.fetch(&key).await });
        let fetch = Fetch { number: slot.ended() + 1, asked, before, forced, fingerprint, binding };
        Some((fetch, AbortOnDropHandle::new(request)))
    }

    async fn await_end(
        &mut self,
        mut request: AbortOnDropHandle<Result<Grant, IssuerError>>,
        fetch: &Fetch,
    ) -> FetchEnd {
        loop {
            tokio::select! {
                answer = &mut request => return FetchEnd::Answered(answer),
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

    /// Gives the outcome's name, for metrics.
    fn publish(
        &mut self,
        slot: &TokenSlot,
        fetch: &Fetch,
        answer: Result<Grant, IssuerError>,
        now: Moment,
    ) -> &'static str {
        match answer.and_then(|grant| self.hold(slot, fetch, grant, now)) {
            Ok(held) => {
                if fetch.is_superseded(slot.held.load().as_ref()) {
                    return log_superseded(slot);
                }
                let before = slot.held.compare_and_swap(&fetch.before, Some(Arc::clone(&held)));
                if !is_same(fetch.before.as_ref(), before.as_ref()) {
                    return log_superseded(slot);
                }
                self.generation = held.token.generation;
                let recovered = slot.trouble.swap(None);
                slot.fetched_once.store(true, Ordering::SeqCst);
                slot.finish(fetch.number);
                log_success(slot, &held, recovered.as_deref());
                "ok"
            }
            Err(error) => {
                let outcome = outcome_of(&error);
                let before = slot.trouble.load();
                if before.as_ref().is_none_or(|before| !before.is_told_by(&error)) {
                    self.complaints = Repeated::default();
                }
                let in_a_row = before.as_ref().map_or(0, |before| before.in_a_row).saturating_add(1);
                let left = slot.held.load().as_ref().map_or(Duration::ZERO, |held| held.life.left(now));
                let trouble = Trouble::new(error, now, in_a_row, left, fetch.fingerprint, fetch.number);
                let trouble = Arc::new(trouble);
                slot.trouble.store(Some(Arc::clone(&trouble)));
                slot.finish(fetch.number);
                log_failure(slot, &trouble, now, self.complaints.due(now.boot));
                outcome
            }
        }
    }

    fn hold(
        &self,
        slot: &TokenSlot,
        fetch: &Fetch,
        grant: Grant,
        now: Moment,
    ) -> Result<Arc<HeldToken>, IssuerError> {
        let issuer = &slot.issuer;
        let lifetime = grant.lifetime(issuer.default_lifetime, fetch.asked.wall);
        let life = Life::new(fetch.asked, lifetime, issuer.refresh_at, fastrand::f64());
        if !life.may_be_sent(now) {
            return Err(unusable(format!(
                "issuer {} gave a token that lives {} s from when it was asked for, and took longer to answer",
                issuer.name,
                lifetime.as_secs()
            ))
            .advise("have it give longer lives, or respond faster"));
        }
        let token = Token::new(grant.token, grant.prover, grant.audience, self.generation + 1, life);
        let token = token.map_err(|_| {
            unusable(format!("issuer {} gave a token with characters that no header may hold", issuer.name))
        })?;
        Ok(Arc::new(HeldToken {
            token: Arc::new(token),
            life,
            fetched: now,
            forced: fetch.replaces_a_refused_token(),
            granted_scope: grant.scope,
            binding: fetch.binding,
            used: false.into(),
            refused: false.into(),
        }))
    }
}

/// Ends the present failure's pause where an operator or a changed file gives reason to.
fn end_pause(slot: &TokenSlot, Causes { operator, files }: Causes) {
    let trouble = slot.trouble.load();
    let Some(trouble) = trouble.as_ref().filter(|_| operator || files) else { return };
    let mended =
        || trouble.is_about_the_credential() && slot.source.credential_fingerprint() != trouble.fingerprint;
    if operator || mended() {
        slot.trouble.store(Some(Arc::new(trouble.ended(slot.now()))));
        slot.demand(trouble.fetch + 1);
    }
}

fn is_same(one: Option<&Arc<HeldToken>>, other: Option<&Arc<HeldToken>>) -> bool {
    match (one, other) {
        (None, None) => true,
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (Some(_), None) | (None, Some(_)) => false,
    }
}

async fn answered(watch: &mut Option<(u64, Watch)>) {
    match watch {
        Some((_, watch)) => watch.answered().await,
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

/// What superseded the fetch has demanded the next one already, under the same number. Gives the outcome's name.
fn log_superseded(slot: &TokenSlot) -> &'static str {
    tracing::debug!(
        event = "token.superseded",
        issuer = %slot.issuer.name,
        scopes = %scopes(slot),
        "token was refused, or what it is bound to changed, while another was asked for: asking again"
    );
    "superseded"
}

fn log_binding_change(slot: &TokenSlot) {
    tracing::info!(
        event = "token.binding_changed",
        issuer = %slot.issuer.name,
        scopes = %scopes(slot),
        "what the token is bound to (a learned value, the client's certificate, the DPoP key) changed: fetching a new one"
    );
}

/// A fault of ours must not keep a token away for good: it is a failure like others, and tried again.
fn internal_fault(slot: &TokenSlot, fault: &JoinError) -> IssuerError {
    tracing::error!(
        event = "token.panicked", issuer = %slot.issuer.name, panicked = fault.is_panic(),
        "fault while asking for a token"
    );
    let detail = format!("a fault of bearerd's own while asking issuer {}", slot.issuer.name);
    IssuerError::new(FailureKind::Unavailable, detail).advise("see the log")
}

/// The outcome's name, for metrics.
fn outcome_of(error: &IssuerError) -> &'static str {
    match error.kind {
        // Whoever is asked too often is well: that calls for another remedy than an issuer that is down.
        FailureKind::Unavailable if error.http_status == Some(429) => "throttled",
        kind => kind.as_str(),
    }
}

fn log_success(slot: &TokenSlot, held: &HeldToken, recovered: Option<&Trouble>) {
    let (issuer, scopes, lifetime_s) = (&slot.issuer.name, scopes(slot), held.life.lifetime().as_secs());
    if let Some(trouble) = recovered {
        let failures = trouble.in_a_row;
        tracing::info!(
            event = "token.recovered", %issuer, %scopes, lifetime_s, failures,
            "issuer gives tokens again"
        );
    } else if held.forced {
        // An upstream that refuses every token would else leave no mark but its own 401s.
        tracing::warn!(
            event = "token.replaced",
            %issuer, %scopes, lifetime_s,
            "an upstream refused the token, so a new one was fetched; if that goes on, check which audience and scopes \
             the upstream wants"
        );
    } else if held.token.generation == 1 {
        tracing::info!(event = "token.fetched", %issuer, %scopes, lifetime_s, "token fetched");
    } else {
        tracing::debug!(event = "token.renewed", %issuer, %scopes, lifetime_s, "token renewed");
    }
}

/// `due`: whether the same was not said for a minute.
fn log_failure(slot: &TokenSlot, trouble: &Trouble, now: Moment, due: Option<u64>) {
    let held = slot.held.load();
    let still_valid = held.as_ref().is_some_and(|held| slot.serves(held, now));
    let sound = held.as_ref().is_some_and(|held| held.is_sound(now));
    let (issuer, scopes, failures) = (&*slot.issuer.name, scopes(slot), trouble.in_a_row);
    let IssuerError { detail, code, trace, .. } = &trouble.error;
    let next_try_in_s = trouble.next_try_in(now, sound).as_secs();
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

/// Many requests may wait for one request, so it is a trace of its own, with a link to the first that did.
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
