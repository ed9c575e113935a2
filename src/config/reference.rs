//! References: values that are not in the config, but in a file, in the environment, or in a webhook's store, printed by a
//! program, issued by the agent of SPIFFE, granted by another issuer, or a key that stays in a device.

#![expect(clippy::disallowed_types, reason = "held for a moment where a config is loaded")]

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError, Weak, mpsc};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;

use super::files;
use super::made::{self, Maker, Recipe, Refreshing};
use super::model::{CredentialKey, IssuerConfig, Params};
use super::program::{Program, ProgramConfig, program};
use super::svid::{JwtSvidConfig, JwtSvidMaker, Part, Streamed, jwt_svid};
use super::types::Scopes;
use crate::aside::Aside;
use crate::clock::{Clock as _, SystemClock};
use crate::jose::{DeviceKey, KeyUri, PrivateKey};
use crate::secret::Secret;

/// A file that was written within this time may be incomplete.
const SETTLES: Duration = Duration::from_secs(1);
/// Threads that read values without blocking a thread that serves requests.
static VALUES: Aside = Aside::new("values", 8);
/// References of the running configs, so that a reload loses no last good value.
static KNOWN: LazyLock<Mutex<HashMap<Definition, Weak<Inner>>>> = LazyLock::new(Mutex::default);

/// A value of the config that may be secret or come from elsewhere. Clones, and references to the same place, share the
/// value that was read.
#[derive(Clone)]
pub struct Source(Arc<Inner>);

struct Inner {
    definition: Definition,
    /// The last good value. It stays in use while a file is being written or is missing.
    last_good: ArcSwapOption<Secret>,
    /// The good value before it.
    earlier: ArcSwapOption<Secret>,
    /// The password of a PKCS#12 file, or the PIN of a device.
    password: Option<Source>,
}

impl Inner {
    fn new(definition: Definition) -> Self {
        Self {
            definition,
            last_good: ArcSwapOption::empty(),
            earlier: ArcSwapOption::empty(),
            password: None,
        }
    }
}

#[derive(Clone, PartialEq, Eq)]
enum Definition {
    Literal(Secret),
    File {
        path: PathBuf,
        pointer: Option<String>,
    },
    Env {
        name: String,
        pointer: Option<String>,
    },
    /// A value that a webhook learns, and the file that keeps it.
    Webhook {
        name: String,
        store: PathBuf,
    },
    /// What a program printed last.
    Exec {
        program: Arc<Program>,
        pointer: Option<String>,
    },
    /// A JWT-SVID of the SPIFFE Workload API.
    JwtSvid(Arc<JwtSvidMaker>),
    /// An X.509-SVID or a trust bundle of the SPIFFE Workload API.
    Streamed(Streamed),
    /// The token of another issuer.
    Issuer(Arc<Chained>),
    /// A private key in a device. Its value is the thumbprint of the key that was found there.
    Device(Arc<Device>),
}

/// A private key in a device, as a value.
struct Device {
    uri: KeyUri,
    /// The key that was found for the current request.
    found: ArcSwapOption<DeviceKey>,
}

impl PartialEq for Device {
    fn eq(&self, other: &Self) -> bool {
        self.uri == other.uri
    }
}

impl Eq for Device {}

/// A token of another issuer, as a value.
pub struct Chained {
    pub issuer: String,
    /// Instead of the issuer's own.
    pub(super) scopes: Option<Scopes>,
    /// Added to the issuer's own.
    pub(super) params: Params,
    /// Whose token it is, once all issuers are known.
    token: OnceLock<(Arc<IssuerConfig>, CredentialKey)>,
    /// The token that was taken for the current request. References are not shared between configs, because an issuer of the same
    /// name may be another one.
    value: ArcSwapOption<Secret>,
}

impl Chained {
    pub(super) fn new(issuer: String, scopes: Option<Scopes>, params: Params) -> Self {
        Self { issuer, scopes, params, token: OnceLock::new(), value: ArcSwapOption::empty() }
    }

    /// Says whose token it is.
    pub(super) fn link(&self, issuer: &Arc<IssuerConfig>) {
        let mut key = issuer.own_credential();
        key.params.extend(self.params.clone());
        if let Some(scopes) = &self.scopes {
            key.scopes = scopes.clone();
        }
        // A config links each of its references once.
        let _ = self.token.set((Arc::clone(issuer), key));
    }

