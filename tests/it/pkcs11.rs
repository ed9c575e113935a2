//! Private keys that stay in a device, with SoftHSM as the device.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use crate::support::jwt::{key, key_path, verify};
use crate::support::{RawResponse, Recorded, Scripted, Setup, World, cli, eventually, within};

const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";
const PIN: &str = "canary-pin-4711";

/// A device beside the config.
struct Device {
    folder: PathBuf,
}

fn run(command: &mut Command) {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}; apt-get install softhsm2 opensc"));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program}: {text}{}", String::from_utf8_lossy(&output.stdout));
}

impl Device {
    /// Without a token.
    fn empty(folder: &Path) -> Self {
        let this = Self { folder: folder.to_owned() };
        std::fs::create_dir_all(folder.join("tokens")).unwrap();
        let config =
            format!("directories.tokendir = {}\nlog.level = ERROR\n", folder.join("tokens").display());
        std::fs::write(this.config(), config).unwrap();
        this
    }

    /// With the token `t`, and with one key of each test key, labelled by its file.
    fn with_keys(folder: &Path) -> Self {
        let this = Self::empty(folder);
        this.add_token("t");
        for (id, file) in ["rsa", "ec-p256", "ec-p384"].into_iter().enumerate() {
            this.import(file, file, &format!("{:02x}", id + 1));
        }
        this
    }

    fn config(&self) -> PathBuf {
        self.folder.join("softhsm2.conf")
    }

    fn util(&self, args: &[&str]) {
        run(Command::new("softhsm2-util").env("SOFTHSM2_CONF", self.config()).args(args));
    }

    fn add_token(&self, label: &str) {
        self.util(&["--init-token", "--free", "--label", label, "--pin", PIN, "--so-pin", "12345678"]);
    }

    /// Imports a test key.
    fn import(&self, file: &str, label: &str, id: &str) {
        self.import_with(PIN, file, label, id);
    }

    fn import_with(&self, pin: &str, file: &str, label: &str, id: &str) {
        let path = key_path(&format!("{file}.pkcs8.pem"));
        let path = path.to_str().unwrap();
        self.util(&["--import", path, "--token", "t", "--label", label, "--id", id, "--pin", pin]);
    }

    fn tool(&self, args: &[&str]) {
        self.tool_without_login(&[&["--token-label", "t", "--login", "--pin", PIN], args].concat());
    }

    fn tool_without_login(&self, args: &[&str]) {
        let mut tool = Command::new("pkcs11-tool");
        run(tool.env("SOFTHSM2_CONF", self.config()).args(["--module", MODULE]).args(args));
    }

    fn remove(&self, label: &str) {
        for kind in ["privkey", "pubkey"] {
            self.tool(&["--delete-object", "--type", kind, "--label", label]);
        }
    }
}

fn uri(object: &str) -> String {
    format!("pkcs11:token=t;object={object}?module-path={MODULE}&pin-source=file:pin")
}

fn signed(object: &str) -> String {
    format!(
        "client_auth = \"private_key_jwt\"\nprivate_key = {{ pkcs11 = \"{}\" }}\n# client_secret",
        uri(object)
    )
}

fn scene(setup: Setup, device: &Device) -> Setup {
    setup.file("pin", PIN);
    setup.env("SOFTHSM2_CONF", device.config().to_str().unwrap())
}

async fn with_keys() -> (Setup, Device) {
    let setup = Setup::new().await;
    let device = Device::with_keys(setup.folder());
    (scene(setup, &device), device)
}

async fn failure(world: &World) -> String {
    let response = world.get("/").await;
    response.expect_problem(503, "token_unavailable");
    response.json()["detail"].as_str().unwrap().to_owned()
}

/// Nowhere is the PIN.
async fn expect_no_pin(world: &World) {
    let shown =
        [world.log().text(), world.admin("/status").await.text(), world.admin("/metrics").await.text()];
    for text in shown {
        assert!(!text.contains(PIN), "{text}");
    }
    let config = world.folder().join("softhsm2.conf");
    let config = config.to_str().unwrap();
    for args in [&["check"][..], &["check", "--online"], &["explain", "GET", "http://localhost/"]] {
        let output = cli::run_with(world.folder(), args, &[("SOFTHSM2_CONF", config)]).await;
        output.expect_code(0);
        assert!(!output.all().contains(PIN), "{}", output.all());
        // The verb that uses it shows which key it is.
        assert_eq!(
            output.all().contains("key pkcs11:token=t;object="),
            args.contains(&"--online"),
            "{}",
            output.all()
        );
    }
}

