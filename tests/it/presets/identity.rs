//! Identity providers that run for many or at home.

use super::{Exchange, FORM, JSON, Jwt, ROW, Refused, Reply, Row, run};

/// Id, secret and header are the vendor's own example.
#[tokio::test]
async fn zitadel() {
    run(&Row {
        preset: "zitadel",
        vars: r#"domain = "acme-x1y2z3.zitadel.cloud""#,
        issuer: r#"client_id = "78366401571920522@amce"
client_secret = { file = "secret" }
scopes = ["openid", "profile", "urn:zitadel:iam:org:project:id:zitadel:aud"]"#,
        files: &[("secret", "veryweaksecret!")],
        exchanges: &[
            Exchange {
                line: "POST /oauth/v2/token HTTP/1.1",
                headers: &["host: acme-x1y2z3.zitadel.cloud", "authorization: Basic NzgzNjY0MDE1NzE5MjA1MjIlNDBhbWNlOnZlcnl3ZWFrc2VjcmV0JTIx", FORM],
                body: "grant_type=client_credentials&scope=openid+profile+urn%3Azitadel%3Aiam%3Aorg%3Aproject%3Aid%3Azitadel%3Aaud",
                response: Reply { status: 200, headers: &[JSON], body: r#"{"access_token":"MtjHodGy4zxKylDOhg6kW90WeEQs2q","token_type":"Bearer","expires_in":43199}"# },
            },
        ],
        lifetime: 43199,
        sent: &["authorization: Bearer MtjHodGy4zxKylDOhg6kW90WeEQs2q"],
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn zitadel_says_that_a_scope_is_not_right() {
    run(&Row {
        preset: "zitadel",
        vars: r#"domain = "acme-x1y2z3.zitadel.cloud""#,
        issuer: r#"client_id = "legacy-billing"
client_secret = { file = "secret" }"#,
        exchanges: &[Exchange {
            line: "POST /oauth/v2/token HTTP/1.1",
            headers: &[
                "host: acme-x1y2z3.zitadel.cloud",
                "authorization: Basic bGVnYWN5LWJpbGxpbmc6czNjcjN0LW9mLXRoZS1zY2VuZQ==",
                FORM,
            ],
            body: "grant_type=client_credentials&scope=openid",
            response: Reply {
                status: 400,
                headers: &[JSON],
                body: r#"{"error":"invalid_scope","error_description":"scope is missing"}"#,
            },
        }],
        refused: Some(Refused {
            status: 502,
            code: "token_refused",
            detail: &["invalid_scope", "scope is missing"],
            logged: &[],
        }),
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn zitadel_jwt() {
    run(&Row {
        preset: "zitadel-jwt",
        vars: r#"domain = "acme-x1y2z3.zitadel.cloud""#,
        issuer: r#"private_key = { file = "{keys}/zitadel-user.json" }"#,
        exchanges: &[
            Exchange {
                line: "POST /oauth/v2/token HTTP/1.1",
                headers: &["host: acme-x1y2z3.zitadel.cloud", FORM],
                body: "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&scope=openid&assertion={jwt}",
                response: Reply { status: 200, headers: &[JSON], body: r#"{"access_token":"MtjHodGy4zxKylDOhg6kW90WeEQs2q","token_type":"Bearer","expires_in":43199}"# },
            },
        ],
        jwts: &[
            Jwt {
                name: "jwt",
                key: "rsa.public.pem",
                header: r#"{"alg":"RS256","typ":"JWT","kid":"zitadel-key-1"}"#,
                claims: r#"{"iss":"100000000000000001","sub":"100000000000000001","aud":"https://acme-x1y2z3.zitadel.cloud"}"#,
                lifetime: 60,
            },
        ],
        lifetime: 43199,
        sent: &["authorization: Bearer MtjHodGy4zxKylDOhg6kW90WeEQs2q"],
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn auth0() {
    run(&Row {
        preset: "auth0",
        vars: r#"domain = "acme.eu.auth0.com""#,
        issuer: r#"client_id = "AaiyAPdpYdesoKnqjj8HJqRn4T5titww"
client_secret = { file = "secret" }
params = { audience = "https://api.example.com/" }"#,
        exchanges: &[
            Exchange {
                line: "POST /oauth/token HTTP/1.1",
                headers: &["host: acme.eu.auth0.com", FORM],
                body: "grant_type=client_credentials&client_id=AaiyAPdpYdesoKnqjj8HJqRn4T5titww&client_secret=s3cr3t-of-the-scene&audience=https%3A%2F%2Fapi.example.com%2F",
                response: Reply { status: 200, headers: &[JSON], body: r#"{"access_token":"eyJzIn0.e30.c2ln","token_type":"Bearer","expires_in":86400}"# },
            },
        ],
        lifetime: 86400,
        sent: &["authorization: Bearer eyJzIn0.e30.c2ln"],
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn auth0_jwt() {
    run(&Row {
        preset: "auth0-jwt",
        vars: r#"domain = "acme.eu.auth0.com""#,
        issuer: r#"client_id = "AaiyAPdpYdesoKnqjj8HJqRn4T5titww"
private_key = { file = "{keys}/rsa.pkcs8.pem" }
params = { audience = "https://api.example.com/" }"#,
        exchanges: &[
            Exchange {
                line: "POST /oauth/token HTTP/1.1",
                headers: &["host: acme.eu.auth0.com", FORM],
                body: "grant_type=client_credentials&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer&client_assertion={jwt}&audience=https%3A%2F%2Fapi.example.com%2F",
                response: Reply { status: 200, headers: &[JSON], body: r#"{"access_token":"eyJzIn0.e30.c2ln","token_type":"Bearer","expires_in":86400}"# },
            },
        ],
        jwts: &[
            Jwt {
                name: "jwt",
                key: "rsa.public.pem",
                header: r#"{"alg":"RS256","typ":"JWT"}"#,
                claims: r#"{"iss":"AaiyAPdpYdesoKnqjj8HJqRn4T5titww","sub":"AaiyAPdpYdesoKnqjj8HJqRn4T5titww","aud":"https://acme.eu.auth0.com/"}"#,
                lifetime: 60,
            },
        ],
        lifetime: 86400,
        sent: &["authorization: Bearer eyJzIn0.e30.c2ln"],
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn okta() {
    run(&Row {
        preset: "okta",
        vars: r#"domain = "acme.okta.com""#,
        issuer: r#"client_id = "0oa5t7k3wYp8q2Zx9d1d"
scopes = ["okta.users.read"]
private_key = { file = "{keys}/rsa.jwk.json" }"#,
        exchanges: &[
            Exchange {
                line: "POST /oauth2/v1/token HTTP/1.1",
                headers: &["host: acme.okta.com", "accept: application/json", FORM],
                body: "grant_type=client_credentials&scope=okta.users.read&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer&client_assertion={jwt}",
                response: Reply { status: 200, headers: &[JSON], body: r#"{"token_type":"Bearer","expires_in":3600,"access_token":"eyJraWQi.okta.t","scope":"okta.users.read"}"# },
            },
        ],
        jwts: &[
            Jwt {
                name: "jwt",
                key: "rsa.public.pem",
                header: r#"{"alg":"RS256","typ":"JWT","kid":"rsa-1"}"#,
                claims: r#"{"iss":"0oa5t7k3wYp8q2Zx9d1d","sub":"0oa5t7k3wYp8q2Zx9d1d","aud":"https://acme.okta.com/oauth2/v1/token"}"#,
                lifetime: 60,
            },
        ],
        lifetime: 3600,
        sent: &["authorization: Bearer eyJraWQi.okta.t"],
        ..ROW
    })
    .await;
}

/// A nonce is asked for first; then the token is bound to the proof's key, and each request has a proof of its own.
#[tokio::test]
async fn okta_with_dpop() {
    run(&Row {
        preset: "okta",
        vars: r#"domain = "acme.okta.com""#,
        issuer: r#"client_id = "0oa5t7k3wYp8q2Zx9d1d"
scopes = ["okta.users.read"]
private_key = { file = "{keys}/rsa.jwk.json" }
dpop = { private_key = { file = "{keys}/ec-p256.pkcs8.pem" } }"#,
        exchanges: &[
            Exchange {
                line: "POST /oauth2/v1/token HTTP/1.1",
                headers: &["host: acme.okta.com", "accept: application/json", "dpop: {first}", FORM],
                body: "grant_type=client_credentials&scope=okta.users.read&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer&client_assertion={jwt}",
                response: Reply { status: 400, headers: &[JSON, "dpop-nonce: 8NLZUUhVawx1ns8AjrC4F6j8D2phvaw7"], body: r#"{"error":"use_dpop_nonce","error_description":"Authorization server requires nonce in DPoP proof."}"# },
            },
            Exchange {
                line: "POST /oauth2/v1/token HTTP/1.1",
                headers: &["host: acme.okta.com", "accept: application/json", "dpop: {second}", FORM],
                body: "grant_type=client_credentials&scope=okta.users.read&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer&client_assertion={jwt}",
                response: Reply { status: 200, headers: &[JSON], body: r#"{"token_type":"DPoP","expires_in":3600,"access_token":"eyJraWQiOiJRVX.okta.DPoPbound","scope":"okta.users.read"}"# },
            },
        ],
        jwts: &[
            Jwt {
                name: "jwt",
                key: "rsa.public.pem",
                header: r#"{"alg":"RS256","typ":"JWT","kid":"rsa-1"}"#,
                claims: r#"{"iss":"0oa5t7k3wYp8q2Zx9d1d","sub":"0oa5t7k3wYp8q2Zx9d1d","aud":"https://acme.okta.com/oauth2/v1/token"}"#,
                lifetime: 60,
            },
            Jwt {
                name: "first",
                key: "ec-p256.public.pem",
                header: r#"{"alg":"ES256","typ":"dpop+jwt"}"#,
                claims: r#"{"htm":"POST","htu":"https://acme.okta.com/oauth2/v1/token"}"#,
                lifetime: 0,
            },
            Jwt {
                name: "second",
                key: "ec-p256.public.pem",
                header: r#"{"alg":"ES256","typ":"dpop+jwt"}"#,
                claims: r#"{"htm":"POST","htu":"https://acme.okta.com/oauth2/v1/token","nonce":"8NLZUUhVawx1ns8AjrC4F6j8D2phvaw7"}"#,
                lifetime: 0,
            },
            Jwt {
                name: "upward",
                key: "ec-p256.public.pem",
                header: r#"{"alg":"ES256","typ":"dpop+jwt"}"#,
                claims: r#"{"htm":"GET","htu":"{upstream}/thing","ath":"OTbkrPyrylwY_BZZ9r46g0h1MyYxv_Wn3RjHYUz0jIg"}"#,
                lifetime: 0,
            },
        ],
        lifetime: 3600,
        sent: &["authorization: DPoP eyJraWQiOiJRVX.okta.DPoPbound", "dpop: {upward}"],
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn okta_custom() {
    run(&Row {
        preset: "okta-custom",
        vars: r#"domain = "acme.okta.com", server = "aus5m2bnz8kKn3kpk5d7""#,
        issuer: r#"client_id = "0oa5t7k3wYp8q2Zx9d1d"
client_secret = { file = "secret" }
scopes = ["billing:read"]"#,
        exchanges: &[
            Exchange {
                line: "POST /oauth2/aus5m2bnz8kKn3kpk5d7/v1/token HTTP/1.1",
                headers: &["host: acme.okta.com", "authorization: Basic MG9hNXQ3azN3WXA4cTJaeDlkMWQ6czNjcjN0LW9mLXRoZS1zY2VuZQ==", FORM],
                body: "grant_type=client_credentials&scope=billing%3Aread",
                response: Reply { status: 200, headers: &[JSON], body: r#"{"token_type":"Bearer","expires_in":3600,"access_token":"okta-c","scope":"billing:read"}"# },
            },
        ],
        lifetime: 3600,
        sent: &["authorization: Bearer okta-c"],
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn okta_custom_with_the_default_server() {
    run(&Row {
        preset: "okta-custom",
        vars: r#"domain = "acme.okta.com""#,
        issuer: r#"client_id = "0oa5t7k3wYp8q2Zx9d1d"
client_secret = { file = "secret" }
scopes = ["billing:read"]"#,
        exchanges: &[
            Exchange {
                line: "POST /oauth2/default/v1/token HTTP/1.1",
                headers: &["host: acme.okta.com", "authorization: Basic MG9hNXQ3azN3WXA4cTJaeDlkMWQ6czNjcjN0LW9mLXRoZS1zY2VuZQ==", FORM],
                body: "grant_type=client_credentials&scope=billing%3Aread",
                response: Reply { status: 200, headers: &[JSON], body: r#"{"token_type":"Bearer","expires_in":3600,"access_token":"okta-c","scope":"billing:read"}"# },
            },
        ],
        lifetime: 3600,
        sent: &["authorization: Bearer okta-c"],
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn keycloak() {
    run(&Row {
        preset: "keycloak",
        vars: r#"base_url = "https://idp.example.com/auth", realm = "acme""#,
        issuer: r#"client_id = "legacy-billing"
client_secret = { file = "secret" }"#,
        files: &[("secret", "p@ss w&rd/é")],
        exchanges: &[
            Exchange {
                line: "POST /auth/realms/acme/protocol/openid-connect/token HTTP/1.1",
                headers: &["host: idp.example.com", FORM],
                body: "grant_type=client_credentials&client_id=legacy-billing&client_secret=p%40ss+w%26rd%2F%C3%A9",
                response: Reply { status: 200, headers: &[JSON], body: r#"{"access_token":"eyJhbGciOiJSUzI1NiJ9.e30.c2ln","expires_in":300,"refresh_expires_in":0,"token_type":"Bearer","not-before-policy":0,"scope":"profile email"}"# },
            },
        ],
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
        issuer: r#"client_id = "legacy-billing"
client_secret = { file = "secret" }"#,
        exchanges: &[Exchange {
            line: "POST /realms/acme/protocol/openid-connect/token HTTP/1.1",
            headers: &["host: idp.example.com", FORM],
            body: "grant_type=client_credentials&client_id=legacy-billing&client_secret=s3cr3t-of-the-scene",
            response: Reply {
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

#[tokio::test]
async fn keycloak_with_a_client_certificate() {
    run(&Row {
        preset: "keycloak",
        vars: r#"base_url = "https://idp.example.com", realm = "acme""#,
        issuer: r#"client_id = "legacy-billing"
client_auth = "tls_client_auth"
certificate = { file = "client.pem" }
private_key = { file = "client.key" }"#,
        client_certificate: true,
        exchanges: &[
            Exchange {
                line: "POST /realms/acme/protocol/openid-connect/token HTTP/1.1",
                headers: &["host: idp.example.com", FORM],
                body: "grant_type=client_credentials&client_id=legacy-billing",
                response: Reply { status: 200, headers: &[JSON], body: r#"{"access_token":"eyJhbGciOiJSUzI1NiJ9.e30.c2ln","expires_in":300,"refresh_expires_in":0,"token_type":"Bearer","not-before-policy":0,"scope":"profile email"}"# },
            },
        ],
        lifetime: 300,
        sent: &["authorization: Bearer eyJhbGciOiJSUzI1NiJ9.e30.c2ln"],
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn keycloak_jwt() {
    run(&Row {
        preset: "keycloak-jwt",
        vars: r#"base_url = "https://idp.example.com", realm = "acme""#,
        issuer: r#"client_id = "legacy-billing"
private_key = { file = "{keys}/rsa.pkcs8.pem" }"#,
        exchanges: &[
            Exchange {
                line: "POST /realms/acme/protocol/openid-connect/token HTTP/1.1",
                headers: &["host: idp.example.com", FORM],
                body: "grant_type=client_credentials&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer&client_assertion={jwt}",
                response: Reply { status: 200, headers: &[JSON], body: r#"{"access_token":"eyJhbGciOiJSUzI1NiJ9.e30.c2ln","expires_in":300,"refresh_expires_in":0,"token_type":"Bearer","not-before-policy":0,"scope":"profile email"}"# },
            },
        ],
        jwts: &[
            Jwt {
                name: "jwt",
                key: "rsa.public.pem",
                header: r#"{"alg":"RS256","typ":"JWT"}"#,
                claims: r#"{"iss":"legacy-billing","sub":"legacy-billing","aud":"https://idp.example.com/realms/acme"}"#,
                lifetime: 30,
            },
        ],
        lifetime: 300,
        sent: &["authorization: Bearer eyJhbGciOiJSUzI1NiJ9.e30.c2ln"],
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn keycloak_jwt_signed_with_the_secret() {
    run(&Row {
        preset: "keycloak-jwt",
        vars: r#"base_url = "https://idp.example.com", realm = "acme""#,
        issuer: r#"client_id = "legacy-billing"
client_secret = { file = "secret" }
client_auth = "client_secret_jwt""#,
        exchanges: &[
            Exchange {
                line: "POST /realms/acme/protocol/openid-connect/token HTTP/1.1",
                headers: &["host: idp.example.com", FORM],
                body: "grant_type=client_credentials&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer&client_assertion={jwt}",
                response: Reply { status: 200, headers: &[JSON], body: r#"{"access_token":"eyJhbGciOiJSUzI1NiJ9.e30.c2ln","expires_in":300,"refresh_expires_in":0,"token_type":"Bearer","not-before-policy":0,"scope":"profile email"}"# },
            },
        ],
        jwts: &[
            Jwt {
                name: "jwt",
                key: "s3cr3t-of-the-scene",
                header: r#"{"alg":"HS256","typ":"JWT"}"#,
                claims: r#"{"iss":"legacy-billing","sub":"legacy-billing","aud":"https://idp.example.com/realms/acme"}"#,
                lifetime: 30,
            },
        ],
        lifetime: 300,
        sent: &["authorization: Bearer eyJhbGciOiJSUzI1NiJ9.e30.c2ln"],
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn duende() {
    run(&Row {
        preset: "duende",
        vars: r#"authority = "https://identity.example.com""#,
        issuer: r#"client_id = "legacy-billing"
client_secret = { file = "secret" }
scopes = ["api1"]"#,
        exchanges: &[
            Exchange {
                line: "GET /.well-known/openid-configuration HTTP/1.1",
                headers: &["host: identity.example.com"],
                body: "",
                response: Reply { status: 200, headers: &[JSON], body: r#"{"issuer":"https://identity.example.com","token_endpoint":"https://identity.example.com/connect/token"}"# },
            },
            Exchange {
                line: "POST /connect/token HTTP/1.1",
                headers: &["host: identity.example.com", "authorization: Basic bGVnYWN5LWJpbGxpbmc6czNjcjN0LW9mLXRoZS1zY2VuZQ==", FORM],
                body: "grant_type=client_credentials&scope=api1",
                response: Reply { status: 200, headers: &[JSON], body: r#"{"access_token":"duende-1","expires_in":3600,"token_type":"Bearer","scope":"api1"}"# },
            },
        ],
        lifetime: 3600,
        sent: &["authorization: Bearer duende-1"],
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn duende_that_is_strict_about_assertions() {
    run(&Row {
        preset: "duende",
        vars: r#"authority = "https://identity.example.com""#,
        issuer: r#"client_id = "legacy-billing"
client_auth = "private_key_jwt"
private_key = { file = "{keys}/ec-p256.pkcs8.pem" }
jwt = { type = "client-authentication+jwt" }
scopes = ["api1"]"#,
        exchanges: &[
            Exchange {
                line: "GET /.well-known/openid-configuration HTTP/1.1",
                headers: &["host: identity.example.com"],
                body: "",
                response: Reply { status: 200, headers: &[JSON], body: r#"{"issuer":"https://identity.example.com","token_endpoint":"https://identity.example.com/connect/token"}"# },
            },
            Exchange {
                line: "POST /connect/token HTTP/1.1",
                headers: &["host: identity.example.com", FORM],
                body: "grant_type=client_credentials&scope=api1&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer&client_assertion={jwt}",
                response: Reply { status: 200, headers: &[JSON], body: r#"{"access_token":"duende-1","expires_in":3600,"token_type":"Bearer","scope":"api1"}"# },
            },
        ],
        jwts: &[
            Jwt {
                name: "jwt",
                key: "ec-p256.public.pem",
                header: r#"{"alg":"ES256","typ":"client-authentication+jwt"}"#,
                claims: r#"{"iss":"legacy-billing","sub":"legacy-billing","aud":"https://identity.example.com"}"#,
                lifetime: 60,
            },
        ],
        lifetime: 3600,
        sent: &["authorization: Bearer duende-1"],
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn openiddict() {
    run(&Row {
        preset: "openiddict",
        vars: r#"issuer = "https://identity.example.com/""#,
        issuer: r#"client_id = "legacy-billing"
client_secret = { file = "secret" }
scopes = ["api"]"#,
        exchanges: &[
            Exchange {
                line: "GET /.well-known/openid-configuration HTTP/1.1",
                headers: &["host: identity.example.com"],
                body: "",
                response: Reply { status: 200, headers: &[JSON], body: r#"{"issuer":"https://identity.example.com/","token_endpoint":"https://identity.example.com/connect/token","mtls_endpoint_aliases":{"token_endpoint":"https://mtls.identity.example.com/connect/token"}}"# },
            },
            Exchange {
                line: "POST /connect/token HTTP/1.1",
                headers: &["host: identity.example.com", FORM],
                body: "grant_type=client_credentials&scope=api&client_id=legacy-billing&client_secret=s3cr3t-of-the-scene",
                response: Reply { status: 200, headers: &[JSON], body: r#"{"access_token":"FlTk9QYAw3Iw9_reference","token_type":"Bearer","expires_in":3600}"# },
            },
        ],
        lifetime: 3600,
        sent: &["authorization: Bearer FlTk9QYAw3Iw9_reference"],
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn openiddict_with_a_client_certificate_at_its_other_host() {
    run(&Row {
        preset: "openiddict",
        vars: r#"issuer = "https://identity.example.com/""#,
        issuer: r#"client_id = "legacy-billing"
client_auth = "tls_client_auth"
certificate = { file = "client.pem" }
private_key = { file = "client.key" }
scopes = ["api"]"#,
        client_certificate: true,
        exchanges: &[
            Exchange {
                line: "GET /.well-known/openid-configuration HTTP/1.1",
                headers: &["host: identity.example.com"],
                body: "",
                response: Reply { status: 200, headers: &[JSON], body: r#"{"issuer":"https://identity.example.com/","token_endpoint":"https://identity.example.com/connect/token","mtls_endpoint_aliases":{"token_endpoint":"https://mtls.identity.example.com/connect/token"}}"# },
            },
            Exchange {
                line: "POST /connect/token HTTP/1.1",
                headers: &["host: mtls.identity.example.com", FORM],
                body: "grant_type=client_credentials&scope=api&client_id=legacy-billing",
                response: Reply { status: 200, headers: &[JSON], body: r#"{"access_token":"FlTk9QYAw3Iw9_reference","token_type":"Bearer","expires_in":3600}"# },
            },
        ],
        lifetime: 3600,
        sent: &["authorization: Bearer FlTk9QYAw3Iw9_reference"],
        ..ROW
    })
    .await;
}
