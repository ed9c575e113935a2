//! `[store]`: where tokens are kept, and who may read them there.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::document::Place;
use crate::config::model::{RedisConfig, RedisMode, StoreConfig, StoreHost, StorePlace, TlsOptions};
use crate::config::raw::values::{Flag, Lasting, RawPublic, RawReference, RawSecret, check};
use crate::config::raw::{RawStore, RawTls};
use crate::config::reference::Source;
use crate::config::report::Report;
use crate::config::resolve::value::{self, reference};
use crate::config::store_key::{HOW_TO_MAKE, StoreKey};
use crate::config::types::store_url::{Scheme, StoreUrl, store_url};
use crate::config::types::{url, wrong};

/// The keys for the store's place. Exactly one must be set.
const PLACES: [&str; 3] = ["url", "urls", "path"];
/// Keys that apply only to a server.
const OF_A_SERVER: [&str; 5] = ["cluster", "sentinel", "username", "password", "tls"];
const PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;
/// A request waits for the store at most this long.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(5);
const LONGEST_PREFIX: usize = 64;

/// `None`: there is no such table, or it has errors.
pub(super) fn resolve(place: &Place<'_>, raw: Option<RawStore>, report: &mut Report) -> Option<StoreConfig> {
    let RawStore { url, urls, cluster, sentinel, username, password, path, keys, prefix, timeout, tls } =
        raw?;
    check_places(place, report);
    let keys = store_keys(&place.key("keys"), keys, report);
    let prefix = prefix_of(&place.key("prefix"), prefix, report);
    let timeout = timeout_of(place, timeout, report);
    let of_server = OfServer {
        mode: mode(place, cluster, sentinel, report),
        username: username.and_then(|raw| user(&place.key("username"), raw, report)),
        password: password.and_then(|raw| reference(&place.key("password"), raw, report)),
        tls,
    };
    let place = match path {
        Some(path) if !names_a_server(place) => StorePlace::Folder(folder(place, &path, report)?),
        _ => StorePlace::Redis(redis(place, url, urls, of_server, report)?),
    };
    Some(StoreConfig { place, keys: keys?, prefix: prefix?, timeout })
}

/// What belongs to a server, apart from its URL.
struct OfServer {
    /// `None` if it has errors.
    mode: Option<RedisMode>,
    username: Option<Source>,
    password: Option<Source>,
    tls: Option<RawTls>,
}

fn names_a_server(place: &Place<'_>) -> bool {
    place.key("url").is_written() || place.key("urls").is_written()
}

fn check_places(place: &Place<'_>, report: &mut Report) {
    let mut written = PLACES.into_iter().filter(|key| place.key(key).is_written());
    let Some(first) = written.next() else {
        report.missing(
            &place.key("url"),
            "is missing",
            "url = \"rediss://cache.internal:6379\" for all replicas, or path = \"/var/lib/bearerd/tokens\" for this host",
        );
        return;
    };
    for other in written {
        report.error(&place.key(other), format!("cannot be combined with `{first}`"), "keep one of them");
    }
}

fn store_keys(at: &Place<'_>, written: Option<Vec<RawSecret>>, report: &mut Report) -> Option<Vec<Source>> {
    let hint = format!("keys = [{{ file = \"store.key\" }}]; {HOW_TO_MAKE}");
    let Some(written) = written else {
        report.missing(at, "is missing: everything in the store is encrypted", hint);
        return None;
    };
    if written.is_empty() {
        report.error(at, "is empty: everything in the store is encrypted", hint);
        return None;
    }
    let mut keys: Vec<Option<Source>> = Vec::new();
    for (index, raw) in written.into_iter().enumerate() {
        let place = at.index(index);
        let key = store_key(&place, raw, report);
        if let Some(key) = &key {
            tell_repeated(&place, key, &keys, report);
        }
        keys.push(key);
    }
    keys.into_iter().collect()
}

/// Reports a reference that is there twice. Two literals of one key, in hex and in base64, do no harm. `config/inspect.rs`
/// compares the values of references: files may have the same content while they are exchanged.
fn tell_repeated(place: &Place<'_>, key: &Source, before: &[Option<Source>], report: &mut Report) {
    let literal = |key: &Source| {
        let text = key.read().ok().filter(|_| key.is_literal())?;
        StoreKey::parse(&text).ok()
    };
    let hint = "leave out one of them";
    let before = || before.iter().enumerate().filter_map(|(index, other)| Some((index, other.as_ref()?)));
    if let Some((first, _)) = before().find(|(_, other)| *other == key) {
        report.error(place, format!("is the same as keys[{first}]"), hint);
    } else if let Some(key) = literal(key)
        && let Some((first, _)) = before().find(|(_, other)| literal(other).is_some_and(|it| it == key))
    {
        report.warning(place, format!("is the same key as keys[{first}]"), hint);
    }
}

