//! What counts as a token, and how long it lives: rows T01 to T29.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::support::manual::Manual;
use crate::support::{RawRequest, RawResponse, Setup, World, eventually, stays, unix_now};

/// A scene whose issuer always responds with this.
async fn with_response(answer: RawResponse) -> World {
    with_response_and(answer, "").await
}

async fn with_response_and(answer: RawResponse, issuer: &str) -> World {
    let setup = Setup::new().await;
    setup.issuer.always_this(answer);
    setup.issuer(issuer).start().await
}

async fn with_json(value: Value) -> World {
    with_response(RawResponse::json(&value)).await
}

/// A good response with this `expires_in`, as raw JSON.
fn expiring(expires_in: &str) -> RawResponse {
    let body = format!("{{\"access_token\":\"t\",\"token_type\":\"Bearer\",\"expires_in\":{expires_in}}}");
    RawResponse::ok(body).header("content-type", "application/json")
}

async fn expect_token(world: &World, token: &str) {
    world.get("/").await.expect_status(200);
    assert_eq!(world.upstream().last().bearer(), Some(token));
}

/// The request fails, and nothing reaches the upstream.
async fn expect_refused(world: &World) {
    world.get("/").await.expect_problem(502, "token_refused");
    assert_eq!(world.upstream().count(), 0);
}

/// Seconds that the token has left, by the metric.
async fn lifetime(world: &World) -> f64 {
    world.get("/").await.expect_status(200);
    let expiry =
        world.metric("bearerd_token_expiry_timestamp_seconds", &[("issuer", "corp"), ("route", "api")]).await;
    expiry.expect("the expiry is told") - unix_now()
}

#[track_caller]
fn expect_near(found: f64, wanted: f64) {
    assert!(found > wanted - 12.0 && found < wanted + 2.0, "{found} is not about {wanted}");
}

#[tokio::test]
async fn t01_valid_token_is_injected_and_fetched_once() {
    let world = Setup::new().await.start().await;
    for _ in 0..20 {
        expect_token(&world, "token-1").await;
    }
    assert_eq!(world.issuer().count(), 1);
    expect_near(lifetime(&world).await, 3600.0);
}

#[tokio::test]
async fn t02_token_type_is_taken_in_any_case_and_sent_as_bearer() {
    for token_type in ["bearer", "BEARER", "bEaReR"] {
        let world =
            with_json(json!({ "access_token": "t", "token_type": token_type, "expires_in": 60 })).await;
        expect_token(&world, "t").await;
    }
}

#[tokio::test]
async fn t03_missing_token_type_counts_as_bearer() {
    expect_token(&with_json(json!({ "access_token": "t", "expires_in": 60 })).await, "t").await;
}

#[tokio::test]
async fn t04_other_token_types_are_refused() {
    for token_type in ["mac", "DPoP", "N_A", "Bearer2"] {
        let world =
            with_json(json!({ "access_token": "t", "token_type": token_type, "expires_in": 60 })).await;
        expect_refused(&world).await;
    }
}

#[tokio::test]
async fn token_types_say_which_are_accepted() {
    let answer = RawResponse::json(&json!({ "access_token": "t", "token_type": "JWT", "expires_in": 60 }));
    let world = with_response_and(answer, "response = { token_types = [\"Bearer\", \"jwt\"] }").await;
    expect_token(&world, "t").await;
}

#[tokio::test]
async fn t05_missing_expires_in_means_default_lifetime() {
    let answer = || RawResponse::json(&json!({ "access_token": "t", "token_type": "Bearer" }));
    expect_near(lifetime(&with_response(answer()).await).await, 300.0);
    expect_near(lifetime(&with_response_and(answer(), "default_lifetime = \"30m\"").await).await, 1800.0);
}

#[tokio::test]
async fn t06_zero_or_negative_expires_in_counts_as_one_second() {
    for expires_in in ["0", "-1", "-3600", "\"0\""] {
        let started = std::time::Instant::now();
        let world = with_response(expiring(expires_in)).await;
        let left = lifetime(&world).await;
        let took = started.elapsed().as_secs_f64();
        assert!(left > -1.0 - took && left <= 1.1, "{expires_in} gave {left}");
        for _ in 0..20 {
            expect_token(&world, "t").await;
        }
        let (count, took) = (world.issuer().count(), started.elapsed().as_secs_f64());
        assert!(count as f64 <= 4.0 + 1.5 * took, "{count} token requests for {expires_in} in {took} s");
    }
}

