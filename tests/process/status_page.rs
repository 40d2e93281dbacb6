//! What the admin listener shows to those who watch: the document, and the events over an upgrade.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

use serde_json::Value;

use super::harness::{Exuvia, PATIENCE, eventually};
use super::traffic::{Client, get};

const ADMIN: &str = "[admin]\naddress = \"127.0.0.1:0\"\n[restart]\nprobation = \"0s\"\n";

fn admin(exuvia: &Exuvia) -> SocketAddr {
    exuvia.status()["admin"].as_str().unwrap().parse().unwrap()
}

fn overview(address: SocketAddr) -> Value {
    let answer = get(address, "/status.json").unwrap();
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    assert!(answer.closes());
    serde_json::from_slice(&answer.body).unwrap()
}

/// A client of `/events`: one connection, without another attempt.
struct Events(BufReader<TcpStream>);

impl Events {
    fn open(address: SocketAddr) -> Events {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"GET /events HTTP/1.1\r\nHost: test\r\nAccept: text/event-stream\r\n\r\n").unwrap();
        let mut events = Events(BufReader::new(stream));
        let head = events.until_empty_line();
        assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("text/event-stream"), "{head}");
        events
    }

    fn until_empty_line(&mut self) -> String {
        let mut text = String::new();
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line).unwrap() == 0 || line == "\r\n" || line == "\n" {
                return text;
            }
            text.push_str(&line);
        }
    }

    /// The next document, with the id of its event; `None` after the last, which must be in order.
    fn next(&mut self) -> Option<(String, Value)> {
        let mut id = String::new();
        loop {
            let mut line = String::new();
            assert_ne!(self.0.read_line(&mut line).unwrap(), 0, "the answer is not finished");
            if let Some(text) = line.strip_prefix("id: ") {
                id = text.trim().to_owned();
            } else if let Some(text) = line.strip_prefix("data: ") {
                return Some((id, serde_json::from_str(text).unwrap()));
            } else if line == "0\r\n" {
                let mut rest = String::new();
                self.0.read_to_string(&mut rest).unwrap();
                assert_eq!(rest, "\r\n");
                return None;
            }
        }
    }
}

fn generation(overview: &Value, generation: u64) -> &Value {
    let all = overview["generations"].as_array().unwrap();
    all.iter().find(|one| one["generation"] == generation).unwrap_or(&Value::Null)
}

#[test]
fn the_document_says_what_is_going_on() {
    let exuvia = Exuvia::start(ADMIN);
    let address = admin(&exuvia);
    let first = overview(address);
    assert_eq!((&first["generation"], &first["pid"]), (&1.into(), &exuvia.pid().into()));
    assert_eq!((&first["phase"], &first["version"]), (&"serving".into(), &env!("CARGO_PKG_VERSION").into()));
    assert_eq!((&first["upgrades"], &first["upgrade"]), (&Value::Array(vec![]), &Value::Null));
    assert_eq!(generation(&first, 1)["phase"], "serving");

    let mut client = Client::connect(exuvia.address()).unwrap();
    for _ in 0..20 {
        assert_eq!(client.get("/").unwrap().status, 200);
    }
    let mut slow = Client::connect(exuvia.address()).unwrap();
    slow.ask("/slow?ms=60000").unwrap();
    let seen = eventually("the request is in flight", || {
        let seen = overview(address);
        (generation(&seen, 1)["requests_in_flight"] == 1).then_some(seen)
    });
    assert_eq!(generation(&seen, 1)["connections"]["http1"]["open"], 2, "{seen}");
    assert_eq!(generation(&seen, 1)["connections"]["http1"]["active"], 1, "{seen}");
    assert_eq!((&seen["totals"]["requests"], &seen["totals"]["answers"]["2xx"]), (&21.into(), &20.into()));
    let rates = &seen["rates"];
    assert!(rates["interval_ms"].as_u64().unwrap() >= 900, "{rates}");
    assert!(rates["requests_per_s"].as_f64().unwrap() > 0.0, "{rates}");
    assert!(rates["latency_p50_ms"].as_f64().unwrap() <= rates["latency_p99_ms"].as_f64().unwrap());

    // What one generation knows the next one does, and the one after that.
    exuvia.upgrade();
    exuvia.set(&format!("{ADMIN}[drain]\ntimeout = \"never\"\n"));
    assert_eq!(exuvia.ask(&["upgrade"]).code, 1);
    exuvia.set(ADMIN);
    exuvia.upgrade();
    let third = overview(address);
    assert_eq!(third["generation"], 3);
    assert_eq!(generation(&third, 1)["phase"], "draining");
    assert!(generation(&third, 1)["drain_deadline_ms"].as_u64() > third["at_ms"].as_u64(), "{third}");
    let upgrades: Vec<(u64, u64, &str)> = third["upgrades"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| {
            (one["from"].as_u64().unwrap(), one["to"].as_u64().unwrap(), one["result"].as_str().unwrap())
        })
        .collect();
    assert_eq!(upgrades, [(1, 2, "committed"), (2, 3, "failed"), (2, 3, "committed")]);
    let failed = &third["upgrades"][1];
    assert_eq!(failed["step"], "configuration");
    assert!(failed["message"].as_str().unwrap().contains("drain.timeout"), "{failed}");
    assert!(third["totals"]["requests"].as_u64().unwrap() >= 21, "{third}");

    assert_eq!(exuvia.ask(&["stop", "--now"]).code, 0);
}

