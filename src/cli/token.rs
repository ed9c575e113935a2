//! `bearerd token`: one token, fetched as the proxy would, printed as it is, decoded, or as a SASL XOAUTH2 string.

use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::cli::args::{Common, Output};
use crate::cli::{Exit, Failure, load, output, show_programs};
use crate::clock::{SystemClock, rfc3339};
use crate::config::{Config, Credential, CredentialKey, IssuerConfig};
use crate::issuer::{Grant, Issuer, parse_json};
use crate::secret::Secret;

/// The options of the command line.
pub(super) struct TokenOptions {
    pub(super) issuer: String,
    pub(super) route: Option<String>,
    pub(super) decode: bool,
    /// The user of a SASL XOAUTH2 string.
    pub(super) xoauth2: Option<String>,
    pub(super) output: Output,
}

pub(super) fn token(common: &Common, asked: &TokenOptions) -> Result<Exit, Failure> {
    let config = load(common)?;
    let (issuer, key) = credential(&config, asked)?;
    let _shown_until_the_end = show_programs(&config);
    let default_lifetime = issuer.default_lifetime;
    let grant = fetch(Arc::clone(&issuer), &key)?;
    if let Some(user) = &asked.xoauth2 {
        return print_xoauth2(user, &issuer, &grant, asked.output);
    }
    if is_bound(&grant) {
        output::tell(&format!(
            "bearerd: warning: this token is bound to the DPoP key of [issuer.{}]: it is of no use without a proof \
             of that key, which the proxy makes for each request",
            issuer.name
        ));
    }
    let shown = Shown::new(&asked.issuer, &grant, default_lifetime);
    match (asked.output, asked.decode) {
        (Output::Text, false) => output::answer_bytes(grant.token.expose()),
        (Output::Text, true) => output::answer_people(&output::harmless(&shown.text(grant.asked.wall))),
        (Output::Json, decode) => {
            let mut answer = shown.json();
            if !decode && let Some(object) = answer.as_object_mut() {
                // Only here and in the text output above is a token shown.
                object.insert("token".to_owned(), json!(grant.token.expose_str()));
            }
            output::answer_json(&answer);
        }
    }
    Ok(Exit::Fine)
}

fn print_xoauth2(user: &str, issuer: &IssuerConfig, grant: &Grant, format: Output) -> Result<Exit, Failure> {
    if is_bound(grant) {
        return Err(Failure::new(
            Exit::No,
            format!(
                "issuer {}: the token is bound to a DPoP key, and XOAUTH2 carries no proof of that key: use an issuer \
                 without `dpop`",
                issuer.name
            ),
        ));
    }
    let response = xoauth2_response(user, &grant.token)
        .ok_or_else(|| Failure::new(Exit::No, "the XOAUTH2 string would be too long"))?;
    match format {
        Output::Text => output::answer_bytes(response.expose()),
        // Written by hand, so that no copy is made. base64 needs no escapes.
        Output::Json => output::answer_parts(&[b"{\n  \"xoauth2\": \"", response.expose(), b"\"\n}"]),
    }
    Ok(Exit::Fine)
}

/// Whether the token is sender-constrained (RFC 9449), and so useless without its key.
fn is_bound(grant: &Grant) -> bool {
    grant.prover.is_some()
}

/// The credential of a route, or the issuer's own.
fn credential(config: &Config, asked: &TokenOptions) -> Result<(Arc<IssuerConfig>, CredentialKey), Failure> {
    let issuer = super::issuer(config, &asked.issuer)?;
    let Some(name) = &asked.route else {
        return Ok((Arc::clone(issuer), issuer.own_credential()));
    };
    let route = config.routes.iter().find(|route| *route.name == **name).ok_or_else(|| {
        let hint = output::suggestion(name, config.routes.iter().map(|route| &*route.name));
        Failure::new(Exit::Usage, format!("no route `{name}` in the config; {hint}"))
    })?;
    match &route.credential {
        Credential::Issuer { key, .. } if *key.issuer == *asked.issuer => {
            Ok((Arc::clone(issuer), key.clone()))
        }
        Credential::Issuer { key, .. } => Err(Failure::new(
            Exit::Usage,
            format!("route `{name}` takes its tokens from issuer `{}`", key.issuer),
        )),
        Credential::Anonymous => {
            Err(Failure::new(Exit::Usage, format!("route `{name}` is anonymous: it sends no token")))
        }
    }
}

fn fetch(issuer: Arc<IssuerConfig>, key: &CredentialKey) -> Result<Grant, Failure> {
    let runtime = super::runtime()?;
    let issuer = Issuer::new(issuer, Arc::new(SystemClock));
    let grant = runtime.block_on(issuer.fetch(key));
    runtime.shutdown_background();
    grant.map_err(|error| Failure::new(Exit::No, output::harmless(&error.to_string())))
}

