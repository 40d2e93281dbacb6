//! The processes that are supervised: how the first is started, who belongs to them, how each ends.

use std::env;
use std::ffi::{CString, OsString};
use std::fmt;
use std::os::unix::ffi::OsStringExt;

use nix::errno::Errno;
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawnp};
use nix::sys::signal::{SigSet, Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::{Pid, close, getpgid};

use super::say;
use crate::restart::born_held;

/// Looks and takes nothing away.
const LOOK: WaitPidFlag = WaitPidFlag::WEXITED.union(WaitPidFlag::WNOHANG).union(WaitPidFlag::WNOWAIT);

/// Every generation: the children of this process in one process group, into which later ones are born.
#[derive(Debug)]
pub(super) struct Generations {
    group: Pid,
}

/// A child that is dead and not reaped.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dead(
    /// `None` for one that a real-time signal killed, of which nix does not tell.
    Option<Pid>,
);

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Exited(u8),
    Killed(Signal),
    Unknown,
}

impl Generations {
    /// Starts the first one: the same program with the same arguments, found as a shell would find it,
    /// with `NOTIFY_SOCKET` in its environment.
    pub(super) fn start(notify_socket: &str) -> nix::Result<Generations> {
        let c_string = |text: OsString| CString::new(text.into_vec()).map_err(|_| Errno::EINVAL);
        let argv = env::args_os().map(c_string).collect::<nix::Result<Vec<CString>>>()?;
        let mut variables: Vec<(OsString, OsString)> =
            env::vars_os().filter(|(name, _)| name != "NOTIFY_SOCKET").collect();
        variables.push(("NOTIFY_SOCKET".into(), notify_socket.into()));
        let entry = |(mut name, value): (OsString, OsString)| {
            name.push("=");
            name.push(value);
            c_string(name)
        };
        let envp = variables.into_iter().map(entry).collect::<nix::Result<Vec<CString>>>()?;

        let mut attributes = PosixSpawnAttr::init()?;
        attributes.set_flags(
            PosixSpawnFlags::POSIX_SPAWN_SETPGROUP
                | PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK
                | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF,
        )?;
        attributes.set_pgroup(Pid::from_raw(0))?;
        attributes.set_sigmask(&born_held())?;
        // What Rust's runtime has set in this process.
        attributes.set_sigdefault(&SigSet::from(Signal::SIGPIPE))?;
        let program = argv.first().ok_or(Errno::ENOENT)?;
        let nothing = PosixSpawnFileActions::init()?;
        let group = posix_spawnp(program, &nothing, &attributes, &argv, &envp)?;
        Ok(Generations { group })
    }

    /// The one that was started, which gives its pid to the group.
    pub(super) fn first(&self) -> Pid {
        self.group
    }

    /// Whether `pid` is one of them, not yet reaped. Then nothing else can have that pid.
    pub(super) fn contain(&self, pid: Pid) -> bool {
        waitid(Id::Pid(pid), LOOK) != Err(Errno::ECHILD) && getpgid(Some(pid)) == Ok(self.group)
    }

    /// Whether none is left. Orphans that came to PID 1 do not count.
    pub(super) fn are_gone(&self) -> bool {
        waitid(Id::PGid(self.group), LOOK) == Err(Errno::ECHILD)
    }

    /// A child, generation or orphan, that is dead.
    pub(super) fn next_dead(&self) -> Option<Dead> {
        match waitid(Id::All, LOOK) {
            Ok(status) => status.pid().map(|pid| Dead(Some(pid))),
            Err(Errno::EINVAL) => Some(Dead(None)),
            Err(_) => None,
        }
    }

    /// Takes it out of the process table. `None` if there was none to take.
    pub(super) fn reap(&self, dead: Dead) -> Option<Ended> {
        match waitpid(dead.0, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(_, status)) => Some(Ended::Exited(u8::try_from(status).unwrap_or(1))),
            Ok(WaitStatus::Signaled(_, signal, _)) => Some(Ended::Killed(signal)),
            Ok(_) | Err(Errno::ECHILD) => None,
            Err(_) => Some(Ended::Unknown),
        }
    }

    /// `pid` must be one of them.
    pub(super) fn signal(&self, pid: Pid, signal: Signal) {
        report(kill(pid, signal), signal);
    }

    pub(super) fn signal_all(&self, signal: Signal) {
        report(killpg(self.group, signal), signal);
    }
}

fn report(sent: nix::Result<()>, signal: Signal) {
    match sent {
        // What is dead needs no signal.
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(errno) => say(format_args!("cannot send {signal}: {}", errno.desc())),
    }
}

impl Ended {
    /// For exit(3), as a shell tells it.
    pub(super) fn status(self) -> u8 {
        match self {
            Ended::Exited(status) => status,
            Ended::Killed(signal) => 128_u8.saturating_add(u8::try_from(signal as i32).unwrap_or(u8::MAX)),
            Ended::Unknown => u8::MAX,
        }
    }

    /// Where to look for who did it.
    pub(super) fn hint(self) -> &'static str {
        match self {
            Ended::Killed(Signal::SIGKILL) => {
                " (if nobody sent SIGKILL, memory ran out: `journalctl -k` or dmesg tells)"
            }
            _ => "",
        }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ended::Exited(status) => write!(f, "exited with status {status}"),
            Ended::Killed(signal) => write!(f, "was killed by {signal}"),
            Ended::Unknown => write!(f, "was killed by a signal"),
        }
    }
}

/// Closes the descriptors that socket activation passed, which the first generation has by now. To keep
/// them would keep listeners open that are no longer configured.
pub(super) fn close_passed(count: i32) {
    for fd in 3..3 + count {
        // Not an `OwnedFd`: whether the number stands for anything is only known to the one who passed it.
        if let Err(errno) = close(fd) {
            say(format_args!("cannot close descriptor {fd}, which LISTEN_FDS tells of: {}", errno.desc()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_as_a_shell_tells_it() {
        assert_eq!(Ended::Exited(0).status(), 0);
        assert_eq!(Ended::Exited(77).status(), 77);
        assert_eq!(Ended::Killed(Signal::SIGKILL).status(), 137);
        assert_eq!(Ended::Killed(Signal::SIGTERM).status(), 143);
    }
}
