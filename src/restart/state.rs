//! The upgrade as a pure function: `(State, Event) → (State, Vec<Action>)`.
//!
//! One machine serves both sides, because every process is first its predecessor's child and later its
//! successor's parent. Nothing here does I/O, reads a clock or knows a descriptor: the
//! [driver](super::driver) turns what happens into [`Event`]s and performs the [`Action`]s, in order.
//! The model check in `tests/model.rs` runs two of these machines against each other, with late
//! messages and with either process dying at any step.
//!
//! ```text
//!                       ┌────────────────────────── child died, refused, timed out ─┐
//!                       ▼                                                           │
//!   Starting ──────► Serving ──upgrade──► Upgrading ──ready──► Probation ──over──► Committing
//!      │                ▲                     │                    │                │
//!      │ (has a parent) │ parent commits,     │ failed, late       │ failed, late   │ child owns
//!      ▼                │ parent dies         ▼                    ▼                ▼
//!   Candidate ──────────┘                  Aborting             Reclaiming       Draining ──► Gone
//!      │                ▲                     │ child is dead      │ child is dead
//!      │ rolled back    │ parent dies         ▼                    ▼
//!      └──► RolledBack ─┘                  Serving              Serving
//! ```
//!
//! (Nonsense in Probation leads to Aborting too; a rollback there, or a child that gives up by itself, leads
//! straight to Serving.)
//!
//! An owner that is asked to stop begins to drain at once. If it is to wait before that, so that load balancers take
//! it out first, it is a lame duck meanwhile:
//!
//! ```text
//!   Serving, Upgrading, Aborting, Probation ──stop──► LameDuck ──over, or a second stop──► Draining ──► Gone
//! ```
//!
//! The **owner** is the process that upgrades, rolls back and stops: it answers on the control socket,
//! its pid stands in the PID file, and the service manager calls it the main process. There is at most
//! one at a time; between the parent's `Commit` and the child's `Owner` there may be none for as long as
//! that message travels.

use serde::{Deserialize, Serialize};

/// What one process is doing, as far as upgrades are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Settings are read and sockets adopted; nothing is accepted yet.
    Starting,
    /// Ready and accepting; the parent still holds every socket and may take the traffic back.
    Candidate,
    /// The owner, accepting.
    Serving,
    /// The owner, accepting; a child is starting.
    Upgrading,
    /// The owner, accepting; a child that failed is being put to an end.
    Aborting,
    /// Accepting again; a child that was told to take over and did not is being put to an end, and when
    /// it is dead this process is the owner again.
    Reclaiming,
    /// The owner, paused, with every socket still open; a child accepts.
    Probation,
    /// Paused; the child was told to take over and has not said yet that it did.
    Committing,
    /// Paused and finishing what was accepted; the parent serves again. Still holds every socket, so
    /// that the parent's death would not leave nobody.
    RolledBack,
    /// The owner, accepting, and not ready any more: it was asked to stop and no other generation takes over, so
    /// load balancers are given time to send their connections elsewhere.
    LameDuck,
    /// No listener any more; what was accepted is being finished.
    Draining,
    /// What is left is cut.
    Cut,
    /// Nothing is left to do: the process ends.
    Gone,
}

impl Phase {
    /// Every phase, in the order of their declaration.
    pub const ALL: [Phase; 13] = [
        Phase::Starting,
        Phase::Candidate,
        Phase::Serving,
        Phase::Upgrading,
        Phase::Aborting,
        Phase::Reclaiming,
        Phase::Probation,
        Phase::Committing,
        Phase::RolledBack,
        Phase::LameDuck,
        Phase::Draining,
        Phase::Cut,
        Phase::Gone,
    ];

    /// Whether new connections are accepted.
    pub fn accepts(self) -> bool {
        self.is_ready() || self == Phase::LameDuck
    }

    /// Whether new connections are wanted: this is what load balancers are told.
    pub fn is_ready(self) -> bool {
        matches!(
            self,
            Phase::Candidate | Phase::Serving | Phase::Upgrading | Phase::Aborting | Phase::Reclaiming
        )
    }

