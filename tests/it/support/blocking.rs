//! For tests that block. Other test programs and the library's own tests use this file too, so it uses nothing else of this
//! folder.

#![allow(dead_code, reason = "each test program uses a part")]

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use tokio::net::TcpSocket;

/// Longer than anything takes that works, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Asks again and again until the response is `true`, and fails naming `what` where that takes longer than [`PATIENCE`].
pub fn wait_for(what: &str, ask: impl FnMut() -> bool) {
    assert!(wait_at_most(PATIENCE, ask), "waited {PATIENCE:?} for {what}");
}

/// As [`wait_for`]; `false`: it took longer.
pub fn wait_at_most(patience: Duration, mut ask: impl FnMut() -> bool) -> bool {
    let started = Instant::now();
    while !ask() {
        if started.elapsed() > patience {
            return false;
        }
        let_pass(Duration::from_millis(10));
    }
    true
}

/// Lets time pass, where time itself is what a test is about, such as a peer that is slow.
pub fn let_pass(duration: Duration) {
    std::thread::sleep(duration);
}

/// A program like this one, at another place. Another process copies it: whatever this one starts at the same moment would
/// inherit the open file, and a file that is open for writing cannot be run ("Text file busy").
pub fn copy_program(from: impl AsRef<Path>, to: &Path) {
    let copy = "cp \"$0\" \"$1\" && chmod 755 \"$1\"";
    let copied = Command::new("sh").args(["-c", copy]).arg(from.as_ref()).arg(to).status();
    assert!(copied.unwrap().success(), "{} was not copied", to.display());
}

/// An address where nobody listens, until the test lets somebody. A port that was only free a moment ago is soon another
/// test's, so a socket that does not listen keeps this one for as long as the test program runs. The kernel refuses
/// connections to it and gives its port to nobody who asks for any; who asks for this one with `SO_REUSEADDR`, as servers
/// do, gets it.
pub fn nobody() -> SocketAddr {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(SocketAddr::from(([0, 0, 0, 0], 0))).unwrap();
    let port = socket.local_addr().unwrap().port();
    std::mem::forget(socket);
    SocketAddr::from(([127, 0, 0, 1], port))
}
