//! `{ exec = […] }`: values that programs print.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::blocking::copy_program;
use crate::support::{RawResponse, Recorded, Setup, World, cli, eventually, stays};

mod config;
mod elsewhere;
mod ends;

/// Writes a shell script beside the config.
pub fn script(folder: &Path, name: &str, body: &str) -> PathBuf {
    let path = folder.join(name);
    let [text, new] = ["text", "new"].map(|kind| folder.join(format!("{name}.{kind}")));
    std::fs::write(&text, format!("#!/bin/sh\n{body}\n")).unwrap();
    // Moved into place, because a program that runs cannot be written.
    copy_program(&text, &new);
    std::fs::rename(new, &path).unwrap();
    path
}

async fn scene(body: &str, keys: &str) -> Setup {
    let setup = Setup::new().await;
    script(setup.folder(), "program", body);
    setup.issuer(keys)
}

const SECRET: &str = "client_secret = { exec = [\"./program\"] }";

fn runs(folder: &Path) -> usize {
    std::fs::read_to_string(folder.join("runs")).unwrap_or_default().lines().count()
}

fn secrets(world: &World) -> Vec<String> {
    let of = |request: &Recorded| request.basic().unwrap().split(':').nth(1).unwrap().to_owned();
    world.issuer().requests().iter().map(|request| of(request)).collect()
}

