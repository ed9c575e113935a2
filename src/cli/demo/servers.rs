//! The demo's authorization server and its API, and the tokens that pass between them. The tokens are opaque: only the demo can
//! tell whether one is its own, and it keeps no list.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hmac::{self, HMAC_SHA256};
use aws_lc_rs::rand;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Map, Value, json};

use crate::clock::{Clock, SystemClock};

/// The largest body of a request.
const MAX_BODY: usize = 64 * 1024;

/// A request with its whole body.
type DemoRequest = Request<Bytes>;
pub(super) type DemoResponse = Response<Full<Bytes>>;

/// Serves on a free loopback port, on a thread of its own, until the process ends.
pub(super) fn start(
    name: &str,
    response: impl Fn(&DemoRequest) -> DemoResponse + Send + Sync + 'static,
) -> io::Result<SocketAddr> {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let listener = {
        let _entered = runtime.enter();
        tokio::net::TcpListener::from_std(listener)?
    };
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || runtime.block_on(accept(listener, Arc::new(response))))?;
    Ok(address)
}

async fn accept<F>(listener: tokio::net::TcpListener, response: Arc<F>)
where
    F: Fn(&DemoRequest) -> DemoResponse + Send + Sync + 'static,
{
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Probably no descriptor is left: wait until others are closed.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let response = Arc::clone(&response);
        let service = service_fn(move |request| {
            let response = Arc::clone(&response);
            async move { Ok::<_, Infallible>(respond(request, &*response).await) }
        });
        tokio::spawn(
            http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service),
        );
    }
}

async fn respond(
    request: Request<Incoming>,
    response: &(impl Fn(&DemoRequest) -> DemoResponse + Sync),
) -> DemoResponse {
    let (head, body) = request.into_parts();
    match Limited::new(body, MAX_BODY).collect().await {
        Ok(body) => response(&Request::from_parts(head, body.to_bytes())),
        Err(_) => json_response(
            StatusCode::PAYLOAD_TOO_LARGE,
            &serde_json::json!({"error": "the body is too large"}),
        ),
    }
}

