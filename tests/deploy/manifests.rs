//! Manifests as values, and what holds for bearerd's container wherever it is.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

use super::packages;
use super::tools::{root, succeed};

/// The oldest that has native sidecars switched on, the one that made them stable, the newest whose schema is known.
pub const VERSIONS: [&str; 3] = ["1.29", "1.33", "1.37"];

pub fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A new folder for a test.
pub fn scratch(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("deploy").join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// The documents of a YAML text.
pub fn documents(name: &str, yaml: &str) -> Vec<Value> {
    let file = scratch(&format!("yaml-{name}")).join("documents.yaml");
    fs::write(&file, yaml).unwrap();
    let output = succeed(
        Command::new(packages::python("python")).arg(root().join("tests/tools/yaml_to_json.py")).arg(file),
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Against the schema of each version, without a network and without mercy for unknown keys.
pub fn validate(name: &str, yaml: &str, version: &str) -> Output {
    let file = scratch(&format!("validate-{name}-{version}")).join("manifests.yaml");
    fs::write(&file, yaml).unwrap();
    Command::new(packages::python("kubernetes-validate"))
        .args(["--strict", "-k", version])
        .arg(file)
        .output()
        .unwrap()
}

/// Each document passes, but for kinds that Kubernetes itself does not know.
pub fn assert_valid(name: &str, yaml: &str) {
    let known = documents(name, yaml).iter().filter(|document| document["kind"] != "PodMonitor").count();
    assert!(known > 0, "{name} renders to nothing");
    for version in VERSIONS {
        let output = validate(name, yaml, version);
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name}, Kubernetes {version}:\n{said}");
        assert_eq!(said.matches(" passed ").count(), known, "{name}, Kubernetes {version}:\n{said}");
    }
}

pub fn find<'a>(documents: &'a [Value], kind: &str, name: &str) -> &'a Value {
    documents
        .iter()
        .find(|document| document["kind"] == kind && document["metadata"]["name"] == name)
        .unwrap_or_else(|| panic!("no {kind} {name} among {documents:#?}"))
}

/// The spec of the pods of a workload.
pub fn pod(workload: &Value) -> &Value {
    let template = match workload["kind"].as_str().unwrap() {
        "CronJob" => &workload["spec"]["jobTemplate"]["spec"]["template"],
        _ => &workload["spec"]["template"],
    };
    &template["spec"]
}

/// bearerd's container, wherever it is in the pod.
pub fn bearerd(pod: &Value) -> &Value {
    let init = pod["initContainers"].as_array();
    let containers = pod["containers"].as_array();
    init.into_iter()
        .chain(containers)
        .flatten()
        .find(|container| container["name"] == "bearerd")
        .expect("the pod has bearerd")
}

pub fn workloads(documents: &[Value]) -> impl Iterator<Item = &Value> {
    documents.iter().filter(|document| !pod(document).is_null() && has_bearerd(pod(document)))
}

fn has_bearerd(pod: &Value) -> bool {
    let lists = [&pod["initContainers"], &pod["containers"]];
    lists.iter().filter_map(|list| list.as_array()).flatten().any(|container| container["name"] == "bearerd")
}

/// Pod Security's "restricted", a root that cannot be written, and limits.
pub fn assert_harmless(container: &Value) {
    let context = &container["securityContext"];
    let wanted = json!({
        "runAsNonRoot": true,
        "runAsUser": 65532,
        "runAsGroup": 65532,
        "allowPrivilegeEscalation": false,
        "privileged": false,
        "readOnlyRootFilesystem": true,
        "capabilities": { "drop": ["ALL"] },
        "seccompProfile": { "type": "RuntimeDefault" },
    });
    assert_eq!(*context, wanted);
    for key in ["/resources/requests/cpu", "/resources/requests/memory", "/resources/limits/memory"] {
        assert!(container.pointer(key).is_some(), "{key}");
    }
    for mount in container["volumeMounts"].as_array().unwrap() {
        assert_eq!(mount["readOnly"], true, "{mount}");
        assert!(mount.get("subPath").is_none(), "a file mounted by subPath is never changed: {mount}");
    }
}

