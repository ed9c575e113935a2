//! The program as a child of bearerd, in the same process group and with the same terminal: signals, and the exit code.
//!
//! A signal that the terminal sends (Ctrl-C) reaches the program by itself, so it is not passed on, and bearerd stays until the
//! program has ended. A signal that somebody sends to bearerd alone is passed on. bearerd cannot see the difference: what comes
//! while it is in the foreground of a terminal counts as the terminal's.

use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use rustix::fs::{Access, access};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, getpgrp, getpid, getppid, kill_process};
use rustix::termios::tcgetpgrp;
use tokio::process::Child;
use tokio::signal::unix::{self, SignalKind};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::Environment;
use crate::app::with_inherited_limits;
use crate::cli::{Exit, Failure, ended_by};

/// What is passed on to the program, beside the real-time signals: all that would end bearerd alone, but those of a fault of its
/// own (`SIGSEGV` and such) and `SIGPIPE`, which says that its own output is closed. `SIGWINCH` ends some servers in order
/// (`STOPSIGNAL` of Apache's image). `SIGTSTP` stays as it is: a program without a shell above it must not stop.
const NAMED: [Signal; 12] = [
    Signal::INT,
    Signal::QUIT,
    Signal::TERM,
    Signal::HUP,
    Signal::USR1,
    Signal::USR2,
    Signal::WINCH,
    Signal::CONT,
    Signal::ABORT,
    Signal::ALARM,
    Signal::VTALARM,
    Signal::PROF,
];
/// What the kernel sends to bearerd for its own CPU time and its own writes. It is neither for the program nor a reason to end: the
/// write fails, and says so.
const OWN_LIMITS: [Signal; 2] = [Signal::XCPU, Signal::XFSZ];
/// Those that a terminal or its shell sends to the whole foreground group.
const FROM_TERMINAL: [Signal; 4] = [Signal::INT, Signal::QUIT, Signal::WINCH, Signal::CONT];
/// Those of them that stop containers (`STOPSIGNAL` of nginx's and Apache's images), which only process 1 gets. A program that gets
/// one twice, because it came from a terminal after all, does nothing else. A second `SIGINT` would end many at once.
const STOPS_CONTAINERS: [Signal; 2] = [Signal::QUIT, Signal::WINCH];

/// Those that end a process on Linux alone.
#[cfg(target_os = "linux")]
fn of_linux() -> impl Iterator<Item = Signal> {
    use rustix_libc_wrappers::process::SignalExt;
    [Signal::IO, Signal::POWER, Signal::STKFLT].into_iter().chain((0..).map_while(Signal::rt))
}

#[cfg(not(target_os = "linux"))]
fn of_linux() -> impl Iterator<Item = Signal> {
    std::iter::empty()
}

/// The signals that bearerd was told to ignore, as `nohup` does. A program inherits this, so bearerd does not touch them.
pub(in crate::cli) struct IgnoredSignals(u64);

impl IgnoredSignals {
    pub(in crate::cli) fn of_this_process() -> Self {
        let status =
            std::fs::File::open("/proc/self/status").and_then(io::read_to_string).unwrap_or_default();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        Self(mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default())
    }

    pub(in crate::cli) fn has(&self, signal: Signal) -> bool {
        u32::try_from(signal.as_raw() - 1)
            .is_ok_and(|bit| self.0.checked_shr(bit).is_some_and(|mask| mask & 1 == 1))
    }
}

/// The signals that bearerd gets from now on. None of them ends it by itself any more.
pub(super) fn listen() -> Result<UnboundedReceiver<Signal>, Failure> {
    let ignored = IgnoredSignals::of_this_process();
    signals_except(&ignored)
        .map_err(|error| Failure::new(Exit::No, format!("cannot listen to signals: {error}")))
}

/// A signal that ends bearerd before there is a program to pass it on to.
pub(super) async fn ended_early(signals: &mut UnboundedReceiver<Signal>) -> Failure {
    loop {
        match signals.recv().await {
            Some(Signal::WINCH | Signal::CONT) => {}
            Some(signal) => {
                return ended_by(signal, " before the program was started");
            }
            None => std::future::pending().await,
        }
    }
}

/// Runs the program to its end.
pub(super) async fn run(
    command: &[OsString],
    environment: &Environment,
    signals: &mut UnboundedReceiver<Signal>,
) -> Result<Exit, Failure> {
    let Some((program, arguments)) = command.split_first() else {
        return Err(Failure::new(Exit::Usage, "no program is named"));
    };
    let child = with_inherited_limits(|| start(program, arguments, environment));
    let mut child = child.map_err(|error| not_started(program, &error))?;
    let status = wait(&mut child, signals).await;
    status.map(exit).map_err(|error| Failure::new(Exit::No, format!("cannot wait for the program: {error}")))
}

/// This program, also if its file was replaced meanwhile.
const OURSELVES: &str = "/proc/self/exe";
/// The first argument of the step between bearerd and the program.
const STEP: &str = "__exec-step";

