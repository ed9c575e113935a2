//! HTTP/1 messages as they came over the wire.

use std::time::{Instant, SystemTime};

use base64::Engine;

/// Start line and fields; values byte for byte as Latin-1.
#[derive(Debug, Clone, Default)]
pub struct Head {
    pub raw: Vec<u8>,
    pub start: String,
    pub fields: Vec<(String, String)>,
}

fn latin1(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

impl Head {
    pub fn parse(raw: Vec<u8>) -> Self {
        let text = latin1(&raw);
        let mut lines = text.trim_end_matches("\r\n").split("\r\n");
        let start = lines.next().unwrap_or_default().to_owned();
        let fields = lines.map(|line| Self::field(line.as_bytes())).collect();
        Self { raw, start, fields }
    }

    /// Name as it came, value without the white space around it.
    pub fn field(line: &[u8]) -> (String, String) {
        let text = String::from_utf8_lossy(line);
        let (name, value) = text.split_once(':').unwrap_or((&text, ""));
        (name.to_owned(), value.trim().to_owned())
    }

    /// All values of a name, in order.
    pub fn headers(&self, name: &str) -> Vec<&str> {
        let same = |field: &&(String, String)| field.0.eq_ignore_ascii_case(name);
        self.fields.iter().filter(same).map(|(_, value)| value.as_str()).collect()
    }

    /// The only value of a name; a second one fails the test.
    pub fn header(&self, name: &str) -> Option<&str> {
        let values = self.headers(name);
        assert!(values.len() < 2, "{name} came {} times: {values:?}", values.len());
        values.first().copied()
    }

    pub fn has(&self, name: &str, value: &str) -> bool {
        self.headers(name).iter().any(|found| found.eq_ignore_ascii_case(value))
    }

    /// The `index`th word of the start line.
    pub fn word(&self, index: usize) -> &str {
        self.start.split(' ').nth(index).unwrap_or_default()
    }
}

#[derive(Debug, Clone, Default)]
pub struct Body {
    pub data: Vec<u8>,
    /// With the chunk framing, where there was one.
    pub raw: Vec<u8>,
    pub chunks: usize,
    pub trailers: Vec<(String, String)>,
}

impl Body {
    pub fn plain(data: Vec<u8>) -> Self {
        Self { raw: data.clone(), data, ..Self::default() }
    }
}

/// A request as a scripted server read it.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// Which of the server's connections it came on, from 0.
    pub connection: usize,
    pub at: Instant,
    pub wall: SystemTime,
    pub head: Head,
    pub body: Body,
}

impl Recorded {
    pub fn method(&self) -> &str {
        self.head.word(0)
    }

    pub fn target(&self) -> &str {
        self.head.word(1)
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.header(name)
    }

    pub fn headers(&self, name: &str) -> Vec<&str> {
        self.head.headers(name)
    }

    /// The token after `Bearer `, from the only `Authorization` there is.
    pub fn bearer(&self) -> Option<&str> {
        self.header("authorization").and_then(|value| value.strip_prefix("Bearer "))
    }

    /// The decoded value of `Authorization: Basic`.
    pub fn basic(&self) -> Option<String> {
        let encoded = self.header("authorization")?.strip_prefix("Basic ")?;
        let decoded = base64::engine::general_purpose::STANDARD.decode(encoded).ok()?;
        String::from_utf8(decoded).ok()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body.data).into_owned()
    }

    /// The form's parameters, decoded, in order.
    pub fn form(&self) -> Vec<(String, String)> {
        form_decode(&self.text())
    }

    /// All values of one form parameter.
    pub fn params(&self, name: &str) -> Vec<String> {
        self.form().into_iter().filter(|(found, _)| found == name).map(|(_, value)| value).collect()
    }
}

/// Pairs of `application/x-www-form-urlencoded`.
pub fn form_decode(text: &str) -> Vec<(String, String)> {
    let decode = |part: &str| {
        percent_encoding::percent_decode_str(&part.replace('+', " ")).decode_utf8_lossy().into_owned()
    };
    text.split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (decode(name), decode(value)))
        .collect()
}

/// A response as a client read it.
#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    pub head: Head,
    pub body: Body,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.header(name)
    }

    pub fn headers(&self, name: &str) -> Vec<&str> {
        self.head.headers(name)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body.data).into_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body.data)
            .unwrap_or_else(|error| panic!("no JSON ({error}) in {}: {}", self.head.start, self.text()))
    }

    /// The `code` of one of the proxy's own errors; `None` where the response is somebody else's.
    pub fn code(&self) -> Option<String> {
        if self.header("content-type") != Some("application/problem+json") {
            return None;
        }
        Some(self.json()["code"].as_str().expect("a problem has a code").to_owned())
    }

    /// Fails unless this is the proxy's own error with this status and code.
    #[track_caller]
    pub fn expect_problem(&self, status: u16, code: &str) {
        let found = (self.status, self.code());
        assert_eq!(found, (status, Some(code.to_owned())), "{} {}", self.head.start, self.text());
    }

    /// Fails unless the status is this.
    #[track_caller]
    pub fn expect_status(&self, status: u16) {
        assert_eq!(self.status, status, "{} {}", self.head.start, self.text());
    }
}
