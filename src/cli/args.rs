//! What may be typed.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

use clap_complete::Shell;

use crate::config::LogFormat;

const EXAMPLES: &str = "\
Examples:
  bearerd demo                              see it work, without a config
  bearerd init                              the issuers that there is a preset for
  bearerd init keycloak > bearerd.toml      a config to start from
  bearerd check                             every mistake in the config at once
  bearerd check --online                    and what issuers and upstreams say to it
  bearerd explain GET http://127.0.0.1:8080/billing/invoices
  bearerd                                   serve

The config is the file of --config, else of $BEARERD_CONFIG, else
./bearerd.toml, else /etc/bearerd/bearerd.toml.

Exit codes: 0 fine; 1 failed while running, or \"no\" as an answer;
64 bad usage; 69 an address is taken or may not be bound; 78 bad config,
or none.";

const CHECK_EXAMPLES: &str = "\
Examples:
  bearerd check --config bearerd.toml
  bearerd check --output json | jq '.problems[].message'
  bearerd check --online                    a token from each issuer, a connection to each upstream
  bearerd check --online --output json | jq '.issuers[] | select(.ok | not)'

Exit codes: 0 fine, warnings included; 1 an issuer or upstream said no (--online); 78 bad config.";

/// Puts OAuth 2.0 bearer tokens on outbound calls.
///
/// A reverse proxy beside your program: it calls plain HTTP on this machine, and bearerd forwards the call with a
/// token that it gets, keeps and renews.
#[derive(Debug, Parser)]
#[command(name = "bearerd", version, propagate_version = true, after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) common: Common,
    /// Without one: run.
    #[command(subcommand)]
    pub(super) verb: Option<Verb>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Common {
    /// The config file.
    #[arg(long, short = 'c', global = true, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// How log lines are written to stderr, whatever [log] says.
    #[arg(long, global = true, value_name = "FORMAT")]
    pub(super) log_format: Option<Format>,
    /// What is logged, as an env-filter (info, bearerd=debug), whatever [log] says.
    #[arg(long, global = true, value_name = "FILTER", env = "BEARERD_LOG", hide_env_values = true)]
    pub(super) log_level: Option<String>,
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

/// Who reads the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// People.
    Text,
    /// Programs.
    Json,
}

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Serve (the default).
    ///
    /// SIGHUP and changed files load the config again; SIGTERM and SIGINT let calls end first.
    #[command(after_help = "Example:\n  bearerd run --config /etc/bearerd/bearerd.toml")]
    Run,

    /// Report every mistake in the config at once.
    ///
    /// Touches no network unless asked to. A secret file that is missing is a warning.
    #[command(after_help = CHECK_EXAMPLES)]
    Check {
        /// Also get a token from every issuer, connect to every upstream, and say what was learned. Sends no call to
        /// an upstream, and shows no secret.
        #[arg(long)]
        online: bool,
        /// With --online: where an issuer refuses, don't send the few more requests that find out what it takes.
        #[arg(long, requires = "online")]
        no_guess: bool,
        #[arg(long, short, value_enum, default_value_t = Output::Text)]
        output: Output,
    },

    /// Show which route serves a call and why, what is sent upstream, and whose token goes with it.
    ///
    /// Sends nothing. Exit code 1 where no route serves the call.
    #[command(
        after_help = "Examples:\n  bearerd explain GET http://127.0.0.1:8080/billing/invoices\n  bearerd explain POST http://billing.internal/ -H 'x-tenant: acme'"
    )]
    Explain {
        #[arg(value_name = "METHOD")]
        method: String,
        /// As the caller writes it.
        #[arg(value_name = "URL")]
        url: String,
        /// A header of the call; may be given several times.
        #[arg(long = "header", short = 'H', value_name = "NAME: VALUE", value_parser = header)]
        headers: Vec<(String, String)>,
        #[arg(long, short, value_enum, default_value_t = Output::Text)]
        output: Output,
    },

    /// Fetch a token as the proxy would, and print it.
    #[command(
        after_help = "Examples:\n  bearerd token corp --decode\n  curl -H \"Authorization: Bearer $(bearerd token corp)\" https://billing.example.com/\n  bearerd token mail --xoauth2 user@example.com"
    )]
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
        #[arg(long, short, value_enum, default_value_t = Output::Text)]
        output: Output,
    },

    /// Print a commented config to start from; without a preset, list the presets.
    ///
    /// A preset holds what a vendor fixes, so that only what is yours is left to fill in.
    #[command(
        after_help = "Examples:\n  bearerd init\n  bearerd init keycloak > bearerd.toml\n  bearerd init --output json | jq -r '.presets[].name'"
    )]
    Init {
        /// A name of the list.
        #[arg(value_name = "PRESET")]
        preset: Option<String>,
        #[arg(long, short, value_enum, default_value_t = Output::Text)]
        output: Output,
    },

    /// Print the JSON Schema of the config file, for editors.
    #[command(after_help = "Example:\n  bearerd schema > bearerd.schema.json")]
    Schema {
        /// A schema is JSON either way.
        #[arg(long, short, value_enum, default_value_t = Output::Json, hide = true)]
        output: Output,
    },

    /// See it work without a config: an issuer, an upstream and the proxy, all on this machine.
    ///
    /// Writes a config file and shows it, and prints the curl line to try. Ctrl-C ends it.
    Demo,

    /// Ask a running bearerd whether it is ready, at the config's admin address.
    ///
    /// Exit code 0 where it is, 1 where it is not; for exec probes and HEALTHCHECK.
    #[command(after_help = "Example:\n  HEALTHCHECK CMD [\"bearerd\", \"healthcheck\"]")]
    Healthcheck {
        #[arg(long, short, value_enum, default_value_t = Output::Text)]
        output: Output,
    },

    /// Print the completion script of a shell.
    #[command(
        after_help = "Examples:\n  bearerd completions bash > /etc/bash_completion.d/bearerd\n  bearerd completions zsh > \"${fpath[1]}/_bearerd\"\n  bearerd completions fish > ~/.config/fish/completions/bearerd.fish"
    )]
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
