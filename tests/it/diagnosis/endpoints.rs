//! Where the issuer is: its URL, its tenant, its name, how often it may be asked.

use serde_json::json;

use super::{no_token, served, vendor};
use crate::support::nobody;
use crate::support::tls::localhost;
use crate::support::{RawResponse, Scripted, Setup};

#[tokio::test]
async fn token_url_that_is_not_there() {
    let setup = Setup::new().await;
    setup.issuer.always_this(RawResponse::status(404).body("Not Found").header("content-type", "text/plain"));
    let world = setup.start().await;
    let facts = ["/token responded 404 (Not Found)"];
    no_token(&world, 502, "token_refused", &facts, &["check token_url of [issuer.corp]"]).await;
}

#[tokio::test]
async fn token_url_that_is_a_web_page() {
    let setup = Setup::new().await;
    setup.issuer.always_this(
        RawResponse::ok("<html><title>Sign in</title></html>")
            .header("content-type", "text/html; charset=utf-8"),
    );
    let world = setup.start().await;
    let remedy = ["it is a web page, perhaps of a login or a gateway; check token_url of [issuer.corp]"];
    no_token(&world, 502, "token_refused", &["/token responded 200 with"], &remedy).await;
}

#[tokio::test]
async fn token_url_that_is_http_where_tls_is_spoken() {
    let tls = Scripted::start(Some(localhost().server(&[]))).await;
    let url = tls.url.replace("https://", "http://");
    let world = Setup::new().await.issuer(&format!("token_url = \"{url}/token\"")).start().await;
    let remedy = ["check token_url of [issuer.corp]; is it https://?"];
    no_token(&world, 502, "token_refused", &["did not respond as an HTTP server"], &remedy).await;

    let setup = Setup::new().await;
    let words = "Client sent an HTTP request to an HTTPS server.\n";
    setup.issuer.always_this(RawResponse::status(400).header("content-type", "text/plain").body(words));
    no_token(&setup.start().await, 502, "token_refused", &["responded 400"], &remedy).await;
}

#[tokio::test]
async fn token_url_that_redirects() {
    let setup = Setup::new().await;
    setup.issuer.always_this(RawResponse::status(302).header("location", "https://login.example/start"));
    let world = setup.start().await;
    let facts = ["responded 302 with a redirect to login.example, and bearerd does not follow redirects"];
    no_token(&world, 502, "token_refused", &facts, &["check token_url of [issuer.corp]"]).await;
}

#[tokio::test]
async fn wrong_tenant_of_entra() {
    let setup = Setup::new().await;
    setup.issuer.always_this(vendor(
        400,
        r#"{"error":"invalid_request","error_description":"AADSTS90002: Tenant 'acme' not found. Check to make sure you have the correct tenant ID."}"#,
    ));
    let world = setup.start().await;
    let facts = ["responded 400 invalid_request (AADSTS90002: Tenant 'acme' not found."];
    let remedy = ["there is no such tenant; check token_url of [issuer.corp]"];
    no_token(&world, 502, "token_refused", &facts, &remedy).await;
}

