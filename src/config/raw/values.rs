//! The types of keys. A key's type says what may be written, within which bounds, and what the default is. Both the schema
//! and the reader of a value take it from there.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};

use crate::config::document::Place;
use crate::config::report::{Report, did_you_mean};
use crate::config::schema::{is_secret_literal, names_a_secret};
use crate::config::types::{self, Wrong};
use crate::secret::Secret;

/// The value, or `None` after the error was reported.
pub(crate) fn check<T>(place: &Place<'_>, result: Result<T, Wrong>, report: &mut Report) -> Option<T> {
    result.map_err(|wrong| report.error(place, wrong.message, wrong.hint)).ok()
}

/// A schema that is written inline, like those of plain types.
macro_rules! inline_schema {
    ([$($generics:tt)*] $name:ty, $schema:expr) => {
        impl<$($generics)*> JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }
            fn inline_schema() -> bool {
                true
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                $schema
            }
        }
    };
}

/// A text whose type says in its own words what is expected.
fn text<'de, D: Deserializer<'de>>(deserializer: D, expected: &'static str) -> Result<String, D::Error> {
    struct Text(&'static str);
    impl Visitor<'_> for Text {
        type Value = String;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
        fn visit_str<E: Error>(self, text: &str) -> Result<String, E> {
            Ok(text.to_owned())
        }
    }
    deserializer.deserialize_str(Text(expected))
}

/// A duration. The default is `SECONDS` and `MILLIS`, one of which is 0.
#[derive(Default)]
pub(crate) struct Lasting<const SECONDS: u64, const MILLIS: u64 = 0>(Option<String>);

impl<const SECONDS: u64, const MILLIS: u64> Lasting<SECONDS, MILLIS> {
    const DEFAULT: Duration = Duration::from_millis(SECONDS * 1000 + MILLIS);

    pub(crate) fn is_given(&self) -> bool {
        self.0.is_some()
    }

    pub(crate) fn read(self, at: &Place<'_>, key: &str, report: &mut Report) -> Duration {
        self.0.and_then(|text| check(&at.key(key), types::duration(&text), report)).unwrap_or(Self::DEFAULT)
    }

    /// A timeout; `"0s"` turns it off.
    pub(crate) fn timeout(self, at: &Place<'_>, key: &str, report: &mut Report) -> Option<Duration> {
        Some(self.read(at, key, report)).filter(|duration| !duration.is_zero())
    }

    /// The default as it is written in a file.
    fn written() -> String {
        match SECONDS {
            0 if MILLIS > 0 => format!("{MILLIS}ms"),
            minutes if minutes > 60 && minutes.is_multiple_of(60) => format!("{}m", minutes / 60),
            seconds => format!("{seconds}s"),
        }
    }
}

impl<'de, const SECONDS: u64, const MILLIS: u64> Deserialize<'de> for Lasting<SECONDS, MILLIS> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(deserializer, "a duration such as \"30s\"").map(|text| Self(Some(text)))
    }
}

inline_schema!([const SECONDS: u64, const MILLIS: u64] Lasting<SECONDS, MILLIS>, json_schema!({
    "type": "string",
    "pattern": "^([0-9]+(ms|s|m|h|d))+$",
    "default": Self::written()
}));

/// A size in bytes within bounds. The default is `DEFAULT`.
#[derive(Default)]
pub(crate) struct Size<const DEFAULT: usize, const LEAST: usize, const MOST: usize>(Option<String>);

impl<const DEFAULT: usize, const LEAST: usize, const MOST: usize> Size<DEFAULT, LEAST, MOST> {
    pub(crate) fn read(self, at: &Place<'_>, key: &str, report: &mut Report) -> usize {
        let size = self.0.and_then(|text| check(&at.key(key), types::size(&text), report));
        let size = size.unwrap_or(DEFAULT);
        if size < LEAST {
            report.error(&at.key(key), format!("must be at least \"{}\"", size_text(LEAST)), "");
        } else if size > MOST {
            report.error(&at.key(key), format!("must be at most \"{}\"", size_text(MOST)), "");
        }
        size
    }

    fn errors() -> String {
        let least = (LEAST > 0).then(|| format!("less than `{}`; ", size_text(LEAST)));
        format!("{}more than `{}`", least.unwrap_or_default(), size_text(MOST))
    }
}

