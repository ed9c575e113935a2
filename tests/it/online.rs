//! `bearerd check --online`.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine;
use serde_json::{Value, json};

use crate::support::cli::{Output, run, run_with};
use crate::support::egress::Egress;
use crate::support::oidc::OidcProvider;
use crate::support::setup::SECRET;
use crate::support::tls::{Ca, ca, localhost};
use crate::support::{RawResponse, Recorded, Scripted, Setup, nobody};

/// A token that no output may show.
const TOKEN: &str = "canary-token-of-the-check";

async fn online(setup: &Setup, more: &[&str]) -> Output {
    setup.write();
    let args = [&["check", "--online"][..], more].concat();
    let output = run(setup.folder(), &args).await;
    expect_no_secret(&output);
    output
}

async fn report(setup: &Setup, code: i32, more: &[&str]) -> Value {
    let output = online(setup, &[more, &["--output", "json"]].concat()).await;
    output.expect_code(code);
    output.json()
}

#[track_caller]
fn expect_no_secret(output: &Output) {
    let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    for secret in [SECRET.to_owned(), TOKEN.to_owned(), encode(SECRET), encode(&format!("client-1:{SECRET}"))]
    {
        assert!(!output.all().contains(&secret), "{secret} in {}", output.all());
    }
}

#[tokio::test]
async fn a_connect_through_the_running_forward_listener_is_tried() {
    let (proxy, admin) = (nobody(), nobody());
    let listener = |keys: &str| {
        format!(
            "[listener.forward]\naddress = \"{proxy}\"\nserve = \"forward\"\n{keys}\n\
             [[route]]\nname = \"asked\"\nlistener = \"forward\"\nhost = \"*.example.com\"\nissuer = \"corp\"\n"
        )
    };
    let gate = "require_header = { name = \"proxy-authorization\", value = { file = \"gate\" } }";
    let setup = Setup::new().await.admin(&format!("address = \"{admin}\"")).more(&listener(gate));
    let basic = base64::engine::general_purpose::STANDARD.encode("program:canary-key-of-the-gate");
    setup.file("gate", format!("Basic {basic}"));
    setup.issuer.always_this(RawResponse::token(TOKEN));
    // No bearerd runs, so this process serves the listener, without a token.
    let idle = report(&setup, 0, &[]).await["forward"][0].clone();
    assert_eq!((&idle["listener"], &idle["ok"]), (&json!("forward"), &json!(true)), "{idle}");
    assert_eq!((&idle["running"], &idle["untried"]), (&json!(false), &Value::Null), "{idle}");
    assert_eq!(idle["url"], "https://bearerd-check.example.com:443");
    assert_eq!((setup.issuer.count(), setup.upstream.count()), (1, 0));

    let world = setup.start().await;
    let run = async |code: i32, more: &[&str]| {
        let output = run(world.folder(), &[&["check", "--online"], more].concat()).await;
        expect_no_secret(&output);
        assert!(!output.all().contains("canary-key") && !output.all().contains(&basic), "{}", output.all());
        output.expect_code(code);
        output
    };
    let tried = run(0, &["--output", "json"]).await.json();
    let forward = &tried["forward"][0];
    assert_eq!(forward["url"], "https://bearerd-check.example.com:443");
    assert_eq!(
        (&forward["ok"], &forward["untried"], &forward["error"]),
        (&json!(true), &Value::Null, &Value::Null)
    );
    assert_eq!((&forward["tls"]["version"], &forward["running"]), (&json!("TLS 1.3"), &json!(true)));
    assert_eq!(tried["upstreams"].as_array().unwrap().len(), 1, "a wildcard names no host to connect to");
    let text = run(0, &[]).await.stdout;
    assert!(
        text.contains("forward listener forward: ok") && text.contains("signed by the listener's CA"),
        "{text}"
    );
    assert_eq!(
        world.metric("bearerd_connects_total", &[("listener", "forward"), ("outcome", "served")]).await,
        Some(2.0)
    );

    // The running process does not know the host yet.
    world.file("bearerd.toml", world.config().replace("*.example.com", "new.test"));
    let failed = run(1, &[]).await.stdout;
    assert!(
        failed.contains("forward listener forward: FAILED") && failed.contains("1 of 1 forward listener"),
        "{failed}"
    );
}

