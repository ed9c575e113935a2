//! Config files as users write them. Files in `tests/config/valid` load; each in `tests/config/invalid` is refused with
//! exactly the `.stderr` file beside it. `BLESS=1 cargo test --test config_files` writes those files.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and read what they check"
)]

use std::fs;
use std::path::{Path, PathBuf};

fn files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config").join(folder);
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

/// Loads a copy whose mode does not depend on how this repository was checked out.
fn load(path: &Path) -> Result<bearerd::config::Config, String> {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("bearerd.toml");
    fs::copy(path, &copy).unwrap();
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o644)).unwrap();
    let result = bearerd::config::load(&copy);
    result.map_err(|problems| format!("{problems}\n").replace(&format!("{}/", folder.path().display()), ""))
}

#[test]
fn valid_files_load_without_a_warning() {
    for path in files("valid") {
        match load(&path) {
            Ok(config) => assert_eq!(config.warnings, [], "{}", path.display()),
            Err(problems) => panic!("{}:\n{problems}", path.display()),
        }
    }
}

#[test]
fn invalid_files_are_refused_in_these_words() {
    for path in files("invalid") {
        let Err(found) = load(&path) else { panic!("{} was accepted", path.display()) };
        let expected = path.with_extension("stderr");
        if std::env::var_os("BLESS").is_some() {
            fs::write(&expected, &found).unwrap();
        }
        let expected = fs::read_to_string(&expected).unwrap_or_default();
        assert_eq!(found, expected, "{}", path.display());
        assert!(!found.contains("hunter2"), "{} tells a secret", path.display());
    }
}
