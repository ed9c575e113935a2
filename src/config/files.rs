//! Files are read so that none of them can hold up or fill the program: regular ones alone, up to a size, and not on the
//! thread that wants them, because a mount (NFS, FUSE, a CSI volume) may hang for ever.
//!
//! Whoever reads waits for a moment only. A file that does not come in time is not waited for again until it has come:
//! then the next reader gets what came.

#![expect(clippy::disallowed_types, reason = "held for a moment by those who wait for the same file")]

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::{File, Metadata, OpenOptions};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::OFlags;
use zeroize::Zeroizing;

use crate::aside::Aside;

/// The largest secret, key or certificate; bundles of CAs are a quarter of that.
pub(super) const LARGEST_VALUE: u64 = 1 << 20;
/// The largest file of the config.
pub const LARGEST_CONFIG: u64 = 16 << 20;

static THREADS: Aside = Aside::new("files", 64);
static READS: Bounded<Arc<Contents>> = Bounded::new();
static STATES: Bounded<Metadata> = Bounded::new();
static LISTS: Bounded<Vec<String>> = Bounded::new();
static FOLDERS: Bounded<u64> = Bounded::new();

/// How long a thread waits that has nothing else to do.
const PATIENT: Duration = Duration::from_secs(2);
/// How long one waits that serves.
const HURRIED: Duration = Duration::from_millis(250);
/// How long either waits where another file of the folder hangs.
const SUSPICIOUS: Duration = Duration::from_millis(20);
/// So many files of one folder may hang; more are not tried, so that other folders' have threads left.
const HANGING_AT_MOST: usize = 4;
/// What came too late for one reader is of use to another for so long.
const OF_USE: Duration = Duration::from_secs(10);

thread_local! {
    static PATIENCE: Cell<Duration> = const { Cell::new(PATIENT) };
}

/// This thread serves, and must not wait for a file.
pub fn hurry() {
    PATIENCE.set(HURRIED);
}

/// A regular file at one moment.
pub struct Contents {
    pub bytes: Zeroizing<Vec<u8>>,
    /// When it was last written, where the file system knows.
    pub modified: Option<SystemTime>,
}

/// Reads a regular file of at most `limit` bytes.
///
/// # Errors
/// There is none, it is something else, it is larger, or it does not come in time.
pub fn read(path: &Path, limit: u64) -> io::Result<Arc<Contents>> {
    READS.get(path, move |path| read_regular(path, limit).map(Arc::new))
}

/// What the file system says of a path, links followed.
///
/// # Errors
/// There is nothing, or the response does not come in time.
pub fn state(path: &Path) -> io::Result<Metadata> {
    STATES.get(path, |path| std::fs::metadata(path))
}

/// The names in a folder that are no folders themselves, sorted.
///
/// # Errors
/// There is no such folder, or the response does not come in time.
pub fn names(folder: &Path) -> io::Result<Vec<String>> {
    LISTS.get(folder, |folder| {
        let entries =
            std::fs::read_dir(folder)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut names: Vec<String> = entries.filter(|name| !folder.join(name).is_dir()).collect();
        names.sort();
        Ok(names)
    })
}

/// A number that changes with the files in a folder: which there are, and what each was written last.
///
/// # Errors
/// There is no such folder, or the response does not come in time.
pub fn folder_state(folder: &Path) -> io::Result<u64> {
    FOLDERS.get(folder, |folder| {
        let state = |entry: std::fs::DirEntry| {
            let found = std::fs::metadata(entry.path()).ok()?;
            let [written, changed] =
                [(found.mtime(), found.mtime_nsec()), (found.ctime(), found.ctime_nsec())];
            Some((entry.file_name(), written, changed, found.ino(), found.size()))
        };
        let mut states: Vec<_> = std::fs::read_dir(folder)?.filter_map(|entry| state(entry.ok()?)).collect();
        states.sort();
        let mut hasher = DefaultHasher::new();
        states.hash(&mut hasher);
        Ok(hasher.finish())
    })
}

/// Whether a file of this folder was asked for and has not come yet.
pub fn hangs(folder: &Path) -> bool {
    READS.hanging_in(folder) + STATES.hanging_in(folder) > 0
}

/// Whether only the containers that mount this file system can reach the file, whatever the file's mode says: it is on a
/// tmpfs that is mounted read-only, and it belongs to root.
///
/// This is what the kubelet makes of a Secret or a projected token: a tmpfs for each pod, written outside of the container,
/// and mounted into it read-only. The modes there say little, because the kubelet has no better ones than 0444 for a user
/// that is neither root nor in `fsGroup`. The three signs hold for a `subPath` too, which has no `..data` link, and for the
/// secrets of Docker Swarm and the credentials of systemd, which work in the same way. None of them holds for a file that a
/// user left readable by mistake: who can mount a tmpfs read-only and write to it as root needs no mistake of ours.
#[cfg(target_os = "linux")]
pub(super) fn is_on_private_mount(path: &Path, state: &Metadata) -> bool {
    const TMPFS_MAGIC: u64 = 0x0102_1994;
    let is_tmpfs = || {
        rustix::fs::statfs(path)
            .is_ok_and(|found| u64::try_from(found.f_type).is_ok_and(|kind| kind == TMPFS_MAGIC))
    };
    let is_read_only = || {
        rustix::fs::statvfs(path)
            .is_ok_and(|found| found.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY))
    };
    state.uid() == 0 && is_tmpfs() && is_read_only()
}

