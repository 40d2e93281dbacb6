//! Every connection of a worker: its kind, whether it is at rest, how it ended, and the word that it is
//! to finish.
//!
//! A tracker belongs to one worker thread and is not `Send`: its bookkeeping is plain memory. What other
//! threads read (the status, the metrics) are the [`Counts`] beside it, written with relaxed atomic adds.
//!
//! Invariant: for each kind, *began = open + the sum of all ends*. A [`Guard`] that is dropped without a
//! word (a task that was cut or that panicked) is an end like any other.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};

use serde::{Deserialize, Serialize};
use slab::Slab;

use super::state::Phase;
use super::view::{Drain, View};

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
    /// It goes on as another kind, in whose books it begins; see [`Guard::switch`].
    Switched,
}

impl End {
    /// Every end, in the order of their counters.
    pub const ALL: [End; 11] = [
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
        }
    }
}

/// The counters of one worker, readable from any thread.
#[derive(Debug)]
pub struct Counts {
    kinds: Kinds,
    per_kind: Vec<KindCounts>,
    /// Times that accepting failed for want of descriptors or memory.
    pub(crate) accept_errors: AtomicU64,
}

#[derive(Debug, Default)]
struct KindCounts {
    began: AtomicU64,
    open: AtomicI64,
    active: AtomicI64,
    ends: [AtomicU64; End::ALL.len()],
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

impl Counts {
    /// Counters for one worker, all zero.
    pub fn new(kinds: Kinds) -> Arc<Self> {
        let per_kind = kinds.iter().map(|_| KindCounts::default()).collect();
        Arc::new(Counts { kinds, per_kind, accept_errors: AtomicU64::new(0) })
    }

    /// The sum of the counters of several workers, by kind.
    pub fn sum(workers: &[Arc<Counts>]) -> Vec<KindStatus> {
        let Some(first) = workers.first() else { return Vec::new() };
        let of_kind = |(kind, name): (usize, &&str)| {
            let rows = || workers.iter().filter_map(move |worker| worker.per_kind.get(kind));
            let ends = End::ALL
                .iter()
                .enumerate()
                .map(|(i, end)| (*end, rows().map(|row| row.ends[i].load(Relaxed)).sum::<u64>()))
                .filter(|(_, count)| *count > 0)
                .collect();
            KindStatus {
                kind: (*name).to_owned(),
                began: rows().map(|row| row.began.load(Relaxed)).sum(),
                open: rows().map(|row| row.open.load(Relaxed)).sum(),
                active: rows().map(|row| row.active.load(Relaxed)).sum(),
                ends,
            }
        };
        first.kinds.iter().enumerate().map(of_kind).collect()
    }

    /// Times that accepting failed for want of descriptors or memory, over several workers.
    pub fn accept_errors(workers: &[Arc<Counts>]) -> u64 {
        workers.iter().map(|worker| worker.accept_errors.load(Relaxed)).sum()
    }
}

/// The connections of one worker. Clones are the same tracker.
#[derive(Clone, Debug)]
pub struct Tracker(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    entries: RefCell<Slab<Entry>>,
    view: RefCell<View>,
    /// Counts the changes of `view`, so that a connection knows whether it has seen the last one.
    version: Cell<u64>,
    /// Woken when the last connection ends.
    empty: RefCell<Option<Waker>>,
    /// Woken when a connection ends; for the accept loops that wait at the limit.
    room: tokio::sync::Notify,
    counts: Arc<Counts>,
}

#[derive(Debug)]
struct Entry {
    kind: Kind,
    active: bool,
    waker: Option<Waker>,
}

/// One open connection. Dropping it ends the connection in the books; [`Guard::end`] says how.
#[derive(Debug)]
pub struct Guard {
    tracker: Rc<Inner>,
    key: usize,
    seen: Cell<u64>,
}

impl Tracker {
    /// A tracker without connections that writes to `counts`.
    pub fn new(counts: Arc<Counts>) -> Self {
        Tracker(Rc::new(Inner {
            entries: RefCell::default(),
            view: RefCell::new(View::starting()),
            version: Cell::new(0),
            empty: RefCell::default(),
            room: tokio::sync::Notify::new(),
            counts,
        }))
    }

    /// Begins a connection of `kind`, at rest.
    pub fn begin(&self, kind: Kind) -> Guard {
        debug_assert!(kind.0 < self.0.counts.per_kind.len(), "{kind:?} is none of the kinds in the options");
        if let Some(counts) = self.0.counts.per_kind.get(kind.0) {
            counts.began.fetch_add(1, Relaxed);
            counts.open.fetch_add(1, Relaxed);
        }
        let key = self.0.entries.borrow_mut().insert(Entry { kind, active: false, waker: None });
        // A connection that begins in a drain learns of it from its first look.
        let draining = self.0.view.borrow().phase.drains();
        let seen = Cell::new(if draining { u64::MAX } else { self.0.version.get() });
        Guard { tracker: self.0.clone(), key, seen }
    }

