//! The initial client response of SASL XOAUTH2, as Google and Microsoft take it for IMAP, POP and SMTP.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::secret::Secret;

/// `base64("user=" USER ^A "auth=Bearer " TOKEN ^A ^A)`, without line breaks. `None`: it would be too long for memory.
pub(super) fn response(user: &str, token: &Secret) -> Option<Secret> {
    let parts: [&[u8]; 5] = [b"user=", user.as_bytes(), b"\x01auth=Bearer ", token.expose(), b"\x01\x01"];
    // Large enough from the start: a buffer that grows leaves an unwiped copy behind.
    let mut plain = Zeroizing::new(Vec::with_capacity(parts.iter().map(|part| part.len()).sum()));
    for part in parts {
        plain.extend_from_slice(part);
    }
    let length = base64::encoded_len(plain.len(), true)?;
    let mut encoded = String::with_capacity(length);
    STANDARD.encode_string(plain.as_slice(), &mut encoded);
    Some(Secret::from(encoded))
}

/// A user name as it may stand in the response: `^A` would end it early.
pub(super) fn user(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("name the mailbox, as in user@example.com".to_owned());
    }
    if text.chars().any(char::is_control) {
        return Err("a user name holds no control characters".to_owned());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vendors_example_comes_out() {
        let token = Secret::from("EwBAAl3BAAUFFpUAo7J3Ve0bjLBWZWCclRC3EoAA");
        let response = response("test@contoso.onmicrosoft.com", &token).unwrap();
        assert_eq!(
            response.expose_str(),
            Some(
                "dXNlcj10ZXN0QGNvbnRvc28ub25taWNyb3NvZnQuY29tAWF1dGg9QmVhcmVyIEV3QkFBbDNCQUFVRkZwVUFvN0ozVmUwYmpMQldaV0NjbFJDM0VvQUEBAQ=="
            )
        );
    }

    #[test]
    fn a_user_may_not_end_the_field() {
        assert!(user("a\u{1}auth=Bearer x").is_err() && user("").is_err() && user("a\n").is_err());
        assert_eq!(user("user@example.com").as_deref(), Ok("user@example.com"));
    }
}
