//! Makes values that are used outside of token requests (by programs, and by the agent of SPIFFE): once before the config is
//! used, and again when they are no longer kept.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

use crate::config::{self, Config, Source};

/// How long a start or a reload waits for the programs. Until its program has finished, a value counts as missing.
const FIRST_RUN: Duration = Duration::from_secs(15);
/// How long they wait for the agents of SPIFFE, which respond at once unless they hang.
const FIRST_MESSAGE: Duration = Duration::from_millis(1500);
/// The pause after the first failure. It doubles with each failure, up to the longest.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Runs the programs whose output is missing or may no longer be used. Blocks.
pub(super) fn run_first(config: &Config) {
    make_first(config.made_values());
}

/// Runs all programs. Blocks.
pub(super) fn run_again(config: &Config) {
    let values = config.made_values();
    for value in &values {
        value.refuse();
    }
    make_first(values);
}

fn make_first(values: Vec<Source>) {
    let (streamed, printed): (Vec<_>, Vec<_>) = values.into_iter().partition(Source::is_streamed);
    config::make_all(&streamed, FIRST_MESSAGE);
    config::make_all(&printed, FIRST_RUN);
}

/// The tasks that run the programs of the running config again.
#[derive(Default)]
pub(super) struct Programs {
    tasks: Vec<(Source, AbortOnDropHandle<()>)>,
    printed: Arc<Notify>,
}

impl Programs {
    /// Runs only the programs of this config regularly. Must be called within a runtime.
    pub(super) fn keep_fresh(&mut self, config: &Config) {
        let values = config.made_values();
        // A task that continues misses no change.
        self.tasks.retain(|(value, _)| values.contains(value));
        for value in values {
            if self.tasks.iter().any(|(known, _)| *known == value) {
                continue;
            }
            let (printed, own) = (Arc::clone(&self.printed), value.clone());
            let task = tokio::spawn(async move { run_regularly(own, &printed).await });
            self.tasks.push((value, AbortOnDropHandle::new(task)));
        }
    }

    /// Waits until a program printed another value.
    pub(super) async fn printed(&self) {
        self.printed.notified().await;
    }
}

async fn run_regularly(value: Source, printed: &Notify) {
    while value.is_streamed() {
        // At first too, because it may have changed since it was read. Whoever is notified is a task of the same thread, so
        // it reads only after this one waits for the next change.
        printed.notify_one();
        value.changed().await;
    }
    let current = |value: &Source| value.read_or_last_good().ok().map(|(value, _)| value);
    let mut failures = 0;
    loop {
        let pause = match failures {
            0 => value.kept_for().max(SHORTEST_PAUSE),
            failures => SHORTEST_PAUSE.saturating_mul(2_u32.saturating_pow(failures - 1)).min(LONGEST_PAUSE),
        };
        tokio::time::sleep(pause).await;
        let before = current(&value);
        match value.refresh().await {
            Ok(()) if !value.kept_for().is_zero() => failures = 0,
            // No other can be made, and the last one serves until it expires.
            Ok(()) => failures += 1,
            Err(error) => {
                failures += 1;
                tracing::warn!(
                    event = "program.failed", %error, failures,
                    "a program printed no value, or the agent of SPIFFE gave none; the last good one stays in use, if there is one"
                );
            }
        }
        if current(&value) != before {
            printed.notify_one();
        }
    }
}
