//! What `check` says of the files that a config names: who may read them, and what they hold.

use std::os::unix::fs::PermissionsExt;

use super::checked;
use crate::support::cli::{command, run};
use crate::support::{Setup, World};

#[tokio::test]
async fn literal_secret_wants_a_file_that_its_owner_alone_may_read() {
    let setup = Setup::new().await.issuer("client_secret = \"literal-secret\"");
    let path = setup.write();
    for (mode, code) in [(0o644, 78), (0o640, 78), (0o600, 0), (0o400, 0)] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let output = run(setup.folder(), &["check"]).await;
        assert_eq!(output.code, code, "{mode:o}: {}", output.all());
        assert!(!output.all().contains("literal-secret"));
    }
}

#[tokio::test]
async fn other_file_modes_are_warned_about_and_never_refused() {
    let setup = Setup::new().await;
    let secret = setup.file("secret", "x");
    std::fs::set_permissions(secret, std::fs::Permissions::from_mode(0o666)).unwrap();
    let (_setup, output) = checked(setup).await;
    output.expect_code(0);
    assert!(output.all().contains("warning") && output.all().contains("secret"), "{}", output.all());
}

#[tokio::test]
async fn missing_secret_file_is_a_warning_and_run_starts_and_readyz_says_so() {
    let setup = Setup::new().await.issuer("client_secret = { file = \"not-there\" }");
    let (setup, output) = checked(setup).await;
    output.expect_code(0);
    assert!(output.all().contains("not-there"), "{}", output.all());
    let world: World = setup.start().await;
    let ready = world.admin("/readyz").await;
    ready.expect_status(503);
    assert_eq!(world.issuer().count(), 0);
    let warned = |status: serde_json::Value| status["config"]["warnings"].to_string().contains("not-there");
    assert!(warned(world.status().await));
    world.file("not-there", "now-it-is\n");
    world.ready().await;
    let warnings = world.status().await["config"]["warnings"].to_string();
    assert!(!warnings.contains("no such file"), "{warnings}");
    assert_eq!(world.issuer().last().basic().unwrap(), "client-1:now-it-is");
}

#[tokio::test]
async fn key_that_cannot_be_what_it_is_said_to_be_is_a_warning_at_its_place() {
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let ec = &crate::support::tls::localhost().key_pem;
    for (content, alg, wanted) in [
        (encrypted, "ES256", "password = { file"),
        ("hunter2-no-key", "ES256", "private_key"),
        (ec.as_str(), "RS256", "ES256"),
    ] {
        let setup = Setup::new().await.issuer(&format!(
            "# client_secret\nclient_auth = \"private_key_jwt\"\nprivate_key = {{ file = \"key.pem\" }}\n\
             jwt = {{ use = \"client_assertion\", alg = \"{alg}\" }}"
        ));
        let file = setup.file("key.pem", content);
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)).unwrap();
        let (_setup, output) = checked(setup).await;
        output.expect_code(0);
        let said = output.all();
        let line = said
            .lines()
            .find(|line| line.contains("warning: issuer.corp."))
            .unwrap_or_else(|| panic!("{said}"));
        assert!(line.contains("bearerd.toml:") && line.contains(wanted), "{said}");
        assert!(!said.contains("hunter2"), "{said}");
    }
}

#[tokio::test]
async fn files_of_tls_that_cannot_be_used_are_warnings_at_their_place() {
    let key = &crate::support::tls::localhost().key_pem;
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let private = |setup: &Setup, name: &str, content: &str| {
        let file = setup.file(name, content);
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)).unwrap();
    };
    let ca = "tls = { ca = { file = \"ca.pem\" } }";
    for (issuer, route, wanted) in [
        (ca, "", "warning: issuer.corp.tls.ca: file "),
        ("", ca, "warning: route[0].tls: tls.ca: file "),
        (
            "# client_secret\nclient_auth = \"tls_client_auth\"\ncertificate = { file = \"own.pem\" }\n\
             private_key = { file = \"encrypted.pem\" }",
            "",
            "warning: issuer.corp.private_key: file ",
        ),
    ] {
        let setup = Setup::new().await.issuer(issuer).route(route);
        private(&setup, "ca.pem", key);
        private(&setup, "own.pem", &crate::support::tls::localhost().certificate_pem);
        private(&setup, "encrypted.pem", encrypted);
        let (_setup, output) = checked(setup).await;
        output.expect_code(0);
        let said = output.all();
        let line = said.lines().find(|line| line.contains(wanted)).unwrap_or_else(|| panic!("{said}"));
        assert!(!line.starts_with("bearerd.toml: "), "it has a line: {line}");
    }
}

