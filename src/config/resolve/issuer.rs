//! `[issuer.NAME]`.

use super::super::client_auth::{ClientAuth, Proof};
use super::super::document::Place;
use super::super::model::{Carrier, HttpUrl, IssuerConfig, JwtUse, ResponseShape, TokenEndpoint};
use super::super::raw::issuer::{RawIssuer, RawResponse, TokenMethod};
use super::super::raw::keys::{Word, check};
use super::super::raw::values::RawReference;
use super::super::reference::Source;
use super::super::report::Report;
use super::super::types::{self, url};
use super::client_auth::{Beside, basic, client_auth, refuse_second_authorization, standby};
use super::value::{ValueKind, headers, params, reference, refuse_tables, scopes};
use super::{credential, jwt, peer, unwritten};

/// RFC 7523 section 2.1.
const JWT_BEARER_GRANT: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
/// RFC 9449 section 5.
const DPOP_TOKEN_TYPE: &str = "dpop";

pub(super) fn resolve(
    place: &Place<'_>,
    name: &str,
    raw: RawIssuer,
    report: &mut Report,
) -> Option<IssuerConfig> {
    let found = report.problems.len();
    check(place, types::name(name), report);
    let endpoint = endpoint(place, raw.issuer_url, raw.token_url, report);
    let carrier = carrier(place, raw.method, raw.body, report);

    let send_client_id = raw.send_client_id.0;
    let encoding = raw.basic_encoding.read(place, "basic_encoding", report);
    let usage = jwt::usage(place, raw.jwt.as_ref(), report);
    let beside = Beside { encoding, usage };
    let client_auth = client_auth(place, raw.client_auth, raw.client_secret, &beside, report);
    let proof = client_auth.as_ref().map(ClientAuth::proof);
    let issuer_named = raw.jwt.as_ref().is_some_and(|jwt| jwt.issuer.is_some());
    let written = jwt::Written {
        jwt: raw.jwt,
        private_key: raw.private_key,
        certificate: raw.certificate,
        assertion: raw.assertion,
        assertion_type: raw.assertion_type,
    };
    let signing = jwt::signing(place, written, usage, client_auth.as_ref(), report);
    let grant_type = grant_type(raw.grant_type, usage);
    let client_id = raw.client_id.and_then(|raw| client_id(&place.key("client_id"), raw, report));
    if send_client_id || client_auth.as_ref().is_none_or(|auth| auth.method.needs_client_id(issuer_named)) {
        report.missing(
            &place.key("client_id"),
            "is missing",
            "client_id = \"…\", the client's name at the issuer",
        );
    }
    let basic = basic(&place.key("basic"), raw.basic, encoding, report);
    let uses_basic = matches!(proof, None | Some(Proof::Basic)) || basic.is_some();
    if !uses_basic && place.key("basic_encoding").is_written() {
        let message = "is about HTTP Basic, and none is sent";
        report.error(
            &place.key("basic_encoding"),
            message,
            "leave it out, or set client_auth = \"client_secret_basic\"",
        );
    }
    let standby = standby(&place.key("standby"), raw.standby, client_auth.as_ref(), usage, report);
    let headers = headers(&place.key("headers"), raw.headers, report);
    let signed = signing.jwt.as_ref().map(|jwt| jwt.usage);
    refuse_second_authorization(place, client_auth.as_ref(), signed, &headers, report);
    let dpop = jwt::dpop(&place.key("dpop"), raw.dpop, report);
    let params = params(&place.key("params"), raw.params, report);
    if carrier != Carrier::Json {
        refuse_tables(&place.key("params"), &params, report);
    }
    let mut tls = peer::tls(&place.key("tls"), raw.tls, report);
    if proof == Some(Proof::Certificate) && tls.certificate.is_none() {
        tls.certificate.clone_from(&signing.certificate);
        tls.private_key = signing.private_key.clone().or_else(|| signing.certificate.clone());
    }
    let refresh_at = raw.refresh_at.unwrap_or(RawIssuer::REFRESH_AT);
    if !(refresh_at > 0.0 && refresh_at <= 1.0) {
        report.error(
            &place.key("refresh_at"),
            "must be above 0 and at most 1",
            "it is a share of the lifetime: 0.8",
        );
    }
    let default_lifetime = raw.default_lifetime.read(place, "default_lifetime", report);
    if default_lifetime.is_zero() {
        report.error(&place.key("default_lifetime"), "must be longer than \"0s\"", "");
    }
    let egress = peer::egress(&place.key("proxy"), raw.proxy, report);
    if let Some(TokenEndpoint::Url(url) | TokenEndpoint::Discovery(url)) = &endpoint
        && !url.https
    {
        peer::refuse_plain_tunnel(place, &url.host, &egress, report);
    }
    let issuer = IssuerConfig {
        name: name.into(),
        digest: credential::issuer_digest(place, report),
        preset: raw.preset.map(Into::into),
        required: raw.required.0,
        grant_type,
        carrier,
        basic,
        send_client_id,
        client_id,
        standby,
        credential_grace: raw.credential_grace.read(place, "credential_grace", report),
        scopes: scopes(&place.key("scopes"), raw.scopes.unwrap_or_default(), report),
        params,
        headers,
        private_key: signing.private_key,
        certificate: signing.certificate,
        jwt: signing.jwt,
        assertion: signing.assertion,
        assertion_type: signing.assertion_type,
        response: response(
            &place.key("response"),
            raw.response.unwrap_or_default(),
            if dpop.is_some() { DPOP_TOKEN_TYPE } else { RawResponse::TOKEN_TYPE },
            report,
        ),
        dpop,
        refresh_at,
        default_lifetime,
        timeout: raw.timeout.timeout(place, "timeout", report),
        tls,
        egress,
        // Both are there, or an error was reported above.
        client_auth: client_auth?,
        endpoint: endpoint?,
    };
    let mistakes =
        report.problems.iter().skip(found).any(|problem| problem.severity == super::Severity::Error);
    (!mistakes).then_some(issuer)
}

