//! Digests that tell whether a value behind a reference changed. Never shown, never stored.

use aws_lc_rs::digest::{Context, SHA256};

use super::client::{Client, Which};
use crate::config::{CredentialKey, IssuerConfig, ParamValue, Source};

pub(super) type Digest = [u8; 32];

/// Over all that a token request says of the client: its credentials, assertion, parameters and headers.
pub(super) fn credential(config: &IssuerConfig) -> Digest {
    let mut sources = secrets(config);
    sources.extend(&config.assertion);
    config.params.values().for_each(|value| collect(value, &mut sources));
    sources.extend(config.headers.iter().map(|(_, source)| source));
    if let Some(jwt) = &config.jwt {
        sources.extend(jwt.issuer.iter().chain(&jwt.subject).chain(&jwt.audience));
        jwt.claims.values().for_each(|value| collect(value, &mut sources));
    }
    sources.extend(config.dpop.as_ref().map(|dpop| &dpop.private_key));
    of(&sources)
}

/// Over what the client proves itself with, and what an operator changes to give it another credential. Without the
/// assertion's file, which changes by itself.
pub(super) fn client(config: &IssuerConfig) -> Digest {
    of(&secrets(config))
}

/// Over what a token is bound to or was made for: learned values, the client's certificate, the DPoP key. A file that is
/// gone for a moment binds as it did before.
pub(super) fn binding(config: &IssuerConfig, key: &CredentialKey) -> Digest {
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
    let last_good = |source: &Source| source.to_send().ok().map(|(value, _)| value);
    let values: Vec<_> = sources.into_iter().map(last_good).collect();
    digest(values.iter().map(|value| value.as_ref().map(|value| value.expose())))
}

fn secrets(config: &IssuerConfig) -> Vec<&Source> {
    let mut sources = Vec::new();
    for which in [Which::Current, Which::Standby] {
        let Some(client) = Client::of(config, which) else { continue };
        let all = [client.id, client.secret, client.private_key, client.certificate, client.key_id];
        sources.extend(all.into_iter().flatten());
    }
    sources.extend(config.basic.iter().flat_map(|basic| [&basic.user, &basic.password]));
    sources.extend(config.tls.certificate.iter().chain(&config.tls.private_key));
    sources
}

/// Sources that cannot be read count as a value of their own: a last good one does not hide that.
fn of(sources: &[&Source]) -> Digest {
    let passwords = sources.iter().filter_map(|source| source.password());
    let values: Vec<_> =
        sources.iter().copied().chain(passwords).map(|source| source.read_settled().ok()).collect();
    digest(values.iter().map(|value| value.as_ref().map(|value| value.expose())))
}

/// Over values in their order, absent ones included.
pub(super) fn digest<'a>(values: impl Iterator<Item = Option<&'a [u8]>>) -> Digest {
    let mut digest = Context::new(&SHA256);
    for value in values {
        // With its length, so that no two lists of values look alike.
        let length = value.map_or(usize::MAX, <[u8]>::len);
        digest.update(&length.to_be_bytes());
        digest.update(value.unwrap_or_default());
    }
    let mut bytes = [0; 32];
    bytes.iter_mut().zip(digest.finish().as_ref()).for_each(|(to, from)| *to = *from);
    bytes
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

    #[test]
    fn changes_with_the_file_and_only_then() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        let mut config = fuzz::config();
        config.client_auth = ClientAuth::with_secret(&ClientSecretPost, Source::file(file.clone(), None));
        let absent = credential(&config);
        write_settled(&file, "one");
        let one = credential(&config);
        assert_eq!(one, credential(&config));
        write_settled(&file, "two");
        let two = credential(&config);
        std::fs::remove_file(&file).unwrap();
        assert_eq!(absent, credential(&config), "a last good value does not hide that the file is gone");
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
        let mut config = crate::issuer::fixture::signing("rsa.pkcs8.pem");
        config.private_key = Some(source("key").with_password(source("password")));
        config.certificate = Some(source("certificate"));
        config.standby = Some(crate::config::Standby {
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
        let (mut all, mut own) = (credential(&config), client(&config));
        for entry in std::fs::read_dir(folder.path()).unwrap() {
            let file = entry.unwrap();
            write_settled(&file.path(), "after");
            let (all_now, own_now) = (credential(&config), client(&config));
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
        let mut key = crate::issuer::fixture::key(&config);
        key.params.insert("user_id".to_owned(), ParamValue::Array(vec![learned]));

        let before = binding(&config, &key);
        write_settled(&folder.path().join("secret"), "after");
        assert_eq!(before, binding(&config, &key), "a rotated secret leaves tokens as they are");
        std::fs::remove_file(folder.path().join("certificate")).unwrap();
        assert_eq!(before, binding(&config, &key), "a file that is gone binds as it did before");
        let mut seen = std::collections::BTreeSet::from([before]);
        for (file, text) in
            [("certificate", "after"), ("dpop", "after"), ("store.json", r#"{"value":"two"}"#)]
        {
            write_settled(&folder.path().join(file), text);
            assert!(seen.insert(binding(&config, &key)), "{file}");
        }
    }
}
