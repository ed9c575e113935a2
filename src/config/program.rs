//! Programs whose output is a value (`{ exec = […] }`): started without a shell, one run at a time, and killed with their
//! children at `timeout`.

#![expect(clippy::disallowed_types, reason = "held for a moment where a config is loaded")]

pub(super) mod arguments;
mod family;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::hash::{Hash, Hasher};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};
use zeroize::Zeroizing;

use super::made::{Known, Made, Maker, Outcome, Recipe};
use crate::aside::{Aside, SharedWork};
use crate::config::files;
use crate::config::reference::Source;
use crate::config::schema::is_secret_literal;
use crate::redact::Redactor;
use crate::secret::Secret;

/// The most bytes of a program's output, and of what is kept of its stderr.
const OUTPUT_LIMIT: usize = 64 * 1024;
/// The most lines of stderr that are logged after one run, and the most bytes of a line.
const LINES_LIMIT: usize = 64;
const LINE_LIMIT: usize = 512;
/// After a program ended, a child may keep its output open for this long.
const LAST_OUTPUT: Duration = Duration::from_secs(1);
/// Extra time for a system that does not even start the program (its file is on a mount that hangs).
const GRACE: Duration = Duration::from_secs(2);
/// The variables that a program inherits from bearerd's environment.
const INHERITED: [&str; 3] = ["PATH", "HOME", "LANG"];
/// Where programs are looked for without `PATH`.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Threads that start programs and wait for them.
static PROGRAMS: Aside = Aside::new("programs", 64);
static RUNS: LazyLock<Arc<SharedWork<Outcome>>> = LazyLock::new(|| Arc::new(SharedWork::new(&PROGRAMS)));
static KNOWN: Known<ProgramConfig> = Mutex::new(Vec::new());

/// The limit of open files that programs get.
static FILES: OnceLock<Rlimit> = OnceLock::new();

/// Programs get this limit of open files, and not the one to which bearerd raises its own, because those that use `select` fail with
/// descriptors above 1024. A program gets it as soon as it runs; only what it does first may still see bearerd's limit.
pub fn limit_files(limit: Rlimit) {
    let _ = FILES.set(limit);
}

/// The programs of this process.
struct Programs {
    /// How many are being started, whose process group is not known yet.
    starting: usize,
    /// The process groups of those that run.
    running: BTreeSet<i32>,
    /// The process ends, and starts no more.
    ended: bool,
}

static ALL: Mutex<Programs> = Mutex::new(Programs { starting: 0, running: BTreeSet::new(), ended: false });
/// Notified when `starting` falls.
static STARTED: Condvar = Condvar::new();
/// How long the end waits for programs that are being started: a mount may hang.
const LAST_START: Duration = Duration::from_secs(1);

fn all() -> MutexGuard<'static, Programs> {
    ALL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Kills all programs that run now, at the end of the process. No other starts after this.
pub fn end_all() {
    let mut programs = all();
    programs.ended = true;
    let waited = STARTED.wait_timeout_while(programs, LAST_START, |programs| programs.starting > 0);
    let (programs, _) = waited.unwrap_or_else(PoisonError::into_inner);
    for group in programs.running.iter().copied().filter_map(Pid::from_raw) {
        family::kill(group);
    }
}

/// A program that [`end_all`] knows of.
struct Running(Option<i32>);

impl Running {
    /// Starts a program. `None`: the process ends.
    fn start(command: &mut Command) -> Option<(io::Result<Child>, Self)> {
        let mut programs = all();
        if programs.ended {
            return None;
        }
        programs.starting += 1;
        drop(programs);
        let child = command.spawn();
        let group = child.as_ref().ok().and_then(Child::id).and_then(|id| i32::try_from(id).ok());
        let mut programs = all();
        programs.starting -= 1;
        programs.running.extend(group);
        STARTED.notify_all();
        Some((child, Self(group)))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            all().running.remove(&group);
        }
    }
}

/// What identifies a program: equal tables are the same program.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct ProgramConfig {
    /// Never empty. A first word with a slash is a path, absolute or below `folder`; any other is looked for in `PATH`.
    pub command: Vec<String>,
    /// The folder of the config file, where the program starts.
    pub folder: PathBuf,
    pub env: BTreeMap<String, Source>,
    /// Never zero.
    pub timeout: Duration,
    /// How long an output is used. Zero: for one token request.
    pub keep: Duration,
}

