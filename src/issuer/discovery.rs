//! Finds the token endpoint from `issuer_url`: first the document of OpenID Connect Discovery 1.0, then RFC 8414's.
//!
//! The document decides where the client's secret goes, so it must come from the issuer itself: over TLS (or from this
//! machine), without a redirect, and with exactly the configured issuer in it (RFC 8414 section 3.3).

use std::net::IpAddr;

use http::{StatusCode, Uri};
use serde_json::Value;

use super::document::Document;
use super::error::{ErrorContext, path_of};
use super::exchange::{self, BodyError, Deadline, HttpVersions, IssuerResponse, RepeatReason, Repeats};
use super::{FailureKind, IssuerError, connector_to, request, response};
use crate::clock::Clock;
use crate::config::client_auth::Proof;
use crate::config::{HttpUrl, IssuerConfig};
use crate::redact::Redactor;
use crate::secret::MASK;

/// The largest document, in bytes. Some list hundreds of scopes and claims.
const DOCUMENT_LIMIT: usize = 256 * 1024;
/// The most bytes of a value in a document that are shown.
const SHOWN_LIMIT: usize = 200;
/// The most members of a list that are kept.
const LIST_LIMIT: usize = 200;

/// An issuer's metadata (RFC 8414 section 2). A missing list is `None`. Names in lists are fit to be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// The token endpoint for this client. With a certificate it is the one in `mtls_endpoint_aliases`, if the issuer
    /// names one (RFC 8705 section 5).
    pub token_endpoint: HttpUrl,
    pub token_endpoint_auth_methods_supported: Option<Vec<String>>,
    pub token_endpoint_auth_signing_alg_values_supported: Option<Vec<String>>,
    pub scopes_supported: Option<Vec<String>>,
    pub grant_types_supported: Option<Vec<String>>,
    pub dpop_signing_alg_values_supported: Option<Vec<String>>,
}

fn shows_certificate(config: &IssuerConfig) -> bool {
    config.client_auth.proof() == Proof::Certificate
        || config.tls.certificate.is_some()
        || config.tls.private_key.is_some()
}

/// Why a document was not accepted.
#[derive(Debug, PartialEq, Eq)]
enum Refusal {
    /// The other location may have a usable one.
    Unusable(String),
    /// It names another issuer, or an endpoint that must not get a secret. A look at the other location would only hide
    /// that.
    Mismatch(String),
}

/// Requests the documents in turn.
pub(super) async fn find(
    issuer: &HttpUrl,
    config: &IssuerConfig,
    versions: &HttpVersions,
    redactor: &Redactor,
    clock: &dyn Clock,
    deadline: Deadline,
) -> Result<Metadata, IssuerError> {
    let mut failures: Vec<IssuerError> = Vec::new();
    for path in well_known_paths(issuer) {
        let place = HttpUrl { path_and_query: path, ..issuer.clone() };
        let context = ErrorContext::new(config, &place, redactor);
        // If one path gets no response, the other will get none either.
        let response = get(&place, &context, versions, deadline).await?;
        match judge(response, issuer, &context, clock) {
            Ok(metadata) => return Ok(metadata),
            Err((error, true)) => failures.push(error),
            Err((error, false)) => return Err(error),
        }
    }
    Err(combined(config, failures))
}

/// Requests one document.
async fn get(
    place: &HttpUrl,
    context: &ErrorContext<'_>,
    versions: &HttpVersions,
    deadline: Deadline,
) -> Result<IssuerResponse, IssuerError> {
    let mut repeats = Repeats::default();
    loop {
        let connector = connector_to(place, context.config, versions.offer());
        let request =
            request::build_get(place).map_err(|what| context.fail(FailureKind::Credential, what))?;
        // A document is no token.
        let unlimited = std::future::ready(Ok(()));
        let broken = match exchange::send(&connector, request, DOCUMENT_LIMIT, deadline, unlimited).await {
            Ok(response) => return Ok(response),
            Err(broken) => broken,
        };
        match repeats.allow(RepeatReason::after(&broken)) {
            Some(again) => versions.learn(again, &context.config.name),
            None => return Err(context.broken(&broken, &connector)),
        }
    }
}

