//! What the control thread tells the workers: one `watch` value.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::counts::Cause;
use super::state::Phase;

/// What every accept loop and every connection must know of an upgrade: the phase, and the times that
/// count while the process drains.
#[derive(Clone, Debug)]
pub struct View {
    /// What the process is doing.
    pub phase: Phase,
    /// Counts the views of this process, so that an answer to an old one is not taken for one to the last.
    pub(crate) sequence: u64,
    /// The clock of the drain; `Some` from the moment connections are asked to finish.
    pub drain: Option<Drain>,
    /// The names of the listeners that nobody will serve after this process: their accept queues are
    /// emptied before they are closed, where every other is just closed, because another generation holds it.
    pub leaving: Arc<Vec<String>>,
    /// Why what does not finish is cut.
    pub(crate) cause: Cause,
}

/// When a drain began and what it allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    /// When connections were asked to finish.
    pub since: Instant,
    /// Until then an idle connection may still bring a request.
    pub idle_until: Instant,
    /// What is left then is cut.
    pub deadline: Instant,
}

impl Drain {
    pub(crate) fn begin(now: Instant, idle_grace: Duration, timeout: Duration) -> Self {
        // A little before the deadline: what is at rest then is closed in order, and not cut.
        let idle_grace = idle_grace.min(timeout - timeout / 16);
        let (idle_until, deadline) = (later(now, idle_grace), later(now, timeout));
        Drain { since: now, idle_until, deadline }
    }
}

/// `now` and `wait`; a wait that no clock can tell the end of is one of a hundred years.
pub(crate) fn later(now: Instant, wait: Duration) -> Instant {
    const LONG: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
    now + wait.min(LONG)
}

impl View {
    pub(crate) fn starting() -> Self {
        View {
            phase: Phase::Starting,
            sequence: 0,
            drain: None,
            leaving: Arc::default(),
            cause: Cause::default(),
        }
    }

    pub(crate) fn is_leaving(&self, listener: &str) -> bool {
        self.leaving.iter().any(|name| name == listener)
    }
}

/// Where the [`View`] is read. It ends with the driver; a reader that finds the sender gone has nothing
/// left to wait for.
pub type Viewer = watch::Receiver<View>;

#[cfg(test)]
mod tests {
    use super::*;

    /// They were cut together with what was in flight, and a request that came just then was reset.
    #[test]
    fn what_is_at_rest_is_closed_before_the_rest_is_cut() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let drain = Drain::begin(now, 60 * second, 32 * second);
        assert_eq!((drain.idle_until - now, drain.deadline - now), (30 * second, 32 * second));
        assert_eq!(Drain::begin(now, 5 * second, 32 * second).idle_until - now, 5 * second);
    }

    /// A daemon that set no limit, by `Duration::MAX`, ended by a panic when it began to drain.
    #[test]
    fn a_drain_without_a_limit_has_one_in_a_hundred_years() {
        let now = Instant::now();
        let drain = Drain::begin(now, Duration::MAX, Duration::MAX);
        assert_eq!(drain.deadline, drain.idle_until);
        assert!(drain.deadline > now + Duration::from_secs(1_000_000_000));
    }
}
