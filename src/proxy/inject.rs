//! The one place that writes the credential.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::config::Inject;
use crate::secret::Secret;
use crate::token::Token;

/// How a route's calls carry their token.
#[derive(Debug)]
pub(super) struct Injection {
    pub(super) header: HeaderName,
    form: Form,
}

#[derive(Debug)]
enum Form {
    /// `Bearer {token}`: the token has it ready.
    Bearer,
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
    pub(super) fn new(inject: &Inject) -> Self {
        let Inject::Header { name, before, after, .. } = inject else {
            return Self { header: header::AUTHORIZATION, form: Form::Bearer };
        };
        let form = if before == "Bearer " && after.is_empty() {
            Form::Bearer
        } else {
            let (before, after) = (before.clone(), after.clone());
            Form::Own { before, after, ready: ArcSwapOption::empty() }
        };
        Self { header: name.clone(), form }
    }

    /// Sets the credential: once, last, in the place of any other.
    pub(super) fn apply(&self, headers: &mut HeaderMap, token: &Token) {
        headers.insert(self.header.clone(), self.value(token));
    }

    fn value(&self, token: &Token) -> HeaderValue {
        let Form::Own { before, after, ready } = &self.form else { return token.bearer.clone() };
        if let Some(ready) = &*ready.load()
            && ready.generation == token.generation
        {
            return ready.value.clone();
        }
        let value = formatted(before, &token.secret, after);
        ready.store(Some(Arc::new(Ready { generation: token.generation, value: value.clone() })));
        value
    }

    /// Whether the caller's own credential would stand in this header.
    pub(super) fn is_authorization(&self) -> bool {
        self.header == header::AUTHORIZATION
    }
}

/// The text around was checked at load, and a token is 0x21–0x7E, so this is always a header value.
fn formatted(before: &str, token: &Secret, after: &str) -> HeaderValue {
    let mut text = Vec::with_capacity(before.len() + token.expose().len() + after.len());
    text.extend_from_slice(before.as_bytes());
    text.extend_from_slice(token.expose());
    text.extend_from_slice(after.as_bytes());
    let mut value = HeaderValue::from_maybe_shared(Secret::new(text).into_bytes())
        .unwrap_or(HeaderValue::from_static(""));
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
