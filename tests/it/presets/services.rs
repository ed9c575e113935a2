//! Services whose own API comes with a token endpoint, each as its vendor documents it; more about them in `services_more`.

use super::{Exchange, FORM, JSON, Jwt, ROW, Reply, Row, run, services_more};

/// One request and its response.
pub const fn exchange(
    line: &'static str,
    headers: &'static [&'static str],
    body: &'static str,
    response: Reply,
) -> Exchange {
    Exchange { line, headers, body, response }
}

/// 200 with this JSON.
pub const fn ok(body: &'static str) -> Reply {
    Reply { status: 200, headers: &[JSON], body }
}

/// Another status with this JSON.
pub const fn refuses(status: u16, body: &'static str) -> Reply {
    Reply { status, headers: &[JSON], body }
}

#[tokio::test]
async fn genesys() {
    run(&Row {
        preset: "genesys",
        vars: r#"region = "euw2.pure.cloud""#,
        issuer: r#"
            client_id = "0d4b7e3a-8f1c-4c7e-9a55-3f2c0b9d1e10"
            client_secret = { file = "secret" }
        "#,
        files: &[("secret", "Xy1-9_zQ\n")],
        exchanges: const {
            &[exchange(
                "POST /oauth/token HTTP/1.1",
                &[
                    "host: login.euw2.pure.cloud",
                    "authorization: Basic MGQ0YjdlM2EtOGYxYy00YzdlLTlhNTUtM2YyYzBiOWQxZTEwOlh5MS05X3pR",
                    FORM,
                ],
                "grant_type=client_credentials",
                ok(r#"{"access_token":"2YotnFZFEjr1zCsicMWpAA","token_type":"bearer","expires_in":86400}"#),
            )]
        },
        lifetime: 86400,
        sent: &["authorization: Bearer 2YotnFZFEjr1zCsicMWpAA"],
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn brightcove() {
    run(&Row {
        preset: "brightcove",
        issuer: r#"
            client_id = "b10631d3-7597-4be2-a8b5-1c0a7b7f5d5e"
            client_secret = { file = "secret" }
        "#,
        files: &[("secret", "OmYqKyfXZp7CeP3eM2NHZnEVRBk")],
        exchanges: const {
            &[exchange(
                "POST /v4/access_token HTTP/1.1",
                &[
                    "host: oauth.brightcove.com",
                    "authorization: Basic YjEwNjMxZDMtNzU5Ny00YmUyLWE4YjUtMWMwYTdiN2Y1ZDVlOk9tWXFLeWZYWnA3Q2VQM2VNMk5IWm5FVlJCaw==",
                    FORM,
                ],
                "grant_type=client_credentials",
                ok(r#"{"access_token":"ANB7xKhiUZmwltVd3f1odcHHM9VAwg02kwmLwtZwHv3SxGCOWLUf5W4G7X22PRjmR9StvFUqzpVZ1suOfyfOigdi-rnohxyEaSSuZceeLw_9OBW7fXldOG05HEgkeK3N-DBZZZyilodmjA1JWZHbgI3IU7Rmz5IPGyi-sDxHN3KlOr1BDZlLZpXPdFPwEyb6idq-z8AL-blKTSMtNI3_fz3oNBisfrHGUv5tXHoQT4B7FYcvdrap16gTOO7_wNt1zmgLJiUHvyxZgsgBchm_AhohVL-AYgcfCbCR0v7d2hgI4ag35pnZNeujDiBLfnCFcVMlqQGq8UEVZrmU9a8y4pVAGih_EImmghqmSrkxLPYZ800-vIWX-lw","token_type":"Bearer","expires_in":300}"#),
            )]
        },
        lifetime: 300,
        sent: &["authorization: Bearer ANB7xKhiUZmwltVd3f1odcHHM9VAwg02kwmLwtZwHv3SxGCOWLUf5W4G7X22PRjmR9StvFUqzpVZ1suOfyfOigdi-rnohxyEaSSuZceeLw_9OBW7fXldOG05HEgkeK3N-DBZZZyilodmjA1JWZHbgI3IU7Rmz5IPGyi-sDxHN3KlOr1BDZlLZpXPdFPwEyb6idq-z8AL-blKTSMtNI3_fz3oNBisfrHGUv5tXHoQT4B7FYcvdrap16gTOO7_wNt1zmgLJiUHvyxZgsgBchm_AhohVL-AYgcfCbCR0v7d2hgI4ag35pnZNeujDiBLfnCFcVMlqQGq8UEVZrmU9a8y4pVAGih_EImmghqmSrkxLPYZ800-vIWX-lw"],
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn salesforce_marketing_cloud() {
    run(&Row {
        preset: "salesforce-marketing-cloud",
        vars: r#"subdomain = "mc563885gzs27c5t9-63k636ttgm""#,
        issuer: r#"
            client_id = "gyjzvytv7ukqtfn3x2qdyfsn"
            client_secret = { file = "secret" }
            params = { account_id = 12345 }
        "#,
        files: &[("secret", "wXyZ\"\\9")],
        exchanges: const {
            &[exchange(
                "POST /v2/token HTTP/1.1",
                &["host: mc563885gzs27c5t9-63k636ttgm.auth.marketingcloudapis.com", JSON],
                r#"{"grant_type":"client_credentials","client_id":"gyjzvytv7ukqtfn3x2qdyfsn","client_secret":"wXyZ\"\\9","account_id":12345}"#,
                ok(r#"{"access_token":"eyJhbGciOiJIUzI1NiIsImtpZCI6IjEifQ.e30.c2ln","token_type":"Bearer","expires_in":1079,"scope":"email_read email_write","soap_instance_url":"https://mc563885gzs27c5t9-63k636ttgm.soap.marketingcloudapis.com/","rest_instance_url":"https://mc563885gzs27c5t9-63k636ttgm.rest.marketingcloudapis.com/"}"#),
            )]
        },
        lifetime: 1079,
        sent: &["authorization: Bearer eyJhbGciOiJIUzI1NiIsImtpZCI6IjEifQ.e30.c2ln"],
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn salesforce() {
    run(&Row {
        preset: "salesforce",
        vars: r#"domain = "acme.my.salesforce.com""#,
        issuer: r#"
            client_id = "3MVG9.fTLmJ60pJ5"
            client_secret = { file = "secret" }
        "#,
        files: &[("secret", "1D2C3B4A")],
        exchanges: const {
            &[exchange(
                "POST /services/oauth2/token HTTP/1.1",
                &["host: acme.my.salesforce.com", FORM],
                "grant_type=client_credentials&client_id=3MVG9.fTLmJ60pJ5&client_secret=1D2C3B4A",
                ok(r#"{"access_token":"00Dx0000000BV7z!AR8AQAxo9UfVkh8AlV0Gomt9Czx9LjHnSSpwBMmbRcgKFmxOtvxjTrKW19ye6PE3Ds1eQz3z8jr3W7_VbWmEu4Q8TVGSTHxs","signature":"0CmxinZir53Yex7nE0TD+zMpvIWYGb/bdJh6XfOH6EQ=","scope":"api","instance_url":"https://acme.my.salesforce.com","id":"https://login.salesforce.com/id/00Dx0000000BV7z/005x00000012Q9P","token_type":"Bearer","issued_at":"1699999999999"}"#),
            )]
        },
        lifetime: 900,
        sent: &["authorization: Bearer 00Dx0000000BV7z!AR8AQAxo9UfVkh8AlV0Gomt9Czx9LjHnSSpwBMmbRcgKFmxOtvxjTrKW19ye6PE3Ds1eQz3z8jr3W7_VbWmEu4Q8TVGSTHxs"],
        renewed_on: &[401],
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn appian() {
    run(&Row {
        preset: "appian",
        vars: r#"site = "acme.appiancloud.com""#,
        issuer: r#"
            client_id = "6a1f0c9e"
            client_secret = { file = "secret" }
        "#,
        files: &[("secret", "pW0rd")],
        exchanges: const {
            &[exchange(
                "POST /suite/authorization/oauth/token HTTP/1.1",
                &["host: acme.appiancloud.com", FORM],
                "grant_type=client_credentials&client_id=6a1f0c9e&client_secret=pW0rd",
                ok(r#"{"access_token":"eyJhbGciOiJIUzI1NiJ9.e30.c2ln","token_type":"Bearer","expires_in":3600}"#),
            )]
        },
        lifetime: 3600,
        sent: &["authorization: Bearer eyJhbGciOiJIUzI1NiJ9.e30.c2ln"],
        renewed_on: &[404],
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn sap_xsuaa() {
    run(&Row {
        preset: "sap-xsuaa",
        vars: r#"url = { env = "VCAP_SERVICES", pointer = "/xsuaa/0/credentials/url" }"#,
        issuer: r#"
            client_id = { env = "VCAP_SERVICES", pointer = "/xsuaa/0/credentials/clientid" }
            client_secret = { env = "VCAP_SERVICES", pointer = "/xsuaa/0/credentials/clientsecret" }
        "#,
        env: &[(
            "VCAP_SERVICES",
            r#"{"xsuaa":[{"label":"xsuaa","name":"billing-uaa","credentials":{"clientid":"sb-billing!t1234","clientsecret":"3b5c$kQ=/x","url":"https://acme.authentication.eu10.hana.ondemand.com"}}]}"#,
        )],
        exchanges: const {
            &[exchange(
                "POST /oauth/token HTTP/1.1",
                &["host: acme.authentication.eu10.hana.ondemand.com", FORM],
                "grant_type=client_credentials&client_id=sb-billing%21t1234&client_secret=3b5c%24kQ%3D%2Fx",
                ok(r#"{"access_token":"eyJhbGciOiJSUzI1NiJ9.e30.c2ln","token_type":"bearer","expires_in":43199,"scope":"uaa.resource","jti":"d5b1e7a5c0de4f0e"}"#),
            )]
        },
        lifetime: 43199,
        sent: &["authorization: Bearer eyJhbGciOiJSUzI1NiJ9.e30.c2ln"],
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn sap_xsuaa_x509() {
    run(&Row {
        preset: "sap-xsuaa-x509",
        vars: r#"url = "https://acme.authentication.cert.eu10.hana.ondemand.com""#,
        issuer: r#"
            client_id = "sb-billing!t1234"
            certificate = { file = "client.pem" }
            private_key = { file = "client.key" }
        "#,
        client_certificate: true,
        exchanges: const {
            &[exchange(
                "POST /oauth/token HTTP/1.1",
                &["host: acme.authentication.cert.eu10.hana.ondemand.com", FORM],
                "grant_type=client_credentials&client_id=sb-billing%21t1234",
                ok(r#"{"access_token":"eyJhbGciOiJSUzI1NiJ9.e30.c2ln","token_type":"bearer","expires_in":43199}"#),
            )]
        },
        lifetime: 43199,
        sent: &["authorization: Bearer eyJhbGciOiJSUzI1NiJ9.e30.c2ln"],
        ..ROW
    })
    .await;
}

/// With everything that such a destination may have.
#[tokio::test]
async fn sap_destination() {
    run(&Row {
        preset: "sap-destination",
        vars: r#"token_service_url = "https://acme.authentication.eu10.hana.ondemand.com/oauth/token?zone=a%2Fb""#,
        issuer: r#"
            client_id = "sb-orders!t1234"
            client_secret = { file = "secret" }
            basic = { user = "token-user", password = { file = "password" } }
            scopes = ["orders.read", "orders.write"]
            params = { token_format = "jwt" }
            headers = { x-zid = "acme" }
        "#,
        files: &[("secret", "s/e+c"), ("password", "p:w d")],
        exchanges: const {
            &[exchange(
                "POST /oauth/token?zone=a%2Fb HTTP/1.1",
                &[
                    "host: acme.authentication.eu10.hana.ondemand.com",
                    "authorization: Basic dG9rZW4tdXNlcjpwJTNBdytk",
                    FORM,
                    "x-zid: acme",
                ],
                "grant_type=client_credentials&scope=orders.read+orders.write&client_id=sb-orders%21t1234&client_secret=s%2Fe%2Bc&token_format=jwt",
                ok(r#"{"access_token":"eyJhbGciOiJSUzI1NiJ9.e30.c2ln","token_type":"bearer","expires_in":43199}"#),
            )]
        },
        lifetime: 43199,
        sent: &["authorization: Bearer eyJhbGciOiJSUzI1NiJ9.e30.c2ln"],
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn jetbrains_space() {
    run(&Row {
        preset: "jetbrains-space",
        vars: r#"organization = "acme""#,
        issuer: r#"
            client_id = "9fd5ab3e-4c2d-4a53-8f0e-1a2b3c4d5e6f"
            client_secret = { file = "secret" }
            scopes = ["**"]
        "#,
        files: &[("secret", "f00ba7")],
        exchanges: const {
            &[exchange(
                "POST /oauth/token HTTP/1.1",
                &[
                    "host: acme.jetbrains.space",
                    "authorization: Basic OWZkNWFiM2UtNGMyZC00YTUzLThmMGUtMWEyYjNjNGQ1ZTZmOmYwMGJhNw==",
                    FORM,
                ],
                "grant_type=client_credentials&scope=**",
                ok(r#"{"access_token":"eyJhbGciOiJSUzUxMiJ9.e30.c2ln","token_type":"Bearer","expires_in":600}"#),
            )]
        },
        lifetime: 600,
        sent: &["authorization: Bearer eyJhbGciOiJSUzUxMiJ9.e30.c2ln"],
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn indeed() {
    run(&Row {
        preset: "indeed",
        issuer: r#"
            client_id = "6nt1k2z"
            client_secret = { file = "secret" }
            scopes = ["employer_access"]
            params = { employer = "6c5e4f3d2b1a" }
        "#,
        files: &[("secret", "xYz123")],
        exchanges: const {
            &[exchange(
                "POST /oauth/v2/tokens HTTP/1.1",
                &["host: apis.indeed.com", "accept: application/json", FORM],
                "grant_type=client_credentials&scope=employer_access&client_id=6nt1k2z&client_secret=xYz123&employer=6c5e4f3d2b1a",
                ok(r#"{"access_token":"eyJraWQiOiIxIn0.e30.c2ln","scope":"employer_access","token_type":"Bearer","expires_in":3600}"#),
            )]
        },
        lifetime: 3600,
        sent: &["authorization: Bearer eyJraWQiOiIxIn0.e30.c2ln"],
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn google() {
    run(&Row {
        preset: "google",
        issuer: r#"
            private_key = { file = "{keys}/google.json" }
            scopes = ["https://www.googleapis.com/auth/cloud-platform", "https://www.googleapis.com/auth/pubsub"]
        "#,
        jwts: &[Jwt {
            name: "jwt",
            key: "rsa.public.pem",
            header: r#"{"alg":"RS256","typ":"JWT","kid":"google-key-1"}"#,
            claims: r#"{"iss":"bot@acme.iam.gserviceaccount.com","scope":"https://www.googleapis.com/auth/cloud-platform https://www.googleapis.com/auth/pubsub","aud":"https://oauth2.googleapis.com/token"}"#,
            lifetime: 3600,
        }],
        exchanges: const {
            &[exchange(
                "POST /token HTTP/1.1",
                &["host: oauth2.googleapis.com", FORM],
                "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion={jwt}",
                ok(r#"{"access_token":"ya29.c.b0AXv0zTPnq8c2lnbmVk","expires_in":3599,"token_type":"Bearer"}"#),
            )]
        },
        lifetime: 3599,
        sent: &["authorization: Bearer ya29.c.b0AXv0zTPnq8c2lnbmVk"],
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn gce_default() {
    run(&Row {
        preset: "gce-default",
        vars: r#"key_file = "{keys}/google.json""#,
        issuer: r#"scopes = ["https://www.googleapis.com/auth/pubsub"]"#,
        jwts: &[Jwt {
            name: "jwt",
            key: "rsa.public.pem",
            header: r#"{"alg":"RS256","typ":"JWT","kid":"google-key-1"}"#,
            claims: r#"{"iss":"bot@acme.iam.gserviceaccount.com","scope":"https://www.googleapis.com/auth/pubsub","aud":"https://oauth2.googleapis.com/token"}"#,
            lifetime: 3600,
        }],
        exchanges: const {
            &[exchange(
                "POST /token HTTP/1.1",
                &["host: oauth2.googleapis.com", FORM],
                "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion={jwt}",
                ok(r#"{"access_token":"ya29.c.b0AXv0zTPnq8c2lnbmVk","expires_in":3599,"token_type":"Bearer"}"#),
            )]
        },
        lifetime: 3599,
        sent: &["authorization: Bearer ya29.c.b0AXv0zTPnq8c2lnbmVk"],
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn oci() {
    run(&Row {
        preset: "oci",
        vars: r#"domain = "idcs-9a2c1f.identity.oraclecloud.com""#,
        issuer: r#"
            client_id = "5f6a7b8c9d"
            client_secret = { file = "secret" }
            scopes = ["urn:opc:idm:__myscopes__", "urn:opc:resource:expiry=7200"]
        "#,
        files: &[("secret", "0a1b2c3d")],
        exchanges: const {
            &[exchange(
                "POST /oauth2/v1/token HTTP/1.1",
                &["host: idcs-9a2c1f.identity.oraclecloud.com", "authorization: Basic NWY2YTdiOGM5ZDowYTFiMmMzZA==", FORM],
                "grant_type=client_credentials&scope=urn%3Aopc%3Aidm%3A__myscopes__+urn%3Aopc%3Aresource%3Aexpiry%3D7200",
                ok(r#"{"access_token":"eyJ4NXQiOiIxIn0.e30.c2ln","token_type":"Bearer","expires_in":7200}"#),
            )]
        },
        lifetime: 7200,
        sent: &["authorization: Bearer eyJ4NXQiOiIxIn0.e30.c2ln"],
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn netsuite() {
    run(&Row {
        preset: "netsuite",
        vars: r#"account = "1234567_SB1""#,
        issuer: r#"
            client_id = "7a1b2c3d4e5f"
            private_key = { file = "{keys}/rsa.pkcs8.pem" }
            jwt = { key_id = "certificate-1" }
            scopes = ["restlets", "rest_webservices"]
        "#,
        jwts: &[Jwt {
            name: "jwt",
            key: "rsa.public.pem",
            header: r#"{"typ":"JWT","alg":"PS256","kid":"certificate-1"}"#,
            claims: r#"{"iss":"7a1b2c3d4e5f","scope":["restlets","rest_webservices"],"aud":"https://1234567-sb1.suitetalk.api.netsuite.com/services/rest/auth/oauth2/v1/token"}"#,
            lifetime: 60,
        }],
        exchanges: const {
            &[exchange(
                "POST /services/rest/auth/oauth2/v1/token HTTP/1.1",
                &["host: 1234567-sb1.suitetalk.api.netsuite.com", FORM],
                "grant_type=client_credentials&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer&client_assertion={jwt}",
                ok(r#"{"access_token":"eyJraWQiOiJjLjEyMzQ1NjcifQ.e30.c2ln","expires_in":"3600","token_type":"bearer"}"#),
            )]
        },
        lifetime: 3600,
        sent: &["authorization: Bearer eyJraWQiOiJjLjEyMzQ1NjcifQ.e30.c2ln"],
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn percolate() {
    run(&Row {
        preset: "percolate",
        issuer: r#"
            client_id = "client:123/456"
            client_secret = { file = "secret" }
        "#,
        files: &[("secret", "s+cr=t%")],
        exchanges: const {
            &[exchange(
                "POST /auth/v5/token/ HTTP/1.1",
                &["host: percolate.com", "authorization: Basic Y2xpZW50OjEyMy80NTY6cytjcj10JQ==", FORM],
                "grant_type=client_credentials",
                ok(r#"{"access_token":"pcl8cc1d8a2","token_type":"Bearer","expires_in":3600,"refresh_token":"not used"}"#),
            )]
        },
        lifetime: 3600,
        sent: &["authorization: Bearer pcl8cc1d8a2"],
        renewed_on: &[403],
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn verint() {
    run(&Row {
        preset: "verint",
        vars: r#"host = "api.foresee.com""#,
        issuer: r#"
            client_id = "acme-client"
            client_secret = { file = "secret" }
        "#,
        files: &[("secret", "sh-h")],
        exchanges: const {
            &[exchange(
                "POST /token?grant_type=client_credentials&scope= HTTP/1.1",
                &["host: api.foresee.com", "authorization: Basic YWNtZS1jbGllbnQ6c2gtaA==", "content-length: 0"],
                "",
                ok(r#"{"access_token":"f1b0c6b2-7a3f-4c61-9b3e-0d8e2f3a4b5c","token_type":"bearer","expires_in":899,"scope":"r_basic"}"#),
            )]
        },
        lifetime: 899,
        sent: &["authorization: Bearer f1b0c6b2-7a3f-4c61-9b3e-0d8e2f3a4b5c"],
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn linkedin() {
    run(&Row {
        preset: "linkedin",
        issuer: r#"
            client_id = "77abcdefghijkl"
            client_secret = { file = "secret" }
        "#,
        files: &[("secret", "WPL_AP1.a/b=c+d==")],
        exchanges: const {
            &[exchange(
                "POST /oauth/v2/accessToken HTTP/1.1",
                &["host: www.linkedin.com", FORM],
                "grant_type=client_credentials&client_id=77abcdefghijkl&client_secret=WPL_AP1.a%2Fb%3Dc%2Bd%3D%3D",
                ok(r#"{"access_token":"AQV8KzU6fQ_wPXmsnFjSjgSmXyTeMHsOHyX","expires_in":"1800"}"#),
            )]
        },
        lifetime: 1800,
        sent: &["authorization: Bearer AQV8KzU6fQ_wPXmsnFjSjgSmXyTeMHsOHyX"],
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn wp_oauth_server() {
    run(&Row {
        preset: "wp-oauth-server",
        vars: r#"site = "blog.example.com""#,
        issuer: r#"
            client_id = "K3gXFz2nqWyR5uJ8"
            client_secret = { file = "secret" }
        "#,
        files: &[("secret", "h4Qm")],
        exchanges: const {
            &[exchange(
                "POST /?oauth=token HTTP/1.1",
                &["host: blog.example.com", "authorization: Basic SzNnWEZ6Mm5xV3lSNXVKODpoNFFt", FORM],
                "grant_type=client_credentials",
                ok(r#"{"access_token":"4afcb5ae8e9b2d6c","expires_in":9087654,"token_type":"Bearer","scope":"basic","refresh_token":"1c2d3e"}"#),
            )]
        },
        // Used for a day at most, whatever the server says.
        lifetime: 86400,
        sent: &["authorization: Bearer 4afcb5ae8e9b2d6c"],
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn miniorange() {
    run(&Row {
        preset: "miniorange",
        vars: r#"site = "blog.example.com""#,
        issuer: r#"
            client_id = "KsVbgbDSRkvCSvm"
            client_secret = { file = "secret" }
            scopes = ["profile"]
            params = { redirect_uri = "https://app.example.com/callback" }
        "#,
        files: &[("secret", "aMZBaPyT")],
        exchanges: const {
            &[exchange(
                "POST /wp-json/moserver/token HTTP/1.1",
                &["host: blog.example.com", FORM],
                "grant_type=client_credentials&scope=profile&client_id=KsVbgbDSRkvCSvm&client_secret=aMZBaPyT&redirect_uri=https%3A%2F%2Fapp.example.com%2Fcallback",
                ok(r#"{"access_token":"5f3c9a","token_type":"Bearer","expires_in":3600,"scope":"profile"}"#),
            )]
        },
        lifetime: 3600,
        sent: &["authorization: Bearer 5f3c9a"],
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn facebook() {
    run(&Row {
        preset: "facebook",
        issuer: r#"
            client_id = "123456789012345"
            client_secret = { file = "secret" }
        "#,
        files: &[("secret", "0a1b2c3d4e5f")],
        exchanges: const {
            &[exchange(
                "GET /oauth/access_token?grant_type=client_credentials&client_id=123456789012345&client_secret=0a1b2c3d4e5f HTTP/1.1",
                &["host: graph.facebook.com"],
                "",
                Reply {
                    status: 200,
                    headers: &["content-type: text/plain; charset=UTF-8"],
                    body: "access_token=123456789012345|zTl3cnRvazNu",
                },
            )]
        },
        // It never ends, and is asked for again once a day.
        lifetime: 86400,
        target: "/thing?access_token=123456789012345%7CzTl3cnRvazNu",
        renewed_on: &[400],
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn github_app() {
    let response = services_more::installation_token("ghs_16C7e42F292c6912E7710c838347Ae178B4a", 3600);
    let exchanges = vec![Exchange {
        line: "POST /app/installations/12345678/access_tokens HTTP/1.1",
        headers: &[
            "host: api.github.com",
            "accept: application/vnd.github+json",
            "authorization: Bearer {jwt}",
            JSON,
            concat!("user-agent: bearerd/", env!("CARGO_PKG_VERSION")),
            "x-github-api-version: 2022-11-28",
        ],
        body: r#"{"permissions":{"contents":"read"},"repositories":["billing"]}"#,
        response: Reply { status: 201, headers: &[JSON], body: response },
    }];
    run(&Row {
        preset: "github-app",
        vars: r#"installation = "12345678""#,
        issuer: r#"
            client_id = "Iv1.8a61f9b3a7aba766"
            private_key = { file = "{keys}/rsa.pkcs1.pem" }
            params = { repositories = ["billing"], permissions = { contents = "read" } }
        "#,
        jwts: &[Jwt {
            name: "jwt",
            key: "rsa.public.pem",
            header: r#"{"alg":"RS256","typ":"JWT"}"#,
            claims: r#"{"iss":"Iv1.8a61f9b3a7aba766","aud":"https://api.github.com/app/installations/12345678/access_tokens"}"#,
            lifetime: 540,
        }],
        exchanges: exchanges.leak(),
        lifetime: 3600,
        sent: &["authorization: Bearer ghs_16C7e42F292c6912E7710c838347Ae178B4a"],
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn servicenow() {
    run(&Row {
        preset: "servicenow",
        vars: r#"instance = "acme""#,
        issuer: r#"
            client_id = "a1b2c3d4e5f6"
            client_secret = { file = "secret" }
        "#,
        files: &[("secret", "?x&y")],
        exchanges: const {
            &[exchange(
                "POST /oauth_token.do HTTP/1.1",
                &["host: acme.service-now.com", FORM],
                "grant_type=client_credentials&client_id=a1b2c3d4e5f6&client_secret=%3Fx%26y",
                ok(r#"{"access_token":"uOkoHqC0vZ","scope":"useraccount","token_type":"Bearer","expires_in":1799}"#),
            )]
        },
        lifetime: 1799,
        sent: &["authorization: Bearer uOkoHqC0vZ"],
        ..ROW
    })
    .await;
}

#[tokio::test]
async fn kubernetes() {
    run(&Row {
        preset: "kubernetes",
        issuer: r#"
            token_url = "https://idp.example.com/oauth2/token"
            client_id = "billing"
            scopes = ["billing.read"]
            assertion = { file = "token" }
        "#,
        files: &[("token", "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJzeXN0ZW06c2VydmljZWFjY291bnQ6YTpiIn0.c2ln\n")],
        exchanges: const {
            &[exchange(
                "POST /oauth2/token HTTP/1.1",
                &["host: idp.example.com", FORM],
                "grant_type=client_credentials&scope=billing.read&client_id=billing&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer&client_assertion=eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJzeXN0ZW06c2VydmljZWFjY291bnQ6YTpiIn0.c2ln",
                ok(r#"{"access_token":"eyJhbGciOiJSUzI1NiJ9.e30.c2ln","token_type":"Bearer","expires_in":3599}"#),
            )]
        },
        lifetime: 3599,
        sent: &["authorization: Bearer eyJhbGciOiJSUzI1NiJ9.e30.c2ln"],
        ..ROW
    })
    .await;
}
