//! One event as one line. Whatever a caller or an issuer managed to get into a value, it stays one line of plain
//! characters: control characters, and those that reorder text, are escaped in both formats.

use std::error::Error;
use std::fmt::{self, Write as _};

use tracing::field::{Field, Visit};
use tracing::{Event, Level};

use crate::clock::{Clock as _, SystemClock};
use crate::config::LogFormat;

/// Whether text lines may hold terminal colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    Plain,
    Colour,
}

/// The field that names what a line of ours is about.
const EVENT: &str = "event";

/// Whether the target is one of this program's modules.
fn is_ours(target: &str) -> bool {
    target.strip_prefix("bearerd").is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// Most lines fit, so that a line is one allocation.
const USUAL_LINE: usize = 384;

/// The whole line with its end; `fill` gives the fields.
pub(super) fn line(
    format: LogFormat,
    style: Style,
    level: Level,
    target: &str,
    fill: impl FnOnce(&mut Fields),
) -> String {
    let mut fields = Fields {
        out: String::with_capacity(USUAL_LINE),
        value: String::new(),
        format,
        message: false,
        ours: is_ours(target),
    };
    let timestamp = humantime::format_rfc3339_micros(SystemClock.wall());
    // Writing to a string does not fail.
    let _ = match format {
        LogFormat::Text => {
            let (on, off) = colours(style, level);
            write!(fields.out, "{timestamp} {on}{level:>5}{off} {target}:")
        }
        LogFormat::Json => {
            write!(fields.out, r#"{{"timestamp":"{timestamp}","level":"{level}","target":"{target}""#)
        }
    };
    fill(&mut fields);
    if format == LogFormat::Json {
        if !fields.message {
            fields.out.push_str(r#","message":"""#);
        }
        fields.out.push('}');
    }
    fields.out.push('\n');
    fields.out
}

fn colours(style: Style, level: Level) -> (&'static str, &'static str) {
    if style == Style::Plain {
        return ("", "");
    }
    let on = match level {
        Level::ERROR => "\x1b[31m",
        Level::WARN => "\x1b[33m",
        Level::INFO => "\x1b[32m",
        Level::DEBUG => "\x1b[34m",
        Level::TRACE => "\x1b[35m",
    };
    (on, "\x1b[0m")
}

/// Takes the fields of one event.
pub(super) struct Fields {
    out: String,
    /// The value being written, kept for its memory.
    value: String,
    format: LogFormat,
    /// A message was seen.
    message: bool,
    /// The line is one of this program's, so that a field `event` is its name; a library may mean anything by it.
    ours: bool,
}

impl Fields {
    /// The line's name, and then its fields: `tracing` gives the message first, whatever stands where in the source.
    pub(super) fn record(&mut self, event: &Event<'_>) {
        if self.ours && self.format == LogFormat::Json {
            event.record(&mut Name(self));
        }
        event.record(self);
    }

    /// The stable name of what happened. It is for programs: text lines, whose message says it, do without.
    pub(super) fn name(&mut self, name: &str) {
        if self.format == LogFormat::Json {
            let _ = write!(self.out, r#","{EVENT}":"{name}""#);
        }
    }

    /// A field whose value is text.
    pub(super) fn text(&mut self, name: &str, value: &str) {
        if self.ours && name == EVENT {
            return;
        }
        self.message |= name == "message";
        match self.format {
            LogFormat::Json => {
                self.json_name(name);
                self.out.push('"');
                escape_json(&mut self.out, value);
                self.out.push('"');
            }
            LogFormat::Text if name == "message" => {
                self.out.push(' ');
                escape_text(&mut self.out, value, false);
            }
            LogFormat::Text => {
                self.text_name(name);
                if is_plain(value) {
                    self.out.push_str(value);
                } else {
                    self.out.push('"');
                    escape_text(&mut self.out, value, true);
                    self.out.push('"');
                }
            }
        }
    }

    /// A field whose value needs no quotes in either format.
    fn bare(&mut self, name: &str, value: fmt::Arguments<'_>) {
        if name == "message" {
            return self.formatted(name, value);
        }
        match self.format {
            LogFormat::Json => self.json_name(name),
            LogFormat::Text => self.text_name(name),
        }
        let _ = self.out.write_fmt(value);
    }

    fn formatted(&mut self, name: &str, value: fmt::Arguments<'_>) {
        let mut text = std::mem::take(&mut self.value);
        text.clear();
        let _ = text.write_fmt(value);
        self.text(name, &text);
        self.value = text;
    }

    fn json_name(&mut self, name: &str) {
        // A second `level` in one object is read differently by every parser.
        let prefix = if matches!(name, "timestamp" | "level" | "target" | "event") { "field_" } else { "" };
        self.out.push_str(",\"");
        self.out.push_str(prefix);
        escape_json(&mut self.out, name.trim_start_matches("r#"));
        self.out.push_str("\":");
    }

    fn text_name(&mut self, name: &str) {
        self.out.push(' ');
        self.out.push_str(name.trim_start_matches("r#"));
        self.out.push('=');
    }
}

/// Looks for the name of a line and for nothing else.
struct Name<'a>(&'a mut Fields);

impl Visit for Name<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == EVENT {
            self.0.name(value);
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field.name(), value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.formatted(field.name(), format_args!("{value:?}"));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        let mut text = value.to_string();
        let mut source = value.source();
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            // Many errors quote their source already.
            if !text.contains(&cause_text) {
                let _ = write!(text, ": {cause_text}");
            }
            source = cause.source();
        }
        self.text(field.name(), &text);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.bare(field.name(), format_args!("{value}"));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.bare(field.name(), format_args!("{value}"));
    }

    fn record_u128(&mut self, field: &Field, value: u128) {
        self.bare(field.name(), format_args!("{value}"));
    }

    fn record_i128(&mut self, field: &Field, value: i128) {
        self.bare(field.name(), format_args!("{value}"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.bare(field.name(), format_args!("{value}"));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        if value.is_finite() {
            self.bare(field.name(), format_args!("{value}"));
        } else {
            // JSON has no number for these.
            self.formatted(field.name(), format_args!("{value}"));
        }
    }
}

/// Whether a value can stand in a text line without quotes.
fn is_plain(value: &str) -> bool {
    !value.is_empty()
        && value.chars().all(|c| !is_hostile(c) && !c.is_whitespace() && !matches!(c, '"' | '=' | '\\'))
}

/// Control characters (C0, DEL, C1), line and paragraph separators, and what reorders text.
fn is_hostile(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

fn escape_text(out: &mut String, value: &str, quoted: bool) {
    for c in value.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '"' | '\\' if quoted => out.extend(['\\', c]),
            c if is_hostile(c) => {
                let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
            }
            c => out.push(c),
        }
    }
}

/// RFC 8259 section 7, and beyond it all that [`is_hostile`] names: a terminal shows JSON lines too.
fn escape_json(out: &mut String, value: &str) {
    for c in value.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if is_hostile(c) => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
}
