//! Why an HTTP/2 request failed, and whether it may be sent again.

use std::error::Error;

use h2::Reason;

/// Why a request over HTTP/2 got no response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Http2Failure {
    /// The request was never written, or the peer says that it did not process it (RFC 9113 section 8.7): with RST_STREAM and
    /// REFUSED_STREAM, or with a GOAWAY whose last stream ID is below the request's. Any method may be sent again, on another
    /// connection.
    NotProcessed,
    /// HTTP_1_1_REQUIRED (RFC 9113 section 7): the peer requires HTTP/1.1 for this request.
    NeedsHttp1,
    /// Only this stream was reset, by the peer or because of what the peer sent on it. The connection stays open.
    Reset(Reason),
    /// The connection failed, or the error is not of HTTP/2. The peer may have processed the request.
    Other,
}

/// Classifies `error`, which hyper returned instead of a response. Do not use it for errors of a response's body, which say
/// nothing about whether the request was processed.
///
/// h2 fails a stream with a GOAWAY of the peer only where the stream's id is above the frame's last one
/// (`Streams::recv_go_away`), or where the stream was to be opened after the frame had come (`ensure_no_conn_error`). A
/// stream at or below the last id goes on, and fails with an I/O error where the peer then closes. So `is_go_away` and
/// `is_remote` together mean "not processed"; the tests below hold h2 to that.
pub fn http2_failure(error: &(dyn Error + 'static)) -> Http2Failure {
    if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled) {
        // hyper returns the request, so it was still waiting to be written.
        return Http2Failure::NotProcessed;
    }
    let Some(error) = find(error) else { return Http2Failure::Other };
    match error.reason() {
        Some(Reason::HTTP_1_1_REQUIRED) if error.is_remote() => Http2Failure::NeedsHttp1,
        Some(Reason::REFUSED_STREAM) if error.is_reset() && error.is_remote() => Http2Failure::NotProcessed,
        Some(_) if error.is_go_away() && error.is_remote() => Http2Failure::NotProcessed,
        Some(reason) if error.is_reset() => Http2Failure::Reset(reason),
        _ => Http2Failure::Other,
    }
}

/// What is invalid in what the peer sent over HTTP/2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvalidHttp2 {
    /// This response, and the connection stays open.
    Stream,
    /// The connection: its frames, or the state of its compression. The peer may not speak HTTP/2.
    Connection,
}

