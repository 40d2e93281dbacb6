//! The signals, read one by one (signalfd(2)), and what each means.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

const TAKEN: [Signal; 7] = [
    Signal::SIGCHLD,
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];

/// A terminal emulator may first tell the shell, which tells its jobs, and only then close the terminal; or
/// the shell learns of it from the kernel, and tells its jobs later. A SIGHUP so shortly before or after was
/// no wish for an upgrade.
const SUSPICION: Duration = Duration::from_secs(5);

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// A child is dead.
    Reap,
    /// SIGTERM or SIGINT.
    Stop(Signal),
    /// The terminal has closed.
    HangUp,
    /// SIGHUP, meant as such, or SIGUSR2.
    Upgrade,
    /// Only the main process knows.
    Other(Signal),
    Nothing,
}

pub(super) struct Signals {
    signals: SignalFd,
    /// The controlling terminal, as long as it is there.
    terminal: Option<File>,
    /// When it was seen to have closed.
    closed: Option<Instant>,
    hangup_ignored: bool,
    /// When a SIGHUP came that may prove to be the news of a terminal that closes.
    suspected: Option<Instant>,
}

impl Signals {
    /// From here on none of them ends this process. Must be called while it has one thread.
    pub(super) fn take() -> nix::Result<Signals> {
        let hangup_ignored = fs::read_to_string("/proc/self/status").is_ok_and(|it| ignores_hangup(&it));
        let taken: SigSet = TAKEN.into_iter().collect();
        taken.thread_block()?;
        let signals = SignalFd::with_flags(&taken, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        // To open a serial line may otherwise wait for its carrier.
        let at_once = OFlag::O_NONBLOCK.bits();
        let terminal = OpenOptions::new().read(true).custom_flags(at_once).open("/dev/tty").ok();
        Ok(Signals { signals, terminal, closed: None, hangup_ignored, suspected: None })
    }

    /// Waits until there is a signal, or something to read from `other`, or the terminal closes.
    pub(super) fn wait(&self, other: BorrowedFd<'_>) -> nix::Result<()> {
        // A hang-up is told without being asked for.
        let watch = |terminal| PollFd::new(File::as_fd(terminal), PollFlags::empty());
        let terminal = self.terminal.as_ref().map(watch);
        let readable = [self.signals.as_fd(), other].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        let mut fds: Vec<PollFd<'_>> = readable.into_iter().chain(terminal).collect();
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// The next thing that is asked for.
    pub(super) fn next(&mut self) -> Option<Asked> {
        self.look_at_terminal();
        if self.closed.is_some()
            && let Some(since) = self.suspected.take()
            && since.elapsed() < SUSPICION
            && !self.hangup_ignored
        {
            return Some(Asked::HangUp);
        }
        let info = match self.signals.read_signal() {
            Ok(info) => info?,
            Err(errno) => {
                super::say(format_args!("cannot read a signal: {}", io::Error::from(errno)));
                return None;
            }
        };
        // It may have closed since, and this be the news of it.
        self.look_at_terminal();
        let signal = i32::try_from(info.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok())?;
        let by_the_kernel = info.ssi_code == nix::libc::SI_KERNEL;
        let hung_up = tells_of_terminal(by_the_kernel, self.closed.map(|since| since.elapsed()));
        let asked = meaning(signal, hung_up, self.hangup_ignored);
        if (signal, asked) == (Signal::SIGHUP, Asked::Upgrade) && self.terminal.is_some() {
            self.suspected = Some(Instant::now());
        }
        Some(asked)
    }

    fn look_at_terminal(&mut self) {
        let Some(terminal) = &self.terminal else { return };
        let mut fds = [PollFd::new(terminal.as_fd(), PollFlags::empty())];
        let looked = poll(&mut fds, PollTimeout::ZERO);
        if looked.is_ok() && fds[0].revents().is_some_and(|seen| seen.contains(PollFlags::POLLHUP)) {
            self.terminal = None;
            self.closed = Some(Instant::now());
        }
    }
}

/// Whether a SIGHUP is the news that the terminal has closed; `closed` is how long ago that was seen. The
/// kernel itself sends SIGHUP for no other reason (sigaction(2)), and a shell passes it on. A service whose
/// terminal closed long ago lives without it, and SIGHUP asks for an upgrade there as anywhere.
fn tells_of_terminal(by_the_kernel: bool, closed: Option<Duration>) -> bool {
    by_the_kernel || closed.is_some_and(|ago| ago < SUSPICION)
}

fn meaning(signal: Signal, hung_up: bool, hangup_ignored: bool) -> Asked {
    match signal {
        Signal::SIGCHLD => Asked::Reap,
        Signal::SIGTERM | Signal::SIGINT => Asked::Stop(signal),
        Signal::SIGHUP if hung_up && hangup_ignored => Asked::Nothing,
        Signal::SIGHUP if hung_up => Asked::HangUp,
        Signal::SIGHUP | Signal::SIGUSR2 => Asked::Upgrade,
        other => Asked::Other(other),
    }
}

/// Whether the one who started this process had SIGHUP ignored, as nohup(1) has (proc_pid_status(5)).
fn ignores_hangup(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask & (1 << (Signal::SIGHUP as u32 - 1)) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hangup_is_an_upgrade_only_if_someone_asks_for_it() {
        assert_eq!(meaning(Signal::SIGHUP, false, false), Asked::Upgrade);
        assert_eq!(meaning(Signal::SIGHUP, true, false), Asked::HangUp);
        assert_eq!(meaning(Signal::SIGHUP, true, true), Asked::Nothing);
        assert_eq!(meaning(Signal::SIGHUP, false, true), Asked::Upgrade);
        assert_eq!(meaning(Signal::SIGUSR2, true, true), Asked::Upgrade, "no terminal sends it");
    }

    /// To a service that had outlived its terminal, every SIGHUP was the news of that: it stopped, or under
    /// nohup(1) did nothing.
    #[test]
    fn a_terminal_that_closed_long_ago_is_no_news() {
        assert!(tells_of_terminal(true, None));
        assert!(tells_of_terminal(true, Some(SUSPICION * 2)));
        assert!(tells_of_terminal(false, Some(Duration::ZERO)));
        assert!(!tells_of_terminal(false, Some(SUSPICION)));
        assert!(!tells_of_terminal(false, None));
    }

    #[test]
    fn what_nohup_leaves_behind() {
        assert!(ignores_hangup("Name:\tx\nSigIgn:\t0000000000001001\nSigCgt:\t0000000000000000\n"));
        assert!(!ignores_hangup("SigBlk:\t0000000000000001\nSigIgn:\t0000000000001000\n"));
        assert!(!ignores_hangup(""));
    }
}
