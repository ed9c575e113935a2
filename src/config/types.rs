//! Values with a syntax of their own. One small function reads each. An error says what is wrong, in words that can follow
//! "key: ", and quotes nothing that may be secret.

pub(crate) mod store_url;
pub(crate) mod url;

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::SocketAddr;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use tracing_subscriber::filter::{LevelFilter, Targets};

use crate::config::model::Address;
use crate::config::schema::text_may_be_shown;

/// An error in a value, and its fix (empty: none).
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Wrong {
    pub message: String,
    pub hint: String,
}

pub(crate) fn wrong(message: impl Into<String>, hint: impl Into<String>) -> Wrong {
    Wrong { message: message.into(), hint: hint.into() }
}

/// The text in quotes, if it may be shown.
pub(crate) fn quoted(text: &str) -> String {
    if text_may_be_shown(text) { format!("{text:?}") } else { "this".to_owned() }
}

/// `1 token`, `2 tokens`.
pub fn counted(number: impl fmt::Display + PartialEq + From<u8>, what: &str) -> String {
    let plural = if number == 1.into() { "" } else { "s" };
    format!("{number} {what}{plural}")
}

/// More than this counts as an error. Clocks can still add it to any time.
const LONGEST: Duration = Duration::from_secs(3650 * 24 * 3600);

/// `"30s"`, `"500ms"`, `"1h30m"`; units ms, s, m, h, d.
pub(crate) fn duration(text: &str) -> Result<Duration, Wrong> {
    let not_one = || {
        wrong(
            format!("{} is not a duration", quoted(text)),
            "write a number and a unit (ms, s, m, h, d), such as \"30s\"",
        )
    };
    let mut rest = text;
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return Err(not_one());
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, after) = rest.split_at(digits);
        let letters = after.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, after) = after.split_at(letters);
        let number: u64 = number.parse().map_err(|_| not_one())?;
        let scale: u64 = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60 * 1000,
            "h" => 3600 * 1000,
            "d" => 24 * 3600 * 1000,
            _ => return Err(not_one()),
        };
        let part = number.checked_mul(scale).map(Duration::from_millis);
        total = part.and_then(|part| total.checked_add(part)).unwrap_or(Duration::MAX);
        rest = after;
    }
    if total > LONGEST {
        return Err(wrong(
            format!("{} is longer than 3650 days", quoted(text)),
            "\"0s\" turns a timeout off",
        ));
    }
    Ok(total)
}

/// `"64KiB"`, `"512B"`; units B, KiB, MiB, GiB.
pub(crate) fn size(text: &str) -> Result<usize, Wrong> {
    let not_one = || {
        wrong(
            format!("{} is not a size", quoted(text)),
            "write a number and a unit (B, KiB, MiB, GiB), such as \"64KiB\"",
        )
    };
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: usize = number.parse().map_err(|_| not_one())?;
    let scale: usize = match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(not_one()),
    };
    number
        .checked_mul(scale)
        .ok_or_else(|| wrong(format!("{} is more than this machine can count", quoted(text)), ""))
}

/// Names of listeners, issuers and routes: they become labels, and parts of log lines.
pub(crate) fn name(text: &str) -> Result<(), Wrong> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    if (1..=64).contains(&text.len()) && text.bytes().all(allowed) {
        return Ok(());
    }
    Err(wrong("is not a valid name", "use 1 to 64 letters, digits, `_`, `.`, `-`"))
}

/// `"127.0.0.1:8080"`, `"[::1]:8080"`, `"unix:/run/x.sock"`.
pub(crate) fn address(text: &str, folder: &Path) -> Result<Address, Wrong> {
    if let Some(path) = text.strip_prefix("unix:") {
        return unix_path(path, folder).map(Address::Unix);
    }
    text.parse::<SocketAddr>().map(Address::Tcp).map_err(|_| {
        let hint = match text.rsplit_once(':') {
            Some(("" | "*", port)) => format!("name an IP address: \"127.0.0.1:{port}\""),
            Some(("localhost", port)) => format!("write \"127.0.0.1:{port}\" or \"[::1]:{port}\""),
            _ => "write an IP address and a port, such as \"127.0.0.1:8080\", or \"unix:/run/bearerd/proxy.sock\"".to_owned(),
        };
        wrong(format!("{} is not an address", quoted(text)), hint)
    })
}

