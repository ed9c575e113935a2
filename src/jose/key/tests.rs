use serde_json::json;

use super::*;
use crate::jose::other::{self, PASSWORD};

fn parse(bytes: impl Into<Vec<u8>>) -> Result<PrivateKey, KeyError> {
    PrivateKey::parse(&Secret::new(bytes), None)
}

fn refusal(bytes: impl Into<Vec<u8>>) -> String {
    parse(bytes).unwrap_err().0
}

fn file(name: &str) -> PrivateKey {
    match parse(other::key_bytes(name)) {
        Ok(key) => key,
        Err(error) => panic!("{name}: {error}"),
    }
}

fn public(name: &str) -> Map<String, Value> {
    serde_json::from_str(&other::key(name)).unwrap()
}

fn der(pem: &str) -> Vec<u8> {
    pem::blocks(pem).unwrap().last().unwrap().der().unwrap().to_vec()
}

fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

#[test]
fn each_form_gives_the_same_key() {
    for (name, forms) in [
        ("rsa", &["pkcs1.pem", "pkcs8.pem", "jwk.json"][..]),
        ("ec-p256", &["sec1.pem", "pkcs8.pem", "jwk.json"]),
        ("ec-p384", &["sec1.pem", "pkcs8.pem", "jwk.json"]),
        ("ec-p521", &["sec1.pem", "pkcs8.pem", "jwk.json"]),
        ("ed25519", &["pkcs8.pem", "jwk.json"]),
    ] {
        let public = public(&format!("{name}.public.jwk.json"));
        for form in forms {
            let text = other::key(&format!("{name}.{form}"));
            let mut variants = vec![text.clone().into_bytes(), base64(text.as_bytes()).into_bytes()];
            if form.ends_with("pem") {
                variants.extend([
                    der(&text),
                    base64(&der(&text)).into_bytes(),
                    text.replace('\n', "\r\n").into_bytes(),
                    text.replace('\n', "\\n").into_bytes(),
                    format!("\u{feff}some words\n{text}\nmore").into_bytes(),
                ]);
            }
            for (number, variant) in variants.into_iter().enumerate() {
                let key = parse(variant).unwrap_or_else(|error| panic!("{name}.{form} {number}: {error}"));
                assert_eq!(key.public_jwk(), public, "{name}.{form} {number}");
            }
        }
    }
}

#[test]
fn what_it_writes_for_tls_is_the_same_key_again() {
    for name in
        ["rsa.jwk.json", "rsa-pss.pkcs8.pem", "ec-p256.sec1.pem", "ec-p521.jwk.json", "ed25519.jwk.json"]
    {
        let key = file(name);
        let again = PrivateKey::parse(&key.pkcs8().unwrap(), None).unwrap();
        assert_eq!(again.public_jwk(), key.public_jwk(), "{name}");
    }
}

#[test]
fn a_last_byte_that_was_cut_as_a_line_break_is_restored() {
    // SEC1 ends with the public point, whose last byte may be anything.
    let whole = (0..).map(|_| {
        aws_lc_rs::signature::EcdsaKeyPair::generate(&aws_lc_rs::signature::ECDSA_P256_SHA256_FIXED_SIGNING)
    });
    let whole = whole
        .map(|key| key.unwrap().to_pkcs8v1().unwrap().as_ref().to_vec())
        .find(|der| der.last() == Some(&b'\n'))
        .unwrap();
    let cut = &whole[..whole.len() - 1];
    assert_eq!(parse(cut).unwrap().public_jwk(), parse(whole).unwrap().public_jwk());
}

#[test]
fn a_name_for_the_curve_may_stand_in_its_own_block() {
    // The key without its [0] parameters and [1] public key: the block names the curve.
    let full = der(&other::key("ec-p256.sec1.pem"));
    let mut short = vec![0x30, 37];
    short.extend_from_slice(&full[2..39]);
    let key = parse(short.clone()).unwrap();
    assert_eq!(key.public_jwk(), public("ec-p256.public.jwk.json"), "by its length");
    let text = format!(
        "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n\
         -----BEGIN EC PRIVATE KEY-----\n{}\n-----END EC PRIVATE KEY-----\n",
        base64(&short)
    );
    assert_eq!(parse(text).unwrap().public_jwk(), public("ec-p256.public.jwk.json"));
}

