//! An error in the config, pointed at.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Error,
    Warning,
}

/// One error: where, which key, what was found, how to fix it. Never holds a secret.
///
/// `Display` prints `path:line:col: error: key: message`, the source line with a caret where it may be shown, and the
/// hint as `help: …`; no line end at the end. `Serialize` gives the same as an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
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

/// All errors of one load, in the order of the files.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(transparent)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    /// What stops the program.
    pub fn errors(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter().filter(|problem| problem.severity == Severity::Error)
    }

    /// What does not.
    pub fn warnings(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter().filter(|problem| problem.severity == Severity::Warning)
    }

    /// For `--output json`: an array of objects with `severity`, `file`, `line`, `column`, `key`, `message`, `hint`,
    /// `source_line`.
    pub fn to_json(&self) -> serde_json::Value {
        // A path that is not UTF-8 is the one thing that serde refuses here.
        serde_json::Value::Array(self.0.iter().map(Problem::to_json).collect())
    }
}

impl Problem {
    /// One element of [`Problems::to_json`].
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "severity": self.severity,
            "file": self.file.to_string_lossy(),
            "line": self.line,
            "column": self.column,
            "key": self.key,
            "message": self.message,
            "hint": self.hint,
            "source_line": self.source_line,
        })
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if self.line > 0 {
            write!(f, "{}:{}:", self.line, self.column)?;
        }
        write!(f, " {}: ", self.severity)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)?;
        if let Some(source) = &self.source_line {
            write_source(f, source, self.line, self.column)?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n  help: {hint}")?;
        }
        Ok(())
    }
}

/// The source line and, below it, carets under the word at `column`. A tab stays a tab, so that both lines up.
fn write_source(f: &mut fmt::Formatter<'_>, source: &str, line: usize, column: usize) -> fmt::Result {
    let number = line.to_string();
    let before: String = source
        .chars()
        .take(column.saturating_sub(1))
        .map(|character| if character == '\t' { '\t' } else { ' ' })
        .collect();
    let word = source
        .chars()
        .skip(column.saturating_sub(1))
        .take_while(|character| character.is_ascii_alphanumeric() || matches!(character, '_' | '-'))
        .count()
        .max(1);
    write!(f, "\n  {number} | {source}")?;
    write!(f, "\n  {:width$} | {before}{}", "", "^".repeat(word), width = number.len())
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem() -> Problem {
        Problem {
            severity: Severity::Error,
            file: "bearerd.toml".into(),
            line: 12,
            column: 3,
            key: "route[0].isuer".to_owned(),
            message: "unknown key".to_owned(),
            hint: Some("did you mean `issuer`?".to_owned()),
            source_line: Some("\t isuer = \"corp\"".to_owned()),
        }
    }

    #[test]
    fn prints_place_line_caret_and_help() {
        assert_eq!(
            problem().to_string(),
            "bearerd.toml:12:3: error: route[0].isuer: unknown key\n  12 | \t isuer = \"corp\"\n     | \t ^^^^^\n  help: did you mean `issuer`?"
        );
    }

    #[test]
    fn a_problem_of_the_file_itself_has_no_line() {
        let whole = Problem { line: 0, key: String::new(), source_line: None, hint: None, ..problem() };
        assert_eq!(whole.to_string(), "bearerd.toml: error: unknown key");
    }

    #[test]
    fn json_has_the_same_parts() {
        let json = Problems(vec![problem()]).to_json();
        assert_eq!(json[0]["severity"], "error");
        assert_eq!(json[0]["line"], 12);
        assert_eq!(json[0]["hint"], "did you mean `issuer`?");
    }
}
