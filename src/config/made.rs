//! Values that are made when they are needed: printed by a program, or issued by the agent of SPIFFE. Each is made once at a
//! time, and kept as long as its recipe says.

#![expect(clippy::disallowed_types, reason = "held for a moment where a config is loaded")]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};

use crate::aside::{SharedWork, WorkInProgress};
use crate::clock::{Clock as _, SystemClock};
use crate::secret::Secret;

/// The value, or why there is none.
pub(super) type Outcome = Result<Arc<Secret>, String>;

/// [`Maker::value`] before the first one.
pub(super) const NOT_MADE: &str = "has given no value yet";

/// How to make a value.
pub(super) trait Recipe: Send + Sync + 'static {
    /// Makes it. Blocks. `earlier`: the last good values, which must not be shown either.
    fn make(&self, earlier: &[Arc<Secret>]) -> Made;

    /// The threads that make values of this kind.
    fn threads(&self) -> &'static Arc<SharedWork<Outcome>>;

    /// How long to wait for a value, and what is wrong if it takes longer.
    fn limit(&self) -> (Duration, &'static str);

    /// Why it cannot be made, found without making it.
    fn unmakeable(&self) -> Option<String>;
}

/// How many good values a maker remembers. What makes a value may speak of the one before it, as after a rotation.
const REMEMBERED: usize = 2;

/// What [`Recipe::make`] returns.
pub(super) struct Made {
    pub(super) outcome: Outcome,
    /// How long the value is used before it is made again. Zero: for one token request.
    pub(super) keep: Duration,
    /// How long the value may be used if another cannot be made.
    pub(super) lasts: Duration,
}

/// The makers of the running configs, so that a reload keeps their values, and no value is made twice at a time.
pub(super) type Known<R> = Mutex<Vec<Weak<Maker<R>>>>;

static LAST_ID: AtomicU64 = AtomicU64::new(0);

/// A recipe, and what it made last.
pub(super) struct Maker<R: ?Sized> {
    /// Names its work in [`Recipe::threads`].
    id: String,
    last: ArcSwapOption<Last>,
    /// The last good values, newest first: at most [`REMEMBERED`].
    good: ArcSwap<Vec<Arc<Secret>>>,
    /// Somebody refused the last value, so it must not be used again.
    refused: AtomicBool,
    /// How often it was made.
    times: AtomicU64,
    pub(super) recipe: R,
}

struct Last {
    made: Made,
    /// By the clock that runs during a suspend.
    at: Duration,
}

impl Last {
    fn age(&self) -> Duration {
        SystemClock.boot().saturating_sub(self.at)
    }
}

impl<R: PartialEq> PartialEq for Maker<R> {
    fn eq(&self, other: &Self) -> bool {
        self.recipe == other.recipe
    }
}

impl<R: Eq> Eq for Maker<R> {}

/// Work in progress, or none if none is needed.
pub(super) struct Refreshing {
    maker: Arc<Maker<dyn Recipe>>,
    work: Option<WorkInProgress<Outcome>>,
}

impl<R: PartialEq> Maker<R> {
    /// The maker of this recipe: the one of a config that is in use, or a new one.
    pub(super) fn of(recipe: R, known: &Known<R>) -> Arc<Self> {
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|maker| maker.strong_count() > 0);
        let same = known.iter().filter_map(Weak::upgrade).find(|maker| maker.recipe == recipe);
        same.unwrap_or_else(|| {
            let new = Arc::new(Self {
                id: LAST_ID.fetch_add(1, Ordering::Relaxed).to_string(),
                last: ArcSwapOption::empty(),
                good: ArcSwap::default(),
                refused: AtomicBool::new(false),
                times: AtomicU64::new(0),
                recipe,
            });
            known.push(Arc::downgrade(&new));
            new
        })
    }
}

impl Maker<dyn Recipe> {
    /// What was made last. `Err`: it failed, or nothing was made.
    pub(super) fn value(&self) -> Outcome {
        match &*self.last.load() {
            Some(last) => last.made.outcome.clone(),
            None => Err(NOT_MADE.to_owned()),
        }
    }

    /// Another number means that the value was made again.
    pub(super) fn version(&self) -> u64 {
        self.times.load(Ordering::SeqCst)
    }

    /// The receiver refused the value, so it is not used again. Returns whether it would have been.
    pub(super) fn refuse(&self) -> bool {
        let kept = !self.kept_for().is_zero();
        self.refused.store(true, Ordering::SeqCst);
        kept
    }