fn json_response(status: StatusCode, value: &Value) -> DemoResponse {
    let mut response = Response::new(Full::new(Bytes::from(format!("{value:#}\n"))));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

pub(super) struct Issuer {
    /// The `Authorization` value that its client sends. Form encoding would not change ID and secret.
    authorization: String,
    tokens: Arc<Tokens>,
}

impl Issuer {
    pub(super) fn new(client_id: &str, client_secret: &str, tokens: Arc<Tokens>) -> Self {
        let authorization = format!("Basic {}", STANDARD.encode(format!("{client_id}:{client_secret}")));
        Self { authorization, tokens }
    }

    pub(super) fn respond_to(&self, request: &DemoRequest) -> DemoResponse {
        if request.uri().path() != "/token" || request.method() != Method::POST {
            return json_response(
                StatusCode::NOT_FOUND,
                &json!({"error": "ask for tokens with POST /token"}),
            );
        }
        let given = request.headers().get(header::AUTHORIZATION);
        if given.is_none_or(|given| given.as_bytes() != self.authorization.as_bytes()) {
            let mut response = json_response(StatusCode::UNAUTHORIZED, &json!({"error": "invalid_client"}));
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic"));
            return response;
        }
        let mut params = request.body().split(|byte| *byte == b'&');
        if !params.any(|param| param == b"grant_type=client_credentials") {
            return json_response(StatusCode::BAD_REQUEST, &json!({"error": "unsupported_grant_type"}));
        }
        match self.tokens.issue(SystemClock.wall()) {
            Ok(token) => json_response(
                StatusCode::OK,
                &json!({"access_token": token, "token_type": "Bearer", "expires_in": LIFETIME.as_secs()}),
            ),
            Err(_) => json_response(StatusCode::INTERNAL_SERVER_ERROR, &json!({"error": "server_error"})),
        }
    }
}

/// How many characters of a token are shown: enough to see that it changes.
const SHOWN: usize = 6;

pub(super) struct Echo {
    tokens: Arc<Tokens>,
}

impl Echo {
    pub(super) fn new(tokens: Arc<Tokens>) -> Self {
        Self { tokens }
    }

    pub(super) fn respond_to(&self, request: &DemoRequest) -> DemoResponse {
        let valid =
            bearer(request.headers()).is_some_and(|token| self.tokens.is_valid(token, SystemClock.wall()));
        if !valid {
            let mut response = json_response(
                StatusCode::UNAUTHORIZED,
                &json!({"error": "no token of the demo issuer came along"}),
            );
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            return response;
        }
        json_response(
            StatusCode::OK,
            &json!({
                "message": "arrived with a valid token of the demo issuer",
                "method": request.method().as_str(),
                "path": request.uri().path_and_query().map(ToString::to_string),
                "headers": shown_headers(request.headers()),
                "body_bytes": request.body().len(),
            }),
        )
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")
}

/// The header fields as they arrived, with the token masked.
fn shown_headers(headers: &HeaderMap) -> Map<String, Value> {
    headers
        .keys()
        .map(|name| {
            let values: Vec<_> =
                headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
            let value =
                if name == header::AUTHORIZATION { masked_credential(headers) } else { values.join(", ") };
            (name.to_string(), Value::String(value))
        })
        .collect()
}

fn masked_credential(headers: &HeaderMap) -> String {
    let token = bearer(headers).unwrap_or_default();
    let start: String = token.chars().take(SHOWN).collect();
    format!("Bearer {start}… ({} characters)", token.len())
}

/// Short, so that a reader can watch a renewal.
pub(super) const LIFETIME: Duration = Duration::from_secs(10);

/// Bytes of a token: a nonce, its number, when it expires, and a MAC over all.
const NONCE: usize = 16;
const SIGNED: usize = NONCE + 8 + 8;

pub(super) struct Tokens {
    key: hmac::Key,
    issued: AtomicU64,
    /// Tokens up to this number are refused.
    revoked: AtomicU64,
}

impl Tokens {
    pub(super) fn new() -> Result<Self, Unspecified> {
        let mut key = [0; 32];
        rand::fill(&mut key)?;
        Ok(Self {
            key: hmac::Key::new(HMAC_SHA256, &key),
            issued: AtomicU64::new(0),
            revoked: AtomicU64::new(0),
        })
    }

    pub(super) fn issue(&self, now: SystemTime) -> Result<String, Unspecified> {
        let mut bytes = vec![0; NONCE];
        rand::fill(&mut bytes)?;
        let number = self.issued.fetch_add(1, Ordering::SeqCst) + 1;
        bytes.extend_from_slice(&number.to_be_bytes());
        bytes.extend_from_slice(&seconds(now + LIFETIME).to_be_bytes());
        let mac = hmac::sign(&self.key, &bytes);
        bytes.extend_from_slice(mac.as_ref());
        Ok(URL_SAFE_NO_PAD.encode(bytes))
    }

    /// The number of tokens so far.
    pub(super) fn issued(&self) -> u64 {
        self.issued.load(Ordering::SeqCst)
    }

    /// Refuses every token issued so far.
    pub(super) fn revoke(&self) {
        self.revoked.store(self.issued(), Ordering::SeqCst);
    }

    /// Whether it was issued here, was not revoked and has not expired.
    pub(super) fn is_valid(&self, token: &str, now: SystemTime) -> bool {
        let Ok(bytes) = URL_SAFE_NO_PAD.decode(token) else { return false };
        let Some((signed, mac)) = bytes.split_at_checked(SIGNED) else { return false };
        let Some((rest, expires)) = signed.split_last_chunk() else { return false };
        let Some((_, number)) = rest.split_last_chunk() else { return false };
        hmac::verify(&self.key, signed, mac).is_ok()
            && u64::from_be_bytes(*number) > self.revoked.load(Ordering::SeqCst)
            && seconds(now) < u64::from_be_bytes(*expires)
    }
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Random bytes as text.
pub(super) fn random_text(bytes: usize) -> Result<String, Unspecified> {
    let mut random = vec![0; bytes];
    rand::fill(&mut random)?;
    Ok(URL_SAFE_NO_PAD.encode(random))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(secret: &str, body: &'static str) -> DemoResponse {
        let issuer = Issuer::new("demo-client", "right", Arc::new(Tokens::new().unwrap()));
        let basic = STANDARD.encode(format!("demo-client:{secret}"));
        let request = Request::post("http://localhost/token")
            .header(header::AUTHORIZATION, format!("Basic {basic}"))
            .body(Bytes::from_static(body.as_bytes()))
            .unwrap();
        issuer.respond_to(&request)
    }

    #[test]
    fn gives_its_client_a_token_and_nobody_else() {
        assert_eq!(ask("right", "grant_type=client_credentials&scope=echo.read").status(), StatusCode::OK);
        assert_eq!(ask("wrong", "grant_type=client_credentials").status(), StatusCode::UNAUTHORIZED);
        assert_eq!(ask("right", "grant_type=password").status(), StatusCode::BAD_REQUEST);
    }

    async fn send(authorization: Option<String>) -> (StatusCode, String, Arc<Tokens>) {
        let tokens = Arc::new(Tokens::new().unwrap());
        let token = authorization.unwrap_or_else(|| tokens.issue(SystemClock.wall()).unwrap());
        let request = Request::get("http://localhost/hello?a=b")
            .header(header::AUTHORIZATION, format!("Bearer {token}"))
            .body(Bytes::new())
            .unwrap();
        let response = Echo::new(Arc::clone(&tokens)).respond_to(&request);
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let body = String::from_utf8(body.to_vec()).unwrap();
        assert!(!body.contains(&token), "the whole token is shown");
        (status, body, tokens)
    }

    #[tokio::test]
    async fn says_what_arrived_but_not_the_token() {
        let (status, body, _) = send(None).await;
        assert_eq!(status, StatusCode::OK);
        assert!(body.contains("/hello?a=b") && body.contains("… ("), "{body}");
    }

    #[tokio::test]
    async fn refuses_a_token_of_somebody_else() {
        assert_eq!(send(Some("AAAAAAAAAAAA".to_owned())).await.0, StatusCode::UNAUTHORIZED);
    }

    #[test]
    fn a_token_is_valid_where_it_was_issued_until_it_ends() {
        let (tokens, others) = (Tokens::new().unwrap(), Tokens::new().unwrap());
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let token = tokens.issue(now).unwrap();
        assert!(tokens.is_valid(&token, now));
        assert!(!others.is_valid(&token, now));
        assert!(!tokens.is_valid(&token, now + LIFETIME));
        assert!(!tokens.is_valid("", now) && !tokens.is_valid("AAAA", now));
        assert_ne!(token, tokens.issue(now).unwrap());
        tokens.revoke();
        assert!(!tokens.is_valid(&token, now), "revoked");
        assert!(tokens.is_valid(&tokens.issue(now).unwrap(), now));
    }
}
