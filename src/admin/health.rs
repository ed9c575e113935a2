//! What only the running process knows of itself: is it ending, did the last reload work.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use arc_swap::ArcSwap;

use crate::clock::{Clock as _, SystemClock};

/// Set by whoever reloads and ends the process; read by the admin address.
#[derive(Debug)]
pub struct Health {
    draining: AtomicBool,
    missing: ArcSwap<Vec<String>>,
    loads: ArcSwap<Loads>,
}

/// The config's history, as far as it is told.
#[derive(Debug, Clone)]
pub(super) struct Loads {
    /// When the config that serves was loaded.
    pub(super) loaded_at: SystemTime,
    /// `None` before the first reload.
    pub(super) last: Option<LastReload>,
}

/// How the last reload ended.
#[derive(Debug, Clone)]
pub struct LastReload {
    pub at: SystemTime,
    /// Why the file was not taken; the config before it serves on.
    pub error: Option<String>,
}

impl Health {
    /// For a process whose config was loaded just now.
    pub fn new() -> Self {
        let loads = Loads { loaded_at: SystemClock.wall(), last: None };
        Self {
            draining: AtomicBool::new(false),
            missing: ArcSwap::default(),
            loads: ArcSwap::from_pointee(loads),
        }
    }

    /// The process is ending: `/readyz` answers 503 from now on.
    pub fn set_draining(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Whether the process is ending.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// What the config in force names and is not there, one line each: `/readyz` answers 503 while there is any.
    pub fn set_missing(&self, missing: Vec<String>) {
        self.missing.store(Arc::new(missing));
    }

    pub(super) fn missing(&self) -> Arc<Vec<String>> {
        self.missing.load_full()
    }

    /// A reload came to its end; `Err` says what is wrong with the file, without any secret.
    pub fn reloaded(&self, outcome: Result<(), String>) {
        let at = SystemClock.wall();
        let before = self.loads.load();
        let loaded_at = if outcome.is_ok() { at } else { before.loaded_at };
        self.loads.store(Arc::new(Loads { loaded_at, last: Some(LastReload { at, error: outcome.err() }) }));
    }

    pub(super) fn loads(&self) -> Loads {
        Loads::clone(&self.loads.load())
    }
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_reload_keeps_the_time_of_the_config_that_serves() {
        let health = Health::new();
        let first = health.loads().loaded_at;
        assert!(health.loads().last.is_none());
        health.reloaded(Err("line 3".to_owned()));
        assert_eq!(health.loads().loaded_at, first);
        assert_eq!(health.loads().last.unwrap().error.as_deref(), Some("line 3"));
        health.reloaded(Ok(()));
        assert!(health.loads().loaded_at >= first);
        assert!(health.loads().last.unwrap().error.is_none());
    }
}
