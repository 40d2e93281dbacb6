//! A probation sees what the new process does: how many requests it has answered, and how.
//!
//! With 32 kept connections, which stay with the old process, the new one was committed after its probation with no
//! request answered, and nobody was told.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::Stdio;

use serde_json::{Value, json};

use super::harness::{Alone, Exuvia, eventually};
use super::traffic::{Client, get};

/// An upgrade that has begun to watch the new process, line by line.
struct Watching {
    command: Alone,
    lines: Box<dyn Iterator<Item = Value>>,
}

impl Watching {
    fn begin(exuvia: &Exuvia) -> Watching {
        let mut command =
            Alone(exuvia.command(&["upgrade", "--json"]).stdout(Stdio::piped()).spawn().unwrap());
        let lines = BufReader::new(command.0.stdout.take().unwrap()).lines();
        let lines = lines.map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
        Watching { command, lines: Box::new(lines) }
    }

    fn until(&mut self, phase: &str) -> Value {
        self.lines.find(|line| line["phase"] == phase).unwrap()
    }
}

#[test]
fn who_upgrades_is_told_what_the_new_process_has_answered() {
    let exuvia = Exuvia::start(
        "[restart]\nprobation = \"60s\"\n[admin]\naddress = \"127.0.0.1:0\"\n\
         [upstream]\nservers = [\"127.0.0.1:1\"]\n",
    );
    let admin: SocketAddr = exuvia.status()["admin"].as_str().unwrap().parse().unwrap();
    let mut kept = Client::connect(exuvia.address()).unwrap();
    assert_eq!(kept.get("/").unwrap().status, 502);
    assert_eq!(exuvia.status()["trial"], Value::Null);
    let upgrade = exuvia.begin(&["upgrade"]);
    exuvia.wait_phase("probation");
    // What the old process answers says nothing of the new one.
    assert_eq!(kept.get("/").unwrap().status, 502);
    assert_eq!(exuvia.status()["trial"]["done"], json!({}));
    assert!(exuvia.ask(&["status"]).out.contains("generation 2 has answered no request;"));
    for _ in 0..3 {
        assert_eq!(get(exuvia.address(), "/").unwrap().status, 502);
    }
    let trial = exuvia.status()["trial"].clone();
    assert_eq!((&trial["generation"], &trial["done"]), (&json!(2), &json!({"5xx": 3})), "{trial}");
    assert!(exuvia.ask(&["status"]).out.contains("generation 2 has answered 3 requests (3 5xx);"));
    // The page's document is made once a second.
    eventually("the page has them", || {
        let page: Value = serde_json::from_slice(&get(admin, "/status.json").unwrap().body).unwrap();
        let generations = page["generations"].as_array()?.clone();
        let candidate = generations.iter().find(|one| one["generation"] == 2)?;
        (candidate["answers"] == json!({"5xx": 3})).then_some(())
    });
    assert_eq!(exuvia.ask(&["rollback"]).code, 0);
    upgrade.answer().failed_with(&["rolled back"]);
    drop(kept);
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn a_probation_lasts_until_enough_requests_are_answered() {
    let exuvia = Exuvia::start(
        "workers = 2\n[restart]\nprobation = \"0s\"\nprobation_requests = 5\nprobation_max = \"1h\"\n",
    );
    let mut kept = Client::connect(exuvia.address()).unwrap();
    let mut watching = Watching::begin(&exuvia);
    let ready = watching.until("ready");
    assert_eq!((&ready["wanted"], &ready["longest_ms"]), (&json!(5), &json!(3_600_000)), "{ready}");
    // Nothing but the new process's own answers ends this probation within the hour.
    for _ in 0..20 {
        assert_eq!(kept.get("/").unwrap().status, 200);
    }
    for answered in 1..=4 {
        assert_eq!(get(exuvia.address(), "/").unwrap().status, 200);
        eventually("it is counted", || {
            (exuvia.status()["trial"]["done"] == json!({ "2xx": answered })).then_some(())
        });
        assert_eq!(exuvia.phase(), "probation");
    }
    assert_eq!(get(exuvia.address(), "/").unwrap().status, 200);
    let ended = watching.until("ended");
    assert_eq!((&ended["result"], &ended["done"]), (&json!("committed"), &json!({"2xx": 5})), "{ended}");
    assert_eq!(watching.command.wait(), 0);
    drop(kept);
    assert_eq!(exuvia.stop(), 0);
}

/// Where no request comes, an upgrade must not hang.
#[test]
fn a_probation_without_requests_ends_with_its_longest_time() {
    let exuvia =
        Exuvia::start("[restart]\nprobation = \"0s\"\nprobation_requests = 5\nprobation_max = \"100ms\"\n");
    let answer = exuvia.upgrade();
    for words in ["until 5 requests are answered, for 100 ms at most", "answered no request"] {
        assert!(answer.out.contains(words), "{words}: {answer:?}");
    }
    assert_eq!(exuvia.generation(), 2);
    assert_eq!(exuvia.stop(), 0);
}
