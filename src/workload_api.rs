//! The SPIFFE Workload API: the agent on this machine gives a program its identity, as a JWT ([`jwt_svid`]) or as a
//! certificate ([`X509Stream`]).

mod stream;

use std::error::Error;
use std::fs::{self, FileType, Metadata};
use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use spiffe::transport::{Endpoint, GrpcStatusCode, GrpcStatusError, TransportError};
use spiffe::{JwtSvidError, WorkloadApiClient, WorkloadApiError};

use crate::clock::{Clock as _, SystemClock};
use crate::secret::Secret;

pub use spiffe::{SpiffeId, TrustDomain};
pub use stream::X509Stream;

/// The most bytes of a JWT-SVID.
const LONGEST_TOKEN: usize = 64 * 1024;
/// The most characters of what the agent says.
const LONGEST_MESSAGE: usize = 200;
/// The most names of identities in an error.
const MOST_NAMES: usize = 5;

/// A JWT-SVID.
pub struct JwtSvid {
    pub token: Secret,
    /// How long it is valid from now on.
    pub lasts: Duration,
}

/// Fetches a JWT-SVID for `audience`: the one of `id`, or the default one. Blocks for at most `timeout`.
///
/// # Errors
/// What happened, and what to do.
pub fn jwt_svid(
    socket: &Path,
    audience: &str,
    id: Option<&SpiffeId>,
    timeout: Duration,
) -> Result<JwtSvid, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("cannot be reached: {error}"))?;
    let fetched =
        runtime.block_on(async { tokio::time::timeout(timeout, fetch(socket, audience, id)).await });
    let svid = fetched.unwrap_or_else(|_| Err(silent(timeout)))?;
    if svid.token().len() > LONGEST_TOKEN {
        return Err(format!("the agent sent a JWT-SVID of more than {} KiB", LONGEST_TOKEN / 1024));
    }
    let expires = u64::try_from(svid.expiry().unix_timestamp()).unwrap_or_default();
    let expires = std::time::UNIX_EPOCH + Duration::from_secs(expires);
    match expires.duration_since(SystemClock.wall()) {
        Ok(lasts) if !lasts.is_zero() => Ok(JwtSvid { token: Secret::from(svid.token()), lasts }),
        _ => Err("the agent sent a JWT-SVID that has expired: compare the clocks of this machine and of the SPIRE server"
            .to_owned()),
    }
}

async fn fetch(socket: &Path, audience: &str, id: Option<&SpiffeId>) -> Result<spiffe::JwtSvid, String> {
    let client = connect(socket).await.map_err(|error| explain(&error, socket))?;
    let svid = match (client.fetch_jwt_svid([audience], id).await, id) {
        (Ok(svid), _) => svid,
        (Err(WorkloadApiError::NoIdentityIssued | WorkloadApiError::EmptyResponse), Some(id)) => {
            let others = client.fetch_all_jwt_svids([audience], None).await;
            let others = others.map_err(|error| explain(&error, socket))?;
            return Err(another_id(id, others.iter().map(spiffe::JwtSvid::spiffe_id)));
        }
        (Err(error), _) => return Err(explain(&error, socket)),
    };
    match id {
        Some(id) if id != svid.spiffe_id() => Err(another_id(id, std::iter::once(svid.spiffe_id()))),
        _ => Ok(svid),
    }
}

/// The SPIFFE ID in a certificate. `Err`: it has none, or several.
pub fn id_of(certificate: &[u8]) -> Result<SpiffeId, String> {
    spiffe::cert::spiffe_id_from_der(certificate).map_err(|error| shown(&error.to_string()))
}

async fn connect(socket: &Path) -> Result<WorkloadApiClient, WorkloadApiError> {
    WorkloadApiClient::connect(Endpoint::Unix(PathBuf::from(socket))).await
}

/// The agent has other identities than the one that the config names.
fn another_id<'a>(wanted: &SpiffeId, others: impl Iterator<Item = &'a SpiffeId>) -> String {
    let names: Vec<String> = others.take(MOST_NAMES).map(ToString::to_string).collect();
    format!(
        "the agent has no identity {wanted} for this program, only {}: correct `id`, or create a registration entry for it",
        names.join(", ")
    )
}

fn silent(timeout: Duration) -> String {
    format!(
        "the agent did not respond within {}: check that it is healthy (`spire-agent healthcheck`), and look into its log",
        humantime::format_duration(timeout)
    )
}

