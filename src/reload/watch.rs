//! Waits until it is worth looking at the files.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::net::unix::pipe::Receiver;
use tokio::time::Instant;

use super::debounce::Debounce;

/// Network file systems and lost events: the files are looked at now and then anyway.
const POLL: Duration = Duration::from_secs(30);
/// Where the system gives no events, a change must still be seen in time.
const POLL_WITHOUT_EVENTS: Duration = Duration::from_secs(1);

/// Watches folders. Without the system's help (no inotify watches left) it falls back to looking every second.
pub struct Watch {
    events: Option<Events>,
    debounce: Debounce,
    poll: Duration,
}

impl Watch {
    /// Watches nothing yet, see [`Self::arm`]. Needs a runtime around it.
    pub fn new() -> Self {
        let events = match Events::new() {
            Ok(events) => Some(events),
            Err(error) => {
                tracing::warn!(
                    event = "watch.unavailable", %error,
                    "file changes are not reported by the system; looking every second instead"
                );
                None
            }
        };
        let poll = if events.is_some() { POLL } else { POLL_WITHOUT_EVENTS };
        Self { events, debounce: Debounce::new(Instant::now(), poll), poll }
    }

    /// Watches exactly these folders from now on.
    ///
    /// A folder that is watched already is asked for again: another one may have taken its name.
    pub fn arm(&mut self, folders: &BTreeSet<PathBuf>) {
        let Some(events) = &mut self.events else { return };
        let all = events.watch(folders);
        self.poll = if all { POLL } else { POLL_WITHOUT_EVENTS };
        self.debounce.set_poll(Instant::now(), self.poll);
    }

    /// Waits for the next moment to look at the files. May be dropped and called again without losing an event.
    pub async fn touched(&mut self) {
        loop {
            tokio::select! {
                () = happened(&self.events) => self.debounce.event(Instant::now()),
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

async fn happened(events: &Option<Events>) {
    match events {
        Some(events) => events.happened().await,
        None => std::future::pending().await,
    }
}

/// What the kernel tells of folders. Read on the thread that waits for it: a thread for that alone could be refused.
struct Events {
    /// No pipe, but read as one is.
    inotify: Receiver,
    /// What each folder is known by (two paths may lead to one); `None`: it can't be watched, which was told.
    watches: BTreeMap<PathBuf, Option<i32>>,
}

/// After which a file may have another content, or a name lead to another file. That a file was opened or read does
/// not count: looking at the files would cause the next look.
const MATTERS: WatchFlags = WatchFlags::ATTRIB
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::CREATE)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::MOVE)
    .union(WatchFlags::MOVE_SELF);

impl Events {
    fn new() -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        Ok(Self { inotify: Receiver::from_owned_fd_unchecked(inotify)?, watches: BTreeMap::new() })
    }

    /// Watches these and no others; whether all of them are.
    fn watch(&mut self, folders: &BTreeSet<PathBuf>) -> bool {
        let watches: BTreeMap<_, _> =
            folders.iter().map(|folder| (folder.clone(), self.watch_one(folder))).collect();
        let kept: BTreeSet<i32> = watches.values().flatten().copied().collect();
        for gone in self.watches.values().flatten().filter(|watch| !kept.contains(watch)) {
            // A removed folder has lost its watch already.
            let _ = inotify::remove_watch(&self.inotify, *gone);
        }
        self.watches = watches;
        self.watches.values().all(Option::is_some)
    }

    fn watch_one(&self, folder: &Path) -> Option<i32> {
        let watched = inotify::add_watch(&self.inotify, folder, MATTERS | WatchFlags::ONLYDIR);
        if let (Err(error), false) = (&watched, self.watches.contains_key(folder)) {
            tracing::warn!(
                event = "watch.folder_failed", folder = %folder.display(), %error,
                "cannot watch a folder; looking every second instead"
            );
        }
        watched.ok()
    }

    /// Waits until something happened. May be dropped and called again: what has happened stays to be read.
    async fn happened(&self) {
        loop {
            // What it was is no matter, and neither is an error: each is a reason to look.
            let ready = self.inotify.readable().await;
            match self.inotify.try_read(&mut [0; 4096]) {
                Err(error) if ready.is_ok() && error.kind() == io::ErrorKind::WouldBlock => {}
                _ => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::reload::folders::tests::Folder;

    #[tokio::test]
    async fn a_file_put_in_the_place_of_another_is_noticed_each_time() {
        let folder = Folder::new();
        fs::write(folder.path("a.toml"), "0").unwrap();
        let mut watch = Watch::new();
        watch.arm(&[folder.path("")].into());
        for round in 1..4 {
            fs::write(folder.path("new"), round.to_string()).unwrap();
            fs::rename(folder.path("new"), folder.path("a.toml")).unwrap();
            let noticed = tokio::time::timeout(Duration::from_secs(10), watch.touched()).await;
            assert!(noticed.is_ok(), "round {round}");
            // As a reload does: look at the file, and watch again.
            fs::File::open(folder.path("a.toml")).unwrap();
            watch.arm(&[folder.path("")].into());
        }
    }

    #[tokio::test]
    async fn looking_at_the_files_causes_no_look() {
        let folder = Folder::new();
        fs::write(folder.path("a.toml"), "0").unwrap();
        let mut watch = Watch::new();
        watch.arm(&[folder.path("")].into());
        fs::File::open(folder.path("a.toml")).unwrap();
        // A change that does count comes after it: by then the look at the file was reported too.
        fs::write(folder.path("b"), "").unwrap();
        tokio::time::timeout(Duration::from_secs(10), watch.touched()).await.unwrap();
        fs::File::open(folder.path("a.toml")).unwrap();
        let again = tokio::time::timeout(Duration::from_millis(600), watch.touched()).await;
        assert!(again.is_err(), "a look caused a look");
    }
}
