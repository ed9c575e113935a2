//! `[listener.NAME]` and `[webhook.NAME]`: the addresses where bearerd listens.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::{HeaderName, header};
use ipnet::IpNet;
use toml::de::DeValue;

use crate::config::document::{Place, io_reason};
use crate::config::model::{
    Address, Admin, CaConfig, Callers, Egress, ForProgram, ForwardConfig, ListenerConfig, ListenerTls,
    RouteConfig, Serve, Service, UnixOptions, Unmatched, WebhookConfig,
};
use crate::config::raw::values::{
    RawCa, RawCertificate, RawListenerSvid, RawOwnCa, RawSecret, RawX509Svid, check,
};
use crate::config::raw::{RawForward, RawListener, RawListenerTls, RawRequireHeader, RawWebhook};
use crate::config::reference::Source;
use crate::config::report::{Report, Severity};
use crate::config::resolve::Known;
use crate::config::resolve::spiffe::X509Svid;
use crate::config::resolve::value::{self, reference};
use crate::config::types::{self, Wrong, quoted, url, wrong};

/// All listeners, sorted by name.
#[derive(Default)]
pub(crate) struct Listeners {
    pub names: Vec<String>,
    /// `None` if it has errors.
    pub configs: Vec<Option<Arc<ListenerConfig>>>,
}

/// The listener that exists without a table.
const MAIN: &str = "main";

pub(super) fn resolve(
    top: &Place<'_>,
    mut written: BTreeMap<String, RawListener>,
    admin: &Option<Admin>,
    program: Option<&ForProgram>,
    report: &mut Report,
) -> Listeners {
    let all = top.key("listener");
    if written.is_empty() && program.is_none() {
        written.insert(MAIN.to_owned(), RawListener::default());
    }
    let mut listeners = Listeners::default();
    let mut taken: Vec<(Address, String)> = Vec::new();
    taken.extend(admin.iter().map(|admin| (admin.address.clone(), "the admin address".to_owned())));
    for (name, raw) in written {
        let place = all.key(&name);
        let config = listener(&place, &name, raw, report).map(Arc::new);
        if let Some(config) = &config {
            refuse_taken_address(&place.key("address"), &config.address, &taken, report);
            taken.push((config.address.clone(), format!("listener `{name}`")));
        }
        listeners.names.push(name);
        listeners.configs.push(config);
    }
    for (config, forward) in listeners.configs.iter().flatten().filter_map(|it| Some((it, it.forward()?))) {
        // To any host.
        let place = all.key(&config.name).key("forward");
        value::check_egress(&place, (true, "tunnel.invalid", 443), &forward.egress, &listeners, report);
    }
    if let Some(program) = program {
        serve_program(&mut listeners, program);
    }
    listeners
}

/// What is wrong with a target that is this listener.
pub(super) fn own(name: &str) -> String {
    format!("is bearerd's own listener `{name}`: requests would go round in a circle")
}

/// Adds a forward listener if there is none. Else, each one has a bundle that the program can be given.
fn serve_program(listeners: &mut Listeners, program: &ForProgram) {
    let Listeners { names, configs } = listeners;
    let mut any = false;
    for config in configs.iter_mut().flatten().filter_map(Arc::get_mut) {
        if let Service::Forward(forward) = &mut config.service {
            any = true;
            if forward.ca_bundle.is_none() {
                forward.ca_bundle = Some(program.bundle.clone());
                forward.bundle_key = ForwardConfig::BUNDLE_VARIABLE;
                forward.trusted = program.trusted.clone();
            }
        }
    }
    if !any {
        let mut name = ForProgram::LISTENER.to_owned();
        while names.contains(&name) {
            name.push('-');
        }
        configs.push(Some(Arc::new(for_program(&name, program))));
        names.push(name);
    }
}

fn for_program(name: &str, program: &ForProgram) -> ListenerConfig {
    let forward = ForwardConfig {
        ca: CaConfig::Ephemeral,
        ca_bundle: Some(program.bundle.clone()),
        bundle_key: ForwardConfig::BUNDLE_VARIABLE,
        trusted: program.trusted.clone(),
        unmatched: program.unmatched,
        egress: Egress::Env,
    };
    ListenerConfig {
        name: name.into(),
        address: Address::Tcp((Ipv4Addr::LOCALHOST, 0).into()),
        names: Vec::new(),
        origins: Vec::new(),
        callers: Callers::Local,
        allow: Vec::new(),
        require_header: Some((header::PROXY_AUTHORIZATION, program.key.clone())),
        tls: None,
        unix: UnixOptions::OWNER_ALONE,
        service: Service::Forward(forward),
        same_user: true,
    }
}

