use super::super::model::IssuerConfig;
use super::{Method, Proof};

/// `client_secret_jwt` (RFC 7523 section 2.2): [`IssuerConfig::jwt`] is set.
#[derive(Debug)]
pub struct ClientSecretJwt;

impl Method for ClientSecretJwt {
    fn name(&self) -> &'static str {
        "client_secret_jwt"
    }

    fn about(&self) -> [&'static str; 2] {
        ["a JWT signed with the secret (RFC 7523 section 2.2)", "`client_id`, `client_secret`"]
    }

    fn example(&self) -> &'static str {
        super::A_SECRET
    }

    fn proof(&self) -> Proof {
        Proof::SignedBySecret
    }

    fn needs_client_id(&self, jwt_issuer: bool) -> bool {
        !jwt_issuer
    }

    fn remedy(&self, issuer: &IssuerConfig) -> String {
        format!(
            "check client_id, client_secret, jwt.alg and jwt.audience of [issuer.{}], and whether the \
             client is registered for client_secret_jwt",
            issuer.name
        )
    }
}
