use std::cell::Cell;
use std::io::{Read, Write};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

use serde_json::{Value, json};

use super::*;

const PLAIN: Look = Look { colours: false, prefix: "" };

struct Capture(Sender<Vec<u8>>);

impl Write for Capture {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let _ = self.0.send(bytes.to_vec());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

struct Captured {
    control: LogControl,
    written: Receiver<Vec<u8>>,
}

impl Captured {
    fn text(&self) -> String {
        assert!(self.control.flush(Duration::from_secs(10)));
        String::from_utf8(self.written.try_iter().flatten().collect()).unwrap()
    }

    fn json(&self) -> Vec<Value> {
        self.text().lines().map(|line| serde_json::from_str(line).expect(line)).collect()
    }
}

fn log(format: LogFormat, level: &str) -> Log {
    Log { format, level: crate::config::log_filter(level).unwrap(), access: true }
}

/// What `f` logs goes to the returned log.
fn logging(overrides: Overrides, log: &Log, f: impl FnOnce(&LogControl)) -> Captured {
    let (sender, written) = channel();
    let (subscriber, control) = build(overrides, log, Capture(sender), PLAIN).unwrap();
    tracing::subscriber::with_default(subscriber, || f(&control));
    Captured { control, written }
}

/// The line without its timestamp, whose form is checked.
fn without_time(line: &str) -> &str {
    let (time, rest) = line.split_once(' ').unwrap();
    assert_eq!(time.len(), "2026-01-01T00:00:00.000000Z".len(), "{line}");
    assert!(humantime::parse_rfc3339(time).is_ok(), "{line}");
    rest
}

#[test]
fn a_text_line_is_time_level_target_message_fields() {
    let out = logging(Overrides::default(), &log(LogFormat::Text, "info"), |_| {
        tracing::info!(target: ACCESS_TARGET, event = "access", status = 200, path = "/a b", route = "billing", "call");
    });
    assert_eq!(
        without_time(&out.text()),
        " INFO bearerd::access: call status=200 path=\"/a b\" route=billing\n"
    );
}

#[test]
fn a_json_line_is_one_flat_object() {
    let out = logging(Overrides::default(), &log(LogFormat::Json, "info"), |_| {
        let error = std::io::Error::other("gone");
        tracing::warn!(
            target: "bearerd::token", event = "token.tried", status = 200_u64, ok = true, share = 0.5, level = "x",
            nan = f64::NAN, error = &error as &dyn std::error::Error, issuer = %"corp", "said {}", "this"
        );
        tracing::info!(target: "t", event = "theirs", only = "fields");
    });
    let start = r#","target":"bearerd::token","event":"token.tried","message""#;
    let text = out.text();
    assert!(text.contains(start), "{text}");
    let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let time = lines[0].as_object_mut().unwrap().remove("timestamp").unwrap();
    assert!(humantime::parse_rfc3339(time.as_str().unwrap()).is_ok());
    assert_eq!(
        lines[0],
        json!({"level": "WARN", "target": "bearerd::token", "event": "token.tried", "message": "said this", "status": 200, "ok": true,
               "share": 0.5, "field_level": "x", "nan": "NaN", "error": "gone", "issuer": "corp"})
    );
    assert_eq!(lines[1]["message"], "");
    assert_eq!(lines[1]["only"], "fields");
    assert_eq!(lines[1]["field_event"], "theirs", "a library's line has no name");
    assert!(lines[1].get("event").is_none());
}

/// Catalogue C-5: whatever a caller puts into a value, it cannot make a line or move the terminal.
#[test]
fn c5_values_cannot_inject() {
    let evil = "/\x1b[2J\n{\"fake\":1}\u{9b}31m\u{202e}\u{2028}\r\t\x7f";
    for format in [LogFormat::Text, LogFormat::Json] {
        let out = logging(Overrides::default(), &log(format, "info"), |_| {
            tracing::info!(path = evil, shown = %evil, debugged = ?evil, "message {evil}");
        });
        let text = out.text();
        assert_eq!(text.matches('\n').count(), 1, "{text:?}");
        assert!(text.ends_with('\n'));
        let line = text.trim_end_matches('\n');
        let bad = |c: char| c.is_control() || "\u{202e}\u{2028}".contains(c);
        assert!(!line.contains(bad), "{line:?}");
    }
    let out = logging(Overrides::default(), &log(LogFormat::Json, "info"), |_| tracing::info!(path = evil));
    assert_eq!(out.json()[0]["path"], evil, "JSON gives the value back whole");
}

#[test]
fn a_value_cannot_pass_for_another_field() {
    let out = logging(Overrides::default(), &log(LogFormat::Text, "info"), |_| {
        tracing::info!(agent = "x status=200", quote = "a\"b", empty = "", "m");
    });
    assert!(out.text().ends_with("m agent=\"x status=200\" quote=\"a\\\"b\" empty=\"\"\n"));
}

#[test]
fn level_and_format_change_while_running() {
    let out = logging(Overrides::default(), &log(LogFormat::Text, "info"), |control| {
        let lines = || {
            tracing::debug!(target: "reload", "quiet");
            tracing::info!(target: "reload", "loud");
        };
        lines();
        control.apply(&log(LogFormat::Json, "debug"));
        lines();
        control.apply(&log(LogFormat::Json, "reload=off,info"));
        lines();
        control.apply(&log(LogFormat::Text, "info"));
        tracing::info!(target: "kept", "text again");
    });
    let text = out.text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(without_time(lines[0]), " INFO reload: loud");
    assert!(lines[1].starts_with('{') && lines[1].contains("\"quiet\""), "{text}");
    assert!(lines[2].starts_with('{') && lines[2].contains("\"loud\""), "{text}");
    assert_eq!(without_time(lines[3]), " INFO kept: text again");
    assert_eq!(lines.len(), 4, "{text}");
}

#[test]
fn overrides_go_before_the_file_and_outlive_a_reload() {
    let level = Some(crate::config::log_filter("warn").unwrap());
    let overrides = Overrides { format: Some(LogFormat::Json), level };
    let out = logging(overrides, &log(LogFormat::Text, "trace"), |control| {
        tracing::info!("no");
        control.apply(&log(LogFormat::Text, "trace"));
        tracing::info!("no");
        tracing::warn!("yes");
    });
    assert_eq!(out.json().len(), 1);
}

#[test]
fn access_lines_can_be_switched_alone() {
    let out = logging(Overrides::default(), &log(LogFormat::Text, "info,bearerd::access=off"), |_| {
        tracing::info!(target: ACCESS_TARGET, "call");
        tracing::info!(target: "bearerd::token", "fetched");
    });
    assert_eq!(without_time(&out.text()), " INFO bearerd::token: fetched\n");
}

#[test]
fn a_level_that_is_off_costs_nothing() {
    let evaluated = Cell::new(false);
    let out = logging(Overrides::default(), &log(LogFormat::Text, "warn"), |_| {
        tracing::info!(
            value = {
                evaluated.set(true);
                1
            },
            "off"
        );
        assert!(!tracing::enabled!(Level::INFO));
    });
    assert!(!evaluated.get());
    assert_eq!(out.text(), "");
}

/// Catalogue T102: a pipe that nobody reads stops no one; what is lost is counted and told of.
#[test]
fn t102_a_blocked_pipe_stops_nobody() {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let (subscriber, control) =
        build(Overrides::default(), &log(LogFormat::Text, "info"), writer, PLAIN).unwrap();
    let began = Instant::now();
    tracing::subscriber::with_default(subscriber, || {
        // The pipe takes 64 KiB and the queue 4 MiB: most of these have nowhere to go.
        for number in 0..50_000 {
            tracing::info!(number, "call");
        }
    });
    assert!(!control.flush(Duration::from_millis(50)), "nothing can be written");
    assert!(began.elapsed() < Duration::from_secs(20), "logging waited for the pipe");
    let dropped = control.lines.dropped_counter().load(Ordering::Relaxed);
    let kept = 50_000 - usize::try_from(dropped).unwrap();
    assert!(kept * 64 < WAITING + 256 * 1024, "{kept} lines wait");

    let read = std::thread::spawn(move || {
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        text
    });
    assert!(control.flush(Duration::from_secs(20)));
    drop(control);
    let text = read.join().unwrap();
    let told: u64 = text
        .lines()
        .filter(|line| line.contains("log lines dropped"))
        .map(|line| line.split_whitespace().find_map(|word| word.parse::<u64>().ok()).unwrap())
        .sum();
    assert_eq!(told, dropped);
    let calls = text.lines().filter(|line| line.contains(": call number=")).count();
    assert_eq!(calls as u64 + dropped, 50_000);
}

#[test]
fn what_was_logged_last_is_written_at_the_end() {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let (subscriber, control) =
        build(Overrides::default(), &log(LogFormat::Text, "info"), writer, PLAIN).unwrap();
    tracing::subscriber::with_default(subscriber, || tracing::info!("the last words"));
    drop(control);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert!(text.contains("the last words"));
}

#[test]
fn what_is_too_long_is_cut_with_a_mark() {
    let long = "x".repeat(64 * 1024);
    let escaped = "\u{202e}".repeat(8 * 1024);
    let wide = "é".repeat(8 * 1024);
    for format in [LogFormat::Text, LogFormat::Json] {
        let out = logging(Overrides::default(), &log(format, "info"), |_| {
            tracing::info!(path = long, "call");
            tracing::info!(a = escaped, b = wide, shown = %long, debugged = ?long, c = long, d = long, e = long, last = 7, "{long}");
        });
        let text = out.text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2);
        assert!(lines[0].len() < 5 * 1024, "{}", lines[0].len());
        assert!(lines[1].len() < 17 * 1024, "{}", lines[1].len());
        assert!(lines[0].contains("xxx…"), "{text}");
        if format == LogFormat::Json {
            let [first, second] = lines[..] else { unreachable!() };
            let value: Value = serde_json::from_str(first).unwrap();
            assert_eq!(value["path"], format!("{}…", "x".repeat(4 * 1024)));
            let value: Value = serde_json::from_str(second).unwrap();
            assert_eq!(
                value["a"],
                format!("{}…", "\u{202e}".repeat(4 * 1024 / 6)),
                "no escape is cut in two"
            );
            assert_eq!(value["b"], format!("{}…", "é".repeat(2 * 1024)), "no letter is cut in two");
            assert_eq!((&value["e"], &value["last"]), (&json!("…"), &json!(7)), "what is short is kept");
        }
    }
}

