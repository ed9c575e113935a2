//! Every default, with its reason where it has one beyond the ordinary. The schema tells the same; a test compares.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tracing_subscriber::filter::{LevelFilter, Targets};

use super::super::model::{
    Address, Admin, Callers, Carrier, ClientAuth, Egress, IssuerConfig, JwtConfig, JwtUse, Log, LogFormat,
    Params, ResponseFormat, ResponseShape, ScopeIn, SpanBatches, TlsOptions, TokenEndpoint,
};
use super::super::types::scopes::Scopes;

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// One thread serves some ten thousand calls a second; a sidecar should not take more unasked.
pub(super) const WORKERS: usize = 1;
/// Kubernetes sends SIGTERM and takes the endpoint away at once; who needs more says so.
pub(super) const DRAIN_DELAY: Duration = Duration::ZERO;
/// Kubernetes' own grace period.
pub(super) const SHUTDOWN_TIMEOUT: Duration = seconds(30);
/// What "without end" is where a time must be added: longer than any process runs, short enough for every clock.
pub(super) const NEVER: Duration = seconds(100 * 365 * 24 * 3600);

/// Four times what common servers take, because tokens of callers can be large.
pub(super) const HEADER_BYTES: usize = 32 << 10;
pub(super) const HEADER_COUNT: usize = 100;
pub(super) const HEADER_TIMEOUT: Duration = seconds(10);
/// Longer than the 60 s for which load balancers keep theirs, so that they close first.
pub(super) const KEEP_ALIVE: Duration = seconds(75);
pub(super) const CONNECTIONS: usize = 10_000;
pub(super) const WAITERS: usize = 10_000;

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Text, level: Targets::new().with_default(LevelFilter::INFO), access: true }
    }
}

/// OTLP's own default.
pub(super) const TRACING_TIMEOUT: Duration = seconds(10);
/// Where collectors take traces over HTTP (OTLP specification).
pub(super) const TRACING_PATH: &str = "/v1/traces";
pub(super) const SPAN_BATCHES: SpanBatches =
    SpanBatches { queue: 4096, most: 512, delay: seconds(1), export_timeout: seconds(30) };

/// This machine alone: the credentials are whoever's that can connect.
pub(super) const LISTENER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
pub(super) const ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9180);
/// The owner alone.
pub(super) const UNIX_MODE: u32 = 0o600;

pub(super) fn admin() -> Admin {
    Admin { address: Address::Tcp(ADMIN), callers: Callers::Local }
}

pub(super) const REQUIRED: bool = true;
/// Late enough to use a token well, early enough to try again a few times before it ends.
pub(super) const REFRESH_AT: f64 = 0.8;
/// Shorter than what common issuers give, so that a wrong guess does little harm.
pub(super) const DEFAULT_LIFETIME: Duration = seconds(300);
pub(super) const TOKEN_TIMEOUT: Duration = seconds(10);
/// RFC 6749 section 5.1; `expires_on` is what Azure's managed identities add.
pub(super) const RESPONSE_TOKEN: &str = "/access_token";
pub(super) const RESPONSE_TYPE: &str = "/token_type";
pub(super) const RESPONSE_EXPIRES_IN: &str = "/expires_in";
pub(super) const RESPONSE_EXPIRES_AT: &str = "/expires_on";
pub(super) const RESPONSE_ERROR: &str = "/error";
pub(super) const TOKEN_TYPE: &str = "bearer";
/// RFC 9449 section 5.
pub(super) const DPOP_TOKEN_TYPE: &str = "dpop";
pub(super) const TOKEN_STATUS: u16 = 200;

/// RFC 6749 section 4.4.2.
pub(super) const GRANT_TYPE: &str = "client_credentials";
/// RFC 7523 section 2.1.
pub(super) const JWT_BEARER_GRANT: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
/// RFC 7523 section 2.2.
pub(super) const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
pub(super) const JWT_TYPE: &str = "JWT";
/// Servers refuse long-lived assertions; one is made for each request.
pub(super) const JWT_LIFETIME: Duration = seconds(60);
pub(super) const JWT_LIFETIME_LEAST: Duration = seconds(10);

impl IssuerConfig {
    /// An issuer of which only name and endpoint are given: no client authentication, every default.
    pub fn with_defaults(name: &str, endpoint: TokenEndpoint) -> Self {
        Self {
            name: name.into(),
            digest: [0; 32],
            preset: None,
            endpoint,
            required: REQUIRED,
            grant_type: Some(GRANT_TYPE.to_owned()),
            carrier: Carrier::Form,
            client_auth: ClientAuth::None,
            basic: None,
            send_client_id: false,
            client_id: None,
            standby: None,
            credential_grace: Duration::ZERO,
            scopes: Scopes::default(),
            params: Params::new(),
            headers: Vec::new(),
            private_key: None,
            certificate: None,
            jwt: None,
            assertion: None,
            assertion_type: ASSERTION_TYPE.to_owned(),
            dpop: None,
            response: response(),
            refresh_at: REFRESH_AT,
            default_lifetime: DEFAULT_LIFETIME,
            timeout: Some(TOKEN_TIMEOUT),
            tls: TlsOptions::default(),
            egress: Egress::Direct,
        }
    }
}

impl JwtConfig {
    /// A JWT of which only the use is given.
    pub fn with_defaults(usage: JwtUse) -> Self {
        Self {
            usage,
            alg: None,
            key_id: None,
            typ: JWT_TYPE.to_owned(),
            issuer: None,
            subject: None,
            audience: None,
            lifetime: JWT_LIFETIME,
            scope: ScopeIn::Parameter,
            certificate_headers: Vec::new(),
            claims: Params::new(),
        }
    }
}

fn response() -> ResponseShape {
    ResponseShape {
        token: RESPONSE_TOKEN.to_owned(),
        token_type: RESPONSE_TYPE.to_owned(),
        expires_in: RESPONSE_EXPIRES_IN.to_owned(),
        expires_at: RESPONSE_EXPIRES_AT.to_owned(),
        error: RESPONSE_ERROR.to_owned(),
        format: ResponseFormat::Json,
        token_types: vec![TOKEN_TYPE.to_owned()],
        statuses: vec![TOKEN_STATUS],
    }
}

/// RFC 6750 section 2.1.
pub(super) const INJECT_FORMAT: &str = "Bearer {token}";
pub(super) const REWRITE_LOCATION: bool = true;
/// RFC 6750 section 3.1: `invalid_token` comes as 401.
pub(super) const REFRESH_ON: http::StatusCode = http::StatusCode::UNAUTHORIZED;
/// Enough for most calls of an API; more costs memory for every request under way.
pub(super) const REPLAY_LIMIT: usize = 64 << 10;
pub(super) const CONNECT_TIMEOUT: Duration = seconds(5);
pub(super) const RESPONSE_TIMEOUT: Duration = seconds(60);
pub(super) const IDLE_TIMEOUT: Duration = seconds(300);
/// A moved name is followed within this time.
pub(super) const CONNECTION_MAX_AGE: Duration = seconds(600);
/// What proxies listen on where the URL does not say is no standard; http's own port is what it reads like.
pub(super) const PROXY_PORT: u16 = 80;