/// The longest path that a Unix socket's address holds on Linux, without its final zero byte.
const LONGEST_UNIX_PATH: usize = 107;

pub(crate) fn unix_path(path: &str, folder: &Path) -> Result<PathBuf, Wrong> {
    if path.is_empty() || path.contains('\0') {
        return Err(wrong("\"unix:\" needs a path", "such as \"unix:/run/bearerd/proxy.sock\""));
    }
    // unix:///run/x.sock is how some other programs write it; joined paths would keep the slashes.
    let path = folder.join(path.strip_prefix("//").filter(|rest| rest.starts_with('/')).unwrap_or(path));
    if path.as_os_str().len() > LONGEST_UNIX_PATH {
        return Err(wrong(
            format!("the socket's path is longer than {LONGEST_UNIX_PATH} bytes"),
            "use a shorter folder",
        ));
    }
    Ok(path)
}

/// A header's name, in lower case.
pub(crate) fn header_name(text: &str) -> Result<HeaderName, Wrong> {
    HeaderName::from_bytes(text.as_bytes()).map_err(|_| {
        wrong("is not the name of a header field", "use letters, digits and `-`, such as \"x-tenant\"")
    })
}

/// Checks a header's literal value without quoting it.
pub(crate) fn header_value(bytes: &[u8]) -> Result<(), Wrong> {
    HeaderValue::from_bytes(bytes).map(drop).map_err(|_| {
        wrong("is not the value of a header field: it has control characters", "a header is one line of text")
    })
}

/// A scope-token (RFC 6749 section 3.3).
pub(crate) fn scope(text: &str) -> Result<(), Wrong> {
    let allowed = |byte: u8| matches!(byte, 0x21 | 0x23..=0x5B | 0x5D..=0x7E);
    if !text.is_empty() && text.bytes().all(allowed) {
        return Ok(());
    }
    if text.contains(' ') {
        return Err(wrong(
            format!("{} is more than one scope", quoted(text)),
            "give each scope as a string of its own",
        ));
    }
    Err(wrong(
        format!("{} is not a scope", quoted(text)),
        "a scope is ASCII without spaces, quotes and backslashes (RFC 6749 section 3.3)",
    ))
}

/// A JSON pointer (RFC 6901).
pub(crate) fn pointer(text: &str) -> Result<(), Wrong> {
    let escapes_right = text.split('~').skip(1).all(|after| after.starts_with(['0', '1']));
    if (text.is_empty() || text.starts_with('/')) && escapes_right {
        return Ok(());
    }
    Err(wrong(
        format!("{} is not a JSON pointer", quoted(text)),
        "write \"/a/b\" for {\"a\":{\"b\":…}} (RFC 6901)",
    ))
}

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
/// Words that other programs use for levels. In a filter they would be targets that no line has.
const OTHERS_LEVELS: [&str; 8] =
    ["all", "critical", "fatal", "none", "notice", "silent", "verbose", "warning"];
const HINT: &str = "write \"off\", \"error\", \"warn\", \"info\", \"debug\" or \"trace\", or TARGET=LEVEL, several with commas \
                    between, such as \"info,bearerd::token=debug\"";

/// A level, `TARGET`, `TARGET=LEVEL`, or several of them with commas between.
pub(crate) fn log_filter(text: &str) -> Result<Targets, Wrong> {
    let directives: Vec<&str> = text.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
    if directives.is_empty() {
        return Err(wrong(format!("{} names no log level", quoted(text)), HINT));
    }
    directives.iter().try_for_each(|directive| readable(directive))?;
    let filter = directives.join(",").parse();
    filter.map_err(|_| wrong(format!("{} cannot be read as a log filter", quoted(text)), HINT))
}

fn readable(directive: &str) -> Result<(), Wrong> {
    let refuse = |why: &str| Err(wrong(format!("{} is not a log filter: {why}", quoted(directive)), HINT));
    if directive.contains(['[', ']', '{', '}']) {
        return refuse("spans and fields in brackets are not supported");
    }
    let Some((target, level)) = directive.split_once('=') else { return bare(directive) };
    if !is_target(target) {
        return refuse("no target comes before the \"=\"");
    }
    if level.is_empty() || level.parse::<LevelFilter>().is_err() {
        return refuse("no log level follows the \"=\"");
    }
    Ok(())
}

