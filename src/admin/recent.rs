//! What routes did recently, from the counters of [`crate::metrics`]: they are read every ten seconds, outside the request path,
//! and compared with their values at the time of a request to `/status`.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crate::metrics::{Counts, RouteMetrics};
use crate::proxy::Snapshot;

#[expect(clippy::disallowed_types, reason = "taken by the control thread alone, never on the request path")]
type Lock<T> = std::sync::Mutex<T>;

/// How often counters are read.
pub(super) const EVERY: Duration = Duration::from_secs(10);
/// How far back `recent` reaches.
const WINDOW: Duration = Duration::from_secs(60);

/// One point of a route's history.
const STEP: Duration = Duration::from_secs(60);
/// The number of points, including the current one.
const STEPS: u64 = 60;
/// The most routes with a history, in the order of the config. An hour of one route takes 1.5 KiB.
const ROUTES_WITH_HISTORY: usize = 1_000;

/// What a route did in the last hour, oldest first; shorter just after the start.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct History {
    pub(super) points: Vec<Point>,
    /// The length of the last point so far.
    pub(super) last: Duration,
}

impl History {
    pub(super) const STEP: Duration = STEP;
}

/// What a route did in one minute.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Point {
    pub(super) requests: u32,
    pub(super) errors: u32,
    /// In seconds; `None` without requests.
    pub(super) p50: Option<f32>,
    pub(super) p99: Option<f32>,
}

impl Point {
    #[expect(clippy::cast_possible_truncation, reason = "a quantile is at most 10 s, and is drawn")]
    fn of(counts: &Counts) -> Self {
        let number = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        let quantile = |share| counts.quantile(share).map(|seconds| seconds as f32);
        Self {
            requests: number(counts.requests),
            errors: number(counts.errors),
            p50: quantile(0.5),
            p99: quantile(0.99),
        }
    }
}

/// What a route did in the window.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Recent {
    pub(super) window: Duration,
    pub(super) counts: Counts,
}

/// The readings of the last minute.
pub(super) struct Readings(Lock<State>);

struct State {
    /// When the process started, with all counters at zero.
    started: Duration,
    /// When counters were read, oldest first, by the clock that runs in suspend.
    readings: VecDeque<Duration>,
    /// The minute of the last reading, counted from the start.
    minute: u64,
    routes: HashMap<Arc<str>, Track>,
}

/// One route's counters. A route without requests has none.
struct Track {
    /// Kept to recognize a later route of the same name.
    metrics: Arc<RouteMetrics>,
    /// Oldest first. A reading without changes adds none.
    marks: VecDeque<(Duration, Counts)>,
    /// Minutes with requests, by their number, oldest first.
    minutes: VecDeque<(u64, Point)>,
    /// The counters at the start of the current minute.
    at_minute: Counts,
}

impl Readings {
    pub(super) fn new(started: Duration) -> Self {
        Self(Lock::new(State { started, readings: VecDeque::new(), minute: 0, routes: HashMap::new() }))
    }

    /// Reads all counters, unless they were just read: while the admin address moves, two servers run.
    pub(super) fn read(&self, now: Duration, snapshot: &Snapshot) {
        let routes = snapshot.routes.iter().map(|route| (&route.config.name, &route.metrics));
        self.with(|state| state.read(now, routes));
    }

    /// In the order of the snapshot's routes.
    pub(super) fn recent(&self, now: Duration, snapshot: &Snapshot) -> Vec<Recent> {
        self.with(|state| {
            let since = state.begin(now);
            let routes = snapshot.routes.iter();
            routes.map(|route| state.recent(now, since, &route.config.name, &route.metrics)).collect()
        })
    }

