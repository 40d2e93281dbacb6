use std::io::{Read, Write};
use std::net::TcpStream;

use super::*;

fn demo() -> Demo {
    Demo::start(DemoInfo { generation: 7, pid: 42, version: "1.2.3".into() }).unwrap()
}

/// The answer to one request, head and all.
fn ask(demo: &Demo, request: &str) -> String {
    let mut stream = TcpStream::connect(demo.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn get(demo: &Demo, target: &str) -> String {
    ask(demo, &format!("GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"))
}

#[test]
fn it_shows_who_it_is_and_what_it_was_asked() {
    let demo = demo();
    let answer = get(&demo, "/any/path?x=1");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("x-exuvia-generation: 7\r\nx-exuvia-pid: 42\r\n"), "{answer}");
    assert!(answer.contains("exuvia 1.2.3, generation 7, pid 42\n"), "{answer}");
    assert!(answer.contains("GET /any/path?x=1\nhost: a\n"), "{answer}");

    let answer =
        ask(&demo, "GET / HTTP/1.1\r\nHost: a\r\nAccept: application/json\r\nConnection: close\r\n\r\n");
    let (_, json) = answer.split_once("\r\n\r\n").unwrap();
    let json: serde_json::Value = serde_json::from_str(json).unwrap();
    assert_eq!(
        (&json["generation"], &json["pid"], &json["version"]),
        (&7.into(), &42.into(), &"1.2.3".into())
    );
    assert_eq!(json["headers"][0][0], "host");
}

#[test]
fn it_does_as_it_is_told() {
    let demo = demo();
    assert!(get(&demo, "/slow?ms=1").contains("after 1 ms"));
    let answer = get(&demo, "/bytes?n=200000");
    assert!(answer.contains("content-length: 200000\r\n") && answer.ends_with(&"x".repeat(200_000)));
    assert!(get(&demo, "/bytes?n=0").contains("content-length: 0\r\n"));
    let answer = get(&demo, "/stream?n=3&every_ms=0");
    assert!(answer.contains("transfer-encoding: chunked") && answer.contains("line 3\n"), "{answer}");
    assert!(get(&demo, "/status?code=503").starts_with("HTTP/1.1 503 "));
    assert!(get(&demo, "/status?code=204").starts_with("HTTP/1.1 204 "));
    let answer = ask(
        &demo,
        "POST /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: text/x\r\nTE: trailers\r\n\
         Trailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 9\r\n\r\n",
    );
    assert!(answer.contains("content-type: text/x\r\n"), "{answer}");
    assert!(answer.ends_with("3\r\nabc\r\n0\r\nx-sum: 9\r\n\r\n"), "{answer}");
}

#[test]
fn it_says_what_it_allows() {
    let demo = demo();
    for (target, allowed) in [
        ("/slow?ms=600001", "ms must be a number from 0 to 600000"),
        ("/bytes?n=-1", "n must be a number from 0 to 17179869184"),
        ("/stream?n=x", "n must be a number"),
        ("/status?code=101", "code must be a number from 200 to 599"),
    ] {
        let answer = get(&demo, target);
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains(allowed), "{answer}");
    }
}
