//! Connections to origins, kept by the worker that made them: no lock, and nothing crosses threads.
//!
//! HTTP/1.1 connections are taken last in, first out, so that few stay warm and the rest age out. HTTP/2 connections
//! are shared, and so is the dial of one: requests that come meanwhile wait for it.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::connection::{Connection, Http1, Http2};
use super::error::UpstreamError;
use super::origin::Origin;
use crate::metrics::RouteMetrics;
use crate::net::UPSTREAMS;

/// How long an unused connection is kept. Below the idle limits that servers usually have, so that few die in use.
const IDLE: Duration = Duration::from_secs(50);
/// How often a worker that has connections looks for those that are too old.
const SWEEP: Duration = Duration::from_secs(2);
/// Unused HTTP/1.1 connections that a worker keeps for one origin.
const KEPT_FOR_EACH: usize = 256;

thread_local! {
    static POOLS: RefCell<Pools> = RefCell::new(Pools::default());
    static SWEEPING: Cell<bool> = const { Cell::new(false) };
}

/// By [`Origin::id`].
type Pools = HashMap<u64, Pool, BuildHasherDefault<ById>>;

/// Ids are our own and count up: spreading them costs one multiplication.
#[derive(Default)]
struct ById(u64);

impl Hasher for ById {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(self.0 ^ u64::from(*byte)));
    }

    fn write_u64(&mut self, id: u64) {
        // 2^64 divided by the golden ratio.
        self.0 = id.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}

/// One worker's connections to one origin.
struct Pool {
    origin: Weak<Origin>,
    http1: Vec<Idle1>,
    http2: Vec<Http2>,
    /// Under way; for all who wait.
    dial: Option<Dial>,
}

struct Idle1 {
    connection: Http1,
    since: Instant,
    /// `connection_max_age` of the route that used it last.
    max_age: Option<Duration>,
}

/// What comes of a shared dial; `None` while it is under way.
type Dial = watch::Receiver<Option<Result<Dialled, UpstreamError>>>;

#[derive(Clone)]
pub(super) enum Dialled {
    Http2(Http2),
    /// It is in the pool, for whoever comes first.
    Http1,
}

/// A connection that takes one more request; an HTTP/2 one before an HTTP/1.1 one.
pub(super) fn take(origin: &Origin, max_age: Option<Duration>) -> Option<Connection> {
    let now = Instant::now();
    with_pool(origin.id, |pool| {
        if !origin.requires_http1()
            && let Some(connection) = pool.share_http2(max_age, now)
        {
            return Some(Connection::Http2(connection));
        }
        pool.take_http1(max_age, now).map(Connection::Http1)
    })?
}

/// Any HTTP/2 connection that still lives, however many streams it has: they wait for their turn there.
pub(super) fn crowd(origin: &Origin) -> Option<Http2> {
    with_pool(origin.id, |pool| pool.http2.iter().find(|known| known.is_usable()).cloned())?
}

/// The response is at its end: the connection may serve another request.
pub(super) fn put_http1(origin: &Arc<Origin>, connection: Http1, max_age: Option<Duration>) {
    let now = Instant::now();
    if connection.sender.is_closed() || is_too_old(connection.born, max_age, now) {
        return;
    }
    with_new_pool(origin, |pool| {
        if pool.http1.len() < KEPT_FOR_EACH {
            pool.http1.push(Idle1 { connection, since: now, max_age });
        }
    });
}

/// For all requests to share.
pub(super) fn put_http2(origin: &Arc<Origin>, connection: Http2) {
    with_new_pool(origin, |pool| pool.http2.push(connection));
}

/// The dial that is under way, or a new one. It goes on where the request that began it is given up.
pub(super) fn dial(origin: &Arc<Origin>, metrics: &Arc<RouteMetrics>) -> Dial {
    with_new_pool(origin, |pool| {
        if let Some(dial) = &pool.dial {
            return dial.clone();
        }
        let (tell, dial) = watch::channel(None);
        pool.dial = Some(dial.clone());
        let (origin, metrics) = (Arc::clone(origin), Arc::clone(metrics));
        tokio::spawn(async move {
            // Dropped also where the dial panics.
            let _done = Done(Arc::clone(&origin));
            let dialled = match origin.dial(false, &metrics).await {
                Ok(Connection::Http2(connection)) => {
                    put_http2(&origin, connection.clone());
                    Ok(Dialled::Http2(connection))
                }
                Ok(Connection::Http1(connection)) => {
                    put_http1(&origin, connection, None);
                    Ok(Dialled::Http1)
                }
                Err(error) => Err(error),
            };
            with_pool(origin.id, |pool| pool.dial = None);
            // All who waited may have left.
            let _ = tell.send(Some(dialled));
        });
        dial
    })
}

