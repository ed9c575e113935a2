//! Keycloak, installed and prepared by Maven.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::*;
use crate::support::nobody;
use crate::support::server::{self, command, prepared};
use crate::support::tls::{Identity, ca, localhost};

const VERSION: &str = "26.5.6";
const ROTATED: &str = "7f6c1c2e-0000-4000-8000-000000000001";

fn realm() -> Value {
    json!({
        "id": "test",
        "realm": "test",
        "enabled": true,
        "accessTokenLifespan": 60,
        "clients": [
            client("odd:id", json!({ "secret": ODD_SECRET })),
            client("plain", json!({ "secret": SECRETS[0] })),
            client("brief", json!({ "secret": ODD_SECRET, "attributes": { "access.token.lifespan": "8" } })),
            client("rotated", json!({ "id": ROTATED, "secret": SECRETS[0] })),
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
            client("subject", json!({ "secret": SECRETS[0], "protocolMappers": [audience("exchanger")] })),
            client("exchanger", json!({
                "secret": ODD_SECRET,
                "attributes": { "standard.token.exchange.enabled": "true" },
                "protocolMappers": [audience("ledger")],
            })),
            client("ledger", json!({ "secret": SECRETS[0] })),
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
            "clientRoles": { "realm-management": ["manage-clients", "manage-realm"] },
        }],
    })
}

