//! The token request (RFC 6749 section 4.4.2): its parameters, its body, and its header section.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST, TE,
    TRANSFER_ENCODING, UPGRADE, USER_AGENT,
};
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Method, Request, Uri};
use http_body_util::Full;
use zeroize::Zeroizing;

use super::error::host_and_path;
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

/// Header fields about the connection and the message's length, which only the connection may set.
const FRAMING: [HeaderName; 7] = [CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TE, TRANSFER_ENCODING, UPGRADE];

/// What was signed for one attempt, and is never sent twice.
pub(super) struct SignedParts {
    pub(super) client_assertion: Option<Arc<Secret>>,
    /// The assertion of the grant.
    pub(super) assertion: Option<Arc<Secret>>,
    pub(super) bearer: Option<Arc<Secret>>,
    pub(super) proof: Option<Secret>,
}

/// The HTTP method for the parameters.
pub(super) fn method(config: &IssuerConfig) -> Method {
    match config.carrier {
        Carrier::Form | Carrier::Json | Carrier::Query => Method::POST,
        Carrier::Get => Method::GET,
    }
}

/// Builds the request to `url` with an absolute target and `Host`. `Err` says what in the config cannot be sent.
pub(super) fn build(
    inputs: &Inputs,
    fresh: SignedParts,
    config: &IssuerConfig,
    key: &CredentialKey,
    url: &HttpUrl,
) -> Result<Request<Full<Bytes>>, String> {
    let pairs = pairs(inputs, &fresh, config, key);
    let not_text = |_| "JSON cannot contain a value that is not UTF-8; check params".to_owned();
    let (uri, body, kind) = match config.carrier {
        Carrier::Form => (target(url)?, form_body("", &pairs).map_err(not_text)?, Some(FORM)),
        Carrier::Json => (target(url)?, json_body(&pairs).map_err(not_text)?, Some(JSON)),
        Carrier::Query | Carrier::Get if pairs.is_empty() => (target(url)?, Secret::new(Vec::new()), None),
        Carrier::Query | Carrier::Get => {
            (target_with(url, &pairs).map_err(not_text)??, Secret::new(Vec::new()), None)
        }
    };
    let method = method(config);
    // RFC 9110 section 8.6: some servers refuse a POST without `Content-Length` (411).
    let empty = (method == Method::POST && body.is_empty()).then_some((CONTENT_LENGTH, NOTHING));
    let mut request = Request::new(Full::new(body.into_bytes()));
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    let headers = request.headers_mut();
    headers.insert(HOST, host(url)?);
    headers.extend(empty);
    headers.insert(ACCEPT, JSON);
    // A compressed response could be far larger than its limit.
    headers.insert(ACCEPT_ENCODING, IDENTITY);
    headers.insert(USER_AGENT, AGENT);
    headers.extend(kind.map(|kind| (CONTENT_TYPE, kind)));
    if config.carrier == Carrier::Query {
        // RFC 9110 section 8.6: some servers refuse a POST without `Content-Length`.
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    headers
        .extend(authorization(inputs, fresh.bearer.as_deref(), config)?.map(|value| (AUTHORIZATION, value)));
    for (name, value) in &inputs.headers {
        if FRAMING.contains(name) {
            return Err(format!("`headers` may not set {name}"));
        }
        let value = sensitive(Secret::clone(value)).ok_or_else(|| {
            let source = config.headers.iter().find(|(of, _)| of == name).map(|(_, source)| source.place());
            format!(
                "headers.{name}: {} contains a character that a header field must not contain",
                source.unwrap_or_default()
            )
        })?;
        headers.insert(name.clone(), value);
    }
    headers.extend(fresh.proof.and_then(sensitive).map(|proof| (DPOP.clone(), proof)));
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
        basic_value(user, password, encoding)
            .map(Some)
            .ok_or_else(|| "the client's id and secret are too long".to_owned())
    };
    match (&config.basic, &inputs.basic, config.client_auth.proof()) {
        (Some(of), Some((user, password)), _) => basic(user, password, of.encoding),
        (_, _, Proof::Basic) => {
            let id = inputs.client_id.as_deref().unwrap_or(&empty);
            basic(id, inputs.client_secret.as_deref().unwrap_or(&empty), config.client_auth.encoding)
        }
        _ => match (&inputs.challenge_key, bearer) {
            (Some(key), _) => with_scheme(b"Basic ", key).map(Some),
            (None, bearer) => bearer.map(|jwt| with_scheme(b"Bearer ", jwt)).transpose(),
        },
    }
}

/// A request for a discovery document, without any credential.
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
        .map_err(|_| format!("{} is not a valid URL", host_and_path(url)))
}

fn host(url: &HttpUrl) -> Result<HeaderValue, String> {
    HeaderValue::from_str(&url.authority).map_err(|_| format!("{} is not a host", url.authority))
}