/// A bare word is a level or a target, so a mistyped level would silently turn off the log.
fn bare(word: &str) -> Result<(), Wrong> {
    if word.parse::<LevelFilter>().is_ok() {
        return Ok(());
    }
    let lower = word.to_ascii_lowercase();
    let near = LEVELS.iter().find(|level| lower.len() > 2 && strsim::osa_distance(&lower, level) <= 1);
    if let Some(level) = near {
        return Err(wrong(
            format!("{} is not a log level", quoted(word)),
            format!("did you mean \"{level}\"?"),
        ));
    }
    let is_number = word.bytes().all(|byte| byte.is_ascii_digit());
    if is_number || OTHERS_LEVELS.contains(&lower.as_str()) || !is_target(word) {
        return Err(wrong(format!("{} is not a log level", quoted(word)), HINT));
    }
    Ok(())
}

/// Whether lines could have this target, which is usually the path of a module.
fn is_target(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|char| char.is_alphanumeric() || "_:-.".contains(char))
}

/// Scopes in the order in which they are written, without duplicates. Two lists with the same scopes are equal in any
/// order, because they mean the same token.
#[derive(Debug, Clone, Default)]
pub struct Scopes(Vec<String>);

impl Scopes {
    /// Joined by spaces, for a request.
    pub fn joined(&self) -> String {
        self.0.join(" ")
    }

    fn sorted(&self) -> Vec<&str> {
        let mut sorted: Vec<&str> = self.0.iter().map(String::as_str).collect();
        sorted.sort_unstable();
        sorted
    }
}

impl Deref for Scopes {
    type Target = [String];

    fn deref(&self) -> &[String] {
        &self.0
    }
}

impl PartialEq for Scopes {
    fn eq(&self, other: &Self) -> bool {
        self.0.len() == other.0.len() && self.sorted() == other.sorted()
    }
}

impl Eq for Scopes {}

impl Hash for Scopes {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.sorted().hash(state);
    }
}

impl FromIterator<String> for Scopes {
    fn from_iter<I: IntoIterator<Item = String>>(scopes: I) -> Self {
        let mut once = Vec::new();
        for scope in scopes {
            if !once.contains(&scope) {
                once.push(scope);
            }
        }
        Self(once)
    }
}

