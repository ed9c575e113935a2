//! `budget`: how many token requests an issuer may get, and whether that is enough for its routes.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use crate::config::document::Place;
use crate::config::model::{Budget, Credential, CredentialKey, IssuerConfig, LONGEST_LIFETIME, RouteConfig};
use crate::config::raw::RawBudget;
use crate::config::report::Report;
use crate::config::resolve::Issuers;
use crate::config::types::counted;

/// `None`: there is no budget, or it has errors.
pub(super) fn resolve(at: &Place<'_>, raw: Option<RawBudget>, report: &mut Report) -> Option<Budget> {
    let RawBudget { requests, per } = raw?;
    let per = if per.is_given() { Some(per.read(at, "per", report)) } else { None };
    let requests = requests.and_then(|number| count(&at.key("requests"), number, report));
    for (key, example) in [("requests", "1000"), ("per", "\"24h\"")] {
        report.missing(&at.key(key), "is missing", format!("{key} = {example}"));
    }
    Some(Budget { requests: requests?, per: span(&at.key("per"), per?, report)? })
}

fn count(at: &Place<'_>, number: u64, report: &mut Report) -> Option<u32> {
    let most = Budget::MOST_REQUESTS;
    if number == 0 {
        report.error(at, "must be at least 1", "leave out `budget` for no limit");
        return None;
    }
    let number = u32::try_from(number).ok().filter(|number| *number <= most);
    if number.is_none() {
        report.error(at, format!("must be at most {most}"), "count over a shorter span");
    }
    number
}

fn span(at: &Place<'_>, per: Duration, report: &mut Report) -> Option<Duration> {
    if per < Budget::SHORTEST {
        report.error(at, "must be at least \"1s\"", "");
        return None;
    }
    if per > Budget::LONGEST {
        report.error(at, "must be at most \"31d\"", "");
        return None;
    }
    Some(per)
}

/// Warns if a budget is too small for the tokens of an issuer's routes, even at the longest lifetime.
pub(super) fn check(
    places: &BTreeMap<String, Place<'_>>,
    issuers: &Issuers,
    routes: &[Arc<RouteConfig>],
    report: &mut Report,
) {
    for (name, place) in places {
        let Some(issuer) = issuers.get(name).and_then(Option::as_ref) else { continue };
        let Some(budget) = issuer.budget else { continue };
        let tokens = tokens_of(issuer, routes);
        if let Some(message) = shortage(tokens, budget, issuer.refresh_at) {
            let hint = "raise it, or give routes the same scopes and parameters, so that they share a token";
            report.warning(&place.key("budget"), message, hint);
        }
    }
}

/// How many tokens the routes of an issuer have.
fn tokens_of(issuer: &IssuerConfig, routes: &[Arc<RouteConfig>]) -> usize {
    let keys = routes.iter().filter_map(|route| match &route.credential {
        Credential::Issuer { key, .. } if key.issuer == issuer.name => Some(key),
        _ => None,
    });
    keys.collect::<HashSet<&CredentialKey>>().len()
}

#[expect(clippy::cast_precision_loss, reason = "there are far fewer routes than a float counts exactly")]
fn shortage(tokens: usize, budget: Budget, refresh_at: f64) -> Option<String> {
    let Budget { requests, per } = budget;
    if u32::try_from(tokens).map_or(true, |tokens| tokens > requests) {
        return Some(format!(
            "allows {}, and the issuer's routes have {}",
            counted(requests, "token request"),
            counted(tokens, "token")
        ));
    }
    let renewed_after = LONGEST_LIFETIME.mul_f64(refresh_at);
    let needed = tokens as f64 * per.as_secs_f64() / renewed_after.as_secs_f64();
    (needed > f64::from(requests)).then(|| {
        let (tokens, live) = match tokens {
            1 => ("token of the issuer's routes needs".to_owned(), "it lives"),
            _ => (format!("{tokens} tokens of the issuer's routes need"), "they live"),
        };
        format!(
            "allows {}, and the {tokens} {:.0} in that time, even if {live} for 24 h",
            counted(requests, "token request"),
            needed.ceil()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_short_where_even_the_longest_lifetime_needs_more() {
        let short = |tokens, requests, hours: u64| {
            shortage(tokens, Budget { requests, per: Duration::from_secs(hours * 3600) }, 0.8)
        };
        assert_eq!(short(0, 1, 24), None);
        assert_eq!(short(5, 5, 1), None);
        assert_eq!(
            short(6, 5, 1).as_deref(),
            Some("allows 5 token requests, and the issuer's routes have 6 tokens")
        );
        // A token is renewed after 19.2 h.
        assert_eq!(short(4, 5, 24), None);
        assert_eq!(
            short(5, 6, 24).as_deref(),
            Some(
                "allows 6 token requests, and the 5 tokens of the issuer's routes need 7 in that time, even if they live for 24 h"
            )
        );
        assert_eq!(short(5, 7, 24), None);
        assert_eq!(
            short(1, 1, 25).as_deref(),
            Some(
                "allows 1 token request, and the token of the issuer's routes needs 2 in that time, even if it lives for 24 h"
            )
        );
        assert_eq!(
            short(2, 1, 1).as_deref(),
            Some("allows 1 token request, and the issuer's routes have 2 tokens")
        );
    }
}
