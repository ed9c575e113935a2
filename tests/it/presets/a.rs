//! Identity providers, and gateways with a token endpoint of their own.

use super::{Exchange, FORM, JSON, ROW, Refused, Reply, Row, run};

#[tokio::test]
async fn keycloak() {
    run(&Row {
        preset: "keycloak",
        vars: r#"base_url = "https://idp.example.com/auth", realm = "acme""#,
        issuer: r#"
            client_id = "legacy-billing"
            client_secret = { file = "secret" }
        "#,
        files: &[("secret", "p@ss w&rd/é")],
        exchanges: &[Exchange {
            line: "POST /auth/realms/acme/protocol/openid-connect/token HTTP/1.1",
            headers: &["host: idp.example.com", FORM],
            body: "grant_type=client_credentials&client_id=legacy-billing&client_secret=p%40ss+w%26rd%2F%C3%A9",
            answer: Reply {
                status: 200,
                headers: &[JSON],
                body: r#"{"access_token":"eyJhbGciOiJSUzI1NiJ9.e30.c2ln","expires_in":300,"refresh_expires_in":0,"token_type":"Bearer","not-before-policy":0,"scope":"profile email"}"#,
            },
        }],
        lifetime: 300,
        sent: &["authorization: Bearer eyJhbGciOiJSUzI1NiJ9.e30.c2ln"],
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn keycloak_says_that_the_secret_is_wrong() {
    run(&Row {
        preset: "keycloak",
        vars: r#"base_url = "https://idp.example.com", realm = "acme""#,
        issuer: r#"
            client_id = "legacy-billing"
            client_secret = { file = "secret" }
        "#,
        exchanges: &[Exchange {
            line: "POST /realms/acme/protocol/openid-connect/token HTTP/1.1",
            headers: &["host: idp.example.com", FORM],
            body: "grant_type=client_credentials&client_id=legacy-billing&client_secret=s3cr3t-of-the-scene",
            answer: Reply {
                status: 401,
                headers: &[JSON],
                body: r#"{"error":"unauthorized_client","error_description":"Invalid client secret"}"#,
            },
        }],
        refused: Some(Refused {
            status: 502,
            code: "token_refused",
            detail: &["unauthorized_client", "Invalid client secret"],
            logged: &[],
        }),
        ..ROW
    })
    .await;
}
