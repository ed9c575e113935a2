//! Which folders must be watched to see that a path leads to something else.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

use super::Watched;
use crate::config::files;

/// As many symbolic links as Linux follows.
const MAX_LINKS: usize = 40;

/// The folders in which a watched file, or a symbolic link on the way to it, stands.
pub fn folders_to_watch(watched: &Watched) -> BTreeSet<PathBuf> {
    let mut folders = BTreeSet::new();
    for path in watched.config.iter().chain(&watched.referenced) {
        // To ask for the way to a file that hangs would hang as well. It is looked at now and then in any case.
        if !path.parent().is_some_and(files::hangs) {
            add_way(path, &mut folders);
        }
    }
    for folder in &watched.folders {
        add_way(&folder.join("any"), &mut folders);
    }
    folders
}

/// Follows `path` as the kernel does, and notes each folder that holds a link on the way, and the last one.
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

/// A folder that is not there yet is seen to appear in the one above it.
fn nearest_existing(folder: &Path) -> PathBuf {
    folder.ancestors().find(|folder| folder.is_dir()).map_or_else(|| PathBuf::from("/"), Path::to_owned)
}

#[cfg(test)]
pub(super) mod tests {
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
}
