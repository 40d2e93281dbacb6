//! One machine alone, given every event in every state that it can come to, in every order.
//!
//! What two machines do to each other is in `model.rs`. Here nobody keeps to the protocol: whatever can be
//! said is said at any time, and the machine must bear it.

use std::collections::HashSet;

use exuvia::restart::state::{Action, Event, Failure, Phase, Rules, State, Stop, Timer};

const TIMERS: [Timer; 9] = [
    Timer::Ready,
    Timer::Probation,
    Timer::Proof,
    Timer::Commit,
    Timer::Exit,
    Timer::Kill,
    Timer::LameDuck,
    Timer::Drain,
    Timer::Cut,
];

/// A state, and what its driver would have armed.
type Place = (State, Option<Timer>);

fn events(timer: Option<Timer>) -> Vec<Event> {
    let failure = || Failure::new("step", "cause");
    let mut events = vec![
        Event::Started { has_parent: false },
        Event::Started { has_parent: true },
        Event::UpgradeAsked { alive: 1 },
        Event::UpgradeAsked { alive: 8 },
        Event::SpawnFailed(failure()),
        Event::ChildReady,
        Event::ChildFailed(failure()),
        Event::ChildGarbled(failure()),
        Event::ChildDied(failure()),
        Event::ChildOwns,
        Event::ChildProven,
        Event::RollbackAsked,
        Event::StopAsked(Stop::Gracefully),
        Event::StopAsked(Stop::Now),
        Event::ParentCommits,
        Event::ParentRollsBack,
        Event::ToldToStop(Stop::Gracefully),
        Event::ToldToStop(Stop::Now),
        Event::ParentGone,
        Event::Drained,
    ];
    events.extend(timer.map(Event::TimedOut));
    events
}

/// Hands every transition there is to `look`: where it began, the event, the actions, where it ended.
fn walk(mut look: impl FnMut(&Place, &Event, &[Action], &Place)) -> usize {
    let rules = [(true, false), (false, false), (true, true), (false, true)];
    let rules = rules.map(|(probation, lame_duck)| {
        let proofs = if probation { &[false, true][..] } else { &[false][..] };
        proofs.iter().map(move |proof| Rules { probation, proof: *proof, max_generations: 8, lame_duck })
    });
    let mut todo: Vec<Place> = rules.into_iter().flatten().map(|rules| (State::new(rules), None)).collect();
    let mut seen: HashSet<Place> = todo.iter().cloned().collect();
    while let Some(place) = todo.pop() {
        for event in events(place.1) {
            let (mut state, mut timer) = place.clone();
            timer.take_if(|_| matches!(event, Event::TimedOut(_)));
            let actions = state.on(event.clone());
            for action in &actions {
                match action {
                    Action::Arm(next) => timer = Some(*next),
                    Action::Disarm => timer = None,
                    _ => {}
                }
            }
            let next = (state, timer);
            look(&place, &event, &actions, &next);
            if seen.insert(next.clone()) {
                todo.push(next);
            }
        }
    }
    seen.len()
}

fn count(actions: &[Action], which: impl Fn(&Action) -> bool) -> usize {
    actions.iter().filter(|action| which(action)).count()
}

#[test]
fn every_phase_is_reached_and_the_end_is_final() {
    let mut reached = HashSet::new();
    let states = walk(|(from, _), event, actions, (to, timer)| {
        reached.insert(to.phase());
        if from.phase() == Phase::Gone {
            let silent = actions.iter().all(|action| matches!(action, Action::Agree | Action::Refuse(_)));
            assert!(to.phase() == Phase::Gone && timer.is_none() && silent, "{event:?} → {actions:?}");
        }
    });
    assert_eq!(reached.len(), 13, "{reached:?}");
    assert!(states < 200, "{states} states: something is remembered that need not be");
}

/// Each phase that waits for something has the timer armed that ends the waiting, and no other has one.
#[test]
fn nothing_is_waited_for_without_end() {
    walk(|(from, _), event, _, (to, timer)| {
        let armed: &[Option<Timer>] = match to.phase() {
            Phase::Starting | Phase::Candidate | Phase::Serving | Phase::Gone => &[None],
            Phase::Upgrading => &[Some(Timer::Ready)],
            Phase::Probation => &[Some(Timer::Probation), Some(Timer::Proof)],
            Phase::Committing => &[Some(Timer::Commit)],
            Phase::Aborting | Phase::Reclaiming => &[Some(Timer::Exit), Some(Timer::Kill)],
            Phase::LameDuck => &[Some(Timer::LameDuck)],
            Phase::RolledBack | Phase::Draining => &[Some(Timer::Drain)],
            Phase::Cut => &[Some(Timer::Cut)],
        };
        assert!(armed.contains(timer), "{:?}, {event:?} → {:?} with {timer:?}", from.phase(), to.phase());
    });
}

