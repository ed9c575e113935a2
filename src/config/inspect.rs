//! What `check` and a start say about values outside the config file: references that give no value, secrets that others may
//! read, and common slips in a secret, found from its bytes without showing them.

use std::fs::Metadata;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::de::IgnoredAny;

use crate::config::files;
use crate::config::model::{Config, ReferenceUse, StoreConfig, Written, WrittenPath};
use crate::config::reference::{self, ReferenceError, Source};
use crate::config::report::{Problem, Severity};
use crate::config::store_key::{self, StoreKey};
use crate::secret::Secret;

/// Reads every reference now. The warnings say what gives no value, which secrets other users may read, and which learned
/// values or tokens could not be kept. A key of the store that cannot be one is an error.
///
/// [`super::load`] does none of this, because a missing secret must not keep the program from starting.
pub fn check_references(config: &Config) -> Vec<Problem> {
    let mut found: Vec<Problem> = config.references.iter().flat_map(check_reference).collect();
    found.extend(config.written.iter().filter_map(check_written));
    found.extend(config.store.iter().flat_map(|store| check_store(config, store)));
    found
}

/// Values of listeners and routes that their references do not give, as `key: place: reason`. Values of issuers are not
/// listed, because their tokens show whether they exist. Neither are a webhook's secrets, of which one is enough, nor those of
/// a collector or a store, which no request needs.
pub fn missing_values(config: &Config) -> Vec<String> {
    let others = config.references.iter().filter(|reference| {
        !["issuer.", "webhook.", "tracing.", "store."].iter().any(|table| reference.key.starts_with(table))
    });
    others
        .filter_map(|reference| {
            let error = reference.source.read_or_last_good().err()?;
            Some(format!("{}: {error}", reference.key))
        })
        .collect()
}

