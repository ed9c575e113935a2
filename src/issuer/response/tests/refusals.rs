//! Responses that report an error, and what bearerd advises.

use super::*;
use crate::config::client_auth::{
    AssertionFile, ClientSecretJwt, ClientSecretPost, NoProof, PrivateKeyJwt, TlsClientAuth,
};
use crate::config::{BasicUser, ClientAuth, DpopConfig, JwtConfig, JwtUse, Source};

#[test]
fn t23_a_compressed_body_is_refused() {
    for coding in ["gzip", "br", "identity, gzip"] {
        let error = case().header("content-encoding", coding).error(GOOD);
        assert_eq!(error.kind, FailureKind::Unusable);
    }
    case().header("content-encoding", "Identity").grant(GOOD);
    let refused = status(401).header("content-encoding", "gzip").error("\u{1f}");
    assert_eq!(refused.kind, FailureKind::ClientRefused);
}

#[test]
fn t24_only_the_statuses_of_the_config_may_have_a_token() {
    for code in [201, 202, 204, 206] {
        let error = status(code).error(GOOD);
        assert_eq!((error.kind, error.http_status), (FailureKind::Unusable, Some(code)));
        assert!(error.detail.contains("response.statuses"), "{error}");
    }
    status(201).with(|shape| shape.statuses = vec![200, 201]).grant(GOOD);
}

#[test]
fn t25_redirects_are_named_and_not_followed() {
    for code in [301, 302, 303, 307, 308] {
        let error = status(code).header("location", "https://evil.example/x?secret=1").error(GOOD);
        assert_eq!(
            (error.kind, error.http_status, error.code.as_deref()),
            (FailureKind::Unusable, Some(code), None)
        );
        assert!(error.detail.contains("evil.example, and bearerd does not follow redirects"), "{error}");
        assert!(!error.detail.contains("secret=1"), "{error}");
    }
    assert!(status(302).header("location", "/login").error("").detail.contains("a redirect, and"));
}

