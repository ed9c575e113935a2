//! A PKCS#11 module: its threads, its sessions, and the keys in its tokens.
//!
//! A module is somebody else's code, and a device may not respond. Each module has a few threads of its own, and whoever waits
//! for one of them waits no longer than [`LIMIT`]. Once they are all busy for that long, everybody gets the error at once.

#![expect(
    clippy::disallowed_types,
    reason = "locked on a module's own threads; elsewhere held for a moment where a key is opened"
)]

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use aws_lc_rs::digest::{self, Algorithm};
use aws_lc_rs::signature::{self, VerificationAlgorithm};
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::rsa::{PkcsMgfType, PkcsPssParams};
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, SessionState, UserType};
use cryptoki::slot::{Slot, TokenInfo};
use cryptoki::types::RawAuthPin;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{KeyUri, Public};
use crate::aside::{Aside, SharedWork};
use crate::clock::{Clock as _, SystemClock};
use crate::jose::asn1::{OCTET_STRING, OID, Tlv};
use crate::jose::{Alg, Certificate, KeyError, key};
use crate::secret::Secret;

/// Threads of a module, and so its sessions with each token.
const THREADS: usize = 4;
/// The longest that anybody waits for a module.
const LIMIT: Duration = Duration::from_secs(5);
/// The first use of a module loads it, connects to its device, and logs in.
const OPEN_LIMIT: Duration = Duration::from_secs(10);
/// The least time between two attempts to initialize a module anew, unless another PIN needs it.
const RESTART_PAUSE_MS: u64 = 5000;
/// The longest that a thread waits for the others to leave the module, so that it can be initialized anew.
const ALONE_LIMIT_MS: u64 = 1000;
/// The most refused PINs that are remembered for a token. It locks after fewer.
const MOST_REFUSED: usize = 16;
/// The most labels in an error.
const LISTED: usize = 8;

/// The modules that were loaded. They are never unloaded, because a module may have threads of its own.
static MODULES: Mutex<Vec<&'static Module>> = Mutex::new(Vec::new());

/// Links to modules are followed here, each path on one thread, because a file system may hang.
static LINKS: Aside = Aside::new("pkcs11-links", 8);
static FOLLOWING: LazyLock<Arc<SharedWork<Result<PathBuf, String>>>> =
    LazyLock::new(|| Arc::new(SharedWork::new(&LINKS)));

struct Module {
    /// With all links followed: under two paths, one library would be finalized while it is in use.
    path: PathBuf,
    /// The paths in the config under which it was loaded. Their links are not followed again, so that an upgrade of the file
    /// or a file system that hangs changes nothing.
    names: Mutex<Vec<PathBuf>>,
    threads: Aside,
    /// One for each thread that is free.
    free: Arc<Semaphore>,
    /// When work last began or ended, in ms of the clock that runs during a suspend.
    moved: AtomicU64,
    /// When it was last initialized anew, by the same clock.
    restarted: AtomicU64,
    /// How often it was finalized.
    generation: AtomicU64,
    /// Held by the thread that initializes it anew.
    restarting: Mutex<()>,
    /// The threads that wait for [`Self::restarting`]. They do not use the module meanwhile.
    waiting: AtomicUsize,
    loaded: Mutex<Loaded>,
    /// Sessions that nobody uses at the moment.
    sessions: Mutex<Vec<(Slot, Session)>>,
    /// Of each token. Locked during a login, so that a PIN is tried once.
    logins: Mutex<HashMap<String, Logins>>,
}

/// What is known of the logins to a token.
#[derive(Default)]
struct Logins {
    /// The PINs that it refused.
    refused: Vec<Secret>,
    /// The last one: the generation of the module, and the PIN unless it was refused.
    last: Option<(u64, Option<Secret>)>,
}

#[derive(Default)]
struct Loaded {
    /// `None` until it is loaded.
    context: Option<Pkcs11>,
    initialized: bool,
}

/// Why a module did not do something.
enum Failure {
    /// A module may see a new token, or another state of its PIN, only after it was initialized again.
    NotReady(String),
    /// In this generation, the module compared the token's PIN with another one. Some compare all later ones with what the PIN
    /// was then, even if another program changes it.
    OtherPin,
    /// The device is lost. Some modules connect to it only when they are initialized.
    Lost(String),
    /// The operation failed, so that a new session may help.
    Device(String),
    /// It would fail again.
    Final(String),
}

