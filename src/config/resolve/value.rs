//! Values that several tables have: references, parameters, header fields, TLS, and egress proxies.

use std::collections::BTreeMap;
use std::time::Duration;

use http::HeaderName;
use toml::de::{DeTable, DeValue};

use super::listener::{self, Listeners};
use super::spiffe::{self, X509Svid};
use crate::config::document::Place;
use crate::config::model::{Egress, ParamValue, Params, Roots, TlsOptions};
use crate::config::program::ProgramConfig;
use crate::config::program::arguments::first_sure_secret;
use crate::config::raw::RawTls;
use crate::config::raw::values::{
    Lasting, RawEgress, RawElsewhere, RawEnv, RawParam, RawParams, RawProxy, RawReference, RawSecret,
    RawValue, ValueKind, check,
};
use crate::config::reference::{Chained, Source};
use crate::config::report::{Report, Severity, did_you_mean};
use crate::config::types::{self, Scopes, url, wrong};
use crate::config::{Variable, environment, inspect};
use crate::jose::{KeyUri, UriPin, device};
use crate::secret::Secret;

/// Reads a literal or a reference.
pub(super) fn reference(place: &Place<'_>, raw: impl Into<RawValue>, report: &mut Report) -> Option<Source> {
    let RawValue { raw, kind } = raw.into();
    match raw {
        RawReference::Literal(secret) => {
            if kind.is_secret() && secret.is_empty() {
                if kind == ValueKind::MaybeEmpty {
                    return Some(Source::literal(secret));
                }
                report.error(place, "is empty", "write { file = \"…\" } or { env = \"…\" }");
                return None;
            }
            literal_allowed(place, kind, report)?;
            if kind.is_secret() && inspect::is_plain_secret(&place.path.to_string()) {
                let slip = inspect::slip_in_literal(secret.expose(), &place.document.file.folder);
                slip.into_iter().for_each(|slip| report.warning(place, slip.message, slip.hint));
            }
            Some(Source::literal(secret))
        }
        RawReference::Elsewhere(raw) => {
            let source = from_elsewhere(place, *raw, kind, report)?;
            if source.chained().is_some() {
                return Some(source);
            }
            report.reference(place, &source, kind.is_secret());
            Some(source)
        }
    }
}

/// Refuses a literal secret in a file that others may read.
fn literal_allowed(place: &Place<'_>, kind: ValueKind, report: &mut Report) -> Option<()> {
    let file = place.document.file;
    if !kind.is_secret() || file.access.owner_only {
        return Some(());
    }
    report.error(
        place,
        "a secret as a literal, in a file that others may read",
        format!(
            "run `chmod 600 {}`, or write {{ file = \"…\" }} or {{ env = \"…\" }}",
            file.display.display()
        ),
    );
    None
}

fn from_elsewhere(
    place: &Place<'_>,
    raw: RawElsewhere,
    kind: ValueKind,
    report: &mut Report,
) -> Option<Source> {
    if let Some(pointer) = &raw.pointer {
        check(&place.key("pointer"), types::pointer(pointer), report)?;
    }
    one_place(place, &raw, report)?;
    let RawElsewhere {
        file,
        env,
        webhook,
        exec,
        spiffe,
        timeout,
        keep,
        issuer,
        scopes,
        params,
        pkcs11,
        pointer,
        password,
    } = raw;
    if let Some(uri) = pkcs11 {
        let message = "does not belong to a key in a device";
        refuse_keys(place, &["timeout", "keep", "scopes", "params", "pointer"], message, report)?;
        return in_device(place, &Secret::from(uri), password, kind, report);
    }
    if let Some(name) = webhook {
        let message = "does not belong to a learned value";
        refuse_keys(place, &["timeout", "keep", "scopes", "params"], message, report)?;
        return learned(place, name, pointer.is_some() || password.is_some(), report);
    }
    if let Some(issuer) = issuer {
        let message = "does not belong to a token of an issuer";
        refuse_keys(place, &["timeout", "keep", "pointer", "password"], message, report)?;
        return chained(place, issuer, scopes, params, report);
    }
    refuse_keys(place, &["scopes", "params"], "belongs to `issuer`", report)?;
    if let Some(raw) = spiffe {
        let message = "does not belong to a JWT-SVID";
        refuse_keys(place, &["keep", "pointer", "password"], message, report)?;
        return spiffe::jwt_svid(place, raw, timeout, report);
    }
    let source = match (exec, env) {
        (Some(command), env) => {
            let env = match env {
                Some(RawEnv::Variables(variables)) => variables,
                Some(RawEnv::Name(_)) | None => BTreeMap::new(),
            };
            program(place, RawProgram { command, env, timeout, keep, pointer }, report)?
        }
        (None, Some(RawEnv::Variables(_))) => {
            let hint = "write the variable's name: { env = \"NAME\" }; a table belongs to `exec`";
            report.error(&place.key("env"), "is a table", hint);
            return None;
        }
        (None, env) => {
            refuse_keys(place, &["timeout", "keep"], "belongs to `exec`", report)?;
            let env = env.and_then(|env| match env {
                RawEnv::Name(name) => Some(name),
                RawEnv::Variables(_) => None,
            });
            from_file_or_env(place, file, env, pointer, report)?
        }
    };
    match password {
        None => Some(source),
        Some(raw) => with_password(place, &source, *raw, kind, report),
    }
}

