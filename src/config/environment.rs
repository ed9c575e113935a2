//! Environment variables about proxies, roots, and traces, with their values as they are. `net` interprets them, and
//! `resolve/tracing.rs` those about traces.

use std::collections::BTreeMap;
use std::env;
use std::net::IpAddr;
use std::path::PathBuf;

use http::Uri;
use hyper_util::client::proxy::matcher::Matcher;
use ipnet::IpNet;

/// A variable and its value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Variable {
    pub name: &'static str,
    pub value: String,
}

/// `HTTPS_PROXY` and similar variables. The first spelling that is set counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProxyVariables {
    pub http: Option<Variable>,
    pub https: Option<Variable>,
    /// Used if the variable for the scheme is not set.
    pub all: Option<Variable>,
    pub no_proxy: String,
}

impl ProxyVariables {
    /// The variable that names the proxy for `host`. `None`: the connection is direct, because no variable is set, `NO_PROXY`
    /// exempts the host, or the host is never reached through a proxy.
    pub fn named_for(&self, host: &str, port: u16, tls: bool) -> Option<&Variable> {
        let variable = if tls { &self.https } else { &self.http };
        let variable = variable.as_ref().or(self.all.as_ref())?;
        (!is_near(host, tls) && !self.exempts(host, port, tls)).then_some(variable)
    }

    fn exempts(&self, host: &str, port: u16, tls: bool) -> bool {
        let no_proxy = no_proxy_for(port, &self.no_proxy);
        let matcher = Matcher::builder().all("http://proxy.invalid").no(no_proxy).build();
        proxy_target(host, port, tls).is_some_and(|target| matcher.intercept(&target).is_none())
    }
}

impl Variable {
    /// What to do about an unusable variable.
    pub const REMEDY: &str =
        "write http://HOST:PORT (a proxy that takes CONNECT), or set `proxy` in the file";

    /// Why the value does not name a usable proxy, as a sentence without any secret. `None`: it does.
    pub fn unusable(&self) -> Option<String> {
        let why = match misleading(&self.value) {
            Some(why) => why.to_owned(),
            None => unsupported(&self.value)?,
        };
        Some(format!("the environment's {} {why}", self.name))
    }
}

impl Variable {
    /// The host of the proxy, an IPv6 address without brackets, and its port.
    pub fn proxy(&self) -> Option<(String, u16)> {
        let any = proxy_target("proxied.invalid", 443, true)?;
        let intercept = Matcher::builder().all(self.value.clone()).build().intercept(&any)?;
        let uri = intercept.uri();
        let host = uri.host()?.trim_matches(['[', ']']).to_owned();
        Some((host, uri.port_u16().unwrap_or(80)))
    }
}

/// The URL of a target as `hyper_util`'s matcher takes it. `None`: the host cannot be part of a URL.
pub fn proxy_target(host: &str, port: u16, tls: bool) -> Option<Uri> {
    let scheme = if tls { "https" } else { "http" };
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    Uri::builder().scheme(scheme).authority(format!("{host}:{port}")).path_and_query("/").build().ok()
}

/// Targets that are never reached through a proxy: this machine, because a token for loopback would go to another machine,
/// in plain text; and the metadata services of clouds, for the same reason.
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
    port.is_some_and(|port| port.parse::<u16>().is_err()).then_some("has a port that is not a number")
}

/// What bearerd cannot use as a proxy, although it is written as a URL should be.
fn unsupported(value: &str) -> Option<String> {
    const NO_URL: &str = "is not the URL of a proxy";
    let any = proxy_target("proxied.invalid", 443, true)?;
    let Some(intercept) = Matcher::builder().all(value.to_owned()).build().intercept(&any) else {
        return Some(NO_URL.to_owned());
    };
    let uri = intercept.uri();
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    match uri.scheme_str() {
        _ if host.is_empty() => Some(NO_URL.to_owned()),
        Some("http") => None,
        scheme => {
            let scheme = scheme.unwrap_or_default();
            Some(format!("names a proxy of the scheme {scheme} ({host}), which bearerd does not support"))
        }
    }
}

/// Rewrites `NO_PROXY` for hyper-util, which does not know some forms that other programs do: `*.example.com`, `host:port`,
/// and blanks between entries.
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

/// The variables as they are now.
pub fn proxy_variables() -> ProxyVariables {
    // Under CGI the upper-case variable is a header field of the request (CVE-2016-5385, "httpoxy").
    let http: &[_] =
        if env::var_os("REQUEST_METHOD").is_some() { &["http_proxy"] } else { &["HTTP_PROXY", "http_proxy"] };
    ProxyVariables {
        http: first(http),
        https: first(&["HTTPS_PROXY", "https_proxy"]),
        all: first(&["ALL_PROXY", "all_proxy"]),
        no_proxy: first(&["NO_PROXY", "no_proxy"]).unwrap_or_default().value,
    }
}

