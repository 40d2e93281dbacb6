//! The hidden subcommand `held`, through which everything is started, so that it ends when the witness is killed.
//!
//! ```text
//! exuvia-loadtest held [--guard] [--cpu N] [--parent PID] -- COMMAND [ARGUMENT...]
//! ```
//!
//! Between fork and exec a program of its own does what cannot be done there in safe code: it takes a session of its
//! own, in which all that it starts is found again; it asks the kernel for a SIGTERM when the thread that started it
//! is gone (prctl(2), PR_SET_PDEATHSIG), which a SIGKILL to the witness cannot prevent; it pins itself to a CPU.
//!
//! - [`hold`] then becomes the command. For commands that stay, and take what they started with them.
//! - [`guard`] stays before it. For commands that leave a daemon behind: the daemon and all below it become children
//!   of the guard (PR_SET_CHILD_SUBREAPER), which ends them when it is told to end.
//!
//! Both say why on standard error if they fail, and exit with [`FAILED`].

use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getppid, setsid};

use super::processes::Process;

/// The subcommand's name.
pub const COMMAND: &str = "held";

/// How it exits if the command could not be started; what a shell says of a command that is not there.
pub const FAILED: u8 = 127;

/// How long a guard waits for what it has told to end, before it kills it.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is to be held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Whether a guard stays before it.
    pub guard: bool,
    /// The CPU that it may use, counted from 0; any if `None`.
    pub cpu: Option<usize>,
    /// The process that starts it: if it is not the parent any more, nothing is started.
    pub parent: Option<Pid>,
    /// The program and its arguments.
    pub command: Vec<OsString>,
}

impl Held {
    /// From the arguments after the subcommand's name.
    ///
    /// # Errors
    ///
    /// What is wrong with them, in words.
    pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Held, String> {
        let (mut held, mut arguments) = (Held::default(), arguments.into_iter());
        while let Some(argument) = arguments.next() {
            let mut number = || {
                let value = arguments.next().unwrap_or_default();
                let number = value.to_str().and_then(|text| text.parse::<u32>().ok());
                number.ok_or_else(|| format!("{} needs a number, not {value:?}", argument.display()))
            };
            match argument.to_str() {
                Some("--guard") => held.guard = true,
                Some("--cpu") => held.cpu = Some(number()? as usize),
                Some("--parent") => held.parent = Some(Pid::from_raw(number()?.cast_signed())),
                Some("--") => held.command = arguments.by_ref().collect(),
                _ => return Err(format!("{argument:?} is not known here; the command stands behind --")),
            }
        }
        if held.command.is_empty() { Err("there is no command behind --".into()) } else { Ok(held) }
    }

    /// The arguments that [`Held::parse`] takes, with the subcommand's name before them.
    #[must_use]
    pub fn arguments(&self) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = vec![COMMAND.into()];
        if self.guard {
            arguments.push("--guard".into());
        }
        if let Some(cpu) = self.cpu {
            arguments.extend(["--cpu".into(), cpu.to_string().into()]);
        }
        if let Some(parent) = self.parent {
            arguments.extend(["--parent".into(), parent.to_string().into()]);
        }
        arguments.push("--".into());
        arguments.extend(self.command.iter().cloned());
        arguments
    }
}

/// Does what the arguments after the subcommand's name say. Returns if it fails, or when a guard has ended.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let held = match Held::parse(arguments) {
        Ok(held) => held,
        Err(error) => {
            eprintln!("exuvia-loadtest {COMMAND}: {error}");
            return ExitCode::from(2);
        }
    };
    let error = if held.guard {
        match guard(&held) {
            Ok(status) => return ExitCode::from(status),
            Err(error) => error,
        }
    } else {
        hold(&held)
    };
    let program = held.command.first().map(OsString::as_os_str).unwrap_or_default();
    eprintln!("exuvia-loadtest {COMMAND}: cannot start {}: {error}", program.display());
    ExitCode::from(FAILED)
}

/// Becomes the command, which gets a SIGTERM when the thread that started this process ends. Returns only if it
/// fails.
pub fn hold(held: &Held) -> io::Error {
    if let Err(error) = prepare(held) {
        return error;
    }
    match command(held) {
        Ok(mut command) => command.exec(),
        Err(error) => error,
    }
}

