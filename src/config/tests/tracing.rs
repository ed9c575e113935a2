//! `[tracing]`.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::{lines, load, load_beside, with};
use crate::config::environment::OtelVariables;
use crate::config::{Source, Tracing};

fn tracing(table: &str) -> Option<Arc<Tracing>> {
    let text = format!("[tracing]\n{table}\n{}", with("", ""));
    load(&text).unwrap_or_else(|problems| panic!("{problems}")).tracing
}

#[test]
fn without_an_endpoint_there_are_no_traces() {
    assert_eq!(load(&with("", "")).unwrap().tracing, None);
    assert_eq!(tracing("sample = 0.5"), None);
}

#[test]
fn defaults_are_what_the_schema_says() {
    let plain = tracing("endpoint = \"http://127.0.0.1:4318\"").unwrap();
    assert_eq!(plain.endpoint.path_and_query, "/v1/traces");
    // What the environment may say is left to it; else these are "bearerd" and 1.0.
    assert_eq!((&plain.service_name, plain.sample), (&None, None));
    let written = "endpoint = \"http://127.0.0.1:4318\"\nprotocol = \"http/protobuf\"\ntimeout = \"10s\"\n\
                   plaintext = \"refuse\"\nheaders = {}";
    assert_eq!(tracing(written), Some(plain));
    let own = tracing("endpoint = \"https://c.example/otlp/v1/traces\"\ntimeout = \"0s\"").unwrap();
    assert_eq!((own.endpoint.path_and_query.as_str(), own.timeout), ("/otlp/v1/traces", None));
}

#[test]
fn mistakes_are_told() {
    for (table, words) in [
        ("endpoint = \"127.0.0.1:4318\"", "is no absolute URL"),
        ("endpoint = \"http://127.0.0.1:4318?key=1\"", "the URL has a query"),
        ("endpoint = \"http://collector.example:4318\"", "http:// to another machine"),
        ("endpoint = \"http://127.0.0.1:4318\"\nsample = 1.5", "is no share"),
        ("endpoint = \"http://127.0.0.1:4318\"\nservice_name = \"\"", "is no name"),
        ("endpoint = \"http://127.0.0.1:4318\"\nheaders = { host = \"x\" }", "belongs to the connection"),
        (
            "endpoint = \"http://u:p@127.0.0.1:4318\"",
            "bearerd.toml:2:1: error: tracing.endpoint: the URL holds a user",
        ),
        (
            "endpoint = \"http://127.0.0.1:4318\"\nsample = nan",
            "bearerd.toml:3:1: error: tracing.sample: is no share",
        ),
        ("endpoint = \"http://127.0.0.1:4318\"\nservice_name = \"a\\nb\"", "is no name"),
        ("endpoint = \"http://127.0.0.1:4318\"\ntimeout = \"soon\"", "is not a duration"),
        (
            "endpoint = \"http://127.0.0.1:4318\"\nplaintext = \"maybe\"",
            "is not one of \"refuse\", \"allow\"",
        ),
        ("endpoint = \"http://127.0.0.1:4318\"\ntls = { sever_name = \"x\" }", "did you mean `server_name`?"),
        (
            "endpoint = \"http://127.0.0.1:4318\"\nprotocol = \"http/json\"",
            "is not one of \"http/protobuf\", \"grpc\"",
        ),
        ("endpoint = \"http://127.0.0.1:4317/v1/traces\"\nprotocol = \"grpc\"", "the URL has a path"),
        ("endpont = \"http://127.0.0.1:4318\"", "did you mean `endpoint`?"),
    ] {
        let Err(problems) = load(&format!("[tracing]\n{table}\n{}", with("", ""))) else { panic!("{table}") };
        assert!(problems.to_string().contains(words), "{table}: {problems}");
    }
    let allowed = format!(
        "[tracing]\nendpoint = \"http://collector.example:4318\"\nplaintext = \"allow\"\n{}",
        with("", "")
    );
    assert_eq!(load(&allowed).unwrap().warnings.len(), 1);
    assert_eq!(lines(&with("", "")), [""; 0]);
}

/// The table and the variables together, and what is warned about.
fn together(table: &str, variables: &[(&str, &str)]) -> (Option<Arc<Tracing>>, Vec<String>) {
    let table = if table.is_empty() { String::new() } else { format!("[tracing]\n{table}\n") };
    let config = load_beside(&format!("{table}{}", with("", "")), &OtelVariables::of(variables));
    let config = config.unwrap_or_else(|problems| panic!("{problems}"));
    (config.tracing, config.warnings.iter().map(|warning| warning.message.clone()).collect())
}

/// As [`together`], where nothing is warned about and there are traces.
fn on(table: &str, variables: &[(&str, &str)]) -> Arc<Tracing> {
    let (tracing, warnings) = together(table, variables);
    assert_eq!(warnings, [""; 0], "{variables:?}");
    tracing.unwrap_or_else(|| panic!("no traces with {variables:?}"))
}

