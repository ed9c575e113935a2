//! A token listener: a token endpoint (RFC 6749 section 3.2) for programs that want the token itself.
//!
//! It hands out the tokens that routes send, from the same slots: a token is fetched, renewed, and shared in one way, whoever
//! uses it. Errors are those of section 5.2 ([`super::error`]).

use std::collections::HashSet;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::Serialize;

use super::admit::{Caller, ListenerRules, admit_to_endpoint};
use super::error::{Code, OAuthError, ProxyError, without_body};
use super::headers::FieldSet;
use super::record::Record;
use super::response::Content;
use super::{RouteService, Snapshot};
use crate::clock::{Clock as _, SystemClock};
use crate::config::IssuerConfig;
use crate::inbound::{CallerBody, CallerBodyError};
use crate::issuer::decode_form;
use crate::secret::Secret;
use crate::telemetry::Repeated;
use crate::token::{Token, TokenSlot};

const PATH: &str = "/token";
/// `/token/ISSUER` begins so.
const PATH_OF_ISSUER: &str = "/token/";
const GRANT_TYPE: &str = "client_credentials";
const BODY_LIMIT: usize = 64 * 1024;
const BODY_TIME: Duration = Duration::from_secs(10);

const UNKNOWN_CLIENT: OAuthError = OAuthError { error: "invalid_client", status: StatusCode::BAD_REQUEST };
const UNSUPPORTED_GRANT: OAuthError =
    OAuthError { error: "unsupported_grant_type", status: StatusCode::BAD_REQUEST };
const UNKNOWN_SCOPE: OAuthError = OAuthError { error: "invalid_scope", status: StatusCode::BAD_REQUEST };
const BOUND: OAuthError = OAuthError { error: "unauthorized_client", status: StatusCode::BAD_REQUEST };

/// An issuer whose tokens a token listener hands out.
pub struct TokenService {
    pub issuer: Arc<IssuerConfig>,
    /// Its token with its own scopes and parameters.
    pub own: Arc<TokenSlot>,
    /// No route needs `own`, so only requests to a token listener have it fetched.
    pub on_demand: bool,
    /// The tokens of its routes, each once.
    routes: Vec<Arc<TokenSlot>>,
    /// Indexed by [`Code`], because an outage fails every request with the same words.
    warnings: [Repeated; Code::ALL.len()],
}

impl TokenService {
    /// `routes`: all of the config.
    pub fn new(
        issuer: &Arc<IssuerConfig>,
        own: Arc<TokenSlot>,
        on_demand: bool,
        routes: &[Arc<RouteService>],
    ) -> Self {
        let mut met = HashSet::from([Arc::as_ptr(&own)]);
        let slots = routes.iter().filter_map(|route| route.slot.as_ref());
        let of_issuer = slots.filter(|slot| slot.issuer().name == issuer.name);
        let routes = of_issuer.filter(|slot| met.insert(Arc::as_ptr(slot))).cloned().collect();
        Self { issuer: Arc::clone(issuer), own, on_demand, routes, warnings: Default::default() }
    }

    /// See [`RouteService::warning_due`].
    pub(super) fn warning_due(&self, code: Code) -> Option<u64> {
        self.warnings.get(code as usize).map_or(Some(0), |warning| warning.due(SystemClock.boot()))
    }

    /// The token with these scopes and the fewest others, in any order. The response says which it has.
    fn slot(&self, scope: Option<&str>) -> Result<&Arc<TokenSlot>, ProxyError> {
        let wanted: HashSet<&str> =
            scope.unwrap_or_default().split(' ').filter(|scope| !scope.is_empty()).collect();
        if wanted.is_empty() {
            return Ok(&self.own);
        }
        let has = |slot: &&Arc<TokenSlot>| {
            wanted.iter().all(|wanted| slot.key().scopes.iter().any(|scope| scope == wanted))
        };
        let fitting = || std::iter::once(&self.own).chain(&self.routes).filter(has);
        let fewest = fitting().map(|slot| slot.key().scopes.len()).min();
        let mut found = fitting().filter(|slot| Some(slot.key().scopes.len()) == fewest);
        let name = &self.issuer.name;
        match (found.next(), found.next()) {
            // The issuer's own is the first.
            (Some(slot), None) => Ok(slot),
            (Some(slot), Some(_)) if Arc::ptr_eq(slot, &self.own) => Ok(slot),
            (Some(_), Some(_)) => Err(invalid_request(format!(
                "issuer {name} has several tokens with these scopes, which differ in other scopes, or in parameters that a request \
                 cannot name; make one of them an issuer of its own"
            ))),
            (None, _) => Err(ProxyError::new(
                Code::BadRequest,
                format!(
                    "issuer {name} has no token with these scopes; request those of the issuer or of one of its routes, or leave \
                     scope out"
                ),
            )
            .oauth(UNKNOWN_SCOPE)),
        }
    }
}

