//! The driver: one loop that turns what happens into events and performs the actions.

use std::collections::HashSet;
use std::future::pending;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use super::error::Error;
use super::handoff::{Channel, Introduction, Message, Offer, PeerStatus, Ready, millis};
use super::invocation::Invocation;
use super::listeners::{Group, Listeners};
use super::member::{Member, Report};
use super::notify::Notifier;
use super::peers::Peers;
use super::pidfile;
use super::spawn::{Child, ChildEvent, spawn};
use super::startup::{Options, Predecessor, Startup, tell};
use super::state::{Action, Event, Failure, Phase, Rules, State, Stop, Timer, Verdict};
use super::status::{GenerationStatus, ListenerStatus, Progress, Status, age_ms, unix_ms};
use super::sys;
use super::tracker::Counts;
use super::view::{Drain, View, Viewer};

/// How long a child may take to become the owner once told: it writes one file.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a child that said that it failed may take to exit.
const EXIT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a killed child may take to be gone: one that the kernel holds is given up.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the workers may take to cut what they have.
const CUT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the generations that drain may take to say how they are.
const STATUS_TIMEOUT: Duration = Duration::from_millis(200);
/// The service manager waits for the drain and this.
const STOP_SLACK: Duration = Duration::from_secs(5);

/// How a process ended that ended as it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was asked to stop, or another generation took over.
    Done,
    /// A thread that serves connections died, so the process could not go on.
    Broken,
}

/// What is asked of the driver.
#[derive(Debug)]
enum Command {
    Upgrade(mpsc::UnboundedSender<Progress>),
    Rollback(oneshot::Sender<Result<(), String>>),
    Stop(Stop, oneshot::Sender<Result<(), String>>),
    Status(oneshot::Sender<Status>),
}

/// Asks the driver, from any thread. Clones are the same.
#[derive(Clone, Debug)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    viewer: Viewer,
}

/// The driver is gone, and with it the process in a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the process is ending")]
pub struct Gone;

impl Handle {
    /// Asks for an upgrade. What comes of it arrives piece by piece, [`Progress::Ended`] or
    /// [`Progress::Refused`] last; dropping the receiver does not stop the upgrade.
    pub async fn upgrade(&self) -> Result<mpsc::UnboundedReceiver<Progress>, Gone> {
        let (progress, receiver) = mpsc::unbounded_channel();
        self.commands.send(Command::Upgrade(progress)).await.map_err(|_| Gone)?;
        Ok(receiver)
    }

    /// Takes the traffic back from a new process in its probation, or ends one that is starting. The inner
    /// error says why that cannot be done.
    pub async fn rollback(&self) -> Result<Result<(), String>, Gone> {
        self.ask(Command::Rollback).await
    }

    /// Stops the process.
    pub async fn stop(&self, how: Stop) -> Result<(), Gone> {
        self.ask(|reply| Command::Stop(how, reply)).await.map(drop)
    }

    /// What this process and every other generation is doing.
    pub async fn status(&self) -> Result<Status, Gone> {
        self.ask(Command::Status).await
    }

    /// The phase, as it changes.
    pub fn viewer(&self) -> Viewer {
        self.viewer.clone()
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Gone> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| Gone)?;
        answer.await.map_err(|_| Gone)
    }
}

/// Everything that can happen to the driver.
enum Happening {
    Command(Command),
    Upgrade,
    Stop(Stop),
    Child(ChildEvent),
    Superior(Option<Result<Message, Error>>),
    Other { generation: u32, message: Option<Message> },
    Member(Report),
    TimedOut(Timer),
    StatusDue,
    Overdue,
}

/// Runs the upgrades of a process. It owns the listening sockets, the child and the links to every other
/// generation; nothing else does.
#[derive(Debug)]
pub struct Driver {
    options: Options,
    invocation: Invocation,
    program: PathBuf,
    generation: u32,
    started: SystemTime,
    /// The highest generation that ever served, so that no number means two processes.
    last_generation: u32,

    state: State,
    view: watch::Sender<View>,
    timer: Option<(Instant, Timer)>,
    listeners: Listeners,
    notifier: Notifier,
    /// Whether the PID file is this process's to remove.
    owner: bool,
    outcome: Outcome,

