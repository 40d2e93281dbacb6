//! The control API, spoken by hand.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::{Value, json};

use super::harness::{Exuvia, PATIENCE, eventually};
use super::traffic::get;

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }
}

fn connect(socket: &Path) -> UnixStream {
    let stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Sends a request, such as `GET /v1/status`.
fn send(exuvia: &Exuvia, request: &str) -> UnixStream {
    let mut stream = connect(&exuvia.control());
    stream.write_all(format!("{request} HTTP/1.1\r\nHost: exuvia\r\n\r\n").as_bytes()).unwrap();
    stream
}

/// Reads to the end, which the server makes after each answer.
fn read(mut stream: UnixStream) -> Answer {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
}

fn ask(exuvia: &Exuvia, request: &str) -> Answer {
    read(send(exuvia, request))
}

#[test]
fn the_status_is_one_document_and_the_command_prints_it() {
    let exuvia = Exuvia::start("[admin]\naddress = \"127.0.0.1:0\"\n");
    let answer = ask(&exuvia, "GET /v1/status");
    assert_eq!(answer.status, 200);
    assert!(answer.head.contains("content-type: application/json"), "{}", answer.head);
    assert!(answer.head.contains("connection: close"), "{}", answer.head);
    let status = answer.json();
    assert_eq!(status["generation"], 1);
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["phase"], "serving");
    assert_eq!(status["last_upgrade"], Value::Null);
    assert_eq!(status["control"], exuvia.control().display().to_string());
    assert_eq!(status["config"], exuvia.folder().join("exuvia.toml").display().to_string());
    let pid = status["pid"].as_i64().unwrap() as i32;
    assert_eq!(super::harness::children(exuvia.supervisor_pid()), [pid]);
    let admin = status["admin"].as_str().unwrap().parse().unwrap();
    assert_eq!(get(admin, "/livez").unwrap().status, 200);
    let own = &status["generations"][0];
    assert_eq!((&own["generation"], &own["pid"], &own["phase"]), (&json!(1), &json!(pid), &json!("serving")));
    assert_eq!(status["generations"].as_array().unwrap().len(), 1);

    let without_age = |mut status: Value| {
        status["generations"][0]["age_ms"] = Value::Null;
        status
    };
    assert_eq!(without_age(exuvia.status()), without_age(status));
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn an_upgrade_is_answered_with_its_verdict() {
    let exuvia = Exuvia::start("[restart]\nprobation = \"60s\"\nexecutable = \"next\"\n");
    exuvia.script("next", "echo the disk is on fire >&2; exit 7");
    let failed = ask(&exuvia, "POST /v1/upgrade");
    let document = failed.json();
    assert_eq!((failed.status, &document["result"]), (500, &json!("failed")), "{document}");
    let message = document["message"].as_str().unwrap();
    assert!(message.contains("the disk is on fire") && message.contains('7'), "{message}");
    assert!(document["step"].is_string() && document["pid"].is_i64(), "{document}");

    exuvia.script("next", &format!("exec {} \"$@\"", super::harness::EXUVIA));
    let ready = ask(&exuvia, "POST /v1/upgrade?until=ready");
    let document = ready.json();
    assert_eq!((ready.status, &document["result"]), (200, &json!("ready")), "{document}");
    // No number is given twice to processes that served; the one that failed never did.
    assert_eq!(document["generation"], 2);
    assert_eq!(document["pid"], exuvia.pid_of(2));

    let refused = ask(&exuvia, "POST /v1/upgrade");
    let document = refused.json();
    assert_eq!((refused.status, &document["result"]), (409, &json!("refused")), "{document}");
    assert!(document["message"].as_str().unwrap().contains("probation"), "{document}");

    let back = ask(&exuvia, "POST /v1/rollback");
    assert_eq!((back.status, back.json()), (200, json!({ "result": "rolled_back" })));
    let late = ask(&exuvia, "POST /v1/rollback");
    assert_eq!(late.status, 409);
    assert!(late.json()["error"].as_str().unwrap().contains("nothing to roll back"), "{}", late.body);
    eventually("the one that was rolled back is gone", || (exuvia.generations().len() == 1).then_some(()));
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn an_upgrade_can_be_followed_line_by_line() {
    let exuvia = Exuvia::start("[restart]\nprobation = \"100ms\"\n");
    let mut lines = BufReader::new(send(&exuvia, "POST /v1/upgrade?stream=1")).lines();
    let mut next = || lines.next().unwrap().unwrap();
    let mut head = Vec::new();
    while head.last().is_none_or(|line: &String| !line.is_empty()) {
        head.push(next());
    }
    assert_eq!(head[0], "HTTP/1.1 200 OK");
    assert!(head.iter().any(|line| line == "content-type: application/x-ndjson"), "{head:?}");
    let mut documents = Vec::new();
    while documents.last().is_none_or(|last: &Value| last["phase"] != "ended") {
        // Between the documents are the sizes of their chunks.
        documents.extend(
            Some(next())
                .filter(|line| line.starts_with('{'))
                .map(|line| serde_json::from_str::<Value>(&line).unwrap()),
        );
    }
    let phases: Vec<_> = documents.iter().map(|document| document["phase"].as_str().unwrap()).collect();
    assert_eq!(phases, ["started", "ready", "draining", "ended"]);
    assert_eq!(documents[0]["generation"], 2);
    assert_eq!(documents[1]["probation_ms"], 100);
    assert_eq!((&documents[2]["generation"], &documents[2]["connections"]), (&json!(1), &json!(0)));
    assert_eq!(documents[3]["result"], "committed");
    assert_eq!(documents[0]["pid"], exuvia.pid());
    assert_eq!(exuvia.status()["last_upgrade"], json!({ "result": "committed" }));
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn a_client_that_leaves_takes_no_upgrade_with_it() {
    let exuvia = Exuvia::start("[restart]\nprobation = \"0s\"\n[log]\nlevel = \"debug\"\n");
    for (request, generation) in [("POST /v1/upgrade", 2), ("POST /v1/upgrade?stream=1", 3)] {
        let stream = send(&exuvia, request);
        eventually("it is under way", || {
            exuvia.log().contains(&format!("starting generation={generation}")).then_some(())
        });
        drop(stream);
        eventually("it is done", || (exuvia.try_status()?["generation"] == generation).then_some(()));
    }
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn what_is_not_there_is_told_with_what_is() {
    let exuvia = Exuvia::start("");
    for (request, status) in [
        ("GET /", 404),
        ("GET /v2/status", 404),
        ("GET /v1/upgrade", 405),
        ("DELETE /v1/status", 405),
        ("POST /v1/upgrade?until=never", 400),
        ("POST /v1/stop?now=yes", 400),
    ] {
        let answer = ask(&exuvia, request);
        assert_eq!(answer.status, status, "{request}");
        let document = answer.json();
        assert!(document["error"].is_string(), "{request}: {document}");
        assert!(document["endpoints"].to_string().contains("POST /v1/upgrade"), "{request}: {document}");
    }
    assert!(ask(&exuvia, "GET /v1/stop").head.contains("allow: post"));
    assert_eq!(exuvia.generation(), 1, "nothing was done");
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn garbage_and_silence_harm_nobody() {
    let exuvia = Exuvia::start("");
    let mut silent: Vec<UnixStream> = (0..20).map(|_| connect(&exuvia.control())).collect();
    for stream in &mut silent[..10] {
        stream.write_all(b"POST /v1/upgrade HTTP/1.1\r\nHost: ex").unwrap();
    }
    for garbage in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc"[..],
        b"\r\n\r\n\r\n\0\0\0\0",
        b"GET\r\n\r\n",
        &[b'x'; 40_000],
    ] {
        let mut stream = connect(&exuvia.control());
        // It may be refused before it is sent whole.
        stream.write_all(garbage).ok();
        stream.shutdown(std::net::Shutdown::Write).ok();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok();
        let text = String::from_utf8_lossy(&answer);
        assert!(text.is_empty() || text.starts_with("HTTP/1.1 4"), "{text}");
    }
    assert_eq!(ask(&exuvia, "GET /v1/status").status, 200);
    assert_eq!(exuvia.generation(), 1);
    // They do not hold up the end either.
    assert_eq!(exuvia.stop(), 0);
    drop(silent);
}

#[test]
fn a_process_that_stops_says_so() {
    let mut exuvia = Exuvia::start("");
    let mut client = super::traffic::Client::connect(exuvia.address()).unwrap();
    client.ask("/slow?ms=60000").unwrap();
    eventually("the request is in flight", || {
        (ask(&exuvia, "GET /v1/status").json()["generations"][0]["connections"][0]["active"] == 1)
            .then_some(())
    });
    let stopping = ask(&exuvia, "POST /v1/stop");
    assert_eq!((stopping.status, stopping.json()), (202, json!({ "stopping": true })));
    exuvia.wait_phase("draining");
    let refused = ask(&exuvia, "POST /v1/upgrade");
    assert_eq!(refused.status, 409);
    assert!(refused.json()["message"].as_str().unwrap().contains("it stops"), "{}", refused.body);
    let page = super::harness::Answer::from(exuvia.command(&["status"]).output().unwrap());
    let first = page.out.lines().next().unwrap();
    assert!(first.contains(": generation 1 stops: it finishes what it had accepted (pid "), "{page:?}");
    ask(&exuvia, "POST /v1/stop?now=1");
    assert_eq!(exuvia.wait(), 0);
}
