//! The command: its verbs, and the meaning of each exit code.
//!
//! Results go to stdout and everything else to stderr, so that scripts can read the one and people the other.

mod args;
mod ca;
mod check;
mod demo;
mod exec;
pub mod explain;
mod healthcheck;
mod init;
mod online;
mod output;
mod store;
mod token;
mod trust;

use std::ffi::OsString;
use std::future::poll_fn;
use std::process::ExitCode;
use std::sync::Arc;
use std::task::Poll;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, FromArgMatches};
use clap_complete::Shell;
use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};

use crate::app::{self, Ended, NotifySocket, Options, Running, StartError};
use crate::aside::Aside;
use crate::cli::args::{Args, Color, Common, Output, StoreVerb, Verb};
use crate::cli::exec::IgnoredSignals;
use crate::clock::SystemClock;
use crate::config::{self, Config, IssuerConfig};
use crate::listener::Passed;
use crate::telemetry::{self, LogControl, Overrides};

/// The exit codes of the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exit {
    Fine,
    /// Failed while running, or the result is "no".
    No,
    /// Bad usage (sysexits' `EX_USAGE`).
    Usage,
    /// An address is in use or may not be bound (`EX_UNAVAILABLE`).
    Address,
    /// A bad config, or none (`EX_CONFIG`).
    Config,
    /// That of the program that `exec` ran, or of a signal.
    Program(u8),
}

impl Exit {
    fn code(self) -> u8 {
        match self {
            Self::Fine => 0,
            Self::No => 1,
            Self::Usage => 64,
            Self::Address => 69,
            Self::Config => 78,
            Self::Program(code) => code,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Why a verb has no result. The message is for stderr.
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

/// The definition of the command line, for man pages and completions.
pub fn command() -> clap::Command {
    Args::command()
}

/// Runs the command with the arguments of the process.
pub fn main() -> ExitCode {
    run_command(std::env::args_os()).into()
}

fn run_command(args: impl IntoIterator<Item = OsString>) -> Exit {
    let args: Vec<OsString> = args.into_iter().collect();
    // Changes nothing of what the program inherits.
    if let Some(ended) = exec::second_step(&args) {
        return ended.unwrap_or_else(told);
    }
    // Before any secret is read, whatever the verb.
    let refused = app::harden();
    let color = Color::typed(&args);
    anstream::ColorChoice::from(color).write_global();
    let matches = command().color(color.into()).try_get_matches_from(args);
    let done = match matches.and_then(|matches| Args::from_arg_matches(&matches)) {
        Ok(args) => dispatch(args, &refused),
        Err(error) => Ok(clap_exit(&suggesting(error))),
    };
    done.unwrap_or_else(told)
}

fn told(failure: Failure) -> Exit {
    output::tell(&format!("bearerd: {}", failure.message));
    failure.exit
}

/// clap has a suggestion for `bearerd chekc`, but not for `bearerd help chekc`.
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

/// Help and version are results. Everything else that clap says is bad usage.
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
        Verb::Run => run(common, refused),
        Verb::Check { online: true, no_guess, output } => {
            let options = online::OnlineOptions { guess: !no_guess, output };
            until_signal(move || online::check(&args.common, options))
        }
        Verb::Check { output, .. } => check::check(common, output),
        Verb::Explain { method, url, headers, output } => {
            explain_call(common, &method, &url, &headers, output)
        }
        Verb::Token { issuer, route, decode, xoauth2, output } => {
            let options = token::TokenOptions { issuer, route, decode, xoauth2, output };
            until_signal(move || token::token(&args.common, &options))
        }
        Verb::Store { verb: StoreVerb::Ls { output } } => store::list(common, output),
        Verb::Store { verb: StoreVerb::Drop { issuer, output } } => store::forget(common, &issuer, output),
        Verb::Exec { tunnel, log_file, command } => {
            let options = exec::ExecOptions { tunnel, log_file, command };
            exec::exec(common, &options, refused)
        }
        Verb::Ca { listener, output } => ca::ca(common, listener.as_deref(), output),
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
            completions(shell);
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

/// A runtime for a verb that makes a few connections.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(|error| Failure::new(Exit::No, format!("cannot start a runtime: {error}")))
}

/// The issuer of this name, or which one may be meant.
fn issuer<'a>(config: &'a Config, name: &str) -> Result<&'a Arc<IssuerConfig>, Failure> {
    config.issuers.get(name).ok_or_else(|| {
        let hint = output::suggestion(name, config.issuers.keys().map(String::as_str));
        Failure::new(Exit::Usage, format!("no issuer `{name}` in the config; {hint}"))
    })
}

/// Loads the config for a verb that serves nothing.
fn load(common: &Common) -> Result<Config, Failure> {
    load_with(common, config::load_to_examine)
}

