//! Which route serves a request: all routes, laid out for a look-up whose cost does not grow with their number.
//!
//! Of all routes that match, these are compared in turn: host (exact, then longer wildcard, then none), path (exact, then
//! longer prefix), listener given, method list given, number of matched headers. The table follows that order: hosts by hash,
//! or by label from the right; under each host a tree of path segments; at its nodes the routes by their other conditions.

#[cfg(test)]
pub(crate) mod fixture;
pub mod host;
pub mod near;
pub mod path;

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher, RandomState};
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method};

use crate::config::{HostPattern, PathPattern, RouteConfig};
use path::MatchPath;

/// All routes, ready for look-up.
pub struct RouteTable {
    exact: HashMap<Box<str>, HostRoutes>,
    /// By label, from the right. A value belongs to the wildcard with `*` before these labels.
    wildcards: Tree<Option<HostRoutes>>,
    /// Routes without `host`.
    own: HostRoutes,
}

/// The routes of one host.
#[derive(Default)]
struct HostRoutes {
    /// At least one of them is served by any listener.
    everywhere: bool,
    /// By index of the listener.
    listens: Vec<bool>,
    paths: Tree<PathRoutes>,
}

/// The routes of one path.
#[derive(Default)]
struct PathRoutes {
    exact: Groups,
    prefix: Groups,
}

/// The parts of a request that decide its route.
#[derive(Debug, Clone, Copy)]
pub struct Lookup<'a> {
    /// Index into `Config::listeners`.
    pub listener: usize,
    /// The host is one of the listener's own names, or the request names none. Routes without `host` match.
    pub own_name: bool,
    /// In lower case, without port. Empty if the request names none.
    pub host: &'a str,
    pub path: &'a MatchPath<'a>,
    pub method: &'a Method,
    pub headers: &'a HeaderMap,
}

/// The route that serves a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteMatch {
    /// Index into `Config::routes`.
    pub route: usize,
    /// The number of segments of the matched `path_prefix` that are stripped. `None` for an exact path, which is replaced.
    pub prefix_segments: Option<usize>,
}

/// Why no route serves a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoMatch {
    /// No route serves this path.
    Path,
    /// Routes serve this path, but only for these methods, sorted.
    Method(Vec<Method>),
    /// The path has an escaped slash, and no matching route allows one. This is a 400, before any other error.
    EncodedSlash,
}

impl RouteTable {
    /// Lays out the routes. [`RouteMatch::route`] is an index into `routes`.
    pub fn build(routes: &[Arc<RouteConfig>]) -> Self {
        let mut table =
            Self { exact: HashMap::new(), wildcards: Tree::default(), own: HostRoutes::default() };
        for (index, route) in routes.iter().enumerate() {
            let site = match &route.host {
                None => &mut table.own,
                Some(HostPattern::Exact(host)) => {
                    table.exact.entry(host::unbracketed(host).into()).or_default()
                }
                Some(HostPattern::Wildcard(suffix)) => {
                    let labels = suffix.strip_prefix('.').unwrap_or(suffix).rsplit('.');
                    table.wildcards.entry(labels).get_or_insert_default()
                }
            };
            site.add(index, route);
        }
        table
    }

    /// Whether a route of this listener names this host, exactly or by wildcard.
    pub fn names_host(&self, listener: usize, host: &str) -> bool {
        self.exact.get(host).is_some_and(|site| site.listens(listener))
            || self.by_wildcard(host, &mut |site| site.listens(listener).then_some(())).is_some()
    }

    /// Finds the route that serves the request. `HEAD` is a method of its own: a list with `GET` does not imply it.
    ///
    /// A field that the request sends in several lines meets no condition of `match_headers`.
    ///
    /// # Errors
    /// No route serves it: see [`NoMatch`].
    pub fn find(&self, lookup: &Lookup<'_>) -> Result<RouteMatch, NoMatch> {
        let chosen = self.visit(lookup, &mut |groups| groups.choose(lookup));
        match chosen {
            Some(rule) if rule.allow_encoded_slash || !lookup.path.encoded_slash => Ok(rule.route_match),
            _ if lookup.path.encoded_slash => Err(NoMatch::EncodedSlash),
            _ => Err(self.explain_no_match(lookup)),
        }
    }

    #[cold]
    fn explain_no_match(&self, lookup: &Lookup<'_>) -> NoMatch {
        let mut methods = Vec::new();
        self.visit(lookup, &mut |groups| {
            methods.extend(groups.methods(lookup).cloned());
            None::<()>
        });
        methods.sort_by(|left, right| left.as_str().cmp(right.as_str()));
        methods.dedup();
        if methods.is_empty() { NoMatch::Path } else { NoMatch::Method(methods) }
    }

