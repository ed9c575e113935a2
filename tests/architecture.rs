//! Imports go one way, and some things stand in one place only. Reads `src/` as text: no build, no guess at types.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and read what they check"
)]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

/// A module may use modules of lower rank, and its own tree. Equal ranks are siblings that do not know each other.
const RANKS: &[(&str, u8)] = &[
    ("secret", 0),
    ("clock", 0),
    ("idle", 0),
    ("aside", 0),
    ("jose", 1),
    ("config", 2),
    ("inbound", 3),
    ("flow", 3),
    ("metrics", 3),
    ("net", 3),
    ("telemetry", 3),
    ("issuer", 4),
    ("route", 4),
    ("trace", 4),
    ("token", 5),
    ("upstream", 6),
    ("proxy", 7),
    ("listener", 8),
    ("admin", 9),
    ("webhook", 9),
    ("reload", 10),
    ("app", 11),
    ("cli", 12),
    ("main", 13),
];

const LINES: usize = 500;
const TEST_LINES: usize = 800;

/// Paths that only some modules may name, and why.
const PLACES: &[(&[&str], &[&str], &str)] = &[
    (&["rustls::"], &["net", "listener"], "TLS settings are made in net and used in listener"),
    (&["std::env"], &["config", "cli", "main"], "the environment is read by config and cli"),
    (&["std::fs::read", "std::fs::read_to_string"], &["config", "cli", "main"], "files are read by config"),
];

/// Modules on the request path, where nothing may wait for a lock.
const LOCK_FREE: &[&str] = &["proxy", "upstream", "route"];

/// A source file, its path below `src/` with `/`.
struct Source {
    path: String,
    text: String,
}

#[test]
fn the_sources_keep_to_the_architecture() {
    let violations = check(&sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src")));
    assert!(violations.is_empty(), "\n{}\n", violations.join("\n"));
}

fn sources(root: &Path) -> Vec<Source> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let path = path.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/");
                found.push(Source { path, text });
            }
        }
    }
    assert!(found.len() > 10, "no sources below {}", root.display());
    found.sort_by(|left, right| left.path.cmp(&right.path));
    found
}

/// Every violation as `src/file.rs:line: what is wrong and what to do`.
fn check(sources: &[Source]) -> Vec<String> {
    let mut violations = Vec::new();
    for source in sources {
        let is_test = source.path.ends_with("tests.rs") || source.path.contains("/tests/");
        let lines = source.text.lines().count();
        let most = if is_test { TEST_LINES } else { LINES };
        if lines > most {
            violations
                .push(format!("src/{}:{lines}: more than {most} lines; split it by topic", source.path));
        }
        if !is_test {
            check_file(source, &mut violations);
        }
    }
    violations.dedup();
    violations
}

fn check_file(source: &Source, violations: &mut Vec<String>) {
    let module = module_of(&source.path);
    if module == "lib" {
        return;
    }
    let mut report =
        |line: usize, what: String| violations.push(format!("src/{}:{line}: {what}", source.path));
    let Some(rank) = rank(module) else {
        report(1, format!("module `{module}` has no rank; give it one in tests/architecture.rs"));
        return;
    };
    let code = without_tests(&without_comments(&source.text));
    for (line, path) in resolved_paths(&code, &source.path) {
        if let Some(other) = path.strip_prefix("crate::").or_else(|| path.strip_prefix("bearerd::")) {
            let other = other.split("::").next().unwrap_or_default();
            match rank_of_used(other) {
                _ if other == module => {}
                Some(used) if used < rank => {}
                Some(used) if used == rank => {
                    report(
                        line,
                        format!("`{module}` may not use `crate::{other}`: they are siblings of rank {rank}"),
                    );
                }
                Some(used) => report(
                    line,
                    format!(
                        "`{module}` (rank {rank}) may not use `crate::{other}` (rank {used}): imports go downward"
                    ),
                ),
                None => report(
                    line,
                    format!("`crate::{other}` has no rank; give it one in tests/architecture.rs"),
                ),
            }
        }
        for (prefixes, places, why) in PLACES {
            if prefixes.iter().any(|prefix| names(&path, prefix)) && !places.contains(&module) {
                report(line, format!("`{path}` may not stand in `{module}`: {why}"));
            }
        }
    }
    if LOCK_FREE.contains(&module) {
        for (number, line) in code.lines().enumerate() {
            if let Some(lock) = ["Mutex", "RwLock"].iter().find(|lock| words(line).any(|word| word == **lock))
            {
                report(
                    number + 1,
                    format!("`{lock}` in `{module}`: nothing on the request path may wait for a lock"),
                );
            }
        }
    }
}

