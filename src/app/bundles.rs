//! The files from which programs learn to trust the authorities of forward listeners. Each is written by its own task, so that a
//! file system that hangs blocks nothing else.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use crate::admin::{AuthorityView, Health};
use crate::aside::Aside;
use crate::clock::{Clock, SystemClock};
use crate::config::bundle_files;
use crate::listener::ListenerSettings;
use crate::net::CertificateAuthority;
use crate::net::authority::Bundle;

/// The threads that write bundles.
static WRITING: Aside = Aside::new("bundles", 16);

/// A file system that takes longer than this is reported.
const SLOW: Duration = Duration::from_secs(10);
/// How often a bundle that was not written is tried again, and one that is gone is written again.
const AGAIN: Duration = Duration::from_secs(60);

/// The bundle of an authority.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    listener: Arc<str>,
    path: PathBuf,
    /// What says where it is, for errors.
    key: &'static str,
    bundle: Bundle,
    /// Files whose certificates it has too, each with the variable that names it.
    also: Vec<(&'static str, PathBuf)>,
}

impl Wanted {
    fn of(settings: &[Arc<ListenerSettings>]) -> impl Iterator<Item = Self> {
        settings.iter().filter_map(|settings| {
            let authority = settings.authority.as_ref().filter(|it| it.newest_certificate().is_some())?;
            let forward = settings.config.forward()?;
            Some(Self {
                listener: Arc::clone(&settings.config.name),
                path: forward.ca_bundle.clone()?,
                key: forward.bundle_key,
                bundle: authority.bundle(),
                also: forward.trusted.clone(),
            })
        })
    }

    fn write(&self) -> Result<(), String> {
        self.bundle.write(&self.path, self.key, &self.also, SystemClock.wall())
    }
}

/// Writes the bundles before anything is served, so that a program that starts next finds them. Blocks.
///
/// # Errors
/// The bundle that cannot be written, and what to do.
pub(super) fn write_first(settings: &[Arc<ListenerSettings>]) -> Result<(), String> {
    Wanted::of(settings).try_for_each(write_now)
}

/// Writes the bundles that a reload changes before the new config is used, so that a program that starts after it finds them.
/// Blocks. Returns whether all are written: an error does not stop the reload, because running programs go on.
pub(super) fn write_changed(new: &[Arc<ListenerSettings>], running: &[Arc<ListenerSettings>]) -> bool {
    let known: Vec<Wanted> = Wanted::of(running).collect();
    Wanted::of(new).filter(|wanted| !known.contains(wanted)).map(write_now).all(|written| written.is_ok())
}

fn write_now(wanted: Wanted) -> Result<(), String> {
    let listener = Arc::clone(&wanted.listener);
    let (key, path, (written_to, written)) = (wanted.key, wanted.path.clone(), mpsc::channel());
    let told = |why: String| format!("listener.{listener}: {why}");
    WRITING.spawn(move || drop(written_to.send(wanted.write()))).map_err(|error| told(error.to_string()))?;
    written.recv_timeout(SLOW).unwrap_or_else(|_| Err(stuck(key, &path))).map_err(told)
}

fn stuck(key: &str, path: &Path) -> String {
    format!("`{key}` {}: its file system does not respond", path.display())
}

/// A bundle, and whether it is written already.
type Order = (Wanted, bool);

/// The running tasks, by the file that they write.
pub(super) struct Bundles {
    running: BTreeMap<PathBuf, watch::Sender<Order>>,
    health: Arc<Health>,
}

impl Bundles {
    pub(super) fn new(health: Arc<Health>) -> Self {
        Self { running: BTreeMap::new(), health }
    }

    /// Keeps the bundles of these listeners from now on. `written`: they were just written. Must be called within a runtime.
    pub(super) fn keep(&mut self, settings: &[Arc<ListenerSettings>], written: bool) {
        let mut before = std::mem::take(&mut self.running);
        for wanted in Wanted::of(settings) {
            let path = wanted.path.clone();
            let sender = match before.remove(&path) {
                Some(sender) => {
                    sender.send_if_modified(|(known, is_written)| {
                        let changed = *known != wanted;
                        if changed {
                            (*known, *is_written) = (wanted, written);
                        }
                        changed
                    });
                    sender
                }
                None => {
                    let (sender, receiver) = watch::channel((wanted, written));
                    tokio::spawn(keep(receiver, Arc::clone(&self.health)));
                    sender
                }
            };
            self.running.insert(path, sender);
        }
        self.health.set_authorities(settings.iter().filter_map(|settings| {
            let authority = settings.authority.as_ref()?;
            Some((Arc::clone(&settings.config.name), view(settings, authority)?))
        }));
    }

    /// Writes all of them again: those of a reload that failed were written already.
    pub(super) fn write_again(&self) {
        self.running.values().for_each(|sender| sender.send_modify(|(_, written)| *written = false));
    }
}

fn view(settings: &ListenerSettings, authority: &CertificateAuthority) -> Option<AuthorityView> {
    Some(AuthorityView {
        ephemeral: authority.is_ephemeral(),
        newest: authority.newest_certificate()?.clone(),
        pem: authority.bundle().pem(),
        bundle: settings.config.forward()?.ca_bundle.clone(),
    })
}

/// Writes a bundle whenever another is wanted, until no listener has it.
async fn keep(mut orders: watch::Receiver<Order>, health: Arc<Health>) {
    let mut order = orders.borrow_and_update().clone();
    loop {
        let (wanted, written) = &mut order;
        if *written {
            health.set_bundle(&wanted.path, None);
        } else {
            let outcome = write(wanted, &health).await;
            *written = outcome.is_ok();
            report(wanted, &health, outcome);
        }
        tokio::select! {
            changed = orders.changed() => match changed {
                Ok(()) => order = orders.borrow_and_update().clone(),
                Err(_) => return health.set_bundle(&wanted.path, None),
            },
            () = sleep(AGAIN) => *written = *written && is_there(wanted).await,
        }
    }
}

async fn write(wanted: &Wanted, health: &Health) -> Result<(), String> {
    let own = wanted.clone();
    let mut writing = std::pin::pin!(WRITING.run(move || own.write()));
    let outcome = tokio::select! {
        outcome = &mut writing => outcome,
        () = sleep(SLOW) => {
            report(wanted, health, Err(stuck(wanted.key, &wanted.path)));
            writing.await
        }
    };
    outcome.unwrap_or_else(|error| Err(error.to_string()))
}

async fn is_there(wanted: &Wanted) -> bool {
    let files = bundle_files(&wanted.path);
    WRITING.run(move || files.iter().all(|file| file.exists())).await.unwrap_or(true)
}

/// Logs an error once, as long as it is the same.
fn report(wanted: &Wanted, health: &Health, outcome: Result<(), String>) {
    let (listener, path) = (&wanted.listener, wanted.path.display());
    match &outcome {
        Ok(()) => {
            tracing::info!(event = "ca.bundle_written", %listener, %path, "wrote what programs must trust");
        }
        Err(error) if health.bundle_problem(&wanted.path).as_ref() != Some(error) => {
            tracing::error!(
                event = "ca.bundle_failed", %listener, %path, %error,
                "programs that start now do not trust the listener"
            );
        }
        Err(_) => {}
    }
    health.set_bundle(&wanted.path, outcome.err());
}
