//! What a failure of a Redis server means, and what to do.

use std::error::Error as _;
use std::fmt;
use std::time::Duration;

use ::redis::{ErrorKind, RedisError};

use super::connection::Redirect;
use crate::config::{RedisConfig, RedisMode, StoreHost};
use crate::net::TlsFailure;
use crate::store::engine::{StoreError, StoreErrorKind};

/// The commands that the server's user needs the right to run. Its keys begin with `prefix`.
pub(super) const COMMANDS: &str = "+eval +get +set +del +hget +hmget +hset +pexpire +pexpireat +pttl +time +llen +lindex \
     +lpop +rpop +rpush +scan +info +ping +select +role +asking +cluster|slots";

/// The most characters of a server's own words in an error.
const WORDS: usize = 200;

/// The server sent more than any valid response has.
#[derive(Debug)]
pub(super) struct TooMuch;

impl fmt::Display for TooMuch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it sent more than any valid response has")
    }
}

impl std::error::Error for TooMuch {}

/// Explains the errors of one connection.
pub(super) struct Explain {
    who: String,
    tls: TlsFailure,
    uses_tls: bool,
    is_cluster: bool,
}

impl Explain {
    pub(super) fn new(who: &str, config: &RedisConfig, tls: TlsFailure) -> Self {
        let is_cluster = config.mode == RedisMode::Cluster;
        Self { who: who.to_owned(), tls, uses_tls: config.tls.is_some(), is_cluster }
    }

    pub(super) fn gone(&self, kind: StoreErrorKind, what: impl fmt::Display) -> StoreError {
        StoreError::new(kind, format!("{} {what}", self.who))
    }

    pub(super) fn silent(&self, limit: Duration) -> StoreError {
        let limit = humantime::format_duration(limit);
        self.gone(
            StoreErrorKind::Timeout,
            format_args!("accepted the connection, but did not respond within {limit}"),
        )
    }

    pub(super) fn error(&self, error: &RedisError) -> StoreError {
        match error.code() {
            Some(code) => self.server(code, error),
            None if error.kind() == ErrorKind::Io => self.broken(error),
            None => self.garbage(),
        }
    }

    /// The response is not what the command returns.
    pub(super) fn garbage(&self) -> StoreError {
        let hint = if self.uses_tls { "" } else { ", or does it require rediss://" };
        self.gone(
            StoreErrorKind::Invalid,
            format_args!("does not respond as Redis does: is the port right{hint}?"),
        )
    }

    fn broken(&self, error: &RedisError) -> StoreError {
        if let Some(failure) = self.tls.told(&self.who) {
            return StoreError::new(StoreErrorKind::Unreachable, failure.message);
        }
        let io = error.source().and_then(|source| source.downcast_ref::<std::io::Error>());
        let inner = io.and_then(std::io::Error::get_ref);
        if inner.is_some_and(|inner| inner.is::<TooMuch>()) {
            return self
                .gone(StoreErrorKind::Invalid, "sent more than any valid response has; is the port right?");
        }
        let hint = if self.uses_tls { "" } else { " (if this happens every time, it may require rediss://)" };
        self.gone(
            StoreErrorKind::Unreachable,
            format_args!("closed the connection before its response{hint}"),
        )
    }

