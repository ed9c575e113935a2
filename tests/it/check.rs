//! What `check` reports.

use std::os::unix::fs::PermissionsExt;

use crate::support::cli::{Output, command, run, run_with};
use crate::support::{Setup, eventually};

mod files;
mod issuers;

async fn checked(setup: Setup) -> (Setup, Output) {
    setup.write();
    let output = run(setup.folder(), &["check"]).await;
    (setup, output)
}

/// A bad config: reported by `check`, refused by `run`, in the same words.
async fn expect_bad(setup: Setup, wanted: &[&str]) {
    let (setup, output) = checked(setup).await;
    output.expect_code(78);
    let said = output.all();
    for word in wanted {
        assert!(said.contains(word), "{word} in {said}");
    }
    let run = run(setup.folder(), &["run"]).await;
    run.expect_code(78);
    assert!(wanted.iter().all(|word| run.stderr.contains(word)), "{}", run.stderr);
}

#[tokio::test]
async fn good_config_is_0() {
    let (_setup, output) = checked(Setup::new().await).await;
    output.expect_code(0);
}

#[tokio::test]
async fn every_error_is_reported_at_once_with_its_place() {
    let whole = "\
[issuer.corp]
token_url = \"{issuer}/token\"
client_id = \"c\"
client_secret = { file = \"secret\" }
tiemout = \"5s\"

[[route]]
name = \"api\"
upstream = \"{upstream}\"
issuer = \"crop\"
connect_timeout = \"5 parsecs\"
upstrem = \"x\"
";
    let (_setup, output) = checked(Setup::new().await.whole(whole)).await;
    output.expect_code(78);
    let said = output.all();
    for wanted in [
        "bearerd.toml:5:1",
        "tiemout",
        "did you mean `timeout`",
        "bearerd.toml:10:1",
        "crop",
        "did you mean `corp`",
        "bearerd.toml:11:1",
        "5 parsecs",
        "bearerd.toml:12:1",
        "did you mean `upstream`",
    ] {
        assert!(said.contains(wanted), "{wanted} in {said}");
    }
}

#[tokio::test]
async fn output_json_is_for_programs() {
    let setup = Setup::new().await.route("nonsense = 1");
    setup.write();
    let output = run(setup.folder(), &["check", "--output", "json"]).await;
    output.expect_code(78);
    let text = output.json().to_string();
    assert!(text.contains("nonsense") && text.contains("bearerd.toml"), "{text}");
    let setup = Setup::new().await;
    setup.write();
    let output = run(setup.folder(), &["check", "--output", "json"]).await;
    output.expect_code(0);
    output.json();
}

#[tokio::test]
async fn a_proxy_variable_that_cannot_be_used_is_an_error_where_it_is_obeyed() {
    let keys = "token_url = \"https://idp.example/token\"\nproxy = \"env\"";
    let route = "upstream = \"https://api.example\"\nproxy = \"env\"";
    for (value, why) in [
        ("\"http://egress:3128\"", "the environment's HTTPS_PROXY has blanks or quotes in it"),
        ("http://user:127/s3cret@egress:3128", "the environment's HTTPS_PROXY goes on behind the port"),
        ("http://egress:99999", "the environment's HTTPS_PROXY has a port that is not a number"),
        (
            "socks5://user:s3cret@egress",
            "the environment's HTTPS_PROXY names a proxy of the scheme socks5 (egress)",
        ),
        ("http://", "the environment's HTTPS_PROXY is not the URL of a proxy"),
    ] {
        let setup = Setup::new().await.issuer(keys).route(route);
        setup.write();
        let lines = setup.config();
        let env = [("HTTPS_PROXY", value)];
        let (check, run) = (["check"], ["run"]);
        let output = run_with(setup.folder(), &check, &env).await;
        output.expect_code(78);
        for key in ["issuer.corp.proxy", "route[0].proxy"] {
            let place = output.all().lines().any(|line| line.contains(key) && line.contains(why));
            assert!(place, "{key}: {why} in {}", output.all());
        }
        let at = lines.lines().position(|line| line.starts_with("proxy = ")).unwrap() + 1;
        assert!(output.all().contains(&format!("bearerd.toml:{at}:")), "line {at} in {}", output.all());
        let started = run_with(setup.folder(), &run, &env).await;
        started.expect_code(78);
        assert!(started.stderr.contains(why), "{}", started.stderr);
        assert!(!output.all().contains("s3cret") && !started.all().contains("s3cret"));
        for exempt in ["idp.example,api.example", "*"] {
            let env = [("HTTPS_PROXY", value), ("NO_PROXY", exempt)];
            run_with(setup.folder(), &check, &env).await.expect_code(0);
        }
    }
    let setup = Setup::new().await.issuer("token_url = \"https://localhost/token\"\nproxy = \"env\"");
    setup.write();
    run_with(setup.folder(), &["check"], &[("HTTPS_PROXY", "http://egress:port")]).await.expect_code(0);
}

#[tokio::test]
async fn broken_toml_is_reported_with_its_place_and_without_secrets() {
    for broken in [
        "client_secret = \"hunter2-secret\" \"",
        "client_secret = \"hunter2-secret",
        "client_secret = hunter2-secret",
    ] {
        let (_setup, output) = checked(Setup::new().await.issuer(broken)).await;
        output.expect_code(78);
        assert!(output.all().contains("bearerd.toml:"), "{}", output.all());
        assert!(!output.all().contains("hunter2-secret"), "{}", output.all());
    }
}

#[tokio::test]
async fn slips_with_secrets_are_warned_about_and_not_shown() {
    for (content, wanted) in [
        ("\u{feff}hunter2-secret", "begins with a byte order mark"),
        ("h\0u\0n\0t\0e\0r\0", "is UTF-16"),
        (" hunter2-secret", "white space, which is sent too"),
        ("\"hunter2-secret\"", "in quotes"),
        ("CLIENT_SECRET=hunter2-secret\n", "begins with a name and `=`"),
        ("${HUNTER2_SECRET}", "the name of a variable"),
    ] {
        let setup = Setup::new().await;
        let path = setup.file("secret", content);
        let (_setup, output) = checked(setup).await;
        output.expect_code(0);
        let said = output.all();
        assert!(
            said.contains("issuer.corp.client_secret: file") && said.contains(wanted),
            "{wanted} in {said}"
        );
        assert!(said.contains(&path.display().to_string()), "{said}");
        assert!(!said.to_lowercase().contains("hunter2"), "{said}");
    }
    for (literal, wanted) in [
        ("/run/secrets/hunter2", "the name of a file"),
        ("secret", ""),
        ("./secret", "the name of a file"),
        ("'hunter2'", "in quotes"),
    ] {
        let (_setup, output) =
            checked(Setup::new().await.issuer(&format!("client_secret = \"{literal}\""))).await;
        output.expect_code(0);
        let said = output.all();
        assert_eq!(said.contains("issuer.corp.client_secret: the secret"), !wanted.is_empty(), "{said}");
        assert!(said.contains(wanted) && !said.contains("hunter2"), "{wanted} in {said}");
    }
}

#[tokio::test]
async fn keys_of_the_wrong_type_or_value_are_errors() {
    for (part, keys, wanted) in [
        ("top", "workers = 0", "workers"),
        ("top", "workers = \"two\"", "workers"),
        ("limits", "header_bytes = 100", "header_bytes"),
        ("limits", "header_bytes = \"lots\"", "header_bytes"),
        ("limits", "connections = -1", "connections"),
        ("log", "format = \"xml\"", "format"),
        ("log", "level = \"a=b=c\"", "level"),
        ("listener", "address = \"localhost\"", "address"),
        ("listener", "callers = \"everyone\"", "callers"),
        ("listener", "allow = [\"10.0.0.0/99\"]", "allow"),
        ("listener", "mode = \"999\"", "mode"),
        ("issuer", "refresh_at = 1.5", "refresh_at"),
        ("issuer", "refresh_at = 0.0", "refresh_at"),
        ("issuer", "client_auth = \"magic\"", "client_auth"),
        ("issuer", "timeout = 5", "timeout"),
        ("issuer", "scopes = [\"a b\"]", "scopes"),
        ("issuer", "headers = { \"bad name\" = \"x\" }", "bad name"),
        ("issuer", "response = { token = \"no-pointer\" }", "token"),
        ("issuer", "token_url = \"ftp://x\"", "token_url"),
        ("route", "upstream = \"not a url\"", "upstream"),
        ("route", "upstream = \"http://api.example\"", "plaintext"),
        ("route", "path = \"/a\"\npath_prefix = \"/b\"", "path"),
        ("route", "path_prefix = \"no-slash\"", "path_prefix"),
        ("route", "path_prefix = \"/a/../b\"", "path_prefix"),
        ("route", "listener = \"other\"", "other"),
        ("route", "methods = [\"G T\"]", "methods"),
        ("route", "refresh_on = [42]", "refresh_on"),
        ("route", "protocol = \"http3\"", "protocol"),
        ("route", "inject = { header = \"x\", format = \"no place\" }", "token"),
        ("route", "host = \"a.*.b\"", "host"),
        ("route", "anonymous = true\nissuer = \"corp\"", "anonymous"),
        ("route", "caller_authorization = \"maybe\"", "caller_authorization"),
    ] {
        let setup = Setup::new().await;
        let setup = match part {
            "top" => setup.top(keys),
            "limits" => setup.limits(keys),
            "log" => setup.log(keys),
            "listener" => setup.listener(keys),
            "issuer" => setup.issuer(keys),
            _ => setup.route(keys),
        };
        let (_setup, output) = checked(setup).await;
        let said = output.all();
        assert_eq!(output.code, 78, "{keys}: {said}");
        assert!(said.contains(wanted), "{keys}: {said}");
    }
}

#[tokio::test]
async fn http_upstream_elsewhere_wants_plaintext_allow_and_is_warned_about() {
    expect_bad(Setup::new().await.route("upstream = \"http://api.example\""), &["plaintext"]).await;
    let route = "upstream = \"http://api.example\"\nplaintext = \"allow\"";
    let (_setup, output) = checked(Setup::new().await.route(route)).await;
    output.expect_code(0);
    assert!(output.all().contains("warning"), "{}", output.all());
}

#[tokio::test]
async fn include_adds_files_and_their_errors_are_placed() {
    let setup = Setup::new().await.top("include = [\"conf.d/*.toml\"]").route("path_prefix = \"/main\"");
    setup.file(
        "conf.d/team.toml",
        format!(
            "[[route]]\nname = \"team\"\npath_prefix = \"/team\"\nupstream = \"{}/team\"\nissuer = \"corp\"\n",
            setup.upstream.url
        ),
    );
    let world = setup.start().await;
    world.get("/team/x").await.expect_status(200);
    assert_eq!(world.upstream().last().target(), "/team/x");
    world.file("conf.d/broken.toml", "[[route]]\nname = \"b\"\nnonsense = 1\n");
    let output = run(world.folder(), &["check"]).await;
    output.expect_code(78);
    assert!(output.all().contains("broken.toml:3:1"), "{}", output.all());
}

#[tokio::test]
async fn included_file_may_not_hold_what_is_the_main_files() {
    let setup = Setup::new().await.top("include = [\"conf.d/*.toml\"]");
    setup.file("conf.d/team.toml", "[admin]\naddress = \"127.0.0.1:0\"\n");
    let (_setup, output) = checked(setup).await;
    output.expect_code(78);
    assert!(output.all().contains("team.toml"), "{}", output.all());
}

#[tokio::test]
async fn upstream_that_is_an_own_listener_is_a_config_error() {
    let listener = "address = \"127.0.0.1:18080\"";
    let setup = Setup::new().await.listener(listener).route("upstream = \"http://127.0.0.1:18080\"");
    let (_setup, output) = checked(setup).await;
    output.expect_code(78);
}

#[tokio::test]
async fn relative_paths_start_at_the_config_files_folder() {
    let setup = Setup::new().await.issuer("client_secret = { file = \"secrets/corp\" }");
    setup.file("secrets/corp", "x");
    let path = setup.write();
    let elsewhere = tempfile::tempdir().unwrap();
    let output = run(elsewhere.path(), &["token", "corp", "--config", path.to_str().unwrap()]).await;
    output.expect_code(0);
    assert_eq!(setup.issuer.last().basic().unwrap(), "client-1:x");
}

#[tokio::test]
async fn webhook_reference_is_refused_with_a_clear_message() {
    expect_bad(Setup::new().await.issuer("client_secret = { webhook = \"w\" }"), &["webhook"]).await;
}

#[tokio::test]
async fn zero_turns_a_timeout_off() {
    let setup = Setup::new()
        .await
        .limits("header_timeout = \"0s\"\nkeep_alive = \"0s\"")
        .issuer("timeout = \"0s\"")
        .route("connect_timeout = \"0s\"\nresponse_timeout = \"0s\"\nidle_timeout = \"0s\"\nconnection_max_age = \"0s\"");
    let world = setup.start().await;
    world.get("/").await.expect_status(200);
}

/// Wildcards and templates of other proxies are ordinary characters here.
#[tokio::test]
async fn a_wildcard_in_a_path_is_warned_about() {
    for (key, prefix) in [
        ("path = \"/billing/*\"", "/billing"),
        ("path_prefix = \"/billing/*\"", "/billing"),
        ("path = \"/billing/{id}/lines\"", "/billing"),
        ("path = \"/*\"", "/"),
        ("path_prefix = \"/billing*\"", "/"),
    ] {
        let setup = Setup::new().await.route(key);
        setup.write();
        let output = run(setup.folder(), &["check"]).await;
        output.expect_code(0);
        let wanted = format!("write path_prefix = \"{prefix}\", which serves every path below it");
        assert!(
            output.all().contains("warning: route[0].path") && output.all().contains(&wanted),
            "{}",
            output.all()
        );
    }
}

/// Values that each key may be given, good and bad.
const LINES: &[(&str, &[&str])] = &[
    (
        "[log]",
        &[
            "level = \"verbose\"",
            "level = \"off\"",
            "level = \"warn,bearerd=debug\"",
            "level = \"info,bearerd=loud\"",
            "format = \"xml\"",
            "access = false",
            "level = \"[span]=info\"",
        ],
    ),
    (
        "[limits]",
        &[
            "header_bytes = \"512B\"",
            "header_bytes = \"1MiB\"",
            "header_count = 100000",
            "header_count = 10000",
            "connections = 1",
            "connections = 1000000",
            "waiters = 0",
            "keep_alive = \"0s\"",
            "header_timeout = \"999999d\"",
        ],
    ),
    (
        "[admin]",
        &[
            "address = \"unix:admin.sock\"",
            "address = \"127.0.0.1:99999\"",
            "address = \"[::1]:0\"",
            "address = \"unix:no/such/folder/admin.sock\"",
        ],
    ),
    (
        "[listener.main]",
        &[
            "names = [\"api.internal\"]",
            "names = [\"*\"]",
            "origins = [\"https://a.example\"]",
            "mode = \"0660\"",
            "mode = \"9\"",
            "group = \"no-such-group\"",
            "require_header = { name = \"x-key\", value = { file = \"missing\" } }",
            "tls = { certificate = { file = \"missing\" }, private_key = { file = \"missing\" } }",
        ],
    ),
    (
        "[issuer.corp]",
        &[
            "refresh_at = 1.0",
            "refresh_at = 0.0",
            "timeout = \"0s\"",
            "tls = { ca = { file = \"missing\" } }",
            "tls = { roots = \"bundled\" }",
            "proxy = \"env\"",
            "proxy = \"ftp://x\"",
            "params = { a = { env = \"MISSING\" } }",
            "scopes = [\"a b\"]",
            "headers = { \"bad name\" = \"x\" }",
            "shared = false",
            "budget = { requests = 1, per = \"1s\" }",
            "budget = { requests = 1 }",
        ],
    ),
    (
        "[[route]]",
        &[
            "path = \"/a/../b\"",
            "path_prefix = \"/a%2fb\"",
            "methods = [\"get\"]",
            "header_case = \"title\"",
            "replay_limit = \"2GiB\"",
            "inject = { query = \"access_token\" }",
            "request_headers = { set = { host = \"x\" } }",
            "request_headers = { set = { x-a = { file = \"missing\" } } }",
            "refresh_on = [200]",
            "match_headers = { host = \"x\" }",
        ],
    ),
    (
        "[store]",
        &[
            "path = \"tokens\"",
            "path = \"/dev/null/tokens\"\nprefix = \"a\"",
            "path = \"tokens\"\ncluster = true",
            "url = \"redis://127.0.0.1:1\"\ntimeout = \"1ms\"",
            "url = \"rediss://127.0.0.1:1/1\"\ntls = { ca = { file = \"missing\" } }",
            "url = \"http://127.0.0.1:1\"",
            "url = \"unix:no-such.sock\"\nusername = \"a\"\npassword = { file = \"missing\" }",
            "urls = [\"redis://127.0.0.1:1\", \"redis://127.0.0.1:2\"]\ncluster = true",
            "url = \"redis://127.0.0.1:1\"\nsentinel = \"mymaster\"",
            "url = \"redis://127.0.0.1:1\"\ntimeout = \"0s\"",
        ],
    ),
    (
        "[tracing]",
        &[
            "endpoint = \"http://127.0.0.1:1/v1/traces\"",
            "endpoint = \"collector\"",
            "endpoint = \"http://127.0.0.1:1\"\nsample = 2.0",
        ],
    ),
];

fn any_config(random: &mut fastrand::Rng) -> String {
    let mut text = "workers = 1\n".to_owned();
    for (table, lines) in LINES {
        let needed = match *table {
            "[listener.main]" => "address = \"unix:main.sock\"",
            "[issuer.corp]" => {
                "token_url = \"http://127.0.0.1:1/token\"\nclient_id = \"a\"\nclient_secret = { file = \"missing\" }"
            }
            "[[route]]" => "name = \"api\"\nupstream = \"http://127.0.0.1:1\"\nissuer = \"corp\"",
            "[admin]" | "[store]" | "[tracing]" if random.bool() => continue,
            "[store]" => "keys = [{ file = \"missing\" }]",
            "[admin]" => "callers = \"local\"",
            _ => "",
        };
        let chosen = if random.u8(..3) == 0 { lines[random.usize(..lines.len())] } else { "" };
        if matches!(*table, "[store]" | "[tracing]") && chosen.is_empty() {
            continue;
        }
        text.push_str(&format!("{table}\n{needed}\n{chosen}\n"));
    }
    text
}

/// What `check` takes, `run` takes; what it refuses, `run` refuses with the same code.
#[tokio::test]
async fn run_takes_what_check_takes_and_nothing_else() {
    let mut random = fastrand::Rng::with_seed(12);
    let (mut taken, mut refused) = (0, 0);
    for _ in 0..40 {
        let text = any_config(&mut random);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("bearerd.toml");
        std::fs::write(&file, &text).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        let checked = run(folder.path(), &["check"]).await;
        let mut child = command(folder.path(), &["run"]).stderr(std::process::Stdio::null()).spawn().unwrap();
        let socket = folder.path().join("main.sock");
        let ended = eventually("it to serve or to end", || {
            let serves = std::os::unix::net::UnixStream::connect(&socket).is_ok();
            let ended = child.try_wait().unwrap();
            async move { if serves { Some(None) } else { ended.map(|status| Some(status.code())) } }
        })
        .await;
        match checked.code {
            // 69: an address may be refused by this machine, which no file says.
            0 => assert!(matches!(ended, None | Some(Some(69))), "{ended:?} though check took it:\n{text}"),
            code => assert_eq!(ended, Some(Some(code)), "{}\n{text}", checked.all()),
        }
        if ended.is_none() { taken += 1 } else { refused += 1 }
    }
    assert!(taken >= 5 && refused >= 5, "{taken} {refused}: too much of one kind shows nothing");
}

#[tokio::test]
async fn a_bad_host_is_the_only_error_of_a_route_without_upstream() {
    for (host, hint) in [
        ("a.com:443", "write \"a.com\""),
        ("a.com.", "leave the dot out"),
        ("*", "name a host"),
        ("::1", "write \"[::1]\""),
        ("bücher.de", "punycode"),
        ("a.com:0", "such as"),
    ] {
        let setup = Setup::new().await.listener("serve = \"forward\"").route(&format!("host = \"{host}\""));
        let whole = setup
            .config()
            .lines()
            .filter(|line| !line.starts_with("upstream"))
            .collect::<Vec<_>>()
            .join("\n");
        let (_setup, output) = checked(setup.whole(&whole)).await;
        output.expect_code(78);
        let said = output.all();
        assert!(said.contains("bearerd.toml: 1 error") || said.contains(": 1 error"), "{host}: {said}");
        assert!(said.contains("error: route[0].host: ") && said.contains(hint), "{host}: {said}");
    }
}

#[tokio::test]
async fn a_listener_that_only_exec_makes_is_none_of_the_file() {
    let whole = "[admin]\naddress = \"127.0.0.1:0\"\n[listener.tokens]\naddress = \"unix:tokens.sock\"\nserve = \"token\"\n\
                 [issuer.corp]\ntoken_url = \"{issuer}/t\"\nclient_id = \"c\"\nclient_secret = { file = \"secret\" }\n\
                 [[route]]\nname = \"r\"\nhost = \"api.example.com\"\nupstream = \"{upstream}\"\nissuer = \"corp\"\n";
    let (_setup, output) = checked(Setup::new().await.whole(whole)).await;
    output.expect_code(0);
    let said = output.all();
    assert!(said.contains("warning: route[0]: no listener serves it"), "{said}");
    assert!(said.contains("ok: 1 listener, 1 route") && !said.contains("route[0].listener"), "{said}");
    assert!(said.contains("the listener that `bearerd exec` makes is a forward proxy"), "{said}");
}

#[tokio::test]
async fn a_command_in_one_string_is_split_by_the_operator() {
    let keys = "client_secret = { exec = \"printf x\" }";
    expect_bad(Setup::new().await.issuer(keys), &["each of its words in quotes: [\"…\", \"…\"]"]).await;
    let setup = Setup::new().await.issuer("client_secret = { exec = [\"printf x\"] }");
    let (_setup, output) = checked(setup).await;
    output.expect_code(0);
    assert!(output.all().contains("write each argument as a string of its own"), "{}", output.all());
}
