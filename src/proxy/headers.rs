//! Headers on their way through: what belongs to one hop stays there, what we set cannot come from elsewhere.

use std::cell::RefCell;
use std::net::IpAddr;

use bytes::BytesMut;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header};

use super::caller::{Caller, Peer};
use super::field_set::FieldSet;
use super::snapshot::RouteService;
use crate::upstream::squeeze;

const VIA: HeaderName = header::VIA;
pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// A request that has passed this many bearerds goes round in a circle.
const MOST_HOPS: usize = 5;

/// The other protocol that a request asks for (RFC 9110 section 7.8); `h2c` is not passed on, for an upstream's
/// HTTP/2 is agreed on by the connection, not by the caller.
pub(super) fn upgrade(version: Version, headers: &HeaderMap) -> Option<HeaderValue> {
    if version != Version::HTTP_11 || !names(headers, "upgrade") {
        return None;
    }
    let mut lines = headers.get_all(header::UPGRADE).iter();
    match (lines.next(), lines.next()) {
        (Some(protocol), None) if !tokens(protocol).any(is_h2c) => Some(protocol.clone()),
        _ => None,
    }
}

fn is_h2c(protocol: &[u8]) -> bool {
    protocol.get(..3).is_some_and(|name| name.eq_ignore_ascii_case(b"h2c"))
}

/// Whether the body comes plain or in the one transfer coding that is taken off here (RFC 9112 section 6.1). Any other
/// would be lost with the header that names it, and the body with it.
pub(super) fn is_only_chunked(headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (lines.next(), lines.next()) {
        (None, _) => true,
        (Some(coding), None) => coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"),
        (Some(_), Some(_)) => false,
    }
}

/// HTTP/2 may split cookies over lines; elsewhere they are one (RFC 9113 section 8.2.3).
pub(super) fn join_cookies(headers: &mut HeaderMap) {
    let lines: Vec<&HeaderValue> = headers.get_all(header::COOKIE).iter().collect();
    if lines.len() < 2 {
        return;
    }
    let joined = lines.iter().map(|line| line.as_bytes()).collect::<Vec<_>>().join(&b"; "[..]);
    let sensitive = lines.iter().any(|line| line.is_sensitive());
    let mut joined = HeaderValue::try_from(joined).expect("values with a separator between them");
    joined.set_sensitive(sensitive);
    headers.insert(header::COOKIE, joined);
}

/// Whether `Content-Length` is one number, said once.
pub(super) fn has_one_length(headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(header::CONTENT_LENGTH).iter();
    match (lines.next(), lines.next()) {
        (None, _) => true,
        (Some(length), None) => is_length(length.as_bytes()),
        (Some(_), Some(_)) => false,
    }
}

/// Whether each `Content-Length` of a response is a number and all of them are the same (RFC 9110 section 8.6).
pub(super) fn has_one_length_or_repeats_it(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(header::CONTENT_LENGTH).iter();
    let mut lengths =
        lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
    let Some(first) = lengths.next() else { return true };
    is_length(first) && lengths.all(|length| length == first)
}

fn is_length(text: &[u8]) -> bool {
    // The parser alone would take a sign.
    is_digits(text) && std::str::from_utf8(text).is_ok_and(|text| text.parse::<u64>().is_ok())
}

fn is_digits(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(u8::is_ascii_digit)
}

/// A body that is not there is said to be empty by the methods that define one (RFC 9110 section 8.6).
pub(super) fn say_no_body(method: &Method, headers: &mut HeaderMap) {
    if matches!(*method, Method::POST | Method::PUT | Method::PATCH) {
        headers.entry(header::CONTENT_LENGTH).or_insert(HeaderValue::from_static("0"));
    }
}

/// The length of a response as it goes on: none where there can be no body (RFC 9110 section 8.6), and one that was said
/// more than once, always the same, once.
pub(super) fn settle_length(status: StatusCode, headers: &mut HeaderMap) {
    if status.is_informational() || status == StatusCode::NO_CONTENT {
        headers.remove(header::CONTENT_LENGTH);
        return;
    }
    let mut lines = headers.get_all(header::CONTENT_LENGTH).iter();
    let (Some(first), second) = (lines.next(), lines.next()) else { return };
    if second.is_none() && !first.as_bytes().contains(&b',') {
        return;
    }
    let one = tokens(first).next().expect("a list without a length was refused");
    let one = HeaderValue::from_bytes(one).expect("a part of a field's value");
    headers.insert(header::CONTENT_LENGTH, one);
}