    /// The other issuer, and which of its tokens it is.
    pub fn token(&self) -> (&Arc<IssuerConfig>, &CredentialKey) {
        let (issuer, key) = self.token.get().expect("a config whose references are not linked is not used");
        (issuer, key)
    }

    /// Gives the token to whoever reads the reference.
    pub fn put(&self, token: Secret) {
        self.value.store(Some(Arc::new(token)));
    }
}

impl PartialEq for Chained {
    fn eq(&self, other: &Self) -> bool {
        (&self.issuer, &self.scopes, &self.params) == (&other.issuer, &other.scopes, &other.params)
    }
}

impl Eq for Chained {}

/// The pointer to the value in a webhook's store.
const STORED_VALUE: &str = "/value";

/// A [`ReferenceError::reason`].
pub(super) const NO_FILE: &str = "no such file";
/// A [`ReferenceError::reason`].
pub(super) const NOT_SET: &str = "is not set";
/// A [`ReferenceError::reason`].
pub(super) const NOT_MADE: &str = made::NOT_MADE;

/// A [`ReferenceError::reason`]: nobody has asked the device for the key.
pub(super) const NOT_FOUND: &str = "was not needed yet";

/// Why a reference gave no value. It names the place and never the content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReferenceError {
    pub place: String,
    pub reason: String,
}

impl std::fmt::Display for ReferenceError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.place, self.reason)
    }
}

impl std::error::Error for ReferenceError {}

impl Source {
    pub fn literal(value: impl Into<Secret>) -> Self {
        Self::from_definition(Definition::Literal(value.into()))
    }

    /// `path` must be absolute.
    pub fn file(path: PathBuf, pointer: Option<String>) -> Self {
        Self::from_definition(Definition::File { path, pointer })
    }

    pub fn env(name: String, pointer: Option<String>) -> Self {
        Self::from_definition(Definition::Env { name, pointer })
    }

    /// The value that the webhook `name` learned. `store` must be absolute.
    pub fn webhook(name: String, store: PathBuf) -> Self {
        Self::from_definition(Definition::Webhook { name, store })
    }

    /// What this program prints. It runs when [`Self::refresh`] is called, and never by reading the value.
    pub(super) fn exec(config: ProgramConfig, pointer: Option<String>) -> Self {
        Self::from_definition(Definition::Exec { program: program(config), pointer })
    }

    /// A JWT-SVID, which [`Self::refresh`] fetches.
    pub(super) fn jwt_svid(config: JwtSvidConfig) -> Self {
        Self::from_definition(Definition::JwtSvid(jwt_svid(config)))
    }

    /// A value that the agent of SPIFFE streams, from [`Self::refresh`] on.
    pub(super) fn streamed(value: Streamed) -> Self {
        Self::from_definition(Definition::Streamed(value))
    }

    /// The current token of another issuer. Whoever reads it has to put it there first ([`Chained::put`]).
    pub(super) fn issuer(chained: Chained) -> Self {
        Self::from_definition(Definition::Issuer(Arc::new(chained)))
    }

    /// A private key that stays in its device. [`Self::refresh`] finds it. Its PIN is the password.
    pub(super) fn device(uri: KeyUri) -> Self {
        Self::from_definition(Definition::Device(Arc::new(Device { uri, found: ArcSwapOption::empty() })))
    }

    fn in_device(&self) -> Option<&Arc<Device>> {
        match &self.0.definition {
            Definition::Device(device) => Some(device),
            _ => None,
        }
    }

    /// Whether this is a private key in a device.
    pub fn is_in_device(&self) -> bool {
        self.in_device().is_some()
    }

    /// The private key in a device, once it was found there. `None`: this is another kind of value.
    ///
    /// # Errors
    /// It was not found yet.
    pub fn device_key(&self) -> Option<Result<PrivateKey, String>> {
        let found = self.in_device()?.found.load_full().ok_or_else(|| NOT_FOUND.to_owned());
        Some(found.and_then(|key| PrivateKey::in_device(&key).map_err(|error| error.to_string())))
    }

    /// The other issuer's token that this is, if it is one.
    pub fn chained(&self) -> Option<&Arc<Chained>> {
        match &self.0.definition {
            Definition::Issuer(chained) => Some(chained),
            _ => None,
        }
    }

