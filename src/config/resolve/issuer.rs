//! `[issuer.NAME]`: where tokens come from, how the client proves who it is (`client_auth` and the keys that go with it), and
//! what a token request signs and asserts (`jwt`, `private_key`, `certificate`, `assertion`, `dpop`).

use std::collections::BTreeMap;
use std::time::Duration;

use crate::config::client_auth::{self, ClientAuth, ClientSecretBasic, METHODS, Method, NoProof, Proof};
use crate::config::document::Place;
use crate::config::model::{
    BasicEncoding, BasicUser, Carrier, CertificateHeader, DpopConfig, Egress, ExpiresAt, HttpUrl,
    IssuerConfig, JwtConfig, JwtUse, ResponseFormat, ResponseShape, Standby, TokenEndpoint, is_bound,
};
use crate::config::raw::values::{
    RawCertificate, RawPublic, RawReference, RawSecret, RawSigningKey, RawValue, ValueKind, Word, check,
};
use crate::config::raw::{RawBasic, RawDpop, RawIssuer, RawJwt, RawResponse, RawStandby, TokenMethod};
use crate::config::reference::Source;
use crate::config::report::{Report, Severity, did_you_mean};
use crate::config::resolve::listener::Listeners;
use crate::config::resolve::value::{self, claims, headers, params, reference, refuse_tables, scopes};
use crate::config::resolve::{budget, digest, unwritten};
use crate::config::types::{self, url};
use crate::jose::Alg;

/// RFC 7523 section 2.1.
const JWT_BEARER_GRANT: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
/// RFC 9449 section 5.
const DPOP_TOKEN_TYPE: &str = "dpop";