/// As it is written in a file.
pub(crate) fn size_text(bytes: usize) -> String {
    let units = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let unit = units.into_iter().find(|(_, unit)| bytes >= *unit && bytes.is_multiple_of(*unit));
    unit.map_or_else(|| format!("{bytes}B"), |(name, unit)| format!("{}{name}", bytes / unit))
}

impl<'de, const DEFAULT: usize, const LEAST: usize, const MOST: usize> Deserialize<'de>
    for Size<DEFAULT, LEAST, MOST>
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(deserializer, "a size such as \"64KiB\"").map(|text| Self(Some(text)))
    }
}

inline_schema!([const DEFAULT: usize, const LEAST: usize, const MOST: usize] Size<DEFAULT, LEAST, MOST>, json_schema!({
    "type": "string",
    "pattern": "^[0-9]+(B|KiB|MiB|GiB)$",
    "default": size_text(DEFAULT),
    "x-errors": Self::errors()
}));

/// A count from 1 to `MOST`. The default is `DEFAULT`.
#[derive(Default)]
pub(crate) struct Count<const DEFAULT: usize, const MOST: usize>(Option<usize>);

impl<const DEFAULT: usize, const MOST: usize> Count<DEFAULT, MOST> {
    pub(crate) fn read(self, at: &Place<'_>, key: &str, report: &mut Report) -> usize {
        let number = self.0.unwrap_or(DEFAULT);
        if number == 0 {
            report.error(&at.key(key), "must be at least 1", "");
        } else if number > MOST {
            report.error(&at.key(key), format!("must be at most {MOST}"), "");
        }
        number
    }
}

impl<'de, const DEFAULT: usize, const MOST: usize> Deserialize<'de> for Count<DEFAULT, MOST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        usize::deserialize(deserializer).map(|number| Self(Some(number)))
    }
}

inline_schema!([const DEFAULT: usize, const MOST: usize] Count<DEFAULT, MOST>, json_schema!({
    "type": "integer",
    "format": "uint",
    "minimum": 1,
    "maximum": MOST,
    "default": DEFAULT,
    "x-errors": format!("0; more than {MOST}")
}));

/// `true` or `false`. The default is `DEFAULT`.
pub(crate) struct Flag<const DEFAULT: bool>(pub(crate) bool);

impl<const DEFAULT: bool> Default for Flag<DEFAULT> {
    fn default() -> Self {
        Self(DEFAULT)
    }
}

impl<'de, const DEFAULT: bool> Deserialize<'de> for Flag<DEFAULT> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        bool::deserialize(deserializer).map(Self)
    }
}

inline_schema!([const DEFAULT: bool] Flag<DEFAULT>, json_schema!({ "type": "boolean", "default": DEFAULT }));

/// A value that is written as one of a few words. Its `Default` is the key's.
pub(crate) trait Words: Copy + Default + PartialEq + 'static {
    /// Every word that may be written.
    const WORDS: &'static [(&'static str, Self)];

    /// As it is written.
    fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(_, value)| *value == self).map_or("", |(word, _)| word)
    }
}

/// `plaintext`: whether http:// to another machine is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Plaintext {
    #[default]
    Refuse,
    Allow,
}

impl Words for Plaintext {
    const WORDS: &'static [(&'static str, Self)] = &[("refuse", Self::Refuse), ("allow", Self::Allow)];
}

/// One of the words of `T`.
pub(crate) struct Word<T>(Option<String>, PhantomData<T>);

impl<T> Default for Word<T> {
    fn default() -> Self {
        Self(None, PhantomData)
    }
}

impl<T: Words> Word<T> {
    pub(crate) fn is_given(&self) -> bool {
        self.0.is_some()
    }

    pub(crate) fn read(&self, at: &Place<'_>, key: &str, report: &mut Report) -> T {
        self.read_or(T::default(), at, key, report)
    }

    /// As [`Self::read`], with a default that depends on other keys.
    pub(crate) fn read_or(&self, default: T, at: &Place<'_>, key: &str, report: &mut Report) -> T {
        let Some(written) = &self.0 else { return default };
        if let Some((_, value)) = T::WORDS.iter().find(|(word, _)| word == written) {
            return *value;
        }
        let place = at.key(key);
        let words = T::WORDS.iter().map(|(word, _)| *word);
        let hint = did_you_mean(written, words.clone(), "");
        let words = words.map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ");
        report.error(&place, format!("{} is not one of {words}", place.describe()), hint);
        default
    }
}

