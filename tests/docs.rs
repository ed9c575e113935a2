//! The documents say what the code does.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and read what they check"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use bearerd::proxy::Code;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The cells of every row of every table in a document.
fn rows(text: &str) -> Vec<Vec<String>> {
    text.lines()
        .filter(|line| line.starts_with('|') && !line.starts_with("|---"))
        .map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect())
        .collect()
}

#[test]
fn errors_md_has_each_code_with_its_status_and_no_other() {
    let documented: BTreeSet<(String, String)> = rows(&read("docs/errors.md"))
        .into_iter()
        .filter(|row| row[0].parse::<u16>().is_ok())
        .map(|row| (row[0].clone(), row[1].trim_matches('`').to_owned()))
        .collect();
    let built: BTreeSet<(String, String)> =
        Code::ALL.iter().map(|code| (code.status().as_u16().to_string(), code.as_str().to_owned())).collect();
    assert_eq!(documented, built);
}

#[test]
fn errors_md_says_what_to_do_for_each_code() {
    for row in rows(&read("docs/errors.md")) {
        if row[0].parse::<u16>().is_ok() {
            assert!(row.len() == 5 && row.iter().all(|cell| !cell.is_empty()), "{row:?}");
        }
    }
}

#[test]
fn the_example_in_the_readme_is_a_valid_config() {
    let readme = read("README.md");
    let toml =
        readme.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a toml block");
    assert!(toml.lines().count() <= 15, "the README promises a short file");
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("readme");
    fs::create_dir_all(&folder).expect("a folder for the example");
    let file = folder.join("bearerd.toml");
    fs::write(&file, toml).expect("the example is written");
    if let Err(problems) = bearerd::config::load(&file) {
        panic!("{problems}");
    }
}

#[test]
fn each_dependency_has_its_line() {
    let reasons: BTreeSet<String> = rows(&read("docs/decisions/0001-dependencies.md"))
        .iter()
        .flat_map(|row| row[0].split(", ").map(|name| name.trim_matches('`').to_owned()).collect::<Vec<_>>())
        .collect();
    let manifest = read("Cargo.toml");
    let mut dependencies = 0;
    for section in ["[dependencies]", "[dev-dependencies]"] {
        let lines = manifest.split(section).nth(1).expect("the section").lines().skip(1);
        for line in lines.take_while(|line| !line.starts_with('[')) {
            let Some((name, _)) = line.split_once(" = ") else { continue };
            dependencies += 1;
            assert!(reasons.contains(name), "{name} has no line in docs/decisions/0001-dependencies.md");
        }
    }
    assert!(dependencies > 30, "{dependencies} dependencies were found");
}

#[test]
fn links_between_documents_lead_somewhere() {
    let top = fs::read_dir(root()).expect("a folder").flatten().map(|entry| entry.path());
    let mut documents: Vec<PathBuf> =
        top.filter(|path| path.extension().is_some_and(|it| it == "md")).collect();
    for folder in ["docs", "deploy", ".github"] {
        documents.extend(files(&root().join(folder), "md"));
    }
    documents.push(root().join("llms.txt"));
    assert!(documents.len() > 30, "{} documents", documents.len());
    for document in documents {
        let text = fs::read_to_string(&document).expect("a document");
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if target.contains("://") {
                continue;
            }
            let (file, anchor) = target.split_once('#').map_or((target, None), |(file, it)| (file, Some(it)));
            let path = match file {
                "" => document.clone(),
                file => document.parent().expect("a folder").join(file),
            };
            assert!(path.exists(), "{} links to {target}, which is not there", document.display());
            let known = |anchor: &str| anchors(&fs::read_to_string(&path).expect("a page")).contains(anchor);
            assert!(anchor.is_none_or(known), "{} links to {target}: no such heading", document.display());
        }
    }
}

/// The anchors of a page's headings, as GitHub makes them.
fn anchors(page: &str) -> BTreeSet<String> {
    let mut fenced = false;
    let headings = page.lines().filter(|line| {
        fenced ^= line.starts_with("```");
        !fenced && line.starts_with('#')
    });
    headings
        .map(|line| {
            let text = line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
            text.chars().filter(|char| char.is_alphanumeric() || matches!(char, '-' | '_')).collect()
        })
        .collect()
}

/// What nobody links to is not found.
#[test]
fn each_document_is_on_both_maps() {
    for map in ["docs/README.md", "llms.txt"] {
        let text = read(map);
        for entry in fs::read_dir(root().join("docs")).expect("the documents").flatten() {
            let name = entry.file_name().into_string().expect("a name");
            if name.ends_with(".md") && name != "README.md" {
                assert!(text.contains(&format!("{name})")), "{map} does not link to docs/{name}");
            }
        }
    }
}

