use std::borrow::Cow;

use proptest::prelude::*;

use super::*;

fn canonical_of(raw: &str) -> String {
    parse(raw).unwrap_or_else(|error| panic!("{raw:?}: {error}")).canonical.into_owned()
}

fn refused(paths: &[&str], error: PathError) {
    for path in paths {
        assert_eq!(parse(path), Err(error), "{path:?}");
    }
}

#[test]
fn an_escaped_unreserved_character_matches_as_itself() {
    assert_eq!(canonical_of("/%61dmin"), "/admin");
    assert_eq!(canonical_of("/%41%7a%30%2D%5f%7E"), "/Az0-_~");
    assert_eq!(canonical_of("/a%2eb"), "/a.b");
    assert_eq!(canonical_of("/%2ewell-known"), "/.well-known");
}

#[test]
fn other_escapes_stay_in_upper_case() {
    assert_eq!(canonical_of("/a%3ab%20%40"), "/a%3Ab%20%40");
    assert_eq!(canonical_of("/%e9"), "/%E9");
}

#[test]
fn a_byte_beyond_ascii_matches_as_its_escape() {
    assert_eq!(canonical_of("/caf\u{e9}"), "/caf%C3%A9");
    assert_eq!(canonical_of("/caf%c3%a9"), "/caf%C3%A9");
}

#[test]
fn a_double_escape_is_data() {
    assert_eq!(canonical_of("/%252e%252e/%255c%2500"), "/%252e%252e/%255c%2500");
    assert!(!parse("/%252f").unwrap().encoded_slash);
}

#[test]
fn the_bytes_stay_as_they_came() {
    assert_eq!(parse("/%61%3a").unwrap().raw, "/%61%3a");
}

#[test]
fn a_plain_path_is_not_copied() {
    for path in ["/", "/billing/v1/x", "//a//", "/a;b=c,d@e:f", "/a%2Fb%3A", "/%25"] {
        assert!(matches!(parse(path).unwrap().canonical, Cow::Borrowed(_)), "{path}");
    }
}

#[test]
fn empty_segments_pass() {
    for path in ["//", "///", "/a//b", "//a", "/a//"] {
        assert_eq!(canonical_of(path), path);
    }
}

#[test]
fn a_dot_segment_is_refused() {
    let plain = ["/.", "/..", "/./", "/../", "/a/./b", "/a/../b", "/a/..", "/a/.", "//..//", "/a/b/../../c"];
    refused(&plain, PathError::DotSegment);
}

#[test]
fn an_escaped_dot_segment_is_refused() {
    let escaped = ["/%2e", "/%2E%2e", "/a/%2e%2e/b", "/a/.%2e/b", "/a/%2E./b", "/%2e/", "/a/%2e%2E"];
    refused(&escaped, PathError::DotSegment);
}

#[test]
fn a_dot_segment_with_a_path_parameter_is_refused() {
    let parameters = ["/..;x", "/a/..;/b", "/.;", "/.;/a", "/%2e%2e;x=y/b", "/..;..", "/..%3bx/", "/%2e%3B/"];
    refused(&parameters, PathError::DotSegment);
}

#[test]
fn a_dot_segment_between_escaped_slashes_is_refused() {
    refused(&["/a%2f..%2fb", "/a%2F%2e%2e", "/..%2fb", "/a%2f./b"], PathError::DotSegment);
}

#[test]
fn dots_in_a_name_pass() {
    for path in [
        "/...",
        "/..a",
        "/a..",
        "/.a",
        "/a.",
        "/a..b",
        "/.well-known/x",
        "/a;..",
        "/;x=..",
        "/..%20",
        "/...;x",
    ] {
        assert!(parse(path).is_ok(), "{path}");
    }
}

#[test]
fn a_backslash_is_refused() {
    refused(
        &["/\\", "/a\\b", "/a\\..\\b", "/%5c", "/a%5C", "/%5c%2e%2e", "/x%5c..%5cy"],
        PathError::Backslash,
    );
    for path in ["/..\\a", "/..%5ca", "/.%5c"] {
        assert!(parse(path).is_err(), "{path}");
    }
}

#[test]
fn every_control_character_is_refused() {
    for byte in (0..=0x1F_u8).chain([0x7F]) {
        let plain = format!("/a{}b", char::from(byte));
        let (lower, upper) = (format!("/a%{byte:02x}"), format!("/%{byte:02X}a"));
        refused(&[&plain, &lower, &upper], PathError::ControlCharacter);
    }
    refused(&["/.%0a", "/..%00", "/a%0d%0aHost:%20x"], PathError::ControlCharacter);
}

#[test]
fn a_broken_escape_is_refused() {
    let broken =
        ["/%", "/%4", "/%g1", "/%1g", "/a%", "/%%41", "/% 41", "/%u0041", "/%+1", "/a%2", "/%\u{e9}"];
    refused(&broken, PathError::BrokenEscape);
}

#[test]
fn an_escaped_slash_is_reported() {
    for path in ["/a%2fb", "/%2F", "/a/b%2F"] {
        let parsed = parse(path).unwrap();
        assert!(parsed.encoded_slash, "{path}");
        assert!(!parsed.canonical.contains("//"), "{path}: it parts no segments in matching");
    }
    assert!(!parse("/a/b").unwrap().encoded_slash);
}

#[test]
fn a_path_without_a_slash_in_front_is_refused() {
    refused(&["", "*", "a/b", "%2fa", "http://h/"], PathError::NotAbsolute);
}

/// Upstream path, path of the request, query, segments of the prefix, what goes up.
type Target = (&'static str, &'static str, Option<&'static str>, Option<usize>, &'static str);

