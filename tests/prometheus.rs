//! exuvia as a real Prometheus sees it, while it is replaced twenty times under load and two of its generations are
//! killed.
//!
//! Needs the programs `prometheus` and `promtool`, which `.ci/run` installs. Without them the tests say `SKIPPED`; under
//! `CI=true` they fail.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by a panic")]
#![allow(unreachable_pub, reason = "a test has no API: `pub` is for its other files")]

#[allow(dead_code, reason = "shared with tests/process.rs")]
#[path = "process/harness.rs"]
mod harness;
#[allow(dead_code, reason = "shared with tests/process.rs")]
#[path = "process/multiplexed.rs"]
mod multiplexed;
#[allow(dead_code, reason = "shared with tests/peers.rs")]
#[path = "peers/program.rs"]
mod program;
#[allow(dead_code, reason = "shared with tests/process.rs")]
#[path = "process/traffic.rs"]
mod traffic;

#[path = "prometheus/books.rs"]
mod books;
#[path = "prometheus/dashboard.rs"]
mod dashboard;
#[path = "prometheus/held.rs"]
mod held;
#[path = "prometheus/load.rs"]
mod load;
#[path = "prometheus/queries.rs"]
mod queries;
#[path = "prometheus/rules.rs"]
mod rules;
#[path = "prometheus/run.rs"]
mod run;
#[path = "prometheus/samples.rs"]
mod samples;
#[path = "prometheus/server.rs"]
mod server;
#[path = "prometheus/tool.rs"]
mod tool;

use program::{Need, skipped};

const NEEDS: &[Need] = &[Need::Program("prometheus", "prometheus"), Need::Program("promtool", "prometheus")];

/// One run, because twenty upgrades take their time; what it looks at is in `books`, `rules`, `dashboard`
/// and `queries`.
#[test]
fn no_count_is_lost_over_twenty_upgrades_and_two_deaths() {
    if !skipped(NEEDS) {
        run::twenty_upgrades_and_two_deaths();
    }
}
