//! The window against one that keeps everything.

use std::time::Duration;

use proptest::prelude::*;

use super::Window;
use crate::config::Budget;
use crate::store::engine::Spent;

#[derive(Debug, Clone)]
enum Step {
    Pass(u64),
    Spend,
    GiveBackLast,
    Change(Budget),
}

fn budget() -> impl Strategy<Value = Budget> {
    (1..6u32, 1..5u64).prop_map(|(requests, per)| Budget { requests, per: Duration::from_secs(per) })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0..2_000_000u64).prop_map(Step::Pass),
        4 => Just(Step::Spend),
        1 => Just(Step::GiveBackLast),
        1 => budget().prop_map(Step::Change),
    ]
}

/// Every request that was ever taken. The longest span that was in use hides no request of a longer one.
#[derive(Default)]
struct Naive {
    taken: Vec<u64>,
}

impl Naive {
    fn within(&self, now: u64, per: Duration) -> usize {
        let per = u64::try_from(per.as_micros()).unwrap();
        self.taken.iter().filter(|at| now - **at < per).count()
    }

    fn expected(&self, now: u64, budget: Budget) -> Spent {
        let most = budget.requests as usize;
        let remaining = most.saturating_sub(self.within(now, budget.per));
        // The first microsecond with room, found by trying the moments at which a request leaves the window.
        let per = u64::try_from(budget.per.as_micros()).unwrap();
        let mut moments: Vec<u64> = self.taken.iter().map(|at| at + per).filter(|at| *at >= now).collect();
        moments.push(now);
        moments.sort_unstable();
        let next = moments.into_iter().find(|at| self.within(*at, budget.per) < most).unwrap();
        Spent {
            allowed: remaining > 0,
            remaining: u32::try_from(remaining).unwrap(),
            next: Duration::from_micros(next - now),
        }
    }
}

proptest! {
    #[test]
    fn the_window_counts_as_one_that_forgets_nothing(first in budget(), steps in proptest::collection::vec(step(), 1..80)) {
        let (mut window, mut naive, mut now, mut budget) = (Window::default(), Naive::default(), 1_000_000, first);
        let mut shortest = budget.per;
        for step in steps {
            match step {
                Step::Pass(by) => now += by,
                Step::Change(other) => {
                    budget = other;
                    shortest = shortest.min(budget.per);
                    // What left a shorter window is forgotten for good.
                    let kept = u64::try_from(shortest.as_micros()).unwrap();
                    naive.taken.retain(|at| now - at < kept);
                    window.balance(now, Budget { per: shortest, ..budget });
                }
                Step::GiveBackLast => {
                    if let Some(at) = naive.taken.pop() {
                        window.give_back(at);
                    }
                }
                Step::Spend => {
                    let expected = naive.expected(now, budget);
                    let spent = window.spend(now, budget);
                    prop_assert_eq!(spent.allowed, expected.allowed);
                    if spent.allowed {
                        naive.taken.push(now);
                    } else {
                        prop_assert_eq!(spent, expected);
                        prop_assert!(!spent.next.is_zero());
                    }
                }
            }
            prop_assert_eq!(window.balance(now, budget), naive.expected(now, budget));
        }
    }
}

/// A store's wall clock may go back; what seems to be of the future must not stay for ever.
#[test]
fn a_clock_that_goes_back_keeps_nothing_for_ever() {
    let budget = Budget { requests: 1, per: Duration::from_secs(1) };
    let mut window = Window::default();
    assert!(window.spend(1_000_000_000, budget).allowed);
    assert!(window.spend(5_000_000, budget).allowed);
    assert!(!window.spend(5_500_000, budget).allowed);
}
