//! What `HTTPS_PROXY`, `NO_PROXY`, and related variables say about a target.

use std::net::IpAddr;
use std::sync::Arc;

use http::Uri;
use hyper_util::client::proxy::matcher::Matcher;

use super::connect::{EgressProxy, ProxyCredentials, authority};
use crate::config::{ProxyVariables, Variable, proxy_variables};

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
    let named = match by(&variables, host, port, tls) {
        Via::Proxy(_) => {
            if tls { &variables.https } else { &variables.http }.as_ref().or(variables.all.as_ref())
        }
        Via::Direct | Via::Unsupported(_) => None,
    };
    named.map(|variable| variable.name)
}

fn by(variables: &ProxyVariables, host: &str, port: u16, tls: bool) -> Via {
    let local = is_near(host, tls);
    let variable = if tls { &variables.https } else { &variables.http };
    match variable.as_ref().or(variables.all.as_ref()) {
        Some(variable) if !local => {
            let no_proxy = no_proxy_for(port, &variables.no_proxy);
            through(variable, &no_proxy, host, port, tls).unwrap_or(Via::Direct)
        }
        _ => Via::Direct,
    }
}

/// Targets that are never reached through a proxy: this machine, because the request would end on another machine and send a
/// token in the clear, and metadata services of clouds, for the same reason.
fn is_near(host: &str, tls: bool) -> bool {
    let names: &[_] = if tls { &["localhost"] } else { &["localhost", "metadata.google.internal"] };
    names.iter().any(|name| host.eq_ignore_ascii_case(name))
        || host.parse().is_ok_and(|address: IpAddr| {
            let link_local = match address {
                IpAddr::V4(address) => address.is_link_local(),
                IpAddr::V6(address) => address.is_unicast_link_local(),
            };
            address.is_loopback() || (link_local && !tls)
        })
}

/// `None`: the target is exempt.
fn through(variable: &Variable, no_proxy: &str, host: &str, port: u16, tls: bool) -> Option<Via> {
    let scheme = if tls { "https" } else { "http" };
    let target = Uri::builder().scheme(scheme).authority(authority(host, port)).path_and_query("/").build();
    let Ok(target) = target else {
        return Some(refused(variable, &format!("says nothing of {host}, which is no host of a URL")));
    };
    let matcher = |proxy: &str| Matcher::builder().all(proxy.to_owned()).no(no_proxy.to_owned()).build();
    matcher("http://proxy.invalid").intercept(&target)?;
    if let Some(why) = misleading(&variable.value) {
        return Some(refused(variable, why));
    }
    let Some(intercept) = matcher(&variable.value).intercept(&target) else {
        return Some(refused(variable, "is not the URL of a proxy"));
    };
    let uri = intercept.uri();
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    Some(match uri.scheme_str() {
        Some("http") => Via::Proxy(Arc::new(EgressProxy {
            host,
            port: uri.port_u16().unwrap_or(80),
            credentials: intercept
                .basic_auth()
                .cloned()
                .map_or(ProxyCredentials::None, ProxyCredentials::Header),
        })),
        scheme => {
            let scheme = scheme.unwrap_or_default();
            refused(
                variable,
                &format!("names a proxy of the scheme {scheme} ({host}), which is not spoken here"),
            )
        }
    })
}

fn refused(variable: &Variable, why: &str) -> Via {
    Via::Unsupported(format!(
        "the environment's {} {why}: write http://HOST:PORT (a proxy that takes CONNECT), or set `proxy` in the file",
        variable.name
    ))
}

/// Forms that a URL parser would misread as another host or as none.
fn misleading(value: &str) -> Option<&'static str> {
    if value.contains(|char: char| char.is_whitespace() || char.is_control() || matches!(char, '"' | '\'')) {
        return Some("has blanks or quotes in it");
    }
    let rest = value.split_once("://").map_or(value, |(_, rest)| rest);
    let (authority, behind) = rest.split_at(rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len()));
    if !matches!(behind, "" | "/") {
        return Some(
            "goes on behind the port (in a user or password, write / as %2F, ? as %3F and # as %23)",
        );
    }
    if authority.matches('@').count() > 1 {
        return Some("has more than one @ (in a user or password, write it as %40)");
    }
    let host = authority.rsplit('@').next().unwrap_or_default();
    let port = if host.ends_with(']') { None } else { host.rsplit_once(':').map(|(_, port)| port) };
    // The parser accepts any port and drops an invalid one.
    port.is_some_and(|port| port.parse::<u16>().is_err()).then_some("has a port that is no number")
}

/// Rewrites `NO_PROXY` for hyper-util, which does not know some forms that other programs do: `*.example.com`, `host:port`, and
/// blanks between entries.
fn no_proxy_for(port: u16, no_proxy: &str) -> String {
    let entries = no_proxy.split(|char: char| char == ',' || char.is_whitespace());
    let entries = entries.filter_map(|entry| {
        let host = match entry.rsplit_once(':') {
            Some((host, of)) if !host.contains(':') || host.ends_with(']') => {
                // The entry is for another port, or for an invalid one.
                of.parse().is_ok_and(|of: u16| of == port).then_some(host)?
            }
            _ => entry,
        };
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        Some(if host.starts_with("*.") { host.trim_start_matches('*') } else { host })
    });
    entries.collect::<Vec<_>>().join(",")
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
            ("http://egress:port", "a port that is no number"),
            ("http://user:hunter2@egress:", "a port that is no number"),
            ("http://egress:99999", "a port that is no number"),
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
