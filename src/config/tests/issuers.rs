//! What is wrong with the ways to prove who asks: keys, JWTs, presets, webhooks.

use super::*;
use crate::config::{Carrier, Credential, Inject, IssuerConfig, JwtUse, ParamValue};

/// Keys of an issuer (token_url is given), what is wrong with them, and a part of the hint.
fn expect(rows: &[(&str, &str, &str, &str)]) {
    for (keys, key, message, hint) in rows {
        let found = lines_and_hints(&file(keys, ""));
        assert_eq!(found.len(), 1, "{keys}\n{found:#?}");
        let (found_key, found_message, found_hint) = &found[0];
        assert_eq!((found_key.as_str(), found_message.as_str()), (*key, *message), "{keys}");
        assert!(found_hint.contains(hint), "{keys}: {found_hint}");
    }
}

fn lines_and_hints(text: &str) -> Vec<(String, String, String)> {
    let problems = match load(text) {
        Ok(config) => config.warnings,
        Err(Problems(problems)) => problems,
    };
    let parts = |problem: &config::Problem| {
        (problem.key.clone(), problem.message.clone(), problem.hint.clone().unwrap_or_default())
    };
    problems.iter().map(parts).collect()
}

fn file(issuer: &str, route: &str) -> String {
    let url = if issuer.contains("preset") || issuer.contains("issuer_url") {
        ""
    } else {
        "token_url = \"https://idp/token\"\n"
    };
    format!(
        "[issuer.corp]\n{url}{issuer}\n[[route]]\nname = \"r\"\nissuer = \"corp\"\nupstream = \"https://h\"\n{route}\n"
    )
}

#[track_caller]
fn issuer(keys: &str) -> IssuerConfig {
    let config = load(&file(keys, "")).unwrap_or_else(|problems| panic!("{problems}"));
    IssuerConfig::clone(&config.issuers["corp"])
}

const KEY: &str = "private_key = { file = \"key.pem\" }";

#[test]
fn client_authentication() {
    expect(&[
        ("client_auth = \"private_key_jwt\"", "issuer.corp.private_key", "is missing", "key.pem"),
        (
            "client_auth = \"self_signed_tls_client_auth\"\nclient_id = \"a\"",
            "issuer.corp.client_auth",
            "\"self_signed_tls_client_auth\" is not one of \"client_secret_basic\", \"client_secret_post\", \
             \"client_secret_jwt\", \"private_key_jwt\", \"tls_client_auth\", \"assertion_file\", \"none\"",
            "which serves both",
        ),
        (
            "client_auth = \"tls_client_auth\"\nclient_id = \"a\"",
            "issuer.corp.certificate",
            "is missing, and tls_client_auth shows it to the issuer",
            "cert.pem",
        ),
        ("client_auth = \"assertion_file\"", "issuer.corp.assertion", "is missing", "tokens"),
        (
            "client_auth = \"none\"\nbasic_encoding = \"raw\"",
            "issuer.corp.basic_encoding",
            "is about HTTP Basic, but bearerd sends no Basic credentials",
            "client_secret_basic",
        ),
        (
            "client_auth = \"private_key_jwt\"\nclient_secret = { env = \"S\" }\nprivate_key = { file = \"k\" }",
            "issuer.corp.client_secret",
            "is not sent with client_auth = \"private_key_jwt\"",
            "leave out",
        ),
        (
            "client_id = \"a\"\nprivate_key = { file = \"k\" }",
            "issuer.corp.client_secret",
            "is missing",
            "client_auth = \"private_key_jwt\"",
        ),
        (
            "client_id = \"a\"\nclient_auth = \"client_secret_jwt\"",
            "issuer.corp.client_secret",
            "is missing",
            "",
        ),
        (
            "client_id = \"a\"\nclient_secret = { env = \"S\" }\njwt = { alg = \"RS256\" }",
            "issuer.corp.jwt",
            "describes a JWT, but bearerd makes none",
            "private_key_jwt",
        ),
        (
            "client_id = \"a\"\nclient_secret = { env = \"S\" }\nbasic = { user = \"u\", password = { env = \"P\" } }",
            "issuer.corp.basic",
            "client_secret_basic and `basic` would both send `authorization`",
            "2.3",
        ),
        (
            "client_id = \"a\"\nclient_secret = { env = \"S\" }\nstandby = {}",
            "issuer.corp.standby",
            "names no other credential",
            "",
        ),
        (
            "client_id = \"a\"\nclient_secret = { env = \"S\" }\nstandby = { client_secret = { env = \"T\" }, private_key = { env = \"K\" } }",
            "issuer.corp.standby.private_key",
            "is not used with client_auth = \"client_secret_basic\"",
            "",
        ),
        (
            "client_auth = \"none\"\ndpop = { alg = \"ES256\" }",
            "issuer.corp.dpop.private_key",
            "is missing",
            "",
        ),
    ]);
}

