//! The challenge of a server on this machine that names a key file: whoever may read the file may have a token. Azure
//! Arc's agent does so.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use http::header::WWW_AUTHENTICATE;
use http::{HeaderMap, StatusCode};

use crate::config::files;
use crate::secret::Secret;

const KEY_LIMIT: u64 = 4 * 1024;
const KEY_SUFFIX: &str = ".key";
const SCHEME: &[u8] = b"Basic ";
const REALM: &[u8] = b"realm=";

/// The file in a 401 with `WWW-Authenticate: Basic realm=/path/to/file.key`. Azure Arc writes the path without quotes.
pub(super) fn key_file(status: StatusCode, headers: &HeaderMap) -> Option<PathBuf> {
    if status != StatusCode::UNAUTHORIZED {
        return None;
    }
    headers.get_all(WWW_AUTHENTICATE).iter().find_map(|value| {
        let realm = after(after(value.as_bytes(), SCHEME)?.trim_ascii_start(), REALM)?;
        let path = realm.split(|&byte| byte == b',').next()?.trim_ascii();
        let quoted = path.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\""));
        Some(PathBuf::from(OsStr::from_bytes(quoted.unwrap_or(path))))
    })
}

fn after<'a>(text: &'a [u8], prefix: &[u8]) -> Option<&'a [u8]> {
    let (start, rest) = text.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}

/// The content of the file that the server named. `Err` names the file and says why it was not read.
pub(super) fn read_key(named: &Path, folder: &Path) -> Result<Secret, String> {
    let read = files::read_below(folder, named, KEY_SUFFIX, KEY_LIMIT);
    let key = read.map(|contents| Secret::new(contents.bytes.trim_ascii()));
    let why = match key {
        Ok(key) if key.is_empty() => "is empty".to_owned(),
        // No header field can have it.
        Ok(key) if key.expose().iter().any(u8::is_ascii_control) => "contains control characters".to_owned(),
        Ok(key) => return Ok(key),
        Err(error) => error.to_string(),
    };
    Err(format!("the key file {named:?} that it named was not read: {why}"))
}
