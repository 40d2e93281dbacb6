//! The witness against an upstream alone, and against a proxy that misbehaves on purpose: what it cannot see, it cannot
//! prove.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by a panic")]

#[path = "witness/clean.rs"]
mod clean;
#[path = "witness/harness.rs"]
mod harness;
