//! Sends a few more requests to find out what a refusing issuer accepts. They are few, because an issuer may lock a
//! client that fails too often.

use std::sync::Arc;

use super::Bounds;
use crate::clock::SystemClock;
use crate::config::client_auth::{METHODS, Method, Proof};
use crate::config::{
    BasicEncoding, ClientAuth, CredentialKey, IssuerConfig, JwtConfig, JwtUse, Scopes, Source, TokenEndpoint,
};
use crate::issuer::{FailureKind, Grant, Issuer, IssuerError};
use crate::net::dpop;

/// The most scopes that are requested one by one.
const SCOPES: usize = 8;

/// How many requests were sent, and what they showed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Guess {
    pub(super) requests: usize,
    pub(super) hints: Vec<String>,
}

impl Guess {
    /// A hint after this many requests.
    fn after(requests: usize, hint: String) -> Self {
        Self { requests, hints: vec![format!("{hint} ({})", more(requests))] }
    }
}

fn more(requests: usize) -> String {
    let s = if requests == 1 { " was" } else { "s were" };
    format!("{requests} more request{s} made to find out")
}

/// Whether the issuer refused the client, or did not even see who it is.
pub(super) fn may_be_the_method(error: &IssuerError, config: &IssuerConfig) -> bool {
    let code = error.code.as_deref();
    if matches!(code, Some(dpop::USE_NONCE | dpop::INVALID_PROOF)) {
        return false;
    }
    let refused = code == Some("invalid_client") || error.http_status == Some(401);
    let says = |words: &str| error.detail.contains(words);
    // glewlwyd responds like this to every error.
    let wordless = code.is_none() && error.http_status == Some(403);
    match shown_by(config) {
        // Keycloak responds 400 unauthorized_client to an unexpected encoding. Rauthy reports a missing secret if it
        // expects it elsewhere.
        Some(Shown::Secret) => {
            refused
                || wordless
                || (code == Some("unauthorized_client") && says("authenticating client"))
                || says("'client_secret' is missing")
                || code.is_some_and(|code| config.client_auth.method.may_be_unseen(code))
        }
        Some(Shown::Signature) => {
            let code_of_it =
                matches!(code, Some("invalid_request" | "invalid_grant" | "unauthorized_client"));
            refused || wordless || code_of_it
        }
        None => false,
    }
}

/// What proves who the client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    Secret,
    Signature,
}

fn shown_by(config: &IssuerConfig) -> Option<Shown> {
    match config.client_auth.proof() {
        proof if proof.sends_secret() => Some(Shown::Secret),
        proof if proof.is_assertion() => Some(Shown::Signature),
        _ => config.jwt.as_ref().map(|_| Shown::Signature),
    }
}

/// Another way to authenticate the client.
#[derive(Debug, Clone)]
enum Change {
    Method(ClientAuth),
    SendClientId,
    /// `jwt.audience`: the token endpoint instead of the issuer's URL.
    Audience,
}

impl Change {
    /// The config with this change, and how to write the change. `None`: it cannot be tried.
    async fn apply(&self, config: &IssuerConfig, bounds: Bounds) -> Option<(IssuerConfig, String)> {
        // One request each, so without a second credential.
        let mut config = IssuerConfig { standby: None, ..config.clone() };
        let written = match self {
            Self::Method(client_auth) => {
                config.jwt = match client_auth.proof() {
                    Proof::SignedBySecret => Some(JwtConfig::with_defaults(JwtUse::ClientAssertion)),
                    _ => config.jwt.filter(|jwt| jwt.usage != JwtUse::ClientAssertion),
                };
                config.client_auth = client_auth.clone();
                written(client_auth)
            }
            Self::SendClientId => {
                config.send_client_id = true;
                "send_client_id = true".to_owned()
            }
            Self::Audience => {
                let issuer = Issuer::new(Arc::new(config.clone()), Arc::new(SystemClock));
                let endpoint = bounds.hold(issuer.metadata()).await?.ok().flatten()?.token_endpoint.text;
                config.jwt.as_mut()?.audience = Some(Source::literal(endpoint.as_str()));
                format!("jwt = {{ audience = \"{endpoint}\" }}, its token endpoint")
            }
        };
        Some((config, written))
    }
}

/// Whether there is another way to authenticate.
pub(super) fn has_another_way(error: &IssuerError, config: &IssuerConfig) -> bool {
    !changes(error, config).is_empty()
}

