//! Explains TLS failures to operators.

use std::error::Error as StdError;
use std::io;
use std::time::{Duration, UNIX_EPOCH};

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible};

use super::failure::{ConnectError, ConnectErrorKind};
use super::tls::AnotherSpiffeId;

/// The most names of a certificate in an error.
const NAMES_TOLD: usize = 6;

/// Finds the TLS failure behind `error`, if there is one. With TLS 1.3, a peer refuses a client certificate only after the
/// handshake, so the failure appears as a read error of the HTTP connection. The message names `who`.
pub fn tls_cause(error: &(dyn StdError + 'static), who: &str) -> Option<ConnectError> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref::<Error>() {
            return Some(explain(tls, who));
        }
        // `io::Error::source` returns the source of the wrapped error, not that error.
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(tls) = wrapped.and_then(|inner| inner.downcast_ref::<Error>()) {
            return Some(explain(tls, who));
        }
        next = match wrapped {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

/// Explains a handshake that failed.
pub(super) fn handshake(error: &io::Error, who: &str) -> ConnectError {
    tls_cause(error, who).unwrap_or_else(|| {
        let why = match error.kind() {
            io::ErrorKind::UnexpectedEof => "it closed the connection".to_owned(),
            _ => super::failure::os_words(error),
        };
        tls_failed(who, &why)
    })
}

pub(super) fn tls_failed(who: &str, why: &str) -> ConnectError {
    ConnectError { kind: ConnectErrorKind::Tls, message: format!("TLS with {who} failed: {why}") }
}

fn not_accepted(message: String) -> ConnectError {
    ConnectError { kind: ConnectErrorKind::Certificate, message }
}

fn explain(error: &Error, who: &str) -> ConnectError {
    match error {
        Error::InvalidCertificate(certificate) => {
            not_accepted(format!("the certificate of {who} was not accepted: {}", distrust(certificate)))
        }
        Error::NoCertificatesPresented => not_accepted(format!("{who} sent no certificate")),
        Error::AlertReceived(alert) => refused(*alert, who),
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            tls_failed(who, "its response is not TLS; is the port right, or is it http://?")
        }
        Error::PeerIncompatible(
            PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
        ) => tls_failed(who, "it speaks neither TLS 1.2 nor TLS 1.3"),
        Error::PeerIncompatible(PeerIncompatible::ExtendedMasterSecretExtensionRequired) => {
            tls_failed(who, "it lacks the extended master secret (RFC 7627); its TLS software is too old")
        }
        other => tls_failed(who, &in_words(&other.to_string())),
    }
}

/// Replaces names of Rust values in rustls's messages with words.
fn in_words(text: &str) -> String {
    let is_name = |word: &str| {
        let has = |wanted: fn(&u8) -> bool| word.bytes().any(|byte| wanted(&byte));
        word.starts_with(|first: char| first.is_ascii_uppercase())
            && word.bytes().filter(u8::is_ascii_uppercase).count() > 1
            && has(u8::is_ascii_lowercase)
            && word.bytes().all(|byte| byte.is_ascii_alphanumeric())
    };
    let mut words = String::with_capacity(text.len() + 16);
    for part in text.split_inclusive(|char: char| !char.is_ascii_alphanumeric()) {
        let word = part.trim_end_matches(|char: char| !char.is_ascii_alphanumeric());
        if !is_name(word) {
            words.push_str(part);
            continue;
        }
        for (at, letter) in part.char_indices() {
            if at > 0 && letter.is_ascii_uppercase() {
                words.push(' ');
            }
            words.push(letter.to_ascii_lowercase());
        }
    }
    words
}

/// Explains an alert of the peer (RFC 8446 section 6.2).
fn refused(alert: AlertDescription, who: &str) -> ConnectError {
    use AlertDescription as Alert;
    match alert {
        Alert::CertificateRequired | Alert::NoCertificate => not_accepted(format!(
            "{who} requires a client certificate: set tls.certificate and tls.private_key"
        )),
        Alert::BadCertificate
        | Alert::UnsupportedCertificate
        | Alert::CertificateRevoked
        | Alert::CertificateExpired
        | Alert::CertificateUnknown
        | Alert::UnknownCA
        | Alert::AccessDenied => not_accepted(format!(
            "{who} did not accept our client certificate (alert {alert:?}): {}",
            disliked(alert)
        )),
        Alert::HandshakeFailure => tls_failed(
            who,
            "it broke off the handshake: it shares no cipher or version with us, or requires a client certificate",
        ),
        Alert::ProtocolVersion => tls_failed(who, "it speaks neither TLS 1.2 nor TLS 1.3"),
        Alert::UnrecognisedName => {
            tls_failed(who, "it does not know the requested name; set tls.server_name to one it serves")
        }
        Alert::NoApplicationProtocol => {
            tls_failed(who, "it speaks none of the HTTP versions it was offered (ALPN); see `protocol`")
        }
        other => tls_failed(who, &in_words(&format!("it broke off with the alert {other:?}"))),
    }
}

/// Why the peer refused the client certificate, as far as its alert says.
fn disliked(alert: AlertDescription) -> &'static str {
    use AlertDescription as Alert;
    match alert {
        Alert::CertificateExpired => {
            "it has expired, or one of the two clocks is wrong; have a new one issued"
        }
        Alert::UnknownCA => {
            "it does not trust the CA of ours; have that CA registered there, or use another certificate"
        }
        Alert::CertificateRevoked => "it is revoked; have a new one issued",
        Alert::AccessDenied => "it is good, but its holder may not come in",
        _ => "see which certificate is registered there, and that tls.certificate holds it",
    }
}