/// The methods of a path that names an issuer, and so those of the listener as a whole.
const WITH_ISSUER: &str = "GET, HEAD, POST, OPTIONS";

fn allowed_at(path: &str) -> &'static str {
    if path.starts_with(PATH_OF_ISSUER) { WITH_ISSUER } else { "POST, OPTIONS" }
}

/// Responds to a request of a token listener.
///
/// # Errors
/// 400, 421, 403, 404, and 405 as on any listener, and everything of RFC 6749 section 5.2; 502, 503, or 504 without a token.
pub(super) async fn serve(
    snapshot: &Snapshot,
    rules: &ListenerRules,
    caller: &Caller,
    record: &mut Record,
    request: &mut Request<CallerBody>,
    fields: FieldSet,
) -> Result<Response<Content>, ProxyError> {
    let admitted = admit_to_endpoint(rules, caller, request, fields)
        // For CONNECT and TRACE, which are refused before the path is read.
        .map_err(|error| ProxyError { allow: allowed_at(request.uri().path()), ..error })?;
    let Some(path) = admitted else { return Ok(options_response(WITH_ISSUER)) };
    let in_path = issuer_in(&path.canonical)?.map(str::to_owned);
    let allowed = allowed_at(&path.canonical);
    let head_only = request.method() == Method::HEAD;
    let asked = match *request.method() {
        Method::POST => Asked::by_form(request).await?,
        Method::GET | Method::HEAD if in_path.is_some() => Asked::by_query(request)?,
        Method::OPTIONS => return Ok(options_response(allowed)),
        _ => {
            let detail = format!("{} is not for this path, only {allowed}", request.method());
            return Err(ProxyError { allow: allowed, ..ProxyError::new(Code::MethodRefused, detail) });
        }
    };
    let service = find(snapshot, in_path.as_deref(), &asked)?;
    record.token_service = Some(Arc::clone(service));
    if service.issuer.dpop.is_some() {
        return Err(bound(&service.issuer.name));
    }
    let slot = service.slot(asked.scope.as_deref())?;
    let token = match slot.current() {
        Some(token) => token,
        None => Arc::clone(slot).newer_than(0, None).await?,
    };
    if token.bound {
        return Err(bound(&service.issuer.name));
    }
    let response = match asked.form {
        Form::Json => token_response(&token, slot),
        Form::Text => text_response(&token),
    };
    Ok(if head_only { without_body(response) } else { response })
}

/// The issuer that a path names; `None` for the endpoint of all.
fn issuer_in(path: &str) -> Result<Option<&str>, ProxyError> {
    match path.strip_prefix(PATH_OF_ISSUER) {
        None if path == PATH => Ok(None),
        Some(name) if !name.is_empty() && !name.contains('/') => Ok(Some(name)),
        _ => Err(ProxyError::new(
            Code::NoRoute,
            "a token listener has only POST /token and GET or POST /token/ISSUER",
        )),
    }
}

fn options_response(allowed: &'static str) -> Response<Content> {
    let mut response = super::response::options_response(None);
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
    response
}

/// The form of a response with a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Json,
    /// The bare token and a line end.
    Text,
}

/// What a request asks for. A client's secret is not kept.
struct Asked {
    issuer: Option<String>,
    client_id: Option<String>,
    /// `client_id` comes from `Authorization`.
    basic: bool,
    scope: Option<String>,
    form: Form,
}

impl Asked {
    /// A token request (section 4.4.2).
    async fn by_form(request: &mut Request<CallerBody>) -> Result<Self, ProxyError> {
        if !is_form(request.headers()) {
            return Err(invalid_request("Content-Type is not application/x-www-form-urlencoded"));
        }
        let basic = basic_user(request.headers())?;
        let body = read_body(request).await?;
        let mut asked = Parameters::read(&body)?;
        match asked.grant_type.as_deref() {
            Some(GRANT_TYPE) => {}
            None => return Err(invalid_request("grant_type is missing: it must be client_credentials")),
            Some(_) => {
                let detail =
                    "grant_type must be client_credentials: bearerd has no users and no refresh tokens";
                return Err(ProxyError::new(Code::BadRequest, detail).oauth(UNSUPPORTED_GRANT));
            }
        }
        let differs = matches!((&basic, &asked.client_id), (Some(basic), Some(id)) if basic != id);
        if differs {
            return Err(invalid_request("client_id and the user of Authorization are different clients"));
        }
        let (is_basic, in_body) = (basic.is_some(), asked.client_id.take());
        Ok(Self {
            issuer: asked.issuer,
            client_id: basic.or(in_body),
            basic: is_basic,
            scope: asked.scope,
            form: Form::Json,
        })
    }