pub(super) fn resolve(
    place: &Place<'_>,
    name: &str,
    raw: RawIssuer,
    listeners: &Listeners,
    report: &mut Report,
) -> Option<IssuerConfig> {
    let found = report.problems.len();
    check(place, types::name(name), report);
    let endpoint = endpoint(place, raw.issuer_url, raw.token_url, report);
    let carrier = carrier(place, raw.method, raw.body, report);

    let send_client_id = raw.send_client_id.0;
    let encoding = raw.basic_encoding.read(place, "basic_encoding", report);
    let usage = jwt_usage(place, raw.jwt.as_ref(), report);
    let beside = Beside { encoding, usage };
    let client_auth = client_auth(place, raw.client_auth, raw.client_secret, &beside, report);
    let proof = client_auth.as_ref().map(ClientAuth::proof);
    let issuer_named = raw.jwt.as_ref().is_some_and(|jwt| jwt.issuer.is_some());
    let written = WrittenSigning {
        jwt: raw.jwt,
        private_key: raw.private_key,
        certificate: raw.certificate,
        assertion: raw.assertion,
        assertion_type: raw.assertion_type,
    };
    let signing = signing(place, written, usage, client_auth.as_ref(), report);
    let grant_type = grant_type(raw.grant_type, usage);
    let client_id = raw.client_id.and_then(|raw| client_id(&place.key("client_id"), raw, report));
    if send_client_id || client_auth.as_ref().is_none_or(|auth| auth.method.needs_client_id(issuer_named)) {
        report.missing(
            &place.key("client_id"),
            "is missing",
            "client_id = \"…\", the client's name at the issuer",
        );
    }
    let basic = basic(&place.key("basic"), raw.basic, encoding, report);
    let uses_basic = matches!(proof, None | Some(Proof::Basic)) || basic.is_some();
    if !uses_basic && place.key("basic_encoding").is_written() {
        let message = "is about HTTP Basic, but bearerd sends no Basic credentials";
        report.error(
            &place.key("basic_encoding"),
            message,
            "leave it out, or set client_auth = \"client_secret_basic\"",
        );
    }
    let standby = standby(&place.key("standby"), raw.standby, client_auth.as_ref(), usage, report);
    let headers = headers(&place.key("headers"), raw.headers, report);
    let signed = signing.jwt.as_ref().map(|jwt| jwt.usage);
    let challenge_folder = raw.challenge_folder.map(|folder| place.document.file.folder.join(folder));
    refuse_second_authorization(place, client_auth.as_ref(), signed, &headers, report);
    let dpop = dpop(&place.key("dpop"), raw.dpop, report);
    let params = params(&place.key("params"), raw.params, report);
    if carrier != Carrier::Json {
        refuse_tables(&place.key("params"), &params, report);
    }
    let mut tls = value::tls(&place.key("tls"), raw.tls, report);
    if proof == Some(Proof::Certificate) && tls.certificate.is_none() {
        tls.certificate.clone_from(&signing.certificate);
        if signing.private_key.as_ref().is_some_and(Source::is_in_device) {
            report.error(&place.key("private_key"), value::NOT_FOR_TLS, value::KEY_FOR_TLS);
        }
        tls.private_key = signing.private_key.clone().or_else(|| signing.certificate.clone());
    }
    let refresh_at = raw.refresh_at.unwrap_or(RawIssuer::REFRESH_AT);
    if !(refresh_at > 0.0 && refresh_at <= 1.0) {
        report.error(
            &place.key("refresh_at"),
            "must be above 0 and at most 1",
            "it is a share of the lifetime: 0.8",
        );
    }
    let default_lifetime = raw.default_lifetime.read(place, "default_lifetime", report);
    if default_lifetime.is_zero() {
        report.error(&place.key("default_lifetime"), "must be longer than \"0s\"", "");
    }
    let egress = value::egress(&place.key("proxy"), raw.proxy, report);
    let egress = match &endpoint {
        Some(TokenEndpoint::Url(url)) if url::is_metadata_service(&url.host) => {
            without_proxy(&place.key("proxy"), &egress, report)
        }
        _ => egress,
    };
    if let Some(TokenEndpoint::Url(url) | TokenEndpoint::Discovery(url)) = &endpoint {
        value::check_egress(place, (url.https, &url.host, url.port), &egress, listeners, report);
    }
    let issuer = IssuerConfig {
        name: name.into(),
        digest: digest::of_issuer(place, report),
        preset: raw.preset.map(Into::into),
        required: raw.required.0,
        shared: shared(place, raw.shared.0, is_bound(dpop.as_ref(), &tls), report),
        budget: budget::resolve(&place.key("budget"), raw.budget, report),
        grant_type,
        carrier,
        basic,
        send_client_id,
        client_id,
        standby,
        credential_grace: raw.credential_grace.read(place, "credential_grace", report),
        scopes: scopes(&place.key("scopes"), raw.scopes.unwrap_or_default(), report),
        params,
        headers,
        challenge_folder,
        private_key: signing.private_key,
        certificate: signing.certificate,
        jwt: signing.jwt,
        assertion: signing.assertion,
        assertion_type: signing.assertion_type,
        response: response(
            &place.key("response"),
            raw.response.unwrap_or_default(),
            if dpop.is_some() { DPOP_TOKEN_TYPE } else { RawResponse::TOKEN_TYPE },
            report,
        ),
        dpop,
        refresh_at,
        default_lifetime,
        timeout: raw.timeout.timeout(place, "timeout", report),
        tls,
        egress,
        // Both are set, or an error was reported above.
        client_auth: client_auth?,
        endpoint: endpoint?,
    };
    let has_errors = report.problems.iter().skip(found).any(|problem| problem.severity == Severity::Error);
    (!has_errors).then_some(issuer)
}

impl IssuerConfig {
    /// An issuer with a name and an endpoint, without client authentication, and otherwise with every default.
    pub fn with_defaults(name: &str, endpoint: TokenEndpoint) -> Self {
        let raw = RawIssuer {
            token_url: Some("http://localhost/".to_owned()),
            client_auth: Some("none".to_owned()),
            ..RawIssuer::default()
        };
        let issuer =
            unwritten(|place, report| resolve(place, "defaults", raw, &Listeners::default(), report));
        Self { name: name.into(), digest: [0; 32], endpoint, ..issuer.expect("defaults have no errors") }
    }
}

/// Warns whoever writes `shared = true` beside settings that keep it from having an effect.
fn shared(place: &Place<'_>, wanted: bool, is_bound: bool, report: &mut Report) -> bool {
    let at = place.key("shared");
    if wanted && is_bound && at.is_written() {
        report.warning(
            &at,
            "has no effect: tokens that are bound to a key or a certificate are never shared",
            "leave it out",
        );
    }
    wanted
}

