//! Connections to upstreams, kept by the worker that made them: no lock, and nothing crosses threads.
//!
//! HTTP/1.1 connections are taken last in, first out, so that few stay warm and the rest age out. HTTP/2 connections
//! are shared; another one is opened where all are at the peer's limit of streams.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use hyper::client::conn::{http1, http2};
use tokio::time::Instant;

use super::Upstream;
use super::connection::ReadCount;
use super::idle::Idle;
use super::request_body::RequestBody;

/// How long an unused connection is kept. Below the idle limits that servers usually have, so that few die in use.
const IDLE: Duration = Duration::from_secs(50);
/// How often a worker looks for connections that are too old.
const SWEEP: Duration = Duration::from_secs(5);
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
    connection: Http1,
    since: Instant,
}

/// An HTTP/1.1 connection.
#[derive(Debug)]
pub(super) struct Http1 {
    pub(super) sender: http1::SendRequest<RequestBody>,
    pub(super) born: Instant,
    pub(super) read: ReadCount,
    /// Times out the answers of its calls: one timer for all of them, see [`Idle`].
    pub(super) patience: Idle,
}

/// An HTTP/2 connection; clones share it.
#[derive(Debug, Clone)]
pub(super) struct Http2 {
    pub(super) sender: http2::SendRequest<RequestBody>,
    pub(super) born: Instant,
    pub(super) last_used: Instant,
    pub(super) streams: Arc<AtomicUsize>,
    /// What the peer takes at a time, as of its last SETTINGS.
    pub(super) most_streams: Arc<AtomicUsize>,
}

/// A stream in use, for as long as it lives.
#[derive(Debug)]
pub(super) struct StreamInUse(Arc<AtomicUsize>);

impl Drop for StreamInUse {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection in use by one call.
#[derive(Debug)]
pub(super) enum Lease {
    Http1(Http1, Weak<Upstream>),
    Http2(#[expect(dead_code, reason = "counts by being dropped")] StreamInUse),
}

impl Lease {
    /// The answer is at its end: the connection may serve another call.
    pub(super) fn release(self) {
        let Self::Http1(connection, upstream) = self else { return };
        if connection.sender.is_closed() {
            return;
        }
        if let Some(upstream) = upstream.upgrade() {
            put_http1(&upstream, connection);
        }
    }
}

impl Http2 {
    pub(super) fn stream(&self) -> StreamInUse {
        self.streams.fetch_add(1, Ordering::Relaxed);
        StreamInUse(Arc::clone(&self.streams))
    }

    fn takes_another(&self) -> bool {
        !self.sender.is_closed()
            && self.streams.load(Ordering::Relaxed) < self.most_streams.load(Ordering::Relaxed)
    }
}

/// Takes the HTTP/1.1 connection that was used last and is fit for use.
pub(super) fn take_http1(upstream: &Upstream) -> Option<Http1> {
    let now = Instant::now();
    with_pool(upstream.id, |pool| {
        let mut busy = Vec::new();
        let mut taken = None;
        while let Some(idle) = pool.http1.pop() {
            if idle.connection.sender.is_closed() || upstream.too_old(idle.connection.born, now) {
                continue;
            }
            if idle.connection.sender.is_ready() {
                taken = Some(idle.connection);
                break;
            }
            // Still sending the rest of a body whose answer is complete.
            busy.push(idle);
        }
        pool.http1.append(&mut busy);
        taken
    })?
}

fn put_http1(upstream: &Arc<Upstream>, connection: Http1) {
    let now = Instant::now();
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

/// One task for each worker, instead of a timer for each connection.
async fn sweep() {
    let mut tick = tokio::time::interval(SWEEP);
    loop {
        tick.tick().await;
        let now = Instant::now();
        let stale = POOLS.with_borrow_mut(|pools| {
            let mut stale = Vec::new();
            pools.retain(|_, pool| pool.keep_fresh(now, &mut stale));
            stale
        });
        // Dropped outside the borrow: a connection's end must not find the pools borrowed.
        drop(stale);
    }
}

impl Pool {
    /// Moves what is too old to `stale`; `false` where the upstream is no longer configured.
    fn keep_fresh(&mut self, now: Instant, stale: &mut Vec<Stale>) -> bool {
        let Some(upstream) = self.upstream.upgrade() else {
            stale.push((std::mem::take(&mut self.http1), std::mem::take(&mut self.http2)));
            return false;
        };
        let old1 = self.http1.extract_if(.., |idle| {
            idle.connection.sender.is_closed()
                || idle.since + IDLE < now
                || upstream.too_old(idle.connection.born, now)
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
