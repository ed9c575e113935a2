//! The webhooks that are being served, by the control thread, and how they become those of another config.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::build;
use super::listeners::same_sockets;
use crate::admin::{self, WebhookView};
use crate::clock::SharedClock;
use crate::config::{Address, UnixOptions, WebhookConfig};
use crate::listener::{BindError, Bound, Stop};
use crate::metrics::ListenerMetrics;
use crate::proxy::SnapshotCell;
use crate::token::RetryCause;
use crate::webhook::{self, Door, Report, Told, Webhook};

/// A socket file is for its owner alone.
pub(super) fn bind(webhook: &WebhookConfig) -> Result<Bound, BindError> {
    Bound::bind(&webhook.name, &webhook.address, &UnixOptions::OWNER_ALONE)
}

/// How one webhook of the new config comes about.
pub(super) enum Source {
    /// The socket of the webhook that is at this place now.
    Kept(usize),
    New(Bound),
}

pub(super) fn all_new(sockets: Vec<Bound>) -> Vec<Source> {
    sockets.into_iter().map(Source::New).collect()
}

struct Live {
    name: Arc<str>,
    address: Address,
    local: String,
    door: Arc<Door>,
    accepting: CancellationToken,
}

/// All webhooks that take calls.
pub(super) struct Webhooks {
    live: Vec<Live>,
    /// For the admin address.
    running: Arc<ArcSwap<Vec<Arc<Webhook>>>>,
    serving: TaskTracker,
    now: CancellationToken,
    clock: SharedClock,
    metrics: Arc<ListenerMetrics>,
    told: Told,
}

impl Webhooks {
    /// A value that came is told to every slot of the snapshot in force.
    pub(super) fn new(
        clock: SharedClock,
        metrics: Arc<ListenerMetrics>,
        snapshot: Arc<SnapshotCell>,
    ) -> Self {
        let told = Arc::new(move || {
            for slot in build::slots(&snapshot.load()) {
                slot.retry_now(RetryCause::FilesChanged);
            }
        });
        Self {
            live: Vec::new(),
            running: Arc::default(),
            serving: TaskTracker::new(),
            now: CancellationToken::new(),
            clock,
            metrics,
            told,
        }
    }

    /// Everything that can fail on the way to `configs`; nothing is served differently yet.
    pub(super) fn bind_for(&self, configs: &[Arc<WebhookConfig>]) -> Result<Vec<Source>, String> {
        let old: Vec<_> = self.live.iter().map(|live| (&*live.name, &live.address)).collect();
        let new: Vec<_> = configs.iter().map(|new| (&*new.name, &new.address)).collect();
        let sockets = configs.iter().zip(same_sockets(&old, &new)).map(|(config, kept)| match kept {
            Some(place) => Ok(Source::Kept(place)),
            None => {
                bind(config).map(Source::New).map_err(|error| format!("webhook.{}: {error}", config.name))
            }
        });
        sockets.collect()
    }

    /// Serves exactly these from now on; calls of those that go are still answered. Needs a runtime around it.
    pub(super) fn apply(&mut self, configs: &[Arc<WebhookConfig>], sources: Vec<Source>) {
        let running: Vec<Arc<Webhook>> = configs.iter().map(|config| self.webhook(config)).collect();
        let mut old: Vec<Option<Live>> = std::mem::take(&mut self.live).into_iter().map(Some).collect();
        for (webhook, source) in running.iter().zip(sources) {
            let live = match source {
                Source::Kept(place) => old.get_mut(place).and_then(Option::take).map(|live| {
                    live.door.store(Arc::clone(webhook));
                    Live { name: Arc::clone(&webhook.config().name), ..live }
                }),
                Source::New(socket) => Some(self.serve(webhook, socket)),
            };
            self.live.extend(live);
        }
        self.running.store(Arc::new(running));
        for gone in old.into_iter().flatten() {
            tracing::info!(event = "webhook.closed", webhook = %gone.name, address = %gone.local, "closed a webhook");
            gone.accepting.cancel();
        }
    }

    /// The one of the same name, under other rules where they are other.
    fn webhook(&self, config: &Arc<WebhookConfig>) -> Arc<Webhook> {
        match self.running.load().iter().find(|old| old.config().name == config.name) {
            // Its secrets know their last good values.
            Some(same) if same.config() == config => Arc::clone(same),
            Some(old) => Arc::new(old.with_config(Arc::clone(config))),
            None => {
                let (clock, told) = (Arc::clone(&self.clock), Arc::clone(&self.told));
                Arc::new(Webhook::new(Arc::clone(config), clock, told))
            }
        }
    }

    fn serve(&self, webhook: &Arc<Webhook>, socket: Bound) -> Live {
        let config = webhook.config();
        let local = socket.local();
        tracing::info!(
            event = "webhook.opened", webhook = %config.name, address = %local, path = %config.path,
            "listening"
        );
        let door = Arc::new(Door::new(Arc::clone(webhook)));
        let accepting = CancellationToken::new();
        let stop = Stop { accepting: accepting.clone(), now: self.now.clone() };
        self.serving.spawn(webhook::serve(socket, Arc::clone(&door), Arc::clone(&self.metrics), stop));
        Live { name: Arc::clone(&config.name), address: config.address.clone(), local, door, accepting }
    }

    /// What the admin address shows of them, whichever are running when it is asked.
    pub(super) fn views(&self) -> admin::Webhooks {
        let running = Arc::clone(&self.running);
        Box::new(move || running.load().iter().map(|webhook| view(webhook)).collect())
    }

    /// Real addresses by webhook name.
    pub(super) fn addresses(&self) -> BTreeMap<String, String> {
        self.live.iter().map(|live| (live.name.to_string(), live.local.clone())).collect()
    }

    /// No new requests; those under way are answered.
    pub(super) fn stop_accepting(&self) {
        for live in &self.live {
            live.accepting.cancel();
        }
        self.serving.close();
    }

    /// Drops every connection.
    pub(super) fn stop_now(&self) {
        self.stop_accepting();
        self.now.cancel();
    }

    /// After [`Self::stop_accepting`]: waits until every request was answered.
    pub(super) async fn ended(&self) {
        self.serving.wait().await;
    }
}

fn view(webhook: &Webhook) -> WebhookView {
    let Report { received_at, has_value, problem, last_refusal } = webhook.report();
    WebhookView { config: Arc::clone(webhook.config()), has_value, received_at, problem, last_refusal }
}
