//! The connection inside a CONNECT of a forward listener: it is TLS that ends here, and HTTP like on any other connection. Some
//! programs open a CONNECT for `http://` as well: then it is HTTP alone.

use std::sync::Arc;
use std::time::Duration;
use std::{io, pin::pin};

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use rustls::AlertDescription;
use rustls::server::Acceptor;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio_rustls::LazyConfigAcceptor;

use super::connection::{CallerStream, Protocol, serve_http};
use super::transport::{SocketStream, Transport};
use super::watch::{Drain, Watch};
use super::{Handler, ListenerSettings, Shared};
use crate::clock::{Clock as _, SystemClock};
use crate::inbound::Tunneled;
use crate::proxy::{Caller, Inside, InsideTls, Opened};
use crate::telemetry::Repeated;

/// Serves the connection until it ends. Failures are the caller's, so they are logged at debug level, unless the caller says that
/// it does not trust the authority.
pub(super) async fn serve<H: Handler>(
    opening: OnUpgrade,
    tls: InsideTls,
    outer: Arc<Caller>,
    settings: Arc<ListenerSettings>,
    shared: Arc<Shared<H>>,
) {
    let _open = Tunneled::new(&outer.activity);
    let Ok(upgraded) = opening.await else { return };
    let socket = BufReader::with_capacity(1, TokioIo::new(upgraded));
    let limit = settings.limits.header_timeout;
    let Accepted { transport, protocol, inside } =
        match Box::pin(accept(&tls, socket, limit, &shared.drain)).await {
            Ok(accepted) => accepted,
            Err(error) => return note_failure(&error, &outer, tls.opened.host(), &shared.distrust_warnings),
        };
    let caller = Arc::new(Caller {
        listener: Arc::clone(&outer.listener),
        address: outer.address.clone(),
        peer: outer.peer,
        local: outer.local,
        tls: matches!(transport, Transport::Tls(_)),
        same_user: outer.same_user,
        activity: Arc::default(),
        inside: Some(inside),
    });
    let watch = Arc::new(Watch::new(caller));
    let stream = CallerStream::new(transport, Arc::clone(&watch), shared.now.clone(), None);
    let apart = Arc::new(shared.with_own_drain());
    tokio::select! {
        () = serve_http(stream, protocol, &settings, watch, Arc::clone(&apart)) => {}
        () = drain_in_time(&tls.opened, &shared.drain, &apart.drain) => {}
    }
}

/// Begins the end of the connection inside when the listener stops, or when a reload no longer admits the CONNECT.
async fn drain_in_time(opened: &Opened, outer: &Drain, inner: &Drain) {
    tokio::select! {
        () = outer.begun() => {}
        () = opened.withdrawn() => {}
    }
    inner.begin();
    // The connection ends by itself.
    std::future::pending().await
}

/// What a connection reads from until the handshake begins.
type Socket = BufReader<TokioIo<Upgraded>>;

struct Accepted {
    transport: Transport,
    /// What ALPN chose.
    protocol: Option<Protocol>,
    /// Which server the caller wants.
    inside: Inside,
}

/// Does the handshake, unless the caller speaks plain HTTP.
async fn accept(
    tls: &InsideTls,
    mut socket: Socket,
    limit: Option<Duration>,
    drain: &Drain,
) -> io::Result<Accepted> {
    let accept = async {
        // Before rustls, which would send an alert in front of the explanation.
        let first = tokio::select! {
            first = socket.fill_buf() => first?.first().copied(),
            () = drain.begun() => return Err(io::Error::other("the listener stops, and nothing has come yet")),
            () = tls.opened.withdrawn() => {
                return Err(io::Error::other("a reload refuses the CONNECT, and nothing has come yet"));
            }
        };
        if first.is_some_and(|first| first != HANDSHAKE) {
            if let Some(inside) = tls.opened.inside_plain() {
                let transport = Transport::Plain(SocketStream::Inside(Box::new(socket)));
                return Ok(Accepted { transport, protocol: None, inside });
            }
            explain(&mut socket).await?;
            return Err(io::Error::other("it does not begin with a TLS handshake"));
        }
        let socket = SocketStream::Inside(Box::new(socket));
        let start = pin!(LazyConfigAcceptor::new(Acceptor::default(), socket)).await?;
        let inside = tls.opened.inside(start.client_hello().server_name());
        let stream = start.into_stream(Arc::clone(&tls.config)).await?;
        let protocol = Some(Protocol::negotiated(&stream));
        Ok(Accepted { transport: Transport::Tls(Box::new(stream)), protocol, inside })
    };
    match limit {
        None => accept.await,
        Some(limit) => tokio::time::timeout(limit, accept).await.map_err(io::Error::from)?,
    }
}

fn note_failure(error: &io::Error, caller: &Caller, host: &str, warnings: &Repeated) {
    let (listener, peer) = (&*caller.listener, caller.peer);
    if let Some(more) = distrusts(error).then(|| warnings.due(SystemClock.boot())).flatten() {
        let more = (more > 0).then_some(more);
        tracing::warn!(
            event = "caller.distrusts_ca", listener, ?peer, host, %error, more,
            "a program does not trust the CA of this listener, so it gets no response from {host}: it must trust the file of \
             `forward.ca_bundle` (with `bearerd exec`, of SSL_CERT_FILE), as `bearerd ca` explains, and be started after the CA was made"
        );
    } else {
        tracing::debug!(
            event = "caller.tls_failed", listener, ?peer, host, %error,
            "the TLS handshake with a caller failed"
        );
    }
}

/// Whether the caller refused the certificate with the words of RFC 8446 section 6.2: OpenSSL says `unknown_ca`, Go
/// `bad_certificate`, and Java `certificate_unknown`.
fn distrusts(error: &io::Error) -> bool {
    use AlertDescription::{BadCertificate, CertificateUnknown, UnknownCA};
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(tls, Some(rustls::Error::AlertReceived(UnknownCA | BadCertificate | CertificateUnknown)))
}

/// The type of a TLS record with a handshake message (RFC 8446 section 5.1).
const HANDSHAKE: u8 = 22;

/// What a program reads that speaks plain HTTP inside a CONNECT to port 443.
const NOT_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-type: text/plain\r\ncontent-length: 118\r\n\r\n\
bearerd ends TLS inside a CONNECT to port 443, and this is not TLS; use https://, or http:// with the port 80 or none\n";
/// How much of a request is read, and for how long, so that the program can read the explanation.
const DISCARDED: u64 = 64 * 1024;
const DISCARDED_FOR: Duration = Duration::from_secs(1);

async fn explain(socket: &mut Socket) -> io::Result<()> {
    socket.write_all(NOT_TLS).await?;
    socket.shutdown().await?;
    let rest = &mut socket.take(DISCARDED);
    let _ = tokio::time::timeout(DISCARDED_FOR, tokio::io::copy(rest, &mut tokio::io::sink())).await;
    Ok(())
}
