//! Which fields are there that the request path asks for, found in one look at the names. Most messages have few of
//! them, and a look-up for each would cost more than all else that is done with headers.

use std::ops::BitOr;

use http::HeaderMap;

/// A set of fields. That a field is in it says that it was there: it may have been removed since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FieldSet(u16);

impl FieldSet {
    pub(super) const AUTHORIZATION: Self = Self(1);
    pub(super) const CONTENT_LENGTH: Self = Self(1 << 1);
    pub(super) const CONTENT_TYPE: Self = Self(1 << 2);
    pub(super) const COOKIE: Self = Self(1 << 3);
    pub(super) const EXPECT: Self = Self(1 << 4);
    pub(super) const LOCATION: Self = Self(1 << 5);
    /// `Origin`, `Referer` or `Sec-Fetch-Site`: a browser page may have sent it.
    pub(super) const PAGE: Self = Self(1 << 6);
    pub(super) const REQUEST_ID: Self = Self(1 << 7);
    pub(super) const TRANSFER_ENCODING: Self = Self(1 << 8);
    pub(super) const UPGRADE: Self = Self(1 << 9);
    pub(super) const VIA: Self = Self(1 << 10);
    /// A field that belongs to one hop, beside those that have a name here.
    pub(super) const OTHER_HOP_BY_HOP: Self = Self(1 << 11);
    /// A name with `_`.
    pub(super) const UNDERSCORE: Self = Self(1 << 12);
    pub(super) const CONNECTION: Self = Self(1 << 13);
    pub(super) const TE: Self = Self(1 << 14);
    pub(super) const MAX_FORWARDS: Self = Self(1 << 15);
    /// A field that belongs to one hop whether `Connection` names it or not (RFC 9110 section 7.6.1).
    /// `Trailer` is none: it describes the message.
    pub(super) const HOP_BY_HOP: Self = Self(
        Self::CONNECTION.0
            | Self::TE.0
            | Self::TRANSFER_ENCODING.0
            | Self::UPGRADE.0
            | Self::OTHER_HOP_BY_HOP.0,
    );

    pub(super) fn of(headers: &HeaderMap) -> Self {
        headers.keys().fold(Self(0), |seen, name| seen | Self::name(name.as_str()))
    }

    /// Whether any of these fields was there.
    pub(super) fn any(self, fields: Self) -> bool {
        self.0 & fields.0 != 0
    }

    /// What a field of this name, in lower case, is seen as.
    pub(super) fn name(name: &str) -> Self {
        // By length first: comparing each name with all of these would cost as much as the look-ups did.
        match name.len() {
            2 if name == "te" => Self::TE,
            3 if name == "via" => Self::VIA,
            6 if name == "cookie" => Self::COOKIE,
            6 if name == "expect" => Self::EXPECT,
            6 if name == "origin" => Self::PAGE,
            7 if name == "referer" => Self::PAGE,
            7 if name == "upgrade" => Self::UPGRADE,
            8 if name == "location" => Self::LOCATION,
            10 if name == "connection" => Self::CONNECTION,
            10 if name == "keep-alive" => Self::OTHER_HOP_BY_HOP,
            12 if name == "max-forwards" => Self::MAX_FORWARDS,
            12 if name == "content-type" => Self::CONTENT_TYPE,
            12 if name == "x-request-id" => Self::REQUEST_ID,
            13 if name == "authorization" => Self::AUTHORIZATION,
            14 if name == "content-length" => Self::CONTENT_LENGTH,
            14 if name == "sec-fetch-site" => Self::PAGE,
            14 if name == "http2-settings" => Self::OTHER_HOP_BY_HOP,
            16 if name == "proxy-connection" => Self::OTHER_HOP_BY_HOP,
            17 if name == "transfer-encoding" => Self::TRANSFER_ENCODING,
            18 if name == "proxy-authenticate" => Self::OTHER_HOP_BY_HOP,
            19 if name == "proxy-authorization" => Self::OTHER_HOP_BY_HOP,
            _ if name.bytes().any(|byte| byte == b'_') => Self::UNDERSCORE,
            _ => Self(0),
        }
    }
}

impl BitOr for FieldSet {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn seen(names: &[&str]) -> FieldSet {
        let lines =
            names.iter().map(|name| (name.parse::<HeaderName>().unwrap(), HeaderValue::from_static("1")));
        FieldSet::of(&lines.collect())
    }

    #[test]
    fn every_hop_by_hop_field_is_seen_as_one() {
        for name in [
            "connection",
            "keep-alive",
            "proxy-connection",
            "proxy-authenticate",
            "proxy-authorization",
            "transfer-encoding",
            "upgrade",
            "http2-settings",
            "te",
        ] {
            assert!(seen(&["accept", name]).any(FieldSet::HOP_BY_HOP), "{name}");
        }
        assert!(!seen(&["trailer"]).any(FieldSet::HOP_BY_HOP));
    }

    #[test]
    fn fields_of_no_interest_are_not_seen() {
        assert_eq!(seen(&["host", "accept", "user-agent", "x-tenant", "date", "server"]), FieldSet(0));
        assert!(!seen(&[]).any(FieldSet(u16::MAX)));
    }

    #[test]
    fn each_field_is_told_from_the_others() {
        for (name, field) in [
            ("authorization", FieldSet::AUTHORIZATION),
            ("content-length", FieldSet::CONTENT_LENGTH),
            ("content-type", FieldSet::CONTENT_TYPE),
            ("cookie", FieldSet::COOKIE),
            ("expect", FieldSet::EXPECT),
            ("location", FieldSet::LOCATION),
            ("max-forwards", FieldSet::MAX_FORWARDS),
            ("origin", FieldSet::PAGE),
            ("referer", FieldSet::PAGE),
            ("sec-fetch-site", FieldSet::PAGE),
            ("x-request-id", FieldSet::REQUEST_ID),
            ("via", FieldSet::VIA),
            ("transfer-encoding", FieldSet::TRANSFER_ENCODING),
            ("upgrade", FieldSet::UPGRADE),
            ("connection", FieldSet::CONNECTION),
            ("te", FieldSet::TE),
            ("x_tenant", FieldSet::UNDERSCORE),
        ] {
            assert_eq!(seen(&["accept", name]), field, "{name}");
        }
    }
}
