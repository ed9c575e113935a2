//! Judges a response of the token endpoint (RFC 6749 sections 5.1 and 5.2).

use std::collections::BTreeSet;
use std::fmt;
use std::time::{Duration, SystemTime};

use http::StatusCode;
use http::header::{HeaderMap, LOCATION};
use serde_json::Value;

use super::audience::{self, Audience};
use super::context::Context;
use super::document::{Document, Malformed, beside};
use super::exchange::{Answer, Lost};
use super::headers::{self, called_form, called_json, coding, is_html, retry_after};
use super::redact::Redactor;
use super::reported::{self, Reported};
use super::{FailureKind, Grant, IssuerError, lifetime};
use crate::config::{ResponseFormat, ResponseShape, Scopes};
use crate::net::dpop;
use crate::secret::{MASK, Secret};

/// The longest token, in bytes.
const TOKEN_LIMIT: usize = 16 * 1024;
/// The most bytes of a response's member names that are shown.
const NAMED_LIMIT: usize = 256;
/// The longest `scope` of a response that is kept, in bytes.
const SCOPE_LIMIT: usize = 4 * 1024;

/// What the request was.
pub(super) struct SentRequest<'a> {
    /// Before the request was sent.
    pub(super) at: SystemTime,
    pub(super) scopes: &'a Scopes,
}

/// What an operator should know of a response that is usable all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Note {
    TypeMissing,
    LifetimeMissing,
    LifetimeUnreadable,
    NotCalledJson,
    /// These scopes were asked for and not granted.
    Narrower(Vec<String>),
    /// This machine's clock is so far off the issuer's: `5m 2s behind`.
    ClockOff(String),
}

impl Note {
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

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TypeMissing => "names no token type, taken as Bearer",
            Self::LifetimeMissing => "names no lifetime, default_lifetime applies",
            Self::LifetimeUnreadable => "names a lifetime that cannot be read",
            Self::NotCalledJson => "is JSON under another content type",
            Self::Narrower(scopes) => {
                return write!(
                    f,
                    "grants less than was asked for, without the scopes {}: let this client have them at the issuer, \
                     or take them out of scopes",
                    scopes.join(" ")
                );
            }
            Self::ClockOff(apart) => {
                return write!(
                    f,
                    "shows that this machine's clock is {apart} the issuer's: set it right (NTP), or JWTs and \
                     lifetimes will not hold"
                );
            }
        })
    }
}

/// The token of a response, or why it holds none.
pub(super) fn judge(
    answer: Answer,
    context: &Context<'_>,
    asked: &SentRequest<'_>,
) -> Result<(Grant, Vec<Note>), IssuerError> {
    let context = &Context {
        traces: headers::traces(&answer.headers),
        skew: headers::skew(&answer.headers, asked.at, context.config.timeout),
        ..context.clone()
    };
    let status = answer.status;
    if context.config.response.statuses.contains(&status.as_u16()) {
        return accepted(answer, context, asked);
    }
    if status.is_redirection() {
        return Err(redirected(status, &answer.headers, context));
    }
    Err(refused(&answer, context, asked))
}

/// A response whose status says no, or is none that the config reads for a token.
fn refused(answer: &Answer, context: &Context<'_>, asked: &SentRequest<'_>) -> IssuerError {
    let (status, shape) = (answer.status, &context.config.response);
    let retry_after = retry_after(&answer.headers, asked.at);
    let body = match &answer.body {
        Ok(body) if coding(&answer.headers).is_none() => body.as_slice(),
        _ => &[],
    };
    // Servers that answer with forms still report errors as JSON.
    let as_json = ResponseShape { format: ResponseFormat::Json, ..shape.clone() };
    let mut document = parse(body, &as_json).or_else(|_| parse(body, shape)).ok();
    let token = document.as_mut().and_then(|document| document.take_secret(&shape.token));
    let mut reported = Reported::read(status, &answer.headers, body, document.as_ref(), shape);
    // Servers with bodies of their own say it in the header as RFC 9449 section 8 has it.
    let challenge = dpop::challenge_error(&answer.headers);
    if let Some(code) =
        challenge.filter(|code| [dpop::USE_NONCE, dpop::INVALID_PROOF].contains(&code.as_str()))
    {
        reported.code = Some(code);
    }
    let context = &Context { redactor: &knowing(context.redactor, token.as_ref()), ..context.clone() };
    context.refused(status, &reported, retry_after)
}

