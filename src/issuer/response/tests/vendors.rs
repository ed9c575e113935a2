//! The documented answer of each vendor, with the shape that its config has.

use super::*;

/// Lifetime in seconds (`None`: the default applies) of the token `t`.
#[track_caller]
fn lives(case: &Case, body: &str) -> Option<u64> {
    let grant = case.grant(body);
    assert_eq!(grant.token, Secret::from("t"), "{body}");
    assert!(grant.prover.is_none());
    grant.expires_in.map(|life| life.as_secs())
}

#[test]
fn plain_answers() {
    for (vendor, body, life) in [
        (
            "zitadel",
            r#"{"access_token":"t","token_type":"Bearer","expires_in":43199,"id_token":"x"}"#,
            Some(43_199),
        ),
        ("entra", r#"{"token_type":"Bearer","expires_in":3599,"access_token":"t"}"#, Some(3599)),
        ("auth0", r#"{"access_token":"t","token_type":"Bearer","expires_in":86400}"#, Some(86_400)),
        (
            "okta",
            r#"{"token_type":"Bearer","expires_in":3600,"access_token":"t","scope":"okta.users.read"}"#,
            Some(3600),
        ),
        (
            "keycloak",
            r#"{"access_token":"t","expires_in":300,"refresh_expires_in":0,"token_type":"Bearer","not-before-policy":0,"scope":"profile email"}"#,
            Some(300),
        ),
        ("spotify", r#"{"access_token":"t","token_type":"bearer","expires_in":3600}"#, Some(3600)),
        (
            "marketing cloud",
            r#"{"access_token":"t","token_type":"Bearer","expires_in":1079,"scope":"email_read","soap_instance_url":"https://s.example/","rest_instance_url":"https://r.example/"}"#,
            Some(1079),
        ),
        ("netsuite", r#"{"access_token":"t","expires_in":"3600","token_type":"bearer"}"#, Some(3600)),
        ("linkedin", r#"{"access_token":"t","expires_in":"1800"}"#, Some(1800)),
        (
            "wp-oauth",
            r#"{"access_token":"t","expires_in":9087654,"token_type":"Bearer","scope":"basic","refresh_token":"r"}"#,
            Some(86_400),
        ),
        (
            "verint",
            r#"{"access_token":"t","token_type":"bearer","expires_in":899,"scope":"r_basic"}"#,
            Some(899),
        ),
        ("seismic", r#"{"access_token":"t","token_type":"Bearer","expires_in":21600}"#, Some(21_600)),
        ("percolate", r#"{"access_token":"t"}"#, None),
    ] {
        assert_eq!(lives(&case(), body), life, "{vendor}");
    }
}

#[test]
fn issued_at_is_never_a_lifetime() {
    let ups = r#"{"token_type":"Bearer","issued_at":"1699999999999","client_id":"c","access_token":"t","expires_in":"14399","status":"approved"}"#;
    assert_eq!(lives(&case(), ups), Some(14_399));
    let salesforce = r#"{"access_token":"t","signature":"s","scope":"api","instance_url":"https://d.example","id":"https://l.example/id","token_type":"Bearer","issued_at":"1699999999999"}"#;
    let (grant, notes) = case().judge(salesforce).unwrap();
    assert_eq!((grant.expires_in, grant.expires_at), (None, None));
    assert_eq!(notes, [Note::LifetimeMissing]);
}

#[test]
fn apigee_calls_its_type_bearer_token() {
    let body = r#"{"refresh_token_expires_in":"0","api_product_list":"[p1]","organization_name":"ext","developer.email":"x@y","token_type":"BearerToken","issued_at":"1698050494594","client_id":"c","access_token":"t","scope":"","expires_in":"3599","refresh_count":"0","status":"approved"}"#;
    assert!(case().error(body).detail.contains("`BearerToken`"));
    let apigee = case().with(|shape| shape.token_types = vec!["bearer".to_owned(), "bearertoken".to_owned()]);
    assert_eq!(lives(&apigee, body), Some(3599));
    assert_eq!(apigee.grant(body).token_type, "bearertoken");
    let renamed = apigee.with(|shape| shape.expires_in = "/access_token_expires_in".to_owned());
    let body = body.replace("expires_in", "access_token_expires_in");
    assert_eq!(lives(&renamed, &body), Some(3599));
}

#[test]
fn azure_ad_b2c_names_length_and_end() {
    let body = r#"{"access_token":"t","token_type":"Bearer","not_before":1899999990,"expires_in":3600,"expires_on":1900003590,"resource":"r"}"#;
    let grant = case().grant(body);
    assert_eq!(grant.expires_in, Some(Duration::from_secs(3600)));
    assert_eq!(grant.expires_at, None, "the length is free of the issuer's clock");
}

#[test]
fn an_end_by_a_clock_that_differs_is_told_by_ours() {
    // now() is Sun, 17 Mar 2030 17:46:40 GMT; the issuer's clock is an hour behind.
    let late = case().header("date", "Sun, 17 Mar 2030 16:46:40 GMT");
    let grant = late.grant(r#"{"access_token":"t","expires_on":1899996700}"#);
    assert_eq!(grant.expires_at, Some(now() + Duration::from_secs(300)));
    assert_eq!(grant.expires_in, Some(Duration::from_secs(300)));
    let near = case().header("date", "Sun, 17 Mar 2030 17:46:00 GMT");
    let grant = near.grant(r#"{"access_token":"t","expires_on":1900000300}"#);
    assert_eq!(grant.expires_at, Some(now() + Duration::from_secs(300)), "small differences change nothing");
}

#[test]
fn github_answers_201_with_another_shape() {
    let body = r#"{"token":"t","expires_at":"2030-03-17T18:46:40Z","permissions":{}}"#;
    let github = status(201).with(|shape| {
        shape.token = "/token".to_owned();
        shape.expires_at = "/expires_at".to_owned();
        shape.statuses = vec![201];
    });
    assert_eq!(lives(&github, body), Some(3600));
    let error = status(201).error(body);
    assert!(error.detail.contains("JSON with the members token, expires_at, permissions"), "{error}");
    assert!(error.detail.contains("response.statuses"), "{error}");
    let error = case().error(body);
    assert!(
        error.detail.contains(
            "no token at /access_token (the response has the members token, expires_at, permissions)"
        ),
        "{error}"
    );
}

#[test]
fn other_names_and_nested_answers() {
    let cognito = case().with(|shape| {
        shape.token = "/AccessToken".to_owned();
        shape.token_type = "/TokenType".to_owned();
        shape.expires_in = "/ExpiresIn".to_owned();
    });
    assert_eq!(lives(&cognito, r#"{"AccessToken":"t","ExpiresIn":3600,"TokenType":"Bearer"}"#), Some(3600));
    let destination = case().with(|shape| {
        shape.token = "/authTokens/0/value".to_owned();
        shape.token_type = "/authTokens/0/type".to_owned();
        shape.expires_in = "/authTokens/0/expires_in".to_owned();
    });
    let body = r#"{"authTokens":[{"type":"Bearer","value":"t","expires_in":"43199","http_header":{"key":"Authorization","value":"Bearer t"}}]}"#;
    assert_eq!(lives(&destination, body), Some(43_199));
    let kubernetes = status(201).with(|shape| {
        shape.token = "/status/token".to_owned();
        shape.expires_at = "/status/expirationTimestamp".to_owned();
        shape.statuses = vec![201];
    });
    let body = r#"{"kind":"TokenRequest","spec":{"audiences":["a"]},"status":{"token":"t","expirationTimestamp":"2030-03-17T17:56:40Z"}}"#;
    assert_eq!(lives(&kubernetes, body), Some(600));
}

#[test]
fn facebook_answers_with_a_form_or_with_json() {
    let facebook = case().header("content-type", "text/plain; charset=UTF-8").with(|shape| {
        shape.format = ResponseFormat::Form;
        shape.expires_in = "/expires".to_owned();
    });
    assert_eq!(lives(&facebook, "access_token=t"), None);
    assert_eq!(lives(&facebook, "access_token=t&expires=5183"), Some(5183));
    assert_eq!(lives(&facebook, "access_token=t&expires=5183999"), Some(86_400));
    assert_eq!(facebook.grant("access_token=123%7Cabc").token, Secret::from("123|abc"));
    assert_eq!(lives(&facebook, r#"{"access_token":"t","token_type":"bearer"}"#), None);
    let refused = Case { status: 400, ..facebook }
        .error(r#"{"error":{"message":"Missing client_id parameter.","type":"OAuthException","code":101,"fbtrace_id":"A7x"}}"#);
    assert_eq!(refused.code.as_deref(), Some("OAuthException"));
    assert_eq!(refused.trace.as_deref(), Some("fbtrace_id=A7x"));
    assert!(refused.detail.contains("(101: Missing client_id parameter.)"), "{refused}");
}

#[test]
fn t105_a_token_of_no_type_is_taken_only_where_it_is_named() {
    let body = r#"{"access_token":"t","issued_token_type":"urn:ietf:params:oauth:token-type:saml2","token_type":"N_A","expires_in":60}"#;
    let error = case().error(body);
    assert_eq!(error.kind, FailureKind::Unusable);
    assert!(error.detail.contains("`N_A`") && error.detail.contains("response.token_types"), "{error}");
    let named = case().with(|shape| shape.token_types = vec!["n_a".to_owned()]);
    assert_eq!(named.grant(body).token_type, "n_a");
}

#[test]
fn the_accepted_type_is_told_in_lower_case() {
    assert_eq!(case().grant(r#"{"access_token":"t","token_type":"BEARER"}"#).token_type, "bearer");
    assert_eq!(case().grant(r#"{"access_token":"t"}"#).token_type, "bearer");
    let dpop = case().with(|shape| shape.token_types = vec!["dpop".to_owned()]);
    assert_eq!(dpop.grant(r#"{"access_token":"t","token_type":"DPoP"}"#).token_type, "dpop");
}
