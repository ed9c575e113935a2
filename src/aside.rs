//! Work that blocks (a name look-up, a file on a mount that hangs), away from the threads that serve requests.
//!
//! Each kind of work has a few threads of its own. They start when there is work and end when there is none. If the system
//! refuses a thread, the work fails with an error. tokio's `spawn_blocking` panics in this case.

#![expect(clippy::disallowed_types, reason = "held only for the moment that it takes to start or share work")]

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{fmt, io};

use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

/// The threads for one kind of work, made for a `static`.
pub struct Aside {
    name: &'static str,
    most: usize,
    stack: usize,
    state: Mutex<State>,
}

struct State {
    threads: usize,
    /// Work that waits for a thread. Empty unless `most` threads are busy.
    queue: VecDeque<Job>,
}

type Job = Box<dyn FnOnce() + Send>;

/// As in std. The system's name services are plug-ins, which may need much.
const STACK: usize = 2 << 20;

/// Why work was not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AsideError {
    /// The system refuses a thread: the name of the kind of work, and the system's error.
    NoThread(&'static str, String),
    /// A fault of bearerd. Its place is in the log.
    Panicked(&'static str),
}

impl fmt::Display for AsideError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoThread(name, error) => write!(
                f,
                "the system refuses a thread ({name}): {error}; raise the limit of processes and threads \
                 (ulimit -u, TasksMax, the pids limit of the container)"
            ),
            Self::Panicked(name) => write!(f, "a fault of bearerd ({name}): its place is in the log"),
        }
    }
}

impl std::error::Error for AsideError {}

impl Aside {
    /// At most `most` threads called `name` (tools show 15 bytes of it). Further work waits for one of them.
    pub const fn new(name: &'static str, most: usize) -> Self {
        let state = Mutex::new(State { threads: 0, queue: VecDeque::new() });
        Self { name, most, stack: STACK, state }
    }

    /// For tests: the system refuses every thread, because no address space holds its stack.
    #[cfg(test)]
    pub(crate) const fn refused(name: &'static str) -> Self {
        let mut this = Self::new(name, 1);
        this.stack = 1 << 50;
        this
    }

    /// Does `work` on a thread, which starts at once, so that the future may have a deadline. If the future is dropped, work
    /// that has begun continues to its end, and work that waits for a thread does not begin.
    ///
    /// # Errors
    /// See [`AsideError`].
    pub fn run<T, W>(&'static self, work: W) -> impl Future<Output = Result<T, AsideError>> + Send + use<T, W>
    where
        T: Send + 'static,
        W: FnOnce() -> T + Send + 'static,
    {
        let (outcome_to, outcome) = oneshot::channel();
        let started = self.start(Box::new(move || {
            if !outcome_to.is_closed() {
                // The future may have been dropped meanwhile.
                let _ = outcome_to.send(work());
            }
        }));
        async move {
            started.map_err(|error| self.no_thread(&error))?;
            outcome.await.map_err(|_| AsideError::Panicked(self.name))
        }
    }

    /// Does `work` without returning its result.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub fn spawn(&'static self, work: impl FnOnce() + Send + 'static) -> Result<(), AsideError> {
        self.start(Box::new(work)).map_err(|error| self.no_thread(&error))
    }

    fn no_thread(&self, error: &io::Error) -> AsideError {
        AsideError::NoThread(self.name, error.to_string())
    }

    fn start(&'static self, job: Job) -> io::Result<()> {
        let mut state = self.state();
        if state.threads >= self.most {
            state.queue.push_back(job);
            return Ok(());
        }
        let thread = std::thread::Builder::new().name(self.name.to_owned()).stack_size(self.stack);
        // Under the lock, so that no work waits for a thread that was not started.
        thread.spawn(move || self.work(job))?;
        state.threads += 1;
        Ok(())
    }

