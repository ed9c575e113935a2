use super::super::model::{BasicEncoding, IssuerConfig};
use super::{Method, Proof, check_secret};

/// `client_secret_post` (RFC 6749 section 2.3.1).
#[derive(Debug)]
pub struct ClientSecretPost;

impl Method for ClientSecretPost {
    fn name(&self) -> &'static str {
        "client_secret_post"
    }

    fn about(&self) -> [&'static str; 2] {
        ["id and secret as parameters", "`client_id`, `client_secret`"]
    }

    fn example(&self) -> &'static str {
        super::A_SECRET
    }

    fn proof(&self) -> Proof {
        Proof::Parameter
    }

    fn needs_client_id(&self, _: bool) -> bool {
        true
    }

    fn sends_client_id(&self, _: &IssuerConfig) -> bool {
        true
    }

    /// A parameter has only one encoding.
    fn encodings(&self) -> &'static [BasicEncoding] {
        &[BasicEncoding::Form]
    }

    fn remedy(&self, issuer: &IssuerConfig) -> String {
        check_secret(issuer, "client_auth = \"client_secret_basic\"")
    }
}
