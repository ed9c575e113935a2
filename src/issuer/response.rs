//! Judges a response of the token endpoint (RFC 6749 sections 5.1 and 5.2).

use std::collections::BTreeSet;
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, DATE, LOCATION, RETRY_AFTER};
use http::{HeaderMap, HeaderName, StatusCode, Uri};
use serde_json::{Map, Value};

use super::document::{Document, Malformed, beside, parse_json};
use super::error::ErrorContext;
use super::exchange::{BodyError, IssuerResponse};
use super::reported::{self, ReportedError};
use super::{FailureKind, Grant, IssuerError};
use crate::clock::Moment;
use crate::config::{ExpiresAt, LONGEST_LIFETIME, ResponseFormat, ResponseShape, Scopes};
use crate::net::dpop;
use crate::redact::Redactor;
use crate::secret::{MASK, Secret};

/// The longest token, in bytes.
const TOKEN_LIMIT: usize = 16 * 1024;
/// The most bytes of a response's member names that are shown.
const NAMED_LIMIT: usize = 256;
/// The longest `scope` of a response that is kept, in bytes.
const SCOPE_LIMIT: usize = 4 * 1024;

/// What the response is judged against.
pub(super) struct SentRequest<'a> {
    /// The time just before the request was sent.
    pub(super) at: Moment,
    pub(super) scopes: &'a Scopes,
}

/// What an operator should know about a response that is usable nevertheless.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ResponseWarning {
    TypeMissing,
    LifetimeMissing,
    LifetimeUnreadable,
    NotCalledJson,
    /// Scopes that were requested and not granted.
    Narrower(Vec<String>),
    /// How far this machine's clock is from the issuer's: `5m 2s behind`.
    ClockOff(String),
}

impl ResponseWarning {
    /// One bit for each kind.
    pub(super) fn bit(&self) -> u8 {
        match self {
            Self::TypeMissing => 1,
            Self::LifetimeMissing => 2,
            Self::LifetimeUnreadable => 4,
            Self::NotCalledJson => 8,
            Self::Narrower(_) => 16,
            Self::ClockOff(_) => 32,
        }
    }
}

impl fmt::Display for ResponseWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TypeMissing => "has no token type, so Bearer is assumed",
            Self::LifetimeMissing => "has no lifetime, so default_lifetime applies",
            Self::LifetimeUnreadable => "has a lifetime that cannot be read",
            Self::NotCalledJson => "is JSON with another content type",
            Self::Narrower(scopes) => {
                return write!(
                    f,
                    "grants less than bearerd requested, without the scopes {}: allow this client these scopes at the issuer, \
                     or remove them from scopes",
                    scopes.join(" ")
                );
            }
            Self::ClockOff(apart) => {
                return write!(
                    f,
                    "shows that this machine's clock is {apart} the issuer's: correct it (NTP), or JWTs and \
                     lifetimes will be wrong"
                );
            }
        })
    }
}

/// The token in a response, or why there is none.
pub(super) fn judge(
    response: IssuerResponse,
    context: &ErrorContext<'_>,
    asked: &SentRequest<'_>,
) -> Result<(Grant, Vec<ResponseWarning>), IssuerError> {
    let context = &ErrorContext {
        traces: traces(&response.headers),
        skew: skew(&response.headers, asked.at.wall, context.config.timeout),
        ..context.clone()
    };
    let status = response.status;
    if context.config.response.statuses.contains(&status.as_u16()) {
        return accepted(response, context, asked);
    }
    if status.is_redirection() {
        return Err(redirected(status, &response.headers, context));
    }
    Err(refused(&response, context, asked))
}

/// The error for a response whose status is not one that the config accepts for a token.
fn refused(response: &IssuerResponse, context: &ErrorContext<'_>, asked: &SentRequest<'_>) -> IssuerError {
    let (status, shape) = (response.status, &context.config.response);
    let retry_after = retry_after(&response.headers, asked.at.wall);
    let body = match &response.body {
        Ok(body) if coding(&response.headers).is_none() => body.as_slice(),
        _ => &[],
    };
    // Servers that respond with forms still report errors as JSON.
    let as_json = ResponseShape { format: ResponseFormat::Json, ..shape.clone() };
    let form = |shape: &&ResponseShape| shape.format == ResponseFormat::Form;
    let mut document = parse(body, &as_json).ok().or_else(|| parse(body, Some(shape).filter(form)?).ok());
    let token = document.as_mut().and_then(|document| document.take_secret(&shape.token));
    let mut reported = ReportedError::read(status, &response.headers, body, document.as_ref(), shape);
    // Servers with their own error bodies report it in the header field of RFC 9449 section 8.
    let challenge = dpop::challenge_error(&response.headers);
    if let Some(code) =
        challenge.filter(|code| [dpop::USE_NONCE, dpop::INVALID_PROOF].contains(&code.as_str()))
    {
        reported.code = Some(code);
    }
    let context =
        &ErrorContext { redactor: &with_token(context.redactor, token.as_ref()), ..context.clone() };
    context.refused(status, &reported, retry_after)
}