#[tokio::test]
async fn t07_expires_in_may_be_a_string() {
    expect_near(lifetime(&with_response(expiring("\"3600\"")).await).await, 3600.0);
}

#[tokio::test]
async fn t08_expires_in_may_be_a_float() {
    expect_near(lifetime(&with_response(expiring("3599.9")).await).await, 3599.9);
    expect_near(lifetime(&with_response(expiring("3.6e3")).await).await, 3600.0);
}

#[tokio::test]
async fn t09_expires_in_beyond_a_day_counts_as_a_day() {
    for expires_in in
        ["86401", "1e30", "1e999", "9223372036854775808", "99999999999", "\"99999999999999999999\""]
    {
        expect_near(lifetime(&with_response(expiring(expires_in)).await).await, 86400.0);
    }
}

#[tokio::test]
async fn a_number_beyond_a_float_spoils_no_response() {
    let body = "{\"x\":[-1e999],\"access_token\":\"t\",\"token_type\":\"Bearer\",\"expires_in\":60}";
    let world = with_response(RawResponse::ok(body)).await;
    expect_token(&world, "t").await;
    expect_near(lifetime(&world).await, 60.0);
}

#[tokio::test]
async fn t10_unreadable_expires_in_counts_as_missing() {
    for expires_in in ["\"soon\"", "null", "[]", "true", "{}", "\"\""] {
        expect_near(lifetime(&with_response(expiring(expires_in)).await).await, 300.0);
    }
}

#[tokio::test]
async fn expires_at_is_read_where_the_response_has_it() {
    let answer = RawResponse::json(&json!({ "access_token": "t", "until": unix_now() + 900.0 }));
    let world = with_response_and(answer, "response = { expires_at = \"/until\" }").await;
    expect_near(lifetime(&world).await, 900.0);
}

/// A JWT that expires so many seconds from now.
fn expiring_jwt(seconds: f64) -> String {
    format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(json!({ "exp": unix_now() + seconds }).to_string()))
}

#[tokio::test]
async fn a_lifetime_that_the_response_does_not_name_is_the_tokens_own() {
    for rest in ["", ",\"expires_in\":\"soon\""] {
        let token = expiring_jwt(900.0);
        let body = format!("{{\"access_token\":\"{token}\",\"token_type\":\"Bearer\"{rest}}}");
        let world = with_response(RawResponse::ok(body).header("content-type", "application/json")).await;
        expect_token(&world, &token).await;
        expect_near(lifetime(&world).await, 900.0);
    }
}

#[tokio::test]
async fn a_body_may_be_the_token_itself_with_its_own_lifetime() {
    let token = expiring_jwt(900.0);
    let answer = || RawResponse::ok(format!("{token}\n")).header("content-type", "text/html");
    let world = with_response_and(answer(), "response = { format = \"text\", expires_at = \"jwt\" }").await;
    expect_token(&world, &token).await;
    expect_near(lifetime(&world).await, 900.0);
    expect_refused(&with_response(answer()).await).await;
}

#[tokio::test]
async fn a_tokens_own_lifetime_goes_before_the_responses_where_the_config_says_so() {
    let token = expiring_jwt(900.0);
    let world =
        with_response_and(RawResponse::token_for(&token, 60), "response = { expires_at = \"jwt\" }").await;
    expect_token(&world, &token).await;
    expect_near(lifetime(&world).await, 900.0);
}

#[tokio::test]
async fn a_response_must_have_the_header_fields_that_the_config_requires() {
    let required = "response = { require_headers = { metadata-flavor = \"Google\" } }";
    expect_refused(&with_response_and(RawResponse::token("t"), required).await).await;
    let named = RawResponse::token("t").header("Metadata-Flavor", "Google");
    expect_token(&with_response_and(named, required).await, "t").await;
}

#[tokio::test]
async fn t11_short_lifetime_is_usable_without_a_refresh_storm() {
    let setup = Setup::new().await;
    setup.issuer.always(|_, n| RawResponse::token_for(&format!("token-{n}"), 20));
    let world = setup.start().await;
    for _ in 0..50 {
        expect_token(&world, "token-1").await;
    }
    assert_eq!(world.issuer().count(), 1);
}

