//! The ways to a collector: both protocols, OpenTelemetry's variables, samplers, and collectors that are in trouble.

use std::io::Read as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use tokio_rustls::TlsAcceptor;
use tonic::codec::CompressionEncoding;
use tonic::metadata::MetadataMap;
use tonic::service::Routes;

use crate::support::wire::accepted;
use crate::support::{RawRequest, RawResponse, Scripted, Setup, World, eventually, tls, within};
use crate::traces::{PARENT, TRACE, attribute, attributes, hex, named, spans, table, traced, w3c};

type Verdict = Result<ExportTraceServiceResponse, tonic::Status>;

/// A collector that speaks gRPC, with the protocol's own service.
struct GrpcCollector {
    url: String,
    got: Arc<Got>,
    task: tokio::task::JoinHandle<()>,
}

struct Got {
    requests: Mutex<Vec<(MetadataMap, ExportTraceServiceRequest)>>,
    verdict: Box<dyn Fn(usize) -> Verdict + Send + Sync>,
}

struct Service(Arc<Got>);

#[tonic::async_trait]
impl TraceService for Service {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        let (metadata, _, message) = request.into_parts();
        let count = {
            let mut requests = self.0.requests.lock().unwrap();
            requests.push((metadata, message));
            requests.len()
        };
        (self.0.verdict)(count).map(tonic::Response::new)
    }
}

