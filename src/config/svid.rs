//! Identities of SPIFFE as values: a JWT-SVID (`{ spiffe = { … } }`), and what `tls = { spiffe = … }` stands for.

#![expect(clippy::disallowed_types, reason = "held for a moment where a config is loaded")]

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::files;
use super::made::{Known, Made, Maker, Outcome, Recipe};
use crate::aside::{Aside, SharedWork};
use crate::secret::Secret;
use crate::workload_api::{self, SpiffeId, TrustDomain, X509Stream};

/// Extra time for a machine that does not even begin.
const GRACE: Duration = Duration::from_secs(2);
/// A JWT-SVID whose end is nearer than this may expire on its way.
const MARGIN: Duration = Duration::from_secs(5);

/// The most threads that wait for one agent.
const THREADS: usize = 16;

/// The fetches from each agent, on threads of its own, so that an agent that hangs holds up no other. A config names few agents, so
/// none is ever removed.
static FETCHES: Mutex<BTreeMap<PathBuf, &'static Arc<SharedWork<Outcome>>>> = Mutex::new(BTreeMap::new());
static KNOWN: Known<JwtSvidConfig> = Mutex::new(Vec::new());

/// What identifies a JWT-SVID.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct JwtSvidConfig {
    /// The agent's socket, absolute.
    pub socket: PathBuf,
    pub audience: String,
    /// `None`: the default one.
    pub id: Option<SpiffeId>,
    /// Never zero.
    pub timeout: Duration,
}

pub(super) type JwtSvidMaker = Maker<JwtSvidConfig>;

/// The JWT-SVID of this table: the one of a config that is in use, or a new one.
pub(super) fn jwt_svid(config: JwtSvidConfig) -> Arc<JwtSvidMaker> {
    Maker::of(config, &KNOWN)
}

impl JwtSvidConfig {
    pub(super) fn place(&self) -> String {
        format!("JWT-SVID of the Workload API at {}", self.socket.display())
    }
}

impl Recipe for JwtSvidConfig {
    fn make(&self, _: &[Arc<Secret>]) -> Made {
        match workload_api::jwt_svid(&self.socket, &self.audience, self.id.as_ref(), self.timeout) {
            Ok(svid) => Made {
                outcome: Ok(Arc::new(svid.token)),
                keep: svid.lasts / 2,
                lasts: svid.lasts.saturating_sub(MARGIN),
            },
            Err(error) => Made { outcome: Err(error), keep: Duration::ZERO, lasts: Duration::ZERO },
        }
    }

    fn threads(&self) -> &'static Arc<SharedWork<Outcome>> {
        let mut fetches = FETCHES.lock().unwrap_or_else(PoisonError::into_inner);
        fetches.entry(self.socket.clone()).or_insert_with(|| {
            let threads: &'static Aside = Box::leak(Box::new(Aside::new("spiffe", THREADS)));
            Box::leak(Box::new(Arc::new(SharedWork::new(threads))))
        })
    }

    fn limit(&self) -> (Duration, &'static str) {
        (
            self.timeout + GRACE,
            "cannot be fetched in time: too many requests wait for this agent, which does not respond",
        )
    }

    fn unmakeable(&self) -> Option<String> {
        workload_api::unusable(&files::state(&self.socket), &self.socket)
    }
}

/// A value that the agent streams, as PEM.
#[derive(Clone)]
pub(super) struct Streamed {
    pub stream: Arc<X509Stream>,
    /// `None`: the default one.
    pub id: Option<SpiffeId>,
    pub part: Part,
}

#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) enum Part {
    /// The X.509-SVID, with its key.
    Identity,
    /// The certificate authorities of a trust domain. `None`: of the identity's own.
    Bundle(Option<TrustDomain>),
}

impl Streamed {
    pub(super) fn read(&self) -> Result<Secret, String> {
        match &self.part {
            Part::Identity => self.stream.identity(self.id.as_ref()),
            Part::Bundle(of) => self.stream.bundle(self.id.as_ref(), of.as_ref()),
        }
    }

    /// See [`Recipe::unmakeable`]. Said once, and not for each part.
    pub(super) fn unmakeable(&self) -> Option<String> {
        let socket = self.stream.socket();
        workload_api::unusable(&files::state(socket), socket).filter(|_| self.part == Part::Identity)
    }

    pub(super) fn place(&self) -> String {
        let what = match (&self.part, &self.id) {
            (Part::Identity, None) => "X.509-SVID".to_owned(),
            (Part::Identity, Some(id)) => format!("X.509-SVID {id}"),
            (Part::Bundle(None), _) => "trust bundle".to_owned(),
            (Part::Bundle(Some(of)), _) => format!("trust bundle of {of}"),
        };
        format!("{what} of the Workload API at {}", self.stream.socket().display())
    }

    fn identity(&self) -> (&std::path::Path, &Option<SpiffeId>, &Part) {
        (self.stream.socket(), &self.id, &self.part)
    }
}

impl PartialEq for Streamed {
    fn eq(&self, other: &Self) -> bool {
        self.identity() == other.identity()
    }
}

impl Eq for Streamed {}

impl Hash for Streamed {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.identity().hash(state);
    }
}
