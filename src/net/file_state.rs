//! Whether a file is another one than before.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use crate::config::files;

/// A folder is looked through no more often, since every new connection asks.
const LOOKED_THROUGH_EVERY: Duration = Duration::from_secs(1);

/// Folders as they were a moment ago.
static FOLDERS: LazyLock<ArcSwap<BTreeMap<PathBuf, (Instant, u64)>>> = LazyLock::new(ArcSwap::default);

/// Enough to see that a file was written or replaced (through symlinks, as Kubernetes does it), and that a folder got or
/// lost a file, or has one that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileState(Option<[i64; 4]>, u64);

impl FileState {
    pub(super) fn of_all(paths: impl IntoIterator<Item = impl AsRef<Path>>) -> Vec<Self> {
        paths.into_iter().map(|path| Self::of(path.as_ref())).collect()
    }

    fn of(path: &Path) -> Self {
        let Ok(found) = files::state(path) else { return Self(None, 0) };
        let times = [found.mtime(), found.mtime_nsec(), found.ctime(), found.ctime_nsec()];
        let more = if found.is_dir() { inside(path) } else { found.ino() ^ found.size().rotate_left(32) };
        Self(Some(times), more)
    }
}

fn inside(folder: &Path) -> u64 {
    let known = FOLDERS.load();
    if let Some((at, state)) = known.get(folder)
        && at.elapsed() < LOOKED_THROUGH_EVERY
    {
        return *state;
    }
    let state = files::folder_state(folder).unwrap_or_default();
    FOLDERS.rcu(|known| {
        let mut known = BTreeMap::clone(known);
        known.insert(folder.to_owned(), (Instant::now(), state));
        known
    });
    state
}
