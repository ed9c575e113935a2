//! The client's credential: the one of the issuer's table or `standby`, `credential_grace` after a change, and digests
//! that show whether a value behind a reference changed.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use aws_lc_rs::digest::{Context, SHA256};

use super::{FailureKind, IssuerError};
use crate::config::{CredentialKey, IssuerConfig, ParamValue, Source, Standby};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WhichCredential {
    Current,
    Standby,
}

impl WhichCredential {
    pub(super) fn other(self) -> Self {
        match self {
            Self::Current => Self::Standby,
            Self::Standby => Self::Current,
        }
    }
}

impl fmt::Display for WhichCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Current => "the current credential",
            Self::Standby => "the standby credential",
        })
    }
}

/// The sources of a credential. What `standby` does not set comes from the issuer's table.
#[derive(Clone, Copy)]
pub(super) struct ClientCredential<'a> {
    pub(super) which: WhichCredential,
    standby: Option<&'a Standby>,
    pub(super) id: Option<&'a Source>,
    pub(super) secret: Option<&'a Source>,
    pub(super) private_key: Option<&'a Source>,
    pub(super) certificate: Option<&'a Source>,
    /// `jwt.key_id`.
    pub(super) key_id: Option<&'a Source>,
    /// The issuer's `certificate` and `jwt.key_id`, if `standby` has another key and neither it nor its key file sets
    /// them.
    inherited_certificate: Option<&'a Source>,
    pub(super) inherited_key_id: Option<&'a Source>,
}

impl<'a> ClientCredential<'a> {
    /// `None`: there is no such credential.
    pub(super) fn of(config: &'a IssuerConfig, which: WhichCredential) -> Option<Self> {
        let current = Self {
            which,
            standby: None,
            id: config.client_id.as_ref(),
            secret: config.client_auth.secret(),
            private_key: config.private_key.as_ref(),
            certificate: config.certificate.as_ref(),
            key_id: config.jwt.as_ref().and_then(|jwt| jwt.key_id.as_ref()),
            inherited_certificate: None,
            inherited_key_id: None,
        };
        if which == WhichCredential::Current {
            return Some(current);
        }
        let standby = config.standby.as_ref()?;
        let shares_key = standby.private_key.is_none();
        Some(Self {
            which,
            standby: Some(standby),
            id: standby.client_id.as_ref().or(current.id),
            secret: current.secret.map(|current| standby.client_secret.as_ref().unwrap_or(current)),
            private_key: standby.private_key.as_ref().or(current.private_key),
            certificate: standby.certificate.as_ref().or_else(|| current.certificate.filter(|_| shares_key)),
            key_id: standby.key_id.as_ref().or_else(|| current.key_id.filter(|_| shares_key)),
            inherited_certificate: current.certificate,
            inherited_key_id: current.key_id,
        })
    }

    /// The certificate for a JWT's header, if it is not in the key's file.
    pub(super) fn certificate_elsewhere(&self) -> Option<&'a Source> {
        self.certificate.or(self.inherited_certificate)
    }

    /// The name of a config key in this credential's table.
    pub(super) fn key(&self, name: &'static str) -> &'static str {
        match (self.standby, name) {
            (Some(own), "client_id") if own.client_id.is_some() => "standby.client_id",
            (Some(own), "client_secret") if own.client_secret.is_some() => "standby.client_secret",
            (Some(own), "jwt.key_id") if own.key_id.is_some() => "standby.key_id",
            (Some(_), "private_key") => "standby.private_key",
            (Some(_), "certificate") => "standby.certificate",
            (_, other) => other,
        }
    }
}

/// Which credential to try first: the one that worked last.
#[derive(Default)]
pub(super) struct Preference {
    standby: AtomicBool,
}

impl Preference {
    pub(super) fn first(&self) -> WhichCredential {
        if self.standby.load(Ordering::Relaxed) { WhichCredential::Standby } else { WhichCredential::Current }
    }

