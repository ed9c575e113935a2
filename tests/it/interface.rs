//! Sentences of the interface that no other file pins: what the command prints, defaults, the form of errors.

use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use tokio::fs::File;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};

use crate::support::cli::{command, run, run_with};
use crate::support::h2::{H2Client, whole};
use crate::support::tls::{ca, localhost};
use crate::support::{RawRequest, RawResponse, Setup, terminal, within};

/// Every default that the interface promises, by the schema's definition (empty: the top level).
const DEFAULTS: &[(&str, &str, &str)] = &[
    ("", "workers", "1"),
    ("", "drain_delay", "\"0s\""),
    ("", "shutdown_timeout", "\"30s\""),
    ("Limits", "header_bytes", "\"32KiB\""),
    ("Limits", "header_count", "100"),
    ("Limits", "header_timeout", "\"10s\""),
    ("Limits", "keep_alive", "\"75s\""),
    ("Limits", "connections", "10000"),
    ("Limits", "waiters", "10000"),
    ("Log", "format", "\"text\""),
    ("Log", "level", "\"info\""),
    ("Log", "access", "true"),
    ("Admin", "address", "\"127.0.0.1:9180\""),
    ("Listener", "address", "\"127.0.0.1:8080\""),
    ("Listener", "origins", "[]"),
    ("Listener", "callers", "\"local\""),
    ("Listener", "mode", "\"0600\""),
    ("Issuer", "required", "true"),
    ("Issuer", "grant_type", "\"client_credentials\""),
    ("Issuer", "method", "\"POST\""),
    ("Issuer", "body", "\"form\""),
    ("Issuer", "send_client_id", "false"),
    ("Issuer", "client_auth", "\"client_secret_basic\""),
    ("Issuer", "basic_encoding", "\"form\""),
    ("Issuer", "refresh_at", "0.8"),
    ("Issuer", "default_lifetime", "\"5m\""),
    ("Issuer", "timeout", "\"10s\""),
    ("Response", "token", "\"/access_token\""),
    ("Response", "type", "\"/token_type\""),
    ("Response", "expires_in", "\"/expires_in\""),
    ("Response", "expires_at", "\"/expires_on\""),
    ("Response", "error", "\"/error\""),
    ("Response", "format", "\"json\""),
    ("Response", "token_types", "[\"Bearer\"]"),
    ("Response", "statuses", "[200]"),
    ("Route", "path_prefix", "\"/\""),
    ("Route", "protocol", "\"auto\""),
    ("Route", "plaintext", "\"refuse\""),
    ("Route", "caller_authorization", "\"replace\""),
    ("Inject", "header", "\"authorization\""),
    ("Inject", "format", "\"Bearer {token}\""),
    ("Route", "forwarded", "false"),
    ("Route", "rewrite_location", "true"),
    ("Route", "refresh_on", "[401]"),
    ("Route", "replay_limit", "\"64KiB\""),
    ("Route", "allow_encoded_slash", "false"),
    ("Route", "connect_timeout", "\"5s\""),
    ("Route", "response_timeout", "\"60s\""),
    ("Route", "idle_timeout", "\"5m\""),
    ("Route", "connection_max_age", "\"10m\""),
];

/// A unit test holds the schema's defaults to those that are used.
#[tokio::test]
async fn defaults_are_those_of_the_interface() {
    let folder = tempfile::tempdir().unwrap();
    let schema = run(folder.path(), &["schema"]).await.json();
    for (table, key, wanted) in DEFAULTS {
        let node = if table.is_empty() { &schema } else { &schema["$defs"][table] };
        let wanted: Value = serde_json::from_str(wanted).unwrap();
        assert_eq!(node["properties"][key]["default"], wanted, "{table}.{key}");
    }
}

#[tokio::test]
async fn help_and_version_are_everywhere() {
    let folder = tempfile::tempdir().unwrap();
    for verb in ["run", "check", "explain", "token", "schema", "demo", "healthcheck"] {
        for option in ["--help", "--version"] {
            let output = run(folder.path(), &[verb, option]).await;
            output.expect_code(0);
            assert!(!output.stdout.is_empty() && output.stderr.is_empty(), "{verb} {option}");
        }
    }
}

