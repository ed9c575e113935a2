//! `bearerd check --online`: what issuers and upstreams say to a config, in one screen.
//!
//! Tokens are asked for as the proxy asks for them, and connections to upstreams are opened as it opens them; no request
//! is sent over those. Nothing that is shown holds a secret.

mod guess;
mod issuer;
mod keys;
mod plan;
mod progress;
mod report;
mod text;
mod token;
mod upstream;

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::args::{Common, Output};
use super::{Exit, Failure, check as offline, find, output};
use crate::clock::{Clock, SystemClock};
use crate::config::{self, Config, Problem};
use progress::Progress;
use report::{IssuerReport, Report, UpstreamReport};

/// For all of it: what has not ended by then is reported as such.
const LIMIT: Duration = Duration::from_secs(60);
/// Issuers and upstreams that are asked at the same time.
const AT_ONCE: usize = 16;

/// What was typed.
#[derive(Debug, Clone, Copy)]
pub(super) struct OnlineOptions {
    /// A few more requests may find out what a refusing issuer takes.
    pub(super) guess: bool,
    pub(super) output: Output,
}

pub(super) fn check(common: &Common, asked: OnlineOptions) -> Result<Exit, Failure> {
    let path = find(common)?;
    let Ok(config) = config::load(&path) else { return offline::check(common, asked.output) };
    let problems = offline::all_problems(&config);
    if problems.iter().any(offline::is_error) {
        return offline::check(common, asked.output);
    }
    let (issuers, upstreams) = ask(&config, asked.guess)?;
    let ok = issuers.iter().all(|issuer| issuer.ok) && upstreams.iter().all(|upstream| upstream.ok);
    let report = Report {
        ok,
        config: path.to_string_lossy().into_owned(),
        problems: problems.iter().map(Problem::to_json).collect(),
        issuers,
        upstreams,
    };
    match asked.output {
        Output::Json => output::answer_json(&serde_json::json!(report)),
        Output::Text => {
            let shown = format!("{}{}", offline::report(&problems), text::of(&report));
            output::answer_people(&output::harmless(&shown));
        }
    }
    Ok(if ok { Exit::Fine } else { Exit::No })
}

fn ask(config: &Config, guess: bool) -> Result<(Vec<IssuerReport>, Vec<UpstreamReport>), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(|error| Failure::new(Exit::No, format!("cannot start a runtime: {error}")))?;
    let reports = runtime.block_on(ask_all(config, guess));
    // A name that is still being looked up must not hold up the end.
    runtime.shutdown_background();
    Ok(reports)
}

async fn ask_all(config: &Config, guess: bool) -> (Vec<IssuerReport>, Vec<UpstreamReport>) {
    let bounds = Bounds { end: Instant::now() + LIMIT, now: SystemClock.wall(), guess };
    let planned = plan::upstreams(config);
    let progress = Progress::new(config.issuers.len() + planned.len());
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let mut issuers = JoinSet::new();
    for (index, issuer) in config.issuers.values().enumerate() {
        let (room, issuer, progress) = (Arc::clone(&room), Arc::clone(issuer), Arc::clone(&progress));
        let wanted = plan::credentials(config, &issuer);
        issuers.spawn(async move {
            let _permit = room.acquire_owned().await;
            let report = issuer::ask(issuer, wanted, bounds).await;
            progress.done("issuer", &report.name, report.ok);
            (index, report)
        });
    }
    let mut upstreams = JoinSet::new();
    for (index, planned) in planned.into_iter().enumerate() {
        let (room, progress) = (Arc::clone(&room), Arc::clone(&progress));
        upstreams.spawn(async move {
            let _permit = room.acquire_owned().await;
            let report = upstream::connect(planned, bounds).await;
            progress.done("upstream", &report.upstream, report.ok);
            (index, report)
        });
    }
    let reports = (in_order(issuers).await, in_order(upstreams).await);
    progress.end();
    reports
}

/// As they stand in the config, however they ended.
async fn in_order<T: 'static>(tasks: JoinSet<(usize, T)>) -> Vec<T> {
    let mut ended = tasks.join_all().await;
    ended.sort_by_key(|(index, _)| *index);
    ended.into_iter().map(|(_, report)| report).collect()
}

/// What holds for the whole run.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    end: Instant,
    /// When it began.
    now: SystemTime,
    guess: bool,
}

impl Bounds {
    /// `None`: the time was up.
    async fn hold<T>(self, future: impl Future<Output = T>) -> Option<T> {
        tokio::time::timeout_at(self.end, future).await.ok()
    }

    fn over(self) -> bool {
        Instant::now() >= self.end
    }
}

/// What a failure says where the whole run's time was up.
fn out_of_time() -> String {
    format!(
        "no response within the {} that all of check --online may take",
        humantime::format_duration(LIMIT)
    )
}
