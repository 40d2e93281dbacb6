//! What a generator thread counts: for the whole run by kind of traffic, and for each slice of time, which goes to the
//! main thread as soon as it is over.

mod sum;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::Instant;

use crate::now::{Moment, Now};
use crate::results::Connections;
use crate::scenario::{Kind, Scenario, Traffic};
use crate::witness::{Class, Disturbance, Failure, Phase, Unit};
pub use sum::{SoFar, Sum};

/// The longest latency that is told apart, in microseconds: an hour.
const LONGEST: u64 = 3_600_000_000;

/// How many failures each thread keeps; the others are counted only.
const FAILURES: usize = 10_000;

/// A new histogram of microseconds, to so many digits: one of 3 takes 190 KiB, one of 2 takes 25.
#[allow(clippy::expect_used, reason = "the bounds are constants, and a test makes one")]
fn histogram(digits: u8) -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST, digits).expect("bounds that are allowed")
}

/// What one kind of traffic saw.
#[derive(Clone, Debug)]
pub struct Tally {
    exchanges: BTreeMap<(Unit, Class), u64>,
    excused: u64,
    /// Failures that a client that retries once would not have seen; and those of them that are excused anyway.
    mended_by_retry: u64,
    mended_and_excused: u64,
    disturbances: BTreeMap<Disturbance, u64>,
    connections: Connections,
    bytes_in: u64,
    bytes_out: u64,
    steady: Histogram<u64>,
    upgrading: Histogram<u64>,
}

impl Tally {
    fn new() -> Tally {
        Tally {
            exchanges: BTreeMap::new(),
            excused: 0,
            mended_by_retry: 0,
            mended_and_excused: 0,
            disturbances: BTreeMap::new(),
            connections: Connections::default(),
            bytes_in: 0,
            bytes_out: 0,
            steady: histogram(3),
            upgrading: histogram(3),
        }
    }
}

/// What ended in one slice of time, or in a part of it, on one thread.
#[derive(Clone, Debug)]
pub struct Slice {
    /// Which, counted from the run's begin.
    pub index: usize,
    /// Exchanges that ended ok, by unit.
    pub ok: BTreeMap<Unit, u64>,
    /// Those that failed.
    pub failed: BTreeMap<Class, u64>,
    /// Disturbances.
    pub disturbances: BTreeMap<Disturbance, u64>,
    /// Microseconds of those that ended ok and do not last on purpose.
    pub latency: Histogram<u64>,
    /// Connections open at its end, in the last part of it that is handed over, by how many processes had become ready when they were made.
    pub open: BTreeMap<u32, u64>,
}

impl Slice {
    fn new(index: usize) -> Slice {
        Slice {
            index,
            ok: BTreeMap::new(),
            failed: BTreeMap::new(),
            disturbances: BTreeMap::new(),
            latency: histogram(2),
            open: BTreeMap::new(),
        }
    }
}

/// What a thread hands over at its end.
#[derive(Clone, Debug)]
pub struct Totals {
    /// One for each kind of traffic, in the scenario's order.
    pub tallies: Vec<Tally>,
    /// The failures that were kept.
    pub failures: Vec<Failure>,
}

/// The connection that an exchange was on.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// The client's port.
    pub local_port: u16,
    /// When it was made.
    pub connected: Instant,
    /// Whether it had carried an exchange before.
    pub reused: bool,
}

/// An exchange that has ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// What it was.
    pub unit: Unit,
    /// How.
    pub class: Class,
    /// When it was to begin: latency counts from here.
    pub intended: Instant,
    /// Where the proxy was when it began.
    pub before: Moment,
    /// What it was on, if a connection was made.
    pub peer: Option<Peer>,
    /// Bytes of the answer that were seen, its head too.
    pub bytes_seen: u64,
    /// Bytes of its body or message that were received.
    pub bytes_in: u64,
    /// The same, sent.
    pub bytes_out: u64,
    /// How it went once more, if a browser would have tried.
    pub second: Option<Class>,
    /// What was seen, in words; empty if all was well.
    pub detail: String,
}

/// Counts on one thread.
#[derive(Debug)]
pub struct Recorder {
    now: Now,
    traffic: Vec<Traffic>,
    /// What was to begin before this is in no sum of latencies.
    warm: Instant,
    slice_length: Duration,
    slices: UnboundedSender<Slice>,
    counts: RefCell<Counts>,
    /// Told each time that no connection is open any more.
    closed: Notify,
}

#[derive(Debug)]
struct Counts {
    totals: Totals,
    slice: Slice,
    open: BTreeMap<u32, u64>,
}

impl Recorder {
    /// Counts that begin at zero. Each slice that is over goes to `slices`.
    #[must_use]
    pub fn new(
        now: Now,
        scenario: &Scenario,
        slice_length: Duration,
        slices: UnboundedSender<Slice>,
    ) -> Recorder {
        let traffic = scenario.traffic.clone();
        let tallies = traffic.iter().map(|_| Tally::new()).collect();
        let totals = Totals { tallies, failures: Vec::new() };
        let counts = Counts { totals, slice: Slice::new(0), open: BTreeMap::new() };
        let warm = now.begun() + scenario.warm_up;
        Recorder {
            now,
            traffic,
            warm,
            slice_length,
            slices,
            counts: RefCell::new(counts),
            closed: Notify::new(),
        }
    }

    /// The run's clock.
    #[must_use]
    pub fn now(&self) -> &Now {
        &self.now
    }

