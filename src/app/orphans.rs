//! In a container, bearerd may be process 1, which inherits every process whose parent has ended. It must wait for them, or their
//! entries fill the table of processes.

use std::collections::HashSet;
use std::io;
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, WaitOptions, getpid, waitpid};

use crate::processes::Process;

/// How long a process has ended before it counts as an orphan. bearerd waits at once for those that it started.
const ENDED_FOR: Duration = Duration::from_secs(5);

/// If this is process 1, waits for the orphans that it inherits, on a thread that never ends.
pub(super) fn wait_as_process_1() -> io::Result<()> {
    if getpid().is_init() {
        thread::Builder::new().name("orphans".to_owned()).spawn(wait_for_all)?;
    }
    Ok(())
}

fn wait_for_all() {
    let mut before = HashSet::new();
    loop {
        thread::sleep(ENDED_FOR);
        let (orphans, recent): (Vec<_>, _) = ended().partition(|id| before.contains(id));
        before = recent.into_iter().collect();
        for id in orphans {
            // It has ended, and nobody else waits for it.
            let _ = waitpid(Some(id), WaitOptions::NOHANG);
        }
    }
}

/// The children of process 1 that have ended, and that nobody has waited for.
fn ended() -> impl Iterator<Item = Pid> {
    let is_orphan = |process: &Process| process.is_zombie && process.parent == Some(Pid::INIT);
    Process::all().filter(is_orphan).map(|process| process.pid)
}