/// Loads a config that must be valid. Otherwise the whole report goes to stderr.
fn load_with(
    common: &Common,
    load: impl FnOnce(&std::path::Path) -> Result<Config, config::Problems>,
) -> Result<Config, Failure> {
    let path = find(common)?;
    load(&path).map_err(|problems| {
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
    telemetry::init(overrides(common)?, log).map_err(|message| Failure::new(Exit::No, message))
}

/// What the command line says about the log.
fn overrides(common: &Common) -> Result<Overrides, Failure> {
    // A blank value, as the variable may have, counts as not given.
    let level = common.log_level.as_deref().filter(|level| !level.trim().is_empty());
    let level = level
        .map(config::log_filter)
        .transpose()
        .map_err(|message| Failure::new(Exit::Usage, format!("--log-level or $BEARERD_LOG: {message}")))?;
    Ok(Overrides { format: common.log_format.map(Into::into), level })
}

/// Shows what programs of the config write to stderr, for a verb that has no log.
fn show_programs(config: &Config) -> Option<LogControl> {
    let level = config::log_filter("off,bearerd::config::program=info").ok();
    telemetry::init(Overrides { level, format: None }, &config.log).ok()
}

fn run(common: &Common, refused: &[String]) -> Result<Exit, Failure> {
    // Before any thread starts, and before other files get the numbers of passed descriptors.
    let passed = Passed::take().map_err(|message| Failure::new(Exit::Config, message))?;
    let config = load_with(common, config::load)?;
    let log = start_log(common, &config.log)?;
    let notify = std::env::var_os("NOTIFY_SOCKET").map(NotifySocket::new);
    let options = Options { log: Some(log), notify, passed, signals: true, ..Options::default() };
    let running = runtime()?.block_on(serve(config, options, refused, stopped()))?;
    let ended = running.join();
    config::end_programs();
    Ok(exit_after(&ended))
}

/// Starts the proxy as its own process. `refused`: the protections that the kernel refused. `stop`: why it must not start after
/// all. The start may take a while, because it waits for the first output of the config's programs.
async fn serve(
    config: Config,
    options: Options,
    refused: &[String],
    stop: impl Future<Output = Failure>,
) -> Result<Running, Failure> {
    static STARTING: Aside = Aside::new("start", 1);
    app::install_panic_hook();
    for refused in refused {
        tracing::warn!(event = "process.not_hardened", "{refused}");
    }
    let options = Options { watch: true, ..options };
    let starting = STARTING.run(move || app::start(config, Arc::new(SystemClock), options));
    tokio::select! {
        started = starting => started
            .map_err(|error| Failure::new(Exit::No, format!("cannot start: {error}")))?
            .map_err(|error| Failure::new(start_exit(&error), error.to_string())),
        stopped = stop => {
            config::end_programs();
            Err(stopped)
        }
    }
}

/// The signal that ends bearerd before it has started. Later ones are for [`app`].
async fn stopped() -> Failure {
    let signal = one_of([Signal::TERM, Signal::INT]).await;
    Failure::new(Exit::Fine, format!("signal {} came before bearerd had started", signal.as_raw()))
}

/// Does the work of a verb that may run programs, which end with it: they would not end by themselves at a signal.
fn until_signal(work: impl FnOnce() -> Result<Exit, Failure> + Send + 'static) -> Result<Exit, Failure> {
    static WORKING: Aside = Aside::new("verb", 1);
    runtime()?.block_on(async {
        tokio::select! {
            done = WORKING.run(work) => match done {
                Ok(done) => done,
                Err(error) => Err(Failure::new(Exit::No, format!("cannot start: {error}"))),
            },
            signal = one_of([Signal::INT, Signal::TERM, Signal::HUP]) => {
                config::end_programs();
                Err(ended_by(signal, ""))
            }
        }
    })
}

/// Waits for one of these signals, except those that bearerd was told to ignore.
async fn one_of<const N: usize>(wanted: [Signal; N]) -> Signal {
    let ignored = IgnoredSignals::of_this_process();
    let wanted = wanted.into_iter().filter(|signal| !ignored.has(*signal));
    let listen = |it: Signal| Some((it, signal(SignalKind::from_raw(it.as_raw())).ok()?));
    let mut received: Vec<_> = wanted.filter_map(listen).collect();
    poll_fn(|context| {
        let mut ready = received
            .iter_mut()
            .filter_map(|(it, stream)| stream.poll_recv(context).is_ready().then_some(*it));
        ready.next().map_or(Poll::Pending, Poll::Ready)
    })
    .await
}

/// As a shell says it.
fn ended_by(signal: Signal, when: &str) -> Failure {
    let code = u8::try_from(128 + signal.as_raw()).unwrap_or(u8::MAX);
    Failure::new(Exit::Program(code), format!("ended by signal {}{when}", signal.as_raw()))
}

fn start_exit(error: &StartError) -> Exit {
    match error {
        StartError::Address(_) => Exit::Address,
        StartError::Settings(_) => Exit::Config,
        StartError::System(_) => Exit::No,
    }
}

/// Requests that were cut off are not a failure: the operator set their time limit, or sent a second signal.
fn exit_after(ended: &Ended) -> Exit {
    match ended {
        Ended::Drained | Ended::Cut => Exit::Fine,
        Ended::Failed(_) => Exit::No,
    }
}

pub(super) fn completions(shell: Shell) {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "bearerd", &mut script);
    output::answer_bytes(script.trim_ascii_end());
}

#[cfg(test)]
mod tests {
    use clap::Parser;

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
        let codes = [Exit::Fine, Exit::No, Exit::Usage, Exit::Address, Exit::Config].map(Exit::code);
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

    #[test]
    fn ends_with_the_code_of_what_happened() {
        assert_eq!(exit_after(&Ended::Drained), Exit::Fine);
        assert_eq!(exit_after(&Ended::Cut), Exit::Fine);
        assert_eq!(exit_after(&Ended::Failed("worker-0 is gone".to_owned())), Exit::No);
        assert_eq!(start_exit(&StartError::Address(Vec::new())), Exit::Address);
        assert_eq!(start_exit(&StartError::Settings(Vec::new())), Exit::Config);
        assert_eq!(start_exit(&StartError::System(String::new())), Exit::No);
    }
}
