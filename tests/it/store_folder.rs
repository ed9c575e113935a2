//! `[store] path`: tokens are kept in a folder of this host, for the next start and for other processes.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustix::fs::{FlockOperation, flock};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::cli::{command, run};
use crate::support::jwt::key;
use crate::support::setup::SECRET;
use crate::support::{Bearerd, Gate, RawResponse, Setup, World, eventually, stays};

const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const OTHER_KEY: &str = "ff0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const STORE: &str = "[store]\npath = \"tokens\"\nkeys = [{ file = \"store.key\" }]\n";

/// An issuer that grants `token-1`, `token-2` …, and a store in the folder `tokens`.
async fn setup() -> Setup {
    setup_with(STORE).await
}

async fn setup_with(store: &str) -> Setup {
    let setup = Setup::new().await.more(store);
    for (name, key) in [("store.key", KEY), ("other.key", OTHER_KEY)] {
        let path = setup.file(name, key);
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    setup.issuer.always(|_, n| RawResponse::token(&format!("token-{n}")));
    setup
}

/// The token that this process sends; the request is served.
async fn token(world: &World, process: &Bearerd) -> String {
    process.get("/").await.expect_status(200);
    world.upstream().last().bearer().unwrap().to_owned()
}

/// Stops the process. What it stores in the background is there.
async fn stop(process: &mut Bearerd) {
    assert_eq!(process.stop().await.code(), Some(0));
}

async fn restart(world: &mut World) {
    stop(&mut world.proxy).await;
    world.proxy = another(world).await;
}

/// One more process with the same config.
async fn another(world: &World) -> Bearerd {
    Bearerd::start(world.shared_folder(), &[]).await
}

/// The files of the store, by their names.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let Ok(entries) = fs::read_dir(folder.join("tokens")) else { return BTreeMap::new() };
    let read = |path: PathBuf| Some((path.file_name()?.to_str()?.to_owned(), fs::read(&path).ok()?));
    entries.filter_map(|entry| read(entry.unwrap().path())).collect()
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let names = files(folder).into_keys().filter(|name| name.ends_with(".token"));
    names.map(|name| folder.join("tokens").join(name)).collect()
}

/// Waits until a token is in the store: it is stored while callers are served.
async fn stored(folder: &Path) {
    let holds = |path: &PathBuf| {
        let record: Option<Value> = fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        record.is_some_and(|record| record["entry"].is_object())
    };
    eventually("a token in the store", || async { entries(folder).iter().any(holds).then_some(()) }).await;
}

/// One request is served, and its token stored.
async fn served(world: &World) -> String {
    let token = token(world, &world.proxy).await;
    stored(world.folder()).await;
    token
}

async fn operations(process: &Bearerd, outcome: &str) -> f64 {
    let labels = [("operation", "claim"), ("outcome", outcome)];
    process.metric("bearerd_store_operations_total", &labels).await.unwrap_or_default()
}

/// Its issuer responds when the gate opens.
async fn gated() -> (World, Gate) {
    let setup = setup().await;
    let gate = Gate::new();
    setup.issuer.always({
        let gate = gate.clone();
        move |_, n| RawResponse::token(&format!("token-{n}")).gated(&gate)
    });
    (setup.start().await, gate)
}

/// Waits until the process knows that another one fetches.
async fn sees_another(process: &Bearerd) {
    let held = || async { (operations(process, "held").await > 0.0).then_some(()) };
    eventually("to see that another one fetches", held).await;
}

