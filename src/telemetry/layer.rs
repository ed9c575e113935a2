//! Between `tracing` and the lines: one layer whose filter and format can be swapped.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

use super::format::{self, Style};
use super::writer::Lines;
use crate::config::LogFormat;

/// What a reload may change.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) filter: EnvFilter,
    pub(super) format: LogFormat,
}

/// What the layer and its control share.
#[derive(Debug)]
pub(super) struct Shared {
    settings: ArcSwap<Settings>,
    style: Style,
}

impl Shared {
    pub(super) fn new(settings: Settings, style: Style) -> Self {
        Self { settings: ArcSwap::from_pointee(settings), style }
    }

    pub(super) fn replace(&self, settings: Settings) {
        self.settings.store(Arc::new(settings));
        // Each callsite remembers whether the old filter wanted it.
        tracing_core::callsite::rebuild_interest_cache();
    }

    /// The line that tells of lines that are missing.
    pub(super) fn dropped_notice(&self, dropped: u64) -> String {
        let message = format!("{dropped} log lines dropped, because stderr did not take them");
        let format = self.settings.load().format;
        format::line(format, self.style, Level::WARN, "bearerd::telemetry", |fields| {
            fields.name("log.lines_dropped");
            fields.text("message", &message);
        })
    }
}

/// HTTP/2's own library logs what peers say (a refused path with its query, the words of a GOAWAY): nobody can vouch for
/// what is in that, so no filter lets it out.
fn may_be_logged(metadata: &Metadata<'_>) -> bool {
    let target = metadata.target();
    *metadata.level() <= Level::WARN || !(target == "h2" || target.starts_with("h2::"))
}

/// The one layer: [`EnvFilter`] behind a swap (its own reload wrapper locks), and the lines.
pub(super) struct Output {
    shared: Arc<Shared>,
    lines: Lines,
}

impl Output {
    pub(super) fn new(shared: Arc<Shared>, lines: Lines) -> Self {
        Self { shared, lines }
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Output {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if !may_be_logged(metadata) {
            return Interest::never();
        }
        Layer::<S>::register_callsite(&self.shared.settings.load().filter, metadata)
    }

    fn enabled(&self, metadata: &Metadata<'_>, context: Context<'_, S>) -> bool {
        may_be_logged(metadata) && self.shared.settings.load().filter.enabled(metadata, context)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        self.shared.settings.load().filter.max_level_hint()
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let format = self.shared.settings.load().format;
        let metadata = event.metadata();
        let line = format::line(format, self.shared.style, *metadata.level(), metadata.target(), |fields| {
            fields.record(event);
        });
        self.lines.write(line);
    }

    // What follows only feeds filters that name spans.

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        self.shared.settings.load().filter.on_new_span(attributes, id, context);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        self.shared.settings.load().filter.on_record(id, values, context);
    }

    fn on_enter(&self, id: &Id, context: Context<'_, S>) {
        self.shared.settings.load().filter.on_enter(id, context);
    }

    fn on_exit(&self, id: &Id, context: Context<'_, S>) {
        self.shared.settings.load().filter.on_exit(id, context);
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        self.shared.settings.load().filter.on_close(id, context);
    }
}
