//! The text that Prometheus scrapes. [`FAMILIES`] declares every family of series: its name, its documentation, and where its
//! samples come from. The table of docs/metrics.md is generated from it.
//!
//! Counts by status and by outcome, whose keys are known only when they are counted, are in small tables without a lock.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use std::{fmt, iter};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::{Histogram, Observed};
use super::{IssuerMetrics, ListenerMetrics, RouteMetrics, StoreMetrics};

/// A text format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exposition {
    /// Prometheus text format 0.0.4, which every scraper reads.
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Exposition {
    /// OpenMetrics if `Accept` names it (RFC 9110 section 12.5.1), in a version that this is, as Prometheus itself does. Its weight
    /// only counts if it is 0.
    pub fn for_accept(accept: Option<&str>) -> Self {
        let is_wanted = |range: &str| {
            let mut parts = range.split(';').map(str::trim);
            parts.next().is_some_and(|name| name.eq_ignore_ascii_case("application/openmetrics-text"))
                && parts.filter_map(|part| part.split_once('=')).all(|(name, value)| match name {
                    "q" => value.parse::<f32>().is_ok_and(|weight| weight > 0.0),
                    "version" => ["0.0.1", "1.0.0"].contains(&value.trim_matches('"')),
                    _ => true,
                })
        };
        let wanted = accept.is_some_and(|accept| accept.split(',').any(is_wanted));
        if wanted { Self::OpenMetrics } else { Self::Text }
    }

    /// The `Content-Type` of this format.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// What a scrape shows besides the counters of this module.
#[derive(Debug, Default)]
pub struct Extra {
    /// One for each route that has a token.
    pub token_expiries: Vec<TokenExpiry>,
    /// One for each issuer that has a budget.
    pub token_budgets: Vec<TokenBudget>,
    pub log_lines_dropped: u64,
    /// Whether the token store works. `None`: there is none.
    pub store_up: Option<bool>,
    pub running: Running,
}

/// When the token of a route expires.
#[derive(Debug, Clone)]
pub struct TokenExpiry {
    pub issuer: Arc<str>,
    pub route: Arc<str>,
    pub at: SystemTime,
}

/// How many token requests an issuer's budget allows.
#[derive(Debug, Clone)]
pub struct TokenBudget {
    pub issuer: Arc<str>,
    pub remaining: u32,
    pub limit: u32,
}

/// The process as the kernel sees it. `None` if the kernel does not say.
#[derive(Debug, Clone, Copy, Default)]
pub struct ProcessStats {
    pub cpu: Duration,
    /// Bytes.
    pub resident: Option<u64>,
    /// Bytes.
    pub virtual_memory: Option<u64>,
    pub open_files: Option<u64>,
    /// `None`: no limit.
    pub most_files: Option<u64>,
}

/// The current state of the process.
#[derive(Debug, Default)]
pub struct Running {
    /// `/readyz` responds 200.
    pub ready: bool,
    /// When the running config was loaded.
    pub loaded_at: Option<SystemTime>,
    pub started_at: Option<SystemTime>,
    /// `[limits] connections`.
    pub most_connections: u64,
    /// One for each route that has an issuer.
    pub token_failures: Vec<TokenFailures>,
    pub certificates: Vec<CertificateExpiry>,
    pub process: ProcessStats,
}

/// How often in a row the fetch of a route's token failed.
#[derive(Debug, Clone)]
pub struct TokenFailures {
    pub issuer: Arc<str>,
    pub route: Arc<str>,
    pub in_a_row: u32,
}

/// When a certificate that the config names expires.
#[derive(Debug, Clone)]
pub struct CertificateExpiry {
    /// `issuer`, `route` or `listener`.
    pub kind: &'static str,
    pub name: Arc<str>,
    /// The key that names it.
    pub key: &'static str,
    pub at: SystemTime,
}

/// Everything that one scrape shows. Owned, because the encoder's trait requires `'static`.
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
    pub(super) store: Arc<StoreMetrics>,
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
    // Writing to a string cannot fail. If it did, an empty scrape would be better than half a scrape.
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
            // OpenMetrics names the family without the suffix of its samples.
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

/// Writes the samples of one family.
pub(super) struct Samples<'a> {
    family: &'static Family,
    encoder: MetricEncoder<'a>,
    format: Exposition,
}

