//! Waits until it is worth looking at the files.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::debounce::Debounce;

/// Network file systems and lost events: the files are looked at now and then anyway.
const POLL: Duration = Duration::from_secs(30);
/// Where the system gives no events, a change must still be seen in time.
const POLL_WITHOUT_EVENTS: Duration = Duration::from_secs(1);

/// Watches folders. Without the system's help (no inotify watches left) it falls back to looking every second.
pub struct Watch {
    watcher: Option<RecommendedWatcher>,
    folders: BTreeSet<PathBuf>,
    events: mpsc::Receiver<()>,
    debounce: Debounce,
    poll: Duration,
}

impl Watch {
    /// Watches nothing yet, see [`Self::arm`].
    pub fn new() -> Self {
        // One place is enough: what matters is whether anything happened since the last look.
        let (sender, events) = mpsc::channel(1);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.as_ref().map_or(true, matters) {
                let _ = sender.try_send(());
            }
        });
        let watcher = match watcher {
            Ok(watcher) => Some(watcher),
            Err(error) => {
                tracing::warn!(
                    event = "watch.unavailable", %error,
                    "file changes are not reported by the system; looking every second instead"
                );
                None
            }
        };
        let poll = if watcher.is_some() { POLL } else { POLL_WITHOUT_EVENTS };
        Self {
            watcher,
            folders: BTreeSet::new(),
            events,
            debounce: Debounce::new(Instant::now(), poll),
            poll,
        }
    }

    /// Watches exactly these folders from now on.
    ///
    /// A folder that is watched already is asked for again: another one may have taken its name.
    pub fn arm(&mut self, folders: BTreeSet<PathBuf>) {
        let Some(watcher) = &mut self.watcher else { return };
        for gone in self.folders.difference(&folders) {
            // A removed folder has lost its watch already.
            let _ = watcher.unwatch(gone);
        }
        let mut all = true;
        for folder in &folders {
            if let Err(error) = watcher.watch(folder, RecursiveMode::NonRecursive) {
                all = false;
                if !self.folders.contains(folder) {
                    tracing::warn!(
                        event = "watch.folder_failed", folder = %folder.display(), %error,
                        "cannot watch a folder; looking every second instead"
                    );
                }
            }
        }
        self.poll = if all { POLL } else { POLL_WITHOUT_EVENTS };
        self.folders = folders;
        self.debounce.set_poll(Instant::now(), self.poll);
    }

    /// Waits for the next moment to look at the files. May be dropped and called again without losing an event.
    pub async fn touched(&mut self) {
        loop {
            tokio::select! {
                Some(()) = self.events.recv() => self.debounce.event(Instant::now()),
                () = tokio::time::sleep_until(self.debounce.due()) => {
                    self.debounce.looked(Instant::now(), self.poll);
                    return;
                }
            }
        }
    }
}

impl Default for Watch {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether a file may have another content now. That a file was opened or read does not count: looking at the files
/// would cause the next look.
fn matters(event: &notify::Event) -> bool {
    match event.kind {
        EventKind::Access(kind) => event.need_rescan() || kind == AccessKind::Close(AccessMode::Write),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::reload::folders::tests::Folder;

    #[test]
    fn reading_a_file_does_not_matter() {
        for kind in [AccessKind::Open(AccessMode::Any), AccessKind::Close(AccessMode::Read), AccessKind::Read]
        {
            assert!(!matters(&notify::Event::new(EventKind::Access(kind))), "{kind:?}");
        }
        assert!(matters(&notify::Event::new(EventKind::Access(AccessKind::Close(AccessMode::Write)))));
        assert!(matters(&notify::Event::new(EventKind::Any)));
    }

    #[tokio::test]
    async fn a_file_put_in_the_place_of_another_is_noticed_each_time() {
        let folder = Folder::new();
        fs::write(folder.path("a.toml"), "0").unwrap();
        let mut watch = Watch::new();
        watch.arm([folder.path("")].into());
        for round in 1..4 {
            fs::write(folder.path("new"), round.to_string()).unwrap();
            fs::rename(folder.path("new"), folder.path("a.toml")).unwrap();
            let noticed = tokio::time::timeout(Duration::from_secs(10), watch.touched()).await;
            assert!(noticed.is_ok(), "round {round}");
            // As a reload does: look at the file, and watch again.
            fs::File::open(folder.path("a.toml")).unwrap();
            watch.arm([folder.path("")].into());
        }
    }

    #[tokio::test]
    async fn looking_at_the_files_causes_no_look() {
        let folder = Folder::new();
        fs::write(folder.path("a.toml"), "0").unwrap();
        let mut watch = Watch::new();
        watch.arm([folder.path("")].into());
        fs::File::open(folder.path("a.toml")).unwrap();
        // A change that does count comes after it: by then the look at the file was reported too.
        fs::write(folder.path("b"), "").unwrap();
        tokio::time::timeout(Duration::from_secs(10), watch.touched()).await.unwrap();
        fs::File::open(folder.path("a.toml")).unwrap();
        let again = tokio::time::timeout(Duration::from_millis(600), watch.touched()).await;
        assert!(again.is_err(), "a look caused a look");
    }
}
