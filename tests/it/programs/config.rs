//! What a config may say of programs, and who may write it.

use std::os::unix::fs::PermissionsExt;

use super::{SECRET, runs, scene};
use crate::support::{RawResponse, Setup, cli, eventually};

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
