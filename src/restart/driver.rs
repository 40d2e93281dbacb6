//! The driver: one loop that turns what happens into events and performs the actions.

use std::collections::{BTreeMap, HashSet};
use std::future::pending;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};
use tracing::Span;

mod actions;
mod answers;
mod figures;
mod handle;
mod hearing;

use super::accept::Audience;
use super::address::ListenAddr;
use super::counts::{Columns, Counts, End, KindStatus};
use super::deaths::Deaths;
use super::error::Error;
use super::handoff::{Channel, Message, Packet, Ready};
use super::history::{History, HistoryViewer};
use super::invocation::Invocation;
use super::ledger::{BooksViewer, Change, Ledger};
use super::listeners::Listeners;
use super::luggage::{Luggage, Packer};
use super::member::{Member, Report};
use super::milestone::Goal;
use super::notify::Notifier;
use super::peers::Peers;
use super::pidfile;
use super::segment::{Owner, Segment, Slot, Table, Tally};
use super::signals::{Asked, Signals};
use super::spawn::{Child, ChildEvent};
use super::standard_error::{StandardError, Unqueued};
use super::startup::{Options, Predecessor, Startup, give_up};
use super::state::{Action, Event, Failure, Phase, Rules, State, Stop, Timer, Verdict};
use super::status::{Progress, Status, unix_ms};
use super::sys;
use super::view::View;
use figures::Figures;
use handle::Command;
pub use handle::{Gone, Handle};

/// How a process ended that ended as it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was asked to stop, or another generation took over.
    Done,
    /// A thread that serves connections died, so the process could not go on.
    Broken,
}

/// Everything that can happen to the driver.
enum Happening {
    Command(Command),
    Upgrade,
    Stop(Stop),
    Child(ChildEvent),
    Superior(Option<Result<Packet, Error>>),
    Other { generation: u32, message: Option<Message> },
    Died(u32),
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
    /// The generation that made this process; `None` for the first.
    parent: Option<u32>,
    /// The generation that has taken over from this process.
    successor: Option<u32>,
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
    /// The link to the process that has the say over this one: its parent until this one is the owner, and
    /// again if this one yields to it; its child once that one is the owner.
    superior: Option<Channel>,
    child: Option<Child>,
    child_ready: Option<(Ready, SystemTime)>,
    others: Peers,
    /// The parent, until it is one of the others; and those that this process is told of while it is rolled back.
    deaths: Deaths,
    packer: Packer,
    standard_error: Box<dyn StandardError>,

    threads: usize,
    counts: Arc<Counts>,
    figures: Figures,
    ledger: Ledger,
    /// What the service manager is still to be told of the segments.
    unsettled: Change,
    reports: mpsc::UnboundedReceiver<Report>,
    quiet: HashSet<usize>,
    left: HashSet<usize>,

    commands: mpsc::Receiver<Command>,
    signals: Signals,
    upgrade: Option<Upgrade>,
    last_upgrade: Option<Verdict>,
    history: watch::Sender<History>,
    status_asked: Vec<oneshot::Sender<Status>>,
    status_due: Option<Instant>,
}

/// An upgrade under way, for the one who asked.
#[derive(Debug)]
struct Upgrade {
    since: Instant,
    ready: Option<Instant>,
    /// The new process.
    generation: u32,
    pid: i32,
    version: String,
    progress: mpsc::UnboundedSender<Progress>,
    /// What the new process had done when it was last looked at.
    done: BTreeMap<String, u64>,
}

