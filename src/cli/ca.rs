//! `bearerd ca`: the certificate of a forward listener's CA, and how to trust it.

use std::fmt::Write as _;
use std::path::Path;

use serde::Deserialize;
use serde_json::json;

use super::args::{Common, Output};
use super::healthcheck::{ask, place};
use super::{Exit, Failure, load, output, trust};
use crate::clock::rfc3339;
use crate::config::{CaConfig, Config, ForwardConfig, ListenerConfig, bundle_files};
use crate::net::CertificateAuthority;
use crate::net::authority::bundle;

/// As `/status` has it.
#[derive(Debug, Deserialize)]
struct Found {
    ephemeral: bool,
    subject: String,
    not_after: String,
    fingerprint: String,
    certificates: String,
}

#[derive(Deserialize)]
struct Status {
    listeners: Vec<ListenerStatus>,
}

#[derive(Deserialize)]
struct ListenerStatus {
    name: String,
    ca: Option<Found>,
}

pub(super) fn ca(common: &Common, name: Option<&str>, format: Output) -> Result<Exit, Failure> {
    let config = load(common)?;
    let (index, listener, forward) = chosen(&config, name)?;
    let found = match &forward.ca {
        CaConfig::Ephemeral => running(&config, listener)?,
        own @ CaConfig::Own { .. } => own_ca(own, &config, index, listener)?,
    };
    let bundle = forward.ca_bundle.as_deref();
    match format {
        Output::Text => {
            output::answer(&found.certificates);
            output::tell(&output::harmless(&how_to_trust(&found, listener, bundle)));
        }
        Output::Json => output::answer_json(&json!({
            "listener": &*listener.name,
            "ephemeral": found.ephemeral,
            "subject": found.subject,
            "not_after": found.not_after,
            "fingerprint": found.fingerprint,
            "certificates": found.certificates,
            "bundle": bundle.map(|path| {
                let [pem, pkcs12, jks] = bundle_files(path);
                json!({ "pem": pem, "pkcs12": pkcs12, "jks": jks, "password": bundle::PASSWORD })
            }),
            "variables": trust::VARIABLES.map(|variable| variable.name),
        })),
    }
    Ok(Exit::Fine)
}

/// What programs must trust to use the listener of the running bearerd, as PEM. `None`: none runs with this config.
pub(super) fn of_running(config: &Config, listener: &ListenerConfig) -> Option<String> {
    running(config, listener).ok().map(|found| found.certificates)
}

fn chosen<'a>(
    config: &'a Config,
    name: Option<&str>,
) -> Result<(usize, &'a ListenerConfig, &'a ForwardConfig), Failure> {
    let all = config.listeners.iter().enumerate();
    let all: Vec<_> = all.filter_map(|(index, it)| Some((index, &**it, it.forward()?))).collect();
    let names = || all.iter().map(|(_, listener, _)| &*listener.name);
    let usage = |message: String| Failure::new(Exit::Usage, message);
    match (name, all.as_slice()) {
        (_, []) => Err(usage(
            "the config has no forward listener, so there is no CA; a listener with serve = \"forward\" has one".to_owned(),
        )),
        (None, [only]) => Ok(*only),
        (None, _) => {
            let names: Vec<&str> = names().collect();
            Err(usage(format!("there are several forward listeners: name one of {}", names.join(", "))))
        }
        (Some(name), _) => all.iter().find(|(_, listener, _)| &*listener.name == name).copied().ok_or_else(|| {
            usage(format!("no forward listener `{name}` in the config; {}", output::suggestion(name, names())))
        }),
    }
}

fn own_ca(ca: &CaConfig, config: &Config, index: usize, listener: &ListenerConfig) -> Result<Found, Failure> {
    let broken = |why: &str| Failure::new(Exit::Config, format!("listener.{}: {why}", listener.name));
    let authority =
        CertificateAuthority::new(ca, &config.hosts_of(index)).map_err(|error| broken(&error.0))?;
    let newest = authority.newest_certificate().ok_or_else(|| broken("its CA has no certificate"))?;
    Ok(Found {
        ephemeral: false,
        subject: newest.subject(),
        not_after: rfc3339(newest.not_after()),
        fingerprint: newest.fingerprint(),
        certificates: authority.bundle().pem(),
    })
}

/// An ephemeral CA is only in the memory of the running program.
fn running(config: &Config, listener: &ListenerConfig) -> Result<Found, Failure> {
    let name = &*listener.name;
    let at = place(&config.admin.address);
    let no = |why: String| Failure::new(Exit::No, why);
    let response = ask(&config.admin.address, "/status").map_err(|error| {
        no(format!(
            "the CA of listener `{name}` is ephemeral: only the running bearerd has it, and there is no response at {at}: \
             {error}: is bearerd running with this config?"
        ))
    })?;
    if response.status != 200 {
        return Err(no(format!("{at} refuses its status ({}): {}", response.status, response.body)));
    }
    let status: Status = serde_json::from_str(&response.body)
        .map_err(|error| no(format!("the status of {at} is not that of this bearerd: {error}")))?;
    let found = status.listeners.into_iter().find(|it| it.name == name).and_then(|it| it.ca);
    found.ok_or_else(|| {
        no(format!("the bearerd at {at} has no forward listener `{name}`: does it run with this config?"))
    })
}

fn how_to_trust(found: &Found, listener: &ListenerConfig, bundle: Option<&Path>) -> String {
    let name = &listener.name;
    let kind = if found.ephemeral { ", made at the start of bearerd" } else { "" };
    let mut out = format!(
        "The CA of listener {name}: {}{kind}\nexpires:     {}\nfingerprint: {}\n\n",
        found.subject, found.not_after, found.fingerprint
    );
    let file = bundle.unwrap_or_else(|| Path::new("bundle.pem"));
    let _ = match bundle {
        Some(path) => writeln!(
            out,
            "{} has the system's roots and this certificate. Set what your program reads:",
            path.display()
        ),
        None => writeln!(
            out,
            "Most programs replace their roots, so they need a file with the system's roots and this certificate. \
             forward = {{ ca_bundle = \"bundle.pem\" }} writes it. Then set what your program reads:"
        ),
    };
    for variable in &trust::VARIABLES {
        let _ = writeln!(out, "  {}={}  {}", variable.name, file.display(), variable.readers);
    }
    let _ = writeln!(out, "  JAVA_TOOL_OPTIONS=\"{}\"  Java", trust::java_options(file));
    out.push_str("\nOr let the whole system trust it, if you saved the certificate as ca.pem:\n");
    for (system, command) in trust::SYSTEMS {
        let _ = writeln!(out, "  {system}: {command}");
    }
    out.push_str("\n`bearerd exec -- COMMAND` does all of this for one program.");
    out
}
