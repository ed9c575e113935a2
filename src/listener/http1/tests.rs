//! What a connection and a call take: a thousand callers have a thousand of the one, and each call makes the other.

use super::*;
use crate::http1::Incoming;
use crate::proxy::Proxy;

fn size_of_future<F: Future>(_: impl FnOnce(Arc<Calls<Proxy>>, Box<Request<Incoming>>) -> F) -> usize {
    size_of::<F>()
}

#[test]
fn a_connection_that_waits_is_small() {
    assert!(size_of::<Connection<Proxy>>() <= 512, "{}", size_of::<Connection<Proxy>>());
}

#[test]
fn a_call_is_small() {
    let size = size_of_future(|calls, request| calls.answer(request));
    // The largest block that glibc keeps at hand for its thread. Each value that is handed on, and not lent, adds to it.
    assert!(size <= 1032, "{size}");
}