/// Tries the other ways to authenticate, each once.
pub(super) async fn methods(
    config: &IssuerConfig,
    error: &IssuerError,
    key: &CredentialKey,
    bounds: Bounds,
) -> Guess {
    let mut tried = Vec::new();
    for change in changes(error, config) {
        let Some((changed, written)) = change.apply(config, bounds).await else { continue };
        let Some(outcome) = fetch(changed, key, bounds).await else { break };
        tried.push(written.clone());
        match outcome {
            Ok(_) => return taken(config, &change, &written, tried.len(), ""),
            Err(error) if knows_the_client(&error) => {
                let then = format!(" (and then results {})", error.code.unwrap_or_default());
                return taken(config, &change, &written, tried.len(), &then);
            }
            // An issuer that is not available gets no more requests.
            Err(IssuerError { kind: FailureKind::Unavailable | FailureKind::Timeout, .. }) => break,
            Err(_) => {}
        }
    }
    if tried.is_empty() {
        return Guess::default();
    }
    Guess::after(
        tried.len(),
        format!(
            "the method does not seem to be at fault: {} {} refused too. Compare {} of [issuer.{}] with the issuer's, \
             and see there whether the client is registered for {} and may use {}",
            tried.join(" and "),
            if tried.len() == 1 { "is" } else { "are" },
            match shown_by(config) {
                Some(Shown::Signature) => "client_id, the key and jwt",
                _ => "client_id and client_secret",
            },
            config.name,
            config.client_auth.as_str(),
            config.grant_type.as_deref().unwrap_or("this way to ask"),
        ),
    )
}

fn taken(config: &IssuerConfig, change: &Change, what: &str, requests: usize, then: &str) -> Guess {
    let instead = match change {
        Change::Method(_) => format!(", which says {}", written(&config.client_auth)),
        Change::SendClientId | Change::Audience => String::new(),
    };
    let hint = format!("the issuer accepts {what}{then}: set that in [issuer.{}]{instead}", config.name);
    Guess::after(requests, hint)
}

/// Whether the refusal comes after a successful client authentication.
fn knows_the_client(error: &IssuerError) -> bool {
    matches!(error.code.as_deref(), Some("invalid_scope" | "invalid_target" | "unsupported_grant_type"))
}

fn changes(error: &IssuerError, config: &IssuerConfig) -> Vec<Change> {
    match shown_by(config) {
        Some(Shown::Secret) => other_methods(error, config),
        // A secret that only signs must not be sent, so no other method is tried with it.
        Some(Shown::Signature) => changes_of_signed(config),
        None => Vec::new(),
    }
}

fn changes_of_signed(config: &IssuerConfig) -> Vec<Change> {
    let mut changes = Vec::new();
    if config.client_auth.proof().is_assertion() && !config.send_client_id && config.client_id.is_some() {
        changes.push(Change::SendClientId);
    }
    let discovered = matches!(config.endpoint, TokenEndpoint::Discovery(_));
    if discovered && config.jwt.as_ref().is_some_and(|jwt| jwt.audience.is_none()) {
        changes.push(Change::Audience);
    }
    changes
}

/// The other methods that send the secret.
fn other_methods(error: &IssuerError, config: &IssuerConfig) -> Vec<Change> {
    let Some(secret) = config.client_auth.secret().cloned() else { return Vec::new() };
    // HTTP Basic is used for another user.
    if config.basic.is_some() {
        return Vec::new();
    }
    let with = |method: &'static dyn Method, encoding| ClientAuth {
        encoding,
        ..ClientAuth::with_secret(method, secret.clone())
    };
    // The issuer says that the client is registered for an assertion. The secret signs it, and need not be sent.
    if error.detail.contains("client_assertion") {
        let signed = METHODS.into_iter().filter(|method| method.proof() == Proof::SignedBySecret);
        return signed.map(|method| Change::Method(with(method, BasicEncoding::Form))).collect();
    }
    let current = &config.client_auth;
    let is_basic = current.proof() == Proof::Basic;
    let encodings_differ =
        [config.client_id.as_ref(), Some(&secret)].into_iter().flatten().any(changes_in_a_form);
    let ways =
        |method: &'static dyn Method| method.encodings().iter().map(move |encoding| (method, *encoding));
    let mut others: Vec<ClientAuth> =
        METHODS.into_iter().flat_map(ways).map(|(method, encoding)| with(method, encoding)).collect();
    others.retain(|other| written(other) != written(current));
    // Without the same bytes once more.
    others.retain(|other| match (other.proof(), other.encoding) {
        (Proof::Basic, BasicEncoding::Raw) => encodings_differ,
        (Proof::Basic, BasicEncoding::Form) => encodings_differ || !is_basic,
        _ => true,
    });
    // Another method is a more usual error than another encoding.
    others.sort_by_key(|other| other.as_str() == current.as_str());
    others.into_iter().map(Change::Method).collect()
}

