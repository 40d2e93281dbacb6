//! What this process is to be, told by what is around it.

use std::env;
use std::ffi::OsString;
use std::io::{IsTerminal, stderr, stdin, stdout};
use std::os::unix::ffi::OsStrExt;

use nix::unistd::{getpid, getppid};

use super::Mode;
use super::notify::is_given_by;

/// The name of the descriptor by which a process knows that an upgrade made it.
const HANDOFF: &str = "exuvia-handoff";
/// The most descriptors that socket activation passes; what says more is no honest `LISTEN_FDS`.
const MAX_PASSED: i32 = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Serves.
    Main,
    /// Stays before the one that serves.
    Supervisor,
    /// Becomes the main process once it has taken over what its supervisor was given.
    Heir,
}

/// What decides.
#[derive(Clone, Debug, Default)]
pub(super) struct Surroundings {
    pid: i32,
    parent: i32,
    terminal: bool,
    /// Who wants to be notified.
    pub(super) notify_socket: Option<OsString>,
    listen_pid: Option<i32>,
    /// How many descriptors from 3 up were passed to this process.
    pub(super) passed: i32,
    upgrade: bool,
}

impl Surroundings {
    pub(super) fn look() -> Surroundings {
        let variable = |name| env::var_os(name).filter(|value| !value.is_empty());
        let number = |name| variable(name).and_then(|value| value.to_str()?.trim().parse::<i32>().ok());
        let pid = getpid().as_raw();
        let listen_pid = number("LISTEN_PID");
        let ours = listen_pid == Some(pid);
        let names = variable("LISTEN_FDNAMES").unwrap_or_default();
        Surroundings {
            pid,
            parent: getppid().as_raw(),
            terminal: stdin().is_terminal() || stdout().is_terminal() || stderr().is_terminal(),
            notify_socket: variable("NOTIFY_SOCKET"),
            listen_pid,
            passed: number("LISTEN_FDS").filter(|_| ours).unwrap_or(0).clamp(0, MAX_PASSED),
            upgrade: ours
                && names.as_bytes().split(|byte| *byte == b':').any(|name| name == HANDOFF.as_bytes()),
        }
    }

    pub(super) fn role(&self, mode: Mode) -> Role {
        if self.upgrade {
            return Role::Main;
        }
        if self.notify_socket.as_ref().is_some_and(|name| is_given_by(name, self.parent)) {
            let for_parent = self.listen_pid == Some(self.parent);
            return if for_parent { Role::Heir } else { Role::Main };
        }
        let wanted = match mode {
            Mode::Always => true,
            Mode::Never => false,
            // Whoever wants to be notified supervises; but it cannot help PID 1 to a sibling.
            Mode::Auto => self.pid == 1 || (self.terminal && self.notify_socket.is_none()),
        };
        if wanted { Role::Supervisor } else { Role::Main }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain() -> Surroundings {
        Surroundings { pid: 70, parent: 60, ..Surroundings::default() }
    }

    #[test]
    fn a_supervisor_where_one_process_must_stay() {
        assert_eq!(plain().role(Mode::Auto), Role::Main);
        assert_eq!(plain().role(Mode::Always), Role::Supervisor);

        let init = Surroundings { pid: 1, parent: 0, ..plain() };
        assert_eq!(init.role(Mode::Auto), Role::Supervisor);
        assert_eq!(init.role(Mode::Never), Role::Main);
        let notified = Surroundings { notify_socket: Some("/run/notify".into()), ..init };
        assert_eq!(notified.role(Mode::Auto), Role::Supervisor);

        let terminal = Surroundings { terminal: true, ..plain() };
        assert_eq!(terminal.role(Mode::Auto), Role::Supervisor);
        let notified = Surroundings { notify_socket: Some("/run/notify".into()), ..terminal };
        assert_eq!(notified.role(Mode::Auto), Role::Main);
        assert_eq!(notified.role(Mode::Always), Role::Supervisor);
    }

    #[test]
    fn the_main_process_has_no_second_supervisor() {
        let given = |by: i32| Some(format!("@exuvia-supervisor/{by}/0123").into());
        let main = Surroundings { terminal: true, notify_socket: given(60), ..plain() };
        let upgraded = Surroundings { terminal: true, upgrade: true, listen_pid: Some(70), ..plain() };
        for mode in [Mode::Auto, Mode::Always, Mode::Never] {
            assert_eq!(main.role(mode), Role::Main);
            assert_eq!(upgraded.role(mode), Role::Main);
        }
        let started_by_the_main_process = Surroundings { notify_socket: given(59), ..plain() };
        assert_eq!(started_by_the_main_process.role(Mode::Always), Role::Supervisor);
    }

    #[test]
    fn the_main_process_takes_what_its_supervisor_was_given() {
        let notify_socket = Some("@exuvia-supervisor/60/0123".into());
        let heir = Surroundings { notify_socket, listen_pid: Some(60), ..plain() };
        assert_eq!(heir.role(Mode::Auto), Role::Heir);
        let done = Surroundings { listen_pid: Some(70), ..heir };
        assert_eq!(done.role(Mode::Auto), Role::Main);
    }
}