/// Whether `error` is about what the peer sent. `None` if the peer gave up by itself, or the connection ended.
pub fn invalid_http2(error: &(dyn Error + 'static)) -> Option<InvalidHttp2> {
    let error = find(error).filter(|error| error.is_library())?;
    match error.reason()? {
        Reason::PROTOCOL_ERROR
        | Reason::FLOW_CONTROL_ERROR
        | Reason::STREAM_CLOSED
        | Reason::FRAME_SIZE_ERROR
        | Reason::COMPRESSION_ERROR => {
            Some(if error.is_go_away() { InvalidHttp2::Connection } else { InvalidHttp2::Stream })
        }
        _ => None,
    }
}

fn find<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a h2::Error> {
    std::iter::successors(Some(error), |&error| error.source()).find_map(|error| error.downcast_ref())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{Request, Response};
    use http_body_util::Full;
    use hyper::body::Incoming;
    use hyper::client::conn::http2::{SendRequest, handshake};
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    const HEADERS: u8 = 1;
    const RST_STREAM: u8 = 3;
    const SETTINGS: u8 = 4;
    const GOAWAY: u8 = 7;
    /// `:status: 200` of HPACK's static table.
    const STATUS_200: &[u8] = &[0x88];

    type Sender = SendRequest<Full<Bytes>>;

    async fn client(stream: DuplexStream) -> Sender {
        let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        sender
    }

    async fn post(sender: &mut Sender) -> hyper::Result<Response<Incoming>> {
        let request = Request::post("http://peer.example/").body(Full::from("a body")).unwrap();
        sender.send_request(request).await
    }

    async fn failure(sender: &mut Sender) -> Http2Failure {
        http2_failure(&post(sender).await.expect_err("the peer fails every request"))
    }

    /// A peer that is told what to do with the one request that it takes.
    async fn with_server<F>(
        act: impl FnOnce(
            h2::server::Connection<DuplexStream, Bytes>,
            Request<h2::RecvStream>,
            h2::server::SendResponse<Bytes>,
        ) -> F
        + Send
        + 'static,
    ) -> Http2Failure
    where
        F: Future<Output = ()> + Send,
    {
        let (ours, theirs) = duplex(64 * 1024);
        tokio::spawn(async move {
            let mut connection = h2::server::handshake(theirs).await.unwrap();
            let (request, respond) = connection.accept().await.unwrap().unwrap();
            act(connection, request, respond).await;
        });
        failure(&mut client(ours).await).await
    }

    async fn reset_with(reason: Reason) -> Http2Failure {
        with_server(move |mut connection, _request, mut respond| async move {
            respond.send_reset(reason);
            // Drives the connection until the client lets go.
            let _ended = connection.accept().await;
        })
        .await
    }

    #[tokio::test]
    async fn a_reset_says_what_the_peer_means() {
        for (reason, expected) in [
            (Reason::REFUSED_STREAM, Http2Failure::NotProcessed),
            (Reason::HTTP_1_1_REQUIRED, Http2Failure::NeedsHttp1),
            (Reason::INTERNAL_ERROR, Http2Failure::Reset(Reason::INTERNAL_ERROR)),
            (Reason::CANCEL, Http2Failure::Reset(Reason::CANCEL)),
            (Reason::ENHANCE_YOUR_CALM, Http2Failure::Reset(Reason::ENHANCE_YOUR_CALM)),
        ] {
            assert_eq!(reset_with(reason).await, expected, "{reason:?}");
        }
    }

    #[tokio::test]
    async fn a_connection_that_ends_leaves_open_what_was_processed() {
        // h2's server names the request that it has taken as the last one.
        let gone = with_server(|mut connection, _request, _respond| async move {
            connection.abrupt_shutdown(Reason::INTERNAL_ERROR);
            let _ended = connection.accept().await;
        });
        assert_eq!(gone.await, Http2Failure::Other);
        let closed = with_server(|connection, _request, _respond| async move { drop(connection) });
        assert_eq!(closed.await, Http2Failure::Other);
    }

    /// A peer that writes frames by hand, once the request with this stream id has come.
    async fn by_hand(
        frames: Vec<Vec<u8>>,
    ) -> (Sender, DuplexStream, Result<Response<Incoming>, Http2Failure>) {
        let (ours, mut theirs) = duplex(64 * 1024);
        theirs.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
        let peer = tokio::spawn(async move {
            until_headers(&mut theirs).await;
            for frame in frames {
                theirs.write_all(&frame).await.unwrap();
            }
            theirs
        });
        let mut sender = client(ours).await;
        let outcome = post(&mut sender).await.map_err(|error| http2_failure(&error));
        (sender, peer.await.unwrap(), outcome)
    }

    async fn until_headers(stream: &mut DuplexStream) {
        let mut preface = [0; 24];
        stream.read_exact(&mut preface).await.unwrap();
        loop {
            let mut head = [0; 9];
            stream.read_exact(&mut head).await.unwrap();
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            stream.read_exact(&mut vec![0; usize::try_from(length).unwrap()]).await.unwrap();
            if head[3] == HEADERS {
                return;
            }
        }
    }

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }

    fn go_away(last: u32, reason: Reason) -> Vec<u8> {
        frame(GOAWAY, 0, 0, &[last.to_be_bytes(), u32::from(reason).to_be_bytes()].concat())
    }

    #[tokio::test]
    async fn a_goaway_below_the_stream_has_not_processed_it() {
        for reason in [Reason::NO_ERROR, Reason::ENHANCE_YOUR_CALM, Reason::PROTOCOL_ERROR] {
            let (.., outcome) = by_hand(vec![go_away(0, reason)]).await;
            assert_eq!(outcome.err(), Some(Http2Failure::NotProcessed), "{reason:?}");
        }
        let (.., outcome) = by_hand(vec![go_away(0, Reason::HTTP_1_1_REQUIRED)]).await;
        assert_eq!(outcome.err(), Some(Http2Failure::NeedsHttp1));
    }

    #[tokio::test]
    async fn a_stream_at_the_goaways_last_id_goes_on() {
        const END_STREAM_AND_HEADERS: u8 = 5;
        let answer = frame(HEADERS, END_STREAM_AND_HEADERS, 1, STATUS_200);
        let (.., outcome) = by_hand(vec![go_away(1, Reason::NO_ERROR), answer]).await;
        assert_eq!(outcome.unwrap().status(), 200);

        // The peer breaks its promise: what it did with the request is not known.
        let (ours, mut theirs) = duplex(64 * 1024);
        tokio::spawn(async move {
            theirs.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
            until_headers(&mut theirs).await;
            theirs.write_all(&go_away(1, Reason::ENHANCE_YOUR_CALM)).await.unwrap();
        });
        assert_eq!(failure(&mut client(ours).await).await, Http2Failure::Other);
    }

    #[tokio::test]
    async fn a_request_after_the_goaway_is_not_written() {
        let reset = frame(RST_STREAM, 0, 1, &u32::from(Reason::CANCEL).to_be_bytes());
        let (mut sender, _peer, outcome) = by_hand(vec![go_away(1, Reason::NO_ERROR), reset]).await;
        assert_eq!(outcome.err(), Some(Http2Failure::Reset(Reason::CANCEL)));
        assert_eq!(failure(&mut sender).await, Http2Failure::NotProcessed);
    }

    #[tokio::test]
    async fn what_is_not_http2_is_other() {
        let error = std::io::Error::other("x");
        assert_eq!(http2_failure(&error), Http2Failure::Other);
        let (ours, mut theirs) = duplex(64 * 1024);
        tokio::spawn(async move {
            until_headers(&mut theirs).await;
            theirs.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
            let _ = theirs.read_to_end(&mut Vec::new()).await;
        });
        assert_eq!(failure(&mut client(ours).await).await, Http2Failure::Other);
    }
}
