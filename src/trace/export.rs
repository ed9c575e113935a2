//! From the queue to the collector, in batches.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use super::Span;
use super::client::Client;
use super::message;
use crate::config::Tracing;
use crate::metrics::Metrics;

/// How long spans are gathered before they are sent.
const DELAY: Duration = Duration::from_secs(1);
/// The most spans in one request.
const BATCH: usize = 512;
/// A collector that is gone is told of once in so long.
const BETWEEN_WARNINGS: Duration = Duration::from_secs(60);

/// Why a batch is complete.
#[derive(PartialEq)]
enum Cut {
    Due,
    Flush,
    /// The tracer is gone.
    Over,
}

/// Sends what is queued until the tracer is gone.
pub(super) async fn run(
    config: Arc<Tracing>,
    mut queue: mpsc::Receiver<Span>,
    mut flushes: mpsc::UnboundedReceiver<oneshot::Sender<()>>,
    mut losses: Losses,
) {
    let mut client = Client::new(Arc::clone(&config));
    loop {
        let mut waiting = Vec::new();
        let (mut batch, mut cut) = gather(&mut queue, &mut flushes, &mut waiting).await;
        loop {
            losses.tell_dropped();
            let count = batch.len() as u64;
            if count > 0
                && let Err(why) = client.send(message::encode(&config.service_name, batch)).await
            {
                losses.not_sent(count, &why);
            }
            // Before a flush is answered, or the end: everything that is queued already.
            batch = Vec::new();
            while batch.len() < BATCH && cut != Cut::Due {
                match queue.try_recv() {
                    Ok(span) => batch.push(span),
                    Err(_) => break,
                }
            }
            if batch.is_empty() {
                break;
            }
        }
        for done in waiting {
            // Whoever asked may have left.
            let _ = done.send(());
        }
        if std::mem::replace(&mut cut, Cut::Due) == Cut::Over {
            return;
        }
    }
}

/// Waits for spans, and from the first one on for more.
async fn gather(
    queue: &mut mpsc::Receiver<Span>,
    flushes: &mut mpsc::UnboundedReceiver<oneshot::Sender<()>>,
    waiting: &mut Vec<oneshot::Sender<()>>,
) -> (Vec<Span>, Cut) {
    let mut batch = Vec::new();
    let mut due: Option<Instant> = None;
    loop {
        let delay = async {
            match due {
                Some(due) => sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            span = queue.recv() => match span {
                None => return (batch, Cut::Over),
                Some(span) => {
                    due.get_or_insert_with(|| Instant::now() + DELAY);
                    batch.push(span);
                    if batch.len() >= BATCH {
                        return (batch, Cut::Due);
                    }
                }
            },
            Some(done) = flushes.recv() => {
                waiting.push(done);
                return (batch, Cut::Flush);
            }
            () = delay => return (batch, Cut::Due),
        }
    }
}

/// What got lost, and what of it was not told yet.
pub(super) struct Losses {
    /// Spans that found no room in the queue; whoever had them has counted them.
    dropped: Arc<AtomicU64>,
    metrics: Arc<Metrics>,
    untold: u64,
    told: Option<Instant>,
}

impl Losses {
    pub(super) fn new(dropped: Arc<AtomicU64>, metrics: Arc<Metrics>) -> Self {
        Self { dropped, metrics, untold: 0, told: None }
    }

    fn tell_dropped(&mut self) {
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        self.tell(dropped, "they came faster than the collector takes them");
    }

    fn not_sent(&mut self, spans: u64, why: &str) {
        self.metrics.spans_lost(spans);
        self.tell(spans, why);
    }

    fn tell(&mut self, spans: u64, why: &str) {
        self.untold += spans;
        let recently = self.told.is_some_and(|told| told.elapsed() < BETWEEN_WARNINGS);
        if spans == 0 || recently {
            return;
        }
        self.told = Some(Instant::now());
        let spans = std::mem::take(&mut self.untold);
        tracing::warn!(
            event = "tracing.spans_lost",
            spans,
            why,
            "spans did not reach the collector; calls are not affected"
        );
    }
}
