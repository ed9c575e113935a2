//! What else the vendors of `services` document: other ways to sign in, other responses, errors.

use serde_json::json;

use super::services::{exchange, ok, refuses};
use super::{FORM, JSON, Jwt, ROW, Refused, Row, run};
use crate::support::tls::ca;
use crate::support::unix_now;

/// GitHub's response, which expires so many seconds from now, as RFC 3339.
pub fn installation_token(token: &str, seconds: i64) -> &'static str {
    #[expect(clippy::cast_possible_truncation, reason = "seconds since 1970")]
    let end = unix_now() as i64 + seconds;
    let (days, of_day) = (end.div_euclid(86400), end.rem_euclid(86400));
    let (year, month, day) = civil(days);
    let at = format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        of_day / 3600,
        of_day / 60 % 60,
        of_day % 60
    );
    let response = json!({ "token": token, "expires_at": at, "permissions": { "contents": "read" } });
    response.to_string().leak()
}

/// The date that is so many days after 1970-01-01.
fn civil(mut days: i64) -> (i64, i64, i64) {
    let leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let mut year = 1970;
    while days >= 365 + i64::from(leap(year)) {
        days -= 365 + i64::from(leap(year));
        year += 1;
    }
    let mut month = 1;
    for length in [31, 28 + i64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days + 1)
}

#[test]
fn dates_are_right() {
    assert_eq!([civil(0), civil(59), civil(11016)], [(1970, 1, 1), (1970, 3, 1), (2000, 2, 29)]);
}

