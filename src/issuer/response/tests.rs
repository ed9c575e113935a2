use std::time::{Duration, UNIX_EPOCH};

use http::{HeaderName, HeaderValue};
use proptest::prelude::*;
use serde_json::json;
use zeroize::Zeroizing;

use super::*;
use crate::config::IssuerConfig;
use crate::issuer::fuzz;
use crate::secret::Secret;

fn seconds(value: &Value) -> Option<u64> {
    parse_expires_in(value).map(|lifetime| lifetime.as_secs())
}

#[test]
fn a_lifetime_is_what_the_issuer_says_or_the_default() {
    let secs = Duration::from_secs;
    let grant = |expires_in| Grant {
        token: Secret::from("t"),
        token_type: "bearer".to_owned(),
        prover: None,
        asked: asked(),
        took: Duration::ZERO,
        expires_in,
        scope: None,
        audience: Audience::Unknown,
    };
    for (expires_in, expected) in
        [(None, 300), (Some(secs(3600)), 3600), (Some(Duration::ZERO), 1), (Some(Duration::MAX), 86_400)]
    {
        assert_eq!(grant(expires_in).lifetime(secs(300)), secs(expected), "{expected}");
    }
    let day = grant(None).lifetime(secs(1_000_000_000));
    assert_eq!(day, secs(86_400), "a default has the same bounds");
}

#[test]
fn t06_zero_and_negative_count_as_one_second() {
    for value in [json!(0), json!(-1), json!("-3600"), json!("0"), json!(0.5), json!(-1e30)] {
        assert_eq!(parse_expires_in(&value), Some(Duration::from_secs(1)), "{value}");
    }
}

#[test]
fn t07_expires_in_string() {
    assert_eq!(seconds(&json!("3600")), Some(3600));
    assert_eq!(seconds(&json!(" 3599.9 ")), Some(3599));
}

#[test]
fn t08_expires_in_float_is_rounded_down() {
    assert_eq!(parse_expires_in(&json!(3599.9)), Some(Duration::from_secs(3599)));
    assert_eq!(seconds(&json!(3.6e3)), Some(3600));
    assert_eq!(seconds(&json!("3.6e3")), Some(3600));
}

#[test]
fn t09_huge_lifetimes_are_a_day() {
    let day = Some(24 * 60 * 60);
    for value in [json!(1e30), json!(9_223_372_036_854_775_808_u64), json!(99_999_999_999_u64), json!("1e30")]
    {
        assert_eq!(seconds(&value), day, "{value}");
    }
    assert_eq!(seconds(&json!(86_400)), day);
    assert_eq!(seconds(&json!(86_399)), Some(86_399));
}

#[test]
fn t10_unreadable_lifetimes_are_none() {
    for value in [json!("soon"), json!([]), json!(true), json!({}), json!(""), json!("inf"), json!("nan")] {
        assert_eq!(parse_expires_in(&value), None, "{value}");
    }
}

#[test]
fn epochs_in_seconds_milliseconds_and_strings() {
    let at = UNIX_EPOCH + Duration::from_secs(1_900_000_000);
    for value in [
        json!(1_900_000_000),
        json!(1_900_000_000.0),
        json!("1900000000"),
        json!(1_900_000_000_000_u64),
        json!("1900000000000"),
        json!("2030-03-17T17:46:40Z"),
        json!("2030-03-17T19:46:40+02:00"),
        json!("2030-03-17T12:16:40-05:30"),
        json!("2030-03-17 17:46:40 +00:00"),
        json!("2030-03-17 12:16:40 -0530"),
        json!("3/17/2030 5:46:40\u{202f}PM +00:00"),
        json!("3/17/2030 5:46:40\u{a0}PM +00:00"),
    ] {
        assert_eq!(parse_expires_at(&value), Some(at), "{value}");
    }
}

#[test]
fn no_point_in_time() {
    for value in [json!(0), json!(-5), json!(1e300), json!("tomorrow"), json!([]), json!("+1:é"), json!("")]
    {
        assert_eq!(parse_expires_at(&value), None, "{value}");
    }
}

