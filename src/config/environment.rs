//! Environment variables about proxies, roots, and traces, with their values as they are. `net` interprets them, and
//! `resolve/tracing.rs` those about traces.

use std::collections::BTreeMap;
use std::env;
use std::net::IpAddr;
use std::path::PathBuf;

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

/// The system's roots according to `SSL_CERT_FILE` and `SSL_CERT_DIR`, which may name several folders.
pub fn root_paths() -> Vec<PathBuf> {
    let folders = env::var_os("SSL_CERT_DIR").unwrap_or_default();
    let folders = env::split_paths(&folders).filter(|folder| !folder.as_os_str().is_empty());
    env::var_os("SSL_CERT_FILE").map(PathBuf::from).into_iter().chain(folders).collect()
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
