use std::time::{Duration, UNIX_EPOCH};

use super::super::other::{self, PASSWORD};
use super::*;

fn first(name: &str) -> Certificate {
    Certificate::parse_chain(&other::key_bytes(name)).unwrap().remove(0)
}

fn refusal(bytes: &[u8]) -> String {
    Certificate::parse_chain(bytes).unwrap_err().0
}

#[test]
fn thumbprints_are_those_that_openssl_prints() {
    // openssl x509 -in rsa.certificate.pem -noout -fingerprint -sha1 (and -sha256)
    let certificate = first("rsa.certificate.pem");
    assert_eq!(certificate.x5t(), "b1LiGAbMH1c9VZ9hEZho3i4tDes");
    assert_eq!(certificate.x5t_s256(), "sIT2WqJm-k7him2K4k3k-wsLqj1Ia5_AzhQbWtNyTxo");
    assert_eq!(STANDARD.decode(certificate.x5c()).unwrap(), certificate.der());
}

#[test]
fn life_and_subject_are_told() {
    let expired = first("rsa.expired-certificate.pem");
    assert_eq!(expired.not_before(), UNIX_EPOCH + Duration::from_secs(1_577_836_800));
    assert_eq!(expired.not_after(), UNIX_EPOCH + Duration::from_secs(1_609_459_200));
    assert_eq!(expired.subject(), "CN=bearerd test rsa expired");
    assert!(first("rsa.certificate.pem").subject().contains("O=Acme"));
}

#[test]
fn it_knows_its_key() {
    for (name, other_name) in [("rsa", "ec-p256"), ("ec-p256", "rsa")] {
        let key = |name: &str| {
            PrivateKey::parse(&Secret::new(other::key_bytes(&format!("{name}.jwk.json"))), None).unwrap()
        };
        let certificate = first(&format!("{name}.certificate.pem"));
        assert!(certificate.is_of(&key(name)));
        assert!(!certificate.is_of(&key(other_name)));
    }
}

#[test]
fn every_form_gives_the_same_certificate() {
    let wanted = first("rsa.certificate.pem");
    let both = [other::key("rsa.pkcs8.pem"), other::key("rsa.certificate.pem")].concat();
    for bytes in [wanted.der().to_vec(), wanted.x5c().into_bytes(), both.into_bytes()] {
        assert_eq!(Certificate::parse_chain(&bytes).unwrap(), std::slice::from_ref(&wanted));
    }
    assert_eq!(first("rsa.plain.p12"), wanted);
    let password = Secret::from(PASSWORD);
    for name in ["rsa.modern.p12", "rsa.legacy.p12"] {
        let found = Certificate::parse_chain_with(&other::key_bytes(name), Some(&password)).unwrap();
        assert_eq!(found, std::slice::from_ref(&wanted), "{name}");
    }
    let found = Certificate::parse_chain_with(&other::key_bytes("p12/certificates.p12"), Some(&password));
    assert_eq!(found.unwrap().len(), 3);
}

#[test]
fn each_wrong_file_is_told_in_its_own_words() {
    let der = first("rsa.certificate.pem").der().to_vec();
    let half = &der[..der.len() / 2];
    for (bytes, expected) in [
        (&b""[..], "it is empty"),
        (b"hunter2 is it", "it holds no certificate: it has no BEGIN line"),
        (&other::key_bytes("rsa.pkcs8.pem"), "it holds no certificate but PRIVATE KEY"),
        (&other::key_bytes("rsa.modern.p12"), "it is PKCS#12 with a password"),
        (half, "it is no whole certificate in DER or PKCS#12"),
        (
            b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n",
            "a certificate in it is damaged or cut off",
        ),
        (b"-----BEGIN CERTIFICATE-----\nMAA=\n", "it is cut off: its CERTIFICATE block has no END line"),
    ] {
        let error = refusal(bytes);
        assert!(error.contains(expected) && !error.contains("hunter2"), "{error}");
    }
}
