//! `deploy/kubernetes`: rendered by kustomize, validated offline, and compared with the config and with itself.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::manifests::{
    assert_fits_config, assert_harmless, assert_labels_have_a_domain, assert_restricted, assert_valid,
    bearerd, checked_config, documents, files_named, find, pod, read, scratch, seconds_to_end, validate,
    workloads,
};
use super::packages::kubectl;
use super::tools::{root, succeed};

const FOLDERS: [&str; 16] = [
    "base",
    "overlays/azure",
    "overlays/dual-stack",
    "overlays/eks",
    "overlays/existing",
    "overlays/exec-probes",
    "overlays/external-secrets",
    "overlays/gke",
    "overlays/job",
    "overlays/monitoring",
    "overlays/mtls",
    "overlays/network-policy",
    "overlays/private-ca",
    "overlays/shared-tokens",
    "overlays/spiffe",
    "overlays/workload-identity",
];

pub fn rendered(folder: &str) -> String {
    let folder = root().join("deploy/kubernetes").join(folder);
    let output = succeed(Command::new(kubectl()).arg("kustomize").arg(folder));
    String::from_utf8(output.stdout).unwrap()
}

fn rendered_documents(test: &str, folder: &str) -> Vec<Value> {
    documents(&format!("{test}-{}", folder.replace('/', "-")), &rendered(folder))
}

#[test]
#[ignore = "needs kubectl and python3"]
fn every_folder_renders_to_manifests_that_fit_the_schemas() {
    assert_valid("kubernetes", &FOLDERS.map(rendered).join("\n---\n"));
    let overlays = fs::read_dir(root().join("deploy/kubernetes/overlays")).unwrap().count();
    assert_eq!(overlays, FOLDERS.len() - 1, "an overlay is not tested");
}

#[test]
#[ignore = "needs kubectl and python3"]
fn a_mistyped_key_is_refused_with_its_name() {
    let good = rendered("base");
    for (right, wrong) in
        [("restartPolicy:", "restartPolicyy:"), ("failureThreshold: 600", "failureThreshold: many")]
    {
        assert!(good.contains(right));
        let output = validate("mistyped", &good.replacen(right, wrong, 1), "1.33");
        assert!(!output.status.success(), "{wrong} was taken");
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(wrong.split(": ").last().unwrap().trim_end_matches(':')), "{said}");
    }
}

#[test]
#[ignore = "needs kubectl and python3"]
fn bearerd_is_a_native_sidecar_without_privileges_that_fits_its_config() {
    for folder in FOLDERS {
        let documents = rendered_documents("sidecar", folder);
        let name = format!("kubernetes-{}", folder.replace('/', "-"));
        let config = checked_config(&name, find(&documents, "ConfigMap", "bearerd"));
        let mut found = 0;
        for workload in workloads(&documents) {
            found += 1;
            let pod = pod(workload);
            let first = &pod["initContainers"][0];
            assert_eq!(first["name"], "bearerd", "{folder}: others may want to call through it");
            assert_eq!(first["restartPolicy"], "Always", "{folder}");
            assert_eq!(first["image"], format!("bearerd:{}", env!("CARGO_PKG_VERSION")));
            assert_harmless(bearerd(pod));
            assert_fits_config(pod, &config);
            let grace = pod["terminationGracePeriodSeconds"].as_u64().unwrap_or(30);
            assert!(grace > seconds_to_end(&config), "{folder}: killed after {grace} s");
            assert_secrets_are_its_own(pod);
        }
        assert!(found > 0, "{folder}: nobody has bearerd");
        let listens = config["listener"]["main"]["address"].as_str().unwrap();
        assert!(listens.starts_with("127.0.0.1:"), "{folder}: {listens} is open to other pods");
    }
}

/// Whole pods, so that they start in a namespace that enforces it; `existing` has somebody else's.
#[test]
#[ignore = "needs kubectl and python3"]
fn each_pod_meets_pod_securitys_restricted() {
    for folder in FOLDERS.into_iter().filter(|folder| *folder != "overlays/existing") {
        let documents = rendered_documents("restricted", folder);
        for workload in workloads(&documents) {
            assert_restricted(pod(workload));
        }
        assert_labels_have_a_domain(&documents);
    }
}

