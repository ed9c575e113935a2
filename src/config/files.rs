//! Reads files in a way that none of them can block the program or fill its memory: only regular files, up to a size
//! limit, and on another thread, because a mount (NFS, FUSE, a CSI volume) may hang for ever.
//!
//! A reader waits only for a moment. After a timeout nobody waits for that file again until it has been read, and the
//! next reader gets the late content.

#![expect(clippy::disallowed_types, reason = "held for a moment by those who wait for the same file")]

mod replaced;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::{File, Metadata, OpenOptions};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::OFlags;
use zeroize::Zeroizing;

use crate::aside::Aside;
pub use replaced::Replaced;

/// The largest secret, key or certificate; bundles of CAs are a quarter of that.
pub(super) const LARGEST_VALUE: u64 = 1 << 20;
/// The largest file of the config.
pub const LARGEST_CONFIG: u64 = 16 << 20;

static THREADS: Aside = Aside::new("files", 64);
static READS: Bounded<Arc<Contents>> = Bounded::new();
static READS_BELOW: Bounded<Arc<Contents>> = Bounded::new();
static STATES: Bounded<Metadata> = Bounded::new();
static REALS: Bounded<Real> = Bounded::new();
static LISTS: Bounded<Vec<String>> = Bounded::new();
static FOLDERS: Bounded<u64> = Bounded::new();

/// How long a thread waits that does not serve requests.
const PATIENT: Duration = Duration::from_secs(2);
/// How long a thread waits that serves requests.
const HURRIED: Duration = Duration::from_millis(250);
/// How long either waits if another file of the folder hangs.
const SUSPICIOUS: Duration = Duration::from_millis(20);
/// At most this many files of one folder may hang. No more are tried, so that the files of other folders have threads
/// left.
const HANGING_AT_MOST: usize = 4;
/// How long content that came too late for one reader may be given to another.
const OF_USE: Duration = Duration::from_secs(10);

thread_local! {
    static PATIENCE: Cell<Duration> = const { Cell::new(PATIENT) };
}

/// Says that this thread serves requests and must not wait long for a file.
pub fn hurry() {
    PATIENCE.set(HURRIED);
}

/// A regular file at one moment.
pub struct Contents {
    pub bytes: Zeroizing<Vec<u8>>,
    /// When it was last written, if the file system knows.
    pub modified: Option<SystemTime>,
}

/// Reads a regular file of at most `limit` bytes.
///
/// # Errors
/// There is no such file, it is not a regular file, it is larger, or reading it takes too long.
pub fn read(path: &Path, limit: u64) -> io::Result<Arc<Contents>> {
    READS.get(path, move |path| read_regular(path, limit).map(Arc::new))
}

/// Warns that `bearerd exec` does without a file of the user's, which this variable names.
pub fn left_out(variable: &str, path: &Path, error: &io::Error) {
    let path = path.display();
    tracing::warn!(event = "exec.file_left_out", variable, %path, %error, "a file of the program is left out");
}

/// Reads a regular file of at most `limit` bytes that somebody else named. With all links followed, it must be below
/// `folder`, and its name must end with `suffix`.
///
/// # Errors
/// As [`read`], and the file is somewhere else.
pub fn read_below(folder: &Path, path: &Path, suffix: &str, limit: u64) -> io::Result<Arc<Contents>> {
    let (folder, suffix) = (folder.to_owned(), suffix.to_owned());
    READS_BELOW.get(path, move |path| {
        if !path.is_absolute() {
            return Err(io::Error::other("is not an absolute path"));
        }
        let (real, folder) = (path.canonicalize()?, folder.canonicalize()?);
        if !real.starts_with(&folder) {
            return Err(io::Error::other(format!("is not below {}", folder.display())));
        }
        if !real.as_os_str().as_encoded_bytes().ends_with(suffix.as_bytes()) {
            return Err(io::Error::other(format!("has a name that does not end with {suffix}")));
        }
        read_regular(&real, limit).map(Arc::new)
    })
}

/// The metadata of a path, with links followed.
///
/// # Errors
/// There is no such path, or the file system does not respond in time.
pub fn state(path: &Path) -> io::Result<Metadata> {
    STATES.get(path, |path| std::fs::metadata(path))
}

/// What a path leads to, with links and `..` followed as far as it exists.
#[derive(Clone)]
pub struct Real {
    pub path: PathBuf,
    found: Option<Metadata>,
}

impl Real {
    /// Device and inode, if something is there.
    pub fn id(&self) -> Option<(u64, u64)> {
        self.found.as_ref().map(|found| (found.dev(), found.ino()))
    }

    pub fn is_folder(&self) -> bool {
        self.found.as_ref().is_some_and(Metadata::is_dir)
    }

    /// What is there, in words, if it is not a regular file.
    pub fn not_a_file(&self) -> Option<&'static str> {
        self.found.as_ref().and_then(|found| other_than_file(found))
    }
}

