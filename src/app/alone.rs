//! One listener of a config without the rest of the program, for `check`.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use http::header::PROXY_AUTHORIZATION;
use tokio::runtime::Handle;

use super::{Parts, build, listeners};
use crate::clock::SystemClock;
use crate::config::{Address, Config, UnixOptions};
use crate::listener::{self, Bound, ConnectionLimit, ListenerSettings, SettingsCell, Stop};
use crate::metrics::Metrics;
use crate::proxy::{Proxy, SnapshotCell};
use crate::reload::Change;
use crate::secret::Secret;
use crate::token::TokenCache;
use crate::trace::TracerCell;

/// A forward listener on a free port of this machine.
pub struct Alone {
    pub address: SocketAddr,
    /// What programs must trust, as PEM. Empty while the files of its authority are missing.
    pub trust: String,
}

/// Serves the listener at `index` until the runtime ends, in plain text. It fetches a token only for a request, not at start, and
/// writes no file. Reads files, and blocks. Must be called within a runtime.
///
/// Every user of the machine can reach the port, whatever protects the listener in the config (a Unix socket, `tls.client_ca`). So
/// it requires `authorization` as `Proxy-Authorization`.
///
/// # Errors
/// The listener cannot be served.
pub fn serve_alone(config: &Arc<Config>, index: usize, authorization: Secret) -> Result<Alone, String> {
    let metrics = Arc::new(Metrics::new(1));
    let settings = listeners::settings_of(config, index, None, &metrics)?;
    let any = Address::Tcp((Ipv4Addr::LOCALHOST, 0).into());
    let bound = Bound::bind(&settings.config.name, &any, &UnixOptions::OWNER_ALONE)
        .map_err(|error| error.to_string())?;
    let address = bound.local_addr().ok_or("its socket has no address")?;
    let trust = settings.authority.as_ref().map(|authority| authority.bundle().pem()).unwrap_or_default();

    let tracers = Arc::new(TracerCell::empty());
    let tokens = TokenCache::new(Handle::current(), Arc::new(SystemClock), Arc::clone(&metrics), tracers);
    let parts = Parts { tokens: &tokens, metrics: &metrics, changed: &Change::default() };
    let mut snapshot = build(config, None, &parts);
    let rules = snapshot.listeners.get_mut(index).ok_or("the config has no such listener")?;
    *rules = Arc::new(rules.requiring(PROXY_AUTHORIZATION, authorization));
    let proxy = Arc::new(Proxy::new(Arc::new(SnapshotCell::from_pointee(snapshot))));
    let settings = ListenerSettings { tls: None, ..settings };
    let settings = Arc::new(SettingsCell::from_pointee(settings));
    let connections = Arc::new(ConnectionLimit::new());
    tokio::spawn(listener::serve(bound, proxy, settings, connections, Stop::default()));
    Ok(Alone { address, trust })
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;

    /// The mode of the socket and the client's certificate, which protect the listener, are not there.
    #[tokio::test]
    async fn nobody_without_the_key_can_use_it() {
        let text = "[listener.main]\naddress = \"unix:main.sock\"\nserve = \"forward\"\n\
                    [[route]]\nname = \"r\"\nhost = \"named.example\"\nanonymous = true\n";
        let config = Arc::new(crate::config::load_text(text).unwrap());
        let alone = serve_alone(&config, 0, Secret::from("Basic key")).unwrap();
        for (key, status) in [
            ("", 407),
            ("proxy-authorization: Basic other\r\n", 403),
            ("proxy-authorization: Basic key\r\n", 200),
        ] {
            let mut stream = TcpStream::connect(alone.address).await.unwrap();
            let request =
                format!("CONNECT named.example:443 HTTP/1.1\r\nhost: named.example:443\r\n{key}\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut head = [0; 12];
            stream.read_exact(&mut head).await.unwrap();
            assert_eq!(String::from_utf8_lossy(&head), format!("HTTP/1.1 {status}"), "{key}");
        }
    }
}