#[tokio::test]
async fn a_restart_makes_no_token_request() {
    let mut world = setup().await.start().await;
    assert_eq!(served(&world).await, "token-1");
    let first = world.status().await["tokens"][0]["shared"].clone();
    assert_eq!((&first["own"], operations(&world, "lease").await), (&json!(true), 1.0));
    let expires = world.status().await["tokens"][0]["expires_at"].clone();

    restart(&mut world).await;
    world.ready().await;
    assert_eq!(token(&world, &world.proxy).await, "token-1");
    let status = world.status().await;
    let shared = &status["tokens"][0]["shared"];
    assert_eq!((&shared["generation"], &shared["by"]), (&first["generation"], &first["by"]));
    assert_eq!(shared["own"], false);
    assert_eq!(status["store"]["up"], true);
    assert_eq!((&status["store"]["hits"], &status["store"]["leases"]), (&json!(1), &json!(0)));
    assert_eq!(operations(&world, "hit").await, 1.0);
    assert_eq!(world.metric("bearerd_store_up", &[]).await, Some(1.0));
    // To the second, and the store's clock and the process's are read a moment apart.
    let seconds = |at: &Value| humantime::parse_rfc3339(at.as_str().unwrap()).unwrap();
    let now = seconds(&status["tokens"][0]["expires_at"]);
    let before = seconds(&expires);
    let apart = now.duration_since(before).unwrap_or_else(|error| error.duration());
    assert!(apart.as_secs() <= 1, "its lifetime goes on: {before:?}, {now:?}");
    assert_eq!(world.issuer().count(), 1);
    assert_eq!(world.metric("bearerd_token_requests_total", &[("issuer", "corp")]).await, None);
    world.log().wait("the token to be taken", |line| line.contains("token.taken")).await;
}

#[tokio::test]
async fn processes_with_one_folder_make_one_request_and_another_refused_token_makes_one_more() {
    let (world, gate) = gated().await;
    let (second, third) = (another(&world).await, another(&world).await);
    world.issuer().request(1).await;
    for process in [&second, &third] {
        sees_another(process).await;
    }
    gate.open();
    for process in [&world.proxy, &second, &third] {
        assert_eq!(token(&world, process).await, "token-1");
    }
    assert_eq!(world.issuer().count(), 1);

    // An upstream refuses it, and every process replays its request with the same new token.
    world.upstream().always(|request, _| match request.bearer() {
        Some("token-1") => RawResponse::unauthorized(),
        _ => RawResponse::ok("ok"),
    });
    for process in [&world.proxy, &second, &third] {
        assert_eq!(token(&world, process).await, "token-2");
    }
    assert_eq!(world.issuer().count(), 2);
}

/// It was stopped for longer than its lease lasts, and comes back with a token that is older than that of another.
#[tokio::test]
async fn a_holder_of_the_lease_that_was_stopped_replaces_no_newer_token() {
    let setup = setup().await;
    let gate = Gate::new();
    setup.issuer.always({
        let gate = gate.clone();
        move |_, n| match n {
            1 => RawResponse::token("token-1").gated(&gate),
            n => RawResponse::token(&format!("token-{n}")),
        }
    });
    let world = setup.start().await;
    world.issuer().request(1).await;
    world.signal(Signal::STOP);
    let second = another(&world).await;
    assert_eq!(token(&world, &second).await, "token-2");
    stored(world.folder()).await;
    let newer = second.status().await["tokens"][0]["shared"]["generation"].clone();
    gate.open();
    world.signal(Signal::CONT);
    world.log().wait("its token to be superseded", |line| line.contains("store.superseded")).await;
    world.ready().await;
    let listed = run(world.folder(), &["store", "ls", "--output", "json"]).await.json();
    assert_eq!(listed["tokens"][0]["generation"], newer);
    let third = another(&world).await;
    assert_eq!(token(&world, &third).await, "token-2");
    assert_eq!(world.issuer().count(), 2);
}

/// It does not even give its lease back.
#[tokio::test]
async fn a_killed_holder_of_the_lease_holds_the_others_up_for_seconds_alone() {
    let setup = setup().await;
    setup.issuer.next(RawResponse::hang());
    let mut world = setup.start().await;
    world.issuer().request(1).await;
    world.signal(Signal::KILL);
    world.proxy.exit().await;
    let second = another(&world).await;
    assert_eq!(token(&world, &second).await, "token-2");
    let shared = second.status().await["tokens"][0]["shared"].clone();
    assert_eq!(shared["own"], true, "it got a lease of its own");
}

#[tokio::test]
async fn a_process_that_was_stopped_while_it_waited_takes_the_token_of_the_other() {
    let (world, gate) = gated().await;
    world.issuer().request(1).await;
    let second = another(&world).await;
    sees_another(&second).await;
    second.signal(Signal::STOP);
    gate.open();
    served(&world).await;
    second.signal(Signal::CONT);
    assert_eq!(token(&world, &second).await, "token-1");
    assert_eq!(second.status().await["tokens"][0]["shared"]["own"], false);
    assert_eq!(world.issuer().count(), 1);
}