fn refuse_taken_address(
    place: &Place<'_>,
    address: &Address,
    taken: &[(Address, String)],
    report: &mut Report,
) {
    if let Some((found, other)) = taken.iter().find(|(other, _)| other.overlaps(address)) {
        let what = if found == address { "is the same as" } else { "overlaps" };
        report.error(place, format!("{what} that of {other}"), "give one of them another port or path");
    }
}

fn listener(place: &Place<'_>, name: &str, raw: RawListener, report: &mut Report) -> Option<ListenerConfig> {
    let found = report.problems.len();
    check(place, types::name(name), report);
    let address = address(place, name, raw.address, report);
    let callers = raw.callers.read(place, "callers", report);
    let allow_given = raw.allow.is_some();
    let allow = each(&place.key("allow"), raw.allow, network, report);
    let require_header =
        raw.require_header.and_then(|raw| require_header(&place.key("require_header"), raw, report));
    let tls = raw.tls.and_then(|raw| tls(&place.key("tls"), raw, report));
    let mode = raw.mode.as_deref().unwrap_or(RawListener::MODE);
    let unix = UnixOptions {
        mode: check(&place.key("mode"), file_mode(mode), report).unwrap_or_default(),
        group: raw.group.and_then(|name| check(&place.key("group"), group_id(&name), report)),
        allow_uids: raw.allow_uids.unwrap_or_default(),
    };
    if allow_given && allow.is_empty() && report.problems.len() == found {
        report.error(
            &place.key("allow"),
            "allows no caller",
            "name networks such as \"10.0.0.0/8\", or leave it out",
        );
    }
    let service = service(place, raw.serve.read(place, "serve", report), raw.forward, report);
    let config = ListenerConfig {
        name: name.into(),
        address: address?,
        names: each(&place.key("names"), raw.names, url::listener_name, report),
        origins: each(&place.key("origins"), raw.origins, url::origin, report),
        callers,
        allow,
        require_header,
        tls,
        unix,
        service: service?,
        same_user: false,
    };
    check_service(place, &config, report);
    check_reach(place, &config, report);
    check_kind(place, &config.address, report);
    if report.problems.len() > found {
        return None;
    }
    check_pages(place, &config, report);
    Some(config)
}

fn service(
    place: &Place<'_>,
    serve: Serve,
    forward: Option<RawForward>,
    report: &mut Report,
) -> Option<Service> {
    let at = place.key("forward");
    if serve != Serve::Forward && at.is_written() {
        report.error(&at, "is for a forward listener alone", "leave it out, or set serve = \"forward\"");
        return None;
    }
    match serve {
        Serve::Proxy => Some(Service::Proxy),
        Serve::Token => Some(Service::Token),
        Serve::Forward => Some(Service::Forward(self::forward(&at, forward.unwrap_or_default(), report)?)),
    }
}

fn forward(at: &Place<'_>, raw: RawForward, report: &mut Report) -> Option<ForwardConfig> {
    let unmatched = raw.unmatched.read(at, "unmatched", report);
    let egress = value::egress(&at.key("proxy"), raw.proxy, report);
    if egress != Egress::Direct && unmatched == Unmatched::Refuse {
        report.error(
            &at.key("proxy"),
            "is for tunnels, and this listener opens none",
            "leave it out, or set unmatched = \"tunnel\"; a route has its own `proxy`",
        );
    }
    let ca_bundle = raw.ca_bundle.and_then(|path| bundle(&at.key("ca_bundle"), path, report));
    let ca = ca(&at.key("ca"), raw.ca, report)?;
    let bundle_key = ForwardConfig::BUNDLE_KEY;
    Some(ForwardConfig { ca, ca_bundle, bundle_key, trusted: Vec::new(), unmatched, egress })
}