fn endpoint(
    place: &Place<'_>,
    issuer_url: Option<String>,
    token_url: Option<String>,
    report: &mut Report,
) -> Option<TokenEndpoint> {
    let (issuer_at, token_at) = (place.key("issuer_url"), place.key("token_url"));
    match (issuer_url, token_url) {
        (Some(_), Some(_)) => {
            report.error(
                &issuer_at,
                "cannot be combined with `token_url`",
                "keep one: `issuer_url` for discovery, `token_url` byte for byte",
            );
            None
        }
        (Some(text), None) => {
            let url = issuer_endpoint(&issuer_at, &text, false, report)?;
            if url.path_and_query.contains('?') {
                report.error(
                    &issuer_at,
                    "an issuer's URL has no query (RFC 8414 section 2)",
                    "did you mean `token_url`?",
                );
                return None;
            }
            Some(TokenEndpoint::Discovery(url))
        }
        (None, Some(text)) => issuer_endpoint(&token_at, &text, true, report).map(TokenEndpoint::Url),
        (None, None) => {
            if !issuer_at.is_written() {
                report.missing(
                    &token_at,
                    "is missing",
                    "give token_url = \"https://…\", or issuer_url for discovery",
                );
            }
            None
        }
    }
}

/// `http://` is only for this machine, and for the metadata service of the cloud that it runs in if that may be an
/// endpoint here.
fn issuer_endpoint(
    place: &Place<'_>,
    text: &str,
    metadata_services: bool,
    report: &mut Report,
) -> Option<HttpUrl> {
    let url = check(place, url::http_url(text), report)?;
    let is_near =
        url::is_this_machine(&url.host) || (metadata_services && url::is_metadata_service(&url.host));
    if !url.https && !is_near {
        let hint = match place.is_written() {
            true => "write \"https://…\"".to_owned(),
            false => format!(
                "{} comes from vars, or from an environment variable that the preset reads: name this machine, a literal link-local \
                 address, or metadata.google.internal",
                url.host
            ),
        };
        report.error(place, "http:// would send the client's secret in the clear to another machine", hint);
        return None;
    }
    Some(url)
}

/// The way to a metadata service, which is another one for each machine. `"env"` is for other issuers as well, and is
/// ignored here.
fn without_proxy(place: &Place<'_>, egress: &Egress, report: &mut Report) -> Egress {
    if matches!(egress, Egress::Proxy { .. }) {
        let message = "a proxy would ask the metadata service of its own machine";
        report.error(place, message, "leave `proxy` out: bearerd connects to it directly");
    }
    Egress::Direct
}

fn carrier(
    place: &Place<'_>,
    method: Word<TokenMethod>,
    body: Word<Carrier>,
    report: &mut Report,
) -> Carrier {
    let method = method.read(place, "method", report);
    let given = body.is_given();
    let body = body.read(place, "body", report);
    if method == TokenMethod::Post {
        return body;
    }
    if given && body != Carrier::Query {
        report.error(
            &place.key("body"),
            "a GET has no body",
            "leave it out: the parameters go into the query",
        );
    }
    Carrier::Get
}

/// The default is the jwt-bearer grant if the JWT is the grant.
fn grant_type(written: Option<String>, usage: JwtUse) -> Option<String> {
    let default = if usage == JwtUse::Assertion { JWT_BEARER_GRANT } else { RawIssuer::GRANT_TYPE };
    Some(written.unwrap_or_else(|| default.to_owned())).filter(|grant| !grant.is_empty())
}

fn client_id(place: &Place<'_>, raw: RawPublic, report: &mut Report) -> Option<Source> {
    if matches!(&raw.0, RawReference::Literal(text) if text.is_empty()) {
        report.error(place, "is empty", "");
        return None;
    }
    reference(place, raw, report)
}

