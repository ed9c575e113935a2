//! The one place that writes the credential.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use http::{HeaderMap, HeaderName, HeaderValue, Uri, header};

use super::error::{Code, ProxyError};
use super::field_set::FieldSet;
use super::{dpop, query};
use crate::config::{Credential, Inject, RouteConfig};
use crate::secret::Secret;
use crate::token::Token;
use crate::upstream::Head;

/// Headers of a response in which an upstream writes URLs.
const MADE_OF_URLS: [HeaderName; 4] =
    [header::LOCATION, header::CONTENT_LOCATION, header::LINK, header::REFRESH];

/// How a route's calls carry their token.
#[derive(Debug)]
pub(super) struct Injection {
    place: Place,
    /// Where the issuer binds tokens to a key: the upstream's origin, for proofs.
    origin: Option<String>,
}

#[derive(Debug)]
enum Place {
    Header {
        name: HeaderName,
        form: Form,
    },
    /// A parameter; `name` is as it goes on the wire.
    Query {
        name: String,
    },
}

#[derive(Debug)]
enum Form {
    /// `Bearer {token}`, `DPoP {token}`: the token has it ready.
    ByType,
    /// Another format, made once for each token.
    Own { before: String, after: String, ready: ArcSwapOption<Ready> },
}

struct Ready {
    generation: u64,
    value: HeaderValue,
}

impl std::fmt::Debug for Ready {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "generation {}", self.generation)
    }
}

impl Injection {
    pub(super) fn new(route: &RouteConfig) -> Self {
        let place = match &route.inject {
            Inject::Query { name } => Place::Query { name: query::escaped(name) },
            Inject::Header { name, by_type: true, .. } => {
                Place::Header { name: name.clone(), form: Form::ByType }
            }
            Inject::Header { name, before, after, by_type: false } => {
                let (before, after) = (before.clone(), after.clone());
                let form = Form::Own { before, after, ready: ArcSwapOption::empty() };
                Place::Header { name: name.clone(), form }
            }
        };
        let bound = matches!(&route.credential, Credential::Issuer { issuer, .. } if issuer.dpop.is_some());
        Self { place, origin: bound.then(|| dpop::origin(route)) }
    }

    /// Sets the credential: once, last, in the place of any other.
    ///
    /// # Errors
    /// 400: the target is too long to carry it.
    pub(super) fn apply(&self, head: &mut Head, token: &Token) -> Result<(), ProxyError> {
        match &self.place {
            Place::Header { name, form } => {
                head.headers.insert(name.clone(), form.value(token));
            }
            Place::Query { name } => {
                head.target = query::with_token(&head.target, name, &token.secret).map_err(|_| {
                    ProxyError::new(Code::BadRequest, "the target cannot be written with the token in it")
                })?;
            }
        }
        Ok(())
    }

    /// In words, where the request brings a credential of its own: in `Authorization`, or in the parameter that is ours.
    pub(super) fn callers_own(&self, headers: &HeaderMap, uri: &Uri, seen: FieldSet) -> Option<&'static str> {
        if seen.any(FieldSet::AUTHORIZATION) && headers.contains_key(header::AUTHORIZATION) {
            return Some("Authorization");
        }
        let Place::Query { name } = &self.place else { return None };
        let there = uri.query().is_some_and(|query| query::has(query, name));
        there.then_some("the query parameter that carries the token")
    }

    /// Takes out of the headers, beside `Authorization`, what could be taken for a part of our credential.
    pub(super) fn clear(&self, headers: &mut HeaderMap) {
        if let Some(name) = self.header().filter(|name| *name != header::AUTHORIZATION) {
            headers.remove(name);
        }
        if self.origin.is_some() {
            headers.remove(&dpop::DPOP);
        }
    }

    /// An upstream may make the URLs that it points to from the one that it was called with.
    pub(super) fn scrub(&self, headers: &mut HeaderMap, token: &Token) {
        let Place::Query { name } = &self.place else { return };
        for header in MADE_OF_URLS {
            let header::Entry::Occupied(mut lines) = headers.entry(header) else { continue };
            for line in lines.iter_mut() {
                // Each byte as one character, and back: a value need not be UTF-8.
                let text: String = line.as_bytes().iter().copied().map(char::from).collect();
                if let Some(clean) = query::scrubbed(&text, name, &token.secret) {
                    let byte = |char| u8::try_from(char).expect("each was made of a byte");
                    let bytes: Vec<u8> = clean.chars().map(byte).collect();
                    *line = HeaderValue::from_bytes(&bytes).expect("parts of a field's value");
                }
            }
        }
    }

    /// The header that carries the token, where one does.
    pub(super) fn header(&self) -> Option<&HeaderName> {
        match &self.place {
            Place::Header { name, .. } => Some(name),
            Place::Query { .. } => None,
        }
    }

    /// Headers that only this proxy may set.
    pub(super) fn headers(&self) -> impl Iterator<Item = &HeaderName> {
        self.header().into_iter().chain(self.origin.as_ref().map(|_| &dpop::DPOP))
    }

    /// See the field.
    pub(super) fn origin(&self) -> Option<&str> {
        self.origin.as_deref()
    }
}

impl Form {
    fn value(&self, token: &Token) -> HeaderValue {
        let Self::Own { before, after, ready } = self else { return token.authorization.clone() };
        if let Some(ready) = &*ready.load()
            && ready.generation == token.generation
        {
            return ready.value.clone();
        }
        let value = formatted(before, &token.secret, after);
        ready.store(Some(Arc::new(Ready { generation: token.generation, value: value.clone() })));
        value
    }
}

fn formatted(before: &str, token: &Secret, after: &str) -> HeaderValue {
    let mut text = Vec::with_capacity(before.len() + token.expose().len() + after.len());
    text.extend_from_slice(before.as_bytes());
    text.extend_from_slice(token.expose());
    text.extend_from_slice(after.as_bytes());
    let mut value = HeaderValue::from_maybe_shared(Secret::new(text).into_bytes())
        .expect("the text around was checked at load, and a token is 0x21-0x7E");
    value.set_sensitive(true);
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_formats_are_sensitive_and_exact() {
        let value = formatted("Token token=\"", &Secret::from("abc"), "\"");
        assert_eq!(value.as_bytes(), b"Token token=\"abc\"");
        assert!(value.is_sensitive());
    }
}
