//! `exuvia-loadtest`: a strict witness of what an upgrade does to traffic.

mod cli;

use std::process::ExitCode;

use loadtest::stage::held;

// Of the load's work much is short-lived memory.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|first| first == held::COMMAND) {
        return held::main(arguments);
    }
    cli::main()
}
