//! Fetches that share their tokens with other replicas, or with this host's next start, through the store ([`crate::store`]).
//!
//! A fetch asks the store first. The store returns a newer token, gives this replica the right to fetch one (a lease), or says
//! that another replica is fetching. If the store fails, the token comes from the issuer.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

use super::cache::TokenSource;
use super::chain::InnerTokens;
use super::schedule::margin;
use crate::clock::{Moment, SharedClock};
use crate::config::{CredentialKey, IssuerConfig};
use crate::issuer::{Audience, Grant, IssuerError};
use crate::store::{Claim, Claimed, Found, Hurried, Lease, Names, Store, StoreCell, StoredToken};

/// If a replica dies during a fetch, the others wait for this long.
const LEASE: Duration = Duration::from_secs(3);
/// How often the lease is extended while the issuer has not responded.
const EXTEND_EVERY: Duration = Duration::from_secs(1);
/// The pauses between two reads of the store while callers wait: they grow from the first to the longest.
const FIRST_LOOK: Duration = Duration::from_millis(20);
const LONGEST_LOOK: Duration = Duration::from_millis(300);
const LOOKS_GROW: f64 = 1.6;
/// How long a replica waits for another one if the issuer's timeout is turned off.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// What a slot wants of its source.
#[derive(Clone)]
pub(super) struct Want {
    /// The shared generation of the token that the slot holds. 0: none, or a token that is not shared.
    pub(super) have: u64,
    /// An upstream refused the held token.
    pub(super) refused: bool,
    /// The tokens of other issuers that the request needs.
    pub(super) inner: Arc<InnerTokens>,
    /// See [`crate::issuer::Issuer::prepare`].
    pub(super) prepared: bool,
    /// How long the held token may still be sent. Zero: there is none, or it was refused.
    pub(super) left: Duration,
    /// Whether callers wait.
    pub(super) hurried: Arc<dyn Fn() -> bool + Send + Sync>,
}

/// What a source got.
pub(super) struct Fetched {
    pub(super) grant: Grant,
    /// `None`: from the issuer, and only for this process.
    pub(super) shared: Option<Shared>,
}

/// A token that is in the store.
#[derive(Debug, Clone)]
pub(super) struct Shared {
    pub(super) generation: u64,
    /// The host whose bearerd fetched it.
    pub(super) by: Arc<str>,
    /// `None`: this bearerd requested it now.
    pub(super) taken: Option<Taken>,
}

/// What is known about a token that another bearerd requested, or an earlier start of this one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Taken {
    /// It was fetched because an upstream refused its predecessor.
    pub(super) forced: bool,
}

impl Fetched {
    pub(super) fn own(grant: Grant) -> Self {
        Self { grant, shared: None }
    }

    /// The issuer was not asked.
    pub(super) fn taken(&self) -> Option<Taken> {
        self.shared.as_ref().and_then(|shared| shared.taken)
    }
}

/// Where fetches share their tokens, if anywhere.
#[derive(Clone)]
pub(super) struct Sharing {
    pub(super) store: Arc<StoreCell>,
    pub(super) control: Handle,
    pub(super) clock: SharedClock,
}

impl Sharing {
    /// Gets one token: from another replica, or by one token request. Dropping the future cancels it.
    pub(super) async fn fetch(
        &self,
        source: &dyn TokenSource,
        issuer: &IssuerConfig,
        key: &CredentialKey,
        want: Want,
    ) -> Result<Fetched, IssuerError> {
        match self.store.load_full().filter(|_| issuer.shares_tokens()) {
            Some(store) => SharedFetch { sharing: self, source, issuer, key, store }.run(want).await,
            None => source.fetch(key, want).await.map(Fetched::own),
        }
    }
}

/// One fetch through the store.
struct SharedFetch<'a> {
    sharing: &'a Sharing,
    source: &'a dyn TokenSource,
    issuer: &'a IssuerConfig,
    key: &'a CredentialKey,
    store: Arc<Store>,
}

