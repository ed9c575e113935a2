//! A program in the background.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal};

use super::support::blocking::wait_at_most;

/// Longer than anything takes that works, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Running {
    child: Child,
    /// Of both outputs.
    lines: Arc<Mutex<Vec<String>>>,
}

impl Running {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = Arc::default();
        collect(child.stdout.take().unwrap(), &lines);
        collect(child.stderr.take().unwrap(), &lines);
        Self { child, lines }
    }

    /// Waits until what it has printed is as wanted.
    pub(crate) fn wait(&self, what: &str, wanted: impl Fn(&[String]) -> bool) -> Vec<String> {
        let lines = || self.lines.lock().unwrap().clone();
        let came = wait_at_most(PATIENCE, || wanted(&lines()));
        assert!(came, "waited for {what}; it printed\n{}", lines().join("\n"));
        lines()
    }

    /// Ctrl-C; it must end well.
    pub(crate) fn interrupt(mut self) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, Signal::INT).unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}: {}", self.lines.lock().unwrap().join("\n"));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Already gone after `interrupt`; a test that failed must leave nothing behind.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn collect(from: impl std::io::Read + Send + 'static, lines: &Arc<Mutex<Vec<String>>>) {
    let lines = Arc::clone(lines);
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            lines.lock().unwrap().push(line);
        }
    });
}