impl<'de, T> Deserialize<'de> for Word<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|word| Self(Some(word), PhantomData))
    }
}

inline_schema!([T: Words] Word<T>, json_schema!({
    "type": "string",
    "enum": T::WORDS.iter().map(|(word, _)| *word).collect::<Vec<_>>(),
    "default": T::default().word()
}));

/// What a literal or a reference gives. A key's type states it, and all that depends on it follows from there: whether the
/// value is masked and wiped, whether a literal needs a file that only its owner may read, and whether an error may show
/// the line (`x-secret` in the schema).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ValueKind {
    /// A literal requires a file that only its owner may read.
    Secret,
    /// The same, and an empty literal means an empty secret (RFC 6749 section 2.3.1). An empty file means nothing, because
    /// it may be half written.
    MaybeEmpty,
    Public,
    /// A secret that may be PKCS#12, with a password.
    Key,
    /// The same, or a key in a device: it signs JWTs or proofs, not the handshakes of TLS.
    SigningKey,
    /// Public, and may also be PKCS#12.
    Certificate,
}

impl ValueKind {
    pub(crate) fn is_secret(self) -> bool {
        matches!(self, Self::Secret | Self::MaybeEmpty | Self::Key | Self::SigningKey)
    }

    pub(crate) fn may_be_pkcs12(self) -> bool {
        matches!(self, Self::Key | Self::SigningKey | Self::Certificate)
    }

    /// The kind of a parameter, header field, or variable, by its name and by what is written there.
    pub(crate) fn named(name: &str, written: &RawReference) -> Self {
        let secret = match written {
            RawReference::Literal(literal) => is_secret_literal(name, literal.expose()),
            RawReference::Elsewhere(_) => names_a_secret(name),
        };
        if secret { Self::Secret } else { Self::Public }
    }
}

/// A [`ValueKind`] as a type.
pub(crate) trait Kind {
    const KIND: ValueKind;
}

/// A literal, or a reference to the value, of the kind that the key's type states.
pub(crate) struct Typed<K>(pub(crate) RawReference, PhantomData<K>);

/// The kinds of [`Typed`].
pub(crate) mod kind {
    use super::{Kind, ValueKind};

    pub(crate) struct Secret;
    pub(crate) struct Public;
    pub(crate) struct Key;
    pub(crate) struct SigningKey;
    pub(crate) struct Certificate;

    impl Kind for Secret {
        const KIND: ValueKind = ValueKind::Secret;
    }
    impl Kind for Public {
        const KIND: ValueKind = ValueKind::Public;
    }
    impl Kind for Key {
        const KIND: ValueKind = ValueKind::Key;
    }
    impl Kind for SigningKey {
        const KIND: ValueKind = ValueKind::SigningKey;
    }
    impl Kind for Certificate {
        const KIND: ValueKind = ValueKind::Certificate;
    }
}

pub(crate) type RawSecret = Typed<kind::Secret>;
pub(crate) type RawPublic = Typed<kind::Public>;
pub(crate) type RawKey = Typed<kind::Key>;
pub(crate) type RawSigningKey = Typed<kind::SigningKey>;
pub(crate) type RawCertificate = Typed<kind::Certificate>;

impl<K> From<RawReference> for Typed<K> {
    fn from(raw: RawReference) -> Self {
        Self(raw, PhantomData)
    }
}

impl<'de, K> Deserialize<'de> for Typed<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        RawReference::deserialize(deserializer).map(Self::from)
    }
}

impl<K: Kind> JsonSchema for Typed<K> {
    fn schema_name() -> Cow<'static, str> {
        RawReference::schema_name()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = generator.subschema_for::<RawReference>();
        if K::KIND.is_secret() {
            schema.insert("x-secret".to_owned(), true.into());
        }
        schema
    }
}

/// A literal or a reference, and what it gives.
pub(crate) struct RawValue {
    pub raw: RawReference,
    pub kind: ValueKind,
}

