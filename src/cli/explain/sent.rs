//! What goes to the upstream, by name and without any value of a parameter or header field, and an explanation as text for people.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use serde::Serialize;

use crate::cli::explain::{ExplainedRequest, Explanation, ListenerResult};
use crate::config::{
    Credential, CredentialKey, HeaderEdits, Inject, IssuerConfig, ParamValue, RouteConfig, TokenEndpoint,
    UpstreamTarget, Words,
};
use crate::issuer::chained_by_either;
use crate::route::path::upstream_target;
use crate::secret::MASK;

/// The upstream's side of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Sent {
    /// Without the query.
    pub url: String,
    /// The request has a query, which goes upstream byte for byte.
    pub query: bool,
    pub host: String,
    /// `auto`, `http1` or `http2`.
    pub protocol: &'static str,
    /// `None`: anonymous.
    pub credential: Option<CredentialFacts>,
    /// `replace`, `keep` or `reject`.
    pub caller_authorization: &'static str,
    pub request_headers: HeaderNames,
    pub response_headers: HeaderNames,
    pub timeouts: Timeouts,
    /// Other settings of the route, by their keys, as they are written in the file.
    pub settings: BTreeMap<&'static str, String>,
}

/// Whose token, and what the token request asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CredentialFacts {
    pub issuer: String,
    /// The preset that fills in the issuer's table.
    pub preset: Option<String>,
    /// The token endpoint, or the URL where discovery starts; without a query.
    pub token_endpoint: String,
    /// `token_endpoint` is the issuer's URL, from which discovery finds the endpoint.
    pub discovery: bool,
    pub scopes: Vec<String>,
    pub parameters: Vec<Parameter>,
    /// The route's own, which replaces the issuer's `jwt.subject`.
    pub subject: Option<String>,
    /// Values of the token request that are tokens of other issuers, and of the requests for those tokens.
    pub chain: Vec<Link>,
    /// The header field, with `{token}` in place of the token; or `query parameter NAME`.
    pub inject: String,
    /// The query parameter that carries the token, if one does.
    pub inject_query: Option<String>,
    /// Tokens are bound to a key: each request carries a proof in `DPoP` (RFC 9449).
    pub dpop: bool,
}

/// A value of a token request that is a token of another issuer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Link {
    /// The issuer that gets the value, and the config key of the value.
    pub outer: String,
    pub key: String,
    pub issuer: String,
    /// As of the route's own token.
    pub token_endpoint: String,
    pub scopes: Vec<String>,
}

fn links(issuer: &IssuerConfig, key: &CredentialKey) -> Vec<Link> {
    let mut links = Vec::new();
    for (name, chained) in chained_by_either(issuer, key) {
        let (inner, inner_key) = chained.token();
        links.push(Link {
            outer: issuer.name.to_string(),
            key: name,
            issuer: inner.name.to_string(),
            token_endpoint: endpoint(inner).0,
            scopes: inner_key.scopes.to_vec(),
        });
        links.extend(self::links(inner, inner_key));
    }
    links
}

/// The URL without its query, and whether it is where discovery starts.
fn endpoint(issuer: &IssuerConfig) -> (String, bool) {
    let (url, discovery) = match &issuer.endpoint {
        TokenEndpoint::Discovery(url) => (url, true),
        TokenEndpoint::Url(url) => (url, false),
    };
    (url.text.split('?').next().unwrap_or_default().to_owned(), discovery)
}

/// A further request parameter. Its value is never shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Parameter {
    pub name: String,
    /// It comes from a file, the environment, or a webhook.
    pub reference: bool,
}

/// `request_headers`, `response_headers`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HeaderNames {
    pub set: Vec<String>,
    pub remove: Vec<String>,
}

/// As in the config file; `off` if there is none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Timeouts {
    pub connect: String,
    pub response: String,
    pub idle: String,
    pub connection_max_age: String,
}

impl Sent {
    pub(super) fn new(
        route: &RouteConfig,
        request: &ExplainedRequest,
        prefix_segments: Option<usize>,
    ) -> Self {
        let target = upstream_target(&route.upstream.path, &request.path, None, prefix_segments);
        let url = match &route.upstream.target {
            UpstreamTarget::Tcp { https: true, .. } => {
                format!("https://{}{target}", route.upstream.authority)
            }
            UpstreamTarget::Tcp { https: false, .. } => {
                format!("http://{}{target}", route.upstream.authority)
            }
            UpstreamTarget::Unix(socket) => format!("{target} at unix:{}", socket.display()),
        };
        Self {
            url,
            query: request.query.is_some(),
            host: route.upstream.authority.clone(),
            protocol: route.connection.protocol.word(),
            credential: match &route.credential {
                Credential::Anonymous => None,
                Credential::Issuer { issuer, key } => Some(CredentialFacts::new(route, issuer, key)),
            },
            caller_authorization: route.caller_authorization.word(),
            request_headers: HeaderNames::new(&route.request_headers),
            response_headers: HeaderNames::new(&route.response_headers),
            timeouts: Timeouts {
                connect: duration(route.connection.connect_timeout),
                response: duration(route.response_timeout),
                idle: duration(route.idle_timeout),
                connection_max_age: duration(route.connection_max_age),
            },
            settings: route.settings(),
        }
    }
}

