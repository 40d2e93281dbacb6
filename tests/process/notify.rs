//! What a service manager hears, word for word, without one in between (sd_notify(3)).

use std::collections::BTreeMap;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::harness::{EXUVIA, PATIENCE};

/// A service manager's ear, and the service that speaks into it: later generations are children of this
/// process, as they are of a service manager.
struct Manager {
    folder: TempDir,
    socket: UnixDatagram,
    main: Pid,
    _first: Child,
}

impl Manager {
    fn start() -> Manager {
        let folder = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let first = Command::new(EXUVIA)
            .args(["run", "--supervise=never"])
            .env("NOTIFY_SOCKET", folder.path().join("notify"))
            .env("EXUVIA__CONTROL__SOCKET", folder.path().join("control.sock"))
            .env("EXUVIA__LISTENERS__WEB__ADDRESS", "127.0.0.1:0")
            .env("EXUVIA__RESTART__PROBATION", "0s")
            .env("EXUVIA__RESTART__EXECUTABLE", folder.path().join("next"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let main = Pid::from_raw(first.id() as i32);
        Manager { folder, socket, main, _first: first }
    }

    /// The next datagram, as its assignments.
    #[track_caller]
    fn hears(&self) -> BTreeMap<String, String> {
        let mut bytes = [0; 4096];
        let count = self.socket.recv(&mut bytes).expect("nothing is said");
        let text = std::str::from_utf8(&bytes[..count]).unwrap();
        text.lines()
            .map(|line| line.split_once('=').unwrap_or_else(|| panic!("not an assignment: {line:?}")))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        // One that has been waited for is no child any more, and its number may be another's.
        if waitpid(self.main, Some(WaitPidFlag::WNOHANG)) == Ok(WaitStatus::StillAlive) {
            kill(self.main, Signal::SIGKILL).ok();
            waitpid(self.main, None).ok();
        }
    }
}

#[test]
fn every_word_comes_when_and_as_the_protocol_has_it() {
    let mut manager = Manager::start();
    let ready = manager.hears();
    assert_eq!(ready["READY"], "1", "{ready:?}");
    assert!(!ready.contains_key("MAINPID"), "the manager knows whom it has started: {ready:?}");

    // An upgrade that fails: the manager is told that it has ended, and why.
    kill(manager.main, Signal::SIGHUP).unwrap();
    let reloading = manager.hears();
    assert_eq!(reloading["RELOADING"], "1", "{reloading:?}");
    assert!(reloading["MONOTONIC_USEC"].parse::<u64>().unwrap() > 0, "in the same datagram: {reloading:?}");
    let failed = manager.hears();
    assert_eq!(failed["READY"], "1", "{failed:?}");
    assert!(failed["STATUS"].contains("No such file"), "{failed:?}");

    // One that succeeds: the main process passes on that it is one, while it is believed.
    std::os::unix::fs::symlink(EXUVIA, manager.folder.path().join("next")).unwrap();
    kill(manager.main, Signal::SIGHUP).unwrap();
    assert_eq!(manager.hears()["RELOADING"], "1");
    let passed = manager.hears();
    assert_eq!(passed["READY"], "1", "{passed:?}");
    let first = std::mem::replace(&mut manager.main, Pid::from_raw(passed["MAINPID"].parse().unwrap()));
    assert_eq!(waitpid(first, None).unwrap(), WaitStatus::Exited(first, 0));

    kill(manager.main, Signal::SIGTERM).unwrap();
    let stopping = manager.hears();
    assert_eq!(stopping["STOPPING"], "1", "{stopping:?}");
    // The drain's 30 s, and some for the end.
    assert!(stopping["EXTEND_TIMEOUT_USEC"].parse::<u64>().unwrap() > 30_000_000, "{stopping:?}");
    assert_eq!(waitpid(manager.main, None).unwrap(), WaitStatus::Exited(manager.main, 0));
}
