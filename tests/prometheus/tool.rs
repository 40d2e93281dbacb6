//! promtool.

use std::io::Write;
use std::process::{Command, Stdio};

use super::harness::Answer;

/// Runs it; it must have nothing to say against what it gets.
#[track_caller]
pub fn promtool(arguments: &[&str], input: &str) -> Answer {
    let mut process = Command::new("promtool")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    process.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let answer = Answer::from(process.wait_with_output().unwrap());
    assert_eq!(answer.code, 0, "promtool {arguments:?}: {}", answer.text());
    answer
}

/// A page of metrics is as it should be.
#[track_caller]
pub fn lint(page: &str) {
    let said = promtool(&["check", "metrics"], page).text();
    assert_eq!(said, "", "of {page}");
}