/// A response whose status says that it holds a token.
fn accepted(
    answer: Answer,
    context: &Context<'_>,
    asked: &SentRequest<'_>,
) -> Result<(Grant, Vec<Note>), IssuerError> {
    let shape = &context.config.response;
    let Answer { status, headers, body } = answer;
    let retry_after = retry_after(&headers, asked.at);
    let unusable = |unfit: Unfit| tokenless(status, unfit, retry_after, context);
    if let Some(coding) = coding(&headers) {
        let coding = context.redactor.show_code(&coding).unwrap_or_default();
        let what = format!("a body in content-encoding {coding}, though identity was asked for");
        return Err(unusable((what, Some("the fault is the issuer's".to_owned()))));
    }
    let body = body.map_err(|lost| match lost {
        Lost::TooLarge(limit) => {
            let remedy = format!("check {} of [issuer.{}]", context.endpoint_key(), context.config.name);
            unusable((format!("a body of more than {limit} bytes"), Some(remedy)))
        }
        Lost::CutOff => {
            let code = status.as_u16();
            let what = format!("answered {code} and closed the connection in the middle of the body");
            let error = context.fail(FailureKind::Unavailable, what);
            IssuerError {
                http_status: Some(code),
                ..error.advise("the fault is the issuer's, and it is asked again")
            }
        }
    })?;
    let mut document =
        parse(&body, shape).map_err(|malformed| unusable(unread(malformed, &body, &headers, context)))?;
    // Taken first: whatever comes of the response, the token's memory is wiped, and no text shows it.
    let token = document.take_secret(&shape.token);
    let context = &Context { redactor: &knowing(context.redactor, token.as_ref()), ..context.clone() };
    if token.is_none() || reported::error_in(&document, shape).is_some() {
        let reported = Reported::of_document(status, &body, Some(&document), shape);
        if reported::error_in(&document, shape).is_some() || reported.says_something() {
            return Err(context.refused(status, &reported, retry_after));
        }
    }
    let unusable = |unfit: Unfit| tokenless(status, unfit, retry_after, context);
    let token = usable_token(token, &body, context).map_err(&unusable)?;
    let mut notes = Vec::new();
    let token_type = usable_type(&document, context, &mut notes).map_err(&unusable)?;
    if shape.format == ResponseFormat::Json && !called_json(&headers) {
        notes.push(Note::NotCalledJson);
    }
    notes.extend(context.skew.map(|skew| Note::ClockOff(skew.of_ours())));
    Ok((grant(token, token_type, &document, context, asked, &mut notes), notes))
}

/// What a response holds that is of no use, and what to do about it.
type Unfit = (String, Option<String>);

/// A refusal needs no body: 401 and 5xx keep their meaning even where they are read for a token.
fn tokenless(
    status: StatusCode,
    (what, remedy): Unfit,
    retry_after: Option<Duration>,
    context: &Context<'_>,
) -> IssuerError {
    if status.is_client_error() || status.is_server_error() {
        context.refused(status, &Reported::default(), retry_after)
    } else {
        let error = context.unusable(status, what);
        remedy.iter().fold(error, |error, remedy| error.advise(remedy))
    }
}

fn grant(
    token: Secret,
    token_type: String,
    document: &Document,
    context: &Context<'_>,
    asked: &SentRequest<'_>,
    notes: &mut Vec<Note>,
) -> Grant {
    let shape = &context.config.response;
    let expires_at = document.get(&shape.expires_at).and_then(lifetime::expires_at);
    // The issuer's clock chose that time: where ours differs, it means another one here.
    let expires_at = match context.skew {
        Some(skew) => expires_at.and_then(|at| skew.by_our_clock(at)),
        None => expires_at,
    };
    let claimed = document.get(&shape.expires_in);
    let expires_in = claimed.and_then(lifetime::expires_in);
    if expires_in.is_none() && (claimed.is_some() || expires_at.is_none()) {
        notes.push(if claimed.is_some() { Note::LifetimeUnreadable } else { Note::LifetimeMissing });
    }
    // How long goes before until when: only the one is free of the issuer's clock.
    let expires_at = expires_at.filter(|_| expires_in.is_none());
    let scope = scope_in(document, shape).and_then(|scope| context.redactor.show(&scope, SCOPE_LIMIT));
    if let Some(scope) = &scope {
        let granted: BTreeSet<&str> = scope.split_whitespace().collect();
        let missing: Vec<_> =
            asked.scopes.iter().filter(|scope| !granted.contains(scope.as_str())).cloned().collect();
        if !missing.is_empty() {
            notes.push(Note::Narrower(missing));
        }
    }
    let audience =
        token.expose_str().map_or(Audience::Unknown, |token| audience::of(token, context.redactor));
    Grant {
        token,
        token_type,
        prover: None,
        // Where the response names only the end, the lifetime follows from when it was asked for.
        expires_in: expires_in.or_else(|| expires_at.map(|at| lifetime::until(at, asked.at))),
        expires_at,
        scope,
        audience,
    }
}

/// What a server says beside a token may hold that token.
fn knowing(redactor: &Redactor, token: Option<&Secret>) -> Redactor {
    let mut redactor = redactor.clone();
    token.into_iter().for_each(|token| redactor.add(token));
    redactor
}

