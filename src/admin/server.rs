//! Serves the admin address through [`crate::listener::serve_small`]: the paths and their responses, and who may see `/status`
//! and `/` (this machine, and no browser page of another site).

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::header::{ACCEPT, ALLOW, CONTENT_SECURITY_POLICY, HOST, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri};
use hyper::body::Incoming;
use tokio::time::MissedTickBehavior;

use super::view::View;
use super::{Admin, health, page, recent, status};
use crate::aside::Aside;
use crate::config::Callers;
use crate::listener::{
    Bound, SmallCaller, SmallHandler, SmallLimits, SmallResponse, Stop, problem_response, serve_small,
    small_response,
};
use crate::metrics::{Exposition, Extra};
use crate::proxy::admit::OwnOrigin;
use crate::proxy::{Peer, admit};
use crate::route::host::Authority;

/// The most open connections.
pub const CONNECTIONS: usize = 100;
const LIMITS: SmallLimits = SmallLimits {
    connections: CONNECTIONS,
    header_timeout: Duration::from_secs(10),
    age: Duration::from_secs(60),
};

/// Serves this socket until `stop`, and returns when every connection has ended. Meanwhile it reads the routes' counters
/// regularly, for the recent values of `/status`.
pub async fn serve(bound: Bound, admin: Arc<Admin>, stop: Stop) {
    let (reading, metrics) = (read_on(Arc::clone(&admin)), admin.metrics.admin());
    tokio::select! {
        () = serve_small(bound, admin, LIMITS, metrics, stop) => {}
        never = reading => match never {},
    }
}

async fn read_on(admin: Arc<Admin>) -> Infallible {
    let mut ticks = tokio::time::interval(recent::EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        admin.readings.read(admin.clock.boot(), &admin.snapshot.load());
    }
}

static LOOKING: Aside = Aside::new("status", 4);

impl SmallHandler for Admin {
    async fn serve(self: Arc<Self>, asker: SmallCaller, request: Request<Incoming>) -> SmallResponse {
        if request.uri().path() != "/status" {
            return self.respond(asker, &request);
        }
        // It looks at the files that the config names, which may hang.
        let request = request.map(drop);
        let looking = LOOKING.run(move || self.respond(asker, &request));
        looking.await.unwrap_or_else(|error| {
            problem_response(StatusCode::SERVICE_UNAVAILABLE, "overloaded", &error.to_string())
        })
    }
}

const PATHS: [&str; 5] = ["/livez", "/readyz", "/metrics", "/status", "/"];
/// Browsers must not guess the content's type, show it to other sites, or send its address to them.
const FOR_BROWSERS: [(HeaderName, &str); 4] = [
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];
const TEXT: &str = "text/plain; charset=utf-8";

impl Admin {
    pub(super) fn respond<B>(&self, asker: SmallCaller, request: &Request<B>) -> SmallResponse {
        let mut answer = self.page_for(asker, request);
        for (name, value) in FOR_BROWSERS {
            answer.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        answer
    }

    fn page_for<B>(&self, asker: SmallCaller, request: &Request<B>) -> SmallResponse {
        let path = request.uri().path();
        if !PATHS.contains(&path) {
            let detail = format!("there is {} here", PATHS.join(", "));
            return problem_response(StatusCode::NOT_FOUND, "no_such_page", &detail);
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut answer = problem_response(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_refused",
                "this address accepts only GET and HEAD",
            );
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return answer;
        }
        match path {
            "/livez" => small_response(StatusCode::OK, TEXT, "ok\n"),
            "/readyz" => self.readyz(request.uri().query()),
            "/metrics" => self.metrics(request),
            _ => self.refusal(asker, request).unwrap_or_else(|| match path {
                "/status" => self.status(request.uri().query()),
                _ => page(),
            }),
        }
    }

    fn readyz(&self, query: Option<&str>) -> SmallResponse {
        let view = View::take(self);
        let verbose = asks_for(query, "verbose");
        let status = if view.ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        small_response(status, TEXT, health::text(&view, verbose))
    }

    fn metrics<B>(&self, request: &Request<B>) -> SmallResponse {
        let view = View::take(self);
        let accept = request.headers().get(ACCEPT).and_then(|accept| accept.to_str().ok());
        let format = Exposition::for_accept(accept);
        let extra = Extra {
            token_expiries: view.token_expiries(),
            token_budgets: view.token_budgets(),
            log_lines_dropped: view.log_lines_dropped,
            store_up: view.store.as_ref().map(|store| store.failing.is_none()),
            running: self.running(&view),
        };
        small_response(StatusCode::OK, format.content_type(), self.metrics.render(format, extra))
    }

    fn status(&self, query: Option<&str>) -> SmallResponse {
        let view = if asks_for(query, "history") { View::with_history(self) } else { View::take(self) };
        match serde_json::to_vec(&status::status(&view)) {
            Ok(json) => small_response(StatusCode::OK, "application/json", json),
            Err(error) => {
                tracing::error!(event = "admin.status_failed", %error, "the status cannot be written as JSON");
                problem_response(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "internal",
                    "the status cannot be written as JSON",
                )
            }
        }
    }

    /// `[admin] callers` is read for each request, so a reload counts for open connections too.
    fn refusal<B>(&self, asker: SmallCaller, request: &Request<B>) -> Option<SmallResponse> {
        if self.snapshot.load().config.admin.callers == Callers::Network {
            return None;
        }
        let why = refusal(asker.peer, asker.own, request.uri(), request.headers())?;
        Some(problem_response(StatusCode::FORBIDDEN, "caller_refused", why))
    }
}

/// `?name` or `?name=…`.
fn asks_for(query: Option<&str>, name: &str) -> bool {
    let mut pairs = query.unwrap_or_default().split('&');
    pairs.any(|pair| pair.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('=')))
}