/// By the listener that this process serves, whatever keeps programs away from the configured one.
#[tokio::test]
async fn a_connect_is_tried_although_no_bearerd_runs() {
    let own = "ca = { certificate = { file = \"own.pem\" }, private_key = { file = \"own.key\" } }";
    let rows = [
        ("address = \"unix:s.sock\"", "", None),
        ("address = \"127.0.0.1:1\"\nallow = [\"10.0.0.0/8\"]", "", Some("`allow` does not have 127.0.0.1")),
        (
            "address = \"127.0.0.1:1\"\nrequire_header = { name = \"x-key\", value = { file = \"secret\" } }",
            "",
            None,
        ),
        ("address = \"127.0.0.1:1\"", own, Some("the files of its CA are missing")),
        ("address = \"127.0.0.1:1\"", "ca_bundle = \"ca.pem\"", None),
    ];
    for (listener, forward, untried) in rows {
        let setup = Setup::new().await.more(&format!(
            "[listener.forward]\n{listener}\nserve = \"forward\"\nforward = {{ {forward} }}\n\
             [[route]]\nname = \"asked\"\nlistener = \"forward\"\nhost = \"api.example.com\"\n\
             upstream = \"{{upstream}}\"\nissuer = \"corp\"\n"
        ));
        let found = report(&setup, 0, &[]).await["forward"][0].clone();
        assert_eq!((&found["ok"], &found["running"]), (&json!(true), &json!(false)), "{listener}: {found}");
        match untried {
            Some(why) => assert!(found["untried"].as_str().unwrap().contains(why), "{found}"),
            None => assert_eq!(found["protocol"], "h2", "{found}"),
        }
        assert_eq!(setup.upstream.count(), 0);
        assert!(!setup.folder().join("ca.pem").exists(), "the bundle is for the running bearerd");
    }
    let setup = Setup::new().await.whole(
        "[issuer.corp]\ntoken_url = \"{issuer}/token\"\nclient_id = \"c\"\nclient_secret = { file = \"secret\" }\n\
         [[route]]\nname = \"api\"\nhost = \"*.example.com\"\nissuer = \"corp\"\n",
    );
    let output = online(&setup, &[]).await;
    output.expect_code(0);
    let text = output.stdout;
    assert!(text.contains("served by this check itself, on a free port"), "for bearerd exec: {text}");
    assert!(text.contains("signed by the listener's CA"), "{text}");
}

fn granting(request: &Recorded) -> bool {
    request.basic().is_some_and(|basic| basic == format!("client-1:{SECRET}"))
}

fn jwt(claims: &Value) -> String {
    let encode = |value: &Value| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.c2lnbmF0dXJl", encode(&json!({ "alg": "RS256" })), encode(claims))
}

fn hints(issuer: &Value) -> String {
    issuer["hints"]
        .as_array()
        .unwrap()
        .iter()
        .map(|hint| hint.as_str().unwrap())
        .collect::<Vec<_>>()
        .join("\n")
}

fn warnings(issuer: &Value) -> String {
    issuer["warnings"].to_string()
}

#[tokio::test]
async fn says_in_one_screen_what_was_granted_and_what_is_connected() {
    let setup = Setup::new().await;
    let token = jwt(&json!({ "aud": "https://api.example", "scp": "billing.read", "exp": 2_000_000_000 }));
    setup.issuer.always_this(RawResponse::token_for(&token, 300));
    let setup = setup.issuer("scopes = [\"billing.read\"]");
    let output = online(&setup, &[]).await;
    output.expect_code(0);
    for wanted in [
        "issuer corp: ok",
        "/token, client_secret_basic",
        "for route api",
        "HTTP 200",
        "valid for 5m",
        "a JWT",
        "https://api.example",
        "billing.read",
        "2033-05-18T03:33:20Z",
        &format!("upstream {}: ok", setup.upstream.url),
        "ok: 1 issuer, 1 upstream",
    ] {
        assert!(output.stdout.contains(wanted), "{wanted} in {}", output.stdout);
    }
    assert!(output.stdout.lines().count() <= 24, "{}", output.stdout);
    assert!(!output.all().contains(&token) && output.stderr.is_empty(), "{}", output.all());
    assert_eq!((setup.issuer.count(), setup.upstream.count()), (1, 0), "no request is sent upward");
}

