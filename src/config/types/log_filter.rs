//! Which lines are logged: env-filter's syntax, as far as it speaks of lines and not of spans, of which there are none.

use tracing_subscriber::filter::{LevelFilter, Targets};

use super::{Wrong, quoted, wrong};

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
/// Words that other programs use for levels; as a filter they would be targets that nothing has.
const OTHERS_LEVELS: [&str; 8] =
    ["all", "critical", "fatal", "none", "notice", "silent", "verbose", "warning"];
const HINT: &str = "write \"off\", \"error\", \"warn\", \"info\", \"debug\" or \"trace\", or TARGET=LEVEL, several with commas \
                    between, such as \"info,bearerd::token=debug\"";

/// A level, `TARGET`, `TARGET=LEVEL`, or several of them with commas between.
pub(crate) fn log_filter(text: &str) -> Result<Targets, Wrong> {
    let directives: Vec<&str> = text.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
    if directives.is_empty() {
        return Err(wrong(format!("{} names no log level", quoted(text)), HINT));
    }
    directives.iter().try_for_each(|directive| readable(directive))?;
    let filter = directives.join(",").parse();
    filter.map_err(|_| wrong(format!("{} cannot be read as a log filter", quoted(text)), HINT))
}

fn readable(directive: &str) -> Result<(), Wrong> {
    let refuse = |why: &str| Err(wrong(format!("{} is not a log filter: {why}", quoted(directive)), HINT));
    if directive.contains(['[', ']', '{', '}']) {
        return refuse("spans and fields in brackets are not supported");
    }
    let Some((target, level)) = directive.split_once('=') else { return bare(directive) };
    if !is_target(target) {
        return refuse("no target comes before the \"=\"");
    }
    if level.is_empty() || level.parse::<LevelFilter>().is_err() {
        return refuse("no log level follows the \"=\"");
    }
    Ok(())
}

/// A bare word is a level or a target, so a mistyped level would silence the log without a word.
fn bare(word: &str) -> Result<(), Wrong> {
    if word.parse::<LevelFilter>().is_ok() {
        return Ok(());
    }
    let lower = word.to_ascii_lowercase();
    let near = LEVELS.iter().find(|level| lower.len() > 2 && strsim::osa_distance(&lower, level) <= 1);
    if let Some(level) = near {
        return Err(wrong(
            format!("{} is not a log level", quoted(word)),
            format!("did you mean \"{level}\"?"),
        ));
    }
    let is_number = word.bytes().all(|byte| byte.is_ascii_digit());
    if is_number || OTHERS_LEVELS.contains(&lower.as_str()) || !is_target(word) {
        return Err(wrong(format!("{} is not a log level", quoted(word)), HINT));
    }
    Ok(())
}

/// Whether lines could have this target: the path of a module, as a rule.
fn is_target(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|char| char.is_alphanumeric() || "_:-.".contains(char))
}

#[cfg(test)]
mod tests {
    use tracing_core::Level;

    use super::*;

    #[test]
    fn reads_levels_and_targets() {
        for (text, target, most) in [
            ("info", "bearerd", Some(Level::INFO)),
            ("WARN", "hyper", Some(Level::WARN)),
            ("3", "bearerd", Some(Level::INFO)),
            ("off", "bearerd", None),
            ("warn,", "bearerd", Some(Level::WARN)),
            (" info , bearerd::token=debug ", "bearerd::token", Some(Level::DEBUG)),
            ("info,bearerd::token=debug", "bearerd::token::slot", Some(Level::DEBUG)),
            ("info,bearerd::token=debug", "bearerd::access", Some(Level::INFO)),
            ("bearerd::access=off,debug", "bearerd::access", None),
            ("bearerd::token=trace,bearerd=warn,debug", "bearerd::issuer", Some(Level::WARN)),
            ("bearerd=info,bearerd=off", "bearerd", None),
            ("bearerd=TRACE", "hyper", None),
            ("hyper", "hyper::proto", Some(Level::TRACE)),
        ] {
            let filter = log_filter(text).unwrap_or_else(|wrong| panic!("{text:?}: {wrong:?}"));
            for level in [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG, Level::TRACE] {
                let wanted = most.is_some_and(|most| level <= most);
                assert_eq!(filter.would_enable(target, &level), wanted, "{text:?}, {target}, {level}");
            }
        }
    }

    #[test]
    fn what_would_silence_the_log_is_refused_in_words() {
        for (text, message, hint) in [
            ("inof", "\"inof\" is not a log level", "did you mean \"info\"?"),
            ("info,wran", "\"wran\" is not a log level", "did you mean \"warn\"?"),
            ("verbose", "\"verbose\" is not a log level", "write \"off\""),
            ("Warning", "\"Warning\" is not a log level", "write \"off\""),
            ("6", "\"6\" is not a log level", "write"),
            ("", "names no log level", "write"),
            (" , ", "names no log level", "write"),
            ("info;debug", "\"info;debug\" is not a log level", "commas between"),
            ("info debug", "\"info debug\" is not a log level", "commas between"),
            (
                "info,hyper=loud",
                "\"hyper=loud\" is not a log filter: no log level follows the \"=\"",
                "write",
            ),
            ("bearerd=", "no log level follows the \"=\"", "write"),
            ("a=b=c", "no log level follows the \"=\"", "write"),
            ("a = info", "no target comes before the \"=\"", "write"),
            ("=info", "no target comes before the \"=\"", "write"),
            ("*=info", "no target comes before the \"=\"", "write"),
            ("[call{route=x}]=trace", "spans and fields in brackets are not supported", "write"),
            ("bearerd[{event}]=debug", "spans and fields in brackets are not supported", "write"),
            ("info,bearerd[call]", "spans and fields in brackets are not supported", "write"),
        ] {
            let error = log_filter(text).unwrap_err();
            assert!(error.message.contains(message), "{text:?}: {}", error.message);
            assert!(error.hint.contains(hint), "{text:?}: {}", error.hint);
        }
    }
}
