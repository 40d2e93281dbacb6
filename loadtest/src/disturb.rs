//! What is done to the proxy while there is load: upgrades, and among them bad ones, kills and changes.
//!
//! One loop owns it all. It asks for an upgrade, hears how that goes on, kills where the plan says so, says in
//! [`Now`] which phase it is, and watches the old processes until they are gone. What it did becomes [`Deed`]s.
//!
//! An upgrade may begin while the processes before it still drain; the phase is then the newest upgrade's.

mod subject;
mod under_way;

use std::time::Duration;

use nix::unistd::Pid;
use tokio::sync::mpsc::unbounded_channel;
use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until};

use crate::now::{Moment, Now};
use crate::results::{Band, Deed, DeedKind};
use crate::scenario::{Disturb, Scenario, Turn, Victim};
use crate::stage::processes;
use crate::traffic::Order;
use crate::ways::{Outcome, Verdict};
use crate::witness::Phase;
pub use subject::Subject;
use subject::{Changes, Heard, extra_is_as_configured, plant, recovered};
use under_way::UnderWay;

/// How often it is looked whether old processes are gone.
const LOOK: Duration = Duration::from_millis(20);

/// How long a process takes to start, before one has: not longer than any does.
const FIRST: Duration = Duration::from_millis(10);

/// Does what the scenario says until the orders are to end; then finishes what is under way, or drops it at the order
/// to stop at once: if somebody wants the end (`interrupted` is above 0), what was cut off is nobody's fault. Gives what
/// was done, in order.
pub async fn disturb(
    scenario: &Scenario,
    mut subject: Subject<'_>,
    now: Now,
    mut orders: watch::Receiver<Order>,
    interrupted: watch::Receiver<u32>,
) -> Vec<Deed> {
    let plan = &scenario.disturb;
    let mut disturber = Disturber::new(scenario, now, interrupted);
    let mut due = disturber.now.begun() + plan.first;
    let end = disturber.now.begun() + scenario.duration;
    let most = plan.due(scenario.duration);
    let mut number = 0;
    // One that begins when the load ends would be seen by nobody.
    while number < most && due < end && disturber.watch_until(Some(due), &mut orders).await {
        number += 1;
        disturber.upgrade(number, &mut subject, &mut orders).await;
        // What is late is not made up for.
        due = (due + plan.every).max(Instant::now());
    }
    // What drains is watched as long as there is load.
    disturber.watch_until(None, &mut orders).await;
    disturber.finish()
}

struct Disturber<'a> {
    plan: &'a Disturb,
    now: Now,
    moment: Moment,
    deeds: Vec<Deed>,
    draining: Vec<Draining>,
    random: fastrand::Rng,
    /// Since when the process that serves has accepted.
    accepts_since: Instant,
    /// How long the last new process took to start.
    starting: Duration,
    bad: usize,
    changes: Changes,
    /// Above 0 if somebody wants the end.
    interrupted: watch::Receiver<u32>,
}

/// Processes that finish what they have.
struct Draining {
    deed: usize,
    since: Instant,
    left: Left,
}

enum Left {
    Processes(Vec<Pid>),
    /// Nothing tells; it counts as draining until then.
    Until(Instant),
}

