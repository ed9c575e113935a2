//! A config for an issuer without a preset: with the methods that its discovery document lists, or with every method.

use std::fmt::Write;
use std::sync::Arc;

use super::super::{Exit, Failure};
use super::text::{self, comment, quoted};
use crate::clock::SystemClock;
use crate::config::client_auth::{METHODS, Method, Proof};
use crate::config::{self, IssuerConfig};
use crate::issuer::{Issuer, Metadata};

/// The issuer's name in the config.
const NAME: &str = "corp";
/// The largest number of scopes that the config lists.
const SCOPES: usize = 20;

/// A config for any issuer, with what to ask the people who run it.
pub(super) fn template() -> String {
    let mut text = String::new();
    comment(
        &mut text,
        "Any issuer of OAuth 2.0 tokens. Ask the people who run it for four things: its address, how clients \
         authenticate, your client id with its secret or key, and the scopes or audience of the API.",
    );
    text::how_to_go_on(&mut text);
    text::listener(&mut text);
    let _ = write!(text, "\n[issuer.{NAME}]\n");
    comment(
        &mut text,
        "The issuer's identifier, whose discovery document names the token endpoint. `bearerd init --issuer-url URL` \
         reads that document and writes a config that fits. Where the issuer has none: token_url = \"https://…/token\"",
    );
    text.push_str("issuer_url = \"https://idp.example.com\"\n");
    methods(&mut text, offered(), None);
    scopes(&mut text, None);
    text::route(&mut text, NAME);
    text
}

/// A config made from the issuer's discovery document.
pub(super) fn discovered(url: &str) -> Result<String, Failure> {
    let metadata = ask(probe(url)?)?;
    Ok(config(url, &metadata))
}

/// A client that only reads this issuer's document.
fn probe(url: &str) -> Result<Arc<IssuerConfig>, Failure> {
    let text = format!(
        "[issuer.{NAME}]\nissuer_url = {}\nclient_id = \"bearerd\"\nclient_auth = \"none\"\nproxy = \"env\"\n\
         [[route]]\nname = \"api\"\nupstream = \"https://api.example.com\"\nissuer = \"{NAME}\"\n",
        quoted(url)
    );
    let config = config::load_text(&text).map_err(|problems| {
        let mut errors = problems.errors().filter(|problem| problem.key.ends_with("issuer_url"));
        let why = errors.next().map_or_else(
            || "it is not a URL".to_owned(),
            |problem| match &problem.hint {
                Some(hint) => format!("{}: {hint}", problem.message),
                None => problem.message.clone(),
            },
        );
        Failure::new(Exit::Usage, format!("--issuer-url: {why}"))
    })?;
    config
        .issuers
        .get(NAME)
        .cloned()
        .ok_or_else(|| Failure::new(Exit::Usage, "--issuer-url: this URL makes no issuer"))
}

fn ask(config: Arc<IssuerConfig>) -> Result<Metadata, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(|error| Failure::new(Exit::No, format!("cannot start a runtime: {error}")))?;
    let issuer = Issuer::new(config, Arc::new(SystemClock));
    let asked = runtime.block_on(issuer.metadata());
    // A pending name look-up must not delay the exit.
    runtime.shutdown_background();
    let metadata = asked.map_err(|error| {
        let what = error.detail.replacen(&format!("issuer {NAME}: "), "", 1);
        let no_document = "where this issuer has no discovery document, start with `bearerd init generic`";
        Failure::new(Exit::No, format!("{what}; {no_document}"))
    })?;
    Ok(metadata.expect("an issuer of an issuer_url has a document or an error"))
}

