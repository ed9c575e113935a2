//! What one token request says, read from its sources now.

use std::sync::Arc;
use std::time::SystemTime;

use http::HeaderName;
use serde_json::Map;

use super::assertion::{self, SigningKey, Template, Words};
use super::credential::{Client, Which};
use super::keys::{self, Keys, read};
use super::redact::Redactor;
use super::request::{self, Fresh, Value};
use crate::config::client_auth::Proof;
use crate::config::{CredentialKey, IssuerConfig, JwtConfig, JwtUse, ParamValue, ReferenceError, Source};
use crate::secret::Secret;

/// Parts of names whose literal values are masked too, as references are.
const SECRET_NAMES: [&str; 9] =
    ["secret", "pass", "pwd", "token", "key", "auth", "assertion", "credential", "cookie"];

/// … unless the name ends so, as `subject_token_type` does.
const PLAIN_ENDINGS: [&str; 5] = ["type", "use", "url", "uri", "method"];

/// The grant and assertion types of SAML (RFC 7522), whose text is not ours to change.
const SAML: &str = "saml2-bearer";

/// The values of one request by one credential.
pub(super) struct Inputs {
    pub(super) client_id: Option<Arc<Secret>>,
    pub(super) client_secret: Option<Arc<Secret>>,
    pub(super) basic: Option<(Arc<Secret>, Arc<Secret>)>,
    /// Sorted by name.
    pub(super) params: Vec<(String, Value)>,
    pub(super) headers: Vec<(HeaderName, Arc<Secret>)>,
    /// Ready-made.
    assertion: Option<Arc<Secret>>,
    client_jwt: Option<Template>,
    used_jwt: Option<(JwtUse, Template)>,
    /// What an operator should know where the issuer refuses: an end that has passed.
    pub(super) remarks: Vec<String>,
    /// Knows every secret among them.
    pub(super) redactor: Redactor,
}

/// Why there is nothing to send: names the key of the config or the place, and never a value.
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
    /// Reads every source. One that cannot be read gives its last good value, with a warning; one that never
    /// could is the error.
    pub(super) fn read(
        config: &IssuerConfig,
        client: &Client<'_>,
        key: &CredentialKey,
        keys: &Keys,
        now: SystemTime,
    ) -> Result<Self, NotReady> {
        let mut reader = Reader { issuer: &config.name, redactor: known_secrets(config) };
        let named = |key, source: Option<&Source>| {
            let read = source.map(|source| reader.plain(source)).transpose();
            read.map_err(|error| NotReady(format!("{} cannot be read: {error}", client.key(key))))
        };
        let client_id = named("client_id", client.id)?;
        let client_secret = named("client_secret", client.secret)?;
        if let Some(secret) = &client_secret {
            reader.redactor.add(secret);
        }
        let basic = match &config.basic {
            None => None,
            Some(basic) => {
                let (user, password) = (reader.plain(&basic.user)?, reader.plain(&basic.password)?);
                reader.redactor.add(&password);
                Some((user, password))
            }
        };
        let mut inputs = Self {
            params: reader.members(&key.params)?,
            headers: reader.headers(&config.headers)?,
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
        inputs.redactor = reader.redactor;
        Ok(inputs)
    }

    fn read_jwts(
        &mut self,
        config: &IssuerConfig,
        client: &Client<'_>,
        key: &CredentialKey,
        keys: &Keys,
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
            Template::new(config, jwt, client, key_pair.ok_or_else(missing)?, words).map_err(NotReady)
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

    fn remark(&mut self, config: &IssuerConfig, keys: &Keys, now: SystemTime) {
        if let Some((chain, place)) = keys.tls_chain(config) {
            let expired = keys::expired(&chain, &place, now);
            // A certificate that stands in the JWT's header too was told of already.
            self.remarks.extend(expired.filter(|_| self.remarks.is_empty()));
        }
        if let (Some(source), Some(assertion)) = (&config.assertion, &self.assertion) {
            self.remarks.extend(assertion::expired(assertion, &source.place(), now));
        }
    }

    /// Signs what this attempt needs. Whatever is made is known to the redactor from then on.
    pub(super) fn sign(&mut self, config: &IssuerConfig, now: SystemTime) -> Result<Fresh, String> {
        let mut make = |template: &Template| {
            let jwt = template.sign(now)?;
            self.redactor.add(&jwt);
            Ok::<_, String>(Arc::new(jwt))
        };
        let mut client_assertion = self.client_jwt.as_ref().map(&mut make).transpose()?;
        let used = self.used_jwt.as_ref().map(|(usage, template)| Ok::<_, String>((*usage, make(template)?)));
        let (mut assertion, bearer) = match used.transpose()? {
            Some((JwtUse::Bearer, jwt)) => (None, Some(jwt)),
            Some((_, jwt)) => (Some(jwt), None),
            None => (None, None),
        };
        match config.client_auth.proof() {
            Proof::ReadyMade => client_assertion = self.assertion.clone(),
            _ => assertion = assertion.or_else(|| self.assertion.clone()),
        }
        Ok(Fresh { client_assertion, assertion, bearer, proof: None })
    }
}

/// Secrets that a server may know of another request: the other credential's.
pub(super) fn known_secrets(config: &IssuerConfig) -> Redactor {
    let mut redactor = Redactor::default();
    for which in [Which::Current, Which::Standby] {
        let secret = Client::of(config, which).and_then(|client| client.secret);
        // Also the one that is not sent yet, because it may be half written.
        let known = secret.map(|secret| [secret.read(), secret.to_send().map(|(secret, _)| secret)]);
        known.into_iter().flatten().flatten().for_each(|secret| redactor.add(&secret));
    }
    redactor
}

struct Reader<'a> {
    issuer: &'a str,
    redactor: Redactor,
}

