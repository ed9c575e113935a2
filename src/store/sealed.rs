//! What bearerd writes to a store: names that reveal nothing, and tokens that nobody else can read or forge.
//!
//! An entry's name is an HMAC-SHA-256 over the token's identity, under the first of `keys`. Its value is encrypted with
//! AES-256-GCM under a key derived from that one. The associated data are the format, the name, and the generation, so that no
//! entry can be passed off as another.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::{hkdf, hmac};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::engine::EntryId;
use crate::clock::millis;
use crate::config::StoreKey;
use crate::secret::Secret;

/// The version of names and values. Entries of another version are never read.
pub(super) const FORMAT: &str = "v1";
/// Each clock may be wrong by 30 s, so two may differ by this much.
const CLOCKS_DIFFER: Duration = Duration::from_secs(60);

/// What an entry or a budget is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Token,
    Budget,
}

/// The name of the entry or budget that these parts identify.
pub(super) fn name<'a>(
    key: &StoreKey,
    purpose: Purpose,
    parts: impl IntoIterator<Item = &'a [u8]>,
) -> EntryId {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key.expose()));
    context.update(match purpose {
        Purpose::Token => b"token",
        Purpose::Budget => b"budget",
    });
    for part in parts {
        // With its length, so that no two lists of parts look alike.
        context.update(&part.len().to_be_bytes());
        context.update(part);
    }
    EntryId(context.sign().as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<String>().into())
}

/// A token with everything that another replica must know about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredToken {
    pub token: Secret,
    /// In lower case.
    pub token_type: String,
    /// When it was requested, by the clock of the replica that did.
    pub asked: SystemTime,
    /// From then on.
    pub lifetime: Duration,
    pub scope: Option<String>,
    /// As in [`crate::issuer::Audience`].
    pub audience: Option<String>,
    /// Fetched because an upstream refused its predecessor.
    pub forced: bool,
    /// The host whose bearerd fetched it.
    pub by: String,
}

impl StoredToken {
    /// The longest it can last, whatever the store says: the token's expiry is authenticated, and the entry's is not.
    pub(super) fn lasts_at_most(&self, now: SystemTime) -> Duration {
        let ends = self.asked.checked_add(self.lifetime).and_then(|ends| ends.checked_add(CLOCKS_DIFFER));
        ends.and_then(|ends| ends.duration_since(now).ok()).unwrap_or_default()
    }
}

/// Everything but the token, as JSON in one line.
#[derive(Serialize, Deserialize)]
struct Head {
    #[serde(rename = "type")]
    token_type: String,
    /// Milliseconds since the Unix epoch.
    asked: u64,
    lifetime_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    audience: Option<String>,
    forced: bool,
    by: String,
}

/// Encrypts a token for the entry `id`.
pub(super) fn seal(key: &StoreKey, id: &EntryId, generation: u64, stored: &StoredToken) -> Vec<u8> {
    let head = Head {
        token_type: stored.token_type.clone(),
        asked: millis(stored.asked.duration_since(UNIX_EPOCH).unwrap_or_default()),
        lifetime_ms: millis(stored.lifetime),
        scope: stored.scope.clone(),
        audience: stored.audience.clone(),
        forced: stored.forced,
        by: stored.by.clone(),
    };
    let head = serde_json::to_vec(&head).expect("a struct of strings and numbers is JSON");
    let token = stored.token.expose();
    // In one allocation, because a vector that grows leaves an unwiped copy of the token behind.
    let mut sealed = Vec::with_capacity(head.len() + 1 + token.len() + AES_256_GCM.tag_len());
    sealed.extend_from_slice(&head);
    sealed.push(b'\n');
    sealed.extend_from_slice(token);
    let nonce = cipher(key)
        .seal_in_place_append_tag(Aad::from(associated(id, generation)), &mut sealed)
        .expect("AES-256-GCM takes far longer texts than a token");
    [nonce.as_ref().as_slice(), &sealed].concat()
}

/// The token of the entry `id`. `None`: another key, another format, damaged, or moved from another entry. `now` is the time
/// of day: a token that has certainly expired counts as `None`, whatever the store says.
pub(super) fn open(
    key: &StoreKey,
    id: &EntryId,
    generation: u64,
    sealed: &[u8],
    now: SystemTime,
) -> Option<StoredToken> {
    let (nonce, text) = sealed.split_at_checked(NONCE_LEN)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
    let mut text = Zeroizing::new(text.to_vec());
    let clear = cipher(key).open_in_place(nonce, Aad::from(associated(id, generation)), &mut text).ok()?;
    let end_of_head = clear.iter().position(|byte| *byte == b'\n')?;
    let (head, token) = clear.split_at_checked(end_of_head)?;
    let head: Head = serde_json::from_slice(head).ok()?;
    let asked = UNIX_EPOCH.checked_add(Duration::from_millis(head.asked))?;
    let lifetime = Duration::from_millis(head.lifetime_ms);
    let stored = StoredToken {
        token: Secret::new(token.get(1..)?),
        token_type: head.token_type,
        asked,
        lifetime,
        scope: head.scope,
        audience: head.audience,
        forced: head.forced,
        by: head.by,
    };
    (!stored.lasts_at_most(now).is_zero()).then_some(stored)
}