#[tokio::test]
async fn t12_html_page_is_no_token_and_is_not_logged() {
    let page = "<html><body>Please log in: canary-in-the-page</body></html>";
    let world = with_response(RawResponse::ok(page).header("content-type", "text/html")).await;
    expect_refused(&world).await;
    assert!(!world.log().text().contains("canary-in-the-page"));
}

#[tokio::test]
async fn t13_empty_response_is_asked_again_after_a_while() {
    let setup = Setup::new().await;
    setup.issuer.next(RawResponse::ok(""));
    let world = setup.start().await;
    expect_refused(&world).await;
    eventually("a token", || async { (world.get("/").await.status == 200).then_some(()) }).await;
    assert_eq!(world.issuer().count(), 2);
}

#[tokio::test]
async fn t14_truncated_response_is_transient() {
    let truncated = || {
        RawResponse::raw("HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{\"access_token\":\"t").then_close()
    };
    let setup = Setup::new().await;
    setup.issuer.next(truncated()).next(truncated());
    let world = setup.start().await;
    let code = world.get("/").await.code().unwrap();
    assert!(code == "token_refused" || code == "token_unavailable", "{code}");
    eventually("a token", || async { (world.get("/").await.status == 200).then_some(()) }).await;
    assert_eq!(world.upstream().count(), 1);
}

#[tokio::test]
async fn t15_form_response_is_refused_unless_the_format_says_so() {
    let form = || {
        RawResponse::ok("access_token=a%2Fb&token_type=bearer&expires_in=900")
            .header("content-type", "application/x-www-form-urlencoded")
    };
    expect_refused(&with_response(form()).await).await;
    let world = with_response_and(form(), "response = { format = \"form\" }").await;
    expect_token(&world, "a/b").await;
    expect_near(lifetime(&world).await, 900.0);
    // Newer versions of such servers respond with JSON.
    expect_token(&with_response_and(expiring("60"), "response = { format = \"form\" }").await, "t").await;
    let expires = RawResponse::ok("access_token=1%7Ct&expires=1200").header("content-type", "text/plain");
    let world =
        with_response_and(expires, "response = { format = \"form\", expires_in = \"/expires\" }").await;
    expect_token(&world, "1|t").await;
    expect_near(lifetime(&world).await, 1200.0);
}

#[tokio::test]
async fn t16_content_type_does_not_matter() {
    let body = r#"{"access_token":"t","token_type":"Bearer","expires_in":60}"#;
    for answer in [RawResponse::ok(body), RawResponse::ok(body).header("content-type", "text/plain")] {
        expect_token(&with_response(answer).await, "t").await;
    }
}

