//! The CA of a forward listener: the bundles that programs trust, `bearerd ca`, and what `check` says of an own one.

use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, KeyPair,
    NameConstraints,
};
use rustix::process::Signal;

use crate::support::{RawRequest, Setup, cli, eventually, within};

const HOST: &str = "api.example.com";

async fn forward(keys: &str) -> Setup {
    let listener = format!("serve = \"forward\"\nforward = {{ {keys} }}");
    Setup::new().await.listener(&listener).route(&format!("host = \"{HOST}\""))
}

/// The certificates of a PEM file.
fn certificates(pem: &str) -> Vec<&str> {
    pem.split_inclusive("-----END CERTIFICATE-----\n").collect()
}

fn read(folder: &Path, name: &str) -> String {
    std::fs::read_to_string(folder.join(name)).unwrap_or_default()
}

fn ca_of(status: &serde_json::Value) -> &serde_json::Value {
    &status["listeners"][0]["ca"]
}

#[tokio::test]
async fn a_bundle_is_there_before_the_listener_and_has_the_roots_of_the_system() {
    let world = forward("ca_bundle = \"ca.pem\"").await.start().await;
    let bundle = read(world.folder(), "ca.pem");
    let status = world.status().await;
    let ca = ca_of(&status);
    assert!(bundle.starts_with(ca["certificates"].as_str().unwrap()), "{ca}");
    let roots = rustls_native_certs::load_native_certs().certs.len();
    assert_eq!(certificates(&bundle).len(), 1 + roots);
    assert_eq!(ca["bundle_problem"], serde_json::Value::Null);
    for name in ["ca.p12", "ca.jks"] {
        assert!(std::fs::metadata(world.folder().join(name)).unwrap().len() > 500, "{name}");
    }
    let text = format!("{status}{bundle}{}", world.log().text());
    assert!(!text.contains("PRIVATE KEY"), "the key is nowhere");
}

#[tokio::test]
async fn run_refuses_to_start_without_its_bundle() {
    let setup = forward("ca_bundle = \"nowhere/ca.pem\"").await;
    setup.write();
    let output = cli::run(setup.folder(), &["run"]).await;
    output.expect_code(1);
    assert!(
        output.stderr.contains("nowhere of `forward.ca_bundle` does not exist; make it"),
        "{}",
        output.stderr
    );
    assert!(output.stderr.contains("listener.main"), "{}", output.stderr);
}

