//! What may be typed.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

use clap_complete::Shell;

use crate::config::LogFormat;

const EXAMPLES: &str = "\
Examples:
  bearerd demo                           see it work, without a config
  bearerd init                           the issuers that there is a preset for
  bearerd init keycloak > bearerd.toml   a config to start from
  bearerd check                          every error in the config at once
  bearerd check --online                 what issuers and upstreams say to it
  bearerd explain GET localhost:8080/billing/invoices
  bearerd                                serve

The config is the file of --config, else of $BEARERD_CONFIG, else
./bearerd.toml, else /etc/bearerd/bearerd.toml.

Exit codes: 0 fine; 1 failed while running, or \"no\" as a response;
64 bad usage; 69 an address is taken or may not be bound; 78 bad config,
or none.";

const RUN_EXAMPLES: &str = "\
Examples:
  bearerd run
  bearerd run --config /etc/bearerd/bearerd.toml
  bearerd run --log-format json --log-level info,bearerd=debug

Exit codes: 0 ended when asked to; 1 failed while running; 69 an address is
taken or may not be bound; 78 bad config, or none.";

const CHECK_EXAMPLES: &str = "\
Examples:
  bearerd check --config bearerd.toml
  bearerd check --output json | jq '.problems[].message'
  bearerd check --online
  bearerd check --online --output json | jq '.issuers[] | select(.ok | not)'

Exit codes: 0 fine, warnings included; 1 an issuer or upstream said no
(--online); 78 bad config, or none.";

const EXPLAIN_EXAMPLES: &str = "\
Examples:
  bearerd explain GET localhost:8080/billing/invoices
  bearerd explain POST http://billing.internal/ -H 'x-tenant: acme'
  bearerd explain GET /billing --output json | jq '.answers[].route'

Exit codes: 0 a route serves the request; 1 none does; 64 what was given is no
call; 78 bad config, or none.";

const TOKEN_EXAMPLES: &str = "\
Examples:
  bearerd token corp --decode
  bearerd token corp --route billing
  curl -H \"Authorization: Bearer $(bearerd token corp)\" https://api.example.com/
  bearerd token mail --xoauth2 user@example.com

Exit codes: 0 here it is; 1 the issuer gave none; 64 no such issuer or route;
78 bad config, or none.";

const INIT_EXAMPLES: &str = "\
Examples:
  bearerd init
  bearerd init keycloak > bearerd.toml
  bearerd init generic
  bearerd init --issuer-url https://idp.example.com/realms/acme
  bearerd init --output json | jq -r '.presets[].name'

Exit codes: 0 fine; 1 the issuer has no discovery document; 64 no such preset.";

const SCHEMA_EXAMPLES: &str = "\
Example:
  bearerd schema > bearerd.schema.json

and as the first line of the config, for editors that know it:
  #:schema ./bearerd.schema.json";

const DEMO_EXAMPLES: &str = "\
Examples:
  bearerd demo
  bearerd demo --output json             one line, then it serves until it is ended";

const HEALTHCHECK_EXAMPLES: &str = "\
Examples:
  bearerd healthcheck
  HEALTHCHECK CMD [\"bearerd\", \"healthcheck\"]

Exit codes: 0 ready; 1 not ready, or no response; 78 bad config, or none.";

const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  bearerd completions bash > /etc/bash_completion.d/bearerd
  bearerd completions zsh > \"${fpath[1]}/_bearerd\"
  bearerd completions fish > ~/.config/fish/completions/bearerd.fish";

/// The heading of options that stand at each verb.
const EVERY_VERB: &str = "Options of every verb";

/// Lines of help are no longer than this, so that they fit a terminal as it opens.
const WIDTH: usize = 80;

/// Puts OAuth 2.0 bearer tokens on outbound requests.
///
/// A reverse proxy beside your program: it sends plain HTTP on this machine, and bearerd forwards the request with a
/// token that it gets, keeps and renews.
#[derive(Debug, Parser)]
#[command(name = "bearerd", version, propagate_version = true, max_term_width = WIDTH, after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) common: Common,
    /// Without one: run.
    #[command(subcommand)]
    pub(super) verb: Option<Verb>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Common {
    /// The config file; else that of $BEARERD_CONFIG, else ./bearerd.toml, else /etc/bearerd/bearerd.toml.
    #[arg(long, short = 'c', global = true, value_name = "FILE", help_heading = EVERY_VERB)]
    pub(super) config: Option<PathBuf>,
    /// How log lines are written to stderr, whatever [log] says.
    #[arg(long, global = true, value_name = "FORMAT", help_heading = EVERY_VERB)]
    pub(super) log_format: Option<Format>,
    /// What is logged, as an env-filter (info, bearerd=debug) without brackets, whatever [log] says.
    #[arg(long, global = true, value_name = "FILTER", env = "BEARERD_LOG", hide_env_values = true, help_heading = EVERY_VERB)]
    pub(super) log_level: Option<String>,
    /// Colours in answers for people: on a terminal (where NO_COLOR is not set), always or never.
    #[arg(long, global = true, value_name = "WHEN", default_value_t = Color::Auto, hide_default_value = true, help_heading = EVERY_VERB)]
    pub(super) color: Color,
}

/// When there are colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Color {
    Auto,
    Always,
    Never,
}

impl std::fmt::Display for Color {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Always => "always",
            Self::Never => "never",
        })
    }
}

