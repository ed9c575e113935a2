//! What a collector gets, and what goes up: spans, their parents, W3C Trace Context.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;

use crate::support::setup::SECRET;
use crate::support::tls;
use crate::support::{PATIENCE, RawRequest, RawResponse, Scripted, Setup, World, eventually, within};

pub(crate) const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
pub(crate) const PARENT: &str = "00f067aa0ba902b7";
const SERVER: i32 = 2;
const CLIENT: i32 = 3;

/// A collector, and the scene that sends there; `more` are further keys of the table.
pub(crate) async fn traced(more: &str) -> (Scripted, Setup) {
    let collector = Scripted::upstream().await;
    let setup = Setup::new().await.more(&table(&collector.url, more));
    (collector, setup)
}

pub(crate) fn table(endpoint: &str, more: &str) -> String {
    format!("[tracing]\nendpoint = \"{endpoint}\"\n{more}")
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn requests(collector: &Scripted) -> Vec<ExportTraceServiceRequest> {
    let all = collector.requests();
    all.iter().map(|request| ExportTraceServiceRequest::decode(&request.body.data[..]).unwrap()).collect()
}

/// Every span that came so far.
pub(crate) fn spans(collector: &Scripted) -> Vec<Span> {
    let resources = requests(collector).into_iter().flat_map(|request| request.resource_spans);
    resources.flat_map(|resource| resource.scope_spans).flat_map(|scope| scope.spans).collect()
}

/// Waits until so many spans of this name came.
pub(crate) async fn named(collector: &Scripted, name: &str, count: usize) -> Vec<Span> {
    eventually(&format!("{count} spans {name}"), || async {
        let found: Vec<Span> = spans(collector).into_iter().filter(|span| span.name == name).collect();
        assert!(found.len() <= count, "{name} came {} times", found.len());
        (found.len() == count).then_some(found)
    })
    .await
}

fn of_kind(spans: &[Span], kind: i32) -> Vec<&Span> {
    spans.iter().filter(|span| span.kind == kind).collect()
}

pub(crate) fn attributes(pairs: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |value: &Option<AnyValue>| match value.as_ref().and_then(|value| value.value.clone()) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        other => panic!("{other:?}"),
    };
    pairs.iter().map(|pair| (pair.key.clone(), text(&pair.value))).collect()
}

pub(crate) fn attribute(span: &Span, name: &str) -> String {
    attributes(&span.attributes).get(name).cloned().unwrap_or_default()
}

pub(crate) fn w3c(call: RawRequest, flags: &str) -> RawRequest {
    call.header("traceparent", &format!("00-{TRACE}-{PARENT}-{flags}"))
        .header("tracestate", "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE")
}

#[tokio::test]
async fn a_request_is_a_span_below_the_callers_and_the_attempt_one_below_it() {
    let (collector, setup) = traced("service_name = \"billing-sidecar\"").await;
    let world = setup.start().await;
    world.ready().await;
    world.exchange(w3c(RawRequest::get("/invoices?q=1"), "01")).await.expect_status(200);

    let found = named(&collector, "GET api", 2).await;
    let (server, client) = (of_kind(&found, SERVER)[0], of_kind(&found, CLIENT)[0]);
    assert_eq!((hex(&server.trace_id).as_str(), hex(&server.parent_span_id).as_str()), (TRACE, PARENT));
    assert_eq!((&client.trace_id, &client.parent_span_id), (&server.trace_id, &server.span_id));
    assert!(server.start_time_unix_nano <= client.start_time_unix_nano);
    assert!(client.end_time_unix_nano <= server.end_time_unix_nano && server.start_time_unix_nano > 0);
    let known = attributes(&server.attributes);
    for (name, value) in [
        ("http.request.method", "GET"),
        ("http.response.status_code", "200"),
        ("http.route", "api"),
        ("bearerd.route", "api"),
        ("bearerd.issuer", "corp"),
        ("bearerd.listener", "main"),
    ] {
        assert_eq!(known.get(name).map(String::as_str), Some(value), "{name}");
    }
    assert_eq!(attribute(client, "server.address"), "127.0.0.1");
    assert_eq!(attribute(client, "server.port"), world.upstream().address.unwrap().port().to_string());
    // `STATUS_CODE_UNSET`.
    assert!([server, client].iter().all(|span| span.status.as_ref().is_none_or(|status| status.code == 0)));

    let up = world.upstream().last();
    assert_eq!(up.header("traceparent"), Some(&*format!("00-{TRACE}-{}-01", hex(&client.span_id))));
    assert_eq!(up.header("tracestate"), Some("rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"));

    let request = collector.last();
    assert_eq!((request.head.word(0), request.head.word(1)), ("POST", "/v1/traces"));
    assert_eq!(request.header("content-type"), Some("application/x-protobuf"));
    let resource = requests(&collector)[0].resource_spans[0].resource.clone().unwrap();
    assert_eq!(attributes(&resource.attributes)["service.name"], "billing-sidecar");
}