/// What the path leads to. If its file system does not respond in time, nothing is known but the path.
pub fn real(path: &Path) -> Real {
    let found = REALS.get(path, |path| {
        let path = std::path::absolute(path)?;
        let real = std::fs::canonicalize(&path).unwrap_or_else(|_| as_far_as_it_exists(&path));
        let found = std::fs::metadata(&real).ok();
        Ok(Real { path: real, found })
    });
    found.unwrap_or_else(|_| Real { path: path.to_owned(), found: None })
}

fn as_far_as_it_exists(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut real, component| {
        match component {
            Component::ParentDir => _ = real.pop(),
            Component::CurDir => {}
            _ => real.push(component),
        }
        std::fs::canonicalize(&real).unwrap_or(real)
    })
}

/// The names of a folder's entries, except folders, sorted.
///
/// # Errors
/// There is no such folder, or the file system does not respond in time.
pub fn names(folder: &Path) -> io::Result<Vec<String>> {
    LISTS.get(folder, |folder| {
        let entries =
            std::fs::read_dir(folder)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut names: Vec<String> = entries.filter(|name| !folder.join(name).is_dir()).collect();
        names.sort();
        Ok(names)
    })
}

/// A number that changes when a file of the folder is added, removed, or written.
///
/// # Errors
/// There is no such folder, or the file system does not respond in time.
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

/// Whether a file of this folder is still being read after a timeout.
pub fn hangs(folder: &Path) -> bool {
    READS.hanging_in(folder) + STATES.hanging_in(folder) > 0
}

/// Whether only the containers that mount this file system can reach the file, whatever the file's mode says: it is on a
/// tmpfs that is mounted read-only, and it belongs to root.
///
/// This is what the kubelet makes of a Secret or a projected token: a tmpfs for each pod, written outside of the container,
/// and mounted into it read-only. The modes there say little, because the kubelet has no better ones than 0444 for a user
/// that is neither root nor in `fsGroup`. The three signs hold for a `subPath` too, which has no `..data` link, and for the
/// secrets of Docker Swarm and the credentials of systemd, which work in the same way. A file that a user left
/// readable by accident has none of these signs.
#[cfg(target_os = "linux")]
pub(super) fn is_on_private_mount(path: &Path, state: &Metadata) -> bool {
    const TMPFS_MAGIC: u64 = 0x0102_1994;
    let is_tmpfs = || {
        rustix::fs::statfs(path)
            .is_ok_and(|found| u64::try_from(found.f_type).is_ok_and(|kind| kind == TMPFS_MAGIC))
    };
    state.uid() == 0 && is_tmpfs() && is_on_read_only_mount(path)
}

/// Other systems have no such mounts.
#[cfg(not(target_os = "linux"))]
pub(super) fn is_on_private_mount(_: &Path, _: &Metadata) -> bool {
    false
}

/// Nobody who sees only this mount may write there.
pub(super) fn is_on_read_only_mount(path: &Path) -> bool {
    rustix::fs::statvfs(path).is_ok_and(|found| found.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY))
}

/// Neither of root nor of the user that bearerd runs as, as far as this user namespace knows.
pub(super) fn is_of_another_user(state: &Metadata) -> bool {
    ![0, rustix::process::geteuid().as_raw(), overflow_uid()].contains(&state.uid())
}

/// Whose files belong to anybody outside of the user namespace, root included.
fn overflow_uid() -> u32 {
    const DEFAULT: u32 = 65534;
    let text = File::open("/proc/sys/kernel/overflowuid").and_then(io::read_to_string);
    text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(DEFAULT)
}

/// The folder on the way to this file, or to what a symbolic link to it names, in which another user may replace the next one
/// or the file. The flag: because of its mode, and not of its owner. In a folder with the sticky bit (`/tmp`), everybody may only
/// replace what is their own.
pub(super) fn folder_for_others(file: &Path) -> Option<(PathBuf, bool)> {
    const STICKY: u32 = 0o1000;
    let real = std::fs::canonicalize(file).ok();
    let files = [file].into_iter().chain(real.as_deref());
    files.flat_map(|file| file.ancestors().skip(1)).find_map(|folder| {
        let found = state(folder).ok()?;
        let by_mode = found.mode() & 0o022 != 0 && found.mode() & STICKY == 0;
        let is_open = by_mode || is_of_another_user(&found);
        (is_open && !is_on_read_only_mount(folder)).then(|| (folder.to_owned(), by_mode))
    })
}

fn read_regular(path: &Path, limit: u64) -> io::Result<Contents> {
    // Checked before it is opened, because opening a device may have effects, and again afterwards, because the file
    // may have been replaced.
    regular(&std::fs::metadata(path)?)?;
    let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).expect("open(2) takes its flags as an int");
    let file = match OpenOptions::new().read(true).custom_flags(nonblocking).open(path) {
        // Another process has a lease on it, and the kernel asks it to release the lease.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => File::open(path),
        opened => opened,
    }?;
    let found = file.metadata()?;
    regular(&found)?;
    within(found.len(), limit)?;
    // Room for all of it from the start, because a buffer that grows leaves an unwiped copy.
    let expected = usize::try_from(found.len().min(limit)).unwrap_or_default();
    let mut bytes = Zeroizing::new(Vec::with_capacity(expected.saturating_add(64)));
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    // It may have grown, and files of `/proc` have no length.
    within(bytes.len() as u64, limit)?;
    Ok(Contents { bytes, modified: found.modified().ok() })
}

