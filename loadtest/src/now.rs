//! The run's clock, and the phase of the upgrade at this moment: written by the disturbers, read by all.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::Instant;

use crate::stage::processes::is_alive;
use crate::witness::{Class, Phase};

/// How long after a process was seen to be dead an exchange may have begun that it was still to get: what clients and the
/// witness see of a moment is not the same.
const DYING: Duration = Duration::from_millis(50);

/// How long after a SIGKILL a client may find out that reads as fast as it can.
const FOUND_OUT: Duration = Duration::from_secs(1);

/// The clock; clones show the same time.
#[derive(Clone, Debug)]
pub struct Now {
    begun: Instant,
    moment: Arc<AtomicU64>,
    kills: Arc<Mutex<Vec<Kill>>>,
}

/// Where the proxy is in its upgrades.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The phase.
    pub phase: Phase,
    /// How many upgrades have begun.
    pub upgrade: u32,
    /// How many new processes have become ready.
    pub ready: u32,
}

/// A process that was killed on purpose, and the connections that were inside it.
#[derive(Clone, Copy, Debug)]
struct Kill {
    pid: Pid,
    /// Just before SIGKILL was sent.
    at: Instant,
    /// When it was seen to be dead.
    dead: Option<Instant>,
    /// Connections made before this were not its.
    accepted_from: Instant,
    /// Connections made after this were not its; `None`: none after its death.
    accepted_to: Option<Instant>,
}

impl Now {
    /// A clock that begins at `begun`.
    #[must_use]
    pub fn new(begun: Instant) -> Now {
        Now { begun, moment: Arc::default(), kills: Arc::default() }
    }

    /// When the run began.
    #[must_use]
    pub fn begun(&self) -> Instant {
        self.begun
    }

    /// Seconds since the run began.
    #[must_use]
    pub fn seconds(&self, at: Instant) -> f64 {
        at.saturating_duration_since(self.begun).as_secs_f64()
    }

    /// Which of the slices of `length` a moment is in.
    #[must_use]
    pub fn slice(&self, at: Instant, length: Duration) -> usize {
        let slices = at.saturating_duration_since(self.begun).as_nanos() / length.as_nanos().max(1);
        usize::try_from(slices).unwrap_or(usize::MAX)
    }

    /// Where the proxy is.
    #[must_use]
    pub fn moment(&self) -> Moment {
        let word = self.moment.load(Ordering::Relaxed);
        let phase = match word & 3 {
            0 => Phase::Steady,
            1 => Phase::Starting,
            2 => Phase::Probation,
            _ => Phase::Draining,
        };
        let part = |shift: u32| u32::try_from((word >> shift) & 0x7fff_ffff).unwrap_or(0);
        Moment { phase, upgrade: part(2), ready: part(33) }
    }

    /// Says where the proxy is. There is one who says it.
    pub fn set(&self, moment: Moment) {
        let phase = match moment.phase {
            Phase::Steady => 0,
            Phase::Starting => 1,
            Phase::Probation => 2,
            Phase::Draining => 3,
        };
        let word = phase
            | u64::from(moment.upgrade & 0x7fff_ffff) << 2
            | u64::from(moment.ready & 0x7fff_ffff) << 33;
        self.moment.store(word, Ordering::Relaxed);
    }

    /// Kills a process with SIGKILL, and knows from then on what was inside: connections made from `accepted_from` to
    /// `accepted_to`, or to its death. Whether it was killed.
    pub fn kill(&self, pid: Pid, accepted_from: Instant, accepted_to: Option<Instant>) -> bool {
        // Whatever ends meanwhile is judged when this is known.
        let mut kills = self.kills();
        let at = Instant::now();
        let killed = kill(pid, Signal::SIGKILL).is_ok();
        if killed {
            kills.push(Kill { pid, at, dead: None, accepted_from, accepted_to });
        }
        killed
    }

    /// Notes which of those that were killed are dead by now: a busy machine takes its time. To be called now and then.
    pub fn bury(&self) {
        for kill in self.kills().iter_mut().filter(|kill| kill.dead.is_none()) {
            kill.dead = (!is_alive(kill.pid)).then(Instant::now);
        }
    }

    fn kills(&self) -> MutexGuard<'_, Vec<Kill>> {
        self.kills.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an exchange was inside a process that was killed on purpose: it was under way on a connection which that
    /// process had accepted, and failed as a death of the other side looks. A refused connection, a wrong answer, a
    /// timeout are never excused. One that reads slowly for as long as `lasts` finds the end behind all that had been sent
    /// before.
    #[must_use]
    pub fn excused(
        &self,
        class: Class,
        connected: Option<Instant>,
        from: Instant,
        to: Instant,
        lasts: Duration,
    ) -> bool {
        let death = matches!(class, Class::Reset | Class::ClosedBeforeAnswer | Class::ClosedInAnswer);
        let Some(connected) = connected.filter(|_| death) else { return false };
        self.kills().iter().any(|kill| {
            // As long as it is not known to be dead it may accept and answer.
            let dead = kill.dead.unwrap_or(to) + DYING;
            let inside = connected >= kill.accepted_from && connected <= kill.accepted_to.unwrap_or(dead);
            inside && from <= dead && to >= kill.at && to <= dead + FOUND_OUT + lasts
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_comes_back_as_it_was_said() {
        let now = Now::new(Instant::now());
        for phase in [Phase::Steady, Phase::Starting, Phase::Probation, Phase::Draining] {
            let moment = Moment { phase, upgrade: 70_000, ready: 0x7fff_fffe };
            now.set(moment);
            assert_eq!(now.moment(), moment);
        }
    }

    #[test]
    fn only_what_was_inside_the_killed_process_is_excused() {
        let begun = Instant::now();
        let at = |millis| begun + Duration::from_millis(millis);
        let now = Now::new(begun);
        assert!(!now.excused(Class::Reset, Some(at(600)), at(900), at(1001), Duration::ZERO));
        // Nobody's id.
        let nobody = Pid::from_raw(i32::MAX);
        assert!(!now.kill(nobody, begun, None), "nobody was killed");
        assert!(!now.excused(Class::Reset, Some(at(600)), at(900), at(1001), Duration::ZERO));
        let kill = Kill { pid: nobody, at: at(1000), dead: None, accepted_from: at(500), accepted_to: None };
        now.kills().push(kill);
        assert!(
            now.excused(Class::Reset, Some(at(600)), at(900), at(5000), Duration::ZERO),
            "it takes long to die"
        );
        now.bury();
        assert!(now.kills()[0].dead.is_some());
        now.kills()[0].dead = Some(at(1000));
        assert!(now.excused(Class::Reset, Some(at(600)), at(900), at(1001), Duration::ZERO));
        let not_its = now.excused(Class::Reset, Some(at(400)), at(900), at(1001), Duration::ZERO);
        let over_before = now.excused(Class::Reset, Some(at(600)), at(900), at(999), Duration::ZERO);
        let begun_after = now.excused(Class::Reset, Some(at(600)), at(1100), at(1101), Duration::ZERO);
        let much_later = now.excused(Class::Reset, Some(at(600)), at(900), at(2100), Duration::ZERO);
        let no_death = now.excused(Class::WrongBytes, Some(at(600)), at(900), at(1001), Duration::ZERO);
        let refused = now.excused(Class::Refused, None, at(900), at(1001), Duration::ZERO);
        let lasts = Duration::from_secs(3);
        assert!(now.excused(Class::Reset, Some(at(600)), at(900), at(3400), lasts), "it read what was sent");
        assert_eq!([not_its, over_before, begun_after, much_later, no_death, refused], [false; 6]);
    }
}
