use futures_util::FutureExt as _;
use serde_json::json;

use super::*;
use crate::jose::other;

#[test]
fn names_go_both_ways_and_case_counts() {
    for name in Alg::names() {
        assert_eq!(name.parse::<Alg>().unwrap().as_str(), name);
    }
    assert_eq!("rs256".parse::<Alg>(), Err(UnknownAlg));
    assert_eq!("none".parse::<Alg>(), Err(UnknownAlg));
}

fn key(name: &str) -> PrivateKey {
    PrivateKey::parse(&Secret::new(other::key_bytes(name)), None).unwrap()
}

fn header(alg: Alg) -> Header<'static> {
    Header { alg, typ: None, key_id: None, x5t: None, x5t_s256: None, x5c: None, jwk: None }
}

fn claims() -> Map<String, Value> {
    json!({ "iss": "me", "exp": 1, "nested": { "a": [true, null, 1.5] } }).as_object().unwrap().clone()
}

/// The claims of RFC 7515 appendix A, with line breaks that no JSON writer makes.
const RFC_CLAIMS: &str =
    "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";

#[test]
fn every_algorithm_is_verified_by_other_code() {
    for (file, algorithms) in [
        ("rsa", &["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"][..]),
        ("ec-p256", &["ES256"]),
        ("ec-p384", &["ES384"]),
        ("ec-p521", &["ES512"]),
        ("ed25519", &["EdDSA", "Ed25519"]),
    ] {
        let key = key(&format!("{file}.pkcs8.pem"));
        for public in ["public.pem", "public.jwk.json"] {
            let public = other::key(&format!("{file}.{public}"));
            for name in algorithms {
                let token = sign(&header(name.parse().unwrap()), &claims(), Signer::Key(&key))
                    .now_or_never()
                    .unwrap()
                    .unwrap();
                let (_, found) = other::verify(token.expose_str().unwrap(), &public, name);
                assert_eq!(found, Value::Object(claims()), "{name}");
            }
        }
    }
}

#[test]
fn shared_secrets_of_any_length_sign() {
    for secret in ["x", "a secret that is longer than the block of SHA-256, which is sixty-four bytes long"] {
        for name in ["HS256", "HS384", "HS512"] {
            let signer = Secret::from(secret);
            let token = sign(&header(name.parse().unwrap()), &claims(), Signer::Secret(&signer))
                .now_or_never()
                .unwrap()
                .unwrap();
            other::verify(token.expose_str().unwrap(), secret, name);
        }
    }
}

#[test]
#[should_panic(expected = "the RS256 signature is wrong")]
fn the_verifier_refuses_another_keys_signature() {
    let token = sign(&header(Alg::Rs256), &claims(), Signer::Key(&key("rsa.pkcs8.pem")))
        .now_or_never()
        .unwrap()
        .unwrap();
    let other_key = key("rfc7515-a2.jwk.json").public_jwk();
    other::verify(token.expose_str().unwrap(), &Value::Object(other_key).to_string(), "RS256");
}

#[test]
#[should_panic(expected = "the ES512 signature is right")]
fn the_verifier_refuses_changed_claims() {
    let token = sign(&header(Alg::Es512), &claims(), Signer::Key(&key("ec-p521.pkcs8.pem")))
        .now_or_never()
        .unwrap()
        .unwrap();
    let changed = {
        let parts: Vec<&str> = token.expose_str().unwrap().split('.').collect();
        [parts[0], RFC_CLAIMS, parts[2]].join(".")
    };
    other::verify(&changed, &other::key("ec-p521.public.pem"), "ES512");
}

#[test]
fn rfc_7515_a1_hmac() {
    let key = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
    let key = Secret::new(URL_SAFE_NO_PAD.decode(key).unwrap());
    let message = format!("eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.{RFC_CLAIMS}");
    let made = mac(Alg::Hs256, &key, message.as_bytes()).unwrap();
    assert_eq!(URL_SAFE_NO_PAD.encode(made), "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk");
}

