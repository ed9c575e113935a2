//! All routes, ready for look-up; cost does not grow with their number.

use std::sync::Arc;

use http::{HeaderMap, Method};

use super::path::MatchPath;
use crate::config::RouteConfig;

pub struct RouteTable {}

/// What of a call decides its route.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// Index into `Config::listeners`.
    pub listener: usize,
    /// The host is one of the listener's own names (or there is none): routes without `host` answer.
    pub own_name: bool,
    /// Lower case, without port; empty where the call names none.
    pub host: &'a str,
    pub path: &'a MatchPath<'a>,
    pub method: &'a Method,
    pub headers: &'a HeaderMap,
}

/// The route that serves a call.
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
    /// Only other methods are served here.
    Method(Vec<Method>),
}

impl RouteTable {
    pub fn build(routes: &[Arc<RouteConfig>]) -> Self {
        let _ = routes;
        todo!("route helper")
    }

    /// Whether some route that listens here names this host (exactly or by wildcard).
    pub fn names_host(&self, listener: usize, host: &str) -> bool {
        let _ = (listener, host);
        todo!("route helper")
    }

    pub fn find(&self, call: &Call<'_>) -> Result<Found, Miss> {
        let _ = call;
        todo!("route helper")
    }
}
