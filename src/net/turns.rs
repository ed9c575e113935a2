//! How many connections to one target that is no upstream (an issuer, a collector) there are at the same time: one that
//! keeps every connection waiting must not take the descriptors that the others need.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};

use moka::sync::Cache;
use tokio::sync::Semaphore;

/// Targets that are remembered; a config has fewer.
const KEPT: u64 = 16 * 1024;

static AT_ONCE: AtomicUsize = AtomicUsize::new(64);

static TARGETS: LazyLock<Cache<String, Arc<Semaphore>>> =
    LazyLock::new(|| Cache::builder().max_capacity(KEPT).build());

/// For targets that are met from now on; the others keep what they have.
pub fn set_turns(most: usize) {
    AT_ONCE.store(most, Ordering::Relaxed);
}

/// The turns at one target, which all of the process shares.
pub(super) fn at(who: &str) -> Arc<Semaphore> {
    TARGETS.get_with_by_ref(who, || Arc::new(Semaphore::new(AT_ONCE.load(Ordering::Relaxed))))
}
