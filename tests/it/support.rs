//! What the tests are built from.

pub mod agent;
pub mod bearerd;
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
pub mod tls;
pub mod wire;

use std::future::Future;
use std::time::{Duration, Instant};

pub use bearerd::Bearerd;
pub use client::{Client, RawRequest};
pub use message::{Recorded, Response};
pub use response::{Gate, RawResponse};
pub use scripted::Scripted;
pub use setup::{Setup, World};
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
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = ask().await {
            return value;
        }
        assert!(started.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Watches that `value` does not change for a while: the one way to see that something does not happen.
pub async fn stays<T: PartialEq + std::fmt::Debug>(duration: Duration, mut value: impl FnMut() -> T) {
    let first = value();
    let started = Instant::now();
    while started.elapsed() < duration {
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(value(), first, "changed after {:?}", started.elapsed());
    }
}

/// Seconds since 1970.
pub fn unix_now() -> f64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64()
}
