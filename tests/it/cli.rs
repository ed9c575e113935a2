//! The verbs and their exit codes.

use std::collections::BTreeSet;

use rustix::process::Signal;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};

use crate::support::cli::{command, run, run_with};
use crate::support::{Client, RawRequest, RawResponse, Setup, within};

/// A written config; nothing runs.
async fn written(setup: Setup) -> Setup {
    setup.write();
    setup
}

async fn plain() -> Setup {
    written(Setup::new().await).await
}

#[tokio::test]
async fn version_and_help() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(folder.path(), &["--version"]).await;
    output.expect_code(0);
    assert_eq!(output.stdout.trim(), format!("bearerd {}", env!("CARGO_PKG_VERSION")));
    let verbs = ["run", "check", "explain", "token", "init", "schema", "demo", "healthcheck"];
    let help = run(folder.path(), &["--help"]).await;
    help.expect_code(0);
    for verb in verbs {
        assert!(help.stdout.contains(verb), "{verb} in {}", help.stdout);
    }
    for verb in verbs {
        run(folder.path(), &[verb, "--help"]).await.expect_code(0);
    }
}

#[tokio::test]
async fn bad_usage_is_64() {
    let setup = plain().await;
    for args in [
        &["nonsense"][..],
        &["--nonsense"],
        &["run", "--nonsense"],
        &["explain"],
        &["explain", "GET"],
        &["token"],
        &["check", "extra", "words"],
        &["check", "--output", "xml"],
        &["check", "--no-guess"],
        &["init", "keycloak", "okta"],
        &["token", "corp", "--xoauth2"],
        &["token", "corp", "--decode", "--xoauth2", "user@example.com"],
    ] {
        let output = run(setup.folder(), args).await;
        assert_eq!(output.code, 64, "{args:?}: {}", output.all());
        assert!(!output.stderr.is_empty() && output.stdout.is_empty(), "{args:?}");
    }
}

/// Every verb and the flag that all have are known to the script.
#[tokio::test]
async fn completions_are_a_script_for_each_shell() {
    let setup = plain().await;
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let output = run(setup.folder(), &["completions", shell]).await;
        output.expect_code(0);
        for word in ["explain", "healthcheck", "completions", "config", "online"] {
            assert!(output.stdout.contains(word), "{word} for {shell}");
        }
    }
    let output = run(setup.folder(), &["completions", "bsh"]).await;
    output.expect_code(64);
    assert!(output.stderr.contains("bash"), "{}", output.stderr);
}

/// The shell itself completes a verb from the script.
#[tokio::test]
async fn completions_work_in_bash() {
    let setup = plain().await;
    let script = run(setup.folder(), &["completions", "bash"]).await.stdout;
    let file = setup.file("bearerd.bash", script);
    let words =
        "COMP_WORDS=(bearerd expl); COMP_CWORD=1; _bearerd bearerd expl bearerd; echo \"${COMPREPLY[@]}\"";
    let line = format!("source '{}'; {words}", file.display());
    let output = tokio::process::Command::new("bash")
        .args(["--norc", "-c", &line])
        .output()
        .await
        .expect("bash is needed for this test: install it (Debian: apt install bash)");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "explain", "{output:?}");
}

#[tokio::test]
async fn config_is_found_by_flag_then_environment_then_folder() {
    let setup = Setup::new().await;
    let good = setup.config();
    let (a, b) = ("a.toml", "b.toml");
    for (name, key) in [(a, "wrong_a"), (b, "wrong_b"), ("bearerd.toml", "wrong_here")] {
        setup.file(name, format!("{key} = 1\n{good}"));
    }
    let env = [("BEARERD_CONFIG", b)];
    assert!(run_with(setup.folder(), &["check", "--config", a], &env).await.all().contains("wrong_a"));
    assert!(run_with(setup.folder(), &["check"], &env).await.all().contains("wrong_b"));
    assert!(run(setup.folder(), &["check"]).await.all().contains("wrong_here"));
}

