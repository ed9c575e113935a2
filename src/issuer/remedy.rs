//! What to do about a refusal, with the config keys that decide.

use http::StatusCode;

use super::FailureKind;
use super::error::ErrorContext;
use super::reported::ReportedError;
use crate::config::client_auth::{Proof, check_assertion, check_jwt};
use crate::config::{IssuerConfig, JwtUse};
use crate::net::dpop;

/// RFC 8693 section 2.1.
const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";

/// The grant exchanges one token for another.
pub(super) fn exchanges_token(config: &IssuerConfig) -> bool {
    config.grant_type.as_deref() == Some(TOKEN_EXCHANGE)
}

/// Parameters that name one of a machine's identities.
const IDENTITY_PARAMS: [&str; 4] = ["object_id", "principal_id", "msi_res_id", "mi_res_id"];

/// The advice if a value of our own cannot be read. `what` names the place.
pub(super) fn unreadable(issuer: &str, what: &str) -> String {
    // The innermost one: a value may need others, as a device its PIN and a program its variables.
    let what = what.rsplit_once(" cannot be read: ").map_or(what, |(_, cause)| cause);
    if what.contains(" of the Workload API at ") {
        format!("check the agent, and spiffe in [issuer.{issuer}]; bearerd asks the agent again")
    } else if what.starts_with("key pkcs11:") {
        format!("check the device, and pkcs11 in [issuer.{issuer}]")
    } else if what.starts_with("program ")
        && what.contains(": cannot be started in the config file's folder ")
    {
        "put the folder back, or check the rights on it".to_owned()
    } else if what.starts_with("program ") {
        format!(
            "run the program by hand as the user that bearerd runs as, or change exec in [issuer.{issuer}]"
        )
    } else if what.contains("environment variable ") {
        "set it where bearerd is started, and restart bearerd: a process sees its environment as it was at the start"
            .to_owned()
    } else if what.contains("file ") {
        format!(
            "fix the file, which bearerd reads again as soon as it changes, or name another in [issuer.{issuer}]"
        )
    } else {
        format!("fix it in [issuer.{issuer}]")
    }
}

