//! What a token request looks like, by each key of the issuer.

use std::sync::Arc;

use crate::support::egress::Egress;
use crate::support::tls::{ca, localhost};
use crate::support::{RawResponse, Recorded, Scripted, Setup, World, cli, eventually};

async fn asked(issuer: &str) -> Arc<Recorded> {
    let world = Setup::new().await.issuer(issuer).start().await;
    world.issuer().request(1).await
}

#[tokio::test]
async fn scopes_are_left_out_when_empty() {
    assert!(asked("").await.params("scope").is_empty());
}

#[tokio::test]
async fn scopes_go_out_in_the_order_in_which_they_are_written_and_make_one_token_in_any() {
    let second = "[[route]]\nname = \"other\"\npath_prefix = \"/other\"\nupstream = \"{upstream}\"\nissuer = \"corp\"\n\
                  scopes = [\"a\", \"z\", \"m\"]\n";
    let setup = Setup::new().await.route("scopes = [\"z\", \"a\", \"m\"]").more(second);
    let world = setup.start().await;
    for path in ["/", "/other"] {
        world.get(path).await.expect_status(200);
    }
    assert_eq!(world.issuer().count(), 1);
    assert_eq!(world.issuer().request(1).await.params("scope"), ["z a m"]);
}

#[tokio::test]
async fn an_empty_secret_that_is_written_as_such_is_sent() {
    for (method, basic, post) in
        [("client_secret_basic", Some("client-1:"), None), ("client_secret_post", None, Some(""))]
    {
        let request = asked(&format!("client_auth = \"{method}\"\nclient_secret = \"\"")).await;
        assert_eq!(request.basic().as_deref(), basic);
        assert_eq!(request.params("client_secret"), Vec::from_iter(post));
    }
}

#[tokio::test]
async fn t106_basic_is_form_encoded_first() {
    let setup = Setup::new().await;
    setup.file("secret", "a:b +%é&=\n");
    let world = setup.issuer("client_id = \"id:1 +\"").start().await;
    let request = world.issuer().request(1).await;
    assert_eq!(request.basic().unwrap(), "id%3A1+%2B:a%3Ab+%2B%25%C3%A9%26%3D");
    assert!(request.params("client_id").is_empty() && request.params("client_secret").is_empty());
}

#[tokio::test]
async fn t106_post_is_form_encoded_once() {
    let setup = Setup::new().await;
    setup.file("secret", "a:b +%é&=");
    let world = setup.issuer("client_id = \"id:1 +\"\nclient_auth = \"client_secret_post\"").start().await;
    let request = world.issuer().request(1).await;
    assert_eq!(request.header("authorization"), None);
    assert_eq!(request.params("client_id"), ["id:1 +"]);
    assert_eq!(request.params("client_secret"), ["a:b +%é&="]);
}

#[tokio::test]
async fn basic_encoding_raw_leaves_them_as_they_are() {
    let setup = Setup::new().await;
    setup.file("secret", "a:b +%");
    let world = setup.issuer("basic_encoding = \"raw\"").start().await;
    assert_eq!(world.issuer().request(1).await.basic().unwrap(), "client-1:a:b +%");
}

#[tokio::test]
async fn t92_one_trailing_line_end_of_a_file_is_cut() {
    for (content, secret) in [("s\n", "s"), ("s\r\n", "s"), ("s\n\n", "s%0A"), (" s ", "+s+"), ("s", "s")] {
        let setup = Setup::new().await;
        setup.file("secret", content);
        let world = setup.start().await;
        assert_eq!(world.issuer().request(1).await.basic().unwrap(), format!("client-1:{secret}"));
    }
}

#[tokio::test]
async fn client_auth_none_sends_no_secret() {
    let request = asked("client_auth = \"none\"\nsend_client_id = true\n# client_secret").await;
    assert_eq!(request.header("authorization"), None);
    assert_eq!(request.params("client_id"), ["client-1"]);
    assert!(request.params("client_secret").is_empty());
}

