//! Keys in JSON: JWK (RFC 7517, RFC 7518 section 6, RFC 8037) and the files that vendors hand out.

use base64::Engine;
use base64::alphabet::URL_SAFE;
use base64::engine::general_purpose::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::super::pair::{Curve, Pair, RsaNumbers};
use super::read::from_pem;
use super::{Alg, Certificate, Identity, KeyError, PrivateKey};

const BASE64URL: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Wiped when it is dropped.
type Hidden = Zeroizing<String>;

fn hidden<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Hidden>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.map(Zeroizing::new))
}

/// Every member that any of the known files has.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Document {
    keys: Option<Vec<Self>>,
    kty: Option<String>,
    crv: Option<String>,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    x5c: Option<Vec<String>>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    #[serde(deserialize_with = "hidden")]
    d: Option<Hidden>,
    #[serde(deserialize_with = "hidden")]
    p: Option<Hidden>,
    #[serde(deserialize_with = "hidden")]
    q: Option<Hidden>,
    #[serde(deserialize_with = "hidden")]
    dp: Option<Hidden>,
    #[serde(deserialize_with = "hidden")]
    dq: Option<Hidden>,
    #[serde(deserialize_with = "hidden")]
    qi: Option<Hidden>,
    oth: Option<serde::de::IgnoredAny>,

    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(deserialize_with = "hidden")]
    private_key: Option<Hidden>,
    private_key_id: Option<String>,
    client_email: Option<String>,
    #[serde(deserialize_with = "hidden")]
    key: Option<Hidden>,
    #[serde(rename = "keyId")]
    key_id: Option<String>,
    #[serde(rename = "userId")]
    user_id: Option<String>,
    #[serde(rename = "clientId")]
    client_id: Option<String>,
}

fn error<T>(text: impl Into<String>) -> Result<T, KeyError> {
    Err(KeyError(text.into()))
}

pub(super) fn parse(text: &str) -> Result<PrivateKey, KeyError> {
    let document: Document = serde_json::from_str(text).map_err(|found| {
        // serde's own words may quote a value.
        let place = format!("line {}, column {}", found.line(), found.column());
        KeyError(match found.classify() {
            serde_json::error::Category::Eof => "it is JSON that is cut off (half written?)".to_owned(),
            serde_json::error::Category::Data => {
                format!(
                    "it is JSON, but neither a JWK nor a known key file: a value of the wrong type at {place}"
                )
            }
            _ => format!("it is broken JSON at {place}"),
        })
    })?;
    if document.kty.is_some() {
        return from_jwk(&document);
    }
    match document.keys {
        Some(keys) => from_set(&keys),
        None => from_vendor(document),
    }
}

fn from_set(keys: &[Document]) -> Result<PrivateKey, KeyError> {
    let mut private = keys.iter().filter(|key| key.d.is_some() && key.usage.as_deref() != Some("enc"));
    match (private.next(), private.count()) {
        (Some(one), 0) => from_jwk(one),
        (Some(_), others) => {
            error(format!("the JWK Set has {} private keys; give the one to use alone", others + 1))
        }
        (None, _) => error("the JWK Set has no private key for signatures"),
    }
}

fn from_vendor(document: Document) -> Result<PrivateKey, KeyError> {
    let (key, member, key_id, subject) = match document.kind.as_deref() {
        Some("service_account") => {
            (document.private_key, "private_key", document.private_key_id, document.client_email)
        }
        Some("serviceaccount") => (document.key, "key", document.key_id, document.user_id),
        Some("application") => (document.key, "key", document.key_id, document.client_id),
        Some("authorized_user" | "external_account" | "impersonated_service_account") => {
            return error(
                "it is a Google credentials file without a key; create a key of a service account \
                 (IAM, Service accounts, Keys)",
            );
        }
        _ if document.private_key.is_some() => {
            return error("it is JSON of an unknown kind; point to its key: pointer = \"/private_key\"");
        }
        _ => {
            return error("it is JSON, but neither a JWK nor the key file of Google or ZITADEL");
        }
    };
    let Some(key) = key else {
        return error(format!("it is a vendor's key file without its member {member}; was it copied whole?"));
    };
    let identity = Identity { key_id, subject, alg: None };
    if !key.contains("-----BEGIN ") {
        return error(format!("its member {member} holds no key in PEM"));
    }
    from_pem(&key, identity, None).map_err(|KeyError(why)| KeyError(format!("its member {member}: {why}")))
}

