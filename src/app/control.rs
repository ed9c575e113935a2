//! The control thread: orders, signals, reloads, workers that fail, and the end of the program.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Handle, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;
use tokio::time::{Instant, Interval, sleep, sleep_until};

use super::bundles::Bundles;
use super::listeners::{Listeners, Shares};
use super::programs::Programs;
use super::reloading::{Cause, NewConfig, Outcome, Prepared, one_line};
use super::reloading::{ReloadStep, Reloading};
use super::room::Room;
use super::service_manager::{self, ServiceManager};
use super::sockets::{self, Held, Kind, Source, Sources, Undone};
use super::webhooks::AdminServer;
use super::webhooks::Webhooks;
use super::worker::{Report, Workers};
use super::{Addresses, Ended, Parts, Shared, build, slots, slots_at_start};
use crate::config::{self, Config};
use crate::metrics::Metrics;
use crate::proxy::Snapshot;
use crate::reload::Change;
use crate::telemetry::LogControl;
use crate::token::{RetryCause, TokenSlot};
use crate::trace::Tracer;

/// How long the process waits at its end for the collector to accept the last spans.
const LAST_SPANS: Duration = Duration::from_secs(1);

/// How often ephemeral authorities are looked at. Their successors are made days before they are needed.
const RENEWALS: Duration = Duration::from_secs(600);

/// What a [`super::Running`] requests.
pub(super) enum Order {
    Reload(oneshot::Sender<Result<(), String>>),
    Drain,
    Stop,
}

pub(super) struct Control {
    pub(super) shared: Shared,
    pub(super) listeners: Listeners,
    pub(super) bundles: Bundles,
    pub(super) workers: Workers,
    pub(super) admin: AdminServer,
    pub(super) webhooks: Webhooks,
    pub(super) orders: UnboundedReceiver<Order>,
    pub(super) reports: UnboundedReceiver<Report>,
    pub(super) signals: Option<Signals>,
    pub(super) log: Option<LogControl>,
    pub(super) service: ServiceManager,
    pub(super) reloading: Reloading,
    pub(super) programs: Programs,
}

enum Event {
    Order(Order),
    Signal(Received),
    Worker(Report),
    Reloading(ReloadStep),
    /// It is time to update the service manager's status line.
    UpdateStatus,
    /// It is time to look whether an ephemeral authority needs a successor.
    Renew,
}

impl Control {
    /// Runs until the end of the program. A file system that hangs does not delay the end.
    pub(super) fn run_on(mut self, runtime: Runtime) -> Ended {
        let ended = runtime.block_on(async {
            let ended = self.run().await;
            if let Some(tracer) = self.shared.tracers.load_full() {
                tracer.finish(LAST_SPANS).await;
            }
            ended
        });
        drop(self);
        runtime.shutdown_background();
        ended
    }

