//! The values of one token request, read from their sources.

use std::sync::Arc;
use std::time::SystemTime;

use http::HeaderName;
use serde_json::Map;

use super::assertion::{self, ClaimInputs, JwtTemplate, SigningKey};
use super::credential::{ClientCredential, WhichCredential};
use super::keys::{self, KeyCache, read};
use super::request::{self, SignedParts, Value};
use crate::config::client_auth::Proof;
use crate::config::{
    CredentialKey, IssuerConfig, JwtConfig, JwtUse, ParamValue, ReferenceError, Source, names_a_secret,
    slip_in_printed,
};
use crate::redact::Redactor;
use crate::secret::Secret;

/// If a name contains one of these, its literal values are masked too. References are always masked.
const SECRET_NAMES: [&str; 9] =
    ["secret", "pass", "pwd", "token", "key", "auth", "assertion", "credential", "cookie"];

/// … unless the name ends with one of these, as in `subject_token_type`.
const PLAIN_ENDINGS: [&str; 5] = ["type", "use", "url", "uri", "method"];

/// The end of SAML's grant and assertion types (RFC 7522).
const SAML: &str = "saml2-bearer";

/// The values of one request with one credential.
pub(super) struct Inputs {
    pub(super) client_id: Option<Arc<Secret>>,
    pub(super) client_secret: Option<Arc<Secret>>,
    pub(super) basic: Option<(Arc<Secret>, Arc<Secret>)>,
    /// Sorted by name.
    pub(super) params: Vec<(String, Value)>,
    pub(super) headers: Vec<(HeaderName, Arc<Secret>)>,
    /// The content of the key file that the server named.
    pub(super) challenge_key: Option<Secret>,
    /// The prepared assertion of the config.
    assertion: Option<Arc<Secret>>,
    client_jwt: Option<JwtTemplate>,
    used_jwt: Option<(JwtUse, JwtTemplate)>,
    /// What an operator should know if the issuer refuses: expired certificates and assertions.
    pub(super) remarks: Vec<String>,
    /// Knows every secret in these values.
    pub(super) redactor: Redactor,
}

/// Why no request can be sent. Names the config key or the place, never a value.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotReady(pub(super) String);

impl From<ReferenceError> for NotReady {
    fn from(error: ReferenceError) -> Self {
        Self(format!("a value cannot be read: {error}"))
    }
}

impl From<String> for NotReady {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl Inputs {
    /// Reads every source. If one cannot be read, its last good value is used with a warning; if there is none, that is
    /// the error.
    pub(super) fn read(
        config: &IssuerConfig,
        client: &ClientCredential<'_>,
        key: &CredentialKey,
        keys: &KeyCache,
        now: SystemTime,
    ) -> Result<Self, NotReady> {
        let mut reader = Reader { issuer: &config.name, redactor: known_secrets(config), slips: Vec::new() };
        let named = |key, source: Option<&Source>| {
            let read = source.map(|source| reader.plain(source)).transpose();
            read.map_err(|error| NotReady(format!("{} cannot be read: {error}", client.key(key))))
        };
        let client_id = named("client_id", client.id)?;
        let client_secret = named("client_secret", client.secret)?;
        if let Some((source, secret)) = client.secret.zip(client_secret.as_ref()) {
            reader.redactor.add(secret);
            reader.examine(source, secret);
        }
        let basic = match &config.basic {
            None => None,
            Some(basic) => {
                let (user, password) = (reader.plain(&basic.user)?, reader.plain(&basic.password)?);
                reader.redactor.add(&password);
                reader.learn_earlier(&basic.password);
                reader.examine(&basic.password, &password);
                Some((user, password))
            }
        };
        let mut inputs = Self {
            params: reader.members(&key.params)?,
            headers: reader.headers(&config.headers)?,
            challenge_key: None,
            assertion: reader.assertion(config)?,
            client_id,
            client_secret,
            basic,
            client_jwt: None,
            used_jwt: None,
            remarks: Vec::new(),
            redactor: Redactor::default(),
        };
        inputs.read_jwts(config, client, key, keys, &mut reader, now)?;
        inputs.remark(config, keys, now);
        inputs.remarks.append(&mut reader.slips);
        inputs.redactor = reader.redactor;
        Ok(inputs)
    }

