//! A file of the config: its text, its TOML, and the place of each key. `include` names more files.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};
use zeroize::Zeroizing;

use crate::config::report::{Report, Severity};
use crate::config::{files, schema};

/// The text of a config file. It may contain literal secrets, so it is wiped when it is dropped.
pub(crate) struct FileText {
    /// The path as the operator wrote it.
    pub display: PathBuf,
    pub absolute: PathBuf,
    /// Where relative paths in it start.
    pub folder: PathBuf,
    pub text: Zeroizing<String>,
    pub access: Access,
    line_starts: Vec<usize>,
}

/// What mode and owner of the file let others do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Access {
    /// Only the owner may read it, so literal secrets are accepted.
    pub owner_only: bool,
    /// Group or others may write it.
    pub writable_by_others: bool,
    /// Its owner is neither root nor the user that bearerd runs as, and may write it.
    pub of_another_user: bool,
}

/// Why a file could not be read, and its line if that is known (from 1; 0: the whole file).
pub(crate) struct Unreadable {
    pub reason: String,
    pub line: usize,
}

impl FileText {
    pub(super) fn read(display: &Path) -> Result<Self, Unreadable> {
        Self::read_with(display, |path, _| {
            files::read(path, files::LARGEST_CONFIG).map(|it| it.bytes.to_vec())
        })
    }

    /// The main file may also be a pipe, as of `--config <(…)`.
    pub(super) fn read_main(display: &Path) -> Result<Self, Unreadable> {
        Self::read_with(display, |path, state| match state.file_type().is_fifo() {
            true => read_pipe(path),
            false => files::read(path, files::LARGEST_CONFIG).map(|it| it.bytes.to_vec()),
        })
    }

    fn read_with(
        display: &Path,
        read: impl FnOnce(&Path, &Metadata) -> io::Result<Vec<u8>>,
    ) -> Result<Self, Unreadable> {
        let whole = |reason: String| Unreadable { reason, line: 0 };
        let absolute = std::path::absolute(display).map_err(|error| whole(error.to_string()))?;
        let state = files::state(&absolute).map_err(|error| whole(io_reason(&error)))?;
        let bytes = read(&absolute, &state).map_err(|error| whole(io_reason(&error)))?;
        let text = String::from_utf8(bytes).map_err(|error| {
            let valid = error.utf8_error().valid_up_to();
            let bytes = Zeroizing::new(error.into_bytes());
            let line = bytes.iter().take(valid).filter(|&&byte| byte == b'\n').count() + 1;
            Unreadable { reason: "is not UTF-8".to_owned(), line }
        })?;
        let access = Access::of(&absolute, &state);
        Ok(Self::new(display.to_owned(), absolute, text, access))
    }

    /// A text that is not in a file. It counts as readable only by its owner.
    pub(super) fn nowhere(text: &str) -> Self {
        let name = PathBuf::from("/bearerd.toml");
        let access = Access { owner_only: true, writable_by_others: false, of_another_user: false };
        Self::new(name.clone(), name, text.to_owned(), access)
    }

    pub(super) fn new(display: PathBuf, absolute: PathBuf, text: String, access: Access) -> Self {
        let folder = absolute.parent().unwrap_or_else(|| Path::new("/")).to_owned();
        let line_starts = std::iter::once(0)
            .chain(text.bytes().enumerate().filter(|&(_, byte)| byte == b'\n').map(|(at, _)| at + 1))
            .collect();
        Self { display, absolute, folder, text: Zeroizing::new(text), access, line_starts }
    }

    /// How another user may write this text, and the remedy. Whoever can do so can have bearerd run what the text names. Only the
    /// mode is an error: who is behind an owner or a group, and who else gets to a folder, cannot be seen from inside a container.
    pub(super) fn writable_by_another(&self) -> Option<(Severity, String, String)> {
        let file = self.display.display();
        if self.access.writable_by_others {
            let message = "in a file that other users may write".to_owned();
            return Some((Severity::Error, message, format!("run `chmod go-w {file}`")));
        }
        if self.access.of_another_user {
            let message = "in a file of another user, who may write it".to_owned();
            let remedy = format!(
                "run `chown root {file}`, and let bearerd's group read it; or mount the file read-only"
            );
            return Some((Severity::Warning, message, remedy));
        }
        let (folder, by_mode) = files::folder_for_others(&self.absolute)?;
        let folder = folder.display();
        let message =
            format!("in a file that other users may replace, because they may write the folder {folder}");
        let command = if by_mode { "chmod go-w" } else { "chown root" };
        Some((Severity::Warning, message, format!("run `{command} {folder}`, or mount it read-only")))
    }

