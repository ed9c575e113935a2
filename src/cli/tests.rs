use clap::{CommandFactory, Parser};

use super::*;

fn exit_of(words: &[&str]) -> Exit {
    let words = std::iter::once("bearerd").chain(words.iter().copied()).map(OsString::from);
    match Args::try_parse_from(words) {
        Ok(args) => dispatch(args, &[]).unwrap_or_else(|failure| failure.exit),
        Err(error) => clap_exit(&error),
    }
}

fn parsed(words: &[&str]) -> Args {
    Args::try_parse_from(std::iter::once("bearerd").chain(words.iter().copied())).unwrap()
}

#[test]
fn the_definition_of_the_command_holds_together() {
    Args::command().debug_assert();
}

#[test]
fn the_default_verb_is_run() {
    assert!(parsed(&[]).verb.is_none());
    assert!(matches!(parsed(&["run"]).verb, Some(Verb::Run)));
}

#[test]
fn options_for_all_verbs_stand_before_or_after_them() {
    for words in [["--config", "x.toml", "check"], ["check", "--config", "x.toml"]] {
        assert_eq!(parsed(&words).common.config, Some("x.toml".into()));
    }
}

#[test]
fn bad_usage_is_64() {
    for words in [
        &["chek"][..],
        &["--frobnicate"],
        &["explain", "GET"],
        &["check", "--output", "yaml"],
        &["demo", "--config", "x.toml"],
        &["init", "keycloak", "okta"],
        &["check", "--no-guess"],
        &["token", "corp", "--decode", "--xoauth2", "user@example.com"],
        &["token", "corp", "--xoauth2", "user\u{1}x"],
    ] {
        assert_eq!(exit_of(words), Exit::Usage, "{words:?}");
    }
}

#[test]
fn help_and_version_are_answers_everywhere() {
    for words in [&["--help"][..], &["--version"], &["token", "--help"], &["check", "--version"]] {
        assert_eq!(exit_of(words), Exit::Fine, "{words:?}");
    }
}

#[test]
fn a_mistyped_verb_gets_a_suggestion() {
    let error = Args::try_parse_from(["bearerd", "chek"]).unwrap_err();
    assert!(error.to_string().contains("'check'"), "{error}");
}

#[test]
fn exit_codes_are_those_of_the_interface() {
    let codes = [Exit::Fine, Exit::No, Exit::Usage, Exit::Address, Exit::Config].map(|exit| exit as u8);
    assert_eq!(codes, [0, 1, 64, 69, 78]);
}

#[test]
fn text_from_elsewhere_cannot_steer_a_terminal() {
    assert_eq!(output::harmless("a\u{1b}[2Jb\u{9b}\r\n"), "a\\u{1b}[2Jb\\u{9b}\\u{d}\n");
}

#[test]
fn names_are_suggested() {
    let names = || ["corp", "legacy"].into_iter();
    assert_eq!(output::suggestion("crop", names()), "did you mean `corp`?");
    assert_eq!(output::suggestion("zzzzzz", names()), "there are: corp, legacy");
}

#[test]
fn headers_are_written_as_for_curl() {
    let args = parsed(&["explain", "GET", "/x", "-H", "x-tenant: acme", "-H", "x-time:10:30"]);
    let Some(Verb::Explain { headers, .. }) = args.verb else { panic!("another verb") };
    let wanted = [("x-tenant", "acme"), ("x-time", "10:30")];
    assert_eq!(headers, wanted.map(|(name, value)| (name.to_owned(), value.to_owned())));
    assert_eq!(exit_of(&["explain", "GET", "/x", "-H", "x-tenant"]), Exit::Usage);
}
