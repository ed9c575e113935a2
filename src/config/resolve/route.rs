//! `[[route]]`: everything but what it matches.

use std::net::IpAddr;

use http::{HeaderName, HeaderValue, StatusCode};

use super::super::document::Place;
use super::super::model::{
    Address, Credential, Egress, HeaderEdits, Inject, RouteConfig, UpstreamTarget, UpstreamUrl,
};
use super::super::raw::keys::{Plaintext, Word, check};
use super::super::raw::route::{RawHeaderEdits, RawInject, RawRoute};
use super::super::raw::values::RawParams;
use super::super::report::{Report, did_you_mean};
use super::super::types::{self, url};
use super::matching::Matching;
use super::value::{headers, settable_header};
use super::{Known, credential, peer};

/// Checks the whole route; `None` where it has errors, or `matching` has.
pub(super) fn resolve(
    place: &Place<'_>,
    name: &str,
    raw: RawRoute,
    matching: Option<&Matching>,
    known: &Known,
    report: &mut Report,
) -> Option<RouteConfig> {
    let upstream = upstream(place, raw.upstream, known, report);
    check_plaintext(place, upstream.as_ref(), raw.plaintext, report);
    let credential =
        credential(place, raw.issuer, raw.anonymous, (raw.scopes, raw.params, raw.subject), known, report);
    let bound = matches!(&credential, Some(Credential::Issuer { issuer, .. }) if issuer.dpop.is_some());
    let inject = inject(&place.key("inject"), raw.inject.unwrap_or_default(), bound, report);
    let request_headers = edits(&place.key("request_headers"), raw.request_headers, report);
    if let (Some(Inject::Header { name, .. }), Some(Credential::Issuer { .. })) = (&inject, &credential) {
        refuse_second_credential(&place.key("request_headers").key("set"), &request_headers, name, report);
    }
    let egress = peer::egress(&place.key("proxy"), raw.proxy, report);
    check_unix(place, upstream.as_ref(), &egress, report);
    if let Some(UpstreamTarget::Tcp { https: false, host, .. }) = upstream.as_ref().map(|known| &known.target)
    {
        peer::refuse_plain_tunnel(place, host, &egress, report);
    }
    let route = RouteConfig {
        name: name.into(),
        header_case: raw.header_case.read(place, "header_case", report),
        protocol: raw.protocol.read(place, "protocol", report),
        caller_authorization: raw.caller_authorization.read(place, "caller_authorization", report),
        request_headers,
        response_headers: edits(&place.key("response_headers"), raw.response_headers, report),
        forwarded: raw.forwarded.0,
        rewrite_location: raw.rewrite_location.0,
        refresh_on: refresh_on(&place.key("refresh_on"), raw.refresh_on, report),
        replay_limit: raw.replay_limit.read(place, "replay_limit", report),
        allow_encoded_slash: raw.allow_encoded_slash.0,
        connect_timeout: raw.connect_timeout.timeout(place, "connect_timeout", report),
        response_timeout: raw.response_timeout.timeout(place, "response_timeout", report),
        idle_timeout: raw.idle_timeout.timeout(place, "idle_timeout", report),
        connection_max_age: raw.connection_max_age.timeout(place, "connection_max_age", report),
        tls: peer::tls(&place.key("tls"), raw.tls, report),
        egress,
        upstream: upstream?,
        credential: credential?,
        inject: inject?,
        listener: matching?.listener,
        host: matching?.host.clone(),
        path: matching?.path.clone(),
        methods: matching?.methods.clone(),
        match_headers: matching?.headers.clone(),
    };
    Some(route)
}

fn upstream(
    place: &Place<'_>,
    written: Option<String>,
    known: &Known,
    report: &mut Report,
) -> Option<UpstreamUrl> {
    let at = place.key("upstream");
    let Some(text) = written else {
        report.missing(&at, "is missing", "upstream = \"https://…\"");
        return None;
    };
    let upstream = check(&at, url::upstream(&text, &place.document.file.folder), report)?;
    let own = known
        .listeners
        .configs
        .iter()
        .flatten()
        .find(|listener| is_address(&upstream.target, &listener.address));
    if let Some(listener) = own {
        report.error(
            &at,
            format!("is our own listener `{}`: calls would go round in a circle", listener.name),
            "name the server that the requests are meant for",
        );
        return None;
    }
    Some(upstream)
}

