//! Replays every file of the fuzz targets' corpora: what was once found stays fixed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and read what they check"
)]

#[path = "../fuzz/targets.rs"]
mod targets;

use std::fs;
use std::path::Path;

fn replay(target: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut files: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 10, "the corpus in {} is gone", folder.display());
    for file in files {
        let bytes = fs::read(&file).unwrap();
        let result = std::panic::catch_unwind(|| run(&bytes));
        assert!(result.is_ok(), "{} fails", file.display());
    }
}

#[test]
fn config() {
    replay("config", targets::config);
}

#[test]
fn connect() {
    replay("connect", targets::connect);
}

#[test]
fn connection() {
    replay("connection", targets::connection);
}

#[test]
fn key() {
    replay("key", targets::key);
}

#[test]
fn masked() {
    replay("masked", targets::masked);
}

#[test]
fn path() {
    replay("path", targets::path);
}

#[test]
fn token_response() {
    replay("token_response", targets::token_response);
}

#[test]
fn texts() {
    replay("texts", targets::texts);
}

#[test]
fn webhook() {
    replay("webhook", targets::webhook);
}
