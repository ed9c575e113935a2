//! What often goes wrong with a secret on its way into a file, told from its bytes and without showing any of them.

use std::path::Path;

/// A slip, and what to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slip {
    pub(super) message: &'static str,
    pub(super) hint: &'static str,
}

/// Names that a line of a shell or of an `.env` file sets a secret under, in lower case; and their ends.
const NAMES: [&str; 6] = ["secret", "password", "token", "key", "pass", "pwd"];
/// Folders that secrets are mounted in.
const FOLDERS: [&str; 6] = ["/run/", "/var/", "/etc/", "/mnt/", "/secrets/", "/vault/"];

/// Whether the value of this key is a secret in one piece: keys and assertions are read more leniently.
pub(super) fn is_plain(key: &str) -> bool {
    !["private_key", "certificate", "assertion"].iter().any(|other| key.ends_with(other))
}

/// Looks at a secret as it would be sent.
pub(super) fn in_secret(bytes: &[u8]) -> Option<Slip> {
    let slip = |message, hint| Some(Slip { message, hint });
    if bytes.starts_with(b"\xef\xbb\xbf") {
        return slip(
            "the secret begins with a byte order mark, which is sent too",
            "save the file as UTF-8 without BOM",
        );
    }
    if is_utf16(bytes) {
        return slip(
            "the secret is UTF-16, and its zero bytes are sent too",
            "save the file as UTF-8; PowerShell's `>` and Out-File write UTF-16: take `Set-Content -Encoding ascii -NoNewline`",
        );
    }
    let text = std::str::from_utf8(bytes).ok()?;
    if text.trim() != text {
        return slip(
            "the secret begins or ends with white space, which is sent too (one line end at its end is not)",
            "write it without, as by `printf %s`",
        );
    }
    if text.contains(['\n', '\r']) {
        return slip("the secret has several lines", "keep the one that is the secret");
    }
    let quoted = |quote: char| text.len() > 1 && text.starts_with(quote) && text.ends_with(quote);
    if ['"', '\'', '`'].into_iter().any(quoted) {
        return slip("the secret stands in quotes, which are sent too", "write it without them");
    }
    if is_placeholder(text) {
        return slip(
            "the secret is the name of a variable that nobody has filled in",
            "name the variable: { env = \"…\" }",
        );
    }
    if is_assignment(text) {
        return slip(
            "the secret begins with a name and `=`, as a line of an .env file does",
            "keep what follows the `=`; of an .env file, write each secret into a file of its own",
        );
    }
    None
}

/// Looks at a secret that stands in the config file itself.
pub(super) fn in_literal(bytes: &[u8], folder: &Path) -> Option<Slip> {
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    let looks_so = FOLDERS.iter().any(|start| text.starts_with(start)) || text.starts_with("file:");
    let names_a_file = text.contains('/') && !text.contains('\0') && folder.join(text).is_file();
    if looks_so || names_a_file {
        return Some(Slip {
            message: "the secret is the name of a file, which is sent as it stands",
            hint: "name the file: { file = \"…\" }",
        });
    }
    in_secret(bytes)
}

/// With its mark, or as ASCII is written without one.
fn is_utf16(bytes: &[u8]) -> bool {
    let zero = |at: usize| bytes.iter().skip(at).step_by(2).all(|byte| *byte == 0);
    bytes.starts_with(b"\xff\xfe")
        || bytes.starts_with(b"\xfe\xff")
        || (bytes.len() >= 4 && bytes.len().is_multiple_of(2) && (zero(0) || zero(1)))
}

/// `$NAME`, `${NAME}`, `$(NAME)`, `%NAME%`, `{{ … }}`, `<…>`, and nothing else.
fn is_placeholder(text: &str) -> bool {
    let between = |start, end| text.strip_prefix(start).and_then(|rest| rest.strip_suffix(end));
    let is_name = |name: &str| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    let shell = [("${", "}"), ("$(", ")"), ("%", "%"), ("$", "")];
    shell.into_iter().any(|(start, end)| between(start, end).is_some_and(is_name))
        || between("{{", "}}").is_some()
        || between("<", ">").is_some_and(|name| name.contains(' ') || is_name(&name.replace('-', "_")))
}

fn is_assignment(text: &str) -> bool {
    let Some((name, value)) = text.split_once('=') else { return false };
    let name = name.trim().strip_prefix("export ").unwrap_or(name).trim().to_ascii_lowercase();
    let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'));
    !value.trim_matches('=').is_empty() && is_name && NAMES.iter().any(|known| name.ends_with(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(bytes: impl AsRef<[u8]>) -> &'static str {
        in_secret(bytes.as_ref()).map_or("", |slip| slip.message)
    }

    #[test]
    fn the_commonest_slips_are_told_and_not_shown() {
        let utf16: Vec<u8> = "s3cr3t".encode_utf16().flat_map(u16::to_le_bytes).collect();
        for (bytes, words) in [
            (b"\xef\xbb\xbfs3cr3t".to_vec(), "byte order mark"),
            ([b"\xff\xfe".as_slice(), &utf16].concat(), "UTF-16"),
            (utf16.clone(), "UTF-16"),
            (b" s3cr3t".to_vec(), "white space"),
            (b"s3cr3t\n".to_vec(), "white space"),
            (b"s3cr3t\r".to_vec(), "white space"),
            ("s3cr3t\u{a0}".into(), "white space"),
            (b"one\ntwo".to_vec(), "several lines"),
            (b"\"s3cr3t\"".to_vec(), "quotes"),
            (b"'s3cr3t'".to_vec(), "quotes"),
            (b"client_secret=s3cr3t".to_vec(), "a name and `=`"),
            (b"export CORP_SECRET = s3cr3t".to_vec(), "a name and `=`"),
            (b"${CORP_SECRET}".to_vec(), "a variable"),
            (b"$CORP_SECRET".to_vec(), "a variable"),
            (b"%CORP_SECRET%".to_vec(), "a variable"),
            (b"{{ .Values.secret }}".to_vec(), "a variable"),
            (b"<your-client-secret>".to_vec(), "a variable"),
        ] {
            assert!(told(&bytes).contains(words), "{}: {}", String::from_utf8_lossy(&bytes), told(&bytes));
        }
    }

    #[test]
    fn what_generators_make_is_taken_as_it_is() {
        for secret in [
            "s3cr3t",
            "a b",
            "Zq7-kP0_vW3.mN9",
            "c2VjcmV0LWtleQ==",
            "abckey==",
            "$2b$10$abc",
            "100%",
            "<3",
            "'",
            "\"x",
            "key",
            "",
            "=",
            "%41%42",
        ] {
            assert_eq!(told(secret), "", "{secret}");
        }
        assert_eq!(told([0x9f, 0x00, 0x20, 0x0a]), "", "binary");
    }

    #[test]
    fn a_files_name_as_a_literal_is_told() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("secret"), "x").unwrap();
        let told = |text: &str| in_literal(text.as_bytes(), folder.path()).map_or("", |slip| slip.message);
        for text in ["/run/secrets/corp", "file:secret", "./secret"] {
            assert!(told(text).contains("the name of a file"), "{text}");
        }
        assert!(told("'s'").contains("quotes"));
        for text in ["secret", "a/b", "/x"] {
            assert_eq!(told(text), "", "{text}");
        }
    }

    #[test]
    fn keys_and_assertions_have_readers_of_their_own() {
        assert!(is_plain("issuer.corp.client_secret") && is_plain("issuer.corp.params.api_key"));
        assert!(!is_plain("issuer.corp.private_key") && !is_plain("issuer.corp.assertion"));
    }
}
