//! Clients and servers that were not written here: curl, and what Python has.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::harness::Exuvia;
use super::traffic::Client;
use super::upstream::{Upstream, settings};

/// What curl writes; it must succeed.
#[track_caller]
pub fn curl(arguments: &[&str]) -> String {
    let output = Command::new("curl").args(["--silent", "--show-error"]).args(arguments).output().unwrap();
    assert!(output.status.success(), "curl {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The fields that the demonstration upstream got, as (name, value).
#[track_caller]
fn fields_that_arrive(exuvia: &Exuvia, arguments: &[&str]) -> Vec<(String, String)> {
    let url = format!("http://{}/", exuvia.address());
    let shown = curl(&[&["--header", "Accept: application/json", &url], arguments].concat());
    let shown: Value = serde_json::from_str(&shown).unwrap();
    serde_json::from_value(shown["headers"].clone()).unwrap()
}

/// RFC 9110, section 7.6.1.
#[test]
fn what_is_for_one_hop_ends_there_and_nothing_can_be_forged() {
    let exuvia = Exuvia::start("");
    let sent = [
        "Connection: close, X-Mine, Keep-Alive",
        "X-Mine: 1",
        "Keep-Alive: timeout=5",
        "Proxy-Connection: keep-alive",
        "Proxy-Authorization: Basic Zm9v",
        "TE: gzip",
        "Upgrade: websocket",
        "X-Forwarded-For: 6.6.6.6",
        "X_Forwarded_For: 6.6.6.6",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: evil.example",
        "X-Forwarded-Port: 1",
        "X-Real-IP: 6.6.6.6",
        "Forwarded: for=6.6.6.6",
        "Via: 1.0 somebody",
        "X-Kept: yes",
        "Host: shop.example:81",
    ];
    let arguments: Vec<&str> = sent.iter().flat_map(|field| ["--header", field]).collect();
    let fields = fields_that_arrive(&exuvia, &arguments);
    let all = |name: &str| -> Vec<&str> {
        fields.iter().filter(|field| field.0 == name).map(|field| field.1.as_str()).collect()
    };
    assert_eq!(all("host"), ["shop.example:81"]);
    assert_eq!(all("x-kept"), ["yes"]);
    assert_eq!(all("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(all("x-forwarded-proto"), ["http"]);
    assert_eq!(all("x-forwarded-host"), ["shop.example:81"]);
    assert_eq!(all("via"), ["1.0 somebody", "1.1 exuvia"]);
    let gone = [
        "connection",
        "x-mine",
        "keep-alive",
        "proxy-connection",
        "proxy-authorization",
        "te",
        "upgrade",
        "x_forwarded_for",
        "x-forwarded-port",
        "x-real-ip",
        "forwarded",
    ];
    for name in gone {
        assert!(all(name).is_empty(), "{name} has arrived: {fields:?}");
    }
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn versions_and_connections() {
    let exuvia = Exuvia::start("");
    let url = format!("http://{}/bytes?n=5", exuvia.address());
    let connects = ["--write-out", " %{num_connects} %{http_version}\n", &url, &url];
    let with = |more: &[&str]| curl(&[more, &connects].concat());
    assert_eq!(with(&[]), "xxxxx 1 1.1\nxxxxx 0 1.1\n");
    assert_eq!(with(&["--header", "Connection: close"]), "xxxxx 1 1.1\nxxxxx 1 1.1\n");
    // To a client of HTTP/1.0 hyper says that it is one too.
    assert_eq!(with(&["--http1.0"]), "xxxxx 1 1\nxxxxx 1 1\n");
    assert_eq!(with(&["--http1.0", "--header", "Connection: keep-alive"]), "xxxxx 1 1\nxxxxx 0 1\n");
    // Of unknown length, to a client that does not know chunks: its end is the connection's.
    let lines = format!("http://{}/stream?n=3&every_ms=1", exuvia.address());
    assert_eq!(curl(&["--http1.0", &lines]), "line 1\nline 2\nline 3\n");
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn a_head_has_no_body_and_the_connection_goes_on() {
    let exuvia = Exuvia::start("");
    let url = format!("http://{}/bytes?n=12345", exuvia.address());
    let heads = curl(&["--head", &url, &url, "--write-out", "%{num_connects}\n"]);
    assert_eq!(heads.matches("content-length: 12345\r\n").count(), 2, "{heads}");
    assert!(heads.contains("HTTP/1.1 200 OK\r\n") && heads.contains("\r\ndate: "), "{heads}");
    assert!(heads.contains("\r\n\r\n1\n") && heads.ends_with("\r\n\r\n0\n"), "{heads}");
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn a_large_body_that_waits_for_100_continue() {
    let exuvia = Exuvia::start("");
    let body = exuvia.folder().join("body");
    fs::write(&body, noise(10 << 20)).unwrap();
    let back = exuvia.folder().join("back");
    let data = format!("@{}", body.display());
    let heads = curl(&[
        "--data-binary",
        &data,
        "--header",
        "Expect: 100-continue",
        // Longer than the test may take: it must be told.
        "--expect100-timeout",
        "60",
        "--dump-header",
        "-",
        "--output",
        back.to_str().unwrap(),
        &format!("http://{}/echo", exuvia.address()),
    ]);
    assert!(heads.starts_with("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n"), "{heads}");
    assert!(fs::read(&body).unwrap() == fs::read(&back).unwrap(), "the body came back changed");
    assert_eq!(exuvia.stop(), 0);
}

fn noise(length: usize) -> Vec<u8> {
    let mut noise = Vec::with_capacity(length);
    super::upstream::Pattern::new().pour(&mut noise, length as u64).unwrap();
    noise
}

/// curl shows trailers as it shows a head.
#[test]
fn trailers_arrive() {
    let upstream = Upstream::start(|mut peer| {
        while let Some(request) = peer.request() {
            assert_eq!(request.header("te"), Some("trailers"));
            let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
                          5\r\nhello\r\n0\r\nX-Sum: 532\r\n\r\n";
            peer.send(answer.as_bytes()).unwrap();
        }
    });
    let exuvia = Exuvia::start(&upstream.settings());
    let url = format!("http://{}/", exuvia.address());
    let shown = curl(&["--header", "TE: trailers", "--dump-header", "-", &url]);
    assert!(shown.contains("trailer: X-Sum\r\n"), "{shown}");
    assert!(shown.contains("hello") && shown.contains("x-sum: 532\r\n"), "{shown}");
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn pipelined_requests_are_answered_in_turn() {
    let exuvia = Exuvia::start("");
    let mut client = Client::connect(exuvia.address()).unwrap();
    let requests: String =
        (0..50).map(|n| format!("GET /bytes?n={n} HTTP/1.1\r\nHost: test\r\n\r\n")).collect();
    client.send(requests.as_bytes()).unwrap();
    for n in 0..50 {
        assert_eq!(client.response().unwrap().body.len(), n);
    }
    drop(client);
    assert_eq!(exuvia.stop(), 0);
}

/// Python's server: HTTP/1.0, and the end of the connection ends each answer.
struct PythonServer {
    process: Child,
    address: SocketAddr,
}

impl PythonServer {
    fn start(folder: &Path) -> PythonServer {
        let mut process = Command::new("python3")
            .args(["-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory"])
            .arg(folder)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        // "Serving HTTP on 127.0.0.1 port 41337 (http://127.0.0.1:41337/) ..."
        let port = line.split_whitespace().nth(5).and_then(|port| port.parse().ok());
        let port: u16 = port.unwrap_or_else(|| panic!("Python says {line:?}"));
        PythonServer { process, address: ([127, 0, 0, 1], port).into() }
    }
}

impl Drop for PythonServer {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// Many requests on one connection of Python's client, to files of Python's server.
#[test]
fn python_on_both_sides() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("large"), noise(5 << 20)).unwrap();
    fs::write(folder.path().join("small"), "small\n").unwrap();
    fs::write(folder.path().join("empty"), "").unwrap();
    let server = PythonServer::start(folder.path());
    let exuvia = Exuvia::start(&settings(&[server.address]));
    let script = r#"
import http.client, sys
host, folder = sys.argv[1:]
connection = http.client.HTTPConnection(host, timeout=30)
for name, status in [("small", 200), ("large", 200), ("empty", 200), ("missing", 404)] * 5:
    connection.request("GET", "/" + name)
    answer = connection.getresponse()
    body = answer.read()
    assert answer.status == status, (name, answer.status)
    assert answer.version == 11 and answer.getheader("via") == "1.0 exuvia", answer.getheaders()
    assert answer.getheader("server").startswith("SimpleHTTP/"), answer.getheaders()
    assert len(answer.headers.get_all("date")) == 1, answer.getheaders()
    assert status != 200 or body == open(folder + "/" + name, "rb").read(), name
    connection.request("HEAD", "/" + name)
    answer = connection.getresponse()
    assert answer.status == status and answer.read() == b"", name
"#;
    let output = Command::new("python3")
        .args(["-c", script, &exuvia.address().to_string()])
        .arg(folder.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(exuvia.stop(), 0);
}
