//! What a webhook remembers: the learned value, in a file that survives restarts, and the requests since the start.

#![expect(
    clippy::disallowed_types,
    reason = "off the request path: webhooks get few requests, and use separate threads"
)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use serde::Serialize;
use zeroize::Zeroizing;

use super::Refusal;
use crate::clock::rfc3339;
use crate::config::files::Replaced;
use crate::config::{Source, WebhookConfig};
use crate::listener::Logged;
use crate::secret::Secret;

/// A payload's time that is further ahead of this machine's clock does not count.
const FAR_AHEAD: Duration = Duration::from_secs(24 * 60 * 60);

/// The result of storing a value.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stored {
    New,
    /// The same value was stored already.
    Known,
    /// A value of a later time is stored, and stays.
    Newer,
}

#[derive(Serialize)]
struct Content<'a> {
    value: &'a str,
    received_at: &'a str,
    /// The payload's own time, in epoch milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    sent_at_ms: Option<String>,
}

/// The file that token requests read.
pub(super) struct Store {
    path: PathBuf,
    value: Source,
    received_at: Source,
    sent_at_ms: Source,
}

impl Store {
    pub(super) fn new(config: &WebhookConfig) -> Self {
        let path = config.store.clone();
        Self {
            value: Source::webhook(config.name.to_string(), path.clone()),
            received_at: Source::file(path.clone(), Some("/received_at".to_owned())),
            sent_at_ms: Source::file(path.clone(), Some("/sent_at_ms".to_owned())),
            path,
        }
    }

    /// `None` if nothing was ever stored. Else when it was stored, if the file system knows.
    pub(super) fn read(&self) -> Result<Option<Option<SystemTime>>, String> {
        if matches!(self.path.try_exists(), Ok(false)) {
            return Ok(None);
        }
        self.value.read().map_err(|error| error.to_string())?;
        let at = self.received_at.read().ok();
        Ok(Some(at.and_then(|at| humantime::parse_rfc3339(at.expose_str()?).ok())))
    }

    /// The time of the stored value, by its sender's clock. A time far in the future would keep every later value out.
    fn sent_at(&self, now: SystemTime) -> Option<SystemTime> {
        let millis = self.sent_at_ms.read().ok()?.expose_str()?.parse().ok()?;
        let sent = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis))?;
        now.checked_add(FAR_AHEAD).is_none_or(|limit| sent <= limit).then_some(sent)
    }

    /// Stores `value` of the time `sent`, unless the stored one is of a later time, so that a crash at any moment leaves the old value or the new one. The error says what to do.
    pub(super) fn put(
        &self,
        value: &Secret,
        sent: Option<SystemTime>,
        now: SystemTime,
    ) -> Result<Stored, String> {
        let sent_before = self.sent_at(now);
        if sent.zip(sent_before).is_some_and(|(sent, before)| sent < before) {
            return Ok(Stored::Newer);
        }
        let file = Replaced::new("store", &self.path, 0o600);
        let known = self.value.read().is_ok_and(|stored| *stored == *value);
        if !known || sent > sent_before {
            file.write(&content(value, sent.or(sent_before), now)?, now)?;
        }
        // Also for a known value, because the first time may have ended here.
        file.sync()?;
        Ok(if known { Stored::Known } else { Stored::New })
    }
}

fn content(value: &Secret, sent: Option<SystemTime>, now: SystemTime) -> Result<Zeroizing<Vec<u8>>, String> {
    let value = value.expose_str().ok_or("the value is not UTF-8")?;
    let since = sent.and_then(|sent| sent.duration_since(SystemTime::UNIX_EPOCH).ok());
    let sent_at_ms = since.map(|since| since.as_millis().to_string());
    serde_json::to_vec(&Content { value, received_at: &rfc3339(now), sent_at_ms })
        .map(Zeroizing::new)
        .map_err(|_| "the value cannot be written as JSON".to_owned())
}

/// The state of a webhook, which stays across reloads.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Held while a value is compared with the stored one and replaces it.
    pub(super) keeping: Mutex<()>,
    seen: Mutex<Receipt>,
}

#[derive(Debug, Default)]
pub(super) struct Receipt {
    pub(super) received_at: Option<SystemTime>,
    pub(super) last_refusal: Option<(SystemTime, String)>,
    /// One for each status, so that many refusals of one kind do not hide another.
    logged: BTreeMap<u16, Logged>,
    unlogged: u64,
}