    /// What came from the parent; `None` for the first generation, and once this process is the owner.
    predecessor: Option<Predecessor>,
    /// The link to the process that has the say over this one: its parent until this one is the owner,
    /// its child once that one is.
    superior: Option<Channel>,
    child: Option<Child>,
    child_ready: Option<(Ready, SystemTime)>,
    others: Peers,

    counts: Vec<Arc<Counts>>,
    reports: mpsc::UnboundedReceiver<Report>,
    quiet: HashSet<usize>,
    left: HashSet<usize>,

    commands: mpsc::Receiver<Command>,
    signals: Signals,
    upgrade: Option<Upgrade>,
    last_upgrade: Option<Verdict>,
    status_asked: Vec<oneshot::Sender<Status>>,
    status_due: Option<Instant>,
}

/// An upgrade under way, for the one who asked.
#[derive(Debug)]
struct Upgrade {
    since: Instant,
    progress: mpsc::UnboundedSender<Progress>,
}

#[derive(Debug)]
struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

/// Who waits for an answer to what is being handled.
enum Asker {
    Nobody,
    Upgrade(mpsc::UnboundedSender<Progress>),
    Reply(oneshot::Sender<Result<(), String>>),
}

impl Driver {
    pub(crate) fn new(
        startup: Startup,
        options: Options,
        threads: usize,
    ) -> Result<(Driver, Handle, Vec<Member>), Error> {
        let Startup { invocation, generation, started, listeners, mut parent } = startup;
        let watch = |kind| signal(kind).map_err(Error::system("handle signals"));
        let signals = Signals {
            hangup: watch(SignalKind::hangup())?,
            terminate: watch(SignalKind::terminate())?,
            interrupt: watch(SignalKind::interrupt())?,
        };
        if let Some(path) = &options.pid_file {
            pidfile::check(path)?;
        }
        let mut others = Peers::default();
        let mut connect = |parent: &mut Predecessor| {
            for (introduction, channel, pidfd) in std::mem::take(&mut parent.others) {
                others.add(introduction, Channel::new(channel)?, pidfd);
            }
            Channel::new(parent.channel.try_clone()?)
        };
        let superior = parent.as_mut().map(&mut connect).transpose();
        let superior = superior.map_err(Error::system("watch the channels to other generations"))?;

        let (view, viewer) = watch::channel(View::starting());
        let (commands_in, commands) = mpsc::channel(16);
        let (reports_in, reports) = mpsc::unbounded_channel();
        let counts: Vec<Arc<Counts>> = (0..threads).map(|_| Counts::new(options.kinds)).collect();
        let member = |(id, counts): (usize, &Arc<Counts>)| {
            Member::new(id, viewer.clone(), counts.clone(), reports_in.clone())
        };
        let members = counts.iter().enumerate().map(member).collect();
        let program = match &options.executable {
            Some(program) => invocation.directory.join(program),
            None => invocation.executable.clone(),
        };
        let rules =
            Rules { probation: !options.probation.is_zero(), max_generations: options.max_generations };
        let driver = Driver {
            options,
            invocation,
            program,
            generation,
            started,
            last_generation: generation,
            state: State::new(rules),
            view,
            timer: None,
            listeners,
            notifier: Notifier::from_environment(),
            owner: false,
            outcome: Outcome::Done,
            predecessor: parent,
            superior,
            child: None,
            child_ready: None,
            others,
            counts,
            reports,
            quiet: HashSet::new(),
            left: HashSet::new(),
            commands,
            signals,
            upgrade: None,
            last_upgrade: None,
            status_asked: Vec::new(),
            status_due: None,
        };
        Ok((driver, Handle { commands: commands_in, viewer }, members))
    }

    /// The number of this process among its predecessors, from 1.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Ends the attempt to start: the one who asked for the upgrade is told the step and the cause.
    pub fn fail(self, failure: Failure) {
        self.listeners.remove_files(|group| group.adopted_as.is_none());
        if let Some(parent) = &self.predecessor {
            tell(&parent.channel, failure);
        }
    }

    /// Begins to accept and runs until the process has nothing left to do.
    pub async fn run(mut self) -> Outcome {
        for (listener, address) in self.listeners.close_unclaimed() {
            tracing::info!(%listener, %address, "an inherited socket is not configured and was closed");
        }
        self.on(Event::Started { has_parent: self.predecessor.is_some() }, Asker::Nobody);
        while self.state.phase() != Phase::Gone {
            let happening = self.next().await;
            self.handle(happening);
        }
        self.finish();
        self.outcome
    }

