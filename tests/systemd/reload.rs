//! Upgrades by `systemctl reload`, the good ones and the bad ones.

use super::QUICK;
use super::harness::eventually;
use super::manager::{Manager, Setup, skipped, version};
use super::traffic::{Client, Traffic, get};

const RELOAD: &str = "ExecReload=/usr/local/bin/exuvia upgrade --control /run/exuvia/control.sock\n";

fn exec_reload(setup: &Setup) -> String {
    setup.substituted(RELOAD)
}

#[test]
fn each_reload_is_an_upgrade_and_moves_the_main_process() {
    let Some(setup) = Setup::new(QUICK) else { return };
    let systemd = setup.boot();
    systemd.must(&["start", "exuvia.service"]);
    systemd.is_active();
    assert_eq!(systemd.generation(), 1);
    assert_eq!(systemd.status_text(), "generation 1 serves");

    let traffic = Traffic::start(systemd.setup.address, 4);
    for generation in 2..=4 {
        let before = systemd.main_pid();
        systemd.must(&["reload", "exuvia.service"]);
        assert_eq!(systemd.generation(), generation, "the reload ends when the upgrade is committed");
        assert_ne!(systemd.main_pid(), before);
        assert_eq!(systemd.status_text(), format!("generation {generation} serves"));
        systemd.is_active();
        traffic.reaches(generation);
    }
    // It makes no difference who asks.
    let answer = systemd.exuvia(&["upgrade"]);
    assert_eq!(answer.code, 0, "{answer:?}");
    assert_eq!(systemd.generation(), 5);
    systemd.signal("HUP", systemd.main_pid());
    traffic.reaches(6);
    eventually("generation 6 is the main process", || {
        (systemd.status_text() == "generation 6 serves").then_some(())
    });
    assert_eq!(systemd.generation(), 6);
    systemd.is_active();
    traffic.finish();
    systemd.must(&["stop", "exuvia.service"]);
    systemd.is_stopped();
}

#[test]
fn a_failed_reload_leaves_the_unit_as_it_was_and_says_why() {
    let Some(setup) = Setup::new(QUICK) else { return };
    let systemd = setup.boot();
    systemd.must(&["start", "exuvia.service"]);
    let (traffic, before) = (Traffic::start(systemd.setup.address, 2), systemd.main_pid());
    let fails = |step: &str, cause: &str| {
        let answer = systemd.systemctl(&["reload", "exuvia.service"]);
        assert_ne!(answer.code, 0, "{answer:?}");
        let status = systemd.status_text();
        let says = status.starts_with(&format!("upgrade failed at {step}: ")) && status.contains(cause);
        assert!(says && status.ends_with("; generation 1 serves"), "{status:?}");
        assert_eq!((systemd.main_pid(), systemd.generation()), (before, 1));
        systemd.is_active();
    };

    systemd.setup.set("[restart]\nprobation = \"soon\"\n");
    fails("configuration", "exuvia.toml");
    systemd.setup.set(QUICK);
    // What is asked for by `exuvia upgrade` in ExecReload= is done by the program that is there now.
    systemd.setup.use_script(&format!(
        "[ \"$1\" = upgrade ] && exec {} \"$@\"\necho no luck >&2\nexit 3",
        systemd.setup.path("exuvia.good").display()
    ));
    fails("ready", "exited with status 3");
    eventually("it is passed on", || systemd.log().contains("no luck").then_some(()));

    systemd.setup.use_program("exuvia.good");
    systemd.must(&["reload", "exuvia.service"]);
    assert_ne!(systemd.main_pid(), before);
    let generation = systemd.generation();
    assert_eq!(systemd.status_text(), format!("generation {generation} serves"));
    traffic.reaches(generation);
    traffic.finish();
}

/// systemd 253 and later.
#[test]
fn type_notify_reload_waits_for_the_end_of_the_upgrade() {
    if let Some(version @ ..253) = version() {
        return skipped(&format!("systemd {version} has no Type=notify-reload"));
    }
    let Some(setup) = Setup::new("[restart]\nprobation = \"300ms\"\n") else { return };
    let reload = exec_reload(&setup);
    let systemd = setup.with("Type=notify\n", "Type=notify-reload\n").with(&reload, "").boot();
    systemd.must(&["start", "exuvia.service"]);
    let traffic = Traffic::start(systemd.setup.address, 2);
    for generation in 2..=3 {
        systemd.must(&["reload", "exuvia.service"]);
        assert_eq!(systemd.generation(), generation);
        systemd.is_active();
    }
    systemd.setup.set("nonsense = 1\n");
    systemd.must(&["reload", "exuvia.service"]);
    assert_eq!(systemd.generation(), 3);
    assert!(
        systemd.status_text().starts_with("upgrade failed at configuration"),
        "{}",
        systemd.status_text()
    );
    systemd.is_active();
    traffic.finish();
    systemd.must(&["stop", "exuvia.service"]);
    systemd.is_stopped();
}