    /// Whether this process is the owner.
    pub fn owns(self) -> bool {
        matches!(
            self,
            Phase::Serving | Phase::Upgrading | Phase::Aborting | Phase::Probation | Phase::LameDuck
        )
    }

    /// Whether connections are asked to finish.
    pub fn drains(self) -> bool {
        matches!(self, Phase::RolledBack | Phase::Draining)
    }

    /// Whether the listening sockets are still open in this process.
    pub fn holds_listeners(self) -> bool {
        !matches!(self, Phase::Draining | Phase::Cut | Phase::Gone)
    }

    /// The word for it in logs, in the status and in messages between generations.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Starting => "starting",
            Phase::Candidate => "candidate",
            Phase::Serving => "serving",
            Phase::Upgrading => "upgrading",
            Phase::Aborting => "aborting",
            Phase::Reclaiming => "reclaiming",
            Phase::Probation => "probation",
            Phase::Committing => "committing",
            Phase::RolledBack => "rolled_back",
            Phase::LameDuck => "lame_duck",
            Phase::Draining => "draining",
            Phase::Cut => "cut",
            Phase::Gone => "gone",
        }
    }
}

/// Why an upgrade did not succeed: the step that failed and its cause, told to the one who asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Failure {
    /// What was being done, such as `exec`, `configuration`, `ready` or `probation`.
    pub step: String,
    /// The cause, in words.
    pub message: String,
}

impl Failure {
    /// A failure at `step`, because of `message`.
    pub fn new(step: impl Into<String>, message: impl Into<String>) -> Self {
        Failure { step: step.into(), message: message.into() }
    }
}

/// How a process is asked to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stop {
    /// Accept nothing more, finish what was accepted, within the drain deadline.
    Gracefully,
    /// Cut every connection.
    Now,
}

/// Everything that can happen to a process.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// Everything that can fail at start has succeeded.
    Started {
        /// Whether an upgrade made this process, so that there is a parent to answer to.
        has_parent: bool,
    },
    /// Someone asks for an upgrade.
    UpgradeAsked {
        /// How many generations live, this one included.
        alive: usize,
    },
    /// The child could not be made: fork or exec failed.
    SpawnFailed(Failure),
    /// The child is accepting.
    ChildReady,
    /// The child says that it cannot go on.
    ChildFailed(Failure),
    /// The child sent what is not in the protocol.
    ChildGarbled(Failure),
    /// The child's process is dead.
    ChildDied(Failure),
    /// The child is the owner now.
    ChildOwns,
    /// The child has done as much as is wanted of it in its probation.
    ChildProven,
    /// The timer that [`Action::Arm`] set has run out.
    TimedOut(Timer),
    /// Someone asks for the previous version back.
    RollbackAsked,
    /// Someone asks this process to stop.
    StopAsked(Stop),
    /// The parent hands everything over.
    ParentCommits,
    /// The parent takes the traffic back.
    ParentRollsBack,
    /// Another generation says to stop: the parent, itself asked to stop, or the owner, which cuts all.
    ToldToStop(Stop),
    /// The parent is dead.
    ParentGone,
    /// Every connection has ended and every accept queue that had to be emptied is empty; and if this is the
    /// owner, no other generation is left.
    Drained,
}

/// The one timer of a process; a new one takes the place of the old.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Timer {
    /// How long a child may take until it is ready.
    Ready,
    /// How long a new generation is watched before the old one lets go.
    Probation,
    /// How much longer it is watched at most if it has not done as much as is wanted of it by then.
    Proof,
    /// How long a child may take to become the owner once told.
    Commit,
    /// How long a failed child may take to exit by itself.
    Exit,
    /// How long a killed child may take to be gone before it is given up.
    Kill,
    /// How long load balancers are given before a stop.
    LameDuck,
    /// How long connections may take to finish.
    Drain,
    /// How long the cutting of connections may take.
    Cut,
}