#[test]
fn what_just_fits_is_not_cut() {
    let fits = "x".repeat(4 * 1024);
    let out = logging(Overrides::default(), &log(LogFormat::Json, "info"), |_| tracing::info!(fits, "call"));
    assert_eq!(out.json()[0]["fits"], fits);
}

#[test]
fn is_due_once_a_minute_and_counts_what_came_between() {
    let repeated = Repeated::default();
    let due = |seconds| repeated.due(Duration::from_secs(seconds));
    assert_eq!(due(1_000), Some(0), "at once");
    assert_eq!([due(1_000), due(1_030), due(1_059)], [None; 3]);
    assert_eq!([due(1_060), due(1_060), due(1_061)], [Some(3), None, None]);
    assert_eq!(due(9_000), Some(2));
    assert_eq!(due(9_060), Some(0));
}

#[test]
fn is_said_once_however_many_threads_want_to_say_it() {
    let repeated = Repeated::default();
    let said = std::thread::scope(|scope| {
        let say = || (0..1_000).filter_map(|_| repeated.due(Duration::from_secs(7))).count();
        #[expect(clippy::needless_collect, reason = "all threads start before one is waited for")]
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(say)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>()
    });
    assert_eq!(said, 1);
    assert_eq!(repeated.due(Duration::from_secs(67)), Some(3_999));
}
