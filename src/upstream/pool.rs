//! Connections to upstreams, kept by the worker that made them: no lock, and nothing crosses threads.
//!
//! HTTP/1.1 connections are taken last in, first out, so that few stay warm and the rest age out. HTTP/2 connections
//! are shared; another one is opened where all are at the peer's limit of streams.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::Instant;

use super::Upstream;
use super::http1::Http1;
use super::http2::Http2;

/// How long an unused connection is kept. Below the idle limits that servers usually have, so that few die in use.
const IDLE: Duration = Duration::from_secs(50);
/// How often a worker that has connections looks for those that are too old, or that their upstream has closed: nothing
/// wakes it for that.
const SWEEP: Duration = Duration::from_secs(2);
/// Unused HTTP/1.1 connections that a worker keeps for one upstream.
const KEPT_FOR_EACH: usize = 256;

thread_local! {
    static POOLS: RefCell<Pools> = RefCell::new(Pools::default());
    static SWEEPING: Cell<bool> = const { Cell::new(false) };
}

/// By [`Upstream::id`].
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

/// One worker's connections to one upstream.
struct Pool {
    upstream: Weak<Upstream>,
    http1: Vec<Idle1>,
    http2: Vec<Http2>,
}

struct Idle1 {
    connection: Box<Http1>,
    since: Instant,
}

/// Takes the HTTP/1.1 connection that was used last and is fit for use.
pub(super) fn take_http1(upstream: &Upstream) -> Option<Box<Http1>> {
    let now = Instant::now();
    with_pool(upstream.id, |pool| {
        while let Some(mut idle) = pool.http1.pop() {
            if !upstream.too_old(idle.connection.born, now) && idle.connection.is_fit() {
                idle.connection.begins_call(now);
                return Some(idle.connection);
            }
        }
        None
    })?
}

pub(super) fn put_http1(upstream: &Arc<Upstream>, connection: Box<Http1>) {
    // Near enough, and the clock is not read once more for each call.
    let now = connection.moved_last().unwrap_or_else(Instant::now);
    if upstream.too_old(connection.born, now) {
        return;
    }
    with_new_pool(upstream, |pool| {
        if pool.http1.len() < KEPT_FOR_EACH {
            pool.http1.push(Idle1 { connection, since: now });
        }
    });
}

/// A shared HTTP/2 connection that takes one more stream.
pub(super) fn share_http2(upstream: &Upstream) -> Option<Http2> {
    let now = Instant::now();
    with_pool(upstream.id, |pool| {
        pool.http2.retain(|known| !known.sender.is_closed() && !upstream.too_old(known.born, now));
        let known = pool.http2.iter_mut().find(|known| known.takes_another())?;
        known.last_used = now;
        Some(known.clone())
    })?
}

pub(super) fn put_http2(upstream: &Arc<Upstream>, connection: Http2) {
    with_new_pool(upstream, |pool| pool.http2.push(connection));
}

fn with_pool<R>(id: u64, f: impl FnOnce(&mut Pool) -> R) -> Option<R> {
    POOLS.with_borrow_mut(|pools| pools.get_mut(&id).map(f))
}

fn with_new_pool(upstream: &Arc<Upstream>, f: impl FnOnce(&mut Pool)) {
    POOLS.with_borrow_mut(|pools| {
        f(pools.entry(upstream.id).or_insert_with(|| Pool {
            upstream: Arc::downgrade(upstream),
            http1: Vec::new(),
            http2: Vec::new(),
        }));
    });
    if !SWEEPING.replace(true) {
        tokio::spawn(sweep());
    }
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
        if empty {
            SWEEPING.set(false);
            return;
        }
    }
}

impl Pool {
    fn is_empty(&self) -> bool {
        self.http1.is_empty() && self.http2.is_empty()
    }

    /// Moves what is too old to `stale`; `false` where the upstream is no longer configured.
    fn keep_fresh(&mut self, now: Instant, stale: &mut Vec<Stale>) -> bool {
        let Some(upstream) = self.upstream.upgrade() else {
            stale.push((std::mem::take(&mut self.http1), std::mem::take(&mut self.http2)));
            return false;
        };
        let old1 = self.http1.extract_if(.., |idle| {
            let old = idle.since + IDLE < now || upstream.too_old(idle.connection.born, now);
            old || !idle.connection.is_fit()
        });
        let old1 = old1.collect();
        let old2 = self.http2.extract_if(.., |known| {
            let unused = known.streams.load(Ordering::Relaxed) == 0 && known.last_used + IDLE < now;
            known.sender.is_closed() || unused || upstream.too_old(known.born, now)
        });
        stale.push((old1, old2.collect()));
        true
    }
}

type Stale = (Vec<Idle1>, Vec<Http2>);
