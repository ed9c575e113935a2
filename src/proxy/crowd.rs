//! How many requests over HTTP/2 there may be at a time: a connection carries a hundred, so that `connections` alone does
//! not bound them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::error::{Code, ProxyError};
use crate::config::Limits;

/// However few connections are allowed.
const AT_LEAST: usize = 1000;

/// Requests of the whole process that are under way.
#[derive(Debug, Default)]
pub(super) struct Crowd(AtomicUsize);

/// One of them, for as long as it lives.
#[derive(Debug)]
pub(super) struct Place {
    crowd: Arc<Crowd>,
    before: usize,
}

impl Crowd {
    pub(super) fn enter(self: &Arc<Self>) -> Place {
        Place { crowd: Arc::clone(self), before: self.0.fetch_add(1, Ordering::Relaxed) }
    }
}

impl Place {
    /// # Errors
    /// Where there were as many requests as there may be.
    pub(super) fn check(&self, limits: &Limits) -> Result<(), ProxyError> {
        let most = limits.connections.max(AT_LEAST);
        if self.before < most {
            return Ok(());
        }
        let detail = format!(
            "{most} requests over HTTP/2 are under way: as many as limits.connections, and at least {AT_LEAST}, may be; \
             see what they wait for, or raise it"
        );
        Err(ProxyError::new(Code::Overloaded, detail))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.crowd.0.fetch_sub(1, Ordering::Relaxed);
    }
}
