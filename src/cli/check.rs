//! `bearerd check`: everything that can be known about a config without the network.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::json;

use super::args::{Common, Output};
use super::{Exit, Failure, find, output};
use crate::clock::{Clock, SystemClock};
use crate::config::{
    self, CaConfig, Config, IssuerConfig, ListenerConfig, ListenerTls, Problem, Service, Severity, Source,
    StorePlace, Unmatched, counted,
};
use crate::issuer::{self, Finding};
use crate::jose::Certificate;
use crate::net::{CertificateAuthority, tls};

pub(super) fn check(common: &Common, format: Output) -> Result<Exit, Failure> {
    let path = find(common)?;
    let (config, problems) = match config::load_to_examine(&path) {
        Ok(config) => {
            let mut problems = all_problems(&config);
            problems.extend(findings(&config));
            (Some(config), problems)
        }
        Err(problems) => (None, problems.0),
    };
    let good = !problems.iter().any(is_error);
    match format {
        Output::Text => {
            let mut text = report(&problems);
            match &config {
                Some(config) if good => text.push_str(&summary(config)),
                _ => text.push_str(&verdict(&path, &problems)),
            }
            output::answer_people(&text);
        }
        Output::Json => output::answer_json(&json!({
            "ok": good,
            "config": path.to_string_lossy(),
            "problems": problems.iter().map(Problem::to_json).collect::<Vec<_>>(),
            "routes": config.as_ref().map(|config| config.routes.len()),
            "issuers": config.as_ref().map(|config| config.issuers.len()),
            "listeners": config.as_ref().map(listeners_of_the_file),
        })),
    }
    Ok(if good { Exit::Fine } else { Exit::Config })
}

pub(super) fn all_problems(config: &Config) -> Vec<Problem> {
    let mut problems = config.warnings.clone();
    problems.extend(config::check_references(config));
    problems.extend(config.listeners.iter().filter_map(|listener| tls_problem(config, listener)));
    problems.extend((0..config.listeners.len()).filter_map(|index| ca_problem(config, index)));
    problems
}

/// What an issuer's keys, certificates, and assertions show without any request. These are warnings, because `run`
/// starts anyway and the files may be fixed later.
fn findings(config: &Config) -> Vec<Problem> {
    let now = SystemClock.wall();
    let of = |issuer: &Arc<IssuerConfig>| {
        let found = issuer::examine(issuer, now).into_iter();
        found.map(|finding| finding_problem(config, &issuer.name, finding)).collect::<Vec<_>>()
    };
    let issuers = config.issuers.values().flat_map(of);
    issuers
        .chain(route_findings(config))
        .chain(store_finding(config))
        .chain(listener_dates(config, now))
        .collect()
}

/// Files of a route's `tls` that make its upstream unreachable.
fn route_findings(config: &Config) -> impl Iterator<Item = Problem> {
    config.routes.iter().enumerate().filter_map(|(index, route)| {
        let error = tls::unusable(&route.connection.tls)?;
        let table = format!("route[{index}]");
        Some(config::problem_near(config, Severity::Warning, (&table, "tls"), error.0, None))
    })
}

/// A file of the store's `tls` that makes its server unreachable.
fn store_finding(config: &Config) -> Option<Problem> {
    let StorePlace::Redis(redis) = &config.store.as_ref()?.place else { return None };
    let error = tls::unusable(redis.tls.as_ref()?)?;
    Some(config::problem_near(config, Severity::Warning, ("store", "tls"), error.0, None))
}

/// A finding as a problem of its key.
fn finding_problem(config: &Config, issuer: &str, finding: Finding) -> Problem {
    let table = format!("issuer.{issuer}");
    config::problem_near(config, Severity::Warning, (&table, finding.key), finding.message, finding.hint)
}

/// Checks a listener's certificate and key if they can be read. A missing one already causes a warning.
fn tls_problem(config: &Config, listener: &ListenerConfig) -> Option<Problem> {
    let tls = listener.tls.as_ref()?;
    if !sources(tls).all(|source| source.read().is_ok()) {
        return None;
    }
    let error = tls::server_config(tls).err()?;
    let table = format!("listener.{}", listener.name);
    Some(config::problem_near(config, Severity::Error, (&table, "tls"), error.0, None))
}

/// Checks a forward listener's own CA as `run` does, if its files can be read.
fn ca_problem(config: &Config, index: usize) -> Option<Problem> {
    let listener = config.listeners.get(index)?;
    let CaConfig::Own { certificate, private_key } = &listener.forward()?.ca else { return None };
    if certificate.read().is_err() || private_key.read().is_err() {
        return None;
    }
    let ca = &listener.forward()?.ca;
    let error = CertificateAuthority::new(ca, &config.hosts_of(index)).err()?;
    let table = format!("listener.{}", listener.name);
    Some(config::problem_near(config, Severity::Error, (&table, "forward.ca"), error.0, None))
}

