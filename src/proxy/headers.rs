//! Header fields on their way through: fields of one hop stay on it, and fields that bearerd sets cannot come from
//! elsewhere.

use std::cell::RefCell;
use std::ops::BitOr;

use bytes::BytesMut;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Version, header};
use hyper::body::Body as _;

use super::RouteService;
use super::admit::{Caller, Peer};
use super::error::ProxyError;
use super::record::Record;
use crate::inbound::CallerBody;
use crate::upstream::squeeze;

const VIA: HeaderName = header::VIA;
pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// A request that has passed bearerd this many times is in a loop.
const MOST_HOPS: usize = 5;

/// Removes the fields that stay on the caller's hop, and adds the fields that a gateway adds. Returns the names that
/// `Connection` listed.
///
/// # Errors
/// 400 for a request in a loop.
pub(super) fn prepare_request(
    request: &mut Request<CallerBody>,
    caller: &Caller,
    service: &RouteService,
    record: &Record,
    fields: FieldSet,
) -> Result<Vec<HeaderName>, ProxyError> {
    if fields.any(FieldSet::VIA) && is_in_a_loop(request.headers()) {
        return Err(ProxyError::bad_request(
            "this request has passed bearerd five times: the upstream of this route leads back to it",
        ));
    }
    if request.version() == Version::HTTP_2 && fields.any(FieldSet::COOKIE) {
        join_cookies(request.headers_mut());
    }
    let host = if service.config.forwarded { requested_host(request) } else { None };
    let nominated = strip_hop_by_hop(request.headers_mut(), fields);
    if fields.any(FieldSet::UNDERSCORE) {
        strip_aliases(request.headers_mut(), service);
    }
    if fields.any(FieldSet::EXPECT) {
        // bearerd sends the 100 (Continue) itself, as soon as the upstream is connected.
        request.headers_mut().remove(header::EXPECT);
    }
    if fields.any(FieldSet::MAX_FORWARDS) && request.method() == Method::OPTIONS {
        count_down_max_forwards(request.headers_mut());
    }
    if request.body().is_end_stream() {
        let method = request.method().clone();
        declare_empty_body(&method, request.headers_mut());
    }
    if service.config.forwarded {
        set_forwarded(request.headers_mut(), caller, host.as_ref());
    }
    let version = request.version();
    add_via(request.headers_mut(), version);
    request.headers_mut().insert(X_REQUEST_ID, record.request_id.clone());
    Ok(nominated)
}

/// A set of the fields that the request path looks for, found in one pass over the names. Most messages have few of them,
/// and one look-up for each would cost more than everything else that is done with header fields.
///
/// A field in the set was present when the set was made. It may have been removed since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FieldSet(u16);

impl FieldSet {
    pub(super) const AUTHORIZATION: Self = Self(1);
    pub(super) const CONTENT_LENGTH: Self = Self(1 << 1);
    pub(super) const CONTENT_TYPE: Self = Self(1 << 2);
    pub(super) const COOKIE: Self = Self(1 << 3);
    pub(super) const EXPECT: Self = Self(1 << 4);
    pub(super) const LOCATION: Self = Self(1 << 5);
    /// `Origin`, `Referer` or `Sec-Fetch-Site`: a browser page may have sent the request.
    pub(super) const PAGE: Self = Self(1 << 6);
    pub(super) const REQUEST_ID: Self = Self(1 << 7);
    pub(super) const TRANSFER_ENCODING: Self = Self(1 << 8);
    pub(super) const UPGRADE: Self = Self(1 << 9);
    pub(super) const VIA: Self = Self(1 << 10);
    /// Any other field that belongs to one hop.
    pub(super) const OTHER_HOP_BY_HOP: Self = Self(1 << 11);
    /// A name with `_`.
    pub(super) const UNDERSCORE: Self = Self(1 << 12);
    pub(super) const CONNECTION: Self = Self(1 << 13);
    pub(super) const TE: Self = Self(1 << 14);
    pub(super) const MAX_FORWARDS: Self = Self(1 << 15);
    /// The fields that belong to one hop whether or not `Connection` lists them (RFC 9110 section 7.6.1). `Trailer` is not
    /// one of them: it describes the message.
    pub(super) const HOP_BY_HOP: Self = Self(
        Self::CONNECTION.0
            | Self::TE.0
            | Self::TRANSFER_ENCODING.0
            | Self::UPGRADE.0
            | Self::OTHER_HOP_BY_HOP.0,
    );

