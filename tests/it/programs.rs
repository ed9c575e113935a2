//! `{ exec = […] }`: values that programs print.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::bearerd::Bearerd;
use crate::support::blocking::copy_program;
use crate::support::tls::Ca;
use crate::support::{
    Client, RawRequest, RawResponse, Recorded, Scripted, Setup, World, cli, eventually, stays, within,
};

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
async fn a_program_that_hangs_is_killed_with_its_children() {
    let keys = "client_secret = { exec = [\"./program\"], timeout = \"3s\" }";
    // The child holds the output open, and ignores polite signals.
    let body = "trap '' TERM HUP INT\nsh -c 'trap \"\" TERM HUP INT; echo $$ > child; sleep 600' &\n. ./others\nwait";
    let setup = scene(body, keys).await;
    setup.file("others", IN_SESSIONS_OF_THEIR_OWN);
    let world = setup.start().await;
    let detail = detail(&world).await;
    assert!(
        detail.contains("did not end within 3s, and was killed with its children: raise `timeout`"),
        "{detail}"
    );
    for name in ["child", "session", "deeper", "orphan"] {
        let pid = pid_in(world.folder(), name).await;
        eventually(&format!("{name} to be gone"), || async { is_gone(&pid).then_some(()) }).await;
    }
}

/// Children that left the program's process group: in a session of their own, below that one, and one whose parent has ended.
const IN_SESSIONS_OF_THEIR_OWN: &str = "setsid sh -c '
    echo $$ > session
    setsid sh -c \"echo \\$\\$ > deeper; exec sleep 600\" &
    sh -c \"sleep 600 & echo \\$! > orphan\"
    wait' &";

async fn pid_in(folder: &Path, name: &str) -> String {
    let text = || std::fs::read_to_string(folder.join(name)).ok().filter(|text| text.ends_with('\n'));
    eventually(name, || async { text() }).await.trim().to_owned()
}

/// A zombie waits for its parent, which is not bearerd.
fn is_gone(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.map_or(true, |stat| stat.contains(") Z "))
}

#[tokio::test]
async fn a_child_that_is_left_does_not_hold_up_the_value() {
    let world = scene("sleep 600 & echo $! > child; echo value", SECRET).await.start().await;
    world.get("/").await.expect_status(200);
    assert_eq!(secrets(&world), ["value"]);
}

#[tokio::test]
async fn no_program_outlives_bearerd() {
    let keys = "client_secret = { exec = [\"./program\"], timeout = \"5m\" }";
    let setup = scene(". ./others\necho $$ > pid; exec sleep 600", keys).await;
    setup.file("others", IN_SESSIONS_OF_THEIR_OWN);
    let mut world = setup.start().await;
    let names = ["pid", "session", "deeper", "orphan"];
    let mut pids = Vec::new();
    for name in names {
        pids.push(pid_in(world.folder(), name).await);
    }
    world.proxy.stop().await;
    for pid in pids {
        eventually(&format!("{pid} to be gone"), || async { is_gone(&pid).then_some(()) }).await;
    }
}