    /// An exchange of the `kind`th traffic has ended.
    pub fn ended(&self, kind: usize, ended: Ended) {
        let at = Instant::now();
        self.roll(at);
        let counts = &mut *self.counts.borrow_mut();
        let tally = &mut counts.totals.tallies[kind];
        *tally.exchanges.entry((ended.unit, ended.class)).or_default() += 1;
        tally.bytes_in += ended.bytes_in;
        tally.bytes_out += ended.bytes_out;
        let after = at.saturating_duration_since(ended.intended);
        if ended.class == Class::Ok {
            let micros = u64::try_from(after.as_micros()).unwrap_or(LONGEST);
            let moment = self.now.moment();
            let steady = ended.before.phase == Phase::Steady && moment == ended.before;
            let latency = if steady { &mut tally.steady } else { &mut tally.upgrading };
            let traffic = &self.traffic[kind];
            // A whole call takes as long as its messages are sent slowly: theirs is what it makes clients wait.
            if !(traffic.kind == Kind::Grpc && ended.unit == Unit::Stream) {
                if ended.intended >= self.warm {
                    latency.saturating_record(micros);
                }
                if !traffic.is_paced() {
                    counts.slice.latency.saturating_record(micros);
                }
            }
            *counts.slice.ok.entry(ended.unit).or_default() += 1;
        } else if ended.class.is_failure() {
            *counts.slice.failed.entry(ended.class).or_default() += 1;
            let connected = ended.peer.map(|peer| peer.connected);
            let lasts = self.traffic[kind].lasts;
            let excused = self.now.excused(ended.class, connected, ended.intended, at, lasts);
            let mended = ended.second == Some(Class::Ok);
            tally.excused += u64::from(excused);
            tally.mended_by_retry += u64::from(mended);
            tally.mended_and_excused += u64::from(mended && excused);
            if counts.totals.failures.len() < FAILURES {
                let moment = self.now.moment();
                counts.totals.failures.push(Failure {
                    at: self.now.seconds(at),
                    kind: self.traffic[kind].name.clone(),
                    unit: ended.unit,
                    class: ended.class,
                    phase: moment.phase,
                    upgrade: moment.upgrade,
                    local_port: ended.peer.map_or(0, |peer| peer.local_port),
                    reused: ended.peer.is_some_and(|peer| peer.reused),
                    bytes_seen: ended.bytes_seen,
                    after_ms: after.as_secs_f64() * 1e3,
                    excused,
                    second: ended.second,
                    detail: ended.detail,
                });
            }
        }
    }

    /// A client of the `kind`th traffic was disturbed.
    pub fn disturbed(&self, kind: usize, disturbance: Disturbance) {
        self.roll(Instant::now());
        let counts = &mut *self.counts.borrow_mut();
        *counts.totals.tallies[kind].disturbances.entry(disturbance).or_default() += 1;
        *counts.slice.disturbances.entry(disturbance).or_default() += 1;
    }

    /// A connection is attempted.
    pub fn connecting(&self, kind: usize) {
        self.counts.borrow_mut().totals.tallies[kind].connections.attempted += 1;
    }

    /// It could not be made.
    pub fn not_connected(&self, kind: usize, class: Class) {
        *self.counts.borrow_mut().totals.tallies[kind].connections.failed.entry(class).or_default() += 1;
    }

    /// It was made, when `ready` processes had become ready.
    pub fn connected(&self, ready: u32) {
        self.roll(Instant::now());
        *self.counts.borrow_mut().open.entry(ready).or_default() += 1;
    }

    /// It has ended: `lost` if the proxy ended it without a word.
    pub fn disconnected(&self, kind: usize, ready: u32, lost: bool) {
        self.roll(Instant::now());
        let counts = &mut *self.counts.borrow_mut();
        let connections = &mut counts.totals.tallies[kind].connections;
        if lost {
            connections.lost += 1;
        } else {
            connections.closed += 1;
        }
        if let Some(open) = counts.open.get_mut(&ready) {
            *open = open.saturating_sub(1);
            if *open == 0 {
                counts.open.remove(&ready);
            }
        }
        if counts.open.is_empty() {
            self.closed.notify_one();
        }
    }

    /// Waits until no connection is open. One waits.
    pub async fn all_closed(&self) {
        while !self.counts.borrow().open.is_empty() {
            self.closed.notified().await;
        }
    }

    /// Hands over what has been counted since the last time: for who watches, whom a slice may be too long for.
    pub fn report(&self) {
        self.roll(Instant::now());
        let counts = &mut *self.counts.borrow_mut();
        let index = counts.slice.index;
        let Slice { ok, failed, disturbances, .. } = &counts.slice;
        if !(ok.is_empty() && failed.is_empty() && disturbances.is_empty()) {
            let part = std::mem::replace(&mut counts.slice, Slice::new(index));
            // Nobody listens: the run is over.
            drop(self.slices.send(part));
        }
    }

    /// Hands over the slice that is over at `at`, with the connections that were open at its end.
    fn roll(&self, at: Instant) {
        let index = self.now.slice(at, self.slice_length);
        let counts = &mut *self.counts.borrow_mut();
        if counts.slice.index < index {
            self.hand_over(counts, index);
        }
    }

    fn hand_over(&self, counts: &mut Counts, next: usize) {
        let mut slice = std::mem::replace(&mut counts.slice, Slice::new(next));
        slice.open.clone_from(&counts.open);
        // Nobody listens: the run is over.
        drop(self.slices.send(slice));
    }

    /// The end: the last slice goes as well.
    #[must_use]
    pub fn finish(&self) -> Totals {
        let counts = &mut *self.counts.borrow_mut();
        let next = counts.slice.index + 1;
        self.hand_over(counts, next);
        counts.totals.clone()
    }
}
