use std::time::{Duration, UNIX_EPOCH};

use http::{HeaderName, HeaderValue};
use proptest::prelude::*;
use zeroize::Zeroizing;

use super::*;
use crate::config::IssuerConfig;
use crate::issuer::fuzz;

mod refusals;
mod remedies;
mod vendors;

/// The time of day in these tests.
fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_900_000_000)
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

    fn judge(&self, body: impl AsRef<[u8]>) -> Result<(Grant, Vec<Note>), IssuerError> {
        self.judge_read(Ok(Zeroizing::new(body.as_ref().to_vec())))
    }

    fn judge_read(&self, body: Result<Zeroizing<Vec<u8>>, Lost>) -> Result<(Grant, Vec<Note>), IssuerError> {
        let mut redactor = Redactor::default();
        redactor.add(&Secret::from("s3:c+r t"));
        let context = Context {
            endpoint: "idp.example/token".to_owned(),
            ..Context::new(&self.config, &fuzz::url(), &redactor)
        };
        let headers = self
            .headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        let scopes = self.scopes.iter().map(|&scope| scope.to_owned()).collect();
        let answer = Answer { status: StatusCode::from_u16(self.status).unwrap(), headers, body };
        judge(answer, &context, &SentRequest { at: now(), scopes: &scopes })
    }

    fn grant(&self, body: &str) -> Grant {
        self.judge(body).unwrap_or_else(|error| panic!("{body}: {error}")).0
    }

    fn notes(&self, body: &str) -> Vec<Note> {
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
fn t01_a_plain_answer() {
    let (grant, notes) = case().judge(GOOD).unwrap();
    assert_eq!(grant.token, Secret::from("abc.DEF-1_2~3+/="));
    assert_eq!(grant.expires_in, Some(Duration::from_secs(3600)));
    assert_eq!((grant.expires_at, grant.scope), (None, None));
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
        assert!(case().notes(body).contains(&Note::TypeMissing));
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
        ("", Note::LifetimeMissing),
        (r#","expires_in":null"#, Note::LifetimeMissing),
        (r#","expires_in":"soon""#, Note::LifetimeUnreadable),
        (r#","expires_in":[]"#, Note::LifetimeUnreadable),
        (r#","expires_in":true"#, Note::LifetimeUnreadable),
    ] {
        let (grant, notes) = case().judge(lifetime(value)).unwrap();
        assert_eq!((grant.expires_in, notes), (None, vec![note]), "{value}");
    }
}

#[test]
fn t06_t07_t08_t09_t11_lifetimes_in_an_answer() {
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
fn an_end_alone_gives_the_lifetime_too() {
    let (grant, notes) =
        case().judge(r#"{"access_token":"t","token_type":"Bearer","expires_on":"1900000600"}"#).unwrap();
    assert_eq!(grant.expires_at, Some(now() + Duration::from_secs(600)));
    assert_eq!(grant.expires_in, Some(Duration::from_secs(600)));
    assert_eq!(notes, []);
    let both = case().grant(r#"{"access_token":"t","expires_in":60,"expires_on":1900000600000}"#);
    assert_eq!(both.expires_in, Some(Duration::from_secs(60)));
    assert_eq!(both.expires_at, None, "how long goes before until when");
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
    assert!(case().error(r#"{"access_token":"abc"#).detail.contains("cut off"));
    let error = case().judge_read(Err(Lost::CutOff)).err().unwrap();
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
    assert_eq!(form.grant(GOOD).token, Secret::from("abc.DEF-1_2~3+/="), "newer versions answer with JSON");
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
        assert_eq!(case.notes(GOOD), [Note::NotCalledJson]);
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
fn t20_a_token_that_is_none() {
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
fn t21_a_token_with_characters_that_no_header_may_carry() {
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
    let error = case().judge_read(Err(Lost::TooLarge(65_536))).err().unwrap();
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
    assert_eq!(asked.notes(&body(r#""read""#)), [Note::Narrower(vec!["write".to_owned()])]);
    assert_eq!(asked.notes(&body(r#""write  extra read""#)), []);
    assert_eq!(asked.notes(&body(r#"["write","read"]"#)), []);
    assert_eq!(asked.notes(GOOD), [], "without `scope` all was granted");
    assert_eq!(asked.grant(&body(r#""read""#)).scope.as_deref(), Some("read"));
    assert_eq!(asked.grant(r#"{"access_token":"canary","scope":"x canary"}"#).scope, None);
}

#[test]
fn t29_cookies_are_nothing_to_us() {
    case().header("set-cookie", "a=b").grant(GOOD);
}

#[test]
fn pointers_lead_into_nested_answers() {
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
    fn no_answer_makes_a_text_show_a_secret(
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