    async fn next(&mut self) -> Happening {
        let due = |at: Option<Instant>| async move {
            match at {
                Some(at) => sleep_until(at).await,
                None => pending().await,
            }
        };
        let (timer, kind) = self.timer.map_or((None, Timer::Cut), |(at, kind)| (Some(at), kind));
        tokio::select! {
            // What generations say to each other comes before what is asked of them.
            biased;
            event = async {
                match &mut self.child {
                    Some(child) => child.next(&self.program).await,
                    None => pending().await,
                }
            } => Happening::Child(event),
            message = async {
                match &self.superior {
                    Some(channel) => channel.receive().await,
                    None => pending().await,
                }
            } => Happening::Superior(message.map(|packet| packet.map(|(message, _)| message))),
            (generation, message) = self.others.next(), if self.owner => Happening::Other { generation, message },
            Some(report) = self.reports.recv() => Happening::Member(report),
            () = due(timer) => Happening::TimedOut(kind),
            () = due(self.status_due) => Happening::StatusDue,
            () = due(self.others.next_overdue()), if self.owner => Happening::Overdue,
            _ = self.signals.terminate.recv() => Happening::Stop(Stop::Gracefully),
            _ = self.signals.interrupt.recv() => Happening::Stop(Stop::Gracefully),
            _ = self.signals.hangup.recv() => Happening::Upgrade,
            Some(command) = self.commands.recv() => Happening::Command(command),
        }
    }

    fn handle(&mut self, happening: Happening) {
        let (event, asker) = match happening {
            Happening::Command(Command::Upgrade(progress)) => {
                (self.upgrade_asked(), Asker::Upgrade(progress))
            }
            Happening::Command(Command::Rollback(reply)) => (Event::RollbackAsked, Asker::Reply(reply)),
            Happening::Command(Command::Stop(how, reply)) => (Event::StopAsked(how), Asker::Reply(reply)),
            Happening::Command(Command::Status(reply)) => return self.status_asked(reply),
            Happening::Upgrade => (self.upgrade_asked(), Asker::Nobody),
            Happening::Stop(how) => (Event::StopAsked(how), Asker::Nobody),
            Happening::TimedOut(timer) => {
                self.timer = None;
                (Event::TimedOut(timer), Asker::Nobody)
            }
            Happening::StatusDue => return self.answer_status(),
            Happening::Overdue => return self.others.kill_overdue(),
            Happening::Child(event) => match self.child_event(event) {
                Some(event) => (event, Asker::Nobody),
                None => return,
            },
            Happening::Superior(message) => match self.superior_event(message) {
                Some(event) => (event, Asker::Nobody),
                None => return,
            },
            Happening::Other { generation, message } => return self.other_said(generation, message),
            Happening::Member(report) => match self.member_event(&report) {
                Some(event) => (event, Asker::Nobody),
                None => return,
            },
        };
        self.on(event, asker);
    }

    fn upgrade_asked(&self) -> Event {
        Event::UpgradeAsked { alive: 1 + self.others.len() + usize::from(self.child.is_some()) }
    }

