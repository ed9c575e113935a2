//! Authorization servers that people run themselves.

use super::{Exchange, FORM, JSON, Jwt, ROW, Refused, Reply, Row, run};

/// `billing:s3cr3t-of-the-scene`
const BASIC: &str = "authorization: Basic YmlsbGluZzpzM2NyM3Qtb2YtdGhlLXNjZW5l";
const CLIENT: &str = "client_id = \"billing\"\nclient_secret = { file = \"secret\" }";

#[tokio::test]
async fn hydra() {
    run(&Row {
        preset: "hydra",
        vars: r#"public_url = "https://hydra.example.com""#,
        issuer: r#"client_id = "billing"
client_secret = { file = "secret" }
scopes = ["billing.read"]
params = { audience = "https://api.example.com" }"#,
        exchanges: &[Exchange {
            line: "POST /oauth2/token HTTP/1.1",
            headers: &["host: hydra.example.com", BASIC, FORM],
            body: "grant_type=client_credentials&scope=billing.read&audience=https%3A%2F%2Fapi.example.com",
            response: Reply {
                status: 200,
                headers: &[JSON],
                body: r#"{"access_token":"ory_at_lRIAJQm0LwRYzCl7O0nQ","expires_in":3599,"scope":"billing.read","token_type":"bearer"}"#,
            },
        }],
        lifetime: 3599,
        sent: &["authorization: Bearer ory_at_lRIAJQm0LwRYzCl7O0nQ"],
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn hydra_with_a_key_names_its_token_endpoint() {
    run(&Row {
        preset: "hydra",
        vars: r#"public_url = "https://hydra.example.com""#,
        issuer: "client_id = \"billing\"\nclient_auth = \"private_key_jwt\"\nprivate_key = { file = \"{keys}/rsa.pkcs8.pem\" }",
        exchanges: &[Exchange {
            line: "POST /oauth2/token HTTP/1.1",
            headers: &["host: hydra.example.com", FORM],
            body: "grant_type=client_credentials&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer&client_assertion={jwt}",
            response: Reply {
                status: 401,
                headers: &[JSON],
                body: r#"{"error":"invalid_client","error_description":"Client authentication failed (e.g., unknown client, no client authentication included, or unsupported authentication method). Claim 'audience' from 'client_assertion' must match the authorization server's token endpoint 'https://elsewhere.example.com/oauth2/token'."}"#,
            },
        }],
        jwts: &[Jwt {
            name: "jwt",
            key: "rsa.public.pem",
            header: r#"{"alg":"RS256","typ":"JWT"}"#,
            claims: r#"{"iss":"billing","sub":"billing","aud":"https://hydra.example.com/oauth2/token"}"#,
            lifetime: 60,
        }],
        refused: Some(Refused {
            status: 502,
            code: "token_refused",
            detail: &["invalid_client", "set jwt.audience of [issuer.corp]"],
            logged: &[],
        }),
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn authelia() {
    run(&Row {
        preset: "authelia",
        vars: r#"base_url = "https://auth.example.com""#,
        issuer: r#"client_id = "billing"
client_secret = { file = "secret" }
scopes = ["authelia.bearer.authz"]
params = { audience = "https://app.example.com" }"#,
        exchanges: &[Exchange {
            line: "POST /api/oidc/token HTTP/1.1",
            headers: &["host: auth.example.com", BASIC, FORM],
            body: "grant_type=client_credentials&scope=authelia.bearer.authz&audience=https%3A%2F%2Fapp.example.com",
            response: Reply {
                status: 200,
                headers: &[JSON],
                body: r#"{"access_token":"authelia_at_cr4i4EtTn2F4k","expires_in":3599,"scope":"authelia.bearer.authz","token_type":"bearer"}"#,
            },
        }],
        lifetime: 3599,
        sent: &["authorization: Bearer authelia_at_cr4i4EtTn2F4k"],
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn dex() {
    run(&Row {
        preset: "dex",
        vars: r#"issuer = "https://dex.example.com/dex""#,
        issuer: r#"client_id = "billing"
client_secret = { file = "secret" }
scopes = ["openid", "groups"]
response = { token = "/id_token" }"#,
        exchanges: &[Exchange {
            line: "POST /dex/token HTTP/1.1",
            headers: &["host: dex.example.com", BASIC, FORM],
            body: "grant_type=client_credentials&scope=openid+groups",
            response: Reply {
                status: 200,
                headers: &[JSON],
                body: r#"{"access_token":"eyJhIn0.e30.c2ln","token_type":"bearer","expires_in":86399,"id_token":"eyJpIn0.e30.c2ln"}"#,
            },
        }],
        lifetime: 86399,
        sent: &["authorization: Bearer eyJpIn0.e30.c2ln"],
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn rauthy() {
    run(&Row {
        preset: "rauthy",
        vars: r#"base_url = "https://auth.example.com""#,
        issuer: CLIENT,
        exchanges: &[Exchange {
            line: "POST /auth/v1/oidc/token HTTP/1.1",
            headers: &["host: auth.example.com", FORM],
            body: "grant_type=client_credentials&client_id=billing&client_secret=s3cr3t-of-the-scene",
            response: Reply {
                status: 200,
                headers: &[JSON],
                body: r#"{"access_token":"eyJyIn0.e30.c2ln","token_type":"Bearer","expires_in":1800}"#,
            },
        }],
        lifetime: 1800,
        sent: &["authorization: Bearer eyJyIn0.e30.c2ln"],
        ..ROW
    })
    .await;
}

/// The challenge is in the header field, and the body is Rauthy's own.
#[tokio::test]
async fn rauthy_asks_for_its_nonce() {
    const PROOF: &str = r#"{"alg":"ES256","typ":"dpop+jwt"}"#;
    run(&Row {
        preset: "rauthy",
        vars: r#"base_url = "https://auth.example.com""#,
        issuer: "client_id = \"billing\"\nclient_secret = { file = \"secret\" }\ndpop = { private_key = { file = \"{keys}/ec-p256.pkcs8.pem\" } }",
        exchanges: &[
            Exchange {
                line: "POST /auth/v1/oidc/token HTTP/1.1",
                headers: &["host: auth.example.com", "dpop: {first}", FORM],
                body: "grant_type=client_credentials&client_id=billing&client_secret=s3cr3t-of-the-scene",
                response: Reply {
                    status: 400,
                    headers: &[
                        JSON,
                        "dpop-nonce: Nu8ajvcpVkq7Ti3h",
                        "www-authenticate: DPoP error=\"use_dpop_nonce\", error_description=\"Authorization server requires nonce in DPoP proof\"",
                    ],
                    body: r#"{"timestamp":1741956000,"error":"UseDpopNonce","message":"Nu8ajvcpVkq7Ti3h"}"#,
                },
            },
            Exchange {
                line: "POST /auth/v1/oidc/token HTTP/1.1",
                headers: &["host: auth.example.com", "dpop: {second}", FORM],
                body: "grant_type=client_credentials&client_id=billing&client_secret=s3cr3t-of-the-scene",
                response: Reply {
                    status: 200,
                    headers: &[JSON],
                    body: r#"{"access_token":"eyJyIn0.e30.c2ln","token_type":"DPoP","expires_in":1800}"#,
                },
            },
        ],
        jwts: &[
            Jwt {
                name: "first",
                key: "ec-p256.public.pem",
                header: PROOF,
                claims: r#"{"htm":"POST","htu":"https://auth.example.com/auth/v1/oidc/token"}"#,
                lifetime: 0,
            },
            Jwt {
                name: "second",
                key: "ec-p256.public.pem",
                header: PROOF,
                claims: r#"{"htm":"POST","htu":"https://auth.example.com/auth/v1/oidc/token","nonce":"Nu8ajvcpVkq7Ti3h"}"#,
                lifetime: 0,
            },
            Jwt {
                name: "proof",
                key: "ec-p256.public.pem",
                header: PROOF,
                claims: r#"{"htm":"GET","htu":"{upstream}/thing","ath":"QII7KfIj4ua9U_5spCT6T-fXeGBmKDcHyl0XRbUz_As"}"#,
                lifetime: 0,
            },
        ],
        lifetime: 1800,
        sent: &["authorization: DPoP eyJyIn0.e30.c2ln", "dpop: {proof}"],
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn casdoor() {
    run(&Row {
        preset: "casdoor",
        vars: r#"base_url = "https://casdoor.example.com""#,
        issuer: CLIENT,
        exchanges: &[Exchange {
            line: "POST /api/login/oauth/access_token HTTP/1.1",
            headers: &["host: casdoor.example.com", FORM],
            body: "grant_type=client_credentials&client_id=billing&client_secret=s3cr3t-of-the-scene",
            response: Reply {
                status: 200,
                headers: &[JSON],
                body: r#"{"access_token":"eyJjIn0.e30.c2ln","id_token":"eyJjIn0.e30.c2ln","refresh_token":"","token_type":"Bearer","expires_in":604800,"scope":""}"#,
            },
        }],
        lifetime: 86400,
        sent: &["authorization: Bearer eyJjIn0.e30.c2ln"],
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn lemonldap() {
    run(&Row {
        preset: "lemonldap",
        vars: r#"portal = "https://auth.example.com""#,
        issuer: CLIENT,
        exchanges: &[Exchange {
            line: "POST /oauth2/token HTTP/1.1",
            headers: &["host: auth.example.com", FORM],
            body: "grant_type=client_credentials&client_id=billing&client_secret=s3cr3t-of-the-scene",
            response: Reply {
                status: 200,
                headers: &[JSON],
                body: r#"{"access_token":"f0fd4e85000ce35d062f97f5b466fc00abc2fad0e406e03e086605f929ec4249","expires_in":3600,"token_type":"Bearer"}"#,
            },
        }],
        lifetime: 3600,
        sent: &["authorization: Bearer f0fd4e85000ce35d062f97f5b466fc00abc2fad0e406e03e086605f929ec4249"],
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn lemonldap_whose_portal_responds_where_no_endpoint_is() {
    run(&Row {
        preset: "lemonldap",
        vars: r#"portal = "https://auth.example.com/wrong""#,
        issuer: CLIENT,
        exchanges: &[Exchange {
            line: "POST /wrong/oauth2/token HTTP/1.1",
            headers: &["host: auth.example.com", FORM],
            body: "grant_type=client_credentials&client_id=billing&client_secret=s3cr3t-of-the-scene",
            response: Reply { status: 401, headers: &[JSON], body: r#"{"error":"9","result":0}"# },
        }],
        refused: Some(Refused {
            status: 502,
            code: "token_refused",
            detail: &["responded 401 9", "it is not a token endpoint", "check vars"],
            logged: &[],
        }),
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn glewlwyd() {
    run(&Row {
        preset: "glewlwyd",
        vars: r#"base_url = "https://glewlwyd.example.com""#,
        issuer: "client_id = \"billing\"\nclient_secret = { file = \"secret\" }\nscopes = [\"billing\"]",
        files: &[("secret", "p@ss:w&rd+/%20")],
        exchanges: &[Exchange {
            line: "POST /api/oidc/token HTTP/1.1",
            headers: &["host: glewlwyd.example.com", "authorization: Basic YmlsbGluZzpwQHNzOncmcmQrLyUyMA==", FORM],
            body: "grant_type=client_credentials&scope=billing",
            response: Reply {
                status: 200,
                headers: &[JSON],
                body: r#"{"access_token":"eyJnIn0.e30.c2ln","token_type":"bearer","expires_in":3600,"scope":"billing"}"#,
            },
        }],
        lifetime: 3600,
        sent: &["authorization: Bearer eyJnIn0.e30.c2ln"],
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn glewlwyd_refuses_without_a_word() {
    run(&Row {
        preset: "glewlwyd",
        vars: r#"base_url = "https://glewlwyd.example.com", plugin = "login""#,
        issuer: "client_id = \"billing\"\nclient_secret = { file = \"secret\" }\nscopes = [\"billing\"]",
        exchanges: &[Exchange {
            line: "POST /api/login/token HTTP/1.1",
            headers: &["host: glewlwyd.example.com", BASIC, FORM],
            body: "grant_type=client_credentials&scope=billing",
            response: Reply { status: 403, headers: &[], body: "" },
        }],
        refused: Some(Refused {
            status: 502,
            code: "token_refused",
            detail: &["responded 403", "check client_id and client_secret"],
            logged: &[],
        }),
        ..ROW
    })
    .await;
}

/// The response is OpenBao's own example.
#[tokio::test]
async fn openbao() {
    run(&Row {
        preset: "openbao",
        vars: r#"address = "https://bao.example.com:8200", role = "billing""#,
        issuer: "headers.x-vault-token = { file = \"sink\" }",
        files: &[("sink", "s.CAESIJlU9JMYEhOPYv4igdhm9PnZDrabYTob")],
        exchanges: &[Exchange {
            line: "GET /v1/identity/oidc/token/billing HTTP/1.1",
            headers: &["host: bao.example.com:8200", "x-vault-token: s.CAESIJlU9JMYEhOPYv4igdhm9PnZDrabYTob"],
            body: "",
            response: Reply {
                status: 200,
                headers: &[JSON],
                body: r#"{"data":{"client_id":"P7A1KyjXwPkSJmNzfnHPDzAdNXd","token":"eyJhbGciOiJSUzI1NiJ9.eyJhdWQiOiJQN0ExIn0.c2ln","ttl":86400}}"#,
            },
        }],
        lifetime: 86400,
        sent: &["authorization: Bearer eyJhbGciOiJSUzI1NiJ9.eyJhdWQiOiJQN0ExIn0.c2ln"],
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn openbao_says_that_its_own_token_is_not_right() {
    run(&Row {
        preset: "openbao",
        vars: r#"address = "https://bao.example.com:8200", role = "billing""#,
        issuer: "headers.x-vault-token = { file = \"sink\" }",
        files: &[("sink", "s.CAESIJlU9JMYEhOPYv4igdhm9PnZDrabYTob")],
        exchanges: &[Exchange {
            line: "GET /v1/identity/oidc/token/billing HTTP/1.1",
            headers: &["host: bao.example.com:8200", "x-vault-token: s.CAESIJlU9JMYEhOPYv4igdhm9PnZDrabYTob"],
            body: "",
            response: Reply { status: 403, headers: &[JSON], body: r#"{"errors":["permission denied"]}"# },
        }],
        refused: Some(Refused {
            status: 502,
            code: "token_refused",
            detail: &["responded 403 (permission denied)"],
            logged: &[],
        }),
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn openbao_approle() {
    run(&Row {
        preset: "openbao-approle",
        vars: r#"address = "https://bao.example.com:8200""#,
        issuer: "params = { role_id = { file = \"role\" }, secret_id = { file = \"secret-id\" } }",
        files: &[
            ("role", "59d6d1ca-47bb-4e7e-a40b-8be3bc5a0ba8"),
            ("secret-id", "84896a0c-1347-aa90-a4f6-aca8b7558780"),
        ],
        exchanges: &[Exchange {
            line: "POST /v1/auth/approle/login HTTP/1.1",
            headers: &["host: bao.example.com:8200", JSON],
            body: r#"{"role_id":"59d6d1ca-47bb-4e7e-a40b-8be3bc5a0ba8","secret_id":"84896a0c-1347-aa90-a4f6-aca8b7558780"}"#,
            response: Reply {
                status: 200,
                headers: &[JSON],
                body: r#"{"auth":{"renewable":true,"lease_duration":1200,"metadata":null,"token_policies":["default"],"accessor":"fd6c9a00-d2dc-3b11-0be5-af7ae0e1d374","client_token":"5b1a0318-679c-9c45-e5c6-d1b9a9035d49"},"warnings":null,"wrap_info":null,"data":null,"lease_duration":0,"renewable":false,"lease_id":""}"#,
            },
        }],
        lifetime: 1200,
        sent: &["x-vault-token: 5b1a0318-679c-9c45-e5c6-d1b9a9035d49"],
        renewed_on: &[403],
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn spire() {
    run(&Row {
        preset: "spire",
        issuer: "token_url = \"https://idp.example.com/oauth2/token\"\nassertion = { file = \"svid\" }",
        files: &[("svid", "eyJhbGciOiJFUzI1NiJ9.eyJhdWQiOlsiaHR0cHM6Ly9pZHAuZXhhbXBsZS5jb20iXX0.c2ln")],
        exchanges: &[Exchange {
            line: "POST /oauth2/token HTTP/1.1",
            headers: &["host: idp.example.com", FORM],
            body: "grant_type=client_credentials&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-spiffe&client_assertion=eyJhbGciOiJFUzI1NiJ9.eyJhdWQiOlsiaHR0cHM6Ly9pZHAuZXhhbXBsZS5jb20iXX0.c2ln",
            response: Reply {
                status: 200,
                headers: &[JSON],
                body: r#"{"access_token":"2YotnFZFEjr1zCsicMWpAA","token_type":"Bearer","expires_in":300}"#,
            },
        }],
        lifetime: 300,
        sent: &["authorization: Bearer 2YotnFZFEjr1zCsicMWpAA"],
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn spring() {
    run(&Row {
        preset: "spring",
        vars: r#"issuer = "https://auth.example.com""#,
        issuer: "client_id = \"billing\"\nclient_secret = { file = \"secret\" }\nscopes = [\"billing.read\"]",
        exchanges: &[Exchange {
            line: "POST /oauth2/token HTTP/1.1",
            headers: &["host: auth.example.com", BASIC, FORM],
            body: "grant_type=client_credentials&scope=billing.read&client_id=billing",
            response: Reply {
                status: 200,
                headers: &["content-type: application/json;charset=UTF-8"],
                body: r#"{"access_token":"eyJzIn0.e30.c2ln","scope":"billing.read","token_type":"Bearer","expires_in":299}"#,
            },
        }],
        lifetime: 299,
        sent: &["authorization: Bearer eyJzIn0.e30.c2ln"],
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn spring_with_a_key_is_sent_the_client_id_too() {
    run(&Row {
        preset: "spring",
        vars: r#"issuer = "https://auth.example.com""#,
        issuer: "client_id = \"billing\"\nclient_auth = \"private_key_jwt\"\nprivate_key = { file = \"{keys}/rsa.pkcs8.pem\" }",
        exchanges: &[Exchange {
            line: "POST /oauth2/token HTTP/1.1",
            headers: &["host: auth.example.com", FORM],
            body: "grant_type=client_credentials&client_id=billing&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer&client_assertion={jwt}",
            response: Reply {
                status: 200,
                headers: &["content-type: application/json;charset=UTF-8"],
                body: r#"{"access_token":"eyJzIn0.e30.c2ln","token_type":"Bearer","expires_in":299}"#,
            },
        }],
        jwts: &[Jwt {
            name: "jwt",
            key: "rsa.public.pem",
            header: r#"{"alg":"RS256","typ":"JWT"}"#,
            claims: r#"{"iss":"billing","sub":"billing","aud":"https://auth.example.com/oauth2/token"}"#,
            lifetime: 60,
        }],
        lifetime: 299,
        sent: &["authorization: Bearer eyJzIn0.e30.c2ln"],
        ..ROW
    })
    .await;
}
