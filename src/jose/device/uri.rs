//! PKCS#11 URIs (RFC 7512), as far as they name a private key.

use std::fmt;
use std::path::PathBuf;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};

use crate::jose::KeyError;
use crate::secret::Secret;

const SCHEME: &str = "pkcs11:";

/// Everything except what may stand in a value as it is.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// Where a private key is. Contains no PIN.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct KeyUri {
    pub(super) token: Option<String>,
    pub(super) serial: Option<String>,
    pub(super) manufacturer: Option<String>,
    pub(super) model: Option<String>,
    pub(super) slot: Option<u64>,
    pub(super) object: Option<String>,
    pub(super) id: Option<Vec<u8>>,
    module: Option<PathBuf>,
}

/// The PIN that a URI contains or names.
#[derive(Debug, PartialEq, Eq)]
pub enum UriPin {
    /// A path, which may be relative.
    File(PathBuf),
    Value(Secret),
}

/// The module that knows all others of a system.
const P11_KIT: &str = "p11-kit-proxy.so";

impl KeyUri {
    /// # Errors
    /// What is wrong with the text, without its PIN.
    pub fn parse(text: &str) -> Result<(Self, Option<UriPin>), KeyError> {
        let Some(rest) = text.strip_prefix(SCHEME) else { return refuse("does not begin with `pkcs11:`") };
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (mut uri, mut pin) = (Self::default(), None);
        for (name, value) in attributes(path, ';')? {
            uri.set(name, value)?;
        }
        for (name, value) in attributes(query, '&')? {
            match name {
                "module-path" => put(&mut uri.module, name, module_path(value)?)?,
                "pin-source" => put(&mut pin, "a PIN", pin_source(value)?)?,
                "pin-value" => put(&mut pin, "a PIN", UriPin::Value(Secret::new(decoded(value)?)))?,
                "module-name" => return refuse("has `module-name`; write `module-path`, the module's file"),
                // Behind a PIN, it may be a part of the PIN that has an unescaped `&`.
                _ if pin.is_some() => return unknown("", "module-path, pin-source and pin-value"),
                _ => return unknown(name, "module-path, pin-source and pin-value"),
            }
        }
        Ok((uri, pin))
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), KeyError> {
        match name {
            "token" => put(&mut self.token, name, text(name, value)?),
            "serial" => put(&mut self.serial, name, text(name, value)?),
            "manufacturer" => put(&mut self.manufacturer, name, text(name, value)?),
            "model" => put(&mut self.model, name, text(name, value)?),
            "object" => put(&mut self.object, name, text(name, value)?),
            "id" => put(&mut self.id, name, decoded(value)?),
            "slot-id" => match value.parse() {
                Ok(slot) => put(&mut self.slot, name, slot),
                Err(_) => refuse("has a `slot-id` that is not a number"),
            },
            "type" if value == "private" => Ok(()),
            "type" => refuse("has another `type` than `private`"),
            "module-path" | "pin-source" | "pin-value" => {
                refuse(format!("has `{name}` before the `?`, and it belongs behind it"))
            }
            _ => unknown(name, "token, serial, manufacturer, model, slot-id, object, id and type"),
        }
    }

    /// The file of the module. Without `module-path`, p11-kit's.
    pub fn module(&self) -> PathBuf {
        self.module.clone().unwrap_or_else(|| PathBuf::from(P11_KIT))
    }

    /// Why the module cannot be loaded, as far as that is known without loading it.
    pub fn missing_module(&self) -> Option<String> {
        let module = self.module.as_ref().filter(|module| !module.is_file())?;
        Some(format!("there is no module {}: install it, or correct module-path", module.display()))
    }
}

/// As in the config, in words: the same URI without module and PIN.
impl fmt::Display for KeyUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = [
            ("token", self.token.as_deref()),
            ("serial", self.serial.as_deref()),
            ("manufacturer", self.manufacturer.as_deref()),
            ("model", self.model.as_deref()),
            ("object", self.object.as_deref()),
        ];
        let escaped = |bytes: &[u8]| percent_encode(bytes, ESCAPED).to_string();
        let mut parts: Vec<String> = named
            .into_iter()
            .filter_map(|(name, value)| Some(format!("{name}={}", escaped(value?.as_bytes()))))
            .collect();
        parts.extend(self.id.as_ref().map(|id| format!("id={}", escaped(id))));
        parts.extend(self.slot.map(|slot| format!("slot-id={slot}")));
        write!(f, "{SCHEME}{}", parts.join(";"))
    }
}

fn refuse<T>(text: impl Into<String>) -> Result<T, KeyError> {
    Err(KeyError(text.into()))
}

fn unknown<T>(name: &str, known: &str) -> Result<T, KeyError> {
    // A name is at most a few words. Whatever is longer is not one.
    let plain = (1..=40).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let shown = if plain { format!("`{name}`") } else { "an attribute".to_owned() };
    refuse(format!("has {shown}, which is not known there; {known} are"))
}

/// The names and values of one part, still escaped.
fn attributes(part: &str, separator: char) -> Result<Vec<(&str, &str)>, KeyError> {
    part.split(separator)
        .filter(|text| !text.is_empty())
        .map(|text| text.split_once('=').ok_or_else(|| KeyError("has an attribute without `=`".to_owned())))
        .collect()
}

fn put<T>(into: &mut Option<T>, name: &str, value: T) -> Result<(), KeyError> {
    match into.replace(value) {
        None => Ok(()),
        Some(_) => refuse(format!("has {name} twice")),
    }
}

fn decoded(value: &str) -> Result<Vec<u8>, KeyError> {
    let escape =
        |part: &str| part.as_bytes().get(..2).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit));
    if !value.split('%').skip(1).all(escape) {
        return refuse("has a `%` that two hexadecimal digits do not follow");
    }
    Ok(percent_decode_str(value).collect())
}