/// Judges a response whose status is accepted for a token.
fn accepted(
    response: IssuerResponse,
    context: &ErrorContext<'_>,
    asked: &SentRequest<'_>,
) -> Result<(Grant, Vec<ResponseWarning>), IssuerError> {
    let shape = &context.config.response;
    let IssuerResponse { status, headers, body } = response;
    let retry_after = retry_after(&headers, asked.at.wall);
    let unusable = |unfit: UnusableReason| unusable_response(status, unfit, retry_after, context);
    if let Some(coding) = coding(&headers) {
        let coding = context.redactor.show_code(&coding).unwrap_or_default();
        let what = format!("a body in content-encoding {coding}, although bearerd asks for identity");
        return Err(unusable((what, Some("the error is the issuer's".to_owned()))));
    }
    if let Some((name, value)) = missing_header(&headers, shape) {
        let what = format!("no header field {name}: {value}, so it is not the expected server");
        let remedy = format!(
            "check {} of [issuer.{}], and what is between it and this machine",
            context.endpoint_key(),
            context.config.name
        );
        return Err(unusable((what, Some(remedy))));
    }
    let body = body.map_err(|lost| match lost {
        BodyError::TooLarge(limit) => {
            let remedy = format!("check {} of [issuer.{}]", context.endpoint_key(), context.config.name);
            unusable((format!("a body of more than {limit} bytes"), Some(remedy)))
        }
        BodyError::CutOff => {
            let code = status.as_u16();
            let what = format!("responded {code} and broke off in the middle of the body");
            let error = context.fail(FailureKind::Unavailable, what);
            IssuerError {
                http_status: Some(code),
                ..error.advise("the error is the issuer's, and bearerd asks again")
            }
        }
    })?;
    let mut document = parse(&body, shape)
        .map_err(|malformed| unusable(unreadable_body(malformed, &body, &headers, context)))?;
    // Taken first: whatever the result, the token's memory is wiped, and no message shows it.
    let token = document.take_secret(&shape.token);
    let context =
        &ErrorContext { redactor: &with_token(context.redactor, token.as_ref()), ..context.clone() };
    if token.is_none() || reported::error_in(&document, shape).is_some() {
        let reported = ReportedError::of_document(status, &body, Some(&document), shape);
        if reported::error_in(&document, shape).is_some() || reported.has_details() {
            return Err(context.refused(status, &reported, retry_after));
        }
    }
    let unusable = |unfit: UnusableReason| unusable_response(status, unfit, retry_after, context);
    let token = usable_token(token, &body, context).map_err(&unusable)?;
    let mut notes = Vec::new();
    let token_type = usable_type(&document, context, &mut notes).map_err(&unusable)?;
    if shape.format == ResponseFormat::Json && !is_json(&headers) {
        notes.push(ResponseWarning::NotCalledJson);
    }
    notes.extend(context.skew.map(|skew| ResponseWarning::ClockOff(skew.describe())));
    Ok((grant(token, token_type, &document, context, asked, &mut notes), notes))
}

/// The first of `response.require_headers` that the response does not have.
fn missing_header<'s>(headers: &HeaderMap, shape: &'s ResponseShape) -> Option<&'s (HeaderName, String)> {
    let is_there =
        |(name, value): &&(HeaderName, String)| headers.get_all(name).iter().any(|there| there == value);
    shape.require_headers.iter().find(|required| !is_there(required))
}

/// What is wrong with a response, and what to do about it.
type UnusableReason = (String, Option<String>);

