//! Paths that bearerd writes are nobody else's: never a file that the config reads, nor one that another key writes.

use std::os::unix::fs::symlink;

use crate::support::{Setup, cli};

/// The scene with an included file, a secret, a script, and a forward listener. `{written}` is where the test's key goes.
async fn setup(listener: &str, more: &str) -> Setup {
    let setup = Setup::new()
        .await
        .top("include = [\"conf.d/*.toml\"]")
        .listener(listener)
        .issuer("params = { nonce = { exec = [\"./nonce\", \"x\"] } }")
        .route("host = \"api.example.com\"")
        .more(more);
    setup.file("conf.d/team.toml", "");
    setup.file("nonce", "#!/bin/sh\n");
    setup.write();
    setup
}

fn forward(bundle: &str) -> String {
    format!("serve = \"forward\"\nforward = {{ ca_bundle = \"{bundle}\" }}")
}

fn webhook(store: &str) -> String {
    format!(
        "[webhook.w]\naddress = \"127.0.0.1:0\"\npath = \"/w\"\nsignature_header = \"x-signature\"\n\
         secrets = [{{ file = \"signing\" }}]\nvalue = \"/id\"\nstore = \"{store}\"\n"
    )
}

fn store(path: &str) -> String {
    format!("[store]\npath = \"{path}\"\nkeys = [{{ file = \"store.key\" }}]\n")
}

/// `check` and `run` refuse it in these words, and nothing was written.
async fn refused(setup: Setup, key: &str, words: &str) {
    let before = content(&setup);
    let output = cli::run(setup.folder(), &["check"]).await;
    output.expect_code(78);
    let said = output.all();
    let line = said.lines().find(|line| line.contains(" error: ")).unwrap_or_else(|| panic!("{said}"));
    assert!(line.contains("bearerd.toml:") && line.contains(&format!("error: {key}: ")), "{line}");
    assert!(line.contains(words), "{words} in {line}");
    assert!(said.contains("help: "), "{said}");
    cli::run(setup.folder(), &["run"]).await.expect_code(78);
    assert_eq!(content(&setup), before);
}

fn content(setup: &Setup) -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(setup.folder()).unwrap().map(Result::unwrap);
    let mut files: Vec<_> = entries
        .filter(|entry| entry.metadata().unwrap().is_file())
        .map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap()))
        .collect();
    files.sort();
    files
}

#[tokio::test]
async fn a_bundle_replaces_nothing_that_the_config_reads() {
    for (bundle, words) in [
        ("bearerd.toml", "is the config file ./bearerd.toml"),
        ("conf.d/../bearerd.toml", "is the config file"),
        ("not-there/../secret", "is the file of `issuer.corp.client_secret` (./bearerd.toml:"),
        ("conf.d/team.toml", "is the config file ./conf.d/team.toml"),
        ("conf.d/new.toml", "is a file that `include` would read"),
        ("secret", "is the file of `issuer.corp.client_secret` (./bearerd.toml:"),
        ("nonce", "is the file of `issuer.corp.params.nonce`"),
        ("a-link", "is the file of `issuer.corp.client_secret`"),
        ("another-name", "is the file of `issuer.corp.client_secret`"),
        (".", "is a folder, not a file"),
        ("conf.d", "is a folder, not a file"),
    ] {
        let setup = setup(&forward(bundle), "").await;
        symlink("secret", setup.folder().join("a-link")).unwrap();
        std::fs::hard_link(setup.folder().join("secret"), setup.folder().join("another-name")).unwrap();
        refused(setup, "listener.main.forward.ca_bundle", words).await;
    }
}

#[tokio::test]
async fn nor_do_the_files_beside_a_bundle() {
    let listener = format!(
        "{}\ntls = {{ certificate = {{ file = \"ca.p12\" }}, private_key = {{ file = \"key\" }} }}",
        forward("ca.pem")
    );
    let words = "ca.p12 too, which is the file of `listener.main.tls.certificate`";
    refused(setup(&listener, "").await, "listener.main.forward.ca_bundle", words).await;
    let own = "serve = \"forward\"\nforward = { ca_bundle = \"ca.pem\", ca = { certificate = { file = \"ca.pem\" }, \
               private_key = { file = \"ca.key\" } } }";
    let words = "is the file of `listener.main.forward.ca.certificate`";
    refused(setup(own, "").await, "listener.main.forward.ca_bundle", words).await;
}

