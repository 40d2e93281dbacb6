//! Chromium, headless.

use super::program::{Need, Program, skipped};
use super::twenty::{encrypted, upgrades};
use super::upstream::settings;

/// A page over HTTP/2 that fetches all the time, and a WebSocket that lives through.
#[test]
fn twenty_upgrades_under_a_page_in_chromium() {
    if skipped(&[Need::Program("chromium", "chromium"), Need::Python("websockets")]) {
        return;
    }
    let server = Program::server("websocket_server.py", &[]);
    let (exuvia, _) = encrypted(&settings(&[server.address()]));
    let browser = Program::client("chromium.py", exuvia.address(), &[]);
    let summary = upgrades(exuvia, browser, 5);
    assert!(summary["fetched"].as_u64().unwrap() > 100, "{summary}");
    assert!(summary["echoed"].as_u64().unwrap() > 100, "{summary}");
    server.finish();
}
