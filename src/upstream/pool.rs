//! Connections to origins, kept by the worker that made them: no lock, and nothing crosses threads.
//!
//! HTTP/1.1 connections are taken last in, first out, so that few stay warm and the rest age out. HTTP/2 connections
//! are shared, and so is the dial of one: requests that come meanwhile wait for it, or for room on another one.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::{Notify, watch};
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
    room: Arc<Notify>,
}

struct Idle1 {
    connection: Box<Http1>,
    /// Then it is too old, or the upstream closes it.
    until: Instant,
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
        let shared = if origin.requires_http1() { None } else { pool.share_http2(max_age, now) };
        shared.map(Connection::Http2).or_else(|| pool.take_http1(max_age, now).map(Connection::Http1))
    })?
}

/// Whether there is an HTTP/2 connection on which there may be room some time.
pub(super) fn may_have_room(origin: &Origin) -> bool {
    with_pool(origin.id, |pool| pool.http2.iter().any(Http2::is_usable)).unwrap_or(false)
}

/// Whether the peer has said on a connection that it takes no requests for now: another one would be told the same.
pub(super) fn takes_nothing_now(origin: &Origin) -> bool {
    let shut = |known: &Http2| known.is_usable() && known.most_streams() == 0;
    with_pool(origin.id, |pool| pool.http2.iter().any(shut)).unwrap_or(false)
}

/// Is woken when an HTTP/2 connection has room, or is there no more.
pub(super) fn room(origin: &Arc<Origin>) -> Arc<Notify> {
    with_new_pool(origin, |pool| Arc::clone(&pool.room))
}

/// The response is at its end: the connection may serve another request.
pub(super) fn put_http1(origin: &Arc<Origin>, connection: Box<Http1>, max_age: Option<Duration>) {
    let now = Instant::now();
    let idle = now + connection.kept.map_or(IDLE, |kept| kept.min(IDLE));
    let until = max_age.map_or(idle, |max| idle.min(connection.born + max));
    if connection.sender.is_closed() || until <= now {
        return;
    }
    with_new_pool(origin, |pool| {
        if pool.http1.len() < KEPT_FOR_EACH {
            pool.http1.push(Idle1 { connection, until });
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
        let room = Arc::clone(&pool.room);
        let (origin, metrics) = (Arc::clone(origin), Arc::clone(metrics));
        let start = || spawn_dial(origin.id, async move { dial_once(&origin, &metrics, &room).await });
        pool.dial.get_or_insert_with(start).clone()
    })
}

async fn dial_once(
    origin: &Arc<Origin>,
    metrics: &Arc<RouteMetrics>,
    room: &Arc<Notify>,
) -> Result<Dialled, UpstreamError> {
    Ok(match origin.dial(false, metrics, room).await? {
        Connection::Http2(connection) => {
            put_http2(origin, connection.clone());
            Dialled::Http2(connection)
        }
        Connection::Http1(connection) => {
            put_http1(origin, connection, None);
            Dialled::Http1
        }
    })
}

fn spawn_dial(id: u64, dial: impl Future<Output = Result<Dialled, UpstreamError>> + Send + 'static) -> Dial {
    let (tell, waiting) = watch::channel(None);
    tokio::spawn(async move {
        let underway = Underway(id);
        let dialled = dial.await;
        drop(underway);
        // All who waited may have left.
        let _ = tell.send(Some(dialled));
    });
    waiting
}

/// A dial, until it is over; also where it panics.
struct Underway(u64);

impl Drop for Underway {
    fn drop(&mut self) {
        with_pool(self.0, |pool| pool.dial = None);
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
            room: Arc::default(),
        }))
    });
    if !SWEEPING.replace(true) {
        tokio::spawn(sweep());
    }
    result
}

/// Closes what nobody uses, so that others have its places; whether there was any.
pub(super) fn drop_unused() -> bool {
    POOLS.with_borrow_mut(|pools| pools.values_mut().filter_map(Pool::drop_unused).count() > 0)
}

/// One task for each worker, instead of a timer for each connection. Ends where there is none: the next one that is put
/// back starts it again.
async fn sweep() {
    loop {
        tokio::time::sleep(SWEEP).await;
        let now = Instant::now();
        let empty = POOLS.with_borrow_mut(|pools| {
            pools.retain(|_, pool| pool.keep_fresh(now));
            pools.values().all(Pool::is_empty)
        });
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

    /// The first one that still has room, so that others fall out of use and end.
    fn share_http2(&self, max_age: Option<Duration>, now: Instant) -> Option<Http2> {
        let fit = |known: &&Http2| known.has_room() && !is_too_old(known.state.born, max_age, now);
        self.http2.iter().find(fit).cloned()
    }

    /// The one that was used last and is fit for use.
    fn take_http1(&mut self, max_age: Option<Duration>, now: Instant) -> Option<Box<Http1>> {
        let fit = |idle: &Idle1| {
            let connection = &idle.connection;
            connection.sender.is_ready() && idle.until > now && !is_too_old(connection.born, max_age, now)
        };
        let at = self.http1.iter().rposition(fit)?;
        Some(self.http1.remove(at).connection)
    }

    /// `None`: there was nothing.
    fn drop_unused(&mut self) -> Option<()> {
        let before = self.http1.len() + self.http2.len();
        self.http1.clear();
        self.http2.retain(|known| known.unused_since().is_none());
        (self.http1.len() + self.http2.len() < before).then_some(())
    }

    /// Lets go of what is too old or has ended; `false` where the origin is no longer configured.
    fn keep_fresh(&mut self, now: Instant) -> bool {
        self.http1.retain(|idle| !idle.connection.sender.is_closed() && idle.until > now);
        self.http2
            .retain(|known| known.is_usable() && known.unused_since().is_none_or(|since| since + IDLE > now));
        self.origin.strong_count() > 0
    }
}

#[cfg(test)]
pub(super) fn dial_that_panics(origin: &Arc<Origin>) {
    let dial = spawn_dial(origin.id, async { panic!("as the test wants") });
    with_new_pool(origin, |pool| pool.dial = Some(dial));
}
