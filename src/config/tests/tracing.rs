//! `[tracing]`.

use super::{lines, load, with};
use crate::config::Tracing;

fn tracing(table: &str) -> Option<std::sync::Arc<Tracing>> {
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
    assert_eq!((plain.service_name.as_str(), plain.sample), ("bearerd", 1.0));
    let written = "endpoint = \"http://127.0.0.1:4318\"\nservice_name = \"bearerd\"\nsample = 1.0\ntimeout = \"10s\"\n\
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
