//! `deploy/kubernetes/injection`: what its policies do to pods, by the plugins that the API server runs them with.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use super::helm;
use super::kubernetes::rendered;
use super::manifests::{
    assert_fits_config, assert_harmless, assert_restricted, assert_valid_for, bearerd, check, documents,
    find, pod, read, scratch,
};
use super::packages;
use super::tools::{root, succeed};

/// A key and its value.
type Pair = (&'static str, &'static str);
/// A container, and whether it is a native sidecar.
type Ready = (&'static str, bool);

/// The first that has MutatingAdmissionPolicy switched on, and the newest whose schema is known.
const VERSIONS: [&str; 2] = ["1.36", "1.37"];
const ROUTES: &str = include_str!("../../deploy/kubernetes/injection/example/routes.toml");

/// A namespace that asks for bearerd, one that says nothing, one that forbids it, and the cluster's own.
fn namespaces() -> String {
    [("apps", "enabled"), ("plain", ""), ("off", "disabled"), ("kube-system", "enabled")]
        .map(|(name, label)| {
            let mut labels = json!({ "kubernetes.io/metadata.name": name });
            if !label.is_empty() {
                labels["bearerd.io/inject"] = label.into();
            }
            let metadata = json!({ "name": name, "labels": labels });
            json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": metadata }).to_string()
        })
        .join("\n---\n")
}

/// What the API server says to the creation of each of these.
fn create(test: &str, objects: &[Value]) -> Vec<Value> {
    create_in(test, &rendered("injection"), objects)
}

fn create_in(test: &str, policies: &str, objects: &[Value]) -> Vec<Value> {
    let folder = scratch(&format!("injection-{test}"));
    let (cluster, requests) = (folder.join("cluster.yaml"), folder.join("objects.yaml"));
    fs::write(&cluster, format!("{}\n---\n{policies}", namespaces())).unwrap();
    let objects: Vec<String> = objects.iter().map(Value::to_string).collect();
    fs::write(&requests, objects.join("\n---\n")).unwrap();
    let output = succeed(Command::new(packages::admission()).arg(cluster).arg(requests));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A pod of one container, in a namespace, with these labels and annotations below `bearerd.io/`, and more of the spec.
fn a_pod(namespace: &str, label: &str, notes: &[(&str, &str)], spec: &Value) -> Value {
    let mut metadata = json!({ "name": "it", "namespace": namespace });
    if !label.is_empty() {
        metadata["labels"] = json!({ "bearerd.io/inject": label });
    }
    for (key, value) in notes {
        metadata["annotations"][format!("bearerd.io/{key}")] = (*value).into();
    }
    let mut pod = json!({
        "containers": [{ "name": "app", "image": "example/legacy-billing:1.0.0" }],
        "automountServiceAccountToken": false,
    });
    for (key, value) in spec.as_object().into_iter().flatten() {
        pod[key] = value.clone();
    }
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod })
}

/// Its template in something that makes pods.
fn as_workload(kind: &str, mut template: Value) -> Value {
    let mut metadata = template["metadata"].take();
    let namespace = metadata.as_object_mut().unwrap().remove("namespace").unwrap();
    metadata.as_object_mut().unwrap().remove("name");
    metadata["labels"]["app"] = "it".into();
    let template = json!({ "metadata": metadata, "spec": template["spec"] });
    let (version, spec) = match kind {
        "Job" => ("batch/v1", json!({ "template": template })),
        "CronJob" => {
            ("batch/v1", json!({ "schedule": "@daily", "jobTemplate": { "spec": { "template": template } } }))
        }
        _ => ("apps/v1", json!({ "selector": { "matchLabels": { "app": "it" } }, "template": template })),
    };
    let metadata = json!({ "name": "it", "namespace": namespace });
    json!({ "apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec })
}

fn is_injected(outcome: &Value) -> bool {
    names(&outcome["object"]["spec"]["initContainers"]).contains(&"bearerd")
}

fn names(containers: &Value) -> Vec<&str> {
    let containers = containers.as_array().into_iter().flatten();
    containers.map(|container| container["name"].as_str().unwrap()).collect()
}

fn volume<'a>(pod: &'a Value, name: &str) -> &'a Value {
    let volumes = pod["volumes"].as_array().unwrap();
    volumes.iter().find(|volume| volume["name"] == name).unwrap_or(&Value::Null)
}

