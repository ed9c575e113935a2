//! Replacements for the hosts that the documents name.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use serde_json::json;
use tempfile::NamedTempFile;

use super::support::blocking::nobody;
use super::support::oidc::OidcProvider;
use super::support::tls;

/// A document's address, and its replacement here.
pub(crate) type Replacement = (&'static str, String);

/// How the API responds.
const INVOICES: &str = "{\"invoices\":[{\"number\":42,\"total\":\"19.90\"}]}\n";

/// The issuer `https://idp.example.com`, the API `https://billing.example.com`, and free ports for bearerd.
pub(crate) struct World {
    issuer: OidcProvider,
    api: SocketAddr,
    /// The certificate authority of the API, if it is served over TLS, in a file.
    api_ca: Option<NamedTempFile>,
    proxy: u16,
    admin: u16,
}

impl World {
    /// The issuer is a certified OpenID provider whose token endpoint has this path.
    pub(crate) async fn start(token_path: &str) -> Self {
        let api = "https://billing.example.com";
        let issuer = OidcProvider::start(&json!({
            "clients": [{
                "client_id": "legacy-billing",
                "client_secret": "the-client-secret",
            }],
            "scopes": ["billing.read"],
            "resources": { api: { "scope": "billing.read" } },
            "resource": api,
            "routes": { "token": token_path },
        }))
        .await;
        assert_eq!(issuer.alias, None, "nothing here asks for client certificates");
        let [proxy, admin] = [nobody().port(), nobody().port()];
        Self { issuer, api: start_api(None), api_ca: None, proxy, admin }
    }

    /// The API has a certificate for `localhost`, and routes to the host that the program asks for trust it.
    pub(crate) fn over_tls(self) -> Self {
        let mut ca = NamedTempFile::new().unwrap();
        ca.write_all(tls::ca().pem.as_bytes()).unwrap();
        let api = start_api(Some(tls::localhost().server(&["http/1.1"])));
        Self { api, api_ca: Some(ca), ..self }
    }

    /// The table of what is put in the place of what a document says. Nothing else of a command or a file is touched.
    pub(crate) fn replacements(&self) -> Vec<Replacement> {
        let host = self.issuer.issuer.trim_start_matches("http://").to_owned();
        vec![
            ("https://idp.example.com", self.issuer.issuer.clone()),
            ("idp.example.com", host),
            ("https://billing.example.com", self.api_url()),
            ("billing.example.com", self.api_authority()),
            ("localhost:8080", format!("localhost:{}", self.proxy)),
            ("127.0.0.1:8080", format!("127.0.0.1:{}", self.proxy)),
            ("localhost:9180", format!("localhost:{}", self.admin)),
            ("127.0.0.1:9180", format!("127.0.0.1:{}", self.admin)),
        ]
    }

    fn api_url(&self) -> String {
        let scheme = if self.api_ca.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.api_authority())
    }

    fn api_authority(&self) -> String {
        if self.api_ca.is_some() { format!("localhost:{}", self.api.port()) } else { self.api.to_string() }
    }

    /// What is added at the end of a config, after its route: the addresses that it has by default, as free ports. A config
    /// for a program has none.
    pub(crate) fn addresses(&self) -> String {
        let Self { proxy, admin, .. } = self;
        if let Some(ca) = &self.api_ca {
            return format!("\ntls = {{ ca = {{ file = \"{}\" }} }}\n", ca.path().display());
        }
        format!(
            "\n[listener.main]\naddress = \"127.0.0.1:{proxy}\"\n\n[admin]\naddress = \"127.0.0.1:{admin}\"\n"
        )
    }
}

/// Answers whoever brings a token.
fn start_api(tls: Option<Arc<rustls::ServerConfig>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let tls = tls.clone();
            std::thread::spawn(move || match tls {
                None => drop(response(stream)),
                Some(config) => {
                    let session = rustls::ServerConnection::new(config).unwrap();
                    drop(response(rustls::StreamOwned::new(session, stream)));
                }
            });
        }
    });
    address
}

fn response(stream: impl Read + Write) -> std::io::Result<()> {
    let mut head = String::new();
    let mut lines = BufReader::new(stream);
    while !head.ends_with("\r\n\r\n") {
        if lines.read_line(&mut head)? == 0 {
            return Ok(());
        }
    }
    let head = head.to_lowercase();
    let good = head.starts_with("get /api/v2/invoices ") && head.contains("\r\nauthorization: bearer ");
    let (status, body) = if good { ("200 OK", INVOICES) } else { ("401 Unauthorized", "{}\n") };
    let length = body.len();
    write!(
        lines.get_mut(),
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    )
}
