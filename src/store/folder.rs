//! A store in a folder of this host, for the next start of bearerd and for other processes of the same user (`[store] path`).
//!
//! Each entry is a file of mode 0600 with its [`Record`], replaced as a whole. Every operation holds the folder's lock only
//! while it runs. A lease is part of the record, so a process that is stopped with a lease does not delay others for long.
//! From time to time, an operation removes obsolete files.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant, UNIX_EPOCH};

use rustix::fs::{FlockOperation, OFlags, flock};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::engine::{
    Claim, Claimed, Engine, Entry, EntryId, LIST_LIMIT, Listed, Operation, Probed, Spent, StoreError,
    StoreErrorKind, StoreTime,
};
use super::record::{Record, Window};
use super::sealed::FORMAT;
use crate::aside::Aside;
use crate::clock::{SharedClock, micros};
use crate::config::Budget;

/// Files that hang block no other thread, and a folder that hangs blocks no other folder. A config names few folders, so their
/// threads are never removed.
#[expect(clippy::disallowed_types, reason = "held for a look-up where a config is loaded")]
static FOLDERS: std::sync::Mutex<BTreeMap<PathBuf, &'static Aside>> = std::sync::Mutex::new(BTreeMap::new());
/// How long an operation tries to get the folder's lock. Other processes hold it for milliseconds.
const LOCK_WITHIN: Duration = Duration::from_secs(2);
const LOCK_AGAIN: Duration = Duration::from_millis(2);
/// The largest file, in bytes: the times of as many token requests as a budget may have, each with its comma. A token of
/// 16 KiB with its scopes is far smaller.
const LARGEST: u64 = Budget::MOST_REQUESTS as u64 * 20;
const TOKEN: &str = "token";
const BUDGET: &str = "budget";
/// A file that is being written. Under the lock there is none, unless a process was killed.
const NEW: &str = "new";
/// How often to look for obsolete files, and how many files to check each time.
const SWEEP_EVERY: Duration = Duration::from_secs(10 * 60);
const SWEPT_AT_ONCE: usize = 500;

pub(super) struct Folder {
    files: Arc<Files>,
    clock: SharedClock,
}

impl Folder {
    pub(super) fn new(folder: PathBuf, prefix: &str, clock: SharedClock) -> Self {
        let prefix = format!("{prefix}-{FORMAT}-");
        let mut folders = FOLDERS.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || -> &'static Aside { Box::leak(Box::new(Aside::new("store", 4))) };
        let threads = *folders.entry(folder.clone()).or_insert_with(new);
        Self { files: Arc::new(Files { folder, prefix, threads, sweep_at: AtomicU64::new(0) }), clock }
    }

    /// Does `work` under the folder's lock, on a thread of its own.
    fn locked<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Files, StoreTime) -> io::Result<T> + Send + 'static,
    ) -> Operation<'static, T> {
        let (files, clock) = (Arc::clone(&self.files), Arc::clone(&self.clock));
        // Nothing happens before the future is polled, because the breaker may be open.
        Box::pin(async move {
            let at_work = Arc::clone(&files);
            let done = files.threads.run(move || {
                let _lock = at_work.lock()?;
                let now = StoreTime(clock.wall().duration_since(UNIX_EPOCH).map_or(0, micros));
                let outcome = work(&at_work, now);
                if at_work.sweep_is_due(clock.boot()) {
                    at_work.sweep_later(&clock);
                }
                outcome
            });
            let outcome =
                done.await.map_err(|error| StoreError::new(StoreErrorKind::Unable, error.to_string()))?;
            outcome.map_err(|error| files.gone(&error))
        })
    }

    /// Changes one record.
    fn change<T: Send + 'static>(
        &self,
        id: &EntryId,
        change: impl FnOnce(&mut Record, StoreTime) -> T + Send + 'static,
    ) -> Operation<'static, T> {
        let id = id.clone();
        self.locked(move |files, now| files.change(&id, TOKEN, |record| change(record, now)))
    }

    fn change_window(
        &self,
        id: &EntryId,
        change: impl FnOnce(&mut Window, u64) -> Spent + Send + 'static,
    ) -> Operation<'static, Spent> {
        let id = id.clone();
        self.locked(move |files, now| files.change(&id, BUDGET, |window| change(window, now.0)))
    }
}