#[test]
fn a_reload_by_a_signal_is_an_upgrade_too() {
    let Some(setup) = Setup::new(QUICK) else { return };
    let reload = exec_reload(&setup);
    let systemd = setup.with(&reload, "ExecReload=/bin/kill -HUP $MAINPID\n").boot();
    systemd.must(&["start", "exuvia.service"]);
    for generation in 2..=3 {
        systemd.must(&["reload", "exuvia.service"]);
        // It may return before the upgrade has begun.
        eventually("the upgrade is committed", || {
            (systemd.status_text() == format!("generation {generation} serves")).then_some(())
        });
        assert_eq!(systemd.generation(), generation);
        systemd.is_active();
    }
}

/// With an admin listener.
const OBSERVED: &str = "[admin]\naddress = \"127.0.0.1:0\"\n[restart]\nprobation = \"0s\"\n";

/// At once, whatever an older generation has still to do.
fn comes_back_from_a_crash(setup: Setup) {
    let systemd = setup.boot();
    systemd.must(&["start", "exuvia.service"]);
    let mut client = Client::connect(systemd.setup.address).unwrap();
    assert_eq!(client.get("/").unwrap().generation(), 1);
    let answered = r#"exuvia_requests_ended_total{route="default",protocol="http1",method="GET",status="2xx",end="answered"}"#;
    assert_eq!(metric(&systemd, answered), 1.0);
    client.ask("/slow?ms=60000").unwrap();
    systemd.must(&["reload", "exuvia.service"]);
    let pid = systemd.main_pid();
    systemd.signal("KILL", pid);
    eventually("another main process serves", || {
        let new = systemd.main_pid();
        (new != 0 && new != pid && systemd.status_text() == "generation 1 serves").then_some(())
    });
    systemd.is_active();
    assert!(client.response().is_err(), "systemd has ended what was left");
    assert_eq!(systemd.property("exuvia.service", "NRestarts"), "1");
    assert_eq!(get(systemd.setup.address, "/").unwrap().generation(), 1);
    // What both processes had counted goes on; what they had open was lost, and is counted as that.
    assert_eq!(metric(&systemd, answered), 2.0);
    assert_eq!(lost(&systemd), [1.0, 1.0]);
    assert_eq!(metric(&systemd, r#"exuvia_upgrades_total{result="committed"}"#), 1.0);
    systemd.must(&["reload", "exuvia.service"]);
    assert_eq!(systemd.generation(), 2);
    // And once more, with what was added up and with a generation that drains.
    let mut client = Client::connect(systemd.setup.address).unwrap();
    client.ask("/slow?ms=60000").unwrap();
    eventually("it is in flight", || {
        let active = metric(&systemd, r#"exuvia_connections_active{kind="http1"}"#);
        (active == 1.0).then_some(())
    });
    systemd.must(&["reload", "exuvia.service"]);
    systemd.signal("KILL", systemd.main_pid());
    eventually("another main process serves", || {
        (systemd.property("exuvia.service", "NRestarts") == "2"
            && systemd.status_text() == "generation 1 serves")
            .then_some(())
    });
    assert_eq!(metric(&systemd, answered), 2.0);
    assert_eq!(lost(&systemd), [2.0, 2.0]);
    assert_eq!(metric(&systemd, r#"exuvia_upgrades_total{result="committed"}"#), 3.0);
}

/// Connections and requests that were cut, or that ended with their process: systemd kills what is left, or tells it
/// to stop first.
#[track_caller]
fn lost(systemd: &Manager) -> [f64; 2] {
    let page = metrics(systemd);
    ["exuvia_connections_ended_total{", "exuvia_requests_ended_total{"].map(|name| {
        let is_lost = |line: &&str| {
            line.starts_with(name) && ["crashed", "dropped"].iter().any(|end| line.contains(end))
        };
        page.lines()
            .filter(is_lost)
            .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
            .sum()
    })
}

#[track_caller]
fn metrics(systemd: &Manager) -> String {
    let admin = systemd.status()["admin"].as_str().unwrap().parse().unwrap();
    String::from_utf8(get(admin, "/metrics").unwrap().body).unwrap()
}

/// One value.
#[track_caller]
fn metric(systemd: &Manager, name: &str) -> f64 {
    let page = metrics(systemd);
    let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("no {name} in\n{page}")).parse().unwrap()
}

#[test]
fn a_main_process_that_crashes_is_started_again() {
    let Some(setup) = Setup::new(OBSERVED) else { return };
    comes_back_from_a_crash(setup);
}

#[test]
fn a_main_process_that_crashes_is_started_again_with_the_default_kill_mode() {
    let Some(setup) = Setup::new(OBSERVED) else { return };
    comes_back_from_a_crash(setup.with("KillMode=mixed\n", ""));
}
