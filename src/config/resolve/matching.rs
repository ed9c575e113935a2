//! The keys of a route that decide which calls it serves.

use std::collections::BTreeMap;

use http::{HeaderName, Method};

use super::super::document::Place;
use super::super::model::{HostPattern, PathPattern};
use super::super::raw::keys::check;
use super::super::raw::route::RawRoute;
use super::super::report::{Report, did_you_mean};
use super::super::types::{self, Wrong, pattern, quoted, wrong};
use super::{Known, listener};

/// What a request must be like for a route to serve it.
#[derive(Clone)]
pub(super) struct Matching {
    pub listener: Option<usize>,
    pub host: Option<HostPattern>,
    pub path: PathPattern,
    pub methods: Option<Vec<Method>>,
    /// In the order of the names.
    pub headers: Vec<(HeaderName, String)>,
}

/// Takes its keys out of `raw`. `None`: an error was reported.
pub(super) fn resolve(
    place: &Place<'_>,
    raw: &mut RawRoute,
    known: &Known,
    report: &mut Report,
) -> Option<Matching> {
    // What had a wrong type was reported and is gone from `raw`; without it the route would match other requests.
    let written = [
        ("listener", raw.listener.is_some()),
        ("host", raw.host.is_some()),
        ("path", raw.path.is_some()),
        ("path_prefix", raw.path_prefix.is_some()),
        ("methods", raw.methods.is_some()),
        ("match_headers", raw.match_headers.is_some()),
    ];
    let lost = written.iter().any(|(key, read)| !read && place.key(key).is_written());
    let listener = raw.listener.take().map(|name| listener_index(place, &name, known, report));
    let host = raw.host.take().map(|text| check(&place.key("host"), pattern::host(&text), report));
    let encoded_slash = raw.allow_encoded_slash.0;
    let path = path(place, raw.path.take(), raw.path_prefix.take(), encoded_slash, report);
    let methods = raw.methods.take().map(|names| methods(&place.key("methods"), &names, report));
    let headers =
        match_headers(&place.key("match_headers"), raw.match_headers.take().unwrap_or_default(), report);
    if lost {
        return None;
    }
    if let (Some(Some(host)), Some(listener)) = (&host, transposed(listener)) {
        check_pages(&place.key("host"), host, listener, known, report);
    }
    Some(Matching {
        listener: transposed(listener)?,
        host: transposed(host)?,
        path: path?,
        methods: transposed(methods)?,
        headers: headers?,
    })
}

/// Absent is fine, wrong is not.
fn transposed<T>(value: Option<Option<T>>) -> Option<Option<T>> {
    value.map_or(Some(None), |value| value.map(Some))
}

fn listener_index(place: &Place<'_>, name: &str, known: &Known, report: &mut Report) -> Option<usize> {
    let names = &known.listeners.names;
    let index = names.iter().position(|other| other == name);
    if index.is_none() {
        let at = place.key("listener");
        let otherwise = format!("listeners: {}", names.join(", "));
        let hint = did_you_mean(name, names.iter().map(String::as_str), &otherwise);
        report.error(&at, format!("there is no listener {}", at.describe()), hint);
    }
    index
}

/// See [`listener::pages_could_ride`].
fn check_pages(
    at: &Place<'_>,
    host: &HostPattern,
    listener: Option<usize>,
    known: &Known,
    report: &mut Report,
) {
    let (HostPattern::Exact(host) | HostPattern::Wildcard(host)) = host;
    let listeners = known.listeners.configs.iter().enumerate();
    let mut serving = listeners
        .filter(|(index, _)| listener.is_none_or(|only| only == *index))
        .filter_map(|(_, config)| config.as_ref());
    if serving.any(|config| listener::pages_could_ride(config, host)) {
        listener::warn_of_pages(at, report);
    }
}