    /// An error that the server sent (`CODE words`).
    fn server(&self, code: &str, error: &RedisError) -> StoreError {
        let words = words(error.detail().unwrap_or_default());
        let (kind, what) = match code {
            "NOAUTH" => (StoreErrorKind::Refused, "requires a password: set password in [store]".to_owned()),
            "WRONGPASS" => (StoreErrorKind::Refused, WRONG_PASSWORD.to_owned()),
            // The form of this error inside a script.
            "NOPERM" | "ERR" if code == "NOPERM" || words.contains("user executing the script") => (
                StoreErrorKind::Refused,
                format!(
                    "does not give the user of [store] the rights that bearerd needs ({words}): run ACL SETUSER USER \
                     ~PREFIX:* {COMMANDS} there, with the user and the prefix of [store]"
                ),
            ),
            "DENIED" => (
                StoreErrorKind::Refused,
                "is in protected mode, so only programs on its own machine may connect: give it a password, and set \
                 password in [store]"
                    .to_owned(),
            ),
            "OOM" => (
                StoreErrorKind::Unable,
                "is full (maxmemory), and its policy removes nothing: raise maxmemory, or remove other keys".to_owned(),
            ),
            "READONLY" => (
                StoreErrorKind::Unable,
                "is a replica, which is read-only: point url in [store] to the primary, or set sentinel or cluster"
                    .to_owned(),
            ),
            "LOADING" => (StoreErrorKind::Unable, "is still loading its data after a start".to_owned()),
            "MASTERDOWN" | "NOREPLICAS" | "MISCONF" | "BUSY" | "CLUSTERDOWN" | "TRYAGAIN" => {
                (StoreErrorKind::Unable, format!("cannot run the command now: {code} {words}"))
            }
            "MOVED" | "ASK" if !self.is_cluster => {
                (StoreErrorKind::Invalid, "is part of a cluster: set cluster = true in [store]".to_owned())
            }
            "CROSSSLOT" => (
                StoreErrorKind::Invalid,
                "does not find the keys of one entry in one slot: it must obey hash tags, as Redis Cluster does"
                    .to_owned(),
            ),
            "WRONGTYPE" => (
                StoreErrorKind::Invalid,
                "has data of another program under the names of bearerd's entries: remove it, or set another prefix in [store]".to_owned(),
            ),
            "ERR" if words.starts_with("max number of clients") => (
                StoreErrorKind::Unable,
                "accepts no more connections: raise maxclients".to_owned(),
            ),
            "ERR" if words.contains("DB index") || words.contains("SELECT") => {
                (StoreErrorKind::Invalid, format!("does not have the database of url in [store]: {words}"))
            }
            "ERR" if words.to_ascii_lowercase().contains("unknown command") => (
                StoreErrorKind::Invalid,
                format!("lacks a command; bearerd needs Redis 5 or later or Valkey, with scripts: {words}"),
            ),
            _ => (StoreErrorKind::Invalid, format!("responded with an error: {} {words}", self::words(code))),
        };
        self.gone(kind, what)
    }

    /// What the error says about another server of the cluster.
    pub(super) fn redirect(&self, error: &RedisError) -> Option<Redirect> {
        let code = error.code().filter(|_| self.is_cluster)?;
        if code == "TRYAGAIN" {
            return Some(Redirect::TryAgain);
        }
        let (address, _slot) = error.redirect_node()?;
        let host = host(address, &self.who)?;
        Some(if code == "MOVED" { Redirect::Moved(host) } else { Redirect::Ask(host) })
    }

    /// An error of `AUTH`. The server's words may contain the password, so they are not shown.
    pub(super) fn login(&self, error: &RedisError) -> StoreError {
        let words = error.detail().unwrap_or_default();
        match error.code() {
            None => self.error(error),
            Some("WRONGPASS") => self.gone(StoreErrorKind::Refused, WRONG_PASSWORD),
            Some("ERR") if words.contains("without any password configured") => self.gone(
                StoreErrorKind::Refused,
                "has no password for its user default: remove password in [store], or set username",
            ),
            Some(code) if code.bytes().all(|byte| byte.is_ascii_uppercase()) && code.len() < 20 => self.gone(
                StoreErrorKind::Refused,
                format_args!("did not accept username and password of [store] (error {code} of AUTH)"),
            ),
            Some(_) => self.garbage(),
        }
    }
}

const WRONG_PASSWORD: &str =
    "did not accept username and password of [store]: compare them with the server's users (ACL LIST)";

/// What a server says in an error: without control characters, and not too long.
fn words(text: &str) -> String {
    text.chars().map(|char| if char.is_control() { ' ' } else { char }).take(WORDS).collect()
}

/// `HOST:PORT`, with IPv6 in brackets or without. An empty host is the one of the server that sent it.
fn host(address: &str, sender: &str) -> Option<StoreHost> {
    let (host, port) = address.rsplit_once(':')?;
    let host = if host.is_empty() { sender.rsplit_once(':')?.0 } else { host };
    let host = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    Some(StoreHost::Tcp { host, port: port.parse().ok()? })
}