#[tokio::test]
async fn a_folder_where_a_file_should_be_is_no_file_whose_mode_matters() {
    let setup = Setup::new().await.issuer("client_secret = { file = \".\" }");
    let (_setup, output) = checked(setup).await;
    output.expect_code(0);
    let said = output.all();
    assert!(said.contains("is a folder; name the file in it") && !said.contains("chmod"), "{said}");
}

#[tokio::test]
async fn a_pair_is_reported_by_the_half_that_is_at_fault() {
    let setup = Setup::new().await.issuer(
        "# client_secret\nclient_auth = \"private_key_jwt\"\nprivate_key = { file = \"key.pem\" }\n\
         jwt = { use = \"client_assertion\", certificate_headers = [\"x5t\"] }",
    );
    setup.file("key.pem", &crate::support::tls::localhost().key_pem);
    let (_setup, output) = checked(setup).await;
    assert!(output.all().contains("warning: issuer.corp.certificate: is missing"), "{}", output.all());
}

#[tokio::test]
async fn a_webhooks_store_without_a_folder_is_a_warning_with_its_place() {
    let webhook = "[webhook.w]\naddress = \"127.0.0.1:0\"\npath = \"/w\"\nsignature_header = \"x-signature\"\n\
                   secrets = [{ file = \"secret\" }]\nvalue = \"/id\"\nstore = \"not-there/w.json\"\n";
    let (_setup, output) = checked(Setup::new().await.more(webhook)).await;
    output.expect_code(0);
    let said = output.all();
    let line = said.lines().find(|line| line.contains("webhook.w.store")).unwrap_or_else(|| panic!("{said}"));
    assert!(line.contains("bearerd.toml:") && line.contains("does not exist"), "{line}");
}

#[tokio::test]
async fn a_key_of_the_store_that_cannot_be_one_is_an_error_and_run_starts() {
    let setup = Setup::new().await.more("[store]\npath = \"tokens\"\nkeys = [{ file = \"store.key\" }]\n");
    let file = setup.file("store.key", "hunter2");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let (setup, output) = checked(setup).await;
    output.expect_code(78);
    let said = output.all();
    let line = said
        .lines()
        .find(|line| line.contains("error: store.keys[0]: file "))
        .unwrap_or_else(|| panic!("{said}"));
    assert!(line.contains("bearerd.toml:") && line.contains("is not a key of 32 bytes"), "{line}");
    assert!(said.contains("openssl rand -base64 32") && !said.contains("hunter2"), "{said}");

    // Nothing needs the store, and the file may be corrected while bearerd runs.
    let world: World = setup.start().await;
    world.ready().await;
    assert_eq!(world.issuer().count(), 1);
    let warnings = world.status().await["config"]["warnings"].to_string();
    assert!(warnings.contains("is not a key of 32 bytes") && !warnings.contains("hunter2"), "{warnings}");
}

#[tokio::test]
async fn a_stores_tls_that_cannot_be_used_is_a_warning_at_its_place() {
    let store = "[store]\nurl = \"rediss://127.0.0.1:1\"\nkeys = [{ env = \"MISSING\" }]\n\
                 tls = { ca = { file = \"ca.pem\" } }\n";
    let setup = Setup::new().await.more(store);
    setup.file("ca.pem", &crate::support::tls::localhost().key_pem);
    let (_setup, output) = checked(setup).await;
    output.expect_code(0);
    let said = output.all();
    let wanted = "warning: store.tls: tls.ca: file ";
    let line = said.lines().find(|line| line.contains(wanted)).unwrap_or_else(|| panic!("{said}"));
    assert!(!line.starts_with("bearerd.toml: "), "it has a line: {line}");
}

