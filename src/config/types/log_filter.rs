//! Which lines are logged, in env-filter's syntax: a level, `TARGET`, `TARGET=LEVEL`, `TARGET[SPAN{FIELD=VALUE}]=LEVEL`,
//! with commas between. Read here, because env-filter itself brings engines for regular expressions into the program.

use std::str::FromStr;

use tracing_core::metadata::{LevelFilter, Metadata};

/// Which lines are logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFilter {
    /// The most specific first: the first that fits a line decides.
    directives: Vec<Directive>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Directive {
    /// What a line's target begins with; `None` fits every line.
    target: Option<String>,
    /// A field that the line must have.
    field: Option<String>,
    level: LevelFilter,
}

/// The filter cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoLogFilter;

impl LogFilter {
    /// Whether this is logged. Spans never are: nothing here makes any, and those of libraries end up in no line.
    pub fn lets_out(&self, metadata: &Metadata<'_>) -> bool {
        let decides = || self.directives.iter().find(|directive| directive.fits(metadata));
        !metadata.is_span() && decides().is_some_and(|directive| directive.level >= *metadata.level())
    }

    /// The finest level that it lets out for anything.
    pub fn finest(&self) -> LevelFilter {
        self.directives.iter().map(|directive| directive.level).max().unwrap_or(LevelFilter::OFF)
    }

    /// Of two for the same lines, the later one counts.
    fn add(&mut self, new: Directive) {
        self.directives.retain(|old| (&old.target, &old.field) != (&new.target, &new.field));
        let at = self.directives.partition_point(|old| old.weight() >= new.weight());
        self.directives.insert(at, new);
    }
}

impl FromStr for LogFilter {
    type Err = NoLogFilter;

    fn from_str(text: &str) -> Result<Self, NoLogFilter> {
        let mut filter = Self { directives: Vec::new() };
        for part in text.split(',').filter(|part| !part.is_empty()) {
            if let Some(directive) = directive(part.trim())? {
                filter.add(directive);
            }
        }
        Ok(filter)
    }
}

impl Directive {
    fn fits(&self, metadata: &Metadata<'_>) -> bool {
        self.target.as_deref().is_none_or(|target| metadata.target().starts_with(target))
            && self.field.as_deref().is_none_or(|field| metadata.fields().field(field).is_some())
    }

    /// The longer the target, the more specific.
    fn weight(&self) -> (Option<usize>, bool) {
        (self.target.as_ref().map(String::len), self.field.is_some())
    }
}

/// Reads one; `None` where it is about spans alone, which decides no line.
fn directive(text: &str) -> Result<Option<Directive>, NoLogFilter> {
    let (target, rest) = text.split_at(text.find(['=', '[']).unwrap_or(text.len()));
    let starts_well = |first: char| first.is_alphanumeric() || "-:_".contains(first);
    if !(target.starts_with(starts_well) || target.is_empty() && rest.starts_with('[')) {
        return Err(NoLogFilter);
    }
    if rest.is_empty()
        && let Ok(level) = target.parse()
    {
        return Ok(Some(Directive { target: None, field: None, level }));
    }
    let (scope, rest) = match rest.strip_prefix('[') {
        Some(rest) => scope(rest)?,
        None => (Scope::Lines { field: None }, rest),
    };
    let level = match rest.strip_prefix('=') {
        Some("") => LevelFilter::TRACE,
        Some(level) => level.parse().map_err(|_| NoLogFilter)?,
        None if rest.is_empty() => LevelFilter::TRACE,
        None => return Err(NoLogFilter),
    };
    Ok(match scope {
        Scope::Spans => None,
        Scope::Lines { field } => {
            let target = (!target.is_empty()).then(|| target.to_owned());
            Some(Directive { target, field, level })
        }
    })
}

enum Scope {
    /// A span by name, or by a field's value.
    Spans,
    Lines {
        field: Option<String>,
    },
}

