//! Where bearerd listens, for whom, and what each listener serves.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::HeaderName;
use ipnet::IpNet;

use super::Egress;
use crate::config::raw::values::Words;
use crate::config::reference::Source;

/// Where a listener listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Address {
    /// Whether a socket on one of these addresses prevents binding the other. Port 0 means any free port, so it never does.
    pub fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Tcp(one), Self::Tcp(other)) => {
                let (first, second) = (one.ip().to_canonical(), other.ip().to_canonical());
                // `[::]` includes IPv4.
                let includes =
                    |all: IpAddr, ip: IpAddr| all.is_unspecified() && (all.is_ipv6() || ip.is_ipv4());
                one.port() == other.port()
                    && one.port() != 0
                    && (first == second || includes(first, second) || includes(second, first))
            }
            (Self::Unix(one), Self::Unix(other)) => one == other,
            _ => false,
        }
    }

    /// Whether a connection from this machine to this host and port arrives here. Names are not resolved.
    pub(crate) fn is_reached_by(&self, host: &str, port: u16) -> bool {
        let Self::Tcp(own) = self else { return false };
        if port != own.port() {
            return false;
        }
        let own = own.ip().to_canonical();
        let Ok(asked) = host.parse::<IpAddr>().map(|address| address.to_canonical()) else {
            return host.eq_ignore_ascii_case("localhost") && (own.is_loopback() || own.is_unspecified());
        };
        // Connecting to 0.0.0.0 connects to this machine.
        asked == own
            || (own.is_unspecified() && asked.is_loopback())
            || (asked.is_unspecified() && own.is_loopback())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Callers {
    #[default]
    Local,
    Network,
}

impl Words for Callers {
    const WORDS: &'static [(&'static str, Self)] = &[("local", Self::Local), ("network", Self::Network)];
}

/// `[listener.NAME]`.
#[derive(Debug)]
pub struct ListenerConfig {
    pub name: Arc<str>,
    pub address: Address,
    /// Lower case, without a port.
    pub names: Vec<String>,
    /// Browser origins that may send requests, as `scheme://host[:port]`, lower case.
    pub origins: Vec<String>,
    pub callers: Callers,
    pub allow: Vec<IpNet>,
    pub require_header: Option<(HeaderName, Source)>,
    pub tls: Option<ListenerTls>,
    pub unix: UnixOptions,
    pub service: Service,
    /// A caller of the same user needs no `require_header`. Only for the listener of [`ForProgram`], because some programs cannot
    /// send the field.
    pub same_user: bool,
}

/// The word of `serve`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Serve {
    #[default]
    Proxy,
    Forward,
    Token,
}

impl Words for Serve {
    const WORDS: &'static [(&'static str, Self)] =
        &[("proxy", Self::Proxy), ("forward", Self::Forward), ("token", Self::Token)];
}

/// What a listener is for.
#[derive(Debug)]
pub enum Service {
    Proxy,
    Forward(ForwardConfig),
    Token,
}

/// `forward` of a listener.
#[derive(Debug)]
pub struct ForwardConfig {
    pub ca: CaConfig,
    /// Absolute.
    pub ca_bundle: Option<PathBuf>,
    /// What says where the bundle is, for errors: the key, or the variable that names the folder for temporary files.
    pub bundle_key: &'static str,
    /// Files with certificates that the bundle has too, each with the variable that names it. Only for the bundle of [`ForProgram`].
    pub trusted: Vec<(&'static str, PathBuf)>,
    pub unmatched: Unmatched,
    /// How tunnels to unmatched hosts go out.
    pub egress: Egress,
}

/// The files of a CA bundle: PEM, PKCS#12, and JKS.
pub fn bundle_files(path: &Path) -> [PathBuf; 3] {
    [path.to_owned(), path.with_extension("p12"), path.with_extension("jks")]
}

/// The authority of a forward listener.
#[derive(Debug)]
pub enum CaConfig {
    Ephemeral,
    Own { certificate: Source, private_key: Source },
}

impl CaConfig {
    pub fn own_certificate(&self) -> Option<&Source> {
        match self {
            Self::Ephemeral => None,
            Self::Own { certificate, .. } => Some(certificate),
        }
    }

    /// The file that has no content now, and never had any, and why.
    pub fn missing(&self) -> Option<String> {
        let Self::Own { certificate, private_key } = self else { return None };
        [certificate, private_key]
            .into_iter()
            .find_map(|source| source.read_or_last_good().err())
            .map(|error| error.to_string())
    }
}

/// What a forward listener does with a CONNECT for a host that no route names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Unmatched {
    #[default]
    Refuse,
    Tunnel,
}

impl Words for Unmatched {
    const WORDS: &'static [(&'static str, Self)] = &[("refuse", Self::Refuse), ("tunnel", Self::Tunnel)];
}

impl ForwardConfig {
    /// The key of [`Self::ca_bundle`], and the variable if `bearerd exec` chose it.
    pub const BUNDLE_KEY: &'static str = "forward.ca_bundle";
    pub const BUNDLE_VARIABLE: &'static str = "TMPDIR";
}

impl ListenerConfig {
    /// `bearerd exec` made it, so no file has its table.
    pub fn is_made(&self) -> bool {
        self.same_user
    }

    pub fn serve(&self) -> Serve {
        match self.service {
            Service::Proxy => Serve::Proxy,
            Service::Forward(_) => Serve::Forward,
            Service::Token => Serve::Token,
        }
    }

    /// Whether a file of its certificate, key, or authority has no content now, and never had any.
    pub fn is_missing_files(&self) -> bool {
        self.tls.as_ref().is_some_and(ListenerTls::is_missing)
            || self.forward().is_some_and(|forward| forward.ca.missing().is_some())
    }

    pub fn forward(&self) -> Option<&ForwardConfig> {
        match &self.service {
            Service::Forward(forward) => Some(forward),
            Service::Proxy | Service::Token => None,
        }
    }
}

#[derive(Debug)]
pub struct ListenerTls {
    pub certificate: Source,
    pub private_key: Source,
    pub client_ca: Option<Source>,
}

impl ListenerTls {
    /// Whether a file that it names has no content now, and never had any.
    pub fn is_missing(&self) -> bool {
        [Some(&self.certificate), Some(&self.private_key), self.client_ca.as_ref()]
            .into_iter()
            .flatten()
            .any(|source| source.read_or_last_good().is_err())
    }
}

impl UnixOptions {
    /// Only the owner may connect.
    pub const OWNER_ALONE: Self = Self { mode: 0o600, group: None, allow_uids: Vec::new() };
}

/// What applies only to `unix:` addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnixOptions {
    pub mode: u32,
    /// The group's id, looked up at load.
    pub group: Option<u32>,
    /// Empty: any user that the file mode lets in.
    pub allow_uids: Vec<u32>,
}
