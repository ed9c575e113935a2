//! Pythons with packages of their own.

use std::path::{Path, PathBuf};

/// A Python with the packages of `tests/<name>/requirements.txt`: installed once a checkout, however many tests and test
/// runs want it at the same time.
pub async fn python(name: &'static str) -> PathBuf {
    tokio::task::spawn_blocking(move || install(name)).await.unwrap()
}

fn install(name: &str) -> PathBuf {
    let wanted = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name).join("requirements.txt");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&folder).unwrap();
    let lock = std::fs::File::create(folder.join(".lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let python = folder.join("venv/bin/python");
    let (wanted_text, done) = (std::fs::read(&wanted).unwrap(), folder.join(".installed"));
    if std::fs::read(&done).is_ok_and(|found| found == wanted_text) {
        return python;
    }
    let run = |command: &mut std::process::Command| {
        let output =
            command.output().unwrap_or_else(|error| panic!("{command:?}: {error}: install python3-venv"));
        let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        assert!(output.status.success(), "{command:?} failed: {said:?}");
    };
    run(std::process::Command::new("python3").args(["-m", "venv", "--clear"]).arg(folder.join("venv")));
    let pip = ["-m", "pip", "install", "--quiet", "--require-hashes", "--disable-pip-version-check", "-r"];
    run(std::process::Command::new(&python).args(pip).arg(&wanted));
    std::fs::write(done, wanted_text).unwrap();
    python
}
