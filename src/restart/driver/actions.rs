//! How the driver performs what the state machine decides.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{Asker, Driver, Upgrade};
use crate::restart::accept::Audience;
use crate::restart::counts::{Cause, LOST_CONNECTIONS};
use crate::restart::error::Error;
use crate::restart::handoff::{Introduction, Message, Offer, Ready, millis};
use crate::restart::history::{Cost, UnderWay, cost};
use crate::restart::ledger::{Books, Change};
use crate::restart::listeners::Group;
use crate::restart::peers::Peers;
use crate::restart::pidfile;
use crate::restart::spawn::spawn;
use crate::restart::startup::Options;
use crate::restart::state::{Action, Failure, Phase, Timer, Verdict};
use crate::restart::status::{Progress, unix_ms};
use crate::restart::sys;
use crate::restart::view::{Drain, View, later};

/// How long a child may take to become the owner once told: it writes one file.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a child that said that it failed may take to exit.
const EXIT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a killed child may take to be gone: one that the kernel holds is given up.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the workers may take to cut what they have.
const CUT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long idle connections are waited for at most when there is no other process for their next one.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// The service manager waits for the drain and this.
const STOP_SLACK: Duration = Duration::from_secs(5);

impl Driver {
    /// Tells the workers the phase, which listeners are left to this process alone, and the drain's clock.
    pub(super) fn publish(&mut self, before: Phase, succeeded: bool) {
        let phase = self.state.phase();
        let names = |which: &dyn Fn(&Group) -> bool| -> Arc<Vec<String>> {
            let chosen = self.listeners.groups().iter().filter(|group| which(group));
            Arc::new(chosen.map(|group| group.name.to_string()).collect())
        };
        let adopted = self.child_ready.as_ref().map(|(ready, _)| &ready.adopted);
        let bound_here = |group: &Group| group.adopted_as.is_none();
        let leaving = match (before, phase) {
            (_, Phase::Probation | Phase::Committing) => names(&|group| {
                !adopted.is_some_and(|adopted| adopted.iter().any(|name| **name == *group.name))
            }),
            // The parent still has the others, and serves or empties them.
            (_, Phase::RolledBack) | (Phase::Candidate, Phase::Draining | Phase::Cut) => names(&bound_here),
            (Phase::RolledBack | Phase::Draining, Phase::Draining | Phase::Cut) | (_, Phase::Gone) => {
                self.view.borrow().leaving.clone()
            }
            (_, Phase::Draining) if succeeded => self.view.borrow().leaving.clone(),
            // It has yielded to the parent, which stops and has the others, too.
            (_, Phase::Draining | Phase::Cut) if !self.owner => names(&bound_here),
            (_, Phase::Draining | Phase::Cut) => names(&|_| true),
            _ => Arc::default(),
        };
        let cause = match (before, phase) {
            (_, Phase::RolledBack) => Cause::Rollback,
            (_, Phase::Draining | Phase::Cut) if succeeded => Cause::Upgrade,
            // It is what it was when the drain began.
            (Phase::RolledBack | Phase::Draining, _) => self.view.borrow().cause,
            _ => Cause::Stop,
        };
        let drain = phase.drains().then(|| {
            let begun = self.view.borrow().drain;
            begun.unwrap_or_else(|| {
                let grace = self.options.idle_grace;
                let has_other = succeeded || phase == Phase::RolledBack;
                let grace = if has_other { grace } else { grace.min(STOP_GRACE) };
                Drain::begin(Instant::now(), grace, self.options.drain_timeout)
            })
        });
        let left = |drain: &Drain| drain.deadline.saturating_duration_since(Instant::now());
        let until = drain.as_ref().map(|drain| unix_ms(SystemTime::now()) + millis(left(drain)));
        self.figures.drains_until(until.unwrap_or(0));
        self.quiet.clear();
        self.view.send_modify(|view| {
            *view = View { phase, sequence: view.sequence + 1, drain, leaving, cause };
        });
        self.let_go_of_listeners();
        let Options { stop_delay, drain_timeout, .. } = self.options;
        let longest = drain_timeout.saturating_add(STOP_SLACK);
        if phase == Phase::LameDuck {
            self.notifier
                .stopping(longest.saturating_add(stop_delay), "not ready any more, and about to stop");
        } else if phase == Phase::Draining && !succeeded && self.owner {
            self.notifier.stopping(longest, "draining before the end");
        }
    }