/// How often a request may still be forwarded (RFC 9110 section 7.6.2); `None` where it does not say.
///
/// # Errors
/// What it says is no number.
pub(crate) fn max_forwards(headers: &HeaderMap) -> Result<Option<u64>, ()> {
    let mut lines = headers.get_all(header::MAX_FORWARDS).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else {
        return if headers.contains_key(header::MAX_FORWARDS) { Err(()) } else { Ok(None) };
    };
    if !is_digits(line.as_bytes()) {
        return Err(());
    }
    // Too large for a number is large enough.
    let number = line.to_str().ok().and_then(|digits| digits.parse().ok());
    Ok(Some(number.unwrap_or(u64::MAX)))
}

/// One hop less is left.
pub(super) fn count_down(headers: &mut HeaderMap) {
    if let Ok(Some(left)) = max_forwards(headers) {
        headers.insert(header::MAX_FORWARDS, HeaderValue::from(left.saturating_sub(1)));
    }
}

/// Removes what stays on its hop; `TE: trailers` is kept. Gives what `Connection` named: no trailer of these names goes
/// on either (RFC 9110 section 7.6.1).
pub(super) fn strip_hop_by_hop(headers: &mut HeaderMap, seen: FieldSet) -> Vec<HeaderName> {
    if !seen.any(FieldSet::HOP_BY_HOP) {
        return Vec::new();
    }
    // Before anything is taken off: the framing is what it is, whatever `Connection` names.
    if seen.any(FieldSet::TRANSFER_ENCODING) {
        // It goes before a length (RFC 9112 section 6.3); the length may not go on as if it were true.
        headers.remove(header::CONTENT_LENGTH);
    }
    let nominated = if seen.any(FieldSet::CONNECTION) { strip_nominated(headers) } else { Vec::new() };
    let trailers =
        seen.any(FieldSet::TE) && headers.get_all(header::TE).iter().any(|line| has_token(line, "trailers"));
    for (field, name) in [
        (FieldSet::CONNECTION, header::CONNECTION),
        (FieldSet::TE, header::TE),
        (FieldSet::TRANSFER_ENCODING, header::TRANSFER_ENCODING),
        (FieldSet::UPGRADE, header::UPGRADE),
    ] {
        if seen.any(field) {
            headers.remove(name);
        }
    }
    if seen.any(FieldSet::OTHER_HOP_BY_HOP) {
        let is_one = |name: &&HeaderName| FieldSet::name(name.as_str()).any(FieldSet::OTHER_HOP_BY_HOP);
        while let Some(name) = headers.keys().find(is_one).cloned() {
            headers.remove(name);
        }
    }
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    nominated
}

/// Whatever a `Connection` line names, in whatever list syntax.
fn strip_nominated(headers: &mut HeaderMap) -> Vec<HeaderName> {
    let mut nominated = Vec::new();
    for line in headers.get_all(header::CONNECTION) {
        for token in tokens(line).filter(|token| !is_option(token)) {
            if let Ok(name) = HeaderName::from_bytes(token) {
                nominated.push(name);
            }
        }
    }
    // These describe this message's framing and trailers, which we set anew.
    nominated
        .retain(|name| *name != header::TE && *name != header::TRAILER && *name != header::CONTENT_LENGTH);
    for name in &nominated {
        headers.remove(name);
    }
    nominated
}

/// The options that name no header, or one that is taken off anyway.
fn is_option(token: &[u8]) -> bool {
    token.eq_ignore_ascii_case(b"keep-alive") || token.eq_ignore_ascii_case(b"close")
}

fn tokens(line: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    line.as_bytes()
        .split(|byte| matches!(byte, b',' | b';'))
        .map(<[u8]>::trim_ascii)
        .filter(|token| !token.is_empty())
}