/// How to write it in the config.
fn written(client_auth: &ClientAuth) -> String {
    let raw = client_auth.proof() == Proof::Basic && client_auth.encoding == BasicEncoding::Raw;
    let encoding = if raw { " with basic_encoding = \"raw\"" } else { "" };
    format!("client_auth = \"{}\"{encoding}", client_auth.as_str())
}

/// Whether the encoding before base64 (RFC 6749 section 2.3.1) changes the value.
fn changes_in_a_form(source: &Source) -> bool {
    source.read().is_ok_and(|value| {
        value.expose().iter().any(|byte| !byte.is_ascii_alphanumeric() && !b"*-._".contains(byte))
    })
}

/// `None`: the time limit of the whole run was reached.
async fn fetch(
    config: IssuerConfig,
    key: &CredentialKey,
    bounds: Bounds,
) -> Option<Result<Grant, IssuerError>> {
    let issuer = Issuer::new(Arc::new(config), Arc::new(SystemClock));
    bounds.hold(issuer.fetch(key)).await
}

/// Finds out which scope is refused: requests each one alone, and then none.
pub(super) async fn scopes(config: &IssuerConfig, key: &CredentialKey, bounds: Bounds) -> Guess {
    if key.scopes.is_empty() {
        // The refused request already had no scope.
        let name = &config.name;
        let hint = format!("the request had no scope; give scopes of [issuer.{name}] or of the route");
        return Guess { requests: 0, hints: vec![hint] };
    }
    let config = IssuerConfig { standby: None, ..config.clone() };
    let with = |scopes: Scopes| CredentialKey { scopes, ..key.clone() };
    let (mut requests, mut granted, mut refused) = (0, Vec::new(), Vec::new());
    // A single scope was already requested alone.
    let alone = if key.scopes.len() > 1 { SCOPES } else { 0 };
    for scope in key.scopes.iter().take(alone) {
        let key = with(Scopes::from([scope.as_str()]));
        let Some(outcome) = fetch(config.clone(), &key, bounds).await else { break };
        requests += 1;
        match outcome {
            Ok(_) => granted.push(scope.as_str()),
            Err(error) if error.code.as_deref() == Some("invalid_scope") => refused.push(scope.as_str()),
            Err(_) => break,
        }
    }
    let none = fetch(config.clone(), &with(Scopes::default()), bounds).await;
    requests += usize::from(none.is_some());
    let none = none.and_then(Result::ok);
    scopes_found(&config.name, key, requests, &granted, &refused, none.as_ref())
}

