//! Listeners across upgrades that change them.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use super::harness::{Exuvia, Starter, eventually, is_alive};
use super::traffic::{Client, Traffic, get};

const NOW: &str = "[restart]\nprobation = \"0s\"\n";

fn with(workers: usize, listeners: &[(&str, &str)]) -> String {
    let listeners: String = listeners
        .iter()
        .map(|(name, address)| format!("[listeners.{name}]\naddress = \"{address}\"\n"))
        .collect();
    format!("workers = {workers}\n{NOW}{listeners}")
}

#[test]
fn the_number_of_workers_changes_and_every_socket_is_served() {
    let exuvia = Exuvia::start(&with(4, &[("web", "127.0.0.1:0")]));
    let address = exuvia.address();
    let traffic = Traffic::start(address, 8);
    for (generation, workers) in [(2, 1), (3, 3), (4, 7), (5, 2)] {
        exuvia.set(&with(workers, &[("web", "127.0.0.1:0")]));
        exuvia.upgrade();
        traffic.reaches(generation);
        let status = exuvia.status();
        let web = status["listeners"].as_array().unwrap().iter().find(|one| one["name"] == "web").unwrap();
        assert_eq!(web["sockets"], 4, "none is closed while its listener is configured: {status}");
        // The kernel spreads these over all four sockets.
        for _ in 0..40 {
            assert_eq!(get(address, "/").unwrap().generation(), generation);
        }
    }
    traffic.finish();
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn a_listener_is_added_and_another_is_dropped() {
    let exuvia = Exuvia::start(&with(2, &[("web", "127.0.0.1:0"), ("old", "127.0.0.1:0")]));
    let (web, old) = (exuvia.listener("web"), exuvia.listener("old").parse().unwrap());
    let traffic = Traffic::start(exuvia.address(), 4);
    exuvia.set(&with(2, &[("web", "127.0.0.1:0"), ("new", "[::1]:0")]));
    exuvia.upgrade();
    assert_eq!(exuvia.listener("web"), web, "its name is its identity");
    assert_eq!(get(exuvia.listener("new").parse().unwrap(), "/").unwrap().generation(), 2);
    eventually("the dropped listener is closed", || Client::connect(old).is_err().then_some(()));
    traffic.finish();
    assert_eq!(exuvia.stop(), 0);
}

/// A new listener on a port of the kernel's choice took the sockets of the next one that had such a port: any
/// would do. The clients of the one were answered by the other, and its own address was another.
#[test]
fn a_new_listener_with_any_port_takes_nobody_elses() {
    let exuvia = Exuvia::start(&with(1, &[("web", "127.0.0.1:0")]));
    let web = exuvia.listener("web");
    exuvia.set(&with(1, &[("another", "127.0.0.1:0"), ("web", "127.0.0.1:0")]));
    exuvia.upgrade();
    assert_eq!(exuvia.listener("web"), web, "its name is its identity");
    assert_ne!(exuvia.listener("another"), web);
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn what_waits_in_the_queue_of_a_dropped_listener_is_answered() {
    let exuvia = Exuvia::start(&with(1, &[("web", "127.0.0.1:0"), ("old", "127.0.0.1:0")]));
    let (old, pid) = (exuvia.listener("old").parse().unwrap(), exuvia.pid());
    exuvia.set(&with(1, &[("web", "127.0.0.1:0")]));
    // Clients keep coming until they are refused: none may be reset, or left without an answer.
    let client = std::thread::spawn(move || {
        let mut answered = 0;
        loop {
            match Client::connect(old) {
                Ok(mut client) => {
                    let response = client.get("/").expect("a connection was accepted and then dropped");
                    assert_eq!((response.status, response.generation()), (200, 1));
                    answered += 1;
                }
                Err(error) => return (answered, error.kind()),
            }
        }
    });
    exuvia.upgrade();
    let (answered, end) = client.join().unwrap();
    assert!(answered > 0);
    assert_eq!(end, std::io::ErrorKind::ConnectionRefused);
    eventually("the old process is gone", || (!is_alive(pid)).then_some(()));
    assert_eq!(exuvia.stop(), 0);
}

/// The workers close their copies, and the control thread has one of its own: clients would wait in a queue that
/// nobody serves for as long as the old process drains.
#[test]
fn a_dropped_listener_refuses_while_its_process_drains() {
    let exuvia = Exuvia::start(&with(1, &[("web", "127.0.0.1:0"), ("old", "127.0.0.1:0")]));
    let (old, pid) = (exuvia.listener("old").parse().unwrap(), exuvia.pid());
    let mut client = Client::connect(exuvia.address()).unwrap();
    client.ask("/slow?ms=60000").unwrap();
    exuvia.set(&with(1, &[("web", "127.0.0.1:0")]));
    exuvia.upgrade();
    eventually("the dropped listener refuses", || {
        let error = Client::connect(old).err()?;
        (error.kind() == std::io::ErrorKind::ConnectionRefused).then_some(())
    });
    assert!(is_alive(pid));
    let mut exuvia = exuvia;
    assert_eq!(exuvia.ask(&["stop", "--now"]).code, 0);
    assert_eq!(exuvia.wait(), 0);
}

#[test]
fn a_listener_that_is_renamed_keeps_its_sockets() {
    let exuvia = Exuvia::start(&with(2, &[("web", "127.0.0.1:0")]));
    let address = exuvia.address();
    let traffic = Traffic::start(address, 4);
    exuvia.set(&with(2, &[("front", &address.to_string())]));
    exuvia.upgrade();
    traffic.reaches(2);
    assert_eq!(exuvia.listener("front"), address.to_string());
    traffic.finish();
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn a_unix_socket_is_a_listener_like_any_other() {
    let starter = Starter::new("");
    let path = starter.folder().join("web.sock");
    let exuvia = starter.settings(&with(2, &[("web", &format!("unix:{}", path.display()))])).start();
    for _ in 0..3 {
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert!(text.starts_with("HTTP/1.1 200"), "{text}");
        exuvia.upgrade();
    }
    assert_eq!(exuvia.stop(), 0);
    assert!(!path.exists(), "no stale socket stays behind");
}

#[test]
fn an_address_that_another_process_shares_by_port_reuse_is_in_use() {
    let first = Exuvia::start("");
    let address = first.address();
    let second = Starter::new(&with(1, &[("web", &address.to_string())]));
    let mut second = second.launch();
    assert_ne!(second.wait(), 0);
    assert!(
        second.log().contains("in use") && second.log().contains(&address.to_string()),
        "{}",
        second.log()
    );
    assert_eq!(first.stop(), 0);
}
