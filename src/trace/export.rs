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
    dropped: Arc<AtomicU64>,
) {
    let mut client = Client::new(Arc::clone(&config));
    let mut trouble = Trouble::default();
    loop {
        let mut waiting = Vec::new();
        let (mut batch, mut cut) = gather(&mut queue, &mut flushes, &mut waiting).await;
        loop {
            let lost = dropped.swap(0, Ordering::Relaxed);
            trouble.lost(lost, "they came faster than the collector takes them");
            let count = batch.len() as u64;
            if count > 0
                && let Err(why) = client.send(message::encode(&config.service_name, batch)).await
            {
                trouble.lost(count, &why);
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

/// What got lost since it was last told.
#[derive(Default)]
struct Trouble {
    spans: u64,
    told: Option<Instant>,
}

impl Trouble {
    fn lost(&mut self, spans: u64, why: &str) {
        self.spans += spans;
        let recently = self.told.is_some_and(|told| told.elapsed() < BETWEEN_WARNINGS);
        if spans == 0 || recently {
            return;
        }
        self.told = Some(Instant::now());
        let spans = std::mem::take(&mut self.spans);
        tracing::warn!(
            event = "tracing.spans_lost",
            spans,
            why,
            "spans did not reach the collector; calls are not affected"
        );
    }
}