    /// Line and column (in characters), both counted from 1.
    pub(super) fn position(&self, offset: usize) -> (usize, usize) {
        let line = self.line_starts.partition_point(|&start| start <= offset);
        let start = self.line_start(offset);
        let column = self.text.get(start..offset).map_or(0, |before| before.chars().count()) + 1;
        (line, column)
    }

    fn line_start(&self, offset: usize) -> usize {
        let next = self.line_starts.partition_point(|&start| start <= offset);
        next.checked_sub(1).and_then(|index| self.line_starts.get(index)).copied().unwrap_or(0)
    }

    /// A line without its line end, counted from 1.
    pub(super) fn line(&self, line: usize) -> Option<&str> {
        let start = *self.line_starts.get(line.checked_sub(1)?)?;
        self.text.get(start..)?.lines().next()
    }
}

impl Access {
    /// The mode of the file that is read counts, not that of a symbolic link to it.
    fn of(path: &Path, state: &Metadata) -> Self {
        let mode = state.permissions().mode();
        Self {
            owner_only: mode & 0o077 == 0,
            writable_by_others: mode & 0o022 != 0,
            of_another_user: files::is_of_another_user(state) && !files::is_on_read_only_mount(path),
        }
    }
}

fn read_pipe(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(files::LARGEST_CONFIG).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The reason in plain words, without the error number.
pub(crate) fn io_reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file".to_owned(),
        io::ErrorKind::PermissionDenied => "may not be read by this user".to_owned(),
        io::ErrorKind::IsADirectory => "is a folder".to_owned(),
        _ => error.to_string(),
    }
}

/// A parsed file.
pub(crate) struct Document<'t> {
    pub file: &'t FileText,
    pub root: Spanned<DeValue<'t>>,
    /// Where the line of the first syntax error starts. Nothing is certain after it: a missing key may only have been
    /// lost, and an unterminated string may contain whatever follows it.
    pub broken: Option<usize>,
}

/// A syntax error's byte offset and message; the message never quotes the text.
pub(super) struct SyntaxError {
    pub offset: usize,
    pub message: String,
}

impl<'t> Document<'t> {
    /// Parses as much as possible. The errors are in the order of the text.
    pub(super) fn parse(file: &'t FileText) -> (Self, Vec<SyntaxError>) {
        let (table, errors) = DeTable::parse_recoverable(&file.text);
        let mut errors: Vec<SyntaxError> = errors
            .iter()
            .map(|error| SyntaxError {
                offset: error.span().map_or(0, |span| span.start),
                message: error.message().to_owned(),
            })
            .collect();
        errors.sort_by_key(|error| error.offset);
        let span = table.span();
        let root = Spanned::new(span, DeValue::Table(table.into_inner()));
        let broken = errors.first().map(|error| file.line_start(error.offset));
        (Self { file, root, broken }, errors)
    }

    pub(super) fn root(&'t self) -> Place<'t> {
        Place { document: self, path: KeyPath::default() }
    }
}

/// One step of a key's path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PathStep {
    Key(String),
    Index(usize),
}

