//! The credential: the only place that removes the caller's own and writes bearerd's.
//!
//! The token goes into a header field, or into a query parameter. A token that is bound to a key also gets a proof of
//! possession (RFC 9449).

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use http::uri::{InvalidUri, PathAndQuery};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode, utf8_percent_encode};
use zeroize::Zeroizing;

use super::RouteService;
use super::error::{Code, ProxyError};
use super::headers::FieldSet;
use super::record::{RequestTrace, wait_for_token};
use crate::config::{CallerAuthorization, Credential, Inject, RouteConfig, UpstreamTarget};
use crate::inbound::CallerBody;
use crate::jose::{Proof, Prover};
use crate::net::dpop::{DPOP, NONCE, USE_NONCE, challenge_error, nonce};
use crate::secret::Secret;
use crate::token::Token;
use crate::upstream::Head;

/// Response fields in which an upstream writes URLs.
const URL_FIELDS: [HeaderName; 4] =
    [header::LOCATION, header::CONTENT_LOCATION, header::LINK, header::REFRESH];

/// Removes the caller's own credential and gets the route's token. `None`: bearerd adds no token.
///
/// # Errors
/// 400 `authorization_refused` if the route rejects the caller's own credential, or the error of the token fetch.
pub(super) async fn obtain_token(
    request: &mut Request<CallerBody>,
    service: &RouteService,
    trace: Option<&RequestTrace>,
    fields: FieldSet,
) -> Result<Option<Arc<Token>>, ProxyError> {
    let own = service.injection.caller_credential(request.headers(), request.uri(), fields);
    match (service.config.caller_authorization, own) {
        (CallerAuthorization::Keep, Some(_)) => return Ok(None),
        (CallerAuthorization::Reject, Some(what)) => {
            let detail = format!(
                "the caller sent {what}; this route adds its own and refuses the caller's \
                 (caller_authorization = \"reject\")"
            );
            return Err(ProxyError::new(Code::AuthorizationRefused, detail));
        }
        (CallerAuthorization::Replace, _) | (_, None) => {}
    }
    if own.is_some() {
        request.headers_mut().remove(header::AUTHORIZATION);
    }
    service.injection.clear(request.headers_mut());
    let Some(slot) = &service.slot else { return Ok(None) };
    match slot.current() {
        Some(token) => Ok(Some(token)),
        None => Ok(Some(Box::pin(wait_for_token(slot, 0, service, trace)).await?)),
    }
}

/// Sets the token in place of any other, and its proof if it is bound to a key.
///
/// # Errors
/// 400 if the target is too long to carry the token, 500 if the proof cannot be signed.
pub(super) async fn set_credential(
    service: &RouteService,
    head: &mut Head,
    token: &Token,
) -> Result<(), ProxyError> {
    service.injection.set_token(head, token)?;
    match &token.prover {
        None => Ok(()),
        Some(prover) => set_proof(service, prover, head, token).await,
    }
}

/// How the requests of a route carry their token.
#[derive(Debug)]
pub(super) struct Injection {
    place: TokenPlace,
    /// The origin that proofs are for: `https://api.example.com`. `None` if the issuer does not bind tokens to a key.
    proof_origin: Option<String>,
}

#[derive(Debug)]
enum TokenPlace {
    Header {
        name: HeaderName,
        format: HeaderFormat,
    },
    /// A parameter; `name` is escaped.
    Query {
        name: String,
    },
}

#[derive(Debug)]
enum HeaderFormat {
    /// `Bearer {token}` or `DPoP {token}`, which each token holds ready.
    ByType,
    /// Another format, written once for each token.
    Custom { before: String, after: String, cached: ArcSwapOption<CachedValue> },
}

struct CachedValue {
    generation: u64,
    value: HeaderValue,
}

impl std::fmt::Debug for CachedValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "generation {}", self.generation)
    }
}