#[tokio::test]
#[ignore = "needs softhsm2-util, pkcs11-tool"]
async fn every_algorithm_signs_assertions() {
    for (object, alg) in [("rsa", "RS256"), ("rsa", "PS256"), ("ec-p256", "ES256"), ("ec-p384", "ES384")] {
        let public = key(&format!("{object}.public.pem"));
        for usage in ["client_assertion", "assertion"] {
            let (setup, _device) = with_keys().await;
            let client = match usage {
                "assertion" => signed(object).replace("client_auth = \"private_key_jwt\"\n", ""),
                _ => signed(object),
            };
            let jwt = format!("{client}\njwt = {{ alg = \"{alg}\", use = \"{usage}\" }}");
            let world = setup.log("level = \"debug\"").issuer(&jwt).start().await;
            world.get("/").await.expect_status(200);
            let sent = world.issuer().request(1).await.params(usage);
            let (header, claims) = verify(&sent[0], &public, alg);
            assert_eq!((&header["alg"], &claims["iss"]), (&json!(alg), &json!("client-1")));
            expect_no_pin(&world).await;
        }
    }
}

/// A scene whose issuer binds tokens to the key `object`. The tokens are `token-1`, `token-2` …
async fn bound(object: &str) -> (Setup, Device) {
    let (setup, device) = with_keys().await;
    setup.issuer.always(|_, n| {
        let token = format!("token-{n}");
        RawResponse::json(&json!({ "access_token": token, "token_type": "DPoP", "expires_in": 3600 }))
    });
    (setup.issuer(&format!("dpop = {{ private_key = {{ pkcs11 = \"{}\" }} }}", uri(object))), device)
}

fn expect_proof(request: &Recorded, object: &str, alg: &str) {
    let (header, claims) =
        verify(request.header("dpop").unwrap(), &key(&format!("{object}.public.jwk.json")), alg);
    let public: serde_json::Value = serde_json::from_str(&key(&format!("{object}.public.jwk.json"))).unwrap();
    for member in ["kty", "crv", "x", "y", "n", "e"] {
        assert_eq!(header["jwk"].get(member), public.get(member), "{member}");
    }
    assert_eq!(claims["htm"], request.method());
}

#[tokio::test]
#[ignore = "needs softhsm2-util, pkcs11-tool"]
async fn proofs_of_possession_are_signed_for_each_request() {
    for (object, alg) in [("ec-p256", "ES256"), ("ec-p384", "ES384"), ("rsa", "RS256")] {
        let (setup, _device) = bound(object).await;
        let mut world = setup.start().await;
        let requests = (0..32).map(|_| world.get("/"));
        for response in futures_util::future::join_all(requests).await {
            response.expect_status(200);
        }
        let issuer = world.issuer().request(1).await;
        expect_proof(&issuer, object, alg);
        let sent = world.upstream().requests();
        assert_eq!(sent.len(), 32);
        sent.iter().for_each(|request| expect_proof(request, object, alg));
        assert_eq!(world.issuer().count(), 1);
        expect_no_pin(&world).await;
        assert_eq!(world.proxy.stop().await.code(), Some(0));
    }
}

#[tokio::test]
#[ignore = "needs softhsm2-util, pkcs11-tool"]
async fn a_key_that_is_replaced_in_the_device_is_used_for_the_next_token() {
    let (setup, device) = with_keys().await;
    setup.issuer.always(|_, n| RawResponse::brief_token(n));
    let world = setup.issuer(&signed("rsa")).start().await;
    world.get("/").await.expect_status(200);
    verify(&world.issuer().request(1).await.params("client_assertion")[0], &key("rsa.public.pem"), "RS256");
    device.remove("rsa");
    device.import("ec-p256", "rsa", "07");
    eventually("the other key", || async {
        let _ = world.get("/").await;
        let last = world.issuer().last().params("client_assertion").remove(0);
        let header = last.split('.').next().unwrap();
        // `{"alg":"ES`
        header.starts_with("eyJhbGciOiJFU").then_some(())
    })
    .await;
    verify(&world.issuer().last().params("client_assertion")[0], &key("ec-p256.public.pem"), "ES256");
}