impl Hash for ProgramConfig {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.command, &self.folder, &self.env, self.timeout, self.keep).hash(state);
    }
}

/// The program of a table.
pub(super) type Program = Maker<ProgramConfig>;

/// The program of this table: the one of a config that is in use, or a new one.
pub(super) fn program(config: ProgramConfig) -> Arc<Program> {
    Maker::of(config, &KNOWN)
}

impl Recipe for ProgramConfig {
    fn make(&self, earlier: &[Arc<Secret>]) -> Made {
        Made { outcome: self.run(earlier), keep: self.keep, lasts: Duration::ZERO }
    }

    fn threads(&self) -> &'static Arc<SharedWork<Outcome>> {
        &RUNS
    }

    fn limit(&self) -> (Duration, &'static str) {
        (
            self.timeout + LAST_OUTPUT + GRACE,
            "cannot be started: the system does not respond; check whether the folder of the program hangs",
        )
    }

    fn unmakeable(&self) -> Option<String> {
        self.find().err()
    }
}

impl ProgramConfig {
    /// For messages. Arguments may be secret.
    pub(super) fn name(&self) -> &str {
        self.command.first().map_or("", String::as_str)
    }

    /// The program's file, if the command names it and not a program of `PATH`.
    pub(super) fn path(&self) -> Option<PathBuf> {
        Some(self.name()).filter(|name| name.contains('/')).map(|name| self.folder.join(name))
    }

    /// The program's file.
    fn find(&self) -> Result<PathBuf, String> {
        let name = self.name();
        if let Some(path) = self.path() {
            return match files::state(&path) {
                Ok(state) if state.is_file() && is_executable(&path) => Ok(path),
                Ok(state) if state.is_file() => Err(format!(
                    "may not be run by this user: run `chmod +x {0}`, or check the rights on {0} and its folders",
                    path.display()
                )),
                Ok(_) => Err(format!("{} is not a file; name the program itself", path.display())),
                Err(error) => Err(format!("{}: {}", path.display(), super::document::io_reason(&error))),
            };
        }
        let folders = std::env::var_os("PATH").unwrap_or_else(|| OsString::from(DEFAULT_PATH));
        let absolute = |folder: PathBuf| std::path::absolute(folder.join(name)).ok();
        let there = |file: &PathBuf| files::state(file).is_ok_and(|state| state.is_file());
        let files = std::env::split_paths(&folders).filter_map(absolute).filter(there);
        let (mut found, mut refused) = (None, None);
        for file in files {
            match is_executable(&file) {
                true => found = found.or(Some(file)),
                false => refused = refused.or(Some(file)),
            }
        }
        found.ok_or_else(|| match refused {
            Some(file) => format!("{0} may not be run by this user: run `chmod +x {0}`", file.display()),
            None if name.contains(char::is_whitespace) => {
                "is a program's name with a blank in it: write each argument as a string of its own"
                    .to_owned()
            }
            None => format!(
                "not found in PATH ({}): install it, or write its full path",
                folders.to_string_lossy()
            ),
        })
    }