impl Engine for Folder {
    fn claim<'a>(&'a self, id: &'a EntryId, claim: Claim) -> Operation<'a, Claimed> {
        self.change(id, move |record: &mut Record, now| {
            record.end_lease_after(now.after(claim.lease));
            record.claim(now, claim)
        })
    }

    fn read<'a>(&'a self, id: &'a EntryId) -> Operation<'a, Option<Entry>> {
        let id = id.clone();
        self.locked(move |files, now| Ok(files.read::<Record>(&id, TOKEN)?.read(now)))
    }

    fn extend<'a>(&'a self, id: &'a EntryId, fence: u64, lease: Duration) -> Operation<'a, bool> {
        self.change(id, move |record, now| record.extend(now, fence, lease))
    }

    fn publish<'a>(
        &'a self,
        id: &'a EntryId,
        fence: u64,
        sealed: &'a [u8],
        ends: StoreTime,
    ) -> Operation<'a, bool> {
        let sealed = sealed.to_vec();
        self.change(id, move |record, now| record.publish(now, fence, &sealed, ends))
    }

    fn release<'a>(&'a self, id: &'a EntryId, fence: u64) -> Operation<'a, ()> {
        self.change(id, move |record, _| record.release(fence))
    }

    fn remove<'a>(&'a self, ids: &'a [EntryId]) -> Operation<'a, u64> {
        let ids = ids.to_vec();
        self.locked(move |files, now| {
            let mut removed = 0;
            for id in &ids {
                removed += u64::from(files.change(id, TOKEN, |record: &mut Record| record.remove(now))?);
            }
            Ok(removed)
        })
    }

    fn list(&self) -> Operation<'_, Vec<Listed>> {
        self.locked(|files, now| {
            let mut listed = Vec::new();
            for id in files.ids(TOKEN)?.into_iter().take(LIST_LIMIT) {
                let record: Record = files.read(&id, TOKEN)?;
                let entry = record.read(now);
                let (generation, left) = entry.map(|entry| (entry.generation, entry.left)).unzip();
                let leased_for = record.leased_for(now);
                if generation.is_some() || leased_for.is_some() {
                    listed.push(Listed { id, generation, left, leased_for });
                }
            }
            Ok(listed)
        })
    }

    fn spend<'a>(&'a self, id: &'a EntryId, budget: Budget) -> Operation<'a, Spent> {
        self.change_window(id, move |window, now| window.spend(now, budget))
    }

    fn balance<'a>(&'a self, id: &'a EntryId, budget: Budget) -> Operation<'a, Spent> {
        self.change_window(id, move |window, now| window.balance(now, budget))
    }

    fn probe(&self) -> Operation<'_, Probed> {
        let started = Instant::now();
        let probe = self.locked(move |files, _| {
            let path = files.path(&EntryId("probe".into()), TOKEN);
            files.write(&path, b"{}")?;
            files.content(&path)?;
            fs::remove_file(&path)?;
            files.warnings()
        });
        Box::pin(async move {
            let warnings = probe.await?;
            Ok(Probed { latency: started.elapsed(), server: self.place(), warnings })
        })
    }

    fn place(&self) -> String {
        self.files.place()
    }
}

struct Files {
    threads: &'static Aside,
    folder: PathBuf,
    /// Begins the name of each file.
    prefix: String,
    /// When to look for obsolete files, by the boot clock, in seconds.
    sweep_at: AtomicU64,
}

