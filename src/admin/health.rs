//! The state of the process (whether it is ending, and how the last reload ended), and the text of `/readyz`. The text has
//! only bearerd's own words, because everybody may request it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use arc_swap::ArcSwap;

use super::view::{CredentialView, SeenAuthority, View};
use crate::clock::{Clock as _, SystemClock, rfc3339};
use crate::jose::Certificate;

/// Set by the control thread, and read by the admin address.
#[derive(Debug)]
pub struct Health {
    draining: AtomicBool,
    missing: ArcSwap<Vec<String>>,
    loads: ArcSwap<Loads>,
    authorities: ArcSwap<BTreeMap<Arc<str>, AuthorityView>>,
    /// Why a bundle of CAs was not written, by its path.
    bundles: ArcSwap<BTreeMap<PathBuf, String>>,
}

/// The CA of a forward listener, without its key.
#[derive(Debug, Clone)]
pub struct AuthorityView {
    pub ephemeral: bool,
    pub newest: Certificate,
    /// Every certificate that programs must trust.
    pub pem: String,
    pub bundle: Option<PathBuf>,
}

/// When the config was loaded, and the last reload.
#[derive(Debug, Clone)]
pub(super) struct Loads {
    /// When the running config was loaded.
    pub(super) loaded_at: SystemTime,
    /// `None` before the first reload.
    pub(super) last: Option<LastReload>,
}

/// The result of the last reload.
#[derive(Debug, Clone)]
pub struct LastReload {
    pub at: SystemTime,
    /// Why the file was refused. The previous config stays in use.
    pub error: Option<String>,
}

impl Health {
    /// The state of a process that just loaded its config.
    pub fn new() -> Self {
        let loads = Loads { loaded_at: SystemClock.wall(), last: None };
        Self {
            draining: AtomicBool::new(false),
            missing: ArcSwap::default(),
            loads: ArcSwap::from_pointee(loads),
            authorities: ArcSwap::default(),
            bundles: ArcSwap::default(),
        }
    }

    /// Marks the process as ending, so that `/readyz` responds 503 from now on.
    pub fn set_draining(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Whether the process is ending.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Sets the missing values of the running config, one line each. `/readyz` responds 503 while there are any.
    pub fn set_missing(&self, missing: Vec<String>) {
        self.missing.store(Arc::new(missing));
    }

    pub(super) fn missing(&self) -> Arc<Vec<String>> {
        self.missing.load_full()
    }

    /// Sets the CAs of the running listeners, by their names.
    pub fn set_authorities(&self, authorities: impl Iterator<Item = (Arc<str>, AuthorityView)>) {
        self.authorities.store(Arc::new(authorities.collect()));
    }

    pub(super) fn authorities(&self) -> Arc<BTreeMap<Arc<str>, AuthorityView>> {
        self.authorities.load_full()
    }

    /// Sets why a bundle of CAs was not written. `None`: it was, or is not wanted any more.
    pub fn set_bundle(&self, path: &Path, problem: Option<String>) {
        self.bundles.rcu(|known| {
            let mut known = BTreeMap::clone(known);
            match &problem {
                Some(problem) => known.insert(path.to_owned(), problem.clone()),
                None => known.remove(path),
            };
            known
        });
    }

    pub fn bundle_problem(&self, path: &Path) -> Option<String> {
        self.bundles.load().get(path).cloned()
    }

    /// Remembers the result of a reload. `Err` says what is wrong with the file, without any secret.
    pub fn reloaded(&self, outcome: Result<(), String>) {
        let at = SystemClock.wall();
        let before = self.loads.load();
        let loaded_at = if outcome.is_ok() { at } else { before.loaded_at };
        self.loads.store(Arc::new(Loads { loaded_at, last: Some(LastReload { at, error: outcome.err() }) }));
    }

    pub(super) fn loads(&self) -> Loads {
        Loads::clone(&self.loads.load())
    }
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

/// The most names in one line. The rest is counted, because probes cut long bodies.
const NAMES: usize = 5;

/// The body: what is missing, or everything with `verbose`.
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
        store_line(&mut out, view);
    }
    for (listener, authority) in &view.authorities {
        authority_line(&mut out, listener, authority, verbose);
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

/// A bundle that was not written never makes anything "not ready", because running programs go on.
fn authority_line(out: &mut String, listener: &str, (authority, problem): &SeenAuthority, verbose: bool) {
    let at = rfc3339(authority.newest.not_after());
    if let Some(problem) = problem {
        let _ = writeln!(out, "[!] CA of listener {listener}: {}", one_line(problem));
    } else if verbose {
        let _ = writeln!(out, "[+] CA of listener {listener}: expires at {at}");
    }
}

/// The store is never needed, so it never makes anything "not ready".
fn store_line(out: &mut String, view: &View) {
    let Some(store) = &view.store else { return };
    let _ = match &store.failing {
        None => writeln!(out, "[+] store: in use"),
        Some(failing) => {
            let (since, kind) = (rfc3339(failing.since), failing.gone.kind.as_str());
            writeln!(out, "[!] store: unavailable since {since} ({kind}); tokens are fetched without it")
        }
    };
}

fn line(credential: &CredentialView) -> String {
    let status = &credential.status;
    let mut out = format!("token of issuer {} for ", credential.issuer.name);
    for outer in &credential.outer {
        let _ = write!(out, "issuer {outer}, ");
    }
    if credential.routes.is_empty() {
        out.push_str("token listeners");
    } else {
        out.push_str(&routes(&credential.routes));
    }
    if !status.key.scopes.is_empty() {
        let _ = write!(out, " (scopes {})", status.key.scopes.joined());
    }
    match (status.fetched_once, status.expires_at) {
        (false, _) if credential.on_demand => out.push_str(": not requested yet"),
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

/// Replaces line ends in an error's text.
fn one_line(text: &str) -> String {
    text.replace(char::is_control, " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_reload_keeps_the_time_of_the_config_that_serves() {
        let health = Health::new();
        let first = health.loads().loaded_at;
        assert!(health.loads().last.is_none());
        health.reloaded(Err("line 3".to_owned()));
        assert_eq!(health.loads().loaded_at, first);
        assert_eq!(health.loads().last.unwrap().error.as_deref(), Some("line 3"));
        health.reloaded(Ok(()));
        assert!(health.loads().loaded_at >= first);
        assert!(health.loads().last.unwrap().error.is_none());
    }
}
