//! X.509-SVIDs and trust bundles, as an agent streams them: one stream for each socket, on its own thread, for as long as a
//! config names it. What the agent sent last stays in use while it is away.

#![expect(clippy::disallowed_types, reason = "held for a moment where a config is loaded")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::StreamExt as _;
use spiffe::{TrustDomain, X509Bundle, X509Context, X509Svid};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use x509_cert::Certificate;
use x509_cert::der::Decode as _;
use zeroize::Zeroizing;

use super::{SpiffeId, another_id, connect, explain, silent};
use crate::aside::Aside;
use crate::clock::{Clock as _, SystemClock, rfc3339};
use crate::secret::Secret;

/// How long to wait for the connection and the first message.
const FIRST_MESSAGE: Duration = Duration::from_secs(10);
/// The pause after the first failure. It doubles with each failure, up to the longest.
const SHORTEST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// An agent renews after half of the lifetime. If nothing comes in this share of what is left of it, the stream may be dead.
const PATIENCE: (u32, u32) = (3, 4);
const LEAST_PATIENCE: Duration = Duration::from_secs(5);

/// [`X509Stream::identity`] before the stream began.
const NOT_BEGUN: &str = "has given no value yet";

static STREAMS: Aside = Aside::new("spiffe-stream", 64);
/// Streams of the running configs, so that there is one for each socket.
static KNOWN: Mutex<Vec<Weak<X509Stream>>> = Mutex::new(Vec::new());

/// The stream of one agent.
pub struct X509Stream {
    socket: PathBuf,
    state: watch::Sender<State>,
    begun: AtomicBool,
    stop: CancellationToken,
    _ends: DropGuard,
}

#[derive(Default)]
struct State {
    /// What the agent sent last.
    context: Option<Arc<Context>>,
    /// Why there is nothing newer.
    error: Option<String>,
    /// How many messages there were.
    updates: u64,
}

struct Context {
    /// The default one first.
    svids: Vec<Svid>,
    /// PEM of each trust domain's certificate authorities.
    bundles: BTreeMap<String, Secret>,
}

struct Svid {
    id: SpiffeId,
    /// PEM: the chain, leaf first, and the key.
    pem: Secret,
    expires: SystemTime,
}