/// What stands behind `[`, and what comes after its `]`.
fn scope(text: &str) -> Result<(Scope, &str), NoLogFilter> {
    let (span, rest) = text.split_at(text.find(['{', ']']).ok_or(NoLogFilter)?);
    let Some(fields) = rest.strip_prefix('{') else {
        return Ok((Scope::Spans, rest.strip_prefix(']').ok_or(NoLogFilter)?));
    };
    let (field, rest) = fields.split_once("}]").ok_or(NoLogFilter)?;
    if field.is_empty() || field.contains('}') {
        return Err(NoLogFilter);
    }
    let by_name_alone = span.is_empty() && !field.contains('=');
    let scope = if by_name_alone { Scope::Lines { field: Some(field.to_owned()) } } else { Scope::Spans };
    Ok((scope, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing_core::callsite::{Callsite, Identifier};
    use tracing_core::field::FieldSet;
    use tracing_core::subscriber::Interest;
    use tracing_core::{Kind, Level};
    use tracing_subscriber::layer::Filter;
    use tracing_subscriber::{EnvFilter, Registry};

    const FILTERS: &[&str] = &[
        "",
        ",",
        " ",
        "info",
        "WARN",
        "off",
        "0",
        "3",
        "5",
        "6",
        "warn,",
        "info,bearerd::token=debug",
        "bearerd::access=off,debug",
        "debug,bearerd=warn,bearerd::token=trace",
        "bearerd::token=trace,bearerd=warn,debug",
        "bearerd=info,bearerd=off",
        "bearerd=off,bearerd=info",
        "hyper",
        "bearerd",
        "bearerd=",
        "bearerd=5",
        "bearerd=TRACE",
        "bearerd=loud",
        "=info",
        "bearerd=info=off",
        "info,bearerd::=off",
        "-x=info",
        ":x",
        "_x",
        "*=info",
        "]=[",
        "[",
        "[]",
        "[call]",
        "[call",
        "[call]x",
        "[call]=trace",
        "[call{route=x}]=trace",
        "info,[call{route=x}]=trace",
        "[{event}]=debug",
        "off,[{event}]=debug",
        "bearerd[{event}]=off,info",
        "bearerd[{event}]",
        "bearerd[{}]=info",
        "[{event]=info",
        "[{event}=info",
        "[{event}}]=info",
        "[{a]b}]=info",
        "[{event}]=loud",
        "[{event=1}]=debug,warn",
        "[x{event}]",
        "bearerd[call]=debug,info",
        "bé=info",
        "é",
        "info;debug",
        "info debug",
    ];

    struct Line;

    impl Callsite for Line {
        fn set_interest(&self, _: Interest) {}

        fn metadata(&self) -> &Metadata<'_> {
            unreachable!("nobody asks")
        }
    }

    fn lines() -> Vec<&'static Metadata<'static>> {
        let mut lines = Vec::new();
        for target in
            ["bearerd", "bearerd::access", "bearerd::token", "bearerd::token::slot", "hyper", "bé", ""]
        {
            for level in [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG, Level::TRACE] {
                for names in [&["message"][..], &["message", "event"], &["x"]] {
                    let fields = FieldSet::new(names, Identifier(&Line));
                    let metadata =
                        Metadata::new("line", target, level, None, None, None, fields, Kind::EVENT);
                    lines.push(&*Box::leak(Box::new(metadata)));
                }
            }
        }
        lines
    }

    #[test]
    fn reads_what_env_filter_reads_and_lets_out_the_same_lines() {
        let lines = lines();
        for text in FILTERS {
            let theirs = EnvFilter::builder().parse(text);
            let ours: Result<LogFilter, _> = text.parse();
            assert_eq!(ours.is_ok(), theirs.is_ok(), "{text:?}");
            let (Ok(ours), Ok(theirs)) = (ours, theirs) else { continue };
            for line in &lines {
                let wanted = Filter::<Registry>::callsite_enabled(&theirs, line).is_always();
                assert_eq!(ours.lets_out(line), wanted, "{text:?}: {line:?}");
                assert!(!wanted || ours.finest() >= *line.level(), "{text:?}");
            }
        }
    }

    #[test]
    fn no_span_is_let_out() {
        let fields = FieldSet::new(&[], Identifier(&Line));
        let span = Metadata::new("call", "bearerd", Level::ERROR, None, None, None, fields, Kind::SPAN);
        for text in ["trace", "[call]=trace", "[call{route=x}]=trace"] {
            assert!(!text.parse::<LogFilter>().unwrap().lets_out(&span), "{text}");
        }
    }
}
