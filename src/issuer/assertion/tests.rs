use futures_util::FutureExt as _;
use serde_json::json;

use super::*;
use crate::config::client_auth::ClientSecretJwt;
use crate::config::files::write_settled;
use crate::config::{ClientAuth, CredentialKey, JwtUse, ParamValue, Params, Source};
use crate::issuer::credential::WhichCredential;
use crate::issuer::fuzz;
use crate::issuer::inputs::{Inputs, NotReady};
use crate::issuer::keys::KeyCache;
use crate::issuer::tests::{key_file, key_of, signing};
use crate::jose::Certificate;

#[test]
fn an_unfit_nonce_leaves_the_last_one_in_place() {
    let nonce = Nonce::default();
    for (value, kept) in [("n-1", true), ("a b", false)] {
        let headers = HeaderMap::from_iter([(dpop::NONCE, value.parse().unwrap())]);
        assert_eq!(nonce.keep(&headers), kept, "{value}");
    }
    assert!(!nonce.keep(&HeaderMap::new()));
    assert_eq!(nonce.0.load_full().unwrap().as_str(), "n-1");
}

const NOW: SystemTime = UNIX_EPOCH;

fn now() -> SystemTime {
    NOW + Duration::from_secs(1_800_000_000)
}

fn read(config: &IssuerConfig, key: &CredentialKey, which: WhichCredential) -> Result<Inputs, String> {
    let client = ClientCredential::of(config, which).unwrap();
    Inputs::read(config, &client, key, &KeyCache::new("corp".into()), now()).map_err(|NotReady(what)| what)
}

fn parts(token: &Secret) -> (Value, Value) {
    let text = token.expose_str().unwrap();
    let part = |index| {
        let part = text.split('.').nth(index).unwrap();
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
    };
    (part(0), part(1))
}

/// Header and claims, without the times and the unique `jti`.
fn signed_as(config: &IssuerConfig, key: &CredentialKey, which: WhichCredential) -> (Value, Value) {
    let fresh = read(config, key, which).unwrap().sign(config, now()).now_or_never().unwrap().unwrap();
    let token = [fresh.client_assertion, fresh.assertion, fresh.bearer].into_iter().flatten().next().unwrap();
    let (header, mut claims) = parts(&token);
    for name in ["iat", "nbf", "exp", "jti"] {
        claims.as_object_mut().unwrap().remove(name).unwrap();
    }
    (header, claims)
}

fn signed(config: &IssuerConfig) -> (Value, Value) {
    signed_as(config, &key_of(config), WhichCredential::Current)
}

fn refusal(config: &IssuerConfig) -> String {
    read(config, &key_of(config), WhichCredential::Current).err().unwrap()
}

#[test]
fn t103_times_allow_for_a_clock_behind_and_no_jti_comes_twice() {
    let config = signing("ec-p256.pkcs8.pem");
    let mut inputs = read(&config, &key_of(&config), WhichCredential::Current).unwrap();
    let mut ids = std::collections::BTreeSet::new();
    for _ in 0..3 {
        let token = inputs.sign(&config, now()).now_or_never().unwrap().unwrap().client_assertion.unwrap();
        let (_, claims) = parts(&token);
        assert_eq!(claims["iat"], 1_799_999_995);
        assert_eq!(claims["nbf"], 1_799_999_995);
        assert_eq!(claims["exp"], 1_800_000_055, "no more than the lifetime after `iat`");
        let id = claims["jti"].as_str().unwrap().to_owned();
        assert!(id.len() >= 22 && ids.insert(id), "128 bits, new each time");
        assert_eq!(inputs.redactor.show(token.expose_str().unwrap(), 4096), None);
    }
}

#[test]
fn t103_a_short_lifetime_is_still_one() {
    let mut config = signing("ec-p256.pkcs8.pem");
    config.jwt.as_mut().unwrap().lifetime = Duration::from_secs(2);
    let mut inputs = read(&config, &key_of(&config), WhichCredential::Current).unwrap();
    let (_, claims) =
        parts(&inputs.sign(&config, now()).now_or_never().unwrap().unwrap().client_assertion.unwrap());
    assert_eq!((&claims["iat"], &claims["exp"]), (&json!(1_799_999_999), &json!(1_800_000_001)));
}

#[test]
fn the_usual_claims() {
    let (header, claims) = signed(&signing("rsa.pkcs1.pem"));
    assert_eq!(header, json!({ "alg": "RS256", "typ": "JWT" }));
    assert_eq!(claims, json!({ "iss": "svc", "sub": "svc", "aud": "https://idp.example/token?k=v" }));
}

