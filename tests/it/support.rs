//! What the tests are built from.

pub mod agent;
pub mod bearerd;
pub mod blocking;
pub mod browser;
pub mod cli;
pub mod client;
pub mod egress;
pub mod frames;
pub mod h2;
pub mod h2_issuer;
pub mod in_process;
pub mod jwt;
pub mod manual;
pub mod message;
pub mod metrics;
pub mod neighbour;
pub mod oidc;
pub mod peer;
pub mod prometheus;
pub mod python;
pub mod redis;
pub mod response;
pub mod scripted;
pub mod server;
pub mod setup;
pub mod terminal;
pub mod tls;
pub mod wire;

use std::future::Future;
use std::time::{Duration, Instant};

pub use bearerd::Bearerd;
pub use blocking::nobody;
pub use client::{Client, RawRequest};
pub use message::{Recorded, Response};
pub use response::{Gate, RawResponse};
pub use scripted::Scripted;
pub use setup::{Setup, World, to};
pub use wire::Wire;

/// Longer than anything takes that works, even on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for the future, and fails naming `what` where it takes longer than [`PATIENCE`].
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited {PATIENCE:?} for {what}"),
    }
}

/// Asks again and again until there is a response, and fails naming `what` where none comes within [`PATIENCE`].
pub async fn eventually<T>(what: &str, ask: impl AsyncFnMut() -> Option<T>) -> T {
    let found = wait_at_most(PATIENCE, ask).await;
    found.unwrap_or_else(|| panic!("waited {PATIENCE:?} for {what}"))
}

/// As [`eventually`]; `None`: it took longer.
pub async fn wait_at_most<T>(patience: Duration, mut ask: impl AsyncFnMut() -> Option<T>) -> Option<T> {
    let started = Instant::now();
    loop {
        let found = ask().await;
        if found.is_some() || started.elapsed() > patience {
            return found;
        }
        let_pass(Duration::from_millis(20)).await;
    }
}

/// Fails unless one of three attempts takes less than `bound`: a machine may be busy with other things for a while, and a
/// program that is slow is slow each time. An attempt gets its number, from 0, and says how long it took.
pub async fn quick(bound: Duration, mut attempt: impl AsyncFnMut(usize) -> Duration) {
    let mut took = Vec::new();
    for n in 0..3 {
        took.push(attempt(n).await);
        if took[n] < bound {
            return;
        }
    }
    panic!("each attempt took more than {bound:?}: {took:?}");
}

/// Lets time pass, where time itself is what a test is about: a peer that is slow, or a limit that must not count. To wait
/// for something, there is [`eventually`]; to see that something does not happen, [`stays`].
pub async fn let_pass(duration: Duration) {
    tokio::time::sleep(duration).await;
}

/// Watches that `value` does not change for a while: the one way to see that something does not happen.
pub async fn stays<T: PartialEq + std::fmt::Debug>(duration: Duration, mut value: impl FnMut() -> T) {
    let first = value();
    let started = Instant::now();
    while started.elapsed() < duration {
        let_pass(Duration::from_millis(50)).await;
        assert_eq!(value(), first, "changed after {:?}", started.elapsed());
    }
}

/// Seconds since 1970.
pub fn unix_now() -> f64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64()
}
