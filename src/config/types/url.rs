//! URLs, hosts, paths, and origins. URLs stay as they are written: nothing that goes on the wire is normalized (RFC 3986).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use crate::config::model::{HostPattern, HttpUrl, PathPattern, UpstreamTarget, UpstreamUrl};
use crate::config::types::{Wrong, quoted, unix_path, wrong};

/// The parts of a URL.
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

/// What follows the scheme of a URL.
pub(crate) struct AfterScheme<'a> {
    /// See [`Parts`], as for the others.
    pub userinfo: Option<&'a str>,
    pub host: String,
    pub port: Option<u16>,
    pub path_and_query: &'a str,
}

/// Splits an `http` or `https` URL, and refuses a fragment. No error quotes the text, because it may contain a
/// password.
pub(crate) fn parts(text: &str) -> Result<Parts<'_>, Wrong> {
    let (https, rest) = match text.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (true, rest),
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (false, rest),
        Some(_) => return Err(wrong("the URL's scheme is neither https nor http", "write \"https://…\"")),
        None => return Err(wrong("is not an absolute URL", "write \"https://…\"")),
    };
    let AfterScheme { userinfo, host, port, path_and_query } = after_scheme(rest)?;
    Ok(Parts { https, userinfo, host, port, path_and_query })
}

/// Splits what follows `://`, and refuses a fragment. No error quotes the text.
pub(crate) fn after_scheme(rest: &str) -> Result<AfterScheme<'_>, Wrong> {
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
    Ok(AfterScheme { userinfo, host, port, path_and_query })
}

fn host_and_port(authority: &str) -> Result<(String, Option<u16>), Wrong> {
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (inside, after) =
            rest.split_once(']').ok_or_else(|| wrong("the URL's host has no closing bracket", ""))?;
        let address: Ipv6Addr =
            inside.parse().map_err(|_| wrong("the URL's host is not an IPv6 address", ""))?;
        match after.strip_prefix(':') {
            Some(port) => (address.to_string(), Some(port)),
            None if after.is_empty() => (address.to_string(), None),
            None => return Err(wrong("the URL's host is not an IPv6 address", "")),
        }
    } else if authority.parse::<Ipv6Addr>().is_ok() {
        return Err(wrong("the URL's host is an IPv6 address without brackets", "write \"https://[…]\""));
    } else {
        let (host, port) =
            authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port)));
        host_name(host)
            .map_err(|_| wrong("the URL's host is not a host name", "such as \"https://api.example.com\""))?;
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

/// Checks a DNS name or an IPv4 address. A trailing dot is allowed.
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
    Err(wrong("is not a host name", "use ASCII letters, digits, `-` and dots; write other names in punycode"))
}

