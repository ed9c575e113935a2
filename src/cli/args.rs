//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

use clap_complete::Shell;

use crate::config::LogFormat;

const EXAMPLES: &str = "\
Examples:
  bearerd demo                           see it work without a config
  bearerd init                           list the presets for issuers
  bearerd init keycloak > bearerd.toml   write a config to start from
  bearerd check                          report every error in the config
  bearerd check --online                 also try issuers and upstreams
  bearerd explain GET localhost:8080/billing/invoices
  bearerd                                serve

The config is the file of --config, else of $BEARERD_CONFIG, else
./bearerd.toml, else /etc/bearerd/bearerd.toml.

Exit codes: 0 success; 1 failed while running, or the result is \"no\";
64 bad usage; 69 an address is in use or not allowed; 78 bad or missing
config.";

const RUN_EXAMPLES: &str = "\
Examples:
  bearerd run
  bearerd run --config /etc/bearerd/bearerd.toml
  bearerd run --log-format json --log-level info,bearerd=debug

Exit codes: 0 stopped by a signal; 1 failed while running; 69 an address is
in use or not allowed; 78 bad or missing config.";

const CHECK_EXAMPLES: &str = "\
Examples:
  bearerd check --config bearerd.toml
  bearerd check --output json | jq '.problems[].message'
  bearerd check --online
  bearerd check --online --output json | jq '.issuers[] | select(.ok | not)'

Exit codes: 0 no errors, maybe warnings; 1 an issuer or upstream failed
(--online); 78 bad or missing config.";

const EXPLAIN_EXAMPLES: &str = "\
Examples:
  bearerd explain GET localhost:8080/billing/invoices
  bearerd explain POST http://billing.internal/ -H 'x-tenant: acme'
  bearerd explain GET /billing --output json | jq '.results[].route'

Exit codes: 0 a route serves the request; 1 no route does; 64 not a valid
request; 78 bad or missing config.";

const TOKEN_EXAMPLES: &str = "\
Examples:
  bearerd token corp --decode
  bearerd token corp --route billing
  curl -H \"Authorization: Bearer $(bearerd token corp)\" https://api.example.com/
  bearerd token mail --xoauth2 user@example.com

Exit codes: 0 success; 1 the issuer gave no token; 64 no such issuer or
route; 78 bad or missing config.";

const STORE_EXAMPLES: &str = "\
Examples:
  bearerd store ls                       what the store holds
  bearerd store ls --output json | jq '.tokens[] | select(.stored)'
  bearerd store drop corp                forget the tokens of issuer corp

Exit codes: 0 success; 1 the store does not work; 64 no such issuer; 78 bad
or missing config, or no [store] in it.";

const INIT_EXAMPLES: &str = "\
Examples:
  bearerd init
  bearerd init keycloak > bearerd.toml
  bearerd init generic
  bearerd init --issuer-url https://idp.example.com/realms/acme
  bearerd init --output json | jq -r '.presets[].name'

Exit codes: 0 success; 1 the issuer has no discovery document; 64 no such
preset.";

const SCHEMA_EXAMPLES: &str = "\
Example:
  bearerd schema > bearerd.schema.json

Editors that support it read this first line of the config:
  #:schema ./bearerd.schema.json";

const DEMO_EXAMPLES: &str = "\
Examples:
  bearerd demo
  bearerd demo --output json             print one line, then serve";

const CA_EXAMPLES: &str = "\
Examples:
  bearerd ca > ca.pem                    how to trust it is on stderr
  bearerd ca | openssl x509 -noout -text
  bearerd ca --output json | jq -r .fingerprint

Exit codes: 0 success; 1 no bearerd runs with this config; 64 no such
listener, or there are several; 78 bad or missing config.";

const EXEC_EXAMPLES: &str = "\
Examples:
  bearerd exec -- curl https://api.example.com/v1/invoices
  bearerd exec -- python3 report.py
  bearerd exec --tunnel -- npm test
  bearerd exec --log-file bearerd.log -- ./program --its-own option

