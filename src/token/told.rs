//! What a slot's task tells the log.

use tokio::task::JoinError;

use super::life::Moment;
use super::slot::TokenSlot;
use super::state::{HeldToken, Trouble};
use crate::issuer::{FailureKind, IssuerError};

/// What superseded the fetch has demanded the next one already, under the same number. Gives the outcome's name.
pub(super) fn superseded(slot: &TokenSlot) -> &'static str {
    tracing::debug!(
        event = "token.superseded",
        issuer = %slot.issuer.name,
        scopes = %scopes(slot),
        "token was refused, or what it is bound to changed, while another was asked for: asking again"
    );
    "superseded"
}

pub(super) fn rebound(slot: &TokenSlot) {
    tracing::info!(
        event = "token.binding_changed",
        issuer = %slot.issuer.name,
        scopes = %scopes(slot),
        "what the token is bound to (a learned value, the client's certificate, the DPoP key) changed: fetching a new one"
    );
}

/// A fault of ours must not keep a token away for good: it is a failure like others, and tried again.
pub(super) fn internal_fault(slot: &TokenSlot, fault: &JoinError) -> IssuerError {
    tracing::error!(
        event = "token.panicked", issuer = %slot.issuer.name, panicked = fault.is_panic(),
        "fault while asking for a token"
    );
    let detail = format!("a fault of bearerd's own while asking issuer {}", slot.issuer.name);
    IssuerError::new(FailureKind::Unavailable, detail).advise("see the log")
}

/// The outcome's name, for metrics.
pub(super) fn outcome(error: &IssuerError) -> &'static str {
    match error.kind {
        // Whoever is asked too often is well: that calls for another remedy than an issuer that is down.
        FailureKind::Unavailable if error.http_status == Some(429) => "throttled",
        kind => kind.as_str(),
    }
}

pub(super) fn success(slot: &TokenSlot, held: &HeldToken, recovered: Option<&Trouble>) {
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
pub(super) fn failure(slot: &TokenSlot, trouble: &Trouble, now: Moment, due: Option<u64>) {
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
