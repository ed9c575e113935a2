use futures_util::FutureExt as _;
use std::collections::BTreeMap;

use http_body_util::BodyExt;

use super::*;
use crate::config::client_auth::{
    AssertionFile, ClientAuth, ClientSecretBasic, ClientSecretPost, NoProof, TlsClientAuth,
};
use crate::config::files::write_settled;
use crate::config::{BasicUser, ParamValue, Scopes, Source};
use crate::issuer::credential::{ClientCredential, WhichCredential};
use crate::issuer::fuzz;
use crate::issuer::inputs::NotReady;
use crate::issuer::keys::KeyCache;

fn pairs() -> Vec<(String, Value)> {
    let table = Value::Table(vec![("b".to_owned(), Value::text("\"x\""))]);
    [
        ("account_id", Value::Bare("12345".to_owned())),
        ("ratio", Value::Bare("1.50".to_owned())),
        ("odd", Value::Bare("+1_000.5".to_owned())),
        ("strict", Value::Bare("true".to_owned())),
        ("number as text", Value::text("7")),
        ("list", Value::Array(vec![Value::text("a b"), Value::Bare("2".to_owned())])),
        ("t", table),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

#[test]
fn json_keeps_types_and_order() {
    let text = json_body(&pairs()).unwrap();
    assert_eq!(
        text.expose_str().unwrap(),
        r#"{"account_id":12345,"ratio":1.50,"odd":1000.5,"strict":true,"number as text":"7","list":["a b",2],"t":{"b":"\"x\""}}"#
    );
    assert_eq!(json_body(&[]).unwrap(), Secret::from("{}"));
}

#[test]
fn a_form_repeats_arrays_and_writes_tables_as_json() {
    assert_eq!(
        form_body("", &pairs()).unwrap().expose_str().unwrap(),
        "account_id=12345&ratio=1.50&odd=%2B1_000.5&strict=true&number+as+text=7&list=a+b&list=2\
         &t=%7B%22b%22%3A%22%5C%22x%5C%22%22%7D"
    );
}

#[test]
fn a_query_is_added_to() {
    let pairs = [("a".to_owned(), Value::text("1"))];
    for (before, after) in
        [("/t?", "/t?a=1"), ("/t?x=y", "/t?x=y&a=1"), ("/t?x=y&", "/t?x=y&a=1"), ("", "a=1")]
    {
        assert_eq!(form_body(before, &pairs).unwrap(), Secret::from(after));
    }
    assert_eq!(form_body("/t?x", &[]).unwrap(), Secret::from("/t?x"));
}

#[test]
fn no_buffer_grows() {
    let worst = vec![("\u{1}".repeat(50), Value::text(&"\u{1}".repeat(500)))];
    assert!(object_size(&worst) >= json_body(&worst).unwrap().expose().len());
    assert!(object_size(&pairs()) >= json_body(&pairs()).unwrap().expose().len());
}

#[test]
fn claims_have_their_types() {
    let value = Value::Table(pairs()).to_json().unwrap();
    assert_eq!(value["account_id"], 12345);
    assert_eq!(value["ratio"], 1.5);
    assert_eq!(value["strict"], true);
    assert_eq!(value["list"], serde_json::json!(["a b", 2]));
    assert_eq!(Value::Text(Arc::new(Secret::new(vec![0xFF]))).to_json(), Err(NotText));
}

fn decoded(id: &str, secret: &str, encoding: BasicEncoding) -> String {
    let value = basic_value(&Secret::from(id), &Secret::from(secret), encoding).unwrap();
    assert!(value.is_sensitive());
    let encoded = value.to_str().unwrap().strip_prefix("Basic ").unwrap().to_owned();
    String::from_utf8(STANDARD.decode(encoded).unwrap()).unwrap()
}

#[test]
fn t106_basic_form_encodes_before_base64() {
    assert_eq!(decoded("svc a", "a:b +%é\"", BasicEncoding::Form), "svc+a:a%3Ab+%2B%25%C3%A9%22");
    let value = basic_value(&Secret::from("s6BhdRkqt3"), &Secret::from("gX1fBat3bV"), BasicEncoding::Form);
    // The example of RFC 6749 section 2.3.1.
    assert_eq!(value.unwrap(), "Basic czZCaGRSa3F0MzpnWDFmQmF0M2JW");
}

#[test]
fn t106_basic_raw_sends_the_bytes_as_they_are() {
    assert_eq!(decoded("svc a", "a:b +%é\"", BasicEncoding::Raw), "svc a:a:b +%é\"");
}

#[test]
fn the_value_is_not_shown() {
    let value = basic_value(&Secret::from("a"), &Secret::from("b"), BasicEncoding::Raw).unwrap();
    assert_eq!(format!("{value:?}"), "Sensitive");
}

#[test]
fn encodes_the_example_of_rfc_6749() {
    assert_eq!(form_encoded(" %&+£€".as_bytes()), "+%25%26%2B%C2%A3%E2%82%AC");
}

#[test]
fn leaves_what_the_form_standard_leaves() {
    assert_eq!(form_encoded(b"aZ09*-._~:/\""), "aZ09*-._%7E%3A%2F%22");
}

const SECRET: &str = "a:b +%é\"";

fn key(config: &IssuerConfig) -> CredentialKey {
    CredentialKey {
        issuer: config.name.clone(),
        issuer_digest: config.digest,
        scopes: config.scopes.clone(),
        params: config.params.clone(),
        subject: None,
    }
}

fn text(value: &str) -> ParamValue {
    ParamValue::Value(Source::literal(value))
}

fn url(path_and_query: &str) -> HttpUrl {
    HttpUrl {
        text: format!("https://idp.example:8443{path_and_query}"),
        https: true,
        host: "idp.example".to_owned(),
        port: 8443,
        authority: "idp.example:8443".to_owned(),
        path_and_query: path_and_query.to_owned(),
    }
}

fn inputs(config: &IssuerConfig) -> Result<Inputs, NotReady> {
    let client = ClientCredential::of(config, WhichCredential::Current).unwrap();
    let keys = KeyCache::new(config.name.clone());
    Inputs::read(config, &client, &key(config), &keys, std::time::UNIX_EPOCH)
}

fn to(config: &IssuerConfig, url: &HttpUrl) -> Result<Request<Full<Bytes>>, String> {
    let mut inputs = inputs(config).unwrap();
    let fresh = inputs.sign(config, std::time::UNIX_EPOCH).now_or_never().unwrap().unwrap();
    build(&inputs, fresh, config, &key(config), url)
}

fn request(config: &IssuerConfig) -> Request<Full<Bytes>> {
    to(config, &url("/token")).unwrap()
}

fn sent_body(config: &IssuerConfig) -> String {
    let body = futures_body(request(config).into_body());
    String::from_utf8(body.to_vec()).unwrap()
}

/// `Full` is ready at once.
fn futures_body(body: Full<Bytes>) -> Bytes {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(body.collect()).unwrap().to_bytes()
}

#[test]
fn the_smallest_request() {
    let request = request(&fuzz::config());
    assert_eq!(request.method(), "POST");
    assert_eq!(request.uri(), "https://idp.example:8443/token");
    let mut headers: Vec<_> = request
        .headers()
        .iter()
        .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
        .collect();
    headers.sort();
    assert_eq!(
        headers,
        [
            "accept-encoding: identity",
            "accept: application/json",
            // svc:s3%3Ac%2Br+t
            "authorization: Basic c3ZjOnMzJTNBYyUyQnIrdA==",
            "content-type: application/x-www-form-urlencoded",
            "host: idp.example:8443",
            concat!("user-agent: bearerd/", env!("CARGO_PKG_VERSION")),
        ]
    );
    assert!(request.headers()[AUTHORIZATION].is_sensitive());
    assert_eq!(futures_body(request.into_body()), "grant_type=client_credentials");
}

#[test]
fn parameters_stand_in_a_fixed_order() {
    let mut config = fuzz::config();
    config.scopes = Scopes::from(["write", "read"]);
    config.send_client_id = true;
    config.params = BTreeMap::from([
        ("resource".to_owned(), ParamValue::Array(vec![text("https://a"), text("https://b")])),
        ("audience".to_owned(), text("x y")),
        ("count".to_owned(), ParamValue::Integer(-7)),
        ("ratio".to_owned(), ParamValue::Float("1.50".to_owned())),
        ("strict".to_owned(), ParamValue::Boolean(true)),
    ]);
    assert_eq!(
        sent_body(&config),
        "grant_type=client_credentials&scope=write+read&client_id=svc&audience=x+y&count=-7\
         &ratio=1.50&resource=https%3A%2F%2Fa&resource=https%3A%2F%2Fb&strict=true"
    );
}

#[test]
fn t106_post_form_encodes_id_and_secret_in_the_body() {
    let mut config = fuzz::config();
    config.client_id = Some(Source::literal("svc a"));
    config.client_auth = ClientAuth::with_secret(&ClientSecretPost, Source::literal(SECRET));
    assert_eq!(
        sent_body(&config),
        "grant_type=client_credentials&client_id=svc+a&client_secret=a%3Ab+%2B%25%C3%A9%22"
    );
    assert!(!request(&config).headers().contains_key(AUTHORIZATION), "one way of authentication, not two");
}

#[test]
fn t106_basic_raw_and_form_differ() {
    let mut config = fuzz::config();
    config.client_id = Some(Source::literal("svc"));
    for (encoding, value) in [
        (BasicEncoding::Form, "Basic c3ZjOmElM0FiKyUyQiUyNSVDMyVBOSUyMg=="),
        (BasicEncoding::Raw, "Basic c3ZjOmE6YiArJcOpIg=="),
    ] {
        config.client_auth =
            ClientAuth { encoding, ..ClientAuth::with_secret(&ClientSecretBasic, Source::literal(SECRET)) };
        assert_eq!(request(&config).headers()[AUTHORIZATION], value);
        assert_eq!(sent_body(&config), "grant_type=client_credentials");
    }
}

#[test]
fn without_authentication_the_client_id_is_sent_if_there_is_one() {
    let mut config = fuzz::config();
    config.client_auth = ClientAuth::new(&NoProof);
    assert_eq!(sent_body(&config), "grant_type=client_credentials&client_id=svc");
    config.client_id = None;
    assert_eq!(sent_body(&config), "grant_type=client_credentials");
}

#[test]
fn a_parameter_replaces_ours_of_the_same_name() {
    let mut config = fuzz::config();
    config.scopes = Scopes::from(["read"]);
    config.params = BTreeMap::from([("scope".to_owned(), text("all"))]);
    assert_eq!(sent_body(&config), "grant_type=client_credentials&scope=all");
}

#[test]
fn a_scope_parameter_without_a_value_is_sent_where_there_are_no_scopes() {
    let mut config = fuzz::config();
    config.scopes = Scopes::default();
    config.params = BTreeMap::from([("scope".to_owned(), text(""))]);
    assert_eq!(sent_body(&config), "grant_type=client_credentials&scope=");
    config.scopes = Scopes::from(["read"]);
    assert_eq!(sent_body(&config), "grant_type=client_credentials&scope=read");
}

#[test]
fn path_and_query_go_out_byte_for_byte() {
    let config = fuzz::config();
    for path in ["/", "/t/%7Ea//b;x=1/../c?a=b&a=%20c+d&&", "/?", "/a?b?c", "/{x}?~y"] {
        let request = to(&config, &url(path)).unwrap();
        assert_eq!(request.uri().path_and_query().unwrap().as_str(), path);
    }
}

#[test]
fn headers_are_set_sensitive_and_may_not_frame() {
    let mut config = fuzz::config();
    config.headers = vec![
        (HeaderName::from_static("x-merchant-id"), Source::literal("42")),
        (ACCEPT, Source::literal("application/jwt")),
    ];
    let sent = request(&config);
    assert_eq!(sent.headers()["x-merchant-id"], "42");
    assert!(sent.headers()["x-merchant-id"].is_sensitive());
    assert_eq!(sent.headers().get_all(ACCEPT).iter().count(), 1);

    for (name, value) in [("host", "evil.example"), ("transfer-encoding", "chunked"), ("x-a", "b\r\nx-c: d")]
    {
        config.headers = vec![(HeaderName::from_static(name), Source::literal(value))];
        let refused = to(&config, &url("/")).unwrap_err();
        assert!(refused.contains(name) && !refused.contains(value), "{refused}");
    }
}

#[test]
fn an_unreadable_source_names_its_place() {
    let mut config = fuzz::config();
    config.client_auth =
        ClientAuth::with_secret(&ClientSecretPost, Source::file("/nowhere/secret".into(), None));
    let NotReady(error) = inputs(&config).err().unwrap();
    assert_eq!(error, "client_secret cannot be read: file /nowhere/secret: no such file");
}

#[test]
fn sources_are_read_for_every_request() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    let mut config = fuzz::config();
    config.client_auth = ClientAuth::with_secret(&ClientSecretPost, Source::file(file.clone(), None));
    for secret in ["one", "two"] {
        write_settled(&file, secret);
        assert!(sent_body(&config).ends_with(&format!("client_secret={secret}")));
    }
    std::fs::remove_file(&file).unwrap();
    assert!(sent_body(&config).ends_with("client_secret=two"), "the last good value serves on");
}

#[test]
fn values_of_references_and_of_telling_names_are_not_shown() {
    let mut config = fuzz::config();
    config.params = BTreeMap::from([
        ("audience".to_owned(), text("https://api")),
        ("api_key".to_owned(), text("literal-key")),
        ("subject_token_type".to_owned(), text("urn:ietf:params:oauth:token-type:jwt")),
    ]);
    config.headers = vec![(AUTHORIZATION, Source::literal("Token header-key"))];
    let redactor = inputs(&config).unwrap().redactor;
    let shown = |text| redactor.show(text, 512).is_some();
    assert!(shown("https://api urn:ietf:params:oauth:token-type:jwt"));
    for secret in ["literal-key", "header-key", "s3:c+r t"] {
        assert!(!shown(secret), "{secret}");
    }
}

fn params() -> BTreeMap<String, ParamValue> {
    BTreeMap::from([
        ("account_id".to_owned(), ParamValue::Integer(7)),
        ("list".to_owned(), ParamValue::Array(vec![text("a b"), text("c")])),
    ])
}

#[test]
fn json_has_typed_values_in_the_same_order() {
    let mut config = fuzz::config();
    config.carrier = Carrier::Json;
    config.client_auth = ClientAuth::with_secret(&ClientSecretPost, Source::literal("\"s3:c+r t"));
    config.scopes = Scopes::from(["read"]);
    config.params = params();
    let request = request(&config);
    assert_eq!((request.method().as_str(), &request.headers()[CONTENT_TYPE]), ("POST", &JSON));
    assert_eq!(
        futures_body(request.into_body()),
        r#"{"grant_type":"client_credentials","scope":"read","client_id":"svc","client_secret":"\"s3:c+r t","account_id":7,"list":["a b","c"]}"#
    );
}

#[test]
fn query_and_get_add_to_the_urls_own_query() {
    for (carrier, name) in [(Carrier::Query, "POST"), (Carrier::Get, "GET")] {
        let mut config = fuzz::config();
        config.carrier = carrier;
        config.client_auth = ClientAuth::with_secret(&ClientSecretPost, Source::literal("a&b"));
        config.params = params();
        let added =
            "grant_type=client_credentials&client_id=svc&client_secret=a%26b&account_id=7&list=a+b&list=c";
        for (before, joined) in [("/t", "?"), ("/t?", ""), ("/t?x=%7e", "&"), ("/t?x&", "")] {
            let request = to(&config, &url(before)).unwrap();
            assert_eq!(request.method(), name);
            assert_eq!(request.uri().path_and_query().unwrap().as_str(), format!("{before}{joined}{added}"));
            assert!(!request.headers().contains_key(CONTENT_TYPE));
            assert!(futures_body(request.into_body()).is_empty());
        }
    }
}

#[test]
fn an_invalid_query_is_reported_without_its_content() {
    let mut config = fuzz::config();
    config.carrier = Carrier::Get;
    config.client_auth =
        ClientAuth::with_secret(&ClientSecretPost, Source::literal("hunter2".repeat(20_000)));
    let refused = to(&config, &url("/t?k=v")).unwrap_err();
    assert_eq!(refused, "the parameters are too long for the query of idp.example:8443/t");
}

#[test]
fn json_takes_no_bytes_that_are_no_text() {
    let mut config = fuzz::config();
    config.carrier = Carrier::Json;
    config.client_auth = ClientAuth::with_secret(&ClientSecretPost, Source::literal(Secret::new(vec![0xC3])));
    assert!(to(&config, &url("/")).unwrap_err().contains("not UTF-8"));
}

#[test]
fn the_grant_type_is_free_and_may_be_left_out() {
    let mut config = fuzz::config();
    config.grant_type = Some("delegation".to_owned());
    assert_eq!(sent_body(&config), "grant_type=delegation");
    config.grant_type = None;
    assert_eq!(sent_body(&config), "");
    config.carrier = Carrier::Json;
    assert_eq!(sent_body(&config), "{}");
}

#[test]
fn another_basic_user_goes_beside_credentials_in_the_body() {
    let mut config = fuzz::config();
    config.client_auth = ClientAuth::with_secret(&ClientSecretPost, Source::literal(SECRET));
    config.basic = Some(BasicUser {
        user: Source::literal("gate"),
        password: Source::literal("p:w"),
        encoding: BasicEncoding::Raw,
    });
    // gate:p:w
    assert_eq!(request(&config).headers()[AUTHORIZATION], "Basic Z2F0ZTpwOnc=");
    assert!(sent_body(&config).ends_with("&client_id=svc&client_secret=a%3Ab+%2B%25%C3%A9%22"));
    let redactor = inputs(&config).unwrap().redactor;
    assert_eq!((redactor.show("p:w", 512), redactor.show("Z2F0ZTpwOnc=", 512)), (None, None));
}

#[test]
fn a_prepared_assertion_is_the_clients_or_the_grants() {
    let mut config = fuzz::config();
    config.client_id = Some(Source::literal("svc"));
    config.assertion = Some(Source::literal(" \n a.b.c \r\n"));
    config.assertion_type = "urn:x:jwt-bearer".to_owned();
    config.client_auth = ClientAuth::new(&AssertionFile);
    assert_eq!(
        sent_body(&config),
        "grant_type=client_credentials&client_assertion_type=urn%3Ax%3Ajwt-bearer&client_assertion=a.b.c"
    );
    config.send_client_id = true;
    assert!(sent_body(&config).contains("&client_id=svc&client_assertion_type="));
    config.client_auth = ClientAuth::new(&NoProof);
    config.send_client_id = false;
    assert_eq!(sent_body(&config), "grant_type=client_credentials&client_id=svc&assertion=a.b.c");
}

#[test]
fn a_saml_assertion_goes_as_it_is() {
    let mut config = fuzz::config();
    config.client_auth = ClientAuth::new(&AssertionFile);
    config.assertion = Some(Source::literal(" PHNhbWw+ "));
    config.assertion_type = "urn:ietf:params:oauth:client-assertion-type:saml2-bearer".to_owned();
    assert!(sent_body(&config).ends_with("saml2-bearer&client_assertion=+PHNhbWw%2B+"));
}

#[test]
fn an_empty_assertion_is_reported() {
    let mut config = fuzz::config();
    config.client_auth = ClientAuth::new(&AssertionFile);
    config.assertion = Some(Source::literal(" \n"));
    assert_eq!(inputs(&config).err(), Some(NotReady("assertion: the config file is empty".to_owned())));
}

#[test]
fn a_certificate_in_tls_wants_the_client_id() {
    let mut config = fuzz::config();
    config.client_auth = ClientAuth::new(&TlsClientAuth);
    assert_eq!(sent_body(&config), "grant_type=client_credentials&client_id=svc");
}
