//! A document's commands, typed from the first to the last in one folder, with `bearerd` on the `PATH`.
//!
//! - `sh`: each command must succeed. `console`: the lines below a `$ ` line must be what it prints.
//! - `toml` that begins with `# bearerd.toml` is written to that file, once; a second such block only has to load.
//! - `bearerd run` and `bearerd demo` stay in the background. Typed again, the one before gets Ctrl-C first.
//! - `text` below `<!-- log -->` must appear in the log of what runs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::blocks::{self, Block};
use super::pattern;
use super::running::Running;
use super::toml_blocks;
use super::world::{Replacement, World};

/// Commands that are typed otherwise: a release build takes minutes and is the same program.
const COMMANDS: [(&str, &str); 1] = [("cargo run --", "bearerd")];

/// Commands that a session leaves out: they are about the repository, and one of them runs this.
const LEFT_OUT: [&str; 3] = ["cargo test", "cargo test -- --include-ignored", ".ci/run"];

pub(crate) struct Session<'a> {
    document: &'static str,
    world: &'a World,
    replacements: Vec<Replacement>,
    folder: TempDir,
    running: Option<Running>,
    typed: usize,
    config_written: bool,
}

/// The commands of a `console` block, a line each.
pub(crate) fn typed(console: &str) -> String {
    console.lines().filter_map(|line| line.strip_prefix("$ ")).map(|line| format!("{line}\n")).collect()
}

impl<'a> Session<'a> {
    pub(crate) fn new(document: &'static str, world: &'a World) -> Self {
        let folder = TempDir::new().unwrap();
        let tools = folder.path().join("tools");
        fs::create_dir(&tools).unwrap();
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_bearerd"), tools.join("bearerd")).unwrap();
        // A command whose output is not shown must not fail unseen.
        fs::write(tools.join(".curlrc"), "fail-with-body\n").unwrap();
        fs::create_dir(folder.path().join("work")).unwrap();
        let replacements = world.replacements();
        Self { document, world, replacements, folder, running: None, typed: 0, config_written: false }
    }

    pub(crate) fn run(mut self) {
        for block in blocks::of(self.document) {
            match (block.language.as_str(), block.comment.as_deref()) {
                ("sh", _) => block.text.lines().for_each(|line| self.type_it(&block, line)),
                ("console", _) => self.converse(&block),
                ("toml", _) if toml_blocks::is_whole(&block.text) => self.write_config(&block),
                ("text", Some("log")) => self.read_log(&block),
                _ => {}
            }
        }
        assert!(self.typed > 3, "{}: {} commands were typed", self.document, self.typed);
        if let Some(running) = self.running.take() {
            running.interrupt();
        }
    }

    /// What is really typed for what the document says.
    fn real(&self, text: &str) -> String {
        let hosts = self.replacements.iter().map(|(shown, real)| (*shown, real.as_str()));
        COMMANDS
            .into_iter()
            .chain(hosts)
            .fold(text.to_owned(), |text, (shown, real)| text.replace(shown, real))
    }

    /// What the document would say for what is really printed.
    fn shown(&self, text: &str) -> String {
        self.replacements.iter().fold(text.to_owned(), |text, (shown, real)| text.replace(real, shown))
    }

    fn work(&self) -> PathBuf {
        self.folder.path().join("work")
    }

    fn shell(&self, command: &str) -> Command {
        let tools = self.folder.path().join("tools");
        let path = format!("{}:{}", tools.display(), std::env::var("PATH").unwrap());
        let mut shell = Command::new("bash");
        shell
            .args(["-c", command])
            .current_dir(self.work())
            .env_clear()
            .env("PATH", path)
            .env("HOME", self.work())
            .stdin(Stdio::null());
        shell
    }

    /// A command whose output is not shown.
    fn type_it(&mut self, block: &Block, line: &str) {
        let command = line.split(" #").next().unwrap_or_default().trim();
        if command.is_empty() || command.starts_with('#') || LEFT_OUT.contains(&command) {
            return;
        }
        self.typed += 1;
        let command = self.real(command);
        if command == "bearerd run" || command == "bearerd demo" {
            return self.serve(block, &command);
        }
        let tools = self.folder.path().join("tools");
        let output = self.shell(&format!("{command} 2>&1")).env("CURL_HOME", tools).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{block}: {command}: {}\n{said}", output.status);
    }

    /// Starts what stays in the background, and waits until it serves.
    fn serve(&mut self, block: &Block, command: &str) {
        if let Some(before) = self.running.take() {
            before.interrupt();
        }
        let running = Running::start(self.shell(&format!("exec {command}")));
        if !command.ends_with("demo") {
            running.wait(&format!("{block}: {command} to serve"), |lines| {
                lines.iter().any(|line| line.contains("bearerd is serving"))
            });
        } else {
            // At the end of its story it prints the lines to try; they are typed too.
            let lines = running.wait("the demo's curl line", |lines| {
                lines.iter().any(|line| line.trim_start().starts_with("curl ") && line.contains("/status"))
            });
            for curl in lines.iter().map(|line| line.trim()).filter(|line| line.starts_with("curl ")) {
                let output = self.shell(&format!("{curl} --silent --fail-with-body")).output().unwrap();
                assert!(output.status.success(), "{block}: {curl}");
            }
        }
        self.running = Some(running);
    }

    /// Commands and what they print.
    fn converse(&mut self, block: &Block) {
        let mut lines = block.text.lines().peekable();
        while let Some(line) = lines.next() {
            let typed = line.strip_prefix("$ ").unwrap_or_else(|| panic!("{block}: output of no command"));
            let mut expected = Vec::new();
            while let Some(line) = lines.next_if(|line| !line.starts_with("$ ")) {
                expected.push(line);
            }
            self.typed += 1;
            let command = self.real(typed);
            let output = self.shell(&format!("{{ {command}\n}} 2>&1")).output().unwrap();
            let said = self.shown(&String::from_utf8_lossy(&output.stdout));
            assert!(output.status.success(), "{block}: {typed}: {}\n{said}", output.status);
            let real: Vec<&str> = said.lines().collect();
            assert!(
                pattern::shows(&expected, &real),
                "{block}: {typed}: shown is\n{}\nand it prints\n{said}",
                expected.join("\n")
            );
        }
    }

    fn write_config(&mut self, block: &Block) {
        if std::mem::replace(&mut self.config_written, true) {
            return toml_blocks::load(block);
        }
        let text = self.real(&block.text) + &self.world.addresses();
        let file = self.work().join("bearerd.toml");
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    }

    fn read_log(&self, block: &Block) {
        let running = self.running.as_ref().unwrap_or_else(|| panic!("{block}: nothing runs"));
        let shown: Vec<&str> =
            [pattern::ANYTHING].into_iter().chain(block.text.lines()).chain([pattern::ANYTHING]).collect();
        running.wait(&format!("{block}: the log to say\n{}", block.text), |lines| {
            let lines: Vec<String> = lines.iter().map(|line| self.shown(line)).collect();
            pattern::shows(&shown, &lines.iter().map(String::as_str).collect::<Vec<_>>())
        });
    }
}
