//! A slot's task: the only one that asks the issuer for the slot's token.
//!
//! It sleeps until something is to be done or somebody pokes it, and ends with the slot: between its steps it holds
//! the slot weakly. One request at a time is under way, in a task of its own, so that not even a fault in there
//! leaves the slot without its task.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::task::JoinError;
use tokio_util::task::AbortOnDropHandle;

use super::life::{Life, Moment};
use super::slot::{Signals, TokenSlot};
use super::state::{Held, Token, Trouble};
use super::traced;
use crate::issuer::{FailureKind, Grant, IssuerError};

/// However short a token lives: its issuer is not asked more often, except for a dropped token's successor.
const BETWEEN_REQUESTS: Duration = Duration::from_secs(1);

/// What is to be done now.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Fetch,
    /// At least so long there is nothing to do, unless poked; `None`: until poked.
    Sleep(Option<Duration>),
    /// A fetch is wanted, but must wait: pokes for a due renewal are of no use until then.
    Hold(Duration),
}

/// All that decides about the next step.
struct View {
    now: Moment,
    /// A call, a refusal or an operator wants a token.
    demanded: bool,
    /// To be fetched without a call, and never was.
    owed: bool,
    /// The life of the held token, and whether it was used.
    held: Option<(Life, bool)>,
    /// The end of the present failure's pause, by the boot clock.
    retry_at: Option<Duration>,
    /// When the issuer was last asked, by the boot clock.
    asked_at: Option<Duration>,
    /// There was a token, and it was dropped: refused by an upstream, or bound to what has changed.
    emptied: bool,
    retired: bool,
}

impl View {
    fn step(&self) -> Step {
        if !self.is_wanted() {
            // An unused token is looked at again when it is due: it may have been used until then.
            let ahead = self.held.filter(|(life, _)| !self.retired && !life.is_due(self.now));
            return Step::Sleep(ahead.map(|(life, _)| life.due_in(self.now)));
        }
        let floor = self.asked_at.filter(|_| !self.emptied).map(|asked| asked + BETWEEN_REQUESTS);
        let pause = floor.max(self.retry_at).map(|earliest| earliest.saturating_sub(self.now.boot));
        match pause {
            Some(pause) if !pause.is_zero() => Step::Hold(pause),
            Some(_) | None => Step::Fetch,
        }
    }

    fn is_wanted(&self) -> bool {
        let renewal = self.held.is_some_and(|(life, used)| {
            // Once it may not be sent and asking failed, only calls are a reason to go on asking.
            let worth_it = life.may_be_sent(self.now) || self.retry_at.is_none();
            used && life.is_due(self.now) && worth_it
        });
        self.demanded || (!self.retired && (self.owed || renewal))
    }
}

/// How a flight ended.
enum Landing {
    Answered(Result<Result<Grant, IssuerError>, JoinError>),
    /// The token that was held at its start was dropped meanwhile, or what it is bound to changed: what was asked for
    /// before that is of no use.
    Superseded,
    SlotGone,
}

/// What is known at the start of a flight.
struct Flight {
    number: u64,
    asked: Moment,
    before: Option<Arc<Held>>,
    forced: bool,
    fingerprint: [u8; 32],
    binding: [u8; 32],
}

pub(super) struct SlotTask {
    slot: Weak<TokenSlot>,
    signals: Arc<Signals>,
    /// Of the last token.
    generation: u64,
    asked_at: Option<Duration>,
    /// Reasons to try again that came during a flight.
    causes: Causes,
    /// The token before was dropped because its binding changed, and not because of a 401.
    rebound: bool,
}

/// What [`TokenSlot::retry_now`] was called with.
#[derive(Debug, Clone, Copy, Default)]
struct Causes {
    operator: bool,
    files: bool,
}

impl SlotTask {
    pub(super) fn new(slot: &Arc<TokenSlot>) -> Self {
        Self {
            slot: Arc::downgrade(slot),
            signals: Arc::clone(&slot.signals),
            generation: 0,
            asked_at: None,
            causes: Causes::default(),
            rebound: false,
        }
    }

    /// Runs until nobody holds the slot any more.
    pub(super) async fn run(mut self) {
        while let Some(step) = self.next_step() {
            let pause = match step {
                Step::Fetch => {
                    self.fly().await;
                    continue;
                }
                Step::Hold(pause) => Some(pause),
                Step::Sleep(pause) => pause,
            };
            tokio::select! {
                () = self.signals.closed.cancelled() => return,
                () = self.signals.poked.notified() => {}
                () = sleep(pause) => {}
            }
        }
    }