/// A refusal needs no body: 401 and 5xx keep their meaning even if the config accepts them for a token.
fn unusable_response(
    status: StatusCode,
    (what, remedy): UnusableReason,
    retry_after: Option<Duration>,
    context: &ErrorContext<'_>,
) -> IssuerError {
    if status.is_client_error() || status.is_server_error() {
        context.refused(status, &ReportedError::default(), retry_after)
    } else {
        let error = context.unusable(status, what);
        remedy.iter().fold(error, |error, remedy| error.advise(remedy))
    }
}

fn grant(
    token: Secret,
    token_type: String,
    document: &Document,
    context: &ErrorContext<'_>,
    asked: &SentRequest<'_>,
    notes: &mut Vec<ResponseWarning>,
) -> Grant {
    let shape = &context.config.response;
    let claims = token.expose_str().and_then(claims_of);
    let (expires_in, expires_at) = expiry(document, claims.as_ref(), context, notes);
    let scope = scope_in(document, shape).and_then(|scope| context.redactor.show(&scope, SCOPE_LIMIT));
    if let Some(scope) = &scope {
        let granted: BTreeSet<&str> = scope.split_whitespace().collect();
        let missing: Vec<_> =
            asked.scopes.iter().filter(|scope| !granted.contains(scope.as_str())).cloned().collect();
        if !missing.is_empty() {
            notes.push(ResponseWarning::Narrower(missing));
        }
    }
    let audience = token.expose_str().zip(claims.as_ref());
    let audience =
        audience.map_or(Audience::Unknown, |(token, claims)| audience_of(token, claims, context.redactor));
    Grant {
        token,
        token_type,
        prover: None,
        asked: asked.at,
        took: Duration::ZERO,
        expires_in: expires_in.or_else(|| expires_at.map(|at| time_left(at, asked.at.wall))),
        scope,
        audience,
    }
}

/// The token's lifetime, or else when it expires.
fn expiry(
    document: &Document,
    claims: Option<&Map<String, Value>>,
    context: &ErrorContext<'_>,
    notes: &mut Vec<ResponseWarning>,
) -> (Option<Duration>, Option<SystemTime>) {
    let shape = &context.config.response;
    let own_exp = claims.and_then(|claims| parse_exp(claims.get("exp")?));
    let dated = match &shape.expires_at {
        ExpiresAt::At(pointer) => document.get(pointer),
        ExpiresAt::OwnExp => None,
    };
    let claimed = document.get(&shape.expires_in);
    let stated = claimed.and_then(parse_expires_in);
    let (expires_in, expires_at) = match &shape.expires_at {
        ExpiresAt::OwnExp => (stated.filter(|_| own_exp.is_none()), own_exp),
        // A duration goes before a point in time, because it does not depend on the issuer's clock.
        ExpiresAt::At(_) if stated.is_some() => (stated, None),
        ExpiresAt::At(_) => (None, dated.and_then(parse_expires_at).or(own_exp)),
    };
    let is_no_time = |value: &Value| number(value).is_none() && parse_expires_at(value).is_none();
    if stated.is_none() && (claimed.is_some() || dated.is_some_and(is_no_time)) {
        notes.push(ResponseWarning::LifetimeUnreadable);
    } else if expires_in.is_none() && expires_at.is_none() {
        notes.push(ResponseWarning::LifetimeMissing);
    }
    // The issuer's clock chose that time, so if the clocks differ, it is converted.
    let by_our_clock = |at| context.skew.map_or(Some(at), |skew| skew.by_our_clock(at));
    (expires_in, expires_at.and_then(by_our_clock))
}

/// Other parts of a response may repeat the token.
fn with_token(redactor: &Redactor, token: Option<&Secret>) -> Redactor {
    let mut redactor = redactor.clone();
    token.into_iter().for_each(|token| redactor.add(token));
    redactor
}

fn parse(body: &[u8], shape: &ResponseShape) -> Result<Document, Malformed> {
    let (description, scope) = (beside(&shape.error, "error_description"), beside(&shape.token, "scope"));
    let expires_at = match &shape.expires_at {
        ExpiresAt::At(pointer) => pointer,
        ExpiresAt::OwnExp => "",
    };
    let pointers =
        [&shape.token, &shape.token_type, &shape.expires_in, expires_at, &shape.error, &description, &scope];
    match shape.format {
        // Newer versions of servers that used forms respond with JSON.
        ResponseFormat::Form if !is_object(body) => Document::form(body, &pointers),
        // JSON here is an error.
        ResponseFormat::Text if !is_object(body) => Document::text(body),
        ResponseFormat::Json | ResponseFormat::Form | ResponseFormat::Text => Document::json(body, &pointers),
    }
}