#[test]
fn everyone_who_asks_is_answered_once_and_nobody_else_is() {
    walk(|(from, _), event, actions, _| {
        let agreed = count(actions, |action| *action == Action::Agree);
        let refused = count(actions, |action| matches!(action, Action::Refuse(_)));
        let spawned = count(actions, |action| *action == Action::Spawn);
        let answers = match event {
            Event::UpgradeAsked { .. } => [(agreed, 0), (refused + spawned, 1)],
            Event::RollbackAsked => [(agreed + refused, 1), (spawned, 0)],
            Event::StopAsked(_) => [(agreed, 1), (refused + spawned, 0)],
            _ => [(agreed, 0), (refused + spawned, 0)],
        };
        let right = answers.iter().all(|(found, wanted)| found == wanted);
        assert!(right, "{:?}, {event:?} → {actions:?}", from.phase());
    });
}

/// What is not this machine's to hear, or comes too late, does nothing at all.
#[test]
fn a_timer_that_is_not_armed_means_nothing() {
    walk(|_, _, _, (state, armed)| {
        let quits = |timer: &Timer| match (state.phase(), timer) {
            // The phase stands for its timer, whichever of the two it is.
            (Phase::Aborting | Phase::Reclaiming, Timer::Exit | Timer::Kill) => true,
            _ => Some(*timer) == *armed,
        };
        for timer in TIMERS.into_iter().filter(|timer| !quits(timer)) {
            let mut late = state.clone();
            assert_eq!(late.on(Event::TimedOut(timer)), [], "{:?}, {timer:?}", state.phase());
            assert_eq!(late, *state);
        }
    });
}

/// A child is let go in one way only, and one that may live is never just forgotten.
#[test]
fn a_child_is_dead_before_it_is_forgotten() {
    walk(|(from, _), event, actions, _| {
        let at = |which: &Action| actions.iter().position(|action| action == which);
        let Some(forgotten) = at(&Action::ForgetChild) else { return };
        let dead =
            matches!(event, Event::ChildDied(_) | Event::SpawnFailed(_) | Event::TimedOut(Timer::Kill));
        let killed = at(&Action::KillChild).is_some_and(|killed| killed < forgotten);
        assert!(dead || killed, "{:?}, {event:?} → {actions:?}", from.phase());
    });
}

#[test]
fn a_full_house_refuses_with_the_settings_name() {
    let mut state = State::new(Rules { probation: true, proof: false, max_generations: 3, lame_duck: false });
    state.on(Event::Started { has_parent: false });
    let refused = state.on(Event::UpgradeAsked { alive: 3 });
    assert!(
        matches!(&refused[..], [Action::Refuse(why)] if why.contains("3 generations") && why.contains("restart.max_generations"))
    );
    assert_eq!(state.on(Event::UpgradeAsked { alive: 2 })[0], Action::Spawn);
}

/// The machine in the probation of a child that is to do some work.
fn watching() -> State {
    let mut state = State::new(Rules { probation: true, proof: true, max_generations: 8, lame_duck: false });
    for event in [Event::Started { has_parent: false }, Event::UpgradeAsked { alive: 1 }, Event::ChildReady] {
        state.on(event);
    }
    assert_eq!(state.phase(), Phase::Probation);
    state
}

/// With kept connections all over, a new generation was committed that had not answered one request.
#[test]
fn a_probation_lasts_until_enough_is_done_and_no_longer_than_its_longest() {
    let (time, longest) = (Event::TimedOut(Timer::Probation), Event::TimedOut(Timer::Proof));
    let commits = [Action::SendCommit, Action::Arm(Timer::Commit)];

    let mut early = watching();
    assert_eq!(early.on(Event::ChildProven), [], "the time is not over");
    assert_eq!(early.on(time.clone()), commits);

    let mut late = watching();
    assert_eq!(late.on(time.clone()), [Action::Arm(Timer::Proof)]);
    assert_eq!(late.phase(), Phase::Probation);
    assert_eq!(late.on(Event::ChildProven), commits);

    let mut never = watching();
    never.on(time);
    assert_eq!(never.on(longest), commits);

    let mut died = watching();
    died.on(Event::TimedOut(Timer::Probation));
    died.on(Event::ChildDied(Failure::new("step", "cause")));
    assert_eq!(died.phase(), Phase::Serving);
}

/// An old generation that was in the middle of an answer when its service was stopped got systemd's SIGTERM
/// beside the main process (`KillMode=control-group`), and cut the answer.
#[test]
fn a_stop_is_no_news_to_one_that_drains_beside_its_successor() {
    let superseded = || {
        let mut state =
            State::new(Rules { probation: false, proof: false, max_generations: 8, lame_duck: false });
        for event in [
            Event::Started { has_parent: false },
            Event::UpgradeAsked { alive: 1 },
            Event::ChildReady,
            Event::ChildOwns,
        ] {
            state.on(event);
        }
        assert_eq!(state.phase(), Phase::Draining);
        state
    };
    let stop = Event::StopAsked(Stop::Gracefully);

    let mut state = superseded();
    assert_eq!(state.on(stop.clone()), [Action::Agree]);
    assert_eq!(state.phase(), Phase::Draining);
    state.on(stop.clone());
    assert_eq!(state.phase(), Phase::Cut, "a second one means at once");

    let mut state = superseded();
    state.on(Event::ParentGone);
    state.on(stop);
    assert_eq!(state.phase(), Phase::Cut, "nobody else is left who could say it");

    let mut state = superseded();
    state.on(Event::StopAsked(Stop::Now));
    assert_eq!(state.phase(), Phase::Cut);
}
