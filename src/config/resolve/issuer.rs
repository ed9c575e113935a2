//! `[issuer.NAME]`.

use super::super::document::Place;
use super::super::model::{
    BasicEncoding, ClientAuth, HttpUrl, IssuerConfig, ResponseFormat, ResponseShape, TokenEndpoint,
};
use super::super::raw::issuer::{RawIssuer, RawResponse};
use super::super::raw::values::RawReference;
use super::super::reference::Source;
use super::super::report::{Report, did_you_mean};
use super::super::types::{self, url};
use super::value::{Kind, check, choice, duration, headers, params, reference, scopes, timeout};
use super::{credential, defaults, peer};

pub(super) fn resolve(
    place: &Place<'_>,
    name: &str,
    raw: RawIssuer,
    report: &mut Report,
) -> Option<IssuerConfig> {
    let found = report.problems.len();
    check(place, types::name(name), report);
    let endpoint = endpoint(place, raw.issuer_url, raw.token_url, report);
    not_built(place, "grant_type", raw.grant_type, "client_credentials", report);
    not_built(place, "method", raw.method, "POST", report);
    not_built(place, "body", raw.body, "form", report);

    let send_client_id = raw.send_client_id.unwrap_or(false);
    let encodings = [("form", BasicEncoding::Form), ("raw", BasicEncoding::Raw)];
    let encoding =
        choice(place, "basic_encoding", raw.basic_encoding, BasicEncoding::Form, &encodings, report);
    let client_id = raw.client_id.and_then(|raw| client_id(&place.key("client_id"), raw, report));
    let client_auth = client_auth(place, raw.client_auth, raw.client_secret, encoding, report);
    if send_client_id || !matches!(client_auth, Some(ClientAuth::None)) {
        report.missing(
            &place.key("client_id"),
            "is missing",
            "client_id = \"…\", the client's name at the issuer",
        );
    }

    let headers = headers(&place.key("headers"), raw.headers, report);
    if matches!(client_auth, Some(ClientAuth::Basic { .. }))
        && headers.iter().any(|(name, _)| name == http::header::AUTHORIZATION)
    {
        report.error(
            &place.key("headers"),
            "sets `authorization`, which client_secret_basic sends too",
            "use one way to authenticate: RFC 6749 section 2.3 allows no second",
        );
    }
    let refresh_at = raw.refresh_at.unwrap_or(defaults::REFRESH_AT);
    if !(refresh_at > 0.0 && refresh_at <= 1.0) {
        report.error(
            &place.key("refresh_at"),
            "must be above 0 and at most 1",
            "it is a share of the lifetime: 0.8",
        );
    }
    let default_lifetime =
        duration(place, "default_lifetime", raw.default_lifetime, defaults::DEFAULT_LIFETIME, report);
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
        digest: credential::issuer_digest(place),
        required: raw.required.unwrap_or(defaults::REQUIRED),
        send_client_id,
        client_id,
        scopes: scopes(&place.key("scopes"), raw.scopes.unwrap_or_default(), report),
        params: params(&place.key("params"), raw.params, report),
        headers,
        response: response(&place.key("response"), raw.response.unwrap_or_default(), report),
        refresh_at,
        default_lifetime,
        timeout: timeout(place, "timeout", raw.timeout, defaults::TOKEN_TIMEOUT, report),
        tls: peer::tls(&place.key("tls"), raw.tls, report),
        egress,
        // Both are there, or a mistake was reported above.
        client_auth: client_auth?,
        ..IssuerConfig::with_defaults(name, endpoint?)
    };
    let mistakes =
        report.problems.iter().skip(found).any(|problem| problem.severity == super::Severity::Error);
    (!mistakes).then_some(issuer)
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

fn not_built(place: &Place<'_>, key: &str, written: Option<String>, built: &str, report: &mut Report) {
    if written.is_some_and(|written| written != built) {
        let at = place.key(key);
        report.error(
            &at,
            format!("{} is not built yet in this release", at.describe()),
            format!("only \"{built}\" is, the default"),
        );
    }
}