#[tokio::test]
async fn the_token_request_is_a_trace_of_its_own_with_a_link_to_the_first_request_that_waited() {
    let (collector, setup) = traced("").await;
    setup.issuer.next(RawResponse::oauth_error(503, "temporarily_unavailable"));
    let world = setup.start().await;
    let failed = named(&collector, "token corp", 1).await;
    assert_eq!((failed[0].kind, failed[0].status.as_ref().unwrap().code), (CLIENT, 2));
    assert_eq!(attribute(&failed[0], "http.response.status_code"), "503");
    assert_eq!(attribute(&failed[0], "error.type"), attribute(&failed[0], "bearerd.outcome"));
    assert!(failed[0].parent_span_id.is_empty());

    eventually("a token", || async { (world.get("/").await.status == 200).then_some(()) }).await;
    world.upstream().next(RawResponse::unauthorized());
    // Late enough that the request waits for it.
    world
        .issuer()
        .next(RawResponse::token("token-after-the-refusal").delayed(std::time::Duration::from_millis(300)));
    world.exchange(w3c(RawRequest::get("/replayed"), "01")).await.expect_status(200);
    let waited = eventually("the wait", || async {
        spans(&collector)
            .into_iter()
            .find(|span| span.name == "wait for token" && hex(&span.trace_id) == TRACE)
    })
    .await;
    let linked = eventually("the request that it waited for", || async {
        spans(&collector).into_iter().find(|span| {
            span.name == "token corp" && span.links.iter().any(|link| link.span_id == waited.span_id)
        })
    })
    .await;
    assert_ne!(linked.trace_id, waited.trace_id);
    assert_eq!(linked.links[0].trace_id, waited.trace_id);
    assert_eq!(attribute(&linked, "bearerd.outcome"), "ok");
    assert_eq!(attribute(&linked, "server.address"), "127.0.0.1");
    for request in world.issuer().requests() {
        assert_eq!(request.header("traceparent"), None, "issuers get none");
    }
}

#[tokio::test]
async fn a_replay_is_two_attempts_below_one_request() {
    let (collector, setup) = traced("").await;
    let world = setup.start().await;
    world.ready().await;
    world.upstream().next(RawResponse::unauthorized());
    world.exchange(w3c(RawRequest::post("/x", "body"), "01")).await.expect_status(200);
    let found = named(&collector, "POST api", 3).await;
    let (server, clients) = (of_kind(&found, SERVER)[0], of_kind(&found, CLIENT));
    let statuses: Vec<String> =
        clients.iter().map(|span| attribute(span, "http.response.status_code")).collect();
    assert_eq!(statuses, ["401", "200"]);
    assert_eq!(attribute(clients[0], "error.type"), "401");
    for (span, request) in clients.iter().zip(world.upstream().requests()) {
        assert_eq!(span.parent_span_id, server.span_id);
        let sent = format!("00-{TRACE}-{}-01", hex(&span.span_id));
        assert_eq!(request.header("traceparent"), Some(&*sent));
    }
    assert_ne!(clients[0].span_id, clients[1].span_id);
}

