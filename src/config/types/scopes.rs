//! Scopes (RFC 6749 section 3.3).

use std::hash::{Hash, Hasher};
use std::ops::Deref;

/// Scopes in the order in which they are written, each once. Two lists with the same scopes are equal, whatever their
/// order: they stand for the same token.
#[derive(Debug, Clone, Default)]
pub struct Scopes(Vec<String>);

impl Scopes {
    /// As one text, for a request.
    pub fn joined(&self) -> String {
        self.0.join(" ")
    }

    fn sorted(&self) -> Vec<&str> {
        let mut sorted: Vec<&str> = self.0.iter().map(String::as_str).collect();
        sorted.sort_unstable();
        sorted
    }
}

impl Deref for Scopes {
    type Target = [String];

    fn deref(&self) -> &[String] {
        &self.0
    }
}

impl PartialEq for Scopes {
    fn eq(&self, other: &Self) -> bool {
        self.0.len() == other.0.len() && self.sorted() == other.sorted()
    }
}

impl Eq for Scopes {}

impl Hash for Scopes {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.sorted().hash(state);
    }
}

impl FromIterator<String> for Scopes {
    fn from_iter<I: IntoIterator<Item = String>>(scopes: I) -> Self {
        let mut once = Vec::new();
        for scope in scopes {
            if !once.contains(&scope) {
                once.push(scope);
            }
        }
        Self(once)
    }
}

impl<const N: usize> From<[&str; N]> for Scopes {
    fn from(scopes: [&str; N]) -> Self {
        scopes.into_iter().map(str::to_owned).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_order_is_kept_and_says_nothing_of_equality() {
        let (one, other) = (Scopes::from(["write", "read", "write"]), Scopes::from(["read", "write"]));
        assert_eq!((one.joined().as_str(), other.joined().as_str()), ("write read", "read write"));
        assert_eq!(one, other);
        assert_eq!(HashSet::from([one, other]).len(), 1);
        assert_ne!(Scopes::from(["read"]), Scopes::from(["write"]));
        assert_ne!(Scopes::from(["read"]), Scopes::default());
    }
}