impl Failure {
    fn text(self) -> String {
        match self {
            Self::NotReady(text) | Self::Lost(text) | Self::Device(text) | Self::Final(text) => text,
            Self::OtherPin => "the module has to be initialized anew before it gets another PIN".to_owned(),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        // cryptoki explains each value at length. Operators search for its name.
        match error {
            Error::Pkcs11(value, function) => {
                let text = format!("the module's C_{function:?} failed: {value:?}");
                if is_loss(value) { Self::Lost(text) } else { Self::Device(text) }
            }
            other => Self::Device(format!("the module failed: {other}")),
        }
    }
}

/// What modules return if their connection to the device is gone.
fn is_loss(value: RvError) -> bool {
    matches!(
        value,
        RvError::CryptokiNotInitialized
            | RvError::DeviceError
            | RvError::DeviceRemoved
            | RvError::FunctionFailed
            | RvError::GeneralError
            | RvError::SessionClosed
            | RvError::SessionHandleInvalid
            | RvError::SlotIdInvalid
            | RvError::TokenNotPresent
    )
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn retry_refused_pins() {
    let modules = lock(&MODULES).clone();
    for module in modules {
        // A login that hangs must not hold up whoever asks for this.
        if let Ok(mut logins) = module.logins.try_lock() {
            logins.values_mut().for_each(|token| token.refused.clear());
        }
    }
}

/// Where a key is. In a later generation of the module, the same handle may be another key's.
#[derive(Clone, Copy)]
struct Place {
    generation: u64,
    slot: Slot,
    key: ObjectHandle,
}

/// A key that was found in a token.
struct Found {
    at: Place,
    public: Public,
}

/// A key and how to find it again.
pub(super) struct OpenKey {
    module: &'static Module,
    uri: Arc<KeyUri>,
    pin: Option<Secret>,
    at: Arc<ArcSwap<Place>>,
    pub(super) public: Public,
    replaced: Arc<AtomicBool>,
}

impl OpenKey {
    pub(super) async fn open(uri: KeyUri, pin: Option<Secret>) -> Result<Self, KeyError> {
        let name = uri.module();
        let module = Module::of(&name).await?;
        let uri = Arc::new(uri);
        let (wanted, given) = (Arc::clone(&uri), pin.clone());
        let found = module.run(OPEN_LIMIT, move |module| module.find_again(&wanted, given.as_ref())).await?;
        module.is_known_as(name);
        let at = Arc::new(ArcSwap::from_pointee(found.at));
        Ok(Self { module, uri, pin, at, public: found.public, replaced: Arc::default() })
    }

    pub(super) fn is_replaced(&self) -> bool {
        self.replaced.load(Ordering::Relaxed)
    }

    pub(super) async fn sign(&self, alg: Alg, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let text = Text::new(alg, message)?;
        let (uri, pin, public) = (Arc::clone(&self.uri), self.pin.clone(), self.public.clone());
        let (at, replaced) = (Arc::clone(&self.at), Arc::clone(&self.replaced));
        let work = move |module: &'static Module| {
            let first = module.sign(**at.load(), &text, &public);
            if first.is_ok() {
                return first;
            }
            let seen = module.generation();
            // The session, the login, or the key may be gone.
            let sign_again = || {
                let found = module.find_again(&uri, pin.as_ref())?;
                if found.public != public {
                    replaced.store(true, Ordering::Relaxed);
                    return Err(Failure::Final("another key has taken its place in the device".to_owned()));
                }
                at.store(Arc::new(found.at));
                module.sign(found.at, &text, &public)
            };
            match sign_again() {
                Err(Failure::Lost(_)) if module.restart(seen, RESTART_PAUSE_MS) => sign_again(),
                outcome => outcome,
            }
        };
        self.module.run(LIMIT, work).await
    }
}

impl Module {
    async fn of(name: &Path) -> Result<&'static Self, KeyError> {
        let known = lock(&MODULES)
            .iter()
            .copied()
            .find(|module| lock(&module.names).iter().any(|known| known == name));
        match known {
            Some(known) => Ok(known),
            None => Ok(Self::at(without_links(name).await?)),
        }
    }

