//! URLs, kept as they are written: nothing is normalised that goes on the wire (RFC 3986).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use super::super::model::{HttpUrl, UpstreamTarget, UpstreamUrl};
use super::{Wrong, unix_path, wrong};

/// A URL cut into its parts.
pub(crate) struct Parts<'a> {
    pub https: bool,
    /// Escaped as it was written. May be a secret.
    pub userinfo: Option<&'a str>,
    /// Lower case, without brackets.
    pub host: String,
    pub port: Option<u16>,
    /// Begins with `/` or `?`, or is empty.
    pub path_and_query: &'a str,
}

impl Parts<'_> {
    pub(crate) fn port(&self) -> u16 {
        self.port.unwrap_or(if self.https { 443 } else { 80 })
    }

    /// Host and port as they go into `Host`: the default port is left out (RFC 9110 section 7.2).
    fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let default = if self.https { 443 } else { 80 };
        match self.port {
            Some(port) if port != default => format!("{host}:{port}"),
            Some(_) | None => host,
        }
    }
}

/// Cuts an `http` or `https` URL; a fragment is refused. No error quotes the text: it may hold a password.
pub(crate) fn parts(text: &str) -> Result<Parts<'_>, Wrong> {
    let (https, rest) = match text.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (true, rest),
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (false, rest),
        Some(_) => return Err(wrong("the URL's scheme is neither https nor http", "write \"https://…\"")),
        None => return Err(wrong("is no absolute URL", "write \"https://…\"")),
    };
    if rest.contains('#') {
        return Err(wrong("the URL has a fragment", "leave out `#` and what follows"));
    }
    if !rest.bytes().all(|byte| {
        (0x21..=0x7E).contains(&byte) && !matches!(byte, b'"' | b'<' | b'>' | b'\\' | b'^' | b'`')
    }) {
        return Err(wrong(
            "the URL holds a character that no URL may have",
            "percent-encode it; write a host's name in punycode",
        ));
    }
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path_and_query) = rest.split_at(end);
    let (userinfo, authority) = match authority.rsplit_once('@') {
        Some((userinfo, authority)) => (Some(userinfo), authority),
        None => (None, authority),
    };
    let (host, port) = host_and_port(authority)?;
    Ok(Parts { https, userinfo, host, port, path_and_query })
}

fn host_and_port(authority: &str) -> Result<(String, Option<u16>), Wrong> {
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (inside, after) =
            rest.split_once(']').ok_or_else(|| wrong("the URL's host has no closing bracket", ""))?;
        let address: Ipv6Addr = inside.parse().map_err(|_| wrong("the URL's host is no IPv6 address", ""))?;
        match after.strip_prefix(':') {
            Some(port) => (address.to_string(), Some(port)),
            None if after.is_empty() => (address.to_string(), None),
            None => return Err(wrong("the URL's host is no IPv6 address", "")),
        }
    } else {
        let (host, port) =
            authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port)));
        host_name(host)
            .map_err(|_| wrong("the URL's host is no host name", "such as \"https://api.example.com\""))?;
        (host.to_ascii_lowercase(), port)
    };
    let port = port
        .map(|port| {
            Some(port)
                .filter(|port| port.bytes().all(|byte| byte.is_ascii_digit()))?
                .parse::<u16>()
                .ok()
                .filter(|&port| port > 0)
        })
        .map(|port| port.ok_or_else(|| wrong("the URL's port is not between 1 and 65535", "")))
        .transpose()?;
    Ok((host, port))
}

/// A DNS name or an IPv4 address; a trailing dot passes.
pub(crate) fn host_name(text: &str) -> Result<(), Wrong> {
    let name = text.strip_suffix('.').unwrap_or(text);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    let looks_like_ipv4 =
        name.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    if name.len() <= 253
        && name.split('.').all(label)
        && (!looks_like_ipv4 || name.parse::<Ipv4Addr>().is_ok())
    {
        return Ok(());
    }
    Err(wrong("is no host name", "use ASCII letters, digits, `-` and dots; write other names in punycode"))
}

