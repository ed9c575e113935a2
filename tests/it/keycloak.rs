//! Against Keycloak itself.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::cli::run;
use crate::support::jwt::{key, key_path};
use crate::support::keycloak::Keycloak;
use crate::support::tls::{Identity, ca};
use crate::support::{Answer, Call, Recorded, Setup, World, eventually, unix_now};

/// With what Basic gets wrong where it is not encoded.
const ODD_SECRET: &str = "a+b/c=%é:~";
const LONG_SECRET: &str = "0123456789abcdef0123456789abcdef";
const ROTATED: &str = "7f6c1c2e-0000-4000-8000-000000000001";

fn realm() -> Value {
    json!({
        "realm": "test",
        "enabled": true,
        "accessTokenLifespan": 60,
        "clients": [
            client("odd:id", json!({ "secret": ODD_SECRET })),
            client("brief", json!({ "secret": ODD_SECRET, "attributes": { "access.token.lifespan": "5" } })),
            client("rotated", json!({ "id": ROTATED, "secret": "the-first-secret" })),
            client("admin", json!({ "secret": ODD_SECRET })),
            client("hasher", json!({
                "clientAuthenticatorType": "client-secret-jwt", "secret": LONG_SECRET,
            })),
            client("signer", json!({
                "clientAuthenticatorType": "client-jwt",
                "attributes": { "use.jwks.string": "true", "jwks.string": jwks().to_string() },
            })),
            client("prover", json!({
                "secret": ODD_SECRET, "attributes": { "dpop.bound.access.tokens": "true" },
            })),
            client("holder", json!({
                "clientAuthenticatorType": "client-x509",
                "attributes": {
                    "x509.subjectdn": "CN=bearerd test ec", "x509.allow.regex.pattern.comparison": "false",
                },
            })),
        ],
        "users": [{
            "username": "service-account-admin",
            "enabled": true,
            "serviceAccountClientId": "admin",
            "clientRoles": { "realm-management": ["manage-clients"] },
        }],
    })
}

fn client(id: &str, more: Value) -> Value {
    let mut client = json!({
        "clientId": id,
        "publicClient": false,
        "serviceAccountsEnabled": true,
        "clientAuthenticatorType": "client-secret",
    });
    client.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    client
}

fn jwks() -> Value {
    let public = |(name, alg): (&str, &str)| {
        let mut public: Value = serde_json::from_str(&key(&format!("{name}.public.jwk.json"))).unwrap();
        let more = json!({ "kid": format!("{name}-1"), "use": "sig", "alg": alg });
        public.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        public
    };
    let keys = [("rsa", "RS256"), ("ec-p256", "ES256")].map(public);
    json!({ "keys": keys })
}

async fn start() -> Keycloak {
    tokio::task::spawn_blocking(|| Keycloak::start(&realm())).await.unwrap()
}

/// A scene with `keys` in its issuer, `{realm}` and `{base}` filled in, and `secret` in the file of that name.
async fn scene(keycloak: &Keycloak, secret: &str, keys: &str) -> Setup {
    let setup = Setup::new().await;
    setup.file("secret", secret);
    setup.file("ca.pem", &ca().pem);
    let url =
        if keys.contains("preset") || keys.contains("_url") { "" } else { "issuer_url = \"{realm}\"\n" };
    let keys = format!("# token_url\n{url}{keys}");
    setup.issuer(
        &keys.replace("{realm}", &keycloak.realm()).replace("{base}", &format!("http://{}", keycloak.http)),
    )
}

async fn accepted(keycloak: &Keycloak, secret: &str, keys: &str) -> Arc<Recorded> {
    let world = scene(keycloak, secret, keys).await.start().await;
    world.get("/").await.expect_status(200);
    world.upstream().last()
}

fn claims(token: &str) -> Value {
    use base64::Engine;
    let payload = token.split('.').nth(1).expect("a JWT");
    serde_json::from_slice(&base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(payload).unwrap())
        .unwrap()
}

/// `check --online` fails and says all of `words`.
async fn told(setup: &Setup, words: &[&str]) {
    setup.write();
    let output = run(setup.folder(), &["check", "--online"]).await;
    output.expect_code(1);
    for word in words {
        assert!(output.stdout.contains(word), "{word} in {}", output.stdout);
    }
    assert!(!output.all().contains(ODD_SECRET) && !output.all().contains(LONG_SECRET), "{}", output.all());
}

