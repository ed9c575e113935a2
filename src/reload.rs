//! Notices that the content of a config file, or of a file that the config names, changed.
//!
//! Events of the file system ([`Watch`]) only say that something happened. The digests of contents ([`Contents`]) decide. Only
//! folders are watched ([`folders_to_watch`]): Kubernetes swaps a `..data` link, and editors and `mv` replace files, which a
//! watch on a file notices only once.

mod watch;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::OsString;
use std::io;
use std::path::{Component, Path, PathBuf};

use aws_lc_rs::digest;

use crate::config::{self, Config, Source, files};
pub use watch::Watch;

/// The files that a running config depends on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Watched {
    /// A change of these files loads the config again: its own files, and files that contain a var of a preset.
    pub config: BTreeSet<PathBuf>,
    /// A new or removed file in these folders loads the config again, too.
    pub folders: BTreeSet<PathBuf>,
    /// Certificates, keys, and secrets. They are read again without loading the config.
    pub referenced: BTreeSet<PathBuf>,
    /// Values that programs print, which are read as files are.
    pub made: Vec<Source>,
}

impl Watched {
    /// All files of `config`, and all files that it names.
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
            made: config.made_values(),
        }
    }

    /// Adds a file that the running config does not know, because the load failed there.
    pub fn add_config_file(&mut self, path: &Path) {
        if !path.as_os_str().is_empty() {
            self.config.insert(absolute(path));
        }
    }

    /// Adds the files of `other`.
    pub fn merge(&mut self, other: Self) {
        self.config.extend(other.config);
        self.folders.extend(other.folders);
        self.referenced.extend(other.referenced);
        let new: Vec<_> = other.made.into_iter().filter(|value| !self.made.contains(value)).collect();
        self.made.extend(new);
    }
}

/// The files whose content is a part of the config.
fn read_with(config: &Config) -> impl Iterator<Item = &Path> {
    let read = config.references.iter().filter(|reference| reference.part_of_config);
    read.filter_map(|reference| reference.source.path())
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// The content of a file or folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Digest {
    Of([u8; digest::SHA256_OUTPUT_LEN]),
    /// Missing or unreadable.
    Nothing,
    /// The file system does not respond.
    Unknown,
}

/// The contents of all watched files at one moment, as digests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contents {
    config: BTreeMap<PathBuf, Digest>,
    folders: BTreeMap<PathBuf, Digest>,
    referenced: BTreeMap<PathBuf, Digest>,
    made: Vec<(Source, Digest)>,
}

/// What changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// The config must be loaded again.
    pub config: bool,
    /// Referenced files whose content changed.
    pub files: BTreeSet<PathBuf>,
    /// A program printed another value.
    pub made: bool,
}

impl Change {
    pub fn is_empty(&self) -> bool {
        !self.config && !self.made && self.files.is_empty()
    }

    /// Whether this value may be another one now.
    pub fn concerns(&self, value: &Source) -> bool {
        (self.made && (value.is_made() || value.is_streamed()))
            || value.path().is_some_and(|path| self.files.contains(path))
    }

    /// Adds another change to this one.
    pub fn merge(&mut self, other: Self) {
        self.config |= other.config;
        self.files.extend(other.files);
        self.made |= other.made;
    }
}

impl Contents {
    /// Reads every watched file, and blocks.
    pub fn read(watched: &Watched) -> Self {
        Self::default().extended(watched)
    }

    /// Reads the files of `watched` that are not read yet, and drops files that are no longer watched. Files that were read
    /// keep their content, so that a change since then still counts.
    #[must_use]
    pub fn extended(mut self, watched: &Watched) -> Self {
        extend(&mut self.config, &watched.config, digest_of_file);
        extend(&mut self.folders, &watched.folders, digest_of_folder);
        extend(&mut self.referenced, &watched.referenced, digest_of_file);
        self.made.retain(|(value, _)| watched.made.contains(value));
        for value in &watched.made {
            if !self.made.iter().any(|(known, _)| known == value) {
                self.made.push((value.clone(), digest_of_value(value)));
            }
        }
        self
    }

    /// Reads what programs printed. Returns whether it is another value than before.
    pub fn read_made(&mut self, watched: &Watched) -> bool {
        let read = |value: &Source| (value.clone(), digest_of_value(value));
        let before = std::mem::replace(&mut self.made, watched.made.iter().map(read).collect());
        self.made.iter().any(|value| !before.contains(value))
    }

    /// Replaces the content of files that do not respond by the one in `before`.
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