impl<'a> Disturber<'a> {
    fn new(scenario: &'a Scenario, now: Now, interrupted: watch::Receiver<u32>) -> Disturber<'a> {
        Disturber {
            plan: &scenario.disturb,
            moment: now.moment(),
            accepts_since: now.begun(),
            now,
            deeds: Vec::new(),
            draining: Vec::new(),
            // Apart from what the users draw from the same seed.
            random: fastrand::Rng::with_seed(scenario.seed ^ 0x6469_7374_7572_6221),
            starting: FIRST,
            bad: 0,
            changes: Changes::default(),
            interrupted,
        }
    }

    /// Watches what drains until then, or as long as there is load. Whether there is.
    async fn watch_until(&mut self, until: Option<Instant>, orders: &mut watch::Receiver<Order>) -> bool {
        let mut looks = looks();
        loop {
            tokio::select! {
                biased;
                // Whoever gave the orders is gone: that is an end as well.
                _ = orders.wait_for(|order| *order != Order::Go) => return false,
                () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => return true,
                _ = looks.tick() => self.look(),
            }
        }
    }

    /// Closes the bands of those that are gone, and notes who is dead.
    fn look(&mut self) {
        self.now.bury();
        let at = Instant::now();
        let (now, deeds) = (&self.now, &mut self.deeds);
        self.draining.retain_mut(|one| {
            let gone = match &mut one.left {
                Left::Until(until) => at >= *until,
                Left::Processes(pids) => {
                    pids.retain(|pid| processes::is_alive(*pid));
                    pids.is_empty()
                }
            };
            if gone {
                deeds[one.deed].phases.push(band(now, Phase::Draining, one.since, at));
            }
            !gone
        });
        if self.moment.phase == Phase::Draining && self.draining.is_empty() {
            self.enter(Phase::Steady);
        }
    }

    fn enter(&mut self, phase: Phase) {
        self.moment.phase = phase;
        self.now.set(self.moment);
    }

    /// One upgrade, of the sort that is its number's turn.
    async fn upgrade(&mut self, number: u32, subject: &mut Subject<'_>, orders: &mut watch::Receiver<Order>) {
        let (kind, prepared) = self.prepare(number, subject);
        let at = Instant::now();
        let deed = Deed {
            deed: kind,
            detail: String::new(),
            as_expected: false,
            told: true,
            at: self.now.seconds(at),
            phases: Vec::new(),
        };
        let words = match prepared {
            Ok(words) => words,
            Err(error) => return self.deeds.push(Deed { detail: error, ..deed }),
        };
        let mut under_way = UnderWay::new(deed, at, subject.mortals(), self.accepts_since);
        under_way.plan_kill(&mut self.random, self.starting);
        self.moment.upgrade = number;
        self.enter(Phase::Starting);

        let (tell, mut heard) = unbounded_channel();
        let ended = {
            let mut upgrade = std::pin::pin!(subject.upgrade(&self.plan.by, self.plan.settle, tell));
            let mut looks = looks();
            loop {
                tokio::select! {
                    biased;
                    Some((at, what)) = heard.recv() => self.hear(&mut under_way, at, what),
                    _ = orders.wait_for(|order| *order == Order::Cut) => break None,
                    ended = &mut upgrade => break Some(ended),
                    () = sleep_until(under_way.kill_at().unwrap_or_else(Instant::now)),
                        if under_way.kill_at().is_some() => under_way.kill(&self.now),
                    _ = looks.tick() => self.look(),
                }
            }
        };
        // What was told together with the end.
        while let Ok((at, what)) = heard.try_recv() {
            self.hear(&mut under_way, at, what);
        }
        let Some((outcome, old)) = ended else {
            let deed = under_way.end(&self.now, Instant::now());
            let as_expected = *self.interrupted.borrow() > 0;
            let detail = "cut off in the middle: it was not over in time".into();
            return self.deeds.push(Deed { detail, as_expected, ..deed });
        };
        self.conclude(under_way, outcome, old, words, subject, orders).await;
    }

    fn hear(&mut self, under_way: &mut UnderWay, at: Instant, heard: Heard) {
        if let Some(phase) = under_way.hear(at, heard, &self.now) {
            self.moment.ready += u32::from(phase == Phase::Probation);
            self.enter(phase);
        }
    }

    /// What kind of deed it is the turn of, and the first step of it: what is special about it, in words.
    fn prepare(
        &mut self,
        number: u32,
        subject: &mut Subject<'_>,
    ) -> (DeedKind, Result<&'static str, String>) {
        let missing = || Err("there is no exuvia that was started here".to_owned());
        match self.plan.turn(number) {
            Turn::Bad => {
                self.bad += 1;
                let planted = subject.exuvia().map_or_else(missing, |exuvia| plant(exuvia, self.bad - 1));
                (DeedKind::BadUpgrade, planted)
            }
            Turn::Kill => {
                let old = match self.plan.kill {
                    Victim::New => false,
                    Victim::Old => true,
                    Victim::Either => self.random.bool(),
                };
                let kind = if old { DeedKind::KillOld } else { DeedKind::KillNew };
                (kind, subject.exuvia().map_or_else(missing, |_| Ok("")))
            }
            Turn::Change => {
                let changes = &mut self.changes;
                (DeedKind::Change, subject.exuvia().map_or_else(missing, |exuvia| changes.next(exuvia)))
            }
            Turn::Upgrade => (DeedKind::Upgrade, Ok("")),
        }
    }

    /// Judges an upgrade that has ended, and says what follows it.
    async fn conclude(
        &mut self,
        mut under_way: UnderWay,
        outcome: Outcome,
        old: Vec<Pid>,
        words: &str,
        subject: &mut Subject<'_>,
        orders: &mut watch::Receiver<Order>,
    ) {
        let at = Instant::now();
        let good = matches!(outcome.verdict, Verdict::Good | Verdict::Unknown);
        under_way.deed.told = outcome.verdict != Verdict::Unknown;
        let mut details = vec![words.to_owned(), outcome.detail];
        if good {
            under_way.committed(at, &self.now);
            self.enter(Phase::Draining);
        }
        let mut as_expected = judge(under_way.deed.deed, outcome.verdict, subject, &mut details).await;
        if good {
            self.kill_in_the_drain(&mut under_way, &old).await;
        }
        if matches!(under_way.deed.deed, DeedKind::KillNew | DeedKind::KillOld) {
            as_expected = match under_way.killed() {
                Some((pid, phase)) => {
                    details.push(format!("{pid} was killed while {}", phase.label()));
                    self.survived(pid, subject, orders, &mut details).await
                }
                // It was faster. That is no fault, and no kill.
                None => {
                    details.push("it was over before the kill".into());
                    under_way.deed.deed = DeedKind::Upgrade;
                    good
                }
            };
        }
        let taken = good || under_way.old_was_killed();
        self.turn(&under_way, taken, at);
        let mut deed = under_way.end(&self.now, at);
        details.retain(|detail| !detail.is_empty());
        (deed.detail, deed.as_expected) = (details.join("; "), as_expected);
        self.deeds.push(deed);
        if taken {
            let known = !old.is_empty();
            let left = if known { Left::Processes(old) } else { Left::Until(at + self.plan.settle) };
            self.draining.push(Draining { deed: self.deeds.len() - 1, since: at, left });
        }
        self.enter(Phase::Draining);
        self.look();
    }

    /// Whether somebody serves in the place of a process that was killed.
    async fn survived(
        &mut self,
        killed: Pid,
        subject: &mut Subject<'_>,
        orders: &mut watch::Receiver<Order>,
        details: &mut Vec<String>,
    ) -> bool {
        let Some(socket) = subject.exuvia().map(|exuvia| exuvia.socket()) else { return false };
        let mut recovering = std::pin::pin!(recovered(&socket, killed));
        let mut looks = looks();
        let survived = loop {
            tokio::select! {
                recovered = &mut recovering => break recovered,
                // Not known, then, and nobody's fault if somebody wants the end.
                _ = orders.wait_for(|order| *order == Order::Cut) => break *self.interrupted.borrow() > 0,
                _ = looks.tick() => self.look(),
            }
        };
        if !survived {
            details.push("nobody serves in its place".into());
        }
        survived
    }

    /// Notes who accepts from now on: the new process if it has `taken` over, or the old one again.
    fn turn(&mut self, under_way: &UnderWay, taken: bool, at: Instant) {
        match under_way.ready() {
            Some(ready) if taken => {
                (self.accepts_since, self.starting) = (ready, under_way.starting());
            }
            None if taken => {
                self.accepts_since = at;
                self.moment.ready += 1;
            }
            // What is connected from now on is the old one's.
            Some(_) => self.moment.ready -= 1,
            None => {}
        }
    }

    /// Kills an old process that has not much time left.
    async fn kill_in_the_drain(&mut self, under_way: &mut UnderWay, old: &[Pid]) {
        while let Some(at) = under_way.kill_at().filter(|_| old.iter().any(|pid| processes::is_alive(*pid))) {
            sleep_until(at.min(Instant::now() + LOOK)).await;
            if Instant::now() >= at {
                under_way.kill(&self.now);
            }
        }
    }

    /// The end of the load is the end of every band.
    fn finish(mut self) -> Vec<Deed> {
        let at = Instant::now();
        for one in self.draining.drain(..) {
            self.deeds[one.deed].phases.push(band(&self.now, Phase::Draining, one.since, at));
        }
        self.deeds
    }
}

/// When to look whether old processes are gone.
fn looks() -> Interval {
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    looks
}

/// Whether an upgrade ended as one of its kind should; what is wrong goes to `details`. A kill is judged by what follows.
async fn judge(
    kind: DeedKind,
    verdict: Verdict,
    subject: &mut Subject<'_>,
    details: &mut Vec<String>,
) -> bool {
    let good = matches!(verdict, Verdict::Good | Verdict::Unknown);
    let (as_should, after) = match (kind, subject.exuvia()) {
        (DeedKind::BadUpgrade, Some(exuvia)) => {
            (verdict == Verdict::Failed, exuvia.restore().map_err(|error| error.to_string()))
        }
        (DeedKind::Change, Some(exuvia)) if good => (true, extra_is_as_configured(exuvia).await),
        _ => (good, Ok(())),
    };
    details.extend(after.as_ref().err().cloned());
    as_should && after.is_ok()
}

fn band(now: &Now, phase: Phase, from: Instant, to: Instant) -> Band {
    Band { phase, from: now.seconds(from), to: now.seconds(to) }
}