#[test]
fn events_end_when_another_generation_accepts_and_it_has_the_next() {
    let exuvia = Exuvia::start(ADMIN);
    let address = admin(&exuvia);
    let mut slow = Client::connect(exuvia.address()).unwrap();
    slow.ask("/slow?ms=60000").unwrap();

    let mut events = Events::open(address);
    let (id, first) = events.next().unwrap();
    assert_eq!((id.as_str(), &first["generation"]), ("1.1", &1.into()));
    assert_eq!(events.next().unwrap().0, "1.2");

    exuvia.upgrade();
    let mut last = first;
    while let Some((_, document)) = events.next() {
        last = document;
    }
    assert_eq!(last["generation"], 1);
    let mut events = Events::open(address);
    let (id, next) = events.next().unwrap();
    assert_eq!((id.as_str(), &next["generation"]), ("2.1", &2.into()));
    let drains = eventually("generation 1 is seen to drain", || {
        let (_, document) = events.next()?;
        (generation(&document, 1)["phase"] == "draining").then_some(document)
    });
    assert_eq!(generation(&drains, 1)["requests_in_flight"], 1, "{drains}");
    assert_eq!(drains["upgrades"][0]["result"], "committed");

    // A stop is seen to its end, which is in order. It looked like a connection that was lost.
    assert_eq!(exuvia.ask(&["stop", "--now"]).code, 0);
    let mut last = drains;
    while let Some((_, document)) = events.next() {
        last = document;
    }
    assert_eq!((&last["stopped"], &last["generation"]), (&true.into(), &2.into()), "{last}");
}