fn client_id(place: &Place<'_>, raw: RawReference, report: &mut Report) -> Option<Source> {
    if matches!(&raw, RawReference::Literal(text) if text.is_empty()) {
        report.error(place, "is empty", "");
        return None;
    }
    reference(place, raw, Kind::Public, report)
}

const CLIENT_AUTH: &[&str] = &["client_secret_basic", "client_secret_post", "none"];
const CLIENT_AUTH_LATER: &[&str] =
    &["client_secret_jwt", "private_key_jwt", "tls_client_auth", "assertion_file"];

fn client_auth(
    place: &Place<'_>,
    written: Option<String>,
    secret: Option<RawReference>,
    encoding: BasicEncoding,
    report: &mut Report,
) -> Option<ClientAuth> {
    let (at, secret_at) = (place.key("client_auth"), place.key("client_secret"));
    let source = secret.map(|raw| reference(&secret_at, raw, Kind::Secret, report));
    let method = written.as_deref().unwrap_or("client_secret_basic");
    if method == "none" {
        if secret_at.is_written() {
            report.error(&secret_at, "is not sent with client_auth = \"none\"", "leave out one of them");
        }
        return Some(ClientAuth::None);
    }
    if CLIENT_AUTH_LATER.contains(&method) {
        report.error(
            &at,
            format!("\"{method}\" is not built yet in this release"),
            format!("built are \"{}\"", CLIENT_AUTH.join("\", \"")),
        );
        return None;
    }
    if !CLIENT_AUTH.contains(&method) {
        let message = format!("{} is not one of \"{}\"", at.describe(), CLIENT_AUTH.join("\", \""));
        report.error(&at, message, did_you_mean(method, CLIENT_AUTH.iter().copied(), ""));
        return None;
    }
    if source.is_none() {
        let hint = "client_secret = { file = \"…\" } or { env = \"…\" }; for a public client, client_auth = \"none\"";
        report.missing(&secret_at, "is missing", hint);
    }
    let secret = source??;
    match method {
        "client_secret_post" => Some(ClientAuth::Post { secret }),
        _ => Some(ClientAuth::Basic { secret, encoding }),
    }
}

fn response(at: &Place<'_>, raw: RawResponse, report: &mut Report) -> ResponseShape {
    let mut pointer = |key: &str, written: Option<String>, default: &str| match written {
        Some(written) => {
            check(&at.key(key), types::pointer(&written), report);
            written
        }
        None => default.to_owned(),
    };
    let token = pointer("token", raw.token, defaults::RESPONSE_TOKEN);
    let token_type = pointer("type", raw.token_type, defaults::RESPONSE_TYPE);
    let expires_in = pointer("expires_in", raw.expires_in, defaults::RESPONSE_EXPIRES_IN);
    let expires_at = pointer("expires_at", raw.expires_at, defaults::RESPONSE_EXPIRES_AT);
    let error = pointer("error", raw.error, defaults::RESPONSE_ERROR);
    let formats = [("json", ResponseFormat::Json), ("form", ResponseFormat::Form)];
    let format = choice(at, "format", raw.format, ResponseFormat::Json, &formats, report);

    let token_types = raw.token_types.unwrap_or_else(|| vec![defaults::TOKEN_TYPE.to_owned()]);
    if token_types.is_empty() || token_types.iter().any(String::is_empty) {
        report.error(&at.key("token_types"), "names no type", "[\"Bearer\"] is the default");
    }
    let statuses = raw.statuses.unwrap_or_else(|| vec![defaults::TOKEN_STATUS]);
    if statuses.is_empty() {
        report.error(&at.key("statuses"), "names no status", "[200] is the default");
    }
    for (index, status) in statuses.iter().enumerate() {
        if !(200..=599).contains(status) {
            report.error(&at.key("statuses").index(index), format!("{status} is no status of an answer"), "");
        }
    }
    let token_types = token_types.iter().map(|name| name.to_ascii_lowercase()).collect();
    ResponseShape { token, token_type, expires_in, expires_at, error, format, token_types, statuses }
}