#[tokio::test]
async fn no_config_is_78() {
    let folder = tempfile::tempdir().unwrap();
    for verb in ["run", "check", "healthcheck"] {
        let output = run(folder.path(), &[verb]).await;
        assert_eq!(output.code, 78, "{verb}: {}", output.all());
        assert!(output.stderr.contains("bearerd.toml"), "{}", output.stderr);
    }
    let output = run(folder.path(), &["check", "--config", "missing.toml"]).await;
    output.expect_code(78);
    assert!(output.all().contains("missing.toml"));
}

#[tokio::test]
async fn run_is_the_default_verb() {
    let folder = tempfile::tempdir().unwrap();
    run(folder.path(), &[]).await.expect_code(78);
}

#[tokio::test]
async fn address_that_is_taken_is_69() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for keys in [
        Setup::new().await.listener(&format!("address = \"{address}\"")),
        Setup::new().await.admin(&format!("address = \"{address}\"")),
    ] {
        let setup = written(keys).await;
        let output = run(setup.folder(), &["run"]).await;
        output.expect_code(69);
        assert!(output.stderr.contains(&address), "{}", output.stderr);
    }
}

#[tokio::test]
async fn address_that_may_not_be_bound_is_69() {
    let setup = written(Setup::new().await.listener("address = \"unix:/proc/nowhere/proxy.sock\"")).await;
    run(setup.folder(), &["run"]).await.expect_code(69);
}

#[tokio::test]
async fn explain_says_route_upstream_issuer_and_scopes() {
    let setup = Setup::new().await.issuer("scopes = [\"billing.read\"]");
    let setup =
        written(setup.route("path_prefix = \"/billing\"\nupstream = \"https://billing.example/api/v2\""))
            .await;
    let args = ["explain", "GET", "http://127.0.0.1:8080/billing/x?y"];
    let output = run(setup.folder(), &args).await;
    output.expect_code(0);
    for wanted in ["api", "https://billing.example/api/v2/x", "corp", "billing.read"] {
        assert!(output.stdout.contains(wanted), "{wanted} in {}", output.stdout);
    }
    let output = run(setup.folder(), &[&args[..], &["--output", "json"]].concat()).await;
    output.expect_code(0);
    assert_eq!(output.json()["results"][0]["route"], "api");
    assert_eq!(setup.issuer.count(), 0);
}

/// For a request that is not forwarded, `explain` shows the proxy's response.
#[tokio::test]
async fn explain_says_what_bearerd_responds_to() {
    let setup = Setup::new().await.route("path_prefix = \"/billing\"\nmethods = [\"GET\", \"OPTIONS\"]");
    setup.write();
    for (args, code, status) in [
        (&["explain", "OPTIONS", "*"][..], 1, 204),
        (&["explain", "OPTIONS", "/billing", "-H", "Max-Forwards: 0"], 0, 204),
        (&["explain", "OPTIONS", "/billing", "-H", "Max-Forwards: x"], 1, 400),
        (&["explain", "OPTIONS", "*", "-H", "Host: elsewhere.example"], 1, 421),
        (&["explain", "GET", "*"], 1, 400),
    ] {
        let output = run(setup.folder(), args).await;
        output.expect_code(code);
        assert!(output.stdout.contains(&status.to_string()), "{args:?}: {}", output.stdout);
        let output = run(setup.folder(), &[args, &["--output", "json"]].concat()).await;
        assert_eq!(output.json()["results"][0]["status"], status, "{args:?}");
        assert!(output.json()["results"][0]["sent"].is_null(), "{args:?}");
    }
    // As the proxy does.
    let world = setup.start().await;
    world.connect().await.exchange(&RawRequest::new("OPTIONS", "*")).await.expect_status(204);
    let call = RawRequest::new("OPTIONS", "/billing").header("Max-Forwards", "0");
    world.connect().await.exchange(&call).await.expect_status(204);
}

/// A forward listener, a token listener, and a plain one.
const LISTENERS: &str = "[listener.forward]\naddress = \"127.0.0.1:3128\"\nserve = \"forward\"\n\
    [listener.tokens]\naddress = \"unix:token.sock\"\nserve = \"token\"\n\
    [[route]]\nname = \"asked\"\nlistener = \"forward\"\nhost = \"*.example.com\"\npath_prefix = \"/v1\"\nissuer = \"corp\"\nscopes = [\"read\"]\n\
    [[route]]\nname = \"odd\"\nlistener = \"forward\"\nhost = \"h.example:8443\"\nissuer = \"corp\"\n";