/// `localhost` and loopback literals: what `http://` is for.
pub(crate) fn is_this_machine(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

/// A cloud's metadata service: a literal link-local address, which no router forwards (RFC 3927 section 2.7, RFC 4291
/// section 2.5.6), or the name that Google's has.
pub(crate) fn is_metadata_service(host: &str) -> bool {
    let link_local = |address: IpAddr| match address.to_canonical() {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    host == "metadata.google.internal" || host.parse().is_ok_and(link_local)
}

/// An absolute URL of an issuer.
pub(crate) fn http_url(text: &str) -> Result<HttpUrl, Wrong> {
    let parts = parts(text)?;
    if parts.userinfo.is_some() {
        return Err(wrong("the URL contains a user or a password", "remove the part before `@`"));
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
        return Err(wrong(
            "the URL contains a user or a password",
            "set a header with request_headers instead",
        ));
    }
    check_path(parts.path_and_query)?;
    Ok(UpstreamUrl {
        text: text.to_owned(),
        authority: parts.authority(),
        path: parts.path_and_query.to_owned(),
        target: UpstreamTarget::Tcp { https: parts.https, port: parts.port(), host: parts.host },
    })
}

/// The path is put before the caller's path, so it must be unambiguous.
fn check_path(path: &str) -> Result<(), Wrong> {
    if path.contains('?') {
        return Err(wrong("an upstream has no query", "the caller's query goes upstream as it is"));
    }
    canonical_path(path).map(drop)
}

/// A route's `host`: a name, an IP literal (IPv6 in brackets) or `*.` and a name.
pub(crate) fn host(text: &str) -> Result<HostPattern, Wrong> {
    if let Some(rest) = text.strip_prefix("*.") {
        host_with_port(rest)?;
        return Ok(HostPattern::Wildcard(format!(".{}", rest.to_ascii_lowercase())));
    }
    if text == "*" {
        return Err(wrong(
            "\"*\" matches no host",
            "name a host, or all below one: \"*.example.com\"; unless all its listeners are forward proxies, a route without \
             `host` serves the listener's own names",
        ));
    }
    if text.contains('*') {
        return Err(wrong(
            format!("{} has its `*` in a wrong place", quoted(text)),
            "`*` may only come first: \"*.example.com\"",
        ));
    }
    host_with_port(text)?;
    usual_spelling(text)?;
    Ok(HostPattern::Exact(text.to_ascii_lowercase()))
}

/// Hosts are compared as text, and an IPv6 address has many spellings.
fn usual_spelling(host: &str) -> Result<(), Wrong> {
    let address = host.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    let Some((Ok(address), written)) = address.map(|(text, _)| (text.parse::<Ipv6Addr>(), text)) else {
        return Ok(());
    };
    let usual = match address.to_canonical() {
        IpAddr::V4(mapped) => mapped.to_string(),
        IpAddr::V6(_) if address.to_string().eq_ignore_ascii_case(written) => return Ok(()),
        IpAddr::V6(usual) => format!("[{usual}]"),
    };
    Err(wrong(
        format!("{} is not the usual spelling of this address", quoted(host)),
        format!("write {usual}"),
    ))
}

/// A host, with a port if that is not a default one. Whether a port is allowed depends on the route's listener.
fn host_with_port(text: &str) -> Result<(), Wrong> {
    refuse_bare_ipv6(text)?;
    let Some((name, port)) = text.rsplit_once(':').filter(|_| !text.contains('/') && !text.ends_with(']'))
    else {
        return plain_host(text);
    };
    plain_host(name)?;
    match port.parse::<u16>() {
        Ok(80 | 443) => {
            Err(wrong("the ports 80 and 443 are never part of a host", format!("write {}", quoted(name))))
        }
        Ok(1..) if !port.starts_with(['0', '+']) => Ok(()),
        _ => Err(wrong(format!("{} is not a port", quoted(port)), "such as \"api.example.com:8443\"")),
    }
}

/// A name in `names` of a listener.
pub(crate) fn listener_name(text: &str) -> Result<String, Wrong> {
    if text.contains('*') {
        return Err(wrong(
            format!("{} is not a host name", quoted(text)),
            "name each host; only a route's `host` takes a wildcard",
        ));
    }
    plain_host(text)?;
    Ok(text.to_ascii_lowercase())
}

/// Without brackets, nobody knows where the port would begin.
fn refuse_bare_ipv6(text: &str) -> Result<(), Wrong> {
    match text.parse::<Ipv6Addr>() {
        Ok(_) => Err(wrong(
            format!("{} is an IPv6 address without brackets", quoted(text)),
            format!("write \"[{text}]\""),
        )),
        Err(_) => Ok(()),
    }
}

fn plain_host(text: &str) -> Result<(), Wrong> {
    refuse_bare_ipv6(text)?;
    if text.contains("://") || text.contains('/') {
        return Err(wrong("is a URL or a path, no host", "write the host's name alone: \"api.internal\""));
    }
    if let Some(inside) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return match inside.parse::<Ipv6Addr>() {
            Ok(_) => Ok(()),
            Err(_) => Err(wrong(format!("{} is not an IPv6 address", quoted(text)), "")),
        };
    }
    if let Some((name, _)) = text.split_once(':') {
        return Err(wrong("a host is matched without its port", format!("write {}", quoted(name))));
    }
    if text.ends_with('.') {
        return Err(wrong(format!("{} ends in a dot", quoted(text)), "leave the dot out"));
    }
    host_name(text).map_err(|error| wrong(format!("{} {}", quoted(text), error.message), error.hint))
}

/// A browser origin as browsers write it: `scheme://host[:port]`, lower case.
pub(crate) fn origin(text: &str) -> Result<String, Wrong> {
    let wrong_form = |hint: &str| wrong(format!("{} is not an origin", quoted(text)), hint);
    if text == "*" {
        return Err(wrong(
            "any page on the web could then use the credentials",
            "name each origin: \"https://app.example\"",
        ));
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err(wrong_form("write \"https://app.example\""));
    };
    let scheme_fits =
        scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'));
    let rest_fits = rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte));
    if scheme.is_empty() || rest.is_empty() || !scheme_fits || !rest_fits {
        return Err(wrong_form("an origin has no path: \"https://app.example\""));
    }
    let lower = text.to_ascii_lowercase();
    let default = match scheme.to_ascii_lowercase().as_str() {
        "https" => ":443",
        "http" => ":80",
        _ => return Ok(lower),
    };
    // Browsers omit the default port.
    Ok(lower.strip_suffix(default).map_or_else(|| lower.clone(), str::to_owned))
}

pub(crate) fn exact_path(text: &str) -> Result<PathPattern, Wrong> {
    absolute(text)?;
    canonical_path(text).map(PathPattern::Exact)
}

/// A trailing slash is ignored; `/` becomes the empty prefix.
pub(crate) fn path_prefix(text: &str) -> Result<PathPattern, Wrong> {
    absolute(text)?;
    let path = canonical_path(text)?;
    Ok(PathPattern::Prefix(path.strip_suffix('/').unwrap_or(&path).to_owned()))
}