fn has_token(line: &HeaderValue, wanted: &str) -> bool {
    tokens(line).any(|token| token.eq_ignore_ascii_case(wanted.as_bytes()))
}

fn names(headers: &HeaderMap, option: &str) -> bool {
    headers.get_all(header::CONNECTION).iter().any(|line| has_token(line, option))
}

/// Removes names with `_` that a server behind us could take for a header that we set.
pub(super) fn strip_aliases(headers: &mut HeaderMap, route: &RouteService) {
    let aliases: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().contains('_') && is_alias(name, route)).cloned().collect();
    for name in aliases {
        headers.remove(name);
    }
}

fn is_alias(name: &HeaderName, route: &RouteService) -> bool {
    let squeezed = squeeze(name.as_str());
    let always = [
        header::AUTHORIZATION,
        header::PROXY_AUTHORIZATION,
        header::HOST,
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::CONNECTION,
        VIA,
        X_REQUEST_ID,
    ];
    let forwarded = [X_FORWARDED_FOR, X_FORWARDED_PROTO, X_FORWARDED_HOST];
    let matches = |known: &HeaderName| squeeze(known.as_str()) == squeezed;
    always.iter().any(matches)
        || (route.config.forwarded && forwarded.iter().any(matches))
        || route.injection.headers().any(matches)
        || route.request_edits.names().any(matches)
}

/// The caller's id where it is sane, else a new one.
pub(super) fn request_id(headers: &HeaderMap, seen: FieldSet) -> HeaderValue {
    if !seen.any(FieldSet::REQUEST_ID) {
        return new_request_id();
    }
    let mut lines = headers.get_all(X_REQUEST_ID).iter();
    match (lines.next(), lines.next()) {
        (Some(id), None) if is_sane(id) => id.clone(),
        _ => new_request_id(),
    }
}

fn is_sane(id: &HeaderValue) -> bool {
    let id = id.as_bytes();
    (1..=128).contains(&id.len())
        && id.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:/+=@".contains(byte))
}

fn new_request_id() -> HeaderValue {
    thread_local! {
        // Ids are cut off one buffer: an allocation for many of them.
        static IDS: RefCell<BytesMut> = RefCell::new(BytesMut::new());
    }
    const LENGTH: usize = 32;
    let id = IDS.with_borrow_mut(|ids| {
        if ids.capacity() < LENGTH {
            *ids = BytesMut::with_capacity(64 * LENGTH);
        }
        let mut digits = [0; LENGTH];
        for (pair, byte) in digits.as_chunks_mut::<2>().0.iter_mut().zip(fastrand::u128(..).to_be_bytes()) {
            *pair = [hex_digit(byte >> 4), hex_digit(byte & 0xF)];
        }
        ids.extend_from_slice(&digits);
        ids.split().freeze()
    });
    let mut id = HeaderValue::from_maybe_shared(id).expect("hexadecimal digits");
    // No secret, but what never comes again has no place in HTTP/2's tables (RFC 7541 section 6.2.3).
    id.set_sensitive(true);
    id
}

fn hex_digit(value: u8) -> u8 {
    if value < 10 { b'0' + value } else { b'a' + value - 10 }
}

/// RFC 9110 section 7.6.3.
pub(super) fn add_via(headers: &mut HeaderMap, version: Version) {
    let via = match version {
        Version::HTTP_10 => "1.0 bearerd",
        Version::HTTP_2 => "2.0 bearerd",
        _ => "1.1 bearerd",
    };
    headers.append(VIA, HeaderValue::from_static(via));
}

/// Whether this request has come round to us too often.
pub(super) fn goes_in_a_circle(headers: &HeaderMap) -> bool {
    let ours = |line: &HeaderValue| {
        line.as_bytes()
            .split(|byte| *byte == b',')
            .filter(|hop| hop.trim_ascii().ends_with(b" bearerd"))
            .count()
    };
    headers.get_all(VIA).iter().map(ours).sum::<usize>() >= MOST_HOPS
}