#[tokio::test]
async fn send_client_id_adds_the_parameter() {
    let request = asked("send_client_id = true").await;
    assert_eq!(request.params("client_id"), ["client-1"]);
    assert!(request.basic().is_some());
}

#[tokio::test]
async fn client_id_may_be_a_reference() {
    let setup = Setup::new().await.env("THE_CLIENT", "from-the-environment");
    let world = setup.issuer("client_id = { env = \"THE_CLIENT\" }").start().await;
    assert_eq!(world.issuer().request(1).await.basic().unwrap(), "from-the-environment:s3cr3t-of-the-scene");
}

#[tokio::test]
async fn reference_may_point_into_json() {
    let setup = Setup::new().await;
    setup.file("all.json", r#"{ "corp": { "secrets": ["x", "y/z"] } }"#);
    let world =
        setup.issuer("client_secret = { file = \"all.json\", pointer = \"/corp/secrets/1\" }").start().await;
    assert_eq!(world.issuer().request(1).await.basic().unwrap(), "client-1:y%2Fz");
}

#[tokio::test]
async fn params_are_strings_numbers_booleans_arrays_and_references() {
    let setup = Setup::new().await;
    setup.file("tenant", "acme & sons\n");
    let world = setup
        .issuer(
            "params = { audience = \"https://api\", n = 7, f = 1.50, yes = true, resource = [\"https://a\", \"https://b\"], tenant = { file = \"tenant\" } }",
        )
        .start()
        .await;
    let request = world.issuer().request(1).await;
    assert_eq!(request.params("audience"), ["https://api"]);
    assert_eq!(request.params("n"), ["7"]);
    assert_eq!(request.params("yes"), ["true"]);
    assert_eq!(request.params("resource"), ["https://a", "https://b"]);
    assert_eq!(request.params("tenant"), ["acme & sons"]);
    assert!(request.params("f")[0].starts_with("1.5"));
}

#[tokio::test]
async fn routes_params_are_added_and_its_scopes_replace_the_issuers() {
    let world = Setup::new()
        .await
        .issuer("scopes = [\"a\"]\nparams = { audience = \"x\", kept = \"1\" }")
        .route("scopes = [\"b\"]\nparams = { audience = \"y\" }")
        .start()
        .await;
    let request = world.issuer().request(1).await;
    assert_eq!(request.params("scope"), ["b"]);
    assert_eq!(request.params("audience"), ["y"]);
    assert_eq!(request.params("kept"), ["1"]);
}

#[tokio::test]
async fn headers_are_added() {
    let setup = Setup::new().await;
    setup.file("merchant", "42\n");
    let world =
        setup.issuer("headers = { x-merchant-id = { file = \"merchant\" }, x-plain = \"p\" }").start().await;
    let request = world.issuer().request(1).await;
    assert_eq!(request.header("x-merchant-id"), Some("42"));
    assert_eq!(request.header("x-plain"), Some("p"));
}

#[tokio::test]
async fn token_url_is_used_byte_for_byte() {
    let request = asked("token_url = \"{issuer}/a%2Fb//c;d?api-version=1&x=%20\"").await;
    assert_eq!(request.target(), "/a%2Fb//c;d?api-version=1&x=%20");
}

/// An issuer that knows where its document and its token endpoint are.
async fn discoverable(document: &'static str, path: &'static str) -> Setup {
    let setup = Setup::new().await;
    let url = setup.issuer.url.clone();
    setup.issuer.always(move |request, _| {
        if request.target() == path {
            return RawResponse::ok(document.replace("{url}", &url))
                .header("content-type", "application/json");
        }
        if request.target() == "/oauth/token" {
            RawResponse::token("found")
        } else {
            RawResponse::status(404)
        }
    });
    setup
}

const DOCUMENT: &str = r#"{ "issuer": "{url}/tenant", "token_endpoint": "{url}/oauth/token" }"#;

async fn token_of(world: &World) -> String {
    world.get("/").await.expect_status(200);
    world.upstream().last().bearer().unwrap().to_owned()
}

#[tokio::test]
async fn discovery_asks_at_openids_path() {
    let setup = discoverable(DOCUMENT, "/tenant/.well-known/openid-configuration").await;
    let world = setup.issuer("issuer_url = \"{issuer}/tenant\"").start().await;
    assert_eq!(token_of(&world).await, "found");
    let request = world.issuer().requests()[0].clone();
    assert_eq!(request.method(), "GET");
    assert_eq!(request.header("authorization"), None);
}

#[tokio::test]
async fn discovery_asks_at_rfc_8414s_path_then() {
    let setup = discoverable(DOCUMENT, "/.well-known/oauth-authorization-server/tenant").await;
    let world = setup.issuer("issuer_url = \"{issuer}/tenant\"").start().await;
    assert_eq!(token_of(&world).await, "found");
    let first = world.issuer().requests()[0].clone();
    assert_eq!(first.target(), "/tenant/.well-known/openid-configuration");
}

#[tokio::test]
async fn t108_document_of_another_issuer_is_refused() {
    for document in [
        r#"{ "issuer": "{url}/other", "token_endpoint": "{url}/oauth/token" }"#,
        r#"{ "issuer": "{url}/tenant/", "token_endpoint": "{url}/oauth/token" }"#,
        r#"{ "token_endpoint": "{url}/oauth/token" }"#,
        r#"{ "issuer": "{url}/tenant" }"#,
        r#"{ "issuer": "{url}/tenant", "token_endpoint": "http://issuer.example/token" }"#,
        r#"{ "issuer": "{url}/tenant", "token_endpoint": "/relative" }"#,
        "not json",
    ] {
        let setup = discoverable(document, "/tenant/.well-known/openid-configuration").await;
        let world = setup.issuer("issuer_url = \"{issuer}/tenant\"").start().await;
        world.get("/").await.expect_problem(502, "token_refused");
        let sent = world.issuer().requests().iter().any(|request| request.header("authorization").is_some());
        assert!(!sent, "the secret went out for {document}");
    }
}

#[tokio::test]
async fn t108_document_that_is_too_long_or_elsewhere_is_refused() {
    let elsewhere = Scripted::issuer().await;
    let redirect = RawResponse::status(302).header("location", &format!("{}/tenant", elsewhere.url));
    let long = RawResponse::ok(" ".repeat(1024 * 1024));
    for answer in [redirect, long] {
        let setup = Setup::new().await;
        setup.issuer.always_this(answer);
        let world = setup.issuer("issuer_url = \"{issuer}/tenant\"").start().await;
        world.get("/").await.expect_problem(502, "token_refused");
    }
    assert_eq!(elsewhere.accepted(), 0);
}

#[tokio::test]
async fn issuer_may_ask_for_a_client_certificate() {
    let issuer = Scripted::start(Some(ca().server_asking(&localhost(), &[]))).await;
    issuer.always_this(RawResponse::token("mutual"));
    let setup = Setup::with(issuer, Scripted::upstream().await);
    let client = ca().issue(&["client.test"]);
    setup.file("ca.pem", &ca().pem);
    setup.file("cert.pem", &client.certificate_pem);
    setup.file("key.pem", &client.key_pem);
    let tls = "tls = { ca = { file = \"ca.pem\" }, certificate = { file = \"cert.pem\" }, private_key = { file = \"key.pem\" } }";
    assert_eq!(token_of(&setup.issuer(tls).start().await).await, "mutual");
}

#[tokio::test]
async fn server_name_says_whose_certificate_is_wanted() {
    let issuer = Scripted::start(Some(ca().issue(&["issuer.test"]).server(&[]))).await;
    issuer.always_this(RawResponse::token("named"));
    let setup = Setup::with(issuer, Scripted::upstream().await);
    setup.file("ca.pem", &ca().pem);
    let tls = "tls = { ca = { file = \"ca.pem\" }, server_name = \"issuer.test\" }";
    assert_eq!(token_of(&setup.issuer(tls).start().await).await, "named");
}

#[tokio::test]
async fn ca_replaces_the_systems_roots() {
    let issuer = Scripted::start(Some(localhost().server(&[]))).await;
    let setup = Setup::with(issuer, Scripted::upstream().await);
    let world = setup.issuer("tls = { roots = \"system\" }").start().await;
    world.get("/").await.expect_problem(503, "token_unavailable");
}

#[tokio::test]
async fn roots_both_adds_the_ca_to_the_systems() {
    let issuer = Scripted::start(Some(localhost().server(&[]))).await;
    issuer.always_this(RawResponse::token("both"));
    let setup = Setup::with(issuer, Scripted::upstream().await);
    setup.file("ca.pem", &ca().pem);
    let tls = "tls = { ca = { file = \"ca.pem\" }, roots = \"both\" }";
    assert_eq!(token_of(&setup.issuer(tls).start().await).await, "both");
}

#[tokio::test]
async fn token_requests_alone_go_through_the_issuers_proxy() {
    let issuer = Scripted::start(Some(ca().issue(&["idp.example"]).server(&[]))).await;
    issuer.always_this(RawResponse::token("tunnelled"));
    let egress = Egress::to(issuer.address.unwrap()).await;
    let setup = Setup::with(issuer, Scripted::upstream().await);
    setup.file("ca.pem", &ca().pem);
    let keys = format!(
        "token_url = \"https://idp.example/token\"\ntls = {{ ca = {{ file = \"ca.pem\" }} }}\nproxy = \"http://user:pass@{}\"",
        egress.address
    );
    let world = setup.issuer(&keys).start().await;
    assert_eq!(token_of(&world).await, "tunnelled");
    let seen = egress.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].start, "CONNECT idp.example:443 HTTP/1.1");
    assert_eq!(seen[0].header("proxy-authorization"), Some("Basic dXNlcjpwYXNz"));
}

