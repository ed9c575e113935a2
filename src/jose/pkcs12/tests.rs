use super::super::other::{self, PASSWORD};
use super::*;

fn open_file(name: &str, password: Option<&str>) -> Result<Store, KeyError> {
    open(&other::key_bytes(name), password.map(Secret::from).as_ref())
}

fn refusal(name: &str, password: Option<&str>) -> String {
    match open_file(name, password) {
        Ok(_) => panic!("{name} opens with {password:?}"),
        Err(error) => error.0,
    }
}

#[test]
fn modern_and_older_files_open() {
    for name in ["rsa.modern.p12", "rsa.legacy.p12", "ec-p256.modern.p12", "ec-p256.legacy.p12"] {
        let store = open_file(name, Some(PASSWORD)).unwrap();
        assert_eq!((store.keys.len(), store.certificates.len()), (1, 1), "{name}");
    }
}

#[test]
fn files_made_with_other_settings_open() {
    for name in [
        "p12/aes128-sha512.p12",
        "p12/aes192-sha384mac.p12",
        "p12/3des-pbes2.p12",
        "p12/3des-two-keys.p12",
        "p12/rc2-128.p12",
        "p12/no-mac.p12",
        "p12/chain.p12",
        "p12/pbmac1.p12",
        "p12/indefinite.p12",
        "p12/java.p12",
    ] {
        let store = open_file(name, Some(PASSWORD)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(store.keys.len(), 1, "{name}");
        assert!(!store.certificates.is_empty(), "{name}");
    }
}

#[test]
fn no_password_and_an_empty_one_are_the_same() {
    for name in ["rsa.no-password.p12", "rsa.plain.p12"] {
        for password in [None, Some("")] {
            assert_eq!(open_file(name, password).unwrap().keys.len(), 1, "{name} {password:?}");
        }
    }
}

#[test]
fn a_password_beyond_ascii_opens() {
    let store = open_file("p12/unicode.p12", Some("pässwörd 🔑")).unwrap();
    assert_eq!(store.keys.len(), 1);
}

#[test]
fn a_wrong_and_a_missing_password_are_told() {
    for name in ["rsa.modern.p12", "rsa.legacy.p12", "p12/no-mac.p12"] {
        assert_eq!(
            refusal(name, Some("hunter2")),
            "its password does not open it (PKCS#12): wrong, or the file is damaged",
            "{name}"
        );
        assert_eq!(
            refusal(name, None),
            "it is PKCS#12 with a password; name it beside the file: password = { file = \"…\" }",
            "{name}"
        );
    }
    let der = super::super::pem::blocks(&other::key("rsa.encrypted.pem")).unwrap()[0].der().unwrap();
    assert_eq!(
        decrypt_pkcs8(&der, &Secret::from("hunter2")).unwrap_err().0,
        "its password does not open it (encrypted PKCS#8): wrong, or the file is damaged"
    );
}

#[test]
fn a_password_that_is_no_text_is_told() {
    let password = Secret::new([0xff, 0xfe]);
    let error = open(&other::key_bytes("rsa.modern.p12"), Some(&password)).map(|_| ()).unwrap_err();
    assert_eq!(error.0, "its password is not UTF-8; set another one");
}

#[test]
fn several_keys_none_and_a_chain_are_told_apart() {
    let parse = |name: &str| {
        super::super::PrivateKey::parse(&Secret::new(other::key_bytes(name)), Some(&Secret::from(PASSWORD)))
    };
    let key = parse("p12/chain.p12").unwrap();
    let subjects: Vec<String> = key.certificates().iter().map(|one| one.subject()).collect();
    assert_eq!(subjects, ["CN=leaf", "CN=intermediate", "CN=root"]);
    assert_eq!(
        parse("p12/certificates.p12").unwrap_err().0,
        "it is PKCS#12 with certificates alone; the private key is needed"
    );
}

#[test]
fn a_file_that_is_cut_or_changed_never_panics() {
    let password = Secret::from(PASSWORD);
    for name in ["rsa.modern.p12", "ec-p256.legacy.p12", "rsa.plain.p12"] {
        let whole = other::key_bytes(name);
        for length in (0..whole.len()).step_by(7) {
            assert!(open(&whole[..length], Some(&password)).is_err(), "{name} cut at {length}");
        }
        for at in (0..whole.len()).step_by(61) {
            let mut changed = whole.clone();
            changed[at] ^= 0x55;
            let _ = open(&changed, Some(&password));
        }
    }
}

fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = u8::try_from(content.len()).unwrap();
    assert!(length < 0x80);
    [&[tag, length][..], &content].concat()
}

/// PBES2 with AES-256 and PBKDF2 over HMAC-SHA1, two blocks of which make the key.
fn pbes2(iterations: u32) -> Vec<u8> {
    let salt = tlv(OCTET_STRING, &[b"salt"]);
    let count = tlv(INTEGER, &[&[0], &iterations.to_be_bytes()]);
    let parameters = tlv(SEQUENCE, &[&salt, &count]);
    let pbkdf2 = tlv(OID, &[&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 5, 12]]);
    let aes = tlv(OID, &[&[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 1, 42]]);
    let derivation = tlv(SEQUENCE, &[&pbkdf2, &parameters]);
    let encryption = tlv(SEQUENCE, &[&aes, &tlv(OCTET_STRING, &[&[7; 16]])]);
    let scheme = tlv(OID, &[&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 5, 13]]);
    tlv(SEQUENCE, &[&scheme, &tlv(SEQUENCE, &[&derivation, &encryption])])
}

#[test]
fn no_file_takes_for_ever_however_many_parts_it_has() {
    let password = Password::candidates(Some(&Secret::from(PASSWORD))).unwrap().remove(0);
    let decrypt = |iterations| {
        let algorithm = pbes2(iterations);
        // Nothing is padded as it should be.
        pbe::decrypt(Tlv::only(&algorithm).unwrap(), &[0; 15], &password).unwrap_err()
    };
    assert_eq!(decrypt(u32::MAX), Failed::Iterations);
    assert_eq!(decrypt(2_000_001), Failed::Iterations);
    assert_eq!(decrypt(0), Failed::Malformed);
    assert_eq!(decrypt(1_000_001), Failed::Password);
    assert_eq!(decrypt(1_000_001), Failed::Iterations, "each part counts");
    assert_eq!(decrypt(1_000), Failed::Password);
}
