//! Kinds of keys. A key's type says what may be written, what it is where nothing is written, and within which bounds:
//! the schema and the reading of a value both take it from there.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{Deserializer, Error, Visitor};

use super::super::document::Place;
use super::super::report::{Report, did_you_mean};
use super::super::types::{self, Wrong};

/// The value, or the error reported.
pub(crate) fn check<T>(place: &Place<'_>, result: Result<T, Wrong>, report: &mut Report) -> Option<T> {
    result.map_err(|wrong| report.error(place, wrong.message, wrong.hint)).ok()
}

/// A schema that stands where the key stands, as those of plain types do.
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

/// A text of a kind that has its own words for what is expected.
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

/// A duration; so many seconds where it is not written.
#[derive(Default)]
pub(crate) struct Lasting<const SECONDS: u64>(Option<String>);

impl<const SECONDS: u64> Lasting<SECONDS> {
    pub(crate) const DEFAULT: Duration = Duration::from_secs(SECONDS);

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
            minutes if minutes > 60 && minutes.is_multiple_of(60) => format!("{}m", minutes / 60),
            seconds => format!("{seconds}s"),
        }
    }
}

impl<'de, const SECONDS: u64> Deserialize<'de> for Lasting<SECONDS> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(deserializer, "a duration such as \"30s\"").map(|text| Self(Some(text)))
    }
}

inline_schema!([const SECONDS: u64] Lasting<SECONDS>, json_schema!({
    "type": "string",
    "pattern": "^([0-9]+(ms|s|m|h|d))+$",
    "default": Self::written()
}));

/// A size in bytes within bounds; `DEFAULT` where it is not written.
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
fn size_text(bytes: usize) -> String {
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

/// A count from 1 to `MOST`; `DEFAULT` where it is not written.
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

/// `true` or `false`; `DEFAULT` where it is not written.
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

/// What one of a few words means. Its `Default` is that of the key.
pub(crate) trait Words: Copy + Default + PartialEq + 'static {
    /// Every word that may be written.
    const WORDS: &'static [(&'static str, Self)];
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

    /// With a default that depends on other keys.
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

    fn default_word() -> Option<&'static str> {
        T::WORDS.iter().find(|(_, value)| *value == T::default()).map(|(word, _)| *word)
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
    "default": Self::default_word()
}));