    /// A GET of a script. The path names the issuer.
    fn by_query(request: &Request<CallerBody>) -> Result<Self, ProxyError> {
        let asked = Parameters::read(request.uri().query().unwrap_or_default().as_bytes())?;
        let form = preferred_form(request.headers());
        Ok(Self { issuer: asked.issuer, client_id: None, basic: false, scope: asked.scope, form })
    }
}

/// The parameters that bearerd knows. All others are ignored (section 3.2).
#[derive(Default)]
struct Parameters {
    grant_type: Option<String>,
    issuer: Option<String>,
    client_id: Option<String>,
    scope: Option<String>,
}

impl Parameters {
    /// A parameter without a value counts as left out, and no parameter may be there twice (section 3.2).
    fn read(form: &[u8]) -> Result<Self, ProxyError> {
        let pairs = decode_form(form).ok_or_else(|| {
            invalid_request("the parameters are not a form: an escape is broken, or it is not UTF-8")
        })?;
        let (mut this, mut met) = (Self::default(), HashSet::new());
        for (name, value) in pairs {
            let value = Some(value).filter(|value| !value.is_empty());
            match name.as_str() {
                "grant_type" => this.grant_type = value,
                "issuer" => this.issuer = value,
                "client_id" => this.client_id = value,
                "scope" => this.scope = value,
                _ => {}
            }
            if !met.insert(name) {
                return Err(invalid_request("a parameter is there twice"));
            }
        }
        Ok(this)
    }
}

fn is_form(headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else { return false };
    let Ok(text) = line.to_str() else { return false };
    let mut parts = text.split(';').map(str::trim);
    let is_form =
        parts.next().is_some_and(|media| media.eq_ignore_ascii_case("application/x-www-form-urlencoded"));
    // The only parameter that anybody sends is the charset, and the names of others say nothing about the form.
    is_form
        && parts
            .all(|parameter| charset(parameter).is_none_or(|charset| charset.eq_ignore_ascii_case("utf-8")))
}

fn charset(parameter: &str) -> Option<&str> {
    let (name, value) = parameter.split_once('=')?;
    name.trim().eq_ignore_ascii_case("charset").then(|| value.trim().trim_matches('"'))
}

async fn read_body(request: &mut Request<CallerBody>) -> Result<Bytes, ProxyError> {
    let body = Limited::new(std::mem::take(request.body_mut()), BODY_LIMIT);
    match tokio::time::timeout(BODY_TIME, body.collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Err(invalid_request("the body is larger than 64 KiB"))
        }
        Ok(Err(error)) => match error.downcast_ref() {
            Some(CallerBodyError::Malformed(what)) => {
                Err(invalid_request(format!("the body is malformed ({what})")))
            }
            _ => Err(invalid_request("the body is incomplete")),
        },
        Err(_) => Err(invalid_request("the body did not arrive within 10 s")),
    }
}

/// The user of HTTP Basic (section 2.3.1). `None` without it: another scheme may be the listener's `require_header`. The
/// password is not looked at: who may use the listener is for its own rules to say.
fn basic_user(headers: &HeaderMap) -> Result<Option<String>, ProxyError> {
    let mut lines = headers.get_all(header::AUTHORIZATION).iter();
    let Some(line) = lines.next() else { return Ok(None) };
    if lines.next().is_some() {
        return Err(invalid_request("Authorization is there twice"));
    }
    let Some((scheme, encoded)) = line.to_str().ok().and_then(|line| line.split_once(' ')) else {
        return Ok(None);
    };
    if !scheme.eq_ignore_ascii_case("basic") {
        return Ok(None);
    }
    let unreadable = || invalid_request("Authorization: Basic has no user and password in base64");
    let decoded = Secret::new(STANDARD.decode(encoded.trim()).map_err(|_| unreadable())?);
    let (user, _) = decoded.expose_str().and_then(|text| text.split_once(':')).ok_or_else(unreadable)?;
    // Clients escape it, or not. An issuer's name has no character to escape.
    Ok(Some(user.to_owned()).filter(|user| !user.is_empty()))
}

