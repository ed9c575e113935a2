//! What the environment says about proxies, as it is written there: `net` makes sense of it.

use std::env;

/// A variable and its value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Variable {
    pub name: &'static str,
    pub value: String,
}

/// `HTTPS_PROXY` and its kin; the first spelling that is set counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProxyVariables {
    pub http: Option<Variable>,
    pub https: Option<Variable>,
    /// Where the one for the scheme is missing.
    pub all: Option<Variable>,
    pub no_proxy: String,
}

/// The variables as they are now.
pub fn proxy_variables() -> ProxyVariables {
    // Under CGI the upper-case one is a header of whoever asks (CVE-2016-5385, "httpoxy").
    let http: &[_] =
        if env::var_os("REQUEST_METHOD").is_some() { &["http_proxy"] } else { &["HTTP_PROXY", "http_proxy"] };
    ProxyVariables {
        http: first(http),
        https: first(&["HTTPS_PROXY", "https_proxy"]),
        all: first(&["ALL_PROXY", "all_proxy"]),
        no_proxy: first(&["NO_PROXY", "no_proxy"]).unwrap_or_default().value,
    }
}

/// An empty one says that there is no proxy; it still counts before the other spelling.
fn first(names: &[&'static str]) -> Option<Variable> {
    let set = names.iter().find_map(|name| Some((*name, env::var_os(name)?)));
    let (name, value) = set?;
    let value = value.to_string_lossy().into_owned();
    (!value.is_empty()).then_some(Variable { name, value })
}
