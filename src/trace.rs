//! Traces: spans for requests, attempts, waits and token requests, sent to an OpenTelemetry collector over OTLP.
//!
//! A [`Tracer`] is there where the config has `[tracing]`, and only then does a request carry anything for it. Spans go into
//! a bounded queue without waiting, and a task on the control thread sends them off: a collector that is slow or gone
//! costs spans, never calls.

mod client;
mod context;
mod export;
mod message;
mod span;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use http::HeaderMap;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use crate::clock::{Clock as _, SystemClock};
use crate::config::Tracing;
use crate::metrics::Metrics;
pub use context::{Context, TRACEPARENT, TRACESTATE};
pub use span::{Attribute, Span, SpanKind};

/// Spans that wait to be sent; more than these are dropped.
const QUEUE: usize = 4096;

/// The tracer in force, or none; a reload exchanges it.
pub type TracerCell = ArcSwapOption<Tracer>;

/// Makes spans and takes them when they have ended.
pub struct Tracer {
    config: Arc<Tracing>,
    spans: mpsc::Sender<Span>,
    flush: mpsc::UnboundedSender<oneshot::Sender<()>>,
    dropped: Arc<AtomicU64>,
    metrics: Arc<Metrics>,
}

impl Tracer {
    /// Its spans are sent by a task on `control`, which ends once the tracer is gone and its last spans were sent.
    pub fn start(config: &Arc<Tracing>, control: &Handle, metrics: &Arc<Metrics>) -> Arc<Self> {
        let (spans, queued) = mpsc::channel(QUEUE);
        let (flush, flushes) = mpsc::unbounded_channel();
        let dropped = Arc::new(AtomicU64::new(0));
        let losses = export::Losses::new(Arc::clone(&dropped), Arc::clone(metrics));
        control.spawn(export::run(Arc::clone(config), queued, flushes, losses));
        Arc::new(Self { config: Arc::clone(config), spans, flush, dropped, metrics: Arc::clone(metrics) })
    }

    /// What it was made from.
    pub fn config(&self) -> &Arc<Tracing> {
        &self.config
    }

    /// The context of a request's own span, below what the caller sent (W3C Trace Context), and that span's parent. Takes
    /// what cannot be read out of the headers.
    pub fn join(&self, headers: &mut HeaderMap) -> (Context, Option<[u8; 8]>) {
        match Context::take_from(headers) {
            Some(parent) => (parent.child(), Some(parent.span_id)),
            None => (self.root(), None),
        }
    }

    /// A new trace, sampled or not.
    pub fn root(&self) -> Context {
        Context::root(self.config.sample)
    }

    /// Hands over a span that has ended. Never waits.
    pub fn end(&self, span: Span) {
        if self.spans.try_send(span).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            self.metrics.spans_lost(1);
        }
    }

    /// Waits until what ended so far was sent, at most `limit`.
    pub async fn flush(&self, limit: Duration) {
        let (done, ended) = oneshot::channel();
        if self.flush.send(done).is_ok() {
            // Whatever was not sent by then is lost with the process.
            let _ = tokio::time::timeout(limit, ended).await;
        }
    }
}

impl std::fmt::Debug for Tracer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tracer").field("endpoint", &self.config.endpoint.text).finish_non_exhaustive()
    }
}

/// The time of day, for the ends of spans.
pub fn now() -> SystemTime {
    SystemClock.wall()
}