impl GrpcCollector {
    /// `verdict` responds to the first request, the second …
    async fn responding(
        tls: Option<Arc<rustls::ServerConfig>>,
        verdict: impl Fn(usize) -> Verdict + Send + Sync + 'static,
    ) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let url = match &tls {
            None => format!("http://127.0.0.1:{port}"),
            Some(_) => format!("https://localhost:{port}"),
        };
        let got = Arc::new(Got { requests: Mutex::default(), verdict: Box::new(verdict) });
        let service =
            TraceServiceServer::new(Service(Arc::clone(&got))).accept_compressed(CompressionEncoding::Gzip);
        let routes = Routes::new(service).prepare();
        let acceptor = tls.map(TlsAcceptor::from);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (routes, acceptor) = (routes.clone(), acceptor.clone());
                tokio::spawn(async move {
                    let Some(stream) = accepted(stream, acceptor).await else { return };
                    let service = TowerToHyperService::new(routes);
                    let _ended = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self { url, got, task }
    }

    async fn start() -> Self {
        Self::responding(None, |_| Ok(ExportTraceServiceResponse::default())).await
    }

    fn metadata(&self, name: &str) -> Option<String> {
        let requests = self.got.requests.lock().unwrap();
        let value = requests.last().and_then(|(metadata, _)| metadata.get(name).cloned());
        value.map(|value| value.to_str().unwrap().to_owned())
    }

    fn count(&self) -> usize {
        self.got.requests.lock().unwrap().len()
    }

    fn spans(&self) -> Vec<Span> {
        let requests = self.got.requests.lock().unwrap();
        let resources = requests.iter().flat_map(|(_, request)| request.resource_spans.clone());
        resources.flat_map(|resource| resource.scope_spans).flat_map(|scope| scope.spans).collect()
    }

    async fn named(&self, name: &str, count: usize) -> Vec<Span> {
        eventually(&format!("{count} spans {name}"), || async {
            let found: Vec<Span> = self.spans().into_iter().filter(|span| span.name == name).collect();
            (found.len() == count).then_some(found)
        })
        .await
    }
}

impl Drop for GrpcCollector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn over_grpc(url: &str, more: &str) -> String {
    table(url, &format!("protocol = \"grpc\"\n{more}"))
}

async fn lost(world: &World) -> f64 {
    world.metric("bearerd_spans_lost_total", &[]).await.unwrap()
}

/// A scene without `[tracing]`, and with these variables.
async fn scene(variables: &[(&str, &str)]) -> Setup {
    let fast = Setup::new().await.env("OTEL_BSP_SCHEDULE_DELAY", "50");
    variables.iter().fold(fast, |setup, (name, value)| setup.env(name, value))
}

#[tokio::test]
async fn spans_go_over_grpc_as_well() {
    let collector = GrpcCollector::start().await;
    let on = over_grpc(&collector.url, "headers = { x-collector-key = { file = \"key\" } }");
    let setup = Setup::new().await.more(&on);
    setup.file("key", "first-key\n");
    let mut world = setup.start().await;
    world.ready().await;
    world.exchange(w3c(RawRequest::get("/invoices"), "01")).await.expect_status(200);
    let found = collector.named("GET api", 2).await;
    assert!(found.iter().all(|span| hex(&span.trace_id) == TRACE), "{found:?}");
    assert_eq!(collector.metadata("x-collector-key").as_deref(), Some("first-key"));
    assert!(collector.metadata("user-agent").unwrap().starts_with("bearerd/"));

    world.file("key", "second-key\n");
    world.exchange(RawRequest::get("/last")).await.expect_status(200);
    assert_eq!(world.proxy.stop().await.code(), Some(0));
    collector.named("GET api", 4).await;
    assert_eq!(collector.metadata("x-collector-key").as_deref(), Some("second-key"));
}

#[tokio::test]
async fn over_grpc_too_a_collector_behind_tls_is_known_by_its_certificate() {
    let fine = |_| Ok(ExportTraceServiceResponse::default());
    let collector = GrpcCollector::responding(Some(tls::localhost().server(&["h2"])), fine).await;
    let setup = Setup::new().await;
    setup.file("ca.pem", &tls::ca().pem);
    let on = over_grpc(&collector.url, "tls = { ca = { file = \"ca.pem\" } }");
    let mut world = setup.more(&on).start().await;
    world.get("/").await.expect_status(200);
    collector.named("GET api", 2).await;

    let stranger = tls::Ca::new("another CA").issue(&["localhost"]);
    let stranger = GrpcCollector::responding(Some(stranger.server(&["h2"])), fine).await;
    world.change(|text| text.replace(&collector.url, &stranger.url));
    world.reload().await;
    world.get("/").await.expect_status(200);
    let line = world.log().wait("the loss", |line| line.contains("tracing.spans_lost")).await;
    assert!(line.contains("certificate"), "{line}");
    assert_eq!(stranger.count(), 0);
}

#[tokio::test]
async fn a_grpc_collector_that_hangs_is_gone_or_refuses_costs_spans_and_not_requests() {
    // Accepts, and says nothing.
    let hangs = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gone = crate::support::nobody();
    let refuses =
        GrpcCollector::responding(None, |_| Err(tonic::Status::permission_denied("canary words"))).await;
    let hanging = format!("http://{}", hangs.local_addr().unwrap());
    for (url, why) in [
        (hanging.as_str(), ""),
        (&format!("http://{gone}"), "is it running"),
        (&refuses.url, "PermissionDenied"),
    ] {
        let mut world = Setup::new().await.more(&over_grpc(url, "timeout = \"1s\"")).start().await;
        for _ in 0..10 {
            within("a request", world.get("/")).await.expect_status(200);
        }
        let line = world.log().wait("the loss", |line| line.contains("tracing.spans_lost")).await;
        assert!(line.contains(url.trim_start_matches("http://")), "{line}");
        assert!(line.contains(why), "{line}");
        assert!(lost(&world).await > 0.0);
        assert!(!world.log().text().contains("canary"), "{}", world.log().text());
        assert_eq!(within("the end", world.proxy.stop()).await.code(), Some(0));
    }
}

/// Connections on which a collector says nothing are given up.
#[tokio::test]
async fn a_grpc_collector_that_hangs_keeps_no_connections() {
    let hangs = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", hangs.local_addr().unwrap());
    let world = Setup::new().await.more(&over_grpc(&url, "timeout = \"1s\"")).start().await;
    let open_files = || async { world.metric("process_open_fds", &[]).await.unwrap() };
    let calling = async {
        let mut client = world.connect().await;
        loop {
            client.exchange(&RawRequest::get("/")).await.expect_status(200);
            tokio::task::yield_now().await;
        }
    };
    let accepting = async {
        let mut held = vec![hangs.accept().await.unwrap().0];
        let before = open_files().await;
        while held.len() < 3 {
            held.push(hangs.accept().await.unwrap().0);
        }
        let after = open_files().await;
        assert!(after <= before + 1.0, "{after} open files, before {before}");
    };
    tokio::select! {
        () = within("three connections", accepting) => {}
        () = calling => unreachable!(),
    }
}

#[tokio::test]
async fn what_a_collector_rejects_is_counted_and_its_words_are_not_logged() {
    let verdict = || ExportTraceServiceResponse {
        partial_success: Some(ExportTracePartialSuccess {
            rejected_spans: 2,
            error_message: "canary words".to_owned(),
        }),
    };
    let grpc = GrpcCollector::responding(None, move |_| Ok(verdict())).await;
    let http = Scripted::upstream().await;
    http.always_this(
        RawResponse::ok(verdict().encode_to_vec()).header("content-type", "application/x-protobuf"),
    );
    for table in [over_grpc(&grpc.url, ""), table(&http.url, "")] {
        let world = Setup::new().await.more(&table).log("level = \"debug\"").start().await;
        world.get("/").await.expect_status(200);
        let line = world.log().wait("the loss", |line| line.contains("tracing.spans_lost")).await;
        assert!(line.contains("rejected"), "{line}");
        assert!(lost(&world).await >= 2.0);
        assert!(!world.log().text().contains("canary"), "{}", world.log().text());
    }
}

#[tokio::test]
async fn a_batch_is_sent_again_when_the_collector_says_so() {
    let (collector, setup) = traced("timeout = \"10s\"").await;
    collector.next(RawResponse::status(503).header("retry-after", "1").body("canary"));
    let world = setup.start().await;
    world.exchange(w3c(RawRequest::get("/"), "01")).await.expect_status(200);
    let first = collector.request(1).await;
    let second = collector.request(2).await;
    assert_eq!(first.body.data, second.body.data);
    assert!(second.at.duration_since(first.at) >= Duration::from_secs(1), "Retry-After is kept to");
    assert_eq!(lost(&world).await, 0.0);
    assert!(!world.log().text().contains("tracing.spans_lost"));

    // Over gRPC, UNAVAILABLE says so.
    let busy = GrpcCollector::responding(None, |count| match count {
        1 => Err(tonic::Status::unavailable("canary")),
        _ => Ok(ExportTraceServiceResponse::default()),
    })
    .await;
    let world = Setup::new().await.more(&over_grpc(&busy.url, "")).start().await;
    world.get("/").await.expect_status(200);
    eventually("the batch again", || async { (busy.count() >= 2).then_some(()) }).await;
    assert_eq!(lost(&world).await, 0.0);
}

#[tokio::test]
async fn what_was_not_sent_at_the_end_is_reported_and_the_end_is_not_held_up() {
    let grpc = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let grpc = over_grpc(&format!("http://{}", grpc.local_addr().unwrap()), "");
    let (collector, _) = traced("").await;
    collector.always_this(RawResponse::hang());
    for table in [grpc, table(&collector.url, "")] {
        let mut world = Setup::new().await.more(&table).start().await;
        world.get("/").await.expect_status(200);
        assert_eq!(within("the end", world.proxy.stop()).await.code(), Some(0));
        let line = world.log().wait("the loss", |line| line.contains("tracing.spans_lost")).await;
        assert!(line.contains("before the end of the process"), "{line}");
    }
}

#[tokio::test]
async fn the_environment_alone_turns_traces_on() {
    let collector = Scripted::upstream().await;
    let setup = scene(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("{}/otlp", collector.url)),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-collector-key=a%20b,x-other=c"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
        ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=prod,service.name=unused"),
        ("OTEL_SERVICE_NAME", "billing"),
    ])
    .await;
    let mut world = setup.start().await;
    world.exchange(w3c(RawRequest::get("/"), "01")).await.expect_status(200);
    assert_eq!(world.proxy.stop().await.code(), Some(0));
    let requests = collector.requests();
    let mut names = Vec::new();
    for request in &requests {
        assert_eq!(request.target(), "/otlp/v1/traces");
        assert_eq!(request.header("x-collector-key"), Some("a b"));
        assert_eq!(request.header("x-other"), Some("c"));
        assert_eq!(request.header("content-encoding"), Some("gzip"));
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(&request.body.data[..]).read_to_end(&mut plain).unwrap();
        let message = ExportTraceServiceRequest::decode(&plain[..]).unwrap();
        let resource = attributes(&message.resource_spans[0].resource.as_ref().unwrap().attributes);
        assert_eq!(resource["service.name"], "billing");
        assert_eq!(resource["service.version"], env!("CARGO_PKG_VERSION"));
        assert_eq!(resource["deployment.environment.name"], "prod");
        assert_eq!(resource["telemetry.sdk.language"], "rust");
        let spans = message.resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
        names.extend(spans.flat_map(|scope| scope.spans).map(|span| span.name));
    }
    assert_eq!(names.iter().filter(|name| *name == "GET api").count(), 2, "{names:?}");
    assert!(!world.log().text().contains("a b"), "values of headers are secret");
}