impl Color {
    /// As typed, for help and errors in usage, which are printed before the rest is understood.
    pub(super) fn typed(args: &[std::ffi::OsString]) -> Self {
        let mut words = args.iter().filter_map(|arg| arg.to_str());
        while let Some(word) = words.next() {
            let value = match word {
                "--" => break,
                "--color" => words.next(),
                _ => word.strip_prefix("--color="),
            };
            if let Some(color) = value.and_then(|value| Self::from_str(value, false).ok()) {
                return color;
            }
        }
        Self::Auto
    }
}

impl From<Color> for anstream::ColorChoice {
    fn from(color: Color) -> Self {
        match color {
            Color::Auto => Self::Auto,
            Color::Always => Self::Always,
            Color::Never => Self::Never,
        }
    }
}

impl From<Color> for clap::ColorChoice {
    fn from(color: Color) -> Self {
        match color {
            Color::Auto => Self::Auto,
            Color::Always => Self::Always,
            Color::Never => Self::Never,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    Text,
    Json,
}

impl From<Format> for LogFormat {
    fn from(format: Format) -> Self {
        match format {
            Format::Text => Self::Text,
            Format::Json => Self::Json,
        }
    }
}

/// Who reads the response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Serve (the default).
    ///
    /// SIGHUP and changed files load the config again; SIGTERM and SIGINT let requests end first.
    #[command(after_help = RUN_EXAMPLES)]
    Run,

    /// Report every error in the config at once.
    ///
    /// Touches no network unless asked to. A secret file that is missing is a warning.
    #[command(after_help = CHECK_EXAMPLES)]
    Check {
        /// Also get a token from every issuer, connect to every upstream, and say what was learned. Sends no request to
        /// an upstream, and shows no secret.
        #[arg(long)]
        online: bool,
        /// With --online: where an issuer refuses, don't send the few more requests that find out what it takes.
        #[arg(long, requires = "online")]
        no_guess: bool,
        /// How the response is written.
        #[arg(long, short, value_enum, value_name = "FORMAT", default_value_t = Output::Text)]
        output: Output,
    },

    /// Show which route serves a request and why, what is sent upstream, and whose token goes with it.
    ///
    /// Sends nothing. Exit code 1 where no route serves the request.
    #[command(after_help = EXPLAIN_EXAMPLES)]
    Explain {
        #[arg(value_name = "METHOD")]
        method: String,
        /// As the caller writes it.
        #[arg(value_name = "URL")]
        url: String,
        /// A header of the request; may be given several times.
        #[arg(long = "header", short = 'H', value_name = "NAME: VALUE", value_parser = header)]
        headers: Vec<(String, String)>,
        /// How the response is written.
        #[arg(long, short, value_enum, value_name = "FORMAT", default_value_t = Output::Text)]
        output: Output,
    },

    /// Fetch a token as the proxy would, and print it.
    #[command(after_help = TOKEN_EXAMPLES)]
    Token {
        /// The NAME of [issuer.NAME].
        #[arg(value_name = "ISSUER")]
        issuer: String,
        /// With this route's scopes and parameters instead of the issuer's own.
        #[arg(long, value_name = "NAME")]
        route: Option<String>,
        /// Print the token's claims and times instead of the token.
        #[arg(long)]
        decode: bool,
        /// Print the SASL XOAUTH2 string for this mailbox (IMAP, POP, SMTP) instead of the token.
        #[arg(long, value_name = "USER", conflicts_with = "decode", value_parser = super::xoauth2::user)]
        xoauth2: Option<String>,
        /// How the response is written.
        #[arg(long, short, value_enum, value_name = "FORMAT", default_value_t = Output::Text)]
        output: Output,
    },

    /// Print a commented config to start from; without a preset, list the presets.
    ///
    /// A preset holds what a vendor fixes, so that only what is yours is left to fill in.
    #[command(after_help = INIT_EXAMPLES)]
    Init {
        /// A name of the list, or `generic` for any issuer.
        #[arg(value_name = "PRESET")]
        preset: Option<String>,
        /// Read this issuer's discovery document, and print a config with what it takes.
        #[arg(long, value_name = "URL", conflicts_with = "preset")]
        issuer_url: Option<String>,
        /// How the response is written.
        #[arg(long, short, value_enum, value_name = "FORMAT", default_value_t = Output::Text)]
        output: Output,
    },

    /// Print the JSON Schema of the config file, for editors.
    #[command(after_help = SCHEMA_EXAMPLES)]
    Schema {
        /// A schema is JSON either way.
        #[arg(long, short, value_enum, value_name = "FORMAT", default_value_t = Output::Json, hide = true)]
        output: Output,
    },

    /// See it work without a config: an issuer, an upstream and the proxy, all on this machine.
    ///
    /// Writes a config file and shows it, and prints the curl line to try. Ctrl-C ends it.
    #[command(after_help = DEMO_EXAMPLES)]
    Demo {
        /// How the response is written.
        #[arg(long, short, value_enum, value_name = "FORMAT", default_value_t = Output::Text)]
        output: Output,
    },

    /// Ask a running bearerd whether it is ready, at the config's admin address.
    ///
    /// Exit code 0 where it is, 1 where it is not; for exec probes and HEALTHCHECK.
    #[command(after_help = HEALTHCHECK_EXAMPLES)]
    Healthcheck {
        /// How the response is written.
        #[arg(long, short, value_enum, value_name = "FORMAT", default_value_t = Output::Text)]
        output: Output,
    },

    /// Print the completion script of a shell.
    #[command(after_help = COMPLETIONS_EXAMPLES)]
    Completions {
        #[arg(value_name = "SHELL", value_enum)]
        shell: Shell,
    },
}

/// `Name: value`, as curl takes it.
fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("write it as `Name: value`")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}