impl Reader<'_> {
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
                // `Bearer x`: the server may quote `x` alone.
                if let Some(last) = value.expose().rsplit(|&byte| byte == b' ').next() {
                    self.redactor.add_value(&Secret::new(last));
                }
            }
            read.push((name.clone(), value));
        }
        Ok(read)
    }

    /// The ready-made assertion, without the white space that tools leave around it.
    fn assertion(&mut self, config: &IssuerConfig) -> Result<Option<Arc<Secret>>, NotReady> {
        let Some(source) = &config.assertion else { return Ok(None) };
        let read = self.plain(source)?;
        let saml = config.assertion_type.ends_with(SAML)
            || config.grant_type.as_deref().is_some_and(|grant| grant.ends_with(SAML));
        let trimmed = read.expose().trim_ascii();
        if trimmed.is_empty() {
            return Err(NotReady(format!("assertion: {} is empty", source.place())));
        }
        let assertion =
            if saml || trimmed.len() == read.expose().len() { read } else { Arc::new(Secret::new(trimmed)) };
        self.redactor.add(&assertion);
        Ok(Some(assertion))
    }

    fn words(
        &mut self,
        jwt: &JwtConfig,
        client: &Client<'_>,
        key: &CredentialKey,
        client_id: Option<&Secret>,
    ) -> Result<Words, NotReady> {
        let text = |at: &str, secret: &Secret| {
            let text = secret.expose_str().map(str::to_owned);
            text.ok_or_else(|| NotReady(format!("{at}: is not UTF-8, so that no JWT can hold it")))
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
        Ok(Words { issuer, subject, audience, key_id, inherited_key_id, client_id, scope, more })
    }
}

fn may_be_secret(name: &str, source: &Source) -> bool {
    let name = name.to_ascii_lowercase();
    let names_one = SECRET_NAMES.iter().any(|part| name.contains(part));
    !source.is_literal() || (names_one && !PLAIN_ENDINGS.iter().any(|end| name.ends_with(end)))
}