/// A grant without its token.
struct Shown<'a> {
    issuer: &'a str,
    scope: Option<&'a str>,
    lifetime: Duration,
    /// The issuer did not say, so it is `default_lifetime`.
    assumed: bool,
    expires_at: SystemTime,
    jwt: Option<Jwt>,
}

impl<'a> Shown<'a> {
    fn new(issuer: &'a str, grant: &'a Grant, default_lifetime: Duration) -> Self {
        let lifetime = grant.lifetime(default_lifetime);
        Self {
            issuer,
            scope: grant.scope.as_deref(),
            lifetime,
            assumed: grant.expires_in.is_none(),
            expires_at: grant.asked.wall_in(lifetime),
            jwt: grant.token.expose_str().and_then(decode_jwt),
        }
    }

    fn json(&self) -> Value {
        json!({
            "issuer": self.issuer,
            "scope": self.scope,
            "expires_in": self.lifetime.as_secs(),
            "expires_in_assumed": self.assumed,
            "expires_at": rfc3339(self.expires_at),
            "jwt": self.jwt.as_ref().map(|jwt| json!({
                "signature_checked": false,
                "header": jwt.header,
                "claims": jwt.claims,
            })),
        })
    }

    fn text(&self, now: SystemTime) -> String {
        let assumed = if self.assumed { " (default_lifetime: the issuer does not say)" } else { "" };
        let mut text = format!(
            "issuer      {}\nscope       {}\nexpires in  {}{assumed}\nexpires at  {}\n",
            self.issuer,
            self.scope.unwrap_or("(not named, so as requested)"),
            humantime::format_duration(Duration::from_secs(self.lifetime.as_secs())),
            rfc3339(self.expires_at),
        );
        let Some(Jwt { header, claims }) = &self.jwt else {
            text.push_str("\nThe token is opaque: only its issuer can say what it holds.\n");
            return text;
        };
        text.push_str("\nThe token is a JWT; its signature was not checked.\n");
        // Writing to a String cannot fail.
        let _ = write!(text, "\nheader {header:#}\n\nclaims {claims:#}\n");
        for (claim, meaning) in [("iat", "issued at"), ("nbf", "not before"), ("exp", "expires at")] {
            if let Some(at) = claims.get(claim).and_then(time) {
                let _ = write!(text, "\n{claim}  {meaning} {}{}", rfc3339(at), distance(at, now));
            }
        }
        text
    }
}

/// A NumericDate (RFC 7519 section 2), if it is a date up to the year 9999.
pub(super) fn time(value: &Value) -> Option<SystemTime> {
    let seconds = value.as_f64().filter(|seconds| (0.0..253_402_300_799.0).contains(seconds))?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs_f64(seconds))
}

fn distance(at: SystemTime, now: SystemTime) -> String {
    let whole = |span: Duration| humantime::format_duration(Duration::from_secs(span.as_secs()));
    match at.duration_since(now) {
        Ok(ahead) => format!(" (in {})", whole(ahead)),
        Err(behind) => format!(" ({} ago)", whole(behind.duration())),
    }
}

/// The content of a JWT. Its signature was not verified.
#[derive(Debug, PartialEq)]
pub(super) struct Jwt {
    header: Value,
    pub(super) claims: Value,
}

/// `None`: the token is not a JWT in compact form (RFC 7515), so it is opaque.
pub(super) fn decode_jwt(token: &str) -> Option<Jwt> {
    let mut parts = token.split('.');
    let (header, claims, _signature) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    Some(Jwt { header: json_object(header)?, claims: json_object(claims)? })
}

fn json_object(part: &str) -> Option<Value> {
    let bytes = URL_SAFE_NO_PAD.decode(part).ok()?;
    parse_json(&bytes).filter(Value::is_object)
}

/// `base64("user=" USER ^A "auth=Bearer " TOKEN ^A ^A)`, without line breaks. `None`: it would be too long for memory.
fn xoauth2_response(user: &str, token: &Secret) -> Option<Secret> {
    let parts: [&[u8]; 5] = [b"user=", user.as_bytes(), b"\x01auth=Bearer ", token.expose(), b"\x01\x01"];
    // Large enough from the start, because a buffer that grows leaves an unwiped copy.
    let mut plain = Zeroizing::new(Vec::with_capacity(parts.iter().map(|part| part.len()).sum()));
    for part in parts {
        plain.extend_from_slice(part);
    }
    let length = base64::encoded_len(plain.len(), true)?;
    let mut encoded = String::with_capacity(length);
    STANDARD.encode_string(plain.as_slice(), &mut encoded);
    Some(Secret::from(encoded))
}