impl<K: Kind> From<Typed<K>> for RawValue {
    fn from(typed: Typed<K>) -> Self {
        Self { raw: typed.0, kind: K::KIND }
    }
}

/// A literal, or a reference to the value.
pub(crate) enum RawReference {
    Literal(Secret),
    Elsewhere(Box<RawElsewhere>),
}

/// A value from elsewhere: from a file, from the environment, learned by a webhook, or printed by a program.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, rename = "Elsewhere")]
pub(crate) struct RawElsewhere {
    /// A file with the value. One trailing line end is removed. Relative paths start at the config file's folder.
    #[schemars(extend("x-errors" = "beside `env`"))]
    pub file: Option<String>,
    /// An environment variable with the value. With `exec`, a table: more variables of the program, whose values may be
    /// references.
    #[schemars(extend("x-errors" = "beside `file`; a table without `exec`; a name beside `exec`"))]
    pub env: Option<RawEnv>,
    /// The name of a `[webhook.NAME]` that learns the value.
    #[schemars(extend("x-errors" = "not a webhook; beside `file`, `env`, or `pointer`"))]
    pub webhook: Option<String>,
    /// A program that prints the value to its standard output, and its arguments. It is run without a shell, in the config
    /// file's folder. One trailing line end is removed. Its environment is `PATH`, `HOME`, `LANG`, and `env`.
    #[schemars(extend("x-errors" = "beside `file` or `webhook`; empty; a config file that others may write", "x-secret" = true))]
    pub exec: Option<Vec<String>>,
    /// A JWT-SVID of the SPIFFE Workload API.
    #[schemars(extend("x-errors" = "without `audience`; beside `file`, `env`, `webhook`, `exec`, `issuer`, or `pointer`"))]
    pub spiffe: Option<RawJwtSvid>,
    /// After this time, bearerd kills the program of `exec` and its children, or no longer waits for the agent of `spiffe`.
    #[schemars(extend("x-errors" = "without `exec` or `spiffe`; 0s; more than 5m"))]
    pub timeout: Lasting<10>,
    /// How long the output of `exec` is used before the program is run again. `0s`: for one token request.
    #[schemars(extend("x-errors" = "without `exec`; missing outside of token requests; between 0s and 1s"))]
    pub keep: Lasting<0>,
    /// The name of another `[issuer.NAME]`, whose current token is the value. Only in `client_secret`, `standby.client_secret`,
    /// `basic.password`, `assertion`, `params`, `headers`, and `jwt.claims` of an issuer, and in `params` of a route.
    #[schemars(extend("x-errors" = "not an issuer; anywhere else; a circle; a chain of more than 16 issuers; an issuer with `dpop`; beside `file`, `env`, `webhook`, `exec`, or `pointer`"))]
    pub issuer: Option<String>,
    /// The scopes of that token, which replace the other issuer's.
    #[schemars(extend("x-errors" = "without `issuer`"))]
    pub scopes: Option<Vec<String>>,
    /// More parameters of its token request.
    #[schemars(extend("x-errors" = "without `issuer`; a reference to an issuer"))]
    pub params: Option<RawParams>,
    /// A private key that stays in a device, as a PKCS#11 URI (RFC 7512). Its PIN is in the file of `pin-source`, or comes from
    /// `password`. Only in `private_key` and `dpop.private_key` of an issuer.
    #[schemars(extend("x-errors" = "not such a URI; anywhere else; with `tls_client_auth`; a `pin-value` in a file that others may read; a config file that others may write; a program without `pkcs11`; beside `file`, `env`, `webhook`, `exec`, `issuer`, or `pointer`", "x-secret" = true))]
    pub pkcs11: Option<String>,
    /// JSON pointer to the value (RFC 6901), such as "/a/b".
    #[schemars(extend("x-errors" = "not a JSON pointer"))]
    pub pointer: Option<String>,
    /// The password of a PKCS#12 file, or the PIN of a device.
    #[schemars(extend("x-errors" = "beside `webhook`; beside a PIN in `pkcs11`; on a value that is not a key or certificate"))]
    pub password: Option<Box<RawSecret>>,
}

