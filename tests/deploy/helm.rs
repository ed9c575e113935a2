//! `deploy/helm`: linted, rendered, validated; what is wrong is refused in plain words.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

use super::manifests::{
    assert_fits_config, assert_harmless, assert_labels_have_a_domain, assert_restricted, assert_valid,
    bearerd, checked_config, documents, find, pod, read, scratch, seconds_to_end, workloads,
};
use super::packages;
use super::tools::{root, succeed};

const CHART: &str = "deploy/helm/bearerd";
const EXAMPLES: [&str; 5] = ["openshift", "shared-tokens", "sidecar", "standalone", "standalone-mtls"];
/// Admission policies alone, which older versions do not have: `injection.rs` looks at them.
const INJECTION: &str = "injection";

/// Helm, with a home of its own.
fn helm() -> Command {
    let mut helm = Command::new(packages::helm());
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("deploy/helm-home");
    helm.env("HOME", &home).env("XDG_CACHE_HOME", &home).env("KUBECONFIG", "/dev/null").current_dir(root());
    helm
}

fn example(name: &str) -> PathBuf {
    root().join(CHART).join("examples").join(format!("{name}.yaml"))
}

fn template(values: &Path) -> Output {
    helm().args(["template", "it", CHART, "--namespace", "apps", "--values"]).arg(values).output().unwrap()
}

