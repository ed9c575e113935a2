//! From spans that have ended to the collector, in batches.
//!
//! The library's own batch processors will not do (`docs/decisions/0007-tracing.md`): one has a thread for each tracer,
//! panics if the system refuses the thread, and does not say how many spans it lost; the other is experimental. Both block
//! whoever drops the last span.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanProcessor};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::collector::Collector;
use crate::clock::{Clock as _, SystemClock};
use crate::config::SpanBatches;
use crate::metrics::Metrics;
use crate::telemetry::Repeated;

/// Takes spans from any thread; never waits.
pub(super) struct Queue {
    spans: mpsc::Sender<SpanData>,
    losses: Arc<Losses>,
}

/// The other end of the queue, for whoever ends the process.
pub(super) struct Sending {
    task: TaskTracker,
    end: CancellationToken,
    losses: Arc<Losses>,
}

struct Task {
    collector: Collector,
    batches: SpanBatches,
    queued: mpsc::Receiver<SpanData>,
    end: CancellationToken,
    losses: Arc<Losses>,
}

/// `collector` gets what comes into the queue, from a task that ends once the queue is dropped and empty.
pub(super) fn start(collector: Collector, batches: SpanBatches, metrics: &Arc<Metrics>) -> (Queue, Sending) {
    let (spans, queued) = mpsc::channel(batches.queue);
    let losses = Arc::new(Losses {
        metrics: Arc::clone(metrics),
        waiting: AtomicU64::new(0),
        told: Repeated::default(),
    });
    let sending =
        Sending { task: TaskTracker::new(), end: CancellationToken::new(), losses: Arc::clone(&losses) };
    let task = Task { collector, batches, queued, end: sending.end.clone(), losses: Arc::clone(&losses) };
    sending.task.spawn(task.run());
    sending.task.close();
    (Queue { spans, losses }, sending)
}

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if !span.span_context.is_sampled() {
            return;
        }
        self.losses.waiting.fetch_add(1, Ordering::Relaxed);
        if self.spans.try_send(span).is_err() {
            self.losses.waiting.fetch_sub(1, Ordering::Relaxed);
            self.losses.add(1, "they came faster than the collector takes them");
        }
    }

    /// [`Sending::finish`] does it.
    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    /// Called by whoever drops the last span: the task sends what is left.
    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").finish_non_exhaustive()
    }
}

impl Sending {
    /// Waits until what ended so far was sent, at most `limit`. What was not sent by then is lost with the process.
    pub(super) async fn finish(&self, limit: Duration) {
        self.end.cancel();
        let in_time = tokio::time::timeout(limit, self.task.wait()).await.is_ok();
        let left = self.losses.waiting.load(Ordering::Relaxed);
        if !in_time && left > 0 {
            self.losses.add(left, "the collector did not take them before the end of the process");
        }
    }
}

impl Task {
    async fn run(mut self) {
        loop {
            let batch = self.gather().await;
            if batch.is_empty() {
                return;
            }
            self.send(batch).await;
        }
    }

    /// Waits for spans, and from the first one on for more. None: there will be no more.
    async fn gather(&mut self) -> Vec<SpanData> {
        let (most, delay) = (self.batches.most, self.batches.delay);
        let mut batch = Vec::new();
        while batch.is_empty() && self.take(&mut batch).await {}
        let fill = async { while batch.len() < most && self.take(&mut batch).await {} };
        // What was taken by then is a batch.
        let _ = tokio::time::timeout(delay, fill).await;
        batch
    }

    /// Whether there may be more. At the end that is what is in the queue already.
    async fn take(&mut self, batch: &mut Vec<SpanData>) -> bool {
        let ends = self.end.is_cancelled();
        if ends {
            self.queued.close();
        }
        let room = self.batches.most - batch.len();
        tokio::select! {
            biased;
            taken = self.queued.recv_many(batch, room) => taken > 0,
            () = self.end.cancelled(), if !ends => true,
        }
    }

    async fn send(&self, batch: Vec<SpanData>) {
        let count = batch.len() as u64;
        let sent = self.collector.send(batch).await;
        self.losses.waiting.fetch_sub(count, Ordering::Relaxed);
        match sent {
            Ok(0) => {}
            Ok(rejected) => self.losses.add(rejected, "the collector rejected them"),
            Err(why) => self.losses.add(count, &why),
        }
    }
}

/// What got lost, and what still may.
struct Losses {
    metrics: Arc<Metrics>,
    /// Spans that were not sent yet.
    waiting: AtomicU64,
    told: Repeated,
}

impl Losses {
    /// Counts them, and tells of it once a minute.
    fn add(&self, spans: u64, why: &str) {
        self.metrics.spans_lost(spans);
        if let Some(others) = self.told.due_for(SystemClock.boot(), spans) {
            tracing::warn!(
                event = "tracing.spans_lost",
                spans = spans + others,
                why,
                "spans did not reach the collector; requests are not affected"
            );
        }
    }
}
