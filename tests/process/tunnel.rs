//! Connections that were HTTP and carry something else, while the process is replaced under them.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::thread::{scope, spawn};

use nix::sys::signal::Signal;

use super::certificates::Authority;
use super::harness::{Exuvia, PATIENCE, Starter, eventually, is_alive, signal};
use super::tls;
use super::traffic::{Client, Target};
use super::upstream::{Pattern, Peer, Upstream};

const ASK: &[u8] = b"GET /chat HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
const GRANT: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";

const UPGRADES: u64 = 5;

fn grant(peer: &mut Peer) {
    let request = peer.request().unwrap();
    assert_eq!(request.header("upgrade"), Some("websocket"), "{request:?}");
    peer.send(GRANT).unwrap();
}

/// Grants every tunnel and sends back what comes.
fn echo() -> Upstream {
    Upstream::start(|mut peer| {
        grant(&mut peer);
        let mut block = [0; 4096];
        while let Ok(n @ 1..) = peer.read(&mut block) {
            peer.send(&block[..n]).unwrap();
        }
    })
}

fn tunnel(target: impl Into<Target>) -> Client {
    let mut client = Client::to(&target.into()).unwrap();
    client.send(ASK).unwrap();
    let answer = client.head().unwrap();
    assert_eq!((answer.status, answer.header("upgrade")), (101, Some("websocket")), "{answer:?}");
    client
}

fn say(client: &mut Client, word: &str) {
    client.send(word.as_bytes()).unwrap();
    let mut back = vec![0; word.len()];
    client.read_exact(&mut back).unwrap();
    assert_eq!(back, word.as_bytes());
}

#[test]
fn tunnels_live_through_upgrades_in_the_process_that_has_them() {
    let upstream = echo();
    let settings = "[restart]\nprobation = \"0s\"\n[drain]\ntimeout = \"60s\"\nidle_grace = \"0s\"\n";
    let exuvia = Exuvia::start(&format!("{}{settings}", upstream.settings()));
    let mut tunnels = Vec::new();
    for generation in 1..=UPGRADES {
        tunnels.push((tunnel(exuvia.address()), exuvia.pid()));
        assert_eq!(exuvia.generation(), generation);
        exuvia.upgrade();
        for (client, pid) in &mut tunnels {
            assert!(is_alive(*pid));
            say(client, &format!("generation {generation}"));
        }
    }
    for (client, pid) in &mut tunnels {
        client.end().unwrap();
        assert!(client.at_end().unwrap(), "the end of the one side brings the end of the other");
        eventually("a process without tunnels is gone", || (!is_alive(*pid)).then_some(()));
    }
    assert_eq!(exuvia.stop(), 0);
}

/// Sends back what comes, and tells how each tunnel ends.
fn echo_to_the_end() -> (Upstream, Receiver<Result<usize, ErrorKind>>) {
    let (sender, ends) = channel();
    let sender = Mutex::new(sender);
    let upstream = Upstream::start(move |mut peer| {
        grant(&mut peer);
        let mut block = [0; 4096];
        let end = loop {
            match peer.read(&mut block) {
                Ok(n @ 1..) => peer.send(&block[..n]).unwrap(),
                end => break end,
            }
        };
        sender.lock().unwrap().send(end.map_err(|error| error.kind())).unwrap();
    });
    (upstream, ends)
}

/// Neither side has said that this was all, and so neither hears it: a download and an upload that the deadline cut
/// would look whole.
#[track_caller]
fn is_broken_off(client: &mut Client, ends: &Receiver<Result<usize, ErrorKind>>) {
    assert_eq!(client.read(&mut [0]).map_err(|error| error.kind()), Err(ErrorKind::ConnectionReset));
    assert_eq!(ends.recv_timeout(PATIENCE).unwrap(), Err(ErrorKind::ConnectionReset));
}

#[track_caller]
fn counts_one(exuvia: &Exuvia) {
    let line = exuvia.says("dropped_in_flight=1");
    assert!(line.contains("kind=tunnel"), "{line}");
}

