//! Ends a program with everything that it started: its process group, their sessions and groups, and all their descendants, as
//! far as they are still linked to it. A process that left the group and whose parent has ended is no longer.

use std::collections::HashSet;

use rustix::process::{Pid, Signal, getsid, kill_process, kill_process_group};

/// How often to look for processes that were started meanwhile. All that were found are stopped, so few looks find more.
const LOOKS: usize = 16;

/// Kills the program whose process group this is. Returns the processes that were killed, which may need to be reaped.
pub(super) fn kill(group: Pid) -> Vec<Pid> {
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
    for pid in &family {
        let _ = kill_process(*pid, Signal::KILL);
    }
    family.into_iter().collect()
}

/// Those that belong to the family, and are not known yet. None on a system without `/proc`.
fn relatives(group: Pid, known: &HashSet<Pid>) -> Vec<Pid> {
    let session = getsid(None).ok();
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let processes = entries.filter_map(|entry| Process::read(entry.ok()?.file_name().to_str()?));
    processes
        .filter(|process| !known.contains(&process.pid))
        .filter(|process| {
            // The group is in bearerd's own session.
            let in_group = process.group == Some(group) && process.session == session;
            let ties = [process.parent, process.group, process.session];
            in_group || ties.into_iter().flatten().any(|tie| known.contains(&tie))
        })
        .map(|process| process.pid)
        .collect()
}

struct Process {
    pid: Pid,
    parent: Option<Pid>,
    group: Option<Pid>,
    session: Option<Pid>,
}

impl Process {
    /// From `/proc/PID/stat`.
    #[expect(clippy::disallowed_methods, reason = "no file that the config names")]
    fn read(pid: &str) -> Option<Self> {
        let number = |text: &str| Pid::from_raw(text.parse().ok()?);
        let pid_number = number(pid)?;
        let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
        // The name of the program may contain anything.
        let end = stat.iter().rposition(|&byte| byte == b')')?;
        let rest = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
        let mut fields = rest.split_ascii_whitespace().skip(1).map(number);
        let (parent, group, session) = (fields.next()?, fields.next()?, fields.next()?);
        Some(Self { pid: pid_number, parent, group, session })
    }
}