#[test]
fn the_default_algorithm_goes_by_type_and_a_jwks_own_before() {
    for (name, alg) in [
        ("rsa.pkcs1.pem", Alg::Rs256),
        ("rsa-pss.pkcs8.pem", Alg::Ps256),
        ("ec-p256.pkcs8.pem", Alg::Es256),
        ("ec-p384.pkcs8.pem", Alg::Es384),
        ("ec-p521.pkcs8.pem", Alg::Es512),
        ("ed25519.pkcs8.pem", Alg::EdDsa),
    ] {
        assert_eq!(file(name).default_alg(), alg, "{name}");
    }
    let mut jwk = public("rsa.jwk.json");
    jwk.insert("alg".to_owned(), json!("PS384"));
    let key = parse(Value::Object(jwk.clone()).to_string()).unwrap();
    assert_eq!(key.default_alg(), Alg::Ps384);
    jwk.insert("alg".to_owned(), json!("ES256"));
    assert!(refusal(Value::Object(jwk).to_string()).starts_with("ES256 does not fit this RSA key"));
}

#[test]
fn what_a_file_says_of_its_owner_is_kept() {
    let identity = |name: &str| file(name).identity().clone();
    let of = |key_id: &str, subject: Option<&str>| Identity {
        key_id: Some(key_id.to_owned()),
        subject: subject.map(str::to_owned),
        alg: None,
    };
    assert_eq!(identity("rsa.jwk.json"), of("rsa-1", None));
    assert_eq!(identity("google.json"), of("google-key-1", Some("bot@acme.iam.gserviceaccount.com")));
    assert_eq!(identity("zitadel-user.json"), of("zitadel-key-1", Some("100000000000000001")));
    assert_eq!(identity("zitadel-application.json"), of("zitadel-key-2", Some("100000000000000002@acme")));
    assert_eq!(identity("rsa.pkcs8.pem"), Identity::default());
    for name in ["google.json", "zitadel-user.json", "zitadel-application.json"] {
        assert_eq!(file(name).public_jwk(), public("rsa.public.jwk.json"), "{name}");
    }
}