#[tokio::test]
async fn both_usual_places_of_the_config_are_named_where_there_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(folder.path(), &["run"]).await;
    output.expect_code(78);
    assert!(output.stderr.contains("./bearerd.toml, /etc/bearerd/bearerd.toml"), "{}", output.stderr);
}

#[tokio::test]
async fn run_without_a_verb_serves_and_writes_nothing_to_stdout() {
    let setup = Setup::new().await;
    setup.write();
    let mut child = command(setup.folder(), &["--config", "bearerd.toml"]).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    within("it to serve", async {
        while !lines.next_line().await.unwrap().expect("it runs on").contains("bearerd is serving") {}
    })
    .await;
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    let mut stdout = String::new();
    child.stdout.take().unwrap().read_to_string(&mut stdout).await.unwrap();
    assert_eq!((within("the end", child.wait()).await.unwrap().code(), stdout.as_str()), (Some(0), ""));
}

/// The first line of the log of a run with these arguments and this environment, and its level where it is JSON.
async fn first_line(setup: &Setup, args: &[&str], env: &[(&str, &str)]) -> String {
    let mut child = command(setup.folder(), args).envs(env.iter().copied()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    within("a log line", lines.next_line()).await.unwrap().unwrap()
}

#[tokio::test]
async fn log_level_of_the_flag_goes_before_the_environments() {
    let setup = Setup::new().await.log("format = \"json\"\nlevel = \"error\"");
    setup.write();
    // The environment alone would let nothing through.
    let env = [("BEARERD_LOG", "off")];
    let line = first_line(&setup, &["run", "--log-level", "info"], &env).await;
    assert!(serde_json::from_str::<Value>(&line).is_ok(), "{line}");
    let line =
        first_line(&setup, &["run", "--log-format", "text", "--log-level", "bearerd=info"], &env).await;
    assert!(serde_json::from_str::<Value>(&line).is_err(), "{line}");
}

#[tokio::test]
async fn log_filter_that_cannot_be_read_is_bad_usage() {
    let setup = Setup::new().await;
    setup.write();
    run(setup.folder(), &["run", "--log-level", "a=b=c"]).await.expect_code(64);
    run_with(setup.folder(), &["run"], &[("BEARERD_LOG", "a=b=c")]).await.expect_code(64);
    run(setup.folder(), &["run", "--log-format", "xml"]).await.expect_code(64);
}

/// What `check` takes, `run` takes, and neither blames a flag for what is in the file.
#[tokio::test]
async fn a_log_level_of_the_file_is_judged_by_check_as_by_run() {
    for level in ["verbose", "inof", "info,bearerd[call]=debug", "hyper=loud", ""] {
        let setup = Setup::new().await.log(&format!("level = \"{level}\""));
        setup.write();
        for verb in ["check", "run"] {
            let output = run(setup.folder(), &[verb]).await;
            output.expect_code(78);
            let said = format!("{}{}", output.stdout, output.stderr);
            assert!(said.contains("log.level") && !said.contains("--log-level"), "{verb}, {level:?}: {said}");
        }
    }
}

#[tokio::test]
async fn responses_for_programs_are_json() {
    let setup = Setup::new().await.admin("address = \"unix:{folder}/admin.sock\"");
    setup.write();
    for args in [
        &["check"][..],
        &["explain", "GET", "http://localhost/"],
        &["token", "corp"],
        &["token", "corp", "--decode"],
        &["healthcheck"],
        &["schema"],
    ] {
        let output = run(setup.folder(), &[args, &["--output", "json"]].concat()).await;
        assert!(output.json().is_object(), "{args:?}");
    }
}

#[tokio::test]
async fn token_prints_the_token_alone() {
    let setup = Setup::new().await;
    setup.write();
    let output = run(setup.folder(), &["token", "corp"]).await;
    output.expect_code(0);
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("token-1\n", ""));
}

