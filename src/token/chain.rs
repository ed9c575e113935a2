//! The tokens of other issuers that a slot's token requests need. Each has a slot of its own, which the outer slot holds.

#![expect(clippy::disallowed_types, reason = "held for a moment during a token request")]

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::slot::TokenSlot;
use super::state::{Rejected, TokenError};
use crate::config::{Chained, CredentialKey};
use crate::issuer::{ChainedTokens, FailureKind, IssuerError, Taking};

/// The slots of the inner tokens of one fetch, and the tokens that were taken for it.
pub(super) struct InnerTokens {
    slots: Vec<Arc<TokenSlot>>,
    taken: Mutex<HashMap<CredentialKey, Taken>>,
}

#[derive(Clone, Copy)]
struct Taken {
    generation: u64,
    /// It existed before this fetch.
    older: bool,
    /// The issuer refused it.
    refused: bool,
}

impl InnerTokens {
    pub(super) fn new<'a>(slots: impl Iterator<Item = &'a Arc<TokenSlot>>) -> Self {
        Self { slots: slots.cloned().collect(), taken: Mutex::default() }
    }

    fn slot(&self, token: &Chained) -> Option<&Arc<TokenSlot>> {
        self.slots.iter().find(|slot| *slot.key == *token.token().1)
    }

    fn taken(&self, token: &Chained) -> Option<Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).get(token.token().1).copied()
    }

    fn note(&self, token: &Chained, taken: Taken) {
        let mut all = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(token.token().1.clone(), taken);
    }
}

impl ChainedTokens for InnerTokens {
    fn take<'a>(&'a self, token: &'a Chained) -> Taking<'a> {
        Box::pin(async move {
            let Some(slot) = self.slot(token) else {
                let detail =
                    format!("issuer {}: has no slot for its token, which is a bug in bearerd", token.issuer);
                return Err(IssuerError::new(FailureKind::Credential, detail));
            };
            let refused = self.taken(token).filter(|taken| taken.refused).map_or(0, |taken| taken.generation);
            let current = slot.current().filter(|current| current.generation > refused);
            let older = current.is_some();
            let found = match current {
                Some(current) => Ok(current),
                None => Arc::clone(slot).newer_than(refused, None).await,
            };
            let found = found.map_err(|error| failure(slot, &error))?;
            self.note(token, Taken { generation: found.generation, older, refused: false });
            Ok(found.secret.clone())
        })
    }

    fn refuse(&self, token: &Chained) -> bool {
        let Some((slot, taken)) = self.slot(token).zip(self.taken(token)) else { return false };
        if !taken.older || slot.reject(taken.generation) == Rejected::Keep {
            return false;
        }
        self.note(token, Taken { refused: true, ..taken });
        true
    }
}

/// The inner issuer's failure, or why the slot has no token.
fn failure(slot: &TokenSlot, error: &TokenError) -> IssuerError {
    match slot.failure.load().as_ref() {
        Some(failure) => failure.error.clone(),
        None => IssuerError::new(FailureKind::Timeout, error.detail.clone()),
    }
}
