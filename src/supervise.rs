//! The process that stays: a small supervisor before the main process.
//!
//! An upgrade puts a new process in the place of the old one, and the new one is its sibling. Three kinds
//! of starters cannot live with that: a container runtime, which takes the end of PID 1 for the end of the
//! container; the kernel, for which the init of a PID namespace can have no sibling; and a person, whose
//! shell waits for the process that it started. For these, `exuvia run` starts itself once more and stays
//! before it. The supervisor plays systemd's part with systemd's own protocol (sd_notify(3)): it gives
//! `NOTIFY_SOCKET`, and `MAINPID=` tells it which generation is the **main process** now.
//!
//! ```text
//!   docker, shell ──signals──► supervisor ──signals──► main process ─┐
//!                    ◄─exit──     │   ▲                              │ upgrade
//!                     status      │   └── READY=1, MAINPID=… ────────┤
//!                                 └──────── waits for ───────► siblings of it
//! ```
//!
//! - SIGTERM, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2 and SIGHUP go on to the main process. SIGHUP and SIGUSR2 ask for
//!   an upgrade, and go on as SIGHUP; that waits until the main process is ready, and for the end of an upgrade that is under way. The
//!   second SIGTERM or SIGINT goes to every generation, as SIGTERM: it is the main process's second, which
//!   ends all of it at once, and where that is dead, a first one does.
//! - **A terminal that closes is a stop**, not the SIGHUP that asks for an upgrade. Under nohup(1) it is
//!   nothing.
//! - The generations are a process group of their own, in which later ones are born, so that Ctrl-C reaches
//!   the supervisor alone. For the terminal they are in the background: they may write to it, unless
//!   `stty tostop` forbids it. Ctrl-Z stops the supervisor and not the service; `fg` brings it back.
//! - The supervisor reaps whatever dies, orphans too when it is PID 1. It exits when no generation is left,
//!   as the last main process did: with its status, or 128 and the number of the signal that killed it.
//! - What is passed to it by socket activation goes to the main process, which takes it for its own
//!   ([`run`]). What a service manager before it wants to hear, it passes on.
//!
//! **Invariant**: it holds no listening socket, starts nothing anew, and decides nothing about upgrades. If
//! it is killed by SIGKILL, the service goes on without it.

mod generations;
mod notify;
mod orders;
mod role;
mod signals;

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::{env, fmt};

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::log::Log;
use generations::{Ended, Generations};
use notify::{NotifySocket, Upstream};
use orders::{Orders, Send};
use role::{Role, Surroundings};
use signals::{Asked, Signals};

/// When a supervisor is put before the main process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// As PID 1, and on a terminal, unless a service manager supervises already.
    #[default]
    Auto,
    /// In any case.
    Always,
    /// Not at all.
    Never,
}

/// Whether this process is to call [`run`] and nothing else. `false` in the main process, whatever `mode`
/// says. To be called before any thread is started, as [`run`] is.
pub fn wanted(mode: Mode) -> bool {
    Surroundings::look().role(mode) != Role::Main
}

/// Supervises until no generation is left, and says how to exit.
///
/// In a main process whose supervisor was given sockets it executes the program once more in the same
/// process, with a `LISTEN_PID` that is right: the supervisor could not know the pid before the process
/// was there.
pub fn run() -> ExitCode {
    let surroundings = Surroundings::look();
    let mut log = None;
    let result = match surroundings.role(Mode::Always) {
        Role::Heir => Err(inherit()),
        Role::Main => Err("this process has a supervisor already".to_owned()),
        Role::Supervisor => Supervisor::start(&surroundings, &mut log).and_then(Supervisor::run),
    };
    match (result, log) {
        (Ok(status), _) => ExitCode::from(status),
        (Err(error), Some(log)) => {
            log.say(&format!("{NAME}: {error}"));
            ExitCode::FAILURE
        }
        // Nothing runs that this could stop.
        (Err(error), None) => {
            writeln!(io::stderr(), "{NAME}: {error}").ok();
            ExitCode::FAILURE
        }
    }
}

/// What its lines begin with.
const NAME: &str = "exuvia supervisor";

/// Tells a person. A standard error that nobody reads, such as a terminal's that has closed or a full pipe, is no
/// reason to stop, nor to wait.
fn say(text: fmt::Arguments<'_>) {
    tracing::warn!("{text}");
}

/// Returns if it fails.
fn inherit() -> String {
    let mut arguments = env::args_os();
    let program = arguments.next().unwrap_or_default();
    let error = Command::new(&program)
        .args(arguments)
        .env("LISTEN_PID", std::process::id().to_string())
        .env_remove("LISTEN_PIDFDID")
        .exec();
    format!("cannot execute {program:?} for the sockets that it was given: {error}")
}