/// A start waits for the first output of a program outside of token requests.
#[tokio::test]
async fn a_signal_during_the_start_ends_bearerd_and_its_programs() {
    let exec = "{ exec = [\"./program\"], keep = \"1m\", timeout = \"1m\" }";
    let keys = format!("require_header = {{ name = \"x-key\", value = {exec} }}");
    for (args, code) in [(&["run"][..], 0), (&["exec", "--", "true"], 143)] {
        let setup = scene("echo $$ > pid; exec sleep 600", "").await.listener(&keys);
        setup.write();
        let mut command = cli::command(setup.folder(), args);
        let mut child = command.env("TMPDIR", setup.folder()).spawn().unwrap();
        let pid = pid_in(setup.folder(), "pid").await;
        let own = Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
        kill_process(own, Signal::TERM).unwrap();
        let status = within("the end of bearerd", child.wait()).await.unwrap();
        assert_eq!(status.code(), Some(code), "{args:?}");
        eventually("the program to be gone", || async { is_gone(&pid).then_some(()) }).await;
        let left = std::fs::read_dir(setup.folder()).unwrap().map(|it| it.unwrap().file_name());
        let left: Vec<_> = left.filter(|name| name.to_string_lossy().starts_with("bearerd-exec")).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

/// The program does not get the signals of the terminal, so nothing else would end it.
#[tokio::test]
async fn a_signal_to_a_verb_ends_its_programs() {
    for args in [&["token", "corp"][..], &["check", "--online"]] {
        for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
            let keys = "client_secret = { exec = [\"./program\"], timeout = \"1m\" }";
            let setup = scene("echo $$ > pid; exec sleep 600", keys).await;
            setup.write();
            let mut command = tokio::process::Command::new("env");
            command.args(["--default-signal=INT,TERM,HUP", env!("CARGO_BIN_EXE_bearerd")]).args(args);
            command
                .current_dir(setup.folder())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .kill_on_drop(true);
            let mut child = command.spawn().unwrap();
            let pid = pid_in(setup.folder(), "pid").await;
            let own = Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
            kill_process(own, signal).unwrap();
            let status = within("the end of bearerd", child.wait()).await.unwrap();
            assert_eq!(status.code(), Some(code), "{args:?}");
            eventually("the program to be gone", || async { is_gone(&pid).then_some(()) }).await;
        }
    }
}

/// Nothing ties it to bearerd then but its parent.
#[tokio::test]
#[ignore = "needs python3"]
async fn a_program_that_left_its_group_is_killed_with_its_children() {
    let keys = "client_secret = { exec = [\"./program\"], timeout = \"3s\" }";
    let setup = scene("echo $$ > pid; exec python3 leave.py", keys).await;
    let leave = "import os, subprocess
os.setpgid(0, os.getpgid(os.getppid()))
child = subprocess.Popen(['sleep', '600'])
open('child', 'w').write(f'{child.pid}\\n')
child.wait()";
    setup.file("leave.py", leave);
    let world = setup.start().await;
    let detail = detail(&world).await;
    assert!(detail.contains("was killed with its children"), "{detail}");
    assert!(world.folder().join("child").exists(), "this test needs python3: install it");
    for name in ["pid", "child"] {
        let pid = pid_in(world.folder(), name).await;
        eventually(&format!("{name} to be gone"), || async { is_gone(&pid).then_some(()) }).await;
    }
}

/// As in a container without an init, whose session began outside of it.
#[tokio::test]
#[ignore = "needs unshare"]
async fn as_process_1_it_waits_for_what_programs_leave() {
    let body = "[ ! -e hang ] || { . ./others; sleep 600; }\nsleep 0.1 >/dev/null 2>&1 &\necho value";
    let setup = scene(body, "client_secret = { exec = [\"./program\"], timeout = \"2s\" }").await;
    setup.file("others", IN_SESSIONS_OF_THEIR_OWN);
    let hang = setup.file("hang", "");
    setup.write();
    let mut command = tokio::process::Command::new("unshare");
    command
        .args(["--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .args([env!("CARGO_BIN_EXE_bearerd"), "run"])
        .current_dir(setup.folder())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let proxy = Bearerd::spawn(setup.shared_folder(), command).await;
    let first = children(&proxy.pid().as_raw_nonzero().to_string());
    let [(bearerd, _)] = first.as_slice() else { panic!("one child of unshare: {first:?}") };
    let zombies = || children(bearerd).into_iter().filter(|(_, state)| state == "Z").count();

    let said = proxy.get("/").await.text();
    assert!(said.contains("did not end within 2s, and was killed with its children"), "{said}");
    std::fs::remove_file(hang).unwrap();
    eventually("a token", || async { (proxy.get("/").await.status == 200).then_some(()) }).await;
    eventually("an orphan", || async { (zombies() > 0).then_some(()) }).await;
    eventually("no orphan", || async { children(bearerd).is_empty().then_some(()) }).await;
    assert!(!proxy.log().text().contains("a bug in bearerd"), "{}", proxy.log().text());
}

/// Their process IDs and states.
fn children(parent: &str) -> Vec<(String, String)> {
    let stats = std::fs::read_dir("/proc").unwrap().flatten();
    let stats = stats.filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok());
    let child = |stat: String| {
        let (pid, rest) = (stat.split(' ').next()?, stat.rsplit(") ").next()?);
        let mut fields = rest.split(' ');
        let (state, of) = (fields.next()?, fields.next()?);
        (of == parent).then(|| (pid.to_owned(), state.to_owned()))
    };
    stats.filter_map(child).collect()
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
async fn a_config_folder_that_is_gone_is_named_and_not_the_program() {
    let setup = Setup::new().await.issuer("client_secret = { exec = [\"echo\", \"x\"] }");
    setup.issuer.always(|_, n| RawResponse::brief_token(n));
    let world = setup.start().await;
    world.get("/").await.expect_status(200);
    let (here, away) = (world.folder().to_owned(), world.folder().with_extension("away"));
    std::fs::rename(&here, &away).unwrap();
    eventually("the failure", || async {
        let text = world.get("/").await.text();
        let says =
            format!("cannot be started in the config file's folder {}: it is not there", here.display());
        (text.contains(&says) && text.contains("put the folder back")).then_some(())
    })
    .await;
    std::fs::rename(&away, &here).unwrap();
    eventually("a token", || async { (world.get("/").await.status == 200).then_some(()) }).await;
}

#[tokio::test]
async fn a_config_that_others_may_write_must_not_name_a_program() {
    let setup = scene("echo run >> runs; echo x", SECRET).await;
    let path = setup.write();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o620)).unwrap();
    let output = cli::run(setup.folder(), &["check"]).await;
    output.expect_code(78);
    let all = output.all();
    assert!(
        all.contains("client_secret.exec: names a program, in a file that other users may write"),
        "{all}"
    );
    assert!(all.contains("bearerd.toml:") && all.contains("chmod go-w"), "{all}");
    assert_eq!(runs(setup.folder()), 0);
}

/// They could include a file of their own.
#[tokio::test]
async fn a_config_that_others_may_write_must_not_include_one_that_names_a_program() {
    let setup = scene("echo x", "").await.top("include = [\"more.toml\"]");
    let more = "[issuer.more]\ntoken_url = \"http://127.0.0.1:9/\"\nclient_id = \"c\"\nclient_secret = { exec = [\"./program\"] }\n";
    let (path, more) = (setup.write(), setup.file("more.toml", more));
    std::fs::set_permissions(&more, std::fs::Permissions::from_mode(0o600)).unwrap();
    for (mode, code) in [(0o666, 78), (0o600, 0)] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let output = cli::run(setup.folder(), &["check"]).await;
        output.expect_code(code);
        let told = output
            .all()
            .contains("include: includes files that name a program or a module, in a file that other users");
        assert_eq!(told, code == 78, "{}", output.all());
    }
}