#[cfg(test)]
impl Receipt {
    pub(super) fn unlogged(&self) -> u64 {
        self.unlogged
    }
}

impl State {
    pub(super) fn lock(&self) -> MutexGuard<'_, Receipt> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers a refused request, and logs it unless a similar one was just logged.
    pub(super) fn refuse(&self, webhook: &str, refusal: &Refusal, now: SystemTime) {
        let words = refusal.words();
        let status = refusal.status.as_u16();
        let mut seen = self.lock();
        let due = seen.logged.entry(status).or_default().is_due();
        let unlogged = if due { std::mem::take(&mut seen.unlogged) } else { seen.unlogged + 1 };
        if due {
            tracing::warn!(
                event = "webhook.refused",
                webhook,
                status,
                unlogged,
                "refused a request: {words}"
            );
        } else {
            seen.unlogged = unlogged;
        }
        seen.last_refusal = Some((now, words));
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::config::Address;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
    }

    fn store(path: &Path) -> Store {
        Store::new(&WebhookConfig {
            name: Arc::from("seismic"),
            address: Address::Tcp(([127, 0, 0, 1], 0).into()),
            path: "/seismic".to_owned(),
            signature_header: http::HeaderName::from_static("x-seismic-signature"),
            secrets: Vec::new(),
            value: "/delegationUserId".to_owned(),
            only: Vec::new(),
            timestamp: "/timestamp".to_owned(),
            store: path.to_owned(),
        })
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<String> = entries.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[expect(clippy::disallowed_methods, reason = "looks at what was written")]
    fn text(path: &Path) -> String {
        fs::read_to_string(path).unwrap()
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_value_is_kept_privately_and_read_as_token_requests_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("seismic.json");
        let store = store(&path);
        assert_eq!(store.read(), Ok(None));
        assert_eq!(store.put(&Secret::from("a \"b\" \\ü"), None, at(0)), Ok(Stored::New));
        assert_eq!(text(&path), "{\"value\":\"a \\\"b\\\" \\\\ü\",\"received_at\":\"2027-01-15T08:00:00Z\"}");
        assert_eq!(mode(&path), 0o600);
        assert_eq!(names(folder.path()), ["seismic.json"]);
        assert_eq!(store.read(), Ok(Some(Some(at(0)))));
        let source = Source::webhook("seismic".to_owned(), path);
        assert_eq!(source.read().unwrap().expose_str(), Some("a \"b\" \\ü"));
    }

    #[test]
    fn the_same_value_is_not_written_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.json");
        let store = store(&path);
        store.put(&Secret::from("a"), None, at(0)).unwrap();
        assert_eq!(store.put(&Secret::from("a"), None, at(60)), Ok(Stored::Known));
        assert_eq!(store.read(), Ok(Some(Some(at(0)))));
        assert_eq!(store.put(&Secret::from("b"), None, at(120)), Ok(Stored::New));
        assert_eq!(store.read(), Ok(Some(Some(at(120)))));
    }