#[test]
fn tokens_that_are_signed_here() {
    expect(&[
        (
            "client_auth = \"private_key_jwt\"\nprivate_key = { file = \"k\" }\njwt = { alg = \"HS256\" }",
            "issuer.corp.jwt.alg",
            "\"HS256\" signs with a shared secret, but this is about a private key",
            "RS256",
        ),
        (
            "client_auth = \"private_key_jwt\"\nprivate_key = { file = \"k\" }\njwt = { alg = \"rs256\" }",
            "issuer.corp.jwt.alg",
            "\"rs256\" is not one of \"HS256\", \"HS384\", \"HS512\", \"RS256\", \"RS384\", \"RS512\", \"PS256\", \"PS384\", \
             \"PS512\", \"ES256\", \"ES384\", \"ES512\", \"EdDSA\", \"Ed25519\"",
            "",
        ),
        (
            "private_key = { file = \"k\" }\njwt = { use = \"assertion\", claims = { exp = 1 } }",
            "issuer.corp.jwt.claims.exp",
            "is set already",
            "lifetime",
        ),
        (
            "private_key = { file = \"k\" }\njwt = { use = \"assertion\", lifetime = \"10ms\" }",
            "issuer.corp.jwt.lifetime",
            "must be at least \"10s\"",
            "",
        ),
        (
            "private_key = { file = \"k\" }\nassertion = { file = \"a\" }\njwt = { use = \"assertion\" }",
            "issuer.corp.assertion",
            "cannot be combined with jwt.use = \"assertion\"",
            "",
        ),
        (
            "private_key = { file = \"k\" }\njwt = { use = \"bearer\", certificate_headers = [\"x5u\"] }",
            "issuer.corp.jwt.certificate_headers[0]",
            "\"x5u\" is not one of \"x5t\", \"x5t#S256\", \"x5c\"",
            "",
        ),
        (
            "client_auth = \"private_key_jwt\"\nprivate_key = { file = \"k\" }\njwt = { use = \"berer\" }",
            "issuer.corp.jwt.use",
            "\"berer\" is not one of \"client_assertion\", \"assertion\", \"bearer\"",
            "did you mean `bearer`?",
        ),
    ]);
}

#[test]
fn carriers() {
    let id = "client_id = \"a\"\nclient_secret = { env = \"S\" }\n";
    let row = |keys: &str| format!("{id}{keys}");
    let get = row("method = \"GET\"\nbody = \"json\"");
    let table = row("params = { permissions = { contents = \"read\" } }");
    let nested = row("params = { a = [[1]] }");
    let scope = row("params = { scope = \"a\" }");
    expect(&[
        (&get, "issuer.corp.body", "a GET has no body", "query"),
        (&table, "issuer.corp.params.permissions", "is a table, which only a JSON body can hold", "json"),
        (&nested, "issuer.corp.params.a", "an array or a table in an array can only be sent as JSON", "json"),
        (&scope, "issuer.corp.params.scope", "has its own key", "scopes"),
    ]);
    assert_eq!(issuer(&row("method = \"GET\"")).carrier, Carrier::Get);
    assert_eq!(issuer(&row("body = \"query\"")).carrier, Carrier::Query);
    assert_eq!(issuer(&row("grant_type = \"\"")).grant_type, None);
    assert_eq!(issuer(&row("grant_type = \"delegation\"")).grant_type.as_deref(), Some("delegation"));
    let json = issuer(&row(
        "body = \"json\"\nparams = { p = { contents = \"read\" }, r = [[1, true]], f = { file = \"f\" } }",
    ));
    assert!(matches!(&json.params["p"], ParamValue::Table(members) if members.len() == 1));
    assert!(matches!(&json.params["r"], ParamValue::Array(items) if items.len() == 1));
    assert!(matches!(&json.params["f"], ParamValue::Value(source) if !source.is_literal()));
    assert!(issuer(&row("params = { scope = \"\" }")).params.contains_key("scope"));
}

