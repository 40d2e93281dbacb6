//! What is counted of connections, by kind and end.
//!
//! Invariant: for each kind, *began = open + the sum of all ends*. It cannot be broken: what is open is not stored, it
//! is the difference; and when a process is dead, the difference is an end, too ([`End::Crashed`]).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::history::Loss;
use super::milestone::Goal;
#[cfg(test)]
use super::segment::Owner;
use super::segment::{Plan, Seat, Segment, Shard, Slot};

/// What a daemon calls its kinds of connections, such as `["http1", "tunnel"]`; a [`Kind`] is a place in it.
pub type Kinds = &'static [&'static str];

/// A kind of connection: a place in the daemon's [`Kinds`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind(pub usize);

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// The peer closed it, at rest.
    ClosedByPeer,
    /// We closed it, at rest, with nothing unread.
    Closed,
    /// The peer went away in the middle of something.
    PeerAborted,
    /// We closed it because the peer broke the protocol.
    ProtocolError,
    /// We closed it because the peer was too slow.
    TimedOut,
    /// We refused it because a limit was reached.
    Refused,
    /// We broke it off in the middle of something that could not be finished, such as an answer of which
    /// the rest is not to be had.
    Aborted,
    /// It was cut at the drain deadline, or by a stop that does not wait, while something was in flight.
    DroppedInFlight,
    /// It was cut at the drain deadline, or by a stop that does not wait, while it was at rest.
    DroppedIdle,
    /// Its task ended without a word: a defect of ours.
    Lost,
    /// It goes on as another kind, in whose books it begins; see [`Guard::switch`](super::Guard::switch).
    Switched,
    /// Its process died without a word, by SIGKILL or a crash. Never counted by the process itself: it is what was
    /// open then.
    Crashed,
}

impl End {
    /// Every end, in the order of their counters.
    pub const ALL: [End; 12] = [
        End::ClosedByPeer,
        End::Closed,
        End::PeerAborted,
        End::ProtocolError,
        End::TimedOut,
        End::Refused,
        End::Aborted,
        End::DroppedInFlight,
        End::DroppedIdle,
        End::Lost,
        End::Switched,
        End::Crashed,
    ];

    /// The word for it in logs and in the status.
    pub fn as_str(self) -> &'static str {
        match self {
            End::ClosedByPeer => "closed_by_peer",
            End::Closed => "closed",
            End::PeerAborted => "peer_aborted",
            End::ProtocolError => "protocol_error",
            End::TimedOut => "timed_out",
            End::Refused => "refused",
            End::Aborted => "aborted",
            End::DroppedInFlight => "dropped_in_flight",
            End::DroppedIdle => "dropped_idle",
            End::Lost => "lost",
            End::Switched => "switched",
            End::Crashed => "crashed",
        }
    }
}

/// The connections that a process did not finish.
pub(crate) const LOST_CONNECTIONS: Loss = Loss {
    what: "connections",
    series: "connections_ended_total",
    ends: &["dropped_in_flight", "dropped_idle", "crashed"],
};

/// Why a process that drains cuts what is left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Cause {
    /// Another generation has taken over, and the drain deadline has come.
    Upgrade,
    /// It was rolled back, and the drain deadline has come.
    Rollback,
    /// It was told to stop: at the drain deadline, or at once.
    #[default]
    Stop,
}

impl Cause {
    const ALL: [Cause; 3] = [Cause::Upgrade, Cause::Rollback, Cause::Stop];

    fn as_str(self) -> &'static str {
        match self {
            Cause::Upgrade => "upgrade",
            Cause::Rollback => "rollback",
            Cause::Stop => "stop",
        }
    }
}

/// The series of a process's connections, and where they are.
#[derive(Debug)]
pub struct Counts {
    columns: Columns,
    segment: Segment,
    goal: Arc<Goal>,
}

/// The places of the series.
#[derive(Debug)]
pub(crate) struct Columns {
    kinds: Kinds,
    per_kind: Vec<KindColumns>,
    accept_errors: Slot,
    accept_pauses: Slot,
}

#[derive(Debug)]
struct KindColumns {
    began: Slot,
    active: Slot,
    /// By cause; of an end that is not a drop all three are the same.
    ends: [[Slot; Cause::ALL.len()]; End::ALL.len()],
}

/// What the counters of one kind say at a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KindStatus {
    /// The daemon's word for the kind.
    pub kind: String,
    /// Connections that began.
    pub began: u64,
    /// Connections that are open.
    pub open: i64,
    /// Of those, the ones with something in flight.
    pub active: i64,
    /// How the others ended; only what is not zero.
    pub ends: Vec<(End, u64)>,
}