#[test]
fn rfc_7638_thumbprint_of_the_one_signing_key_of_a_set() {
    let key = file("rfc7517-a2.jwk.json");
    assert_eq!(key.thumbprint(), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
    assert_eq!(key.identity().alg, Some(Alg::Rs256));
    assert_eq!(key.identity().key_id.as_deref(), Some("2011-04-29"));
}

#[test]
fn rfc_8037_a3_thumbprint() {
    assert_eq!(file("rfc8037-a1.jwk.json").thumbprint(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
}

#[test]
fn a_certificate_beside_the_key_is_kept_and_one_of_another_key_is_not() {
    let text = [
        other::key("ec-p256.certificate.pem"),
        other::key("rsa.pkcs8.pem"),
        other::key("rsa.certificate.pem"),
    ]
    .concat();
    let key = parse(text).unwrap();
    assert_eq!(key.certificates().len(), 1);
    assert!(key.certificates()[0].is_of(&key));

    let mut jwk = public("rsa.jwk.json");
    jwk.insert("x5c".to_owned(), json!([base64(&der(&other::key("rsa.certificate.pem")))]));
    assert_eq!(parse(Value::Object(jwk.clone()).to_string()).unwrap().certificates(), key.certificates());
    jwk.insert("x5c".to_owned(), json!([base64(&der(&other::key("ec-p256.certificate.pem")))]));
    assert_eq!(
        refusal(Value::Object(jwk).to_string()),
        "the first certificate of its x5c belongs to another key"
    );
}

#[test]
fn pkcs12_and_encrypted_pkcs8_open_with_their_password() {
    let password = Secret::from(PASSWORD);
    for name in ["rsa.modern.p12", "rsa.legacy.p12", "rsa.encrypted.pem"] {
        let key = PrivateKey::parse(&Secret::new(other::key_bytes(name)), Some(&password)).unwrap();
        assert_eq!(key.public_jwk(), public("rsa.public.jwk.json"), "{name}");
        assert_eq!(key.certificates().len(), usize::from(name.ends_with("p12")), "{name}");
    }
}

#[test]
fn each_wrong_file_has_its_own_message() {
    let bytes = other::key_bytes;
    let plain = "decrypt it (openssl pkcs8 -topk8 -nocrypt -in key.pem -out plain.pem)";
    for (what, wrong, expected) in [
        ("empty", b" \n".to_vec(), "it is empty"),
        ("text", b"hunter2 is it".to_vec(), "it is not a key in a known form: PEM, DER, JWK, PKCS#12"),
        ("public", bytes("rsa.public.pem"), "it holds a public key; the private key is needed"),
        ("public DER", der(&other::key("rsa.public.pem")), "it holds a public key"),
        ("public JWK", bytes("rsa.public.jwk.json"), "it is a public JWK (it has no member d)"),
        ("certificate", bytes("rsa.certificate.pem"), "it holds a certificate and no private key"),
        ("its DER", der(&other::key("rsa.certificate.pem")), "it holds a certificate and no private key"),
        ("encrypted", bytes("rsa.encrypted.pem"), plain),
        ("encrypted PKCS#1", bytes("rsa.encrypted-pkcs1.pem"), plain),
        ("encrypted DER", der(&other::key("rsa.encrypted.pem")), plain),
        ("OpenSSH", bytes("openssh.pem"), "ssh-keygen -p -m PKCS8"),
        ("OpenSSH public", b"ssh-rsa AAAA me@here".to_vec(), "it is an OpenSSH public key"),
        ("PuTTY", b"PuTTY-User-Key-File-3: ssh-rsa\n".to_vec(), "PuTTY's own form"),
        ("JKS", [&[0xfe, 0xed, 0xfe, 0xed][..], &[0; 40]].concat(), "Java key store (JKS)"),
        ("1024 bits", bytes("rsa-1024.pkcs8.pem"), "the RSA key has 1024 bits; 2048 at least are needed"),
        (
            "secp256k1",
            bytes("ec-secp256k1.pkcs8.pem"),
            "the key's curve is secp256k1; P-256, P-384 and P-521",
        ),
        ("X25519", bytes("x25519.pkcs8.pem"), "it is a key of type X25519; use RSA, EC or Ed25519"),
        ("PKCS#12", bytes("rsa.modern.p12"), "it is PKCS#12 with a password; name it beside the file"),
        ("broken JSON", b"{\"kty\": hunter2}".to_vec(), "it is broken JSON at line 1, column 9"),
        ("half JSON", bytes("google.json")[..900].to_vec(), "it is JSON that is cut off (half written?)"),
        ("other JSON", b"{}".to_vec(), "neither a JWK nor the key file of Google or ZITADEL"),
        ("wrong type", b"{\"kty\": 1}".to_vec(), "a value of the wrong type at line 1"),
        ("no keys", b"{\"keys\": []}".to_vec(), "the JWK Set has no private key for signatures"),
        ("user", b"{\"type\":\"authorized_user\"}".to_vec(), "a Google credentials file without a key"),
        ("no key", b"{\"type\":\"service_account\"}".to_vec(), "without its member private_key"),
        (
            "no PEM",
            b"{\"type\":\"application\",\"key\":\"x\"}".to_vec(),
            "its member key holds no key in PEM",
        ),
        ("pointer", b"{\"private_key\":\"x\"}".to_vec(), "pointer = \"/private_key\""),
        ("oct", b"{\"kty\":\"oct\",\"k\":\"hunter2\"}".to_vec(), "it is a symmetric JWK (kty \"oct\")"),
        ("curve", b"{\"kty\":\"EC\",\"crv\":\"secp256k1\",\"d\":\"AA\"}".to_vec(), "crv is none of P-256"),
        ("kty", b"{\"kty\":\"hunter2\",\"d\":\"AA\"}".to_vec(), "it is a JWK of an unknown kty"),
        ("use", b"{\"kty\":\"RSA\",\"use\":\"enc\",\"d\":\"AA\"}".to_vec(), "it is a JWK for encryption"),
        ("OKP", b"{\"kty\":\"OKP\",\"crv\":\"X25519\",\"d\":\"AA\"}".to_vec(), "crv is not Ed25519"),
    ] {
        let error = refusal(wrong);
        assert!(error.contains(expected), "{what}: {error}");
        assert!(!error.contains("hunter2"), "{what}: {error}");
    }
}

#[test]
fn a_jwk_without_the_numbers_that_speed_rsa_up_is_reported() {
    let mut jwk = public("rsa.jwk.json");
    jwk.remove("dp");
    let error = refusal(Value::Object(jwk).to_string());
    assert!(error.starts_with("the RSA JWK lacks one of p, q, dp, dq and qi"), "{error}");
}

#[test]
fn numbers_that_do_not_fit_together_are_reported() {
    let mut jwk = public("rsa.jwk.json");
    jwk.insert("d".to_owned(), jwk["n"].clone());
    assert_eq!(refusal(Value::Object(jwk).to_string()), "the key is damaged: its parts do not fit together");
    let mut jwk = public("ec-p256.jwk.json");
    jwk.insert("x".to_owned(), jwk["y"].clone());
    assert_eq!(refusal(Value::Object(jwk).to_string()), "the key is damaged: its parts do not fit together");
    let mut jwk = public("ed25519.jwk.json");
    jwk.insert("d".to_owned(), json!("AA"));
    assert_eq!(refusal(Value::Object(jwk).to_string()), "the key is damaged: its parts do not fit together");
}

#[test]
fn short_numbers_of_a_jwk_are_filled_up() {
    let number = Curve::P256.len();
    let key = (0..)
        .map(|_| {
            aws_lc_rs::signature::EcdsaKeyPair::generate(
                &aws_lc_rs::signature::ECDSA_P256_SHA256_FIXED_SIGNING,
            )
        })
        .map(|key| parse(key.unwrap().to_pkcs8v1().unwrap().as_ref()).unwrap())
        .find(|key| key.public()[1] == 0)
        .unwrap();
    let pkcs8 = key.pkcs8().unwrap();
    let at = pkcs8.expose().windows(3).position(|bytes| bytes == [4, 32, pkcs8.expose()[36]]);
    let private = &pkcs8.expose()[at.unwrap() + 2..][..number];
    let x: Vec<u8> = key.public()[2..=number].to_vec();
    let mut jwk = key.public_jwk();
    jwk.insert("x".to_owned(), json!(URL_SAFE_NO_PAD.encode(x)));
    jwk.insert("d".to_owned(), json!(URL_SAFE_NO_PAD.encode(private)));
    assert_eq!(parse(Value::Object(jwk).to_string()).unwrap().public_jwk(), key.public_jwk());
}

#[test]
fn a_file_that_is_cut_anywhere_is_refused_and_not_quoted() {
    for name in ["rsa.pkcs1.pem", "ec-p256.sec1.pem", "ed25519.pkcs8.pem", "google.json", "rsa.jwk.json"] {
        let text = other::key(name);
        let whole = text.trim_end().len();
        let secret = &text[whole / 2..whole / 2 + 8];
        for length in 0..whole {
            let error = refusal(text.as_bytes()[..length].to_vec());
            assert!(!error.contains(secret), "{name} cut at {length}: {error}");
        }
    }
    let binary = der(&other::key("rsa.pkcs8.pem"));
    for length in 0..binary.len() - 2 {
        refusal(&binary[..length]);
    }
}

#[test]
fn debug_shows_nothing() {
    assert_eq!(format!("{:?}", file("rsa.pkcs8.pem")), "[secret]");
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        let _ = parse(bytes);
    }

    #[test]
    fn no_changed_byte_makes_it_panic(which in 0..5_usize, at in 0..2000_usize, to in proptest::num::u8::ANY) {
        let names = ["rsa.pkcs1.pem", "ec-p256.sec1.pem", "rsa.plain.p12", "rsa.jwk.json", "ec-p521.pkcs8.pem"];
        let mut bytes = other::key_bytes(names[which]);
        let at = at % bytes.len();
        bytes[at] = to;
        let _ = parse(bytes);
    }
}
