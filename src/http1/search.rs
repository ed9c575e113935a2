//! The end of a head that comes in pieces.

/// Interim answers that one call is worth; no server has reason to send more.
const INTERIM: u8 = 16;

/// How far a head has come. It is not parsed again for each piece of it: many small ones would cost their square.
#[derive(Debug, Default)]
pub struct Search {
    /// So many bytes were there when it was last parsed, and did not make it whole.
    tried: u32,
    interim: u8,
}

impl Search {
    /// Whether these bytes, all that have come of the head, may be the whole of it.
    pub fn is_worth_a_try(&mut self, bytes: &[u8]) -> bool {
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let before = usize::try_from(std::mem::replace(&mut self.tried, length)).unwrap_or(usize::MAX);
        if before == 0 {
            return !bytes.is_empty();
        }
        let new = bytes.get(before.saturating_sub(3)..).unwrap_or_default();
        new.windows(2).any(|end| end == b"\n\n") || new.windows(3).any(|end| end == b"\n\r\n")
    }

    /// An interim head was taken off; whether another one may follow.
    pub(super) fn passes_over(&mut self) -> bool {
        self.tried = 0;
        self.interim += 1;
        self.interim < INTERIM
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_empty_line_is_worth_another_try() {
        let text = b"GET / HTTP/1.1\r\nHost: x\r\n\r\nrest";
        let mut search = Search::default();
        assert!(!search.is_worth_a_try(b""));
        let tries = (1..text.len()).filter(|end| search.is_worth_a_try(&text[..*end])).collect::<Vec<_>>();
        assert_eq!(tries, [1, 27, 28], "the first, and where the line ends or may have ended");
    }
}
