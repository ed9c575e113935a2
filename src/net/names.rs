//! Resolves names with the system's resolver, which obeys the machine's settings.
//!
//! The process has at most one look-up of a name at a time, so that a look-up that hangs costs one thread, or a few if there
//! are no known addresses. Meanwhile, the last known addresses are used.

use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use dns_lookup::{AddrInfoHints, LookupError, LookupErrorKind, SockType};
use moka::sync::Cache;
use tokio::time::{Instant, sleep, timeout_at};

use crate::aside::{Aside, AsideError, SharedWork, WorkInProgress};

/// The threads of look-ups, one for each name that is being resolved.
static THREADS: Aside = Aside::new("lookup", 64);
/// How long to wait for a look-up if the last addresses are known.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long the last addresses may be used with TLS, which shows who responds.
pub(super) const WITH_TLS: Duration = Duration::from_secs(3600);
/// How long they may be used without TLS, because an address may belong to another machine by then. Caching resolvers keep
/// them as long.
pub(super) const WITHOUT_TLS: Duration = Duration::from_secs(60);
/// After this time, another look-up of the name may start.
const SPACING: Duration = Duration::from_millis(1250);
/// The most look-ups of one name, because resolvers time out after 10 s.
const AT_ONCE: usize = 8;
/// The most names in the cache. A config has fewer.
const KEPT: u64 = 16 * 1024;

/// A function that resolves a name, and blocks. The port of the addresses has no meaning.
type Lookup = dyn Fn(&str) -> Result<Vec<SocketAddr>, NotFound> + Send + Sync;

/// Why a look-up failed, in the resolver's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NotFound {
    /// The name does not exist, or has no address.
    Gone(String),
    /// The resolver could not find out now.
    Failed(String),
}

/// Why there are no addresses for a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unresolved {
    Dns(String),
    Machine(AsideError),
}

/// The look-ups and known addresses of a process.
pub(super) struct Names {
    lookup: Arc<Lookup>,
    running: Arc<SharedWork<Found>>,
    last_good: Cache<Arc<str>, Arc<LastGood>>,
}

type Found = Result<Arc<[SocketAddr]>, NotFound>;

struct LastGood {
    addresses: Arc<[SocketAddr]>,
    found: Instant,
    /// Limits the log lines about the use of old addresses.
    told: AtomicBool,
}

impl Names {
    /// The names of the system's resolver, shared by the whole process.
    pub(super) fn of_the_system() -> &'static Self {
        static NAMES: LazyLock<Names> = LazyLock::new(|| Names::new(Arc::new(getaddrinfo), &THREADS));
        &NAMES
    }

    pub(super) fn new(lookup: Arc<Lookup>, threads: &'static Aside) -> Self {
        let last_good = Cache::builder().max_capacity(KEPT).time_to_live(WITH_TLS).build();
        Self { lookup, running: Arc::new(SharedWork::new(threads)), last_good }
    }

    /// Every address of `host`, at least one. Known addresses may be used up to an age of `oldest`.
    pub(super) async fn addresses(
        &self,
        host: &str,
        port: u16,
        oldest: Duration,
    ) -> Result<Vec<SocketAddr>, Unresolved> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        let found = self.find(host, oldest).await?;
        let with_port = |address: &SocketAddr| {
            let mut address = *address;
            address.set_port(port);
            address
        };
        Ok(found.iter().map(with_port).collect())
    }

    async fn find(&self, host: &str, oldest: Duration) -> Result<Arc<[SocketAddr]>, Unresolved> {
        let last_good = self.last_good.get(host).filter(|known| known.found.elapsed() < oldest);
        let flight = self.running.join(host, self.look_up(host));
        let Some(last_good) = last_good else {
            return match self.first_of(host, flight).await.map_err(Unresolved::Machine)? {
                Ok(found) => Ok(found),
                Err(NotFound::Gone(why) | NotFound::Failed(why)) => Err(Unresolved::Dns(why)),
            };
        };
        match timeout_at(flight.began() + PATIENCE, flight.outcome()).await {
            Ok(Ok(Ok(found))) => Ok(found),
            Ok(Ok(Err(NotFound::Gone(why)))) => Err(Unresolved::Dns(why)),
            Ok(Ok(Err(NotFound::Failed(why)))) => Ok(last_good.instead(host, &why)),
            Ok(Err(error)) => Ok(last_good.instead(host, &error.to_string())),
            Err(_) => Ok(last_good.instead(host, "the look-up takes long")),
        }
    }

    /// What this look-up finds, or one that is begun meanwhile: a resolver that is silent and comes back does not know of
    /// what it was asked before, and is asked again by the same look-up after seconds only.
    async fn first_of(&self, host: &str, flight: WorkInProgress<Found>) -> Result<Found, AsideError> {
        let mut first = pin!(flight.outcome());
        loop {
            let latest = self.running.join_recent(host, self.look_up(host), SPACING, AT_ONCE);
            tokio::select! {
                found = &mut first => return found,
                found = latest.outcome() => return found,
                () = sleep(SPACING) => {}
            }
        }
    }

    fn look_up(&self, host: &str) -> impl FnOnce() -> Found + Send + 'static {
        let (lookup, last_good) = (Arc::clone(&self.lookup), self.last_good.clone());
        let host: Arc<str> = host.into();
        move || {
            let found = lookup(&host).and_then(|found| {
                if found.is_empty() { Err(NotFound::Gone("it has no address".to_owned())) } else { Ok(found) }
            });
            match found {
                Ok(found) => {
                    let addresses: Arc<[SocketAddr]> = found.into();
                    let told = AtomicBool::new(false);
                    last_good.insert(
                        host,
                        Arc::new(LastGood { addresses: Arc::clone(&addresses), found: Instant::now(), told }),
                    );
                    Ok(addresses)
                }
                Err(error) => {
                    if let NotFound::Gone(_) = error {
                        last_good.invalidate(&host);
                    }
                    Err(error)
                }
            }
        }
    }
}