    /// The same value, with the password of its PKCS#12 file.
    #[must_use]
    pub fn with_password(&self, password: Self) -> Self {
        let definition = self.0.definition.clone();
        Self(Arc::new(Inner { password: Some(password), ..Inner::new(definition) }))
    }

    fn from_definition(definition: Definition) -> Self {
        if let Definition::Literal(_)
        | Definition::Env { .. }
        | Definition::Streamed(_)
        | Definition::Issuer(_)
        | Definition::Device(_) = definition
        {
            return Self(Arc::new(Inner::new(definition)));
        }
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(there) = known.get(&definition).and_then(Weak::upgrade) {
            return Self(there);
        }
        if known.len() == known.capacity() {
            known.retain(|_, inner| inner.strong_count() > 0);
        }
        let inner = Arc::new(Inner::new(definition.clone()));
        known.insert(definition, Arc::downgrade(&inner));
        Self(inner)
    }

    /// The password of a PKCS#12 file, if the config has one.
    pub fn password(&self) -> Option<&Self> {
        self.0.password.as_ref()
    }

    /// The webhook that learns this value.
    pub fn learned_by(&self) -> Option<&str> {
        match &self.0.definition {
            Definition::Webhook { name, .. } => Some(name),
            _ => None,
        }
    }

    /// The variable of an `env` reference.
    pub fn variable(&self) -> Option<&str> {
        match &self.0.definition {
            Definition::Env { name, .. } => Some(name),
            _ => None,
        }
    }

    /// The file that this reads, for the watcher.
    pub fn path(&self) -> Option<&Path> {
        match &self.0.definition {
            Definition::File { path, .. } | Definition::Webhook { store: path, .. } => Some(path),
            Definition::Literal(_)
            | Definition::Env { .. }
            | Definition::Exec { .. }
            | Definition::JwtSvid(_)
            | Definition::Streamed(_)
            | Definition::Issuer(_)
            | Definition::Device(_) => None,
        }
    }

    /// The file that the config names with this reference: the one of the value, or of the program or module that makes it.
    /// A webhook's store is named by its own key.
    pub(super) fn named_file(&self) -> Option<PathBuf> {
        match &self.0.definition {
            Definition::File { path, .. } => Some(path.clone()),
            Definition::Exec { program, .. } => program.recipe.path(),
            Definition::Device(device) => Some(device.uri.module()).filter(|path| path.is_absolute()),
            Definition::Webhook { .. }
            | Definition::Literal(_)
            | Definition::Env { .. }
            | Definition::JwtSvid(_)
            | Definition::Streamed(_)
            | Definition::Issuer(_) => None,
        }
    }

    fn as_streamed(&self) -> Option<&Streamed> {
        match &self.0.definition {
            Definition::Streamed(streamed) => Some(streamed),
            _ => None,
        }
    }

    /// Another value may come at any time, without a request for it.
    pub fn is_streamed(&self) -> bool {
        self.as_streamed().is_some()
    }

    /// Waits until a streamed value may be another one.
    pub async fn changed(&self) {
        match self.as_streamed() {
            Some(streamed) => streamed.stream.changed().await,
            None => std::future::pending().await,
        }
    }

    /// Another number means that the value was made or sent again. Always 0 for files and the like.
    pub fn version(&self) -> u64 {
        let streamed = self.as_streamed().map(|streamed| streamed.stream.version());
        streamed.or_else(|| Some(self.maker()?.version())).unwrap_or_default()
    }

    /// The trust domain whose authorities this value holds, if it is the trust bundle of a SPIFFE identity. `Err`: the agent
    /// has not said which one.
    pub fn trust_domain(&self) -> Option<Result<String, String>> {
        let streamed = self.as_streamed()?;
        match &streamed.part {
            Part::Identity => None,
            Part::Bundle(Some(of)) => Some(Ok(of.to_string())),
            Part::Bundle(None) => Some(streamed.stream.trust_domain(streamed.id.as_ref())),
        }
    }

    fn maker(&self) -> Option<Arc<Maker<dyn Recipe>>> {
        match &self.0.definition {
            Definition::Exec { program, .. } => Some(Arc::<Program>::clone(program)),
            Definition::JwtSvid(svid) => Some(Arc::<JwtSvidMaker>::clone(svid)),
            _ => None,
        }
    }

