//! From a request to the response.

use http::header::{ACCEPT, ALLOW, CONTENT_SECURITY_POLICY, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderName, HeaderValue, Method, Request, StatusCode};

use super::view::View;
use super::{Admin, guard, page, ready, status};
use crate::config::Callers;
use crate::listener::{Answer, Asker, answer, problem};
use crate::metrics::{Exposition, Extra};

const PATHS: [&str; 5] = ["/livez", "/readyz", "/metrics", "/status", "/"];
/// What is answered here is shown as what it is, to no other site, and tells no other site where it stands.
const FOR_BROWSERS: [(HeaderName, &str); 4] = [
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];
const TEXT: &str = "text/plain; charset=utf-8";

impl Admin {
    pub(super) fn respond<B>(&self, asker: Asker, request: &Request<B>) -> Answer {
        let mut answer = self.page_for(asker, request);
        for (name, value) in FOR_BROWSERS {
            answer.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        answer
    }

    fn page_for<B>(&self, asker: Asker, request: &Request<B>) -> Answer {
        let path = request.uri().path();
        if !PATHS.contains(&path) {
            let detail = format!("there is {} here", PATHS.join(", "));
            return problem(StatusCode::NOT_FOUND, "no_such_page", &detail);
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut answer = problem(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_refused",
                "this address only answers GET and HEAD",
            );
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return answer;
        }
        match path {
            "/livez" => answer(StatusCode::OK, TEXT, "ok\n"),
            "/readyz" => self.readyz(request.uri().query()),
            "/metrics" => self.metrics(request),
            _ => self.refusal(asker, request).unwrap_or_else(|| match path {
                "/status" => self.status(request.uri().query()),
                _ => page(),
            }),
        }
    }

    fn readyz(&self, query: Option<&str>) -> Answer {
        let view = View::take(self);
        let verbose = asks_for(query, "verbose");
        let status = if view.ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        answer(status, TEXT, ready::text(&view, verbose))
    }

    fn metrics<B>(&self, request: &Request<B>) -> Answer {
        let view = View::take(self);
        let accept = request.headers().get(ACCEPT).and_then(|accept| accept.to_str().ok());
        let format = Exposition::for_accept(accept);
        let extra = Extra {
            token_expiries: view.token_expiries(),
            log_lines_dropped: view.log_lines_dropped,
            running: self.running(&view),
        };
        answer(StatusCode::OK, format.content_type(), self.metrics.render(format, extra))
    }

    fn status(&self, query: Option<&str>) -> Answer {
        let view = if asks_for(query, "history") { View::with_history(self) } else { View::take(self) };
        match serde_json::to_vec(&status::status(&view)) {
            Ok(json) => answer(StatusCode::OK, "application/json", json),
            Err(error) => {
                tracing::error!(event = "admin.status_failed", %error, "the status cannot be written as JSON");
                problem(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the status cannot be written as JSON")
            }
        }
    }

    /// `[admin] callers` is read for each request, so a reload counts for open connections too.
    fn refusal<B>(&self, asker: Asker, request: &Request<B>) -> Option<Answer> {
        if self.snapshot.load().config.admin.callers == Callers::Network {
            return None;
        }
        let why = guard::refusal(asker.peer, asker.own, request.uri(), request.headers())?;
        Some(problem(StatusCode::FORBIDDEN, "caller_refused", why))
    }
}

/// `?name` or `?name=…`.
fn asks_for(query: Option<&str>, name: &str) -> bool {
    let mut pairs = query.unwrap_or_default().split('&');
    pairs.any(|pair| pair.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('=')))
}

fn page() -> Answer {
    let page = page::page();
    let mut answer = answer(StatusCode::OK, "text/html; charset=utf-8", page.html.clone());
    answer.headers_mut().insert(CONTENT_SECURITY_POLICY, page.policy.clone());
    answer
}
