//! `exuvia-loadtest`: a strict witness of what an upgrade does to traffic.
//!
//! Not written yet: the program says so and fails, so that nobody takes its silence for a verdict.

use std::process::ExitCode;

use loadtest::stage::held;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|first| first == held::COMMAND) {
        return held::main(arguments);
    }
    eprintln!("exuvia-loadtest is not written yet; see the project's README for what works today");
    ExitCode::from(2)
}