    #[test]
    fn an_older_payload_does_not_replace_a_newer_value() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.json");
        let fresh = || store(&path);
        let (a, b, sent) = (Secret::from("a"), Secret::from("b"), |seconds| Some(at(seconds)));
        assert_eq!(fresh().put(&a, sent(10), at(10)), Ok(Stored::New));
        assert_eq!(fresh().put(&b, sent(20), at(20)), Ok(Stored::New));
        assert_eq!(fresh().put(&a, sent(10), at(30)), Ok(Stored::Newer), "sent again");
        assert_eq!(fresh().put(&b, sent(40), at(40)), Ok(Stored::Known), "its time is kept nevertheless");
        assert_eq!(fresh().put(&a, sent(30), at(50)), Ok(Stored::Newer));
        assert_eq!(
            fresh().put(&a, sent(40), at(50)),
            Ok(Stored::New),
            "within one second, the last one counts"
        );
        assert_eq!(fresh().put(&b, None, at(60)), Ok(Stored::New), "without a time, the last one counts");
        assert_eq!(fresh().put(&a, sent(30), at(70)), Ok(Stored::Newer), "the last known time stays");
        assert!(text(&path).contains("\"b\""));
    }

    #[test]
    fn a_time_far_ahead_keeps_nothing_out() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder.path().join("s.json"));
        let (a, b) = (Secret::from("a"), Secret::from("b"));
        assert_eq!(store.put(&a, Some(at(10_000_000)), at(0)), Ok(Stored::New));
        assert_eq!(store.put(&b, Some(at(5)), at(5)), Ok(Stored::New));
        assert_eq!(store.put(&a, Some(at(4)), at(6)), Ok(Stored::Newer));
    }

    #[test]
    fn a_file_that_others_may_read_or_that_is_broken_is_replaced_by_a_private_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.json");
        let store = store(&path);
        for broken in ["", "{\"value\":\"hunt", "[]", "{\"value\":\"\"}", "{\"value\":{}}"] {
            fs::write(&path, broken).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
            let problem = store.read().unwrap_err();
            assert!(problem.contains("webhook seismic") && problem.contains("s.json"), "{problem}");
            assert!(!problem.contains("hunt"), "{problem}");
            assert_eq!(store.put(&Secret::from("a"), None, at(0)), Ok(Stored::New));
            assert_eq!(mode(&path), 0o600);
            assert_eq!(names(folder.path()), ["s.json"]);
        }
    }

    #[test]
    fn what_a_crash_left_behind_is_in_nobodys_way_and_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.json");
        let left = folder.path().join(".s.json.0123456789abcdef.new");
        let fresh = folder.path().join(".s.json.fedcba9876543210.new");
        for (path, age) in [(&left, 3600), (&fresh, 1)] {
            fs::write(path, "{\"value\":\"ha").unwrap();
            File::options()
                .write(true)
                .open(path)
                .unwrap()
                .set_modified(at(0) - Duration::from_secs(age))
                .unwrap();
        }
        for other in [".s.json.bak.new", "s.json.0123456789abcdef.new"] {
            fs::write(folder.path().join(other), "").unwrap();
            let file = File::options().write(true).open(folder.path().join(other)).unwrap();
            file.set_modified(at(0) - Duration::from_secs(3600)).unwrap();
        }
        let store = store(&path);
        assert_eq!(store.read(), Ok(None), "a temporary file is no value");
        store.put(&Secret::from("a"), None, at(0)).unwrap();
        assert_eq!(
            names(folder.path()),
            [".s.json.bak.new", ".s.json.fedcba9876543210.new", "s.json", "s.json.0123456789abcdef.new"]
        );
    }

    #[test]
    fn a_link_stays_and_the_file_that_it_leads_to_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("volume")).unwrap();
        let (link, target) = (folder.path().join("s.json"), folder.path().join("volume/s.json"));
        fs::write(&target, "").unwrap();
        symlink(&target, &link).unwrap();
        store(&link).put(&Secret::from("a"), None, at(0)).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert!(text(&target).contains("\"a\""));
    }

    #[test]
    fn a_missing_folder_is_told_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gone/s.json");
        let error = store(&path).put(&Secret::from("hunter2"), None, at(0)).unwrap_err();
        assert!(error.contains("gone of `store` does not exist; make it"), "{error}");
        assert!(!error.contains("hunter2"));
        fs::create_dir(folder.path().join("gone")).unwrap();
        fs::create_dir(&path).unwrap();
        let error = store(&path).put(&Secret::from("a"), None, at(0)).unwrap_err();
        assert!(error.contains("is a folder"), "{error}");
        assert_eq!(names(&folder.path().join("gone")), ["s.json"], "nothing is left behind");
    }

    #[test]
    fn whoever_reads_while_it_is_replaced_sees_one_value_or_the_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.json");
        let store = store(&path);
        let values = [Secret::from("a".repeat(4000)), Secret::from("b".repeat(3000))];
        store.put(&values[0], None, at(0)).unwrap();
        let reader = std::thread::spawn(move || {
            let source = Source::webhook("seismic".to_owned(), path);
            let known = ["a".repeat(4000), "b".repeat(3000)];
            for _ in 0..300 {
                let read = source.read().unwrap();
                assert!(known.iter().any(|known| known.as_bytes() == read.expose()));
            }
        });
        for round in 1..30 {
            store.put(&values[round % 2], None, at(0)).unwrap();
        }
        reader.join().unwrap();
    }
}
