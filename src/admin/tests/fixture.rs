//! Plain data to render from, and a process without routes to ask over HTTP.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;

use super::super::health::Loads;
use super::super::recent::Recent;
use super::super::view::{CredentialView, Traffic, View, WebhookView};
use super::super::{Admin, Health, LastReload};
use crate::clock::SystemClock;
use crate::config::client_auth::ClientSecretBasic;
use crate::config::{self, Scopes, fixture, *};
use crate::metrics::{Failure, Metrics, RouteMetrics, UpstreamRefusal};
use crate::proxy::{Snapshot, SnapshotCell};
use crate::secret::Secret;
use crate::token::{LastError, SlotStatus};

/// Stands in every place of the config that may be secret: no page may show it.
pub(super) const CANARY: &str = "canary-5f1d";

pub(super) fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

pub(super) fn ago(seconds: u64) -> SystemTime {
    now() - Duration::from_secs(seconds)
}

pub(super) fn ahead(seconds: u64) -> SystemTime {
    now() + Duration::from_secs(seconds)
}

fn canary() -> Source {
    Source::literal(Secret::from(CANARY))
}

pub(super) fn issuer(name: &str, required: bool) -> Arc<IssuerConfig> {
    let endpoint = TokenEndpoint::Url(HttpUrl {
        text: format!("https://idp.example/token?key={CANARY}"),
        https: true,
        host: "idp.example".to_owned(),
        port: 443,
        authority: "idp.example".to_owned(),
        path_and_query: format!("/token?key={CANARY}"),
    });
    Arc::new(IssuerConfig {
        digest: [7; 32],
        required,
        client_auth: ClientAuth::with_secret(&ClientSecretBasic, canary()),
        client_id: Some(canary()),
        scopes: Scopes::from(["billing.read"]),
        params: Params::from([("audience".to_owned(), ParamValue::Value(canary()))]),
        ..IssuerConfig::with_defaults(name, endpoint)
    })
}

fn key(issuer: &IssuerConfig) -> CredentialKey {
    CredentialKey {
        issuer: Arc::clone(&issuer.name),
        issuer_digest: issuer.digest,
        scopes: issuer.scopes.clone(),
        params: issuer.params.clone(),
        subject: Some(CANARY.to_owned()),
    }
}

fn route(name: &str, credential: Credential) -> Arc<RouteConfig> {
    Arc::new(RouteConfig {
        name: Arc::from(name),
        listener: Some(0),
        host: Some(HostPattern::Wildcard(".example.com".to_owned())),
        path: PathPattern::Prefix(String::new()),
        methods: Some(vec![http::Method::GET]),
        match_headers: vec![(http::HeaderName::from_static("x-tenant"), CANARY.to_owned())],
        upstream: UpstreamUrl {
            text: format!("https://user:{CANARY}@api.example.com/v2"),
            target: UpstreamTarget::Tcp { https: true, host: "api.example.com".to_owned(), port: 443 },
            authority: "api.example.com".to_owned(),
            path: "/v2".to_owned(),
        },
        credential,
        request_headers: HeaderEdits {
            set: vec![(http::HeaderName::from_static("x-key"), canary())],
            remove: Vec::new(),
        },
        ..fixture::route()
    })
}

fn listener() -> Arc<ListenerConfig> {
    Arc::new(ListenerConfig {
        require_header: Some((http::HeaderName::from_static("x-caller-key"), canary())),
        ..fixture::listener()
    })
}

fn config(callers: Callers, routes: Vec<Arc<RouteConfig>>) -> Config {
    let path = PathBuf::from("/etc/bearerd/bearerd.toml");
    Config {
        files: vec![path.clone()],
        path: path.clone(),
        admin: config::Admin { address: Address::Tcp(([127, 0, 0, 1], 0).into()), callers },
        listeners: vec![listener()],
        issuers: BTreeMap::from([("corp".to_owned(), issuer("corp", true))]),
        routes,
        warnings: vec![Problem {
            severity: Severity::Warning,
            file: path,
            line: 3,
            column: 7,
            key: "issuer.corp.client_secret.file".to_owned(),
            message: "no such file".to_owned(),
            hint: None,
            source_line: None,
        }],
        ..fixture::config("")
    }
}

/// Fetched ten minutes ago, good for another fifty.
pub(super) fn valid(issuer: Arc<IssuerConfig>, routes: &[&str]) -> CredentialView {
    let status = SlotStatus {
        key: key(&issuer),
        state: "valid",
        granted_scope: Some("billing.read".to_owned()),
        fetched_at: Some(ago(600)),
        expires_at: Some(ahead(3000)),
        renew_at: Some(ahead(2280)),
        fetching: false,
        waiters: 0,
        last_error: None,
        fetched_once: true,
        standby: false,
    };
    CredentialView { issuer, routes: routes.iter().map(|name| Arc::from(*name)).collect(), status }
}

