//! Files on disk: includes, modes, references, size.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use super::with;
use crate::config::{self, Config, Problems, Severity};

/// A folder that is removed at the end.
struct Folder(std::path::PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("bearerd-config-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(path.join("conf.d")).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, text: &str) {
        self.write_as(name, text, 0o644);
    }

    fn write_as(&self, name: &str, text: &str, mode: u32) {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    fn load(&self) -> Result<Config, Problems> {
        config::load(&self.0.join("bearerd.toml"))
    }

    /// What is printed, with the folder's name taken out.
    fn told(&self) -> Vec<String> {
        let problems = match self.load() {
            Ok(config) => config.warnings,
            Err(Problems(problems)) => problems,
        };
        let folder = format!("{}/", self.0.display());
        problems
            .iter()
            .map(|p| p.to_string().replace(&folder, "").lines().next().unwrap().to_owned())
            .collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

const INCLUDE: &str = "include = [\"conf.d/*.toml\"]\n";

#[test]
fn included_files_are_read_in_the_order_of_their_names() {
    let folder = Folder::new("order");
    folder.write("bearerd.toml", &format!("{INCLUDE}{}", with("", "")));
    let route = |name: &str| {
        format!(
            "[[route]]\nname = \"{name}\"\npath = \"/{name}\"\nupstream = \"https://h\"\nissuer = \"corp\"\n"
        )
    };
    folder.write("conf.d/b.toml", &route("b"));
    folder.write("conf.d/a.toml", &route("a"));
    folder.write("conf.d/.hidden.toml", "x = ");
    folder.write("conf.d/note.txt", "x = ");
    let config = folder.load().unwrap();
    let names: Vec<&str> = config.routes.iter().map(|route| &*route.name).collect();
    assert_eq!(names, ["r", "a", "b"]);
    let files = ["bearerd.toml", "conf.d/a.toml", "conf.d/b.toml"].map(|name| folder.0.join(name));
    assert_eq!(config.files, files);
    assert_eq!(config.include_folders, [folder.0.join("conf.d")]);
    assert_eq!(config.warnings, []);
}

#[test]
fn mistakes_in_included_files_are_placed_there() {
    let folder = Folder::new("placed");
    folder.write("bearerd.toml", &format!("{INCLUDE}{}", with("", "")));
    folder.write("conf.d/a.toml", "workers = 2\nfoo = 1\n[[route]]\nname = \"r\"\nupstream = \"https://h\"\nissuer = \"crop\"\n[issuer.corp]\n");
    folder.write("conf.d/b.toml", "[[route]]\nname = \"b\"\npath = 5\n");
    assert_eq!(
        folder.told(),
        [
            "conf.d/a.toml:1:1: error: workers: an included file holds only issuers and routes",
            "conf.d/a.toml:2:1: error: foo: unknown key",
            "conf.d/a.toml:3:1: error: route[0]: route `r` ties with route `r` (bearerd.toml:7:1): one request can match both",
            "conf.d/a.toml:4:1: error: route[0].name: there is a route of this name already, at bearerd.toml:8:1",
            "conf.d/a.toml:6:1: error: route[0].issuer: there is no issuer \"crop\"",
            "conf.d/a.toml:7:9: error: issuer.corp: there is an issuer of this name already, at bearerd.toml:2:9",
            "conf.d/b.toml:1:1: error: route[0].upstream: is missing",
            "conf.d/b.toml:1:1: error: route[0].issuer: is missing",
            "conf.d/b.toml:3:1: error: route[0].path: expected a string, found the number 5",
        ]
    );
}

#[test]
fn an_included_file_that_is_named_must_be_there_and_a_pattern_may_match_none() {
    let folder = Folder::new("named");
    folder.write("bearerd.toml", &format!("include = [\"team.toml\"]\n{}", with("", "")));
    assert_eq!(folder.told(), ["team.toml: error: no such file"]);
    folder.write("bearerd.toml", &format!("{INCLUDE}{}", with("", "")));
    assert_eq!(folder.load().unwrap().warnings, []);
    folder.write("bearerd.toml", &format!("include = [\"gone/*.toml\"]\n{}", with("", "")));
    assert_eq!(
        folder.told(),
        ["bearerd.toml:1:12: warning: include[0]: the folder does not exist, so nothing is included"]
    );
}

#[test]
fn references_start_at_the_folder_of_their_own_file() {
    let folder = Folder::new("relative");
    folder.write("bearerd.toml", &format!("{INCLUDE}{}", with("client_secret = { file = \"main\" }", "")));
    folder.write(
        "conf.d/a.toml",
        "[issuer.b]\ntoken_url = \"https://b\"\nclient_id = \"b\"\nclient_secret = { file = \"b\" }\n",
    );
    let config = folder.load().unwrap();
    assert_eq!(config::referenced_files(&config), [folder.0.join("conf.d/b"), folder.0.join("main")]);
}

#[test]
fn c7_what_others_may_write_or_read_is_warned_about() {
    let folder = Folder::new("modes");
    folder.write_as("bearerd.toml", &with("client_secret = { file = \"secret\" }", ""), 0o666);
    folder.write_as("secret", "hunter2", 0o644);
    let config = folder.load().unwrap();
    let [warning] = config.warnings.as_slice() else { panic!("{:?}", config.warnings) };
    assert_eq!(warning.severity, Severity::Warning);
    assert!(warning.message.starts_with("others than the owner may write this file"), "{warning}");
    let [warning] = &*config::check_references(&config) else { panic!() };
    assert_eq!(warning.severity, Severity::Warning);
    assert!(warning.to_string().contains("may read or write this secret"), "{warning}");
    assert!(!warning.to_string().contains("hunter2"));

    folder.write_as("bearerd.toml", &with("client_secret = { file = \"secret\" }", ""), 0o644);
    folder.write_as("secret", "hunter2", 0o600);
    let config = folder.load().unwrap();
    assert_eq!((config.warnings.len(), config::check_references(&config).len()), (0, 0));
}

/// In a pod, mounted files are root's and read-only: `chmod 600` there is either refused or shuts bearerd out.
#[test]
fn who_is_not_the_owner_is_not_told_to_shut_himself_out() {
    let path = Path::new("/run/secrets/corp");
    let told = |user, owner, mode| config::closed_by(path, user, owner, mode);
    for (user, owner) in [(65532, 65532), (0, 65532)] {
        assert_eq!(told(user, owner, 0o100_640), "run `chmod 600 /run/secrets/corp`");
    }
    let own = "elsewhere run `chown 65532 /run/secrets/corp && chmod 600 /run/secrets/corp`";
    for mode in [0o100_444, 0o100_660, 0o100_441] {
        let mounted = told(65532, 0, mode);
        assert!(mounted.contains("`defaultMode: 0440` and `fsGroup`") && mounted.ends_with(own), "{mounted}");
    }
    let by_group = told(65532, 0, 0o100_440);
    assert!(by_group.contains("leave it so where nobody else has its group") && by_group.ends_with(own));
    assert!(by_group.contains("user 65532 is not its owner, user 0"), "{by_group}");
}

#[test]
fn a_literal_secret_wants_mode_0600() {
    let folder = Folder::new("literal");
    for (mode, accepted) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false)] {
        folder.write_as("bearerd.toml", &with("client_secret = \"hunter2\"", ""), mode);
        assert_eq!(folder.load().is_ok(), accepted, "{mode:o}");
    }
}

#[test]
fn missing_references_are_warnings_and_do_not_stop_the_load() {
    let folder = Folder::new("missing");
    let issuer = "client_secret = { file = \"gone\" }\nheaders = { a = { env = \"BEARERD_TEST_NOT_SET\" } }\ntls = { ca = { file = \"ca.json\", pointer = \"/a\" } }";
    folder.write("bearerd.toml", &with(issuer, ""));
    folder.write("ca.json", "{}");
    let config = folder.load().unwrap();
    let warnings = config::check_references(&config);
    let told: Vec<String> =
        warnings.iter().map(|w| w.to_string().replace(&format!("{}/", folder.0.display()), "")).collect();
    assert_eq!(
        told,
        [
            "bearerd.toml:4:1: warning: issuer.corp.client_secret: file gone: no such file\n  help: put the file there, or correct its path; what needs it waits for it",
            "bearerd.toml:5:13: warning: issuer.corp.headers.a: environment variable BEARERD_TEST_NOT_SET: is not set\n  help: set it where the program is started; it is read at the start alone",
            "bearerd.toml:6:9: warning: issuer.corp.tls.ca: file ca.json at /a: has nothing there",
        ]
    );
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let told = |path: &str| config::load(Path::new(path)).unwrap_err().to_string();
    assert_eq!(
        told("/nonexistent/bearerd.toml"),
        format!("/nonexistent/bearerd.toml: error: no such file\n  help: {}", config::NO_CONFIG)
    );
    assert_eq!(told("/tmp"), "/tmp: error: is a folder");
    let folder = Folder::new("utf8");
    std::fs::write(folder.0.join("bearerd.toml"), b"workers = 1\n# \xff\n").unwrap();
    assert_eq!(folder.told(), ["bearerd.toml:2:1: error: is not UTF-8"]);
}

#[test]
fn ten_thousand_routes_load_in_near_linear_time() {
    let folder = Folder::new("many");
    let many = |number: usize| {
        let mut text = with("", "");
        for i in 0..number {
            text += &format!(
                "[[route]]\nname = \"r{i}\"\npath_prefix = \"/r{i}\"\nupstream = \"https://h/r{i}\"\nissuer = \"corp\"\n"
            );
        }
        // All of one rank: told apart by a header's value alone.
        for i in 0..number {
            text += &format!(
                "[[route]]\nname = \"t{i}\"\nmatch_headers = {{ x-tenant = \"{i}\" }}\nupstream = \"https://h\"\nissuer = \"corp\"\n"
            );
        }
        folder.write("bearerd.toml", &text);
        // The quickest of a few: other tests run beside this one.
        (0..3)
            .map(|_| {
                let start = Instant::now();
                assert_eq!(folder.load().unwrap().routes.len(), 2 * number + 1);
                start.elapsed()
            })
            .min()
            .unwrap()
    };
    let (small, large) = (many(500), many(5000));
    assert!(
        large < 40 * small + Duration::from_millis(200),
        "{small:?} for 1,000 routes, {large:?} for 10,000"
    );
}