fn is_object(body: &[u8]) -> bool {
    body.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(body).trim_ascii_start().starts_with(b"{")
}

fn usable_token(
    token: Option<Secret>,
    body: &[u8],
    context: &ErrorContext<'_>,
) -> Result<Secret, UnusableReason> {
    let at = &context.config.response.token;
    let whole = context.config.response.format == ResponseFormat::Text;
    let key = if whole { "format" } else { "token" };
    let remedy = || Some(format!("check response.{key} of [issuer.{}]", context.config.name));
    let token = token.ok_or_else(|| {
        let named = reported::member_list(body).and_then(|named| context.redactor.show(&named, NAMED_LIMIT));
        let named = named.map(|named| format!(" (the response has {named})")).unwrap_or_default();
        let what =
            if whole { "JSON instead of a bare token".to_owned() } else { format!("no token at {at}") };
        (format!("{what}{named}"), remedy())
    })?;
    match token.expose() {
        [] => Err((format!("an empty token at {at}"), remedy())),
        bytes if bytes.len() > TOKEN_LIMIT => {
            let what = format!("a token of {} bytes, and bearerd sends at most {TOKEN_LIMIT}", bytes.len());
            Err((what, Some("configure fewer claims (groups, roles) at the issuer".to_owned())))
        }
        bytes if !bytes.iter().all(|byte| matches!(byte, 0x21..=0x7E)) => {
            let what =
                "a token with a space, a control character or a character outside ASCII, so it was not used";
            Err((what.to_owned(), remedy()))
        }
        _ => Ok(token),
    }
}

/// The accepted type in lower case.
fn usable_type(
    document: &Document,
    context: &ErrorContext<'_>,
    notes: &mut Vec<ResponseWarning>,
) -> Result<String, UnusableReason> {
    let shape = &context.config.response;
    let accepted = |kind: &str| shape.token_types.iter().any(|accepted| accepted.eq_ignore_ascii_case(kind));
    let found = match document.get(&shape.token_type) {
        None => {
            // A bare token has no type beside it.
            notes.extend((shape.format != ResponseFormat::Text).then_some(ResponseWarning::TypeMissing));
            "Bearer"
        }
        Some(Value::String(found)) => found,
        Some(_) => {
            let remedy = format!("check response.type of [issuer.{}]", context.config.name);
            return Err((format!("a token type at {} that is not a text", shape.token_type), Some(remedy)));
        }
    };
    if accepted(found) {
        return Ok(found.to_ascii_lowercase());
    }
    let name = &context.config.name;
    let hint = match found.to_ascii_lowercase().as_str() {
        "dpop" if context.config.dpop.is_none() => {
            format!("set dpop of [issuer.{name}], because it is bound to a key")
        }
        "bearer" if context.config.dpop.is_some() => {
            "the issuer bound it to no key, so require DPoP for the client there".to_owned()
        }
        _ => format!(
            "add the type to response.token_types of [issuer.{name}] if the upstream takes such tokens"
        ),
    };
    let found = context.redactor.show_code(found).unwrap_or_else(|| MASK.to_owned());
    Err((format!("a token of type `{found}`, which response.token_types does not name"), Some(hint)))
}

/// The granted scopes: a text, or (against RFC 6749) a list of texts.
fn scope_in(document: &Document, shape: &ResponseShape) -> Option<String> {
    match document.get(&beside(&shape.token, "scope"))? {
        Value::String(scope) => Some(scope.clone()),
        Value::Array(scopes) => Some(scopes.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" ")),
        _ => None,
    }
}

fn redirected(status: StatusCode, headers: &HeaderMap, context: &ErrorContext<'_>) -> IssuerError {
    let location = headers.get(LOCATION).and_then(|value| value.to_str().ok());
    let host = location
        .and_then(|location| location.parse::<Uri>().ok())
        .and_then(|uri| uri.host().and_then(|host| context.redactor.show_code(host)));
    let to = host.map(|host| format!(" to {host}")).unwrap_or_default();
    let what = format!(
        "a redirect{to}, and bearerd does not follow redirects, because it would send the secret along"
    );
    context.unusable(status, what).advise(&format!(
        "check {} of [issuer.{}]",
        context.endpoint_key(),
        context.config.name
    ))
}

