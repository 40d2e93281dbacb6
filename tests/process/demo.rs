//! The demonstration upstream through the proxy: what a person tries first, and what the other tests lean on.

use std::time::{Duration, Instant};

use super::harness::Exuvia;
use super::traffic::{Client, get};

#[test]
fn every_page_does_what_it_says() {
    let exuvia = Exuvia::start("");
    let address = exuvia.address();
    let text = |target: &str| {
        let response = get(address, target).unwrap();
        (response.status, String::from_utf8(response.body).unwrap())
    };

    let (status, page) = text("/some/where?x=1");
    assert_eq!(status, 200);
    let first = format!("exuvia {}, generation 1, pid {}\n", env!("CARGO_PKG_VERSION"), exuvia.pid());
    assert!(page.starts_with(&first) && page.contains("GET /some/where?x=1\n"), "{page}");

    let begun = Instant::now();
    let (status, page) = text("/slow?ms=50");
    assert!(
        status == 200 && page.contains("after 50 ms") && begun.elapsed() >= Duration::from_millis(50),
        "{page}"
    );
    assert_eq!(text("/bytes?n=100000").1.len(), 100_000);
    assert_eq!(text("/bytes?n=0"), (200, String::new()));
    assert_eq!(text("/stream?n=3&every_ms=1").1.lines().count(), 3);
    assert_eq!(text("/status?code=418").0, 418);
    assert_eq!(text("/status?code=503").0, 503);
    assert_eq!(text("/status?code=204"), (204, String::new()));

    let mut client = Client::connect(address).unwrap();
    client
        .send(b"POST /echo HTTP/1.1\r\nHost: test\r\nContent-Type: a/b\r\nContent-Length: 5\r\n\r\nhello")
        .unwrap();
    let echo = client.response().unwrap();
    assert_eq!((echo.status, echo.header("content-type"), &echo.body[..]), (200, Some("a/b"), &b"hello"[..]));
    client.send(b"GET / HTTP/1.1\r\nHost: test\r\nAccept: application/json\r\n\r\n").unwrap();
    let json: serde_json::Value = serde_json::from_slice(&client.response().unwrap().body).unwrap();
    assert_eq!((&json["generation"], &json["pid"]), (&1.into(), &exuvia.pid().into()));
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn a_parameter_that_makes_no_sense_is_told_with_what_does() {
    let exuvia = Exuvia::start("");
    for (target, words) in [
        ("/slow?ms=soon", "ms must be a number from 0 to 600000"),
        ("/slow?ms=600001", "ms must be"),
        ("/bytes?n=-1", "n must be"),
        ("/stream?n=1000001", "n must be a number from 0 to 1000000"),
        ("/stream?every_ms=", "every_ms must be"),
        ("/status?code=99", "code must be a number from 200 to 599"),
        ("/status?code=101", "code must be"),
        ("/status?code=600", "code must be"),
    ] {
        let response = get(exuvia.address(), target).unwrap();
        let body = String::from_utf8(response.body).unwrap();
        assert_eq!(response.status, 400, "{target}");
        assert!(body.contains(words) && body.contains("default"), "{target}: {body}");
    }
    assert_eq!(exuvia.stop(), 0);
}
