//! What goes up and what comes down in the header section.

use crate::support::h2::{EchoUpstream, H2Client, whole};
use crate::support::{RawRequest, RawResponse, Recorded, Setup, World};

async fn scene(route: &str) -> World {
    Setup::new().await.route(route).start().await
}

/// What the upstream saw of a request that was served.
async fn sent(world: &World, call: RawRequest) -> std::sync::Arc<Recorded> {
    world.exchange(call).await.expect_status(200);
    world.upstream().last()
}

#[tokio::test]
async fn token_is_set_once_whatever_authorization_came() {
    let world = scene("").await;
    let call = RawRequest::get("/")
        .header("Authorization", "Bearer mine")
        .header("authorization", "Basic bWluZTptaW5l")
        .header("AUTHORIZATION", "mine")
        .header("Proxy-Authorization", "Basic bWluZTptaW5l");
    let request = sent(&world, call).await;
    assert_eq!(request.headers("authorization"), ["Bearer token-1"]);
    assert_eq!(request.header("proxy-authorization"), None);
    assert!(!request.head.fields.iter().any(|(_, value)| value.contains("mine") || value.contains("bWluZ")));
}

#[tokio::test]
async fn names_with_underscores_that_equal_ours_are_dropped() {
    let world = scene(
        "inject = { header = \"x-api-key\", format = \"{token}\" }\nrequest_headers = { set = { x-set-here = \"1\" } }",
    )
    .await;
    let call = RawRequest::get("/")
        .header("x_api_key", "mine")
        .header("X_Api-Key", "mine")
        .header("authorization_", "stays")
        .header("x_request_id", "mine")
        .header("x_set_here", "mine")
        .header("some_other", "stays");
    let request = sent(&world, call).await;
    assert_eq!(request.header("x-api-key"), Some("token-1"));
    for name in ["x_api_key", "x_api-key", "x_request_id", "x_set_here"] {
        assert_eq!(request.header(name), None, "{name}");
    }
    assert_eq!(request.header("some_other"), Some("stays"));
}

#[tokio::test]
async fn inject_says_which_header_and_how() {
    let world = scene("inject = { header = \"x-goog-token\", format = \"Token={token};v=1\" }").await;
    let request = sent(&world, RawRequest::get("/").header("authorization", "Bearer mine")).await;
    assert_eq!(request.header("x-goog-token"), Some("Token=token-1;v=1"));
    assert_eq!(request.header("authorization"), None);
}

#[tokio::test]
async fn keep_sends_the_callers_authorization_and_adds_a_token_where_there_is_none() {
    let world = scene("caller_authorization = \"keep\"").await;
    let request = sent(&world, RawRequest::get("/").header("authorization", "Bearer mine")).await;
    assert_eq!(request.headers("authorization"), ["Bearer mine"]);
    assert_eq!(sent(&world, RawRequest::get("/")).await.headers("authorization"), ["Bearer token-1"]);
}

#[tokio::test]
async fn callers_own_401_touches_no_token() {
    let world = scene("caller_authorization = \"keep\"").await;
    world.get("/").await.expect_status(200);
    world.upstream().always_this(RawResponse::unauthorized());
    let response = world.exchange(RawRequest::get("/").header("authorization", "Bearer mine")).await;
    response.expect_status(401);
    assert_eq!(world.upstream().count(), 2);
    assert_eq!(world.issuer().count(), 1);
}

#[tokio::test]
async fn anonymous_removes_authorization_unless_keep() {
    let mine = || RawRequest::get("/").header("authorization", "Bearer mine");
    let world = scene("anonymous = true").await;
    assert_eq!(sent(&world, mine()).await.header("authorization"), None);
    let world = scene("anonymous = true\ncaller_authorization = \"keep\"").await;
    assert_eq!(sent(&world, mine()).await.header("authorization"), Some("Bearer mine"));
}

