//! From atomics to the text that Prometheus reads.

mod running;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

pub use running::{CertificateExpiry, ProcessStats, Running, TokenFailures};

use super::histogram::{Histogram, Observed};
use super::{IssuerMetrics, ListenerMetrics, RouteMetrics};

/// One family of series.
#[derive(Debug, Clone, Copy)]
pub struct Family {
    /// As it stands in a query (counters with `_total`).
    pub name: &'static str,
    /// One sentence, without its last period.
    pub help: &'static str,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
}

macro_rules! families {
    ($($constant:ident = $kind:literal $name:literal $help:literal;)*) => {
        $(const $constant: Family = Family { name: $name, help: $help, kind: $kind };)*
        /// Every family, in the order in which they are written out.
        pub const FAMILIES: &[Family] = &[$($constant),*];
    };
}

families! {
    REQUESTS = "counter" "bearerd_requests_total" "Requests answered, by route (empty where none matched) and status";
    REQUEST_DURATION = "histogram" "bearerd_request_duration_seconds" "Time from a request's head to the end of its response";
    UPSTREAM_DURATION = "histogram" "bearerd_upstream_duration_seconds" "Time from sending a request upstream to its response's head";
    FAILURES = "counter" "bearerd_failures_total" "Requests that bearerd answered with an error of its own, by route and code";
    REFRESHES_FORCED = "counter" "bearerd_refreshes_forced_total" "Tokens that the upstream refused";
    UPSTREAM_CONNECTIONS = "gauge" "bearerd_upstream_connections" "Open connections to the upstream";
    TOKEN_REQUESTS = "counter" "bearerd_token_requests_total" "Token requests, by issuer and outcome";
    TOKEN_REQUEST_DURATION = "histogram" "bearerd_token_request_duration_seconds" "Time that a token request took";
    TOKEN_WAITERS = "gauge" "bearerd_token_waiters" "Requests that wait for a token";
    TOKEN_EXPIRY = "gauge" "bearerd_token_expiry_timestamp_seconds" "When the current token ends, as Unix time";
    TOKEN_FAILURES = "gauge" "bearerd_token_consecutive_failures" "How often in a row the token could not be fetched; 0 when it last could";
    CONNECTIONS = "gauge" "bearerd_connections" "Open connections from callers";
    REQUESTS_REFUSED = "counter" "bearerd_requests_refused_total" "Requests that the HTTP parser refused, by listener and reason";
    CONNECTIONS_LIMIT = "gauge" "bearerd_connections_limit" "How many connections from callers there may be, over all listeners";
    READY = "gauge" "bearerd_ready" "1 where /readyz says 200, else 0";
    CONFIG_RELOADS = "counter" "bearerd_config_reloads_total" "Config reloads, by outcome";
    LAST_RELOAD = "gauge" "bearerd_config_last_reload_successful" "1 where the last load of the config was good, else 0";
    LAST_RELOAD_SUCCESS = "gauge" "bearerd_config_last_reload_success_timestamp_seconds" "When the config that serves was loaded, as Unix time";
    CERTIFICATE_EXPIRY = "gauge" "bearerd_certificate_expiry_timestamp_seconds" "When a certificate that the config names ends, as Unix time";
    LOG_LINES_DROPPED = "counter" "bearerd_log_lines_dropped_total" "Log lines given up because stderr did not take them";
    SPANS_LOST = "counter" "bearerd_spans_lost_total" "Spans that did not reach the collector of [tracing]";
    BUILD_INFO = "gauge" "bearerd_build_info" "Always 1; the label tells the version";
    CPU = "counter" "process_cpu_seconds_total" "Processor time that the process used";
    RESIDENT = "gauge" "process_resident_memory_bytes" "Memory that the process holds in RAM";
    VIRTUAL = "gauge" "process_virtual_memory_bytes" "Memory that the process has mapped";
    OPEN_FDS = "gauge" "process_open_fds" "Files and sockets that the process has open";
    MAX_FDS = "gauge" "process_max_fds" "How many files and sockets the process may have open";
    START_TIME = "gauge" "process_start_time_seconds" "When the process started, as Unix time";
}

