//! Every line of ours has its event: in the sources, in the document, in what a run writes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::h2::{H2Client, whole};
use crate::support::{RawRequest, RawResponse, Setup, World, eventually, within};

/// What is known of an event: levels and fields.
type Events = BTreeMap<String, (BTreeSet<String>, BTreeSet<String>)>;

/// Lines that are written without the macros of `tracing`.
const BY_HAND: [(&str, &str); 1] = [("log.lines_dropped", "warn")];

const LEVELS: [&str; 5] = ["trace", "debug", "info", "warn", "error"];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if name == "tests" || name == "tests.rs" || name == "fuzz.rs" {
            continue;
        }
        if path.is_dir() {
            sources(&path, found);
        } else if name.ends_with(".rs") {
            found.push(path);
        }
    }
}

/// The arguments of the request whose opening bracket was just passed, split at the commas of the outermost level.
fn arguments(text: &str) -> Vec<String> {
    let (mut found, mut depth, mut quoted, mut escaped) = (vec![String::new()], 0, false, false);
    for char in text.chars() {
        match char {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ if quoted => {}
            '(' | '[' | '{' => depth += 1,
            ')' if depth == 0 => break,
            ')' | ']' | '}' => depth -= 1,
            ',' if depth == 0 => {
                found.push(String::new());
                continue;
            }
            _ => {}
        }
        found.last_mut().unwrap().push(char);
    }
    found.iter().map(|argument| argument.trim().to_owned()).filter(|argument| !argument.is_empty()).collect()
}

/// Every request of a logging macro in the sources, tests left out.
fn in_sources() -> Events {
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    let mut events = Events::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        // Tests in the file itself come last.
        let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        for level in LEVELS {
            let mut rest = text;
            while let Some(at) = rest.find(&format!("{level}!(")) {
                rest = &rest[at + level.len() + 2..];
                one_request(&file, level, rest, &mut events);
            }
        }
    }
    for (name, level) in BY_HAND {
        events.entry(name.to_owned()).or_default().0.insert(level.to_owned());
    }
    events
}

fn one_request(file: &Path, level: &str, text: &str, events: &mut Events) {
    let mut arguments = arguments(text).into_iter().filter(|argument| !argument.starts_with("target:"));
    let first = arguments.next().unwrap_or_default();
    let name = first.strip_prefix("event = \"").and_then(|rest| rest.strip_suffix('"'));
    let Some(name) = name else {
        panic!("{}: the first field of this {level}! is no event: {first}", file.display());
    };
    let plain = |char: char| char.is_ascii_lowercase() || char.is_ascii_digit() || matches!(char, '_' | '.');
    assert!(name.chars().all(plain) && name.matches('.').count() <= 1, "{}: {name}", file.display());
    let event = events.entry(name.to_owned()).or_default();
    event.0.insert(level.to_owned());
    for field in arguments.take_while(|argument| !argument.starts_with('"')) {
        let field = field.split('=').next().unwrap().trim().trim_start_matches(['%', '?']);
        event.1.insert(field.to_owned());
    }
}

fn in_document() -> Events {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/logs.md")).unwrap();
    let table = text.split("## Events").nth(1).expect("the table of events");
    let mut events = Events::new();
    for row in table.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [event, levels, fields, meaning, remedy] = cells[..] else { panic!("five cells: {row}") };
        assert!(!meaning.is_empty(), "{row}");
        let loud = levels.contains("warn") || levels.contains("error");
        assert!(!loud || !remedy.is_empty() || event == "`shutdown.forced`", "what to do? {row}");
        let list = |cell: &str| cell.split(", ").filter(|name| !name.is_empty()).map(unquoted).collect();
        let before = events.insert(unquoted(event), (list(levels), list(fields)));
        assert!(before.is_none(), "twice: {row}");
    }
    events
}

fn unquoted(name: &str) -> String {
    name.trim_matches('`').to_owned()
}

#[test]
fn every_log_line_has_its_event_and_every_event_its_row() {
    let (built, documented) = (in_sources(), in_document());
    assert!(built.len() > 40, "{} events were found", built.len());
    for (name, found) in &built {
        assert_eq!(documented.get(name), Some(found), "docs/logs.md, event {name} (levels, fields)");
    }
    let unknown: Vec<_> = documented.keys().filter(|name| !built.contains_key(*name)).collect();
    assert!(unknown.is_empty(), "docs/logs.md has events that nothing logs: {unknown:?}");
}