impl<const N: usize> From<[&str; N]> for Scopes {
    fn from(scopes: [&str; N]) -> Self {
        scopes.into_iter().map(str::to_owned).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use tracing_core::Level;

    use super::*;

    #[test]
    fn durations() {
        for (text, milliseconds) in [
            ("30s", 30_000),
            ("0s", 0),
            ("500ms", 500),
            ("5m", 300_000),
            ("1h30m", 5_400_000),
            ("2d", 172_800_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "30", "s", "30 s", "-1s", "1.5s", "30sec", "1y", "99999999999999999999s", "5µs", "é"]
        {
            assert!(duration(text).is_err(), "{text}");
        }
        assert_eq!(duration("9999999d").unwrap_err().message, "\"9999999d\" is longer than 3650 days");
        assert!(duration("18446744073709551615d").is_err());
    }

    #[test]
    fn sizes() {
        for (text, bytes) in
            [("0B", 0), ("512B", 512), ("64KiB", 65_536), ("1MiB", 1 << 20), ("2GiB", 2 << 30)]
        {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "64", "64KB", "64k", "1.5MiB", "-1B", "99999999999999999GiB"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn addresses() {
        let folder = Path::new("/etc/bearerd");
        assert_eq!(address("[::1]:80", folder), Ok(Address::Tcp("[::1]:80".parse().unwrap())));
        assert_eq!(address("unix:/run/a.sock", folder), Ok(Address::Unix("/run/a.sock".into())));
        assert_eq!(address("unix:///run/a.sock", folder), Ok(Address::Unix("/run/a.sock".into())));
        assert_eq!(address("unix:a.sock", folder), Ok(Address::Unix("/etc/bearerd/a.sock".into())));
        for text in [
            "",
            "8080",
            "127.0.0.1",
            "localhost:8080",
            ":8080",
            "*:8080",
            "example.com:80",
            "unix:",
            "1.2.3.4:99999",
        ] {
            assert!(address(text, folder).is_err(), "{text}");
        }
        assert_eq!(address(":8080", folder).unwrap_err().hint, "name an IP address: \"127.0.0.1:8080\"");
        assert!(address(&format!("unix:/{}", "x".repeat(107)), folder).is_err());
    }

    #[test]
    fn names_scopes_pointers() {
        assert!(name("a-B_9.x").is_ok());
        for text in ["", "a b", "é", "a/b", &"x".repeat(65)] {
            assert!(name(text).is_err(), "{text}");
        }
        assert!(scope("https://x/.default").is_ok());
        for text in ["", "a b", "a\"b", "a\\b", "é", "\n"] {
            assert!(scope(text).is_err(), "{text}");
        }
        assert!(pointer("").is_ok() && pointer("/a~1b/0").is_ok());
        assert!(pointer("a").is_err() && pointer("/a~").is_err() && pointer("/a~2").is_err());
    }

    #[test]
    fn reads_levels_and_targets() {
        for (text, target, most) in [
            ("info", "bearerd", Some(Level::INFO)),
            ("WARN", "hyper", Some(Level::WARN)),
            ("3", "bearerd", Some(Level::INFO)),
            ("off", "bearerd", None),
            ("warn,", "bearerd", Some(Level::WARN)),
            (" info , bearerd::token=debug ", "bearerd::token", Some(Level::DEBUG)),
            ("info,bearerd::token=debug", "bearerd::token::slot", Some(Level::DEBUG)),
            ("info,bearerd::token=debug", "bearerd::access", Some(Level::INFO)),
            ("bearerd::access=off,debug", "bearerd::access", None),
            ("bearerd::token=trace,bearerd=warn,debug", "bearerd::issuer", Some(Level::WARN)),
            ("bearerd=info,bearerd=off", "bearerd", None),
            ("bearerd=TRACE", "hyper", None),
            ("hyper", "hyper::proto", Some(Level::TRACE)),
        ] {
            let filter = log_filter(text).unwrap_or_else(|wrong| panic!("{text:?}: {wrong:?}"));
            for level in [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG, Level::TRACE] {
                let wanted = most.is_some_and(|most| level <= most);
                assert_eq!(filter.would_enable(target, &level), wanted, "{text:?}, {target}, {level}");
            }
        }
    }

    #[test]
    fn what_would_silence_the_log_is_refused_in_words() {
        for (text, message, hint) in [
            ("inof", "\"inof\" is not a log level", "did you mean \"info\"?"),
            ("info,wran", "\"wran\" is not a log level", "did you mean \"warn\"?"),
            ("verbose", "\"verbose\" is not a log level", "write \"off\""),
            ("Warning", "\"Warning\" is not a log level", "write \"off\""),
            ("6", "\"6\" is not a log level", "write"),
            ("", "names no log level", "write"),
            (" , ", "names no log level", "write"),
            ("info;debug", "\"info;debug\" is not a log level", "commas between"),
            ("info debug", "\"info debug\" is not a log level", "commas between"),
            (
                "info,hyper=loud",
                "\"hyper=loud\" is not a log filter: no log level follows the \"=\"",
                "write",
            ),
            ("bearerd=", "no log level follows the \"=\"", "write"),
            ("a=b=c", "no log level follows the \"=\"", "write"),
            ("a = info", "no target comes before the \"=\"", "write"),
            ("=info", "no target comes before the \"=\"", "write"),
            ("*=info", "no target comes before the \"=\"", "write"),
            ("[call{route=x}]=trace", "spans and fields in brackets are not supported", "write"),
            ("bearerd[{event}]=debug", "spans and fields in brackets are not supported", "write"),
            ("info,bearerd[call]", "spans and fields in brackets are not supported", "write"),
        ] {
            let error = log_filter(text).unwrap_err();
            assert!(error.message.contains(message), "{text:?}: {}", error.message);
            assert!(error.hint.contains(hint), "{text:?}: {}", error.hint);
        }
    }

    #[test]
    fn the_order_is_kept_and_says_nothing_of_equality() {
        let (one, other) = (Scopes::from(["write", "read", "write"]), Scopes::from(["read", "write"]));
        assert_eq!((one.joined().as_str(), other.joined().as_str()), ("write read", "read write"));
        assert_eq!(one, other);
        assert_eq!(HashSet::from([one, other]).len(), 1);
        assert_ne!(Scopes::from(["read"]), Scopes::from(["write"]));
        assert_ne!(Scopes::from(["read"]), Scopes::default());
    }
}
