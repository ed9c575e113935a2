//! Tokens of other issuers as values of a token request.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use super::credential::{self, ClientCredential, WhichCredential};
use super::{Issuer, IssuerError, gate};
use crate::clock::SharedClock;
use crate::config::{Chained, CredentialKey, IssuerConfig};
use crate::secret::Secret;

/// The pause before the outer issuer checks again for the inner token. This sends no request, because the inner issuer has its own
/// pauses.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

pub type Taking<'a> = Pin<Box<dyn Future<Output = Result<Secret, IssuerError>> + Send + 'a>>;

/// Where a token request gets the tokens of other issuers.
pub trait ChainedTokens: Send + Sync {
    /// The current token, or a new one. The error is the other issuer's.
    fn take<'a>(&'a self, token: &'a Chained) -> Taking<'a>;
    /// The issuer refused the token that was taken. Returns whether it was fetched for an earlier request, so that a new one may
    /// help. If so, the next [`Self::take`] gets a new one.
    fn refuse(&self, token: &Chained) -> bool;
}

/// A token of another issuer, and the config key that uses it.
pub type Use<'a> = (String, &'a Arc<Chained>);

/// The tokens of other issuers that requests for this token need.
pub fn chained<'a>(config: &'a IssuerConfig, key: &'a CredentialKey) -> Vec<Use<'a>> {
    chained_with(WhichCredential::Current, config, key)
}

/// As [`chained`], of requests with the standby credential. Nothing if there is none.
pub fn chained_by_standby<'a>(config: &'a IssuerConfig, key: &'a CredentialKey) -> Vec<Use<'a>> {
    chained_with(WhichCredential::Standby, config, key)
}

/// What [`chained`] and [`chained_by_standby`] return, each once.
pub fn chained_by_either<'a>(config: &'a IssuerConfig, key: &'a CredentialKey) -> Vec<Use<'a>> {
    let mut uses = chained(config, key);
    let known: Vec<_> = uses.iter().map(|(key, _)| key.clone()).collect();
    uses.extend(chained_by_standby(config, key).into_iter().filter(|(key, _)| !known.contains(key)));
    uses
}

fn chained_with<'a>(
    which: WhichCredential,
    config: &'a IssuerConfig,
    key: &'a CredentialKey,
) -> Vec<Use<'a>> {
    let Some(client) = ClientCredential::of(config, which) else { return Vec::new() };
    let values = credential::made_values(config, &client, key);
    values.into_iter().filter_map(|(key, source)| Some((key, source.chained()?))).collect()
}

/// A new token for each request, for commands that keep no tokens.
pub(super) struct FreshTokens(pub(super) SharedClock);

impl ChainedTokens for FreshTokens {
    fn take<'a>(&'a self, token: &'a Chained) -> Taking<'a> {
        Box::pin(async move {
            let (config, key) = token.token();
            let issuer = Issuer::new(Arc::clone(config), Arc::clone(&self.0));
            issuer.fetch_through(&gate::Open, key, self, false).await.map(|grant| grant.token)
        })
    }

    fn refuse(&self, _: &Chained) -> bool {
        false
    }
}

/// The outer issuer's failure if the value of this config key needs a token of the failed inner issuer.
pub(super) fn leg(outer: &str, key: &str, name: &str, error: &IssuerError) -> IssuerError {
    let explain = |sentence: &str| {
        let own = sentence.strip_prefix(&format!("issuer {name}: ")).unwrap_or(sentence);
        format!("issuer {outer}: its {key} comes from issuer {name}, which gives no token: {own}")
    };
    IssuerError {
        detail: explain(&error.detail),
        summary: explain(&error.summary),
        retry_after: Some(LOOK_AGAIN),
        // The inner issuer failed, and may grant a token at any time.
        forgiven: true,
        unreached: None,
        ..error.clone()
    }
}
