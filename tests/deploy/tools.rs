//! The programs that check: found on the `PATH`, or told how to get.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A program that must be on the `PATH`; where it is not, the test fails and says which package has it.
pub fn installed(program: &str, package: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
        .unwrap_or_else(|| panic!("`{program}` is not installed: install {package}"))
}

/// Runs it to its end, and fails with all that it said where it does not say yes.
pub fn succeed(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    assert!(output.status.success(), "{command:?}: {}\n{}\n{}", output.status, said[0], said[1]);
    output
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
#[should_panic(expected = "install the package that has it")]
fn a_missing_program_is_named_with_what_to_install() {
    installed("no-such-program", "the package that has it");
}

#[test]
fn a_program_is_run_where_it_is_found() {
    let output = succeed(Command::new(installed("true", "coreutils")).current_dir(root()));
    assert!(output.stdout.is_empty());
}
