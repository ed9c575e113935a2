//! What the process asks of the kernel before it holds a secret.

use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};

/// No core dumps, no look into our memory by other processes of this user, and as many open files as allowed.
/// Returns what could not be had; none of it stops the program.
pub fn harden() -> Vec<String> {
    let mut refused = Vec::new();
    if let Err(error) = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }) {
        refused.push(format!("core dumps cannot be turned off (RLIMIT_CORE): {error}"));
    }
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        refused.push(format!("memory cannot be hidden from debuggers (PR_SET_DUMPABLE): {error}"));
    }
    let files = getrlimit(Resource::Nofile);
    if files.current != files.maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: files.maximum, ..files })
    {
        refused.push(format!("the limit of open files cannot be raised (RLIMIT_NOFILE): {error}"));
    }
    refused
}

/// A panic is logged with its place and thread, never with its message: that could hold a caller's data.
pub fn install_panic_hook() {
    std::panic::set_hook(Box::new(|info| {
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("unnamed");
        let place = info.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
        tracing::error!(
            event = "process.panicked", %thread, %place,
            "a fault of ours: panicked; please report it with this place"
        );
    }));
}