#[tokio::test]
async fn json_has_its_documented_shape() {
    let setup = Setup::new().await;
    setup.issuer.always_this(RawResponse::token_for(TOKEN, 300));
    let report = report(&setup, 0, &[]).await;
    let names = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&report), ["config", "forward", "issuers", "ok", "problems", "store", "upstreams"]);
    let issuer = &report["issuers"][0];
    assert_eq!(
        names(issuer),
        [
            "advertised",
            "client_auth",
            "clock_difference",
            "credentials",
            "endpoint",
            "extra_requests",
            "hints",
            "inner",
            "keys",
            "name",
            "ok",
            "standby_in_use",
            "tls",
            "warnings"
        ]
    );
    let credential = &issuer["credentials"][0];
    assert_eq!(
        names(credential),
        ["asked", "error", "ms", "needed", "ok", "outer", "routes", "scopes", "status", "subject", "token"]
    );
    assert_eq!(
        credential["token"],
        json!({ "type": "Bearer", "expires_in": 300, "expires_in_assumed": false, "scope": null, "not_granted": [], "claims": null })
    );
    assert_eq!(
        names(&report["upstreams"][0]),
        ["address", "error", "ms", "ok", "protocol", "routes", "tls", "upstream"]
    );
    let documented =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/check-online.md")).unwrap();
    for name in [
        names(&report),
        names(issuer),
        names(credential),
        names(&credential["token"]),
        names(&report["upstreams"][0]),
    ]
    .concat()
    {
        assert!(documented.contains(&format!("`{name}`")), "{name} in docs/check-online.md");
    }
}

#[tokio::test]
async fn each_distinct_credential_is_asked_for_once() {
    let setup = Setup::new().await.issuer("scopes = [\"own\"]").route("scopes = [\"a\"]").more(
        "[[route]]\nname = \"same\"\npath_prefix = \"/same\"\nupstream = \"{upstream}\"\nissuer = \"corp\"\nscopes = [\"a\"]\n\
         [[route]]\nname = \"other\"\npath_prefix = \"/other\"\nupstream = \"{upstream}/x\"\nissuer = \"corp\"\nscopes = [\"b\"]\n",
    );
    let report = report(&setup, 0, &[]).await;
    let mut asked: Vec<String> =
        setup.issuer.requests().iter().map(|request| request.params("scope").join(" ")).collect();
    asked.sort();
    assert_eq!(asked, ["a", "b", "own"]);
    let credentials = &report["issuers"][0]["credentials"];
    assert_eq!(credentials[0]["routes"], json!(["api", "same"]));
    assert_eq!((&credentials[2]["routes"], &credentials[2]["needed"]), (&json!([]), &json!(false)));
    assert_eq!(report["upstreams"].as_array().unwrap().len(), 1, "one connection for all");
}

#[tokio::test]
async fn what_no_route_asks_for_is_a_warning_where_it_is_refused() {
    let setup = Setup::new().await.route("scopes = [\"a\"]");
    setup.issuer.always(|request, _| match request.params("scope").as_slice() {
        [] => RawResponse::oauth_error(400, "invalid_request"),
        _ => RawResponse::token(TOKEN),
    });
    let report = report(&setup, 0, &["--no-guess"]).await;
    assert!(warnings(&report["issuers"][0]).contains("which no route uses"), "{report}");
}

