//! Microsoft's issuers.

use super::{Exchange, FORM, JSON, Jwt, ROW, Refused, Reply, Row, run, start};
use crate::support::cli;

#[tokio::test]
async fn entra() {
    run(&Row {
        preset: "entra",
        vars: r#"tenant = "contoso.onmicrosoft.com""#,
        issuer: r#"client_id = "00001111-aaaa-2222-bbbb-3333cccc4444"
scopes = ["https://graph.microsoft.com/.default"]
client_secret = { file = "secret" }"#,
        files: &[("secret", "qWg+d/YA mab0~YSkuL1qKv5bPX")],
        exchanges: &[
            Exchange {
                line: "POST /contoso.onmicrosoft.com/oauth2/v2.0/token HTTP/1.1",
                headers: &["host: login.microsoftonline.com", FORM],
                body: "grant_type=client_credentials&scope=https%3A%2F%2Fgraph.microsoft.com%2F.default&client_id=00001111-aaaa-2222-bbbb-3333cccc4444&client_secret=qWg%2Bd%2FYA+mab0%7EYSkuL1qKv5bPX",
                response: Reply { status: 200, headers: &[JSON], body: r#"{"token_type":"Bearer","expires_in":3599,"access_token":"eyJ0eXAiOiJKV1QiLCJhbGciOiJSUzI1NiJ9.e30.c2ln"}"# },
            },
        ],
        lifetime: 3599,
        sent: &["authorization: Bearer eyJ0eXAiOiJKV1QiLCJhbGciOiJSUzI1NiJ9.e30.c2ln"],
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn entra_in_a_national_cloud() {
    run(&Row {
        preset: "entra",
        vars: r#"tenant = "contoso.onmicrosoft.com", authority_host = "login.microsoftonline.us""#,
        issuer: r#"client_id = "00001111-aaaa-2222-bbbb-3333cccc4444"
scopes = ["https://graph.microsoft.com/.default"]
client_secret = { file = "secret" }"#,
        exchanges: &[
            Exchange {
                line: "POST /contoso.onmicrosoft.com/oauth2/v2.0/token HTTP/1.1",
                headers: &["host: login.microsoftonline.us", FORM],
                body: "grant_type=client_credentials&scope=https%3A%2F%2Fgraph.microsoft.com%2F.default&client_id=00001111-aaaa-2222-bbbb-3333cccc4444&client_secret=s3cr3t-of-the-scene",
                response: Reply { status: 200, headers: &[JSON], body: r#"{"token_type":"Bearer","expires_in":3599,"access_token":"eyJ0eXAiOiJKV1QiLCJhbGciOiJSUzI1NiJ9.e30.c2ln"}"# },
            },
        ],
        lifetime: 3599,
        sent: &["authorization: Bearer eyJ0eXAiOiJKV1QiLCJhbGciOiJSUzI1NiJ9.e30.c2ln"],
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn entra_says_that_the_scope_is_not_valid() {
    run(&Row {
        preset: "entra",
        vars: r#"tenant = "contoso.onmicrosoft.com""#,
        issuer: r#"client_id = "00001111-aaaa-2222-bbbb-3333cccc4444"
scopes = ["https://graph.microsoft.com/.default"]
client_secret = { file = "secret" }"#,
        exchanges: &[
            Exchange {
                line: "POST /contoso.onmicrosoft.com/oauth2/v2.0/token HTTP/1.1",
                headers: &["host: login.microsoftonline.com", FORM],
                body: "grant_type=client_credentials&scope=https%3A%2F%2Fgraph.microsoft.com%2F.default&client_id=00001111-aaaa-2222-bbbb-3333cccc4444&client_secret=s3cr3t-of-the-scene",
                response: Reply { status: 400, headers: &[JSON], body: r#"{"error":"invalid_scope","error_description":"AADSTS70011: The provided value for the input parameter 'scope' is not valid. Trace ID: 255d1aef-8c98-452f-ac51-23d051240864 Correlation ID: fb3d2015-bc17-4bb9-bb85-30c5cf1aaaa7","error_codes":[70011],"timestamp":"2016-01-09 02:02:12Z","trace_id":"255d1aef-8c98-452f-ac51-23d051240864","correlation_id":"fb3d2015-bc17-4bb9-bb85-30c5cf1aaaa7","error_uri":"https://login.microsoftonline.com/error?code=70011"}"# },
            },
        ],
        refused: Some(Refused {
            status: 502,
            code: "token_refused",
            detail: &["invalid_scope", "AADSTS70011"],
            logged: &["255d1aef-8c98-452f-ac51-23d051240864", "fb3d2015-bc17-4bb9-bb85-30c5cf1aaaa7"],
        }),
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn entra_that_is_busy_says_so_in_plain_text() {
    run(&Row {
        preset: "entra",
        vars: r#"tenant = "contoso.onmicrosoft.com""#,
        issuer: r#"client_id = "00001111-aaaa-2222-bbbb-3333cccc4444"
scopes = ["https://graph.microsoft.com/.default"]
client_secret = { file = "secret" }"#,
        exchanges: &[
            Exchange {
                line: "POST /contoso.onmicrosoft.com/oauth2/v2.0/token HTTP/1.1",
                headers: &["host: login.microsoftonline.com", FORM],
                body: "grant_type=client_credentials&scope=https%3A%2F%2Fgraph.microsoft.com%2F.default&client_id=00001111-aaaa-2222-bbbb-3333cccc4444&client_secret=s3cr3t-of-the-scene",
                response: Reply { status: 429, headers: &["retry-after: 60", "content-type: text/plain"], body: "Too Many Requests" },
            },
        ],
        refused: Some(Refused {
            status: 503,
            code: "token_unavailable",
            detail: &["429", "Too Many Requests"],
            logged: &[],
        }),
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn entra_certificate() {
    run(&Row {
        preset: "entra-certificate",
        vars: r#"tenant = "contoso.onmicrosoft.com""#,
        issuer: r#"client_id = "00001111-aaaa-2222-bbbb-3333cccc4444"
scopes = ["https://graph.microsoft.com/.default"]
private_key = { file = "{keys}/rsa.pkcs8.pem" }
certificate = { file = "{keys}/rsa.certificate.pem" }"#,
        exchanges: &[
            Exchange {
                line: "POST /contoso.onmicrosoft.com/oauth2/v2.0/token HTTP/1.1",
                headers: &["host: login.microsoftonline.com", FORM],
                body: "grant_type=client_credentials&scope=https%3A%2F%2Fgraph.microsoft.com%2F.default&client_id=00001111-aaaa-2222-bbbb-3333cccc4444&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer&client_assertion={jwt}",
                response: Reply { status: 200, headers: &[JSON], body: r#"{"token_type":"Bearer","expires_in":3599,"access_token":"eyJ0eXAiOiJKV1QiLCJhbGciOiJSUzI1NiJ9.e30.c2ln"}"# },
            },
        ],
        jwts: &[
            Jwt {
                name: "jwt",
                key: "rsa.public.pem",
                header: r#"{"alg":"PS256","typ":"JWT","x5t#S256":"sIT2WqJm-k7him2K4k3k-wsLqj1Ia5_AzhQbWtNyTxo"}"#,
                claims: r#"{"iss":"00001111-aaaa-2222-bbbb-3333cccc4444","sub":"00001111-aaaa-2222-bbbb-3333cccc4444","aud":"https://login.microsoftonline.com/contoso.onmicrosoft.com/oauth2/v2.0/token"}"#,
                lifetime: 300,
            },
        ],
        lifetime: 3599,
        sent: &["authorization: Bearer eyJ0eXAiOiJKV1QiLCJhbGciOiJSUzI1NiJ9.e30.c2ln"],
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn entra_certificate_with_the_older_thumbprint() {
    run(&Row {
        preset: "entra-certificate",
        vars: r#"tenant = "contoso.onmicrosoft.com""#,
        issuer: r#"client_id = "00001111-aaaa-2222-bbbb-3333cccc4444"
scopes = ["https://graph.microsoft.com/.default"]
private_key = { file = "{keys}/rsa.pkcs8.pem" }
certificate = { file = "{keys}/rsa.certificate.pem" }
jwt = { alg = "RS256", certificate_headers = ["x5t"] }"#,
        exchanges: &[
            Exchange {
                line: "POST /contoso.onmicrosoft.com/oauth2/v2.0/token HTTP/1.1",
                headers: &["host: login.microsoftonline.com", FORM],
                body: "grant_type=client_credentials&scope=https%3A%2F%2Fgraph.microsoft.com%2F.default&client_id=00001111-aaaa-2222-bbbb-3333cccc4444&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer&client_assertion={jwt}",
                response: Reply { status: 200, headers: &[JSON], body: r#"{"token_type":"Bearer","expires_in":3599,"access_token":"eyJ0eXAiOiJKV1QiLCJhbGciOiJSUzI1NiJ9.e30.c2ln"}"# },
            },
        ],
        jwts: &[
            Jwt {
                name: "jwt",
                key: "rsa.public.pem",
                header: r#"{"alg":"RS256","typ":"JWT","x5t":"b1LiGAbMH1c9VZ9hEZho3i4tDes"}"#,
                claims: r#"{"iss":"00001111-aaaa-2222-bbbb-3333cccc4444","sub":"00001111-aaaa-2222-bbbb-3333cccc4444","aud":"https://login.microsoftonline.com/contoso.onmicrosoft.com/oauth2/v2.0/token"}"#,
                lifetime: 300,
            },
        ],
        lifetime: 3599,
        sent: &["authorization: Bearer eyJ0eXAiOiJKV1QiLCJhbGciOiJSUzI1NiJ9.e30.c2ln"],
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn entra_federated() {
    run(&Row {
        preset: "entra-federated",
        vars: r#"tenant = "contoso.onmicrosoft.com""#,
        issuer: r#"client_id = "00001111-aaaa-2222-bbbb-3333cccc4444"
scopes = ["https://graph.microsoft.com/.default"]
assertion = { file = "azure-identity-token" }"#,
        files: &[("azure-identity-token", "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJzeXN0ZW0ifQ.c2lnbmF0dXJl\n")],
        exchanges: &[
            Exchange {
                line: "POST /contoso.onmicrosoft.com/oauth2/v2.0/token HTTP/1.1",
                headers: &["host: login.microsoftonline.com", FORM],
                body: "grant_type=client_credentials&scope=https%3A%2F%2Fgraph.microsoft.com%2F.default&client_id=00001111-aaaa-2222-bbbb-3333cccc4444&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer&client_assertion=eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJzeXN0ZW0ifQ.c2lnbmF0dXJl",
                response: Reply { status: 200, headers: &[JSON], body: r#"{"token_type":"Bearer","expires_in":3599,"access_token":"eyJ0eXAiOiJKV1QiLCJhbGciOiJSUzI1NiJ9.e30.c2ln"}"# },
            },
        ],
        lifetime: 3599,
        sent: &["authorization: Bearer eyJ0eXAiOiJKV1QiLCJhbGciOiJSUzI1NiJ9.e30.c2ln"],
        ..ROW
    })
    .await;
}

/// `expires_on` is long past: `expires_in` goes before it.
#[tokio::test]
async fn azure_ad_b2c() {
    run(&Row {
        preset: "azure-ad-b2c",
        vars: r#"tenant = "contoso", policy = "B2C_1A_SUSI""#,
        issuer: r#"client_id = "33334444-dddd-5555-eeee-6666ffff7777"
client_secret = { file = "secret" }
scopes = ["https://contoso.onmicrosoft.com/api/.default"]"#,
        exchanges: &[
            Exchange {
                line: "POST /contoso.onmicrosoft.com/B2C_1A_SUSI/oauth2/v2.0/token HTTP/1.1",
                headers: &["host: contoso.b2clogin.com", FORM],
                body: "grant_type=client_credentials&scope=https%3A%2F%2Fcontoso.onmicrosoft.com%2Fapi%2F.default&client_id=33334444-dddd-5555-eeee-6666ffff7777&client_secret=s3cr3t-of-the-scene",
                response: Reply { status: 200, headers: &[JSON], body: r#"{"access_token":"b2c-1","token_type":"Bearer","not_before":1645172292,"expires_in":3600,"expires_on":1645175892,"resource":"f2a76e08-93f2-4350-833c-965c02483b11"}"# },
            },
        ],
        lifetime: 3600,
        sent: &["authorization: Bearer b2c-1"],
        ..ROW
    })
    .await;
}

const EXCHANGE_ONLINE: Row = Row {
    preset: "exchange-online",
    vars: r#"tenant = "contoso.onmicrosoft.com""#,
    issuer: r#"client_id = "00001111-aaaa-2222-bbbb-3333cccc4444"
client_secret = { file = "secret" }"#,
    exchanges: &[Exchange {
        line: "POST /contoso.onmicrosoft.com/oauth2/v2.0/token HTTP/1.1",
        headers: &["host: login.microsoftonline.com", FORM],
        body: "grant_type=client_credentials&scope=https%3A%2F%2Foutlook.office365.com%2F.default&client_id=00001111-aaaa-2222-bbbb-3333cccc4444&client_secret=s3cr3t-of-the-scene",
        response: Reply {
            status: 200,
            headers: &[JSON],
            body: r#"{"token_type":"Bearer","expires_in":3599,"access_token":"EwBAAl3BAAUFFpUAo7J3Ve0bjLBWZWCclRC3EoAA"}"#,
        },
    }],
    lifetime: 3599,
    sent: &["authorization: Bearer EwBAAl3BAAUFFpUAo7J3Ve0bjLBWZWCclRC3EoAA"],
    ..ROW
};

#[tokio::test]
async fn exchange_online() {
    run(&EXCHANGE_ONLINE).await;
}

/// Mailbox, token and string are the vendor's own example.
#[tokio::test]
async fn exchange_online_prints_what_mail_protocols_want() {
    let stage = start(&EXCHANGE_ONLINE).await;
    let user = "test@contoso.onmicrosoft.com";
    let output = cli::run(stage.world.folder(), &["token", "corp", "--xoauth2", user]).await;
    output.expect_code(0);
    let wanted = "dXNlcj10ZXN0QGNvbnRvc28ub25taWNyb3NvZnQuY29tAWF1dGg9QmVhcmVyIEV3QkFBbDNCQUFVRkZwVUFvN0ozVmUwYmpMQldaV0NjbFJDM0VvQUEBAQ==";
    assert_eq!(output.stdout.trim_end(), wanted);
}