fn response(
    at: &Place<'_>,
    raw: RawResponse,
    token_type_default: &str,
    report: &mut Report,
) -> ResponseShape {
    let format = raw.format.read(at, "format", report);
    let own_exp = raw.expires_at.as_deref() == Some(RawResponse::OWN_EXP);
    if format == ResponseFormat::Text {
        refuse_pointers_into_text(at, own_exp, report);
    }
    let mut pointer = |key: &str, written: Option<String>, default: &str| match written {
        Some(written) => {
            check(&at.key(key), types::pointer(&written), report);
            written
        }
        None => default.to_owned(),
    };
    let whole = format == ResponseFormat::Text;
    let token = pointer("token", raw.token, if whole { WHOLE } else { RawResponse::TOKEN });
    let token_type = pointer("type", raw.token_type, RawResponse::TYPE);
    let expires_in = pointer("expires_in", raw.expires_in, RawResponse::EXPIRES_IN);
    let expires_at = match raw.expires_at {
        Some(_) if own_exp => ExpiresAt::OwnExp,
        written => ExpiresAt::At(pointer("expires_at", written, RawResponse::EXPIRES_AT)),
    };
    let error = pointer("error", raw.error, RawResponse::ERROR);

    let token_types = raw.token_types.unwrap_or_else(|| vec![token_type_default.to_owned()]);
    if token_types.is_empty() || token_types.iter().any(String::is_empty) {
        report.error(&at.key("token_types"), "names no type", "[\"Bearer\"] is the default");
    }
    let statuses = raw.statuses.unwrap_or_else(|| vec![RawResponse::STATUS]);
    if statuses.is_empty() {
        report.error(&at.key("statuses"), "names no status", "[200] is the default");
    }
    for (index, status) in statuses.iter().enumerate() {
        if !(200..=599).contains(status) {
            report.error(
                &at.key("statuses").index(index),
                format!("{status} is not the status of a response"),
                "",
            );
        }
    }
    let token_types = token_types.iter().map(|name| name.to_ascii_lowercase()).collect();
    let require_headers =
        required_headers(&at.key("require_headers"), raw.require_headers.unwrap_or_default(), report);
    ResponseShape {
        token,
        token_type,
        expires_in,
        expires_at,
        error,
        format,
        token_types,
        statuses,
        require_headers,
    }
}

/// The pointer to a whole document (RFC 6901 section 5).
const WHOLE: &str = "";

/// A text has no members, so a pointer to one would do nothing. An error may be JSON nevertheless.
fn refuse_pointers_into_text(at: &Place<'_>, own_exp: bool, report: &mut Report) {
    for key in ["token", "type", "expires_in", "expires_at"] {
        if at.key(key).is_written() && !(key == "expires_at" && own_exp) {
            let message =
                "points into JSON or a form, but with format = \"text\" the whole body is the token";
            report.error(
                &at.key(key),
                message,
                "leave one of them out; expires_at = \"jwt\" is the token's own exp",
            );
        }
    }
}

fn required_headers(
    at: &Place<'_>,
    written: BTreeMap<String, String>,
    report: &mut Report,
) -> Vec<(http::HeaderName, String)> {
    let required = written.into_iter().filter_map(|(name, value)| {
        let place = at.key(&name);
        check(&place, types::header_value(value.as_bytes()), report)?;
        Some((check(&place, types::header_name(&name), report)?, value))
    });
    required.collect()
}

/// Keys that determine the default of `client_auth`.
struct Beside {
    encoding: BasicEncoding,
    usage: JwtUse,
}

/// The method, or `None` after the error was reported.
fn client_auth(
    place: &Place<'_>,
    written: Option<String>,
    secret: Option<RawSecret>,
    beside: &Beside,
    report: &mut Report,
) -> Option<ClientAuth> {
    let (at, secret_at) = (place.key("client_auth"), place.key("client_secret"));
    // The grant's own assertion proves who the client is. A secret in addition is the exception.
    let proved_by_jwt = beside.usage != JwtUse::ClientAssertion && secret.is_none();
    let default: &dyn Method = if proved_by_jwt { &NoProof } else { &ClientSecretBasic };
    let found = written.as_deref().map_or(Some(default), client_auth::method);
    let signs_by_secret = found.is_some_and(|method| method.proof() == Proof::SignedBySecret);
    let secret = secret.map(|raw| reference(&secret_at, client_secret(raw, signs_by_secret), report));
    let Some(method) = found else {
        let written = written.unwrap_or_default();
        let names = client_auth::names().collect::<Vec<_>>().join("\", \"");
        let hint = match METHODS.iter().find(|method| method.is_advertised_as(&written)) {
            Some(same) => format!("write \"{}\", which serves both", same.name()),
            None => did_you_mean(&written, client_auth::names(), ""),
        };
        report.error(&at, format!("{} is not one of \"{names}\"", at.describe()), hint);
        return None;
    };
    if !method.proof().has_secret() {
        if secret_at.is_written() {
            let message = format!("is not sent with client_auth = \"{}\"", method.name());
            report.error(&secret_at, message, "leave out one of them");
        }
        return Some(ClientAuth::new(method));
    }
    if secret.is_none() {
        report.missing(&secret_at, "is missing", secret_hint(place));
    }
    Some(ClientAuth { encoding: beside.encoding, ..ClientAuth::with_secret(method, secret??) })
}

