//! `exuvia-loadtest`: a strict witness of what an upgrade does to traffic.
//!
//! Not written yet: the program says so and fails, so that nobody takes its silence for a verdict.

use std::process::ExitCode;

fn main() -> ExitCode {
    eprintln!("exuvia-loadtest is not written yet; see the project's README for what works today");
    ExitCode::from(2)
}