/// Refuses a reference to two places.
fn one_place(place: &Place<'_>, raw: &RawElsewhere, report: &mut Report) -> Option<()> {
    let variables = raw.exec.is_some() && matches!(raw.env, Some(RawEnv::Variables(_)));
    let given = [
        raw.file.is_some(),
        raw.env.is_some() && !variables,
        raw.webhook.is_some(),
        raw.exec.is_some(),
        raw.issuer.is_some(),
        raw.pkcs11.is_some(),
        raw.spiffe.is_some(),
    ];
    let mut given =
        RawElsewhere::PLACES.into_iter().zip(given).filter(|(_, given)| *given).map(|(key, _)| key);
    let (Some(first), Some(second)) = (given.next(), given.next()) else { return Some(()) };
    let hint = match (first, second) {
        ("env", "exec") => "variables of the program are a table: env = { NAME = … }",
        _ => "keep one of them",
    };
    report.error(place, format!("has both `{first}` and `{second}`"), hint);
    None
}

/// Refuses keys that do not go with the place of the value.
fn refuse_keys(place: &Place<'_>, keys: &[&str], message: &str, report: &mut Report) -> Option<()> {
    let written: Vec<_> = keys.iter().map(|key| place.key(key)).filter(Place::is_written).collect();
    written.iter().for_each(|key| report.error(key, message, "leave it out"));
    written.is_empty().then_some(())
}

fn with_password(
    place: &Place<'_>,
    source: &Source,
    raw: RawSecret,
    kind: ValueKind,
    report: &mut Report,
) -> Option<Source> {
    let at = place.key("password");
    if !kind.may_be_pkcs12() {
        report.error(&at, "is for keys and certificates in PKCS#12, and this is neither", "leave it out");
        return None;
    }
    let password = reference(&at, raw, report)?;
    Some(source.with_password(password))
}

pub(super) const NOT_FOR_TLS: &str = "a key in a device cannot be used for TLS: a handshake signs on the thread that serves \
                                      requests, and a slow device would hold up all of them";
pub(super) const KEY_FOR_TLS: &str = "give the key of TLS as a file; a key in a device signs with client_auth = \
                                      \"private_key_jwt\", in assertions and in DPoP proofs";

