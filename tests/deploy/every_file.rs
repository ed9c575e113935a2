//! No file of `deploy/` is without a test that gives it to a tool of its own field.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::tools::{installed, root, succeed};

/// Files, by how their path ends or begins; the tool; the test. The first that fits counts.
const CHECKED: [(&str, &str, &str); 27] = [
    ("debian/build", "shellcheck, run by", "debian.rs"),
    ("debian/postinst", "shellcheck, lintian", "debian.rs"),
    ("debian/postrm", "shellcheck, lintian", "debian.rs"),
    ("debian/prerm", "shellcheck, lintian", "debian.rs"),
    ("debian/control.in", "dpkg-deb, lintian", "debian.rs"),
    ("debian/copyright", "lintian", "debian.rs"),
    ("debian/lintian-overrides", "lintian", "debian.rs"),
    ("debian/bearerd.toml", "bearerd check", "debian.rs"),
    ("docker/Dockerfile", "hadolint", "docker.rs"),
    ("docker/Dockerfile.dockerignore", "cargo metadata in what it lets through", "docker.rs"),
    ("docker/compose.yaml", "compose-go", "docker.rs"),
    ("docker/cross.sh", "shellcheck", "docker.rs"),
    ("docker/rootfs.sh", "shellcheck, run by", "docker.rs"),
    ("docker/bearerd/bearerd.toml", "bearerd run", "docker.rs"),
    ("helm/bearerd/README.md", "the chart's schema and values", "helm.rs"),
    ("helm/", "helm lint, helm template, kubernetes-validate", "helm.rs"),
    ("kubernetes/injection/", "the API server's admission, kubernetes-validate", "injection.rs"),
    ("kubernetes/injection-kyverno/", "Kyverno's program", "injection.rs"),
    ("kubernetes/patch.yaml", "compared with the component", "kubernetes.rs"),
    ("kubernetes/", "kustomize, kubernetes-validate, bearerd check", "kubernetes.rs"),
    ("monitoring/alerts.yaml", "promtool check rules", "monitoring.rs"),
    ("monitoring/alerts.test.yaml", "promtool test rules", "monitoring.rs"),
    ("monitoring/prometheus-rule.yaml", "compared with alerts.yaml", "monitoring.rs"),
    ("monitoring/kustomization.yaml", "kustomize", "kubernetes.rs"),
    ("monitoring/dashboard.json", "promtool promql", "monitoring.rs"),
    ("systemd/bearerd.service", "systemd-analyze", "systemd.rs"),
    ("systemd/bearerd.socket", "systemd-analyze", "systemd.rs"),
    ("systemd/app.service.d/bearerd.conf", "systemd-analyze", "systemd.rs"),
];

/// What is left there by somebody who tries it, and the lists that keep git from taking it.
const NOT_OURS: [&str; 4] = [
    "docker/secrets/",
    "helm/legacy-billing/.gitignore",
    "helm/legacy-billing/charts/",
    "helm/legacy-billing/Chart.lock",
];

fn files(folder: &Path, found: &mut BTreeSet<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            files(&entry.path(), found);
        } else {
            found.insert(entry.path().strip_prefix(root().join("deploy")).unwrap().to_owned());
        }
    }
}

fn fits(file: &str, rule: &str) -> bool {
    if rule.ends_with('/') { file.starts_with(rule) } else { file == rule }
}

#[test]
fn each_file_has_its_tool() {
    let mut found = BTreeSet::new();
    files(&root().join("deploy"), &mut found);
    let found: Vec<&str> = found.iter().map(|path| path.to_str().unwrap()).collect();
    for file in &found {
        let known = CHECKED.iter().any(|(rule, _, _)| fits(file, rule));
        let tried_here = NOT_OURS.iter().any(|folder| file.starts_with(folder));
        assert!(known || tried_here, "no tool checks deploy/{file}");
    }
    for (rule, tool, test) in CHECKED {
        assert!(
            found.iter().any(|file| fits(file, rule)),
            "deploy/{rule} is not there any more ({tool}, {test})"
        );
        assert!(root().join("tests/deploy").join(test).is_file(), "{test}");
    }
}

/// Beside those of `deploy/`, the ones that run all checks, and the tests in a cluster.
#[test]
#[ignore = "needs shellcheck"]
fn scripts_are_without_reproach() {
    let scripts = [
        "deploy/debian/build",
        "deploy/debian/postinst",
        "deploy/debian/postrm",
        "deploy/debian/prerm",
        "deploy/docker/cross.sh",
        "deploy/docker/rootfs.sh",
        "tests/cluster/images",
        "tests/cluster/run",
        ".ci/install",
        ".ci/release",
        ".ci/run",
    ];
    let scenarios: Vec<_> = std::fs::read_dir(root().join("tests/cluster/scenarios"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    let shellcheck = installed("shellcheck", "shellcheck");
    let mut command = Command::new(&shellcheck);
    command.args(["--norc", "--severity=style", "--external-sources", "--source-path=SCRIPTDIR"]);
    succeed(command.args(scripts).args(scenarios).current_dir(root()));
    let bad = Path::new(env!("CARGO_TARGET_TMPDIR")).join("unquoted.sh");
    std::fs::write(&bad, "#!/bin/sh\nrm -r $1/x\n").unwrap();
    let output = Command::new(shellcheck).arg(&bad).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("SC2086"), "a variable without quotes is found");
}