#[tokio::test]
async fn an_issuer_that_takes_the_secret_in_the_body_alone_is_reported() {
    let setup = Setup::new().await;
    setup.issuer.always(|request, _| match request.params("client_secret").as_slice() {
        [secret] if secret == SECRET => RawResponse::token(TOKEN),
        _ => RawResponse::oauth_error(401, "invalid_client"),
    });
    let output = online(&setup, &[]).await;
    output.expect_code(1);
    for wanted in [
        "issuer corp: FAILED",
        "invalid_client",
        "the issuer accepts client_auth = \"client_secret_post\"",
        "1 more request was made",
    ] {
        assert!(output.stdout.contains(wanted), "{wanted} in {}", output.stdout);
    }
    assert_eq!(setup.issuer.count(), 2);
    // A server that reads the body alone may also find no client at all.
    setup.issuer.always(|request, _| match request.params("client_secret").as_slice() {
        [_] => RawResponse::token(TOKEN),
        _ => RawResponse::oauth_error(400, "invalid_request"),
    });
    let report = report(&setup, 1, &[]).await;
    assert!(hints(&report["issuers"][0]).contains("client_secret_post"), "{report}");
}

#[tokio::test]
async fn an_issuer_that_does_not_decode_basic_is_reported() {
    let setup = Setup::new().await;
    setup.file("secret", "a+b/c=");
    setup.issuer.always(|request, _| match request.basic().as_deref() {
        Some("client-1:a+b/c=") => RawResponse::token(TOKEN),
        _ => RawResponse::oauth_error(401, "invalid_client"),
    });
    let report = report(&setup, 1, &[]).await;
    let issuer = &report["issuers"][0];
    assert!(hints(issuer).contains("basic_encoding = \"raw\""), "{issuer}");
    assert_eq!((setup.issuer.count(), &issuer["extra_requests"]), (3, &json!(2)));
}

#[tokio::test]
async fn a_wrong_secret_is_reported_after_at_most_three_more_requests() {
    let setup = Setup::new().await;
    setup.file("secret", "wr+ng");
    setup.issuer.always(|request, _| {
        if granting(request) {
            RawResponse::token(TOKEN)
        } else {
            RawResponse::oauth_error(401, "invalid_client")
        }
    });
    let setup = setup.more(
        "[[route]]\nname = \"other\"\npath_prefix = \"/other\"\nupstream = \"{upstream}\"\nissuer = \"corp\"\nscopes = [\"b\"]\n",
    );
    let report = report(&setup, 1, &[]).await;
    let issuer = &report["issuers"][0];
    assert!(hints(issuer).contains("Compare client_id and client_secret"), "{issuer}");
    assert_eq!(issuer["credentials"][0]["error"]["code"], "invalid_client");
    assert_eq!(issuer["credentials"][0]["status"], 401);
    // The client is refused whatever it asks for, and might be locked.
    assert_eq!(issuer["credentials"][1]["asked"], false);
    assert_eq!(setup.issuer.count(), 3);
    setup.file("secret", SECRET);
    online(&setup, &[]).await.expect_code(0);
}

#[tokio::test]
async fn no_guess_sends_no_more_requests() {
    let setup = Setup::new().await;
    setup.issuer.always_this(RawResponse::oauth_error(401, "invalid_client"));
    let report = report(&setup, 1, &["--no-guess"]).await;
    assert_eq!((setup.issuer.count(), &report["issuers"][0]["extra_requests"]), (1, &json!(0)));
    assert!(hints(&report["issuers"][0]).contains("--no-guess"), "{report}");
}

#[tokio::test]
async fn the_refused_scope_is_found() {
    let setup = Setup::new().await.issuer("scopes = [\"read\", \"wrong\", \"write\"]");
    setup.issuer.always(|request, _| {
        let scope = request.params("scope").join(" ");
        if scope.contains("wrong") {
            RawResponse::oauth_error(400, "invalid_scope")
        } else {
            RawResponse::token(TOKEN)
        }
    });
    let report = report(&setup, 1, &[]).await;
    let told = hints(&report["issuers"][0]);
    for wanted in
        ["refused: wrong", "granted: read, write", "without a scope in the request, it grants a token"]
    {
        assert!(told.contains(wanted), "{wanted} in {told}");
    }
    assert_eq!(setup.issuer.count(), 5);
    assert_eq!(report["issuers"][0]["extra_requests"], 4);
}

