//! One run of a verb that ends by itself.

use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;

use super::{Setup, within};

pub struct Output {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("no JSON ({error}): {}\n{}", self.stdout, self.stderr))
    }

    /// Fails unless the program ended with this code.
    #[track_caller]
    pub fn expect_code(&self, code: i32) {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
    }

    /// Both outputs.
    pub fn all(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

/// The program, with nothing of the tests' own environment.
pub fn command(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bearerd"));
    command
        .args(args)
        .current_dir(folder)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

pub async fn run(folder: &Path, args: &[&str]) -> Output {
    run_with(folder, args, &[]).await
}

/// What `check` says of a config that it refuses.
pub async fn refusal(setup: &Setup) -> String {
    setup.write();
    let output = run(setup.folder(), &["check"]).await;
    output.expect_code(78);
    output.all()
}

pub async fn run_with(folder: &Path, args: &[&str], env: &[(&str, &str)]) -> Output {
    let what = format!("bearerd {} to end", args.join(" "));
    let output = within(&what, command(folder, args).envs(env.iter().copied()).output()).await.unwrap();
    Output {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
