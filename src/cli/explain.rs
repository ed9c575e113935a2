//! `bearerd explain`: which route serves a request and why, what goes up, whose token.
//!
//! Nothing is sent and no secret is read. The choice is made by the same table and path rules as in the proxy.

mod reasons;
mod request;
mod sent;
mod text;

use serde::Serialize;

use self::request::ExplainedRequest;
pub use self::sent::{CredentialFacts, HeaderNames, Parameter, Sent, Timeouts};
use crate::config::Config;
use crate::route::{Lookup, NoMatch, RouteTable, host, path};

/// What becomes of one request. Holds names from the config and the request's method and path; no header value, no query.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// A route serves the request at one listener at least.
    pub found: bool,
    pub method: String,
    /// Without the query.
    pub path: String,
    /// One for each response that the listeners give.
    pub answers: Vec<Answer>,
}

/// What the listeners named answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Answer {
    pub listeners: Vec<String>,
    pub route: Option<String>,
    /// The proxy's own response, where nothing goes up.
    pub status: Option<u16>,
    pub code: Option<&'static str>,
    pub why: Vec<String>,
    /// Routes that nearly served it, a line each.
    pub nearest: Vec<String>,
    /// What else would decide about this very call.
    pub notes: Vec<String>,
    pub sent: Option<Sent>,
}

/// A request that no route serves: status, code, reason.
struct Refusal(u16, &'static str, String);

/// Explains one request. `url` is a path (then the host is `localhost`) or absolute (then its host counts, and one that
/// names a listener's address asks that listener alone; without a scheme it is http). A `Host` among `headers` goes before the URL's.
///
/// Errors are bad usage: what is no method, URL or header.
pub fn explain(
    config: &Config,
    method: &str,
    url: &str,
    headers: &[(String, String)],
) -> Result<Explanation, String> {
    let asked = ExplainedRequest::new(method, url, headers)?;
    let table = RouteTable::build(&config.routes);
    let mut answers: Vec<Answer> = Vec::new();
    for index in asked.listeners(config, &table) {
        let Some(listener) = config.listeners.get(index) else { continue };
        let answer = answer(config, &table, &asked, index);
        let name = listener.name.to_string();
        match answers.iter_mut().find(|other| Answer { listeners: Vec::new(), ..(*other).clone() } == answer)
        {
            Some(same) => same.listeners.push(name),
            None => answers.push(Answer { listeners: vec![name], ..answer }),
        }
    }
    Ok(Explanation {
        found: answers.iter().any(|answer| answer.route.is_some()),
        method: asked.method.to_string(),
        path: asked.path,
        answers,
    })
}

impl Explanation {
    /// For people.
    pub fn to_text(&self) -> String {
        text::render(self)
    }
}

/// The response of one listener, without its name.
fn answer(config: &Config, table: &RouteTable, asked: &ExplainedRequest, listener: usize) -> Answer {
    match serve(config, table, asked, listener) {
        Ok(answer) => answer,
        Err((Refusal(status, code, why), nearest)) => Answer {
            listeners: Vec::new(),
            route: None,
            status: Some(status),
            code: Some(code),
            why: vec![why],
            nearest,
            notes: Vec::new(),
            sent: None,
        },
    }
}

/// The checks in the proxy's order: method, 400, 421, (403 is only noted,) 404.
fn serve(
    config: &Config,
    table: &RouteTable,
    asked: &ExplainedRequest,
    listener: usize,
) -> Result<Answer, (Refusal, Vec<String>)> {
    asked.method_refused().map_err(|refusal| (refusal, Vec::new()))?;
    let name = asked.host().map_err(|refusal| (refusal, Vec::new()))?;
    let settings = config.listeners.get(listener);
    let own_name = settings.is_some_and(|settings| host::is_own_name(settings, asked.connected, &name));
    let is_misdirected = !own_name && !table.names_host(listener, &name);
    if asked.is_for_the_server() {
        asked.ends_here().map_err(|refusal| (refusal, Vec::new()))?;
        let answer = answered_here(None, "`OPTIONS *` is about the server as a whole, which is bearerd");
        return if is_misdirected { Err((misdirected(&name), Vec::new())) } else { Ok(answer) };
    }
    let bad_path = |error: path::PathError| (Refusal(400, "bad_request", error.to_string()), Vec::new());
    let match_path = path::parse(&asked.path).map_err(bad_path)?;
    let ends_here = asked.ends_here().map_err(|refusal| (refusal, Vec::new()))?;
    let call = Lookup {
        listener,
        own_name,
        host: &name,
        path: &match_path,
        method: &asked.method,
        headers: &asked.headers,
    };
    let miss = |refusal| (refusal, reasons::nearest(config, &call));
    let found = match table.find(&call) {
        Err(NoMatch::EncodedSlash) => return Err(miss(escaped_slash())),
        _ if is_misdirected => return Err(miss(misdirected(&name))),
        Err(NoMatch::Path) => return Err(miss(no_route("no route serves this host and path".to_owned()))),
        Err(NoMatch::Method(methods)) => return Err(miss(other_methods(&methods))),
        Ok(found) => found,
    };
    let Some(route) = config.routes.get(found.route) else {
        return Err(miss(no_route("the table names a route that is not there".to_owned())));
    };
    if ends_here {
        let name = Some(route.name.to_string());
        return Ok(answered_here(name, "Max-Forwards is 0: an OPTIONS goes no further than here"));
    }
    Ok(Answer {
        listeners: Vec::new(),
        route: Some(route.name.to_string()),
        status: None,
        code: None,
        why: reasons::won(config, route, &call),
        nearest: Vec::new(),
        notes: reasons::notes(settings, route, asked),
        sent: Some(Sent::new(route, asked, found.prefix_segments)),
    })
}

/// An OPTIONS to which bearerd tells the methods itself.
fn answered_here(route: Option<String>, why: &str) -> Answer {
    Answer {
        listeners: Vec::new(),
        route,
        status: Some(204),
        code: None,
        why: vec![format!("{why}; the response says in Allow which methods there are, and nothing goes up")],
        nearest: Vec::new(),
        notes: Vec::new(),
        sent: None,
    }
}

fn escaped_slash() -> Refusal {
    let why = "the path has an escaped slash, and no route for it has `allow_encoded_slash = true`";
    Refusal(400, "bad_request", why.to_owned())
}

fn misdirected(name: &str) -> Refusal {
    let why = format!(
        "neither this listener nor a route that listens there names the host `{name}`; add it to the listener's \
         `names` or give a route `host`"
    );
    Refusal(421, "misdirected", why)
}

fn no_route(why: String) -> Refusal {
    Refusal(404, "no_route", why)
}

fn other_methods(methods: &[http::Method]) -> Refusal {
    let names: Vec<_> = methods.iter().map(http::Method::as_str).collect();
    no_route(format!("this path is served for other methods only: {}", names.join(", ")))
}

#[cfg(test)]
mod tests;
