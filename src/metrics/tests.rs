use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::UNIX_EPOCH;

use proptest::prelude::*;

use super::*;

fn name(text: &str) -> Arc<str> {
    Arc::from(text)
}

fn filled() -> Metrics {
    let metrics = Metrics::default();
    metrics.unrouted().request(404, Duration::from_micros(250));
    let route = metrics.route(&name("billing"));
    route.request(200, Duration::from_millis(2));
    route.request(200, Duration::from_millis(20));
    route.request(502, Duration::from_secs(12));
    route.upstream(Duration::from_millis(1));
    route.failed("token_refused");
    route.refresh_forced();
    route.upstream_connected();
    route.upstream_connected();
    route.upstream_disconnected();
    let issuer = metrics.issuer(&name("corp"));
    issuer.token_request("ok", Some(Duration::from_millis(100)));
    issuer.token_request("client_refused", Some(Duration::from_millis(100)));
    issuer.waiting();
    metrics.listener(&name("main")).connected();
    metrics.listener(&name("main")).refused("syntax");
    metrics.listener(&name("main")).connect("served");
    metrics.admin().refused("http2");
    metrics.config_reload(true);
    metrics.config_reload(false);
    metrics.spans_lost(2);
    metrics.store().operation("claim", "hit", Some(Duration::from_millis(2)));
    metrics
}

fn extra() -> Extra {
    let at = UNIX_EPOCH + Duration::from_millis(1_800_000_000_900);
    let (issuer, route) = (name("corp"), name("billing"));
    Extra {
        token_expiries: vec![TokenExpiry { issuer: Arc::clone(&issuer), route: Arc::clone(&route), at }],
        log_lines_dropped: 3,
        token_budgets: vec![TokenBudget { issuer: Arc::clone(&issuer), remaining: 7, limit: 1000 }],
        store_up: Some(true),
        running: Running {
            ready: true,
            loaded_at: Some(at),
            started_at: Some(at),
            most_connections: 10_000,
            token_failures: vec![TokenFailures { issuer, route, in_a_row: 2 }],
            certificates: vec![CertificateExpiry {
                kind: "issuer",
                name: name("corp"),
                key: "certificate",
                at,
            }],
            process: ProcessStats {
                cpu: Duration::from_millis(1500),
                resident: Some(8 << 20),
                virtual_memory: Some(1 << 30),
                open_files: Some(12),
                most_files: None,
            },
        },
    }
}