impl CredentialFacts {
    fn new(route: &RouteConfig, issuer: &IssuerConfig, key: &CredentialKey) -> Self {
        let (token_endpoint, discovery) = endpoint(issuer);
        Self {
            issuer: issuer.name.to_string(),
            preset: issuer.preset.as_ref().map(ToString::to_string),
            token_endpoint,
            discovery,
            chain: links(issuer, key),
            scopes: key.scopes.iter().cloned().collect(),
            parameters: key
                .params
                .iter()
                .map(|(name, value)| Parameter { name: name.clone(), reference: is_reference(value) })
                .collect(),
            subject: key.subject.clone(),
            inject: match &route.inject {
                Inject::Header { name, by_type: true, .. } if issuer.dpop.is_some() => {
                    format!("{name}: DPoP {{token}}")
                }
                Inject::Header { name, before, after, .. } => format!("{name}: {before}{{token}}{after}"),
                Inject::Query { name } => format!("query parameter {name}"),
            },
            inject_query: match &route.inject {
                Inject::Header { .. } => None,
                Inject::Query { name } => Some(name.clone()),
            },
            dpop: issuer.dpop.is_some(),
        }
    }
}

fn is_reference(value: &ParamValue) -> bool {
    match value {
        ParamValue::Value(source) => !source.is_literal(),
        ParamValue::Array(values) => values.iter().any(is_reference),
        ParamValue::Table(members) => members.values().any(is_reference),
        ParamValue::Integer(_) | ParamValue::Float(_) | ParamValue::Boolean(_) => false,
    }
}

impl HeaderNames {
    fn new(edits: &HeaderEdits) -> Self {
        Self {
            set: edits.set.iter().map(|(name, _)| name.to_string()).collect(),
            remove: edits.remove.iter().map(ToString::to_string).collect(),
        }
    }
}

fn duration(duration: Option<Duration>) -> String {
    duration.map_or_else(|| "off".to_owned(), |duration| humantime::format_duration(duration).to_string())
}

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
    for answer in &explanation.results {
        if !page.0.is_empty() {
            page.0.push('\n');
        }
        // A path that no request line may contain may contain control characters.
        let path = explanation.path.escape_debug();
        let _ = match (&answer.route, answer.status, answer.code) {
            (Some(route), Some(status), _) => {
                writeln!(
                    page.0,
                    "{} {path}: bearerd responds for route `{route}`, {status}",
                    explanation.method
                )
            }
            (Some(route), None, _) => {
                writeln!(page.0, "{} {path}: route `{route}` serves it", explanation.method)
            }
            (None, Some(status), Some(code)) => {
                writeln!(page.0, "{} {path}: no route serves it, {status} `{code}`", explanation.method)
            }
            (None, Some(status), None) => {
                writeln!(page.0, "{} {path}: bearerd responds, {status}", explanation.method)
            }
            (None, None, _) => writeln!(page.0, "{} {path}: no route serves it", explanation.method),
        };
        render_result(&mut page, answer);
    }
    page.0
}

fn render_result(page: &mut Page, answer: &ListenerResult) {
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
    let settings: Vec<String> = sent.settings.iter().map(|(key, value)| format!("{key} {value}")).collect();
    page.list("settings", &settings);
}

fn render_credential(page: &mut Page, credential: &CredentialFacts) {
    let how = if credential.discovery { "found by discovery at" } else { "from" };
    let preset = credential.preset.as_ref().map(|preset| format!(" (preset `{preset}`)")).unwrap_or_default();
    let (issuer, endpoint) = (&credential.issuer, &credential.token_endpoint);
    page.line("token", format_args!("issuer `{issuer}`{preset}, {how} {endpoint}"));
    for link in &credential.chain {
        let Link { outer, key, issuer, token_endpoint, scopes } = link;
        let scopes = if scopes.is_empty() { String::new() } else { format!(", scopes {}", scopes.join(" ")) };
        page.line(
            "chain",
            format_args!("{key} of `{outer}` is a token of issuer `{issuer}`, from {token_endpoint}{scopes}"),
        );
    }
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
