//! The first moments of a process: what it got, what it opens, and how it comes to serve.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::counts::Kinds;
use tracing::Span;

use super::driver::{Driver, Handle, upgrade_span};
use super::error::Error;
use super::handoff::{End, Introduction, Message, Offer};
use super::history::{History, Loss};
use super::inherit::{self, Inherited};
use super::invocation::Invocation;
use super::listeners::Listeners;
use super::luggage::Luggage;
use super::member::Member;
use super::segment::Plan;
use super::signals::HeldSignals;
use super::standard_error::StandardError;
use super::state::Failure;
use super::trial::Work;

/// What a daemon decides about its restarts.
#[derive(Clone, Debug)]
pub struct Options {
    /// The program that an upgrade starts; without it the one that this process was started from. A
    /// relative path begins at the directory in which the process was started.
    pub executable: Option<PathBuf>,
    /// How long a new process may take until it accepts.
    pub ready_timeout: Duration,
    /// How long the old process keeps the sockets after the new one accepts; zero: not at all.
    pub probation: Duration,
    /// How much work the new process is to have done before the old one lets go; 0: none in particular.
    pub probation_work: u64,
    /// If it has not done that after `probation`, it is watched so long in all, and no longer.
    pub probation_max: Duration,
    /// What is counted as work, to be told of those that are watched.
    pub work: Option<Work>,
    /// With so many generations alive, an upgrade is refused.
    pub max_generations: usize,
    /// Where the owner's pid is written.
    pub pid_file: Option<PathBuf>,
    /// How long a stop waits before nothing is accepted any more, and says that it is not ready; not in an upgrade.
    pub stop_delay: Duration,
    /// How long connections may take to finish.
    pub drain_timeout: Duration,
    /// How long a connection at rest may take to bring another request while the process drains. It ends a
    /// little before `drain_timeout` at the latest, and after 5 s when nobody has taken over.
    pub idle_grace: Duration,
    /// The version of the program, for people.
    pub version: String,
    /// The daemon's kinds of connections.
    pub kinds: Kinds,
    /// What tells, beside its connections, how much a process did not finish.
    pub losses: &'static [Loss],
}

impl Default for Options {
    fn default() -> Self {
        Options {
            executable: None,
            ready_timeout: Duration::from_secs(30),
            probation: Duration::from_secs(5),
            probation_work: 0,
            probation_max: Duration::from_secs(60),
            work: None,
            max_generations: 8,
            pid_file: None,
            stop_delay: Duration::ZERO,
            drain_timeout: Duration::from_secs(30),
            idle_grace: Duration::from_secs(30),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            kinds: &["connection"],
            losses: &[],
        }
    }
}

/// A process that has begun and does not serve yet.
#[derive(Debug)]
pub struct Startup {
    pub(crate) invocation: Invocation,
    pub(crate) generation: u32,
    pub(crate) started: SystemTime,
    pub(crate) listeners: Listeners,
    pub(crate) parent: Option<Predecessor>,
    luggage: Luggage,
    pub(crate) plan: Plan,
    /// The counters of other generations. Not looked at before there is a log to tell of what is wrong with them.
    pub(crate) segments: Vec<OwnedFd>,
}

/// What a child got from its parent.
#[derive(Debug)]
pub(crate) struct Predecessor {
    pub(crate) channel: End,
    pub(crate) introduction: Introduction,
    /// The parent's standard error, and the end from which it reads this process's; see
    /// [`Predecessor::release_stderr`].
    pub(crate) stderr: Option<(OwnedFd, OwnedFd)>,
    /// `None` once it is the driver's.
    pub(crate) pidfd: Option<OwnedFd>,
    /// The upgrades that it knows of.
    pub(crate) history: History,
    /// The generations that drain, each with its channel and its pidfd.
    pub(crate) others: Vec<(Introduction, End, OwnedFd)>,
    /// How much work it wants to see done.
    pub(crate) wanted: u64,
}

impl Startup {
    /// Takes what was passed to this process and captures how it was started. The first thing that a
    /// program does: no other thread may run yet. Signals are held back from here on until there is a driver for them.
    pub fn begin() -> Result<Startup, Error> {
        HeldSignals::hold();
        let Inherited { mut sockets, segments, handoff } = inherit::take()?;
        let Some(channel) = handoff.map(End::from) else {
            sockets.iter_mut().for_each(|socket| socket.lent = true);
            return Ok(Startup {
                invocation: Invocation::capture(None)?,
                generation: 1,
                started: SystemTime::now(),
                listeners: Listeners::new(sockets),
                parent: None,
                luggage: Luggage::default(),
                plan: Plan::default(),
                segments,
            });
        };
        let begun = read_offer(&channel).and_then(|(mut offer, descriptors)| {
            let executable = PathBuf::from(&offer.executable);
            let invocation = Invocation::capture(Some(executable).filter(|path| path.is_absolute()))?;
            let generation = offer.generation;
            sockets.iter_mut().for_each(|socket| socket.lent = offer.lent.contains(&socket.name));
            let luggage = std::mem::take(&mut offer.luggage);
            Ok((invocation, generation, predecessor(channel.try_clone(), offer, descriptors)?, luggage))
        });
        match begun {
            Ok((invocation, generation, parent, luggage)) => Ok(Startup {
                invocation,
                generation,
                started: SystemTime::now(),
                listeners: Listeners::new(sockets),
                parent: Some(parent),
                luggage,
                plan: Plan::default(),
                segments,
            }),
            Err(error) => {
                tell(&channel, Failure::from(&error));
                Err(error)
            }
        }
    }

