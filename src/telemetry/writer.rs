//! The thread that writes lines, so that whoever logs never waits for a pipe.

use std::io::{ErrorKind, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// What may wait to be written, in bytes: some ten thousand lines of a usual length.
pub(super) const WAITING: usize = 4 * 1024 * 1024;
/// What a line takes while it waits, beside its bytes: its place in the queue, and what the allocator keeps of it.
const LINE_OVERHEAD: usize = 64;
/// Lines are written together up to this many bytes.
const BATCH: usize = 64 * 1024;
/// Under load the thread sleeps this long between two writes, so that it need not be woken for every line.
const PAUSE: Duration = Duration::from_millis(2);
/// How often a pipe that would block is tried again.
const RETRY: Duration = Duration::from_millis(10);

enum Message {
    Line(Box<[u8]>),
    /// Answered when all lines before it were written.
    Flush(SyncSender<()>),
}

/// Where lines go. Cloning shares the thread.
#[derive(Debug, Clone)]
pub(super) struct Lines {
    queue: Sender<Message>,
    /// Bytes that wait.
    waiting: Arc<AtomicUsize>,
    dropped: Arc<AtomicU64>,
}

impl Lines {
    /// Starts the thread. `notice` makes the line that tells how many lines are missing.
    pub(super) fn start<W: Write + Send + 'static>(
        out: W,
        notice: impl Fn(u64) -> String + Send + 'static,
    ) -> std::io::Result<Self> {
        let (queue, incoming) = channel();
        let lines = Self { queue, waiting: Arc::default(), dropped: Arc::default() };
        let (waiting, dropped) = (Arc::clone(&lines.waiting), Arc::clone(&lines.dropped));
        let mut writer = Writer { out, notice, waiting, dropped, told: 0 };
        std::thread::Builder::new().name("log".to_owned()).spawn(move || writer.run(&incoming))?;
        Ok(lines)
    }

    /// Hands a line over, or drops and counts it where too many bytes wait.
    fn hand_over(&self, line: &[u8]) {
        let size = line.len() + LINE_OVERHEAD;
        let before = self.waiting.fetch_add(size, Ordering::Relaxed);
        if before + size > WAITING || self.queue.send(Message::Line(line.into())).is_err() {
            self.waiting.fetch_sub(size, Ordering::Relaxed);
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until what was handed over is written, at most `limit`; whether it was.
    pub(super) fn flush(&self, limit: Duration) -> bool {
        let (done, wait) = sync_channel(1);
        self.queue.send(Message::Flush(done)).is_ok() && wait.recv_timeout(limit).is_ok()
    }

    pub(super) fn dropped_counter(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.dropped)
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> &'a Self {
        self
    }
}

/// The layer writes each line at once.
impl Write for &Lines {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        self.hand_over(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

struct Writer<W, N> {
    out: W,
    notice: N,
    waiting: Arc<AtomicUsize>,
    dropped: Arc<AtomicU64>,
    /// How many of the dropped lines were told of.
    told: u64,
}

impl<W: Write, N: Fn(u64) -> String> Writer<W, N> {
    fn run(&mut self, incoming: &Receiver<Message>) {
        let mut batch = Vec::new();
        while let Ok(first) = incoming.recv() {
            let mut flushes = Vec::new();
            let mut next = Some(first);
            while let Some(message) = next {
                match message {
                    Message::Line(line) => {
                        batch.extend_from_slice(&line);
                        self.waiting.fetch_sub(line.len() + LINE_OVERHEAD, Ordering::Relaxed);
                    }
                    Message::Flush(done) => flushes.push(done),
                }
                next = if batch.len() < BATCH { incoming.try_recv().ok() } else { None };
            }
            self.tell_dropped(&mut batch);
            self.write(&batch);
            batch.clear();
            if flushes.is_empty() {
                std::thread::sleep(PAUSE);
            }
            for done in flushes {
                // Who asked may have stopped waiting.
                let _ = done.send(());
            }
        }
    }

    fn tell_dropped(&mut self, batch: &mut Vec<u8>) {
        let dropped = self.dropped.load(Ordering::Relaxed);
        if dropped > self.told {
            batch.extend_from_slice((self.notice)(dropped - self.told).as_bytes());
            self.told = dropped;
        }
    }

    /// Whoever closed stderr does not want to hear, so errors end nothing; a pipe that is full is waited for.
    fn write(&mut self, mut rest: &[u8]) {
        while !rest.is_empty() {
            match self.out.write(rest) {
                Ok(0) => return,
                Ok(written) => rest = rest.get(written..).expect("no more was written than there was"),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(RETRY),
                Err(_) => return,
            }
        }
        // stderr keeps nothing back; other writers may.
        let _ = self.out.flush();
    }
}
