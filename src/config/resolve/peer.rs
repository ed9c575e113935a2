//! What issuers and upstreams have in common: TLS and the way out of this machine.

use super::super::document::Place;
use super::super::environment;
use super::super::model::{Egress, Roots, TlsOptions};
use super::super::raw::issuer::RawTls;
use super::super::raw::keys::check;
use super::super::raw::values::{RawEgress, RawProxy, RawReference};
use super::super::reference::Source;
use super::super::report::Report;
use super::super::types::{url, wrong};
use super::value::{ValueKind, literal_allowed, reference};

/// What proxies listen on where the URL does not say is no standard; http's own port is what it reads like.
const PROXY_PORT: u16 = 80;

pub(super) fn tls(place: &Place<'_>, raw: Option<RawTls>, report: &mut Report) -> TlsOptions {
    let Some(RawTls { ca, roots, certificate, private_key, server_name }) = raw else {
        return TlsOptions::default();
    };
    let (ca_given, roots_given) = (ca.is_some(), roots.is_given());
    let default = if ca_given { Roots::Ca } else { Roots::System };
    let roots = roots.read_or(default, place, "roots", report);
    let roots_at = place.key("roots");
    match roots {
        Roots::Ca | Roots::Both if !ca_given && !place.key("ca").is_written() => {
            report.error(&roots_at, "needs `ca`", "ca = { file = \"ca.pem\" }");
        }
        Roots::System if ca_given && roots_given => {
            report.error(
                &roots_at,
                "\"system\" leaves `ca` without use",
                "write roots = \"both\", or leave out one of them",
            );
        }
        _ => {}
    }
    for (one, other) in [("certificate", "private_key"), ("private_key", "certificate")] {
        if place.key(one).is_written() {
            report.missing(
                &place.key(other),
                format!("is missing beside `{one}`"),
                format!("{other} = {{ file = \"…\" }}"),
            );
        }
    }
    if let Some(name) = &server_name {
        let is_address = name.parse::<std::net::IpAddr>().is_ok();
        let result = if is_address { Ok(()) } else { url::host_name(name) };
        check(&place.key("server_name"), result, report);
    }
    let mut read = |key: &str, raw: Option<RawReference>, kind| {
        raw.and_then(|raw| reference(&place.key(key), raw, kind, report))
    };
    TlsOptions {
        ca: read("ca", ca, ValueKind::Certificate),
        roots,
        certificate: read("certificate", certificate, ValueKind::Certificate),
        private_key: read("private_key", private_key, ValueKind::Key),
        server_name,
    }
}

pub(super) fn egress(place: &Place<'_>, raw: Option<RawEgress>, report: &mut Report) -> Egress {
    match raw {
        None => Egress::Direct,
        Some(RawEgress::Text(text)) if text.expose() == b"env" => {
            warn_of_the_environment(place, report);
            Egress::Env
        }
        Some(RawEgress::Text(text)) => {
            proxy(place, text.expose_str().unwrap_or_default(), None, report).unwrap_or_default()
        }
        Some(RawEgress::Table(RawProxy { url, userinfo })) => {
            let at = place.key("url");
            let Some(url) = url else {
                report.missing(&at, "is missing", "url = \"http://egress:3128\"");
                return Egress::Direct;
            };
            let userinfo =
                userinfo.and_then(|raw| reference(&place.key("userinfo"), raw, ValueKind::Secret, report));
            proxy(&at, &url, userinfo, report).unwrap_or_default()
        }
    }
}

/// What the environment says is in force or told of.
fn warn_of_the_environment(place: &Place<'_>, report: &mut Report) {
    let no_proxy = environment::proxy_variables().no_proxy;
    let meaningless = environment::meaningless_entries(&no_proxy);
    if !meaningless.is_empty() {
        let shown: String =
            meaningless.join("`, `").chars().filter(|char| !char.is_control()).take(200).collect();
        report.warning(
            place,
            format!("the environment's NO_PROXY names `{shown}`, which matches no host"),
            "write names (corp.example, with all below it), addresses or networks (10.0.0.0/8), with a port or without",
        );
    }
}

/// What is plain because it stays on this machine must not leave it: a proxy elsewhere opens its tunnel there, and reads
/// along.
pub(super) fn refuse_plain_tunnel(place: &Place<'_>, host: &str, egress: &Egress, report: &mut Report) {
    let Egress::Proxy { host: proxy, .. } = egress else { return };
    if url::is_this_machine(host) && !url::is_this_machine(proxy) {
        report.error(
            &place.key("proxy"),
            "http:// is for this machine alone, and a proxy elsewhere takes it over the network in the clear",
            "leave `proxy` out",
        );
    }
}

fn proxy(place: &Place<'_>, text: &str, userinfo: Option<Source>, report: &mut Report) -> Option<Egress> {
    let parts = url::parts(text).map_err(|error| {
        wrong(error.message, "write \"http://egress:3128\", or \"env\" for HTTPS_PROXY and NO_PROXY")
    });
    let parts = check(place, parts, report)?;
    if parts.https {
        report.error(
            place,
            "TLS to the proxy itself is not built yet",
            "write \"http://…\": what goes through is encrypted by itself",
        );
        return None;
    }
    if !matches!(parts.path_and_query, "" | "/") {
        report.error(place, "a proxy's URL has no path", "write \"http://egress:3128\"");
        return None;
    }
    let userinfo = match (parts.userinfo, userinfo) {
        (Some(_), Some(_)) => {
            report.error(
                place,
                "user and password stand both in the URL and in `userinfo`",
                "keep `userinfo`",
            );
            return None;
        }
        (Some(written), None) => {
            literal_allowed(place, ValueKind::Secret, report)?;
            let decoded: Vec<u8> = percent_encoding::percent_decode_str(written).collect();
            Some(Source::literal(crate::secret::Secret::new(decoded)))
        }
        (None, userinfo) => userinfo,
    };
    Some(Egress::Proxy { host: parts.host, port: parts.port.unwrap_or(PROXY_PORT), userinfo })
}