    /// In the order of the snapshot's routes, for at most the first of them that have a history.
    pub(super) fn history(&self, now: Duration, snapshot: &Snapshot) -> Vec<History> {
        self.with(|state| {
            let routes = snapshot.routes.iter().take(ROUTES_WITH_HISTORY);
            routes.map(|route| state.history(now, &route.config.name, &route.metrics)).collect()
        })
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl State {
    fn read<'a>(
        &mut self,
        now: Duration,
        routes: impl Iterator<Item = (&'a Arc<str>, &'a Arc<RouteMetrics>)>,
    ) {
        // Timers are a little early or late.
        if self.readings.back().is_some_and(|last| now.saturating_sub(*last) < EVERY / 2) {
            return;
        }
        self.readings.push_back(now);
        let since = self.begin(now);
        while self.readings.front().is_some_and(|first| *first < since) {
            self.readings.pop_front();
        }
        let (ended, minute) = (self.minute, self.minute_of(now));
        self.minute = minute;
        let mut before = std::mem::take(&mut self.routes);
        for (index, (name, metrics)) in routes.enumerate() {
            let counts = metrics.counts();
            let track = before.remove(name).filter(|track| Arc::ptr_eq(&track.metrics, metrics));
            if counts == Counts::default() {
                continue;
            }
            let mut track = track.unwrap_or_else(|| Track::new(metrics));
            track.mark(now, counts, since);
            if ended < minute && index < ROUTES_WITH_HISTORY {
                track.end_minute(ended, counts);
            }
            self.routes.insert(Arc::clone(name), track);
        }
    }

    fn minute_of(&self, now: Duration) -> u64 {
        now.saturating_sub(self.started).as_secs() / STEP.as_secs()
    }

    fn history(&self, now: Duration, name: &str, metrics: &Arc<RouteMetrics>) -> History {
        let track = self.routes.get(name).filter(|track| Arc::ptr_eq(&track.metrics, metrics));
        let (minutes, before) = match track {
            Some(track) => (Some(&track.minutes), track.at_minute),
            None => (None, Counts::default()),
        };
        let under_way = self.minute_of(now);
        let mut known = minutes.into_iter().flatten().peekable();
        let mut points: Vec<Point> = (under_way.saturating_sub(STEPS - 1)..under_way)
            .map(|minute| {
                while known.next_if(|(number, _)| *number < minute).is_some() {}
                known
                    .next_if(|(number, _)| *number == minute)
                    .map_or_else(Point::default, |(_, point)| *point)
            })
            .collect();
        points.push(Point::of(&metrics.counts().since(&before)));
        let began = self.started + STEP * u32::try_from(under_way).unwrap_or(u32::MAX);
        History { points, last: now.saturating_sub(began) }
    }

    /// The oldest reading within the window, else the newest one, else the start.
    fn begin(&self, now: Duration) -> Duration {
        let oldest = now.saturating_sub(WINDOW);
        if self.started >= oldest {
            return self.started;
        }
        let within = self.readings.iter().find(|at| **at >= oldest);
        within.or_else(|| self.readings.back()).copied().unwrap_or(self.started)
    }

    fn recent(&self, now: Duration, since: Duration, name: &str, metrics: &Arc<RouteMetrics>) -> Recent {
        let track = self.routes.get(name).filter(|track| Arc::ptr_eq(&track.metrics, metrics));
        let before = track.map_or_else(Counts::default, |track| track.counts_at(since));
        Recent { window: now.saturating_sub(since), counts: metrics.counts().since(&before) }
    }
}

impl Track {
    fn new(metrics: &Arc<RouteMetrics>) -> Self {
        Self {
            metrics: Arc::clone(metrics),
            marks: VecDeque::new(),
            minutes: VecDeque::new(),
            at_minute: Counts::default(),
        }
    }

    fn end_minute(&mut self, number: u64, counts: Counts) {
        let point = Point::of(&counts.since(&self.at_minute));
        self.at_minute = counts;
        if point.requests > 0 {
            self.minutes.push_back((number, point));
        }
        while self.minutes.front().is_some_and(|(first, _)| first + STEPS <= number) {
            self.minutes.pop_front();
        }
    }

    /// Drops all marks before the window except the last one, which has the values at its start.
    fn mark(&mut self, now: Duration, counts: Counts, since: Duration) {
        if self.marks.back().is_none_or(|(_, last)| *last != counts) {
            self.marks.push_back((now, counts));
        }
        while self.marks.get(1).is_some_and(|(at, _)| *at <= since) {
            self.marks.pop_front();
        }
    }

