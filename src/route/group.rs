//! Routes of one host and one path, told apart by listener, method and headers.
//!
//! Routes that look at the same things share a [`Group`], in which the request's listener and header values are looked
//! up by hash: ten thousand tenants on one path cost what one costs.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher, RandomState};
use std::sync::Arc;

use http::{HeaderName, Method};

use super::table::Call;
use super::{Found, criteria};
use crate::config::RouteConfig;

/// What is left of a route when its host and path match.
pub(super) struct Rule {
    name: Arc<str>,
    pub(super) found: Found,
    pub(super) allow_encoded_slash: bool,
    listener: Option<usize>,
    methods: Option<Box<[Method]>>,
    /// Sorted by name.
    headers: Vec<(HeaderName, String)>,
}

/// What a route looks at. The order in which shapes are tried is the order of precedence.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Shape {
    // `false` sorts first: the fields say what is lacking, the number of headers is counted downward.
    no_listener: bool,
    no_methods: bool,
    headers: std::cmp::Reverse<usize>,
    names: Vec<Box<str>>,
}

struct Group {
    shape: Shape,
    names: Vec<HeaderName>,
    /// By the hash of listener and header values. The routes of one bucket differ by method.
    buckets: HashMap<u64, Vec<Rule>, BuildHasherDefault<Hashed>>,
}

/// A key of a bucket is a hash already, and one that nobody outside can steer.
#[derive(Default)]
struct Hashed(u64);

impl Hasher for Hashed {
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

/// The groups of one host and path, the one that goes first in front.
#[derive(Default)]
pub(super) struct Groups {
    groups: Vec<Group>,
    state: RandomState,
}

impl Rule {
    pub(super) fn new(route: &RouteConfig, found: Found) -> Self {
        let mut headers = route.match_headers.clone();
        headers.sort_by(|left, right| left.0.as_str().cmp(right.0.as_str()));
        Self {
            name: Arc::clone(&route.name),
            found,
            allow_encoded_slash: route.allow_encoded_slash,
            listener: route.listener,
            methods: route.methods.as_deref().map(Box::from),
            headers,
        }
    }

    fn shape(&self) -> Shape {
        Shape {
            no_listener: self.listener.is_none(),
            no_methods: self.methods.is_none(),
            headers: std::cmp::Reverse(self.headers.len()),
            names: self.headers.iter().map(|(name, _)| name.as_str().into()).collect(),
        }
    }

    /// Everything but the method.
    fn meets(&self, call: &Call<'_>) -> bool {
        self.listener.is_none_or(|listener| listener == call.listener)
            && self.headers.iter().all(|(name, value)| criteria::has_header(call.headers, name, value))
    }
}

impl Groups {
    /// Adds a route. The order in which routes are added never matters.
    pub(super) fn add(&mut self, rule: Rule) {
        let shape = rule.shape();
        let at = self.groups.binary_search_by(|group| group.shape.cmp(&shape)).unwrap_or_else(|at| {
            let names = rule.headers.iter().map(|(name, _)| name.clone()).collect();
            self.groups.insert(at, Group { shape, names, buckets: HashMap::default() });
            at
        });
        let key = self.key(rule.listener, rule.headers.iter().map(|(_, value)| Some(value.as_bytes())));
        let Some((group, key)) = self.groups.get_mut(at).zip(key) else { return };
        let bucket = group.buckets.entry(key).or_default();
        // Two routes that match the same requests are refused by the config; were they not, the name would decide.
        let place = bucket.partition_point(|other| other.name < rule.name);
        bucket.insert(place, rule);
    }

    /// The route that goes before all others of this host and path.
    pub(super) fn choose(&self, call: &Call<'_>) -> Option<&Rule> {
        self.candidates(call).find(|rule| match &rule.methods {
            None => true,
            Some(methods) => methods.contains(call.method),
        })
    }

    /// The methods with which the request would have been served.
    pub(super) fn methods(&self, call: &Call<'_>) -> impl Iterator<Item = &Method> {
        self.candidates(call).filter_map(|rule| rule.methods.as_deref()).flatten()
    }

    /// Every route that matches but for its method, in order of precedence.
    fn candidates(&self, call: &Call<'_>) -> impl Iterator<Item = &Rule> {
        self.groups
            .iter()
            .filter_map(|group| {
                let listener = (!group.shape.no_listener).then_some(call.listener);
                let values = group.names.iter().map(|name| criteria::single(call.headers, name));
                let key = self.key(listener, values.map(|value| value.map(http::HeaderValue::as_bytes)))?;
                group.buckets.get(&key)
            })
            .flatten()
            .filter(|rule| rule.meets(call))
    }

    /// `None` where a header is missing.
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