/// Everything that a process may have to do about an event.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Fork and exec the program on disk.
    Spawn,
    /// SIGKILL the child.
    KillChild,
    /// Forget the child: its channel and its pidfd are closed.
    ForgetChild,
    /// Look after the child as one of the generations that drain.
    AdoptChild,
    /// Listen to the child, which is the owner now.
    FollowChild,
    /// Tell the parent that this process accepts.
    SendReady,
    /// Tell the parent that this process cannot go on.
    SendFailed(Failure),
    /// Tell the child to become the owner.
    SendCommit,
    /// Tell the parent that this process is the owner.
    SendOwner,
    /// Tell the child that its traffic is taken back.
    SendRollback,
    /// Tell every generation that drains to stop, too: one that was rolled back would take over when this
    /// process is gone.
    StopOthers(Stop),
    /// Let go of the channels to other generations, which are their owner's to look after: as long as this
    /// process holds them, too, they do not learn that their owner is dead.
    ForgetOthers,
    /// Become the owner: PID file, control socket, service manager.
    TakeOwnership,
    /// Tell the service manager that the child is the main process now.
    PassOwnership,
    /// Set the timer.
    Arm(Timer),
    /// Clear the timer.
    Disarm,
    /// Tell the one who asked for the upgrade that the new generation accepts.
    ReportReady,
    /// Tell the one who asked how it ended.
    Report(Verdict),
    /// Tell the one who asked that this cannot be done now.
    Refuse(String),
    /// Tell the one who asked that it is done.
    Agree,
}

/// How an upgrade ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "result")]
pub enum Verdict {
    /// The new generation is the owner.
    Committed,
    /// The old generation goes on as if nothing had been.
    Failed(Failure),
    /// An operator took the traffic back during probation.
    RolledBack,
}

/// What the machine must know of the settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rules {
    /// Whether the parent waits in probation before it commits.
    pub probation: bool,
    /// Whether the child is to have done some work by then, and is waited for a while if it has not.
    pub proof: bool,
    /// With so many generations alive, an upgrade is refused.
    pub max_generations: usize,
    /// Whether a stop waits before nothing is accepted any more.
    pub lame_duck: bool,
}

/// What is known in a probation of the work that the child is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Proof {
    Missing,
    Given,
    /// It is all that is waited for.
    Awaited,
}

/// The state of one process. The phase says it all but for three things: a process that aborts a child
/// remembers what to report when the child is dead, one that watches a child whether that has done what is
/// wanted of it, and whoever was asked to stop remembers that.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    phase: Phase,
    /// Invariant: `Some` in [`Phase::Aborting`] and [`Phase::Reclaiming`], and nowhere else.
    verdict: Option<Verdict>,
    /// Invariant: [`Proof::Missing`] but in [`Phase::Probation`].
    proof: Proof,
    /// Whether the next request to stop means at once: this process was asked before, or it drains and the
    /// owner, whose stop is everyone's, is dead.
    ///
    /// A service manager that stops a service may send SIGTERM to every process of it. To one that drains
    /// because another took over this is no news, and its requests must not be cut for it.
    next_stop_cuts: bool,
    rules: Rules,
}

impl State {
    /// The state of a process that has just been started.
    pub fn new(rules: Rules) -> Self {
        State { phase: Phase::Starting, verdict: None, proof: Proof::Missing, next_stop_cuts: false, rules }
    }

    /// What the process is doing.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// What happens next. An event that means nothing in this state (it came late) changes nothing.
    pub fn on(&mut self, event: Event) -> Vec<Action> {
        let asked = matches!(event, Event::StopAsked(_));
        let actions = self.react(event, self.rules.lame_duck);
        self.next_stop_cuts |= asked;
        actions
    }

