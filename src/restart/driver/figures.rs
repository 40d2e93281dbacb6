//! What the driver counts: upgrades, and what each generation is doing.

use std::cell::Cell;

use tokio::time::Instant;

use crate::restart::segment::{Histogram, Plan, Segment, Shard, Slot};
use crate::restart::state::{Failure, Phase, Verdict};

/// The steps at which an upgrade is known to fail; every other one is `other`. A new version may say what it likes, and
/// there must be an end to the number of series.
const STEPS: [&str; 18] = [
    "exec",
    "spawn",
    "child",
    "inherit",
    "handoff",
    "start",
    "system",
    "file",
    "configuration",
    "certificates",
    "control",
    "listeners",
    "workers",
    "ready",
    "probation",
    "commit",
    "stop",
    "other",
];

/// The upper bounds of durations in nanoseconds, from 1 ms to 2 minutes.
const DURATIONS: [u64; 14] = [
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    5_000_000_000,
    10_000_000_000,
    30_000_000_000,
    120_000_000_000,
];

/// The places of the driver's series.
#[derive(Debug)]
pub(super) struct Columns {
    generation: Slot,
    version: Slot,
    phases: Vec<Slot>,
    owner_since_ms: Slot,
    drain_deadline_ms: Slot,
    committed: Slot,
    rolled_back: Slot,
    refused: Slot,
    failed: Vec<Slot>,
    ready: Histogram,
    commit: Histogram,
    upgrade: Histogram,
    drain: Histogram,
}

impl Columns {
    /// `version` is that of the program.
    pub(super) fn plan(plan: &mut Plan, version: &str) -> Columns {
        let mut upgrades =
            |result: &str, step: &str| plan.counter("upgrades_total", &[("result", result), ("step", step)]);
        let (committed, rolled_back) = (upgrades("committed", ""), upgrades("rolled_back", ""));
        let refused = upgrades("refused", "");
        let failed = STEPS.map(|step| upgrades("failed", step)).into();
        let phases = Phase::ALL.map(|phase| plan.gauge("generations", &[("phase", phase.as_str())])).into();
        let mut duration = |phase: &str| plan.histogram("upgrade_duration", &[("phase", phase)], &DURATIONS);
        Columns {
            committed,
            rolled_back,
            refused,
            failed,
            phases,
            ready: duration("ready"),
            commit: duration("commit"),
            upgrade: duration("all"),
            drain: plan.histogram("drain_duration", &[], &DURATIONS),
            generation: plan.gauge("generation", &[]),
            version: plan.gauge("version", &[("version", version)]),
            owner_since_ms: plan.gauge("owner_since_ms", &[]),
            drain_deadline_ms: plan.gauge("drain_deadline_ms", &[]),
        }
    }
}

/// The driver's series, and what it must remember to tell them.
#[derive(Debug)]
pub(super) struct Figures {
    columns: Columns,
    shard: Shard,
    phase: Cell<Phase>,
    committing: Cell<Option<Instant>>,
    drain: Cell<Option<Instant>>,
}

impl Figures {
    /// For the thread of the driver, which counts in the shard with this number.
    pub(super) fn new(columns: Columns, segment: &Segment, shard: usize, generation: u32) -> Self {
        let shard = segment.seat(shard).take();
        shard.set(columns.generation, generation.into());
        shard.set(columns.version, 1);
        shard.set(columns.phases[Phase::Starting as usize], 1);
        let phase = Cell::new(Phase::Starting);
        Figures { columns, shard, phase, committing: Cell::new(None), drain: Cell::new(None) }
    }

    /// The process does something else from now on.
    pub(super) fn enter(&self, phase: Phase) {
        let before = self.phase.replace(phase);
        self.shard.set(self.columns.phases[before as usize], 0);
        self.shard.set(self.columns.phases[phase as usize], 1);
        match phase {
            Phase::Committing => self.committing.set(Some(Instant::now())),
            Phase::Cut | Phase::Gone => {
                if let Some(since) = self.drain.take() {
                    self.shard.observe_since(&self.columns.drain, since);
                }
            }
            _ => {}
        }
    }

    /// When what is left will be cut, in milliseconds since the Unix epoch; 0: the process does not drain.
    pub(super) fn drains_until(&self, deadline_ms: u64) {
        if self.drain.get().is_none() && deadline_ms > 0 {
            self.drain.set(Some(Instant::now()));
        } else if deadline_ms == 0 {
            self.drain.set(None);
        }
        self.shard.set(self.columns.drain_deadline_ms, deadline_ms);
    }

    pub(super) fn owns_since(&self, now_ms: u64) {
        self.shard.set(self.columns.owner_since_ms, now_ms);
    }

    pub(super) fn ready(&self, asked: Instant) {
        self.shard.observe_since(&self.columns.ready, asked);
    }

    pub(super) fn refused(&self) {
        self.shard.add(self.columns.refused, 1);
    }

    pub(super) fn ended(&self, verdict: &Verdict, asked: Option<Instant>) {
        let slot = match verdict {
            Verdict::Committed => {
                if let Some(since) = self.committing.take() {
                    self.shard.observe_since(&self.columns.commit, since);
                }
                if let Some(asked) = asked {
                    self.shard.observe_since(&self.columns.upgrade, asked);
                }
                self.columns.committed
            }
            Verdict::RolledBack => self.columns.rolled_back,
            Verdict::Failed(Failure { step, .. }) => {
                let known = STEPS.iter().position(|known| known == step);
                self.columns.failed[known.unwrap_or(STEPS.len() - 1)]
            }
        };
        self.shard.add(slot, 1);
    }
}
