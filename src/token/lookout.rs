//! Issuers that were not reached: a bare connect every second shows when one is back.
//!
//! There is one lookout for each address, however many slots and issuers wait for it. It goes on as long as one of them
//! does, and sends nothing but the connect: an issuer that starts again is not met by everybody's requests at once, but
//! by each process at its own moment of a second.

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
/// Either way, so that processes that look out for one issuer do not fall into step.
const JITTER: f64 = 0.1;

type Knocking = Pin<Box<dyn Future<Output = bool> + Send>>;
/// See [`Hop::answers`]: the seam at which tests put a scripted one.
pub(super) type Knock = Box<dyn Fn(Hop) -> Knocking + Send + Sync>;

#[expect(
    clippy::disallowed_types,
    reason = "taken by slots' tasks on the control thread; no request comes here"
)]
type Known = std::sync::Mutex<HashMap<Hop, Weak<Lookout>>>;

/// All lookouts of the process.
pub(super) struct Lookouts {
    known: Known,
    knock: Arc<Knock>,
    control: Handle,
}

struct Lookout {
    /// What the last connect came to.
    answers: watch::Receiver<bool>,
    _knocking: AbortOnDropHandle<()>,
}

impl Lookouts {
    pub(super) fn new(control: Handle, knock: Knock) -> Self {
        Self { known: Known::default(), knock: Arc::new(knock), control }
    }

    pub(super) fn watch(&self, unreached: &Unreached) -> Watch {
        let lookout = self.lookout(&unreached.hop);
        let mut answers = lookout.answers.clone();
        // What was found before is not what is asked for.
        answers.mark_unchanged();
        Watch { answers, silent: unreached.silent, _lookout: lookout }
    }

    fn lookout(&self, hop: &Hop) -> Arc<Lookout> {
        // A panic while it was held leaves a map that is still whole.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(there) = known.get(hop).and_then(Weak::upgrade) {
            return there;
        }
        known.retain(|_, lookout| lookout.strong_count() > 0);
        let (results, answers) = watch::channel(false);
        let knocking = self.control.spawn(keep_knocking(hop.clone(), Arc::clone(&self.knock), results));
        let lookout = Arc::new(Lookout { answers, _knocking: AbortOnDropHandle::new(knocking) });
        known.insert(hop.clone(), Arc::downgrade(&lookout));
        lookout
    }
}

async fn keep_knocking(hop: Hop, knock: Arc<Knock>, results: watch::Sender<bool>) {
    // Anywhere in the first second: what failed together shall not come back together.
    tokio::time::sleep(EVERY.mul_f64(fastrand::f64())).await;
    loop {
        let next = Instant::now() + EVERY.mul_f64(1.0 - JITTER + 2.0 * JITTER * fastrand::f64());
        results.send_replace(knock(hop.clone()).await);
        tokio::time::sleep_until(next).await;
    }
}

/// One slot's part in a lookout, which ends with the last of them.
pub(super) struct Watch {
    answers: watch::Receiver<bool>,
    silent: bool,
    _lookout: Arc<Lookout>,
}

impl Watch {
    /// Ends as soon as the address answers, having been silent. One that answered all the time shows nothing by that.
    pub(super) async fn answered(&mut self) {
        while self.answers.changed().await.is_ok() {
            let answers = *self.answers.borrow_and_update();
            if answers && self.silent {
                return;
            }
            self.silent |= !answers;
        }
        // Nobody looks out any more, which is a fault: what is left is the slot's own pause.
        std::future::pending().await
    }
}