    /// `waits`: whether a stop that is asked for makes a lame duck first.
    fn react(&mut self, event: Event, waits: bool) -> Vec<Action> {
        use Action::*;
        match (self.phase, event) {
            // ── a process that begins ──
            (Phase::Starting, Event::Started { has_parent: false }) => {
                self.go(Phase::Serving, vec![TakeOwnership])
            }
            (Phase::Starting, Event::Started { has_parent: true }) => {
                self.go(Phase::Candidate, vec![SendReady])
            }

            // ── the child's side ──
            (Phase::Candidate, Event::ParentCommits) => {
                self.go(Phase::Serving, vec![TakeOwnership, SendOwner])
            }
            (Phase::Candidate | Phase::RolledBack, Event::ParentGone) => {
                self.go(Phase::Serving, vec![Disarm, TakeOwnership])
            }
            (Phase::Candidate, Event::ParentRollsBack) => self.go(Phase::RolledBack, vec![Arm(Timer::Drain)]),
            (Phase::Candidate, Event::StopAsked(how)) => self.stop(
                how,
                vec![SendFailed(Failure::new("probation", "the new process was asked to stop")), Agree],
            ),

            // ── the parent's side ──
            (Phase::Serving, Event::UpgradeAsked { alive }) => {
                if alive >= self.rules.max_generations {
                    return vec![Refuse(format!(
                        "{alive} generations are alive, which is the most that restart.max_generations allows; \
                         wait until one has drained"
                    ))];
                }
                self.go(Phase::Upgrading, vec![Spawn, Arm(Timer::Ready)])
            }
            (Phase::Upgrading, Event::SpawnFailed(failure)) => {
                self.go(Phase::Serving, vec![Disarm, ForgetChild, Report(Verdict::Failed(failure))])
            }
            (Phase::Upgrading, Event::ChildReady) if self.rules.probation => {
                self.go(Phase::Probation, vec![ReportReady, Arm(Timer::Probation)])
            }
            (Phase::Upgrading, Event::ChildReady) => {
                self.go(Phase::Committing, vec![ReportReady, SendCommit, Arm(Timer::Commit)])
            }
            (Phase::Upgrading, Event::TimedOut(Timer::Ready)) => {
                let late = Failure::new(
                    "ready",
                    "the new process was not ready within restart.ready_timeout; it was killed",
                );
                self.kill(Phase::Aborting, Verdict::Failed(late))
            }
            (Phase::Upgrading, Event::RollbackAsked) => {
                let mut actions = self.kill(Phase::Aborting, Verdict::RolledBack);
                actions.push(Agree);
                actions
            }
            (Phase::Probation, Event::TimedOut(Timer::Probation))
                if self.rules.proof && self.proof == Proof::Missing =>
            {
                self.proof = Proof::Awaited;
                vec![Arm(Timer::Proof)]
            }
            (Phase::Probation, Event::ChildProven) if self.proof == Proof::Missing => {
                self.proof = Proof::Given;
                vec![]
            }
            (Phase::Probation, Event::TimedOut(Timer::Probation)) if self.proof != Proof::Awaited => {
                self.go(Phase::Committing, vec![SendCommit, Arm(Timer::Commit)])
            }
            // Enough, or waited for long enough: what is not asked for cannot be answered.
            (Phase::Probation, Event::ChildProven | Event::TimedOut(Timer::Proof))
                if self.proof == Proof::Awaited =>
            {
                self.go(Phase::Committing, vec![SendCommit, Arm(Timer::Commit)])
            }
            (Phase::Probation, Event::RollbackAsked) => self.go(
                Phase::Serving,
                vec![Disarm, SendRollback, AdoptChild, Report(Verdict::RolledBack), Agree],
            ),
            (Phase::Committing, Event::ChildOwns) => self.go(
                Phase::Draining,
                vec![PassOwnership, FollowChild, Report(Verdict::Committed), Arm(Timer::Drain)],
            ),
            (Phase::Committing, Event::TimedOut(Timer::Commit)) => {
                let late = Failure::new(
                    "commit",
                    "the new process did not take over when it was told to; it was killed",
                );
                self.kill(Phase::Reclaiming, Verdict::Failed(late))
            }

            // It cannot go on, and finishes what it accepted as one that was rolled back does.
            (Phase::Probation, Event::ChildFailed(failure)) => {
                self.go(Phase::Serving, vec![Disarm, AdoptChild, Report(Verdict::Failed(failure))])
            }
            // The child cannot go on: it may exit by itself, so that what it says is heard to the end.
            (Phase::Upgrading, Event::ChildFailed(failure)) => {
                self.abort(Phase::Aborting, Verdict::Failed(failure), vec![Arm(Timer::Exit)])
            }
            (Phase::Committing, Event::ChildFailed(failure)) => {
                self.abort(Phase::Reclaiming, Verdict::Failed(failure), vec![Arm(Timer::Exit)])
            }
            (Phase::Upgrading | Phase::Probation, Event::ChildGarbled(failure)) => {
                self.kill(Phase::Aborting, Verdict::Failed(failure))
            }
            (Phase::Committing, Event::ChildGarbled(failure)) => {
                self.kill(Phase::Reclaiming, Verdict::Failed(failure))
            }
            (Phase::Upgrading | Phase::Probation, Event::ChildDied(failure)) => {
                self.go(Phase::Serving, vec![Disarm, ForgetChild, Report(Verdict::Failed(failure))])
            }
            (Phase::Committing, Event::ChildDied(failure)) => self.go(
                Phase::Serving,
                vec![Disarm, ForgetChild, TakeOwnership, Report(Verdict::Failed(failure))],
            ),
            (Phase::Aborting | Phase::Reclaiming, Event::TimedOut(Timer::Exit)) => {
                vec![KillChild, Arm(Timer::Kill)]
            }
            (
                phase @ (Phase::Aborting | Phase::Reclaiming),
                Event::ChildDied(_) | Event::TimedOut(Timer::Kill),
            ) => {
                let verdict = self.verdict.take();
                let mut actions = vec![Disarm, ForgetChild];
                actions.extend((phase == Phase::Reclaiming).then_some(TakeOwnership));
                actions.extend(verdict.map(Report));
                self.go(Phase::Serving, actions)
            }

            // ── a stop ──
            (Phase::Starting, Event::StopAsked(_)) => self.go(Phase::Gone, vec![Agree]),
            (Phase::Serving, Event::StopAsked(Stop::Gracefully)) if waits => self.wait(vec![Agree]),
            (Phase::Upgrading | Phase::Aborting, Event::StopAsked(Stop::Gracefully)) if waits => {
                let verdict = self.verdict.take().unwrap_or_else(stopped_meanwhile);
                self.wait(vec![KillChild, ForgetChild, Report(verdict), Agree])
            }
            // The child is told to stop, and this process accepts again for as long as it waits.
            (Phase::Probation, Event::StopAsked(Stop::Gracefully)) if waits => {
                self.wait(vec![AdoptChild, Report(stopped_meanwhile()), Agree])
            }
            (Phase::LameDuck, Event::TimedOut(Timer::LameDuck)) => self.stop(Stop::Gracefully, vec![]),
            (Phase::Serving | Phase::RolledBack | Phase::LameDuck, Event::StopAsked(how)) => {
                self.stop(how, vec![Agree])
            }
            (Phase::Upgrading | Phase::Aborting | Phase::Reclaiming, Event::StopAsked(how)) => {
                let verdict = self.verdict.take().unwrap_or_else(stopped_meanwhile);
                self.stop(how, vec![KillChild, ForgetChild, Report(verdict), Agree])
            }
            (Phase::Probation | Phase::Committing, Event::StopAsked(how)) => {
                self.stop(how, vec![AdoptChild, Report(stopped_meanwhile()), Agree])
            }
            (Phase::Draining, Event::StopAsked(how)) if how == Stop::Now || self.next_stop_cuts => {
                self.stop(Stop::Now, vec![Agree])
            }
            (Phase::Draining, Event::ParentGone) => {
                self.next_stop_cuts = true;
                vec![]
            }
            (Phase::Draining, Event::ToldToStop(Stop::Now)) => self.stop(Stop::Now, vec![]),
            (phase, Event::ToldToStop(how)) if phase.holds_listeners() => {
                let mut actions = self.react(Event::StopAsked(how), false);
                actions.retain(|action| *action != Agree);
                actions
            }

            // ── the end ──
            (Phase::RolledBack | Phase::Draining | Phase::Cut, Event::Drained) => {
                self.go(Phase::Gone, vec![Disarm])
            }
            (Phase::RolledBack, Event::TimedOut(Timer::Drain)) => {
                self.go(Phase::Cut, vec![ForgetOthers, Arm(Timer::Cut)])
            }
            // The time of a stop is everyone's; where another took over, there are no others.
            (Phase::Draining, Event::TimedOut(Timer::Drain)) => {
                self.go(Phase::Cut, vec![StopOthers(Stop::Now), Arm(Timer::Cut)])
            }
            (Phase::Cut, Event::TimedOut(Timer::Cut)) => self.go(Phase::Gone, vec![]),

            // ── what cannot be done now, said so ──
            (phase, Event::UpgradeAsked { .. }) => vec![Refuse(why_no_upgrade(phase).into())],
            (phase, Event::RollbackAsked) => vec![Refuse(why_no_rollback(phase).into())],
            (_, Event::StopAsked(_)) => vec![Agree],

            // ── what came too late to matter ──
            _ => vec![],
        }
    }

