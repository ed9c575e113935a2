//! What a failed response says about itself: the members of RFC 6749 section 5.2, or a vendor's own.

use http::{HeaderMap, StatusCode};
use serde_json::{Map, Value};

use super::document::{self, Document, beside};
use super::response::{is_html, is_plain_text};
use crate::config::ResponseShape;

/// Where vendors put a code, folded, the best first.
const CODES: [&str; 7] = ["error", "errorcode", "code", "faultcode", "type", "reason", "status"];
/// Where vendors put a description, folded, in the order of reading.
const TEXTS: [&str; 11] = [
    "errordescription",
    "errorsummary",
    "errormessage",
    "exceptionmessage",
    "faultstring",
    "title",
    "message",
    "msg",
    "description",
    "detail",
    "details",
];
/// Members that contain the above one level deeper.
const CONTAINERS: [&str; 7] = ["error", "errors", "fault", "response", "detail", "details", "errorcauses"];
/// Members that only a failure has.
const FAULTS: [&str; 8] = [
    "error",
    "errors",
    "fault",
    "errorcode",
    "errormessage",
    "exceptionmessage",
    "errordescription",
    "errorsummary",
];
/// IDs for the vendor's support: the folded name, and the name that is shown.
const TRACES: [(&str, &str); 6] = [
    ("traceid", "trace_id"),
    ("correlationid", "correlation_id"),
    ("fbtraceid", "fbtrace_id"),
    ("requestid", "request_id"),
    ("errorid", "error_id"),
    ("incidentid", "incident_id"),
];
/// Codes that say only that there is an error.
const EMPTY_CODES: [&str; 5] = ["failure", "failed", "fail", "error", "about:blank"];

/// What metadata services say if there is no such identity: Azure's of virtual machines, of App Service, and of Container
/// Apps, and Google's.
const NO_IDENTITY: [&str; 7] = [
    "identity not found",
    "identity not assigned",
    "multiple user assigned identities exist",
    "no user assigned or delegated managed identity found",
    "no msi found",
    "unable to load the proper managed identity",
    "service account not enabled",
];

/// The most sentences that are kept.
const TEXTS_LIMIT: usize = 3;
/// The most entries of a list that are examined.
const ENTRIES_LIMIT: usize = 3;
const DEPTH_LIMIT: usize = 5;
/// The longest code, in bytes. A longer text is a sentence.
const CODE_LIMIT: usize = 128;
/// The most bytes of a text that need not be an error's description.
const EXCERPT_LIMIT: usize = 160;
/// A longer word may be a token.
const WORD_LIMIT: usize = 32;
/// The longest title of a web page that is shown, in bytes.
const TITLE_LIMIT: usize = 80;

/// What a response says about its failure.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ReportedError {
    /// As received: decides the kind of failure, and is never shown.
    pub(super) code: Option<String>,
    pub(super) description: Option<String>,
    /// IDs of the request in the issuer's log, by name.
    pub(super) traces: Vec<(String, String)>,
    /// A plain text. Only its [`excerpt`] may be shown, after secrets are masked.
    pub(super) text: Option<String>,
    /// The body is a web page.
    pub(super) html: bool,
}

impl ReportedError {
    /// Reads the body of a response with an error's `status`. `exact`: what the config's pointers find in it.
    pub(super) fn read(
        status: StatusCode,
        headers: &HeaderMap,
        body: &[u8],
        exact: Option<&Document>,
        shape: &ResponseShape,
    ) -> Self {
        let mut reported = Self::of_document(status, body, exact, shape);
        reported.html = is_html(body, headers);
        if !reported.has_details() {
            let failed = status.is_client_error() || status.is_server_error();
            if failed && !reported.html && is_plain_text(headers) {
                reported.text = plain_text(body);
            }
            let titled = title(body).filter(|_| failed && reported.html);
            reported.description =
                titled.or_else(|| member_list(body).map(|member_list| format!("JSON with {member_list}")));
        }
        reported
    }