    /// How long the last value may still be used.
    pub(super) fn kept_for(&self) -> Duration {
        self.good().map_or(Duration::ZERO, |last| last.made.keep.saturating_sub(last.age()))
    }

    /// The last value, if nobody refused it.
    fn good(&self) -> Option<Arc<Last>> {
        self.last.load_full().filter(|last| last.made.outcome.is_ok() && !self.refused.load(Ordering::SeqCst))
    }

    /// Begins to make the value, or joins who does, unless the last one may still be used.
    pub(super) fn refresh(self: &Arc<Self>) -> Refreshing {
        let work = self.kept_for().is_zero().then(|| {
            let maker = Arc::clone(self);
            self.recipe.threads().join(&self.id, move || maker.make())
        });
        Refreshing { maker: Arc::clone(self), work }
    }

    fn make(&self) -> Outcome {
        let earlier = self.good.load();
        let made = self.recipe.make(&earlier);
        if let Ok(value) = &made.outcome
            && earlier.first() != Some(value)
        {
            let good = [value].into_iter().chain(earlier.iter()).take(REMEMBERED).cloned();
            self.good.store(Arc::new(good.collect()));
        }
        if let (Err(error), Some(last)) = (&made.outcome, self.good())
            && last.age() < last.made.lasts
        {
            tracing::warn!(
                event = "reference.last_value_used", %error,
                "a value cannot be made anew; the last one has not expired and serves on"
            );
            return last.made.outcome.clone();
        }
        let outcome = made.outcome.clone();
        self.last.store(Some(Arc::new(Last { made, at: SystemClock.boot() })));
        self.refused.store(false, Ordering::SeqCst);
        self.times.fetch_add(1, Ordering::SeqCst);
        outcome
    }
}

impl Refreshing {
    /// Waits for the value.
    pub(super) async fn outcome(self) -> Outcome {
        let Some(work) = self.work else { return self.maker.value() };
        let (limit, too_long) = self.maker.recipe.limit();
        match tokio::time::timeout(limit, work.outcome()).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(too_long.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::aside::Aside;

    static THREADS: Aside = Aside::new("test", 1);
    static WORK: LazyLock<Arc<SharedWork<Outcome>>> = LazyLock::new(|| Arc::new(SharedWork::new(&THREADS)));

    /// Works at first and never again.
    struct Once {
        lasts: Duration,
        times: AtomicUsize,
    }

    impl PartialEq for Once {
        fn eq(&self, _: &Self) -> bool {
            false
        }
    }

    impl Recipe for Once {
        fn make(&self, _: &[Arc<Secret>]) -> Made {
            let outcome = match self.times.fetch_add(1, Ordering::SeqCst) {
                0 => Ok(Arc::new(Secret::from("first"))),
                _ => Err("away".to_owned()),
            };
            Made { outcome, keep: Duration::ZERO, lasts: self.lasts }
        }

        fn threads(&self) -> &'static Arc<SharedWork<Outcome>> {
            &WORK
        }

        fn limit(&self) -> (Duration, &'static str) {
            (Duration::from_secs(20), "too long")
        }

        fn unmakeable(&self) -> Option<String> {
            None
        }
    }

    fn maker(lasts: Duration) -> Arc<Maker<dyn Recipe>> {
        let known = Known::<Once>::default();
        let maker: Arc<Maker<Once>> = Maker::of(Once { lasts, times: AtomicUsize::new(0) }, &known);
        maker
    }

    #[tokio::test]
    async fn a_value_that_lasts_serves_while_no_other_can_be_made_unless_it_was_refused() {
        let lasting = maker(Duration::from_secs(3600));
        assert_eq!(lasting.value(), Err(NOT_MADE.to_owned()));
        for _ in 0..3 {
            assert_eq!(lasting.refresh().outcome().await, Ok(Arc::new(Secret::from("first"))));
        }
        assert!(!lasting.refuse(), "it would have been made anew");
        assert_eq!(lasting.refresh().outcome().await, Err("away".to_owned()));
        assert_eq!(lasting.value(), Err("away".to_owned()));

        let fleeting = maker(Duration::ZERO);
        assert!(fleeting.refresh().outcome().await.is_ok());
        assert_eq!(fleeting.refresh().outcome().await, Err("away".to_owned()));
    }
}
