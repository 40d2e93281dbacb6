//! The witness against an upstream alone, and against a proxy that misbehaves on purpose: what it cannot see, it cannot
//! prove.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by a panic")]

#[path = "witness/accepting.rs"]
mod accepting;
#[path = "witness/clean.rs"]
mod clean;
#[path = "witness/disturbances.rs"]
mod disturbances;
#[path = "witness/faulty.rs"]
mod faulty;
#[path = "witness/found.rs"]
mod found;
#[path = "witness/grpc.rs"]
mod grpc;
#[path = "witness/harness.rs"]
mod harness;
#[path = "witness/http1.rs"]
mod http1;
#[path = "witness/http2.rs"]
mod http2;
#[path = "witness/kept.rs"]
mod kept;
#[path = "witness/websocket.rs"]
mod websocket;