pub(super) fn distrust(error: &CertificateError) -> String {
    match error {
        CertificateError::UnknownIssuer => {
            "its issuer is not trusted here; set tls.ca to the CA's certificate, \
            and see that the server sends its intermediate certificates"
                .to_owned()
        }
        CertificateError::ExpiredContext { not_after, .. } => {
            format!(
                "it, or one above it, expired on {} (is this machine's clock right?)",
                date(not_after.as_secs())
            )
        }
        CertificateError::Expired => "it, or one above it, has expired".to_owned(),
        CertificateError::NotValidYetContext { not_before, .. } => format!(
            "it, or one above it, is not valid before {} (is this machine's clock right?)",
            date(not_before.as_secs())
        ),
        CertificateError::NotValidForNameContext { expected, presented }
            if !presented.iter().any(|name| is_of_a_server(name)) =>
        {
            format!(
                "it has no server's name in its subjectAltName, which is where names count; have it issued again with {} \
                 in it",
                expected.to_str()
            )
        }
        CertificateError::NotValidForNameContext { expected, presented } => format!(
            "it is for {}, not for {}; set tls.server_name if that is meant",
            names(presented),
            expected.to_str()
        ),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "it is not meant for servers (extended key usage)".to_owned()
        }
        CertificateError::BadSignature => {
            "the CA known here has the issuer's name, but another key (was the CA \
            renewed?); set tls.ca to the CA's present certificate"
                .to_owned()
        }
        CertificateError::Revoked => "it is revoked".to_owned(),
        CertificateError::BadEncoding => "it is not valid X.509".to_owned(),
        CertificateError::Other(other) => match other.0.downcast_ref::<AnotherSpiffeId>() {
            Some(error) => error.to_string(),
            None => unusual(&other.to_string()),
        },
        other => in_words(&other.to_string()),
    }
}

/// Explains an error of the verifier, which rustls passes on as the name of a Rust value.
fn unusual(name: &str) -> String {
    let known = [
        (
            "CaUsedAsEndEntity",
            "it is a CA's own certificate; a server needs one that is issued by the CA (CA:FALSE)",
        ),
        ("UnsupportedCertVersion", "it is X.509 version 1 or 2; have it issued again in version 3"),
        (
            "UnsupportedCriticalExtension",
            "it has an extension that is marked as critical and not known here; have it issued again without, or with \
             the mark taken off",
        ),
        (
            "PathLenConstraintViolated",
            "there are more CAs between it and the root than the root allows (pathLen)",
        ),
        ("NameConstraintViolation", "a CA above it may not issue for this name (name constraints)"),
        ("EndEntityUsedAsCa", "what signed it is no CA (CA:FALSE)"),
        ("MaximumPathDepthExceeded", "there are more CAs between it and the root than are looked through"),
    ];
    let words = known.iter().find(|(part, _)| name.contains(part)).map(|(_, words)| (*words).to_owned());
    words.unwrap_or_else(|| format!("it is unusual in a way that is not supported ({})", innermost(name)))
}