pub fn rendered(name: &str) -> String {
    let output = template(&example(name));
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What stays in the cluster, without the hooks.
fn lasting(documents: &[Value]) -> Vec<Value> {
    let hook = |document: &&Value| document.pointer("/metadata/annotations/helm.sh~1hook").is_some();
    documents.iter().filter(|document| !hook(document)).cloned().collect()
}

/// What these values make.
fn rendered_values(test: &str, values: &str) -> Vec<Value> {
    let file = scratch(test).join("values.yaml");
    fs::write(&file, values).unwrap();
    let output = template(&file);
    assert!(output.status.success(), "{test}: {}", String::from_utf8_lossy(&output.stderr));
    documents(test, &String::from_utf8(output.stdout).unwrap())
}

/// The application's chart with bearerd's beside it, as `helm dependency update` leaves it.
fn application(test: &str) -> PathBuf {
    let folder = scratch(test);
    succeed(Command::new("cp").args(["-RL"]).arg(root().join("deploy/helm")).arg(&folder));
    let chart = folder.join("helm/legacy-billing");
    succeed(helm().args(["dependency", "update"]).arg(&chart));
    chart
}

#[test]
#[ignore = "needs helm or python3"]
fn the_charts_are_without_reproach() {
    succeed(helm().args(["lint", "--strict", CHART, "--values"]).arg(example("standalone")));
    for name in EXAMPLES.into_iter().chain([INJECTION]) {
        succeed(helm().args(["lint", "--strict", CHART, "--values"]).arg(example(name)));
    }
    succeed(helm().args(["lint", "--strict"]).arg(application("lint")));
    assert_eq!(fs::read_dir(root().join(CHART).join("examples")).unwrap().count(), EXAMPLES.len() + 1);
}

#[test]
#[ignore = "needs helm or python3"]
fn what_the_chart_makes_fits_the_schemas() {
    let mut all = EXAMPLES.map(rendered).to_vec();
    let output = succeed(helm().args(["template", "it"]).arg(application("valid")));
    all.push(String::from_utf8(output.stdout).unwrap());
    assert_valid("helm", &all.join("\n---\n"));
}

#[test]
#[ignore = "needs helm or python3"]
fn the_container_has_no_privileges_and_fits_its_config() {
    for name in EXAMPLES {
        let documents = lasting(&documents(&format!("helm-fit-{name}"), &rendered(name)));
        let map = documents.iter().find(|document| document["kind"] == "ConfigMap").unwrap();
        let config = checked_config(&format!("helm-{name}"), map);
        for workload in workloads(&documents) {
            let pod = pod(workload);
            assert_harmless(&with_user(name, pod));
            assert_fits_config(pod, &config);
            assert_eq!(pod["volumes"][0]["configMap"]["name"], map["metadata"]["name"]);
            let grace = pod["terminationGracePeriodSeconds"].as_u64().unwrap();
            assert!(grace > seconds_to_end(&config), "{name}: killed after {grace} s");
            let service = documents.iter().find(|document| document["kind"] == "Service").unwrap();
            let names = config["listener"]["main"]["names"].as_array().unwrap();
            for name in ["", ".apps", ".apps.svc", ".apps.svc.cluster.local"] {
                let name = format!("{}{name}", service["metadata"]["name"].as_str().unwrap());
                assert!(
                    names.iter().any(|known| known.as_str() == Some(&name)),
                    "{name} would be misdirected"
                );
            }
            let labels = workload["spec"]["template"]["metadata"]["labels"].as_object().unwrap();
            for (key, value) in service["spec"]["selector"].as_object().unwrap() {
                assert_eq!(labels.get(key), Some(value), "the Service finds its pods");
            }
        }
        let workloads = workloads(&documents).count();
        assert_eq!(workloads, usize::from(name != "sidecar"), "{name}");
    }
}

/// bearerd's container; OpenShift's has no user of its own until the platform gives it one.
fn with_user(example: &str, pod: &Value) -> Value {
    let mut container = bearerd(pod).clone();
    if example == "openshift" {
        let context = container["securityContext"].as_object_mut().unwrap();
        for key in ["runAsUser", "runAsGroup"] {
            assert!(context.insert(key.to_owned(), 65532.into()).is_none(), "{key} is fixed");
        }
        assert!(pod["securityContext"].get("fsGroup").is_none(), "{}", pod["securityContext"]);
    }
    container
}

/// Jobs and test pods too, so that the chart installs into a namespace that enforces it.
#[test]
#[ignore = "needs helm or python3"]
fn each_pod_of_the_charts_meets_pod_securitys_restricted() {
    let mut all: Vec<(&str, String)> = EXAMPLES.map(|name| (name, rendered(name))).to_vec();
    let output = succeed(helm().args(["template", "it"]).arg(application("restricted")));
    all.push(("application", String::from_utf8(output.stdout).unwrap()));
    for (name, rendered) in all {
        let documents = documents(&format!("helm-restricted-{name}"), &rendered);
        let pods: Vec<&Value> =
            documents.iter().map(pod).filter(|pod| pod["containers"].is_array()).collect();
        assert!(pods.len() >= 2, "{name}: the check and the test");
        pods.into_iter().for_each(assert_restricted);
        // The label that Prometheus selects a PodMonitor by is whatever its operator was told.
        let operators = ["PodMonitor", "PrometheusRule"];
        let ours = documents.into_iter().filter(|it| !operators.iter().any(|kind| it["kind"] == *kind));
        assert_labels_have_a_domain(&ours.collect::<Vec<Value>>());
    }
}

/// The kustomize base makes a ConfigMap `bearerd` in the same namespace.
#[test]
#[ignore = "needs helm or python3"]
fn the_chart_and_the_kustomize_base_do_not_share_a_config_map() {
    let output = succeed(helm().args(["template", "bearerd", CHART, "--values"]).arg(example("sidecar")));
    let rendered = documents("helm-clash", &String::from_utf8(output.stdout).unwrap());
    for map in rendered.iter().filter(|document| document["kind"] == "ConfigMap") {
        assert_ne!(map["metadata"]["name"], "bearerd");
    }
}

/// Before each install and upgrade a Job checks the very config that comes.
#[test]
#[ignore = "needs helm or python3"]
fn a_hook_checks_the_config_before_it_is_in_force() {
    let rendered = rendered("standalone");
    let documents = documents("helm-hook", &rendered);
    let hooks = |kind: &str| {
        let found = find(&documents, kind, "it-bearerd-check");
        let annotations = &found["metadata"]["annotations"];
        assert_eq!(annotations["helm.sh/hook"], "pre-install,pre-upgrade", "{kind}");
        let weight = annotations["helm.sh/hook-weight"].as_str().unwrap_or("0").parse::<i32>().unwrap();
        (found, weight)
    };
    let ((map, first), (job, second)) = (hooks("ConfigMap"), hooks("Job"));
    assert!(first < second, "the Job mounts the ConfigMap");
    assert_eq!(map["data"], find(&documents, "ConfigMap", "it-bearerd-config")["data"]);
    checked_config("helm-hook", map);
    let pod = pod(job);
    assert_eq!(pod["containers"][0]["args"], json!(["check"]));
    assert_eq!(
        pod["volumes"],
        json!([{ "name": "bearerd-config", "configMap": { "name": "it-bearerd-check" } }])
    );
    assert_eq!(pod["containers"][0]["volumeMounts"][0]["mountPath"], "/etc/bearerd");
    assert_eq!(job["spec"]["backoffLimit"], 0, "an error is told at once");
    // Otherwise the policy would add bearerd to it, and its volume of the same name.
    assert_eq!(job["spec"]["template"]["metadata"]["labels"]["bearerd.io/inject"], "disabled");

    // Theirs may come with the same release, and would not be there yet.
    for (test, values) in [
        ("helm-hook-existing", "existingConfigMap: mine"),
        ("helm-hook-off", "routes: a = 1\nconfigCheck: { enabled: false }"),
    ] {
        let rendered = rendered_values(test, values);
        assert!(!rendered.iter().any(|document| document["kind"] == "Job"), "{test}");
    }
}

/// It has all that bearerd's own container has, and no Service sends requests to it.
#[test]
#[ignore = "needs helm or python3"]
fn helm_test_asks_the_issuers_with_the_releases_own_credentials() {
    for name in EXAMPLES {
        let documents = documents(&format!("helm-test-{name}"), &rendered(name));
        let test = documents.iter().find(|document| document["kind"] == "Pod").unwrap();
        assert_eq!(test["metadata"]["annotations"]["helm.sh/hook"], "test", "{name}");
        let container = &test["spec"]["containers"][0];
        assert_eq!(container["args"], json!(["check", "--online"]));
        for workload in workloads(&documents) {
            let pod = pod(workload);
            for key in ["volumes", "serviceAccountName", "securityContext", "imagePullSecrets", "dnsConfig"] {
                assert_eq!(test["spec"][key], pod[key], "{name}: {key}");
            }
            for key in ["image", "env", "volumeMounts", "securityContext", "resources"] {
                assert_eq!(container[key], bearerd(pod)[key], "{name}: {key}");
            }
            let selected = workload["spec"]["selector"]["matchLabels"].as_object().unwrap();
            let labels = test["metadata"]["labels"].as_object().unwrap();
            assert!(!selected.iter().all(|(key, value)| labels.get(key) == Some(value)), "{name}");
        }
    }
}

#[test]
#[ignore = "needs helm or python3"]
fn what_platform_teams_set_is_where_they_expect_it() {
    let all = documents("helm-platform", &rendered("openshift"));
    for document in &all {
        let metadata = &document["metadata"];
        assert_eq!(metadata["labels"]["example.com/team"], "platform", "{metadata}");
        assert_eq!(metadata["annotations"]["example.com/contact"], "platform@example.com", "{metadata}");
    }
    let deployment = find(&all, "Deployment", "it-bearerd");
    let template = &deployment["spec"]["template"];
    assert_eq!(template["metadata"]["labels"]["example.com/team"], "tokens", "its own goes before");
    let pod = &template["spec"];
    assert_eq!(pod["priorityClassName"], "platform");
    assert_eq!(pod["dnsPolicy"], "ClusterFirst");
    assert_eq!(pod["dnsConfig"]["options"][0]["name"], "ndots");
    for constraint in pod["topologySpreadConstraints"].as_array().unwrap() {
        assert_eq!(constraint["labelSelector"], deployment["spec"]["selector"], "{constraint}");
    }
    assert_eq!(pod["topologySpreadConstraints"][1]["whenUnsatisfiable"], "DoNotSchedule");
    assert_eq!(find(&all, "Service", "it-bearerd")["spec"]["ipFamilyPolicy"], "PreferDualStack");
    assert_eq!(bearerd(pod)["startupProbe"]["httpGet"]["path"], "/livez");
    assert_eq!(bearerd(pod)["readinessProbe"]["httpGet"]["path"], "/readyz");
}

#[test]
#[ignore = "needs helm or python3"]
fn with_ipv6_both_families_are_listened_on() {
    let config = |test: &str, name: &str, values: &str| {
        let values = read(&format!("deploy/helm/bearerd/examples/{name}.yaml")) + "\nipv6: true\n" + values;
        let documents = rendered_values(test, &values);
        checked_config(test, find(&documents, "ConfigMap", "it-bearerd-config"))
    };
    let standalone = config("helm-ipv6", "standalone", "");
    assert_eq!(standalone["admin"]["address"].as_str(), Some("[::]:9180"));
    assert_eq!(standalone["listener"]["main"]["address"].as_str(), Some("[::]:8080"));
    let sidecar = config(
        "helm-ipv6-sidecar",
        "sidecar",
        "listener: { names: [api.internal], tls: { secretName: tls } }\n",
    );
    let listeners = sidecar["listener"].as_table().unwrap();
    for (name, address) in [("main", "127.0.0.1:8080"), ("main6", "[::1]:8080")] {
        assert_eq!(listeners[name]["address"].as_str(), Some(address));
        assert_eq!(listeners[name]["names"].as_array().unwrap()[0].as_str(), Some("api.internal"));
    }
}

/// In a pod of its own by its group; as a sidecar it leaves the pod's groups alone, and only its container mounts them.
#[test]
#[ignore = "needs helm or python3"]
fn secrets_are_readable_by_as_few_as_can_be() {
    let modes = |rendered: &str| {
        let lines =
            rendered.lines().filter_map(|line| line.trim().strip_prefix("defaultMode: ").map(str::to_owned));
        lines.collect::<Vec<String>>()
    };
    for (name, mounted) in [("standalone", 1), ("standalone-mtls", 2)] {
        let rendered = rendered(name);
        assert_eq!(modes(&rendered), vec!["0440"; 2 * mounted], "{name}: its own pods, and the test's");
        let documents = documents(&format!("helm-modes-{name}"), &rendered);
        let pod = pod(workloads(&documents).next().unwrap());
        assert_eq!(
            pod["securityContext"]["fsGroup"],
            bearerd(pod)["securityContext"]["runAsGroup"],
            "{name}"
        );
    }
    let output = succeed(helm().args(["template", "it"]).arg(application("modes")));
    let application = String::from_utf8(output.stdout).unwrap();
    let documents = documents("helm-modes-application", &application);
    assert!(pod(find(&documents, "Deployment", "it"))["securityContext"].get("fsGroup").is_none());
    assert_eq!(modes(&application), ["0444"; 2], "the application's pod, and the test's");
}

#[test]
#[ignore = "needs helm or python3"]
fn an_applications_chart_takes_the_sidecar_along() {
    let chart = application("application");
    let output = succeed(helm().args(["template", "it"]).arg(&chart));
    let rendered = documents("helm-application", &String::from_utf8(output.stdout).unwrap());
    let workload = find(&rendered, "Deployment", "it");
    let container = bearerd(pod(workload));
    assert_harmless(container);
    assert_fits_config(
        pod(workload),
        &checked_config("helm-application", find(&rendered, "ConfigMap", "it-bearerd-config")),
    );

    // The same container that kustomize adds.
    let component = &documents("helm-component", &read("deploy/kubernetes/sidecar/workload.yaml"))[0];
    let mut without_policy = container.clone();
    without_policy.as_object_mut().unwrap().remove("imagePullPolicy");
    assert_eq!(&without_policy, bearerd(pod(component)));

    let output = succeed(helm().args(["template", "it", "--set", "bearerd.enabled=false"]).arg(&chart));
    assert!(!String::from_utf8_lossy(&output.stdout).contains("name: bearerd"), "it can be switched off");
}

#[test]
#[ignore = "needs helm or python3"]
fn wrong_values_are_refused_with_what_is_wrong() {
    let cases = [
        ("replicas: 2", "'replicas' not allowed"),
        ("image: { repo: x }", "'repo' not allowed"),
        ("mode: both", "'sidecar', 'standalone'"),
        ("listener: { port: \"8080\" }", "got string, want integer"),
        ("listener: { port: 80 }", "1,024"),
        ("image: { digest: \"sha256:abc\" }", "does not match pattern"),
        ("probes: { type: tcp }", "'http', 'exec'"),
        ("resources: { limit: {} }", "'limit' not allowed"),
        ("routes: \"\"", "`routes` is empty"),
        ("routes: \"[issuer.corp\\n\"", "`routes` is not TOML: toml: line 2"),
        ("routes: a = 1\nsettings: a =", "`settings` is not TOML"),
        ("routes: a = 1\nsettings: drain_delay = \"1s\"", "the chart makes from `drainDelaySeconds`"),
        ("routes: a = 1\nsettings: \"[listener.main]\"", "the chart makes from `listener`"),
        ("routes: a = 1\nprobes: { type: exec, startup: process }", "asks /livez"),
        ("service: { ipFamilyPolicy: Both }", "'PreferDualStack'"),
        (
            "mode: standalone\nroutes: a = 1",
            "give `listener.allow`, `listener.requireHeader` or `listener.tls.clientCa`",
        ),
        ("routes: a = 1\nserviceAccountToken: { enabled: true }", "`serviceAccountToken.audience` is empty"),
        ("routes: a = 1\nlistener: { requireHeader: { name: x-key } }", "needs `secretName`"),
        ("routes: a = 1\nlistener: { tls: { clientCa: true } }", "needs `listener.tls.secretName`"),
        ("routes: a = 1\npodMonitor: { enabled: true }", "`podMonitor.selector` is empty"),
        ("store: { url: \"http://cache\" }", "does not match pattern"),
        ("routes: a = 1\nstore: { url: \"redis://a\" }", "`store.secretName` is empty"),
        (
            "routes: a = 1\nstore: { url: \"redis://a\", urls: [\"redis://b\"], secretName: s }",
            "`store.url` or `store.urls`, not both",
        ),
        (
            "existingConfigMap: mine\nstore: { url: \"redis://a\", secretName: s }",
            "write `[store]` into `existingConfigMap`",
        ),
        (
            "injection: { enabled: true }\nstore: { url: \"redis://a\", secretName: s }",
            "write `[store]` into `settings`",
        ),
        (
            "routes: a = 1\nsettings: \"[store]\"\nstore: { url: \"redis://a\", secretName: s }",
            "the chart makes from `store`",
        ),
        (
            "routes: a = 1\nprobes: { type: exec }\npodMonitor: { enabled: true, selector: { a: b } }",
            "on loopback",
        ),
    ];
    let folder = scratch("helm-wrong");
    for (number, (values, wanted)) in cases.into_iter().enumerate() {
        let file = folder.join(format!("{number}.yaml"));
        fs::write(&file, values).unwrap();
        let output = template(&file);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{values} was taken");
        assert!(said.contains(wanted), "{values}: {said}");
    }
}

/// Each value is a key of the config, and each file that it names is mounted.
#[test]
#[ignore = "needs helm or python3"]
fn replicas_share_tokens_by_a_store() {
    let config = |test: &str, values: &str| {
        let all = read("deploy/helm/bearerd/examples/standalone.yaml") + values;
        let documents = rendered_values(test, &all);
        let config = checked_config(test, find(&documents, "ConfigMap", "it-bearerd-config"));
        let mounts = bearerd(pod(find(&documents, "Deployment", "it-bearerd")))["volumeMounts"].clone();
        (config, mounts)
    };
    let (one, mounts) = config(
        "helm-store",
        "store: { url: \"rediss://cache:7000/2\", secretName: s, keys: [new, old], username: u, passwordKey: p, caKey: ca, \
         prefix: mine, timeout: 50ms }\n",
    );
    let wanted: toml::Table = r#"
        url = "rediss://cache:7000/2"
        username = "u"
        password = { file = "/run/secrets/store/p" }
        keys = [{ file = "/run/secrets/store/new" }, { file = "/run/secrets/store/old" }]
        prefix = "mine"
        timeout = "50ms"
        tls = { ca = { file = "/run/secrets/store/ca" } }
    "#
    .parse()
    .unwrap();
    assert_eq!(one["store"].as_table(), Some(&wanted));
    assert!(mounts.as_array().unwrap().iter().any(|it| it["mountPath"] == "/run/secrets/store"), "{mounts}");
    for (test, key, value) in
        [("helm-store-cluster", "cluster", "true"), ("helm-store-sentinel", "sentinel", "\"tokens\"")]
    {
        let values =
            format!("store: {{ urls: [\"redis://a\", \"redis://b\"], secretName: s, {key}: {value} }}\n");
        let (several, _) = config(test, &values);
        assert_eq!(several["store"][key], format!("it = {value}").parse::<toml::Table>().unwrap()["it"]);
        assert_eq!(several["store"]["urls"].as_array().unwrap().len(), 2);
        assert!(several["store"].get("password").is_none());
    }
    let (none, mounts) = config("helm-store-none", "");
    assert!(none.get("store").is_none() && !mounts.to_string().contains("store"), "{mounts}");
}

#[test]
#[ignore = "needs helm or python3"]
fn with_exec_probes_nothing_listens_outside_but_the_proxy() {
    let values = scratch("helm-exec").join("values.yaml");
    fs::write(&values, read("deploy/helm/bearerd/examples/standalone.yaml") + "probes: { type: exec }\n")
        .unwrap();
    let rendered = String::from_utf8(template(&values).stdout).unwrap();
    assert_valid("helm-exec", &rendered);
    let documents = documents("helm-exec", &rendered);
    let config = checked_config("helm-exec", find(&documents, "ConfigMap", "it-bearerd-config"));
    assert_eq!(config["admin"]["address"].as_str(), Some("127.0.0.1:9180"));
    assert_fits_config(pod(find(&documents, "Deployment", "it-bearerd")), &config);
}

#[test]
#[ignore = "needs helm or python3"]
fn a_pod_monitor_asks_a_port_that_is_there() {
    let documents = documents("helm-monitor", &rendered("standalone-mtls"));
    let monitor = &find(&documents, "PodMonitor", "tokens")["spec"];
    let deployment = find(&documents, "Deployment", "tokens");
    assert_eq!(monitor["selector"], deployment["spec"]["selector"]);
    let endpoint = &monitor["podMetricsEndpoints"][0];
    let ports = bearerd(pod(deployment))["ports"].as_array().unwrap();
    assert!(ports.iter().any(|port| port["name"] == endpoint["port"]), "{endpoint}");
    assert_eq!(endpoint["path"], "/metrics");
    // By this name the alerts know it, which would else fire for ever.
    assert_eq!(endpoint["relabelings"], json!([{ "targetLabel": "job", "replacement": "bearerd" }]));
    let alerts = &super::manifests::documents("helm-alerts", &read("deploy/monitoring/alerts.yaml"))[0];
    assert_eq!(find(&documents, "PrometheusRule", "tokens")["spec"], *alerts);
}

#[test]
#[ignore = "needs python3"]
fn the_chart_is_of_this_release() {
    let chart = &documents("chart", &read("deploy/helm/bearerd/Chart.yaml"))[0];
    assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
    assert_eq!(chart["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(chart["description"], env!("CARGO_PKG_DESCRIPTION"));
    let home = env!("CARGO_PKG_REPOSITORY");
    assert_eq!(chart["home"], home);
    assert_eq!(chart["sources"], json!([home]));
    assert_eq!(chart["annotations"]["artifacthub.io/license"], env!("CARGO_PKG_LICENSE"));
    let raw = home.replace("github.com", "raw.githubusercontent.com") + "/main/";
    let icon = chart["icon"].as_str().unwrap().strip_prefix(&raw).unwrap();
    assert!(root().join(icon).is_file(), "{icon}");
    for link in documents("chart-links", chart["annotations"]["artifacthub.io/links"].as_str().unwrap())[0]
        .as_array()
        .unwrap()
    {
        let path = link["url"].as_str().unwrap().strip_prefix(home).unwrap();
        let path = path.splitn(4, '/').nth(3).unwrap();
        assert!(root().join(path).exists(), "{link}");
    }
    let application = &documents("chart-application", &read("deploy/helm/legacy-billing/Chart.yaml"))[0];
    assert_eq!(application["dependencies"][0]["version"], chart["version"]);
}

/// The README's table is made from the schema and the defaults: `BLESS=1` writes it.
#[test]
#[ignore = "needs python3"]
fn the_readme_has_every_value() {
    let schema: Value = serde_json::from_str(&read("deploy/helm/bearerd/values.schema.json")).unwrap();
    let values = &documents("values", &read("deploy/helm/bearerd/values.yaml"))[0];
    let mut rows = BTreeMap::new();
    leaves("", &schema, values, &mut rows);
    rows.remove("global");
    let mut table = String::from("| value | default | meaning |\n|---|---|---|\n");
    for (name, (default, meaning)) in rows {
        writeln!(table, "| `{name}` | {default} | {meaning} |").unwrap();
    }
    let file = root().join(CHART).join("README.md");
    let readme = fs::read_to_string(&file).unwrap();
    let (head, rest) = readme.split_once("<!-- values -->\n").unwrap();
    let (found, tail) = rest.split_once("<!-- end of values -->\n").unwrap();
    if std::env::var_os("BLESS").is_some() {
        fs::write(&file, format!("{head}<!-- values -->\n{table}<!-- end of values -->\n{tail}")).unwrap();
    } else {
        assert_eq!(found, table, "`BLESS=1 cargo test --test deploy` writes it");
    }
}

/// What may be given, with its default and its meaning; every object is closed, and everything has a description.
fn leaves(name: &str, schema: &Value, values: &Value, rows: &mut BTreeMap<String, (String, String)>) {
    let meaning = schema["description"].as_str();
    let Some(properties) = schema["properties"].as_object() else {
        let default = match values {
            Value::Null if name == "global" => String::new(),
            Value::Null => panic!("{name} has no default in values.yaml"),
            Value::String(text) if text.contains('\n') => "see values.yaml".to_owned(),
            value => format!("`{value}`"),
        };
        rows.insert(name.to_owned(), (default, meaning.unwrap_or_else(|| panic!("{name}")).to_owned()));
        return;
    };
    assert_eq!(schema["additionalProperties"], false, "{name:?} takes unknown keys");
    assert!(name.is_empty() || meaning.is_some(), "{name} has no description");
    for known in values.as_object().unwrap().keys() {
        assert!(properties.contains_key(known), "{name}.{known} is not in the schema");
    }
    for (key, inner) in properties {
        let path = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
        leaves(&path, inner, &values[key], rows);
    }
}