/// Under a key derived for this purpose (RFC 5869), because the store's key makes names too.
fn cipher(key: &StoreKey) -> RandomizedNonceKey {
    let derived = hkdf::Salt::new(hkdf::HKDF_SHA256, b"bearerd store").extract(key.expose());
    let mut bytes = Zeroizing::new([0; 32]);
    let filled =
        derived.expand(&[b"value", FORMAT.as_bytes()], &AES_256_GCM).and_then(|key| key.fill(&mut *bytes));
    filled.expect("SHA-256 derives up to 8160 bytes");
    RandomizedNonceKey::new(&AES_256_GCM, &*bytes).expect("a key of AES-256 has 32 bytes")
}

fn associated(id: &EntryId, generation: u64) -> Vec<u8> {
    format!("bearerd {FORMAT} {id} {generation}").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> StoreKey {
        StoreKey::parse(&Secret::from(format!("{byte:02x}").repeat(32))).unwrap()
    }

    fn stored() -> StoredToken {
        StoredToken {
            token: Secret::from("canary\"token"),
            token_type: "bearer".to_owned(),
            asked: UNIX_EPOCH + Duration::from_secs(1_700_000_000),
            lifetime: Duration::from_secs(60),
            scope: Some("read write".to_owned()),
            audience: None,
            forced: true,
            by: "host-1".to_owned(),
        }
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_700_000_000 + seconds)
    }

    #[test]
    fn what_was_sealed_is_opened_and_nothing_of_it_can_be_read() {
        let (key, id) = (key(1), EntryId("ab".into()));
        let sealed = seal(&key, &id, 7, &stored());
        assert_eq!(open(&key, &id, 7, &sealed, at(0)), Some(stored()));
        // What is encrypted looks random: sooner or later it holds any few letters, so only long words prove something.
        for word in ["canary\\\"token", "bearer", "read write", "host-1"] {
            assert!(!sealed.windows(word.len()).any(|part| part == word.as_bytes()), "{word}");
        }
        assert_ne!(sealed, seal(&key, &id, 7, &stored()), "each nonce is new");
    }

    #[test]
    fn another_key_name_or_generation_and_a_changed_byte_open_nothing() {
        let (one, id) = (key(1), EntryId("ab".into()));
        let sealed = seal(&one, &id, 7, &stored());
        assert_eq!(open(&key(2), &id, 7, &sealed, at(0)), None);
        assert_eq!(open(&one, &EntryId("ac".into()), 7, &sealed, at(0)), None);
        assert_eq!(open(&one, &id, 8, &sealed, at(0)), None);
        for index in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[index] ^= 1;
            assert_eq!(open(&one, &id, 7, &changed, at(0)), None, "byte {index}");
            assert_eq!(open(&one, &id, 7, &sealed[..index], at(0)), None, "{index} bytes");
        }
    }

    #[test]
    fn a_token_that_has_certainly_expired_is_none() {
        let (key, id) = (key(1), EntryId("ab".into()));
        let sealed = seal(&key, &id, 7, &stored());
        assert!(
            open(&key, &id, 7, &sealed, at(60 + 59)).is_some(),
            "one clock may be ahead, another one behind"
        );
        assert!(open(&key, &id, 7, &sealed, at(60 + 60)).is_none());
    }

    #[test]
    fn names_differ_by_key_purpose_and_parts() {
        let of = |key: &StoreKey, purpose, parts: &[&[u8]]| name(key, purpose, parts.iter().copied());
        let (one, two) = (key(1), key(2));
        let mut names = vec![
            of(&one, Purpose::Token, &[b"ab", b"c"]),
            of(&one, Purpose::Token, &[b"a", b"bc"]),
            of(&one, Purpose::Budget, &[b"ab", b"c"]),
            of(&two, Purpose::Token, &[b"ab", b"c"]),
        ];
        assert_eq!(names[0], of(&one, Purpose::Token, &[b"ab", b"c"]));
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 4);
        assert_eq!(names[0].to_string().len(), 64);
    }
}