/// The URL's own path and query, then the parameters.
fn target_with(url: &HttpUrl, pairs: &[(String, Value)]) -> Result<Result<Uri, String>, NotText> {
    let path = url.path_and_query.as_str();
    let before = if path.contains('?') { path.to_owned() } else { format!("{path}?") };
    let text = form_body(&before, pairs)?;
    // The query may contain a secret, so its memory is wiped with the request.
    Ok(PathAndQuery::from_maybe_shared(text.into_bytes())
        .map_err(|_| format!("the parameters are too long for the query of {}", host_and_path(url)))
        .and_then(|path| uri(url, path)))
}

/// `grant_type`, `scope`, `client_id`, `client_secret`, the assertions, then `params` by name, always in this order.
/// One of `params` replaces ours of the same name, because a parameter must not be repeated (RFC 6749 section 3.2).
fn pairs(
    inputs: &Inputs,
    fresh: &SignedParts,
    config: &IssuerConfig,
    key: &CredentialKey,
) -> Vec<(String, Value)> {
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
    // Some servers require an empty `scope` if no scope is requested. Scopes replace it.
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

/// The most bytes of JSON for one byte of text (`\u0000`).
const JSON_GROWTH: usize = 6;

/// A parameter's value, read from its sources.
#[derive(Clone)]
pub(super) enum Value {
    /// A string in JSON.
    Text(Arc<Secret>),
    /// A number or boolean, as written in the config.
    Bare(String),
    Array(Vec<Self>),
    Table(Vec<(String, Self)>),
}

impl Value {
    pub(super) fn text(text: &str) -> Self {
        Self::Text(Arc::new(Secret::from(text)))
    }

    /// The value as a claim. `Err`: a text in it is not UTF-8.
    pub(super) fn to_json(&self) -> Result<serde_json::Value, NotText> {
        Ok(match self {
            Self::Text(text) => text.expose_str().ok_or(NotText)?.into(),
            Self::Bare(text) => bare_json(text).parse().unwrap_or_else(|_| text.as_str().into()),
            Self::Array(items) => items.iter().map(Self::to_json).collect::<Result<Vec<_>, _>>()?.into(),
            Self::Table(members) => {
                let members = members.iter().map(|(name, value)| Ok((name.clone(), value.to_json()?)));
                serde_json::Value::Object(members.collect::<Result<_, _>>()?)
            }
        })
    }

    /// The most bytes of this value in JSON.
    fn json_size(&self) -> usize {
        match self {
            Self::Text(text) => text.expose().len() * JSON_GROWTH + 2,
            Self::Bare(text) => text.len() + 2,
            Self::Array(items) => items.iter().map(|item| item.json_size() + 1).sum::<usize>() + 2,
            Self::Table(members) => object_size(members),
        }
    }

    fn write_json(&self, out: &mut Vec<u8>) -> Result<(), NotText> {
        match self {
            Self::Text(text) => write_string(text.expose_str().ok_or(NotText)?, out),
            Self::Bare(text) => {
                let number = bare_json(text);
                match serde_json::from_str::<serde_json::Value>(&number) {
                    Ok(_) => out.extend_from_slice(number.as_bytes()),
                    Err(_) => write_string(text, out),
                }
            }
            Self::Array(items) => {
                out.push(b'[');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    item.write_json(out)?;
                }
                out.push(b']');
            }
            Self::Table(members) => write_object(members, out)?,
        }
        Ok(())
    }
}

/// The value is not UTF-8, so JSON cannot contain it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotText;

/// TOML allows `+1.5` and `1_000.5`, JSON does not.
fn bare_json(text: &str) -> String {
    text.trim_start_matches('+').replace('_', "")
}

fn object_size(members: &[(String, Value)]) -> usize {
    members.iter().map(|(name, value)| name.len() * JSON_GROWTH + value.json_size() + 4).sum::<usize>() + 2
}

fn write_object(members: &[(String, Value)], out: &mut Vec<u8>) -> Result<(), NotText> {
    out.push(b'{');
    for (index, (name, value)) in members.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_string(name, out);
        out.push(b':');
        value.write_json(out)?;
    }
    out.push(b'}');
    Ok(())
}

fn write_string(text: &str, out: &mut Vec<u8>) {
    // Writing to memory cannot fail.
    _ = serde_json::to_writer(out, text);
}

/// A JSON object with the members in their order.
fn json_body(pairs: &[(String, Value)]) -> Result<Secret, NotText> {
    // Large enough from the start, because a buffer that grows leaves an unwiped copy behind.
    let mut body = Zeroizing::new(Vec::with_capacity(object_size(pairs)));
    write_object(pairs, &mut body)?;
    Ok(Secret::new(std::mem::take(&mut *body)))
}

