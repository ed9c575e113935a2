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

/// Of operators, whose schemas the tool does not have.
const FOREIGN: [&str; 5] =
    ["Certificate", "ClusterSPIFFEID", "ExternalSecret", "PodMonitor", "PrometheusRule"];

pub fn assert_valid(name: &str, yaml: &str) {
    assert_valid_for(&VERSIONS, name, yaml);
}

/// Each document passes, but for kinds that Kubernetes itself does not know.
pub fn assert_valid_for(versions: &[&str], name: &str, yaml: &str) {
    let foreign = |document: &&Value| FOREIGN.iter().any(|kind| document["kind"] == *kind);
    let known = documents(name, yaml).iter().filter(|document| !foreign(document)).count();
    assert!(known > 0, "{name} renders to nothing");
    for version in versions {
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
        "Pod" => workload,
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

/// Pod Security's "restricted", a root that cannot be written, and limits; and where it fails to start, the pod says why.
pub fn assert_harmless(container: &Value) {
    assert_eq!(container["terminationMessagePolicy"], "FallbackToLogsOnError");
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

/// Every container of the pod meets Pod Security's "restricted", by itself or by the pod.
pub fn assert_restricted(pod: &Value) {
    for key in ["hostNetwork", "hostPID", "hostIPC"] {
        assert!(pod[key].is_null() || pod[key] == false, "{key}");
    }
    for volume in pod["volumes"].as_array().into_iter().flatten() {
        assert!(volume["hostPath"].is_null(), "{volume}");
    }
    let lists = ["initContainers", "containers"];
    for container in lists.into_iter().flat_map(|list| pod[list].as_array().into_iter().flatten()) {
        let own = &container["securityContext"];
        let either = |key: &str| if own[key].is_null() { &pod["securityContext"][key] } else { &own[key] };
        let name = &container["name"];
        assert_eq!(own["allowPrivilegeEscalation"], false, "{name}");
        assert_eq!(own["capabilities"], json!({ "drop": ["ALL"] }), "{name}");
        assert_eq!(*either("runAsNonRoot"), true, "{name}");
        assert_ne!(*either("runAsUser"), 0, "{name}");
        assert_eq!(either("seccompProfile")["type"], "RuntimeDefault", "{name}");
        for port in container["ports"].as_array().into_iter().flatten() {
            assert!(port["hostPort"].is_null(), "{name}: {port}");
        }
    }
}

/// Labels without a domain are the user's own.
pub fn assert_labels_have_a_domain(documents: &[Value]) {
    for document in documents {
        let inner = ["/metadata/labels", "/spec/template/metadata/labels", "/spec/selector/matchLabels"];
        for labels in inner.iter().filter_map(|place| document.pointer(place)?.as_object()) {
            for label in labels.keys() {
                assert!(label.contains('/'), "{label} of {}", document["metadata"]["name"]);
            }
        }
    }
}

/// Ports, paths and folders of the container are those of its config.
pub fn assert_fits_config(pod: &Value, config: &toml::Table) {
    let container = bearerd(pod);
    let admin = config["admin"]["address"].as_str().unwrap();
    let port: u64 = admin.rsplit(':').next().unwrap().parse().unwrap();
    let declared =
        container["ports"].as_array().into_iter().flatten().find(|port| port["name"] == "bearerd-admin");
    for (name, path) in
        [("startupProbe", "/readyz"), ("readinessProbe", "/readyz"), ("livenessProbe", "/livez")]
    {
        let probe = &container[name];
        if let Some(command) = probe.pointer("/exec/command") {
            assert!(admin.starts_with("127.0.0.1:"), "{admin}");
            assert_eq!(*command, json!(["/usr/local/bin/bearerd", "healthcheck"]));
        } else if !probe.is_null() {
            let reached = admin.starts_with("0.0.0.0:") || admin.starts_with("[::]:");
            assert!(reached, "a probe comes from the node, and cannot reach {admin}");
            let asked = probe["httpGet"]["path"].as_str().unwrap();
            assert!(asked == path || (name == "startupProbe" && asked == "/livez"), "{name} asks {asked}");
            assert_eq!(probe["httpGet"]["port"], "bearerd-admin");
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
    // Relative paths are beside bearerd.toml, where `bearerd check` has found it.
    let files = files_named(&toml::Value::Table(config.clone()));
    for file in files.iter().filter(|file| file.starts_with('/')) {
        let mounted = mounts.iter().any(|mount| file.starts_with(&format!("{mount}/")));
        assert!(mounted, "{file} lies in no mount: {mounts:?}");
    }
}

/// Every `{ file = "…" }` of a config.
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
        let later = line.ends_with("no such file") || line.contains("there is no socket");
        assert!(line.contains("/run/secrets/") && later, "{line}");
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