#[tokio::test]
async fn hop_by_hop_headers_stay_on_their_hop() {
    let world = scene("").await;
    let call = RawRequest::get("/")
        .header("Connection", "keep-alive, x-private")
        .header("Connection", "X-Also-Private")
        .header("Keep-Alive", "timeout=5")
        .header("Proxy-Connection", "keep-alive")
        .header("Proxy-Authenticate", "Basic")
        .header("TE", "trailers, deflate")
        .header("Trailer", "x-sum")
        .header("Upgrade", "h2c")
        .header("HTTP2-Settings", "AAMAAABkAARAAAAAAAIAAAAA")
        .header("X-Private", "1")
        .header("X-Also-Private", "1")
        .header("X-Public", "1");
    let request = sent(&world, call).await;
    for name in [
        "keep-alive",
        "proxy-connection",
        "proxy-authenticate",
        "upgrade",
        "transfer-encoding",
        "x-private",
        "x-also-private",
    ] {
        assert_eq!(request.header(name), None, "{name}");
    }
    assert_eq!(request.header("te"), Some("trailers"));
    assert_eq!(request.header("trailer"), Some("x-sum"));
    assert_eq!(request.header("x-public"), Some("1"));
}

#[tokio::test]
async fn nominating_the_credential_does_not_remove_it() {
    let world = scene("request_headers = { set = { x-tenant = \"acme\" } }").await;
    for connection in [
        "close, authorization",
        "Authorization",
        ",Authorization,",
        "keep-alive ,\tauthorization",
        "x-tenant",
    ] {
        let response = world.exchange(RawRequest::get("/").header("Connection", connection)).await;
        response.expect_status(200);
        let request = world.upstream().last();
        assert_eq!(request.headers("authorization"), ["Bearer token-1"], "{connection}");
        assert_eq!(request.header("x-tenant"), Some("acme"), "{connection}");
    }
}

#[tokio::test]
async fn nominating_host_or_framing_never_breaks_the_upstreams_message() {
    let world = scene("").await;
    let call = RawRequest::post("/", "hello").header("Connection", "host, content-length, x-request-id, via");
    let response = world.exchange(call).await;
    if response.status == 400 {
        assert_eq!(response.code().as_deref(), Some("bad_request"));
        assert_eq!(world.upstream().count(), 0);
    } else {
        let request = world.upstream().last();
        assert_eq!(request.text(), "hello");
        assert_eq!(request.header("host"), Some(world.upstream().address.unwrap().to_string().as_str()));
        assert!(request.header("x-request-id").is_some() && request.header("via").is_some());
    }
}

#[tokio::test]
async fn host_is_the_upstreams() {
    let world = scene("host = \"billing.internal\"").await;
    let request = sent(&world, RawRequest::get("/").host("billing.internal")).await;
    assert_eq!(request.headers("host"), [world.upstream().address.unwrap().to_string()]);
    let absolute = RawRequest::get("http://billing.internal/x").host("billing.internal");
    let request = sent(&world, absolute).await;
    assert_eq!(request.target(), "/x");
    assert_eq!(request.headers("host"), [world.upstream().address.unwrap().to_string()]);
}

#[tokio::test]
async fn via_is_added() {
    let world = scene("").await;
    let request = sent(&world, RawRequest::get("/").header("Via", "1.0 fred")).await;
    let via = request.headers("via").join(", ");
    assert!(via.starts_with("1.0 fred, 1.1 bearerd"), "{via}");
    let request = sent(&world, RawRequest::get("/").http10()).await;
    assert!(request.header("via").unwrap().starts_with("1.0 bearerd"));
    let mut client = H2Client::plain(world.address("main")).await;
    client.get("/").await;
    let via = world.upstream().last().header("via").unwrap().to_owned();
    assert!(via.starts_with("2.0 bearerd") || via.starts_with("2 bearerd"), "{via}");
}

#[tokio::test]
async fn request_id_of_the_caller_is_taken_sent_echoed_and_logged() {
    let world = scene("").await;
    let response = world.exchange(RawRequest::get("/").header("X-Request-Id", "abc-DEF_1.2:3")).await;
    assert_eq!(response.header("x-request-id"), Some("abc-DEF_1.2:3"));
    assert_eq!(world.upstream().last().header("x-request-id"), Some("abc-DEF_1.2:3"));
    world.log().wait("the request id", |line| line.contains("abc-DEF_1.2:3")).await;
}