/// Checks a literal now. The value of a reference is checked when it is read.
fn store_key(place: &Place<'_>, raw: RawSecret, report: &mut Report) -> Option<Source> {
    let source = reference(place, raw, report)?;
    if source.is_literal()
        && let Ok(literal) = source.read()
    {
        let parsed = StoreKey::parse(&literal).map_err(|why| wrong(why, HOW_TO_MAKE));
        check(place, parsed, report)?;
    }
    Some(source)
}

fn prefix_of(at: &Place<'_>, written: Option<String>, report: &mut Report) -> Option<String> {
    let prefix = written.unwrap_or_else(|| RawStore::PREFIX.to_owned());
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b':' | b'-');
    if (1..=LONGEST_PREFIX).contains(&prefix.len()) && prefix.bytes().all(allowed) {
        return Some(prefix);
    }
    let hint = format!("use 1 to {LONGEST_PREFIX} letters, digits, `.`, `_`, `:`, `-`");
    report.error(at, "is not a valid prefix", hint);
    None
}

fn timeout_of<const SECONDS: u64, const MILLIS: u64>(
    place: &Place<'_>,
    written: Lasting<SECONDS, MILLIS>,
    report: &mut Report,
) -> Duration {
    let timeout = written.read(place, "timeout", report);
    let at = place.key("timeout");
    if timeout.is_zero() {
        report.error(
            &at,
            "must be longer than \"0s\"",
            "without a timeout, a request could wait for the store forever: \"100ms\"",
        );
    } else if timeout > LONGEST_TIMEOUT {
        report.error(&at, "must be at most \"5s\"", "a request may wait for the store that long: \"100ms\"");
    }
    timeout
}

fn mode(
    place: &Place<'_>,
    cluster: Flag<false>,
    sentinel: Option<String>,
    report: &mut Report,
) -> Option<RedisMode> {
    let at = place.key("sentinel");
    match (cluster.0, sentinel) {
        (true, Some(_)) => {
            report.error(
                &at,
                "cannot be combined with `cluster`",
                "a cluster fails over by itself: keep one of them",
            );
            None
        }
        (true, None) => Some(RedisMode::Cluster),
        (false, Some(service))
            if service.is_empty() || !service.bytes().all(|byte| byte.is_ascii_graphic()) =>
        {
            report.error(
                &at,
                "is not the name of a service",
                "write the name from the config of the Sentinels: sentinel = \"mymaster\"",
            );
            None
        }
        (false, Some(service)) => Some(RedisMode::Sentinel { service }),
        (false, None) => Some(RedisMode::Single),
    }
}

fn user(place: &Place<'_>, raw: RawPublic, report: &mut Report) -> Option<Source> {
    if matches!(&raw.0, RawReference::Literal(text) if text.is_empty()) {
        report.error(place, "is empty", "leave it out for the server's default user");
        return None;
    }
    reference(place, raw, report)
}

fn folder(place: &Place<'_>, path: &str, report: &mut Report) -> Option<PathBuf> {
    for key in OF_A_SERVER.iter().map(|key| place.key(key)).filter(Place::is_written) {
        report.error(&key, "is for a server, but `path` is a folder of this host", "leave it out");
    }
    let at = place.key("path");
    if path.is_empty() || path.contains('\0') {
        report.error(&at, "is not the path of a folder", "path = \"/var/lib/bearerd/tokens\"");
        return None;
    }
    if path.contains("://") {
        report.error(&at, "is a URL, not the path of a folder", "write it as `url`");
        return None;
    }
    Some(place.document.file.folder.join(path))
}

