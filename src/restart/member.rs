//! A worker's part in the restarts of its process.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;

use super::accept::{Accepted, Audience, Listener};
use super::counts::Counts;
use super::milestone::Milestone;
use super::segment::{Seat, Shard};
use super::state::Phase;
use super::tracker::Tracker;
use super::view::Viewer;

/// What a worker tells the control thread.
#[derive(Debug)]
pub(crate) enum Report {
    /// Nothing is open and nothing will be accepted, as of the view with this sequence number.
    Quiet { member: usize, sequence: u64 },
    /// The worker is gone.
    Left { member: usize },
    /// The process has done as much as is wanted of it in its probation.
    Proven,
}

/// The place of one thread among those that serve connections: it runs the thread's accept loops,
/// passes on what the control thread says, and says when nothing is left. When it is dropped the control
/// thread knows that the thread has ended.
#[derive(Debug)]
pub struct Member {
    id: usize,
    viewer: Viewer,
    counts: Arc<Counts>,
    seat: Seat,
    reports: mpsc::UnboundedSender<Report>,
}

impl Member {
    pub(crate) fn new(
        id: usize,
        viewer: Viewer,
        counts: Arc<Counts>,
        reports: mpsc::UnboundedSender<Report>,
    ) -> Self {
        let seat = counts.seat(id);
        Member { id, viewer, counts, seat, reports }
    }

    /// The tracker for this thread's connections.
    pub fn tracker(&self) -> Tracker {
        Tracker::new(self.counts.clone(), self.shard())
    }

    /// Where this thread counts what was planned in [`Startup::plan`](super::Startup::plan). Only of use on the
    /// thread that serves.
    pub fn shard(&self) -> Shard {
        self.seat.take()
    }

    /// Where this thread says that a piece of work is done, such as a request answered: a parent that waits for some
    /// of it learns when there has been enough.
    pub fn milestone(&self) -> Milestone {
        Milestone::new(self.counts.goal(), self.reports.clone())
    }

    /// Accepts on `listeners` whenever the phase allows, while fewer than `limit` connections are open,
    /// and hands each connection to `accepted`, which begins it in `tracker`. Connections learn of each
    /// phase from their [`Guard`](super::Guard)s.
    ///
    /// Returns when what is left must be cut, or nothing is left: drop all tasks of this thread, then the
    /// `Member`. Must run where tasks can be spawned that are not `Send`.
    pub async fn attend(
        &self,
        tracker: &Tracker,
        listeners: Vec<Listener>,
        limit: usize,
        accepted: impl Fn(Accepted) + 'static,
    ) {
        let accepted = Rc::new(accepted);
        // For each public listener, the last view in which its loop accepted nothing.
        let settled: Rc<[Cell<u64>]> = listeners.iter().map(|_| Cell::new(0)).collect();
        let settles = Rc::new(Notify::new());
        let mut loops = JoinSet::new();
        for (i, listener) in listeners.into_iter().enumerate() {
            let (viewer, tracker, accepted) = (self.viewer.clone(), tracker.clone(), accepted.clone());
            let (settled, settles) = (settled.clone(), settles.clone());
            if listener.audience == Audience::Owner {
                // Operators may ask until the end; nobody waits for them.
                settled[i].set(u64::MAX);
            }
            loops.spawn_local(async move {
                let settle = |sequence: u64| {
                    settled[i].set(sequence.max(settled[i].get()));
                    settles.notify_one();
                };
                listener.run(viewer, &tracker, limit, settle, |connection| accepted(connection)).await;
            });
        }

        let mut viewer = self.viewer.clone();
        loop {
            let view = viewer.borrow_and_update().clone();
            let (phase, sequence) = (view.phase, view.sequence);
            tracker.set_view(view);
            if matches!(phase, Phase::Cut | Phase::Gone) {
                return;
            }
            let quiet = async {
                while settled.iter().any(|last| last.get() < sequence) {
                    settles.notified().await;
                }
                tracker.is_empty().await;
                if phase.drains() {
                    self.report(Report::Quiet { member: self.id, sequence });
                }
                std::future::pending::<()>().await
            };
            tokio::select! {
                changed = viewer.changed() => if changed.is_err() { return },
                () = quiet => {}
            }
        }
    }

    fn report(&self, report: Report) {
        // The driver is gone only when the process ends; then nobody needs the report.
        self.reports.send(report).ok();
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.report(Report::Left { member: self.id });
    }
}
