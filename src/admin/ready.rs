//! What `/readyz` says: in our words alone, since anybody may ask.

use std::fmt::Write as _;
use std::sync::Arc;

use super::view::{CredentialView, View};
use crate::clock::rfc3339;

/// Names in one line before the rest is only counted: probes cut long bodies.
const NAMES: usize = 5;

/// The body: what is missing, or with `verbose` everything, missing or not.
pub(super) fn text(view: &View, verbose: bool) -> String {
    let mut out = String::from(match (view.ready(), view.degraded()) {
        (false, _) => "not ready\n",
        (true, true) => "ready, degraded\n",
        (true, false) => "ready\n",
    });
    if view.draining {
        out.push_str("[-] shutdown: the process is ending\n");
    } else if verbose {
        out.push_str("[+] shutdown: the process is not ending\n");
    }
    if verbose {
        let (version, at) = (view.config_version, rfc3339(view.loads.loaded_at));
        let _ = writeln!(out, "[+] config: version {version}, loaded at {at}");
    }
    for missing in view.missing.iter().take(NAMES) {
        let _ = writeln!(out, "[-] {}", one_line(missing));
    }
    if let Some(more @ 1..) = view.missing.len().checked_sub(NAMES) {
        let _ = writeln!(out, "[-] and {more} more that are missing; the log and `bearerd check` name them");
    }
    for credential in &view.credentials {
        let mark = match (credential.missing(), credential.degraded()) {
            (true, _) => '-',
            (false, true) => '!',
            (false, false) => '+',
        };
        if verbose || mark != '+' {
            let _ = writeln!(out, "[{mark}] {}", one_line(&line(credential)));
        }
    }
    out
}

fn line(credential: &CredentialView) -> String {
    let status = &credential.status;
    let mut out = format!("token of issuer {} for {}", credential.issuer.name, routes(&credential.routes));
    if !status.key.scopes.is_empty() {
        let _ = write!(out, " (scopes {})", status.key.scopes.joined());
    }
    match (status.fetched_once, status.expires_at) {
        (false, _) if credential.issuer.required => out.push_str(": not fetched yet"),
        (false, _) => out.push_str(": not fetched yet, not required"),
        (true, Some(at)) if status.state == "valid" => {
            let _ = write!(out, ": valid, expires at {}", rfc3339(at));
        }
        (true, _) if status.last_error.is_some() => out.push_str(": no valid token, requests fail"),
        (true, _) => out.push_str(": expired while no request used it; the next request fetches another"),
    }
    if let Some(error) = &status.last_error {
        let _ = write!(out, "; last error at {}: {}", rfc3339(error.at), error.summary);
        if let Some(next) = error.next_try {
            let _ = write!(out, "; next try at {}", rfc3339(next));
        }
    } else if status.fetching {
        out.push_str("; being fetched");
    }
    out
}

fn routes(names: &[Arc<str>]) -> String {
    let shown: Vec<&str> = names.iter().take(NAMES).map(|name| &**name).collect();
    let rest = names.len() - shown.len();
    let word = if names.len() == 1 { "route" } else { "routes" };
    let more = if rest > 0 { format!(" and {rest} more") } else { String::new() };
    format!("{word} {}{more}", shown.join(", "))
}

/// An error's text has no business starting a line of its own.
fn one_line(text: &str) -> String {
    text.replace(char::is_control, " ")
}
