//! An upgrade that is under way: what has been heard of it, and the kill that is planned in its midst.

use std::time::Duration;

use nix::unistd::Pid;
use tokio::time::Instant;

use super::band;
use super::subject::Heard;
use crate::now::Now;
use crate::results::{Deed, DeedKind};
use crate::stage::group::Members;
use crate::ways::Event;
use crate::witness::Phase;

/// How late the word of what a process does may be here: so much sooner, or longer, it may have accepted.
const WORD: Duration = Duration::from_millis(100);

/// Within which time after the commit an old process is killed, before [`PART`] is taken of it as of any phase.
const DRAIN: Duration = Duration::from_millis(300);

/// Which part of a phase, as long as it usually is, may pass before a kill in it: so that the phase is not over.
const PART: f64 = 0.6;

/// After which part of the probation a new process is not killed any more.
const TOO_LATE: f64 = 0.8;

/// A probation that is shorter may be over before a kill in it is done.
const LONG_ENOUGH: Duration = Duration::from_millis(100);

/// An upgrade that is under way.
pub(super) struct UnderWay {
    pub(super) deed: Deed,
    phase: Phase,
    /// Since when it is in it.
    since: Instant,
    /// Whom it is allowed to kill.
    members: Option<Members>,
    /// How long the old process watches the new one.
    probation: Duration,
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
    pub(super) fn new(
        deed: Deed,
        at: Instant,
        mortals: Option<(Members, Duration)>,
        accepts_since: Instant,
    ) -> UnderWay {
        let (members, probation) = mortals.unzip();
        UnderWay {
            deed,
            phase: Phase::Starting,
            since: at,
            members,
            probation: probation.unwrap_or_default(),
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
    /// is, then the time in it, which for the start is as long as the last one took. A new process is not killed after
    /// the commit: that would be no part of an upgrade.
    pub(super) fn plan_kill(&mut self, random: &mut fastrand::Rng, starting: Duration) {
        let mut phases = vec![(Phase::Starting, starting)];
        if self.probation >= LONG_ENOUGH {
            phases.push((Phase::Probation, self.probation));
        }
        match self.deed.deed {
            DeedKind::KillNew => {}
            DeedKind::KillOld => phases.push((Phase::Draining, DRAIN)),
            _ => return,
        }
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
        let new = self.deed.deed == DeedKind::KillNew;
        if new && (phase == Phase::Draining || (phase == Phase::Probation && self.probation < LONG_ENOUGH)) {
            self.kill = None;
        }
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

    /// When a kill is to be, if its phase has begun.
    pub(super) fn kill_at(&self) -> Option<Instant> {
        self.kill.as_ref()?.at
    }

    /// Kills, if the process is still there and one of the proxy's, and notes what was inside.
    pub(super) fn kill(&mut self, now: &Now) {
        self.kill = None;
        let old = self.deed.deed == DeedKind::KillOld;
        let victim = if old { self.old.first().copied() } else { self.started.map(|(_, pid)| pid) };
        let Some(pid) = victim else { return };
        if !self.members.as_ref().is_some_and(|members| members.list().contains(&pid)) {
            return;
        }
        // Where this comes late, it would be the owner that dies, which is no part of an upgrade.
        let late = |ready: Instant| ready.elapsed() > self.probation.mul_f64(TOO_LATE);
        if !old && self.ready.is_some_and(late) {
            return;
        }
        // A new process accepts nothing before it is ready.
        let from = if old { self.accepts_since } else { self.ready.unwrap_or_else(Instant::now) };
        let to = self.ready.filter(|_| old).map(|ready| ready + WORD);
        if now.kill(pid, from.checked_sub(WORD).unwrap_or(from), to) {
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

    /// How long it took to start.
    pub(super) fn starting(&self) -> Duration {
        self.starting
    }

    /// The deed, with the phase that ends now.
    pub(super) fn end(mut self, now: &Now, at: Instant) -> Deed {
        if self.phase != Phase::Draining {
            self.deed.phases.push(band(now, self.phase, self.since, at));
        }
        self.deed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_millis(500);
    const STARTING: Duration = Duration::from_millis(40);

    fn planned(kind: DeedKind, probation: Duration, seed: u64) -> (UnderWay, Now) {
        let at = Instant::now();
        let phases = Vec::new();
        let deed =
            Deed { deed: kind, detail: String::new(), as_expected: false, told: true, at: 0.0, phases };
        let mut under_way = UnderWay { probation, ..UnderWay::new(deed, at, None, at) };
        under_way.plan_kill(&mut fastrand::Rng::with_seed(seed), STARTING);
        (under_way, Now::new(at))
    }

    fn started() -> Heard {
        Heard::Event(Event::Started { pid: 1 })
    }

    fn ready() -> Heard {
        Heard::Event(Event::Ready { pid: Some(1) })
    }

    /// When the kill of each of many seeds is to be: how long after the start, the readiness, the commit.
    fn kills(kind: DeedKind, probation: Duration) -> [Vec<Duration>; 3] {
        let mut found = [Vec::new(), Vec::new(), Vec::new()];
        for seed in 0..200 {
            let (mut under_way, now) = planned(kind, probation, seed);
            let begun = now.begun();
            assert_eq!(
                under_way.kill_at(),
                None,
                "before there is a new process nobody else holds the sockets"
            );
            under_way.hear(begun, started(), &now);
            if let Some(at) = under_way.kill_at() {
                found[0].push(at - begun);
                continue;
            }
            under_way.hear(begun, ready(), &now);
            if let Some(at) = under_way.kill_at() {
                found[1].push(at - begun);
                continue;
            }
            under_way.committed(begun, &now);
            found[2].extend(under_way.kill_at().map(|at| at - begun));
        }
        found
    }

    #[test]
    fn a_new_process_is_not_killed_when_it_is_the_owner() {
        let [starting, probation, draining] = kills(DeedKind::KillNew, LONG);
        assert!(starting.len() > 50 && starting.iter().all(|after| *after < STARTING));
        assert!(probation.len() > 50 && probation.iter().all(|after| *after < LONG.mul_f64(PART)));
        assert!(draining.is_empty(), "{draining:?}");
        // One that was missed is not made up for after the commit, nor in a probation that is too short for it.
        for (probation, ends) in [(LONG, false), (Duration::from_millis(1), true)] {
            let (mut under_way, now) = planned(DeedKind::KillNew, probation, 7);
            under_way.kill = Some(Planned { within: Phase::Starting, after: LONG, at: None });
            under_way.hear(now.begun(), started(), &now);
            under_way.hear(now.begun(), ready(), &now);
            assert_eq!(under_way.kill_at().is_none(), ends, "{probation:?}");
            under_way.committed(now.begun(), &now);
            assert_eq!(under_way.kill_at(), None);
        }
        let [_, probation, draining] = kills(DeedKind::KillNew, Duration::from_millis(1));
        assert_eq!((probation.len(), draining.len()), (0, 0));
    }

    #[test]
    fn an_old_process_is_killed_in_every_phase() {
        let found = kills(DeedKind::KillOld, LONG);
        assert!(found.iter().all(|phase| phase.len() > 30), "{found:?}");
        assert_eq!(found.iter().map(Vec::len).sum::<usize>(), 200);
        assert!(found[2].iter().all(|after| *after < DRAIN));
        let none = kills(DeedKind::Upgrade, LONG);
        assert_eq!(none.iter().map(Vec::len).sum::<usize>(), 0);
    }
}