    /// The number of this process among its predecessors, from 1.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Whether an upgrade made this process.
    pub fn is_upgrade(&self) -> bool {
        self.parent.is_some()
    }

    /// The standard error to which this process will write once it is on its own. Until then what it writes to its own
    /// goes through its parent.
    pub fn standard_error(&self) -> std::io::Result<OwnedFd> {
        match self.parent.as_ref().and_then(|parent| parent.stderr.as_ref()) {
            Some((stderr, _)) => stderr.try_clone(),
            None => std::io::stderr().as_fd().try_clone_to_owned(),
        }
    }

    /// What is said in the log before there is a driver, see [`Driver::span`].
    pub fn span(&self) -> Span {
        self.parent.as_ref().map_or_else(Span::none, |_| upgrade_span(self.generation))
    }

    /// What the generation before has packed for this one; see [`Driver::pack`].
    pub fn luggage(&mut self) -> &mut Luggage {
        &mut self.luggage
    }

    /// What this process is going to count beside what the core counts itself. It goes on across upgrades, by name
    /// and labels; [`Member::shard`] is where it is counted, [`Driver::books`] where all of it is read.
    pub fn plan(&mut self) -> &mut Plan {
        &mut self.plan
    }

    /// The directory in which the process was started; relative paths begin there.
    pub fn directory(&self) -> &Path {
        &self.invocation.directory
    }

    /// The file that this program was started from: absolute, its symbolic links as they were given.
    pub fn executable(&self) -> &Path {
        &self.invocation.executable
    }

    /// The listeners, to be opened.
    pub fn listeners(&mut self) -> &mut Listeners {
        &mut self.listeners
    }

    /// Ends the attempt: the one who asked for the upgrade is told the step and the cause.
    pub fn fail(self, failure: Failure) {
        give_up(&self.listeners, self.parent.as_ref(), failure);
    }

    /// Makes the driver, the handle to it, and a [`Member`] for each of `threads` threads that serve
    /// connections. Nothing is accepted before [`Driver::run`]. Must be called within a tokio runtime.
    pub fn assemble(self, options: Options, threads: usize) -> Result<(Driver, Handle, Vec<Member>), Error> {
        Driver::new(self, options, threads)
    }
}

/// Ends an attempt to start: leaves no file behind and tells the parent.
pub(crate) fn give_up(listeners: &Listeners, parent: Option<&Predecessor>, failure: Failure) {
    listeners.remove_files(|group| group.adopted_as.is_none());
    if let Some(parent) = parent {
        tell(&parent.channel, failure);
    }
}

fn tell(channel: &End, failure: Failure) {
    // A parent that is dead needs no telling.
    if let Err(error) = channel.send(&Message::Failed(failure), &[]) {
        tracing::debug!(%error, "cannot tell the parent what failed");
    }
}

/// The offer is in the channel before this process exists, so there is nothing to wait for.
fn read_offer(channel: &End) -> Result<(Offer, Vec<OwnedFd>), Error> {
    socket2::SockRef::from(channel)
        .set_nonblocking(true)
        .map_err(Error::system("use the hand-off channel"))?;
    match channel.try_receive().map_err(Error::system("read from the hand-off channel"))? {
        Some(Ok((Message::Offer(offer), descriptors))) => Ok((*offer, descriptors)),
        Some(Ok((other, _))) => {
            Err(Error::Handoff(format!("the parent began with {other:?} instead of its offer")))
        }
        Some(Err(error)) => Err(error),
        None => Err(Error::Handoff("the parent made no offer".into())),
    }
}

fn predecessor(
    channel: std::io::Result<End>,
    offer: Offer,
    descriptors: Vec<OwnedFd>,
) -> Result<Predecessor, Error> {
    let channel = channel.map_err(Error::system("keep the hand-off channel"))?;
    let mut descriptors = descriptors.into_iter();
    let mut next =
        || descriptors.next().ok_or_else(|| Error::Handoff("the offer came with too few descriptors".into()));
    let (stderr, pidfd) = ((next()?, next()?), Some(next()?));
    let others = offer.others.into_iter().map(|other| Ok((other, End::from(next()?), next()?)));
    let others = others.collect::<Result<_, Error>>()?;
    let history = History::handed_on(offer.past, offer.under_way);
    Ok(Predecessor {
        channel,
        introduction: offer.parent,
        stderr: Some(stderr),
        pidfd,
        history,
        others,
        wanted: offer.wanted,
    })
}

impl Predecessor {
    /// From now on the standard error is the one that the parent writes to. Until then the parent passes it
    /// on through a pipe, so that it can tell what a child that died had to say. This process holds the
    /// reading end too: when the parent dies, nothing that is written fails, and nothing is lost.
    pub(crate) fn release_stderr(&mut self, standard_error: &dyn StandardError) {
        let Some((stderr, pipe)) = self.stderr.take() else { return };
        if let Err(error) = nix::unistd::dup2_stderr(&stderr) {
            tracing::warn!(%error, "cannot write to the standard error directly");
            return;
        }
        standard_error.release(stderr, pipe);
    }
}
