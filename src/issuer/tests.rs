//! Token requests over loopback to a scripted server, and what the other tests of this module share.

use std::sync::mpsc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::clock::SystemClock;
use crate::config::client_auth::{ClientSecretPost, PrivateKeyJwt};
use crate::config::{ClientAuth, JwtConfig, JwtUse, Scopes, Source};

const TOKEN: &str = r#"{"access_token":"t","token_type":"Bearer","expires_in":60}"#;

/// A response: status and body. `None`: there is none.
type Answer = Option<(u16, String)>;

struct Server {
    origin: String,
    seen: mpsc::Receiver<String>,
}

impl Server {
    /// `answer` maps the server's origin and a path to the response.
    async fn start(answer: impl Fn(&str, &str) -> Answer + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        let (sender, seen) = mpsc::channel();
        let own = origin.clone();
        tokio::spawn(async move {
            let mut unanswered = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = Vec::new();
                while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                    assert!(stream.read_buf(&mut request).await.unwrap() > 0);
                }
                let request = String::from_utf8(request).unwrap();
                let path = request.split(' ').nth(1).unwrap().to_owned();
                sender.send(path.clone()).unwrap();
                match answer(&own, &path) {
                    Some((status, body)) => {
                        let length = body.len();
                        let text = format!(
                            "HTTP/1.1 {status} x\r\nlocation: /elsewhere\r\ncontent-length: {length}\r\n\r\n{body}"
                        );
                        // A client that has read enough may leave.
                        let _ = stream.write_all(text.as_bytes()).await;
                    }
                    None => unanswered.push(stream),
                }
            }
        });
        Self { origin, seen }
    }

    fn seen(&self) -> Vec<String> {
        self.seen.try_iter().collect()
    }
}

fn url(text: &str) -> HttpUrl {
    let rest = text.strip_prefix("http://").unwrap();
    let (authority, path) = rest.split_once('/').map_or((rest, ""), |(authority, path)| (authority, path));
    let (host, port) = authority.rsplit_once(':').unwrap();
    HttpUrl {
        text: text.to_owned(),
        https: false,
        host: host.to_owned(),
        port: port.parse().unwrap(),
        authority: authority.to_owned(),
        path_and_query: format!("/{path}"),
    }
}

fn issuer(endpoint: TokenEndpoint, change: impl FnOnce(&mut IssuerConfig)) -> Issuer {
    let mut config = fuzz::config();
    config.endpoint = endpoint;
    change(&mut config);
    Issuer::new(Arc::new(config), Arc::new(SystemClock))
}

fn at(text: &str) -> Issuer {
    issuer(TokenEndpoint::Url(url(text)), |_| {})
}

fn discovered(text: &str) -> Issuer {
    issuer(TokenEndpoint::Discovery(url(text)), |_| {})
}

fn key() -> CredentialKey {
    CredentialKey {
        issuer: "corp".into(),
        issuer_digest: [0; 32],
        scopes: Scopes::default(),
        params: Default::default(),
        subject: None,
    }
}

