//! The token request (RFC 6749 section 4.4.2), as it is written.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST, TE,
    TRANSFER_ENCODING, UPGRADE, USER_AGENT,
};
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Method, Request, Uri};
use http_body_util::Full;

use super::carrier::{self, Value};
use super::client_auth;
use super::inputs::Inputs;
use crate::config::client_auth::Proof;
use crate::config::{BasicEncoding, Carrier, CredentialKey, HttpUrl, IssuerConfig, ScopeIn};
use crate::net::dpop::DPOP;
use crate::secret::Secret;

const FORM: HeaderValue = HeaderValue::from_static("application/x-www-form-urlencoded");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const IDENTITY: HeaderValue = HeaderValue::from_static("identity");
const NOTHING: HeaderValue = HeaderValue::from_static("0");
const AGENT: HeaderValue = HeaderValue::from_static(concat!("bearerd/", env!("CARGO_PKG_VERSION")));

/// Headers that say where a message goes and where it ends: only the connection may write them.
const FRAMING: [HeaderName; 7] = [CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TE, TRANSFER_ENCODING, UPGRADE];

/// What was made for one attempt alone, and is never sent twice.
pub(super) struct Fresh {
    pub(super) client_assertion: Option<Arc<Secret>>,
    /// The grant's.
    pub(super) assertion: Option<Arc<Secret>>,
    pub(super) bearer: Option<Arc<Secret>>,
    pub(super) proof: Option<Secret>,
}

/// The method that the parameters travel by.
pub(super) fn method(config: &IssuerConfig) -> Method {
    match config.carrier {
        Carrier::Form | Carrier::Json | Carrier::Query => Method::POST,
        Carrier::Get => Method::GET,
    }
}

