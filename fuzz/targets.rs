//! What is fuzzed, and what must hold whatever the bytes. `cargo test` replays the corpora through the same functions.

#[path = "connection.rs"]
mod connections;
#[path = "connect.rs"]
mod connects;
#[path = "served.rs"]
mod served;

use std::task::{Context, Poll, Waker};

use bearerd::jose::{Certificate, PrivateKey, Proof, Prover};
use bearerd::route::{host, path};
use bearerd::secret::Secret;

/// A config file: it loads, or bearerd reports every error.
pub(crate) fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Err(problems) = bearerd::config::load_text(text) {
        assert!(!problems.0.is_empty(), "refused without a reason");
        for problem in &problems.0 {
            assert!(!problem.to_string().is_empty());
        }
    }
}

/// A response of a token endpoint: the first byte chooses status and format, the rest is the body.
pub(crate) fn token_response(bytes: &[u8]) {
    bearerd::issuer::fuzz_response(bytes);
}

/// A secret, how it is encoded, and the text around it: what is shown holds nothing of it.
pub(crate) fn masked(bytes: &[u8]) {
    bearerd::issuer::fuzz_masked(bytes);
}

/// A request to a webhook: a line with the signature, one with the pointer, and the body.
pub(crate) fn webhook(bytes: &[u8]) {
    bearerd::webhook::fuzz_call(bytes);
}

/// A script for whole connections of callers and upstreams.
pub(crate) fn connection(bytes: &[u8]) {
    connections::run(bytes);
}

/// What a program sends to a forward listener: a head of CONNECT, and what follows it.
pub(crate) fn connect(bytes: &[u8]) {
    connects::run(bytes);
}

/// Lines: a target that gets a token, a challenge, a nonce, a `Location`.
pub(crate) fn texts(bytes: &[u8]) {
    bearerd::proxy::fuzz_texts(bytes);
}

/// A key file: the first line is a password (empty: none), the rest the file. Nothing
/// panics; a key that is taken signs.
pub(crate) fn key(bytes: &[u8]) {
    let split = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let (password, file) = bytes.split_at(split);
    let password = (!password.is_empty()).then(|| Secret::new(password));
    let file = Secret::new(file.get(1..).unwrap_or_default());
    let _ = Certificate::parse_chain_with(file.expose(), password.as_ref());
    match PrivateKey::parse(&file, password.as_ref()) {
        Ok(key) => {
            let prover = Prover::new(key, None).expect("a key goes with its own algorithm");
            let url = "https://a.example/";
            let proof =
                Proof { method: "GET", url, issued_at: std::time::UNIX_EPOCH, nonce: None, token: None };
            let made = std::pin::pin!(prover.proof(&proof)).poll(&mut Context::from_waker(Waker::noop()));
            let Poll::Ready(made) = made else { panic!("a key in memory signs at once") };
            assert_eq!(made.expect("a key signs").expose().split(|b| *b == b'.').count(), 3);
        }
        Err(error) => assert!(!error.to_string().is_empty(), "refused without a reason"),
    }
}

/// Lines: a request target, an upstream's path, a `Host`.
pub(crate) fn path(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.split('\n');
    let mut line = || lines.next().unwrap_or_default();
    request_target(line(), line());
    host_header(line());
}

fn request_target(target: &str, upstream: &str) {
    let (raw, query) = match target.split_once('?') {
        Some((raw, query)) => (raw, Some(query)),
        None => (target, None),
    };
    let Ok(parsed) = path::parse(raw) else { return };
    assert_eq!(parsed.raw, raw);
    let again = path::parse(&parsed.canonical);
    assert_eq!(
        again.as_ref().map(|again| &again.canonical),
        Ok(&parsed.canonical),
        "the canonical form is its own"
    );
    assert_eq!(again.map(|again| again.encoded_slash), Ok(parsed.encoded_slash));
    assert!(!climbs(&parsed.canonical), "{raw:?} passed with a dot segment");
    let segments = raw.matches('/').count();
    assert_eq!(segments, parsed.canonical.matches('/').count());
    for prefix in (0..=segments).map(Some).chain([None]) {
        up(upstream, raw, query, prefix);
    }
}

fn up(upstream: &str, raw: &str, query: Option<&str>, prefix: Option<usize>) {
    let up = path::upstream_target(upstream, raw, query, prefix);
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    assert!(up.ends_with(&query), "the query goes up byte for byte");
    let path = up.strip_suffix(&query).unwrap_or_default();
    assert!(!path.is_empty(), "something always goes up");
    match prefix {
        Some(0) => assert!(path.ends_with(raw), "prefix / keeps the whole path"),
        None => {
            assert!(path == upstream || upstream.is_empty() && path == "/", "an exact path is replaced whole")
        }
        Some(_) => assert!(path.starts_with(upstream.strip_suffix('/').unwrap_or(upstream))),
    }
}

/// A dot segment as the most lenient of servers would see one, short of decoding twice.
fn climbs(canonical: &str) -> bool {
    let decoded = canonical.replace("%2F", "/").replace("%3B", ";");
    decoded.split('/').any(|segment| matches!(segment.split(';').next(), Some("." | "..")))
}

fn host_header(authority: &str) {
    let Some(host) = host::split_host(authority) else { return };
    assert!(!host.is_empty() && host.is_ascii() && host == host.to_ascii_lowercase());
    let shown = if host.contains(':') { format!("[{host}]") } else { host.to_string() };
    assert_eq!(host::split_host(&shown), Some(host));
}