#[tokio::test]
async fn explain_says_why_and_what_is_sent_and_shows_no_value() {
    let setup = Setup::new().await.issuer("scopes = [\"issuers\"]").route(
        "path_prefix = \"/billing\"\nscopes = [\"routes\"]\nrequest_headers = { set = { x-key = \"value-of-x\" } }",
    );
    setup.write();
    let output = run(setup.folder(), &["explain", "POST", "http://localhost/billing/x", "-H", "a: b"]).await;
    output.expect_code(0);
    for wanted in ["api", "/billing", "/x", "corp", "routes", "x-key", "authorization"] {
        assert!(output.stdout.to_lowercase().contains(wanted), "{wanted} in {}", output.stdout);
    }
    for never in ["issuers", "value-of-x"] {
        assert!(!output.stdout.contains(never), "{never} in {}", output.stdout);
    }
}

#[tokio::test]
async fn relative_paths_start_at_the_config_files_folder() {
    let setup = Setup::new().await.issuer("client_secret = { file = \"here/secret\" }");
    setup.file("here/secret", "beside-the-config");
    setup.write();
    let elsewhere = tempfile::tempdir().unwrap();
    let config = setup.folder().join("bearerd.toml");
    let output = run(elsewhere.path(), &["token", "corp", "--config", config.to_str().unwrap()]).await;
    output.expect_code(0);
    assert_eq!(setup.issuer.last().basic().unwrap(), "client-1:beside-the-config");
}

#[tokio::test]
async fn missing_environment_variable_is_a_warning_of_check() {
    let setup = Setup::new().await.issuer("client_secret = { env = \"NOT_SET_ANYWHERE\" }");
    setup.write();
    let output = run(setup.folder(), &["check"]).await;
    output.expect_code(0);
    assert!(output.stdout.contains("warning") && output.stdout.contains("NOT_SET_ANYWHERE"));
    run_with(setup.folder(), &["token", "corp"], &[("NOT_SET_ANYWHERE", "x")]).await.expect_code(0);
}

#[tokio::test]
async fn method_is_looked_at_before_all_other_checks() {
    let world = Setup::new().await.start().await;
    let wrong = |method: &str, target: &str| {
        RawRequest::new(method, target).host("evil.test").header("Origin", "https://evil.test")
    };
    world.exchange(wrong("TRACE", "/../x")).await.expect_problem(405, "method_refused");
    world.exchange(wrong("CONNECT", "evil.test:443")).await.expect_problem(405, "method_refused");
}

#[tokio::test]
async fn escaped_slash_is_refused_before_host_caller_and_route() {
    let world = Setup::new().await.route("path = \"/only\"").start().await;
    let call = RawRequest::get("/a%2Fb").host("evil.test").header("Origin", "https://evil.test");
    world.exchange(call).await.expect_problem(400, "bad_request");
}

#[tokio::test]
async fn refused_authorization_comes_after_the_route() {
    let world = Setup::new().await.route("path = \"/only\"\ncaller_authorization = \"reject\"").start().await;
    let call = |path: &str| RawRequest::get(path).header("Authorization", "Bearer mine");
    world.exchange(call("/elsewhere")).await.expect_problem(404, "no_route");
    world.exchange(call("/only")).await.expect_problem(400, "authorization_refused");
}

#[tokio::test]
async fn request_beyond_the_connection_limit_gets_the_form_of_every_error() {
    let world = Setup::new().await.limits("connections = 1").start().await;
    let mut first = world.connect().await;
    first.exchange(&RawRequest::get("/")).await.expect_status(200);
    let mut second = world.connect().await;
    let response = second.response().await;
    response.expect_problem(503, "overloaded");
    let problem = response.json();
    assert_eq!(problem["type"], "urn:bearerd:error:overloaded");
    assert_eq!(problem["title"], "A limit is reached");
    assert_eq!(problem["request_id"].as_str(), response.header("x-request-id"));
    let proxy_status = response.header("proxy-status").unwrap();
    assert!(proxy_status.starts_with("bearerd; error=connection_limit_reached"), "{proxy_status}");
    assert_eq!(response.header("retry-after"), Some("1"));
}

