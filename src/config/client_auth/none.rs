use super::super::model::{IssuerConfig, JwtUse};
use super::{Method, Proof, check_assertion, check_jwt};

/// `none`: a public client, or a client that the grant's assertion names.
#[derive(Debug)]
pub struct NoProof;

impl Method for NoProof {
    fn name(&self) -> &'static str {
        "none"
    }

    fn about(&self) -> [&'static str; 2] {
        [
            "no secret; the id as a parameter where there is one, but beside a JWT that is the grant or the Bearer token \
             only with `send_client_id = true`",
            "",
        ]
    }

    fn proof(&self) -> Proof {
        Proof::Nothing
    }

    fn needs_client_id(&self, _: bool) -> bool {
        false
    }

    fn sends_client_id(&self, issuer: &IssuerConfig) -> bool {
        !matches!(issuer.jwt.as_ref().map(|jwt| jwt.usage), Some(JwtUse::Assertion | JwtUse::Bearer))
    }

    fn remedy(&self, issuer: &IssuerConfig) -> String {
        let name = &issuer.name;
        match &issuer.jwt {
            Some(jwt) if jwt.usage != JwtUse::ClientAssertion => check_jwt(issuer),
            _ if issuer.assertion.is_some() => check_assertion(issuer),
            // A metadata service's key, or the token that authenticates the request.
            _ if let Some((header, value)) = issuer.headers.iter().find(|(_, value)| !value.is_literal()) => {
                format!("check headers.{header} of [issuer.{name}] ({})", value.place())
            }
            _ => {
                format!("check client_id of [issuer.{name}], and whether the server requires a client_secret")
            }
        }
    }
}