#[tokio::test]
async fn proxy_env_obeys_the_environment() {
    let issuer = Scripted::start(Some(ca().issue(&["idp.example"]).server(&[]))).await;
    issuer.always_this(RawResponse::token("tunnelled"));
    let egress = Egress::to(issuer.address.unwrap()).await;
    let setup = Setup::with(issuer, Scripted::upstream().await)
        .env("HTTPS_PROXY", &format!("http://{}", egress.address))
        .env("NO_PROXY", "other.example");
    setup.file("ca.pem", &ca().pem);
    let keys =
        "token_url = \"https://idp.example/token\"\ntls = { ca = { file = \"ca.pem\" } }\nproxy = \"env\"";
    assert_eq!(token_of(&setup.issuer(keys).start().await).await, "tunnelled");
    assert_eq!(egress.seen().len(), 1);
}

#[tokio::test]
async fn entries_of_no_proxy_that_match_nothing_are_reported_at_the_start_and_by_check() {
    let odd = "10.*,corp.example,<local>";
    let world = Setup::new().await.env("NO_PROXY", odd).issuer("proxy = \"env\"").start().await;
    let words = "the environment's NO_PROXY names `10.*`, `<local>`, which matches no host";
    eventually("the warning", || async { world.log().text().contains(words).then_some(()) }).await;
    let check = ["check", "--config", "bearerd.toml"];
    let told = cli::run_with(world.folder(), &check, &[("NO_PROXY", odd)]).await;
    told.expect_code(0);
    assert!(told.all().contains(words) && told.all().contains("networks (10.0.0.0/8)"), "{}", told.all());
    let fine = cli::run_with(world.folder(), &check, &[("NO_PROXY", "*.corp.example")]).await;
    assert!(!fine.all().contains("NO_PROXY"), "{}", fine.all());
}

