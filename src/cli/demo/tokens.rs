//! The demo's tokens: opaque to everybody but the demo, which can tell whether one is its own without keeping a list.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hmac::{self, HMAC_SHA256};
use aws_lc_rs::rand;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Short, so that a renewal can be watched.
pub(super) const LIFETIME: Duration = Duration::from_secs(10);

/// Bytes of a token: a nonce, its number, when it expires, and a MAC over all.
const NONCE: usize = 16;
const SIGNED: usize = NONCE + 8 + 8;

pub(super) struct Tokens {
    key: hmac::Key,
    issued: AtomicU64,
    /// Tokens up to this number are refused.
    revoked: AtomicU64,
}

impl Tokens {
    pub(super) fn new() -> Result<Self, Unspecified> {
        let mut key = [0; 32];
        rand::fill(&mut key)?;
        Ok(Self {
            key: hmac::Key::new(HMAC_SHA256, &key),
            issued: AtomicU64::new(0),
            revoked: AtomicU64::new(0),
        })
    }

    pub(super) fn issue(&self, now: SystemTime) -> Result<String, Unspecified> {
        let mut bytes = vec![0; NONCE];
        rand::fill(&mut bytes)?;
        let number = self.issued.fetch_add(1, Ordering::SeqCst) + 1;
        bytes.extend_from_slice(&number.to_be_bytes());
        bytes.extend_from_slice(&seconds(now + LIFETIME).to_be_bytes());
        let mac = hmac::sign(&self.key, &bytes);
        bytes.extend_from_slice(mac.as_ref());
        Ok(URL_SAFE_NO_PAD.encode(bytes))
    }

    /// The number of tokens so far.
    pub(super) fn issued(&self) -> u64 {
        self.issued.load(Ordering::SeqCst)
    }

    /// Refuses every token issued so far.
    pub(super) fn revoke(&self) {
        self.revoked.store(self.issued(), Ordering::SeqCst);
    }

    /// Whether it was issued here, was not revoked and has not expired.
    pub(super) fn is_valid(&self, token: &str, now: SystemTime) -> bool {
        let Ok(bytes) = URL_SAFE_NO_PAD.decode(token) else { return false };
        let Some((signed, mac)) = bytes.split_at_checked(SIGNED) else { return false };
        let Some((rest, expires)) = signed.split_last_chunk() else { return false };
        let Some((_, number)) = rest.split_last_chunk() else { return false };
        hmac::verify(&self.key, signed, mac).is_ok()
            && u64::from_be_bytes(*number) > self.revoked.load(Ordering::SeqCst)
            && seconds(now) < u64::from_be_bytes(*expires)
    }
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Text of so many random bytes.
pub(super) fn random_text(bytes: usize) -> Result<String, Unspecified> {
    let mut random = vec![0; bytes];
    rand::fill(&mut random)?;
    Ok(URL_SAFE_NO_PAD.encode(random))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_valid_where_it_was_issued_until_it_ends() {
        let (tokens, others) = (Tokens::new().unwrap(), Tokens::new().unwrap());
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let token = tokens.issue(now).unwrap();
        assert!(tokens.is_valid(&token, now));
        assert!(!others.is_valid(&token, now));
        assert!(!tokens.is_valid(&token, now + LIFETIME));
        assert!(!tokens.is_valid("", now) && !tokens.is_valid("AAAA", now));
        assert_ne!(token, tokens.issue(now).unwrap());
        tokens.revoke();
        assert!(!tokens.is_valid(&token, now), "revoked");
        assert!(tokens.is_valid(&tokens.issue(now).unwrap(), now));
    }
}
