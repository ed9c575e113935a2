//! What a browser says of the page that sent a request: `Origin`, `Sec-Fetch-Site`, `Referer`.
//!
//! A browser lets any page send simple requests to any address that its machine reaches. Where the credential is added
//! on the way, such a request would carry it.

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::route::host::Authority;

/// Fetch Metadata: what a browser says of who started a request. It says so to trustworthy addresses alone: `https`,
/// `localhost` and loopback addresses.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The origin of a request itself: a page of that origin is served from here.
#[derive(Debug, Clone, Copy)]
pub struct Own<'a> {
    pub tls: bool,
    /// `None`: the request names no host.
    pub authority: Option<&'a Authority<'a>>,
}

/// Why a request is another site's, as a phrase; `None` where nothing says that it is.
///
/// `listed`: origins whose pages may send requests although they are another site's.
pub fn foreign(headers: &HeaderMap, own: Own<'_>, listed: &[String]) -> Option<&'static str> {
    let is_listed = |origin: &[u8]| listed.iter().any(|known| known.as_bytes().eq_ignore_ascii_case(origin));
    let origins = headers.get_all(header::ORIGIN);
    let mut lines = origins.iter().peekable();
    if lines.peek().is_some() && lines.all(|origin| is_listed(origin.as_bytes())) {
        // The other fields rightly say that it is another site.
        return None;
    }
    if !origins.iter().all(|origin| is_listed(origin.as_bytes()) || own.is(origin.as_bytes())) {
        return Some("a browser page sent it, and its Origin is neither this address's own nor in `origins`");
    }
    if headers.get_all(SEC_FETCH_SITE).iter().any(|site| site != "same-origin" && site != "none") {
        return Some("a browser page of another site sent it (Sec-Fetch-Site)");
    }
    let led_here = |referer: &HeaderValue| match source(referer.as_bytes()) {
        Source::Nothing => true,
        Source::Origin(origin) => is_listed(origin) || own.is(origin),
        Source::Unclear => false,
    };
    if !headers.get_all(header::REFERER).iter().all(led_here) {
        return Some("a browser page of another site sent it (Referer)");
    }
    None
}

impl Own<'_> {
    fn is(self, origin: &[u8]) -> bool {
        self.equals(origin).unwrap_or(false)
    }

    fn equals(self, origin: &[u8]) -> Option<bool> {
        let (scheme, authority) = std::str::from_utf8(origin).ok()?.split_once("://")?;
        let (own_scheme, default_port) = if self.tls { ("https", 443) } else { ("http", 80) };
        let (theirs, ours) = (Authority::parse(authority)?, self.authority?);
        let port = |authority: &Authority<'_>| authority.port.unwrap_or(default_port);
        Some(
            scheme.eq_ignore_ascii_case(own_scheme)
                && theirs.host == ours.host
                && port(&theirs) == port(ours),
        )
    }
}

/// Where a `Referer` points (RFC 9110 section 10.1.3).
enum Source<'a> {
    /// To no other site: it is a path here, or says that no page led here.
    Nothing,
    Origin(&'a [u8]),
    Unclear,
}

fn source(referer: &[u8]) -> Source<'_> {
    match referer {
        b"" | b"about:blank" | b"/" => return Source::Nothing,
        [b'/', next, ..] if !matches!(next, b'/' | b'\\') => return Source::Nothing,
        _ => {}
    }
    let Some(colon) = referer.windows(3).position(|window| window == b"://") else { return Source::Unclear };
    let host = colon + 3;
    let end = referer.iter().skip(host).position(|byte| matches!(byte, b'/' | b'\\' | b'?' | b'#'));
    referer.get(..end.map_or(referer.len(), |end| host + end)).map_or(Source::Unclear, Source::Origin)
}

#[cfg(test)]
mod tests {
    use super::*;

    const APP: &str = "https://app.test";