    fn go(&mut self, phase: Phase, actions: Vec<Action>) -> Vec<Action> {
        self.phase = phase;
        self.proof = Proof::Missing;
        let ends_a_child = matches!(phase, Phase::Aborting | Phase::Reclaiming);
        debug_assert_eq!(self.verdict.is_some(), ends_a_child, "a verdict to be told in {phase:?}");
        actions
    }

    /// Others are told of the stop now: if this process died while it waits, one of them would undo it.
    fn wait(&mut self, mut actions: Vec<Action>) -> Vec<Action> {
        actions.extend([Action::StopOthers(Stop::Gracefully), Action::Arm(Timer::LameDuck)]);
        self.go(Phase::LameDuck, actions)
    }

    fn stop(&mut self, how: Stop, mut actions: Vec<Action>) -> Vec<Action> {
        actions.push(match self.phase {
            Phase::Candidate | Phase::RolledBack => Action::ForgetOthers,
            _ => Action::StopOthers(how),
        });
        match how {
            Stop::Gracefully => {
                // One that was rolled back drains already, and its time is not prolonged.
                actions.extend((self.phase != Phase::RolledBack).then_some(Action::Arm(Timer::Drain)));
                self.go(Phase::Draining, actions)
            }
            Stop::Now => {
                actions.push(Action::Arm(Timer::Cut));
                self.go(Phase::Cut, actions)
            }
        }
    }

