//! Upstream servers that are down, silent, or break off.

use std::net::{SocketAddr, TcpListener};
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use super::harness::{Exuvia, eventually};
use super::traffic::{Client, get};
use super::upstream::{Hole, Upstream, settings, telling, telling_at};

/// An address where nobody listens: its port is taken for as long as the connection is there that has it.
fn nobody() -> (SocketAddr, (TcpListener, std::net::TcpStream)) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let holder = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (holder.local_addr().unwrap(), (listener, holder))
}

#[test]
fn one_that_is_down_is_named() {
    let (down, _held) = nobody();
    let exuvia = Exuvia::start(&format!("errors = \"detailed\"\n{}", settings(&[down])));
    let mut client = Client::connect(exuvia.address()).unwrap();
    for _ in 0..3 {
        let answer = client.get("/").unwrap();
        assert_eq!(answer.status, 502);
        let id = answer.header("x-request-id").unwrap().to_owned();
        let text = String::from_utf8(answer.body).unwrap();
        assert_eq!(text, format!("502 Bad Gateway: upstream {down}: connection refused\nrequest {id}\n"));
    }
    exuvia.says(&format!("upstream {down}: connection refused"));
    drop(client);
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn one_that_is_silent_is_not_waited_for() {
    let upstream = Upstream::start(|mut peer| {
        peer.request();
        peer.until_closed();
    });
    let exuvia = Exuvia::start(&format!(
        "errors = \"detailed\"\n{}response_timeout = \"300ms\"\n",
        upstream.settings()
    ));
    let begun = Instant::now();
    let answer = get(exuvia.address(), "/").unwrap();
    assert_eq!(answer.status, 504);
    assert!(begun.elapsed() >= Duration::from_millis(300));
    let id = answer.header("x-request-id").unwrap().to_owned();
    let text = String::from_utf8(answer.body).unwrap();
    let words = format!("504 Gateway Timeout: upstream {}: no answer in time", upstream.address());
    assert_eq!(text, format!("{words}\nrequest {id}\n"));
    assert_eq!(exuvia.stop(), 0);
}

/// What is short must look short to the client, however the body was framed.
#[test]
fn one_that_breaks_off_is_not_covered_up() {
    let upstream = Upstream::start(|mut peer| {
        let Some(request) = peer.request() else { return };
        let framing = match request.line.contains("/chunked") {
            true => "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
            false => "Content-Length: 10\r\n\r\nhello",
        };
        peer.send(format!("HTTP/1.1 200 OK\r\n{framing}").as_bytes()).unwrap();
        peer.close();
    });
    let exuvia = Exuvia::start(&upstream.settings());
    for target in ["/chunked", "/length"] {
        let mut client = Client::connect(exuvia.address()).unwrap();
        let answer = client.get(target);
        let error = answer.expect_err("half an answer was taken for a whole one");
        assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof, "{target}: {error}");
        for version in ["--http1.1", "--http1.0"] {
            let url = format!("http://{}{target}", exuvia.address());
            let curl = std::process::Command::new("curl").args(["--silent", version, &url]).output().unwrap();
            // 18: fewer bytes than were announced; 56: the connection was reset.
            assert!(matches!(curl.status.code(), Some(18 | 56)), "{version} {target}: {curl:?}");
        }
    }
    assert_eq!(exuvia.stop(), 0);
}