#[tokio::test]
async fn files_are_for_their_owner_alone_and_nothing_in_them_can_be_read() {
    let world = setup().await.issuer("scopes = [\"scope-canary\"]").start().await;
    world.issuer().always_this(RawResponse::token("token-canary"));
    served(&world).await;
    let folder = world.folder();
    let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(folder.join("tokens")), 0o700);
    let files = files(folder);
    assert!(files.keys().any(|name| name.ends_with(".token")), "{:?}", files.keys());
    let canaries = ["token-1", "token-canary", SECRET, "client-1", "scope-canary", KEY];
    for (name, content) in &files {
        assert_eq!(mode(folder.join("tokens").join(name)), 0o600, "{name}");
        let Some(id) = name.strip_suffix(".token") else {
            assert_eq!((name.as_str(), content.as_slice()), ("bearerd-v1-lock", b"".as_slice()));
            continue;
        };
        let id = id.strip_prefix("bearerd-v1-").unwrap();
        assert!(id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{name}");
        let mut record: Value = serde_json::from_slice(content).unwrap();
        let sealed = record["entry"]["sealed"].take();
        let sealed = STANDARD.decode(sealed.as_str().unwrap()).unwrap();
        let rest = record.to_string().replace(|letter: char| letter.is_ascii_digit(), "");
        assert_eq!(
            rest,
            r#"{"entry":{"ends":,"generation":,"published":,"sealed":null},"fence":,"lease_ends":null}"#
        );
        // What is encrypted looks random: sooner or later it holds any few letters, so only long canaries prove something.
        for canary in canaries {
            let found = sealed.windows(canary.len()).any(|part| part == canary.as_bytes());
            assert!(!found, "{canary} in {name}");
        }
    }
}

/// A request is served without the store, and everybody who looks is told why.
async fn works_without(world: &World, kind: &str, words: &str) {
    world.get("/").await.expect_status(200);
    world.admin("/readyz").await.expect_status(200);
    let verbose = world.admin("/readyz?verbose").await.text();
    assert!(verbose.contains("[!] store: unavailable since "), "{verbose}");
    let store = world.status().await["store"].clone();
    assert_eq!((&store["up"], &store["failure"]["kind"]), (&json!(false), &json!(kind)), "{store}");
    let detail = store["failure"]["detail"].as_str().unwrap();
    assert!(detail.contains(words), "{detail}");
    assert_eq!(world.metric("bearerd_store_up", &[]).await, Some(0.0));
    let failed = world.log().wait("the failure", |line| line.contains("store.failed")).await;
    assert!(failed.contains(words), "{failed}");
    let online = run(world.folder(), &["check", "--online"]).await;
    online.expect_code(0);
    for wanted in ["FAILED\n  error", words, "bearerd works without it", ", without the store"] {
        assert!(online.stdout.contains(wanted), "{wanted} in {}", online.stdout);
    }
    let listed = run(world.folder(), &["store", "ls"]).await;
    listed.expect_code(1);
    assert!(listed.stderr.contains(words), "{}", listed.stderr);
}

#[tokio::test]
async fn a_folder_that_cannot_be_made_loses_no_request_and_is_reported() {
    let world = setup_with(&STORE.replace("\"tokens\"", "\"no/such/tokens\"")).await.start().await;
    works_without(&world, "unreachable", "/no/such does not exist: create it, or name another path").await;
}

#[tokio::test]
async fn a_file_in_place_of_the_folder_loses_no_request_and_is_reported() {
    let setup = setup().await;
    setup.file("tokens", "not a folder");
    let world = setup.start().await;
    works_without(&world, "unreachable", "is a file: remove that file, or name another path").await;
    assert_eq!(fs::read_to_string(world.folder().join("tokens")).unwrap(), "not a folder");

    // It is used as soon as it can be, although nobody needs a token.
    fs::remove_file(world.folder().join("tokens")).unwrap();
    world.log().wait("the store to work again", |line| line.contains("store.recovered")).await;
    assert_eq!(world.metric("bearerd_store_up", &[]).await, Some(1.0));
    assert_eq!(world.status().await["store"]["failure"], Value::Null);
}

