//! Handles by name: one name is one series for as long as it is in the config.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};

#[expect(
    clippy::disallowed_types,
    reason = "taken while a config is loaded and at a scrape; the request path holds the handles"
)]
type Lock<T> = std::sync::Mutex<T>;

#[derive(Debug)]
pub(super) struct Named<T>(Lock<BTreeMap<Arc<str>, Arc<T>>>);

impl<T> Default for Named<T> {
    fn default() -> Self {
        Self(Lock::new(BTreeMap::new()))
    }
}

impl<T> Named<T> {
    pub(super) fn get_or_create(&self, name: &Arc<str>, new: impl FnOnce() -> T) -> Arc<T> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(Arc::clone(name)).or_insert_with(|| Arc::new(new())))
    }

    /// Forgets every name that is not among `names`; handles that are still held go on counting unseen.
    pub(super) fn retain(&self, names: &BTreeSet<&str>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|name, _| names.contains(&**name));
    }

    /// All, in the order of their names.
    pub(super) fn all(&self) -> Vec<(Arc<str>, Arc<T>)> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().map(|(name, value)| (Arc::clone(name), Arc::clone(value))).collect()
    }
}
