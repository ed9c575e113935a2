//! The line to one server: a connection that is made in the background, used until something on it fails, and then replaced.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ::redis::{Cmd, Value};
use arc_swap::ArcSwapOption;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::connection::{Connection, Failure};
use crate::store::engine::{StoreError, StoreErrorKind};

/// An operation reports a failed connection attempt that nobody waited for if it is this recent.
const RECENT: Duration = Duration::from_secs(10);

/// Makes a connection.
pub(super) type Connecting = Pin<Box<dyn Future<Output = Result<Connection, StoreError>> + Send>>;

pub(super) struct Line {
    connect: Box<dyn Fn() -> Connecting + Send + Sync>,
    control: Handle,
    attempt: ArcSwapOption<Attempt>,
}

impl Line {
    /// Connections are made on `control`, so that an operation may give up waiting without ending them.
    pub(super) fn new(control: &Handle, connect: impl Fn() -> Connecting + Send + Sync + 'static) -> Self {
        Self { connect: Box::new(connect), control: control.clone(), attempt: ArcSwapOption::empty() }
    }

    /// Begins to connect, if there is no connection.
    pub(super) fn prepare(&self) {
        let _unheard = self.present_attempt();
    }

    pub(super) async fn send(&self, command: &Cmd) -> Result<Value, Failure> {
        self.exchange(async |connection| connection.exchange(command).await).await
    }

    /// For a server that another server of the cluster named for this command alone.
    pub(super) async fn send_asking(&self, command: &Cmd) -> Result<Value, Failure> {
        self.exchange(async |connection| connection.exchange_asking(command).await).await
    }

    async fn exchange(
        &self,
        exchange: impl AsyncFnOnce(&Connection) -> Result<Value, Failure>,
    ) -> Result<Value, Failure> {
        let attempt = self.present_attempt().map_err(Failure::Unsent)?;
        let connection = attempt.outcome().await.map_err(Failure::Unsent)?;
        let mut in_use = InUse { line: self, attempt, trusted: false };
        let outcome = exchange(&connection).await;
        in_use.trusted = !matches!(outcome, Err(Failure::Failed(_)));
        outcome
    }

    #[cfg(test)]
    pub(super) fn is_connecting(&self) -> bool {
        self.attempt.load().as_ref().is_some_and(|attempt| attempt.outcome.borrow().is_none())
    }

    /// The current attempt if it may still succeed, or else a new one. A failure that has not been reported is returned once,
    /// while the new attempt continues.
    fn present_attempt(&self) -> Result<Arc<Attempt>, StoreError> {
        let present = self.attempt.load_full();
        if let Some(present) = present.as_ref().filter(|attempt| attempt.is_of_use()) {
            return Ok(Arc::clone(present));
        }
        let new = Arc::new(Attempt::begin((self.connect)(), &self.control));
        self.attempt.store(Some(Arc::clone(&new)));
        present.and_then(|failed| failed.unheard()).map_or(Ok(new), Err)
    }
}

/// An exchange on a connection. If nobody waits for its response any more, or after an error, the next operation gets a new
/// connection.
struct InUse<'a> {
    line: &'a Line,
    attempt: Arc<Attempt>,
    trusted: bool,
}

impl Drop for InUse<'_> {
    fn drop(&mut self) {
        if !self.trusted {
            let present = self.line.attempt.load();
            if present.as_ref().is_some_and(|present| Arc::ptr_eq(present, &self.attempt)) {
                self.line.attempt.compare_and_swap(&*present, None);
            }
        }
    }
}

/// One attempt to connect, and the connection that came of it.
struct Attempt {
    outcome: watch::Receiver<Option<Outcome>>,
    heard: AtomicBool,
    _task: AbortOnDropHandle<()>,
}

#[derive(Clone)]
enum Outcome {
    Connected(Arc<Connection>),
    Failed(StoreError, Instant),
}

impl Attempt {
    fn begin(connecting: Connecting, control: &Handle) -> Self {
        let (sender, outcome) = watch::channel(None);
        let task = control.spawn(async move {
            sender.send_replace(Some(match connecting.await {
                Ok(connection) => Outcome::Connected(Arc::new(connection)),
                Err(gone) => Outcome::Failed(gone, Instant::now()),
            }));
        });
        Self { outcome, heard: AtomicBool::new(false), _task: AbortOnDropHandle::new(task) }
    }

    fn is_of_use(&self) -> bool {
        match &*self.outcome.borrow() {
            None => true,
            Some(Outcome::Connected(connection)) => connection.is_open(),
            Some(Outcome::Failed(..)) => false,
        }
    }

    fn unheard(&self) -> Option<StoreError> {
        match &*self.outcome.borrow() {
            Some(Outcome::Failed(gone, at)) if at.elapsed() < RECENT => {
                (!self.heard.load(Ordering::Relaxed)).then(|| gone.clone())
            }
            _ => None,
        }
    }

    async fn outcome(&self) -> Result<Arc<Connection>, StoreError> {
        let mut outcome = self.outcome.clone();
        let outcome = outcome.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
        match outcome {
            Some(Outcome::Connected(connection)) => Ok(connection),
            Some(Outcome::Failed(gone, _)) => {
                self.heard.store(true, Ordering::Relaxed);
                Err(gone)
            }
            None => Err(StoreError::new(
                StoreErrorKind::Unreachable,
                "bearerd stopped connecting to the store, because it is shutting down",
            )),
        }
    }
}
