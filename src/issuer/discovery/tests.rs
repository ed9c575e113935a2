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
        let text = format!(r#"{{"issuer":"https://idp.example/t/a","token_endpoint":"{endpoint_text}"}}"#);
        assert!(matches!(endpoint(&text), Err(Refusal::Mismatch(_))), "{endpoint_text}");
    }
}

#[test]
fn plain_http_stays_on_this_machine() {
    let local = HttpUrl { https: false, ..issuer("https://localhost:8080") };
    for good in ["http://localhost:1/t", "http://127.0.0.1:1/t", "http://[::1]:1/t", "https://idp.example/t"]
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
    assert!(matches!(refused, Refusal::Mismatch(why) if why.contains("no certificate")));
    assert!(read_document(text.as_bytes(), &local, false, &Redactor::default()).is_ok());
}

#[test]
fn what_the_issuer_offers_is_kept_fit_to_be_shown() {
    let text = format!(
        r#"{BEGIN},"token_endpoint_auth_methods_supported":["private_key_jwt","a\nb",7],"scopes_supported":"read","dpop_signing_alg_values_supported":[]}}"#
    );
    let metadata = document(&text).unwrap();
    assert_eq!(metadata.token_endpoint_auth_methods_supported.unwrap(), ["private_key_jwt", "a b"]);
    assert_eq!(metadata.scopes_supported, None);
    assert_eq!(metadata.grant_types_supported, None);
    assert_eq!(metadata.dpop_signing_alg_values_supported, Some(Vec::new()));
}
