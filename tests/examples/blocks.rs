//! The fenced blocks of a document.

use std::fmt;
use std::fs;
use std::path::Path;

use super::root;

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Block {
    /// Its path in the repository.
    pub(crate) document: String,
    pub(crate) line: usize,
    pub(crate) language: String,
    pub(crate) text: String,
    /// The HTML comment right above it.
    pub(crate) comment: Option<String>,
}

impl Block {
    /// The file of this repository that it shows lines of.
    pub(crate) fn shows(&self) -> Option<&str> {
        let path = self.text.lines().next()?.strip_prefix("# ")?;
        path.starts_with("deploy/").then_some(path)
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.document, self.line)
    }
}

/// Every document of the repository, by its path.
pub(crate) fn documents() -> Vec<String> {
    let top = fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let below = ["docs", "deploy"].into_iter().flat_map(|folder| files(&root().join(folder), "md"));
    let mut found: Vec<String> = top.filter(|name| name.ends_with(".md")).chain(below).collect();
    found.sort();
    found
}

/// The files with this ending below a folder, by their paths in the repository.
pub(crate) fn files(folder: &Path, ending: &str) -> Vec<String> {
    let mut found = Vec::new();
    for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            found.extend(files(&path, ending));
        } else if path.extension().is_some_and(|extension| extension == ending) {
            found.push(path.strip_prefix(root()).unwrap().display().to_string());
        }
    }
    found
}

pub(crate) fn of(document: &str) -> Vec<Block> {
    parse(document, &fs::read_to_string(root().join(document)).unwrap())
}

fn parse(document: &str, markdown: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut above: Option<String> = None;
    let mut lines = markdown.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let trimmed = line.trim_start();
        if let Some(language) = trimmed.strip_prefix("```") {
            let indent = line.len() - trimmed.len();
            let inside = lines.by_ref().map(|(_, line)| line).take_while(|line| line.trim() != "```");
            let text: String =
                inside.map(|line| format!("{}\n", line.get(indent..).unwrap_or_default())).collect();
            let (document, language) = (document.to_owned(), language.trim().to_owned());
            blocks.push(Block { document, line: number + 1, language, text, comment: above.take() });
        } else if !trimmed.is_empty() {
            let comment = trimmed.strip_prefix("<!-- ").and_then(|rest| rest.strip_suffix(" -->"));
            above = comment.map(str::to_owned);
        }
    }
    blocks
}

#[test]
fn a_block_has_its_language_its_place_and_its_comment() {
    let markdown = "x\n<!-- log -->\n```text\na\n\nb\n```\n\n  ```sh\n  ls\n  ```\n```\n```\n";
    let found = parse("d.md", markdown);
    let short: Vec<_> =
        found.iter().map(|b| (b.line, b.language.as_str(), b.text.as_str(), b.comment.as_deref())).collect();
    let wanted = [(3, "text", "a\n\nb\n", Some("log")), (9, "sh", "ls\n", None), (12, "", "", None)];
    assert_eq!(short, wanted);
}
