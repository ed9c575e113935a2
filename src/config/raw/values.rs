//! Values that may be written in more than one form.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};

use crate::secret::Secret;

/// A literal, or a reference to the value.
pub(crate) enum RawReference {
    Literal(Secret),
    Elsewhere(RawElsewhere),
}

/// A value from elsewhere: from a file, from the environment, or learned by a webhook.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, rename = "Elsewhere")]
pub(crate) struct RawElsewhere {
    /// A file with the value. One trailing line end is removed. Relative paths start at the config file's folder.
    #[schemars(extend("x-errors" = "beside `env`"))]
    pub file: Option<String>,
    /// An environment variable with the value.
    #[schemars(extend("x-errors" = "beside `file`"))]
    pub env: Option<String>,
    /// The name of a `[webhook.NAME]` that learns the value.
    #[schemars(extend("x-errors" = "not a webhook; beside `file`, `env`, or `pointer`"))]
    pub webhook: Option<String>,
    /// JSON pointer to the value (RFC 6901), such as "/a/b".
    #[schemars(extend("x-errors" = "not a JSON pointer"))]
    pub pointer: Option<String>,
    /// The password of a PKCS#12 file.
    #[schemars(extend("x-errors" = "beside `webhook`; on a value that is not a key or certificate"))]
    pub password: Option<Box<RawReference>>,
}

impl RawElsewhere {
    /// Its keys.
    pub(crate) const KEYS: [&'static str; 5] = ["file", "env", "webhook", "pointer", "password"];
}

impl<'de> Deserialize<'de> for RawReference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ReferenceVisitor)
    }
}

struct ReferenceVisitor;

impl<'de> Visitor<'de> for ReferenceVisitor {
    type Value = RawReference;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, { file = \"…\" }, { env = \"…\" } or { webhook = \"…\" }")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<RawReference, E> {
        Ok(RawReference::Literal(text.into()))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RawReference, A::Error> {
        RawElsewhere::deserialize(MapAccessDeserializer::new(map)).map(RawReference::Elsewhere)
    }
}

impl JsonSchema for RawReference {
    fn schema_name() -> Cow<'static, str> {
        "Reference".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let elsewhere = generator.subschema_for::<RawElsewhere>();
        json_schema!({
            "description": "A value, or where it stands. A secret as a literal needs a file that its owner alone may read.",
            "anyOf": [{ "type": "string" }, elsewhere]
        })
    }
}

/// A request parameter's value.
pub(crate) enum RawParam {
    Integer(i64),
    /// Its text is taken from the document, as it was written.
    Float(f64),
    Boolean(bool),
    Reference(RawReference),
    Array(Vec<Self>),
    Table(BTreeMap<String, Self>),
}

impl<'de> Deserialize<'de> for RawParam {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ParamVisitor)
    }
}

struct ParamVisitor;

impl<'de> Visitor<'de> for ParamVisitor {
    type Value = RawParam;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "a string, a number that fits 64 bits, a boolean, an array, a table, { file = \"…\" } or { env = \"…\" }",
        )
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<RawParam, E> {
        Ok(RawParam::Integer(value))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<RawParam, E> {
        Ok(RawParam::Float(value))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<RawParam, E> {
        Ok(RawParam::Boolean(value))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<RawParam, E> {
        ReferenceVisitor.visit_str(text).map(RawParam::Reference)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawParam, A::Error> {
        let mut members = BTreeMap::new();
        while let Some(name) = map.next_key::<String>()? {
            let value: RawParam = map.next_value()?;
            members.insert(name, value);
        }
        Ok(reference_in(members))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<RawParam, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(RawParam::Array(items))
    }
}

/// A table that says where a value stands, with no key beside, is a reference; any other is a table of values.
fn reference_in(members: BTreeMap<String, RawParam>) -> RawParam {
    let refers = ["file", "env", "webhook"].iter().any(|key| members.contains_key(*key));
    let is_reference = refers
        && members.iter().all(|(key, value)| match value {
            RawParam::Reference(RawReference::Literal(_)) => RawElsewhere::KEYS.contains(&key.as_str()),
            RawParam::Reference(_) => key == "password",
            _ => false,
        });
    if !is_reference {
        return RawParam::Table(members);
    }
    let mut elsewhere = RawElsewhere::default();
    for (key, value) in members {
        let RawParam::Reference(value) = value else { continue };
        let text = match &value {
            RawReference::Literal(text) => text.expose_str().map(str::to_owned),
            RawReference::Elsewhere(_) => None,
        };
        match key.as_str() {
            "file" => elsewhere.file = text,
            "env" => elsewhere.env = text,
            "webhook" => elsewhere.webhook = text,
            "pointer" => elsewhere.pointer = text,
            _ => elsewhere.password = Some(Box::new(value)),
        }
    }
    RawParam::Reference(RawReference::Elsewhere(elsewhere))
}

impl JsonSchema for RawParam {
    fn schema_name() -> Cow<'static, str> {
        "Parameter".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let reference = generator.subschema_for::<RawReference>();
        json_schema!({
            "description": "A parameter's value; an array is sent as a repeated parameter, or as it is in JSON. A table \
                            that does not say where a value stands is for JSON alone.",
            "anyOf": [
                { "type": ["integer", "number", "boolean"] },
                reference,
                { "type": "array" },
                { "type": "object" }
            ]
        })
    }
}

/// More request parameters by name.
pub(crate) type RawParams = BTreeMap<String, RawParam>;

/// `proxy`: `"env"`, a URL, or a URL with a separate user and password.
pub(crate) enum RawEgress {
    Text(Secret),
    Table(RawProxy),
}

/// A proxy with a separate user and password.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, rename = "Proxy")]
pub(crate) struct RawProxy {
    /// The URL of the proxy, such as "http://egress:3128".
    #[schemars(extend("x-errors" = "missing; https; a path"))]
    pub url: Option<String>,
    /// "user:password" for the proxy.
    #[schemars(extend("x-errors" = "beside a user in `url`; a literal in a file that others may read"))]
    pub userinfo: Option<RawReference>,
}

impl<'de> Deserialize<'de> for RawEgress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Egress;
        impl<'de> Visitor<'de> for Egress {
            type Value = RawEgress;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"env\", a URL such as \"http://egress:3128\", or { url = \"…\", userinfo = … }")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<RawEgress, E> {
                Ok(RawEgress::Text(text.into()))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RawEgress, A::Error> {
                RawProxy::deserialize(MapAccessDeserializer::new(map)).map(RawEgress::Table)
            }
        }
        deserializer.deserialize_any(Egress)
    }
}

impl JsonSchema for RawEgress {
    fn schema_name() -> Cow<'static, str> {
        "Egress".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let table = generator.subschema_for::<RawProxy>();
        json_schema!({
            "description": "\"env\" obeys HTTPS_PROXY and NO_PROXY; else the proxy's URL.",
            "anyOf": [{ "type": "string" }, table]
        })
    }
}
