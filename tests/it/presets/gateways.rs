//! Single sign-on, gateways and services with one way in.

use super::{Exchange, FORM, JSON, ROW, Refused, Reply, Row, run};

const SEISMIC_WEBHOOK: &str = r#"
    [webhook.seismic]
    address = "127.0.0.1:0"
    path = "/seismic"
    signature_header = "x-seismic-signature"
    secrets = [{ file = "signing" }]
    value = "/delegationUserId"
    store = "seismic.json"
"#;

#[tokio::test]
async fn seismic() {
    run(&Row {
        preset: "seismic",
        vars: r#"tenant = "acme""#,
        issuer: r#"client_id = "legacy-billing"
client_secret = { file = "secret" }
scopes = ["seismic.reporting", "seismic.user.view"]"#,
        more: SEISMIC_WEBHOOK,
        files: &[("signing", "whsec"), ("seismic.json", r#"{"value":"6f9619ff-8b86-d011-b42d-00c04fc964ff","received_at":"2026-01-02T03:04:05Z"}"#)],
        exchanges: &[
            Exchange {
                line: "POST /tenants/acme/connect/token HTTP/1.1",
                headers: &["host: auth.seismic.com", FORM],
                body: "grant_type=delegation&scope=seismic.reporting+seismic.user.view&client_id=legacy-billing&client_secret=s3cr3t-of-the-scene&user_id=6f9619ff-8b86-d011-b42d-00c04fc964ff",
                response: Reply { status: 200, headers: &[JSON], body: r#"{"access_token":"eyJhbGciOiJSUzI1NiJ9.c2Vpc21pYw.c2ln","token_type":"Bearer","expires_in":21600}"# },
            },
        ],
        lifetime: 21600,
        sent: &["authorization: Bearer eyJhbGciOiJSUzI1NiJ9.c2Vpc21pYw.c2ln"],
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn seismic_without_scopes_asks_for_none() {
    run(&Row {
        preset: "seismic",
        vars: r#"tenant = "acme""#,
        issuer: r#"client_id = "legacy-billing"
client_secret = { file = "secret" }"#,
        more: SEISMIC_WEBHOOK,
        files: &[("signing", "whsec"), ("seismic.json", r#"{"value":"6f9619ff-8b86-d011-b42d-00c04fc964ff","received_at":"2026-01-02T03:04:05Z"}"#)],
        exchanges: &[
            Exchange {
                line: "POST /tenants/acme/connect/token HTTP/1.1",
                headers: &["host: auth.seismic.com", FORM],
                body: "grant_type=delegation&client_id=legacy-billing&client_secret=s3cr3t-of-the-scene&user_id=6f9619ff-8b86-d011-b42d-00c04fc964ff",
                response: Reply { status: 200, headers: &[JSON], body: r#"{"access_token":"t","token_type":"Bearer","expires_in":21600}"# },
            },
        ],
        lifetime: 21600,
        sent: &["authorization: Bearer t"],
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn seismic_says_invalid_client_until_a_new_credential_is_active() {
    run(&Row {
        preset: "seismic",
        vars: r#"tenant = "acme""#,
        issuer: r#"client_id = "legacy-billing"
client_secret = { file = "secret" }"#,
        more: SEISMIC_WEBHOOK,
        files: &[("signing", "whsec"), ("seismic.json", r#"{"value":"6f9619ff-8b86-d011-b42d-00c04fc964ff","received_at":"2026-01-02T03:04:05Z"}"#)],
        exchanges: &[
            Exchange {
                line: "POST /tenants/acme/connect/token HTTP/1.1",
                headers: &["host: auth.seismic.com", FORM],
                body: "grant_type=delegation&client_id=legacy-billing&client_secret=s3cr3t-of-the-scene&user_id=6f9619ff-8b86-d011-b42d-00c04fc964ff",
                response: Reply { status: 400, headers: &[JSON], body: r#"{"error":"invalid_client"}"# },
            },
        ],
        refused: Some(Refused {
            status: 502,
            code: "token_refused",
            detail: &["invalid_client"],
            logged: &[],
        }),
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn ubisecure() {
    run(&Row {
        preset: "ubisecure",
        vars: r#"base_url = "https://login.example.com""#,
        issuer: r#"client_id = "legacy-billing"
client_secret = { file = "secret" }
scopes = ["openid", "server1", "server2"]"#,
        exchanges: &[Exchange {
            line: "POST /uas/oauth2/token HTTP/1.1",
            headers: &[
                "host: login.example.com",
                "authorization: Basic bGVnYWN5LWJpbGxpbmc6czNjcjN0LW9mLXRoZS1zY2VuZQ==",
                FORM,
            ],
            body: "grant_type=client_credentials&scope=openid+server1+server2",
            response: Reply {
                status: 200,
                headers: &[JSON],
                body: r#"{"access_token":"ubi-1","token_type":"Bearer","expires_in":3600}"#,
            },
        }],
        lifetime: 3600,
        sent: &["authorization: Bearer ubi-1"],
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn ubisecure_with_the_credentials_in_the_form() {
    run(&Row {
        preset: "ubisecure",
        vars: r#"base_url = "https://login.example.com""#,
        issuer: r#"client_id = "legacy-billing"
client_secret = { file = "secret" }
client_auth = "client_secret_post"
scopes = ["openid", "server1", "server2"]"#,
        exchanges: &[
            Exchange {
                line: "POST /uas/oauth2/token HTTP/1.1",
                headers: &["host: login.example.com", FORM],
                body: "grant_type=client_credentials&scope=openid+server1+server2&client_id=legacy-billing&client_secret=s3cr3t-of-the-scene",
                response: Reply { status: 200, headers: &[JSON], body: r#"{"access_token":"ubi-1","token_type":"Bearer","expires_in":3600}"# },
            },
        ],
        lifetime: 3600,
        sent: &["authorization: Bearer ubi-1"],
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn curity() {
    run(&Row {
        preset: "curity",
        vars: r#"base_url = "https://login.example.com""#,
        issuer: r#"client_id = "legacy-billing"
client_secret = { file = "secret" }
scopes = ["read"]"#,
        exchanges: &[Exchange {
            line: "POST /oauth/v2/oauth-token HTTP/1.1",
            headers: &[
                "host: login.example.com",
                "authorization: Basic bGVnYWN5LWJpbGxpbmc6czNjcjN0LW9mLXRoZS1zY2VuZQ==",
                FORM,
            ],
            body: "grant_type=client_credentials&scope=read",
            response: Reply {
                status: 200,
                headers: &[JSON],
                body: r#"{"access_token":"curity-1","token_type":"bearer","expires_in":300}"#,
            },
        }],
        lifetime: 300,
        sent: &["authorization: Bearer curity-1"],
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn curity_with_a_spiffe_svid() {
    run(&Row {
        preset: "curity",
        vars: r#"base_url = "https://login.example.com", token_path = "/my/token""#,
        issuer: r#"client_auth = "assertion_file"
assertion = { file = "svid" }
scopes = ["read"]"#,
        files: &[("svid", "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJzcGlmZmU6Ly9hIn0.c2ln")],
        exchanges: &[
            Exchange {
                line: "POST /my/token HTTP/1.1",
                headers: &["host: login.example.com", FORM],
                body: "grant_type=client_credentials&scope=read&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer&client_assertion=eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJzcGlmZmU6Ly9hIn0.c2ln",
                response: Reply { status: 200, headers: &[JSON], body: r#"{"access_token":"curity-1","token_type":"bearer","expires_in":300}"# },
            },
        ],
        lifetime: 300,
        sent: &["authorization: Bearer curity-1"],
        ..ROW
    })
    .await;
}

/// Id and secret are not encoded before base64: the server does not decode them.
#[tokio::test]
async fn owin() {
    run(&Row {
        preset: "owin",
        vars: r#"base_url = "https://api.example.com""#,
        issuer: r#"client_id = "legacy-billing"
client_secret = { file = "secret" }"#,
        files: &[("secret", "p@ss:w&rd+/%20")],
        exchanges: &[Exchange {
            line: "POST /token HTTP/1.1",
            headers: &[
                "host: api.example.com",
                "authorization: Basic bGVnYWN5LWJpbGxpbmc6cEBzczp3JnJkKy8lMjA=",
                FORM,
            ],
            body: "grant_type=client_credentials",
            response: Reply {
                status: 200,
                headers: &[JSON],
                body: r#"{"access_token":"owin-1","token_type":"bearer","expires_in":1199}"#,
            },
        }],
        lifetime: 1199,
        sent: &["authorization: Bearer owin-1"],
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn cognito() {
    run(&Row {
        preset: "cognito",
        vars: r#"domain = "acme-auth", region = "us-east-1""#,
        issuer: r#"client_id = "legacy-billing"
client_secret = { file = "secret" }
scopes = ["https://api.example.com/read"]"#,
        exchanges: &[Exchange {
            line: "POST /oauth2/token HTTP/1.1",
            headers: &[
                "host: acme-auth.auth.us-east-1.amazoncognito.com",
                "authorization: Basic bGVnYWN5LWJpbGxpbmc6czNjcjN0LW9mLXRoZS1zY2VuZQ==",
                FORM,
            ],
            body: "grant_type=client_credentials&scope=https%3A%2F%2Fapi.example.com%2Fread",
            response: Reply {
                status: 200,
                headers: &[JSON],
                body: r#"{"access_token":"eyJz9sdfsdfsdfsd","token_type":"Bearer","expires_in":3600}"#,
            },
        }],
        lifetime: 3600,
        sent: &["authorization: Bearer eyJz9sdfsdfsdfsd"],
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn cognito_refuses_a_client_in_one_word() {
    run(&Row {
        preset: "cognito",
        vars: r#"domain = "acme-auth", region = "us-east-1""#,
        issuer: r#"client_id = "legacy-billing"
client_secret = { file = "secret" }"#,
        exchanges: &[Exchange {
            line: "POST /oauth2/token HTTP/1.1",
            headers: &[
                "host: acme-auth.auth.us-east-1.amazoncognito.com",
                "authorization: Basic bGVnYWN5LWJpbGxpbmc6czNjcjN0LW9mLXRoZS1zY2VuZQ==",
                FORM,
            ],
            body: "grant_type=client_credentials",
            response: Reply { status: 400, headers: &[JSON], body: r#"{"error":"invalid_client"}"# },
        }],
        refused: Some(Refused {
            status: 502,
            code: "token_refused",
            detail: &["invalid_client"],
            logged: &[],
        }),
        ..ROW
    })
    .await;
}

/// `BearerToken` is no scheme: `Bearer` is sent.
#[tokio::test]
async fn apigee() {
    run(&Row {
        preset: "apigee",
        vars: r#"base_url = "https://acme-prod.apigee.net/oauth""#,
        issuer: r#"client_id = "legacy-billing"
client_secret = { file = "secret" }"#,
        exchanges: &[
            Exchange {
                line: "POST /oauth/accesstoken HTTP/1.1",
                headers: &["host: acme-prod.apigee.net", "authorization: Basic bGVnYWN5LWJpbGxpbmc6czNjcjN0LW9mLXRoZS1zY2VuZQ==", FORM],
                body: "grant_type=client_credentials",
                response: Reply { status: 200, headers: &[JSON], body: r#"{"refresh_token_expires_in":"0","api_product_list":"[p1]","organization_name":"ext","developer.email":"x@y","token_type":"BearerToken","issued_at":"1698050494594","client_id":"legacy-billing","access_token":"apigee-1","scope":"","expires_in":"3599","refresh_count":"0","status":"approved"}"# },
            },
        ],
        lifetime: 3599,
        sent: &["authorization: Bearer apigee-1"],
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn apigee_with_the_grant_type_in_the_query() {
    run(&Row {
        preset: "apigee",
        issuer: r#"token_url = "https://acme-prod.apigee.net/oauth/accesstoken?grant_type=client_credentials"
grant_type = ""
client_auth = "client_secret_post"
client_id = "legacy-billing"
client_secret = { file = "secret" }"#,
        exchanges: &[
            Exchange {
                line: "POST /oauth/accesstoken?grant_type=client_credentials HTTP/1.1",
                headers: &["host: acme-prod.apigee.net", FORM],
                body: "client_id=legacy-billing&client_secret=s3cr3t-of-the-scene",
                response: Reply { status: 200, headers: &[JSON], body: r#"{"refresh_token_expires_in":"0","api_product_list":"[p1]","organization_name":"ext","developer.email":"x@y","token_type":"BearerToken","issued_at":"1698050494594","client_id":"legacy-billing","access_token":"apigee-1","scope":"","expires_in":"3599","refresh_count":"0","status":"approved"}"# },
            },
        ],
        lifetime: 3599,
        sent: &["authorization: Bearer apigee-1"],
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn apigee_says_that_the_key_is_wrong() {
    run(&Row {
        preset: "apigee",
        vars: r#"base_url = "https://acme-prod.apigee.net/oauth""#,
        issuer: r#"client_id = "legacy-billing"
client_secret = { file = "secret" }"#,
        exchanges: &[Exchange {
            line: "POST /oauth/accesstoken HTTP/1.1",
            headers: &[
                "host: acme-prod.apigee.net",
                "authorization: Basic bGVnYWN5LWJpbGxpbmc6czNjcjN0LW9mLXRoZS1zY2VuZQ==",
                FORM,
            ],
            body: "grant_type=client_credentials",
            response: Reply {
                status: 401,
                headers: &[JSON],
                body: r#"{"ErrorCode" : "invalid_client", "Error" :"ClientId is Invalid"}"#,
            },
        }],
        refused: Some(Refused {
            status: 502,
            code: "token_refused",
            detail: &["invalid_client", "ClientId is Invalid"],
            logged: &[],
        }),
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn spotify() {
    run(&Row {
        preset: "spotify",
        issuer: r#"client_id = "legacy-billing"
client_secret = { file = "secret" }"#,
        exchanges: &[Exchange {
            line: "POST /api/token HTTP/1.1",
            headers: &[
                "host: accounts.spotify.com",
                "authorization: Basic bGVnYWN5LWJpbGxpbmc6czNjcjN0LW9mLXRoZS1zY2VuZQ==",
                FORM,
            ],
            body: "grant_type=client_credentials",
            response: Reply {
                status: 200,
                headers: &[JSON],
                body: r#"{"access_token":"NgCXRKc...MzYjw","token_type":"bearer","expires_in":3600}"#,
            },
        }],
        lifetime: 3600,
        sent: &["authorization: Bearer NgCXRKc...MzYjw"],
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn ups() {
    run(&Row {
        preset: "ups",
        issuer: r#"client_id = "legacy-billing"
client_secret = { file = "secret" }
headers = { x-merchant-id = "A1B2C3" }"#,
        exchanges: &[
            Exchange {
                line: "POST /security/v1/oauth/token HTTP/1.1",
                headers: &["host: onlinetools.ups.com", "authorization: Basic bGVnYWN5LWJpbGxpbmc6czNjcjN0LW9mLXRoZS1zY2VuZQ==", "x-merchant-id: A1B2C3", FORM],
                body: "grant_type=client_credentials",
                response: Reply { status: 200, headers: &[JSON], body: r#"{"token_type":"Bearer","issued_at":"1698050494594","client_id":"legacy-billing","access_token":"ups-1","expires_in":"14399","status":"approved"}"# },
            },
        ],
        lifetime: 14399,
        sent: &["authorization: Bearer ups-1"],
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn ups_says_in_its_own_way_what_is_wrong() {
    run(&Row {
        preset: "ups",
        vars: r#"host = "wwwcie.ups.com""#,
        issuer: r#"client_id = "legacy-billing"
client_secret = { file = "secret" }"#,
        exchanges: &[Exchange {
            line: "POST /security/v1/oauth/token HTTP/1.1",
            headers: &[
                "host: wwwcie.ups.com",
                "authorization: Basic bGVnYWN5LWJpbGxpbmc6czNjcjN0LW9mLXRoZS1zY2VuZQ==",
                FORM,
            ],
            body: "grant_type=client_credentials",
            response: Reply {
                status: 401,
                headers: &[JSON],
                body: r#"{"response":{"errors":[{"code":"10401","message":"ClientId is Invalid"}]}}"#,
            },
        }],
        refused: Some(Refused {
            status: 502,
            code: "token_refused",
            detail: &["10401", "ClientId is Invalid"],
            logged: &[],
        }),
        ..ROW
    })
    .await;
}
