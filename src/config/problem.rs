//! A mistake in the config, pointed at.

use std::fmt;
use std::path::PathBuf;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    Error,
    Warning,
}

/// One mistake: where, which key, what was found, how to mend it. Never holds a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub severity: Severity,
    pub file: PathBuf,
    /// From 1; 0 where the problem is the file itself.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// The key's path (`route[2].issuer`), or empty.
    pub key: String,
    pub message: String,
    pub hint: Option<String>,
    /// The source line, where it holds no secret.
    pub source_line: Option<String>,
}

/// All mistakes of one load, in the order of the files.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let _ = f;
        todo!("config helper")
    }
}