impl Files {
    fn lock(&self) -> io::Result<File> {
        match DirBuilder::new().mode(0o700).create(&self.folder) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let path = self.folder.join(format!("{}lock", self.prefix));
        let file = options().read(true).write(true).create(true).truncate(false).open(path)?;
        let began = Instant::now();
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(file),
                Err(_) if began.elapsed() < LOCK_WITHIN => std::thread::sleep(LOCK_AGAIN),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn path(&self, id: &EntryId, what: &str) -> PathBuf {
        self.folder.join(format!("{}{id}.{what}", self.prefix))
    }

    /// `None`: there is no such file.
    fn content(&self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        let file = match options().read(true).open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        if !file.metadata()?.is_file() {
            let name = path.file_name().unwrap_or_default().display();
            return Err(io::Error::other(format!("{name} is not a regular file: remove it")));
        }
        let mut content = Vec::new();
        // A larger file cannot be a record.
        file.take(LARGEST).read_to_end(&mut content)?;
        Ok(Some(content))
    }

    fn read<T: DeserializeOwned + Default>(&self, id: &EntryId, what: &str) -> io::Result<T> {
        let Some(content) = self.content(&self.path(id, what))? else { return Ok(T::default()) };
        Ok(serde_json::from_slice(&content).unwrap_or_else(|_| {
            tracing::warn!(
                event = "store.entry_unreadable",
                store = self.place(),
                "a file of the store is damaged and ignored: another program writes there, or the disk was full"
            );
            T::default()
        }))
    }

    fn change<T, R>(&self, id: &EntryId, what: &str, change: impl FnOnce(&mut T) -> R) -> io::Result<R>
    where
        T: DeserializeOwned + Serialize + Default + Clone + PartialEq,
    {
        let mut record: T = self.read(id, what)?;
        let before = record.clone();
        let result = change(&mut record);
        if record != before {
            self.write(&self.path(id, what), &serde_json::to_vec(&record)?)?;
        }
        Ok(result)
    }

    /// Replaces a file as a whole. Not synced: after a crash of the machine, the tokens are fetched again.
    fn write(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        // One name for each file is enough under the lock.
        let new = being_written(path);
        let create = || options().write(true).create_new(true).open(&new);
        let mut file = match create() {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                fs::remove_file(&new)?;
                create()?
            }
            created => created?,
        };
        let written = file.write_all(content).and_then(|()| fs::rename(&new, path));
        if written.is_err() {
            // It must not keep a full disk full.
            let _ = fs::remove_file(&new);
        }
        written
    }