/// `forwarded = true`: what the caller said of itself is replaced by what we know.
pub(super) fn set_forwarded(headers: &mut HeaderMap, caller: &Caller, host: Option<&HeaderValue>) {
    for name in [X_FORWARDED_FOR, X_FORWARDED_PROTO, X_FORWARDED_HOST] {
        headers.remove(name);
    }
    headers.remove(header::FORWARDED);
    if let Peer::Tcp(peer) = caller.peer {
        let address =
            HeaderValue::from_str(&address(peer.ip())).expect("an address is digits, dots and colons");
        headers.insert(X_FORWARDED_FOR, address);
    }
    let proto = if caller.tls { "https" } else { "http" };
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(proto));
    if let Some(host) = host {
        headers.insert(X_FORWARDED_HOST, host.clone());
    }
}

fn address(ip: IpAddr) -> String {
    ip.to_canonical().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        headers
    }

    fn left(lines: &[(&str, &str)]) -> Vec<String> {
        let mut headers = map(lines);
        let seen = FieldSet::of(&headers);
        strip_hop_by_hop(&mut headers, seen);
        headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect()
    }

    #[test]
    fn nominated_headers_stay_in_every_list_syntax() {
        assert!(left(&[("connection", "close, x-a"), ("x-a", "1")]).is_empty());
        assert!(
            left(&[("connection", "close"), ("connection", "x-a"), ("x-a", "1"), ("x-a", "2")]).is_empty()
        );
        assert!(left(&[("connection", " ,X-A;,"), ("x-a", "1")]).is_empty());
        assert!(left(&[("connection", "authorization"), ("authorization", "x")]).is_empty());
    }

    #[test]
    fn te_trailers_and_trailer_pass() {
        assert_eq!(
            left(&[("connection", "te"), ("te", "gzip, trailers"), ("trailer", "x-sum")]),
            ["trailer: x-sum", "te: trailers"]
        );
        assert!(left(&[("te", "gzip")]).is_empty());
    }

    #[test]
    fn only_a_named_single_upgrade_counts() {
        let of = |lines: &[(&str, &str)]| upgrade(Version::HTTP_11, &map(lines));
        assert_eq!(of(&[("connection", "Upgrade"), ("upgrade", "websocket")]).unwrap(), "websocket");
        assert!(of(&[("upgrade", "websocket")]).is_none());
        assert!(of(&[("connection", "upgrade"), ("upgrade", "h2c")]).is_none());
        assert!(of(&[("connection", "upgrade"), ("upgrade", "websocket, H2C/1")]).is_none());
        assert!(of(&[("connection", "upgrade"), ("upgrade", "a"), ("upgrade", "b")]).is_none());
        assert!(
            upgrade(Version::HTTP_10, &map(&[("connection", "upgrade"), ("upgrade", "websocket")])).is_none()
        );
    }

    fn id(lines: &[(&str, &str)]) -> HeaderValue {
        let headers = map(lines);
        request_id(&headers, FieldSet::of(&headers))
    }

    #[test]
    fn new_request_ids_are_32_hexadecimal_digits_and_never_the_same() {
        let ids: std::collections::HashSet<HeaderValue> = (0..1000).map(|_| id(&[])).collect();
        assert_eq!(ids.len(), 1000);
        let hex = |id: &HeaderValue| {
            id.len() == 32 && id.as_bytes().iter().all(|byte| b"0123456789abcdef".contains(byte))
        };
        assert!(ids.iter().all(hex));
    }

    #[test]
    fn insane_request_ids_are_replaced() {
        assert_eq!(id(&[("x-request-id", "abc-1")]), "abc-1");
        assert_ne!(id(&[("x-request-id", "a b")]), "a b");
        assert_ne!(id(&[("x-request-id", "a"), ("x-request-id", "a")]), "a");
        assert_eq!(id(&[("x-request-id", &"x".repeat(129))]).len(), 32);
    }

    #[test]
    fn a_circle_is_seen() {
        assert!(!goes_in_a_circle(&map(&[("via", "1.1 bearerd, 1.1 bearerd, 1.1 bearerd, 1.1 bearerd")])));
        assert!(goes_in_a_circle(&map(&[
            ("via", "1.1 bearerd, 1.1 bearerd, 1.1 other"),
            ("via", "1.1 bearerd, 1.1 bearerd,1.1 bearerd")
        ])));
    }
}