#[tokio::test]
async fn a_config_that_others_may_replace_and_that_names_a_program_is_warned_of() {
    let setup = scene("echo run >> runs; echo x", SECRET).await;
    setup.write();
    let mode = |mode: u32| {
        std::fs::set_permissions(setup.folder(), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    for open in [0o777, 0o770, 0o702] {
        mode(open);
        let output = cli::run(setup.folder(), &["check"]).await;
        output.expect_code(0);
        let all = output.all();
        let folder = setup.folder().display();
        assert!(
            all.contains(&format!("warning: issuer.corp.client_secret.exec: names a program, in a file that other users may replace, because they may write the folder {folder}")),
            "{all}"
        );
        assert!(all.contains(&format!("run `chmod go-w {folder}`, or mount it read-only")), "{all}");
    }
    // With the sticky bit, nobody replaces the file of another user.
    for closed in [0o1777, 0o755] {
        mode(closed);
        expect_no_warning(&setup).await;
    }
    // An included file counts by itself.
    let included = setup.file(
        "conf.d/more.toml",
        format!("[issuer.more]\ntoken_url = \"https://a.test\"\nclient_id = \"c\"\n{SECRET}"),
    );
    let setup = setup.top("include = [\"conf.d/*.toml\"]");
    setup.write();
    std::fs::set_permissions(&included, std::fs::Permissions::from_mode(0o600)).unwrap();
    expect_no_warning(&setup).await;
    std::fs::set_permissions(included.parent().unwrap(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let told = cli::run(setup.folder(), &["check"]).await;
    told.expect_code(0);
    assert!(told.all().contains("more.toml:") && told.all().contains("conf.d`"), "{}", told.all());
    std::fs::set_permissions(included.parent().unwrap(), std::fs::Permissions::from_mode(0o755)).unwrap();

    // Only root may give files away.
    if !rustix::process::geteuid().is_root() {
        return;
    }
    std::os::unix::fs::chown(&included, Some(65533), None).unwrap();
    let told = cli::run(setup.folder(), &["check"]).await;
    told.expect_code(0);
    assert!(
        told.all().contains("names a program, in a file of another user, who may write it"),
        "{}",
        told.all()
    );
    let remedy = "more.toml`, and let bearerd's group read it; or mount the file read-only";
    assert!(told.all().contains(remedy), "{}", told.all());
    std::os::unix::fs::chown(&included, Some(0), None).unwrap();
    std::os::unix::fs::chown(setup.folder(), Some(65533), None).unwrap();
    let told = cli::run(setup.folder(), &["check"]).await;
    told.expect_code(0);
    assert!(told.all().contains(&format!("run `chown root {}`", setup.folder().display())), "{}", told.all());
    // In a user namespace, root itself may look like this.
    let overflow = std::fs::read_to_string("/proc/sys/kernel/overflowuid").unwrap();
    for path in [setup.folder(), &included] {
        std::os::unix::fs::chown(path, Some(overflow.trim().parse().unwrap()), None).unwrap();
    }
    expect_no_warning(&setup).await;
    assert_eq!(runs(setup.folder()), 0);
}

async fn expect_no_warning(setup: &Setup) {
    let told = cli::run(setup.folder(), &["check"]).await;
    told.expect_code(0);
    assert!(!told.all().contains("names a program"), "{}", told.all());
}

#[tokio::test]
async fn check_runs_no_program_and_finds_what_cannot_be_run() {
    let setup = scene("echo run >> runs; echo x", SECRET).await;
    let setup =
        setup.issuer("headers = { x-a = { exec = [\"no-such-program-of-bearerd\", \"canary-argument\"] } }");
    setup.write();
    let output = cli::run(setup.folder(), &["check"]).await;
    output.expect_code(0);
    let all = output.all();
    assert!(
        all.contains(
            "warning: issuer.corp.headers.x-a: program no-such-program-of-bearerd: not found in PATH"
        ),
        "{all}"
    );
    assert!(!all.contains("canary"), "{all}");
    assert_eq!(runs(setup.folder()), 0);
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

#[tokio::test]
async fn wrong_tables_are_errors_with_their_fix() {
    for (keys, expected) in [
        ("client_secret = { exec = [] }", "client_secret.exec: names no program"),
        ("client_secret = { exec = [\"\"] }", "names no program"),
        ("client_secret = { exec = \"vault\" }", "expected an array"),
        ("client_secret = { exec = [\"a\"], file = \"b\" }", "has both `file` and `exec`"),
        ("client_secret = { exec = [\"a\"], env = \"B\" }", "has both `env` and `exec`"),
        ("client_secret = { env = { A = \"b\" } }", "client_secret.env: is a table"),
        ("client_secret = { file = \"b\", timeout = \"1s\" }", "timeout: belongs to `exec`"),
        (
            "client_secret = { exec = [\"a\"], timeout = \"0s\" }",
            "must be longer than \"0s\" and at most \"5m\"",
        ),
        (
            "client_secret = { exec = [\"a\"], timeout = \"6m\" }",
            "must be longer than \"0s\" and at most \"5m\"",
        ),
        ("client_secret = { exec = [\"a\"], keep = \"10ms\" }", "keep: must be at least \"1s\""),
        (
            "client_secret = { exec = [\"a\"], env = { \"A=B\" = \"c\" } }",
            "is not the name of an environment variable",
        ),
        (
            "client_secret = { exec = [\"a\"], env = { A = { exec = [\"b\"] } } }",
            "env.A: cannot come from another program",
        ),
        ("client_secret = { exec = [\"a\"], password = \"b\" }", "is for keys and certificates in PKCS#12"),
        ("client_secret = { exce = [\"a\"] }", "did you mean `exec`?"),
    ] {
        let setup = Setup::new().await.issuer(keys);
        let told = cli::refusal(&setup).await;
        assert!(told.contains(expected), "{keys}: {told}");
    }
    let setup =
        Setup::new().await.listener("require_header = { name = \"x-key\", value = { exec = [\"a\"] } }");
    let told = cli::refusal(&setup).await;
    assert!(told.contains("needs `keep`") && told.contains("keep = \"5m\""), "{told}");
}

#[tokio::test]
async fn elsewhere_it_runs_at_start_and_again_after_keep() {
    let setup = scene("cat \"$1\"", "").await;
    setup.file("caller", "caller-one");
    setup.file("set", "set-one");
    let setup = setup
        .listener("require_header = { name = \"x-key\", value = { exec = [\"./program\", \"caller\"], keep = \"1s\" } }")
        .route("request_headers = { set = { x-set = { exec = [\"./program\", \"set\"], keep = \"1s\" } } }");
    let world = setup.start().await;
    let with = |key: &'static str| RawRequest::get("/").header("x-key", key);
    world.exchange(with("caller-one")).await.expect_status(200);
    world.exchange(with("caller-two")).await.expect_status(403);
    assert_eq!(world.upstream().last().header("x-set"), Some("set-one"));
    world.file("caller", "caller-two");
    world.file("set", "set-two");
    eventually("the new values", || async {
        let through = world.exchange(with("caller-two")).await.status == 200;
        (through && world.upstream().last().header("x-set") == Some("set-two")).then_some(())
    })
    .await;
    // The last good value stays in use while the program fails.
    std::fs::remove_file(world.folder().join("caller")).unwrap();
    world.log().wait("a failure", |line| line.contains("program.failed")).await;
    world.exchange(with("caller-two")).await.expect_status(200);
}

#[tokio::test]
async fn elsewhere_a_program_that_fails_at_start_fails_closed_until_it_works() {
    let setup = scene("cat caller", "")
        .await
        .listener("require_header = { name = \"x-key\", value = { exec = [\"./program\"], keep = \"1h\" } }");
    let world = setup.start().await;
    world.exchange(RawRequest::get("/").header("x-key", "")).await.expect_status(403);
    let ready = world.admin("/readyz").await;
    ready.expect_status(503);
    assert!(
        ready
            .text()
            .contains("listener.main.require_header.value: program ./program: ended with exit code 1"),
        "{}",
        ready.text()
    );
    world.file("caller", "there");
    eventually("the value", || async {
        (world.exchange(RawRequest::get("/").header("x-key", "there")).await.status == 200).then_some(())
    })
    .await;
    world.proxy.ready().await;

    // SIGHUP runs it at once, although its output is kept for an hour.
    world.file("caller", "changed");
    world.reload().await;
    world.exchange(RawRequest::get("/").header("x-key", "changed")).await.expect_status(200);
}

#[tokio::test]
async fn certificates_come_from_programs_and_others_later() {
    let (first, second) = (Ca::new("first"), Ca::new("second"));
    let both = |ca: &Ca| {
        let identity = ca.issue(&["localhost"]);
        format!("{}{}", identity.certificate_pem, identity.key_pem)
    };
    let upstream = Scripted::start(Some(first.issue(&["localhost"]).server(&["http/1.1"]))).await;
    upstream.always_this(RawResponse::ok("hello"));
    let setup = Setup::with(Scripted::issuer().await, upstream);
    setup.file("identity", both(&first));
    setup.file("ca", &second.pem);
    let cat = |file: &str| format!("{{ exec = [\"cat\", \"{file}\"], keep = \"1s\" }}");
    let setup = setup
        .listener(&format!("tls = {{ certificate = {0}, private_key = {0} }}", cat("identity")))
        .route(&format!("tls = {{ ca = {} }}", cat("ca")));
    let world = setup.start().await;
    let get = async |ca: &Ca| {
        let mut client = Client::tls(world.address("main"), ca.client(&["http/1.1"], None)).await.ok()?;
        client.send(&RawRequest::get("/")).await;
        client.response_or_end().await.map(|response| response.status)
    };
    assert_eq!(get(&first).await, Some(502), "the upstream's authority is another one");
    world.file("ca", &first.pem);
    world.file("identity", both(&second));
    eventually("both to be taken", || async { (get(&second).await == Some(200)).then_some(()) }).await;
}

#[tokio::test]
async fn rotation_under_steady_requests_loses_none() {
    // Each run rotates the secret, and the issuer takes only the newest.
    let body = "echo run >> runs; echo \"secret-$(wc -l < runs | tr -d ' ')\"";
    let setup = scene(body, "client_secret = { exec = [\"./program\"], keep = \"1s\" }").await;
    let folder = setup.folder().to_owned();
    setup.issuer.always(move |request, n| {
        let newest = format!("secret-{}", runs(&folder));
        match request.basic().unwrap().ends_with(&newest) {
            true => RawResponse::brief_token(n),
            false => RawResponse::oauth_error(401, "invalid_client"),
        }
    });
    let world = setup.start().await;
    let mut client = world.connect().await;
    let mut sent = 0;
    while runs(world.folder()) < 4 {
        client.exchange(&RawRequest::get("/")).await.expect_status(200);
        sent += 1;
    }
    assert!(sent > 10, "{sent}");
}

/// Programs that give no value, and what is said about each.
const NO_VALUE: [(&str, &str); 3] = [
    ("exec sleep 600", "did not end within 3s"),
    ("echo canary-of-a-failure; exit 3", "ended with exit code 3"),
    ("head -c 70000 /dev/zero | tr '\\0' x", "printed more than 64 KiB"),
];
const PROGRAM: &str = "{ exec = [\"./program\"], timeout = \"3s\", keep = \"1h\" }";
/// Characters that no header field may have.
const CONTROLS: &str = "canary\u{1}\u{7f}";

/// A scene whose program prints these words.
async fn printing(words: &str, more: &str) -> Setup {
    let setup = scene("cat words", "").await.more(more);
    setup.file("words", words);
    setup
}

async fn expect_no_canary(world: &World) {
    for text in
        [world.log().text(), world.status().await.to_string(), world.admin("/readyz?verbose").await.text()]
    {
        assert!(!text.contains("canary"), "{text}");
    }
}

async fn store_failure(world: &World, says: &str) {
    eventually(says, || async {
        let store = world.status().await["store"].clone();
        (store["up"] == false && store["failure"].to_string().contains(says)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_store_whose_key_no_program_prints_is_not_used_until_one_does() {
    const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    let table = format!("[store]\npath = \"tokens\"\nkeys = [{PROGRAM}]");
    for (body, says) in NO_VALUE {
        let world = scene(body, "").await.more(&table).start().await;
        world.get("/").await.expect_status(200);
        store_failure(&world, says).await;
        expect_no_canary(&world).await;
        script(world.folder(), "program", &format!("echo {KEY}"));
        eventually("the store", || async { (world.status().await["store"]["up"] == true).then_some(()) })
            .await;
    }
    let world = printing(CONTROLS, &table).await.start().await;
    world.get("/").await.expect_status(200);
    store_failure(&world, "the store's key cannot be used: program ./program").await;
    expect_no_canary(&world).await;
}

#[tokio::test]
async fn a_store_whose_password_no_program_prints_is_not_used_until_one_does() {
    let server = crate::support::manual::Manual::start().await;
    let url = server.url.replace("http://", "redis://");
    let table = format!("[store]\nurl = \"{url}\"\nkeys = [{{ env = \"STORE_KEY\" }}]\npassword = {PROGRAM}");
    for (body, says) in NO_VALUE {
        let setup = scene(body, "").await.more(&table).env("STORE_KEY", &"00".repeat(32));
        let world = setup.start().await;
        world.get("/").await.expect_status(200);
        store_failure(&world, &format!("password in [store] cannot be read: program ./program: {says}"))
            .await;
        expect_no_canary(&world).await;
    }
    // A password may hold any bytes.
    let server = crate::support::manual::Manual::start().await;
    let table = table.replace(&url, &server.url.replace("http://", "redis://"));
    let world = printing(CONTROLS, &table).await.env("STORE_KEY", &"00".repeat(32)).start().await;
    let mut wire = server.accept().await;
    let sent = wire.until(format!("${}\r\n{CONTROLS}\r\n", CONTROLS.len()).as_bytes()).await.unwrap();
    assert!(String::from_utf8_lossy(&sent).contains("AUTH"), "{sent:?}");
    world.get("/").await.expect_status(200);
    expect_no_canary(&world).await;
}

#[tokio::test]
async fn spans_are_sent_once_a_program_prints_their_header() {
    let traced = |collector: &Scripted| {
        crate::traces::table(&collector.url, &format!("headers = {{ x-key = {PROGRAM} }}"))
    };
    for (body, says) in NO_VALUE {
        let collector = Scripted::upstream().await;
        let world = scene(body, "").await.more(&traced(&collector)).start().await;
        world.get("/").await.expect_status(200);
        let says = format!("tracing.headers.x-key: program ./program: {says}");
        world.log().wait(&says, |line| line.contains(&says)).await;
        assert_eq!(collector.count(), 0);
        expect_no_canary(&world).await;
        script(world.folder(), "program", "echo the-key");
        eventually("spans", || async {
            world.get("/").await.expect_status(200);
            (collector.count() > 0).then_some(())
        })
        .await;
        assert_eq!(collector.request(1).await.header("x-key"), Some("the-key"));
    }
    let collector = Scripted::upstream().await;
    let world = printing(CONTROLS, &traced(&collector)).await.start().await;
    world.get("/").await.expect_status(200);
    let says = "tracing.headers.x-key: program ./program has characters that no header may have";
    world.log().wait(says, |line| line.contains(says)).await;
    assert_eq!(collector.count(), 0);
    expect_no_canary(&world).await;
}