    /// Visits the routes whose host and path match, in order of precedence, until `visit` returns a value.
    fn visit<'t, R>(
        &'t self,
        lookup: &Lookup<'_>,
        visit: &mut impl FnMut(&'t Groups) -> Option<R>,
    ) -> Option<R> {
        let path = &*lookup.path.canonical;
        self.exact
            .get(lookup.host)
            .and_then(|site| site.visit(path, visit))
            .or_else(|| self.by_wildcard(lookup.host, &mut |site| site.visit(path, visit)))
            .or_else(|| {
                let own = lookup.own_name || lookup.host.is_empty();
                if own { self.own.visit(path, visit) } else { None }
            })
    }

    fn by_wildcard<'t, R>(
        &'t self,
        host: &str,
        visit: &mut impl FnMut(&'t HostRoutes) -> Option<R>,
    ) -> Option<R> {
        self.wildcards.deepest(host.rsplit('.'), &mut |site, label| {
            // `*` matches one label or more.
            let site = site.as_ref().filter(|_| label.is_some_and(|label| !label.is_empty()))?;
            visit(site)
        })
    }
}

impl HostRoutes {
    fn add(&mut self, index: usize, route: &RouteConfig) {
        match route.listener {
            None => self.everywhere = true,
            Some(listener) => {
                if self.listens.len() <= listener {
                    self.listens.resize(listener + 1, false);
                }
                if let Some(listens) = self.listens.get_mut(listener) {
                    *listens = true;
                }
            }
        }
        let (PathPattern::Exact(pattern) | PathPattern::Prefix(pattern)) = &route.path;
        let pattern = canonical_pattern(pattern);
        let slot = self.paths.entry(segments(&pattern));
        let (groups, prefix_segments) = match &route.path {
            PathPattern::Exact(_) => (&mut slot.exact, None),
            PathPattern::Prefix(_) => (&mut slot.prefix, Some(segments(&pattern).count())),
        };
        // Nothing is stripped from a path that goes to the host that the caller asked for.
        let prefix_segments = if route.to_asked_host { Some(0) } else { prefix_segments };
        groups.add(RouteRule::new(route, RouteMatch { route: index, prefix_segments }));
    }

    fn listens(&self, listener: usize) -> bool {
        self.everywhere || self.listens.get(listener).copied().unwrap_or(false)
    }

    fn visit<'t, R>(&'t self, path: &str, visit: &mut impl FnMut(&'t Groups) -> Option<R>) -> Option<R> {
        self.paths.deepest(segments(path), &mut |slot, label| {
            let exact = if label.is_none() { visit(&slot.exact) } else { None };
            exact.or_else(|| visit(&slot.prefix))
        })
    }
}

/// The segments after each `/`. None for the prefix `/`, which is the empty string here.
fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').skip(1)
}

/// The conditions of a route besides host and path.
struct RouteRule {
    name: Arc<str>,
    route_match: RouteMatch,
    allow_encoded_slash: bool,
    listener: Option<usize>,
    methods: Option<Box<[Method]>>,
    /// Sorted by name.
    headers: Vec<(HeaderName, String)>,
}

/// Which conditions a route has. Shapes are tried in the order of precedence.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct RuleShape {
    // `false` sorts first, so these fields say what is missing. More headers come first, too.
    no_listener: bool,
    no_methods: bool,
    headers: Reverse<usize>,
    names: Vec<Box<str>>,
}

struct Group {
    shape: RuleShape,
    names: Vec<HeaderName>,
    /// By the hash of listener and header values. The routes of one bucket differ in their methods.
    buckets: HashMap<u64, Vec<RouteRule>, BuildHasherDefault<AlreadyHashed>>,
}

/// The key of a bucket is a hash already, and callers cannot influence it.
#[derive(Default)]
struct AlreadyHashed(u64);

impl Hasher for AlreadyHashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

/// The routes of one host and path, grouped by their shape, in order of precedence.
///
/// Routes of one shape share a [`Group`], which looks up the listener and the header values of a request by hash. Ten thousand
/// tenants on one path cost what one costs.
#[derive(Default)]
struct Groups {
    groups: Vec<Group>,
    state: RandomState,
}

impl RouteRule {
    fn new(route: &RouteConfig, route_match: RouteMatch) -> Self {
        let mut headers = route.match_headers.clone();
        headers.sort_by(|left, right| left.0.as_str().cmp(right.0.as_str()));
        Self {
            name: Arc::clone(&route.name),
            route_match,
            allow_encoded_slash: route.allow_encoded_slash,
            listener: route.listener,
            methods: route.methods.as_deref().map(Box::from),
            headers,
        }
    }

    fn shape(&self) -> RuleShape {
        RuleShape {
            no_listener: self.listener.is_none(),
            no_methods: self.methods.is_none(),
            headers: Reverse(self.headers.len()),
            names: self.headers.iter().map(|(name, _)| name.as_str().into()).collect(),
        }
    }

    /// Whether the request meets every condition except the method.
    fn meets(&self, lookup: &Lookup<'_>) -> bool {
        self.listener.is_none_or(|listener| listener == lookup.listener)
            && self.headers.iter().all(|(name, value)| has_header(lookup.headers, name, value))
    }
}

