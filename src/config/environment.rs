//! What the environment says about proxies and traces, as it is written there: `net` makes sense of the former,
//! `resolve/otel.rs` of the latter.

use std::collections::BTreeMap;
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

/// The variables of OpenTelemetry (`OTEL_…`). Some hold secrets, so nothing prints them.
#[derive(Default)]
pub(crate) struct OtelVariables(BTreeMap<String, String>);

impl OtelVariables {
    /// The variables as they are now.
    pub(crate) fn of_the_process() -> Self {
        let named = env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
        let ours = named.filter(|(name, _)| name.starts_with("OTEL_"));
        Self(ours.map(|(name, value)| (name, value.to_string_lossy().into_owned())).collect())
    }

    #[cfg(test)]
    pub(crate) fn of(pairs: &[(&str, &str)]) -> Self {
        Self(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    /// The value; an empty one counts as none (OpenTelemetry's specification).
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|value| value.trim()).filter(|value| !value.is_empty())
    }
}