    /// The issuer accepted `which` after it refused the other one. Logged once for each switch.
    pub(super) fn switch_to(&self, which: WhichCredential, issuer: &str) {
        let standby = which == WhichCredential::Standby;
        if self.standby.swap(standby, Ordering::Relaxed) == standby {
            return;
        }
        if standby {
            tracing::warn!(
                event = "issuer.standby_used",
                issuer,
                "the issuer refuses the current credential and accepts standby, which bearerd uses from now on"
            );
        } else {
            tracing::info!(
                event = "issuer.standby_ended",
                issuer,
                "the issuer accepts the current credential again, which bearerd uses from now on"
            );
        }
    }
}

/// The error if the issuer refused both, or if the second could not be tried.
pub(super) fn both_refused(
    issuer: &str,
    first: (WhichCredential, IssuerError),
    second: (WhichCredential, IssuerError),
) -> IssuerError {
    let ((which, first), (other, second)) = (first, second);
    let prefix = format!("issuer {issuer}: ");
    let both = |first: &str, second: &str| {
        let words = |text: &str| text.strip_prefix(&prefix).unwrap_or(text).to_owned();
        format!("{prefix}with {which}, {}; with {other}, {}", words(first), words(second))
    };
    let (detail, summary) = (both(&first.detail, &second.detail), both(&first.summary, &second.summary));
    let remedy_of_first = first.remedy.clone();
    // If the second was not judged, whether it works is open.
    let kind = match second.kind {
        FailureKind::Credential => FailureKind::ClientRefused,
        kind => kind,
    };
    // The second may have no token of another issuer (`chain::leg`), for which bearerd looks each second. Not here, because the
    // first one would be refused as often.
    let second = match second.forgiven {
        true => IssuerError { forgiven: false, retry_after: None, ..second },
        false => second,
    };
    let refused = if second.kind == FailureKind::Credential { first } else { second };
    // If both remedies are the same, one is enough.
    let remedies = [remedy_of_first, refused.remedy.clone()].into_iter().flatten();
    let mut remedies: Vec<Box<str>> = remedies.collect();
    remedies.dedup();
    let remedy = (!remedies.is_empty()).then(|| remedies.join("; ").into());
    IssuerError { kind, detail, summary, remedy, ..refused }
}

/// When the current credential was first seen.
#[derive(Default)]
pub(super) struct Grace(ArcSwapOption<(Digest, Duration)>);

impl Grace {
    /// How long ago the credential with this digest was first seen. `now` is by the clock that runs during a suspend.
    pub(super) fn age(&self, digest: Digest, now: Duration) -> Duration {
        match self.0.load().as_deref() {
            Some((known, since)) if *known == digest => now.saturating_sub(*since),
            _ => {
                self.0.store(Some(Arc::new((digest, now))));
                Duration::ZERO
            }
        }
    }
}

/// Marks a refusal within `credential_grace`. See [`IssuerError::forgiven`].
pub(super) fn forgive(error: IssuerError, age: Duration, grace: Duration) -> IssuerError {
    if !error.is_client_refused() || age >= grace {
        return error;
    }
    let shown = humantime::format_duration(grace);
    let error = error.and(&format!(
        "the credential is new or changed {} s ago, so bearerd asks again within credential_grace ({shown})",
        age.as_secs()
    ));
    IssuerError { forgiven: true, ..error }
}

pub(super) type Digest = [u8; 32];

/// A digest of everything in a token request that concerns the client: its credentials, assertion, parameters and
/// header fields. A value that is made for each request counts by what it is made with.
pub(super) fn credential_fingerprint(config: &IssuerConfig) -> Digest {
    let sources = request_sources(config).into_iter().chain(&config.assertion);
    let (made, read): (Vec<_>, Vec<_>) = sources.partition(|source| source.is_made());
    let read = read.into_iter().chain(made.into_iter().flat_map(Source::made_with));
    digest_of(&read.collect::<Vec<_>>())
}