    /// What a thread does until there is no work.
    fn work(&self, first: Job) {
        let mut next = Some(first);
        while let Some(job) = next {
            // The panic hook logs the place. The receiver sees that its channel is closed.
            let _ = catch_unwind(AssertUnwindSafe(job));
            let mut state = self.state();
            next = state.queue.pop_front();
            if next.is_none() {
                state.threads -= 1;
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Work that runs once at a time for each key. Whoever requests it meanwhile shares its outcome.
pub struct SharedWork<T> {
    aside: &'static Aside,
    /// The oldest first. Usually there is only one.
    running: Mutex<HashMap<Arc<str>, Vec<WorkInProgress<T>>>>,
}

/// Work in progress. Clones share the same work.
#[derive(Clone)]
pub struct WorkInProgress<T> {
    began: Instant,
    outcome: watch::Receiver<Option<Result<T, AsideError>>>,
    name: &'static str,
}

impl<T: Clone + Send + Sync + 'static> SharedWork<T> {
    pub fn new(aside: &'static Aside) -> Self {
        Self { aside, running: Mutex::default() }
    }

    /// Joins the work in progress for `key`, or begins `work`. It continues to its end, even if nobody waits for it.
    pub fn join(self: &Arc<Self>, key: &str, work: impl FnOnce() -> T + Send + 'static) -> WorkInProgress<T> {
        self.join_or_begin(key, work, |running| running.first())
    }

    /// Joins the latest work for `key`, or begins `work`. It also begins `work` if all work in progress for the key is older than
    /// `spacing`, as long as fewer than `most` are in progress and threads are left for other keys.
    pub fn join_recent(
        self: &Arc<Self>,
        key: &str,
        work: impl FnOnce() -> T + Send + 'static,
        spacing: Duration,
        most: usize,
    ) -> WorkInProgress<T> {
        let crowded = self.aside.state().threads >= self.aside.most / 2;
        self.join_or_begin(key, work, |running| {
            let full = crowded || running.len() >= most;
            running.last().filter(|latest| full || latest.began.elapsed() < spacing)
        })
    }

    fn join_or_begin(
        self: &Arc<Self>,
        key: &str,
        work: impl FnOnce() -> T + Send + 'static,
        choose: impl FnOnce(&[WorkInProgress<T>]) -> Option<&WorkInProgress<T>>,
    ) -> WorkInProgress<T> {
        let (outcome_to, outcome) = watch::channel(None);
        let key: Arc<str> = key.into();
        let outcome_to = Arc::new(outcome_to);
        let new = WorkInProgress { began: Instant::now(), outcome, name: self.aside.name };
        {
            let mut all = self.running();
            let running = all.entry(Arc::clone(&key)).or_default();
            if let Some(chosen) = choose(running) {
                return chosen.clone();
            }
            running.push(new.clone());
        }
        let finished = Finished { work_by_key: Arc::clone(self), key, outcome: new.outcome.clone() };
        let result_to = Arc::clone(&outcome_to);
        let job = move || {
            let outcome = work();
            // First, so that a request after the outcome begins new work.
            drop(finished);
            result_to.send_replace(Some(Ok(outcome)));
        };
        if let Err(error) = self.aside.start(Box::new(job)) {
            outcome_to.send_replace(Some(Err(self.aside.no_thread(&error))));
        }
        new
    }

    fn running(&self) -> MutexGuard<'_, HashMap<Arc<str>, Vec<WorkInProgress<T>>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes work from the list, however it ends.
struct Finished<T: Clone + Send + Sync + 'static> {
    work_by_key: Arc<SharedWork<T>>,
    key: Arc<str>,
    outcome: watch::Receiver<Option<Result<T, AsideError>>>,
}

impl<T: Clone + Send + Sync + 'static> Drop for Finished<T> {
    fn drop(&mut self) {
        let mut all = self.work_by_key.running();
        let Some(running) = all.get_mut(&self.key) else { return };
        running.retain(|work| !work.outcome.same_channel(&self.outcome));
        if running.is_empty() {
            all.remove(&self.key);
        }
    }
}

impl<T: Clone> WorkInProgress<T> {
    /// When it began.
    pub fn began(&self) -> Instant {
        self.began
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// See [`AsideError`].
    pub async fn outcome(mut self) -> Result<T, AsideError> {
        let outcome = self.outcome.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
        outcome.unwrap_or(Err(AsideError::Panicked(self.name)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::*;

    fn aside(most: usize) -> &'static Aside {
        Box::leak(Box::new(Aside::new("test", most)))
    }

    async fn soon<F: Future>(future: F) -> F::Output {
        tokio::time::timeout(Duration::from_secs(20), future).await.expect("in time")
    }

    #[tokio::test]
    async fn work_is_done_and_its_thread_ends() {
        let aside = aside(1);
        for round in 0..3 {
            assert_eq!(soon(aside.run(move || round)).await, Ok(round));
        }
        soon(async {
            while aside.state().threads > 0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    #[tokio::test]
    async fn work_waits_for_a_thread_and_dropped_work_does_not_begin() {
        let aside = aside(2);
        let (open, gate) = mpsc::channel::<()>();
        let gate = Arc::new(Mutex::new(gate));
        let blocked: Vec<_> = (0..2)
            .map(|_| {
                let gate = Arc::clone(&gate);
                aside.run(move || gate.lock().unwrap().recv().is_ok())
            })
            .collect();
        let begun = Arc::new(AtomicUsize::new(0));
        let given_up = {
            let begun = Arc::clone(&begun);
            aside.run(move || begun.fetch_add(1, Ordering::SeqCst))
        };
        let waiting = aside.run(|| "done");
        assert_eq!(aside.state().threads, 2);
        drop(given_up);
        open.send(()).unwrap();
        assert_eq!(soon(waiting).await, Ok("done"), "in the place of one that ended");
        assert_eq!(begun.load(Ordering::SeqCst), 0);
        open.send(()).unwrap();
        for blocked in blocked {
            assert_eq!(soon(blocked).await, Ok(true));
        }
    }

    #[tokio::test]
    async fn a_panic_is_an_error_and_costs_no_thread() {
        let aside = aside(1);
        let panicked = soon(aside.run(|| panic!("on purpose"))).await;
        assert_eq!(panicked, Err::<(), _>(AsideError::Panicked("test")));
        assert_eq!(soon(aside.run(|| 1)).await, Ok(1));
    }

    #[tokio::test]
    async fn a_thousand_requests_for_the_same_work_share_one_thread() {
        let work_by_key = Arc::new(SharedWork::new(aside(8)));
        let runs = Arc::new(AtomicUsize::new(0));
        let (open, gate) = mpsc::channel::<()>();
        let mut gate = Some(gate);
        let mut waiting = Vec::new();
        for _ in 0..1000 {
            let (runs, gate) = (Arc::clone(&runs), gate.take());
            let work = move || {
                let _ = gate.expect("the first alone is begun").recv();
                runs.fetch_add(1, Ordering::SeqCst)
            };
            waiting.push(work_by_key.join("a.example", work));
        }
        assert_eq!(work_by_key.aside.state().threads, 1);
        let other = work_by_key.join("b.example", || 7);
        assert_eq!(soon(other.outcome()).await, Ok(7), "another key does not wait");
        open.send(()).unwrap();
        for work in waiting {
            assert_eq!(soon(work.outcome()).await, Ok(0));
        }
        let again = Arc::clone(&runs);
        let next = work_by_key.join("a.example", move || again.fetch_add(1, Ordering::SeqCst));
        assert_eq!(soon(next.outcome()).await, Ok(1), "what has ended is not shared");
    }

    #[tokio::test]
    async fn shared_work_that_panics_is_over() {
        let work_by_key = Arc::new(SharedWork::<u8>::new(aside(1)));
        let work = work_by_key.join("a", || panic!("on purpose"));
        assert_eq!(soon(work.outcome()).await, Err(AsideError::Panicked("test")));
        assert_eq!(soon(work_by_key.join("a", || 3).outcome()).await, Ok(3));
    }

    #[tokio::test]
    async fn a_thread_that_is_refused_is_an_error() {
        static NONE: Aside = Aside::refused("test");
        let error = soon(NONE.run(|| 1)).await.unwrap_err();
        assert!(matches!(error, AsideError::NoThread("test", _)), "{error:?}");
        assert!(error.to_string().contains("raise the limit of processes and threads"), "{error}");
        let work_by_key = Arc::new(SharedWork::new(&NONE));
        for _ in 0..2 {
            assert_eq!(soon(work_by_key.join("a", || 1).outcome()).await, Err(error.clone()));
        }
        assert!(work_by_key.running().is_empty());
    }
}
