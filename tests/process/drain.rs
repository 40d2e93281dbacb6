//! What the old process does with the connections that it has.

use std::io::{Read, Write};
use std::time::Duration;

use super::harness::{Exuvia, eventually, is_alive};
use super::traffic::{Client, get};

/// Upgrades; the old process must be gone at its deadline, whatever its clients do.
#[track_caller]
fn is_gone_at_the_deadline(exuvia: &Exuvia) {
    let old = exuvia.pid();
    exuvia.upgrade();
    eventually("the old process is gone", || (!is_alive(old)).then_some(()));
    assert_eq!(get(exuvia.address(), "/").unwrap().generation(), 2);
}

const SHORT: &str = "[restart]\nprobation = \"0s\"\n[drain]\ntimeout = \"500ms\"\n";

#[test]
fn a_request_in_flight_at_the_deadline_is_closed_and_counted() {
    let exuvia = Exuvia::start(SHORT);
    let mut client = Client::connect(exuvia.address()).unwrap();
    client.ask("/slow?ms=60000").unwrap();
    let mut idle = Client::connect(exuvia.address()).unwrap();
    assert_eq!(idle.get("/").unwrap().status, 200);
    is_gone_at_the_deadline(&exuvia);
    assert!(client.response().is_err(), "nobody answers it any more");
    assert!(idle.at_end().unwrap(), "it was closed in good order");
    exuvia.says("dropped_in_flight=1");
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn a_client_that_never_reads() {
    let exuvia = Exuvia::start(SHORT);
    let mut client = Client::connect(exuvia.address()).unwrap();
    client.ask("/bytes?n=1073741824").unwrap();
    assert_eq!(client.head().unwrap().status, 200);
    is_gone_at_the_deadline(&exuvia);
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn a_client_that_sends_one_byte_at_a_time() {
    let exuvia = Exuvia::start(SHORT);
    let mut slow = Client::connect(exuvia.address()).unwrap();
    slow.send(b"G").unwrap();
    let mut upload = Client::connect(exuvia.address()).unwrap();
    upload.send(b"POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 1000\r\n\r\nx").unwrap();
    let stream = slow.stream().try_clone().unwrap();
    let other = upload.stream().try_clone().unwrap();
    let sender = std::thread::spawn(move || {
        // Until the process has closed both.
        for byte in b"ET / HTTP/1.1\r\nHost: a-very-slow-one\r\n".iter().cycle() {
            let sent = (&stream).write_all(&[*byte]).is_ok() | (&other).write_all(b"x").is_ok();
            if !sent {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    is_gone_at_the_deadline(&exuvia);
    sender.join().unwrap();
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn a_header_that_takes_too_long_gets_an_answer() {
    let exuvia = Exuvia::start("[timeouts]\nheader = \"200ms\"\n");
    let mut client = Client::connect(exuvia.address()).unwrap();
    client.send(b"GET / HTTP/1.1\r\nHo").unwrap();
    assert_eq!(client.response().unwrap().status, 408);
    assert!(client.at_end().unwrap());
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn a_stop_drains_and_a_stop_now_does_not() {
    let exuvia = Exuvia::start("");
    let mut client = Client::connect(exuvia.address()).unwrap();
    client.ask("/slow?ms=500").unwrap();
    assert_eq!(exuvia.stop(), 0);
    assert_eq!(client.response().unwrap().status, 200);

    let mut exuvia = Exuvia::start("");
    let mut client = Client::connect(exuvia.address()).unwrap();
    client.ask("/slow?ms=60000").unwrap();
    assert_eq!(exuvia.ask(&["stop", "--now"]).code, 0);
    assert_eq!(exuvia.wait(), 0);
    assert!(client.response().is_err());
}

#[test]
fn a_stop_now_cuts_a_stop_that_drains_and_every_generation_that_does() {
    let mut exuvia = Exuvia::start("[restart]\nprobation = \"0s\"\n");
    let mut first = Client::connect(exuvia.address()).unwrap();
    first.ask("/slow?ms=60000").unwrap();
    let old = exuvia.pid();
    exuvia.upgrade();
    let mut second = Client::connect(exuvia.address()).unwrap();
    second.ask("/slow?ms=60000").unwrap();
    eventually("the request is in flight", || {
        let status = exuvia.status();
        let mut rows = status["generations"][1]["connections"].as_array()?.iter();
        rows.any(|row| row["active"].as_u64() > Some(0)).then_some(())
    });
    let stop = exuvia.begin(&["stop"]);
    exuvia.wait_phase("draining");
    assert_eq!(exuvia.ask(&["stop", "--now"]).code, 0);
    assert_eq!(exuvia.wait(), 0);
    assert!(!is_alive(old));
    assert_eq!(stop.answer().code, 0);
    assert!(first.response().is_err() && second.response().is_err());
}

#[test]
fn a_process_that_is_stuck_is_killed_some_time_after_its_deadline() {
    let exuvia = Exuvia::start(SHORT);
    let old = exuvia.pid();
    let mut client = Client::connect(exuvia.address()).unwrap();
    client.ask("/slow?ms=60000").unwrap();
    exuvia.upgrade();
    super::harness::signal(old, nix::sys::signal::Signal::SIGSTOP);
    eventually("the owner has killed it", || (!is_alive(old)).then_some(()));
    exuvia.says("long after its drain deadline");
    let mut rest = Vec::new();
    client.stream().read_to_end(&mut rest).ok();
    assert_eq!(exuvia.stop(), 0);
}

/// To HTTP/1.0 an answer of unknown length ends with the connection. Whatever else ends that, the client must
/// see the difference.
#[test]
fn an_answer_that_is_cut_does_not_look_whole() {
    let begin = |exuvia: &Exuvia| {
        let mut client = Client::connect(exuvia.address()).unwrap();
        client.send(b"GET /stream?n=1000000&every_ms=10 HTTP/1.0\r\n\r\n").unwrap();
        assert_eq!(client.head().unwrap().header("content-length"), None);
        client
    };
    let is_cut = |mut client: Client| {
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).expect_err("it ended as if it were whole");
    };

    let exuvia = Exuvia::start(SHORT);
    let client = begin(&exuvia);
    is_gone_at_the_deadline(&exuvia);
    is_cut(client);

    let client = begin(&exuvia);
    super::harness::signal(exuvia.pid(), nix::sys::signal::Signal::SIGKILL);
    is_cut(client);
}