impl Samples<'_> {
    /// Writes a counter or a gauge, with values for the family's labels in their order.
    pub(super) fn value(&mut self, labels: &[&str], value: u64) -> fmt::Result {
        match (self.family.kind, self.format) {
            (Kind::Counter, Exposition::OpenMetrics) => {
                self.one(labels, |encoder| encoder.encode_counter::<NoLabelSet, u64, f64>(&value, None))
            }
            // `encode_counter` would add a second `_total`. A gauge's sample is otherwise the same.
            _ => self.one(labels, |encoder| encoder.encode_gauge(&value)),
        }
    }

    /// Writes a counter or a gauge of seconds, with fractions.
    pub(super) fn seconds(&mut self, time: Duration) -> fmt::Result {
        let seconds = time.as_secs_f64();
        match (self.family.kind, self.format) {
            (Kind::Counter, Exposition::OpenMetrics) => {
                self.one(&[], |encoder| encoder.encode_counter::<NoLabelSet, f64, f64>(&seconds, None))
            }
            _ => self.one(&[], |encoder| encoder.encode_gauge(&seconds)),
        }
    }

    /// Writes a histogram, but nothing before the first observation, so that ten thousand idle routes do not make two hundred
    /// thousand lines.
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

/// One family of series.
#[derive(Debug, Clone, Copy)]
pub struct Family {
    /// The name in queries (counters with `_total`).
    pub name: &'static str,
    pub kind: Kind,
    /// Label names. Their values come from the config or from a closed set in the code.
    pub labels: &'static [&'static str],
    pub unit: &'static str,
    /// One sentence, without its last period.
    pub help: &'static str,
    /// What the documentation adds, with the separator before it.
    pub more: &'static str,
    /// When an operator should act. Empty if the family says nothing by itself.
    pub alert: &'static str,
    pub(super) samples: fn(&Scrape, &mut Samples<'_>) -> fmt::Result,
}