#[tokio::test]
async fn t17_strange_json_is_refused_and_a_bom_is_not() {
    let deep = format!("{{\"access_token\":\"t\",\"x\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
    let utf16: Vec<u8> = "{\"access_token\":\"t\"}".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let twice = "{\"access_token\":\"a\",\"access_token\":\"b\",\"token_type\":\"Bearer\"}";
    for body in
        [deep.into_bytes(), utf16, twice.into(), b"[1]".to_vec(), b"\"t\"".to_vec(), b"{} {}".to_vec()]
    {
        expect_refused(&with_response(RawResponse::ok(body)).await).await;
    }
    expect_token(&with_response(RawResponse::ok("\u{feff}{\"access_token\":\"t\"}")).await, "t").await;
}

#[tokio::test]
async fn t18_unknown_members_are_ignored() {
    let world =
        with_json(json!({ "access_token": "t", "token_type": "Bearer", "x": { "y": [1, null] } })).await;
    expect_token(&world, "t").await;
}

#[tokio::test]
async fn t19_success_with_an_error_is_an_error() {
    expect_refused(&with_json(json!({ "error": "invalid_client" })).await).await;
    let both = json!({ "error": "server_error", "access_token": "t", "token_type": "Bearer" });
    expect_refused(&with_json(both).await).await;
}

#[tokio::test]
async fn t20_token_that_is_no_text_is_refused() {
    for token in [json!(""), json!(null), json!(7), json!(["t"]), json!({ "t": 1 })] {
        expect_refused(&with_json(json!({ "access_token": token, "token_type": "Bearer" })).await).await;
    }
    expect_refused(&with_json(json!({ "token_type": "Bearer", "expires_in": 60 })).await).await;
}

#[tokio::test]
async fn t21_token_with_characters_that_no_header_may_hold_is_refused() {
    for token in ["a\r\nx: y", "a\nb", "a\u{0}b", "a b", " a", "a\u{7f}", "caf\u{e9}", "a\tb"] {
        expect_refused(&with_json(json!({ "access_token": token, "token_type": "Bearer" })).await).await;
    }
}

#[tokio::test]
async fn t22_token_may_have_16_kib_and_no_more() {
    let token = |length: usize| json!({ "access_token": "a".repeat(length), "token_type": "Bearer" });
    let world = with_json(token(16 * 1024)).await;
    world.get("/").await.expect_status(200);
    assert_eq!(world.upstream().last().bearer().unwrap().len(), 16 * 1024);
    expect_refused(&with_json(token(16 * 1024 + 1)).await).await;
}

#[tokio::test]
async fn t22_response_is_read_up_to_64_kib() {
    let padded = |length: usize| {
        let answer = json!({ "access_token": "t", "token_type": "Bearer", "x": "a".repeat(length) });
        RawResponse::json(&answer)
    };
    expect_token(&with_response(padded(60 * 1024)).await, "t").await;
    expect_refused(&with_response(padded(66 * 1024)).await).await;
    let world = with_response(padded(1024)).await;
    let before = world.memory();
    drop(world);
    let world = with_response(padded(20 * 1024 * 1024)).await;
    expect_refused(&world).await;
    let grown = world.memory().saturating_sub(before);
    assert!(grown < 8 * 1024, "{grown} KiB more for a large answer");
}

#[tokio::test]
async fn t23_compressed_response_is_refused_and_none_was_asked_for() {
    let gzip: &[u8] =
        &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0xab, 0xae, 5, 0, 0x43, 0xbf, 0xa6, 0xa3, 2, 0, 0, 0];
    let world = with_response(RawResponse::ok(gzip).header("content-encoding", "gzip")).await;
    expect_refused(&world).await;
    let asked = world.issuer().last().header("accept-encoding").map(str::to_owned);
    assert!(asked.is_none() || asked.as_deref() == Some("identity"), "{asked:?}");
    let body = r#"{"access_token":"t","token_type":"Bearer"}"#;
    expect_refused(&with_response(RawResponse::ok(body).header("content-encoding", "br")).await).await;
}

#[tokio::test]
async fn t24_only_200_is_success_unless_statuses_say_more() {
    let body = r#"{"access_token":"t","token_type":"Bearer"}"#;
    for status in [201, 202, 203, 206] {
        expect_refused(&with_response(RawResponse::status(status).body(body)).await).await;
    }
    expect_refused(&with_response(RawResponse::status(204)).await).await;
    let world =
        with_response_and(RawResponse::status(201).body(body), "response = { statuses = [200, 201] }").await;
    expect_token(&world, "t").await;
}

#[tokio::test]
async fn t25_redirects_are_not_followed() {
    for status in [301, 302, 303, 307, 308] {
        let evil = Manual::start().await;
        let location = format!("{}/token", evil.url);
        let world = with_response(RawResponse::status(status).header("location", &location)).await;
        expect_refused(&world).await;
        assert!(!evil.has_connection().await, "{status} was followed");
    }
}

