//! The request that is asked about, from the command line's words.

use std::borrow::Cow;

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};

use super::Refusal;
use crate::config::{Address, Config};
use crate::proxy::max_forwards;
use crate::route::{RouteTable, host};

pub(super) struct ExplainedRequest {
    pub(super) method: Method,
    pub(super) path: String,
    /// Never shown: only looked at for the parameter that a route's token goes in.
    pub(super) query: Option<String>,
    pub(super) headers: HeaderMap,
    /// The address that the URL names as a literal: the one that a caller of this URL connects to.
    pub(super) connected: Option<SocketAddr>,
    /// As it would stand in `Host`.
    authority: String,
    /// Of an absolute URL; else nothing tells listeners apart.
    target: Option<(String, u16)>,
    /// What the HTTP parser says of the path.
    unreadable: bool,
}

impl ExplainedRequest {
    pub(super) fn new(method: &str, url: &str, headers: &[(String, String)]) -> Result<Self, String> {
        let method = Method::from_bytes(method.as_bytes())
            .map_err(|_| format!("`{}` is no HTTP method", method.escape_debug()))?;
        let headers = header_map(headers)?;
        let mut asked = Self {
            method,
            path: String::new(),
            query: None,
            headers,
            connected: None,
            authority: "localhost".to_owned(),
            target: None,
            unreadable: false,
        };
        match url.parse::<Uri>() {
            Ok(uri) if uri.scheme().is_some() => asked.absolute(&uri)?,
            // `*` stands for the server as a whole.
            Ok(uri) if url.starts_with('/') || url == "*" => asked.take_path(&uri),
            // What no HTTP request line may hold is still a path that someone may send.
            Err(_) if url.starts_with('/') => {
                asked.unreadable = true;
                asked.path = url.split('?').next().unwrap_or_default().to_owned();
            }
            _ => match as_curl_reads_it(url) {
                Some(uri) => asked.absolute(&uri)?,
                None => return Err(format!("`{}` is neither a path nor an http(s) URL", shown(url))),
            },
        }
        Ok(asked)
    }

    fn take_path(&mut self, uri: &Uri) {
        self.path = uri.path().to_owned();
        self.query = uri.query().map(str::to_owned);
    }

    fn absolute(&mut self, uri: &Uri) -> Result<(), String> {
        let default_port = match uri.scheme_str() {
            Some("http") => 80,
            Some("https") => 443,
            _ => return Err("the URL's scheme must be http or https".to_owned()),
        };
        let authority = uri.authority().map(http::uri::Authority::as_str).unwrap_or_default();
        if authority.contains('@') {
            return Err("the URL must not hold a user name or password".to_owned());
        }
        let name = host::split_host(authority).ok_or("the URL names no valid host and port")?;
        let port = uri.port_u16().unwrap_or(default_port);
        self.connected = name.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, port));
        self.target = Some((name.into_owned(), port));
        self.authority = authority.to_owned();
        self.take_path(uri);
        Ok(())
    }

    /// CONNECT and TRACE are answered before anything else is looked at; so is what the HTTP parser refuses.
    pub(super) fn method_refused(&self) -> Result<(), Refusal> {
        if self.unreadable {
            let why = "no HTTP request line may hold this path; the HTTP parser answers without a body";
            return Err(Refusal(400, "bad_request", why.to_owned()));
        }
        if self.method == Method::CONNECT || self.method == Method::TRACE {
            return Err(Refusal(405, "method_refused", format!("{} is never served", self.method)));
        }
        Ok(())
    }

    /// `OPTIONS *` (RFC 9110 section 7.1).
    pub(super) fn is_for_the_server(&self) -> bool {
        self.method == Method::OPTIONS && self.path == "*" && self.query.is_none()
    }

    /// An OPTIONS that may go no further (RFC 9110 section 7.6.2).
    pub(super) fn ends_here(&self) -> Result<bool, Refusal> {
        if self.method != Method::OPTIONS {
            return Ok(false);
        }
        let left = max_forwards(&self.headers);
        left.map(|left| left == Some(0))
            .map_err(|()| Refusal(400, "bad_request", "Max-Forwards is not one number".to_owned()))
    }

    /// The host that the request names.
    pub(super) fn host(&self) -> Result<String, Refusal> {
        let refused = |why: &str| Refusal(400, "bad_request", why.to_owned());
        let mut hosts = self.headers.get_all(header::HOST).iter();
        let authority = match (hosts.next(), hosts.next()) {
            (Some(_), Some(_)) => return Err(refused("the request has more than one Host")),
            (Some(host), None) => host.to_str().unwrap_or_default(),
            (None, _) => &self.authority,
        };
        let name = host::split_host(authority);
        name.map(Cow::into_owned).ok_or_else(|| refused("the Host is no valid host name"))
    }

    /// The listeners that could take the request: those at the URL's address, where it names one, else all.
    pub(super) fn listeners(&self, config: &Config, table: &RouteTable) -> Vec<usize> {
        let all = || (0..config.listeners.len()).collect();
        let Some((name, port)) = &self.target else { return all() };
        let at_port: Vec<_> = config
            .listeners
            .iter()
            .enumerate()
            .filter(
                |(_, listener)| matches!(listener.address, Address::Tcp(address) if address.port() == *port),
            )
            .collect();
        let known: Vec<_> = at_port
            .iter()
            .filter(|(index, listener)| {
                host::is_own_name(listener, self.connected, name) || table.names_host(*index, name)
            })
            .map(|(index, _)| *index)
            .collect();
        match (known.is_empty(), at_port.is_empty()) {
            (false, _) => known,
            (true, false) => at_port.iter().map(|(index, _)| *index).collect(),
            (true, true) => all(),
        }
    }
}

/// `localhost:8080/x` without a scheme. A bare word would rather be a path that lacks its slash.
fn as_curl_reads_it(url: &str) -> Option<Uri> {
    let host = url.split(['/', '?']).next().unwrap_or_default();
    let is_host = host.contains(['.', ':']) || host == "localhost";
    if !is_host || url.contains("://") {
        return None;
    }
    format!("http://{url}").parse().ok()
}

fn header_map(headers: &[(String, String)]) -> Result<HeaderMap, String> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let parsed = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| format!("`{}` is no header name", name.escape_debug()))?;
        let value = HeaderValue::from_str(value)
            .map_err(|_| format!("the value of header `{parsed}` is none that HTTP allows"))?;
        map.append(parsed, value);
    }
    Ok(map)
}

/// A wrong URL for an error, without what may be secret in it.
fn shown(url: &str) -> String {
    match url.contains(['?', '@']) {
        true => "this".to_owned(),
        false => url.escape_debug().to_string(),
    }
}