async fn explained(setup: &Setup, args: &[&str]) -> (i32, Value, String) {
    let args = [&["explain"], args].concat();
    let text = run(setup.folder(), &args).await;
    let json = run(setup.folder(), &[&args[..], &["--output", "json"]].concat()).await;
    assert_eq!(text.code, json.code);
    (json.code, json.json()["results"].clone(), text.stdout)
}

#[tokio::test]
async fn explain_says_what_a_program_behind_a_forward_listener_gets() {
    let setup = written(Setup::new().await.listener("address = \"127.0.0.1:8080\"").more(LISTENERS)).await;
    let (code, results, text) = explained(&setup, &["GET", "https://api.example.com/v1/x?q"]).await;
    assert_eq!((code, results.as_array().unwrap().len()), (0, 1), "{text}");
    assert_eq!((&results[0]["listeners"][0], &results[0]["route"]), (&"forward".into(), &"asked".into()));
    assert_eq!(results[0]["sent"]["url"], "https://api.example.com/v1/x");
    assert_eq!(results[0]["sent"]["host"], "api.example.com");
    for words in ["bearerd ends TLS with a certificate", "read", "host: `*.example.com` matches it"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    for (args, code, words) in [
        (&["GET", "http://api.example.com/v1/x"][..], 0, "sends the request over TLS"),
        (&["GET", "https://h.example:8443/"], 0, "https://h.example:8443/"),
        (&["GET", "https://h.example/"], 1, "403 `caller_refused`"),
        (&["GET", "https://api.example.com/v2"], 1, "404 `no_route`"),
        (&["GET", "https://elsewhere.test/"], 1, "no route names the host `elsewhere.test`"),
        (&["GET", "https://api.example.com/v1/../x"], 1, "400 `bad_request`"),
        (&["GET", "https://api.example.com/v1", "-H", "Host: b.example.com"], 1, "421 `misdirected`"),
        (
            &["GET", "https://api.example.com/v1", "-H", "Host: API.example.com:443"],
            0,
            "route `asked` serves it",
        ),
        (&["GET", "http://api.example.com/v1", "-H", "Host: b.example.com"], 1, "400 `bad_request`"),
        (&["CONNECT", "api.example.com:443"], 1, "bearerd ends TLS itself"),
        (&["CONNECT", "elsewhere.test:443"], 1, "403 `caller_refused`"),
        (&["TRACE", "https://api.example.com/v1"], 1, "405 `method_refused`"),
        (&["GET", "http://127.0.0.1:3128/v1"], 1, "400 `bad_request`"),
        // A plain listener serves it, and a program that asks for a path uses no proxy.
        (&["GET", "http://127.0.0.1:8080/x"], 0, "route `api` serves it"),
        (&["GET", "/x"], 0, "route `api` serves it"),
    ] {
        let (found, _, text) = explained(&setup, args).await;
        assert!(found == code && text.contains(words), "{args:?}: {found} {text}");
        assert_eq!(text.matches("listeners").count(), 1, "{args:?}: {text}");
    }
    let tunnel = setup
        .config()
        .replace("serve = \"forward\"", "serve = \"forward\"\nforward = { unmatched = \"tunnel\" }");
    let setup = written(setup.whole(&tunnel)).await;
    for (args, words) in [
        (&["GET", "https://elsewhere.test/"][..], "passes the connection through unread, and adds no token"),
        (&["CONNECT", "elsewhere.test:443"], "passes the connection through unread"),
        (&["GET", "http://elsewhere.test/"], "403 `caller_refused`"),
        (&["CONNECT", "api.example.com.:443"], "without the dot at its end"),
        (&["GET", "https://localhost/"], "403 `caller_refused`"),
        (&["CONNECT", "169.254.169.254:443"], "a tunnel never leads there"),
    ] {
        let (code, _, text) = explained(&setup, args).await;
        assert!(code == 1 && text.contains(words), "{args:?}: {text}");
    }
}

#[tokio::test]
async fn explain_says_which_tokens_a_token_listener_hands_out() {
    let setup = written(Setup::new().await.issuer("scopes = [\"own\"]").more(LISTENERS)).await;
    for (args, words) in [
        (
            &["POST", "/token"][..],
            &["bearerd responds, 200", "its own token (scopes own)", "route `asked` (scopes read)"][..],
        ),
        (&["GET", "/token/corp"], &["bearerd responds, 200", "nothing goes upstream"]),
        (&["PUT", "/token"], &["405 `method_refused`"]),
        (&["GET", "/token/nobody"], &["404 `no_route`"]),
    ] {
        let (_, results, text) = explained(&setup, args).await;
        assert!(words.iter().all(|words| text.contains(words)), "{args:?}: {text}");
        assert!(
            results.as_array().unwrap().iter().any(|result| result["listeners"][0] == "tokens"),
            "{text}"
        );
    }
}

#[tokio::test]
async fn check_says_what_listeners_of_other_kinds_are_for() {
    let setup = written(Setup::new().await.more(LISTENERS)).await;
    let output = run(setup.folder(), &["check"]).await;
    output.expect_code(0);
    for line in [
        "listener forward is a forward proxy for *.example.com, h.example:8443, and refuses all other hosts",
        "listener tokens hands out tokens of corp",
    ] {
        assert!(output.stdout.contains(line), "{}", output.stdout);
    }
    let alone = "[listener.forward]\naddress = \"127.0.0.1:3128\"\nserve = \"forward\"\nforward = { unmatched = \"tunnel\" }\n";
    let setup = written(Setup::new().await.more(alone)).await;
    let output = run(setup.folder(), &["check"]).await;
    output.expect_code(0);
    for words in [
        "listener.forward.serve",
        "only passes connections through",
        "connections to other hosts through unread",
    ] {
        assert!(output.all().contains(words), "{}", output.all());
    }
}

#[tokio::test]
async fn explain_is_1_where_no_route_serves() {
    let setup = written(Setup::new().await.route("path_prefix = \"/billing\"\nmethods = [\"POST\"]")).await;
    for args in [
        &["explain", "GET", "http://localhost/elsewhere"][..],
        &["explain", "GET", "http://localhost/billing"],
        &["explain", "POST", "http://localhost/billing/../x"],
        &["explain", "POST", "http://evil.test/billing"],
    ] {
        run(setup.folder(), args).await.expect_code(1);
    }
    run(setup.folder(), &["explain", "POST", "http://localhost/billing"]).await.expect_code(0);
}

#[tokio::test]
async fn explain_takes_headers() {
    let setup = written(Setup::new().await.route("match_headers = { x-tenant = \"acme\" }")).await;
    let url = "http://localhost/";
    run(setup.folder(), &["explain", "GET", url]).await.expect_code(1);
    run(setup.folder(), &["explain", "GET", url, "-H", "X-Tenant: acme"]).await.expect_code(0);
}

#[tokio::test]
async fn token_prints_a_token_as_the_proxy_would_fetch_it() {
    let setup = Setup::new().await;
    setup.issuer.always(|request, _| RawResponse::token(&format!("t-{}", request.params("scope").join("+"))));
    let setup = written(setup.issuer("scopes = [\"own\"]").route("scopes = [\"routes\"]")).await;
    let output = run(setup.folder(), &["token", "corp"]).await;
    output.expect_code(0);
    assert_eq!(output.stdout.trim_end(), "t-own");
    let output = run(setup.folder(), &["token", "corp", "--route", "api"]).await;
    output.expect_code(0);
    assert_eq!(output.stdout.trim_end(), "t-routes");
}

#[tokio::test]
async fn token_decode_prints_claims_and_times_and_not_the_token() {
    let jwt = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJqb2UiLCJleHAiOjIwMDAwMDAwMDB9.c2ln";
    let setup = Setup::new().await;
    setup.issuer.always_this(RawResponse::token(jwt));
    let setup = written(setup).await;
    let output = run(setup.folder(), &["token", "corp", "--decode"]).await;
    output.expect_code(0);
    assert!(output.stdout.contains("joe") && output.stdout.contains("2000000000"), "{}", output.stdout);
    assert!(!output.all().contains(jwt));
    let output = run(setup.folder(), &["token", "corp", "--decode", "--output", "json"]).await;
    assert!(output.json().to_string().contains("\"joe\""));
    setup.issuer.always_this(RawResponse::token("opaque"));
    let output = run(setup.folder(), &["token", "corp", "--decode"]).await;
    output.expect_code(0);
    assert!(!output.all().contains("opaque-token-value"));
}

#[tokio::test]
async fn token_is_1_where_the_issuer_refuses() {
    let setup = Setup::new().await;
    setup.issuer.always_this(RawResponse::oauth_error(401, "invalid_client"));
    let setup = written(setup).await;
    let output = run(setup.folder(), &["token", "corp"]).await;
    output.expect_code(1);
    assert_eq!(output.stdout, "");
    assert!(output.stderr.contains("invalid_client"), "{}", output.stderr);
    assert!(!output.stderr.contains(crate::support::setup::SECRET));
}

#[tokio::test]
async fn token_xoauth2_is_the_string_for_mail_on_one_line() {
    let setup = Setup::new().await;
    setup.issuer.always_this(RawResponse::token("EwBAAl3BAAUFFpUAo7J3Ve0bjLBWZWCclRC3EoAA"));
    let setup = written(setup).await;
    let wanted = "dXNlcj10ZXN0QGNvbnRvc28ub25taWNyb3NvZnQuY29tAWF1dGg9QmVhcmVyIEV3QkFBbDNCQUFVRkZwVUFvN0ozVmUwYmpMQldaV0NjbFJDM0VvQUEBAQ==";
    let args = ["token", "corp", "--xoauth2", "test@contoso.onmicrosoft.com"];
    let output = run(setup.folder(), &args).await;
    output.expect_code(0);
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), (format!("{wanted}\n").as_str(), ""));
    let output = run(setup.folder(), &[&args[..], &["--output", "json"]].concat()).await;
    output.expect_code(0);
    assert_eq!(output.json(), serde_json::json!({ "xoauth2": wanted }));
    let long = "x".repeat(4000);
    let output = run(setup.folder(), &["token", "corp", "--xoauth2", &long]).await;
    assert_eq!(output.stdout.lines().count(), 1, "no line is broken");
}