impl LastGood {
    fn instead(&self, host: &str, why: &str) -> Arc<[SocketAddr]> {
        if !self.told.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                event = "dns.stale_used",
                name = host,
                why,
                "a name can't be resolved now; its last addresses are in use"
            );
        }
        Arc::clone(&self.addresses)
    }
}

fn getaddrinfo(host: &str) -> Result<Vec<SocketAddr>, NotFound> {
    let hints = AddrInfoHints { socktype: SockType::Stream.into(), ..AddrInfoHints::default() };
    let found = dns_lookup::getaddrinfo(Some(host), None, Some(hints)).map_err(not_found)?;
    // Other address families cannot be used.
    Ok(found.filter_map(Result::ok).map(|found| found.sockaddr).collect())
}

fn not_found(error: LookupError) -> NotFound {
    let kind = error.kind();
    let text = std::io::Error::from(error).to_string();
    let words = text.strip_prefix("failed to lookup address information: ").unwrap_or(&text).to_owned();
    match kind {
        LookupErrorKind::NoName | LookupErrorKind::NoData => NotFound::Gone(words),
        _ => NotFound::Failed(words),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_types, reason = "tests")]

    use std::sync::Mutex;
    use std::sync::atomic::AtomicUsize;
    use std::sync::mpsc;

    use super::*;

    fn names(lookup: impl Fn(&str) -> Result<Vec<SocketAddr>, NotFound> + Send + Sync + 'static) -> Names {
        let threads = Box::leak(Box::new(Aside::new("test", 8)));
        Names::new(Arc::new(lookup), threads)
    }

    fn address() -> SocketAddr {
        "192.0.2.1:0".parse().unwrap()
    }

    async fn soon<F: Future>(future: F) -> F::Output {
        tokio::time::timeout(Duration::from_secs(20), future).await.expect("in time")
    }

    #[tokio::test]
    async fn a_name_that_hangs_costs_few_look_ups_and_stops_no_other_name() {
        let (open, gate) = mpsc::channel::<()>();
        let gate = Mutex::new(gate);
        let hanging = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&hanging);
        let names = Arc::new(names(move |host| {
            if host == "hangs.example" {
                counted.fetch_add(1, Ordering::SeqCst);
                let _ = gate.lock().unwrap().recv();
            }
            Ok(vec![address()])
        }));
        let mut callers = tokio::task::JoinSet::new();
        for _ in 0..1000 {
            let names = Arc::clone(&names);
            callers.spawn(async move { names.addresses("hangs.example", 443, WITH_TLS).await });
        }
        tokio::task::yield_now().await;
        for number in 0..100 {
            let found = soon(names.addresses(&format!("{number}.example"), 80, WITH_TLS)).await;
            assert_eq!(found, Ok(vec!["192.0.2.1:80".parse().unwrap()]));
        }
        drop(open);
        for found in soon(callers.join_all()).await {
            assert_eq!(found, Ok(vec!["192.0.2.1:443".parse().unwrap()]));
        }
        let begun = hanging.load(Ordering::SeqCst);
        assert!(begun <= AT_ONCE, "not one for each caller: {begun}");
    }

    #[tokio::test]
    async fn a_resolver_that_is_back_is_noticed_although_the_look_up_of_before_hangs() {
        let (_open, gate) = mpsc::channel::<()>();
        let gate = Mutex::new(gate);
        let (away, begun) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
        let (is_away, counted) = (Arc::clone(&away), Arc::clone(&begun));
        let names = Arc::new(names(move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
            if is_away.load(Ordering::SeqCst) {
                let _ = gate.lock().unwrap().recv();
            }
            Ok(vec![address()])
        }));
        let waits = Arc::clone(&names);
        let waits = tokio::spawn(async move { waits.addresses("a.example", 1, WITH_TLS).await });
        while begun.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        away.store(false, Ordering::SeqCst);
        assert!(soon(waits).await.unwrap().is_ok());
        assert!(soon(names.addresses("a.example", 1, WITH_TLS)).await.is_ok());
        let begun = begun.load(Ordering::SeqCst);
        assert!((2..=3).contains(&begun), "{begun}");
    }

    #[tokio::test]
    async fn the_last_addresses_serve_while_a_look_up_hangs() {
        let (open, gate) = mpsc::channel::<()>();
        let gate = Mutex::new(gate);
        let names = names(move |_| {
            let _ = gate.lock().unwrap().recv();
            Ok(vec![address()])
        });
        open.send(()).unwrap();
        assert!(soon(names.addresses("a.example", 1, WITH_TLS)).await.is_ok());
        // Nobody opens the gate for the second look-up: the second caller waits, the third need not any more.
        assert!(soon(names.addresses("a.example", 1, WITH_TLS)).await.is_ok());
        let flight = names.running.join("a.example", || unreachable!("it is under way"));
        assert!(flight.began().elapsed() >= PATIENCE);
        let at_once = tokio::time::timeout(PATIENCE / 2, names.addresses("a.example", 1, WITH_TLS)).await;
        assert!(at_once.expect("at once").is_ok());
        let too_old =
            tokio::time::timeout(PATIENCE / 2, names.addresses("a.example", 1, Duration::ZERO)).await;
        assert!(too_old.is_err(), "these addresses are not wanted any more");
    }

    #[tokio::test]
    async fn the_last_addresses_serve_in_a_failure_and_not_of_a_name_that_is_gone() {
        let answers = Mutex::new(vec![
            Err(NotFound::Failed("later".to_owned())),
            Err(NotFound::Gone("no such name".to_owned())),
            Err(NotFound::Failed("temporary".to_owned())),
            Ok(vec![address()]),
            Ok(Vec::new()),
            Err(NotFound::Failed("at first".to_owned())),
        ]);
        let names = names(move |_| answers.lock().unwrap().pop().unwrap());
        let mut found = Vec::new();
        for _ in 0..6 {
            found.push(soon(names.addresses("a.example", 1, WITH_TLS)).await.map(|found| found.len()));
        }
        let dns = |why: &str| Err(Unresolved::Dns(why.to_owned()));
        assert_eq!(
            found,
            [dns("at first"), dns("it has no address"), Ok(1), Ok(1), dns("no such name"), dns("later")]
        );
    }

    #[tokio::test]
    async fn without_a_thread_the_last_addresses_serve_or_it_is_told() {
        static NONE: Aside = Aside::refused("test");
        let names = Names::new(Arc::new(|_: &str| Ok(vec![address()])), &NONE);
        let refused = soon(names.addresses("a.example", 1, WITH_TLS)).await;
        assert!(matches!(refused, Err(Unresolved::Machine(AsideError::NoThread(..)))), "{refused:?}");
        assert!(soon(names.addresses("192.0.2.7", 1, WITH_TLS)).await.is_ok(), "an address needs no look-up");
        let told = AtomicBool::new(false);
        names.last_good.insert(
            "a.example".into(),
            Arc::new(LastGood { addresses: [address()].into(), found: Instant::now(), told }),
        );
        assert!(soon(names.addresses("a.example", 1, WITH_TLS)).await.is_ok());
    }

    #[test]
    fn the_systems_errors_are_told_apart() {
        for (number, gone) in [(-2, true), (-5, true), (-3, false), (-4, false), (-11, false)] {
            let error = not_found(LookupError::new(number));
            assert_eq!(matches!(error, NotFound::Gone(_)), gone, "{number}: {error:?}");
        }
        let NotFound::Gone(words) = not_found(LookupError::new(-2)) else { panic!("EAI_NONAME") };
        assert!(!words.contains("failed to lookup"), "{words}");
    }
}