    fn read_jwts(
        &mut self,
        config: &IssuerConfig,
        client: &ClientCredential<'_>,
        key: &CredentialKey,
        keys: &KeyCache,
        reader: &mut Reader<'_>,
        now: SystemTime,
    ) -> Result<(), NotReady> {
        let Some(jwt) = &config.jwt else { return Ok(()) };
        let pair = keys.signing(config, client)?;
        if let Some(material) = &pair {
            self.remarks.extend(keys::expired(&material.chain, &material.chain_place, now));
        }
        let pair = pair.map(SigningKey::Pair);
        let proof = config.client_auth.proof();
        let shared = self.client_secret.clone().filter(|_| proof == Proof::SignedBySecret);
        let shared = shared.map(SigningKey::Shared);
        let missing =
            || NotReady(format!("{}: is missing, and the JWT needs a key", client.key("private_key")));
        let mut template = |key_pair: Option<SigningKey>| {
            let words = reader.words(jwt, client, key, self.client_id.as_deref())?;
            JwtTemplate::new(config, jwt, client, key_pair.ok_or_else(missing)?, words).map_err(NotReady)
        };
        match proof {
            Proof::SignedBySecret => self.client_jwt = Some(template(shared.clone())?),
            Proof::SignedByKey => self.client_jwt = Some(template(pair.clone())?),
            _ => {}
        }
        if jwt.usage != JwtUse::ClientAssertion {
            self.used_jwt = Some((jwt.usage, template(pair.or(shared))?));
        }
        Ok(())
    }

    fn remark(&mut self, config: &IssuerConfig, keys: &KeyCache, now: SystemTime) {
        if let Some((chain, place)) = keys.tls_chain(config) {
            let expired = keys::expired(&chain, &place, now);
            // A certificate that is also in the JWT's header is in the list already.
            self.remarks.extend(expired.filter(|_| self.remarks.is_empty()));
        }
        if let (Some(source), Some(assertion)) = (&config.assertion, &self.assertion) {
            self.remarks.extend(assertion::expired(assertion, &source.place(), now));
        }
    }

    /// From here on, requests have this key.
    pub(super) fn answer_challenge(&mut self, key: Secret) {
        self.redactor.add(&key);
        self.challenge_key = Some(key);
    }

    /// Signs what this attempt needs. The redactor knows the results from then on.
    pub(super) async fn sign(
        &mut self,
        config: &IssuerConfig,
        now: SystemTime,
    ) -> Result<SignedParts, String> {
        let mut client_assertion = match &self.client_jwt {
            Some(template) => Some(Arc::new(template.sign(now).await?)),
            None => None,
        };
        let (mut assertion, mut bearer) = (None, None);
        if let Some((usage, template)) = &self.used_jwt {
            let jwt = Some(Arc::new(template.sign(now).await?));
            *(if *usage == JwtUse::Bearer { &mut bearer } else { &mut assertion }) = jwt;
        }
        for jwt in [&client_assertion, &assertion, &bearer].into_iter().flatten() {
            self.redactor.add(jwt);
        }
        match config.client_auth.proof() {
            Proof::ReadyMade => client_assertion = self.assertion.clone(),
            _ => assertion = assertion.or_else(|| self.assertion.clone()),
        }
        Ok(SignedParts { client_assertion, assertion, bearer, proof: None })
    }
}

/// The secrets of both credentials: a server may echo the other one's from an earlier request.
pub(super) fn known_secrets(config: &IssuerConfig) -> Redactor {
    let mut redactor = Redactor::default();
    for which in [WhichCredential::Current, WhichCredential::Standby] {
        let secret = ClientCredential::of(config, which).and_then(|client| client.secret);
        // Includes a value that is not sent yet because it may be incomplete, and the one that was sent before.
        let known = secret.map(|secret| {
            [secret.read().ok(), secret.to_send().ok().map(|(secret, _)| secret), secret.earlier()]
        });
        known.into_iter().flatten().flatten().for_each(|secret| redactor.add(&secret));
    }
    redactor
}

/// bearerd does not change SAML assertions.
pub(super) fn is_saml(config: &IssuerConfig) -> bool {
    config.assertion_type.ends_with(SAML)
        || config.grant_type.as_deref().is_some_and(|grant| grant.ends_with(SAML))
}

struct Reader<'a> {
    issuer: &'a str,
    redactor: Redactor,
    /// What looks wrong with values that programs printed.
    slips: Vec<String>,
}

