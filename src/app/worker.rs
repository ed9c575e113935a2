//! The threads that serve calls.

use std::io;
use std::sync::Arc;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::watchdog::Ask;
use crate::config::files;
use crate::listener::{self, Bound, ConnectionLimit, SettingsCell, Stop};
use crate::metrics;
use crate::proxy::Proxy;

/// One listener that a worker is to serve too.
pub(super) struct Serve {
    pub(super) bound: Bound,
    pub(super) settings: Arc<SettingsCell>,
    pub(super) connections: Arc<ConnectionLimit>,
    pub(super) stop: Stop,
}

/// What a worker is told.
enum Command {
    Serve(Serve),
    /// Answer, to show that requests are being served.
    Answer(oneshot::Sender<()>),
}

/// A worker has ended: `Err` where it should not have.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) worker: usize,
    pub(super) outcome: Result<(), String>,
}

/// The way to all workers.
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
            // Made here, so that a machine out of files or memory refuses the start and not a request.
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

    /// Gives each worker its share of a new listener; `shares` holds one for each.
    pub(super) fn serve(&self, shares: impl IntoIterator<Item = Serve>) {
        for (sender, share) in self.senders.iter().zip(shares) {
            // A worker that is gone has reported so, and that ends the program.
            let _ = sender.send(Command::Serve(share));
        }
    }

    /// A question for each worker, whether it still serves. None of them keeps a worker from ending.
    pub(super) fn questions(&self) -> Vec<Ask> {
        let question = |sender: &UnboundedSender<Command>| -> Ask {
            let sender = sender.downgrade();
            Box::new(move || {
                let (answer, receiver) = oneshot::channel();
                sender.upgrade()?.send(Command::Answer(answer)).ok()?;
                Some(receiver)
            })
        };
        self.senders.iter().map(question).collect()
    }

    /// No more listeners will come: each worker ends with its last connection.
    pub(super) fn close(&mut self) {
        self.senders.clear();
    }
}

/// The runtime of one thread.
pub(super) fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_io().enable_time().thread_name("blocking").build()
}

/// Reports when it is dropped, so that a thread that panics reports too.
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
                Some(Command::Answer(answer)) => {
                    // Whoever asked may have left.
                    let _ = answer.send(());
                }
                Some(Command::Serve(Serve { bound, settings, connections, stop })) => {
                    serving.spawn(listener::serve(bound, Arc::clone(&proxy), settings, connections, stop));
                }
                None => open = false,
            },
            Some(ended) = serving.join_next(), if !serving.is_empty() => {
                // A listener that nobody accepts on any more would look healthy: better to end loudly.
                ended.map_err(|error| format!("a listener broke down ({})", broken(&error)))?;
            }
            else => return Ok(()),
        }
    }
}

/// The error's own text would repeat the panic's message.
fn broken(error: &tokio::task::JoinError) -> &'static str {
    if error.is_panic() { "panicked" } else { "cancelled" }
}

#[cfg(test)]
mod tests {
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
}
