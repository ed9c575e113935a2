//! A store in Redis or Valkey.

use std::time::Duration;

use tokio::runtime::Handle;

use super::engine::{
    Claim, Claimed, Engine, Entry, EntryId, Gone, GoneKind, Listed, Operation, Probed, Spent, StoreTime,
};
use crate::config::{Budget, RedisConfig};

pub(super) struct Redis;

impl Redis {
    pub(super) fn new(_config: RedisConfig, _prefix: &str, _control: &Handle) -> Self {
        Self
    }
}

fn gone<T: Send + 'static>() -> Operation<'static, T> {
    Box::pin(async { Err(Gone::new(GoneKind::Unable, "redis is being built")) })
}

impl Engine for Redis {
    fn claim<'a>(&'a self, _id: &'a EntryId, _claim: Claim) -> Operation<'a, Claimed> {
        gone()
    }
    fn read<'a>(&'a self, _id: &'a EntryId) -> Operation<'a, Option<Entry>> {
        gone()
    }
    fn extend<'a>(&'a self, _id: &'a EntryId, _fence: u64, _lease: Duration) -> Operation<'a, bool> {
        gone()
    }
    fn publish<'a>(&'a self, _: &'a EntryId, _: u64, _: &'a [u8], _: StoreTime) -> Operation<'a, bool> {
        gone()
    }
    fn release<'a>(&'a self, _id: &'a EntryId, _fence: u64) -> Operation<'a, ()> {
        gone()
    }
    fn remove<'a>(&'a self, _ids: &'a [EntryId]) -> Operation<'a, u64> {
        gone()
    }
    fn list(&self) -> Operation<'_, Vec<Listed>> {
        gone()
    }
    fn spend<'a>(&'a self, _id: &'a EntryId, _budget: Budget) -> Operation<'a, Spent> {
        gone()
    }
    fn balance<'a>(&'a self, _id: &'a EntryId, _budget: Budget) -> Operation<'a, Spent> {
        gone()
    }
    fn probe(&self) -> Operation<'_, Probed> {
        gone()
    }
    fn place(&self) -> String {
        "redis".to_owned()
    }
}
