//! Imports go one way. Reads `src/` as text, by the house's style: a path to another module begins with `crate::` and its
//! name, tests come last in a file. `clippy.toml` says what may be used where (the environment, files, locks).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and read what they check"
)]

use std::fs;
use std::path::{Path, PathBuf};

/// A module may use those of the lines above its own; modules of one line do not know each other.
const LAYERS: &[&[&str]] = &[
    &["secret", "clock", "idle", "aside", "processes"],
    &["jose", "redact", "workload_api"],
    &["config"],
    &["inbound", "flow", "net", "metrics", "telemetry"],
    &["issuer", "route", "store", "trace"],
    &["token"],
    &["upstream"],
    &["proxy"],
    &["listener"],
    &["admin", "webhook"],
    &["reload"],
    &["app"],
    &["cli"],
    &["main"],
];

/// What only these modules may name.
const PLACES: &[(&str, &[&str])] =
    &[("rustls::", &["net", "listener"]), ("std::env", &["config", "cli", "main"])];

fn layer(module: &str) -> usize {
    let found = LAYERS.iter().position(|layer| layer.contains(&module));
    found.unwrap_or_else(|| panic!("`{module}` has no layer: give it one in tests/architecture.rs"))
}

/// What is wrong with the code of `src/PATH`, by line.
fn violations(path: &str, text: &str) -> Vec<String> {
    let segments = path.trim_end_matches(".rs").split('/').count();
    let module = path.split('/').next().unwrap().trim_end_matches(".rs");
    let mut tests = text.match_indices("#[cfg(test)]\n").map(|(at, mark)| (at, &text[at + mark.len()..]));
    let tests = tests.find(|(_, rest)| rest.lines().next().unwrap_or_default().ends_with("mod tests {"));
    let code = &text[..tests.map_or(text.len(), |(at, _)| at)];
    let mut wrong = Vec::new();
    for (number, line) in code.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")) {
        let mut report = |what: String| wrong.push(format!("src/{path}:{}: {what}", number + 1));
        for used in line.split("crate::").skip(1) {
            let end = used.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(used.len());
            match &used[..end] {
                "" => report("name one module on a line: `use crate::NAME::…`".to_owned()),
                used if used != module && layer(used) >= layer(module) => {
                    report(format!("`{module}` may not use `{used}`: imports go downward"));
                }
                _ => {}
            }
        }
        if line.contains(&"super::".repeat(segments)) {
            report("leaves its module by `super`: write `crate::`".to_owned());
        }
        for (name, modules) in PLACES {
            let before = line.find(name).map(|at| line[..at].chars().next_back());
            let named = before.is_some_and(|before| before.is_none_or(|c| !c.is_alphanumeric() && c != '_'));
            if named && !modules.contains(&module) {
                report(format!("only {modules:?} may name `{name}`"));
            }
        }
    }
    wrong
}

fn files(folder: PathBuf) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(path) } else { vec![path] }).collect()
}

#[test]
fn imports_go_one_way() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = Vec::new();
    for file in files(root.clone()) {
        let path = file.strip_prefix(&root).unwrap().to_str().unwrap();
        let of_tests = ["tests", "fixture", "fuzz"].iter().any(|name| path.contains(name));
        if path.ends_with(".rs") && path != "lib.rs" && !of_tests {
            wrong.extend(violations(path, &fs::read_to_string(&file).unwrap()));
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn what_goes_upward_is_caught() {
    for (path, line) in [
        ("route/table.rs", "use crate::proxy::Proxy;"),
        ("issuer/request.rs", "fn f() -> crate::route::Path { todo!() }"),
        ("route.rs", "use crate::{config, proxy};"),
        ("route/table.rs", "use super::super::proxy::Proxy;"),
        ("token.rs", "use rustls::ClientConfig;"),
        ("app.rs", "let value = std::env::var(name);"),
    ] {
        assert_eq!(violations(path, line).len(), 1, "{line}");
    }
    for text in [
        "use crate::config::Config;\nuse super::path;",
        "// crate::proxy",
        "use tokio_rustls::TlsStream;",
        "#[cfg(test)]\nmod tests {\n    use crate::proxy::Proxy;\n}",
    ] {
        assert_eq!(violations("route/table.rs", text), [""; 0], "{text}");
    }
}
