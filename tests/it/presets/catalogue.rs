//! No preset without its document and its test.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The names of the files in `src/config/presets`.
fn presets() -> BTreeSet<String> {
    let files = std::fs::read_dir(root().join("src/config/presets")).unwrap();
    let paths = files.map(|file| file.unwrap().path());
    paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect()
}

#[test]
fn every_preset_has_a_row_of_the_table_in_issuers_md() {
    let text = read(&root().join("docs/issuers.md"));
    let named: BTreeSet<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`').map(|(name, _)| name.to_owned()))
        .collect();
    assert_eq!(named, presets());
}

#[test]
fn every_preset_has_a_test_against_its_vendors_documented_response() {
    let files = std::fs::read_dir(root().join("tests/it/presets")).unwrap();
    let sources: Vec<String> = files.map(|file| read(&file.unwrap().path())).collect();
    let tested: BTreeSet<String> = sources
        .iter()
        .flat_map(|source| source.lines())
        .filter_map(|line| line.trim().strip_prefix("preset: \"")?.split_once('"'))
        .map(|(name, _)| name.to_owned())
        .collect();
    assert_eq!(tested, presets());
}