/// Never fetched; the issuer refuses the client.
pub(super) fn refused(issuer: Arc<IssuerConfig>, routes: &[&str]) -> CredentialView {
    let mut credential = valid(issuer, routes);
    credential.status = SlotStatus {
        state: "none",
        granted_scope: None,
        fetched_at: None,
        expires_at: None,
        renew_at: None,
        waiters: 2,
        fetched_once: false,
        last_error: Some(LastError {
            at: ago(5),
            detail: "issuer corp refused the client (its own words)".to_owned(),
            summary: "issuer corp refused the client\n[+] all is well".to_owned(),
            remedy: Some("check client_secret".to_owned()),
            code: Some("invalid_client".to_owned()),
            trace: Some("trace_id=7".to_owned()),
            next_try: Some(ahead(55)),
            failures_in_a_row: 1,
        }),
        ..credential.status
    };
    credential
}

pub(super) fn view(credentials: Vec<CredentialView>) -> View {
    let corp = issuer("corp", true);
    let credential = Credential::Issuer { key: key(&corp), issuer: corp };
    let routes = vec![route("billing", credential), route("open", Credential::Anonymous)];
    View {
        now: now(),
        started_at: ago(3600),
        uptime: Duration::from_secs(3600),
        config: Arc::new(config(Callers::Local, routes)),
        config_version: 2,
        loads: Loads {
            loaded_at: ago(3600),
            last: Some(LastReload { at: ago(60), error: Some("line 3: unknown key".to_owned()) }),
        },
        draining: false,
        missing: Arc::default(),
        credentials,
        traffic: vec![busy(), Traffic::default()],
        unrouted: Traffic { requests: 3, last_failure: Some(failure(404, "no_route")), ..Traffic::default() },
        connections: vec![4],
        webhooks: vec![webhook(None), webhook(Some("webhook seismic: its store is not JSON"))],
        log_lines_dropped: 0,
    }
}

fn busy() -> Traffic {
    Traffic {
        history: None,
        requests: 12,
        upstream_connections: 1,
        recent: Some(recent()),
        last_failure: Some(failure(502, "token_refused")),
        last_refusal: Some(Arc::new(UpstreamRefusal {
            at: ago(15),
            status: 401,
            detail: "api.example.com answers 401 to a good token".to_owned(),
        })),
    }
}

fn recent() -> Recent {
    let route = RouteMetrics::default();
    for status in [200, 200, 502] {
        route.request(status, Duration::from_millis(30));
    }
    Recent { window: Duration::from_secs(60), counts: route.counts() }
}

fn failure(status: u16, code: &'static str) -> Arc<Failure> {
    Arc::new(Failure {
        at: ago(10),
        status,
        code,
        detail: "what to do".to_owned(),
        request_id: "id-1".to_owned(),
    })
}

fn webhook(problem: Option<&str>) -> WebhookView {
    WebhookView {
        config: Arc::new(WebhookConfig {
            name: Arc::from("seismic"),
            address: Address::Tcp(local(9181)),
            path: "/seismic".to_owned(),
            signature_header: http::HeaderName::from_static("x-seismic-signature"),
            secrets: vec![canary()],
            value: "/delegationUserId".to_owned(),
            store: PathBuf::from("/var/lib/bearerd/seismic.json"),
        }),
        has_value: problem.is_none(),
        received_at: problem.is_none().then(|| ago(30)),
        problem: problem.map(str::to_owned),
        last_refusal: problem.map(|_| (ago(20), "the header x-seismic-signature is missing".to_owned())),
    }
}

/// A process without routes.
pub(super) struct Process {
    pub(super) admin: Arc<Admin>,
    pub(super) health: Arc<Health>,
    pub(super) snapshot: Arc<SnapshotCell>,
}

pub(super) fn snapshot(callers: Callers) -> Snapshot {
    let config = config(callers, Vec::new());
    Snapshot::new(1, Arc::new(config), Vec::new(), &Metrics::default(), None)
}

pub(super) fn process() -> Process {
    let snapshot = Arc::new(ArcSwap::from_pointee(snapshot(Callers::Local)));
    let health = Arc::new(Health::new());
    let metrics = Arc::new(Metrics::default());
    let admin = Admin::new(
        metrics,
        Arc::clone(&snapshot),
        Arc::clone(&health),
        Arc::new(SystemClock),
        Box::new(Vec::new),
    );
    Process { admin: Arc::new(admin), health, snapshot }
}

pub(super) fn local(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}
