//! Every order of events of an upgrade, searched to the end.
//!
//! Several of the real state machines ([`State`], not a copy of it) run against each other: the first
//! generation, the child it makes, the child that one makes, and the next attempt after one that failed,
//! was rolled back or was committed. From the moment when the first generation serves the search takes
//! every step that may come next, in every order, and looks at each world that it comes to.
//!
//! # What is modelled
//!
//! * **Any process is killed at any step.** Death is at once; that others see it is a step of its own, and
//!   may come as late as it likes.
//! * **Messages are late.** Each direction of a channel is a queue in order, read at any time. A message
//!   from a process that is dead is read before the end-of-file. End-of-file comes when *no* process has
//!   the other end: the channels to the generations that drain are copied into each new process.
//! * **Timers** run out at any time while they are armed.
//! * **Operators** ask any process to upgrade, roll back and stop, at any time.
//! * **A candidate of which work is wanted** may have done it at any time, or never.
//! * **A child that starts** may become ready, say why not and exit, die, hang, say nonsense, or not be
//!   executable; and the fork itself may fail.
//! * **The driver's bookkeeping** (`world.rs`), as far as it decides which event comes of what: whom it
//!   listens to as child, superior or other, what each action does to that, and who closes which end.
//!
//! [`BUDGETS`] says how often operators and crashes strike.
//!
//! # What is not
//!
//! * Connections, sockets and workers: here a phase accepts or it does not.
//! * Files, the service manager, status requests.
//! * That an owner that stops waits for the others: here it may end before them.
//! * **A word that is as late as the start of a whole process takes.** While the `Owner` of a new owner is
//!   not read by its parent, which then waits for nothing else, a child of the new owner does not get ready;
//!   nor while the new owner has not read that its parent has stopped meanwhile.
//! * **A timer that overtakes a word of the child** that has arrived: the driver looks for one before it
//!   takes a timer for run out.
//! * A process that hangs after it was ready, and one that SIGKILL does not end.
//!
//! # What is checked
//!
//! In each world: there is at most one owner, somebody holds the listening sockets who is alive, and of two
//! that stop neither waits for the other while that waits for it. With
//! each step: an upgrade that was accepted gets exactly one verdict before its process ends, `Committed`
//! if and only if the child owns (or did, and what comes after it does), and nobody hears what the
//! other is not to say. And of the whole graph, where only steps count that come without anyone's doing
//! (no operator, no crash, no child that hangs): on *every* way on, someone comes to accept; every end is
//! one process that serves and owns, with nothing left of any other, or nobody if a stop was asked for;
//! from everywhere such an end *can* be reached; and so can a world in which an upgrade is tried again.
//!
//! # Who is excused
//!
//! The sockets live as long as a process that holds them. When one that holds them alone is killed, nobody
//! can help. `World::is_excuse` allows exactly this, and only:
//!
//! * The last holder is killed while it is in charge: nobody else is there yet, or there any more (a commit
//!   is the point of no return). A candidate, or one that was rolled back, is never such: its parent must
//!   survive its death. Only after an earlier crash may it have been the last.
//! * The one in charge was killed, and its heir cannot know yet: it fails to start, had just finished its
//!   drain, or is itself asked to stop. Had that come a moment earlier, it would be the case above.
//! * The one in charge was killed while its child hangs at start, and with it the one who would have killed
//!   the child. The child holds the channels to those that were rolled back, so they cannot know either.
//!
//! # Why a search of our own
//!
//! `stateright` checks that something holds always, or sometime on each path. That a good end *can* be
//! reached from everywhere (AG EF) is neither, and needs the graph, backwards. With that it is less code to
//! search than to fit the model to a checker, and a counterexample reads as we like: the steps, one a line,
//! and the phases that each led to.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "model/process.rs"]
mod process;
#[path = "model/search.rs"]
mod search;
#[path = "model/step.rs"]
mod step;
#[path = "model/truth.rs"]
mod truth;
#[path = "model/world.rs"]
mod world;

use std::time::Instant;

use exuvia::restart::state::{Action, Event, Failure, Phase, Rules, State, Timer};
use search::{Graph, Violation};
use step::Budget;
use world::{Machine, World};