/// The client's tokens name this one in their audience.
fn audience(of: &str) -> Value {
    json!({
        "name": of,
        "protocol": "openid-connect",
        "protocolMapper": "oidc-audience-mapper",
        "config": { "included.client.audience": of, "access.token.claim": "true" },
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

/// A server, and its port for https.
struct Keycloak {
    server: Server,
    https: u16,
}

async fn start() -> Keycloak {
    tokio::task::spawn_blocking(started).await.unwrap()
}

fn started() -> Keycloak {
    let installed = prepared("keycloak", VERSION, install).join(format!("keycloak-{VERSION}"));
    let realm = realm().to_string();
    let with_realm = prepared("keycloak-realm", &format!("{VERSION} {realm}"), |folder| {
        lay_out(&installed, folder);
        let _ = std::fs::remove_dir_all(folder.join("data"));
        std::fs::write(folder.join("realm.json"), realm).unwrap();
        kc(folder, &["import", "--optimized", "--file", "realm.json"]);
    });
    let folder = server::folder();
    lay_out(&installed, folder.path());
    let data = [with_realm.join("data"), folder.path().join("data")];
    server::run(Command::new("cp").arg("-r").args(data), "apt-get install coreutils");
    let identity = localhost();
    std::fs::write(folder.path().join("cert.pem"), identity.certificate_pem).unwrap();
    std::fs::write(folder.path().join("key.pem"), identity.key_pem).unwrap();
    std::fs::write(folder.path().join("ca.pem"), &ca().pem).unwrap();
    let trusted = ca().pem.clone() + &key("ec-p256.certificate.pem");
    std::fs::write(folder.path().join("trusted.pem"), trusted).unwrap();
    let [http, https] = [nobody(), nobody()];
    let mut command = command("sh", server::JAVA);
    command
        .args(["bin/kc.sh", "start", "--optimized", "--cache=local", "--hostname-strict=false"])
        .args(["--http-enabled=true", "--http-host=127.0.0.1", &format!("--http-port={}", http.port())])
        .args(["--https-certificate-file=cert.pem", "--https-certificate-key-file=key.pem"])
        .args(["--truststore-paths=trusted.pem", &format!("--https-port={}", https.port())])
        .envs(SMALL);
    Keycloak { server: Server::start(folder, http, Some("/realms/test"), command), https: https.port() }
}

const SMALL: [(&str, &str); 1] = [("JAVA_OPTS_APPEND", "-Xms64m -Xmx300m -XX:TieredStopAtLevel=1")];

fn kc(server: &Path, args: &[&str]) {
    server::run(Command::new("sh").arg("bin/kc.sh").args(args).envs(SMALL).current_dir(server), server::JAVA);
}

fn install(folder: &Path) {
    let archive = folder.join(format!("keycloak-quarkus-dist-{VERSION}.zip"));
    if !archive.exists() {
        server::run(
            Command::new("mvn")
                .args(["--batch-mode", "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy"])
                .arg(format!("-Dartifact=org.keycloak:keycloak-quarkus-dist:{VERSION}:zip"))
                .arg(format!("-DoutputDirectory={}", folder.display()))
                .current_dir(folder),
            server::JAVA,
        );
    }
    let server = folder.join(format!("keycloak-{VERSION}"));
    let _ = std::fs::remove_dir_all(&server);
    server::run(
        Command::new("jar").args(["--extract", "--file"]).arg(archive).current_dir(folder),
        server::JAVA,
    );
    kc(&server, &["build", "--db=dev-file", "--https-client-auth=request"]);
}

/// A folder of its own for one server. Where the script is, there it looks for all the rest.
fn lay_out(installed: &Path, folder: &Path) {
    for shared in ["lib", "conf", "providers", "themes", "version.txt"] {
        let link = folder.join(shared);
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink(installed.join(shared), link).unwrap();
    }
    std::fs::create_dir_all(folder.join("bin")).unwrap();
    std::fs::copy(installed.join("bin/kc.sh"), folder.join("bin/kc.sh")).unwrap();
}

impl Keycloak {
    /// Keys of an issuer table.
    fn keys(&self, more: &str) -> String {
        format!("issuer_url = \"{}/realms/test\"\n{more}", self.server.url())
    }

    fn preset(&self, name: &str, more: &str) -> String {
        format!(
            "preset = \"{name}\"\nvars = {{ base_url = \"{}\", realm = \"test\" }}\n{more}",
            self.server.url()
        )
    }
}

#[tokio::test]
#[ignore = "needs java, mvn"]
async fn every_method_of_authentication_is_accepted_and_wrong_settings_are_reported() {
    let keycloak = start().await;
    secrets(&keycloak).await;
    assertions(&keycloak).await;
    certificates(&keycloak).await;
    proofs(&keycloak).await;
}

async fn secrets(keycloak: &Keycloak) {
    let call = accepted(ODD_SECRET, &keycloak.preset("keycloak", "client_id = \"odd:id\"")).await;
    assert_eq!(claims(call.bearer().unwrap())["azp"], "odd:id");
    let odd = keycloak.keys("client_id = \"odd:id\"");
    accepted(ODD_SECRET, &odd).await;
    // Its aliases for mutual TLS are not https here, and nobody wants them.
    accepted(ODD_SECRET, &odd.replace("127.0.0.1", "localhost")).await;
    let brief = keycloak.keys("client_id = \"brief\"");
    told(
        ODD_SECRET,
        &format!("{brief}\nbasic_encoding = \"raw\""),
        &["the issuer accepts client_auth = \"client_secret_post\": set that"],
    )
    .await;
    told("another secret", &brief, &["unauthorized_client", "client_secret"]).await;
}

async fn assertions(keycloak: &Keycloak) {
    let hashed = keycloak.keys("client_id = \"hasher\"\nclient_auth = \"client_secret_jwt\"");
    accepted(LONG_SECRET, &hashed).await;
    for (file, alg) in [("rsa.pkcs8.pem", "RS256"), ("ec-p256.sec1.pem", "ES256")] {
        let kid = file.split('.').next().unwrap();
        let signed = format!(
            "client_id = \"signer\"\n# client_secret\nprivate_key = {}\njwt = {{ alg = \"{alg}\", key_id = \"{kid}-1\" }}",
            key_file(file)
        );
        accepted("", &keycloak.preset("keycloak-jwt", &signed)).await;
    }
    let other = format!("{hashed}\njwt = {{ audience = \"https://other.test\" }}");
    told(LONG_SECRET, &other, &["Invalid token audience", "jwt.audience"]).await;
    let posted = keycloak.keys("client_id = \"hasher\"\nclient_auth = \"client_secret_post\"");
    told(LONG_SECRET, &posted, &["the issuer accepts client_auth = \"client_secret_jwt\""]).await;
}

async fn certificates(keycloak: &Keycloak) {
    let ca = keycloak.server.folder.path().join("ca.pem");
    let holder = |certificate: &str, private_key: &str| {
        format!(
            "issuer_url = \"https://localhost:{}/realms/test\"\nclient_id = \"holder\"\n# client_secret\n\
             client_auth = \"tls_client_auth\"\ncertificate = {certificate}\n\
             private_key = {private_key}\ntls = {{ ca = {{ file = \"{}\" }} }}",
            keycloak.https,
            ca.display()
        )
    };
    let [certificate, private_key] = ["ec-p256.certificate.pem", "ec-p256.pkcs8.pem"].map(key_file);
    accepted("", &holder(&certificate, &private_key)).await;
    let Identity { certificate_pem, key_pem, .. } = crate::support::tls::ca().issue(&["other.test"]);
    let written = |name: &str, text: String| {
        let path = keycloak.server.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        format!("{{ file = \"{}\" }}", path.display())
    };
    let other = holder(&written("other.pem", certificate_pem), &written("other.key", key_pem));
    told("", &other, &["invalid_client"]).await;
}

async fn proofs(keycloak: &Keycloak) {
    let prover = keycloak.keys("client_id = \"prover\"");
    let dpop = format!("{prover}\ndpop = {{ private_key = {} }}", key_file("ec-p256.pkcs8.pem"));
    let call = accepted(ODD_SECRET, &dpop).await;
    let token =
        call.header("authorization").unwrap().strip_prefix("DPoP ").expect("a token that is bound to a key");
    assert!(claims(token)["cnf"]["jkt"].is_string());
    told(ODD_SECRET, &prover, &["DPoP proof is missing", "dpop"]).await;
}

/// The token of one client is exchanged for one of another client, with another audience (RFC 8693).
#[tokio::test]
#[ignore = "needs java, mvn"]
async fn a_token_is_exchanged_for_another_audience() {
    let keycloak = start().await;
    let exchange = |audience: &str| {
        let keys = format!("client_id = \"exchanger\"\nparams = {{ audience = \"{audience}\" }}");
        keycloak
            .preset("keycloak-exchange", &keys)
            .replace("realm = \"test\" }", "realm = \"test\", subject = \"inner\" }")
    };
    let scene = async |audience: &str| {
        let setup = scene(ODD_SECRET, &exchange(audience)).await;
        setup.file("subject", SECRETS[0]);
        setup.more(&format!(
            "[issuer.inner]\n{}",
            keycloak.preset("keycloak", "client_id = \"subject\"\nclient_secret = { file = \"subject\" }")
        ))
    };
    let world = scene("ledger").await.start().await;
    world.get("/").await.expect_status(200);
    let token = world.upstream().last().bearer().unwrap().to_owned();
    assert_eq!((&claims(&token)["azp"], &claims(&token)["aud"]), (&json!("exchanger"), &json!("ledger")));

    let refused = scene("nobody").await.start().await;
    let response = refused.get("/").await;
    response.expect_problem(502, "token_refused");
    assert!(response.text().contains("issuer corp: "), "{}", response.text());
}

#[tokio::test]
#[ignore = "needs java, mvn"]
async fn short_lifetimes_rotations_a_revocation_and_a_restart_are_survived() {
    let keycloak = start().await;
    let with = async |secret, id: &str| scene(secret, &keycloak.keys(&format!("client_id = \"{id}\""))).await;
    let plain = async || with(SECRETS[0], "plain").await;
    let admin = with(ODD_SECRET, "admin").await;
    let admin = admin.route(&format!("upstream = \"{}\"", keycloak.server.url())).start().await;
    let address = keycloak.server.address;

    rotated_secret(with(SECRETS[0], "rotated").await, async |secret| {
        let path = format!("/admin/realms/test/clients/{ROTATED}");
        administer(&admin, "PUT", &path, &json!({ "secret": secret }), 204).await;
    })
    .await;
    let signed = "client_id = \"signer\"\n# client_secret\nclient_auth = \"private_key_jwt\"\n\
                  private_key = { file = \"key.json\" }";
    rotated_key_of_the_client(&keycloak.keys(signed)).await;
    rotated_signing_key(plain().await, async || {
        let key = json!({
            "name": "newer", "parentId": "test",
            "providerId": "rsa-generated", "providerType": "org.keycloak.keys.KeyProvider",
            "config": { "priority": ["200"], "algorithm": ["RS256"], "keySize": ["2048"] },
        });
        administer(&admin, "POST", "/admin/realms/test/components", &key, 201).await;
        ask(address, RawRequest::get("/realms/test/protocol/openid-connect/certs")).await.json()
    })
    .await;
    revoked(plain().await, async |token| {
        let endpoint = "/realms/test/protocol/openid-connect";
        let client = ("plain", SECRETS[0]);
        let form = format!("token={token}");
        post(address, &format!("{endpoint}/revoke"), client, &form).await.expect_status(200);
        let told = post(address, &format!("{endpoint}/token/introspect"), client, &form).await;
        told.json()["active"].as_bool().unwrap()
    })
    .await;
    short_lifetimes(with(ODD_SECRET, "brief").await).await;
    let setup = plain().await;
    restart(keycloak.server, setup).await;
}

/// Asks Keycloak's own API, with a token for it that bearerd puts on.
async fn administer(admin: &World, method: &str, path: &str, body: &Value, status: u16) {
    let call =
        RawRequest::new(method, path).header("content-type", "application/json").body(body.to_string());
    let response = admin.exchange(call).await;
    assert_eq!(response.status, status, "{}", response.text());
}
