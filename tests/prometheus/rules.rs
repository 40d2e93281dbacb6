//! The configuration and the alerts of `docker/`: as promtool sees them, and as Prometheus evaluates them.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::server::Prometheus;
use super::tool::promtool;
use super::{NEEDS, skipped};

/// What the run gives cause for: a new process that dies, and processes that die with connections.
const MUST_COME: &[&str] = &["ExuviaUpgradeFailed", "ExuviaCrashed"];
/// What it gives no cause for.
const MUST_NOT_COME: &[&str] =
    &["ExuviaCannotAccept", "ExuviaConnectionsDropped", "ExuviaDown", "ExuviaRolledBack"];

/// A file of `docker/`.
pub fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docker").join(name)
}

#[test]
fn promtool_finds_nothing_wrong_with_them() {
    if skipped(NEEDS) {
        return;
    }
    for (arguments, name) in [
        (["check", "config"], "prometheus.yml"),
        (["check", "rules"], "alerts.yml"),
        (["test", "rules"], "alerts_test.yml"),
    ] {
        promtool(&[&arguments[..], &[file(name).to_str().unwrap()]].concat(), "");
    }
}

#[test]
fn each_alert_is_tested() {
    let tests = fs::read_to_string(file("alerts_test.yml")).unwrap();
    let alerts = fs::read_to_string(file("alerts.yml")).unwrap();
    let names: Vec<&str> = alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(names.len() > 5, "{names:?}");
    for name in names {
        let here = format!("alertname: {name}\n");
        let expected = tests.split(&*here).skip(1);
        let comes = |behind: &str| behind.trim_start().starts_with("exp_alerts:");
        let (must, must_not): (Vec<&str>, Vec<&str>) = expected.partition(|behind| comes(behind));
        assert!(!must.is_empty() && !must_not.is_empty(), "{name} is not tested both ways");
    }
}

/// Every alert could be evaluated, and those came for which there was a cause.
#[track_caller]
pub fn were_evaluated(prometheus: &Prometheus) {
    let groups = prometheus.ask("rules", &[]).unwrap();
    let groups = groups["groups"].as_array().unwrap();
    let rules: Vec<&Value> = groups.iter().flat_map(|group| group["rules"].as_array().unwrap()).collect();
    assert!(rules.len() > 5, "{rules:?}");
    for rule in rules {
        assert_eq!(rule["health"], "ok", "{rule}");
    }
    let came = prometheus.query("count by (alertname) (count_over_time(ALERTS{alertstate=\"firing\"}[10m]))");
    let came: Vec<&str> = came.0.iter().map(|sample| sample.labels["alertname"].as_str()).collect();
    for name in MUST_COME {
        assert!(came.contains(name), "{name} has not come, but {came:?}");
    }
    for name in MUST_NOT_COME {
        assert!(!came.contains(name), "{name} has come without a cause");
    }
}
