//! A CONNECT through the forward listeners, as a program sends it: the host of a route gets a certificate that the listener's
//! CA signed. TLS ends in bearerd, so nothing goes upstream. If no bearerd runs with the config, this process serves the listener.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::PROXY_AUTHORIZATION;

use super::report::{ForwardReport, UpstreamReport};
use super::{Bounds, Planned, connect_upstream};
use crate::app::{self, Alone};
use crate::cli::healthcheck::reachable;
use crate::cli::{ca, exec};
use crate::config::{
    Address, Config, ConnectionConfig, Egress, HeaderCase, HostPattern, ListenerConfig, Protocol, Roots,
    Source, TlsOptions, UpstreamTarget,
};
use crate::net::host_and_port;

const HTTPS: u16 = 443;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The label that a wildcard is tried with.
const LABEL: &str = "bearerd-check";

/// One CONNECT, or why there is none.
pub(super) struct Try {
    listener: String,
    way: Result<Way, String>,
}

struct Way {
    /// Of the listener in the config.
    index: usize,
    route: String,
    /// Without brackets, and its port.
    host: (String, u16),
    /// For the running process.
    userinfo: Option<Source>,
    /// Address and CA in the process that runs with this config.
    running: Option<(SocketAddr, String)>,
}

/// Asks the running process for its CAs.
pub(super) fn tries(config: &Config) -> Vec<Try> {
    let listeners = config.listeners.iter().enumerate().filter(|(_, listener)| listener.forward().is_some());
    listeners
        .map(|(index, listener)| Try {
            listener: listener.name.to_string(),
            way: way(config, index, listener),
        })
        .collect()
}

/// How the first route's host is reached through the listener. The error says why it is not tried.
fn way(config: &Config, index: usize, listener: &ListenerConfig) -> Result<Way, String> {
    let routes = config.routes.iter().filter(|route| route.listener.is_none_or(|only| only == index));
    let hosts = routes.filter_map(|route| Some((route.host.as_ref()?, route)));
    let Some((pattern, route)) = hosts.min_by_key(|(pattern, _)| matches!(pattern, HostPattern::Wildcard(_)))
    else {
        return Err("no route names a host for it".to_owned());
    };
    let running = match listener.address {
        Address::Tcp(address) if listener.tls.is_none() => {
            ca::of_running(config, listener).map(|found| (reachable(address), found))
        }
        Address::Tcp(_) | Address::Unix(_) => None,
    };
    if running.is_none() && !serves_this_machine(listener) {
        return Err("no bearerd runs with this config, and `allow` does not have 127.0.0.1".to_owned());
    }
    let userinfo = running.as_ref().map_or(Ok(None), |_| userinfo(listener))?;
    Ok(Way { index, route: route.name.to_string(), host: host(pattern), userinfo, running })
}

fn serves_this_machine(listener: &ListenerConfig) -> bool {
    let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
    listener.allow.is_empty() || listener.allow.iter().any(|net| net.contains(&here))
}

impl Way {
    fn through(self, (address, ca): (SocketAddr, String)) -> Planned {
        let (host, port) = self.host;
        let egress =
            Egress::Proxy { host: address.ip().to_string(), port: address.port(), userinfo: self.userinfo };
        Planned {
            routes: vec![self.route],
            upstream: format!("https://{}", host_and_port(&host, port)),
            target: UpstreamTarget::Tcp { https: true, host, port },
            connection: ConnectionConfig {
                protocol: Protocol::Auto,
                header_case: HeaderCase::Lower,
                connect_timeout: Some(CONNECT_TIMEOUT),
                tls: TlsOptions { ca: Some(Source::literal(ca)), roots: Roots::Ca, ..TlsOptions::default() },
                egress,
            },
        }
    }
}

/// What the CONNECT carries for `require_header`.
fn userinfo(listener: &ListenerConfig) -> Result<Option<Source>, String> {
    let required = listener.require_header.as_ref().filter(|_| !listener.same_user);
    let Some((name, value)) = required else { return Ok(None) };
    if *name != PROXY_AUTHORIZATION {
        return Err(format!(
            "it requires the header field {name}, and this check sends only Proxy-Authorization"
        ));
    }
    let (value, _) = value.read_or_last_good().map_err(|error| error.to_string())?;
    let basic = value.expose_str().and_then(|value| value.strip_prefix("Basic "));
    let decoded = basic.and_then(|encoded| String::from_utf8(STANDARD.decode(encoded).ok()?).ok());
    decoded.map(|decoded| Some(Source::literal(decoded))).ok_or_else(|| {
        "the value of its require_header is not Basic, and this check sends nothing else".to_owned()
    })
}

/// A host that the pattern matches, without brackets, and its port.
fn host(pattern: &HostPattern) -> (String, u16) {
    let written = pattern.to_string().replacen('*', LABEL, 1);
    let port =
        written.rsplit_once(':').filter(|_| pattern.has_port()).and_then(|(_, port)| port.parse().ok());
    let name = pattern.without_port().trim_start_matches('[').trim_end_matches(']');
    let name = match pattern {
        HostPattern::Exact(_) => name.to_owned(),
        HostPattern::Wildcard(_) => format!("{LABEL}{name}"),
    };
    (name, port.unwrap_or(HTTPS))
}

pub(super) async fn connect(config: &Arc<Config>, it: Try, bounds: Bounds) -> ForwardReport {
    let Try { listener, way } = it;
    let untried = |why| ForwardReport { ok: true, untried: Some(why), ..ForwardReport::default() };
    let mut way = match way {
        Ok(way) => way,
        Err(why) => return ForwardReport { listener, ..untried(why) },
    };
    let running = way.running.is_some();
    let through = match way.running.take().map_or_else(|| served_here(config, &mut way), Ok) {
        Ok((_, ca)) if ca.is_empty() => {
            return ForwardReport { listener, ..untried("the files of its CA are missing".to_owned()) };
        }
        Ok(through) => through,
        Err(error) => return ForwardReport { listener, error: Some(error), ..ForwardReport::default() },
    };
    let UpstreamReport { upstream, ok, protocol, ms, tls, error, .. } =
        connect_upstream(way.through(through), bounds).await;
    ForwardReport { listener, ok, running, url: Some(upstream), protocol, ms, tls, error, untried: None }
}

/// The same listener in this process, by the code of `run`, for nobody else.
fn served_here(config: &Arc<Config>, way: &mut Way) -> Result<(SocketAddr, String), String> {
    let key = exec::random_key().map_err(|failure| failure.message)?;
    let Alone { address, trust } = app::serve_alone(config, way.index, exec::basic(&key))?;
    way.userinfo = Some(Source::literal(key));
    Ok((address, trust))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_is_tried_with_a_label_of_our_own() {
        let of = |pattern| host(&pattern);
        assert_eq!(of(HostPattern::Exact("a.test".to_owned())), ("a.test".to_owned(), 443));
        assert_eq!(of(HostPattern::Exact("a.test:8443".to_owned())), ("a.test".to_owned(), 8443));
        assert_eq!(of(HostPattern::Exact("[::1]".to_owned())), ("::1".to_owned(), 443));
        assert_eq!(of(HostPattern::Exact("[::1]:8443".to_owned())), ("::1".to_owned(), 8443));
        assert_eq!(of(HostPattern::Wildcard(".a.test:1".to_owned())), ("bearerd-check.a.test".to_owned(), 1));
    }
}
