//! Whether what was tried before is worth to be tried first.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

/// How long a server that could not be connected to is tried after the others: doubled with each failure in a row.
const LEAST: Duration = Duration::from_secs(1);

/// And at most.
const MOST: Duration = Duration::from_secs(30);

/// What the last attempts to connect came to.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Standing {
    /// In a row; those of one time count as one.
    failures: Cell<u32>,
    /// Until then it is tried last.
    down_until: Cell<Option<Instant>>,
    /// Somebody finds out whether it is up again.
    is_probed: Cell<bool>,
}

impl Standing {
    /// It could be connected to. True if the attempt before could not.
    pub(in crate::proxy) fn succeed(&self) -> bool {
        let was_down = self.has_failed();
        self.failures.set(0);
        self.down_until.set(None);
        self.is_probed.set(false);
        was_down
    }

    /// It could not. True if the attempt before could.
    pub(in crate::proxy) fn fail(&self, now: Instant) -> bool {
        if self.is_down(now) && !self.is_probed.get() {
            // The same failure, seen by another request.
            return false;
        }
        let failures = self.failures.get();
        self.failures.set(failures.saturating_add(1));
        let wait = LEAST.saturating_mul(1 << failures.min(16)).min(MOST);
        self.down_until.set(Some(now + wait));
        self.is_probed.set(false);
        failures == 0
    }

    /// Whether the last attempt failed.
    pub(in crate::proxy) fn has_failed(&self) -> bool {
        self.down_until.get().is_some()
    }

    /// Whether somebody tries it again.
    pub(in crate::proxy) fn is_probed(&self) -> bool {
        self.is_probed.get()
    }

    /// Whether others are to be tried before it.
    pub(in crate::proxy) fn is_down(&self, now: Instant) -> bool {
        self.down_until.get().is_some_and(|until| now < until)
    }

    /// Of one that has failed and whose time is over: true for one who is to try it, and it stays down for all others
    /// until that has come to something, or `patience` is over.
    pub(in crate::proxy) fn probe(&self, now: Instant, patience: Duration) -> bool {
        let is_due = self.has_failed() && !self.is_down(now);
        if is_due {
            self.down_until.set(Some(now + patience));
            self.is_probed.set(true);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn it_is_down_for_longer_each_time() {
        let (standing, mut now) = (Standing::default(), Instant::now());
        for (n, wait) in [1, 2, 4, 8, 16, 30, 30].into_iter().enumerate() {
            assert_eq!(standing.fail(now), n == 0);
            // A hundred requests that fail together have seen one failure.
            (0..100).for_each(|_| assert!(!standing.fail(now)));
            assert!(standing.is_down(now + S * wait - Duration::from_millis(1)));
            assert!(!standing.probe(now, S), "nobody tries it before its time is over");
            now += S * wait;
            assert!(!standing.is_down(now));
            assert!(standing.probe(now, S));
            assert!(!standing.probe(now, S), "one tries it, no more");
            assert!(standing.is_down(now));
        }
        assert!(standing.succeed());
        assert!(!standing.has_failed() && !standing.is_down(now) && !standing.succeed());
        assert!(standing.fail(now) && !standing.is_down(now + S));
    }

    #[test]
    fn a_probe_of_which_nothing_is_heard_is_not_waited_for() {
        let (standing, now) = (Standing::default(), Instant::now());
        standing.fail(now);
        assert!(standing.probe(now + S, 3 * S));
        assert!(!standing.probe(now + 3 * S, 3 * S));
        assert!(standing.probe(now + 4 * S, 3 * S));
    }
}
