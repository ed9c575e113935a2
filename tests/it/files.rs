//! Files that hang, never end, or are being written: what they belong to suffers, and nothing else.

use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::{Bearerd, RawResponse, Scripted, Setup, World, cli, eventually, quick};

fn pipe(path: &Path) {
    rustix::fs::mkfifoat(rustix::fs::CWD, path, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).unwrap();
}

/// A second issuer whose secret is in `other`, and its route.
const OTHER: &str = "[issuer.other]\ntoken_url = \"{issuer}/token\"\nclient_id = \"client-2\"\n\
    client_secret = { file = \"other\" }\n[[route]]\nname = \"other\"\npath_prefix = \"/other\"\n\
    upstream = \"{upstream}\"\nissuer = \"other\"\n";

async fn detail(world: &World, path: &str) -> String {
    let response = world.get(path).await;
    response.expect_problem(503, "token_unavailable");
    response.json()["detail"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn secret_that_is_a_pipe_holds_up_nothing() {
    let setup = Setup::new().await.more(OTHER);
    pipe(&setup.folder().join("other"));
    let mut world = setup.start().await;
    world.get("/").await.expect_status(200);
    let detail = detail(&world, "/other").await;
    assert!(detail.contains("other: is a pipe; name a regular file"), "{detail}");
    assert_eq!(world.admin("/livez").await.status, 200);
    world.reload().await;
    world.get("/").await.expect_status(200);

    std::fs::remove_file(world.folder().join("other")).unwrap();
    world.file("other", "secret");
    eventually("the other issuer to be asked", || async {
        (world.get("/other").await.status == 200).then_some(())
    })
    .await;
    assert!(world.proxy.stop().await.success());
}

#[tokio::test]
async fn secret_that_becomes_a_pipe_serves_on_as_it_was() {
    let setup = Setup::new().await;
    setup.issuer.always(|_, n| RawResponse::brief_token(n));
    let world = setup.start().await;
    world.get("/").await.expect_status(200);
    let secret = world.folder().join("secret");
    std::fs::remove_file(&secret).unwrap();
    pipe(&secret);
    let asked = world.issuer().count();
    eventually("two more tokens", || async {
        world.get("/").await.expect_status(200);
        (world.issuer().count() >= asked + 2).then_some(())
    })
    .await;
    assert!(world.issuer().last().basic().unwrap().ends_with(crate::support::setup::SECRET));
    world.reload().await;
    eventually("a token after a reload", || async {
        world.get("/").await.expect_status(200);
        (world.issuer().count() >= asked + 4).then_some(())
    })
    .await;
}

#[tokio::test]
async fn secret_without_an_end_takes_no_memory() {
    let setup = Setup::new().await.more(OTHER);
    symlink("/dev/zero", setup.folder().join("other")).unwrap();
    let world = setup.start().await;
    world.get("/").await.expect_status(200);
    let before = world.memory();
    for _ in 0..3 {
        let detail = detail(&world, "/other").await;
        assert!(detail.contains("other: is a device; name a regular file"), "{detail}");
        world.reload().await;
    }
    let more = world.memory().saturating_sub(before);
    assert!(more < 32 * 1024, "{more} KiB");
}

#[tokio::test]
async fn secret_of_more_than_a_mebibyte_is_none() {
    let setup = Setup::new().await.more(OTHER);
    setup.file("other", "x".repeat((1 << 20) + 1));
    let world = setup.start().await;
    let detail = detail(&world, "/other").await;
    assert!(detail.contains("other: is larger than 1 MiB"), "{detail}");
}

#[tokio::test]
async fn egress_credentials_that_are_a_pipe_hold_up_no_other_route() {
    let setup = Setup::new().await.top("workers = 1").more(
        "[[route]]\nname = \"out\"\npath_prefix = \"/out\"\nupstream = \"https://api.example\"\nanonymous = true\nconnect_timeout = \"1m\"\n\
         proxy = { url = \"http://127.0.0.1:9\", userinfo = { file = \"userinfo\" } }\n",
    );
    pipe(&setup.folder().join("userinfo"));
    let world = setup.start().await;
    for _ in 0..3 {
        world.get("/out").await.expect_problem(502, "upstream_unreachable");
        world.get("/").await.expect_status(200);
    }
}

#[tokio::test]
async fn include_that_is_a_pipe_or_endless_is_an_error_and_the_running_config_stays() {
    let setup = Setup::new().await.top("include = [\"conf.d/*.toml\"]");
    std::fs::create_dir(setup.folder().join("conf.d")).unwrap();
    setup.write();
    let mut world = setup.start().await;
    world.get("/").await.expect_status(200);
    let path = world.folder().join("conf.d/team.toml");
    for (make, words) in [
        ((|path: &Path| pipe(path)) as fn(&Path), "is a pipe; name a regular file"),
        (|path: &Path| symlink("/dev/zero", path).unwrap(), "is a device; name a regular file"),
    ] {
        make(&path);
        world.reload().await;
        world.log().wait(words, |line| line.contains(words)).await;
        world.get("/").await.expect_status(200);
        let check = cli::run(world.folder(), &["check", "--config", "bearerd.toml"]).await;
        check.expect_code(78);
        std::fs::remove_file(&path).unwrap();
    }
    world.reload().await;
    assert!(world.proxy.stop().await.success());
}

/// Writes it in two parts, as a slow writer does.
fn write_slowly(path: &Path, content: &str, pause: Duration) {
    let (first, second) = content.split_at(content.len() / 2);
    let mut file = std::fs::File::create(path).unwrap();
    std::thread::sleep(pause);
    file.write_all(first.as_bytes()).unwrap();
    std::thread::sleep(pause);
    file.write_all(second.as_bytes()).unwrap();
}

#[tokio::test]
async fn half_a_secret_is_never_sent() {
    let setup = Setup::new().await;
    setup.issuer.always(|_, n| RawResponse::brief_token(n));
    let world = setup.start().await;
    world.get("/").await.expect_status(200);
    let path = world.folder().join("secret");
    let until = Instant::now() + Duration::from_secs(7);
    let writer = tokio::task::spawn_blocking(move || {
        let mut written = vec![crate::support::setup::SECRET.to_owned()];
        while Instant::now() < until {
            let secret = format!("secret-number-{}-and-its-end", written.len());
            written.push(secret.clone());
            write_slowly(&path, &secret, Duration::from_millis(400));
        }
        written
    });
    eventually("the last write", || async {
        world.get("/").await.expect_status(200);
        writer.is_finished().then_some(())
    })
    .await;
    let written = writer.await.unwrap();
    let last = format!("client-1:{}", written.last().unwrap());
    eventually("the last secret", || async {
        world.get("/").await.expect_status(200);
        (world.issuer().last().basic().as_deref() == Some(last.as_str())).then_some(())
    })
    .await;
    for request in world.issuer().requests() {
        let sent = request.basic().unwrap();
        let secret = sent.strip_prefix("client-1:").unwrap();
        assert!(written.iter().any(|whole| whole == secret), "{secret}");
    }
    assert!(world.issuer().count() >= 5);
}

#[tokio::test]
async fn secret_that_was_just_changed_fixes_a_refused_client_within_two_seconds() {
    quick(Duration::from_secs(5), async |_| {
        let issuer = Scripted::issuer().await;
        issuer.always(|request, _| match request.basic().as_deref() {
            Some("client-1:rotated") => RawResponse::token("t"),
            _ => RawResponse::oauth_error(401, "invalid_client"),
        });
        let world = Setup::with(issuer, Scripted::upstream().await).start().await;
        world.get("/").await.expect_problem(502, "token_refused");
        world.file("secret", "rotated");
        // Nobody sends a request, and SIGHUP comes at once: bearerd finds it anyway.
        world.reload().await;
        world.issuer().request(2).await;
        let from = Instant::now();
        eventually("the new secret", || async {
            (world.issuer().last().basic().as_deref() == Some("client-1:rotated")).then_some(())
        })
        .await;
        let took = from.elapsed();
        world.get("/").await.expect_status(200);
        took
    })
    .await;
}

/// A FUSE mount whose server does not respond, as of a network disk that went away.
#[tokio::test]
#[ignore = "needs unshare"]
async fn a_folder_that_hangs_holds_up_neither_probes_nor_reloads() {
    let setup = Setup::new().await.issuer("client_secret = { exec = [\"hung/program\"] }");
    std::fs::create_dir(setup.folder().join("hung")).unwrap();
    setup.write();
    let mount = "exec 9<>/dev/fuse && mount -i -t fuse -o fd=9,rootmode=40000,user_id=0,group_id=0 fuse hung && exec \"$@\"";
    let mut command = tokio::process::Command::new("unshare");
    command.args([
        "--map-root-user",
        "--mount",
        "sh",
        "-c",
        mount,
        "sh",
        env!("CARGO_BIN_EXE_bearerd"),
        "run",
    ]);
    command.current_dir(setup.folder()).env_remove("NOTIFY_SOCKET").kill_on_drop(true);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let proxy = Bearerd::spawn(setup.shared_folder(), command).await;
    let world = World::new(proxy, setup);
    let (status, livez) = tokio::join!(world.admin("/status"), world.admin("/livez"));
    assert_eq!((status.status, livez.status), (200, 200));
    let warnings = status.json()["config"]["warnings"].to_string();
    assert!(warnings.contains("hung/program: has not come for"), "{warnings}");
    let detail = detail(&world, "/").await;
    assert!(detail.contains("does not respond"), "{detail}");
    world.reload().await;
}