    /// Runs the program. Blocks.
    fn run(&self, earlier: &[Arc<Secret>]) -> Outcome {
        let mut known = Redactor::default();
        earlier.iter().for_each(|value| known.add(value));
        let mut ran = None;
        let outcome = self.start(&mut known).and_then(|command| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|error| format!("cannot be watched by bearerd: {error}"))?;
            let (run, outcome) = runtime.block_on(self.watch(command));
            ran = run;
            outcome
        });
        if let Some(Ran { printed, said, more }) = ran {
            known.add(&Secret::new(without_line_end(&printed)));
            self.log(&said, more, &known, outcome.is_ok());
        }
        outcome
    }

    /// The command to start. Adds the secrets that the program gets to `known`.
    fn start(&self, known: &mut Redactor) -> Result<Command, String> {
        arguments::secrets(&self.command).for_each(|value| known.add(&Secret::from(value)));
        let mut command = Command::new(self.find()?);
        command.arg0(self.name()).args(self.command.iter().skip(1)).current_dir(&self.folder);
        command.env_clear();
        command.envs(INHERITED.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        for (name, source) in &self.env {
            let (value, _) =
                source.to_send().map_err(|error| format!("env.{name} cannot be read: {error}"))?;
            if value.expose().contains(&0) {
                return Err(format!("env.{name}: {} contains a zero byte", source.place()));
            }
            if !source.is_literal() || is_secret_literal(name, value.expose()) {
                known.add(&value);
                source.earlier().iter().for_each(|earlier| known.add(earlier));
            }
            command.env(name, OsStr::from_bytes(value.expose()));
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0).kill_on_drop(true);
        Ok(command)
    }

    /// Starts the program, reads what it prints, and waits for its end.
    async fn watch(&self, mut command: Command) -> (Option<Ran>, Outcome) {
        let Some((started, running)) = Running::start(&mut command) else {
            return (None, Err("was not started, because bearerd ends".to_owned()));
        };
        let mut child = match started {
            Ok(child) => child,
            Err(error) => return (None, Err(self.unstarted(&error))),
        };
        let group = running.0.and_then(Pid::from_raw);
        if let Some((pid, limit)) = group.zip(FILES.get()) {
            // The system refuses it if the program has ended, or runs as another user by its mode.
            let _ = prlimit(Some(pid), Resource::Nofile, *limit);
        }
        let mut printed = Zeroizing::new(Vec::with_capacity(OUTPUT_LIMIT + 1));
        let mut said = Zeroizing::new(Vec::with_capacity(OUTPUT_LIMIT));
        let mut more = false;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let end = {
            // Too much output ends the run, although a program that ignores the closed pipe keeps its stderr open.
            let output = async { read_output(stdout, &mut printed).await.then_some(()).ok_or(()) };
            let rest = read_rest(stderr, &mut said, &mut more).map(Ok);
            let reading = async { tokio::try_join!(output, rest).is_ok() };
            let ending = end_of(&mut child, reading);
            tokio::time::timeout(self.timeout, ending).await.unwrap_or(End::TimedOut)
        };
        if !matches!(end, End::Exited(_)) {
            kill(group, &mut child).await;
        }
        let outcome = self.judge(&end, &printed, &said);
        (Some(Ran { printed, said, more }), outcome)
    }

    /// Programs start in the folder of the config file, so without it none can.
    fn unstarted(&self, error: &io::Error) -> String {
        let why = match files::state(&self.folder) {
            Ok(state) if state.is_dir() => match is_executable(&self.folder) {
                true => return unstarted(error),
                false => "this user may not enter it".to_owned(),
            },
            Ok(_) => "it is not a folder".to_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => "it is not there any more".to_owned(),
            Err(error) => error.to_string(),
        };
        format!("cannot be started in the config file's folder {}: {why}", self.folder.display())
    }

    fn judge(&self, end: &End, printed: &[u8], said: &[u8]) -> Outcome {
        let see = match said.iter().all(u8::is_ascii_whitespace) {
            true => "it wrote nothing to stderr",
            false => "what it wrote to stderr is in bearerd's log (program.stderr)",
        };
        let timeout = humantime::format_duration(self.timeout);
        match end {
            End::Exited(Ok(status)) | End::Left(Ok(status)) if status.success() => {
                let value = without_line_end(printed);
                match value.is_empty() {
                    true => Err(format!("printed nothing; {see}")),
                    false => Ok(Arc::new(Secret::new(value))),
                }
            }
            End::Exited(Ok(status)) | End::Left(Ok(status)) => Err(match (status.code(), status.signal()) {
                (Some(code), _) => format!("ended with exit code {code}; {see}"),
                (None, Some(signal)) => format!("was ended by signal {signal}{}; {see}", signal_name(signal)),
                (None, None) => format!("failed; {see}"),
            }),
            End::Exited(Err(error)) | End::Left(Err(error)) => Err(format!("cannot be waited for: {error}")),
            End::TimedOut => Err(format!(
                "did not end within {timeout}, and was killed with its children: raise `timeout`, or find out what it waits for (it \
                 has no terminal and no input); {see}"
            )),
            End::TooMuch => Err(format!(
                "printed more than {} KiB, and was killed: it must print only the value",
                OUTPUT_LIMIT / 1024
            )),
        }
    }

    /// Logs what the program wrote to stderr, without control characters and without lines that contain a known secret.
    fn log(&self, said: &[u8], more: bool, known: &Redactor, worked: bool) {
        let text = Zeroizing::new(String::from_utf8_lossy(said).into_owned());
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        let dropped = lines.len().saturating_sub(LINES_LIMIT);
        // The last lines say why a program failed.
        for line in lines.into_iter().skip(dropped) {
            let line = known.show(line, LINE_LIMIT);
            self.log_line(line.as_deref().unwrap_or("(a line that contains a secret)"), worked);
        }
        if dropped > 0 || more {
            self.log_line("(and more, which is not logged)", worked);
        }
    }

    fn log_line(&self, line: &str, worked: bool) {
        let program = self.name();
        if worked {
            tracing::info!(event = "program.stderr", program, "{line}");
        } else {
            tracing::warn!(event = "program.stderr", program, "{line}");
        }
    }
}

