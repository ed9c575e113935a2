use super::super::model::IssuerConfig;
use super::{Method, Proof};

/// `tls_client_auth` and `self_signed_tls_client_auth` (RFC 8705 section 2).
#[derive(Debug)]
pub struct TlsClientAuth;

impl Method for TlsClientAuth {
    fn name(&self) -> &'static str {
        "tls_client_auth"
    }

    fn about(&self) -> [&'static str; 2] {
        [
            "a client certificate, issued by an authority or self-signed (RFC 8705), and the id as a parameter",
            "`client_id`, `certificate`, `private_key`",
        ]
    }

    fn example(&self) -> &'static str {
        "tls = { certificate = { file = \"cert.pem\" }, private_key = { file = \"key.pem\" } }"
    }

    fn proof(&self) -> Proof {
        Proof::Certificate
    }

    fn needs_client_id(&self, _: bool) -> bool {
        true
    }

    /// RFC 8705 section 2.
    fn sends_client_id(&self, _: &IssuerConfig) -> bool {
        true
    }

    fn remedy(&self, issuer: &IssuerConfig) -> String {
        format!(
            "check client_id of [issuer.{}], whether its certificate is the one registered for this client \
             and still valid, and whether {} is the address that asks for certificates",
            issuer.name,
            issuer.endpoint_key()
        )
    }

    fn is_advertised_as(&self, name: &str) -> bool {
        matches!(name, "tls_client_auth" | "self_signed_tls_client_auth")
    }
}