#[tokio::test]
#[ignore = "needs softhsm2-util, pkcs11-tool"]
async fn a_token_whose_key_is_replaced_is_fetched_again() {
    let (setup, device) = bound("ec-p256").await;
    let world = setup.start().await;
    world.get("/").await.expect_status(200);
    expect_proof(&world.upstream().last(), "ec-p256", "ES256");
    device.remove("ec-p256");
    device.import("ec-p384", "ec-p256", "07");
    eventually("a token of the other key", || async {
        let response = world.get("/").await;
        (response.status == 200).then_some(())
    })
    .await;
    let last = world.upstream().last();
    expect_proof(&last, "ec-p384", "ES384");
    assert_eq!(last.header("authorization"), Some("DPoP token-2"));
    assert_eq!(world.issuer().count(), 2);
}

#[tokio::test]
#[ignore = "needs softhsm2-util, pkcs11-tool"]
async fn a_token_that_comes_later_is_found_and_errors_say_what_is_there() {
    let setup = Setup::new().await;
    let device = Device::empty(setup.folder());
    let world = scene(setup, &device).issuer(&signed("rsa")).start().await;
    let detail = failure(&world).await;
    assert!(detail.contains("has no token: is the device connected?"), "{detail}");
    device.add_token("other");
    let about = async |words: &str| {
        eventually(words, || async {
            let response = world.get("/").await;
            response.text().contains(words).then_some(())
        })
        .await;
    };
    about("no token fits pkcs11:token=t;object=rsa; there are \\\"other\\\"").await;
    device.add_token("t");
    about("the token \\\"t\\\" has no private key").await;
    device.import("ec-p384", "else", "09");
    about("it has \\\"else\\\" (id %09)").await;
    device.import("rsa", "rsa", "01");
    device.import("ec-p256", "rsa", "02");
    about("2 private keys for pkcs11:token=t;object=rsa").await;
    device.tool(&["--delete-object", "--type", "privkey", "--id", "02"]);
    eventually("the key", || async { (world.get("/").await.status == 200).then_some(()) }).await;
    verify(&world.issuer().last().params("client_assertion")[0], &key("rsa.public.pem"), "RS256");
    expect_no_pin(&world).await;
}

/// Puts a module that can count and hang in front of SoftHSM.
fn spied(setup: Setup) -> Setup {
    let spy = setup.folder().join("spy.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/fixtures/pkcs11/spy.c");
    run(Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&spy).arg(source).arg("-ldl"));
    let path = |name: &str| setup.folder().join(name).to_str().unwrap().to_owned();
    let files = [
        ("SPY_LOGINS", path("logins")),
        ("SPY_SIGNATURES", path("signatures")),
        ("SPY_HANGS", path("hangs")),
        ("SPY_REMOVED", path("removed")),
        ("SPY_BROKEN", path("broken")),
    ];
    files.iter().fold(setup.env("SPY_ON", MODULE), |setup, (name, path)| setup.env(name, path))
}

fn through_spy(setup: &Setup, keys: &str) -> String {
    keys.replace(MODULE, setup.folder().join("spy.so").to_str().unwrap())
}

fn lines(world: &World, file: &str) -> usize {
    std::fs::read_to_string(world.folder().join(file)).unwrap_or_default().lines().count()
}

fn logins(world: &World) -> usize {
    lines(world, "logins")
}

/// The scene through the spy, and its config with a second issuer. A reload adds it, because the tokens of all issuers are fetched
/// at the start, in no certain order.
async fn with_second(setup: Setup, uri: &str) -> (World, String) {
    let setup = spied(setup);
    let alone = through_spy(&setup, &setup.config());
    let setup = setup.more(&second(uri));
    let both = through_spy(&setup, &setup.config());
    let world = setup.whole(&alone).start().await;
    world.get("/").await.expect_status(200);
    (world, both)
}

