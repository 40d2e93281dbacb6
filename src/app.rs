//! A stub that stands for the composition root until it is there.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::cli::Supervise;

/// Serves.
pub fn run(_config: Option<PathBuf>, _supervise: Supervise) -> ExitCode {
    ExitCode::FAILURE
}

/// Checks the configuration.
pub fn check(_config: Option<&Path>, _print: bool) -> ExitCode {
    ExitCode::FAILURE
}