    /// The values of a moment. Before the first mark, they are zero.
    fn counts_at(&self, at: Duration) -> Counts {
        let mark = self.marks.iter().rev().find(|(read, _)| *read <= at);
        mark.map_or_else(Counts::default, |(_, counts)| *counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One route, read at every ten seconds of a clock that is only a number.
    struct Scene {
        state: State,
        name: Arc<str>,
        metrics: Arc<RouteMetrics>,
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(1_000 + seconds)
    }

    fn scene() -> Scene {
        let state = State { started: at(0), readings: VecDeque::new(), minute: 0, routes: HashMap::new() };
        Scene { state, name: Arc::from("billing"), metrics: Arc::default() }
    }

    impl Scene {
        fn calls(&self, count: usize, status: u16) {
            for _ in 0..count {
                self.metrics.request(status, Duration::from_millis(3));
            }
        }

        fn read(&mut self, seconds: u64) {
            self.state.read(at(seconds), [(&self.name, &self.metrics)].into_iter());
        }

        /// (length of the window, calls, errors)
        fn recent(&self, seconds: u64) -> (u64, u64, u64) {
            let since = self.state.begin(at(seconds));
            let recent = self.state.recent(at(seconds), since, &self.name, &self.metrics);
            (recent.window.as_secs(), recent.counts.requests, recent.counts.errors)
        }
    }

    #[test]
    fn everything_since_the_start_is_recent_at_first() {
        let mut scene = scene();
        scene.calls(3, 200);
        assert_eq!(scene.recent(2), (2, 3, 0), "before any reading");
        scene.read(10);
        scene.calls(2, 503);
        assert_eq!(scene.recent(15), (15, 5, 2));
    }

    #[test]
    fn what_is_older_than_a_minute_is_forgotten() {
        let mut scene = scene();
        for second in (0..=300).step_by(10) {
            scene.read(second);
            scene.calls(10, 200);
        }
        let (window, calls, _) = scene.recent(309);
        assert_eq!((window, calls), (59, 60));
        for second in (310..=400).step_by(10) {
            scene.read(second);
        }
        assert_eq!(scene.recent(405), (55, 0, 0));
        assert_eq!(scene.state.readings.len(), 7);
        assert_eq!(scene.state.routes[&scene.name].marks.len(), 1, "a quiet route keeps one mark");
        scene.calls(4, 200);
        assert_eq!(scene.recent(409), (59, 4, 0));
    }

    #[test]
    fn a_busy_route_keeps_no_more_marks_than_the_window_has_readings() {
        let mut scene = scene();
        for second in (0..=1000).step_by(10) {
            scene.calls(1, 200);
            scene.read(second);
        }
        assert!(scene.state.routes[&scene.name].marks.len() <= 7);
    }

    #[test]
    fn a_route_without_calls_keeps_nothing() {
        let mut scene = scene();
        scene.read(10);
        assert!(scene.state.routes.is_empty());
    }

    #[test]
    fn a_route_that_went_and_came_back_starts_anew() {
        let mut scene = scene();
        scene.calls(5, 500);
        scene.read(10);
        scene.metrics = Arc::default();
        scene.calls(2, 200);
        assert_eq!(scene.recent(12), (12, 2, 0), "before it was read");
        scene.read(20);
        scene.calls(1, 200);
        assert_eq!(scene.recent(75).1, 1, "the two requests of before the window are not counted");
        scene.state.read(at(30), [].into_iter());
        assert!(scene.state.routes.is_empty(), "it is gone");
    }

    #[test]
    fn after_a_suspend_the_last_reading_is_compared_with() {
        let mut scene = scene();
        scene.calls(5, 200);
        scene.read(100);
        scene.calls(1, 200);
        assert_eq!(scene.recent(5_000), (4_900, 1, 0));
        scene.read(5_000);
        assert_eq!(scene.recent(5_001), (1, 0, 0));
    }

    #[test]
    fn two_readers_at_once_are_one() {
        let mut scene = scene();
        scene.read(10);
        scene.read(11);
        assert_eq!(scene.state.readings.len(), 1);
    }

    #[test]
    fn an_hour_is_kept_minute_by_minute_and_no_more() {
        let mut scene = scene();
        scene.read(0);
        let history = |scene: &Scene, seconds: u64| {
            let history = scene.state.history(at(seconds), &scene.name, &scene.metrics);
            history.points.iter().map(|point| (point.requests, point.errors)).collect::<Vec<_>>()
        };
        assert_eq!(history(&scene, 5), [(0, 0)], "the minute under way alone");
        scene.calls(3, 200);
        scene.read(30);
        scene.calls(1, 503);
        scene.read(60);
        scene.calls(2, 200);
        assert_eq!(history(&scene, 65), [(4, 1), (2, 0)]);
        assert_eq!(scene.state.history(at(65), &scene.name, &scene.metrics).last, Duration::from_secs(5));
        (7..=600).for_each(|reading| scene.read(reading * 10));
        let after = history(&scene, 6_005);
        assert_eq!(after.len(), 60);
        assert_eq!(after.iter().map(|(requests, _)| requests).sum::<u32>(), 0, "both are over an hour ago");
        assert_eq!(scene.state.routes[&scene.name].minutes.len(), 0, "nothing is kept of what nobody sees");
        let quantiles = scene.state.history(at(65), "other", &Arc::default()).points[0];
        assert_eq!(quantiles, Point::default());
    }
}
