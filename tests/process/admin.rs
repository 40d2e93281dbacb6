//! The admin listener, as a load balancer sees it.

use std::net::SocketAddr;

use serde_json::Value;

use super::harness::{Exuvia, eventually};
use super::traffic::{Client, get};

fn admin(exuvia: &Exuvia) -> SocketAddr {
    exuvia.status()["admin"].as_str().unwrap().parse().unwrap()
}

/// The status and the document of a health check.
fn health(address: SocketAddr, path: &str) -> (u16, Value) {
    let response = get(address, path).unwrap();
    assert!(response.closes(), "the next check must reach whoever serves then");
    (response.status, serde_json::from_slice(&response.body).unwrap())
}

#[test]
fn health_names_the_generation_and_the_new_one_answers_after_an_upgrade() {
    let exuvia = Exuvia::start("[restart]\nprobation = \"60s\"\n[admin]\naddress = \"127.0.0.1:0\"\n");
    let address = admin(&exuvia);
    for path in ["/livez", "/readyz"] {
        let (status, document) = health(address, path);
        assert_eq!((status, &document["generation"]), (200, &1.into()), "{document}");
        assert_eq!(document["pid"], exuvia.pid());
        assert_eq!(document["ready"], true);
    }
    // From then on the old process accepts nothing, so its health says nothing of the new one.
    assert_eq!(exuvia.ask(&["upgrade", "--until", "ready"]).code, 0);
    let (status, document) = health(address, "/readyz");
    assert_eq!((status, &document["generation"]), (200, &2.into()), "{document}");
    assert_eq!((&document["pid"], &document["phase"]), (&exuvia.pid_of(2).into(), &"candidate".into()));
    assert_eq!(exuvia.ask(&["rollback"]).code, 0);
    eventually("generation 1 answers again", || {
        (health(address, "/readyz").1["generation"] == 1).then_some(())
    });

    exuvia.set("[restart]\nprobation = \"0s\"\n[admin]\naddress = \"127.0.0.1:0\"\n");
    assert_eq!(exuvia.ask(&["upgrade", "--until", "ready"]).code, 0);
    let pid = exuvia.pid_of(3);
    assert_eq!(health(address, "/livez").1["pid"], pid);
    assert_eq!(exuvia.ask(&["rollback"]).code, 0);
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn a_process_that_stops_is_alive_and_not_ready() {
    let mut exuvia = Exuvia::start("[admin]\naddress = \"127.0.0.1:0\"\n");
    let address = admin(&exuvia);
    let mut request = Client::connect(exuvia.address()).unwrap();
    request.ask("/slow?ms=60000").unwrap();
    eventually("the request is in flight", || {
        (exuvia.status()["generations"][0]["connections"][0]["active"] == 1).then_some(())
    });
    // New connections are refused by then, which is an answer of its own.
    let mut checks = [Client::connect(address).unwrap(), Client::connect(address).unwrap()];
    let stop = exuvia.begin(&["stop"]);
    exuvia.wait_phase("draining");
    for (client, (path, expected)) in checks.iter_mut().zip([("/readyz", 503), ("/livez", 200)]) {
        let response = client.get(path).unwrap();
        let document: Value = serde_json::from_slice(&response.body).unwrap();
        assert_eq!(response.status, expected, "{document}");
        assert_eq!((&document["ready"], &document["phase"]), (&false.into(), &"draining".into()));
    }
    eventually("the listener is closed", || Client::connect(address).is_err().then_some(()));
    assert_eq!(exuvia.ask(&["stop", "--now"]).code, 0);
    assert_eq!(exuvia.wait(), 0);
    assert_eq!(stop.answer().code, 0);
}

/// One limit was said to hold for the control socket and the admin listener together, and limited nothing: no
/// connection was ever counted against it.
#[test]
fn who_fills_the_admin_listener_keeps_no_operator_out() {
    let exuvia = Exuvia::start("[restart]\nprobation = \"0s\"\n[admin]\naddress = \"127.0.0.1:0\"\n");
    let address = admin(&exuvia);
    // Pages that nobody closes, as many as may watch.
    let mut pages: Vec<Client> = (0..32).map(|_| Client::connect(address).unwrap()).collect();
    for page in &mut pages {
        page.ask("/events").unwrap();
        assert_eq!(page.head().unwrap().status, 200);
    }
    let crowd: Vec<Client> = (32..64).map(|_| Client::connect(address).unwrap()).collect();
    let refused = get(address, "/livez").unwrap();
    assert_eq!(refused.status, 503);
    let text = String::from_utf8(refused.body).unwrap();
    assert!(text.contains("64 connections are open here"), "{text}");

    let watch = exuvia.begin(&["status", "--watch", "--json"]);
    assert_eq!(exuvia.generation(), 1);
    exuvia.upgrade();
    assert_eq!(exuvia.generation(), 2);
    drop((pages, crowd, watch));
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn nothing_can_be_changed_from_there() {
    let exuvia = Exuvia::start("[admin]\naddress = \"127.0.0.1:0\"\n");
    let address = admin(&exuvia);
    for (request, status) in [
        ("POST /readyz", 405),
        ("DELETE /livez", 405),
        ("POST /v1/upgrade", 404),
        ("POST /v1/stop", 404),
        ("GET /v1/status", 404),
    ] {
        let mut client = Client::connect(address).unwrap();
        client.send(format!("{request} HTTP/1.1\r\nHost: test\r\n\r\n").as_bytes()).unwrap();
        assert_eq!(client.response().unwrap().status, status, "{request}");
    }
    let page = get(address, "/").unwrap();
    assert!(String::from_utf8(page.body).unwrap().contains("/readyz"));
    assert_eq!((exuvia.generation(), exuvia.phase().as_str()), (1, "serving"));
    assert_eq!(exuvia.stop(), 0);
}

/// A load balancer learns that it must send its connections elsewhere while they are still taken.
#[test]
fn a_process_that_is_about_to_stop_is_not_ready_and_accepts() {
    let settings = "[admin]\naddress = \"127.0.0.1:0\"\n[drain]\nstop_delay = \"60s\"\n";
    let mut exuvia = Exuvia::start(settings);
    let address = admin(&exuvia);
    let stop = exuvia.begin(&["stop"]);
    exuvia.wait_phase("lame_duck");
    let (status, document) = health(address, "/readyz");
    assert_eq!((status, &document["phase"]), (503, &"lame_duck".into()), "{document}");
    assert_eq!(health(address, "/livez").0, 200);
    let mut client = Client::connect(exuvia.address()).unwrap();
    for _ in 0..2 {
        let answer = client.get("/").unwrap();
        assert!(answer.status == 200 && !answer.closes());
    }
    exuvia.ask(&["upgrade"]).failed_with(&["about to stop"]);
    // It does not wait any longer.
    assert_eq!(exuvia.ask(&["stop"]).code, 0);
    assert_eq!(exuvia.wait(), 0);
    assert_eq!(stop.answer().code, 0);
}

/// In its probation the new process accepts; it is told to stop, and the old one accepts for as long as it waits.
#[test]
fn a_stop_in_the_probation_waits_too() {
    let settings =
        "[admin]\naddress = \"127.0.0.1:0\"\n[drain]\nstop_delay = \"1s\"\n[restart]\nprobation = \"60s\"\n";
    let mut exuvia = Exuvia::start(settings);
    let (address, web) = (admin(&exuvia), exuvia.address());
    assert_eq!(exuvia.ask(&["upgrade", "--until", "ready"]).code, 0);
    assert_eq!(health(address, "/readyz").1["generation"], 2);
    let stop = exuvia.begin(&["stop"]);
    exuvia.wait_phase("lame_duck");
    let (status, document) = health(address, "/readyz");
    assert_eq!((status, &document["ready"]), (503, &false.into()), "{document}");
    assert_eq!(get(web, "/").unwrap().status, 200);
    assert_eq!(exuvia.wait(), 0);
    assert_eq!(stop.answer().code, 0);
    assert!(Client::connect(web).is_err());
}
