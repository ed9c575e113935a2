//! Where a reload stands: nothing to do, files being looked at, or to be looked at once more.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::prepare::{Cause, LookedAt, Prepared, prepare};
use crate::aside::{Aside, AsideError};
use crate::config::Config;
use crate::metrics::Metrics;
use crate::reload::Watch;

/// Where files are looked at: one thread for each running proxy of the process.
static LOOKING: Aside = Aside::new("reload", 64);

/// Single files that hang are given up much sooner.
const LONGEST_LOOK: Duration = Duration::from_secs(20);
const STUCK: &str =
    "a file system did not answer in time; see which of the folders that the config names hangs";

type Looking = Pin<Box<dyn Future<Output = Result<Prepared, AsideError>> + Send>>;
type Reply = oneshot::Sender<Result<(), String>>;

pub(super) enum ReloadStep {
    /// It is time to look at the files.
    Look,
    /// They were looked at.
    Prepared(Box<Prepared>),
    /// The look broke down, or does not come to an end: why.
    Broken(String),
}

pub(super) struct Reloading {
    wanted: bool,
    watch: Option<Watch>,
    /// Not here while a look is under way.
    seen: Option<LookedAt>,
    /// See [`LookedAt::workers`].
    workers: usize,
    looking: Option<Looking>,
    /// When the look under way is given up.
    deadline: Instant,
    /// Asked for while a look was under way, which may have read the files before.
    again: Option<Cause>,
    /// Who waits for the look under way, and for the one after it.
    replies: Vec<Reply>,
    next_replies: Vec<Reply>,
}

impl Reloading {
    pub(super) fn new(seen: LookedAt, watch: bool) -> Self {
        Self {
            wanted: watch,
            watch: None,
            workers: seen.workers,
            seen: Some(seen),
            looking: None,
            deadline: Instant::now(),
            again: None,
            replies: Vec::new(),
            next_replies: Vec::new(),
        }
    }

    /// Begins to watch, where that is wanted. Needs a runtime around it.
    pub(super) fn watch(&mut self) {
        if self.wanted {
            self.watch = Some(Watch::new());
        }
    }

    /// Answers once the next look has come to an end.
    pub(super) fn answer_to(&mut self, reply: Reply) {
        self.next_replies.push(reply);
    }

    /// Looks at the files, beside the control thread; now, or once the look under way has ended.
    pub(super) fn look(&mut self, cause: Cause, config: &Arc<Config>, metrics: &Arc<Metrics>) {
        let Some(seen) = self.seen.take() else {
            // An operator's wish goes before a file's: it loads the config in any case.
            self.again = if self.again == Some(Cause::Operator) { self.again } else { Some(cause) };
            return;
        };
        self.replies.append(&mut self.next_replies);
        let (config, metrics) = (Arc::clone(config), Arc::clone(metrics));
        self.deadline = Instant::now() + LONGEST_LOOK;
        self.looking = Some(Box::pin(LOOKING.run(move || prepare(cause, &config, seen, &metrics))));
    }

    /// The next thing to do. May be dropped and called again.
    pub(super) async fn next(&mut self) -> ReloadStep {
        let Self { watch, looking, deadline, .. } = self;
        let under_way = looking.is_some();
        let step = tokio::select! {
            prepared = looked(looking) => match prepared {
                Ok(prepared) => ReloadStep::Prepared(Box::new(prepared)),
                Err(error) => ReloadStep::Broken(error.to_string()),
            },
            () = tokio::time::sleep_until(*deadline), if under_way => ReloadStep::Broken(STUCK.to_owned()),
            () = touched(watch) => return ReloadStep::Look,
        };
        self.looking = None;
        step
    }

    /// Takes back what is known of the files; says whether they must be looked at again at once.
    pub(super) fn looked(&mut self, seen: LookedAt, folders: BTreeSet<PathBuf>) -> Option<Cause> {
        self.seen = Some(seen);
        if let Some(watch) = &mut self.watch {
            watch.arm(folders);
        }
        self.again.take()
    }

    /// After a look that broke down.
    pub(super) fn start_over(&mut self, config: &Config) -> Option<Cause> {
        self.seen = Some(LookedAt::unknown(config, self.workers));
        self.again.take()
    }

    pub(super) fn reply(&mut self, result: &Result<(), String>) {
        for reply in self.replies.drain(..) {
            // Whoever asked may have left.
            let _ = reply.send(result.clone());
        }
    }
}

async fn touched(watch: &mut Option<Watch>) {
    match watch {
        Some(watch) => watch.touched().await,
        None => std::future::pending().await,
    }
}

async fn looked(looking: &mut Option<Looking>) -> Result<Prepared, AsideError> {
    match looking {
        Some(looking) => looking.await,
        None => std::future::pending().await,
    }
}
