//! What people read, by vale: spelling, Google's style for documentation, and the words of this project (`.vale`).

use std::fs;
use std::process::{Command, Output};

use super::manifests::scratch;
use super::packages;
use super::tools::root;

/// The README and its neighbours, and `docs`.
const PAGES: &[&str] = &[
    "README.md",
    "CHANGELOG.md",
    "CODE_OF_CONDUCT.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "llms.txt",
    "deploy/helm/bearerd/README.md",
    "bench/README.md",
    "docs",
];

fn vale(pages: &[&str]) -> Output {
    Command::new(packages::vale())
        .args(["--no-exit", "--output=line", "--minAlertLevel=warning"])
        .arg("--config")
        .arg(root().join(".vale.ini"))
        .args(pages)
        .current_dir(root())
        .output()
        .unwrap()
}

#[test]
#[ignore = "needs go"]
fn the_pages_read_as_plain_english() {
    let output = vale(PAGES);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.is_empty(), "\n{said}");
}

/// Each part of the rules is in force: a dictionary, Google's style, and the words of this project.
#[test]
#[ignore = "needs go"]
fn a_page_that_does_not_is_found() {
    let page = scratch("prose").join("bad.md");
    fs::write(&page, "# Bad\n\nWe serve tokens, secrets and keyz. The valid token serves on.\n").unwrap();
    let output = vale(&[page.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&output.stdout);
    for rule in ["Google.We", "Google.OxfordComma", "Vale.Spelling", "bearerd.Words"] {
        assert!(said.contains(rule), "{rule}: {said}{}", String::from_utf8_lossy(&output.stderr));
    }
}
