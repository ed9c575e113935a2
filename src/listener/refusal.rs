//! What hyper's parser refuses: said in the log, and counted.

use std::error::Error as _;

use crate::clock::{Clock, SystemClock};
use crate::metrics::ListenerMetrics;
use crate::proxy::Peer;
use crate::telemetry::Repeated;

/// hyper's own words, which are all that it tells; the reason, a label of a metric; and what is wrong.
const REASONS: [(&str, &str, &str); 10] = [
    ("invalid HTTP header parsed", "syntax", "the request line or a field is malformed"),
    ("invalid HTTP method parsed", "method", "the method is malformed"),
    ("invalid URI", "target", "the target is malformed"),
    ("URI too long", "target_too_long", "the target is too long"),
    ("invalid HTTP version parsed", "version", "it is not HTTP/1.1 or HTTP/1.0"),
    ("invalid HTTP version parsed (found HTTP2 preface)", "http2", "it is HTTP/2, which is not spoken here"),
    ("invalid content-length parsed", "content_length", "Content-Length is malformed or contradicts itself"),
    (
        "invalid transfer-encoding parsed",
        "transfer_encoding",
        "Transfer-Encoding does not end in chunked, or says more than once that it does",
    ),
    ("unexpected transfer-encoding parsed", "transfer_encoding", "HTTP/1.0 knows no Transfer-Encoding"),
    ("message head is too large", "head_too_large", "the head is too large or has too many fields"),
];

/// The reason and the words, where this is a refusal of the parser.
fn refusal(error: &hyper::Error) -> Option<(&'static str, &'static str)> {
    if !error.is_parse() {
        return None;
    }
    let said = error.to_string();
    let known = REASONS.iter().find(|(hypers, ..)| *hypers == said);
    Some(known.map_or(("other", "it is malformed"), |(_, reason, words)| (reason, words)))
}

/// Logs and counts a refusal of the parser, to which hyper has answered 400, 414 or 431, or over HTTP/2 with the end of the
/// connection; whether it was one.
pub(super) fn tell(listener: &str, peer: Peer, metrics: &ListenerMetrics, error: &hyper::Error) -> bool {
    let Some((reason, words)) = refusal(error).or_else(|| of_http2(error)) else { return false };
    note(listener, peer, metrics, reason, words);
    true
}

/// The head of a request over HTTP/2 has too many fields, which hyper does not count there.
pub(super) fn tell_too_many_fields(listener: &str, peer: Peer, metrics: &ListenerMetrics) {
    note(listener, peer, metrics, "head_too_large", "the head has too many fields");
}

/// A connection that was ended here because the caller broke the rules of HTTP/2.
fn of_http2(error: &hyper::Error) -> Option<(&'static str, &'static str)> {
    let broken = error.source()?.downcast_ref::<h2::Error>()?;
    let ours = broken.is_library() && broken.is_go_away();
    ours.then_some(("http2_protocol", "it breaks the rules of HTTP/2, and its connection is ended"))
}

fn note(listener: &str, peer: Peer, metrics: &ListenerMetrics, reason: &'static str, words: &str) {
    metrics.refused(reason);
    tracing::info!(
        event = "caller.request_refused",
        listener,
        ?peer,
        reason,
        "refused what is not a request: {words}"
    );
}

/// Logs once a minute, and counts, that a caller spoke TLS to a listener without.
pub(super) fn tell_tls(listener: &str, peer: Peer, metrics: &ListenerMetrics, complaints: &Repeated) {
    metrics.refused("tls");
    if let Some(more) = complaints.due(SystemClock.boot()) {
        let more = (more > 0).then_some(more);
        tracing::warn!(
            event = "caller.tls_on_plain_listener",
            listener,
            ?peer,
            more,
            "a caller speaks TLS to a listener without TLS: its URL must begin with http://, or give [listener.{listener}] tls"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http::{Request, Response};
    use http_body_util::Empty;
    use hyper::body::{Bytes, Incoming};
    use hyper::server::conn::http1;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use tokio::io::AsyncWriteExt;

    use super::*;

    async fn refused(request: &str) -> Option<(&'static str, &'static str)> {
        let (mut caller, server) = tokio::io::duplex(256 * 1024);
        caller.write_all(request.as_bytes()).await.unwrap();
        caller.shutdown().await.unwrap();
        let service = service_fn(|_: Request<Incoming>| async {
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        });
        let connection =
            http1::Builder::new().max_buf_size(16 * 1024).serve_connection(TokioIo::new(server), service);
        connection.await.err().and_then(|error| refusal(&error))
    }

    /// hyper tells kinds of parser errors apart in its words alone, so that these are held here.
    #[tokio::test]
    async fn each_kind_has_its_reason() {
        let long = "x".repeat(70_000);
        for (request, reason) in [
            ("GET / HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(), None),
            ("\u{16}\u{3}\u{1}\u{2}\r\n\r\n".to_owned(), Some("method")),
            ("GET / HTTP/1.1\r\nx y: a\r\n\r\n".to_owned(), Some("syntax")),
            ("GET http:/// HTTP/1.1\r\n\r\n".to_owned(), Some("target")),
            ("GET / HTTP/3.0\r\n\r\n".to_owned(), Some("version")),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), Some("http2")),
            ("POST / HTTP/1.1\r\ncontent-length: x\r\n\r\n".to_owned(), Some("content_length")),
            (
                "POST / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n".to_owned(),
                Some("content_length"),
            ),
            ("POST / HTTP/1.1\r\ntransfer-encoding: gzip\r\n\r\n".to_owned(), Some("transfer_encoding")),
            ("POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n".to_owned(), Some("transfer_encoding")),
            (format!("GET / HTTP/1.1\r\nx: {long}\r\n\r\n"), Some("head_too_large")),
            (format!("GET / HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(200)), Some("head_too_large")),
        ] {
            let found = refused(&request).await.map(|(reason, _)| reason);
            assert_eq!(found, reason, "{:?}", &request[..request.len().min(60)]);
        }
    }
}
