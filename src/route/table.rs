//! All routes, ready for look-up; cost does not grow with their number.
//!
//! Of all routes that match, these are compared in turn: host (exact, then longer wildcard, then none), path (exact,
//! then longer prefix), listener given, method list given, number of matched headers. The table is laid out in that
//! order: hosts by hash or by label from the right, under each host a tree of path segments, at its nodes the routes
//! by what else they look at.

use std::collections::HashMap;
use std::sync::Arc;

use http::{HeaderMap, Method};

use super::group::{Groups, Rule};
use super::path::MatchPath;
use super::tree::Tree;
use super::{criteria, host};
use crate::config::{HostPattern, PathPattern, RouteConfig};

pub struct RouteTable {
    exact: HashMap<Box<str>, Site>,
    /// By label, from the right; the value belongs to the wildcard whose `*` stands before these labels.
    wildcards: Tree<Option<Site>>,
    /// Routes without `host`.
    own: Site,
}

/// The routes of one host.
#[derive(Default)]
struct Site {
    /// A route that any listener serves is among them.
    everywhere: bool,
    /// By index of the listener.
    listens: Vec<bool>,
    paths: Tree<Slot>,
}

/// The routes of one path.
#[derive(Default)]
struct Slot {
    exact: Groups,
    prefix: Groups,
}

/// What of a request decides its route.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// Index into `Config::listeners`.
    pub listener: usize,
    /// The host is one of the listener's own names (or there is none): routes without `host` answer.
    pub own_name: bool,
    /// Lower case, without port; empty where the request names none.
    pub host: &'a str,
    pub path: &'a MatchPath<'a>,
    pub method: &'a Method,
    pub headers: &'a HeaderMap,
}

/// The route that serves a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Index into `Config::routes`.
    pub route: usize,
    /// Segments of the matched `path_prefix`; `None`: an exact path.
    pub prefix_segments: Option<usize>,
}

/// No route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Miss {
    /// Nothing serves this path.
    Path,
    /// Only other methods are served here: these, sorted.
    Method(Vec<Method>),
    /// The path has an escaped slash, and there is no route for it that allows one: 400, before all else.
    EncodedSlash,
}

impl RouteTable {
    /// Lays out the routes; [`Found::route`] is an index into `routes`.
    pub fn build(routes: &[Arc<RouteConfig>]) -> Self {
        let mut table = Self { exact: HashMap::new(), wildcards: Tree::default(), own: Site::default() };
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

    /// Whether some route that listens here names this host (exactly or by wildcard).
    pub fn names_host(&self, listener: usize, host: &str) -> bool {
        self.exact.get(host).is_some_and(|site| site.listens(listener))
            || self.by_wildcard(host, &mut |site| site.listens(listener).then_some(())).is_some()
    }

    /// The one route that serves the request. `HEAD` is a method of its own: a list with `GET` does not imply it.
    ///
    /// A header that the request sends in several lines meets no condition of `match_headers`.
    pub fn find(&self, call: &Call<'_>) -> Result<Found, Miss> {
        let chosen = self.visit(call, &mut |groups| groups.choose(call));
        match chosen {
            Some(rule) if rule.allow_encoded_slash || !call.path.encoded_slash => Ok(rule.found),
            _ if call.path.encoded_slash => Err(Miss::EncodedSlash),
            _ => Err(self.miss(call)),
        }
    }

    #[cold]
    fn miss(&self, call: &Call<'_>) -> Miss {
        let mut methods = Vec::new();
        self.visit(call, &mut |groups| {
            methods.extend(groups.methods(call).cloned());
            None::<()>
        });
        methods.sort_by(|left, right| left.as_str().cmp(right.as_str()));
        methods.dedup();
        if methods.is_empty() { Miss::Path } else { Miss::Method(methods) }
    }

    /// Visits the routes whose host and path match, in order of precedence, until one gives a response.
    fn visit<'t, R>(&'t self, call: &Call<'_>, visit: &mut impl FnMut(&'t Groups) -> Option<R>) -> Option<R> {
        let path = &*call.path.canonical;
        self.exact
            .get(call.host)
            .and_then(|site| site.visit(path, visit))
            .or_else(|| self.by_wildcard(call.host, &mut |site| site.visit(path, visit)))
            .or_else(|| {
                let own = call.own_name || call.host.is_empty();
                if own { self.own.visit(path, visit) } else { None }
            })
    }

    fn by_wildcard<'t, R>(&'t self, host: &str, visit: &mut impl FnMut(&'t Site) -> Option<R>) -> Option<R> {
        self.wildcards.deepest(host.rsplit('.'), &mut |site, label| {
            // `*` stands for one label or more.
            let site = site.as_ref().filter(|_| label.is_some_and(|label| !label.is_empty()))?;
            visit(site)
        })
    }
}

impl Site {
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
        let pattern = criteria::canonical(pattern);
        let slot = self.paths.entry(segments(&pattern));
        let (groups, prefix_segments) = match &route.path {
            PathPattern::Exact(_) => (&mut slot.exact, None),
            PathPattern::Prefix(_) => (&mut slot.prefix, Some(segments(&pattern).count())),
        };
        groups.add(Rule::new(route, Found { route: index, prefix_segments }));
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

/// What stands after each `/`; nothing for the prefix `/`, which is the empty string.
fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').skip(1)
}

#[cfg(test)]
mod tests;