impl Injection {
    pub(super) fn new(route: &RouteConfig) -> Self {
        let place = match &route.inject {
            Inject::Query { name } => TokenPlace::Query { name: escape_name(name) },
            Inject::Header { name, by_type: true, .. } => {
                TokenPlace::Header { name: name.clone(), format: HeaderFormat::ByType }
            }
            Inject::Header { name, before, after, by_type: false } => {
                let (before, after) = (before.clone(), after.clone());
                let format = HeaderFormat::Custom { before, after, cached: ArcSwapOption::empty() };
                TokenPlace::Header { name: name.clone(), format }
            }
        };
        let bound = matches!(&route.credential, Credential::Issuer { issuer, .. } if issuer.dpop.is_some());
        Self { place, proof_origin: bound.then(|| proof_origin(route)) }
    }

    fn set_token(&self, head: &mut Head, token: &Token) -> Result<(), ProxyError> {
        match &self.place {
            TokenPlace::Header { name, format } => {
                head.headers.insert(name.clone(), format.value(token));
            }
            TokenPlace::Query { name } => {
                head.target = with_token(&head.target, name, &token.secret).map_err(|_| {
                    ProxyError::new(Code::BadRequest, "the target cannot be written with the token in it")
                })?;
            }
        }
        Ok(())
    }

    /// The caller's own credential, in words: `Authorization`, or the parameter that carries the token.
    fn caller_credential(&self, headers: &HeaderMap, uri: &Uri, fields: FieldSet) -> Option<&'static str> {
        if fields.any(FieldSet::AUTHORIZATION) && headers.contains_key(header::AUTHORIZATION) {
            return Some("Authorization");
        }
        let TokenPlace::Query { name } = &self.place else { return None };
        let sent = uri.query().is_some_and(|query| has_parameter(query, name));
        sent.then_some("the query parameter that carries the token")
    }

    /// Removes the fields, other than `Authorization`, that could be taken for a part of bearerd's credential.
    fn clear(&self, headers: &mut HeaderMap) {
        for name in self.headers().filter(|name| *name != header::AUTHORIZATION) {
            headers.remove(name);
        }
    }

    /// Removes the token from the URLs in a response: an upstream may build them from the URL of the request.
    pub(super) fn scrub_response(&self, headers: &mut HeaderMap, token: &Token) {
        let TokenPlace::Query { name } = &self.place else { return };
        for header in URL_FIELDS {
            let header::Entry::Occupied(mut lines) = headers.entry(header) else { continue };
            for line in lines.iter_mut() {
                // Each byte becomes one character, and back, because a value need not be UTF-8.
                let text: String = line.as_bytes().iter().copied().map(char::from).collect();
                if let Some(clean) = scrub(&text, name, &token.secret) {
                    let byte = |char| u8::try_from(char).expect("each was made of a byte");
                    let bytes: Vec<u8> = clean.chars().map(byte).collect();
                    *line = HeaderValue::from_bytes(&bytes).expect("parts of a field's value");
                }
            }
        }
    }

    /// The fields that only bearerd may set on this route.
    pub(super) fn headers(&self) -> impl Iterator<Item = &HeaderName> {
        let token = match &self.place {
            TokenPlace::Header { name, .. } => Some(name),
            TokenPlace::Query { .. } => None,
        };
        token.into_iter().chain(self.proof_origin.as_ref().map(|_| &DPOP))
    }
}

impl HeaderFormat {
    fn value(&self, token: &Token) -> HeaderValue {
        let Self::Custom { before, after, cached } = self else { return token.authorization.clone() };
        if let Some(cached) = &*cached.load()
            && cached.generation == token.generation
        {
            return cached.value.clone();
        }
        let value = formatted(before, &token.secret, after);
        cached.store(Some(Arc::new(CachedValue { generation: token.generation, value: value.clone() })));
        value
    }
}

fn formatted(before: &str, token: &Secret, after: &str) -> HeaderValue {
    let mut text = Vec::with_capacity(before.len() + token.expose().len() + after.len());
    text.extend_from_slice(before.as_bytes());
    text.extend_from_slice(token.expose());
    text.extend_from_slice(after.as_bytes());
    let mut value = HeaderValue::from_maybe_shared(Secret::new(text).into_bytes())
        .expect("the text around was checked at load, and a token is 0x21-0x7E");
    value.set_sensitive(true);
    value
}