async fn load(world: &World, config: &str) {
    std::fs::write(world.folder().join("bearerd.toml"), config).unwrap();
    world.reload().await;
}

/// A second issuer, which binds tokens to the key of a URI, and its route.
fn second(uri: &str) -> String {
    format!(
        "[issuer.second]\ntoken_url = \"{{issuer}}/token\"\nclient_id = \"c2\"\nclient_auth = \"none\"\n\
         dpop = {{ private_key = {{ pkcs11 = \"{uri}\" }} }}\n[[route]]\nname = \"second\"\n\
         upstream = \"{{upstream}}\"\nissuer = \"second\"\npath_prefix = \"/second\""
    )
}

#[tokio::test]
#[ignore = "needs softhsm2-util, pkcs11-tool"]
async fn a_wrong_pin_is_tried_once() {
    let (setup, _device) = with_keys().await;
    let setup = spied(setup);
    // Two issuers with the same key, which try at the same time and again and again.
    let keys = through_spy(&setup, &signed("rsa"));
    let second = format!("[issuer.second]\ntoken_url = \"{{issuer}}/token\"\nclient_id = \"c2\"\n{keys}");
    let route = "[[route]]\nname = \"second\"\nupstream = \"{upstream}\"\nissuer = \"second\"\npath_prefix = \"/second\"";
    let setup = setup.log("level = \"debug\"").issuer(&keys).more(&format!("{second}\n{route}"));
    setup.file("pin", "canary-pin-0000");
    let world = setup.start().await;
    let detail = failure(&world).await;
    assert!(detail.contains("the token \"t\" refuses the PIN"), "{detail}");
    for _ in 0..3 {
        // After the pauses of 1 and 2 s.
        let failed = || world.log().lines().iter().filter(|line| line.contains("refuses the PIN")).count();
        let before = failed();
        eventually("another failure", || async { (failed() > before).then_some(()) }).await;
    }
    assert_eq!(logins(&world), 1);
    world.reload_signal();
    eventually("another try", || async { (logins(&world) > 1).then_some(()) }).await;
    failure(&world).await;
    assert_eq!(logins(&world), 2, "one more after SIGHUP");
    assert!(!world.log().text().contains("canary-pin"));
    world.file("pin", PIN);
    eventually("the right PIN", || async { (world.get("/").await.status == 200).then_some(()) }).await;
    eventually("the other one", || async { (world.get("/second").await.status == 200).then_some(()) }).await;
    assert_eq!(logins(&world), 3);
}

/// So that they do not lock the token by taking turns.
#[tokio::test]
#[ignore = "needs softhsm2-util, pkcs11-tool"]
async fn each_of_two_wrong_pins_is_tried_once() {
    let (setup, _device) = with_keys().await;
    let setup = spied(setup);
    let keys = through_spy(&setup, &signed("rsa"));
    let second = keys.replace("file:pin", "file:pin2");
    let second = format!("[issuer.second]\ntoken_url = \"{{issuer}}/token\"\nclient_id = \"c2\"\n{second}");
    let route = "[[route]]\nname = \"second\"\nupstream = \"{upstream}\"\nissuer = \"second\"\npath_prefix = \"/second\"";
    let setup = setup.log("level = \"debug\"").issuer(&keys).more(&format!("{second}\n{route}"));
    setup.file("pin", "canary-pin-0000");
    setup.file("pin2", "canary-pin-1111");
    let world = setup.start().await;
    for issuer in ["corp", "second"] {
        eventually("several failures", || async {
            let lines = world.log().lines();
            let failed =
                lines.iter().filter(|line| line.contains("refuses the PIN") && line.contains(issuer));
            (failed.count() >= 3).then_some(())
        })
        .await;
    }
    assert_eq!(logins(&world), 2);
}