/// Two listeners for the application, one of each family, and an admin address for both.
#[test]
#[ignore = "needs kubectl and python3"]
fn dual_stack_pods_are_reached_over_both_families() {
    let documents = rendered_documents("dual", "overlays/dual-stack");
    let config = checked_config("dual", find(&documents, "ConfigMap", "bearerd"));
    assert_eq!(config["admin"]["address"].as_str(), Some("[::]:9180"));
    let listeners = config["listener"].as_table().unwrap().values();
    let addresses: Vec<&str> = listeners.map(|listener| listener["address"].as_str().unwrap()).collect();
    assert_eq!(addresses, ["127.0.0.1:8080", "[::1]:8080"]);
}

/// What bearerd mounts, no other container does.
fn assert_secrets_are_its_own(pod: &Value) {
    let others = ["initContainers", "containers"]
        .into_iter()
        .flat_map(|list| pod[list].as_array().into_iter().flatten());
    for container in others.filter(|container| container["name"] != "bearerd") {
        for mount in container["volumeMounts"].as_array().into_iter().flatten() {
            let name = mount["name"].as_str().unwrap();
            assert!(!name.starts_with("bearerd-"), "{} mounts {name}", container["name"]);
        }
    }
}

#[test]
#[ignore = "needs kubectl and python3"]
fn the_config_keeps_its_name_so_that_pods_stay_when_it_changes() {
    for folder in FOLDERS {
        let documents = rendered_documents("name", folder);
        for workload in workloads(&documents) {
            let volumes = pod(workload)["volumes"].as_array().unwrap();
            let config = volumes.iter().find(|volume| volume["name"] == "bearerd-config").unwrap();
            assert_eq!(config["configMap"]["name"], "bearerd", "{folder}");
        }
    }
}

#[test]
#[ignore = "needs kubectl and python3"]
fn the_component_keeps_all_that_was_there() {
    let theirs = documents("theirs", &read("deploy/kubernetes/overlays/existing/theirs.yaml"));
    let mut rendered = rendered_documents("theirs", "overlays/existing");
    assert_eq!(
        find(&rendered, "Deployment", "ledger-ui"),
        find(&theirs, "Deployment", "ledger-ui"),
        "it has no label"
    );
    let ledger = rendered.iter_mut().find(|document| document["kind"] == "StatefulSet").unwrap();
    let labels = ledger["metadata"]["labels"].as_object_mut().unwrap();
    assert_eq!(labels.remove("bearerd.io/sidecar").unwrap(), "enabled");
    without(&mut ledger["spec"]["template"]["spec"]["initContainers"], &["bearerd"]);
    without(&mut ledger["spec"]["template"]["spec"]["volumes"], &["bearerd-config", "bearerd-secrets"]);
    assert_eq!(ledger, find(&theirs, "StatefulSet", "ledger"));
}

/// Takes these out of a list, where they must be.
fn without(list: &mut Value, names: &[&str]) {
    let list = list.as_array_mut().unwrap();
    for name in names {
        let at = list.iter().position(|item| item["name"] == *name).unwrap_or_else(|| panic!("no {name}"));
        list.remove(at);
    }
}

#[test]
#[ignore = "needs kubectl and python3"]
fn the_patch_without_kustomize_does_the_same() {
    let component = &documents("workload", &read("deploy/kubernetes/sidecar/workload.yaml"))[0];
    let cron_job = &documents("cronjob", &read("deploy/kubernetes/sidecar/cronjob.yaml"))[0];
    let patch = &documents("patch", &read("deploy/kubernetes/patch.yaml"))[0];
    assert_eq!(patch["spec"], component["spec"]);
    assert_eq!(cron_job["spec"]["jobTemplate"]["spec"], component["spec"]);

    let theirs = scratch("patched").join("theirs.yaml");
    let all = read("deploy/kubernetes/overlays/existing/theirs.yaml");
    fs::write(&theirs, all.split("\n---\n").next().unwrap()).unwrap();
    let patched = patched(&theirs, "deploy/kubernetes/patch.yaml");
    assert_valid("patched", &patched);
    let patched = &documents("patched", &patched)[0];
    let rendered = rendered_documents("patched", "overlays/existing");
    let rendered = find(&rendered, "StatefulSet", "ledger");
    assert_eq!(bearerd(pod(patched)), bearerd(pod(rendered)));
    assert_eq!(sorted(&pod(patched)["volumes"]), sorted(&pod(rendered)["volumes"]));
    assert_eq!(pod(patched)["initContainers"][0]["name"], "bearerd");
    assert_eq!(pod(patched)["containers"], pod(rendered)["containers"]);
}