#[test]
fn defaults_follow_what_the_jwt_is_for() {
    let grant = issuer(&format!("{KEY}\njwt = {{ use = \"assertion\" }}"));
    assert_eq!(grant.grant_type.as_deref(), Some("urn:ietf:params:oauth:grant-type:jwt-bearer"));
    assert_eq!(grant.client_auth.as_str(), "none");
    assert_eq!(grant.jwt.as_ref().map(|jwt| jwt.usage), Some(JwtUse::Assertion));
    let assertion = issuer(&format!("client_auth = \"private_key_jwt\"\n{KEY}"));
    assert_eq!(assertion.jwt.as_ref().map(|jwt| jwt.lifetime.as_secs()), Some(60));
    assert!(assertion.jwt.is_some_and(|jwt| jwt.certificate_headers.is_empty()));
    let certified =
        issuer(&format!("client_auth = \"private_key_jwt\"\n{KEY}\ncertificate = {{ file = \"c.pem\" }}"));
    assert_eq!(certified.jwt.map(|jwt| jwt.certificate_headers.len()), Some(1));
    let tls = issuer(
        "client_auth = \"tls_client_auth\"\nclient_id = \"a\"\ncertificate = { file = \"both.p12\", password = { env = \"P\" } }",
    );
    assert_eq!(tls.tls.certificate, tls.tls.private_key);
    assert!(tls.tls.private_key.is_some_and(|source| source.password().is_some()));
    let bound = issuer("client_auth = \"none\"\ndpop = { private_key = { file = \"d.pem\" } }");
    assert_eq!(bound.response.token_types, ["dpop"]);
}

#[test]
fn a_route_says_where_the_token_goes_and_for_whom() {
    let key = format!("client_auth = \"private_key_jwt\"\n{KEY}");
    let config = load(&file(&key, "subject = \"someone\"\ninject = { query = \"access_token\" }")).unwrap();
    let Credential::Issuer { key, .. } = &config.routes[0].credential else { panic!() };
    assert_eq!(key.subject.as_deref(), Some("someone"));
    assert_eq!(config.routes[0].inject, Inject::Query { name: "access_token".to_owned() });

    let secret = "client_id = \"a\"\nclient_secret = { env = \"S\" }";
    let found = lines_and_hints(&file(secret, "subject = \"someone\""));
    assert_eq!(found[0].0, "route[0].subject");
    let found = lines_and_hints(&file(secret, "inject = { query = \"t\", header = \"x\" }"));
    assert_eq!(found[0].0, "route[0].inject.header");
    let bound = format!("{secret}\ndpop = {{ private_key = {{ file = \"d.pem\" }} }}");
    let found = lines_and_hints(&file(&bound, "inject = { query = \"t\" }"));
    assert_eq!(found[0].0, "route[0].inject.query");
}

#[test]
fn presets_are_laid_under_what_is_written() {
    let keys = "preset = \"keycloak\"\nvars = { base_url = \"https://idp/\", realm = \"acme\" }\nclient_id = \"a\"\nclient_secret = { env = \"S\" }";
    let plain = issuer(keys);
    let config::TokenEndpoint::Url(url) = &plain.endpoint else { panic!() };
    assert_eq!(url.text, "https://idp/realms/acme/protocol/openid-connect/token");
    assert_eq!(plain.client_auth.as_str(), "client_secret_post");
    assert_eq!(plain.preset.as_deref(), Some("keycloak"));
    let own = issuer(&format!(
        "{keys}\nclient_auth = \"client_secret_basic\"\nissuer_url = \"https://idp/realms/acme\""
    ));
    assert_eq!(own.client_auth.as_str(), "client_secret_basic");
    assert!(matches!(own.endpoint, config::TokenEndpoint::Discovery(_)));
    assert_ne!(own.digest, plain.digest);
    // A var that only an overridden value needs is not asked for.
    issuer(
        "preset = \"keycloak\"\ntoken_url = \"https://idp/t\"\nclient_id = \"a\"\nclient_secret = { env = \"S\" }",
    );
}

