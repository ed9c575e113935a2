//! What the control thread serves: webhooks and the admin address, and how a reload exchanges them.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::slots;
use super::sockets::{Held, Place, Source};
use crate::admin::{self, Admin, WebhookView};
use crate::clock::SharedClock;
use crate::config::{Address, WebhookConfig};
use crate::listener::Bound;
use crate::metrics::ListenerMetrics;
use crate::proxy::SnapshotCell;
use crate::token::RetryCause;
use crate::webhook::{self, Endpoint, OnValue, Report, Webhook};

struct Live {
    held: Held,
    endpoint: Arc<Endpoint>,
}

/// All running webhooks.
pub(super) struct Webhooks {
    live: Vec<Live>,
    /// The webhooks that the admin address shows.
    running: Arc<ArcSwap<Vec<Arc<Webhook>>>>,
    serving: TaskTracker,
    now: CancellationToken,
    clock: SharedClock,
    metrics: Arc<ListenerMetrics>,
    on_value: OnValue,
}

impl Webhooks {
    /// A new value makes every slot of the running snapshot check its files.
    pub(super) fn new(
        clock: SharedClock,
        metrics: Arc<ListenerMetrics>,
        snapshot: Arc<SnapshotCell>,
    ) -> Self {
        let on_value = Arc::new(move || {
            for slot in slots(&snapshot.load()) {
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
            on_value,
        }
    }

    /// Serves exactly these from now on. Requests to removed webhooks still get their response. Must be called within a
    /// runtime.
    pub(super) fn apply(&mut self, configs: &[Arc<WebhookConfig>], sources: Vec<Source>) {
        let running: Vec<Arc<Webhook>> = configs.iter().map(|config| self.webhook(config)).collect();
        let mut old = std::mem::take(&mut self.live);
        for (webhook, source) in running.iter().zip(sources) {
            let live = match source {
                Source::Kept(name) => {
                    let place = old.iter().position(|live| live.held.name == name);
                    place.map(|place| old.swap_remove(place)).map(|mut live| {
                        live.endpoint.store(Arc::clone(webhook));
                        live.held.name = Arc::clone(&webhook.config().name);
                        live
                    })
                }
                Source::New(socket) => {
                    let held = Held::new(&Place::webhook(webhook.config()), &socket);
                    let live = Live { held, endpoint: Arc::new(Endpoint::new(Arc::clone(webhook))) };
                    self.serve(&live, socket);
                    Some(live)
                }
            };
            self.live.extend(live);
        }
        self.running.store(Arc::new(running));
        for Live { held, .. } in old {
            tracing::info!(event = "webhook.closed", webhook = %held.name, address = %held.local, "closed a webhook");
            held.stop_accepting();
        }
    }

    /// The running webhook of the same name, with the new config.
    fn webhook(&self, config: &Arc<WebhookConfig>) -> Arc<Webhook> {
        match self.running.load().iter().find(|old| old.config().name == config.name) {
            // Keeps the last good values of its secrets.
            Some(same) if same.config() == config => Arc::clone(same),
            Some(old) => Arc::new(old.with_config(Arc::clone(config))),
            None => {
                let (clock, on_value) = (Arc::clone(&self.clock), Arc::clone(&self.on_value));
                Arc::new(Webhook::new(Arc::clone(config), clock, on_value))
            }
        }
    }

    fn serve(&self, live: &Live, socket: Bound) {
        let Live { held, endpoint } = live;
        tracing::info!(
            event = "webhook.opened", webhook = %held.name, address = %held.local, path = %endpoint.load().config().path,
            "listening"
        );
        let (metrics, stop) = (Arc::clone(&self.metrics), held.stop(&self.now));
        self.serving.spawn(webhook::serve(socket, Arc::clone(endpoint), metrics, stop));
    }

    /// Serves a webhook on a socket that was bound again. Must be called within a runtime.
    pub(super) fn serve_again(&mut self, socket: Bound) {
        let mut live = std::mem::take(&mut self.live);
        if let Some(live) = live.iter_mut().find(|live| live.held.name == *socket.name()) {
            live.held = live.held.with_socket(&socket);
            self.serve(live, socket);
        }
        self.live = live;
    }

    /// The sockets in use.
    pub(super) fn held(&self) -> impl Iterator<Item = &Held> {
        self.live.iter().map(|live| &live.held)
    }

    /// What the admin address shows, read from the webhooks that run at the time of the request.
    pub(super) fn views(&self) -> admin::Webhooks {
        let running = Arc::clone(&self.running);
        Box::new(move || running.load().iter().map(|webhook| view(webhook)).collect())
    }

    /// Real addresses by webhook name.
    pub(super) fn addresses(&self) -> BTreeMap<String, String> {
        self.held().map(|held| (held.name.to_string(), held.local.clone())).collect()
    }

    /// Accepts no new connections. Requests that have begun still get their response.
    pub(super) fn stop_accepting(&self) {
        self.held().for_each(Held::stop_accepting);
        self.serving.close();
    }

    /// Drops all connections.
    pub(super) fn stop_now(&self) {
        self.stop_accepting();
        self.now.cancel();
    }

    /// Waits until every request has ended, after [`Self::stop_accepting`].
    pub(super) async fn ended(&self) {
        self.serving.wait().await;
    }
}

fn view(webhook: &Webhook) -> WebhookView {
    let Report { received_at, has_value, problem, last_refusal } = webhook.report();
    WebhookView { config: Arc::clone(webhook.config()), has_value, received_at, problem, last_refusal }
}

/// The server of the admin address.
pub(super) struct AdminServer {
    admin: Arc<Admin>,
    held: Held,
    now: CancellationToken,
}

impl AdminServer {
    /// Must be called within a runtime.
    pub(super) fn start(admin: Arc<Admin>, socket: Bound, address: &Address) -> Self {
        let held = Held::new(&Place::admin(address), &socket);
        let this = Self { admin, held, now: CancellationToken::new() };
        this.serve(socket);
        this
    }

    fn serve(&self, socket: Bound) {
        tracing::info!(event = "listener.opened", listener = "admin", address = %self.held.local, "listening");
        tokio::spawn(admin::serve(socket, Arc::clone(&self.admin), self.held.stop(&self.now)));
    }

    /// The socket in use.
    pub(super) fn held(&self) -> &Held {
        &self.held
    }

    /// Moves to another address. Requests at the old one still get their response.
    pub(super) fn move_to(&mut self, socket: Bound, address: &Address) {
        self.held.stop_accepting();
        self.held = Held::new(&Place::admin(address), &socket);
        self.serve(socket);
    }

    /// Serves on a socket that was bound again.
    pub(super) fn serve_again(&mut self, socket: Bound) {
        self.held = self.held.with_socket(&socket);
        self.serve(socket);
    }

    pub(super) fn stop(&self) {
        self.held.stop_accepting();
        self.now.cancel();
    }
}