    fn at(path: PathBuf) -> &'static Self {
        let mut modules = lock(&MODULES);
        if let Some(known) = modules.iter().find(|module| module.path == path) {
            return known;
        }
        let new: &'static Self = Box::leak(Box::new(Self {
            path,
            names: Mutex::default(),
            threads: Aside::new("pkcs11", THREADS),
            free: Arc::new(Semaphore::new(THREADS)),
            moved: AtomicU64::new(now_ms()),
            restarted: AtomicU64::new(0),
            generation: AtomicU64::new(0),
            restarting: Mutex::default(),
            waiting: AtomicUsize::new(0),
            loaded: Mutex::default(),
            sessions: Mutex::default(),
            logins: Mutex::default(),
        }));
        modules.push(new);
        new
    }

    fn is_known_as(&self, name: PathBuf) {
        let mut names = lock(&self.names);
        if !names.contains(&name) {
            names.push(name);
        }
    }

    /// Does `work` on a thread of this module.
    async fn run<T: Send + 'static>(
        &'static self,
        limit: Duration,
        work: impl FnOnce(&'static Self) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, KeyError> {
        let hangs = || {
            KeyError(format!(
                "the module {} does not respond: check its device, and restart bearerd if the module stays stuck",
                self.path.display()
            ))
        };
        if self.free.available_permits() == 0 && self.stands_still_for() >= LIMIT {
            return Err(hangs());
        }
        let free = Arc::clone(&self.free);
        let run = async {
            let place = free.acquire_owned().await.ok();
            let job = move || {
                self.moved.store(now_ms(), Ordering::Relaxed);
                let outcome = work(self);
                self.moved.store(now_ms(), Ordering::Relaxed);
                drop(place);
                outcome
            };
            self.threads.run(job).await
        };
        match tokio::time::timeout(limit, run).await {
            Ok(Ok(outcome)) => outcome.map_err(|failure| KeyError(failure.text())),
            Ok(Err(error)) => Err(KeyError(error.to_string())),
            Err(_) => Err(hangs()),
        }
    }

    fn stands_still_for(&self) -> Duration {
        Duration::from_millis(now_ms().saturating_sub(self.moved.load(Ordering::Relaxed)))
    }

    // From here on, on a thread of the module.

    fn context(&self) -> Result<Pkcs11, Failure> {
        let mut loaded = lock(&self.loaded);
        let context = match &loaded.context {
            Some(context) => context.clone(),
            None => Pkcs11::new(&self.path).map_err(|error| not_loaded(&self.path, &error))?,
        };
        loaded.context = Some(context.clone());
        if !loaded.initialized {
            match context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
                Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
                Err(error) => return Err(error.into()),
            }
            loaded.initialized = true;
        }
        Ok(context)
    }

    /// Lets the module connect to its device and look for tokens anew, unless another thread uses it or this was done just now.
    /// Keys in its other tokens log in again. Whoever asks for this holds no session. `true` as well if another thread did it
    /// after the generation `seen`.
    fn restart(&self, seen: u64, pause_ms: u64) -> bool {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let _one = lock(&self.restarting);
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        if self.generation() != seen {
            return true;
        }
        let now = now_ms();
        if now.saturating_sub(self.restarted.load(Ordering::Relaxed)) < pause_ms {
            return false;
        }
        let Some(_alone) = self.alone() else { return false };
        self.restarted.store(now, Ordering::Relaxed);
        self.generation.fetch_add(1, Ordering::Relaxed);
        self.drop_sessions();
        let mut loaded = lock(&self.loaded);
        if let Some(context) = &loaded.context {
            // If it fails, the module is as before.
            let _ = context.clone().finalize();
            loaded.initialized = false;
        }
        true
    }

    /// Waits until no other thread uses the module. Only for the thread that holds [`Self::restarting`].
    fn alone(&self) -> Option<SemaphorePermit<'_>> {
        let started = now_ms();
        loop {
            let others = (THREADS - 1).saturating_sub(self.waiting.load(Ordering::SeqCst));
            let others = u32::try_from(others).expect("a few");
            if let Ok(alone) = self.free.try_acquire_many(others) {
                return Some(alone);
            }
            if now_ms().saturating_sub(started) >= ALONE_LIMIT_MS {
                return None;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn drop_sessions(&self) {
        // Closing them may take long, so not under the lock.
        let stale = std::mem::take(&mut *lock(&self.sessions));
        drop(stale);
    }

    /// A session that is at hand, or a new one.
    fn session(&self, slot: Slot) -> Result<Session, Failure> {
        let mut sessions = lock(&self.sessions);
        if let Some(at) = sessions.iter().position(|(of, _)| *of == slot) {
            return Ok(sessions.swap_remove(at).1);
        }
        drop(sessions);
        Ok(self.context()?.open_ro_session(slot)?)
    }

    fn keep(&self, slot: Slot, session: Session) {
        lock(&self.sessions).push((slot, session));
    }

    fn sign(&self, at: Place, text: &Text, public: &Public) -> Result<Vec<u8>, Failure> {
        if at.generation != self.generation() {
            return Err(Failure::Device("the module was initialized anew".to_owned()));
        }
        let session = self.session(at.slot)?;
        // A session that failed is not used again.
        let signature = session.sign(&mechanism(text.alg, &text.data), at.key, &text.data)?;
        self.keep(at.slot, session);
        // A module may use the handle of a key that is gone for another key.
        text.check(public, &signature)?;
        Ok(signature)
    }

    /// Stays the same as long as a thread of this module works.
    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    /// Finds the key. If that fails, again: with new sessions, and then with a module that was initialized anew.
    fn find_again(&self, uri: &KeyUri, pin: Option<&Secret>) -> Result<Found, Failure> {
        let seen = self.generation();
        let mut outcome = self.find(uri, pin, false);
        if let Err(Failure::Device(_) | Failure::Lost(_)) = outcome {
            self.drop_sessions();
            outcome = self.find(uri, pin, false);
        }
        match outcome {
            Err(Failure::NotReady(_) | Failure::Lost(_)) if self.restart(seen, RESTART_PAUSE_MS) => {
                self.find(uri, pin, true)
            }
            Err(Failure::OtherPin) => {
                // Most modules take the right one without it, too.
                self.restart(seen, 0);
                self.find(uri, pin, true)
            }
            outcome => outcome,
        }
    }

    /// `any_pin`: also one that is not the last one of this generation.
    fn find(&self, uri: &KeyUri, pin: Option<&Secret>, any_pin: bool) -> Result<Found, Failure> {
        let context = self.context()?;
        let (slot, token) = find_token(&context, uri)?;
        let session = self.session(slot)?;
        self.log_in(&session, &token, pin, any_pin)?;
        let key = find_key(&session, &token, uri, pin.is_some())?;
        let public = public_half(&session, key)?;
        self.keep(slot, session);
        Ok(Found { at: Place { generation: self.generation(), slot, key }, public })
    }

    fn log_in(
        &self,
        session: &Session,
        token: &TokenInfo,
        pin: Option<&Secret>,
        any_pin: bool,
    ) -> Result<(), Failure> {
        let is_user = |session: &Session| -> Result<bool, Failure> {
            let state = session.get_session_info()?.session_state();
            Ok(matches!(state, SessionState::RoUser | SessionState::RwUser))
        };
        let Some(pin) = pin else { return Ok(()) };
        // Others wait here, so that a wrong PIN costs one try.
        let mut logins = lock(&self.logins);
        if is_user(session)? {
            return Ok(());
        }
        let (name, serial) = (quoted(token.label()), token.serial_number());
        let logins = logins.entry(format!("{serial} {name}")).or_default();
        if logins.refused.contains(pin) {
            return Err(wrong_pin(&name));
        }
        let generation = self.generation();
        let is_another = |(of, last): &(u64, Option<Secret>)| *of == generation && last.as_ref() != Some(pin);
        if !any_pin && logins.last.as_ref().is_some_and(is_another) {
            return Err(Failure::OtherPin);
        }
        if token.user_pin_locked() {
            return Err(Failure::NotReady(format!(
                "the PIN of token {name} is locked after wrong PINs: unlock it with the security officer's PIN"
            )));
        }
        if token.user_pin_final_try() {
            return Err(Failure::NotReady(format!(
                "the token {name} locks at the next wrong PIN, so bearerd does not try one: log in once with another \
                 program (pkcs11-tool --login --list-objects)"
            )));
        }
        let raw = RawAuthPin::new(Box::new(pin.expose().to_vec()));
        match session.login_with_raw(UserType::User, &raw) {
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {
                logins.last = Some((generation, Some(pin.clone())));
                Ok(())
            }
            Err(Error::Pkcs11(
                RvError::PinIncorrect
                | RvError::PinInvalid
                | RvError::PinLenRange
                | RvError::PinExpired
                | RvError::PinLocked,
                _,
            )) => {
                if logins.refused.len() == MOST_REFUSED {
                    logins.refused.remove(0);
                }
                logins.refused.push(pin.clone());
                logins.last = Some((generation, None));
                Err(wrong_pin(&name))
            }
            Err(Error::Pkcs11(RvError::UserPinNotInitialized, _)) => {
                Err(Failure::NotReady(format!("the token {name} has no user PIN yet: set one")))
            }
            Err(error) => Err(error.into()),
        }
    }
}

fn now_ms() -> u64 {
    u64::try_from(SystemClock.boot().as_millis()).unwrap_or(u64::MAX)
}

fn wrong_pin(token: &str) -> Failure {
    Failure::Final(format!(
        "the token {token} refuses the PIN. bearerd does not try this PIN again, because a token locks after a few wrong \
         ones: correct it, or send SIGHUP to try it once more"
    ))
}

/// The file that a module is loaded from.
async fn without_links(name: &Path) -> Result<PathBuf, KeyError> {
    if !name.is_absolute() {
        // The system looks for it in the folders of its libraries.
        return Ok(name.to_owned());
    }
    let path = name.to_owned();
    let following = FOLLOWING
        .join(&name.to_string_lossy(), move || path.canonicalize().map_err(|error| error.to_string()));
    match tokio::time::timeout(LIMIT, following.outcome()).await {
        Ok(Ok(Ok(path))) => Ok(path),
        Ok(Ok(Err(error))) => Err(KeyError(unloadable(name, &error))),
        Ok(Err(error)) => Err(KeyError(error.to_string())),
        Err(_) => Err(KeyError(unloadable(name, "its file system does not respond"))),
    }
}

fn unloadable(path: &Path, why: &str) -> String {
    format!(
        "the module {} cannot be loaded ({why}): install it for this machine's architecture, and give its file as \
         module-path",
        path.display()
    )
}

fn not_loaded(path: &Path, error: &Error) -> Failure {
    let why = match error {
        Error::LibraryLoading(error) => error.to_string(),
        Error::MissingSymbol(_) => "is not a PKCS#11 module".to_owned(),
        other => other.to_string(),
    };
    Failure::Final(unloadable(path, &why))
}

/// A name from a device.
fn quoted(name: &str) -> String {
    let plain: String = name.chars().filter(|char| !char.is_control()).take(64).collect();
    format!("\"{plain}\"")
}

fn list(mut names: Vec<String>) -> String {
    names.sort_unstable();
    names.dedup();
    let more = names.len().saturating_sub(LISTED);
    names.truncate(LISTED);
    let mut text = names.join(", ");
    if more > 0 {
        let _ = write!(text, " and {more} more");
    }
    text
}

fn find_token(context: &Pkcs11, uri: &KeyUri) -> Result<(Slot, TokenInfo), Failure> {
    let mut there = Vec::new();
    let (mut matching, mut fitting) = (Vec::new(), Vec::new());
    for slot in context.get_slots_with_token()? {
        // A token that is being removed is not there.
        let Ok(token) = context.get_token_info(slot) else { continue };
        if !token.token_initialized() {
            continue;
        }
        there.push(quoted(token.label()));
        let named = [
            (&uri.token, token.label()),
            (&uri.serial, token.serial_number()),
            (&uri.manufacturer, token.manufacturer_id()),
            (&uri.model, token.model()),
        ];
        let fits = named.into_iter().all(|(wanted, has)| wanted.as_ref().is_none_or(|wanted| wanted == has));
        if fits && uri.slot.is_none_or(|wanted| wanted == slot.id()) {
            let (label, serial) = (quoted(token.label()), quoted(token.serial_number()));
            fitting.push(format!("{label} with serial {serial} and slot-id {}", slot.id()));
            matching.push((slot, token));
        }
    }
    let several = matching.len() > 1;
    match matching.pop() {
        Some(one) if !several => Ok(one),
        Some(_) => Err(Failure::Final(format!(
            "{uri} fits several tokens ({}): add serial or slot-id",
            list(fitting)
        ))),
        None if there.is_empty() => {
            Err(Failure::NotReady("the module has no token: is the device connected?".to_owned()))
        }
        None => Err(Failure::NotReady(format!("no token fits {uri}; there are {}", list(there)))),
    }
}

fn find_key(
    session: &Session,
    token: &TokenInfo,
    uri: &KeyUri,
    logged_in: bool,
) -> Result<ObjectHandle, Failure> {
    let any = vec![Attribute::Class(ObjectClass::PRIVATE_KEY)];
    let mut wanted = any.clone();
    wanted.extend(uri.object.as_ref().map(|label| Attribute::Label(label.clone().into_bytes())));
    wanted.extend(uri.id.clone().map(Attribute::Id));
    let token = quoted(token.label());
    match session.find_objects(&wanted)?.as_slice() {
        [key] => Ok(*key),
        [] => {
            let labels = labels(session, &any)?;
            let why = match (labels.is_empty(), logged_in) {
                (true, false) => {
                    "shows no private key without a login: add pin-source=file:… to the URI".to_owned()
                }
                (true, true) => "has no private key".to_owned(),
                (false, _) => format!("has no private key for {uri}; it has {}", list(labels)),
            };
            Err(Failure::Device(format!("the token {token} {why}")))
        }
        several => Err(Failure::Final(format!(
            "the token {token} has {} private keys for {uri} ({}): add object or id",
            several.len(),
            list(labels(session, &wanted)?)
        ))),
    }
}

/// The labels and IDs of objects, for an error.
fn labels(session: &Session, wanted: &[Attribute]) -> Result<Vec<String>, Failure> {
    let mut found = Vec::new();
    for object in session.find_objects(wanted)? {
        let (mut label, mut id) = (String::new(), String::new());
        for attribute in session.get_attributes(object, &[AttributeType::Label, AttributeType::Id])? {
            match attribute {
                Attribute::Label(bytes) => label = quoted(&String::from_utf8_lossy(&bytes)),
                Attribute::Id(bytes) => {
                    id = bytes.iter().take(32).fold(String::new(), |text, byte| format!("{text}%{byte:02x}"));
                }
                _ => {}
            }
        }
        found.push(format!("{label} (id {id})"));
    }
    Ok(found)
}

/// What is read of a private key and of the objects that belong to it.
#[derive(Default)]
struct Parts {
    kind: Option<KeyType>,
    modulus: Vec<u8>,
    exponent: Vec<u8>,
    curve: Vec<u8>,
    point: Vec<u8>,
    certificate: Vec<u8>,
    id: Vec<u8>,
    label: Vec<u8>,
    signs: bool,
    asks_each_time: bool,
}

impl Parts {
    fn read(
        &mut self,
        session: &Session,
        object: ObjectHandle,
        wanted: &[AttributeType],
    ) -> Result<(), Failure> {
        for attribute in session.get_attributes(object, wanted)? {
            match attribute {
                Attribute::KeyType(kind) => self.kind = Some(kind),
                Attribute::Modulus(bytes) => self.modulus = bytes,
                Attribute::PublicExponent(bytes) => self.exponent = bytes,
                Attribute::EcParams(bytes) => self.curve = bytes,
                Attribute::EcPoint(bytes) => self.point = bytes,
                Attribute::Value(bytes) => self.certificate = bytes,
                Attribute::Id(bytes) => self.id = bytes,
                Attribute::Label(bytes) => self.label = bytes,
                Attribute::Sign(may) => self.signs = may,
                Attribute::AlwaysAuthenticate(each_time) => self.asks_each_time = each_time,
                _ => {}
            }
        }
        Ok(())
    }

    /// Reads the public key or certificate with the same ID, or else with the same label.
    fn read_beside(
        &mut self,
        session: &Session,
        class: ObjectClass,
        wanted: &[AttributeType],
    ) -> Result<(), Failure> {
        let by_id = Some(Attribute::Id(self.id.clone())).filter(|_| !self.id.is_empty());
        let by_label = Some(Attribute::Label(self.label.clone())).filter(|_| !self.label.is_empty());
        for same in [by_id, by_label].into_iter().flatten() {
            if let Some(object) = session.find_objects(&[Attribute::Class(class), same])?.first() {
                return self.read(session, *object, wanted);
            }
        }
        Ok(())
    }
}

fn public_half(session: &Session, key: ObjectHandle) -> Result<Public, Failure> {
    use AttributeType as A;
    let mut parts = Parts::default();
    let own = [
        A::KeyType,
        A::Modulus,
        A::PublicExponent,
        A::EcParams,
        A::Id,
        A::Label,
        A::Sign,
        A::AlwaysAuthenticate,
    ];
    parts.read(session, key, &own)?;
    let cannot = |why: &str| Failure::Final(format!("the key {why}"));
    if !parts.signs {
        return Err(cannot("may not sign: its CKA_SIGN is false"));
    }
    if parts.asks_each_time {
        return Err(cannot(
            "needs its PIN for each signature (CKA_ALWAYS_AUTHENTICATE), which bearerd does not support",
        ));
    }
    match parts.kind {
        Some(KeyType::RSA) => {
            if parts.modulus.is_empty() || parts.exponent.is_empty() {
                parts.read_beside(session, ObjectClass::PUBLIC_KEY, &[A::Modulus, A::PublicExponent])?;
            }
            if !parts.modulus.is_empty() && !parts.exponent.is_empty() {
                let key = rsa_public(&parts.modulus, &parts.exponent);
                return Ok(Public { curve: None, key });
            }
            certificate_beside(session, &mut parts).map(|key| Public { curve: None, key })
        }
        Some(KeyType::EC) => {
            let oid = Tlv::only(&parts.curve).and_then(|tlv| tlv.expect(OID));
            let oid = oid.map_err(|_| cannot("does not name its curve"))?;
            let curve = key::curve(oid.content).map_err(|error| Failure::Final(error.0))?;
            parts.read_beside(session, ObjectClass::PUBLIC_KEY, &[A::EcPoint])?;
            let point = match parts.point.is_empty() {
                true => certificate_beside(session, &mut parts)?,
                false => parts.point,
            };
            let key = ec_point(&point, curve.len());
            let key = key.ok_or_else(|| cannot("has a public point in a form that is not known here"))?;
            Ok(Public { curve: Some(curve), key: key.to_vec() })
        }
        _ => Err(cannot("is neither RSA nor EC")),
    }
}

/// A point of a curve whose numbers have so many bytes. PKCS#11 wraps it in an OCTET STRING, and some modules do not. The first
/// byte of a bare point is that of an OCTET STRING, too, so its length decides.
fn ec_point(bytes: &[u8], length: usize) -> Option<&[u8]> {
    let bare = |bytes: &&[u8]| bytes.len() == 1 + 2 * length && bytes.first() == Some(&4);
    let wrapped = || Tlv::only(bytes).and_then(|tlv| tlv.expect(OCTET_STRING)).ok().map(|tlv| tlv.content);
    Some(bytes).filter(bare).or_else(|| wrapped().filter(bare))
}

fn certificate_beside(session: &Session, parts: &mut Parts) -> Result<Vec<u8>, Failure> {
    parts.read_beside(session, ObjectClass::CERTIFICATE, &[AttributeType::Value])?;
    let certificate = Certificate::from_der(&parts.certificate).map_err(|_| {
        Failure::Final(
            "the token has neither the public key nor the certificate of this key: import one with the same id".to_owned(),
        )
    })?;
    Ok(certificate.public().to_vec())
}

/// An `RSAPublicKey` (RFC 8017 appendix A.1.1).
fn rsa_public(modulus: &[u8], exponent: &[u8]) -> Vec<u8> {
    let number = |bytes: &[u8]| {
        let start = bytes.iter().position(|&byte| byte != 0).unwrap_or(bytes.len());
        let mut content = bytes.get(start..).unwrap_or_default().to_vec();
        if content.first().is_none_or(|first| first & 0x80 != 0) {
            content.insert(0, 0);
        }
        tlv(0x02, &content)
    };
    tlv(0x30, &[number(modulus), number(exponent)].concat())
}

fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let used =
        length.iter().position(|&byte| byte != 0).and_then(|start| length.get(start..)).unwrap_or(&[0]);
    let mut der = vec![tag];
    match used {
        [short @ 0..=0x7f] => der.push(*short),
        long => {
            der.push(0x80 | u8::try_from(long.len()).unwrap_or(u8::MAX));
            der.extend_from_slice(long);
        }
    }
    der.extend_from_slice(content);
    der
}