#[test]
#[ignore = "needs kubectl and python3"]
fn the_patch_is_taken_off_again_without_a_trace() {
    let folder = scratch("removed");
    let theirs = folder.join("theirs.yaml");
    let all = read("deploy/kubernetes/overlays/existing/theirs.yaml");
    fs::write(&theirs, all.split("\n---\n").next().unwrap()).unwrap();
    let file = folder.join("patched.yaml");
    fs::write(&file, patched(&theirs, "deploy/kubernetes/patch.yaml")).unwrap();
    let removed = patched(&file, "deploy/kubernetes/remove.yaml");
    let theirs = fs::read_to_string(theirs).unwrap();
    assert_eq!(documents("removed", &removed), documents("theirs-removed", &theirs));
}

/// The manifest in `file` with a patch of this repository, as kubectl makes it.
fn patched(file: &Path, patch: &str) -> String {
    let output = succeed(
        Command::new(kubectl())
            .args(["patch", "--local", "--type", "strategic", "--output", "yaml", "--patch-file"])
            .arg(root().join(patch))
            .arg("--filename")
            .arg(file)
            .env("KUBECONFIG", "/dev/null"),
    );
    String::from_utf8(output.stdout).unwrap()
}

/// `kubectl debug --custom` makes a container of it that a restricted pod with bearerd takes.
#[test]
#[ignore = "needs kubectl and python3"]
fn the_debug_container_starts_in_a_restricted_pod() {
    let mut container = documents("debug", &read("deploy/kubernetes/debug.yaml")).remove(0);
    let base = rendered_documents("debug", "base");
    let mut pod = pod(find(&base, "Deployment", "legacy-billing")).clone();
    assert_eq!(container["securityContext"]["runAsUser"], bearerd(&pod)["securityContext"]["runAsUser"]);
    container["name"] = json!("debugger");
    container["image"] = json!("busybox:1.37");
    pod["containers"].as_array_mut().unwrap().push(container);
    assert_restricted(&pod);
}

fn sorted(list: &Value) -> Vec<&Value> {
    let mut items: Vec<&Value> = list.as_array().unwrap().iter().collect();
    items.sort_by_key(|item| item["name"].as_str().unwrap());
    items
}

#[test]
#[ignore = "needs kubectl and python3"]
fn a_job_waits_for_its_own_containers_alone() {
    let documents = rendered_documents("job", "overlays/job");
    for (kind, name) in [("Job", "invoices-import"), ("CronJob", "invoices-nightly")] {
        let pod = pod(find(&documents, kind, name));
        let names: Vec<&Value> = pod["containers"].as_array().unwrap().iter().map(|it| &it["name"]).collect();
        assert_eq!(names, ["import"], "a regular container would keep the pod from completing");
        assert_eq!(bearerd(pod)["restartPolicy"], "Always");
    }
}