/// SoftHSM compares every PIN with what the token's PIN was when it was initialized.
#[tokio::test]
#[ignore = "needs softhsm2-util, pkcs11-tool"]
async fn a_pin_that_another_program_sets_is_accepted() {
    let (setup, device) = with_keys().await;
    let setup = spied(setup);
    setup.issuer.always(|_, n| RawResponse::brief_token(n));
    // Two issuers with the same key, which try at the same time.
    let keys = through_spy(&setup, &signed("rsa"));
    let second = format!("[issuer.second]\ntoken_url = \"{{issuer}}/token\"\nclient_id = \"c2\"\n{keys}");
    let route = "[[route]]\nname = \"second\"\nupstream = \"{upstream}\"\nissuer = \"second\"\npath_prefix = \"/second\"";
    let setup = setup.issuer(&keys).more(&format!("{second}\n{route}"));
    setup.file("pin", "canary-pin-0000");
    let world = setup.start().await;
    let detail = failure(&world).await;
    assert!(detail.contains("the token \"t\" refuses the PIN"), "{detail}");
    let both = async |what: &str| {
        for path in ["/", "/second"] {
            eventually(what, || async { (world.get(path).await.status == 200).then_some(()) }).await;
        }
    };
    device.tool(&["--change-pin", "--new-pin", "canary-pin-0000"]);
    world.reload_signal();
    both("the PIN that was refused, after SIGHUP").await;
    assert_eq!(logins(&world), 2);

    // With another PIN, and another key.
    device.util(&[
        "--init-token",
        "--token",
        "t",
        "--label",
        "t",
        "--pin",
        "canary-pin-1111",
        "--so-pin",
        "12345678",
    ]);
    eventually("the key to be gone", || async {
        world.get("/").await.text().contains("has no private key").then_some(())
    })
    .await;
    device.import_with("canary-pin-1111", "ec-p256", "rsa", "01");
    world.file("pin", "canary-pin-1111");
    both("the token that was initialized again").await;
    verify(&world.issuer().last().params("client_assertion")[0], &key("ec-p256.public.pem"), "ES256");
    assert!(!world.log().text().contains("canary-pin"));
}

#[tokio::test]
#[ignore = "needs softhsm2-util, pkcs11-tool"]
async fn a_token_that_gets_its_pin_later_is_logged_in_to() {
    let setup = Setup::new().await;
    let device = Device::empty(setup.folder());
    let so = ["--so-pin", "12345678"];
    device.tool_without_login(&[&["--slot-index", "0", "--init-token", "--label", "t"], &so[..]].concat());
    let world = scene(setup, &device).issuer(&signed("rsa")).start().await;
    let detail = failure(&world).await;
    assert!(detail.contains("the token \"t\" has no user PIN yet: set one"), "{detail}");
    let so = ["--login", "--login-type", "so", so[0], so[1]];
    device
        .tool_without_login(&[&["--token-label", "t"], &so[..], &["--init-pin", "--new-pin", PIN]].concat());
    device.import("rsa", "rsa", "01");
    eventually("the key", || async { (world.get("/").await.status == 200).then_some(()) }).await;
    expect_no_pin(&world).await;
}

#[tokio::test]
#[ignore = "needs softhsm2-util, pkcs11-tool"]
async fn tokens_of_one_label_are_listed_with_what_distinguishes_them() {
    let (setup, device) = with_keys().await;
    device.add_token("t");
    let output =
        Command::new("softhsm2-util").env("SOFTHSM2_CONF", device.config()).arg("--show-slots").output();
    let shown = String::from_utf8(output.unwrap().stdout).unwrap();
    let values = |name: &str| -> Vec<String> {
        let lines = shown.lines().filter_map(|line| line.trim().strip_prefix(name));
        lines.map(|value| value.trim_start_matches(':').trim().to_owned()).collect()
    };
    let (mut slots, serials) = (values("Slot "), values("Serial number"));
    slots.retain(|slot| slot.parse::<u64>().is_ok());
    let world = setup.issuer(&signed("rsa")).start().await;
    let detail = failure(&world).await;
    assert!(detail.contains("fits several tokens") && detail.contains("add serial or slot-id"), "{detail}");
    // The last slot is that of the next token.
    for (slot, serial) in slots.iter().zip(&serials).take(2) {
        let words = format!("\"t\" with serial \"{serial}\" and slot-id {slot}");
        assert!(detail.contains(&words), "{words}: {detail}");
    }
    let chosen = signed("rsa").replace("token=t", &format!("token=t;serial={}", serials[0]));
    let other = signed("rsa").replace("token=t", &format!("token=t;serial={}", serials[1]));
    let config = world.config();
    let mut served = 0;
    for keys in [chosen, other] {
        let text = config.replace(&signed("rsa"), &keys);
        load(&world, &text).await;
        served += usize::from(world.get("/").await.status == 200);
    }
    assert_eq!(served, 1, "one of them has the key");
}