    /// The value has to be made before it can be read: [`Self::refresh`] runs a program, fetches a JWT-SVID, or finds a key, and a
    /// token of another issuer is put there.
    pub fn is_made(&self) -> bool {
        matches!(
            self.0.definition,
            Definition::Exec { .. } | Definition::JwtSvid(_) | Definition::Issuer(_) | Definition::Device(_)
        )
    }

    /// The values that this one is made with.
    pub fn made_with(&self) -> impl Iterator<Item = &Self> {
        let pin = self.password().filter(|_| self.is_in_device());
        let program = match &self.0.definition {
            Definition::Exec { program, .. } => Some(program),
            _ => None,
        };
        program.into_iter().flat_map(|program| program.recipe.env.values()).chain(pin)
    }

    /// Why the value cannot be made, as far as that is known without making it.
    pub fn unmakeable(&self) -> Option<ReferenceError> {
        let streamed = self.as_streamed().and_then(Streamed::unmakeable);
        let device = || self.in_device().and_then(|device| device.uri.missing_module());
        let reason = streamed.or_else(device).or_else(|| self.maker()?.recipe.unmakeable())?;
        Some(ReferenceError { place: self.place(), reason })
    }

    /// Begins to make the value, unless what was made last is kept. The future waits for it.
    ///
    /// # Errors
    /// There is no new value, even if there is a last good one.
    pub fn refresh(&self) -> impl Future<Output = Result<(), ReferenceError>> + Send + use<> {
        let refreshing = self.maker().map(|maker| maker.refresh());
        let stream = self.as_streamed().map(|streamed| Arc::clone(&streamed.stream));
        stream.iter().for_each(|stream| stream.begin());
        let (place, this) = (self.place(), self.clone());
        async move {
            let outcome = match (refreshing, stream, this.in_device()) {
                (Some(refreshing), ..) => Refreshing::outcome(refreshing).await.map(drop),
                (_, Some(stream), _) => stream.ready().await,
                (.., Some(device)) => this.find_key(device).await,
                (None, None, None) => Ok(()),
            };
            outcome.map_err(|reason| ReferenceError { place, reason })
        }
    }

    async fn find_key(&self, device: &Device) -> Result<(), String> {
        let pin = match self.password() {
            None => None,
            Some(pin) => {
                let unreadable = |error: ReferenceError| format!("its PIN cannot be read: {error}");
                Box::pin(pin.refresh()).await.map_err(unreadable)?;
                Some(pin.to_send_aside().await.map_err(unreadable)?.0)
            }
        };
        let key = DeviceKey::open(&device.uri, pin.as_deref()).await.map_err(|error| error.to_string())?;
        device.found.store(Some(Arc::new(key)));
        Ok(())
    }

    /// How long what was made last is used before the value is made again.
    pub fn kept_for(&self) -> Duration {
        self.maker().map_or(Duration::MAX, |maker| maker.kept_for())
    }

    /// Somebody refused the value. Returns whether it was an older one that would have been used again, so that another
    /// one may help.
    pub fn refuse(&self) -> bool {
        self.maker().is_some_and(|maker| maker.refuse())
    }

    pub fn is_literal(&self) -> bool {
        matches!(self.0.definition, Definition::Literal(_))
    }

    /// A program prints it.
    pub(super) fn is_printed(&self) -> bool {
        matches!(self.0.definition, Definition::Exec { .. })
    }

    /// The place of the value, in words for an operator.
    pub fn place(&self) -> String {
        let (place, pointer) = match &self.0.definition {
            Definition::Literal(_) => return "the config file".to_owned(),
            Definition::File { path, pointer } => (format!("file {}", path.display()), pointer),
            Definition::Env { name, pointer } => (format!("environment variable {name}"), pointer),
            Definition::Webhook { name, .. } => return format!("webhook {name}"),
            Definition::Exec { program, pointer } => (format!("program {}", program.recipe.name()), pointer),
            Definition::JwtSvid(svid) => return svid.recipe.place(),
            Definition::Streamed(streamed) => return streamed.place(),
            Definition::Issuer(chained) => return format!("issuer {}", chained.issuer),
            Definition::Device(device) => return format!("key {}", device.uri),
        };
        match pointer {
            Some(pointer) => format!("{place} at {pointer}"),
            None => place,
        }
    }

    /// Reads the value now. An empty value counts as missing, so that an empty secret is never sent.
    pub fn read(&self) -> Result<Arc<Secret>, ReferenceError> {
        self.read_now().map(|value| value.secret)
    }

