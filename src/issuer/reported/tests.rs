use http::HeaderValue;
use http::header::CONTENT_TYPE;

use super::*;
use crate::issuer::fuzz;

fn shape() -> ResponseShape {
    fuzz::config().response
}

fn read_as(status: u16, kind: &'static str, body: &str, shape: &ResponseShape) -> ReportedError {
    let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(kind))]);
    let description = beside(&shape.error, "error_description");
    let exact = Document::json(body.as_bytes(), &[&shape.error, &description]).ok();
    ReportedError::read(
        StatusCode::from_u16(status).unwrap(),
        &headers,
        body.as_bytes(),
        exact.as_ref(),
        shape,
    )
}

fn read(status: u16, body: &str) -> ReportedError {
    read_as(status, "application/json", body, &shape())
}

/// Code and description.
fn said(status: u16, body: &str) -> (String, String) {
    let reported = read(status, body);
    (reported.code.unwrap_or_default(), reported.description.unwrap_or_default())
}

#[test]
fn standard_members_go_first() {
    for (body, code, description) in [
        (r#"{"error":"invalid_client","error_description":"no"}"#, "invalid_client", "no"),
        (r#"{"error":"invalid_client"}"#, "invalid_client", ""),
        (r#"{"error":"a","errorCode":"b","error_description":"c","message":"d"}"#, "a", "c"),
        (r#"{"status":401,"error":"Unauthorized","message":"Bad","path":"/x"}"#, "Unauthorized", "Bad"),
        (r#"{"error":"Bad credentials"}"#, "Bad credentials", ""),
        (r#"{"error":7}"#, "7", ""),
    ] {
        assert_eq!(said(401, body), (code.to_owned(), description.to_owned()), "{body}");
    }
}

#[test]
fn every_vendors_shape_gives_a_code_and_a_sentence() {
    for (vendor, status, body, code, description) in [
        (
            "ups",
            401,
            r#"{"response":{"errors":[{"code":"10401","message":"ClientId is Invalid"}]}}"#,
            "10401",
            "ClientId is Invalid",
        ),
        (
            "facebook",
            400,
            r#"{"error":{"message":"Error validating client secret.","type":"OAuthException","code":1,"fbtrace_id":"AbC"}}"#,
            "OAuthException",
            "1: Error validating client secret.",
        ),
        (
            "google",
            403,
            r#"{"error":{"code":403,"message":"Not enabled","status":"PERMISSION_DENIED","details":[{"reason":"X"}]}}"#,
            "PERMISSION_DENIED",
            "Not enabled",
        ),
        (
            "apigee fault",
            401,
            r#"{"fault":{"faultstring":"Invalid client identifier {0}","detail":{"errorcode":"oauth.v2.InvalidClientIdentifier"}}}"#,
            "oauth.v2.InvalidClientIdentifier",
            "Invalid client identifier {0}",
        ),
        (
            "apigee policy",
            401,
            r#"{"ErrorCode":"invalid_client","Error":"ClientId is Invalid"}"#,
            "invalid_client",
            "ClientId is Invalid",
        ),
        (
            "okta",
            401,
            r#"{"errorCode":"invalid_client","errorSummary":"Invalid value for 'client_id' parameter.","errorLink":"invalid_client","errorId":"oaeX","errorCauses":[]}"#,
            "invalid_client",
            "Invalid value for 'client_id' parameter.",
        ),
        (
            "okta causes",
            400,
            r#"{"errorCode":"E0000001","errorSummary":"Api validation failed","errorCauses":[{"errorSummary":"scope: bad"}]}"#,
            "E0000001",
            "Api validation failed: scope: bad",
        ),
        (
            "github",
            401,
            r#"{"message":"A JSON web token could not be decoded","documentation_url":"https://docs.github.com/rest","status":"401"}"#,
            "",
            "A JSON web token could not be decoded",
        ),
        ("aws gateway", 403, r#"{"message":"Forbidden"}"#, "", "Forbidden"),
        (
            "aws",
            400,
            r#"{"__type":"NotAuthorizedException","message":"Client is disabled"}"#,
            "NotAuthorizedException",
            "Client is disabled",
        ),
        (
            "servicenow",
            401,
            r#"{"error":{"message":"User Not Authenticated","detail":"Required to provide Auth information"},"status":"failure"}"#,
            "",
            "User Not Authenticated: Required to provide Auth information",
        ),
        (
            "kubernetes",
            401,
            r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"no such audience","reason":"Unauthorized","code":401}"#,
            "Unauthorized",
            "no such audience",
        ),
        ("a list", 400, r#"{"errors":[{"code":12,"message":"m"}]}"#, "12", "m"),
        ("a list of texts", 400, r#"{"errors":["one","two"]}"#, "", "one: two"),
        (
            "salesforce",
            400,
            r#"[{"message":"bad","errorCode":"INVALID_SESSION_ID"}]"#,
            "INVALID_SESSION_ID",
            "bad",
        ),
        ("code and message", 400, r#"{"code":"X1","message":"m"}"#, "X1", "m"),
        (
            "rfc 9457",
            400,
            r#"{"type":"https://e.example/x","title":"Bad scope","status":400,"detail":"no such scope"}"#,
            "",
            "Bad scope: no such scope",
        ),
        (
            "fastapi",
            422,
            r#"{"detail":[{"loc":["body","scope"],"msg":"field required","type":"value_error.missing"}]}"#,
            "value_error.missing",
            "field required",
        ),
        ("a nested code", 400, r#"{"error":{"code":"invalid_client"}}"#, "invalid_client", ""),
    ] {
        assert_eq!(said(status, body), (code.to_owned(), description.to_owned()), "{vendor}");
    }
}

#[test]
fn the_pointer_of_the_config_goes_before_all_else() {
    let shape = ResponseShape { error: "/meta/Fault_Info".to_owned(), ..shape() };
    let body = r#"{"error":"other","meta":{"Fault_Info":{"code":"mine","message":"m"}}}"#;
    let reported = read_as(400, "application/json", body, &shape);
    assert_eq!((reported.code.as_deref(), reported.description.as_deref()), (Some("mine"), Some("m")));
    let body = r#"{"error":"other","meta":{"Fault_Info":"mine"}}"#;
    assert_eq!(read_as(400, "application/json", body, &shape).code.as_deref(), Some("mine"));
}

#[test]
fn unknown_json_is_described_by_its_names_alone() {
    let long = "n".repeat(60);
    let body = format!(r#"{{"ok":false,"why":"value-canary","{long}":1,"a b":2}}"#);
    let (code, description) = said(400, &body);
    assert_eq!((code.as_str(), description.as_str()), ("", "JSON with the members ok, why"));
    for body in ["{}", "[]", "[\"canary\"]", "\"canary\"", "7", "{"] {
        assert_eq!(said(400, body), Default::default(), "{body}");
    }
}

#[test]
fn a_good_status_is_a_failure_only_where_a_member_says_so() {
    let shape = shape();
    let of = |body: &str| {
        let exact = Document::json(body.as_bytes(), &[&shape.error]).ok();
        ReportedError::of_document(StatusCode::OK, body.as_bytes(), exact.as_ref(), &shape)
    };
    for body in [
        r#"{"token":"t","type":"Bearer","status":"approved","code":"c","message":"m"}"#,
        r#"{"token":"t","errors":[],"error":null,"fault":{},"errorMessage":""}"#,
    ] {
        assert!(!of(body).has_details(), "{body}");
    }
    for body in [
        r#"{"Error":"no such client"}"#,
        r#"{"response":{"errors":[{"message":"no"}]}}"#,
        r#"{"error":{"message":"no"}}"#,
        r#"{"errorCode":5}"#,
    ] {
        assert!(of(body).has_details(), "{body}");
    }
}

#[test]
fn a_plain_text_is_kept_and_no_other() {
    let kept = |status, kind, body: &str| read_as(status, kind, body, &shape()).text;
    assert_eq!(kept(429, "text/plain; charset=utf-8", " Too Many ").as_deref(), Some("Too Many"));
    for (kind, body) in [
        ("text/html", "no"),
        ("application/json", "no"),
        ("text/plain", "{\"access_token\":\"a"),
        ("text/plain", ""),
        ("text/plain", "<html>"),
    ] {
        assert_eq!(kept(429, kind, body), None, "{kind} {body}");
    }
    assert_eq!(kept(202, "text/plain", "a-token"), None, "it may be a token");
}

#[test]
fn an_excerpt_is_short_and_without_values() {
    assert_eq!(excerpt("Too Many\r\nRequests"), "Too Many Requests");
    assert_eq!(excerpt(&format!("token {} access_token=abc end", "x".repeat(40))), "token … … end");
    let long = excerpt(&"word ".repeat(100));
    assert!(long.len() <= EXCERPT_LIMIT && long.ends_with('…'), "{long}");
}

#[test]
fn a_web_page_gives_its_title_where_that_is_harmless() {
    let title = |page: &str| {
        let reported = read_as(403, "text/html", page, &shape());
        assert!(reported.html);
        reported.description
    };
    assert_eq!(
        title("<html><head><TITLE class=x>\n Request\n Rejected </Title>").as_deref(),
        Some("a page with the title \"Request Rejected\"")
    );
    let long = format!("<title>{}</title>", "x ".repeat(60));
    for page in [
        "<html>",
        "<title>",
        "<title>a",
        "<title></title>",
        "<title>a=b</title>",
        "<title>&lt;</title>",
        "<title>abcdefghijklmnopqrstuvwxyz0123456789</title>",
        &long,
    ] {
        assert_eq!(title(page), None, "{page}");
    }
    assert_eq!(read_as(200, "text/html", "<title>Sign in</title>", &shape()).description, None);
}

#[test]
fn traces_are_found_wherever_a_report_stands() {
    let pairs = |body: &str| -> Vec<String> {
        read(400, body).traces.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
    };
    assert_eq!(
        pairs(r#"{"error":"x","trace_id":"1","correlationId":"2","RequestId":3,"errorId":null}"#),
        ["trace_id=1", "correlation_id=2", "request_id=3"]
    );
    assert!(pairs(r#"{"error":{"message":"m","fbtrace_id":"A"}}"#).contains(&"fbtrace_id=A".to_owned()));
}

#[test]
fn depth_and_length_are_bounded() {
    let deep = format!("{}{{\"message\":\"m\"}}{}", "{\"error\":".repeat(50), "}".repeat(50));
    assert_eq!(said(400, &deep).1, "JSON with the members error");
    let many: Vec<_> = (0..50).map(|n| format!("{{\"message\":\"sentence {n}\"}}")).collect();
    let (_, text) = said(400, &format!("{{\"errors\":[{}]}}", many.join(",")));
    assert_eq!(text, "sentence 0: sentence 1: sentence 2");
}
