//! The end of a connection whose caller may still be sending.

use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::ReadBuf;
use tokio::time::Instant;

use crate::idle::Alarm;
use crate::inbound::Discard;

/// How long a caller may take to close its side, or to send more.
const PAUSE: Duration = Duration::from_secs(1);

/// After the last response over HTTP/1: what the parser refused may have a body behind it. What was served has read its
/// body before ([`crate::inbound`]).
pub(super) const HTTP1: Discard =
    Discard { bytes: 128 * 1024 * 1024, time: Duration::from_secs(10), pause: PAUSE };
/// After the last frame over HTTP/2, after a flood of what means nothing, and where connections are few.
pub(super) const SHORT: Discard = Discard { bytes: 16 * 1024 * 1024, time: PAUSE, pause: PAUSE };
/// Of a caller that was told that there is no place for it.
pub(super) const REFUSED: Discard =
    Discard { bytes: 64 * 1024 * 1024, time: Duration::from_secs(5), ..SHORT };

/// Reads until the caller has closed its side, so that the kernel does not reset the connection over unread bytes before
/// the caller has read the last response (RFC 9112 section 9.6).
pub(super) struct Linger {
    bounds: Discard,
    left: u64,
    end: Instant,
    until: Instant,
    alarm: Alarm,
}

impl Linger {
    pub(super) fn new(bounds: Discard) -> Self {
        let now = Instant::now();
        let (end, until) = (now + bounds.time, now + bounds.pause.min(bounds.time));
        Self { bounds, left: bounds.bytes, end, until, alarm: Alarm::default() }
    }

    /// Ready once the caller has closed its side, or it is enough.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        mut read: impl FnMut(&mut Context<'_>, &mut ReadBuf<'_>) -> Poll<io::Result<()>>,
    ) -> Poll<()> {
        let mut scrap = [0; 4096];
        while self.left > 0 {
            let mut buffer = ReadBuf::new(&mut scrap);
            match read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    self.left = self.left.saturating_sub(buffer.filled().len() as u64);
                    let now = Instant::now();
                    if now >= self.end {
                        break;
                    }
                    self.until = self.end.min(now + self.bounds.pause);
                }
                Poll::Ready(_) => break,
                Poll::Pending if self.alarm.poll(self.until, cx) => break,
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(())
    }
}