/// What an error means, and what to do about it.
fn explain(error: &WorkloadApiError, socket: &Path) -> String {
    match error {
        WorkloadApiError::NoIdentityIssued | WorkloadApiError::EmptyResponse => no_identity(),
        WorkloadApiError::PermissionDenied(said) => format!("the agent refuses it: {}", shown(said)),
        WorkloadApiError::Transport(TransportError::Connect(error)) => unreachable(error, socket),
        WorkloadApiError::Transport(TransportError::Status(status)) => match status.code() {
            GrpcStatusCode::Unimplemented => {
                "what listens there is not the Workload API: name the socket of the agent (its `socket_path`)"
                    .to_owned()
            }
            GrpcStatusCode::Unavailable | GrpcStatusCode::Unknown | GrpcStatusCode::Cancelled => {
                broken(status)
            }
            GrpcStatusCode::Internal if status.message().starts_with("h2 protocol error") => broken(status),
            code => format!("the agent responded with an error ({code}: {})", shown(status.message())),
        },
        WorkloadApiError::JwtSvid(JwtSvidError::InvalidJson(_)) => {
            "the agent sent a JWT-SVID that cannot be read: its header needs `alg`, and its claims need `sub`, `aud`, and `exp` in \
             whole seconds"
                .to_owned()
        }
        // What the agent sent. The library's messages name fields and never quote a token or a key.
        other => format!("the agent's response cannot be used: {}", shown(&other.to_string())),
    }
}

fn broken(status: &GrpcStatusError) -> String {
    format!(
        "the connection failed ({}): the agent stopped, or what listens there is not the Workload API",
        shown(status.message())
    )
}

/// The SPIRE server has no registration entry for this program.
fn no_identity() -> String {
    let user = rustix::process::getuid().as_raw();
    format!(
        "the agent has no identity for this program: create a registration entry whose selectors match it \
         (`spire-server entry create -spiffeID … -parentID … -selector unix:uid:{user}`; in Kubernetes k8s:ns and k8s:sa); \
         the agent needs some seconds to learn of it"
    )
}

fn unreachable(error: &(dyn Error + 'static), socket: &Path) -> String {
    let causes = std::iter::successors(Some(error), |error: &&(dyn Error + 'static)| (*error).source());
    match causes.filter_map(|error| error.downcast_ref::<io::Error>()).last() {
        Some(error) => unconnected(error, socket),
        None => format!("cannot connect to {}: {}", socket.display(), shown(&error.to_string())),
    }
}

/// Why this cannot be the agent's socket, as far as that is known without a connection.
pub fn unusable(found: &io::Result<Metadata>, socket: &Path) -> Option<String> {
    match found {
        Ok(found) => not_a_socket(found.file_type(), socket),
        Err(error) => Some(unconnected(error, socket)),
    }
}

fn not_a_socket(found: FileType, socket: &Path) -> Option<String> {
    let socket = socket.display();
    if found.is_dir() {
        return Some(format!(
            "{socket} is a folder: name the socket in it; if a volume of Kubernetes made the folder because there was no socket \
             yet, mount the socket's folder instead"
        ));
    }
    (!found.is_socket()).then(|| format!("{socket} is a file and not a socket: name the agent's socket"))
}

/// Why there is no connection to the agent.
fn unconnected(error: &io::Error, socket: &Path) -> String {
    // For the system, nothing listens on a folder either.
    let found = fs::metadata(socket).ok().and_then(|found| not_a_socket(found.file_type(), socket));
    if let Some(other) = found {
        return other;
    }
    let socket = socket.display();
    match error.kind() {
        io::ErrorKind::NotFound => format!(
            "there is no socket {socket}: start the agent, mount its socket (in Kubernetes with the SPIFFE CSI driver), or correct \
             `socket` or SPIFFE_ENDPOINT_SOCKET"
        ),
        io::ErrorKind::ConnectionRefused => format!("nothing listens on {socket}: start the agent"),
        io::ErrorKind::PermissionDenied => format!(
            "this user may not connect to {socket}: it needs write access to the socket, and execute access to its folders"
        ),
        _ => format!("cannot connect to {socket}: {}", shown(&error.to_string())),
    }
}

/// Cleans what another program sent.
fn shown(text: &str) -> String {
    text.chars().map(|char| if char.is_control() { ' ' } else { char }).take(LONGEST_MESSAGE).collect()
}
