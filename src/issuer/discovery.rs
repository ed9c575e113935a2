//! Finds the token endpoint from `issuer_url`: OpenID Connect Discovery 1.0's document, then RFC 8414's.
//!
//! The document decides where the client's secret goes, so it has to come from the issuer itself: over TLS
//! (or this machine), without a redirect, and naming exactly the issuer that was asked for (RFC 8414 section 3.3).

use std::net::IpAddr;

use http::{StatusCode, Uri};

use super::context::Context;
use super::document::Document;
use super::exchange::{self, Answer, Deadline, Lost};
use super::redact::Redactor;
use super::{FailureKind, IssuerError, connector_to, headers, request};
use crate::clock::Clock;
use crate::config::{HttpUrl, IssuerConfig};

/// The largest document, in bytes: some list hundreds of scopes and claims.
const DOCUMENT_LIMIT: usize = 256 * 1024;
/// The most bytes of a document's words that are shown.
const SHOWN_LIMIT: usize = 200;

/// Why a document was not accepted.
#[derive(Debug, PartialEq, Eq)]
enum Refusal {
    /// Another place may have it.
    Unusable(String),
    /// It names another issuer, or an endpoint that must not get a secret: looking on would only hide that.
    Mismatch(String),
}

/// Asks for the documents in turn.
pub(super) async fn find(
    issuer: &HttpUrl,
    config: &IssuerConfig,
    redactor: &Redactor,
    clock: &dyn Clock,
    deadline: Deadline,
) -> Result<HttpUrl, IssuerError> {
    let connector = connector_to(issuer, config);
    let mut failures: Vec<IssuerError> = Vec::new();
    for path in well_known_paths(issuer) {
        let place = HttpUrl { path_and_query: path, ..issuer.clone() };
        let context = Context::new(config, &place, redactor);
        let request =
            request::build_get(&place).map_err(|what| context.fail(FailureKind::Credential, what))?;
        // No answer from one path is none from the other.
        let answer = exchange::send(&connector, request, DOCUMENT_LIMIT, deadline)
            .await
            .map_err(|broken| context.broken(&broken))?;
        match judge(answer, issuer, &context, clock) {
            Ok(url) => return Ok(url),
            Err((error, true)) => failures.push(error),
            Err((error, false)) => return Err(error),
        }
    }
    Err(combined(config, failures))
}

/// The endpoint that a document names, or the error and whether another place may be asked.
fn judge(
    answer: Answer,
    issuer: &HttpUrl,
    context: &Context<'_>,
    clock: &dyn Clock,
) -> Result<HttpUrl, (IssuerError, bool)> {
    let Answer { status, headers: fields, body } = answer;
    if status != StatusCode::OK {
        let busy = status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error();
        let kind = if busy { FailureKind::Unavailable } else { FailureKind::Unusable };
        let redirect = if status.is_redirection() { ", and redirects are not followed" } else { "" };
        let what = format!("answered {}{redirect}", status.as_u16());
        let error = IssuerError {
            http_status: Some(status.as_u16()),
            retry_after: headers::retry_after(&fields, clock.wall()),
            trace: context.trace(&headers::traces(&fields)),
            ..context.fail(kind, what)
        };
        return Err((error, true));
    }
    let read = match body {
        _ if headers::coding(&fields).is_some() => {
            Err(Refusal::Unusable("a compressed body, though identity was asked for".to_owned()))
        }
        Err(Lost::TooLarge(limit)) => Err(Refusal::Unusable(format!("a body of more than {limit} bytes"))),
        Err(Lost::CutOff) => Err(Refusal::Unusable("a body that was cut off".to_owned())),
        Ok(body) => endpoint_in(&body, issuer, context.redactor),
    };
    read.map_err(|refusal| match refusal {
        Refusal::Unusable(what) => (context.unusable(status, what), true),
        Refusal::Mismatch(what) => (context.unusable(status, what), false),
    })
}