    /// How many connections are open.
    pub fn open(&self) -> usize {
        self.0.entries.borrow().len()
    }

    pub(crate) fn counts(&self) -> &Counts {
        &self.0.counts
    }

    /// Waits until fewer than `limit` connections are open.
    pub(crate) async fn has_room(&self, limit: usize) {
        while self.open() >= limit {
            self.0.room.notified().await;
        }
    }

    /// Tells every connection what the control thread said.
    pub(crate) fn set_view(&self, view: View) {
        self.0.view.replace(view);
        self.0.version.set(self.0.version.get() + 1);
        let wakers: Vec<Waker> =
            self.0.entries.borrow_mut().iter_mut().filter_map(|(_, entry)| entry.waker.take()).collect();
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Waits until no connection is open.
    pub(crate) async fn is_empty(&self) {
        poll_fn(|cx| {
            if self.0.entries.borrow().is_empty() {
                return Poll::Ready(());
            }
            self.0.empty.replace(Some(cx.waker().clone()));
            Poll::Pending
        })
        .await;
    }
}

impl Guard {
    /// What the process is doing now.
    pub fn phase(&self) -> Phase {
        self.tracker.view.borrow().phase
    }

    /// The clock of the drain, while the process drains.
    pub fn drain(&self) -> Option<Drain> {
        let view = self.tracker.view.borrow();
        view.drain.filter(|_| view.phase.drains())
    }

    /// Ready each time the phase has changed since the last look, and once at the first look if the
    /// process had already begun to drain.
    pub fn poll_changed(&self, cx: &mut Context<'_>) -> Poll<()> {
        let version = self.tracker.version.get();
        if self.seen.replace(version) != version {
            return Poll::Ready(());
        }
        if let Some(entry) = self.tracker.entries.borrow_mut().get_mut(self.key) {
            match &mut entry.waker {
                Some(waker) => waker.clone_from(cx.waker()),
                empty => *empty = Some(cx.waker().clone()),
            }
        }
        Poll::Pending
    }

    /// Waits until the phase changes; see [`Guard::poll_changed`].
    pub async fn changed(&self) {
        poll_fn(|cx| self.poll_changed(cx)).await;
    }

    /// Says whether something is in flight.
    pub fn set_active(&self, active: bool) {
        let mut entries = self.tracker.entries.borrow_mut();
        let Some(entry) = entries.get_mut(self.key) else { return };
        if std::mem::replace(&mut entry.active, active) != active
            && let Some(counts) = self.tracker.counts.per_kind.get(entry.kind.0)
        {
            counts.active.fetch_add(if active { 1 } else { -1 }, Relaxed);
        }
    }

    /// Whether something is in flight.
    pub fn is_active(&self) -> bool {
        self.tracker.entries.borrow().get(self.key).is_some_and(|entry| entry.active)
    }

    /// The connection goes on as another kind: it ends in the books of the one as [`End::Switched`] and begins
    /// in those of the other.
    pub fn switch(&self, kind: Kind) {
        let mut entries = self.tracker.entries.borrow_mut();
        let Some(entry) = entries.get_mut(self.key) else { return };
        let active = i64::from(entry.active);
        let before = std::mem::replace(&mut entry.kind, kind);
        if before == kind {
            return;
        }
        debug_assert!(kind.0 < self.tracker.counts.per_kind.len(), "{kind:?} is none of the kinds");
        if let Some(counts) = self.tracker.counts.per_kind.get(before.0) {
            counts.open.fetch_sub(1, Relaxed);
            counts.active.fetch_sub(active, Relaxed);
            counts.ends[End::Switched as usize].fetch_add(1, Relaxed);
        }
        if let Some(counts) = self.tracker.counts.per_kind.get(kind.0) {
            counts.began.fetch_add(1, Relaxed);
            counts.open.fetch_add(1, Relaxed);
            counts.active.fetch_add(active, Relaxed);
        }
    }

    /// Ends the connection in the books.
    pub fn end(self, end: End) {
        self.tracker.end(self.key, end);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let Some(active) = self.tracker.entries.borrow().get(self.key).map(|entry| entry.active) else {
            return;
        };
        let cut = matches!(self.tracker.view.borrow().phase, Phase::Cut | Phase::Gone);
        let end = match (cut, active) {
            (true, true) => End::DroppedInFlight,
            (true, false) => End::DroppedIdle,
            (false, _) => End::Lost,
        };
        self.tracker.end(self.key, end);
    }
}

impl Inner {
    fn end(&self, key: usize, end: End) {
        let Some(entry) = self.entries.borrow_mut().try_remove(key) else { return };
        if let Some(counts) = self.counts.per_kind.get(entry.kind.0) {
            counts.open.fetch_sub(1, Relaxed);
            counts.active.fetch_sub(i64::from(entry.active), Relaxed);
            counts.ends[end as usize].fetch_add(1, Relaxed);
        }
        self.room.notify_waiters();
        if self.entries.borrow().is_empty()
            && let Some(waker) = self.empty.take()
        {
            waker.wake();
        }
    }
}
