//! The generations that drain, as the owner looks after them.

use std::future::poll_fn;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::task::Poll;
use std::time::{Duration, SystemTime};

use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

use super::handoff::{Channel, Introduction, Message, PeerStatus, millis};
use super::status::{GenerationStatus, age_ms};
use super::sys;
use super::view::later;

/// How long after its deadline a generation that drains is killed: it cuts its connections by itself, and
/// one that does not is stuck.
const OVERDUE: Duration = Duration::from_secs(5);

/// What a generation says of its own deadline is believed so far: no setting allows more.
const LONGEST_DRAIN: Duration = Duration::from_secs(24 * 60 * 60);

/// The links to the generations that drain.
#[derive(Debug, Default)]
pub(crate) struct Peers(Vec<Peer>);

#[derive(Debug)]
struct Peer {
    introduction: Introduction,
    channel: Channel,
    pidfd: AsyncFd<OwnedFd>,
    deadline: Instant,
    killed: bool,
    status: Option<PeerStatus>,
    /// Whether an answer to the last request for its status is still to come.
    asked: bool,
}

impl Peers {
    /// Looks after a generation that drains from now on.
    pub(crate) fn add(&mut self, introduction: Introduction, channel: Channel, pidfd: AsyncFd<OwnedFd>) {
        let timeout = Duration::from_millis(introduction.drain_timeout_ms).min(LONGEST_DRAIN);
        let deadline = later(Instant::now(), timeout);
        self.0.push(Peer {
            introduction,
            channel,
            pidfd,
            deadline,
            killed: false,
            status: None,
            asked: false,
        });
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// What the next one says; `None` when it is dead. Cancel-safe; pending while there are none.
    pub(crate) async fn next(&self) -> (u32, Option<Message>) {
        poll_fn(|cx| {
            for peer in &self.0 {
                match peer.channel.poll_receive(cx) {
                    Poll::Ready(Some(Ok((message, _)))) => {
                        return Poll::Ready((peer.introduction.generation, Some(message)));
                    }
                    Poll::Ready(Some(Err(error))) => {
                        tracing::warn!(generation = peer.introduction.generation, %error, "not understood");
                        // What follows may be better, or nothing follows: look again.
                        cx.waker().wake_by_ref();
                    }
                    Poll::Pending if peer.channel.is_broken() => {
                        if peer.pidfd.poll_read_ready(cx).is_ready() {
                            return Poll::Ready((peer.introduction.generation, None));
                        }
                    }
                    Poll::Ready(None) => return Poll::Ready((peer.introduction.generation, None)),
                    Poll::Pending => {}
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Whether this generation is one of them.
    pub(crate) fn has(&self, generation: u32) -> bool {
        self.0.iter().any(|peer| peer.introduction.generation == generation)
    }

    /// Forgets a generation that is dead.
    pub(crate) fn remove(&mut self, generation: u32) {
        self.0.retain(|peer| peer.introduction.generation != generation);
    }

    /// Gives the channel to one that is not to be looked after any more.
    pub(crate) fn take(&mut self, generation: u32) -> Option<Channel> {
        let at = self.0.iter().position(|peer| peer.introduction.generation == generation)?;
        Some(self.0.swap_remove(at).channel)
    }

    /// Asks each for its status; `false` if there is none to ask.
    pub(crate) fn ask_status(&mut self) -> bool {
        // One that does not answer is not asked again, or its channel would be full when it is to be told to stop.
        for peer in self.0.iter_mut().filter(|peer| !peer.asked) {
            peer.asked = peer.channel.end().send(&Message::StatusRequest, &[]).is_ok();
        }
        self.is_waiting()
    }

    /// Keeps an answer.
    pub(crate) fn set_status(&mut self, generation: u32, status: PeerStatus) {
        for peer in self.0.iter_mut().filter(|peer| peer.introduction.generation == generation) {
            peer.asked = false;
            if let Some(left) = status.left_ms {
                let left = Duration::from_millis(left).min(LONGEST_DRAIN);
                peer.deadline = later(Instant::now(), left);
            }
            peer.status = Some(status.clone());
        }
    }

    /// Whether an answer is still to come.
    pub(crate) fn is_waiting(&self) -> bool {
        self.0.iter().any(|peer| peer.asked)
    }

    /// Tells each.
    pub(crate) fn tell(&self, message: &Message) {
        self.tell_with(message, &[]);
    }

    /// Tells each, with descriptors.
    pub(crate) fn tell_with(&self, message: &Message, descriptors: &[BorrowedFd<'_>]) {
        for peer in &self.0 {
            if let Err(error) = peer.channel.end().send(message, descriptors) {
                tracing::debug!(generation = peer.introduction.generation, %error, "cannot be told");
            }
        }
    }

    /// When the next one is so late that it must be stuck.
    pub(crate) fn next_overdue(&self) -> Option<Instant> {
        self.0.iter().filter(|peer| !peer.killed).map(|peer| peer.deadline + OVERDUE).min()
    }

    /// Kills those that are so late that they must be stuck.
    pub(crate) fn kill_overdue(&mut self) {
        let now = Instant::now();
        for peer in self.0.iter_mut().filter(|peer| !peer.killed && peer.deadline + OVERDUE <= now) {
            let Introduction { generation, pid, .. } = peer.introduction;
            tracing::error!(generation, pid, "still alive long after its drain deadline: killed");
            peer.killed = true;
            if let Err(error) = sys::kill(peer.pidfd.get_ref().as_fd()) {
                tracing::warn!(generation, pid, %error, "cannot kill it");
            }
        }
    }

    /// As a successor must know them, with the descriptors to go with that.
    pub(crate) fn introductions(&self) -> (Vec<Introduction>, Vec<BorrowedFd<'_>>) {
        let now = Instant::now();
        let introduce = |peer: &Peer| Introduction {
            drain_timeout_ms: millis(peer.deadline.saturating_duration_since(now)),
            ..peer.introduction.clone()
        };
        let descriptors = self.0.iter().flat_map(|peer| [peer.channel.as_fd(), peer.pidfd.get_ref().as_fd()]);
        (self.0.iter().map(introduce).collect(), descriptors.collect())
    }

    /// For the status.
    pub(crate) fn statuses(&self, now: SystemTime) -> impl Iterator<Item = GenerationStatus> {
        self.0.iter().map(move |Peer { introduction, status, asked, .. }| GenerationStatus {
            generation: introduction.generation,
            pid: introduction.pid,
            version: introduction.version.clone(),
            phase: status.as_ref().filter(|_| !asked).map(|status| status.phase),
            age_ms: age_ms(introduction.started_ms, now),
            connections: status.as_ref().map(|status| status.connections.clone()).unwrap_or_default(),
            left_ms: status.as_ref().and_then(|status| status.left_ms),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Wake, Waker};

    use super::*;
    use crate::restart::handoff::End;
    use crate::restart::state::Stop;

    /// Each request for the status left a question in the channel of a generation that was stopped, until the
    /// channel was full and the word to stop did not get in.
    #[tokio::test(flavor = "current_thread")]
    async fn one_that_does_not_answer_can_still_be_told_to_stop() {
        let (ours, theirs) = End::pair().unwrap();
        let mut peers = Peers::default();
        let pidfd = sys::watch_readable(sys::pidfd_of_self().unwrap()).unwrap();
        peers.add(Introduction::default(), Channel::new(ours).unwrap(), pidfd);
        for _ in 0..10_000 {
            assert!(peers.ask_status(), "its answer is still to come");
        }
        let stop = Message::Stop { how: Stop::Now };
        peers.tell(&stop);
        let heard = std::iter::from_fn(|| theirs.try_receive().ok()?).map(|packet| packet.unwrap().0);
        assert_eq!(heard.last(), Some(stop));
    }

    /// Counts how often it is asked for another look.
    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The look at the generations that drain was repeated for as long as an error stayed: the control thread did
    /// nothing else any more, and wrote a line each time.
    #[tokio::test(flavor = "current_thread")]
    async fn an_error_that_stays_is_met_once_and_the_death_is_heard_all_the_same() {
        // Whatever is to be read from what is no socket is an error, and it stays.
        let (reads, writes) = nix::unistd::pipe().unwrap();
        nix::unistd::write(&writes, b"x").unwrap();
        let mut process = std::process::Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let pidfd = sys::watch_readable(sys::pidfd_of(process.id()).unwrap()).unwrap();
        let mut peers = Peers::default();
        peers.add(Introduction { generation: 7, ..Introduction::default() }, Channel::broken(reads), pidfd);

        let wakes = Arc::<Wakes>::default();
        let waker = Waker::from(wakes.clone());
        let mut next = std::pin::pin!(peers.next());
        let mut looks = 0;
        // The first look finds nothing, because the runtime has not said yet that there is something to read.
        tokio::task::yield_now().await;
        loop {
            let before = wakes.0.load(Ordering::Relaxed);
            assert!(next.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            looks += 1;
            assert!(looks < 10, "it looks again and again");
            // The runtime has its turn: what it knows by then would have been a reason to look.
            tokio::task::yield_now().await;
            if wakes.0.load(Ordering::Relaxed) == before && looks > 3 {
                break;
            }
        }
        drop(process.stdin.take());
        assert_eq!(next.await, (7, None));
        process.wait().unwrap();
    }
}