struct Done(Arc<Origin>);

impl Drop for Done {
    fn drop(&mut self) {
        with_pool(self.0.id, |pool| pool.dial = pool.dial.take().filter(|dial| dial.has_changed().is_ok()));
    }
}

fn is_too_old(born: Instant, max_age: Option<Duration>, now: Instant) -> bool {
    max_age.is_some_and(|max| born + max < now)
}

fn with_pool<R>(id: u64, f: impl FnOnce(&mut Pool) -> R) -> Option<R> {
    POOLS.with_borrow_mut(|pools| pools.get_mut(&id).map(f))
}

fn with_new_pool<R>(origin: &Arc<Origin>, f: impl FnOnce(&mut Pool) -> R) -> R {
    let result = POOLS.with_borrow_mut(|pools| {
        f(pools.entry(origin.id).or_insert_with(|| Pool {
            origin: Arc::downgrade(origin),
            http1: Vec::new(),
            http2: Vec::new(),
            dial: None,
        }))
    });
    if !SWEEPING.replace(true) {
        tokio::spawn(sweep());
    }
    result
}

/// Closes what nobody uses, so that others have its places; whether there was any.
pub(super) fn drop_unused() -> bool {
    let unused: Vec<Stale> =
        POOLS.with_borrow_mut(|pools| pools.values_mut().map(Pool::take_unused).collect());
    unused.iter().any(|(http1, http2)| !http1.is_empty() || !http2.is_empty())
}

/// One task for each worker, instead of a timer for each connection. Ends where there is none: the next one that is put
/// back starts it again.
async fn sweep() {
    loop {
        tokio::time::sleep(SWEEP).await;
        let now = Instant::now();
        let (stale, empty) = POOLS.with_borrow_mut(|pools| {
            let mut stale = Vec::new();
            pools.retain(|_, pool| pool.keep_fresh(now, &mut stale));
            (stale, pools.values().all(Pool::is_empty))
        });
        // Dropped outside the borrow: a connection's end must not find the pools borrowed.
        drop(stale);
        // A dial of another worker found no place.
        if UPSTREAMS.are_taken() {
            drop_unused();
        }
        if empty {
            SWEEPING.set(false);
            return;
        }
    }
}

impl Pool {
    fn is_empty(&self) -> bool {
        self.http1.is_empty() && self.http2.is_empty() && self.dial.is_none()
    }

    /// The one with the most streams that still has room, so that others fall out of use and end.
    fn share_http2(&mut self, max_age: Option<Duration>, now: Instant) -> Option<Http2> {
        self.http2.retain(Http2::is_usable);
        let fit = |known: &&Http2| known.has_room() && !is_too_old(known.state.born, max_age, now);
        self.http2.iter().find(fit).cloned()
    }

    /// The one that was used last and is fit for use.
    fn take_http1(&mut self, max_age: Option<Duration>, now: Instant) -> Option<Http1> {
        let mut busy = Vec::new();
        let mut taken = None;
        while let Some(idle) = self.http1.pop() {
            let connection = &idle.connection;
            if idle.is_stale(now) || is_too_old(connection.born, max_age, now) {
                continue;
            }
            if connection.sender.is_ready() {
                taken = Some(idle.connection);
                break;
            }
            // It still sends the rest of a body whose response is complete.
            busy.push(idle);
        }
        self.http1.extend(busy.into_iter().rev());
        taken
    }

    fn take_unused(&mut self) -> Stale {
        let http2 = self.http2.extract_if(.., |known| known.unused_since().is_some());
        (std::mem::take(&mut self.http1), http2.collect())
    }

    /// Moves what is too old to `stale`; `false` where the origin is no longer configured.
    fn keep_fresh(&mut self, now: Instant, stale: &mut Vec<Stale>) -> bool {
        if self.origin.strong_count() == 0 {
            stale.push((std::mem::take(&mut self.http1), std::mem::take(&mut self.http2)));
            return false;
        }
        let old1 = self.http1.extract_if(.., |idle| idle.is_stale(now)).collect();
        let old2 = self.http2.extract_if(.., |known| {
            !known.is_usable() || known.unused_since().is_some_and(|since| since + IDLE < now)
        });
        stale.push((old1, old2.collect()));
        true
    }
}

impl Idle1 {
    fn is_stale(&self, now: Instant) -> bool {
        let connection = &self.connection;
        connection.sender.is_closed()
            || self.since + IDLE < now
            || connection.kept_until.is_some_and(|until| until <= now)
            || is_too_old(connection.born, self.max_age, now)
    }
}

type Stale = (Vec<Idle1>, Vec<Http2>);
