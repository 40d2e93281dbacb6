//! exuvia between clients and servers that no one here wrote, most of them while it is replaced again and again.
//!
//! The programs are in `tests/peers/`; what they need is installed by `.ci/run`. A test whose peer is missing says
//! `SKIPPED` and how to install it; under `CI=true` it fails. No client ever tries again.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by a panic")]
#![allow(unreachable_pub, reason = "a test has no API: `pub` is for its other files")]

#[allow(dead_code, reason = "shared with tests/process.rs")]
#[path = "process/harness.rs"]
mod harness;
#[allow(dead_code, reason = "shared with tests/process.rs")]
#[path = "process/traffic.rs"]
mod traffic;
#[allow(dead_code, reason = "shared with tests/process.rs")]
#[path = "process/upstream.rs"]
mod upstream;

#[path = "peers/certificate.rs"]
mod certificate;
#[path = "peers/program.rs"]
mod program;

#[path = "peers/browser.rs"]
mod browser;
#[path = "peers/direct.rs"]
mod direct;
#[path = "peers/grpc.rs"]
mod grpc;
#[path = "peers/http1.rs"]
mod http1;
#[path = "peers/http2.rs"]
mod http2;
#[path = "peers/odd.rs"]
mod odd;
#[path = "peers/slow.rs"]
mod slow;
#[path = "peers/status_page.rs"]
mod status_page;
#[path = "peers/tools.rs"]
mod tools;
#[path = "peers/twenty.rs"]
mod twenty;
#[path = "peers/websocket.rs"]
mod websocket;
