//! Bodies that are larger than any memory that they may take.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use super::harness::Exuvia;
use super::traffic::Client;
use super::upstream::{Pattern, Upstream};

const GIB: u64 = 1 << 30;

/// The most memory that the proxy may ever have had resident, in KiB: a debug build has about 25 MiB at rest.
const MOST_KIB: u64 = 64 << 10;

/// `VmHWM` of the process that serves (proc_pid_status(5)).
#[track_caller]
fn peak_kib(exuvia: &Exuvia) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", exuvia.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[track_caller]
fn took_little_memory(exuvia: Exuvia) {
    let peak = peak_kib(&exuvia);
    assert!(peak < MOST_KIB, "{peak} KiB were resident");
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn a_download_of_1_gib() {
    let upstream = Upstream::start(|mut peer| {
        while peer.request().is_some() {
            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {GIB}\r\n\r\n").as_bytes()).unwrap();
            Pattern::new().pour(&mut peer, GIB).unwrap();
        }
    });
    let exuvia = Exuvia::start(&upstream.settings());
    let mut curl = Command::new("curl")
        .args(["--silent", "--show-error", "--fail", &format!("http://{}/", exuvia.address())])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = curl.stdout.take().unwrap();
    Pattern::new().swallow(&mut out, GIB).unwrap();
    assert!(curl.wait().unwrap().success());
    took_little_memory(exuvia);
}

/// curl does not know how long its standard input is, and sends it in chunks.
#[test]
fn an_upload_of_1_gib_in_chunks() {
    let upstream = Upstream::start(|mut peer| {
        while let Some(request) = peer.request() {
            assert_eq!(request.header("transfer-encoding"), Some("chunked"));
            let mut pattern = Pattern::new();
            let mut body = BufReader::with_capacity(256 * 1024, peer.chunked());
            while let Ok(block) = body.fill_buf()
                && !block.is_empty()
            {
                let n = block.len();
                pattern.check(block);
                body.consume(n);
            }
            let text = format!("{} bytes", pattern.total());
            peer.answer(&text).unwrap();
        }
    });
    let exuvia = Exuvia::start(&upstream.settings());
    let mut curl = Command::new("curl")
        .args(["--silent", "--show-error", "--fail", "--upload-file", "-"])
        .arg(format!("http://{}/", exuvia.address()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = curl.stdin.take().unwrap();
    Pattern::new().pour(&mut stdin, GIB).unwrap();
    drop(stdin);
    let output = curl.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{GIB} bytes"));
    took_little_memory(exuvia);
}

#[test]
fn an_upload_of_1_gib_with_a_length() {
    let upstream = Upstream::start(|mut peer| {
        while let Some(request) = peer.request() {
            assert_eq!(request.length() as u64, GIB);
            Pattern::new().swallow(&mut peer, GIB).unwrap();
            peer.answer("all of it").unwrap();
        }
    });
    let exuvia = Exuvia::start(&upstream.settings());
    let mut client = Client::connect(exuvia.address()).unwrap();
    client.send(format!("PUT / HTTP/1.1\r\nHost: test\r\nContent-Length: {GIB}\r\n\r\n").as_bytes()).unwrap();
    let mut stream = client.stream();
    Pattern::new().pour(&mut stream, GIB).unwrap();
    stream.flush().unwrap();
    assert_eq!(client.response().unwrap().body, b"all of it");
    took_little_memory(exuvia);
}