#[tokio::test]
async fn certificate_that_has_expired_is_a_warning() {
    let client = crate::support::tls::ca().issue_expired(&["client"]);
    let setup = Setup::new()
        .await
        .issuer("tls = { certificate = { file = \"client.pem\" }, private_key = { file = \"client.key\" } }");
    for (name, content) in [("client.pem", &client.certificate_pem), ("client.key", &client.key_pem)] {
        let file = setup.file(name, content);
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    let (_setup, output) = checked(setup).await;
    output.expect_code(0);
    assert!(output.all().contains("expired on 2021-01-01"), "{}", output.all());
}

#[tokio::test]
async fn tls_that_cannot_be_used_is_a_warning_at_its_place() {
    let (one, other) = (crate::support::tls::localhost(), crate::support::tls::localhost());
    let pair = "certificate = { file = \"a.pem\" }, private_key = { file = \"b.pem\" }";
    let with_password = "client_auth = \"tls_client_auth\"\n# client_secret\n\
         certificate = { file = \"a.p12\", password = { file = \"password\" } }";
    for (issuer, route, key, wanted) in [
        (format!("tls = {{ {pair} }}"), String::new(), "issuer.corp.tls.certificate: ", "does not belong"),
        (String::new(), format!("tls = {{ {pair} }}"), "route[0].tls: ", "does not belong"),
        (
            "tls = { ca = { file = \"password\" } }".to_owned(),
            String::new(),
            "issuer.corp.tls.ca: ",
            "holds no certificate",
        ),
        (
            String::new(),
            "tls = { ca = { file = \"password\" } }".to_owned(),
            "route[0].tls: ",
            "holds no certificate",
        ),
        (with_password.to_owned(), String::new(), "issuer.corp.certificate: file ", "password"),
    ] {
        let setup = Setup::new().await.issuer(&issuer).route(&route);
        let p12 = include_bytes!("../fixtures/keys/ec-p256.modern.p12");
        let files: [(&str, &[u8]); 4] = [
            ("a.pem", one.certificate_pem.as_bytes()),
            ("b.pem", other.key_pem.as_bytes()),
            ("password", b"hunter2"),
            ("a.p12", p12),
        ];
        for (name, content) in files {
            let file = setup.file(name, content);
            std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)).unwrap();
        }
        let (_setup, output) = checked(setup).await;
        output.expect_code(0);
        let said = output.all();
        let line = said.lines().find(|line| line.contains(key)).unwrap_or_else(|| panic!("{key}\n{said}"));
        assert!(line.contains("bearerd.toml:") && line.contains("warning: "), "{said}");
        assert!(line.contains(wanted), "{said}");
        assert!(!said.contains("hunter2"), "{said}");
    }
}

/// The file may be read, and the folder around it may not be entered.
#[tokio::test]
async fn a_folder_without_the_execute_right_is_named() {
    let setup = Setup::new().await.issuer("client_secret = { file = \"secrets/corp\" }");
    setup.write();
    let (folder, secrets) = (setup.folder().to_owned(), setup.folder().join("secrets"));
    std::fs::create_dir(&secrets).unwrap();
    std::fs::write(secrets.join("corp"), "hunter2").unwrap();
    let mode = |path: &std::path::Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(&folder, 0o755);
    mode(&folder.join("bearerd.toml"), 0o644);
    mode(&secrets, 0o644);
    let mut check = command(&folder, &["check"]);
    // Root may enter every folder, and others perhaps not the one that the program is built in.
    if rustix::process::geteuid().is_root() {
        let program = folder.join("bearerd");
        crate::support::blocking::copy_program(env!("CARGO_BIN_EXE_bearerd"), &program);
        check = tokio::process::Command::new(program);
        check.arg("check").current_dir(&folder).uid(65534).gid(65534);
    }
    let output = check.output().await.unwrap();
    mode(&secrets, 0o755);
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    let wanted =
        format!("this user may not enter the folder {}: it needs the execute right", secrets.display());
    assert!(said.contains(&wanted), "{said}");
}

/// What `check` says in this folder, run by user and group 65532 where the test is root; else by the test's own user.
async fn checked_in_a_pod(setup: &Setup) -> String {
    let folder = setup.folder().to_owned();
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755)).unwrap();
    let program = folder.join("bearerd");
    crate::support::blocking::copy_program(env!("CARGO_BIN_EXE_bearerd"), &program);
    std::fs::set_permissions(folder.join("bearerd.toml"), std::fs::Permissions::from_mode(0o644)).unwrap();
    let mut check = tokio::process::Command::new(program);
    check.arg("check").current_dir(&folder);
    if rustix::process::geteuid().is_root() {
        check.uid(65532).gid(65532);
    }
    let output = check.output().await.unwrap();
    assert_eq!(output.status.code(), Some(0));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test]