/// A private key in a device.
fn in_device(
    place: &Place<'_>,
    text: &Secret,
    password: Option<Box<RawSecret>>,
    kind: ValueKind,
    report: &mut Report,
) -> Option<Source> {
    let at = place.key("pkcs11");
    match kind {
        ValueKind::SigningKey => {}
        ValueKind::Key => {
            report.error(&at, NOT_FOR_TLS, KEY_FOR_TLS);
            return None;
        }
        _ => {
            let hint = "write it as private_key or dpop.private_key of an issuer";
            report.error(&at, "is a private key, and this is not one", hint);
            return None;
        }
    }
    let (uri, pin) = match KeyUri::parse(text.expose_str().unwrap_or_default()) {
        Ok(parsed) => parsed,
        Err(error) => {
            let hint =
                "pkcs11 = \"pkcs11:token=…;object=…?module-path=/usr/lib/….so&pin-source=file:…\" (RFC 7512)";
            report.error(&at, error.to_string(), hint);
            return None;
        }
    };
    if !device::SUPPORTED {
        report.error(
            &at,
            "this bearerd was built without keys in devices: a static program (musl) cannot load the module",
            "use the release for glibc, or build it with `cargo build --release --features pkcs11`",
        );
        return None;
    }
    let file = place.document.file;
    check_writers(&at, "names a module that bearerd runs", report);
    let key = Source::device(uri);
    let pin = match pin {
        Some(_) if password.is_some() => {
            report.error(
                &place.key("password"),
                "is a second PIN beside the one of the URI",
                "keep one of them",
            );
            return None;
        }
        Some(UriPin::Value(pin)) => {
            literal_allowed(&at, ValueKind::Secret, report)?;
            Source::literal(pin)
        }
        Some(UriPin::File(path)) => {
            let pin = Source::file(file.folder.join(path), None);
            report.reference(&at, &pin, true);
            pin
        }
        None => match password {
            Some(raw) => reference(&place.key("password"), *raw, report)?,
            None => return Some(key),
        },
    };
    Some(key.with_password(pin))
}

/// Whether others may write the main file, if a file that it includes has bearerd run something: they could include their own.
pub(super) fn check_writers_of_main(include: &Place<'_>, report: &mut Report) {
    let main = &include.document.file.display;
    if report.running.iter().any(|file| file != main) {
        check_writers(include, "includes files that name a program or a module", report);
    }
}

/// Whether others may write the file that has bearerd run something.
fn check_writers(at: &Place<'_>, what: &str, report: &mut Report) {
    report.running.insert(at.document.file.display.clone());
    let Some((severity, how, remedy)) = at.document.file.writable_by_another() else { return };
    let message = format!("{what}, {how}");
    match severity {
        Severity::Error => report.error(at, message, remedy),
        Severity::Warning => report.warning(at, message, remedy),
    }
}

/// See [`Place::may_hold_a_token`].
const TOKEN_PLACES: &str = "`client_secret`, `standby.client_secret`, `basic.password`, `assertion`, `params`, `headers` and \
                            `jwt.claims` of an issuer, and in `params` of a route";

/// The token of another issuer. Whether there is one of this name shows later, because every issuer must be known.
fn chained(
    place: &Place<'_>,
    issuer: String,
    own_scopes: Option<Vec<String>>,
    own_params: Option<RawParams>,
    report: &mut Report,
) -> Option<Source> {
    let at = place.key("issuer");
    if !place.may_hold_a_token() {
        report.error(
            &at,
            format!(
                "a token of another issuer may stand only in {TOKEN_PLACES}: it never goes to an upstream, a caller or the store"
            ),
            "for a token that goes to the upstream, write issuer = \"…\" in the route",
        );
        return None;
    }
    let scopes = own_scopes.map(|raw| scopes(&place.key("scopes"), raw, report));
    let before = report.chained.len();
    let params = params(&place.key("params"), own_params, report);
    if report.chained.len() > before {
        report.chained.truncate(before);
        let message = "a parameter of such a token cannot come from a further issuer";
        let hint = format!("write it in `params` of [issuer.{issuer}]");
        report.error(&place.key("params"), message, hint);
        return None;
    }
    let source = Source::issuer(Chained::new(issuer, scopes, params));
    report.chained.push((place.path.0.clone(), source.clone()));
    Some(source)
}

/// `exec` and the keys beside it.
struct RawProgram {
    command: Vec<String>,
    env: BTreeMap<String, RawReference>,
    timeout: Lasting<10>,
    keep: Lasting<0>,
    pointer: Option<String>,
}

/// Nobody waits longer for a value.
const LONGEST_RUN: Duration = Duration::from_secs(300);
const SHORTEST_KEEP: Duration = Duration::from_secs(1);