#[tokio::test]
async fn grpc_request_is_reported_in_its_form_where_no_route_serves_it() {
    let world = Setup::new().await.route("path = \"/only\"").start().await;
    let mut client = H2Client::plain(world.address("main")).await;
    let request = client.request("POST", "/pkg.Service/Method").header("content-type", "application/grpc");
    let response = client.exchange(request.body(whole("")).unwrap()).await;
    assert_eq!(response.status, 200);
    assert_eq!(response.header("grpc-status"), Some("14"));
    assert_eq!(response.header("grpc-message"), Some("no_route"));
    assert!(response.header("proxy-status").unwrap().starts_with("bearerd"));
}

/// Lines that are wider than the terminal, although they have a space to break them at. A line of a file stays whole.
fn wide_lines(text: &str, columns: usize) -> Vec<&str> {
    let breakable = |line: &&str| line.split_whitespace().count() > 1 && !line.contains(" | ");
    text.lines().filter(|line| line.chars().count() > columns).filter(breakable).collect()
}

#[tokio::test]
async fn no_line_is_wider_than_the_terminal() {
    let good = Setup::new().await;
    good.issuer.always_this(RawResponse::token("header.payload.signature"));
    good.write();
    let refused = Setup::new().await;
    refused.issuer.always_this(RawResponse::oauth_error(401, "invalid_client"));
    refused.write();
    let missing = Setup::new().await.issuer("client_secret = { file = \"a-file-that-nobody-has-written\" }");
    missing.write();
    let bad = Setup::new()
        .await
        .top("worker = 2\ndrain_delay = 5\nshutdown_timeout = \"soon\"\ninclude = [\"*/x\"]");
    bad.write();
    let cases: [(&Setup, &[&str]); 16] = [
        (&good, &["init"]),
        (&good, &["init", "keycloack"]),
        (&good, &["check"]),
        (&good, &["check", "--online"]),
        (&refused, &["check", "--online"]),
        (&missing, &["check"]),
        (&missing, &["check", "--online"]),
        (&bad, &["check"]),
        (&bad, &["run"]),
        (&good, &["explain", "GET", "/", "-H", "authorization: x", "-H", "origin: https://app.example"]),
        (&good, &["explain", "GET", "http://a-host-that-no-route-and-no-listener-names.example/x"]),
        (&good, &["explain", "TRACE", "/"]),
        (&good, &["token", "corp", "--decode"]),
        (&refused, &["token", "corp"]),
        (&good, &["token", "somebody-else"]),
        (&good, &["healthcheck"]),
    ];
    for columns in ["80", "50"] {
        for (setup, args) in cases {
            let output = run_with(setup.folder(), args, &[("COLUMNS", columns)]).await;
            let said = output.all();
            assert!(!said.is_empty(), "{args:?}");
            assert_eq!(wide_lines(&said, columns.parse().unwrap()), [""; 0], "{args:?}\n{said}");
        }
    }
    // A reader that is a program gets whole lines.
    let piped = run(bad.folder(), &["check"]).await;
    assert!(piped.stdout.contains("`*` may be only in the last part: \"conf.d/*.toml\""), "{}", piped.stdout);
}

#[tokio::test]
async fn the_demo_fits_80_columns() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = command(folder.path(), &["demo"]);
    let mut child = command.env("COLUMNS", "80").stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut shown = String::new();
    within("the end of the story", async {
        while !shown.contains("removes its files") {
            shown += &format!("{}\n", lines.next_line().await.unwrap().expect("demo goes on"));
        }
    })
    .await;
    assert_eq!(wide_lines(&shown, 80), [""; 0], "{shown}");
}

#[tokio::test]
#[ignore = "needs setsid"]
async fn a_terminal_says_how_wide_it_is() {
    let setup = Setup::new().await.top("drain_delay = 5\ninclude = [\"*/x\"]");
    setup.write();
    let shown = in_terminal(&setup, "check --color never", &[]).await;
    assert_eq!(wide_lines(&shown, 80), [""; 0], "{shown}");
    assert!(shown.lines().any(|line| line.starts_with("    the number 5")), "{shown}");
}

