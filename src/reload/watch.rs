//! Waits until it is worth looking at the files.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::net::unix::pipe::Receiver;
use tokio::time::Instant;

use super::debounce::Debounce;
use crate::aside::{Aside, AsideError};

/// Network file systems and lost events: the files are looked at now and then anyway.
const POLL: Duration = Duration::from_secs(30);
/// Where the system gives no events, a change must still be seen in time.
const POLL_WITHOUT_EVENTS: Duration = Duration::from_secs(1);

/// Where folders are given to the kernel to watch: a mount that hangs may hang that too.
static ARMING: Aside = Aside::new("watch", 4);

/// Watches folders. Without the system's help (no inotify watches left, or a folder that does not answer) it falls back to
/// looking every second.
pub struct Watch {
    events: Option<Events>,
    debounce: Debounce,
    poll: Duration,
    arming: Option<Arming>,
    /// To be watched once `arming` has ended.
    next: Option<BTreeSet<PathBuf>>,
    /// It was told that folders cannot be given to the kernel.
    told: bool,
}

type Arming = Pin<Box<dyn Future<Output = Result<Armed, AsideError>> + Send>>;

/// What came of giving folders to the kernel.
struct Armed {
    folders: Folders,
    /// All of them are watched.
    all: bool,
    /// Some were not watched before: what happened there went unnoticed.
    new: bool,
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
        let debounce = Debounce::new(Instant::now(), poll);
        Self { events, debounce, poll, arming: None, next: None, told: false }
    }

    /// Watches exactly these folders from a moment later on; they are looked at once more then, where one was not watched
    /// before.
    ///
    /// A folder that is watched already is asked for again: another one may have taken its name.
    pub fn arm(&mut self, folders: BTreeSet<PathBuf>) {
        let Some(events) = &mut self.events else { return };
        if self.arming.is_some() {
            self.next = Some(folders);
            return;
        }
        let Some(mut watched) = events.folders.take() else { return };
        self.arming = Some(Box::pin(ARMING.run(move || {
            let (all, new) = watched.watch(&folders);
            Armed { folders: watched, all, new }
        })));
        self.look_every(POLL_WITHOUT_EVENTS);
    }

    fn look_every(&mut self, poll: Duration) {
        self.poll = poll;
        self.debounce.set_poll(Instant::now(), poll);
    }

    fn armed(&mut self, armed: Result<Armed, AsideError>) {
        self.arming = None;
        let Some(events) = &mut self.events else { return };
        match armed {
            Ok(armed) => {
                events.folders = Some(armed.folders);
                self.told = false;
                self.look_every(if armed.all { POLL } else { POLL_WITHOUT_EVENTS });
                if armed.new {
                    self.debounce.event(Instant::now());
                }
            }
            Err(error) => {
                events.folders = events.again();
                if !std::mem::replace(&mut self.told, true) {
                    tracing::warn!(
                        event = "watch.unavailable", %error,
                        "file changes are not reported by the system; looking every second instead"
                    );
                }
            }
        }
        if let Some(folders) = self.next.take() {
            self.arm(folders);
        }
    }

    /// Waits for the next moment to look at the files. May be dropped and called again without losing an event.
    pub async fn touched(&mut self) {
        loop {
            tokio::select! {
                armed = ended(&mut self.arming) => self.armed(armed),
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

async fn ended(arming: &mut Option<Arming>) -> Result<Armed, AsideError> {
    match arming {
        Some(arming) => arming.await,
        None => std::future::pending().await,
    }
}

/// What the kernel tells of folders. Read on the thread that waits for it: a thread for that alone could be refused.
struct Events {
    /// No pipe, but read as one is.
    inotify: Receiver,
    /// Not here while they are being armed.
    folders: Option<Folders>,
}

/// The folders that the kernel watches.
struct Folders {
    inotify: OwnedFd,
    /// What each folder is known by (two paths may lead to one); `None`: it can't be watched, which was told.
    watches: BTreeMap<PathBuf, Option<i32>>,
    add: fn(&OwnedFd, &Path) -> rustix::io::Result<i32>,
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

fn add(inotify: &OwnedFd, folder: &Path) -> rustix::io::Result<i32> {
    inotify::add_watch(inotify, folder, MATTERS | WatchFlags::ONLYDIR)
}

impl Folders {
    fn new(inotify: OwnedFd) -> Self {
        Self { inotify, watches: BTreeMap::new(), add }
    }

    /// Watches these and no others; whether all of them are, and whether one was not before.
    fn watch(&mut self, folders: &BTreeSet<PathBuf>) -> (bool, bool) {
        let new = folders.iter().any(|folder| !self.watches.contains_key(folder));
        let watches: BTreeMap<_, _> =
            folders.iter().map(|folder| (folder.clone(), self.watch_one(folder))).collect();
        let kept: BTreeSet<i32> = watches.values().flatten().copied().collect();
        for gone in self.watches.values().flatten().filter(|watch| !kept.contains(watch)) {
            // A removed folder has lost its watch already.
            let _ = inotify::remove_watch(&self.inotify, *gone);
        }
        self.watches = watches;
        (self.watches.values().all(Option::is_some), new)
    }

    fn watch_one(&self, folder: &Path) -> Option<i32> {
        let watched = (self.add)(&self.inotify, folder);
        if let (Err(error), false) = (&watched, self.watches.contains_key(folder)) {
            tracing::warn!(
                event = "watch.folder_failed", folder = %folder.display(), %error,
                "cannot watch a folder; looking every second instead"
            );
        }
        watched.ok()
    }
}

impl Events {
    fn new() -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let folders = Some(Folders::new(inotify.try_clone()?));
        Ok(Self { inotify: Receiver::from_owned_fd_unchecked(inotify)?, folders })
    }

    /// Where what was known of the folders is lost.
    fn again(&self) -> Option<Folders> {
        self.inotify.as_fd().try_clone_to_owned().ok().map(Folders::new)
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

    /// Watches the folder, and has had its first look at it.
    async fn armed(folder: &Folder) -> Watch {
        let mut watch = Watch::new();
        watch.arm([folder.path("")].into());
        tokio::time::timeout(Duration::from_secs(10), watch.touched()).await.unwrap();
        assert!(watch.arming.is_none() && watch.poll == POLL);
        watch
    }

    #[tokio::test]
    async fn a_folder_that_hangs_holds_nobody_up() {
        let folder = Folder::new();
        let mut watch = armed(&folder).await;
        let folders = watch.events.as_mut().unwrap().folders.as_mut().unwrap();
        folders.add = |inotify, folder| {
            if folder.ends_with("hangs") {
                loop {
                    std::thread::park();
                }
            }
            add(inotify, folder)
        };
        let began = Instant::now();
        watch.arm([folder.path(""), folder.path("hangs")].into());
        watch.arm([folder.path("")].into());
        assert!(began.elapsed() < Duration::from_secs(5));
        for round in 0..3 {
            // What is watched already is still told, and what is not is looked at each second.
            if round == 1 {
                fs::write(folder.path("a"), "").unwrap();
            }
            tokio::time::timeout(Duration::from_secs(10), watch.touched()).await.unwrap();
        }
        assert!(watch.arming.is_some() && watch.poll == POLL_WITHOUT_EVENTS);
    }

    #[tokio::test]
    async fn a_file_put_in_the_place_of_another_is_noticed_each_time() {
        let folder = Folder::new();
        fs::write(folder.path("a.toml"), "0").unwrap();
        let mut watch = armed(&folder).await;
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
        let mut watch = armed(&folder).await;
        fs::File::open(folder.path("a.toml")).unwrap();
        // A change that does count comes after it: by then the look at the file was reported too.
        fs::write(folder.path("b"), "").unwrap();
        tokio::time::timeout(Duration::from_secs(10), watch.touched()).await.unwrap();
        fs::File::open(folder.path("a.toml")).unwrap();
        let again = tokio::time::timeout(Duration::from_millis(600), watch.touched()).await;
        assert!(again.is_err(), "a look caused a look");
    }
}