/// Checks a user name for the response. `^A` would end it early.
pub(super) fn xoauth2_user(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("name the mailbox, as in user@example.com".to_owned());
    }
    if text.chars().any(char::is_control) {
        return Err("a user name holds no control characters".to_owned());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Moment;

    fn grant(token: &str, expires_in: Option<u64>) -> Grant {
        Grant {
            token: Secret::from(token),
            token_type: "bearer".to_owned(),
            prover: None,
            expires_in: expires_in.map(Duration::from_secs),
            asked: Moment { boot: Duration::ZERO, wall: NOW },
            took: Duration::ZERO,
            scope: Some("billing.read".to_owned()),
            audience: crate::issuer::Audience::Unknown,
        }
    }

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    #[test]
    fn an_opaque_token_is_said_to_be_opaque_and_not_shown() {
        let grant = grant("s3cr3t-token", Some(3600));
        let shown = Shown::new("corp", &grant, Duration::from_secs(300));
        let text = shown.text(NOW);
        assert!(text.contains("opaque") && text.contains("expires in  1h\n"), "{text}");
        assert!(!text.contains("s3cr3t") && !shown.json().to_string().contains("s3cr3t"));
    }

    #[test]
    fn a_lifetime_that_was_not_reported_is_said_to_be_assumed() {
        let grant = grant("t", None);
        let shown = Shown::new("corp", &grant, Duration::from_secs(300));
        assert!(shown.text(NOW).contains("default_lifetime"));
        assert_eq!(shown.json().get("expires_in"), Some(&json!(300)));
    }

    #[test]
    fn a_default_of_more_than_a_day_is_a_day_as_for_the_proxy() {
        let grant = grant("t", None);
        let shown = Shown::new("corp", &grant, Duration::from_secs(30 * 24 * 3600));
        assert_eq!(shown.json().get("expires_in"), Some(&json!(86_400)));
    }

    #[test]
    fn a_jwt_is_shown_with_its_times_and_without_its_signature() {
        // {"alg":"none"} . {"exp":60,"sub":"a"} . "sig"
        let grant = grant("eyJhbGciOiJub25lIn0.eyJleHAiOjYwLCJzdWIiOiJhIn0.c2ln", Some(60));
        let text = Shown::new("corp", &grant, Duration::ZERO).text(NOW);
        assert!(text.contains("signature was not checked"), "{text}");
        assert!(text.contains("exp  expires at 1970-01-01T00:01:00Z (in 1m)"), "{text}");
        assert!(!text.contains("c2ln"), "{text}");
    }

    #[test]
    fn a_time_no_calendar_has_is_left_alone() {
        assert_eq!(time(&json!(1e300)), None);
        assert_eq!(time(&json!(-1)), None);
        assert_eq!(time(&json!("60")), None);
    }

    #[test]
    fn shows_header_and_claims() {
        // RFC 7519 section 3.1.
        let token = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.\
                     eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.\
                     dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
        let jwt = decode_jwt(token).unwrap();
        assert_eq!(jwt.header, json!({"typ": "JWT", "alg": "HS256"}));
        assert_eq!(jwt.claims.get("exp"), Some(&json!(1_300_819_380)));
    }

    #[test]
    fn everything_else_is_opaque() {
        for token in ["", "abc", "a.b.c", "e30.e30", "e30.e30.x.y", "W10.e30.x", "e30.e30.x.y.z"] {
            assert_eq!(decode_jwt(token), None, "{token}");
        }
        assert!(decode_jwt("e30.e30.").is_some(), "an unsigned one is a JWT too");
    }

    #[test]
    fn the_vendors_example_comes_out() {
        let token = Secret::from("EwBAAl3BAAUFFpUAo7J3Ve0bjLBWZWCclRC3EoAA");
        let response = xoauth2_response("test@contoso.onmicrosoft.com", &token).unwrap();
        assert_eq!(
            response.expose_str(),
            Some(
                "dXNlcj10ZXN0QGNvbnRvc28ub25taWNyb3NvZnQuY29tAWF1dGg9QmVhcmVyIEV3QkFBbDNCQUFVRkZwVUFvN0ozVmUwYmpMQldaV0NjbFJDM0VvQUEBAQ=="
            )
        );
    }

    #[test]
    fn a_user_may_not_end_the_field() {
        assert!(
            xoauth2_user("a\u{1}auth=Bearer x").is_err()
                && xoauth2_user("").is_err()
                && xoauth2_user("a\n").is_err()
        );
        assert_eq!(xoauth2_user("user@example.com").as_deref(), Ok("user@example.com"));
    }
}
