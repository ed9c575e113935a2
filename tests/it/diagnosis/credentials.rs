//! Who we are to the issuer: secrets, the clock that dates what we sign, environment variables.

use std::time::{Duration, SystemTime};

use serde_json::json;

use super::{event, holds, line, no_token, served, vendor};
use crate::support::oidc::OidcProvider;
use crate::support::{RawResponse, Setup, World};

fn clock_at(offset: i64) -> String {
    let by = Duration::from_secs(offset.unsigned_abs());
    let now = SystemTime::now();
    httpdate::fmt_http_date(if offset < 0 { now - by } else { now + by })
}

#[tokio::test]
#[ignore = "needs node and npm"]
async fn wrong_secret() {
    let client = json!({ "client_id": "client-1", "client_secret": "the-right-one", "scope": "read" });
    let provider = OidcProvider::start(&json!({ "scopes": ["read"], "clients": [client] })).await;
    let setup = Setup::new().await;
    let file = setup.file("secret", "not-the-right-one");
    let world = setup.issuer(&format!("token_url = \"{}/token\"", provider.issuer)).start().await;
    let secret = format!("check client_id and client_secret of [issuer.corp] (file {})", file.display());
    let facts = ["/token responded 401 invalid_client (client authentication failed)"];
    let remedy = [&*secret, "and whether the server wants", "client_auth = \"client_secret_post\""];
    no_token(&world, 502, "token_refused", &facts, &remedy).await;
    world.file("secret", "the-right-one");
    served(&world).await;
}

#[tokio::test]
async fn wrong_secret_in_the_words_of_vendors() {
    for (status, body, facts) in [
        (
            401,
            r#"{"error":"invalid_client","error_description":"AADSTS7000215: Invalid client secret provided."}"#,
            "client_secret of [issuer.corp] must be the secret's value as shown once, not its id",
        ),
        (
            401,
            r#"{"error":"invalid_client","error_description":"AADSTS7000222: The provided client secret keys for app are expired."}"#,
            "client_secret of [issuer.corp] has expired; make a new one",
        ),
        (
            401,
            r#"{"error":"unauthorized_client","error_description":"Invalid client or Invalid client credentials"}"#,
            "check client_id and client_secret of [issuer.corp]",
        ),
        (
            401,
            r#"{"error":"invalid_client","error_description":"The client secret supplied for a confidential client is invalid."}"#,
            "check client_id and client_secret of [issuer.corp]",
        ),
        (
            401,
            r#"{"error":"access_denied","error_description":"Unauthorized"}"#,
            "check client_id and client_secret of [issuer.corp]",
        ),
    ] {
        let setup = Setup::new().await;
        setup.issuer.always_this(vendor(status, body));
        let world = setup.start().await;
        no_token(&world, 502, "token_refused", &["responded 401 "], &[facts]).await;
    }
}

#[tokio::test]
async fn secret_file_that_is_none() {
    for (name, fact) in [
        ("pipe", "is a pipe; name a regular file"),
        ("endless", "is a device; name a regular file"),
        ("large", "is larger than 1 MiB"),
    ] {
        let setup = Setup::new().await;
        let path = setup.folder().join(name);
        match name {
            "pipe" => rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RUSR).unwrap(),
            "endless" => std::os::unix::fs::symlink("/dev/zero", &path).unwrap(),
            _ => _ = setup.file(name, vec![b'x'; 2 << 20]),
        }
        let world = setup.issuer(&format!("client_secret = {{ file = \"{name}\" }}")).start().await;
        let fact = format!("because client_secret cannot be read: file {}: {fact}", path.display());
        let remedy = [
            "fix the file, which bearerd reads again as soon as it changes, or name another in [issuer.corp]",
        ];
        no_token(&world, 503, "token_unavailable", &[&fact], &remedy).await;
    }
}

#[tokio::test]
async fn secret_file_missing() {
    let setup = Setup::new().await;
    let file = setup.folder().join("later");
    let world = setup.issuer("client_secret = { file = \"later\" }").start().await;
    let fact =
        format!("was not asked, because client_secret cannot be read: file {}: no such file", file.display());
    let remedy =
        ["fix the file, which bearerd reads again as soon as it changes, or name another in [issuer.corp]"];
    no_token(&world, 503, "token_unavailable", &[&fact], &remedy).await;
    line(&world, &["WARN", "client_secret", "later", "no such file"]).await;
    assert_eq!(world.issuer().count(), 0);
    world.file("later", "a-secret");
    served(&world).await;
}

#[tokio::test]
async fn secret_file_empty() {
    let setup = Setup::new().await;
    let file = setup.file("secret", "\n");
    let world = setup.start().await;
    let fact =
        format!("was not asked, because client_secret cannot be read: file {}: is empty", file.display());
    no_token(&world, 503, "token_unavailable", &[&fact], &["fix the file, which bearerd reads again"]).await;
    assert_eq!(world.issuer().count(), 0);
    world.file("secret", "a-secret");
    served(&world).await;
}

#[tokio::test]
async fn variable_missing() {
    let world = Setup::new().await.issuer("client_secret = { env = \"CORP_SECRET\" }").start().await;
    let fact = "because client_secret cannot be read: environment variable CORP_SECRET: is not set";
    let remedy = ["set it where bearerd is started, and restart bearerd"];
    no_token(&world, 503, "token_unavailable", &[fact], &remedy).await;
}