    fn next_step(&mut self) -> Option<Step> {
        self.signals.look();
        let slot = self.slot.upgrade()?;
        self.take_causes(&slot, None);
        end_pause(&slot, std::mem::take(&mut self.causes));
        let now = slot.now();
        let held = slot.held.load();
        let view = View {
            now,
            demanded: slot.is_demanded(),
            owed: slot.prefetched.load(Ordering::SeqCst) && self.generation == 0,
            held: held.as_ref().map(|held| (held.life, held.used.load(Ordering::Relaxed))),
            retry_at: slot.trouble.load().as_ref().map(|trouble| trouble.retry_at),
            asked_at: self.asked_at,
            emptied: self.is_emptied(held.as_ref()),
            retired: slot.retired.load(Ordering::SeqCst),
        };
        let step = view.step();
        slot.set_quiet_until(match step {
            Step::Hold(pause) => Some(now.boot.saturating_add(pause)),
            Step::Fetch | Step::Sleep(_) => None,
        });
        Some(step)
    }

    fn is_emptied(&self, held: Option<&Arc<Held>>) -> bool {
        held.is_none() && self.generation > 0
    }

    /// Takes the wishes left by [`TokenSlot::retry_now`], and drops a token that is bound to what has changed since.
    /// `true`: what `flight` asks for is bound to it as well.
    fn take_causes(&mut self, slot: &TokenSlot, flight: Option<&Flight>) -> bool {
        let (operator, files) = slot.take_retry_causes();
        if !operator && !files {
            return false;
        }
        self.causes.operator |= operator;
        self.causes.files |= files;
        let held = slot.held.load_full();
        if held.is_none() && flight.is_none() {
            return false;
        }
        let binding = slot.source.binding_fingerprint(&slot.key);
        if let Some(held) = held.filter(|held| held.binding != binding) {
            let before = slot.held.compare_and_swap(&held, None);
            // Else an upstream refused it just now, and its successor is asked for already.
            if before.as_ref().is_some_and(|before| Arc::ptr_eq(before, &held)) {
                self.rebound = true;
                slot.demand(slot.ended() + 1);
                log_rebound(slot);
            }
        }
        flight.is_some_and(|flight| flight.binding != binding)
    }

    /// Asks the issuer once, and puts what came of it into the slot.
    async fn fly(&mut self) {
        let Some((flight, request)) = self.take_off() else { return };
        let landing = self.await_landing(request, &flight).await;
        let Some(slot) = self.slot.upgrade() else { return };
        let now = slot.now();
        // Before it lands: who waits from then on waits for another one.
        let waiter = slot.first_waiter.swap(None);
        let mut status = None;
        let outcome = match landing {
            Landing::SlotGone => return,
            Landing::Superseded => superseded(&slot),
            Landing::Answered(answer) => {
                let answer = answer.unwrap_or_else(|fault| Err(internal_fault(&slot, &fault)));
                status = answer.as_ref().err().and_then(|error| error.http_status);
                self.publish(&slot, &flight, answer, now)
            }
        };
        slot.source.requested(outcome, now.boot.saturating_sub(flight.asked.boot));
        if let Some(tracer) = slot.source.tracer() {
            traced::request(&tracer, &slot.issuer, flight.asked.wall, outcome, status, waiter.as_deref());
        }
    }

    fn take_off(&mut self) -> Option<(Flight, AbortOnDropHandle<Result<Grant, IssuerError>>)> {
        let slot = self.slot.upgrade()?;
        slot.take_off();
        let before = slot.held.load_full();
        // Read before the request reads it: a change in between costs one request, but is not missed.
        let fingerprint = slot.source.credential_fingerprint();
        let binding = slot.source.binding_fingerprint(&slot.key);
        let asked = slot.now();
        let forced = self.is_emptied(before.as_ref()) && !self.rebound;
        self.asked_at = Some(asked.boot);
        let (source, key) = (Arc::clone(&slot.source), Arc::clone(&slot.key));
        let request = tokio::spawn(async move { source.fetch(&key).await });
        let flight = Flight { number: slot.ended() + 1, asked, before, forced, fingerprint, binding };
        Some((flight, AbortOnDropHandle::new(request)))
    }

    async fn await_landing(
        &mut self,
        mut request: AbortOnDropHandle<Result<Grant, IssuerError>>,
        flight: &Flight,
    ) -> Landing {
        loop {
            tokio::select! {
                answer = &mut request => return Landing::Answered(answer),
                () = self.signals.closed.cancelled() => return Landing::SlotGone,
                () = self.signals.poked.notified() => self.signals.look(),
            }
            let Some(slot) = self.slot.upgrade() else { return Landing::SlotGone };
            if self.take_causes(&slot, Some(flight)) {
                slot.demand(flight.number);
                return Landing::Superseded;
            }
            if !is_same(flight.before.as_ref(), slot.held.load().as_ref()) {
                return Landing::Superseded;
            }
        }
    }