impl Groups {
    /// Adds a route. The order of adding never matters.
    fn add(&mut self, rule: RouteRule) {
        let shape = rule.shape();
        let at = self.groups.binary_search_by(|group| group.shape.cmp(&shape)).unwrap_or_else(|at| {
            let names = rule.headers.iter().map(|(name, _)| name.clone()).collect();
            self.groups.insert(at, Group { shape, names, buckets: HashMap::default() });
            at
        });
        let key = self.key(rule.listener, rule.headers.iter().map(|(_, value)| Some(value.as_bytes())));
        let Some((group, key)) = self.groups.get_mut(at).zip(key) else { return };
        let bucket = group.buckets.entry(key).or_default();
        // The config refuses two routes that match the same requests. If it did not, the name would decide.
        let place = bucket.partition_point(|other| other.name < rule.name);
        bucket.insert(place, rule);
    }

    /// The matching route with the highest precedence.
    fn choose(&self, lookup: &Lookup<'_>) -> Option<&RouteRule> {
        self.candidates(lookup).find(|rule| match &rule.methods {
            None => true,
            Some(methods) => methods.contains(lookup.method),
        })
    }

    /// The methods with which the request would be served.
    fn methods(&self, lookup: &Lookup<'_>) -> impl Iterator<Item = &Method> {
        self.candidates(lookup).filter_map(|rule| rule.methods.as_deref()).flatten()
    }

    /// Every route that matches except for its method, in order of precedence.
    fn candidates(&self, lookup: &Lookup<'_>) -> impl Iterator<Item = &RouteRule> {
        self.groups
            .iter()
            .filter_map(|group| {
                let listener = (!group.shape.no_listener).then_some(lookup.listener);
                let values = group.names.iter().map(|name| single_value(lookup.headers, name));
                let key = self.key(listener, values.map(|value| value.map(HeaderValue::as_bytes)))?;
                group.buckets.get(&key)
            })
            .flatten()
            .filter(|rule| rule.meets(lookup))
    }

    /// `None` if a header is missing.
    fn key<'v>(
        &self,
        listener: Option<usize>,
        values: impl Iterator<Item = Option<&'v [u8]>>,
    ) -> Option<u64> {
        let mut values = values.peekable();
        if listener.is_none() && values.peek().is_none() {
            return Some(0);
        }
        let mut hasher = self.state.build_hasher();
        listener.hash(&mut hasher);
        for value in values {
            value?.hash(&mut hasher);
        }
        Some(hasher.finish())
    }
}

/// A tree of labels (labels of a host, or segments of a path): a node and everything below it. A look-up costs as much as its
/// labels, regardless of the size of the tree. It is as deep as the longest pattern of the config.
#[derive(Default)]
struct Tree<T> {
    value: T,
    children: HashMap<Box<str>, Self>,
}

impl<T: Default> Tree<T> {
    /// The value at the end of these labels. Creates it if it is missing.
    fn entry<'k>(&mut self, mut labels: impl Iterator<Item = &'k str>) -> &mut T {
        match labels.next() {
            None => &mut self.value,
            Some(label) => self.children.entry(label.into()).or_default().entry(labels),
        }
    }
}

impl<T> Tree<T> {
    /// Visits the values along the labels, the deepest first, until `visit` returns a value. `visit` gets the value and the
    /// next label, or `None` at the end of the labels.
    fn deepest<'t, 'k, R>(
        &'t self,
        mut labels: impl Iterator<Item = &'k str>,
        visit: &mut impl FnMut(&'t T, Option<&'k str>) -> Option<R>,
    ) -> Option<R> {
        self.descend(&mut labels, visit)
    }

    fn descend<'t, 'k, R>(
        &'t self,
        labels: &mut impl Iterator<Item = &'k str>,
        visit: &mut impl FnMut(&'t T, Option<&'k str>) -> Option<R>,
    ) -> Option<R> {
        let label = labels.next();
        let child = label.and_then(|label| self.children.get(label));
        let deeper = child.and_then(|child| child.descend(labels, visit));
        deeper.or_else(|| visit(&self.value, label))
    }
}

/// A path of the config in the form in which paths are compared.
fn canonical_pattern(pattern: &str) -> Cow<'_, str> {
    path::parse(pattern).map_or(Cow::Borrowed(pattern), |path| path.canonical)
}

/// Whether the field has exactly this value. In several lines, its value is the list of them (RFC 9110 section 5.3). A route
/// must not be chosen by one line if the upstream may read the other.
fn has_header(headers: &HeaderMap, name: &HeaderName, value: &str) -> bool {
    single_value(headers, name).is_some_and(|found| found.as_bytes() == value.as_bytes())
}

/// The field's value, if it was sent in one line.
fn single_value<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    values.next().is_none().then_some(first)
}

#[cfg(test)]
mod tests;