#[tokio::test]
async fn a_failed_request_says_why_by_the_name_of_its_error() {
    let (collector, setup) = traced("").await;
    let world = setup.start().await;
    world.ready().await;
    world.upstream().next(RawResponse::drop());
    world.exchange(RawRequest::post("/", "x")).await.expect_problem(502, "upstream_invalid");
    let found = named(&collector, "POST api", 2).await;
    let server = of_kind(&found, SERVER)[0];
    assert_eq!(attribute(server, "error.type"), "upstream_invalid");
    assert_eq!(server.status.as_ref().unwrap().code, 2);
    assert!(!attribute(of_kind(&found, CLIENT)[0], "error.type").is_empty());

    world.exchange(RawRequest::get("/").host("elsewhere.test")).await.expect_status(421);
    let unrouted = &named(&collector, "GET", 1).await[0];
    assert_eq!(attribute(unrouted, "error.type"), "misdirected");
    assert_eq!(attribute(unrouted, "http.route"), "");
}

#[tokio::test]
async fn nothing_is_recorded_where_nobody_samples_but_the_context_goes_on() {
    let (collector, setup) = traced("sample = 0.0").await;
    let mut world = setup.start().await;
    world.ready().await;
    world.get("/").await.expect_status(200);
    let sent = world.upstream().last().header("traceparent").unwrap().to_owned();
    assert!(sent.starts_with("00-") && sent.len() == 55, "{sent}");
    assert_eq!(u8::from_str_radix(&sent[53..], 16).unwrap() & 1, 0, "not sampled: {sent}");
    world.exchange(w3c(RawRequest::get("/"), "00")).await.expect_status(200);
    let up = world.upstream().last();
    let sent = up.header("traceparent").unwrap();
    assert!(sent.starts_with(&format!("00-{TRACE}-")) && sent.ends_with("-00"), "{sent}");
    assert!(up.header("tracestate").is_some());
    // A caller that samples is followed.
    world.exchange(w3c(RawRequest::get("/"), "01")).await.expect_status(200);
    assert_eq!(world.proxy.stop().await.code(), Some(0));
    let found = spans(&collector);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found.iter().all(|span| hex(&span.trace_id) == TRACE));
}

#[tokio::test]
async fn a_context_that_cannot_be_read_is_replaced() {
    let (_collector, setup) = traced("").await;
    let world = setup.start().await;
    world.ready().await;
    let good = format!("00-{TRACE}-{PARENT}-01");
    for bad in [good.to_uppercase(), format!("{good}-x"), good.replace(PARENT, "0000000000000000")] {
        world
            .exchange(RawRequest::get("/").header("traceparent", &bad).header("tracestate", "a=1"))
            .await
            .expect_status(200);
        let up = world.upstream().last();
        let sent = up.header("traceparent").unwrap();
        assert!(!sent.contains(TRACE) && sent.len() == 55, "{sent}");
        assert_eq!(up.header("tracestate"), None);
    }
}

#[tokio::test]
async fn off_by_default_the_callers_context_passes_untouched_and_none_is_added() {
    let world = Setup::new().await.start().await;
    world.get("/").await.expect_status(200);
    assert_eq!(world.upstream().last().header("traceparent"), None);
    let odd = "00-NOT-A-CONTEXT-01";
    world
        .exchange(RawRequest::get("/").header("traceparent", odd).header("tracestate", "?"))
        .await
        .expect_status(200);
    let up = world.upstream().last();
    assert_eq!((up.header("traceparent"), up.header("tracestate")), (Some(odd), Some("?")));
}

#[tokio::test]
async fn a_collector_that_is_gone_or_hangs_costs_spans_and_not_requests() {
    for hangs in [false, true] {
        let (collector, setup) = traced("timeout = \"1s\"").await;
        let endpoint = collector.url.clone();
        collector.always_this(RawResponse::hang());
        if !hangs {
            drop(collector);
        }
        let mut world = setup.start().await;
        for _ in 0..20 {
            within("a request", world.get("/")).await.expect_status(200);
        }
        let line = world.log().wait("the loss", |line| line.contains("tracing.spans_lost")).await;
        assert!(world.metric("bearerd_spans_lost_total", &[]).await.unwrap() > 0.0);
        assert!(line.contains(endpoint.trim_start_matches("http://")), "{line}");
        world.get("/").await.expect_status(200);
        let before = std::time::Instant::now();
        assert_eq!(world.proxy.stop().await.code(), Some(0));
        assert!(before.elapsed() < PATIENCE, "{:?}", before.elapsed());
        let lines = world.log().lines();
        assert_eq!(lines.iter().filter(|line| line.contains("tracing.spans_lost")).count(), 1);
    }
}