    /// Gives the outcome's name, for metrics.
    fn publish(
        &mut self,
        slot: &TokenSlot,
        flight: &Flight,
        answer: Result<Grant, IssuerError>,
        now: Moment,
    ) -> &'static str {
        match answer.and_then(|grant| self.hold(slot, flight, grant, now)) {
            Ok(held) => {
                let before = slot.held.compare_and_swap(&flight.before, Some(Arc::clone(&held)));
                if !is_same(flight.before.as_ref(), before.as_ref()) {
                    return superseded(slot);
                }
                self.generation = held.token.generation;
                self.rebound = false;
                let recovered = slot.trouble.swap(None);
                slot.fetched_once.store(true, Ordering::SeqCst);
                slot.land(flight.number);
                log_success(slot, &held, recovered.as_deref());
                "ok"
            }
            Err(error) => {
                let outcome = outcome(&error);
                let in_a_row = slot.trouble.load().as_ref().map_or(0, |before| before.in_a_row);
                let in_a_row = in_a_row.saturating_add(1);
                let trouble = Arc::new(Trouble::new(error, now, in_a_row, flight.fingerprint, flight.number));
                slot.trouble.store(Some(Arc::clone(&trouble)));
                slot.land(flight.number);
                log_failure(slot, &trouble, now);
                outcome
            }
        }
    }

    fn hold(
        &self,
        slot: &TokenSlot,
        flight: &Flight,
        grant: Grant,
        now: Moment,
    ) -> Result<Arc<Held>, IssuerError> {
        let issuer = &slot.issuer;
        let lifetime = grant.lifetime(issuer.default_lifetime, flight.asked.wall);
        let life = Life::new(flight.asked, lifetime, issuer.refresh_at, fastrand::f64());
        if !life.may_be_sent(now) {
            return Err(unusable(format!(
                "issuer {} gave a token that lives {} s from when it was asked for, and took longer to answer",
                issuer.name,
                lifetime.as_secs()
            ))
            .advise("have it give longer lives, or answer faster"));
        }
        let token = Token::new(grant.token, grant.prover, grant.audience, self.generation + 1);
        let token = token.map_err(|_| {
            unusable(format!("issuer {} gave a token with characters that no header may hold", issuer.name))
        })?;
        Ok(Arc::new(Held {
            token: Arc::new(token),
            life,
            fetched: now,
            forced: flight.forced,
            granted_scope: grant.scope,
            binding: flight.binding,
            used: false.into(),
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
        slot.demand(trouble.flight + 1);
    }
}

fn is_same(one: Option<&Arc<Held>>, other: Option<&Arc<Held>>) -> bool {
    match (one, other) {
        (None, None) => true,
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (Some(_), None) | (None, Some(_)) => false,
    }
}

async fn sleep(pause: Option<Duration>) {
    match pause {
        Some(pause) => tokio::time::sleep(pause).await,
        None => std::future::pending().await,
    }
}

/// What superseded the flight has demanded the next one already, under the same number.
fn superseded(slot: &TokenSlot) -> &'static str {
    tracing::debug!(
        event = "token.superseded",
        issuer = %slot.issuer.name,
        scopes = %scopes(slot),
        "token was dropped, or what it is bound to changed, while another was asked for: asking again"
    );
    "superseded"
}

fn log_rebound(slot: &TokenSlot) {
    tracing::info!(
        event = "token.rebound",
        issuer = %slot.issuer.name,
        scopes = %scopes(slot),
        "what the token is bound to (a learned value, the client's certificate, the DPoP key) changed: fetching a new one"
    );
}

fn unusable(detail: String) -> IssuerError {
    IssuerError::new(FailureKind::Unusable, detail)
}

/// A fault of ours must not keep a token away for good: it is a failure like others, and tried again.
fn internal_fault(slot: &TokenSlot, fault: &JoinError) -> IssuerError {
    tracing::error!(
        event = "token.fault", issuer = %slot.issuer.name, panicked = fault.is_panic(),
        "fault while asking for a token"
    );
    let detail = format!("a fault of bearerd's own while asking issuer {}", slot.issuer.name);
    IssuerError::new(FailureKind::Unavailable, detail).advise("see the log")
}

fn outcome(error: &IssuerError) -> &'static str {
    match error.kind {
        // Whoever is asked too often is well: that calls for another remedy than an issuer that is down.
        FailureKind::Unavailable if error.http_status == Some(429) => "throttled",
        FailureKind::ClientRefused => "client_refused",
        FailureKind::RequestRefused => "request_refused",
        FailureKind::Unusable => "unusable",
        FailureKind::Unavailable => "unavailable",
        FailureKind::Timeout => "timeout",
        FailureKind::Credential => "credential",
    }
}

fn scopes(slot: &TokenSlot) -> String {
    slot.key.scopes.iter().map(String::as_str).collect::<Vec<_>>().join(" ")
}

fn log_success(slot: &TokenSlot, held: &Held, recovered: Option<&Trouble>) {
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

fn log_failure(slot: &TokenSlot, trouble: &Trouble, now: Moment) {
    let serving = slot.held.load().as_ref().is_some_and(|held| held.life.may_be_sent(now));
    tracing::warn!(
        event = "token.failed",
        issuer = %slot.issuer.name,
        scopes = %scopes(slot),
        detail = %trouble.detail,
        code = trouble.code.as_deref(),
        trace = trouble.trace.as_deref(),
        failures = trouble.in_a_row,
        next_try_in_s = trouble.retry_at.saturating_sub(now.boot).as_secs(),
        still_valid = serving,
        "no token from the issuer"
    );
}