/// Any issuer, Entra ID, one that trusts EKS, Google's token service: the token has the audience that it wants, and is all there is.
#[test]
#[ignore = "needs kubectl and python3"]
fn a_pods_own_identity_takes_the_place_of_the_secret() {
    for (overlay, audience) in [
        ("workload-identity", "https://idp.example.com"),
        ("azure", "api://AzureADTokenExchange"),
        ("eks", "https://idp.example.com"),
        ("gke", "PROJECT.svc.id.goog"),
    ] {
        let documents = rendered_documents("identity", &format!("overlays/{overlay}"));
        let pod = pod(find(&documents, "Deployment", "legacy-billing"));
        let volumes = pod["volumes"].as_array().unwrap();
        let volume = volumes.iter().find(|it| it["name"] == "bearerd-secrets").unwrap();
        let sources = volume["projected"]["sources"].as_array().unwrap();
        assert_eq!(sources.len(), 1, "{overlay}: the Secret is gone: {sources:?}");
        let token = &sources[0]["serviceAccountToken"];
        assert_eq!(token["audience"], audience, "{overlay}");
        assert!(token["expirationSeconds"].as_u64().unwrap() >= 600, "the API server takes no less");
        let name = format!("identity-{overlay}");
        let config = checked_config(&name, find(&documents, "ConfigMap", "bearerd"));
        let file = format!("/run/secrets/bearerd/{}", token["path"].as_str().unwrap());
        assert_eq!(files_named(&toml::Value::Table(config.clone())), [file], "{overlay}");
        let issuer = config["issuer"].as_table().unwrap().values().next().unwrap();
        match overlay {
            "workload-identity" | "eks" => assert_eq!(issuer["issuer_url"].as_str(), Some(audience)),
            "azure" => assert_eq!(issuer["preset"].as_str(), Some("entra-federated")),
            _ => {
                let exchanged = issuer["params"]["audience"].as_str().unwrap();
                assert!(exchanged.starts_with(&format!("identitynamespace:{audience}:")), "{exchanged}");
            }
        }
        let account = find(&documents, "ServiceAccount", pod["serviceAccountName"].as_str().unwrap());
        assert_eq!(account["automountServiceAccountToken"], json!(false));
        assert_eq!(pod["automountServiceAccountToken"], json!(false));
    }
}

/// SPIRE's agent issues the identity, and the CSI driver mounts its socket where the config says.
#[test]
#[ignore = "needs kubectl and python3"]
fn the_socket_of_spires_agent_takes_the_place_of_the_secret() {
    let documents = rendered_documents("spiffe", "overlays/spiffe");
    let pod = pod(find(&documents, "Deployment", "legacy-billing"));
    let volume =
        pod["volumes"].as_array().unwrap().iter().find(|it| it["name"] == "bearerd-secrets").unwrap();
    let expected =
        json!({ "name": "bearerd-secrets", "csi": { "driver": "csi.spiffe.io", "readOnly": true } });
    assert_eq!(*volume, expected);
    assert_restricted(pod);
    let config = checked_config("spiffe", find(&documents, "ConfigMap", "bearerd"));
    let svid = &config["issuer"]["corp"]["assertion"]["spiffe"];
    let mounts = bearerd(pod)["volumeMounts"].as_array().unwrap();
    let mount = mounts.iter().find(|it| it["name"] == "bearerd-secrets").unwrap();
    let folder = mount["mountPath"].as_str().unwrap();
    assert_eq!(svid["socket"].as_str(), Some(format!("unix:{folder}/spire-agent.sock").as_str()));
    assert_eq!(svid["audience"], config["issuer"]["corp"]["issuer_url"]);
    // The entry is for the sidecar alone.
    let entry = find(&documents, "ClusterSPIFFEID", "legacy-billing");
    let container = bearerd(pod)["name"].as_str().unwrap();
    assert_eq!(
        entry["spec"]["workloadSelectorTemplates"],
        json!([format!("k8s:container-name:{container}")])
    );
}

/// What operators write is where the sidecar reads it.
#[test]
#[ignore = "needs kubectl and python3"]
fn operators_fill_the_secret_that_is_mounted() {
    for (overlay, kind, place, keys) in [
        ("mtls", "Certificate", "/spec/secretName", ["tls.crt", "tls.key"].as_slice()),
        ("external-secrets", "ExternalSecret", "/spec/target/name", &["client-secret"]),
    ] {
        let documents = rendered_documents("operators", &format!("overlays/{overlay}"));
        let made = find(&documents, kind, "bearerd").pointer(place).unwrap();
        let pod = pod(find(&documents, "Deployment", "legacy-billing"));
        let volumes = pod["volumes"].as_array().unwrap();
        let volume = volumes.iter().find(|it| it["name"] == "bearerd-secrets").unwrap();
        assert_eq!(volume["projected"]["sources"][0]["secret"]["name"], *made, "{overlay}");
        let name = format!("operators-{overlay}");
        let config = checked_config(&name, find(&documents, "ConfigMap", "bearerd"));
        for file in files_named(&toml::Value::Table(config)) {
            let key = file.strip_prefix("/run/secrets/bearerd/").unwrap();
            assert!(keys.contains(&key), "{overlay}: nothing writes {file}");
        }
    }
}