fn unreadable_body(
    malformed: Malformed,
    body: &[u8],
    headers: &HeaderMap,
    context: &ErrorContext<'_>,
) -> UnusableReason {
    let format = context.config.response.format;
    let hint = if is_html(body, headers) {
        context.web_page()
    } else if format == ResponseFormat::Json && (is_form(headers) || body.starts_with(b"access_token=")) {
        r#"it is a form; set response.format = "form""#.to_owned()
    } else if malformed == Malformed::NotText {
        format!("check response.format of [issuer.{}]", context.config.name)
    } else {
        format!("check {} of [issuer.{}]", context.endpoint_key(), context.config.name)
    };
    (malformed.to_string(), Some(hint))
}

/// A token without any lifetime left still serves the requests that wait for it.
const SHORTEST_LIFETIME: Duration = Duration::from_secs(1);
/// The longest pause that an issuer may ask for.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(5 * 60);
/// A larger epoch time is in milliseconds: in seconds it would be the year 5138, in milliseconds it is 1973.
const MILLISECONDS_FROM: f64 = 1e11;

impl Grant {
    /// The token works only together with a key: a DPoP proof's (RFC 9449), or a client certificate's (RFC 8705).
    pub fn is_bound(&self) -> bool {
        let names_a_key =
            || self.token.expose_str().and_then(claims_of).is_some_and(|claims| claims.contains_key("cnf"));
        self.prover.is_some() || names_a_key()
    }

    /// The lifetime that the response states, or else `default`; clamped to 1 s ..= 24 h.
    pub fn lifetime(&self, default: Duration) -> Duration {
        self.expires_in.unwrap_or(default).clamp(SHORTEST_LIFETIME, LONGEST_LIFETIME)
    }
}

/// Seconds from a number, or from a text that contains one, rounded down; clamped to 1 s ..= 24 h.
fn parse_expires_in(value: &Value) -> Option<Duration> {
    let seconds =
        number(value)?.floor().clamp(SHORTEST_LIFETIME.as_secs_f64(), LONGEST_LIFETIME.as_secs_f64());
    Duration::try_from_secs_f64(seconds).ok()
}

/// A point in time from epoch seconds or milliseconds (number or text) or a date.
fn parse_expires_at(value: &Value) -> Option<SystemTime> {
    match number(value) {
        // Some servers write 0 or a negative number for "unknown".
        Some(epoch) => at_epoch(epoch).filter(|&at| at != UNIX_EPOCH),
        None => parse_date(value.as_str()?.trim()),
    }
}

fn at_epoch(epoch: f64) -> Option<SystemTime> {
    let seconds = if epoch > MILLISECONDS_FROM { epoch / 1000.0 } else { epoch };
    UNIX_EPOCH.checked_add(Duration::try_from_secs_f64(seconds).ok()?)
}

/// The latest `exp` that is told apart from a later one, in epoch milliseconds: in the year 5138.
const LATEST_EXP: f64 = 1e14;

/// The `exp` of a JWT (RFC 7519 section 4.1.4). One that is not positive is in the past, and one that is too large in the
/// future.
fn parse_exp(value: &Value) -> Option<SystemTime> {
    at_epoch(number(value)?.clamp(0.0, LATEST_EXP))
}

/// The time from `now` until `at`, clamped like [`parse_expires_in`].
fn time_left(at: SystemTime, now: SystemTime) -> Duration {
    at.duration_since(now).unwrap_or_default().clamp(SHORTEST_LIFETIME, LONGEST_LIFETIME)
}

/// `Retry-After` (RFC 9110 section 10.2.3): seconds or a date, clamped to 1 s ..= 5 min.
fn parse_retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    let wait = if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // Digits that do not fit are a very long time.
        value.parse().map_or(LONGEST_RETRY_AFTER, Duration::from_secs)
    } else {
        httpdate::parse_http_date(value).ok()?.duration_since(now).unwrap_or_default()
    };
    Some(wait.clamp(SHORTEST_LIFETIME, LONGEST_RETRY_AFTER))
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => {
            let text = text.trim();
            // Rust's own parser also accepts "inf" and "nan".
            let plain =
                text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E'));
            if plain { text.parse().ok() } else { None }
        }
        _ => None,
    }
}

