//! The token request (RFC 6749 section 4.4.2): what is read for it, and how it is written.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST, TE,
    TRANSFER_ENCODING, UPGRADE, USER_AGENT,
};
use http::{HeaderName, HeaderValue, Method, Request, Uri};
use http_body_util::Full;
use zeroize::Zeroizing;

use super::client_auth;
use super::form;
use super::redact::Redactor;
use crate::config::{ClientAuth, CredentialKey, HttpUrl, IssuerConfig, ParamValue, ReferenceError, Source};
use crate::secret::Secret;

const FORM: HeaderValue = HeaderValue::from_static("application/x-www-form-urlencoded");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const IDENTITY: HeaderValue = HeaderValue::from_static("identity");
const AGENT: HeaderValue = HeaderValue::from_static(concat!("bearerd/", env!("CARGO_PKG_VERSION")));

/// Headers that say where a message goes and where it ends: only the connection may write them.
const FRAMING: [HeaderName; 7] = [CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TE, TRANSFER_ENCODING, UPGRADE];

/// Parts of names whose literal values are masked too, as references are.
const SECRET_NAMES: [&str; 7] = ["secret", "password", "passwd", "token", "key", "auth", "assertion"];

/// What one token request says, read from its sources now.
pub(super) struct Inputs {
    client_id: Option<Arc<Secret>>,
    client_secret: Option<Arc<Secret>>,
    /// Sorted by name; arrays are flat.
    params: Vec<(String, Arc<Secret>)>,
    headers: Vec<(HeaderName, Arc<Secret>)>,
    /// Knows every secret among them.
    pub(super) redactor: Redactor,
}

impl Inputs {
    /// Reads every source. One that cannot be read gives its last good value, with a warning; one that never
    /// could is the error.
    pub(super) fn read(config: &IssuerConfig, key: &CredentialKey) -> Result<Self, ReferenceError> {
        let read = |source: &Source| read(&config.name, source);
        let mut redactor = Redactor::default();
        let client_id = config.client_id.as_ref().map(read).transpose()?;
        let client_secret = config.client_auth.secret().map(read).transpose()?;
        if let Some(secret) = &client_secret {
            redactor.add_client(client_id.as_deref(), secret);
        }
        let mut params = Vec::new();
        for (name, value) in &key.params {
            flatten(name, value, &read, &mut redactor, &mut params)?;
        }
        let mut headers = Vec::with_capacity(config.headers.len());
        for (name, source) in &config.headers {
            let value = read(source)?;
            if may_be_secret(name.as_str(), source) {
                redactor.add_value(&value);
                // `Bearer x`: the server may quote `x` alone.
                if let Some(last) = value.expose().rsplit(|&byte| byte == b' ').next() {
                    redactor.add_value(&Secret::new(last));
                }
            }
            headers.push((name.clone(), value));
        }
        Ok(Self { client_id, client_secret, params, headers, redactor })
    }
}

fn read(issuer: &str, source: &Source) -> Result<Arc<Secret>, ReferenceError> {
    let (value, failed) = source.read_or_last_good()?;
    if let Some(ReferenceError { place, reason }) = failed {
        tracing::warn!(issuer, place, reason, "cannot read a value anew, the one read last serves on");
    }
    Ok(value)
}

fn may_be_secret(name: &str, source: &Source) -> bool {
    let name = name.to_ascii_lowercase();
    !source.is_literal() || SECRET_NAMES.iter().any(|part| name.contains(part))
}

fn flatten(
    name: &str,
    value: &ParamValue,
    read: &impl Fn(&Source) -> Result<Arc<Secret>, ReferenceError>,
    redactor: &mut Redactor,
    out: &mut Vec<(String, Arc<Secret>)>,
) -> Result<(), ReferenceError> {
    let text = match value {
        ParamValue::Integer(number) => number.to_string(),
        ParamValue::Float(text) => text.clone(),
        ParamValue::Boolean(value) => value.to_string(),
        ParamValue::Value(source) => {
            let value = read(source)?;
            if may_be_secret(name, source) {
                redactor.add_value(&value);
            }
            out.push((name.to_owned(), value));
            return Ok(());
        }
        ParamValue::Table(_) => return Ok(()),
        ParamValue::Array(items) => {
            return items.iter().try_for_each(|item| flatten(name, item, read, redactor, out));
        }
    };
    out.push((name.to_owned(), Arc::new(Secret::from(text))));
    Ok(())
}

