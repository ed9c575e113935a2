//! `bearerd init`.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::cli::{run, run_with};
use crate::support::{RawResponse, Scripted};

async fn presets(folder: &Path) -> Vec<Value> {
    let output = run(folder, &["init", "--output", "json"]).await;
    output.expect_code(0);
    output.json()["presets"].as_array().unwrap().clone()
}

#[tokio::test]
async fn without_a_preset_lists_each_with_its_vars_and_how_to_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(folder.path(), &["init"]).await;
    output.expect_code(0);
    let presets = presets(folder.path()).await;
    assert!(presets.iter().any(|preset| preset["name"] == "keycloak"));
    for preset in &presets {
        let begins = format!("{} ", preset["name"].as_str().unwrap());
        let line = output.stdout.lines().find(|line| line.starts_with(&begins)).unwrap();
        for wanted in
            preset["vars"].as_array().unwrap().iter().map(|var| &var["name"]).chain([&preset["title"]])
        {
            assert!(line.contains(wanted.as_str().unwrap()), "{wanted} in {line}");
        }
    }
    assert!(output.stdout.contains("bearerd init NAME") && output.stderr.is_empty(), "{}", output.all());
}

#[tokio::test]
async fn every_presets_config_passes_check_as_it_was_printed() {
    let folder = tempfile::tempdir().unwrap();
    for preset in presets(folder.path()).await {
        let name = preset["name"].as_str().unwrap();
        let printed = run(folder.path(), &["init", name]).await;
        printed.expect_code(0);
        let file = folder.path().join("bearerd.toml");
        std::fs::write(&file, &printed.stdout).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        // Where a value comes from the platform's environment, it must be there.
        let vars = preset["vars"].as_array().unwrap();
        let of_platform = vars.iter().filter(|var| var["default"].is_null());
        let env: Vec<_> =
            of_platform.filter_map(|var| Some((var["env"].as_str()?, var["example"].as_str()?))).collect();
        let checked = run_with(folder.path(), &["check", "--output", "json"], &env).await;
        assert_eq!(checked.code, 0, "{name}: {}\n{}", checked.all(), printed.stdout);
        let said = checked.json();
        // Some presets need the token of another issuer.
        let issuers = printed.stdout.lines().filter(|line| line.starts_with("[issuer.")).count();
        assert_eq!(
            (&said["ok"], &said["issuers"]),
            (&Value::Bool(true), &Value::from(issuers)),
            "{name}: {said}"
        );
        assert!(issuers > 0, "{name}");
    }
}

#[tokio::test]
async fn says_of_each_value_where_it_is_found() {
    let folder = tempfile::tempdir().unwrap();
    for preset in presets(folder.path()).await {
        let name = preset["name"].as_str().unwrap();
        let printed = run(folder.path(), &["init", name]).await.stdout;
        // Comments are wrapped, so that lines say nothing here.
        let words = |text: &str| text.replace('#', " ").split_whitespace().collect::<Vec<_>>().join(" ");
        let (all, of) = (words(&printed), |key: &str| preset[key].as_array().unwrap().clone());
        for told in [of("vars"), of("needs"), of("options")].concat() {
            let about = told["about"].as_str().unwrap();
            assert!(!about.is_empty() && all.contains(&words(about)), "{name}: {about} in {printed}");
        }
        for wanted in [&format!("preset = \"{name}\""), "[listener.main]", "[[route]]"] {
            assert!(printed.contains(wanted), "{wanted} in {printed}");
        }
        for key in of("needs") {
            assert!(printed.contains(&format!("\n{} = ", key["key"].as_str().unwrap())), "{printed}");
        }
        for key in of("options") {
            assert!(printed.contains(&format!("\n# {} = ", key["key"].as_str().unwrap())), "{printed}");
        }
    }
}

#[tokio::test]
async fn json_holds_the_same_config() {
    let folder = tempfile::tempdir().unwrap();
    let text = run(folder.path(), &["init", "keycloak"]).await.stdout;
    let json = run(folder.path(), &["init", "keycloak", "--output", "json"]).await.json();
    assert_eq!(json["config"].as_str().unwrap().trim_end(), text.trim_end());
    assert_eq!(json["preset"], "keycloak");
}

