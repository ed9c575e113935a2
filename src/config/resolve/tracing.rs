//! `[tracing]`, and what the environment adds to it.

use super::super::document::Place;
use super::super::environment::OtelVariables;
use super::super::model::{HttpUrl, OtlpProtocol, Tracing};
use super::super::raw::RawTracing;
use super::super::raw::keys::{Plaintext, check};
use super::super::report::Report;
use super::super::types::{self, url};
use super::otel::Otel;
use super::peer;
use super::value::headers;

/// Where collectors take traces over HTTP (OTLP specification).
pub(super) const TRACES_PATH: &str = "/v1/traces";

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
    let tls = peer::tls(&place.key("tls"), raw.tls, report);
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
        report.error(&place.key("sample"), "is no share", "0.0 records nothing, 1.0 everything");
    }
    if service_name.is_some_and(|name| name.is_empty() || name.chars().any(char::is_control)) {
        report.error(&place.key("service_name"), "is no name", "service_name = \"bearerd\"");
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
        let wrong =
            types::wrong("the URL has a query", "leave it out; use `headers` for what the collector wants");
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
    let message =
        format!("http:// to another machine ({}): everybody on the way can read the spans", url.host);
    if allowed {
        report.warning(&at, message, "use https:// where the collector has it");
    } else {
        report.error(&at, message, "write \"https://…\", or accept it with plaintext = \"allow\"");
    }
}