/// `localhost` and loopback literals: what `http://` is for.
pub(crate) fn is_this_machine(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

/// An absolute URL of an issuer.
pub(crate) fn http_url(text: &str) -> Result<HttpUrl, Wrong> {
    let parts = parts(text)?;
    if parts.userinfo.is_some() {
        return Err(wrong("the URL holds a user or a password", "take out what stands before `@`"));
    }
    let path_and_query = match parts.path_and_query {
        "" => "/".to_owned(),
        query if query.starts_with('?') => format!("/{query}"),
        path => path.to_owned(),
    };
    Ok(HttpUrl {
        text: text.to_owned(),
        https: parts.https,
        authority: parts.authority(),
        port: parts.port(),
        host: parts.host,
        path_and_query,
    })
}

/// A route's upstream: an absolute URL, or `unix:/run/app.sock`, with a path as `unix:/run/app.sock:/api`.
pub(crate) fn upstream(text: &str, folder: &Path) -> Result<UpstreamUrl, Wrong> {
    if let Some(rest) = text.strip_prefix("unix:") {
        let (socket, path) = rest
            .split_once(":/")
            .map_or((rest, String::new()), |(socket, path)| (socket, format!("/{path}")));
        check_path(&path)?;
        return Ok(UpstreamUrl {
            text: text.to_owned(),
            target: UpstreamTarget::Unix(unix_path(socket, folder)?),
            authority: "localhost".to_owned(),
            path,
        });
    }
    let parts = parts(text)?;
    if parts.userinfo.is_some() {
        return Err(wrong("the URL holds a user or a password", "set a header with request_headers instead"));
    }
    check_path(parts.path_and_query)?;
    Ok(UpstreamUrl {
        text: text.to_owned(),
        authority: parts.authority(),
        path: parts.path_and_query.to_owned(),
        target: UpstreamTarget::Tcp { https: parts.https, port: parts.port(), host: parts.host },
    })
}

/// The path is put before what callers ask for, so it must mean the same to everybody.
fn check_path(path: &str) -> Result<(), Wrong> {
    if path.contains('?') {
        return Err(wrong("an upstream has no query", "the caller's query goes up as it is"));
    }
    super::pattern::canonical_path(path).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_was_written() {
        let url = http_url("HTTPS://IdP.Example:8443/a/%7Eb/?x=1").unwrap();
        assert_eq!((url.https, url.host.as_str(), url.port), (true, "idp.example", 8443));
        assert_eq!(url.authority, "idp.example:8443");
        assert_eq!(url.path_and_query, "/a/%7Eb/?x=1");
        assert_eq!(http_url("https://idp:443").unwrap().authority, "idp");
        assert_eq!(http_url("https://idp").unwrap().path_and_query, "/");
        assert_eq!(http_url("http://[::1]:80/t").unwrap().authority, "[::1]");
        assert_eq!(http_url("http://[::1]:81/t").unwrap().host, "::1");
    }

    #[test]
    fn refuses_what_is_no_url_and_quotes_nothing() {
        for text in [
            "",
            "idp.example/token",
            "ftp://canary/",
            "https://",
            "https:///x",
            "https://a b/canary",
            "https://u:canary@h/",
            "https://h/#canary",
            "https://h:0/canary",
            "https://h:99999/",
            "https://h:/",
            "https://h:+80/",
            "https://[::1/",
            "https://[zz]/",
            "https://300.1.1.1/",
            "https://münchen.example/",
            "https://-..x/",
        ] {
            let Err(error) = http_url(text) else { panic!("{text} was accepted") };
            assert!(!error.message.contains("canary"), "{error:?}");
        }
    }

    #[test]
    fn upstreams() {
        let folder = Path::new("/etc");
        let up = |text| upstream(text, folder);
        assert_eq!(up("https://h/api/v2").unwrap().path, "/api/v2");
        assert_eq!(up("https://h").unwrap().path, "");
        assert_eq!(up("https://h/").unwrap().path, "/");
        let unix = up("unix:/run/app.sock:/api").unwrap();
        assert_eq!(unix.target, UpstreamTarget::Unix("/run/app.sock".into()));
        assert_eq!((unix.path.as_str(), unix.authority.as_str()), ("/api", "localhost"));
        for text in
            ["https://h/a/../b", "https://h/?q", "https://h?q", "https://h/%zz", "unix:", "https://u@h/"]
        {
            assert!(up(text).is_err(), "{text}");
        }
    }

    #[test]
    fn this_machine() {
        for host in ["localhost", "127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"] {
            assert!(is_this_machine(host), "{host}");
        }
        for host in ["localhost.example", "127.0.0.1.nip.io", "10.0.0.1", "::", "0.0.0.0"] {
            assert!(!is_this_machine(host), "{host}");
        }
    }
}