#[test]
fn rfc_7515_a2_rsa() {
    let message = format!("eyJhbGciOiJSUzI1NiJ9.{RFC_CLAIMS}");
    let made =
        key("rfc7515-a2.jwk.json").sign(Alg::Rs256, message.as_bytes()).now_or_never().unwrap().unwrap();
    assert_eq!(
        URL_SAFE_NO_PAD.encode(made),
        "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CU\
         Ar7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_d\
         O--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0ig\
         cN_IoypGlUPQGe77Rw"
    );
}

#[test]
fn rfc_7515_a3_and_a4_ecdsa() {
    // These signatures are random: the verifier accepts the RFC's and ours with the same key.
    let rfc = "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
    for (file, name) in [("rfc7515-a3.jwk.json", "ES256"), ("rfc7515-a4.jwk.json", "ES512")] {
        let key = key(file);
        let public = Value::Object(key.public_jwk()).to_string();
        let token = sign(&header(name.parse().unwrap()), &claims(), Signer::Key(&key))
            .now_or_never()
            .unwrap()
            .unwrap();
        other::verify(token.expose_str().unwrap(), &public, name);
        if name == "ES256" {
            other::verify(&format!("eyJhbGciOiJFUzI1NiJ9.{RFC_CLAIMS}.{rfc}"), &public, name);
        }
    }
}

#[test]
fn rfc_8037_a4_ed25519() {
    let message = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc";
    let made =
        key("rfc8037-a1.jwk.json").sign(Alg::EdDsa, message.as_bytes()).now_or_never().unwrap().unwrap();
    assert_eq!(
        URL_SAFE_NO_PAD.encode(made),
        "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"
    );
}

#[test]
fn the_header_has_its_members_in_order_and_no_others() {
    let key = key("ec-p256.pkcs8.pem");
    let full = Header {
        alg: Alg::Es256,
        typ: Some("JWT"),
        key_id: Some("k1"),
        x5t: Some("a".to_owned()),
        x5t_s256: Some("b".to_owned()),
        x5c: Some(vec!["c".to_owned()]),
        jwk: Some(key.public_jwk()),
    };
    let encoded = encode(&full).unwrap();
    let json = String::from_utf8(URL_SAFE_NO_PAD.decode(encoded.as_bytes()).unwrap()).unwrap();
    let start =
        r##"{"alg":"ES256","typ":"JWT","kid":"k1","x5t":"a","x5t#S256":"b","x5c":["c"],"jwk":{"crv":"##;
    assert!(json.starts_with(start), "{json}");
    let bare = encode(&header(Alg::EdDsa)).unwrap();
    assert_eq!(URL_SAFE_NO_PAD.decode(bare.as_bytes()).unwrap(), br#"{"alg":"EdDSA"}"#);
}

#[test]
fn an_algorithm_that_does_not_fit_the_signer_is_reported() {
    let secret = Secret::from("s");
    fn of(name: &str, signer: Signer<'_>) -> String {
        sign(&header(name.parse().unwrap()), &claims(), signer).now_or_never().unwrap().unwrap_err().0
    }
    assert_eq!(
        of("RS256", Signer::Secret(&secret)),
        "RS256 signs with a private key, not with a shared secret; use HS256, HS384 or HS512"
    );
    assert_eq!(
        of("ES384", Signer::Key(&key("ec-p256.pkcs8.pem"))),
        "ES384 does not fit this P-256 key; use ES256"
    );
    assert_eq!(
        of("RS256", Signer::Key(&key("ed25519.pkcs8.pem"))),
        "RS256 does not fit this Ed25519 key; use EdDSA, Ed25519"
    );
    assert_eq!(
        of("HS256", Signer::Key(&key("rsa.pkcs8.pem"))),
        "HS256 signs with a shared secret, not with a private key"
    );
    assert_eq!(
        of("RS256", Signer::Key(&key("rsa-pss.pkcs8.pem"))),
        "RS256 does not fit this RSA-PSS key; use PS256, PS384, PS512"
    );
}
