//! `[tracing]`, and what OpenTelemetry's variables add to it where the file leaves something open. A variable that cannot be
//! used is a warning and counts as unset, as the specification says: variables that are set for a whole cluster must not keep
//! bearerd from starting.
//!
//! The library that sends the spans reads `OTEL_EXPORTER_OTLP_HEADERS`, `..._COMPRESSION`, `OTEL_TRACES_SAMPLER`, and
//! `OTEL_RESOURCE_ATTRIBUTES`. Here they are only checked for what the library would ignore without a warning.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use http::{HeaderName, HeaderValue};

use crate::config::document::Place;
use crate::config::environment::OtelVariables;
use crate::config::model::{HttpUrl, OtlpProtocol, Roots, SpanBatches, TlsOptions, Tracing};
use crate::config::raw::RawTracing;
use crate::config::raw::values::{Plaintext, Word, Words as _, check};
use crate::config::reference::Source;
use crate::config::report::Report;
use crate::config::resolve::value::{self, headers};
use crate::config::types::{self, url};

/// The path for traces over HTTP (OTLP specification).
const TRACES_PATH: &str = "/v1/traces";

/// `None`: there is no endpoint, or the environment turns traces off, or there is an error.
pub(super) fn resolve(
    place: &Place<'_>,
    raw: Option<RawTracing>,
    variables: &OtelVariables,
    report: &mut Report,
) -> Option<Tracing> {
    let raw = raw.unwrap_or_default();
    let otel = Otel::new(variables, place);
    let (off, in_file) = (otel.off(), raw.endpoint.is_some());
    let is_on = off.is_none() && (in_file || otel.has_endpoint());
    if let Some(name) = off.filter(|_| in_file) {
        report.warning(&place.key("endpoint"), format!("{name} turns traces off"), "unset it to have them");
    }

    let plaintext = raw.plaintext.read(place, "plaintext", report) == Plaintext::Allow;
    let protocol = if is_on { otel.protocol(&raw.protocol, report) } else { OtlpProtocol::default() };
    let protocol = raw.protocol.read_or(protocol, place, "protocol", report);
    let endpoint = match raw.endpoint {
        None if is_on => otel.endpoint(protocol, plaintext, report),
        None => None,
        Some(text) => {
            let url = endpoint_of(place, &text, protocol, report);
            check_plaintext(place, url.as_ref(), plaintext, report);
            url
        }
    };
    check_values(place, raw.sample, raw.service_name.as_deref(), report);
    let headers = headers(&place.key("headers"), raw.headers, report);
    let tls_in_file = raw.tls.is_some();
    let tls = value::tls(&place.key("tls"), raw.tls, report);
    let timeout_in_file = raw.timeout.is_given();
    let timeout = raw.timeout.timeout(place, "timeout", report);
    let endpoint = endpoint.filter(|_| is_on)?;

    otel.check_the_rest(raw.sample.is_some(), report);
    Some(Tracing {
        protocol,
        endpoint,
        service_name: raw.service_name.or_else(|| otel.service_name(report)),
        sample: raw.sample,
        headers,
        timeout: if timeout_in_file { timeout } else { otel.timeout(timeout, report) },
        tls: if tls_in_file { tls } else { otel.tls(report) },
        batches: otel.batches(report),
    })
}

fn check_values(place: &Place<'_>, sample: Option<f64>, service_name: Option<&str>, report: &mut Report) {
    if sample.is_some_and(|sample| !(0.0..=1.0).contains(&sample)) {
        report.error(
            &place.key("sample"),
            "is not a share between 0 and 1",
            "0.0 records nothing, 1.0 everything",
        );
    }
    if service_name.is_some_and(|name| name.is_empty() || name.chars().any(char::is_control)) {
        report.error(&place.key("service_name"), "is not a valid name", "service_name = \"bearerd\"");
    }
}