/// The build's version, so that a release does not break the golden texts.
fn golden(text: &str) -> String {
    text.replace("VERSION", env!("CARGO_PKG_VERSION"))
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the project's own file, in a test")]
fn the_text_format_is_as_the_golden_file() {
    let rendered = filled().render(Exposition::Text, extra());
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/metrics/golden.txt");
    if is_blessed() {
        std::fs::write(path, rendered.replace(env!("CARGO_PKG_VERSION"), "VERSION")).unwrap();
    }
    let wanted = golden(&std::fs::read_to_string(path).unwrap());
    for (line, wanted) in rendered.lines().zip(wanted.lines()) {
        assert_eq!(line, wanted);
    }
    assert_eq!(rendered.len(), wanted.len());
}

#[test]
fn openmetrics_differs_in_the_headers_of_counters_and_its_end() {
    let plain = filled().render(Exposition::Text, extra());
    let open = filled().render(Exposition::OpenMetrics, extra());
    let body = open.strip_suffix("# EOF\n").expect("ends with EOF");
    let comment = |line: &&str| line.starts_with('#');
    let samples =
        |text: &str| text.lines().filter(|line| !comment(line)).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(samples(&plain), samples(body));
    assert!(body.contains("# TYPE bearerd_requests counter\n"));
    assert!(plain.contains("# TYPE bearerd_requests_total counter\n"));
}

#[test]
fn a_scraper_that_names_openmetrics_gets_it() {
    let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2";
    assert_eq!(Exposition::for_accept(Some(prometheus)), Exposition::OpenMetrics);
    for text in [
        "*/*",
        "application/openmetrics-text;q=0",
        "application/openmetrics-text; version=2.0.0",
        "text/plain, application/openmetrics-text;version=1.0.0;q=0.000",
    ] {
        assert_eq!(Exposition::for_accept(Some(text)), Exposition::Text, "{text}");
    }
    for open in
        ["Application/OpenMetrics-Text", "application/openmetrics-text; version=\"0.0.1\"; q=0.1, */*"]
    {
        assert_eq!(Exposition::for_accept(Some(open)), Exposition::OpenMetrics, "{open}");
    }
    assert_eq!(Exposition::for_accept(None), Exposition::Text);
}

#[test]
fn one_name_is_one_series() {
    let metrics = Metrics::default();
    metrics.route(&name("a")).request(200, Duration::ZERO);
    metrics.route(&name("a")).request(200, Duration::ZERO);
    assert_eq!(metrics.route(&name("a")).requests(), 2);
    metrics.routes.retain(&["b"].into());
    assert_eq!(metrics.route(&name("a")).requests(), 0);
}

#[test]
fn a_label_cannot_break_out() {
    let metrics = Metrics::default();
    metrics.route(&name("a\"} 1\nfake{x=\"")).refresh_forced();
    let text = metrics.render(Exposition::Text, Extra::default());
    assert!(text.contains(r#"bearerd_refreshes_forced_total{route="a\"} 1\nfake{x=\""} 1"#), "{text}");
}

fn is_blessed() -> bool {
    std::env::var_os("BLESS").is_some()
}

/// `docs/metrics.md` with its table made anew.
fn documented(document: &str) -> String {
    let (before, rest) = document.split_once("<!-- table -->\n").expect("the table's first mark");
    let (_, after) = rest.split_once("<!-- end -->\n").expect("the table's last mark");
    let mut table =
        "| name | type | labels | unit | meaning | alert when |\n|---|---|---|---|---|---|\n".to_owned();
    for family in FAMILIES {
        let Family { name, kind, unit, help, more, alert, .. } = family;
        let labels: Vec<String> = family.labels.iter().map(|label| format!("`{label}`")).collect();
        let cells = [
            format!("`{name}`"),
            kind.as_str().to_owned(),
            labels.join(", "),
            (*unit).to_owned(),
            format!("{help}{more}"),
            (*alert).to_owned(),
        ];
        table.push_str(&format!("| {} |\n", cells.join(" | ")));
    }
    format!("{before}<!-- table -->\n{table}<!-- end -->\n{after}")
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the project's own file, in a test")]
fn the_table_in_docs_is_that_of_the_families() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");
    if is_blessed() {
        std::fs::write(path, documented(&std::fs::read_to_string(path).unwrap())).unwrap();
    }
    let found = std::fs::read_to_string(path).unwrap();
    assert_eq!(
        found,
        documented(&found),
        "docs/metrics.md is not as the families: run this test with BLESS=1"
    );
}

#[test]
fn a_family_has_samples_and_the_unit_that_its_name_says() {
    let rendered = filled().render(Exposition::Text, extra());
    let units = [
        ("_timestamp_seconds", "Unix time"),
        ("_start_time_seconds", "Unix time"),
        ("_seconds", "seconds"),
        ("_bytes", "bytes"),
    ];
    for family in FAMILIES {
        let base = family.name.trim_end_matches("_total");
        match units.iter().find(|(end, _)| base.ends_with(end)) {
            Some((_, wanted)) => assert_eq!(family.unit, *wanted, "{}", family.name),
            None => assert!(!["seconds", "bytes", "Unix time", ""].contains(&family.unit), "{}", family.name),
        }
        assert_eq!(family.kind == Kind::Counter, base != family.name, "{}", family.name);
        assert!(rendered.contains(&format!("# TYPE {} {}\n", family.name, family.kind.as_str())));
        let sample =
            |line: &str| line.strip_prefix(family.name).is_some_and(|rest| rest.starts_with(['{', ' ', '_']));
        // The fixture has no limit of open files.
        let wanted = family.name != "process_max_fds";
        assert_eq!(rendered.lines().any(sample), wanted, "{}", family.name);
    }
    assert_eq!(rendered.matches("# TYPE ").count(), FAMILIES.len());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Whatever four threads count at once, nothing is lost and nothing is counted twice.
    #[test]
    fn counts_add_up(calls in proptest::collection::vec((100u16..140, 0u64..12_000), 1..200)) {
        let metrics = Metrics::default();
        let route = name("r");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let handle = metrics.route(&route);
                    for (status, millis) in &calls {
                        handle.request(*status, Duration::from_millis(*millis));
                        handle.upstream_connected();
                        handle.upstream_disconnected();
                    }
                });
            }
        });
        let handle = metrics.route(&route);
        prop_assert_eq!(handle.requests(), 4 * calls.len() as u64);
        prop_assert_eq!(handle.upstream_connections(), 0);
        let observed = handle.duration();
        prop_assert_eq!(observed.count, 4 * calls.len() as u64);
        let millis: u64 = calls.iter().map(|(_, millis)| 4 * millis).sum();
        prop_assert!((observed.sum - Duration::from_millis(millis).as_secs_f64()).abs() < 1e-6);

        let mut wanted: BTreeMap<String, u64> = BTreeMap::new();
        for (status, _) in &calls {
            *wanted.entry(status.to_string()).or_default() += 4;
        }
        let counted: BTreeMap<String, u64> = handle.statuses().into_iter().collect();
        let exact = counted.iter().filter(|(status, _)| !status.ends_with('x'));
        for (status, count) in exact {
            prop_assert_eq!(wanted.get(status), Some(count));
        }
    }
}

#[test]
fn the_two_lists_of_bounds_agree() {
    for (seconds, nanos) in BOUNDS.iter().zip(BOUNDS_NANOS) {
        assert_eq!(Duration::from_secs_f64(*seconds), Duration::from_nanos(nanos));
    }
}

#[test]
fn a_bound_belongs_to_its_bucket() {
    let histogram = Histogram::default();
    histogram.observe(Duration::from_millis(1));
    histogram.observe(Duration::from_nanos(1_000_001));
    histogram.observe(Duration::from_secs(11));
    let observed = Histogram::sum([&histogram].into_iter());
    assert_eq!(observed.count, 3);
    let counts: Vec<u64> = observed.buckets.iter().map(|(_, count)| *count).collect();
    assert_eq!(counts, [1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
}

#[test]
fn each_worker_has_its_own_and_others_share_the_first() {
    let counters: PerWorker<AtomicU64> = PerWorker::new(3);
    std::thread::scope(|threads| {
        for worker in [1, 2, 2, 7] {
            let counters = &counters;
            threads.spawn(move || {
                this_thread_is_worker(worker);
                counters.own().unwrap().fetch_add(1, Ordering::Relaxed);
            });
        }
    });
    let all: Vec<u64> = counters.all().map(|count| count.load(Ordering::Relaxed)).collect();
    assert_eq!(all, [1, 1, 2]);
    assert_eq!(PerWorker::<AtomicU64>::new(0).all().count(), 1);
}
