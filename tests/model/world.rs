//! The processes of one daemon: every step that may come next, and what comes of it.

use exuvia::restart::state::{Action, Event, Failure, Phase, Rules, State, Stop, Verdict};

use super::process::{Life, Link, Message, Process, Side};
use super::step::{Boot, Budget, Step};

/// The machine under test: [`State::on`], or one that was broken on purpose.
pub(crate) type Machine = fn(&mut State, Event) -> Vec<Action>;

/// Everything there is at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct World {
    pub(crate) processes: Vec<Process>,
    pub(crate) budget: Budget,
    pub(crate) rules: Rules,
    pub(crate) crashed: bool,
    /// Someone asked the service to stop, so nobody needs to accept any more.
    pub(crate) stopped: bool,
    /// What happened leaves nobody to accept whatever any process does: see `World::excuse`.
    pub(crate) excused: bool,
}

impl World {
    /// The first generation, serving.
    pub(crate) fn new(machine: Machine, rules: Rules, budget: Budget) -> Result<World, String> {
        let (crashed, stopped, excused) = (false, false, false);
        let mut world = World { processes: Vec::new(), budget, rules, crashed, stopped, excused };
        world.processes.push(world.process(Life::Running, 0, None, Vec::new()));
        world.on(machine, 0, Event::Started { has_parent: false }, true)?;
        Ok(world)
    }

    fn process(&self, life: Life, maker: usize, superior: Option<Link>, others: Vec<Link>) -> Process {
        Process {
            life,
            maker,
            state: State::new(self.rules),
            timer: None,
            superior,
            predecessor: superior.is_some(),
            child: None,
            others,
            owner: false,
            asked: false,
            proven: false,
            owned: false,
            to_parent: Vec::new(),
            to_child: Vec::new(),
        }
    }

    // ── what may come next ──

