//! What to do about a response that says no, with the keys of the config that decide.

use http::StatusCode;

use super::FailureKind;
use super::error::Context;
use super::reported::Reported;
use crate::config::JwtUse;
use crate::config::client_auth::{Proof, check_assertion, check_jwt};
use crate::net::dpop;

/// RFC 8693 section 2.1.
const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";

/// What the operator should do where our own side cannot be read; `what` names the place.
pub(super) fn unreadable(issuer: &str, what: &str) -> String {
    if what.contains("environment variable ") {
        "set it where bearerd is started, and start it again: a process sees its environment as it was at the start"
            .to_owned()
    } else if what.contains("file ") {
        format!(
            "fix the file, which is read again as soon as it changes, or name another in [issuer.{issuer}]"
        )
    } else {
        format!("fix it in [issuer.{issuer}]")
    }
}

impl Context<'_> {
    /// What the operator should do.
    pub(super) fn remedy(&self, status: StatusCode, reported: &Reported) -> String {
        let description = reported.description.as_deref();
        let known = description.and_then(|text| self.known_cause(text));
        let known = known.or_else(|| self.by_words(status, reported.code.as_deref(), description?));
        let known = known.or_else(|| self.plain_http_refused(reported));
        known.or_else(|| self.by_code(status, reported)).unwrap_or_else(|| self.by_status(status, reported))
    }

    /// Servers that expect TLS say so in plain HTTP: Go's, nginx.
    fn plain_http_refused(&self, reported: &Reported) -> Option<String> {
        let said = reported.text.as_ref().or(reported.description.as_ref())?.to_ascii_lowercase();
        let refused = !self.https && said.contains("https") && said.contains("http request");
        refused.then(|| {
            format!("check {} of [issuer.{}]{}", self.endpoint_key(), self.config.name, self.or_https())
        })
    }

    /// What a server means often stands in its sentence alone, under a code that says something else.
    fn by_words(&self, status: StatusCode, code: Option<&str>, description: &str) -> Option<String> {
        let text = description.to_ascii_lowercase();
        let has = |word: &str| text.contains(word);
        let missing = has("missing") || has("required") || has("not provided");
        if self.config.dpop.is_none() && has("dpop") && missing {
            return Some(self.check_dpop());
        }
        if self.config.client_auth.secret().is_some() {
            if has("client_assertion") && missing {
                return Some(format!(
                    "the issuer has this client registered for a signed JWT: set client_auth = \"client_secret_jwt\" or \
                     \"private_key_jwt\" of [issuer.{}], or have it registered for a secret",
                    self.config.name
                ));
            }
            if (has("client_secret") && missing) || has("authenticating client") {
                return Some(self.check_client());
            }
        }
        self.another_audience(&text).or_else(|| self.missing_target(status, code, &text))
    }

    /// The `aud` of what we sign, or of a ready-made assertion: not the API that the token is for.
    fn another_audience(&self, text: &str) -> Option<String> {
        let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
        let of_what_is_signed = has(&["assertion", "token endpoint", "token audience", "jwt"])
            || has(&["must contain", "is not valid", "invalid audience", "'aud'", "aud claim"]);
        if !has(&["audience", "'aud'", "aud claim"]) || !of_what_is_signed || has(&["whitelist", "requested"])
        {
            return None;
        }
        let name = &self.config.name;
        match &self.config.jwt {
            Some(_) => Some(format!(
                "the issuer wants another audience (`aud`) in the JWT: set jwt.audience of [issuer.{name}] to the one that \
                 it names; servers want either the issuer's own URL or its token endpoint"
            )),
            None if self.config.assertion.is_some() => Some(format!(
                "the issuer wants another audience (`aud`) in assertion of [issuer.{name}]: see to whatever writes it"
            )),
            None => None,
        }
    }

    fn by_code(&self, status: StatusCode, reported: &Reported) -> Option<String> {
        let name = &self.config.name;
        let remedy = match reported.code.as_deref()? {
            "invalid_client" | "invalid_client_id" | "invalid_client_credentials" => self.check_client(),
            // Keycloak says so of a wrong secret.
            "unauthorized_client" if status == StatusCode::UNAUTHORIZED => {
                format!("{}, and whether it may use {} there", self.check_client(), self.the_grant())
            }
            "unauthorized_client" => format!(
                "let this client use {} at the issuer, or check client_id of [issuer.{name}]",
                self.the_grant()
            ),
            // Auth0 says so of a wrong secret.
            "access_denied" if status == StatusCode::UNAUTHORIZED => self.check_client(),
            "access_denied" => format!(
                "let this client have such tokens at the issuer, or check client_id of [issuer.{name}]"
            ),
            "invalid_scope" => format!(
                "check scopes of [issuer.{name}] and of the route, and let this client have them at the issuer"
            ),
            "invalid_target" | "invalid_resource" => {
                format!("check params (audience, resource) and scopes of [issuer.{name}] and of the route")
            }
            "invalid_request" if self.may_miss_the_client_id() => format!(
                "set send_client_id = true in [issuer.{name}] (some servers, such as Spring's, want client_id beside an \
                 assertion), or check params, scopes and client_auth of it, and params of the route"
            ),
            // LemonLDAP::NG: nobody is logged in. Its endpoints of OAuth do not say so.
            "9" if status == StatusCode::UNAUTHORIZED => {
                format!("that is no token endpoint (LemonLDAP::NG's portal says so); check {} of [issuer.{name}]", self.endpoint_key())
            }
            "invalid_request" => {
                format!("check params, scopes and client_auth of [issuer.{name}], and params of the route")
            }
            "invalid_grant" => self.check_grant(),
            "unsupported_grant_type" => {
                format!(
                    "{} is not offered there; check grant_type and {} of [issuer.{name}]",
                    self.the_grant(),
                    self.endpoint_key()
                )
            }
            "use_dpop_nonce" if self.config.dpop.is_some() => {
                "it was asked again with the nonce that it gave, and wants yet another; the fault is the issuer's, and \
                 it is asked again"
                    .to_owned()
            }
            "use_dpop_nonce" | "invalid_dpop_proof" => self.check_dpop(),
            "temporarily_unavailable" => "it is asked again".to_owned(),
            _ => return None,
        };
        Some(remedy)
    }

    fn by_status(&self, status: StatusCode, reported: &Reported) -> String {
        let (name, key) = (&self.config.name, self.endpoint_key());
        match status.as_u16() {
            401 => self.check_client(),
            429 => "it limits how often it may be asked, and is asked again once it allows; see that not many clients \
                    or replicas ask with the same client_id"
                .to_owned(),
            500.. => "the fault is the issuer's, and it is asked again".to_owned(),
            405 => format!("check {key} and method of [issuer.{name}]"),
            404 | 410 => format!("check {key} of [issuer.{name}]"),
            415 => format!("check body and method of [issuer.{name}]"),
            _ if reported.html => self.web_page(),
            // glewlwyd has no more to say of a wrong secret or signature.
            403 if !reported.says_something() && self.config.client_auth.proof() != Proof::Nothing => format!(
                "{}; or see at the issuer whether this client and this machine's address may ask",
                self.check_client()
            ),
            403 => "check at the issuer whether this client and this machine's address may ask".to_owned(),
            seen @ 200..=299 if reported.code.is_none() && !self.config.response.statuses.contains(&seen) => {
                format!("add the status to response.statuses of [issuer.{name}] where it carries a token")
            }
            _ => format!("check {key}, params and scopes of [issuer.{name}]"),
        }
    }

    /// `the grant …`, as the config names it.
    fn the_grant(&self) -> String {
        match self.config.grant_type.as_deref() {
            Some(grant) => format!("the grant `{grant}`"),
            None => "a request without grant_type".to_owned(),
        }
    }

    /// The client was refused: which keys say who it is.
    fn check_client(&self) -> String {
        let config = self.config;
        let mut text = config.client_auth.method.remedy(config);
        if config.basic.is_some() {
            text.push_str(", and the user and password of basic");
        }
        text
    }

    /// `invalid_grant`: what the token was asked for with.
    fn check_grant(&self) -> String {
        let (name, config) = (&self.config.name, self.config);
        match &config.jwt {
            Some(jwt) if jwt.usage == JwtUse::Assertion => check_jwt(config),
            _ if config.grant_type.as_deref() == Some(TOKEN_EXCHANGE) => format!(
                "check subject_token and subject_token_type in params of [issuer.{name}] and of the route: the \
                 token must not be expired, and be meant for this issuer"
            ),
            _ if config.assertion.is_some() => check_assertion(config),
            _ => format!("check params, scopes and client_auth of [issuer.{name}], and params of the route"),
        }
    }

    fn check_dpop(&self) -> String {
        let name = &self.config.name;
        if self.config.dpop.is_some() {
            format!("check dpop.private_key and dpop.alg of [issuer.{name}], and this machine's clock")
        } else {
            format!("this client has to prove a key of its own; set dpop of [issuer.{name}]")
        }
    }

    /// Where our clock decides about what we sign, and differs from the issuer's.
    pub(super) fn clock_hint(
        &self,
        status: StatusCode,
        kind: FailureKind,
        reported: &Reported,
    ) -> Option<String> {
        let config = self.config;
        let signs = config.jwt.is_some() || config.dpop.is_some() || config.assertion.is_some();
        // Some servers stumble over a time that they did not expect.
        let refused = matches!(kind, FailureKind::ClientRefused | FailureKind::RequestRefused)
            || reported.code.as_deref() == Some(dpop::INVALID_PROOF)
            || status == StatusCode::INTERNAL_SERVER_ERROR;
        if !signs || !refused {
            return None;
        }
        match self.skew {
            Some(skew) => {
                Some(format!("this machine's clock is {} the issuer's, set it right", skew.of_ours()))
            }
            // An issuer that does not tell its time may still tell that ours is not its own.
            None => reported.description.as_deref().filter(|text| is_about_time(text)).map(|_| {
                "what was signed is not valid yet or no more by the issuer's clock: compare this machine's clock with it"
                    .to_owned()
            }),
        }
    }

    /// Servers that want to be told which API the token is for say so in a sentence, each under another code.
    fn missing_target(&self, status: StatusCode, code: Option<&str>, text: &str) -> Option<String> {
        if status == StatusCode::UNAUTHORIZED {
            return None;
        }
        let issuer = format!("[issuer.{}]", self.config.name);
        let has = |word: &str| text.contains(word);
        if matches!(code, Some("invalid_request" | "access_denied" | "invalid_target" | "invalid_grant")) {
            if has("whitelist") && has("audience") {
                return Some(format!(
                    "let this client have that audience at the issuer, or check params.audience of {issuer} and of the \
                     route"
                ));
            }
            if has("audience") || has("service not found") {
                return Some(format!(
                    "give the API's identifier as audience: params = {{ audience = \"…\" }} of {issuer} or of the \
                     route, as the issuer has it registered"
                ));
            }
            if has("resource indicator") || has("'resource'") {
                return Some(format!(
                    "give the API's URI as resource: params = {{ resource = \"…\" }} of {issuer} or of the route, as \
                     the issuer has it registered"
                ));
            }
        }
        let wants_scope =
            has("'scope' must be provided") || has("parameter: 'scope'") || has("field 'scope' missing");
        wants_scope.then(|| format!("the issuer wants a scope; give scopes of {issuer} or of the route"))
    }

    /// It shows who it is by an assertion alone, and RFC 7521 section 4.2 lets it leave out `client_id`.
    fn may_miss_the_client_id(&self) -> bool {
        self.config.client_auth.proof().is_assertion() && !self.config.send_client_id
    }

    /// Entra ID numbers its causes. A hint for people alone: nothing else is decided by it.
    fn known_cause(&self, description: &str) -> Option<String> {
        let digits = description.split_once("AADSTS")?.1;
        let digits = digits.split(|character: char| !character.is_ascii_digit()).next()?;
        let issuer = format!("[issuer.{}]", self.config.name);
        let endpoint = self.endpoint_key();
        let hint = match digits {
            "7000215" => {
                format!("client_secret of {issuer} must be the secret's value as shown once, not its id")
            }
            "7000222" => format!("client_secret of {issuer} has expired; make a new one"),
            "7000112" => "the application is disabled in the tenant".to_owned(),
            "700016" => format!(
                "the tenant has no such application; check client_id of {issuer}, and the tenant in {endpoint}"
            ),
            "90002" | "900023" | "900021" => format!("there is no such tenant; check {endpoint} of {issuer}"),
            "50012" | "700027" => format!(
                "the application does not know this certificate; upload it, or check certificate and private_key \
                 of {issuer}"
            ),
            "500133" | "700024" => format!(
                "the assertion is too old or from the future; check this machine's clock, and that assertion of \
                 {issuer} is renewed where it is a file"
            ),
            "500011" => format!("the tenant has no such resource; check scopes of {issuer} and of the route"),
            "1002012" | "70011" => {
                format!("scopes of {issuer} must be one resource's id followed by /.default")
            }
            "28000" => format!("scopes of {issuer} and of the route must be of one resource"),
            "70021" | "700211" | "700212" | "700213" => format!(
                "no federated credential of the application has the issuer, subject and audience of the assertion \
                 of {issuer}"
            ),
            _ => return None,
        };
        Some(hint)
    }
}

/// It says of a JWT or a proof that its time is not now.
fn is_about_time(description: &str) -> bool {
    let text = description.to_ascii_lowercase();
    let phrases = ["not active", "not yet valid", "not valid yet", "in the future", "too old", "expired"];
    phrases.iter().any(|phrase| text.contains(phrase))
}
