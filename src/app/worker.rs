//! The worker threads, which serve requests, and the watchdog that checks them.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::config::files;
use crate::listener::{self, Bound, ConnectionLimit, SettingsCell, Stop};
use crate::metrics;
use crate::proxy::Proxy;

/// A worker's share of a listener.
pub(super) struct Serve {
    pub(super) bound: Bound,
    pub(super) settings: Arc<SettingsCell>,
    pub(super) connections: Arc<ConnectionLimit>,
    pub(super) stop: Stop,
}

/// A message to a worker.
enum Command {
    Serve(Serve),
    /// Reply, to show that the worker is not stuck.
    Reply(oneshot::Sender<()>),
}

/// The end of a worker. `outcome` is `Err` if it should not have ended.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) worker: usize,
    pub(super) outcome: Result<(), String>,
}

/// The channels to all workers.
pub(super) struct Workers {
    senders: Vec<UnboundedSender<Command>>,
    count: usize,
}

impl Workers {
    pub(super) fn start(
        count: usize,
        proxy: &Arc<Proxy>,
        reports: &UnboundedSender<Report>,
    ) -> io::Result<Self> {
        let mut senders = Vec::with_capacity(count);
        for worker in 0..count {
            // Created here, so that a machine without free files or memory refuses the start and not a request.
            let runtime = runtime()?;
            let (sender, commands) = mpsc::unbounded_channel();
            let proxy = Arc::clone(proxy);
            let report = Reporter { worker, reports: reports.clone(), outcome: Err("panicked".to_owned()) };
            std::thread::Builder::new().name(format!("worker-{worker}")).spawn(move || {
                metrics::this_thread_is_worker(worker);
                files::hurry();
                run(&runtime, proxy, commands, report);
            })?;
            senders.push(sender);
        }
        Ok(Self { senders, count })
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Gives each worker its share of a new listener.
    pub(super) fn serve(&self, shares: impl IntoIterator<Item = Serve>) {
        for (sender, share) in self.senders.iter().zip(shares) {
            // A worker that is gone has reported it, which ends the program.
            let _ = sender.send(Command::Serve(share));
        }
    }

    /// One function for each worker that asks whether it still serves. They do not keep a worker from ending.
    pub(super) fn pings(&self) -> Vec<Ping> {
        let ping = |sender: &UnboundedSender<Command>| -> Ping {
            let sender = sender.downgrade();
            Box::new(move || {
                let (reply, receiver) = oneshot::channel();
                sender.upgrade()?.send(Command::Reply(reply)).ok()?;
                Some(receiver)
            })
        };
        self.senders.iter().map(ping).collect()
    }

    /// Sends no more listeners, so that each worker ends with its last connection.
    pub(super) fn close(&mut self) {
        self.senders.clear();
    }
}

/// A runtime for one thread.
pub(super) fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_io().enable_time().thread_name("blocking").build()
}

/// Sends the report when it is dropped, so that a thread that panics reports too.
struct Reporter {
    worker: usize,
    reports: UnboundedSender<Report>,
    outcome: Result<(), String>,
}

impl Drop for Reporter {
    fn drop(&mut self) {
        let outcome = std::mem::replace(&mut self.outcome, Ok(()));
        let _ = self.reports.send(Report { worker: self.worker, outcome });
    }
}

fn run(runtime: &Runtime, proxy: Arc<Proxy>, commands: UnboundedReceiver<Command>, mut report: Reporter) {
    report.outcome = runtime.block_on(work(proxy, commands));
}