struct Supervisor {
    signals: Signals,
    notify: NotifySocket,
    upstream: Upstream,
    generations: Generations,
    orders: Orders,
    /// The generation that serves; `None` while it is dead and no other has said that it is the next.
    main: Option<Pid>,
    /// How the last main process ended.
    status: u8,
}

impl Supervisor {
    fn start(surroundings: &Surroundings, log: &mut Option<Log>) -> Result<Supervisor, String> {
        // First of all, so that no signal is lost and none ends this process without the other.
        let signals = Signals::take().map_err(|error| format!("cannot take the signals: {error}"))?;
        // Its thread takes no signals either.
        let stderr = io::stderr().as_fd().try_clone_to_owned();
        let stderr = stderr.map_err(|error| format!("cannot use the standard error: {error}"))?;
        let log = log.insert(Log::start(&stderr).map_err(|error| format!("cannot start the log: {error}"))?);
        log.subscribe_plain(NAME)?;
        let notify = NotifySocket::bind().map_err(|error| format!("cannot make NOTIFY_SOCKET: {error}"))?;
        let upstream = Upstream::new(surroundings.notify_socket.as_deref());
        let program = env::args_os().next().unwrap_or_default();
        let generations = Generations::start(notify.name())
            .map_err(|error| format!("cannot execute {program:?}: {}", io::Error::from(error)))?;
        generations::close_passed(surroundings.passed);
        let main = Some(generations.first());
        Ok(Supervisor { signals, notify, upstream, generations, orders: Orders::default(), main, status: 1 })
    }

    fn run(mut self) -> Result<u8, String> {
        while !self.generations.are_gone() {
            self.signals
                .wait(self.notify.as_fd())
                .map_err(|errno| format!("cannot wait for signals: {}", io::Error::from(errno)))?;
            while let Some(asked) = self.signals.next() {
                // Who is the main process comes before what is asked of it: whatever was said before the signal
                // was sent is heard before it is obeyed.
                self.listen();
                match asked {
                    Asked::Reap => self.bury(),
                    asked => {
                        let order = self.orders.on_asked(asked, self.main.is_some());
                        self.perform(order);
                    }
                }
            }
            self.listen();
        }
        Ok(self.status)
    }

    /// Hears what the generations have to say.
    fn listen(&mut self) {
        while let Some((sender, notice)) = self.notify.next() {
            if !self.generations.contain(sender) {
                continue;
            }
            if let Some(main) = notice.main_pid.filter(|pid| Some(*pid) != self.main) {
                if self.generations.contain(main) {
                    self.main = Some(main);
                    let order = self.orders.on_new_main();
                    self.perform(order);
                } else {
                    say(format_args!("process {sender} says MAINPID={main}, which is no child; ignored"));
                }
            }
            // The main process speaks for all, or the one that names it.
            if self.main.is_none_or(|main| main != sender && Some(main) != notice.main_pid) {
                continue;
            }
            if notice.reloading {
                self.orders.on_reloading();
            }
            if notice.ready {
                let order = self.orders.on_ready();
                self.perform(order);
            }
            if let Err(error) = self.upstream.pass_on(&notice.rest) {
                say(format_args!("cannot notify the service manager: {error}"));
            }
        }
    }

    /// Reaps the dead, each after its last words: it may have named its successor and be gone a moment
    /// later.
    fn bury(&mut self) {
        while let Some(dead) = self.generations.next_dead() {
            self.listen();
            let Some(ended) = self.generations.reap(dead) else { return };
            // Asked of the kernel, because it does not name every dead.
            let Some(main) = self.main.filter(|main| !self.generations.contain(*main)) else { continue };
            self.main = None;
            self.status = ended.status();
            self.orders.on_main_dead();
            let are_gone = self.generations.are_gone();
            match ended {
                Ended::Exited(0) => {}
                _ if !are_gone => {
                    say(format_args!("the main process ({main}) {ended}; other generations are still there"));
                }
                // It has said itself why.
                Ended::Exited(_) => {}
                Ended::Killed(Signal::SIGTERM | Signal::SIGINT) if self.orders.stops() => {}
                Ended::Killed(_) | Ended::Unknown => {
                    let hint = ended.hint();
                    say(format_args!(
                        "the main process ({main}) {ended}; none is left, nothing serves{hint}"
                    ));
                }
            }
        }
    }

    fn perform(&self, order: Option<Send>) {
        match (order, self.main) {
            (None, _) | (Some(Send::ToMain(_)), None) => {}
            (Some(Send::ToMain(signal)), Some(main)) => self.generations.signal(main, signal),
            (Some(Send::ToAll(signal)), _) => self.generations.signal_all(signal),
        }
    }
}