/// The values that have to be made before a token request with this credential, with their keys.
pub(super) fn made_values<'a>(
    config: &'a IssuerConfig,
    client: &ClientCredential<'a>,
    key: &'a CredentialKey,
) -> Vec<(String, &'a Source)> {
    let named = [
        (client.key("client_id"), client.id),
        (client.key("client_secret"), client.secret),
        (client.key("private_key"), client.private_key),
        (client.key("certificate"), client.certificate_elsewhere()),
        (client.key("jwt.key_id"), client.key_id.or(client.inherited_key_id)),
        ("basic.user", config.basic.as_ref().map(|basic| &basic.user)),
        ("basic.password", config.basic.as_ref().map(|basic| &basic.password)),
        ("assertion", config.assertion.as_ref()),
        ("dpop.private_key", config.dpop.as_ref().map(|dpop| &dpop.private_key)),
        ("tls.ca", config.tls.ca.as_ref()),
        ("tls.certificate", config.tls.certificate.as_ref()),
        ("tls.private_key", config.tls.private_key.as_ref()),
        ("proxy.userinfo", config.egress.userinfo()),
    ];
    let mut values: Vec<(String, &Source)> =
        named.into_iter().filter_map(|(key, source)| Some((key.to_owned(), source?))).collect();
    let jwt = config.jwt.iter().flat_map(|jwt| {
        let named = [("issuer", &jwt.issuer), ("subject", &jwt.subject), ("audience", &jwt.audience)];
        named.into_iter().filter_map(|(key, source)| Some((format!("jwt.{key}"), source.as_ref()?)))
    });
    values.extend(jwt);
    values.extend(config.headers.iter().map(|(name, source)| (format!("headers.{name}"), source)));
    let claims = config.jwt.iter().flat_map(|jwt| &jwt.claims).map(|member| ("jwt.claims", member));
    for (table, (name, value)) in key.params.iter().map(|member| ("params", member)).chain(claims) {
        let mut sources = Vec::new();
        collect(value, &mut sources);
        values.extend(sources.into_iter().map(|source| (format!("{table}.{name}"), source)));
    }
    let passwords: Vec<_> = values
        .iter()
        // The key in a device makes its PIN itself, before it logs in.
        .filter(|(_, source)| !source.is_in_device())
        .filter_map(|(key, source)| Some((format!("{key}.password"), source.password()?)))
        .collect();
    values.extend(passwords);
    values.retain(|(_, source)| source.is_made() || source.is_streamed());
    values
}

/// A digest of the values of a token request, for replicas that share tokens. See [`made_identity`].
fn request_identity(config: &IssuerConfig) -> Digest {
    let parts: Vec<Vec<u8>> = request_sources(config).into_iter().map(identity_of).collect();
    digest(parts.iter().map(|part| Some(part.as_slice())))
}

fn identity_of(source: &Source) -> Vec<u8> {
    if source.is_made() { made_identity(source) } else { digest_of(&[source]).to_vec() }
}

/// The sources of a token request, but for a ready-made assertion.
fn request_sources(config: &IssuerConfig) -> Vec<&Source> {
    let mut sources = secrets(config);
    config.params.values().for_each(|value| collect(value, &mut sources));
    sources.extend(config.headers.iter().map(|(_, source)| source));
    if let Some(jwt) = &config.jwt {
        sources.extend(jwt.issuer.iter().chain(&jwt.subject).chain(&jwt.audience));
        jwt.claims.values().for_each(|value| collect(value, &mut sources));
    }
    sources.extend(config.dpop.as_ref().map(|dpop| &dpop.private_key));
    sources
}

/// A digest of what authenticates the client, which an operator changes to give it another credential. Excludes the
/// assertion's file, which changes by itself.
pub(super) fn client_fingerprint(config: &IssuerConfig) -> Digest {
    digest_of(&secrets(config))
}