    /// What changed since `before`. Both must be of the same [`Watched`].
    pub fn changed_since(&self, before: &Self) -> Change {
        Change {
            config: self.config != before.config || self.folders != before.folders,
            files: self
                .referenced
                .iter()
                .filter(|(path, digest)| before.referenced.get(*path) != Some(*digest))
                .map(|(path, _)| path.clone())
                .collect(),
            made: self.made.iter().any(|value| !before.made.contains(value)),
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
    // Only regular files. A pipe (`--config <(…)`) can be read once, and reading it again would look like a change.
    let contents = match files::read(path, files::LARGEST_CONFIG) {
        Ok(contents) => contents,
        Err(error) => return absent(&error),
    };
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(&contents.bytes);
    Digest::Of(finish(context))
}

fn digest_of_value(value: &Source) -> Digest {
    match value.read_or_last_good() {
        Ok((value, _)) => {
            let mut context = digest::Context::new(&digest::SHA256);
            context.update(value.expose());
            Digest::Of(finish(context))
        }
        Err(_) => Digest::Nothing,
    }
}

/// A digest of the names in a folder, without hidden ones, which belong to editors or Kubernetes.
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

/// The most symbolic links that Linux follows.
const MAX_LINKS: usize = 40;

/// The folders of all watched files, and of all symbolic links that lead to them.
pub fn folders_to_watch(watched: &Watched) -> BTreeSet<PathBuf> {
    let mut folders = BTreeSet::new();
    for path in watched.config.iter().chain(&watched.referenced) {
        // Resolving the path of a file that hangs would hang too. The file is read regularly in any case.
        if !path.parent().is_some_and(files::hangs) {
            add_way(path, &mut folders);
        }
    }
    for folder in &watched.folders {
        add_way(&folder.join("any"), &mut folders);
    }
    folders
}

/// Follows `path` as the kernel does, and collects the last folder and each folder of a link.
fn add_way(path: &Path, folders: &mut BTreeSet<PathBuf>) {
    let mut here = PathBuf::from("/");
    let mut rest: VecDeque<OsString> = parts(path);
    let mut links = 0;
    while let Some(part) = rest.pop_front() {
        if part == ".." {
            here.pop();
            continue;
        }
        let next = here.join(&part);
        let target = if links < MAX_LINKS { std::fs::read_link(&next).ok() } else { None };
        if let Some(target) = target {
            links += 1;
            folders.insert(here.clone());
            if target.is_absolute() {
                here = PathBuf::from("/");
            }
            for part in parts(&target).into_iter().rev() {
                rest.push_front(part);
            }
        } else {
            if rest.is_empty() {
                folders.insert(nearest_existing(&here));
            }
            here = next;
        }
    }
}

fn parts(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(part) => Some(part.to_owned()),
            Component::ParentDir => Some(OsString::from("..")),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}

/// The nearest existing folder. A missing folder will appear there.
fn nearest_existing(folder: &Path) -> PathBuf {
    folder.ancestors().find(|folder| folder.is_dir()).map_or_else(|| PathBuf::from("/"), Path::to_owned)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// A folder of a test's own, removed at its end.
    pub(in crate::reload) struct Folder(PathBuf);

    impl Folder {
        pub(in crate::reload) fn new() -> Self {
            let name = format!("bearerd-reload-{}-{:016x}", std::process::id(), fastrand::u64(..));
            let path = std::env::temp_dir().join(name);
            fs::create_dir_all(&path).unwrap();
            Self(fs::canonicalize(path).unwrap())
        }

        pub(in crate::reload) fn path(&self, name: &str) -> PathBuf {
            self.0.join(name)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn way(path: PathBuf) -> BTreeSet<PathBuf> {
        folders_to_watch(&Watched { config: [path].into(), ..Watched::default() })
    }

    #[test]
    fn a_plain_file_is_watched_by_its_folder() {
        let folder = Folder::new();
        fs::write(folder.path("bearerd.toml"), "").unwrap();
        assert_eq!(way(folder.path("bearerd.toml")), [folder.0.clone()].into());
    }

    #[test]
    fn a_config_map_is_watched_where_its_link_is_swapped_and_where_it_leads() {
        let folder = Folder::new();
        fs::create_dir(folder.path("..2024_1")).unwrap();
        fs::write(folder.path("..2024_1/bearerd.toml"), "").unwrap();
        symlink("..2024_1", folder.path("..data")).unwrap();
        symlink("..data/bearerd.toml", folder.path("bearerd.toml")).unwrap();
        assert_eq!(
            way(folder.path("bearerd.toml")),
            [folder.0.clone(), folder.path("..2024_1")].into(),
            "both the folder of the links and that of the file"
        );
    }

    #[test]
    fn a_link_to_a_folder_is_watched_where_it_stands() {
        let folder = Folder::new();
        fs::create_dir_all(folder.path("releases/1")).unwrap();
        fs::write(folder.path("releases/1/a.toml"), "").unwrap();
        symlink(folder.path("releases/1"), folder.path("current")).unwrap();
        assert_eq!(way(folder.path("current/a.toml")), [folder.0.clone(), folder.path("releases/1")].into());
    }

    #[test]
    fn a_missing_folder_is_watched_by_the_nearest_that_is_there() {
        let folder = Folder::new();
        assert_eq!(way(folder.path("not/here/yet.pem")), [folder.0.clone()].into());
    }

    #[test]
    fn a_loop_of_links_ends() {
        let folder = Folder::new();
        symlink("b", folder.path("a")).unwrap();
        symlink("a", folder.path("b")).unwrap();
        assert_eq!(way(folder.path("a")), [folder.0.clone()].into());
    }

    fn watched(folder: &Folder) -> Watched {
        Watched {
            config: [folder.path("bearerd.toml")].into(),
            folders: [folder.path("conf.d")].into(),
            referenced: [folder.path("secret")].into(),
            made: Vec::new(),
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
        assert_eq!(change, Change { files: [folder.path("secret")].into(), ..Change::default() });
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
        assert_eq!(change, Change { config: true, ..Change::default() });
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
