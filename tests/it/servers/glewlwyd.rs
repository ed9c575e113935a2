//! glewlwyd, of Debian, with its database in SQLite.

use std::process::Command;

use serde_json::{Value, json};

use super::*;
use crate::support::nobody;
use crate::support::server::{self, command};
use crate::support::tls::{ca, localhost};

const NEEDS: &str = "apt-get install --no-install-recommends glewlwyd sqlite3";
/// Tables and an administrator, as the package sets them up.
const TABLES: &str = "/usr/share/dbconfig-common/data/glewlwyd/install/sqlite3";

/// A server, and the cookie of its administrator.
struct Glewlwyd {
    server: Server,
    cookie: String,
}

/// Starts it with the database `db` of its folder.
fn serve(folder: tempfile::TempDir, url: &str, tls: bool) -> Server {
    let address = nobody();
    let dir = folder.path().display();
    let url = url.replace("{port}", &address.port().to_string());
    let text = format!(
        "port = {}\nbind_address = \"127.0.0.1\"\nexternal_url = \"{url}\"\nlogin_url = \"login.html\"\n\
         api_prefix = \"api\"\nlog_mode = \"console\"\nlog_level = \"DEBUG\"\n\
         session_key = \"GLEWLWYD2_SESSION_ID\"\nadmin_scope = \"g_admin\"\nprofile_scope = \"g_profile\"\n\
         user_module_path = \"/usr/lib/glewlwyd/user\"\nclient_module_path = \"/usr/lib/glewlwyd/client\"\n\
         user_auth_scheme_module_path = \"/usr/lib/glewlwyd/scheme\"\nplugin_module_path = \"/usr/lib/glewlwyd/plugin\"\n\
         use_secure_connection = {tls}\nsecure_connection_key_file = \"{dir}/key.pem\"\n\
         secure_connection_pem_file = \"{dir}/cert.pem\"\nsecure_connection_ca_file = \"{dir}/ca.pem\"\n\
         hash_algorithm = \"SHA512\"\ndatabase = {{ type = \"sqlite3\"; path = \"{dir}/db\"; }};\n",
        address.port()
    );
    let identity = localhost();
    for (name, text) in [
        ("glewlwyd.conf", &text),
        ("cert.pem", &identity.certificate_pem),
        ("key.pem", &identity.key_pem),
        ("ca.pem", &ca().pem),
    ] {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let mut command = command("glewlwyd", NEEDS);
    command.arg(format!("--config-file={dir}/glewlwyd.conf"));
    Server::start(folder, address, None, command)
}

async fn start() -> Glewlwyd {
    let server = tokio::task::spawn_blocking(|| {
        let folder = server::folder();
        server::run(
            Command::new("sqlite3").arg(folder.path().join("db")).arg(format!(".read {TABLES}")),
            NEEDS,
        );
        serve(folder, "http://127.0.0.1:{port}", false)
    })
    .await
    .unwrap();
    let mut this = Glewlwyd { server, cookie: String::new() };
    let admin = json!({ "username": "admin", "password": "password" });
    let session = this.administer("POST", "/auth/", &admin).await;
    let cookie = session.header("set-cookie").unwrap();
    this.cookie = cookie.split(';').next().unwrap().to_owned();
    let scope = json!({ "name": "read", "display_name": "read", "password_required": false });
    this.administer("POST", "/scope/", &scope).await;
    for (name, seconds) in [("oidc", 60), ("brief", 5)] {
        this.administer("POST", "/mod/plugin/", &this.plugin(name, seconds, "rsa")).await;
    }
    for client in clients() {
        this.administer("POST", "/client/", &client).await;
    }
    this
}

fn client(id: &str, method: &str, more: Value) -> Value {
    let mut client = json!({
        "client_id": id, "enabled": true, "confidential": true, "authorization_type": ["client_credentials"],
        "scope": ["read"], "token_endpoint_auth_method": [method],
    });
    client.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    client
}

fn clients() -> [Value; 8] {
    let secret = |secret: &str| json!({ "client_secret": secret });
    [
        client("basic", "client_secret_basic", secret(ODD_SECRET)),
        client("od:d", "client_secret_post", secret(ODD_SECRET)),
        client("plain", "client_secret_basic", secret(SECRETS[0])),
        client("rotated", "client_secret_basic", secret(SECRETS[0])),
        client("hasher", "client_secret_jwt", secret(LONG_SECRET)),
        client("signer", "private_key_jwt", json!({ "jwks": jwks() })),
        client("holder", "tls_client_auth", json!({ "tls_client_auth_san_dns": "client.test" })),
        client(
            "prover",
            "client_secret_basic",
            json!({ "client_secret": SECRETS[0], "dpop_bound_access_tokens": "yes" }),
        ),
    ]
}

impl Glewlwyd {
    /// Asks its own API as its administrator.
    async fn administer(&self, method: &str, path: &str, body: &Value) -> Response {
        let call = RawRequest::new(method, &format!("/api{path}"))
            .header("content-type", "application/json")
            .header("cookie", &self.cookie)
            .body(body.to_string());
        let response = ask(self.server.address, call).await;
        assert_eq!(response.status, 200, "{method} {path} {body}: {}", response.text());
        response
    }

    /// The OpenID Connect plugin, signing with this key.
    fn plugin(&self, name: &str, seconds: u64, key_name: &str) -> Value {
        let mut private: Value = serde_json::from_str(&key(&format!("{key_name}.jwk.json"))).unwrap();
        private["alg"] = if key_name == "rsa" { "RS256" } else { "ES256" }.into();
        json!({ "module": "oidc", "name": name, "display_name": name, "enabled": true, "parameters": {
            "iss": format!("{}/api/{name}", self.server.url()),
            "jwt-type": if key_name == "rsa" { "rsa" } else { "ecdsa" },
            "jwt-key-size": "256",
            "jwks-private": json!({ "keys": [private] }).to_string(),
            "default-kid": format!("{key_name}-1"),
            "jwks-show": true,
            "access-token-duration": seconds, "refresh-token-duration": 600, "code-duration": 600,
            "refresh-token-rolling": true, "allow-non-oidc": true,
            "auth-type-code-enabled": false, "auth-type-token-enabled": false,
            "auth-type-id-token-enabled": false, "auth-type-none-enabled": false,
            "auth-type-password-enabled": false, "auth-type-client-enabled": true,
            "auth-type-device-enabled": false, "auth-type-refresh-enabled": false,
            "scope": [], "additional-parameters": [], "claims": [], "subject-type": "pairwise",
            "allowed-scope": ["openid", "read"],
            "introspection-revocation-allowed": true, "introspection-revocation-auth-scope": [],
            "introspection-revocation-allow-target-client": true,
            "request-parameter-allow": true, "request-maximum-exp": 3600,
            "client-cert-source": "TLS", "oauth-dpop-allowed": true, "oauth-dpop-iat-duration": 60,
            "client-pubkey-parameter": "pubkey", "client-jwks-parameter": "jwks",
            "client-jwks_uri-parameter": "jwks_uri", "client-secret-parameter": "client_secret",
        }})
    }

    /// Keys of an issuer table with discovery.
    fn keys(&self, more: &str) -> String {
        format!("issuer_url = \"{}/api/oidc\"\nscopes = [\"read\"]\n{more}", self.server.url())
    }

    fn preset(&self, more: &str) -> String {
        format!(
            "preset = \"glewlwyd\"\nvars = {{ base_url = \"{}\" }}\nscopes = [\"read\"]\n{more}",
            self.server.url()
        )
    }
}

#[tokio::test]
#[ignore = "needs glewlwyd, sqlite3"]
async fn every_method_of_authentication_is_accepted_and_wrong_settings_are_reported() {
    let glewlwyd = start().await;
    secrets(&glewlwyd).await;
    assertions(&glewlwyd).await;
    certificates(&glewlwyd).await;
    let dpop =
        format!("client_id = \"prover\"\ndpop = {{ private_key = {} }}", key_file("ec-p256.pkcs8.pem"));
    let call = accepted(SECRETS[0], &glewlwyd.preset(&dpop)).await;
    assert!(call.header("authorization").unwrap().starts_with("DPoP "));
}

async fn secrets(glewlwyd: &Glewlwyd) {
    // It decodes nothing, which the preset knows.
    let basic = "client_id = \"basic\"";
    let call = accepted(ODD_SECRET, &glewlwyd.preset(basic)).await;
    assert_eq!(claims(call.bearer().unwrap())["client_id"], "basic");
    told(ODD_SECRET, &glewlwyd.keys(basic), &["with basic_encoding = \"raw\": set that"]).await;
    let posted = "client_id = \"od:d\"\nclient_auth = \"client_secret_post\"";
    accepted(ODD_SECRET, &glewlwyd.preset(posted)).await;
    told("another secret", &glewlwyd.preset(basic), &["403", "check client_id and client_secret"]).await;
    let none = glewlwyd.preset("client_id = \"plain\"").replace("\"read\"", "\"write\"");
    told(SECRETS[0], &none, &["scope"]).await;
}

async fn assertions(glewlwyd: &Glewlwyd) {
    let hashed = "client_id = \"hasher\"\nclient_auth = \"client_secret_jwt\"";
    accepted(LONG_SECRET, &glewlwyd.preset(hashed)).await;
    for (file, kid) in [("rsa.pkcs8.pem", "rsa-1"), ("ec-p256.sec1.pem", "ec-p256-1")] {
        let signed = format!(
            "client_id = \"signer\"\nclient_auth = \"private_key_jwt\"\n# client_secret\nprivate_key = {}\n\
             jwt = {{ key_id = \"{kid}\" }}",
            key_file(file)
        );
        accepted("", &glewlwyd.preset(&signed)).await;
    }
    // Where discovery is used the audience is the issuer, and it wants its token endpoint, and says nothing.
    let endpoint = format!("audience = \"{}/api/oidc/token\"", glewlwyd.server.url());
    told(LONG_SECRET, &glewlwyd.keys(hashed), &["403", "jwt.audience", "the issuer accepts", &endpoint])
        .await;
}

async fn certificates(glewlwyd: &Glewlwyd) {
    let folder = server::folder();
    std::fs::copy(glewlwyd.server.folder.path().join("db"), folder.path().join("db")).unwrap();
    let identity = ca().issue(&["client.test"]);
    std::fs::write(folder.path().join("client.pem"), &identity.certificate_pem).unwrap();
    std::fs::write(folder.path().join("client.key"), &identity.key_pem).unwrap();
    let over_tls =
        tokio::task::spawn_blocking(|| serve(folder, "https://localhost:{port}", true)).await.unwrap();
    let file = |name: &str| format!("{{ file = \"{}\" }}", over_tls.folder.path().join(name).display());
    let keys = format!(
        "token_url = \"https://localhost:{}/api/oidc/token\"\nclient_id = \"holder\"\n# client_secret\n\
         scopes = [\"read\"]\nclient_auth = \"tls_client_auth\"\ncertificate = {}\nprivate_key = {}\n\
         tls = {{ ca = {} }}",
        over_tls.address.port(),
        file("client.pem"),
        file("client.key"),
        file("ca.pem")
    );
    accepted("", &keys).await;
}

#[tokio::test]
#[ignore = "needs glewlwyd, sqlite3"]
async fn short_lifetimes_rotations_a_revocation_and_a_restart_are_survived() {
    let glewlwyd = start().await;
    let address = glewlwyd.server.address;
    let with = async |id: &str| scene(SECRETS[0], &glewlwyd.preset(&format!("client_id = \"{id}\""))).await;

    let brief = glewlwyd.preset("client_id = \"plain\"").replace("\" }", "\", plugin = \"brief\" }");
    short_lifetimes(scene(SECRETS[0], &brief).await).await;
    rotated_secret(with("rotated").await, async |secret| {
        let changed = client("rotated", "client_secret_basic", json!({ "client_secret": secret }));
        glewlwyd.administer("PUT", "/client/rotated", &changed).await;
    })
    .await;
    let signed = "client_id = \"signer\"\nclient_auth = \"private_key_jwt\"\n# client_secret\n\
                  private_key = { file = \"key.json\" }";
    rotated_key_of_the_client(&glewlwyd.preset(signed)).await;
    rotated_signing_key(with("plain").await, async || {
        let changed = glewlwyd.plugin("oidc", 60, "ec-p256");
        glewlwyd.administer("PUT", "/mod/plugin/oidc", &changed).await;
        glewlwyd.administer("PUT", "/mod/plugin/oidc/reset/", &Value::Null).await;
        ask(address, RawRequest::get("/api/oidc/jwks")).await.json()
    })
    .await;
    revoked(with("plain").await, async |token| {
        let (client, form) = (("plain", SECRETS[0]), format!("token={token}"));
        post(address, "/api/oidc/revoke", client, &form).await.expect_status(200);
        let told = post(address, "/api/oidc/introspect", client, &form).await;
        told.json()["active"].as_bool().unwrap()
    })
    .await;
    let setup = with("plain").await;
    restart(glewlwyd.server, setup).await;
}
