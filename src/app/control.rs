//! The control thread: orders, signals, changed files, workers that break down.

use std::collections::{BTreeSet, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Handle, Runtime};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;

use super::admin_server::AdminServer;
use super::build::{self, Parts};
use super::drain;
use super::listeners::{Listeners, Shares};
use super::prepare::{Cause, NewConfig, Outcome, Prepared, one_line};
use super::reloading::{ReloadStep, Reloading};
use super::room::Room;
use super::service_manager::{self, ServiceManager};
use super::signals::{self, Received, Signals};
use super::sockets::{self, Held, Kind, Source, Sources, Undone};
use super::webhooks::Webhooks;
use super::worker::{Report, Workers};
use super::{Addresses, Ended, Shared};
use crate::config::{self, Config};
use crate::metrics::Metrics;
use crate::proxy::Snapshot;
use crate::telemetry::LogControl;
use crate::token::RetryCause;
use crate::trace::Tracer;

/// How long the end of the process waits for the collector to take the last spans.
const LAST_SPANS: Duration = Duration::from_secs(1);

/// What a [`super::Running`] asks for.
pub(super) enum Order {
    Reload(oneshot::Sender<Result<(), String>>),
    Drain,
    Stop,
}

pub(super) struct Control {
    pub(super) shared: Shared,
    pub(super) listeners: Listeners,
    pub(super) workers: Workers,
    pub(super) admin: AdminServer,
    pub(super) webhooks: Webhooks,
    pub(super) orders: UnboundedReceiver<Order>,
    pub(super) reports: UnboundedReceiver<Report>,
    pub(super) signals: Option<Signals>,
    pub(super) log: Option<LogControl>,
    pub(super) service: ServiceManager,
    pub(super) reloading: Reloading,
}

enum Event {
    Order(Order),
    Signal(Received),
    Worker(Report),
    Reloading(ReloadStep),
    /// It is time to see what the service manager is told.
    Look,
}

