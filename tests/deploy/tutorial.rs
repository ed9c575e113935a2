//! What `docs/tutorial-kubernetes.md` and `docs/kubernetes-injection.md` show is what `deploy/kubernetes` has, and what it types is known to the programs.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use super::manifests::read;
use super::packages::{helm, kubectl};
use super::tools::{root, succeed};

const PAGES: [&str; 2] = ["docs/tutorial-kubernetes.md", "docs/kubernetes-injection.md"];

/// The blocks of a language.
fn blocks(language: &str) -> Vec<String> {
    let fence = format!("\n```{language}\n");
    let mut found = Vec::new();
    for text in PAGES.map(read) {
        let parts = text.split(&fence).skip(1).map(|rest| rest.split("\n```\n").next());
        found.extend(parts.map(|block| block.unwrap().to_owned()));
    }
    found
}

#[test]
fn each_manifest_is_a_piece_of_its_file() {
    let quoted: Vec<String> = ["yaml", "toml"].iter().flat_map(|language| blocks(language)).collect();
    assert!(quoted.len() >= 9, "{} blocks", quoted.len());
    for block in quoted {
        let (head, piece) = block.split_once('\n').unwrap();
        let path = head.strip_prefix("# ").unwrap_or_else(|| panic!("which file is this of?\n{block}"));
        assert!(read(path).contains(&format!("\n{piece}\n")), "{path} has no such lines:\n{piece}");
    }
}

#[test]
#[ignore = "needs kubectl or python3"]
fn each_command_is_known_to_its_program() {
    let mut helps = BTreeMap::new();
    let mut commands = 0;
    for line in blocks("sh").iter().flat_map(|block| block.lines()).flat_map(|line| line.split(" | ")) {
        let words: Vec<&str> =
            line.split_whitespace().take_while(|word| *word != "--" && *word != ">").collect();
        let program = match words[0] {
            "kubectl" => kubectl(),
            "bearerd" => PathBuf::from(env!("CARGO_BIN_EXE_bearerd")),
            "helm" => helm(),
            "curl" => continue,
            other => panic!("{other} is not checked: {line}"),
        };
        commands += 1;
        let verbs: Vec<&str> = words[1..].iter().copied().take(verbs_of(&words)).collect();
        let help = helps.entry((words[0].to_owned(), verbs.clone())).or_insert_with(|| {
            let output = succeed(Command::new(program).args(&verbs).arg("--help"));
            String::from_utf8(output.stdout).unwrap()
        });
        for flag in words.iter().filter(|word| word.starts_with("--")) {
            let flag = flag.split('=').next().unwrap();
            let known = help.split(|letter: char| letter.is_whitespace() || "=,;'[".contains(letter));
            // `kubectl options` has it, and the help of no verb.
            let known = flag == "--namespace" || known.into_iter().any(|word| word == flag);
            assert!(known, "{line}: {flag} is not in the help");
        }
        for path in
            words.iter().filter_map(|word| word.split('=').next_back()).filter(|it| it.starts_with("deploy/"))
        {
            assert!(root().join(path).exists(), "{line}: {path} is not there");
        }
    }
    assert!(commands >= 22, "{commands} commands");
}

/// `kubectl create secret generic`, `kubectl rollout status`, `bearerd check`.
fn verbs_of(words: &[&str]) -> usize {
    match words[1] {
        "create" if words[2] == "secret" => 3,
        "create" | "rollout" | "set" => 2,
        _ => 1,
    }
}
