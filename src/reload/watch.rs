//! Waits until it is time to read the files. Many events in a row lead to one read ([`Debounce`]).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::net::unix::pipe::Receiver;
use tokio::time::Instant;

use crate::aside::{Aside, AsideError};

/// The interval of reads without events, because network file systems have none, and events may be lost.
const POLL: Duration = Duration::from_secs(30);
/// The interval of reads if the system gives no events.
const POLL_WITHOUT_EVENTS: Duration = Duration::from_secs(1);

/// The threads that ask the kernel to watch folders, because a mount may hang.
static ARMING: Aside = Aside::new("watch", 4);

/// Watches folders. If the system cannot help (no inotify watches left, or a folder that does not respond), the files are read
/// every second.
pub struct Watch {
    events: Option<Events>,
    debounce: Debounce,
    poll: Duration,
    arming: Option<Arming>,
    /// The folders to watch after `arming` has ended.
    next: Option<BTreeSet<PathBuf>>,
    /// Whether the log says that the kernel cannot watch folders.
    told: bool,
}

type Arming = Pin<Box<dyn Future<Output = Result<Armed, AsideError>> + Send>>;

/// The result of asking the kernel to watch folders.
struct Armed {
    folders: Folders,
    /// Whether all of them are watched.
    all: bool,
    /// Whether some were not watched before, so that changes there were not noticed.
    new: bool,
}

impl Watch {
    /// Watches nothing yet; see [`Self::arm`]. Must be called within a runtime.
    pub fn new() -> Self {
        let events = match Events::new() {
            Ok(events) => Some(events),
            Err(error) => {
                tracing::warn!(
                    event = "watch.unavailable", %error,
                    "the system does not report file changes; checking every second instead"
                );
                None
            }
        };
        let poll = if events.is_some() { POLL } else { POLL_WITHOUT_EVENTS };
        let debounce = Debounce::new(Instant::now(), poll);
        Self { events, debounce, poll, arming: None, next: None, told: false }
    }

    /// Starts to watch exactly these folders. If one was not watched before, the files are read once more then.
    ///
    /// Folders that are watched already are requested again, because another folder may have the name now.
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
                        "the system does not report file changes; checking every second instead"
                    );
                }
            }
        }
        if let Some(folders) = self.next.take() {
            self.arm(folders);
        }
    }

    /// Waits until it is time to read the files. The future may be dropped and created again without losing an event.
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

/// The kernel's events. They are read on the waiting thread, because the system could refuse a separate one.
struct Events {
    /// No pipe, but read as one is.
    inotify: Receiver,
    /// `None` while a thread uses them.
    folders: Option<Folders>,
}

/// The watched folders.
struct Folders {
    inotify: OwnedFd,
    /// The kernel's ID of each folder (two paths may lead to one). `None` if it cannot be watched, which the log says.
    watches: BTreeMap<PathBuf, Option<i32>>,
    add: fn(&OwnedFd, &Path) -> rustix::io::Result<i32>,
}

/// The events after which a file may have another content, or a name may lead to another file. Opening and reading do not
/// count, because reading the files would cause the next read.
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

    /// Watches exactly these folders.
    fn watch(&mut self, folders: &BTreeSet<PathBuf>) -> (bool, bool) {
        let new = folders.iter().any(|folder| !self.watches.contains_key(folder));
        let watches: BTreeMap<_, _> =
            folders.iter().map(|folder| (folder.clone(), self.watch_one(folder))).collect();
        let kept: BTreeSet<i32> = watches.values().flatten().copied().collect();
        for gone in self.watches.values().flatten().filter(|watch| !kept.contains(watch)) {
            // The watch of a removed folder is gone already.
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
                "cannot watch a folder; checking every second instead"
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

    /// Waits until something happened. The future may be dropped and created again, because events stay in the queue.
    async fn happened(&self) {
        loop {
            // Any event, and any error, is a reason to read the files.
            let ready = self.inotify.readable().await;
            match self.inotify.try_read(&mut [0; 4096]) {
                Err(error) if ready.is_ok() && error.kind() == io::ErrorKind::WouldBlock => {}
                _ => return,
            }
        }
    }
}

/// How long there must be no event before a read, because a write or a swap of links causes several events.
const QUIET: Duration = Duration::from_millis(150);
/// The longest time from the first event to a read, for folders with constant events.
const LONGEST: Duration = Duration::from_secs(1);

/// Decides when to read the files.
#[derive(Debug)]
struct Debounce {
    /// The first and the last event since the last read.
    pending: Option<(Instant, Instant)>,
    next_poll: Instant,
}

impl Debounce {
    pub(super) fn new(now: Instant, poll: Duration) -> Self {
        Self { pending: None, next_poll: now + poll }
    }

    fn event(&mut self, now: Instant) {
        let first = self.pending.map_or(now, |(first, _)| first);
        self.pending = Some((first, now));
    }

    /// The time of the next read.
    fn due(&self) -> Instant {
        match self.pending {
            Some((first, last)) => (last + QUIET).min(first + LONGEST),
            None => self.next_poll,
        }
    }

    /// Changes the interval of reads without events.
    fn set_poll(&mut self, now: Instant, poll: Duration) {
        self.next_poll = now + poll;
    }

    pub(super) fn looked(&mut self, now: Instant, poll: Duration) {
        *self = Self::new(now, poll);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::reload::tests::Folder;

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

    const POLL: Duration = Duration::from_secs(30);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn events_in_a_row_are_looked_at_once_it_is_quiet() {
        let start = Instant::now();
        let mut debounce = Debounce::new(start, POLL);
        debounce.event(start);
        debounce.event(start + ms(100));
        assert_eq!(debounce.due(), start + ms(100) + QUIET);
    }

    #[test]
    fn a_folder_that_is_never_quiet_is_looked_at_too() {
        let start = Instant::now();
        let mut debounce = Debounce::new(start, POLL);
        for at in 0..40 {
            debounce.event(start + ms(at * 50));
        }
        assert_eq!(debounce.due(), start + LONGEST);
    }

    #[test]
    fn without_events_the_files_are_polled() {
        let start = Instant::now();
        let mut debounce = Debounce::new(start, POLL);
        assert_eq!(debounce.due(), start + POLL);
        debounce.event(start);
        debounce.looked(start + ms(200), POLL);
        assert_eq!(debounce.due(), start + ms(200) + POLL);
    }
}