#[tokio::test]
#[ignore = "needs Java and Maven"]
async fn every_method_of_authentication_is_accepted_and_slips_are_told() {
    let keycloak = start().await;
    secrets(&keycloak).await;
    assertions(&keycloak).await;
    certificates(&keycloak).await;
    proofs(&keycloak).await;
}

async fn secrets(keycloak: &Keycloak) {
    let preset =
        "preset = \"keycloak\"\nvars = { base_url = \"{base}\", realm = \"test\" }\nclient_id = \"odd:id\"";
    let call = accepted(keycloak, ODD_SECRET, preset).await;
    assert_eq!(claims(call.bearer().unwrap())["azp"], "odd:id");
    accepted(keycloak, ODD_SECRET, "client_id = \"odd:id\"").await;
    // Its aliases for mutual TLS are not https here, and nobody wants them.
    let localhost = format!("issuer_url = \"http://localhost:{}/realms/test\"\n", keycloak.http.port());
    accepted(keycloak, ODD_SECRET, &format!("{localhost}client_id = \"odd:id\"")).await;
    let raw = scene(keycloak, ODD_SECRET, "client_id = \"brief\"\nbasic_encoding = \"raw\"").await;
    told(&raw, &["the issuer takes client_auth = \"client_secret_basic\": set that"]).await;
    let wrong = scene(keycloak, "another secret", "client_id = \"brief\"").await;
    told(&wrong, &["unauthorized_client", "client_secret"]).await;
}

async fn assertions(keycloak: &Keycloak) {
    let hashed = "client_id = \"hasher\"\nclient_auth = \"client_secret_jwt\"";
    accepted(keycloak, LONG_SECRET, hashed).await;
    for (file, alg) in [("rsa.pkcs8.pem", "RS256"), ("ec-p256.sec1.pem", "ES256")] {
        let kid = file.split('.').next().unwrap();
        let signed = format!(
            "preset = \"keycloak-jwt\"\nvars = {{ base_url = \"{{base}}\", realm = \"test\" }}\nclient_id = \"signer\"\n\
             # client_secret\nprivate_key = {{ file = \"{}\" }}\njwt = {{ alg = \"{alg}\", key_id = \"{kid}-1\" }}",
            key_path(file).display()
        );
        accepted(keycloak, "", &signed).await;
    }
    let other =
        scene(keycloak, LONG_SECRET, &format!("{hashed}\njwt = {{ audience = \"https://other.test\" }}"))
            .await;
    told(&other, &["Invalid token audience", "jwt.audience"]).await;
    let posted =
        scene(keycloak, LONG_SECRET, "client_id = \"hasher\"\nclient_auth = \"client_secret_post\"").await;
    told(&posted, &["the issuer takes client_auth = \"client_secret_jwt\""]).await;
}

async fn certificates(keycloak: &Keycloak) {
    let holder = |certificate: &str, private_key: &str| {
        format!(
            "issuer_url = \"https://localhost:{}/realms/test\"\nclient_id = \"holder\"\n# client_secret\n\
             client_auth = \"tls_client_auth\"\ncertificate = {{ file = \"{certificate}\" }}\n\
             private_key = {{ file = \"{private_key}\" }}\ntls = {{ ca = {{ file = \"ca.pem\" }} }}",
            keycloak.https.port()
        )
    };
    let [certificate, private_key] =
        ["ec-p256.certificate.pem", "ec-p256.pkcs8.pem"].map(|file| key_path(file).display().to_string());
    accepted(keycloak, "", &holder(&certificate, &private_key)).await;
    let Identity { certificate_pem, key_pem, .. } = ca().issue(&["other.test"]);
    let other = scene(keycloak, "", &holder("other.pem", "other.key")).await;
    other.file("other.pem", certificate_pem);
    other.file("other.key", key_pem);
    told(&other, &["invalid_client"]).await;
}

async fn proofs(keycloak: &Keycloak) {
    let dpop =
        format!("dpop = {{ private_key = {{ file = \"{}\" }} }}", key_path("ec-p256.pkcs8.pem").display());
    let call = accepted(keycloak, ODD_SECRET, &format!("client_id = \"prover\"\n{dpop}")).await;
    let token =
        call.header("authorization").unwrap().strip_prefix("DPoP ").expect("a token that is bound to a key");
    assert!(claims(token)["cnf"]["jkt"].is_string());
    let without = scene(keycloak, ODD_SECRET, "client_id = \"prover\"").await;
    told(&without, &["DPoP proof is missing", "dpop"]).await;
}

