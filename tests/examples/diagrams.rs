//! Sequence diagrams in Mermaid's language.

use std::collections::BTreeSet;

use super::blocks::Block;

/// Longest first: `-->>` is no `->>`.
const ARROWS: [&str; 4] = ["-->>", "->>", "-->", "->"];
/// What is closed by `end`.
const FRAMES: [&str; 5] = ["loop", "alt", "opt", "par", "critical"];

/// Each participant is declared once and used, each arrow leads from one to another, each frame ends.
pub(crate) fn read(block: &Block) {
    let mut lines = block.text.lines().map(str::trim).filter(|line| !line.is_empty());
    assert_eq!(lines.next(), Some("sequenceDiagram"), "{block}: no other kind of diagram is read");
    let (mut declared, mut used, mut frames) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
    for line in lines {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "participant" | "actor" => {
                let name = rest.split(" as ").next().unwrap();
                assert!(declared.insert(name), "{block}: {name} is declared twice");
            }
            "Note" => {
                let (place, text) = rest.split_once(": ").unwrap_or_else(|| panic!("{block}: {line}"));
                let names = place.strip_prefix("over ").unwrap_or_else(|| panic!("{block}: {line}"));
                used.extend(names.split(','));
                assert!(!text.is_empty(), "{block}: {line}");
            }
            "end" => assert!(frames.pop().is_some(), "{block}: an `end` too many"),
            "else" => assert_eq!(frames.last(), Some(&"alt"), "{block}: {line}"),
            "and" => assert_eq!(frames.last(), Some(&"par"), "{block}: {line}"),
            frame if FRAMES.contains(&frame) => frames.push(frame),
            _ => used.extend(ends(line).unwrap_or_else(|| panic!("{block}: no arrow: {line}"))),
        }
    }
    assert!(frames.is_empty(), "{block}: {frames:?} has no `end`");
    assert_eq!(declared, used, "{block}: participants that are declared, and those that take part");
}

/// Both ends of a message; `;` would end it, and `#` begin an escape.
fn ends(line: &str) -> Option<[&str; 2]> {
    let (arrow, text) = line.split_once(": ")?;
    let (from, to) = ARROWS.iter().find_map(|it| arrow.split_once(it))?;
    let plain = |name: &str| !name.is_empty() && name.chars().all(char::is_alphanumeric);
    (plain(from) && plain(to) && !text.contains([';', '#'])).then_some([from, to])
}

fn diagram(text: &str) -> Block {
    let text = format!("sequenceDiagram\n{text}");
    Block { document: "d.md".into(), line: 1, language: "mermaid".into(), text, comment: None }
}

#[test]
fn a_diagram_that_fits_together_is_taken() {
    read(&diagram(
        "participant A as App\nactor B\nloop each second\nA->>B: x\nB-->>A: y\nend\nNote over A,B: z\n",
    ));
}

#[test]
fn a_diagram_that_does_not_is_refused() {
    for wrong in [
        "participant A\nA->>B: nobody declared B",
        "participant A\nparticipant B\nA->>A: B does nothing",
        "participant A\nloop\nA->>A: x",
        "participant A\nA->>A: x\nend",
        "participant A\nA->A",
        "participant A\nA->>A: x; y",
        "graph TD",
    ] {
        let block = diagram(wrong);
        assert!(std::panic::catch_unwind(|| read(&block)).is_err(), "{wrong}");
    }
}
