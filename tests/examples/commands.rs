//! Commands as they are typed in a shell.

use std::process::Command;

use super::blocks::Block;
use super::root;

/// Programs that a block may use and that are not started here, and why.
const OTHERS: &[(&str, &str)] = &[
    ("cargo", "builds or tests this repository"),
    ("echo", "is the shell's"),
    ("umask", "is the shell's"),
    ("export", "is the shell's"),
    ("cd", "is the shell's"),
    ("cat", "shows or writes a file"),
    ("printf", "is the shell's"),
    ("cp", "copies files"),
    ("mkdir", "makes a folder"),
    ("chmod", "changes modes"),
    ("chown", "changes owners"),
    ("install", "copies files"),
    ("ls", "lists files"),
    ("grep", "searches a text"),
    ("jq", "reads JSON"),
    ("kill", "sends a signal"),
    ("openssl", "makes or shows keys"),
    ("date", "tells the time"),
    ("getent", "looks a name up"),
    ("curl", "asks a server: sessions run it"),
    ("kubectl", "needs a cluster: tests/deploy checks the manifests"),
    ("kustomize", "tests/deploy runs it"),
    ("helm", "tests/deploy runs it"),
    ("kind", "needs a container engine"),
    ("docker", "needs a container engine"),
    ("podman", "needs a container engine"),
    ("systemctl", "needs systemd as the first process"),
    ("systemd-analyze", "tests/deploy runs it"),
    ("systemd-creds", "needs systemd as the first process"),
    ("journalctl", "needs systemd as the first process"),
    ("chronyc", "needs a clock's daemon"),
    ("timedatectl", "needs systemd as the first process"),
    ("apt", "changes the machine"),
    ("apt-get", "changes the machine"),
    ("dpkg", "changes the machine"),
    ("dpkg-deb", "tests/deploy runs it"),
    ("dpkg-buildpackage", "tests/deploy builds the package"),
    ("lintian", "tests/deploy runs it"),
    ("promtool", "tests/deploy runs it"),
    ("prometheus", "is a server of its own"),
    ("adduser", "changes the machine"),
    ("useradd", "changes the machine"),
    ("usermod", "changes the machine"),
    ("groupadd", "changes the machine"),
    ("man", "shows a page"),
    ("sha256sum", "compares checksums"),
    ("cosign", "needs a release"),
    ("gh", "needs a release"),
    ("git", "works on a repository"),
    ("just", "runs recipes of the justfile"),
];

/// Each `bearerd` command is parsed by the program, each other program is known, and what is named of this repository
/// is there.
pub(crate) fn parse(block: &Block, script: &str) {
    for words in simple_commands(script) {
        let Some(program) = words.first() else { continue };
        for word in &words {
            let path = word.trim_end_matches('/');
            if path.starts_with("deploy/") || path.starts_with("docs/") {
                assert!(root().join(path).exists(), "{block}: there is no {path}");
            }
        }
        // As in `kubectl exec POD -- bearerd check`.
        let handed_on = words.iter().position(|word| word == "--").and_then(|at| words.get(at + 1..));
        if let Some([inner, arguments @ ..]) = handed_on
            && inner.rsplit('/').next() == Some("bearerd")
        {
            taken(block, arguments);
        }
        match program.as_str() {
            "bearerd" => taken(block, &words[1..]),
            // Of this repository: the benchmarks take minutes, `.ci/run` runs this test.
            path if path.contains('/') => assert!(root().join(path).is_file(), "{block}: there is no {path}"),
            other => assert!(
                OTHERS.iter().any(|(known, _)| *known == other),
                "{block}: nothing tries the command {other:?} (tests/examples/commands.rs)"
            ),
        }
    }
}

/// The program takes these arguments: with a config that is not there it says so, and not that its arguments are wrong.
fn taken(block: &Block, arguments: &[String]) {
    let mut arguments = arguments.to_vec();
    if arguments.iter().any(|argument| argument == "demo") {
        // It takes no config, and would serve.
        arguments.push("--help".to_owned());
    } else {
        let given = arguments.iter().position(|argument| argument == "--config" || argument == "-c");
        match given.and_then(|at| arguments.get_mut(at + 1)) {
            Some(file) => *file = "/nonexistent/bearerd.toml".to_owned(),
            None => arguments.extend(["--config", "/nonexistent/bearerd.toml"].map(str::to_owned)),
        }
    }
    let output = Command::new(env!("CARGO_BIN_EXE_bearerd")).args(&arguments).output().unwrap();
    let code = output.status.code();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(matches!(code, Some(0 | 1 | 78)), "{block}: bearerd {}: {code:?}: {said}", arguments.join(" "));
}

/// The words of each simple command: the text between `|`, `&&`, `;`, line ends and parentheses, without comments,
/// redirections, variables that are set before it, and the content of here-documents.
fn simple_commands(script: &str) -> Vec<Vec<String>> {
    let mut commands = vec![Vec::new()];
    let mut lines = script.lines();
    while let Some(line) = lines.next() {
        let mut line = line.to_owned();
        while line.ends_with('\\') {
            line.pop();
            line.push_str(lines.next().unwrap_or_default());
        }
        words(&line, &mut commands);
        commands.push(Vec::new());
        if let Some((_, end)) = line.split_once("<<") {
            let end = end.trim().trim_matches(['\'', '"', '-']).to_owned();
            lines.by_ref().take_while(|line| line.trim() != end).for_each(drop);
        }
    }
    commands.iter().map(|words| without_prefixes(words)).filter(|words| !words.is_empty()).collect()
}

fn words(line: &str, commands: &mut Vec<Vec<String>>) {
    let mut word = String::new();
    let mut quote = None;
    let mut quoted = false;
    for c in line.chars().chain(['\n']) {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), c) => word.push(c),
            (None, '\'' | '"') => (quote, quoted) = (Some(c), true),
            (None, '#') if word.is_empty() => break,
            (None, '|' | '&' | ';' | '(' | ')' | '\n' | ' ') => {
                if quoted || !word.is_empty() {
                    commands.last_mut().unwrap().push(std::mem::take(&mut word));
                    quoted = false;
                }
                if c != ' ' {
                    commands.push(Vec::new());
                }
            }
            (None, c) => word.push(c),
        }
    }
}

fn without_prefixes(words: &[String]) -> Vec<String> {
    let set = |word: &String| {
        word.split_once('=').is_some_and(|(name, _)| name.chars().all(|c| c.is_ascii_uppercase() || c == '_'))
    };
    let words: Vec<String> = words.iter().skip_while(|word| set(word) || *word == "sudo").cloned().collect();
    let end = words.iter().position(|word| word.starts_with(['>', '<']) || word.starts_with("2>"));
    words[..end.unwrap_or(words.len())].to_vec()
}

#[test]
fn commands_are_found_in_a_script() {
    let script = "# a\nsudo bearerd check -c 'a b' # x\n(umask 077; A=b cat > f <<'EOF'\nrm -rf\nEOF\n) | jq \\\n  -r '.x | y' && ls\n";
    let found: Vec<String> = simple_commands(script).iter().map(|words| words.join("~")).collect();
    assert_eq!(found, ["bearerd~check~-c~a b", "umask~077", "cat", "jq~-r~.x | y", "ls"]);
}