    pub(super) fn of(headers: &HeaderMap) -> Self {
        headers.keys().fold(Self(0), |fields, name| fields | Self::of_name(name.as_str()))
    }

    /// Whether any of these fields was present.
    pub(super) fn any(self, fields: Self) -> bool {
        self.0 & fields.0 != 0
    }

    /// The set that a name in lower case belongs to.
    fn of_name(name: &str) -> Self {
        // By length first: comparing each name with all of these would cost as much as the look-ups.
        match name.len() {
            2 if name == "te" => Self::TE,
            3 if name == "via" => Self::VIA,
            6 if name == "cookie" => Self::COOKIE,
            6 if name == "expect" => Self::EXPECT,
            6 if name == "origin" => Self::PAGE,
            7 if name == "referer" => Self::PAGE,
            7 if name == "upgrade" => Self::UPGRADE,
            8 if name == "location" => Self::LOCATION,
            10 if name == "connection" => Self::CONNECTION,
            10 if name == "keep-alive" => Self::OTHER_HOP_BY_HOP,
            12 if name == "max-forwards" => Self::MAX_FORWARDS,
            12 if name == "content-type" => Self::CONTENT_TYPE,
            12 if name == "x-request-id" => Self::REQUEST_ID,
            13 if name == "authorization" => Self::AUTHORIZATION,
            14 if name == "content-length" => Self::CONTENT_LENGTH,
            14 if name == "sec-fetch-site" => Self::PAGE,
            14 if name == "http2-settings" => Self::OTHER_HOP_BY_HOP,
            16 if name == "proxy-connection" => Self::OTHER_HOP_BY_HOP,
            17 if name == "transfer-encoding" => Self::TRANSFER_ENCODING,
            18 if name == "proxy-authenticate" => Self::OTHER_HOP_BY_HOP,
            19 if name == "proxy-authorization" => Self::OTHER_HOP_BY_HOP,
            _ if name.bytes().any(|byte| byte == b'_') => Self::UNDERSCORE,
            _ => Self(0),
        }
    }
}