/// A value that a program prints.
fn program(place: &Place<'_>, raw: RawProgram, report: &mut Report) -> Option<Source> {
    let RawProgram { command, env, timeout, keep, pointer } = raw;
    let found = report.problems.len();
    let file = place.document.file;
    let at = place.key("exec");
    check_writers(&at, "names a program", report);
    if command.first().is_none_or(String::is_empty) {
        report.error(
            &at,
            "names no program",
            "exec = [\"vault\", \"read\", \"…\"]: the program and its arguments",
        );
    }
    if command.iter().any(|word| word.contains('\0')) {
        report.error(&at, "contains a zero byte", "");
    }
    warn_of_secret_argument(&at, &command, report);
    let timeout = time_to_make(place, timeout, report);
    let keep = keep.read(place, "keep", report);
    if !keep.is_zero() && keep < SHORTEST_KEEP {
        let hint = "leave it out to run the program for each token request";
        report.error(&place.key("keep"), "must be at least \"1s\"", hint);
    }
    if keep.is_zero() && !place.is_of_token_requests() {
        report.error(
            place,
            "needs `keep`, which says when to run the program again, because it is not for a token request",
            "add keep = \"5m\"",
        );
    }
    let env = variables(&place.key("env"), env, report);
    let has_errors = report.problems.iter().skip(found).any(|problem| problem.severity == Severity::Error);
    let folder = file.folder.clone();
    (!has_errors).then(|| Source::exec(ProgramConfig { command, folder, env, timeout, keep }, pointer))
}

/// An argument is text for the program, so a secret in it is not refused as other literals are.
fn warn_of_secret_argument(at: &Place<'_>, command: &[String], report: &mut Report) {
    let file = at.document.file;
    let Some(index) = first_sure_secret(command).filter(|_| !file.access.owner_only) else { return };
    report.warning(
        &at.index(index),
        "contains a secret as a literal, in a file that others may read",
        format!(
            "run `chmod 600 {}`, or give it to the program in `env` as {{ file = \"…\" }}, which also hides it from \
             whoever lists the processes",
            file.display.display()
        ),
    );
}

/// How long a value may take.
pub(super) fn time_to_make(place: &Place<'_>, timeout: Lasting<10>, report: &mut Report) -> Duration {
    let timeout = timeout.read(place, "timeout", report);
    if timeout.is_zero() || timeout > LONGEST_RUN {
        let message = "must be longer than \"0s\" and at most \"5m\"";
        report.error(&place.key("timeout"), message, "\"10s\" is the default");
    }
    timeout
}

/// More variables of a program's environment.
fn variables(
    at: &Place<'_>,
    raw: BTreeMap<String, RawReference>,
    report: &mut Report,
) -> BTreeMap<String, Source> {
    let mut variables = BTreeMap::new();
    for (name, raw) in raw {
        let place = at.key(&name);
        if name.is_empty() || name.contains(['=', '\0']) {
            report.error(&place, "is not the name of an environment variable", "");
            continue;
        }
        let Some(source) = reference(&place, RawValue { kind: ValueKind::named(&name, &raw), raw }, report)
        else {
            continue;
        };
        if source.is_made() {
            report.error(
                &place,
                "cannot come from another program, from the Workload API, or from an issuer: a run may serve several values",
                "get both in one script, and name that: exec = [\"./script\"]",
            );
            continue;
        }
        variables.insert(name, source);
    }
    variables
}

/// A value that a webhook learns.
fn learned(place: &Place<'_>, name: String, more: bool, report: &mut Report) -> Option<Source> {
    let at = place.key("webhook");
    if more {
        report.error(place, "a learned value has neither `pointer` nor `password`", "leave them out");
        return None;
    }
    match report.webhooks.get(&name) {
        Some(store) => Some(Source::webhook(name, store.clone()?)),
        None => {
            let names = report.webhooks.keys().map(String::as_str);
            let hint = did_you_mean(&name, names, &format!("add it to the main file: [webhook.{name}]"));
            let message = format!("there is no webhook {}", types::quoted(&name));
            if !report.incomplete {
                report.error(&at, message, hint);
            }
            None
        }
    }
}

