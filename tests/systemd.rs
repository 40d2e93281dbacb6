//! exuvia as a service of a real systemd, with the unit files of `docs/systemd.md`.
//!
//! Each test runs a systemd of its own as the first process of namespaces of its own, with its own `/run`,
//! its own control group, and everything else read-only but the test's folder. That needs root, Linux
//! namespaces and the package `systemd`; where one is missing the test says SKIPPED and passes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by a panic")]
#![allow(unreachable_pub, reason = "a test has no API: `pub` is for its other files")]

#[allow(dead_code, reason = "shared with tests/process.rs, which needs more of it")]
#[path = "process/harness.rs"]
mod harness;
#[path = "systemd/manager.rs"]
mod manager;
#[allow(dead_code, reason = "shared with tests/process.rs, which needs more of it")]
#[path = "process/traffic.rs"]
mod traffic;

#[path = "systemd/activation.rs"]
mod activation;
#[path = "systemd/reload.rs"]
mod reload;
#[path = "systemd/stop.rs"]
mod stop;

/// No probation, and connections at rest do not hold up a drain.
const QUICK: &str = "[restart]\nprobation = \"0s\"\n[drain]\nidle_grace = \"100ms\"\n";
