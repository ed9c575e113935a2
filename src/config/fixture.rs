//! Configs for tests: all that a test does not say has its default, and no list of keys stands in a test.

use std::sync::Arc;

use super::{Config, ListenerConfig, RouteConfig};

/// What the loader makes of `text`, as a file that its owner alone may read, beside a route without a token.
pub(crate) fn config(text: &str) -> Config {
    let route = "[[route]]\nname = \"r\"\nupstream = \"https://up.example/api/v2\"\nanonymous = true\n";
    super::load_text(&format!("{text}\n{route}")).unwrap_or_else(|problems| panic!("{problems}"))
}

/// A route without a token, which serves every path.
pub(crate) fn route() -> RouteConfig {
    let route = config("").routes.pop().and_then(Arc::into_inner);
    route.expect("the route is there, and nobody else has it")
}

/// The listener `main`.
pub(crate) fn listener() -> ListenerConfig {
    let listener = config("").listeners.pop().and_then(Arc::into_inner);
    listener.expect("the listener is there, and nobody else has it")
}
