//! `include`: more files with issuers and routes.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use toml::de::DeValue;

use super::document::{FileText, Place, io_reason};
use super::files;
use super::report::Report;

/// What the patterns matched.
#[derive(Default)]
pub(crate) struct Included {
    /// In the order of the patterns, and of the names within one.
    pub texts: Vec<FileText>,
    /// Folders in which another match could appear, absolute.
    pub folders: Vec<PathBuf>,
}

/// Finds and reads the files. A pattern without `*` must exist; one with it may match none.
/// What is not written as it should be is reported where the file is read.
pub(crate) fn find(at: &Place<'_>, report: &mut Report) -> Included {
    let patterns = at.value().and_then(DeValue::as_array).into_iter().flatten();
    let patterns = patterns.filter_map(|pattern| pattern.get_ref().as_str());
    let main = at.document.file;
    let shown_folder = main.display.parent().unwrap_or_else(|| Path::new(""));
    let mut included = Included::default();
    let mut seen = BTreeSet::from([main.absolute.clone()]);
    for (index, pattern) in patterns.enumerate() {
        let place = at.index(index);
        let (folder, name) = match split(pattern) {
            Ok(parts) => parts,
            Err(hint) => {
                report.error(&place, "is no pattern that works here", hint);
                continue;
            }
        };
        let absolute_folder = main.folder.join(folder);
        if !included.folders.contains(&absolute_folder) {
            included.folders.push(absolute_folder.clone());
        }
        for name in names(&place, &absolute_folder, name, report) {
            if !seen.insert(absolute_folder.join(&name)) {
                continue;
            }
            let shown = shown_folder.join(folder).join(&name);
            match FileText::read(&shown) {
                Ok(text) => included.texts.push(text),
                Err(error) => report.file(&shown, error.line, error.reason),
            }
        }
    }
    included
}

fn split(pattern: &str) -> Result<(&Path, &str), &'static str> {
    let (folder, name) = pattern.rsplit_once('/').map_or(("", pattern), |(folder, name)| {
        // "/x.toml" stands in the root folder.
        (if folder.is_empty() { "/" } else { folder }, name)
    });
    if name.is_empty() || pattern.contains('\0') {
        return Err("end it with a file's name: \"conf.d/*.toml\"");
    }
    if folder.contains('*') {
        return Err("`*` may stand only in the last part: \"conf.d/*.toml\"");
    }
    Ok((Path::new(folder), name))
}

/// Names in the folder that the last part matches, sorted. Hidden files are left out, as shells do.
fn names(place: &Place<'_>, folder: &Path, pattern: &str, report: &mut Report) -> Vec<String> {
    if !pattern.contains('*') {
        return vec![pattern.to_owned()];
    }
    let entries = match files::names(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            report.warning(place, "the folder does not exist, so nothing is included", "");
            return Vec::new();
        }
        Err(error) => {
            report.error(place, format!("the folder {}", io_reason(&error)), "");
            return Vec::new();
        }
    };
    entries.into_iter().filter(|name| !name.starts_with('.') && matches(pattern, name)).collect()
}

/// `*` stands for any number of characters.
fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else { return false };
    let mut parts = parts.peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        let Some(at) = rest.find(part) else { return false };
        rest = rest.get(at + part.len()..).unwrap_or_default();
    }
    rest.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars() {
        for (pattern, name, expected) in [
            ("*.toml", "a.toml", true),
            ("*.toml", "a.toml.bak", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c", false),
            ("a*a", "a", false),
            ("**", "x", true),
            ("x", "x", true),
            ("x", "xy", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn patterns() {
        assert_eq!(split("conf.d/*.toml"), Ok((Path::new("conf.d"), "*.toml")));
        assert_eq!(split("/x.toml"), Ok((Path::new("/"), "x.toml")));
        assert_eq!(split("x.toml"), Ok((Path::new(""), "x.toml")));
        assert!(split("a*/x").is_err() && split("a/").is_err() && split("").is_err());
    }
}