/// Starts the command and stays, until it and everything that it has left behind has ended. On SIGTERM, SIGINT or
/// the death of the thread that started it, ends them: by SIGTERM, and by SIGKILL after a while. Gives the
/// command's exit status.
///
/// # Errors
///
/// If the command cannot be started, or the kernel refuses what it needs.
pub fn guard(held: &Held) -> io::Result<u8> {
    // First of all, so that none is lost: what comes before the guard can hear it waits.
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGCHLD]);
    signals.thread_block()?;
    let heard = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    prctl::set_child_subreaper(true)?;
    prepare(held)?;
    // Reaped below, with all others: no process is started here after it.
    let first = Pid::from_raw(command(held)?.spawn()?.id().cast_signed());
    let (mut status, mut give_up) = (0, None::<Instant>);
    loop {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) if pid == first => {
                    status = u8::try_from(code).unwrap_or(FAILED);
                }
                Ok(WaitStatus::Signaled(pid, signal, _)) if pid == first => status = 128 + signal as u8,
                Ok(WaitStatus::StillAlive) => break,
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => return Ok(status),
            }
        }
        while let Some(signal) = heard.read_signal()? {
            if signal.ssi_signo != Signal::SIGCHLD as u32 && give_up.is_none() {
                give_up = Some(Instant::now() + PATIENCE);
                send(Signal::SIGTERM);
            }
        }
        let timeout = match give_up.map(|at| at.saturating_duration_since(Instant::now())) {
            None => PollTimeout::NONE,
            Some(Duration::ZERO) => {
                send(Signal::SIGKILL);
                // What was born meanwhile is found the next time.
                PollTimeout::from(10u8)
            }
            Some(left) => PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX),
        };
        match poll(&mut [PollFd::new(heard.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Signals everything below this process.
fn send(signal: Signal) {
    let (all, mut found) = (Process::all(), vec![Pid::this()]);
    let mut at = 0;
    while let Some(parent) = found.get(at).copied() {
        found.extend(all.iter().filter(|process| process.parent == parent).map(|process| process.pid));
        at += 1;
    }
    for pid in &found[1..] {
        // One that has ended by itself.
        kill(*pid, signal).ok();
    }
}

fn prepare(held: &Held) -> io::Result<()> {
    // Fails where it leads a process group already; whoever arranged that finds it by the group.
    setsid().ok();
    prctl::set_pdeathsig(Signal::SIGTERM)?;
    // It may have died before that: then nobody tells.
    if held.parent.is_some_and(|parent| parent != getppid()) {
        return Err(io::Error::other("the process that started it is gone"));
    }
    if let Some(cpu) = held.cpu {
        let mut set = CpuSet::new();
        set.set(cpu)?;
        sched_setaffinity(Pid::from_raw(0), &set)
            .map_err(|error| io::Error::other(format!("cannot use CPU {cpu}: {error}")))?;
    }
    Ok(())
}

fn command(held: &Held) -> io::Result<Command> {
    let (program, arguments) =
        held.command.split_first().ok_or_else(|| io::Error::other("there is no command"))?;
    let mut command = Command::new(program);
    command.args(arguments);
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Held, String> {
        Held::parse(words.iter().map(OsString::from))
    }

    #[test]
    fn what_is_said_is_understood() {
        let held = Held {
            guard: true,
            cpu: Some(3),
            parent: Some(Pid::from_raw(123_456)),
            command: vec!["nginx".into(), "--cpu".into(), "--".into()],
        };
        let arguments = held.arguments();
        assert_eq!(arguments[0], COMMAND);
        assert_eq!(Held::parse(arguments.into_iter().skip(1)), Ok(held));
        let plain = parse(&["--", "true"]).unwrap();
        assert_eq!(plain, Held { command: vec!["true".into()], ..Held::default() });
    }

    #[test]
    fn what_is_wrong_is_told() {
        assert_eq!(parse(&[]), Err("there is no command behind --".into()));
        assert_eq!(parse(&["--"]), Err("there is no command behind --".into()));
        assert_eq!(parse(&["--cpu", "x", "--", "y"]), Err("--cpu needs a number, not \"x\"".into()));
        assert!(parse(&["--cpu"]).unwrap_err().contains("needs a number"));
        assert!(parse(&["true"]).unwrap_err().contains("stands behind --"));
    }
}
