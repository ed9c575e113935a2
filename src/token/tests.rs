//! Tests of a slot with a scripted issuer and clocks that the tests move.

mod cached;
mod failures;
mod fetches;
mod lives;
mod rejections;
mod shared;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, AtomicUsize};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::cache::{Fetching, TokenSource};
use super::probe::Connect;
use super::shared::Want;
use super::{Token, TokenCache, TokenError, TokenSlot};
use crate::clock::{Clock, Moment, SharedClock};
use crate::config::{CredentialKey, HttpUrl, IssuerConfig, TokenEndpoint};
use crate::issuer::{FailureKind, Grant, IssuerError, Unreached};
use crate::net::Hop;
use crate::secret::Secret;

type Outcome = Result<Grant, IssuerError>;
type Script = Box<dyn Fn(usize) -> Outcome + Send + Sync>;

/// tokio's paused clock, plus what a suspend or an operator adds to it.
struct TestClock {
    start: Instant,
    boot_ms: AtomicU64,
    wall_ms: AtomicI64,
}

impl TestClock {
    /// A suspend: timers stop, both clocks go on.
    fn suspend(&self, seconds: u64) {
        self.boot_ms.fetch_add(seconds * 1000, SeqCst);
        self.jump_wall(i64::try_from(seconds).unwrap());
    }

    fn jump_wall(&self, seconds: i64) {
        self.wall_ms.fetch_add(seconds * 1000, SeqCst);
    }
}

impl Clock for TestClock {
    fn boot(&self) -> Duration {
        Duration::from_secs(5_000) + self.start.elapsed() + Duration::from_millis(self.boot_ms.load(SeqCst))
    }

    fn wall(&self) -> SystemTime {
        let base = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000) + self.start.elapsed();
        let shift = self.wall_ms.load(SeqCst);
        let by = Duration::from_millis(shift.unsigned_abs());
        if shift >= 0 { base + by } else { base - by }
    }
}

/// An issuer that responds by a script, after `delay_ms`.
struct Scripted {
    script: ArcSwap<Script>,
    delay_ms: AtomicU64,
    /// How long it takes to make values before each request.
    making_ms: AtomicU64,
    start: Instant,
    asked: AtomicUsize,
    asked_at: crossing::List<Duration>,
    outcomes: crossing::List<&'static str>,
    waiting: AtomicI64,
    under_way: Arc<AtomicUsize>,
    /// Several slots use this issuer.
    shared: AtomicBool,
    /// A slot sent a request during its last one.
    overlapped: AtomicBool,
    /// Both clocks at the start of each request.
    asked_moments: crossing::List<Moment>,
    /// Whether bare connection attempts succeed.
    reachable: AtomicBool,
    connects: crossing::List<(Hop, Duration)>,
    fingerprint: AtomicU8,
    binding: AtomicU8,
    fingerprints_read: AtomicUsize,
}

/// Lists that the task writes and the test reads.
mod crossing {
    #![expect(clippy::disallowed_types, reason = "tests")]
    use std::sync::Mutex;

    pub(super) struct List<T>(Mutex<Vec<T>>);

    impl<T> Default for List<T> {
        fn default() -> Self {
            Self(Mutex::default())
        }
    }

    impl<T: Clone> List<T> {
        pub(super) fn push(&self, item: T) {
            self.0.lock().unwrap().push(item);
        }

        pub(super) fn all(&self) -> Vec<T> {
            self.0.lock().unwrap().clone()
        }
    }
}

impl Scripted {
    fn new() -> Self {
        Self {
            script: ArcSwap::from_pointee(Box::new(|number| Ok(grant(number, 3600)))),
            delay_ms: AtomicU64::new(100),
            making_ms: AtomicU64::new(0),
            start: Instant::now(),
            asked: AtomicUsize::new(0),
            asked_at: crossing::List::default(),
            outcomes: crossing::List::default(),
            waiting: AtomicI64::new(0),
            under_way: Arc::default(),
            shared: AtomicBool::new(false),
            overlapped: AtomicBool::new(false),
            asked_moments: crossing::List::default(),
            reachable: AtomicBool::new(true),
            connects: crossing::List::default(),
            fingerprint: AtomicU8::new(0),
            binding: AtomicU8::new(0),
            fingerprints_read: AtomicUsize::new(0),
        }
    }