// Proofs of possession (RFC 9449)

fn proof_origin(route: &RouteConfig) -> String {
    let https = matches!(route.upstream.target, UpstreamTarget::Tcp { https: true, .. });
    format!("{}://{}", if https { "https" } else { "http" }, route.upstream.authority)
}

/// Sets a new proof for this one request (section 7.1).
async fn set_proof(
    service: &RouteService,
    prover: &Prover,
    head: &mut Head,
    token: &Token,
) -> Result<(), ProxyError> {
    let Some((slot, origin)) = service.slot.as_ref().zip(service.injection.proof_origin.as_ref()) else {
        return Ok(());
    };
    let nonce = service.upstream.nonce();
    let proof = Proof {
        method: head.method.as_str(),
        url: &format!("{origin}{}", head.target.path()),
        issued_at: slot.time_of_day(),
        nonce: nonce.as_deref().map(String::as_str),
        token: Some(&token.secret),
    };
    let value = match prover.proof(&proof).await {
        Ok(value) => value,
        Err(error) if prover.is_in_device() => {
            if prover.is_replaced() {
                // No request can be sent with this token any more, so the next one waits for another.
                slot.reject(token.generation);
            }
            let detail = format!("the DPoP proof for this request cannot be made: dpop.private_key: {error}");
            return Err(ProxyError::new(Code::TokenUnavailable, detail));
        }
        Err(error) => return Err(proof_error(&error.to_string())),
    };
    let mut value = HeaderValue::from_maybe_shared(value.into_bytes())
        .map_err(|_| proof_error("it holds characters that no header may have"))?;
    value.set_sensitive(true);
    head.headers.insert(&DPOP, value);
    Ok(())
}

fn proof_error(why: &str) -> ProxyError {
    let detail = format!("the DPoP proof for this request cannot be made: {why}; check dpop of the issuer");
    ProxyError::new(Code::Internal, detail)
}

/// Whether the upstream requires its nonce in the proof (section 9). This says nothing about the token.
pub(super) fn requires_nonce<B>(response: &Response<B>) -> bool {
    response.status() == StatusCode::UNAUTHORIZED
        && nonce(response.headers()).is_some()
        && challenge_error(response.headers()).as_deref() == Some(USE_NONCE)
}

// The token as a query parameter

/// Everything except the unreserved characters (RFC 3986 section 2.3), so that the token reads the same wherever it is
/// decoded.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// A shorter token could be a part of any word.
const SHORTEST_TOKEN: usize = 8;
/// A byte becomes three at most.
const LONGEST_ESCAPE: usize = 3;
/// Some servers separate parameters at `;` too.
const SEPARATORS: &[char] = &['&', ';'];
/// Separators in a URL that is part of a parameter of another URL, and is not escaped.
const NESTED_SEPARATORS: &[char] = &['&', ';', '?'];

/// Whether a query has a parameter that a server may take for `name`, which is escaped ([`escape_name`]).
pub fn has_parameter(query: &str, name: &str) -> bool {
    parameters(query, SEPARATORS).any(|(_, parameter)| is_named(parameter, name))
}

/// A parameter's name as it is sent.
pub fn escape_name(name: &str) -> String {
    utf8_percent_encode(name, ESCAPED).to_string()
}

/// `target` with the token as its first parameter, and without any other parameter that could be taken for it. All other
/// parameters stay byte for byte. `name` is escaped. The memory is wiped when the last clone is dropped.
///
/// The token comes first because most servers that find a parameter twice take the first one: a server that knows a
/// spelling of the name that bearerd does not know still reads bearerd's token.
///
/// # Errors
/// The result is not a valid target.
fn with_token(target: &PathAndQuery, name: &str, token: &Secret) -> Result<PathAndQuery, InvalidUri> {
    let (path, query) = (target.path(), target.query().unwrap_or_default());
    let most = path.len() + query.len() + name.len() + token.expose().len() * LONGEST_ESCAPE + "?&=".len();
    // In one allocation, because a vector that grows leaves a copy behind that is not wiped.
    let mut text = Vec::with_capacity(most);
    text.extend_from_slice(path.as_bytes());
    text.push(b'?');
    text.extend_from_slice(name.as_bytes());
    text.push(b'=');
    for part in percent_encode(token.expose(), ESCAPED) {
        text.extend_from_slice(part.as_bytes());
    }
    let end = text.len();
    for part in retain_parameters(query, SEPARATORS, |parameter| !is_named(parameter, name)) {
        if text.len() == end && !part.is_empty() {
            text.push(b'&');
        }
        text.extend_from_slice(part.as_bytes());
    }
    PathAndQuery::from_maybe_shared(Secret::new(text).into_bytes())
}

