//! What is said of a request that no route serves: to its caller, and with its host, method and path to operators.

use http::Method;

use super::caller::ListenerRules;
use super::error::{Code, ProxyError};
use super::snapshot::Snapshot;
use crate::route::{Call, Miss, near};

/// Routes that are named.
const NEAREST: usize = 3;
/// Characters of a path that are told.
const SHOWN: usize = 200;

pub(super) fn misdirected(snapshot: &Snapshot, rules: &ListenerRules, call: Option<&Call<'_>>) -> ProxyError {
    let name = &rules.config.name;
    let detail = format!(
        "neither listener {name} nor any of its routes has this Host; call it as localhost, or add the name to `names` \
         of [listener.{name}] or to `host` of a route"
    );
    // Which hosts there are is not for every page that finds its way here.
    let for_operators = call.map(|call| told(call, &detail, &nearest(snapshot, call)));
    ProxyError { for_operators, ..ProxyError::new(Code::Misdirected, detail) }
}

pub(super) fn no_route(snapshot: &Snapshot, call: &Call<'_>, miss: Miss) -> ProxyError {
    let (detail, near) = match miss {
        Miss::EncodedSlash => return encoded_slash(),
        Miss::Path => ("no route serves this path on this host".to_owned(), nearest(snapshot, call)),
        Miss::Method(methods) => {
            let methods: Vec<&str> = methods.iter().map(Method::as_str).collect();
            (
                format!("this path is not served for {}, only for {}", call.method, methods.join(", ")),
                Vec::new(),
            )
        }
    };
    let for_operators = Some(told(call, &detail, &near));
    let explain = "`bearerd explain METHOD URL` tells more";
    let detail = [&[detail], &near[..], &[explain.to_owned()]].concat().join("; ");
    ProxyError { for_operators, ..ProxyError::new(Code::NoRoute, detail) }
}

pub(super) fn encoded_slash() -> ProxyError {
    ProxyError::bad_request(
        "the path has an escaped slash (%2F), which could be one thing here and another upstream; where the \
         upstream needs it, set allow_encoded_slash = true on the route",
    )
}

fn nearest(snapshot: &Snapshot, call: &Call<'_>) -> Vec<String> {
    let config = &snapshot.config;
    near::nearest(&config.routes, |index| Some(&*config.listeners.get(index)?.name), call, NEAREST)
}

/// Never the query. The host was read strictly, and the path has no raw control character.
fn told(call: &Call<'_>, detail: &str, near: &[String]) -> Box<str> {
    let path = &call.path.canonical;
    let shown: String = path.chars().take(SHOWN).collect();
    let cut = if shown.len() < path.len() { "…" } else { "" };
    let what = format!("{} {}{shown}{cut}: {detail}", call.method, call.host);
    [&[what], near].concat().join("; ").into_boxed_str()
}