#[tokio::test]
async fn an_egress_proxy_whose_port_speaks_tls_is_recognized() {
    let proxy = Scripted::start(Some(ca().issue(&["localhost"]).server(&[]))).await;
    let keys = format!(
        "token_url = \"https://idp.example/token\"\nproxy = \"http://localhost:{}\"",
        proxy.address.unwrap().port()
    );
    let world = Setup::new().await.issuer(&keys).start().await;
    let refused = world.get("/").await;
    refused.expect_problem(503, "token_unavailable");
    let hint = "if the port speaks TLS, give the proxy's port for http://";
    assert!(refused.text().contains(hint), "{}", refused.text());
}

#[tokio::test]
async fn egress_proxy_that_refuses_is_token_unavailable() {
    let egress = Egress::refusing("403 Forbidden").await;
    let keys = format!("token_url = \"https://idp.example/token\"\nproxy = \"http://{}\"", egress.address);
    let world = Setup::new().await.issuer(&keys).start().await;
    world.get("/").await.expect_problem(503, "token_unavailable");
    eventually("a tunnel to be asked for", || async { (!egress.seen().is_empty()).then_some(()) }).await;
}

#[tokio::test]
async fn t107_two_client_authentications_are_a_config_error() {
    let setup = Setup::new().await.issuer("client_auth = \"none\"");
    setup.write();
    cli::run(setup.folder(), &["check"]).await.expect_code(78);
}

