//! Ends a program with everything that it started: its process group, their sessions and groups, and all their descendants, as
//! far as they are still linked to it. A process that left the group and whose parent has ended is no longer.

use std::collections::HashSet;

use rustix::process::{Pid, Signal, getpid, kill_process, kill_process_group};

use crate::processes::Process;

/// How often to look for processes that were started meanwhile. All that were found are stopped, so few looks find more.
const LOOKS: usize = 16;

/// Kills the program whose process group this is.
pub(super) fn kill(group: Pid) {
    let mut family = HashSet::new();
    for _ in 0..LOOKS {
        let new = relatives(group, &family);
        if new.is_empty() {
            break;
        }
        // A stopped process starts no others, and does not end, so that its children keep their parent.
        for pid in new {
            let _ = kill_process(pid, Signal::STOP);
            family.insert(pid);
        }
    }
    let _ = kill_process_group(group, Signal::KILL);
    for pid in family {
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// Those that belong to the family, and are not known yet.
fn relatives(group: Pid, known: &HashSet<Pid>) -> Vec<Pid> {
    // In the `/proc` of another PID namespace, the numbers mean other processes.
    let Some(own) = Process::this().filter(|own| own.pid == getpid()) else { return Vec::new() };
    Process::all()
        .filter(|process| !known.contains(&process.pid))
        .filter(|process| {
            // The program itself, which may have left its group.
            let is_child = process.pid == group && process.parent == Some(own.pid);
            // The group is in bearerd's own session, if that is known: its first process may be outside of the namespace.
            let in_group = process.group == Some(group)
                && own.session.is_none_or(|session| process.session == Some(session));
            let ties = [process.parent, process.group, process.session];
            is_child || in_group || ties.into_iter().flatten().any(|tie| known.contains(&tie))
        })
        .map(|process| process.pid)
        .collect()
}