/// The beginning of a `DigestInfo` (RFC 8017 section 9.2), without the last byte of the hash's OID and the lengths.
fn digest_info(hash: &Algorithm, digest: &[u8]) -> Vec<u8> {
    let last = if *hash == digest::SHA256 {
        1
    } else if *hash == digest::SHA384 {
        2
    } else {
        3
    };
    let oid = tlv(0x06, &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, last]);
    let algorithm = tlv(0x30, &[oid, tlv(0x05, &[])].concat());
    tlv(0x30, &[algorithm, tlv(0x04, digest)].concat())
}

fn hash(alg: Alg) -> Result<&'static Algorithm, KeyError> {
    match alg {
        Alg::Rs256 | Alg::Ps256 | Alg::Es256 => Ok(&digest::SHA256),
        Alg::Rs384 | Alg::Ps384 | Alg::Es384 => Ok(&digest::SHA384),
        Alg::Rs512 | Alg::Ps512 | Alg::Es512 => Ok(&digest::SHA512),
        _ => Err(KeyError(format!("{alg} is not possible with a key in a device"))),
    }
}

/// What is signed.
struct Text {
    alg: Alg,
    message: Vec<u8>,
    /// What the device signs. The hash is made here, because few devices take a text of any length.
    data: Vec<u8>,
}

