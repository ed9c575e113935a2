//! What the library hears from a collector and tells its own log alone: spans that the collector rejected (OTLP's partial
//! success).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tracing::field::{Field, Visit};
use tracing::{Dispatch, Event, Metadata, Subscriber};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::registry;

/// Counts what the library logs to [`Rejected::log`]. The collector's words go nowhere.
#[derive(Clone)]
pub(super) struct Rejected {
    spans: Arc<AtomicU64>,
    log: Dispatch,
}

impl Rejected {
    pub(super) fn new() -> Self {
        let spans = Arc::<AtomicU64>::default();
        let listener = Listener(Arc::clone(&spans)).with_filter(filter_fn(tells_of_it));
        Self { spans, log: Dispatch::new(registry().with(listener)) }
    }

    /// What the library logs to while it sends.
    pub(super) fn log(&self) -> Dispatch {
        self.log.clone()
    }

    /// How many since this was asked last.
    pub(super) fn take(&self) -> u64 {
        self.spans.swap(0, Ordering::Relaxed)
    }
}

fn tells_of_it(metadata: &Metadata<'_>) -> bool {
    metadata.target() == "opentelemetry-otlp" && metadata.name().ends_with(".PartialSuccess")
}

struct Listener(Arc<AtomicU64>);

impl<S: Subscriber> Layer<S> for Listener {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        event.record(&mut Count(&self.0));
    }
}

struct Count<'a>(&'a AtomicU64);

impl Visit for Count<'_> {
    fn record_i64(&mut self, field: &Field, value: i64) {
        if field.name() == "rejected_spans" {
            self.0.fetch_add(value.try_into().unwrap_or(0), Ordering::Relaxed);
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
}
