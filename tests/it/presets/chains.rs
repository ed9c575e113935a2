//! Presets that need the token of another issuer.

use super::{Exchange, FORM, JSON, ROW, Reply, Row, run};
use crate::support::{RawResponse, Scripted, Setup, World};

/// The documented request of Google's security token service, and its response.
const STS: Exchange = Exchange {
    line: "POST /v1/token HTTP/1.1",
    headers: &["host: sts.googleapis.com", FORM],
    body: "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Atoken-exchange&scope=https%3A%2F%2Fwww.googleapis.com%2Fauth%2Fcloud-platform&audience=%2F%2Fiam.googleapis.com%2Fprojects%2F123456789012%2Flocations%2Fglobal%2FworkloadIdentityPools%2Fbearerd%2Fproviders%2Fcluster&requested_token_type=urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3Aaccess_token&subject_token=eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJzeXN0ZW0ifQ.c2ln&subject_token_type=urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3Ajwt",
    response: Reply {
        status: 200,
        headers: &[JSON],
        body: r#"{"access_token":"ya29.d.federated","issued_token_type":"urn:ietf:params:oauth:token-type:access_token","token_type":"Bearer","expires_in":3599}"#,
    },
};

const SUBJECT: (&str, &str) = ("subject", "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJzeXN0ZW0ifQ.c2ln\n");

#[tokio::test]
async fn google_sts() {
    run(&Row {
        preset: "google-sts",
        vars: r#"project_number = "123456789012", pool = "bearerd", provider = "cluster""#,
        issuer: r#"params = { subject_token = { file = "subject" } }"#,
        files: &[SUBJECT],
        exchanges: &[STS],
        lifetime: 3599,
        sent: &["authorization: Bearer ya29.d.federated"],
        ..ROW
    })
    .await;
}

/// `expireTime` is an hour ahead of 2100, so the token lives as long as bearerd believes any.
#[tokio::test]
async fn google_wif() {
    run(&Row {
        preset: "google-wif",
        vars: r#"service_account = "102345678901234567890""#,
        issuer: r#"params = { scope = ["https://www.googleapis.com/auth/cloud-platform"] }"#,
        more: r#"[issuer.google-sts]
preset = "google-sts"
vars = { project_number = "123456789012", pool = "bearerd", provider = "cluster" }
params = { subject_token = { file = "subject" } }
proxy = "http://{egress}"
tls = { ca = { file = "ca.pem" } }"#,
        files: &[SUBJECT],
        exchanges: &[
            STS,
            Exchange {
                line: "POST /v1/projects/-/serviceAccounts/102345678901234567890:generateAccessToken HTTP/1.1",
                headers: &[
                    "host: iamcredentials.googleapis.com",
                    "authorization: Bearer ya29.d.federated",
                    JSON,
                ],
                body: r#"{"scope":["https://www.googleapis.com/auth/cloud-platform"]}"#,
                response: Reply {
                    status: 200,
                    headers: &["content-type: application/json; charset=UTF-8"],
                    body: r#"{"accessToken":"ya29.c.account","expireTime":"2100-01-01T01:00:00Z"}"#,
                },
            },
        ],
        lifetime: 24 * 3600,
        sent: &["authorization: Bearer ya29.c.account"],
        ..ROW
    })
    .await;
}