    /// From now on, `script` makes the responses. It gets the number of the request, from 1.
    fn respond(&self, script: impl Fn(usize) -> Outcome + Send + Sync + 'static) {
        self.script.store(Arc::new(Box::new(script)));
    }

    fn delay(&self, ms: u64) {
        self.delay_ms.store(ms, SeqCst);
    }

    fn making(&self, ms: u64) {
        self.making_ms.store(ms, SeqCst);
    }

    fn asked(&self) -> usize {
        self.asked.load(SeqCst)
    }

    /// Seconds since the start of the test, to a tenth.
    fn asked_at(&self) -> Vec<f64> {
        let tenths = |at: &Duration| (at.as_secs_f64() * 10.0).round() / 10.0;
        self.asked_at.all().iter().map(tenths).collect()
    }

    fn asked_at_exactly(&self) -> Vec<f64> {
        self.asked_at.all().iter().map(Duration::as_secs_f64).collect()
    }

    /// Both clocks at the start of the request of this number.
    fn asked_moment(&self, number: usize) -> Moment {
        self.asked_moments.all()[number - 1]
    }

    fn outcomes(&self) -> Vec<&'static str> {
        self.outcomes.all()
    }

    fn serve_many_slots(&self) {
        self.shared.store(true, SeqCst);
    }

    /// Nothing responds, and no connection succeeds.
    fn vanish(&self) {
        self.reachable.store(false, SeqCst);
        self.respond(|_| Err(away("idp.example")));
    }

    /// Grants tokens again.
    fn come_back(&self, lifetime: u64) {
        self.respond(move |number| Ok(grant(number, lifetime)));
        self.reachable.store(true, SeqCst);
    }

    /// The times of bare connection attempts, in seconds since the start of the test.
    fn probed_at(&self) -> Vec<f64> {
        self.connects.all().iter().map(|(_, at)| at.as_secs_f64()).collect()
    }

    fn probed_hops(&self) -> Vec<Hop> {
        self.connects.all().into_iter().map(|(hop, _)| hop).collect()
    }

    fn waiting_now(&self) -> i64 {
        self.waiting.load(SeqCst)
    }

    fn under_way(&self) -> usize {
        self.under_way.load(SeqCst)
    }
}

