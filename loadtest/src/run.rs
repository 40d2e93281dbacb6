//! One run: threads that generate load, someone who disturbs, and a clock.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::unbounded_channel;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use crate::generator::{Aim, Task, start};
use crate::now::Now;
use crate::recorder::{SoFar, Sum};
use crate::results::{Deed, Slices};
use crate::scenario::Scenario;
use crate::traffic::Order;

/// How many slices a run has; each is at least [`SHORTEST`].
const SLICES: u32 = 300;

/// No slice is shorter.
const SHORTEST: Duration = Duration::from_millis(100);

/// How often it is told how it goes.
const TICK: Duration = Duration::from_millis(100);

/// How long what is under way may take to end after an interruption.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long an upgrade that is under way may take to end after the load: longer than any is waited for.
const DEED_PATIENCE: Duration = Duration::from_secs(150);

/// How it goes, ten times a second.
#[derive(Clone, Copy, Debug)]
pub struct Tick {
    /// Since the run began.
    pub elapsed: Duration,
    /// What has been counted.
    pub so_far: SoFar,
    /// Whether load is still applied.
    pub load: bool,
}

/// What came of a run.
#[derive(Debug)]
pub struct Ran {
    /// What was counted.
    pub sum: Sum,
    /// What was done to the proxy.
    pub deeds: Vec<Deed>,
    /// How long load was applied.
    pub seconds: f64,
    /// Whether it was ended before its time.
    pub interrupted: bool,
    /// What the witness itself could not do.
    pub troubles: Vec<String>,
    /// How long a slice is.
    pub slice: Duration,
}

impl Ran {
    /// The slices.
    #[must_use]
    pub fn slices(&self) -> Slices {
        self.sum.slices(self.slice)
    }
}

/// How long a slice of this scenario is.
#[must_use]
pub fn slice(scenario: &Scenario) -> Duration {
    (scenario.duration / SLICES).max(SHORTEST)
}

/// Applies the load of a scenario, and meanwhile `disturb`, which obeys the same orders as the load.
///
/// `interrupted` gives a value each time that somebody wants the run to end: at the first it ends in good order, at the
/// second at once.
pub async fn run<D: Future<Output = Vec<Deed>>>(
    scenario: &Scenario,
    aim: &Aim,
    now: Now,
    disturb: impl FnOnce(Now, watch::Receiver<Order>) -> D,
    mut interrupted: watch::Receiver<u32>,
    mut tick: impl FnMut(Tick),
) -> Ran {
    let slice = slice(scenario);
    let (orders, listening) = watch::channel(Order::Go);
    let (deed_orders, disturber) = watch::channel(Order::Go);
    let (sender, mut slices) = unbounded_channel();
    let shared = Arc::new(scenario.clone());
    let (mut threads, mut troubles) = (Vec::new(), Vec::new());
    for thread in 0..scenario.threads {
        let (scenario, aim, now, orders) = (Arc::clone(&shared), aim.clone(), now.clone(), listening.clone());
        match start(Task { scenario, aim, now, slice, orders }, thread, sender.clone()) {
            Ok(started) => threads.push(started),
            Err(error) => troubles.push(format!("no thread to generate load: {error}")),
        }
    }
    drop((sender, listening));

    let mut sum = Sum::default();
    let mut deeds = None;
    let mut disturb = std::pin::pin!(disturb(now.clone(), disturber));
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let end = now.begun() + scenario.duration;
    let slowest = scenario.traffic.iter().map(|traffic| traffic.lasts).max().unwrap_or_default();
    let mut patience = end + scenario.timeout + slowest + PATIENCE;
    let mut deed_patience = end + DEED_PATIENCE;
    let mut seconds = None;
    let (mut wishes, mut generating) = (0, true);
    while generating || deeds.is_none() {
        tokio::select! {
            slice = slices.recv(), if generating => match slice {
                Some(slice) => sum.slice(slice),
                // All threads have ended.
                None => generating = false,
            },
            done = &mut disturb, if deeds.is_none() => deeds = Some(done),
            _ = ticks.tick() => {
                tick(Tick { elapsed: now.begun().elapsed(), so_far: sum.so_far(), load: seconds.is_none() });
            }
            () = sleep_until(end), if seconds.is_none() => {
                seconds = Some(scenario.duration.as_secs_f64());
                orders.send_replace(Order::End);
                deed_orders.send_replace(Order::End);
            }
            Ok(()) = interrupted.changed() => {
                wishes = *interrupted.borrow_and_update();
                seconds.get_or_insert_with(|| now.begun().elapsed().as_secs_f64());
                let soon = Instant::now() + PATIENCE;
                (patience, deed_patience) = (patience.min(soon), deed_patience.min(soon));
                let order = if wishes > 1 { Order::Cut } else { Order::End };
                orders.send_replace(order);
                deed_orders.send_replace(order);
            }
            () = sleep_until(patience), if generating => {
                patience += Duration::from_secs(86_400);
                orders.send_replace(Order::Cut);
            }
            () = sleep_until(deed_patience), if deeds.is_none() => {
                deed_patience += Duration::from_secs(86_400);
                deed_orders.send_replace(Order::Cut);
            }
        }
        if !generating && seconds.is_none() {
            // No load, and yet time: every thread has failed, or there was nothing to do.
            seconds = Some(now.begun().elapsed().as_secs_f64());
            deed_orders.send_replace(Order::End);
        }
    }
    for thread in threads {
        match thread.join() {
            Ok(Ok(totals)) => sum.totals(totals),
            Ok(Err(trouble)) => troubles.push(trouble),
            Err(_) => troubles.push("a thread that generated load has failed: see standard error".into()),
        }
    }
    Ran {
        sum,
        deeds: deeds.unwrap_or_default(),
        seconds: seconds.unwrap_or_default(),
        interrupted: wishes > 0,
        troubles,
        slice,
    }
}