impl Reader<'_> {
    /// The server may still speak of the value before this one.
    fn learn_earlier(&mut self, source: &Source) {
        source.earlier().iter().for_each(|value| self.redactor.add_value(value));
    }

    fn examine(&mut self, source: &Source, secret: &Secret) {
        self.slips.extend(slip_in_printed(source, secret).filter(|slip| !self.slips.contains(slip)));
    }

    fn plain(&self, source: &Source) -> Result<Arc<Secret>, ReferenceError> {
        read(self.issuer, source)
    }

    fn members<'p>(
        &mut self,
        params: impl IntoIterator<Item = (&'p String, &'p ParamValue)>,
    ) -> Result<Vec<(String, Value)>, ReferenceError> {
        params.into_iter().map(|(name, value)| Ok((name.clone(), self.value(name, value)?))).collect()
    }

    fn value(&mut self, name: &str, value: &ParamValue) -> Result<Value, ReferenceError> {
        Ok(match value {
            ParamValue::Integer(number) => Value::Bare(number.to_string()),
            ParamValue::Float(text) => Value::Bare(text.clone()),
            ParamValue::Boolean(value) => Value::Bare(value.to_string()),
            ParamValue::Value(source) => {
                let value = self.plain(source)?;
                if may_be_secret(name, source) {
                    self.redactor.add_value(&value);
                    self.learn_earlier(source);
                }
                if names_a_secret(name) {
                    self.examine(source, &value);
                }
                Value::Text(value)
            }
            ParamValue::Array(items) => {
                Value::Array(items.iter().map(|item| self.value(name, item)).collect::<Result<_, _>>()?)
            }
            ParamValue::Table(members) => Value::Table(self.members(members)?),
        })
    }

    fn headers(
        &mut self,
        headers: &[(HeaderName, Source)],
    ) -> Result<Vec<(HeaderName, Arc<Secret>)>, ReferenceError> {
        let mut read = Vec::with_capacity(headers.len());
        for (name, source) in headers {
            let value = self.plain(source)?;
            if may_be_secret(name.as_str(), source) {
                self.redactor.add_value(&value);
                self.learn_earlier(source);
                // Of `Bearer x`, the server may quote only `x`.
                if let Some(last) = value.expose().rsplit(|&byte| byte == b' ').next() {
                    self.redactor.add_value(&Secret::new(last));
                }
            }
            let fits = value.expose().iter().all(|&byte| byte == b'\t' || (byte >= b' ' && byte != 0x7f));
            // A cookie is an assignment.
            if !fits || (names_a_secret(name.as_str()) && name != http::header::COOKIE) {
                self.examine(source, &value);
            }
            // A bare token is no value of this field (RFC 6750 section 2.1).
            let is_token = name == http::header::AUTHORIZATION && source.chained().is_some();
            read.push((name.clone(), if is_token { Arc::new(with_scheme(&value)) } else { value }));
        }
        Ok(read)
    }

    /// The prepared assertion without the white space that tools leave around it.
    fn assertion(&mut self, config: &IssuerConfig) -> Result<Option<Arc<Secret>>, NotReady> {
        let Some(source) = &config.assertion else { return Ok(None) };
        let read = self.plain(source)?;
        let saml = is_saml(config);
        let trimmed = read.expose().trim_ascii();
        if trimmed.is_empty() {
            return Err(NotReady(format!("assertion: {} is empty", source.place())));
        }
        let assertion =
            if saml || trimmed.len() == read.expose().len() { read } else { Arc::new(Secret::new(trimmed)) };
        self.redactor.add(&assertion);
        self.learn_earlier(source);
        if !saml {
            self.examine(source, &assertion);
        }
        Ok(Some(assertion))
    }

    fn words(
        &mut self,
        jwt: &JwtConfig,
        client: &ClientCredential<'_>,
        key: &CredentialKey,
        client_id: Option<&Secret>,
    ) -> Result<ClaimInputs, NotReady> {
        let text = |at: &str, secret: &Secret| {
            let text = secret.expose_str().map(str::to_owned);
            text.ok_or_else(|| NotReady(format!("{at}: is not UTF-8, so it cannot be part of a JWT")))
        };
        let read = |at: &str, source: Option<&Source>| match source {
            None => Ok(None),
            Some(source) => text(at, &*self.plain(source)?).map(Some),
        };
        let subject = match &key.subject {
            Some(subject) => Some(subject.clone()),
            None => read("jwt.subject", jwt.subject.as_ref())?,
        };
        let issuer = read("jwt.issuer", jwt.issuer.as_ref())?;
        let audience = read("jwt.audience", jwt.audience.as_ref())?;
        let key_id = read("jwt.key_id", client.key_id)?;
        let inherited_key_id = read("jwt.key_id", client.inherited_key_id)?;
        let client_id = client_id.map(|id| text("client_id", id)).transpose()?;
        let mut more = Map::new();
        for (name, value) in self.members(&jwt.claims)? {
            let value = value.to_json();
            more.insert(
                name.clone(),
                value.map_err(|_| NotReady(format!("jwt.claims {name}: is not UTF-8")))?,
            );
        }
        let scope = request::joined(key);
        Ok(ClaimInputs { issuer, subject, audience, key_id, inherited_key_id, client_id, scope, more })
    }
}

fn with_scheme(token: &Secret) -> Secret {
    const SCHEME: &[u8] = b"Bearer ";
    // In one allocation, because a vector that grows leaves an unwiped copy behind.
    let mut text = Vec::with_capacity(SCHEME.len() + token.expose().len());
    text.extend_from_slice(SCHEME);
    text.extend_from_slice(token.expose());
    Secret::new(text)
}

fn may_be_secret(name: &str, source: &Source) -> bool {
    let name = name.to_ascii_lowercase();
    let names_one = SECRET_NAMES.iter().any(|part| name.contains(part));
    !source.is_literal() || (names_one && !PLAIN_ENDINGS.iter().any(|end| name.ends_with(end)))
}
