//! What routes and listeners match: hosts, paths, origins.

use super::super::model::{HostPattern, PathPattern};
use super::url::host_name;
use super::{Wrong, quoted, wrong};

/// A route's `host`: a name, an IP literal (IPv6 in brackets) or `*.` and a name.
pub(crate) fn host(text: &str) -> Result<HostPattern, Wrong> {
    if let Some(rest) = text.strip_prefix("*.") {
        plain_host(rest)?;
        return Ok(HostPattern::Wildcard(format!(".{}", rest.to_ascii_lowercase())));
    }
    if text == "*" {
        return Err(wrong(
            "\"*\" matches no host",
            "leave `host` out: the route then answers to the listener's own names",
        ));
    }
    if text.contains('*') {
        return Err(wrong(
            format!("{} has its `*` in a wrong place", quoted(text)),
            "`*` may only stand first: \"*.example.com\"",
        ));
    }
    plain_host(text)?;
    Ok(HostPattern::Exact(text.to_ascii_lowercase()))
}

/// A name in `names` of a listener.
pub(crate) fn listener_name(text: &str) -> Result<String, Wrong> {
    if text.contains('*') {
        return Err(wrong(
            format!("{} is no host name", quoted(text)),
            "name each host; only a route's `host` takes a wildcard",
        ));
    }
    plain_host(text)?;
    Ok(text.to_ascii_lowercase())
}

fn plain_host(text: &str) -> Result<(), Wrong> {
    if text.contains("://") || text.contains('/') {
        return Err(wrong("is a URL or a path, no host", "write the host's name alone: \"api.internal\""));
    }
    if let Some(inside) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return match inside.parse::<std::net::Ipv6Addr>() {
            Ok(_) => Ok(()),
            Err(_) => Err(wrong(format!("{} is no IPv6 address", quoted(text)), "")),
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
    let wrong_form = |hint: &str| wrong(format!("{} is no origin", quoted(text)), hint);
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
    // Browsers leave the default port out.
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

/// Decodes escaped unreserved characters; refuses what no request may have, and what a URL can't hold.
pub(crate) fn canonical_path(text: &str) -> Result<String, Wrong> {
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

/// Whether a pattern can only match paths with an escaped slash.
pub(crate) fn has_encoded_slash(path: &PathPattern) -> bool {
    let (PathPattern::Exact(text) | PathPattern::Prefix(text)) = path;
    text.contains("%2F")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        assert_eq!(host("API.Internal"), Ok(HostPattern::Exact("api.internal".into())));
        assert_eq!(host("*.Example.com"), Ok(HostPattern::Wildcard(".example.com".into())));
        assert_eq!(host("10.0.0.1"), Ok(HostPattern::Exact("10.0.0.1".into())));
        assert_eq!(host("[::1]"), Ok(HostPattern::Exact("[::1]".into())));
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