/// See [`Driver::span`].
pub(crate) fn upgrade_span(to: u32) -> Span {
    tracing::info_span!("upgrade", to)
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
        let Startup { invocation, generation, started, listeners, mut parent, mut plan, segments, .. } =
            startup;
        let signals = Signals::take()?;
        if let Some(path) = &options.pid_file {
            pidfile::check(path)?;
        }
        let (mut others, mut deaths) = (Peers::default(), Deaths::default());
        let mut connect = |parent: &mut Predecessor| {
            for (introduction, channel, pidfd) in std::mem::take(&mut parent.others) {
                others.add(introduction, Channel::new(channel)?, sys::watch_readable(pidfd)?);
            }
            if let Some(pidfd) = parent.pidfd.take() {
                deaths.watch(parent.introduction.generation, pidfd)?;
            }
            Channel::new(parent.channel.try_clone()?)
        };
        let maker = parent.as_ref().map(|parent| parent.introduction.generation);
        let history = parent.as_mut().map(|parent| std::mem::take(&mut parent.history)).unwrap_or_default();
        let superior = parent.as_mut().map(&mut connect).transpose();
        let superior = superior.map_err(Error::system("watch the channels to other generations"))?;

        let (view, viewer) = watch::channel(View::starting());
        let (commands_in, commands) = mpsc::channel(16);
        let (reports_in, reports) = mpsc::unbounded_channel();
        let (columns, figures) =
            (Columns::plan(&mut plan, options.kinds), figures::Columns::plan(&mut plan, &options.version));
        let owner = Owner { generation, pid: std::process::id(), started_ms: unix_ms(started) };
        // One shard more than there are threads that serve: the driver's.
        let segment = Segment::create(&plan, owner, threads + 1);
        let segment = segment.map_err(Error::system("make the memory for the counters"))?;
        let goal = Goal::new(parent.as_ref().map_or(0, |parent| parent.wanted));
        let counts = Counts::new(columns, segment.clone(), goal);
        let figures = Figures::new(figures, counts.segment(), threads, generation);
        let member = |id| Member::new(id, viewer.clone(), counts.clone(), reports_in.clone());
        let members = (0..threads).map(member).collect();
        let ledger = Ledger::new(segment, plan.passing_labels());
        // Where there is a parent, that has the service manager keep this one.
        let own = parent.is_none().then(|| counts.segment().clone());
        let mut unsettled = Change { added: own.into_iter().collect(), removed: Vec::new() };
        for segment in segments {
            unsettled.extend(ledger.adopt(segment));
        }
        let is_alive = |table: &Table| maker == Some(table.generation) || others.has(table.generation);
        unsettled.extend(ledger.close(true, |table| !is_alive(table)));
        let program = match &options.executable {
            Some(program) => invocation.absolute(program),
            None => invocation.executable.clone(),
        };
        let rules = Rules {
            probation: !options.probation.is_zero() || options.probation_work > 0,
            proof: options.probation_work > 0,
            max_generations: options.max_generations,
            lame_duck: !options.stop_delay.is_zero(),
        };
        let driver = Driver {
            options,
            invocation,
            program,
            generation,
            parent: maker,
            successor: None,
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
            deaths,
            packer: Packer::default(),
            standard_error: Box::new(Unqueued),
            threads,
            counts,
            figures,
            ledger,
            unsettled,
            reports,
            quiet: HashSet::new(),
            left: HashSet::new(),
            commands,
            signals,
            upgrade: None,
            last_upgrade: None,
            history: watch::Sender::new(history),
            status_asked: Vec::new(),
            status_due: None,
        };
        Ok((driver, Handle { commands: commands_in, viewer }, members))
    }

    /// The number of this process among its predecessors, from 1.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Where the listener `name` is bound.
    pub fn address(&self, name: &str) -> Option<&ListenAddr> {
        let mut addresses = self.listeners.addresses();
        addresses.find(|(listener, _)| *listener == name).map(|(_, address)| address)
    }

    /// Has `pack` say, each time a child is made, what that is given beside the sockets; see
    /// [`Startup::luggage`]. It must not be more than 16 KiB, or the child gets nothing.
    pub fn pack(&mut self, pack: impl Fn() -> Luggage + 'static) {
        self.packer = Packer(Box::new(pack));
    }

    /// Has what a child writes to its standard error be passed on by `standard_error`.
    pub fn set_standard_error(&mut self, standard_error: impl StandardError + 'static) {
        self.standard_error = Box::new(standard_error);
    }

    /// Where any thread may count in `slot`, in which no [`Shard`](super::Shard) counts.
    pub fn tally(&self, slot: Slot) -> Tally {
        self.counts.segment().tally(self.threads, slot)
    }

    /// All that is counted, by this process and every other, alive or dead.
    pub fn books(&self) -> BooksViewer {
        self.ledger.viewer()
    }

    /// The last upgrades, and the one that is under way.
    pub fn history(&self) -> HistoryViewer {
        self.history.subscribe()
    }

    /// Ends the attempt to start: the one who asked for the upgrade is told the step and the cause.
    pub fn fail(self, failure: Failure) {
        give_up(&self.listeners, self.predecessor.as_ref(), failure);
    }

    /// Begins to accept and runs until the process has nothing left to do.
    pub async fn run(mut self) -> Outcome {
        for (listener, address) in self.listeners.close_unclaimed() {
            tracing::info!(%listener, %address, "an inherited socket is not configured and was closed");
        }
        let span = self.span().entered();
        self.on(Event::Started { has_parent: self.predecessor.is_some() }, Asker::Nobody);
        drop(span);
        while self.state.phase() != Phase::Gone {
            let happening = self.next().await;
            self.handle(happening);
        }
        self.span().in_scope(|| self.finish());
        self.notifier.finish().await;
        // It ends with the process: whoever sees its end takes what is counted here for the last word.
        std::mem::forget(self.superior.take());
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
        let paused = !self.state.phase().accepts();
        tokio::select! {
            // What generations say to each other comes before what is asked of them.
            biased;
            event = async {
                match &mut self.child {
                    Some(child) => child.next(&self.program, paused, &*self.standard_error).await,
                    None => pending().await,
                }
            } => Happening::Child(event),
            message = async {
                match &self.superior {
                    Some(channel) => channel.receive().await,
                    None => pending().await,
                }
            } => Happening::Superior(message),
            (generation, message) = self.others.next(), if self.owner => Happening::Other { generation, message },
            generation = self.deaths.next() => Happening::Died(generation),
            Some(report) = self.reports.recv() => Happening::Member(report),
            () = due(timer) => Happening::TimedOut(kind),
            () = due(self.status_due) => Happening::StatusDue,
            () = due(self.others.next_overdue()), if self.owner => Happening::Overdue,
            asked = self.signals.next() => match asked {
                Asked::Stop(how) => Happening::Stop(how),
                Asked::Upgrade => Happening::Upgrade,
            },
            Some(command) = self.commands.recv() => Happening::Command(command),
        }
    }

    /// What every line of the log is said in that belongs to an upgrade, in both processes: which generation it is to
    /// make, or has made.
    pub fn span(&self) -> Span {
        let to = match (&self.child, self.state.phase()) {
            (Some(child), _) => Some(child.generation),
            (None, Phase::Starting | Phase::Candidate | Phase::RolledBack) => {
                self.parent.map(|_| self.generation)
            }
            (None, Phase::Draining | Phase::Cut | Phase::Gone) => self.successor,
            (None, _) => None,
        };
        to.map_or_else(Span::none, upgrade_span)
    }

    fn handle(&mut self, happening: Happening) {
        let _span = match happening {
            Happening::Upgrade | Happening::Command(Command::Upgrade(_)) if self.child.is_none() => {
                upgrade_span(self.last_generation + 1)
            }
            _ => self.span(),
        }
        .entered();
        let asked = matches!(happening, Happening::Command(_) | Happening::Upgrade | Happening::Stop(_));
        // A signal may overtake what the child said before it was sent: any thread's runtime brings signals, and
        // only this one's looks at the channel. To stop without knowing that the child owns makes two owners.
        while asked && let Some(event) = self.child.as_mut().and_then(Child::unread) {
            self.handle(Happening::Child(event));
        }
        let (event, asker) = match happening {
            Happening::Command(Command::Upgrade(progress)) => {
                (Some(self.upgrade_asked()), Asker::Upgrade(progress))
            }
            Happening::Command(Command::Rollback(reply)) => (Some(Event::RollbackAsked), Asker::Reply(reply)),
            Happening::Command(Command::Stop(how, reply)) => {
                (Some(Event::StopAsked(how)), Asker::Reply(reply))
            }
            Happening::Command(Command::Status(reply)) => return self.status_asked(reply),
            Happening::Upgrade => (Some(self.upgrade_asked()), Asker::Nobody),
            Happening::Stop(how) => (Some(Event::StopAsked(how)), Asker::Nobody),
            Happening::TimedOut(timer) => {
                // What the child said in time counts first; a timer that still stands then runs out again.
                if let Some(event) = self.child.as_mut().and_then(Child::unread) {
                    return self.handle(Happening::Child(event));
                }
                self.timer = None;
                (Some(Event::TimedOut(timer)), Asker::Nobody)
            }
            Happening::StatusDue => return self.answer_status(),
            Happening::Overdue => return self.others.kill_overdue(),
            Happening::Child(event) => (self.child_event(event), Asker::Nobody),
            Happening::Superior(message) => (self.superior_event(message), Asker::Nobody),
            Happening::Died(generation) => (self.died(generation), Asker::Nobody),
            Happening::Other { generation, message } => (self.other_said(generation, message), Asker::Nobody),
            Happening::Member(report) => (self.member_event(&report), Asker::Nobody),
        };
        if let Some(event) = event {
            self.on(event, asker);
        }
    }

    fn upgrade_asked(&self) -> Event {
        Event::UpgradeAsked { alive: 1 + self.others.len() + usize::from(self.child.is_some()) }
    }

    /// Lets the machine decide, tells the workers, performs the actions.
    fn on(&mut self, event: Event, asker: Asker) {
        tracing::debug!(?event, phase = self.state.phase().as_str(), "event");
        let before = self.state.phase();
        let actions = self.state.on(event);
        let phase = self.state.phase();
        if phase != before {
            if before == Phase::Candidate
                && let Some(parent) = &mut self.predecessor
            {
                parent.release_stderr(&*self.standard_error);
            }
            tracing::debug!(
                generation = self.generation,
                from = before.as_str(),
                to = phase.as_str(),
                "phase"
            );
            if phase == Phase::LameDuck || (phase == Phase::Draining && before.owns()) {
                tracing::info!(generation = self.generation, phase = phase.as_str(), "stopping");
            }
            self.figures.enter(phase);
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

    /// Leaves nothing behind that nobody else needs.
    fn finish(&self) {
        let view = self.view.borrow().clone();
        // The owner answered on these to the end; the others were removed when they were closed.
        self.listeners
            .remove_files(|group| view.is_leaving(&group.name) && group.audience == Audience::Owner);
        if let Some(path) = self.options.pid_file.as_ref().filter(|_| self.owner) {
            pidfile::remove(path);
        }
        for KindStatus { kind, began, ends, .. } in self.counts.by_kind() {
            let in_words = |ends: &[(End, u64)]| -> String {
                let ends = ends.iter().map(|(end, count)| format!("{}={count}", end.as_str()));
                ends.collect::<Vec<_>>().join(" ")
            };
            let generation = self.generation;
            tracing::debug!(generation, %kind, began, ends = %in_words(&ends), "connections");
            let is_cut = |(end, _): &(End, u64)| matches!(end, End::DroppedInFlight | End::DroppedIdle);
            let cut: Vec<_> = ends.iter().copied().filter(is_cut).collect();
            if !cut.is_empty() {
                tracing::warn!(generation, %kind, ends = %in_words(&cut), "connections were cut");
            }
        }
    }
}
