//! What presets leave to the operator: scopes, parameters, and header fields without which a token request hardly succeeds.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::document::Place;
use crate::config::model::{Credential, CredentialKey, IssuerConfig, RouteConfig};
use crate::config::preset::{PresetKey, preset};
use crate::config::report::{Report, Severity};
use crate::config::resolve::Issuers;

/// Reports what the token requests of the routes lack. An issuer without routes has a token of its own.
pub(super) fn check(
    places: &BTreeMap<String, Place<'_>>,
    issuers: &Issuers,
    routes: &[Arc<RouteConfig>],
    report: &mut Report,
) {
    let mut keys: BTreeMap<&str, Vec<&CredentialKey>> = BTreeMap::new();
    for route in routes {
        if let Credential::Issuer { issuer, key } = &route.credential {
            keys.entry(&issuer.name).or_default().push(key);
        }
    }
    for (name, place) in places {
        let Some(issuer) = issuers.get(name).and_then(Option::as_ref) else { continue };
        let of_routes = keys.remove(name.as_str()).unwrap_or_default();
        let own = issuer.own_credential();
        let is_used = !of_routes.is_empty() || report.chained_issuers.contains(name);
        let all = if is_used { of_routes } else { vec![&own] };
        let mut reported: Vec<&str> = Vec::new();
        for need in all.into_iter().flat_map(|key| missing(issuer, key)) {
            if !reported.contains(&need.key.as_str()) {
                reported.push(&need.key);
                tell(issuer, place, need, "here or in the route", report);
            }
        }
    }
}

/// Reports what a token lacks that another issuer uses. `place`: the reference to it.
pub(super) fn check_chained(
    place: &Place<'_>,
    issuer: &IssuerConfig,
    key: &CredentialKey,
    report: &mut Report,
) {
    for need in missing(issuer, key) {
        tell(issuer, place, need, &format!("here or in [issuer.{}]", issuer.name), report);
    }
}

fn tell(issuer: &IssuerConfig, place: &Place<'_>, need: &PresetKey, where_to: &str, report: &mut Report) {
    let preset = issuer.preset.as_deref().unwrap_or_default();
    let at = need.key.split('.').fold(place.clone(), |at, key| at.key(key));
    let message = format!("is missing, and preset `{preset}` requires it: {}", need.about);
    let hint = format!("{} = {}, {where_to}", need.key, need.example);
    // Some servers have defaults.
    if !report.problems.iter().any(|problem| problem.severity == Severity::Error) {
        report.warning(&at, message, hint);
    }
}

fn missing<'a>(
    issuer: &'a IssuerConfig,
    key: &'a CredentialKey,
) -> impl Iterator<Item = &'static PresetKey> + 'a {
    let preset = issuer.preset.as_deref().and_then(preset);
    let needs = preset.into_iter().flat_map(|preset| &preset.needs);
    needs.filter(move |need| match need.key.split_once('.') {
        Some(("params", name)) => !key.params.contains_key(name),
        Some(("headers", name)) => !issuer.headers.iter().any(|(given, _)| given == name),
        Some(_) => false,
        None if need.key == "scopes" => key.scopes.is_empty(),
        None if need.key == "params" => key.params.is_empty(),
        // Each has its own check.
        None => false,
    })
}