    /// As [`Self::read`], but returns the last good value while a newer one may be incomplete.
    pub fn read_settled(&self) -> Result<Arc<Secret>, ReferenceError> {
        let Value { secret, settled } = self.read_now()?;
        let before = if settled { None } else { self.0.last_good.load_full() };
        Ok(before.unwrap_or(secret))
    }

    /// Reads the value now, or else returns the last good one together with the error.
    pub fn read_or_last_good(&self) -> Result<(Arc<Secret>, Option<ReferenceError>), ReferenceError> {
        self.or_last_good(self.read())
    }

    /// The value to send: as [`Self::read_settled`], or else the last good one together with the error.
    pub fn to_send(&self) -> Result<(Arc<Secret>, Option<ReferenceError>), ReferenceError> {
        self.or_last_good(self.read_settled())
    }

    /// As [`Self::to_send`], without blocking this thread.
    pub async fn to_send_aside(&self) -> Result<(Arc<Secret>, Option<ReferenceError>), ReferenceError> {
        let this = self.clone();
        match VALUES.run(move || this.to_send()).await {
            Ok(outcome) => outcome,
            Err(error) => {
                self.or_last_good(Err(ReferenceError { place: self.place(), reason: error.to_string() }))
            }
        }
    }

    /// The good value before the last one.
    pub fn earlier(&self) -> Option<Arc<Secret>> {
        self.0.earlier.load_full()
    }

    fn or_last_good(
        &self,
        read: Result<Arc<Secret>, ReferenceError>,
    ) -> Result<(Arc<Secret>, Option<ReferenceError>), ReferenceError> {
        match read {
            Ok(secret) => Ok((secret, None)),
            Err(error) => match self.0.last_good.load_full() {
                Some(secret) => Ok((secret, Some(error))),
                None => Err(error),
            },
        }
    }

    fn read_now(&self) -> Result<Value, ReferenceError> {
        let Found { secret, written } =
            self.find().map_err(|reason| ReferenceError { place: self.place(), reason })?;
        let secret = Arc::new(secret);
        let settled = written.is_none_or(is_long_ago);
        // An agent's document is of no use after it has expired. Until then, its maker keeps it.
        let expires = matches!(self.0.definition, Definition::JwtSvid(_));
        // Without a last good value, a new one is used even if it may be incomplete.
        if !expires && (settled || self.0.last_good.load().is_none()) {
            let before = self.0.last_good.swap(Some(Arc::clone(&secret)));
            if let Some(before) = before.filter(|before| *before != secret) {
                self.0.earlier.store(Some(before));
            }
        }
        Ok(Value { secret, settled })
    }

    fn find(&self) -> Result<Found, String> {
        let (whole, pointer) = match &self.0.definition {
            // A literal may be empty, because the operator wrote it.
            Definition::Literal(secret) => return Ok(secret.clone().into()),
            Definition::File { path, pointer } => (read_file(path)?, pointer),
            Definition::Env { name, pointer } => (read_env(name)?.into(), pointer),
            Definition::Webhook { store, .. } => return read_store(store).map(Found::from),
            Definition::Exec { pointer, .. } => (self.made_last()?, pointer),
            Definition::JwtSvid(_) => return self.made_last(),
            Definition::Streamed(streamed) => return Ok(streamed.read()?.into()),
            Definition::Issuer(chained) => {
                let token = chained.value.load_full().ok_or("granted no token yet")?;
                return Ok(Secret::clone(&token).into());
            }
            Definition::Device(_) => {
                let key = self.device_key().unwrap_or_else(|| Err(NOT_FOUND.to_owned()))?;
                return Ok(Secret::from(key.thumbprint()).into());
            }
        };
        let secret = match pointer {
            Some(pointer) => point_into(&whole.secret, pointer)?,
            None => whole.secret,
        };
        if secret.is_empty() { Err("is empty".to_owned()) } else { Ok(Found { secret, ..whole }) }
    }

    fn made_last(&self) -> Result<Found, String> {
        let maker = self.maker().ok_or(NOT_MADE)?;
        Ok(Secret::clone(&*maker.value()?).into())
    }
}

