//! Who calls: what the listener knows of a connection, and which calls the listener's rules let in.

use std::net::SocketAddr;
use std::sync::Arc;

use http::{HeaderMap, HeaderName};

use super::error::{Code, ProxyError};
use super::field_set::FieldSet;
use super::page::{self, Own};
use crate::config::{Address, ListenerConfig};
use crate::inbound::Activity;
use crate::route::host::Authority;
use crate::secret::Secret;

/// What is known of a caller's connection. One for each connection.
#[derive(Debug)]
pub struct Caller {
    /// The name of the listener that accepted it.
    pub listener: Arc<str>,
    /// Where that listens, as configured.
    pub address: Address,
    pub peer: Peer,
    /// The address that was connected to; `None` on a Unix socket.
    pub local: Option<SocketAddr>,
    pub tls: bool,
    pub activity: Arc<Activity>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    Tcp(SocketAddr),
    Unix { uid: u32 },
}

/// A listener's rules, ready to be asked.
#[derive(Debug)]
pub struct ListenerRules {
    pub config: Arc<ListenerConfig>,
    require_header: Option<RequiredHeader>,
}

#[derive(Debug)]
struct RequiredHeader {
    name: HeaderName,
    /// Why it cannot be read, where it cannot: then nobody is let in.
    value: Result<Arc<Secret>, String>,
}

impl ListenerRules {
    /// Reads `require_header`'s value; read again with every reload.
    pub fn new(config: &Arc<ListenerConfig>) -> Self {
        let require_header = config.require_header.as_ref().map(|(name, source)| RequiredHeader {
            name: name.clone(),
            value: source.read_or_last_good().map(|(value, _)| value).map_err(|error| error.to_string()),
        });
        Self { config: Arc::clone(config), require_header }
    }

    /// `authority`: what the request says in `Host` or its target.
    ///
    /// # Errors
    /// 403 `caller_refused` for another site's page and for a caller that the listener does not allow.
    pub(super) fn admit(
        &self,
        caller: &Caller,
        authority: Option<&Authority<'_>>,
        headers: &HeaderMap,
        seen: FieldSet,
    ) -> Result<(), ProxyError> {
        self.admit_peer(caller)?;
        if seen.any(FieldSet::PAGE)
            && let Some(why) =
                page::foreign(headers, Own { tls: caller.tls, authority }, &self.config.origins)
        {
            return Err(self.refused(why));
        }
        self.admit_key(headers)
    }

    fn admit_peer(&self, caller: &Caller) -> Result<(), ProxyError> {
        let refused = match caller.peer {
            Peer::Tcp(peer) => {
                let ip = peer.ip().to_canonical();
                let allow = &self.config.allow;
                (!allow.is_empty() && !allow.iter().any(|net| net.contains(&ip)))
                    .then(|| format!("the address {ip} is not in `allow`"))
            }
            Peer::Unix { uid } => {
                let allow = &self.config.unix.allow_uids;
                let refused = !allow.is_empty() && !allow.contains(&uid);
                refused.then(|| format!("the user id {uid} is not in `allow_uids`"))
            }
        };
        match refused {
            Some(why) => Err(self.refused(&why)),
            None => Ok(()),
        }
    }

    fn admit_key(&self, headers: &HeaderMap) -> Result<(), ProxyError> {
        let Some(required) = &self.require_header else { return Ok(()) };
        let name = &required.name;
        let value = match &required.value {
            Ok(value) => value,
            Err(why) => {
                return Err(self.refused(&format!("the value of `require_header` cannot be read: {why}")));
            }
        };
        let mut given = headers.get_all(name).iter();
        let right = |given: &http::HeaderValue| {
            aws_lc_rs::constant_time::verify_slices_are_equal(given.as_bytes(), value.expose()).is_ok()
        };
        match (given.next(), given.next()) {
            (Some(given), None) if right(given) => Ok(()),
            (None, _) => Err(self.refused(&format!("the header {name} is missing"))),
            (Some(_), _) => Err(self.refused(&format!("the header {name} is not the right one"))),
        }
    }

    /// The name of the header that lets a caller in: it goes no further than here.
    pub(super) fn key_header(&self) -> Option<&HeaderName> {
        self.require_header.as_ref().map(|required| &required.name)
    }

    fn refused(&self, why: &str) -> ProxyError {
        let at = match &self.config.address {
            Address::Tcp(address) => address.to_string(),
            Address::Unix(path) => format!("unix:{}", path.display()),
        };
        let name = &self.config.name;
        ProxyError::new(Code::CallerRefused, format!("listener {name} ({at}) refused this request: {why}"))
    }
}