#[test]
fn presets_and_vars_that_are_not_there() {
    let secret = "client_id = \"a\"\nclient_secret = { env = \"S\" }";
    let row = |keys: &str| format!("{keys}\n{secret}");
    let unknown = row("preset = \"keyclock\"\ntoken_url = \"https://idp/t\"");
    let missing = row("preset = \"keycloak\"\nvars = { base_url = \"https://idp\" }");
    let other =
        row("preset = \"keycloak\"\nvars = { base_url = \"https://idp\", realm = \"a\", realn = \"b\" }");
    let number = row("preset = \"keycloak\"\nvars = { base_url = \"https://idp\", realm = true }");
    let gone =
        row("preset = \"keycloak\"\nvars = { base_url = { env = \"BEARERD_TEST_NOT_SET\" }, realm = \"a\" }");
    let alone = format!("vars = {{ a = \"b\" }}\n{secret}");
    expect(&[
        (&unknown, "issuer.corp.preset", "there is no preset \"keyclock\"", "did you mean `keycloak`?"),
        (
            &missing,
            "issuer.corp.vars.realm",
            "is missing, and preset `keycloak` needs it: Realm settings > General > Realm name",
            "vars = { realm = \"acme\" }",
        ),
        (&other, "issuer.corp.vars.realn", "is not a var of this preset", "did you mean `realm`?"),
        (
            &number,
            "issuer.corp.vars.realm",
            "expected a string, a number, { file = \"…\" } or { env = \"…\" }, found true",
            "",
        ),
        (
            &gone,
            "issuer.corp.vars.base_url",
            "environment variable BEARERD_TEST_NOT_SET: is not set",
            "at start",
        ),
        (&alone, "issuer.corp.vars", "are for a preset, but no preset is named", "bearerd init"),
    ]);
}

#[test]
fn a_var_that_is_a_host_is_taken_out_of_a_url_and_holds_nothing_else() {
    let secret = "client_id = \"a\"\nclient_secret = { env = \"S\" }";
    for written in ["acme.zitadel.cloud", "https://acme.zitadel.cloud", "https://ACME.zitadel.cloud/"] {
        let issuer = issuer(&format!("preset = \"zitadel\"\nvars = {{ domain = \"{written}\" }}\n{secret}"));
        let config::TokenEndpoint::Url(url) = &issuer.endpoint else { panic!() };
        assert_eq!(url.text, "https://acme.zitadel.cloud/oauth/v2/token");
    }
    for wrong in ["acme.zitadel.cloud/path", "a.b?x=", "http://a.b", "u@a.b", "a b", "https://", "ä.b"] {
        let keys = format!("preset = \"zitadel\"\nvars = {{ domain = \"{wrong}\" }}\n{secret}");
        expect(&[(&keys, "issuer.corp.vars.domain", "is not a host name", "acme-x1y2z3.zitadel.cloud")]);
    }
}

#[test]
fn what_would_do_nothing_is_refused() {
    let shared = "client_auth = \"client_secret_jwt\"\nclient_id = \"a\"\nclient_secret = { env = \"S\" }";
    let certified = format!("{shared}\ncertificate = {{ file = \"c.pem\" }}");
    let headers = format!("{shared}\njwt = {{ certificate_headers = [\"x5c\"] }}");
    let unnamed = format!(
        "client_auth = \"private_key_jwt\"\n{KEY}\ncertificate = {{ file = \"c.pem\" }}\njwt = {{ certificate_headers = [] }}"
    );
    let password = "client_id = \"a\"\nclient_secret = { file = \"s\", password = { env = \"P\" } }";
    expect(&[
        (&certified, "issuer.corp.certificate", "is not used with client_secret_jwt", "private_key_jwt"),
        (
            &headers,
            "issuer.corp.jwt.certificate_headers",
            "is about the certificate of a private key, but client_secret_jwt has none",
            "leave it out",
        ),
        (
            &unnamed,
            "issuer.corp.certificate",
            "is not used: jwt.certificate_headers names no header for it",
            "x5t#S256",
        ),
        (
            password,
            "issuer.corp.client_secret.password",
            "is for keys and certificates in PKCS#12, and this is neither",
            "leave it out",
        ),
    ]);
    // Each of these may be PKCS#12.
    let pkcs12 = "{ file = \"a.p12\", password = { env = \"P\" } }";
    issuer(&format!(
        "client_auth = \"private_key_jwt\"\nprivate_key = {pkcs12}\ncertificate = {pkcs12}\ndpop = {{ private_key = {{ file = \"d.p12\", password = {{ env = \"P\" }} }} }}\nstandby = {{ private_key = {pkcs12}, certificate = {pkcs12} }}\ntls = {{ certificate = {pkcs12}, private_key = {pkcs12} }}"
    ));
}