#[tokio::test]
async fn demo_shows_its_file_and_serves_with_what_it_wrote() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = command(folder.path(), &["demo"]).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let path = within("the path of the file", async {
        loop {
            let line = lines.next_line().await.unwrap().expect("demo goes on");
            if let Some(path) = line.split_whitespace().find(|word| word.contains("bearerd.toml")) {
                return path.trim_end_matches(':').to_owned();
            }
        }
    })
    .await;
    let checked = run(folder.path(), &["check", "--config", &path]).await;
    checked.expect_code(0);
    let explained = run(folder.path(), &["explain", "GET", "http://localhost/echo", "--config", &path]).await;
    explained.expect_code(0);
    assert!(explained.stdout.contains("demo"), "{}", explained.stdout);
}

#[tokio::test]
async fn connect_timeout_bounds_the_way_to_the_upstream() {
    // Accepts the connection and never responds to the TLS handshake.
    let silent = crate::support::manual::Manual::start().await;
    let upstream = format!("upstream = \"https://{}\"\nconnect_timeout = \"300ms\"", silent.address);
    let world = Setup::new().await.route(&upstream).start().await;
    let started = Instant::now();
    let response = world.get("/").await;
    response.expect_problem(504, "upstream_timeout");
    assert!(started.elapsed() >= Duration::from_millis(300), "{:?}", started.elapsed());
    // A busy machine delays the response, and does not change what was waited for.
    assert!(response.text().contains("within 300ms"), "{}", response.text());
}

#[tokio::test]
async fn internal_is_500_with_the_request_id_of_the_log() {
    let keys = "response_headers = { set = { x-key = { file = \"never-there\" } } }";
    let world = Setup::new().await.route(keys).start().await;
    let response = world.get("/").await;
    response.expect_problem(500, "internal");
    assert_eq!(world.upstream().count(), 0, "known before the request went up");
    let request_id = response.json()["request_id"].as_str().unwrap().to_owned();
    assert_eq!(response.header("x-request-id"), Some(request_id.as_str()));
    let said = |line: &str| line.contains(&request_id) && line.contains("\"internal\"");
    world.log().wait("the fault", said).await;
}

#[tokio::test]
async fn run_refuses_a_certificate_that_check_refuses() {
    let (server, other) = (localhost(), ca().issue(&["localhost"]));
    let keys = "tls = { certificate = { file = \"server.pem\" }, private_key = { file = \"server.key\" } }";
    let setup = Setup::new().await.listener(keys);
    setup.file("server.pem", &server.certificate_pem);
    for key in [&other.key_pem, "no key"] {
        setup.file("server.key", key);
        setup.write();
        for verb in ["check", "run"] {
            let output = run(setup.folder(), &[verb]).await;
            output.expect_code(78);
            assert!(output.all().contains("server.key"), "{}", output.all());
        }
    }
}

const VERBS: &[&str] =
    &["run", "check", "explain", "token", "init", "schema", "demo", "healthcheck", "completions"];

/// What a terminal shows of a command line.
async fn in_terminal(setup: &Setup, args: &str, env: &[(&str, &str)]) -> String {
    let line: Vec<&str> = [env!("CARGO_BIN_EXE_bearerd")].into_iter().chain(args.split(' ')).collect();
    let (_child, own) = terminal::start(setup.folder(), &line, |command| {
        command.env_clear().env("TERM", "xterm");
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).envs(env.iter().copied());
    });
    let mut shown = Vec::new();
    within("the program to end", terminal::read_to_end(&mut File::from_std(own), &mut shown)).await;
    String::from_utf8(shown).unwrap()
}

#[tokio::test]
async fn help_has_examples_and_fits_80_columns() {
    let folder = tempfile::tempdir().unwrap();
    let whole = run(folder.path(), &["--help"]).await;
    for verb in VERBS {
        let help = run(folder.path(), &[verb, "--help"]).await;
        help.expect_code(0);
        assert!(
            help.stdout.contains("Example") && help.stdout.contains(&format!("bearerd {verb}")),
            "{verb}"
        );
        let again = run(folder.path(), &["help", verb]).await;
        again.expect_code(0);
        assert_eq!(again.stdout, help.stdout, "help {verb}");
        for line in help.stdout.lines().chain(whole.stdout.lines()) {
            assert!(line.chars().count() <= 80, "{verb}: {line}");
        }
    }
}

