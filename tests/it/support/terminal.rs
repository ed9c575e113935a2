//! A terminal for one program. `script` would do, but it ends now and then before it has read all, and with another exit code.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::pty::{OpenptFlags, openpt, ptsname, unlockpt};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};

/// The terminal's own end, and the one for a program.
pub fn terminal() -> (File, File) {
    let own = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    unlockpt(&own).unwrap();
    let path = ptsname(&own, Vec::new()).unwrap().into_string().unwrap();
    let noctty = i32::try_from(OFlags::NOCTTY.bits()).unwrap();
    let end = File::options().read(true).write(true).custom_flags(noctty).open(path).unwrap();
    (own.into(), end)
}

/// Starts a command line with all its streams at a terminal that it is in the foreground of. Returns the terminal's own end.
pub fn start(folder: &Path, line: &[&str], set: impl FnOnce(&mut Command)) -> (Child, File) {
    let (own, end) = terminal();
    let mut command = Command::new("setsid");
    command.arg("--ctty").args(line).current_dir(folder).kill_on_drop(true);
    command.stdin(end.try_clone().unwrap()).stdout(end.try_clone().unwrap()).stderr(end);
    set(&mut command);
    (command.spawn().expect("this test needs setsid: install util-linux"), own)
}

/// What the terminal shows until nobody has it open any more.
pub async fn read_to_end(own: &mut (impl AsyncRead + Unpin), shown: &mut Vec<u8>) {
    let read = own.read_to_end(shown).await;
    // So the terminal says that its other end is closed.
    assert!(
        read.as_ref().is_err_and(|error| error.raw_os_error() == Some(Errno::IO.raw_os_error())),
        "{read:?}"
    );
}
