//! Processes and how they belong together, from `/proc`. A system without it has none.

use rustix::process::Pid;

/// A process at one moment.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pub pid: Pid,
    /// It has ended, and its parent has not waited for it.
    pub is_zombie: bool,
    /// `None`, as for group and session: it is outside of this PID namespace.
    pub parent: Option<Pid>,
    pub group: Option<Pid>,
    pub session: Option<Pid>,
}

impl Process {
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        // `self` is a process, too, and has its number as well.
        let is_number = |name: &str| name.bytes().all(|byte| byte.is_ascii_digit());
        entries
            .filter_map(move |entry| Self::read(entry.file_name().to_str().filter(|name| is_number(name))?))
    }

    /// The process that asks.
    pub(crate) fn this() -> Option<Self> {
        Self::read("self")
    }

    #[expect(clippy::disallowed_methods, reason = "no file that the config names")]
    fn read(entry: &str) -> Option<Self> {
        Self::parse(&std::fs::read(format!("/proc/{entry}/stat")).ok()?)
    }

    fn parse(stat: &[u8]) -> Option<Self> {
        let number = |text: &str| Pid::from_raw(text.parse().ok().filter(|number| *number > 0)?);
        // The name of the program is in parentheses, and may contain anything, also what is not UTF-8.
        let (start, end) =
            (stat.iter().position(|&byte| byte == b'(')?, stat.iter().rposition(|&byte| byte == b')')?);
        let pid = number(std::str::from_utf8(stat.get(..start)?).ok()?.trim_end())?;
        let mut fields = std::str::from_utf8(stat.get(end + 1..)?).ok()?.split_ascii_whitespace();
        let is_zombie = fields.next()? == "Z";
        let mut numbers = fields.map(number);
        let (parent, group, session) = (numbers.next()?, numbers.next()?, numbers.next()?);
        Some(Self { pid, is_zombie, parent, group, session })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_is_read_and_what_is_outside_of_the_namespace_is_none() {
        let read = Process::parse(b"7 (a) Z 1 (\xff\n) S 1 5 0 -1 4194304").unwrap();
        let pid = Pid::from_raw;
        let wanted =
            Process { pid: pid(7).unwrap(), is_zombie: false, parent: pid(1), group: pid(5), session: None };
        assert_eq!(read, wanted);
        assert!(Process::parse(b"8 (x) Z 0 0 0 ").unwrap().is_zombie);
        assert_eq!(Process::parse(b"8 (x) Z 0"), None);
    }
}
