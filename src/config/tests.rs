//! What one file gives: the keys and their defaults, files on disk, and secrets that stay hidden. `tests/config` has examples with
//! their whole output.

mod checks;
mod issuers;
mod listeners;
mod store;

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::Value;

use crate::config::document::{Access, FileText};
use crate::config::environment::OtelVariables;
use crate::config::report::Report;
use crate::config::{self, Config, Problems, Scopes, Severity, load_file, schema};

/// A file that its owner alone may read.
const PRIVATE: Access = Access { owner_only: true, writable_by_others: false, of_another_user: false };
/// A file that others may read.
const READABLE: Access = Access { owner_only: false, writable_by_others: false, of_another_user: false };

fn load(text: &str) -> Result<Config, Problems> {
    load_as(text, READABLE)
}

/// Beside these variables.
fn load_beside(text: &str, otel: &OtelVariables) -> Result<Config, Problems> {
    let path = PathBuf::from("/etc/bearerd/bearerd.toml");
    let file = FileText::new("bearerd.toml".into(), path, text.to_owned(), READABLE);
    load_file(&file, Report::default(), otel, None)
}

fn load_as(text: &str, access: Access) -> Result<Config, Problems> {
    let path = PathBuf::from("/etc/bearerd/bearerd.toml");
    let file = FileText::new("bearerd.toml".into(), path, text.to_owned(), access);
    load_file(&file, Report::default(), &OtelVariables::default(), None)
}

/// The first lines of what is printed, one per problem.
fn lines(text: &str) -> Vec<String> {
    let problems = match load(text) {
        Ok(config) => config.warnings,
        Err(Problems(problems)) => problems,
    };
    problems.iter().map(|problem| problem.to_string().lines().next().unwrap().to_owned()).collect()
}

/// An issuer and a route that are right, with more lines in each.
fn with(issuer: &str, route: &str) -> String {
    format!(
        "[issuer.corp]\ntoken_url = \"https://idp/token\"\nclient_id = \"a\"\n{}{issuer}\n[[route]]\nname = \"r\"\nupstream = \"https://h\"\n{}{route}\n",
        if issuer.starts_with("client_secret ") || issuer.contains("\"none\"") {
            ""
        } else {
            "client_secret = { env = \"S\" }\n"
        },
        if route.contains("anonymous") { "" } else { "issuer = \"corp\"\n" },
    )
}

const EXAMPLE: &str = include_str!("../../config.example.toml");
const REFERENCE: &str = include_str!("../../docs/config.md");

fn keys() -> BTreeSet<String> {
    fn collect(node: &Value, keys: &mut BTreeSet<String>) {
        match node {
            Value::Object(object) => {
                if let Some(Value::Object(properties)) = object.get("properties") {
                    keys.extend(properties.keys().cloned());
                }
                object.values().for_each(|child| collect(child, keys));
            }
            Value::Array(items) => items.iter().for_each(|child| collect(child, keys)),
            _ => {}
        }
    }
    let mut keys = BTreeSet::new();
    collect(&schema(), &mut keys);
    keys
}

#[test]
fn every_key_stands_in_the_reference() {
    for key in keys() {
        assert!(REFERENCE.contains(&format!("`{key}`")), "docs/config.md lacks `{key}`");
    }
}

/// The definition of the schema that a section of the example is of, by its heading: `[issuer.corp]`, `[[route]]`.
fn definition(heading: &str) -> Option<&'static str> {
    let path: Vec<&str> = heading.split(['[', ']', '.']).filter(|part| !part.is_empty()).collect();
    match path[..] {
        ["limits"] => Some("Limits"),
        ["log"] => Some("Log"),
        ["tracing"] => Some("Tracing"),
        ["admin"] => Some("Admin"),
        ["store"] => Some("Store"),
        ["listener", _] => Some("Listener"),
        ["issuer", _] => Some("Issuer"),
        ["issuer", _, "response"] => Some("Response"),
        ["issuer", _, "jwt"] => Some("Jwt"),
        ["webhook", _] => Some("Webhook"),
        ["route"] => Some("Route"),
        _ => None,
    }
}