/// Only a process itself can say that it ends with its parent, so bearerd starts itself first, and becomes the program then.
fn start(program: &OsStr, arguments: &[OsString], environment: &Environment) -> io::Result<Child> {
    let mut command = first_step(program);
    command.args(arguments);
    environment.apply(&mut command);
    tokio::process::Command::from(command).spawn()
}

fn first_step(program: &OsStr) -> Command {
    if !Path::new(OURSELVES).exists() {
        return Command::new(program);
    }
    let mut command = Command::new(OURSELVES);
    command.arg0("bearerd").arg(STEP).arg(std::process::id().to_string()).arg(program);
    command
}

/// Becomes the program, if these are the arguments of this step. It gets SIGTERM if bearerd ends before it.
pub(in crate::cli) fn second_step(args: &[OsString]) -> Option<Result<Exit, Failure>> {
    let [_, step, parent, program, arguments @ ..] = args else { return None };
    if step != STEP {
        return None;
    }
    let is_there =
        || getppid().is_some_and(|now| now.as_raw_nonzero().to_string() == *parent.to_string_lossy());
    if let Err(error) = end_with_parent() {
        return Some(Err(not_started(program, &error)));
    }
    // It may have ended before it was asked for.
    if !is_there() {
        return Some(Ok(Exit::Program(TERMINATED)));
    }
    Some(Err(not_started(program, &become_program(program, arguments))))
}

#[cfg(target_os = "linux")]
fn end_with_parent() -> io::Result<()> {
    Ok(rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?)
}

/// Other systems cannot, and have no [`OURSELVES`].
#[cfg(not(target_os = "linux"))]
fn end_with_parent() -> io::Result<()> {
    Ok(())
}

/// 128 + SIGTERM
const TERMINATED: u8 = 143;

/// Returns only if the program cannot be run. A script without `#!` runs in the shell, as from any shell.
fn become_program(program: &OsStr, arguments: &[OsString]) -> io::Error {
    let error = Command::new(program).args(arguments).exec();
    match found(program) {
        Some(script) if error.raw_os_error() == Some(Errno::NOEXEC.raw_os_error()) => {
            Command::new("/bin/sh").arg(script).args(arguments).exec()
        }
        _ => error,
    }
}

/// Where the program is, by `PATH` if its name has no slash.
fn found(program: &OsStr) -> Option<PathBuf> {
    if program.as_bytes().contains(&b'/') {
        return Some(program.into());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|path| path.is_file() && access(path, Access::EXEC_OK).is_ok())
}

fn not_started(program: &OsStr, error: &io::Error) -> Failure {
    let (code, why) = match error.kind() {
        ErrorKind::NotFound if found(program).is_some_and(|path| path.exists()) => {
            let why =
                "its interpreter does not exist: is the first line (#!) right, and does it end with LF?";
            // As shells say it.
            (127, format!("it cannot be run: {why}"))
        }
        ErrorKind::NotFound => (127, "there is no such program".to_owned()),
        _ => (126, format!("it cannot be run: {error}")),
    };
    Failure::new(Exit::Program(code), format!("{}: {why}", program.display()))
}

/// As a shell says it.
fn exit(status: ExitStatus) -> Exit {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    Exit::Program(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX))
}

fn signals_except(ignored: &IgnoredSignals) -> io::Result<UnboundedReceiver<Signal>> {
    let (sender, receiver) = unbounded_channel();
    for signal in NAMED.into_iter().chain(of_linux()).filter(|signal| !ignored.has(*signal)) {
        let mut signals = unix::signal(SignalKind::from_raw(signal.as_raw()))?;
        let sender = sender.clone();
        tokio::spawn(async move { while signals.recv().await.is_some() && sender.send(signal).is_ok() {} });
    }
    for signal in OWN_LIMITS.into_iter().filter(|signal| !ignored.has(*signal)) {
        // A handler and not "ignore", which the program would inherit. It stays after this value.
        drop(unix::signal(SignalKind::from_raw(signal.as_raw()))?);
    }
    Ok(receiver)
}

async fn wait(child: &mut Child, signals: &mut UnboundedReceiver<Signal>) -> io::Result<ExitStatus> {
    let id = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    loop {
        tokio::select! {
            status = child.wait() => return status,
            Some(signal) = signals.recv() => {
                if let Some(id) = id.filter(|_| !has_program(signal)) {
                    // It may have ended just now, which the next turn notices.
                    let _ = kill_process(id, signal);
                }
            }
        }
    }
}

/// Whether the signal reached the program by itself.
fn has_program(signal: Signal) -> bool {
    let for_container = getpid().is_init() && STOPS_CONTAINERS.contains(&signal);
    FROM_TERMINAL.contains(&signal) && !for_container && is_in_foreground()
}

/// Whether a terminal sends its signals to bearerd, and so to the program. Not every container with a terminal has `/dev/tty`.
fn is_in_foreground() -> bool {
    let by = |terminal: BorrowedFd<'_>| tcgetpgrp(terminal).is_ok_and(|group| group == getpgrp());
    std::fs::File::open("/dev/tty").is_ok_and(|terminal| by(terminal.as_fd()))
        || by(io::stdin().as_fd())
        || by(io::stdout().as_fd())
        || by(io::stderr().as_fd())
}
