//! HTTP/2 without TLS, by prior knowledge.

use super::curl::curl;
use super::harness::{Exuvia, eventually, is_alive};
use super::multiplexed::Multiplexed;
use super::traffic::Traffic;

#[test]
fn twenty_upgrades_fail_no_stream() {
    let exuvia = Exuvia::start("workers = 2\n[restart]\nprobation = \"0s\"\n");
    let (http2, http1) = (Multiplexed::start(exuvia.address(), 3, 8), Traffic::start(exuvia.address(), 2));
    for generation in 2..=21 {
        exuvia.upgrade();
        http2.reaches(generation);
    }
    http2.finish();
    http1.finish();
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn an_answer_in_flight_is_finished_by_the_process_that_began_it() {
    let exuvia = Exuvia::start("[restart]\nprobation = \"0s\"\n");
    let old = exuvia.pid();
    let url = format!("http://{}/stream?n=40&every_ms=50", exuvia.address());
    let client = std::thread::spawn(move || curl(&["--http2-prior-knowledge", &url]));
    let in_flight = || exuvia.status().to_string().contains(r#""active":1,"#);
    eventually("the request is in flight", || in_flight().then_some(()));
    exuvia.upgrade();
    assert!(is_alive(old), "it left its client alone");
    let lines: String = (1..=40).map(|n| format!("line {n}\n")).collect();
    assert_eq!(client.join().unwrap(), lines);
    eventually("the old process is gone", || (!is_alive(old)).then_some(()));
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn curl_speaks_it() {
    let exuvia = Exuvia::start("");
    let url = format!("http://{}/bytes?n=5", exuvia.address());
    let said = ["--write-out", " %{num_connects} %{http_version} %{http_code}\n"];
    let with = |more: &[&str]| curl(&[more, &said].concat());
    // Once: curl 7.88 fails at a second request on such a connection, and has sent nothing of it.
    assert_eq!(with(&["--http2-prior-knowledge", &url]), "xxxxx 1 2 200\n");
    // The way by `Upgrade: h2c` is none (RFC 9113, section 3.1): it goes on as HTTP/1.1.
    assert_eq!(with(&["--http2", &url]), "xxxxx 1 1.1 200\n");
    let head = curl(&["--http2-prior-knowledge", "--head", &url]);
    assert!(head.starts_with("HTTP/2 200") && head.contains("\r\ncontent-length: 5\r\n"), "{head}");
    let large = format!("http://{}/bytes?n=20000000", exuvia.address());
    let size =
        ["--http2-prior-knowledge", "--output", "/dev/null", "--write-out", "%{size_download}", &large];
    assert_eq!(curl(&size), "20000000");
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn a_listener_may_have_one_protocol_only() {
    let exuvia = Exuvia::start("[listeners.web]\naddress = \"127.0.0.1:0\"\nprotocols = [\"h2\"]\n");
    let url = format!("http://{}/bytes?n=5", exuvia.address());
    assert_eq!(curl(&["--http2-prior-knowledge", &url]), "xxxxx");
    assert_eq!(exuvia.stop(), 0);
}
