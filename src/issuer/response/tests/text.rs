//! Bare tokens, and the lifetime that a token says itself.

use super::*;

/// A JWT with these claims.
fn jwt(claims: &Value) -> String {
    format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims.to_string()))
}

/// A JWT that expires so many seconds after [`now`].
fn expiring_in(seconds: i64) -> String {
    jwt(&json!({ "exp": 1_900_000_000 + seconds }))
}

fn text() -> Case {
    case().header("content-type", "text/html").with(|shape| {
        shape.format = ResponseFormat::Text;
        shape.token = String::new();
        shape.expires_at = ExpiresAt::OwnExp;
    })
}

fn lifetime(case: &Case, body: &str) -> (u64, Vec<ResponseWarning>) {
    let (grant, notes) = case.judge(body).unwrap();
    (grant.lifetime(Duration::from_secs(300)).as_secs(), notes)
}

#[test]
fn the_whole_body_is_the_token() {
    let token = expiring_in(3600);
    for body in [token.clone(), format!("\r\n{token}\n"), format!("\u{feff}{token}")] {
        let (grant, notes) = text().judge(&body).unwrap();
        assert_eq!(grant.token.expose(), token.as_bytes());
        assert_eq!((grant.token_type.as_str(), grant.scope), ("bearer", None));
        assert_eq!(notes, [], "nothing is missing beside a bare token");
    }
}

#[test]
fn what_is_no_bare_token_is_refused_and_not_shown() {
    for (body, said) in [
        ("", "an empty body"),
        (" \n", "an empty body"),
        ("two words-of-it", "a space, a control character"),
        ("<html>sign-in-page</html>", "it is a web page"),
        (r#""quoted-token-value""#, "no bare token; check response.format of [issuer.corp]"),
        (r#"["listed-token-value"]"#, "no bare token; check response.format of [issuer.corp]"),
        (
            r#"{"access_token":"member-token-value"}"#,
            "JSON instead of a bare token (the response has the members access_token)",
        ),
    ] {
        let error = text().header("content-type", "text/plain").judge(body).unwrap_err();
        assert_eq!(error.kind, FailureKind::Unusable, "{body}");
        assert!(error.detail.contains(said), "{body}: {}", error.detail);
        assert!(
            !error.detail.contains("token-value") && !error.detail.contains("words-of-it"),
            "{}",
            error.detail
        );
    }
    let huge = "x".repeat(TOKEN_LIMIT + 1);
    assert!(text().judge(huge).unwrap_err().detail.contains("a token of 16385 bytes"));
    assert!(text().judge(b"\xFF\xFE").unwrap_err().detail.contains("not UTF-8"));
}

#[test]
fn an_error_in_a_successful_response_is_an_error() {
    let error = text().judge(r#"{"error":"invalid_request","error_description":"no audience"}"#).unwrap_err();
    assert_eq!(error.kind, FailureKind::RequestRefused);
    assert!(error.detail.contains("invalid_request (no audience)"), "{}", error.detail);
}

#[test]
fn the_text_of_a_refusal_is_no_token_and_is_shown() {
    let refused = Case { status: 404, ..text() }.header("content-type", "text/plain");
    let error = refused.judge("The service account was not found.").unwrap_err();
    assert!(error.detail.contains("404 (The service account was not found.)"), "{}", error.detail);
}

#[test]
fn the_tokens_own_exp_counts_where_the_response_says_nothing() {
    assert_eq!(lifetime(&text(), &expiring_in(1800)), (1800, vec![]));
    let body =
        |more: &str| format!(r#"{{"access_token":"{}","token_type":"Bearer"{more}}}"#, expiring_in(1800));
    assert_eq!(lifetime(&case(), &body("")), (1800, vec![]));
    assert_eq!(lifetime(&case(), &body(r#","expires_in":60"#)), (60, vec![]));
    assert_eq!(lifetime(&case(), &body(r#","expires_on":1900000090"#)), (90, vec![]));
    let unreadable = body(r#","expires_in":"soon""#);
    assert_eq!(lifetime(&case(), &unreadable), (1800, vec![ResponseWarning::LifetimeUnreadable]));
}

#[test]
fn an_exp_that_the_config_chose_goes_before_what_the_response_says() {
    let own = case().with(|shape| shape.expires_at = ExpiresAt::OwnExp);
    let body = |token: &str| format!(r#"{{"access_token":"{token}","token_type":"Bearer","expires_in":60}}"#);
    assert_eq!(lifetime(&own, &body(&expiring_in(1800))), (1800, vec![]));
    assert_eq!(lifetime(&own, &body("opaque")), (60, vec![]));
}

#[test]
fn an_exp_has_the_bounds_of_expires_in() {
    for (exp, expected) in [
        (json!(1_900_000_000.0 - 60.0), 1),
        (json!(0), 1),
        (json!(-1), 1),
        (json!(1_900_000_060.9), 60),
        (json!("1900000060"), 60),
        (json!(1_900_000_060_000_u64), 60),
        (json!(1_900_000_000 + 90_000), 86_400),
        (json!(1e300), 86_400),
    ] {
        assert_eq!(lifetime(&text(), &jwt(&json!({ "exp": exp }))), (expected, vec![]), "{exp}");
    }
}

#[test]
fn a_number_beyond_a_float_hides_no_other_claim() {
    let claims = r#"{"x":1e999,"exp":1900001800,"aud":"api","cnf":{"jkt":"k"}}"#;
    let token = format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims));
    let (grant, _) = text().judge(&token).unwrap();
    assert_eq!(grant.expires_in, Some(Duration::from_secs(1800)));
    assert_eq!(grant.audience, Audience::Named("api".to_owned()));
    assert!(grant.is_bound());
}

#[test]
fn without_a_readable_exp_default_lifetime_applies() {
    let no_exp = [jwt(&json!({})), jwt(&json!({ "exp": "tomorrow" })), jwt(&json!({ "exp": [1] }))];
    for token in ["opaque", "a.b.c", "e30.W10.x", "a.b.c.d.e"].into_iter().map(str::to_owned).chain(no_exp) {
        assert_eq!(lifetime(&text(), &token), (300, vec![ResponseWarning::LifetimeMissing]), "{token}");
    }
}

#[test]
fn an_exp_by_another_clock_is_converted() {
    let hour_ahead = httpdate::fmt_http_date(now() + Duration::from_secs(3600));
    let mut ahead = text();
    ahead.headers.push(("date", hour_ahead.leak()));
    assert_eq!(lifetime(&ahead, &expiring_in(3600 + 600)).0, 600);
}

#[test]
fn a_response_without_a_required_header_field_is_another_servers() {
    let google = text().with(|shape| {
        shape.require_headers = vec![(HeaderName::from_static("metadata-flavor"), "Google".to_owned())];
    });
    let token = expiring_in(3600);
    for wrong in [
        google.judge(&token),
        text()
            .header("metadata-flavor", "Acme")
            .with(|shape| {
                shape.require_headers =
                    vec![(HeaderName::from_static("metadata-flavor"), "Google".to_owned())];
            })
            .judge(&token),
    ] {
        let error = wrong.unwrap_err();
        assert_eq!(error.kind, FailureKind::Unusable);
        let said =
            "responded 200 with no header field metadata-flavor: Google, so it is not the expected server";
        assert!(error.detail.contains(said), "{}", error.detail);
        assert!(!error.detail.contains(&token));
    }
    google.header("metadata-flavor", "Google").judge(&token).unwrap();
}
