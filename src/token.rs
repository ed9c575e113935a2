//! Tokens: fetched once for all who wait, renewed before they expire, and replaced when an upstream refuses them.
//!
//! [`cache`] maps what identifies a token to its [`slot`]. Requests read the slot. Only the slot's task ([`slot_task`])
//! asks the issuer, so there is never more than one token request under way for a slot, and a caller that leaves cancels
//! nothing. [`schedule`] decides *when*, without input or output. [`probe`] notices that an issuer is reachable again. [`budget`] counts token
//! requests, where an issuer limits them.

mod budget;
mod cache;
mod chain;
mod probe;
mod schedule;
mod shared;
mod slot;
mod slot_task;
mod state;
#[cfg(test)]
mod tests;

pub use budget::{Balance, Budgets, balance_in_store};
pub use cache::TokenCache;
pub use slot::TokenSlot;
pub use state::{
    LastError, Rejected, RetryCause, SharedStatus, SlotStatus, Token, TokenError, TokenErrorKind,
};
