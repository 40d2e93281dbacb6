//! WebSockets by the Python library `websockets` on both sides: half of them at rest.

use super::harness::Exuvia;
use super::program::{Need, Program, skipped};
use super::twenty::{encrypted, plain, upgrades};
use super::upstream::settings;

/// Twelve live from the first generation to the last, half of them at rest; two more come and go.
const CLIENTS: &[&str] = &["--busy", "6", "--idle", "6", "--churn", "2"];

#[test]
fn twenty_upgrades_under_plain_ones() {
    if skipped(&[Need::Python("websockets")]) {
        return;
    }
    let server = Program::server("websocket_server.py", &[]);
    let exuvia = plain(&settings(&[server.address()]));
    let client = Program::client("websocket_client.py", exuvia.address(), CLIENTS);
    let summary = upgrades(exuvia, client, 50);
    assert_eq!(summary["lives"], 12, "{summary}");
    server.finish();
}

#[test]
fn twenty_upgrades_under_ones_over_tls() {
    if skipped(&[Need::Python("websockets")]) {
        return;
    }
    let server = Program::server("websocket_server.py", &[]);
    let (exuvia, certificate) = encrypted(&settings(&[server.address()]));
    let arguments = [CLIENTS, &["--ca", certificate.authority()]].concat();
    let client = Program::client("websocket_client.py", exuvia.address(), &arguments);
    let summary = upgrades(exuvia, client, 50);
    assert_eq!(summary["lives"], 12, "{summary}");
    server.finish();
}

/// At the deadline what is left is cut and counted, and not before.
#[test]
fn one_lives_until_the_deadline_of_the_drain() {
    if skipped(&[Need::Python("websockets")]) {
        return;
    }
    let server = Program::server("websocket_server.py", &[]);
    let exuvia = Exuvia::start(&format!(
        "[restart]\nprobation = \"0s\"\n[drain]\ntimeout = \"3s\"\n{}",
        settings(&[server.address()])
    ));
    let arguments = ["--busy", "1", "--idle", "0", "--churn", "0"];
    let mut client = Program::client("websocket_client.py", exuvia.address(), &arguments);
    client.flows(10);
    let begun = std::time::Instant::now();
    exuvia.upgrade();
    client.flows(10);
    let errors = client.fails();
    assert!(
        begun.elapsed() >= std::time::Duration::from_secs(3),
        "cut after {:?}: {errors}",
        begun.elapsed()
    );
    exuvia.says("dropped");
    assert_eq!(exuvia.stop(), 0);
    server.finish();
}