/// A secret that is sent may be empty. One that signs may not.
fn client_secret(secret: RawSecret, signs: bool) -> RawValue {
    RawValue { raw: secret.0, kind: if signs { ValueKind::Secret } else { ValueKind::MaybeEmpty } }
}

fn secret_hint(place: &Place<'_>) -> &'static str {
    if place.key("private_key").is_written() && !place.key("client_auth").is_written() {
        "to sign with private_key, set client_auth = \"private_key_jwt\""
    } else if place.key("assertion").is_written() && !place.key("client_auth").is_written() {
        "to send `assertion` as the client's, set client_auth = \"assertion_file\"; as the grant's, client_auth = \"none\""
    } else {
        "client_secret = { file = \"…\" } or { env = \"…\" }; for a public client, client_auth = \"none\""
    }
}

/// `basic`.
fn basic(
    at: &Place<'_>,
    raw: Option<RawBasic>,
    encoding: BasicEncoding,
    report: &mut Report,
) -> Option<BasicUser> {
    let RawBasic { user, password } = raw?;
    let mut read = |key: &str, raw: Option<RawValue>, example: &str| match raw {
        Some(raw) => reference(&at.key(key), raw, report),
        None => {
            report.missing(&at.key(key), "is missing", example);
            None
        }
    };
    let user = read("user", user.map(Into::into), "user = \"…\"");
    let password = read("password", password.map(Into::into), "password = { file = \"…\" }");
    Some(BasicUser { user: user?, password: password?, encoding })
}

/// `standby`. Its keys must be those that `client_auth` uses.
fn standby(
    at: &Place<'_>,
    raw: Option<RawStandby>,
    auth: Option<&ClientAuth>,
    usage: JwtUse,
    report: &mut Report,
) -> Option<Standby> {
    let RawStandby { client_id, client_secret, private_key, certificate, key_id } = raw?;
    let mut read = |key: &str, raw: Option<RawValue>, used: bool| {
        let raw = raw?;
        let place = at.key(key);
        if let Some(auth) = auth.filter(|_| !used) {
            let message = format!("is not used with client_auth = \"{}\"", auth.as_str());
            report.error(&place, message, "leave it out");
        }
        reference(&place, raw, report)
    };
    let secret = auth.is_none_or(|auth| auth.proof().has_secret());
    let by_key = |auth: &ClientAuth| auth.proof() == Proof::SignedByKey;
    let key = usage != JwtUse::ClientAssertion || auth.is_none_or(by_key);
    let signs = secret || key;
    let signs_by_secret = auth.is_some_and(|auth| auth.proof() == Proof::SignedBySecret);
    let client_secret = client_secret.map(|secret| self::client_secret(secret, signs_by_secret));
    let standby = Standby {
        client_id: read("client_id", client_id.map(Into::into), signs),
        client_secret: read("client_secret", client_secret, secret),
        private_key: read("private_key", private_key.map(Into::into), key),
        certificate: read("certificate", certificate.map(Into::into), key),
        key_id: read("key_id", key_id.map(Into::into), key),
    };
    if standby.client_id.is_none() && standby.client_secret.is_none() && standby.private_key.is_none() {
        report.error(
            at,
            "names no other credential",
            "give client_secret, client_id or private_key, whichever differs",
        );
        return None;
    }
    Some(standby)
}

/// Refuses a second use of the `Authorization` header field.
fn refuse_second_authorization(
    place: &Place<'_>,
    auth: Option<&ClientAuth>,
    usage: Option<JwtUse>,
    headers: &[(http::HeaderName, Source)],
    report: &mut Report,
) {
    let sets_header = headers.iter().any(|(name, _)| name == http::header::AUTHORIZATION);
    let basic = place.key("basic").is_written();
    let challenge = place.key("challenge_folder").is_written();
    let mut takers = Vec::new();
    takers.extend(auth.filter(|auth| auth.proof() == Proof::Basic).map(ClientAuth::as_str));
    if usage == Some(JwtUse::Bearer) {
        takers.push("jwt.use = \"bearer\"");
    }
    if basic {
        takers.push("`basic`");
    }
    if challenge {
        takers.push("`challenge_folder`");
    }
    let (at, what) = match takers.as_slice() {
        [taker, ..] if sets_header => {
            (place.key("headers"), format!("sets `authorization`, which {taker} sends too"))
        }
        [first, second, ..] => {
            let at = place.key(match (challenge, basic) {
                (true, _) => "challenge_folder",
                (false, true) => "basic",
                (false, false) => "jwt",
            });
            (at, format!("{first} and {second} would both send `authorization`"))
        }
        _ => return,
    };
    report.error(&at, what, "use one way to authenticate: RFC 6749 section 2.3 allows no second");
}

/// A JWT with a shorter lifetime may have expired by the issuer's clock when it arrives.
const LEAST_LIFETIME: Duration = Duration::from_secs(10);

/// The use of this issuer's JWT.
fn jwt_usage(place: &Place<'_>, raw: Option<&RawJwt>, report: &mut Report) -> JwtUse {
    raw.map(|raw| raw.usage.read(&place.key("jwt"), "use", report)).unwrap_or_default()
}

/// The keys about signing, as the file has them.
struct WrittenSigning {
    jwt: Option<RawJwt>,
    private_key: Option<RawSigningKey>,
    certificate: Option<RawCertificate>,
    assertion: Option<RawSecret>,
    assertion_type: Option<String>,
}

/// The checked keys about signing.
struct Signing {
    jwt: Option<JwtConfig>,
    private_key: Option<Source>,
    certificate: Option<Source>,
    assertion: Option<Source>,
    assertion_type: String,
}

fn signing(
    place: &Place<'_>,
    written: WrittenSigning,
    usage: JwtUse,
    auth: Option<&ClientAuth>,
    report: &mut Report,
) -> Signing {
    let WrittenSigning { jwt, private_key, certificate, assertion, assertion_type } = written;
    let key_given = private_key.is_some();
    let (certificate_given, assertion_given) = (certificate.is_some(), assertion.is_some());
    let private_key = private_key.and_then(|raw| reference(&place.key("private_key"), raw, report));
    let certificate = certificate.and_then(|raw| reference(&place.key("certificate"), raw, report));
    let assertion = assertion.and_then(|raw| reference(&place.key("assertion"), raw, report));

    let proof = auth.map(ClientAuth::proof);
    let by_key = proof == Some(Proof::SignedByKey) || usage != JwtUse::ClientAssertion;
    let by_secret = proof == Some(Proof::SignedBySecret);
    let by_tls = proof == Some(Proof::Certificate);
    let by_file = proof == Some(Proof::ReadyMade);
    let needs = SigningNeeds { place, by_key, by_secret, by_tls };
    needs.check_key(key_given, certificate_given, auth, report);
    let named = jwt.as_ref().and_then(|jwt| jwt.certificate_headers.as_deref());
    needs.check_certificate(certificate_given, named, report);
    needs.check_assertion(assertion_given, by_file, usage, report);
    let typed = by_key || by_secret || by_file;
    if assertion_type.as_deref().is_some_and(|written| written != RawIssuer::ASSERTION_TYPE)
        && auth.is_some()
        && (!typed || usage != JwtUse::ClientAssertion)
    {
        report.error(
            &place.key("assertion_type"),
            "is the type of a client assertion, but bearerd sends none",
            "leave it out, or set client_auth to \"assertion_file\", \"private_key_jwt\" or \"client_secret_jwt\"",
        );
    }
    let jwt_at = place.key("jwt");
    let used = by_key || by_secret;
    if jwt.is_some() && !used && auth.is_some() {
        report.error(
            &jwt_at,
            "describes a JWT, but bearerd makes none",
            "set client_auth = \"private_key_jwt\" or \"client_secret_jwt\", or jwt.use = \"assertion\" or \"bearer\"",
        );
    }
    let has_certificate = certificate_given;
    let jwt = (used || jwt.is_some())
        .then(|| jwt_config(&jwt_at, jwt.unwrap_or_default(), usage, (by_secret, has_certificate), report));
    Signing {
        jwt: jwt.filter(|_| used),
        private_key,
        certificate,
        assertion,
        assertion_type: assertion_type.unwrap_or_else(|| RawIssuer::ASSERTION_TYPE.to_owned()),
    }
}

struct SigningNeeds<'a, 't> {
    place: &'a Place<'t>,
    by_key: bool,
    by_secret: bool,
    by_tls: bool,
}

impl SigningNeeds<'_, '_> {
    fn check_key(&self, key: bool, certificate: bool, auth: Option<&ClientAuth>, report: &mut Report) {
        let Some(auth) = auth else { return };
        let (key_at, certificate_at) = (self.place.key("private_key"), self.place.key("certificate"));
        if self.by_key && !key {
            report.missing(&key_at, "is missing", "private_key = { file = \"key.pem\" }");
        }
        if self.by_secret && key {
            report.error(
                &key_at,
                "is not used with client_secret_jwt",
                "leave it out, or set client_auth = \"private_key_jwt\"",
            );
        }
        let unused = !self.by_key && !self.by_secret && !self.by_tls;
        for (at, given) in [(&key_at, key), (&certificate_at, certificate)] {
            if given && unused {
                report.error(
                    at,
                    format!("is not used with client_auth = \"{}\"", auth.as_str()),
                    "set client_auth = \"private_key_jwt\" or \"tls_client_auth\", or leave it out",
                );
            }
        }
        if self.by_tls {
            self.check_tls(key, certificate, report);
        }
    }

    /// Checks what a JWT's header says about the certificate. `named`: `jwt.certificate_headers`, if written.
    fn check_certificate(&self, given: bool, named: Option<&[String]>, report: &mut Report) {
        let at = self.place.key("certificate");
        if self.by_secret {
            if given {
                report.error(
                    &at,
                    "is not used with client_secret_jwt",
                    "leave it out, or set client_auth = \"private_key_jwt\"",
                );
            }
            if named.is_some_and(|named| !named.is_empty()) {
                report.error(
                    &self.place.key("jwt").key("certificate_headers"),
                    "is about the certificate of a private key, but client_secret_jwt has none",
                    "leave it out, or set client_auth = \"private_key_jwt\"",
                );
            }
        } else if self.by_key && !self.by_tls && given && named.is_some_and(<[String]>::is_empty) {
            report.error(
                &at,
                "is not used: jwt.certificate_headers names no header for it",
                "leave it out, or name \"x5t#S256\", \"x5t\" or \"x5c\" there",
            );
        }
    }

    /// Requires `certificate` and `private_key` here, or both in `tls`.
    fn check_tls(&self, key: bool, certificate: bool, report: &mut Report) {
        let keys = ["certificate", "spiffe"].map(|key| self.place.key("tls").key(key));
        let in_tls = keys.iter().find(|key| key.is_written());
        let tls = in_tls.unwrap_or(self.place);
        match (certificate || key, in_tls.is_some()) {
            (true, true) => {
                report.error(tls, "cannot be combined with the issuer's `certificate`", "keep one of them")
            }
            (false, false) => {
                report.missing(
                    &self.place.key("certificate"),
                    "is missing, and tls_client_auth shows it to the issuer",
                    "certificate = { file = \"cert.pem\" } and private_key = { file = \"key.pem\" }; one file may hold both",
                );
            }
            (true, false) if !certificate => {
                // A PKCS#12 or PEM file may contain both.
                report.missing(
                    &self.place.key("certificate"),
                    "is missing beside `private_key`",
                    "certificate = { file = \"cert.pem\" }; the same file where it holds both",
                );
            }
            _ => {}
        }
    }

    fn check_assertion(&self, given: bool, by_file: bool, usage: JwtUse, report: &mut Report) {
        let at = self.place.key("assertion");
        if by_file && !given {
            report.missing(&at, "is missing", "assertion = { file = \"/var/run/secrets/tokens/idp\" }");
        }
        if given && usage == JwtUse::Assertion {
            report.error(
                &at,
                "cannot be combined with jwt.use = \"assertion\"",
                "keep one: a ready-made assertion, or one that is signed here",
            );
        }
    }
}

impl JwtConfig {
    /// A JWT with every default but its use.
    pub fn with_defaults(usage: JwtUse) -> Self {
        unwritten(|place, report| jwt_config(place, RawJwt::default(), usage, (false, false), report))
    }
}

fn jwt_config(
    at: &Place<'_>,
    raw: RawJwt,
    usage: JwtUse,
    (by_secret, has_certificate): (bool, bool),
    report: &mut Report,
) -> JwtConfig {
    let alg = alg(at, raw.alg, by_secret, report);
    let certificate_headers = match raw.certificate_headers {
        Some(written) => certificate_headers(&at.key("certificate_headers"), &written, report),
        None if has_certificate => vec![CertificateHeader::X5tS256],
        None => Vec::new(),
    };
    let mut read =
        |key: &str, raw: Option<RawPublic>| raw.and_then(|raw| reference(&at.key(key), raw, report));
    let (key_id, issuer) = (read("key_id", raw.key_id), read("issuer", raw.issuer));
    let (subject, audience) = (read("subject", raw.subject), read("audience", raw.audience));
    let lifetime = raw.lifetime.read(at, "lifetime", report);
    // `iat` is some seconds in the past, because clocks differ.
    if lifetime < LEAST_LIFETIME {
        report.error(&at.key("lifetime"), "must be at least \"10s\"", "\"60s\" is the default");
    }
    JwtConfig {
        usage,
        alg,
        key_id,
        typ: raw.typ.unwrap_or_else(|| RawJwt::TYPE.to_owned()),
        issuer,
        subject,
        audience,
        lifetime,
        scope: raw.scope.read(at, "scope", report),
        certificate_headers,
        claims: claims(&at.key("claims"), raw.claims, report),
    }
}

fn alg(at: &Place<'_>, written: Option<String>, symmetric: bool, report: &mut Report) -> Option<Alg> {
    let written = written?;
    let place = at.key("alg");
    let Ok(alg) = written.parse::<Alg>() else {
        let names: Vec<&str> = Alg::names().collect();
        let message = format!("{} is not one of \"{}\"", place.describe(), names.join("\", \""));
        report.error(&place, message, did_you_mean(&written, names, ""));
        return None;
    };
    if alg.is_symmetric() != symmetric {
        let (what, hint) = if symmetric {
            ("signs with a private key, but client_secret_jwt has a secret", "HS256, HS384 or HS512")
        } else {
            (
                "signs with a shared secret, but this is about a private key",
                "RS256, PS256, ES256, EdDSA and so on, by the key's type",
            )
        };
        report.error(&place, format!("\"{alg}\" {what}"), hint);
        return None;
    }
    Some(alg)
}

fn certificate_headers(at: &Place<'_>, written: &[String], report: &mut Report) -> Vec<CertificateHeader> {
    let known = [
        ("x5t", CertificateHeader::X5t),
        ("x5t#S256", CertificateHeader::X5tS256),
        ("x5c", CertificateHeader::X5c),
    ];
    let mut headers = Vec::new();
    for (index, name) in written.iter().enumerate() {
        match known.iter().find(|(word, _)| word == name) {
            Some((_, header)) if !headers.contains(header) => headers.push(*header),
            Some(_) => {}
            None => {
                let place = at.index(index);
                let message = format!("{} is not one of \"x5t\", \"x5t#S256\", \"x5c\"", place.describe());
                report.error(&place, message, did_you_mean(name, known.iter().map(|(word, _)| *word), ""));
            }
        }
    }
    headers
}

/// `dpop`.
fn dpop(at: &Place<'_>, raw: Option<RawDpop>, report: &mut Report) -> Option<DpopConfig> {
    let RawDpop { private_key, alg: written } = raw?;
    let alg = alg(at, written, false, report);
    let Some(raw) = private_key else {
        report.missing(&at.key("private_key"), "is missing", "private_key = { file = \"dpop.pem\" }");
        return None;
    };
    let private_key = reference(&at.key("private_key"), raw, report)?;
    Some(DpopConfig { private_key, alg })
}
