//! Alert rules, dashboard and the queries of the document, checked by Prometheus' own tool.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::tools::{installed, root, succeed};
use bearerd::metrics::FAMILIES;

fn promtool(args: &[&str], file: &Path) -> String {
    let output = succeed(Command::new(installed("promtool", "prometheus")).args(args).arg(file));
    String::from_utf8(output.stdout).unwrap() + &String::from_utf8_lossy(&output.stderr)
}

fn monitoring(file: &str) -> PathBuf {
    root().join("deploy/monitoring").join(file)
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn scratch(file: &str, text: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("monitoring");
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join(file);
    std::fs::write(&path, text).unwrap();
    path
}

fn alert_names(rules: &str) -> BTreeSet<String> {
    rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).map(str::to_owned).collect()
}

/// Fails where one of these is no PromQL, and says which.
fn parse_all<'a>(file: &str, queries: impl IntoIterator<Item = (&'a str, String)>) -> usize {
    let mut rules = "groups:\n  - name: all\n    rules:\n".to_owned();
    let mut count = 0;
    for (place, query) in queries {
        count += 1;
        let query = Value::from(query);
        writeln!(rules, "      # {place}\n      - {{ record: \"q:{count}\", expr: {query} }}").unwrap();
    }
    promtool(&["check", "rules", "--lint-fatal"], &scratch(file, &rules));
    count
}

/// The metrics that a query names; the ends that a histogram's samples have are cut.
fn names(query: &str) -> BTreeSet<String> {
    let words = query.split(|char: char| !(char.is_ascii_alphanumeric() || char == '_' || char == ':'));
    let families: BTreeMap<&str, &str> =
        FAMILIES.iter().map(|family| (family.name, family.kind.as_str())).collect();
    words
        .filter(|word| word.starts_with("bearerd_") || word.starts_with("process_"))
        .map(|word| {
            let histogram = ["_bucket", "_sum", "_count"].iter().find_map(|end| word.strip_suffix(end));
            let histogram = histogram.filter(|name| families.get(name) == Some(&"histogram"));
            histogram.unwrap_or(word).to_owned()
        })
        .collect()
}

fn assert_known(place: &str, query: &str) {
    let known: BTreeSet<&str> = FAMILIES.iter().map(|family| family.name).collect();
    for name in names(query) {
        assert!(known.contains(name.as_str()), "{place}: there is no metric {name}: {query}");
    }
}

#[test]
#[ignore = "needs promtool"]
fn alert_rules_are_valid() {
    let rules = read(&monitoring("alerts.yaml"));
    let said = promtool(&["check", "rules", "--lint-fatal"], &monitoring("alerts.yaml"));
    let count = alert_names(&rules).len();
    assert!(said.contains(&format!("{count} rules found")), "{said}");
    // Words of prose look like none of these.
    assert_known("alerts.yaml", &rules.replace('`', " "));
}

/// For the Prometheus operator: `BLESS=1` writes it.
#[test]
fn the_operators_rule_has_the_same_alerts() {
    let rules = read(&monitoring("alerts.yaml"));
    let groups = &rules[rules.find("groups:\n").unwrap()..];
    let indented: String = groups
        .lines()
        .map(|line| if line.is_empty() { "\n".to_owned() } else { format!("  {line}\n") })
        .collect();
    let file = monitoring("prometheus-rule.yaml");
    let found = read(&file);
    let head = &found[..found.find("  groups:\n").unwrap()];
    let wanted = format!("{head}{indented}");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&file, wanted).unwrap();
    } else {
        assert_eq!(found, wanted, "`BLESS=1 cargo test --test deploy` writes it");
    }
}

#[test]
#[ignore = "needs promtool"]
fn each_alert_fires_when_it_should_and_not_in_health() {
    promtool(&["test", "rules"], &monitoring("alerts.test.yaml"));
    let tests = read(&monitoring("alerts.test.yaml"));
    for name in alert_names(&read(&monitoring("alerts.yaml"))) {
        let wanted = format!("labels: '{{alertname=\"{name}\"}}'");
        assert!(tests.contains(&wanted), "alerts.test.yaml does not expect {name}");
    }
}

#[test]
fn each_alert_says_what_to_do_and_has_its_section() {
    let rules = read(&monitoring("alerts.yaml"));
    let document = read(&root().join("docs/metrics.md"));
    let sections: Vec<&str> = document.split("\n### ").skip(1).collect();
    let mut documented = BTreeSet::new();
    for section in sections {
        let (name, text) = section.split_once('\n').unwrap();
        assert!(text.contains("\nWhat to do: "), "{name} does not say what to do");
        documented.insert(name.to_owned());
    }
    let alerts = alert_names(&rules);
    assert_eq!(documented, alerts);
    for rule in rules.split("- alert: ").skip(1) {
        let name = rule.lines().next().unwrap();
        let anchor = format!("runbook_url: docs/metrics.md#{}\n", name.to_lowercase());
        for part in ["expr: ", "for: ", "severity: ", "summary: ", "description: ", "Next:", &anchor] {
            assert!(rule.contains(part), "{name} lacks {part}");
        }
        let (severity, after) = (field(rule, "severity: "), field(rule, "for: "));
        let after = if after == "0m" { "at once".to_owned() } else { format!("after {after}") };
        let told = format!("### {name}\n\n({severity}, {after})");
        assert!(document.contains(&told), "docs/metrics.md does not say: {told}");
        assert!(["critical", "warning", "info"].contains(&severity.as_str()), "{name}: {severity}");
    }
}