fn from_jwk(jwk: &Document) -> Result<PrivateKey, KeyError> {
    if jwk.kty.as_deref() == Some("oct") {
        return error(
            "it is a symmetric JWK (kty \"oct\"), which is a shared secret; a private key has kty RSA, EC or OKP",
        );
    }
    if jwk.d.is_none() {
        return error("it is a public JWK (it has no member d); the private key is needed");
    }
    if jwk.usage.as_deref() == Some("enc") {
        return error("it is a JWK for encryption (use \"enc\"); one for signatures is needed");
    }
    let pair = match jwk.kty.as_deref() {
        Some("RSA") => rsa(jwk)?,
        Some("EC") => ec(jwk)?,
        Some("OKP") => okp(jwk)?,
        _ => return error("it is a JWK of an unknown kty; RSA, EC and OKP can be used"),
    };
    let alg = match jwk.alg.as_deref() {
        None => None,
        Some(name) => match name.parse::<Alg>() {
            Ok(alg) => Some(alg),
            Err(_) => return error("its member alg names no signature algorithm that is known here"),
        },
    };
    let chain = chain(jwk)?;
    if chain.first().is_some_and(|leaf| leaf.public() != pair.public()) {
        return error("the first certificate of its x5c belongs to another key");
    }
    PrivateKey::new(pair, Identity { key_id: jwk.kid.clone(), subject: None, alg }, chain)
}

fn chain(jwk: &Document) -> Result<Vec<Certificate>, KeyError> {
    let members = jwk.x5c.as_deref().unwrap_or_default();
    members
        .iter()
        .map(|member| match STANDARD.decode(member) {
            Ok(der) => Certificate::from_der(&der),
            Err(_) => error("a member of its x5c is not base64"),
        })
        .collect()
}

fn rsa(jwk: &Document) -> Result<Pair, KeyError> {
    if jwk.oth.is_some() {
        return error("it is an RSA key of more than two primes (oth), which cannot be used");
    }
    if [&jwk.p, &jwk.q, &jwk.dp, &jwk.dq, &jwk.qi].into_iter().any(Option::is_none) {
        return error(
            "the RSA JWK lacks one of p, q, dp, dq and qi, which are needed beside n, e and d; \
             export it with them, or as PKCS#8",
        );
    }
    let hidden = |value: &Option<Hidden>, name| number(value.as_ref().map(|text| text.as_str()), name);
    Pair::from_rsa_numbers(&RsaNumbers {
        n: &number(jwk.n.as_deref(), "n")?,
        e: &number(jwk.e.as_deref(), "e")?,
        d: &hidden(&jwk.d, "d")?,
        p: &hidden(&jwk.p, "p")?,
        q: &hidden(&jwk.q, "q")?,
        dp: &hidden(&jwk.dp, "dp")?,
        dq: &hidden(&jwk.dq, "dq")?,
        qi: &hidden(&jwk.qi, "qi")?,
    })
}

fn ec(jwk: &Document) -> Result<Pair, KeyError> {
    let Some(curve) = Curve::ALL.into_iter().find(|curve| jwk.crv.as_deref() == Some(curve.name())) else {
        return error("the JWK's crv is none of P-256, P-384 and P-521");
    };
    let private = padded(jwk.d.as_ref().map(|text| text.as_str()), "d", curve.len())?;
    let x = padded(jwk.x.as_deref(), "x", curve.len())?;
    let y = padded(jwk.y.as_deref(), "y", curve.len())?;
    Pair::from_ec_numbers(curve, &private, &[&[4], x.as_slice(), y.as_slice()].concat())
}

fn okp(jwk: &Document) -> Result<Pair, KeyError> {
    if jwk.crv.as_deref() != Some("Ed25519") {
        return error("the OKP JWK's crv is not Ed25519, the one that can be used");
    }
    let seed = decode(jwk.d.as_ref().map(|text| text.as_str()), "d")?;
    let public = decode(jwk.x.as_deref(), "x")?;
    Pair::from_ed25519_seed(&seed, &public)
}

fn decode(text: Option<&str>, name: &str) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let Some(text) = text else { return error(format!("the JWK lacks its member {name}")) };
    match BASE64URL.decode(text) {
        Ok(bytes) => Ok(Zeroizing::new(bytes)),
        Err(_) => error(format!("the JWK's member {name} is not base64url; was it copied whole?")),
    }
}

/// Without leading zeros.
fn number(text: Option<&str>, name: &str) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let bytes = decode(text, name)?;
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    Ok(Zeroizing::new(bytes.iter().skip(zeros).copied().collect()))
}

/// At the length that RFC 7518 section 6.2 asks for, which not every writer keeps to.
fn padded(text: Option<&str>, name: &str, length: usize) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let number = number(text, name)?;
    let Some(zeros) = length.checked_sub(number.len()) else {
        return error(format!("the JWK's member {name} is too long for its crv"));
    };
    let mut bytes = vec![0; zeros];
    bytes.extend_from_slice(&number);
    Ok(Zeroizing::new(bytes))
}
