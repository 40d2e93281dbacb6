//! What is true of a world.

use std::fmt;

use exuvia::restart::state::{Action, Event, Phase};

use super::process::{Life, Link, Process, Side};
use super::world::World;

impl World {
    fn nobody_lives(&self) -> bool {
        !self.processes.iter().any(Process::lives)
    }

    /// Whether everything may stay as it is.
    pub(crate) fn is_good_end(&self) -> bool {
        match (self.stopped, self.excused) {
            (_, true) => self.one_serves() || self.nobody_runs(),
            (true, false) => self.nobody_lives(),
            (false, false) => self.one_serves(),
        }
    }

    /// Whether all that live hang.
    fn nobody_runs(&self) -> bool {
        !self.processes.iter().any(Process::runs)
    }

    pub(crate) fn someone_accepts(&self) -> bool {
        self.processes.iter().any(|process| process.runs() && process.state.phase().accepts())
    }

    pub(crate) fn someone_holds(&self) -> bool {
        self.processes.iter().any(Process::holds)
    }

    pub(crate) fn owners(&self) -> usize {
        self.processes.iter().filter(|process| process.runs() && process.state.phase().owns()).count()
    }

    /// Whether a process and the one that made it both stop as owners, which wait for all others, and neither
    /// is to hear anything more from the other.
    pub(crate) fn two_wait_for_each_other(&self) -> bool {
        let waits = |process: &Process, end: Link| {
            let stops = process.runs() && process.owner && process.state.phase() == Phase::Draining;
            stops && process.others.contains(&end) && self.inbox(end).is_empty()
        };
        self.processes.iter().enumerate().any(|(channel, process)| {
            let [up, down] = [Side::Child, Side::Parent].map(|side| Link { channel, side });
            waits(process, up) && self.processes.iter().any(|parent| waits(parent, down))
        })
    }

    /// Whether an upgrade asked for now would be tried.
    pub(crate) fn would_upgrade(&self) -> bool {
        let able = |process: &Process| {
            let asked = process.state.clone().on(Event::UpgradeAsked { alive: 1 + process.others.len() });
            process.runs() && asked.contains(&Action::Spawn)
        };
        self.processes.iter().any(able)
    }

    /// Whether one process serves, has everything that an owner has, and nothing is left of any other.
    fn one_serves(&self) -> bool {
        let mut alive = self.processes.iter().filter(|process| process.lives());
        let (Some(one), None) = (alive.next(), alive.next()) else { return false };
        let alone =
            one.superior.is_none() && !one.predecessor && one.child.is_none() && one.others.is_empty();
        let idle = one.timer.is_none() && !one.asked;
        one.runs() && one.state.phase() == Phase::Serving && one.owner && alone && idle
    }
}

impl fmt::Display for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (p, process) in self.processes.iter().enumerate() {
            let gap = if p == 0 { "" } else { " │ " };
            match process.life {
                Life::Dead => write!(f, "{gap}{p} dead")?,
                Life::Booting | Life::Hung => write!(f, "{gap}{p} {:?}", process.life)?,
                Life::Running => write!(f, "{gap}{p} {:?}", process.state.phase())?,
            }
            if !process.to_child.is_empty() || !process.to_parent.is_empty() {
                write!(f, " (on the way: up {:?} down {:?})", process.to_parent, process.to_child)?;
            }
        }
        let words = [(self.stopped, "stopped"), (self.excused, "excused")];
        words.iter().filter(|(is, _)| *is).try_for_each(|(_, word)| write!(f, " [{word}]"))
    }
}