/// The bare token if `Accept` names `text/plain`, and not JSON as well.
fn preferred_form(headers: &HeaderMap) -> Form {
    let names = |wanted: &str| {
        let lines = headers.get_all(header::ACCEPT).iter().filter_map(|line| line.to_str().ok());
        let mut ranges = lines.flat_map(|line| line.split(',')).map(|range| range.split(';').map(str::trim));
        ranges.any(|mut parts| {
            let is_it = parts.next().is_some_and(|media| media.eq_ignore_ascii_case(wanted));
            let refused = |parameter: &str| {
                let quality = parameter.strip_prefix("q=").or_else(|| parameter.strip_prefix("Q="));
                quality.and_then(|quality| quality.parse::<f32>().ok()) == Some(0.0)
            };
            is_it && !parts.any(refused)
        })
    };
    if names("text/plain") && !names("application/json") { Form::Text } else { Form::Json }
}

/// The issuer that a request names: by its path, `issuer`, or the client's ID. It need not name the only one.
fn find<'a>(
    snapshot: &'a Snapshot,
    in_path: Option<&str>,
    asked: &Asked,
) -> Result<&'a Arc<TokenService>, ProxyError> {
    let services = &snapshot.token_services;
    let known = || {
        let mut names = String::new();
        for name in services.keys().take(MOST_NAMED) {
            let _ = write!(names, "{}{name}", if names.is_empty() { "" } else { ", " });
        }
        if services.len() > MOST_NAMED { format!("{names} …") } else { names }
    };
    if let (Some(path), Some(issuer)) = (in_path, &asked.issuer)
        && path != issuer
    {
        return Err(invalid_request("the path and the parameter issuer name different issuers"));
    }
    if let Some(name) = in_path {
        let detail = || format!("no issuer has the name in this path; the issuers are: {}", known());
        return services.get(name).ok_or_else(|| ProxyError::new(Code::NoRoute, detail()));
    }
    if let Some(name) = &asked.issuer {
        let detail = || format!("issuer names no issuer of the config; they are: {}", known());
        return services.get(name.as_str()).ok_or_else(|| invalid_request(detail()));
    }
    if let Some(name) = &asked.client_id {
        let error = if asked.basic { OAuthError::UNAUTHENTICATED } else { UNKNOWN_CLIENT };
        let detail = || {
            format!(
                "the client's ID names no issuer of the config; use one of these, or POST /token/ISSUER, where the ID does not \
                 matter: {}",
                known()
            )
        };
        return services
            .get(name.as_str())
            .ok_or_else(|| ProxyError::new(Code::BadRequest, detail()).oauth(error));
    }
    let mut all = services.values();
    match (all.next(), all.next()) {
        (Some(only), None) => Ok(only),
        _ => Err(invalid_request(format!(
            "name the issuer, as issuer or client_id; the issuers are: {}",
            known()
        ))),
    }
}

/// At most this many issuers are named in an error.
const MOST_NAMED: usize = 10;

fn invalid_request(detail: impl Into<String>) -> ProxyError {
    ProxyError::bad_request(detail)
}

fn bound(issuer: &str) -> ProxyError {
    let detail = format!(
        "issuer {issuer} binds its tokens to a key that only bearerd has (DPoP or a client certificate), so no other program can \
         use them; send the requests through a route instead"
    );
    ProxyError::new(Code::BadRequest, detail).oauth(BOUND)
}

/// The members of a response with a token (section 5.1).
#[derive(Serialize)]
struct TokenResponse<'a> {
    access_token: &'a str,
    token_type: &'a str,
    expires_in: u64,
    #[serde(skip_serializing_if = "str::is_empty")]
    scope: &'a str,
}

fn token_response(token: &Token, slot: &TokenSlot) -> Response<Content> {
    let requested = slot.key().scopes.joined();
    let members = TokenResponse {
        access_token: token.secret.expose_str().expect("a usable token is ASCII"),
        // Whatever the issuer calls it, this is how bearerd sends it.
        token_type: "Bearer",
        // Some clients take 0 for "never".
        expires_in: slot.time_left(token).as_secs().max(1),
        scope: token.granted_scope.as_deref().unwrap_or(&requested),
    };
    // In one allocation, because a vector that grows leaves an unwiped copy behind.
    let (escaped, others) = (2 * members.access_token.len() + 6 * members.scope.len(), 128);
    let mut json = Vec::with_capacity(escaped + others);
    serde_json::to_writer(&mut json, &members).expect("text and a number can be written");
    response("application/json", json)
}

fn text_response(token: &Token) -> Response<Content> {
    let mut text = Vec::with_capacity(token.secret.expose().len() + 1);
    text.extend_from_slice(token.secret.expose());
    text.push(b'\n');
    response("text/plain", text)
}

fn response(content_type: &'static str, body: Vec<u8>) -> Response<Content> {
    let mut response = Response::new(Content::Full(Secret::new(body).into_bytes()));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
    response
}