/// Makes these values, all at the same time, and waits for at most `limit`. Blocks.
pub fn make_all(values: &[Source], limit: Duration) {
    if values.is_empty() {
        return;
    }
    let making: Vec<_> = values.iter().map(Source::refresh).collect();
    let (done_to, done) = mpsc::channel();
    let waiting = VALUES.spawn(move || {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_time().build() else { return };
        let all = async {
            for making in making {
                // The reader of the value reports the error.
                let _ = making.await;
            }
        };
        let _ = runtime.block_on(async { tokio::time::timeout(limit, all).await });
        // The caller may have given up.
        let _ = done_to.send(());
    });
    if waiting.is_ok() {
        let _ = done.recv_timeout(limit);
    }
}

/// A value that was found.
struct Found {
    secret: Secret,
    /// When its file was last written; `None`: it was certainly written completely.
    written: Option<SystemTime>,
}

impl From<Secret> for Found {
    fn from(secret: Secret) -> Self {
        Self { secret, written: None }
    }
}

struct Value {
    secret: Arc<Secret>,
    settled: bool,
}

/// A time ahead of this machine's clock counts as long ago.
fn is_long_ago(written: SystemTime) -> bool {
    SystemClock.wall().duration_since(written).map_or(true, |age| age >= SETTLES)
}

fn read_bytes(path: &Path) -> io::Result<Arc<files::Contents>> {
    files::read(path, files::LARGEST_VALUE)
}

fn read_file(path: &Path) -> Result<Found, String> {
    let contents = read_bytes(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => NO_FILE.to_owned(),
        io::ErrorKind::PermissionDenied => denied(path),
        io::ErrorKind::IsADirectory => "is a folder; name the file in it".to_owned(),
        _ => error.to_string(),
    })?;
    Ok(Found { secret: Secret::new(without_line_end(&contents.bytes)), written: contents.modified })
}

/// Reading a file also requires the right to enter each folder above it.
fn denied(path: &Path) -> String {
    let is_closed = |folder: &&Path| {
        folder.metadata().is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
    };
    // The outermost folder without accessible metadata: the folder around it may not be entered.
    let hidden = path.ancestors().take_while(is_closed).last();
    match hidden.and_then(Path::parent) {
        Some(folder) => format!(
            "this user may not enter the folder {0}: it needs the execute right, as by `chmod o+x {0}`",
            folder.display()
        ),
        None => "may not be read by this user".to_owned(),
    }
}

fn read_store(path: &Path) -> Result<Secret, String> {
    let contents = read_bytes(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            "has received no value yet; its sender must send one, or check that the sender's requests reach bearerd"
                .to_owned()
        }
        io::ErrorKind::PermissionDenied => {
            format!("its store {} may not be read by this user", path.display())
        }
        _ => format!("its store {}: {error}", path.display()),
    })?;
    let value = point_into(&Secret::new(contents.bytes.as_slice()), STORED_VALUE).map_err(|why| {
        format!("its store {} {why}; the sender's next request writes it anew", path.display())
    })?;
    if value.is_empty() {
        Err(format!("its store {} holds an empty value", path.display()))
    } else {
        Ok(value)
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "references are the one place that reads variables named in the config"
)]
fn read_env(name: &str) -> Result<Secret, String> {
    match std::env::var(name) {
        Ok(value) => Ok(Secret::from(value)),
        Err(std::env::VarError::NotPresent) => Err(NOT_SET.to_owned()),
        Err(std::env::VarError::NotUnicode(_)) => Err("is not UTF-8".to_owned()),
    }
}

/// Removes one trailing line end, which an editor or `echo` adds. Binary content (DER begins with a SEQUENCE of a long
/// length) has no line ends.
fn without_line_end(bytes: &[u8]) -> &[u8] {
    if matches!(bytes, [0x30, 0x80..=0x84, ..]) {
        return bytes;
    }
    bytes.strip_suffix(b"\r\n").or_else(|| bytes.strip_suffix(b"\n")).unwrap_or(bytes)
}

fn point_into(whole: &Secret, pointer: &str) -> Result<Secret, String> {
    // serde_json's message could quote the text, so only the place is named.
    let text = whole.expose();
    let json: serde_json::Value = serde_json::from_slice(text.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(text))
        .map_err(|error| format!("is not JSON (line {}, column {})", error.line(), error.column()))?;
    match json.pointer(pointer) {
        Some(serde_json::Value::String(text)) => Ok(Secret::from(text.as_str())),
        Some(serde_json::Value::Number(number)) => Ok(Secret::from(number.to_string())),
        Some(serde_json::Value::Bool(value)) => Ok(Secret::from(value.to_string())),
        Some(_) => Err("holds no string, number or boolean there".to_owned()),
        None => Err("has nothing there".to_owned()),
    }
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.place())
    }
}

