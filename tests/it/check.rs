//! What `check` reports.

use std::os::unix::fs::PermissionsExt;

use crate::support::cli::{Output, command, run, run_with};
use crate::support::{Setup, World, eventually};

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
async fn scopes_that_a_preset_leaves_to_the_operator_are_asked_for() {
    let entra = "preset = \"entra\"\nvars = { tenant = \"acme\" }";
    for (keys, route, missing) in [
        (entra, "", Some("issuer.corp.scopes: is missing, and preset `entra` requires it: The API's")),
        (entra, "scopes = [\"api/.default\"]", None),
        (
            "preset = \"auth0\"\nvars = { domain = \"acme.eu.auth0.com\" }",
            "",
            Some("issuer.corp.params: is missing, and preset `auth0` requires it"),
        ),
    ] {
        let (_setup, output) = checked(Setup::new().await.issuer(keys).route(route)).await;
        output.expect_code(0);
        let said = output.all();
        match missing {
            Some(missing) => {
                assert!(said.contains(missing) && said.contains("here or in the route"), "{said}")
            }
            None => assert!(!said.contains("wants it"), "{said}"),
        }
    }
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
        let p12 = include_bytes!("fixtures/keys/ec-p256.modern.p12");
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

/// The table of an issuer and a route name its token alike.
#[tokio::test]
async fn what_the_token_of_another_issuer_lacks_is_said_where_it_is_used() {
    let inner = "[issuer.inner]\npreset = \"azure-managed-identity\"\n";
    for (table, at) in
        [("issuer", "issuer.corp.params.subject_token"), ("route", "route[0].params.subject_token")]
    {
        for (params, is_said) in [("", true), (", params = { resource = \"https://a\" }", false)] {
            let param = format!("params = {{ subject_token = {{ issuer = \"inner\"{params} }} }}");
            let setup = Setup::new().await.more(inner);
            let setup = if table == "issuer" { setup.issuer(&param) } else { setup.route(&param) };
            let (_setup, output) = checked(setup).await;
            output.expect_code(0);
            let said = output.all();
            let wanted = format!(
                "warning: {at}.params.resource: is missing, and preset `azure-managed-identity` requires it"
            );
            assert_eq!(said.contains(&wanted), is_said, "{at}: {said}");
            assert!(!said.contains("issuer.inner.params.resource"), "its own token is not used: {said}");
        }
    }
}

#[tokio::test]
async fn a_parameter_that_a_preset_requires_is_missed_where_no_table_gives_it() {
    let azure = "preset = \"azure-managed-identity\"";
    let audience = "issuer.corp.params.audience: is missing, and preset `gce-id-token` requires it";
    let resource = "issuer.corp.params.resource: is missing, and preset `azure-managed-identity` requires it";
    for (keys, route, wanted) in [
        (azure.to_owned(), "", Some(resource)),
        (format!("{azure}\nparams = {{ resource = \"https://a\" }}"), "", None),
        (format!("{azure}\nvars = {{ scope = \"https://a/.default\" }}"), "", None),
        (azure.to_owned(), "params = { resource = \"https://a\" }", None),
        ("preset = \"gce-id-token\"".to_owned(), "", Some(audience)),
        ("preset = \"gce-id-token\"".to_owned(), "params = { audience = \"https://a\" }", None),
        (
            "preset = \"openbao\"\nvars = { address = \"https://bao\", role = \"r\" }".to_owned(),
            "",
            Some("issuer.corp.headers.x-vault-token: is missing"),
        ),
        (
            format!(
                "{azure}\nvars = {{ scope = \"https://a/.default\" }}\nparams = {{ resource = \"https://b\" }}"
            ),
            "",
            Some("issuer.corp.params.resource: is used in place of `vars.scope`"),
        ),
        (
            format!(
                "{azure}\nvars = {{ scope = \"https://a/.default\" }}\nparams = {{ resource = \"https://a\" }}"
            ),
            "",
            None,
        ),
    ] {
        let keys = format!("# token_url\n# client_id\n# client_secret\n{keys}");
        let setup = Setup::new().await.issuer(&keys).route(route);
        let (_setup, output) = checked(setup).await;
        output.expect_code(0);
        let said = output.all();
        match wanted {
            Some(wanted) => assert!(said.contains(&format!(": warning: {wanted}")), "{said}"),
            None => assert!(!said.contains("issuer.corp.params"), "{said}"),
        }
    }
}

#[tokio::test]
async fn a_key_for_proofs_that_is_the_clients_too_is_a_warning() {
    let signed = "# client_secret\nclient_auth = \"private_key_jwt\"\nprivate_key = { file = \"key.pem\" }\n";
    let copy = format!("{signed}dpop = {{ private_key = {{ file = \"copy.pem\" }} }}");
    let setup = Setup::new().await.issuer(&copy);
    // The same key in two forms.
    setup.file("key.pem", crate::support::jwt::key("ec-p256.pkcs8.pem"));
    setup.file("copy.pem", crate::support::jwt::key("ec-p256.sec1.pem"));
    let (_setup, output) = checked(setup).await;
    output.expect_code(0);
    let said = output.all();
    assert!(
        said.contains("warning: issuer.corp.dpop.private_key: is the same key as `private_key`"),
        "{said}"
    );
}

#[tokio::test]
async fn a_key_of_the_store_that_is_there_twice_is_reported_in_its_place() {
    const HEX: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    const BASE64: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    let store = |keys: &str| format!("[store]\npath = \"tokens\"\nkeys = [\n{keys}\n]\n");
    let of = async |keys: &str| {
        let setup = Setup::new().await.more(&store(keys));
        setup.file("store.key", HEX);
        setup.file("old.key", BASE64);
        checked(setup).await.1
    };
    for keys in
        [format!("\"{HEX}\",\n\"{HEX}\""), "{ file = \"old.key\" },\n{ file = \"old.key\" }".to_owned()]
    {
        let output = of(&keys).await;
        output.expect_code(78);
        assert!(output.all().contains("error: store.keys[1]: is the same as keys[0]"), "{}", output.all());
    }
    for (keys, at, kind, other) in [
        ("{ file = \"store.key\" },\n{ file = \"old.key\" }".to_owned(), 1, "file ", 0),
        (format!("{{ file = \"store.key\" }},\n\"{BASE64}\""), 0, "file ", 1),
        (format!("\"{HEX}\",\n\"{BASE64}\""), 1, "", 0),
    ] {
        let output = of(&keys).await;
        output.expect_code(0);
        let said = output.all();
        let line =
            said.lines().find(|line| line.contains("is the same key")).unwrap_or_else(|| panic!("{said}"));
        assert!(line.contains(&format!("warning: store.keys[{at}]: {kind}")), "{line}");
        assert!(line.ends_with(&format!("is the same key as keys[{other}]")), "{line}");
        let place = line.split(' ').next().unwrap_or_default();
        assert_eq!(place.matches(':').count(), 3, "file:line:col: {line}");
    }
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