#[tokio::test]
async fn the_environment_says_grpc_and_which_certificate() {
    let fine = |_| Ok(ExportTraceServiceResponse::default());
    let collector = GrpcCollector::responding(Some(tls::localhost().server(&["h2"])), fine).await;
    // Without a scheme TLS is meant.
    let endpoint = collector.url.trim_start_matches("https://");
    let setup = scene(&[
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", endpoint),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-collector-key=abc"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "ca.pem"),
    ])
    .await;
    setup.file("ca.pem", &tls::ca().pem);
    let world = setup.start().await;
    world.get("/").await.expect_status(200);
    collector.named("GET api", 2).await;
    assert_eq!(collector.metadata("x-collector-key").as_deref(), Some("abc"));
    assert_eq!(collector.metadata("grpc-encoding").as_deref(), Some("gzip"));
}

#[tokio::test]
async fn the_environment_turns_traces_off_and_says_so() {
    let (collector, setup) = traced("").await;
    let mut world = setup.env("OTEL_SDK_DISABLED", "true").start().await;
    let odd = "00-NOT-A-CONTEXT-01";
    world.exchange(RawRequest::get("/").header("traceparent", odd)).await.expect_status(200);
    assert_eq!(world.upstream().last().header("traceparent"), Some(odd));
    let line = world.log().wait("the warning", |line| line.contains("config.warning")).await;
    assert!(line.contains("OTEL_SDK_DISABLED turns traces off"), "{line}");
    assert_eq!(world.proxy.stop().await.code(), Some(0));
    assert_eq!(collector.count(), 0);
}

