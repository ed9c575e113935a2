//! Formats one event as one line. Whatever a caller or an issuer put into a value, the result is one line of plain characters
//! and bounded length: both formats escape control characters and those that reorder text, and cut what is too long.

use std::error::Error;
use std::fmt::{self, Write};
use std::sync::Arc;

use arc_swap::ArcSwap;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::registry::LookupSpan;

use super::Settings;
use crate::config::LogFormat;

/// The field that names the event of bearerd's own lines.
const EVENT: &str = "event";

/// The most bytes of one value in a line.
const VALUE_BYTES: usize = 4 * 1024;
/// The most bytes of all values of a line together.
const LINE_BYTES: usize = 16 * 1024;
/// Marks the end of a value that was cut.
const CUT: char = '…';

/// The current format of lines.
#[derive(Clone)]
pub(super) struct OneLine {
    pub(super) settings: Arc<ArcSwap<Settings>>,
    pub(super) look: Look,
}

/// What text lines look like.
#[derive(Debug, Clone, Copy)]
pub(super) struct Look {
    /// Whether they may have terminal colours.
    pub(super) colours: bool,
    /// How each begins.
    pub(super) prefix: &'static str,
}

impl<S, N> FormatEvent<S, N> for OneLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let metadata = event.metadata();
        self.line(out, *metadata.level(), metadata.target(), |fields| fields.event(event))
    }
}

impl OneLine {
    /// The line that reports missing lines.
    pub(super) fn lines_dropped(&self, dropped: u64) -> String {
        let mut line = String::new();
        // Writing to a string does not fail.
        let _ = self.line(Writer::new(&mut line), Level::WARN, "bearerd::telemetry", |fields| {
            fields.name("log.lines_dropped");
            fields.text(
                "message",
                format_args!("{dropped} log lines dropped, because stderr did not take them"),
            );
        });
        line
    }

    /// The whole line with its line end. `fill` adds the fields.
    fn line(
        &self,
        mut out: Writer<'_>,
        level: Level,
        target: &str,
        fill: impl FnOnce(&mut Fields<'_>),
    ) -> fmt::Result {
        let json = self.settings.load().format == LogFormat::Json;
        if json {
            out.write_str(r#"{"timestamp":""#)?;
            SystemTime.format_time(&mut out)?;
            write!(out, r#"","level":"{level}","target":"{target}""#)?;
        } else {
            out.write_str(self.look.prefix)?;
            SystemTime.format_time(&mut out)?;
            let (on, off) = if self.look.colours { (colour(level), "\x1b[0m") } else { ("", "") };
            write!(out, " {on}{level:>5}{off} {target}:")?;
        }
        let ours = target == "bearerd" || target.starts_with("bearerd::");
        let mut fields = Fields { out: &mut out, json, ours, message: false, left: LINE_BYTES };
        fill(&mut fields);
        match (json, fields.message) {
            (true, true) => out.write_str("}\n"),
            (true, false) => out.write_str(",\"message\":\"\"}\n"),
            (false, _) => out.write_str("\n"),
        }
    }
}

fn colour(level: Level) -> &'static str {
    match level {
        Level::ERROR => "\x1b[31m",
        Level::WARN => "\x1b[33m",
        Level::INFO => "\x1b[32m",
        Level::DEBUG => "\x1b[34m",
        Level::TRACE => "\x1b[35m",
    }
}

/// Writes the fields of one event.
struct Fields<'a> {
    /// The layer's buffer. Writing to it does not fail.
    out: &'a mut dyn Write,
    json: bool,
    /// Whether the line is bearerd's own, so that the field `event` is its name. In a library's line it may mean anything.
    ours: bool,
    /// A message was seen.
    message: bool,
    /// The bytes that are left for values.
    left: usize,
}

impl Fields<'_> {
    /// Writes the line's name, then its fields. `tracing` gives the message first, wherever it is in the source.
    fn event(&mut self, event: &Event<'_>) {
        if self.ours && self.json {
            event.record(&mut Name(self));
        }
        event.record(self);
    }