impl X509Stream {
    /// The stream of this socket: the one of a config that is in use, or a new one, which [`Self::begin`] begins.
    pub fn of(socket: &Path) -> Arc<Self> {
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|stream| stream.strong_count() > 0);
        let same = known.iter().filter_map(Weak::upgrade).find(|stream| stream.socket == socket);
        same.unwrap_or_else(|| {
            let stop = CancellationToken::new();
            let new = Arc::new(Self {
                socket: socket.to_owned(),
                state: watch::Sender::new(State::default()),
                begun: AtomicBool::new(false),
                _ends: stop.clone().drop_guard(),
                stop,
            });
            known.push(Arc::downgrade(&new));
            new
        })
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Begins to listen to the agent, once.
    pub fn begin(&self) {
        if self.begun.swap(true, Ordering::SeqCst) {
            return;
        }
        let (socket, state, stop) = (self.socket.clone(), self.state.clone(), self.stop.clone());
        let work = move || match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime.block_on(async {
                stop.run_until_cancelled(follow(&socket, &state)).await;
            }),
            Err(error) => fail(&state, &socket, format!("cannot be reached: {error}")),
        };
        if let Err(error) = STREAMS.spawn(work) {
            self.begun.store(false, Ordering::SeqCst);
            fail(&self.state, &self.socket, error.to_string());
        }
    }

    /// Waits until the agent sent something, or there is an error.
    ///
    /// # Errors
    /// There is nothing, and why.
    pub async fn ready(&self) -> Result<(), String> {
        let mut state = self.state.subscribe();
        let known = |state: &State| state.context.is_some() || state.error.is_some();
        let waiting = tokio::time::timeout(FIRST_MESSAGE + LEAST_PATIENCE, state.wait_for(known)).await;
        match waiting {
            Ok(Ok(state)) if state.context.is_some() => Ok(()),
            Ok(Ok(state)) => Err(state.error.clone().unwrap_or_default()),
            Ok(Err(_)) | Err(_) => Err(silent(FIRST_MESSAGE)),
        }
    }

    /// Waits for the next message or error.
    pub async fn changed(&self) {
        // The sender is a part of `self`.
        let _ = self.state.subscribe().changed().await;
    }

    /// Another number means that the agent sent something new.
    pub fn version(&self) -> u64 {
        self.state.borrow().updates
    }

    /// Chain and key of the X.509-SVID of `id`, or of the default one, as PEM.
    ///
    /// # Errors
    /// There is none, and why.
    pub fn identity(&self, id: Option<&SpiffeId>) -> Result<Secret, String> {
        let (context, error) = self.current()?;
        let svid = context.svid(id)?;
        if svid.expires <= SystemClock.wall() {
            let why = error.unwrap_or_else(|| "the agent sent no other".to_owned());
            return Err(format!("{} expired on {}: {why}", svid.id, rfc3339(svid.expires)));
        }
        Ok(svid.pem.clone())
    }

    /// The certificate authorities of this trust domain, or of the identity's own, as PEM.
    ///
    /// # Errors
    /// There are none, and why.
    pub fn bundle(&self, id: Option<&SpiffeId>, of: Option<&TrustDomain>) -> Result<Secret, String> {
        let (context, _) = self.current()?;
        let own = context.svid(id)?.id.trust_domain();
        let of = of.unwrap_or(own);
        context.bundles.get(of.as_str()).cloned().ok_or_else(|| {
            format!(
                "the agent has no trust bundle of {of}: federate {own} with it, and name it in the registration entry \
                 (-federatesWith spiffe://{of})"
            )
        })
    }

    /// The trust domain of the identity.
    ///
    /// # Errors
    /// There is no identity, and why.
    pub fn trust_domain(&self, id: Option<&SpiffeId>) -> Result<String, String> {
        let (context, _) = self.current()?;
        Ok(context.svid(id)?.id.trust_domain_name().to_owned())
    }

    fn current(&self) -> Result<(Arc<Context>, Option<String>), String> {
        let state = self.state.borrow();
        match (&state.context, &state.error) {
            (Some(context), error) => Ok((Arc::clone(context), error.clone())),
            (None, Some(error)) => Err(error.clone()),
            (None, None) if self.begun.load(Ordering::SeqCst) => {
                Err("the agent has not responded yet".to_owned())
            }
            (None, None) => Err(NOT_BEGUN.to_owned()),
        }
    }
}

impl Context {
    fn svid(&self, id: Option<&SpiffeId>) -> Result<&Svid, String> {
        match id {
            None => self.svids.first().ok_or_else(|| "the agent sent no X.509-SVID".to_owned()),
            Some(id) => {
                let found = self.svids.iter().find(|svid| svid.id == *id);
                found.ok_or_else(|| another_id(id, self.svids.iter().map(|svid| &svid.id)))
            }
        }
    }

    fn of(sent: &X509Context) -> Self {
        let bundles =
            sent.bundle_set().iter().map(|(domain, bundle)| (domain.to_string(), bundle_pem(bundle)));
        Self { svids: sent.svids().iter().map(|svid| Svid::of(svid)).collect(), bundles: bundles.collect() }
    }

    /// How long to wait for the next message.
    fn patience(&self) -> Duration {
        let now = SystemClock.wall();
        let left = self.svids.iter().map(|svid| svid.expires.duration_since(now).unwrap_or_default()).min();
        let (some, of_all) = PATIENCE;
        (left.unwrap_or_default() / of_all * some).max(LEAST_PATIENCE)
    }
}

