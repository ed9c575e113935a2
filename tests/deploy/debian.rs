//! The Debian package, built from the program that is being tested, and installed into a folder.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::LazyLock;

use crate::tools::{installed, root, succeed};

/// Built once for all tests.
static PACKAGE: LazyLock<(tempfile::TempDir, PathBuf)> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let output = succeed(
        Command::new(root().join("deploy/debian/build"))
            .arg(env!("CARGO_BIN_EXE_bearerd"))
            .arg(folder.path()),
    );
    let package = PathBuf::from(String::from_utf8(output.stdout).unwrap().trim());
    (folder, package)
});

fn package() -> &'static PathBuf {
    for (program, package) in
        [("dpkg-deb", "dpkg"), ("dpkg-shlibdeps", "dpkg-dev"), ("strip", "binutils"), ("gzip", "gzip")]
    {
        installed(program, package);
    }
    &PACKAGE.1
}

fn said(command: &mut Command) -> String {
    String::from_utf8(succeed(command).stdout).unwrap()
}

#[test]
#[ignore = "needs dpkg-deb, dpkg-shlibdeps, strip and gzip"]
fn holds_the_program_its_units_pages_and_completions() {
    let contents = said(Command::new("dpkg-deb").arg("--contents").arg(package()));
    let has = |path: &str, mode: &str| {
        let line = contents.lines().find(|line| line.ends_with(&format!(" .{path}")));
        let line = line.unwrap_or_else(|| panic!("{path} is not in\n{contents}"));
        assert!(line.starts_with(mode) && line.contains(" root/root "), "{line}");
    };
    has("/usr/bin/bearerd", "-rwxr-xr-x");
    has("/lib/systemd/system/bearerd.service", "-rw-r--r--");
    has("/lib/systemd/system/bearerd.socket", "-rw-r--r--");
    has("/etc/bearerd/bearerd.toml", "-rw-r--r--");
    has("/etc/bearerd/secrets/", "drwx------");
    for page in fs::read_dir(root().join("docs/man")).unwrap() {
        let page = page.unwrap().file_name().into_string().unwrap();
        has(&format!("/usr/share/man/man1/{page}.gz"), "-rw-r--r--");
    }
    has("/usr/share/bash-completion/completions/bearerd", "-rw-r--r--");
    has("/usr/share/zsh/vendor-completions/_bearerd", "-rw-r--r--");
    has("/usr/share/fish/vendor_completions.d/bearerd.fish", "-rw-r--r--");
    has("/usr/share/doc/bearerd/copyright", "-rw-r--r--");
    has("/usr/share/doc/bearerd/changelog.gz", "-rw-r--r--");
    has("/usr/share/doc/bearerd/docs/systemd.md", "-rw-r--r--");
}

#[test]
#[ignore = "needs dpkg-deb, dpkg-shlibdeps, strip and gzip"]
fn says_its_version_and_what_it_needs() {
    let field = |name: &str| said(Command::new("dpkg-deb").arg("--field").arg(package()).arg(name));
    assert_eq!(field("Version").trim(), env!("CARGO_PKG_VERSION"));
    assert!(field("Depends").contains("libc6 (>= "), "{}", field("Depends"));
    let conffiles = said(Command::new("dpkg-deb").args(["--info"]).arg(package()).arg("conffiles"));
    assert_eq!(conffiles.trim(), "/etc/bearerd/bearerd.toml");
}

#[test]
#[ignore = "needs dpkg-deb, dpkg-shlibdeps, strip, gzip and lintian"]
fn lintian_finds_no_error_and_no_warning() {
    // It runs as root in a container, too, and says so as a warning of its own.
    let output = Command::new(installed("lintian", "lintian"))
        .args(["--fail-on", "error,warning", "--tag-display-limit", "0", "--no-cfg"])
        .arg(package())
        .output()
        .unwrap();
    let found = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{found}{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn maintainer_scripts_are_shell() {
    for script in ["postinst", "prerm", "postrm"] {
        succeed(Command::new("sh").arg("-n").arg(root().join("deploy/debian").join(script)));
    }
    succeed(Command::new("bash").arg("-n").arg(root().join("deploy/debian/build")));
}

/// The packaged config passes the packaged program's check; its secret is not there yet.
#[test]
#[ignore = "needs dpkg-deb, dpkg-shlibdeps, strip and gzip"]
fn the_installed_program_takes_the_installed_config() {
    let folder = tempfile::tempdir().unwrap();
    succeed(Command::new("dpkg-deb").arg("--extract").arg(package()).arg(folder.path()));
    let program = folder.path().join("usr/bin/bearerd");
    let config = folder.path().join("etc/bearerd/bearerd.toml");
    let output = succeed(Command::new(&program).arg("check").arg("--config").arg(&config).env_clear());
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("ok: 1 listener, 1 route, 1 issuer") && said.contains("secrets_corp"), "{said}");
    let version = succeed(Command::new(&program).arg("--version"));
    assert_eq!(
        String::from_utf8_lossy(&version.stdout).trim(),
        format!("bearerd {}", env!("CARGO_PKG_VERSION"))
    );
    let unit = fs::read_to_string(folder.path().join("lib/systemd/system/bearerd.service")).unwrap();
    for program in unit.lines().filter_map(|line| line.strip_prefix("ExecStart=")) {
        let path = program.split(' ').next().unwrap().trim_start_matches('/');
        let mode = fs::metadata(folder.path().join(path)).unwrap().permissions().mode();
        assert_eq!(mode & 0o111, 0o111, "{path}");
    }
}
