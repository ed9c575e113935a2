//! One span that has ended.

use std::borrow::Cow;
use std::time::SystemTime;

use super::Context;

/// Whose side of an exchange a span is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanKind {
    Internal,
    Server,
    Client,
}

/// An attribute's value. Nothing that a caller, an upstream or an issuer wrote may be in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attribute {
    Text(Cow<'static, str>),
    Number(i64),
}

impl From<&'static str> for Attribute {
    fn from(text: &'static str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }
}

impl From<String> for Attribute {
    fn from(text: String) -> Self {
        Self::Text(Cow::Owned(text))
    }
}

impl From<u16> for Attribute {
    fn from(number: u16) -> Self {
        Self::Number(number.into())
    }
}

/// What is recorded of something that took its time.
#[derive(Debug, Clone)]
pub struct Span {
    pub context: Context,
    pub parent: Option<[u8; 8]>,
    /// A span of another trace that this one was made for.
    pub link: Option<Context>,
    /// From the config and the request's method alone, so that there are few of them.
    pub name: String,
    pub kind: SpanKind,
    pub started: SystemTime,
    pub ended: SystemTime,
    pub attributes: Vec<(&'static str, Attribute)>,
    /// `error.type`: where it failed.
    pub error: Option<Cow<'static, str>>,
}

impl Span {
    /// A span from `started` to now.
    pub fn new(
        context: Context,
        parent: Option<[u8; 8]>,
        name: String,
        kind: SpanKind,
        started: SystemTime,
    ) -> Self {
        let ended = super::now().max(started);
        Self {
            context,
            parent,
            link: None,
            name,
            kind,
            started,
            ended,
            attributes: Vec::with_capacity(8),
            error: None,
        }
    }

    /// Adds an attribute.
    pub fn set(&mut self, name: &'static str, value: impl Into<Attribute>) {
        self.attributes.push((name, value.into()));
    }
}