/// The example with a line for each key that it lacks: in the first section of its table, with the default where there is
/// one, and its description.
fn completed(example: &str) -> String {
    let schema = schema();
    let blocks: Vec<&str> = example.split_inclusive("\n\n").collect();
    let heading = |block: &str| {
        block.lines().find_map(|line| definition(line.trim_start_matches("# ").split('#').next()?.trim()))
    };
    let mut done = BTreeSet::new();
    let mut text = String::new();
    for block in &blocks {
        text.push_str(block.trim_end_matches('\n'));
        text.push('\n');
        if let Some(table) = heading(block).filter(|table| done.insert(*table)) {
            let of_table: Vec<&str> =
                blocks.iter().copied().filter(|block| heading(block) == Some(table)).collect();
            for (key, node) in schema["$defs"][table]["properties"].as_object().unwrap() {
                let written = |line: &str| line.trim_start_matches("# ").starts_with(&format!("{key} = "));
                let has_section =
                    example.contains(&format!(".{key}]\n")) || example.contains(&format!(".{key}] "));
                if !has_section && !of_table.iter().flat_map(|block| block.lines()).any(written) {
                    let about = node["description"].as_str().unwrap_or_default().replace('\n', " ");
                    let line = match node.get("default") {
                        Some(default) => format!("{key} = {default}"),
                        None => format!("# {key} = "),
                    };
                    text.push_str(&format!("{line:<39} # {about}\n"));
                }
            }
        }
        text.push('\n');
    }
    text.trim_end().to_owned() + "\n"
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the project's own file, in a test")]
fn the_example_has_every_key_of_each_table() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/config.example.toml");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(path, completed(EXAMPLE)).unwrap();
    }
    let example = std::fs::read_to_string(path).unwrap();
    let words: BTreeSet<&str> = example.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').collect();
    for key in keys() {
        assert!(words.contains(key.as_str()), "config.example.toml lacks {key}");
    }
    for (line, wanted) in example.lines().zip(completed(&example).lines()) {
        assert_eq!(line, wanted, "config.example.toml lacks a key: run this test with BLESS=1");
    }
}

/// A value is the default, or its comment says what the default is.
#[test]
fn the_example_shows_defaults() {
    let schema = schema();
    let (mut node, mut seen, mut compared) = (&schema, BTreeSet::new(), 0);
    for line in EXAMPLE.lines() {
        if line.starts_with('[') {
            let table = definition(line.split('#').next().unwrap().trim());
            // What a table of its kind has was shown by the first one.
            node = table
                .filter(|table| seen.insert(*table))
                .map_or(&Value::Null, |table| &schema["$defs"][table]);
        }
        let Ok(written) = toml::from_str::<toml::Table>(line) else { continue };
        for (key, value) in written {
            let Some(default) = node["properties"][&key].get("default") else { continue };
            compared += 1;
            let value = serde_json::to_value(value).unwrap();
            assert!(value == *default || line.contains("(default: "), "{line}: the default is {default}");
        }
    }
    assert!(compared > 50, "{compared}");
}

#[test]
fn the_example_loads() {
    let text = EXAMPLE.replace("include = [\"conf.d/*.toml\"]", "");
    let config = load(&text).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(config.warnings, []);
    assert!(!config::check_references(&config).is_empty(), "its files are not there");
}

