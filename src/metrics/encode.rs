//! From atomics to the text that Prometheus reads.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::families::{FAMILIES, Family, Kind};
use super::histogram::Observed;
use super::{IssuerMetrics, ListenerMetrics, RouteMetrics};

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

/// The process as the kernel sees it; `None` where it does not say.
#[derive(Debug, Clone, Copy, Default)]
pub struct ProcessStats {
    pub cpu: Duration,
    /// Bytes.
    pub resident: Option<u64>,
    /// Bytes.
    pub virtual_memory: Option<u64>,
    pub open_files: Option<u64>,
    /// `None`: as many as it likes.
    pub most_files: Option<u64>,
}

/// What the process is and does now.
#[derive(Debug, Default)]
pub struct Running {
    /// `/readyz` says 200.
    pub ready: bool,
    /// When the config that serves was loaded.
    pub loaded_at: Option<SystemTime>,
    pub started_at: Option<SystemTime>,
    /// `[limits] connections`.
    pub most_connections: u64,
    /// One for each route that has an issuer.
    pub token_failures: Vec<TokenFailures>,
    pub certificates: Vec<CertificateExpiry>,
    pub process: ProcessStats,
}

/// How often in a row the token of a route could not be fetched.
#[derive(Debug, Clone)]
pub struct TokenFailures {
    pub issuer: Arc<str>,
    pub route: Arc<str>,
    pub in_a_row: u32,
}

/// When a certificate that the config names ends.
#[derive(Debug, Clone)]
pub struct CertificateExpiry {
    /// `issuer`, `route` or `listener`.
    pub kind: &'static str,
    pub name: Arc<str>,
    /// The key that names it.
    pub key: &'static str,
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
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        FAMILIES.iter().try_for_each(|family| self.family(family, &mut encoder))
    }
}

impl Formatted {
    fn family(&self, family: &'static Family, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let (name, kind) = match (family.kind, self.format) {
            // OpenMetrics names the family without the suffix that its samples have.
            (Kind::Counter, Exposition::OpenMetrics) => {
                (family.name.strip_suffix("_total").unwrap_or(family.name), MetricType::Counter)
            }
            (Kind::Counter, Exposition::Text) => (family.name, MetricType::Counter),
            (Kind::Histogram, _) => (family.name, MetricType::Histogram),
            (Kind::Gauge, _) => (family.name, MetricType::Gauge),
        };
        let encoder = encoder.encode_descriptor(name, family.help, None, kind)?;
        (family.samples)(&self.scrape, &mut Samples { family, encoder, format: self.format })
    }
}

/// Takes the samples of one family.
pub(super) struct Samples<'a> {
    family: &'static Family,
    encoder: MetricEncoder<'a>,
    format: Exposition,
}

impl Samples<'_> {
    /// A counter or a gauge, with values for the family's labels in their order.
    pub(super) fn value(&mut self, labels: &[&str], value: u64) -> fmt::Result {
        match (self.family.kind, self.format) {
            (Kind::Counter, Exposition::OpenMetrics) => {
                self.one(labels, |encoder| encoder.encode_counter::<NoLabelSet, u64, f64>(&value, None))
            }
            // `encode_counter` would add a second `_total`; a gauge's sample is written the same otherwise.
            _ => self.one(labels, |encoder| encoder.encode_gauge(&value)),
        }
    }

    /// A counter or a gauge of seconds, with fractions.
    pub(super) fn seconds(&mut self, time: Duration) -> fmt::Result {
        let seconds = time.as_secs_f64();
        match (self.family.kind, self.format) {
            (Kind::Counter, Exposition::OpenMetrics) => {
                self.one(&[], |encoder| encoder.encode_counter::<NoLabelSet, f64, f64>(&seconds, None))
            }
            _ => self.one(&[], |encoder| encoder.encode_gauge(&seconds)),
        }
    }

    /// Nothing is written before the first observation: ten thousand idle routes are not two hundred thousand lines.
    pub(super) fn histogram(&mut self, labels: &[&str], observed: Observed) -> fmt::Result {
        if observed.count == 0 {
            return Ok(());
        }
        self.one(labels, |encoder| {
            encoder.encode_histogram::<NoLabelSet>(observed.sum, observed.count, &observed.buckets, None)
        })
    }

    fn one(
        &mut self,
        values: &[&str],
        write: impl FnOnce(&mut MetricEncoder<'_>) -> fmt::Result,
    ) -> fmt::Result {
        debug_assert_eq!(values.len(), self.family.labels.len(), "{}", self.family.name);
        let labels: Vec<(&str, &str)> =
            self.family.labels.iter().copied().zip(values.iter().copied()).collect();
        if labels.is_empty() {
            write(&mut self.encoder)
        } else {
            write(&mut self.encoder.encode_family(&labels)?)
        }
    }
}