#[tokio::test]
async fn nor_do_learned_values_stores_and_sockets() {
    for (listener, more, key, words) in [
        ("", webhook("bearerd.toml"), "webhook.w.store", "is the config file"),
        ("", webhook("secret"), "webhook.w.store", "is the file of `issuer.corp.client_secret`"),
        ("", webhook("signing"), "webhook.w.store", "is the file of `webhook.w.secrets[0]`"),
        ("", webhook("conf.d"), "webhook.w.store", "is a folder"),
        ("", store("store.key"), "store.path", "is the file of `store.keys[0]`"),
        (&forward("ca.pem"), webhook("ca.jks"), "webhook.w.store", "`listener.main.forward.ca_bundle`"),
        (&forward("ca.pem"), store("ca.pem"), "store.path", "`listener.main.forward.ca_bundle`"),
        (
            "",
            format!(
                "{}{}",
                webhook("one"),
                webhook("./one").replace("webhook.w", "webhook.x").replace("0.0.1", "0.0.2")
            ),
            "webhook.x.store",
            "is the path of `webhook.w.store`",
        ),
        ("address = \"unix:secret\"", String::new(), "listener.main.address", "is the file of"),
    ] {
        refused(setup(listener, &more).await, key, words).await;
    }
}

#[tokio::test]
async fn nor_the_log_of_exec() {
    for (file, words) in [
        ("bearerd.toml", "--log-file names the same path: the config file"),
        ("./secret", "--log-file names the same path: the file of `issuer.corp.client_secret`"),
        ("ca.pem", "--log-file names the same path: the path of `listener.main.forward.ca_bundle`"),
    ] {
        let setup = setup(&forward("ca.pem"), "").await;
        let before = content(&setup);
        let output = cli::run(setup.folder(), &["exec", "--log-file", file, "--", "true"]).await;
        output.expect_code(78);
        assert!(output.stderr.contains(words), "{}", output.stderr);
        assert_eq!(content(&setup), before);
    }
}

#[tokio::test]
async fn a_bundle_is_not_among_the_roots_that_it_is_made_of() {
    for (variable, named) in [("SSL_CERT_FILE", "ca.pem"), ("SSL_CERT_DIR", ".")] {
        let setup = setup(&forward("ca.pem"), "").await;
        let roots = setup.folder().join(named);
        let roots = [(variable, roots.to_str().unwrap())];
        let output = cli::run_with(setup.folder(), &["check"], &roots).await;
        output.expect_code(0);
        let said = output.all();
        let line = said.lines().find(|line| line.contains("the system's roots"));
        let line = line.unwrap_or_else(|| panic!("{said}"));
        assert!(line.contains("warning: listener.main.forward.ca_bundle: is "), "{line}");
        assert!(line.ends_with(&format!(", which {variable} names")), "{line}");
        assert!(said.contains(&format!("start `bearerd run` without {variable}")), "{said}");
        // As in a shell whose programs trust the bundle.
        for args in [&["explain", "GET", "https://api.example.com/"][..], &["ca"]] {
            let without = cli::run(setup.folder(), args).await;
            let with = cli::run_with(setup.folder(), args, &roots).await;
            assert_eq!(with.code, without.code, "{}\n{}", with.all(), without.all());
            assert_ne!(with.code, 78, "{}", with.all());
        }
        // Other paths are nobody's to name.
        let of_roots = setup.file("store.pem", "");
        let setup = setup.more(&webhook("store.pem"));
        setup.write();
        let roots = if named == "." { roots } else { [(variable, of_roots.to_str().unwrap())] };
        let output = cli::run_with(setup.folder(), &["check"], &roots).await;
        output.expect_code(78);
        assert!(output.all().contains("error: webhook.w.store: is "), "{}", output.all());
    }
}

#[tokio::test]
async fn in_exec_check_says_what_it_says_outside() {
    let setup = setup(&forward("ca.pem"), "").await;
    let bearerd = env!("CARGO_BIN_EXE_bearerd");
    let output = cli::run(setup.folder(), &["exec", "--", bearerd, "check"]).await;
    output.expect_code(0);
    assert!(output.all().contains("ca_bundle: is the file of the system's roots, which SSL_CERT_FILE names"));
}

#[tokio::test]
async fn a_bundle_without_a_folder_is_announced() {
    let setup = setup(&forward("not-there/ca.pem"), "").await;
    let output = cli::run(setup.folder(), &["check"]).await;
    output.expect_code(0);
    let said = output.all();
    let line = said.lines().find(|line| line.contains("ca_bundle")).unwrap_or_else(|| panic!("{said}"));
    assert!(line.contains("bearerd.toml:") && line.contains("not-there does not exist"), "{line}");
    assert!(said.contains("mkdir -p"), "{said}");
}
