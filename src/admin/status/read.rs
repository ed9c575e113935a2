//! From what the process has at one moment to what is told of it.

use std::time::SystemTime;

use super::{
    CallErrorStatus, ConfigStatus, HistoryStatus, IssuerStatus, ListenerStatus, MatchStatus, RecentStatus,
    RefusalStatus, ReloadStatus, RouteStatus, Status, Time, TokenErrorStatus, TokenStatus, UnroutedStatus,
    UpstreamRefusalStatus, WarningStatus, WebhookStatus,
};
use crate::admin::recent::{History, Point, Recent};
use crate::admin::view::{CredentialView, Traffic, View, WebhookView};
use crate::config::{
    self, Address, Callers, Credential, HostPattern, HttpUrl, IssuerConfig, ListenerConfig, PathPattern,
    Problem, RouteConfig, TokenEndpoint, UpstreamTarget, UpstreamUrl,
};
use crate::metrics::Failure;

pub(in crate::admin) fn status(view: &View) -> Status {
    let config = &view.config;
    let traffic = view.traffic.iter().cloned().chain(std::iter::repeat_with(Traffic::default));
    let connections = view.connections.iter().copied().chain(std::iter::repeat(0));
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        now: Time(view.now),
        started_at: Time(view.started_at),
        uptime_seconds: view.uptime.as_secs(),
        ready: view.ready(),
        degraded: view.degraded(),
        draining: view.draining,
        config: config_status(view),
        listeners: config.listeners.iter().zip(connections).map(|(it, open)| listener(it, open)).collect(),
        routes: config
            .routes
            .iter()
            .zip(traffic)
            .map(|(it, seen)| route(it, &seen, &config.listeners))
            .collect(),
        unrouted: UnroutedStatus {
            requests: view.unrouted.requests,
            last_error: view.unrouted.last_failure.as_deref().map(call_error),
        },
        issuers: config.issuers.values().map(|it| issuer(it, &view.credentials)).collect(),
        tokens: view.credentials.iter().map(|it| token(it, view.now)).collect(),
        webhooks: view.webhooks.iter().map(webhook).collect(),
        log_lines_dropped: view.log_lines_dropped,
    }
}

fn config_status(view: &View) -> ConfigStatus {
    let last_reload = view.loads.last.as_ref().map(|last| ReloadStatus {
        ok: last.error.is_none(),
        at: Time(last.at),
        error: last.error.clone(),
    });
    ConfigStatus {
        path: view.config.path.display().to_string(),
        version: view.config_version,
        loaded_at: Time(view.loads.loaded_at),
        last_reload,
        // References are looked at now: what was missing may have come since.
        warnings: view
            .config
            .warnings
            .iter()
            .chain(&config::check_references(&view.config))
            .map(warning)
            .collect(),
    }
}

fn warning(problem: &Problem) -> WarningStatus {
    WarningStatus {
        file: problem.file.display().to_string(),
        line: problem.line,
        column: problem.column,
        key: problem.key.clone(),
        message: problem.message.clone(),
        hint: problem.hint.clone(),
    }
}

fn listener(config: &ListenerConfig, connections: u64) -> ListenerStatus {
    ListenerStatus {
        name: config.name.to_string(),
        address: address(&config.address),
        callers: match config.callers {
            Callers::Local => "local",
            Callers::Network => "network",
        },
        tls: config.tls.is_some(),
        connections,
    }
}

fn address(address: &Address) -> String {
    match address {
        Address::Tcp(address) => address.to_string(),
        Address::Unix(path) => format!("unix:{}", path.display()),
    }
}

fn webhook(view: &WebhookView) -> WebhookStatus {
    WebhookStatus {
        name: view.config.name.to_string(),
        address: address(&view.config.address),
        path: view.config.path.clone(),
        has_value: view.has_value,
        received_at: view.received_at.map(Time),
        problem: view.problem.clone(),
        last_refusal: view
            .last_refusal
            .as_ref()
            .map(|(at, detail)| RefusalStatus { at: Time(*at), detail: detail.clone() }),
    }
}

fn route(
    config: &RouteConfig,
    traffic: &Traffic,
    listeners: &[std::sync::Arc<ListenerConfig>],
) -> RouteStatus {
    let (issuer, scopes) = match &config.credential {
        Credential::Anonymous => (None, Vec::new()),
        Credential::Issuer { issuer, key } => {
            (Some(issuer.name.to_string()), key.scopes.iter().cloned().collect())
        }
    };
    let (path, path_prefix) = match &config.path {
        PathPattern::Exact(path) => (Some(path.clone()), None),
        PathPattern::Prefix(prefix) if prefix.is_empty() => (None, Some("/".to_owned())),
        PathPattern::Prefix(prefix) => (None, Some(prefix.clone())),
    };
    RouteStatus {
        name: config.name.to_string(),
        matches: MatchStatus {
            listener: config.listener.and_then(|at| listeners.get(at)).map(|it| it.name.to_string()),
            host: config.host.as_ref().map(|host| match host {
                HostPattern::Exact(host) => host.clone(),
                HostPattern::Wildcard(suffix) => format!("*{suffix}"),
            }),
            path,
            path_prefix,
            methods: config.methods.as_ref().map(|all| all.iter().map(ToString::to_string).collect()),
            headers: config.match_headers.iter().map(|(name, _)| name.to_string()).collect(),
        },
        upstream: upstream(&config.upstream),
        issuer,
        scopes,
        requests: traffic.requests,
        upstream_connections: traffic.upstream_connections,
        recent: traffic.recent.as_ref().map(recent).unwrap_or_default(),
        history: traffic.history.as_ref().map(history),
        last_error: traffic.last_failure.as_deref().map(call_error),
        upstream_refusal: traffic.last_refusal.as_deref().map(|refusal| UpstreamRefusalStatus {
            at: Time(refusal.at),
            status: refusal.status,
            detail: refusal.detail.clone(),
        }),
    }
}

