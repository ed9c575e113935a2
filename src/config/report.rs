//! What one load finds: errors, and the references it met.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::document::{FileText, Place};
use super::model::ReferenceUse;
use super::problem::{Problem, Severity};
use super::reference::Source;

/// Fewer letters at its beginning do not tell what a word was meant to be.
const SHORTEST_STEM: usize = 3;

/// Collects everything, so that one run tells every error.
#[derive(Default)]
pub(crate) struct Report {
    pub problems: Vec<Problem>,
    pub references: Vec<ReferenceUse>,
    /// Webhooks that may be named, with their stores; `None` where one has errors.
    pub webhooks: BTreeMap<String, Option<PathBuf>>,
    /// Values of `vars` that stand elsewhere, by the path of their table: what is written does not tell them.
    pub elsewhere: BTreeMap<String, Vec<String>>,
    /// Issuers' tables whose preset is not known: what seems to be missing may stand there.
    pub presetless: Vec<String>,
    /// A file has syntax errors or could not be read: what seems to be missing may stand there.
    pub incomplete: bool,
}

impl Report {
    /// An error at a key. An empty `hint` is none.
    pub(super) fn error(&mut self, place: &Place<'_>, message: impl Into<String>, hint: impl Into<String>) {
        let line = place.source_line(None);
        self.add(Severity::Error, place, message.into(), hint.into(), line);
    }

    /// Something that does not stop the program. An empty `hint` is none.
    pub(super) fn warning(&mut self, place: &Place<'_>, message: impl Into<String>, hint: impl Into<String>) {
        let line = place.source_line(None);
        self.add(Severity::Warning, place, message.into(), hint.into(), line);
    }

    /// An unknown key; its line is shown where `resembles`, the key that was meant, takes no secret.
    pub(super) fn unknown(
        &mut self,
        place: &Place<'_>,
        written: &str,
        message: &str,
        hint: &str,
        resembles: Option<&str>,
    ) {
        let line = resembles
            .filter(|meant| !super::confidential::key(meant))
            .and_then(|_| place.source_line(Some(written)));
        self.add(Severity::Error, place, message.to_owned(), hint.to_owned(), line);
    }

    /// A required key that is not there. Silent where it may only have been lost, or is there and was reported.
    pub(super) fn missing(&mut self, place: &Place<'_>, message: impl Into<String>, hint: impl Into<String>) {
        if place.document.broken.is_none() && !place.is_written() && !self.lacks_a_preset(place) {
            self.error(place, message, hint);
        }
    }

    fn lacks_a_preset(&self, place: &Place<'_>) -> bool {
        let path = place.path.to_string();
        let own_key = |table: &String| {
            let key = path.strip_prefix(table.as_str()).and_then(|rest| rest.strip_prefix('.'));
            key.is_some_and(|key| !key.contains('.'))
        };
        self.presetless.iter().any(own_key)
    }

    /// Notes that a value stands elsewhere.
    pub(super) fn reference(&mut self, place: &Place<'_>, source: &Source, secret: bool) {
        self.note_reference(place, source, secret, false);
    }

    /// Notes a value that stands elsewhere and is read now: another one is another config.
    pub(super) fn part_of_config(&mut self, place: &Place<'_>, source: &Source) {
        self.note_reference(place, source, false, true);
    }

    fn note_reference(&mut self, place: &Place<'_>, source: &Source, secret: bool, part_of_config: bool) {
        let (line, column) = place.position();
        self.references.push(ReferenceUse {
            source: source.clone(),
            secret,
            part_of_config,
            file: place.document.file.display.clone(),
            line,
            column,
            key: place.path.to_string(),
        });
    }

    /// An error of the file as a whole, or at a bare line.
    pub(super) fn file(&mut self, file: &std::path::Path, line: usize, message: impl Into<String>) {
        self.file_with_hint(file, line, message, None);
    }

    pub(super) fn file_with_hint(
        &mut self,
        file: &std::path::Path,
        line: usize,
        message: impl Into<String>,
        hint: Option<String>,
    ) {
        self.incomplete = true;
        self.problems.push(Problem {
            severity: Severity::Error,
            file: file.to_owned(),
            line,
            column: usize::from(line > 0),
            key: String::new(),
            message: message.into(),
            hint,
            source_line: None,
        });
    }

    pub(super) fn syntax(&mut self, file: &FileText, offset: usize, message: &str) {
        self.incomplete = true;
        let (line, column) = file.position(offset);
        let in_order = file
            .text
            .get(..offset)
            .is_some_and(|before| !before.contains("\"\"\"") && !before.contains("'''"));
        let source =
            file.line(line).filter(|text| in_order && super::confidential::line_may_be_shown(text, None));
        self.problems.push(Problem {
            severity: Severity::Error,
            file: file.display.clone(),
            line,
            column,
            key: String::new(),
            message: format!("not TOML: {message}"),
            hint: None,
            source_line: source.map(str::to_owned),
        });
    }

    fn add(
        &mut self,
        severity: Severity,
        place: &Place<'_>,
        message: String,
        hint: String,
        line: Option<String>,
    ) {
        if !place.is_sure() {
            return;
        }
        let (at_line, column) = place.position();
        self.problems.push(Problem {
            severity,
            file: place.document.file.display.clone(),
            line: at_line,
            column,
            key: place.path.to_string(),
            message,
            hint: (!hint.is_empty()).then_some(hint),
            source_line: line,
        });
    }
}

/// The candidate that was probably meant: a misspelt one, or one with more or less at its end (`logging` for `log`,
/// `client_secret_file` for `client_secret`).
pub(crate) fn nearest<'a>(written: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let candidates: Vec<&str> = candidates.into_iter().collect();
    let begins_so = |candidate: &&str| {
        let shorter = candidate.len().min(written.len());
        shorter >= SHORTEST_STEM && (written.starts_with(*candidate) || candidate.starts_with(written))
    };
    misspelt(written, candidates.iter().copied())
        .or_else(|| candidates.into_iter().filter(begins_so).max_by_key(|candidate| candidate.len()))
}

/// The candidate with a letter or two wrong.
pub(crate) fn misspelt<'a>(written: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(written, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.len().min(written.len()) / 4).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// `did you mean …?`, or `otherwise`.
pub(crate) fn did_you_mean<'a>(
    written: &str,
    candidates: impl IntoIterator<Item = &'a str>,
    otherwise: &str,
) -> String {
    nearest(written, candidates)
        .map_or_else(|| otherwise.to_owned(), |meant| format!("did you mean `{meant}`?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggests_what_is_near() {
        assert_eq!(nearest("isuer", ["issuer", "upstream"]), Some("issuer"));
        assert_eq!(nearest("upsteam", ["issuer", "upstream"]), Some("upstream"));
        assert_eq!(nearest("client_secrt", ["client_id", "client_secret"]), Some("client_secret"));
        assert_eq!(nearest("logging", ["log", "limits", "listener"]), Some("log"));
        assert_eq!(nearest("client_secret_file", ["client_id", "client_secret"]), Some("client_secret"));
        assert_eq!(nearest("frobnicate", ["issuer", "upstream"]), None);
        assert_eq!(nearest("oauth2", ["auth0", "okta"]), None, "two letters of six are another word");
    }
}
