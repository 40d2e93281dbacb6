//! What may come next.

use exuvia::restart::state::Stop;

/// How often each thing may still happen that no process does by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Budget {
    pub(crate) upgrades: u8,
    pub(crate) rollbacks: u8,
    pub(crate) stops: u8,
    pub(crate) crashes: u8,
}

/// What a child may do before it is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Boot {
    Ready,
    /// Says why, and exits.
    Fails,
    Dies,
    Hangs,
    /// Says what is not in the protocol, and hangs.
    Babbles,
    ExecFails,
}

/// Everything that may happen next. Numbers are processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    // What goes on by itself.
    HearChild(usize),
    SeeChildDead(usize),
    HearSuperior(usize),
    SeeSuperiorGone(usize),
    HearOther(usize, usize),
    SeeOtherGone(usize, usize),
    TimeOut(usize),
    Drained(usize),
    Boot(usize, Boot),
    /// It has done what is wanted of it in its probation.
    Prove(usize),
    // What is done to it.
    AskUpgrade(usize, bool),
    AskRollback(usize),
    AskStop(usize, Stop),
    Crash(usize),
}

impl Step {
    /// Whether it comes without anyone's doing: no operator, no crash, no child that hangs.
    pub(crate) fn is_due(self) -> bool {
        !matches!(
            self,
            Step::AskUpgrade(..)
                | Step::AskRollback(_)
                | Step::AskStop(..)
                | Step::Crash(_)
                | Step::Prove(_)
                | Step::Boot(_, Boot::Hangs | Boot::Babbles)
        )
    }

    pub(crate) fn process(self) -> usize {
        match self {
            Step::HearChild(p)
            | Step::SeeChildDead(p)
            | Step::HearSuperior(p)
            | Step::SeeSuperiorGone(p)
            | Step::HearOther(p, _)
            | Step::SeeOtherGone(p, _)
            | Step::TimeOut(p)
            | Step::Drained(p)
            | Step::Boot(p, _)
            | Step::Prove(p)
            | Step::AskUpgrade(p, _)
            | Step::AskRollback(p)
            | Step::AskStop(p, _)
            | Step::Crash(p) => p,
        }
    }
}