fn from_file_or_env(
    place: &Place<'_>,
    file: Option<String>,
    env: Option<String>,
    pointer: Option<String>,
    report: &mut Report,
) -> Option<Source> {
    match (file, env) {
        (Some(file), _) if file.is_empty() || file.contains('\0') => {
            report.error(&place.key("file"), "is not a path", "");
            None
        }
        (Some(file), _) => Some(Source::file(place.document.file.folder.join(file), pointer)),
        (None, Some(name)) if name.is_empty() || name.contains(['=', '\0']) => {
            report.error(&place.key("env"), "is not the name of an environment variable", "");
            None
        }
        (None, Some(name)) => Some(Source::env(name, pointer)),
        (None, None) => {
            if let Some(DeValue::Datetime(_)) = place.value() {
                report.error(place, "expected a string, found a date", "put it in quotes");
            } else if place.value().and_then(DeValue::as_table).is_some_and(says_nothing) {
                report.error(
                    place,
                    "does not say where the value is",
                    "write { file = \"…\" }, { env = \"…\" }, { webhook = \"…\" }, { exec = [\"…\"] }, { spiffe = { audience = \"…\" } } or { issuer = \"…\" }",
                );
            }
            None
        }
    }
}

/// Any other key was reported separately.
fn says_nothing(table: &DeTable<'_>) -> bool {
    table.keys().all(|key| !RawElsewhere::PLACES.contains(&key.get_ref().as_ref()))
}

/// Parameters that have their own keys.
const OWN_KEYS: &[(&str, &str)] = &[
    ("grant_type", "the grant is set by `grant_type`"),
    ("scope", "use `scopes`"),
    ("client_id", "use `client_id`, and `send_client_id = true` to send it as a parameter"),
    (
        "client_secret",
        "use `client_secret`, and `client_auth = \"client_secret_post\"` to send it as a parameter",
    ),
];

pub(super) fn params(at: &Place<'_>, raw: Option<RawParams>, report: &mut Report) -> Params {
    let mut params = Params::new();
    for (name, raw) in raw.into_iter().flatten() {
        let place = at.key(&name);
        // Some servers require the parameter without a value, which an empty `scopes` does not send. Some require an array in
        // JSON.
        let other_scope = name == "scope"
            && match &raw {
                RawParam::Reference(RawReference::Literal(text)) => text.is_empty(),
                RawParam::Array(_) => true,
                _ => false,
            };
        if let Some((_, hint)) = OWN_KEYS.iter().find(|(own, _)| *own == name && !other_scope) {
            report.error(&place, "has its own key", *hint);
            continue;
        }
        if name.is_empty() {
            report.error(&place, "a parameter needs a name", "");
            continue;
        }
        if let Some(value) = param(&place, &name, raw, report) {
            params.insert(name, value);
        }
    }
    params
}

/// Claims that have their own keys.
const OWN_CLAIMS: &[(&str, &str)] = &[
    ("iss", "use `issuer`"),
    ("sub", "use `subject`"),
    ("aud", "use `audience`"),
    ("exp", "use `lifetime`"),
    ("iat", "it is the time of the request"),
    ("nbf", "it is the time of the request"),
    ("jti", "it is another every time"),
];

/// More claims of a JWT.
pub(super) fn claims(at: &Place<'_>, raw: Option<RawParams>, report: &mut Report) -> Params {
    let mut claims = Params::new();
    for (name, raw) in raw.into_iter().flatten() {
        let place = at.key(&name);
        if let Some((_, hint)) = OWN_CLAIMS.iter().find(|(own, _)| *own == name) {
            report.error(&place, "is set already", *hint);
        } else if let Some(value) = param(&place, &name, raw, report) {
            claims.insert(name, value);
        }
    }
    claims
}

/// Refuses what a form or a query cannot hold.
pub(super) fn refuse_tables(at: &Place<'_>, params: &Params, report: &mut Report) {
    for (name, value) in params {
        let place = at.key(name);
        match value {
            ParamValue::Table(_) => report.error(
                &place,
                "is a table, which only a JSON body can hold",
                format!(
                    "set body = \"json\"; a reference has no other keys than {}",
                    RawElsewhere::KEYS.join(", ")
                ),
            ),
            ParamValue::Array(_) if name == "scope" => {
                report.error(
                    &place,
                    "is an array, which only a JSON body sends as one value",
                    "use `scopes`",
                );
            }
            ParamValue::Array(items)
                if items.iter().any(|item| matches!(item, ParamValue::Array(_) | ParamValue::Table(_))) =>
            {
                report.error(
                    &place,
                    "an array or a table in an array can only be sent as JSON",
                    "set body = \"json\"",
                );
            }
            _ => {}
        }
    }
}