/// Each alone stays within seconds. All at once (three upgrades, two of everything else) is 3.4 million
/// worlds with a probation: minutes, and the same result.
const BUDGETS: [Budget; 3] = [
    Budget { upgrades: 2, rollbacks: 2, stops: 1, crashes: 2 },
    Budget { upgrades: 2, rollbacks: 1, stops: 2, crashes: 2 },
    Budget { upgrades: 3, rollbacks: 1, stops: 0, crashes: 1 },
];

const KEPT: &str = "the protocol is kept";
const ONE_OWNER: &str = "there is at most one owner";
const HELD: &str = "someone who lives holds the listening sockets";
const NO_CIRCLE: &str = "no two that stop wait for each other";
const ACCEPTED: &str = "someone comes to accept";
const GOOD_END: &str = "every end is one that serves, or nobody if that was asked for";
const WAY_OUT: &str = "from everywhere there is a way to a good end";
const AGAIN: &str = "an upgrade can be tried again";

fn check(machine: Machine, rules: Rules, budget: Budget) -> Result<usize, Violation> {
    let graph = Graph::explore(machine, rules, budget, always)?;
    graph.inevitably(ACCEPTED, |world| world.someone_accepts() || world.stopped || world.excused)?;
    graph.finally(GOOD_END, World::is_good_end)?;
    graph.possibly(WAY_OUT, World::is_good_end)?;
    graph.possibly(AGAIN, |world| world.would_upgrade() || world.stopped || world.excused)?;
    Ok(graph.len())
}

fn always(world: &World) -> Result<(), &'static str> {
    if world.owners() > 1 {
        return Err(ONE_OWNER);
    }
    if !(world.someone_holds() || world.stopped || world.excused) {
        return Err(HELD);
    }
    if world.two_wait_for_each_other() {
        return Err(NO_CIRCLE);
    }
    Ok(())
}

const WITH_PROBATION: Rules = Rules { probation: true, proof: false, max_generations: 8, lame_duck: false };
const WITH_PROOF: Rules = Rules { proof: true, ..WITH_PROBATION };
const WITHOUT_PROBATION: Rules = Rules { probation: false, ..WITH_PROBATION };

fn holds(rules: Rules, budgets: &[Budget]) {
    for budget in budgets {
        let begun = Instant::now();
        match check(State::on, rules, *budget) {
            Ok(worlds) => println!("{worlds} worlds in {:?}: {budget:?}", begun.elapsed()),
            Err(violation) => panic!("{violation}"),
        }
    }
}

#[test]
fn every_order_of_events_with_a_probation() {
    holds(WITH_PROBATION, &BUDGETS);
}

#[test]
fn every_order_of_events_with_a_probation_in_which_work_is_wanted() {
    holds(WITH_PROOF, &[BUDGETS[0], BUDGETS[2]]);
}

#[test]
fn every_order_of_events_without_a_probation() {
    holds(WITHOUT_PROBATION, &BUDGETS);
}

/// Where nobody stops there are no lame ducks.
#[test]
fn every_order_of_events_with_lame_ducks() {
    for rules in [WITH_PROBATION, WITHOUT_PROBATION] {
        holds(Rules { lame_duck: true, ..rules }, &BUDGETS[..2]);
    }
}

// ── the check can fail ──
//
// Machines that are broken on purpose, each in one place, and the property that tells.

#[track_caller]
fn is_caught(machine: Machine, property: &str) {
    let found = BUDGETS.iter().find_map(|budget| check(machine, WITH_PROBATION, *budget).err());
    let violation = found.expect("the broken machine passes");
    assert_eq!(violation.property, property, "{violation}");
}

fn died() -> Event {
    Event::ChildDied(Failure::new("", ""))
}

#[test]
fn a_candidate_that_does_not_become_the_owner_when_its_parent_dies_is_caught() {
    let broken = |state: &mut State, event| match (state.phase(), &event) {
        (Phase::Candidate, Event::ParentGone) => vec![],
        _ => state.on(event),
    };
    is_caught(broken, HELD);
}

