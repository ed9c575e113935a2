//! Where the command writes, and how. Text for people is wrapped to the terminal's width and colored on a terminal, and
//! nothing in it steers the terminal. A reader that has left (`bearerd schema | head`) is not a failure.

use std::io::{IsTerminal, Write};
use std::os::fd::AsFd;

use anstyle::{AnsiColor, Style};
use textwrap::{Options, WordSeparator, WordSplitter};

use crate::config;

/// Prints a result that may be piped, to stdout, with a line end. Its lines stay as they are.
pub(super) fn answer(text: &str) {
    answer_bytes(text.trim_end_matches('\n').as_bytes());
}

/// Prints a result for people to stdout: wrapped, and colored if wanted.
pub(super) fn answer_people(text: &str) {
    let text = wrapped(text.trim_end_matches('\n'), width(&std::io::stdout()));
    let mut stdout = anstream::stdout().lock();
    let _ = writeln!(stdout, "{}", paint(&text)).and_then(|()| stdout.flush());
}

/// Prints a result of which no copy may be made, to stdout, with a line end.
pub(super) fn answer_bytes(bytes: &[u8]) {
    answer_parts(&[bytes]);
}

/// Prints a result in parts, one after the other.
pub(super) fn answer_parts(parts: &[&[u8]]) {
    let mut stdout = std::io::stdout().lock();
    let _ = parts
        .iter()
        .chain([&b"\n"[..]].iter())
        .try_for_each(|part| stdout.write_all(part))
        .and_then(|()| stdout.flush());
}

/// Prints a result for a program to stdout.
pub(super) fn answer_json(value: &serde_json::Value) {
    answer(&harmless_json(&format!("{value:#}")));
}

/// Prints a result for a program to stdout, on one line.
pub(super) fn answer_json_line(value: &serde_json::Value) {
    answer(&harmless_json(&value.to_string()));
}

/// The same JSON, escaped so that nothing steers a terminal. Outside of strings, JSON has no such characters.
fn harmless_json(json: &str) -> String {
    let mut harmless = String::with_capacity(json.len());
    for character in json.chars() {
        if character != '\n' && steers(character) {
            harmless.push_str(&format!("\\u{:04x}", u32::from(character)));
        } else {
            harmless.push(character);
        }
    }
    harmless
}

/// Prints anything else to stderr, with a line end: wrapped, and colored if wanted.
pub(super) fn tell(text: &str) {
    let text = wrapped(text.trim_end_matches('\n'), width(&std::io::stderr()));
    let mut stderr = anstream::stderr().lock();
    let _ = writeln!(stderr, "{}", paint(&text));
}

/// Prints what clap says: help to stdout, an error to stderr. clap sometimes omits the last line end.
pub(super) fn usage(error: &clap::Error) {
    let text = error.render().ansi().to_string();
    let text = text.trim_end_matches('\n');
    // If stdout or stderr is closed, nothing can be reported.
    let _ = if error.use_stderr() {
        writeln!(anstream::stderr().lock(), "{text}")
    } else {
        writeln!(anstream::stdout().lock(), "{text}")
    };
}

/// Escapes text from elsewhere so that it cannot steer a terminal: control characters except line ends and tabs, and
/// characters that reorder or hide text.
pub(super) fn harmless(text: &str) -> String {
    let mut harmless = String::with_capacity(text.len());
    for character in text.chars() {
        if steers(character) && !matches!(character, '\n' | '\t') {
            harmless.extend(character.escape_unicode());
        } else {
            harmless.push(character);
        }
    }
    harmless
}

fn steers(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
}

/// `did you mean …?`, or the known names.
pub(super) fn suggestion<'a>(written: &str, names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    match config::nearest(written, names.iter().copied()) {
        Some(name) => format!("did you mean `{name}`?"),
        None if names.is_empty() => "there are none in the config".to_owned(),
        None => format!("there are: {}", names.join(", ")),
    }
}

/// The width if the terminal does not know its own.
const USUAL_WIDTH: usize = 80;
/// A narrower terminal gets lines of this width: label and text need some room.
const LEAST_WIDTH: usize = 40;
/// The longest label that the continued lines of its text are indented for.
const LONGEST_LABEL: usize = 30;

/// How wide the lines to this stream may be: `$COLUMNS`, else the width of the terminal. `None`: the stream is not a
/// terminal. A line of a file or a pipe stays whole, so that programs such as grep find a message in it.
fn width(stream: &(impl AsFd + IsTerminal)) -> Option<usize> {
    let columns = std::env::var_os("COLUMNS").and_then(|columns| columns.to_str()?.parse().ok());
    let of_terminal = || {
        let size = terminal_size::terminal_size_of(stream);
        stream.is_terminal().then(|| size.map_or(USUAL_WIDTH, |(width, _)| usize::from(width.0)))
    };
    columns.filter(|columns| *columns > 0).or_else(of_terminal)
}