async fn work(proxy: Arc<Proxy>, mut commands: UnboundedReceiver<Command>) -> Result<(), String> {
    let mut serving = JoinSet::new();
    let mut open = true;
    loop {
        tokio::select! {
            command = commands.recv(), if open => match command {
                Some(Command::Reply(reply)) => {
                    // The requester may be gone.
                    let _ = reply.send(());
                }
                Some(Command::Serve(Serve { bound, settings, connections, stop })) => {
                    serving.spawn(listener::serve(bound, Arc::clone(&proxy), settings, connections, stop));
                }
                None => open = false,
            },
            Some(ended) = serving.join_next(), if !serving.is_empty() => {
                // A listener that accepts nothing would look healthy, so the program ends with an error instead.
                ended.map_err(|error| format!("a listener failed ({})", broken(&error)))?;
            }
            else => return Ok(()),
        }
    }
}

/// The error's own text would repeat the panic's message.
fn broken(error: &tokio::task::JoinError) -> &'static str {
    if error.is_panic() { "panicked" } else { "cancelled" }
}

/// Asks one worker to reply. `None` once the worker accepts no more messages, as at the end.
type Ping = Box<dyn Fn() -> Option<oneshot::Receiver<()>> + Send>;

/// The watchdog: calls `report_healthy` three times in each `timeout` of the service manager, as long as the control thread's runtime
/// runs and every worker replies. A stuck worker serves no requests, so the service manager restarts the program.
pub(super) async fn watchdog(timeout: Duration, workers: Vec<Ping>, report_healthy: impl Fn()) {
    let pause = timeout / 3;
    loop {
        // Ping all before waiting for any.
        let pinged: Vec<_> =
            workers.iter().enumerate().filter_map(|(worker, ping)| Some((worker, ping()?))).collect();
        for (worker, reply) in pinged {
            wait_for_reply(worker, reply, pause).await;
        }
        report_healthy();
        sleep(pause).await;
    }
}

/// Waits for the reply, however long it takes. A worker that has ended is no concern here, because it sends a [`Report`].
async fn wait_for_reply(worker: usize, mut reply: oneshot::Receiver<()>, patience: Duration) {
    tokio::select! {
        _ = &mut reply => return,
        () = sleep(patience) => {}
    }
    tracing::error!(
        event = "worker.stuck",
        worker,
        "a worker does not respond; if it stays so, the service manager's watchdog ends the program"
    );
    let _ = reply.await;
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn a_panicking_worker_reports() {
        let (reports, mut received) = mpsc::unbounded_channel();
        let reporter = Reporter { worker: 3, reports, outcome: Err("panicked".to_owned()) };
        let thread = std::thread::spawn(move || {
            let _reporter = reporter;
            panic!("on purpose");
        });
        assert!(thread.join().is_err());
        let report = received.try_recv().unwrap();
        assert_eq!((report.worker, report.outcome), (3, Err("panicked".to_owned())));
    }

    fn healthy() -> Ping {
        Box::new(|| {
            let (reply, receiver) = oneshot::channel();
            reply.send(()).unwrap();
            Some(receiver)
        })
    }

    async fn reports_within(span: Duration, workers: Vec<Ping>) -> usize {
        let reports = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&reports);
        let report_healthy = move || {
            counted.fetch_add(1, Ordering::SeqCst);
        };
        let _ = tokio::time::timeout(span, watchdog(Duration::from_secs(30), workers, report_healthy)).await;
        reports.load(Ordering::SeqCst)
    }

    #[tokio::test(start_paused = true)]
    async fn reports_three_times_in_each_timeout() {
        assert_eq!(reports_within(Duration::from_secs(59), vec![healthy(), healthy()]).await, 6);
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_that_has_ended_is_not_waited_for() {
        assert_eq!(reports_within(Duration::from_secs(5), vec![Box::new(|| None)]).await, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn one_stuck_worker_silences_it() {
        let (holds_on_to, questions) = std::sync::mpsc::channel();
        let stuck: Ping = Box::new(move || {
            let (reply, receiver) = oneshot::channel::<()>();
            holds_on_to.send(reply).unwrap();
            Some(receiver)
        });
        assert_eq!(reports_within(Duration::from_secs(3600), vec![healthy(), stuck]).await, 0);
        assert_eq!(questions.into_iter().count(), 1, "it is pinged once, not again and again");
    }
}