impl ErrorContext<'_> {
    /// The advice for the operator.
    pub(super) fn remedy(&self, status: StatusCode, reported: &ReportedError) -> String {
        let said = reported.said();
        let known = said.and_then(|text| self.known_cause(text));
        let known = known.or_else(|| self.identity(reported));
        let known = known.or_else(|| self.by_words(status, reported.code.as_deref(), said?));
        let known = known.or_else(|| self.plain_http_refused(reported));
        known.or_else(|| self.by_code(status, reported)).unwrap_or_else(|| self.by_status(status, reported))
    }

    /// A metadata service does not know which identity is meant.
    fn identity(&self, reported: &ReportedError) -> Option<String> {
        if !reported.names_no_identity() {
            return None;
        }
        let said = reported.said()?.to_ascii_lowercase();
        let issuer = format!("[issuer.{}]", self.config.name);
        Some(if said.contains("multiple") {
            format!("choose one of the machine's identities by client_id of {issuer}")
        } else if said.contains("service account") {
            "attach a service account to this machine, in its settings at the cloud".to_owned()
        } else if self.names_identity() {
            format!(
                "assign this identity to the machine or app at the cloud, or check the one that client_id or params of \
                 {issuer} names"
            )
        } else {
            format!(
                "switch on the machine's or app's own identity at the cloud, or name one that is assigned to it: \
                 client_id of {issuer}"
            )
        })
    }

    fn names_identity(&self) -> bool {
        let config = self.config;
        config.client_id.is_some() || IDENTITY_PARAMS.iter().any(|&name| config.params.contains_key(name))
    }

    /// Go's servers and nginx respond in plain HTTP to a plain request on a TLS port.
    fn plain_http_refused(&self, reported: &ReportedError) -> Option<String> {
        let said = reported.said()?.to_ascii_lowercase();
        let refused = !self.https && said.contains("https") && said.contains("http request");
        refused.then(|| {
            format!("check {} of [issuer.{}]{}", self.endpoint_key(), self.config.name, self.https_hint())
        })
    }

    /// The cause is often only in the description, under a code with another meaning.
    fn by_words(&self, status: StatusCode, code: Option<&str>, description: &str) -> Option<String> {
        let text = description.to_ascii_lowercase();
        let has = |word: &str| text.contains(word);
        let missing = has("missing") || has("required") || has("not provided");
        // Google's metadata server of a pod, and its IAM.
        if has("iam returned") || has("iam.serviceaccounts.get") {
            return Some(
                "give this identity a role on the service account, roles/iam.serviceAccountTokenCreator (a pod's Kubernetes \
                 service account: roles/iam.workloadIdentityUser), and check the account's name"
                    .to_owned(),
            );
        }
        if exchanges_token(self.config) {
            // Keycloak's words.
            if has("not within the token audience") {
                return Some(
                    "the token that is exchanged must name this client in its audience (aud): add it there at the issuer, for \
                     the client that the token is granted to (in Keycloak, an audience mapper)"
                        .to_owned(),
                );
            }
            if let Some(remedy) = self.refused_exchange(&text) {
                return Some(remedy);
            }
            if has("token exchange") && (has("not enabled") || has("not allowed")) {
                return Some("allow this client to exchange tokens at the issuer".to_owned());
            }
        }
        if self.config.dpop.is_none() && has("dpop") && missing {
            return Some(self.check_dpop());
        }
        if self.config.client_auth.secret().is_some() {
            if has("client_assertion") && missing {
                return Some(format!(
                    "the issuer has this client registered for a signed JWT: set client_auth = \"client_secret_jwt\" or \
                     \"private_key_jwt\" of [issuer.{}], or register it for a secret",
                    self.config.name
                ));
            }
            if (has("client_secret") && missing) || has("authenticating client") {
                return Some(self.check_client());
            }
        }
        self.another_audience(&text).or_else(|| self.missing_target(status, code, &text))
    }

    /// The words of Google's STS: its `audience` names a provider, which judges the token that is exchanged.
    fn refused_exchange(&self, text: &str) -> Option<String> {
        let issuer = format!("[issuer.{}]", self.config.name);
        let has = |words: &str| text.contains(words);
        if has("does not match the expected audience") {
            Some(format!(
                "subject_token in params of {issuer} and of the route is for another audience (`aud`): request that token for the \
                 audience that the issuer expects, or allow its audience there"
            ))
        } else if has("rejected by the attribute condition") {
            Some(format!(
                "the attribute condition at the issuer does not accept the claims of subject_token in params of {issuer} and of \
                 the route: change the condition, or send another token"
            ))
        } else if has("resource name of the identity provider") || has("indicated by the \"audience\"") {
            Some(format!(
                "audience in params of {issuer} or of the route names no identity provider that the issuer has: check it, or the \
                 vars that it is made of"
            ))
        } else {
            None
        }
    }

    /// The `aud` of a JWT that bearerd signs, or of a prepared assertion. Not the API that the token is for.
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
                "the issuer requires another audience (`aud`) in the JWT: set jwt.audience of [issuer.{name}] to the one that \
                 it names; servers require either the issuer's own URL or its token endpoint"
            )),
            None if self.config.assertion.is_some() => Some(format!(
                "the issuer requires another audience (`aud`) in assertion of [issuer.{name}]: check the program that writes it"
            )),
            None => None,
        }
    }

    fn by_code(&self, status: StatusCode, reported: &ReportedError) -> Option<String> {
        let name = &self.config.name;
        let remedy = match reported.code.as_deref()? {
            "invalid_client" | "invalid_client_id" | "invalid_client_credentials" => self.check_client(),
            // Keycloak responds so to a wrong secret.
            "unauthorized_client" if status == StatusCode::UNAUTHORIZED => {
                format!("{}, and whether it may use {} there", self.check_client(), self.the_grant())
            }
            "unauthorized_client" => format!(
                "allow this client {} at the issuer, or check client_id of [issuer.{name}]",
                self.the_grant()
            ),
            // Auth0 responds so to a wrong secret.
            "access_denied" if status == StatusCode::UNAUTHORIZED => self.check_client(),
            "access_denied" => format!(
                "allow this client such tokens at the issuer, or check client_id of [issuer.{name}]"
            ),
            "invalid_scope" => format!(
                "check scopes of [issuer.{name}] and of the route, and allow this client these scopes at the issuer"
            ),
            "invalid_target" | "invalid_resource" => {
                format!("check params (audience, resource) and scopes of [issuer.{name}] and of the route")
            }
            "invalid_request" if exchanges_token(self.config) => format!(
                "{}; or check its other params and its scopes",
                self.check_grant()
            ),
            "invalid_request" if self.may_need_client_id() => format!(
                "set send_client_id = true in [issuer.{name}] (some servers, such as Spring's, require client_id with an \
                 assertion), or check params, scopes and client_auth of it, and params of the route"
            ),
            // LemonLDAP::NG: nobody is logged in. Its OAuth endpoints never respond so.
            "9" if status == StatusCode::UNAUTHORIZED => {
                format!("it is not a token endpoint (LemonLDAP::NG's portal responds so); check {} of [issuer.{name}]", self.endpoint_key())
            }
            "invalid_request" => {
                format!("check params, scopes and client_auth of [issuer.{name}], and params of the route")
            }
            "invalid_grant" | "invalid_token" => self.check_grant(),
            "unsupported_grant_type" => {
                format!(
                    "the issuer does not accept {}; check grant_type and {} of [issuer.{name}]",
                    self.the_grant(),
                    self.endpoint_key()
                )
            }
            "use_dpop_nonce" if self.config.dpop.is_some() => {
                "the request was repeated with the issuer's nonce, and the issuer requires yet another one; the error is the issuer's, and \
                 bearerd asks again"
                    .to_owned()
            }
            "use_dpop_nonce" | "invalid_dpop_proof" => self.check_dpop(),
            "temporarily_unavailable" => "bearerd asks again".to_owned(),
            _ => return None,
        };
        Some(remedy)
    }

    fn by_status(&self, status: StatusCode, reported: &ReportedError) -> String {
        let (name, key) = (&self.config.name, self.endpoint_key());
        match status.as_u16() {
            401 | 403 | 404 | 410 if self.is_metadata_service() => format!(
                "check that this is the metadata service that {key} of [issuer.{name}] means (each cloud has one at the same \
                 address), and that this machine has an identity there; bearerd asks again"
            ),
            401 => self.check_client(),
            429 => "it limits the rate of requests, and bearerd asks again when it allows; check that not many clients \
                    or replicas use the same client_id"
                .to_owned(),
            500.. => "the error is the issuer's, and bearerd asks again".to_owned(),
            405 => format!("check {key} and method of [issuer.{name}]"),
            404 | 410 => format!("check {key} of [issuer.{name}]"),
            415 => format!("check body and method of [issuer.{name}]"),
            _ if reported.html => self.web_page(),
            // glewlwyd responds so to a wrong secret or signature.
            403 if !reported.has_details() && self.config.client_auth.proof() != Proof::Nothing => format!(
                "{}; or check at the issuer whether this client and this machine's address may request tokens",
                self.check_client()
            ),
            403 => "check at the issuer whether this client and this machine's address may request tokens".to_owned(),
            seen @ 200..=299 if reported.code.is_none() && !self.config.response.statuses.contains(&seen) => {
                format!("add the status to response.statuses of [issuer.{name}] if the response contains a token")
            }
            _ => format!("check {key}, params and scopes of [issuer.{name}]"),
        }
    }

    /// A service of this machine that wants no credential: plain HTTP is for these alone.
    fn is_metadata_service(&self) -> bool {
        let config = self.config;
        let shows_nothing = config.client_auth.proof() == Proof::Nothing
            && config.headers.iter().all(|(_, value)| value.is_literal())
            && config.challenge_folder.is_none()
            && config.assertion.is_none()
            && config.jwt.is_none();
        shows_nothing && !self.https && config.grant_type.is_none()
    }

    /// `the grant …`, with the config's `grant_type`.
    fn the_grant(&self) -> String {
        match self.config.grant_type.as_deref() {
            Some(grant) => format!("the grant `{grant}`"),
            None => "a request without grant_type".to_owned(),
        }
    }

    /// The keys that identify and authenticate the client.
    fn check_client(&self) -> String {
        let config = self.config;
        if config.challenge_folder.is_some() {
            return "check the agent on this machine, which named no key file or did not accept the content of its own (for \
                    Azure Arc: azcmagent show)"
                .to_owned();
        }
        let mut text = config.client_auth.method.remedy(config);
        if config.basic.is_some() {
            text.push_str(", and the user and password of basic");
        }
        text
    }

    /// For `invalid_grant`: the values that the token was requested with.
    fn check_grant(&self) -> String {
        let (name, config) = (&self.config.name, self.config);
        match &config.jwt {
            Some(jwt) if jwt.usage == JwtUse::Assertion => check_jwt(config),
            _ if exchanges_token(config) => format!(
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
            format!("this client has to prove possession of a key; set dpop of [issuer.{name}]")
        }
    }

    /// If this machine's clock differs from the issuer's, and decides about what bearerd signs.
    pub(super) fn clock_hint(
        &self,
        status: StatusCode,
        kind: FailureKind,
        reported: &ReportedError,
    ) -> Option<String> {
        let config = self.config;
        let signs = config.jwt.is_some() || config.dpop.is_some() || config.assertion.is_some();
        // Some servers fail with 500 on a time that they did not expect.
        let refused = matches!(kind, FailureKind::ClientRefused | FailureKind::RequestRefused)
            || reported.code.as_deref() == Some(dpop::INVALID_PROOF)
            || status == StatusCode::INTERNAL_SERVER_ERROR;
        if !signs || !refused {
            return None;
        }
        match self.skew {
            Some(skew) => {
                Some(format!("this machine's clock is {} the issuer's; correct it", skew.describe()))
            }
            // An issuer without `Date` may still say that a time is wrong.
            None => reported.description.as_deref().filter(|text| is_about_time(text)).map(|_| {
                "by the issuer's clock, what bearerd signed is not valid yet or has expired: compare this machine's clock with it"
                    .to_owned()
            }),
        }
    }

    /// Servers that need to know the token's API say so in the description, each under another code.
    fn missing_target(&self, status: StatusCode, code: Option<&str>, text: &str) -> Option<String> {
        if status == StatusCode::UNAUTHORIZED {
            return None;
        }
        let issuer = format!("[issuer.{}]", self.config.name);
        let has = |word: &str| text.contains(word);
        if matches!(
            code,
            None | Some("invalid_request" | "access_denied" | "invalid_target" | "invalid_grant")
        ) {
            if has("whitelist") && has("audience") {
                return Some(format!(
                    "allow this client that audience at the issuer, or check params.audience of {issuer} and of the \
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
        wants_scope.then(|| format!("the issuer requires a scope; set scopes of {issuer} or of the route"))
    }

    /// The client is identified by an assertion alone, with which RFC 7521 section 4.2 allows omitting `client_id`.
    fn may_need_client_id(&self) -> bool {
        self.config.client_auth.proof().is_assertion() && !self.config.send_client_id
    }

    /// Entra ID numbers its causes. Only for the advice: nothing else depends on it.
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
            "500011" if self.config.params.contains_key("resource") => format!(
                "the tenant has no such resource; check resource in params of {issuer} and of the route, or scope in its vars"
            ),
            "500011" => format!("the tenant has no such resource; check scopes of {issuer} and of the route"),
            "1002012" | "70011" => {
                format!("scopes of {issuer} must be one resource's id followed by /.default")
            }
            "28000" => format!("scopes of {issuer} and of the route must be of one resource"),
            "70021" | "700211" | "700212" | "700213" | "7002131" | "70025" => format!(
                "no federated credential of the application has the issuer, subject and audience of the assertion \
                 of {issuer}"
            ),
            _ => return None,
        };
        Some(hint)
    }
}

/// The description says that the time of a JWT or a proof is wrong.
fn is_about_time(description: &str) -> bool {
    let text = description.to_ascii_lowercase();
    let phrases = ["not active", "not yet valid", "not valid yet", "in the future", "too old", "expired"];
    phrases.iter().any(|phrase| text.contains(phrase))
}
