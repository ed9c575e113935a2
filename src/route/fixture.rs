//! Routes for tests, written as one would say them.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode, header};

use crate::config::{
    CallerAuthorization, Credential, Egress, HeaderEdits, HostPattern, Inject, PathPattern, Protocol,
    RouteConfig, TlsOptions, UpstreamTarget, UpstreamUrl,
};

/// A route with every default. `host` may be empty or begin with `*`; a `path` that ends in `/*` is a
/// prefix, any other is exact.
pub(crate) fn route(name: &str, host: &str, path: &str) -> RouteConfig {
    RouteConfig {
        name: Arc::from(name),
        listener: None,
        host: match host.strip_prefix('*') {
            Some(suffix) => Some(HostPattern::Wildcard(suffix.to_owned())),
            None if host.is_empty() => None,
            None => Some(HostPattern::Exact(host.to_owned())),
        },
        path: match path.strip_suffix('*').and_then(|path| path.strip_suffix('/')) {
            Some(prefix) => PathPattern::Prefix(prefix.to_owned()),
            None => PathPattern::Exact(path.to_owned()),
        },
        methods: None,
        match_headers: Vec::new(),
        upstream: UpstreamUrl {
            text: "https://up.example/api/v2".to_owned(),
            target: UpstreamTarget::Tcp { https: true, host: "up.example".to_owned(), port: 443 },
            authority: "up.example".to_owned(),
            path: "/api/v2".to_owned(),
        },
        protocol: Protocol::Auto,
        credential: Credential::Anonymous,
        caller_authorization: CallerAuthorization::Replace,
        inject: Inject::Header {
            name: header::AUTHORIZATION,
            before: "Bearer ".to_owned(),
            after: String::new(),
            by_type: true,
        },
        request_headers: HeaderEdits::default(),
        response_headers: HeaderEdits::default(),
        forwarded: false,
        rewrite_location: true,
        refresh_on: vec![StatusCode::UNAUTHORIZED],
        replay_limit: 64 * 1024,
        allow_encoded_slash: false,
        connect_timeout: Some(Duration::from_secs(5)),
        response_timeout: Some(Duration::from_secs(60)),
        idle_timeout: Some(Duration::from_secs(300)),
        connection_max_age: Some(Duration::from_secs(600)),
        header_case: crate::config::HeaderCase::Lower,
        tls: TlsOptions::default(),
        egress: Egress::Direct,
    }
}

impl RouteConfig {
    pub(crate) fn at(mut self, listener: usize) -> Self {
        self.listener = Some(listener);
        self
    }

    pub(crate) fn methods(mut self, methods: &[&str]) -> Self {
        self.methods =
            Some(methods.iter().map(|name| Method::from_bytes(name.as_bytes()).unwrap()).collect());
        self
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.match_headers.push((name.parse().unwrap(), value.to_owned()));
        self
    }

    pub(crate) fn with_encoded_slash(mut self) -> Self {
        self.allow_encoded_slash = true;
        self
    }
}
