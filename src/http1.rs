//! HTTP/1.1 messages on a connection (RFC 9112): heads, how bodies are framed, reading and writing. Knows nothing of
//! routes or tokens, nor when a message is due; the listener and the upstream say that.
//!
//! Lines are taken apart by `httparse`. What is strict here: a length is digits, and the same wherever it is said again;
//! `chunked` is the last coding; and what could be read in two ways is refused.

mod decode;
mod encode;
mod fields;
mod incoming;
mod input;
mod output;
mod request;
mod response;
mod search;
#[cfg(test)]
mod tests;
mod upgrade;

pub use decode::{BadBody, Decoder};
pub use encode::{Asked, Encoder, Field, WrongLength, request_head, response_head};
pub use incoming::{Feeder, Incoming};
pub use input::Input;
pub use output::Output;
pub use request::{Limits, Refused, RequestHead};
pub use response::{BadHead, ResponseHead};
pub use search::Search;
pub use upgrade::{OnUpgrade, Tunnel, Upgrade};