/// `before` and the parameters as `application/x-www-form-urlencoded`, joined by `&`. Arrays become repeated
/// parameters, tables JSON text.
fn form_body(before: &str, pairs: &[(String, Value)]) -> Result<Secret, NotText> {
    let mut flat = Vec::with_capacity(pairs.len());
    for (name, value) in pairs {
        flatten(name, value, &mut flat)?;
    }
    let size: usize =
        flat.iter().map(|(name, value)| (name.len() + value.bytes().len()) * FORM_GROWTH + 2).sum();
    let mut body = Zeroizing::new(Vec::with_capacity(before.len() + size));
    body.extend_from_slice(before.as_bytes());
    for (name, value) in &flat {
        if !body.is_empty() && !body.ends_with(b"?") && !body.ends_with(b"&") {
            body.push(b'&');
        }
        form_encode(name.as_bytes(), &mut body);
        body.push(b'=');
        form_encode(value.bytes(), &mut body);
    }
    Ok(Secret::new(std::mem::take(&mut *body)))
}

enum FlatValue<'a> {
    Borrowed(&'a [u8]),
    Made(Secret),
}

impl FlatValue<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            Self::Made(secret) => secret.expose(),
        }
    }
}

fn flatten<'a>(
    name: &'a str,
    value: &'a Value,
    out: &mut Vec<(&'a str, FlatValue<'a>)>,
) -> Result<(), NotText> {
    match value {
        Value::Text(text) => out.push((name, FlatValue::Borrowed(text.expose()))),
        Value::Bare(text) => out.push((name, FlatValue::Borrowed(text.as_bytes()))),
        Value::Array(items) => items.iter().try_for_each(|item| flatten(name, item, out))?,
        Value::Table(members) => out.push((name, FlatValue::Made(json_body(members)?))),
    }
    Ok(())
}

const SCHEME: &str = "Basic ";

/// The `Authorization` value of HTTP Basic (RFC 7617, RFC 6749 section 2.3.1). Marked sensitive; its memory is wiped
/// when it is dropped.
fn basic_value(id: &Secret, secret: &Secret, encoding: BasicEncoding) -> Option<HeaderValue> {
    let (id, secret) = (id.expose(), secret.expose());
    // Large enough from the start, because a buffer that grows leaves an unwiped copy behind.
    let mut pair = Zeroizing::new(Vec::with_capacity((id.len() + secret.len()) * FORM_GROWTH + 1));
    match encoding {
        BasicEncoding::Form => {
            form_encode(id, &mut pair);
            pair.push(b':');
            form_encode(secret, &mut pair);
        }
        BasicEncoding::Raw => {
            pair.extend_from_slice(id);
            pair.push(b':');
            pair.extend_from_slice(secret);
        }
    }
    let length = base64::encoded_len(pair.len(), true)?;
    let mut value = String::with_capacity(SCHEME.len() + length);
    value.push_str(SCHEME);
    STANDARD.encode_string(pair.as_slice(), &mut value);
    sensitive(Secret::from(value))
}

/// The `Authorization` value with a JWT that bearerd signed (RFC 6750 section 2.1), or with a key file's content.
fn with_scheme(scheme: &[u8], secret: &Secret) -> Result<HeaderValue, String> {
    let mut value = Vec::with_capacity(scheme.len() + secret.expose().len());
    value.extend_from_slice(scheme);
    value.extend_from_slice(secret.expose());
    sensitive(Secret::new(value)).ok_or_else(|| "a header field cannot contain the JWT or the key".to_owned())
}

/// A header value that owns its secret and stays out of HPACK's tables and of `Debug`. `None`: it contains characters
/// that a header field must not contain.
fn sensitive(secret: Secret) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_maybe_shared(secret.into_bytes()).ok()?;
    value.set_sensitive(true);
    Some(value)
}

const HEX: &[u8; 16] = b"0123456789ABCDEF";

/// The most bytes that `form_encode` writes for one byte. Buffers of secrets get their full size at once, because a
/// buffer that grows leaves an unwiped copy behind.
const FORM_GROWTH: usize = 3;

/// Appends `bytes` in the encoding of forms (RFC 6749 appendix B): letters, digits and `*-._` unchanged, a space as
/// `+`, everything else as `%XX`.
pub(super) fn form_encode(bytes: &[u8], out: &mut Vec<u8>) {
    for &byte in bytes {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'*' | b'-' | b'.' | b'_' => out.push(byte),
            b' ' => out.push(b'+'),
            _ => out.extend([b'%', hex(byte >> 4), hex(byte & 15)]),
        }
    }
}

fn hex(nibble: u8) -> u8 {
    *HEX.get(usize::from(nibble)).expect("four bits")
}

/// `form_encode` as text.
#[cfg(test)]
pub(super) fn form_encoded(text: &[u8]) -> String {
    let mut out = Vec::with_capacity(text.len() * FORM_GROWTH);
    form_encode(text, &mut out);
    String::from_utf8(out).unwrap()
}

#[cfg(test)]
mod tests;