const TARGETS: &[Target] = &[
    // The interface's own examples: prefix `/billing`, upstream `https://h/api/v2` and `https://h`.
    ("/api/v2", "/billing/x", Some("y"), Some(1), "/api/v2/x?y"),
    ("/api/v2", "/billing", None, Some(1), "/api/v2"),
    ("", "/billing/x", None, Some(1), "/x"),
    ("", "/billing", None, Some(1), "/"),
    // The upstream's trailing slash goes where something follows, and stays where nothing does.
    ("/api/v2/", "/billing/x", None, Some(1), "/api/v2/x"),
    ("/api/v2/", "/billing", None, Some(1), "/api/v2/"),
    ("/api//", "/billing/x", None, Some(1), "/api//x"),
    ("/", "/billing", None, Some(1), "/"),
    ("/", "/billing/x", None, Some(1), "/x"),
    // The request's trailing slash follows the prefix.
    ("/api/v2", "/billing/", None, Some(1), "/api/v2/"),
    ("", "/billing/", None, Some(1), "/"),
    ("/api/v2", "/billing//x/", None, Some(1), "/api/v2//x/"),
    // Prefix `/`: the whole path.
    ("/api/v2", "/", None, Some(0), "/api/v2/"),
    ("/api/v2", "/x/y", Some("q"), Some(0), "/api/v2/x/y?q"),
    ("/api/v2/", "/x", None, Some(0), "/api/v2/x"),
    ("", "/", None, Some(0), "/"),
    ("", "//x", None, Some(0), "//x"),
    ("/", "/", None, Some(0), "/"),
    // An exact path is replaced whole.
    ("/api/v2", "/health", Some("a=b"), None, "/api/v2?a=b"),
    ("/api/v2/", "/a/b/c", None, None, "/api/v2/"),
    ("", "/health", None, None, "/"),
    // Byte for byte.
    ("/api", "/%62illing/%61%2fb", Some("q=%61&&=?/../"), Some(1), "/api/%61%2fb?q=%61&&=?/../"),
    ("/api", "/billing/x", Some(""), Some(1), "/api/x?"),
    ("/a", "/two/deep/x", None, Some(2), "/a/x"),
];

#[test]
fn the_upstream_target_is_the_upstreams_path_then_the_rest_then_the_query() {
    for (upstream, path, query, segments, target) in TARGETS {
        let got = upstream_target(upstream, path, *query, *segments);
        assert_eq!(got, *target, "{upstream:?} {path:?} {query:?} {segments:?}");
    }
}

fn nasty_path() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("/".to_owned()),
        Just("%2f".to_owned()),
        Just(".".to_owned()),
        Just("%2E".to_owned()),
        Just(";".to_owned()),
        Just("%25".to_owned()),
        Just("\\".to_owned()),
        "[a-z]{1,3}",
        "%[0-9a-fA-F]{2}",
        "[%é~ ]",
    ];
    proptest::collection::vec(piece, 0..12).prop_map(|pieces| format!("/{}", pieces.concat()))
}

/// Dot segments found another way: decode, split, look.
fn has_dot_segment(path: &str) -> bool {
    let decoded: Vec<u8> = percent_encoding::percent_decode_str(path).collect();
    decoded.split(|byte| *byte == b'/').any(|segment| {
        let name = segment.split(|byte| *byte == b';').next().unwrap_or_default();
        name == b"." || name == b".."
    })
}

proptest! {
    #[test]
    fn the_canonical_form_is_canonical(path in nasty_path()) {
        if let Ok(first) = parse(&path) {
            let second = parse(&first.canonical).unwrap();
            prop_assert_eq!(&second.canonical, &first.canonical);
            prop_assert!(matches!(second.canonical, Cow::Borrowed(_)));
            prop_assert_eq!(second.encoded_slash, first.encoded_slash);
            prop_assert!(first.canonical.is_ascii());
            prop_assert_eq!(path.matches('/').count(), first.canonical.matches('/').count());
        }
    }

    #[test]
    fn the_canonical_form_means_the_same_bytes(path in nasty_path()) {
        if let Ok(parsed) = parse(&path) {
            let decode = |text: &str| percent_encoding::percent_decode_str(text).collect::<Vec<_>>();
            prop_assert_eq!(decode(&parsed.canonical), decode(&path));
        }
    }

    #[test]
    fn no_dot_segment_passes(path in nasty_path()) {
        match parse(&path) {
            Ok(_) => prop_assert!(!has_dot_segment(&path)),
            Err(PathError::DotSegment) => prop_assert!(has_dot_segment(&path)),
            Err(_) => {}
        }
    }

    #[test]
    fn any_text_is_parsed_without_a_panic(path in ".*") {
        let _ = parse(&path);
    }

    #[test]
    fn the_target_keeps_the_bytes(
        upstream in "(/[a-z%0-9]{0,4}){0,3}",
        prefix in proptest::collection::vec("[a-z]{0,3}", 0..3),
        rest in "(/[ -~é]{0,4}){0,3}",
        query in proptest::option::of("[ -~]{0,8}"),
    ) {
        let matched: String = prefix.iter().map(|segment| format!("/{segment}")).collect();
        let path = format!("{matched}{rest}");
        let target = upstream_target(&upstream, &path, query.as_deref(), Some(prefix.len()));
        prop_assert!(target.starts_with('/'));
        let (before, after) = match &query {
            Some(query) => target.split_at(target.len() - query.len() - 1),
            None => (target.as_str(), ""),
        };
        prop_assert_eq!(after, query.map(|query| format!("?{query}")).unwrap_or_default());
        prop_assert!(before.ends_with(&rest));
        if !rest.is_empty() {
            let base = &before[..before.len() - rest.len()];
            prop_assert_eq!(base, upstream.strip_suffix('/').unwrap_or(&upstream));
        }
    }
}