/// `prefix` is the path itself or, with `::` at its end, the head of it.
fn names(path: &str, prefix: &str) -> bool {
    let prefix = prefix.trim_end_matches(':');
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

fn module_of(path: &str) -> &str {
    path.split('/').next().unwrap_or_default().trim_end_matches(".rs")
}

fn rank(module: &str) -> Option<u8> {
    RANKS.iter().find(|(name, _)| *name == module).map(|(_, rank)| *rank)
}

/// `crate::X` with a capital is an item that lib.rs exports itself.
fn rank_of_used(module: &str) -> Option<u8> {
    if module.starts_with(char::is_uppercase) || module == "*" { Some(u8::MAX) } else { rank(module) }
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !c.is_alphanumeric() && c != '_')
}

/// The code with comments, strings and character literals blanked out; lines stay where they are.
fn without_comments(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = skipped(&chars, at);
        if end == at {
            out.push(chars[at]);
            at += 1;
        } else {
            out.extend(chars[at..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
            at = end;
        }
    }
    out
}

/// The end of the comment or literal that begins here; `at` itself where none does.
fn skipped(chars: &[char], at: usize) -> usize {
    let get = |index: usize| chars.get(index).copied().unwrap_or('\0');
    let find = |from: usize, what: &str| {
        let what: Vec<char> = what.chars().collect();
        (from..chars.len())
            .find(|index| chars[*index..].starts_with(&what))
            .map_or(chars.len(), |index| index + what.len())
    };
    let in_word = at > 0 && (get(at - 1).is_alphanumeric() || get(at - 1) == '_');
    match (get(at), get(at + 1)) {
        ('/', '/') => (at..chars.len()).find(|index| chars[*index] == '\n').unwrap_or(chars.len()),
        ('/', '*') => {
            let (mut depth, mut index) = (1, at + 2);
            while depth > 0 && index < chars.len() {
                let step = match (get(index), get(index + 1)) {
                    ('/', '*') => 1,
                    ('*', '/') => -1,
                    _ => 0,
                };
                depth += step;
                index += if step == 0 { 1 } else { 2 };
            }
            index
        }
        ('"', _) => {
            let mut index = at + 1;
            while index < chars.len() && chars[index] != '"' {
                index += if chars[index] == '\\' { 2 } else { 1 };
            }
            (index + 1).min(chars.len())
        }
        ('r', '"' | '#') if !in_word || get(at - 1) == 'b' => {
            let hashes = (at + 1..chars.len()).take_while(|index| chars[*index] == '#').count();
            if get(at + 1 + hashes) != '"' {
                return at;
            }
            find(at + 2 + hashes, &format!("\"{}", "#".repeat(hashes)))
        }
        ('\'', '\\') => find(at + 3, "'"),
        // A quote that closes two characters on is a literal, any other a lifetime.
        ('\'', _) if get(at + 2) == '\'' => at + 3,
        _ => at,
    }
}

/// Blanks out what `#[cfg(test)]` stands before: tests may reach where they need to.
fn without_tests(code: &str) -> String {
    let mut out = code.to_owned();
    while let Some(start) = out.find("#[cfg(test)]") {
        let rest = &out[start..];
        let block = rest.find('{').filter(|open| rest.find(';').is_none_or(|end| *open < end));
        let length = match block {
            None => rest.find(';').map_or(rest.len(), |end| end + 1),
            Some(open) => {
                let mut depth = 0_usize;
                let close = rest[open..].char_indices().find(|(_, c)| {
                    match c {
                        '{' => depth += 1,
                        '}' => depth -= 1,
                        _ => {}
                    }
                    depth == 0
                });
                close.map_or(rest.len(), |(at, _)| open + at + 1)
            }
        };
        let blank: String = rest[..length].chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect();
        out.replace_range(start..start + length, &blank);
    }
    out
}

/// Every path in the code with its line: use trees unfolded, imported names and `super` written out.
fn resolved_paths(code: &str, file: &str) -> Vec<(usize, String)> {
    let mut paths = Vec::new();
    let mut imports = BTreeMap::new();
    let mut at = 0;
    while let Some(offset) = code[at..].find(|c: char| c.is_alphanumeric() || c == '_') {
        let start = at + offset;
        let before = code[..start].trim_end();
        let mut found = Vec::new();
        at = start + tree(&code[start..], "", &mut found);
        let imported = before.ends_with("use") && words(before).last() == Some("use");
        for (at_in_tree, path) in found {
            let line = code[..start + at_in_tree].matches('\n').count() + 1;
            let path = without_super(&path, file);
            if imported && let Some((_, name)) = path.rsplit_once("::") {
                imports.insert(name.to_owned(), path.clone());
            }
            paths.push((line, path));
        }
    }
    for (_, path) in &mut paths {
        let head = path.split("::").next().unwrap_or_default();
        if head.len() < path.len()
            && let Some(full) = imports.get(head)
        {
            *path = format!("{full}{}", &path[head.len()..]);
        }
    }
    paths
}

/// Reads one path or use tree from the start of `code`; gives its length, and every path with its place.
fn tree(code: &str, prefix: &str, found: &mut Vec<(usize, String)>) -> usize {
    let word = code.find(|c: char| !c.is_alphanumeric() && c != '_' && c != '*').unwrap_or(code.len());
    let path = format!("{prefix}{}", &code[..word]);
    let Some(rest) = code[word..].strip_prefix("::") else {
        found.push((0, path));
        return word.max(1);
    };
    let mut at = word + 2;
    if rest.starts_with(|c: char| c.is_alphanumeric() || c == '_' || c == '*') {
        let first = found.len();
        let length = tree(rest, &format!("{path}::"), found);
        found[first..].iter_mut().for_each(|(place, _)| *place += at);
        return at + length;
    }
    if !rest.starts_with('{') {
        found.push((0, path));
        return at;
    }
    at += 1;
    while let Some(c) = code[at..].chars().next() {
        match c {
            '}' => return at + 1,
            c if c.is_alphanumeric() || c == '_' || c == '*' => {
                let first = found.len();
                let length = tree(&code[at..], &format!("{path}::"), found);
                found[first..].iter_mut().for_each(|(place, _)| *place += at);
                at += length;
            }
            c => at += c.len_utf8(),
        }
    }
    at
}

/// `super::super::x` and `self::x` as `crate::…`, as seen from the file.
fn without_super(path: &str, file: &str) -> String {
    let mut module: Vec<&str> = file.trim_end_matches(".rs").split('/').collect();
    let mut rest = path;
    if let Some(tail) = rest.strip_prefix("self::") {
        rest = tail;
    } else if !rest.starts_with("super::") {
        return path.to_owned();
    }
    while let Some(tail) = rest.strip_prefix("super::") {
        module.pop();
        rest = tail;
    }
    let mut full = "crate".to_owned();
    for part in module.into_iter().chain([rest]) {
        let _ = write!(full, "::{part}");
    }
    full
}

mod self_test {
    use super::*;

    fn violations(path: &str, text: &str) -> Vec<String> {
        check(&[Source { path: path.to_owned(), text: text.to_owned() }])
    }

    fn caught(path: &str, text: &str, line: usize, part: &str) {
        let found = violations(path, text);
        assert_eq!(found.len(), 1, "{text}: {found:?}");
        assert!(
            found[0].starts_with(&format!("src/{path}:{line}: ")) && found[0].contains(part),
            "{found:?}"
        );
    }

    #[test]
    fn an_upward_edge_is_caught_at_its_line() {
        let message = "`route` (rank 4) may not use `crate::proxy` (rank 7)";
        caught("route/table.rs", "use std::fmt;\n\nuse crate::proxy::Proxy;\n", 3, message);
        caught(
            "route.rs",
            "use crate::{\n    config::Config,\n    proxy::{Caller, Proxy},\n};\n",
            3,
            "crate::proxy",
        );
    }

    #[test]
    fn every_spelling_of_an_upward_edge_is_caught() {
        for text in [
            "fn f() -> crate::proxy::Proxy { todo!() }",
            "use crate::proxy;",
            "use crate::{config, proxy};",
            "pub use crate::proxy as p;",
            "pub(crate) use crate::{proxy};",
            "fn f() { crate::proxy::go::<u8>() }",
            "use super::super::proxy::Proxy;",
            "impl<'a> From<&'a crate::proxy::Proxy> for X {}",
            "const Q: char = '\"'; use crate::proxy; // \"",
        ] {
            caught("route/table.rs", text, 1, "crate::proxy");
        }
        caught("route.rs", "use super::proxy::Proxy;", 1, "crate::proxy");
    }

    #[test]
    fn both_ways_of_a_cycle_cannot_pass() {
        let sources = [("token.rs", "use crate::upstream::U;"), ("upstream.rs", "\nuse crate::token::T;")]
            .map(|(path, text)| Source { path: path.to_owned(), text: text.to_owned() });
        let found = check(&sources);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("src/token.rs:1: "), "{found:?}");
    }

    #[test]
    fn siblings_are_kept_apart() {
        caught("issuer/request.rs", "use crate::route::path;", 1, "siblings of rank 4");
    }

    #[test]
    fn a_module_without_a_rank_is_told() {
        caught("shiny/new.rs", "", 1, "has no rank");
        caught("cli.rs", "use crate::shiny::X;", 1, "has no rank");
    }

    #[test]
    fn comments_strings_tests_and_lower_modules_pass() {
        for text in [
            "// use crate::proxy::Proxy;",
            "//! [`crate::proxy`]",
            "/* crate::proxy /* crate::proxy */ crate::proxy */",
            "const X: &str = \"crate::proxy \\\" crate::proxy\";",
            "const X: &str = r#\"crate::proxy\" crate::proxy\"#;",
            "#[cfg(test)]\nmod tests {\n    use crate::proxy::Proxy;\n    fn f() { if true {} }\n}\n",
            "#[cfg(test)]\nuse crate::proxy::Proxy;\n",
            "use crate::config::{self, Config};\nuse crate::route::path;\nuse super::table;\nuse crate::{clock, secret::Secret};",
            "use std::env_not::x;\nfn f(mutex: u8) {}",
        ] {
            assert_eq!(violations("route/table.rs", text), Vec::<String>::new(), "{text}");
        }
        assert_eq!(violations("route/tests.rs", "use crate::proxy::Proxy;"), Vec::<String>::new());
    }

    #[test]
    fn the_code_after_a_test_module_is_read() {
        caught("route.rs", "#[cfg(test)]\nmod tests { fn f() {} }\nuse crate::proxy::X;", 3, "crate::proxy");
    }

    #[test]
    fn things_out_of_their_place_are_caught() {
        caught("token.rs", "use rustls::ClientConfig;", 1, "TLS settings");
        caught("app.rs", "use std::env;", 1, "environment");
        caught("app.rs", "fn f() { std::env::var(\"X\"); }", 1, "environment");
        caught("admin.rs", "use std::fs;\nfn f() { fs::read_to_string(path) }", 2, "files");
        caught("admin.rs", "use std::{fmt, fs::read};", 1, "files");
        assert_eq!(violations("net/tls.rs", "use rustls::ClientConfig;"), Vec::<String>::new());
        assert_eq!(violations("token.rs", "use tokio_rustls::TlsStream;"), Vec::<String>::new());
        assert_eq!(
            violations("config/read.rs", "fn f() { std::fs::read(p); std::env::var(x) }"),
            Vec::<String>::new()
        );
    }

    #[test]
    fn a_lock_on_the_request_path_is_caught() {
        caught("upstream/pool.rs", "\nstruct P(std::sync::Mutex<u8>);", 2, "`Mutex`");
        caught("proxy.rs", "use tokio::sync::RwLock;", 1, "`RwLock`");
        assert_eq!(violations("metrics.rs", "use std::sync::Mutex;"), Vec::<String>::new());
    }

    #[test]
    fn a_file_that_is_too_long_is_caught() {
        caught("route/long.rs", &"\n".repeat(501), 501, "more than 500 lines");
        caught("route/long/tests.rs", &"\n".repeat(801), 801, "more than 800 lines");
        assert_eq!(violations("route/long/tests.rs", &"\n".repeat(501)), Vec::<String>::new());
    }
}