/// Each commented line that is another way to write a key works too.
#[test]
fn the_examples_other_ways_load_too() {
    let mut tried = 0;
    let (before, after) = EXAMPLE.split_once("[store]").unwrap();
    let (_, after) = after.split_once("\n[").unwrap();
    for line in before.lines().chain(after.lines()).filter_map(|line| line.strip_prefix("# ")) {
        let Some((key, _)) = line.split_once(" = ") else { continue };
        let issuer = match key {
            "tls" if line.contains("client_ca") => continue,
            "tls" | "proxy" => with(line, line),
            "client_secret" if line.contains("issuer = \"platform\"") => format!(
                "{}[issuer.platform]\ntoken_url = \"https://platform/token\"\nclient_auth = \"none\"\n",
                with(line, "")
            ),
            "client_secret" => with(line, ""),
            "issuer_url" => with("", "").replace("token_url = \"https://idp/token\"", line),
            "path" => with("", line),
            _ => continue,
        };
        tried += 1;
        assert_eq!(lines(&issuer), [""; 0], "{line}");
    }
    assert!(tried > 6, "{tried}");
    let listeners: String = EXAMPLE
        .lines()
        .skip_while(|line| *line != "# [listener.network]")
        .map_while(|line| line.strip_prefix("# ").or_else(|| line.is_empty().then_some("")))
        .filter(|line| !line.starts_with("group"))
        .map(|line| format!("{line}\n"))
        .collect();
    assert_eq!(lines(&format!("{listeners}{}", with("", "host = \"api.example.com\""))), [""; 0]);
}

/// The schema's defaults below a definition, as TOML lines.
fn defaults(schema: &Value, definition: Option<&str>) -> String {
    let node = definition.map_or(schema, |name| &schema["$defs"][name]);
    let properties = node["properties"].as_object().unwrap();
    let written = properties.iter().filter_map(|(key, value)| {
        let default = value.get("default").filter(|default| !default.is_object())?;
        // A path_prefix beside path, and anonymous beside issuer, are the caller's to choose.
        Some(format!("{key} = {default}\n"))
    });
    written.collect()
}

/// All that a config says, but for digests: they are over what is written, and a default written out differs.
fn shape(config: &Config) -> String {
    let digest = format!("{:?}", config.issuers["corp"].digest);
    let parts =
        (&config.limits, &config.log, &config.admin, &config.listeners, &config.issuers, &config.routes);
    let times = (config.workers, config.drain_delay, config.shutdown_timeout);
    format!("{times:?} {parts:?}").replace(&digest, "")
}

#[test]
fn the_schemas_defaults_are_the_real_ones() {
    let schema = schema();
    let response = defaults(&schema, Some("Response")).replace('\n', ", ");
    let inject = defaults(&schema, Some("Inject")).replace('\n', ", ");
    let listener: String = defaults(&schema, Some("Listener"))
        .lines()
        .filter(|line| !line.starts_with("mode") && !line.starts_with("allow_uids"))
        .map(|line| format!("{line}\n"))
        .collect();
    let written = format!(
        "{}[limits]\n{}[log]\n{}[admin]\n{}[listener.main]\n{listener}{}",
        defaults(&schema, None),
        defaults(&schema, Some("Limits")),
        defaults(&schema, Some("Log")),
        defaults(&schema, Some("Admin")),
        with(
            &format!(
                "client_secret = {{ env = \"S\" }}\n{}response = {{ {} }}",
                defaults(&schema, Some("Issuer")),
                response.trim_end_matches(", ")
            ),
            &format!(
                "{}inject = {{ {} }}",
                defaults(&schema, Some("Route")).replace("anonymous", "#"),
                inject.trim_end_matches(", ")
            ),
        ),
    );
    let written = load(&written).unwrap_or_else(|problems| panic!("{problems}\n{written}"));
    let plain = load(&with("", "")).unwrap();
    assert_eq!(shape(&written), shape(&plain));
}