/// Ports, paths and folders of the container are those of its config.
pub fn assert_fits_config(pod: &Value, config: &toml::Table) {
    let container = bearerd(pod);
    let admin = config["admin"]["address"].as_str().unwrap();
    let port: u64 = admin.rsplit(':').next().unwrap().parse().unwrap();
    let declared =
        container["ports"].as_array().into_iter().flatten().find(|port| port["name"] == "bearerd-admin");
    for (probe, path) in
        [("startupProbe", "/readyz"), ("readinessProbe", "/readyz"), ("livenessProbe", "/livez")]
    {
        let probe = &container[probe];
        if let Some(command) = probe.pointer("/exec/command") {
            assert!(admin.starts_with("127.0.0.1:"), "{admin}");
            assert_eq!(*command, json!(["/usr/local/bin/bearerd", "healthcheck"]));
        } else if !probe.is_null() {
            assert!(admin.starts_with("0.0.0.0:"), "a probe comes from the node, and cannot reach {admin}");
            assert_eq!(probe["httpGet"], json!({ "path": path, "port": "bearerd-admin" }));
            assert_eq!(declared.unwrap()["containerPort"], port);
        }
    }
    assert!(container["startupProbe"].is_object() && container["readinessProbe"].is_object());
    assert!(
        container["livenessProbe"].is_object() || container["startupProbe"]["exec"].is_object(),
        "liveness is left out only where nothing but `healthcheck` can be asked"
    );
    let mounts: Vec<&str> = container["volumeMounts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|mount| mount["mountPath"].as_str().unwrap())
        .collect();
    assert!(mounts.contains(&"/etc/bearerd"));
    for file in files_named(&toml::Value::Table(config.clone())) {
        let mounted = mounts.iter().any(|mount| file.starts_with(&format!("{mount}/")));
        assert!(mounted, "{file} lies in no mount: {mounts:?}");
    }
}

/// Every absolute `{ file = "…" }` of a config.
pub fn files_named(value: &toml::Value) -> Vec<String> {
    match value {
        toml::Value::Table(table) => match table.get("file").and_then(toml::Value::as_str) {
            Some(file) => vec![file.to_owned()],
            None => table.values().flat_map(files_named).collect(),
        },
        toml::Value::Array(values) => values.iter().flat_map(files_named).collect(),
        _ => Vec::new(),
    }
}

/// The config in a ConfigMap, which `bearerd check` finds good, with its included file merged in.
pub fn checked_config(name: &str, config_map: &Value) -> toml::Table {
    let folder = scratch(&format!("check-{name}"));
    let data: BTreeMap<String, String> = serde_json::from_value(config_map["data"].clone()).unwrap();
    for (file, text) in &data {
        fs::write(folder.join(file), text).unwrap();
    }
    check(&folder.join("bearerd.toml"));
    let mut config: toml::Table = data["bearerd.toml"].parse().unwrap();
    if let Some(routes) = data.get("routes.toml") {
        config.extend(routes.parse::<toml::Table>().unwrap());
    }
    config
}

/// Good, and warned about nothing but files that are mounted later.
pub fn check(config: &Path) {
    let output = succeed(Command::new(env!("CARGO_BIN_EXE_bearerd")).args(["check", "--config"]).arg(config));
    let said =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    for line in said.lines().filter(|line| line.contains("warning")) {
        assert!(line.contains("/run/secrets/") && line.ends_with("no such file"), "{line}");
    }
}

/// `drain_delay` and `shutdown_timeout`, in seconds.
pub fn seconds_to_end(config: &toml::Table) -> u64 {
    ["drain_delay", "shutdown_timeout"]
        .iter()
        .map(|key| {
            config.get(*key).map_or(0, |value| value.as_str().unwrap().trim_end_matches('s').parse().unwrap())
        })
        .sum()
}
