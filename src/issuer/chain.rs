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

/// The pause before the outer issuer looks for the inner token again. The inner token has its own pauses, so this asks nobody.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

pub type Taking<'a> = Pin<Box<dyn Future<Output = Result<Secret, IssuerError>> + Send + 'a>>;

/// Where a token request gets the tokens of other issuers.
pub trait ChainedTokens: Send + Sync {
    /// The current token, or a new one. The error is the other issuer's.
    fn take<'a>(&'a self, token: &'a Chained) -> Taking<'a>;
    /// The issuer refused the token that was taken. Returns whether it was fetched for an earlier request, so that another one
    /// may help: then the next [`Self::take`] gets a new one.
    fn refuse(&self, token: &Chained) -> bool;
}

/// The tokens of other issuers that the requests for this token need, with the config keys that they are for.
pub fn chained<'a>(config: &'a IssuerConfig, key: &'a CredentialKey) -> Vec<(String, &'a Arc<Chained>)> {
    let Some(client) = ClientCredential::of(config, WhichCredential::Current) else { return Vec::new() };
    let values = credential::made_values(config, &client, key);
    values.into_iter().filter_map(|(key, source)| Some((key, source.chained()?))).collect()
}

/// A new token for each request, for programs that keep none.
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

/// The failure of the outer issuer, whose value of this config key needs the token of an issuer that fails.
pub(super) fn leg(outer: &str, key: &str, name: &str, error: &IssuerError) -> IssuerError {
    let told = |sentence: &str| {
        let own = sentence.strip_prefix(&format!("issuer {name}: ")).unwrap_or(sentence);
        format!("issuer {outer}: its {key} comes from issuer {name}, which gives no token: {own}")
    };
    IssuerError {
        detail: told(&error.detail),
        summary: told(&error.summary),
        retry_after: Some(LOOK_AGAIN),
        // The other issuer was refused, and may be granted a token at any time.
        forgiven: true,
        unreached: None,
        ..error.clone()
    }
}