/// An empty variable means that there is no proxy. It still takes precedence over the other spelling.
fn first(names: &[&'static str]) -> Option<Variable> {
    let set = names.iter().find_map(|name| Some((*name, env::var_os(name)?)));
    let (name, value) = set?;
    let value = value.to_string_lossy().into_owned();
    (!value.is_empty()).then_some(Variable { name, value })
}

/// The variables of OpenTelemetry (`OTEL_…`). Some hold secrets, so nothing prints them.
#[derive(Default)]
pub(crate) struct OtelVariables(BTreeMap<String, String>);

impl OtelVariables {
    /// The variables as they are now.
    pub(crate) fn of_the_process() -> Self {
        let named = env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
        let ours = named.filter(|(name, _)| name.starts_with("OTEL_"));
        Self(ours.map(|(name, value)| (name, value.to_string_lossy().into_owned())).collect())
    }

    #[cfg(test)]
    pub(crate) fn of(pairs: &[(&str, &str)]) -> Self {
        Self(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    /// The value; an empty one counts as unset (OpenTelemetry's specification).
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|value| value.trim()).filter(|value| !value.is_empty())
    }
}

/// The system's roots according to `SSL_CERT_FILE` and `SSL_CERT_DIR`, which may name several folders, each with its variable.
fn named_roots() -> Vec<(&'static str, PathBuf)> {
    const FILE: &str = "SSL_CERT_FILE";
    const FOLDERS: &str = "SSL_CERT_DIR";
    let folders = env::var_os(FOLDERS).unwrap_or_default();
    let folders = env::split_paths(&folders).filter(|folder| !folder.as_os_str().is_empty());
    let file = env::var_os(FILE).map(|file| (FILE, PathBuf::from(file)));
    file.into_iter().chain(folders.map(|folder| (FOLDERS, folder))).collect()
}

/// The places of the system's roots, where rustls-native-certs also looks, each with the variable that names it.
pub(super) fn roots_and_variables() -> Vec<(Option<&'static str>, PathBuf)> {
    let named = named_roots();
    if !named.is_empty() {
        return named.into_iter().map(|(variable, path)| (Some(variable), path)).collect();
    }
    let found = openssl_probe::probe();
    found.cert_file.into_iter().chain(found.cert_dir).map(|path| (None, path)).collect()
}

/// The places of the system's roots.
pub fn system_roots() -> Vec<PathBuf> {
    roots_and_variables().into_iter().map(|(_, path)| path).collect()
}

/// The socket of the SPIFFE Workload API, as `unix:///PATH`.
pub(super) fn spiffe_socket() -> Option<String> {
    let set = env::var_os("SPIFFE_ENDPOINT_SOCKET").filter(|value| !value.is_empty())?;
    Some(set.to_string_lossy().into_owned())
}

/// Entries of `NO_PROXY` that match no host, although whoever wrote them probably thinks that they do.
pub(super) fn meaningless_entries(no_proxy: &str) -> Vec<&str> {
    let entries = no_proxy.split(|char: char| char == ',' || char.is_whitespace());
    entries.filter(|entry| !entry.is_empty() && *entry != "*" && !names_hosts(entry)).collect()
}

/// A name (with all names below it), an address, or a network. All but a network may have a port.
fn names_hosts(entry: &str) -> bool {
    let host = match entry.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
            if port.parse::<u16>().is_err() {
                return false;
            }
            host
        }
        _ => entry,
    };
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let name = bare.strip_prefix("*.").or_else(|| bare.strip_prefix('.')).unwrap_or(bare);
    let plain =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.') || !byte.is_ascii();
    bare.parse::<IpNet>().is_ok()
        || bare.parse::<IpAddr>().is_ok()
        || (!name.is_empty() && name.bytes().all(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_that_match_nothing_are_found() {
        let fine = "localhost,.corp.example *.corp.example,idp.example:443,10.0.0.0/8, 192.0.2.1,[2001:db8::1]:443,\
                    2001:db8::/32,*,fd00::1,";
        assert_eq!(meaningless_entries(fine), [""; 0]);
        let odd = [
            "10.*",
            "192.168.1.*",
            "*corp.example",
            "a*.example",
            "<local>",
            "https://idp.example",
            "idp.example:https",
            "idp.example/x",
            "*.",
            "10.0.0.0/33",
        ];
        assert_eq!(meaningless_entries(&odd.join(",")), odd);
    }
}
