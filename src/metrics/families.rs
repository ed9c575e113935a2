//! Every family of series: what it is called, what is said of it, and where its samples come from. The table of
//! docs/metrics.md is made from it.

use std::fmt;
use std::iter;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::encode::{Samples, Scrape};
use super::histogram::Histogram;
use super::{ListenerMetrics, RouteMetrics};

/// One family of series.
#[derive(Debug, Clone, Copy)]
pub struct Family {
    /// As it stands in a query (counters with `_total`).
    pub name: &'static str,
    pub kind: Kind,
    /// Values come from the config, or from a closed set in the code.
    pub labels: &'static [&'static str],
    pub unit: &'static str,
    /// One sentence, without its last period.
    pub help: &'static str,
    /// What the document says beside it, with what goes between the two.
    pub more: &'static str,
    /// When somebody should look; empty where the family tells nothing by itself.
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
    /// As both text formats call it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// Every family, in the order in which they are written out.
pub const FAMILIES: &[Family] = &[
    Family {
        name: "bearerd_requests_total",
        kind: Kind::Counter,
        labels: &["route", "status"],
        unit: "requests",
        help: "Requests that got a response",
        more: ". `status` 499 means that the caller left before the response. `route` is empty if no route matched (400, 403, 404, 421). If a route returns more than 16 different statuses, the rest are counted by class, such as `5xx`",
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
        help: "Requests that bearerd answered with an error of its own, by route and code",
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
        help: "Duration of a token request, including discovery",
        more: "",
        alert: "p99 approaches the issuer's `timeout`",
        samples: |all, out| {
            each(&all.issuers, |(issuer, metrics)| {
                out.histogram(&[issuer], Histogram::sum(iter::once(&metrics.duration)))
            })
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

/// Requests that no route matched have the empty name.
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
