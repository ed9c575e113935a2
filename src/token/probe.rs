//! Probes of issuers that could not be reached: one bare connection attempt each second shows when one is reachable
//! again.
//!
//! There is one probe for each address, however many slots and issuers wait for it. It runs as long as one of them
//! does, and sends no data. Each process probes at its own moment of a second, so an issuer that starts again does not
//! get everybody's requests at once.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::issuer::Unreached;
use crate::net::Hop;

const EVERY: Duration = Duration::from_secs(1);
/// In both directions, so that processes that probe the same issuer do not fall into step.
const JITTER: f64 = 0.1;

type Connecting = Pin<Box<dyn Future<Output = bool> + Send>>;
/// See [`Hop::answers`]. Tests replace it.
pub(super) type Connect = Box<dyn Fn(Hop) -> Connecting + Send + Sync>;

#[expect(
    clippy::disallowed_types,
    reason = "locked by the slots' tasks on the control thread; requests never get here"
)]
type Known = std::sync::Mutex<HashMap<Hop, Weak<Probe>>>;

/// All probes of the process.
pub(super) struct Probes {
    known: Known,
    connect: Arc<Connect>,
    control: Handle,
}

struct Probe {
    /// Whether the last connection attempt succeeded.
    reachable: watch::Receiver<bool>,
    _task: AbortOnDropHandle<()>,
}

impl Probes {
    pub(super) fn new(control: Handle, connect: Connect) -> Self {
        Self { known: Known::default(), connect: Arc::new(connect), control }
    }

    pub(super) fn watch(&self, unreached: &Unreached) -> ProbeWatch {
        let probe = self.probe(&unreached.hop);
        let mut reachable = probe.reachable.clone();
        // Earlier results do not count.
        reachable.mark_unchanged();
        ProbeWatch { reachable, silent: unreached.silent, _probe: probe }
    }

    fn probe(&self, hop: &Hop) -> Arc<Probe> {
        // A panic under the lock leaves a complete map.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(there) = known.get(hop).and_then(Weak::upgrade) {
            return there;
        }
        known.retain(|_, probe| probe.strong_count() > 0);
        let (results, reachable) = watch::channel(false);
        let task = self.control.spawn(probe_forever(hop.clone(), Arc::clone(&self.connect), results));
        let probe = Arc::new(Probe { reachable, _task: AbortOnDropHandle::new(task) });
        known.insert(hop.clone(), Arc::downgrade(&probe));
        probe
    }
}

async fn probe_forever(hop: Hop, connect: Arc<Connect>, results: watch::Sender<bool>) {
    // Starts at a random moment of the first second, so that processes that failed together do not return together.
    tokio::time::sleep(EVERY.mul_f64(fastrand::f64())).await;
    loop {
        let next = Instant::now() + EVERY.mul_f64(1.0 - JITTER + 2.0 * JITTER * fastrand::f64());
        results.send_replace(connect(hop.clone()).await);
        tokio::time::sleep_until(next).await;
    }
}

/// One slot's share in a probe. The probe ends with its last watch.
pub(super) struct ProbeWatch {
    reachable: watch::Receiver<bool>,
    silent: bool,
    _probe: Arc<Probe>,
}

impl ProbeWatch {
    /// Resolves as soon as the address accepts a connection after it accepted none. An address that accepted
    /// connections all the time proves nothing.
    pub(super) async fn became_reachable(&mut self) {
        while self.reachable.changed().await.is_ok() {
            let reachable = *self.reachable.borrow_and_update();
            if reachable && self.silent {
                return;
            }
            self.silent |= !reachable;
        }
        // The probe ended, which is a bug. The slot's own pause still applies.
        std::future::pending().await
    }
}
