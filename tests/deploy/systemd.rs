//! The units, by systemd's own checker.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::tools::{installed, root, succeed};

/// Of 10, as `systemd-analyze security` counts: the worst that the unit may be, and what the page promises.
const EXPOSURE: &str = "1.1";

fn unit(name: &str) -> String {
    fs::read_to_string(root().join("deploy/systemd").join(name)).unwrap()
}

/// With the program where it was built: the checker wants it to be there.
fn runnable(unit: &str) -> String {
    unit.replace("/usr/bin/bearerd", env!("CARGO_BIN_EXE_bearerd"))
}

/// Says nothing at all where nothing is wrong: an unknown key is only a warning.
fn verified(folder: &Path, units: &[&str]) {
    let mut command = Command::new(installed("systemd-analyze", "systemd"));
    command.args(["verify", "--man=no", "--recursive-errors=no"]);
    command.env("SYSTEMD_UNIT_PATH", format!("{}:", folder.display()));
    let output = succeed(command.args(units.iter().map(|unit| folder.join(unit))));
    let said = String::from_utf8_lossy(&output.stderr);
    let ours = said.lines().filter(|line| line.contains("bearerd") || line.contains("app")).count();
    assert_eq!(ours, 0, "{said}");
}

#[test]
#[ignore = "needs systemd-analyze"]
fn units_are_right() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["bearerd.service", "bearerd.socket"] {
        fs::write(folder.path().join(name), runnable(&unit(name))).unwrap();
    }
    verified(folder.path(), &["bearerd.service", "bearerd.socket"]);
}

#[test]
#[should_panic(expected = "Watchdogsec")]
#[ignore = "needs systemd-analyze"]
fn an_error_in_a_unit_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let mistaken = runnable(&unit("bearerd.service")).replace("WatchdogSec", "Watchdogsec");
    fs::write(folder.path().join("bearerd.service"), mistaken).unwrap();
    verified(folder.path(), &["bearerd.service"]);
}

#[test]
#[ignore = "needs systemd-analyze"]
fn the_example_for_an_application_is_right() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("bearerd.service"), runnable(&unit("bearerd.service"))).unwrap();
    fs::write(folder.path().join("app.service"), "[Service]\nExecStart=/bin/true\n").unwrap();
    fs::create_dir(folder.path().join("app.service.d")).unwrap();
    fs::write(folder.path().join("app.service.d/bearerd.conf"), unit("app.service.d/bearerd.conf")).unwrap();
    verified(folder.path(), &["app.service"]);
}

#[test]
#[ignore = "needs systemd-analyze"]
fn the_service_is_as_closed_as_the_page_says() {
    let page = fs::read_to_string(root().join("docs/systemd.md")).unwrap();
    assert!(page.contains(&format!("**{EXPOSURE}**")), "docs/systemd.md does not say {EXPOSURE}");
    let threshold = EXPOSURE.replace('.', "");
    let output = succeed(
        Command::new(installed("systemd-analyze", "systemd"))
            .args(["security", "--offline=true", "--no-pager", &format!("--threshold={threshold}")])
            .arg(root().join("deploy/systemd/bearerd.service")),
    );
    let said = String::from_utf8(output.stdout).unwrap();
    let level = said.lines().find(|line| line.contains("Overall exposure level")).unwrap();
    assert!(level.contains(&format!(": {EXPOSURE} ")), "{level}");
}

/// What is passed under a name that the packaged config does not have would not be served.
#[test]
fn the_socket_is_where_the_packaged_config_listens() {
    let config = fs::read_to_string(root().join("deploy/debian/bearerd.toml")).unwrap();
    let config: toml::Table = config.parse().unwrap();
    let socket = unit("bearerd.socket");
    let value = |key: &str| socket.lines().find_map(|line| line.strip_prefix(key)).unwrap().to_owned();
    let listener = &config["listener"][&value("FileDescriptorName=")];
    assert_eq!(listener["address"].as_str(), Some(value("ListenStream=").as_str()));
}