async fn detail(world: &World) -> String {
    let response = world.get("/").await;
    response.expect_problem(503, "token_unavailable");
    response.json()["detail"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_program_gives_every_value_of_a_token_request() {
    let setup = scene(
        "printf '%s\\n' \"of-$1\"",
        "client_id = { exec = [\"./program\", \"id\"] }
         client_secret = { exec = [\"./program\", \"secret\"] }
         params = { one = { exec = [\"./program\", \"one\"] }, more = [\"x\", { exec = [\"./program\", \"more\"], env = { A = \"b\" }, timeout = \"9s\", keep = \"1m\" }] }
         headers = { x-one = { exec = [\"./program\", \"header\"] } }",
    );
    let setup = setup.await.route("params = { route = { exec = [\"./program\", \"route\"] } }");
    let world = setup.start().await;
    world.get("/").await.expect_status(200);
    let request = world.issuer().request(1).await;
    assert_eq!(request.basic().as_deref(), Some("of-id:of-secret"));
    assert_eq!(request.params("one"), ["of-one"]);
    assert_eq!(request.params("more"), ["x", "of-more"]);
    assert_eq!(request.params("route"), ["of-route"]);
    assert_eq!(request.header("x-one"), Some("of-header"));
}

#[tokio::test]
async fn an_assertion_and_a_key_come_from_programs() {
    let setup = scene(
        "echo a.b.c",
        "client_auth = \"assertion_file\"\n# client_secret\nassertion = { exec = [\"./program\"] }",
    )
    .await;
    let world = setup.start().await;
    world.get("/").await.expect_status(200);
    assert_eq!(world.issuer().request(1).await.params("client_assertion"), ["a.b.c"]);

    let key = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/fixtures/keys/rsa.pkcs8.pem");
    let setup = Setup::new().await.issuer(&format!(
        "client_auth = \"private_key_jwt\"\n# client_secret\nprivate_key = {{ exec = [\"cat\", \"{}\"] }}",
        key.display()
    ));
    let world = setup.start().await;
    world.get("/").await.expect_status(200);
    assert_eq!(world.issuer().request(1).await.params("client_assertion").len(), 1);
}

#[tokio::test]
async fn json_is_pointed_into() {
    let keys = "client_secret = { exec = [\"./program\"], pointer = \"/accessToken\" }";
    let world = scene("echo '{\"accessToken\":\"inside\"}'", keys).await.start().await;
    world.get("/").await.expect_status(200);
    assert_eq!(secrets(&world), ["inside"]);
}

#[tokio::test]
async fn json_may_begin_with_a_byte_order_mark() {
    let keys = "client_secret = { exec = [\"./program\"], pointer = \"/a\" }";
    let world = scene(r#"printf '\357\273\277{"a":"inside"}'"#, keys).await.start().await;
    world.get("/").await.expect_status(200);
    assert_eq!(secrets(&world), ["inside"]);
}

#[tokio::test]
async fn what_a_program_prints_beside_the_secret_is_told_where_the_issuer_refuses_it() {
    for (body, says) in [
        ("echo 'WARNING: a newer version exists'; echo canary", "the secret has several lines"),
        (r"printf '\357\273\277canary\n'", "begins with a byte order mark"),
        (r"printf '\033[32mcanary\033[0m\n'", "contains control characters"),
        ("echo '\"canary\"'", "is in quotes"),
    ] {
        let setup = scene(body, SECRET).await;
        setup.issuer.always_this(RawResponse::oauth_error(401, "invalid_client"));
        let world = setup.start().await;
        let response = world.get("/").await;
        response.expect_problem(502, "token_refused");
        let detail = response.json()["detail"].as_str().unwrap().to_owned();
        for part in ["program ./program: the secret", says, "the program must print only the secret"] {
            assert!(detail.contains(part), "{body}: {detail}");
        }
        assert!(!detail.contains("canary") && !world.log().text().contains("canary"), "{detail}");
    }
}

#[tokio::test]
async fn what_looks_wrong_with_a_printed_value_is_told_wherever_it_is_sent() {
    let json = "echo '{\"token\": \"canary\"}'";
    let is_json = "program ./program: the secret is JSON, which is sent as it is; name the value in it, for example with pointer";
    let exec = "{ exec = [\"./program\"] }";
    for (body, keys, says) in [
        (json, format!("client_secret = {exec}"), is_json),
        (json, format!("client_auth = \"assertion_file\"\n# client_secret\nassertion = {exec}"), is_json),
        (
            json,
            format!("client_auth = \"client_secret_post\"\nbasic = {{ user = \"u\", password = {exec} }}"),
            is_json,
        ),
        (json, format!("params = {{ subject_token = {exec} }}"), is_json),
        (json, format!("headers = {{ x-api-key = {exec} }}"), is_json),
        (
            "printf 'a.b.c\\000canary'",
            format!("client_auth = \"assertion_file\"\n# client_secret\nassertion = {exec}"),
            "program ./program: the secret contains control characters",
        ),
    ] {
        let setup = scene(body, &keys).await;
        setup.issuer.always_this(RawResponse::oauth_error(401, "invalid_client"));
        let world = setup.start().await;
        let response = world.get("/").await;
        response.expect_problem(502, "token_refused");
        let text = response.text();
        assert!(text.contains(says) && !text.contains("canary"), "{keys}: {text}");
    }
    for name in ["x-api-key", "x-plain"] {
        let world = scene("echo canary; echo canary", &format!("headers = {{ {name} = {exec} }}")).await;
        let detail = detail(&world.start().await).await;
        let says = format!("headers.{name}: program ./program contains a character that a header field");
        for part in [&*says, "the secret has several lines; the program must print only the secret"] {
            assert!(detail.contains(part) && !detail.contains("canary"), "{part}: {detail}");
        }
    }
    // JSON by its nature, and a value whose name says nothing.
    let keys = format!("params = {{ authorization_details = {exec}, claims = {exec} }}");
    let world = scene(json, &keys).await.start().await;
    world.get("/").await.expect_status(200);
    assert!(!world.log().text().contains("is JSON"), "{}", world.log().text());
}

#[tokio::test]
async fn an_issuer_that_speaks_of_the_secret_before_is_not_quoted() {
    let printed = "client_secret = { exec = [\"cat\", \"secret\"] }";
    for keys in ["", printed] {
        let setup = scene("", &format!("{keys}\ncredential_grace = \"0s\"")).await;
        setup.file("secret", "canary-of-before");
        setup.issuer.always(|request, n| match request.basic().unwrap().ends_with("canary-of-before") {
            true => RawResponse::brief_token(n),
            false => {
                let said =
                    "{\"error\":\"invalid_client\",\"error_description\":\"canary-of-before has expired\"}";
                RawResponse::status(401).body(said).header("content-type", "application/json")
            }
        });
        let world = setup.start().await;
        world.get("/").await.expect_status(200);
        world.file("secret", "another-one");
        eventually("a refusal", || async { (world.get("/").await.status == 502).then_some(()) }).await;
        let text = world.get("/").await.text();
        assert!(text.contains("invalid_client") && !text.contains("canary"), "{text}");
        assert!(!world.log().text().contains("canary"), "{}", world.log().text());
    }
}

/// bearerd raises its own limit, and some programs close every descriptor up to theirs.
#[tokio::test]
async fn a_program_has_the_limit_of_open_files_that_bearerd_was_started_with() {
    // It is set when the program has begun.
    let body = "until [ \"$(ulimit -Sn)\" = 200 ]; do sleep 0.01; done; echo \"$(ulimit -Hn)\"";
    let world = crate::machine::start_limited(scene(body, SECRET).await, "ulimit -Sn 200").await;
    world.get("/").await.expect_status(200);
    let hard = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    assert_eq!(secrets(&world), [hard.map_or_else(|| "unlimited".to_owned(), |most| most.to_string())]);
    let own = std::fs::read_to_string(format!("/proc/{}/limits", world.pid().as_raw_nonzero())).unwrap();
    let own = own.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert!(!own.contains(" 200 "), "bearerd keeps the limit that it raised: {own}");
}

#[tokio::test]
async fn the_environment_is_what_the_config_names() {
    let keys = "client_secret = { exec = [\"./program\"], env = { TOKEN = { file = \"vault-token\" }, PLAIN = \"a b\" } }";
    let setup = scene("env > seen; pwd > where; [ -t 0 ] || read -r line || echo s", keys).await;
    setup.file("vault-token", "canary-vault-token\n");
    let world = setup
        .env("CANARY", "canary-of-the-environment")
        .env("LANG", "C")
        .env("HOME", "/nowhere")
        .start()
        .await;
    world.get("/").await.expect_status(200);
    let seen = std::fs::read_to_string(world.folder().join("seen")).unwrap();
    // What a shell sets by itself.
    let own = ["PWD", "OLDPWD", "_", "SHLVL"];
    let mut names: Vec<_> = seen.lines().filter_map(|line| line.split('=').next()).collect();
    names.retain(|name| !own.contains(name));
    names.sort_unstable();
    let expected = vec!["HOME", "LANG", "PATH", "PLAIN", "TOKEN"];
    assert_eq!(names, expected, "{seen}");
    assert!(seen.contains("TOKEN=canary-vault-token\n") && seen.contains("PLAIN=a b"), "{seen}");
    let folder = std::fs::canonicalize(world.folder()).unwrap();
    assert_eq!(std::fs::read_to_string(folder.join("where")).unwrap().trim(), folder.to_str().unwrap());
}

/// The issuer's tokens live for a second.
async fn three_token_requests(world: &World) {
    eventually("three token requests", || async {
        world.get("/").await.expect_status(200);
        (world.issuer().count() >= 3).then_some(())
    })
    .await;
}

#[tokio::test]
async fn without_keep_it_runs_for_each_request_and_with_keep_once() {
    let body = "echo run >> runs; echo \"secret-$(wc -l < runs | tr -d ' ')\"";
    let world = scene(body, SECRET).await;
    world.issuer.always(|_, n| RawResponse::brief_token(n));
    let world = world.start().await;
    three_token_requests(&world).await;
    assert_eq!(secrets(&world)[..3], ["secret-1", "secret-2", "secret-3"]);

    let keys = "client_secret = { exec = [\"./program\"], keep = \"1h\" }";
    let setup = scene(body, keys).await;
    setup.issuer.always(|_, n| RawResponse::brief_token(n));
    let world = setup.start().await;
    three_token_requests(&world).await;
    assert_eq!(runs(world.folder()), 1);
}

#[tokio::test]
async fn the_time_that_a_program_takes_is_no_part_of_a_tokens_lifetime() {
    let setup = scene("sleep 3; echo secret", SECRET).await;
    setup.issuer.always(|_, n| RawResponse::token_for(&format!("token-{n}"), 3));
    let world = setup.start().await;
    world.get("/").await.expect_status(200);
    let labels = [("issuer", "corp")];
    let [sum, count] = ["sum", "count"].map(|part| format!("bearerd_token_request_duration_seconds_{part}"));
    let (sum, count) = (world.metric(&sum, &labels).await, world.metric(&count, &labels).await);
    let (sum, count) = (sum.unwrap(), count.unwrap());
    assert!(count >= 1.0 && sum / count < 2.5, "{sum} s in {count} requests");
}

#[tokio::test]
async fn the_time_that_a_program_takes_is_no_part_of_the_timeout_with_standby() {
    let setup = scene(
        "sleep 3; echo secret",
        "client_secret = { exec = [\"./program\"] }
         standby = { client_secret = { file = \"next\" } }
         timeout = \"4s\"",
    )
    .await;
    setup.file("next", "next");
    setup.issuer.always(|request, n| match request.basic().unwrap().ends_with(":next") {
        true => RawResponse::token(&format!("token-{n}")).delayed(Duration::from_secs(2)),
        false => RawResponse::oauth_error(401, "invalid_client"),
    });
    let world = setup.start().await;
    eventually("a token", || async { (world.get("/").await.status == 200).then_some(()) }).await;
    assert_eq!(secrets(&world), ["secret", "next"]);
}

#[tokio::test]
async fn a_kept_value_that_the_issuer_refuses_is_printed_again_once() {
    let keys = "client_secret = { exec = [\"./program\"], keep = \"1h\" }\ncredential_grace = \"0s\"";
    let setup = scene("echo run >> runs; cat current", keys).await;
    setup.file("current", "old");
    let answer = |valid: &'static str| {
        move |request: &Recorded, n: usize| match request.basic().unwrap().ends_with(valid) {
            true => RawResponse::brief_token(n),
            false => RawResponse::oauth_error(401, "invalid_client"),
        }
    };
    setup.issuer.always(answer("old"));
    let world = setup.start().await;
    world.get("/").await.expect_status(200);
    world.file("current", "new");
    let before = world.issuer().count();
    world.issuer().always(answer("new"));
    eventually("the program to run again", || async {
        world.get("/").await.expect_status(200);
        (runs(world.folder()) == 2 && world.issuer().count() >= before + 2).then_some(())
    })
    .await;
    let sent = secrets(&world);
    assert_eq!(sent[before..before + 2], ["old", "new"], "{sent:?}");

    // A value that was just printed is not printed again for a refusal.
    world.issuer().always(answer("another"));
    eventually("a refusal", || async { (world.get("/").await.status == 502).then_some(()) }).await;
    let count = runs(world.folder());
    stays(Duration::from_millis(1500), || runs(world.folder())).await;
    assert_eq!(runs(world.folder()), count);
}

#[tokio::test]
async fn every_failure_says_what_happened_and_what_to_do() {
    let cases: [(&str, &str, &str); 11] = [
        ("exit 3", SECRET, "program ./program: ended with exit code 3; it wrote nothing to stderr"),
        ("echo why >&2; exit 3", SECRET, "exit code 3; what it wrote to stderr is in bearerd's log"),
        ("kill -9 $$", SECRET, "was ended by signal 9 (SIGKILL"),
        (":", SECRET, "printed nothing"),
        ("echo", SECRET, "printed nothing"),
        ("yes", SECRET, "printed more than 64 KiB, and was killed"),
        (
            "trap '' PIPE; while :; do echo words; done 2>/dev/null",
            SECRET,
            "printed more than 64 KiB, and was killed",
        ),
        ("echo x", "client_secret = { exec = [\"no-such-program-of-bearerd\"] }", "not found in PATH (/"),
        ("echo x", "client_secret = { exec = [\"./secret\"] }", "may not be run by this user: run `chmod +x"),
        (
            "echo x",
            "client_secret = { exec = [\"./program\"], pointer = \"/a\" }",
            "program ./program at /a: is not JSON",
        ),
        (
            "echo x",
            "client_secret = { exec = [\"./program\"], env = { A = { env = \"NOT_SET_OF_BEARERD\" } } }",
            "env.A cannot be read: environment variable NOT_SET_OF_BEARERD: is not set",
        ),
    ];
    for (body, keys, expected) in cases {
        let world = scene(body, keys).await.start().await;
        let detail = detail(&world).await;
        assert!(detail.contains(expected), "{body}: {detail}");
        let is_unset = expected.contains("environment variable");
        let remedy = if is_unset { "set it where bearerd is started" } else { "[issuer.corp]" };
        assert!(detail.contains("client_secret") && detail.contains(remedy), "{detail}");
        assert_eq!(world.issuer().count(), 0, "{body}");
        let ready = world.admin("/readyz").await;
        ready.expect_status(503);
    }
}

#[tokio::test]
async fn a_failure_ends_when_the_program_works() {
    let world = scene("exit 1", SECRET).await.start().await;
    detail(&world).await;
    script(world.folder(), "program", "echo good");
    eventually("a token", || async { (world.get("/").await.status == 200).then_some(()) }).await;
}

#[tokio::test]
async fn a_reference_has_one_run_at_a_time() {
    // A second run finds the folder and fails.
    let body = "mkdir lock || exit 9\necho run >> runs\nsleep 0.3\nrmdir lock\necho value";
    let mut setup = scene(body, SECRET).await;
    for number in 0..5 {
        setup = setup.more(&format!(
            "[issuer.i{number}]\ntoken_url = \"{{issuer}}/token\"\nclient_id = \"c\"\n{SECRET}\n[[route]]\nname = \"r{number}\"\npath_prefix = \"/{number}\"\nupstream = \"{{upstream}}\"\nissuer = \"i{number}\""
        ));
    }
    let world = setup.start().await;
    for number in 0..5 {
        world.get(&format!("/{number}/")).await.expect_status(200);
    }
    world.get("/").await.expect_status(200);
    assert!(!world.log().text().contains("exit code 9"), "{}", world.log().text());
    assert!(runs(world.folder()) < 6, "those that wait share the run");
}

#[tokio::test]
async fn stderr_is_in_the_log_masked_and_bounded() {
    let keys =
        "client_secret = { exec = [\"./program\"], env = { VAULT_TOKEN = { file = \"vault-token\" } } }";
    let body = "echo \"using $VAULT_TOKEN\" >&2
        printf 'result: canary-printed-secret\\n' >&2
        printf 'plain \\033[31m words\\n' >&2
        i=0; while [ $i -lt 5000 ]; do echo \"filler $i\" >&2; i=$((i+1)); done
        echo last >&2
        echo canary-printed-secret";
    let setup = scene(body, keys).await;
    setup.file("vault-token", "canary-vault-token\n");
    let mut world = setup.start().await;
    world.get("/").await.expect_status(200);
    let log = world.log().clone();
    let lines = || log.lines().iter().filter(|line| line.contains("program.stderr")).count();
    eventually("the program's words", || async { (lines() >= 2).then_some(()) }).await;
    world.proxy.stop().await;
    assert!(!world.log().text().contains("canary-"), "{}", world.log().text());
    assert!(lines() <= 65, "{}", lines());

    let world = scene("echo \"$1 \" >&2; printf 'red \\033[31m words\\n' >&2; echo 'it is canary-printed-secret' >&2; echo canary-printed-secret; exit 1", SECRET).await.start().await;
    detail(&world).await;
    let log = world
        .log()
        .wait("the program's words", |line| line.contains("program.stderr") && line.contains("red"))
        .await;
    assert!(log.contains("red  [31m words") && log.contains("WARN"), "{log}");
    world.log().wait("what stands for a secret", |line| line.contains("a line that contains a secret")).await;
    assert!(!world.log().text().contains("canary-"), "{}", world.log().text());
}

const HIDDEN_LINE: &str = "(a line that contains a secret)";

#[tokio::test]
async fn what_a_program_printed_before_is_masked_in_what_it_says_later() {
    let exec = "{ exec = [\"./program\"], timeout = \"3s\"";
    let (issuers, routes) = (
        format!("client_secret = {exec} }}"),
        format!("request_headers = {{ set = {{ x-set = {exec}, keep = \"1s\" }} }} }}"),
    );
    for (of_issuer, later) in [
        (true, "echo 'the secret canary-printed has expired' >&2; exit 1"),
        (true, "echo 'rotated, it was canary-printed' >&2"),
        (true, "echo 'rotated, it was Y2FuYXJ5LXByaW50ZWQ=' >&2; echo new"),
        (true, "echo 'using canary-printed' >&2; sleep 600"),
        (false, "echo 'the secret canary-printed has expired' >&2; exit 1"),
        (false, "echo 'rotated, it was canary-printed' >&2; echo new"),
    ] {
        let keys = if of_issuer { issuers.as_str() } else { "" };
        let setup = scene("[ ! -e later ] || { . ./later; exit; }; echo canary-printed", keys).await;
        let setup = if of_issuer { setup } else { setup.route(&routes) };
        setup.issuer.always(|_, n| RawResponse::brief_token(n));
        let world = setup.start().await;
        world.get("/").await.expect_status(200);
        world.file("later", later);
        eventually("the program's words", || async {
            world.get("/").await;
            world.log().text().contains("program.stderr").then_some(())
        })
        .await;
        let log = world.log().text();
        assert!(log.contains(HIDDEN_LINE) && !log.contains("canary") && !log.contains("Y2Fu"), "{log}");
    }
}

#[tokio::test]
async fn secrets_in_a_programs_arguments_are_masked_and_reported() {
    let world = scene(
        "echo \"unknown flag $1 of $2 $3\" >&2; echo plain >&2; exit 2",
        "client_secret = { exec = [\"./program\", \"--token=canary-one\", \"--api-key\", \"canary-two\"] }",
    )
    .await
    .start()
    .await;
    detail(&world).await;
    world.log().wait("other lines", |line| line.contains("program.stderr") && line.contains("plain")).await;
    let log = world.log().text();
    assert!(log.contains(HIDDEN_LINE) && !log.contains("canary"), "{log}");

    let output = cli::run(world.folder(), &["check"]).await;
    assert!(!output.all().contains("literal"), "{}", output.all());
    let config = world.folder().join("bearerd.toml");
    std::fs::set_permissions(config, std::fs::Permissions::from_mode(0o644)).unwrap();
    let output = cli::run(world.folder(), &["check"]).await;
    output.expect_code(0);
    let warning = "warning: issuer.corp.client_secret.exec[1]: contains a secret as a literal, in a file that others may read";
    assert!(output.all().contains(warning) && output.all().contains("chmod 600"), "{}", output.all());
    assert!(!output.all().contains("canary"), "{}", output.all());
}

#[tokio::test]
async fn the_verbs_with_a_network_run_it() {
    let setup = scene("echo run >> runs; echo 'hello from the program' >&2; echo canary-x", SECRET).await;
    setup.write();
    for args in [&["token", "corp"][..], &["check", "--online"]] {
        let before = runs(setup.folder());
        let output = cli::run(setup.folder(), args).await;
        output.expect_code(0);
        assert!(runs(setup.folder()) > before, "{args:?}");
        assert!(output.all().contains("hello from the program"), "{}", output.all());
        assert!(!output.all().contains("canary"), "{}", output.all());
    }
    script(setup.folder(), "program", "echo 'no way' >&2; exit 4");
    for args in [&["token", "corp"][..], &["check", "--online"]] {
        let output = cli::run(setup.folder(), args).await;
        output.expect_code(1);
        assert!(
            output.all().contains("ended with exit code 4") && output.all().contains("no way"),
            "{}",
            output.all()
        );
    }
}