#[tokio::test]
async fn variable_changed() {
    let setup = Setup::new().await.env("CORP_SECRET", "the-old-one");
    setup.issuer.always_this(RawResponse::oauth_error(401, "invalid_client"));
    let world = setup.issuer("client_secret = { env = \"CORP_SECRET\" }").start().await;
    let remedy = [
        "check client_id and client_secret of [issuer.corp] (environment variable CORP_SECRET)",
        "a changed variable needs a restart",
    ];
    no_token(&world, 502, "token_refused", &["responded 401 invalid_client"], &remedy).await;
}

#[tokio::test]
async fn clock_off_where_a_jwt_is_refused() {
    for (offset, side) in [(3600, "behind the issuer's"), (-3600, "ahead of the issuer's")] {
        let setup = Setup::new().await;
        setup.file("secret", "a-secret-of-the-scene-that-is-long-enough-for-every-hmac-of-all-sizes");
        let words =
            r#"{"error":"invalid_client","error_description":"assertion is expired or not valid yet"}"#;
        setup.issuer.always_this(vendor(401, words).header("date", &clock_at(offset)));
        let world = setup.issuer("client_auth = \"client_secret_jwt\"").start().await;
        let facts = ["responded 401 invalid_client (assertion is expired or not valid yet)"];
        let remedy = ["this machine's clock is ", side, "; correct it"];
        no_token(&world, 502, "token_refused", &facts, &remedy).await;
    }
}

#[tokio::test]
async fn clock_off_where_tokens_come_all_the_same() {
    let setup = Setup::new().await;
    setup.issuer.always_this(RawResponse::token("t").header("date", &clock_at(7200)));
    let world = setup.start().await;
    world.get("/").await.expect_status(200);
    let words = ["WARN", "corp", "this machine's clock is ", "behind the issuer's: correct it (NTP)"];
    line(&world, &words).await;
}

#[tokio::test]
async fn assertion_expired() {
    let setup = Setup::new().await;
    // {"alg":"none"} . {"exp":1300819380}
    let file = setup.file("assertion", "eyJhbGciOiJub25lIn0.eyJleHAiOjEzMDA4MTkzODB9.x");
    let words = r#"{"error":"invalid_client","error_description":"AADSTS700024: Client assertion is not within its valid time range."}"#;
    setup.issuer.always_this(vendor(401, words));
    let keys = "# client_secret\nclient_auth = \"assertion_file\"\nassertion = { file = \"assertion\" }";
    let world = setup.issuer(keys).start().await;
    let place = file.display().to_string();
    let remedy =
        ["the assertion is too old or from the future; check this machine's clock", &place, "expired"];
    no_token(&world, 502, "token_refused", &["responded 401 invalid_client (AADSTS700024"], &remedy).await;
}

#[tokio::test]
async fn a_file_that_vanishes_later_does_no_harm_and_is_reported() {
    let setup = Setup::new().await;
    setup.issuer.always(|_, n| RawResponse::token_for(&format!("token-{n}"), 2));
    let world = setup.issuer("refresh_at = 0.3").start().await;
    world.get("/").await.expect_status(200);
    std::fs::remove_file(world.folder().join("secret")).unwrap();
    let words = "cannot read a value, so the last good one stays in use";
    crate::support::eventually("a renewal", || async {
        world.get("/").await.expect_status(200);
        world.log().text().contains(words).then_some(())
    })
    .await;
    let told = event(&world, words).await;
    holds("the log", &told.to_string(), &["corp", "secret", "no such file"]);
}

/// The scene with a client that signs, and an issuer that refuses it so.
async fn signing(body: &str) -> World {
    let setup = Setup::new().await.issuer("client_auth = \"client_secret_jwt\"");
    setup.issuer.always_this(vendor(400, body));
    setup.start().await
}

#[tokio::test]
async fn assertion_for_another_audience() {
    let world = signing(r#"{"error":"invalid_client","error_description":"Invalid token audience"}"#).await;
    let remedy = [
        "the issuer requires another audience (`aud`) in the JWT: set jwt.audience of [issuer.corp] to the one that it names",
    ];
    no_token(&world, 502, "token_refused", &["(Invalid token audience)"], &remedy).await;
}

#[tokio::test]
async fn client_id_missed_beside_an_assertion() {
    let world = signing(r#"{"error":"invalid_request"}"#).await;
    no_token(
        &world,
        502,
        "token_refused",
        &["invalid_request"],
        &["set send_client_id = true in [issuer.corp]"],
    )
    .await;
}

#[tokio::test]
async fn clock_off_by_an_issuer_that_does_not_tell_its_own() {
    let world = signing(r#"{"error":"invalid_client","error_description":"Token is not active"}"#).await;
    let remedy = [
        "by the issuer's clock, what bearerd signed is not valid yet or has expired: compare this machine's clock with it",
    ];
    no_token(&world, 502, "token_refused", &["(Token is not active)"], &remedy).await;
}

#[tokio::test]
async fn dpop_wanted() {
    let setup = Setup::new().await;
    setup.issuer.always_this(vendor(
        400,
        r#"{"error":"invalid_request","error_description":"DPoP proof is missing"}"#,
    ));
    let world = setup.start().await;
    let remedy = ["this client has to prove possession of a key; set dpop of [issuer.corp]"];
    no_token(&world, 502, "token_refused", &["(DPoP proof is missing)"], &remedy).await;
}
