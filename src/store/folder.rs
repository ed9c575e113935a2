//! A store in a folder of this host, for the next start of bearerd and for other processes of the same user (`[store] path`).
//!
//! Each entry is a file of mode 0600 with its [`Record`], replaced as a whole. Every operation takes the folder's lock for
//! the moment that it needs. A lease is in the record, so a process that is stopped with a lease keeps nobody for long.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use rustix::fs::{FlockOperation, flock};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::engine::{
    Claim, Claimed, Engine, Entry, EntryId, Gone, GoneKind, LIST_LIMIT, Listed, Operation, Probed, Spent,
    StoreTime, micros,
};
use super::record::{Record, Window};
use super::sealed::FORMAT;
use crate::aside::Aside;
use crate::clock::SharedClock;
use crate::config::{Budget, files};

/// Files that hang block no other thread.
static FOLDER: Aside = Aside::new("store", 4);
/// How long an operation tries to get the folder's lock. Another process has it for milliseconds.
const LOCK_WITHIN: Duration = Duration::from_secs(2);
const LOCK_AGAIN: Duration = Duration::from_millis(2);
/// The largest file, in bytes: the times of as many token requests as a budget may have, each with its comma. A token of
/// 16 KiB with its scopes is far smaller.
const LARGEST: u64 = Budget::MOST_REQUESTS as u64 * 20;
const TOKEN: &str = "token";
const BUDGET: &str = "budget";

pub(super) struct Folder {
    files: Arc<Files>,
    clock: SharedClock,
}

impl Folder {
    pub(super) fn new(folder: PathBuf, prefix: &str, clock: SharedClock) -> Self {
        Self { files: Arc::new(Files { folder, prefix: format!("{prefix}-{FORMAT}-") }), clock }
    }

    /// Does `work` under the folder's lock, on a thread of its own.
    fn locked<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Files, StoreTime) -> io::Result<T> + Send + 'static,
    ) -> Operation<'static, T> {
        let (files, clock) = (Arc::clone(&self.files), Arc::clone(&self.clock));
        let done = FOLDER.run(move || {
            let _lock = files.lock()?;
            let now = clock.wall().duration_since(UNIX_EPOCH).map_or(0, micros);
            work(&files, StoreTime(now))
        });
        let files = Arc::clone(&self.files);
        Box::pin(async move {
            let outcome = done.await.map_err(|error| Gone::new(GoneKind::Unable, error.to_string()))?;
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
        self.change(id, move |record, now| record.claim(now, claim))
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
            let id = EntryId("probe".into());
            files.change(&id, TOKEN, |record: &mut Record| *record = Record::default())?;
            files.read::<Record>(&id, TOKEN)?;
            fs::remove_file(files.path(&id, TOKEN))
        });
        Box::pin(async move {
            probe.await?;
            Ok(Probed { latency: started.elapsed(), server: self.place(), warnings: Vec::new() })
        })
    }

    fn place(&self) -> String {
        format!("folder {}", self.files.folder.display())
    }
}

struct Files {
    folder: PathBuf,
    /// Begins the name of each file.
    prefix: String,
}

impl Files {
    fn lock(&self) -> io::Result<File> {
        match DirBuilder::new().mode(0o700).create(&self.folder) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let path = self.folder.join(format!("{}lock", self.prefix));
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
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

    /// What cannot be read as a record is as good as none: a crash may have left half a file.
    fn read<T: DeserializeOwned + Default>(&self, id: &EntryId, what: &str) -> io::Result<T> {
        match files::read(&self.path(id, what), LARGEST) {
            Ok(contents) => Ok(serde_json::from_slice(&contents.bytes).unwrap_or_default()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(T::default()),
            Err(error) => Err(error),
        }
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
        let new = path.with_added_extension("new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(content)?;
        fs::rename(&new, path)
    }

    fn ids(&self, what: &str) -> io::Result<Vec<EntryId>> {
        let names = files::names(&self.folder)?;
        let id = |name: &str| {
            let id = name.strip_prefix(&self.prefix)?.strip_suffix(what)?.strip_suffix('.')?;
            Some(EntryId(id.into()))
        };
        Ok(names.iter().filter_map(|name| id(name)).collect())
    }

    fn gone(&self, error: &io::Error) -> Gone {
        let folder = self.folder.display();
        let (kind, why) = match error.kind() {
            ErrorKind::PermissionDenied => (
                GoneKind::Refused,
                format!("this user may not write there: `chown` it to the user of bearerd ({error})"),
            ),
            ErrorKind::NotFound => {
                (GoneKind::Unreachable, format!("the folder around it does not exist: create it ({error})"))
            }
            ErrorKind::ReadOnlyFilesystem => (
                GoneKind::Unable,
                "the file system is read-only: mount a volume that may be written".to_owned(),
            ),
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                (GoneKind::Unable, format!("there is no room left ({error})"))
            }
            ErrorKind::WouldBlock => (
                GoneKind::Timeout,
                "another process has the lock of the folder and does not give it back".to_owned(),
            ),
            _ => (GoneKind::Unreachable, error.to_string()),
        };
        Gone::new(kind, format!("folder {folder}: {why}"))
    }
}