/// A key's path; printed as `issuer.corp.params."a b"`, `route[2].issuer`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct KeyPath(pub Vec<PathStep>);

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, step) in self.0.iter().enumerate() {
            match step {
                PathStep::Index(index) => write!(f, "[{index}]")?,
                PathStep::Key(key) => {
                    if position > 0 {
                        f.write_str(".")?;
                    }
                    let bare = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
                    if !key.is_empty() && key.bytes().all(bare) {
                        f.write_str(key)?;
                    } else {
                        write!(f, "{key:?}")?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// A key of a document, written or not.
#[derive(Clone)]
pub(crate) struct Place<'t> {
    pub document: &'t Document<'t>,
    pub path: KeyPath,
}

impl<'t> Place<'t> {
    pub(super) fn key(&self, key: &str) -> Self {
        self.step(PathStep::Key(key.to_owned()))
    }

    pub(super) fn index(&self, index: usize) -> Self {
        self.step(PathStep::Index(index))
    }

    fn step(&self, step: PathStep) -> Self {
        let mut path = self.path.clone();
        path.0.push(step);
        Self { document: self.document, path }
    }

    pub(super) fn join(&self, steps: &[PathStep]) -> Self {
        let mut path = self.path.clone();
        path.0.extend_from_slice(steps);
        Self { document: self.document, path }
    }

    /// Whether a token of another issuer may stand at this place.
    pub(super) fn may_hold_a_token(&self) -> bool {
        let steps = self.path.0.iter().map(|step| match step {
            PathStep::Key(key) => key.as_str(),
            PathStep::Index(_) => "",
        });
        let steps: Vec<&str> = steps.collect();
        // Credentials and claims of token requests. Names are none, keys and certificates are no tokens, and what is not sent to
        // an issuer must not get one's token.
        matches!(
            steps.as_slice(),
            ["issuer", _, "client_secret" | "assertion" | "params" | "headers", ..]
                | ["issuer", _, "standby", "client_secret", ..]
                | ["issuer", _, "basic", "password", ..]
                | ["issuer", _, "jwt", "claims", ..]
                | ["route", _, "params", ..]
        )
    }

    /// Whether a value at this place is read for each token request.
    pub(super) fn is_of_token_requests(&self) -> bool {
        let key = |index: usize| match self.path.0.get(index) {
            Some(PathStep::Key(key)) => key.as_str(),
            _ => "",
        };
        key(0) == "issuer" || (key(0) == "route" && key(2) == "params")
    }

    /// The value that is written there.
    pub(super) fn value(&self) -> Option<&'t DeValue<'t>> {
        let mut value = self.document.root.get_ref();
        for step in &self.path.0 {
            value = child(value, step)?.1.get_ref();
        }
        Some(value)
    }

    /// Whether this value was read as it was meant: no syntax error precedes its end.
    pub(super) fn is_sure(&self) -> bool {
        let Some(broken) = self.document.broken else { return true };
        let mut value = &self.document.root;
        for step in &self.path.0 {
            let Some((_, next)) = child(value.get_ref(), step) else { break };
            value = next;
        }
        value.span().end <= broken
    }

    /// The steps of the path that exist in the document: [`Place::position`] points at the last one.
    fn written(&self) -> impl Iterator<Item = &PathStep> {
        let mut value = Some(self.document.root.get_ref());
        self.path.0.iter().take_while(move |step| {
            value = value.and_then(|value| child(value, step)).map(|(_, next)| next.get_ref());
            value.is_some()
        })
    }

    pub(super) fn is_written(&self) -> bool {
        self.value().is_some()
    }

    /// Line and column of the key, or of the nearest enclosing table if the key is not written.
    pub(super) fn position(&self) -> (usize, usize) {
        let mut value = &self.document.root;
        let mut offset = value.span().start;
        for step in &self.path.0 {
            let Some((start, next)) = child(value.get_ref(), step) else { break };
            offset = start;
            value = next;
        }
        self.document.file.position(offset)
    }

    /// `file:line:col` of the key, for messages that name another place.
    pub(super) fn label(&self) -> String {
        let (line, column) = self.position();
        format!("{}:{line}:{column}", self.document.file.display.display())
    }

    /// The source line at [`Place::position`], if it cannot contain a secret. `known`: a key that is safe to show.
    pub(super) fn source_line(&self, known: Option<&str>) -> Option<String> {
        if self.written().any(|step| matches!(step, PathStep::Key(key) if schema::may_hold_secret(key))) {
            return None;
        }
        let line = self.document.file.line(self.position().0)?;
        schema::line_may_be_shown(line, known).then(|| line.to_owned())
    }

    /// The value in words, without its content if it may be secret.
    pub(super) fn describe(&self) -> String {
        let secret =
            self.path.0.iter().any(|step| matches!(step, PathStep::Key(key) if schema::may_hold_secret(key)));
        match self.value() {
            None => "nothing".to_owned(),
            Some(DeValue::String(text)) if !secret && schema::text_may_be_shown(text) => {
                format!("{text:?}")
            }
            Some(DeValue::String(_)) => "a string".to_owned(),
            Some(DeValue::Integer(number)) if !secret => format!("the number {number}"),
            Some(DeValue::Float(number)) if !secret => format!("the number {number}"),
            Some(DeValue::Integer(_) | DeValue::Float(_)) => "a number".to_owned(),
            Some(DeValue::Boolean(flag)) => flag.to_string(),
            Some(DeValue::Datetime(_)) => "a date".to_owned(),
            Some(DeValue::Array(_)) => "an array".to_owned(),
            Some(DeValue::Table(_)) => "a table".to_owned(),
        }
    }
}

/// Where the step's key starts, and its value.
fn child<'a, 't>(value: &'a DeValue<'t>, step: &PathStep) -> Option<(usize, &'a Spanned<DeValue<'t>>)> {
    match step {
        PathStep::Key(key) => {
            let (key, value) = value.as_table()?.get_key_value(key.as_str())?;
            Some((key.span().start, value))
        }
        PathStep::Index(index) => {
            let value = value.as_array()?.get(*index)?;
            Some((value.span().start, value))
        }
    }
}

/// The files that the patterns matched.
#[derive(Default)]
pub(super) struct Included {
    /// In the order of the patterns, and of the names within one.
    pub texts: Vec<FileText>,
    /// Folders in which another match could appear, absolute.
    pub folders: Vec<PathBuf>,
}

/// Finds and reads the files. A pattern without `*` must match a file; one with `*` may match none. Wrong types are
/// reported when the file is read.
pub(crate) fn find_included(at: &Place<'_>, report: &mut Report) -> Included {
    let patterns = at.value().and_then(DeValue::as_array).into_iter().flatten();
    let patterns = patterns.filter_map(|pattern| pattern.get_ref().as_str());
    let main = at.document.file;
    let shown_folder = main.display.parent().unwrap_or_else(|| Path::new(""));
    let mut included = Included::default();
    let mut seen = BTreeSet::from([main.absolute.clone()]);
    for (index, pattern) in patterns.enumerate() {
        let place = at.index(index);
        let (folder, name) = match split(pattern) {
            Ok(parts) => parts,
            Err(hint) => {
                report.error(&place, "is not a usable pattern", hint);
                continue;
            }
        };
        let absolute_folder = main.folder.join(folder);
        if !included.folders.contains(&absolute_folder) {
            included.folders.push(absolute_folder.clone());
        }
        for name in names(&place, &absolute_folder, name, report) {
            if !seen.insert(absolute_folder.join(&name)) {
                continue;
            }
            let shown = shown_folder.join(folder).join(&name);
            match FileText::read(&shown) {
                Ok(text) => included.texts.push(text),
                Err(error) => report.file(&shown, error.line, error.reason),
            }
        }
    }
    included
}

/// Whether a pattern of `include` matches this file, there or not. Its links are followed.
pub(crate) fn would_include(at: &Place<'_>, real: &Path) -> bool {
    let (Some(folder), Some(name)) = (real.parent(), real.file_name().and_then(|name| name.to_str())) else {
        return false;
    };
    let patterns = at.value().and_then(DeValue::as_array).into_iter().flatten();
    let mut patterns = patterns.filter_map(|pattern| split(pattern.get_ref().as_str()?).ok());
    !name.starts_with('.')
        && patterns.any(|(of, pattern)| {
            matches(pattern, name) && files::real(&at.document.file.folder.join(of)).path == folder
        })
}

fn split(pattern: &str) -> Result<(&Path, &str), &'static str> {
    let (folder, name) = pattern.rsplit_once('/').map_or(("", pattern), |(folder, name)| {
        // "/x.toml" is in the root folder.
        (if folder.is_empty() { "/" } else { folder }, name)
    });
    if name.is_empty() || pattern.contains('\0') {
        return Err("end it with a file's name: \"conf.d/*.toml\"");
    }
    if folder.contains('*') {
        return Err("`*` may be only in the last part: \"conf.d/*.toml\"");
    }
    Ok((Path::new(folder), name))
}

/// Names in the folder that the last part matches, sorted. Hidden files are left out, as shells do.
fn names(place: &Place<'_>, folder: &Path, pattern: &str, report: &mut Report) -> Vec<String> {
    if !pattern.contains('*') {
        return vec![pattern.to_owned()];
    }
    let entries = match files::names(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            report.warning(place, "the folder does not exist, so nothing is included", "");
            return Vec::new();
        }
        Err(error) => {
            report.error(place, format!("the folder {}", io_reason(&error)), "");
            return Vec::new();
        }
    };
    entries.into_iter().filter(|name| !name.starts_with('.') && matches(pattern, name)).collect()
}

/// `*` matches any number of characters.
fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else { return false };
    let mut parts = parts.peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        let Some(at) = rest.find(part) else { return false };
        rest = rest.get(at + part.len()..).unwrap_or_default();
    }
    rest.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars() {
        for (pattern, name, expected) in [
            ("*.toml", "a.toml", true),
            ("*.toml", "a.toml.bak", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c", false),
            ("a*a", "a", false),
            ("**", "x", true),
            ("x", "x", true),
            ("x", "xy", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn patterns() {
        assert_eq!(split("conf.d/*.toml"), Ok((Path::new("conf.d"), "*.toml")));
        assert_eq!(split("/x.toml"), Ok((Path::new("/"), "x.toml")));
        assert_eq!(split("x.toml"), Ok((Path::new(""), "x.toml")));
        assert!(split("a*/x").is_err() && split("a/").is_err() && split("").is_err());
    }
}