#[test]
fn the_deadline_breaks_a_tunnel_off_and_it_is_counted() {
    let (upstream, ends) = echo_to_the_end();
    let settings = "[restart]\nprobation = \"0s\"\n[drain]\ntimeout = \"1s\"\n";
    let exuvia = Exuvia::start(&format!("{}{settings}", upstream.settings()));
    let old = exuvia.pid();
    let mut client = tunnel(exuvia.address());
    exuvia.upgrade();
    say(&mut client, "still here");
    is_broken_off(&mut client, &ends);
    eventually("the old process is gone", || (!is_alive(old)).then_some(()));
    counts_one(&exuvia);
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn a_process_that_is_killed_breaks_its_tunnels_off() {
    let (upstream, ends) = echo_to_the_end();
    let settings = "[restart]\nprobation = \"0s\"\n[drain]\ntimeout = \"60s\"\n";
    let exuvia = Exuvia::start(&format!("{}{settings}", upstream.settings()));
    let old = exuvia.pid();
    let mut client = tunnel(exuvia.address());
    exuvia.upgrade();
    say(&mut client, "still here");
    signal(old, Signal::SIGKILL);
    is_broken_off(&mut client, &ends);
    assert_eq!(exuvia.stop(), 0);
}

/// An exuvia that speaks TLS, in front of this upstream.
fn start_tls(upstream: &Upstream, drain_timeout: &str) -> (Exuvia, Target) {
    let starter = Starter::new("");
    let authority = Authority::new(starter.folder(), "ca");
    let site = authority.issue(starter.folder(), "site", &["site.test"]);
    let listener = tls::settings("certificates = [\"site\"]", &[("site", &site)]);
    let drain = format!("[drain]\ntimeout = \"{drain_timeout}\"\n");
    let exuvia = starter.settings(&format!("{listener}{}{drain}", upstream.settings())).start();
    let target = Target::tls(exuvia.address(), &authority.trusting(), "site.test");
    (exuvia, target)
}

/// The keys of its records are in one process only, and that one carries it.
#[test]
fn a_tunnel_over_tls_lives_through_upgrades() {
    let (upstream, ends) = echo_to_the_end();
    let (exuvia, target) = start_tls(&upstream, "60s");
    let old = exuvia.pid();
    let mut client = tunnel(target.clone());
    let mut at_rest = tunnel(target);
    say(&mut client, "before");
    // Longer than a record of TLS.
    let long = "x".repeat(100_000);
    for generation in 2..=4 {
        exuvia.upgrade();
        assert_eq!(exuvia.generation(), generation);
        say(&mut client, &format!("generation {generation}"));
        say(&mut client, &long);
    }
    say(&mut at_rest, "after a long rest");
    for client in [&mut client, &mut at_rest] {
        assert!(is_alive(old), "it has one still");
        client.end().unwrap();
        assert!(client.at_end().unwrap(), "the end of the one side brings the end of the other");
        assert_eq!(ends.recv_timeout(PATIENCE).unwrap(), Ok(0));
    }
    eventually("a process without tunnels is gone", || (!is_alive(old)).then_some(()));
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn the_deadline_breaks_a_tunnel_over_tls_off() {
    let (upstream, ends) = echo_to_the_end();
    let (exuvia, target) = start_tls(&upstream, "1s");
    let old = exuvia.pid();
    let mut client = tunnel(target);
    say(&mut client, "before");
    exuvia.upgrade();
    say(&mut client, "after");
    // Not the word of TLS for an end either.
    is_broken_off(&mut client, &ends);
    eventually("the old process is gone", || (!is_alive(old)).then_some(()));
    counts_one(&exuvia);
    assert_eq!(exuvia.stop(), 0);
}

/// More both ways at once than all buffers on the way can hold, and the process is replaced in the middle.
#[test]
fn much_both_ways_at_once() {
    const LENGTH: u64 = 64 << 20;
    fn exchange(mut from: impl Read, mut into: impl Write + Send, end: impl FnOnce() + Send) {
        scope(|scope| {
            scope.spawn(move || {
                Pattern::new().pour(&mut into, LENGTH).unwrap();
                end();
            });
            Pattern::new().swallow(&mut from, LENGTH).unwrap();
            assert_eq!(from.read(&mut [0]).unwrap(), 0);
        });
    }
    fn shut(stream: &std::net::TcpStream) -> impl FnOnce() + Send + use<> {
        let stream = stream.try_clone().unwrap();
        move || stream.shutdown(Shutdown::Write).unwrap()
    }
    let upstream = Upstream::start(|mut peer| {
        grant(&mut peer);
        let (into, end) = (peer.stream().try_clone().unwrap(), shut(peer.stream()));
        exchange(peer, into, end);
    });
    let settings = "[restart]\nprobation = \"0s\"\n[drain]\ntimeout = \"60s\"\n";
    let exuvia = Exuvia::start(&format!("{}{settings}", upstream.settings()));
    let client = tunnel(exuvia.address());
    let (into, end) = (client.stream().try_clone().unwrap(), shut(client.stream()));
    let exchanging = spawn(move || exchange(client, into, end));
    exuvia.upgrade();
    exchanging.join().unwrap();
    assert_eq!(exuvia.stop(), 0);
}