fn page() -> SmallResponse {
    let page = page::page();
    let mut answer = small_response(StatusCode::OK, "text/html; charset=utf-8", page.html.clone());
    answer.headers_mut().insert(CONTENT_SECURITY_POLICY, page.policy.clone());
    answer
}

/// Why this request is refused, as a sentence for `detail`. `None` if it is not.
///
/// `own` is the address that the connection came to. `Host` is checked because a page whose own name resolves to 127.0.0.1 has
/// the same origin as bearerd (DNS rebinding).
pub(super) fn refusal(
    peer: Peer,
    own: Option<SocketAddr>,
    uri: &Uri,
    headers: &HeaderMap,
) -> Option<&'static str> {
    let Peer::Tcp(peer) = peer else {
        // The mode of a Unix socket's file decides, and browsers cannot use it.
        return None;
    };
    if !is_this_machine(peer.ip(), own) {
        return Some(
            "only callers on the same machine may ask for this; [admin] callers = \"network\" allows others",
        );
    }
    let mut hosts = headers.get_all(HOST).iter();
    let host = match (uri.authority(), hosts.next(), hosts.next()) {
        (_, _, Some(_)) => return Some("the request has more than one Host"),
        (Some(authority), _, None) => Some(authority.as_str()),
        (None, Some(host), None) => Some(host.to_str().unwrap_or_default()),
        (None, None, None) => None,
    };
    let authority = match host.map(Authority::parse) {
        Some(Some(authority)) if is_own_host(&authority, own) => Some(authority),
        Some(_) => {
            return Some("the Host is not localhost, a loopback address or this listener's own address");
        }
        None => None,
    };
    let here = OwnOrigin { tls: false, authority: authority.as_ref() };
    admit::foreign_page(headers, here, &[])
        .map(|_| "a page of another site asked for this; open the address itself")
}

fn is_this_machine(peer: IpAddr, own: Option<SocketAddr>) -> bool {
    let peer = peer.to_canonical();
    // A connection from the machine's own address comes from this machine. The kernel drops such packets from elsewhere.
    peer.is_loopback() || own.is_some_and(|own| own.ip().to_canonical() == peer)
}

fn is_own_host(authority: &Authority<'_>, own: Option<SocketAddr>) -> bool {
    match authority.host.parse::<IpAddr>() {
        Ok(ip) => is_this_machine(ip, own),
        Err(_) => authority.host == "localhost",
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    const OWN: &str = "10.0.0.5:9180";

    fn refused(peer: &str, uri: &str, headers: &[(&'static str, &str)]) -> bool {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::from_static(name), value.parse().unwrap());
        }
        let peer = Peer::Tcp(SocketAddr::new(peer.parse().unwrap(), 50_000));
        refusal(peer, Some(OWN.parse().unwrap()), &uri.parse().unwrap(), &map).is_some()
    }

    #[test]
    fn this_machine_is_let_in() {
        for (peer, host) in [
            ("127.0.0.1", "localhost:9180"),
            ("127.0.0.1", "LOCALHOST"),
            ("127.8.9.1", "127.0.0.1:9180"),
            ("::1", "[::1]:9180"),
            ("::ffff:127.0.0.1", "127.0.0.1"),
            ("10.0.0.5", "10.0.0.5:9180"),
        ] {
            assert!(!refused(peer, "/status", &[("host", host)]), "{peer} {host}");
        }
        assert!(!refused("127.0.0.1", "/", &[]), "HTTP/1.0 needs no Host");
        assert!(!refused("127.0.0.1", "http://localhost/status", &[("host", "localhost")]));
    }

    #[test]
    fn others_and_other_names_are_not() {
        assert!(refused("10.0.0.6", "/status", &[("host", "10.0.0.5:9180")]));
        for host in [
            "evil.example",
            "evil.example:9180",
            "localhost.evil.example",
            "10.0.0.6",
            "",
            "a b",
            "x@localhost",
            "localhost:99999",
            "localhost:x",
            "localhost, localhost",
            "[::1]evil",
            "[::1]:99999",
            "[::1",
            "127.0.0.1:9180:1",
        ] {
            assert!(refused("127.0.0.1", "/status", &[("host", host)]), "{host}");
        }
        assert!(refused("127.0.0.1", "/status", &[("host", "localhost"), ("host", "localhost")]));
        assert!(refused("127.0.0.1", "http://evil.example/status", &[("host", "localhost")]));
    }

    #[test]
    fn pages_of_other_sites_are_not() {
        let with =
            |name, value| refused("127.0.0.1", "/status", &[("host", "localhost:9180"), (name, value)]);
        assert!(!with("sec-fetch-site", "none"));
        assert!(!with("sec-fetch-site", "same-origin"));
        assert!(with("sec-fetch-site", "same-site"), "another port of this machine");
        assert!(with("sec-fetch-site", "cross-site"));
        assert!(!with("origin", "http://localhost:9180"));
        assert!(with("origin", "http://localhost:3000"));
        assert!(with("origin", "https://localhost:9180"));
        assert!(with("origin", "null"));
        assert!(!with("referer", "http://localhost:9180/"));
        assert!(with("referer", "http://evil.example/"));
        assert!(
            refused("127.0.0.1", "/status", &[("origin", "http://localhost:9180")]),
            "no Host to compare with"
        );
    }

    #[test]
    fn a_unix_socket_is_this_machine() {
        let headers = HeaderMap::from_iter([(HOST, "anything".parse().unwrap())]);
        assert_eq!(refusal(Peer::Unix { uid: 0 }, None, &Uri::from_static("/"), &headers), None);
    }
}
