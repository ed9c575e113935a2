//! What `HTTPS_PROXY`, `NO_PROXY`, and related variables say about a target.

use std::sync::Arc;

use hyper_util::client::proxy::matcher::Matcher;

use super::egress::{EgressProxy, ProxyCredentials};
use crate::config::{ProxyVariables, Variable, proxy_target, proxy_variables};

/// How to reach a target.
pub(super) enum Via {
    Direct,
    Proxy(Arc<EgressProxy>),
    /// The environment names a proxy in an unknown form or of an unsupported kind.
    Unsupported(String),
}

/// How to reach `host`, by the current environment.
pub(super) fn via(host: &str, port: u16, tls: bool) -> Via {
    by(&proxy_variables(), host, port, tls)
}

/// The variable that names a proxy for `host` in the current environment.
pub(super) fn proxy_for(host: &str, port: u16, tls: bool) -> Option<&'static str> {
    let variables = proxy_variables();
    let named = variables.named_for(host, port, tls).filter(|variable| variable.unusable().is_none());
    named.map(|variable| variable.name)
}

fn by(variables: &ProxyVariables, host: &str, port: u16, tls: bool) -> Via {
    match variables.named_for(host, port, tls) {
        Some(variable) => through(variable, host, port, tls),
        None => Via::Direct,
    }
}

/// The proxy that this variable names.
fn through(variable: &Variable, host: &str, port: u16, tls: bool) -> Via {
    let refused = |why| Via::Unsupported(format!("{why}: {}", Variable::REMEDY));
    if let Some(why) = variable.unusable() {
        return refused(why);
    }
    let matcher = Matcher::builder().all(variable.value.clone()).build();
    let target = proxy_target(host, port, tls);
    let Some(intercept) = target.and_then(|target| matcher.intercept(&target)) else {
        return refused(format!("the environment's {} says nothing of {host}", variable.name));
    };
    let uri = intercept.uri();
    let credentials = intercept.basic_auth().cloned();
    Via::Proxy(Arc::new(EgressProxy {
        host: uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned(),
        port: uri.port_u16().unwrap_or(80),
        credentials: credentials.map_or(ProxyCredentials::None, ProxyCredentials::Header),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(https: &str, no_proxy: &str) -> ProxyVariables {
        let https = Some(Variable { name: "HTTPS_PROXY", value: https.to_owned() });
        ProxyVariables { https, no_proxy: no_proxy.to_owned(), ..ProxyVariables::default() }
    }

    fn proxied(no_proxy: &str, host: &str, port: u16, tls: bool) -> Option<Arc<EgressProxy>> {
        match by(&variables("http://user:p%40ss@egress:3128", no_proxy), host, port, tls) {
            Via::Proxy(proxy) => Some(proxy),
            Via::Direct => None,
            Via::Unsupported(message) => panic!("{message}"),
        }
    }

    #[test]
    fn the_environments_proxy_is_obeyed() {
        let proxy = proxied("", "idp.example", 443, true).unwrap();
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
            assert_eq!(proxied("corp.example,10.0.0.0/8", host, 443, tls), None, "{host}");
        }
        assert!(proxied("corp.example,10.0.0.0/8", "2001:db8::1", 443, true).is_some());
    }

    #[test]
    fn every_common_form_of_no_proxy_is_obeyed() {
        for (no_proxy, host, exempt) in [
            ("*.corp.example", "a.corp.example", true),
            ("*.corp.example", "corp.example.org", false),
            ("a.example b.example", "b.example", true),
            ("x, *.corp.example:443", "a.corp.example", true),
            ("idp.example:443", "idp.example", true),
            ("idp.example:8443", "idp.example", false),
            ("idp.example:https", "idp.example", false),
            ("[2001:db8::1]:443", "2001:db8::1", true),
            ("[2001:db8::1]:8443", "2001:db8::1", false),
            ("[2001:db8::1]", "2001:db8::1", true),
            ("2001:db8::1", "2001:db8::1", true),
            ("2001:db8::/32", "2001:db8::1", true),
            ("192.0.2.1:443", "192.0.2.1", true),
            ("*", "idp.example", true),
            (" , ,", "idp.example", false),
        ] {
            assert_eq!(proxied(no_proxy, host, 443, true).is_none(), exempt, "{no_proxy}: {host}");
        }
    }

    #[test]
    fn what_is_not_understood_is_refused_and_not_ignored() {
        for (value, why) in [
            ("socks5://user:hunter2@egress:1080", "scheme socks5 (egress)"),
            ("https://user:hunter2@egress", "scheme https (egress)"),
            ("\"http://user:hunter2@egress:3128\"", "blanks or quotes"),
            ("'egress:3128'", "blanks or quotes"),
            ("http://egress:3128 ", "blanks or quotes"),
            ("http://user:hunter2 x@egress:3128", "blanks or quotes"),
            ("http://user:hunter2#x@egress:3128", "behind the port"),
            ("http://user:12/hunter2@egress:3128", "behind the port"),
            ("http://user:12?hunter2@egress:3128", "behind the port"),
            ("user:12/hunter2@egress:3128", "behind the port"),
            ("http://user:hunter2@x@egress:3128", "more than one @"),
            ("http://egress:port", "a port that is not a number"),
            ("http://user:hunter2@egress:", "a port that is not a number"),
            ("http://egress:99999", "a port that is not a number"),
            ("http://[::1", "not the URL of a proxy"),
            ("http://", "not the URL of a proxy"),
            ("ftp://egress", "not the URL of a proxy"),
        ] {
            let Via::Unsupported(message) = by(&variables(value, ""), "idp.example", 443, true) else {
                panic!("{value} is not refused")
            };
            assert!(message.starts_with("the environment's HTTPS_PROXY "), "{message}");
            assert!(message.contains(why), "{value}: {message}");
            assert!(!message.contains("hunter2"), "{message}");
            let exempt = by(&variables(value, "idp.example"), "idp.example", 443, true);
            assert!(matches!(exempt, Via::Direct), "{value}");
        }
        for value in ["egress:3128", "http://egress:3128/", "http://[::1]:3128"] {
            let proxy = by(&variables(value, ""), "idp.example", 443, true);
            assert!(matches!(proxy, Via::Proxy(_)), "{value}");
        }
    }

    #[test]
    fn the_one_for_every_scheme_stands_in() {
        let all = Some(Variable { name: "ALL_PROXY", value: "egress:3128".to_owned() });
        let variables = ProxyVariables { all, ..ProxyVariables::default() };
        for tls in [false, true] {
            assert!(matches!(by(&variables, "idp.example", 443, tls), Via::Proxy(_)));
        }
        for near in ["169.254.169.254", "fe80::1", "Metadata.Google.Internal", "127.0.0.2"] {
            assert!(matches!(by(&variables, near, 80, false), Via::Direct), "{near}");
        }
        assert!(matches!(by(&variables, "metadata.google.internal", 443, true), Via::Proxy(_)));
    }
}
