use super::super::model::IssuerConfig;
use super::{Method, Proof, check_assertion};

/// `assertion_file` (RFC 7521 section 4.2): [`IssuerConfig::assertion`] is set.
#[derive(Debug)]
pub struct AssertionFile;

impl Method for AssertionFile {
    fn name(&self) -> &'static str {
        "assertion_file"
    }

    fn about(&self) -> [&'static str; 2] {
        ["the content of a file, as the client's assertion", "`assertion`"]
    }

    fn proof(&self) -> Proof {
        Proof::ReadyMade
    }

    fn needs_client_id(&self, _: bool) -> bool {
        false
    }

    fn remedy(&self, issuer: &IssuerConfig) -> String {
        check_assertion(issuer)
    }

    /// Whoever made the assertion signed it.
    fn is_advertised_as(&self, name: &str) -> bool {
        name == "private_key_jwt"
    }
}