/// It selects the pods, asks the port that they have, and requests the job what the alerts call it.
#[test]
#[ignore = "needs kubectl and python3"]
fn a_pod_monitor_finds_the_pods() {
    let documents = rendered_documents("monitoring", "overlays/monitoring");
    let monitor = &find(&documents, "PodMonitor", "bearerd")["spec"];
    let template = &find(&documents, "Deployment", "legacy-billing")["spec"]["template"];
    assert_eq!(monitor["selector"]["matchLabels"], template["metadata"]["labels"]);
    let endpoint = &monitor["podMetricsEndpoints"][0];
    assert_eq!(endpoint["port"], bearerd(&template["spec"])["ports"][0]["name"]);
    assert_eq!(endpoint["relabelings"], json!([{ "targetLabel": "job", "replacement": "bearerd" }]));
    assert!(read("deploy/monitoring/alerts.yaml").contains("up{job=~\"(.*/)?bearerd\"}"));
    assert!(find(&documents, "PrometheusRule", "bearerd")["spec"]["groups"].is_array());
}

#[test]
#[ignore = "needs kubectl and python3"]
fn a_network_policy_leaves_what_the_pod_needs() {
    let documents = rendered_documents("policy", "overlays/network-policy");
    let policy = &find(&documents, "NetworkPolicy", "legacy-billing")["spec"];
    let deployment = find(&documents, "Deployment", "legacy-billing");
    assert_eq!(policy["podSelector"]["matchLabels"], deployment["spec"]["selector"]["matchLabels"]);
    let ports = |rules: &Value| -> Vec<u64> {
        let rules = rules.as_array().unwrap().iter();
        rules
            .flat_map(|rule| rule["ports"].as_array().unwrap())
            .map(|port| port["port"].as_u64().unwrap())
            .collect()
    };
    let app = &pod(deployment)["containers"][0]["ports"][0]["containerPort"];
    let admin = &bearerd(pod(deployment))["ports"][0]["containerPort"];
    assert_eq!(ports(&policy["ingress"]), [app.as_u64().unwrap(), admin.as_u64().unwrap()]);
    assert_eq!(ports(&policy["egress"]), [53, 53, 443]);
}

/// The config leads to the server that is there, which never has the key, and only the application may connect.
#[test]
#[ignore = "needs kubectl and python3"]
fn pods_that_share_tokens_find_the_store() {
    let documents = rendered_documents("store", "overlays/shared-tokens");
    let config = checked_config("store", find(&documents, "ConfigMap", "bearerd"));
    let store = &config["store"];
    let service = find(&documents, "Service", "valkey");
    let port = service["spec"]["ports"][0]["port"].as_u64().unwrap();
    assert_eq!(store["url"].as_str(), Some(format!("redis://valkey:{port}").as_str()));
    let server = find(&documents, "Deployment", "valkey");
    let labels = &server["spec"]["template"]["metadata"]["labels"];
    assert_eq!(service["spec"]["selector"], *labels);
    assert_restricted(pod(server));
    let container = &pod(server)["containers"][0];
    let named = container["ports"].as_array().unwrap().iter().find(|port| port["name"] == "redis").unwrap();
    assert_eq!(named["containerPort"], port);
    let policy: Vec<&str> = container["args"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(policy.windows(2).any(|pair| pair == ["--maxmemory-policy", "noeviction"]), "{policy:?}");

    assert_eq!(store["keys"][0]["file"].as_str(), Some("/run/secrets/bearerd/store.key"));
    assert!(pod(server)["volumes"].as_array().unwrap().iter().all(|volume| volume.get("emptyDir").is_some()));
    assert!(container.get("env").is_none() && container.get("envFrom").is_none(), "{container}");

    let policy = &find(&documents, "NetworkPolicy", "valkey")["spec"];
    assert_eq!(policy["podSelector"]["matchLabels"], *labels);
    let from = &policy["ingress"][0]["from"][0]["podSelector"]["matchLabels"];
    let application = find(&documents, "Deployment", "legacy-billing");
    assert_eq!(*from, application["spec"]["selector"]["matchLabels"]);
    assert_eq!(policy["ingress"][0]["ports"][0]["port"], port);
}