fn scopes_found(
    name: &str,
    key: &CredentialKey,
    requests: usize,
    granted: &[&str],
    refused: &[&str],
    none: Option<&Grant>,
) -> Guess {
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
        Some(Grant { scope: Some(scope), .. }) if !scope.trim().is_empty() => {
            said.push(format!("without a scope in the request, it grants {scope}"))
        }
        Some(_) => said.push("without a scope in the request, it grants a token".to_owned()),
        None => {}
    }
    if said.is_empty() {
        said.push("each scope is refused, and so is a request without any".to_owned());
    }
    Guess::after(
        requests,
        format!(
            "{}. Correct scopes of [issuer.{name}] or of the route, or let the client have them at the issuer",
            said.join("; ")
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::client_auth::{
        ClientSecretBasic, ClientSecretJwt, ClientSecretPost, NoProof, PrivateKeyJwt, TlsClientAuth,
    };
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
        ClientAuth { encoding, ..ClientAuth::with_secret(&ClientSecretBasic, Source::literal(secret)) }
    }

    fn tried(client_auth: ClientAuth) -> Vec<String> {
        changes_after("", &config(client_auth, "client-1"))
    }

    fn changes_after(detail: &str, config: &IssuerConfig) -> Vec<String> {
        let error = IssuerError::new(FailureKind::ClientRefused, detail.to_owned());
        let written = |change: &Change| match change {
            Change::Method(client_auth) => written(client_auth),
            Change::SendClientId => "send_client_id".to_owned(),
            Change::Audience => "audience".to_owned(),
        };
        changes(&error, config).iter().map(written).collect()
    }

    const POST: &str = r#"client_auth = "client_secret_post""#;
    const BASIC: &str = r#"client_auth = "client_secret_basic""#;
    const RAW: &str = r#"client_auth = "client_secret_basic" with basic_encoding = "raw""#;

    #[test]
    fn each_other_method_is_tried_once_and_none_that_would_send_the_same_again() {
        assert_eq!(tried(basic("plain", BasicEncoding::Form)), [POST]);
        assert_eq!(tried(basic("a+b", BasicEncoding::Form)), [POST, RAW]);
        assert_eq!(tried(basic("a+b", BasicEncoding::Raw)), [POST, BASIC]);
        assert_eq!(tried(ClientAuth::with_secret(&ClientSecretPost, Source::literal("a+b"))), [BASIC, RAW]);
        assert_eq!(tried(ClientAuth::with_secret(&ClientSecretPost, Source::literal("plain"))), [BASIC]);
        assert!(
            tried(ClientAuth::new(&NoProof)).is_empty() && tried(ClientAuth::new(&TlsClientAuth)).is_empty()
        );
    }

    #[test]
    fn a_server_that_wants_an_assertion_gets_one_and_no_secret() {
        let jwt = [r#"client_auth = "client_secret_jwt""#];
        let said = "responded 400 invalid_client (Parameter client_assertion_type is missing)";
        assert_eq!(changes_after(said, &config(basic("a+b", BasicEncoding::Form), "c")), jwt);
    }

    #[test]
    fn what_signs_may_name_its_client_and_another_audience() {
        let mut config = config(ClientAuth::new(&PrivateKeyJwt), "c");
        config.jwt = Some(JwtConfig::with_defaults(JwtUse::ClientAssertion));
        assert_eq!(changes_after("", &config), ["send_client_id"], "no other audience is known");
        let TokenEndpoint::Url(url) = config.endpoint.clone() else { panic!("a URL") };
        config.endpoint = TokenEndpoint::Discovery(url);
        assert_eq!(changes_after("", &config), ["send_client_id", "audience"]);
        config.send_client_id = true;
        config.jwt.as_mut().unwrap().audience = Some(Source::literal("x"));
        assert!(changes_after("", &config).is_empty());
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
        let post = config(ClientAuth::with_secret(&ClientSecretPost, Source::literal("s")), "c");
        let signed = config(ClientAuth::with_secret(&ClientSecretJwt, Source::literal("s")), "c");
        let nobody = config(ClientAuth::new(&NoProof), "c");
        for (code, status, (by_form, by_post, by_signed)) in [
            (Some("invalid_client"), 400, (true, true, true)),
            (Some("unauthorized_client"), 401, (true, true, true)),
            (Some("unauthorized_client"), 400, (false, false, true)),
            (Some("invalid_request"), 400, (true, false, true)),
            (Some("invalid_grant"), 400, (false, false, true)),
            (Some("invalid_scope"), 400, (false, false, false)),
            (Some("invalid_dpop_proof"), 401, (false, false, false)),
            (None, 401, (true, true, true)),
            (None, 403, (true, true, true)),
            (None, 500, (false, false, false)),
        ] {
            let error = error(code, status);
            let may = [&form, &post, &signed].map(|config| may_be_the_method(&error, config));
            assert_eq!(may, [by_form, by_post, by_signed], "{code:?} {status}");
            assert!(!may_be_the_method(&error, &nobody));
        }
    }

    #[test]
    fn sentences_of_keycloak_and_rauthy_are_about_the_method() {
        let form = config(basic("s", BasicEncoding::Form), "c");
        for (code, said) in [
            (Some("unauthorized_client"), "Unexpected error when authenticating client"),
            (Some("BadRequest"), "'client_secret' is missing"),
        ] {
            let error = IssuerError { detail: said.to_owned(), ..error(code, 400) };
            assert!(may_be_the_method(&error, &form), "{said}");
        }
    }

    #[test]
    fn refused_and_granted_scopes_are_distinguished() {
        let scopes = ["a", "b"].map(str::to_owned);
        let key = CredentialKey {
            issuer: "corp".into(),
            issuer_digest: [0; 32],
            scopes: scopes.iter().cloned().collect(),
            params: std::collections::BTreeMap::new(),
            subject: None,
        };
        let told = |granted: &[&str], refused: &[&str]| {
            scopes_found("corp", &key, 3, granted, refused, None).hints.join("")
        };
        assert!(
            told(&["a"], &["b"]).starts_with("refused: b; granted: a. Correct scopes"),
            "{}",
            told(&["a"], &["b"])
        );
        assert!(told(&["a", "b"], &[]).contains("combination"));
        assert!(told(&[], &[]).contains("so is a request without any"));
        assert!(told(&["a"], &["b"]).ends_with("(3 more requests were made to find out)"));
    }
}
