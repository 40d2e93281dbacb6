//! The signals that a process understands, and that none of them ends it before it can.
//!
//! By default SIGHUP, SIGUSR1 and SIGUSR2 end a process, and whoever sends one to every process of a name sends it to
//! those that are just starting, too. So all that is understood later is held back (blocked, pthread_sigmask(3)) from
//! the first moment of the program until the driver has its handlers, and then it means what it always means:
//!
//! ```text
//!   clone ── the parent's mask ──► execve ── BORN_HELD ──► main ── UNDERSTOOD ──► Driver::new ── none ──►
//! ```
//!
//! What is held when a program is executed is held in that program, and a signal that waits goes on waiting
//! (execve(2)). A child is born with [`BORN_HELD`] only: the program on disk may be any, and what ends it must still be
//! able to.

use nix::sys::signal::{SigSet, SigmaskHow, Signal as Name};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::error::Error;
use super::state::Stop;

/// What a new process is born with held back: what would end it by default and is no wish for its end.
pub(crate) const BORN_HELD: [Name; 3] = [Name::SIGHUP, Name::SIGUSR1, Name::SIGUSR2];

/// All that a driver understands.
const UNDERSTOOD: [Name; 5] = [Name::SIGHUP, Name::SIGUSR1, Name::SIGUSR2, Name::SIGTERM, Name::SIGINT];

/// The signals that a process of ours must be started with held back, by whoever starts one.
pub fn born_held() -> SigSet {
    BORN_HELD.into_iter().collect()
}

/// The signals that the [`Driver`](super::Driver) understands, held back in this thread and in those that it starts
/// from now on.
#[derive(Debug)]
pub struct HeldSignals {
    before: Option<SigSet>,
}

impl HeldSignals {
    /// Holds them back. To be the first act of a program that may come to serve;
    /// [`Startup::begin`](super::Startup::begin) does it, too. The driver takes them from there.
    pub fn hold() -> HeldSignals {
        let understood: SigSet = UNDERSTOOD.into_iter().collect();
        // It fails for a wrong argument only (pthread_sigmask(3)).
        HeldSignals { before: understood.thread_swap_mask(SigmaskHow::SIG_BLOCK).ok() }
    }

    /// As it was before, for a program that is not going to serve: what waits takes effect now.
    pub fn release(self) {
        if let Some(before) = self.before {
            before.thread_set_mask().ok();
        }
    }
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Upgrade,
    Stop(Stop),
}

/// The signals, in the order of their weight.
#[derive(Debug)]
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    user1: Signal,
    user2: Signal,
}

impl Signals {
    /// Handles what has been held back. Must be called within a runtime, on the thread that holds them.
    pub(super) fn take() -> Result<Signals, Error> {
        let watch = |kind| signal(kind).map_err(Error::system("handle signals"));
        let signals = Signals {
            terminate: watch(SignalKind::terminate())?,
            interrupt: watch(SignalKind::interrupt())?,
            hangup: watch(SignalKind::hangup())?,
            user1: watch(SignalKind::user_defined1())?,
            user2: watch(SignalKind::user_defined2())?,
        };
        // Not as it was before: whoever started this process may have held them back, too.
        let understood: SigSet = UNDERSTOOD.into_iter().collect();
        understood.thread_unblock().map_err(|errno| Error::system("handle signals")(errno.into()))?;
        Ok(signals)
    }

    /// The next one that asks for something. Cancel-safe.
    pub(super) async fn next(&mut self) -> Asked {
        loop {
            tokio::select! {
                biased;
                _ = self.terminate.recv() => return Asked::Stop(Stop::Gracefully),
                _ = self.interrupt.recv() => return Asked::Stop(Stop::Gracefully),
                _ = self.hangup.recv() => return Asked::Upgrade,
                _ = self.user2.recv() => return Asked::Upgrade,
                _ = self.user1.recv() => {
                    tracing::info!("SIGUSR1 changes nothing: the log is on standard error, no file is open");
                }
            }
        }
    }
}