#[tokio::test]
async fn every_json_line_of_a_run_has_its_time_its_level_and_its_event() {
    let mut world = Setup::new().await.log("format = \"json\"\nlevel = \"trace\"").start().await;
    world.get("/fine").await.expect_status(200);
    world.upstream().next(RawResponse::unauthorized());
    world.get("/refused").await.expect_status(200);
    world.exchange(RawRequest::get("/").host("elsewhere.test")).await.expect_status(421);
    world.change(|text| format!("nonsense = 1\n{text}"));
    world.reload().await;
    world.change(|text| text.replacen("nonsense = 1\n", "", 1));
    world.reload().await;
    let status = world.proxy.stop().await;
    assert_eq!(status.code(), Some(0));
    world.log().wait("the end", |line| line.contains("shutdown.finished")).await;

    let known = in_document();
    let mut seen = BTreeSet::new();
    for line in world.log().lines() {
        let value: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let text =
            |name: &str| value[name].as_str().unwrap_or_else(|| panic!("no {name}: {line}")).to_owned();
        assert!(humantime::parse_rfc3339(&text("timestamp")).is_ok(), "{line}");
        let level = text("level").to_lowercase();
        assert!(LEVELS.contains(&level.as_str()), "{line}");
        let ours = text("target").split("::").next() == Some("bearerd");
        assert_eq!(ours, value.get("event").is_some(), "{line}");
        if ours {
            let (levels, _) = known.get(&text("event")).unwrap_or_else(|| panic!("not documented: {line}"));
            assert!(levels.contains(&level), "{line}");
            assert!(line.contains(&format!(r#","target":"{}","event":"#, text("target"))), "{line}");
            seen.insert(text("event"));
        }
    }
    for event in ["access", "config.problem", "config.reload_failed", "config.reloaded", "process.started"] {
        assert!(seen.contains(event), "{event} was not logged, only {seen:?}");
    }
    for event in ["listener.opened", "shutdown.started", "token.fetched", "token.replaced"] {
        assert!(seen.contains(event), "{event} was not logged, only {seen:?}");
    }
}

#[tokio::test]
async fn a_level_that_is_changed_in_the_file_holds_from_the_reload_on() {
    let mut world = Setup::new().await.log("level = \"info\"").start().await;
    let call = |id: &'static str| RawRequest::get("/").header("X-Request-Id", id);
    world.exchange(call("loud-before")).await.expect_status(200);
    world.log().wait("the first request", |line| line.contains("loud-before")).await;
    assert!(!world.log().text().contains("token.request"), "that is debug");

    world.change(|text| text.replace("level = \"info\"", "level = \"error\""));
    world.reload().await;
    world.exchange(call("quiet")).await.expect_status(200);

    world.change(|text| {
        text.replace("level = \"error\"", "level = \"warn,bearerd::access=info,bearerd::issuer=debug\"")
    });
    world.reload().await;
    world.file("secret", "another secret, so that another token is asked for");
    world.upstream().next(RawResponse::unauthorized());
    world.exchange(call("loud-again")).await.expect_status(200);
    world.log().wait("the last request", |line| line.contains("loud-again")).await;
    world.log().wait("the token request", |line| line.contains("\"event\":\"token.request\"")).await;
    assert!(!world.log().text().contains("\"quiet\""), "{}", world.log().text());
}

/// The access line of the request to this path: whether its response broke off.
async fn broke_off(world: &World, path: &str) -> bool {
    let line = eventually(&format!("the access line of {path}"), || async {
        let lines = world.log().events();
        lines.into_iter().find(|line| line["event"] == "access" && line["path"] == path)
    })
    .await;
    line["broken"] == true
}

const CHUNKED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";

#[tokio::test]
async fn access_line_says_of_a_response_that_it_broke_off_whoever_broke_it() {
    let setup = Setup::new().await.log("format = \"json\"").top("shutdown_timeout = \"1s\"");
    setup.upstream.always(|_, _| RawResponse::raw(format!("{CHUNKED}4\r\nhalf\r\n")).then_hang());
    let mut world = setup.start().await;

    let mut client = world.connect().await;
    client.send(&RawRequest::get("/left")).await;
    client.head().await;
    drop(client);
    assert!(broke_off(&world, "/left").await, "its caller left");

    let mut client = H2Client::plain(world.address("main")).await;
    let request = client.request("GET", "/reset").body(whole("")).unwrap();
    drop(client.open(request).await.unwrap());
    assert!(broke_off(&world, "/reset").await, "its caller reset the stream");

    let mut client = world.connect().await;
    client.send(&RawRequest::get("/cut")).await;
    client.head().await;
    within("the end", world.proxy.stop()).await;
    assert!(broke_off(&world, "/cut").await, "bearerd ended");
}

#[tokio::test]
async fn access_line_of_a_whole_response_does_not_say_that_it_broke_off() {
    let responses = [
        ("/length", RawResponse::ok("whole")),
        ("/none", RawResponse::ok("")),
        ("/chunks", RawResponse::raw(format!("{CHUNKED}4\r\nhalf\r\n0\r\n\r\n"))),
        ("/trailers", RawResponse::raw(format!("{CHUNKED}4\r\nhalf\r\n0\r\nx-sum: 1\r\n\r\n"))),
        ("/close", RawResponse::raw("HTTP/1.1 200 OK\r\n\r\nwhole").then_close()),
        ("/204", RawResponse::raw("HTTP/1.1 204 No Content\r\n\r\n")),
        ("/304", RawResponse::raw("HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n")),
        ("/502", RawResponse::drop()),
    ];
    let setup = Setup::new().await.log("format = \"json\"");
    let played = responses.clone();
    setup.upstream.always(move |request, _| {
        let (_, path) = request.target().split_at(3);
        played.iter().find(|(of, _)| *of == path).expect("a known path").1.clone()
    });
    let world = setup.start().await;
    let mut http2 = H2Client::plain(world.address("main")).await;
    for (path, _) in responses {
        for method in ["GET", "HEAD"] {
            if method == "HEAD" && ["/chunks", "/trailers"].contains(&path) {
                continue;
            }
            let http1 = format!("/{}1{path}", &method[..1]);
            world.connect().await.exchange(&RawRequest::new(method, &http1)).await;
            assert!(!broke_off(&world, &http1).await, "{method} {path}");
            let over_http2 = format!("/{}2{path}", &method[..1]);
            let request = http2.request(method, &over_http2).body(whole("")).unwrap();
            http2.exchange(request).await;
            assert!(!broke_off(&world, &over_http2).await, "{method} {path} over HTTP/2");
        }
    }
}