/// `Other(OtherError(UnsupportedCertVersion))` is `UnsupportedCertVersion`.
fn innermost(name: &str) -> &str {
    let name = name.rsplit('(').next().unwrap_or(name);
    name.trim_end_matches(')')
}

/// webpki writes names as `DnsName("a.example")` and `IpAddress(10.0.0.1)`.
fn names(presented: &[String]) -> String {
    let presented: Vec<&String> = presented.iter().filter(|name| is_of_a_server(name)).collect();
    let mut told: Vec<String> = presented.iter().take(NAMES_TOLD).map(|name| plain_name(name)).collect();
    if presented.len() > NAMES_TOLD {
        told.push(format!("{} more", presented.len() - NAMES_TOLD));
    }
    told.join(", ")
}

/// A mail address or a URI is none.
fn is_of_a_server(name: &str) -> bool {
    name.starts_with("DnsName") || name.starts_with("IpAddress")
}

fn plain_name(name: &str) -> String {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')')).unwrap_or(name);
    // The peer chose these characters.
    inner.trim_matches('"').chars().filter(|character| !character.is_control()).take(100).collect()
}

fn date(seconds: u64) -> String {
    UNIX_EPOCH
        .checked_add(Duration::from_secs(seconds))
        .map_or_else(|| format!("second {seconds}"), httpdate::fmt_http_date)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lose_their_wrapping() {
        let presented = ["DnsName(\"a.example\")".to_owned(), "IpAddress(10.0.0.1)".to_owned()];
        assert_eq!(names(&presented), "a.example, 10.0.0.1");
        let many = vec!["DnsName(\"a\x1b[2J\")".to_owned(); 9];
        assert!(names(&many).ends_with("a[2J, 3 more"));
    }

    #[test]
    fn what_names_no_server_is_not_told_as_a_name() {
        let expected = rustls::pki_types::ServerName::try_from("idp.example").unwrap();
        let said = |presented: &[&str]| {
            let presented = presented.iter().map(|name| (*name).to_owned()).collect();
            distrust(&CertificateError::NotValidForNameContext { expected: expected.to_owned(), presented })
        };
        for none in [&[][..], &["Unsupported(0x01)"]] {
            assert!(said(none).contains("no server's name in its subjectAltName"), "{}", said(none));
        }
        let other = said(&["Unsupported(0x01)", "DnsName(\"a.example\")"]);
        assert!(other.starts_with("it is for a.example, not for idp.example;"), "{other}");
    }

    #[test]
    fn names_of_rust_are_words() {
        for (text, words) in [
            ("peer misbehaved: SelectedUnofferedKxGroup", "peer misbehaved: selected unoffered kx group"),
            ("received HTTP/1.1 from API (TLS)", "received HTTP/1.1 from API (TLS)"),
            ("x: Unknown(112), IllegalParameter", "x: Unknown(112), illegal parameter"),
        ] {
            assert_eq!(in_words(text), words);
        }
        let other =
            explain(&Error::PeerMisbehaved(rustls::PeerMisbehaved::SelectedUnofferedKxGroup), "idp:443");
        assert!(other.message.contains("selected unoffered kx group"), "{}", other.message);
    }

    #[test]
    fn an_alert_is_found_behind_an_io_error() {
        let tls = Error::AlertReceived(AlertDescription::CertificateRequired);
        let error = io::Error::new(io::ErrorKind::InvalidData, tls);
        let found = tls_cause(&error, "idp:443").unwrap();
        assert_eq!(found.kind, ConnectErrorKind::Certificate);
        assert_eq!(
            found.message,
            "idp:443 requires a client certificate: set tls.certificate and tls.private_key"
        );
        assert!(tls_cause(&io::Error::other("x"), "idp:443").is_none());
    }

    #[test]
    fn no_rust_value_is_shown_as_it_is() {
        for (name, part) in [
            ("UnsupportedCertVersion", "version 1 or 2"),
            ("Other(OtherError(UnsupportedCertVersion))", "version 1 or 2"),
            ("OtherError(UnsupportedCriticalExtension)", "marked as critical"),
            ("Other(OtherError(SomethingNew))", "not supported (SomethingNew)"),
            ("SomethingNew", "not supported (SomethingNew)"),
        ] {
            assert!(unusual(name).contains(part), "{name}: {}", unusual(name));
        }
    }
}
