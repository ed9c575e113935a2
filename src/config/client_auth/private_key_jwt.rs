use super::super::model::IssuerConfig;
use super::{Method, Proof};

/// `private_key_jwt` (RFC 7523 section 2.2): [`IssuerConfig::jwt`] and [`IssuerConfig::private_key`] are set.
#[derive(Debug)]
pub struct PrivateKeyJwt;

impl Method for PrivateKeyJwt {
    fn name(&self) -> &'static str {
        "private_key_jwt"
    }

    fn about(&self) -> [&'static str; 2] {
        [
            "a JWT signed with a private key (RFC 7523 section 2.2)",
            "`client_id`, `private_key`; a vendor's key JSON may name the client",
        ]
    }

    fn example(&self) -> &'static str {
        "private_key = { file = \"key.pem\" }             # PKCS#8, PKCS#1, SEC1, JWK or PKCS#12"
    }

    fn proof(&self) -> Proof {
        Proof::SignedByKey
    }

    fn needs_client_id(&self, _: bool) -> bool {
        false
    }

    fn remedy(&self, issuer: &IssuerConfig) -> String {
        format!(
            "check client_id, jwt.key_id, jwt.alg and jwt.audience of [issuer.{}], and whether the key or \
             certificate that belongs to private_key is registered for this client",
            issuer.name
        )
    }
}