fn parse(body: &[u8], shape: &ResponseShape) -> Result<Document, Malformed> {
    let (description, scope) = (beside(&shape.error, "error_description"), beside(&shape.token, "scope"));
    let pointers = [
        &shape.token,
        &shape.token_type,
        &shape.expires_in,
        &shape.expires_at,
        &shape.error,
        &description,
        &scope,
    ]
    .map(String::as_str);
    match shape.format {
        // Servers that once answered with forms answer with JSON in newer versions.
        ResponseFormat::Form if !is_object(body) => Document::form(body, &pointers),
        ResponseFormat::Json | ResponseFormat::Form => Document::json(body, &pointers),
    }
}

fn is_object(body: &[u8]) -> bool {
    body.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(body).trim_ascii_start().starts_with(b"{")
}

fn usable_token(token: Option<Secret>, body: &[u8], context: &Context<'_>) -> Result<Secret, Unfit> {
    let at = &context.config.response.token;
    let remedy = || Some(format!("check response.token of [issuer.{}]", context.config.name));
    let token = token.ok_or_else(|| {
        let named = reported::named(body).and_then(|named| context.redactor.show(&named, NAMED_LIMIT));
        let named = named.map(|named| format!(" (the response has {named})")).unwrap_or_default();
        (format!("no token at {at}{named}"), remedy())
    })?;
    match token.expose() {
        [] => Err((format!("an empty token at {at}"), remedy())),
        bytes if bytes.len() > TOKEN_LIMIT => {
            let what =
                format!("a token of {} bytes, and {TOKEN_LIMIT} is the most that is sent on", bytes.len());
            Err((what, Some("have the issuer put less into it (groups, roles)".to_owned())))
        }
        bytes if !bytes.iter().all(|byte| matches!(byte, 0x21..=0x7E)) => {
            let what =
                "a token that holds a space, a control character or one outside ASCII, so it was not used";
            Err((what.to_owned(), remedy()))
        }
        _ => Ok(token),
    }
}

/// The accepted type, lower case.
fn usable_type(document: &Document, context: &Context<'_>, notes: &mut Vec<Note>) -> Result<String, Unfit> {
    let shape = &context.config.response;
    let accepted = |kind: &str| shape.token_types.iter().any(|accepted| accepted.eq_ignore_ascii_case(kind));
    let found = match document.get(&shape.token_type) {
        None => {
            notes.push(Note::TypeMissing);
            "Bearer"
        }
        Some(Value::String(found)) => found,
        Some(_) => {
            let remedy = format!("check response.type of [issuer.{}]", context.config.name);
            return Err((format!("a token type at {} that is no text", shape.token_type), Some(remedy)));
        }
    };
    if accepted(found) {
        return Ok(found.to_ascii_lowercase());
    }
    let name = &context.config.name;
    let hint = match found.to_ascii_lowercase().as_str() {
        "dpop" if context.config.dpop.is_none() => {
            format!("set dpop of [issuer.{name}], it is bound to a key")
        }
        "bearer" if context.config.dpop.is_some() => {
            "the issuer bound it to no key, so have the client require DPoP there".to_owned()
        }
        _ => "add it there if the upstream takes such tokens".to_owned(),
    };
    let found = context.redactor.show_code(found).unwrap_or_else(|| MASK.to_owned());
    let what =
        format!("a token of type `{found}`, and response.token_types of [issuer.{name}] does not name it");
    Err((what, Some(hint)))
}

/// The granted scopes: a text, or (against RFC 6749) a list of texts.
fn scope_in(document: &Document, shape: &ResponseShape) -> Option<String> {
    match document.get(&beside(&shape.token, "scope"))? {
        Value::String(scope) => Some(scope.clone()),
        Value::Array(scopes) => Some(scopes.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" ")),
        _ => None,
    }
}

fn redirected(status: StatusCode, headers: &HeaderMap, context: &Context<'_>) -> IssuerError {
    let location = headers.get(LOCATION).and_then(|value| value.to_str().ok());
    let host = location
        .and_then(|location| location.parse::<http::Uri>().ok())
        .and_then(|uri| uri.host().and_then(|host| context.redactor.show_code(host)));
    let to = host.map(|host| format!(" to {host}")).unwrap_or_default();
    let what = format!("a redirect{to}, and redirects are not followed, because the secret would go along");
    context.unusable(status, what).advise(&format!(
        "check {} of [issuer.{}]",
        context.endpoint_key(),
        context.config.name
    ))
}

fn unread(malformed: Malformed, body: &[u8], headers: &HeaderMap, context: &Context<'_>) -> Unfit {
    let format = context.config.response.format;
    let hint = if is_html(body, headers) {
        context.web_page()
    } else if format == ResponseFormat::Json && (called_form(headers) || body.starts_with(b"access_token=")) {
        r#"that is a form; set response.format = "form""#.to_owned()
    } else {
        format!("check {} of [issuer.{}]", context.endpoint_key(), context.config.name)
    };
    (malformed.to_string(), Some(hint))
}

#[cfg(test)]
mod tests;