impl Columns {
    pub(crate) fn plan(plan: &mut Plan, kinds: Kinds) -> Columns {
        let mut of_kind = |kind: &&str| {
            let began = plan.counter("connections_total", &[("kind", kind)]);
            let ends = End::ALL.map(|end| {
                Cause::ALL.map(|cause| {
                    let is_drop = matches!(end, End::DroppedInFlight | End::DroppedIdle);
                    let cause = if is_drop { cause.as_str() } else { "" };
                    let labels = [("kind", *kind), ("end", end.as_str()), ("cause", cause)];
                    plan.end("connections_ended_total", &labels, began)
                })
            });
            plan.lost(began, ends[End::Crashed as usize][0]);
            let active = plan.gauge("connections_active", &[("kind", kind)]);
            KindColumns { began, active, ends }
        };
        let per_kind = kinds.iter().map(&mut of_kind).collect();
        Columns {
            kinds,
            per_kind,
            accept_errors: plan.counter("accept_errors_total", &[]),
            accept_pauses: plan.counter("accept_pauses_total", &[]),
        }
    }
}

impl Counts {
    /// The series of a `segment` that was made of the plan; `goal` is what is wanted of this process.
    pub(crate) fn new(columns: Columns, segment: Segment, goal: Goal) -> Arc<Self> {
        Arc::new(Counts { columns, segment, goal: Arc::new(goal) })
    }

    /// Series without a driver around them, for `threads` threads.
    #[cfg(test)]
    pub(crate) fn alone(kinds: Kinds, threads: usize) -> Arc<Self> {
        Counts::beside(Plan::default(), kinds, threads)
    }

    /// The same, beside what is planned already.
    #[cfg(test)]
    pub(crate) fn beside(mut plan: Plan, kinds: Kinds, threads: usize) -> Arc<Self> {
        let columns = Columns::plan(&mut plan, kinds);
        Counts::new(columns, Segment::create(&plan, Owner::default(), threads).unwrap(), Goal::default())
    }

    /// Where they are.
    pub(crate) fn segment(&self) -> &Segment {
        &self.segment
    }

    /// What is wanted of this process.
    pub(crate) fn goal(&self) -> Arc<Goal> {
        self.goal.clone()
    }

    /// The place of one thread. No two may ask for the same.
    pub(crate) fn seat(&self, thread: usize) -> Seat {
        self.segment.seat(thread)
    }

    /// What is counted now, by kind.
    pub fn by_kind(&self) -> Vec<KindStatus> {
        let value = |slot: Slot| self.segment.at(slot);
        let of_kind = |(columns, kind): (&KindColumns, &&str)| {
            // The ends first: what ends while this looks must not seem to have ended before it began.
            let ends = End::ALL.map(|end| {
                let mut slots = columns.ends[end as usize].to_vec();
                slots.dedup();
                (end, slots.into_iter().map(value).sum())
            });
            let began = value(columns.began);
            let ended: u64 = ends.iter().map(|(_, count): &(End, u64)| count).sum();
            KindStatus {
                kind: (*kind).to_owned(),
                began,
                open: began.wrapping_sub(ended).cast_signed(),
                active: value(columns.active).cast_signed(),
                ends: ends.into_iter().filter(|(_, count)| *count > 0).collect(),
            }
        };
        self.columns.per_kind.iter().zip(self.columns.kinds).map(of_kind).collect()
    }

    /// Times that accepting failed for want of descriptors or memory.
    pub fn accept_errors(&self) -> u64 {
        self.segment.at(self.columns.accept_errors)
    }

    pub(super) fn began(&self, shard: &Shard, kind: Kind, active: bool) {
        let Some(columns) = self.columns(kind) else { return };
        shard.add(columns.began, 1);
        self.activated(shard, kind, i64::from(active));
    }

    pub(super) fn ended(&self, shard: &Shard, kind: Kind, active: bool, end: End, cause: Cause) {
        let Some(columns) = self.columns(kind) else { return };
        self.activated(shard, kind, -i64::from(active));
        shard.add(columns.ends[end as usize][cause as usize], 1);
    }

    pub(super) fn activated(&self, shard: &Shard, kind: Kind, by: i64) {
        if by != 0
            && let Some(columns) = self.columns(kind)
        {
            shard.shift(columns.active, by);
        }
    }

    /// Counts an accept that failed; returns how many there are.
    pub(super) fn accept_failed(&self, shard: &Shard) -> u64 {
        shard.add(self.columns.accept_errors, 1);
        self.accept_errors()
    }

    pub(super) fn accept_paused(&self, shard: &Shard) {
        shard.add(self.columns.accept_pauses, 1);
    }

    fn columns(&self, kind: Kind) -> Option<&KindColumns> {
        debug_assert!(kind.0 < self.columns.per_kind.len(), "{kind:?} is none of the kinds in the options");
        self.columns.per_kind.get(kind.0)
    }
}
