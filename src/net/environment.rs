//! What `HTTPS_PROXY`, `NO_PROXY` and their kin say about one target.

use std::sync::Arc;

use http::Uri;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};

use super::tunnel::{EgressProxy, ProxyCredentials};

/// The way out of this machine, settled once.
pub(super) enum Via {
    Direct,
    Proxy(Arc<EgressProxy>),
    /// The environment names a proxy of a kind that is not spoken here.
    Unsupported(String),
}

/// The way to `who`, by the environment as it is now.
pub(super) fn via(host: &str, who: &str, tls: bool) -> Via {
    from_environment(&Matcher::from_env(), host, who, tls)
}

/// What the environment says about one target. This machine itself is never reached through a proxy: that would end
/// on another machine, and a token meant for loopback would cross the network in the clear.
fn from_environment(matcher: &Matcher, host: &str, who: &str, tls: bool) -> Via {
    let local = host.eq_ignore_ascii_case("localhost")
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    let scheme = if tls { "https" } else { "http" };
    let target = Uri::builder().scheme(scheme).authority(who).path_and_query("/").build();
    match target.ok().filter(|_| !local).and_then(|target| matcher.intercept(&target)) {
        None => Via::Direct,
        Some(intercept) => use_intercept(&intercept),
    }
}

fn use_intercept(intercept: &Intercept) -> Via {
    let uri = intercept.uri();
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    match uri.scheme_str() {
        Some("http") => Via::Proxy(Arc::new(EgressProxy {
            host,
            port: uri.port_u16().unwrap_or(80),
            credentials: intercept
                .basic_auth()
                .cloned()
                .map_or(ProxyCredentials::None, ProxyCredentials::Header),
        })),
        scheme => Via::Unsupported(format!(
            "the environment names a proxy of the scheme {} ({host}), but only http:// proxies (CONNECT) are \
             supported: change HTTPS_PROXY, or set `proxy` in the file",
            scheme.unwrap_or_default()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tunnel::authority;
    use super::*;

    fn matcher() -> Matcher {
        Matcher::builder().https("http://user:p%40ss@egress:3128").no("corp.example,10.0.0.0/8").build()
    }

    fn proxied(host: &str, tls: bool) -> Option<Arc<EgressProxy>> {
        match from_environment(&matcher(), host, &authority(host, 443), tls) {
            Via::Proxy(proxy) => Some(proxy),
            Via::Direct => None,
            Via::Unsupported(message) => panic!("{message}"),
        }
    }

    #[test]
    fn the_environments_proxy_is_obeyed() {
        let proxy = proxied("idp.example", true).unwrap();
        assert_eq!((proxy.host.as_str(), proxy.port), ("egress", 3128));
        let ProxyCredentials::Header(value) = &proxy.credentials else { panic!("no credentials") };
        assert_eq!(value, "Basic dXNlcjpwQHNz");
        assert!(value.is_sensitive());
        assert!(!format!("{proxy:?}").contains("dXNlcjpwQHNz"));
    }

    #[test]
    fn no_proxy_http_and_this_machine_go_directly() {
        for (host, tls) in [
            ("a.corp.example", true),
            ("10.1.2.3", true),
            ("idp.example", false),
            ("localhost", true),
            ("::1", true),
        ] {
            assert_eq!(proxied(host, tls), None, "{host}");
        }
        assert!(proxied("2001:db8::1", true).is_some());
    }

    #[test]
    fn an_unsupported_proxy_is_refused_not_ignored() {
        let matcher = Matcher::builder().all("socks5://user:hunter2@egress:1080").build();
        let Via::Unsupported(message) = from_environment(&matcher, "idp.example", "idp.example:443", true)
        else {
            panic!("not refused")
        };
        assert!(message.contains("socks5 (egress)"), "{message}");
        assert!(!message.contains("hunter2"), "{message}");
    }
}