#[tokio::test]
async fn mistyped_words_are_reported_with_what_was_meant() {
    let setup = Setup::new().await;
    setup.write();
    for (args, meant) in [
        (&["chek"][..], "'check'"),
        (&["help", "chek"], "'check'"),
        (&["check", "--onlin"], "'--online'"),
        (&["check", "--output", "jsn"], "'json'"),
        (&["completions", "bsh"], "'bash'"),
        (&["init", "keyclok"], "`keycloak`"),
        (&["token", "crop"], "`corp`"),
        (&["token", "corp", "--route", "apu"], "`api`"),
    ] {
        let output = run(setup.folder(), args).await;
        output.expect_code(64);
        assert!(output.stderr.contains(meant), "{args:?}: {}", output.stderr);
    }
}

#[tokio::test]
async fn no_config_says_where_it_was_looked_for_and_how_to_get_one() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(folder.path(), &["check"]).await;
    output.expect_code(78);
    for wanted in ["./bearerd.toml", "/etc/bearerd/bearerd.toml", "--config", "bearerd init", "bearerd demo"]
    {
        assert!(output.stderr.contains(wanted), "{wanted}: {}", output.stderr);
    }
}

#[tokio::test]
#[ignore = "needs setsid"]
async fn colours_are_for_terminals_alone() {
    let setup = Setup::new().await.top("worker = 2");
    setup.write();
    let coloured = |text: &str| text.contains("\u{1b}[");
    for args in ["check", "explain GET /x", "--help", "nonsense"] {
        let words: Vec<&str> = args.split(' ').collect();
        let piped = run(setup.folder(), &words).await;
        assert!(!coloured(&piped.all()), "{args}: {}", piped.all());
        let always = run(setup.folder(), &[&words[..], &["--color", "always"]].concat()).await;
        assert!(coloured(&always.all()), "{args}: {}", always.all());
        assert!(coloured(&in_terminal(&setup, args, &[]).await), "{args}");
        for (more, env) in [
            (" --color never", &[][..]),
            (" --color=never", &[]),
            ("", &[("NO_COLOR", "1")]),
            ("", &[("TERM", "dumb")]),
        ] {
            let plain = in_terminal(&setup, &format!("{args}{more}"), env).await;
            assert!(!coloured(&plain), "{args}{more} {env:?}: {plain}");
        }
    }
    let json = run(setup.folder(), &["check", "--output", "json", "--color", "always"]).await;
    assert_eq!(json.json()["problems"][0]["line"], 1);
    assert!(!coloured(&json.all()));
}

#[tokio::test]
#[ignore = "needs setsid"]
async fn progress_is_one_line_on_a_terminal_and_gone_at_the_end() {
    let setup = Setup::new().await;
    setup.write();
    let shown = in_terminal(&setup, "check --online --color never", &[]).await;
    let (before, report) = shown.rsplit_once("\r\u{1b}[2K").expect("the line is erased");
    assert!(before.contains("2 of 2 answered") && !before.contains('\n'), "{shown:?}");
    assert!(report.contains("issuer corp: ok") && !report.contains("answered"), "{shown:?}");
    let piped = run(setup.folder(), &["check", "--online"]).await;
    assert_eq!(piped.stderr, "");
    assert!(!piped.stdout.contains("answered"), "{}", piped.stdout);
}

#[tokio::test]
async fn demo_tells_a_program_its_addresses() {
    let folder = tempfile::tempdir().unwrap();
    let mut child =
        command(folder.path(), &["demo", "--output", "json"]).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = within("a line", lines.next_line()).await.unwrap().unwrap();
    let told: Value = serde_json::from_str(&line).unwrap();
    let address = |key: &str| told[key].as_str().unwrap().strip_prefix("http://").unwrap().to_owned();
    assert!(std::path::Path::new(told["config"].as_str().unwrap()).exists());
    assert!(told["admin"].as_str().unwrap().starts_with("http://127.0.0.1:"));
    let mut client = crate::support::Client::tcp(address("proxy").parse().unwrap()).await;
    let path = address("try").replace(&address("proxy"), "");
    client.exchange(&RawRequest::get(&path)).await.expect_status(200);
}