    /// Puts the child to an end; `phase` says who is the owner meanwhile.
    fn abort(&mut self, phase: Phase, verdict: Verdict, actions: Vec<Action>) -> Vec<Action> {
        self.verdict = Some(verdict);
        self.go(phase, actions)
    }

    fn kill(&mut self, phase: Phase, verdict: Verdict) -> Vec<Action> {
        self.abort(phase, verdict, vec![Action::KillChild, Action::Arm(Timer::Kill)])
    }
}

fn stopped_meanwhile() -> Verdict {
    Verdict::Failed(Failure::new("stop", "the old process was asked to stop while it upgraded"))
}

fn why_no_upgrade(phase: Phase) -> &'static str {
    match phase {
        Phase::Upgrading | Phase::Aborting | Phase::Reclaiming => {
            "an upgrade is under way; ask again when it has ended"
        }
        Phase::Probation | Phase::Committing => {
            "the last upgrade is still in its probation; wait for its end or roll it back"
        }
        Phase::Candidate => {
            "this process is new and its predecessor has not let go yet; wait for the end of the probation"
        }
        Phase::RolledBack => "this process was rolled back; `exuvia status` names the one that serves",
        Phase::LameDuck => "this process is about to stop",
        Phase::Draining | Phase::Cut | Phase::Gone => {
            "this process is draining: it stops, or another one serves already"
        }
        Phase::Starting | Phase::Serving => "this process is starting",
    }
}

fn why_no_rollback(phase: Phase) -> &'static str {
    match phase {
        Phase::Committing => "the upgrade is committed; upgrade to the previous version instead",
        Phase::Draining | Phase::Cut | Phase::Gone => {
            "this process is draining: it stops, or an upgrade is committed, and then upgrade to the previous version"
        }
        Phase::Candidate => {
            "this process is the new one; ask its predecessor, which holds the control socket"
        }
        _ => "there is nothing to roll back: no upgrade is in its probation",
    }
}