The config needs no listener: a forward listener is made for the program.
Its variables say where the proxy is and what to trust. The variables that
the config reads with { env = \"…\" } are taken away from it.

Exit codes: the program's own; 128 + n after signal n; 127 no such program;
126 it cannot be run; before it starts: 1 bearerd cannot serve; 64 bad
usage; 69 an address is in use or not allowed; 78 bad or missing config.";

const HEALTHCHECK_EXAMPLES: &str = "\
Examples:
  bearerd healthcheck
  HEALTHCHECK CMD [\"bearerd\", \"healthcheck\"]

Exit codes: 0 ready; 1 not ready, or no response; 78 bad or missing config.";

const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  bearerd completions bash > /etc/bash_completion.d/bearerd
  bearerd completions zsh > \"${fpath[1]}/_bearerd\"
  bearerd completions fish > ~/.config/fish/completions/bearerd.fish";

/// The heading of options that every verb has.
const EVERY_VERB: &str = "Options of every verb";

/// The longest line of help, so that it fits a terminal of the usual width.
const WIDTH: usize = 80;

/// Adds OAuth 2.0 bearer tokens to outbound requests.
///
/// bearerd is a reverse proxy that runs beside your program. The program sends plain HTTP on this machine, and bearerd
/// forwards the requests with a token, which it fetches, caches and renews.
#[derive(Debug, Parser)]
#[command(name = "bearerd", version, propagate_version = true, max_term_width = WIDTH, after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) common: Common,
    /// The default is run.
    #[command(subcommand)]
    pub(super) verb: Option<Verb>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Common {
    /// The config file. The default is $BEARERD_CONFIG, else ./bearerd.toml, else /etc/bearerd/bearerd.toml.
    #[arg(long, short = 'c', global = true, value_name = "FILE", help_heading = EVERY_VERB)]
    pub(super) config: Option<PathBuf>,
    /// Format of the log lines on stderr; overrides [log].
    #[arg(long, global = true, value_name = "FORMAT", help_heading = EVERY_VERB)]
    pub(super) log_format: Option<Format>,
    /// What to log, in env-filter syntax without brackets (info,bearerd=debug); overrides [log].
    #[arg(long, global = true, value_name = "FILTER", env = "BEARERD_LOG", hide_env_values = true, help_heading = EVERY_VERB)]
    pub(super) log_level: Option<String>,
    /// When to use colors in text output: on a terminal (unless NO_COLOR is set), always or never.
    #[arg(long, global = true, value_name = "WHEN", default_value_t = Color::Auto, hide_default_value = true, help_heading = EVERY_VERB)]
    pub(super) color: Color,
}

/// When to use colors.
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
    /// The value on the command line, for help and usage errors, which are printed before the rest is parsed.
    pub(super) fn typed(args: &[OsString]) -> Self {
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

/// Who reads the output.
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
    /// bearerd reloads the config after SIGHUP and when a file changes. After SIGTERM and SIGINT it finishes its
    /// requests and exits.
    #[command(after_help = RUN_EXAMPLES)]
    Run,

    /// Report every error in the config.
    ///
    /// Uses no network without --online. A missing secret file is a warning.
    #[command(after_help = CHECK_EXAMPLES)]
    Check {
        /// Also fetch a token from every issuer, connect to every upstream, and report the results. Sends no request to
        /// an upstream, and shows no secret.
        #[arg(long)]
        online: bool,
        /// With --online: if an issuer refuses, send no more requests to find out what it accepts.
        #[arg(long, requires = "online")]
        no_guess: bool,
        /// Output format.
        #[arg(long, short, value_enum, value_name = "FORMAT", default_value_t = Output::Text)]
        output: Output,
    },

    /// Show which route serves a request and why, what bearerd sends upstream, and with whose token.
    ///
    /// Sends nothing. The exit code is 1 if no route serves the request.
    #[command(after_help = EXPLAIN_EXAMPLES)]
    Explain {
        #[arg(value_name = "METHOD")]
        method: String,
        /// The URL that the caller uses.
        #[arg(value_name = "URL")]
        url: String,
        /// A header field of the request; can be repeated.
        #[arg(long = "header", short = 'H', value_name = "NAME: VALUE", value_parser = header)]
        headers: Vec<(String, String)>,
        /// Output format.
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
        #[arg(long, value_name = "USER", conflicts_with = "decode", value_parser = super::token::xoauth2_user)]
        xoauth2: Option<String>,
        /// Output format.
        #[arg(long, short, value_enum, value_name = "FORMAT", default_value_t = Output::Text)]
        output: Output,
    },

    /// Show what the store of the config holds, or forget an issuer's tokens.
    ///
    /// The store is the one of [store]. No value of it is ever shown.
    #[command(after_help = STORE_EXAMPLES)]
    Store {
        #[command(subcommand)]
        verb: StoreVerb,
    },

    /// Print a commented config to start from; without a preset, list the presets.
    ///
    /// A preset contains what a vendor defines, so that you fill in only your own values.
    #[command(after_help = INIT_EXAMPLES)]
    Init {
        /// A preset's name, or `generic` for any issuer.
        #[arg(value_name = "PRESET")]
        preset: Option<String>,
        /// Read this issuer's discovery document, and print a config with what it accepts.
        #[arg(long, value_name = "URL", conflicts_with = "preset")]
        issuer_url: Option<String>,
        /// Output format.
        #[arg(long, short, value_enum, value_name = "FORMAT", default_value_t = Output::Text)]
        output: Output,
    },

    /// Run a program whose requests go through bearerd, without any change to it.
    ///
    /// Serves the config as run does, for as long as the program runs, and sets the variables from which programs learn
    /// their proxy and what to trust. Logs only warnings, to stderr.
    #[command(after_help = EXEC_EXAMPLES)]
    Exec {
        /// Let requests to hosts that no route names through unread, instead of refusing them.
        #[arg(long)]
        tunnel: bool,
        /// Log to this file, as [log] of the config says.
        #[arg(long, value_name = "FILE")]
        log_file: Option<PathBuf>,
        /// The program and its arguments.
        #[arg(value_name = "COMMAND", required = true, last = true, num_args = 1..)]
        command: Vec<OsString>,
    },

    /// Print the certificate of a forward listener's CA, and how to trust it.
    ///
    /// The certificate goes to stdout, as PEM. How each ecosystem is told to trust it goes to stderr. An ephemeral CA is
    /// only in the running bearerd, which is asked at the config's admin address.
    #[command(after_help = CA_EXAMPLES)]
    Ca {
        /// The NAME of [listener.NAME]. Needed if there are several forward listeners.
        #[arg(value_name = "LISTENER")]
        listener: Option<String>,
        /// Output format.
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
    /// Writes a config file and shows it, and prints a curl command to try. Ctrl-C stops it.
    #[command(after_help = DEMO_EXAMPLES)]
    Demo {
        /// Output format.
        #[arg(long, short, value_enum, value_name = "FORMAT", default_value_t = Output::Text)]
        output: Output,
    },

    /// Ask a running bearerd, at the config's admin address, whether it is ready.
    ///
    /// The exit code is 0 if it is ready and 1 if it is not. For exec probes and HEALTHCHECK.
    #[command(after_help = HEALTHCHECK_EXAMPLES)]
    Healthcheck {
        /// Output format.
        #[arg(long, short, value_enum, value_name = "FORMAT", default_value_t = Output::Text)]
        output: Output,
    },

    /// Print the completion script for a shell.
    #[command(after_help = COMPLETIONS_EXAMPLES)]
    Completions {
        #[arg(value_name = "SHELL", value_enum)]
        shell: Shell,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum StoreVerb {
    /// Show each token that the config can use, and count what belongs to others.
    Ls {
        /// Output format.
        #[arg(long, short, value_enum, value_name = "FORMAT", default_value_t = Output::Text)]
        output: Output,
    },

    /// Remove all tokens of an issuer.
    ///
    /// A running bearerd keeps the token that it holds until the token is renewed, expires, or is refused.
    Drop {
        /// The NAME of [issuer.NAME].
        #[arg(value_name = "ISSUER")]
        issuer: String,
        /// Output format.
        #[arg(long, short, value_enum, value_name = "FORMAT", default_value_t = Output::Text)]
        output: Output,
    },
}

/// `Name: value`, in curl's syntax.
fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("write it as `Name: value`")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}