impl RawElsewhere {
    /// Its keys.
    pub(crate) const KEYS: [&'static str; 13] = [
        "file", "env", "webhook", "exec", "timeout", "keep", "issuer", "scopes", "params", "pointer",
        "password", "pkcs11", "spiffe",
    ];
    /// The keys that say where a value is.
    pub(crate) const PLACES: [&'static str; 7] =
        ["file", "env", "webhook", "exec", "issuer", "pkcs11", "spiffe"];
}

/// Which JWT-SVID of the SPIFFE Workload API.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, rename = "JwtSvid")]
pub(crate) struct RawJwtSvid {
    /// The server that the JWT-SVID is for, usually the issuer's own URL.
    #[schemars(extend("x-errors" = "missing; empty"))]
    pub audience: Option<String>,
    /// The agent's socket. Default: `$SPIFFE_ENDPOINT_SOCKET`.
    #[schemars(extend("x-errors" = "not `unix:`, or with a host; missing without `$SPIFFE_ENDPOINT_SOCKET`"))]
    pub socket: Option<String>,
    /// The SPIFFE ID, if the agent has several for this program. Default: the first one.
    #[schemars(extend("x-errors" = "not `spiffe://TRUST-DOMAIN/PATH`"))]
    pub id: Option<String>,
}

/// Which X.509-SVID of the SPIFFE Workload API.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, rename = "X509Svid")]
pub(crate) struct RawX509Svid {
    /// The agent's socket. Default: `$SPIFFE_ENDPOINT_SOCKET`.
    #[schemars(extend("x-errors" = "not `unix:`, or with a host; missing without `$SPIFFE_ENDPOINT_SOCKET`"))]
    pub socket: Option<String>,
    /// The SPIFFE ID, if the agent has several for this program. Default: the first one.
    #[schemars(extend("x-errors" = "not `spiffe://TRUST-DOMAIN/PATH`"))]
    pub id: Option<String>,
}

/// Which X.509-SVID a listener presents.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, rename = "ListenerSvid")]
pub(crate) struct RawListenerSvid {
    /// The agent's socket. Default: `$SPIFFE_ENDPOINT_SOCKET`.
    #[schemars(extend("x-errors" = "not `unix:`, or with a host; missing without `$SPIFFE_ENDPOINT_SOCKET`"))]
    pub socket: Option<String>,
    /// The SPIFFE ID, if the agent has several for this program. Default: the first one.
    #[schemars(extend("x-errors" = "not `spiffe://TRUST-DOMAIN/PATH`"))]
    pub id: Option<String>,
    /// Callers must present an X.509-SVID of the same trust domain.
    #[schemars(extend("x-errors" = "beside `client_ca`"))]
    pub client_certificates: Flag<false>,
}

/// `env`: the name of a variable with the value, or variables of a program.
pub(crate) enum RawEnv {
    Name(String),
    Variables(BTreeMap<String, RawReference>),
}

impl<'de> Deserialize<'de> for RawEnv {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextOrTable {
            expected: "the name of an environment variable; with `exec` a table",
            text: |text| Self::Name(text.to_owned()),
            table: Self::Variables,
        })
    }
}

inline_schema!([] RawEnv, json_schema!({
    "anyOf": [{ "type": "string" }, { "type": "object", "additionalProperties": { "$ref": "#/$defs/Reference" } }]
}));

impl<'de> Deserialize<'de> for RawReference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ReferenceVisitor)
    }
}

struct ReferenceVisitor;

impl<'de> Visitor<'de> for ReferenceVisitor {
    type Value = RawReference;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, { file = \"…\" }, { env = \"…\" }, { webhook = \"…\" }, { exec = [\"…\"] }, { spiffe = … } or { issuer = \"…\" }")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<RawReference, E> {
        Ok(RawReference::Literal(text.into()))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RawReference, A::Error> {
        RawElsewhere::deserialize(MapAccessDeserializer::new(map)).map(Box::new).map(RawReference::Elsewhere)
    }
}

impl JsonSchema for RawReference {
    fn schema_name() -> Cow<'static, str> {
        "Reference".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let elsewhere = generator.subschema_for::<RawElsewhere>();
        json_schema!({
            "description": "A value, or a reference to it. A secret as a literal needs a file that its owner alone may read.",
            "anyOf": [{ "type": "string" }, elsewhere]
        })
    }
}