#[tokio::test]
async fn t26_interim_responses_are_skipped() {
    let body = r#"{"access_token":"t","token_type":"Bearer","expires_in":60}"#;
    let bytes = format!(
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n\
         HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    expect_token(&with_response(RawResponse::raw(bytes)).await, "t").await;
}

#[tokio::test]
async fn t27_refresh_token_is_ignored() {
    let setup = Setup::new().await;
    let answer =
        json!({ "access_token": "t", "token_type": "Bearer", "expires_in": 1, "refresh_token": "again" });
    setup.issuer.always_this(RawResponse::json(&answer));
    let world = setup.start().await;
    eventually("another fetch", || async {
        world.get("/").await.expect_status(200);
        (world.issuer().count() >= 2).then_some(())
    })
    .await;
    for request in world.issuer().requests() {
        assert_eq!(request.params("grant_type"), ["client_credentials"]);
        assert!(!request.text().contains("again"));
    }
}

#[tokio::test]
async fn t28_narrower_scope_is_accepted_with_a_warning() {
    let answer = json!({ "access_token": "t", "token_type": "Bearer", "expires_in": 60, "scope": "a" });
    let world = with_response_and(RawResponse::json(&answer), "scopes = [\"a\", \"b\"]").await;
    expect_token(&world, "t").await;
    world.log().wait("a warning about scopes", |line| line.contains("WARN") && line.contains("scope")).await;
}

#[tokio::test]
async fn t29_no_cookie_is_kept() {
    let setup = Setup::new().await;
    setup.issuer.always(|_, n| RawResponse::brief_token(n).header("set-cookie", "session=1"));
    let world = setup.start().await;
    eventually("another fetch", || async {
        world.get("/").await.expect_status(200);
        (world.issuer().count() >= 2).then_some(())
    })
    .await;
    assert!(world.issuer().requests().iter().all(|request| request.header("cookie").is_none()));
}

#[tokio::test]
async fn pointers_say_where_the_response_has_what() {
    let answer = json!({ "d": { "jeton": "t", "kind": "bearer", "life": [1200] }, "error": null });
    let world = with_response_and(
        RawResponse::json(&answer),
        "response = { token = \"/d/jeton\", type = \"/d/kind\", expires_in = \"/d/life/0\", error = \"/fault\" }",
    )
    .await;
    expect_token(&world, "t").await;
    expect_near(lifetime(&world).await, 1200.0);
}

#[tokio::test]
async fn what_means_no_error_beside_a_token_is_no_error() {
    for none in [json!(null), json!(""), json!(false), json!(0), json!(0.0), json!({}), json!([])] {
        let answer = json!({ "access_token": "t", "token_type": "Bearer", "expires_in": 60, "error": none });
        expect_token(&with_response_and(RawResponse::json(&answer), "").await, "t").await;
    }
}

#[tokio::test]
async fn issued_at_in_milliseconds_is_no_lifetime() {
    let issued = ((unix_now() - 60.0) * 1000.0).round().to_string();
    let apigee = json!({
        "refresh_token_expires_in": "0", "token_type": "BearerToken", "issued_at": issued, "access_token": "t",
        "scope": "", "expires_in": "3599", "developer.email": "x@y", "status": "approved",
    });
    let named = "response = { token_types = [\"Bearer\", \"BearerToken\"] }";
    expect_near(lifetime(&with_response_and(RawResponse::json(&apigee), named).await).await, 3599.0);
    let salesforce = json!({ "access_token": "t", "token_type": "Bearer", "issued_at": issued });
    expect_near(lifetime(&with_json(salesforce).await).await, 300.0);
}

#[tokio::test]
async fn t08_expires_at_may_be_a_date_with_status_201() {
    let body = json!({ "token": "t", "expires_at": humantime_in(900), "permissions": {} });
    let world = with_response_and(
        RawResponse::status(201).body(body.to_string()),
        "response = { token = \"/token\", expires_at = \"/expires_at\", statuses = [201] }",
    )
    .await;
    expect_token(&world, "t").await;
    expect_near(lifetime(&world).await, 900.0);
}

fn humantime_in(seconds: u64) -> String {
    humantime::format_rfc3339_seconds(std::time::SystemTime::now() + Duration::from_secs(seconds)).to_string()
}

/// What App Service's `2017-09-01` writes on Windows and on Linux, and what other servers write.
#[tokio::test]
async fn expires_on_may_be_a_date_in_the_forms_of_platforms() {
    let at = std::time::SystemTime::now() + Duration::from_secs(900);
    let rfc3339 = humantime::format_rfc3339_seconds(at).to_string();
    let local = rfc3339.trim_end_matches('Z');
    let (date, time) = local.split_once('T').unwrap();
    let [year, month, day]: [&str; 3] = date.split('-').collect::<Vec<_>>().try_into().unwrap();
    let (hour, rest) = time.split_once(':').unwrap();
    let hour: u32 = hour.parse().unwrap();
    let (half, of_twelve) = (if hour < 12 { "AM" } else { "PM" }, (hour + 11) % 12 + 1);
    let short = |part: &str| part.trim_start_matches('0').to_owned();
    for written in [
        format!("{month}/{day}/{year} {time} +00:00"),
        format!("{}/{}/{year} {of_twelve}:{rest} {half} +00:00", short(month), short(day)),
        format!("{date} {time}Z"),
        format!("{local}+0000"),
        httpdate::fmt_http_date(at),
    ] {
        let body = json!({ "access_token": "t", "token_type": "Bearer", "expires_on": written });
        let world = with_json(body).await;
        expect_near(lifetime(&world).await, 900.0);
        assert!(!world.log().text().contains("nonstandard"), "{written}");
    }
    for written in ["13/45/2026 25:61:00 +00:00", "1/2/2026 13:00:00 PM +00:00", "tomorrow", "1/2/2026"] {
        let body = json!({ "access_token": "t", "token_type": "Bearer", "expires_on": written });
        let world = with_json(body).await;
        expect_near(lifetime(&world).await, 300.0);
        world.log().wait("the warning", |line| line.contains("has a lifetime that cannot be read")).await;
    }
}

#[tokio::test]
async fn a_padded_jwt_has_its_own_lifetime_too() {
    let claims = json!({ "exp": unix_now() as u64 + 900, "a": "bc" }).to_string();
    let padded = base64::engine::general_purpose::URL_SAFE
        .encode(format!("{claims}{}", " ".repeat(1 + (3 - claims.len() % 3) % 3)));
    assert!(padded.ends_with('='), "{padded}");
    let token = format!("e30.{padded}.c2ln");
    let world = with_json(json!({ "access_token": token, "token_type": "Bearer" })).await;
    expect_near(lifetime(&world).await, 900.0);
}

#[tokio::test]
async fn an_end_by_an_issuers_clock_that_differs_is_no_storm() {
    let setup = Setup::new().await;
    let at = |ago: u64| std::time::SystemTime::now() - Duration::from_secs(ago);
    let epoch = at(3600 - 600).duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let answer = RawResponse::json(&json!({ "access_token": "t", "expires_on": epoch }));
    setup.issuer.always_this(answer.header("date", &httpdate::fmt_http_date(at(3600))));
    let world = setup.start().await;
    expect_near(lifetime(&world).await, 600.0);
    assert_eq!(world.issuer().count(), 1);
}

#[tokio::test]
async fn t19_success_with_a_vendors_error_is_an_error() {
    for body in [
        json!({ "response": { "errors": [{ "code": "10401", "message": "ClientId is Invalid" }] } }),
        json!({ "ErrorCode": "10401", "Error": "ClientId is Invalid" }),
        json!({ "error": { "code": "10401", "message": "ClientId is Invalid" }, "access_token": "T0-ken" }),
    ] {
        let world = with_json(body).await;
        let response = world.get("/").await;
        response.expect_problem(502, "token_refused");
        let detail = response.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains("10401 (ClientId is Invalid)"), "{detail}");
        assert_eq!(world.upstream().count(), 0);
    }
}