#[tokio::test]
async fn salesforce_marketing_cloud_sends_scopes_only_where_there_are_any() {
    run(&Row {
        preset: "salesforce-marketing-cloud",
        vars: r#"subdomain = "acme""#,
        issuer: r#"
            client_id = "id-1"
            client_secret = { file = "secret" }
            scopes = ["email_write", "email_read"]
        "#,
        route: r#"
            inject = { header = "authorization", format = "SFMC {token}" }
            request_headers = { set = { x-api-tse = "acme" } }
        "#,
        files: &[("secret", "s")],
        exchanges: const {
            &[exchange(
                "POST /v2/token HTTP/1.1",
                &["host: acme.auth.marketingcloudapis.com", JSON],
                r#"{"grant_type":"client_credentials","scope":"email_write email_read","client_id":"id-1","client_secret":"s"}"#,
                ok(r#"{"access_token":"eyJ.e30.c2ln","token_type":"Bearer","expires_in":1079,"scope":"email_read email_write"}"#),
            )]
        },
        lifetime: 1079,
        // Einstein's way.
        sent: &["authorization: SFMC eyJ.e30.c2ln", "x-api-tse: acme"],
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn salesforce_says_why() {
    run(&Row {
        preset: "salesforce",
        vars: r#"domain = "acme.my.salesforce.com""#,
        issuer: r#"
            client_id = "id-1"
            client_secret = { file = "secret" }
        "#,
        files: &[("secret", "s3cr3t-of-ours")],
        exchanges: const {
            &[exchange(
                "POST /services/oauth2/token HTTP/1.1",
                &["host: acme.my.salesforce.com", FORM],
                "grant_type=client_credentials&client_id=id-1&client_secret=s3cr3t-of-ours",
                refuses(
                    400,
                    r#"{"error":"invalid_client_id","error_description":"client identifier invalid"}"#,
                ),
            )]
        },
        refused: Some(Refused {
            status: 502,
            code: "token_refused",
            detail: &["invalid_client_id", "client identifier invalid"],
            logged: &["client identifier invalid"],
        }),
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn appian_responds_403_if_the_token_is_no_longer_good() {
    run(&Row {
        preset: "appian",
        vars: r#"site = "acme.appiancloud.com""#,
        issuer: r#"
            client_id = "id-1"
            client_secret = { file = "secret" }
        "#,
        files: &[("secret", "s3cr3t-of-ours")],
        exchanges: const {
            &[exchange(
                "POST /suite/authorization/oauth/token HTTP/1.1",
                &["host: acme.appiancloud.com", FORM],
                "grant_type=client_credentials&client_id=id-1&client_secret=s3cr3t-of-ours",
                ok(r#"{"access_token":"a.b.c","token_type":"Bearer","expires_in":3600}"#),
            )]
        },
        lifetime: 3600,
        sent: &["authorization: Bearer a.b.c"],
        renewed_on: &[403],
        ..ROW
    })
    .await;
}

/// As on a developer's machine.
#[tokio::test]
async fn sap_xsuaa_reads_default_env_json() {
    run(&Row {
        preset: "sap-xsuaa",
        vars: r#"url = { file = "default-env.json", pointer = "/VCAP_SERVICES/xsuaa/0/credentials/url" }"#,
        issuer: r#"
            client_id = { file = "default-env.json", pointer = "/VCAP_SERVICES/xsuaa/0/credentials/clientid" }
            client_secret = { file = "default-env.json", pointer = "/VCAP_SERVICES/xsuaa/0/credentials/clientsecret" }
        "#,
        files: &[(
            "default-env.json",
            r#"{"VCAP_SERVICES":{"xsuaa":[{"credentials":{"clientid":"sb-billing!t1234","clientsecret":"x","url":"https://acme.authentication.eu10.hana.ondemand.com"}}]}}"#,
        )],
        exchanges: const {
            &[exchange(
                "POST /oauth/token HTTP/1.1",
                &["host: acme.authentication.eu10.hana.ondemand.com", FORM],
                "grant_type=client_credentials&client_id=sb-billing%21t1234&client_secret=x",
                ok(r#"{"access_token":"a.b.c","token_type":"bearer","expires_in":43199}"#),
            )]
        },
        lifetime: 43199,
        sent: &["authorization: Bearer a.b.c"],
        ..ROW
    })
    .await;
}

/// URL, client, certificate, and key are all in one variable.
#[tokio::test]
async fn sap_xsuaa_x509_takes_everything_from_the_binding() {
    let client = ca().issue(&["client"]);
    let binding = json!({ "xsuaa": [{ "credentials": {
        "credential-type": "x509",
        "clientid": "sb-billing!t1234",
        "certurl": "https://acme.authentication.cert.eu10.hana.ondemand.com",
        "certificate": client.certificate_pem,
        "key": client.key_pem,
    }}]});
    let env = vec![("VCAP_SERVICES", &*binding.to_string().leak())];
    run(&Row {
        preset: "sap-xsuaa-x509",
        vars: r#"url = { env = "VCAP_SERVICES", pointer = "/xsuaa/0/credentials/certurl" }"#,
        issuer: r#"
            client_id = { env = "VCAP_SERVICES", pointer = "/xsuaa/0/credentials/clientid" }
            certificate = { env = "VCAP_SERVICES", pointer = "/xsuaa/0/credentials/certificate" }
            private_key = { env = "VCAP_SERVICES", pointer = "/xsuaa/0/credentials/key" }
        "#,
        env: env.leak(),
        client_certificate: true,
        exchanges: const {
            &[exchange(
                "POST /oauth/token HTTP/1.1",
                &["host: acme.authentication.cert.eu10.hana.ondemand.com", FORM],
                "grant_type=client_credentials&client_id=sb-billing%21t1234",
                ok(r#"{"access_token":"a.b.c","token_type":"bearer","expires_in":43199}"#),
            )]
        },
        lifetime: 43199,
        sent: &["authorization: Bearer a.b.c"],
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn google_acts_for_the_routes_subject() {
    run(&Row {
        preset: "google",
        issuer: r#"
            private_key = { file = "{keys}/google.json" }
            scopes = ["https://mail.google.com/"]
        "#,
        route: r#"subject = "ann@acme.example""#,
        jwts: &[Jwt {
            name: "jwt",
            key: "rsa.public.pem",
            header: r#"{"alg":"RS256","typ":"JWT","kid":"google-key-1"}"#,
            claims: r#"{"iss":"bot@acme.iam.gserviceaccount.com","sub":"ann@acme.example","scope":"https://mail.google.com/","aud":"https://oauth2.googleapis.com/token"}"#,
            lifetime: 3600,
        }],
        exchanges: const {
            &[exchange(
                "POST /token HTTP/1.1",
                &["host: oauth2.googleapis.com", FORM],
                "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion={jwt}",
                refuses(
                    401,
                    r#"{"error":"unauthorized_client","error_description":"Client is unauthorized to retrieve access tokens using this method, or client not authorized for any of the scopes requested."}"#,
                ),
            )]
        },
        refused: Some(Refused {
            status: 502,
            code: "token_refused",
            detail: &["unauthorized_client", "not authorized for any of the scopes requested"],
            logged: &[],
        }),
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn oci_with_a_certificate() {
    run(&Row {
        preset: "oci",
        vars: r#"domain = "idcs-9a2c1f.identity.oraclecloud.com""#,
        issuer: r#"
            client_id = "5f6a7b8c9d"
            client_auth = "private_key_jwt"
            private_key = { file = "{keys}/rsa.pkcs8.pem" }
            certificate = { file = "{keys}/rsa.certificate.pem" }
            jwt = { alg = "RS256", audience = "https://identity.oraclecloud.com/", certificate_headers = ["x5t"] }
            scopes = ["urn:opc:idm:__myscopes__"]
        "#,
        jwts: &[Jwt {
            name: "jwt",
            key: "rsa.public.pem",
            header: r#"{"alg":"RS256","typ":"JWT","x5t":"b1LiGAbMH1c9VZ9hEZho3i4tDes"}"#,
            claims: r#"{"iss":"5f6a7b8c9d","sub":"5f6a7b8c9d","aud":"https://identity.oraclecloud.com/"}"#,
            lifetime: 60,
        }],
        exchanges: const {
            &[exchange(
                "POST /oauth2/v1/token HTTP/1.1",
                &["host: idcs-9a2c1f.identity.oraclecloud.com", FORM],
                "grant_type=client_credentials&scope=urn%3Aopc%3Aidm%3A__myscopes__&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer&client_assertion={jwt}",
                ok(r#"{"access_token":"a.b.c","token_type":"Bearer","expires_in":3600}"#),
            )]
        },
        lifetime: 3600,
        sent: &["authorization: Bearer a.b.c"],
        ..ROW
    })
    .await;
}

/// Verint Identity gives two sets, so that one can be renewed while the other works.
#[tokio::test]
async fn verint_falls_over_to_the_standby_credentials() {
    run(&Row {
        preset: "verint",
        vars: r#"host = "api.foresee.com""#,
        issuer: r#"
            client_id = "acme-1"
            client_secret = { file = "secret" }
            standby = { client_id = "acme-2", client_secret = { file = "standby" } }
        "#,
        files: &[("secret", "old"), ("standby", "new")],
        exchanges: const {
            &[
                exchange(
                    "POST /token?grant_type=client_credentials&scope= HTTP/1.1",
                    &["host: api.foresee.com", "authorization: Basic YWNtZS0xOm9sZA==", "content-length: 0"],
                    "",
                    refuses(401, r#"{"error":"invalid_client"}"#),
                ),
                exchange(
                    "POST /token?grant_type=client_credentials&scope= HTTP/1.1",
                    &["host: api.foresee.com", "authorization: Basic YWNtZS0yOm5ldw==", "content-length: 0"],
                    "",
                    ok(r#"{"access_token":"f1b0c6b2","token_type":"bearer","expires_in":899,"scope":"r_basic"}"#),
                ),
            ]
        },
        lifetime: 899,
        sent: &["authorization: Bearer f1b0c6b2"],
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn verint_with_a_scope_of_the_operators() {
    run(&Row {
        preset: "verint",
        vars: r#"host = "api.foresee.com""#,
        issuer: r#"
            client_id = "acme-1"
            client_secret = { file = "secret" }
            scopes = ["r_basic"]
        "#,
        files: &[("secret", "s")],
        exchanges: const {
            &[exchange(
                "POST /token?grant_type=client_credentials&scope=r_basic HTTP/1.1",
                &["host: api.foresee.com", "authorization: Basic YWNtZS0xOnM="],
                "",
                ok(r#"{"access_token":"f1b0c6b2","token_type":"bearer","expires_in":899,"scope":"r_basic"}"#),
            )]
        },
        lifetime: 899,
        sent: &["authorization: Bearer f1b0c6b2"],
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn linkedin_says_that_the_application_may_not() {
    run(&Row {
        preset: "linkedin",
        issuer: r#"
            client_id = "id-1"
            client_secret = { file = "secret" }
        "#,
        files: &[("secret", "s3cr3t-of-ours")],
        exchanges: const {
            &[exchange(
                "POST /oauth/v2/accessToken HTTP/1.1",
                &["host: www.linkedin.com", FORM],
                "grant_type=client_credentials&client_id=id-1&client_secret=s3cr3t-of-ours",
                refuses(
                    401,
                    r#"{"error":"access_denied","error_description":"This application is not allowed to create application tokens"}"#,
                ),
            )]
        },
        refused: Some(Refused {
            status: 502,
            code: "token_refused",
            detail: &["access_denied", "This application is not allowed to create application tokens"],
            logged: &[],
        }),
        ..ROW
    })
    .await;
}

/// As the Graph API responds since version 2.3.
#[tokio::test]
async fn facebook_responds_with_json() {
    run(&Row {
        preset: "facebook",
        issuer: r#"
            client_id = "123456789012345"
            client_secret = { file = "secret" }
        "#,
        files: &[("secret", "s3cr3t-of-ours")],
        route: r#"inject = { header = "authorization" }"#,
        exchanges: const {
            &[exchange(
                "GET /oauth/access_token?grant_type=client_credentials&client_id=123456789012345&client_secret=s3cr3t-of-ours HTTP/1.1",
                &["host: graph.facebook.com"],
                "",
                ok(r#"{"access_token":"123456789012345|zTl3cnRvazNu","token_type":"bearer"}"#),
            )]
        },
        lifetime: 86400,
        sent: &["authorization: Bearer 123456789012345|zTl3cnRvazNu"],
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn facebook_says_why_in_a_nested_error() {
    run(&Row {
        preset: "facebook",
        issuer: r#"
            client_id = "123456789012345"
            client_secret = { file = "secret" }
        "#,
        files: &[("secret", "s3cr3t-of-ours")],
        exchanges: const {
            &[exchange(
                "GET /oauth/access_token?grant_type=client_credentials&client_id=123456789012345&client_secret=s3cr3t-of-ours HTTP/1.1",
                &["host: graph.facebook.com"],
                "",
                refuses(
                    400,
                    r#"{"error":{"message":"Error validating client secret.","type":"OAuthException","code":1,"fbtrace_id":"AbC1dEf2GhI"}}"#,
                ),
            )]
        },
        refused: Some(Refused {
            status: 502,
            code: "token_refused",
            detail: &["Error validating client secret."],
            logged: &["AbC1dEf2GhI"],
        }),
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn github_says_that_the_key_is_wrong() {
    run(&Row {
        preset: "github-app",
        vars: r#"installation = 12345678"#,
        issuer: r#"
            client_id = "123456"
            private_key = { file = "{keys}/rsa.pkcs8.pem" }
        "#,
        jwts: &[Jwt {
            name: "jwt",
            key: "rsa.public.pem",
            header: r#"{"alg":"RS256","typ":"JWT"}"#,
            claims: r#"{"iss":"123456","aud":"https://api.github.com/app/installations/12345678/access_tokens"}"#,
            lifetime: 540,
        }],
        exchanges: const {
            &[exchange(
                "POST /app/installations/12345678/access_tokens HTTP/1.1",
                &[
                    "host: api.github.com",
                    "accept: application/vnd.github+json",
                    "authorization: Bearer {jwt}",
                    JSON,
                    "x-github-api-version: 2022-11-28",
                ],
                "{}",
                refuses(
                    401,
                    r#"{"message":"A JSON web token could not be decoded","documentation_url":"https://docs.github.com/rest","status":"401"}"#,
                ),
            )]
        },
        refused: Some(Refused {
            status: 502,
            code: "token_refused",
            detail: &["A JSON web token could not be decoded"],
            logged: &[],
        }),
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn servicenow_responds_401_while_the_grant_is_off() {
    run(&Row {
        preset: "servicenow",
        vars: r#"instance = "acme""#,
        issuer: r#"
            client_id = "id-1"
            client_secret = { file = "secret" }
        "#,
        files: &[("secret", "s3cr3t-of-ours")],
        exchanges: const {
            &[exchange(
                "POST /oauth_token.do HTTP/1.1",
                &["host: acme.service-now.com", FORM],
                "grant_type=client_credentials&client_id=id-1&client_secret=s3cr3t-of-ours",
                refuses(401, r#"{"error_description":"access_denied","error":"server_error"}"#),
            )]
        },
        refused: Some(Refused {
            status: 502,
            code: "token_refused",
            detail: &["server_error", "access_denied"],
            logged: &[],
        }),
        ..ROW
    })
    .await;
}