impl IssuerConfig {
    /// An issuer of which only name and endpoint are given: no client authentication, every default.
    pub fn with_defaults(name: &str, endpoint: TokenEndpoint) -> Self {
        let raw = RawIssuer {
            token_url: Some("http://localhost/".to_owned()),
            client_auth: Some("none".to_owned()),
            ..RawIssuer::default()
        };
        let issuer = unwritten(|place, report| resolve(place, "defaults", raw, report));
        Self { name: name.into(), digest: [0; 32], endpoint, ..issuer.expect("defaults have no errors") }
    }
}

fn endpoint(
    place: &Place<'_>,
    issuer_url: Option<String>,
    token_url: Option<String>,
    report: &mut Report,
) -> Option<TokenEndpoint> {
    let (issuer_at, token_at) = (place.key("issuer_url"), place.key("token_url"));
    match (issuer_url, token_url) {
        (Some(_), Some(_)) => {
            report.error(
                &issuer_at,
                "stands beside `token_url`",
                "keep one: `issuer_url` for discovery, `token_url` byte for byte",
            );
            None
        }
        (Some(text), None) => {
            let url = issuer_endpoint(&issuer_at, &text, report)?;
            if url.path_and_query.contains('?') {
                report.error(
                    &issuer_at,
                    "an issuer's URL has no query (RFC 8414 section 2)",
                    "did you mean `token_url`?",
                );
                return None;
            }
            Some(TokenEndpoint::Discovery(url))
        }
        (None, Some(text)) => issuer_endpoint(&token_at, &text, report).map(TokenEndpoint::Url),
        (None, None) => {
            if !issuer_at.is_written() {
                report.missing(
                    &token_at,
                    "is missing",
                    "give token_url = \"https://…\", or issuer_url for discovery",
                );
            }
            None
        }
    }
}

fn issuer_endpoint(place: &Place<'_>, text: &str, report: &mut Report) -> Option<HttpUrl> {
    let url = check(place, url::http_url(text), report)?;
    if !url.https && !url::is_this_machine(&url.host) {
        report.error(
            place,
            "http:// would send the client's secret in the clear to another machine",
            "write \"https://…\"",
        );
        return None;
    }
    Some(url)
}

fn carrier(
    place: &Place<'_>,
    method: Word<TokenMethod>,
    body: Word<Carrier>,
    report: &mut Report,
) -> Carrier {
    let method = method.read(place, "method", report);
    let given = body.is_given();
    let body = body.read(place, "body", report);
    if method == TokenMethod::Post {
        return body;
    }
    if given && body != Carrier::Query {
        report.error(
            &place.key("body"),
            "a GET has no body",
            "leave it out: the parameters go into the query",
        );
    }
    Carrier::Get
}

/// A JWT that is the grant asks for the jwt-bearer grant, unless something else is written.
fn grant_type(written: Option<String>, usage: JwtUse) -> Option<String> {
    let default = if usage == JwtUse::Assertion { JWT_BEARER_GRANT } else { RawIssuer::GRANT_TYPE };
    Some(written.unwrap_or_else(|| default.to_owned())).filter(|grant| !grant.is_empty())
}

fn client_id(place: &Place<'_>, raw: RawReference, report: &mut Report) -> Option<Source> {
    if matches!(&raw, RawReference::Literal(text) if text.is_empty()) {
        report.error(place, "is empty", "");
        return None;
    }
    reference(place, raw, ValueKind::Public, report)
}

fn response(
    at: &Place<'_>,
    raw: RawResponse,
    token_type_default: &str,
    report: &mut Report,
) -> ResponseShape {
    let mut pointer = |key: &str, written: Option<String>, default: &str| match written {
        Some(written) => {
            check(&at.key(key), types::pointer(&written), report);
            written
        }
        None => default.to_owned(),
    };
    let token = pointer("token", raw.token, RawResponse::TOKEN);
    let token_type = pointer("type", raw.token_type, RawResponse::TYPE);
    let expires_in = pointer("expires_in", raw.expires_in, RawResponse::EXPIRES_IN);
    let expires_at = pointer("expires_at", raw.expires_at, RawResponse::EXPIRES_AT);
    let error = pointer("error", raw.error, RawResponse::ERROR);
    let format = raw.format.read(at, "format", report);

    let token_types = raw.token_types.unwrap_or_else(|| vec![token_type_default.to_owned()]);
    if token_types.is_empty() || token_types.iter().any(String::is_empty) {
        report.error(&at.key("token_types"), "names no type", "[\"Bearer\"] is the default");
    }
    let statuses = raw.statuses.unwrap_or_else(|| vec![RawResponse::STATUS]);
    if statuses.is_empty() {
        report.error(&at.key("statuses"), "names no status", "[200] is the default");
    }
    for (index, status) in statuses.iter().enumerate() {
        if !(200..=599).contains(status) {
            report.error(
                &at.key("statuses").index(index),
                format!("{status} is no status of a response"),
                "",
            );
        }
    }
    let token_types = token_types.iter().map(|name| name.to_ascii_lowercase()).collect();
    ResponseShape { token, token_type, expires_in, expires_at, error, format, token_types, statuses }
}