    /// Reads what a document says. `response.error` goes first. In a response with a successful `status`, a vendor's
    /// members count only if one of them is an error's.
    pub(super) fn of_document(
        status: StatusCode,
        body: &[u8],
        exact: Option<&Document>,
        shape: &ResponseShape,
    ) -> Self {
        let code = exact.and_then(|exact| error_in(exact, shape)).flatten();
        let description = exact.and_then(|exact| exact.get(&beside(&shape.error, "error_description")));
        let description =
            description.and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned);
        let mut found = ErrorScan { status: status.as_u16(), ..ErrorScan::default() };
        let pointed = exact.is_some_and(|exact| error_in(exact, shape).is_some());
        let report = report(body, shape).filter(|it| !status.is_success() || pointed || is_fault(it));
        if let Some(report) = report {
            if let Some(fault) = report.get_folded(&shape.error).filter(|it| it.is_object() || it.is_array())
            {
                found.scan(fault, 0);
            }
            found.scan_root(report.root());
        }
        found.texts.retain(|text| Some(text) != code.as_ref());
        let said = found.description(code.is_none());
        Self {
            code: code.or(found.code),
            description: description.or(said),
            traces: found.traces,
            text: None,
            html: false,
        }
    }

    /// A metadata service has no identity for this machine, or not the one that the request names.
    pub(super) fn names_no_identity(&self) -> bool {
        let said = self.said().unwrap_or_default().to_ascii_lowercase();
        NO_IDENTITY.iter().any(|words| said.contains(words))
    }

    /// The issuer's own words.
    pub(super) fn said(&self) -> Option<&str> {
        self.description.as_deref().or(self.text.as_deref())
    }

    /// There is a code or a description.
    pub(super) fn has_details(&self) -> bool {
        self.code.is_some() || self.description.is_some()
    }
}

/// `Some` if the response reports an error at `response.error`, with its code if that is a text or a number.
pub(super) fn error_in(document: &Document, shape: &ResponseShape) -> Option<Option<String>> {
    match document.get(&shape.error).filter(|error| !is_no_error(error))? {
        Value::String(code) => Some(Some(code.clone())),
        Value::Number(code) => Some(Some(code.to_string())),
        _ => Some(None),
    }
}

/// What servers write if there is no error.
fn is_no_error(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(there) => !there,
        Value::Number(code) => code.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
    }
}

/// The document reports a failure in the way of some vendor.
fn is_fault(report: &Document) -> bool {
    let any =
        |value: &Value| FAULTS.iter().any(|&name| value.get(name).is_some_and(|fault| !is_no_error(fault)));
    any(report.root()) || report.root().get("response").is_some_and(any)
}

fn report(body: &[u8], shape: &ResponseShape) -> Option<Document> {
    let names: Vec<&str> = CODES
        .into_iter()
        .chain(TEXTS)
        .chain(CONTAINERS)
        .chain(FAULTS)
        .chain(TRACES.map(|(folded, _)| folded))
        .collect();
    Document::report(body, &names, &shape.error)
}

/// What was found so far, the outermost first.
#[derive(Default)]
struct ErrorScan {
    status: u16,
    code: Option<String>,
    number: Option<String>,
    texts: Vec<String>,
    traces: Vec<(String, String)>,
}

impl ErrorScan {
    /// A bare text or a list of texts is not a report: it may be a token.
    fn scan_root(&mut self, root: &Value) {
        match root {
            Value::Array(items) => {
                items
                    .iter()
                    .take(ENTRIES_LIMIT)
                    .filter(|item| item.is_object())
                    .for_each(|item| self.scan(item, 0));
            }
            Value::Object(members) => self.scan_object(members, 0),
            _ => {}
        }
    }

    fn scan(&mut self, value: &Value, depth: usize) {
        match value {
            Value::Object(members) if depth < DEPTH_LIMIT => self.scan_object(members, depth),
            Value::Array(items) if depth < DEPTH_LIMIT => {
                items.iter().take(ENTRIES_LIMIT).for_each(|item| self.scan(item, depth + 1));
            }
            Value::String(text) => self.add_text(text),
            _ => {}
        }
    }

    fn scan_object(&mut self, members: &Map<String, Value>, depth: usize) {
        for name in CODES {
            match members.get(name) {
                Some(Value::String(text)) => self.add_code(name, text),
                Some(Value::Number(number)) => self.add_number(&number.to_string()),
                _ => {}
            }
        }
        for name in TEXTS {
            if let Some(Value::String(text)) = members.get(name) {
                self.add_text(text);
            }
        }
        for (folded, name) in TRACES {
            let value = match members.get(folded) {
                Some(Value::String(text)) => text.clone(),
                Some(Value::Number(number)) => number.to_string(),
                _ => continue,
            };
            self.traces.push((name.to_owned(), value));
        }
        for name in CONTAINERS {
            if let Some(deeper @ (Value::Object(_) | Value::Array(_))) = members.get(name) {
                self.scan(deeper, depth + 1);
            }
        }
    }