#[tokio::test]
async fn request_id_is_made_where_there_is_no_sane_one() {
    let world = scene("").await;
    let long = "x".repeat(5000);
    for insane in ["", "a b", "caf\u{e9}", "<script>", long.as_str()] {
        let response = world.exchange(RawRequest::get("/").header("X-Request-Id", insane)).await;
        let made = response.header("x-request-id").unwrap().to_owned();
        assert!(!made.is_empty() && made != insane && made.len() < 200, "{insane:?} became {made:?}");
        assert_eq!(world.upstream().last().headers("x-request-id"), [made]);
    }
    let first = world.get("/").await.header("x-request-id").unwrap().to_owned();
    let second = world.get("/").await.header("x-request-id").unwrap().to_owned();
    assert_ne!(first, second);
}

#[tokio::test]
async fn traceparent_passes() {
    let world = scene("").await;
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let request =
        sent(&world, RawRequest::get("/").header("traceparent", parent).header("tracestate", "a=b")).await;
    assert_eq!(request.header("traceparent"), Some(parent));
    assert_eq!(request.header("tracestate"), Some("a=b"));
}

#[tokio::test]
async fn inbound_forwarded_headers_pass_unless_forwarded() {
    let call = || {
        RawRequest::get("/")
            .header("X-Forwarded-For", "203.0.113.7")
            .header("X-Forwarded-Proto", "https")
            .header("X-Forwarded-Host", "front.test")
    };
    let world = scene("").await;
    let request = sent(&world, call()).await;
    assert_eq!(request.header("x-forwarded-for"), Some("203.0.113.7"));
    assert_eq!(request.header("x-forwarded-proto"), Some("https"));
    assert_eq!(request.header("x-forwarded-host"), Some("front.test"));
    let request = sent(&world, RawRequest::get("/")).await;
    assert_eq!(request.header("x-forwarded-for"), None);
}

#[tokio::test]
async fn forwarded_sets_them() {
    let world = scene("forwarded = true").await;
    let call = RawRequest::get("/")
        .host("localhost:1234")
        .header("X-Forwarded-For", "203.0.113.7")
        .header("X-Forwarded-Proto", "gopher")
        .header("X_Forwarded_For", "203.0.113.9")
        .header("X-Forwarded-Host", "front.test");
    let request = sent(&world, call).await;
    assert!(request.header("x-forwarded-for").unwrap().ends_with("127.0.0.1"));
    assert_eq!(request.header("x-forwarded-proto"), Some("http"));
    assert_eq!(request.header("x-forwarded-host"), Some("localhost:1234"));
    assert_eq!(request.header("x_forwarded_for"), None);
}

#[tokio::test]
async fn request_headers_are_set_and_removed() {
    let setup = Setup::new().await;
    setup.file("key", "from-a-file\n");
    let world = setup
        .route("request_headers = { set = { x-key = { file = \"key\" }, user-agent = \"ours\" }, remove = [\"cookie\"] }")
        .start()
        .await;
    let call =
        RawRequest::get("/").header("X-Key", "mine").header("User-Agent", "curl").header("Cookie", "a=b");
    let request = sent(&world, call).await;
    assert_eq!(request.header("x-key"), Some("from-a-file"));
    assert_eq!(request.header("user-agent"), Some("ours"));
    assert_eq!(request.header("cookie"), None);
}

#[tokio::test]
async fn response_headers_are_set_and_removed() {
    let setup = Setup::new().await;
    setup
        .upstream
        .always_this(RawResponse::ok("x").header("server", "secret/1.0").header("cache-control", "public"));
    let world = setup
        .route("response_headers = { set = { cache-control = \"no-store\" }, remove = [\"server\"] }")
        .start()
        .await;
    let response = world.get("/").await;
    assert_eq!(response.header("server"), None);
    assert_eq!(response.header("cache-control"), Some("no-store"));
}

#[tokio::test]
async fn other_headers_go_up_with_their_order_and_values_unchanged() {
    let world = scene("").await;
    let call = RawRequest::get("/")
        .header("Accept", "text/html")
        .header("X-Many", "b")
        .header("X-Many", "a")
        .header("X-Many", "c, d")
        .header("X-Empty", "")
        .header("Cookie", "a=b; c=\"d\"");
    let request = sent(&world, call).await;
    assert_eq!(request.headers("x-many"), ["b", "a", "c, d"]);
    assert_eq!(request.header("x-empty"), Some(""));
    assert_eq!(request.header("cookie"), Some("a=b; c=\"d\""));
    assert_eq!(request.header("accept"), Some("text/html"));
    assert_eq!(request.header("accept-encoding"), None, "none is made up");
}

