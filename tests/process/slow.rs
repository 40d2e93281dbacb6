//! Bodies in slow motion, each held back by the side that reads it, while the process is replaced under them.

use std::io::Read;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::thread::spawn;

use super::harness::{Exuvia, eventually, is_alive};
use super::traffic::Client;
use super::upstream::{Pattern, Upstream};

/// More than all buffers on the way can hold.
const LENGTH: u64 = 100 << 20;

/// What is let through at a time.
const STEP: u64 = 1 << 20;

const UPGRADES: u64 = 20;

const PATIENT: &str = "[restart]\nprobation = \"0s\"\nmax_generations = 64\n[drain]\ntimeout = \"60s\"\n";

/// Reads a step whenever it is told to, and the rest once nobody tells it any more.
fn read_slowly(from: &mut impl Read, steps: &Receiver<()>) -> Pattern {
    let mut pattern = Pattern::new();
    while steps.recv().is_ok() {
        pattern.swallow(from, STEP).unwrap();
    }
    let rest = LENGTH - pattern.total();
    pattern.swallow(from, rest).unwrap();
    pattern
}

#[test]
fn an_upload_and_a_download_outlive_twenty_upgrades() {
    let (take, steps) = channel();
    let steps = Mutex::new(steps);
    let upstream = Upstream::start(move |mut peer| {
        let Some(request) = peer.request() else { return };
        if request.line.starts_with("PUT") {
            assert_eq!(request.length() as u64, LENGTH);
            let whole = read_slowly(&mut peer, &steps.lock().unwrap()).total();
            peer.answer(&whole.to_string()).unwrap();
        } else {
            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n").as_bytes()).unwrap();
            Pattern::new().pour(&mut peer, LENGTH).unwrap();
        }
    });
    let exuvia = Exuvia::start(&format!("{}{PATIENT}", upstream.settings()));
    let first = exuvia.pid();

    let mut upload = Client::connect(exuvia.address()).unwrap();
    let uploading = spawn(move || {
        let head = format!("PUT / HTTP/1.1\r\nHost: test\r\nContent-Length: {LENGTH}\r\n\r\n");
        upload.send(head.as_bytes()).unwrap();
        Pattern::new().pour(&mut upload.stream(), LENGTH).unwrap();
        upload.response().unwrap()
    });
    let mut download = Client::connect(exuvia.address()).unwrap();
    download.ask("/").unwrap();
    assert_eq!(download.head().unwrap().status, 200);
    let (read, download_steps) = channel();
    let downloading = spawn(move || read_slowly(&mut download, &download_steps).total());

    for generation in 1..=UPGRADES {
        take.send(()).unwrap();
        read.send(()).unwrap();
        assert_eq!(exuvia.generation(), generation);
        exuvia.upgrade();
    }
    assert!(is_alive(first) && !uploading.is_finished() && !downloading.is_finished());
    drop((take, read));

    assert_eq!(downloading.join().unwrap(), LENGTH);
    let answer = uploading.join().unwrap();
    assert_eq!(answer.body, LENGTH.to_string().as_bytes());
    assert!(answer.closes(), "the process that answered it is leaving");
    eventually("the first process is gone", || (!is_alive(first)).then_some(()));
    assert_eq!(exuvia.stop(), 0);
}