/// The metadata in a document, or the error and whether to try the other location.
fn judge(
    response: IssuerResponse,
    issuer: &HttpUrl,
    context: &ErrorContext<'_>,
    clock: &dyn Clock,
) -> Result<Metadata, (IssuerError, bool)> {
    let IssuerResponse { status, headers: fields, body } = response;
    if status != StatusCode::OK {
        let busy = status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error();
        let kind = if busy { FailureKind::Unavailable } else { FailureKind::Unusable };
        let redirect = if status.is_redirection() { ", and bearerd does not follow redirects" } else { "" };
        let what = format!("responded {}{redirect}", status.as_u16());
        let error = IssuerError {
            http_status: Some(status.as_u16()),
            retry_after: response::retry_after(&fields, clock.wall()),
            trace: context.trace(&response::traces(&fields)),
            ..context.fail(kind, what)
        };
        return Err((error, true));
    }
    let read = match body {
        _ if response::coding(&fields).is_some() => {
            Err(Refusal::Unusable("a compressed body, although bearerd asks for identity".to_owned()))
        }
        Err(BodyError::TooLarge(limit)) => {
            Err(Refusal::Unusable(format!("a body of more than {limit} bytes")))
        }
        Err(BodyError::CutOff) => Err(Refusal::Unusable("a body that was cut off".to_owned())),
        Ok(body) => read_document(&body, issuer, shows_certificate(context.config), context.redactor),
    };
    let mismatch = format!(
        "set issuer_url of [issuer.{}] to the issuer in the document if it is the one you mean, or set token_url",
        context.config.name
    );
    read.map_err(|refusal| match refusal {
        Refusal::Unusable(what) => (context.unusable(status, what), true),
        Refusal::Mismatch(what) => (context.unusable(status, what).advise(&mismatch), false),
    })
}

fn combined(config: &IssuerConfig, failures: Vec<IssuerError>) -> IssuerError {
    let unavailable = failures.iter().any(|error| error.kind == FailureKind::Unavailable);
    let kind = if unavailable { FailureKind::Unavailable } else { FailureKind::Unusable };
    let prefix = format!("issuer {}: ", config.name);
    let all = |sentence: fn(&IssuerError) -> &str| {
        let sentences = failures.iter().map(sentence);
        let all: Vec<_> = sentences.map(|text| text.strip_prefix(&prefix).unwrap_or(text)).collect();
        format!("{prefix}no discovery document: {}", all.join(", and "))
    };
    let (detail, summary) = (all(|error| &error.detail), all(|error| &error.summary));
    let key = if config.preset.is_some() { "vars, or issuer_url" } else { "issuer_url" };
    let error = IssuerError::quoting(kind, detail, summary).advise(&format!(
        "check {key} (the part before /.well-known/) of [issuer.{}], or set token_url",
        config.name
    ));
    IssuerError {
        http_status: failures.iter().rev().find_map(|error| error.http_status),
        retry_after: failures.iter().find_map(|error| error.retry_after),
        trace: failures.iter().find_map(|error| error.trace.clone()),
        ..error
    }
}

/// OpenID Connect Discovery appends its name to the issuer's path; RFC 8414 section 3.1 puts it before the path.
fn well_known_paths(issuer: &HttpUrl) -> [String; 2] {
    let path = path_of(issuer);
    let path = path.strip_suffix('/').unwrap_or(path);
    [
        format!("{path}/.well-known/openid-configuration"),
        format!("/.well-known/oauth-authorization-server{path}"),
    ]
}

const TOKEN_ENDPOINT: &str = "/token_endpoint";
const MTLS_ALIAS: &str = "/mtls_endpoint_aliases/token_endpoint";
const AUTH_METHODS: &str = "/token_endpoint_auth_methods_supported";
const AUTH_ALGS: &str = "/token_endpoint_auth_signing_alg_values_supported";
const SCOPES: &str = "/scopes_supported";
const GRANTS: &str = "/grant_types_supported";
const DPOP_ALGS: &str = "/dpop_signing_alg_values_supported";

fn read_document(
    body: &[u8],
    issuer: &HttpUrl,
    shows_certificate: bool,
    redactor: &Redactor,
) -> Result<Metadata, Refusal> {
    let members = ["/issuer", TOKEN_ENDPOINT, MTLS_ALIAS, AUTH_METHODS, AUTH_ALGS, SCOPES, GRANTS, DPOP_ALGS];
    let document =
        Document::json(body, &members).map_err(|malformed| Refusal::Unusable(malformed.to_string()))?;
    let text = |pointer| document.get(pointer).and_then(Value::as_str);
    match text("/issuer") {
        None => return Err(Refusal::Unusable("a document without `issuer`".to_owned())),
        Some(found) if found != issuer.text => {
            return Err(Refusal::Mismatch(format!(
                "a document of the issuer `{}`, which is not byte for byte issuer_url",
                quoted(found, redactor)
            )));
        }
        Some(_) => {}
    }
    let refused = |name: &str, endpoint: &str, why: &str| {
        Refusal::Mismatch(format!("the {name} `{}`, {why}", quoted(endpoint, redactor)))
    };
    // An alias that this client does not use is not checked: an issuer on this machine has one without https.
    let token_endpoint = match text(MTLS_ALIAS).filter(|_| shows_certificate) {
        Some(alias) => {
            let url = endpoint_url(alias, issuer).and_then(|url| match url.https {
                true => Ok(url),
                false => Err("which is not https, so a client certificate cannot be used"),
            });
            url.map_err(|why| refused("token_endpoint of mtls_endpoint_aliases", alias, why))?
        }
        None => {
            let endpoint = text(TOKEN_ENDPOINT)
                .ok_or_else(|| Refusal::Unusable("a document without `token_endpoint`".to_owned()))?;
            endpoint_url(endpoint, issuer).map_err(|why| refused("token_endpoint", endpoint, why))?
        }
    };
    let list = |pointer| {
        let names = document.get(pointer)?.as_array()?.iter().filter_map(Value::as_str);
        Some(names.take(LIST_LIMIT).filter_map(|name| redactor.show(name, SHOWN_LIMIT)).collect())
    };
    Ok(Metadata {
        token_endpoint,
        token_endpoint_auth_methods_supported: list(AUTH_METHODS),
        token_endpoint_auth_signing_alg_values_supported: list(AUTH_ALGS),
        scopes_supported: list(SCOPES),
        grant_types_supported: list(GRANTS),
        dpop_signing_alg_values_supported: list(DPOP_ALGS),
    })
}