fn within(length: u64, limit: u64) -> io::Result<()> {
    if length <= limit {
        return Ok(());
    }
    let most = if limit >> 20 > 0 { format!("{} MiB", limit >> 20) } else { format!("{} KiB", limit >> 10) };
    Err(io::Error::other(format!("is larger than {most}")))
}

fn regular(found: &Metadata) -> io::Result<()> {
    match other_than_file(found) {
        None => Ok(()),
        Some(_) if found.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        Some(what) => Err(io::Error::other(format!("is {what}; name a regular file"))),
    }
}

/// What something is, in words, if it is not a regular file.
fn other_than_file(found: &Metadata) -> Option<&'static str> {
    let kind = found.file_type();
    if kind.is_file() {
        None
    } else if kind.is_dir() {
        Some("a folder")
    } else if kind.is_fifo() {
        Some("a pipe")
    } else if kind.is_socket() {
        Some("a socket")
    } else {
        Some("a device")
    }
}

/// For tests: writes a file whose last write seems long ago, so that it does not count as half written.
#[cfg(test)]
pub fn write_settled(path: &Path, content: impl AsRef<[u8]>) {
    use crate::clock::{Clock as _, SystemClock};
    std::fs::write(path, content).unwrap();
    let long_ago = SystemClock.wall() - Duration::from_secs(60);
    File::options().write(true).open(path).unwrap().set_modified(long_ago).unwrap();
}

/// One kind of request to the file system.
struct Bounded<T> {
    /// Requests that took too long.
    late: Mutex<BTreeMap<PathBuf, Arc<Pending<T>>>>,
}

struct Pending<T> {
    asked: Instant,
    outcome: Mutex<Option<(Instant, io::Result<T>)>>,
    completed: Condvar,
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
        let hanging = match self.earlier(path) {
            Earlier::Came(outcome) => return outcome,
            Earlier::Hangs(error) => return Err(error),
            Earlier::Nothing { hanging } => hanging,
        };
        if hanging >= HANGING_AT_MOST {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "is not read while other files of its folder hang",
            ));
        }
        let pending = Arc::new(Pending::new());
        let (asked, place, same) = (Arc::clone(&pending), path.to_owned(), ask.clone());
        if THREADS.spawn(move || asked.complete(same(&place))).is_err() {
            // Without a spare thread, this thread reads the file itself.
            return ask(path);
        }
        let patience = if hanging > 0 { SUSPICIOUS } else { PATIENCE.get() };
        if let Some(outcome) = pending.wait(patience) {
            return outcome;
        }
        let late = hangs_since(&pending);
        locked(&self.late).insert(path.to_owned(), pending);
        Err(late)
    }

    /// What is known from an earlier request.
    fn earlier(&self, path: &Path) -> Earlier<T> {
        let mut late = locked(&self.late);
        if let Some(pending) = late.get(path) {
            let Some((at, outcome)) = locked(&pending.outcome).take() else {
                return Earlier::Hangs(hangs_since(pending));
            };
            late.remove(path);
            if at.elapsed() < OF_USE {
                return Earlier::Came(outcome);
            }
        }
        Earlier::Nothing { hanging: count_hanging(&late, path.parent()) }
    }

    fn hanging_in(&self, folder: &Path) -> usize {
        count_hanging(&locked(&self.late), Some(folder))
    }
}

enum Earlier<T> {
    Nothing {
        /// Other files of its folder.
        hanging: usize,
    },
    /// It came too late for the reader who asked.
    Came(io::Result<T>),
    Hangs(io::Error),
}

fn count_hanging<T>(late: &BTreeMap<PathBuf, Arc<Pending<T>>>, folder: Option<&Path>) -> usize {
    let hangs = |pending: &Pending<T>| locked(&pending.outcome).is_none();
    late.iter().filter(|(path, pending)| path.parent() == folder && hangs(pending)).count()
}

impl<T> Pending<T> {
    fn new() -> Self {
        Self { asked: Instant::now(), outcome: Mutex::new(None), completed: Condvar::new() }
    }

    fn complete(&self, outcome: io::Result<T>) {
        *locked(&self.outcome) = Some((Instant::now(), outcome));
        self.completed.notify_all();
    }

    fn wait(&self, patience: Duration) -> Option<io::Result<T>> {
        let outcome = locked(&self.outcome);
        let waited = self.completed.wait_timeout_while(outcome, patience, |outcome| outcome.is_none());
        let (mut outcome, _) = waited.unwrap_or_else(PoisonError::into_inner);
        outcome.take().map(|(_, outcome)| outcome)
    }
}

fn hangs_since<T>(pending: &Pending<T>) -> io::Error {
    let seconds = pending.asked.elapsed().as_secs_f64();
    let what = format!("has not come for {seconds:.1} s: the file system that it is on does not respond");
    io::Error::new(io::ErrorKind::TimedOut, what)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while the lock was held leaves a valid value.
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
        assert_eq!(mount.get("/hung/a").unwrap(), 1, "the late content");
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
