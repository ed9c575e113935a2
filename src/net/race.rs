//! Tries the addresses of a name (RFC 8305, "Happy Eyeballs").

use std::net::SocketAddr;
use std::time::Duration;

use tokio::task::JoinSet;

/// RFC 8305 section 5: the recommended "Connection Attempt Delay".
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// One of each family in turn, beginning with the family that the resolver put first (RFC 8305 section 4).
pub(super) fn interleave(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
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

/// Returns the first successful attempt and drops the others. The next attempt starts when one has failed, or after a delay.
/// Failures go to `failures`, so that they are known even if this future is dropped.
pub(super) async fn race<T, E, F>(
    addresses: Vec<SocketAddr>,
    attempt: impl Fn(SocketAddr) -> F,
    failures: &mut Vec<(SocketAddr, E)>,
) -> Option<T>
where
    F: Future<Output = Result<T, E>> + Send + 'static,
    T: Send + 'static,
    E: Send + 'static,
{
    if let [address] = addresses.as_slice() {
        return attempt(*address).await.map_err(|error| failures.push((*address, error))).ok();
    }
    let mut waiting = addresses.into_iter();
    let mut attempts = JoinSet::new();
    loop {
        if let Some(address) = waiting.next() {
            let attempt = attempt(address);
            attempts.spawn(async move { (address, attempt.await) });
        } else if attempts.is_empty() {
            return None;
        }
        tokio::select! {
            Some(ended) = attempts.join_next() => match ended {
                Ok((_, Ok(connected))) => return Some(connected),
                Ok((address, Err(error))) => failures.push((address, error)),
                // A bug, which is in the log.
                Err(_) => {}
            },
            () = tokio::time::sleep(ATTEMPT_DELAY), if waiting.len() > 0 => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, sleep};

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

    /// Each port is how many milliseconds its attempt takes; an even one fails.
    async fn by_port(ports: &[u16]) -> (Option<u16>, Duration, Vec<u16>) {
        let addresses = ports.iter().map(|port| SocketAddr::from(([192, 0, 2, 1], *port))).collect();
        let begin = Instant::now();
        let mut failures = Vec::new();
        let attempt = |address: SocketAddr| async move {
            sleep(Duration::from_millis(address.port().into())).await;
            if address.port() % 2 == 1 { Ok(address.port()) } else { Err(address.port()) }
        };
        let won = race(addresses, attempt, &mut failures).await;
        (won, begin.elapsed(), failures.into_iter().map(|(_, port)| port).collect())
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_attempt_begins_after_a_failure_or_a_delay() {
        let ms = Duration::from_millis;
        assert_eq!(by_port(&[101, 51]).await, (Some(101), ms(101), vec![]), "a quick first one is alone");
        assert_eq!(by_port(&[10, 51]).await, (Some(51), ms(61), vec![10]), "at once after a failure");
        assert_eq!(by_port(&[9001, 51]).await, (Some(51), ms(301), vec![]), "one that hangs is passed by");
        assert_eq!(by_port(&[401, 9001]).await, (Some(401), ms(401), vec![]), "the first may still win");
        assert_eq!(by_port(&[9001, 10, 9001, 21]).await, (Some(21), ms(531), vec![10]));
        assert_eq!(by_port(&[10, 20]).await, (None, ms(30), vec![10, 20]));
        assert_eq!(by_port(&[10]).await, (None, ms(10), vec![10]));
    }
}