    async fn run(&mut self) -> Ended {
        self.reloading.watch();
        self.programs.keep_fresh(&self.shared.snapshot.load().config);
        self.read_files(Cause::Files);
        let mut updates = tokio::time::interval(service_manager::UPDATE_INTERVAL);
        updates.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut renewals = tokio::time::interval(RENEWALS);
        renewals.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            match self.next(&mut updates, &mut renewals).await {
                Event::Renew => {
                    if self.listeners.renew_authorities() {
                        self.bundles.keep(&self.listeners.settings(), false);
                    }
                }
                Event::UpdateStatus => self.service.update(&self.shared.snapshot.load()),
                Event::Order(Order::Reload(reply)) => {
                    self.reloading.reply_to(reply);
                    self.read_files(Cause::Operator);
                }
                Event::Signal(Received::Reload) => {
                    tracing::info!(event = "config.reload_requested", "SIGHUP: loading the config again");
                    self.read_files(Cause::Operator);
                }
                Event::Order(Order::Drain) => return drain(self, "stop requested").await,
                Event::Signal(Received::End(signal)) => return drain(self, signal).await,
                Event::Order(Order::Stop) => return cut(self).await,
                Event::Worker(report) => return fail(self, &report).await,
                Event::Reloading(ReloadStep::ReadFiles) => self.read_files(Cause::Files),
                Event::Reloading(ReloadStep::Prepared(prepared)) => self.prepared(*prepared).await,
                Event::Reloading(ReloadStep::Failed(error)) => self.read_failed(&error),
            }
        }
    }

    async fn next(&mut self, updates: &mut Interval, renewals: &mut Interval) -> Event {
        let has_service_manager = self.service.is_present();
        tokio::select! {
            // The handle was dropped, so no other order can come.
            order = self.orders.recv() => Event::Order(order.unwrap_or(Order::Stop)),
            received = next_of(&mut self.signals) => Event::Signal(received),
            Some(report) = self.reports.recv() => Event::Worker(report),
            step = self.reloading.next() => Event::Reloading(step),
            () = self.programs.printed() => Event::Reloading(ReloadStep::ReadFiles),
            _ = updates.tick(), if has_service_manager => Event::UpdateStatus,
            _ = renewals.tick() => Event::Renew,
        }
    }

    fn read_files(&mut self, cause: Cause) {
        if cause == Cause::Operator {
            self.service.reloading();
        }
        let config = Arc::clone(&self.shared.snapshot.load().config);
        self.reloading.read_files(cause, &config, self.listeners.settings(), &self.shared.metrics);
    }

    /// Takes the result of reading the files.
    async fn prepared(&mut self, prepared: Prepared) {
        let Prepared { cause, known: mut known_files, folders, outcome } = prepared;
        let result = match outcome {
            Outcome::Unchanged => None,
            Outcome::New(new) => {
                self.service.reloading();
                let done = self.commit(cause, &new, &known_files.unapplied).await;
                if done.is_err() {
                    self.bundles.write_again();
                }
                Some(done.map_err(|error| vec![error]))
            }
            Outcome::Refused(messages) => {
                self.service.reloading();
                Some(Err(messages))
            }
        };
        if let Some(result) = result {
            match &result {
                Ok(()) => known_files.unapplied = Change::default(),
                // A broken config says nothing about the secrets that the running one names.
                Err(_) => {
                    self.retry_refused(cause);
                    // Removes the series of listeners that were not created.
                    self.shared.metrics.retain(&self.shared.snapshot.load().config);
                }
            }
            self.reloaded(result);
        }
        let again = self.reloading.files_read(known_files, folders);
        self.read_again(again);
    }

    /// An operator who requested a reload in the meantime still waits for a result.
    fn read_again(&mut self, again: Option<Cause>) {
        if again != Some(Cause::Operator) {
            self.service.reloaded(&self.shared.snapshot.load());
        }
        if let Some(cause) = again {
            self.read_files(cause);
        }
    }

    fn read_failed(&mut self, error: &str) {
        self.reloaded(Err(vec![format!("the files were not read: {error}")]));
        let config = Arc::clone(&self.shared.snapshot.load().config);
        let again = self.reloading.start_over(&config);
        self.read_again(again);
    }

    fn reloaded(&mut self, result: Result<(), Vec<String>>) {
        if let Err(messages) = &result {
            for message in messages {
                tracing::error!(event = "config.problem", "{message}");
            }
            let config = &self.shared.snapshot.load().config;
            tracing::error!(
                event = "config.reload_failed",
                config = %config.path.display(),
                "the config was not reloaded; the running one stays in force"
            );
        }
        let result = result.map_err(|messages| summary(&messages));
        self.shared.metrics.config_reload(result.is_ok());
        self.service.set_refused(result.is_err());
        self.shared.health.reloaded(result.clone());
        self.reloading.reply(&result);
    }

    /// Puts a config into use, or leaves everything as it is.
    async fn commit(&mut self, cause: Cause, new: &NewConfig, changed: &Change) -> Result<(), String> {
        let config = &new.config;
        let unfit = sockets::unfit(&self.shared.passed, config);
        if let Some(error) = unfit.errors.into_iter().next() {
            return Err(error);
        }
        let before = self.shared.snapshot.load_full();
        let tracer = tracer(config, before.tracer.as_ref(), &self.shared.metrics)?;
        let (listeners, webhooks, admin) = self.new_sockets(new).await?;

        // From here on nothing fails.
        let room = Room::of(config);
        room.take();
        self.shared.tokens.use_store(config.store.as_ref());
        self.shared.tokens.use_budgets(config.issuers.values());
        let parts = Parts { tokens: &self.shared.tokens, metrics: &self.shared.metrics, changed };
        let mut snapshot = build(config, Some(&before), &parts);
        snapshot.tracer = tracer;
        self.shared.tracers.store(snapshot.tracer.clone());
        let snapshot = Arc::new(snapshot);
        // Before the listeners, because a request through a new listener must find it in the snapshot.
        self.shared.snapshot.store(Arc::clone(&snapshot));
        before.replaced.cancel();
        self.listeners.apply(&new.settings, listeners, &self.workers);
        self.bundles.keep(&new.settings, new.bundles_written);
        self.webhooks.apply(&config.webhooks, webhooks);
        if let Source::New(socket) = admin {
            self.admin.move_to(socket, &config.admin.address);
        }
        self.shared.addresses.store(Arc::new(Addresses {
            listeners: self.listeners.addresses(),
            admin: self.admin.held().local.clone(),
            webhooks: self.webhooks.addresses(),
        }));
        if let Some(log) = &self.log {
            log.apply(&config.log);
        }
        self.programs.keep_fresh(config);
        self.renew_slots(cause, &before, &snapshot);
        let missing = config::missing_values(config);
        self.service.set_missing(&missing);
        self.shared.health.set_missing(missing);
        for stray in unfit.strays {
            tracing::warn!(
                event = "listener.socket_unused",
                "{stray}; until then, nothing serves its connections"
            );
        }
        self.shared.metrics.retain(config);
        self.log_reload(new, &before, &snapshot);
        room.warn(config);
        Ok(())
    }

    /// Binds the sockets of a config. If one fails, those that were closed for it are served again.
    async fn new_sockets(
        &mut self,
        new: &NewConfig,
    ) -> Result<(Vec<Source<Shares>>, Vec<Source>, Source), String> {
        let held = self.listeners.held().chain(self.webhooks.held()).chain([self.admin.held()]);
        let held: Vec<&Held> = held.collect();
        let undone = match sockets::exchange(&new.config, &held, &self.shared.passed).await {
            Ok((Sources { listeners, webhooks, admin }, closed)) => {
                match self.listeners.prepare(&new.settings, listeners, &self.workers) {
                    Ok(listeners) => return Ok((listeners, webhooks, admin)),
                    Err(why) => {
                        drop((webhooks, admin));
                        closed.undo(why)
                    }
                }
            }
            Err(undone) => undone,
        };
        let Undone { mut why, again } = undone;
        for (kind, socket) in again {
            match kind {
                Kind::Webhook => self.webhooks.serve_again(socket),
                Kind::Admin => self.admin.serve_again(socket),
                Kind::Listener => {
                    if let Err(error) = self.listeners.serve_again(socket, &self.workers) {
                        why = format!("{why}; its socket cannot be shared with the workers: {error}");
                    }
                }
            }
        }
        Err(why)
    }

    fn retry_refused(&self, cause: Cause) {
        for slot in slots(&self.shared.snapshot.load()) {
            slot.retry_now(retry_cause(cause));
        }
    }

    fn renew_slots(&self, cause: Cause, before: &Snapshot, after: &Snapshot) {
        let of = |slots: Vec<Arc<TokenSlot>>| slots.iter().map(Arc::as_ptr).collect::<HashSet<_>>();
        let known = of(slots(before));
        let fetched = of(slots_at_start(before));
        let slots = slots(after);
        self.shared.tokens.retain(&slots);
        slots
            .iter()
            .filter(|slot| known.contains(&Arc::as_ptr(slot)))
            .for_each(|slot| slot.retry_now(retry_cause(cause)));
        let needed = slots_at_start(after);
        needed.iter().filter(|slot| !fetched.contains(&Arc::as_ptr(slot))).for_each(|slot| slot.prefetch());
    }

    fn log_reload(&self, new: &NewConfig, before: &Snapshot, after: &Snapshot) {
        for warning in &new.warnings {
            tracing::warn!(event = "config.warning", "{}", one_line(warning));
        }
        if after.config.workers != self.workers.count() {
            tracing::warn!(
                event = "config.workers_unchanged",
                running = self.workers.count(),
                configured = after.config.workers,
                "`workers` is read at start only: restart to change it"
            );
        }
        let version = after.version;
        if Arc::ptr_eq(&before.config, &after.config) {
            tracing::info!(
                event = "config.files_read",
                version,
                "files that the config names were read again"
            );
        } else {
            let (routes, issuers) = (after.config.routes.len(), after.config.issuers.len());
            let config = after.config.path.display();
            tracing::info!(event = "config.reloaded", %config, version, routes, issuers, "the config was reloaded");
        }
    }
}

