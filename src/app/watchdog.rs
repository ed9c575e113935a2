//! Tells the service manager that all is well, as long as it is: the control thread's runtime turns, and every worker
//! answers. A worker that is stuck serves no requests, so the telling stops and the program is started again.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::sleep;

/// Asks one worker; `None` once it takes no more orders, as in the end.
pub(super) type Ask = Box<dyn Fn() -> Option<oneshot::Receiver<()>> + Send>;

/// Runs until it is dropped. `timeout` is what the service manager waits.
pub(super) async fn run(timeout: Duration, workers: Vec<Ask>, tell: impl Fn()) {
    let pause = timeout / 3;
    loop {
        // All are asked before any is waited for.
        let asked: Vec<_> =
            workers.iter().enumerate().filter_map(|(worker, ask)| Some((worker, ask()?))).collect();
        for (worker, answer) in asked {
            answered(worker, answer, pause).await;
        }
        tell();
        sleep(pause).await;
    }
}

/// However long it takes. A worker that has ended needs no response: that is reported on a way of its own.
async fn answered(worker: usize, mut answer: oneshot::Receiver<()>, patience: Duration) {
    tokio::select! {
        _ = &mut answer => return,
        () = sleep(patience) => {}
    }
    tracing::error!(
        event = "worker.stuck",
        worker,
        "a worker does not answer; unless it does soon, the service manager's watchdog ends the program"
    );
    let _ = answer.await;
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn healthy() -> Ask {
        Box::new(|| {
            let (answer, receiver) = oneshot::channel();
            answer.send(()).unwrap();
            Some(receiver)
        })
    }

    async fn told_within(span: Duration, workers: Vec<Ask>) -> usize {
        let told = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&told);
        let tell = move || {
            counted.fetch_add(1, Ordering::SeqCst);
        };
        let _ = tokio::time::timeout(span, run(Duration::from_secs(30), workers, tell)).await;
        told.load(Ordering::SeqCst)
    }

    #[tokio::test(start_paused = true)]
    async fn tells_three_times_in_each_timeout() {
        assert_eq!(told_within(Duration::from_secs(59), vec![healthy(), healthy()]).await, 6);
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_that_has_ended_is_not_waited_for() {
        assert_eq!(told_within(Duration::from_secs(5), vec![Box::new(|| None)]).await, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn one_stuck_worker_silences_it() {
        let (holds_on_to, questions) = std::sync::mpsc::channel();
        let stuck: Ask = Box::new(move || {
            let (answer, receiver) = oneshot::channel::<()>();
            holds_on_to.send(answer).unwrap();
            Some(receiver)
        });
        assert_eq!(told_within(Duration::from_secs(3600), vec![healthy(), stuck]).await, 0);
        assert_eq!(questions.into_iter().count(), 1, "it is asked once, not again and again");
    }
}
