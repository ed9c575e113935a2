//! URLs of a store's servers.

use std::path::Path;

use crate::config::model::StoreHost;
use crate::config::types::{Wrong, unix_path, url, wrong};

/// How a server is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    Redis,
    /// With TLS.
    Rediss,
    Unix,
}

impl Scheme {
    const WORDS: [(&'static str, Self); 2] = [("redis", Self::Redis), ("rediss", Self::Rediss)];
}

/// A server, and one of its databases.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct StoreUrl {
    pub scheme: Scheme,
    pub host: StoreHost,
    pub database: u32,
}

const EXAMPLE: &str =
    "write \"rediss://cache.internal:6379/0\", \"redis://…\" without TLS, or \"unix:/run/redis.sock\"";

/// Schemes of other programs, and what to write instead.
const OTHERS: [(&str, &str); 6] = [
    ("valkey", "write \"redis://…\", which serves Valkey too"),
    ("valkeys", "write \"rediss://…\", which serves Valkey too"),
    ("redis+unix", "write \"unix:/run/redis.sock\""),
    ("redis-socket", "write \"unix:/run/redis.sock\""),
    (
        "redis-sentinel",
        "write \"redis://…\" for each Sentinel in `urls`, and the service's name in `sentinel`",
    ),
    ("redis+cluster", "write \"redis://…\", and cluster = true"),
];

/// `"rediss://cache.internal:6379/0"`, `"unix:/run/redis.sock"`, `"unix:/run/redis.sock:/1"`. No error quotes the text,
/// because it may contain a password.
pub(crate) fn store_url(text: &str, folder: &Path, default_port: u16) -> Result<StoreUrl, Wrong> {
    if let Some(rest) = text.strip_prefix("unix:") {
        return unix(rest, folder);
    }
    let Some((written, rest)) = text.split_once("://") else {
        return Err(wrong("is not the URL of a store", EXAMPLE));
    };
    let known = Scheme::WORDS.into_iter().find(|(word, _)| written.eq_ignore_ascii_case(word));
    let Some((_, scheme)) = known else {
        let other = OTHERS.into_iter().find(|(word, _)| written.eq_ignore_ascii_case(word));
        let hint = other.map_or(EXAMPLE, |(_, hint)| hint);
        return Err(wrong("the URL's scheme is none of redis, rediss, unix", hint));
    };
    let parts = url::after_scheme(rest).map_err(|error| {
        // The hint for a wrong host suggests https.
        if error.hint.contains("https://") { wrong(error.message, EXAMPLE) } else { error }
    })?;
    if parts.userinfo.is_some() {
        return Err(wrong(
            "the URL contains a user or a password",
            "remove the part before `@`, and use `username` and `password`, which may be references",
        ));
    }
    let database = database(parts.path_and_query)?;
    let host = StoreHost::Tcp { host: parts.host, port: parts.port.unwrap_or(default_port) };
    Ok(StoreUrl { scheme, host, database })
}

fn unix(rest: &str, folder: &Path) -> Result<StoreUrl, Wrong> {
    if rest.contains('?') {
        return Err(wrong("the URL has a query", "write a database as \"unix:/run/redis.sock:/1\""));
    }
    let (socket, number) = rest.split_once(":/").unwrap_or((rest, ""));
    let host = StoreHost::Unix(unix_path(socket, folder)?);
    Ok(StoreUrl { scheme: Scheme::Unix, host, database: database(number)? })
}

/// The path of a URL, with or without its slash. None means the first database.
fn database(path: &str) -> Result<u32, Wrong> {
    if path.contains('?') {
        return Err(wrong("the URL has a query", "leave it out; a database is the path: \"redis://…/1\""));
    }
    match path.strip_prefix('/').unwrap_or(path) {
        "" => Ok(0),
        number if number.bytes().all(|byte| byte.is_ascii_digit()) => number
            .parse()
            .map_err(|_| wrong("the URL's database is not a 32-bit number", "such as \"redis://…/1\"")),
        _ => Err(wrong("the URL's path is not the number of a database", "such as \"redis://…/1\"")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<StoreUrl, Wrong> {
        store_url(text, Path::new("/etc/bearerd"), 6379)
    }

    #[test]
    fn reads_servers_sockets_and_databases() {
        let tcp = |host: &str, port| StoreHost::Tcp { host: host.to_owned(), port };
        let socket = |path: &str| StoreHost::Unix(path.into());
        for (text, scheme, host, database) in [
            ("redis://cache.internal", Scheme::Redis, tcp("cache.internal", 6379), 0),
            ("REDISS://Cache.internal:7000/", Scheme::Rediss, tcp("cache.internal", 7000), 0),
            ("rediss://[::1]:7000/15", Scheme::Rediss, tcp("::1", 7000), 15),
            ("redis://127.0.0.1/0", Scheme::Redis, tcp("127.0.0.1", 6379), 0),
            ("unix:/run/redis.sock", Scheme::Unix, socket("/run/redis.sock"), 0),
            ("unix:///run/redis.sock", Scheme::Unix, socket("/run/redis.sock"), 0),
            ("unix:redis.sock:/3", Scheme::Unix, socket("/etc/bearerd/redis.sock"), 3),
        ] {
            assert_eq!(read(text), Ok(StoreUrl { scheme, host, database }), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_no_store_and_quotes_nothing() {
        for (text, message, hint) in [
            ("", "is not the URL of a store", "rediss://"),
            ("canary:6379", "is not the URL of a store", "rediss://"),
            ("memcached://canary", "the URL's scheme is none of", "rediss://"),
            ("valkey://canary", "the URL's scheme is none of", "serves Valkey too"),
            ("redis-sentinel://canary", "the URL's scheme is none of", "in `sentinel`"),
            ("redis://:canary@h", "a user or a password", "`password`"),
            ("rediss://canary@h/0", "a user or a password", "`username`"),
            ("redis://", "the URL's host is not a host name", "rediss://"),
            ("redis:///0", "the URL's host is not a host name", "rediss://"),
            ("redis://h:0", "the URL's port", ""),
            ("redis://h#canary", "a fragment", ""),
            ("redis://h/canary", "is not the number of a database", "/1"),
            ("redis://h/0/canary", "is not the number of a database", "/1"),
            ("redis://h/-1", "is not the number of a database", "/1"),
            ("redis://h/99999999999", "is not a 32-bit number", "/1"),
            ("redis://h?db=1", "the URL has a query", "/1"),
            ("redis://h/1?protocol=resp3", "the URL has a query", "/1"),
            ("unix:", "needs a path", ""),
            ("unix:/run/r.sock?db=1", "the URL has a query", ":/1"),
            ("unix:/run/r.sock:/canary", "is not the number of a database", "/1"),
        ] {
            let error = read(text).expect_err(text);
            assert!(error.message.contains(message) && error.hint.contains(hint), "{text}: {error:?}");
            assert!(!format!("{error:?}").contains("canary"), "{text}: {error:?}");
        }
    }
}