#[test]
fn ownership_that_is_not_taken_is_caught() {
    let broken = |state: &mut State, event| {
        let candidate = state.phase() == Phase::Candidate;
        let mut actions = state.on(event);
        actions.retain(|action| !(candidate && *action == Action::TakeOwnership));
        actions
    };
    is_caught(broken, GOOD_END);
}

#[test]
fn one_that_was_rolled_back_and_lets_go_when_its_parent_dies_is_caught() {
    let broken = |state: &mut State, event| match (state.phase(), &event) {
        (Phase::RolledBack, Event::ParentGone) => vec![],
        _ => state.on(event),
    };
    is_caught(broken, HELD);
}

#[test]
fn a_parent_that_does_not_take_the_traffic_back_is_caught() {
    let broken = |state: &mut State, event| match (state.phase(), &event) {
        (Phase::Probation | Phase::Committing, Event::ChildDied(_)) => vec![],
        _ => state.on(event),
    };
    is_caught(broken, ACCEPTED);
}

#[test]
fn a_parent_that_lets_go_before_the_child_owns_is_caught() {
    let broken = |state: &mut State, event| {
        let mut actions = state.on(event);
        if actions.contains(&Action::SendCommit) {
            actions.extend(state.on(Event::ChildOwns));
        }
        actions
    };
    // Its verdict tells first: it says Committed, and the child owns nothing yet.
    is_caught(broken, KEPT);
}

#[test]
fn a_parent_that_is_the_owner_again_before_the_child_is_dead_is_caught() {
    let broken = |state: &mut State, event| {
        let late = event == Event::TimedOut(Timer::Commit);
        let mut actions = state.on(event);
        if late && state.phase() == Phase::Reclaiming {
            actions.retain(|action| *action != Action::KillChild);
            actions.extend(state.on(died()));
        }
        actions
    };
    is_caught(broken, ONE_OWNER);
}

#[test]
fn a_child_that_hangs_and_is_not_killed_is_caught() {
    let broken = |state: &mut State, event| match event {
        Event::TimedOut(Timer::Ready) => vec![],
        _ => state.on(event),
    };
    is_caught(broken, GOOD_END);
}

#[test]
fn a_verdict_that_is_not_told_is_caught() {
    let broken = |state: &mut State, event| {
        let rolled_back = event == Event::RollbackAsked;
        let mut actions = state.on(event);
        actions.retain(|action| !(rolled_back && matches!(action, Action::Report(_))));
        actions
    };
    is_caught(broken, KEPT);
}

/// The stop was undone: the one that was rolled back took over when the one that stopped was gone.
#[test]
fn a_stop_that_does_not_reach_every_generation_is_caught() {
    let broken = |state: &mut State, event| {
        let mut actions = state.on(event);
        actions.retain(|action| !matches!(action, Action::StopOthers(_)));
        actions
    };
    is_caught(broken, GOOD_END);
}

/// The one that was rolled back ended its drain beside a dead parent, whose channel a third still held.
#[test]
fn one_that_drains_and_hides_a_death_is_caught() {
    let broken = |state: &mut State, event| {
        let mut actions = state.on(event);
        actions.retain(|action| *action != Action::ForgetOthers);
        actions
    };
    is_caught(broken, HELD);
}

/// The one that waited was killed, and what it had rolled back took over: the stop was undone.
#[test]
fn a_lame_duck_that_has_told_nobody_is_caught() {
    let broken = |state: &mut State, event| {
        let mut actions = state.on(event);
        if state.phase() == Phase::LameDuck {
            actions.retain(|action| !matches!(action, Action::StopOthers(_)));
        }
        actions
    };
    let rules = Rules { lame_duck: true, ..WITH_PROBATION };
    let found = BUDGETS.iter().find_map(|budget| check(broken, rules, *budget).err());
    assert_eq!(found.expect("the broken machine passes").property, GOOD_END);
}

/// Where no request comes, the work that is wanted is never done.
#[test]
fn a_probation_that_waits_for_ever_is_caught() {
    let broken = |state: &mut State, event| match event {
        Event::TimedOut(Timer::Proof) => vec![],
        _ => state.on(event),
    };
    let found = BUDGETS.iter().find_map(|budget| check(broken, WITH_PROOF, *budget).err());
    assert_eq!(found.expect("the broken machine passes").property, GOOD_END);
}
