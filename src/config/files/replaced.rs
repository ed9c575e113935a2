//! Writes a file so that a crash at any moment leaves the old content or the new one.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// The suffix of temporary files.
const NEW: &str = ".new";
/// A temporary file of this age was left by a process that ended while it wrote.
const LEFT_BEHIND: Duration = Duration::from_secs(60);

/// A file that is replaced whole.
pub struct Replaced {
    /// The key of the config that names it.
    key: &'static str,
    path: PathBuf,
    mode: u32,
}

impl Replaced {
    /// The path may be a link to another disk. All methods block.
    pub fn new(key: &'static str, path: &Path, mode: u32) -> Self {
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        Self { key, path, mode }
    }

    /// # Errors
    /// Why the file was not written, and what to do. The old content is still there.
    pub fn write(&self, content: &[u8], now: SystemTime) -> Result<(), String> {
        let temporary = temporary(&self.path);
        let replaced = self.write_new(&temporary, content).and_then(|()| fs::rename(&temporary, &self.path));
        if let Err(error) = replaced {
            // The file may be missing. If not, a later run removes it.
            let _ = fs::remove_file(&temporary);
            return Err(self.words(&error));
        }
        self.clear(now);
        Ok(())
    }

    fn write_new(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(self.mode).open(path)?;
        file.write_all(content)?;
        file.sync_all()
    }

    /// Makes the new content survive a crash.
    ///
    /// # Errors
    /// Why it may not, and what to do.
    pub fn sync(&self) -> Result<(), String> {
        match File::open(self.folder()).and_then(|folder| folder.sync_all()) {
            // Some file systems cannot sync folders.
            Err(error) if error.kind() == ErrorKind::InvalidInput => Ok(()),
            result => result.map_err(|error| self.words(&error)),
        }
    }

    /// Removes temporary files of processes that ended while they wrote. A file that cannot be removed does no harm.
    fn clear(&self, now: SystemTime) {
        let prefix = prefix(&self.path);
        let entries = fs::read_dir(self.folder()).into_iter().flatten().flatten();
        for entry in entries {
            let name = entry.file_name();
            let name = name.as_encoded_bytes();
            let ours = name.starts_with(prefix.as_encoded_bytes())
                && name.ends_with(NEW.as_bytes())
                && name.len() == prefix.len() + 16 + NEW.len();
            let modified = entry.metadata().and_then(|metadata| metadata.modified());
            let old = modified
                .is_ok_and(|modified| now.duration_since(modified).is_ok_and(|age| age > LEFT_BEHIND));
            if ours && old {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    fn folder(&self) -> &Path {
        self.path.parent().unwrap_or_else(|| Path::new("/"))
    }

    fn words(&self, error: &io::Error) -> String {
        let (key, path, folder) = (self.key, self.path.display(), self.folder().display());
        match error.kind() {
            ErrorKind::NotFound => {
                format!(
                    "the folder {folder} of `{key}` does not exist; make it, for the user that runs bearerd"
                )
            }
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => format!(
                "the user that runs bearerd may not write to the folder {folder} of `{key}`; let it, or choose another"
            ),
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
                format!("there is no room for {path}; make some, or choose another `{key}`")
            }
            ErrorKind::IsADirectory => format!("`{key}` {path} is a folder; name a file"),
            _ => format!("`{key}` {path}: {error}"),
        }
    }
}

/// `.NAME.0123456789abcdef.new`, beside the file, because a rename works only within one file system.
fn temporary(path: &Path) -> PathBuf {
    let mut name = prefix(path);
    name.push(format!("{:016x}{NEW}", fastrand::u64(..)));
    path.with_file_name(name)
}

fn prefix(path: &Path) -> OsString {
    let mut prefix = OsString::from(".");
    prefix.push(path.file_name().unwrap_or_default());
    prefix.push(".");
    prefix
}
