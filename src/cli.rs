//! The command: its verbs, and what each exit code means.
//!
//! Answers go to stdout, everything else to stderr, so that scripts can read the one and people the other.

mod args;
mod check;
mod completions;
mod demo;
pub mod explain;
mod healthcheck;
mod init;
mod jwt;
mod online;
mod output;
mod run;
mod style;
mod token;
mod xoauth2;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, FromArgMatches};

use crate::app;
use crate::config::{self, Config};
use crate::telemetry::{self, LogControl, Overrides};
use args::{Args, Color, Common, Output, Verb};

/// How the command ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exit {
    Fine = 0,
    /// Failed while running, or "no" as a response.
    No = 1,
    /// Bad usage (sysexits' `EX_USAGE`).
    Usage = 64,
    /// An address is taken or may not be bound (`EX_UNAVAILABLE`).
    Address = 69,
    /// A bad config, or none (`EX_CONFIG`).
    Config = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a verb gave no response; the message is for stderr.
#[derive(Debug)]
struct Failure {
    exit: Exit,
    message: String,
}

impl Failure {
    fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }
}

/// What may be typed, for whoever describes it: man pages, completions.
pub fn command() -> clap::Command {
    Args::command()
}

/// Runs the command with the process' arguments.
pub fn main() -> ExitCode {
    run_command(std::env::args_os()).into()
}

fn run_command(args: impl IntoIterator<Item = OsString>) -> Exit {
    // Before any secret is read, whatever the verb.
    let refused = app::harden();
    let args: Vec<OsString> = args.into_iter().collect();
    let color = Color::typed(&args);
    anstream::ColorChoice::from(color).write_global();
    let matches = command().color(color.into()).try_get_matches_from(args);
    let done = match matches.and_then(|matches| Args::from_arg_matches(&matches)) {
        Ok(args) => dispatch(args, &refused),
        Err(error) => Ok(clap_exit(&suggesting(error))),
    };
    done.unwrap_or_else(|failure| {
        output::tell(&format!("bearerd: {}", failure.message));
        failure.exit
    })
}

/// `bearerd help chekc` is left without a suggestion by clap, unlike `bearerd chekc`.
fn suggesting(mut error: clap::Error) -> clap::Error {
    if let Some(ContextValue::String(written)) = error.get(ContextKind::InvalidSubcommand)
        && error.get(ContextKind::SuggestedSubcommand).is_none()
    {
        let verbs = command();
        let meant = config::nearest(written, verbs.get_subcommands().map(clap::Command::get_name));
        if let Some(meant) = meant.map(str::to_owned) {
            error.insert(ContextKind::SuggestedSubcommand, ContextValue::Strings(vec![meant]));
        }
    }
    error
}

/// Help and version are answers; everything else that clap says is bad usage.
fn clap_exit(error: &clap::Error) -> Exit {
    output::usage(error);
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Exit::Fine,
        _ => Exit::Usage,
    }
}

fn dispatch(args: Args, refused: &[String]) -> Result<Exit, Failure> {
    let common = &args.common;
    match args.verb.unwrap_or(Verb::Run) {
        Verb::Run => run::run(common, refused),
        Verb::Check { online: true, no_guess, output } => {
            online::check(common, online::OnlineOptions { guess: !no_guess, output })
        }
        Verb::Check { output, .. } => check::check(common, output),
        Verb::Explain { method, url, headers, output } => {
            explain_call(common, &method, &url, &headers, output)
        }
        Verb::Token { issuer, route, decode, xoauth2, output } => {
            token::token(common, &token::TokenOptions { issuer, route, decode, xoauth2, output })
        }
        Verb::Schema { .. } => {
            output::answer_json(&config::schema());
            Ok(Exit::Fine)
        }
        Verb::Demo { output } => demo::demo(common, output, refused),
        Verb::Healthcheck { output } => healthcheck::healthcheck(common, output),
        Verb::Init { preset, issuer_url, output } => {
            init::init(preset.as_deref(), issuer_url.as_deref(), output)
        }
        Verb::Completions { shell } => {
            completions::completions(shell);
            Ok(Exit::Fine)
        }
    }
}

fn explain_call(
    common: &Common,
    method: &str,
    url: &str,
    headers: &[(String, String)],
    output: Output,
) -> Result<Exit, Failure> {
    let config = load(common)?;
    let explanation = explain::explain(&config, method, url, headers)
        .map_err(|message| Failure::new(Exit::Usage, message))?;
    match output {
        Output::Text => output::answer_people(&explanation.to_text()),
        Output::Json => output::answer_json(&serde_json::json!(explanation)),
    }
    Ok(if explanation.found { Exit::Fine } else { Exit::No })
}

/// The config of a verb that needs a good one: otherwise the whole report goes to stderr.
fn load(common: &Common) -> Result<Config, Failure> {
    let path = find(common)?;
    config::load(&path).map_err(|problems| {
        output::tell(&check::report(&problems.0));
        Failure::new(Exit::Config, check::verdict(&path, &problems.0))
    })
}

fn find(common: &Common) -> Result<std::path::PathBuf, Failure> {
    config::find(common.config.clone()).map_err(|tried| {
        let tried: Vec<String> = tried.iter().map(|path| path.display().to_string()).collect();
        Failure::new(
            Exit::Config,
            format!(
                "no config file; looked for {}. Name one with --config FILE or $BEARERD_CONFIG, write one with \
                 `bearerd init`, or see it work without one: `bearerd demo`",
                tried.join(", ")
            ),
        )
    })
}

fn start_log(common: &Common, log: &config::Log) -> Result<LogControl, Failure> {
    // Blank, as the variable may be, counts as not given.
    let level = common.log_level.as_deref().filter(|level| !level.trim().is_empty());
    let level = level
        .map(config::log_filter)
        .transpose()
        .map_err(|message| Failure::new(Exit::Usage, format!("--log-level or $BEARERD_LOG: {message}")))?;
    let overrides = Overrides { format: common.log_format.map(Into::into), level };
    telemetry::init(overrides, log).map_err(|message| Failure::new(Exit::No, message))
}

#[cfg(test)]
mod tests;
