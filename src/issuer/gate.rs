//! What may prevent a token request: a budget, whoever counts it.

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use crate::config::Budget;

/// Asked once for each token request, when its connection is open.
pub trait Gate: Send + Sync {
    /// Waits for the permission to send one request, and counts it.
    fn permit(&self) -> Permitting<'_>;
}

/// What [`Gate::permit`] returns.
pub type Permitting<'a> = Pin<Box<dyn Future<Output = Result<(), Denied>> + Send + 'a>>;

/// The budget is spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Denied {
    pub budget: Budget,
    /// All replicas that use the same store count together.
    pub shared: bool,
    /// How long until the next request is possible.
    pub next: Duration,
    /// The time of day of the next request.
    pub at: SystemTime,
}

/// Permits everything: for diagnosis.
pub(super) struct Open;

impl Gate for Open {
    fn permit(&self) -> Permitting<'_> {
        Box::pin(std::future::ready(Ok(())))
    }
}
