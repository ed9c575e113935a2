use super::super::model::{BasicEncoding, IssuerConfig};
use super::{Method, Proof, check_secret};

/// `client_secret_basic` (RFC 6749 section 2.3.1).
#[derive(Debug)]
pub struct ClientSecretBasic;

impl Method for ClientSecretBasic {
    fn name(&self) -> &'static str {
        "client_secret_basic"
    }

    fn about(&self) -> [&'static str; 2] {
        ["id and secret in an Authorization header (RFC 6749 section 2.3.1)", "`client_id`, `client_secret`"]
    }

    fn example(&self) -> &'static str {
        super::A_SECRET
    }

    fn proof(&self) -> Proof {
        Proof::Basic
    }

    fn needs_client_id(&self, _: bool) -> bool {
        true
    }

    fn remedy(&self, issuer: &IssuerConfig) -> String {
        let other = match issuer.client_auth.encoding {
            BasicEncoding::Form => "raw",
            BasicEncoding::Raw => "form",
        };
        let alternative = format!("basic_encoding = \"{other}\" or client_auth = \"client_secret_post\"");
        check_secret(issuer, &alternative)
    }

    fn encodings(&self) -> &'static [BasicEncoding] {
        &[BasicEncoding::Form, BasicEncoding::Raw]
    }

    /// A server that reads only the body finds no client at all.
    fn may_be_unseen(&self, code: &str) -> bool {
        code == "invalid_request"
    }
}