fn config(url: &str, metadata: &Metadata) -> String {
    let mut text = String::new();
    comment(&mut text, &format!("Made from the discovery document of {url}."));
    text::how_to_go_on(&mut text);
    text::listener(&mut text);
    let _ = write!(text, "\n[issuer.{NAME}]\nissuer_url = {}\n", quoted(url));
    comment(&mut text, &format!("Its token endpoint is {}", metadata.token_endpoint.text));
    if metadata.grant_types_supported.as_ref().is_some_and(|grants| !has(grants, "client_credentials")) {
        text.push('\n');
        comment(
            &mut text,
            "The document does not list the grant `client_credentials`, which bearerd uses: ask whether it is open to \
             your client.",
        );
    }
    // RFC 8414 section 2: without a list it is client_secret_basic.
    let basic = ["client_secret_basic".to_owned()];
    let listed = metadata.token_endpoint_auth_methods_supported.as_deref().unwrap_or(&basic);
    let is_taken = |method: &&dyn Method| listed.iter().any(|name| method.is_advertised_as(name));
    let mut taken: Vec<&dyn Method> = offered().filter(is_taken).collect();
    if taken.is_empty() {
        text.push('\n');
        comment(
            &mut text,
            &format!(
                "The document lists only methods of client authentication that are not offered here: {}.",
                listed.join(", ")
            ),
        );
        taken.extend(offered());
    }
    let algs = metadata.token_endpoint_auth_signing_alg_values_supported.as_deref();
    methods(&mut text, taken, algs);
    if let Some(algs) = &metadata.dpop_signing_alg_values_supported {
        text.push('\n');
        comment(
            &mut text,
            &format!("Optional. The issuer can bind tokens to a key (DPoP, with {}).", algs.join(", ")),
        );
        text.push_str("# dpop = { private_key = { file = \"dpop.pem\" } }\n");
    }
    scopes(&mut text, metadata.scopes_supported.as_deref());
    text::route(&mut text, NAME);
    text
}

fn has(list: &[String], name: &str) -> bool {
    list.iter().any(|listed| listed == name)
}

/// The methods that suit any issuer, in the order in which they are preferred: first what every issuer has.
fn offered() -> impl Iterator<Item = &'static dyn Method> {
    METHODS.into_iter().filter(|method| !method.example().is_empty())
}

/// The first method, and the others commented out.
fn methods(
    text: &mut String,
    methods: impl IntoIterator<Item = &'static dyn Method>,
    algs: Option<&[String]>,
) {
    text.push_str("\nclient_id = \"legacy-billing\"\n");
    for (index, method) in methods.into_iter().enumerate() {
        let off = if index == 0 { "" } else { "# " };
        if index == 1 {
            comment(text, "Or, in the place of these lines, one of:");
        }
        let _ = writeln!(text, "{off}client_auth = \"{}\"\n{off}{}", method.name(), method.example());
        if let (Proof::SignedByKey, Some(algs)) = (method.proof(), algs) {
            comment(
                text,
                &format!("The issuer takes signatures by {}: jwt = {{ alg = \"…\" }}", algs.join(", ")),
            );
        }
    }
}

fn scopes(text: &mut String, listed: Option<&[String]>) {
    text.push('\n');
    match listed {
        Some(scopes) if !scopes.is_empty() => {
            let shown: Vec<&str> = scopes.iter().take(SCOPES).map(String::as_str).collect();
            let more = if scopes.len() > SCOPES { ", …" } else { "" };
            comment(text, &format!("The issuer lists these scopes: {}{more}.", shown.join(", ")));
        }
        _ => comment(
            text,
            "What the API wants; some issuers want an audience or a resource instead of scopes.",
        ),
    }
    text.push_str("# scopes = [\"billing.read\"]\n# params = { audience = \"https://api.example.com\" }\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_is_a_config() {
        config::load_text(&template()).unwrap();
    }

    #[test]
    fn each_method_with_its_keys_is_a_config() {
        for one in offered() {
            let mut text = format!("[issuer.{NAME}]\nissuer_url = \"https://idp.example.com\"\n");
            methods(&mut text, [one], None);
            text::route(&mut text, NAME);
            config::load_text(&text).unwrap_or_else(|problems| panic!("{problems}\n{text}"));
        }
    }

    #[test]
    fn a_url_that_is_none_is_told_with_its_reason() {
        for (url, why) in [("idp", "URL"), ("http://idp.example", "http://"), ("https://a/?q", "query")] {
            let failure = probe(url).unwrap_err();
            assert!(
                failure.message.starts_with("--issuer-url: ") && failure.message.contains(why),
                "{}",
                failure.message
            );
            assert_eq!(failure.exit, Exit::Usage);
        }
    }
}
