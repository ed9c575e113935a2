//! Notices that a config file, or a file that the config names, has another content than before.
//!
//! Events of the file system only say that something happened; what is done is decided by comparing contents.
//! Folders are watched, never files: Kubernetes swaps a `..data` link, and editors and `mv` put a new file in the
//! place of the old one, and a watch on a file sees neither twice.

mod contents;
mod debounce;
mod folders;
mod watch;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

pub use contents::{Change, Contents};
pub use folders::folders_to_watch;
pub use watch::Watch;

use crate::config::{self, Config};

/// The files that a running config depends on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Watched {
    /// A change of one of these loads the config again: its files, and those that a var of a preset stands in.
    pub config: BTreeSet<PathBuf>,
    /// So does a file that appears in or leaves one of these folders.
    pub folders: BTreeSet<PathBuf>,
    /// Certificates, keys, secrets: read again, with the config as it is.
    pub referenced: BTreeSet<PathBuf>,
}

impl Watched {
    /// All files that `config` came from or names.
    pub fn of(config: &Config) -> Self {
        Self {
            config: config
                .files
                .iter()
                .map(PathBuf::as_path)
                .chain(read_with(config))
                .map(absolute)
                .collect(),
            folders: config.include_folders.iter().map(|path| absolute(path)).collect(),
            referenced: config::referenced_files(config).iter().map(|path| absolute(path)).collect(),
        }
    }

    /// A broken load may have failed in a file that the running config does not know.
    pub fn add_config_file(&mut self, path: &Path) {
        if !path.as_os_str().is_empty() {
            self.config.insert(absolute(path));
        }
    }

    /// Takes in the files of `other` too.
    pub fn merge(&mut self, other: Self) {
        self.config.extend(other.config);
        self.folders.extend(other.folders);
        self.referenced.extend(other.referenced);
    }
}

/// Files whose content is a part of the config.
fn read_with(config: &Config) -> impl Iterator<Item = &Path> {
    let read = config.references.iter().filter(|reference| reference.part_of_config);
    read.filter_map(|reference| reference.source.path())
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