#[tokio::test]
async fn a_reload_keeps_the_ca_while_it_permits_the_hosts_and_adds_another_if_not() {
    let mut world = forward("ca_bundle = \"ca.pem\"").await.start().await;
    let before = read(world.folder(), "ca.pem");
    let own = |bundle: &str| {
        let found = certificates(bundle).into_iter().take(2).map(str::to_owned);
        found.collect::<Vec<_>>()
    };
    let first = own(&before).remove(0);
    world.change(|text| text.replace(HOST, &format!("v2.{HOST}")));
    world.reload().await;
    assert_eq!(ca_of(&world.status().await)["certificates"], *first, "a name below the old one");

    world.change(|text| text.replace(&format!("v2.{HOST}"), "other.example"));
    world.reload().await;
    let bundle = eventually("the bundle with both", || async {
        let bundle = read(world.folder(), "ca.pem");
        (certificates(&bundle).len() == certificates(&before).len() + 1).then_some(bundle)
    })
    .await;
    assert_eq!(own(&bundle)[0], first, "programs that run know only the old one");
    // The bundle is there first, so that no program meets a certificate that it cannot know.
    eventually("both in /status", || async {
        (ca_of(&world.status().await)["certificates"] == own(&bundle).concat()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_bundle_that_cannot_be_written_is_reported_and_tried_again() {
    let setup = forward("ca_bundle = \"there/ca.pem\"").await;
    std::fs::create_dir(setup.folder().join("there")).unwrap();
    let mut world = setup.start().await;
    std::fs::remove_dir_all(world.folder().join("there")).unwrap();
    world.change(|text| text.replace(HOST, "other.example"));
    world.reload().await;
    let problem = eventually("the problem in /status", || async {
        ca_of(&world.status().await)["bundle_problem"].as_str().map(str::to_owned)
    })
    .await;
    assert!(problem.contains("`forward.ca_bundle` does not exist"), "{problem}");
    let ready = world.admin("/readyz").await;
    assert_eq!(ready.status, 200, "running programs go on");
    assert!(ready.text().contains("[!] CA of listener main: the folder"), "{}", ready.text());
    world.log().wait("the failure", |line| line.contains("ca.bundle_failed")).await;
    std::fs::create_dir(world.folder().join("there")).unwrap();
    world.change(|text| text.replace("other.example", "third.example"));
    world.reload().await;
    eventually("the bundle", || async { (!read(world.folder(), "there/ca.pem").is_empty()).then_some(()) })
        .await;
    eventually("no problem", || async {
        ca_of(&world.status().await)["bundle_problem"].is_null().then_some(())
    })
    .await;
}

/// A CA of one's own, in this folder; `change` makes it another.
fn own_ca(folder: &Path, change: impl FnOnce(&mut CertificateParams)) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "Corp CA");
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    std::fs::write(folder.join("own.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
    std::fs::write(folder.join("own.key"), key.serialize_pem()).unwrap();
}

const OWN: &str = "ca = { certificate = { file = \"own.pem\" }, private_key = { file = \"own.key\" } }";

#[tokio::test]
async fn check_reports_what_is_wrong_with_an_own_ca() {
    type Change = fn(&mut CertificateParams);
    let rows: [(Change, i32, &str); 6] = [
        (|_| (), 0, "ok: 1 listener"),
        (|params| params.is_ca = IsCa::NoCa, 78, "it is no CA certificate"),
        (
            |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth],
            78,
            "its extendedKeyUsage lacks serverAuth",
        ),
        (
            |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth],
            0,
            "ok: 1 listener",
        ),
        (
            |params| {
                params.name_constraints = Some(NameConstraints {
                    permitted_subtrees: vec![GeneralSubtree::DnsName("other.example".to_owned())],
                    excluded_subtrees: Vec::new(),
                });
            },
            78,
            "its name constraints do not permit api.example.com",
        ),
        (
            |params| {
                params.not_before = rcgen::date_time_ymd(2020, 1, 1);
                params.not_after = rcgen::date_time_ymd(2021, 1, 1);
            },
            0,
            "expired on 2021-01-01",
        ),
    ];
    for (change, code, expected) in rows {
        let setup = forward(OWN).await;
        own_ca(setup.folder(), change);
        setup.write();
        let output = cli::run(setup.folder(), &["check"]).await;
        output.expect_code(code);
        assert!(output.all().contains(expected), "{expected}: {}", output.all());
    }
}

#[tokio::test]
#[ignore = "needs openssl"]
async fn an_own_ca_whose_key_is_for_rsa_pss_alone_is_refused() {
    let setup = forward(OWN).await;
    let make = "openssl req -x509 -newkey rsa-pss -pkeyopt rsa_keygen_bits:2048 -nodes -keyout own.key -out own.pem \
                -subj /CN=own -addext basicConstraints=critical,CA:TRUE && chmod 600 own.key";
    let made = tokio::process::Command::new("sh").args(["-c", make]).current_dir(setup.folder()).output();
    let made = within("openssl", made).await.unwrap();
    assert!(made.status.success(), "this test needs openssl: install it: {made:?}");
    setup.write();
    let output = cli::run(setup.folder(), &["check"]).await;
    output.expect_code(78);
    assert!(output.all().contains("its key is for RSA-PSS alone"), "{}", output.all());
}

#[tokio::test]
async fn an_own_ca_is_read_again_and_waited_for() {
    let setup = forward(&format!("ca_bundle = \"ca.pem\", {OWN}")).await;
    let world = setup.start().await;
    assert!(world.status().await["listeners"][0]["ca"].is_null(), "its files are missing");
    let ready = world.admin("/readyz").await;
    assert!(ready.status == 503 && ready.text().contains("own.pem"), "{}", ready.text());
    // It is no fault of bearerd, and says which file is missing.
    let host = format!("{HOST}:443");
    let response = world.exchange(RawRequest::new("CONNECT", &host).host(&host)).await;
    assert_eq!((response.status, response.code().as_deref()), (502, Some("upstream_unreachable")));
    let status = response.header("proxy-status").unwrap_or_default();
    assert!(status.contains("error=proxy_configuration_error"), "{status}");
    let detail = response.json()["detail"].clone();
    for words in ["own.pem", HOST, "see forward.ca of [listener.main]"] {
        assert!(detail.as_str().unwrap().contains(words), "{words}: {detail}");
    }
    let line = |line: &str| line.contains("CONNECT") && line.contains(&host) && line.contains("own.pem");
    world.log().wait("the access line", line).await;
    own_ca(world.folder(), |_| ());
    world.signal(Signal::HUP);
    eventually("the CA", || async { (!ca_of(&world.status().await).is_null()).then_some(()) }).await;
    eventually("its bundle", || async {
        read(world.folder(), "ca.pem").contains(&read(world.folder(), "own.pem")).then_some(())
    })
    .await;
    let first = ca_of(&world.status().await)["fingerprint"].clone();
    own_ca(world.folder(), |_| ());
    world.signal(Signal::HUP);
    eventually("the next CA", || async {
        (ca_of(&world.status().await)["fingerprint"] != first).then_some(())
    })
    .await;
}

#[tokio::test]
async fn ca_prints_the_ephemeral_one_of_the_running_program() {
    let admin = crate::support::nobody();
    let setup = forward("ca_bundle = \"ca.pem\"").await.admin(&format!("address = \"{admin}\""));
    setup.write();
    let output = cli::run(setup.folder(), &["ca"]).await;
    output.expect_code(1);
    assert!(output.stderr.contains("is ephemeral: only the running bearerd has it"), "{}", output.stderr);
    let world = setup.start().await;
    let output = cli::run(world.folder(), &["ca"]).await;
    output.expect_code(0);
    assert!(
        read(world.folder(), "ca.pem").starts_with(&output.stdout),
        "only PEM on stdout: {}",
        output.stdout
    );
    for wanted in ["SSL_CERT_FILE=", "ca.p12", "update-ca-certificates", "fingerprint"] {
        assert!(output.stderr.contains(wanted), "{wanted}: {}", output.stderr);
    }
    let json = cli::run(world.folder(), &["ca", "main", "--output", "json"]).await.json();
    assert_eq!(json["certificates"], *output.stdout);
    assert_eq!((&json["ephemeral"], &json["listener"]), (&true.into(), &"main".into()));
    let output = cli::run(world.folder(), &["ca", "mian"]).await;
    output.expect_code(64);
    assert!(output.stderr.contains("did you mean `main`?"), "{}", output.stderr);
}

#[tokio::test]
async fn ca_prints_an_own_one_from_the_config() {
    let setup = forward(OWN).await;
    own_ca(setup.folder(), |_| ());
    setup.write();
    let output = cli::run(setup.folder(), &["ca"]).await;
    output.expect_code(0);
    assert_eq!(output.stdout, read(setup.folder(), "own.pem"));
    let setup = Setup::new().await;
    setup.write();
    let output = cli::run(setup.folder(), &["ca"]).await;
    output.expect_code(64);
    assert!(output.stderr.contains("the config has no forward listener"), "{}", output.stderr);
}

#[tokio::test]
#[ignore = "needs keytool"]
async fn java_reads_the_bundles() {
    let world = forward("ca_bundle = \"ca.pem\"").await.start().await;
    let roots = certificates(&read(world.folder(), "ca.pem")).len();
    for (kind, file) in [("PKCS12", "ca.p12"), ("JKS", "ca.jks")] {
        let output = tokio::process::Command::new("keytool")
            .args(["-list", "-storetype", kind, "-storepass", "changeit", "-keystore", file])
            .current_dir(world.folder())
            .output()
            .await
            .expect("this test needs keytool: install openjdk-17-jdk-headless");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(said.matches("trustedCertEntry").count(), roots, "{kind}: {said}");
    }
}
