//! An answer that comes before its request was sent to its end. A caller may send all of its body before it reads; so
//! what is still to be sent goes on in a task of its own, whether the answer is read or not.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::Frame;
use tokio::sync::mpsc;
use tokio_util::sync::PollSender;

use super::super::Upstream;
use super::super::idle::Idle;
use super::super::response_body::ResponseBody;
use super::sending::{Halt, Sending};
use super::{BodyError, Http1};
use crate::http1::Decoder;

/// Frames of the answer that are read ahead of the caller.
const AHEAD: usize = 2;

/// Of the answer's body, on its way from the task to the call.
#[derive(Debug)]
pub(in super::super) enum Item {
    Frame(Frame<Bytes>),
    /// A frame, and the end.
    Last(Frame<Bytes>),
    End,
    Broken(BodyError),
}

/// Both ways of a connection, which go on at the same time.
pub(super) struct Overlap {
    connection: Box<Http1>,
    /// `None`: all of it is sent, or the upstream takes no more.
    sending: Option<Sending>,
    /// `None`: all of it was handed over.
    answer: Option<Answering>,
    keep: bool,
    idle: Idle,
    upstream: Weak<Upstream>,
}

struct Answering {
    decoder: Decoder,
    items: PollSender<Item>,
    /// Ends when nobody wants the answer any more.
    unwanted: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// What came of a look at the answer.
#[derive(PartialEq, Eq)]
enum Seen {
    Moved,
    Nothing,
    /// The caller has not taken what is there: it is not for the upstream to move.
    Held,
    Over,
}

impl Overlap {
    /// Starts the task; gives the body as the call sees it.
    pub(super) fn begin(
        upstream: &Arc<Upstream>,
        mut connection: Box<Http1>,
        mut decoder: Decoder,
        sending: Sending,
        keep: bool,
    ) -> ResponseBody {
        let idle = upstream.route.idle_timeout;
        let (answer, body) = if let Some(whole) = decoder.take_whole(&mut connection.input.bytes) {
            (None, ResponseBody::whole(whole))
        } else {
            let (items, received) = mpsc::channel(AHEAD);
            let wanted = items.clone();
            let unwanted = Box::pin(async move { wanted.closed().await });
            let left = decoder.left();
            let answering = Answering { decoder, items: PollSender::new(items), unwanted };
            (Some(answering), ResponseBody::received(received, left))
        };
        // An answer that ends the connection ends the body with it.
        if answer.is_some() || keep {
            let upstream = Arc::downgrade(upstream);
            let sending = Some(sending);
            tokio::spawn(Self { connection, sending, answer, keep, idle: Idle::new(idle), upstream }.run());
        }
        body
    }

    async fn run(mut self) {
        if poll_fn(|cx| self.poll(cx)).await
            && let Some(upstream) = self.upstream.upgrade()
        {
            self.connection.release(&upstream);
        }
    }

    /// Ends with whether the connection can be used again.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let before = self.connection.written();
        if self.poll_send(cx).is_err() {
            return Poll::Ready(false);
        }
        let seen = self.poll_answer(cx);
        if seen == Seen::Over {
            return Poll::Ready(false);
        }
        if self.answer.is_none() && (self.sending.is_none() || !self.keep) {
            return Poll::Ready(self.keep);
        }
        if seen != Seen::Nothing || self.connection.written() != before {
            self.idle.moved();
        }
        if seen != Seen::Held && self.idle.expired(cx) {
            self.fail("the upstream's body stalled for longer than idle_timeout");
            return Poll::Ready(false);
        }
        Poll::Pending
    }

    /// Fails where the call can't go on.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Result<(), ()> {
        let Some(sending) = &mut self.sending else { return Ok(()) };
        match sending.poll(&mut self.connection, cx) {
            Poll::Pending => {}
            Poll::Ready(Ok(())) => self.sending = None,
            // The answer may be there to its end nonetheless.
            Poll::Ready(Err(Halt::Write(_))) => (self.sending, self.keep) = (None, false),
            Poll::Ready(Err(Halt::Caller { .. })) => {
                self.fail("the caller broke off in the middle of its request body");
                return Err(());
            }
        }
        Ok(())
    }

    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Seen {
        let mut seen = Seen::Nothing;
        loop {
            let Some(answer) = &mut self.answer else { return seen };
            if answer.unwanted.as_mut().poll(cx).is_ready() {
                return Seen::Over;
            }
            match answer.items.poll_reserve(cx) {
                Poll::Pending => return Seen::Held,
                Poll::Ready(Err(_)) => return Seen::Over,
                Poll::Ready(Ok(())) => {}
            }
            let item = match self.connection.poll_body(&mut answer.decoder, cx) {
                Poll::Pending => return seen,
                Poll::Ready(None) => Item::End,
                Poll::Ready(Some(Err(error))) => Item::Broken(error),
                Poll::Ready(Some(Ok(frame))) if answer.decoder.is_end() => Item::Last(frame),
                Poll::Ready(Some(Ok(frame))) => Item::Frame(frame),
            };
            seen = Seen::Moved;
            let broken = matches!(item, Item::Broken(_));
            let ended = broken || !matches!(item, Item::Frame(_));
            // Whether anybody still wants it is seen on the next round.
            let _ = answer.items.send_item(item);
            if ended {
                self.answer = None;
            }
            if broken {
                return Seen::Over;
            }
            if let Some(sending) = &mut self.sending {
                sending.body.answer_moved();
            }
        }
    }

    fn fail(&mut self, why: &'static str) {
        let Some(answer) = self.answer.take() else { return };
        if let Some(items) = answer.items.get_ref() {
            // Where there is no room, the end without an end says it too.
            let _ = items.try_send(Item::Broken(why.into()));
        }
    }
}
