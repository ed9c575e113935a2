//! W3C Trace Context: what says which trace a request belongs to.

use http::{HeaderMap, HeaderName, HeaderValue};

/// Trace, parent and flags (section 3.2).
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// What vendors add (section 3.3); passed on as it came.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

const SAMPLED: u8 = 0b01;
/// The trace id is random (level 2 of the recommendation).
const RANDOM: u8 = 0b10;

/// `00-`, 32 digits, `-`, 16 digits, `-`, 2 digits.
const LENGTH: usize = 55;
/// Section 3.3.1.1.
const MOST_STATES: usize = 32;

/// One span's place: its trace, its id, and whether it is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context {
    pub trace_id: [u8; 16],
    pub span_id: [u8; 8],
    flags: u8,
}

impl Context {
    /// A new trace; of all of them the share `sample` is recorded.
    pub(super) fn root(sample: f64) -> Self {
        let trace_id = non_zero(|| fastrand::u128(..).to_be_bytes());
        let flags = if is_sampled(trace_id, sample) { SAMPLED | RANDOM } else { RANDOM };
        Self { trace_id, span_id: span_id(), flags }
    }

    /// A span below this one.
    pub fn child(&self) -> Self {
        Self { span_id: span_id(), ..*self }
    }

    /// Whether spans of this trace are recorded.
    pub fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// The context that a caller sent. One that cannot be read is taken out of the headers, with the state that
    /// belongs to it (section 4.3).
    pub(super) fn take_from(headers: &mut HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(TRACEPARENT).iter();
        let given = match (values.next(), values.next()) {
            (Some(value), None) => Self::parse(value.as_bytes()),
            _ => None,
        };
        if given.is_none() {
            headers.remove(TRACEPARENT);
            headers.remove(TRACESTATE);
        } else if !is_state(headers) {
            headers.remove(TRACESTATE);
        }
        given
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let version = *bytes::<1>(text.get(..2)?)?.first()?;
        let (known, rest) = (text.get(..LENGTH)?, text.get(LENGTH..)?);
        // A later version may say more, after another dash.
        let fits = match version {
            0 => rest.is_empty(),
            0xff => false,
            _ => rest.is_empty() || rest.starts_with(b"-"),
        };
        let dashed = [2, 35, 52].iter().all(|&at| known.get(at) == Some(&b'-'));
        if !fits || !dashed {
            return None;
        }
        let trace_id = bytes::<16>(known.get(3..35)?)?;
        let span_id = bytes::<8>(known.get(36..52)?)?;
        let flags = *bytes::<1>(known.get(53..)?)?.first()?;
        let whole = trace_id != [0; 16] && span_id != [0; 8];
        // Of other flags nobody knows whether they hold for what is below.
        whole.then_some(Self { trace_id, span_id, flags: flags & (SAMPLED | RANDOM) })
    }

    /// As it goes up.
    pub fn header(&self) -> HeaderValue {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = Vec::with_capacity(LENGTH);
        let parts: [&[u8]; 4] = [&[0], &self.trace_id, &self.span_id, &[self.flags]];
        for part in parts {
            if !text.is_empty() {
                text.push(b'-');
            }
            for byte in part {
                for digit in [byte >> 4, byte & 0xf] {
                    text.extend(DIGITS.get(usize::from(digit)));
                }
            }
        }
        HeaderValue::try_from(text).expect("hexadecimal digits and dashes")
    }
}

/// As OpenTelemetry's `TraceIdRatioBased`, so that all who see a trace id come to the same response.
fn is_sampled(trace_id: [u8; 16], sample: f64) -> bool {
    let low = u128::from_be_bytes(trace_id) & u128::from(u64::MAX >> 8);
    #[expect(
        clippy::cast_precision_loss,
        reason = "56 bits; what is lost is far below any share that is written"
    )]
    let share = low as f64 / (u64::MAX >> 8) as f64;
    sample >= 1.0 || share < sample
}

fn span_id() -> [u8; 8] {
    non_zero(|| fastrand::u64(..).to_be_bytes())
}

/// All zeros means "none".
fn non_zero<const N: usize>(make: impl Fn() -> [u8; N]) -> [u8; N] {
    loop {
        let made = make();
        if made != [0; N] {
            return made;
        }
    }
}

/// Lower-case digits of so many bytes.
fn bytes<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    if digits.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        for digit in pair {
            let value = match digit {
                b'0'..=b'9' => digit - b'0',
                b'a'..=b'f' => digit - b'a' + 10,
                _ => return None,
            };
            *byte = *byte << 4 | value;
        }
    }
    Some(bytes)
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

    #[test]
    fn what_is_read_is_written_again() {
        let context = Context::parse(GOOD.as_bytes()).unwrap();
        assert!(context.is_sampled());
        assert_eq!(context.header(), GOOD);
        let unsampled = GOOD.replace("-01", "-00");
        let context = Context::parse(unsampled.as_bytes()).unwrap();
        assert!(!context.is_sampled());
        assert_eq!(context.header(), unsampled);
    }

    #[test]
    fn a_later_version_is_read_as_far_as_it_is_known() {
        let later = format!("cc{}-what-the-future-brings", &GOOD[2..]);
        assert_eq!(Context::parse(later.as_bytes()), Context::parse(GOOD.as_bytes()));
        assert!(Context::parse(format!("cc{}.what", &GOOD[2..]).as_bytes()).is_none());
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
            assert!(Context::parse(text.as_bytes()).is_none(), "{text}");
        }
    }

    #[test]
    fn a_state_goes_with_the_context_that_it_belongs_to() {
        let mut headers = HeaderMap::new();
        headers.insert(TRACEPARENT, HeaderValue::from_static(GOOD));
        headers.insert(TRACESTATE, HeaderValue::from_static("rojo=00f067aa0ba902b7, congo=t61rcWkgMzE,,"));
        assert!(Context::take_from(&mut headers).is_some());
        assert_eq!(headers.len(), 2);
        headers.insert(TRACESTATE, HeaderValue::from_static("UPPER=1"));
        assert!(Context::take_from(&mut headers).is_some());
        assert!(!headers.contains_key(TRACESTATE));
        headers.insert(TRACESTATE, HeaderValue::from_static("a=1"));
        headers.append(TRACEPARENT, HeaderValue::from_static(GOOD));
        assert!(Context::take_from(&mut headers).is_none());
        assert!(headers.is_empty(), "two of them are none");
    }

    #[test]
    fn the_share_of_new_traces_is_the_one_asked_for() {
        let sampled = |sample: f64| (0..2000).filter(|_| Context::root(sample).is_sampled()).count();
        assert_eq!((sampled(0.0), sampled(1.0)), (0, 2000));
        let half = sampled(0.5);
        assert!((800..1200).contains(&half), "{half}");
    }
}
