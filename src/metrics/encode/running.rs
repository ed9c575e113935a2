//! What a scrape shows of the process itself: read when it is asked for, counted nowhere.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{
    CERTIFICATE_EXPIRY, CONNECTIONS_LIMIT, CPU, Extra, LAST_RELOAD_SUCCESS, MAX_FDS, OPEN_FDS, Out, READY,
    RESIDENT, START_TIME, TOKEN_FAILURES, VIRTUAL,
};

/// The process as the kernel sees it; `None` where it does not say.
#[derive(Debug, Clone, Copy, Default)]
pub struct ProcessStats {
    pub cpu: Duration,
    /// Bytes.
    pub resident: Option<u64>,
    /// Bytes.
    pub virtual_memory: Option<u64>,
    pub open_files: Option<u64>,
    /// `None`: as many as it likes.
    pub most_files: Option<u64>,
}

/// What the process is and does now.
#[derive(Debug, Default)]
pub struct Running {
    /// `/readyz` says 200.
    pub ready: bool,
    /// When the config that serves was loaded.
    pub loaded_at: Option<SystemTime>,
    pub started_at: Option<SystemTime>,
    /// `[limits] connections`.
    pub most_connections: u64,
    /// One for each route that has an issuer.
    pub token_failures: Vec<TokenFailures>,
    pub certificates: Vec<CertificateExpiry>,
    pub process: ProcessStats,
}

/// How often in a row the token of a route could not be fetched.
#[derive(Debug, Clone)]
pub struct TokenFailures {
    pub issuer: Arc<str>,
    pub route: Arc<str>,
    pub in_a_row: u32,
}

/// When a certificate that the config names ends.
#[derive(Debug, Clone)]
pub struct CertificateExpiry {
    /// `issuer`, `route` or `listener`.
    pub kind: &'static str,
    pub name: Arc<str>,
    /// The key that names it.
    pub key: &'static str,
    pub at: SystemTime,
}

pub(super) fn tokens(extra: &Extra, out: &mut Out<'_>) -> fmt::Result {
    let mut family = out.family(&TOKEN_FAILURES)?;
    for failures in &extra.running.token_failures {
        let labels = [("issuer", &*failures.issuer), ("route", &*failures.route)];
        family.gauge(&labels, u64::from(failures.in_a_row))?;
    }
    Ok(())
}

pub(super) fn process(running: &Running, out: &mut Out<'_>) -> fmt::Result {
    out.family(&CONNECTIONS_LIMIT)?.gauge(&[], running.most_connections)?;
    out.family(&READY)?.gauge(&[], u64::from(running.ready))?;
    let mut family = out.family(&LAST_RELOAD_SUCCESS)?;
    if let Some(at) = running.loaded_at {
        family.gauge(&[], unix(at).as_secs())?;
    }
    let mut family = out.family(&CERTIFICATE_EXPIRY)?;
    for certificate in &running.certificates {
        let labels = [("kind", certificate.kind), ("name", &*certificate.name), ("key", certificate.key)];
        family.gauge(&labels, unix(certificate.at).as_secs())?;
    }
    let ProcessStats { cpu, resident, virtual_memory, open_files, most_files } = running.process;
    out.family(&CPU)?.seconds(cpu)?;
    for (family, value) in
        [(&RESIDENT, resident), (&VIRTUAL, virtual_memory), (&OPEN_FDS, open_files), (&MAX_FDS, most_files)]
    {
        let mut family = out.family(family)?;
        if let Some(value) = value {
            family.gauge(&[], value)?;
        }
    }
    let mut family = out.family(&START_TIME)?;
    if let Some(at) = running.started_at {
        family.time(unix(at))?;
    }
    Ok(())
}

fn unix(at: SystemTime) -> Duration {
    at.duration_since(UNIX_EPOCH).unwrap_or_default()
}
