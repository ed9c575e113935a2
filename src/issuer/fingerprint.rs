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
    let last_good = |source: &Source| source.read_or_last_good().ok().map(|(value, _)| value);
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
    let values: Vec<_> = sources.iter().copied().chain(passwords).map(|source| source.read().ok()).collect();
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
    use crate::config::ClientAuth;
    use crate::issuer::fuzz;

    #[test]
    fn changes_with_the_file_and_only_then() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        let mut config = fuzz::config();
        config.client_auth = ClientAuth::Post { secret: Source::file(file.clone(), None) };
        let absent = credential(&config);
        std::fs::write(&file, "one").unwrap();
        let one = credential(&config);
        assert_eq!(one, credential(&config));
        std::fs::write(&file, "two").unwrap();
        let two = credential(&config);
        std::fs::remove_file(&file).unwrap();
        assert_eq!(absent, credential(&config), "a last good value does not hide that the file is gone");
        assert!(absent != one && one != two && two != absent);
    }
}