/// A digest of what a token is bound to: learned values, the client's certificate, the DPoP key. While a file is
/// missing, its last good value counts.
pub(super) fn binding_fingerprint(config: &IssuerConfig, key: &CredentialKey) -> Digest {
    let mut sources = Vec::new();
    config.params.values().chain(key.params.values()).for_each(|value| collect(value, &mut sources));
    if let Some(jwt) = &config.jwt {
        sources.extend(jwt.issuer.iter().chain(&jwt.subject).chain(&jwt.audience));
        jwt.claims.values().for_each(|value| collect(value, &mut sources));
    }
    sources.extend(config.client_id.iter().chain(config.headers.iter().map(|(_, source)| source)));
    sources.retain(|source| source.learned_by().is_some());
    sources.extend(&config.tls.certificate);
    sources.extend(config.dpop.as_ref().map(|dpop| &dpop.private_key));
    // A value that is made for a request changes only with the request, whose token is bound to it.
    sources.retain(|source| !source.is_made());
    let last_good = |source: &Source| source.to_send().ok().map(|(value, _)| value);
    let values: Vec<_> = sources.into_iter().map(last_good).collect();
    digest(values.iter().map(|value| value.as_ref().map(|value| value.expose())))
}

/// A digest of everything in a token request, for replicas that share tokens.
pub(super) fn token_identity(config: &IssuerConfig, key: &CredentialKey) -> Digest {
    let mut scopes = key.scopes.to_vec();
    scopes.sort_unstable();
    let mut parts = vec![key.issuer.as_bytes().to_vec(), key.issuer_digest.to_vec()];
    parts.extend(scopes.into_iter().map(String::into_bytes));
    parts.push(Vec::new());
    for (name, value) in &key.params {
        parts.push(name.clone().into_bytes());
        flatten(value, &mut parts);
    }
    parts.push(key.subject.clone().unwrap_or_default().into_bytes());
    parts.push(request_identity(config).to_vec());
    parts.extend(config.assertion.as_ref().map(made_identity));
    digest(parts.iter().map(|part| Some(part.as_slice())))
}

/// What identifies a value that changes by itself, such as a ready-made assertion. A JWT counts by whom it is for, because each
/// replica has its own. A token of another issuer counts by what is requested there.
fn made_identity(source: &Source) -> Vec<u8> {
    if let Some(chained) = source.chained() {
        let (config, key) = chained.token();
        return token_identity(config, key).to_vec();
    }
    let Ok((value, _)) = source.to_send() else { return Vec::new() };
    let claims = value.expose_str().and_then(super::response::claims_of);
    let whom = |claims: &serde_json::Map<String, serde_json::Value>| {
        let of = |name: &str| claims.get(name).filter(|claim| !claim.is_null()).map(ToString::to_string);
        let sub = of("sub")?;
        // A JWT-SVID needs no `iss`: the SPIFFE ID names its trust domain.
        let iss = of("iss").or_else(|| sub.starts_with("\"spiffe://").then(String::new))?;
        Some([iss, sub, of("aud").unwrap_or_default()].join("\n"))
    };
    match claims.as_ref().and_then(whom) {
        Some(whom) => whom.into_bytes(),
        None => digest(std::iter::once(Some(value.expose()))).to_vec(),
    }
}

/// The value with its type, so that no two values look alike.
fn flatten(value: &ParamValue, out: &mut Vec<Vec<u8>>) {
    match value {
        ParamValue::Integer(number) => out.push(format!("i{number}").into_bytes()),
        ParamValue::Float(number) => out.push(format!("f{number}").into_bytes()),
        ParamValue::Boolean(value) => out.push(format!("b{value}").into_bytes()),
        ParamValue::Value(source) => out.push(identity_of(source)),
        ParamValue::Array(items) => {
            out.push(format!("a{}", items.len()).into_bytes());
            items.iter().for_each(|item| flatten(item, out));
        }
        ParamValue::Table(members) => {
            out.push(format!("t{}", members.len()).into_bytes());
            for (name, member) in members {
                out.push(name.clone().into_bytes());
                flatten(member, out);
            }
        }
    }
}

