//! What a service manager hears, word for word, without one in between (sd_notify(3)).

use std::collections::BTreeMap;
use std::fs;
use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
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

    /// The next datagram, as its assignments, with what its descriptor is, if it brings one, as `(fd)`.
    #[track_caller]
    fn hears(&self) -> BTreeMap<String, String> {
        let mut bytes = [0; 4096];
        let mut control = nix::cmsg_space!([RawFd; 4]);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let received = recvmsg::<()>(self.socket.as_raw_fd(), &mut parts, Some(&mut control), flags);
        let received = received.expect("nothing is said");
        let mut stored = Vec::new();
        for message in received.cmsgs().unwrap() {
            let ControlMessageOwned::ScmRights(fds) = message else { panic!("{message:?}") };
            // They stay open until the test ends.
            stored.extend(fds.iter().map(|fd| fs::read_link(format!("/proc/self/fd/{fd}")).unwrap()));
        }
        let count = received.bytes;
        let text = std::str::from_utf8(&bytes[..count]).unwrap();
        let mut heard: BTreeMap<String, String> = text
            .lines()
            .map(|line| line.split_once('=').unwrap_or_else(|| panic!("not an assignment: {line:?}")))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        if let [stored] = &stored[..] {
            heard.insert("(fd)".into(), stored.display().to_string());
        }
        heard
    }

    /// The manager is asked to keep counters; under which name.
    #[track_caller]
    fn is_asked_to_store(&self) -> String {
        let heard = self.hears();
        assert_eq!(heard["FDSTORE"], "1", "{heard:?}");
        assert!(heard["(fd)"].starts_with("/memfd:exuvia-segment"), "{heard:?}");
        assert!(heard["FDNAME"].starts_with("exuvia-segment-"), "{heard:?}");
        heard["FDNAME"].clone()
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

    let first_counters = manager.is_asked_to_store();

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
    let next_counters = manager.is_asked_to_store();
    let passed = manager.hears();
    assert_eq!(passed["READY"], "1", "{passed:?}");
    let first = std::mem::replace(&mut manager.main, Pid::from_raw(passed["MAINPID"].parse().unwrap()));
    assert_eq!(waitpid(first, None).unwrap(), WaitStatus::Exited(first, 0));
    // What the first has counted is in a sum now, which takes its place.
    let sum = manager.is_asked_to_store();
    assert!(![&first_counters, &next_counters].contains(&&sum));
    let forgotten = manager.hears();
    assert_eq!(
        (&*forgotten["FDSTOREREMOVE"], &*forgotten["FDNAME"]),
        ("1", &*first_counters),
        "{forgotten:?}"
    );

    kill(manager.main, Signal::SIGTERM).unwrap();
    let stopping = manager.hears();
    assert_eq!(stopping["STOPPING"], "1", "{stopping:?}");
    // The drain's 30 s, and some for the end.
    assert!(stopping["EXTEND_TIMEOUT_USEC"].parse::<u64>().unwrap() > 30_000_000, "{stopping:?}");
    assert_eq!(waitpid(manager.main, None).unwrap(), WaitStatus::Exited(manager.main, 0));
}