#[test]
fn no_var_turns_a_presets_url_to_another_host() {
    let row = |preset: &str, vars: &str| {
        format!(
            "preset = \"{preset}\"\nvars = {{ {vars} }}\nclient_id = \"a\"\nclient_secret = {{ env = \"S\" }}"
        )
    };
    let domain = row("cognito", "domain = \"canary.example/x\", region = \"eu-central-1\"");
    let realm = row("keycloak", "base_url = \"https://idp\", realm = \"a/../../canary\"");
    expect(&[
        (&domain, "issuer.corp.vars.domain", "is not a host name", ""),
        (
            &realm,
            "issuer.corp.vars.realm",
            "becomes part of a path: without `?`, `#`, `@`, `\\` and segments of dots",
            "",
        ),
    ]);
}

#[test]
fn a_var_that_needs_percent_encoding_is_the_only_error_reported() {
    for realm in ["my realm", "Köln", "<acme>", "a?b"] {
        let keys =
            format!("preset = \"keycloak\"\nvars = {{ base_url = \"https://idp\", realm = \"{realm}\" }}");
        let secret = "client_id = \"a\"\nclient_secret = { env = \"S\" }";
        let found = lines_and_hints(&file(&format!("{keys}\n{secret}"), ""));
        assert_eq!(found.len(), 1, "{realm}: {found:#?}");
        assert_eq!(found[0].0, "issuer.corp.vars.realm", "{realm}");
        let encode = realm != "a?b";
        assert_eq!(found[0].2.contains("percent-encode it: a space is %20"), encode, "{realm}: {found:#?}");
    }
}

#[test]
fn an_unknown_preset_is_the_only_error_reported() {
    let keys = "preset = \"keyclock\"\nvars = { realm = \"acme\" }";
    let found = lines_and_hints(&file(keys, ""));
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!(found[0].0, "issuer.corp.preset");
}

#[test]
fn vars_that_make_no_url_are_reported_at_the_vars() {
    let secret = "client_id = \"a\"\nclient_secret = { env = \"S\" }";
    let keycloak =
        "do not fit into the preset's token_url \"{base_url}/realms/{realm}/protocol/openid-connect/token\"";
    let entra =
        "do not fit into the preset's token_url \"https://{authority_host}/{tenant}/oauth2/v2.0/token\"";
    for (keys, message, reason, hint) in [
        (
            "preset = \"keycloak\"\nvars = { base_url = \"idp.example.com\", realm = \"acme\" }",
            keycloak,
            "is not an absolute URL",
            "base_url = \"https://idp.example.com\", realm = ",
        ),
        (
            "preset = \"entra\"\nvars = { tenant = \"https://login.microsoftonline.com/acme\" }",
            entra,
            "it contains a whole URL",
            "vars = { tenant = \"contoso",
        ),
    ] {
        let found = lines_and_hints(&file(&format!("{keys}\n{secret}"), ""));
        assert_eq!(found.len(), 1, "{keys}\n{found:#?}");
        let (key, said, help) = &found[0];
        assert_eq!(key, "issuer.corp.vars", "{keys}");
        assert!(said.starts_with(message) && said.contains(reason), "{keys}: {said}");
        assert!(help.contains(hint), "{keys}: {help}");
    }
    let empty = "preset = \"keycloak\"\nvars = { base_url = \"https://idp\", realm = \" \" }";
    let empty = format!("{empty}\n{secret}");
    expect(&[(
        &empty,
        "issuer.corp.vars.realm",
        "is empty or contains a control character",
        "realm = \"acme\"",
    )]);
}

const WEBHOOK: &str = "[webhook.seismic]\naddress = \"127.0.0.1:9181\"\npath = \"/s\"\nsignature_header = \"x-sig\"\n\
     secrets = [{ file = \"a\" }]\nvalue = \"/id\"\nstore = \"seismic.json\"\n";

