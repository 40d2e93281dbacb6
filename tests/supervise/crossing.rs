//! What is asked for while one generation hands over to the next, in the orders that only a loaded machine
//! would see: here a process that must be late is stopped (SIGSTOP) until the others are done.

use std::fs;
use std::io::Read;

use nix::sys::signal::Signal;

use super::{Service, answer, wait_for};

/// Long enough to stop the new process before it ends.
const PROBATION: &str = "EXUVIA__RESTART__PROBATION=3s";

/// The log tells of each phase.
const LOG_LEVEL: &str = "EXUVIA__LOG__LEVEL=debug";

/// The old process has told the new one to take over and waits for its word; both, the old one first. The
/// new one is stopped.
fn committing() -> (Service, i32, i32) {
    let service = Service::on_terminal_by(&["env", "--default-signal=HUP", PROBATION, LOG_LEVEL]);
    service.signal(service.supervisor, Signal::SIGHUP);
    let status = service.until("the probation", |status| status["phase"] == "probation");
    let pid = |at: usize| i32::try_from(status["generations"][at]["pid"].as_i64().unwrap()).unwrap();
    let (old, new) = (pid(0), pid(1));
    service.signal(new, Signal::SIGSTOP);
    service.until_said("generation=1 from=\"probation\" to=\"committing\"");
    // It says so first, and then does it; then there is nothing to do but to wait.
    wait_for("the old process to wait", || is_asleep(old).then_some(()));
    (service, old, new)
}

/// As [`committing`], but the new process has taken over, and it is the old one that is stopped and does
/// not know.
fn taken_over() -> (Service, i32) {
    let (service, old, new) = committing();
    service.signal(old, Signal::SIGSTOP);
    service.signal(new, Signal::SIGCONT);
    service.until_generation(2);
    (service, old)
}

fn is_asleep(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(") ").unwrap().1.starts_with('S')
}

/// The signal overtook the new owner's word in the old process, which stopped as the owner that it was not any
/// more. Two owners stopped then, and each waited for the other until the drain deadline.
#[test]
fn a_stop_reaches_the_process_that_has_just_taken_over() {
    let (mut service, old) = taken_over();
    let (mut client, upstream) = service.request();
    drop(service.terminal.take());
    service.until_hangup_is_read();
    service.signal(old, Signal::SIGCONT);
    let status = service.until("the new process drains", |status| status["phase"] == "draining");
    assert_eq!(status["generation"], 2);

    answer(upstream);
    let mut text = String::new();
    client.read_to_string(&mut text).unwrap();
    assert!(text.ends_with("body"), "{text}");
    service.ended_well();
}

/// The old process refused it, because it drained, and the new one never heard of it.
#[test]
fn an_upgrade_reaches_the_process_that_has_just_taken_over() {
    let (mut service, old) = taken_over();
    service.signal(service.supervisor, Signal::SIGHUP);
    service.until_hangup_is_read();
    service.signal(old, Signal::SIGCONT);
    service.until_generation(3);
    service.signal(service.supervisor, Signal::SIGTERM);
    service.ended_well();
}

/// Here the signal comes first, so both stop as owners; each waited for the other, as above.
#[test]
fn a_stop_while_the_new_process_takes_over_ends_both() {
    let (mut service, _, new) = committing();
    service.signal(service.supervisor, Signal::SIGTERM);
    service.until_said("generation=1 from=\"committing\" to=\"draining\"");
    service.signal(new, Signal::SIGCONT);
    service.ended_well();
}
