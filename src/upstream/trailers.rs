//! Trailers obey the rules of fields, in either direction: whoever merges them into a message's fields may not read
//! there what its fields could not say.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use hyper::body::Frame;

/// Which trailers are dropped, beside those that [`never_trails`] names. Clones share them.
#[derive(Debug, Clone)]
pub struct TrailerRules(Arc<Vec<String>>);

impl TrailerRules {
    /// `owned`: fields that are set or taken out here.
    pub fn new<'a>(owned: impl IntoIterator<Item = &'a HeaderName>) -> Self {
        Self(Arc::new(owned.into_iter().map(|name| squeeze(name.as_str())).collect()))
    }

    /// The rules for one message, of which these fields stay here too.
    pub fn with<'a>(&self, more: impl IntoIterator<Item = &'a HeaderName>) -> Self {
        let mut rules = self.clone();
        for name in more {
            Arc::make_mut(&mut rules.0).push(squeeze(name.as_str()));
        }
        rules
    }

    /// Takes out of the frame, where it holds trailers, those that are not to go on.
    pub fn apply(&self, mut frame: Frame<Bytes>) -> Frame<Bytes> {
        if let Some(trailers) = frame.trailers_mut() {
            self.clean(trailers);
        }
        frame
    }

    fn clean(&self, trailers: &mut HeaderMap) {
        let dropped = |name: &&HeaderName| {
            let squeezed = squeeze(name.as_str());
            never_trails(&squeezed) || self.0.contains(&squeezed)
        };
        let dropped: Vec<HeaderName> = trailers.keys().filter(dropped).cloned().collect();
        for name in dropped {
            trailers.remove(name);
        }
    }
}

/// Fields that decide how a message is framed, routed, authorised, cached or understood (RFC 9110 section 6.5.1), that
/// belong to one hop, or that a gateway answers for.
fn never_trails(squeezed: &str) -> bool {
    // All of them: `-Port`, `-Prefix`, `-User` and what proxies make up besides.
    let tells_of_the_caller = squeezed.starts_with("xforwarded");
    let is_known = matches!(
        squeezed,
        // Framing and the hop.
        "connection" | "contentlength" | "host" | "http2settings" | "keepalive" | "proxyconnection" | "te" | "trailer"
            | "transferencoding" | "upgrade"
            // Who calls, and by which way.
            | "authorization" | "cookie" | "dpop" | "forwarded" | "origin" | "proxyauthorization" | "referer"
            | "secfetchsite" | "traceparent" | "tracestate" | "via" | "xrealip" | "xrequestid"
            // What is to be done with it.
            | "cachecontrol" | "expect" | "ifmatch" | "ifmodifiedsince" | "ifnonematch" | "ifrange"
            | "ifunmodifiedsince" | "maxforwards" | "pragma" | "range"
            // What it means.
            | "contentencoding" | "contentrange" | "contenttype"
            // What a response says of itself.
            | "age" | "date" | "expires" | "location" | "proxyauthenticate" | "retryafter" | "setcookie" | "vary"
            | "warning" | "wwwauthenticate"
    );
    tells_of_the_caller || is_known
}

/// A header's name without what servers take for one another.
pub(crate) fn squeeze(name: &str) -> String {
    name.chars().filter(|letter| *letter != '_' && *letter != '-').collect()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn left(rules: &TrailerRules, names: &[&str]) -> Vec<String> {
        let fields = names.iter().map(|name| (name.parse().unwrap(), HeaderValue::from_static("1")));
        let frame = rules.apply(Frame::trailers(fields.collect()));
        frame.trailers_ref().unwrap().keys().map(ToString::to_string).collect()
    }

    #[test]
    fn what_no_trailer_may_say_and_what_has_an_owner_is_dropped_however_it_is_written() {
        let rules = TrailerRules::new([&HeaderName::from_static("x-api-key")]);
        let names = ["authorization", "x-api-key", "x_api_key", "content_length", "set-cookie", "x-checksum"];
        assert_eq!(left(&rules, &names), ["x-checksum"]);
        let one = rules.with([&HeaderName::from_static("x-private")]);
        assert_eq!(left(&one, &["x-private", "x-api-key", "grpc-status"]), ["grpc-status"]);
        assert_eq!(left(&rules, &["x-private"]), ["x-private"]);
    }

    #[test]
    fn data_passes() {
        let frame = TrailerRules::new([]).apply(Frame::data(Bytes::from_static(b"x")));
        assert_eq!(frame.into_data().unwrap(), "x");
    }
}
