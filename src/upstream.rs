//! Calls to upstreams over pooled connections that belong to the worker.

/// One route's upstream.
pub struct Upstream {}
