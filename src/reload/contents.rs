//! What the watched files held, as digests: enough to tell whether they hold something else now.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;

use super::Watched;
use crate::config::files;

/// What is known of a file or folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Digest {
    Of([u8; digest::SHA256_OUTPUT_LEN]),
    /// There is none that can be read.
    Nothing,
    /// Its file system does not answer.
    Unknown,
}

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

    /// What does not answer now is taken to be as it was.
    #[must_use]
    pub fn or_as_in(mut self, before: &Self) -> Self {
        let maps = [&mut self.config, &mut self.folders, &mut self.referenced];
        for (now, before) in maps.into_iter().zip([&before.config, &before.folders, &before.referenced]) {
            for (path, digest) in now.iter_mut().filter(|(_, digest)| **digest == Digest::Unknown) {
                *digest = before.get(path).copied().unwrap_or(Digest::Unknown);
            }
        }
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
    // Of regular files alone. A pipe (`--config <(…)`) gives its content once: reading it again would look like a change.
    let contents = match files::read(path, files::LARGEST_CONFIG) {
        Ok(contents) => contents,
        Err(error) => return absent(&error),
    };
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(&contents.bytes);
    Digest::Of(finish(context))
}

/// Over the names in a folder, hidden ones left out: those are an editor's or Kubernetes' own.
fn digest_of_folder(path: &Path) -> Digest {
    let names = match files::names(path) {
        Ok(names) => names.into_iter().filter(|name| !name.starts_with('.')),
        Err(error) => return absent(&error),
    };
    let mut context = digest::Context::new(&digest::SHA256);
    for name in names {
        context.update(name.as_bytes());
        context.update(&[0]);
    }
    Digest::Of(finish(context))
}

fn absent(error: &io::Error) -> Digest {
    if error.kind() == io::ErrorKind::TimedOut { Digest::Unknown } else { Digest::Nothing }
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
        assert_eq!(digest_of_file(&pipe), Digest::Nothing);
    }
}