/// What a run printed.
struct Ran {
    printed: Zeroizing<Vec<u8>>,
    said: Zeroizing<Vec<u8>>,
    /// stderr had more than [`OUTPUT_LIMIT`].
    more: bool,
}

enum End {
    Exited(io::Result<ExitStatus>),
    /// It ended and left children that keep its output open.
    Left(io::Result<ExitStatus>),
    TimedOut,
    TooMuch,
}

/// Waits until the program ended and its output was read, but not for children that keep the output open.
async fn end_of(child: &mut Child, reading: impl Future<Output = bool>) -> End {
    tokio::pin!(reading);
    let status = tokio::select! {
        complete = &mut reading => match complete {
            true => return End::Exited(child.wait().await),
            false => return End::TooMuch,
        },
        status = child.wait() => status,
    };
    match tokio::time::timeout(LAST_OUTPUT, reading).await {
        Ok(false) => End::TooMuch,
        Ok(true) => End::Exited(status),
        Err(_) => End::Left(status),
    }
}

/// Reads everything into `into`. `false`: it is more than [`OUTPUT_LIMIT`].
async fn read_output(from: Option<impl AsyncRead + Unpin>, into: &mut Vec<u8>) -> bool {
    let Some(from) = from else { return true };
    // `into` has room for all of it, so no unwiped copy is left behind. A pipe that breaks has ended.
    let _ = from.take(OUTPUT_LIMIT as u64 + 1).read_to_end(into).await;
    into.len() <= OUTPUT_LIMIT
}

/// Reads the first [`OUTPUT_LIMIT`] bytes into `into`, and discards the rest.
async fn read_rest(from: Option<impl AsyncRead + Unpin>, into: &mut Vec<u8>, more: &mut bool) {
    let Some(mut from) = from else { return };
    let mut chunk = Zeroizing::new([0; 4096]);
    while let Ok(length @ 1..) = from.read(chunk.as_mut_slice()).await {
        let room = OUTPUT_LIMIT - into.len();
        into.extend(chunk.iter().take(length.min(room)));
        *more |= length > room;
    }
}

/// Kills the program and what it started.
async fn kill(group: Option<Pid>, child: &mut Child) {
    group.into_iter().for_each(family::kill);
    // Without `/proc`, a program that left its group is not found. An error: it has ended.
    let _ = child.start_kill();
    let _ = child.wait().await;
}

fn unstarted(error: &io::Error) -> String {
    match error.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
        Some(rustix::io::Errno::NOEXEC) => {
            "is not a program: a script needs a first line such as `#!/bin/sh`".to_owned()
        }
        Some(rustix::io::Errno::NOENT) => {
            "cannot be started: the interpreter in its first line, or its loader, does not exist".to_owned()
        }
        _ => format!("cannot be started: {error}"),
    }
}

fn is_executable(path: &Path) -> bool {
    rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}

fn signal_name(signal: i32) -> String {
    const NAMES: [(Signal, &str); 6] = [
        (Signal::HUP, "SIGHUP"),
        (Signal::INT, "SIGINT"),
        (Signal::ABORT, "SIGABRT"),
        (Signal::KILL, "SIGKILL, perhaps for its memory"),
        (Signal::SEGV, "SIGSEGV"),
        (Signal::TERM, "SIGTERM"),
    ];
    let name = NAMES.iter().find(|(known, _)| known.as_raw() == signal);
    name.map_or_else(String::new, |(_, name)| format!(" ({name})"))
}

/// Removes one trailing line end, which `echo` adds.
fn without_line_end(bytes: &[u8]) -> &[u8] {
    bytes.strip_suffix(b"\r\n").or_else(|| bytes.strip_suffix(b"\n")).unwrap_or(bytes)
}