fn recent(recent: &Recent) -> RecentStatus {
    let (seconds, counts) = (recent.window.as_secs_f64(), &recent.counts);
    let quantile = |share| counts.quantile(share).map(|seconds| rounded(seconds * 1_000.0));
    RecentStatus {
        seconds: rounded(seconds),
        requests: counts.requests,
        errors: counts.errors,
        // Just after the start, one request is not a thousand in a second.
        per_second: rounded(counts.requests as f64 / seconds.max(1.0)),
        p50_ms: quantile(0.5),
        p99_ms: quantile(0.99),
    }
}

fn history(history: &History) -> HistoryStatus {
    let milliseconds = |of: fn(&Point) -> Option<f32>| -> Vec<Option<f64>> {
        history.points.iter().map(|it| of(it).map(|seconds| rounded(f64::from(seconds) * 1_000.0))).collect()
    };
    HistoryStatus {
        step_seconds: History::STEP.as_secs(),
        last_seconds: history.last.as_secs(),
        requests: history.points.iter().map(|point| point.requests).collect(),
        errors: history.points.iter().map(|point| point.errors).collect(),
        p50_ms: milliseconds(|point| point.p50),
        p99_ms: milliseconds(|point| point.p99),
    }
}

fn rounded(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}

fn call_error(failure: &Failure) -> CallErrorStatus {
    CallErrorStatus {
        at: Time(failure.at),
        status: failure.status,
        code: failure.code,
        detail: failure.detail.clone(),
        request_id: failure.request_id.clone(),
    }
}

/// Put together from its parts, so that nothing else that stands in the URL is shown.
fn upstream(url: &UpstreamUrl) -> String {
    match &url.target {
        UpstreamTarget::Tcp { https, .. } => {
            format!("{}://{}{}", scheme(*https), url.authority, without_query(&url.path))
        }
        UpstreamTarget::Unix(path) => format!("unix:{}", path.display()),
    }
}

fn issuer(config: &IssuerConfig, credentials: &[CredentialView]) -> IssuerStatus {
    let (url, discovery) = match &config.endpoint {
        TokenEndpoint::Discovery(url) => (url, true),
        TokenEndpoint::Url(url) => (url, false),
    };
    // All tokens of an issuer are asked for with the same credential.
    let standby = credentials.iter().any(|it| it.issuer.name == config.name && it.status.standby);
    IssuerStatus {
        name: config.name.to_string(),
        url: endpoint(url),
        discovery,
        required: config.required,
        client_auth: config.client_auth.as_str(),
        preset: config.preset.as_ref().map(ToString::to_string),
        grant_type: config.grant_type.clone(),
        credential: if standby { "standby" } else { "current" },
        scopes: config.scopes.iter().cloned().collect(),
    }
}

/// Some issuers take a key in the query, so it is not shown.
fn endpoint(url: &HttpUrl) -> String {
    format!("{}://{}{}", scheme(url.https), url.authority, without_query(&url.path_and_query))
}

fn scheme(https: bool) -> &'static str {
    if https { "https" } else { "http" }
}

fn without_query(path: &str) -> &str {
    path.split_once('?').map_or(path, |(path, _)| path)
}

fn token(view: &CredentialView, now: SystemTime) -> TokenStatus {
    let status = &view.status;
    let whole = |from: SystemTime, to: SystemTime| to.duration_since(from).unwrap_or_default().as_secs();
    TokenStatus {
        issuer: view.issuer.name.to_string(),
        routes: view.routes.iter().map(ToString::to_string).collect(),
        scopes: status.key.scopes.iter().cloned().collect(),
        parameters: status.key.params.keys().cloned().collect(),
        required: view.issuer.required,
        state: status.state,
        granted_scope: status.granted_scope.clone(),
        fetching: status.fetching,
        waiters: status.waiters,
        fetched_once: status.fetched_once,
        fetched_at: status.fetched_at.map(Time),
        age_seconds: status.fetched_at.map(|at| whole(at, now)),
        expires_at: status.expires_at.map(Time),
        seconds_left: status.expires_at.map(|at| whole(now, at)),
        renew_at: status.renew_at.map(Time),
        last_error: status.last_error.as_ref().map(|error| TokenErrorStatus {
            at: Time(error.at),
            detail: error.detail.clone(),
            remedy: error.remedy.clone(),
            code: error.code.clone(),
            trace: error.trace.clone(),
            next_try: error.next_try.map(Time),
            failures_in_a_row: error.failures_in_a_row,
        }),
    }
}
