//! What was read from a connection and is not used yet.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, ReadBuf};
use tokio_util::io::poll_read_buf;

/// One read of a head.
const HEAD: usize = 16 * 1024;
/// One read of a body, at most: past this, more at a time costs more memory and saves little.
const BODY: usize = 64 * 1024;
/// A read that fills less of its buffer than one part in so many is copied out. What was read may wait long, in bodies that
/// are kept or in a library's queue, and is counted there as what it is.
const SPARSE: usize = 8;

thread_local! {
    /// Heads are read here and copied out: a connection that waits for one holds no buffer.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; HEAD].into_boxed_slice());
}

/// Bytes that were read and not used.
#[derive(Default)]
pub struct Input {
    /// Take from the front.
    pub bytes: Bytes,
}

impl fmt::Debug for Input {
    /// Without the bytes: they are a caller's, or for one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Input").field("len", &self.bytes.len()).finish()
    }
}

impl Input {
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Gives the memory back where all is used; for a connection that is going to wait.
    pub fn rest(&mut self) {
        if self.bytes.is_empty() {
            self.bytes = Bytes::new();
        }
    }

    /// Reads what there is and adds it to [`Self::bytes`]; 0: the peer sends no more.
    ///
    /// # Errors
    /// The connection's.
    pub fn poll_head<S: AsyncRead + Unpin>(
        &mut self,
        io: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            ready!(Pin::new(io).poll_read(cx, &mut buffer))?;
            let read = buffer.filled();
            if self.bytes.is_empty() {
                self.bytes = Bytes::copy_from_slice(read);
            } else {
                self.append(read);
            }
            Poll::Ready(Ok(read.len()))
        })
    }

    /// A head in many pieces grows in place.
    fn append(&mut self, read: &[u8]) {
        let mut whole = match std::mem::take(&mut self.bytes).try_into_mut() {
            Ok(whole) => whole,
            Err(shared) => BytesMut::from(shared),
        };
        whole.extend_from_slice(read);
        self.bytes = whole.freeze();
    }

    /// Reads a piece of a body, of which `left` is still to come, straight to where it stays. Only when all of
    /// [`Self::bytes`] is used.
    ///
    /// # Errors
    /// The connection's.
    pub fn poll_body<S: AsyncRead + Unpin>(
        &mut self,
        io: &mut S,
        cx: &mut Context<'_>,
        left: Option<u64>,
    ) -> Poll<io::Result<usize>> {
        debug_assert!(self.bytes.is_empty(), "what was read before would be lost");
        let size = left.and_then(|left| usize::try_from(left).ok()).map_or(BODY, |left| left.min(BODY));
        let mut buffer = BytesMut::with_capacity(size.max(1));
        let read = ready!(poll_read_buf(Pin::new(io), cx, &mut buffer))?;
        let sparse = read < buffer.capacity() / SPARSE;
        self.bytes = if sparse { Bytes::copy_from_slice(&buffer) } else { buffer.freeze() };
        Poll::Ready(Ok(read))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test]
    async fn heads_add_up_and_bodies_stop_at_their_end() {
        let mut io: &[u8] = b"abcdefgh";
        let mut input = Input::default();
        let mut first = tokio::io::AsyncReadExt::take(&mut io, 2);
        assert_eq!(poll_fn(|cx| input.poll_head(&mut first, cx)).await.unwrap(), 2);
        let mut second = tokio::io::AsyncReadExt::take(&mut io, 3);
        assert_eq!(poll_fn(|cx| input.poll_head(&mut second, cx)).await.unwrap(), 3);
        assert_eq!(input.bytes, "abcde");
        input.bytes.clear();
        assert_eq!(poll_fn(|cx| input.poll_body(&mut io, cx, Some(2))).await.unwrap(), 2);
        assert_eq!(std::mem::take(&mut input.bytes), "fg");
        assert_eq!(poll_fn(|cx| input.poll_body(&mut io, cx, None)).await.unwrap(), 1);
        input.bytes.clear();
        assert_eq!(poll_fn(|cx| input.poll_body(&mut io, cx, None)).await.unwrap(), 0);
        assert_eq!(poll_fn(|cx| input.poll_head(&mut io, cx)).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_small_piece_of_a_body_holds_no_large_buffer() {
        for (size, most) in [(1, 64), (2000, 4096), (BODY / SPARSE, BODY), (BODY, BODY)] {
            let (sent, mut input) = (vec![b'x'; size], Input::default());
            assert_eq!(poll_fn(|cx| input.poll_body(&mut &*sent, cx, None)).await.unwrap(), size);
            let held = input.bytes.try_into_mut().unwrap().capacity();
            assert!(held <= most, "{size}: {held}");
        }
    }

    #[test]
    fn what_was_read_is_not_told() {
        let input = Input { bytes: Bytes::from_static(b"secret") };
        assert_eq!(format!("{input:?}"), "Input { len: 6 }");
    }

    #[tokio::test]
    async fn what_is_used_is_given_back() {
        let mut io: &[u8] = b"abc";
        let mut input = Input::default();
        poll_fn(|cx| input.poll_body(&mut io, cx, None)).await.unwrap();
        let all = input.bytes.clone();
        bytes::Buf::advance(&mut input.bytes, 2);
        input.rest();
        assert_eq!(input.bytes, "c");
        bytes::Buf::advance(&mut input.bytes, 1);
        assert!(!all.is_unique());
        input.rest();
        assert!(all.is_unique());
    }
}
