//! What the driver makes of what it hears: from its child, its superior, the generations that drain, its workers.

use std::os::fd::{AsFd, OwnedFd};
use std::time::SystemTime;

use super::{Asker, Driver, Outcome};
use crate::restart::error::Error;
use crate::restart::handoff::{Channel, Message, Packet};
use crate::restart::history::cost_words;
use crate::restart::member::Report;
use crate::restart::peers::Peers;
use crate::restart::pidfile;
use crate::restart::spawn::ChildEvent;
use crate::restart::state::{Event, Failure, Phase, Stop};

impl Driver {
    pub(super) fn child_event(&mut self, event: ChildEvent) -> Option<Event> {
        if let ChildEvent::Said(Message::Ready(_)) = &event
            && let Some(segment) = self.child.as_mut().and_then(|child| child.segment.take())
        {
            // One that was rolled back takes over if both this process and the child die.
            if let Some(child) = &self.child {
                let counts = Message::Counts { generation: child.generation };
                self.others.tell_with(&counts, &[segment.as_fd(), child.pidfd()]);
            }
            let change = self.ledger.adopt(segment);
            self.settle(change);
        }
        let child = self.child.as_ref()?;
        Some(match event {
            ChildEvent::ExecFailed(failure) => Event::SpawnFailed(failure),
            ChildEvent::Said(Message::Ready(ready)) => {
                self.last_generation = self.last_generation.max(child.generation);
                self.child_ready = Some((ready, SystemTime::now()));
                Event::ChildReady
            }
            ChildEvent::Said(Message::Failed(failure)) => Event::ChildFailed(child.with_stderr(failure)),
            // Its last word: it owns nothing any more, and this process still holds the sockets.
            ChildEvent::Said(Message::Owner) if child.channel.is_at_end() => return None,
            ChildEvent::Said(Message::Owner) => Event::ChildOwns,
            ChildEvent::Said(Message::Proven) => Event::ChildProven,
            ChildEvent::Said(Message::Unknown) => return None,
            ChildEvent::Said(other) => Event::ChildGarbled(Failure::new(
                "handoff",
                format!("the new process said {other:?}, which is not for it to say; it was killed"),
            )),
            ChildEvent::Garbled(failure) => Event::ChildGarbled(child.with_stderr(failure)),
            ChildEvent::Died(failure) => {
                let step = match self.state.phase() {
                    Phase::Probation => "probation",
                    Phase::Committing => "commit",
                    _ => "ready",
                };
                Event::ChildDied(child.with_stderr(Failure { step: step.into(), ..failure }))
            }
        })
    }

    pub(super) fn superior_event(&mut self, message: Option<Result<Packet, Error>>) -> Option<Event> {
        match message {
            None => {
                // Its books are closed when it is dead, which is told a little later. The channel of one that was rolled
                // back may also be another's by now, and its parent be alive.
                self.superior = None;
                Some(Event::ParentGone)
            }
            Some(Ok((Message::Commit, _))) => Some(Event::ParentCommits),
            Some(Ok((Message::Rollback, _))) => Some(Event::ParentRollsBack),
            Some(Ok((Message::Stop { how }, _))) => Some(Event::ToldToStop(how)),
            Some(Ok((Message::StatusRequest, _))) => {
                self.tell_superior(&Message::Status(self.peer_status()));
                None
            }
            Some(Ok((Message::Counts { generation }, descriptors))) => {
                self.another_counts(generation, descriptors);
                None
            }
            // From a later version.
            Some(Ok(_)) => None,
            Some(Err(error)) => {
                tracing::warn!(%error, "the other generation sent what is not a message");
                None
            }
        }
    }