#[tokio::test]
async fn a_variable_that_cannot_be_used_is_reported_at_the_start() {
    let world =
        scene(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector.example:4318")]).await.start().await;
    world.get("/").await.expect_status(200);
    assert_eq!(world.upstream().last().header("traceparent"), None);
    let line = world.log().wait("the warning", |line| line.contains("config.warning")).await;
    assert!(line.contains("OTEL_EXPORTER_OTLP_ENDPOINT") && line.contains("there are no traces"), "{line}");
}

/// What each sampler makes of a request that begins a trace, of one whose caller records, and of one whose caller does not.
#[tokio::test]
async fn samplers_are_those_that_operators_know() {
    for (sampler, share, file, recorded) in [
        ("always_on", None, "", [true, true, true]),
        ("always_off", None, "", [false, false, false]),
        ("traceidratio", Some("0"), "", [false, false, false]),
        ("parentbased_always_off", None, "", [false, true, false]),
        ("parentbased_traceidratio", Some("1.0"), "", [true, true, false]),
        ("parentbased_traceidratio", Some("0.0"), "", [false, true, false]),
        // The file goes before the variable.
        ("always_off", None, "sample = 1.0", [true, true, false]),
    ] {
        let (collector, setup) = traced(file).await;
        let share = share.unwrap_or_default();
        let setup = setup.env("OTEL_TRACES_SAMPLER", sampler).env("OTEL_TRACES_SAMPLER_ARG", share);
        let mut world = setup.start().await;
        world.ready().await;
        let mut expected = 0;
        for (call, recorded) in
            [RawRequest::get("/"), w3c(RawRequest::get("/"), "01"), w3c(RawRequest::get("/"), "00")]
                .into_iter()
                .zip(recorded)
        {
            world.exchange(call).await.expect_status(200);
            let sent = world.upstream().last().header("traceparent").unwrap().to_owned();
            let flags = u8::from_str_radix(&sent[53..], 16).unwrap();
            assert_eq!(flags & 1 == 1, recorded, "{sampler}: {sent}");
            expected += if recorded { 2 } else { 0 };
        }
        assert_eq!(world.proxy.stop().await.code(), Some(0));
        let found = spans(&collector).iter().filter(|span| span.name == "GET api").count();
        assert_eq!(found, expected, "{sampler}");
    }
}

#[tokio::test]
async fn a_tracestate_goes_up_as_it_came_in_every_line_and_no_span_has_it() {
    let (collector, setup) = traced("").await;
    let world = setup.start().await;
    world.ready().await;
    let call = RawRequest::get("/").header("traceparent", &format!("00-{TRACE}-{PARENT}-03"));
    let call = call.header("tracestate", "rojo=1 , congo=canary").header("tracestate", "v@z=2");
    world.exchange(call).await.expect_status(200);
    let up = world.upstream().last();
    assert_eq!(up.headers("tracestate"), ["rojo=1 , congo=canary", "v@z=2"]);
    // A trace ID that its maker marks as random stays so.
    assert!(up.header("traceparent").unwrap().ends_with("-03"));
    for span in named(&collector, "GET api", 2).await {
        assert_eq!(span.trace_state, "");
        assert_eq!(attribute(&span, "http.request.method"), "GET");
    }

    let many = (0..33).map(|n| format!("k{n}=v")).collect::<Vec<_>>().join(",");
    for bad in ["UPPER=1", "a", "a=1=2", &many] {
        world.exchange(w3c(RawRequest::get("/"), "01").header("tracestate", bad)).await.expect_status(200);
        let up = world.upstream().last();
        assert!(up.header("traceparent").unwrap().contains(TRACE));
        assert_eq!(up.header("tracestate"), None, "{bad}");
    }
}