impl BitOr for FieldSet {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Removes the fields that stay on their hop, except `TE: trailers`. Returns the names that `Connection` listed: trailers
/// of these names are not forwarded either (RFC 9110 section 7.6.1).
pub(super) fn strip_hop_by_hop(headers: &mut HeaderMap, fields: FieldSet) -> Vec<HeaderName> {
    if !fields.any(FieldSet::HOP_BY_HOP) {
        return Vec::new();
    }
    // First, because the framing stays what it is, whatever `Connection` lists.
    if fields.any(FieldSet::TRANSFER_ENCODING) {
        // It overrides a length (RFC 9112 section 6.3), so the length must not go on as if it were true.
        headers.remove(header::CONTENT_LENGTH);
    }
    let nominated = if fields.any(FieldSet::CONNECTION) { strip_nominated(headers) } else { Vec::new() };
    let trailers = fields.any(FieldSet::TE)
        && headers.get_all(header::TE).iter().any(|line| has_token(line, "trailers"));
    for (field, name) in [
        (FieldSet::CONNECTION, header::CONNECTION),
        (FieldSet::TE, header::TE),
        (FieldSet::TRANSFER_ENCODING, header::TRANSFER_ENCODING),
        (FieldSet::UPGRADE, header::UPGRADE),
    ] {
        if fields.any(field) {
            headers.remove(name);
        }
    }
    if fields.any(FieldSet::OTHER_HOP_BY_HOP) {
        let is_one = |name: &&HeaderName| FieldSet::of_name(name.as_str()).any(FieldSet::OTHER_HOP_BY_HOP);
        while let Some(name) = headers.keys().find(is_one).cloned() {
            headers.remove(name);
        }
    }
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    nominated
}

/// Removes every field that a `Connection` line lists, in any list syntax.
fn strip_nominated(headers: &mut HeaderMap) -> Vec<HeaderName> {
    let mut nominated = Vec::new();
    for line in headers.get_all(header::CONNECTION) {
        for token in tokens(line).filter(|token| !is_option(token)) {
            if let Ok(name) = HeaderName::from_bytes(token) {
                nominated.push(name);
            }
        }
    }
    // These describe the framing and the trailers of this message, which bearerd sets anew.
    nominated
        .retain(|name| *name != header::TE && *name != header::TRAILER && *name != header::CONTENT_LENGTH);
    for name in &nominated {
        headers.remove(name);
    }
    nominated
}

/// The connection options that name no field, or one that is removed anyway.
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

/// The other protocol that a request wants to switch to (RFC 9110 section 7.8). `h2c` is not forwarded: whether bearerd
/// uses HTTP/2 to an upstream depends on their connection, not on the caller.
pub(super) fn requested_upgrade(version: Version, headers: &HeaderMap) -> Option<HeaderValue> {
    let nominates = || headers.get_all(header::CONNECTION).iter().any(|line| has_token(line, "upgrade"));
    if version != Version::HTTP_11 || !nominates() {
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

/// Whether the body has no transfer coding, or only chunked, which bearerd decodes (RFC 9112 section 6.1). Any other coding
/// would be lost with the field that names it, and the body would be unreadable.
pub(super) fn is_only_chunked(headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (lines.next(), lines.next()) {
        (None, _) => true,
        (Some(coding), None) => coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"),
        (Some(_), Some(_)) => false,
    }
}

/// Joins the lines that HTTP/2 may split cookies into (RFC 9113 section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
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

/// Whether a request has at most one `Content-Length`, and it is one number.
pub(super) fn has_one_length(headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(header::CONTENT_LENGTH).iter();
    match (lines.next(), lines.next()) {
        (None, _) => true,
        (Some(length), None) => is_length(length.as_bytes()),
        (Some(_), Some(_)) => false,
    }
}

/// Whether every `Content-Length` of a response is a number, and all are the same (RFC 9110 section 8.6).
pub(super) fn has_one_length_or_repeats_it(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(header::CONTENT_LENGTH).iter();
    let mut lengths =
        lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
    let Some(first) = lengths.next() else { return true };
    is_length(first) && lengths.all(|length| length == first)
}

fn is_length(text: &[u8]) -> bool {
    // The parser alone would accept a sign.
    is_digits(text) && std::str::from_utf8(text).is_ok_and(|text| text.parse::<u64>().is_ok())
}

fn is_digits(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(u8::is_ascii_digit)
}

/// Says `Content-Length: 0` for methods that expect a body (RFC 9110 section 8.6).
fn declare_empty_body(method: &Method, headers: &mut HeaderMap) {
    if matches!(*method, Method::POST | Method::PUT | Method::PATCH) {
        headers.entry(header::CONTENT_LENGTH).or_insert(HeaderValue::from_static("0"));
    }
}

/// Removes the length of a response that can have no body (RFC 9110 section 8.6), and reduces a repeated length to one.
pub(super) fn settle_length(status: StatusCode, headers: &mut HeaderMap) {
    if status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT) {
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

/// How many more times a request may be forwarded (RFC 9110 section 7.6.2); `None` without `Max-Forwards`.
///
/// # Errors
/// The value is not one number.
pub(crate) fn max_forwards(headers: &HeaderMap) -> Result<Option<u64>, ()> {
    let mut lines = headers.get_all(header::MAX_FORWARDS).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else {
        return if headers.contains_key(header::MAX_FORWARDS) { Err(()) } else { Ok(None) };
    };
    if !is_digits(line.as_bytes()) {
        return Err(());
    }
    // A number that is too large for the type is large enough.
    let number = line.to_str().ok().and_then(|digits| digits.parse().ok());
    Ok(Some(number.unwrap_or(u64::MAX)))
}

fn count_down_max_forwards(headers: &mut HeaderMap) {
    if let Ok(Some(left)) = max_forwards(headers) {
        headers.insert(header::MAX_FORWARDS, HeaderValue::from(left.saturating_sub(1)));
    }
}

/// Removes names with `_` that a server behind bearerd could take for a field that bearerd sets.
fn strip_aliases(headers: &mut HeaderMap, route: &RouteService) {
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

/// The caller's request ID if it is acceptable, else a new one.
pub(super) fn request_id(headers: &HeaderMap, fields: FieldSet) -> HeaderValue {
    if !fields.any(FieldSet::REQUEST_ID) {
        return new_request_id();
    }
    let mut lines = headers.get_all(X_REQUEST_ID).iter();
    match (lines.next(), lines.next()) {
        (Some(id), None) if is_acceptable_id(id) => id.clone(),
        _ => new_request_id(),
    }
}

fn is_acceptable_id(id: &HeaderValue) -> bool {
    let id = id.as_bytes();
    (1..=128).contains(&id.len())
        && id.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:/+=@".contains(byte))
}

fn new_request_id() -> HeaderValue {
    thread_local! {
        // IDs are split off one buffer, so that one allocation serves many of them.
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
    // Not a secret, but a value that never repeats does not belong in the tables of HTTP/2 (RFC 7541 section 6.2.3).
    id.set_sensitive(true);
    id
}

fn hex_digit(value: u8) -> u8 {
    if value < 10 { b'0' + value } else { b'a' + value - 10 }
}

/// RFC 9110 section 7.6.3.
fn add_via(headers: &mut HeaderMap, version: Version) {
    let via = match version {
        Version::HTTP_10 => "1.0 bearerd",
        Version::HTTP_2 => "2.0 bearerd",
        _ => "1.1 bearerd",
    };
    headers.append(VIA, HeaderValue::from_static(via));
}

fn is_in_a_loop(headers: &HeaderMap) -> bool {
    let ours = |line: &HeaderValue| {
        line.as_bytes()
            .split(|byte| *byte == b',')
            .filter(|hop| hop.trim_ascii().ends_with(b" bearerd"))
            .count()
    };
    headers.get_all(VIA).iter().map(ours).sum::<usize>() >= MOST_HOPS
}

/// The host as the caller wrote it. Over HTTP/2 it is in `:authority`.
fn requested_host(request: &Request<CallerBody>) -> Option<HeaderValue> {
    let line = request.headers().get(header::HOST).cloned();
    line.or_else(|| {
        let authority = request.uri().authority()?;
        Some(HeaderValue::from_str(authority.as_str()).expect("an authority is visible ASCII"))
    })
}

/// `forwarded = true`: replaces what the caller says about itself with what bearerd knows.
fn set_forwarded(headers: &mut HeaderMap, caller: &Caller, host: Option<&HeaderValue>) {
    for name in [X_FORWARDED_FOR, X_FORWARDED_PROTO, X_FORWARDED_HOST] {
        headers.remove(name);
    }
    headers.remove(header::FORWARDED);
    if let Peer::Tcp(peer) = caller.peer {
        let address = HeaderValue::from_str(&peer.ip().to_canonical().to_string())
            .expect("an address is digits, dots and colons");
        headers.insert(X_FORWARDED_FOR, address);
    }
    let proto = if caller.tls { "https" } else { "http" };
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(proto));
    if let Some(host) = host {
        headers.insert(X_FORWARDED_HOST, host.clone());
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn seen(names: &[&str]) -> FieldSet {
        let lines =
            names.iter().map(|name| (name.parse::<HeaderName>().unwrap(), HeaderValue::from_static("1")));
        FieldSet::of(&lines.collect())
    }

    #[test]
    fn every_hop_by_hop_field_is_seen_as_one() {
        for name in [
            "connection",
            "keep-alive",
            "proxy-connection",
            "proxy-authenticate",
            "proxy-authorization",
            "transfer-encoding",
            "upgrade",
            "http2-settings",
            "te",
        ] {
            assert!(seen(&["accept", name]).any(FieldSet::HOP_BY_HOP), "{name}");
        }
        assert!(!seen(&["trailer"]).any(FieldSet::HOP_BY_HOP));
    }

    #[test]
    fn fields_of_no_interest_are_not_seen() {
        assert_eq!(seen(&["host", "accept", "user-agent", "x-tenant", "date", "server"]), FieldSet(0));
        assert!(!seen(&[]).any(FieldSet(u16::MAX)));
    }

    #[test]
    fn each_field_is_distinguished_from_the_others() {
        for (name, field) in [
            ("authorization", FieldSet::AUTHORIZATION),
            ("content-length", FieldSet::CONTENT_LENGTH),
            ("content-type", FieldSet::CONTENT_TYPE),
            ("cookie", FieldSet::COOKIE),
            ("expect", FieldSet::EXPECT),
            ("location", FieldSet::LOCATION),
            ("max-forwards", FieldSet::MAX_FORWARDS),
            ("origin", FieldSet::PAGE),
            ("referer", FieldSet::PAGE),
            ("sec-fetch-site", FieldSet::PAGE),
            ("x-request-id", FieldSet::REQUEST_ID),
            ("via", FieldSet::VIA),
            ("transfer-encoding", FieldSet::TRANSFER_ENCODING),
            ("upgrade", FieldSet::UPGRADE),
            ("connection", FieldSet::CONNECTION),
            ("te", FieldSet::TE),
            ("x_tenant", FieldSet::UNDERSCORE),
        ] {
            assert_eq!(seen(&["accept", name]), field, "{name}");
        }
    }

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
        let of = |lines: &[(&str, &str)]| requested_upgrade(Version::HTTP_11, &map(lines));
        assert_eq!(of(&[("connection", "Upgrade"), ("upgrade", "websocket")]).unwrap(), "websocket");
        assert!(of(&[("upgrade", "websocket")]).is_none());
        assert!(of(&[("connection", "upgrade"), ("upgrade", "h2c")]).is_none());
        assert!(of(&[("connection", "upgrade"), ("upgrade", "websocket, H2C/1")]).is_none());
        assert!(of(&[("connection", "upgrade"), ("upgrade", "a"), ("upgrade", "b")]).is_none());
        assert!(
            requested_upgrade(Version::HTTP_10, &map(&[("connection", "upgrade"), ("upgrade", "websocket")]))
                .is_none()
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
    fn unacceptable_request_ids_are_replaced() {
        assert_eq!(id(&[("x-request-id", "abc-1")]), "abc-1");
        assert_ne!(id(&[("x-request-id", "a b")]), "a b");
        assert_ne!(id(&[("x-request-id", "a"), ("x-request-id", "a")]), "a");
        assert_eq!(id(&[("x-request-id", &"x".repeat(129))]).len(), 32);
    }

    #[test]
    fn a_loop_is_noticed() {
        assert!(!is_in_a_loop(&map(&[("via", "1.1 bearerd, 1.1 bearerd, 1.1 bearerd, 1.1 bearerd")])));
        assert!(is_in_a_loop(&map(&[
            ("via", "1.1 bearerd, 1.1 bearerd, 1.1 other"),
            ("via", "1.1 bearerd, 1.1 bearerd,1.1 bearerd")
        ])));
    }
}