#[tokio::test]
async fn members_are_named_where_the_token_is_not_found() {
    let world = with_json(json!({ "token": "value-canary", "validUntil": 1, "type": "Bearer" })).await;
    let response = world.get("/").await;
    response.expect_problem(502, "token_refused");
    let detail = response.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("the members token, type, validUntil"), "{detail}");
    assert!(detail.contains("response.token"), "{detail}");
    assert!(!world.log().text().contains("value-canary"));
}

#[tokio::test]
async fn t105_token_of_no_type_is_never_sent_as_bearer_by_default() {
    let answer = || {
        RawResponse::json(&json!({
            "access_token": "t", "expires_in": 60, "token_type": "N_A",
            "issued_token_type": "urn:ietf:params:oauth:token-type:saml2",
        }))
    };
    expect_refused(&with_response(answer()).await).await;
    let setup = Setup::new().await;
    setup.issuer.always_this(answer());
    let world = setup
        .issuer("response = { token_types = [\"N_A\"] }")
        .route("inject = { header = \"x-token\", format = \"{token}\" }")
        .start()
        .await;
    world.get("/").await.expect_status(200);
    assert_eq!(world.upstream().last().header("x-token"), Some("t"));
    assert_eq!(world.upstream().last().header("authorization"), None);
}

#[tokio::test]
async fn failed_responses_never_reach_the_upstream_without_a_token() {
    let world = with_response(RawResponse::oauth_error(400, "invalid_request")).await;
    for _ in 0..5 {
        world.exchange(RawRequest::post("/", "x")).await.expect_problem(502, "token_refused");
    }
    stays(Duration::from_millis(200), || world.upstream().accepted()).await;
    assert_eq!(world.upstream().count(), 0);
}