#[tokio::test]
async fn wrong_realm_of_keycloak() {
    let setup = Setup::new().await;
    setup.issuer.always_this(vendor(404, r#"{"error":"Realm does not exist"}"#));
    let keys = format!(
        "# token_url\npreset = \"keycloak\"\nvars = {{ base_url = \"{}\", realm = \"acme\" }}",
        setup.issuer.url
    );
    let world = setup.issuer(&keys).start().await;
    let facts = ["/realms/acme/", "responded 404"];
    no_token(&world, 502, "token_refused", &facts, &["check vars"]).await;
}

#[tokio::test]
async fn discovery_of_another_issuer() {
    let setup = Setup::new().await;
    let document =
        json!({ "issuer": "https://elsewhere.example", "token_endpoint": "https://elsewhere.example/t" });
    setup.issuer.always_this(RawResponse::json(&document));
    let keys = format!("issuer_url = \"{}\"", setup.issuer.url);
    let world = setup.issuer(&keys).start().await;
    let facts = [
        "/.well-known/openid-configuration responded 200 with a document of the issuer `https://elsewhere.example`, \
         which is not byte for byte issuer_url",
    ];
    let remedy = ["set issuer_url of [issuer.corp] to the issuer in the document if it is the one you mean"];
    no_token(&world, 502, "token_refused", &facts, &remedy).await;
}

#[tokio::test]
async fn discovery_that_finds_nothing() {
    let setup = Setup::new().await;
    setup.issuer.always_this(RawResponse::status(404));
    let keys = format!("issuer_url = \"{}/tenant\"", setup.issuer.url);
    let world = setup.issuer(&keys).start().await;
    let facts = ["no discovery document: ", "/tenant/.well-known/openid-configuration responded 404"];
    let remedy = ["check issuer_url (the part before /.well-known/) of [issuer.corp], or set token_url"];
    no_token(&world, 502, "token_refused", &facts, &remedy).await;
}

#[tokio::test]
async fn throttled() {
    let setup = Setup::new().await;
    let answer = RawResponse::status(429).header("retry-after", "40").header("content-type", "text/plain");
    setup.issuer.always_this(answer.body("Too Many Requests"));
    let world = setup.start().await;
    let facts = ["responded 429 (Too Many Requests)"];
    let remedy = [
        "it limits the rate of requests, and bearerd asks again when it allows",
        "check that not many clients or replicas use the same client_id",
    ];
    let response = no_token(&world, 503, "token_unavailable", &facts, &remedy).await;
    let wait: u64 = response.header("retry-after").unwrap().parse().unwrap();
    assert!((30..=40).contains(&wait), "{wait}");
    let logged = super::event(&world, "no token from the issuer").await;
    assert!(logged["next_try_in_s"].as_u64().is_some_and(|wait| (30..=40).contains(&wait)), "{logged}");
    let shown = world.status().await;
    assert!(shown["tokens"][0]["last_error"]["next_try"].is_string(), "{shown}");
    assert_eq!(world.issuer().count(), 1);
}

#[tokio::test]
async fn budget_spent() {
    let setup = Setup::new().await;
    setup.issuer.always_this(RawResponse::oauth_error(400, "use_dpop_nonce").header("dpop-nonce", "n"));
    setup.file("dpop.pem", crate::support::jwt::key("ec-p256.pkcs8.pem"));
    let keys = "dpop = { private_key = { file = \"dpop.pem\" } }\nbudget = { requests = 1, per = \"1h\" }";
    let world = setup.issuer(keys).start().await;
    let facts = [
        "was not asked, because this process spent the budget of 1 token request per 1h; the next one is possible at ",
    ];
    let remedy = [
        "raise budget of [issuer.corp] if the issuer allows more, or request fewer tokens: fewer scopes or routes, or one \
         [store] for all replicas",
    ];
    no_token(&world, 503, "token_budget", &facts, &remedy).await;
    assert_eq!(world.issuer().count(), 1);
}

#[tokio::test]
async fn issuer_down() {
    let nobody = nobody();
    let world = Setup::new().await.issuer(&format!("token_url = \"http://{nobody}/token\"")).start().await;
    let fact = format!("cannot be reached: {nobody} refused the connection");
    let facts = [&*fact, "is it running, and is the port right?"];
    no_token(&world, 503, "token_unavailable", &facts, &["check token_url of [issuer.corp]"]).await;
}

#[tokio::test]
async fn issuer_whose_name_is_not_resolved() {
    let world = Setup::new().await.issuer("token_url = \"https://issuer.invalid/token\"").start().await;
    let facts = [
        "cannot be reached: can't connect to issuer.invalid:443: the name issuer.invalid was not resolved: ",
    ];
    let remedy = ["check token_url of [issuer.corp], and this machine's DNS"];
    no_token(&world, 503, "token_unavailable", &facts, &remedy).await;
}

/// Programs around it find the way out by the environment; this one wants to be told to.
#[tokio::test]
async fn egress_proxy_of_the_environment_that_is_not_obeyed() {
    let unresolved = "token_url = \"https://issuer.invalid/token\"";
    let world = Setup::new().await.issuer(unresolved).env("HTTPS_PROXY", "http://127.0.0.1:1").start().await;
    let facts = ["; HTTPS_PROXY is set, and only obeyed with proxy = \"env\""];
    no_token(&world, 503, "token_unavailable", &facts, &["check token_url of [issuer.corp]"]).await;
    let exempt = Setup::new().await.issuer(unresolved).env("HTTPS_PROXY", "http://127.0.0.1:1");
    let world = exempt.env("NO_PROXY", ".invalid").start().await;
    let told = world.get("/").await;
    assert!(!told.text().contains("HTTPS_PROXY"), "{}", told.text());
}

#[tokio::test]
async fn issuer_that_is_fixed_is_noticed() {
    let setup = Setup::new().await;
    setup.issuer.next(RawResponse::status(503));
    let world = setup.start().await;
    served(&world).await;
    super::event(&world, "the issuer grants tokens again").await;
}