/// The running tracer if its table did not change, else a new one. The old one still sends the spans that it holds.
fn tracer(
    config: &Config,
    running: Option<&Arc<Tracer>>,
    metrics: &Arc<Metrics>,
) -> Result<Option<Arc<Tracer>>, String> {
    let Some(wanted) = &config.tracing else { return Ok(None) };
    match running.filter(|running| running.config() == wanted) {
        Some(same) => Ok(Some(Arc::clone(same))),
        None => Tracer::start(wanted, &Handle::current(), metrics).map(Some),
    }
}

fn retry_cause(cause: Cause) -> RetryCause {
    match cause {
        Cause::Operator => RetryCause::Operator,
        Cause::Files => RetryCause::FilesChanged,
    }
}

/// What `/readyz` and `/status` show.
fn summary(messages: &[String]) -> String {
    match messages {
        [] => "unknown".to_owned(),
        [only] => only.clone(),
        [first, rest @ ..] => format!("{first} (and {} more)", rest.len()),
    }
}

/// How long workers have to close connections that were cut off, before the process ends.
const CUT_GRACE: Duration = Duration::from_secs(1);

/// Why the wait for the last requests ended.
enum Waited {
    AllEnded,
    Failed(String),
    TooLong,
    SecondEnd,
}

/// Lets requests end: `/readyz` responds 503 at once, no connections are accepted after `drain_delay`, and requests have
/// `shutdown_timeout` to end (zero: no limit). A second signal ends the process at once.
pub(super) async fn drain(control: &mut Control, why: &str) -> Ended {
    let config = Arc::clone(&control.shared.snapshot.load().config);
    control.shared.health.set_draining();
    control.service.stopping(config.drain_delay, config.shutdown_timeout);
    tracing::info!(
        event = "shutdown.started",
        delay = %humantime::format_duration(config.drain_delay),
        timeout = %humantime::format_duration(config.shutdown_timeout),
        "{why}: ending when all requests have ended"
    );
    if !config.drain_delay.is_zero() {
        tokio::select! {
            () = sleep(config.drain_delay) => {}
            () = second_end(&mut control.orders, &mut control.signals) => return cut_on_second_end(control).await,
        }
    }
    control.listeners.stop_accepting();
    control.webhooks.stop_accepting();
    control.workers.close();
    let deadline = (!config.shutdown_timeout.is_zero()).then(|| Instant::now() + config.shutdown_timeout);
    let ended = match all_ended(control, deadline).await {
        Waited::AllEnded => {
            tracing::info!(event = "shutdown.finished", "ended: every request got its response");
            Ended::Drained
        }
        Waited::Failed(message) => Ended::Failed(message),
        Waited::TooLong => {
            tracing::warn!(
                event = "shutdown.timed_out",
                "shutdown_timeout is over: cutting off the remaining requests"
            );
            return cut(control).await;
        }
        Waited::SecondEnd => return cut_on_second_end(control).await,
    };
    control.admin.stop();
    ended
}