/// A request parameter's value.
pub(crate) enum RawParam {
    Integer(i64),
    /// The document has its text as it was written.
    Float(f64),
    Boolean(bool),
    Reference(RawReference),
    Array(Vec<Self>),
    Table(BTreeMap<String, Self>),
}

impl<'de> Deserialize<'de> for RawParam {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ParamVisitor)
    }
}

struct ParamVisitor;

impl<'de> Visitor<'de> for ParamVisitor {
    type Value = RawParam;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "a string, a number that fits 64 bits, a boolean, an array, a table, { file = \"…\" } or { env = \"…\" }",
        )
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<RawParam, E> {
        Ok(RawParam::Integer(value))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<RawParam, E> {
        Ok(RawParam::Float(value))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<RawParam, E> {
        Ok(RawParam::Boolean(value))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<RawParam, E> {
        ReferenceVisitor.visit_str(text).map(RawParam::Reference)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawParam, A::Error> {
        let mut members = BTreeMap::new();
        while let Some(name) = map.next_key::<String>()? {
            let value: RawParam = map.next_value()?;
            members.insert(name, value);
        }
        Ok(reference_in(members))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<RawParam, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(RawParam::Array(items))
    }
}

/// A table that says where a value is, and has no other key, is a reference. Any other is a table of values.
fn reference_in(members: BTreeMap<String, RawParam>) -> RawParam {
    let refers = RawElsewhere::PLACES.iter().any(|key| members.contains_key(*key));
    let (runs, chains) = (members.contains_key("exec"), members.contains_key("issuer"));
    let is_svid = |table: &BTreeMap<String, RawParam>| {
        let known = ["audience", "socket", "id"];
        table.iter().all(|(key, value)| known.contains(&key.as_str()) && value.is_text())
    };
    let is_reference = refers
        && members.iter().all(|(key, value)| match value {
            RawParam::Reference(RawReference::Literal(_)) => {
                RawElsewhere::KEYS.contains(&key.as_str()) && !["exec", "spiffe"].contains(&key.as_str())
            }
            RawParam::Reference(_) => key == "password",
            RawParam::Array(words) => {
                (key == "exec" || (key == "scopes" && chains)) && words.iter().all(RawParam::is_text)
            }
            RawParam::Table(_) if key == "params" && chains => true,
            RawParam::Table(table) if key == "spiffe" => is_svid(table),
            RawParam::Table(variables) => {
                key == "env"
                    && runs
                    && variables.values().all(|value| matches!(value, RawParam::Reference(_)))
            }
            _ => false,
        });
    if !is_reference {
        return RawParam::Table(members);
    }
    let mut elsewhere = RawElsewhere::default();
    for (key, value) in members {
        match (key.as_str(), value) {
            ("exec", RawParam::Array(words)) => {
                elsewhere.exec = Some(words.into_iter().filter_map(RawParam::into_text).collect());
            }
            ("env", RawParam::Table(variables)) => {
                let variables = variables.into_iter();
                let values = variables.filter_map(|(name, value)| Some((name, value.into_reference()?)));
                elsewhere.env = Some(RawEnv::Variables(values.collect()));
            }
            ("scopes", RawParam::Array(scopes)) => {
                elsewhere.scopes = Some(scopes.into_iter().filter_map(RawParam::into_text).collect());
            }
            ("params", RawParam::Table(params)) => elsewhere.params = Some(params),
            ("spiffe", RawParam::Table(mut table)) => {
                let mut text = |key| table.remove(key).and_then(RawParam::into_text);
                let (audience, socket, id) = (text("audience"), text("socket"), text("id"));
                elsewhere.spiffe = Some(RawJwtSvid { audience, socket, id });
            }
            ("password", RawParam::Reference(value)) => elsewhere.password = Some(Box::new(value.into())),
            (key, value) => {
                let text = value.into_text();
                match key {
                    "file" => elsewhere.file = text,
                    "env" => elsewhere.env = text.map(RawEnv::Name),
                    "webhook" => elsewhere.webhook = text,
                    "issuer" => elsewhere.issuer = text,
                    "pkcs11" => elsewhere.pkcs11 = text,
                    "timeout" => elsewhere.timeout = Lasting(text),
                    "keep" => elsewhere.keep = Lasting(text),
                    _ => elsewhere.pointer = text,
                }
            }
        }
    }
    RawParam::Reference(RawReference::Elsewhere(Box::new(elsewhere)))
}

impl RawParam {
    fn is_text(&self) -> bool {
        matches!(self, Self::Reference(RawReference::Literal(_)))
    }

    fn into_reference(self) -> Option<RawReference> {
        match self {
            Self::Reference(value) => Some(value),
            _ => None,
        }
    }

    fn into_text(self) -> Option<String> {
        match self.into_reference()? {
            RawReference::Literal(text) => text.expose_str().map(str::to_owned),
            RawReference::Elsewhere(_) => None,
        }
    }
}

impl JsonSchema for RawParam {
    fn schema_name() -> Cow<'static, str> {
        "Parameter".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let reference = generator.subschema_for::<RawReference>();
        json_schema!({
            "description": "A parameter's value; an array is sent as a repeated parameter, or as it is in JSON. A table \
                            that does not say where a value stands is for JSON alone.",
            "anyOf": [
                { "type": ["integer", "number", "boolean"] },
                reference,
                { "type": "array" },
                { "type": "object" }
            ]
        })
    }
}

/// More request parameters by name.
pub(crate) type RawParams = BTreeMap<String, RawParam>;

/// Reads a key that is written as a text or as a table.
struct TextOrTable<T, R> {
    expected: &'static str,
    text: fn(&str) -> R,
    table: fn(T) -> R,
}

impl<'de, T: Deserialize<'de>, R> Visitor<'de> for TextOrTable<T, R> {
    type Value = R;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }
    fn visit_str<E: Error>(self, text: &str) -> Result<R, E> {
        Ok((self.text)(text))
    }
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<R, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(self.table)
    }
}

