//! The dashboard of `docker/`: each of its queries is asked of a Prometheus that has seen a whole run.

use std::fs;
use std::path::Path;
use std::time::SystemTime;

use serde_json::Value;

use super::queries::{Query, give_something};
use super::server::{JOB, Prometheus};

/// What the dashboard shows and exuvia does not export yet. Once it does, the test fails until the name is off this
/// list, and from then on asks the queries for it.
const NOT_THERE_YET: &[&str] = &[
    "exuvia_requests_refused_total",
    "exuvia_tls_handshake_failures_total",
    "exuvia_tls_handshakes_total",
    "exuvia_upstream_connect_duration_seconds",
    "exuvia_upstream_connect_failures_total",
    "exuvia_upstream_connections_open",
    "exuvia_upstream_connections_total",
    "exuvia_upstream_requests_total",
    "exuvia_upstream_response_duration_seconds",
    "exuvia_upstream_responses_total",
    "exuvia_upstream_retries_total",
    "exuvia_worker_lag_seconds",
];

/// What is exported only where something of it has happened, and nothing of it happens in the run.
const NOT_IN_THE_RUN: &[&str] = &[];

/// What Grafana puts in the place of its variables.
const VARIABLES: &[(&str, &str)] = &[
    ("$__rate_interval", "10s"),
    ("$__interval", "10s"),
    ("$__range", "5m"),
    ("$job", JOB),
    ("$instance", ".+"),
];

/// The groups of panels, in order.
const ROWS: [&str; 8] = [
    "At a glance",
    "Traffic",
    "Errors",
    "Latency",
    "Connections",
    "Generations and upgrades",
    "Upstream",
    "Process",
];

fn dashboard() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docker/dashboards/exuvia.json");
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn list<'v>(value: &'v Value, what: &str) -> &'v [Value] {
    value[what].as_array().unwrap_or_else(|| panic!("no {what} in {value}"))
}

fn text<'v>(value: &'v Value, what: &str) -> &'v str {
    value[what].as_str().unwrap_or_else(|| panic!("no {what} in {value}"))
}

/// Those of the panels and of the annotations, with the variables replaced.
fn queries() -> Vec<Query> {
    let dashboard = dashboard();
    let mut found = Vec::new();
    let mut add = |place: &str, query: &str| {
        let replaced =
            VARIABLES.iter().fold(query.to_owned(), |text, (name, value)| text.replace(name, value));
        assert!(!replaced.contains('$'), "{place}: a variable that the test does not know: {replaced}");
        found.push(Query { place: place.to_owned(), text: replaced });
    };
    for panel in list(&dashboard, "panels").iter().filter(|panel| panel["type"] != "row") {
        let title = text(panel, "title");
        assert!(!list(panel, "targets").is_empty(), "{title} shows nothing");
        list(panel, "targets").iter().for_each(|target| add(title, text(target, "expr")));
    }
    for annotation in list(&dashboard["annotations"], "list") {
        add(text(annotation, "name"), text(annotation, "expr"));
    }
    for variable in list(&dashboard["templating"], "list").iter().filter(|one| one["type"] == "query") {
        // label_values(SERIES, LABEL)
        let query = text(&variable["query"], "query");
        let within = query.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')'));
        let (series, label) = within.and_then(|within| within.rsplit_once(", ")).unwrap();
        add(text(variable, "name"), &format!("count by ({label}) ({series})"));
    }
    found
}

fn names(list: &[&str], query: &str) -> bool {
    list.iter().any(|name| query.contains(name))
}

/// Each query gives something, over a run in which there was something of everything.
#[track_caller]
pub fn shows_something_everywhere(prometheus: &Prometheus, begun: SystemTime) {
    for name in NOT_THERE_YET {
        let there = prometheus.query(&format!("{{__name__=~\"{name}(_bucket)?\"}}"));
        assert!(there.0.is_empty(), "{name} is there now: it is to be taken off the list");
    }
    let mut queries = queries();
    queries.retain(|query| !names(NOT_THERE_YET, &query.text) && !names(NOT_IN_THE_RUN, &query.text));
    give_something(prometheus, begun, &queries);
}

#[test]
fn the_dashboard_is_whole() {
    let dashboard = dashboard();
    let panels = list(&dashboard, "panels");
    let rows: Vec<&str> =
        panels.iter().filter(|panel| panel["type"] == "row").map(|panel| text(panel, "title")).collect();
    assert_eq!(rows, ROWS);
    let mut taken: Vec<(u64, u64)> = Vec::new();
    for panel in panels {
        let at = |what: &str| panel["gridPos"][what].as_u64().unwrap();
        assert!(at("x") + at("w") <= 24, "{panel}");
        for x in at("x")..at("x") + at("w") {
            for y in at("y")..at("y") + at("h") {
                assert!(!taken.contains(&(x, y)), "{} lies on another panel", text(panel, "title"));
                taken.push((x, y));
            }
        }
    }
    let mut ids: Vec<u64> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), panels.len());
    // Whatever is coming has its place already.
    let queries = queries();
    for name in NOT_THERE_YET {
        assert!(queries.iter().any(|query| query.text.contains(name)), "no panel shows {name}");
    }
}
