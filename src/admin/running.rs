//! What a scrape shows of the process that nobody counts.

use std::sync::Arc;

use super::view::View;
use super::{Admin, process};
use crate::metrics::{Running, TokenFailures};

impl Admin {
    pub(super) fn running(&self, view: &View) -> Running {
        Running {
            ready: view.ready(),
            loaded_at: Some(view.loads.loaded_at),
            started_at: Some(view.started_at),
            most_connections: u64::try_from(view.config.limits.connections).unwrap_or(u64::MAX),
            token_failures: token_failures(view),
            certificates: self.certificates.ends(&view.config, view.config_version, self.clock.boot()),
            process: process::stats(),
        }
    }
}

fn token_failures(view: &View) -> Vec<TokenFailures> {
    let of = |route: &Arc<str>, issuer: &Arc<str>, in_a_row| TokenFailures {
        issuer: Arc::clone(issuer),
        route: Arc::clone(route),
        in_a_row,
    };
    view.credentials
        .iter()
        .flat_map(|credential| {
            let in_a_row = credential.status.last_error.as_ref().map_or(0, |error| error.failures_in_a_row);
            credential.routes.iter().map(move |route| of(route, &credential.issuer.name, in_a_row))
        })
        .collect()
}