fn ca(at: &Place<'_>, raw: Option<RawCa>, report: &mut Report) -> Option<CaConfig> {
    let RawOwnCa { certificate, private_key } = match raw {
        None => return Some(CaConfig::Ephemeral),
        Some(RawCa::Word(word)) if word == RawCa::EPHEMERAL => return Some(CaConfig::Ephemeral),
        Some(RawCa::Word(_)) => {
            let hint =
                "write \"ephemeral\", or { certificate = { file = \"…\" }, private_key = { file = \"…\" } }";
            report.error(at, format!("{} is not an authority", at.describe()), hint);
            return None;
        }
        Some(RawCa::Table(own)) => own,
    };
    let (certificate_at, key_at) = (at.key("certificate"), at.key("private_key"));
    if certificate.is_none() {
        report.missing(&certificate_at, "is missing", "certificate = { file = \"ca.pem\" }");
    }
    if private_key.is_none() {
        report.missing(&key_at, "is missing", "private_key = { file = \"ca.key\" }");
    }
    let certificate = certificate.and_then(|raw| reference(&certificate_at, raw, report));
    let private_key = private_key.and_then(|raw| reference(&key_at, raw, report));
    Some(CaConfig::Own { certificate: certificate?, private_key: private_key? })
}

/// The PEM file of a CA bundle.
fn bundle(at: &Place<'_>, path: String, report: &mut Report) -> Option<PathBuf> {
    let path = output_file(at, path, report)?;
    let is_beside = |ending: &&str| path.extension().is_some_and(|found| found == *ending);
    if let Some(ending) = ["p12", "jks"].into_iter().find(is_beside) {
        let message = format!("names the PEM file; bearerd writes the one that ends in .{ending} beside it");
        report.error(at, message, "such as \"ca.pem\"");
        return None;
    }
    Some(path)
}

/// The absolute path of a file that bearerd writes.
fn output_file(at: &Place<'_>, path: String, report: &mut Report) -> Option<PathBuf> {
    let usable = !path.is_empty() && !path.contains('\0') && !path.ends_with('/');
    if !usable {
        report.error(at, "is not the path of a file", "");
    }
    usable.then(|| at.document.file.folder.join(path))
}

/// Refuses what does not fit what the listener is for.
fn check_service(place: &Place<'_>, config: &ListenerConfig, report: &mut Report) {
    match config.serve() {
        Serve::Proxy => {}
        Serve::Forward if !config.names.is_empty() => report.error(
            &place.key("names"),
            "a forward listener has no names of its own: programs name the host that they want",
            "leave it out; `host` of a route names the hosts that it serves",
        ),
        Serve::Forward => {}
        Serve::Token => {
            if !config.origins.is_empty() {
                report.error(
                    &place.key("origins"),
                    "a token listener hands tokens to programs, never to browser pages",
                    "leave it out",
                );
            }
            let unix = matches!(config.address, Address::Unix(_));
            if !unix && config.require_header.is_none() && !place.key("require_header").is_written() {
                report.error(
                    &place.key("serve"),
                    "every program of this machine could fetch tokens at a TCP address",
                    "give the listener require_header, or a unix: address",
                );
            }
        }
    }
}

/// Refuses token listeners that have no token to hand out.
pub(super) fn check_token_listeners(top: &Place<'_>, known: &Known, report: &mut Report) {
    let why = if known.issuers.is_empty() {
        "there is no issuer, so it would have no token to hand out"
    } else if known.issuers.values().flatten().count() == known.issuers.len()
        && known.issuers.values().flatten().all(|issuer| issuer.dpop.is_some())
    {
        "every issuer binds its tokens to a key (dpop), so no other program could use them"
    } else {
        return;
    };
    let configs = known.listeners.configs.iter().flatten();
    for config in configs.filter(|config| config.serve() == Serve::Token) {
        let at = top.key("listener").key(&config.name).key("serve");
        report.error(&at, why, "add an [issuer.NAME] without dpop, or leave the listener out");
    }
}

/// Warns about forward listeners that no route serves. A route with errors counts as serving all.
pub(super) fn check_forward_listeners(
    top: &Place<'_>,
    known: &Known,
    routes: &[Arc<RouteConfig>],
    report: &mut Report,
) {
    if report.problems.iter().any(|problem| problem.severity == Severity::Error) {
        return;
    }
    for (index, config) in known.listeners.configs.iter().enumerate() {
        let Some((config, forward)) = config.as_ref().and_then(|config| Some((config, config.forward()?)))
        else {
            continue;
        };
        let serves =
            |route: &RouteConfig| route.host.is_some() && route.listener.is_none_or(|only| only == index);
        if routes.iter().any(|route| serves(route)) {
            continue;
        }
        let message = match forward.unmatched {
            Unmatched::Refuse => {
                "no route names a host for this forward listener, so it refuses every request"
            }
            Unmatched::Tunnel => {
                "no route names a host for this forward listener, so it only passes connections through and adds no token"
            }
        };
        let at = top.key("listener").key(&config.name).key("serve");
        report.warning(&at, message, "add a [[route]] with `host`");
    }
}

