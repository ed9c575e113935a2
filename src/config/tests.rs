//! What one file alone gives. Fixtures with their whole output stand in `tests/config`.

mod canary;
mod checks;
mod files;
mod issuers;
mod keys;
mod tracing;

use std::path::PathBuf;

use super::document::{Access, FileText};
use super::environment::OtelVariables;
use super::{Config, Problems, load_file};
use crate::config::report::Report;

/// A file that its owner alone may read.
pub(super) const PRIVATE: Access = Access { owner_only: true, writable_by_others: false };
/// A file that others may read.
pub(super) const READABLE: Access = Access { owner_only: false, writable_by_others: false };

pub(super) fn load(text: &str) -> Result<Config, Problems> {
    load_as(text, READABLE)
}

/// Beside these variables.
pub(super) fn load_beside(text: &str, otel: &OtelVariables) -> Result<Config, Problems> {
    let path = PathBuf::from("/etc/bearerd/bearerd.toml");
    let file = FileText::new("bearerd.toml".into(), path, text.to_owned(), READABLE);
    load_file(&file, Report::default(), otel)
}

pub(super) fn load_as(text: &str, access: Access) -> Result<Config, Problems> {
    let path = PathBuf::from("/etc/bearerd/bearerd.toml");
    let file = FileText::new("bearerd.toml".into(), path, text.to_owned(), access);
    load_file(&file, Report::default(), &OtelVariables::default())
}

/// The first lines of what is printed, one per problem.
pub(super) fn lines(text: &str) -> Vec<String> {
    let problems = match load(text) {
        Ok(config) => config.warnings,
        Err(Problems(problems)) => problems,
    };
    problems.iter().map(|problem| problem.to_string().lines().next().unwrap().to_owned()).collect()
}

/// An issuer and a route that are right, with more lines in each.
pub(super) fn with(issuer: &str, route: &str) -> String {
    format!(
        "[issuer.corp]\ntoken_url = \"https://idp/token\"\nclient_id = \"a\"\n{}{issuer}\n[[route]]\nname = \"r\"\nupstream = \"https://h\"\n{}{route}\n",
        if issuer.starts_with("client_secret ") || issuer.contains("\"none\"") {
            ""
        } else {
            "client_secret = { env = \"S\" }\n"
        },
        if route.contains("anonymous") { "" } else { "issuer = \"corp\"\n" },
    )
}