/// The type of a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    /// The name in both text formats.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// Every family, in the order of the output.
pub const FAMILIES: &[Family] = &[
    Family {
        name: "bearerd_requests_total",
        kind: Kind::Counter,
        labels: &["route", "status"],
        unit: "requests",
        help: "Requests that got a response",
        more: ". `status` 499 means that the caller left before the response. `route` is empty if no route matched (400, 403, 404, 421), and for token listeners. If a route returns more than 16 different statuses, the rest are counted by class, such as `5xx`",
        alert: "the share of `status=~\"5..\"` grows",
        samples: |all, out| {
            let statuses = routes_and_none(all)
                .flat_map(|(route, metrics)| metrics.statuses().into_iter().map(move |of| (route, of)));
            each(statuses, |(route, (status, count))| out.value(&[route, &status], count))
        },
    },
    Family {
        name: "bearerd_request_duration_seconds",
        kind: Kind::Histogram,
        labels: &["route"],
        unit: "seconds",
        help: "From a request's head to the end of its response, including the wait for a token",
        more: "",
        alert: "p99 exceeds what callers accept",
        samples: |all, out| {
            each(routes_and_none(all), |(route, metrics)| out.histogram(&[route], metrics.duration()))
        },
    },
    Family {
        name: "bearerd_upstream_duration_seconds",
        kind: Kind::Histogram,
        labels: &["route"],
        unit: "seconds",
        help: "From sending the request upstream to the head of its response",
        more: ". The difference from `bearerd_request_duration_seconds` is bearerd's time and the body's",
        alert: "p99 grows while the upstream reports no problem",
        samples: |all, out| {
            each(&all.routes, |(route, metrics)| out.histogram(&[route], metrics.upstream_duration()))
        },
    },
    Family {
        name: "bearerd_failures_total",
        kind: Kind::Counter,
        labels: &["route", "code"],
        unit: "requests",
        help: "Requests that got an error response of bearerd itself, by route and code",
        more: " ([errors.md](errors.md)); a 5xx that is not among them came from the upstream. gRPC calls, whose status is \
               200 even so, are among them",
        alert: "`code=~\"upstream_.*\"`, `overloaded`, or `internal` grows",
        samples: |all, out| {
            let failures = routes_and_none(all)
                .flat_map(|(route, metrics)| metrics.failures.all().into_iter().map(move |of| (route, of)));
            each(failures, |(route, (code, count))| out.value(&[route, code], count))
        },
    },
    Family {
        name: "bearerd_refreshes_forced_total",
        kind: Kind::Counter,
        labels: &["route"],
        unit: "tokens",
        help: "Tokens that the upstream refused (`refresh_on`), so that bearerd fetched a new one",
        more: "",
        alert: "it grows steadily: the upstream and the issuer disagree about tokens",
        samples: |all, out| {
            each(&all.routes, |(route, metrics)| {
                out.value(&[route], metrics.refreshes_forced.load(Ordering::Relaxed))
            })
        },
    },
    Family {
        name: "bearerd_upstream_connections",
        kind: Kind::Gauge,
        labels: &["route"],
        unit: "connections",
        help: "Open connections to the upstream",
        more: "",
        alert: "",
        samples: |all, out| {
            each(&all.routes, |(route, metrics)| out.value(&[route], metrics.upstream_connections()))
        },
    },
    Family {
        name: "bearerd_token_requests_total",
        kind: Kind::Counter,
        labels: &["issuer", "outcome"],
        unit: "requests",
        help: "Token requests",
        more: ". `outcome` is `ok` or [the kind of failure](#outcomes-of-a-token-request)",
        alert: "`outcome!=\"ok\"` grows",
        samples: |all, out| {
            let outcomes = all
                .issuers
                .iter()
                .flat_map(|(issuer, metrics)| metrics.requests.all().into_iter().map(move |of| (issuer, of)));
            each(outcomes, |(issuer, (outcome, count))| out.value(&[issuer, outcome], count))
        },
    },
    Family {
        name: "bearerd_token_request_duration_seconds",
        kind: Kind::Histogram,
        labels: &["issuer"],
        unit: "seconds",
        help: "Duration of a token request, including discovery; without the wait for values from programs and other issuers",
        more: "",
        alert: "p99 approaches the issuer's `timeout`",
        samples: |all, out| {
            each(&all.issuers, |(issuer, metrics)| {
                out.histogram(&[issuer], Histogram::sum(iter::once(&metrics.duration)))
            })
        },
    },
    Family {
        name: "bearerd_store_operations_total",
        kind: Kind::Counter,
        labels: &["operation", "outcome"],
        unit: "operations",
        help: "Operations of the token store (`[store]`)",
        more: ". A `claim` asks for a token: `hit` (another replica or an earlier start fetched it), `lease` (this bearerd fetches it), or `held` (another one is fetching it). `skipped` means that the store failed less than 5 s before",
        alert: "outcomes other than `ok`, `hit`, `lease`, `held`, and `superseded` grow",
        samples: |all, out| {
            each(all.store.operations(), |((operation, outcome), count)| {
                out.value(&[operation, outcome], count)
            })
        },
    },
    Family {
        name: "bearerd_store_operation_duration_seconds",
        kind: Kind::Histogram,
        labels: &[],
        unit: "seconds",
        help: "Duration of an operation of the token store",
        more: "",
        alert: "p99 approaches `timeout` of `[store]`",
        samples: |all, out| out.histogram(&[], all.store.duration()),
    },
    Family {
        name: "bearerd_store_up",
        kind: Kind::Gauge,
        labels: &[],
        unit: "0 or 1",
        help: "Whether the last operation of the token store succeeded",
        more: ". bearerd checks an unused store once a minute. Absent without `[store]`. While it is 0, each replica fetches its own tokens",
        alert: "it is 0",
        samples: |all, out| each(all.extra.store_up, |up| out.value(&[], u64::from(up))),
    },
    Family {
        name: "bearerd_token_budget_remaining",
        kind: Kind::Gauge,
        labels: &["issuer"],
        unit: "requests",
        help: "Token requests that the issuer's `budget` allows now, as far as this process knows",
        more: ". Absent without `budget`. With `[store]`, the last value that the store reported",
        alert: "it stays under a tenth of `bearerd_token_budget_limit`",
        samples: |all, out| {
            each(&all.extra.token_budgets, |of| out.value(&[&of.issuer], u64::from(of.remaining)))
        },
    },
    Family {
        name: "bearerd_token_budget_limit",
        kind: Kind::Gauge,
        labels: &["issuer"],
        unit: "requests",
        help: "`requests` of the issuer's `budget`",
        more: "",
        alert: "",
        samples: |all, out| {
            each(&all.extra.token_budgets, |of| out.value(&[&of.issuer], u64::from(of.limit)))
        },
    },
    Family {
        name: "bearerd_token_waiters",
        kind: Kind::Gauge,
        labels: &["issuer"],
        unit: "requests",
        help: "Requests that are waiting for a token",
        more: "",
        alert: "it stays over 0 for a minute",
        samples: |all, out| {
            each(&all.issuers, |(issuer, metrics)| out.value(&[issuer], metrics.waiters.get()))
        },
    },
    Family {
        name: "bearerd_token_expiry_timestamp_seconds",
        kind: Kind::Gauge,
        labels: &["issuer", "route"],
        unit: "Unix time",
        help: "When the token of the route's requests expires; absent while there is no token",
        more: "",
        alert: "it approaches and `bearerd_token_consecutive_failures` is over 0",
        samples: |all, out| {
            each(&all.extra.token_expiries, |of| out.value(&[&of.issuer, &of.route], unix(of.at).as_secs()))
        },
    },
    Family {
        name: "bearerd_token_consecutive_failures",
        kind: Kind::Gauge,
        labels: &["issuer", "route"],
        unit: "requests",
        help: "How often in a row the token request has failed; 0 after a success, and before the first request",
        more: "",
        alert: "it is over 0",
        samples: |all, out| {
            each(&all.extra.running.token_failures, |of| {
                out.value(&[&of.issuer, &of.route], u64::from(of.in_a_row))
            })
        },
    },
    Family {
        name: "bearerd_connections",
        kind: Kind::Gauge,
        labels: &["listener"],
        unit: "connections",
        help: "Open connections from callers",
        more: "",
        alert: "their sum approaches `bearerd_connections_limit`",
        samples: |all, out| {
            each(&all.listeners, |(listener, metrics)| out.value(&[listener], metrics.connections()))
        },
    },
    Family {
        name: "bearerd_requests_refused_total",
        kind: Kind::Counter,
        labels: &["listener", "reason"],
        unit: "requests",
        help: "Requests that the HTTP parser refused, by listener and reason",
        more: ": with 400, 414 or 431, [see below](#reasons-of-a-refused-request). `listener` is a listener's name, \
               `admin address` or `webhooks`",
        alert: "it grows: the log names the callers (`caller.request_refused`)",
        samples: |all, out| {
            let reasons = servers(all).flat_map(|(listener, metrics)| {
                metrics.refused.all().into_iter().map(move |of| (listener, of))
            });
            each(reasons, |(listener, (reason, count))| out.value(&[listener, reason], count))
        },
    },
    Family {
        name: "bearerd_connects_total",
        kind: Kind::Counter,
        labels: &["listener", "outcome"],
        unit: "requests",
        help: "CONNECT requests of a forward listener, by outcome",
        more: ": `served` (TLS ends in bearerd, and the requests inside count as those of their route), `tunneled` (a host that no \
               route names, passed through unread), or `refused`",
        alert: "`refused` grows: a program wants a host that no route names",
        samples: |all, out| {
            let outcomes = all.listeners.iter().flat_map(|(listener, metrics)| {
                metrics.connects.all().into_iter().map(move |of| (listener, of))
            });
            each(outcomes, |(listener, (outcome, count))| out.value(&[listener, outcome], count))
        },
    },
    Family {
        name: "bearerd_connections_limit",
        kind: Kind::Gauge,
        labels: &[],
        unit: "connections",
        help: "`[limits] connections`, for all listeners together",
        more: "",
        alert: "",
        samples: |all, out| out.value(&[], all.extra.running.most_connections),
    },
    Family {
        name: "bearerd_ready",
        kind: Kind::Gauge,
        labels: &[],
        unit: "0 or 1",
        help: "1 if `/readyz` returns 200",
        more: "",
        alert: "0 for 5 minutes",
        samples: |all, out| out.value(&[], u64::from(all.extra.running.ready)),
    },
    Family {
        name: "bearerd_config_reloads_total",
        kind: Kind::Counter,
        labels: &["outcome"],
        unit: "reloads",
        help: "Reloads since the start: `ok` or `failed`",
        more: "",
        alert: "",
        samples: |all, out| {
            out.value(&["ok"], all.reloads_ok)?;
            out.value(&["failed"], all.reloads_failed)
        },
    },
    Family {
        name: "bearerd_config_last_reload_successful",
        kind: Kind::Gauge,
        labels: &[],
        unit: "0 or 1",
        help: "1 if the last load succeeded",
        more: ". 0 if the file has an error and the previous config is still in use",
        alert: "0 for 5 minutes",
        samples: |all, out| out.value(&[], u64::from(all.last_reload_successful)),
    },
    Family {
        name: "bearerd_config_last_reload_success_timestamp_seconds",
        kind: Kind::Gauge,
        labels: &[],
        unit: "Unix time",
        help: "When the current config was loaded",
        more: "",
        alert: "",
        samples: |all, out| each(all.extra.running.loaded_at, |at| out.value(&[], unix(at).as_secs())),
    },
    Family {
        name: "bearerd_certificate_expiry_timestamp_seconds",
        kind: Kind::Gauge,
        labels: &["kind", "name", "key"],
        unit: "Unix time",
        help: "When a certificate that the config names expires",
        more: ". `kind` is `issuer`, `route`, or `listener`, `name` is its name, and `key` is the key in its table. Updated every five minutes and at a reload; absent if the certificate cannot be read",
        alert: "less than 14 days ahead",
        samples: |all, out| {
            each(&all.extra.running.certificates, |of| {
                out.value(&[of.kind, &of.name, of.key], unix(of.at).as_secs())
            })
        },
    },
    Family {
        name: "bearerd_log_lines_dropped_total",
        kind: Kind::Counter,
        labels: &[],
        unit: "lines",
        help: "Log lines that bearerd dropped because stderr did not take them fast enough",
        more: "",
        alert: "it grows: the program that reads the log is stuck",
        samples: |all, out| out.value(&[], all.extra.log_lines_dropped),
    },
    Family {
        name: "bearerd_spans_lost_total",
        kind: Kind::Counter,
        labels: &[],
        unit: "spans",
        help: "Spans that did not reach the collector of `[tracing]`",
        more: "",
        alert: "it grows: the collector is gone, is slow, or refuses them. Requests are not affected",
        samples: |all, out| out.value(&[], all.spans_lost),
    },
    Family {
        name: "bearerd_build_info",
        kind: Kind::Gauge,
        labels: &["version"],
        unit: "1",
        help: "Always 1",
        more: ". The label has the version",
        alert: "",
        samples: |_, out| out.value(&[env!("CARGO_PKG_VERSION")], 1),
    },
    Family {
        name: "process_cpu_seconds_total",
        kind: Kind::Counter,
        labels: &[],
        unit: "seconds",
        help: "Processor time that the process used",
        more: ", all threads",
        alert: "",
        samples: |all, out| out.seconds(all.extra.running.process.cpu),
    },
    Family {
        name: "process_resident_memory_bytes",
        kind: Kind::Gauge,
        labels: &[],
        unit: "bytes",
        help: "Memory that the process holds in RAM",
        more: "",
        alert: "it grows without end",
        samples: |all, out| each(all.extra.running.process.resident, |bytes| out.value(&[], bytes)),
    },
    Family {
        name: "process_virtual_memory_bytes",
        kind: Kind::Gauge,
        labels: &[],
        unit: "bytes",
        help: "Memory that the process has mapped",
        more: "; much more than is used",
        alert: "",
        samples: |all, out| each(all.extra.running.process.virtual_memory, |bytes| out.value(&[], bytes)),
    },
    Family {
        name: "process_open_fds",
        kind: Kind::Gauge,
        labels: &[],
        unit: "files",
        help: "Files and sockets that the process has open",
        more: "",
        alert: "it nears the next line",
        samples: |all, out| each(all.extra.running.process.open_files, |files| out.value(&[], files)),
    },
    Family {
        name: "process_max_fds",
        kind: Kind::Gauge,
        labels: &[],
        unit: "files",
        help: "How many files and sockets the process may have open",
        more: "; absent where there is no limit",
        alert: "",
        samples: |all, out| each(all.extra.running.process.most_files, |files| out.value(&[], files)),
    },
    Family {
        name: "process_start_time_seconds",
        kind: Kind::Gauge,
        labels: &[],
        unit: "Unix time",
        help: "When the process started, as Unix time",
        more: "",
        alert: "it changes again and again",
        samples: |all, out| each(all.extra.running.started_at, |at| out.seconds(unix(at))),
    },
];

