//! A token's life: fetched once for all who wait, renewed before it is due, dropped when an upstream refuses it.

pub mod cache;
pub mod error;
pub mod slot;

pub use cache::TokenCache;
pub use error::{TokenError, TokenErrorKind};
pub use slot::{Rejected, SlotStatus, Token, TokenSlot};