#[tokio::test]
async fn an_unknown_preset_is_64_with_the_nearest() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(folder.path(), &["init", "keycloack"]).await;
    output.expect_code(64);
    assert_eq!(output.stdout, "");
    assert!(output.stderr.contains("did you mean `keycloak`?"), "{}", output.stderr);
}

async fn checked(folder: &Path, printed: &str) -> Value {
    let file = folder.join("bearerd.toml");
    std::fs::write(&file, printed).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let checked = run(folder, &["check", "--output", "json"]).await;
    assert_eq!(checked.code, 0, "{}\n{printed}", checked.all());
    checked.json()
}

#[tokio::test]
async fn generic_is_a_config_for_any_issuer() {
    let folder = tempfile::tempdir().unwrap();
    let printed = run(folder.path(), &["init", "generic"]).await;
    printed.expect_code(0);
    for method in ["client_secret_basic", "client_secret_post", "private_key_jwt", "tls_client_auth"] {
        assert!(printed.stdout.contains(&format!("client_auth = \"{method}\"")), "{}", printed.stdout);
    }
    checked(folder.path(), &printed.stdout).await;
    for written in ["oauth2", "oidc", "OAuth"] {
        let refused = run(folder.path(), &["init", written]).await;
        refused.expect_code(64);
        assert!(refused.stderr.contains("did you mean `generic`?"), "{}", refused.stderr);
    }
}

/// An issuer that says this of itself, with its own URL.
async fn issuer_that_says(mut said: Value) -> (Scripted, String) {
    let issuer = Scripted::issuer().await;
    let url = issuer.url.clone();
    said["issuer"] = Value::from(url.as_str());
    said["token_endpoint"] = Value::from(format!("{url}/token"));
    issuer.always(move |request, _| match request.target() {
        "/.well-known/openid-configuration" => RawResponse::json(&said),
        _ => RawResponse::status(404),
    });
    (issuer, url)
}

#[tokio::test]
async fn an_issuers_document_makes_a_config_with_what_it_takes() {
    let folder = tempfile::tempdir().unwrap();
    let said = json!({
        "token_endpoint_auth_methods_supported": ["private_key_jwt", "client_secret_post", "magic"],
        "token_endpoint_auth_signing_alg_values_supported": ["ES256", "PS256"],
        "scopes_supported": ["billing.read", "billing.write"],
        "grant_types_supported": ["authorization_code"],
        "dpop_signing_alg_values_supported": ["ES256"],
    });
    let (issuer, url) = issuer_that_says(said).await;
    let printed = run(folder.path(), &["init", "--issuer-url", &url]).await;
    printed.expect_code(0);
    let text = &printed.stdout;
    assert!(text.contains(&format!("\nissuer_url = \"{url}\"\n")), "{text}");
    assert!(text.contains("\nclient_auth = \"client_secret_post\"\n"), "what most have, first: {text}");
    assert!(text.contains("\n# client_auth = \"private_key_jwt\"\n"), "{text}");
    for wanted in ["ES256, PS256", "billing.read, billing.write", "does not list the grant", "# dpop = "] {
        assert!(text.contains(wanted), "{wanted} in {text}");
    }
    assert!(!text.contains("client_secret_basic") && !text.contains("magic"), "{text}");
    checked(folder.path(), text).await;
    assert_eq!(issuer.count(), 1, "nothing but its document is asked for");
}

#[tokio::test]
async fn an_issuer_without_a_document_is_reported_with_the_way_on() {
    let folder = tempfile::tempdir().unwrap();
    let issuer = Scripted::issuer().await;
    issuer.always_this(RawResponse::status(404));
    let printed = run(folder.path(), &["init", "--issuer-url", &issuer.url]).await;
    printed.expect_code(1);
    assert!(printed.stdout.is_empty(), "{}", printed.all());
    assert!(
        printed.stderr.contains("404") && printed.stderr.contains("bearerd init generic"),
        "{}",
        printed.stderr
    );
    let printed = run(folder.path(), &["init", "--issuer-url", "http://idp.example.com"]).await;
    printed.expect_code(64);
    assert!(
        printed.stderr.contains("--issuer-url: ") && printed.stderr.contains("https://"),
        "{}",
        printed.stderr
    );
}