/// Servers close connections that were idle for too long, and do not say so before.
#[test]
fn one_that_closes_kept_connections_costs_no_request() {
    let (sender, closed) = channel();
    let sender = Mutex::new(sender);
    let upstream = Upstream::start(move |mut peer| {
        if peer.whole().is_some() {
            peer.answer("ok").unwrap();
            peer.close();
            sender.lock().unwrap().send(()).ok();
        }
    });
    let exuvia = Exuvia::start(&upstream.settings());
    let mut client = Client::connect(exuvia.address()).unwrap();
    for _ in 0..200 {
        client.send(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\n\r\nabc").unwrap();
        let answer = client.response().unwrap();
        assert_eq!((answer.status, answer.body.as_slice()), (200, &b"ok"[..]));
        closed.recv().unwrap();
    }
    drop(client);
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn the_next_one_is_used_when_one_is_down() {
    let (down, _held) = nobody();
    let upstream = Upstream::start(|peer| peer.answer_all("ok"));
    let exuvia = Exuvia::start(&settings(&[down, upstream.address()]));
    let mut client = Client::connect(exuvia.address()).unwrap();
    for _ in 0..20 {
        let answer = client.get("/").unwrap();
        assert_eq!((answer.status, answer.body.as_slice()), (200, &b"ok"[..]));
    }
    drop(client);
    assert_eq!(exuvia.stop(), 0);
}

#[track_caller]
pub fn body(exuvia: &Exuvia) -> String {
    let answer = get(exuvia.address(), "/").unwrap();
    let text = String::from_utf8(answer.body).unwrap();
    assert_eq!(answer.status, 200, "{text}");
    text
}

/// How many connects to this server have failed.
fn failures(exuvia: &Exuvia, server: SocketAddr) -> u64 {
    let admin: SocketAddr = exuvia.listener("exuvia-admin").parse().unwrap();
    let text = String::from_utf8(get(admin, "/metrics").unwrap().body).unwrap();
    let name = format!("exuvia_upstream_connect_failures_total{{upstream=\"{server}\"}} ");
    text.lines().find_map(|line| line.strip_prefix(&name)).map_or(0, |value| value.parse().unwrap())
}

/// A server that did not answer cost every request whose turn it was the whole of `connect_timeout`.
#[test]
fn one_that_does_not_answer_is_tried_last_for_a_while() {
    let (port, _good) = telling(&["127.0.0.2"]);
    let hole = SocketAddr::from(([127, 0, 0, 3], port));
    let good = SocketAddr::from(([127, 0, 0, 2], port));
    let _hole = Hole::at(hole);
    let settings = settings(&[hole, good]);
    let exuvia = Exuvia::start(&format!(
        "workers = 1\n{settings}connect_timeout = \"200ms\"\n[admin]\naddress = \"127.0.0.1:0\"\n"
    ));
    for _ in 0..40 {
        assert_eq!(body(&exuvia), "127.0.0.2");
    }
    // It was the turn of the other in 20 of them; the waits in between are 1, 2, 4 and 8 s.
    let failures = failures(&exuvia, hole);
    assert!((1..=5).contains(&failures), "{failures}");
    let log = exuvia.log();
    assert_eq!(log.matches("others are tried before it").count(), 1, "{log}");
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn one_that_is_back_is_used_again_and_when_all_are_down_all_are_tried() {
    let (port, both) = telling(&["127.0.0.2", "127.0.0.3"]);
    let addresses = [2, 3].map(|last| SocketAddr::from(([127, 0, 0, last], port)));
    drop(both);
    let settings = settings(&addresses);
    let exuvia = Exuvia::start(&format!("workers = 1\n{settings}[admin]\naddress = \"127.0.0.1:0\"\n"));
    for n in 1..=4 {
        assert_eq!(get(exuvia.address(), "/").unwrap().status, 502);
        assert_eq!(addresses.map(|address| failures(&exuvia, address)), [n, n]);
    }
    let _first = telling_at(addresses[0]);
    for _ in 0..4 {
        // Not only when its time is over: there is no other.
        assert_eq!(body(&exuvia), "127.0.0.2");
    }
    let _second = telling_at(addresses[1]);
    eventually("the other is used again", || (body(&exuvia) == "127.0.0.3").then_some(()));
    let log = exuvia.log();
    assert!(log.contains("the server can be connected to again"), "{log}");
    assert_eq!(exuvia.stop(), 0);
}