fn param(place: &Place<'_>, name: &str, raw: RawParam, report: &mut Report) -> Option<ParamValue> {
    match raw {
        RawParam::Integer(number) => Some(ParamValue::Integer(number)),
        RawParam::Boolean(flag) => Some(ParamValue::Boolean(flag)),
        RawParam::Float(number) if !number.is_finite() => {
            report.error(place, "is not a number that can be sent", "write it as a string");
            None
        }
        RawParam::Float(number) => {
            let written = place.value().and_then(DeValue::as_float).map(|float| float.as_str().to_owned());
            Some(ParamValue::Float(written.unwrap_or_else(|| number.to_string())))
        }
        RawParam::Reference(raw) => {
            reference(place, RawValue { kind: ValueKind::named(name, &raw), raw }, report)
                .map(ParamValue::Value)
        }
        RawParam::Array(items) => {
            let items = items.into_iter().enumerate();
            let values = items.map(|(index, item)| param(&place.index(index), name, item, report));
            // All items are checked before a wrong one decides.
            values.collect::<Vec<_>>().into_iter().collect::<Option<Vec<_>>>().map(ParamValue::Array)
        }
        RawParam::Table(_) if matches!(place.value(), Some(DeValue::Datetime(_))) => {
            report.error(place, "expected a string, found a date", "put it in quotes");
            None
        }
        RawParam::Table(members) => {
            let members = members.into_iter();
            let values = members
                .map(|(key, member)| Some((key.clone(), param(&place.key(&key), &key, member, report)?)));
            values.collect::<Vec<_>>().into_iter().collect::<Option<_>>().map(ParamValue::Table)
        }
    }
}

/// Scopes, each of which is checked.
pub(super) fn scopes(at: &Place<'_>, raw: Vec<String>, report: &mut Report) -> Scopes {
    for (index, scope) in raw.iter().enumerate() {
        check(&at.index(index), types::scope(scope), report);
    }
    raw.into_iter().collect()
}