#[tokio::test]
async fn token_xoauth2_takes_no_user_that_could_change_the_string() {
    let setup = plain().await;
    for user in ["", "a\u{1}auth=Bearer x", "a\nb"] {
        let output = run(setup.folder(), &["token", "corp", "--xoauth2", user]).await;
        output.expect_code(64);
    }
    assert_eq!(setup.issuer.count(), 0);
}

#[tokio::test]
async fn token_that_is_bound_to_a_key_is_said_to_be_and_is_no_xoauth2() {
    let setup = Setup::new().await;
    setup.file("dpop.pem", &crate::support::tls::localhost().key_pem);
    setup.issuer.always(|request, _| {
        assert!(request.header("dpop").is_some());
        let token = serde_json::json!({ "access_token": "bound", "token_type": "DPoP", "expires_in": 60 });
        RawResponse::json(&token)
    });
    let setup = written(setup.issuer("dpop = { private_key = { file = \"dpop.pem\" } }")).await;
    let output = run(setup.folder(), &["token", "corp"]).await;
    output.expect_code(0);
    assert_eq!(output.stdout, "bound\n");
    assert!(output.stderr.contains("bound to the DPoP key of [issuer.corp]"), "{}", output.stderr);
    let output = run(setup.folder(), &["token", "corp", "--xoauth2", "user@example.com"]).await;
    output.expect_code(1);
    assert_eq!(output.stdout, "");
    assert!(output.stderr.contains("DPoP") && output.stderr.contains("without `dpop`"), "{}", output.stderr);
}