/// Breaks lines that are too long at spaces. A word that is longer than a line stays whole, because it is a URL or a path.
fn wrapped(text: &str, width: Option<usize>) -> String {
    let Some(width) = width else { return text.to_owned() };
    let width = width.max(LEAST_WIDTH);
    let lines = text.split('\n').map(|line| {
        if textwrap::core::display_width(line) <= width || is_verbatim(line) {
            return line.to_owned();
        }
        let indent = " ".repeat(continuation_column(line));
        let options = Options::new(width)
            .subsequent_indent(&indent)
            .word_separator(WordSeparator::AsciiSpace)
            .word_splitter(WordSplitter::NoHyphenation)
            .break_words(false);
        textwrap::fill(line, options)
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Whether a line is JSON or quotes a file: a line break would change it.
fn is_verbatim(line: &str) -> bool {
    line.trim_start().starts_with(['"', '{', '}', '[', ']']) && !is_check(line)
        || source(line).is_some_and(|_| !line.starts_with("  help:"))
}

/// `[-] token of issuer corp: …`
fn is_check(line: &str) -> bool {
    ["[-] ", "[+] ", "[!] "].iter().any(|mark| line.starts_with(mark))
}

/// The column where the continuation of a line starts: below its text, which may come after a label.
fn continuation_column(line: &str) -> usize {
    let rest = line.trim_start();
    let indent = line.len() - rest.len();
    if let Some(at) = rest.find("  ").filter(|at| *at <= LONGEST_LABEL) {
        let label = rest.get(..at).unwrap_or_default();
        let gap = rest.len() - label.len() - rest.get(at..).unwrap_or_default().trim_start().len();
        return indent + textwrap::core::display_width(label) + gap;
    }
    let mark = ["help: ", "[-] ", "[+] ", "[!] "].into_iter().find(|mark| rest.starts_with(mark));
    match mark {
        Some(mark) => indent + mark.len(),
        // Below the place of a problem.
        None if line.contains(": error: ") || line.contains(": warning: ") => 4,
        None => indent,
    }
}

const BAD: Style = AnsiColor::Red.on_default().bold();
const CARE: Style = AnsiColor::Yellow.on_default().bold();
const GOOD: Style = AnsiColor::Green.on_default().bold();
const HELP: Style = AnsiColor::Cyan.on_default();
const PLACE: Style = Style::new().bold();
const ASIDE: Style = Style::new().dimmed();

/// The label column of reports.
const LABELS: &[(&str, Style)] = &[
    ("error", BAD),
    ("no token", BAD),
    ("not asked", ASIDE),
    ("warning", CARE),
    ("note", CARE),
    ("nearest", CARE),
    ("try", HELP),
];

/// Colors finished text line by line, so that the text without its colors stays the same. Text from elsewhere must be
/// [`harmless`] before.
fn paint(text: &str) -> String {
    text.split_inclusive('\n').map(painted).collect()
}

fn painted(line: &str) -> String {
    let end = line.len() - line.trim_end_matches('\n').len();
    let (text, end) = line.split_at(line.len() - end);
    problem(text)
        .or_else(|| source(text))
        .or_else(|| labelled(text))
        .or_else(|| verdict(text))
        .map_or_else(|| line.to_owned(), |painted| format!("{painted}{end}"))
}

fn styled(style: Style, text: &str) -> String {
    format!("{style}{text}{style:#}")
}

/// `bearerd.toml:12:3: error: …`, and `bearerd: …` of a verb that failed.
fn problem(line: &str) -> Option<String> {
    if let Some(rest) = line.strip_prefix("bearerd: warning: ") {
        return Some(format!("{} {rest}", styled(CARE, "bearerd: warning:")));
    }
    if let Some(rest) = line.strip_prefix("bearerd: ") {
        return Some(format!("{} {rest}", styled(BAD, "bearerd:")));
    }
    if line.starts_with(' ') {
        return None;
    }
    let found = |severity: &'static str, style| {
        let (place, rest) = line.split_once(severity)?;
        place
            .ends_with(':')
            .then(|| format!("{} {}{rest}", styled(PLACE, place), styled(style, severity.trim_start())))
    };
    found(" error:", BAD).or_else(|| found(" warning:", CARE))
}

/// The line of the file, the carets below it, and the hint.
fn source(line: &str) -> Option<String> {
    if let Some(hint) = line.strip_prefix("  help: ") {
        return Some(format!("  {} {hint}", styled(HELP, "help:")));
    }
    let (number, text) = line.split_once(" | ")?;
    if !number.starts_with("  ") || !number.trim().chars().all(|char| char.is_ascii_digit()) {
        return None;
    }
    let carets = number.trim().is_empty() && text.chars().all(|char| matches!(char, '^' | ' ' | '\t'));
    let text = if carets { styled(BAD, text) } else { text.to_owned() };
    Some(format!("{}{text}", styled(ASIDE, &format!("{number} | "))))
}

/// `  label        value`.
fn labelled(line: &str) -> Option<String> {
    let text = line.strip_prefix("  ").filter(|text| !text.starts_with(' '))?;
    let (label, value) = text.split_once("  ")?;
    let style = LABELS.iter().find(|(known, _)| *known == label).map_or(ASIDE, |(_, style)| *style);
    Some(format!("  {}  {value}", styled(style, label)))
}

/// Lines that say how it went.
fn verdict(line: &str) -> Option<String> {
    let of = |word: &str, style| {
        line.strip_suffix(word)
            .filter(|rest| rest.ends_with(": "))
            .map(|rest| format!("{rest}{}", styled(style, word)))
    };
    let start =
        |word: &str, style| line.strip_prefix(word).map(|rest| format!("{}{rest}", styled(style, word)));
    of("ok", GOOD)
        .or_else(|| of("FAILED", BAD))
        .or_else(|| start("ok: ", GOOD))
        .or_else(|| start("failed: ", BAD))
        .or_else(|| start("not ready", BAD))
        .or_else(|| start("no response", BAD))
        .or_else(|| error_count(line))
        .or_else(|| (line == "ready").then(|| styled(GOOD, line)))
        .or_else(|| route(line))
}

/// `bearerd.toml: 3 errors`.
fn error_count(line: &str) -> Option<String> {
    let (place, count) = line.rsplit_once(": ")?;
    let number = count.strip_suffix(" errors").or_else(|| count.strip_suffix(" error"))?;
    number.parse::<usize>().ok()?;
    Some(format!("{place}: {}", styled(BAD, count)))
}

/// The first line of an explanation.
fn route(line: &str) -> Option<String> {
    for (words, style) in [("no route serves it", BAD), (" serves it", GOOD)] {
        if let Some((head, tail)) = line.rsplit_once(": ")
            && (tail.starts_with(words) || tail.starts_with("route `") && tail.ends_with(words))
        {
            return Some(format!("{}: {}", styled(PLACE, head), styled(style, tail)));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_continue_below_their_text() {
        let text = "  why            path: prefix `/billing`, 1 segment, and more words that do not fit here\n\
                    b.toml:1:2: error: workers: expected a whole number, found a string of many words\n  \
                    help: write a number of threads, such as 4, and not a word for one of them\n\
                    https://idp.example.com/realms/acme/protocol/openid-connect/token\n  \
                    12 | a = \"a line of a file is never broken, however long it may be in the end\"";
        assert_eq!(
            wrapped(text, Some(50)),
            "  why            path: prefix `/billing`, 1\n                 segment, and more words that do\n                 \
             not fit here\nb.toml:1:2: error: workers: expected a whole\n    number, found a string of many words\n  \
             help: write a number of threads, such as 4, and\n        not a word for one of them\n\
             https://idp.example.com/realms/acme/protocol/openid-connect/token\n  \
             12 | a = \"a line of a file is never broken, however long it may be in the end\""
        );
        assert_eq!(wrapped(text, None), text);
    }

    #[test]
    fn text_from_elsewhere_cannot_steer_a_terminal() {
        assert_eq!(harmless("a\u{1b}[2J\n\tb\u{9b}\u{202e}c"), "a\\u{1b}[2J\n\tb\\u{9b}\\u{202e}c");
        let value = serde_json::json!({ "a": "é\u{9b}31m\u{7f}\u{202e}\u{1b}" });
        let shown = harmless_json(&format!("{value:#}"));
        assert_eq!(shown, "{\n  \"a\": \"é\\u009b31m\\u007f\\u202e\\u001b\"\n}");
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&shown).unwrap(),
            value,
            "the value is the same"
        );
    }

    const TEXT: &str = "\
/etc/bearerd.toml:12:3: error: route[0].isuer: unknown key
  12 | isuer = \"corp\"
     | ^^^^^
  help: did you mean `issuer`?
bearerd.toml: warning: late
issuer corp: ok
issuer shop: FAILED
  error        HTTP 401: error: no
  asked        idp.example/token, error: | none
GET /x: route `api` serves it
GET /y: no route serves it, 404 `no_route`
  why            a
ok: 1 issuer
failed: 1 of 2 issuers
bearerd.toml: 3 errors
ready
plain words | and more
bearerd: no config file
";

    #[test]
    fn without_its_colours_the_text_is_the_same() {
        let painted = paint(TEXT);
        assert_ne!(painted, TEXT);
        assert_eq!(anstream::adapter::strip_str(&painted).to_string(), TEXT);
        assert_eq!(paint(""), "");
        assert_eq!(paint("no line end"), "no line end");
    }

    #[test]
    fn what_is_bad_is_red_and_what_is_good_is_green() {
        let painted = paint(TEXT);
        let line = |of: &str| painted.lines().find(|line| line.contains(of)).unwrap().to_owned();
        for red in
            ["unknown key", "^^^^^", "HTTP 401", "no_route", "failed", "no config file", "FAILED", "3 errors"]
        {
            assert!(
                line(red).contains("\u{1b}[31m") || line(red).contains("\u{1b}[1m\u{1b}[31m"),
                "{red}: {:?}",
                line(red)
            );
        }
        for green in ["issuer corp", "`api`", "1 issuer", "ready"] {
            assert!(line(green).contains("\u{1b}[32m"), "{green}: {:?}", line(green));
        }
        assert!(line("late").contains("\u{1b}[33m"));
        assert_eq!(line("plain words"), "plain words | and more");
    }
}