fn each<T>(items: impl IntoIterator<Item = T>, write: impl FnMut(T) -> fmt::Result) -> fmt::Result {
    items.into_iter().try_for_each(write)
}

/// All routes. Requests that matched no route have the empty name.
fn routes_and_none(all: &Scrape) -> impl Iterator<Item = (&str, &RouteMetrics)> {
    let routes = all.routes.iter().map(|(name, metrics)| (&**name, &**metrics));
    iter::once(("", &*all.unrouted)).chain(routes)
}

/// Listeners, then the admin address and the webhooks.
fn servers(all: &Scrape) -> impl Iterator<Item = (&str, &Arc<ListenerMetrics>)> {
    let listeners = all.listeners.iter().map(|(name, metrics)| (&**name, metrics));
    listeners.chain(all.small_servers.iter().map(|(name, metrics)| (*name, metrics)))
}

fn unix(at: SystemTime) -> Duration {
    at.duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The statuses of one route are few. What does not fit is counted by class.
const STATUS_SLOTS: usize = 16;
const OUTCOME_SLOTS: usize = 16;
const CLASSES: [&str; 6] = ["1xx", "2xx", "3xx", "4xx", "5xx", "other"];

/// Counts by status.
#[derive(Debug, Default)]
pub(super) struct StatusCounts {
    /// 0: free. A slot that is in use stays in use.
    statuses: [AtomicU16; STATUS_SLOTS],
    counts: [AtomicU64; STATUS_SLOTS],
    /// By class, for statuses without a slot, because an upstream must not create series without limit.
    overflow: [AtomicU64; CLASSES.len()],
}

impl StatusCounts {
    pub(super) fn add(&self, status: u16) {
        self.counter(status).fetch_add(1, Ordering::Relaxed);
    }

    fn counter(&self, status: u16) -> &AtomicU64 {
        if status != 0 {
            let start = usize::from(status) % STATUS_SLOTS;
            let slots = self.statuses.iter().zip(&self.counts);
            for (slot, count) in slots.clone().skip(start).chain(slots.take(start)) {
                if claim(slot, status) {
                    return count;
                }
            }
        }
        let [one, two, three, four, five, other] = &self.overflow;
        match status / 100 {
            1 => one,
            2 => two,
            3 => three,
            4 => four,
            5 => five,
            _ => other,
        }
    }

    /// All responses, and those with a 5xx status.
    pub(super) fn totals(&self) -> (u64, u64) {
        let slots = self.statuses.iter().zip(&self.counts);
        let exact = slots.map(|(status, count)| (status.load(Ordering::Relaxed) / 100, count));
        let classes = (1..).zip(&self.overflow);
        exact.chain(classes).fold((0, 0), |(all, errors), (class, count)| {
            let count = count.load(Ordering::Relaxed);
            (all + count, if class == 5 { errors + count } else { errors })
        })
    }

    /// Every counted status and its count, in order, summed over all tables. Classes of the overflow are last.
    pub(super) fn sum<'a>(all: impl Iterator<Item = &'a Self>) -> Vec<(String, u64)> {
        let mut counted: BTreeMap<u16, u64> = BTreeMap::new();
        let mut overflow = CLASSES.map(|class| (class.to_owned(), 0));
        for one in all {
            for (status, count) in one.statuses.iter().zip(&one.counts) {
                *counted.entry(status.load(Ordering::Relaxed)).or_default() += count.load(Ordering::Relaxed);
            }
            for ((_, sum), count) in overflow.iter_mut().zip(&one.overflow) {
                *sum += count.load(Ordering::Relaxed);
            }
        }
        // Free slots have 0.
        let exact = counted.into_iter().filter(|(status, _)| *status != 0);
        let exact = exact.map(|(status, count)| (status.to_string(), count));
        exact.chain(overflow).filter(|(_, count)| *count != 0).collect()
    }
}