fn path(
    place: &Place<'_>,
    exact: Option<String>,
    prefix: Option<String>,
    encoded_slash: bool,
    report: &mut Report,
) -> Option<PathPattern> {
    let (at, pattern) = match (exact, prefix) {
        (Some(_), Some(_)) => {
            report.error(&place.key("path"), "stands beside `path_prefix`", "keep one of them");
            return None;
        }
        (Some(text), None) => (place.key("path"), pattern::exact_path(&text)),
        (None, Some(text)) => (place.key("path_prefix"), pattern::path_prefix(&text)),
        (None, None) => return Some(PathPattern::Prefix(String::new())),
    };
    let pattern = check(&at, pattern, report)?;
    warn_of_wildcard(&at, &pattern, report);
    if pattern::has_encoded_slash(&pattern) && !encoded_slash {
        report.error(
            &at,
            "has an escaped slash, which no request may have here",
            "set allow_encoded_slash = true",
        );
        return None;
    }
    Some(pattern)
}

/// Other proxies have `/billing/*`, or `{id}` in a path; here each character is itself.
fn warn_of_wildcard(at: &Place<'_>, pattern: &PathPattern, report: &mut Report) {
    let (PathPattern::Exact(text) | PathPattern::Prefix(text)) = pattern;
    let Some(end) = text.find(['*', '{']) else { return };
    let before = text.get(..end).unwrap_or_default();
    let whole = before.rsplit_once('/').map_or("", |(whole, _)| whole);
    let prefix = if whole.is_empty() { "/" } else { whole };
    report.warning(
        at,
        "has a wildcard, which matches only itself: a path has no wildcards",
        format!("write path_prefix = \"{prefix}\", which serves every path below it"),
    );
}

fn methods(at: &Place<'_>, names: &[String], report: &mut Report) -> Option<Vec<Method>> {
    if names.is_empty() {
        report.error(at, "names no method", "leave it out to serve every method");
        return None;
    }
    let mut methods = Vec::new();
    let mut all_right = true;
    for (index, name) in names.iter().enumerate() {
        match check(&at.index(index), method(name), report) {
            Some(method) if !methods.contains(&method) => methods.push(method),
            Some(_) => {}
            None => all_right = false,
        }
    }
    all_right.then_some(methods)
}

fn method(name: &str) -> Result<Method, Wrong> {
    let method = Method::from_bytes(name.as_bytes())
        .map_err(|_| wrong(format!("{} is no method", quoted(name)), "such as \"GET\""))?;
    let upper = name.to_ascii_uppercase();
    let standard = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"].contains(&upper.as_str());
    match upper.as_str() {
        "CONNECT" | "TRACE" => Err(wrong(format!("{upper} is never forwarded"), "leave it out")),
        _ if standard && upper != name => Err(wrong(
            format!("{} is no method: methods are in upper case", quoted(name)),
            format!("write \"{upper}\""),
        )),
        _ => Ok(method),
    }
}

fn match_headers(
    at: &Place<'_>,
    written: BTreeMap<String, String>,
    report: &mut Report,
) -> Option<Vec<(HeaderName, String)>> {
    let mut headers: Vec<(HeaderName, String)> = Vec::new();
    let mut all_right = true;
    for (name, value) in written {
        let place = at.key(&name);
        let value_fits = check(&place, types::header_value(value.as_bytes()), report).is_some();
        let Some(name) = check(&place, types::header_name(&name), report).filter(|_| value_fits) else {
            all_right = false;
            continue;
        };
        if name == http::header::HOST {
            report.error(&place, "is matched by `host`", "write host = \"…\"");
            all_right = false;
        } else if headers.iter().any(|(other, _)| *other == name) {
            report.error(&place, "is given twice, in two spellings", "keep one");
            all_right = false;
        } else {
            headers.push((name, value));
        }
    }
    headers.sort_by(|(one, _), (other, _)| one.as_str().cmp(other.as_str()));
    all_right.then_some(headers)
}
