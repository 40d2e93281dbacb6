//! Sockets that systemd holds.

use std::fs;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use super::QUICK;
use super::harness::{EXUVIA, eventually};
use super::manager::{Manager, Setup, skipped};
use super::traffic::{Client, Traffic, get};

const NAMED: &str = "FileDescriptorName=web\n";

fn listens(systemd: &Manager) -> bool {
    systemd.property("exuvia.socket", "ActiveState") == "active"
}

fn is_off(systemd: &Manager) -> bool {
    systemd.property("exuvia.service", "ActiveState") == "inactive"
}

/// The first connection starts the service, upgrades keep the socket, and who comes while it is down waits.
fn lives_on_a_lent_socket(setup: Setup) {
    let systemd = setup.boot();
    systemd.must(&["start", "exuvia.socket"]);
    assert!(is_off(&systemd));
    let address = systemd.setup.address;
    assert_eq!(get(address, "/").unwrap().generation(), 1, "the first connection started it");

    let traffic = Traffic::start(address, 4);
    for generation in 2..=3 {
        systemd.must(&["reload", "exuvia.service"]);
        assert_eq!(systemd.generation(), generation);
        traffic.reaches(generation);
    }
    // The listening socket is still the one of the unit, and the only one.
    let status = systemd.status();
    let web = status["listeners"].as_array().unwrap().iter().find(|one| one["name"] == "web").unwrap();
    assert_eq!((web["sockets"].as_u64(), web["address"].as_str()), (Some(1), Some(&*address.to_string())));
    traffic.finish();

    // Several times: what a stop did to the socket would be found by the next process.
    for _ in 0..2 {
        systemd.must(&["stop", "exuvia.service"]);
        systemd.is_stopped();
        assert!(listens(&systemd));
        let response = get(address, "/").unwrap();
        assert_eq!((response.status, response.generation()), (200, 1), "it was started anew");
    }
    systemd.must(&["stop", "exuvia.socket", "exuvia.service"]);
    systemd.is_stopped();
    assert!(Client::connect(address).is_err(), "nobody listens any more");
}

/// A stop attached a filter to the listening socket that drops every SYN. It is systemd's socket too, and no
/// later process could be reached.
#[test]
fn a_socket_of_systemds_outlives_upgrades_and_stops() {
    let Some(setup) = Setup::new(QUICK) else { return };
    // Root may attach a filter; another user may not, as of Linux 6.18.
    let user = setup.substituted("User=exuvia\n");
    lives_on_a_lent_socket(setup.with(&user, "").socket(NAMED, NAMED));
}

#[test]
fn a_socket_without_a_name_is_matched_by_its_address() {
    let Some(setup) = Setup::new(QUICK) else { return };
    lives_on_a_lent_socket(setup.socket(NAMED, ""));
}

#[test]
fn no_request_fails_when_a_service_behind_a_socket_unit_is_restarted() {
    let Some(setup) = Setup::new(QUICK) else { return };
    let systemd = setup.socket(NAMED, NAMED).boot();
    systemd.must(&["start", "exuvia.socket", "exuvia.service"]);
    let traffic = Traffic::start(systemd.setup.address, 4);
    for _ in 0..2 {
        let before = systemd.main_pid();
        systemd.must(&["restart", "exuvia.service"]);
        assert_ne!(systemd.main_pid(), before);
        assert_eq!(systemd.generation(), 1);
        traffic.flows();
    }
    traffic.finish();
}

#[test]
fn what_waits_at_a_crash_is_answered_by_the_next_process() {
    let Some(setup) = Setup::new(QUICK) else { return };
    let systemd = setup.socket(NAMED, NAMED).boot();
    systemd.must(&["start", "exuvia.socket", "exuvia.service"]);
    let pid = systemd.main_pid();
    systemd.signal("STOP", pid);
    eventually("every thread has stopped", || systemd.is_frozen(pid).then_some(()));
    let mut client = Client::connect(systemd.setup.address).unwrap();
    client.ask("/").unwrap();
    systemd.signal("KILL", pid);
    assert_eq!(client.response().unwrap().status, 200);
    assert_ne!(systemd.main_pid(), pid);
}

#[test]
fn a_socket_that_is_bound_elsewhere_is_an_error_that_names_both_addresses() {
    let Some(setup) = Setup::new(QUICK) else { return };
    let systemd = setup.socket(NAMED, NAMED).boot();
    let other = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let wrong = format!("{QUICK}[listeners.web]\naddress = \"{other}\"\n");
    let bound = systemd.setup.address.to_string();

    systemd.must(&["start", "exuvia.socket", "exuvia.service"]);
    systemd.setup.set(&wrong);
    assert_ne!(systemd.systemctl(&["reload", "exuvia.service"]).code, 0);
    let status = systemd.status_text();
    assert!(status.contains("upgrade failed at listeners") && status.contains(&bound), "{status}");
    assert!(status.contains(&other), "{status}");
    assert_eq!(systemd.generation(), 1);

    systemd.must(&["stop", "exuvia.service"]);
    assert_ne!(systemd.systemctl(&["start", "exuvia.service"]).code, 0);
    let log = systemd.log();
    let line = log.lines().rfind(|line| line.starts_with("exuvia: listeners: ")).unwrap_or_default();
    assert!(line.contains(&bound) && line.contains(&other), "{log}");
}

/// Needs neither root nor a running systemd.
#[test]
fn systemd_socket_activate_passes_a_socket_that_upgrades_keep() {
    struct Kill(Child);
    impl Drop for Kill {
        fn drop(&mut self) {
            self.0.kill().ok();
            self.0.wait().ok();
        }
    }
    const ACTIVATE: &str = "systemd-socket-activate";
    if Command::new(ACTIVATE).arg("--version").output().is_err() {
        return skipped("there is no systemd-socket-activate; its package is `systemd`");
    }
    let folder = tempfile::Builder::new().prefix("exuvia-activate-").tempdir().unwrap();
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (settings, control) = (folder.path().join("exuvia.toml"), folder.path().join("control.sock"));
    let text = format!(
        "{QUICK}[listeners.web]\naddress = \"{address}\"\n[control]\nsocket = \"{}\"\n",
        control.display()
    );
    fs::write(&settings, text).unwrap();
    let log = fs::File::create(folder.path().join("log")).unwrap();
    let mut first = Command::new(ACTIVATE);
    first.args(["--listen", &address.to_string(), "--fdname", "web", EXUVIA]);
    // Always a supervisor, so that an upgrade's new process is not a child of the test.
    first.args(["run", "--supervise=always", "--config"]).arg(&settings);
    first.env_remove("NOTIFY_SOCKET").stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    let mut process = Kill(first.spawn().unwrap());
    let ask = |command: &str| {
        let mut asking = Command::new(EXUVIA);
        asking.arg(command).arg("--control").arg(&control).stdout(Stdio::null());
        asking.status().unwrap().success()
    };

    let mut client = eventually("it listens", || Client::connect(address).ok());
    assert_eq!(client.get("/").unwrap().generation(), 1);
    drop(client);
    let traffic = Traffic::start(address, 2);
    assert!(ask("upgrade"), "{}", fs::read_to_string(folder.path().join("log")).unwrap());
    traffic.reaches(2);
    traffic.finish();
    assert!(ask("stop"));
    let status = eventually("it has ended", || process.0.try_wait().unwrap());
    assert!(status.success(), "{status}");
}