impl Svid {
    fn of(sent: &X509Svid) -> Self {
        let mut pem = Zeroizing::new(String::new());
        for certificate in sent.cert_chain() {
            write_pem("CERTIFICATE", certificate.as_bytes(), &mut pem);
        }
        write_pem("PRIVATE KEY", sent.private_key().as_bytes(), &mut pem);
        // The library parsed it already.
        let leaf = Certificate::from_der(sent.leaf().as_bytes());
        let expires = leaf.map(|leaf| leaf.tbs_certificate().validity().not_after.to_system_time());
        Self {
            id: sent.spiffe_id().clone(),
            pem: Secret::new(pem.as_bytes()),
            expires: expires.unwrap_or(UNIX_EPOCH),
        }
    }
}

fn bundle_pem(bundle: &X509Bundle) -> Secret {
    let mut pem = Zeroizing::new(String::new());
    for certificate in bundle.authorities() {
        write_pem("CERTIFICATE", certificate.as_bytes(), &mut pem);
    }
    Secret::new(pem.as_bytes())
}

/// Adds a block. There is room for all of it at once, so that no unwiped copy of a key is left behind.
fn write_pem(label: &str, der: &[u8], into: &mut Zeroizing<String>) {
    let base64 = Zeroizing::new(STANDARD.encode(der));
    let mut with_room = Zeroizing::new(String::with_capacity(into.len() + base64.len() + 100));
    with_room.push_str(into);
    with_room.push_str(&format!("-----BEGIN {label}-----\n"));
    with_room.push_str(&base64);
    with_room.push_str(&format!("\n-----END {label}-----\n"));
    *into = with_room;
}

/// Listens to the agent, again and again.
async fn follow(socket: &Path, state: &watch::Sender<State>) {
    let mut failures: u32 = 0;
    loop {
        let before = state.borrow().updates;
        let error = receive(socket, state).await;
        failures = if state.borrow().updates == before { failures.saturating_add(1) } else { 1 };
        fail(state, socket, error);
        let pause = SHORTEST_PAUSE.saturating_mul(2_u32.saturating_pow(failures - 1)).min(LONGEST_PAUSE);
        // Spread, so that not all programs of a machine come back to a restarted agent at the same moment.
        tokio::time::sleep(pause.mul_f64(0.75 + fastrand::f64() / 2.0)).await;
    }
}

/// Takes messages until the stream ends. Returns why it ended.
async fn receive(socket: &Path, state: &watch::Sender<State>) -> String {
    let begin = async { connect(socket).await?.stream_x509_contexts().await };
    let mut stream = match tokio::time::timeout(FIRST_MESSAGE, begin).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return explain(&error, socket),
        Err(_) => return silent(FIRST_MESSAGE),
    };
    let mut patience = FIRST_MESSAGE;
    loop {
        match tokio::time::timeout(patience, stream.next()).await {
            Ok(Some(Ok(sent))) => {
                let context = Arc::new(Context::of(&sent));
                patience = context.patience();
                take(state, socket, context);
            }
            Ok(Some(Err(error))) => return explain(&error, socket),
            Ok(None) => return "the agent ended the stream".to_owned(),
            Err(_) => return silent(patience),
        }
    }
}

fn take(state: &watch::Sender<State>, socket: &Path, context: Arc<Context>) {
    let ids: Vec<_> = context.svids.iter().map(|svid| svid.id.to_string()).collect();
    let expires = context.svids.iter().map(|svid| svid.expires).min().unwrap_or(UNIX_EPOCH);
    tracing::info!(
        event = "spiffe.updated", socket = %socket.display(), ids = ids.join(" "), expires = %rfc3339(expires),
        "the agent sent X.509-SVIDs and trust bundles"
    );
    state.send_modify(|state| {
        *state = State { context: Some(context), error: None, updates: state.updates + 1 };
    });
}

/// Keeps what the agent sent last.
fn fail(state: &watch::Sender<State>, socket: &Path, error: String) {
    if state.borrow().error.as_ref() == Some(&error) {
        return;
    }
    tracing::warn!(
        event = "spiffe.failed", socket = %socket.display(), error,
        "the agent sends no X.509-SVIDs; the last ones stay in use until they expire, and bearerd tries again"
    );
    state.send_modify(|state| state.error = Some(error));
}
