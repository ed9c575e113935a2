//! A few more requests, to find out what a refusing issuer takes. Few, since an issuer may lock a client that fails
//! too often.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Bounds;
use crate::clock::SystemClock;
use crate::config::{BasicEncoding, ClientAuth, CredentialKey, IssuerConfig, JwtUse, Source};
use crate::issuer::{FailureKind, Grant, Issuer, IssuerError};

/// Scopes that are asked for one by one.
const SCOPES: usize = 8;

/// What was tried, and what it says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Guessed {
    pub(super) requests: usize,
    pub(super) hints: Vec<String>,
}

impl Guessed {
    /// `after` this many requests.
    fn told(requests: usize, hint: String) -> Self {
        Self { requests, hints: vec![format!("{hint} ({})", more(requests))] }
    }
}

fn more(requests: usize) -> String {
    let s = if requests == 1 { " was" } else { "s were" };
    format!("{requests} more request{s} made to find out")
}

/// The client was refused, or the issuer did not even see who it is.
pub(super) fn may_be_the_method(error: &IssuerError, config: &IssuerConfig) -> bool {
    // A secret that signs alone was never to travel, so no other method is tried with it.
    let signs = matches!(config.client_auth, ClientAuth::SecretJwt { .. });
    if signs || config.client_auth.secret().is_none() {
        return false;
    }
    match error.code.as_deref() {
        Some("invalid_client") => true,
        // A server that reads the body alone finds no client at all.
        Some("invalid_request") => matches!(config.client_auth, ClientAuth::Basic { .. }),
        _ => error.http_status == Some(401),
    }
}

/// Another way to show the secret.
struct Alternative {
    client_auth: ClientAuth,
    written: &'static str,
}

/// The secret's other methods, each once.
pub(super) async fn methods(config: &IssuerConfig, key: &CredentialKey, bounds: Bounds) -> Guessed {
    let alternatives = alternatives(config);
    let mut requests = 0;
    for alternative in &alternatives {
        let Some(outcome) = fetch(with_method(config, alternative), key, bounds).await else { break };
        requests += 1;
        match outcome {
            Ok(_) => return taken(config, alternative, requests, ""),
            Err(error) if knows_the_client(&error) => {
                let then = format!(" (and then answers {})", error.code.unwrap_or_default());
                return taken(config, alternative, requests, &then);
            }
            // Whoever cannot answer now is not asked on.
            Err(IssuerError { kind: FailureKind::Unavailable | FailureKind::Timeout, .. }) => break,
            Err(_) => {}
        }
    }
    if requests == 0 {
        return Guessed::default();
    }
    let tried: Vec<&str> =
        alternatives.iter().take(requests).map(|alternative| alternative.written).collect();
    Guessed::told(
        requests,
        format!(
            "the method does not seem to be at fault: {} {} refused too. Compare client_id and client_secret of \
             [issuer.{}] with the issuer's, and see there whether the client may use {}",
            tried.join(" and "),
            if tried.len() == 1 { "is" } else { "are" },
            config.name,
            config.grant_type.as_deref().unwrap_or("this way to ask"),
        ),
    )
}

fn taken(config: &IssuerConfig, alternative: &Alternative, requests: usize, then: &str) -> Guessed {
    let hint = format!(
        "the issuer takes {}{then}: set that in [issuer.{}], which says {}",
        alternative.written,
        config.name,
        written(&config.client_auth)
    );
    Guessed::told(requests, hint)
}

/// A refusal that comes only after the client was let in.
fn knows_the_client(error: &IssuerError) -> bool {
    matches!(error.code.as_deref(), Some("invalid_scope" | "invalid_target" | "unsupported_grant_type"))
}

/// The most usual first.
fn alternatives(config: &IssuerConfig) -> Vec<Alternative> {
    let Some(secret) = config.client_auth.secret() else { return Vec::new() };
    // Basic is taken by another user.
    if config.basic.is_some() {
        return Vec::new();
    }
    let basic = |encoding| ClientAuth::Basic { secret: secret.clone(), encoding };
    let both =
        [basic(BasicEncoding::Form), basic(BasicEncoding::Raw), ClientAuth::Post { secret: secret.clone() }];
    let current = written(&config.client_auth);
    let is_basic = matches!(config.client_auth, ClientAuth::Basic { .. });
    let encodings_differ =
        [config.client_id.as_ref(), Some(secret)].into_iter().flatten().any(changes_in_a_form);
    let mut found: Vec<Alternative> = both
        .into_iter()
        .map(|client_auth| Alternative { written: written(&client_auth), client_auth })
        .filter(|alternative| alternative.written != current)
        // The same bytes would go up again.
        .filter(|alternative| match alternative.client_auth {
            ClientAuth::Basic { encoding: BasicEncoding::Raw, .. } => encodings_differ,
            ClientAuth::Basic { .. } => encodings_differ || !is_basic,
            _ => true,
        })
        .collect();
    found.sort_by_key(|alternative| matches!(alternative.client_auth, ClientAuth::Basic { .. }));
    found
}