/// A date of RFC 3339, of HTTP, or of .NET, which Azure's App Service uses.
fn parse_date(text: &str) -> Option<SystemTime> {
    // Newer systems write a narrow no-break space before AM and PM.
    let text = &text.replace(['\u{202f}', '\u{a0}'], " ");
    let plain = parse_rfc3339(text).or_else(|| httpdate::parse_http_date(text).ok());
    plain.or_else(|| parse_rfc3339(&from_month_first(text)?))
}

/// `1/16/2020 5:24:12 AM +00:00` or `01/16/2020 05:24:12 +00:00`, which depends on the system of the server, as RFC 3339
/// writes it.
fn from_month_first(text: &str) -> Option<String> {
    let (date, rest) = text.split_once(' ')?;
    let (time, rest) = rest.split_once(' ')?;
    let (half, offset) = rest.split_once(' ').map_or(("", rest), |(half, offset)| (half, offset));
    let [month, day, year] = numbers(date, '/')?;
    let [hour, minute, second] = numbers(time, ':')?;
    let hour = match half {
        "" => hour,
        "AM" if (1..=12).contains(&hour) => hour % 12,
        "PM" if (1..=12).contains(&hour) => hour % 12 + 12,
        _ => return None,
    };
    Some(format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{offset}"))
}

fn numbers(text: &str, separator: char) -> Option<[u16; 3]> {
    let numbers: Option<Vec<u16>> = text.split(separator).map(|part| part.parse().ok()).collect();
    numbers?.try_into().ok()
}

fn parse_rfc3339(text: &str) -> Option<SystemTime> {
    // humantime knows only UTC.
    let Some(split) = text.len().checked_sub(6).filter(|_| !text.ends_with(['Z', 'z'])) else {
        return humantime::parse_rfc3339_weak(text.trim_end_matches('z')).ok();
    };
    let (local, offset) = text.split_at_checked(split)?;
    let Some((hours, minutes)) = offset.strip_prefix(['+', '-']).and_then(|offset| offset.split_once(':'))
    else {
        return humantime::parse_rfc3339_weak(text).ok().or_else(|| parse_rfc3339(&with_colon(text)?));
    };
    let minutes = hours.parse::<u64>().ok()? * 60 + minutes.parse::<u64>().ok()?;
    let shift = Duration::from_secs(minutes * 60);
    let local = humantime::parse_rfc3339_weak(local.trim_end()).ok()?;
    if offset.starts_with('-') { local.checked_add(shift) } else { local.checked_sub(shift) }
}

/// `…+0000` as `…+00:00`.
fn with_colon(text: &str) -> Option<String> {
    let (local, offset) = text.split_at_checked(text.len().checked_sub(5)?)?;
    let digits = offset.strip_prefix(['+', '-'])?;
    let (hours, minutes) = offset.split_at_checked(3)?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| format!("{local}{hours}:{minutes}"))
}

/// The most bytes of an audience that are shown.
const NAMES_LIMIT: usize = 128;
/// The `aud` of a JWT (RFC 7519 section 4.1.3), without a check of its signature.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub enum Audience {
    /// The token is opaque.
    #[default]
    Unknown,
    /// A JWT without an audience.
    None,
    /// At most 128 printable characters.
    Named(String),
}

/// The claims of a JWT in the compact form (RFC 7515 section 3.1), without a check of its signature.
pub(super) fn claims_of(token: &str) -> Option<Map<String, Value>> {
    let mut parts = token.split('.');
    let (_, claims, _, None) = (parts.next()?, parts.next()?, parts.next()?, parts.next()) else {
        return None;
    };
    // Some issuers pad, against the RFC.
    parse_json(&URL_SAFE_NO_PAD.decode(claims.trim_end_matches('=')).ok()?)
}

/// The audience that a token's claims name, as far as it may be shown.
fn audience_of(token: &str, claims: &Map<String, Value>, redactor: &Redactor) -> Audience {
    let names = match claims.get("aud") {
        Some(Value::String(name)) => name.clone(),
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", "),
        _ => String::new(),
    };
    // Checked with and without the characters that are not shown, because they may hide a secret.
    let plain: String = names.chars().filter(|letter| matches!(letter, ' '..='~')).collect();
    let shown = redactor.show(&names, NAMES_LIMIT).and_then(|_| redactor.show(&plain, NAMES_LIMIT));
    let Some(shown) = shown else { return Audience::Unknown };
    // An issuer may repeat the token there.
    if token.split('.').any(|part| part.len() > 8 && shown.contains(part)) {
        return Audience::Unknown;
    }
    if shown.is_empty() { Audience::None } else { Audience::Named(shown) }
}