#[tokio::test]
async fn a_refused_request_without_scopes_is_not_sent_again() {
    let setup = Setup::new().await;
    setup.issuer.always_this(RawResponse::oauth_error(400, "invalid_scope"));
    let report = report(&setup, 1, &[]).await;
    let told = hints(&report["issuers"][0]);
    assert!(told.contains("the request had no scope; give scopes of [issuer.corp]"), "{told}");
    assert_eq!((setup.issuer.count(), &report["issuers"][0]["extra_requests"]), (1, &json!(0)));
}

#[tokio::test]
async fn how_long_a_busy_issuer_wants_to_be_left_alone_is_reported() {
    let setup = Setup::new().await;
    setup.issuer.always_this(RawResponse::status(429).header("Retry-After", "17"));
    let report = report(&setup, 1, &[]).await;
    let told = hints(&report["issuers"][0]);
    assert!(told.contains("wait 17 s"), "{told}");
}

#[tokio::test]
async fn a_scope_that_is_not_granted_is_a_warning() {
    let setup = Setup::new().await.issuer("scopes = [\"read\", \"write\"]");
    setup.issuer.always_this(RawResponse::json(
        &json!({ "access_token": TOKEN, "token_type": "Bearer", "expires_in": 60, "scope": "read" }),
    ));
    let report = report(&setup, 0, &[]).await;
    let issuer = &report["issuers"][0];
    assert_eq!(issuer["credentials"][0]["token"]["not_granted"], json!(["write"]));
    assert!(warnings(issuer).contains("requested and not granted for route api: write"), "{issuer}");
    // The token itself may say it too.
    setup.issuer.always_this(RawResponse::token(&jwt(&json!({ "scope": "write" }))));
    let report = self::report(&setup, 0, &[]).await;
    assert_eq!(report["issuers"][0]["credentials"][0]["token"]["not_granted"], json!(["read"]));
}

#[tokio::test]
async fn a_budget_that_is_too_small_for_the_lifetimes_is_a_warning() {
    for (lifetime, requests, needed) in [(300, 14, Some("about 15")), (300, 15, None), (3600, 2, None)] {
        let setup = Setup::new().await;
        setup.issuer.always_this(RawResponse::token_for(TOKEN, lifetime));
        let keys = format!("budget = {{ requests = {requests}, per = \"1h\" }}");
        let found = report(&setup.issuer(&keys), 0, &[]).await;
        let said = warnings(&found["issuers"][0]);
        assert_eq!(said.contains("the shortest lifetime is 300 s"), needed.is_some(), "{said}");
        assert!(said.contains(needed.unwrap_or_default()), "{said}");
    }
}

#[tokio::test]
async fn clocks_that_differ_are_reported() {
    let setup = Setup::new().await;
    let dated = |by: u64| {
        let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(by));
        RawResponse::token(TOKEN).header("date", &date)
    };
    setup.issuer.always_this(dated(120));
    let report = report(&setup, 0, &[]).await;
    let issuer = &report["issuers"][0];
    assert!(
        issuer["clock_difference"].as_i64().is_some_and(|seconds| (110..=120).contains(&seconds)),
        "{issuer}"
    );
    assert!(warnings(issuer).contains("s ahead of ours"), "{issuer}");
    setup.issuer.always_this(dated(0));
    let report = self::report(&setup, 0, &[]).await;
    assert_eq!(report["issuers"][0]["warnings"], json!([]));
}

#[tokio::test]
async fn a_dead_issuer_is_reported_and_does_not_hide_the_upstream() {
    let closed = nobody();
    for (url, wanted) in [
        (format!("http://{closed}/token"), "refused the connection"),
        ("https://does-not-exist.invalid/token".to_owned(), "was not resolved"),
    ] {
        let setup = Setup::new().await.issuer(&format!("token_url = \"{url}\"\ntimeout = \"5s\""));
        let report = report(&setup, 1, &[]).await;
        let issuer = &report["issuers"][0];
        assert_eq!(issuer["credentials"][0]["error"]["kind"], "unavailable", "{issuer}");
        let detail = issuer["credentials"][0]["error"]["detail"].as_str().unwrap();
        assert!(detail.contains(wanted), "{detail}");
        assert_eq!((&report["ok"], &report["upstreams"][0]["ok"]), (&json!(false), &json!(true)));
    }
}