async fn a_secrets_mode_is_warned_about_where_a_stricter_one_would_do() {
    let setup = Setup::new().await;
    setup.write();
    let secret = setup.folder().join("secret");
    let warning = "other users may read or write this secret";
    let mode = |mode| std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(mode)).unwrap();
    mode(0o640);
    let own = run(setup.folder(), &["check"]).await;
    assert!(own.stdout.contains(warning) && own.stdout.contains("`chmod 600 "), "{}", own.stdout);
    if !rustix::process::geteuid().is_root() {
        return;
    }
    // As the kubelet mounts a Secret with `fsGroup: 65532` and `defaultMode: 0440`.
    std::os::unix::fs::chown(&secret, Some(0), Some(65532)).unwrap();
    mode(0o440);
    let said = checked_in_a_pod(&setup).await;
    assert!(!said.contains(warning), "{said}");
    mode(0o444);
    let said = checked_in_a_pod(&setup).await;
    assert!(said.contains(warning) && said.contains("bearerd runs as user 65532: run `chmod 640 "), "{said}");
}

/// The mount of a Secret, as the kubelet makes it: a tmpfs with `..data`, files of root that everybody may read, mounted
/// read-only.
#[tokio::test]
#[ignore = "needs unshare"]
async fn the_kubelets_mount_of_a_secret_is_not_warned_about() {
    let setup = Setup::new().await.issuer("client_secret = { file = \"mounted/corp\" }");
    setup.write();
    std::fs::create_dir(setup.folder().join("mounted")).unwrap();
    let mount = "mount -t tmpfs tmpfs mounted && mkdir mounted/..1 && printf s3cr3t > mounted/..1/corp && \
                 chmod 444 mounted/..1/corp && ln -s ..1 mounted/..data && ln -s ..data/corp mounted/corp";
    for (then, warned) in [("true", true), ("mount -o remount,ro mounted", false)] {
        let script = format!("{mount} && {then} && {} check", env!("CARGO_BIN_EXE_bearerd"));
        let mut command = tokio::process::Command::new("unshare");
        command.args(["--mount", "--map-root-user", "sh", "-c", &script]).current_dir(setup.folder());
        let output = command.output().await;
        let output =
            output.expect("`unshare` is needed for this test: install it (Debian: apt install util-linux)");
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{said}");
        assert_eq!(said.contains("other users may read or write this secret"), warned, "{then}: {said}");
    }
}

/// Every `{ exec = … }` of a table of the recipes.
fn recipes() -> Vec<String> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/recipes");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let texts = files.map(|path| std::fs::read_to_string(path).unwrap()).collect::<Vec<_>>();
    let rows = texts.iter().flat_map(|text| text.lines()).filter(|line| line.starts_with("| "));
    let cells = rows.flat_map(|row| row.split('`')).filter(|cell| cell.starts_with("{ exec = "));
    cells.map(str::to_owned).collect()
}

#[tokio::test]
async fn recipes_fit_a_config_that_others_may_read() {
    let recipes = recipes();
    assert!(recipes.len() >= 7, "{recipes:?}");
    for recipe in recipes {
        let setup = Setup::new().await.issuer(&format!("client_secret = {recipe}"));
        let config = setup.write();
        std::fs::set_permissions(config, std::fs::Permissions::from_mode(0o644)).unwrap();
        let output = run(setup.folder(), &["check"]).await;
        output.expect_code(0);
        // The program, and the files of its variables, are not on this machine.
        let said = output.all();
        assert!(!said.contains("literal") && !said.contains("name of a file"), "{recipe}: {said}");
    }
}

#[tokio::test]
async fn a_literal_that_looks_like_a_secret_stays_out_of_a_readable_config() {
    for (variable, refused) in [
        ("PASSWORD_STORE_DIR = \"/var/lib/store\"", false),
        ("VAULT_TOKEN_FILE = \"/run/token\"", false),
        ("VAULT_TOKEN = \"hvs.x\"", true),
        ("SECRETS_URL = \"https://vault.internal\"", false),
        ("SECRETS_URL = \"https://user:word@vault.internal\"", true),
    ] {
        let keys = format!("client_secret = {{ exec = [\"true\"], env = {{ {variable} }} }}");
        let setup = Setup::new().await.issuer(&keys);
        let config = setup.write();
        std::fs::set_permissions(config, std::fs::Permissions::from_mode(0o644)).unwrap();
        let output = run(setup.folder(), &["check"]).await;
        output.expect_code(if refused { 78 } else { 0 });
        assert_eq!(output.all().contains("a secret as a literal"), refused, "{variable}: {}", output.all());
    }
}