    fn refused(own: (bool, &str), fields: &[(&'static str, &str)]) -> bool {
        let authority = Authority::parse(own.1);
        let own = Own { tls: own.0, authority: authority.as_ref() };
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_static(name), value.parse().unwrap());
        }
        foreign(&headers, own, &[APP.to_owned()]).is_some()
    }

    const PLAIN: (bool, &str) = (false, "api.internal:8080");

    #[test]
    fn what_is_no_page_passes() {
        assert!(!refused(PLAIN, &[]));
        assert!(!refused((false, ""), &[]));
    }

    #[test]
    fn an_origin_must_be_listed_or_the_requests_own() {
        for (own, origin) in [
            (PLAIN, "http://api.internal:8080"),
            (PLAIN, "HTTP://API.internal:8080"),
            (PLAIN, APP),
            ((false, "api.internal"), "http://api.internal"),
            ((false, "api.internal:80"), "http://api.internal"),
            ((true, "api.internal"), "https://api.internal:443"),
            ((false, "[::1]:8080"), "http://[::1]:8080"),
        ] {
            assert!(!refused(own, &[("origin", origin)]), "{own:?} {origin}");
        }
        for (own, origin) in [
            (PLAIN, "https://api.internal:8080"),
            (PLAIN, "http://api.internal"),
            (PLAIN, "http://api.internal:8081"),
            (PLAIN, "http://api.internal.evil.test:8080"),
            (PLAIN, "http://x@api.internal:8080"),
            (PLAIN, "api.internal:8080"),
            (PLAIN, "null"),
            (PLAIN, ""),
            ((true, "api.internal"), "http://api.internal:443"),
            ((false, ""), "http://api.internal"),
            ((false, ""), "http://"),
        ] {
            assert!(refused(own, &[("origin", origin)]), "{own:?} {origin}");
        }
    }

    #[test]
    fn several_origins_must_all_be_known() {
        assert!(!refused(PLAIN, &[("origin", APP), ("origin", "http://api.internal:8080")]));
        assert!(refused(PLAIN, &[("origin", APP), ("origin", "http://evil.test")]));
    }

    #[test]
    fn a_listed_origin_is_another_site_and_may_be() {
        let cross = [("origin", APP), ("sec-fetch-site", "cross-site"), ("referer", "https://app.test/x")];
        assert!(!refused(PLAIN, &cross));
        let own = [("origin", "http://api.internal:8080"), ("sec-fetch-site", "cross-site")];
        assert!(refused(PLAIN, &own), "the two contradict one another");
    }

    #[test]
    fn a_site_other_than_the_same_origin_is_another() {
        for (site, is_refused) in [
            ("none", false),
            ("same-origin", false),
            ("same-site", true),
            ("cross-site", true),
            ("", true),
            ("new-word", true),
        ] {
            assert_eq!(refused(PLAIN, &[("sec-fetch-site", site)]), is_refused, "{site}");
        }
        assert!(refused(PLAIN, &[("sec-fetch-site", "none"), ("sec-fetch-site", "cross-site")]));
    }

    #[test]
    fn a_referer_must_be_of_here() {
        for referer in [
            "http://api.internal:8080/x?y#z",
            "http://api.internal:8080",
            "https://app.test/page",
            "/x",
            "/",
            "about:blank",
            "",
        ] {
            assert!(!refused(PLAIN, &[("referer", referer)]), "{referer}");
        }
        for referer in [
            "http://evil.test/",
            "http://api.internal/",
            "https://api.internal:8080/",
            "http://api.internal:8080@evil.test/",
            "http://evil.test/?http://api.internal:8080",
            "http://evil.test\\.api.internal:8080/",
            "//evil.test/",
            "/\\evil.test/",
            "evil",
            "data:text/html,x",
            "http://",
            "://",
        ] {
            assert!(refused(PLAIN, &[("referer", referer)]), "{referer}");
        }
        let latin = HeaderMap::from_iter([(
            header::REFERER,
            HeaderValue::from_bytes(b"http://evil\xe9.test/").unwrap(),
        )]);
        assert!(foreign(&latin, Own { tls: false, authority: None }, &[]).is_some());
    }
}