/// `ca` of a forward listener: `"ephemeral"`, or a table.
pub(crate) enum RawCa {
    Word(String),
    Table(RawOwnCa),
}

impl RawCa {
    pub(crate) const EPHEMERAL: &str = "ephemeral";
}

/// The certificate and the key of a forward listener's own authority.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, rename = "OwnCa")]
pub(crate) struct RawOwnCa {
    /// The authority's certificate, and those that signed it: PEM, or PKCS#12.
    #[schemars(extend("x-errors" = "missing; may not sign certificates; its constraints do not permit a route's host"))]
    pub certificate: Option<RawCertificate>,
    /// Its private key: PEM, PKCS#12, or JWK.
    #[schemars(extend("x-errors" = "missing; not the certificate's; a literal in a file that others may read"))]
    pub private_key: Option<RawKey>,
}

impl<'de> Deserialize<'de> for RawCa {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextOrTable {
            expected: "\"ephemeral\" or { certificate = …, private_key = … }",
            text: |text| Self::Word(text.to_owned()),
            table: Self::Table,
        })
    }
}

impl JsonSchema for RawCa {
    fn schema_name() -> Cow<'static, str> {
        "Ca".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let table = generator.subschema_for::<RawOwnCa>();
        json_schema!({ "anyOf": [{ "enum": [Self::EPHEMERAL] }, table] })
    }
}

/// `proxy`: `"env"`, a URL, or a URL with a separate user and password.
pub(crate) enum RawEgress {
    Text(Secret),
    Table(RawProxy),
}

/// A proxy with a separate user and password.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, rename = "Proxy")]
pub(crate) struct RawProxy {
    /// The URL of the proxy, such as "http://egress:3128".
    #[schemars(extend("x-errors" = "missing; https; a path"))]
    pub url: Option<String>,
    /// "user:password" for the proxy.
    #[schemars(extend("x-errors" = "beside a user in `url`; a literal in a file that others may read"))]
    pub userinfo: Option<RawSecret>,
}

impl<'de> Deserialize<'de> for RawEgress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextOrTable {
            expected: "\"env\", a URL such as \"http://egress:3128\", or { url = \"…\", userinfo = … }",
            text: |text| Self::Text(text.into()),
            table: Self::Table,
        })
    }
}

impl JsonSchema for RawEgress {
    fn schema_name() -> Cow<'static, str> {
        "Egress".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let table = generator.subschema_for::<RawProxy>();
        json_schema!({
            "description": "\"env\" obeys HTTPS_PROXY and NO_PROXY; else the proxy's URL.",
            "anyOf": [{ "type": "string" }, table]
        })
    }
}
