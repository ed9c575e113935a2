//! References: a value that stands in a file, in the environment or in a webhook's store instead of in the config.

use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwapOption;

use crate::secret::Secret;

/// A value of the config that may be secret or come from elsewhere. Cloning shares what was read.
#[derive(Clone)]
pub struct Source(Arc<Inner>);

struct Inner {
    definition: Definition,
    /// What the last good reading gave: it serves on while a file is being written or is gone.
    last_good: ArcSwapOption<Secret>,
    /// Of a PKCS#12 file.
    password: Option<Source>,
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
}

/// Where the value stands in a webhook's store.
const STORED_VALUE: &str = "/value";

/// A [`ReferenceError::reason`].
pub(super) const NO_FILE: &str = "no such file";
/// A [`ReferenceError::reason`].
pub(super) const NOT_SET: &str = "is not set";

/// Why a reference gave nothing. Names the place, never the content.
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

    /// `path` is absolute already.
    pub fn file(path: PathBuf, pointer: Option<String>) -> Self {
        Self::from_definition(Definition::File { path, pointer })
    }

    pub fn env(name: String, pointer: Option<String>) -> Self {
        Self::from_definition(Definition::Env { name, pointer })
    }

    /// The value that the webhook `name` learned; `store` is absolute already.
    pub fn webhook(name: String, store: PathBuf) -> Self {
        Self::from_definition(Definition::Webhook { name, store })
    }

    /// The same, with the password of what stands there (PKCS#12).
    #[must_use]
    pub fn with_password(&self, password: Self) -> Self {
        let definition = self.0.definition.clone();
        let last_good = ArcSwapOption::empty();
        Self(Arc::new(Inner { definition, last_good, password: Some(password) }))
    }

    fn from_definition(definition: Definition) -> Self {
        Self(Arc::new(Inner { definition, last_good: ArcSwapOption::empty(), password: None }))
    }

    /// The password of what stands there, where the config gives one.
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

    /// The file that this reads, for watching.
    pub fn path(&self) -> Option<&Path> {
        match &self.0.definition {
            Definition::File { path, .. } | Definition::Webhook { store: path, .. } => Some(path),
            Definition::Literal(_) | Definition::Env { .. } => None,
        }
    }

    pub fn is_literal(&self) -> bool {
        matches!(self.0.definition, Definition::Literal(_))
    }

    /// Where the value stands, in words for an operator.
    pub fn place(&self) -> String {
        let (place, pointer) = match &self.0.definition {
            Definition::Literal(_) => return "the config file".to_owned(),
            Definition::File { path, pointer } => (format!("file {}", path.display()), pointer),
            Definition::Env { name, pointer } => (format!("environment variable {name}"), pointer),
            Definition::Webhook { name, .. } => return format!("webhook {name}"),
        };
        match pointer {
            Some(pointer) => format!("{place} at {pointer}"),
            None => place,
        }
    }

    /// Reads the value now. Empty counts as missing: an empty secret is never sent.
    pub fn read(&self) -> Result<Arc<Secret>, ReferenceError> {
        match self.read_definition() {
            Ok(secret) => {
                let secret = Arc::new(secret);
                self.0.last_good.store(Some(Arc::clone(&secret)));
                Ok(secret)
            }
            Err(reason) => Err(ReferenceError { place: self.place(), reason }),
        }
    }

    /// Reads the value now, or else gives the last good one, with what went wrong.
    pub fn read_or_last_good(&self) -> Result<(Arc<Secret>, Option<ReferenceError>), ReferenceError> {
        match self.read() {
            Ok(secret) => Ok((secret, None)),
            Err(error) => match self.0.last_good.load_full() {
                Some(secret) => Ok((secret, Some(error))),
                None => Err(error),
            },
        }
    }

    fn read_definition(&self) -> Result<Secret, String> {
        let (whole, pointer) = match &self.0.definition {
            // A literal may be empty: the operator wrote it so.
            Definition::Literal(secret) => return Ok(secret.clone()),
            Definition::File { path, pointer } => (read_file(path)?, pointer),
            Definition::Env { name, pointer } => (read_env(name)?, pointer),
            Definition::Webhook { store, .. } => return read_store(store),
        };
        let value = match pointer {
            Some(pointer) => point_into(&whole, pointer)?,
            None => whole,
        };
        if value.is_empty() { Err("is empty".to_owned()) } else { Ok(value) }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "references are one of the places that read files; the error names the path"
)]
fn read_bytes(path: &Path) -> std::io::Result<zeroize::Zeroizing<Vec<u8>>> {
    std::fs::read(path).map(zeroize::Zeroizing::new)
}

fn read_file(path: &Path) -> Result<Secret, String> {
    let bytes = read_bytes(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => NO_FILE.to_owned(),
        std::io::ErrorKind::PermissionDenied => "may not be read by this user".to_owned(),
        std::io::ErrorKind::IsADirectory => "is a folder; name the file in it".to_owned(),
        _ => error.to_string(),
    })?;
    Ok(Secret::new(without_line_end(&bytes)))
}

fn read_store(path: &Path) -> Result<Secret, String> {
    let bytes = read_bytes(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            "has received no value yet; its sender has to call it once, or check that the sender's calls reach it"
                .to_owned()
        }
        std::io::ErrorKind::PermissionDenied => {
            format!("its store {} may not be read by this user", path.display())
        }
        _ => format!("its store {}: {error}", path.display()),
    })?;
    let value = point_into(&Secret::new(bytes.as_slice()), STORED_VALUE).map_err(|why| {
        format!("its store {} {why}; the sender's next call writes it anew", path.display())
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

/// One trailing line end is cut: what an editor or `echo` leaves behind. Binary content (DER begins with a SEQUENCE of
/// a long length) has no line ends.
fn without_line_end(bytes: &[u8]) -> &[u8] {
    if matches!(bytes, [0x30, 0x80..=0x84, ..]) {
        return bytes;
    }
    bytes.strip_suffix(b"\r\n").or_else(|| bytes.strip_suffix(b"\n")).unwrap_or(bytes)
}

fn point_into(whole: &Secret, pointer: &str) -> Result<Secret, String> {
    // serde_json's own message could quote the text, so only the place is told.
    let json: serde_json::Value = serde_json::from_slice(whole.expose())
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
        match &self.0.definition {
            Definition::Literal(secret) => (0u8, secret.expose()).hash(state),
            Definition::File { path, pointer } => (1u8, path, pointer).hash(state),
            Definition::Env { name, pointer } => (2u8, name, pointer).hash(state),
            Definition::Webhook { name, store } => (3u8, name, store).hash(state),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_exactly_one_line_end() {
        assert_eq!(without_line_end(b"s\n\n"), b"s\n");
        assert_eq!(without_line_end(b"s\r\n"), b"s");
        assert_eq!(without_line_end(b"s\r"), b"s\r");
        assert_eq!(without_line_end(b" s "), b" s ");
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
