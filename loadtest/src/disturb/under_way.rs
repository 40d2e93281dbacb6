//! An upgrade that is under way: what has been heard of it, and the kill that is planned in its midst.

use std::time::Duration;

use nix::unistd::Pid;
use tokio::time::Instant;

use super::band;
use super::subject::{Heard, kill_member};
use crate::now::{Kill, Now};
use crate::results::{Deed, DeedKind};
use crate::stage::group::Members;
use crate::ways::Event;
use crate::witness::Phase;

/// How long after another has become ready an old process may still have accepted: the word of it takes its time.
const WORD: Duration = Duration::from_millis(100);

/// How long after a SIGKILL its process may still have accepted.
const DYING: Duration = Duration::from_millis(50);

/// Within which time after the commit an old process is killed.
const DRAIN: Duration = Duration::from_millis(300);

/// Which part of a phase, as long as it usually is, may pass before a kill in it: so that the phase is not over.
const PART: f64 = 0.8;

/// How long the phases of an upgrade usually are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Usual {
    starting: Duration,
    probation: Duration,
}

impl Default for Usual {
    /// Before there was one: not more than any upgrade takes.
    fn default() -> Usual {
        Usual { starting: Duration::from_millis(10), probation: Duration::from_millis(50) }
    }
}

/// An upgrade that is under way.
pub(super) struct UnderWay {
    pub(super) deed: Deed,
    phase: Phase,
    /// Since when it is in it.
    since: Instant,
    /// Whom it is allowed to kill.
    members: Option<Members>,
    /// Since when the old process has accepted.
    accepts_since: Instant,
    old: Vec<Pid>,
    started: Option<(Instant, Pid)>,
    ready: Option<Instant>,
    starting: Duration,
    kill: Option<Planned>,
    killed: Option<(Pid, Phase)>,
}

/// A kill that is to come.
struct Planned {
    within: Phase,
    /// After so much of it.
    after: Duration,
    /// Known when the phase has begun.
    at: Option<Instant>,
}

impl UnderWay {
    pub(super) fn new(deed: Deed, at: Instant, members: Option<Members>, accepts_since: Instant) -> UnderWay {
        UnderWay {
            deed,
            phase: Phase::Starting,
            since: at,
            members,
            accepts_since,
            old: Vec::new(),
            started: None,
            ready: None,
            starting: Duration::ZERO,
            kill: None,
            killed: None,
        }
    }

    /// Chooses the moment of the kill, if there is to be one: first the phase, that each has its turn however short it
    /// is, then the time in it. A new process is not killed after the commit: that would be no part of an upgrade.
    pub(super) fn plan_kill(&mut self, random: &mut fastrand::Rng, usual: Usual) {
        let phases = match self.deed.deed {
            DeedKind::KillNew => {
                &[(Phase::Starting, usual.starting), (Phase::Probation, usual.probation)][..]
            }
            DeedKind::KillOld => &[
                (Phase::Starting, usual.starting),
                (Phase::Probation, usual.probation),
                (Phase::Draining, DRAIN),
            ],
            _ => return,
        };
        let (within, lasts) = phases[random.usize(..phases.len())];
        self.kill = Some(Planned { within, after: lasts.mul_f64(PART * random.f64()), at: None });
    }

    /// Takes what was heard. Gives the phase that begins with it.
    pub(super) fn hear(&mut self, at: Instant, heard: Heard, now: &Now) -> Option<Phase> {
        match heard {
            Heard::Old(old) => self.old = old,
            // Only now is there a process that holds the sockets beside the old one.
            Heard::Event(Event::Started { pid }) => {
                self.started = Some((at, Pid::from_raw(pid)));
                self.set_out(Phase::Starting, at);
            }
            Heard::Event(Event::Ready { .. }) => {
                self.ready = Some(at);
                self.starting = at - self.since;
                self.turn(Phase::Probation, at, now);
                return Some(Phase::Probation);
            }
            Heard::Event(Event::Starting) => {}
        }
        None
    }

    fn turn(&mut self, phase: Phase, at: Instant, now: &Now) {
        self.deed.phases.push(band(now, self.phase, self.since, at));
        (self.phase, self.since) = (phase, at);
        self.set_out(phase, at);
    }

    /// A phase has begun, or as much of it as a kill needs.
    fn set_out(&mut self, phase: Phase, at: Instant) {
        if let Some(kill) = &mut self.kill {
            if kill.within == phase {
                kill.at = Some(at + kill.after);
            } else if kill.at.is_some() {
                // Its phase was shorter than usual: now, then.
                kill.at = Some(at);
            }
        }
    }

    /// The new process is the owner; the old one drains.
    pub(super) fn committed(&mut self, at: Instant, now: &Now) {
        self.turn(Phase::Draining, at, now);
    }

    /// Whether a kill is still to come.
    pub(super) fn kills(&self) -> bool {
        self.kill.is_some()
    }

    /// When it is to be; far away as long as its phase has not begun.
    pub(super) fn kill_at(&self) -> Instant {
        let at = self.kill.as_ref().and_then(|kill| kill.at);
        at.unwrap_or_else(|| Instant::now() + Duration::from_secs(3_600))
    }

    /// Kills, and says before that what was inside.
    pub(super) fn kill(&mut self, now: &Now) {
        self.kill = None;
        let old = self.deed.deed == DeedKind::KillOld;
        let victim = if old { self.old.first().copied() } else { self.started.map(|(_, pid)| pid) };
        let (Some(pid), Some(members)) = (victim, &self.members) else { return };
        let at = Instant::now();
        let accepted_to = match self.ready {
            Some(ready) if old => ready + WORD,
            _ => at + DYING,
        };
        let accepted_from = if old { self.accepts_since } else { self.started.map_or(at, |(at, _)| at) };
        now.kill(Kill { at, accepted_from, accepted_to });
        if kill_member(members, pid) {
            self.killed = Some((pid, self.phase));
        }
    }

    /// Who was killed, and in which phase.
    pub(super) fn killed(&self) -> Option<(Pid, Phase)> {
        self.killed
    }

    /// Whether the new process is alone now.
    pub(super) fn old_was_killed(&self) -> bool {
        self.killed.is_some() && self.deed.deed == DeedKind::KillOld
    }

    /// When the new process was ready.
    pub(super) fn ready(&self) -> Option<Instant> {
        self.ready
    }

    /// How long its phases were.
    pub(super) fn usual(&self, ended: Instant) -> Usual {
        Usual { starting: self.starting, probation: self.ready.map_or(Duration::ZERO, |ready| ended - ready) }
    }

    /// The deed, with the phase that ends now.
    pub(super) fn end(mut self, now: &Now, at: Instant) -> Deed {
        if self.phase != Phase::Draining {
            self.deed.phases.push(band(now, self.phase, self.since, at));
        }
        self.deed
    }
}
