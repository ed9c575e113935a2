//! How the client proves who it is: `client_auth` and the keys that go with it.

use super::super::document::Place;
use super::super::model::{BasicEncoding, BasicUser, ClientAuth, JwtUse, Standby};
use super::super::raw::issuer::{CLIENT_AUTH, RawBasic, RawStandby};
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
    let default = if proved_by_jwt { "none" } else { "client_secret_basic" };
    let method = written.as_deref().unwrap_or(default);
    let kind = if method == "client_secret_jwt" { ValueKind::Secret } else { ValueKind::MaybeEmpty };
    let secret = secret.map(|raw| reference(&secret_at, raw, kind, report));
    if !CLIENT_AUTH.contains(&method) {
        let message = format!("{} is not one of \"{}\"", at.describe(), CLIENT_AUTH.join("\", \""));
        let hint = match method {
            "self_signed_tls_client_auth" => "write \"tls_client_auth\", which serves both".to_owned(),
            _ => did_you_mean(method, CLIENT_AUTH.iter().copied(), ""),
        };
        report.error(&at, message, hint);
        return None;
    }
    let takes_secret = matches!(method, "client_secret_basic" | "client_secret_post" | "client_secret_jwt");
    if !takes_secret {
        if secret_at.is_written() {
            let message = format!("is not sent with client_auth = \"{method}\"");
            report.error(&secret_at, message, "leave out one of them");
        }
        return Some(match method {
            "private_key_jwt" => ClientAuth::PrivateKeyJwt,
            "tls_client_auth" => ClientAuth::TlsClientAuth,
            "assertion_file" => ClientAuth::AssertionFile,
            _ => ClientAuth::None,
        });
    }
    if secret.is_none() {
        report.missing(&secret_at, "is missing", secret_hint(place));
    }
    let secret = secret??;
    Some(match method {
        "client_secret_post" => ClientAuth::Post { secret },
        "client_secret_jwt" => ClientAuth::SecretJwt { secret },
        _ => ClientAuth::Basic { secret, encoding: beside.encoding },
    })
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
    let secret = auth.is_none_or(|auth| auth.secret().is_some());
    let by_key = |auth: &ClientAuth| matches!(auth, ClientAuth::PrivateKeyJwt);
    let key = usage != JwtUse::ClientAssertion || auth.is_none_or(by_key);
    let signs = secret || key;
    let signs_by_secret = matches!(auth, Some(ClientAuth::SecretJwt { .. }));
    let secret_kind = if signs_by_secret { ValueKind::Secret } else { ValueKind::MaybeEmpty };
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
    if matches!(auth, Some(ClientAuth::Basic { .. })) {
        takers.push("client_secret_basic");
    }
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