/// Other systems have no such mounts.
#[cfg(not(target_os = "linux"))]
pub(super) fn is_on_private_mount(_: &Path, _: &Metadata) -> bool {
    false
}

fn read_regular(path: &Path, limit: u64) -> io::Result<Contents> {
    // Before it is opened: to open a device may do something. After it: what stands there may be another by then.
    regular(&std::fs::metadata(path)?)?;
    let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).expect("open(2) takes its flags as an int");
    let file = match OpenOptions::new().read(true).custom_flags(nonblocking).open(path) {
        // Somebody has a lease on it, and is asked to give it up.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => File::open(path),
        opened => opened,
    }?;
    let found = file.metadata()?;
    regular(&found)?;
    // Room for all of it from the start: a buffer that grows leaves an unwiped copy behind.
    let expected = usize::try_from(found.len().min(limit)).unwrap_or_default();
    let mut bytes = Zeroizing::new(Vec::with_capacity(expected.saturating_add(64)));
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > limit) {
        return Err(io::Error::other(format!("is larger than {} MiB", limit >> 20)));
    }
    Ok(Contents { bytes, modified: found.modified().ok() })
}

fn regular(found: &Metadata) -> io::Result<()> {
    let kind = found.file_type();
    let what = if kind.is_file() {
        return Ok(());
    } else if kind.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    } else if kind.is_fifo() {
        "a pipe"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    };
    Err(io::Error::other(format!("is {what}; name a regular file")))
}

/// For tests: writes a file whose last write seems long ago, so that nobody takes it for half written.
#[cfg(test)]
pub fn write_settled(path: &Path, content: impl AsRef<[u8]>) {
    use crate::clock::{Clock as _, SystemClock};
    std::fs::write(path, content).unwrap();
    let long_ago = SystemClock.wall() - Duration::from_secs(60);
    File::options().write(true).open(path).unwrap().set_modified(long_ago).unwrap();
}

/// One kind of question about paths.
struct Bounded<T> {
    /// What did not come in time.
    late: Mutex<BTreeMap<PathBuf, Arc<Answer<T>>>>,
}

struct Answer<T> {
    asked: Instant,
    came: Mutex<Option<(Instant, io::Result<T>)>>,
    comes: Condvar,
}

impl<T: Send + 'static> Bounded<T> {
    const fn new() -> Self {
        Self { late: Mutex::new(BTreeMap::new()) }
    }

    fn get(
        &'static self,
        path: &Path,
        ask: impl Fn(&Path) -> io::Result<T> + Clone + Send + 'static,
    ) -> io::Result<T> {
        let hanging = match self.before(path) {
            Before::Came(outcome) => return outcome,
            Before::Hangs(error) => return Err(error),
            Before::Nothing { hanging } => hanging,
        };
        if hanging >= HANGING_AT_MOST {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "is not read while others of its folder hang",
            ));
        }
        let answer = Arc::new(Answer::new());
        let (asked, place, same) = (Arc::clone(&answer), path.to_owned(), ask.clone());
        if THREADS.spawn(move || asked.come(same(&place))).is_err() {
            // A machine without a thread to spare is no reason to do without the file.
            return ask(path);
        }
        let patience = if hanging > 0 { SUSPICIOUS } else { PATIENCE.get() };
        if let Some(outcome) = answer.wait(patience) {
            return outcome;
        }
        let late = hangs_since(&answer);
        locked(&self.late).insert(path.to_owned(), answer);
        Err(late)
    }

    /// What is known of an earlier question.
    fn before(&self, path: &Path) -> Before<T> {
        let mut late = locked(&self.late);
        if let Some(answer) = late.get(path) {
            let Some((at, outcome)) = locked(&answer.came).take() else {
                return Before::Hangs(hangs_since(answer));
            };
            late.remove(path);
            if at.elapsed() < OF_USE {
                return Before::Came(outcome);
            }
        }
        Before::Nothing { hanging: count_hanging(&late, path.parent()) }
    }

    fn hanging_in(&self, folder: &Path) -> usize {
        count_hanging(&locked(&self.late), Some(folder))
    }
}

enum Before<T> {
    Nothing {
        /// Others of its folder.
        hanging: usize,
    },
    /// Too late for whoever asked.
    Came(io::Result<T>),
    Hangs(io::Error),
}

fn count_hanging<T>(late: &BTreeMap<PathBuf, Arc<Answer<T>>>, folder: Option<&Path>) -> usize {
    let hangs = |answer: &Answer<T>| locked(&answer.came).is_none();
    late.iter().filter(|(path, answer)| path.parent() == folder && hangs(answer)).count()
}