fn quoted(text: &str, redactor: &Redactor) -> String {
    redactor.show(text, SHOWN_LIMIT).unwrap_or_else(|| MASK.to_owned())
}

/// Allows plain HTTP only from an issuer that itself uses it, and only to this machine.
fn endpoint_url(text: &str, issuer: &HttpUrl) -> Result<HttpUrl, &'static str> {
    let uri: Uri = text.parse().map_err(|_| "which is not a URL")?;
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err("which is not an absolute URL");
    };
    if text.contains('#') || authority.as_str().contains('@') {
        return Err("which contains a fragment or a user name");
    }
    let host =
        uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    let https = match scheme {
        "https" => true,
        "http" if !issuer.https && is_this_machine(&host) => false,
        _ => return Err("which is not https, so the secret would be readable in transit"),
    };
    let default_port = if https { 443 } else { 80 };
    // `Uri::port` returns `None` for a port that is out of range.
    let port = match authority.as_str().strip_prefix(authority.host()).unwrap_or_default() {
        "" | ":" => default_port,
        port => port.trim_start_matches(':').parse().map_err(|_| "whose port is not valid")?,
    };
    if host.is_empty() || port == 0 {
        return Err("which names no host");
    }
    let bracketed = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    Ok(HttpUrl {
        text: text.to_owned(),
        https,
        port,
        authority: if port == default_port { bracketed } else { format!("{bracketed}:{port}") },
        path_and_query: uri.path_and_query().map_or_else(|| "/".to_owned(), path_as_written),
        host,
    })
}