fn combined(config: &IssuerConfig, failures: Vec<IssuerError>) -> IssuerError {
    let unavailable = failures.iter().any(|error| error.kind == FailureKind::Unavailable);
    let kind = if unavailable { FailureKind::Unavailable } else { FailureKind::Unusable };
    let prefix = format!("issuer {}: ", config.name);
    let all: Vec<_> =
        failures.iter().map(|error| error.detail.strip_prefix(&prefix).unwrap_or(&error.detail)).collect();
    IssuerError {
        kind,
        detail: format!(
            "{prefix}no discovery document: {}; check issuer_url (the part before /.well-known/), or set token_url",
            all.join(", and ")
        ),
        code: None,
        http_status: failures.iter().rev().find_map(|error| error.http_status),
        retry_after: failures.iter().find_map(|error| error.retry_after),
        trace: failures.iter().find_map(|error| error.trace.clone()),
    }
}

/// OpenID Connect Discovery appends to the issuer's path, RFC 8414 section 3.1 puts its name before it.
fn well_known_paths(issuer: &HttpUrl) -> [String; 2] {
    let path = super::context::path_of(issuer);
    let path = path.strip_suffix('/').unwrap_or(path);
    [
        format!("{path}/.well-known/openid-configuration"),
        format!("/.well-known/oauth-authorization-server{path}"),
    ]
}

fn endpoint_in(body: &[u8], issuer: &HttpUrl, redactor: &Redactor) -> Result<HttpUrl, Refusal> {
    let document = Document::json(body, &["/issuer", "/token_endpoint"])
        .map_err(|malformed| Refusal::Unusable(malformed.to_string()))?;
    let text = |pointer| document.get(pointer).and_then(serde_json::Value::as_str);
    match text("/issuer") {
        None => return Err(Refusal::Unusable("a document without `issuer`".to_owned())),
        Some(found) if found != issuer.text => {
            return Err(Refusal::Mismatch(format!(
                "a document of the issuer `{}`, which is not byte for byte issuer_url; set issuer_url to that if it is the one you mean",
                redactor.show(found, SHOWN_LIMIT)
            )));
        }
        Some(_) => {}
    }
    let endpoint = text("/token_endpoint")
        .ok_or_else(|| Refusal::Unusable("a document without `token_endpoint`".to_owned()))?;
    endpoint_url(endpoint, issuer).map_err(|why| {
        Refusal::Mismatch(format!("the token_endpoint `{}`, {why}", redactor.show(endpoint, SHOWN_LIMIT)))
    })
}

/// Plain HTTP only from an issuer that is itself plain, and only to this machine.
fn endpoint_url(text: &str, issuer: &HttpUrl) -> Result<HttpUrl, &'static str> {
    let uri: Uri = text.parse().map_err(|_| "which is no URL")?;
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err("which is no absolute URL");
    };
    if text.contains('#') || authority.as_str().contains('@') {
        return Err("which holds a fragment or a user name");
    }
    let host =
        uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    let https = match scheme {
        "https" => true,
        "http" if !issuer.https && is_this_machine(&host) => false,
        _ => return Err("which is not https, so that the secret would be readable on its way"),
    };
    let default_port = if https { 443 } else { 80 };
    // `Uri::port` is silent on a port that is out of range.
    let port = match authority.as_str().strip_prefix(authority.host()).unwrap_or_default() {
        "" | ":" => default_port,
        port => port.trim_start_matches(':').parse().map_err(|_| "whose port is none")?,
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

    fn endpoint(body: &str) -> Result<HttpUrl, Refusal> {
        endpoint_in(body.as_bytes(), &issuer("https://idp.example/t/a"), &Redactor::default())
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
    fn what_is_no_document_lets_the_next_place_be_asked() {
        for text in ["", "<html>", "[]", "{}", r#"{"issuer":"https://idp.example/t/a"}"#] {
            assert!(matches!(endpoint(text), Err(Refusal::Unusable(_))), "{text}");
        }
    }
}