#[test]
fn every_claim_may_be_given() {
    let mut config = signing("rsa.jwk.json");
    let jwt = config.jwt.as_mut().unwrap();
    jwt.alg = Some(Alg::Ps256);
    jwt.key_id = Some(Source::literal("k1"));
    jwt.typ = String::new();
    jwt.issuer = Some(Source::literal("i"));
    jwt.subject = Some(Source::literal(""));
    jwt.audience = Some(Source::literal("https://a/"));
    jwt.scope = ScopeIn::ClaimArray;
    jwt.claims = Params::from([
        ("n".to_owned(), ParamValue::Integer(7)),
        ("flag".to_owned(), ParamValue::Boolean(true)),
        ("aud2".to_owned(), ParamValue::Array(vec![ParamValue::Value(Source::literal("x"))])),
        ("scope".to_owned(), ParamValue::Value(Source::literal("own"))),
    ]);
    let (header, claims) = signed(&config);
    assert_eq!(header, json!({ "alg": "PS256", "kid": "k1" }));
    assert_eq!(
        claims,
        json!({ "iss": "i", "aud": "https://a/", "scope": "own", "n": 7, "flag": true, "aud2": ["x"] })
    );
}

#[test]
fn a_routes_subject_goes_before_the_issuers() {
    let mut config = signing("google.json");
    config.jwt.as_mut().unwrap().subject = Some(Source::literal("s"));
    let route = CredentialKey { subject: Some("mailbox@example.com".to_owned()), ..key_of(&config) };
    let (_, claims) = signed_as(&config, &route, WhichCredential::Current);
    assert_eq!((&claims["iss"], &claims["sub"]), (&json!("svc"), &json!("mailbox@example.com")));
}

#[test]
fn a_vendors_key_file_says_whose_it_is() {
    for (file, key_id) in [("google.json", "private_key_id"), ("zitadel-user.json", "keyId")] {
        let mut config = signing(file);
        config.client_id = None;
        let (header, claims) = signed(&config);
        let given: Value = serde_json::from_slice(key_file(file).read().unwrap().expose()).unwrap();
        assert_eq!(header["kid"], given[key_id], "{file}");
        assert_eq!(claims["iss"], claims["sub"]);
        assert!(claims["iss"].as_str().is_some_and(|issuer| !issuer.is_empty()));
    }
}

#[test]
fn a_missing_issuer_claim_is_reported() {
    let mut config = signing("rsa.pkcs8.pem");
    config.client_id = None;
    assert!(refusal(&config).contains("client_id or jwt.issuer"));
}

#[test]
fn scope_as_a_claim_is_no_parameter() {
    let mut config = signing("rsa.pkcs8.pem");
    config.jwt.as_mut().unwrap().scope = ScopeIn::Claim;
    assert_eq!(signed(&config).1["scope"], "read write");
    config.jwt.as_mut().unwrap().scope = ScopeIn::ClaimArray;
    assert_eq!(signed(&config).1["scope"], json!(["read", "write"]));
    let none = CredentialKey { scopes: Default::default(), ..key_of(&config) };
    assert_eq!(signed_as(&config, &none, WhichCredential::Current).1.get("scope"), None);
}

#[test]
fn certificates_are_in_the_header() {
    let mut config = signing("rsa.pkcs8.pem");
    config.certificate = Some(key_file("rsa.certificate.pem"));
    config.jwt.as_mut().unwrap().certificate_headers =
        vec![CertificateHeader::X5t, CertificateHeader::X5tS256, CertificateHeader::X5c];
    let (header, _) = signed(&config);
    let leaf = Certificate::parse_chain(key_file("rsa.certificate.pem").read().unwrap().expose()).unwrap();
    assert_eq!(header["x5t"], leaf[0].x5t());
    assert_eq!(header["x5t#S256"], leaf[0].x5t_s256());
    assert_eq!(header["x5c"], json!([leaf[0].x5c()]));

    // The certificate in the key's file is also accepted.
    config.private_key = Some(key_file("rsa.modern.p12").with_password(Source::literal("test-password")));
    config.certificate = None;
    assert_eq!(signed(&config).0["x5t"], leaf[0].x5t());
}

#[test]
fn a_certificate_of_another_key_is_reported() {
    let mut config = signing("rsa.pkcs8.pem");
    config.certificate = Some(key_file("ec-p256.certificate.pem"));
    config.jwt.as_mut().unwrap().certificate_headers = vec![CertificateHeader::X5t];
    let refused = refusal(&config);
    assert!(refused.contains("certificate in file ") && refused.contains("does not belong to"), "{refused}");
    config.certificate = None;
    assert!(refusal(&config).starts_with("certificate: is missing"));
}

#[test]
fn an_expired_certificate_is_reported_and_used() {
    let mut config = signing("rsa.pkcs8.pem");
    config.certificate = Some(key_file("rsa.expired-certificate.pem"));
    config.jwt.as_mut().unwrap().certificate_headers = vec![CertificateHeader::X5t];
    let inputs = read(&config, &key_of(&config), WhichCredential::Current).unwrap();
    let [remark] = inputs.remarks.as_slice() else { panic!("{:?}", inputs.remarks) };
    assert!(remark.contains("expired on 2021-01-01T00:00:00Z"), "{remark}");
}