/// Header fields of the connection or of the message's framing (RFC 9110 section 7.6.1), which nobody may set.
const HOP_BY_HOP: &[&str] = &[
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// A header's name that may be set.
pub(super) fn settable_header(place: &Place<'_>, name: &str, report: &mut Report) -> Option<HeaderName> {
    let name = check(place, types::header_name(name), report)?;
    if HOP_BY_HOP.contains(&name.as_str()) {
        report.error(place, "belongs to the connection, so it cannot be set", "leave it out");
        return None;
    }
    Some(name)
}

/// Headers to set; two spellings of one name are an error.
pub(super) fn headers(
    at: &Place<'_>,
    raw: Option<BTreeMap<String, RawReference>>,
    report: &mut Report,
) -> Vec<(HeaderName, Source)> {
    let mut headers: Vec<(HeaderName, Source)> = Vec::new();
    for (written, raw) in raw.into_iter().flatten() {
        let place = at.key(&written);
        let Some(name) = settable_header(&place, &written, report) else { continue };
        if headers.iter().any(|(other, _)| *other == name) {
            report.error(&place, "is given twice, in two spellings", "keep one");
            continue;
        }
        if let RawReference::Literal(value) = &raw
            && check(&place, types::header_value(value.expose()), report).is_none()
        {
            continue;
        }
        if let Some(source) =
            reference(&place, RawValue { kind: ValueKind::named(&written, &raw), raw }, report)
        {
            headers.push((name, source));
        }
    }
    headers
}

/// There is no standard port for proxies. A URL without a port reads like http's own.
const PROXY_PORT: u16 = 80;

pub(super) fn tls(place: &Place<'_>, raw: Option<RawTls>, report: &mut Report) -> TlsOptions {
    let Some(RawTls { ca, roots, certificate, private_key, server_name, spiffe }) = raw else {
        return TlsOptions::default();
    };
    let (spiffe_at, spiffe_given) = (place.key("spiffe"), spiffe.is_some());
    let (ca_given, roots_given) = (ca.is_some(), roots.is_given());
    let default = if ca_given || spiffe_given { Roots::Ca } else { Roots::System };
    let roots = roots.read_or(default, place, "roots", report);
    let beside = [place.key("certificate"), place.key("private_key")];
    let svid = spiffe.and_then(|raw| X509Svid::read(&spiffe_at, &beside, raw, report));
    let ids = server_name.as_deref().filter(|name| name.starts_with("spiffe://"));
    let peer = ids.and_then(|id| check(&place.key("server_name"), spiffe::spiffe_id(id), report));
    // Other roots may sign for any trust domain.
    if peer.is_some() && !(roots == Roots::Ca && (spiffe_given || ca_given)) {
        let hint = match roots_given {
            true => "leave `roots` out",
            false => "add spiffe = {}, or the trust bundle as ca = { file = \"…\" }",
        };
        report.error(
            &place.key("server_name"),
            "a SPIFFE ID needs the authorities of its trust domain, and no others",
            hint,
        );
    }
    let server_name = server_name.filter(|name| !name.starts_with("spiffe://"));
    let roots_at = place.key("roots");
    match roots {
        Roots::Ca | Roots::Both if !ca_given && !spiffe_given && !place.key("ca").is_written() => {
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
    let ca = ca.and_then(|raw| reference(&place.key("ca"), raw, report));
    let certificate = certificate.and_then(|raw| reference(&place.key("certificate"), raw, report));
    let private_key = private_key.and_then(|raw| reference(&place.key("private_key"), raw, report));
    let takes_bundle = !ca_given && matches!(roots, Roots::Ca | Roots::Both);
    let bundle = svid.as_ref().filter(|_| takes_bundle).map(|svid| {
        let of = peer.as_ref().map(|id| id.trust_domain().clone());
        svid.bundle(&spiffe_at, of, report)
    });
    TlsOptions {
        ca: ca.or(bundle),
        roots,
        // The value has the key as well.
        certificate: certificate.or_else(|| svid.map(|svid| svid.identity(&spiffe_at, report))),
        private_key,
        server_name,
        spiffe_id: peer,
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
            let userinfo = userinfo.and_then(|raw| reference(&place.key("userinfo"), raw, report));
            proxy(&at, &url, userinfo, report).unwrap_or_default()
        }
    }
}

/// Warns about entries of `NO_PROXY` that have no effect.
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

/// Checks the way to a target. A proxy must not carry what is plain because it stays on this machine: a proxy elsewhere opens
/// its tunnel there, and could read it. A proxy of the environment must be usable, and none is a listener of bearerd's own.
pub(super) fn check_egress(
    place: &Place<'_>,
    (https, host, port): (bool, &str, u16),
    egress: &Egress,
    listeners: &Listeners,
    report: &mut Report,
) {
    let at = place.key("proxy");
    let refuse_own = |(proxy, port): (&str, u16), who: &str, report: &mut Report| {
        let mut configs = listeners.configs.iter().flatten();
        if let Some(own) = configs.find(|config| config.address.is_reached_by(proxy, port)) {
            let message = format!("{who}{}", listener::own(&own.name));
            report.error(&at, message, "name the proxy that leads to other networks, or leave `proxy` out");
        }
    };
    match egress {
        Egress::Proxy { host: proxy, .. }
            if !https && url::is_this_machine(host) && !url::is_this_machine(proxy) =>
        {
            report.error(
                &at,
                "http:// is only for this machine, and a proxy elsewhere would take it over the network in the clear",
                "leave `proxy` out",
            );
        }
        Egress::Env => {
            let variables = environment::proxy_variables();
            let Some(variable) = variables.named_for(host, port, https) else { return };
            match (variable.unusable(), variable.proxy()) {
                (Some(why), _) => report.error(&at, why, Variable::REMEDY),
                (None, Some((proxy, port))) => {
                    refuse_own((&proxy, port), &format!("the environment's {} ", variable.name), report);
                }
                (None, None) => {}
            }
        }
        Egress::Proxy { host, port, .. } => refuse_own((host, *port), "", report),
        Egress::Direct => {}
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
            report.error(place, "user and password are both in the URL and in `userinfo`", "keep `userinfo`");
            return None;
        }
        (Some(written), None) => {
            literal_allowed(place, ValueKind::Secret, report)?;
            let decoded: Vec<u8> = percent_encoding::percent_decode_str(written).collect();
            Some(Source::literal(Secret::new(decoded)))
        }
        (None, userinfo) => userinfo,
    };
    Some(Egress::Proxy { host: parts.host, port: parts.port.unwrap_or(PROXY_PORT), userinfo })
}