#[tokio::test]
async fn plain_http_issuer_elsewhere_is_a_config_error() {
    for keys in ["token_url = \"http://idp.example/token\"", "issuer_url = \"http://idp.example\""] {
        let setup = Setup::new().await.issuer(keys);
        setup.write();
        cli::run(setup.folder(), &["check"]).await.expect_code(78);
        cli::run(setup.folder(), &["run"]).await.expect_code(78);
    }
}

#[tokio::test]
async fn grant_type_is_any_string_and_empty_leaves_it_out() {
    assert_eq!(asked("grant_type = \"delegation\"").await.text(), "grant_type=delegation");
    assert_eq!(asked("grant_type = \"\"\nparams = { a = \"1\" }").await.text(), "a=1");
}

const POST: &str = "client_auth = \"client_secret_post\"\nscopes = [\"read\", \"all\"]";

#[tokio::test]
async fn json_bodies_have_typed_values() {
    let setup = Setup::new().await;
    setup.file("tenant", "acme & \"sons\"\n");
    let world = setup
        .issuer(&format!(
            "body = \"json\"\nparams = {{ account_id = 7, f = 1.50, yes = true, list = [\"a\", 2], t = {{ b = \"c\" }}, tenant = {{ file = \"tenant\" }} }}\n{POST}"
        ))
        .start()
        .await;
    let request = world.issuer().request(1).await;
    assert_eq!(request.method(), "POST");
    assert_eq!(request.header("content-type"), Some("application/json"));
    assert_eq!(
        request.text(),
        r#"{"grant_type":"client_credentials","scope":"read all","client_id":"client-1","client_secret":"s3cr3t-of-the-scene","account_id":7,"f":1.50,"list":["a",2],"t":{"b":"c"},"tenant":"acme & \"sons\"","yes":true}"#
    );
}

const QUERY: &str = "grant_type=client_credentials&scope=read+all&client_id=client-1&client_secret=s3cr3t-of-the-scene&r=a&r=b";

#[tokio::test]
async fn parameters_may_be_in_the_query_of_a_post() {
    let keys = format!(
        "body = \"query\"\ntoken_url = \"{{issuer}}/t?v=1\"\nparams = {{ r = [\"a\", \"b\"] }}\n{POST}"
    );
    let request = asked(&keys).await;
    assert_eq!(request.head.start, format!("POST /t?v=1&{QUERY} HTTP/1.1"));
    assert_eq!(request.header("content-length"), Some("0"));
    assert_eq!(request.header("content-type"), None);
    assert!(request.body.data.is_empty());
}

#[tokio::test]
async fn get_has_parameters_in_the_query() {
    let request = asked(&format!("method = \"GET\"\nparams = {{ r = [\"a\", \"b\"] }}\n{POST}")).await;
    assert_eq!(request.head.start, format!("GET /token?{QUERY} HTTP/1.1"));
    assert_eq!((request.header("content-length"), request.header("content-type")), (None, None));
}