fn endpoint_of(
    place: &Place<'_>,
    text: &str,
    protocol: OtlpProtocol,
    report: &mut Report,
) -> Option<HttpUrl> {
    let place = place.key("endpoint");
    let mut url = check(&place, url::http_url(text), report)?;
    if url.path_and_query.contains('?') {
        let wrong = types::wrong(
            "the URL has a query",
            "leave it out; use `headers` for what the collector requires",
        );
        return check(&place, Err(wrong), report);
    }
    match protocol {
        OtlpProtocol::Http if url.path_and_query == "/" => {
            TRACES_PATH.clone_into(&mut url.path_and_query);
        }
        OtlpProtocol::Grpc if url.path_and_query != "/" => {
            let wrong = types::wrong("the URL has a path, which gRPC has no use for", "leave it out");
            return check(&place, Err(wrong), report);
        }
        OtlpProtocol::Http | OtlpProtocol::Grpc => {}
    }
    Some(url)
}

fn check_plaintext(place: &Place<'_>, url: Option<&HttpUrl>, allowed: bool, report: &mut Report) {
    let Some(url) = url.filter(|url| !url.https && !url::is_this_machine(&url.host)) else { return };
    let at = place.key("endpoint");
    let message = format!("http:// to another machine ({}): anyone on the way can read the spans", url.host);
    if allowed {
        report.warning(&at, message, "use https:// where the collector has it");
    } else {
        report.error(&at, message, "write \"https://…\", or accept it with plaintext = \"allow\"");
    }
}

/// A larger batch or queue is probably a typing error.
const MOST_SPANS: usize = 1_000_000;

const DEFAULT_BATCHES: SpanBatches = SpanBatches {
    queue: 4096,
    most: 512,
    delay: Duration::from_secs(1),
    export_timeout: Duration::from_secs(30),
};

/// Variables of traces that do nothing here.
const WITHOUT_EFFECT: &[(&str, &str)] = &[
    ("OTEL_PROPAGATORS", "W3C Trace Context is the one way in which bearerd passes a trace on"),
    ("OTEL_BSP_MAX_CONCURRENT_EXPORTS", "one batch is sent after the other"),
    ("OTEL_CONFIG_FILE", "write [tracing] in bearerd's own file"),
    ("OTEL_EXPERIMENTAL_CONFIG_FILE", "write [tracing] in bearerd's own file"),
    ("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "bearerd's attributes are short"),
    ("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "bearerd's attributes are short"),
];

/// The variables, and where in the file their warnings point.
struct Otel<'a> {
    variables: &'a OtelVariables,
    place: &'a Place<'a>,
}

/// A variable that is set.
struct Set<'a> {
    name: String,
    value: &'a str,
}

impl<'a> Otel<'a> {
    fn new(variables: &'a OtelVariables, place: &'a Place<'a>) -> Self {
        Self { variables, place }
    }

