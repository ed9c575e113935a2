//! How the client proves who it is: `client_auth` and the keys that go with it.

use super::super::client_auth::{self, ClientAuth, ClientSecretBasic, METHODS, Method, NoProof, Proof};
use super::super::document::Place;
use super::super::model::{BasicEncoding, BasicUser, JwtUse, Standby};
use super::super::raw::issuer::{RawBasic, RawStandby};
use super::super::raw::values::RawReference;
use super::super::reference::Source;
use super::super::report::{Report, did_you_mean};
use super::value::{ValueKind, reference};

/// What is written beside `client_auth`, and changes what it is where it is not written itself.
pub(super) struct Beside {
    pub(super) encoding: BasicEncoding,
    pub(super) usage: JwtUse,
}

/// The method, or the error reported.
pub(super) fn client_auth(
    place: &Place<'_>,
    written: Option<String>,
    secret: Option<RawReference>,
    beside: &Beside,
    report: &mut Report,
) -> Option<ClientAuth> {
    let (at, secret_at) = (place.key("client_auth"), place.key("client_secret"));
    // The grant's own assertion proves who asks: a secret beside it is the exception.
    let proved_by_jwt = beside.usage != JwtUse::ClientAssertion && secret.is_none();
    let default: &dyn Method = if proved_by_jwt { &NoProof } else { &ClientSecretBasic };
    let found = written.as_deref().map_or(Some(default), client_auth::method);
    let signs_by_secret = found.is_some_and(|method| method.proof() == Proof::SignedBySecret);
    let secret = secret.map(|raw| reference(&secret_at, raw, secret_kind(signs_by_secret), report));
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

fn secret_kind(signs: bool) -> ValueKind {
    if signs { ValueKind::Secret } else { ValueKind::MaybeEmpty }
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
pub(super) fn basic(
    at: &Place<'_>,
    raw: Option<RawBasic>,
    encoding: BasicEncoding,
    report: &mut Report,
) -> Option<BasicUser> {
    let RawBasic { user, password } = raw?;
    let mut read = |key: &str, raw: Option<RawReference>, kind, example: &str| match raw {
        Some(raw) => reference(&at.key(key), raw, kind, report),
        None => {
            report.missing(&at.key(key), "is missing", example);
            None
        }
    };
    let user = read("user", user, ValueKind::Public, "user = \"…\"");
    let password = read("password", password, ValueKind::Secret, "password = { file = \"…\" }");
    Some(BasicUser { user: user?, password: password?, encoding })
}

/// `standby`, for what `client_auth` sends.
pub(super) fn standby(
    at: &Place<'_>,
    raw: Option<RawStandby>,
    auth: Option<&ClientAuth>,
    usage: JwtUse,
    report: &mut Report,
) -> Option<Standby> {
    let RawStandby { client_id, client_secret, private_key, certificate, key_id } = raw?;
    let mut read = |key: &str, raw: Option<RawReference>, kind, used: bool| {
        let raw = raw?;
        let place = at.key(key);
        if let Some(auth) = auth.filter(|_| !used) {
            let message = format!("is not used with client_auth = \"{}\"", auth.as_str());
            report.error(&place, message, "leave it out");
        }
        reference(&place, raw, kind, report)
    };
    let secret = auth.is_none_or(|auth| auth.proof().has_secret());
    let by_key = |auth: &ClientAuth| auth.proof() == Proof::SignedByKey;
    let key = usage != JwtUse::ClientAssertion || auth.is_none_or(by_key);
    let signs = secret || key;
    let secret_kind = secret_kind(auth.is_some_and(|auth| auth.proof() == Proof::SignedBySecret));
    let standby = Standby {
        client_id: read("client_id", client_id, ValueKind::Public, signs),
        client_secret: read("client_secret", client_secret, secret_kind, secret),
        private_key: read("private_key", private_key, ValueKind::Key, key),
        certificate: read("certificate", certificate, ValueKind::Certificate, key),
        key_id: read("key_id", key_id, ValueKind::Public, key),
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

/// Where HTTP's `Authorization` is taken already.
pub(super) fn refuse_second_authorization(
    place: &Place<'_>,
    auth: Option<&ClientAuth>,
    usage: Option<JwtUse>,
    headers: &[(http::HeaderName, Source)],
    report: &mut Report,
) {
    let sets_header = headers.iter().any(|(name, _)| name == http::header::AUTHORIZATION);
    let basic = place.key("basic").is_written();
    let mut takers = Vec::new();
    takers.extend(auth.filter(|auth| auth.proof() == Proof::Basic).map(ClientAuth::as_str));
    if usage == Some(JwtUse::Bearer) {
        takers.push("jwt.use = \"bearer\"");
    }
    if basic {
        takers.push("`basic`");
    }
    let (at, what) = match takers.as_slice() {
        [taker, ..] if sets_header => {
            (place.key("headers"), format!("sets `authorization`, which {taker} sends too"))
        }
        [first, second, ..] => {
            let at = place.key(if basic { "basic" } else { "jwt" });
            (at, format!("{first} and {second} would both send `authorization`"))
        }
        _ => return,
    };
    report.error(&at, what, "use one way to authenticate: RFC 6749 section 2.3 allows no second");
}