fn redis(
    place: &Place<'_>,
    url: Option<String>,
    urls: Option<Vec<String>>,
    of_server: OfServer,
    report: &mut Report,
) -> Option<RedisConfig> {
    let OfServer { mode, username, password, tls } = of_server;
    if place.key("username").is_written() {
        report.missing(&place.key("password"), "is missing beside `username`", "password = { file = \"…\" }");
    }
    let tls = tls.map(|raw| value::tls(&place.key("tls"), Some(raw), report));
    let port = if place.key("sentinel").is_written() { SENTINEL_PORT } else { PORT };
    let servers = servers(place, url, urls, port, report)?;
    let mode = mode?;
    check_servers(&servers, &mode, report);
    check_several(place, &servers, &mode, report);
    let (_, first) = servers.first()?;
    let (scheme, database) = (first.scheme, first.database);
    let tls = tls_of(place, scheme, tls, report);
    let hosts: Vec<StoreHost> = servers.into_iter().map(|(_, url)| url.host).collect();
    warn_of_password(place, scheme, &hosts, report);
    Some(RedisConfig { hosts, tls, mode, username, password, database })
}

/// The servers, each with the place of its URL. `None` after an error.
fn servers<'t>(
    place: &Place<'t>,
    url: Option<String>,
    urls: Option<Vec<String>>,
    port: u16,
    report: &mut Report,
) -> Option<Vec<(Place<'t>, StoreUrl)>> {
    let folder = &place.document.file.folder;
    if let Some(text) = url {
        let at = place.key("url");
        let read = check(&at, store_url(&text, folder, port), report)?;
        return Some(vec![(at, read)]);
    }
    let at = place.key("urls");
    let urls = urls?;
    if urls.is_empty() {
        report.error(
            &at,
            "names no server",
            "urls = [\"rediss://cache-1.internal\", \"rediss://cache-2.internal\"]",
        );
        return None;
    }
    let read: Vec<_> = urls
        .iter()
        .enumerate()
        .map(|(index, text)| (at.index(index), store_url(text, folder, port)))
        .map(|(at, read)| Some((at.clone(), check(&at, read, report)?)))
        .collect();
    read.into_iter().collect()
}

/// Checks each URL against the others and the mode.
fn check_servers(servers: &[(Place<'_>, StoreUrl)], mode: &RedisMode, report: &mut Report) {
    let Some((_, first)) = servers.first() else { return };
    for (index, (at, server)) in servers.iter().enumerate() {
        if server.scheme != first.scheme {
            report.error(at, "has a different scheme from the first URL", "use the same scheme in all URLs");
        }
        if server.database != first.database {
            report.error(
                at,
                "names a different database from the first URL",
                "use the same database in all URLs",
            );
        }
        if servers.iter().take(index).any(|(_, other)| other.host == server.host) {
            report.error(at, "repeats an earlier server", "leave it out");
        }
        if *mode == RedisMode::Cluster && server.database != 0 {
            report.error(at, "names a database, but a cluster has only database 0", "leave it out");
        }
        if *mode != RedisMode::Single && server.scheme == Scheme::Unix {
            let hint = "write \"redis://…\" or \"rediss://…\"";
            report.error(at, "is a socket, but a cluster and Sentinels are reached over TCP", hint);
        }
    }
}

/// Independent servers would each have their own tokens and leases.
fn check_several(
    place: &Place<'_>,
    servers: &[(Place<'_>, StoreUrl)],
    mode: &RedisMode,
    report: &mut Report,
) {
    if servers.len() > 1 && *mode == RedisMode::Single {
        let message = "names several servers, but neither `cluster` nor `sentinel` is set";
        report.error(
            &place.key("urls"),
            message,
            "set cluster = true or sentinel = \"…\", or keep one of them",
        );
    }
}

/// `rediss://` turns TLS on.
fn tls_of(
    place: &Place<'_>,
    scheme: Scheme,
    written: Option<TlsOptions>,
    report: &mut Report,
) -> Option<TlsOptions> {
    if scheme == Scheme::Rediss {
        return Some(written.unwrap_or_default());
    }
    if written.is_some() {
        report.error(
            &place.key("tls"),
            "is for rediss://, but this URL does not use TLS",
            "write \"rediss://…\", or leave it out",
        );
    }
    None
}

fn warn_of_password(place: &Place<'_>, scheme: Scheme, hosts: &[StoreHost], report: &mut Report) {
    let at = place.key("password");
    let elsewhere = hosts.iter().find_map(|host| match host {
        StoreHost::Tcp { host, .. } if !url::is_this_machine(host) => Some(host),
        _ => None,
    });
    let Some(host) = elsewhere.filter(|_| scheme == Scheme::Redis && at.is_written()) else { return };
    let message = format!("redis:// sends the password in the clear to another machine ({host})");
    report.warning(
        &at,
        message,
        "write \"rediss://…\" if the server supports TLS; the tokens are encrypted either way",
    );
}
