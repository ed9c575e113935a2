//! The JWTs of a token request (RFC 7523 section 3): one builder for the client's assertion, the grant's, and
//! `Authorization: Bearer`. Also the DPoP proofs for the issuer (RFC 9449 sections 5 and 8).

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapOption;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, Method};
use serde_json::{Map, Value};

use super::IssuerError;
use super::credential::ClientCredential;
use super::document::parse_json;
use super::error::host_and_path;
use super::keys::KeyMaterial;
use crate::config::{CertificateHeader, HttpUrl, IssuerConfig, JwtConfig, ScopeIn, TokenEndpoint};
use crate::jose::{Alg, Header, Proof, Prover, Signer, sign, unique_id};
use crate::net::dpop;
use crate::secret::Secret;

/// JWTs are backdated by this much, for issuers whose clock is behind.
const BACKDATED: Duration = Duration::from_secs(5);

/// What signs a JWT.
#[derive(Clone)]
pub(super) enum SigningKey {
    Pair(Arc<KeyMaterial>),
    /// HMAC with the secret that client and issuer share.
    Shared(Arc<Secret>),
}

/// The contents of a JWT with its sources read. Signed anew for each attempt.
pub(super) struct JwtTemplate {
    key: SigningKey,
    alg: Alg,
    typ: String,
    key_id: Option<String>,
    certificate_headers: Vec<CertificateHeader>,
    /// All claims except the times and the `jti`.
    claims: Map<String, Value>,
    /// `jwt.claims`, which replace the claims above.
    more: Map<String, Value>,
    lifetime: Duration,
}

/// What the config says about the claims, read from its sources. An empty text omits its claim.
pub(super) struct ClaimInputs {
    pub(super) issuer: Option<String>,
    pub(super) subject: Option<String>,
    pub(super) audience: Option<String>,
    pub(super) key_id: Option<String>,
    pub(super) inherited_key_id: Option<String>,
    pub(super) client_id: Option<String>,
    pub(super) scope: String,
    pub(super) more: Map<String, Value>,
}

impl JwtTemplate {
    /// `Err` names the config key that is missing or does not fit.
    pub(super) fn new(
        config: &IssuerConfig,
        jwt: &JwtConfig,
        client: &ClientCredential<'_>,
        key: SigningKey,
        words: ClaimInputs,
    ) -> Result<Self, String> {
        let alg = alg(jwt, client, &key)?;
        let identity = match &key {
            SigningKey::Pair(material) => Some(material.key.identity()),
            SigningKey::Shared(_) => None,
        };
        let own_key_id = identity.and_then(|identity| identity.key_id.clone());
        let key_id = words.key_id.or(own_key_id).or(words.inherited_key_id).filter(|id| !id.is_empty());
        let own_subject = || identity.and_then(|identity| identity.subject.clone());
        let issuer = words.issuer.or(words.client_id).or_else(own_subject).ok_or_else(|| {
            "the JWT has no issuer (`iss`): give client_id or jwt.issuer, or a key file that names its owner"
                .to_owned()
        })?;
        let subject = words.subject.unwrap_or_else(|| issuer.clone());
        let audience = words.audience.unwrap_or_else(|| match &config.endpoint {
            // A document that names another issuer is not accepted, so this is also the discovered one.
            TokenEndpoint::Discovery(issuer) => issuer.text.clone(),
            TokenEndpoint::Url(url) => url.text.clone(),
        });
        let mut claims = Map::new();
        for (name, value) in [("iss", issuer), ("sub", subject), ("aud", audience)] {
            if !value.is_empty() {
                claims.insert(name.to_owned(), value.into());
            }
        }
        if let Some(scope) = scope_claim(jwt.scope, &words.scope) {
            claims.insert("scope".to_owned(), scope);
        }
        Ok(Self {
            key,
            alg,
            typ: jwt.typ.clone(),
            key_id,
            certificate_headers: jwt.certificate_headers.clone(),
            claims,
            more: words.more,
            lifetime: jwt.lifetime,
        })
    }

