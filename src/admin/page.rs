//! `/`: the status page. It loads nothing from elsewhere. Its script requests `/status` and inserts the values as text, never as
//! markup.

use std::sync::LazyLock;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::HeaderValue;

const HTML: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
/// One script from several files.
const SCRIPT: &str = concat!(
    include_str!("page/format.js"),
    include_str!("page/graph.js"),
    include_str!("page/problems.js"),
    include_str!("page/rows.js"),
    include_str!("page/page.js"),
);

/// The page and its `Content-Security-Policy`.
pub(super) struct Page {
    pub(super) html: Bytes,
    /// Allows only the page's own script and style, and requests only to this address.
    pub(super) policy: HeaderValue,
}

static PAGE: LazyLock<Page> = LazyLock::new(|| Page {
    html: HTML.replace("{style}", STYLE).replace("{script}", SCRIPT).into(),
    policy: HeaderValue::from_str(&policy()).expect("sources and hashes are visible ASCII"),
});

pub(super) fn page() -> &'static Page {
    &PAGE
}

fn policy() -> String {
    format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; \
         trusted-types 'none'",
        sha256(SCRIPT),
        sha256(STYLE)
    )
}

fn sha256(text: &str) -> String {
    STANDARD.encode(digest::digest(&digest::SHA256, text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The content between the tags, which browsers hash.
    fn between<'a>(html: &'a str, open: &str, close: &str) -> &'a str {
        html.split_once(open).unwrap().1.split_once(close).unwrap().0
    }

    #[test]
    fn the_policy_names_exactly_what_is_on_the_page() {
        let html = std::str::from_utf8(&page().html).unwrap();
        let policy = page().policy.to_str().unwrap();
        assert!(policy.contains(&sha256(between(html, "<script>", "</script>"))));
        assert!(policy.contains(&sha256(between(html, "<style>", "</style>"))));
        assert_eq!(html.matches("<script").count(), 1);
        assert_eq!(html.matches("<style").count(), 1);
    }

    /// The filter and the order of the routes stay on the page.
    #[test]
    fn nothing_on_the_page_can_be_sent() {
        let html = std::str::from_utf8(&page().html).unwrap();
        for element in ["<form", "<button", "<textarea", "\"button\"", "\"form\"", "POST"] {
            assert!(!html.contains(element), "{element}");
        }
        assert_eq!((html.matches("<input").count(), html.matches("<select").count()), (1, 1));
        assert_eq!(html.matches("fetch(").count(), 1, "it asks one thing");
    }

    #[test]
    fn nothing_on_the_page_is_from_elsewhere_or_writes_markup() {
        let html = std::str::from_utf8(&page().html).unwrap();
        for forbidden in [
            "http://",
            "https://",
            "innerHTML",
            "outerHTML",
            "insertAdjacent",
            "document.write",
            " on",
            "eval(",
        ] {
            let found =
                html.find(forbidden).filter(|at| forbidden != " on" || html[*at..].starts_with(" onclick"));
            assert_eq!(found, None, "{forbidden}");
        }
        assert!(html.contains("name=\"viewport\""));
    }
}