#[tokio::test]
async fn token_of_an_unknown_issuer_names_the_known_ones() {
    let setup = plain().await;
    let output = run(setup.folder(), &["token", "corpp"]).await;
    assert_ne!(output.code, 0);
    assert!(output.stderr.contains("corp"), "{}", output.stderr);
    assert_eq!(setup.issuer.count(), 0);
}

#[tokio::test]
async fn schema_is_a_json_schema_of_every_table() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(folder.path(), &["schema"]).await;
    output.expect_code(0);
    let schema = output.json();
    assert!(schema["$schema"].as_str().unwrap().contains("json-schema.org"));
    for table in ["limits", "log", "admin", "listener", "issuer", "route", "workers", "include"] {
        assert!(!schema["properties"][table].is_null(), "{table} in the schema");
    }
}

#[tokio::test]
async fn healthcheck_asks_readyz() {
    let setup = Setup::new().await;
    setup.issuer.next(RawResponse::status(500));
    let world = setup.admin("address = \"unix:{folder}/admin.sock\"").start().await;
    world.issuer().request(1).await;
    let check = || run(world.folder(), &["healthcheck"]);
    check().await.expect_code(1);
    crate::support::eventually("a good healthcheck", || async { (check().await.code == 0).then_some(()) })
        .await;
}