fn secrets(config: &IssuerConfig) -> Vec<&Source> {
    let mut sources = Vec::new();
    for which in [WhichCredential::Current, WhichCredential::Standby] {
        let Some(client) = ClientCredential::of(config, which) else { continue };
        let all = [client.id, client.secret, client.private_key, client.certificate, client.key_id];
        sources.extend(all.into_iter().flatten());
    }
    sources.extend(config.basic.iter().flat_map(|basic| [&basic.user, &basic.password]));
    sources.extend(config.tls.certificate.iter().chain(&config.tls.private_key));
    sources
}

/// An unreadable source counts as a value of its own, which its last good value does not hide.
fn digest_of(sources: &[&Source]) -> Digest {
    let passwords = sources.iter().filter_map(|source| source.password());
    let values: Vec<_> =
        sources.iter().copied().chain(passwords).map(|source| source.read_settled().ok()).collect();
    digest(values.iter().map(|value| value.as_ref().map(|value| value.expose())))
}

/// A digest of values in their order, absent ones included.
pub(super) fn digest<'a>(values: impl Iterator<Item = Option<&'a [u8]>>) -> Digest {
    let mut digest = Context::new(&SHA256);
    for value in values {
        // With its length, so that no two lists of values look alike.
        let length = value.map_or(usize::MAX, <[u8]>::len);
        digest.update(&length.to_be_bytes());
        digest.update(value.unwrap_or_default());
    }
    digest.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
}