    /// Only one that may still take over needs to know.
    fn another_counts(&mut self, generation: u32, descriptors: Vec<OwnedFd>) {
        if self.state.phase() != Phase::RolledBack {
            return;
        }
        let mut descriptors = descriptors.into_iter();
        let (Some(segment), Some(pidfd)) = (descriptors.next(), descriptors.next()) else { return };
        // Should this one take over, it gives out no number a second time.
        self.last_generation = self.last_generation.max(generation);
        let change = self.ledger.adopt(segment);
        self.settle(change);
        if let Err(error) = self.deaths.watch(generation, pidfd) {
            tracing::warn!(generation, %error, "cannot watch the process of another generation");
        }
    }

    /// A process is dead that counted in a segment which this one holds.
    pub(super) fn died(&mut self, generation: u32) -> Option<Event> {
        // What it has said is heard first, and ends with the news of its death.
        if self.others.has(generation) {
            return None;
        }
        self.close_books(generation);
        let is_unheard = self.superior.as_ref().is_some_and(Channel::is_broken);
        (is_unheard && Some(generation) == self.parent).then(|| self.superior_event(None))?
    }

    pub(super) fn other_said(&mut self, generation: u32, message: Option<Message>) -> Option<Event> {
        let mut event = None;
        match message {
            None => {
                self.others.remove(generation);
                let cost = self.close_books(generation);
                if cost.is_empty() {
                    tracing::debug!(generation, "a generation that drained is gone");
                } else {
                    let cost = cost_words(&cost);
                    tracing::warn!(
                        generation,
                        cost,
                        "a generation is gone and has not finished all that it had"
                    );
                }
                event = self.drained();
            }
            Some(Message::Status(status)) => self.others.set_status(generation, status),
            Some(Message::Stop { how }) => {
                let yields = Some(generation) == self.parent;
                if yields {
                    self.yield_to(generation);
                }
                self.on(Event::ToldToStop(how), Asker::Nobody);
                // Told what they must know, they are the parent's to look after.
                if yields {
                    self.others = Peers::default();
                }
                event = self.drained();
            }
            Some(_) => {}
        }
        if self.status_due.is_some() && !self.others.is_waiting() {
            self.answer_status();
        }
        event
    }

    /// The parent was asked to stop before it heard that this process had become the owner. The service
    /// manager was told of no other main process, so the parent must be the last to go: it has the say again,
    /// and waits for this one, which waits for none. If each waited for the other, both would stay until the
    /// drain deadline.
    fn yield_to(&mut self, parent: u32) {
        self.superior = self.others.take(parent);
        self.owner = false;
        if let Some(path) = &self.options.pid_file {
            pidfile::remove(path);
        }
    }

    pub(super) fn member_event(&mut self, report: &Report) -> Option<Event> {
        let phase = self.state.phase();
        match *report {
            Report::Quiet { member, sequence } if sequence == self.view.borrow().sequence => {
                self.quiet.insert(member);
            }
            Report::Quiet { .. } => return None,
            Report::Proven => {
                if phase == Phase::Candidate {
                    self.tell_superior(&Message::Proven);
                }
                return None;
            }
            Report::Left { member } => {
                self.left.insert(member);
                if !matches!(phase, Phase::Cut | Phase::Gone) {
                    tracing::error!(worker = member, "a worker has ended unexpectedly; stopping");
                    self.outcome = Outcome::Broken;
                    // A process that drains stops already: to ask again would cut what the others have.
                    if phase != Phase::Draining {
                        self.on(Event::StopAsked(Stop::Gracefully), Asker::Nobody);
                        // What waits in the queues of a thread that is gone would wait in vain.
                        return (self.state.phase() == Phase::LameDuck)
                            .then_some(Event::StopAsked(Stop::Gracefully));
                    }
                }
            }
        }
        self.drained()
    }

    /// An owner that stops is the last to go: a service manager kills what is left when its main process has
    /// ended, whatever requests that still has.
    fn drained(&self) -> Option<Event> {
        let quiet = (0..self.threads).all(|id| self.quiet.contains(&id) || self.left.contains(&id));
        let alone = !self.owner || self.others.len() == 0;
        (quiet && alone).then_some(Event::Drained)
    }
}