#[test]
fn t30_t33_busy_issuers_are_unavailable() {
    for code in [429, 500, 502, 503, 504, 599] {
        let error = status(code).header("retry-after", "30").error(r#"{"error":"invalid_client"}"#);
        assert_eq!((error.kind, error.http_status), (FailureKind::Unavailable, Some(code)));
        assert_eq!(error.retry_after, Some(Duration::from_secs(30)), "T31, T33");
    }
    assert_eq!(status(503).error("<html>").retry_after, None);
    assert_eq!(status(503).header("retry-after", "soon").error("").retry_after, None);
}

#[test]
fn t34_a_refused_client() {
    for (code, body) in [
        (401, r#"{"error":"invalid_client"}"#),
        (400, r#"{"error":"invalid_client"}"#),
        (400, r#"{"error":"unauthorized_client"}"#),
        (401, r#"{"error":"invalid_scope"}"#),
        (401, ""),
        (401, "<html>"),
    ] {
        let error = status(code).header("retry-after", "5").error(body);
        assert_eq!((error.kind, error.retry_after), (FailureKind::ClientRefused, None), "{code} {body}");
        let remedy = if body.contains("scope") { "check scopes" } else { "client_id" };
        assert!(error.detail.contains(remedy), "{error}");
    }
}

#[test]
fn t35_a_refused_request() {
    for code in ["invalid_scope", "invalid_request", "invalid_grant", "unsupported_grant_type"] {
        let error = status(400).error(format!(r#"{{"error":"{code}"}}"#));
        assert_eq!((error.kind, error.code.as_deref()), (FailureKind::RequestRefused, Some(code)));
        assert!(error.detail.contains(code), "{error}");
    }
    for (code, body) in [(400, r#"{"error":"invalid_target"}"#), (404, ""), (403, "no"), (400, "{}")] {
        assert_eq!(status(code).error(body).kind, FailureKind::Unusable);
    }
}

#[test]
fn the_detail_says_what_happened_to_whom_and_what_to_do() {
    let error = status(401).error(r#"{"error":"invalid_client","error_description":"Bad\ncredentials"}"#);
    assert_eq!(
        error.detail,
        "issuer corp: idp.example/token responded 401 invalid_client (Bad credentials); check client_id and \
         client_secret of [issuer.corp], and whether the server wants basic_encoding = \"raw\" or \
         client_auth = \"client_secret_post\""
    );
    assert_eq!(
        status(404).error("").detail,
        "issuer corp: idp.example/token responded 404; check token_url of [issuer.corp]"
    );
    assert!(status(400).error(r#"{"error":"invalid_scope"}"#).detail.contains("check scopes"));
}

#[test]
fn a_description_is_at_most_512_bytes_and_its_code_64() {
    let long = "é".repeat(5000);
    let error =
        status(400).error(format!(r#"{{"error":"{}","error_description":"{long}"}}"#, "x".repeat(300)));
    assert_eq!(error.detail.matches('é').count(), 256);
    assert_eq!(error.code.map(|code| code.len()), Some(64));
}

#[test]
fn no_error_shows_the_secret_in_any_form() {
    // Plain, form-encoded, base64, Basic with the id in both encodings.
    let forms = [
        "s3:c+r t",
        "s3%3Ac%2Br+t",
        "s3%3ac%2br%20t",
        "czM6YytyIHQ=",
        "c3ZjOnMzOmMrciB0",
        "c3ZjOnMzJTNBYyUyQnIrdA==",
    ];
    for form in forms {
        for code in [200, 201, 302, 400, 401, 404, 429, 500] {
            for body in [
                format!(r#"{{"error":"{form}","error_description":"you sent {form}, no {form}"}}"#),
                format!(r#"{{"access_token":"t","token_type":"{form}"}}"#),
                format!(r#"{{"access_token":"{form} x"}}"#),
                form.to_owned(),
            ] {
                let error = status(code).error(body);
                for form in forms {
                    let shown = format!("{error:?}");
                    assert!(!shown.contains(form.trim_end_matches('=')), "{code}: {shown}");
                }
            }
        }
    }
    let granted = case().grant(r#"{"access_token":"0123","scope":"read s3:c+r t"}"#);
    assert_eq!(granted.scope.as_deref(), None);
}

#[test]
fn a_plain_text_is_quoted_with_secrets_masked_first() {
    let entra = status(429).header("content-type", "text/plain; charset=utf-8").error("Too Many Requests");
    assert!(entra.detail.contains("responded 429 (Too Many Requests); it limits"), "{entra}");
    let padded = format!("{} s3:c+r t and a=b", "word ".repeat(29));
    let error = status(400).header("content-type", "text/plain").error(padded);
    assert!(!error.detail.contains("s3:c"), "{error}");
}

fn jwt(usage: JwtUse) -> Option<JwtConfig> {
    Some(JwtConfig::with_defaults(usage))
}

fn configured(change: impl FnOnce(&mut IssuerConfig)) -> Case {
    let mut case = status(400);
    change(&mut case.config);
    case
}

fn refused(code: &str) -> String {
    format!(r#"{{"error":"{code}"}}"#)
}

#[track_caller]
fn expect(case: &Case, code: &str, words: &[&str]) {
    let error = case.error(refused(code));
    for word in words {
        assert!(error.detail.contains(word), "{word}: {error}");
    }
}

#[test]
fn advice_for_a_refused_client_names_the_keys_that_identify_it() {
    let secret = || Source::literal("x");
    let both = ["client_id and client_secret", "client_auth = \"client_secret_basic\""];
    expect(
        &configured(|c| c.client_auth = ClientAuth::with_secret(&ClientSecretPost, secret())),
        "invalid_client",
        &both,
    );
    let with_jwt = |auth| {
        configured(|config| {
            config.client_auth = auth;
            config.jwt = jwt(JwtUse::ClientAssertion);
        })
    };
    let case = with_jwt(ClientAuth::with_secret(&ClientSecretJwt, secret()));
    expect(&case, "invalid_client", &["client_secret, jwt.alg and jwt.audience", "client_secret_jwt"]);
    let case = with_jwt(ClientAuth::new(&PrivateKeyJwt));
    let words = ["jwt.key_id, jwt.alg and jwt.audience of [issuer.corp]", "registered for this client"];
    expect(&case, "invalid_client", &words);
    let case = configured(|config| config.client_auth = ClientAuth::new(&TlsClientAuth));
    expect(&case, "invalid_client", &["certificate", "token_url"]);
    let case = configured(|config| {
        config.client_auth = ClientAuth::new(&AssertionFile);
        config.assertion = Some(secret());
    });
    expect(&case, "invalid_client", &["check assertion, assertion_type", "expired", "audience"]);
    let case = configured(|config| config.client_auth = ClientAuth::new(&NoProof));
    assert!(case.error(refused("invalid_client")).detail.ends_with("requires a client_secret"));
    let case = configured(|config| {
        config.client_auth = ClientAuth::new(&NoProof);
        config.jwt = jwt(JwtUse::Bearer);
    });
    expect(&case, "invalid_client", &["jwt.issuer", "jwt.key_id", "private_key"]);
    for other in ["client_secret", "client_auth"] {
        assert!(!case.error(refused("invalid_client")).detail.contains(other), "{other}");
    }
}

#[test]
fn a_basic_user_beside_the_client_is_named() {
    let case = configured(|config| {
        config.basic = Some(BasicUser {
            user: Source::literal("u"),
            password: Source::literal("p"),
            encoding: crate::config::BasicEncoding::Form,
        });
    });
    expect(&case, "invalid_client", &["client_secret", "the user and password of basic"]);
}

#[test]
fn advice_for_other_codes_names_the_keys_that_decide() {
    let case = configured(|config| config.grant_type = Some("delegation".to_owned()));
    expect(
        &case,
        "unsupported_grant_type",
        &["the issuer does not accept the grant `delegation`; check grant_type"],
    );
    expect(&case, "unauthorized_client", &["allow this client the grant `delegation`", "client_id"]);
    expect(&case, "invalid_scope", &["check scopes"]);
    expect(&case, "invalid_target", &["params (audience, resource)"]);
    expect(&case, "invalid_request", &["params, scopes and client_auth"]);
    expect(&case, "access_denied", &["allow this client such tokens"]);
    expect(&case, "invalid_grant", &["params, scopes and client_auth"]);
    let none = configured(|config| config.grant_type = None);
    expect(&none, "unsupported_grant_type", &["does not accept a request without grant_type"]);
    let unsure = r#"{"error":"unauthorized_client","error_description":"Unexpected error when authenticating client"}"#;
    assert!(
        case.error(unsure).detail.contains("check client_id and client_secret"),
        "{}",
        case.error(unsure)
    );
    let wrong_secret = Case { status: 401, ..case };
    expect(&wrong_secret, "unauthorized_client", &["client_secret", "may use the grant `delegation`"]);
    assert!(status(415).error("").detail.contains("check body and method"));
    assert!(status(405).error("").detail.contains("check token_url and method"));
}

#[test]
fn a_refused_grant_names_the_assertion() {
    let case = configured(|config| config.jwt = jwt(JwtUse::Assertion));
    expect(&case, "invalid_grant", &["jwt.audience", "jwt.lifetime", "registered"]);
    let case = configured(|config| config.assertion = Some(Source::literal("a")));
    expect(&case, "invalid_grant", &["check assertion", "audience"]);
    let case = configured(|config| {
        config.grant_type = Some("urn:ietf:params:oauth:grant-type:token-exchange".to_owned());
    });
    expect(&case, "invalid_grant", &["subject_token"]);
}

#[test]
fn t36_dpop_refusals_are_distinguished() {
    let with = configured(|config| {
        config.dpop = Some(DpopConfig { private_key: Source::literal("k"), alg: None });
    });
    let error = with.error(refused("use_dpop_nonce"));
    assert_eq!(error.kind, FailureKind::Unusable);
    expect(&with, "use_dpop_nonce", &["with the issuer's nonce", "the issuer's"]);
    assert!(!error.detail.contains("dpop.private_key"), "{}", error.detail);
    expect(&with, "invalid_dpop_proof", &["dpop.private_key", "clock"]);
    assert_eq!(with.error(refused("invalid_dpop_proof")).kind, FailureKind::Unusable);
    expect(&status(400), "use_dpop_nonce", &["set dpop of [issuer.corp]"]);
    let bound = r#"{"access_token":"t","token_type":"DPoP"}"#;
    assert!(case().error(bound).detail.contains("set dpop"));
    let mut unbound = Case { status: 200, ..with };
    unbound.config.response.token_types = vec!["dpop".to_owned()];
    assert!(unbound.error(GOOD).detail.contains("bound it to no key"));
}

#[test]
fn t36_a_dpop_challenge_counts_as_much_as_a_body() {
    let rauthy = r#"{"timestamp":1900000000,"error":"UseDpopNonce","message":"A nonce is required"}"#;
    for body in [rauthy, "", "<html>"] {
        for (code, header) in [
            ("use_dpop_nonce", r#"DPoP error="use_dpop_nonce", error_description="nonce""#),
            ("invalid_dpop_proof", r#"Bearer, DPoP error="invalid_dpop_proof""#),
        ] {
            let error = status(400).header("www-authenticate", header).error(body);
            assert_eq!(error.code.as_deref(), Some(code), "{error}");
            assert!(error.detail.contains("set dpop of [issuer.corp]"), "{error}");
            let error = status(401).header("www-authenticate", header).error(body);
            assert_eq!(error.kind, FailureKind::RequestRefused, "{error}");
            assert!(!error.detail.contains("client_secret"), "{error}");
        }
    }
    let other = r#"DPoP algs="ES256", error="invalid_token""#;
    let error = status(401).header("www-authenticate", other).error(refused("invalid_client"));
    assert_eq!(error.code.as_deref(), Some("invalid_client"));
}

#[test]
fn a_missing_proof_means_that_dpop_is_to_be_set() {
    let keycloak = r#"{"error":"invalid_request","error_description":"DPoP proof is missing"}"#;
    let error = status(400).error(keycloak);
    assert!(
        error.detail.ends_with("this client has to prove possession of a key; set dpop of [issuer.corp]"),
        "{error}"
    );
}

#[test]
fn a_token_that_is_not_exchanged_is_told_from_a_provider_that_is_not_there() {
    let google = configured(|config| {
        config.grant_type = Some("urn:ietf:params:oauth:grant-type:token-exchange".to_owned());
    });
    let audience =
        "The audience in ID Token [https://kubernetes.default.svc] does not match the expected audience.";
    let condition = "The given credential is rejected by the attribute condition.";
    let name = "Invalid value for \"audience\". This value should be the full resource name of the Identity Provider.";
    let gone = "The target service indicated by the \"audience\" parameters is invalid. This might either be because the pool or provider is disabled or deleted or because it doesn't exist.";
    for (code, text, remedy) in [
        (
            "invalid_grant",
            audience,
            "subject_token in params of [issuer.corp] and of the route is for another audience",
        ),
        (
            "invalid_grant",
            condition,
            "the attribute condition at the issuer does not accept the claims of subject_token",
        ),
        ("unauthorized_client", condition, "the attribute condition at the issuer does not accept"),
        (
            "invalid_request",
            name,
            "audience in params of [issuer.corp] or of the route names no identity provider",
        ),
        (
            "invalid_target",
            gone,
            "audience in params of [issuer.corp] or of the route names no identity provider",
        ),
    ] {
        let said = json!({ "error": code, "error_description": text }).to_string();
        let found = google.error(said).remedy.unwrap();
        assert!(found.contains(remedy) && !found.contains("grant"), "{text}: {found}");
    }
}

#[test]
fn the_audience_of_an_assertion_and_that_of_a_token_are_distinguished() {
    let signing = || configured(|config| config.jwt = jwt(JwtUse::ClientAssertion));
    let said = |code: &str, text: &str| format!(r#"{{"error":"{code}","error_description":"{text}"}}"#);
    for (status, code, text) in [
        (
            400,
            "invalid_request",
            "audience is not valid: Audience must contain client_id 'https://idp.example'",
        ),
        (
            401,
            "invalid_client",
            "ClientCredential authentication failed. Claim 'audience' from 'client_assertion' must match the authorization server's \
             token endpoint 'https://idp.example/oauth2/token'.",
        ),
        (400, "invalid_client", "Invalid token audience"),
        (
            401,
            "invalid_client",
            "The audience claim for client_assertion must be the endpoint invoked for the request.",
        ),
    ] {
        let case = Case { status, ..signing() };
        let error = case.error(said(code, &text.replace("\\\n", "")));
        assert!(error.detail.contains("set jwt.audience of [issuer.corp]"), "{error}");
        assert!(!error.detail.contains("params"), "{error}");
    }
    let hydra = "Requested audience 'https://api' has not been whitelisted by the OAuth 2.0 Client.";
    for case in [signing(), status(400)] {
        let error = case.error(said("invalid_request", hydra));
        assert!(error.detail.contains("allow this client that audience at the issuer"), "{error}");
        assert!(
            error.detail.contains("params.audience") && !error.detail.contains("jwt.audience"),
            "{error}"
        );
        let error = case.error(said("invalid_request", "Missing required parameter: audience"));
        assert!(error.detail.contains("params = { audience = "), "{error}");
    }
    let mut file = configured(|config| config.assertion = Some(Source::literal("a")));
    file.config.client_auth = ClientAuth::new(&AssertionFile);
    let error = file.error(said("invalid_client", "Invalid token audience"));
    assert!(
        error.detail.contains("in assertion of [issuer.corp]: check the program that writes it"),
        "{error}"
    );
}

#[test]
fn a_server_that_may_want_the_client_id_beside_an_assertion() {
    let case = configured(|config| {
        config.client_auth = ClientAuth::new(&PrivateKeyJwt);
        config.jwt = jwt(JwtUse::ClientAssertion);
    });
    expect(&case, "invalid_request", &["set send_client_id = true in [issuer.corp]", "Spring"]);
    let sends = configured(|config| {
        config.client_auth = ClientAuth::new(&PrivateKeyJwt);
        config.send_client_id = true;
    });
    assert!(!sends.error(refused("invalid_request")).detail.contains("send_client_id"));
}

#[test]
fn servers_with_little_to_say() {
    let glewlwyd = status(403).error("");
    assert!(glewlwyd.detail.contains("check client_id and client_secret"), "{glewlwyd}");
    assert!(
        glewlwyd.detail.contains("whether this client and this machine's address may request tokens"),
        "{glewlwyd}"
    );
    let lemonldap = status(401).error(r#"{"error":"9","result":0}"#);
    assert!(lemonldap.detail.contains("it is not a token endpoint"), "{lemonldap}");
    assert!(lemonldap.detail.contains("check token_url of [issuer.corp]"), "{lemonldap}");
    let lemonldap = status(401).error(r#"{"error":9,"result":0}"#);
    assert!(lemonldap.detail.contains("it is not a token endpoint"), "{lemonldap}");
    let rauthy = status(400).error(r#"{"error":"BadRequest","message":"'client_secret' is missing"}"#);
    assert!(rauthy.detail.contains("client_auth = \"client_secret_post\""), "{rauthy}");
    let keycloak = status(400).error(
        r#"{"error":"invalid_client","error_description":"Parameter client_assertion_type is missing"}"#,
    );
    assert!(
        keycloak.detail.contains("client_auth = \"client_secret_jwt\" or \"private_key_jwt\""),
        "{keycloak}"
    );
}

#[test]
fn an_issuer_that_is_temporarily_unavailable_is_unavailable() {
    for code in [200, 400] {
        let error = status(code).header("retry-after", "7").error(refused("temporarily_unavailable"));
        assert_eq!(error.kind, FailureKind::Unavailable);
        assert_eq!(error.retry_after, Some(Duration::from_secs(7)));
        assert!(error.detail.ends_with("bearerd asks again"), "{error}");
    }
}

#[test]
fn a_different_clock_is_reported_if_it_may_be_the_cause() {
    let signing = || configured(|config| config.jwt = jwt(JwtUse::ClientAssertion));
    let ahead = "Sun, 17 Mar 2030 17:52:00 GMT";
    for code in ["invalid_client", "invalid_grant", "invalid_dpop_proof"] {
        let error = signing().header("date", ahead).error(refused(code));
        assert!(
            error.detail.ends_with("; this machine's clock is 5m 20s behind the issuer's; correct it"),
            "{error}"
        );
    }
    for (code, said) in
        [("invalid_client", "Token is not active"), ("invalid_dpop_proof", "DPoP proof is not active")]
    {
        let body = format!(r#"{{"error":"{code}","error_description":"{said}"}}"#);
        let error = signing().error(body);
        assert!(error.detail.ends_with("or has expired: compare this machine's clock with it"), "{error}");
    }
    let stumbled = Case { status: 500, ..signing() }.header("date", ahead).error("");
    assert!(stumbled.detail.contains("clock is 5m 20s behind the issuer's"), "{stumbled}");
    let behind = signing().header("date", "Sun, 17 Mar 2030 16:46:40 GMT").error(refused("invalid_client"));
    assert!(behind.detail.contains("clock is 1h ahead of the issuer's"), "{behind}");
    let silent = [
        signing().header("date", "Sun, 17 Mar 2030 17:47:30 GMT").error(refused("invalid_client")),
        signing().header("date", ahead).error(refused("server_error")),
        status(400).header("date", ahead).error(refused("invalid_client")),
        signing().error(refused("invalid_client")),
    ];
    for error in silent {
        assert!(!error.detail.contains("the issuer's; correct it"), "{error}");
    }
}

#[test]
fn entra_causes_become_hints() {
    for (number, hint) in [
        ("7000215", "secret's value"),
        ("7000222", "has expired"),
        ("700016", "no such application"),
        ("90002", "no such tenant"),
        ("50012", "does not know this certificate"),
        ("700027", "does not know this certificate"),
        ("500011", "no such resource"),
        ("1002012", "/.default"),
        ("70011", "/.default"),
        ("700213", "no federated credential"),
        ("70021", "no federated credential"),
    ] {
        let body = format!(
            r#"{{"error":"invalid_client","error_description":"AADSTS{number}: Words. Trace ID: 1 Correlation ID: 2"}}"#
        );
        let error = status(401).error(body);
        assert!(error.detail.contains(hint), "{number}: {error}");
        assert!(error.detail.contains(&format!("(AADSTS{number}: Words.")), "{error}");
        assert_eq!(error.kind, FailureKind::ClientRefused);
    }
    let other = r#"{"error":"invalid_client","error_description":"AADSTS70002159: x"}"#;
    assert!(status(401).error(other).detail.contains("check client_id and client_secret"));
}

#[test]
fn traces_come_from_the_body_and_the_headers_once_each() {
    let entra = r#"{"error":"invalid_scope","error_description":"AADSTS70011: x","error_codes":[70011],"timestamp":"2016-01-09 02:02:12Z","trace_id":"255d1aef-8c98-452f-ac51-23d051240864","correlation_id":"fb3d2015-bc17-4bb9-bb85-30c5cf1aaaa7"}"#;
    let error = status(400).header("x-ms-request-id", "255d1aef-8c98-452f-ac51-23d051240864").error(entra);
    assert_eq!(
        error.trace.as_deref(),
        Some(
            "trace_id=255d1aef-8c98-452f-ac51-23d051240864 correlation_id=fb3d2015-bc17-4bb9-bb85-30c5cf1aaaa7"
        )
    );
    assert!(!error.detail.contains("255d1aef"), "{error}");
    for (name, code) in
        [("x-okta-request-id", 401), ("cf-ray", 502), ("x-amzn-requestid", 200), ("x-request-id", 302)]
    {
        let error = status(code).header(name, "Zq7").error("<html>");
        assert_eq!(error.trace, Some(format!("{name}=Zq7")), "{code}");
    }
    let echo = status(200)
        .header("x-request-id", "s3cret-token")
        .error(r#"{"access_token":"s3cret-token","token_type":"mac"}"#);
    assert_eq!(echo.trace, None);
    assert_eq!(status(401).error("").trace, None);
}