    /// Signs a new JWT with its own `jti`.
    pub(super) async fn sign(&self, now: SystemTime) -> Result<Secret, String> {
        let issued = now.checked_sub(BACKDATED.min(self.lifetime / 2)).unwrap_or(now);
        let issued = issued.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut claims = self.claims.clone();
        claims.insert("iat".to_owned(), issued.into());
        claims.insert("nbf".to_owned(), issued.into());
        claims.insert("exp".to_owned(), (issued + self.lifetime.as_secs().max(1)).into());
        claims.insert("jti".to_owned(), unique_id().map_err(|error| error.to_string())?.into());
        claims.extend(self.more.clone());

        let (signer, chain) = match &self.key {
            SigningKey::Pair(material) => (Signer::Key(&material.key), material.chain.as_slice()),
            SigningKey::Shared(secret) => (Signer::Secret(secret), [].as_slice()),
        };
        let wants = |which| self.certificate_headers.contains(&which);
        let leaf = chain.first();
        let header = Header {
            alg: self.alg,
            typ: Some(self.typ.as_str()).filter(|typ| !typ.is_empty()),
            key_id: self.key_id.as_deref(),
            x5t: leaf.filter(|_| wants(CertificateHeader::X5t)).map(|leaf| leaf.x5t()),
            x5t_s256: leaf.filter(|_| wants(CertificateHeader::X5tS256)).map(|leaf| leaf.x5t_s256()),
            x5c: leaf
                .filter(|_| wants(CertificateHeader::X5c))
                .map(|_| chain.iter().map(|certificate| certificate.x5c()).collect()),
            jwk: None,
        };
        sign(&header, &claims, signer).await.map_err(|error| format!("the JWT cannot be signed: {error}"))
    }
}

/// The algorithm, if it fits the key.
fn alg(jwt: &JwtConfig, client: &ClientCredential<'_>, key: &SigningKey) -> Result<Alg, String> {
    match key {
        SigningKey::Pair(material) => {
            let alg = jwt.alg.unwrap_or_else(|| material.key.default_alg());
            material
                .key
                .check_alg(alg)
                .map_err(|error| format!("jwt.alg does not fit {}: {error}", client.key("private_key")))?;
            Ok(alg)
        }
        SigningKey::Shared(_) => match jwt.alg.unwrap_or(Alg::Hs256) {
            alg if alg.is_symmetric() => Ok(alg),
            alg => Err(format!("jwt.alg {alg} does not fit client_secret; use HS256, HS384 or HS512")),
        },
    }
}

fn scope_claim(scope_in: ScopeIn, scope: &str) -> Option<Value> {
    match scope_in {
        _ if scope.is_empty() => None,
        ScopeIn::Parameter => None,
        ScopeIn::Claim => Some(scope.into()),
        ScopeIn::ClaimArray => Some(scope.split(' ').collect()),
    }
}

/// The expiry (`exp`) of a prepared JWT, if it can be read. The issuer checks the signature.
fn expiry(assertion: &Secret) -> Option<SystemTime> {
    let mut parts = assertion.expose_str()?.split('.');
    let (_, claims, _) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let claims = zeroize::Zeroizing::new(URL_SAFE_NO_PAD.decode(claims.trim_end_matches('=')).ok()?);
    let claims: Value = parse_json(&claims)?;
    let exp = claims.get("exp")?;
    let seconds = exp.as_f64().filter(|exp| exp.is_finite() && *exp >= 0.0)?;
    UNIX_EPOCH.checked_add(Duration::try_from_secs_f64(seconds).ok()?)
}

/// A message if a prepared assertion has expired.
pub(super) fn expired(assertion: &Secret, place: &str, now: SystemTime) -> Option<String> {
    let end = expiry(assertion)?;
    (end <= now).then(|| {
        format!(
            "the assertion in {place} expired on {}: check the program that writes it",
            crate::clock::rfc3339(end)
        )
    })
}

/// The last nonce of the issuer, which may give a new one with any response (RFC 9449 section 8.2).
#[derive(Default)]
pub(super) struct Nonce(ArcSwapOption<String>);

impl Nonce {
    /// Keeps the nonce of a response. Returns whether there is one.
    pub(super) fn keep(&self, headers: &HeaderMap) -> bool {
        let Some(nonce) = dpop::nonce(headers) else { return false };
        self.0.store(Some(Arc::new(nonce.to_owned())));
        true
    }

    /// A new proof for one request to `url`.
    pub(super) async fn proof(
        &self,
        prover: &Prover,
        method: &Method,
        url: &HttpUrl,
        now: SystemTime,
    ) -> Result<Secret, String> {
        let scheme = if url.https { "https" } else { "http" };
        let target = format!("{scheme}://{}", host_and_path(url));
        let nonce = self.0.load_full();
        let nonce = nonce.as_ref().map(|nonce| nonce.as_str());
        let proof = Proof { method: method.as_str(), url: &target, issued_at: now, nonce, token: None };
        prover.proof(&proof).await.map_err(|error| format!("dpop: {error}"))
    }
}

/// The issuer requires another nonce in the proof (RFC 9449 section 8).
pub(super) fn wants_nonce(error: &IssuerError) -> bool {
    matches!(error.http_status, Some(400 | 401)) && error.code.as_deref() == Some(dpop::USE_NONCE)
}

#[cfg(test)]
mod tests;
