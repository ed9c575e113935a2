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
        help: "Requests answered, by route (empty where none matched) and status",
        more: "; 499 is a caller that left before. A route that answers with more than 16 statuses has the rest counted \
               by class, as `5xx`",
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
        help: "Time from a request's head to the end of its response",
        more: ", waiting for a token included",
        alert: "p99 passes what callers bear",
        samples: |all, out| {
            each(routes_and_none(all), |(route, metrics)| out.histogram(&[route], metrics.duration()))
        },
    },
    Family {
        name: "bearerd_upstream_duration_seconds",
        kind: Kind::Histogram,
        labels: &["route"],
        unit: "seconds",
        help: "Time from sending a request upstream to its response's head",
        more: "; the difference to the one above is ours and the body's",
        alert: "p99 grows while the upstream says it is well",
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
        alert: "`code=~\"upstream_.*\"`, `overloaded` or `internal` grows",
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
        help: "Tokens that the upstream refused",
        more: " (`refresh_on`), so that a new one was asked for",
        alert: "it grows steadily: the upstream and the issuer disagree on tokens",
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
        help: "Token requests, by issuer and outcome",
        more: ": `ok` or what went wrong, [see below](#outcomes-of-a-token-request)",
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
        help: "Time that a token request took",
        more: ", discovery included",
        alert: "p99 nears the issuer's `timeout`",
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
        help: "Requests that wait for a token",
        more: " now",
        alert: "it stays above 0 for a minute",
        samples: |all, out| {
            each(&all.issuers, |(issuer, metrics)| out.value(&[issuer], metrics.waiters.get()))
        },
    },
    Family {
        name: "bearerd_token_expiry_timestamp_seconds",
        kind: Kind::Gauge,
        labels: &["issuer", "route"],
        unit: "Unix time",
        help: "When the current token ends, as Unix time",
        more: ": the one that the route's requests carry; absent while there is none",
        alert: "it nears and the next line is above 0",
        samples: |all, out| {
            each(&all.extra.token_expiries, |of| out.value(&[&of.issuer, &of.route], unix(of.at).as_secs()))
        },
    },
    Family {
        name: "bearerd_token_consecutive_failures",
        kind: Kind::Gauge,
        labels: &["issuer", "route"],
        unit: "requests",
        help: "How often in a row the token could not be fetched; 0 when it last could",
        more: ", and before the first request",
        alert: "it is above 0",
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
        alert: "their sum nears `bearerd_connections_limit`",
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
        alert: "it grows: the log names the peers (`caller.request_refused`)",
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
        help: "How many connections from callers there may be, over all listeners",
        more: " (`[limits] connections`)",
        alert: "",
        samples: |all, out| out.value(&[], all.extra.running.most_connections),
    },
    Family {
        name: "bearerd_ready",
        kind: Kind::Gauge,
        labels: &[],
        unit: "0 or 1",
        help: "1 where /readyz says 200, else 0",
        more: "",
        alert: "0 for 5 minutes",
        samples: |all, out| out.value(&[], u64::from(all.extra.running.ready)),
    },
    Family {
        name: "bearerd_config_reloads_total",
        kind: Kind::Counter,
        labels: &["outcome"],
        unit: "reloads",
        help: "Config reloads, by outcome",
        more: " since the start: `ok` or `failed`",
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
        help: "1 where the last load of the config was good, else 0",
        more: ": the file is broken, and the config before it serves on",
        alert: "0 for 5 minutes",
        samples: |all, out| out.value(&[], u64::from(all.last_reload_successful)),
    },
    Family {
        name: "bearerd_config_last_reload_success_timestamp_seconds",
        kind: Kind::Gauge,
        labels: &[],
        unit: "Unix time",
        help: "When the config that serves was loaded, as Unix time",
        more: "",
        alert: "",
        samples: |all, out| each(all.extra.running.loaded_at, |at| out.value(&[], unix(at).as_secs())),
    },
    Family {
        name: "bearerd_certificate_expiry_timestamp_seconds",
        kind: Kind::Gauge,
        labels: &["kind", "name", "key"],
        unit: "Unix time",
        help: "When a certificate that the config names ends, as Unix time",
        more: ": `kind` is `issuer`, `route` or `listener`, `name` which one, `key` the key in its table. Read anew every \
               five minutes and at a reload; one that cannot be read is absent",
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
        help: "Log lines given up because stderr did not take them",
        more: " fast enough",
        alert: "it grows: whatever reads the log is stuck",
        samples: |all, out| out.value(&[], all.extra.log_lines_dropped),
    },
    Family {
        name: "bearerd_spans_lost_total",
        kind: Kind::Counter,
        labels: &[],
        unit: "spans",
        help: "Spans that did not reach the collector of [tracing]",
        more: "",
        alert: "it grows: the collector is gone, slow or refuses them; requests are not affected",
        samples: |all, out| out.value(&[], all.spans_lost),
    },
    Family {
        name: "bearerd_build_info",
        kind: Kind::Gauge,
        labels: &["version"],
        unit: "1",
        help: "Always 1; the label tells the version",
        more: "",
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
