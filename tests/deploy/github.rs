//! `.github`: workflows, templates and dependabot's config, by the tools of their field.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use super::manifests::{documents, read, scratch};
use super::packages;
use super::tools::{installed, root, succeed};

fn zizmor(folder: &Path) -> Output {
    Command::new(packages::github("zizmor"))
        .args(["--offline", "--no-progress", "--persona", "pedantic"])
        .arg(folder)
        .output()
        .unwrap()
}

fn actionlint(file: &Path) -> Output {
    let shellcheck = installed("shellcheck", "shellcheck");
    Command::new(packages::actionlint())
        .args(["-no-color", "-pyflakes=", "-shellcheck"])
        .arg(shellcheck)
        .arg(file)
        .output()
        .unwrap()
}

#[test]
#[ignore = "needs go, python3 and shellcheck"]
fn workflows_are_right() {
    let folder = root().join(".github/workflows");
    let mut workflows = 0;
    for entry in fs::read_dir(&folder).unwrap().map(Result::unwrap) {
        workflows += 1;
        let output = actionlint(&entry.path());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
    assert!(workflows >= 4, "{workflows} workflows");
    let bad = scratch("actionlint").join("bad.yml");
    fs::write(&bad, "on: push\njobs:\n  a:\n    runs-on: ubuntu-24.04\n    steps: [{ run: 'rm -r $X/y' }]\n")
        .unwrap();
    let said = String::from_utf8_lossy(&actionlint(&bad).stdout).into_owned();
    assert!(said.contains("SC2086"), "a variable without quotes is found: {said}");
}

/// Actions are pinned by their commit, permissions are small, nothing of an event is pasted into a script.
#[test]
#[ignore = "needs python3"]
fn workflows_are_safe() {
    let output = zizmor(&root().join(".github"));
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let folder = scratch("zizmor");
    fs::create_dir_all(folder.join(".github/workflows")).unwrap();
    let bad = "on: issues\njobs:\n  a:\n    runs-on: ubuntu-24.04\n    steps:\n      - uses: actions/checkout@v7\n      - run: echo ${{ github.event.issue.title }}\n";
    fs::write(folder.join(".github/workflows/bad.yml"), bad).unwrap();
    let output = zizmor(&folder.join(".github"));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success());
    assert!(said.contains("template-injection") && said.contains("unpinned-uses"), "{said}");
}

#[test]
#[ignore = "needs python3"]
fn forms_and_dependabot_fit_their_schemas() {
    let check = |schema: &str, files: &[&str]| {
        let files = files.iter().map(|file| root().join(".github").join(file));
        let schema = format!("vendor.{schema}");
        succeed(
            Command::new(packages::github("check-jsonschema"))
                .args(["--builtin-schema", &schema])
                .args(files),
        );
    };
    let folder = fs::read_dir(root().join(".github/ISSUE_TEMPLATE")).unwrap();
    let forms: Vec<String> = folder
        .map(|entry| format!("ISSUE_TEMPLATE/{}", entry.unwrap().file_name().to_string_lossy()))
        .filter(|file| !file.ends_with("/config.yml"))
        .collect();
    assert!(forms.len() >= 3, "{forms:?}");
    check("github-issue-forms", &forms.iter().map(String::as_str).collect::<Vec<_>>());
    check("github-issue-config", &["ISSUE_TEMPLATE/config.yml"]);
    check("dependabot", &["dependabot.yml"]);
}

/// Dependabot looks where there is something to update.
#[test]
fn dependabots_folders_are_there() {
    let config = &documents("dependabot", &read(".github/dependabot.yml"))[0];
    for update in config["updates"].as_array().unwrap() {
        let one = update["directory"].as_str();
        let many = update["directories"].as_array().into_iter().flatten().map(|it| it.as_str().unwrap());
        for folder in one.into_iter().chain(many) {
            let path = root().join(folder.trim_start_matches('/'));
            assert!(path.is_dir(), "{folder}");
        }
    }
}

/// Each path of CODEOWNERS is there.
#[test]
fn codeowners_name_what_exists() {
    for line in read(".github/CODEOWNERS").lines().filter(|line| line.starts_with('/')) {
        let path = line.split_whitespace().next().unwrap();
        assert!(root().join(path.trim_start_matches('/')).exists(), "{path}");
    }
}