#[tokio::test]
#[ignore = "needs softhsm2-util, pkcs11-tool"]
async fn a_device_that_is_removed_and_inserted_again_is_logged_in_once_more() {
    let (setup, _device) = bound("ec-p256").await;
    let setup = spied(setup);
    let text = through_spy(&setup, &setup.config());
    let world = setup.whole(&text).start().await;
    world.get("/").await.expect_status(200);
    assert_eq!(logins(&world), 1);
    world.file("removed", "");
    let detail = failure(&world).await;
    assert!(
        detail.contains("dpop.private_key: the module has no token: is the device connected?"),
        "{detail}"
    );
    std::fs::remove_file(world.folder().join("removed")).unwrap();
    for _ in 0..8 {
        world.get("/").await.expect_status(200);
        expect_proof(&world.upstream().last(), "ec-p256", "ES256");
    }
    assert_eq!((logins(&world), world.issuer().count()), (2, 1), "with the same token");
}

/// Modules of network HSMs and of YubiHSM fail from then on until they are initialized anew.
#[tokio::test]
#[ignore = "needs softhsm2-util, pkcs11-tool"]
async fn a_module_that_lost_its_device_is_initialized_anew() {
    let (setup, _device) = bound("ec-p256").await;
    let setup = spied(setup);
    let text = through_spy(&setup, &setup.config());
    let world = setup.whole(&text).start().await;
    world.get("/").await.expect_status(200);
    world.file("broken", "");
    for _ in 0..8 {
        world.get("/").await.expect_status(200);
        expect_proof(&world.upstream().last(), "ec-p256", "ES256");
    }
    // With a new session, and after C_Initialize.
    assert_eq!((logins(&world), world.issuer().count()), (3, 1), "with the same token");

    // A device that stays broken is no reason to initialize the module for each request.
    world.file("broken", "");
    failure(&world).await;
    assert!(world.folder().join("broken").exists(), "it was initialized a moment ago");
    eventually("a signature", || async { (world.get("/").await.status == 200).then_some(()) }).await;
}

/// From then on, its handles are those of other keys.
#[tokio::test]
#[ignore = "needs softhsm2-util, pkcs11-tool"]
async fn each_of_two_keys_signs_as_itself_after_the_module_is_initialized_anew() {
    let (setup, device) = bound("ec-p256").await;
    device.tool(&["--keypairgen", "--key-type", "EC:prime256v1", "--label", "other", "--id", "09"]);
    let (world, both) = with_second(setup, &uri("other")).await;
    load(&world, &both).await;
    let expect_proofs = async || {
        world.get("/second").await.expect_status(200);
        let proof = world.upstream().last().header("dpop").unwrap().to_owned();
        let before = lines(&world, "signatures");
        world.get("/").await.expect_status(200);
        expect_proof(&world.upstream().last(), "ec-p256", "ES256");
        (verify_with_its_own_key(&proof), lines(&world, "signatures") - before)
    };
    let (other, _) = expect_proofs().await;
    world.file("broken", "");
    assert_eq!(expect_proofs().await, (other, 1), "and no key signs for the other one");
    assert!(!world.folder().join("broken").exists(), "it was initialized anew");
}

/// Returns the key.
fn verify_with_its_own_key(proof: &str) -> serde_json::Value {
    let header = jsonwebtoken::decode_header(proof).unwrap();
    let jwk = serde_json::to_value(header.jwk.unwrap()).unwrap();
    verify(proof, &jwk.to_string(), "ES256");
    jwk
}

