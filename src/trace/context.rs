//! W3C Trace Context: what says which trace a request belongs to.

use std::fmt::Write as _;

use bytes::BytesMut;
use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::Context;
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState};

/// Trace, parent and flags (section 3.2).
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// What vendors add (section 3.3); passed on as it came.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The trace id is random (level 2 of the recommendation).
const RANDOM: u8 = 0b10;

/// `00-`, 32 digits, `-`, 16 digits, `-`, 2 digits.
const LENGTH: usize = 55;
/// Section 3.3.1.1.
const MOST_STATES: usize = 32;

/// What a request's own span is below of.
#[derive(Debug)]
pub struct Parent {
    /// Empty where the request begins a trace.
    pub context: Context,
    /// The flags that the library does not keep: a trace id of ours is random.
    pub random: bool,
}

impl Parent {
    /// The context that a caller sent. One that cannot be read is taken out of the headers, with the state that
    /// belongs to it (section 4.3).
    ///
    /// The library's propagator is more lenient than the recommendation: it takes short ids, blanks, a sign, a `-` at the
    /// end, the first of two fields, and the first line of a state.
    pub fn take_from(headers: &mut HeaderMap) -> Self {
        let mut values = headers.get_all(TRACEPARENT).iter();
        let given = match (values.next(), values.next()) {
            (Some(value), None) => parse(value.as_bytes()),
            _ => None,
        };
        let Some((context, random)) = given else {
            headers.remove(TRACEPARENT);
            headers.remove(TRACESTATE);
            return Self { context: Context::new(), random: true };
        };
        if !is_state(headers) {
            headers.remove(TRACESTATE);
        }
        Self { context: Context::new().with_remote_span_context(context), random }
    }
}

/// The context, and whether its trace id is random.
fn parse(text: &[u8]) -> Option<(SpanContext, bool)> {
    let (known, rest) = text.split_at_checked(LENGTH)?;
    let mut parts = std::str::from_utf8(known).ok()?.split('-');
    let mut next = |length| parts.next().filter(|part| part.len() == length && part.bytes().all(is_digit));
    let (version, trace_id, span_id, flags) = (next(2)?, next(32)?, next(16)?, next(2)?);
    // A later version may say more, after another dash.
    let fits = match version {
        "00" => rest.is_empty(),
        "ff" => false,
        _ => rest.is_empty() || rest.starts_with(b"-"),
    };
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?);
    // Of other flags nobody knows whether they hold for what is below. The state goes up in its field, as it came; no span
    // has it, since a caller wrote it.
    let context = SpanContext::new(
        TraceId::from_hex(trace_id).ok()?,
        SpanId::from_hex(span_id).ok()?,
        flags & TraceFlags::SAMPLED,
        true,
        TraceState::NONE,
    );
    (fits && context.is_valid()).then_some((context, flags.to_u8() & RANDOM != 0))
}

fn is_digit(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

/// A span as it goes up.
pub fn traceparent(span: &SpanContext, random: bool) -> HeaderValue {
    let flags = (span.trace_flags() & TraceFlags::SAMPLED).to_u8() | if random { RANDOM } else { 0 };
    let mut text = BytesMut::with_capacity(LENGTH);
    // Writing to a buffer that grows does not fail.
    let _ = write!(text, "00-{}-{}-{flags:02x}", span.trace_id(), span.span_id());
    HeaderValue::from_maybe_shared(text.freeze()).unwrap_or(HeaderValue::from_static(""))
}

/// Whether every list member of the state is a key and a value (section 3.3.1).
fn is_state(headers: &HeaderMap) -> bool {
    let mut members = 0;
    headers.get_all(TRACESTATE).iter().all(|line| {
        line.to_str().is_ok_and(|line| {
            line.split(',').map(|member| member.trim_matches([' ', '\t'])).all(|member| {
                // Empty members are allowed.
                member.is_empty() || {
                    members += 1;
                    members <= MOST_STATES && is_member(member)
                }
            })
        })
    })
}

fn is_member(member: &str) -> bool {
    let Some((key, value)) = member.split_once('=') else { return false };
    let of_a_key = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-' | b'*' | b'/' | b'@')
    };
    let begins = key.starts_with(|char: char| char.is_ascii_lowercase() || char.is_ascii_digit());
    let of_a_value = |byte: u8| matches!(byte, 0x20..=0x7E) && byte != b'=';
    begins
        && key.len() <= 256
        && key.bytes().all(of_a_key)
        && (1..=256).contains(&value.len())
        && value.bytes().all(of_a_value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn taken(headers: &mut HeaderMap) -> bool {
        Parent::take_from(headers).context.has_active_span()
    }

    #[test]
    fn what_is_read_is_written_again() {
        for (flags, sampled) in [("-01", true), ("-00", false), ("-03", true), ("-02", false)] {
            let text = GOOD.replace("-01", flags);
            let (context, random) = parse(text.as_bytes()).unwrap();
            assert_eq!(context.is_sampled(), sampled);
            assert!(context.is_remote());
            assert_eq!(traceparent(&context, random), text);
        }
    }

    #[test]
    fn a_later_version_is_read_as_far_as_it_is_known() {
        let later = format!("cc{}-what-the-future-brings", &GOOD[2..]);
        assert_eq!(parse(later.as_bytes()), parse(GOOD.as_bytes()));
        assert!(parse(format!("cc{}.what", &GOOD[2..]).as_bytes()).is_none());
    }

    #[test]
    fn what_is_no_context_is_refused() {
        let zeros = GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32));
        let no_parent = GOOD.replace("00f067aa0ba902b7", &"0".repeat(16));
        let bad = [
            String::new(),
            GOOD.to_uppercase(),
            format!("{GOOD}-00"),
            format!(" {GOOD}"),
            format!("ff{}", &GOOD[2..]),
            GOOD[..54].to_owned(),
            GOOD.replace('-', "_"),
            GOOD.replace("4bf9", "4bg9"),
            zeros,
            no_parent,
        ];
        for text in bad {
            assert!(parse(text.as_bytes()).is_none(), "{text}");
        }
    }

    #[test]
    fn a_state_goes_with_the_context_that_it_belongs_to() {
        let mut headers = HeaderMap::new();
        headers.insert(TRACEPARENT, HeaderValue::from_static(GOOD));
        headers.insert(TRACESTATE, HeaderValue::from_static("rojo=00f067aa0ba902b7, congo=t61rcWkgMzE,,"));
        assert!(taken(&mut headers));
        assert_eq!(headers.len(), 2);
        headers.insert(TRACESTATE, HeaderValue::from_static("UPPER=1"));
        assert!(taken(&mut headers));
        assert!(!headers.contains_key(TRACESTATE));
        headers.insert(TRACESTATE, HeaderValue::from_static("a=1"));
        headers.append(TRACEPARENT, HeaderValue::from_static(GOOD));
        assert!(!taken(&mut headers));
        assert!(headers.is_empty(), "two of them are none");
    }
}