/// Whether the slot belongs to this status. A free slot is claimed for it.
fn claim(slot: &AtomicU16, status: u16) -> bool {
    match slot.load(Ordering::Relaxed) {
        0 => match slot.compare_exchange(0, status, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => true,
            Err(winner) => winner == status,
        },
        taken => taken == status,
    }
}

/// Counts by the name of an outcome.
#[derive(Debug, Default)]
pub(super) struct OutcomeCounts {
    slots: [(OnceLock<&'static str>, AtomicU64); OUTCOME_SLOTS],
    overflow: AtomicU64,
}

impl OutcomeCounts {
    pub(super) fn add(&self, outcome: &'static str) {
        let mine = self.slots.iter().find(|(name, _)| *name.get_or_init(|| outcome) == outcome);
        mine.map_or(&self.overflow, |(_, count)| count).fetch_add(1, Ordering::Relaxed);
    }

    /// Every counted outcome and its count, in order.
    pub(super) fn all(&self) -> Vec<(&'static str, u64)> {
        let named = self.slots.iter().filter_map(|(name, count)| Some((*name.get()?, count)));
        let all = named.chain([("other", &self.overflow)]);
        let all = all.map(|(name, count)| (name, count.load(Ordering::Relaxed)));
        let mut counted: Vec<_> = all.filter(|(_, count)| *count != 0).collect();
        counted.sort_unstable();
        counted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_beyond_the_slots_are_counted_by_class() {
        let counts = StatusCounts::default();
        for status in 200..216 {
            counts.add(status);
        }
        counts.add(503);
        counts.add(503);
        counts.add(777);
        counts.add(0);
        counts.add(215);
        let all = StatusCounts::sum([&counts].into_iter());
        assert_eq!(all.len(), 18);
        assert!(all.contains(&("215".to_owned(), 2)));
        assert!(all.contains(&("5xx".to_owned(), 2)));
        assert!(all.contains(&("other".to_owned(), 2)));
    }

    #[test]
    fn statuses_that_share_a_start_do_not_share_a_count() {
        let counts = StatusCounts::default();
        counts.add(200);
        counts.add(216);
        counts.add(216);
        assert_eq!(StatusCounts::sum([&counts].into_iter()), [("200".to_owned(), 1), ("216".to_owned(), 2)]);
        let other = StatusCounts::default();
        other.add(216);
        other.add(404);
        assert_eq!(
            StatusCounts::sum([&counts, &other].into_iter()),
            [("200".to_owned(), 1), ("216".to_owned(), 3), ("404".to_owned(), 1)]
        );
    }

    #[test]
    fn outcomes_are_counted_by_name() {
        let counts = OutcomeCounts::default();
        counts.add("timeout");
        counts.add("ok");
        counts.add("ok");
        assert_eq!(counts.all(), [("ok", 2), ("timeout", 1)]);
    }
}
