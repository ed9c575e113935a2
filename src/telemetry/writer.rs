//! The thread that writes lines, so that whoever logs never waits for a pipe.

use std::io::{ErrorKind, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

/// Lines that may wait; with lines of a usual length about 1.5 MiB.
const WAITING: usize = 4096;
/// Lines are written together up to this many bytes.
const BATCH: usize = 64 * 1024;
/// Under load the thread sleeps this long between two writes, so that it need not be woken for every line.
const PAUSE: Duration = Duration::from_millis(2);
/// How often a full queue, or a pipe that would block, is tried again.
const RETRY: Duration = Duration::from_millis(10);

enum Message {
    Line(String),
    /// Answered when all lines before it were written.
    Flush(SyncSender<()>),
}

/// Where lines go. Cloning shares the thread.
#[derive(Debug, Clone)]
pub(super) struct Lines {
    queue: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
}

impl Lines {
    /// Starts the thread. `notice` makes the line that tells how many lines are missing.
    pub(super) fn start<W: Write + Send + 'static>(
        out: W,
        notice: impl Fn(u64) -> String + Send + 'static,
    ) -> std::io::Result<Self> {
        let (queue, incoming) = sync_channel(WAITING);
        let dropped = Arc::new(AtomicU64::new(0));
        let mut writer = Writer { out, notice, dropped: Arc::clone(&dropped), told: 0 };
        std::thread::Builder::new().name("log".to_owned()).spawn(move || writer.run(&incoming))?;
        Ok(Self { queue, dropped })
    }

    /// Hands the line over, or drops and counts it where too many wait.
    pub(super) fn write(&self, line: String) {
        if self.queue.try_send(Message::Line(line)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until what was handed over is written, at most `limit`; whether it was.
    pub(super) fn flush(&self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        let (done, wait) = sync_channel(1);
        let mut message = Message::Flush(done);
        loop {
            match self.queue.try_send(message) {
                Ok(()) => break,
                Err(TrySendError::Disconnected(_)) => return false,
                Err(TrySendError::Full(_)) if Instant::now() >= end => return false,
                Err(TrySendError::Full(back)) => message = back,
            }
            std::thread::sleep(RETRY);
        }
        wait.recv_timeout(end.saturating_duration_since(Instant::now())).is_ok()
    }

    pub(super) fn dropped_counter(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.dropped)
    }
}

struct Writer<W, N> {
    out: W,
    notice: N,
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
                    Message::Line(line) => batch.extend_from_slice(line.as_bytes()),
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
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(RETRY),
                Err(_) => return,
            }
        }
        // stderr keeps nothing back; other writers may.
        let _ = self.out.flush();
    }
}