fn metadata(issuer: &str, endpoint: &str) -> Answer {
    Some((200, format!(r#"{{"issuer":"{issuer}","token_endpoint":"{endpoint}"}}"#)))
}

fn not_found() -> Answer {
    Some((404, String::new()))
}

const OPENID: &str = "/.well-known/openid-configuration";
const RFC8414: &str = "/.well-known/oauth-authorization-server";

#[tokio::test]
async fn t01_a_token_is_asked_of_the_url_as_written() {
    let server = Server::start(|_, _| Some((200, TOKEN.to_owned()))).await;
    let issuer = at(&format!("{}/a/%7E?q=1", server.origin));
    assert_eq!(issuer.fetch(&key()).await.unwrap().token, Secret::from("t"));
    assert_eq!(server.seen(), ["/a/%7E?q=1"]);
    assert!(issuer.endpoint().unwrap().ends_with("/a/%7E"), "the query may be secret");
}

#[tokio::test]
async fn t25_redirects_are_not_followed() {
    let server = Server::start(|_, _| Some((307, String::new()))).await;
    let error = at(&format!("{}/token", server.origin)).fetch(&key()).await.unwrap_err();
    assert_eq!((error.kind, error.http_status), (FailureKind::Unusable, Some(307)));
    assert_eq!(server.seen(), ["/token"]);
}

#[tokio::test]
async fn discovery_asks_once_and_openid_first() {
    let server = Server::start(|origin, path| match path {
        "/t/a/.well-known/openid-configuration" => {
            metadata(&format!("{origin}/t/a"), &format!("{origin}/token"))
        }
        "/token" => Some((200, TOKEN.to_owned())),
        _ => not_found(),
    })
    .await;
    let issuer = discovered(&format!("{}/t/a", server.origin));
    assert_eq!(issuer.endpoint(), None);
    for _ in 0..2 {
        issuer.fetch(&key()).await.unwrap();
    }
    assert_eq!(server.seen(), ["/t/a/.well-known/openid-configuration", "/token", "/token"]);
    assert!(issuer.endpoint().unwrap().ends_with("/token"));
}

#[tokio::test]
async fn discovery_goes_on_to_rfc_8414() {
    let server = Server::start(|origin, path| match path {
        RFC8414 => metadata(origin, &format!("{origin}/token")),
        "/token" => Some((200, TOKEN.to_owned())),
        _ => not_found(),
    })
    .await;
    discovered(&server.origin).fetch(&key()).await.unwrap();
    assert_eq!(server.seen(), [OPENID, RFC8414, "/token"]);
}

#[tokio::test]
async fn t108_another_issuer_ends_discovery_and_gets_no_secret() {
    let server = Server::start(|origin, path| match path {
        OPENID => metadata("http://127.0.0.1:1", &format!("{origin}/token")),
        _ => metadata(origin, &format!("{origin}/token")),
    })
    .await;
    let error = discovered(&server.origin).fetch(&key()).await.unwrap_err();
    assert_eq!(error.kind, FailureKind::Unusable);
    assert!(error.detail.contains("not byte for byte issuer_url"), "{error}");
    assert_eq!(server.seen(), [OPENID]);
}

#[tokio::test]
async fn t108_large_and_redirected_documents_are_refused() {
    let server = Server::start(|_, path| match path {
        OPENID => Some((200, "x".repeat(1024 * 1024))),
        _ => Some((302, String::new())),
    })
    .await;
    let error = discovered(&server.origin).fetch(&key()).await.unwrap_err();
    assert_eq!(error.kind, FailureKind::Unusable);
    for part in ["262144 bytes", "302, and bearerd does not follow redirects", "check issuer_url"] {
        assert!(error.detail.contains(part), "{error}");
    }
    assert_eq!(server.seen(), [OPENID, RFC8414]);
}

#[tokio::test]
async fn discovery_at_a_busy_issuer_is_unavailable() {
    let server = Server::start(|_, _| Some((503, String::new()))).await;
    let error = discovered(&server.origin).fetch(&key()).await.unwrap_err();
    assert_eq!((error.kind, error.http_status), (FailureKind::Unavailable, Some(503)));
}

#[tokio::test]
async fn an_endpoint_that_is_gone_is_looked_up_again() {
    let moved = AtomicBool::new(false);
    let server = Server::start(move |origin, path| match path {
        OPENID if moved.load(Ordering::SeqCst) => metadata(origin, &format!("{origin}/new")),
        OPENID => metadata(origin, &format!("{origin}/old")),
        "/new" => Some((200, TOKEN.to_owned())),
        _ => {
            moved.store(true, Ordering::SeqCst);
            not_found()
        }
    })
    .await;
    let issuer = discovered(&server.origin);
    assert_eq!(issuer.fetch(&key()).await.unwrap_err().http_status, Some(404));
    issuer.fetch(&key()).await.unwrap();
    assert_eq!(server.seen(), [OPENID, "/old", OPENID, "/new"]);
}

#[tokio::test]
async fn t37_a_refused_connection_names_whom_and_what_to_check() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    for issuer in [at(&format!("{origin}/token")), discovered(&origin)] {
        let error = issuer.fetch(&key()).await.unwrap_err();
        assert_eq!((error.kind, error.http_status), (FailureKind::Unavailable, None));
        assert!(error.detail.starts_with("issuer corp: 127.0.0.1:"), "{error}");
        assert!(error.detail.contains("_url of [issuer.corp]"), "{error}");
    }
}

#[tokio::test]
async fn t38_silence_is_a_timeout_discovery_included() {
    let server = Server::start(|origin, path| match path {
        OPENID => metadata(origin, &format!("{origin}/token")),
        _ => None,
    })
    .await;
    let timeout = Duration::from_millis(300);
    for endpoint in [
        TokenEndpoint::Url(url(&format!("{}/token", server.origin))),
        TokenEndpoint::Discovery(url(&server.origin)),
        TokenEndpoint::Discovery(url(&format!("{}/silent", server.origin))),
    ] {
        let begun = std::time::Instant::now();
        let issuer = issuer(endpoint, |config| config.timeout = Some(timeout));
        let error = issuer.fetch(&key()).await.unwrap_err();
        assert_eq!(error.kind, FailureKind::Timeout);
        assert!(error.detail.contains("within 300ms"), "{error}");
        assert!((timeout..Duration::from_secs(20)).contains(&begun.elapsed()));
    }
}

#[tokio::test]
async fn an_unreadable_secret_is_reported_and_no_request_is_sent() {
    let server = Server::start(|_, _| Some((200, TOKEN.to_owned()))).await;
    let issuer = issuer(TokenEndpoint::Url(url(&format!("{}/token", server.origin))), |config| {
        config.client_auth =
            ClientAuth::with_secret(&ClientSecretPost, Source::file("/nowhere/secret".into(), None));
    });
    let error = issuer.fetch(&key()).await.unwrap_err();
    assert_eq!(error.kind, FailureKind::Credential);
    assert!(error.detail.contains("file /nowhere/secret: no such file"), "{error}");
    assert!(server.seen().is_empty());
}

#[test]
fn a_fetch_can_move_between_threads() {
    fn check<T: Send>(_: &T) {}
    check(&at("http://127.0.0.1:1/token").fetch(&key()));
}

/// A file in the folder of test keys.
pub(super) fn key_file(name: &str) -> Source {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/fixtures/keys");
    Source::file(folder.join(name), None)
}

/// `private_key_jwt` with a key in the folder of test keys.
pub(super) fn signing(key: &str) -> IssuerConfig {
    IssuerConfig {
        client_auth: ClientAuth::new(&PrivateKeyJwt),
        private_key: Some(key_file(key)),
        jwt: Some(JwtConfig::with_defaults(JwtUse::ClientAssertion)),
        ..fuzz::config()
    }
}

pub(super) fn key_of(config: &IssuerConfig) -> CredentialKey {
    CredentialKey {
        issuer: config.name.clone(),
        issuer_digest: config.digest,
        scopes: Scopes::from(["read", "write"]),
        params: config.params.clone(),
        subject: None,
    }
}

pub(super) fn failure(kind: FailureKind, detail: &str) -> IssuerError {
    IssuerError { http_status: Some(401), ..IssuerError::new(kind, format!("issuer corp: {detail}")) }
}

#[test]
fn the_difference_of_clocks_has_a_sign() {
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let answer = |date: &str| {
        let mut headers = HeaderMap::new();
        headers.insert(DATE, date.parse().unwrap());
        LastResponse::of(http::StatusCode::OK, &headers, at).clock_difference()
    };
    assert_eq!(answer("Sun, 09 Sep 2001 01:46:40 GMT"), Some(0));
    assert_eq!(answer("Sun, 09 Sep 2001 01:47:40 GMT"), Some(60));
    assert_eq!(answer("Sun, 09 Sep 2001 01:46:10 GMT"), Some(-30));
    assert_eq!(answer("yesterday"), None);
}
