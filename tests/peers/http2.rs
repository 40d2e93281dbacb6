//! HTTP/2 by the Python library `h2`, obedient to every GOAWAY.

use serde_json::Value;

use super::program::{Need, Program, skipped};
use super::twenty::{UPGRADES, encrypted, plain, upgrades};

/// Busy connections of eight streams each, and ones that rest for up to 600 ms between two requests.
const CLIENTS: &[&str] = &["--connections", "4", "--streams", "8", "--idle", "30"];

/// Each upgrade was heard of by two GOAWAYs on each connection: one that stops, one that says where.
#[track_caller]
fn was_told(summary: &Value) {
    let number = |what: &str| summary[what].as_u64().unwrap_or_default();
    assert!(number("goaways") >= 2 * UPGRADES, "{summary}");
    // The first GOAWAY takes all streams on their way, so that nothing has to be asked for again.
    assert_eq!(number("again"), 0, "{summary}");
}

#[test]
fn twenty_upgrades_under_streams_over_tls() {
    if skipped(&[Need::Python("h2")]) {
        return;
    }
    let (exuvia, certificate) = encrypted("");
    let arguments = [CLIENTS, &["--ca", certificate.authority()]].concat();
    let client = Program::client("http2_client.py", exuvia.address(), &arguments);
    was_told(&upgrades(exuvia, client, 100));
}

#[test]
fn twenty_upgrades_under_streams_with_prior_knowledge() {
    if skipped(&[Need::Python("h2")]) {
        return;
    }
    let exuvia = plain("");
    let client = Program::client("http2_client.py", exuvia.address(), CLIENTS);
    was_told(&upgrades(exuvia, client, 100));
}
