//! The queue of finished spans, and the task that sends them to the collector in batches.
//!
//! The library's own batch processors do not fit (`docs/decisions/0007-tracing.md`): one needs a thread for each tracer,
//! panics if the system refuses the thread, and does not report how many spans it lost. The other is experimental. Both
//! block the thread that drops the last span.

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

/// The other end of the queue, for the end of the process.
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

/// Starts the task that sends the queue's spans to `collector`. It ends once the queue is dropped and empty.
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

    /// The thread that drops the last span calls this. The task sends what is left.
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
    /// Waits up to `limit` until all finished spans are sent. Spans that are not sent by then are lost.
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

    /// Waits for a first span, then collects more until the batch is full or `delay` is over. An empty batch means that no
    /// more spans will come.
    async fn gather(&mut self) -> Vec<SpanData> {
        let (most, delay) = (self.batches.most, self.batches.delay);
        let mut batch = Vec::new();
        while batch.is_empty() && self.take(&mut batch).await {}
        let fill = async { while batch.len() < most && self.take(&mut batch).await {} };
        // The batch is what arrived within `delay`.
        let _ = tokio::time::timeout(delay, fill).await;
        batch
    }

    /// Returns whether more spans may come. Once the process ends, only the spans in the queue count.
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

/// Counts lost spans, and spans that may still be lost.
struct Losses {
    metrics: Arc<Metrics>,
    /// Spans that are not sent yet.
    waiting: AtomicU64,
    told: Repeated,
}

impl Losses {
    /// Counts lost spans, and logs them once a minute.
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