#[tokio::test]
async fn a_lock_that_somebody_keeps_loses_no_request_and_is_reported() {
    let setup = setup().await;
    setup.file("tokens/bearerd-v1-lock", "");
    let lock = File::open(setup.folder().join("tokens/bearerd-v1-lock")).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    let world = setup.start().await;
    works_without(&world, "timeout", "tokens: ").await;
}

/// Root may write everywhere, so the program runs as another user.
#[tokio::test]
async fn a_folder_that_may_not_be_written_loses_no_request_and_is_reported() {
    let setup = setup().await;
    setup.write();
    let folder = setup.folder().to_owned();
    let mode = |name: &str, mode| {
        fs::set_permissions(folder.join(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    fs::create_dir(folder.join("tokens")).unwrap();
    let mut program = command(&folder, &["run", "--config", "bearerd.toml"]);
    if rustix::process::geteuid().is_root() {
        let copy = folder.join("bearerd");
        fs::copy(env!("CARGO_BIN_EXE_bearerd"), &copy).unwrap();
        for (name, bits) in [(".", 0o755), ("bearerd.toml", 0o644), ("secret", 0o644), ("store.key", 0o644)] {
            mode(name, bits);
        }
        mode("tokens", 0o755);
        let inherited =
            program.as_std().get_envs().map(|(name, value)| (name.to_owned(), value.map(ToOwned::to_owned)));
        let inherited: Vec<_> = inherited.filter_map(|(name, value)| Some((name, value?))).collect();
        program = tokio::process::Command::new(copy);
        program
            .args(["run", "--config", "bearerd.toml"])
            .current_dir(&folder)
            .env_clear()
            .envs(inherited)
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .kill_on_drop(true)
            .uid(65534)
            .gid(65534);
    } else {
        mode("tokens", 0o500);
    }
    let process = Bearerd::spawn(setup.shared_folder(), program).await;
    let world = World::new(process, setup);
    world.get("/").await.expect_status(200);
    let store = world.status().await["store"].clone();
    assert_eq!(store["failure"]["kind"], "refused", "{store}");
    let detail = store["failure"]["detail"].as_str().unwrap();
    assert!(detail.contains("this user may not write there: `chown`"), "{detail}");
    mode("tokens", 0o700);
}

/// Mounts of a namespace of their own: read-only, and without room.
#[tokio::test]
#[ignore = "needs unshare"]
async fn a_read_only_or_full_folder_loses_no_request_and_is_reported() {
    let program = env!("CARGO_BIN_EXE_bearerd");
    for (then, kind, words) in [
        ("mount -o remount,ro tokens", "unable", "the file system is read-only: mount a writable volume"),
        ("(dd if=/dev/zero of=tokens/rest bs=1k || true)", "unable", "no space is left"),
    ] {
        let setup = setup().await;
        setup.write();
        fs::create_dir(setup.folder().join("tokens")).unwrap();
        let script = format!("mount -t tmpfs -o size=16k tmpfs tokens && {then} && exec {program} run");
        let mut unshare = tokio::process::Command::new("unshare");
        unshare
            .args(["--mount", "--map-root-user", "sh", "-c", &script])
            .current_dir(setup.folder())
            .stderr(std::process::Stdio::piped())
            .kill_on_drop(true);
        let process = Bearerd::spawn(setup.shared_folder(), unshare).await;
        let world = World::new(process, setup);
        world.get("/").await.expect_status(200);
        let store = world.status().await["store"].clone();
        assert_eq!(store["failure"]["kind"], kind, "{store}");
        assert!(store["failure"]["detail"].as_str().unwrap().contains(words), "{store}");
    }
}

/// Each of these stands where an entry was.
#[tokio::test]
async fn damaged_entries_lose_no_request_and_are_replaced() {
    let mut world = setup().await.start().await;
    served(&world).await;
    let changed = |content: &[u8]| {
        let mut record: Value = serde_json::from_slice(content).unwrap();
        let mut sealed = STANDARD.decode(record["entry"]["sealed"].as_str().unwrap()).unwrap();
        sealed[20] ^= 1;
        record["entry"]["sealed"] = STANDARD.encode(sealed).into();
        record.to_string().into_bytes()
    };
    let older = |content: &[u8]| {
        let mut record: Value = serde_json::from_slice(content).unwrap();
        record["entry"]["generation"] = json!(1);
        record.to_string().into_bytes()
    };
    type Damage<'a> = &'a dyn Fn(&[u8]) -> Vec<u8>;
    let damages: [Damage<'_>; 5] = [
        &|_| b"garbage".to_vec(),
        &|content| content[..content.len() / 2].to_vec(),
        &|_| vec![0; 1 << 20],
        &changed,
        &older,
    ];
    for (round, damage) in damages.into_iter().enumerate() {
        stop(&mut world.proxy).await;
        for path in entries(world.folder()) {
            fs::write(&path, damage(&fs::read(&path).unwrap())).unwrap();
        }
        world.proxy = another(&world).await;
        let wanted = format!("token-{}", round + 2);
        assert_eq!(served(&world).await, wanted, "round {round}");
        world.log().wait("the damage", |line| line.contains("store.entry_unreadable")).await;
        assert_eq!(world.status().await["store"]["up"], true);
    }
    restart(&mut world).await;
    assert_eq!(token(&world, &world.proxy).await, "token-6");
    assert_eq!(world.issuer().count(), 6);
}

#[tokio::test]
async fn another_key_shares_nothing() {
    let mut world = setup().await.start().await;
    assert_eq!(served(&world).await, "token-1");
    world.change(|text| text.replace("store.key", "other.key"));
    restart(&mut world).await;
    assert_eq!(served(&world).await, "token-2");
    world.change(|text| text.replace("other.key", "store.key"));
    restart(&mut world).await;
    assert_eq!(token(&world, &world.proxy).await, "token-1", "the entry of the first key is as it was");
    assert_eq!(world.issuer().count(), 2);
}

#[tokio::test]
async fn keys_are_rotated_without_losing_a_token() {
    let mut world = setup().await.start().await;
    assert_eq!(served(&world).await, "token-1");
    let old = "keys = [{ file = \"store.key\" }]";
    let both = "keys = [{ file = \"other.key\" }, { file = \"store.key\" }]";
    let new = "keys = [{ file = \"other.key\" }]";
    for (before, after) in [(old, both), (both, new)] {
        world.change(|text| text.replace(before, after));
        restart(&mut world).await;
        assert_eq!(token(&world, &world.proxy).await, "token-1", "{after}");
        // It is under the new key from now on.
        eventually("the entry under the new key", || async {
            let listed = run(world.folder(), &["store", "ls", "--output", "json"]).await.json();
            (listed["tokens"][0]["key"] == 0).then_some(())
        })
        .await;
    }
    assert_eq!(world.issuer().count(), 1);
}

#[tokio::test]
async fn another_secret_shares_nothing() {
    let mut world = setup().await.start().await;
    assert_eq!(served(&world).await, "token-1");
    stop(&mut world.proxy).await;
    world.file("secret", "another-secret");
    world.proxy = another(&world).await;
    assert_eq!(token(&world, &world.proxy).await, "token-2");
}

#[tokio::test]
async fn tokens_that_are_bound_or_not_shared_are_not_stored() {
    let bound = json!({ "access_token": "bound", "token_type": "DPoP", "expires_in": 3600 });
    for (keys, bound) in [
        ("shared = false", None),
        ("dpop = { private_key = { file = \"dpop.pem\" } }", Some(bound)),
        ("tls = { certificate = { file = \"client.pem\" }, private_key = { file = \"client.key\" } }", None),
    ] {
        let setup = setup().await.issuer(keys);
        setup.file("dpop.pem", key("ec-p256.pkcs8.pem"));
        let identity = crate::support::tls::ca().issue(&["client"]);
        setup.file("client.pem", &identity.certificate_pem);
        setup.file("client.key", &identity.key_pem);
        if let Some(bound) = bound {
            setup.issuer.always_this(RawResponse::json(&bound));
        }
        let mut world = setup.start().await;
        world.get("/").await.expect_status(200);
        assert_eq!(world.status().await["tokens"][0]["shared"], Value::Null, "{keys}");
        restart(&mut world).await;
        world.get("/").await.expect_status(200);
        assert_eq!(world.issuer().count(), 2, "{keys}");
        assert_eq!(entries(world.folder()), Vec::<PathBuf>::new(), "{keys}");
        let listed = run(world.folder(), &["store", "ls", "--output", "json"]).await.json();
        assert_eq!((&listed["tokens"], &listed["not_shared"]), (&json!([]), &json!(["corp"])), "{keys}");
    }
}

#[tokio::test]
async fn an_expired_entry_is_not_used_after_a_restart() {
    let setup = setup().await;
    setup.issuer.always(|_, n| RawResponse::token_for(&format!("token-{n}"), 2));
    let mut world = setup.start().await;
    served(&world).await;
    stop(&mut world.proxy).await;
    let (before, last) = (world.issuer().count(), format!("token-{}", world.issuer().count()));
    eventually("the entry to expire", || async {
        let listed = run(world.folder(), &["store", "ls", "--output", "json"]).await.json();
        (listed["tokens"][0]["stored"] == false).then_some(())
    })
    .await;
    world.issuer().always(|_, n| RawResponse::token(&format!("token-{n}")));
    world.proxy = another(&world).await;
    assert_ne!(token(&world, &world.proxy).await, last);
    assert_eq!(world.issuer().count(), before + 1);
}

/// The token that it holds is not lost, and a new store is used from the reload on.
#[tokio::test]
async fn a_reload_may_bring_a_store_and_take_it_away() {
    let mut world = setup_with("").await.start().await;
    assert_eq!(token(&world, &world.proxy).await, "token-1");
    assert_eq!(world.status().await["store"], Value::Null);
    world.change(|text| format!("{text}\n{STORE}"));
    world.reload().await;
    assert_eq!(token(&world, &world.proxy).await, "token-1");
    assert_eq!(world.status().await["store"]["up"], true);
    world.upstream().next(RawResponse::unauthorized());
    assert_eq!(token(&world, &world.proxy).await, "token-2");
    stored(world.folder()).await;
    world.change(|text| text.replace(STORE, ""));
    world.reload().await;
    assert_eq!(world.status().await["store"], Value::Null);
    assert_eq!(world.metric("bearerd_store_up", &[]).await, None);
    let before = files(world.folder());
    world.upstream().next(RawResponse::unauthorized());
    stays(std::time::Duration::from_millis(300), || files(world.folder()) == before).await;
}

// --- the verbs ---

const TWO: &str = "[[route]]\nname = \"other\"\npath_prefix = \"/other\"\nupstream = \"{upstream}\"\nissuer = \"corp\"\n\
                   scopes = [\"billing.write\"]\n\
                   [issuer.mail]\ntoken_url = \"{issuer}/token\"\nclient_id = \"client-2\"\nclient_secret = { file = \"secret\" }\n\
                   shared = false\n";

#[track_caller]
fn expect_no_value(output: &crate::support::cli::Output) {
    for secret in ["token-1", "token-2", SECRET, KEY] {
        assert!(!output.all().contains(secret), "{secret} in {}", output.all());
    }
}

/// Two routes of one issuer whose tokens are stored, and an entry of another key.
async fn two_tokens() -> World {
    let mut world = setup_with(&format!("{STORE}{TWO}")).await.start().await;
    served(&world).await;
    world.change(|text| text.replace("store.key", "other.key"));
    restart(&mut world).await;
    world.ready().await;
    eventually("four entries", || async { (entries(world.folder()).len() == 4).then_some(()) }).await;
    world.change(|text| text.replace("other.key", "store.key"));
    restart(&mut world).await;
    world.ready().await;
    world
}

#[tokio::test]
async fn ls_shows_what_the_store_holds_and_never_a_value() {
    let world = two_tokens().await;
    let output = run(world.folder(), &["store", "ls", "--output", "json"]).await;
    output.expect_code(0);
    expect_no_value(&output);
    let listed = output.json();
    let place = format!("folder {}", world.folder().join("tokens").display());
    assert_eq!(listed["store"], place);
    assert_eq!((&listed["other_entries"], &listed["not_shared"]), (&json!(2), &json!(["mail"])));
    let tokens = listed["tokens"].as_array().unwrap();
    assert_eq!(tokens.len(), 2);
    let status = world.status().await;
    for (token, (routes, scopes)) in
        tokens.iter().zip([(["api"], json!([])), (["other"], json!(["billing.write"]))])
    {
        assert_eq!(
            (&token["issuer"], &token["routes"], &token["scopes"]),
            (&json!("corp"), &json!(routes), &scopes)
        );
        assert_eq!(
            (&token["stored"], &token["readable"], &token["key"]),
            (&json!(true), &json!(true), &json!(0))
        );
        let of_status =
            status["tokens"].as_array().unwrap().iter().find(|it| it["routes"] == json!(routes)).unwrap();
        assert_eq!(token["generation"], of_status["shared"]["generation"]);
        assert_eq!(token["by"], of_status["shared"]["by"]);
        let left = token["expires_in"].as_u64().unwrap();
        assert!(left <= 3600 && left > 3000, "{left}");
        assert_eq!((&token["forced"], &token["leased_for_ms"]), (&json!(false), &Value::Null));
    }

    let output = run(world.folder(), &["store", "ls"]).await;
    output.expect_code(0);
    expect_no_value(&output);
    let generation = tokens[1]["generation"].to_string();
    for wanted in [
        "token of issuer corp for route api: stored\n",
        "token of issuer corp for route other: stored\n  scopes       billing.write\n",
        &generation,
        "  requested    at ",
        "issuer mail: its tokens are never stored",
        &format!(
            "{place}: 2 tokens of this config, and 2 entries that belong to another config, key, or version\n"
        ),
    ] {
        assert!(output.stdout.contains(wanted), "{wanted} in {}", output.stdout);
    }
}

#[tokio::test]
async fn ls_knows_a_lease_and_an_entry_that_cannot_be_opened() {
    let setup = setup().await;
    let gate = Gate::new();
    setup.issuer.always_this(RawResponse::token("token-1").gated(&gate));
    let world = setup.start().await;
    world.issuer().request(1).await;
    let listed = run(world.folder(), &["store", "ls", "--output", "json"]).await.json();
    let token = &listed["tokens"][0];
    assert_eq!(
        (&token["stored"], &token["readable"], &token["generation"]),
        (&json!(false), &json!(false), &Value::Null)
    );
    assert!((1..=3000).contains(&token["leased_for_ms"].as_u64().unwrap()), "{token}");
    let text = run(world.folder(), &["store", "ls"]).await.stdout;
    assert!(
        text.contains("route api: none\n") && text.contains("a bearerd is fetching the next one"),
        "{text}"
    );
    gate.open();
    served(&world).await;
    for path in entries(world.folder()) {
        let mut record: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        record["entry"]["sealed"] = STANDARD.encode([7; 60]).into();
        fs::write(&path, record.to_string()).unwrap();
    }
    let listed = run(world.folder(), &["store", "ls", "--output", "json"]).await.json();
    let token = &listed["tokens"][0];
    assert_eq!(
        (&token["stored"], &token["readable"], &token["by"]),
        (&json!(true), &json!(false), &Value::Null)
    );
    let text = run(world.folder(), &["store", "ls"]).await.stdout;
    assert!(text.contains("no key of `keys` decrypts it"), "{text}");
}

#[tokio::test]
async fn ls_shows_what_is_left_of_a_budget() {
    let world = setup().await.issuer("budget = { requests = 2, per = \"1h\" }").start().await;
    served(&world).await;
    let listed = run(world.folder(), &["store", "ls", "--output", "json"]).await.json();
    let wanted = json!([{ "issuer": "corp", "requests": 2, "per": 3600, "remaining": 1, "next_in": 0 }]);
    assert_eq!(listed["budgets"], wanted);
    world.upstream().next(RawResponse::unauthorized());
    world.get("/").await.expect_status(200);
    let text = run(world.folder(), &["store", "ls"]).await.stdout;
    let wanted = "budget of issuer corp: 0 of 2 token requests per 1h are left; the next one is possible in ";
    assert!(text.contains(wanted), "{text}");
}

#[tokio::test]
async fn drop_forgets_all_tokens_of_an_issuer_and_running_processes_keep_theirs() {
    let mut world = two_tokens().await;
    let before = world.issuer().count();
    let output = run(world.folder(), &["store", "drop", "corp"]).await;
    output.expect_code(0);
    expect_no_value(&output);
    let wanted =
        format!("removed 2 tokens of issuer corp from folder {}", world.folder().join("tokens").display());
    assert!(
        output.stdout.contains(&wanted) && output.stdout.contains("A running bearerd keeps"),
        "{}",
        output.stdout
    );
    world.get("/").await.expect_status(200);
    assert_eq!(world.issuer().count(), before);
    restart(&mut world).await;
    world.ready().await;
    assert_eq!(world.issuer().count(), before + 2);

    let both = "keys = [{ file = \"other.key\" }, { file = \"store.key\" }]";
    world.change(|text| text.replace("keys = [{ file = \"store.key\" }]", both));
    let output = run(world.folder(), &["store", "drop", "corp", "--output", "json"]).await;
    output.expect_code(0);
    assert_eq!(output.json()["removed"], 4, "under all keys");
    assert_eq!(output.json()["issuer"], "corp");
    let output = run(world.folder(), &["store", "drop", "corp"]).await;
    output.expect_code(0);
    assert!(output.stdout.contains("no token of issuer corp was in "), "{}", output.stdout);
}

#[tokio::test]
async fn the_verbs_say_what_is_wrong() {
    let setup = setup().await;
    setup.write();
    let unknown = run(setup.folder(), &["store", "drop", "crop"]).await;
    unknown.expect_code(64);
    assert!(
        unknown.stderr.contains("no issuer `crop` in the config; did you mean `corp`?"),
        "{}",
        unknown.stderr
    );
    run(setup.folder(), &["store"]).await.expect_code(64);
    fs::remove_file(setup.folder().join("store.key")).unwrap();
    let keyless = run(setup.folder(), &["store", "ls"]).await;
    keyless.expect_code(1);
    assert!(keyless.stderr.contains("the store's key cannot be used"), "{}", keyless.stderr);

    // It accepts connections, and never responds.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("url = \"redis://{}\"", silent.local_addr().unwrap());
    let hung = setup_with(&STORE.replace("path = \"tokens\"", &url)).await;
    hung.write();
    for args in [&["store", "ls"][..], &["store", "drop", "corp"]] {
        let output = run(hung.folder(), args).await;
        output.expect_code(1);
        assert!(output.stderr.contains("no response within 2s"), "{}", output.stderr);
    }

    let without = setup_with("").await;
    without.write();
    for args in [&["store", "ls"][..], &["store", "drop", "corp"]] {
        let output = run(without.folder(), args).await;
        output.expect_code(78);
        assert!(output.stderr.contains("bearerd.toml has no [store]"), "{}", output.stderr);
    }
}

#[tokio::test]
async fn check_online_tries_the_store() {
    let setup = setup().await;
    setup.write();
    let output = run(setup.folder(), &["check", "--online"]).await;
    output.expect_code(0);
    let place = format!("folder {}", setup.folder().join("tokens").display());
    for wanted in
        [&format!("store {place}: ok\n  works        {place}"), "an entry was written, read, and removed"]
    {
        assert!(output.stdout.contains(wanted), "{wanted} in {}", output.stdout);
    }
    assert!(output.stdout.ends_with("ok: 1 issuer, 1 upstream\n"), "{}", output.stdout);
    fs::set_permissions(setup.folder().join("tokens"), fs::Permissions::from_mode(0o755)).unwrap();
    let report = run(setup.folder(), &["check", "--online", "--output", "json"]).await.json();
    let store = &report["store"];
    assert_eq!((&store["store"], &store["ok"], &store["error"]), (&json!(place), &json!(true), &Value::Null));
    assert!(store["ms"].as_f64().unwrap() > 0.0);
    assert!(store["warnings"][0].as_str().unwrap().contains("`chmod 700 "), "{store}");
    assert_eq!(files(setup.folder()).keys().collect::<Vec<_>>(), ["bearerd-v1-lock"]);

    let without = setup_with("").await;
    without.write();
    let report = run(without.folder(), &["check", "--online", "--output", "json"]).await.json();
    assert_eq!(report["store"], Value::Null);
}
