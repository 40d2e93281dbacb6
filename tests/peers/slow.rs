//! Bodies of 100 MiB in slow motion, by curl over every protocol, while the process is replaced under them. The
//! download is held back by who reads curl's output, the upload by the server that reads it.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::spawn;

use super::harness::{Exuvia, PATIENCE, is_alive};
use super::twenty::{UPGRADES, encrypted, ends_well, plain};
use super::upstream::{Pattern, Peer, Upstream};

/// More than all buffers on the way can hold.
const LENGTH: u64 = 100 << 20;

/// What is let through at a time.
const STEP: u64 = 1 << 20;

/// Reads a step whenever it is told to, and the rest once nobody tells it any more.
fn read_slowly(from: &mut impl Read, steps: &Receiver<()>) -> u64 {
    let mut pattern = Pattern::new();
    while steps.recv().is_ok() {
        pattern.swallow(from, STEP).unwrap();
    }
    let rest = LENGTH - pattern.total();
    pattern.swallow(from, rest).unwrap();
    pattern.total()
}

fn serve(mut peer: Peer, begun: &Sender<()>, steps: &Mutex<Receiver<()>>) {
    let Some(request) = peer.request() else { return };
    begun.send(()).unwrap();
    // A download takes no steps here; it is held back at its other end.
    if request.line.starts_with("PUT") {
        let steps = &steps.lock().unwrap();
        let read = if request.header("transfer-encoding").is_some() {
            let mut body = peer.chunked();
            let read = read_slowly(&mut body, steps);
            // An answer to a body that has not ended is followed by RST_STREAM, which curl 7.88 takes for a failure.
            assert_eq!(body.read(&mut [0]).unwrap(), 0, "more has come than was sent");
            read
        } else {
            read_slowly(&mut peer, steps)
        };
        peer.answer(&read.to_string()).unwrap();
    } else {
        peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n").as_bytes()).unwrap();
        Pattern::new().pour(&mut peer, LENGTH).unwrap();
    }
}

fn curl(exuvia: &Exuvia, arguments: &[&str]) -> Child {
    let encrypted = arguments.contains(&"--cacert");
    let (scheme, port) = (if encrypted { "https" } else { "http" }, exuvia.address().port());
    Command::new("curl")
        .args(["--silent", "--show-error", "--fail", "--no-buffer"])
        .args(["--resolve", &format!("localhost:{port}:127.0.0.1")])
        .args(arguments)
        .arg(format!("{scheme}://localhost:{port}/"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[track_caller]
fn twenty_upgrades(start: impl Fn(&str) -> (Exuvia, Vec<String>)) {
    let (take, steps) = channel();
    let steps = Mutex::new(steps);
    let (sender, begun) = channel();
    let sender = Mutex::new(sender);
    let upstream = Upstream::start(move |peer| {
        let begun = sender.lock().unwrap().clone();
        serve(peer, &begun, &steps);
    });
    let (exuvia, arguments) = start(&upstream.settings());
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let first = exuvia.pid();

    let mut download = curl(&exuvia, &arguments);
    let (read, download_steps) = channel();
    let mut out = download.stdout.take().unwrap();
    let downloading = spawn(move || read_slowly(&mut out, &download_steps));
    read.send(()).unwrap();

    let mut upload = curl(&exuvia, &[&arguments, &["-T", "-"][..]].concat());
    let mut stdin = upload.stdin.take().unwrap();
    let uploading = spawn(move || {
        Pattern::new().pour(&mut stdin, LENGTH).unwrap();
        drop(stdin);
        upload.wait_with_output().unwrap()
    });
    // Both are the first process's, which the upgrades below would otherwise find with nothing to do.
    for _ in 0..2 {
        begun.recv_timeout(PATIENCE).unwrap();
    }
    for generation in 1..=UPGRADES {
        take.send(()).unwrap();
        read.send(()).unwrap();
        assert_eq!(exuvia.generation(), generation);
        exuvia.upgrade();
    }
    assert!(is_alive(first), "the first process has gone");
    assert!(!uploading.is_finished(), "the upload has ended: {:?}", uploading.join());
    assert!(!downloading.is_finished(), "the download has ended: {:?}", downloading.join());
    drop((take, read));

    assert_eq!(downloading.join().unwrap(), LENGTH);
    assert!(download.wait().unwrap().success());
    let output = uploading.join().unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8(output.stdout).unwrap(), LENGTH.to_string());
    ends_well(exuvia);
}

fn with_tls(settings: &str, protocol: &str) -> (Exuvia, Vec<String>) {
    let (exuvia, certificate) = encrypted(settings);
    let arguments = ["--cacert", certificate.authority(), protocol].map(str::to_owned);
    (exuvia, arguments.to_vec())
}

#[test]
fn twenty_upgrades_under_http1_in_plain() {
    twenty_upgrades(|settings| (plain(settings), vec!["--http1.1".to_owned()]));
}

#[test]
fn twenty_upgrades_under_http1_over_tls() {
    twenty_upgrades(|settings| with_tls(settings, "--http1.1"));
}

#[test]
fn twenty_upgrades_under_http2_over_tls() {
    twenty_upgrades(|settings| with_tls(settings, "--http2"));
}

#[test]
fn twenty_upgrades_under_http2_with_prior_knowledge() {
    twenty_upgrades(|settings| (plain(settings), vec!["--http2-prior-knowledge".to_owned()]));
}