#[tokio::test]
async fn response_headers_come_down_unchanged_but_for_the_hop() {
    let setup = Setup::new().await;
    let answer = RawResponse::status(418)
        .header("set-cookie", "b=1")
        .header("set-cookie", "a=2; Path=/")
        .header("x-latin", "caf\u{e9}")
        .header("connection", "x-private")
        .header("x-private", "1")
        .header("keep-alive", "timeout=5")
        .header("proxy-authenticate", "Basic")
        .header("www-authenticate", "Bearer realm=\"x\"")
        .body("short and stout");
    setup.upstream.always_this(answer);
    let world = setup.start().await;
    let response = world.get("/").await;
    response.expect_status(418);
    assert_eq!(response.headers("set-cookie"), ["b=1", "a=2; Path=/"]);
    assert_eq!(response.header("x-latin"), Some("caf\u{e9}"));
    assert_eq!(response.header("www-authenticate"), Some("Bearer realm=\"x\""));
    for name in ["x-private", "keep-alive"] {
        assert_eq!(response.header(name), None, "{name}");
    }
    assert_eq!(response.text(), "short and stout");
}

#[tokio::test]
async fn redirects_pass_and_a_location_under_upstream_points_back_through_the_proxy() {
    let setup = Setup::new().await;
    let upstream = setup.upstream.url.clone();
    let world = setup.route("path_prefix = \"/billing\"\nupstream = \"{upstream}/api/v2\"").start().await;
    let proxy = world.address("main");
    let cases = [
        (
            format!("{upstream}/api/v2/x?y#z"),
            vec![format!("http://{proxy}/billing/x?y#z"), "/billing/x?y#z".to_owned()],
        ),
        ("/api/v2/x".to_owned(), vec![format!("http://{proxy}/billing/x"), "/billing/x".to_owned()]),
        ("https://elsewhere.test/api/v2/x".to_owned(), vec!["https://elsewhere.test/api/v2/x".to_owned()]),
        (format!("{upstream}/other/x"), vec![format!("{upstream}/other/x")]),
        (format!("{upstream}/api/v22/x"), vec![format!("{upstream}/api/v22/x")]),
        ("x/y".to_owned(), vec!["x/y".to_owned()]),
    ];
    for (location, wanted) in cases {
        for status in [201, 301, 302, 303, 307, 308] {
            world.upstream().next(RawResponse::status(status).header("location", &location));
            let response = world.get("/billing/a").await;
            response.expect_status(status);
            let found = response.header("location").unwrap().to_owned();
            assert!(wanted.contains(&found), "{location} became {found}");
        }
    }
}

#[tokio::test]
async fn location_never_becomes_another_host() {
    let setup = Setup::new().await;
    let upstream = setup.upstream.url.clone();
    let world = setup.start().await;
    for location in [
        format!("{upstream}//evil.test/x"),
        format!("{upstream}/\\evil.test/x"),
        format!("{upstream}/\t/evil.test/x"),
        format!("{upstream}/\t\\evil.test/x"),
        format!("{upstream}\\\\evil.test/x"),
        format!("{upstream}/.//evil.test/x"),
        format!("{upstream}/a/..//evil.test/x"),
        format!("{upstream}@evil.test/x"),
        format!("{}//evil.test/x", upstream.strip_prefix("http:").unwrap()),
        "///evil.test/x".to_owned(),
        "//evil.test/x".to_owned(),
        "/\\evil.test/x".to_owned(),
        "/\t/evil.test/x".to_owned(),
        "\\/evil.test/x".to_owned(),
        "http:/\\evil.test/x".to_owned(),
        "http:///evil.test/x".to_owned(),
    ] {
        world.upstream().next(RawResponse::status(302).header("location", &location));
        let response = world.get("/a").await;
        response.expect_status(302);
        assert_eq!(response.header("location"), Some(&*location), "it stays as it is");
    }
}

#[tokio::test]
async fn location_with_dot_segments_does_not_leave_its_route() {
    let setup = Setup::new().await;
    let upstream = setup.upstream.url.clone();
    let world = setup.route("path_prefix = \"/billing\"\nupstream = \"{upstream}/api/v2\"").start().await;
    for path in ["/api/v2/../x", "/api/v2/%2e%2E/x", "/api/v2/..", "/api/v2/..;/x", "/api/v2/.\t./x"] {
        for location in [path.to_owned(), format!("{upstream}{path}")] {
            world.upstream().next(RawResponse::status(302).header("location", &location));
            let found = world.get("/billing/a").await;
            assert_eq!(found.header("location"), Some(&*location), "it stays as it is");
        }
    }
}