fn address(place: &Place<'_>, name: &str, written: Option<String>, report: &mut Report) -> Option<Address> {
    let at = place.key("address");
    let default = (name == MAIN).then_some(RawListener::ADDRESS);
    let Some(text) = written.as_deref().or(default) else {
        report.missing(&at, "is missing", "address = \"127.0.0.1:8081\" or \"unix:/run/bearerd/proxy.sock\"");
        return None;
    };
    check(&at, types::address(text, &place.document.file.folder), report)
}

/// Whoever can connect can use the credentials, so an open address requires a check of the caller.
fn check_reach(place: &Place<'_>, config: &ListenerConfig, report: &mut Report) {
    let client_ca = config.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
    let checked = !config.allow.is_empty() || config.require_header.is_some() || client_ca;
    match (&config.address, config.callers) {
        (Address::Tcp(address), Callers::Local) if !address.ip().to_canonical().is_loopback() => report.error(
            &place.key("address"),
            format!("{address} can be reached by other machines, and `callers` is \"local\""),
            "listen on 127.0.0.1 or [::1], or set callers = \"network\" and one of allow, require_header, tls.client_ca",
        ),
        // A check that has an error was reported and counts as given.
        (Address::Tcp(_), Callers::Network) if !checked && !written_check(place) => report.error(
            &place.key("callers"),
            "\"network\" lets every machine use the credentials",
            "give one of allow, require_header, tls.client_ca, tls.spiffe.client_certificates",
        ),
        _ => {}
    }
}

fn written_check(place: &Place<'_>) -> bool {
    ["allow", "require_header"].iter().any(|key| place.key(key).is_written())
        || place.key("tls").key("client_ca").is_written()
        || matches!(
            place.key("tls").key("spiffe").key("client_certificates").value(),
            Some(DeValue::Boolean(true))
        )
}

/// Whether pages of other sites can send requests to this name of a listener unnoticed. If the origin is not
/// trustworthy (W3C Secure Contexts, section 3.1), browsers send neither `Sec-Fetch-Site` nor, with GET, `Origin`.
pub(super) fn pages_could_ride(config: &ListenerConfig, host: &str) -> bool {
    let plain = matches!(config.address, Address::Tcp(_)) && config.tls.is_none();
    // A page cannot send the requests that a forward listener serves: no browser writes an absolute-form target for a page.
    plain && config.serve() != Serve::Forward && config.require_header.is_none() && !is_trustworthy(host)
}

fn is_trustworthy(host: &str) -> bool {
    let literal = host.trim_start_matches('[').trim_end_matches(']');
    let is_loopback = |literal: &str| literal.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    host == "localhost" || host.ends_with(".localhost") || is_loopback(literal)
}

pub(super) fn warn_of_pages(at: &Place<'_>, report: &mut Report) {
    let message = "over plain http, a page of any site can send GET requests here that look like a program's, and they would carry the credential";
    report.warning(at, message, "give the listener require_header or tls, or let programs call localhost");
}

fn check_pages(place: &Place<'_>, config: &ListenerConfig, report: &mut Report) {
    let own = match &config.address {
        Address::Tcp(address) => address.ip().to_canonical().to_string(),
        Address::Unix(_) => return,
    };
    if config.names.iter().any(|name| pages_could_ride(config, name)) {
        warn_of_pages(&place.key("names"), report);
    } else if config.callers == Callers::Network && pages_could_ride(config, &own) {
        warn_of_pages(&place.key("address"), report);
    }
}

/// Refuses keys that do not apply to this kind of address.
fn check_kind(place: &Place<'_>, address: &Address, report: &mut Report) {
    let (keys, kind): (&[&str], _) = match address {
        Address::Tcp(_) => (&["mode", "group", "allow_uids"], "unix: addresses"),
        Address::Unix(_) => (&["allow"], "TCP addresses"),
    };
    for key in keys.iter().map(|key| place.key(key)).filter(Place::is_written) {
        report.error(&key, format!("is for {kind} alone"), "leave it out");
    }
}

