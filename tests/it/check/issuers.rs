//! What `check` says of issuers and of the store.

use super::checked;
use crate::support::Setup;

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