impl PartialEq for Source {
    fn eq(&self, other: &Self) -> bool {
        self.0.definition == other.0.definition && self.0.password == other.0.password
    }
}

impl Eq for Source {}

impl Hash for Source {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.definition.hash(state);
    }
}

impl Hash for Definition {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Self::Literal(secret) => (0u8, secret.expose()).hash(state),
            Self::File { path, pointer } => (1u8, path, pointer).hash(state),
            Self::Env { name, pointer } => (2u8, name, pointer).hash(state),
            Self::Webhook { name, store } => (3u8, name, store).hash(state),
            Self::Exec { program, pointer } => (4u8, &program.recipe, pointer).hash(state),
            Self::Device(device) => (8u8, &device.uri).hash(state),
            Self::Streamed(streamed) => (7u8, streamed).hash(state),
            Self::JwtSvid(svid) => (6u8, &svid.recipe).hash(state),
            Self::Issuer(chained) => (5u8, &chained.issuer, &chained.scopes, &chained.params).hash(state),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::files::write_settled;
    use super::*;

    #[test]
    fn cuts_exactly_one_line_end() {
        assert_eq!(without_line_end(b"s\n\n"), b"s\n");
        assert_eq!(without_line_end(b"s\r\n"), b"s");
        assert_eq!(without_line_end(b"s\r"), b"s\r");
        assert_eq!(without_line_end(b" s "), b" s ");
    }

    #[test]
    fn what_may_be_half_written_is_not_sent_where_there_is_a_good_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        let source = Source::file(path.clone(), None);
        let sent =
            || source.to_send().map(|(secret, error)| (secret.expose_str().unwrap().to_owned(), error));
        assert!(sent().is_err());
        std::fs::write(&path, "first\n").unwrap();
        assert_eq!(sent(), Ok(("first".to_owned(), None)), "a first one is better than none");
        std::fs::write(&path, "ha").unwrap();
        assert_eq!(sent(), Ok(("first".to_owned(), None)));
        assert_eq!(source.read().unwrap().expose(), b"ha", "whoever only looks sees it");
        assert_eq!(sent(), Ok(("first".to_owned(), None)));
        write_settled(&path, "");
        let (kept, error) = sent().unwrap();
        assert_eq!((kept.as_str(), error.unwrap().reason.as_str()), ("first", "is empty"));
        std::fs::write(&path, "half and half").unwrap();
        assert_eq!(sent(), Ok(("first".to_owned(), None)));
        write_settled(&path, "half and half");
        assert_eq!(sent(), Ok(("half and half".to_owned(), None)));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(sent().unwrap().0, "half and half");
    }

    #[test]
    fn a_time_ahead_of_ours_says_nothing() {
        assert!(is_long_ago(SystemClock.wall() + Duration::from_secs(3600)));
        assert!(!is_long_ago(SystemClock.wall()));
    }

    #[test]
    fn a_config_that_is_loaded_again_has_the_last_good_values_of_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        std::fs::write(&path, "good").unwrap();
        let before = Source::file(path.clone(), None);
        before.read().unwrap();
        std::fs::remove_file(&path).unwrap();
        let after = Source::file(path.clone(), None);
        assert_eq!(after.read_or_last_good().unwrap().0.expose(), b"good");
        let pointer = Source::file(path.clone(), Some("/a".to_owned()));
        assert!(pointer.read_or_last_good().is_err(), "another value");
        drop((before, after));
        assert!(Source::file(path, None).read_or_last_good().is_err(), "nobody holds it any more");
    }

    #[test]
    fn points_into_json() {
        let whole = Secret::from(r#"{"a":{"b":"x","n":7,"o":{}}}"#);
        assert_eq!(point_into(&whole, "/a/b"), Ok(Secret::from("x")));
        assert_eq!(point_into(&whole, "/a/n"), Ok(Secret::from("7")));
        assert!(point_into(&whole, "/a/o").is_err());
        assert!(point_into(&whole, "/z").is_err());
    }

    #[test]
    fn a_broken_document_is_not_quoted() {
        let error = point_into(&Secret::from("{\"k\":hunter2}"), "/k").unwrap_err();
        assert!(!error.contains("hunter2"), "{error}");
    }
}
