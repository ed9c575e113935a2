//! Whether a file is another one than before.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::config::files;

/// Enough to see that a file was written or replaced (through symlinks, as Kubernetes does it), and that a folder got or
/// lost a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileState(Option<[i64; 4]>, u64);

impl FileState {
    pub(super) fn of_all(paths: impl IntoIterator<Item = impl AsRef<Path>>) -> Vec<Self> {
        paths.into_iter().map(|path| Self::of(path.as_ref())).collect()
    }

    fn of(path: &Path) -> Self {
        match files::state(path) {
            Ok(file) => Self(
                Some([file.mtime(), file.mtime_nsec(), file.ctime(), file.ctime_nsec()]),
                file.ino() ^ file.size().rotate_left(32),
            ),
            Err(_) => Self(None, 0),
        }
    }
}