    /// Closes what this process does not hold any more. The workers have copies of their own, and close
    /// them once they are done; of these the ones that leave are out of the file system before that, so
    /// that nobody who binds the path anew finds it taken, or loses it.
    fn let_go_of_listeners(&mut self) {
        let (phase, view) = (self.state.phase(), self.view.borrow());
        if !phase.drains() && phase.holds_listeners() {
            return;
        }
        let leaves = |group: &Group| view.is_leaving(&group.name);
        self.listeners.remove_files(|group| leaves(group) && group.audience == Audience::Public);
        self.listeners.close(|group| leaves(group) || !phase.holds_listeners());
    }

    pub(super) fn perform(
        &mut self,
        action: Action,
        before: Phase,
        asker: &mut Asker,
    ) -> Result<(), Failure> {
        if matches!(action, Action::ForgetChild | Action::AdoptChild | Action::FollowChild) {
            self.look_at_work();
        }
        match action {
            Action::Spawn => return self.spawn(std::mem::replace(asker, Asker::Nobody)),
            Action::KillChild => {
                if let Some(child) = &self.child {
                    child.kill();
                }
            }
            Action::ForgetChild => {
                if let Some(child) = self.child.take() {
                    self.close_books(child.generation);
                }
                self.child_ready = None;
            }
            Action::AdoptChild => self.adopt_child(),
            Action::FollowChild => {
                self.successor = self.child.as_ref().map(|child| child.generation);
                self.superior = self.child.take().map(|child| child.into_parts(&*self.standard_error).0);
                // They are the child's to look after.
                self.others = Peers::default();
            }
            Action::SendReady => {
                let adopted = self.listeners.groups().iter().filter_map(|group| group.adopted_as.clone());
                let ready = Message::Ready(Ready {
                    version: self.options.version.clone(),
                    adopted: adopted.collect(),
                    drain_timeout_ms: millis(self.options.drain_timeout),
                });
                self.tell_superior_with(&ready, &[self.counts.segment().as_fd()]);
            }
            Action::SendFailed(failure) => self.tell_superior(&Message::Failed(failure)),
            Action::SendOwner => {
                self.tell_superior(&Message::Owner);
                self.adopt_parent();
            }
            Action::SendCommit => self.tell_child(&Message::Commit),
            Action::SendRollback => self.tell_child(&Message::Rollback),
            Action::StopOthers(how) => self.others.tell(&Message::Stop { how }),
            Action::ForgetOthers => self.others = Peers::default(),
            Action::TakeOwnership => self.take_ownership(before),
            Action::PassOwnership => {
                self.owner = false;
                if let Some(child) = &self.child {
                    self.notifier.pass(child.pid, &format!("generation {} serves", child.generation));
                }
            }
            Action::Arm(timer) => {
                self.timer = Some((later(Instant::now(), self.duration(timer)), timer));
            }
            Action::Disarm => self.timer = None,
            Action::ReportReady => {
                let version = self.child_ready.as_ref().map(|(ready, _)| ready.version.clone());
                if let Some(upgrade) = &mut self.upgrade {
                    self.figures.ready(upgrade.since);
                    upgrade.ready = Some(Instant::now());
                    upgrade.version = version.clone().unwrap_or_default();
                }
                self.report(|elapsed_ms, driver| Progress::Ready {
                    elapsed_ms,
                    probation_ms: millis(driver.options.probation),
                    wanted: driver.options.probation_work,
                    longest_ms: millis(driver.longest_probation()),
                    version: version.unwrap_or_default(),
                });
            }
            Action::Report(verdict) => self.report_verdict(verdict),
            Action::Refuse(reason) => match std::mem::replace(asker, Asker::Nobody) {
                Asker::Upgrade(progress) => {
                    self.figures.refused();
                    progress.send(Progress::Refused { reason }).ok();
                }
                Asker::Reply(reply) => {
                    reply.send(Err(reason)).ok();
                }
                // SIGHUP: nothing else that is asked by a signal can be refused.
                Asker::Nobody => {
                    self.figures.refused();
                    tracing::warn!(%reason, "refused");
                }
            },
            Action::Agree => {
                if let Asker::Reply(reply) = std::mem::replace(asker, Asker::Nobody) {
                    reply.send(Ok(())).ok();
                }
            }
        }
        Ok(())
    }