/// Whether connecting to `target` from this machine reaches a listener at `address`.
fn is_address(target: &UpstreamTarget, address: &Address) -> bool {
    match (target, address) {
        (UpstreamTarget::Unix(path), Address::Unix(own)) => path == own,
        (UpstreamTarget::Tcp { host, port, .. }, Address::Tcp(own)) if *port == own.port() => {
            let own = own.ip().to_canonical();
            let Ok(asked) = host.parse::<IpAddr>().map(|address| address.to_canonical()) else {
                return host == "localhost" && (own.is_loopback() || own.is_unspecified());
            };
            // Connecting to 0.0.0.0 connects to this machine.
            asked == own
                || (own.is_unspecified() && asked.is_loopback())
                || (asked.is_unspecified() && own.is_loopback())
        }
        _ => false,
    }
}

fn check_plaintext(
    place: &Place<'_>,
    upstream: Option<&UpstreamUrl>,
    written: Word<Plaintext>,
    report: &mut Report,
) {
    let allowed = written.read(place, "plaintext", report) == Plaintext::Allow;
    let Some(UpstreamTarget::Tcp { https: false, host, .. }) = upstream.map(|upstream| &upstream.target)
    else {
        return;
    };
    if url::is_this_machine(host) {
        return;
    }
    let at = place.key("upstream");
    let message = "http:// to another machine: everybody on the way can read the requests and their token";
    if allowed {
        report.warning(&at, message, "use https:// where the server has it");
    } else {
        report.error(&at, message, "write \"https://…\", or accept it with plaintext = \"allow\"");
    }
}

fn check_unix(place: &Place<'_>, upstream: Option<&UpstreamUrl>, egress: &Egress, report: &mut Report) {
    let unix = matches!(upstream.map(|upstream| &upstream.target), Some(UpstreamTarget::Unix(_)));
    if unix && *egress != Egress::Direct {
        report.error(&place.key("proxy"), "no proxy leads to a unix: upstream", "leave it out");
    }
}

fn credential(
    place: &Place<'_>,
    issuer: Option<String>,
    anonymous: Option<bool>,
    (scopes, params, subject): (Option<Vec<String>>, Option<RawParams>, Option<String>),
    known: &Known,
    report: &mut Report,
) -> Option<Credential> {
    let (issuer_at, anonymous_at) = (place.key("issuer"), place.key("anonymous"));
    match (issuer, anonymous.unwrap_or(false)) {
        (Some(_), true) => {
            report.error(&anonymous_at, "stands beside `issuer`", "keep one: a token, or none");
            None
        }
        (None, true) => {
            for key in ["scopes", "params", "subject", "inject"]
                .map(|key| place.key(key))
                .iter()
                .filter(|key| key.is_written())
            {
                report.error(
                    key,
                    "is about a token, and this route sends none",
                    "leave it out, or name an `issuer`",
                );
            }
            Some(Credential::Anonymous)
        }
        (None, false) => {
            if !anonymous_at.is_written() || anonymous.is_some() {
                report.missing(
                    &issuer_at,
                    "is missing",
                    "issuer = \"NAME\", or anonymous = true to forward without a token",
                );
            }
            credential::key(place, None, scopes, params, subject, report);
            None
        }
        (Some(name), false) => {
            let issuer = known.issuers.get(&name);
            if issuer.is_none() && !report.incomplete {
                let names = known.issuers.keys().map(String::as_str);
                let otherwise = match names.clone().collect::<Vec<_>>().join(", ") {
                    none if none.is_empty() => {
                        "add it: [issuer.NAME] with token_url, client_id and client_secret".to_owned()
                    }
                    names => format!("issuers: {names}"),
                };
                let hint = did_you_mean(&name, names, &otherwise);
                report.error(&issuer_at, format!("there is no issuer {}", issuer_at.describe()), hint);
            }
            let issuer = issuer.and_then(Option::as_ref);
            let key = credential::key(place, issuer, scopes, params, subject, report)?;
            Some(Credential::Issuer { issuer: std::sync::Arc::clone(issuer?), key })
        }
    }
}

