//! Every example of the documents is tried. Each fenced block has a language that says how:
//!
//! | language | what is done with it |
//! |---|---|
//! | `toml` | loaded as a config: whole where it begins with `# bearerd.toml`, else in a frame (`toml_blocks.rs`) |
//! | `sh`, `console` | in a document of [`SESSIONS`] typed, in order; elsewhere `sh` alone, and each `bearerd` command is parsed by the program (`commands.rs`) |
//! | `json`, `yaml`, `ini` | parsed |
//! | `mermaid` | a sequence diagram whose participants, arrows and frames fit together (`diagrams.rs`) |
//! | `promql` | tried by the tests of `deploy/monitoring` |
//! | `text` | free, but below `<!-- log -->` it is in bearerd's log |
//!
//! Another language, or none, fails. A block whose first line is `# ` and a path of this repository shows lines of that
//! file, which must be there, in that order.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and read what they check"
)]

mod blocks;
mod commands;
mod diagrams;
mod pattern;
mod running;
mod session;
mod toml_blocks;
mod world;

/// oidc-provider, as the front-door tests start it.
#[allow(unreachable_pub, reason = "it is a module of theirs")]
#[path = "../it"]
mod support {
    #[path = "support/blocking.rs"]
    pub(crate) mod blocking;
    #[path = "support/oidc.rs"]
    pub(crate) mod oidc;
    #[allow(dead_code, reason = "it is theirs, and they use all of it")]
    #[path = "support/server.rs"]
    pub(crate) mod server;
    #[allow(dead_code, reason = "it is theirs, and they use all of it")]
    #[path = "support/tls.rs"]
    pub(crate) mod tls;

    /// Waits for the future, and fails naming `what` where it takes too long.
    pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
        let patience = std::time::Duration::from_secs(60);
        tokio::time::timeout(patience, future).await.unwrap_or_else(|_| panic!("waited for {what}"))
    }
}

use std::path::Path;

use blocks::{Block, documents};
use session::Session;
use world::World;

/// The documents whose commands are typed, from the first to the last, as a reader would.
const SESSIONS: [&str; 3] = ["README.md", "docs/tutorial.md", "docs/tutorial-exec.md"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn every_block_is_tried_by_its_language() {
    let blocks: Vec<Block> = documents().iter().flat_map(|document| blocks::of(document)).collect();
    assert!(blocks.len() > 20, "{}", blocks.len());
    // The test reports all errors at once.
    let wrong = blocks.iter().filter(|block| std::panic::catch_unwind(|| try_it(block)).is_err());
    let wrong: Vec<String> = wrong.map(ToString::to_string).collect();
    assert!(wrong.is_empty(), "see above what is wrong with {}", wrong.join(", "));
}

fn try_it(block: &Block) {
    if block.shows().is_some() {
        return excerpt(block);
    }
    match block.language.as_str() {
        // A program that cannot load modules refuses it; with the feature, it is tried.
        "toml" if block.text.contains("{ pkcs11 = ") && !cfg!(feature = "pkcs11") => {}
        "toml" => toml_blocks::load(block),
        // A session runs them too; here a mistyped option is found at once.
        "sh" => commands::parse(block, &block.text),
        "console" => {
            let typed = SESSIONS.contains(&block.document.as_str());
            assert!(typed, "{block}: only a document of SESSIONS may show what commands print");
            commands::parse(block, &session::typed(&block.text));
        }
        "json" => json(block),
        // A template is no YAML before Helm has filled it in; the charts are rendered by tests/deploy.
        "yaml" if block.text.contains("{{") => template(block),
        "yaml" => {
            let parsed = yaml_rust2::YamlLoader::load_from_str(&block.text);
            assert!(parsed.is_ok(), "{block}: {parsed:?}");
        }
        "ini" => ini(block),
        "mermaid" => diagrams::read(block),
        "promql" => {
            assert!(block.document == "docs/metrics.md", "{block}: queries belong to docs/metrics.md")
        }
        "text" => {}
        other => panic!("{block}: no way to try a block in the language {other:?} (tests/examples/main.rs)"),
    }
}

/// Lines of a chart's template.
fn template(block: &Block) {
    let charts = blocks::files(&root().join("deploy/helm"), "yaml");
    let shown = || block.text.lines().map(str::trim_end).filter(|line| !line.starts_with('#'));
    let has_all = |file: &String| {
        let text = std::fs::read_to_string(root().join(file)).unwrap();
        let mut lines = text.lines().map(str::trim_end);
        shown().all(|shown| lines.any(|line| line == shown))
    };
    assert!(charts.iter().any(has_all), "{block}: no file of deploy/helm has these lines");
}

/// Lines of a file; its own tests try the whole.
fn excerpt(block: &Block) {
    let path = block.shows().unwrap();
    let file =
        std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{block}: {path}: {error}"));
    let mut lines = file.lines().map(str::trim_end);
    for shown in block.text.lines().skip(1).map(str::trim_end) {
        assert!(lines.any(|line| line == shown), "{block}: {path} has no such line, or not there: {shown}");
    }
    if path.ends_with(".toml") {
        toml_blocks::loaded(path, &file).unwrap_or_else(|problems| panic!("{block}: {problems}"));
    }
}

/// One document, or one on each line.
fn json(block: &Block) {
    let parse = |text: &str| serde_json::from_str::<serde_json::Value>(text).map(drop);
    if let Err(error) = parse(&block.text) {
        assert!(block.text.lines().all(|line| parse(line).is_ok()), "{block}: {error}");
    }
}

/// A part of a systemd unit.
fn ini(block: &Block) {
    for line in block.text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let section = line.starts_with('[') && line.ends_with(']');
        assert!(section || line.split_once('=').is_some_and(|(key, _)| !key.is_empty()), "{block}: {line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs bash, curl, node and npm"]
async fn what_the_readme_says_works_as_it_is_typed() {
    let world = World::start("/oauth2/token").await;
    Session::new("README.md", &world).run();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs bash, curl, node and npm"]
async fn what_the_tutorial_says_works_as_it_is_typed() {
    let world = World::start("/realms/acme/protocol/openid-connect/token").await;
    Session::new("docs/tutorial.md", &world).run();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs bash, curl, node and npm"]
async fn what_the_tutorial_about_exec_says_works_as_it_is_typed() {
    let world = World::start("/realms/acme/protocol/openid-connect/token").await.over_tls();
    Session::new("docs/tutorial-exec.md", &world).run();
}

#[test]
fn the_example_config_loads() {
    let text = std::fs::read_to_string(root().join("config.example.toml")).unwrap();
    toml_blocks::loaded("config.example.toml", &text).unwrap_or_else(|problems| panic!("{problems}"));
}
