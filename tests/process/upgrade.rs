//! The main job: replace the running program, again and again, under load, and nobody notices.

use super::harness::{Exuvia, Starter, eventually, is_alive};
use super::traffic::{Client, Traffic, get};

#[test]
fn twenty_upgrades_under_load_fail_no_request() {
    let exuvia = Exuvia::start("workers = 2\n[restart]\nprobation = \"0s\"\nmax_generations = 64\n");
    let traffic = Traffic::start(exuvia.address(), 8);
    for generation in 2..=21 {
        exuvia.upgrade();
        assert_eq!(exuvia.generation(), generation);
        traffic.reaches(generation);
    }
    traffic.finish();
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn an_upgrade_says_what_it_does_phase_by_phase() {
    let exuvia = Exuvia::start("[restart]\nprobation = \"100ms\"\n");
    let answer = exuvia.upgrade();
    for word in ["generation 2", "started from", "ready after", "watches for", "committed after"] {
        assert!(answer.out.contains(word), "{word:?} is not in {answer:?}");
    }
    // A program can be asked to return as soon as the new generation accepts.
    let answer = exuvia.ask(&["upgrade", "--until", "ready"]);
    assert_eq!(answer.code, 0, "{answer:?}");
    assert!(!answer.out.contains("committed"), "{answer:?}");
    exuvia.wait_phase("serving");
    eventually("generation 3 serves", || (exuvia.generation() == 3).then_some(()));
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn a_hangup_signal_is_an_upgrade_too() {
    let exuvia = Exuvia::start("[restart]\nprobation = \"0s\"\n");
    let traffic = Traffic::start(exuvia.address(), 2);
    super::harness::signal(exuvia.pid(), nix::sys::signal::Signal::SIGHUP);
    traffic.reaches(2);
    traffic.finish();
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn an_answer_in_flight_is_finished_by_the_process_that_began_it() {
    let exuvia = Exuvia::start("[restart]\nprobation = \"0s\"\n");
    let (old, mut client) = (exuvia.pid(), Client::connect(exuvia.address()).unwrap());
    client.ask("/stream?n=20&every_ms=50").unwrap();
    let head = client.head().unwrap();
    assert_eq!(head.status, 200);
    exuvia.upgrade();
    assert!(is_alive(old), "it left its client alone");
    client.body(head).expect("the answer broke off");
    // A connection that asks again while its process drains is answered, and told to go elsewhere.
    let response = client.get("/").unwrap();
    assert_eq!((response.generation(), response.closes()), (1, true));
    assert!(client.at_end().unwrap());
    eventually("the old process is gone", || (!is_alive(old)).then_some(()));
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn an_idle_connection_may_ask_once_more_and_is_told_that_it_closes() {
    let exuvia = Exuvia::start("[restart]\nprobation = \"0s\"\n[drain]\nidle_grace = \"20s\"\n");
    let mut client = Client::connect(exuvia.address()).unwrap();
    assert_eq!(client.get("/").unwrap().generation(), 1);
    exuvia.upgrade();
    let response = client.get("/").unwrap();
    assert_eq!((response.generation(), response.closes()), (1, true));
    assert_eq!(get(exuvia.address(), "/").unwrap().generation(), 2);
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn a_rollback_in_probation_gives_the_traffic_back() {
    let exuvia = Exuvia::start("[restart]\nprobation = \"60s\"\n");
    let traffic = Traffic::start(exuvia.address(), 4);
    let upgrade = exuvia.begin(&["upgrade"]);
    exuvia.wait_phase("probation");
    traffic.reaches(2);
    let child = exuvia.pid_of(2);
    let answer = exuvia.ask(&["rollback"]);
    assert_eq!(answer.code, 0, "{answer:?}");
    upgrade.answer().failed_with(&["rolled back"]);
    eventually("the new process is gone", || (!is_alive(child)).then_some(()));
    assert_eq!(get(exuvia.address(), "/").unwrap().generation(), 1);
    traffic.flows();
    traffic.finish();
    exuvia.ask(&["rollback"]).failed_with(&["nothing to roll back"]);
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn a_rollback_ends_a_new_process_that_is_still_starting() {
    let exuvia = Starter::new("[restart]\nexecutable = \"next\"\n").start();
    exuvia.script("next", "exec sleep 600");
    let upgrade = exuvia.begin(&["upgrade"]);
    exuvia.wait_phase("upgrading");
    let child = exuvia.pid_of(2);
    assert_eq!(exuvia.ask(&["rollback"]).code, 0);
    upgrade.answer().failed_with(&["rolled back"]);
    assert!(!is_alive(child));
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn a_stop_in_probation_ends_both_and_fails_no_request() {
    let exuvia = Exuvia::start("[restart]\nprobation = \"60s\"\n");
    let mut client = Client::connect(exuvia.address()).unwrap();
    client.ask("/slow?ms=2000").unwrap();
    let upgrade = exuvia.begin(&["upgrade"]);
    exuvia.wait_phase("probation");
    // Each worker of the old process pauses when it hears of it, which may be a moment later.
    let mut other = eventually("the new process accepts", || {
        let mut other = Client::connect(exuvia.address()).unwrap();
        (other.get("/").unwrap().generation() == 2).then_some(other)
    });
    other.ask("/slow?ms=300").unwrap();
    assert_eq!(exuvia.stop(), 0);
    assert_eq!(client.response().unwrap().generation(), 1);
    assert_eq!(other.response().unwrap().generation(), 2);
    upgrade.answer().failed_with(&["stop"]);
}

#[test]
fn the_environment_goes_on_to_every_later_generation() {
    let exuvia = Starter::new("").env("EXUVIA__RESTART__PROBATION", "0s").start();
    for generation in 2..=4 {
        let answer = exuvia.upgrade();
        assert!(!answer.out.contains("watches"), "there is no probation: {answer:?}");
        assert_eq!(exuvia.generation(), generation);
    }
    assert_eq!(exuvia.stop(), 0);
}