const TOKEN: &str = "{token}";

/// `bound`: the issuer binds its tokens to a key.
fn inject(at: &Place<'_>, raw: RawInject, bound: bool, report: &mut Report) -> Option<Inject> {
    if let Some(name) = raw.query {
        return inject_query(at, name, (raw.header.is_some(), raw.format.is_some()), bound, report);
    }
    let header = match raw.header {
        Some(name) => settable_header(&at.key("header"), &name, report),
        None => Some(http::header::AUTHORIZATION),
    };
    let by_type = raw.format.as_deref().is_none_or(|format| format == RawInject::FORMAT);
    let format = raw.format.unwrap_or_else(|| RawInject::FORMAT.to_owned());
    let format_at = at.key("format");
    let parts = format.split_once(TOKEN).filter(|(_, after)| !after.contains(TOKEN));
    let Some((before, after)) = parts else {
        report.error(&format_at, format!("must have {TOKEN} in it, once"), "format = \"Bearer {token}\"");
        return None;
    };
    if HeaderValue::from_str(&format).is_err() {
        report.error(&format_at, "is no header value", "use visible ASCII characters and spaces");
        return None;
    }
    let (before, after) = (before.to_owned(), after.to_owned());
    Some(Inject::Header { name: header?, before, after, by_type })
}

fn inject_query(
    at: &Place<'_>,
    name: String,
    (header, format): (bool, bool),
    bound: bool,
    report: &mut Report,
) -> Option<Inject> {
    let query = at.key("query");
    for (key, given) in [("header", header), ("format", format)] {
        // A preset's is not the operator's error, but still means two places.
        if given {
            report.error(
                &at.key(key),
                "stands beside `query`",
                "keep one: a header, or a parameter of the query",
            );
        }
    }
    if bound {
        report.error(
            &query,
            "a token that is bound to a key (dpop) goes in `authorization` alone: RFC 9449 section 7.1",
            "leave it out",
        );
    }
    if name.is_empty() || name.chars().any(char::is_control) {
        report.error(&query, "is no name of a parameter", "such as \"access_token\"");
        return None;
    }
    Some(Inject::Query { name })
}

fn edits(at: &Place<'_>, raw: Option<RawHeaderEdits>, report: &mut Report) -> HeaderEdits {
    let Some(RawHeaderEdits { set, remove }) = raw else { return HeaderEdits::default() };
    let set = headers(&at.key("set"), set, report);
    let mut names = Vec::new();
    for (index, name) in remove.into_iter().flatten().enumerate() {
        let place = at.key("remove").index(index);
        let Some(name) = settable_header(&place, &name, report) else { continue };
        if set.iter().any(|(other, _)| *other == name) {
            report.error(
                &place,
                format!("`{name}` is both set and removed"),
                "setting replaces what was there",
            );
        }
        names.push(name);
    }
    HeaderEdits { set, remove: names }
}

fn refuse_second_credential(at: &Place<'_>, edits: &HeaderEdits, header: &HeaderName, report: &mut Report) {
    if edits.set.iter().any(|(name, _)| name == header) {
        report.error(
            at,
            format!("sets `{header}`, which carries the token"),
            "leave it out, or change inject.header",
        );
    }
}

fn refresh_on(at: &Place<'_>, written: Option<Vec<u16>>, report: &mut Report) -> Vec<StatusCode> {
    let written = written.unwrap_or_else(|| vec![RawRoute::REFRESH_ON]);
    let mut statuses = Vec::new();
    for (index, number) in written.into_iter().enumerate() {
        let status =
            StatusCode::from_u16(number).ok().filter(|status| (300..=599).contains(&status.as_u16()));
        let result = status.ok_or_else(|| {
            types::wrong(
                format!("{number} does not say that a request failed"),
                "use a status from 300 to 599",
            )
        });
        statuses.extend(check(&at.index(index), result, report));
    }
    statuses
}