    /// The names of our files without the prefix.
    fn names(&self) -> io::Result<Vec<String>> {
        let ours = |entry: io::Result<fs::DirEntry>| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            name.strip_prefix(&self.prefix).map(str::to_owned)
        };
        Ok(fs::read_dir(&self.folder)?.filter_map(ours).collect())
    }

    fn ids(&self, what: &str) -> io::Result<Vec<EntryId>> {
        let mut names = self.names()?;
        names.sort_unstable();
        let id = |name: &String| Some(EntryId(name.strip_suffix(what)?.strip_suffix('.')?.into()));
        Ok(names.iter().filter_map(id).collect())
    }

    fn sweep_is_due(&self, now: Duration) -> bool {
        let (now, next) = (now.as_secs(), self.sweep_at.load(Ordering::Relaxed));
        let later = now.saturating_add(SWEEP_EVERY.as_secs());
        now >= next
            && self.sweep_at.compare_exchange(next, later, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Removes obsolete files in the background, because somebody may wait for the operation that started it.
    fn sweep_later(self: &Arc<Self>, clock: &SharedClock) {
        let (files, clock) = (Arc::clone(self), Arc::clone(clock));
        // Without a thread, the next sweep removes them.
        let _ = self.threads.spawn(move || {
            let Ok(_lock) = files.lock() else { return };
            let now = StoreTime(clock.wall().duration_since(UNIX_EPOCH).map_or(0, micros));
            files.sweep(now);
        });
    }

    /// Checks some of the files, and removes the obsolete ones.
    fn sweep(&self, now: StoreTime) {
        let mut names = self.names().unwrap_or_default();
        fastrand::shuffle(&mut names);
        for name in names.into_iter().take(SWEPT_AT_ONCE) {
            let path = self.folder.join(format!("{}{name}", self.prefix));
            if self.is_of_no_use(&path, now) {
                // If it cannot be removed, it takes a little space.
                let _ = fs::remove_file(&path);
            }
        }
    }

    fn is_of_no_use(&self, path: &Path, now: StoreTime) -> bool {
        let content = || self.content(path).ok().flatten();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some(NEW) => true,
            Some(TOKEN) => content().is_some_and(|content| {
                serde_json::from_slice(&content).map_or(true, |record: Record| record.is_over(now))
            }),
            Some(BUDGET) => content().is_some_and(|content| {
                serde_json::from_slice(&content).map_or(true, |window: Window| window.is_over(now.0))
            }),
            _ => false,
        }
    }

    /// What an operator should change.
    fn warnings(&self) -> io::Result<Vec<String>> {
        let mode = fs::metadata(&self.folder)?.permissions().mode() & 0o777;
        let (folder, open) = (self.folder.display(), mode & 0o077 != 0);
        let warning = format!(
            "other users may enter the folder (mode {mode:04o}): `chmod 700 {folder}`; its files are encrypted, but \
             anyone who may write there can remove them"
        );
        Ok(open.then_some(warning).into_iter().collect())
    }

    fn place(&self) -> String {
        format!("folder {}", self.folder.display())
    }

    fn gone(&self, error: &io::Error) -> StoreError {
        let place = self.place();
        let (kind, why) = match error.kind() {
            ErrorKind::PermissionDenied => (
                StoreErrorKind::Refused,
                format!(
                    "this user may not write there: `chown` the folder to the user that runs bearerd ({error})"
                ),
            ),
            ErrorKind::NotFound => match self.folder.parent().filter(|parent| !parent.exists()) {
                Some(parent) => (
                    StoreErrorKind::Unreachable,
                    format!(
                        "its parent folder {} does not exist: create it, or name another path",
                        parent.display()
                    ),
                ),
                None => (
                    StoreErrorKind::Unreachable,
                    format!("it cannot be created there: name another path ({error})"),
                ),
            },
            ErrorKind::NotADirectory => (
                StoreErrorKind::Unreachable,
                "it or one of its parents is a file: remove that file, or name another path".to_owned(),
            ),
            ErrorKind::ReadOnlyFilesystem => {
                (StoreErrorKind::Unable, "the file system is read-only: mount a writable volume".to_owned())
            }
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => (
                StoreErrorKind::Unable,
                format!("no space is left: free some, or name another path ({error})"),
            ),
            ErrorKind::WouldBlock => (
                StoreErrorKind::Timeout,
                "another process holds the folder's lock and does not release it: `lslocks` names it"
                    .to_owned(),
            ),
            _ => (StoreErrorKind::Unreachable, error.to_string()),
        };
        StoreError::new(kind, format!("{place}: {why}"))
    }
}

/// The file that replaces this one when it is complete.
fn being_written(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(NEW);
    name.into()
}

