//! `[issuer.NAME]` as it is written.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::values::{DurationText, RawEgress, RawParams, RawReference};

/// An authorization server that tokens are asked of.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, rename = "Issuer")]
pub(crate) struct RawIssuer {
    /// Where discovery starts: OpenID's path, then RFC 8414's; the document's `issuer` must equal it.
    pub issuer_url: Option<String>,
    /// The token endpoint, byte for byte. One of `issuer_url` and `token_url` must be given.
    pub token_url: Option<String>,
    /// false: /readyz does not wait for this issuer.
    #[schemars(extend("default" = true))]
    pub required: Option<bool>,
    /// The grant that is asked for.
    #[schemars(extend("default" = "client_credentials", "enum" = ["client_credentials"]))]
    pub grant_type: Option<String>,
    /// The method of a token request.
    #[schemars(extend("default" = "POST", "enum" = ["POST"]))]
    pub method: Option<String>,
    /// How the parameters of a token request are written.
    #[schemars(extend("default" = "form", "enum" = ["form"]))]
    pub body: Option<String>,
    /// The client's name at the issuer.
    pub client_id: Option<RawReference>,
    /// Send `client_id` as a parameter, beside what `client_auth` sends.
    #[schemars(extend("default" = false))]
    pub send_client_id: Option<bool>,
    /// How the client proves who it is.
    #[schemars(extend(
        "default" = "client_secret_basic",
        "enum" = ["client_secret_basic", "client_secret_post", "none"]
    ))]
    pub client_auth: Option<String>,
    /// The client's secret.
    pub client_secret: Option<RawReference>,
    /// "form": id and secret are form-encoded before base64 (RFC 6749 section 2.3.1); "raw" for servers that do not
    /// decode.
    #[schemars(extend("default" = "form", "enum" = ["form", "raw"]))]
    pub basic_encoding: Option<String>,
    /// Scopes to ask for; joined by a space, left out when empty.
    #[schemars(extend("default" = []))]
    pub scopes: Option<Vec<String>>,
    /// More parameters of a token request.
    pub params: Option<RawParams>,
    /// More headers of a token request.
    pub headers: Option<BTreeMap<String, RawReference>>,
    /// Where things stand in the issuer's answer.
    pub response: Option<RawResponse>,
    /// Share of a token's lifetime after which it is renewed.
    #[schemars(extend("default" = 0.8, "exclusiveMinimum" = 0, "maximum" = 1))]
    pub refresh_at: Option<f64>,
    /// A token's lifetime where the issuer does not say.
    #[schemars(extend("default" = "5m"))]
    pub default_lifetime: Option<DurationText>,
    /// For a whole token request, and the longest a call waits for a token.
    #[schemars(extend("default" = "10s"))]
    pub timeout: Option<DurationText>,
    /// TLS toward the issuer.
    pub tls: Option<RawTls>,
    /// Proxy for token requests alone.
    pub proxy: Option<RawEgress>,
}

/// Where things stand in the issuer's answer, as JSON pointers (RFC 6901).
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, rename = "Response")]
pub(crate) struct RawResponse {
    /// The token.
    #[schemars(extend("default" = "/access_token"))]
    pub token: Option<String>,
    /// The token's type.
    #[serde(rename = "type")]
    #[schemars(extend("default" = "/token_type"))]
    pub token_type: Option<String>,
    /// Its lifetime in seconds.
    #[schemars(extend("default" = "/expires_in"))]
    pub expires_in: Option<String>,
    /// When it ends.
    #[schemars(extend("default" = "/expires_on"))]
    pub expires_at: Option<String>,
    /// The error code of a refusal.
    #[schemars(extend("default" = "/error"))]
    pub error: Option<String>,
    /// How the answer is written.
    #[schemars(extend("default" = "json", "enum" = ["json", "form"]))]
    pub format: Option<String>,
    /// Token types that are accepted, in any case.
    #[schemars(extend("default" = ["Bearer"]))]
    pub token_types: Option<Vec<String>>,
    /// Statuses of an answer with a token.
    #[schemars(extend("default" = [200]))]
    pub statuses: Option<Vec<u16>>,
}

/// TLS toward an issuer or an upstream.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, rename = "Tls")]
pub(crate) struct RawTls {
    /// Certificate authorities, PEM; they stand instead of the system's.
    pub ca: Option<RawReference>,
    /// Which roots count: "ca" (the default with `ca`), "system" (the default without), "both", or "bundled".
    #[schemars(extend("enum" = ["ca", "system", "both", "bundled"]))]
    pub roots: Option<String>,
    /// Our certificate chain, PEM, for servers that ask for one.
    pub certificate: Option<RawReference>,
    /// Its private key, PEM.
    pub private_key: Option<RawReference>,
    /// The name to ask for and to check, where it is not the URL's host.
    pub server_name: Option<String>,
}
