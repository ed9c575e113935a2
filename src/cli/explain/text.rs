//! An explanation for people.

use std::fmt::Write;

use super::{Answer, CredentialFacts, Explanation, HeaderNames, Parameter, Sent};
use crate::secret::MASK;

/// Lines of `label  value`, the labels in one column.
struct Page(String);

impl Page {
    fn line(&mut self, label: &str, value: impl std::fmt::Display) {
        // Writing into a string does not fail.
        let _ = writeln!(self.0, "  {label:<15}{value}");
    }

    fn lines(&mut self, label: &str, values: &[String]) {
        let labels = std::iter::once(label).chain(std::iter::repeat(""));
        for (label, value) in labels.zip(values) {
            self.line(label, value);
        }
    }

    fn list(&mut self, label: &str, values: &[String]) {
        if !values.is_empty() {
            self.line(label, values.join(", "));
        }
    }
}

pub(super) fn render(explanation: &Explanation) -> String {
    let mut page = Page(String::new());
    for answer in &explanation.answers {
        if !page.0.is_empty() {
            page.0.push('\n');
        }
        // A path that no request line may hold may hold what a terminal would obey.
        let path = explanation.path.escape_debug();
        let _ = match (&answer.route, answer.status, answer.code) {
            (Some(route), Some(status), _) => {
                writeln!(page.0, "{} {path}: answered here for route `{route}`, {status}", explanation.method)
            }
            (Some(route), None, _) => {
                writeln!(page.0, "{} {path}: route `{route}` serves it", explanation.method)
            }
            (None, Some(status), Some(code)) => {
                writeln!(page.0, "{} {path}: no route serves it, {status} `{code}`", explanation.method)
            }
            (None, Some(status), None) => {
                writeln!(page.0, "{} {path}: answered here, {status}", explanation.method)
            }
            (None, None, _) => writeln!(page.0, "{} {path}: no route serves it", explanation.method),
        };
        render_answer(&mut page, answer);
    }
    page.0
}

fn render_answer(page: &mut Page, answer: &Answer) {
    page.list("listeners", &answer.listeners);
    page.lines("why", &answer.why);
    page.lines("nearest", &answer.nearest);
    page.lines("note", &answer.notes);
    if let Some(sent) = &answer.sent {
        render_sent(page, sent);
    }
}

fn render_sent(page: &mut Page, sent: &Sent) {
    let own = sent.credential.as_ref().and_then(|credential| credential.inject_query.as_ref());
    let query = match (sent.query, own) {
        (false, None) => String::new(),
        (true, None) => ", then the query as it came".to_owned(),
        (false, Some(name)) => format!(", then `{name}` in the query"),
        (true, Some(name)) => format!(", then the query with our `{name}` instead of any other"),
    };
    page.line("upstream", format_args!("{}{query}", sent.url));
    page.line("Host", &sent.host);
    page.line("protocol", sent.protocol);
    match &sent.credential {
        None => page.line("token", "none, the route is anonymous"),
        Some(credential) => render_credential(page, credential),
    }
    page.line("Authorization", format_args!("the caller's: {}", sent.caller_authorization));
    render_edits(page, "request", &sent.request_headers);
    render_edits(page, "response", &sent.response_headers);
    let timeouts = &sent.timeouts;
    page.line(
        "timeouts",
        format_args!(
            "connect {}, response {}, idle {}; connections live {}",
            timeouts.connect, timeouts.response, timeouts.idle, timeouts.connection_max_age
        ),
    );
}

fn render_credential(page: &mut Page, credential: &CredentialFacts) {
    let how = if credential.discovery { "found by discovery at" } else { "from" };
    let preset = credential.preset.as_ref().map(|preset| format!(" (preset `{preset}`)")).unwrap_or_default();
    let (issuer, endpoint) = (&credential.issuer, &credential.token_endpoint);
    page.line("token", format_args!("issuer `{issuer}`{preset}, {how} {endpoint}"));
    if credential.scopes.is_empty() {
        page.line("scopes", "none");
    }
    page.list("scopes", &credential.scopes);
    let parameter = |parameter: &Parameter| match parameter.reference {
        true => format!("{} = {MASK}", parameter.name),
        false => parameter.name.clone(),
    };
    page.list("parameters", &credential.parameters.iter().map(parameter).collect::<Vec<_>>());
    if let Some(subject) = &credential.subject {
        page.line("subject", subject.escape_debug());
    }
    page.line("sent as", &credential.inject);
    if credential.dpop {
        page.line("proof", "in DPoP, a new one for each request (RFC 9449)");
    }
}

fn render_edits(page: &mut Page, which: &str, names: &HeaderNames) {
    page.list(&format!("{which} set"), &names.set);
    page.list(&format!("{which} remove"), &names.remove);
}
