//! The man pages are made from the command's own definition: `BLESS=1` writes them, and without it they are compared.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, roman};

use crate::tools::{installed, root, succeed};

/// Of the release: the day of a build would make other pages of the same words.
const DATE: &str = "2026-11-22";

fn folder() -> PathBuf {
    root().join("docs/man")
}

/// Each page's name and text.
fn pages() -> Vec<(String, String)> {
    let mut command = bearerd::cli::command().disable_help_subcommand(true);
    command.build();
    let verbs: Vec<clap::Command> = command
        .get_subcommands()
        .map(|verb| {
            // clap keeps names for as long as the program runs.
            let name: &'static str = format!("bearerd-{}", verb.get_name()).leak();
            // Its synopsis says `bearerd check`.
            let shown = format!("bearerd {}", verb.get_name());
            verb.clone().name(name).bin_name(shown).display_name(name)
        })
        .collect();
    let names: Vec<String> = verbs.iter().map(|verb| verb.get_name().to_owned()).collect();
    let mut pages = vec![page(&command, &names)];
    pages.extend(verbs.iter().map(|verb| page(verb, &["bearerd".to_owned()])));
    pages
}

fn page(command: &clap::Command, others: &[String]) -> (String, String) {
    let name = command.get_name().to_owned();
    let version = format!("bearerd {}", env!("CARGO_PKG_VERSION"));
    let man = Man::new(command.clone()).date(DATE).manual("bearerd").source(version);
    let mut text = Vec::new();
    man.render_title(&mut text).unwrap();
    man.render_name_section(&mut text).unwrap();
    man.render_synopsis_section(&mut text).unwrap();
    man.render_description_section(&mut text).unwrap();
    man.render_options_section(&mut text).unwrap();
    if name == "bearerd" {
        man.render_subcommands_section(&mut text).unwrap();
    }
    notes(command).to_writer(&mut text).unwrap();
    see_also(others).to_writer(&mut text).unwrap();
    let text = String::from_utf8(text).unwrap();
    (format!("{name}.1"), tidy(&text))
}

/// Without line breaks beside empty lines, which mean nothing, and blanks at line ends.
fn tidy(text: &str) -> String {
    let lines: Vec<&str> =
        text.lines().map(str::trim_end).map(|line| if line.is_empty() { ".sp" } else { line }).collect();
    let is =
        |at: Option<usize>, wanted: &str| at.and_then(|at| lines.get(at)).is_some_and(|line| *line == wanted);
    let kept = lines
        .iter()
        .enumerate()
        .filter(|(at, line)| **line != ".br" || !(is(at.checked_sub(1), ".sp") || is(Some(at + 1), ".sp")));
    kept.map(|(_, line)| format!("{line}\n")).collect()
}

/// What follows the options in the help, its lines as they are.
fn notes(command: &clap::Command) -> Roff {
    let mut roff = Roff::new();
    let Some(after) = command.get_after_help() else { return roff };
    let after = after.to_string();
    let (examples, rest) = after.split_once("\n\n").unwrap_or((&after, ""));
    let (_, examples) = examples.split_once('\n').unwrap_or(("", examples));
    roff.control("SH", ["EXAMPLES"]);
    roff.control("nf", []);
    for line in examples.lines() {
        roff.text([roman(line)]);
    }
    roff.control("fi", []);
    for paragraph in rest.split("\n\n").filter(|paragraph| !paragraph.is_empty()) {
        match paragraph.strip_prefix("Exit codes: ") {
            Some(codes) => roff.control("SH", ["EXIT STATUS"]).text([roman(codes.replace('\n', " "))]),
            None => roff.control("SH", ["NOTES"]).text([roman(paragraph.replace('\n', " "))]),
        };
    }
    roff
}

fn see_also(others: &[String]) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["SEE ALSO"]);
    let last = others.len() - 1;
    let one = |(place, name): (usize, &String)| -> [Inline; 2] {
        [bold(name.as_str()), roman(if place == last { "(1)" } else { "(1), " })]
    };
    roff.text(others.iter().enumerate().flat_map(one).collect::<Vec<_>>());
    roff
}

#[test]
fn man_pages_are_what_the_command_says() {
    let pages = pages();
    if std::env::var_os("BLESS").is_some() {
        fs::create_dir_all(folder()).unwrap();
        for (name, text) in &pages {
            fs::write(folder().join(name), text).unwrap();
        }
    }
    for (name, text) in &pages {
        let written = fs::read_to_string(folder().join(name)).unwrap_or_default();
        assert!(written == *text, "docs/man/{name} is not what the command says: run this test with BLESS=1");
    }
    let mut there: Vec<String> = fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let mut made: Vec<String> = pages.into_iter().map(|(name, _)| name).collect();
    there.sort();
    made.sort();
    assert_eq!(there, made);
}

#[test]
#[ignore = "needs mandoc"]
fn mandoc_finds_nothing_wrong_with_them() {
    let mandoc = installed("mandoc", "mandoc");
    for (name, _) in pages() {
        succeed(Command::new(&mandoc).args(["-T", "lint", "-W", "warning"]).arg(folder().join(name)));
    }
}

#[test]
#[ignore = "needs mandoc"]
fn they_read_as_pages_do() {
    let mandoc = installed("mandoc", "mandoc");
    let output = succeed(Command::new(mandoc).args(["-T", "ascii"]).arg(folder().join("bearerd-check.1")));
    // Overstruck letters are bold.
    let text = String::from_utf8(output.stdout).unwrap();
    let letters: Vec<char> = text.chars().collect();
    let plain: String = letters
        .iter()
        .enumerate()
        .filter(|(at, char)| **char != '\u{8}' && letters.get(at + 1) != Some(&'\u{8}'))
        .map(|(_, char)| char)
        .collect();
    for wanted in ["bearerd check", "--online", "EXIT STATUS", "jq '.problems[].message'", "bearerd(1)"] {
        assert!(plain.contains(wanted), "{wanted} in {plain}");
    }
}