/// Opens a file of mode 0600, without following a link or waiting for the other end of a pipe.
fn options() -> OpenOptions {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let mut options = OpenOptions::new();
    options.mode(0o600).custom_flags(i32::try_from(flags.bits()).expect("open(2) takes its flags as an int"));
    options
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;

    use super::*;
    use crate::clock::{Clock as _, ShiftedClock};
    use crate::store::tests::eventually;

    const LEASE: Duration = Duration::from_secs(3);
    const NOTHING: Claim = Claim { have: 0, refused: false, lease: LEASE };

    struct Scene {
        around: TempDir,
        clock: Arc<ShiftedClock>,
        store: Folder,
        id: EntryId,
    }

    impl Scene {
        fn new() -> Self {
            let around = tempfile::tempdir().unwrap();
            let clock = Arc::new(ShiftedClock::default());
            let store = Folder::new(around.path().join("tokens"), "bearerd", clock.clone());
            Self { around, clock, store, id: EntryId("ab".into()) }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.around.path().join("tokens").join(name)
        }

        async fn claim(&self) -> Claimed {
            self.store.claim(&self.id, NOTHING).await.unwrap()
        }

        async fn lease(&self) -> (u64, StoreTime) {
            match self.claim().await {
                Claimed::Lease { fence, now } => (fence, now),
                other => panic!("{other:?}"),
            }
        }

        async fn store_for(&self, lasts: Duration) -> u64 {
            let (fence, now) = self.lease().await;
            assert!(self.store.publish(&self.id, fence, b"sealed", now.after(lasts)).await.unwrap());
            fence
        }

        fn names(&self) -> Vec<String> {
            self.store.files.names().unwrap()
        }

        fn sweep(&self) {
            let now = StoreTime(micros(self.clock.wall().duration_since(UNIX_EPOCH).unwrap()));
            self.store.files.sweep(now);
        }
    }

    #[tokio::test]
    async fn an_operation_that_nobody_waits_for_does_nothing() {
        let scene = Scene::new();
        drop(scene.store.claim(&scene.id, NOTHING));
        // The next one comes after it.
        assert!(matches!(scene.claim().await, Claimed::Lease { .. }));
        assert!(matches!(scene.claim().await, Claimed::Held { .. }));
    }

    #[tokio::test]
    async fn files_are_for_their_owner_alone() {
        let scene = Scene::new();
        scene.store_for(LEASE).await;
        let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(scene.path("")), 0o700);
        for name in scene.names() {
            assert_eq!(mode(scene.path(&format!("bearerd-v1-{name}"))), 0o600, "{name}");
        }
    }

    /// The time of day went back, perhaps by years, so the token may have expired long ago.
    #[tokio::test]
    async fn after_a_clock_went_back_an_entry_is_none_and_a_lease_holds_nobody_up() {
        let scene = Scene::new();
        let before = scene.store_for(Duration::from_secs(60)).await;
        scene.clock.jump_wall(-3_600_000);
        let (fence, _) = scene.lease().await;
        assert!(fence > before);
        scene.clock.jump_wall(-3_600_000);
        assert!(scene.lease().await.0 > fence, "the lease would have lasted for an hour");
        assert!(matches!(scene.claim().await, Claimed::Held { .. }));
    }

    #[tokio::test]
    async fn damaged_files_count_as_none_and_are_replaced() {
        let scene = Scene::new();
        scene.store_for(LEASE).await;
        let path = scene.store.files.path(&scene.id, TOKEN);
        for garbage in [&b""[..], b"{", b"null", b"\xff\xfe\0", &[b'['; 300_000]] {
            fs::write(&path, garbage).unwrap();
            let generation = scene.store_for(LEASE).await;
            let entry = scene.store.read(&scene.id).await.unwrap().unwrap();
            assert_eq!(entry.generation, generation);
        }
    }

    /// Another user may have put them there, if the folder is open to all.
    #[tokio::test]
    async fn links_are_not_followed_and_pipes_hold_nobody_up() {
        let scene = Scene::new();
        scene.store_for(LEASE).await;
        let path = scene.store.files.path(&scene.id, TOKEN);
        let victim = scene.around.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        symlink(&victim, being_written(&path)).unwrap();
        fs::remove_file(&path).unwrap();
        scene.store_for(LEASE).await;
        fs::remove_file(&path).unwrap();
        symlink(&victim, &path).unwrap();
        assert_eq!(
            scene.store.claim(&scene.id, NOTHING).await.unwrap_err().kind,
            StoreErrorKind::Unreachable
        );
        assert_eq!(scene.store.files.content(&victim).unwrap().unwrap(), b"precious");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        let gone = scene.store.claim(&scene.id, NOTHING).await.unwrap_err();
        assert!(gone.detail.contains("is not a regular file: remove it"), "{gone}");
    }

    #[tokio::test]
    async fn what_is_of_no_use_any_more_is_removed() {
        let scene = Scene::new();
        scene.store_for(Duration::from_secs(60)).await;
        let budget = Budget { requests: 2, per: Duration::from_secs(60) };
        scene.store.spend(&scene.id, budget).await.unwrap();
        fs::write(scene.path("bearerd-v1-ab.token.new"), "half").unwrap();
        fs::write(scene.path("bearerd-v1-cd.token"), "garbage").unwrap();
        fs::write(scene.path("bearerd-v2-ab.token"), "of a later version").unwrap();
        fs::write(scene.path("notes.txt"), "mine").unwrap();
        let left = |scene: &Scene| {
            let mut names = scene.names();
            names.sort();
            names
        };
        scene.sweep();
        assert_eq!(left(&scene), ["ab.budget", "ab.token", "lock"]);
        // A holder of the lease that was stopped meanwhile must not bring an old token back.
        scene.clock.advance(Duration::from_secs(24 * 3600));
        scene.sweep();
        assert_eq!(left(&scene), ["ab.budget", "ab.token", "lock"]);
        scene.clock.advance(Duration::from_secs(2 * 3600));
        scene.sweep();
        assert_eq!(left(&scene), ["ab.budget", "lock"]);
        scene.clock.advance(Duration::from_secs(31 * 24 * 3600));
        scene.sweep();
        assert_eq!(left(&scene), ["lock"]);
        assert!(scene.path("bearerd-v2-ab.token").exists() && scene.path("notes.txt").exists());
    }

    #[tokio::test]
    async fn operations_sweep_by_themselves_and_not_each_time() {
        let scene = Scene::new();
        let left_behind = scene.path("bearerd-v1-ab.token.new");
        for round in 0..2 {
            fs::create_dir_all(scene.path("")).unwrap();
            fs::write(&left_behind, "half").unwrap();
            scene.store.read(&scene.id).await.unwrap();
            eventually("the sweep", async || (!left_behind.exists()).then_some(())).await;
            assert!(!scene.store.files.sweep_is_due(scene.clock.boot()), "round {round}");
            scene.clock.advance(SWEEP_EVERY);
        }
    }

    #[tokio::test]
    async fn the_probe_leaves_nothing_and_knows_who_may_enter() {
        let scene = Scene::new();
        assert_eq!(scene.store.probe().await.unwrap().warnings, Vec::<String>::new());
        assert_eq!(scene.names(), ["lock"]);
        fs::set_permissions(scene.path(""), fs::Permissions::from_mode(0o755)).unwrap();
        let warnings = scene.store.probe().await.unwrap().warnings;
        assert!(warnings.iter().any(|warning| warning.contains("(mode 0755): `chmod 700 ")), "{warnings:?}");
    }

    #[tokio::test]
    async fn what_is_wrong_with_the_folder_is_said_with_what_to_do() {
        let around = tempfile::tempdir().unwrap();
        let clock: SharedClock = Arc::new(ShiftedClock::default());
        let file = around.path().join("file");
        fs::write(&file, "").unwrap();
        for (folder, kind, words) in [
            (
                around.path().join("no/such"),
                StoreErrorKind::Unreachable,
                "/no does not exist: create it, or name another path",
            ),
            (file, StoreErrorKind::Unreachable, "is a file: remove that file, or name another path"),
        ] {
            let gone = Folder::new(folder, "bearerd", Arc::clone(&clock)).probe().await.unwrap_err();
            assert_eq!(gone.kind, kind);
            assert!(gone.detail.contains(words), "{gone}");
        }
    }
}