fn absolute(text: &str) -> Result<(), Wrong> {
    if !text.starts_with('/') {
        return Err(wrong(
            format!("{} does not begin with a slash", quoted(text)),
            format!("write {}", quoted(&format!("/{text}"))),
        ));
    }
    if text.contains(['?', '#']) {
        return Err(wrong("is more than a path", "leave out `?`, `#` and what follows"));
    }
    Ok(())
}

/// Decodes escaped unreserved characters. Refuses what no request may have, and what a URL cannot contain.
fn canonical_path(text: &str) -> Result<String, Wrong> {
    let mut path = String::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => return Err(wrong("the path has a backslash", "write a slash")),
            b'%' => {
                let decoded = escape(bytes.next(), bytes.next())
                    .ok_or_else(|| wrong("the path has a broken escape", "write `%25` for a percent sign"))?;
                match decoded {
                    b'\\' => {
                        return Err(wrong(
                            "the path has an escaped backslash",
                            "no request with one is let through",
                        ));
                    }
                    0..=0x1F | 0x7F => {
                        return Err(wrong(
                            "the path has an escaped control character",
                            "no request with one is let through",
                        ));
                    }
                    byte if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') => {
                        path.push(char::from(byte));
                    }
                    byte => path.push_str(&format!("%{byte:02X}")),
                }
            }
            0x21..=0x7E => path.push(char::from(byte)),
            _ => {
                return Err(wrong(
                    "the path has a space, a control character or one beyond ASCII",
                    "percent-encode it",
                ));
            }
        }
    }
    let dot = |segment: &str| matches!(segment.split(';').next(), Some("." | ".."));
    if path.split('/').any(dot) {
        return Err(wrong("the path has a dot segment", "write the path that it leads to"));
    }
    Ok(path)
}

fn escape(high: Option<u8>, low: Option<u8>) -> Option<u8> {
    let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

/// Whether a pattern matches only paths with an escaped slash.
pub(crate) fn has_encoded_slash(path: &PathPattern) -> bool {
    let (PathPattern::Exact(text) | PathPattern::Prefix(text)) = path;
    text.contains("%2F")
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

    #[test]
    fn hosts() {
        assert_eq!(host("API.Internal"), Ok(HostPattern::Exact("api.internal".into())));
        assert_eq!(host("*.Example.com"), Ok(HostPattern::Wildcard(".example.com".into())));
        assert_eq!(host("10.0.0.1"), Ok(HostPattern::Exact("10.0.0.1".into())));
        assert_eq!(host("[::1]"), Ok(HostPattern::Exact("[::1]".into())));
        assert_eq!(host("[2001:DB8::5]:8443"), Ok(HostPattern::Exact("[2001:db8::5]:8443".into())));
        assert_eq!(host("[2001:0db8:0::5]").unwrap_err().hint, "write [2001:db8::5]");
        assert_eq!(host("[::ffff:10.1.2.3]").unwrap_err().hint, "write 10.1.2.3");
        assert_eq!(host("[::ffff:a01:203]:8443").unwrap_err().hint, "write 10.1.2.3");
        for text in
            ["", "*", "*.", "a.*.b", "*a.b", "**.a", "a:80", "https://a", "a/b", "a b", "a.", "é", "[zz]"]
        {
            assert!(host(text).is_err(), "{text}");
        }
    }

    #[test]
    fn prefixes() {
        for (text, prefix) in [
            ("/", ""),
            ("/billing", "/billing"),
            ("/billing/", "/billing"),
            ("/%61", "/a"),
            ("/a//", "/a/"),
            ("/%c3%a9", "/%C3%A9"),
        ] {
            assert_eq!(path_prefix(text), Ok(PathPattern::Prefix(prefix.into())), "{text}");
        }
        assert_eq!(exact_path("/a/"), Ok(PathPattern::Exact("/a/".into())));
    }

    #[test]
    fn refuses_paths_that_no_request_can_have() {
        for text in [
            "",
            "a",
            "/a?b",
            "/a#b",
            "/./a",
            "/a/..",
            "/%2e%2E/a",
            "/..;x/",
            "/a\\b",
            "/%5c",
            "/%00",
            "/%7f",
            "/%",
            "/%4",
            "/%zz",
            "/é",
            "/a b",
        ] {
            assert!(path_prefix(text).is_err(), "{text}");
            assert!(exact_path(text).is_err(), "{text}");
        }
    }

    #[test]
    fn origins() {
        assert_eq!(origin("HTTPS://App.example"), Ok("https://app.example".into()));
        assert_eq!(origin("https://app.example:443"), Ok("https://app.example".into()));
        assert_eq!(origin("http://localhost:3000"), Ok("http://localhost:3000".into()));
        for text in ["", "*", "null", "app.example", "https://app.example/", "https://", "https://a b"] {
            assert!(origin(text).is_err(), "{text}");
        }
    }
}