/// A problem of `table.key` that was found after the load. It is placed at the reference of that key, or else at the first
/// reference of the table, or else at the config file.
pub fn problem_near(
    config: &Config,
    severity: Severity,
    (table, key): (&str, &str),
    message: String,
    hint: Option<String>,
) -> Problem {
    let key = format!("{table}.{key}");
    let reference_of = |wanted: &str| {
        config.references.iter().find(|used| {
            used.key.strip_prefix(wanted).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
    };
    let place = reference_of(&key).or_else(|| reference_of(table));
    Problem {
        severity,
        file: place.map_or(&config.path, |place| &place.file).clone(),
        line: place.map_or(0, |place| place.line),
        column: place.map_or(0, |place| place.column),
        key,
        message,
        hint,
        source_line: None,
    }
}

/// What keeps bearerd from writing, as far as that is known without writing.
fn check_written(written: &WrittenPath) -> Option<Problem> {
    let WrittenPath { path, kind, place } = written;
    let parent = path.parent().filter(|folder| is_no_folder(folder));
    let (message, hint) = match (kind, parent) {
        (Written::Bundle, Some(folder)) => (
            format!(
                "the folder {} does not exist, and `bearerd run` starts only if it can write the bundle",
                folder.display()
            ),
            format!("run `mkdir -p {}` as the user that bearerd runs as", folder.display()),
        ),
        (Written::Learned, Some(folder)) => (
            format!("the folder {} does not exist, so bearerd cannot keep a learned value", folder.display()),
            format!("run `mkdir -m 700 -p {}` as the user that bearerd runs as", folder.display()),
        ),
        (Written::Tokens, _) if files::state(path).is_ok_and(|state| !state.is_dir()) => (
            format!("{} is not a folder, so no token can be kept", path.display()),
            "name a folder that bearerd may write".to_owned(),
        ),
        _ => return None,
    };
    Some(place.problem(Severity::Warning, message, Some(hint)))
}

/// Not if its file system does not say what is there.
fn is_no_folder(path: &Path) -> bool {
    match files::state(path) {
        Ok(state) => !state.is_dir(),
        Err(error) => matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory),
    }
}

/// What is wrong with the keys of a store, as far as they exist.
fn check_store(config: &Config, store: &StoreConfig) -> Vec<Problem> {
    let mut found = Vec::new();
    let mut keys: Vec<(usize, StoreKey)> = Vec::new();
    let in_the_config = |index: usize| store.keys.get(index).is_some_and(Source::is_literal);
    for (index, source) in store.keys.iter().enumerate() {
        let Ok(written) = source.read() else { continue };
        let problem = |index: usize, severity, message, hint: &str| {
            let key = format!("keys[{index}]");
            problem_near(config, severity, ("store", &key), message, Some(hint.to_owned()))
        };
        match StoreKey::parse(&written) {
            Err(why) => {
                let message = format!("{}: {why}", source.place());
                found.push(problem(index, Severity::Error, message, store_key::HOW_TO_MAKE));
            }
            Ok(key) => {
                // The load compares keys that are both in the config.
                let same = |first: usize, other: &StoreKey| {
                    *other == key && !(in_the_config(first) && in_the_config(index))
                };
                if let Some((first, _)) = keys.iter().find(|(first, other)| same(*first, other)) {
                    // A reference has a place.
                    let (at, other) = if in_the_config(index) { (*first, index) } else { (index, *first) };
                    let place = store.keys.get(at).map_or_else(String::new, Source::place);
                    let message = format!("{place}: is the same key as keys[{other}]");
                    let hint = "leave one of them out when the rotation is over";
                    found.push(problem(at, Severity::Warning, message, hint));
                }
                keys.push((index, key));
            }
        }
    }
    found
}

fn check_reference(reference: &ReferenceUse) -> Vec<Problem> {
    let place = reference.place();
    let warning = |message, hint| place.problem(Severity::Warning, message, hint);
    let mut found: Vec<Problem> = Vec::new();
    let unmakeable = reference.source.unmakeable();
    found.extend(unmakeable.iter().map(|error| warning(error.to_string(), None)));
    match reference.source.read() {
        Err(error) if unmakeable.as_ref() == Some(&error) => {}
        // A token request runs it, and reports what is wrong.
        Err(_) if reference.source.is_made() && reference.of_token_requests => {}
        // Offline, nothing makes it.
        Err(error) if error.reason == reference::NOT_MADE => {}
        Err(error) => found.push(warning(error.to_string(), fix_of_missing(reference, &error))),
        // A certificate and a key, as PEM.
        Ok(_) if reference.source.is_streamed() => {}
        Ok(secret) if reference.secret && is_plain_secret(&reference.key) => {
            let slip = slip_in_secret(secret.expose());
            let at = reference.source.place();
            found.extend(
                slip.map(|slip| warning(format!("{at}: {}", slip.message), Some(slip.hint.to_owned()))),
            );
        }
        Ok(_) => {}
    }
    if let Some(path) = reference.source.path().filter(|_| reference.secret)
        && let Ok(state) = files::state(path)
        && state.is_file()
        && let Some(fix) = Reader::of_the_process().fix_of_mode(path, &FileMode::of(path, &state))
    {
        let message = format!("file {}: other users may read or write this secret", path.display());
        found.push(warning(message, Some(fix)));
    }
    found
}

/// How to provide a missing value, if the reason does not say it.
fn fix_of_missing(reference: &ReferenceUse, error: &ReferenceError) -> Option<String> {
    let fix = match error.reason.as_str() {
        reference::NO_FILE if reference.key.starts_with("store.") => {
            "create the file, or correct its path; until then, bearerd works without the store"
        }
        reference::NO_FILE => "create the file, or correct its path; whatever needs the value waits for it",
        reference::NOT_SET => "set it where the program is started; bearerd reads it only at the start",
        _ => return None,
    };
    Some(fix.to_owned())
}

/// The user and groups that this process reads files as.
struct Reader {
    user: u32,
    groups: Vec<u32>,
}

/// Who may use a secret file.
struct FileMode {
    mode: u32,
    owner: u32,
    group: u32,
    /// See [`files::is_on_private_mount`].
    private_mount: bool,
}

impl FileMode {
    fn of(path: &Path, state: &Metadata) -> Self {
        // Only a file that others may use needs the second look.
        let private_mount = state.mode() & OTHERS != 0 && files::is_on_private_mount(path, state);
        Self { mode: state.mode(), owner: state.uid(), group: state.gid(), private_mount }
    }
}

/// The bits of a mode that give rights to others than the owner.
const OTHERS: u32 = 0o077;
const READABLE_BY_GROUP: u32 = 0o040;

impl Reader {
    fn of_the_process() -> Self {
        let supplementary = rustix::process::getgroups().unwrap_or_default();
        let groups = supplementary.into_iter().chain([rustix::process::getegid()]);
        let user = rustix::process::geteuid().as_raw();
        Self { user, groups: groups.map(rustix::process::Gid::as_raw).collect() }
    }

    /// What to do about a secret that other users may read or write. `None`: nobody else may, or this mode is as strict as
    /// it can be.
    ///
    /// A process that does not own the file reads it by a right of its group or of everybody. The group's right to read is
    /// the narrowest that works, so a warning about it could never be silenced. The owner, and root, do without that right:
    /// for them the warning stays, and `chmod 600` silences it.
    fn fix_of_mode(&self, path: &Path, file: &FileMode) -> Option<String> {
        let path = path.display();
        if file.mode & OTHERS == 0 || file.private_mount {
            return None;
        }
        if self.user == file.owner || self.user == 0 {
            return Some(format!("run `chmod 600 {path}`"));
        }
        let by_our_group = self.groups.contains(&file.group);
        if by_our_group && file.mode & OTHERS == READABLE_BY_GROUP {
            return None;
        }
        let (user, owner) = (self.user, file.owner);
        let chgrp = match self.groups.first() {
            Some(group) if !by_our_group => format!("chgrp {group} {path} && "),
            _ => String::new(),
        };
        Some(format!(
            "the file belongs to user {owner}, and bearerd runs as user {user}: run `{chgrp}chmod 640 {path}`, or \
             `chown {user} {path} && chmod 600 {path}`"
        ))
    }
}

/// A common error with a secret, and what to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slip {
    pub(crate) message: &'static str,
    pub(crate) hint: &'static str,
}