fn field(rule: &str, name: &str) -> String {
    rule.split_once(name).unwrap().1.lines().next().unwrap().to_owned()
}

fn blocks<'a>(document: &'a str, language: &str) -> Vec<&'a str> {
    let start = format!("```{language}\n");
    document.split(start.as_str()).skip(1).filter_map(|rest| rest.split("```").next()).collect()
}

#[test]
#[ignore = "needs promtool"]
fn queries_of_the_document_are_promql_over_metrics_that_exist() {
    let document = read(&root().join("docs/metrics.md"));
    let mut queries = Vec::new();
    for block in blocks(&document, "promql") {
        for paragraph in block.split("\n\n") {
            let lines = paragraph.lines().filter(|line| !line.starts_with('#'));
            queries.push(("docs/metrics.md", lines.collect::<Vec<_>>().join("\n")));
        }
    }
    for (place, query) in &queries {
        assert_known(place, query);
    }
    assert!(parse_all("document.yaml", queries) >= 5);
}

#[test]
#[ignore = "needs promtool"]
fn the_scrape_config_of_the_document_is_valid() {
    let document = read(&root().join("docs/metrics.md"));
    let configs = blocks(&document, "yaml");
    let config = configs.iter().find(|block| block.contains("scrape_configs:")).unwrap();
    scratch("alerts.yaml", &read(&monitoring("alerts.yaml")));
    let said = promtool(&["check", "config"], &scratch("prometheus.yaml", config));
    assert!(said.contains("1 rule files found") && said.contains("SUCCESS"), "{said}");
}

fn dashboard() -> Value {
    serde_json::from_str(&read(&monitoring("dashboard.json"))).expect("the dashboard is JSON")
}

/// As Grafana fills them in.
fn filled(query: &str) -> String {
    ["$job", "$instance", "$route", "$issuer"]
        .iter()
        .fold(query.replace("$__rate_interval", "1m"), |query, variable| query.replace(variable, ".*"))
}

#[test]
#[ignore = "needs promtool"]
fn each_panel_asks_promql_over_metrics_that_exist() {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut queries = Vec::new();
    let mut shown = String::new();
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        let title = panel["title"].as_str().unwrap();
        for text in [title, panel["description"].as_str().unwrap()] {
            assert!(!text.is_empty(), "{panel}");
        }
        assert!(panel["fieldConfig"]["defaults"]["unit"].is_string(), "{title} has no unit");
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        for target in panel["targets"].as_array().unwrap() {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
            let query = filled(target["expr"].as_str().unwrap());
            assert!(!query.contains('$'), "{title}: an unknown variable: {query}");
            assert_known(title, &query);
            shown += &format!("{query}\n");
            queries.push((title, query));
        }
    }
    assert!(parse_all("dashboard.yaml", queries) >= 25);
    // Not shown: what is only read from labels, and what nobody would look at over time.
    let left_out = ["process_virtual_memory_bytes"];
    let shown = names(&shown);
    for family in FAMILIES.iter().filter(|family| !left_out.contains(&family.name)) {
        assert!(shown.contains(family.name), "no panel shows {}", family.name);
    }
}

#[test]
fn the_dashboard_can_be_imported_anywhere() {
    let dashboard = dashboard();
    assert!(dashboard["schemaVersion"].as_u64().unwrap() >= 39);
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let named: Vec<&str> = variables.iter().map(|variable| variable["name"].as_str().unwrap()).collect();
    assert_eq!(named, ["datasource", "job", "instance", "route", "issuer"]);
    for variable in &variables[1..] {
        assert_known("a variable", variable["query"]["query"].as_str().unwrap());
    }
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<u64> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len(), "ids are unique");
    let places: Vec<[u64; 4]> = panels
        .iter()
        .map(|panel| ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().unwrap()))
        .collect();
    for (index, [x, y, w, h]) in places.iter().enumerate() {
        assert!(x + w <= 24, "{}", panels[index]["title"]);
        let over = places[..index]
            .iter()
            .position(|[x2, y2, w2, h2]| x < &(x2 + w2) && x2 < &(x + w) && y < &(y2 + h2) && y2 < &(y + h));
        assert_eq!(over, None, "{} lies over another panel", panels[index]["title"]);
    }
}