impl<T> Answer<T> {
    fn new() -> Self {
        Self { asked: Instant::now(), came: Mutex::new(None), comes: Condvar::new() }
    }

    fn come(&self, outcome: io::Result<T>) {
        *locked(&self.came) = Some((Instant::now(), outcome));
        self.comes.notify_all();
    }

    fn wait(&self, patience: Duration) -> Option<io::Result<T>> {
        let came = locked(&self.came);
        let waited = self.comes.wait_timeout_while(came, patience, |came| came.is_none());
        let (mut came, _) = waited.unwrap_or_else(PoisonError::into_inner);
        came.take().map(|(_, outcome)| outcome)
    }
}

fn hangs_since<T>(answer: &Answer<T>) -> io::Error {
    let seconds = answer.asked.elapsed().as_secs_f64();
    let what = format!("has not come for {seconds:.1} s: the file system that it is on does not answer");
    io::Error::new(io::ErrorKind::TimedOut, what)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while it was held leaves a value that is still whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::sync::mpsc;

    use super::*;

    fn words(path: &Path) -> String {
        read(path, LARGEST_VALUE).err().unwrap().to_string()
    }

    #[test]
    fn what_is_no_regular_file_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        rustix::fs::mkfifoat(rustix::fs::CWD, at("pipe"), rustix::fs::Mode::RUSR).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        symlink("/dev/zero", at("zero")).unwrap();
        assert_eq!(words(&at("pipe")), "is a pipe; name a regular file");
        assert_eq!(words(&at("socket")), "is a socket; name a regular file");
        assert_eq!(words(&at("zero")), "is a device; name a regular file");
        let kind = |path: &Path| read(path, LARGEST_VALUE).err().unwrap().kind();
        assert_eq!(kind(folder.path()), io::ErrorKind::IsADirectory);
        assert_eq!(kind(&at("nothing")), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_file_is_read_up_to_its_limit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        for (length, fits) in [(0, true), (1 << 20, true), ((1 << 20) + 1, false)] {
            std::fs::write(&path, vec![b'x'; length]).unwrap();
            assert_eq!(read(&path, LARGEST_VALUE).is_ok_and(|it| it.bytes.len() == length), fits);
        }
        assert_eq!(words(&path), "is larger than 1 MiB");
        // It says that it is empty, and is not.
        assert!(!read(Path::new("/proc/self/status"), LARGEST_VALUE).unwrap().bytes.is_empty());
    }

    /// Files that come when the test says so.
    struct Mount {
        bounded: &'static Bounded<u32>,
        gate: Arc<Mutex<mpsc::Receiver<u32>>>,
        open: mpsc::Sender<u32>,
    }

    impl Mount {
        fn new() -> Self {
            hurry();
            let (open, gate) = mpsc::channel();
            let bounded = Box::leak(Box::new(Bounded::new()));
            Self { bounded, gate: Arc::new(Mutex::new(gate)), open }
        }

        fn get(&self, path: &str) -> io::Result<u32> {
            let gate = Arc::clone(&self.gate);
            let hangs = path.starts_with("/hung");
            let ask = move |_: &Path| Ok(if hangs { locked(&gate).recv().unwrap() } else { 7 });
            self.bounded.get(Path::new(path), ask)
        }

        fn took(&self, path: &str) -> (io::ErrorKind, Duration) {
            let from = Instant::now();
            (self.get(path).unwrap_err().kind(), from.elapsed())
        }
    }

    #[test]
    fn a_file_that_hangs_is_waited_for_once_and_the_next_reader_gets_it() {
        let mount = Mount::new();
        let (kind, took) = mount.took("/hung/a");
        assert_eq!(kind, io::ErrorKind::TimedOut);
        assert!(took >= HURRIED, "{took:?}");
        for _ in 0..20 {
            assert_eq!(mount.took("/hung/a").0, io::ErrorKind::TimedOut);
        }
        assert_eq!(mount.get("/other/a").unwrap(), 7, "other files come as ever");
        assert_eq!(mount.bounded.hanging_in(Path::new("/hung")), 1);

        mount.open.send(1).unwrap();
        let from = Instant::now();
        while mount.bounded.hanging_in(Path::new("/hung")) > 0 {
            assert!(from.elapsed() < Duration::from_secs(20));
            std::thread::yield_now();
        }
        assert_eq!(mount.get("/hung/a").unwrap(), 1, "what came late");
        mount.open.send(2).unwrap();
        assert_eq!(mount.get("/hung/a").unwrap(), 2, "asked anew");
    }

    #[test]
    fn a_folder_that_hangs_takes_four_threads_at_most() {
        let mount = Mount::new();
        for file in 0..40 {
            assert_eq!(mount.took(&format!("/hung/{file}")).0, io::ErrorKind::TimedOut);
        }
        assert_eq!(mount.bounded.hanging_in(Path::new("/hung")), HANGING_AT_MOST);
        assert_eq!(mount.get("/other/a").unwrap(), 7);
    }
}