impl Control {
    /// Runs to the end of the program. A file system that hangs does not hold that up.
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
        self.look(Cause::Files);
        let mut looks = tokio::time::interval(service_manager::LOOK);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            match self.next(&mut looks).await {
                Event::Look => self.service.look(&self.shared.snapshot.load()),
                Event::Order(Order::Reload(reply)) => {
                    self.reloading.answer_to(reply);
                    self.look(Cause::Operator);
                }
                Event::Signal(Received::Reload) => {
                    tracing::info!(event = "config.reload_requested", "SIGHUP: loading the config again");
                    self.look(Cause::Operator);
                }
                Event::Order(Order::Drain) => return drain::drain(self, "asked to end").await,
                Event::Signal(Received::End(signal)) => return drain::drain(self, signal).await,
                Event::Order(Order::Stop) => return drain::cut(self).await,
                Event::Worker(report) => return drain::fail(self, &report).await,
                Event::Reloading(ReloadStep::Look) => self.look(Cause::Files),
                Event::Reloading(ReloadStep::Prepared(prepared)) => self.prepared(*prepared).await,
                Event::Reloading(ReloadStep::Broken(error)) => self.broken(&error),
            }
        }
    }

    async fn next(&mut self, looks: &mut tokio::time::Interval) -> Event {
        let listens = self.service.listens();
        tokio::select! {
            // A handle that is gone cannot ask for anything any more.
            order = self.orders.recv() => Event::Order(order.unwrap_or(Order::Stop)),
            received = signals::next_of(&mut self.signals) => Event::Signal(received),
            Some(report) = self.reports.recv() => Event::Worker(report),
            step = self.reloading.next() => Event::Reloading(step),
            _ = looks.tick(), if listens => Event::Look,
        }
    }

    fn look(&mut self, cause: Cause) {
        if cause == Cause::Operator {
            self.service.reloading();
        }
        let config = Arc::clone(&self.shared.snapshot.load().config);
        self.reloading.look(cause, &config, &self.shared.metrics);
    }

    /// The files were looked at.
    async fn prepared(&mut self, prepared: Prepared) {
        let Prepared { cause, mut seen, folders, outcome } = prepared;
        let result = match outcome {
            Outcome::Unchanged => None,
            Outcome::New(new) => {
                self.service.reloading();
                let done = self.commit(cause, &new, &seen.unapplied.files).await;
                Some(done.map_err(|error| vec![error]))
            }
            Outcome::Refused(messages) => {
                self.service.reloading();
                Some(Err(messages))
            }
        };
        if let Some(result) = result {
            match &result {
                Ok(()) => seen.unapplied = crate::reload::Change::default(),
                // A config that is broken says nothing of the secrets that the running one names.
                Err(_) => {
                    self.retry_refused(cause);
                    // Of listeners that will not be.
                    self.shared.metrics.retain(&self.shared.snapshot.load().config);
                }
            }
            self.reloaded(result);
        }
        let again = self.reloading.looked(seen, folders);
        self.look_again(again);
    }

    /// An operator who asked meanwhile still waits for a response.
    fn look_again(&mut self, again: Option<Cause>) {
        if again != Some(Cause::Operator) {
            self.service.reloaded(&self.shared.snapshot.load());
        }
        if let Some(cause) = again {
            self.look(cause);
        }
    }

    fn broken(&mut self, error: &str) {
        self.reloaded(Err(vec![format!("the files were not looked at: {error}")]));
        let config = Arc::clone(&self.shared.snapshot.load().config);
        let again = self.reloading.start_over(&config);
        self.look_again(again);
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

    /// Puts a config in force, or leaves everything as it is.
    async fn commit(
        &mut self,
        cause: Cause,
        new: &NewConfig,
        changed: &BTreeSet<PathBuf>,
    ) -> Result<(), String> {
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
        let parts = Parts { tokens: &self.shared.tokens, metrics: &self.shared.metrics, changed };
        let mut snapshot = build::build(config, Some(&before), &parts);
        snapshot.tracer = tracer;
        self.shared.tracers.store(snapshot.tracer.clone());
        let snapshot = Arc::new(snapshot);
        // Before the listeners: a request that comes in by a new one must find it in the snapshot.
        self.shared.snapshot.store(Arc::clone(&snapshot));
        self.listeners.apply(&new.settings, listeners, &self.workers);
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
        self.renew_slots(cause, &before, &snapshot);
        let missing = config::missing_values(config);
        self.service.set_missing(&missing);
        self.shared.health.set_missing(missing);
        for stray in unfit.strays {
            tracing::warn!(event = "listener.socket_unused", "{stray}; until then nobody answers on it");
        }
        self.shared.metrics.retain(config);
        self.tell(new, &before, &snapshot);
        room.tell(config);
        Ok(())
    }

    /// The sockets of a config. Where one fails, those that were closed for it are served again.
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
        for slot in build::slots(&self.shared.snapshot.load()) {
            slot.retry_now(retry_cause(cause));
        }
    }

    fn renew_slots(&self, cause: Cause, before: &Snapshot, after: &Snapshot) {
        let slots = build::slots(after);
        self.shared.tokens.retain(&slots);
        let known: HashSet<_> = build::slots(before).iter().map(Arc::as_ptr).collect();
        for slot in &slots {
            if known.contains(&Arc::as_ptr(slot)) {
                slot.retry_now(retry_cause(cause));
            } else {
                slot.prefetch();
            }
        }
    }

    fn tell(&self, new: &NewConfig, before: &Snapshot, after: &Snapshot) {
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

/// The one that runs, where its table is as it was: spans that it still holds go on their way in any case.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_mistakes_are_summed_up() {
        assert_eq!(summary(&["a".to_owned()]), "a");
        assert_eq!(summary(&["a".to_owned(), "b".to_owned(), "c".to_owned()]), "a (and 2 more)");
    }
}
