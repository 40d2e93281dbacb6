//! Either process dies at any step, or someone asks at the wrong time.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use nix::sys::signal::Signal;
use nix::sys::stat::Mode;

use super::harness::{EXUVIA, Exuvia, PATIENCE, Starter, eventually, is_alive, signal, stat};
use super::traffic::{Client, Traffic, get};

/// A new process that starts when it is told to.
struct Gate(std::path::PathBuf);

impl Gate {
    /// The next generation of `exuvia`, whose `restart.executable` is `next`, waits at this gate.
    fn close(exuvia: &Exuvia) -> Gate {
        let pipe = exuvia.folder().join("gate");
        nix::unistd::mkfifo(&pipe, Mode::S_IRWXU).unwrap();
        exuvia.script("next", &format!("read go < {}; exec {EXUVIA} \"$@\"", pipe.display()));
        Gate(pipe)
    }

    fn open(self) {
        // Blocks until the new process reads.
        fs::write(self.0, "go\n").unwrap();
    }
}

const GATED: &str = "[restart]\nexecutable = \"next\"\nprobation = \"0s\"\n";

#[test]
fn two_upgrades_at_once() {
    let exuvia = Exuvia::start(GATED);
    let gate = Gate::close(&exuvia);
    let first = exuvia.begin(&["upgrade"]);
    exuvia.wait_phase("upgrading");
    let second = exuvia.ask(&["upgrade"]);
    assert_eq!(second.code, 3, "{second:?}");
    second.failed_with(&["under way"]);
    gate.open();
    assert_eq!(first.answer().code, 0);
    assert_eq!(exuvia.generation(), 2);
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn an_upgrade_in_probation() {
    let exuvia = Exuvia::start("[restart]\nprobation = \"60s\"\n");
    assert_eq!(exuvia.ask(&["upgrade", "--until", "ready"]).code, 0);
    let second = exuvia.ask(&["upgrade"]);
    assert_eq!(second.code, 3, "{second:?}");
    second.failed_with(&["probation"]);
    // To the new process too.
    signal(exuvia.pid_of(2), Signal::SIGHUP);
    eventually("the new process says why not", || {
        exuvia.log().contains("predecessor has not let go").then_some(())
    });
    assert_eq!(exuvia.ask(&["rollback"]).code, 0);
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn an_upgrade_of_a_process_that_drains() {
    let exuvia = Exuvia::start("[restart]\nprobation = \"0s\"\n");
    let (old, mut client) = (exuvia.pid(), Client::connect(exuvia.address()).unwrap());
    client.ask("/slow?ms=1500").unwrap();
    exuvia.upgrade();
    signal(old, Signal::SIGHUP);
    eventually("the old process says why not", || exuvia.log().contains("is draining").then_some(()));
    // The one that serves can be upgraded meanwhile.
    exuvia.upgrade();
    assert_eq!(exuvia.generation(), 3);
    assert_eq!(client.response().unwrap().generation(), 1);
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn an_upgrade_at_the_cap_of_generations() {
    let exuvia = Exuvia::start("[restart]\nprobation = \"0s\"\nmax_generations = 2\n");
    let (old, mut client) = (exuvia.pid(), Client::connect(exuvia.address()).unwrap());
    client.ask("/slow?ms=1500").unwrap();
    exuvia.upgrade();
    let answer = exuvia.ask(&["upgrade"]);
    assert_eq!(answer.code, 3, "{answer:?}");
    answer.failed_with(&["max_generations"]);
    assert_eq!(client.response().unwrap().generation(), 1);
    drop(client);
    eventually("the old process is gone", || (!is_alive(old)).then_some(()));
    eventually("the owner knows it", || (exuvia.generations().len() == 1).then_some(()));
    exuvia.upgrade();
    assert_eq!(exuvia.stop(), 0);
}

/// Connections wait in the accept queue while the new process is stopped; then it dies.
fn new_process_dies_in_probation(deadly: Signal) {
    let exuvia = Exuvia::start("workers = 2\n[restart]\nprobation = \"60s\"\n");
    let upgrade = exuvia.begin(&["upgrade"]);
    exuvia.wait_phase("probation");
    let child = exuvia.pid_of(2);
    signal(child, Signal::SIGSTOP);
    let mut waiting: Vec<Client> = (0..50).map(|_| Client::connect(exuvia.address()).unwrap()).collect();
    for client in &mut waiting {
        client.ask("/").unwrap();
    }
    signal(child, deadly);
    for client in &mut waiting {
        assert_eq!(client.response().unwrap().generation(), 1);
    }
    upgrade.answer().failed_with(&["probation"]);
    assert!(!is_alive(child));
    assert_eq!(get(exuvia.address(), "/").unwrap().generation(), 1);

    let next = exuvia.begin(&["upgrade"]);
    exuvia.wait_phase("probation");
    assert_eq!(get(exuvia.address(), "/").unwrap().status, 200);
    drop(next);
    assert_eq!(exuvia.ask(&["rollback"]).code, 0);
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn the_new_process_is_killed_in_probation() {
    new_process_dies_in_probation(Signal::SIGKILL);
}

/// The old process waited for the exit status of the dead one before it accepted again, and began that wait
/// anew whenever somebody asked for the status: under a service manager that was slow to reap, and with a
/// monitor that was not slow to ask, nobody accepted any more.
#[test]
fn the_new_process_is_killed_in_probation_and_nobody_reaps_it() {
    let exuvia = Exuvia::start("[restart]\nprobation = \"60s\"\n");
    let upgrade = exuvia.begin(&["upgrade"]);
    exuvia.wait_phase("probation");
    let child = exuvia.pid_of(2);
    signal(exuvia.supervisor_pid(), Signal::SIGSTOP);
    let control = exuvia.folder().join("control.sock");
    let (serves, done) = (|| exuvia.phase() == "serving", AtomicBool::new(false));
    std::thread::scope(|scope| {
        let monitor = || {
            while !done.load(Ordering::Relaxed) {
                let mut stream = UnixStream::connect(&control).unwrap();
                stream.write_all(b"GET /v1/status HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
                stream.read_to_end(&mut Vec::new()).unwrap();
            }
        };
        scope.spawn(monitor);
        signal(child, Signal::SIGKILL);
        let deadline = Instant::now() + PATIENCE;
        while !serves() && Instant::now() < deadline {}
        done.store(true, Ordering::Relaxed);
        assert!(Instant::now() < deadline, "the old process does not accept again");
    });
    assert_eq!(stat(child).unwrap().1, 'Z', "nobody has reaped it");
    assert_eq!(get(exuvia.address(), "/").unwrap().generation(), 1);
    upgrade.answer().failed_with(&["probation", "does not tell its exit status"]);
    signal(exuvia.supervisor_pid(), Signal::SIGCONT);
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn the_new_process_exits_in_probation() {
    let exuvia = Exuvia::start("workers = 2\n[restart]\nprobation = \"60s\"\n");
    let traffic = Traffic::start(exuvia.address(), 4);
    let upgrade = exuvia.begin(&["upgrade"]);
    exuvia.wait_phase("probation");
    traffic.reaches(2);
    signal(exuvia.pid_of(2), Signal::SIGTERM);
    upgrade.answer().failed_with(&["probation", "asked to stop"]);
    assert_eq!(get(exuvia.address(), "/").unwrap().generation(), 1);
    traffic.flows();
    traffic.finish();
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn the_new_process_crashes_in_probation() {
    let exuvia = Exuvia::start("[restart]\nprobation = \"60s\"\n");
    let upgrade = exuvia.begin(&["upgrade"]);
    exuvia.wait_phase("probation");
    signal(exuvia.pid_of(2), Signal::SIGABRT);
    upgrade.answer().failed_with(&["probation"]);
    assert_eq!(get(exuvia.address(), "/").unwrap().generation(), 1);
    assert_eq!(exuvia.stop(), 0);
}

/// The old process hears "I am the owner" from one that died right after it. To let go then would leave nobody.
#[test]
fn the_new_process_takes_over_and_is_dead_before_that_is_heard() {
    let exuvia = Exuvia::start(GATED);
    let old = exuvia.pid();
    let gate = exuvia.folder().join("gate");
    nix::unistd::mkfifo(&gate, Mode::S_IRWXU).unwrap();
    let say = |kind| format!(r#"printf '%s' '{{\"exuvia\":1,\"kind\":\"{kind}\"}}' >&$fd"#);
    let words = format!("{}; {}", say("ready"), say("owner"));
    exuvia.script("next", &format!("read go < {}; fd=$((2 + LISTEN_FDS)); eval \"{words}\"", gate.display()));
    let upgrade = exuvia.begin(&["upgrade"]);
    exuvia.wait_phase("upgrading");
    let child = exuvia.pid_of(2);
    signal(old, Signal::SIGSTOP);
    fs::write(gate, "go\n").unwrap();
    eventually("the new process is dead", || (!is_alive(child)).then_some(()));
    signal(old, Signal::SIGCONT);
    upgrade.answer().failed_with(&["commit", "exited with status 0"]);
    assert_eq!((exuvia.phase().as_str(), exuvia.pid()), ("serving", old));
    assert_eq!(get(exuvia.address(), "/").unwrap().generation(), 1);
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn the_old_process_is_killed_before_the_new_one_is_ready() {
    let exuvia = Exuvia::start(GATED);
    let (old, address) = (exuvia.pid(), exuvia.address());
    let gate = Gate::close(&exuvia);
    let upgrade = exuvia.begin(&["upgrade"]);
    exuvia.wait_phase("upgrading");
    let child = exuvia.pid_of(2);
    signal(old, Signal::SIGKILL);
    upgrade.answer().failed_with(&[]);
    // The child holds the sockets: these wait for it.
    let mut waiting: Vec<Client> = (0..20).map(|_| Client::connect(address).unwrap()).collect();
    for client in &mut waiting {
        client.ask("/").unwrap();
    }
    gate.open();
    for client in &mut waiting {
        assert_eq!(client.response().unwrap().generation(), 2);
    }
    serves_on(exuvia, child);
}

#[test]
fn the_old_process_is_killed_in_probation() {
    let exuvia = Exuvia::start("[restart]\nprobation = \"60s\"\npid_file = \"pid\"\n");
    let old = exuvia.pid();
    exuvia.set("[restart]\nprobation = \"0s\"\npid_file = \"pid\"\n");
    assert_eq!(exuvia.ask(&["upgrade", "--until", "ready"]).code, 0);
    let child = exuvia.pid_of(2);
    signal(old, Signal::SIGKILL);
    eventually("the new process is the owner", || (exuvia.try_status()?["generation"] == 2).then_some(()));
    let pid = fs::read_to_string(exuvia.folder().join("pid")).unwrap();
    assert_eq!(pid.trim(), child.to_string());
    serves_on(exuvia, child);
}

#[test]
fn the_old_process_is_killed_while_it_drains() {
    let exuvia = Exuvia::start("[restart]\nprobation = \"0s\"\n");
    let (old, mut client) = (exuvia.pid(), Client::connect(exuvia.address()).unwrap());
    client.ask("/slow?ms=60000").unwrap();
    exuvia.upgrade();
    let child = exuvia.pid();
    signal(old, Signal::SIGKILL);
    assert!(client.response().is_err());
    eventually("the owner knows it", || (exuvia.generations().len() == 1).then_some(()));
    serves_on(exuvia, child);
}

/// `owner` is the owner, serves, and can be upgraded.
#[track_caller]
fn serves_on(exuvia: Exuvia, owner: i32) {
    eventually("the new process serves", || (exuvia.phase() == "serving").then_some(()));
    assert_eq!(exuvia.pid(), owner);
    assert_eq!(get(exuvia.address(), "/").unwrap().generation(), 2);
    let next = exuvia.folder().join("next");
    fs::remove_file(&next).ok();
    symlink(EXUVIA, &next).unwrap();
    exuvia.begin(&["upgrade"]).answer();
    eventually("generation 3 serves", || (exuvia.try_status()?["generation"] == 3).then_some(()));
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn the_limit_of_descriptors_is_reached() {
    const LIMIT: u64 = 96;
    let exuvia = Starter::new("workers = 1\n[restart]\nprobation = \"0s\"\n").descriptors(LIMIT).start();
    let (pid, address) = (exuvia.pid(), exuvia.address());
    let open = || fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count() as u64;
    let mut idle = Vec::new();
    // Room for a control connection, and not for a new process.
    while open() < LIMIT - 4 {
        let before = open();
        idle.push(Client::connect(address).unwrap());
        eventually("the connection is accepted", || (open() > before).then_some(()));
    }
    let answer = exuvia.ask(&["upgrade"]);
    assert_eq!(answer.code, 1, "{answer:?}");
    answer.failed_with(&["spawn", "Too many open files"]);

    // Now not one is left: who connects waits, and is served when there is room.
    idle.extend((0..LIMIT).map(|_| Client::connect(address).unwrap()));
    let mut late = Client::connect(address).unwrap();
    late.ask("/").unwrap();
    eventually("accepting fails", || exuvia.log().contains("cannot accept").then_some(()));
    idle.clear();
    assert_eq!(late.response().unwrap().status, 200);
    exuvia.upgrade();
    assert_eq!(exuvia.stop(), 0);
}
