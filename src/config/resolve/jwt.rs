//! `jwt`, `private_key`, `certificate`, `assertion`, `dpop`: what an issuer's token requests sign and assert.

use std::time::Duration;

use super::super::client_auth::{ClientAuth, Proof};
use super::super::document::Place;
use super::super::model::{CertificateHeader, DpopConfig, JwtConfig, JwtUse};
use super::super::raw::issuer::{RawDpop, RawIssuer, RawJwt};
use super::super::raw::values::RawReference;
use super::super::reference::Source;
use super::super::report::{Report, did_you_mean};
use super::unwritten;
use super::value::{ValueKind, claims, reference};
use crate::jose::Alg;

/// Less, and it may have expired by the issuer's clock when it comes there.
const LEAST_LIFETIME: Duration = Duration::from_secs(10);

/// What a JWT of this issuer would be for.
pub(super) fn usage(place: &Place<'_>, raw: Option<&RawJwt>, report: &mut Report) -> JwtUse {
    raw.map(|raw| raw.usage.read(&place.key("jwt"), "use", report)).unwrap_or_default()
}

/// The keys about signing, as they are written.
pub(super) struct Written {
    pub(super) jwt: Option<RawJwt>,
    pub(super) private_key: Option<RawReference>,
    pub(super) certificate: Option<RawReference>,
    pub(super) assertion: Option<RawReference>,
    pub(super) assertion_type: Option<String>,
}

/// What comes of them.
pub(super) struct Signing {
    pub(super) jwt: Option<JwtConfig>,
    pub(super) private_key: Option<Source>,
    pub(super) certificate: Option<Source>,
    pub(super) assertion: Option<Source>,
    pub(super) assertion_type: String,
}

pub(super) fn signing(
    place: &Place<'_>,
    written: Written,
    usage: JwtUse,
    auth: Option<&ClientAuth>,
    report: &mut Report,
) -> Signing {
    let Written { jwt, private_key, certificate, assertion, assertion_type } = written;
    let mut read = |key: &str, raw: Option<RawReference>, kind| {
        raw.and_then(|raw| reference(&place.key(key), raw, kind, report))
    };
    let key_given = private_key.is_some();
    let (certificate_given, assertion_given) = (certificate.is_some(), assertion.is_some());
    let private_key = read("private_key", private_key, ValueKind::Key);
    let certificate = read("certificate", certificate, ValueKind::Certificate);
    let assertion = read("assertion", assertion, ValueKind::Secret);

    let proof = auth.map(ClientAuth::proof);
    let by_key = proof == Some(Proof::SignedByKey) || usage != JwtUse::ClientAssertion;
    let by_secret = proof == Some(Proof::SignedBySecret);
    let by_tls = proof == Some(Proof::Certificate);
    let by_file = proof == Some(Proof::ReadyMade);
    let needs = Needs { place, by_key, by_secret, by_tls };
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
            "is the type of a client assertion, and none is sent",
            "leave it out, or set client_auth to \"assertion_file\", \"private_key_jwt\" or \"client_secret_jwt\"",
        );
    }
    let jwt_at = place.key("jwt");
    let used = by_key || by_secret;
    if jwt.is_some() && !used && auth.is_some() {
        report.error(
            &jwt_at,
            "says how a JWT is made, and none is",
            "set client_auth = \"private_key_jwt\" or \"client_secret_jwt\", or jwt.use = \"assertion\" or \"bearer\"",
        );
    }
    let has_certificate = certificate_given;
    let jwt = (used || jwt.is_some())
        .then(|| builder(&jwt_at, jwt.unwrap_or_default(), usage, (by_secret, has_certificate), report));
    Signing {
        jwt: jwt.filter(|_| used),
        private_key,
        certificate,
        assertion,
        assertion_type: assertion_type.unwrap_or_else(|| RawIssuer::ASSERTION_TYPE.to_owned()),
    }
}

struct Needs<'a, 't> {
    place: &'a Place<'t>,
    by_key: bool,
    by_secret: bool,
    by_tls: bool,
}

impl Needs<'_, '_> {
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

    /// What a JWT's header says of the certificate (`jwt.certificate_headers`, where it is written).
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
                    "is about the certificate of a private key, and client_secret_jwt has none",
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

    /// `certificate` and `private_key` here, or both in `tls`.
    fn check_tls(&self, key: bool, certificate: bool, report: &mut Report) {
        let tls = self.place.key("tls").key("certificate");
        match (certificate || key, tls.is_written()) {
            (true, true) => {
                report.error(&tls, "stands beside the issuer's `certificate`", "keep one of them")
            }
            (false, false) => {
                report.missing(
                    &self.place.key("certificate"),
                    "is missing, and tls_client_auth shows it to the issuer",
                    "certificate = { file = \"cert.pem\" } and private_key = { file = \"key.pem\" }; one file may hold both",
                );
            }
            (true, false) if !certificate => {
                // PKCS#12, or a PEM file with both, may stand in one place.
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
                "stands beside jwt.use = \"assertion\"",
                "keep one: a ready-made assertion, or one that is signed here",
            );
        }
    }
}

impl JwtConfig {
    /// A JWT of which only the use is given.
    pub fn with_defaults(usage: JwtUse) -> Self {
        unwritten(|place, report| builder(place, RawJwt::default(), usage, (false, false), report))
    }
}

fn builder(
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
    let mut read = |key: &str, raw: Option<RawReference>| {
        raw.and_then(|raw| reference(&at.key(key), raw, ValueKind::Public, report))
    };
    let (key_id, issuer) = (read("key_id", raw.key_id), read("issuer", raw.issuer));
    let (subject, audience) = (read("subject", raw.subject), read("audience", raw.audience));
    let lifetime = raw.lifetime.read(at, "lifetime", report);
    // It counts from some seconds ago, for clocks that differ.
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
            ("signs with a private key, and client_secret_jwt has a secret", "HS256, HS384 or HS512")
        } else {
            (
                "signs with a shared secret, and this is about a private key",
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
pub(super) fn dpop(at: &Place<'_>, raw: Option<RawDpop>, report: &mut Report) -> Option<DpopConfig> {
    let RawDpop { private_key, alg: written } = raw?;
    let alg = alg(at, written, false, report);
    let Some(raw) = private_key else {
        report.missing(&at.key("private_key"), "is missing", "private_key = { file = \"dpop.pem\" }");
        return None;
    };
    let private_key = reference(&at.key("private_key"), raw, ValueKind::Key, report)?;
    Some(DpopConfig { private_key, alg })
}