fn collect<'a>(value: &'a ParamValue, out: &mut Vec<&'a Source>) {
    match value {
        ParamValue::Value(source) => out.push(source),
        ParamValue::Array(items) => items.iter().for_each(|item| collect(item, out)),
        ParamValue::Table(members) => members.values().for_each(|member| collect(member, out)),
        ParamValue::Integer(_) | ParamValue::Float(_) | ParamValue::Boolean(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::client_auth::{ClientAuth, ClientSecretPost};
    use crate::config::files::write_settled;
    use crate::issuer::fuzz;
    use crate::issuer::tests::{failure, key_of, signing};

    #[test]
    fn the_one_that_worked_is_first_from_then_on() {
        let preference = Preference::default();
        assert_eq!(preference.first(), WhichCredential::Current);
        preference.switch_to(WhichCredential::Standby, "corp");
        assert_eq!(preference.first(), WhichCredential::Standby);
        preference.switch_to(WhichCredential::Current, "corp");
        assert_eq!(preference.first(), WhichCredential::Current);
    }

    #[test]
    fn two_failures_are_both_reported() {
        let first = || (WhichCredential::Current, failure(FailureKind::ClientRefused, "one"));
        for (kind, result) in [
            (FailureKind::ClientRefused, FailureKind::ClientRefused),
            (FailureKind::Credential, FailureKind::ClientRefused),
            (FailureKind::Unavailable, FailureKind::Unavailable),
            (FailureKind::RequestRefused, FailureKind::RequestRefused),
        ] {
            let error = both_refused("corp", first(), (WhichCredential::Standby, failure(kind, "two")));
            assert_eq!(error.kind, result);
            assert_eq!(
                error.detail,
                "issuer corp: with the current credential, one; with the standby credential, two"
            );
        }
    }

    const MINUTE: Duration = Duration::from_secs(60);

    fn refused(kind: FailureKind) -> IssuerError {
        failure(kind, "no")
    }

    #[test]
    fn age_counts_from_when_a_credential_was_first_seen() {
        let grace = Grace::default();
        assert_eq!(grace.age([1; 32], MINUTE), Duration::ZERO);
        assert_eq!(grace.age([1; 32], MINUTE * 3), MINUTE * 2);
        assert_eq!(grace.age([2; 32], MINUTE * 4), Duration::ZERO);
        assert_eq!(grace.age([2; 32], MINUTE * 5), MINUTE);
    }

    #[test]
    fn a_refused_client_alone_is_forgiven_and_only_meanwhile() {
        let forgiven = forgive(refused(FailureKind::ClientRefused), MINUTE, MINUTE * 15);
        assert_eq!((forgiven.kind, forgiven.http_status), (FailureKind::ClientRefused, Some(401)));
        assert!(forgiven.forgiven && !forgiven.is_final());
        assert!(
            forgiven
                .detail
                .ends_with("changed 60 s ago, so bearerd asks again within credential_grace (15m)")
        );
        for (kind, age, grace) in [
            (FailureKind::ClientRefused, MINUTE, MINUTE),
            (FailureKind::ClientRefused, Duration::ZERO, Duration::ZERO),
            (FailureKind::RequestRefused, Duration::ZERO, MINUTE),
        ] {
            assert!(forgive(refused(kind), age, grace).is_final());
        }
    }

    #[test]
    fn changes_with_the_file_and_only_then() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        let mut config = fuzz::config();
        config.client_auth = ClientAuth::with_secret(&ClientSecretPost, Source::file(file.clone(), None));
        let absent = credential_fingerprint(&config);
        write_settled(&file, "one");
        let one = credential_fingerprint(&config);
        assert_eq!(one, credential_fingerprint(&config));
        write_settled(&file, "two");
        let two = credential_fingerprint(&config);
        std::fs::remove_file(&file).unwrap();
        assert_eq!(
            absent,
            credential_fingerprint(&config),
            "a last good value does not hide that the file is gone"
        );
        assert!(absent != one && one != two && two != absent);
    }

    fn written(folder: &std::path::Path, name: &str, text: &str) -> Source {
        let file = folder.join(name);
        write_settled(&file, text);
        Source::file(file, None)
    }

    #[test]
    fn every_part_of_a_credential_counts() {
        let folder = tempfile::tempdir().unwrap();
        let source = |name: &str| written(folder.path(), name, "before");
        let mut config = signing("rsa.pkcs8.pem");
        config.private_key = Some(source("key").with_password(source("password")));
        config.certificate = Some(source("certificate"));
        config.standby = Some(Standby {
            client_id: Some(source("standby-id")),
            client_secret: None,
            private_key: Some(source("standby-key")),
            certificate: Some(source("standby-certificate")),
            key_id: Some(source("standby-key-id")),
        });
        config.basic = Some(crate::config::BasicUser {
            user: source("user"),
            password: source("user-password"),
            encoding: crate::config::BasicEncoding::Raw,
        });
        config.assertion = Some(source("assertion"));
        config.dpop = Some(crate::config::DpopConfig { private_key: source("dpop"), alg: None });
        let (mut all, mut own) = (credential_fingerprint(&config), client_fingerprint(&config));
        for entry in std::fs::read_dir(folder.path()).unwrap() {
            let file = entry.unwrap();
            write_settled(&file.path(), "after");
            let (all_now, own_now) = (credential_fingerprint(&config), client_fingerprint(&config));
            assert_ne!(all, all_now, "{:?}", file.file_name());
            let about_the_request = ["assertion", "dpop"].iter().any(|name| file.file_name() == *name);
            assert_eq!(own == own_now, about_the_request, "{:?}", file.file_name());
            (all, own) = (all_now, own_now);
        }
    }

    #[test]
    fn a_token_is_bound_to_certificate_key_and_learned_values_alone() {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("store.json");
        write_settled(&store, r#"{"value":"one"}"#);
        let learned = ParamValue::Value(Source::webhook("seismic".to_owned(), store));
        let mut config = fuzz::config();
        config.client_auth =
            ClientAuth::with_secret(&ClientSecretPost, written(folder.path(), "secret", "before"));
        config.tls.certificate = Some(written(folder.path(), "certificate", "before"));
        let dpop = written(folder.path(), "dpop", "before");
        config.dpop = Some(crate::config::DpopConfig { private_key: dpop, alg: None });
        let mut key = key_of(&config);
        key.params.insert("user_id".to_owned(), ParamValue::Array(vec![learned]));

        let before = binding_fingerprint(&config, &key);
        write_settled(&folder.path().join("secret"), "after");
        assert_eq!(before, binding_fingerprint(&config, &key), "a rotated secret leaves tokens as they are");
        std::fs::remove_file(folder.path().join("certificate")).unwrap();
        assert_eq!(before, binding_fingerprint(&config, &key), "a file that is gone binds as it did before");
        let mut seen = std::collections::BTreeSet::from([before]);
        for (file, text) in
            [("certificate", "after"), ("dpop", "after"), ("store.json", r#"{"value":"two"}"#)]
        {
            write_settled(&folder.path().join(file), text);
            assert!(seen.insert(binding_fingerprint(&config, &key)), "{file}");
        }
    }

    /// A config text with an issuer `outer` that takes the token of `inner`.
    fn chain(inner: &str) -> crate::config::Config {
        crate::config::fixture::config(&format!(
            "[issuer.outer]\ntoken_url = \"https://a.example/t\"\nclient_id = \"c\"\nclient_secret = \"s\"\n\
             params = {{ subject_token = {{ issuer = \"inner\" }} }}\n\
             [issuer.inner]\ntoken_url = \"https://b.example/t\"\nclient_id = \"i\"\nclient_secret = \"{inner}\"\n"
        ))
    }

    #[test]
    fn a_token_that_is_made_with_another_is_shared_whatever_that_one_is() {
        let config = chain("one");
        let outer = &config.issuers["outer"];
        let key = key_of(outer);
        let before = token_identity(outer, &key);
        let credential = credential_fingerprint(outer);
        let binding = binding_fingerprint(outer, &key);
        for token in ["first", "second"] {
            for (_, chained) in crate::issuer::chained(outer, &key) {
                chained.put(crate::secret::Secret::from(token));
            }
            assert_eq!(before, token_identity(outer, &key));
            assert_eq!(credential, credential_fingerprint(outer));
            assert_eq!(binding, binding_fingerprint(outer, &key));
        }
        let other = chain("two");
        let outer = &other.issuers["outer"];
        assert_ne!(before, token_identity(outer, &key_of(outer)), "another credential of the inner issuer");
    }

    /// It names its trust domain in `sub`, and needs no `iss`.
    #[test]
    fn a_jwt_svid_counts_by_whom_it_is_for() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = fuzz::config();
        let mut identity = |sub: &str, jti: u8| {
            let part = |json: serde_json::Value| {
                base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, json.to_string())
            };
            let claims = serde_json::json!({ "sub": sub, "aud": ["https://idp.example"], "jti": jti });
            let token = format!("{}.{}.c2ln", part(serde_json::json!({ "alg": "ES256" })), part(claims));
            config.assertion = Some(written(folder.path(), &format!("{jti}"), &token));
            token_identity(&config, &key_of(&config))
        };
        let first = identity("spiffe://example.org/a", 1);
        assert_eq!(first, identity("spiffe://example.org/a", 2));
        assert_ne!(first, identity("spiffe://example.org/b", 3));
        assert_ne!(identity("plain", 4), identity("plain", 5), "nobody says whose subject it is");
    }

    #[test]
    fn another_inner_issuer_makes_another_outer_one() {
        let digest = |inner: &str| chain(inner).issuers["outer"].digest;
        assert_eq!(digest("one"), digest("one"));
        assert_ne!(digest("one"), digest("two"));
    }
}
