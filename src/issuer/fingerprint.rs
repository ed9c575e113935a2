//! Digests that tell whether a value behind a reference changed. Never shown, never stored.

use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};

use crate::config::{ClientAuth, Egress, IssuerConfig, ParamValue, Source};
use crate::secret::Secret;

/// Over all that the client proves itself with: id, secret, parameters, headers, client certificate.
pub(super) fn credential(config: &IssuerConfig) -> [u8; 32] {
    let secret = match &config.client_auth {
        ClientAuth::Basic { secret, .. } | ClientAuth::Post { secret } => Some(secret),
        ClientAuth::None => None,
    };
    let mut sources: Vec<&Source> = config.client_id.iter().chain(secret).collect();
    config.params.values().for_each(|value| collect(value, &mut sources));
    sources.extend(config.headers.iter().map(|(_, source)| source));
    sources.extend(config.tls.certificate.iter().chain(&config.tls.private_key));
    digest(sources.into_iter().map(|source| source.read().ok()))
}

/// Over the files that a connection is made with.
pub(super) fn connection(config: &IssuerConfig) -> [u8; 32] {
    let tls = &config.tls;
    let userinfo = match &config.egress {
        Egress::Proxy { userinfo, .. } => userinfo.as_ref(),
        Egress::Direct | Egress::Env => None,
    };
    let sources = tls.ca.iter().chain(&tls.certificate).chain(&tls.private_key).chain(userinfo);
    // A file that is gone for a moment is no reason to throw away a connector that works.
    digest(sources.map(|source| source.read_or_last_good().ok().map(|(value, _)| value)))
}

fn collect<'a>(value: &'a ParamValue, out: &mut Vec<&'a Source>) {
    match value {
        ParamValue::Value(source) => out.push(source),
        ParamValue::Array(items) => items.iter().for_each(|item| collect(item, out)),
        ParamValue::Integer(_) | ParamValue::Float(_) | ParamValue::Boolean(_) => {}
    }
}

fn digest(values: impl Iterator<Item = Option<Arc<Secret>>>) -> [u8; 32] {
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

#[cfg(test)]
mod tests {
    use super::*;
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

    #[test]
    fn a_missing_ca_keeps_the_connector() {
        let folder = std::env::temp_dir().join(format!("bearerd-connection-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("ca");
        let mut config = fuzz::config();
        config.tls.ca = Some(Source::file(file.clone(), None));
        std::fs::write(&file, "one").unwrap();
        let one = connection(&config);
        std::fs::remove_file(&file).unwrap();
        assert_eq!(connection(&config), one);
        std::fs::write(&file, "two").unwrap();
        assert_ne!(connection(&config), one);
    }
}