async fn cut_on_second_end(control: &mut Control) -> Ended {
    tracing::warn!(
        event = "shutdown.forced",
        "asked a second time to end: cutting off the remaining requests"
    );
    cut(control).await
}

/// Drops all connections.
pub(super) async fn cut(control: &mut Control) -> Ended {
    control.listeners.stop_now();
    control.webhooks.stop_now();
    control.workers.close();
    // The workers close sockets and remove their files. The process does not wait for a worker that hangs.
    let ended = all_ended_or_grace(control).await;
    control.admin.stop();
    ended
}

/// Ends the program because a worker is gone. With fewer workers it would look healthy, so it ends and can be restarted.
pub(super) async fn fail(control: &mut Control, report: &Report) -> Ended {
    let message = describe(report);
    tracing::error!(event = "process.failed", "{message}; ending, so that the program can be started again");
    cut(control).await;
    Ended::Failed(message)
}

async fn all_ended_or_grace(control: &mut Control) -> Ended {
    let grace = sleep(CUT_GRACE);
    tokio::pin!(grace);
    loop {
        tokio::select! {
            report = control.reports.recv() => if report.is_none() { return Ended::Cut },
            () = &mut grace => return Ended::Cut,
        }
    }
}

async fn all_ended(control: &mut Control, deadline: Option<Instant>) -> Waited {
    loop {
        tokio::select! {
            // Each worker reports once and drops its sender. The channel closes with the last one.
            report = control.reports.recv() => match report {
                None => return webhooks_ended(control, deadline).await,
                Some(report) if report.outcome.is_err() => {
                    let message = describe(&report);
                    tracing::error!(event = "process.failed", "{message}");
                    return Waited::Failed(message);
                }
                Some(_) => {}
            },
            () = until(deadline) => return Waited::TooLong,
            () = second_end(&mut control.orders, &mut control.signals) => return Waited::SecondEnd,
        }
    }
}

