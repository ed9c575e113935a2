//! In a container, bearerd may be process 1, which inherits every process whose parent has ended. It must wait for them, or their
//! entries fill the table of processes.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::time::Duration;

use rustix::process::{Pid, WaitOptions, waitpid};

/// How long a process has ended before it counts as an orphan. bearerd waits at once for those that it started.
const ENDED_FOR: Duration = Duration::from_secs(5);

/// Waits for the orphans that process 1 inherits. Never ends.
pub(super) async fn wait_for_all() {
    let mut before = HashSet::new();
    loop {
        tokio::time::sleep(ENDED_FOR).await;
        let (orphans, recent) = ended().into_iter().partition(|id| before.contains(id));
        before = recent;
        for id in HashSet::into_iter(orphans) {
            // It has ended, and nobody else waits for it.
            let _ = waitpid(Some(id), WaitOptions::NOHANG);
        }
    }
}

/// The children of process 1 that have ended, and that nobody has waited for.
fn ended() -> HashSet<Pid> {
    let Ok(processes) = std::fs::read_dir("/proc") else { return HashSet::new() };
    let ids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    ids.filter_map(Pid::from_raw).filter(|id| is_orphan(*id)).collect()
}

fn is_orphan(id: Pid) -> bool {
    let stat = File::open(format!("/proc/{}/stat", id.as_raw_nonzero())).and_then(io::read_to_string);
    let stat = stat.unwrap_or_default();
    // After the name of the program in parentheses, which may have some itself: the state, and the parent.
    let mut fields = stat.rsplit(") ").next().unwrap_or_default().split(' ');
    (fields.next(), fields.next()) == (Some("Z"), Some("1"))
}