impl Text {
    fn new(alg: Alg, message: &[u8]) -> Result<Self, KeyError> {
        let hash = hash(alg)?;
        let digest = digest::digest(hash, message);
        let data = match alg {
            Alg::Rs256 | Alg::Rs384 | Alg::Rs512 => digest_info(hash, digest.as_ref()),
            _ => digest.as_ref().to_vec(),
        };
        Ok(Self { alg, message: message.to_vec(), data })
    }

    fn check(&self, public: &Public, signature: &[u8]) -> Result<(), Failure> {
        verification(self.alg).verify_sig(&public.key, &self.message, signature).map_err(|_| {
            Failure::Device(
                "the signature does not fit the public key that the token has for this key: delete the public key or \
                 certificate that is another key's, and import the right one with the same id"
                    .to_owned(),
            )
        })
    }
}

fn verification(alg: Alg) -> &'static dyn VerificationAlgorithm {
    match alg {
        Alg::Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
        Alg::Rs384 => &signature::RSA_PKCS1_2048_8192_SHA384,
        Alg::Rs512 => &signature::RSA_PKCS1_2048_8192_SHA512,
        Alg::Ps256 => &signature::RSA_PSS_2048_8192_SHA256,
        Alg::Ps384 => &signature::RSA_PSS_2048_8192_SHA384,
        Alg::Ps512 => &signature::RSA_PSS_2048_8192_SHA512,
        Alg::Es256 => &signature::ECDSA_P256_SHA256_FIXED,
        Alg::Es384 => &signature::ECDSA_P384_SHA384_FIXED,
        _ => &signature::ECDSA_P521_SHA512_FIXED,
    }
}

