//! What an upgrade has cost: what its deadline cuts, and what the commands say of that.

use nix::sys::signal::Signal;

use super::harness::{Exuvia, eventually, is_alive, signal};
use super::traffic::Client;
use super::upstream::Upstream;

/// An upstream that never answers, but grants tunnels.
fn silent() -> Upstream {
    Upstream::start(|mut peer| {
        let Some(request) = peer.request() else { return };
        if request.header("upgrade").is_some() {
            peer.send(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
            )
            .unwrap();
        }
        peer.until_closed();
    })
}

fn settings(upstream: &Upstream, drain: &str) -> String {
    format!("{}[restart]\nprobation = \"0s\"\n[drain]\ntimeout = \"{drain}\"\n", upstream.settings())
}

/// Two requests and a tunnel that will not end by themselves.
fn hold(exuvia: &Exuvia) -> Vec<Client> {
    let mut clients: Vec<Client> = (0..3).map(|_| Client::connect(exuvia.address()).unwrap()).collect();
    clients[0].ask("/one").unwrap();
    clients[1].ask("/two").unwrap();
    clients[2]
        .send(b"GET /t HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        .unwrap();
    assert_eq!(clients[2].head().unwrap().status, 101);
    eventually("all is in flight", || {
        let kinds = exuvia.status()["generations"].as_array()?.last()?["connections"].as_array()?.clone();
        let active =
            |kind: &str| kinds.iter().find(|row| row["kind"] == kind).map(|row| row["active"].clone());
        (active("http1")? == 2 && active("tunnel")? == 1).then_some(())
    });
    clients
}

/// The command used to end with "committed", whatever the deadline cut later.
#[test]
fn the_commands_say_what_the_deadline_has_cut() {
    let upstream = silent();
    let exuvia = Exuvia::start(&settings(&upstream, "4s"));
    let old = exuvia.pid();
    let held = hold(&exuvia);
    let said = exuvia.upgrade().text();
    assert!(said.contains("generation 1 finishes 3 connections, and cuts what is left in "), "{said}");
    let drains = "committed; generation 1 drains, and cuts what is left in ";
    eventually("the status tells of the drain", || {
        exuvia.ask(&["status"]).text().contains(drains).then_some(())
    });

    eventually("the old process is gone", || (!is_alive(old)).then_some(()));
    let cost = "3 connections, 2 requests, 1 tunnel";
    let status = eventually("the cost is known", || {
        let status = exuvia.ask(&["status"]).text();
        (!status.contains("generation 1 drains")).then_some(status)
    });
    assert!(status.contains(&format!("committed; {cost} cut or lost by generation 1")), "{status}");
    let json = exuvia.status();
    let expected = serde_json::json!({"connections": 3, "requests": 2, "tunnels": 1});
    assert_eq!(json["upgrades"][0]["cost"], expected, "{json}");
    let log = exuvia.log();
    let line = log.lines().find(|line| line.contains("has not finished all that it had"));
    assert!(line.is_some_and(|line| line.contains("WARN") && line.contains(cost)), "{log}");

    // The next one tells of it, and costs nothing itself.
    drop(held);
    let old = exuvia.pid();
    let said = exuvia.upgrade().text();
    assert!(
        said.contains(&format!("the upgrade before cost {cost}, which generation 1 did not finish")),
        "{said}"
    );
    eventually("the second process is gone", || (!is_alive(old)).then_some(()));
    eventually("it has cost nothing", || {
        let status = exuvia.ask(&["status"]).text();
        let is_told = status.contains("committed; nothing cut or lost by generation 2");
        (is_told && status.contains(&format!("1 to 2: {cost} cut or lost by generation 1"))).then_some(())
    });
    assert_eq!(exuvia.stop(), 0);
}

/// What a process had when it was killed, it has lost.
#[test]
fn a_process_that_is_killed_while_it_drains_costs_what_it_had() {
    let upstream = silent();
    let exuvia = Exuvia::start(&settings(&upstream, "60s"));
    let old = exuvia.pid();
    let held = hold(&exuvia);
    exuvia.upgrade();
    signal(old, Signal::SIGKILL);
    eventually("the cost is known", || {
        let status = exuvia.ask(&["status"]).text();
        status
            .contains("committed; 3 connections, 2 requests, 1 tunnel cut or lost by generation 1")
            .then_some(())
    });
    drop(held);
    assert_eq!(exuvia.stop(), 0);
}