    fn add_code(&mut self, member: &str, text: &str) {
        let text = text.trim();
        let is_code = !text.contains(char::is_whitespace) && text.len() <= CODE_LIMIT;
        if !is_code {
            // Apigee's `Error` is a sentence, and its `ErrorCode` is the code.
            if member == "error" {
                self.add_text(text);
            }
            return;
        }
        let vague = matches!(member, "type" | "reason" | "status");
        let empty = EMPTY_CODES.iter().any(|empty| text.eq_ignore_ascii_case(empty)) || text.contains("://");
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        match &self.code {
            _ if text.is_empty() || (vague && (empty || digits)) => {}
            None => self.code = Some(text.to_owned()),
            Some(_) => {}
        }
    }

    /// A number that only repeats the status is ignored.
    fn add_number(&mut self, number: &str) {
        if self.number.is_none() && number != self.status.to_string() {
            self.number = Some(number.to_owned());
        }
    }

    fn add_text(&mut self, text: &str) {
        let text = text.trim();
        let known = self.texts.iter().any(|known| known.contains(text)) || self.code.as_deref() == Some(text);
        if !text.is_empty() && !known && self.texts.len() < TEXTS_LIMIT {
            self.texts.push(text.to_owned());
        }
    }

    /// The sentences, after the number if there is also a code. A number alone becomes the code.
    fn description(&mut self, want_code: bool) -> Option<String> {
        let mut texts = std::mem::take(&mut self.texts);
        if let Some(number) = self.number.take() {
            match (want_code, &self.code) {
                (true, None) => self.code = Some(number),
                (true, Some(_)) => texts.insert(0, number),
                (false, _) => {}
            }
        }
        (!texts.is_empty()).then(|| texts.join(": "))
    }
}

/// `the members a, b` of unknown JSON, without values. Omits names that could be values.
pub(super) fn member_list(body: &[u8]) -> Option<String> {
    let fit = |name: &String| {
        let plain = |byte: u8| {
            byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'@' | b'$' | b':')
        };
        (1..=WORD_LIMIT).contains(&name.len()) && name.bytes().all(plain)
    };
    let names: Vec<_> = document::member_names(body).into_iter().filter(fit).collect();
    (!names.is_empty()).then(|| format!("the members {}", names.join(", ")))
}

fn plain_text(body: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(body).ok()?.trim();
    // Broken JSON is not quoted.
    (!text.is_empty() && !text.starts_with(['{', '[', '"'])).then(|| text.to_owned())
}

/// The beginning of a plain text, without words that may be values. At most 160 bytes.
pub(super) fn excerpt(text: &str) -> String {
    let mut shown = String::new();
    for word in text.split_whitespace() {
        let word = if word.len() > WORD_LIMIT || word.contains('=') { "…" } else { word };
        if shown.len() + word.len() + 1 > EXCERPT_LIMIT - "…".len() {
            shown.push('…');
            break;
        }
        if !shown.is_empty() {
            shown.push(' ');
        }
        shown.push_str(word);
    }
    shown
}

/// A web page's title, if it consists of a few plain words.
fn title(body: &[u8]) -> Option<String> {
    let page = String::from_utf8_lossy(body);
    // The length stays the same, because only ASCII letters change.
    let lower = page.to_ascii_lowercase();
    let tag = lower.find("<title")?;
    let start = tag + lower.get(tag..)?.find('>')? + 1;
    let length = lower.get(start..)?.find("</title")?;
    let text = page.get(start..start + length)?.split_whitespace().collect::<Vec<_>>().join(" ");
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b" .,:;!?|()'-/".contains(&byte);
    let fit = (1..=TITLE_LIMIT).contains(&text.len())
        && text.bytes().all(plain)
        && text.split(' ').all(|word| word.len() <= WORD_LIMIT);
    fit.then(|| format!("a page with the title \"{text}\""))
}

#[cfg(test)]
mod tests;
