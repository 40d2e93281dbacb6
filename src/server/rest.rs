//! A connection between two requests, or before the first: nothing of it is kept but its stream.
//!
//! hyper's buffers take 16 KiB. Most connections of an edge rest, so one that has rested for a moment is taken
//! apart, and put together again when something arrives.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

use super::{Config, Downstream};
use crate::restart::Guard;
use crate::timer::Timer;

/// How long a connection rests before it is taken apart. To do so costs about as much as a small request, so not
/// after every one.
pub(super) const FOLD_AFTER: Duration = Duration::from_secs(1);

/// Since when a connection rests.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rest {
    since: Instant,
    /// Whether it has brought nothing yet.
    fresh: bool,
}

/// What ended a rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Roused {
    /// There is something to be read, if only the end.
    Readable,
    /// Its time is over, and nothing had arrived.
    Over,
    /// The stream is broken.
    Lost,
}

impl Rest {
    /// The rest of a connection that has just been made.
    pub(super) fn new() -> Self {
        Rest { since: Instant::now(), fresh: true }
    }

    /// The rest after a request.
    pub(super) fn again(since: Instant) -> Self {
        Rest { since, fresh: false }
    }

    /// Whether nothing has come before it.
    pub(super) fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// When it ends: with the idle timeout, or with the drain's grace.
    pub(super) fn deadline(&self, config: &Config, guard: &Guard) -> Instant {
        let idle = self.since + config.idle_timeout;
        match guard.drain() {
            // One that has had no chance yet gets the grace from its own beginning: it came out of an accept
            // queue that nobody else serves.
            Some(drain) if self.fresh => {
                let grace = drain.idle_until.saturating_duration_since(drain.since);
                idle.min(drain.idle_until.max(self.since + grace))
            }
            Some(drain) => idle.min(drain.idle_until),
            None => idle,
        }
    }

    /// When hyper's buffers are given back.
    pub(super) fn fold_at(&self) -> Instant {
        self.since + FOLD_AFTER
    }

    /// Waits until `stream` has something to be read, or its time is over.
    pub(super) async fn wait(
        &self,
        stream: &Downstream,
        config: &Config,
        guard: &Guard,
        timer: &mut Timer,
    ) -> Roused {
        let readable = poll_fn(|cx| {
            // A new phase only moves the deadline.
            while guard.poll_changed(cx).is_ready() {}
            match stream.poll_readable(cx) {
                Poll::Ready(Ok(())) => Poll::Ready(Roused::Readable),
                Poll::Ready(Err(_)) => Poll::Ready(Roused::Lost),
                Poll::Pending => timer.poll_until(self.deadline(config, guard), cx).map(|()| Roused::Over),
            }
        });
        match readable.await {
            // The kernel has something that the runtime does not know of yet: a request that came as we were
            // about to close.
            Roused::Over if stream.has_unread().unwrap_or(false) => {
                match poll_fn(|cx| stream.poll_readable(cx)).await {
                    Ok(()) => Roused::Readable,
                    Err(_) => Roused::Lost,
                }
            }
            roused => roused,
        }
    }
}