#[test]
fn t32_retry_after_in_both_forms() {
    let now = httpdate::parse_http_date("Tue, 01 Jan 2030 00:00:00 GMT").unwrap();
    let wait = |value| parse_retry_after(value, now).map(|wait| wait.as_secs());
    assert_eq!(wait("30"), Some(30));
    assert_eq!(wait("0"), Some(1));
    assert_eq!(wait("1000000000"), Some(300));
    assert_eq!(wait("99999999999999999999999"), Some(300));
    assert_eq!(wait("Tue, 01 Jan 2030 00:01:30 GMT"), Some(90));
    assert_eq!(wait("Tue, 01 Jan 2030 09:00:00 GMT"), Some(300));
    assert_eq!(wait("Mon, 31 Dec 2029 00:00:00 GMT"), Some(1));
    for garbage in ["-5", "soon", "", "1.5", "\u{e9}"] {
        assert_eq!(wait(garbage), None, "{garbage}");
    }
}

fn jwt(claims: &str) -> Audience {
    let mut redactor = Redactor::default();
    redactor.add(&Secret::from("s3cr3t-of-the-client"));
    audience(&format!("e30.{}.x", URL_SAFE_NO_PAD.encode(claims)), &redactor)
}

fn audience(token: &str, redactor: &Redactor) -> Audience {
    claims_of(token).map_or(Audience::Unknown, |claims| audience_of(token, &claims, redactor))
}

