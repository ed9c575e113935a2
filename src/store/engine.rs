//! The operations of a store, whatever keeps its entries. An engine knows neither keys nor tokens: it stores encrypted bytes.
//!
//! Time is the store's own, in microseconds since the Unix epoch, so that clocks of replicas do not matter.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::micros;
use crate::config::Budget;

/// What an engine's operation returns.
pub(super) type Operation<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// Keeps entries, leases and budgets. Every operation is atomic.
///
/// A lease's *fencing number* is larger than every earlier one of its entry, even after the store lost everything: it is at
/// least the store's time. A token's *generation* is the fencing number of the lease under which it was fetched.
pub(super) trait Engine: Send + Sync + 'static {
    /// Returns the entry if it is newer than `claim.have`. Otherwise takes the lease, if it is free.
    fn claim<'a>(&'a self, id: &'a EntryId, claim: Claim) -> Operation<'a, Claimed>;
    /// Returns the entry, if there is one.
    fn read<'a>(&'a self, id: &'a EntryId) -> Operation<'a, Option<Entry>>;
    /// Extends the lease to `lease` from now. `false`: it ended, or another replica has it.
    fn extend<'a>(&'a self, id: &'a EntryId, fence: u64, lease: Duration) -> Operation<'a, bool>;
    /// Stores an entry until `ends`, and ends the lease. `false`: the entry has expired, or a later lease was given, so that
    /// another replica may have a newer one.
    fn publish<'a>(
        &'a self,
        id: &'a EntryId,
        fence: u64,
        sealed: &'a [u8],
        ends: StoreTime,
    ) -> Operation<'a, bool>;
    /// Ends the lease, if it is still this one.
    fn release<'a>(&'a self, id: &'a EntryId, fence: u64) -> Operation<'a, ()>;
    /// Removes entries with their leases. Returns how many entries there were.
    fn remove<'a>(&'a self, ids: &'a [EntryId]) -> Operation<'a, u64>;
    /// Everything that the store holds under the prefix, at most [`LIST_LIMIT`] entries.
    fn list(&self) -> Operation<'_, Vec<Listed>>;
    /// Takes one token request from the budget, if it is not spent.
    fn spend<'a>(&'a self, id: &'a EntryId, budget: Budget) -> Operation<'a, Spent>;
    /// The state of a budget.
    fn balance<'a>(&'a self, id: &'a EntryId, budget: Budget) -> Operation<'a, Spent>;
    /// Writes, reads, and removes an entry of its own, and reports what it learned.
    fn probe(&self) -> Operation<'_, Probed>;
    /// Where the store is, in words for an operator: `Redis at cache.internal:6379 (TLS)`.
    fn place(&self) -> String;
}

/// The most entries that [`Engine::list`] returns.
pub const LIST_LIMIT: usize = 10_000;

/// The name of an entry or a budget: an HMAC over its identity, in hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryId(pub(super) Arc<str>);

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Microseconds since the Unix epoch, by the store's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct StoreTime(pub(super) u64);

impl StoreTime {
    /// The time `by` later.
    #[must_use]
    pub fn after(self, by: Duration) -> Self {
        Self(self.0.saturating_add(micros(by)))
    }

    pub(super) fn until(self, later: Self) -> Duration {
        Duration::from_micros(later.0.saturating_sub(self.0))
    }
}

/// A request to the store for a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// The generation of the current token. 0: there is none.
    pub have: u64,
    /// An upstream refused the current token: its entry is removed for all replicas.
    pub refused: bool,
    /// How long a lease lasts.
    pub lease: Duration,
}

/// The store's response to a [`Claim`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Claimed {
    Entry(Entry),
    /// The caller must fetch a token, and publish it with this fencing number.
    Lease {
        fence: u64,
        now: StoreTime,
    },
    /// Another replica is fetching. `left`: how long until its lease ends, unless it is extended.
    Held {
        left: Duration,
    },
}

impl Claimed {
    /// A metric label.
    pub(super) fn outcome(&self) -> &'static str {
        match self {
            Self::Entry(_) => "hit",
            Self::Lease { .. } => "lease",
            Self::Held { .. } => "held",
        }
    }
}

/// An entry as the store has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub generation: u64,
    pub sealed: Vec<u8>,
    /// How long until it expires.
    pub left: Duration,
}

/// One line of [`Engine::list`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub id: EntryId,
    /// `None`: no token, only a lease.
    pub generation: Option<u64>,
    pub left: Option<Duration>,
    /// How long the current lease lasts.
    pub leased_for: Option<Duration>,
}

/// The state of a budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spent {
    /// The request may be sent now, or could be, with [`Engine::balance`].
    pub allowed: bool,
    /// How many more requests may be sent now.
    pub remaining: u32,
    /// How long until one more request is possible. Zero if `remaining` is not.
    pub next: Duration,
}

/// What [`Engine::probe`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probed {
    /// From the request to the response of one operation.
    pub latency: Duration,
    /// The server's product, version, and role: `Redis 7.0.15, primary`.
    pub server: String,
    /// What an operator should change.
    pub warnings: Vec<String>,
}

/// Why the store is unavailable. Contains no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreError {
    pub kind: StoreErrorKind,
    /// What happened, to whom, and what to do.
    pub detail: String,
}

/// A metric label of a failed operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreErrorKind {
    /// No response within `timeout`.
    Timeout,
    /// Not tried, because it failed less than 5 s ago.
    Skipped,
    /// No connection: DNS, TCP, TLS, a folder that cannot be written.
    Unreachable,
    /// User, password or rights.
    Refused,
    /// Full, read-only, loading: the server responds that it cannot run the operation now.
    Unable,
    /// Not the engine's protocol or format.
    Invalid,
    /// A key of `keys` cannot be read.
    Keys,
}

impl StoreErrorKind {
    pub const ALL: [Self; 7] = [
        Self::Timeout,
        Self::Skipped,
        Self::Unreachable,
        Self::Refused,
        Self::Unable,
        Self::Invalid,
        Self::Keys,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Skipped => "skipped",
            Self::Unreachable => "unreachable",
            Self::Refused => "refused",
            Self::Unable => "unable",
            Self::Invalid => "invalid",
            Self::Keys => "keys",
        }
    }
}

impl StoreError {
    pub(super) fn new(kind: StoreErrorKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into() }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for StoreError {}