fn mechanism(alg: Alg, data: &[u8]) -> Mechanism<'static> {
    let pss = |hash_alg, mgf| {
        // The salt is as long as the hash (RFC 7518 section 3.5).
        let s_len = data.len().try_into().expect("a hash is short");
        Mechanism::RsaPkcsPss(PkcsPssParams { hash_alg, mgf, s_len })
    };
    match alg {
        Alg::Ps256 => pss(MechanismType::SHA256, PkcsMgfType::MGF1_SHA256),
        Alg::Ps384 => pss(MechanismType::SHA384, PkcsMgfType::MGF1_SHA384),
        Alg::Ps512 => pss(MechanismType::SHA512, PkcsMgfType::MGF1_SHA512),
        Alg::Rs256 | Alg::Rs384 | Alg::Rs512 => Mechanism::RsaPkcs,
        _ => Mechanism::Ecdsa,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_may_be_bare_or_in_an_octet_string() {
        // As an OCTET STRING, a bare point with this second byte has the right length.
        let mut bare = [7; 65];
        (bare[0], bare[1]) = (4, 63);
        let wrapped = tlv(4, &bare);
        assert_eq!(ec_point(&bare, 32), Some(&bare[..]));
        assert_eq!(ec_point(&wrapped, 32), Some(&bare[..]));
        for wrong in [&bare[..64], &wrapped[..66], &[4, 0], &[], &[2; 65]] {
            assert_eq!(ec_point(wrong, 32), None);
        }
    }
}
