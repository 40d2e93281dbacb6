//! `systemctl stop`: everything in flight finishes, and nothing stays behind.

use std::time::{Duration, Instant};

use super::QUICK;
use super::harness::eventually;
use super::manager::{Manager, Setup};
use super::traffic::{Client, get};

/// Far longer than `TimeoutStopSec=`, far shorter than the drain.
const SLOW: &str = "/slow?ms=3000";

/// A client whose request `generation` has begun to answer.
fn in_flight(systemd: &Manager, generation: u64) -> Client {
    let mut client = Client::connect(systemd.setup.address).unwrap();
    client.ask(SLOW).unwrap();
    eventually("the request is in flight", || {
        let status = systemd.status();
        let all = status["generations"].as_array().unwrap();
        let one = all.iter().find(|one| one["generation"] == generation)?;
        let active = |row: &serde_json::Value| row["active"].as_u64() > Some(0);
        one["connections"].as_array()?.iter().any(active).then_some(())
    });
    client
}

/// Stops with a request in flight in each of three generations, two of which drain.
fn stops_gracefully(setup: Setup) {
    let systemd = setup.with("[Install]", "TimeoutStopSec=1s\n\n[Install]").boot();
    systemd.must(&["start", "exuvia.service"]);
    let mut clients = vec![in_flight(&systemd, 1)];
    for generation in 2..=3 {
        systemd.must(&["reload", "exuvia.service"]);
        clients.push(in_flight(&systemd, generation));
    }
    // The newest has nothing to do when it is stopped, and waits for the others all the same.
    systemd.must(&["reload", "exuvia.service"]);
    assert_eq!(systemd.status()["generations"].as_array().unwrap().len(), 4, "the older ones drain");
    systemd.must(&["stop", "exuvia.service"]);
    systemd.is_stopped();
    for (i, mut client) in clients.into_iter().enumerate() {
        let response = client.response().unwrap_or_else(|error| panic!("generation {}: {error}", i + 1));
        assert_eq!((response.status, response.generation()), (200, i as u64 + 1));
    }
    systemd.must(&["start", "exuvia.service"]);
    assert_eq!(systemd.generation(), 1);
}

#[test]
fn a_stop_finishes_what_is_in_flight_in_every_generation() {
    let Some(setup) = Setup::new(QUICK) else { return };
    stops_gracefully(setup);
}

/// systemd sends SIGTERM to every process of the service at once.
#[test]
fn a_stop_does_so_with_the_default_kill_mode_too() {
    let Some(setup) = Setup::new(QUICK) else { return };
    stops_gracefully(setup.with("KillMode=mixed\n", ""));
}

#[test]
fn a_stop_by_exuvia_itself_is_one_to_systemd() {
    let Some(setup) = Setup::new(QUICK) else { return };
    let systemd = setup.with("[Install]", "TimeoutStopSec=1s\n\n[Install]").boot();
    systemd.must(&["start", "exuvia.service"]);
    let mut client = in_flight(&systemd, 1);
    let answer = systemd.exuvia(&["stop"]);
    assert_eq!(answer.code, 0, "{answer:?}");
    assert_eq!(client.response().unwrap().status, 200);
    eventually("the unit has stopped", || {
        (systemd.property("exuvia.service", "ActiveState") == "inactive").then_some(())
    });
    systemd.is_stopped();
}

/// A user who is not root may not attach a filter to a listening socket (as of Linux 6.18), and the accept queue
/// was emptied until nobody came any more: under load, until the drain deadline.
#[test]
fn a_stop_under_load_does_not_wait_for_the_clients_to_go() {
    let Some(setup) = Setup::new(QUICK) else { return };
    let systemd = setup.boot();
    systemd.must(&["start", "exuvia.service"]);
    let address = systemd.setup.address;
    let clients: Vec<_> =
        (0..4).map(|_| std::thread::spawn(move || while get(address, "/").is_ok() {})).collect();
    let begun = Instant::now();
    systemd.must(&["stop", "exuvia.service"]);
    assert!(begun.elapsed() < Duration::from_secs(15), "half of the drain deadline");
    systemd.is_stopped();
    clients.into_iter().for_each(|client| client.join().unwrap());
}

/// The main process is the older one still, and both get a SIGTERM.
#[test]
fn a_stop_in_the_probation_ends_both_and_cuts_nothing() {
    for mode in ["KillMode=mixed\n", "KillMode=control-group\n"] {
        let Some(setup) = Setup::new(&QUICK.replace("\"0s\"", "\"60s\"")) else { return };
        let systemd = setup.with("KillMode=mixed\n", mode).boot();
        systemd.must(&["start", "exuvia.service"]);
        let mut old = in_flight(&systemd, 1);
        let mut reload = systemd.begin(&["reload", "exuvia.service"]);
        eventually("the upgrade is in its probation", || {
            (systemd.status()["phase"] == "probation").then_some(())
        });
        let mut new = Client::connect(systemd.setup.address).unwrap();
        assert_eq!(new.get("/").unwrap().generation(), 2);
        new.ask(SLOW).unwrap();
        systemd.must(&["stop", "exuvia.service"]);
        systemd.is_gone();
        // That of the command in ExecReload=: systemd kills it, or it has just heard that the upgrade failed.
        let result = systemd.property("exuvia.service", "Result");
        assert!(["signal", "exit-code"].contains(&&*result), "{result}\n{}", systemd.log());
        assert_eq!(old.response().unwrap().generation(), 1);
        assert_eq!(new.response().unwrap().generation(), 2);
        assert!(!reload.wait().unwrap().success(), "the reload did not come to its end");
    }
}