    fn duration(&self, timer: Timer) -> Duration {
        match timer {
            Timer::Ready => self.options.ready_timeout,
            Timer::Probation => self.options.probation,
            Timer::Proof => self.longest_probation().saturating_sub(self.options.probation),
            Timer::Commit => COMMIT_TIMEOUT,
            Timer::Exit => EXIT_TIMEOUT,
            Timer::Kill => KILL_TIMEOUT,
            Timer::LameDuck => self.options.stop_delay,
            Timer::Drain => self.options.drain_timeout,
            Timer::Cut => CUT_TIMEOUT,
        }
    }

    fn spawn(&mut self, asker: Asker) -> Result<(), Failure> {
        let progress = match asker {
            Asker::Upgrade(progress) => progress,
            // Nobody listens, but for the log.
            Asker::Nobody | Asker::Reply(_) => mpsc::unbounded_channel().0,
        };
        let generation = self.last_generation + 1;
        self.upgrade = Some(Upgrade {
            since: Instant::now(),
            ready: None,
            generation,
            pid: 0,
            version: String::new(),
            progress,
            done: BTreeMap::new(),
        });
        self.notifier.reloading("upgrading");

        let under_way =
            UnderWay { from: self.generation, to: generation, since_ms: unix_ms(SystemTime::now()) };
        self.history.send_modify(|history| history.under_way = Some(under_way));
        let (others, mut descriptors) = self.others.introductions();
        let pidfd = sys::pidfd_of_self().map_err(Error::system("open a pidfd of this process"))?;
        descriptors.insert(0, pidfd.as_fd());
        let offer = Message::Offer(Box::new(Offer {
            generation,
            executable: self.invocation.executable.clone().into_os_string(),
            parent: Introduction {
                generation: self.generation,
                pid: i32::try_from(std::process::id()).unwrap_or(0),
                version: self.options.version.clone(),
                started_ms: unix_ms(self.started),
                drain_timeout_ms: millis(self.options.drain_timeout),
            },
            others,
            lent: self
                .listeners
                .groups()
                .iter()
                .filter(|group| group.lent)
                .map(|group| group.name.to_string())
                .collect(),
            past: self.history.borrow().past.clone(),
            under_way,
            wanted: self.options.probation_work,
            luggage: (self.packer.0)().within_limit(),
        }));
        let child = spawn(
            &self.program,
            &self.invocation,
            self.listeners.groups(),
            &self.ledger.books(),
            generation,
            &offer,
            &descriptors,
        )?;
        let (pid, executable) = (child.pid, self.program.display().to_string());
        tracing::debug!(generation, pid, %executable, "a new process is starting");
        if let Some(upgrade) = &mut self.upgrade {
            upgrade.pid = pid;
        }
        self.child = Some(child);
        self.report(|_, _| Progress::Started { generation, pid, executable });
        Ok(())
    }

    /// The child goes on by itself and drains.
    fn adopt_child(&mut self) {
        let (Some(child), ready) = (self.child.take(), self.child_ready.take()) else { return };
        let (ready, since) = ready.unwrap_or_else(|| (Ready::default(), SystemTime::now()));
        let introduction = Introduction {
            generation: child.generation,
            pid: child.pid,
            version: ready.version,
            started_ms: unix_ms(since),
            drain_timeout_ms: ready.drain_timeout_ms,
        };
        let (channel, pidfd) = child.into_parts(&*self.standard_error);
        self.others.add(introduction, channel, pidfd);
        // Those who died meanwhile.
        let change = self.ledger.close(true, |_| false);
        self.settle(change);
    }

    /// The parent drains from now on, and this process looks after it.
    fn adopt_parent(&mut self) {
        let (Some(parent), Some(channel)) = (self.predecessor.take(), self.superior.take()) else { return };
        let Some(pidfd) = self.deaths.take(parent.introduction.generation) else { return };
        self.others.add(parent.introduction, channel, pidfd);
    }