/// The value of the only `Location`, byte for byte.
fn raw_location(head: &[u8]) -> Vec<u8> {
    let lines = head.split(|byte| *byte == b'\n').filter_map(|line| line.strip_prefix(b"location: "));
    let values: Vec<_> = lines.map(|line| line.trim_ascii_end().to_vec()).collect();
    assert_eq!(values.len(), 1);
    values[0].clone()
}

#[tokio::test]
async fn location_with_raw_bytes_blanks_or_quotes_points_back_too() {
    let setup = Setup::new().await;
    let upstream = setup.upstream.url.clone();
    let world = setup.route("path_prefix = \"/billing\"\nupstream = \"{upstream}/api\"").start().await;
    let mut client = H2Client::plain(world.address("main")).await;
    for rest in [
        "/f\u{fc}r".as_bytes(),
        b"/f\xfcr?q=\xe9",
        b"/a b?c d",
        b"/\"quoted\"?x=\"y\"#\"z\"",
        b"/a|b^c`d{e}",
        b"?to=C:\\x\\..\\y",
    ] {
        for start in [&*upstream, ""] {
            let mut bytes =
                format!("HTTP/1.1 302 Found\r\ncontent-length: 0\r\nlocation: {start}/api").into_bytes();
            bytes.extend_from_slice(rest);
            bytes.extend_from_slice(b"\r\n\r\n");
            world.upstream().next(RawResponse::raw(bytes.clone())).next(RawResponse::raw(bytes));
            let wanted = [b"/billing", rest].concat();
            let response = world.get("/billing/a").await;
            response.expect_status(302);
            assert_eq!(raw_location(&response.head.raw), wanted);
            let response = client.get("/billing/a").await;
            assert_eq!(response.headers["location"].as_bytes(), wanted);
        }
    }
}

#[tokio::test]
async fn location_stays_where_rewriting_is_off() {
    let setup = Setup::new().await;
    let location = format!("{}/x", setup.upstream.url);
    setup.upstream.always_this(RawResponse::status(302).header("location", &location));
    let world = setup.route("rewrite_location = false").start().await;
    assert_eq!(world.get("/").await.header("location"), Some(location.as_str()));
}

#[tokio::test]
async fn trailers_do_not_smuggle_what_the_head_may_not_hold() {
    let upstream = EchoUpstream::plain().await;
    let world = scene(&format!("upstream = \"{}\"\nprotocol = \"http2\"", upstream.url)).await;
    let mut client = H2Client::plain(world.address("main")).await;
    let (frames, body) = crate::support::h2::streamed();
    let request = client.request("POST", "/").header("te", "trailers").body(body).unwrap();
    let send = async {
        frames.send(hyper::body::Frame::data("x".into())).await.unwrap();
        let mut trailers = http::HeaderMap::new();
        trailers.insert("authorization", http::HeaderValue::from_static("Bearer mine"));
        trailers.insert("x-sum", http::HeaderValue::from_static("1"));
        frames.send(hyper::body::Frame::trailers(trailers)).await.unwrap();
        drop(frames);
    };
    let (response, ()) = tokio::join!(client.exchange(request), send);
    let trailers = response.trailers.unwrap_or_default();
    assert_eq!(trailers.get("x-sum").unwrap(), "1");
    assert!(trailers.get("authorization").is_none());
}

#[tokio::test]
async fn callers_over_http2_get_the_same_rules() {
    let world = scene("").await;
    let mut client = H2Client::plain(world.address("main")).await;
    let request =
        client.request("GET", "/").header("authorization", "Bearer mine").header("x_request_id", "mine");
    let response = client.exchange(request.body(whole("")).unwrap()).await;
    assert_eq!(response.status, 200);
    let request = world.upstream().last();
    assert_eq!(request.headers("authorization"), ["Bearer token-1"]);
    assert_eq!(request.header("x_request_id"), None);
    assert_eq!(request.headers("host"), [world.upstream().address.unwrap().to_string()]);
}