#[tokio::test]
async fn a_silent_issuer_ends_with_its_timeout() {
    let setup = Setup::new().await.issuer("timeout = \"300ms\"");
    setup.issuer.always_this(RawResponse::hang());
    let report = report(&setup, 1, &[]).await;
    assert_eq!(report["issuers"][0]["credentials"][0]["error"]["kind"], "timeout");
}

#[tokio::test]
async fn an_upstream_that_is_down_is_reported() {
    let closed = nobody();
    let setup = Setup::new().await.route(&format!("upstream = \"http://{closed}\""));
    let output = online(&setup, &[]).await;
    output.expect_code(1);
    for wanted in [
        format!("upstream http://{closed}: FAILED"),
        "refused the connection".to_owned(),
        "issuer corp: ok".to_owned(),
    ] {
        assert!(output.stdout.contains(&wanted), "{wanted} in {}", output.stdout);
    }
    let setup = Setup::new().await.route("upstream = \"https://does-not-exist.invalid\"");
    let report = report(&setup, 1, &[]).await;
    assert!(report["upstreams"][0]["error"].as_str().unwrap().contains("was not resolved"), "{report}");
}

#[tokio::test]
async fn upstreams_are_reached_through_their_proxy() {
    let upstream = Scripted::upstream().await;
    let egress = Egress::to(upstream.address.unwrap()).await;
    let setup = Setup::new().await.route(&format!(
        "upstream = \"http://api.example\"\nplaintext = \"allow\"\nproxy = \"http://{}\"",
        egress.address
    ));
    let report = report(&setup, 0, &[]).await;
    assert_eq!(report["upstreams"][0]["address"], egress.address.to_string());
    assert_eq!(egress.seen().len(), 1);
}

#[tokio::test]
async fn certificates_of_both_ends_are_reported() {
    let (issuer, upstream) = (
        Scripted::start(Some(localhost().server(&["http/1.1"]))).await,
        Scripted::start(Some(localhost().server(&["h2"]))).await,
    );
    issuer.always_this(RawResponse::token(TOKEN));
    let tls = "tls = { ca = { file = \"ca.pem\" } }";
    let setup = Setup::with(issuer, upstream).issuer(tls).route(tls);
    setup.file("ca.pem", &ca().pem);
    let report = report(&setup, 0, &[]).await;
    for (of, version) in [(&report["issuers"][0], "TLS 1.3"), (&report["upstreams"][0], "TLS 1.3")] {
        assert_eq!(of["tls"]["version"], version, "{of}");
        assert!(of["tls"]["ends"]["in_days"].as_i64().is_some_and(|days| days > 365), "{of}");
    }
    assert_eq!(report["upstreams"][0]["protocol"], "h2");
}

#[tokio::test]
async fn an_unknown_ca_is_reported() {
    let strangers = Ca::new("a stranger's CA").issue(&["localhost"]);
    let issuer = Scripted::start(Some(strangers.server(&[]))).await;
    let upstream = Scripted::start(Some(strangers.server(&[]))).await;
    let tls = "tls = { ca = { file = \"ca.pem\" } }";
    let setup = Setup::with(issuer, upstream).issuer(tls).route(tls);
    setup.file("ca.pem", &ca().pem);
    let report = report(&setup, 1, &[]).await;
    let detail = report["issuers"][0]["credentials"][0]["error"]["detail"].as_str().unwrap();
    let error = report["upstreams"][0]["error"].as_str().unwrap();
    assert!(
        detail.contains("is not trusted here") && error.contains("is not trusted here"),
        "{detail} {error}"
    );
}