    fn get(&self, name: &str) -> Option<Set<'a>> {
        Some(Set { name: name.to_owned(), value: self.variables.get(name)? })
    }

    /// The variable for traces, else the one for all signals.
    fn otlp(&self, what: &str) -> Option<Set<'a>> {
        self.get(&format!("OTEL_EXPORTER_OTLP_TRACES_{what}"))
            .or_else(|| self.get(&format!("OTEL_EXPORTER_OTLP_{what}")))
    }

    fn warn(&self, name: &str, message: &str, hint: &str, report: &mut Report) {
        report.warning(self.place, format!("{name}: {message}"), hint);
    }

    /// The variable that turns traces off, whatever else is set.
    fn off(&self) -> Option<&'static str> {
        let is = |name: &str, word: &str| {
            self.variables.get(name).is_some_and(|value| value.eq_ignore_ascii_case(word))
        };
        let disabled = is("OTEL_SDK_DISABLED", "true").then_some("OTEL_SDK_DISABLED");
        disabled.or_else(|| is("OTEL_TRACES_EXPORTER", "none").then_some("OTEL_TRACES_EXPORTER"))
    }

    /// Whether there would be traces without the file.
    fn has_endpoint(&self) -> bool {
        self.otlp("ENDPOINT").is_some()
    }

    /// The protocol, unless the file has one.
    fn protocol(&self, in_file: &Word<OtlpProtocol>, report: &mut Report) -> OtlpProtocol {
        let default = OtlpProtocol::default();
        let Some(Set { name, value }) = self.otlp("PROTOCOL").filter(|_| !in_file.is_given()) else {
            return default;
        };
        let written = OtlpProtocol::WORDS.iter().find(|(word, _)| value.eq_ignore_ascii_case(word));
        if written.is_none() {
            let message = "is neither http/protobuf nor grpc; http/protobuf is taken";
            self.warn(&name, message, "set one of the two", report);
        }
        written.map_or(default, |(_, protocol)| *protocol)
    }

    /// `plaintext`: the file allows `http://` to another machine.
    fn endpoint(&self, protocol: OtlpProtocol, plaintext: bool, report: &mut Report) -> Option<HttpUrl> {
        let set = self.otlp("ENDPOINT")?;
        let url = match self.endpoint_url(&set, protocol) {
            Ok(url) => url,
            Err(wrong) => {
                let message = format!("{}, so there are no traces", wrong.message);
                self.warn(&set.name, &message, &wrong.hint, report);
                return None;
            }
        };
        if !url.https && !url::is_this_machine(&url.host) && !plaintext && !self.is_insecure() {
            let message = format!(
                "http:// to another machine ({}): anyone on the way could read the spans, so there are no traces",
                url.host
            );
            let hint = "write https://…, or accept it with OTEL_EXPORTER_OTLP_INSECURE=true or, in the file, \
                        tracing.plaintext = \"allow\"";
            self.warn(&set.name, &message, hint, report);
            return None;
        }
        Some(url)
    }

    fn endpoint_url(&self, set: &Set<'_>, protocol: OtlpProtocol) -> Result<HttpUrl, types::Wrong> {
        if set.value.contains('?') {
            return Err(types::wrong("the URL has a query", "leave it out"));
        }
        match protocol {
            OtlpProtocol::Http if set.name == "OTEL_EXPORTER_OTLP_ENDPOINT" => {
                url::http_url(&format!("{}{}", set.value.trim_end_matches('/'), TRACES_PATH))
            }
            OtlpProtocol::Http => url::http_url(set.value),
            OtlpProtocol::Grpc => {
                let scheme = match set.value.contains("://") {
                    true => "",
                    false if self.is_insecure() => "http://",
                    false => "https://",
                };
                let url = url::http_url(&format!("{scheme}{}", set.value))?;
                if url.path_and_query != "/" {
                    return Err(types::wrong(
                        "the URL has a path, which gRPC has no use for",
                        "leave it out",
                    ));
                }
                Ok(url)
            }
        }
    }

    fn is_insecure(&self) -> bool {
        self.otlp("INSECURE").is_some_and(|set| set.value.eq_ignore_ascii_case("true"))
    }

    fn service_name(&self, report: &mut Report) -> Option<String> {
        let Set { name, value } = self.get("OTEL_SERVICE_NAME")?;
        if value.chars().any(char::is_control) {
            self.warn(&name, "holds control characters and is not taken", "", report);
            return None;
        }
        Some(value.to_owned())
    }

    /// In milliseconds, as all of OpenTelemetry's times; `0` is no limit.
    fn timeout(&self, default: Option<Duration>, report: &mut Report) -> Option<Duration> {
        match self.otlp("TIMEOUT").and_then(|set| self.number(set, report)) {
            Some(0) => None,
            Some(limit) => Some(Duration::from_millis(limit)),
            None => default,
        }
    }

    /// Files for TLS, if the file has no table.
    fn tls(&self, report: &mut Report) -> TlsOptions {
        let mut file = |what: &str, key: &str| {
            let set = self.otlp(what)?;
            // Relative paths in variables start at the folder in which the program was started.
            let path = std::path::absolute(set.value).unwrap_or_else(|_| PathBuf::from(set.value));
            let source = Source::file(path, None);
            report.reference(&self.place.key("tls").key(key), &source, key == "private_key");
            Some(source)
        };
        let ca = file("CERTIFICATE", "ca");
        let roots = if ca.is_some() { Roots::Ca } else { Roots::System };
        let certificate = file("CLIENT_CERTIFICATE", "certificate");
        let private_key = file("CLIENT_KEY", "private_key");
        TlsOptions { ca, roots, certificate, private_key, ..TlsOptions::default() }
    }

    fn batches(&self, report: &mut Report) -> SpanBatches {
        let queue = self.spans("OTEL_BSP_MAX_QUEUE_SIZE", report).unwrap_or(DEFAULT_BATCHES.queue);
        let most = self.spans("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", report).unwrap_or(DEFAULT_BATCHES.most);
        let mut time = |name: &str, default: Duration| {
            let number = self.get(name).and_then(|set| self.number(set, report));
            number.filter(|number| *number > 0).map_or(default, Duration::from_millis)
        };
        let delay = time("OTEL_BSP_SCHEDULE_DELAY", DEFAULT_BATCHES.delay);
        let export_timeout = time("OTEL_BSP_EXPORT_TIMEOUT", DEFAULT_BATCHES.export_timeout);
        SpanBatches { queue, most: most.min(queue), delay, export_timeout }
    }

    fn spans(&self, name: &str, report: &mut Report) -> Option<usize> {
        let number: usize = self.get(name).and_then(|set| self.number(set, report))?;
        if !(1..=MOST_SPANS).contains(&number) {
            let message = format!("is not between 1 and {MOST_SPANS}; the default is taken");
            self.warn(name, &message, "", report);
            return None;
        }
        Some(number)
    }

    fn number<T: FromStr>(&self, set: Set<'_>, report: &mut Report) -> Option<T> {
        let number = set.value.parse().ok();
        if number.is_none() {
            self.warn(&set.name, "is not a whole number; the default is taken", "", report);
        }
        number
    }

    /// Warns of what the library passes over. `samples`: the file says what is recorded.
    fn check_the_rest(&self, samples: bool, report: &mut Report) {
        for (name, why) in WITHOUT_EFFECT {
            if self.get(name).is_some() {
                self.warn(name, "has no effect", why, report);
            }
        }
        if !samples {
            self.check_sampler(report);
        }
        if let Some(set) = self.otlp("COMPRESSION")
            && !["gzip", "none"].iter().any(|word| set.value.eq_ignore_ascii_case(word))
        {
            self.warn(&set.name, "is neither gzip nor none; nothing is compressed", "", report);
        }
        if let Some(set) =
            self.get("OTEL_TRACES_EXPORTER").filter(|set| !set.value.eq_ignore_ascii_case("otlp"))
        {
            self.warn(&set.name, "is neither otlp nor none; otlp is taken", "", report);
        }
        self.check_headers(report);
    }

    fn check_sampler(&self, report: &mut Report) {
        let Some(Set { name, value }) = self.get("OTEL_TRACES_SAMPLER") else { return };
        match value {
            "always_on" | "always_off" | "parentbased_always_on" | "parentbased_always_off" => {}
            "traceidratio" | "parentbased_traceidratio" => {
                let share =
                    self.variables.get("OTEL_TRACES_SAMPLER_ARG").and_then(|arg| arg.parse::<f64>().ok());
                if !share.is_some_and(|share| (0.0..=1.0).contains(&share)) {
                    self.warn(
                        "OTEL_TRACES_SAMPLER_ARG",
                        "is not a share from 0.0 to 1.0",
                        "set 0.1, for example",
                        report,
                    );
                }
            }
            _ => {
                let hint =
                    "set always_on, always_off, traceidratio, or one of them with parentbased_ before it";
                self.warn(
                    &name,
                    "is not a sampler that bearerd has, so every new trace is recorded",
                    hint,
                    report,
                );
            }
        }
    }

    /// The values are secret, and so may be a wrongly written name.
    fn check_headers(&self, report: &mut Report) {
        let Some(Set { name, value }) = self.otlp("HEADERS") else { return };
        let is_header = |entry: &str| {
            entry.split_once('=').is_some_and(|(name, value)| {
                HeaderName::from_str(name.trim()).is_ok()
                    && !value.trim().is_empty()
                    && HeaderValue::from_str(value.trim()).is_ok()
            })
        };
        let entries = value.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        let bad = entries.filter(|entry| !is_header(entry)).count();
        if bad > 0 {
            let message = format!("{bad} of its entries can't be sent as a header");
            self.warn(&name, &message, "write NAME=VALUE,NAME=VALUE, the values percent-encoded", report);
        }
    }
}