/// The statuses of one call after another for as long as `meanwhile` takes.
async fn calling(world: &World, meanwhile: impl Future<Output = ()>) -> BTreeSet<u16> {
    let mut statuses = BTreeSet::new();
    let mut meanwhile = pin!(meanwhile);
    loop {
        tokio::select! {
            () = &mut meanwhile => return statuses,
            response = world.get("/") => statuses.insert(response.status),
        };
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// An upstream that takes no token after its end, nor the one that is put into what is returned.
fn judge(setup: &Setup) -> Arc<Mutex<String>> {
    let revoked = Arc::new(Mutex::new(String::new()));
    let refused = Arc::clone(&revoked);
    setup.upstream.always(move |request, _| {
        let token = request.bearer().unwrap_or_default();
        let over = claims(token)["exp"].as_f64().unwrap() <= unix_now();
        if over || *refused.lock().unwrap() == token { Answer::unauthorized() } else { Answer::ok("") }
    });
    revoked
}

fn tokens(world: &World) -> BTreeSet<String> {
    world.upstream().requests().iter().filter_map(|request| request.bearer().map(str::to_owned)).collect()
}

#[tokio::test]
#[ignore = "needs Java and Maven"]
async fn short_lives_a_rotated_secret_and_a_restart_are_lived_through() {
    let keycloak = start().await;
    //short_lives(&keycloak).await;
    rotated_secret(&keycloak).await;
    restart(keycloak).await;
}

async fn short_lives(keycloak: &Keycloak) {
    let setup = scene(keycloak, ODD_SECRET, "client_id = \"brief\"").await;
    let _revoked = judge(&setup);
    let world = setup.start().await;
    let several =
        async { eventually("four tokens", || async { (tokens(&world).len() > 3).then_some(()) }).await };
    assert_eq!(calling(&world, several).await, BTreeSet::from([200]));
    assert_eq!(
        world.metric("bearerd_refreshes_forced_total", &[("route", "api")]).await.unwrap_or_default(),
        0.0
    );
}

/// Gives the client `rotated` another secret, with a token for Keycloak's own API.
async fn rotate(admin: &World, secret: &str) {
    let body = json!({ "secret": secret }).to_string();
    let call = Call::new("PUT", &format!("/admin/realms/test/clients/{ROTATED}"))
        .header("content-type", "application/json")
        .body(body);
    admin.call(call).await.expect_status(204);
}

async fn rotated_secret(keycloak: &Keycloak) {
    let admin = scene(keycloak, ODD_SECRET, "client_id = \"admin\"").await;
    let admin = admin.route(&format!("upstream = \"http://{}\"", keycloak.http)).start().await;
    let setup = scene(keycloak, "the-first-secret", "client_id = \"rotated\"").await;
    let revoked = judge(&setup);
    let world = setup.start().await;
    let revoke = || *revoked.lock().unwrap() = world.upstream().last().bearer().unwrap().to_owned();
    world.get("/").await.expect_status(200);

    // The file first is written after it is changed there: nobody notices.
    rotate(&admin, "the-second-secret").await;
    world.file("secret", "the-second-secret");
    world.get("/").await.expect_status(200);
    revoke();
    if world.get("/").await.status != 200 {
        panic!("{}", world.log().text())
    }

    // A new token is needed before the file is written.
    rotate(&admin, "the-third-secret").await;
    revoke();
    let refused = world.get("/").await;
    assert!([401, 502].contains(&refused.status), "{}", refused.text());
    world.file("secret", "the-third-secret");
    eventually("the new secret to be used", || async { (world.get("/").await.status == 200).then_some(()) })
        .await;
}

async fn restart(mut keycloak: Keycloak) {
    let setup = scene(&keycloak, ODD_SECRET, "client_id = \"odd:id\"").await;
    let revoked = judge(&setup);
    let world = setup.start().await;
    world.get("/").await.expect_status(200);

    keycloak.stop();
    world.get("/").await.expect_status(200);
    *revoked.lock().unwrap() = world.upstream().last().bearer().unwrap().to_owned();
    let starting = tokio::task::spawn_blocking(move || {
        keycloak.start_again();
        keycloak
    });
    let mut back = None;
    let statuses = calling(&world, async { back = Some(starting.await.unwrap()) }).await;
    assert!(statuses.is_subset(&BTreeSet::from([200, 401, 503])), "{statuses:?}");
    eventually("tokens again", || async { (world.get("/").await.status == 200).then_some(()) }).await;
    world.ready().await;
}