/// How the names of variables for secrets end, in lower case, in shell scripts and `.env` files.
const NAMES: [&str; 6] = ["secret", "password", "token", "key", "pass", "pwd"];
/// Folders in which secrets are mounted.
const FOLDERS: [&str; 6] = ["/run/", "/var/", "/etc/", "/mnt/", "/secrets/", "/vault/"];

/// Whether the value of this key is sent as it is. Private keys, keys of a store, and assertions are parsed.
pub(super) fn is_plain_secret(key: &str) -> bool {
    !key.starts_with("store.keys[")
        && !["private_key", "certificate", "assertion"].iter().any(|other| key.ends_with(other))
}

const IS_JSON: Slip = Slip {
    message: "the secret is JSON, which is sent as it is",
    hint: "name the value in it, for example with pointer = \"/accessToken\"",
};

/// Checks a secret as it would be sent.
pub(crate) fn slip_in_secret(bytes: &[u8]) -> Option<Slip> {
    let slip = |message, hint| Some(Slip { message, hint });
    if bytes.starts_with(b"\xef\xbb\xbf") {
        return slip(
            "the secret begins with a byte order mark, which is sent too",
            "save the file as UTF-8 without BOM",
        );
    }
    if is_utf16(bytes) {
        return slip(
            "the secret is UTF-16, and its zero bytes are sent too",
            "save the file as UTF-8; PowerShell's `>` and Out-File write UTF-16: take `Set-Content -Encoding ascii -NoNewline`",
        );
    }
    let text = std::str::from_utf8(bytes).ok()?;
    if is_json(text) {
        return Some(IS_JSON);
    }
    if text.trim() != text {
        return slip(
            "the secret begins or ends with white space, which is sent too (one line end at its end is not)",
            "write it without, as by `printf %s`",
        );
    }
    if text.contains(['\n', '\r']) {
        return slip("the secret has several lines", "keep the one that is the secret");
    }
    if text.contains(char::is_control) {
        return slip("the secret contains control characters, which are sent too", "write it without them");
    }
    let quoted = |quote: char| text.len() > 1 && text.starts_with(quote) && text.ends_with(quote);
    if ['"', '\'', '`'].into_iter().any(quoted) {
        return slip("the secret is in quotes, which are sent too", "write it without them");
    }
    if is_placeholder(text) {
        return slip(
            "the secret is the name of a variable that was not filled in",
            "name the variable: { env = \"…\" }",
        );
    }
    if is_assignment(text) {
        return slip(
            "the secret begins with a name and `=`, as a line of an .env file does",
            "keep what follows the `=`; of an .env file, write each secret into a file of its own",
        );
    }
    None
}

