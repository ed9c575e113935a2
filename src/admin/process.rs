//! What the kernel knows of this process; the names are those that every Prometheus client uses.

use std::fs::File;
use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

use crate::metrics::ProcessStats;

const STATUS: &str = "/proc/self/status";
const FILES: &str = "/proc/self/fd";

pub(super) fn stats() -> ProcessStats {
    let used = clock_gettime(ClockId::ProcessCPUTime);
    let cpu =
        Duration::new(u64::try_from(used.tv_sec).unwrap_or(0), u32::try_from(used.tv_nsec).unwrap_or(0));
    // Not there where `/proc` is not mounted: the samples are left out then.
    let status = File::open(STATUS).and_then(std::io::read_to_string).unwrap_or_default();
    ProcessStats {
        cpu,
        resident: kibibytes(&status, "VmRSS:"),
        virtual_memory: kibibytes(&status, "VmSize:"),
        open_files: open_files(),
        most_files: getrlimit(Resource::Nofile).current,
    }
}

/// The value of a line like `VmRSS:     8192 kB`, in bytes.
fn kibibytes(status: &str, name: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(name))?;
    value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

fn open_files() -> Option<u64> {
    let listed = std::fs::read_dir(FILES).ok()?.count();
    // Without the one that lists.
    u64::try_from(listed).ok()?.checked_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_kernel_is_read() {
        let status = "VmPeak:\t  99 kB\nVmSize:\t  12 kB\nVmRSS:\t       8 kB\nThreads:\t3\n";
        assert_eq!(kibibytes(status, "VmRSS:"), Some(8192));
        assert_eq!(kibibytes(status, "VmSize:"), Some(12_288));
        assert_eq!(kibibytes(status, "VmSwap:"), None);
        assert_eq!(kibibytes("VmRSS: many kB", "VmRSS:"), None);
    }

    #[test]
    fn this_process_is_seen() {
        let before = stats();
        let (resident, mapped) = (before.resident.unwrap(), before.virtual_memory.unwrap());
        assert!(resident > 100_000 && mapped >= resident, "{before:?}");
        assert!(before.open_files.unwrap() >= 3, "{before:?}");
        assert!(stats().cpu >= before.cpu);
    }
}
