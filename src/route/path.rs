//! The path as it is matched, and as it goes up.

use std::borrow::Cow;

/// A request path that passed the checks: no dot segment, no backslash, no control character, no broken escape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MatchPath<'a> {
    /// As it came, without the query.
    pub raw: &'a str,
    /// With escaped unreserved characters decoded; what routes are compared with.
    pub canonical: Cow<'a, str>,
    /// An escaped slash is in it: refused unless the route allows it.
    pub encoded_slash: bool,
}

/// Why a path is refused, as a phrase for `detail`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathError {
    NotAbsolute,
    DotSegment,
    Backslash,
    ControlCharacter,
    BrokenEscape,
}

/// Checks the path and makes its canonical form.
pub fn parse(raw: &str) -> Result<MatchPath<'_>, PathError> {
    let _ = raw;
    todo!("route helper")
}

/// The target that goes up: `upstream_path` without its trailing slash, then what follows the matched prefix,
/// then the query, byte for byte (see the contract's rule).
/// `prefix_segments` is the number of segments of a matched `path_prefix`, or `None` for an exact path.
pub fn upstream_target(
    upstream_path: &str,
    raw_path: &str,
    query: Option<&str>,
    prefix_segments: Option<usize>,
) -> String {
    let _ = (upstream_path, raw_path, query, prefix_segments);
    todo!("route helper")
}