/// Its answer is written to nobody: that must end, and must not hold up an upgrade or the end of the process.
#[test]
fn one_who_watches_and_does_not_read_holds_up_nothing() {
    let exuvia = Exuvia::start(ADMIN);
    let address = admin(&exuvia);
    let _deaf: Vec<Events> = (0..3).map(|_| Events::open(address)).collect();
    let old = exuvia.pid();
    exuvia.upgrade();
    eventually("the old process is gone", || (!super::harness::is_alive(old)).then_some(()));
    let _deaf: Vec<Events> = (0..3).map(|_| Events::open(address)).collect();
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn not_everybody_can_watch_and_everybody_can_look() {
    let exuvia = Exuvia::start(ADMIN);
    let address = admin(&exuvia);
    let _watching: Vec<Events> = (0..32).map(|_| Events::open(address)).collect();
    let refused = get(address, "/events").unwrap();
    assert_eq!(refused.status, 503);
    assert_eq!(overview(address)["generation"], 1);
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn a_browser_gets_a_page_that_asks_nobody_else() {
    let exuvia = Exuvia::start(ADMIN);
    let address = admin(&exuvia);
    let mut client = Client::connect(address).unwrap();
    client.send(b"GET / HTTP/1.1\r\nHost: test\r\nAccept: text/html,*/*;q=0.8\r\n\r\n").unwrap();
    let page = client.response().unwrap();
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    assert_eq!(page.header("cache-control"), Some("no-store"));
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none'; script-src 'sha256-"), "{policy}");
    assert!(String::from_utf8(page.body).unwrap().contains("</html>"));
    let line = get(address, "/").unwrap();
    assert_eq!(line.header("content-type"), Some("text/plain; charset=utf-8"));
    assert_eq!(exuvia.stop(), 0);
}

/// `exuvia status --watch` asks there: the owner answers, and ends its answer when another one is that.
#[test]
fn the_control_socket_has_the_same_line_by_line() {
    let exuvia = Exuvia::start(ADMIN);
    let mut stream = std::os::unix::net::UnixStream::connect(exuvia.control()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"GET /v1/watch HTTP/1.0\r\n\r\n").unwrap();
    let mut lines = BufReader::new(stream).lines().map(Result::unwrap).filter(|line| line.starts_with('{'));
    let next: Value = serde_json::from_str(&lines.next().unwrap()).unwrap();
    assert_eq!(next["generation"], 1);
    exuvia.upgrade();
    let last: Value = serde_json::from_str(&lines.last().unwrap()).unwrap();
    assert_eq!(last["generation"], 1);
    assert_eq!(exuvia.stop(), 0);
}

/// A page that was opened now showed nothing of the minutes before, and lanes as the last verdicts suggest them.
#[test]
fn a_page_opened_now_has_the_last_minutes_over_upgrades() {
    let exuvia = Exuvia::start(ADMIN);
    let address = admin(&exuvia);
    let mut client = Client::connect(exuvia.address()).unwrap();
    for _ in 0..10 {
        assert_eq!(client.get("/").unwrap().status, 200);
    }
    drop(client);
    let old = exuvia.pid();
    // Nobody watches meanwhile: the process keeps it for itself.
    let at_ms = || overview(address)["at_ms"].as_u64().unwrap();
    let begun = at_ms();
    eventually("some moments have passed", || (at_ms() >= begun + 2_500).then_some(()));
    let past = Events::open(address).next().unwrap().1["past"].clone();
    assert!(past["t_ms"].as_array().unwrap().len() >= 2, "{past}");
    assert!(past["requests_per_s"].as_array().unwrap().len() >= 2, "{past}");
    exuvia.upgrade();
    eventually("generation 1 is gone", || (!super::harness::is_alive(old)).then_some(()));
    exuvia.upgrade();
    let mut events = Events::open(address);
    let (id, first) = events.next().unwrap();
    assert_eq!(id, "3.1");
    let next = &first["past"];
    assert_eq!(next["begin_ms"], past["begin_ms"], "{next}");
    let first_lane = &next["lanes"]["1"];
    assert!(first_lane["gone_ms"].is_u64(), "{next}");
    let phases: Vec<&str> = first_lane["stretches"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["phase"].as_str().unwrap())
        .collect();
    assert_eq!(phases[0], "serving", "{next}");
    assert_eq!(first["upgrades"].as_array().unwrap().len(), 2);
    // It is told once.
    assert_eq!(events.next().unwrap().1["past"], Value::Null);
    assert_eq!(exuvia.stop(), 0);
}

/// The headline of the page said that 6 serves while 5 had all the requests, and the command that 1 watches.
#[test]
fn the_page_and_the_commands_have_one_word_for_who_serves() {
    let exuvia = Exuvia::start("[admin]\naddress = \"127.0.0.1:0\"\n[restart]\nprobation = \"60s\"\n");
    let address = admin(&exuvia);
    let said = |words: &str| {
        assert_eq!(overview(address)["headline"], words);
        let status = exuvia.ask(&["status"]).out;
        assert!(status.lines().next().unwrap().contains(&format!(": {words} (pid ")), "{status}");
    };
    said("generation 1 serves");
    assert_eq!(exuvia.ask(&["upgrade", "--until", "ready"]).code, 0);
    said("generation 1 watches generation 2, which takes new connections");
    // Whoever opens the page now sees that generation 1 has served before.
    let (_, first) = Events::open(address).next().unwrap();
    let stretches = first["past"]["lanes"]["1"]["stretches"].as_array().unwrap();
    assert_eq!(stretches[0]["phase"], "serving", "{first}");
    assert_eq!(exuvia.ask(&["rollback"]).code, 0);
    eventually("generation 1 answers again", || (overview(address)["generation"] == 1).then_some(()));
    said("generation 1 serves");
    assert_eq!(exuvia.stop(), 0);
}

/// It was cut after 240 bytes, and after its first line.
#[test]
fn the_cause_of_a_failure_is_told_in_full() {
    let settings = format!("{ADMIN}executable = \"next\"\n");
    let exuvia = Exuvia::start(&settings);
    let words = "word ".repeat(100);
    exuvia.script("next", &format!("echo first line >&2; echo {words} >&2; echo the last line >&2; exit 1"));
    assert_eq!(exuvia.ask(&["upgrade"]).code, 1);
    let seen = overview(admin(&exuvia));
    let message = seen["upgrades"][0]["message"].as_str().unwrap();
    for part in ["first line", words.trim(), "the last line"] {
        assert!(message.contains(part), "{part:?} is not in {message}");
    }
    assert_eq!(exuvia.stop(), 0);
}

/// What a server has answered is counted for as long as there are generations; it was on the page for as long, too.
#[test]
fn a_server_that_left_the_settings_leaves_the_page() {
    let exuvia = Exuvia::start(&format!("{ADMIN}[upstream]\nservers = [\"127.0.0.1:1\", \"127.0.0.1:2\"]\n"));
    let address = admin(&exuvia);
    for _ in 0..4 {
        assert_eq!(get(exuvia.address(), "/").unwrap().status, 502);
    }
    let names = || -> Vec<String> {
        let seen = overview(address);
        let all = seen["upstreams"].as_array().unwrap().iter();
        all.map(|one| one["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(), ["127.0.0.1:1", "127.0.0.1:2"]);
    exuvia.set(&format!("{ADMIN}[upstream]\nservers = [\"127.0.0.1:2\"]\n"));
    exuvia.upgrade();
    assert_eq!(names(), ["127.0.0.1:2"]);
    assert_eq!(exuvia.stop(), 0);
}
