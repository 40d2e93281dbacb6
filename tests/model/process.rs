//! One process, and the ends of channels that it holds.

use exuvia::restart::state::{Phase, State, Stop, Timer};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Life {
    /// Before [`Event::Started`]: all that can fail at start may fail.
    Booting,
    /// It does nothing any more, and lives.
    Hung,
    Running,
    Dead,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Message {
    Ready,
    Failed,
    Owner,
    Proven,
    Commit,
    Rollback,
    Stop(Stop),
    /// What no version says.
    Garbage,
    /// Not a message but an errno in a pipe of its own, which is read before everything else.
    ExecFailed,
}

/// The two ends of the channel between a process and the one that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Side {
    Parent,
    Child,
}

/// One end of the channel that was made with the process `channel`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Link {
    pub(crate) channel: usize,
    pub(crate) side: Side,
}

impl Link {
    pub(crate) fn opposite(self) -> Link {
        let side = match self.side {
            Side::Parent => Side::Child,
            Side::Child => Side::Parent,
        };
        Link { side, ..self }
    }
}

/// A process: the real machine, and of its driver what decides which event comes of what happens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Process {
    pub(crate) life: Life,
    /// The process that made it.
    pub(crate) maker: usize,
    pub(crate) state: State,
    pub(crate) timer: Option<Timer>,
    /// As in the driver: the process that has the say over this one.
    pub(crate) superior: Option<Link>,
    /// As in the driver: a second descriptor of the channel's end, until this process is the owner.
    pub(crate) predecessor: bool,
    pub(crate) child: Option<usize>,
    /// As in the driver, where only the owner listens to them.
    pub(crate) others: Vec<Link>,
    pub(crate) owner: bool,
    /// Whether an upgrade was accepted whose end has not been reported.
    pub(crate) asked: bool,
    /// Whether it has done what is wanted of it in its probation.
    pub(crate) proven: bool,
    /// Whether it ever was the owner.
    pub(crate) owned: bool,
    /// What is in its channel and not read yet, to the end that its maker has and to the end that it has.
    pub(crate) to_parent: Vec<Message>,
    pub(crate) to_child: Vec<Message>,
}

impl Process {
    pub(crate) fn lives(&self) -> bool {
        self.life != Life::Dead
    }

    pub(crate) fn runs(&self) -> bool {
        self.life == Life::Running
    }

    /// Whether it holds the listening sockets and can be expected to do something about them.
    pub(crate) fn holds(&self) -> bool {
        self.lives() && self.life != Life::Hung && self.state.phase().holds_listeners()
    }

    /// Whether another process has the say and the duty to serve if this one dies.
    pub(crate) fn is_junior(&self) -> bool {
        matches!(self.state.phase(), Phase::Starting | Phase::Candidate | Phase::RolledBack)
    }
}