    fn child_event(&mut self, event: ChildEvent) -> Option<Event> {
        let child = self.child.as_ref()?;
        Some(match event {
            ChildEvent::ExecFailed(failure) => Event::SpawnFailed(failure),
            ChildEvent::Said(Message::Ready(ready)) => {
                self.last_generation = self.last_generation.max(child.generation);
                self.child_ready = Some((ready, SystemTime::now()));
                Event::ChildReady
            }
            ChildEvent::Said(Message::Failed(failure)) => Event::ChildFailed(child.with_stderr(failure)),
            ChildEvent::Said(Message::Owner) => Event::ChildOwns,
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

    fn superior_event(&mut self, message: Option<Result<Message, Error>>) -> Option<Event> {
        match message {
            None => {
                self.superior = None;
                Some(Event::ParentGone)
            }
            Some(Ok(Message::Commit)) => Some(Event::ParentCommits),
            Some(Ok(Message::Rollback)) => Some(Event::ParentRollsBack),
            Some(Ok(Message::Stop { how })) => Some(Event::ToldToStop(how)),
            Some(Ok(Message::StatusRequest)) => {
                let status = Message::Status(self.peer_status());
                if let Some(channel) = &self.superior
                    && let Err(error) = channel.end().send(&status, &[])
                {
                    tracing::debug!(%error, "cannot answer the owner");
                }
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

    fn other_said(&mut self, generation: u32, message: Option<Message>) {
        match message {
            None => {
                tracing::info!(generation, "a generation that drained is gone");
                self.others.remove(generation);
            }
            Some(Message::Status(status)) => self.others.set_status(generation, status),
            Some(_) => {}
        }
        if self.status_due.is_some() && !self.others.is_waiting() {
            self.answer_status();
        }
    }

    fn member_event(&mut self, report: &Report) -> Option<Event> {
        let phase = self.state.phase();
        match *report {
            Report::Quiet { member, sequence } if sequence == self.view.borrow().sequence => {
                self.quiet.insert(member);
            }
            Report::Quiet { .. } => return None,
            Report::Left { member } => {
                self.left.insert(member);
                if !matches!(phase, Phase::Cut | Phase::Gone) {
                    tracing::error!(worker = member, "a worker has ended unexpectedly; stopping");
                    self.outcome = Outcome::Broken;
                    return Some(Event::StopAsked(Stop::Gracefully));
                }
            }
        }
        let done = (0..self.counts.len()).all(|id| self.quiet.contains(&id) || self.left.contains(&id));
        done.then_some(Event::Drained)
    }

    /// Lets the machine decide, tells the workers, performs the actions.
    fn on(&mut self, event: Event, asker: Asker) {
        tracing::debug!(?event, phase = self.state.phase().as_str(), "event");
        let before = self.state.phase();
        let actions = self.state.on(event);
        let phase = self.state.phase();
        if phase != before {
            tracing::info!(
                generation = self.generation,
                from = before.as_str(),
                to = phase.as_str(),
                "phase"
            );
            // First of all: when the traffic comes back, someone accepts before anything else is done.
            self.publish(before, actions.contains(&Action::PassOwnership));
        }
        let mut asker = asker;
        let mut failed = None;
        for action in actions {
            if let Err(failure) = self.perform(action, before, &mut asker) {
                failed = Some(failure);
            }
        }
        if let Some(failure) = failed {
            self.on(Event::SpawnFailed(failure), Asker::Nobody);
        }
    }

    /// Tells the workers the phase, which listeners are left to this process alone, and the drain's clock.
    fn publish(&mut self, before: Phase, succeeded: bool) {
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
            (Phase::RolledBack | Phase::Draining, _) => self.view.borrow().leaving.clone(),
            (_, Phase::Draining) if succeeded => self.view.borrow().leaving.clone(),
            (_, Phase::Draining | Phase::Cut) => names(&|_| true),
            (Phase::Cut, _) => self.view.borrow().leaving.clone(),
            _ => Arc::default(),
        };
        let drain = phase.drains().then(|| {
            let begun = self.view.borrow().drain;
            begun.unwrap_or_else(|| {
                Drain::begin(Instant::now(), self.options.idle_grace, self.options.drain_timeout)
            })
        });
        self.quiet.clear();
        self.view.send_modify(|view| {
            *view = View { phase, sequence: view.sequence + 1, drain, leaving };
        });
        if phase == Phase::Draining && !succeeded && self.owner {
            self.notifier.stopping(self.options.drain_timeout + STOP_SLACK, "draining before the end");
        }
    }

    fn perform(&mut self, action: Action, before: Phase, asker: &mut Asker) -> Result<(), Failure> {
        match action {
            Action::Spawn => return self.spawn(std::mem::replace(asker, Asker::Nobody)),
            Action::KillChild => {
                if let Some(child) = &self.child {
                    child.kill();
                }
            }
            Action::ForgetChild => {
                self.child = None;
                self.child_ready = None;
            }
            Action::AdoptChild => self.adopt_child(),
            Action::FollowChild => {
                self.superior = self.child.take().map(|child| child.into_parts().0);
                // They are the child's to look after.
                self.others = Peers::default();
            }
            Action::SendReady => {
                let adopted = self.listeners.groups().iter().filter_map(|group| group.adopted_as.clone());
                self.tell_superior(&Message::Ready(Ready {
                    version: self.options.version.clone(),
                    adopted: adopted.collect(),
                    drain_timeout_ms: millis(self.options.drain_timeout),
                }));
            }
            Action::SendFailed(failure) => self.tell_superior(&Message::Failed(failure)),
            Action::SendOwner => {
                self.tell_superior(&Message::Owner);
                self.adopt_parent();
            }
            Action::SendCommit => self.tell_child(&Message::Commit),
            Action::SendRollback => self.tell_child(&Message::Rollback),
            Action::SendStop(how) => self.tell_child(&Message::Stop { how }),
            Action::CutOthers => self.others.tell(&Message::Stop { how: Stop::Now }),
            Action::TakeOwnership => self.take_ownership(before),
            Action::PassOwnership => {
                self.owner = false;
                if let Some(child) = &self.child {
                    self.notifier.pass(child.pid, &format!("generation {} serves", child.generation));
                }
            }
            Action::Arm(timer) => self.timer = Some((Instant::now() + self.duration(timer), timer)),
            Action::Disarm => self.timer = None,
            Action::ReportReady => {
                let version = self.child_ready.as_ref().map(|(ready, _)| ready.version.clone());
                self.report(|elapsed_ms, driver| Progress::Ready {
                    elapsed_ms,
                    probation_ms: millis(driver.options.probation),
                    version: version.unwrap_or_default(),
                });
            }
            Action::Report(verdict) => self.report_verdict(verdict),
            Action::Refuse(reason) => match std::mem::replace(asker, Asker::Nobody) {
                Asker::Upgrade(progress) => {
                    progress.send(Progress::Refused { reason }).ok();
                }
                Asker::Reply(reply) => {
                    reply.send(Err(reason)).ok();
                }
                Asker::Nobody => tracing::warn!(%reason, "refused"),
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
            Timer::Commit => COMMIT_TIMEOUT,
            Timer::Exit => EXIT_TIMEOUT,
            Timer::Kill => KILL_TIMEOUT,
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
        self.upgrade = Some(Upgrade { since: Instant::now(), progress });
        self.notifier.reloading("upgrading");

        let generation = self.last_generation + 1;
        let (others, mut descriptors) = self.others.introductions();
        let pidfd = sys::pidfd_of_self().map_err(Error::system("open a pidfd of this process"))?;
        let stderr = io::stderr();
        descriptors.splice(0..0, [stderr.as_fd(), pidfd.as_fd()]);
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
        }));
        let child = spawn(
            &self.program,
            &self.invocation,
            self.listeners.groups(),
            generation,
            &offer,
            &descriptors,
        )?;
        let (pid, executable) = (child.pid, self.program.display().to_string());
        tracing::info!(generation, pid, %executable, "a new process is starting");
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
        let (channel, pidfd) = child.into_parts();
        self.others.add(introduction, channel, pidfd);
    }

    /// The parent drains from now on, and this process looks after it.
    fn adopt_parent(&mut self) {
        let (Some(parent), Some(channel)) = (self.predecessor.take(), self.superior.take()) else { return };
        self.others.add(parent.introduction, channel, parent.pidfd);
    }

    fn take_ownership(&mut self, before: Phase) {
        self.owner = true;
        if let Some(path) = &self.options.pid_file
            && let Err(error) = pidfile::write(path)
        {
            tracing::error!(%error, "the PID file is not right");
        }
        let status = format!("generation {} serves", self.generation);
        match before {
            Phase::Starting => self.notifier.ready(&status),
            // The parent says it, as the main process that it still is.
            Phase::Candidate if self.superior.is_some() => {}
            _ => self.notifier.succeed(&status),
        }
        if let Some(parent) = &self.predecessor {
            parent.release_stderr();
        }
        if self.superior.is_none() {
            self.predecessor = None;
        }
    }

    fn report(&mut self, progress: impl FnOnce(u64, &Driver) -> Progress) {
        let Some(upgrade) = &self.upgrade else { return };
        let progress = progress(millis(upgrade.since.elapsed()), self);
        // The one who asked may have gone; the log has it all.
        upgrade.progress.send(progress).ok();
    }

    fn report_verdict(&mut self, verdict: Verdict) {
        match &verdict {
            Verdict::Committed => tracing::info!(generation = self.generation, "the upgrade is committed"),
            Verdict::RolledBack => {
                tracing::warn!(generation = self.generation, "the upgrade was rolled back")
            }
            Verdict::Failed(Failure { step, message }) => {
                tracing::error!(generation = self.generation, %step, cause = %message, "the upgrade failed");
                let first = message.lines().next().unwrap_or_default();
                self.notifier.ready(&format!(
                    "upgrade failed at {step}: {first}; generation {} serves",
                    self.generation
                ));
            }
        }
        if verdict == Verdict::RolledBack {
            self.notifier.ready(&format!("rolled back; generation {} serves", self.generation));
        }
        self.last_upgrade = Some(verdict.clone());
        self.report(|elapsed_ms, _| Progress::Ended { elapsed_ms, verdict });
        self.upgrade = None;
    }

    fn tell_superior(&self, message: &Message) {
        if let Some(channel) = &self.superior
            && let Err(error) = channel.end().send(message, &[])
        {
            // Its death is an event of its own.
            tracing::debug!(%error, "the parent cannot be told");
        }
    }

    fn tell_child(&self, message: &Message) {
        if let Some(child) = &self.child
            && let Err(error) = child.channel.end().send(message, &[])
        {
            tracing::debug!(%error, "the child cannot be told");
        }
    }

    fn peer_status(&self) -> PeerStatus {
        PeerStatus {
            phase: self.state.phase(),
            connections: Counts::sum(&self.counts),
            left_ms: self.left_ms(),
        }
    }

    fn left_ms(&self) -> Option<u64> {
        let drain = self.view.borrow().drain?;
        Some(millis(drain.deadline.saturating_duration_since(Instant::now())))
    }

    fn status_asked(&mut self, reply: oneshot::Sender<Status>) {
        self.status_asked.push(reply);
        if self.status_due.is_none() && self.others.ask_status() {
            self.status_due = Some(Instant::now() + STATUS_TIMEOUT);
        }
        if self.status_due.is_none() {
            self.answer_status();
        }
    }

    fn answer_status(&mut self) {
        self.status_due = None;
        let status = self.status();
        for reply in self.status_asked.drain(..) {
            reply.send(status.clone()).ok();
        }
    }

    fn status(&self) -> Status {
        let now = SystemTime::now();
        let PeerStatus { phase, connections, left_ms } = self.peer_status();
        let ours = GenerationStatus {
            generation: self.generation,
            pid: i32::try_from(std::process::id()).unwrap_or(0),
            version: self.options.version.clone(),
            phase: Some(phase),
            age_ms: age_ms(unix_ms(self.started), now),
            connections,
            left_ms,
        };
        let child = self.child.as_ref().map(|child| GenerationStatus {
            generation: child.generation,
            pid: child.pid,
            version: self.child_ready.as_ref().map(|(ready, _)| ready.version.clone()).unwrap_or_default(),
            phase: Some(if self.child_ready.is_some() { Phase::Candidate } else { Phase::Starting }),
            age_ms: self.upgrade.as_ref().map_or(0, |upgrade| millis(upgrade.since.elapsed())),
            connections: Vec::new(),
            left_ms: None,
        });
        let mut generations: Vec<GenerationStatus> =
            self.others.statuses(now).chain([ours]).chain(child).collect();
        generations.sort_by_key(|one| one.generation);
        let listener = |group: &Group| ListenerStatus {
            name: group.name.to_string(),
            address: group.address.to_string(),
            sockets: group.sockets.len(),
        };
        Status {
            generation: self.generation,
            pid: std::process::id(),
            version: self.options.version.clone(),
            phase,
            executable: self.program.display().to_string(),
            listeners: self.listeners.groups().iter().map(listener).collect(),
            accept_errors: Counts::accept_errors(&self.counts),
            last_upgrade: self.last_upgrade.clone(),
            generations,
        }
    }

    /// Leaves nothing behind that nobody else needs.
    fn finish(&mut self) {
        let view = self.view.borrow().clone();
        self.listeners.remove_files(|group| view.is_leaving(&group.name));
        if let Some(path) = self.options.pid_file.as_ref().filter(|_| self.owner) {
            pidfile::remove(path);
        }
    }
}