fn each<T>(
    at: &Place<'_>,
    written: Option<Vec<String>>,
    read: fn(&str) -> Result<T, Wrong>,
    report: &mut Report,
) -> Vec<T> {
    let items = written.into_iter().flatten().enumerate();
    items.filter_map(|(index, text)| check(&at.index(index), read(&text), report)).collect()
}

fn network(text: &str) -> Result<IpNet, Wrong> {
    let whole = text.parse::<std::net::IpAddr>().map(IpNet::from);
    whole.or_else(|_| text.parse::<IpNet>().map(|network| network.trunc())).map_err(|_| {
        wrong(
            format!("{} is neither an IP address nor a network", quoted(text)),
            "such as \"10.0.0.0/8\" or \"fd00::/8\"",
        )
    })
}

fn require_header(
    place: &Place<'_>,
    raw: RawRequireHeader,
    report: &mut Report,
) -> Option<(HeaderName, Source)> {
    let (name_at, value_at) = (place.key("name"), place.key("value"));
    if raw.name.is_none() {
        report.missing(&name_at, "is missing", "name = \"x-caller-key\"");
    }
    if raw.value.is_none() {
        report.missing(&value_at, "is missing", "value = { file = \"…\" }");
    }
    let name = raw.name.and_then(|name| check(&name_at, types::header_name(&name), report));
    let value = raw.value.and_then(|raw| reference(&value_at, raw, report));
    Some((name?, value?))
}

fn tls(place: &Place<'_>, raw: RawListenerTls, report: &mut Report) -> Option<ListenerTls> {
    let (certificate_at, key_at) = (place.key("certificate"), place.key("private_key"));
    if let Some(svid) = raw.spiffe {
        return spiffe_tls(place, svid, raw.client_ca, report);
    }
    if raw.certificate.is_none() {
        report.missing(&certificate_at, "is missing", "certificate = { file = \"cert.pem\" }");
    }
    if raw.private_key.is_none() {
        report.missing(&key_at, "is missing", "private_key = { file = \"key.pem\" }");
    }
    let certificate = raw.certificate.and_then(|raw| reference(&certificate_at, raw, report));
    let private_key = raw.private_key.and_then(|raw| reference(&key_at, raw, report));
    let client_ca = raw.client_ca.map(|raw| reference(&place.key("client_ca"), raw, report));
    Some(ListenerTls {
        certificate: certificate?,
        private_key: private_key?,
        client_ca: client_ca.map_or(Some(None), |source| source.map(Some))?,
    })
}

/// `tls = { spiffe = { … } }`.
fn spiffe_tls(
    place: &Place<'_>,
    raw: RawListenerSvid,
    client_ca: Option<RawCertificate>,
    report: &mut Report,
) -> Option<ListenerTls> {
    let (at, client_ca_at) = (place.key("spiffe"), place.key("client_ca"));
    let RawListenerSvid { socket, id, client_certificates } = raw;
    let beside = [place.key("certificate"), place.key("private_key")];
    let svid = X509Svid::read(&at, &beside, RawX509Svid { socket, id }, report);
    if client_certificates.0 && client_ca.is_some() {
        let hint = "keep one of them: callers present X.509-SVIDs, or certificates of `client_ca`";
        report.error(&client_ca_at, "cannot be combined with `spiffe.client_certificates`", hint);
    }
    let client_ca = client_ca.map(|raw| reference(&client_ca_at, raw, report));
    let svid = svid?;
    let identity = svid.identity(&at, report);
    let bundle = client_certificates.0.then(|| svid.bundle(&at, None, report));
    Some(ListenerTls {
        certificate: identity.clone(),
        private_key: identity,
        client_ca: client_ca.map_or(Some(None), |source| source.map(Some))?.or(bundle),
    })
}

fn file_mode(text: &str) -> Result<u32, Wrong> {
    let octal = text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    Some(text)
        .filter(|_| octal)
        .and_then(|text| u32::from_str_radix(text, 8).ok())
        .filter(|mode| *mode <= 0o777)
        .ok_or_else(|| wrong(format!("{} is not a file mode", quoted(text)), "write it in octal: \"0660\""))
}

fn group_id(name: &str) -> Result<u32, Wrong> {
    if let Ok(id) = name.parse() {
        return Ok(id);
    }
    let path = Path::new("/etc/group");
    let groups = read_groups(path).map_err(|error| {
        wrong(
            format!("no group can be looked up: {} {}", path.display(), io_reason(&error)),
            "give the group's number",
        )
    })?;
    groups
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find_map(|fields| match fields.as_slice() {
            [group, _, id, ..] if *group == name => id.parse().ok(),
            _ => None,
        })
        .ok_or_else(|| {
            wrong(
                format!("there is no group {} on this machine", quoted(name)),
                "name another, or give its number",
            )
        })
}

