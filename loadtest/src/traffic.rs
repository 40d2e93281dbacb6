//! The load: users, each with a plan, on the connections that they have.

mod body;
mod connect;
mod connection;
mod exchange;
mod grpc;
mod websocket;

use std::rc::Rc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};

use connect::{Connected, NotConnected};
pub use connect::{Connector, Targets};
use connection::Slot;
use exchange::{Ask, Outcome, exchange};

use crate::now::Moment;
use crate::plan::{Plan, Step};
use crate::recorder::{Ended, Recorder};
use crate::scenario::{Carrier, Kind, Scenario, Traffic};
use crate::witness::{Class, Disturbance, Unit};

/// How long a user in closed loop rests after a failure, so that a proxy that is gone is not asked a million times.
const AFTER_FAILURE: Duration = Duration::from_millis(10);

/// How late a user may be at the end without being behind its plan: for a moment, any machine has other things to do.
const BEHIND: Duration = Duration::from_secs(1);

/// What all users of a thread share.
pub struct Context {
    /// Where they count.
    pub recorder: Rc<Recorder>,
    /// Where second attempts are counted, which nobody looks at.
    pub aside: Rc<Recorder>,
    /// How they connect.
    pub connector: Rc<Connector>,
    /// How long an exchange may take.
    pub timeout: Duration,
    /// When the load ends.
    pub end: Instant,
    /// What the users are to do.
    pub orders: watch::Receiver<Order>,
}

/// What users are to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Order {
    /// Go on.
    Go,
    /// Begin nothing new, finish what is under way.
    End,
    /// Stop at once: what is under way is counted as unfinished.
    Cut,
}

impl Context {
    /// The same, but what is done with it is counted nowhere.
    fn aside(&self) -> Rc<Context> {
        Rc::new(Context {
            recorder: Rc::clone(&self.aside),
            aside: Rc::clone(&self.aside),
            connector: Rc::clone(&self.connector),
            timeout: self.timeout,
            end: self.end,
            orders: self.orders.clone(),
        })
    }

    /// Makes a connection for the `kind`th traffic, and counts how that went.
    async fn connect(
        &self,
        kind: usize,
        carrier: Carrier,
        deadline: Instant,
    ) -> Result<Connected, NotConnected> {
        self.recorder.connecting(kind);
        let connected = timeout_at(deadline, self.connector.connect(carrier)).await;
        let connected = connected.unwrap_or_else(|_| Err(NotConnected::late()));
        match &connected {
            Ok(connected) if connected.unresumed => self.recorder.disturbed(kind, Disturbance::FullHandshake),
            Ok(_) => {}
            Err(failed) => self.recorder.not_connected(kind, failed.class),
        }
        connected
    }

    /// Waits until the step is to begin, and gives back its intended time; nothing if the load has ended.
    async fn begin(&self, step: Step) -> Option<Instant> {
        match step.due {
            None => self.rest(Instant::now() + step.pause).await.then(Instant::now),
            Some(due) => {
                let intended = self.recorder.now().begun() + due;
                self.rest(intended).await.then_some(intended)
            }
        }
    }

    /// Counts as unfinished what was due and had not begun when the load ended: a proxy that answers late must not hide
    /// what it kept from being asked.
    fn never_begun(&self, kind: usize, unit: Unit, plan: Plan) {
        let begun = self.recorder.now().begun();
        // What was due after the end was not to begin, however long the last one took.
        let behind = Instant::now().min(self.end) - BEHIND;
        let due = plan.map_while(|step| Some(begun + step.due?)).take_while(|due| *due < behind);
        due.for_each(|due| drop(InFlight::new(self, kind, unit, due)));
    }

    /// Waits until then; false if the load has ended.
    async fn rest(&self, until: Instant) -> bool {
        if *self.orders.borrow() > Order::Go {
            return false;
        }
        if until <= Instant::now() {
            return true;
        }
        let mut orders = self.orders.clone();
        tokio::select! {
            () = sleep_until(until) => true,
            _ = orders.wait_for(|order| *order > Order::Go) => false,
        }
    }
}

/// Spawns the users that belong to a thread, in its `LocalSet`.
#[must_use]
pub fn users(context: &Rc<Context>, scenario: &Scenario, thread: usize) -> JoinSet<()> {
    let mut users = JoinSet::new();
    let mut connections = 0;
    for (kind, traffic) in scenario.traffic.iter().enumerate() {
        let streams = traffic.users() / traffic.connections;
        for connection in 0..traffic.connections {
            connections += 1;
            if connections % scenario.threads != thread {
                continue;
            }
            let slot = Rc::new(Slot::new(kind, traffic.carrier()));
            for stream in 0..streams {
                let plan = Plan::new(scenario.seed, kind, traffic, connection * streams + stream);
                let (context, traffic, slot) = (Rc::clone(context), traffic.clone(), Rc::clone(&slot));
                users.spawn_local(user(context, traffic, slot, plan));
            }
        }
    }
    users
}

async fn user(context: Rc<Context>, traffic: Traffic, slot: Rc<Slot>, mut plan: Plan) {
    let unit = match traffic.kind {
        Kind::WebSocket | Kind::WebSocketTls => {
            websocket::user(&context, &traffic, slot.kind(), &mut plan).await;
            Unit::Message
        }
        Kind::Grpc => {
            grpc::user(&context, &traffic, &slot, &mut plan).await;
            Unit::Message
        }
        _ => {
            let unit = if traffic.carrier() == Carrier::Http2 { Unit::Stream } else { Unit::Request };
            requests(&context, &traffic, &slot, unit, &mut plan).await;
            unit
        }
    };
    slot.close();
    context.never_begun(slot.kind(), unit, plan);
}

async fn requests(context: &Rc<Context>, traffic: &Traffic, slot: &Slot, unit: Unit, plan: &mut Plan) {
    for step in plan {
        let Some(intended) = context.begin(step).await else { break };
        if !exchange(context, slot, Ask { traffic, step }, unit, intended).await {
            context.rest(Instant::now() + AFTER_FAILURE).await;
        }
    }
}

/// An exchange under way. If it is dropped before it has ended, it is counted as unfinished.
struct InFlight<'a> {
    recorder: &'a Recorder,
    kind: usize,
    unit: Unit,
    intended: Instant,
    before: Moment,
    ended: bool,
}

impl<'a> InFlight<'a> {
    fn new(context: &'a Context, kind: usize, unit: Unit, intended: Instant) -> InFlight<'a> {
        let recorder = &*context.recorder;
        InFlight { recorder, kind, unit, intended, before: recorder.now().moment(), ended: false }
    }

    /// It has ended so; gives back whether it went well.
    fn ended(mut self, outcome: Outcome, second: Option<Class>) -> bool {
        self.ended = true;
        let ok = outcome.class == Class::Ok;
        self.count(outcome, second);
        ok
    }

    fn count(&self, outcome: Outcome, second: Option<Class>) {
        let Outcome { class, peer, bytes_seen, bytes_in, bytes_out, detail } = outcome;
        let (unit, intended, before) = (self.unit, self.intended, self.before);
        let ended =
            Ended { unit, class, intended, before, peer, bytes_seen, bytes_in, bytes_out, second, detail };
        self.recorder.ended(self.kind, ended);
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.count(Outcome::failed(Class::Unfinished, None, String::new()), None);
        }
    }
}