fn written(client_auth: &ClientAuth) -> &'static str {
    match client_auth {
        ClientAuth::Basic { encoding: BasicEncoding::Form, .. } => r#"client_auth = "client_secret_basic""#,
        ClientAuth::Basic { encoding: BasicEncoding::Raw, .. } => {
            r#"client_auth = "client_secret_basic" with basic_encoding = "raw""#
        }
        ClientAuth::Post { .. } => r#"client_auth = "client_secret_post""#,
        _ => "another client_auth",
    }
}

/// Whether RFC 6749's encoding before base64 changes it.
fn changes_in_a_form(source: &Source) -> bool {
    source.read().is_ok_and(|value| {
        value.expose().iter().any(|byte| !byte.is_ascii_alphanumeric() && !b"*-._".contains(byte))
    })
}

fn with_method(config: &IssuerConfig, alternative: &Alternative) -> IssuerConfig {
    let jwt = config.jwt.clone().filter(|jwt| jwt.usage != JwtUse::ClientAssertion);
    // One request each: no other credential stands in.
    IssuerConfig { client_auth: alternative.client_auth.clone(), jwt, standby: None, ..config.clone() }
}

/// `None`: the time of the whole run is up.
async fn fetch(
    config: IssuerConfig,
    key: &CredentialKey,
    bounds: Bounds,
) -> Option<Result<Grant, IssuerError>> {
    let issuer = Issuer::new(Arc::new(config), Arc::new(SystemClock));
    bounds.hold(issuer.fetch(key)).await
}

/// Which scope is refused: each is asked for alone, and then none.
pub(super) async fn scopes(config: &IssuerConfig, key: &CredentialKey, bounds: Bounds) -> Guessed {
    if key.scopes.is_empty() {
        // A request without any was the one that it refused.
        let name = &config.name;
        let hint = format!("it was asked for no scope; give scopes of [issuer.{name}] or of the route");
        return Guessed { requests: 0, hints: vec![hint] };
    }
    let config = IssuerConfig { standby: None, ..config.clone() };
    let with = |scopes: BTreeSet<String>| CredentialKey { scopes, ..key.clone() };
    let (mut requests, mut granted, mut refused) = (0, Vec::new(), Vec::new());
    // A single one was asked for alone already.
    let alone = if key.scopes.len() > 1 { SCOPES } else { 0 };
    for scope in key.scopes.iter().take(alone) {
        let key = with(BTreeSet::from([scope.clone()]));
        let Some(outcome) = fetch(config.clone(), &key, bounds).await else { break };
        requests += 1;
        match outcome {
            Ok(_) => granted.push(scope.as_str()),
            Err(error) if error.code.as_deref() == Some("invalid_scope") => refused.push(scope.as_str()),
            Err(_) => break,
        }
    }
    let none = fetch(config.clone(), &with(BTreeSet::new()), bounds).await;
    requests += usize::from(none.is_some());
    let none = none.and_then(Result::ok);
    scopes_told(&config.name, key, requests, &granted, &refused, none.as_ref())
}