fn text(name: &str, value: &str) -> Result<String, KeyError> {
    match String::from_utf8(decoded(value)?) {
        Ok(text) if !text.is_empty() => Ok(text),
        Ok(_) => refuse(format!("has an empty `{name}`")),
        Err(_) => refuse(format!("has a `{name}` that is not UTF-8")),
    }
}

/// Paths are shown as they are.
fn path_text(name: &str, value: &str) -> Result<String, KeyError> {
    let path = text(name, value)?;
    if path.chars().any(char::is_control) {
        return refuse(format!("has a control character in `{name}`"));
    }
    Ok(path)
}

fn module_path(value: &str) -> Result<PathBuf, KeyError> {
    let path = PathBuf::from(path_text("module-path", value)?);
    if path.is_absolute() { Ok(path) } else { refuse("has a `module-path` that does not begin with `/`") }
}

fn pin_source(value: &str) -> Result<UriPin, KeyError> {
    let value = path_text("pin-source", value)?;
    if value.starts_with('|') {
        return refuse("has a program as `pin-source`; write password = { exec = […] } beside the URI");
    }
    let path = value.strip_prefix("file:").unwrap_or(&value);
    let path = match path.strip_prefix("//") {
        // An authority, as in file:///run/pin and file://localhost/run/pin.
        Some(rest) => match rest.find('/').map(|slash| rest.split_at(slash)) {
            Some(("" | "localhost", path)) => path,
            _ => return refuse("has a `pin-source` on another machine"),
        },
        None => path,
    };
    match path {
        "" => refuse("has a `pin-source` without a path"),
        path if path.contains(':') && path == value => {
            refuse("has a `pin-source` that is neither file:PATH nor a path")
        }
        path => Ok(UriPin::File(PathBuf::from(path))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        KeyUri::parse(text).unwrap_err().0
    }

    #[test]
    fn a_uri_names_module_token_object_and_pin() {
        let (uri, pin) = KeyUri::parse(
            "pkcs11:token=The%20Software%20PKCS%2311;object=my%3Bkey;id=%01%fF;serial=ab;type=private;slot-id=7\
             ?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/run/secrets/pin",
        )
        .unwrap();
        assert_eq!(uri.token.as_deref(), Some("The Software PKCS#11"));
        assert_eq!(uri.object.as_deref(), Some("my;key"));
        assert_eq!((uri.id.as_deref(), uri.slot), (Some(&[1, 255][..]), Some(7)));
        assert_eq!(uri.module(), PathBuf::from("/usr/lib/softhsm/libsofthsm2.so"));
        assert_eq!(pin, Some(UriPin::File("/run/secrets/pin".into())));
        assert_eq!(
            uri.to_string(),
            "pkcs11:token=The%20Software%20PKCS%2311;serial=ab;object=my%3Bkey;id=%01%FF;slot-id=7"
        );
        let (uri, pin) = KeyUri::parse("pkcs11:").unwrap();
        assert_eq!((uri.module(), pin), (PathBuf::from(P11_KIT), None));
    }

    #[test]
    fn a_pin_is_in_a_file_or_in_the_uri() {
        let pin = |query: &str| KeyUri::parse(&format!("pkcs11:object=k?{query}")).unwrap().1.unwrap();
        for source in ["file:/run/pin", "file:///run/pin", "file://localhost/run/pin", "/run/pin"] {
            assert_eq!(pin(&format!("pin-source={source}")), UriPin::File("/run/pin".into()), "{source}");
        }
        assert_eq!(pin("pin-source=file:pin"), UriPin::File("pin".into()));
        assert_eq!(pin("pin-value=12%2634"), UriPin::Value(Secret::from("12&34")));
    }

    #[test]
    fn what_is_wrong_is_said_without_the_pin() {
        for (text, says) in [
            ("PIN-77", "begin with `pkcs11:`"),
            ("pkcs11:objekt=k?pin-value=PIN-77", "`objekt`, which is not known there; token,"),
            ("pkcs11:object=k?pin-valu=PIN-77", "`pin-valu`, which is not known there; module-path,"),
            ("pkcs11:PIN-77", "without `=`"),
            ("pkcs11:object=k;pin-value=PIN-77", "`pin-value` before the `?`"),
            ("pkcs11:object=a;object=b", "object twice"),
            ("pkcs11:object=k?pin-value=PIN-77&pin-source=file:/p", "a PIN twice"),
            ("pkcs11:object=k?pin-value=PIN-77%", "a `%` that"),
            ("pkcs11:object=%zz", "a `%` that"),
            ("pkcs11:object=%ff", "not UTF-8"),
            ("pkcs11:object=", "empty `object`"),
            ("pkcs11:type=public", "another `type`"),
            ("pkcs11:slot-id=x", "not a number"),
            ("pkcs11:?module-path=softhsm.so", "does not begin with `/`"),
            ("pkcs11:?module-name=softhsm", "write `module-path`"),
            ("pkcs11:?module-path=/m%1b.so", "control character in `module-path`"),
            ("pkcs11:?pin-source=file:/a%00b", "control character in `pin-source`"),
            ("pkcs11:object=k?pin-value=a&PIN-77=b", "an attribute, which is not known there"),
            ("pkcs11:?pin-source=%7Ccat%20/pin", "exec"),
            ("pkcs11:?pin-source=https://vault/pin", "neither file:PATH"),
            ("pkcs11:?pin-source=file://other/pin", "another machine"),
        ] {
            let error = error(text);
            assert!(error.contains(says) && !error.contains("PIN-77"), "{text}: {error}");
        }
    }
}