#[test]
fn webhooks() {
    let issuer = "client_id = \"a\"\nclient_secret = { env = \"S\" }\nparams = { user_id = { webhook = \"seismic\" } }";
    let good = format!("{}{WEBHOOK}", file(issuer, ""));
    let config = load(&good).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(config.webhooks[0].store, PathBuf::from("/etc/bearerd/seismic.json"));
    let ParamValue::Value(source) = &config.issuers["corp"].params["user_id"] else { panic!() };
    assert_eq!(source.learned_by(), Some("seismic"));
    assert!(config::referenced_files(&config).contains(&PathBuf::from("/etc/bearerd/seismic.json")));

    for (from, to, key, message) in [
        ("127.0.0.1:9181", "[::]:8080", "webhook.seismic.address", "overlaps that of listener `main`"),
        ("9181", "8080", "webhook.seismic.address", "is the same as that of listener `main`"),
        ("\"/s\"", "\"s\"", "webhook.seismic.path", "is not the path of a request"),
        ("[{ file = \"a\" }]", "[]", "webhook.seismic.secrets", "names no secret, so nobody could sign"),
        ("\"/id\"", "\"id\"", "webhook.seismic.value", "\"id\" is not a JSON pointer"),
        ("store = \"seismic.json\"", "", "webhook.seismic.store", "is missing"),
        ("value", "valeu", "webhook.seismic.valeu", "unknown key"),
        (
            "[webhook.seismic]",
            "[webhook.other]",
            "issuer.corp.params.user_id.webhook",
            "there is no webhook \"seismic\"",
        ),
    ] {
        let found = lines_and_hints(&good.replace(from, to));
        assert!(
            found.iter().any(|(at, words, _)| at == key && words == message),
            "{from} -> {to}: {found:#?}"
        );
    }
}

#[test]
fn a_webhook_that_is_not_there_is_reported_with_its_name() {
    let issuer =
        "preset = \"seismic\"\nvars = { tenant = \"a\" }\nclient_id = \"a\"\nclient_secret = { env = \"S\" }";
    expect(&[(
        issuer,
        "issuer.corp.params.user_id.webhook",
        "there is no webhook \"seismic\"",
        "[webhook.seismic]",
    )]);
}

const OPEN: &str = "client_auth = \"none\"\n";

/// The endpoint of an issuer with these keys, and the way there.
fn endpoint_of(keys: &str) -> (String, bool) {
    let issuer = issuer(&format!("{OPEN}{keys}"));
    let config::TokenEndpoint::Url(url) = issuer.endpoint else { panic!("no token_url") };
    (url.text, issuer.egress == config::Egress::Direct)
}

fn with_endpoint(url: &str) -> String {
    file(OPEN, "").replace("https://idp/token", url)
}

#[test]
fn plain_http_goes_to_metadata_services_and_nowhere_else() {
    for near in [
        "http://169.254.169.254/t",
        "http://169.254.1.2:8081/t",
        "http://[fe80::1]/t",
        "http://[::ffff:169.254.169.254]/t",
        "http://metadata.google.internal/t",
        "http://METADATA.google.internal:80/t",
    ] {
        load(&with_endpoint(near)).unwrap_or_else(|problems| panic!("{near}: {problems}"));
    }
    for far in [
        "http://169.253.0.1/t",
        "http://169.254.169.254.example/t",
        "http://metadata.google.internal.example/t",
        "http://metadata/t",
        "http://metadata.google.internal./t",
        "http://[fd00:ec2::254]/t",
        "http://[fec0::1]/t",
        "http://100.100.100.200/t",
        "http://10.0.0.1/t",
    ] {
        let Err(problems) = load(&with_endpoint(far)) else { panic!("{far}") };
        assert!(problems.to_string().contains("http:// would send"), "{far}: {problems}");
    }
    let discovery = with_endpoint("http://169.254.169.254").replace("token_url", "issuer_url");
    let Err(problems) = load(&discovery) else { panic!("a metadata service has no discovery document") };
    assert!(problems.to_string().contains("http:// would send"), "{problems}");
}