#[expect(
    clippy::disallowed_methods,
    reason = "config is one of the places that read files; its errors name the path"
)]
fn read_groups(path: &Path) -> std::io::Result<String> {
    std::fs::read_to_string(path)
}

/// All webhooks, sorted by name. Their names stay in the report, for references to them.
pub(super) fn resolve_webhooks(
    top: &Place<'_>,
    written: BTreeMap<String, RawWebhook>,
    mut taken: Vec<(Address, String)>,
    report: &mut Report,
) -> Vec<Arc<WebhookConfig>> {
    let all = top.key("webhook");
    let mut webhooks = Vec::new();
    for (name, raw) in written {
        let place = all.key(&name);
        let config = webhook(&place, &name, raw, report).map(Arc::new);
        report.webhooks.insert(name.clone(), config.as_ref().map(|config| config.store.clone()));
        let Some(config) = config else { continue };
        refuse_taken_address(&place.key("address"), &config.address, &taken, report);
        taken.push((config.address.clone(), format!("webhook `{name}`")));
        webhooks.push(config);
    }
    webhooks
}

fn webhook(place: &Place<'_>, name: &str, raw: RawWebhook, report: &mut Report) -> Option<WebhookConfig> {
    check(place, types::name(name), report);
    let RawWebhook { address, path, signature_header, secrets, value, only, timestamp, store } = raw;
    let mut text = |key: &str, written: Option<String>, example: &str| {
        if written.is_none() {
            report.missing(&place.key(key), "is missing", format!("{key} = {example}"));
        }
        written
    };
    let address = text("address", address, "\"127.0.0.1:9181\"");
    let path = text("path", path, "\"/seismic\", the path that the sender calls");
    let header = text("signature_header", signature_header, "\"x-seismic-signature\"");
    let value = text("value", value, "\"/delegationUserId\", where the value is in the payload");
    let store = text("store", store, "\"/var/lib/bearerd/seismic.json\", a file that bearerd may write");
    let folder = &place.document.file.folder;
    let address =
        address.and_then(|address| check(&place.key("address"), types::address(&address, folder), report));
    let path = path.and_then(|path| request_path(&place.key("path"), path, report));
    let signature_header =
        header.and_then(|name| check(&place.key("signature_header"), types::header_name(&name), report));
    let value = value.filter(|value| check(&place.key("value"), types::pointer(value), report).is_some());
    let store = store.and_then(|path| output_file(&place.key("store"), path, report));
    let only: Vec<_> = only.unwrap_or_default().into_iter().collect();
    for (pointer, _) in &only {
        check(&place.key("only").key(pointer), types::pointer(pointer), report)?;
    }
    let timestamp = timestamp.unwrap_or_else(|| RawWebhook::TIMESTAMP.to_owned());
    check(&place.key("timestamp"), types::pointer(&timestamp), report)?;
    let secrets = signing_secrets(&place.key("secrets"), secrets, report);
    Some(WebhookConfig {
        name: name.into(),
        address: address?,
        path: path?,
        signature_header: signature_header?,
        secrets: secrets?,
        value: value?,
        only,
        timestamp,
        store: store?,
    })
}

fn request_path(place: &Place<'_>, path: String, report: &mut Report) -> Option<String> {
    let visible = path.bytes().all(|byte| matches!(byte, 0x21..=0x7E));
    if !path.starts_with('/') || !visible || path.contains(['?', '#']) {
        report.error(place, "is not the path of a request", "such as \"/seismic\", without a query");
        return None;
    }
    Some(path)
}

fn signing_secrets(
    place: &Place<'_>,
    written: Option<Vec<RawSecret>>,
    report: &mut Report,
) -> Option<Vec<Source>> {
    let hint = "secrets = [{ file = \"…\" }], and the previous one beside it while it changes";
    let Some(written) = written else {
        report.missing(place, "is missing", hint);
        return None;
    };
    if written.is_empty() {
        report.error(place, "names no secret, so nobody could sign", hint);
        return None;
    }
    let read: Vec<_> = written
        .into_iter()
        .enumerate()
        .map(|(index, raw)| reference(&place.index(index), raw, report))
        .collect();
    read.into_iter().collect()
}