/// The value of a response field ([`URL_FIELDS`]) without the token. `None` if the token is not in it.
fn scrub(value: &str, name: &str, token: &Secret) -> Option<String> {
    let mut clean = String::with_capacity(value.len());
    let mut changed = false;
    // `Link` has its URLs between angle brackets, `Refresh` may have quotes. None of these characters occurs in a URL.
    for part in value.split_inclusive(['<', '>', '"', '\'', ' ']) {
        let (url, end) = match part.char_indices().next_back() {
            Some((at, '<' | '>' | '"' | '\'' | ' ')) => part.split_at(at),
            _ => (part, ""),
        };
        let without = without_token(url, name, token);
        changed |= without.is_some();
        clean.push_str(without.as_deref().unwrap_or(url));
        clean.push_str(end);
    }
    // The token may also be in a URL within the URL, such as the page to return to after a login.
    for form in token_forms(token) {
        if clean.contains(form.as_str()) {
            clean = clean.replace(form.as_str(), "");
            changed = true;
        }
    }
    changed.then_some(clean)
}

/// The token as it is written in a URL, and in a URL within a URL. Nothing for a token so short that it may occur anywhere.
fn token_forms(token: &Secret) -> impl Iterator<Item = Zeroizing<String>> {
    let plain = token.expose_str().filter(|token| token.len() >= SHORTEST_TOKEN);
    let escape = |text: &str| Zeroizing::new(utf8_percent_encode(text, ESCAPED).to_string());
    let forms = plain.map(|plain| {
        let once = escape(plain);
        let twice = escape(&once);
        [Zeroizing::new(plain.to_owned()), once, twice]
    });
    forms.into_iter().flatten()
}

/// A URL without the parameter that carries the token. `None` if it has no such parameter.
fn without_token(url: &str, name: &str, token: &Secret) -> Option<String> {
    let (before, fragment) = url.split_at(url.find('#').unwrap_or(url.len()));
    let (path, query) = before.split_once('?')?;
    let ours = |parameter: &str| {
        let value = parameter.split_once('=').map_or("", |(_, value)| value);
        is_named(parameter, name)
            && (value.as_bytes() == token.expose()
                || percent_decode_str(value).eq(token.expose().iter().copied()))
    };
    if !parameters(query, NESTED_SEPARATORS).any(|(_, parameter)| ours(parameter)) {
        return None;
    }
    let rest: String = retain_parameters(query, NESTED_SEPARATORS, |parameter| !ours(parameter)).collect();
    let mark = if rest.is_empty() { "" } else { "?" };
    Some(format!("{path}{mark}{rest}{fragment}"))
}

/// The parameters of a query, each with the separator before it.
fn parameters<'q>(query: &'q str, between: &'static [char]) -> impl Iterator<Item = (&'q str, &'q str)> {
    let mut rest = Some(query);
    let mut separator = "";
    std::iter::from_fn(move || {
        let text = rest?;
        let end = text.find(between);
        let parameter = (separator, end.map_or(text, |end| text.get(..end).unwrap_or_default()));
        separator = end.and_then(|end| text.get(end..=end)).unwrap_or_default();
        rest = end.and_then(|end| text.get(end + 1..));
        Some(parameter)
    })
}