    fn take_ownership(&mut self, before: Phase) {
        self.owner = true;
        self.figures.owns_since(unix_ms(SystemTime::now()));
        if let Some(path) = &self.options.pid_file
            && let Err(error) = pidfile::write(path)
        {
            tracing::error!(%error, "the PID file is not right");
        }
        let status = format!("generation {} serves", self.generation);
        match before {
            Phase::Starting => {
                self.notifier.ready(&status);
                self.settle(Change::default());
            }
            // The parent says it, as the main process that it still is.
            Phase::Candidate if self.superior.is_some() => {}
            _ => self.notifier.succeed(&status),
        }
        // The one that was asked for it knows it, too, and takes that with it.
        if before == Phase::Candidate && self.superior.is_some() {
            self.last_upgrade = Some(Verdict::Committed);
        }
        // A process that takes over has been made by the upgrade that is under way.
        let ended = match (before, self.superior.is_some()) {
            (Phase::Candidate, true) => Some((Verdict::Committed, "")),
            (Phase::Candidate, false) => Some((Verdict::Committed, "the old process died before it let go")),
            (Phase::RolledBack, _) => Some((Verdict::RolledBack, "but then the old process died")),
            _ => None,
        };
        if let Some((verdict, note)) = ended {
            if self.superior.is_none() {
                // Otherwise the parent counts it, and logs it.
                self.figures.ended(&verdict, None);
                let (generation, pid) = (self.generation, std::process::id());
                tracing::warn!(generation, pid, "this process serves: {note}");
            }
            self.history.send_modify(|history| history.end(&verdict, note, unix_ms(SystemTime::now())));
        }
        if self.superior.is_none() {
            self.predecessor = None;
        }
        self.tell_that_this_counts();
    }

    /// If this process dies, one that was rolled back before it takes over, and goes on with its counts. Its parent may
    /// have died before it told them.
    fn tell_that_this_counts(&self) {
        if self.others.len() == 0 {
            return;
        }
        match sys::pidfd_of_self() {
            Ok(pidfd) => {
                let counts = Message::Counts { generation: self.generation };
                self.others.tell_with(&counts, &[self.counts.segment().as_fd(), pidfd.as_fd()]);
            }
            Err(error) => tracing::warn!(%error, "cannot open a pidfd of this process"),
        }
    }

    /// A generation is dead: what it has counted is its last word. Returns what it did not finish.
    pub(super) fn close_books(&mut self, generation: u32) -> Cost {
        let losses = self.options.losses.iter().chain([&LOST_CONNECTIONS]);
        let books = self.ledger.books();
        let segment = books.alive().find(|segment| segment.table().generation == generation);
        let cost = segment.map(|segment| cost(&Books::dead(segment).totals(), losses));
        if let Some(cost) = &cost {
            self.history.send_modify(|history| history.lost(generation, cost.clone()));
        }
        let change = self.ledger.close(self.child.is_none(), |table| table.generation == generation);
        self.settle(change);
        cost.unwrap_or_default()
    }

    /// Has the service manager keep the counters, so that they go on after a crash. It hears the main process only, which
    /// a new owner is once its parent has said so: it says all again when that is gone.
    pub(super) fn settle(&mut self, change: Change) {
        self.unsettled.extend(change);
        if self.owner {
            let may_be_unheard = self.parent.is_some_and(|parent| self.others.has(parent));
            let Change { added, removed } = match may_be_unheard {
                true => self.unsettled.clone(),
                false => std::mem::take(&mut self.unsettled),
            };
            for segment in &added {
                self.notifier.store(segment);
            }
            for identity in removed {
                self.notifier.unstore(identity);
            }
        }
    }

    pub(super) fn tell_superior(&self, message: &Message) {
        self.tell_superior_with(message, &[]);
    }

    fn tell_superior_with(&self, message: &Message, descriptors: &[BorrowedFd<'_>]) {
        if let Some(channel) = &self.superior
            && let Err(error) = channel.end().send(message, descriptors)
        {
            // Its death is an event of its own.
            tracing::debug!(%error, "the other generation cannot be told");
        }
    }

    fn tell_child(&self, message: &Message) {
        if let Some(child) = &self.child
            && let Err(error) = child.channel.end().send(message, &[])
        {
            tracing::debug!(%error, "the child cannot be told");
        }
    }
}
