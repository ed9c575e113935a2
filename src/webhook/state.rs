//! What a webhook has seen since the start.

#![expect(
    clippy::disallowed_types,
    reason = "off the request path: a webhook is called now and then, on threads of its own"
)]

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use super::refusal::Refusal;
use crate::listener::Logged;

/// Shared by all that a webhook has been through reloads.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Held while a value is compared with the stored one and put in its place.
    pub(super) keeping: Mutex<()>,
    seen: Mutex<Receipt>,
}

#[derive(Debug, Default)]
pub(super) struct Receipt {
    pub(super) received_at: Option<SystemTime>,
    pub(super) last_refusal: Option<(SystemTime, String)>,
    /// By status, so that a flood of one kind does not hide another.
    logged: BTreeMap<u16, Logged>,
    unlogged: u64,
}

#[cfg(test)]
impl Receipt {
    pub(super) fn unlogged(&self) -> u64 {
        self.unlogged
    }
}

impl State {
    pub(super) fn lock(&self) -> MutexGuard<'_, Receipt> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a request that was refused, and logs it unless one like it was logged just now.
    pub(super) fn refuse(&self, webhook: &str, refusal: &Refusal, now: SystemTime) {
        let words = refusal.words();
        let status = refusal.status.as_u16();
        let mut seen = self.lock();
        let due = seen.logged.entry(status).or_default().is_due();
        let unlogged = if due { std::mem::take(&mut seen.unlogged) } else { seen.unlogged + 1 };
        if due {
            tracing::warn!(
                event = "webhook.refused",
                webhook,
                status,
                unlogged,
                "refused a request: {words}"
            );
        } else {
            seen.unlogged = unlogged;
        }
        seen.last_refusal = Some((now, words));
    }
}