    /// Writes the stable name of the event, for programs. Text lines omit it, because their message says the same.
    fn name(&mut self, name: &str) {
        if self.json {
            let _ = write!(self.out, r#","{EVENT}":"{name}""#);
        }
    }

    /// Writes a field whose value is text.
    fn text(&mut self, name: &str, value: fmt::Arguments<'_>) {
        if self.ours && name == EVENT {
            return;
        }
        let is_message = name == "message";
        self.message |= is_message;
        let most = self.left.min(VALUE_BYTES);
        let unused = if self.json {
            self.key(name);
            let _ = self.out.write_char('"');
            let unused = escape(self.out, most, true, value);
            let _ = self.out.write_char('"');
            unused
        } else if is_message {
            let _ = self.out.write_char(' ');
            escape(self.out, most, false, value)
        } else {
            let mut text = String::new();
            let unused = escape(&mut text, most, true, value);
            let quote = if is_plain(&text) { "" } else { "\"" };
            self.key(name);
            let _ = write!(self.out, "{quote}{text}{quote}");
            unused
        };
        self.left -= most - unused;
    }

    /// Writes a field whose value needs no quotes in either format.
    fn bare(&mut self, field: &Field, value: impl fmt::Display) {
        if field.name() == "message" {
            return self.text("message", format_args!("{value}"));
        }
        self.key(field.name());
        let _ = write!(self.out, "{value}");
    }

    fn key(&mut self, name: &str) {
        let name = name.trim_start_matches("r#");
        if !self.json {
            let _ = write!(self.out, " {name}=");
            return;
        }
        // Parsers disagree about a second `level` in one object.
        let prefix = if matches!(name, "timestamp" | "level" | "target" | EVENT) { "field_" } else { "" };
        let _ = write!(self.out, ",\"{prefix}");
        escape(self.out, VALUE_BYTES, true, format_args!("{name}"));
        let _ = self.out.write_str("\":");
    }
}

/// Finds the name of a line.
struct Name<'a, 'b>(&'a mut Fields<'b>);

impl Visit for Name<'_, '_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == EVENT {
            self.0.name(value);
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
}

impl Visit for Fields<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field.name(), format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.text(field.name(), format_args!("{value:?}"));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        let mut text = value.to_string();
        let mut source = value.source();
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            // Many errors quote their source already.
            if !text.contains(&cause_text) {
                text.push_str(": ");
                text.push_str(&cause_text);
            }
            source = cause.source();
        }
        self.record_str(field, &text);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.bare(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.bare(field, value);
    }

    fn record_u128(&mut self, field: &Field, value: u128) {
        self.bare(field, value);
    }

    fn record_i128(&mut self, field: &Field, value: i128) {
        self.bare(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.bare(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        if value.is_finite() {
            self.bare(field, value);
        } else {
            // JSON has no number for these.
            self.record_debug(field, &value);
        }
    }
}

/// Whether an escaped value needs no quotes in a text line.
fn is_plain(value: &str) -> bool {
    !value.is_empty() && !value.contains(|c: char| c.is_whitespace() || matches!(c, '"' | '=' | '\\'))
}

/// Control characters (C0, DEL, C1), line and paragraph separators, and characters that reorder text.
fn is_hostile(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// Writes the value with JSON's escapes (RFC 8259 section 7), and also escapes what [`is_hostile`] names, because terminals
/// show JSON lines too. Writes at most `most` bytes and a mark, and returns how many of them are left.
fn escape(out: &mut dyn Write, most: usize, quoted: bool, value: fmt::Arguments<'_>) -> usize {
    let mut escaped = Escaped { out, left: most, quoted };
    if escaped.write_fmt(value).is_err() {
        let _ = escaped.out.write_char(CUT);
    }
    escaped.left
}

struct Escaped<'a> {
    out: &'a mut dyn Write,
    left: usize,
    /// Quotes would end the value.
    quoted: bool,
}

impl Escaped<'_> {
    /// Fails if there is no room.
    fn put(&mut self, piece: &str) -> fmt::Result {
        self.left = self.left.checked_sub(piece.len()).ok_or(fmt::Error)?;
        self.out.write_str(piece)
    }

    /// Writes as much as there is room for.
    fn put_what_fits(&mut self, run: &str) -> fmt::Result {
        let end = (0..=run.len().min(self.left)).rev().find(|at| run.is_char_boundary(*at)).unwrap_or(0);
        let (fits, rest) = run.split_at(end);
        self.put(fits)?;
        if rest.is_empty() { Ok(()) } else { Err(fmt::Error) }
    }
}

impl Write for Escaped<'_> {
    fn write_str(&mut self, mut text: &str) -> fmt::Result {
        let quoted = self.quoted;
        let is_special = |c: char| is_hostile(c) || quoted && matches!(c, '"' | '\\');
        while let Some(at) = text.find(is_special) {
            let (run, rest) = text.split_at(at);
            self.put_what_fits(run)?;
            let mut rest = rest.chars();
            match rest.next() {
                Some('"') => self.put("\\\"")?,
                Some('\\') => self.put("\\\\")?,
                Some('\n') => self.put("\\n")?,
                Some('\r') => self.put("\\r")?,
                Some('\t') => self.put("\\t")?,
                Some(other) => self.put(&format!("\\u{:04x}", u32::from(other)))?,
                None => {}
            }
            text = rest.as_str();
        }
        self.put_what_fits(text)
    }
}
