//! HTTP/1.1: Python's `http.client`.

use super::program::{Need, Program, skipped};
use super::twenty::{UPGRADES, encrypted, plain, upgrades};

/// Busy ones, ones that come and go, and sixty that rest for up to 600 ms between two requests.
const CLIENTS: &[&str] = &["--keep", "4", "--churn", "4", "--idle", "60"];

#[test]
fn twenty_upgrades_under_plain_connections_busy_and_at_rest() {
    if skipped(&[Need::Python("ssl")]) {
        return;
    }
    let exuvia = plain("");
    let client = Program::client("http1_client.py", exuvia.address(), CLIENTS);
    let summary = upgrades(exuvia, client, 100);
    // Each upgrade was heard of.
    assert!(summary["told"].as_u64().unwrap() >= UPGRADES, "{summary}");
}

#[test]
fn twenty_upgrades_under_tls_connections_busy_and_at_rest() {
    if skipped(&[Need::Python("ssl")]) {
        return;
    }
    let (exuvia, certificate) = encrypted("");
    let arguments = [CLIENTS, &["--ca", certificate.authority()]].concat();
    let client = Program::client("http1_client.py", exuvia.address(), &arguments);
    let summary = upgrades(exuvia, client, 100);
    assert!(summary["told"].as_u64().unwrap() >= UPGRADES, "{summary}");
}