#[tokio::test]
async fn an_upstream_that_refuses_our_certificate_is_reported() {
    let server = ca().server_asking(&localhost(), &["http/1.1"]);
    for (client, wanted) in [
        (Some(ca().issue_expired(&["client"])), "did not accept our client certificate"),
        (None, "requires a client certificate"),
    ] {
        let upstream = Scripted::start(Some(Arc::clone(&server))).await;
        let setup = Setup::with(Scripted::issuer().await, upstream);
        setup.file("ca.pem", &ca().pem);
        let mut tls = "ca = { file = \"ca.pem\" }".to_owned();
        if let Some(client) = client {
            setup.file("client.pem", &client.certificate_pem);
            setup.file("client.key", &client.key_pem);
            tls = format!(
                "{tls}, certificate = {{ file = \"client.pem\" }}, private_key = {{ file = \"client.key\" }}"
            );
        }
        let setup = setup.route(&format!("tls = {{ {tls} }}"));
        let report = report(&setup, 1, &[]).await;
        let error = report["upstreams"][0]["error"].as_str().unwrap_or_default();
        assert!(error.contains(wanted), "{report}");
    }
}

#[tokio::test]
async fn our_own_certificate_that_has_expired_is_reported() {
    let issuer = Scripted::start(Some(ca().server_asking(&localhost(), &["http/1.1"]))).await;
    let client = ca().issue_expired(&["client"]);
    let setup = Setup::with(issuer, Scripted::upstream().await)
        .issuer("tls = { ca = { file = \"ca.pem\" }, certificate = { file = \"client.pem\" }, private_key = { file = \"client.key\" } }");
    setup.file("ca.pem", &ca().pem);
    setup.file("client.pem", &client.certificate_pem);
    setup.file("client.key", &client.key_pem);
    let report = report(&setup, 1, &[]).await;
    let issuer = &report["issuers"][0];
    assert!(issuer["keys"][0]["ends"]["at"].as_str().unwrap().starts_with("2021-01-01"), "{issuer}");
    assert!(warnings(issuer).contains("expired on 2021-01-01"), "{issuer}");
}

/// oidc-provider takes the method that a client is registered with. A secret that only signs is not sent to find out.
#[tokio::test]
#[ignore = "needs node and npm"]
async fn a_real_issuer_refuses_another_method_and_says_what_it_offers() {
    let client = json!({
        "client_id": "poster",
        "client_secret": SECRET,
        "token_endpoint_auth_method": "client_secret_post",
        "scope": "read",
    });
    let provider = OidcProvider::start(&json!({ "scopes": ["read"], "ttl": 600, "clients": [client] })).await;
    let issuer = format!("issuer_url = \"{}\"\nclient_id = \"poster\"\nscopes = [\"read\"]", provider.issuer);
    let setup = Setup::new().await.issuer(&format!("{issuer}\nclient_auth = \"client_secret_jwt\""));
    let refused = report(&setup, 1, &[]).await;
    let asked = &refused["issuers"][0];
    assert_eq!(asked["credentials"][0]["error"]["code"], "invalid_client", "{refused}");
    assert_eq!(asked["extra_requests"], 2, "with client_id, and with the other audience: {refused}");
    assert!(hints(asked).contains("registered for client_secret_jwt"), "{refused}");
    let setup = Setup::new().await.issuer(&issuer).issuer("client_auth = \"client_secret_post\"");
    let granted = report(&setup, 0, &[]).await;
    let issuer = &granted["issuers"][0];
    let methods = issuer["advertised"]["auth_methods"].as_array().unwrap();
    assert!(methods.contains(&json!("client_secret_post")), "{issuer}");
    let token = &issuer["credentials"][0]["token"];
    assert_eq!((&token["expires_in"], &token["scope"]), (&json!(600), &json!("read")));
    assert_eq!((&issuer["warnings"], &issuer["extra_requests"]), (&json!([]), &json!(0)));
}

#[tokio::test]
#[ignore = "needs node and npm"]
async fn a_wrong_scope_at_a_real_issuer_is_found() {
    let client = json!({
        "client_id": "client-1",
        "client_secret": SECRET,
        "token_endpoint_auth_method": "client_secret_basic",
        "scope": "read",
    });
    let provider = OidcProvider::start(&json!({ "scopes": ["read", "write"], "clients": [client] })).await;
    let issuer = format!("issuer_url = \"{}\"\nscopes = [\"read\", \"write\"]", provider.issuer);
    let report = report(&Setup::new().await.issuer(&issuer), 1, &[]).await;
    let told = hints(&report["issuers"][0]);
    assert!(told.contains("refused: write") && told.contains("granted: read"), "{report}");
}

