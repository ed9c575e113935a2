//! What the watched files held, as digests: enough to tell whether they hold something else now.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;
use zeroize::Zeroizing;

use super::Watched;

/// A file's digest; `None` where there is no readable file.
type Digest = Option<[u8; digest::SHA256_OUTPUT_LEN]>;

/// The contents of all watched files at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contents {
    config: BTreeMap<PathBuf, Digest>,
    folders: BTreeMap<PathBuf, Digest>,
    referenced: BTreeMap<PathBuf, Digest>,
}

/// What is different.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// The config must be loaded again.
    pub config: bool,
    /// Referenced files with another content.
    pub files: BTreeSet<PathBuf>,
}

impl Change {
    pub fn is_empty(&self) -> bool {
        !self.config && self.files.is_empty()
    }

    /// Both changes as one.
    pub fn merge(&mut self, other: Self) {
        self.config |= other.config;
        self.files.extend(other.files);
    }
}

impl Contents {
    /// Reads every watched file; blocks.
    pub fn read(watched: &Watched) -> Self {
        Self::default().extended(watched)
    }

    /// With what `watched` has and this has not read now, and without what `watched` has no more. What was seen
    /// before stays as it was seen: a file that changed since then is still a change.
    #[must_use]
    pub fn extended(mut self, watched: &Watched) -> Self {
        extend(&mut self.config, &watched.config, digest_of_file);
        extend(&mut self.folders, &watched.folders, digest_of_folder);
        extend(&mut self.referenced, &watched.referenced, digest_of_file);
        self
    }

    /// What is different from `before`. Both must be of the same [`Watched`].
    pub fn changed_since(&self, before: &Self) -> Change {
        Change {
            config: self.config != before.config || self.folders != before.folders,
            files: self
                .referenced
                .iter()
                .filter(|(path, digest)| before.referenced.get(*path) != Some(*digest))
                .map(|(path, _)| path.clone())
                .collect(),
        }
    }
}

fn extend(known: &mut BTreeMap<PathBuf, Digest>, paths: &BTreeSet<PathBuf>, read: fn(&Path) -> Digest) {
    known.retain(|path, _| paths.contains(path));
    for path in paths {
        if !known.contains_key(path) {
            known.insert(path.clone(), read(path));
        }
    }
}

fn digest_of_file(path: &Path) -> Digest {
    // A pipe (`--config <(…)`) gives its content once: reading it again would block or look like a change.
    if !std::fs::metadata(path).ok()?.is_file() {
        return None;
    }
    read_digest(path).ok()
}

fn read_digest(path: &Path) -> io::Result<[u8; digest::SHA256_OUTPUT_LEN]> {
    let mut file = File::open(path)?;
    let mut context = digest::Context::new(&digest::SHA256);
    let mut buffer = Zeroizing::new([0_u8; 4096]);
    loop {
        let length = file.read(buffer.as_mut_slice())?;
        if length == 0 {
            return Ok(finish(context));
        }
        context.update(buffer.get(..length).unwrap_or_default());
    }
}

/// Over the names in a folder, hidden ones left out: those are an editor's or Kubernetes' own.
fn digest_of_folder(path: &Path) -> Digest {
    let names: BTreeSet<OsString> = std::fs::read_dir(path)
        .ok()?
        .filter_map(|entry| entry.ok().map(|entry| entry.file_name()))
        .filter(|name| !name.as_bytes().starts_with(b"."))
        .collect();
    let mut context = digest::Context::new(&digest::SHA256);
    for name in names {
        context.update(name.as_bytes());
        context.update(&[0]);
    }
    Some(finish(context))
}

fn finish(context: digest::Context) -> [u8; digest::SHA256_OUTPUT_LEN] {
    let mut bytes = [0; digest::SHA256_OUTPUT_LEN];
    for (to, from) in bytes.iter_mut().zip(context.finish().as_ref()) {
        *to = *from;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::reload::folders::tests::Folder;

    fn watched(folder: &Folder) -> Watched {
        Watched {
            config: [folder.path("bearerd.toml")].into(),
            folders: [folder.path("conf.d")].into(),
            referenced: [folder.path("secret")].into(),
        }
    }

    fn filled() -> Folder {
        let folder = Folder::new();
        fs::write(folder.path("bearerd.toml"), "workers = 1").unwrap();
        fs::write(folder.path("secret"), "one").unwrap();
        fs::create_dir(folder.path("conf.d")).unwrap();
        folder
    }

    #[test]
    fn the_same_bytes_are_no_change() {
        let folder = filled();
        let before = Contents::read(&watched(&folder));
        fs::remove_file(folder.path("secret")).unwrap();
        fs::write(folder.path("secret"), "one").unwrap();
        fs::write(folder.path("bearerd.toml"), "workers = 1").unwrap();
        fs::write(folder.path("conf.d/.team.toml.swp"), "").unwrap();
        assert!(Contents::read(&watched(&folder)).changed_since(&before).is_empty());
    }

    #[test]
    fn t90_a_changed_secret_is_named_and_does_not_load_the_config() {
        let folder = filled();
        let before = Contents::read(&watched(&folder));
        fs::write(folder.path("secret"), "two").unwrap();
        let change = Contents::read(&watched(&folder)).changed_since(&before);
        assert_eq!(change, Change { config: false, files: [folder.path("secret")].into() });
    }

    #[test]
    fn t93_a_secret_that_is_gone_is_a_change() {
        let folder = filled();
        let before = Contents::read(&watched(&folder));
        fs::remove_file(folder.path("secret")).unwrap();
        assert_eq!(Contents::read(&watched(&folder)).changed_since(&before).files.len(), 1);
    }

    #[test]
    fn a_file_that_appears_in_an_include_folder_loads_the_config() {
        let folder = filled();
        let before = Contents::read(&watched(&folder));
        fs::write(folder.path("conf.d/team.toml"), "").unwrap();
        assert!(Contents::read(&watched(&folder)).changed_since(&before).config);
    }

    #[test]
    fn what_was_seen_before_a_load_stays_the_base() {
        let folder = filled();
        let seen = Contents::read(&watched(&folder));
        fs::write(folder.path("bearerd.toml"), "workers = 2").unwrap();
        fs::write(folder.path("new"), "x").unwrap();
        let mut more = watched(&folder);
        more.referenced.insert(folder.path("new"));
        let base = seen.extended(&more);
        let change = Contents::read(&more).changed_since(&base);
        assert_eq!(change, Change { config: true, files: BTreeSet::new() });
    }

    #[test]
    fn a_pipe_is_not_read() {
        let folder = filled();
        let pipe = folder.path("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        assert_eq!(digest_of_file(&pipe), None);
    }
}