#[test]
fn every_count_has_the_bound_that_the_schema_says() {
    let schema = schema();
    let mut tried = 0;
    for (node, table) in [(&schema, ""), (&schema["$defs"]["Limits"], "[limits]\n")] {
        for (key, value) in node["properties"].as_object().unwrap() {
            if value["type"] != "integer" {
                continue;
            }
            tried += 1;
            let most = value["maximum"].as_u64().unwrap_or_else(|| panic!("{key} has no maximum"));
            let with_count = |count: u64| lines(&format!("{table}{key} = {count}\n{}", with("", "")));
            assert_eq!(with_count(most), [""; 0]);
            let refused = with_count(most + 1);
            assert!(refused[0].ends_with(&format!("{key}: must be at most {most}")), "{refused:?}");
            assert!(!with_count(i64::MAX as u64).is_empty());
        }
    }
    assert_eq!(tried, 4);
}

#[test]
fn equal_issuers_have_equal_digests_and_others_have_not() {
    let digest = |issuer: &str| load(&with(issuer, "")).unwrap().issuers["corp"].digest;
    let plain = digest("");
    assert_eq!(digest("# a comment"), plain);
    assert_eq!(
        digest("client_secret = { file = \"a\" }"),
        digest("client_secret = { file = \"/etc/bearerd/a\" }")
    );
    assert_eq!(digest("tls = { roots = \"bundled\" }"), digest("tls.roots = \"bundled\""));
    // Tokens stay if their issuer's limit changes.
    assert_eq!(digest("budget = { requests = 3, per = \"1h\" }"), plain);
    let mut all = vec![
        plain,
        digest("client_secret = { file = \"b\" }"),
        digest("client_secret = { env = \"b\" }"),
        digest("timeout = \"9s\""),
        digest("params = { a = 1 }"),
        digest("params = { a = \"1\" }"),
        digest("params = { a = [1] }"),
        digest("scopes = [\"a\", \"b\"]"),
        digest("scopes = [\"a,b\"]"),
    ];
    let count = all.len();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), count);
}

#[test]
fn another_store_of_a_learned_value_is_another_issuer() {
    let issuer = "headers = { x-user = { webhook = \"w\" } }";
    let webhook = "[webhook.w]\naddress = \"127.0.0.1:9181\"\npath = \"/s\"\nsignature_header = \"x-sig\"\n\
                   secrets = [{ file = \"a\" }]\nvalue = \"/id\"\nstore = \"STORE\"\n";
    let digest = |store: &str| {
        let text = format!("{}{}", with(issuer, ""), webhook.replace("STORE", store));
        load(&text).unwrap_or_else(|problems| panic!("{problems}")).issuers["corp"].digest
    };
    assert_eq!(digest("a.json"), digest("/etc/bearerd/a.json"));
    assert_ne!(digest("a.json"), digest("b.json"));
}

#[test]
fn a_routes_credential_has_its_own_scopes_and_more_parameters() {
    let text = with(
        "scopes = [\"a\", \"b\"]\nparams = { x = 1, y = 1.50 }",
        "scopes = [\"c\"]\nparams = { y = true, z = [\"1\", { env = \"Z\" }] }",
    );
    let config = load(&text).unwrap();
    let config::Credential::Issuer { key, issuer } = &config.routes[0].credential else { panic!() };
    assert_eq!(key.scopes, Scopes::from(["c"]));
    assert_eq!(key.params.keys().collect::<Vec<_>>(), ["x", "y", "z"]);
    assert_eq!(key.params["y"], config::ParamValue::Boolean(true));
    assert_eq!(issuer.params["y"], config::ParamValue::Float("1.50".to_owned()));
    assert_eq!(key.issuer_digest, issuer.digest);
    let plain = load(&text.replace("scopes = [\"c\"]\n", "")).unwrap();
    let config::Credential::Issuer { key, .. } = &plain.routes[0].credential else { panic!() };
    assert_eq!(key.scopes.len(), 2);
}