/// Which of the two text formats is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exposition {
    /// Prometheus text format 0.0.4, which everything reads.
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Exposition {
    /// OpenMetrics for who names it in `Accept`, as Prometheus itself does.
    pub fn for_accept(accept: Option<&str>) -> Self {
        let named = accept.is_some_and(|accept| accept.contains("application/openmetrics-text"));
        if named { Self::OpenMetrics } else { Self::Text }
    }

    /// The `Content-Type` of this format.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// What a scrape shows that is not counted here.
#[derive(Debug, Default)]
pub struct Extra {
    /// One for each route that has a token now.
    pub token_expiries: Vec<TokenExpiry>,
    pub log_lines_dropped: u64,
    pub running: Running,
}

/// When the token that a route's calls carry ends.
#[derive(Debug, Clone)]
pub struct TokenExpiry {
    pub issuer: Arc<str>,
    pub route: Arc<str>,
    pub at: SystemTime,
}

/// All that one scrape shows. Owned, because the encoder's trait asks for `'static`.
#[derive(Debug)]
pub(super) struct Scrape {
    pub(super) routes: Vec<(Arc<str>, Arc<RouteMetrics>)>,
    pub(super) issuers: Vec<(Arc<str>, Arc<IssuerMetrics>)>,
    pub(super) listeners: Vec<(Arc<str>, Arc<ListenerMetrics>)>,
    /// Their names cannot be those of a listener.
    pub(super) small_servers: [(&'static str, Arc<ListenerMetrics>); 2],
    pub(super) unrouted: Arc<RouteMetrics>,
    pub(super) reloads_ok: u64,
    pub(super) reloads_failed: u64,
    pub(super) last_reload_successful: bool,
    pub(super) spans_lost: u64,
    pub(super) extra: Extra,
}

pub(super) fn render(scrape: Scrape, format: Exposition) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Formatted { scrape, format }));
    let mut out = String::new();
    let done = match format {
        Exposition::Text => text::encode_registry(&mut out, &registry),
        Exposition::OpenMetrics => text::encode(&mut out, &registry),
    };
    // Writing to a string cannot fail; were it to, half a scrape would be worse than an empty one.
    if done.is_err() {
        out.clear();
    }
    out
}

#[derive(Debug)]
struct Formatted {
    scrape: Scrape,
    format: Exposition,
}

impl Collector for Formatted {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Out { encoder, format: self.format };
        self.scrape.traffic(&mut out)?;
        self.scrape.tokens(&mut out)?;
        self.scrape.process(&mut out)
    }
}

impl Scrape {
    fn traffic(&self, out: &mut Out<'_>) -> fmt::Result {
        let unrouted = (Arc::from(""), Arc::clone(&self.unrouted));
        let with_unrouted = || std::iter::once(&unrouted).chain(&self.routes);

        let mut family = out.family(&REQUESTS)?;
        for (route, metrics) in with_unrouted() {
            for (status, count) in metrics.statuses() {
                family.counter(&[("route", &**route), ("status", &status)], count)?;
            }
        }
        let mut family = out.family(&REQUEST_DURATION)?;
        for (route, metrics) in with_unrouted() {
            family.histogram(&[("route", &**route)], metrics.duration())?;
        }
        let mut family = out.family(&UPSTREAM_DURATION)?;
        for (route, metrics) in &self.routes {
            family.histogram(&[("route", &**route)], metrics.upstream_duration())?;
        }
        let mut family = out.family(&FAILURES)?;
        for (route, metrics) in with_unrouted() {
            for (code, count) in metrics.failures.all() {
                family.counter(&[("route", &**route), ("code", code)], count)?;
            }
        }
        let mut family = out.family(&REFRESHES_FORCED)?;
        for (route, metrics) in &self.routes {
            let count = metrics.refreshes_forced.load(std::sync::atomic::Ordering::Relaxed);
            family.counter(&[("route", &**route)], count)?;
        }
        let mut family = out.family(&UPSTREAM_CONNECTIONS)?;
        for (route, metrics) in &self.routes {
            family.gauge(&[("route", &**route)], metrics.upstream_connections())?;
        }
        Ok(())
    }

    fn tokens(&self, out: &mut Out<'_>) -> fmt::Result {
        let mut family = out.family(&TOKEN_REQUESTS)?;
        for (issuer, metrics) in &self.issuers {
            for (outcome, count) in metrics.requests.all() {
                family.counter(&[("issuer", &**issuer), ("outcome", outcome)], count)?;
            }
        }
        let mut family = out.family(&TOKEN_REQUEST_DURATION)?;
        for (issuer, metrics) in &self.issuers {
            family.histogram(&[("issuer", &**issuer)], Histogram::sum([&metrics.duration].into_iter()))?;
        }
        let mut family = out.family(&TOKEN_WAITERS)?;
        for (issuer, metrics) in &self.issuers {
            family.gauge(&[("issuer", &**issuer)], metrics.waiters.get())?;
        }
        let mut family = out.family(&TOKEN_EXPIRY)?;
        for expiry in &self.extra.token_expiries {
            let at = expiry.at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            family.gauge(&[("issuer", &*expiry.issuer), ("route", &*expiry.route)], at)?;
        }
        running::tokens(&self.extra, out)
    }

