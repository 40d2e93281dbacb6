//! A deadline that moves with every request and is seldom reached.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::time::{Instant, Sleep, sleep_until};

/// One timer for the life of a connection. The runtime's timer is armed again only when it fires too early,
/// so that a deadline that is put off a thousand times costs two comparisons each time.
#[derive(Debug, Default)]
pub(crate) struct Timer(Option<Pin<Box<Sleep>>>);

impl Timer {
    /// Ready once `deadline` has passed. The task may be woken before, for a deadline that was put off.
    pub(crate) fn poll_until(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        loop {
            ready!(sleep.as_mut().poll(cx));
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_deadline_can_move_both_ways() {
        let begun = Instant::now();
        let mut timer = Timer::default();
        let after = |seconds| begun + Duration::from_secs(seconds);
        let early = poll_fn(|cx| Poll::Ready(timer.poll_until(after(5), cx))).await;
        assert!(early.is_pending());
        poll_fn(|cx| timer.poll_until(after(9), cx)).await;
        assert_eq!(begun.elapsed().as_secs(), 9);
        let late = poll_fn(|cx| Poll::Ready(timer.poll_until(after(60), cx))).await;
        assert!(late.is_pending());
        poll_fn(|cx| timer.poll_until(after(11), cx)).await;
        assert_eq!(begun.elapsed().as_secs(), 11);
    }
}