#[test]
fn no_proxy_leads_to_a_metadata_service() {
    for preset in ["azure-managed-identity", "gce", "gce-id-token"] {
        let keys = format!("preset = \"{preset}\"\nparams = {{ resource = \"r\", audience = \"a\" }}\n");
        let found = lines_and_hints(&file(&format!("{keys}proxy = \"http://egress:3128\""), ""));
        let (key, message, hint) = &found[0];
        assert_eq!((found.len(), key.as_str()), (1, "issuer.corp.proxy"), "{preset}");
        assert_eq!(message, "a proxy would ask the metadata service of its own machine");
        assert!(hint.contains("leave `proxy` out"), "{hint}");
        assert_eq!(issuer(&format!("{keys}proxy = \"env\"")).egress, config::Egress::Direct, "{preset}");
    }
    let other = format!("{OPEN}proxy = \"env\"");
    assert_eq!(issuer(&other).egress, config::Egress::Env, "other issuers are reached as ever");
}

#[test]
fn presets_of_metadata_services_know_the_address() {
    for (preset, url) in [
        ("azure-managed-identity", "http://169.254.169.254/metadata/identity/oauth2/token"),
        ("azure-arc", "http://localhost:40342/metadata/identity/oauth2/token"),
        ("gce", "http://metadata.google.internal/computeMetadata/v1/instance/service-accounts/default/token"),
        (
            "gce-id-token",
            "http://metadata.google.internal/computeMetadata/v1/instance/service-accounts/default/identity",
        ),
    ] {
        let keys = format!("preset = \"{preset}\"\nparams = {{ resource = \"r\", audience = \"a\" }}");
        assert_eq!(endpoint_of(&keys), (url.to_owned(), true));
    }
    let elsewhere = "preset = \"gce\"\nvars = { metadata_host = \"metadata.example.com\" }";
    let found = lines_and_hints(&file(elsewhere, ""));
    assert!(found[0].1.contains("http:// would send"), "{found:?}");
    for bad in ["evil@169.254.169.254", "169.254.169.254/x", "a b"] {
        let keys = format!("preset = \"gce\"\nvars = {{ metadata_host = \"{bad}\" }}");
        assert_eq!(lines_and_hints(&file(&keys, ""))[0].0, "issuer.corp.vars.metadata_host", "{bad}");
    }
}

#[test]
fn a_var_that_the_platform_sets_is_asked_for_by_its_name() {
    // No test sets variables of this process; tests/it does so for the program's.
    let found = lines_and_hints(&file("preset = \"azure-app-service\"", ""));
    assert_eq!(found[0].0, "issuer.corp.vars.endpoint", "{found:?}");
    assert!(found[0].2.contains("set IDENTITY_ENDPOINT where bearerd is started"), "{found:?}");
    let key = issuer("preset = \"gce-default\"\nscopes = [\"s\"]").private_key.unwrap();
    assert_eq!(key.path().unwrap().to_str(), Some("/etc/google/auth/application_default_credentials.json"));
}

#[test]
fn a_bare_token_has_no_members_and_a_challenge_needs_the_header_field() {
    let twice = "would both send `authorization`";
    expect(&[
        (
            "client_auth = \"none\"\nresponse = { format = \"text\", token = \"/t\" }",
            "issuer.corp.response.token",
            "points into JSON or a form, but with format = \"text\" the whole body is the token",
            "expires_at = \"jwt\"",
        ),
        (
            "client_auth = \"none\"\nresponse = { format = \"text\", expires_at = \"/exp\" }",
            "issuer.corp.response.expires_at",
            "points into JSON or a form, but with format = \"text\" the whole body is the token",
            "leave one of them out",
        ),
        (
            "client_auth = \"none\"\nresponse = { expires_at = \"JWT\" }",
            "issuer.corp.response.expires_at",
            "\"JWT\" is not a JSON pointer",
            "",
        ),
        (
            "client_auth = \"none\"\nresponse = { require_headers = { \"a b\" = \"x\" } }",
            "issuer.corp.response.require_headers.\"a b\"",
            "is not the name of a header field",
            "",
        ),
        (
            "client_id = \"a\"\nclient_secret = { env = \"S\" }\nchallenge_folder = \"/keys\"",
            "issuer.corp.challenge_folder",
            &format!("client_secret_basic and `challenge_folder` {twice}"),
            "one way to authenticate",
        ),
    ]);
    let text =
        issuer("client_auth = \"none\"\nresponse = { format = \"text\", expires_at = \"jwt\" }").response;
    assert_eq!((text.token.as_str(), text.expires_at), ("", config::ExpiresAt::OwnExp));
}
