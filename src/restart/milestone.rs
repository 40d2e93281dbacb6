//! How a new process knows that it has done as much as its parent wants to see before it lets go.
//!
//! What counts as done is the daemon's to say, on each of its threads. Until the goal is reached that is one addition
//! to a number that all threads share, and after it nothing at all.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;

use super::member::Report;

/// So much is to be done, by all threads together.
#[derive(Debug, Default)]
pub(crate) struct Goal {
    wanted: u64,
    done: AtomicU64,
}

impl Goal {
    /// 0: nothing in particular.
    pub(crate) fn new(wanted: u64) -> Goal {
        Goal { wanted, done: AtomicU64::new(0) }
    }
}

/// Where a thread says that something is done. Only of use on that thread.
#[derive(Debug)]
pub struct Milestone {
    goal: Arc<Goal>,
    reports: mpsc::UnboundedSender<Report>,
    reached: Cell<bool>,
}

impl Milestone {
    pub(crate) fn new(goal: Arc<Goal>, reports: mpsc::UnboundedSender<Report>) -> Milestone {
        let reached = Cell::new(goal.wanted == 0);
        Milestone { goal, reports, reached }
    }

    /// One more is done.
    pub fn count(&self) {
        if self.reached.get() {
            return;
        }
        let done = self.goal.done.fetch_add(1, Ordering::Relaxed) + 1;
        self.reached.set(done >= self.goal.wanted);
        if done == self.goal.wanted {
            // The driver is gone only when the process ends; then nobody needs it.
            self.reports.send(Report::Proven).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_once_whichever_thread_reaches_it() {
        let (reports, mut reported) = mpsc::unbounded_channel();
        let goal = Arc::new(Goal::new(3));
        let [one, other] = [(); 2].map(|()| Milestone::new(goal.clone(), reports.clone()));
        one.count();
        other.count();
        assert!(reported.try_recv().is_err());
        for _ in 0..3 {
            one.count();
            other.count();
        }
        assert!(matches!(reported.try_recv(), Ok(Report::Proven)));
        assert!(reported.try_recv().is_err());

        Milestone::new(Arc::default(), reports).count();
        assert!(reported.try_recv().is_err(), "nothing is wanted");
    }
}
