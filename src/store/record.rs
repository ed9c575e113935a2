//! The rules of one entry, without input or output: who gets the lease, and which token may replace which. The engine for
//! files keeps records, the engine for Redis follows the same rules in Lua, and tests compare the two.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::engine::{Claim, Claimed, Entry, Spent, StoreTime};
use crate::clock::micros;
use crate::config::Budget;

/// How long a fencing number is kept after its last use: longer than the lifetime of any token that was fetched under it.
const FENCE_KEPT: Duration = Duration::from_secs(25 * 3600);
/// The longest span of a budget.
const LONGEST_WINDOW: Duration = Duration::from_secs(31 * 24 * 3600);

/// One entry with its lease. `Default` is an entry that was never claimed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Record {
    /// The last fencing number. It never goes back.
    fence: u64,
    /// When the lease with that number ends. `None`: nobody has it.
    lease_ends: Option<u64>,
    entry: Option<Kept>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    generation: u64,
    #[serde(with = "base64_text")]
    sealed: Vec<u8>,
    published: u64,
    ends: u64,
}

/// Bytes as text: JSON has no bytes.
mod base64_text {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize as _, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        STANDARD.decode(String::deserialize(from)?).map_err(de::Error::custom)
    }
}

impl Record {
    pub(super) fn claim(&mut self, now: StoreTime, claim: Claim) -> Claimed {
        self.expire(now);
        self.entry.take_if(|entry| claim.refused && entry.generation == claim.have);
        if let Some(entry) = self.read(now).filter(|entry| entry.generation > claim.have) {
            return Claimed::Entry(entry);
        }
        if let Some(ends) = self.lease_ends {
            return Claimed::Held { left: now.until(StoreTime(ends)) };
        }
        self.fence = self.fence.saturating_add(1).max(now.0);
        self.lease_ends = Some(now.after(claim.lease).0);
        Claimed::Lease { fence: self.fence, now }
    }

    pub(super) fn read(&self, now: StoreTime) -> Option<Entry> {
        // After a clock went back, nobody knows how long an entry of the future lasts.
        let kept = self.entry.as_ref().filter(|kept| kept.published <= now.0 && kept.ends > now.0)?;
        let left = now.until(StoreTime(kept.ends));
        Some(Entry { generation: kept.generation, sealed: kept.sealed.clone(), left })
    }

    pub(super) fn extend(&mut self, now: StoreTime, fence: u64, lease: Duration) -> bool {
        self.expire(now);
        let ours = self.fence == fence && self.lease_ends.is_some();
        if ours {
            self.lease_ends = Some(now.after(lease).0);
        }
        ours
    }

    pub(super) fn publish(&mut self, now: StoreTime, fence: u64, sealed: &[u8], ends: StoreTime) -> bool {
        self.expire(now);
        if fence < self.fence {
            return false;
        }
        // Larger only if the store lost the lease.
        self.fence = fence;
        self.lease_ends = None;
        if ends <= now {
            return false;
        }
        self.entry =
            Some(Kept { generation: fence, sealed: sealed.to_vec(), published: now.0, ends: ends.0 });
        true
    }

    pub(super) fn release(&mut self, fence: u64) {
        self.lease_ends.take_if(|_| self.fence == fence);
    }

    /// Removes the entry and the lease. Returns whether there was an entry.
    pub(super) fn remove(&mut self, now: StoreTime) -> bool {
        self.expire(now);
        self.lease_ends = None;
        self.entry.take().is_some()
    }

    /// How long the lease lasts, if somebody has it.
    pub(super) fn leased_for(&self, now: StoreTime) -> Option<Duration> {
        self.lease_ends.filter(|ends| *ends > now.0).map(|ends| now.until(StoreTime(ends)))
    }

    /// Ends a lease that lasts longer than a claim made now could: its clock was ahead of ours.
    pub(super) fn end_lease_after(&mut self, latest: StoreTime) {
        self.lease_ends.take_if(|ends| *ends > latest.0);
    }

    /// Only a fencing number is left, and it is too old for any replica to use.
    pub(super) fn is_over(&self, now: StoreTime) -> bool {
        let last = self.entry.as_ref().map(|entry| entry.ends).max(self.lease_ends).unwrap_or(self.fence);
        now.0 > last.max(self.fence).saturating_add(micros(FENCE_KEPT))
    }

    fn expire(&mut self, now: StoreTime) {
        self.entry.take_if(|entry| entry.ends <= now.0);
        self.lease_ends.take_if(|ends| *ends <= now.0);
    }
}

/// The times of the token requests within the last span, the oldest first, in microseconds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Window(VecDeque<u64>);

impl Window {
    /// Takes one request, if fewer than `budget.requests` were taken within `budget.per`.
    pub fn spend(&mut self, now: u64, budget: Budget) -> Spent {
        let before = self.balance(now, budget);
        if !before.allowed {
            return before;
        }
        self.0.push_back(now);
        Spent { allowed: true, ..self.balance(now, budget) }
    }

    /// All of its requests are too old to count for any budget.
    pub(super) fn is_over(&self, now: u64) -> bool {
        self.0.iter().all(|at| now > at.saturating_add(micros(LONGEST_WINDOW)))
    }

    /// Forgets a request that was taken at this time, and not sent.
    pub fn give_back(&mut self, at: u64) {
        if let Some(index) = self.0.iter().rposition(|taken| *taken == at) {
            self.0.remove(index);
        }
    }

    /// How many requests could be taken now.
    pub fn balance(&mut self, now: u64, budget: Budget) -> Spent {
        let per = micros(budget.per);
        // After a clock goes back, a time in the future must not stay forever.
        self.0.retain(|at| *at <= now && now - at < per);
        let most = usize::try_from(budget.requests).unwrap_or(usize::MAX);
        let remaining = most.saturating_sub(self.0.len());
        // Of the requests in the window, only `most - 1` may be left.
        let blocking = self.0.len().checked_sub(most).and_then(|index| self.0.get(index));
        Spent {
            allowed: remaining > 0,
            remaining: u32::try_from(remaining).unwrap_or(u32::MAX),
            next: blocking.map_or(Duration::ZERO, |at| Duration::from_micros(per - (now - at))),
        }
    }
}

#[cfg(test)]
mod tests;