#[tokio::test]
async fn a_collector_that_responds_with_nonsense_costs_spans_and_not_requests() {
    let elsewhere = Scripted::upstream().await;
    for answer in [
        RawResponse::status(307).header("location", &format!("{}/v1/traces", elsewhere.url)),
        RawResponse::raw("canary nonsense\r\n\r\n"),
        RawResponse::raw("HTTP/1.1 200 OK\r\nx: canary").then_close(),
        RawResponse::raw(format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "canary".repeat(200_000))),
        RawResponse::status(500).body("canary"),
    ] {
        let (collector, setup) = traced("timeout = \"2s\"").await;
        collector.always_this(answer);
        let mut world = setup.start().await;
        within("a request", world.get("/")).await.expect_status(200);
        world.log().wait("the loss", |line| line.contains("tracing.spans_lost")).await;
        within("a request", world.get("/")).await.expect_status(200);
        // What it says is nobody's business either.
        assert!(!world.log().text().contains("canary"), "{}", world.log().text());
        assert_eq!(world.proxy.stop().await.code(), Some(0));
    }
    assert_eq!(elsewhere.count(), 0, "redirects are not followed");
}

/// A response without end is left where it is, with its connection.
#[tokio::test]
async fn a_collector_that_talks_without_end_is_cut_off() {
    let (collector, setup) = traced("timeout = \"2s\"").await;
    collector.always_this(RawResponse::ok(vec![b'x'; 4 << 20]));
    let world = setup.start().await;
    world.get("/").await.expect_status(200);
    collector.request(1).await;
    eventually("the end of the connection", || async { (collector.closed() >= 1).then_some(()) }).await;
    world.get("/").await.expect_status(200);
    collector.request(2).await;
    assert!(collector.opened() >= 2);
}

/// Connections on which a collector reads nothing are given up with their batch.
#[tokio::test]
async fn a_collector_that_takes_nothing_in_keeps_no_connections() {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(16).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let setup = Setup::new().await.more(&table(&url, "timeout = \"1s\""));
    let world = setup.log("level = \"info\"\naccess = false").start().await;
    let open_files = || async { world.metric("process_open_fds", &[]).await.unwrap() };
    let calling = async {
        let mut client = world.connect().await;
        loop {
            client.exchange(&RawRequest::get("/")).await.expect_status(200);
        }
    };
    let accepting = async {
        let mut held = vec![listener.accept().await.unwrap().0];
        let before = open_files().await;
        while held.len() < 5 {
            held.push(listener.accept().await.unwrap().0);
        }
        let after = open_files().await;
        assert!(after <= before + 1.0, "{after} open files, before {before}");
    };
    tokio::select! {
        () = within("five connections", accepting) => {}
        () = calling => unreachable!(),
    }
}

#[tokio::test]
async fn a_collector_behind_tls_is_known_by_its_certificate() {
    let collector = Scripted::start(Some(tls::localhost().server(&["http/1.1"]))).await;
    let setup = Setup::new().await;
    setup.file("ca.pem", &tls::ca().pem);
    let on = table(&collector.url, "tls = { ca = { file = \"ca.pem\" } }");
    let mut world = setup.more(&on).start().await;
    world.get("/").await.expect_status(200);
    named(&collector, "GET api", 2).await;
    assert_eq!(collector.opened(), 1, "one connection serves for all");

    // Not one of ours: nothing is sent there.
    let stranger = tls::Ca::new("another CA").issue(&["localhost"]);
    let stranger = Scripted::start(Some(stranger.server(&["http/1.1"]))).await;
    world.change(|text| text.replace(&collector.url, &stranger.url));
    world.reload().await;
    world.get("/").await.expect_status(200);
    let line = world.log().wait("the loss", |line| line.contains("tracing.spans_lost")).await;
    assert!(line.contains("certificate"), "{line}");
    assert_eq!((stranger.opened(), stranger.count()), (0, 0));
}