#[test]
fn the_audience_of_a_jwt() {
    let named = |names: &str| Audience::Named(names.to_owned());
    assert_eq!(jwt(r#"{"aud":"https://api"}"#), named("https://api"));
    assert_eq!(jwt(r#"{"aud":["a","b",7]}"#), named("a, b"));
    assert_eq!(jwt(r#"{"aud":"a\u001b[2J\n"}"#), named("a[2J"));
    assert_eq!(jwt(r#"{"aud":"s3écér3ét-éof-éthée-cliéent"}"#), Audience::Unknown);
    assert_eq!(jwt(r#"{"aud":"for s3cr3t-of-the-client"}"#), Audience::Unknown);
    for nobody in [r#"{"sub":"x"}"#, r#"{"aud":""}"#, r#"{"aud":[]}"#, r#"{"aud":7}"#] {
        assert_eq!(jwt(nobody), Audience::None, "{nobody}");
    }
    assert_eq!(jwt(&format!(r#"{{"aud":"{}"}}"#, "x".repeat(500))), named(&"x".repeat(128)));
}

#[test]
fn everything_else_is_unknown() {
    for token in ["", "opaque", "a.b", "a.b.c", "a.b.c.d.e", "e30.W10.x"] {
        assert_eq!(audience(token, &Redactor::default()), Audience::Unknown, "{token}");
    }
    let claims = URL_SAFE_NO_PAD.encode(r#"{"aud":"header-of-it"}"#);
    let token = format!("header-of-it.{claims}.x");
    assert_eq!(audience(&token, &Redactor::default()), Audience::Unknown);
}

fn with(name: &'static str, value: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_static(value))])
}

#[test]
fn clocks_are_compared_with_room_for_a_slow_response() {
    let asked = httpdate::parse_http_date("Tue, 01 Jan 2030 00:10:00 GMT").unwrap();
    let timeout = Some(Duration::from_secs(10));
    let seen = |date, timeout| skew(&with("date", date), asked, timeout).map(|skew| skew.describe());
    assert_eq!(seen("Tue, 01 Jan 2030 00:15:00 GMT", timeout).as_deref(), Some("5m behind"));
    assert_eq!(seen("Tue, 01 Jan 2030 00:08:58 GMT", timeout).as_deref(), Some("1m 2s ahead of"));
    for near in ["Tue, 01 Jan 2030 00:11:10 GMT", "Tue, 01 Jan 2030 00:09:00 GMT", "yesterday"] {
        assert_eq!(seen(near, timeout), None, "{near}");
    }
    assert_eq!(seen("Tue, 01 Jan 2030 09:00:00 GMT", None), None, "it may have taken that long");
    assert_eq!(skew(&HeaderMap::new(), asked, timeout), None);
}

#[test]
fn a_time_of_the_issuers_clock_is_converted_to_ours() {
    let asked = SystemTime::UNIX_EPOCH + Duration::from_secs(1_900_000_000);
    let hour = Duration::from_secs(3600);
    let skew = ClockSkew { ours: asked, theirs: asked - hour };
    assert_eq!(skew.by_our_clock(asked), Some(asked + hour));
    assert_eq!(skew.by_our_clock(asked - hour * 2), Some(asked - hour));
}

#[test]
fn traces_of_vendors_and_gateways() {
    let mut headers = with("cf-ray", "7a1-LHR");
    headers.extend(with("x-okta-request-id", "Yx"));
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(traces(&headers), [pair("x-okta-request-id", "Yx"), pair("cf-ray", "7a1-LHR")]);
}

mod refusals;
mod text;

/// The time of day in these tests.
fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_900_000_000)
}

fn asked() -> Moment {
    Moment { boot: Duration::ZERO, wall: now() }
}

struct Case {
    config: IssuerConfig,
    status: u16,
    headers: Vec<(&'static str, &'static str)>,
    scopes: &'static [&'static str],
}

fn case() -> Case {
    Case {
        config: fuzz::config(),
        status: 200,
        headers: vec![("content-type", "application/json")],
        scopes: &[],
    }
}

fn status(status: u16) -> Case {
    Case { status, ..case() }
}

impl Case {
    fn with(mut self, change: impl FnOnce(&mut ResponseShape)) -> Self {
        change(&mut self.config.response);
        self
    }

    fn header(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.retain(|(other, _)| *other != name);
        self.headers.push((name, value));
        self
    }

    fn judge(&self, body: impl AsRef<[u8]>) -> Result<(Grant, Vec<ResponseWarning>), IssuerError> {
        self.judge_read(Ok(Zeroizing::new(body.as_ref().to_vec())))
    }

    fn judge_read(
        &self,
        body: Result<Zeroizing<Vec<u8>>, BodyError>,
    ) -> Result<(Grant, Vec<ResponseWarning>), IssuerError> {
        let mut redactor = Redactor::default();
        redactor.add(&Secret::from("s3:c+r t"));
        let context = ErrorContext {
            endpoint: "idp.example/token".to_owned(),
            ..ErrorContext::new(&self.config, &fuzz::url(), &redactor)
        };
        let headers = self
            .headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        let scopes = self.scopes.iter().map(|&scope| scope.to_owned()).collect();
        let response = IssuerResponse { status: StatusCode::from_u16(self.status).unwrap(), headers, body };
        judge(response, &context, &SentRequest { at: asked(), scopes: &scopes })
    }

    fn grant(&self, body: &str) -> Grant {
        self.judge(body).unwrap_or_else(|error| panic!("{body}: {error}")).0
    }

    fn notes(&self, body: &str) -> Vec<ResponseWarning> {
        self.judge(body).unwrap().1
    }

    fn error(&self, body: impl AsRef<[u8]>) -> IssuerError {
        let body = body.as_ref();
        match self.judge(body) {
            Ok(_) => panic!("granted: {}", String::from_utf8_lossy(body)),
            Err(error) => error,
        }
    }
}

const GOOD: &str = r#"{"access_token":"abc.DEF-1_2~3+/=","token_type":"Bearer","expires_in":3600}"#;

#[test]
fn t01_a_plain_response() {
    let (grant, notes) = case().judge(GOOD).unwrap();
    assert_eq!(grant.token, Secret::from("abc.DEF-1_2~3+/="));
    assert_eq!(grant.expires_in, Some(Duration::from_secs(3600)));
    assert_eq!(grant.scope, None);
    assert_eq!(notes, []);
}

#[test]
fn t02_token_types_in_any_case() {
    for kind in ["bearer", "BEARER", "bEaReR"] {
        case().grant(&format!(r#"{{"access_token":"t","token_type":"{kind}"}}"#));
    }
}

#[test]
fn t03_a_missing_type_counts_as_bearer() {
    for body in [r#"{"access_token":"t"}"#, r#"{"access_token":"t","token_type":null}"#] {
        assert!(case().notes(body).contains(&ResponseWarning::TypeMissing));
    }
}

#[test]
fn t04_other_types_are_refused() {
    for kind in [r#""mac""#, r#""DPoP""#, r#""N_A""#, r#""""#, "1", "[]"] {
        let error = case().error(format!(r#"{{"access_token":"t","token_type":{kind}}}"#));
        assert_eq!(error.kind, FailureKind::Unusable, "{kind}");
    }
    let named = case().with(|shape| shape.token_types = vec!["n_a".to_owned()]);
    named.grant(r#"{"access_token":"t","token_type":"N_A"}"#);
    assert_eq!(
        named.error(r#"{"access_token":"t"}"#).kind,
        FailureKind::Unusable,
        "missing counts as Bearer"
    );
}

#[test]
fn t05_t10_a_lifetime_that_is_missing_or_unreadable_is_left_to_the_default() {
    let lifetime = |value: &str| format!(r#"{{"access_token":"t","token_type":"Bearer"{value}}}"#);
    for (value, note) in [
        ("", ResponseWarning::LifetimeMissing),
        (r#","expires_in":null"#, ResponseWarning::LifetimeMissing),
        (r#","expires_in":"soon""#, ResponseWarning::LifetimeUnreadable),
        (r#","expires_in":[]"#, ResponseWarning::LifetimeUnreadable),
        (r#","expires_in":true"#, ResponseWarning::LifetimeUnreadable),
    ] {
        let (grant, notes) = case().judge(lifetime(value)).unwrap();
        assert_eq!((grant.expires_in, notes), (None, vec![note]), "{value}");
    }
}

#[test]
fn t06_t07_t08_t09_t11_lifetimes_in_a_response() {
    for (value, seconds) in [
        ("0", 1),
        ("-1", 1),
        (r#""3600""#, 3600),
        ("3599.9", 3599),
        ("3.6e3", 3600),
        ("1e30", 86_400),
        ("9223372036854775808", 86_400),
        ("123456789012345678901234567890", 86_400),
        ("5", 5),
    ] {
        let grant = case().grant(&format!(r#"{{"access_token":"t","expires_in":{value}}}"#));
        assert_eq!(grant.expires_in, Some(Duration::from_secs(seconds)), "{value}");
    }
}

#[test]
fn an_expiry_alone_gives_the_lifetime() {
    let (grant, notes) =
        case().judge(r#"{"access_token":"t","token_type":"Bearer","expires_on":"1900000600"}"#).unwrap();
    assert_eq!(grant.expires_in, Some(Duration::from_secs(600)));
    assert_eq!(notes, []);
    let both = case().grant(r#"{"access_token":"t","expires_in":60,"expires_on":1900000600000}"#);
    assert_eq!(both.expires_in, Some(Duration::from_secs(60)), "how long goes before until when");
    let odd = r#"{"access_token":"t","token_type":"Bearer","expires_in":60,"expires_on":"soon"}"#;
    let (grant, notes) = case().judge(odd).unwrap();
    assert_eq!((grant.expires_in, notes), (Some(Duration::from_secs(60)), vec![]), "nobody needs the other");
    let past = case().grant(r#"{"access_token":"t","expires_on":1800000000}"#);
    assert_eq!(past.expires_in, Some(Duration::from_secs(1)));
}

#[test]
fn t12_a_web_page_is_named_and_not_quoted() {
    let page = "<!DOCTYPE html><title>Sign in canary</title>";
    for case in [case(), case().header("content-type", "text/html; charset=utf-8")] {
        let error = case.error(page);
        assert_eq!((error.kind, error.http_status), (FailureKind::Unusable, Some(200)));
        assert!(error.detail.contains("web page") && error.detail.contains("token_url"), "{error}");
        assert!(!error.detail.contains("canary"), "{error}");
    }
    assert!(status(403).header("content-type", "text/html").error("x").detail.contains("web page"));
    assert_eq!(case().error("access denied").kind, FailureKind::Unusable);
}

#[test]
fn t13_an_empty_body() {
    for body in ["", " \r\n", "\u{feff}"] {
        let error = case().error(body);
        assert_eq!(error.kind, FailureKind::Unusable);
        assert!(error.detail.contains("an empty body"), "{error}");
    }
}

#[test]
fn t14_a_body_that_breaks_off() {
    assert!(case().error(r#"{"access_token":"abc"#).detail.contains("incomplete JSON"));
    let error = case().judge_read(Err(BodyError::CutOff)).err().unwrap();
    assert_eq!((error.kind, error.http_status), (FailureKind::Unavailable, Some(200)));
}

#[test]
fn t15_a_form_is_read_only_where_the_config_says_so() {
    let body = "access_token=a%2Bb&token_type=bearer&expires_in=60&scope=x+y";
    let error = case().error(body);
    assert_eq!(error.kind, FailureKind::Unusable);
    assert!(error.detail.contains(r#"response.format = "form""#), "{error}");
    let form = case().with(|shape| shape.format = ResponseFormat::Form);
    let grant = form.grant(body);
    assert_eq!(grant.token, Secret::from("a+b"));
    assert_eq!((grant.expires_in, grant.scope), (Some(Duration::from_secs(60)), Some("x y".to_owned())));
    assert_eq!(form.error("access_token=a&access_token=b").kind, FailureKind::Unusable);
    assert_eq!(form.grant(GOOD).token, Secret::from("abc.DEF-1_2~3+/="), "newer versions respond with JSON");
    assert_eq!(form.error(r#"{"access_token":"#).kind, FailureKind::Unusable);
    let error =
        case().header("content-type", "application/x-www-form-urlencoded").error("expires=1&access_token=t");
    assert!(error.detail.contains(r#"response.format = "form""#), "{error}");
    let refused = Case { status: 400, ..form };
    assert_eq!(refused.error(r#"{"error":"invalid_client"}"#).code.as_deref(), Some("invalid_client"));
    assert_eq!(refused.error("error=invalid_client").code.as_deref(), Some("invalid_client"));
}

#[test]
fn t16_another_content_type_is_noted() {
    for (name, value) in [("content-type", "text/plain"), ("x-other", "y")] {
        let case = Case { headers: vec![(name, value)], ..case() };
        assert_eq!(case.notes(GOOD), [ResponseWarning::NotCalledJson]);
    }
    assert_eq!(case().header("content-type", "application/token+json").notes(GOOD), []);
}

#[test]
fn t17_duplicates_depth_and_encodings() {
    for member in ["access_token", "token_type", "expires_in", "expires_on", "error", "scope"] {
        let body = format!(r#"{{"access_token":"t","{member}":null,"{member}":null}}"#);
        let error = case().error(body);
        assert!(error.detail.contains("twice"), "{member}: {error}");
    }
    case().grant(r#"{"access_token":"t","x":1,"x":2}"#);
    let deep = format!(r#"{{"access_token":"t","x":{}{}}}"#, "[".repeat(10_000), "]".repeat(10_000));
    assert_eq!(case().error(deep).kind, FailureKind::Unusable);
    let utf16: Vec<u8> = GOOD.encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert_eq!(case().error(utf16).kind, FailureKind::Unusable);
    assert_eq!(case().error(b"{\"access_token\":\"\xff\"}").kind, FailureKind::Unusable);
    case().grant(&format!("\u{feff}{GOOD}"));
}

#[test]
fn t18_unknown_members_are_ignored() {
    case().grant(r#"{"x":{"access_token":1},"access_token":"t","id_token":"z","y":[1e3,null]}"#);
}

#[test]
fn t19_an_error_in_a_200_is_an_error() {
    let error = case()
        .error(r#"{"access_token":"tok-canary","error":"invalid_client","error_description":"tok-canary"}"#);
    assert_eq!((error.kind, error.http_status), (FailureKind::ClientRefused, Some(200)));
    assert!(!error.detail.contains("tok-canary"), "{error}");
    assert_eq!(case().error(r#"{"access_token":"t","error":{"x":1}}"#).kind, FailureKind::Unusable);
    for none in ["null", r#""""#, "false"] {
        case().grant(&format!(r#"{{"access_token":"t","error":{none}}}"#));
    }
}

#[test]
fn t20_missing_empty_and_mistyped_tokens_are_refused() {
    for token in [
        r#","access_token":"""#,
        "",
        r#","access_token":7"#,
        r#","access_token":null"#,
        r#","access_token":["t"]"#,
    ] {
        let error = case().error(format!(r#"{{"token_type":"Bearer"{token}}}"#));
        assert_eq!(error.kind, FailureKind::Unusable, "{token}");
        assert!(error.detail.contains("response.token"), "{error}");
    }
    assert_eq!(case().error("[]").kind, FailureKind::Unusable);
    assert_eq!(case().error("\"t\"").kind, FailureKind::Unusable);
}

#[test]
fn t21_a_token_with_characters_that_a_header_field_must_not_contain() {
    for bad in [r"a\rb", r"a\nb", r"a\u0000b", "a b", r"a\u007fb", "aéb", r"a\tb", " a", r"a\n"] {
        let error = case().error(format!(r#"{{"access_token":"{bad}"}}"#));
        assert_eq!(error.kind, FailureKind::Unusable, "{bad}");
    }
    assert_eq!(case().grant(r#"{"access_token":"!\"\u007e"}"#).token, Secret::from("!\"~"));
}

#[test]
fn t22_a_token_up_to_16_kib() {
    let token = |length: usize| format!(r#"{{"access_token":"{}"}}"#, "x".repeat(length));
    case().grant(&token(1));
    case().grant(&token(16 * 1024));
    assert_eq!(case().error(token(16 * 1024 + 1)).kind, FailureKind::Unusable);
    let error = case().judge_read(Err(BodyError::TooLarge(65_536))).err().unwrap();
    assert_eq!(error.kind, FailureKind::Unusable);
    assert!(error.detail.contains("65536"), "{error}");
}

#[test]
fn t27_a_refresh_token_is_dropped() {
    let grant = case().grant(r#"{"access_token":"t","refresh_token":"refresh-canary"}"#);
    assert!(!format!("{grant:?}").contains("canary"));
}

#[test]
fn t28_narrower_scopes_are_accepted_and_noted() {
    let asked = Case { scopes: &["read", "write"], ..case() };
    let body = |scope: &str| GOOD.replace('}', &format!(r#","scope":{scope}}}"#));
    assert_eq!(asked.notes(&body(r#""read""#)), [ResponseWarning::Narrower(vec!["write".to_owned()])]);
    assert_eq!(asked.notes(&body(r#""write  extra read""#)), []);
    assert_eq!(asked.notes(&body(r#"["write","read"]"#)), []);
    assert_eq!(asked.notes(GOOD), [], "without `scope` all was granted");
    assert_eq!(asked.grant(&body(r#""read""#)).scope.as_deref(), Some("read"));
    assert_eq!(asked.grant(r#"{"access_token":"canary","scope":"x canary"}"#).scope, None);
}

#[test]
fn t29_cookies_are_ignored() {
    case().header("set-cookie", "a=b").grant(GOOD);
}

#[test]
fn pointers_lead_into_nested_responses() {
    let nested = case().with(|shape| {
        shape.token = "/data/0/jwt".to_owned();
        shape.expires_in = "/data/0/ttl".to_owned();
        shape.error = "/status/error".to_owned();
    });
    let grant = nested.grant(r#"{"data":[{"jwt":"t","ttl":9,"scope":"x"}],"error":"not this one"}"#);
    assert_eq!((grant.expires_in, grant.scope), (Some(Duration::from_secs(9)), Some("x".to_owned())));
    let error = nested.error(r#"{"status":{"error":"invalid_scope","error_description":"why"}}"#);
    assert!(error.kind == FailureKind::RequestRefused && error.detail.contains("(why)"), "{error}");
    assert!(nested.error(r#"{"data":[{"jwt":"a","jwt":"b"}]}"#).detail.contains("twice"));
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        crate::issuer::fuzz_response(&bytes);
    }

    #[test]
    fn a_granted_token_is_always_of_the_charset(token in any::<String>(), extra in any::<String>(), number in any::<f64>()) {
        let body = serde_json::json!({"access_token": token, "scope": extra, "expires_in": number, "expires_on": number});
        match case().judge(body.to_string()) {
            Ok((grant, _)) => {
                prop_assert!(!token.is_empty() && token.bytes().all(|byte| (0x21..=0x7E).contains(&byte)));
                prop_assert_eq!(grant.token.expose(), token.as_bytes());
                prop_assert!(grant.expires_in.is_none_or(|life| (1..=86_400).contains(&life.as_secs())));
            }
            Err(_) => {
                prop_assert!(token.is_empty() || !token.bytes().all(|byte| (0x21..=0x7E).contains(&byte)));
            }
        }
    }

    #[test]
    fn no_response_makes_a_message_show_a_secret(
        member in "(error|Error|errors|message|error_description|detail|fault|code|trace_id|x)",
        inner in "(message|code|errorcode|type|request_id|detail|x)",
        nested in any::<bool>(), plain in any::<bool>(), status_code in 200u16..600,
    ) {
        let secret = "s3:c+r t";
        let value = if nested { serde_json::json!({ inner: secret }) } else { secret.into() };
        let case = status(status_code).header("content-type", if plain { "text/plain" } else { "application/json" });
        for body in [serde_json::json!({ member: value }).to_string(), format!("{secret} {secret}")] {
            let error = case.error(body);
            prop_assert!(!format!("{error:?}").contains(secret), "{error:?}");
        }
    }

    #[test]
    fn error_texts_are_clean(code in any::<String>(), description in any::<String>(), status_code in 200u16..600) {
        let body = serde_json::json!({"error": format!("x{code}"), "error_description": description});
        let error = status(status_code).error(body.to_string());
        prop_assert!(!error.detail.contains(char::is_control));
        let shown = error.code.unwrap_or_default();
        prop_assert!(shown.len() <= 64 && shown.bytes().all(|byte| (0x20..=0x7E).contains(&byte)));
    }
}

/// Lifetime in seconds (`None`: the default applies) of the token `t`.
#[track_caller]
fn lives(case: &Case, body: &str) -> Option<u64> {
    let grant = case.grant(body);
    assert_eq!(grant.token, Secret::from("t"), "{body}");
    assert!(grant.prover.is_none());
    grant.expires_in.map(|life| life.as_secs())
}

#[test]
fn plain_responses() {
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
    assert_eq!(grant.expires_in, None);
    assert_eq!(notes, [ResponseWarning::LifetimeMissing]);
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
    assert_eq!(
        grant.expires_in,
        Some(Duration::from_secs(3600)),
        "the length does not depend on the issuer's clock"
    );
}

#[test]
fn an_expiry_by_a_different_clock_is_converted_to_ours() {
    // now() is Sun, 17 Mar 2030 17:46:40 GMT; the issuer's clock is an hour behind.
    let late = case().header("date", "Sun, 17 Mar 2030 16:46:40 GMT");
    let grant = late.grant(r#"{"access_token":"t","expires_on":1899996700}"#);
    assert_eq!(grant.expires_in, Some(Duration::from_secs(300)));
    let near = case().header("date", "Sun, 17 Mar 2030 17:46:00 GMT");
    let grant = near.grant(r#"{"access_token":"t","expires_on":1900000300}"#);
    assert_eq!(grant.expires_in, Some(Duration::from_secs(300)), "small differences change nothing");
}

#[test]
fn github_responds_201_with_another_shape() {
    let body = r#"{"token":"t","expires_at":"2030-03-17T18:46:40Z","permissions":{}}"#;
    let github = status(201).with(|shape| {
        shape.token = "/token".to_owned();
        shape.expires_at = ExpiresAt::At("/expires_at".to_owned());
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
fn other_names_and_nested_responses() {
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
        shape.expires_at = ExpiresAt::At("/status/expirationTimestamp".to_owned());
        shape.statuses = vec![201];
    });
    let body = r#"{"kind":"TokenRequest","spec":{"audiences":["a"]},"status":{"token":"t","expirationTimestamp":"2030-03-17T17:56:40Z"}}"#;
    assert_eq!(lives(&kubernetes, body), Some(600));
}

#[test]
fn facebook_responds_with_a_form_or_with_json() {
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
fn t105_another_token_type_is_accepted_only_if_the_config_names_it() {
    let body = r#"{"access_token":"t","issued_token_type":"urn:ietf:params:oauth:token-type:saml2","token_type":"N_A","expires_in":60}"#;
    let error = case().error(body);
    assert_eq!(error.kind, FailureKind::Unusable);
    assert!(error.detail.contains("`N_A`"), "{error}");
    let remedy = error.remedy.unwrap();
    assert!(remedy.contains("add the type to response.token_types of [issuer.corp]"), "{remedy}");
    let named = case().with(|shape| shape.token_types = vec!["n_a".to_owned()]);
    assert_eq!(named.grant(body).token_type, "n_a");
}

#[test]
fn the_accepted_type_is_in_lower_case() {
    assert_eq!(case().grant(r#"{"access_token":"t","token_type":"BEARER"}"#).token_type, "bearer");
    assert_eq!(case().grant(r#"{"access_token":"t"}"#).token_type, "bearer");
    let dpop = case().with(|shape| shape.token_types = vec!["dpop".to_owned()]);
    assert_eq!(dpop.grant(r#"{"access_token":"t","token_type":"DPoP"}"#).token_type, "dpop");
}
