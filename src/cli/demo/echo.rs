//! The demo's upstream: takes calls with the demo issuer's tokens only, and says what arrived.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::{Map, Value, json};

use super::server::{self, Answer, DemoRequest};
use super::tokens::Tokens;
use crate::clock::{Clock, SystemClock};

/// So much of a token is shown: enough to see that it changes.
const SHOWN: usize = 6;

pub(super) struct Echo {
    tokens: Arc<Tokens>,
}

impl Echo {
    pub(super) fn new(tokens: Arc<Tokens>) -> Self {
        Self { tokens }
    }

    pub(super) fn answer(&self, request: &DemoRequest) -> Answer {
        let valid =
            bearer(request.headers()).is_some_and(|token| self.tokens.is_valid(token, SystemClock.wall()));
        if !valid {
            let mut answer = server::json(
                StatusCode::UNAUTHORIZED,
                &json!({"error": "no token of the demo issuer came along"}),
            );
            answer.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            return answer;
        }
        server::json(
            StatusCode::OK,
            &json!({
                "message": "arrived with a valid token of the demo issuer",
                "method": request.method().as_str(),
                "path": request.uri().path_and_query().map(ToString::to_string),
                "headers": shown(request.headers()),
                "body_bytes": request.body().len(),
            }),
        )
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")
}

/// The headers as they came, but for the token.
fn shown(headers: &HeaderMap) -> Map<String, Value> {
    headers
        .keys()
        .map(|name| {
            let values: Vec<_> =
                headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
            let value = if name == header::AUTHORIZATION { masked(headers) } else { values.join(", ") };
            (name.to_string(), Value::String(value))
        })
        .collect()
}

fn masked(headers: &HeaderMap) -> String {
    let token = bearer(headers).unwrap_or_default();
    let start: String = token.chars().take(SHOWN).collect();
    format!("Bearer {start}… ({} characters)", token.len())
}

#[cfg(test)]
mod tests {
    use http::Request;
    use http_body_util::BodyExt;
    use hyper::body::Bytes;

    use super::*;

    async fn call(authorization: Option<String>) -> (StatusCode, String, Arc<Tokens>) {
        let tokens = Arc::new(Tokens::new().unwrap());
        let token = authorization.unwrap_or_else(|| tokens.issue(SystemClock.wall()).unwrap());
        let request = Request::get("http://localhost/hello?a=b")
            .header(header::AUTHORIZATION, format!("Bearer {token}"))
            .body(Bytes::new())
            .unwrap();
        let answer = Echo::new(Arc::clone(&tokens)).answer(&request);
        let status = answer.status();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        let body = String::from_utf8(body.to_vec()).unwrap();
        assert!(!body.contains(&token), "the whole token is shown");
        (status, body, tokens)
    }

    #[tokio::test]
    async fn says_what_arrived_but_not_the_token() {
        let (status, body, _) = call(None).await;
        assert_eq!(status, StatusCode::OK);
        assert!(body.contains("/hello?a=b") && body.contains("… ("), "{body}");
    }

    #[tokio::test]
    async fn refuses_a_token_of_somebody_else() {
        assert_eq!(call(Some("AAAAAAAAAAAA".to_owned())).await.0, StatusCode::UNAUTHORIZED);
    }
}