#[test]
fn keys_that_do_not_fit_are_reported_with_their_place() {
    for (file, words) in [
        ("rsa.encrypted.pem", "encrypted"),
        ("rsa.public.pem", "public"),
        ("rsa.certificate.pem", "certificate"),
    ] {
        let refused = refusal(&signing(file));
        let start = format!("private_key: {}: ", key_file(file).place());
        assert!(refused.starts_with(&start) && refused[start.len()..].contains(words), "{refused}");
    }
    let mut config = signing("ec-p256.pkcs8.pem");
    config.jwt.as_mut().unwrap().alg = Some(Alg::Rs256);
    assert!(refusal(&config).starts_with("jwt.alg does not fit private_key: "), "{}", refusal(&config));
    config.private_key = Some(Source::file("/nowhere/key".into(), None));
    assert_eq!(refusal(&config), "private_key: file /nowhere/key: no such file");
}

#[test]
fn a_shared_secret_signs_with_hmac_alone() {
    let secret = Source::literal("0123456789abcdef0123456789abcdef");
    let mut config = IssuerConfig {
        client_auth: ClientAuth::with_secret(&ClientSecretJwt, secret),
        jwt: Some(JwtConfig::with_defaults(JwtUse::ClientAssertion)),
        ..fuzz::config()
    };
    assert_eq!(signed(&config).0, json!({ "alg": "HS256", "typ": "JWT" }));
    config.jwt.as_mut().unwrap().alg = Some(Alg::Hs512);
    assert_eq!(signed(&config).0["alg"], "HS512");
    config.jwt.as_mut().unwrap().alg = Some(Alg::Rs256);
    assert!(refusal(&config).contains("HS256, HS384 or HS512"));
}

#[test]
fn standby_has_a_key_of_its_own_and_what_goes_with_it() {
    let mut config = signing("rsa.jwk.json");
    config.jwt.as_mut().unwrap().key_id = Some(Source::literal("k1"));
    config.standby = Some(crate::config::Standby {
        client_id: None,
        client_secret: None,
        private_key: Some(key_file("ec-p256.jwk.json")),
        certificate: None,
        key_id: None,
    });
    let standby = |config: &IssuerConfig| signed_as(config, &key_of(config), WhichCredential::Standby);
    let (header, claims) = standby(&config);
    assert_eq!((&header["alg"], &header["kid"]), (&json!("ES256"), &json!("ec-p256-1")));
    assert_eq!(claims["iss"], "svc");
    config.standby.as_mut().unwrap().key_id = Some(Source::literal("k2"));
    config.standby.as_mut().unwrap().client_id = Some(Source::literal("other"));
    let (header, claims) = standby(&config);
    assert_eq!((&header["kid"], &claims["iss"]), (&json!("k2"), &json!("other")));
    config.standby.as_mut().unwrap().private_key = Some(key_file("ec-p256.pkcs8.pem"));
    config.standby.as_mut().unwrap().key_id = None;
    assert_eq!(standby(&config).0["kid"], "k1", "what nobody says is as in the issuer's table");
}

#[test]
fn the_expiry_of_a_prepared_jwt_is_read() {
    let token = |claims: &str| Secret::from(format!("e30.{}.sig", URL_SAFE_NO_PAD.encode(claims)));
    let end = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    assert_eq!(expiry(&token(r#"{"exp":1800000000}"#)), Some(end));
    assert_eq!(expiry(&token(r#"{"exp":1800000000.0}"#)), Some(end));
    for other in [r#"{"exp":"soon"}"#, "{}", "no", r#"{"exp":-1}"#, r#"{"exp":1e300}"#] {
        assert_eq!(expiry(&token(other)), None, "{other}");
    }
    for other in ["", "a.b", "a.b.c.d", "a.!.c", "PHNhbWw+"] {
        assert_eq!(expiry(&Secret::from(other)), None, "{other}");
    }
    let told = expired(&token(r#"{"exp":1800000000}"#), "file /t", end).unwrap();
    assert_eq!(
        told,
        "the assertion in file /t expired on 2027-01-15T08:00:00Z: check the program that writes it"
    );
    assert_eq!(expired(&token(r#"{"exp":1800000000}"#), "file /t", end - Duration::from_secs(1)), None);
}

#[test]
fn an_incomplete_key_file_leaves_the_last_good_key_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key.pem");
    let of = |name| key_file(name).read().unwrap();
    let whole = of("ec-p256.pkcs8.pem");
    let whole = whole.expose();
    write_settled(&file, whole);
    let mut config = signing("ec-p256.pkcs8.pem");
    config.private_key = Some(Source::file(file.clone(), None));
    let keys = KeyCache::new("corp".into());
    let client = || ClientCredential::of(&config, WhichCredential::Current).unwrap();
    let first = keys.signing(&config, &client()).unwrap().unwrap();
    assert!(Arc::ptr_eq(&first, &keys.signing(&config, &client()).unwrap().unwrap()), "parsed once");
    for broken in [&whole[..whole.len() / 2], b"", b"\n"] {
        write_settled(&file, broken);
        assert!(Arc::ptr_eq(&first, &keys.signing(&config, &client()).unwrap().unwrap()));
    }
    write_settled(&file, of("ec-p384.pkcs8.pem").expose());
    let next = keys.signing(&config, &client()).unwrap().unwrap();
    assert_eq!(next.key.default_alg(), Alg::Es384);
}