struct UnderWay(Arc<AtomicUsize>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

/// The issuer as one replica sees it.
struct Source {
    idp: Arc<Scripted>,
    clock: SharedClock,
}

impl TokenSource for Source {
    fn fetch<'a>(&'a self, _key: &'a CredentialKey, _want: Want) -> Fetching<'a> {
        Box::pin(async move {
            let Self { idp, clock } = self;
            // A sleep of zero lets others run.
            match idp.making_ms.load(SeqCst) {
                0 => {}
                ms => tokio::time::sleep(Duration::from_millis(ms)).await,
            }
            let number = idp.asked.fetch_add(1, SeqCst) + 1;
            idp.asked_at.push(idp.start.elapsed());
            let asked = Moment::now(&**clock);
            idp.asked_moments.push(asked);
            if idp.under_way.fetch_add(1, SeqCst) > 0 && !idp.shared.load(SeqCst) {
                idp.overlapped.store(true, SeqCst);
                panic!("one request at a time");
            }
            let _under_way = UnderWay(Arc::clone(&idp.under_way));
            tokio::time::sleep(Duration::from_millis(idp.delay_ms.load(SeqCst))).await;
            (idp.script.load())(number).map(|grant| Grant { asked, ..grant })
        })
    }

    fn token_identity(&self, key: &CredentialKey) -> [u8; 32] {
        key.issuer_digest
    }

    fn credential_fingerprint(&self) -> [u8; 32] {
        self.idp.fingerprints_read.fetch_add(1, SeqCst);
        [self.idp.fingerprint.load(SeqCst); 32]
    }

    fn binding_fingerprint(&self, _key: &CredentialKey) -> [u8; 32] {
        [self.idp.binding.load(SeqCst); 32]
    }

    fn standby_in_use(&self) -> bool {
        false
    }

    fn requested(&self, outcome: &'static str, _took: Option<Duration>) {
        self.idp.outcomes.push(outcome);
    }

    fn waiting(&self) {
        self.idp.waiting.fetch_add(1, SeqCst);
    }

    fn waited(&self) {
        self.idp.waiting.fetch_sub(1, SeqCst);
    }
}

fn grant(number: usize, lifetime: u64) -> Grant {
    Grant {
        token: Secret::from(format!("t{number}")),
        token_type: "bearer".to_owned(),
        prover: None,
        // The source knows when it asked.
        asked: Moment { boot: Duration::ZERO, wall: SystemTime::UNIX_EPOCH },
        took: Duration::ZERO,
        expires_in: Some(Duration::from_secs(lifetime)),
        scope: None,
        audience: crate::issuer::Audience::Unknown,
    }
}

fn failure(kind: FailureKind) -> IssuerError {
    let detail = "no".to_owned();
    IssuerError::new(kind, detail)
}

/// The address did not respond.
fn away(host: &str) -> IssuerError {
    unreached(host, true)
}

fn unreached(host: &str, silent: bool) -> IssuerError {
    let unreached = Some(Unreached { hop: Hop::new(host, 443, false), silent });
    IssuerError { unreached, ..failure(FailureKind::Unavailable) }
}

fn issuer(name: &str, digest: u8) -> IssuerConfig {
    let url = HttpUrl {
        text: "https://idp.example/token".to_owned(),
        https: true,
        host: "idp.example".to_owned(),
        port: 443,
        authority: "idp.example".to_owned(),
        path_and_query: "/token".to_owned(),
    };
    IssuerConfig { digest: [digest; 32], ..IssuerConfig::with_defaults(name, TokenEndpoint::Url(url)) }
}

fn key(issuer: &IssuerConfig, scopes: &[&str]) -> CredentialKey {
    CredentialKey {
        issuer: Arc::clone(&issuer.name),
        issuer_digest: issuer.digest,
        scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
        params: BTreeMap::new(),
        subject: None,
    }
}

/// All of its issuers are `idp`.
fn cache(clock: SharedClock, idp: &Arc<Scripted>) -> TokenCache {
    let source = Arc::new(Source { idp: Arc::clone(idp), clock: Arc::clone(&clock) });
    let make_source = move |_: &Arc<IssuerConfig>| Arc::clone(&source) as Arc<dyn TokenSource>;
    TokenCache::with_sources(Handle::current(), clock, Arc::default(), Box::new(make_source), connect(idp))
}

fn connect(idp: &Arc<Scripted>) -> Connect {
    let idp = Arc::clone(idp);
    Box::new(move |hop| {
        let idp = Arc::clone(&idp);
        Box::pin(async move {
            idp.connects.push((hop, idp.start.elapsed()));
            idp.reachable.load(SeqCst)
        })
    })
}

/// One slot with its issuer and its clock.
struct Rig {
    clock: Arc<TestClock>,
    idp: Arc<Scripted>,
    cache: TokenCache,
    slot: Arc<TokenSlot>,
}

impl Rig {
    fn new() -> Self {
        Self::with(10_000, |_| {})
    }

    fn with(waiters: usize, change: impl FnOnce(&mut IssuerConfig)) -> Self {
        let clock = Arc::new(TestClock {
            start: Instant::now(),
            boot_ms: AtomicU64::new(0),
            wall_ms: AtomicI64::new(0),
        });
        let idp = Arc::new(Scripted::new());
        let cache = cache(Arc::clone(&clock) as SharedClock, &idp);
        let mut config = issuer("corp", 1);
        change(&mut config);
        let slot = cache.slot(&key(&config, &["read"]), &Arc::new(config), waiters);
        Self { clock, idp, cache, slot }
    }

    /// What a request does: takes the current token, or else waits.
    async fn request(&self) -> Result<Arc<Token>, TokenError> {
        request(&self.slot).await
    }

    /// The text of the token that a request gets.
    async fn request_text(&self) -> String {
        text(&self.request().await.unwrap())
    }

    async fn newer_than(&self, generation: u64) -> Result<Arc<Token>, TokenError> {
        Arc::clone(&self.slot).newer_than(generation, None).await
    }

    /// Lets time pass, and everything run that is ready.
    async fn pass(&self, seconds: f64) {
        tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
        settle().await;
    }
}

async fn request(slot: &Arc<TokenSlot>) -> Result<Arc<Token>, TokenError> {
    match slot.current() {
        Some(token) => Ok(token),
        None => Arc::clone(slot).newer_than(0, None).await,
    }
}

/// Lets every task run that can, without letting time pass.
async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

fn text(token: &Token) -> String {
    assert_eq!(token.authorization.as_bytes(), [b"Bearer ", token.secret.expose()].concat());
    assert!(token.authorization.is_sensitive());
    token.secret.expose_str().unwrap().to_owned()
}
