//! TCP to a name: all of its addresses, the next one started when the last has not answered yet (after RFC 8305).

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::connect::{ConnectError, ConnectErrorKind, Progress, Step};

/// RFC 8305 section 5: the recommended "Connection Attempt Delay".
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Addresses named in an error; a name with more of them says how many were left out.
const ADDRESSES_NAMED: usize = 4;

/// Connects to any address of `host`. `who` stands in errors.
pub(super) async fn dial(
    host: &str,
    port: u16,
    who: &str,
    progress: &Progress,
) -> Result<TcpStream, ConnectError> {
    progress.enter(Step::Resolving);
    let addresses: Vec<SocketAddr> = tokio::net::lookup_host((host, port))
        .await
        .map_err(|error| unresolved(host, who, &resolver_words(&error)))?
        .collect();
    if addresses.is_empty() {
        return Err(unresolved(host, who, "it has no address"));
    }
    progress.enter(Step::Connecting);
    let stream = race(interleave(addresses)).await.map_err(|failures| unreachable(who, &failures))?;
    // A failure costs latency alone.
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

fn unresolved(host: &str, who: &str, why: &str) -> ConnectError {
    ConnectError {
        kind: ConnectErrorKind::Dns,
        message: format!("can't connect to {who}: the name {host} was not resolved: {why}"),
    }
}

/// What the resolver said, without std's preamble.
fn resolver_words(error: &io::Error) -> String {
    let text = error.to_string();
    text.strip_prefix("failed to lookup address information: ").unwrap_or(&text).to_owned()
}

/// One of each family in turn, beginning with the family that the resolver put first (RFC 8305 section 4).
fn interleave(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let v6_first = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let total = addresses.len();
    let (first, second): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| address.is_ipv6() == v6_first);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut mixed = Vec::with_capacity(total);
    while mixed.len() < total {
        mixed.extend(first.next());
        mixed.extend(second.next());
    }
    mixed
}

type Failures = Vec<(SocketAddr, io::Error)>;

/// The first connection that comes about; the others are dropped.
async fn race(addresses: Vec<SocketAddr>) -> Result<TcpStream, Failures> {
    let mut failures = Failures::new();
    if let [address] = addresses.as_slice() {
        return TcpStream::connect(*address).await.map_err(|error| vec![(*address, error)]);
    }
    let mut waiting = addresses.into_iter();
    let mut attempts = JoinSet::new();
    loop {
        if let Some(address) = waiting.next() {
            attempts.spawn(async move { (address, TcpStream::connect(address).await) });
        } else if attempts.is_empty() {
            return Err(failures);
        }
        tokio::select! {
            Some(ended) = attempts.join_next() => match ended {
                Ok((_, Ok(stream))) => return Ok(stream),
                Ok((address, Err(error))) => failures.push((address, error)),
                Err(_) => {}
            },
            () = tokio::time::sleep(ATTEMPT_DELAY), if waiting.len() > 0 => {}
        }
    }
}

fn unreachable(who: &str, failures: &Failures) -> ConnectError {
    let refused = failures.iter().all(|(_, error)| error.kind() == io::ErrorKind::ConnectionRefused);
    let mut message = String::new();
    if refused {
        let _ = write!(message, "{who} refused the connection (");
        list(&mut message, failures, |_| String::new());
        message.push_str("): is it running, and is the port right?");
    } else {
        let _ = write!(message, "can't connect to {who}: ");
        list(&mut message, failures, |error| format!(": {}", os_words(error)));
    }
    let kind = if refused { ConnectErrorKind::Refused } else { ConnectErrorKind::Unreachable };
    ConnectError { kind, message }
}

fn list(message: &mut String, failures: &Failures, tail: impl Fn(&io::Error) -> String) {
    for (at, (address, error)) in failures.iter().take(ADDRESSES_NAMED).enumerate() {
        let _ = write!(message, "{}{address}{}", if at == 0 { "" } else { ", " }, tail(error));
    }
    if let Some(more @ 1..) = failures.len().checked_sub(ADDRESSES_NAMED) {
        let _ = write!(message, " and {more} more");
    }
}

/// The system's words for an error, without `(os error 111)`.
pub(super) fn os_words(error: &io::Error) -> String {
    let text = error.to_string();
    let words = text.split(" (os error").next().unwrap_or(&text);
    words.to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn families_take_turns() {
        let given = addresses(&["[::1]:1", "[::2]:1", "[::3]:1", "10.0.0.1:1"]);
        assert_eq!(interleave(given), addresses(&["[::1]:1", "10.0.0.1:1", "[::2]:1", "[::3]:1"]));
        let given = addresses(&["10.0.0.1:1", "10.0.0.2:1", "[::1]:1"]);
        assert_eq!(interleave(given), addresses(&["10.0.0.1:1", "[::1]:1", "10.0.0.2:1"]));
    }

    async fn closed_port() -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    }

    #[tokio::test]
    async fn a_refused_address_is_passed_over() {
        let open = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = race(vec![closed_port().await, open.local_addr().unwrap()]).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), open.local_addr().unwrap());
    }

    #[tokio::test]
    async fn a_silent_address_does_not_hold_up_the_next() {
        // A full backlog makes the kernel drop further connection requests, as a dead machine would.
        let silent = tokio::net::TcpSocket::new_v4().unwrap();
        silent.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let silent = silent.listen(0).unwrap();
        let address = silent.local_addr().unwrap();
        let mut fillers = Vec::new();
        while let Ok(filler) =
            tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(address)).await
        {
            fillers.push(filler.unwrap());
        }

        let open = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = race(vec![address, open.local_addr().unwrap()]).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), open.local_addr().unwrap());
    }

    #[tokio::test]
    async fn refusals_name_every_address() {
        let (one, two) = (closed_port().await, closed_port().await);
        let error = unreachable("idp.example:443", &race(vec![one, two]).await.unwrap_err());
        assert_eq!(error.kind, ConnectErrorKind::Refused);
        assert!(error.message.starts_with("idp.example:443 refused the connection ("), "{}", error.message);
        assert!(error.message.contains(&one.to_string()), "{}", error.message);
        assert!(error.message.contains(&two.to_string()), "{}", error.message);
    }

    #[tokio::test]
    async fn a_name_that_does_not_exist_is_named() {
        let error =
            dial("does-not-exist.invalid", 443, "the-issuer:443", &Progress::default()).await.unwrap_err();
        assert_eq!(error.kind, ConnectErrorKind::Dns);
        assert!(error.message.contains("the name does-not-exist.invalid was not resolved: "), "{error:?}");
        assert!(!error.message.contains("failed to lookup"), "{error:?}");
    }
}