/// Checks a secret that is in the config file itself.
pub(super) fn slip_in_literal(bytes: &[u8], folder: &Path) -> Option<Slip> {
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    let looks_so = FOLDERS.iter().any(|start| text.starts_with(start)) || text.starts_with("file:");
    let names_a_file = text.contains('/') && !text.contains('\0') && folder.join(text).is_file();
    if looks_so || names_a_file {
        return Some(Slip {
            message: "the secret is the name of a file, which is sent as it is",
            hint: "name the file: { file = \"…\" }",
        });
    }
    // Whoever writes JSON there means it.
    slip_in_secret(bytes).filter(|slip| *slip != IS_JSON)
}

/// What looks wrong with a secret that a program printed, for the error if the issuer refuses it. `check` runs no program.
pub fn slip_in_printed(source: &Source, secret: &Secret) -> Option<String> {
    let slip = slip_in_secret(secret.expose()).filter(|_| source.is_printed())?;
    let remedy = if slip == IS_JSON { slip.hint } else { "the program must print only the secret" };
    Some(format!("{}: {}; {remedy}", source.place(), slip.message))
}

/// An object or an array.
fn is_json(text: &str) -> bool {
    text.trim_start().starts_with(['{', '[']) && serde_json::from_str::<IgnoredAny>(text).is_ok()
}

/// With a byte order mark, or ASCII characters without one.
fn is_utf16(bytes: &[u8]) -> bool {
    let zero = |at: usize| bytes.iter().skip(at).step_by(2).all(|byte| *byte == 0);
    bytes.starts_with(b"\xff\xfe")
        || bytes.starts_with(b"\xfe\xff")
        || (bytes.len() >= 4 && bytes.len().is_multiple_of(2) && (zero(0) || zero(1)))
}

/// `$NAME`, `${NAME}`, `$(NAME)`, `%NAME%`, `{{ … }}`, `<…>`, and nothing else.
fn is_placeholder(text: &str) -> bool {
    let between = |start, end| text.strip_prefix(start).and_then(|rest| rest.strip_suffix(end));
    let is_name = |name: &str| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    let shell = [("${", "}"), ("$(", ")"), ("%", "%"), ("$", "")];
    shell.into_iter().any(|(start, end)| between(start, end).is_some_and(is_name))
        || between("{{", "}}").is_some()
        || between("<", ">").is_some_and(|name| name.contains(' ') || is_name(&name.replace('-', "_")))
}