#[test]
#[ignore = "needs kubectl and python3"]
fn the_policies_fit_the_schemas() {
    assert_valid_for(&VERSIONS, "injection", &rendered("injection"));
    assert_valid_for(&VERSIONS, "injection-helm", &helm::rendered("injection"));
}

/// The container that kustomize adds, in front of the pod's own, and nothing of the pod changed.
#[test]
#[ignore = "needs go, kubectl and python3"]
fn an_injected_pod_has_what_the_component_adds() {
    let theirs = json!({
        "initContainers": [{ "name": "migrate", "image": "example/ledger:7" }],
        "volumes": [{ "name": "data", "emptyDir": {} }],
        "securityContext": { "runAsNonRoot": true, "seccompProfile": { "type": "RuntimeDefault" } },
        "containers": [{ "name": "app", "image": "example/ledger:7", "securityContext": {
            "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } } }],
    });
    let before = a_pod("apps", "", &[], &theirs);
    let outcome = &create("component", std::slice::from_ref(&before))[0];
    assert_eq!(outcome["refusal"], "");
    assert_eq!(outcome["warnings"], Value::Null);
    let after = outcome["object"].clone();
    let component = &documents("injection-component", &read("deploy/kubernetes/sidecar/workload.yaml"))[0];
    let mut container = bearerd(&after["spec"]).clone();
    without_empty(&mut container);
    assert_eq!(&container, bearerd(pod(component)));
    assert_harmless(&container);
    assert_eq!(names(&after["spec"]["initContainers"]), ["bearerd", "migrate"]);
    assert_eq!(volume(&after["spec"], "bearerd-secrets"), volume(pod(component), "bearerd-secrets"));
    assert_eq!(volume(&after["spec"], "data"), &json!({ "name": "data", "emptyDir": {} }));
    assert_eq!(names(&after["spec"]["containers"]), ["app"]);
    let mut secured = after["spec"].clone();
    secured["initContainers"].as_array_mut().unwrap().truncate(1);
    assert_restricted(&secured);

    // Once more, as a controller does that copies a pod.
    let again = &create("again", std::slice::from_ref(&after))[0];
    assert_eq!(again["refusal"], "");
    assert_eq!(again["object"], after);
}

/// Go writes an empty `resources` and `status` where the manifest has none.
fn without_empty(value: &mut Value) {
    match value {
        Value::Object(object) => {
            object.retain(|_, inner| *inner != json!({}) && !inner.is_null());
            object.values_mut().for_each(without_empty);
        }
        Value::Array(list) => list.iter_mut().for_each(without_empty),
        _ => {}
    }
}

/// The labels of the namespace and of the pod, as Istio's.
#[test]
#[ignore = "needs go, kubectl and python3"]
fn labels_decide_who_gets_it() {
    let cases = [
        ("apps", "", true),
        ("apps", "enabled", true),
        ("apps", "disabled", false),
        ("plain", "", false),
        ("plain", "enabled", true),
        ("off", "enabled", false),
        ("kube-system", "enabled", false),
    ];
    let pods = cases.map(|(namespace, label, _)| a_pod(namespace, label, &[], &Value::Null));
    for ((namespace, label, wanted), outcome) in cases.into_iter().zip(create("labels", &pods)) {
        assert_eq!(outcome["refusal"], "", "{namespace} {label}");
        assert_eq!(is_injected(&outcome), wanted, "{namespace} {label}");
        let injected = &outcome["object"]["metadata"]["labels"]["bearerd.io/injected"];
        assert_eq!(injected == "true", wanted, "{namespace} {label}: {injected}");
    }
}

/// Before the pod's own init containers; after a mesh's proxy that runs by then, and before one that does not yet.
#[test]
#[ignore = "needs go, kubectl and python3"]
fn it_starts_between_the_mesh_and_the_application() {
    let cases: [(&[Ready], &[&str]); 5] = [
        (&[("migrate", false)], &["bearerd", "migrate"]),
        (
            &[("istio-init", false), ("istio-proxy", true), ("migrate", false)],
            &["istio-init", "istio-proxy", "bearerd", "migrate"],
        ),
        (
            &[("linkerd-init", false), ("linkerd-proxy", true), ("migrate", false)],
            &["linkerd-init", "linkerd-proxy", "bearerd", "migrate"],
        ),
        (&[("migrate", false), ("istio-init", false)], &["bearerd", "migrate", "istio-init"]),
        (&[("cloud-sql-proxy", true)], &["bearerd", "cloud-sql-proxy"]),
    ];
    let pods = cases.map(|(list, _)| {
        let containers: Vec<Value> = list
            .iter()
            .map(|(name, sidecar)| {
                let mut container = json!({ "name": name, "image": "it" });
                if *sidecar {
                    container["restartPolicy"] = "Always".into();
                }
                container
            })
            .collect();
        a_pod("apps", "", &[], &json!({ "initContainers": containers }))
    });
    for ((_, wanted), outcome) in cases.into_iter().zip(create("order", &pods)) {
        assert_eq!(names(&outcome["object"]["spec"]["initContainers"]), *wanted);
        let notes = &outcome["object"]["metadata"]["annotations"];
        assert_eq!(notes["traffic.sidecar.istio.io/excludeInboundPorts"], "9180");
        assert_eq!(notes["config.linkerd.io/skip-inbound-ports"], "9180");
    }
}

#[test]
#[ignore = "needs go, kubectl and python3"]
fn a_pod_with_bearerd_is_left_alone() {
    let own = json!({ "name": "bearerd", "image": "mine:1" });
    let as_init = json!({ "initContainers": [own] });
    let as_container = json!({ "containers": [own, { "name": "app", "image": "it" }] });
    // What would be refused for a pod that gets bearerd is that pod's own affair.
    let as_host = json!({ "initContainers": [own], "hostNetwork": true });
    let mut pods =
        [as_init, as_container, as_host].map(|spec| a_pod("apps", "", &[("port", "80")], &spec)).to_vec();
    // The API server's copy of a static pod, which the kubelet runs from a file.
    let mut mirror = a_pod("apps", "", &[], &Value::Null);
    mirror["metadata"]["annotations"] = json!({ "kubernetes.io/config.mirror": "0123" });
    pods.push(mirror);
    for (before, outcome) in pods.iter().zip(create("own", &pods)) {
        assert_eq!(outcome["refusal"], "");
        for list in ["initContainers", "containers"] {
            assert_eq!(names(&outcome["object"]["spec"][list]), names(&before["spec"][list]));
        }
        assert!(outcome["object"]["spec"]["volumes"].is_null());
    }
}

/// The application of the page, as its Deployment makes its pods.
#[test]
#[ignore = "needs go, kubectl and python3"]
fn the_example_gets_its_own_secret_and_port() {
    let mut deployment =
        documents("example", &read("deploy/kubernetes/injection/example/application.yaml")).remove(0);
    assert_valid_for(&VERSIONS, "example", &deployment.to_string());
    deployment["metadata"]["namespace"] = "plain".into();
    let mut pod = deployment["spec"]["template"].clone();
    pod["metadata"]["name"] = "reports".into();
    pod["metadata"]["namespace"] = "plain".into();
    pod["apiVersion"] = "v1".into();
    pod["kind"] = "Pod".into();
    for outcome in create("example", &[deployment, pod.clone()]) {
        assert_eq!((&outcome["refusal"], &outcome["warnings"]), (&json!(""), &Value::Null));
    }
    let pod = create("example-pod", &[pod]).remove(0);
    assert_restricted(&pod["object"]["spec"]);
    let secret = &volume(&pod["object"]["spec"], "bearerd-secrets")["projected"]["sources"][0]["secret"];
    assert_eq!(secret["name"], "bearerd-reports");
    let address = frame(&pod, "example")["listener"]["main"]["address"].clone();
    let url = &pod["object"]["spec"]["containers"][0]["env"][0]["value"];
    assert_eq!(address.as_str(), Some("127.0.0.1:18080"));
    assert_eq!(url, "http://localhost:18080/billing");
}

/// Each key of the defaults, as an annotation.
#[test]
#[ignore = "needs go, kubectl and python3"]
fn annotations_go_before_the_defaults() {
    let notes = [
        ("image", "registry.example.com/bearerd:1"),
        ("config", "routes"),
        ("secret", "mine"),
        ("token-audience", "https://idp.example.com"),
        ("port", "18080"),
        ("admin-port", "19180"),
        ("ipv6", "true"),
        ("startup", "process"),
        ("user", "1234"),
        ("cpu-request", "20m"),
        ("cpu-limit", "1"),
        ("memory-request", "40Mi"),
        ("memory-limit", "200Mi"),
        ("settings", "workers = 2"),
    ];
    let known: BTreeSet<&str> = notes.iter().map(|(key, _)| *key).collect();
    let defaults = &documents("defaults", &read("deploy/kubernetes/injection/defaults.yaml"))[0]["data"];
    let keys: BTreeSet<&str> = defaults.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(known, keys);
    let page = read("docs/kubernetes-injection.md");
    for key in keys {
        assert!(
            page.contains(&format!("\n| `{key}` | ")),
            "docs/kubernetes-injection.md has no row of {key}"
        );
    }

    let outcome = &create("annotations", &[a_pod("apps", "", &notes, &Value::Null)])[0];
    assert_eq!(outcome["refusal"], "");
    let pod = &outcome["object"]["spec"];
    let container = bearerd(pod);
    assert_eq!(container["image"], "registry.example.com/bearerd:1");
    assert_eq!(
        container["resources"],
        json!({
            "requests": { "cpu": "20m", "memory": "40Mi" },
            "limits": { "cpu": "1", "memory": "200Mi" },
        })
    );
    assert_eq!(container["startupProbe"]["httpGet"]["path"], "/livez");
    assert_eq!(container["securityContext"]["runAsUser"], 1234);
    let source = &volume(pod, "bearerd-config")["projected"]["sources"][1];
    assert_eq!(*source, json!({ "configMap": { "name": "routes" } }));
    let secret = &volume(pod, "bearerd-secrets")["projected"]["sources"][0]["secret"];
    assert_eq!(secret["name"], "mine");
    let token = &volume(pod, "bearerd-token")["projected"]["sources"][0]["serviceAccountToken"];
    assert_eq!(token["audience"], "https://idp.example.com");
    assert_eq!(outcome["object"]["metadata"]["annotations"]["config.linkerd.io/skip-inbound-ports"], "19180");
    let config = frame(outcome, "annotations");
    assert_fits_config(pod, &config);
    assert_eq!(config["workers"].as_integer(), Some(2));
    assert_eq!(config["admin"]["address"].as_str(), Some("[::]:19180"));
    assert_eq!(config["listener"]["main"]["address"].as_str(), Some("127.0.0.1:18080"));
    assert_eq!(config["listener"]["main6"]["address"].as_str(), Some("[::1]:18080"));
}

/// The config that bearerd reads in the pod, which `bearerd check` finds good.
fn frame(outcome: &Value, test: &str) -> toml::Table {
    let text = outcome["object"]["metadata"]["annotations"]["bearerd.io/bearerd.toml"].as_str().unwrap();
    let folder = scratch(&format!("injection-frame-{test}"));
    fs::write(folder.join("bearerd.toml"), text).unwrap();
    fs::write(folder.join("routes.toml"), ROUTES).unwrap();
    check(&folder.join("bearerd.toml"));
    let mut config: toml::Table = text.parse().unwrap();
    config.extend(ROUTES.parse::<toml::Table>().unwrap());
    config
}

/// By default there is one Secret, which has the routes too; without a Secret there is a ConfigMap.
#[test]
#[ignore = "needs go, kubectl and python3"]
fn routes_come_from_the_secret_or_from_a_config_map() {
    let notes = [("secret", ""), ("config", "routes"), ("token-audience", "https://idp.example.com")];
    let pods = [a_pod("apps", "", &[], &Value::Null), a_pod("apps", "", &notes, &Value::Null)];
    let outcomes = create("sources", &pods);
    let sources = |outcome: &Value| volume(&outcome["object"]["spec"], "bearerd-config")["projected"].clone();
    let [first, second] = [sources(&outcomes[0]), sources(&outcomes[1])];
    let field = &first["sources"][0]["downwardAPI"]["items"][0];
    assert_eq!(field["path"], "bearerd.toml");
    assert_eq!(field["fieldRef"]["fieldPath"], "metadata.annotations['bearerd.io/bearerd.toml']");
    // The last of two files of one name is the one that is there: a bearerd.toml of the user's.
    assert_eq!(first["sources"][1], json!({ "secret": { "name": "bearerd" } }));
    assert_eq!(second["sources"][1], json!({ "configMap": { "name": "routes" } }));
    assert_fits_config(&outcomes[0]["object"]["spec"], &frame(&outcomes[0], "sources"));
    let pod = &outcomes[1]["object"]["spec"];
    assert!(volume(pod, "bearerd-secrets").is_null());
    let mounts = bearerd(pod)["volumeMounts"].as_array().unwrap();
    let paths: Vec<&str> = mounts.iter().map(|mount| mount["mountPath"].as_str().unwrap()).collect();
    assert_eq!(paths, ["/etc/bearerd", "/run/secrets/tokens"]);
}

/// Pods that cannot work are refused, and what makes such pods is warned of; each time with what to do.
#[test]
#[ignore = "needs go, kubectl and python3"]
fn what_cannot_work_is_refused_in_words() {
    let none = Value::Null;
    let host = json!({ "hostNetwork": true });
    let cases: [(&[Pair], &Value, &str); 18] = [
        (&[], &host, "cannot be added to a pod with hostNetwork"),
        (&[], &json!({ "os": { "name": "windows" } }), "bearerd's image is for Linux"),
        (&[], &json!({ "nodeSelector": { "kubernetes.io/os": "windows" } }), "bearerd's image is for Linux"),
        (
            &[("port", "80x")],
            &none,
            "bearerd.io/port '80x' and bearerd.io/admin-port '9180' must be two numbers",
        ),
        (&[("admin-port", "70000")], &none, "bearerd.io/admin-port '70000' must be two numbers"),
        (&[("port", "9180")], &none, "must be two numbers"),
        (&[("memory-limit", "lots")], &none, "no amount such as 10m or 32Mi: bearerd.io/memory-limit 'lots'"),
        (&[("port", "1000")], &none, "must be two numbers from 1024 to 65535"),
        (&[("cpu-limit", "-5m")], &none, "no amount such as 10m or 32Mi: bearerd.io/cpu-limit '-5m'"),
        (&[("memory-limit", "16Mi")], &none, "a limit is below its request"),
        (&[("user", "0")], &none, "bearerd.io/user '0' must be the number of a user other than root"),
        (&[("user", "99999999999999999999")], &none, "must be the number of a user other than root"),
        (&[("image", "")], &none, "bearerd.io/image is empty"),
        (&[("ipv6", "yes")], &none, "bearerd.io/ipv6 'yes' must be true or false"),
        (&[("ipv6", "True")], &none, "bearerd.io/ipv6 'True' must be true or false"),
        (&[("user", "root")], &none, "bearerd.io/user 'root' must be the number of a user"),
        (&[("startup", "never")], &none, "bearerd.io/startup 'never' must be token or process"),
        (&[("secret", "")], &none, "bearerd.io/config and bearerd.io/secret are both empty"),
    ];
    let pods = cases.map(|(notes, spec, _)| a_pod("apps", "", notes, spec));
    for (pod, (_, _, wanted)) in create("refused", &pods).iter().zip(cases) {
        let refusal = pod["refusal"].as_str().unwrap();
        assert!(refusal.contains(wanted), "{wanted}: {refusal:?}");
    }
    for kind in ["Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob"] {
        let workloads = pods.clone().map(|pod| as_workload(kind, pod));
        for (workload, (_, _, wanted)) in create(&format!("refused-{kind}"), &workloads).iter().zip(cases) {
            assert_eq!(workload["refusal"], "", "{kind}");
            let warnings = workload["warnings"].to_string();
            assert!(warnings.contains(wanted), "{kind}: {wanted}: {warnings}");
        }
    }
    // Whoever does not ask for bearerd hears nothing of it.
    let others = [a_pod("plain", "", &[], &host), a_pod("apps", "disabled", &[("port", "x")], &host)];
    for outcome in create("unasked", &others) {
        assert_eq!((&outcome["refusal"], &outcome["warnings"]), (&json!(""), &Value::Null));
    }
}

#[test]
#[ignore = "needs go, kubectl and python3"]
fn a_pod_that_asks_never_starts_without_it() {
    // As if somebody had deleted the binding, or the defaults.
    let all = rendered("injection");
    let without = |kind: &str, name: &str| -> String {
        let kept = all.split("\n---\n").filter(|document| {
            !(document.contains(&format!("kind: {kind}\n"))
                && document.contains(&format!("\n  name: {name}\n")))
        });
        kept.collect::<Vec<&str>>().join("\n---\n")
    };
    let pods = [a_pod("apps", "", &[], &Value::Null), a_pod("plain", "", &[], &Value::Null)];
    for (kind, name, wanted) in [
        ("MutatingAdmissionPolicyBinding", "bearerd-inject-namespace", "bearerd-inject did not add it"),
        ("ConfigMap", "bearerd-injection", "no params found for policy binding"),
    ] {
        let outcomes = create_in(&format!("without-{kind}"), &without(kind, name), &pods);
        let refusal = outcomes[0]["refusal"].as_str().unwrap();
        assert!(refusal.contains(wanted), "{kind}: {refusal:?}");
        assert_eq!(outcomes[1]["refusal"], "", "{kind}: a pod that does not ask starts");
    }
}

#[test]
#[ignore = "needs go, kubectl and python3"]
fn what_most_likely_fails_is_warned_of() {
    let port = |port: u16| json!({ "containers": [{ "name": "app", "image": "it", "ports": [{ "containerPort": port }] }] });
    let mut hidden = a_pod("apps", "", &[], &Value::Null);
    hidden["metadata"]["annotations"] = json!({ "traffic.sidecar.istio.io/excludeInboundPorts": "15020" });
    let mut misplaced = as_workload("Deployment", a_pod("plain", "", &[], &Value::Null));
    misplaced["metadata"]["labels"] = json!({ "bearerd.io/inject": "enabled" });
    let cases = [
        (a_pod("apps", "", &[], &port(8080)), "container app uses a port of bearerd (8080 and 9180)"),
        (
            as_workload("Deployment", a_pod("apps", "", &[], &port(9180))),
            "container app uses a port of bearerd",
        ),
        (a_pod("plain", "true", &[], &Value::Null), "must be enabled or disabled, not 'true'"),
        (a_pod("apps", "", &[("prot", "1")], &Value::Null), "nothing reads the annotation bearerd.io/prot"),
        (hidden, "traffic.sidecar.istio.io/excludeInboundPorts lacks port 9180"),
        (misplaced, "put it into the pod template"),
        (a_pod("apps", "", &[], &json!({ "shareProcessNamespace": true })), "shareProcessNamespace"),
        (a_pod("apps", "", &[], &json!({ "hostPID": true })), "hostPID"),
        (a_pod("apps", "", &[], &json!({ "terminationGracePeriodSeconds": 5 })), "is less than 15"),
    ];
    let objects = cases.clone().map(|(object, _)| object);
    for (outcome, (_, wanted)) in create("warned", &objects).iter().zip(cases) {
        assert_eq!(outcome["refusal"], "", "{wanted}");
        let warnings = outcome["warnings"].as_array().unwrap();
        assert_eq!(warnings.len(), 1, "{wanted}: {warnings:?}");
        assert!(warnings[0].as_str().unwrap().contains(wanted), "{wanted}: {warnings:?}");
    }
}

#[test]
#[ignore = "needs go, kubectl and python3"]
fn configs_that_no_pod_can_run_with_are_warned_of() {
    let map = |namespace: &str, file: &str, text: &str| {
        let metadata = json!({ "name": "it", "namespace": namespace });
        json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": { file: text } })
    };
    let literal = ROUTES.replace(r#"{ file = "/run/secrets/bearerd/client-secret" }"#, "\"hunter2\"");
    let quoted = ROUTES.replace(r#""/run/secrets/bearerd/client-secret""#, "'/vault/client-secret'");
    let inline = format!("{ROUTES}\n[issuer.other]\nparams = {{ password = \"x\" }}\n");
    let spaced = ROUTES.replace("[[route]]", "[[ route ]]");
    let elsewhere = ROUTES.replace("/run/secrets/bearerd/", "/vault/");
    let whole = |address: &str| format!("[admin]\naddress = \"{address}\"\n{ROUTES}");
    let cases = [
        (map("apps", "routes.toml", "[issuer.corp]\n"), "there is no [[route]]"),
        (
            map("apps", "routes.toml", &format!("{ROUTES}\n[limits]\n")),
            "routes.toml holds only issuers and routes",
        ),
        (map("apps", "routes.toml", &literal), "refuses a secret that is written into its config"),
        (map("apps", "routes.toml", &elsewhere), "the config has file = \"/vault/client-secret\""),
        (map("apps", "routes.toml", &quoted), "the config has file = '/vault/client-secret'"),
        (map("apps", "routes.toml", &inline), "refuses a secret that is written into its config"),
        (map("apps", "routes.toml", &spaced), ""),
        (map("apps", "bearerd.toml", ROUTES), "bearerd.toml has no [admin] address"),
        (map("apps", "bearerd.toml", &whole("127.0.0.1:9180")), "bearerd.toml has no [admin] address"),
        (map("apps", "bearerd.toml", &whole("[::]:9180")), ""),
        (map("apps", "routes.toml", ROUTES), ""),
        (map("apps", "unrelated.toml", "[limits]"), ""),
        (map("plain", "routes.toml", ""), ""),
    ];
    let objects = cases.clone().map(|(object, _)| object);
    for (outcome, (object, wanted)) in create("configs", &objects).iter().zip(cases) {
        assert_eq!(outcome["refusal"], "");
        let warnings = outcome["warnings"].as_array().cloned().unwrap_or_default();
        assert_eq!(warnings.is_empty(), wanted.is_empty(), "{object}: {warnings:?}");
        assert!(warnings.iter().all(|warning| warning.as_str().unwrap().contains(wanted)), "{warnings:?}");
    }
}

/// The chart has the same policies, and its values are their defaults.
#[test]
#[ignore = "needs kubectl and python3"]
fn the_chart_makes_the_same_policies() {
    let kustomize = documents("injection-kustomize", &rendered("injection"));
    let chart = documents("injection-chart", &helm::rendered("injection"));
    let policies = |all: &[Value]| -> Vec<(String, String)> {
        let policies = all.iter().filter(|document| document["kind"].as_str().unwrap().contains("Admission"));
        let mut named: Vec<(String, String)> = policies
            .map(|document| (document["kind"].to_string(), document["metadata"]["name"].to_string()))
            .collect();
        named.sort();
        named
    };
    assert_eq!(policies(&chart), policies(&kustomize));
    for (kind, name) in policies(&kustomize) {
        let of = |all: &[Value]| find(all, kind.trim_matches('"'), name.trim_matches('"'))["spec"].clone();
        let (mut ours, theirs) = (of(&chart), of(&kustomize));
        if !ours["paramRef"].is_null() {
            assert_eq!(ours["paramRef"]["name"], "it-bearerd-injection");
            assert_eq!(ours["paramRef"]["namespace"], "apps");
            ours["paramRef"] = theirs["paramRef"].clone();
        }
        assert_eq!(ours, theirs, "{kind} {name}");
    }
    let mut defaults = find(&chart, "ConfigMap", "it-bearerd-injection")["data"].clone();
    let wanted = &find(&kustomize, "ConfigMap", "bearerd-injection")["data"];
    assert_eq!(defaults["image"], "registry.example.com/bearerd:0.1.0");
    defaults["image"] = wanted["image"].clone();
    assert_eq!(&defaults, wanted);
    // A release with no routes makes the injection alone.
    let others: Vec<&Value> = chart
        .iter()
        .filter(|document| !document["kind"].as_str().unwrap().contains("Admission"))
        .map(|document| &document["kind"])
        .collect();
    assert_eq!(others, ["ConfigMap", "PodMonitor"]);
    let monitor = chart.iter().find(|document| document["kind"] == "PodMonitor").unwrap();
    assert_eq!(monitor["spec"]["selector"]["matchLabels"], json!({ "bearerd.io/injected": "true" }));
    assert_eq!(monitor["spec"]["namespaceSelector"], json!({ "any": true }));
}

/// Pods of every kind, as Kyverno's own program changes them, and as the API server does.
#[test]
#[ignore = "needs go, kubectl and python3"]
fn kyverno_does_the_same() {
    let cases: [(&str, &str, &[Pair], Value); 11] = [
        ("apps", "", &[], Value::Null),
        ("apps", "disabled", &[], Value::Null),
        ("plain", "", &[], Value::Null),
        ("plain", "enabled", &[], Value::Null),
        ("off", "enabled", &[], Value::Null),
        ("kube-system", "enabled", &[], Value::Null),
        ("apps", "", &[("config", "routes"), ("secret", ""), ("token-audience", "it")], Value::Null),
        (
            "apps",
            "",
            &[("user", ""), ("ipv6", "true"), ("startup", "process"), ("port", "18080")],
            Value::Null,
        ),
        ("apps", "", &[("port", "none")], Value::Null),
        ("apps", "", &[], json!({ "initContainers": [{ "name": "bearerd", "image": "mine:1" }] })),
        (
            "apps",
            "",
            &[],
            json!({ "initContainers": [
                { "name": "istio-proxy", "image": "it", "restartPolicy": "Always" },
                { "name": "migrate", "image": "it" },
            ] }),
        ),
    ];
    let mut pods: Vec<Value> = Vec::new();
    for (namespace, label, notes, spec) in cases {
        let mut pod = a_pod(namespace, label, notes, &spec);
        pod["metadata"]["name"] = format!("pod-{}", pods.len()).into();
        pods.push(pod);
    }
    let theirs = by_kyverno(&pods);
    for (outcome, mut theirs) in create("kyverno", &pods).into_iter().zip(theirs) {
        let mut ours = outcome["object"].clone();
        without_empty(&mut ours);
        without_empty(&mut theirs);
        assert_eq!(ours, theirs);
    }
}

/// Each as it is afterwards.
fn by_kyverno(pods: &[Value]) -> Vec<Value> {
    let folder = scratch("injection-kyverno");
    let write = |name: &str, text: String| {
        let file = folder.join(name);
        fs::write(&file, text).unwrap();
        file
    };
    let cli = |kind: &str| json!({ "apiVersion": "cli.kyverno.io/v1alpha1", "kind": kind });
    let mut values = cli("Values");
    values["namespaceSelector"] = documents("injection-namespaces", &namespaces())
        .iter()
        .map(|it| json!({ "name": it["metadata"]["name"], "labels": it["metadata"]["labels"] }))
        .collect();
    let mut context = cli("Context");
    context["metadata"] = json!({ "name": "it" });
    context["spec"]["resources"] =
        documents("injection-defaults", &read("deploy/kubernetes/injection/defaults.yaml")).into();
    let changed = folder.join("changed/");
    fs::create_dir(&changed).unwrap();
    let pods: Vec<String> = pods.iter().map(Value::to_string).collect();
    succeed(
        Command::new(packages::kyverno())
            .arg("apply")
            .arg(root().join("deploy/kubernetes/injection-kyverno/policy.yaml"))
            .arg("--resource")
            .arg(write("pods.yaml", pods.join("\n---\n")))
            .arg("--values-file")
            .arg(write("values.yaml", values.to_string()))
            .arg("--context-file")
            .arg(write("context.yaml", context.to_string()))
            .arg("--output")
            .arg(format!("{}/", changed.display())),
    );
    (0..pods.len())
        .map(|number| {
            let file = changed.join(format!("pod-{number}-mutated.yaml"));
            // It applies the policy twice, and writes both results.
            documents("injection-changed", &fs::read_to_string(file).unwrap()).remove(0)
        })
        .collect()
}

/// One text for both, but for where the defaults come from.
#[test]
#[ignore = "needs kubectl and python3"]
fn kyvernos_policy_is_the_same_text() {
    let kyverno = documents("injection-kyverno-all", &rendered("injection-kyverno"));
    assert!(!kyverno.iter().any(|it| it["kind"].as_str().unwrap().starts_with("MutatingAdmission")));
    find(&kyverno, "ValidatingAdmissionPolicy", "bearerd-refuse");
    let theirs = &find(&kyverno, "MutatingPolicy", "bearerd-inject")["spec"];
    let all = documents("injection-native", &rendered("injection"));
    let ours = &find(&all, "MutatingAdmissionPolicy", "bearerd-inject")["spec"];
    assert_eq!(theirs["mutations"], ours["mutations"]);
    assert_eq!(
        theirs["matchConditions"].as_array().unwrap()[1..],
        ours["matchConditions"].as_array().unwrap()[..]
    );
    let text = theirs["variables"].as_array().unwrap()[1..].to_vec();
    let text = Value::from(text).to_string().replace("dyn(variables.defaults.data)", "params.data");
    assert_eq!(text, ours["variables"].to_string());
    // Else it would change the templates of Deployments and Jobs.
    assert_eq!(theirs["autogen"]["podControllers"]["controllers"], json!([]));
}
