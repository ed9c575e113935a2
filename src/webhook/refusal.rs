//! Why a request was not taken.

use std::time::Duration;

use http::{HeaderName, StatusCode};

use crate::listener::{Answer, problem};

/// What the sender is told, and what only the log and `/status` say.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    code: &'static str,
    detail: String,
    /// Names files of this machine, which are none of a caller's business.
    note: Option<String>,
}

impl Refusal {
    fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into(), note: None }
    }

    fn with_note(mut self, note: String) -> Self {
        self.note = Some(note);
        self
    }

    pub(super) fn answer(&self) -> Answer {
        problem(self.status, self.code, &self.detail)
    }

    /// For the operator.
    pub(super) fn words(&self) -> String {
        match &self.note {
            Some(note) => format!("{}: {note}", self.detail),
            None => self.detail.clone(),
        }
    }

    pub(super) fn unsigned(header: &HeaderName) -> Self {
        Self::signature(format!("the header {header} is missing; it holds the hex HMAC-SHA256 of the body"))
    }

    pub(super) fn no_hex(header: &HeaderName) -> Self {
        Self::signature(format!(
            "the header {header} does not hold 64 hex digits, the HMAC-SHA256 of the body"
        ))
    }

    /// `unread` says which secrets could not be tried.
    pub(super) fn no_secret_fits(header: &HeaderName, unread: &[String]) -> Self {
        let refusal = Self::signature(format!(
            "the signature in {header} fits none of the secrets; it must be made over the body as it is sent"
        ));
        if unread.is_empty() {
            return refusal;
        }
        refusal.with_note(format!("not tried, since it cannot be read: {}", unread.join("; ")))
    }

    fn signature(detail: String) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "signature_refused", detail)
    }

    pub(super) fn no_secret(unread: &[String]) -> Self {
        let detail = "no secret can be read to check the signature with; try again later";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "no_secret", detail)
            .with_note(format!("fix what `secrets` names: {}", unread.join("; ")))
    }

    pub(super) fn too_large(most: usize) -> Self {
        let detail = format!("the body has more than {most} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", detail)
    }

    pub(super) fn too_slow(time: Duration) -> Self {
        let detail = format!("the request was not complete within {}", humantime::format_duration(time));
        Self::new(StatusCode::REQUEST_TIMEOUT, "too_slow", detail)
    }

    pub(super) fn broken_off() -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", "the body broke off")
    }

    pub(super) fn no_value(detail: String) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "no_value", detail)
    }

    pub(super) fn not_stored(why: String) -> Self {
        let detail = "the value could not be stored; try again later";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "not_stored", detail).with_note(why)
    }

    pub(super) fn no_thread(why: String) -> Self {
        let detail = "this machine has no room to take a request; try again later";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", detail).with_note(why)
    }

    pub(super) fn internal() -> Self {
        let detail = "a fault of ours; its place is in the log";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail)
    }
}