fn path_as_written(path: &http::uri::PathAndQuery) -> String {
    let path = path.as_str();
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

fn is_this_machine(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::client_auth::{ClientAuth, TlsClientAuth};

    fn issuer(text: &str) -> HttpUrl {
        let loose = HttpUrl {
            text: String::new(),
            https: false,
            host: String::new(),
            port: 0,
            authority: String::new(),
            path_and_query: String::new(),
        };
        HttpUrl { text: text.to_owned(), ..endpoint_url(text, &loose).unwrap() }
    }

    fn document(body: &str) -> Result<Metadata, Refusal> {
        read_document(body.as_bytes(), &issuer("https://idp.example/t/a"), false, &Redactor::default())
    }

    fn endpoint(body: &str) -> Result<HttpUrl, Refusal> {
        document(body).map(|metadata| metadata.token_endpoint)
    }

    #[test]
    fn places_of_both_standards() {
        assert_eq!(
            well_known_paths(&issuer("https://idp.example/t/a/")),
            ["/t/a/.well-known/openid-configuration", "/.well-known/oauth-authorization-server/t/a"]
        );
        assert_eq!(
            well_known_paths(&issuer("https://idp.example")),
            ["/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"]
        );
    }

    #[test]
    fn t108_accepts_the_issuer_asked_for_alone() {
        let good =
            r#"{"issuer":"https://idp.example/t/a","token_endpoint":"https://login.example:8443/x?y=%7e"}"#;
        let url = endpoint(good).unwrap();
        assert_eq!((url.host.as_str(), url.port, url.https), ("login.example", 8443, true));
        assert_eq!((url.authority.as_str(), url.path_and_query.as_str()), ("login.example:8443", "/x?y=%7e"));
        for other in ["https://idp.example/t/a/", "https://idp.example/T/a", "http://idp.example/t/a", ""] {
            let text = good.replace("https://idp.example/t/a", other);
            assert!(matches!(endpoint(&text), Err(Refusal::Mismatch(_))), "{other}");
        }
    }

    #[test]
    fn t108_refuses_endpoints_that_are_not_safe() {
        for endpoint_text in [
            "http://idp.example/token",
            "http://127.0.0.1/token",
            "/token",
            "ftp://idp.example/",
            "https://user@idp.example/token",
            "https://idp.example/token#x",
            "https://idp.example:0/token",
            "https://idp.example:99999/token",
            "",
        ] {
            let text =
                format!(r#"{{"issuer":"https://idp.example/t/a","token_endpoint":"{endpoint_text}"}}"#);
            assert!(matches!(endpoint(&text), Err(Refusal::Mismatch(_))), "{endpoint_text}");
        }
    }

    #[test]
    fn plain_http_stays_on_this_machine() {
        let local = HttpUrl { https: false, ..issuer("https://localhost:8080") };
        for good in
            ["http://localhost:1/t", "http://127.0.0.1:1/t", "http://[::1]:1/t", "https://idp.example/t"]
        {
            assert!(endpoint_url(good, &local).is_ok(), "{good}");
        }
        assert!(endpoint_url("http://localhost.example/t", &local).is_err());
        assert!(endpoint_url("http://10.0.0.1/t", &local).is_err());
        assert_eq!(endpoint_url("http://[::1]:1", &local).unwrap().authority, "[::1]:1");
        assert_eq!(endpoint_url("https://IDP.example?x", &local).unwrap().path_and_query, "/?x");
    }

    #[test]
    fn an_unusable_document_lets_the_next_location_be_tried() {
        for text in ["", "<html>", "[]", "{}", r#"{"issuer":"https://idp.example/t/a"}"#] {
            assert!(matches!(endpoint(text), Err(Refusal::Unusable(_))), "{text}");
        }
    }

    const BEGIN: &str = r#"{"issuer":"https://idp.example/t/a","token_endpoint":"https://idp.example/token""#;

    fn with_certificate(body: &str) -> Result<HttpUrl, Refusal> {
        let issuer = issuer("https://idp.example/t/a");
        read_document(body.as_bytes(), &issuer, true, &Redactor::default())
            .map(|metadata| metadata.token_endpoint)
    }

    #[test]
    fn clients_with_a_certificate_go_to_the_alias() {
        let text = format!(
            r#"{BEGIN},"mtls_endpoint_aliases":{{"token_endpoint":"https://mtls.idp.example/token","x":1}}}}"#
        );
        assert_eq!(endpoint(&text).unwrap().host, "idp.example");
        assert_eq!(with_certificate(&text).unwrap().host, "mtls.idp.example");
        assert_eq!(with_certificate(&format!("{BEGIN}}}")).unwrap().host, "idp.example");
        let mut config = crate::issuer::fuzz::config();
        assert!(!shows_certificate(&config));
        config.tls.certificate = Some(crate::config::Source::literal("…"));
        assert!(shows_certificate(&config));
        config.tls.certificate = None;
        config.client_auth = ClientAuth::new(&TlsClientAuth);
        assert!(shows_certificate(&config));
    }

    #[test]
    fn t108_an_alias_is_as_strictly_read_as_the_endpoint_where_it_is_used() {
        for alias in ["http://idp.example/token", "/token", "https://u@idp.example/token", ""] {
            let text = format!(r#"{BEGIN},"mtls_endpoint_aliases":{{"token_endpoint":"{alias}"}}}}"#);
            assert!(matches!(with_certificate(&text), Err(Refusal::Mismatch(_))), "{alias}");
            assert!(endpoint(&text).is_ok(), "{alias}");
        }
        let local = HttpUrl { https: false, ..issuer("https://localhost:1") };
        let text = r#"{"issuer":"https://localhost:1","token_endpoint":"http://localhost:1/t","mtls_endpoint_aliases":{"token_endpoint":"http://localhost:1/t"}}"#;
        let refused = read_document(text.as_bytes(), &local, true, &Redactor::default()).unwrap_err();
        assert!(matches!(refused, Refusal::Mismatch(why) if why.contains("cannot be used")));
        assert!(read_document(text.as_bytes(), &local, false, &Redactor::default()).is_ok());
    }

    #[test]
    fn metadata_is_kept_in_a_form_fit_to_be_shown() {
        let text = format!(
            r#"{BEGIN},"token_endpoint_auth_methods_supported":["private_key_jwt","a\nb",7],"scopes_supported":"read","dpop_signing_alg_values_supported":[]}}"#
        );
        let metadata = document(&text).unwrap();
        assert_eq!(metadata.token_endpoint_auth_methods_supported.unwrap(), ["private_key_jwt", "a b"]);
        assert_eq!(metadata.scopes_supported, None);
        assert_eq!(metadata.grant_types_supported, None);
        assert_eq!(metadata.dpop_signing_alg_values_supported, Some(Vec::new()));
    }
}