#[tokio::test]
async fn secrets_in_a_query_are_never_shown() {
    let setup = Setup::new().await;
    setup.issuer.always(|request, n| match n {
        // An issuer that says everything back.
        1 => RawResponse::status(400).body(format!("you sent {}", request.target())),
        2 => RawResponse::raw(format!("HTTP/1.1 {} nonsense\r\n\r\n", request.target())).then_close(),
        _ => RawResponse::drop(),
    });
    let world = setup.log("level = \"trace\"").issuer(&format!("method = \"GET\"\n{POST}")).start().await;
    for number in 1..=3 {
        world.issuer().request(number).await;
        let text = world.get("/").await.text();
        assert!(!text.contains("s3cr3t") && !text.contains("client_secret="), "{text}");
    }
    let shown =
        [world.log().text(), world.admin("/status").await.text(), world.admin("/metrics").await.text()];
    for text in shown {
        assert!(!text.contains("s3cr3t") && !text.contains("client_secret="), "{text}");
    }
}

#[tokio::test]
async fn another_basic_user_goes_beside_credentials_in_the_body() {
    let setup = Setup::new().await;
    setup.file("gate", "p:w\n");
    let keys = format!(
        "basic = {{ user = \"gate user\", password = {{ file = \"gate\" }} }}\nbasic_encoding = \"raw\"\n{POST}"
    );
    let request = setup.issuer(&keys).start().await.issuer().request(1).await;
    assert_eq!(request.basic().unwrap(), "gate user:p:w");
    assert_eq!(request.params("client_secret"), ["s3cr3t-of-the-scene"]);
}

#[tokio::test]
async fn credentials_come_from_a_pointer_into_a_variable() {
    let bound = r#"{"xsuaa":[{"credentials":{"clientid":"sb-1","clientsecret":"x=y","n":7}}]}"#;
    let at =
        |member: &str| format!("{{ env = \"VCAP_SERVICES\", pointer = \"/xsuaa/0/credentials/{member}\" }}");
    let keys = format!(
        "client_id = {}\nclient_secret = {}\nparams = {{ n = {} }}",
        at("clientid"),
        at("clientsecret"),
        at("n")
    );
    let world = Setup::new().await.env("VCAP_SERVICES", bound).issuer(&keys).start().await;
    let request = world.issuer().request(1).await;
    assert_eq!(request.basic().unwrap(), "sb-1:x%3Dy");
    assert_eq!(request.params("n"), ["7"]);
}

#[tokio::test]
async fn token_exchange_has_a_file_as_its_subject_token() {
    let setup = Setup::new().await;
    setup.file("subject", "canary.subject.token");
    setup.issuer.always(|request, n| {
        if n > 1 {
            let said = serde_json::json!({ "error": "invalid_request", "error_description": request.text() });
            return RawResponse::status(400).body(said.to_string());
        }
        RawResponse::json(&serde_json::json!({
            "access_token": "exchanged", "token_type": "Bearer", "expires_in": 1,
            "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
        }))
    });
    let world = setup
        .issuer("grant_type = \"urn:ietf:params:oauth:grant-type:token-exchange\"\nparams = { subject_token = { file = \"subject\" }, subject_token_type = \"urn:ietf:params:oauth:token-type:jwt\" }")
        .start()
        .await;
    let request = world.issuer().request(1).await;
    assert_eq!(
        request.text(),
        "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Atoken-exchange&subject_token=canary.subject.token\
         &subject_token_type=urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3Ajwt"
    );
    assert_eq!(token_of(&world).await, "exchanged");
    let refused = eventually("the token to end", || async {
        let response = world.get("/").await;
        (response.status == 502).then_some(response)
    })
    .await;
    assert!(
        refused.text().contains("is not shown") && !refused.text().contains("canary"),
        "{}",
        refused.text()
    );
}