/// Each row of these pages' tables names in its last column the tests that pin it; each name must be a test.
#[test]
fn tests_that_pages_name_exist() {
    let mut known = String::new();
    for folder in ["src", "tests"] {
        for file in files(&root().join(folder), "rs") {
            known.push_str(&fs::read_to_string(&file).expect("a source file"));
        }
    }
    let mut named = 0;
    let fleet = read("docs/fleet.md");
    let fleet = fleet.split("\n## ").find(|part| part.starts_with("What happens when")).expect("the section");
    for row in rows(&read("docs/contract-tests.md")).into_iter().chain(rows(fleet)).skip(1) {
        let Some(tests) = row.last() else { continue };
        for name in tests.split('`').skip(1).step_by(2) {
            named += 1;
            let function = name.rsplit("::").next().unwrap_or(name);
            assert!(known.contains(&format!("fn {function}(")), "no test is called {name} (row: {row:?})");
        }
    }
    assert!(named > 50, "the map names {named} tests");
}

#[test]
fn the_project_has_no_machine_paths() {
    let mut all = files(&root().join("src"), "rs");
    all.extend(files(&root().join("tests"), "rs"));
    all.extend(files(&root().join("docs"), "md"));
    all.extend(files(&root().join("tests"), "txt"));
    all.push(root().join("README.md"));
    let home = root().parent().expect("a folder").display().to_string();
    for file in all {
        let text = fs::read_to_string(&file).expect("a file");
        assert!(
            // Every machine has a folder for temporary files.
            home.len() < 3 || home == "/tmp" || !text.contains(&format!("{home}/")),
            "{} has a machine path",
            file.display()
        );
        // pip-compile writes where this machine has its packages.
        let find_links = text.lines().any(|line| line.starts_with("--find-links"));
        assert!(!find_links, "{} says where this machine has its packages", file.display());
    }
}

fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            if path.file_name().is_none_or(|name| name != "node_modules") {
                found.extend(files(&path, ending));
            }
        } else if path.extension().is_some_and(|found| found == ending) {
            found.push(path);
        }
    }
    found
}

/// `cargo test` runs with Rust and a C compiler alone: a test that needs another program says so, and `.ci/install` knows it.
#[test]
fn each_program_that_a_test_needs_is_installed_by_the_script() {
    let script = read(".ci/install");
    let known = |program: &str| {
        script.split_whitespace().any(|word| word.trim_matches('"').split(':').any(|part| part == program))
    };
    let mut needed = BTreeSet::new();
    for file in rust_files(&root().join("tests")) {
        for line in fs::read_to_string(&file).unwrap().lines() {
            let Some(reason) = line.trim().strip_prefix("#[ignore") else { continue };
            let needs = reason.strip_prefix(" = \"needs ").and_then(|rest| rest.strip_suffix("\"]"));
            let needs = needs.unwrap_or_else(|| panic!("{}: {line} names no program", file.display()));
            let one_by_one = needs.replace(" as root", "").replace(" and ", ", ").replace(" or ", ", ");
            needed.extend(one_by_one.split(", ").filter(|name| !name.is_empty()).map(str::to_owned));
        }
    }
    assert!(needed.contains("promtool") && needed.len() > 10, "{needed:?}");
    // These two come in a wheel, by Python.
    let unknown: Vec<_> =
        needed.iter().filter(|name| !known(name) && !["helm", "kubectl"].contains(&name.as_str())).collect();
    assert!(unknown.is_empty(), ".ci/install does not know {unknown:?}");
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            found.extend(rust_files(&entry));
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            found.push(entry);
        }
    }
    found
}

/// The line that an operator copies has the rights that the engine names in its errors.
#[test]
fn fleet_md_has_the_rights_that_bearerd_needs() {
    let source = read("src/store/redis/explain.rs");
    let (_, rest) = source.split_once("COMMANDS: &str = \"").expect("the commands");
    let (commands, _) = rest.split_once('"').expect("the end of the text");
    let commands: String =
        commands.split_whitespace().filter(|word| *word != "\\").collect::<Vec<_>>().join(" ");
    assert!(commands.starts_with("+eval "), "{commands}");
    assert!(read("docs/fleet.md").contains(&format!("~bearerd:* {commands}\n")), "the line needs {commands}");
}
