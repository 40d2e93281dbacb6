//! **exuvia**: an edge HTTP/TLS reverse proxy whose every change (new binary, configuration, certificates) is an
//! *upgrade*: the running process forks and execs the program on disk, the new one takes over the listening sockets, and
//! the old one finishes what it has and goes. Nobody outside notices.
//!
//! Without its default feature the crate is [`restart`] alone: the graceful-restart core, for any daemon.
//!
//! # One request
//!
//! `restart::accept` takes a connection → `worker` begins it → `server` shakes hands (PROXY, TLS) and speaks HTTP/1
//! or HTTP/2 with the client → `proxy` turns one request into one response: headers, a connection from the pool, forward.
//!
//! # One upgrade
//!
//! SIGHUP or `exuvia upgrade` → `restart::driver` asks `restart::state` what to do → `restart::spawn` forks and
//! execs → *new process:* `main` → `app` → `restart::inherit` → `restart::handoff` → `restart::listeners` →
//! `Ready` → *old process:* `restart::driver` → `restart::state` → `restart::tracker` drains → exit.
//!
//! # The modules, in reading order

#[cfg(feature = "proxy")]
pub mod cli;

#[cfg(feature = "proxy")]
pub mod supervise;

#[cfg(feature = "proxy")]
pub mod app;

#[cfg(feature = "proxy")]
pub mod admin;

#[cfg(feature = "proxy")]
pub mod control;

#[cfg(feature = "proxy")]
pub mod overview;

#[cfg(feature = "proxy")]
mod http;

#[cfg(feature = "proxy")]
pub mod settings;

#[cfg(feature = "proxy")]
pub mod worker;

#[cfg(feature = "proxy")]
pub mod server;

#[cfg(feature = "proxy")]
pub mod proxy;

#[cfg(feature = "proxy")]
pub mod tls;

#[cfg(feature = "proxy")]
pub mod demo;

#[cfg(feature = "proxy")]
pub mod metrics;

#[cfg(feature = "proxy")]
pub mod log;

#[cfg(feature = "proxy")]
mod timer;

#[cfg(feature = "proxy")]
pub mod resolver;

pub mod restart;
