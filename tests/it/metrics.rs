//! `/metrics` of a program that is busy, fails and reloads, read by tools of the field.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use bearerd::metrics::FAMILIES;

use crate::support::python::python;
use crate::support::tls::localhost;
use crate::support::{Client, RawRequest, RawResponse, Setup, World, eventually, within};

/// Every family has a sample: requests that succeed and that fail, a CONNECT, tokens with a store and a budget, reloads of both
/// kinds, a certificate.
async fn busy() -> World {
    let server = localhost();
    let more = "[listener.tls]\naddress = \"127.0.0.1:0\"\n\
                tls = { certificate = { file = \"server.pem\" }, private_key = { file = \"server.key\" } }\n\
                [listener.forward]\naddress = \"127.0.0.1:0\"\nserve = \"forward\"\n\
                [store]\npath = \"store\"\nkeys = [{ file = \"store.key\" }]\ntimeout = \"5s\"\n\
                [issuer.bad]\ntoken_url = \"{issuer}/bad\"\nclient_id = \"c\"\nclient_secret = { file = \"secret\" }\n\
                [[route]]\nname = \"refused\"\npath_prefix = \"/refused\"\nupstream = \"{upstream}\"\nissuer = \"bad\"\n";
    let setup = Setup::new().await.issuer("budget = { requests = 100, per = \"1h\" }\n").more(more);
    setup.file("store.key", "ab".repeat(32));
    setup.file("server.pem", &server.certificate_pem);
    setup.file("server.key", &server.key_pem);
    setup.issuer.always(|request, n| match request.target() {
        "/bad" => RawResponse::oauth_error(401, "invalid_client"),
        _ => RawResponse::token(&format!("token-{n}")),
    });
    setup.upstream.next(RawResponse::ok("first")).next(RawResponse::unauthorized());
    let mut world = setup.start().await;
    world.get("/").await.expect_status(200);
    world.get("/").await.expect_status(200);
    world.get("/refused").await.expect_problem(502, "token_refused");
    world.exchange(RawRequest::get("/").host("nobody.test")).await.expect_problem(421, "misdirected");
    let connect = RawRequest::new("CONNECT", "nobody.test:443").host("nobody.test:443");
    let refused = Client::tcp(world.address("forward")).await.exchange(&connect).await;
    refused.expect_problem(403, "caller_refused");
    let mut stranger = Client::tcp(world.address("admin")).await;
    stranger.wire.send("no request\r\n\r\n").await.unwrap();
    stranger.response().await.expect_status(400);
    world.reload().await;
    world.change(|text| format!("nonsense = 1\n{text}"));
    world.reload().await;
    eventually("the certificate to be read", || async {
        world.metric("bearerd_certificate_expiry_timestamp_seconds", &[("name", "tls")]).await
    })
    .await;
    world
}

/// What the program says on `text`, and how it ends.
async fn piped(mut command: Command, text: &str, install: &str) -> (bool, String) {
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.unwrap_or_else(|error| panic!("{command:?}: {error}: {install}"));
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(text.as_bytes()).await.unwrap();
    drop(stdin);
    let output = within("the tool to end", child.wait_with_output()).await.unwrap();
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.success(), said)
}

#[tokio::test]
#[ignore = "needs promtool"]
async fn promtool_has_no_complaint_about_metrics() {
    let world = busy().await;
    let response = world.admin("/metrics").await;
    assert_eq!(response.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let text = response.text();
    for family in FAMILIES {
        let sample = |line: &&str| !line.starts_with('#') && line.starts_with(family.name);
        assert!(text.lines().any(|line| sample(&line)), "no sample of {}", family.name);
    }
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]);
    let (fine, said) = piped(promtool, &text, "install the package prometheus").await;
    assert!(fine && said.is_empty(), "{said}");
}

#[tokio::test]
#[ignore = "needs python3"]
async fn openmetrics_is_read_by_its_reference_parser() {
    let world = busy().await;
    let call = RawRequest::get("/metrics").header("accept", "application/openmetrics-text; version=1.0.0");
    let response = Client::tcp(world.address("admin")).await.exchange(&call).await;
    assert!(response.header("content-type").unwrap().starts_with("application/openmetrics-text"));
    let mut parser = Command::new(python("openmetrics").await);
    parser.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/openmetrics/parse.py"));
    let (fine, said) = piped(parser, &response.text(), "install python3").await;
    assert!(fine, "{said}");
    let parsed: BTreeMap<&str, &str> = said
        .lines()
        .map(|line| line.rsplit_once(' ').unwrap())
        .filter(|(_, samples)| *samples != "0")
        .map(|(family, _)| family.split_once(' ').unwrap())
        .collect();
    let wanted: BTreeMap<&str, &str> = FAMILIES
        .iter()
        .map(|family| (family.name.trim_end_matches("_total"), family.kind.as_str()))
        .collect();
    assert_eq!(parsed, wanted);
}

#[tokio::test]
async fn metrics_of_the_process_are_what_the_kernel_says() {
    let world = busy().await;
    let metrics = world.metrics().await;
    let value = |name: &str| crate::support::metrics::sum(&metrics, name, &[]).unwrap();
    let resident = value("process_resident_memory_bytes") / 1024.0;
    let kernel = world.memory() as f64;
    assert!((resident / kernel - 1.0).abs() < 0.5, "{resident} KiB, the kernel says {kernel}");
    let folder = format!("/proc/{}/fd", world.pid().as_raw_nonzero());
    let open = f64::from(u32::try_from(std::fs::read_dir(folder).unwrap().count()).unwrap());
    assert!((value("process_open_fds") - open).abs() <= 5.0, "{open} are open");
    assert!(value("process_max_fds") > value("process_open_fds"));
    assert!(value("process_cpu_seconds_total") > 0.0);
    let (started, now) = (value("process_start_time_seconds"), crate::support::unix_now());
    assert!(now - 60.0 < started && started <= now, "{started} is not a moment ago");
}

#[tokio::test]
async fn readiness_failures_and_throttling_are_counted() {
    let setup = Setup::new().await;
    setup.issuer.always_this(RawResponse::status(429).header("retry-after", "1"));
    let world = setup.start().await;
    world.get("/").await.expect_problem(503, "token_unavailable");
    let api = [("route", "api"), ("issuer", "corp")];
    assert_eq!(world.metric("bearerd_ready", &[]).await, Some(0.0));
    assert!(world.metric("bearerd_token_consecutive_failures", &api).await >= Some(1.0));
    assert!(world.metric("bearerd_token_requests_total", &[("outcome", "throttled")]).await >= Some(1.0));
    let code = [("route", "api"), ("code", "token_unavailable")];
    assert_eq!(world.metric("bearerd_failures_total", &code).await, Some(1.0));
    world.issuer().always_this(RawResponse::token("t"));
    world.ready().await;
    assert_eq!(world.metric("bearerd_ready", &[]).await, Some(1.0));
    assert_eq!(world.metric("bearerd_token_consecutive_failures", &api).await, Some(0.0));
}