#[tokio::test]
async fn a_reload_turns_it_on_and_off_and_what_was_recorded_is_sent_at_the_end() {
    let collector = Scripted::upstream().await;
    let mut world: World = Setup::new().await.start().await;
    world.ready().await;
    world.get("/off").await.expect_status(200);
    assert_eq!(world.upstream().last().header("traceparent"), None);

    let on = table(&collector.url, "");
    world.change(|text| format!("{text}\n{on}"));
    world.reload().await;
    world.get("/on").await.expect_status(200);
    assert!(world.upstream().last().header("traceparent").is_some());

    world.change(|text| text.replace(&on, ""));
    world.reload().await;
    world.get("/off-again").await.expect_status(200);
    assert_eq!(world.upstream().last().header("traceparent"), None);
    named(&collector, "GET api", 2).await;

    world.change(|text| format!("{text}\n{on}"));
    world.reload().await;
    world.get("/last").await.expect_status(200);
    assert_eq!(world.proxy.stop().await.code(), Some(0));
    assert_eq!(spans(&collector).iter().filter(|span| span.name == "GET api").count(), 4);
}

#[tokio::test]
async fn a_reload_with_a_broken_table_leaves_the_running_one_in_force() {
    let (collector, setup) = traced("").await;
    let mut world = setup.start().await;
    world.ready().await;
    let good = world.config();
    world.change(|text| text.replace("[tracing]\n", "[tracing]\nsample = 2.0\n"));
    world.reload_signal();
    let line = world.log().wait("the error", |line| line.contains("config.problem")).await;
    assert!(line.contains("tracing.sample"), "{line}");
    world.log().wait("the refusal", |line| line.contains("config.reload_failed")).await;
    world.get("/").await.expect_status(200);
    named(&collector, "GET api", 2).await;
    world.change(|_| good);
    world.reload().await;
    world.get("/").await.expect_status(200);
    named(&collector, "GET api", 4).await;
}

#[tokio::test]
async fn a_route_that_removes_the_header_sends_none() {
    let (collector, setup) = traced("").await;
    let world = setup.route("request_headers = { remove = [\"traceparent\"] }").start().await;
    world.exchange(w3c(RawRequest::get("/"), "01")).await.expect_status(200);
    assert_eq!(world.upstream().last().header("traceparent"), None);
    named(&collector, "GET api", 2).await;
}

#[tokio::test]
async fn headers_for_the_collector_come_from_a_file_that_is_read_anew() {
    let (collector, setup) = traced("headers = { x-collector-key = { file = \"key\" } }").await;
    setup.file("key", "first-key\n");
    let world = setup.start().await;
    world.get("/").await.expect_status(200);
    assert_eq!(collector.request(1).await.header("x-collector-key"), Some("first-key"));
    world.file("key", "second-key\n");
    let count = collector.count();
    world.get("/").await.expect_status(200);
    assert_eq!(collector.request(count + 1).await.header("x-collector-key"), Some("second-key"));
}

/// Catalogue of what may never leave in a span.
#[tokio::test]
async fn no_token_secret_query_path_or_header_value_is_in_what_is_exported() {
    let (collector, setup) = traced("headers = { x-collector-key = { file = \"key\" } }").await;
    setup.file("key", "canary-collector");
    setup.issuer.always_this(RawResponse::token("canary-token"));
    setup.upstream.always_this(RawResponse::ok("canary-body").header("x-answer", "canary-answer"));
    let mut world = setup.start().await;
    let call = w3c(RawRequest::post("/canary-path?canary-query=1", "canary-body"), "01")
        .header("x-request-id", "canary-id")
        .header("authorization", "Bearer canary-caller")
        .header("x-any", "canary-header");
    world.exchange(call).await.expect_status(200);
    world.exchange(RawRequest::new("CANARY-METHOD", "/canary-path")).await.expect_status(200);
    world.upstream().next(RawResponse::raw("canary-garbage\r\n\r\n"));
    world.exchange(RawRequest::post("/canary-path", "x")).await;
    assert_eq!(world.proxy.stop().await.code(), Some(0));
    let found = spans(&collector);
    assert!(found.iter().any(|span| span.name == "_OTHER api"), "{found:?}");
    for request in collector.requests() {
        let body = String::from_utf8_lossy(&request.body.data).to_lowercase();
        for canary in ["canary", SECRET, "congo", "t61rcwkgmze", "invalid_token"] {
            assert!(!body.contains(canary), "{canary} was exported: {body:?}");
        }
    }
}