/// The request to `url`, its target absolute, with `Host`. `Err` says what of the config may not be sent.
pub(super) fn build(
    inputs: &Inputs,
    config: &IssuerConfig,
    key: &CredentialKey,
    url: &HttpUrl,
) -> Result<Request<Full<Bytes>>, String> {
    let mut request = Request::new(Full::new(body(inputs, config, key).into_bytes()));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = target(url)?;
    let headers = request.headers_mut();
    headers.insert(HOST, host(url)?);
    headers.insert(ACCEPT, JSON);
    // A compressed answer could be far larger than its limit.
    headers.insert(ACCEPT_ENCODING, IDENTITY);
    headers.insert(USER_AGENT, AGENT);
    headers.insert(CONTENT_TYPE, FORM);
    if let ClientAuth::Basic { encoding, .. } = config.client_auth {
        let empty = Secret::new(Vec::new());
        let id = inputs.client_id.as_deref().unwrap_or(&empty);
        let secret = inputs.client_secret.as_deref().unwrap_or(&empty);
        let value =
            client_auth::basic(id, secret, encoding).ok_or("the client's id and secret are too long")?;
        headers.insert(AUTHORIZATION, value);
    }
    for (name, value) in &inputs.headers {
        if FRAMING.contains(name) {
            return Err(format!("`headers` may not set {name}"));
        }
        let value = client_auth::sensitive(Secret::clone(value))
            .ok_or_else(|| format!("the value of `headers` {name} holds a character that no header may"))?;
        headers.insert(name.clone(), value);
    }
    Ok(request)
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
    Uri::builder()
        .scheme(if url.https { "https" } else { "http" })
        .authority(url.authority.as_str())
        .path_and_query(url.path_and_query.as_str())
        .build()
        .map_err(|_| format!("{}{} is no URL to call", url.authority, super::context::path_of(url)))
}

fn host(url: &HttpUrl) -> Result<HeaderValue, String> {
    HeaderValue::from_str(&url.authority).map_err(|_| format!("{} is no host", url.authority))
}

/// `grant_type`, `scope`, `client_id`, `client_secret`, then `params` by name: always in this order. One of
/// `params` stands instead of ours of the same name, since a parameter may be there once (RFC 6749 section 3.2).
fn body(inputs: &Inputs, config: &IssuerConfig, key: &CredentialKey) -> Secret {
    let scope = key.scopes.iter().map(String::as_str).collect::<Vec<_>>().join(" ");
    let in_body = |auth: &ClientAuth| !matches!(auth, ClientAuth::Basic { .. });
    let send_id = config.send_client_id || in_body(&config.client_auth);
    let id = inputs.client_id.as_deref().filter(|_| send_id);
    let secret = inputs.client_secret.as_deref().filter(|_| in_body(&config.client_auth));

    let mut pairs: Vec<(&str, &[u8])> = vec![("grant_type", b"client_credentials")];
    if !scope.is_empty() {
        pairs.push(("scope", scope.as_bytes()));
    }
    pairs.extend(id.map(|id| ("client_id", id.expose())));
    pairs.extend(secret.map(|secret| ("client_secret", secret.expose())));
    pairs.retain(|(name, _)| !key.params.contains_key(*name));
    pairs.extend(inputs.params.iter().map(|(name, value)| (name.as_str(), value.expose())));

    let size = pairs.iter().map(|(name, value)| (name.len() + value.len()) * form::GROWTH + 2).sum();
    // Large enough from the start: a buffer that grows leaves an unwiped copy behind.
    let mut body = Zeroizing::new(Vec::with_capacity(size));
    for (name, value) in pairs {
        if !body.is_empty() {
            body.push(b'&');
        }
        form::encode(name.as_bytes(), &mut body);
        body.push(b'=');
        form::encode(value, &mut body);
    }
    Secret::new(std::mem::take(&mut *body))
}

#[cfg(test)]
mod tests;