/// A folder that is removed at the end.
struct Folder(PathBuf);

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
fn errors_in_included_files_are_placed_there() {
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
            "conf.d/a.toml:4:1: error: route[0].name: another route has this name, at bearerd.toml:8:1",
            "conf.d/a.toml:6:1: error: route[0].issuer: there is no issuer \"crop\"",
            "conf.d/a.toml:7:9: error: issuer.corp: another issuer has this name, at bearerd.toml:2:9",
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
    assert!(warning.message.starts_with("other users may write this file"), "{warning}");
    let [warning] = &*config::check_references(&config) else { panic!() };
    assert_eq!(warning.severity, Severity::Warning);
    assert!(warning.to_string().contains("may read or write this secret"), "{warning}");
    assert!(!warning.to_string().contains("hunter2"));

    folder.write_as("bearerd.toml", &with("client_secret = { file = \"secret\" }", ""), 0o644);
    folder.write_as("secret", "hunter2", 0o600);
    let config = folder.load().unwrap();
    assert_eq!((config.warnings.len(), config::check_references(&config).len()), (0, 0));
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
            "bearerd.toml:4:1: warning: issuer.corp.client_secret: file gone: no such file\n  help: create the file, or correct its path; whatever needs the value waits for it",
            "bearerd.toml:5:13: warning: issuer.corp.headers.a: environment variable BEARERD_TEST_NOT_SET: is not set\n  help: set it where the program is started; bearerd reads it only at the start",
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

const CANARY: &str = "hunter2";

fn told(text: &str, access: Access) -> String {
    match load_as(text, access) {
        Ok(config) => format!("{config:?}"),
        Err(problems) => format!("{problems}\n{problems:?}\n{}", problems.to_json()),
    }
}

fn is_silent(text: &str) {
    for access in [PRIVATE, READABLE] {
        let told = told(text, access);
        assert!(!told.contains(CANARY), "{text}\n---\n{told}");
    }
}

#[test]
fn no_literal_secret_is_shown() {
    for issuer in [
        "client_secret = \"hunter2\"",
        "client_secret = \"hunter2",
        "client_secret = hunter2",
        "client_secret = \"\"\"\nhunter2\"\"\" x",
        "client_secret = \"\"\"\nhunter2 \\q\n\"\"\"",
        "client_secret = '''\n[hunter2\n''' 5",
        "client_secret = [\"hunter2\"]",
        "client_secret = { value = \"hunter2\" }",
        "client_secret = { file = \"a\", password = \"hunter2\" }",
        "client_secrt = \"hunter2\"",
        "client_secret = \"hunter2\"\nclient_secret = \"hunter2\"",
        "clientsecret = { client_secret = \"hunter2\", roots = 1 }",
        "standby = { client_id = \"x\", client_secret = \"hunter2\" }",
        "basic = { user = \"x\", password = \"hunter2\" }",
        "params = { password = \"hunter2\", scope = 1 }",
        "params = [\"hunter2\"]",
        "params = { audience = [[\"hunter2\"]] }",
        "headers = { authorization = \"hunter2\" }",
        "headers = { x = [\"hunter2\"] }",
        "proxy = \"https://u:hunter2@egress\"",
        "proxy = \"u:hunter2@egress\"",
        "proxy = { url = \"http://egress\", userinfo = 5, passwd = \"hunter2\" }",
        "proxy = { url = \"https://u:hunter2@egress\" }",
        "tls = { private_key = \"hunter2\", roots = \"x\" }",
        "jwt = { key = \"hunter2\" }",
        "private_key = \"hunter2\"",
        "vars = { key = \"hunter2\" }",
        "tls = { roots = \"x\", private_key = \"\"\"\nhunter2\"\"\", server_name = \"a b\" }",
    ] {
        is_silent(&with(issuer, "bogus = 1"));
    }
    for url in ["https://u:hunter2@h", "http://u:hunter2@h", "https://h?key=hunter2", "u:hunter2@h"] {
        is_silent(&with("", "").replace("https://h", url));
        // A token URL may have a query; nothing is told of it unless something is wrong with it.
        if !url.contains('?') {
            is_silent(&with("", "").replace("https://idp/token", url));
        }
    }
    is_silent(&format!(
        "[listener.main]\nrequire_header = {{ name = \"x y\", value = \"hunter2\" }}\n{}",
        with("", "")
    ));
    is_silent(&format!("[webhook.a]\nsecrets = [\"hunter2\"]\n{}", with("", "")));
}

#[test]
fn a_literal_secret_is_taken_from_a_file_of_the_owner_alone() {
    let config = load_as(&with("client_secret = \"hunter2\"", ""), PRIVATE).unwrap();
    let issuer = config.issuers.get("corp").unwrap();
    assert_eq!(issuer.client_auth.secret().unwrap().read().unwrap().expose(), b"hunter2");
    assert!(!format!("{config:?}").contains(CANARY));
}

/// Pieces of config files, right and wrong.
fn piece() -> impl Strategy<Value = String> {
    let mut keys = Vec::new();
    collect(&schema(), &mut keys);
    keys.extend(["issuer.a", "route", "listener.main", "jwt", "preset", "x y", ""].map(str::to_owned));
    let value = prop_oneof![
        Just("1".to_owned()),
        Just("-1".to_owned()),
        Just("1.5".to_owned()),
        Just("nan".to_owned()),
        Just("true".to_owned()),
        Just("2020-01-01".to_owned()),
        Just("\"30s\"".to_owned()),
        Just("\"https://h/a\"".to_owned()),
        Just("[]".to_owned()),
        Just("[\"a\", 1]".to_owned()),
        Just("{}".to_owned()),
        Just("{ file = \"a\" }".to_owned()),
        Just("{ env = \"a\", pointer = 5 }".to_owned()),
        Just("[[1]]".to_owned()),
        Just("\"".to_owned()),
        Just("'''".to_owned()),
        "\"[ -~]{0,12}\"",
        "\\PC{0,8}",
    ];
    let key = prop::sample::select(keys);
    prop_oneof![
        3 => Just("[[route]]".to_owned()),
        1 => Just("[issuer.corp]".to_owned()),
        1 => Just("[listener.main]".to_owned()),
        2 => key.clone().prop_map(|key| format!("[{key}]")),
        1 => key.clone().prop_map(|key| format!("[[{key}]]")),
        12 => (key, value).prop_map(|(key, value)| format!("{key} = {value}")),
        1 => "\\PC{0,20}",
    ]
}

fn collect(node: &Value, keys: &mut Vec<String>) {
    if let Some(object) = node.as_object() {
        if let Some(properties) = object.get("properties").and_then(|value| value.as_object()) {
            keys.extend(properties.keys().cloned());
        }
        object.values().for_each(|child| collect(child, keys));
    }
}

proptest! {
    #[test]
    fn nothing_panics(pieces in prop::collection::vec(piece(), 0..24)) {
        let text = pieces.join("\n");
        for access in [PRIVATE, READABLE] {
            if let Err(problems) = load_as(&text, access) {
                prop_assert!(problems.errors().next().is_some(), "refused without a word: {text}");
                for problem in &problems.0 {
                    prop_assert!(problem.line <= text.lines().count() + 1, "{problem:?}");
                    prop_assert!(!problem.to_string().is_empty());
                }
            }
        }
    }

    #[test]
    fn nothing_panics_on_any_text(text in "(?s).{0,200}") {
        let _ = told(&text, PRIVATE);
    }

    #[test]
    fn a_secret_stays_hidden_whatever_is_around(pieces in prop::collection::vec(piece(), 0..12), at in 0usize..12) {
        let mut pieces: Vec<String> = pieces;
        pieces.retain(|piece| !piece.contains(CANARY));
        pieces.insert(at.min(pieces.len()), "client_secret = \"hunter2\"".to_owned());
        is_silent(&pieces.join("\n"));
    }
}