impl SharedFetch<'_> {
    async fn run(&self, mut want: Want) -> Result<Fetched, IssuerError> {
        // What programs print is a part of the token's identity.
        want.prepared = self.source.prepare(self.key, &want).await;
        let Ok(names) = self.store.token_names(&self.source.token_identity(self.key)) else {
            return self.alone(want).await;
        };
        let clock = &*self.sharing.clock;
        let mut claim = Claim { have: want.have, refused: want.refused, lease: LEASE };
        let give_up = clock.boot() + self.issuer.timeout.unwrap_or(LONGEST_WAIT);
        let mut looks = FIRST_LOOK;
        loop {
            let hurried: Hurried<'_> = &*want.hurried;
            let asked = Moment::now(clock);
            match self.store.claim(&names, claim, hurried).await {
                Err(_) => return self.alone(want).await,
                // It may be sent no longer than the current token, or not at all.
                Ok(Claimed::Token(found)) if sendable_for(&found) <= want.left => {
                    claim.have = found.generation;
                }
                Ok(Claimed::Token(found)) => return Ok(taken(found, asked)),
                Ok(Claimed::Lease(lease)) => return self.for_all(names, lease, want).await,
                Ok(Claimed::Held { .. }) if clock.boot() >= give_up => return self.alone(want).await,
                Ok(Claimed::Held { left }) => {
                    tokio::time::sleep(pause(&mut looks, left, want.left)).await;
                    // Values that were made before the wait may be too old.
                    want.prepared = false;
                }
            }
        }
    }

    /// Fetches a token for this process alone.
    async fn alone(&self, want: Want) -> Result<Fetched, IssuerError> {
        self.source.fetch(self.key, want).await.map(Fetched::own)
    }

    /// Fetches under the lease, and publishes the token for the others.
    async fn for_all(&self, names: Names, lease: Lease, want: Want) -> Result<Fetched, IssuerError> {
        let forced = want.refused;
        let (store, control) = (Arc::clone(&self.store), self.sharing.control.clone());
        let held = HeldLease { store, control, it: Some((names, lease)) };
        let grant = tokio::select! {
            grant = self.source.fetch(self.key, want) => grant?,
            () = held.keep() => unreachable!("a lease is kept until its fetch ends"),
        };
        if grant.is_bound() {
            return Ok(Fetched::own(grant));
        }
        let lifetime = grant.lifetime(self.issuer.default_lifetime);
        let stored = StoredToken {
            token: grant.token.clone(),
            token_type: grant.token_type.clone(),
            asked: grant.asked.wall,
            lifetime,
            scope: grant.scope.clone(),
            audience: audience_text(&grant.audience),
            forced,
            by: self.store.host().to_owned(),
        };
        let generation = held.publish(stored, grant.asked.boot + lifetime);
        Ok(Fetched { grant, shared: Some(Shared { generation, by: self.store.host().into(), taken: None }) })
    }
}

/// A lease of this process. It is given back if the fetch ends in any other way than with a token for all.
struct HeldLease {
    store: Arc<Store>,
    control: Handle,
    it: Option<(Names, Lease)>,
}

impl HeldLease {
    /// Extends the lease, for ever.
    async fn keep(&self) {
        loop {
            tokio::time::sleep(EXTEND_EVERY).await;
            if let Some((names, lease)) = &self.it {
                self.store.extend(names, lease, LEASE).await;
            }
        }
    }

    /// Stores the token in the background, because callers wait for it. Returns its generation.
    fn publish(mut self, stored: StoredToken, ends: Duration) -> u64 {
        let (names, lease) = self.it.take().expect("a lease is published once");
        let generation = lease.fence;
        let store = Arc::clone(&self.store);
        self.control.spawn(async move { store.publish(&names, &lease, &stored, ends).await });
        generation
    }
}

impl Drop for HeldLease {
    fn drop(&mut self) {
        if let Some((names, lease)) = self.it.take() {
            let store = Arc::clone(&self.store);
            self.control.spawn(async move { store.release(&names, &lease).await });
        }
    }
}

/// How long to wait until the next read of the store. `held`: how long the other replica's lease lasts; `left`: how long the
/// current token may be sent.
fn pause(looks: &mut Duration, held: Duration, left: Duration) -> Duration {
    let chance = fastrand::f64();
    // A replica with a valid token can wait: one more read is enough.
    let patient = (held + EXTEND_EVERY.mul_f64(chance)).min(left / 4);
    let next = looks.mul_f64(0.5 + chance);
    *looks = looks.mul_f64(LOOKS_GROW).min(LONGEST_LOOK);
    patient.max(next)
}

/// How long a token may be sent, minus a second margin for its way to the slot.
fn sendable_for(found: &Found) -> Duration {
    found.left.saturating_sub(2 * margin(found.stored.lifetime))
}

/// A token from the store, in the form of a grant. `asked` is the time of the request to the store.
fn taken(found: Found, asked: Moment) -> Fetched {
    let Found { generation, stored, left } = found;
    // The store's clock says how much is left, so that clocks of replicas do not matter.
    let age = stored.lifetime.saturating_sub(left);
    let grant = Grant {
        token: stored.token,
        token_type: stored.token_type,
        prover: None,
        asked: asked.before(age),
        took: Duration::ZERO,
        expires_in: Some(stored.lifetime),
        scope: stored.scope,
        audience: audience_of(stored.audience),
    };
    let taken = Taken { forced: stored.forced };
    Fetched { grant, shared: Some(Shared { generation, by: stored.by.into(), taken: Some(taken) }) }
}

fn audience_text(audience: &Audience) -> Option<String> {
    match audience {
        Audience::Unknown => None,
        Audience::None => Some(String::new()),
        Audience::Named(names) => Some(names.clone()),
    }
}

fn audience_of(text: Option<String>) -> Audience {
    match text {
        None => Audience::Unknown,
        Some(names) if names.is_empty() => Audience::None,
        Some(names) => Audience::Named(names),
    }
}
