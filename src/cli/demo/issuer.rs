//! The demo's authorization server: client credentials (RFC 6749 section 4.4) for one client.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderValue, Method, StatusCode, header};
use serde_json::json;

use super::server::{self, Answer, DemoRequest};
use super::tokens::{LIFETIME, Tokens};
use crate::clock::{Clock, SystemClock};

pub(super) struct Issuer {
    /// The `Authorization` value that its client sends. Id and secret are plain, so encoding them changes nothing.
    authorization: String,
    tokens: Arc<Tokens>,
}

impl Issuer {
    pub(super) fn new(client_id: &str, client_secret: &str, tokens: Arc<Tokens>) -> Self {
        let authorization = format!("Basic {}", STANDARD.encode(format!("{client_id}:{client_secret}")));
        Self { authorization, tokens }
    }

    pub(super) fn answer(&self, request: &DemoRequest) -> Answer {
        if request.uri().path() != "/token" || request.method() != Method::POST {
            return server::json(StatusCode::NOT_FOUND, &json!({"error": "ask for tokens with POST /token"}));
        }
        let given = request.headers().get(header::AUTHORIZATION);
        if given.is_none_or(|given| given.as_bytes() != self.authorization.as_bytes()) {
            let mut answer = server::json(StatusCode::UNAUTHORIZED, &json!({"error": "invalid_client"}));
            answer.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic"));
            return answer;
        }
        let mut params = request.body().split(|byte| *byte == b'&');
        if !params.any(|param| param == b"grant_type=client_credentials") {
            return server::json(StatusCode::BAD_REQUEST, &json!({"error": "unsupported_grant_type"}));
        }
        match self.tokens.issue(SystemClock.wall()) {
            Ok(token) => server::json(
                StatusCode::OK,
                &json!({"access_token": token, "token_type": "Bearer", "expires_in": LIFETIME.as_secs()}),
            ),
            Err(_) => server::json(StatusCode::INTERNAL_SERVER_ERROR, &json!({"error": "server_error"})),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Request;
    use hyper::body::Bytes;

    use super::*;

    fn ask(secret: &str, body: &'static str) -> Answer {
        let issuer = Issuer::new("demo-client", "right", Arc::new(Tokens::new().unwrap()));
        let basic = STANDARD.encode(format!("demo-client:{secret}"));
        let request = Request::post("http://localhost/token")
            .header(header::AUTHORIZATION, format!("Basic {basic}"))
            .body(Bytes::from_static(body.as_bytes()))
            .unwrap();
        issuer.answer(&request)
    }

    #[test]
    fn gives_its_client_a_token_and_nobody_else() {
        assert_eq!(ask("right", "grant_type=client_credentials&scope=echo.read").status(), StatusCode::OK);
        assert_eq!(ask("wrong", "grant_type=client_credentials").status(), StatusCode::UNAUTHORIZED);
        assert_eq!(ask("right", "grant_type=password").status(), StatusCode::BAD_REQUEST);
    }
}
