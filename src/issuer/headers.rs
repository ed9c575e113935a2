//! What the headers of a response say of it.

use std::time::{Duration, SystemTime};

use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, DATE, RETRY_AFTER};

use super::lifetime;

/// Where vendors and gateways say under which id their own log has a request.
const TRACES: [&str; 17] = [
    "x-ms-request-id",
    "client-request-id",
    "x-okta-request-id",
    "x-amzn-requestid",
    "x-amzn-trace-id",
    "x-amz-cf-id",
    "x-github-request-id",
    "x-fb-trace-id",
    "x-vcap-request-id",
    "x-oracle-dms-ecid",
    "x-azure-ref",
    "x-request-id",
    "x-correlation-id",
    "request-id",
    "correlation-id",
    "x-b3-traceid",
    "cf-ray",
];
/// Clocks that differ by less are no cause of a refusal.
const SKEW: Duration = Duration::from_secs(60);

/// The issuer's clock, where it differs from ours by more than a request can take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Skew {
    ours: SystemTime,
    theirs: SystemTime,
}

impl Skew {
    /// What the issuer calls `theirs`, by our clock.
    pub(super) fn by_our_clock(&self, theirs: SystemTime) -> Option<SystemTime> {
        match theirs.duration_since(self.theirs) {
            Ok(ahead) => self.ours.checked_add(ahead),
            Err(behind) => self.ours.checked_sub(behind.duration()),
        }
    }

    /// `5m 2s behind`.
    pub(super) fn of_ours(&self) -> String {
        let (apart, side) = match self.theirs.duration_since(self.ours) {
            Ok(ahead) => (ahead, "behind"),
            Err(behind) => (behind.duration(), "ahead of"),
        };
        format!("{} {side}", humantime::format_duration(Duration::from_secs(apart.as_secs())))
    }
}

/// Compares `Date` (RFC 9110 section 6.6.1) with our clock, which said `asked` before the request was sent.
/// `timeout`: the longest that the request can have taken; `None`: any time.
pub(super) fn skew(headers: &HeaderMap, asked: SystemTime, timeout: Option<Duration>) -> Option<Skew> {
    let theirs = httpdate::parse_http_date(headers.get(DATE)?.to_str().ok()?).ok()?;
    let apart = match theirs.duration_since(asked) {
        Ok(ahead) => ahead.saturating_sub(timeout?),
        Err(behind) => behind.duration(),
    };
    (apart > SKEW).then_some(Skew { ours: asked, theirs })
}

/// Names and values, the vendors' own first.
pub(super) fn traces(headers: &HeaderMap) -> Vec<(String, String)> {
    let value = |name: &str| headers.get(name)?.to_str().ok().map(str::to_owned);
    TRACES.iter().filter_map(|&name| Some((name.to_owned(), value(name)?))).collect()
}

/// When the issuer wants to be asked again.
pub(super) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    lifetime::retry_after(headers.get(RETRY_AFTER)?.to_str().ok()?, now)
}

/// The first content coding that is not `identity`.
pub(super) fn coding(headers: &HeaderMap) -> Option<String> {
    headers
        .get_all(CONTENT_ENCODING)
        .iter()
        .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
        .map(|coding| String::from_utf8_lossy(coding.trim_ascii()).into_owned())
        .find(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case("identity"))
}

/// Its content type says that it is JSON.
pub(super) fn called_json(headers: &HeaderMap) -> bool {
    media_type(headers).is_some_and(|kind| kind.ends_with("/json") || kind.ends_with("+json"))
}

/// Its content type says that it is a form.
pub(super) fn called_form(headers: &HeaderMap) -> bool {
    media_type(headers).is_some_and(|kind| kind == "application/x-www-form-urlencoded")
}

/// Its content type says that it is plain text.
pub(super) fn called_plain_text(headers: &HeaderMap) -> bool {
    media_type(headers).is_some_and(|kind| kind == "text/plain")
}

/// It is a web page, by its content type or its looks.
pub(super) fn is_html(body: &[u8], headers: &HeaderMap) -> bool {
    let named =
        media_type(headers).is_some_and(|kind| kind == "text/html" || kind == "application/xhtml+xml");
    named || body.trim_ascii_start().starts_with(b"<")
}

fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    Some(value.split(';').next()?.trim().to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn with(name: &'static str, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(http::HeaderName::from_static(name), HeaderValue::from_static(value))])
    }

    #[test]
    fn clocks_are_compared_with_room_for_a_slow_answer() {
        let asked = httpdate::parse_http_date("Tue, 01 Jan 2030 00:10:00 GMT").unwrap();
        let timeout = Some(Duration::from_secs(10));
        let seen = |date, timeout| skew(&with("date", date), asked, timeout).map(|skew| skew.of_ours());
        assert_eq!(seen("Tue, 01 Jan 2030 00:15:00 GMT", timeout).as_deref(), Some("5m behind"));
        assert_eq!(seen("Tue, 01 Jan 2030 00:08:58 GMT", timeout).as_deref(), Some("1m 2s ahead of"));
        for near in ["Tue, 01 Jan 2030 00:11:10 GMT", "Tue, 01 Jan 2030 00:09:00 GMT", "yesterday"] {
            assert_eq!(seen(near, timeout), None, "{near}");
        }
        assert_eq!(seen("Tue, 01 Jan 2030 09:00:00 GMT", None), None, "it may have taken that long");
        assert_eq!(skew(&HeaderMap::new(), asked, timeout), None);
    }

    #[test]
    fn a_time_of_the_issuers_clock_is_told_by_ours() {
        let asked = SystemTime::UNIX_EPOCH + Duration::from_secs(1_900_000_000);
        let hour = Duration::from_secs(3600);
        let skew = Skew { ours: asked, theirs: asked - hour };
        assert_eq!(skew.by_our_clock(asked), Some(asked + hour));
        assert_eq!(skew.by_our_clock(asked - hour * 2), Some(asked - hour));
    }

    #[test]
    fn traces_of_vendors_and_gateways() {
        let mut headers = with("cf-ray", "7a1-LHR");
        headers.extend(with("x-okta-request-id", "Yx"));
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(traces(&headers), [pair("x-okta-request-id", "Yx"), pair("cf-ray", "7a1-LHR")]);
    }
}
