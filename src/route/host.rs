//! The host that a request names, and which hosts are a listener's own.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::config::{Address, ListenerConfig};

/// The longest name that DNS has (RFC 1035 section 2.3.4), in characters, with its trailing dot.
const LONGEST_HOST: usize = 254;

/// The host and port of a `Host` field or `:authority`, parsed strictly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority<'a> {
    /// In lower case, and an IPv6 address without its brackets. A trailing dot stays, so that `localhost.` equals no name.
    pub host: Cow<'a, str>,
    pub port: Option<u16>,
}

impl<'a> Authority<'a> {
    /// `None` if it is not a host with an optional port, which is a 400 by RFC 9112 section 3.2: empty, with user
    /// information, a list, an invalid port, an address with a zone, an empty label, or a character that no host name
    /// has.
    pub fn parse(text: &'a str) -> Option<Self> {
        if let Some(rest) = text.strip_prefix('[') {
            let (address, port) = rest.split_once(']')?;
            let port = read_port(port)?;
            address.parse::<Ipv6Addr>().ok()?;
            return Some(Self { host: Cow::Owned(address.to_ascii_lowercase()), port });
        }
        let name = name(text)?;
        let (host, rest) = text.split_at_checked(name.length)?;
        if host.len() > LONGEST_HOST {
            return None;
        }
        let port = read_port(rest)?;
        let host =
            if name.has_capitals { Cow::Owned(host.to_ascii_lowercase()) } else { Cow::Borrowed(host) };
        Some(Self { host, port })
    }
}

/// The host of an authority, if it is valid.
pub fn split_host(authority: &str) -> Option<Cow<'_, str>> {
    Authority::parse(authority).map(|authority| authority.host)
}

/// Reads what follows a host: nothing, or a colon with digits or nothing (RFC 3986 section 3.2.3).
fn read_port(rest: &str) -> Option<Option<u16>> {
    let digits = match rest.strip_prefix(':') {
        Some(digits) => digits,
        None if rest.is_empty() => return Some(None),
        None => return None,
    };
    if digits.is_empty() {
        return Some(None);
    }
    let port = digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())??;
    Some(Some(port))
}

/// The name before the port.
struct Name {
    length: usize,
    has_capitals: bool,
}

/// Reads labels of at least one character, with or without a dot after the last one. Every request is read here, so each byte
/// is read once.
fn name(authority: &str) -> Option<Name> {
    let (mut length, mut in_label, mut has_capitals) = (0, false, false);
    for byte in authority.bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => in_label = true,
            b'A'..=b'Z' => (in_label, has_capitals) = (true, true),
            b'.' if in_label => in_label = false,
            b':' => break,
            _ => return None,
        }
        length += 1;
    }
    (length > 0).then_some(Name { length, has_capitals })
}

/// Whether the host is one of the listener's own names: `localhost`, a loopback literal, one of `names`, or the address that
/// it listens on. If that is the unspecified address, the one that the caller connected to (`local`).
///
/// Only the usual spelling of an address counts, so that no `0.0.0.0`, `127.1` or `2130706433` gets through. `host` comes from
/// [`Authority::parse`]. Letter case does not matter.
pub fn is_own_name(listener: &ListenerConfig, local: Option<SocketAddr>, host: &str) -> bool {
    if host == "127.0.0.1"
        || host.eq_ignore_ascii_case("localhost")
        || listener.names.iter().any(|name| unbracketed(name).eq_ignore_ascii_case(host))
    {
        return true;
    }
    let Some(literal) = usual_literal(host) else { return false };
    let own = match &listener.address {
        Address::Tcp(address) if !address.ip().is_unspecified() => Some(address.ip().to_canonical()),
        Address::Tcp(_) => local.map(|local| local.ip().to_canonical()),
        Address::Unix(_) => None,
    };
    let loopback = match literal {
        IpAddr::V4(address) => address.is_loopback(),
        IpAddr::V6(address) => address == Ipv6Addr::LOCALHOST,
    };
    loopback || own.is_some_and(|own| own == literal && !own.is_unspecified())
}

/// A host of the config in the form of [`Authority::parse`]: the config writes an IPv6 address with brackets.
pub(super) fn unbracketed(host: &str) -> &str {
    host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host)
}

/// An address in the spelling in which it is printed (RFC 5952 for IPv6).
fn usual_literal(host: &str) -> Option<IpAddr> {
    // The parser of the standard library accepts four decimal numbers without leading zeros, which is the usual spelling.
    if let Ok(address) = host.parse::<Ipv4Addr>() {
        return Some(IpAddr::V4(address));
    }
    // Most hosts are names, which are recognized before anything is printed.
    let address = host.contains(':').then(|| host.parse::<Ipv6Addr>().ok())??;
    address.to_string().eq_ignore_ascii_case(host).then_some(IpAddr::V6(address))
}

#[cfg(test)]
mod tests;
