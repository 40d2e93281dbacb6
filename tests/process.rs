//! exuvia as its users run it: real processes, sockets and signals, by topic.
//!
//! Every test starts a program of its own in a folder of its own, on ports that the kernel chooses, with
//! clients that never retry, and leaves nothing behind.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by a panic")]
#![allow(unreachable_pub, reason = "a test has no API: `pub` is for its other files")]

#[path = "process/certificates.rs"]
mod certificates;
#[path = "process/harness.rs"]
mod harness;
#[path = "process/traffic.rs"]
mod traffic;
#[path = "process/upstream.rs"]
mod upstream;

#[path = "process/admin.rs"]
mod admin;
#[path = "process/answers.rs"]
mod answers;
#[path = "process/bad_binary.rs"]
mod bad_binary;
#[path = "process/bad_luck.rs"]
mod bad_luck;
#[path = "process/command.rs"]
mod command;
#[path = "process/control.rs"]
mod control;
#[path = "process/control_socket.rs"]
mod control_socket;
#[path = "process/cost.rs"]
mod cost;
#[path = "process/counters.rs"]
mod counters;
#[path = "process/curl.rs"]
mod curl;
#[path = "process/demo.rs"]
mod demo;
#[path = "process/dns.rs"]
mod dns;
#[path = "process/drain.rs"]
mod drain;
#[path = "process/executable.rs"]
mod executable;
#[path = "process/http2.rs"]
mod http2;
#[path = "process/http2_tunnel.rs"]
mod http2_tunnel;
#[path = "process/idle.rs"]
mod idle;
#[path = "process/large.rs"]
mod large;
#[path = "process/listeners.rs"]
mod listeners;
#[path = "process/log.rs"]
mod log;
#[path = "process/multiplexed.rs"]
mod multiplexed;
#[path = "process/names.rs"]
mod names;
#[path = "process/notify.rs"]
mod notify;
#[path = "process/probation.rs"]
mod probation;
#[path = "process/proxy_protocol.rs"]
mod proxy_protocol;
#[path = "process/residue.rs"]
mod residue;
#[path = "process/resumption.rs"]
mod resumption;
#[path = "process/servers.rs"]
mod servers;
#[path = "process/signals.rs"]
mod signals;
#[path = "process/slow.rs"]
mod slow;
#[path = "process/smuggling.rs"]
mod smuggling;
#[path = "process/status_page.rs"]
mod status_page;
#[path = "process/tls.rs"]
mod tls;
#[path = "process/tls_alerts.rs"]
mod tls_alerts;
#[path = "process/tls_upgrade.rs"]
mod tls_upgrade;
#[path = "process/tunnel.rs"]
mod tunnel;
#[path = "process/upgrade.rs"]
mod upgrade;
#[path = "process/upstream_tls.rs"]
mod upstream_tls;
#[path = "process/watch.rs"]
mod watch;
