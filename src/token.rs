//! A token's life: fetched once for all who wait, renewed before it is due, dropped when an upstream refuses it.
//!
//! [`cache`] maps what identifies a token to its [`slot`]. Requests read the slot; one task for each slot ([`slot_task`])
//! is the only one that asks the issuer, so there is never more than one request under way, and a caller that leaves
//! cancels nothing. [`life`], [`backoff`] and [`step`] decide *when*, and do no input or output; [`lookout`] sees when an
//! issuer that was away is back.

mod backoff;
pub mod cache;
pub mod error;
mod life;
mod lookout;
pub mod slot;
mod slot_task;
mod source;
mod state;
mod step;
#[cfg(test)]
mod tests;
mod told;
mod traced;

pub use cache::TokenCache;
pub use error::{TokenError, TokenErrorKind};
pub use slot::{LastError, Rejected, RetryCause, SlotStatus, Token, TokenSlot};