    pub(crate) fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for (p, process) in self.processes.iter().enumerate() {
            match process.life {
                // See the header: no word is so late that a process can be started meanwhile.
                Life::Booting if self.is_taking_over(process.maker) => {}
                Life::Booting => {
                    use Boot::{Babbles, Dies, ExecFails, Fails, Hangs, Ready};
                    let ends = [Ready, Fails, Dies, Hangs, Babbles, ExecFails];
                    steps.extend(ends.map(|end| Step::Boot(p, end)));
                }
                Life::Running => self.steps_of(p, &mut steps),
                Life::Hung | Life::Dead => {}
            }
            if process.lives() && self.budget.crashes > 0 {
                steps.push(Step::Crash(p));
            }
        }
        steps
    }

    fn steps_of(&self, p: usize, steps: &mut Vec<Step>) {
        let process = &self.processes[p];
        let mut spoken_to = false;
        if let Some(child) = process.child {
            if !self.processes[child].to_parent.is_empty() {
                spoken_to = true;
                steps.push(Step::HearChild(p));
            } else if !self.processes[child].lives() {
                steps.push(Step::SeeChildDead(p));
            }
        }
        if let Some(link) = process.superior {
            if !self.inbox(link).is_empty() {
                steps.push(Step::HearSuperior(p));
            } else if !self.is_held(link.opposite()) {
                steps.push(Step::SeeSuperiorGone(p));
            }
        }
        for (i, link) in process.others.iter().enumerate().filter(|_| process.owner) {
            if !self.inbox(*link).is_empty() {
                steps.push(Step::HearOther(p, i));
            } else if !self.is_held(link.opposite()) {
                steps.push(Step::SeeOtherGone(p, i));
            }
        }
        // The driver looks for a word before it takes a timer for run out.
        if process.timer.is_some() && !spoken_to {
            steps.push(Step::TimeOut(p));
        }
        let phase = process.state.phase();
        if phase == Phase::Candidate && self.rules.proof && !process.proven {
            steps.push(Step::Prove(p));
        }
        if phase.drains() || phase == Phase::Cut {
            steps.push(Step::Drained(p));
        }
        if self.budget.upgrades > 0 {
            steps.extend([Step::AskUpgrade(p, true), Step::AskUpgrade(p, false)]);
        }
        if self.budget.rollbacks > 0 {
            steps.push(Step::AskRollback(p));
        }
        if self.budget.stops > 0 {
            steps.extend([Step::AskStop(p, Stop::Gracefully), Step::AskStop(p, Stop::Now)]);
        }
    }

    /// Whether the parent of a new owner has not heard of it, or has stopped before it did, which the owner
    /// is still to hear.
    fn is_taking_over(&self, p: usize) -> bool {
        let owner = &self.processes[p];
        let stopped = owner.to_child.iter().any(|word| matches!(word, Message::Stop(_)));
        owner.to_parent.contains(&Message::Owner) || (owner.lives() && stopped)
    }

    // ── what comes of it ──

    /// The world after `step`; `None` if nothing came of it; an error if it may not be.
    pub(crate) fn after(&self, machine: Machine, step: Step) -> Result<Option<World>, String> {
        let mut world = self.clone();
        let (held, p) = (world.processes.iter().any(Process::holds), step.process());
        let junior = world.processes[p].is_junior();
        let orphan = world.is_orphan(p);
        let answer = world.perform_step(machine, step)?;
        world.bury();
        if matches!(step, Step::AskUpgrade(..) | Step::AskRollback(_) | Step::AskStop(..)) {
            // A refusal changes nothing, and none is worth a part of the budget.
            let refused = matches!(answer[..], [Action::Refuse(_) | Action::Agree]);
            if refused && world.processes == self.processes {
                return Ok(None);
            }
            world.spend(step);
        }
        match step {
            Step::AskStop(..) if !junior && self.processes[p].holds() => world.stopped = true,
            Step::Crash(_) => world.spend(step),
            _ => {}
        }
        world.excused |= held && world.is_excuse(step, junior, orphan);
        world.crashed |= matches!(step, Step::Crash(_));
        Ok(Some(world))
    }

    fn spend(&mut self, step: Step) {
        let left = match step {
            Step::AskUpgrade(..) => &mut self.budget.upgrades,
            Step::AskRollback(_) => &mut self.budget.rollbacks,
            Step::AskStop(..) => &mut self.budget.stops,
            _ => &mut self.budget.crashes,
        };
        *left -= 1;
    }

    /// Whether `step` has just left nobody who could accept and no process is to blame. `junior`: whether
    /// the process that did it was not the one in charge; `orphan`: whether the one in charge was gone.
    fn is_excuse(&self, step: Step, junior: bool, orphan: bool) -> bool {
        // A child that hangs while the one who would kill it is dead: as good as a second crash.
        let hung = |p: usize| self.processes[p].life == Life::Hung && self.is_orphan(p);
        if self.crashed && (0..self.processes.len()).any(hung) {
            return true;
        }
        let heir = junior && orphan && self.crashed;
        let last = !self.processes.iter().any(Process::holds);
        match step {
            // The last holder is killed. One crash is survived if it is not the one in charge.
            Step::Crash(_) => last && (!junior || self.crashed),
            // Its superior was killed, and it does not start, or ends before it can know.
            Step::Drained(_) | Step::TimeOut(_) | Step::Boot(..) => last && heir,
            // Its superior was killed, and it is stopped before it can know that it is the one in charge.
            Step::AskStop(..) => heir,
            _ => false,
        }
    }

    /// Whether whoever has the say over this process is dead.
    fn is_orphan(&self, p: usize) -> bool {
        self.processes[p].superior.is_some_and(|link| !self.is_held(link.opposite()))
    }

    fn perform_step(&mut self, machine: Machine, step: Step) -> Result<Vec<Action>, String> {
        let failure = || Failure::new("", "");
        let event = match step {
            Step::Crash(p) => return self.die(p),
            Step::Boot(p, boot) => return self.boot(machine, p, boot),
            Step::Prove(p) => {
                self.processes[p].proven = true;
                self.tell_superior(p, Message::Proven);
                return Ok(vec![]);
            }
            Step::AskUpgrade(p, spawns) => {
                let process = &self.processes[p];
                let alive = 1 + process.others.len() + usize::from(process.child.is_some());
                return self.on(machine, p, Event::UpgradeAsked { alive }, spawns);
            }
            Step::AskRollback(_) => Event::RollbackAsked,
            Step::AskStop(_, how) => Event::StopAsked(how),
            Step::Drained(_) => Event::Drained,
            Step::TimeOut(p) => match self.processes[p].timer.take() {
                Some(timer) => Event::TimedOut(timer),
                None => return Err("a timer ran out that was not armed".into()),
            },
            Step::SeeChildDead(_) => Event::ChildDied(failure()),
            Step::HearChild(p) => {
                let channel = self.processes[p].child.unwrap_or_default();
                match self.take(Link { channel, side: Side::Parent }) {
                    Message::ExecFailed => Event::SpawnFailed(failure()),
                    Message::Ready => Event::ChildReady,
                    Message::Failed => Event::ChildFailed(failure()),
                    // As the driver: an owner whose last word this is does not own any more.
                    Message::Owner if self.is_at_end(Link { channel, side: Side::Parent }) => {
                        return Ok(vec![]);
                    }
                    Message::Owner => Event::ChildOwns,
                    Message::Proven => Event::ChildProven,
                    Message::Garbage => Event::ChildGarbled(failure()),
                    other => return Err(format!("a child says {other:?}, which is not for it to say")),
                }
            }
            Step::SeeSuperiorGone(p) => {
                self.processes[p].superior = None;
                Event::ParentGone
            }
            Step::HearSuperior(p) => {
                let link = self.processes[p].superior.unwrap_or(Link { channel: 0, side: Side::Child });
                match self.take(link) {
                    Message::Commit => Event::ParentCommits,
                    Message::Rollback => Event::ParentRollsBack,
                    Message::Stop(how) => Event::ToldToStop(how),
                    other => return Err(format!("a superior says {other:?}, which is not for it to say")),
                }
            }
            Step::HearOther(p, i) => {
                let link = self.processes[p].others[i];
                let Message::Stop(how) = self.take(link) else { return Ok(vec![]) };
                // As the driver: it yields to its parent.
                if link == (Link { channel: p, side: Side::Child }) {
                    let process = &mut self.processes[p];
                    process.others.remove(i);
                    process.superior = Some(link);
                    process.owner = false;
                    let actions = self.on(machine, p, Event::ToldToStop(how), true)?;
                    self.processes[p].others.clear();
                    return Ok(actions);
                }
                Event::ToldToStop(how)
            }
            Step::SeeOtherGone(p, i) => {
                self.processes[p].others.remove(i);
                return Ok(vec![]);
            }
        };
        self.on(machine, step.process(), event, true)
    }

    fn boot(&mut self, machine: Machine, p: usize, boot: Boot) -> Result<Vec<Action>, String> {
        let mut say = |message| {
            if self.is_held(Link { channel: p, side: Side::Parent }) {
                self.processes[p].to_parent.push(message);
            }
        };
        match boot {
            Boot::Ready => {
                self.processes[p].life = Life::Running;
                return self.on(machine, p, Event::Started { has_parent: true }, true);
            }
            Boot::Fails => say(Message::Failed),
            Boot::ExecFails => say(Message::ExecFailed),
            Boot::Babbles => say(Message::Garbage),
            Boot::Dies | Boot::Hangs => {}
        }
        match boot {
            Boot::Hangs | Boot::Babbles => {
                self.processes[p].life = Life::Hung;
                Ok(vec![])
            }
            _ => self.die(p),
        }
    }

    /// As `Driver::on`; `spawns` is whether fork will succeed.
    fn on(&mut self, machine: Machine, p: usize, event: Event, spawns: bool) -> Result<Vec<Action>, String> {
        let actions = machine(&mut self.processes[p].state, event);
        let mut failed = false;
        for action in &actions {
            match action {
                Action::Spawn if !spawns => {
                    self.processes[p].asked = true;
                    failed = true;
                }
                action => self.perform(p, action)?,
            }
        }
        let process = &mut self.processes[p];
        process.owned |= process.state.phase().owns();
        if process.state.phase() == Phase::Gone {
            if process.asked {
                return Err("it ends and has not reported how its upgrade ended".into());
            }
            self.die(p)?;
        }
        if failed {
            self.on(machine, p, Event::SpawnFailed(Failure::new("", "")), true)?;
        }
        Ok(actions)
    }

    /// As `Driver::perform`.
    fn perform(&mut self, p: usize, action: &Action) -> Result<(), String> {
        let child = self.processes[p].child;
        match action {
            Action::Spawn if self.processes[p].asked => {
                return Err("it begins an upgrade and has not told the end of the last".into());
            }
            Action::Spawn => {
                let channel = self.processes.len();
                let others = self.processes[p].others.clone();
                let theirs = Link { channel, side: Side::Child };
                self.processes.push(self.process(Life::Booting, p, Some(theirs), others));
                self.processes[p].asked = true;
                self.processes[p].child = Some(channel);
            }
            Action::KillChild => child.map_or(Ok(()), |child| self.die(child).map(drop))?,
            Action::ForgetChild => self.processes[p].child = None,
            Action::AdoptChild => {
                let channel = self.processes[p].child.take();
                let link = channel.map(|channel| Link { channel, side: Side::Parent });
                self.processes[p].others.extend(link);
            }
            Action::FollowChild => {
                let channel = self.processes[p].child.take();
                self.processes[p].superior = channel.map(|channel| Link { channel, side: Side::Parent });
                self.processes[p].others.clear();
            }
            Action::SendReady => self.tell_superior(p, Message::Ready),
            Action::SendFailed(_) => self.tell_superior(p, Message::Failed),
            Action::SendOwner => {
                self.tell_superior(p, Message::Owner);
                let process = &mut self.processes[p];
                process.predecessor = false;
                process.others.extend(process.superior.take());
            }
            Action::SendCommit => self.tell_child(p, Message::Commit),
            Action::SendRollback => self.tell_child(p, Message::Rollback),
            Action::StopOthers(how) => {
                for link in self.processes[p].others.clone() {
                    self.send(link, Message::Stop(*how));
                }
            }
            Action::ForgetOthers => self.processes[p].others.clear(),
            Action::TakeOwnership => {
                self.processes[p].owner = true;
                self.processes[p].predecessor &= self.processes[p].superior.is_some();
            }
            Action::PassOwnership => self.processes[p].owner = false,
            Action::Arm(timer) => self.processes[p].timer = Some(*timer),
            Action::Disarm => self.processes[p].timer = None,
            Action::Report(verdict) => self.report(p, verdict)?,
            Action::ReportReady | Action::Refuse(_) | Action::Agree => {}
        }
        Ok(())
    }

    fn report(&mut self, p: usize, verdict: &Verdict) -> Result<(), String> {
        let process = &mut self.processes[p];
        if !std::mem::take(&mut process.asked) {
            return Err("it reports the end of an upgrade that nobody asked for, or that has ended".into());
        }
        let successor = process.superior.filter(|link| link.side == Side::Parent);
        let succeeded = successor.is_some_and(|link| self.processes[link.channel].owned);
        if (*verdict == Verdict::Committed) != succeeded {
            return Err(format!("it reports {verdict:?}, and the child's ownership is {succeeded}"));
        }
        Ok(())
    }

    fn die(&mut self, p: usize) -> Result<Vec<Action>, String> {
        self.processes[p].life = Life::Dead;
        Ok(vec![])
    }

    /// Forgets what no one can see any more, so that more worlds are equal.
    fn bury(&mut self) {
        for p in 0..self.processes.len() {
            if !self.processes[p].lives() {
                let empty = self.process(Life::Dead, 0, None, Vec::new());
                let Process { to_parent, to_child, owned, .. } =
                    std::mem::replace(&mut self.processes[p], empty);
                self.processes[p] = Process { to_parent, to_child, owned, ..self.processes[p].clone() };
            }
        }
        for channel in 0..self.processes.len() {
            for side in [Side::Parent, Side::Child] {
                let link = Link { channel, side };
                if !self.is_held(link) {
                    self.inbox_mut(link).clear();
                }
            }
        }
    }

    // ── channels ──

    /// Whether any process has this end open: end-of-file comes when none has.
    fn is_held(&self, link: Link) -> bool {
        self.processes.iter().enumerate().filter(|(_, process)| process.lives()).any(|(p, process)| {
            process.superior == Some(link)
                || process.others.contains(&link)
                || (link.side == Side::Parent && process.child == Some(link.channel))
                || (link.side == Side::Child && p == link.channel && process.predecessor)
        })
    }

    /// Whether nothing more can come to this end.
    fn is_at_end(&self, end: Link) -> bool {
        self.inbox(end).is_empty() && !self.is_held(end.opposite())
    }

    pub(super) fn inbox(&self, end: Link) -> &[Message] {
        match end.side {
            Side::Parent => &self.processes[end.channel].to_parent,
            Side::Child => &self.processes[end.channel].to_child,
        }
    }

    fn inbox_mut(&mut self, end: Link) -> &mut Vec<Message> {
        match end.side {
            Side::Parent => &mut self.processes[end.channel].to_parent,
            Side::Child => &mut self.processes[end.channel].to_child,
        }
    }

    fn take(&mut self, end: Link) -> Message {
        self.inbox_mut(end).remove(0)
    }

    fn send(&mut self, end: Link, message: Message) {
        if self.is_held(end.opposite()) {
            self.inbox_mut(end.opposite()).push(message);
        }
    }

    fn tell_superior(&mut self, p: usize, message: Message) {
        if let Some(link) = self.processes[p].superior {
            self.send(link, message);
        }
    }

    fn tell_child(&mut self, p: usize, message: Message) {
        if let Some(channel) = self.processes[p].child {
            self.send(Link { channel, side: Side::Parent }, message);
        }
    }
}