const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318");

#[test]
fn the_environment_says_what_the_file_does_not() {
    for (variables, host, port, path) in [
        (vec![ENDPOINT], "127.0.0.1", 4318, "/v1/traces"),
        (
            vec![("OTEL_EXPORTER_OTLP_ENDPOINT", "https://c.example:1/otlp/")],
            "c.example",
            1,
            "/otlp/v1/traces",
        ),
        (
            vec![ENDPOINT, ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://c.example/own")],
            "c.example",
            443,
            "/own",
        ),
        (
            vec![("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"), ("OTEL_EXPORTER_OTLP_ENDPOINT", "c.example:4317")],
            "c.example",
            4317,
            "/",
        ),
        (
            vec![
                ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c.example:4318"),
                ("OTEL_EXPORTER_OTLP_INSECURE", "true"),
            ],
            "c.example",
            4318,
            "/v1/traces",
        ),
    ] {
        let url = &on("", &variables).endpoint;
        assert_eq!((url.host.as_str(), url.port, url.path_and_query.as_str()), (host, port, path));
    }
    let tracing = on(
        "sample = 0.5",
        &[
            ENDPOINT,
            ("OTEL_SERVICE_NAME", "billing"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "1500"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/etc/ca.pem"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "100"),
            ("OTEL_BSP_SCHEDULE_DELAY", "50"),
            ("OTEL_TRACES_SAMPLER", "always_off"),
        ],
    );
    assert_eq!((tracing.service_name.as_deref(), tracing.sample), (Some("billing"), Some(0.5)));
    assert_eq!(tracing.timeout, Some(Duration::from_millis(1500)));
    assert_eq!(tracing.tls.ca.as_ref().and_then(Source::path), Some(Path::new("/etc/ca.pem")));
    assert_eq!((tracing.batches.queue, tracing.batches.most), (100, 100));
    assert_eq!(tracing.batches.delay, Duration::from_millis(50));
}

#[test]
fn the_file_goes_before_the_environment() {
    let written = "endpoint = \"http://127.0.0.1:1\"\nprotocol = \"grpc\"\nservice_name = \"own\"\n\
                   timeout = \"3s\"\ntls = {}";
    let variables = [
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:2"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ("OTEL_SERVICE_NAME", "other"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "1"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/etc/ca.pem"),
    ];
    assert_eq!(on(written, &variables), on(written, &[]));
}

#[test]
fn the_environment_turns_traces_off() {
    for off in [("OTEL_SDK_DISABLED", "True"), ("OTEL_TRACES_EXPORTER", "none")] {
        assert_eq!(together("", &[ENDPOINT, off]), (None, Vec::new()));
        let (tracing, warnings) = together("endpoint = \"http://127.0.0.1:4318\"", &[off]);
        assert_eq!((tracing, warnings), (None, vec![format!("{} turns traces off", off.0)]));
    }
    assert_eq!(together("", &[("OTEL_SERVICE_NAME", "a"), ("OTEL_PROPAGATORS", "b3")]), (None, Vec::new()));
    assert_eq!(together("", &[("OTEL_EXPORTER_OTLP_ENDPOINT", " ")]), (None, Vec::new()));
}

#[test]
fn a_variable_that_cannot_be_used_is_a_warning_and_keeps_nothing_from_starting() {
    for (name, value, words) in [
        (
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
            "127.0.0.1:4318",
            "is no absolute URL, so there are no traces",
        ),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://c.example:4318", "http:// to another machine"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1?a=b", "the URL has a query"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json", "is neither http/protobuf nor grpc"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s", "is no whole number"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd", "is neither gzip nor none"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "key=value,hunter2", "1 of its entries"),
        ("OTEL_TRACES_SAMPLER", "jaeger_remote", "is no sampler that bearerd has"),
        ("OTEL_TRACES_SAMPLER", "traceidratio", "OTEL_TRACES_SAMPLER_ARG: is no share"),
        ("OTEL_TRACES_EXPORTER", "zipkin", "is neither otlp nor none"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0", "is not between 1 and"),
        ("OTEL_BSP_SCHEDULE_DELAY", "-1", "is no whole number"),
        ("OTEL_PROPAGATORS", "b3", "has no effect"),
    ] {
        let (tracing, warnings) = together("", &[ENDPOINT, (name, value)]);
        assert_eq!(tracing.is_none(), name.contains("ENDPOINT"), "{name}");
        let [warning] = warnings.as_slice() else { panic!("{name}: {warnings:?}") };
        assert!(warning.contains(words) && warning.starts_with("OTEL_"), "{warning}");
        assert!(!warning.contains("hunter2"), "{warning}");
    }
}
