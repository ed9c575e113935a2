//! Between `tracing` and the lines: a subscriber whose filter and format can be swapped.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_core::LevelFilter;

use super::format::{self, Style};
use super::writer::Lines;
use crate::config::{LogFilter, LogFormat};

/// What a reload may change.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) filter: LogFilter,
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

/// What `tracing` talks to: a filter that can be swapped, and the lines. There are no spans.
pub(super) struct Output {
    shared: Arc<Shared>,
    lines: Lines,
}

impl Output {
    pub(super) fn new(shared: Arc<Shared>, lines: Lines) -> Self {
        Self { shared, lines }
    }
}

impl Subscriber for Output {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        // What a callsite remembers is asked anew when the filter changes.
        if self.enabled(metadata) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        may_be_logged(metadata) && self.shared.settings.load().filter.lets_out(metadata)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.shared.settings.load().filter.finest())
    }

    fn event(&self, event: &Event<'_>) {
        let format = self.shared.settings.load().format;
        let metadata = event.metadata();
        let line = format::line(format, self.shared.style, *metadata.level(), metadata.target(), |fields| {
            fields.record(event);
        });
        self.lines.write(line);
    }

    // No span is enabled, so that none is made.

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
