//! Connections that were HTTP and carry something else, while the process is replaced under them.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::thread::{scope, spawn};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::harness::{Exuvia, PATIENCE, eventually, is_alive};
use super::traffic::Client;
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

fn tunnel(exuvia: &Exuvia) -> Client {
    let mut client = Client::connect(exuvia.address()).unwrap();
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
        tunnels.push((tunnel(&exuvia), exuvia.pid()));
        assert_eq!(exuvia.generation(), generation);
        exuvia.upgrade();
        for (client, pid) in &mut tunnels {
            assert!(is_alive(*pid));
            say(client, &format!("generation {generation}"));
        }
    }
    for (client, pid) in &mut tunnels {
        client.stream().shutdown(Shutdown::Write).unwrap();
        assert!(client.at_end().unwrap(), "the end of the one side brings the end of the other");
        eventually("a process without tunnels is gone", || (!is_alive(*pid)).then_some(()));
    }
    assert_eq!(exuvia.stop(), 0);
}

/// Neither side has said that this was all, and so neither hears it: a download and an upload that the deadline cut
/// would look whole. Nor when the process is killed.
#[test]
fn the_deadline_breaks_a_tunnel_off_and_it_is_counted() {
    for killed in [false, true] {
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
        let timeout = if killed { "60s" } else { "500ms" };
        let settings = format!("[restart]\nprobation = \"0s\"\n[drain]\ntimeout = \"{timeout}\"\n");
        let exuvia = Exuvia::start(&format!("{}{settings}", upstream.settings()));
        let old = exuvia.pid();
        let mut client = tunnel(&exuvia);
        exuvia.upgrade();
        say(&mut client, "still here");
        if killed {
            kill(Pid::from_raw(old), Signal::SIGKILL).unwrap();
        }
        assert_eq!(client.read(&mut [0]).map_err(|error| error.kind()), Err(ErrorKind::ConnectionReset));
        assert_eq!(ends.recv_timeout(PATIENCE).unwrap(), Err(ErrorKind::ConnectionReset));
        eventually("the old process is gone", || (!is_alive(old)).then_some(()));
        let log = exuvia.log();
        let counted = log.lines().any(|line| line.contains("tunnel") && line.contains("dropped_in_flight=1"));
        assert!(counted || killed, "{log}");
        assert_eq!(exuvia.stop(), 0);
    }
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
    let client = tunnel(&exuvia);
    let (into, end) = (client.stream().try_clone().unwrap(), shut(client.stream()));
    let exchanging = spawn(move || exchange(client, into, end));
    exuvia.upgrade();
    exchanging.join().unwrap();
    assert_eq!(exuvia.stop(), 0);
}