/// Debian installs SoftHSM under two paths.
#[tokio::test]
#[ignore = "needs softhsm2-util, pkcs11-tool"]
async fn a_module_under_two_paths_is_not_initialized_anew_while_it_signs() {
    let (setup, _device) = bound("ec-p256").await;
    let link = setup.folder().join("link.so");
    std::os::unix::fs::symlink("spy.so", &link).unwrap();
    let absent = uri("ec-p256").replace("token=t", "token=absent").replace(MODULE, link.to_str().unwrap());
    let (world, both) = with_second(setup, &absent).await;
    let expect_absence = async || {
        let response = world.get("/second").await;
        response.expect_problem(503, "token_unavailable");
        assert!(response.text().contains("no token fits pkcs11:token=absent"), "{}", response.text());
    };
    world.file("hangs", "");
    let before = lines(&world, "signatures");
    let first = async {
        world.get("/").await.expect_status(200);
        expect_proof(&world.upstream().last(), "ec-p256", "ES256");
    };
    let meanwhile = async {
        eventually("a signature", || async { (lines(&world, "signatures") > before).then_some(()) }).await;
        load(&world, &both).await;
        expect_absence().await;
        std::fs::remove_file(world.folder().join("hangs")).unwrap();
    };
    tokio::join!(first, meanwhile);
    for _ in 0..8 {
        expect_absence().await;
        world.get("/").await.expect_status(200);
        expect_proof(&world.upstream().last(), "ec-p256", "ES256");
    }
}

#[tokio::test]
#[ignore = "needs softhsm2-util, pkcs11-tool"]
async fn a_module_that_hangs_harms_nobody_else() {
    let (setup, _device) = bound("ec-p256").await;
    let setup = spied(setup);
    let text = through_spy(&setup, &setup.config());
    let other =
        "[[route]]\nname = \"other\"\nupstream = \"{upstream}\"\nanonymous = true\npath_prefix = \"/other\"";
    let world = setup.whole(&format!("{text}\n{other}")).start().await;
    world.get("/").await.expect_status(200);
    world.file("hangs", "");
    let all = futures_util::future::join_all((0..200).map(|_| world.get("/")));
    let others = async {
        for _ in 0..20 {
            within("another route", world.get("/other")).await.expect_status(200);
        }
    };
    let (hung, ()) = tokio::join!(all, others);
    for response in hung {
        response.expect_problem(503, "token_unavailable");
        assert!(response.text().contains("does not respond"), "{}", response.text());
    }
    let tasks = std::fs::read_dir(format!("/proc/{}/task", world.pid().as_raw_nonzero())).unwrap();
    let threads = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    assert_eq!(threads.filter(|name| name.trim() == "pkcs11").count(), 4);
    // Those who come later get the error at once.
    let started = std::time::Instant::now();
    for _ in 0..20 {
        world.get("/").await.expect_problem(503, "token_unavailable");
    }
    assert!(started.elapsed() < Duration::from_secs(20), "not after 5 s each");
    std::fs::remove_file(world.folder().join("hangs")).unwrap();
    eventually("a signature", || async { (world.get("/").await.status == 200).then_some(()) }).await;
}

#[tokio::test]
#[ignore = "needs softhsm2-util, pkcs11-tool"]
async fn what_does_not_fit_is_said() {
    for (keys, says) in [
        (signed("rsa") + "\njwt = { alg = \"ES256\" }", "ES256 does not fit this RSA key"),
        (signed("rsa").replace(MODULE, "/nowhere/m.so"), "/nowhere/m.so"),
        (signed("rsa").replace(MODULE, "/etc/hostname"), "/etc/hostname cannot be loaded"),
        (signed("rsa").replace("&pin-source=file:pin", ""), "no private key without a login"),
        (signed("rsa").replace("token=t", "serial=77"), "no token fits pkcs11:serial=77"),
        (signed("short"), "the RSA key has 1024 bits; 2048 at least are needed"),
        (signed("mixed"), "the signature does not fit the public key that the token has for this key"),
    ] {
        let (setup, device) = with_keys().await;
        device.import("rsa-1024", "short", "08");
        // A certificate or public key of another key has this key's ID.
        device.import("ec-p256", "mixed", "09");
        device.tool(&["--delete-object", "--type", "pubkey", "--id", "09"]);
        device.tool(&["--keypairgen", "--key-type", "EC:prime256v1", "--label", "other", "--id", "09"]);
        device.tool(&["--delete-object", "--type", "privkey", "--label", "other"]);
        let world = setup.issuer(&keys).start().await;
        let detail = failure(&world).await;
        assert!(detail.contains(says) && !detail.contains("fix the file"), "{detail}");
    }
    let setup = Setup::new().await.issuer(&signed("rsa").replace(MODULE, "/nowhere/m.so"));
    setup.file("pin", PIN);
    setup.write();
    let output = cli::run(setup.folder(), &["check"]).await;
    output.expect_code(0);
    assert!(output.all().contains("there is no module /nowhere/m.so: install it"), "{}", output.all());
}