#[tokio::test]
async fn healthcheck_is_1_where_nothing_runs() {
    let setup = written(Setup::new().await.admin("address = \"unix:{folder}/admin.sock\"")).await;
    run(setup.folder(), &["healthcheck"]).await.expect_code(1);
}

#[tokio::test]
async fn demo_serves_between_its_own_issuer_and_upstream() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = command(folder.path(), &["demo"]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut logged = child.stderr.take().unwrap();
    let mut shown = String::new();
    let curl = within("the curl line", async {
        loop {
            let line = lines.next_line().await.unwrap().expect("demo goes on");
            shown += &format!("{line}\n");
            if line.contains("curl ") && line.contains("http://") {
                return line;
            }
        }
    })
    .await;
    assert!(shown.contains("[[route]]") && shown.contains("[issuer."), "the file is shown: {shown}");
    assert!(shown.starts_with("Status page: http://127.0.0.1:"), "{shown}");
    // Without bearerd, with it, after a refusal that nobody notices, after a renewal.
    let mut said =
        shown.lines().map(str::trim).filter(|line| line.starts_with("401 ") || line.starts_with("200 "));
    assert!(said.next().unwrap().starts_with("401 no token"), "{shown}");
    let tokens: BTreeSet<&str> = said.map(|line| line.split("Bearer ").nth(1).expect("a token")).collect();
    assert_eq!(tokens.len(), 3, "{shown}");
    assert!(shown.contains("renewed after "), "{shown}");
    let url =
        curl.split_whitespace().find(|word| word.contains("http://")).unwrap().trim_matches(['\'', '"']);
    let uri: http::Uri = url.parse().unwrap();
    let address = uri.authority().unwrap().as_str().replace("localhost", "127.0.0.1").parse().unwrap();
    let mut client = Client::tcp(address).await;
    let response = client.exchange(&RawRequest::get(uri.path_and_query().unwrap().as_str())).await;
    response.expect_status(200);
    assert!(response.text().to_lowercase().contains("authorization"), "{}", response.text());
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    let status = within("demo to end", child.wait()).await.unwrap();
    assert_eq!(status.code(), Some(0));
    let mut log = String::new();
    logged.read_to_string(&mut log).await.unwrap();
    assert_eq!(log, "", "no line of the log falls between");
}

#[tokio::test]
async fn flags_and_environment_go_before_the_files_log() {
    let setup = Setup::new().await.log("format = \"text\"\nlevel = \"error\"");
    let setup = written(setup).await;
    for (args, env) in [
        (&["run", "--log-format", "json", "--log-level", "info"][..], &[][..]),
        (&["run", "--log-format", "json"], &[("BEARERD_LOG", "info")]),
    ] {
        let mut child = command(setup.folder(), args).envs(env.iter().copied()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let line = within("a log line", lines.next_line()).await.unwrap().unwrap();
        let event: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("no JSON: {line}"));
        assert!(event.is_object());
    }
}
