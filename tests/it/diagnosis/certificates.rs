//! Whom we trust and how we show who we are, over TLS: toward issuers and upstreams.

use super::{line, no_response, no_token};
use crate::support::tls::{Ca, Identity, ca, localhost};
use crate::support::{Scripted, Setup};

async fn issuer_with(identity: &Identity) -> Setup {
    let setup = Setup::with(Scripted::start(Some(identity.server(&[]))).await, Scripted::upstream().await);
    setup.file("ca.pem", &ca().pem);
    setup
}

async fn upstream_with(identity: &Identity) -> Setup {
    let setup = Setup::with(Scripted::issuer().await, Scripted::start(Some(identity.server(&[]))).await);
    setup.file("ca.pem", &ca().pem);
    setup
}

const OURS: &str = "tls = { ca = { file = \"ca.pem\" } }";

#[tokio::test]
async fn unknown_ca_of_the_issuer() {
    let setup = issuer_with(&Ca::new("a stranger").issue(&["localhost"])).await;
    let world = setup.issuer(OURS).start().await;
    let facts = [
        "cannot be reached: the certificate of localhost:",
        "was not accepted: its issuer is not trusted here; set tls.ca to the CA's certificate",
    ];
    let remedy = ["check token_url and tls (ca, server_name, certificate) of [issuer.corp]"];
    no_token(&world, 503, "token_unavailable", &facts, &remedy).await;
}

#[tokio::test]
async fn unknown_ca_of_the_upstream() {
    let setup = upstream_with(&Ca::new("a stranger").issue(&["localhost"])).await;
    let world = setup.route(OURS).start().await;
    let words = [
        "the certificate of localhost:",
        "was not accepted: its issuer is not trusted here; set tls.ca to the CA's certificate",
        "see upstream and tls (ca, server_name, certificate) of route api",
    ];
    no_response(&world, 502, "upstream_unreachable", &words).await;
}

#[tokio::test]
async fn expired_certificate_of_the_issuer_may_be_our_clock() {
    let setup = issuer_with(&ca().issue_expired(&["localhost"])).await;
    let world = setup.issuer(OURS).start().await;
    let facts = ["expired on Fri, 01 Jan 2021 00:00:00 GMT (is this machine's clock right?)"];
    no_token(&world, 503, "token_unavailable", &facts, &["check token_url and tls"]).await;
}

/// A server that asks for a certificate, over this version of HTTP.
async fn asking(identity: &Identity, version: &str) -> Scripted {
    Scripted::start(Some(ca().server_asking(identity, &[version]))).await
}

const VERSIONS: [&str; 2] = ["http/1.1", "h2"];

#[tokio::test]
async fn expired_client_certificate_toward_the_issuer() {
    for version in VERSIONS {
        let setup = Setup::with(asking(&localhost(), version).await, Scripted::upstream().await);
        let old = ca().issue_expired(&["client-1"]);
        setup.file("ca.pem", &ca().pem);
        let file = setup.file("cert.pem", &old.certificate_pem);
        setup.file("key.pem", &old.key_pem);
        let keys = format!(
            "# client_secret\nclient_auth = \"tls_client_auth\"\ncertificate = {{ file = \"cert.pem\" }}\n\
             private_key = {{ file = \"key.pem\" }}\n{OURS}"
        );
        let world = setup.issuer(&keys).start().await;
        let facts = ["did not accept our client certificate (alert CertificateExpired): it has expired"];
        let ended =
            format!("(file {}) expired on 2021-01-01T00:00:00Z: have a new one issued", file.display());
        no_token(&world, 503, "token_unavailable", &facts, &[&ended]).await;
        line(&world, &["WARN", "corp", "the certificate ", "expired on 2021-01-01", "have a new one issued"])
            .await;
    }
}

#[tokio::test]
async fn expired_client_certificate_toward_the_upstream() {
    for version in VERSIONS {
        let setup = Setup::with(Scripted::issuer().await, asking(&localhost(), version).await);
        let old = ca().issue_expired(&["client-1"]);
        setup.file("ca.pem", &ca().pem);
        setup.file("cert.pem", &old.certificate_pem);
        setup.file("key.pem", &old.key_pem);
        let tls = "tls = { ca = { file = \"ca.pem\" }, certificate = { file = \"cert.pem\" }, private_key = { file = \"key.pem\" } }";
        let world = setup.route(tls).start().await;
        let words = [
            "did not accept our client certificate (alert CertificateExpired): it has expired, or one of the two clocks is \
             wrong; have a new one issued",
            "see upstream and tls (ca, server_name, certificate) of route api",
        ];
        no_response(&world, 502, "upstream_unreachable", &words).await;
    }
}

#[tokio::test]
async fn client_certificate_that_is_missing() {
    for version in VERSIONS {
        let setup = Setup::with(Scripted::issuer().await, asking(&localhost(), version).await);
        setup.file("ca.pem", &ca().pem);
        let world = setup.route(OURS).start().await;
        let words =
            ["requires a client certificate: set tls.certificate and tls.private_key", "of route api"];
        no_response(&world, 502, "upstream_unreachable", &words).await;
    }
}
