//! A digest that tells whether a value behind a reference changed. Never shown, never stored.

use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};

use crate::config::{CredentialKey, IssuerConfig, ParamValue, Source};
use crate::secret::Secret;

/// Over all that the client proves itself with: id, secret, parameters, headers, client certificate.
pub(super) fn credential(config: &IssuerConfig) -> [u8; 32] {
    let secret = config.client_auth.secret();
    let mut sources: Vec<&Source> = config.client_id.iter().chain(secret).collect();
    config.params.values().for_each(|value| collect(value, &mut sources));
    sources.extend(config.headers.iter().map(|(_, source)| source));
    sources.extend(config.tls.certificate.iter().chain(&config.tls.private_key));
    digest_of(sources.into_iter().map(|source| source.read().ok()))
}

/// Over what a token is bound to. A file that is gone for a moment binds as it did before.
pub(super) fn binding(config: &IssuerConfig, _key: &CredentialKey) -> [u8; 32] {
    let dpop = config.dpop.as_ref().map(|dpop| &dpop.private_key);
    let sources = config.tls.certificate.iter().chain(dpop);
    digest_of(sources.map(|source| source.read_or_last_good().ok().map(|(value, _)| value)))
}

fn digest_of(values: impl Iterator<Item = Option<Arc<Secret>>>) -> [u8; 32] {
    let mut digest = Context::new(&SHA256);
    for value in values {
        // With its length, so that no two lists of values look alike.
        let length = value.as_ref().map_or(usize::MAX, |value| value.expose().len());
        digest.update(&length.to_be_bytes());
        digest.update(value.as_ref().map_or(&[], |value| value.expose()));
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
        let folder = std::env::temp_dir().join(format!("bearerd-fingerprint-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("secret");
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
