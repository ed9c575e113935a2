//! `.ci/release`: what the workflow of a release runs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use super::manifests::{documents, scratch};
use super::packages;
use super::tools::{root, succeed};

const VERSION: &str = env!("CARGO_PKG_VERSION");
const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// The script in a checkout that has this changelog.
fn notes(test: &str, changelog: &str, version: &str) -> Output {
    let folder = scratch(test);
    fs::create_dir(folder.join(".ci")).unwrap();
    fs::copy(root().join(".ci/release"), folder.join(".ci/release")).unwrap();
    fs::write(folder.join("CHANGELOG.md"), changelog).unwrap();
    Command::new(folder.join(".ci/release")).args(["notes", version]).output().unwrap()
}

#[test]
fn notes_are_the_entry_of_the_version_alone() {
    let changelog = "# Changelog\n\n## [Unreleased]\n\n- later\n\n## [1.2.0] - 2027-01-31\n\n### Added\n\n- a\n- b\n\n\
                     ## 1.1.0\n\n- old\n\n## 1.0.0 (unreleased)\n\n- never\n";
    let said = |version: &str| {
        let output = notes(&format!("notes-{version}"), changelog, version);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(said("1.2.0").trim_end(), "### Added\n\n- a\n- b");
    assert_eq!(said("1.1.0").trim_end(), "- old");
    for version in ["1.0.0", "1.2", "9.9.9"] {
        let output = notes(&format!("notes-{version}"), changelog, version);
        assert!(!output.status.success(), "{version} has notes");
        assert!(String::from_utf8_lossy(&output.stderr).contains("no entry"), "{version}");
    }
}

fn release(arguments: &[&str]) -> Command {
    let mut command = Command::new(root().join(".ci/release"));
    command.args(arguments).env("SOURCE_DATE_EPOCH", "0");
    command
}

#[test]
fn the_version_is_that_of_the_crate() {
    let output = succeed(&mut release(&["version"]));
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), VERSION);
    assert_eq!(release(&["bake"]).output().unwrap().status.code(), Some(64));
}

#[test]
fn an_archive_has_all_that_a_user_needs_and_is_the_same_each_time() {
    let folder = scratch("archive");
    // In the place of bearerd, whose debug build takes a minute to compress.
    let program = folder.join("program");
    let script = format!("#!/bin/sh\n[ \"$1\" = --version ] && echo bearerd {VERSION} || echo \"$@\"\n");
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let make = |folder: &Path| {
        let target = folder.to_str().unwrap();
        succeed(&mut release(&["archive", program.to_str().unwrap(), "some-target", target]));
        folder.join(format!("bearerd-{VERSION}-some-target.tar.gz"))
    };
    let archive = make(&folder.join("first"));
    assert_eq!(fs::read(&archive).unwrap(), fs::read(make(&folder.join("second"))).unwrap());
    succeed(Command::new("tar").arg("-xzf").arg(&archive).arg("-C").arg(&folder));
    let inside = folder.join(format!("bearerd-{VERSION}-some-target"));
    for file in [
        "README.md",
        "CHANGELOG.md",
        "LICENSE-MIT",
        "LICENSE-APACHE",
        "config.example.toml",
        "man/bearerd.1",
        "completions/bearerd.fish",
    ] {
        assert!(inside.join(file).is_file(), "{file}");
    }
    let output = succeed(Command::new(inside.join("bearerd")).arg("--version"));
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), format!("bearerd {VERSION}"));
}

#[test]
#[ignore = "needs helm or python3"]
fn a_released_chart_names_the_image_of_its_release() {
    let folder = scratch("chart");
    let helm = packages::helm();
    let path = format!("{}:{}", helm.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let image = "ghcr.io/bearerd/bearerd";
    succeed(release(&["chart", image, DIGEST, folder.to_str().unwrap()]).env("PATH", path));
    let chart = folder.join(format!("bearerd-{VERSION}.tgz"));
    let output = succeed(Command::new(&helm).arg("show").arg("chart").arg(&chart));
    let shown = &documents("released-chart", &String::from_utf8(output.stdout).unwrap())[0];
    assert_eq!(shown["appVersion"], VERSION);
    assert!(shown["annotations"]["artifacthub.io/images"].as_str().unwrap().contains(DIGEST));
    let values = ["--set", "existingConfigMap=it"];
    let output = succeed(Command::new(helm).args(["template", "it"]).arg(chart).args(values));
    let rendered = String::from_utf8(output.stdout).unwrap();
    assert!(rendered.contains(&format!("image: \"{image}@{DIGEST}\"")), "{rendered}");
}