/// Waits for webhooks, so that a sender whose value is being stored gets its response.
async fn webhooks_ended(control: &mut Control, deadline: Option<Instant>) -> Waited {
    tokio::select! {
        () = control.webhooks.ended() => Waited::AllEnded,
        () = until(deadline) => Waited::TooLong,
        () = second_end(&mut control.orders, &mut control.signals) => Waited::SecondEnd,
    }
}

fn describe(report: &Report) -> String {
    let why = report.outcome.as_ref().err().map_or("ended by itself", String::as_str);
    format!("worker-{} is gone: {why}", report.worker)
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Returns when the program is told to end a second time. It ignores requests to reload.
async fn second_end(orders: &mut UnboundedReceiver<Order>, signals: &mut Option<Signals>) {
    loop {
        tokio::select! {
            order = orders.recv() => match order {
                Some(Order::Reload(_)) => {}
                Some(Order::Drain | Order::Stop) | None => return,
            },
            received = next_of(signals) => match received {
                Received::Reload => {}
                Received::End(_) => return,
            },
        }
    }
}

/// Handlers of SIGHUP, SIGTERM, and SIGINT.
pub(super) struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Must be called within a runtime.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    pub(super) async fn next(&mut self) -> Received {
        tokio::select! {
            _ = self.hangup.recv() => Received::Reload,
            _ = self.terminate.recv() => Received::End("SIGTERM"),
            _ = self.interrupt.recv() => Received::End("SIGINT"),
        }
    }
}

/// The meaning of a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Received {
    Reload,
    End(&'static str),
}

/// [`Signals::next`], or for ever pending if there are no handlers.
async fn next_of(signals: &mut Option<Signals>) -> Received {
    match signals {
        Some(signals) => signals.next().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_mistakes_are_summed_up() {
        assert_eq!(summary(&["a".to_owned()]), "a");
        assert_eq!(summary(&["a".to_owned(), "b".to_owned(), "c".to_owned()]), "a (and 2 more)");
    }
}
