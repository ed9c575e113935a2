//! Identities of SPIFFE: the agent's socket, and which identity.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::value::time_to_make;
use crate::config::document::Place;
use crate::config::environment;
use crate::config::raw::values::{Lasting, RawJwtSvid, RawX509Svid, check};
use crate::config::reference::Source;
use crate::config::report::Report;
use crate::config::svid::{JwtSvidConfig, Part, Streamed};
use crate::config::types::{self, Wrong, quoted, wrong};
use crate::workload_api::{SpiffeId, TrustDomain, X509Stream};

/// `{ spiffe = { audience = "…" } }`.
pub(super) fn jwt_svid(
    place: &Place<'_>,
    raw: RawJwtSvid,
    timeout: Lasting<10>,
    report: &mut Report,
) -> Option<Source> {
    let at = place.key("spiffe");
    let timeout = time_to_make(place, timeout, report);
    let audience_at = at.key("audience");
    let audience = raw.audience.filter(|audience| !audience.is_empty());
    if audience.is_none() {
        let hint = "audience = \"https://idp.example\": the server that the JWT-SVID is for";
        if audience_at.is_written() {
            report.error(&audience_at, "is empty", hint);
        } else {
            report.missing(&audience_at, "is missing", hint);
        }
    }
    let socket = socket(&at, raw.socket, report);
    let id = id(&at, raw.id, report);
    let (audience, socket, id) = (audience?, socket?, id?);
    (!timeout.is_zero()).then(|| Source::jwt_svid(JwtSvidConfig { socket, audience, id, timeout }))
}

/// `tls = { spiffe = { … } }`: our identity, and the authorities of trust domains.
pub(super) struct X509Svid {
    stream: Arc<X509Stream>,
    id: Option<SpiffeId>,
}

impl X509Svid {
    /// `at` is the place of the table `spiffe`. Refuses what cannot stand beside it.
    pub(super) fn read(
        at: &Place<'_>,
        beside: &[Place<'_>],
        raw: RawX509Svid,
        report: &mut Report,
    ) -> Option<Self> {
        let beside: Vec<_> = beside.iter().filter(|key| key.is_written()).collect();
        for key in &beside {
            report.error(key, "cannot be combined with `spiffe`", "keep one of them");
        }
        let (socket, id) = (socket(at, raw.socket, report), id(at, raw.id, report));
        beside.is_empty().then_some(())?;
        Some(Self { stream: X509Stream::of(&socket?), id: id? })
    }

    /// Chain and key.
    pub(super) fn identity(&self, at: &Place<'_>, report: &mut Report) -> Source {
        let source = self.part(Part::Identity);
        report.reference(at, &source, true);
        source
    }

    /// The authorities of a trust domain, or of our own.
    pub(super) fn bundle(&self, at: &Place<'_>, of: Option<TrustDomain>, report: &mut Report) -> Source {
        let source = self.part(Part::Bundle(of));
        report.reference(at, &source, false);
        source
    }

    fn part(&self, part: Part) -> Source {
        Source::streamed(Streamed { stream: Arc::clone(&self.stream), id: self.id.clone(), part })
    }
}

/// The agent's socket.
pub(super) fn socket(at: &Place<'_>, written: Option<String>, report: &mut Report) -> Option<PathBuf> {
    let place = at.key("socket");
    if let Some(text) = written {
        return check(&place, unix(&text, Some(&at.document.file.folder)), report);
    }
    let Some(text) = environment::spiffe_socket() else {
        report.missing(
            &place,
            "is missing, and SPIFFE_ENDPOINT_SOCKET is not set",
            "socket = \"unix:/run/spire/agent-sockets/api.sock\": the agent's `socket_path`",
        );
        return None;
    };
    match unix(&text, None) {
        Ok(path) => Some(path),
        Err(Wrong { message, hint }) => {
            report.error(&place, format!("the environment's SPIFFE_ENDPOINT_SOCKET: {message}"), hint);
            None
        }
    }
}

/// What the SPIFFE Workload Endpoint specification allows, and in a config file also a path that starts at its folder.
fn unix(text: &str, folder: Option<&Path>) -> Result<PathBuf, Wrong> {
    let Some(path) = text.strip_prefix("unix:") else {
        return Err(wrong(
            format!("{} is not a Unix socket", quoted(text)),
            "write \"unix:/run/spire/agent-sockets/api.sock\"; bearerd does not use the Workload API over TCP, where a key would \
             travel in plain text",
        ));
    };
    if path.strip_prefix("//").is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/')) {
        return Err(wrong(
            format!("{} names a host, and a Unix socket has none", quoted(text)),
            "write three slashes: \"unix:///run/spire/agent-sockets/api.sock\"",
        ));
    }
    if folder.is_none() && !path.is_empty() && !path.starts_with('/') {
        return Err(wrong(
            format!("the path of {} is not absolute", quoted(text)),
            "write \"unix:/run/spire/agent-sockets/api.sock\"",
        ));
    }
    types::unix_path(path, folder.unwrap_or_else(|| Path::new("/")))
}

/// The identity that the config names. `Some(None)`: it names none.
pub(super) fn id(at: &Place<'_>, written: Option<String>, report: &mut Report) -> Option<Option<SpiffeId>> {
    let Some(text) = written else { return Some(None) };
    check(&at.key("id"), spiffe_id(&text), report).map(Some)
}

/// `spiffe://example.org/billing`.
pub(super) fn spiffe_id(text: &str) -> Result<SpiffeId, Wrong> {
    let id = SpiffeId::new(text).ok().filter(|id| !id.path().is_empty());
    id.ok_or_else(|| {
        wrong(
            format!("{} is not a SPIFFE ID of a program", quoted(text)),
            "such as \"spiffe://example.org/billing\": lower case in the trust domain, no port, no `/` at the end",
        )
    })
}