#[tokio::test]
#[ignore = "needs softhsm2-util, pkcs11-tool"]
async fn a_pin_may_be_in_the_uri_or_come_from_elsewhere() {
    let in_uri = signed("rsa").replace("pin-source=file:pin", &format!("pin-value={PIN}"));
    let elsewhere =
        signed("rsa").replace("&pin-source=file:pin\"", "\", password = { exec = [\"cat\", \"pin\"] }");
    for keys in [in_uri, elsewhere] {
        let (setup, _device) = with_keys().await;
        let world = setup.log("level = \"debug\"").issuer(&keys).start().await;
        world.get("/").await.expect_status(200);
        expect_no_pin(&world).await;
    }
}

#[tokio::test]
#[ignore = "needs softhsm2-util, pkcs11-tool"]
async fn a_pin_that_cannot_be_read_is_told_with_the_remedy_of_its_source() {
    for (password, remedy) in [
        ("{ env = \"NOT_SET_OF_BEARERD\" }", "set it where bearerd is started"),
        ("{ exec = [\"false\"] }", "run the program by hand"),
        ("{ file = \"missing\" }", "fix the file"),
    ] {
        let keys = signed("rsa").replace("&pin-source=file:pin\"", &format!("\", password = {password}"));
        let (setup, _device) = with_keys().await;
        let world = setup.issuer(&keys).start().await;
        let detail = failure(&world).await;
        assert!(detail.contains("its PIN cannot be read") && detail.contains(remedy), "{detail}");
        assert!(!detail.contains("check the device"), "{detail}");
    }
}

#[tokio::test]
async fn a_key_in_a_device_stands_where_it_signs_and_nowhere_else() {
    let here = |keys: &str| format!("client_auth = \"private_key_jwt\"\n# client_secret\n{keys}");
    let pkcs11 = "{ pkcs11 = \"pkcs11:object=k?module-path=/m.so&pin-value=canary-pin\" }";
    for (keys, says) in [
        (
            format!("tls = {{ certificate = {{ file = \"c\" }}, private_key = {pkcs11} }}"),
            "cannot be used for TLS",
        ),
        (
            format!(
                "client_auth = \"tls_client_auth\"\n# client_secret\nprivate_key = {pkcs11}\ncertificate = {{ file = \"c\" }}"
            ),
            "cannot be used for TLS",
        ),
        (format!("params = {{ x = {pkcs11} }}"), "is a private key, and this is not one"),
        (format!("client_secret = {pkcs11}\n# client_secret"), "is a private key, and this is not one"),
        (
            here("private_key = { pkcs11 = \"pkcs11:objekt=k?pin-value=canary-pin\" }"),
            "`objekt`, which is not known",
        ),
        (
            here(
                "private_key = { pkcs11 = \"pkcs11:object=k?pin-value=canary-pin\", password = { file = \"p\" } }",
            ),
            "is a second PIN",
        ),
        (
            here("private_key = { pkcs11 = \"pkcs11:object=k\", file = \"k\" }"),
            "has both `file` and `pkcs11`",
        ),
        (
            here("private_key = { pkcs11 = \"pkcs11:object=k\", pointer = \"/a\" }"),
            "does not belong to a key in a device",
        ),
    ] {
        let output =
            cli::refusal(&Setup::with(Scripted::issuer().await, Scripted::upstream().await).issuer(&keys))
                .await;
        assert!(output.contains(says) && !output.contains("canary-pin"), "{keys}: {output}");
    }
    let listener = format!("tls = {{ certificate = {{ file = \"c\" }}, private_key = {pkcs11} }}");
    let output = cli::refusal(&Setup::new().await.listener(&listener)).await;
    assert!(output.contains("cannot be used for TLS"), "{output}");
}