/// The rest of a query, in consecutive pieces.
fn retain_parameters<'q>(
    query: &'q str,
    between: &'static [char],
    keep: impl Fn(&str) -> bool,
) -> impl Iterator<Item = &'q str> {
    let kept = parameters(query, between).filter(move |(_, parameter)| keep(parameter));
    kept.enumerate()
        .flat_map(|(index, (separator, parameter))| [if index == 0 { "" } else { separator }, parameter])
}

/// Whether any server could take this parameter for the one called `name`.
fn is_named(parameter: &str, name: &str) -> bool {
    let written = parameter.split('=').next().unwrap_or_default();
    if normalize(name).any(|byte| byte == b'[') {
        // The name means a member of a list. Other members do not match, and a list in the member's place does.
        let members = |name| normalize(name).filter(|byte| *byte != b']').collect::<Vec<u8>>();
        let (written, name) = (members(written), members(name));
        return written.strip_prefix(&*name).is_some_and(|rest| matches!(rest.first(), None | Some(b'[')));
    }
    // PHP reads a `[` that is not closed as `_`.
    let unclosed = normalize(written).map(|byte| if byte == b'[' { b'_' } else { byte });
    normalize(written).take_while(|byte| !matches!(byte, b'[' | b']')).eq(normalize(name))
        || unclosed.eq(normalize(name))
}

/// A name as the most lenient server reads it: escapes decoded, in any case, with space and `.` as `_`, and without what
/// some servers ignore before it: a space, a `?`, a `[` (they read `[name]` as `name`).
fn normalize(name: &str) -> impl Iterator<Item = u8> {
    decode(name)
        .skip_while(|byte| matches!(byte, b' ' | b'?' | b'['))
        .take_while(|byte| *byte != 0)
        .map(|byte| if matches!(byte, b' ' | b'.') { b'_' } else { byte.to_ascii_lowercase() })
}

/// Decodes escapes and `+`, and also `%u0061`, as ASP.NET does.
fn decode(text: &str) -> impl Iterator<Item = u8> {
    let mut rest = text.as_bytes();
    std::iter::from_fn(move || {
        let (first, after) = rest.split_first()?;
        let escaped = match (first, after) {
            (b'%', [b'u' | b'U', b'0', b'0', high, low, after @ ..]) => {
                hex_byte(*high, *low).zip(Some(after))
            }
            (b'%', [high, low, after @ ..]) => hex_byte(*high, *low).zip(Some(after)),
            (b'+', after) => Some((b' ', after)),
            _ => None,
        };
        let (byte, after) = escaped.unwrap_or((*first, after));
        rest = after;
        Some(byte)
    })
}

fn hex_byte(high: u8, low: u8) -> Option<u8> {
    let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
    Some(digit(high)? << 4 | digit(low)?)
}

/// Parses lines of arbitrary bytes as a target, a challenge with its nonce, and a `Location`. For the fuzz target and the
/// replay of its corpus: it must not panic.
pub fn fuzz_texts(bytes: &[u8]) {
    const NAME: &str = "access_token";
    let token = Secret::from("eyJ/token+1");
    let mut lines = bytes.split(|byte| *byte == b'\n').map(<[u8]>::to_vec);
    let mut line = || lines.next().unwrap_or_default();
    if let Ok(target) = PathAndQuery::try_from(line())
        && let Ok(sent) = with_token(&target, NAME, &token)
    {
        let query = sent.query().unwrap_or_default();
        debug_assert!(query.starts_with("access_token=eyJ%2Ftoken%2B1"));
        debug_assert_eq!(sent.path(), target.path());
        debug_assert_eq!(query.split(['&', ';']).filter(|part| has_parameter(part, NAME)).count(), 1);
    }
    if let (Ok(challenge), Ok(nonce)) = (HeaderValue::try_from(line()), HeaderValue::try_from(line())) {
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::UNAUTHORIZED;
        response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        response.headers_mut().insert(NONCE, nonce);
        let _ = requires_nonce(&response);
    }
    let location = line();
    let text = String::from_utf8_lossy(&location);
    if let Some(clean) = scrub(&text, NAME, &token) {
        debug_assert!(clean.len() < text.len(), "something was removed");
    }
}

#[cfg(test)]
mod tests;
