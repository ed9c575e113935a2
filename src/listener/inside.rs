//! The connection inside a CONNECT of a forward listener: it is TLS that ends here, and HTTP like on any other connection.

use std::sync::Arc;
use std::time::Duration;
use std::{io, pin::pin};

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use rustls::server::Acceptor;
use tokio::io::AsyncWriteExt as _;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::connection::{CallerStream, Protocol, SocketStream, Transport, serve_http};
use super::watch::Watch;
use super::{Handler, ListenerSettings, Shared};
use crate::inbound::Tunneled;
use crate::proxy::{Caller, Inside, InsideTls};

/// Serves the connection until it ends. Failures are the caller's, so they are logged at debug level.
pub(super) async fn serve<H: Handler>(
    opening: OnUpgrade,
    tls: InsideTls,
    outer: Arc<Caller>,
    settings: Arc<ListenerSettings>,
    shared: Arc<Shared<H>>,
) {
    let _open = Tunneled::new(&outer.activity);
    let Ok(upgraded) = opening.await else { return };
    let socket = SocketStream::Inside(Box::new(TokioIo::new(upgraded)));
    let limit = settings.limits.header_timeout;
    let (stream, inside) = match Box::pin(handshake(&tls, socket, limit)).await {
        Ok(accepted) => accepted,
        Err(error) => {
            return tracing::debug!(
                event = "caller.tls_failed", peer = ?outer.peer, %error,
                "the TLS handshake with a caller failed"
            );
        }
    };
    let caller = Arc::new(Caller {
        listener: Arc::clone(&outer.listener),
        address: outer.address.clone(),
        peer: outer.peer,
        local: outer.local,
        tls: true,
        same_user: outer.same_user,
        activity: Arc::default(),
        authority: None,
        inside: Some(inside),
    });
    let protocol = Protocol::negotiated(&stream);
    let watch = Arc::new(Watch::new(caller));
    let transport = Transport::Tls(Box::new(stream));
    let stream = CallerStream::new(transport, Arc::clone(&watch), shared.now.clone(), None);
    serve_http(stream, Some(protocol), &settings, watch, shared).await;
}

/// The stream, and which server the caller wants.
async fn handshake(
    tls: &InsideTls,
    socket: SocketStream,
    limit: Option<Duration>,
) -> io::Result<(TlsStream<SocketStream>, Inside)> {
    let accept = async {
        let mut acceptor = pin!(LazyConfigAcceptor::new(Acceptor::default(), socket));
        let start = match acceptor.as_mut().await {
            Ok(start) => start,
            Err(error) => {
                if let Some(mut socket) = acceptor.take_io() {
                    explain(&mut socket, &error).await;
                }
                return Err(error);
            }
        };
        let inside = Inside::new(tls.host.clone(), tls.port, start.client_hello().server_name());
        let stream = start.into_stream(Arc::clone(&tls.config)).await?;
        Ok((stream, inside))
    };
    match limit {
        None => accept.await,
        Some(limit) => tokio::time::timeout(limit, accept).await.map_err(io::Error::from)?,
    }
}

/// What a program reads that speaks plain HTTP inside a CONNECT.
const NOT_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-type: text/plain\r\ncontent-length: 89\r\n\r\n\
bearerd ends TLS inside a CONNECT, and this is not TLS; use https://, or http:// without CONNECT\n";

async fn explain(socket: &mut SocketStream, error: &io::Error) {
    let is_not_tls = error
        .get_ref()
        .and_then(|error| error.downcast_ref::<rustls::Error>())
        .is_some_and(|error| matches!(error, rustls::Error::InvalidMessage(_)));
    if is_not_tls && socket.write_all(NOT_TLS).await.is_ok() {
        let _ = socket.shutdown().await;
    }
}