/// The metadata service itself is in the rows of azure-managed-identity.
#[tokio::test]
async fn entra_managed_identity() {
    run(&Row {
        preset: "entra-managed-identity",
        vars: r#"tenant = "contoso.onmicrosoft.com""#,
        issuer: r#"client_id = "00001111-aaaa-2222-bbbb-3333cccc4444"
scopes = ["https://graph.microsoft.com/.default"]"#,
        more: r#"[issuer.managed-identity]
token_url = "https://identity.test/token"
method = "GET"
grant_type = ""
client_auth = "none"
params = { resource = "api://AzureADTokenExchange" }
proxy = "http://{egress}"
tls = { ca = { file = "ca.pem" } }"#,
        exchanges: &[
            Exchange {
                line: "GET /token?resource=api%3A%2F%2FAzureADTokenExchange HTTP/1.1",
                headers: &["host: identity.test"],
                body: "",
                response: Reply {
                    status: 200,
                    headers: &[JSON],
                    body: r#"{"access_token":"eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJtaSJ9.c2ln","expires_in":"86399","token_type":"Bearer"}"#,
                },
            },
            Exchange {
                line: "POST /contoso.onmicrosoft.com/oauth2/v2.0/token HTTP/1.1",
                headers: &["host: login.microsoftonline.com", FORM],
                body: "grant_type=client_credentials&scope=https%3A%2F%2Fgraph.microsoft.com%2F.default&client_id=00001111-aaaa-2222-bbbb-3333cccc4444&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer&client_assertion=eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJtaSJ9.c2ln",
                response: Reply {
                    status: 200,
                    headers: &[JSON],
                    body: r#"{"token_type":"Bearer","expires_in":3599,"access_token":"eyJ0eXAiOiJKV1QiLCJhbGciOiJSUzI1NiJ9.e30.c2ln"}"#,
                },
            },
        ],
        lifetime: 3599,
        sent: &["authorization: Bearer eyJ0eXAiOiJKV1QiLCJhbGciOiJSUzI1NiJ9.e30.c2ln"],
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn keycloak_exchange() {
    run(&Row {
        preset: "keycloak-exchange",
        vars: r#"base_url = "https://idp.example.com", realm = "acme""#,
        issuer: r#"client_id = "billing-gateway"
client_secret = { file = "exchange-secret" }
params = { audience = "ledger" }"#,
        more: r#"[issuer.keycloak]
preset = "keycloak"
vars = { base_url = "https://idp.example.com", realm = "acme" }
client_id = "legacy-billing"
client_secret = { file = "secret" }
proxy = "http://{egress}"
tls = { ca = { file = "ca.pem" } }"#,
        files: &[("exchange-secret", "s3cr3t-of-the-exchange")],
        exchanges: &[
            Exchange {
                line: "POST /realms/acme/protocol/openid-connect/token HTTP/1.1",
                headers: &["host: idp.example.com", FORM],
                body: "grant_type=client_credentials&client_id=legacy-billing&client_secret=s3cr3t-of-the-scene",
                response: Reply {
                    status: 200,
                    headers: &[JSON],
                    body: r#"{"access_token":"eyJhbGciOiJSUzI1NiJ9.e30.inner","expires_in":300,"refresh_expires_in":0,"token_type":"Bearer","not-before-policy":0,"scope":"profile email"}"#,
                },
            },
            Exchange {
                line: "POST /realms/acme/protocol/openid-connect/token HTTP/1.1",
                headers: &["host: idp.example.com", FORM],
                body: "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Atoken-exchange&client_id=billing-gateway&client_secret=s3cr3t-of-the-exchange&audience=ledger&requested_token_type=urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3Aaccess_token&subject_token=eyJhbGciOiJSUzI1NiJ9.e30.inner&subject_token_type=urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3Aaccess_token",
                response: Reply {
                    status: 200,
                    headers: &[JSON],
                    body: r#"{"access_token":"eyJhbGciOiJSUzI1NiJ9.e30.outer","expires_in":300,"refresh_expires_in":0,"token_type":"Bearer","not-before-policy":0,"session_state":"1b7c","scope":"ledger","issued_token_type":"urn:ietf:params:oauth:token-type:access_token"}"#,
                },
            },
        ],
        lifetime: 300,
        sent: &["authorization: Bearer eyJhbGciOiJSUzI1NiJ9.e30.outer"],
        ..ROW
    })
    .await;
}

/// An issuer that exchanges the token of another one, whose server is returned, too.
async fn exchanging() -> (Setup, Scripted) {
    let inner = Scripted::issuer().await;
    inner.always(|_, n| RawResponse::token_for(&format!("inner-{n}"), 3600));
    let keys = r#"grant_type = "urn:ietf:params:oauth:grant-type:token-exchange"
params = { subject_token = { issuer = "inner" }, subject_token_type = "urn:ietf:params:oauth:token-type:access_token" }"#;
    let table = format!(
        "[issuer.inner]\ntoken_url = \"{}/token\"\nclient_id = \"i\"\nclient_secret = {{ file = \"secret\" }}",
        inner.url
    );
    (Setup::new().await.issuer(keys).more(&table), inner)
}

fn subject_tokens(world: &World) -> Vec<String> {
    world.issuer().requests().iter().map(|request| request.params("subject_token").join(",")).collect()
}

/// RFC 8693 section 2.2.2: a subject token that is not valid is an `invalid_request`, as Keycloak responds to one that was revoked.
#[tokio::test]
async fn a_subject_token_that_the_exchange_refuses_is_replaced_once() {
    for (status, code) in [(400, "invalid_request"), (400, "invalid_token"), (400, "invalid_grant")] {
        let (setup, inner) = exchanging().await;
        let world = setup.start().await;
        world.ready().await;
        world.issuer().always(move |request, n| match request.params("subject_token").join("").as_str() {
            "inner-1" => RawResponse::oauth_error(status, code),
            _ => RawResponse::token_for(&format!("token-{n}"), 3600),
        });
        world.upstream().next(RawResponse::unauthorized());
        world.get("/").await.expect_status(200);
        assert_eq!(subject_tokens(&world), ["inner-1", "inner-1", "inner-2"], "{code}");
        assert_eq!(inner.count(), 2);
    }
}

#[tokio::test]
async fn what_an_exchange_refuses_is_told_with_its_remedy() {
    for (status, body, remedy) in [
        (
            403,
            r#"{"error":"access_denied","error_description":"Client is not within the token audience"}"#,
            "the token that is exchanged must name this client in its audience",
        ),
        (
            400,
            r#"{"error":"invalid_request","error_description":"Standard token exchange is not enabled for the requested client"}"#,
            "allow this client to exchange tokens at the issuer",
        ),
        (
            400,
            r#"{"error":"invalid_request","error_description":"Invalid token"}"#,
            "check subject_token and subject_token_type in params of [issuer.corp]",
        ),
        (
            403,
            r#"{"error":{"code":403,"message":"Permission 'iam.serviceAccounts.getAccessToken' denied on resource (or it may not exist).","status":"PERMISSION_DENIED"}}"#,
            "roles/iam.serviceAccountTokenCreator",
        ),
    ] {
        let (setup, _inner) = exchanging().await;
        setup
            .issuer
            .always_this(RawResponse::status(status).header("content-type", "application/json").body(body));
        let response = setup.start().await.get("/").await;
        response.expect_problem(502, "token_refused");
        assert!(response.text().contains(remedy), "{}", response.text());
    }
}