/// The request to `url`, its target absolute, with `Host`. `Err` says what of the config may not be sent.
pub(super) fn build(
    inputs: &Inputs,
    fresh: Fresh,
    config: &IssuerConfig,
    key: &CredentialKey,
    url: &HttpUrl,
) -> Result<Request<Full<Bytes>>, String> {
    let pairs = pairs(inputs, &fresh, config, key);
    let not_text = |_| "a value that is not UTF-8 cannot stand in a JSON text; check params".to_owned();
    let (uri, body, kind) = match config.carrier {
        Carrier::Form => (target(url)?, carrier::form("", &pairs).map_err(not_text)?, Some(FORM)),
        Carrier::Json => (target(url)?, carrier::json(&pairs).map_err(not_text)?, Some(JSON)),
        Carrier::Query | Carrier::Get if pairs.is_empty() => (target(url)?, Secret::new(Vec::new()), None),
        Carrier::Query | Carrier::Get => {
            (target_with(url, &pairs).map_err(not_text)??, Secret::new(Vec::new()), None)
        }
    };
    let method = method(config);
    // RFC 9110 section 8.6: some servers refuse a POST that does not say so (411).
    let empty = (method == Method::POST && body.is_empty()).then_some((CONTENT_LENGTH, NOTHING));
    let mut request = Request::new(Full::new(body.into_bytes()));
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    let headers = request.headers_mut();
    headers.insert(HOST, host(url)?);
    headers.extend(empty);
    headers.insert(ACCEPT, JSON);
    // A compressed answer could be far larger than its limit.
    headers.insert(ACCEPT_ENCODING, IDENTITY);
    headers.insert(USER_AGENT, AGENT);
    headers.extend(kind.map(|kind| (CONTENT_TYPE, kind)));
    if config.carrier == Carrier::Query {
        // RFC 9110 section 8.6: a POST says that it has no content, and some servers insist on it.
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    headers
        .extend(authorization(inputs, fresh.bearer.as_deref(), config)?.map(|value| (AUTHORIZATION, value)));
    for (name, value) in &inputs.headers {
        if FRAMING.contains(name) {
            return Err(format!("`headers` may not set {name}"));
        }
        let value = client_auth::sensitive(Secret::clone(value))
            .ok_or_else(|| format!("the value of `headers` {name} holds a character that no header may"))?;
        headers.insert(name.clone(), value);
    }
    headers.extend(fresh.proof.and_then(client_auth::sensitive).map(|proof| (DPOP.clone(), proof)));
    Ok(request)
}

/// `basic` goes before `client_secret_basic`, and that before a JWT.
fn authorization(
    inputs: &Inputs,
    bearer: Option<&Secret>,
    config: &IssuerConfig,
) -> Result<Option<HeaderValue>, String> {
    let empty = Secret::new(Vec::new());
    let basic = |user: &Secret, password: &Secret, encoding: BasicEncoding| {
        client_auth::basic(user, password, encoding)
            .map(Some)
            .ok_or_else(|| "the client's id and secret are too long".to_owned())
    };
    match (&config.basic, &inputs.basic, config.client_auth.proof()) {
        (Some(of), Some((user, password)), _) => basic(user, password, of.encoding),
        (_, _, Proof::Basic) => {
            let id = inputs.client_id.as_deref().unwrap_or(&empty);
            basic(id, inputs.client_secret.as_deref().unwrap_or(&empty), config.client_auth.encoding)
        }
        _ => bearer.map(client_auth::bearer).transpose(),
    }
}

/// A request for a discovery document: no credential goes with it.
pub(super) fn build_get(url: &HttpUrl) -> Result<Request<Full<Bytes>>, String> {
    let mut request = Request::new(Full::default());
    *request.uri_mut() = target(url)?;
    let headers = request.headers_mut();
    headers.insert(HOST, host(url)?);
    headers.insert(ACCEPT, JSON);
    headers.insert(ACCEPT_ENCODING, IDENTITY);
    headers.insert(USER_AGENT, AGENT);
    Ok(request)
}

fn target(url: &HttpUrl) -> Result<Uri, String> {
    uri(url, url.path_and_query.as_str())
}

fn uri<P>(url: &HttpUrl, path_and_query: P) -> Result<Uri, String>
where
    P: TryInto<PathAndQuery>,
    P::Error: Into<http::Error>,
{
    Uri::builder()
        .scheme(if url.https { "https" } else { "http" })
        .authority(url.authority.as_str())
        .path_and_query(path_and_query)
        .build()
        .map_err(|_| format!("{} is no URL to call", super::context::shown(url)))
}

fn host(url: &HttpUrl) -> Result<HeaderValue, String> {
    HeaderValue::from_str(&url.authority).map_err(|_| format!("{} is no host", url.authority))
}

/// The request's own path and query, then the parameters.
fn target_with(url: &HttpUrl, pairs: &[(String, Value)]) -> Result<Result<Uri, String>, carrier::NotText> {
    let path = url.path_and_query.as_str();
    let before = if path.contains('?') { path.to_owned() } else { format!("{path}?") };
    let text = carrier::form(&before, pairs)?;
    // The query may hold a secret: its memory is wiped with the request.
    Ok(PathAndQuery::from_maybe_shared(text.into_bytes())
        .map_err(|_| format!("the parameters are too long for the query of {}", super::context::shown(url)))
        .and_then(|path| uri(url, path)))
}

/// `grant_type`, `scope`, `client_id`, `client_secret`, the assertions, then `params` by name: always in this order.
/// One of `params` stands instead of ours of the same name, since a parameter may be there once (RFC 6749 section
/// 3.2).
fn pairs(inputs: &Inputs, fresh: &Fresh, config: &IssuerConfig, key: &CredentialKey) -> Vec<(String, Value)> {
    let scope_in = config.jwt.as_ref().map_or(ScopeIn::Parameter, |jwt| jwt.scope);
    let scope = joined(key);
    let text = |secret: &Arc<Secret>| Value::Text(Arc::clone(secret));
    let client_assertion = fresh.client_assertion.as_ref();
    let ours = [
        ("grant_type", config.grant_type.as_deref().map(Value::text)),
        (
            "scope",
            Some(scope.as_str())
                .filter(|scope| !scope.is_empty() && scope_in == ScopeIn::Parameter)
                .map(Value::text),
        ),
        (
            "client_id",
            inputs
                .client_id
                .as_ref()
                .filter(|_| config.send_client_id || config.client_auth.method.sends_client_id(config))
                .map(text),
        ),
        (
            "client_secret",
            inputs
                .client_secret
                .as_ref()
                .filter(|_| config.client_auth.proof() == Proof::Parameter)
                .map(text),
        ),
        ("client_assertion_type", client_assertion.map(|_| Value::text(&config.assertion_type))),
        ("client_assertion", client_assertion.map(text)),
        ("assertion", fresh.assertion.as_ref().map(text)),
    ];
    // Some servers want `scope` without a value where none is asked for: that one gives way to scopes.
    let gives_way = |name: &str, value: &Value| {
        name == "scope" && !scope.is_empty() && matches!(value, Value::Text(text) if text.expose().is_empty())
    };
    let params: Vec<_> =
        inputs.params.iter().filter(|(name, value)| !gives_way(name, value)).cloned().collect();
    let ours = ours.into_iter().filter(|(name, _)| !params.iter().any(|(other, _)| other == name));
    let ours: Vec<_> = ours.filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
    ours.into_iter().chain(params).collect()
}

/// The scopes as one text (RFC 6749 section 3.3).
pub(super) fn joined(key: &CredentialKey) -> String {
    key.scopes.joined()
}

#[cfg(test)]
mod tests;
