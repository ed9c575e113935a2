//! A connection to an upstream, opened as the proxy opens it. No request is sent.

use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::time::Instant;

use super::plan::Planned;
use super::report::{TlsReport, UpstreamReport, ms};
use super::{Bounds, keys, out_of_time};
use crate::net::{Connected, Connector, Facts, tls_cause};

/// With TLS 1.3 a server refuses our certificate, or misses it, only after the handshake: so long is listened for that.
const REFUSAL: std::ops::RangeInclusive<Duration> = Duration::from_millis(200)..=Duration::from_secs(1);

pub(super) async fn connect(planned: Planned, bounds: Bounds) -> UpstreamReport {
    let connector =
        Connector::to_upstream(&planned.target, &planned.connection, planned.connection.protocol.into());
    let started = Instant::now();
    let outcome = bounds.hold(connector.connect()).await;
    let took = started.elapsed();
    let mut report = UpstreamReport {
        upstream: planned.upstream,
        routes: planned.routes,
        ok: false,
        address: None,
        protocol: None,
        ms: None,
        tls: None,
        error: None,
    };
    let mut connected = match outcome {
        Some(Ok(connected)) => connected,
        Some(Err(error)) => return UpstreamReport { error: Some(error.message), ..report },
        None => return UpstreamReport { error: Some(out_of_time()), ..report },
    };
    let facts = connected.stream.facts();
    let refused = match facts.tls {
        Some(_) => refusal(&mut connected, &connector, took).await,
        None => None,
    };
    report.ok = refused.is_none();
    report.error = refused;
    report.address = facts.address.map(|address| address.to_string());
    report.protocol = Some(if connected.http2 { "h2" } else { "http/1.1" });
    report.ms = Some(ms(took));
    report.tls = tls(&facts, bounds);
    report
}

pub(super) fn tls(facts: &Facts, bounds: Bounds) -> Option<TlsReport> {
    let ends = facts.certificate.as_deref().and_then(|der| keys::end_of(der, bounds.now));
    Some(TlsReport { version: facts.tls?.to_owned(), ends })
}

/// What the server says to our certificate. One that wants to answer needs as long as the connection took.
async fn refusal(connected: &mut Connected, connector: &Connector, took: Duration) -> Option<String> {
    let mut byte = [0; 1];
    let patience = took.clamp(*REFUSAL.start(), *REFUSAL.end());
    let read = tokio::time::timeout(patience, connected.stream.read(&mut byte)).await;
    match read {
        Ok(Err(error)) => tls_cause(&error, connector.who()).map(|cause| cause.message),
        // It speaks first (HTTP/2 does), has closed, or waits for a request.
        Ok(Ok(_)) | Err(_) => None,
    }
}
