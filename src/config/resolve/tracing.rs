//! `[tracing]`.

use super::super::document::Place;
use super::super::model::{HttpUrl, Tracing};
use super::super::raw::RawTracing;
use super::super::raw::keys::{Plaintext, Word, check};
use super::super::report::Report;
use super::super::types::{self, url};
use super::peer;
use super::value::headers;

/// Where collectors take traces over HTTP (OTLP specification).
const TRACES_PATH: &str = "/v1/traces";

/// `None`: there is no endpoint, or an error.
pub(super) fn resolve(place: &Place<'_>, raw: RawTracing, report: &mut Report) -> Option<Tracing> {
    let RawTracing { endpoint, service_name, sample, headers: written, timeout, plaintext, tls } = raw;
    let url = endpoint.and_then(|text| endpoint_of(place, &text, report));
    check_plaintext(place, url.as_ref(), plaintext, report);
    let sample = sample.unwrap_or(RawTracing::SAMPLE);
    if !(0.0..=1.0).contains(&sample) {
        report.error(&place.key("sample"), "is no share", "0.0 records nothing, 1.0 everything");
    }
    let service_name = service_name.unwrap_or_else(|| RawTracing::SERVICE_NAME.to_owned());
    if service_name.is_empty() || service_name.chars().any(char::is_control) {
        report.error(&place.key("service_name"), "is no name", "service_name = \"bearerd\"");
    }
    let headers = headers(&place.key("headers"), written, report);
    let timeout = timeout.timeout(place, "timeout", report);
    let tls = peer::tls(&place.key("tls"), tls, report);
    Some(Tracing { endpoint: url?, service_name, sample, headers, timeout, tls })
}

fn endpoint_of(place: &Place<'_>, text: &str, report: &mut Report) -> Option<HttpUrl> {
    let place = place.key("endpoint");
    let mut url = check(&place, url::http_url(text), report)?;
    if url.path_and_query.contains('?') {
        let wrong =
            types::wrong("the URL has a query", "leave it out; use `headers` for what the collector wants");
        return check(&place, Err(wrong), report);
    }
    if url.path_and_query == "/" {
        TRACES_PATH.clone_into(&mut url.path_and_query);
    }
    Some(url)
}

fn check_plaintext(place: &Place<'_>, url: Option<&HttpUrl>, written: Word<Plaintext>, report: &mut Report) {
    let allowed = written.read(place, "plaintext", report) == Plaintext::Allow;
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
