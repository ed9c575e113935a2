//! The end of the program.

use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::Ended;
use super::control::{Control, Order};
use super::signals::{self, Received};
use super::worker::Report;

/// How long workers have to let go of connections that were cut, before the process ends under them.
const CUT_GRACE: Duration = Duration::from_secs(1);

/// How the waiting for the last requests ended.
enum Waited {
    AllEnded,
    Failed(String),
    TooLong,
    Hurried,
}

/// Lets calls end: unready at once, after `drain_delay` no new connections, and at most `shutdown_timeout` for the
/// calls under way (zero: as long as they take). A second signal ends it at once.
pub(super) async fn drain(control: &mut Control, why: &str) -> Ended {
    let config = std::sync::Arc::clone(&control.shared.snapshot.load().config);
    control.shared.health.set_draining();
    control.service.stopping(config.drain_delay, config.shutdown_timeout);
    tracing::info!(
        event = "shutdown.started",
        delay = %humantime::format_duration(config.drain_delay),
        timeout = %humantime::format_duration(config.shutdown_timeout),
        "{why}: ending once calls have ended"
    );
    if !config.drain_delay.is_zero() {
        tokio::select! {
            () = sleep(config.drain_delay) => {}
            () = hurried(control) => return cut_by_wish(control).await,
        }
    }
    control.listeners.stop_accepting();
    control.webhooks.stop_accepting();
    control.workers.close();
    let deadline = (!config.shutdown_timeout.is_zero()).then(|| Instant::now() + config.shutdown_timeout);
    let ended = match all_ended(control, deadline).await {
        Waited::AllEnded => {
            tracing::info!(event = "shutdown.finished", "ended: every request was answered");
            Ended::Drained
        }
        Waited::Failed(message) => Ended::Failed(message),
        Waited::TooLong => {
            tracing::warn!(
                event = "shutdown.timed_out",
                "shutdown_timeout is over: cutting off the requests that are left"
            );
            return cut(control).await;
        }
        Waited::Hurried => return cut_by_wish(control).await,
    };
    control.admin.stop();
    ended
}

async fn cut_by_wish(control: &mut Control) -> Ended {
    tracing::warn!(
        event = "shutdown.forced",
        "asked to end a second time: cutting off the requests that are left"
    );
    cut(control).await
}

/// Drops everything.
pub(super) async fn cut(control: &mut Control) -> Ended {
    control.listeners.stop_now();
    control.webhooks.stop_now();
    control.workers.close();
    // Sockets are closed and their files removed by the workers; one that hangs is left to the end of the process.
    let ended = all_ended_or_grace(control).await;
    control.admin.stop();
    ended
}

/// A worker is gone: serving on with fewer would look healthy, so the whole program ends and can be started again.
pub(super) async fn fail(control: &mut Control, report: &Report) -> Ended {
    let message = describe(report);
    tracing::error!(event = "process.failed", "{message}; ending, so that the program can be started again");
    cut(control).await;
    Ended::Failed(message)
}

async fn all_ended_or_grace(control: &mut Control) -> Ended {
    let grace = sleep(CUT_GRACE);
    tokio::pin!(grace);
    loop {
        tokio::select! {
            report = control.reports.recv() => if report.is_none() { return Ended::Cut },
            () = &mut grace => return Ended::Cut,
        }
    }
}

async fn all_ended(control: &mut Control, deadline: Option<Instant>) -> Waited {
    loop {
        tokio::select! {
            // Each worker reports once and drops its end; the channel closes with the last one.
            report = control.reports.recv() => match report {
                None => return webhooks_ended(control, deadline).await,
                Some(report) if report.outcome.is_err() => {
                    let message = describe(&report);
                    tracing::error!(event = "process.failed", "{message}");
                    return Waited::Failed(message);
                }
                Some(_) => {}
            },
            () = until(deadline) => return Waited::TooLong,
            () = second_order(&mut control.orders, &mut control.signals) => return Waited::Hurried,
        }
    }
}

/// A sender whose value is being stored gets its response too.
async fn webhooks_ended(control: &mut Control, deadline: Option<Instant>) -> Waited {
    tokio::select! {
        () = control.webhooks.ended() => Waited::AllEnded,
        () = until(deadline) => Waited::TooLong,
        () = second_order(&mut control.orders, &mut control.signals) => Waited::Hurried,
    }
}

fn describe(report: &Report) -> String {
    let why = report.outcome.as_ref().err().map_or("ended by itself", String::as_str);
    format!("worker-{} is gone: {why}", report.worker)
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

async fn hurried(control: &mut Control) {
    second_order(&mut control.orders, &mut control.signals).await;
}

/// Ends with another wish to end; a wish to reload is not heard any more.
async fn second_order(
    orders: &mut tokio::sync::mpsc::UnboundedReceiver<Order>,
    signals: &mut Option<signals::Signals>,
) {
    loop {
        tokio::select! {
            order = orders.recv() => match order {
                Some(Order::Reload(_)) => {}
                Some(Order::Drain | Order::Stop) | None => return,
            },
            received = signals::next_of(signals) => match received {
                Received::Reload => {}
                Received::End(_) => return,
            },
        }
    }
}
