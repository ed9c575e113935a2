//! Spring Authorization Server, in a program of one class that Maven builds.

use std::process::Command;

use serde_json::Value;

use super::*;
use crate::support::nobody;
use crate::support::server::{self, JAVA, built, command};
use crate::support::tls::{Identity, ca, localhost};

/// A server, and its port for https.
struct Spring {
    server: Server,
    https: u16,
}

async fn start() -> Spring {
    tokio::task::spawn_blocking(started).await.unwrap()
}

fn started() -> Spring {
    let built =
        built("spring-authorization-server", &["pom.xml", "src/main/java/issuer/Issuer.java"], |folder| {
            let quietly = ["--batch-mode", "--quiet", "clean", "package"];
            server::run(Command::new("mvn").args(quietly).current_dir(folder), JAVA);
        });
    let folder = server::folder();
    let identity = localhost();
    let trusted = ca().pem.clone() + &key("ec-p256.certificate.pem");
    for (name, text) in [
        ("clients.json", &clients().to_string()),
        ("cert.pem", &identity.certificate_pem),
        ("key.pem", &identity.key_pem),
        ("trusted.pem", &trusted),
    ] {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let [http, https] = [nobody(), nobody()];
    let mut command = command("java", JAVA);
    command
        .args(["-Xmx300m", "-XX:TieredStopAtLevel=1", "-jar"])
        .arg(built.join("target/issuer.jar"))
        .args(["--server.address=127.0.0.1", &format!("--server.port={}", https.port())])
        .args(["--server.ssl.certificate=cert.pem", "--server.ssl.certificate-private-key=key.pem"])
        .args(["--server.ssl.trust-certificate=trusted.pem", "--server.ssl.client-auth=want"])
        .args(["--clients=clients.json", &format!("--http={}", http.port())])
        .args([format!("--secret={ODD_SECRET}"), format!("--long-secret={LONG_SECRET}")])
        .arg(format!("--first-secret={}", SECRETS[0]));
    Spring { server: Server::start(folder, http, Some("/clients"), command), https: https.port() }
}

/// The public keys of clients, and the certificate of the one that has it registered.
fn clients() -> Value {
    let mut clients = jwks();
    let pem = key("ec-p256.certificate.pem");
    let base64: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    clients["keys"][1]["x5c"] = vec![base64].into();
    clients
}

impl Spring {
    fn preset(&self, more: &str) -> String {
        format!(
            "preset = \"spring\"\nvars = {{ issuer = \"{}\" }}\nscopes = [\"read\"]\n{more}",
            self.server.url()
        )
    }

    fn keys(&self, more: &str) -> String {
        format!("issuer_url = \"{}\"\nscopes = [\"read\"]\n{more}", self.server.url())
    }
}

#[tokio::test]
#[ignore = "needs java, mvn"]
async fn every_method_of_authentication_is_accepted_and_wrong_settings_are_reported() {
    let spring = start().await;
    secrets(&spring).await;
    assertions(&spring).await;
    certificates(&spring).await;
    let dpop = format!("client_id = \"basic\"\ndpop = {{ private_key = {} }}", key_file("ec-p256.pkcs8.pem"));
    let request = accepted(ODD_SECRET, &spring.preset(&dpop)).await;
    assert!(request.header("authorization").unwrap().starts_with("DPoP "));
}

async fn secrets(spring: &Spring) {
    let odd = "client_id = \"odd:id\"";
    let request = accepted(ODD_SECRET, &spring.preset(odd)).await;
    assert_eq!(claims(request.bearer().unwrap())["sub"], "odd:id");
    accepted(ODD_SECRET, &spring.keys(odd)).await;
    accepted(ODD_SECRET, &spring.preset("client_id = \"poster\"\nclient_auth = \"client_secret_post\""))
        .await;
    let basic = spring.keys("client_id = \"basic\"");
    let raw = format!("{basic}\nbasic_encoding = \"raw\"");
    told(ODD_SECRET, &raw, &["invalid_request", "the issuer accepts client_auth = \"client_secret_basic\""])
        .await;
    told("another secret", &basic, &["invalid_client", "client_secret"]).await;
    told(ODD_SECRET, &basic.replace("\"read\"", "\"write\""), &["invalid_scope", "scopes"]).await;
}

async fn assertions(spring: &Spring) {
    let hashed = "client_id = \"hasher\"\nclient_auth = \"client_secret_jwt\"";
    accepted(LONG_SECRET, &spring.preset(hashed)).await;
    told(LONG_SECRET, &spring.keys(hashed), &["the issuer accepts send_client_id = true: set that"]).await;
    for (file, alg) in [("rsa.pkcs8.pem", "RS256"), ("ec-p256.sec1.pem", "ES256")] {
        let kid = file.split('.').next().unwrap();
        let signed = format!(
            "client_id = \"signer-{alg}\"\nclient_auth = \"private_key_jwt\"\n# client_secret\nprivate_key = {}\n\
             jwt = {{ key_id = \"{kid}-1\" }}",
            key_file(file)
        );
        accepted("", &spring.preset(&signed)).await;
    }
    let other = spring.preset(&format!("{hashed}\njwt = {{ audience = \"https://other.test\" }}"));
    told(LONG_SECRET, &other, &["invalid_client", "jwt.audience"]).await;
}

async fn certificates(spring: &Spring) {
    let folder = spring.server.folder.path();
    let written = |name: &str, text: &str| {
        std::fs::write(folder.join(name), text).unwrap();
        format!("{{ file = \"{}\" }}", folder.join(name).display())
    };
    let roots = written("ca.pem", &ca().pem);
    let with = |id: &str, certificate: &str, private_key: &str| {
        format!(
            "token_url = \"https://localhost:{}/oauth2/token\"\nclient_id = \"{id}\"\n# client_secret\n\
             client_auth = \"tls_client_auth\"\ncertificate = {certificate}\nprivate_key = {private_key}\n\
             tls = {{ ca = {roots} }}",
            spring.https
        )
    };
    // A chain is one of the CA's to it, a single certificate one that is registered.
    let Identity { certificate_pem, key_pem, .. } = ca().issue(&["client.test"]);
    let chain = written("chain.pem", &format!("{certificate_pem}{}", ca().pem));
    let holder = with("holder", &chain, &written("client.key", &key_pem));
    accepted("", &holder).await;
    let [certificate, private_key] = ["ec-p256.certificate.pem", "ec-p256.pkcs8.pem"].map(key_file);
    accepted("", &with("self-signed", &certificate, &private_key)).await;
    told("", &with("holder", &certificate, &private_key), &["invalid_client", "certificate"]).await;
}

#[tokio::test]
#[ignore = "needs java, mvn"]
async fn short_lifetimes_rotations_a_revocation_and_a_restart_are_survived() {
    let spring = start().await;
    let address = spring.server.address;
    let with = async |secret, id: &str| scene(secret, &spring.preset(&format!("client_id = \"{id}\""))).await;
    let basic = async || with(ODD_SECRET, "basic").await;

    rotated_secret(with(SECRETS[0], "rotated").await, async |secret| {
        let path = format!("/rotate-secret?id=rotated&secret={secret}");
        ask(address, RawRequest::post(&path, "")).await.expect_status(200);
    })
    .await;
    rotated_signing_key(basic().await, async || {
        ask(address, RawRequest::post("/rotate-key", "")).await.expect_status(200);
        ask(address, RawRequest::get("/oauth2/jwks")).await.json()
    })
    .await;
    revoked(with(SECRETS[0], "plain").await, async |token| {
        let (client, form) = (("plain", SECRETS[0]), format!("token={token}"));
        post(address, "/oauth2/revoke", client, &form).await.expect_status(200);
        post(address, "/oauth2/introspect", client, &form).await.json()["active"].as_bool().unwrap()
    })
    .await;
    short_lifetimes(with(ODD_SECRET, "brief").await).await;
    let setup = basic().await;
    restart(spring.server, setup).await;
}