#[tokio::test]
async fn the_standby_credential_is_reported_where_it_was_taken() {
    let setup = Setup::new().await;
    setup.file("next", "the-next-one");
    setup.issuer.always(|request, _| {
        if granting(request) {
            RawResponse::oauth_error(401, "invalid_client")
        } else {
            RawResponse::token(TOKEN)
        }
    });
    let setup = setup.issuer("standby = { client_secret = { file = \"next\" } }");
    let report = report(&setup, 0, &[]).await;
    let issuer = &report["issuers"][0];
    assert_eq!(issuer["standby_in_use"], true);
    assert!(warnings(issuer).contains("the current credential is refused"), "{issuer}");
    assert_eq!(setup.issuer.count(), 2);
}

#[tokio::test]
async fn what_an_issuer_advertises_is_reported_and_compared() {
    let setup = Setup::new().await;
    let url = setup.issuer.url.clone();
    let document = json!({
        "issuer": url,
        "token_endpoint": format!("{url}/token"),
        "token_endpoint_auth_methods_supported": ["private_key_jwt"],
        "scopes_supported": ["read", "write"],
        "dpop_signing_alg_values_supported": ["ES256"],
    });
    setup.issuer.always(move |request, _| {
        if request.method() == "GET" {
            RawResponse::json(&document)
        } else {
            RawResponse::oauth_error(401, "invalid_client")
        }
    });
    let setup = setup.issuer("issuer_url = \"{issuer}\"\nscopes = [\"raed\", \"write\"]");
    let report = report(&setup, 1, &["--no-guess"]).await;
    let issuer = &report["issuers"][0];
    let advertised = &issuer["advertised"];
    assert_eq!(advertised["auth_methods"], json!(["private_key_jwt"]));
    assert_eq!(
        (&advertised["unknown_scopes"], &advertised["dpop_algs"]),
        (&json!(["raed"]), &json!(["ES256"]))
    );
    assert!(hints(issuer).contains("advertises private_key_jwt, and not client_secret_basic"), "{issuer}");
    assert!(warnings(issuer).contains("does not advertise the scope raed"), "{issuer}");
    let shown = online(&setup, &["--no-guess"]).await.stdout;
    assert!(shown.contains("scopes read, write") && shown.contains("DPoP ES256"), "{shown}");
}

#[tokio::test]
async fn a_bad_config_is_reported_before_anybody_is_asked() {
    let setup = Setup::new().await.issuer("tiemout = \"5s\"");
    let output = online(&setup, &[]).await;
    output.expect_code(78);
    assert!(output.all().contains("did you mean `timeout`"), "{}", output.all());
    assert_eq!((setup.issuer.count(), setup.upstream.accepted()), (0, 0));
    let report = report(&setup, 78, &[]).await;
    assert_eq!(report["ok"], false);
}

#[tokio::test]
async fn a_missing_secret_is_reported_without_asking() {
    let setup = Setup::new().await.issuer("client_secret = { file = \"not-there\" }");
    let report = report(&setup, 1, &[]).await;
    assert_eq!(report["issuers"][0]["credentials"][0]["error"]["kind"], "credential");
    assert!(report["problems"].to_string().contains("not-there"), "{report}");
    assert_eq!(setup.issuer.count(), 0);
}

#[tokio::test]
async fn an_issuer_that_says_everything_back_makes_no_secret_visible() {
    let setup = Setup::new().await;
    setup.issuer.always(|request, _| {
        let said =
            format!("{} {} \u{1b}[2J", request.text(), request.header("authorization").unwrap_or_default());
        RawResponse::status(401)
            .body(json!({ "error": "invalid_client", "error_description": said }).to_string())
            .header("content-type", "application/json")
    });
    let output = online(&setup, &[]).await;
    output.expect_code(1);
    assert!(!output.stdout.contains('\u{1b}'), "{}", output.stdout);
    let output = run_with(setup.folder(), &["check", "--online", "--output", "json"], &[]).await;
    expect_no_secret(&output);
}
