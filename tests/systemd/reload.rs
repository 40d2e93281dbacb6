//! Upgrades by `systemctl reload`, the good ones and the bad ones.

use super::QUICK;
use super::harness::eventually;
use super::manager::{Setup, skipped, version};
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
    assert!(systemd.log().contains("no luck"), "{}", systemd.log());

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

/// At once, whatever an older generation has still to do.
fn comes_back_from_a_crash(setup: Setup) {
    let systemd = setup.boot();
    systemd.must(&["start", "exuvia.service"]);
    let mut client = Client::connect(systemd.setup.address).unwrap();
    assert_eq!(client.get("/").unwrap().generation(), 1);
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
    systemd.must(&["reload", "exuvia.service"]);
    assert_eq!(systemd.generation(), 2);
}

#[test]
fn a_main_process_that_crashes_is_started_again() {
    let Some(setup) = Setup::new(QUICK) else { return };
    comes_back_from_a_crash(setup);
}

#[test]
fn a_main_process_that_crashes_is_started_again_with_the_default_kill_mode() {
    let Some(setup) = Setup::new(QUICK) else { return };
    comes_back_from_a_crash(setup.with("KillMode=mixed\n", ""));
}