/// Header fields in which vendors and gateways send the ID of the request in their own log.
const TRACE_FIELDS: [&str; 17] = [
    "x-ms-request-id",
    "client-request-id",
    "x-okta-request-id",
    "x-amzn-requestid",
    "x-amzn-trace-id",
    "x-amz-cf-id",
    "x-github-request-id",
    "x-fb-trace-id",
    "x-vcap-request-id",
    "x-oracle-dms-ecid",
    "x-azure-ref",
    "x-request-id",
    "x-correlation-id",
    "request-id",
    "correlation-id",
    "x-b3-traceid",
    "cf-ray",
];
/// A smaller difference between clocks does not cause a refusal.
const TOLERATED_SKEW: Duration = Duration::from_secs(60);

/// The two clocks, if they differ by more than a request can take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ClockSkew {
    ours: SystemTime,
    theirs: SystemTime,
}

impl ClockSkew {
    /// The time of the issuer's clock `theirs` by this machine's clock.
    fn by_our_clock(&self, theirs: SystemTime) -> Option<SystemTime> {
        match theirs.duration_since(self.theirs) {
            Ok(ahead) => self.ours.checked_add(ahead),
            Err(behind) => self.ours.checked_sub(behind.duration()),
        }
    }

    /// How far this machine's clock is off: `5m 2s behind`.
    pub(super) fn describe(&self) -> String {
        let (apart, side) = match self.theirs.duration_since(self.ours) {
            Ok(ahead) => (ahead, "behind"),
            Err(behind) => (behind.duration(), "ahead of"),
        };
        format!("{} {side}", humantime::format_duration(Duration::from_secs(apart.as_secs())))
    }
}

/// Compares `Date` (RFC 9110 section 6.6.1) with this machine's clock, which read `asked` before the request was sent.
/// `timeout` is the longest time that the request can have taken; `None`: any time.
pub(super) fn skew(headers: &HeaderMap, asked: SystemTime, timeout: Option<Duration>) -> Option<ClockSkew> {
    let theirs = httpdate::parse_http_date(headers.get(DATE)?.to_str().ok()?).ok()?;
    let apart = match theirs.duration_since(asked) {
        Ok(ahead) => ahead.saturating_sub(timeout?),
        Err(behind) => behind.duration(),
    };
    (apart > TOLERATED_SKEW).then_some(ClockSkew { ours: asked, theirs })
}

/// Names and values, the vendors' own header fields first.
pub(super) fn traces(headers: &HeaderMap) -> Vec<(String, String)> {
    let value = |name: &str| headers.get(name)?.to_str().ok().map(str::to_owned);
    TRACE_FIELDS.iter().filter_map(|&name| Some((name.to_owned(), value(name)?))).collect()
}

/// How long the issuer wants bearerd to wait.
pub(super) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    parse_retry_after(headers.get(RETRY_AFTER)?.to_str().ok()?, now)
}

/// The first content coding other than `identity`.
pub(super) fn coding(headers: &HeaderMap) -> Option<String> {
    headers
        .get_all(CONTENT_ENCODING)
        .iter()
        .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
        .map(|coding| String::from_utf8_lossy(coding.trim_ascii()).into_owned())
        .find(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case("identity"))
}

/// The content type is JSON.
fn is_json(headers: &HeaderMap) -> bool {
    media_type(headers).is_some_and(|kind| kind.ends_with("/json") || kind.ends_with("+json"))
}

/// The content type is a form.
fn is_form(headers: &HeaderMap) -> bool {
    media_type(headers).is_some_and(|kind| kind == "application/x-www-form-urlencoded")
}

/// The content type is plain text.
pub(super) fn is_plain_text(headers: &HeaderMap) -> bool {
    media_type(headers).is_some_and(|kind| kind == "text/plain")
}

/// A web page by its content type or by its beginning.
pub(super) fn is_html(body: &[u8], headers: &HeaderMap) -> bool {
    let named =
        media_type(headers).is_some_and(|kind| kind == "text/html" || kind == "application/xhtml+xml");
    let body = body.trim_ascii_start();
    (named && !body.is_empty()) || body.starts_with(b"<")
}

fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    Some(value.split(';').next()?.trim().to_ascii_lowercase())
}

#[cfg(test)]
mod tests;