/// Certificates of listeners that have expired, or soon will.
fn listener_dates(config: &Config, now: SystemTime) -> impl Iterator<Item = Problem> {
    config.listeners.iter().flat_map(move |listener| {
        let ca = listener.forward().and_then(|forward| forward.ca.own_certificate());
        let own = listener.tls.as_ref().map(|tls| &tls.certificate);
        let keys = [("forward.ca.certificate", ca), ("tls.certificate", own)];
        keys.into_iter().filter_map(move |(key, source)| {
            let source = source?;
            let password = source.password().map(Source::read).transpose().ok()?;
            let chain =
                Certificate::parse_chain_with(source.read().ok()?.expose(), password.as_deref()).ok()?;
            let (message, hint) = issuer::about_dates(chain.first()?, &source.place(), now)?;
            let table = format!("listener.{}", listener.name);
            Some(config::problem_near(config, Severity::Warning, (&table, key), message, Some(hint)))
        })
    })
}

fn sources(tls: &ListenerTls) -> impl Iterator<Item = &Source> {
    [Some(&tls.certificate), Some(&tls.private_key), tls.client_ca.as_ref()].into_iter().flatten()
}

pub(super) fn is_error(problem: &Problem) -> bool {
    problem.severity == Severity::Error
}

/// Every problem as text for people, each on its own lines.
pub(super) fn report(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("{problem}\n")).collect()
}

fn summary(config: &Config) -> String {
    let counts = format!(
        "ok: {}, {}, {}\n",
        counted(listeners_of_the_file(config), "listener"),
        counted(config.routes.len(), "route"),
        counted(config.issuers.len(), "issuer")
    );
    let listeners = config.listeners.iter().enumerate();
    listeners
        .filter_map(|(index, listener)| purpose(config, index, listener))
        .fold(counts, |all, line| all + &line)
}

/// All but the one that `bearerd exec` makes.
fn listeners_of_the_file(config: &Config) -> usize {
    config.listeners.iter().filter(|listener| !listener.same_user).count()
}

/// What a listener is for, if it is not for requests to routes.
fn purpose(config: &Config, index: usize, listener: &ListenerConfig) -> Option<String> {
    let name = &listener.name;
    match &listener.service {
        Service::Proxy => None,
        Service::Forward(forward) => {
            let routes = config.routes.iter().filter(|route| route.listener.is_none_or(|only| only == index));
            let hosts: BTreeSet<String> =
                routes.filter_map(|route| route.host.as_ref()).map(ToString::to_string).collect();
            let others = match forward.unmatched {
                Unmatched::Refuse => "refuses all other hosts",
                Unmatched::Tunnel => "passes connections to other hosts through unread, without a token",
            };
            let who = match listener.same_user {
                true => "the listener that `bearerd exec` makes".to_owned(),
                false => format!("listener {name}"),
            };
            Some(format!(
                "{who} is a forward proxy for {}, and {others}\n",
                some(hosts.into_iter(), "no host")
            ))
        }
        Service::Token => {
            let issuers = config.issuers.values().filter(|issuer| issuer.dpop.is_none());
            let names = issuers.map(|issuer| issuer.name.to_string());
            Some(format!("listener {name} hands out tokens of {}\n", some(names, "no issuer")))
        }
    }
}

/// At most this many names are shown in a line.
const SHOWN: usize = 5;

/// The first names, and how many more there are.
fn some(names: impl Iterator<Item = String>, none: &str) -> String {
    let names: Vec<String> = names.collect();
    let shown = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    match names.len() {
        0 => none.to_owned(),
        all if all > SHOWN => format!("{shown}, and {} more", all - SHOWN),
        _ => shown,
    }
}

/// The number of errors, in one line.
pub(super) fn verdict(path: &Path, problems: &[Problem]) -> String {
    let errors = problems.iter().filter(|problem| is_error(problem)).count();
    format!("{}: {}", path.display(), counted(errors, "error"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(severity: Severity, message: &str) -> Problem {
        Problem {
            severity,
            file: "bearerd.toml".into(),
            line: 2,
            column: 1,
            key: "worker".to_owned(),
            message: message.to_owned(),
            hint: None,
            source_line: None,
        }
    }

    #[test]
    fn only_errors_are_counted() {
        let problems =
            [problem(Severity::Error, "unknown key"), problem(Severity::Warning, "readable by all")];
        assert_eq!(verdict(Path::new("bearerd.toml"), &problems), "bearerd.toml: 1 error");
    }

    #[test]
    fn every_problem_is_reported() {
        let text = report(&[problem(Severity::Error, "first"), problem(Severity::Error, "second")]);
        assert!(text.contains("first") && text.contains("second") && text.ends_with('\n'), "{text}");
        assert_eq!(text.matches("bearerd.toml:2:1:").count(), 2);
    }
}
