//! Every connection of a worker: its kind, whether it is at rest, how it ended, and the word that it is
//! to finish.
//!
//! A tracker belongs to one worker thread and is not `Send`: its bookkeeping is plain memory. What others
//! read (the status, the metrics) are the [`Counts`], in a segment. A [`Guard`] that is dropped without a word (a task
//! that was cut or that panicked) is an end like any other.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use slab::Slab;

use super::counts::{Cause, Counts, End, Kind};
use super::segment::Shard;
use super::state::Phase;
use super::view::{Drain, View};

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
    shard: Shard,
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
    /// A tracker without connections, which counts in this thread's `shard`.
    pub(crate) fn new(counts: Arc<Counts>, shard: Shard) -> Self {
        Tracker(Rc::new(Inner {
            entries: RefCell::default(),
            view: RefCell::new(View::starting()),
            version: Cell::new(0),
            empty: RefCell::default(),
            room: tokio::sync::Notify::new(),
            counts,
            shard,
        }))
    }

    /// Begins a connection of `kind`, at rest.
    pub fn begin(&self, kind: Kind) -> Guard {
        self.0.counts.began(&self.0.shard, kind, false);
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

    /// Counts an accept that failed; returns how many there are.
    pub(crate) fn accept_failed(&self) -> u64 {
        self.0.counts.accept_failed(&self.0.shard)
    }

    /// Waits until fewer than `limit` connections are open.
    pub(crate) async fn has_room(&self, limit: usize) {
        if self.open() >= limit {
            self.0.counts.accept_paused(&self.0.shard);
        }
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
        if std::mem::replace(&mut entry.active, active) != active {
            let by = if active { 1 } else { -1 };
            self.tracker.counts.activated(&self.tracker.shard, entry.kind, by);
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
        let before = std::mem::replace(&mut entry.kind, kind);
        if before == kind {
            return;
        }
        let (counts, shard) = (&self.tracker.counts, &self.tracker.shard);
        counts.ended(shard, before, entry.active, End::Switched, self.tracker.cause());
        counts.began(shard, kind, entry.active);
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
    fn cause(&self) -> Cause {
        self.view.borrow().cause
    }

    fn end(&self, key: usize, end: End) {
        let Some(entry) = self.entries.borrow_mut().try_remove(key) else { return };
        self.counts.ended(&self.shard, entry.kind, entry.active, end, self.cause());
        self.room.notify_waiters();
        if self.entries.borrow().is_empty()
            && let Some(waker) = self.empty.take()
        {
            waker.wake();
        }
    }
}