fn scopes_told(
    name: &str,
    key: &CredentialKey,
    requests: usize,
    granted: &[&str],
    refused: &[&str],
    none: Option<&Grant>,
) -> Guessed {
    let mut said = Vec::new();
    let asked_alone = granted.len() + refused.len();
    if asked_alone > 0 {
        if refused.is_empty() {
            said.push(format!(
                "each of {} is granted alone, so it is their combination that is refused",
                granted.join(", ")
            ));
        } else {
            said.push(format!("refused: {}", refused.join(", ")));
            if !granted.is_empty() {
                said.push(format!("granted: {}", granted.join(", ")));
            }
        }
        if asked_alone < key.scopes.len() {
            said.push(format!("the other {} were not tried", key.scopes.len() - asked_alone));
        }
    }
    match none {
        Some(Grant { scope: Some(scope), .. }) => {
            said.push(format!("with no scope asked for, it grants {scope}"))
        }
        Some(_) => said.push("with no scope asked for, it grants a token".to_owned()),
        None => {}
    }
    if said.is_empty() {
        said.push("each scope is refused, and so is a request without any".to_owned());
    }
    Guessed::told(
        requests,
        format!(
            "{}. Mend scopes of [issuer.{name}] or of the route, or let the client have them at the issuer",
            said.join("; ")
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{HttpUrl, TokenEndpoint};

    fn config(client_auth: ClientAuth, id: &str) -> IssuerConfig {
        let url = HttpUrl {
            text: "https://idp.example/t".to_owned(),
            https: true,
            host: "idp.example".to_owned(),
            port: 443,
            authority: "idp.example".to_owned(),
            path_and_query: "/t".to_owned(),
        };
        IssuerConfig {
            client_auth,
            client_id: Some(Source::literal(id)),
            ..IssuerConfig::with_defaults("corp", TokenEndpoint::Url(url))
        }
    }

    fn basic(secret: &str, encoding: BasicEncoding) -> ClientAuth {
        ClientAuth::Basic { secret: Source::literal(secret), encoding }
    }

    fn tried(client_auth: ClientAuth) -> Vec<&'static str> {
        alternatives(&config(client_auth, "client-1")).iter().map(|other| other.written).collect()
    }

    const POST: &str = r#"client_auth = "client_secret_post""#;
    const BASIC: &str = r#"client_auth = "client_secret_basic""#;
    const RAW: &str = r#"client_auth = "client_secret_basic" with basic_encoding = "raw""#;

    #[test]
    fn each_other_method_is_tried_once_and_none_that_would_send_the_same_again() {
        assert_eq!(tried(basic("plain", BasicEncoding::Form)), [POST]);
        assert_eq!(tried(basic("a+b", BasicEncoding::Form)), [POST, RAW]);
        assert_eq!(tried(basic("a+b", BasicEncoding::Raw)), [POST, BASIC]);
        assert_eq!(tried(ClientAuth::Post { secret: Source::literal("a+b") }), [BASIC, RAW]);
        assert_eq!(tried(ClientAuth::Post { secret: Source::literal("plain") }), [BASIC]);
        assert!(tried(ClientAuth::None).is_empty() && tried(ClientAuth::PrivateKeyJwt).is_empty());
    }

    fn error(code: Option<&str>, status: u16) -> IssuerError {
        IssuerError {
            code: code.map(str::to_owned),
            http_status: Some(status),
            ..IssuerError::new(FailureKind::Unusable, String::new())
        }
    }

    #[test]
    fn only_a_refused_client_makes_us_guess_the_method() {
        let form = config(basic("s", BasicEncoding::Form), "c");
        let post = config(ClientAuth::Post { secret: Source::literal("s") }, "c");
        let jwt = config(ClientAuth::PrivateKeyJwt, "c");
        let signed = config(ClientAuth::SecretJwt { secret: Source::literal("s") }, "c");
        for (code, status, wanted) in [
            (Some("invalid_client"), 400, true),
            (Some("unauthorized_client"), 401, true),
            (Some("unauthorized_client"), 400, false),
            (None, 401, true),
            (Some("invalid_scope"), 400, false),
            (None, 500, false),
        ] {
            assert_eq!(may_be_the_method(&error(code, status), &form), wanted, "{code:?} {status}");
            assert!(!may_be_the_method(&error(code, status), &jwt));
            assert!(!may_be_the_method(&error(code, status), &signed), "its secret never travels");
        }
        assert!(may_be_the_method(&error(Some("invalid_request"), 400), &form));
        assert!(!may_be_the_method(&error(Some("invalid_request"), 400), &post));
    }

    #[test]
    fn scopes_are_told_apart() {
        let scopes = ["a", "b"].map(str::to_owned);
        let key = CredentialKey {
            issuer: "corp".into(),
            issuer_digest: [0; 32],
            scopes: BTreeSet::from(scopes),
            params: std::collections::BTreeMap::new(),
            subject: None,
        };
        let told = |granted: &[&str], refused: &[&str]| {
            scopes_told("corp", &key, 3, granted, refused, None).hints.join("")
        };
        assert!(
            told(&["a"], &["b"]).starts_with("refused: b; granted: a. Mend scopes"),
            "{}",
            told(&["a"], &["b"])
        );
        assert!(told(&["a", "b"], &[]).contains("combination"));
        assert!(told(&[], &[]).contains("so is a request without any"));
        assert!(told(&["a"], &["b"]).ends_with("(3 more requests were made to find out)"));
    }
}
