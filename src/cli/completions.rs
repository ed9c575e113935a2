//! `bearerd completions`: what a shell needs to complete the command line.

use clap::CommandFactory;
use clap_complete::Shell;

use super::args::Args;
use super::output;

pub(super) fn completions(shell: Shell) {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "bearerd", &mut script);
    output::answer_bytes(script.trim_ascii_end());
}
