//! Answers that say no, and the words for them.

use super::*;

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
fn t24_only_the_statuses_of_the_config_carry_a_token() {
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
        assert!(error.detail.contains("evil.example, and redirects are not followed"), "{error}");
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
        "issuer corp: idp.example/token answered 401 invalid_client (Bad credentials); check client_id and \
         client_secret of [issuer.corp], and whether the server wants basic_encoding = \"raw\" or \
         client_auth = \"client_secret_post\""
    );
    assert_eq!(
        status(404).error("").detail,
        "issuer corp: idp.example/token answered 404; check token_url of [issuer.corp]"
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
    assert!(entra.detail.contains("answered 429 (Too Many Requests); it limits"), "{entra}");
    let padded = format!("{} s3:c+r t and a=b", "word ".repeat(29));
    let error = status(400).header("content-type", "text/plain").error(padded);
    assert!(!error.detail.contains("s3:c"), "{error}");
}
