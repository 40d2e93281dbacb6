//! `docs/metrics.md` and the code say the same of every metric: its name, its type and its labels.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by a panic")]
#![allow(unreachable_pub, reason = "a test has no API: `pub` is for its other files")]

#[allow(dead_code, reason = "shared with tests/process.rs")]
#[path = "process/harness.rs"]
mod harness;
#[allow(dead_code, reason = "shared with tests/prometheus.rs")]
#[path = "prometheus/samples.rs"]
mod samples;
#[allow(dead_code, reason = "shared with tests/process.rs")]
#[path = "process/traffic.rs"]
mod traffic;

use std::collections::{BTreeMap, BTreeSet};

use exuvia::metrics::Source;
use exuvia::{app, metrics};

use harness::{Exuvia, eventually};
use samples::Samples;
use traffic::{Client, get};

const PAGE: &str = include_str!("../docs/metrics.md");

/// What stands behind the name of a histogram in that of a series of it.
const PARTS: [&str; 3] = ["_bucket", "_count", "_sum"];

/// What the page says of a metric.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    kind: String,
    labels: BTreeSet<String>,
}

/// The rows of its tables, by name.
fn rows() -> BTreeMap<String, Row> {
    let mut rows = BTreeMap::new();
    for line in PAGE.lines().filter(|line| line.starts_with("| `exuvia_")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [name, kind, labels, what] = *cells else { panic!("not four cells: {line}") };
        assert!(what.ends_with('.'), "{line}");
        let labels = labels.split(", ").filter(|label| !label.is_empty());
        let row = Row {
            kind: kind.to_owned(),
            labels: labels.map(|label| label.trim_matches('`').to_owned()).collect(),
        };
        assert!(rows.insert(name.trim_matches('`').to_owned(), row).is_none(), "twice: {line}");
    }
    rows
}

/// The types of all metrics by name, from the tables in the code.
fn families() -> BTreeMap<String, &'static str> {
    let counted = app::families().map(|family| {
        let kind = match family.source {
            Source::Counter(..) => "counter",
            Source::Histogram(..) => "histogram",
            _ => "gauge",
        };
        (family.name, kind)
    });
    let of_processes = metrics::PROCESSES.iter().map(|(name, _)| {
        let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
        (*name, kind)
    });
    counted.chain(of_processes).map(|(name, kind)| (format!("exuvia_{name}"), kind)).collect()
}

#[test]
fn the_page_names_every_metric_and_none_more() {
    let (rows, families) = (rows(), families());
    let undescribed: Vec<_> = families.keys().filter(|name| !rows.contains_key(*name)).collect();
    assert!(undescribed.is_empty(), "docs/metrics.md has no row for {undescribed:?}");
    for (name, row) in &rows {
        assert_eq!(families.get(name).copied(), Some(&*row.kind), "{name}");
    }
    // In the text and the examples, too.
    let words = PAGE.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    for word in words.filter(|word| word.starts_with("exuvia_")) {
        let of_histogram = PARTS.iter().filter_map(|part| word.strip_suffix(part));
        let known = rows.contains_key(word)
            || of_histogram.into_iter().any(|name| rows.get(name).is_some_and(|row| row.kind == "histogram"));
        assert!(known, "docs/metrics.md names {word}, which there is not");
    }
}

#[test]
fn the_page_names_the_labels_that_there_are() {
    let exuvia = Exuvia::start("[restart]\nprobation = \"0s\"\n[admin]\naddress = \"127.0.0.1:0\"\n");
    let admin = exuvia.status()["admin"].as_str().unwrap().parse().unwrap();
    // Some are there only while a generation drains.
    let mut client = Client::connect(exuvia.address()).unwrap();
    client.ask("/slow?ms=60000").unwrap();
    eventually("the request is in flight", || {
        (exuvia.status()["generations"][0]["connections"][0]["active"] == 1).then_some(())
    });
    exuvia.upgrade();
    let mut seen: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let (rows, page) = (rows(), String::from_utf8(get(admin, "/metrics").unwrap().body).unwrap());
    for sample in Samples::of_page(&page).0 {
        let family = PARTS.iter().filter_map(|part| sample.name.strip_suffix(part));
        let family = family.into_iter().find(|name| rows.contains_key(*name)).unwrap_or(&sample.name);
        // Not every series must have all of them.
        let labels = sample.labels.into_keys().filter(|label| label != "le");
        seen.entry(family.to_owned()).or_default().extend(labels);
    }
    for (family, labels) in &seen {
        let row = rows.get(family).unwrap_or_else(|| panic!("docs/metrics.md has no row for {family}"));
        assert_eq!(*labels, row.labels, "{family}");
    }
    let unseen: Vec<_> = rows.keys().filter(|name| !seen.contains_key(*name)).collect();
    assert!(unseen.is_empty(), "the page of exuvia has no {unseen:?}");
    drop(client);
    assert_eq!(exuvia.stop(), 0);
}