    fn process(&self, out: &mut Out<'_>) -> fmt::Result {
        let mut family = out.family(&CONNECTIONS)?;
        for (listener, metrics) in &self.listeners {
            family.gauge(&[("listener", &**listener)], metrics.connections())?;
        }
        let mut family = out.family(&REQUESTS_REFUSED)?;
        let listeners = self.listeners.iter().map(|(listener, metrics)| (&**listener, metrics));
        let small_servers = self.small_servers.iter().map(|(name, metrics)| (*name, metrics));
        for (listener, metrics) in listeners.chain(small_servers) {
            for (reason, count) in metrics.refused.all() {
                family.counter(&[("listener", listener), ("reason", reason)], count)?;
            }
        }
        let mut family = out.family(&CONFIG_RELOADS)?;
        family.counter(&[("outcome", "ok")], self.reloads_ok)?;
        family.counter(&[("outcome", "failed")], self.reloads_failed)?;
        out.family(&LAST_RELOAD)?.gauge(&[], u64::from(self.last_reload_successful))?;
        out.family(&LOG_LINES_DROPPED)?.counter(&[], self.extra.log_lines_dropped)?;
        out.family(&SPANS_LOST)?.counter(&[], self.spans_lost)?;
        out.family(&BUILD_INFO)?.gauge(&[("version", env!("CARGO_PKG_VERSION"))], 1)?;
        running::process(&self.extra.running, out)
    }
}

struct Out<'a> {
    encoder: DescriptorEncoder<'a>,
    format: Exposition,
}

impl Out<'_> {
    fn family(&mut self, family: &'static Family) -> Result<Samples<'_>, fmt::Error> {
        let (name, kind) = match (family.kind, self.format) {
            // OpenMetrics names the family without the suffix that its samples have.
            ("counter", Exposition::OpenMetrics) => {
                (family.name.strip_suffix("_total").unwrap_or(family.name), MetricType::Counter)
            }
            ("counter", Exposition::Text) => (family.name, MetricType::Counter),
            ("histogram", _) => (family.name, MetricType::Histogram),
            _ => (family.name, MetricType::Gauge),
        };
        let encoder = self.encoder.encode_descriptor(name, family.help, None, kind)?;
        Ok(Samples { encoder, format: self.format })
    }
}

struct Samples<'a> {
    encoder: MetricEncoder<'a>,
    format: Exposition,
}

impl Samples<'_> {
    fn counter(&mut self, labels: &[(&str, &str)], count: u64) -> fmt::Result {
        match self.format {
            Exposition::OpenMetrics => {
                self.one(labels, |encoder| encoder.encode_counter::<NoLabelSet, u64, f64>(&count, None))
            }
            // `encode_counter` would add a second `_total`; a gauge's sample is written the same otherwise.
            Exposition::Text => self.gauge(labels, count),
        }
    }

    fn gauge(&mut self, labels: &[(&str, &str)], value: u64) -> fmt::Result {
        self.one(labels, |encoder| encoder.encode_gauge(&value))
    }

    /// A counter of seconds without labels.
    fn seconds(&mut self, time: Duration) -> fmt::Result {
        match self.format {
            Exposition::OpenMetrics => {
                let seconds = time.as_secs_f64();
                self.one(&[], |encoder| encoder.encode_counter::<NoLabelSet, f64, f64>(&seconds, None))
            }
            Exposition::Text => self.time(time),
        }
    }

    /// A gauge of seconds without labels.
    fn time(&mut self, time: Duration) -> fmt::Result {
        self.one(&[], |encoder| encoder.encode_gauge(&time.as_secs_f64()))
    }

    /// Nothing is written before the first observation: ten thousand idle routes are not two hundred thousand lines.
    fn histogram(&mut self, labels: &[(&str, &str)], observed: Observed) -> fmt::Result {
        if observed.count == 0 {
            return Ok(());
        }
        self.one(labels, |encoder| {
            encoder.encode_histogram::<NoLabelSet>(observed.sum, observed.count, &observed.buckets, None)
        })
    }

    fn one(
        &mut self,
        labels: &[(&str, &str)],
        write: impl FnOnce(&mut MetricEncoder<'_>) -> fmt::Result,
    ) -> fmt::Result {
        if labels.is_empty() {
            write(&mut self.encoder)
        } else {
            write(&mut self.encoder.encode_family(&labels)?)
        }
    }
}