fn is_assignment(text: &str) -> bool {
    let Some((name, value)) = text.split_once('=') else { return false };
    let name = name.trim().strip_prefix("export ").unwrap_or(name).trim().to_ascii_lowercase();
    let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'));
    !value.trim_matches('=').is_empty() && is_name && NAMES.iter().any(|known| name.ends_with(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fix(reader: (u32, &[u32]), file: (u32, u32, u32)) -> Option<String> {
        let (owner, group, mode) = file;
        let reader = Reader { user: reader.0, groups: reader.1.to_vec() };
        let file = FileMode { mode: 0o100_000 | mode, owner, group, private_mount: false };
        reader.fix_of_mode(Path::new("/s"), &file)
    }

    #[test]
    fn a_mode_is_warned_about_only_where_a_stricter_one_would_do() {
        let bearerd = (65532, &[65532, 2000][..]);
        for (owner, group, mode) in
            [(65532, 65532, 0o600), (0, 65532, 0o440), (0, 2000, 0o640), (1000, 2000, 0o040)]
        {
            assert_eq!(fix(bearerd, (owner, group, mode)), None, "{owner} {group} {mode:o}");
        }
        for user in [65532, 0] {
            assert_eq!(fix((user, &[65532]), (65532, 65532, 0o640)).as_deref(), Some("run `chmod 600 /s`"));
        }
        for (group, mode, command) in [
            (65532, 0o444, "`chmod 640 /s`"),
            (65532, 0o660, "`chmod 640 /s`"),
            (65532, 0o441, "`chmod 640 /s`"),
            (0, 0o444, "`chgrp 65532 /s && chmod 640 /s`"),
            (0, 0o440, "`chgrp 65532 /s && chmod 640 /s`"),
        ] {
            let told = fix(bearerd, (0, group, mode)).unwrap();
            assert!(told.contains(command) && told.contains("`chown 65532 /s && chmod 600 /s`"), "{told}");
        }
        let mounted = FileMode { mode: 0o100_444, owner: 0, group: 0, private_mount: true };
        assert_eq!(Reader { user: 65532, groups: vec![] }.fix_of_mode(Path::new("/s"), &mounted), None);
    }

    fn told(bytes: impl AsRef<[u8]>) -> &'static str {
        slip_in_secret(bytes.as_ref()).map_or("", |slip| slip.message)
    }

    #[test]
    fn the_commonest_errors_are_reported_and_not_shown() {
        let utf16: Vec<u8> = "s3cr3t".encode_utf16().flat_map(u16::to_le_bytes).collect();
        for (bytes, words) in [
            (b"\xef\xbb\xbfs3cr3t".to_vec(), "byte order mark"),
            ([b"\xff\xfe".as_slice(), &utf16].concat(), "UTF-16"),
            (utf16.clone(), "UTF-16"),
            (b" s3cr3t".to_vec(), "white space"),
            (b"s3cr3t\n".to_vec(), "white space"),
            (b"s3cr3t\r".to_vec(), "white space"),
            ("s3cr3t\u{a0}".into(), "white space"),
            (b"one\ntwo".to_vec(), "several lines"),
            (b"\"s3cr3t\"".to_vec(), "quotes"),
            (b"{\n  \"token\": \"s3cr3t\"\n}\n".to_vec(), "is JSON"),
            (b"'s3cr3t'".to_vec(), "quotes"),
            (b"client_secret=s3cr3t".to_vec(), "a name and `=`"),
            (b"export CORP_SECRET = s3cr3t".to_vec(), "a name and `=`"),
            (b"${CORP_SECRET}".to_vec(), "a variable"),
            (b"$CORP_SECRET".to_vec(), "a variable"),
            (b"%CORP_SECRET%".to_vec(), "a variable"),
            (b"{{ .Values.secret }}".to_vec(), "a variable"),
            (b"<your-client-secret>".to_vec(), "a variable"),
        ] {
            assert!(told(&bytes).contains(words), "{}: {}", String::from_utf8_lossy(&bytes), told(&bytes));
        }
    }

    #[test]
    fn what_generators_make_is_taken_as_it_is() {
        for secret in [
            "s3cr3t",
            "a b",
            "Zq7-kP0_vW3.mN9",
            "c2VjcmV0LWtleQ==",
            "abckey==",
            "$2b$10$abc",
            "100%",
            "<3",
            "'",
            "\"x",
            "key",
            "",
            "=",
            "%41%42",
            "{s3cr3t}",
            "[s3",
        ] {
            assert_eq!(told(secret), "", "{secret}");
        }
        assert_eq!(told([0x9f, 0x00, 0x20, 0x0a]), "", "binary");
    }

    #[test]
    fn a_files_name_as_a_literal_is_reported() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("secret"), "x").unwrap();
        let told =
            |text: &str| slip_in_literal(text.as_bytes(), folder.path()).map_or("", |slip| slip.message);
        for text in ["/run/secrets/corp", "file:secret", "./secret"] {
            assert!(told(text).contains("the name of a file"), "{text}");
        }
        assert!(told("'s'").contains("quotes"));
        for text in ["secret", "a/b", "/x"] {
            assert_eq!(told(text), "", "{text}");
        }
    }

    #[test]
    fn keys_and_assertions_have_readers_of_their_own() {
        assert!(
            is_plain_secret("issuer.corp.client_secret") && is_plain_secret("issuer.corp.params.api_key")
        );
        assert!(!is_plain_secret("issuer.corp.private_key") && !is_plain_secret("issuer.corp.assertion"));
    }
}
