//! The sum of a run: what the table, the page and the JSON file are made of.
//!
//! Times are seconds since the run began, latencies milliseconds, sizes bytes, unless a name says otherwise.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::scenario::Scenario;
use crate::witness::{Class, Disturbance, Failure, Phase, Unit};

/// The version of the document: raised when a field changes its meaning or goes.
pub const SCHEMA: u32 = 1;

/// A run, whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// [`SCHEMA`].
    pub schema: u32,
    /// What came of it.
    pub verdict: Verdict,
    /// When it began, in milliseconds since the Unix epoch.
    pub started_unix_ms: u64,
    /// How long load was applied.
    pub seconds: f64,
    /// What was asked for, with every default written out.
    pub scenario: Scenario,
    /// Who met whom, where.
    pub surroundings: Surroundings,
    /// One for each kind of traffic, in the scenario's order.
    pub kinds: Vec<KindRow>,
    /// All kinds together.
    pub total: KindRow,
    /// The run cut into equal pieces.
    pub slices: Slices,
    /// What was done to the proxy, in order.
    pub disturbers: Vec<Deed>,
    /// Every failure, up to a limit; see [`Verdict::failures`] for how many there were.
    pub failures: Vec<Failure>,
    /// What the processes took: the proxy, the witness, the upstream, as far as they are on this machine.
    pub processes: Vec<Usage>,
}

/// Whether the proxy passed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Nothing failed, and everything that was to be done was done.
    pub passed: bool,
    /// Exchanges that failed, without those excused.
    pub failures: u64,
    /// Exchanges that were inside a process that was killed on purpose.
    pub excused: u64,
    /// What a client that retries once, as browsers do, would have seen fail, without those excused.
    pub failures_with_retry: u64,
    /// Why it did not pass, a sentence each.
    pub reasons: Vec<String>,
    /// What is to be known beside the verdict, a sentence each.
    pub remarks: Vec<String>,
    /// Whether it was ended before its time.
    pub interrupted: bool,
}

/// Who met whom, where.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Surroundings {
    /// The proxy and its version, as it says itself: `exuvia 0.1.0`; empty if unknown.
    pub proxy: String,
    /// Where the traffic went.
    pub targets: Vec<String>,
    /// The witness's version.
    pub loadtest: String,
    /// The kernel's release.
    pub kernel: String,
    /// The processor's name.
    pub cpu: String,
    /// How many of them this process may use.
    pub cpus: usize,
    /// Main memory.
    pub memory_bytes: u64,
    /// Threads that generated load.
    pub threads: usize,
    /// The arguments of the program.
    pub arguments: Vec<String>,
}

/// What one kind of traffic saw.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct KindRow {
    /// As the scenario names it; `total` for all.
    pub kind: String,
    /// Exchanges by unit and class; what is not there is 0.
    pub exchanges: BTreeMap<Unit, BTreeMap<Class, u64>>,
    /// Failures that were inside a process that was killed on purpose.
    pub excused: u64,
    /// Failures that a client that retries once would not have seen.
    pub mended_by_retry: u64,
    /// Disturbances; what is not there is 0.
    pub disturbances: BTreeMap<Disturbance, u64>,
    /// Connections by how they ended.
    pub connections: Connections,
    /// Bytes of bodies and messages received.
    pub bytes_in: u64,
    /// Bytes of bodies and messages sent.
    pub bytes_out: u64,
    /// From the intended time to the end, of exchanges that ended ok outside of every upgrade, after the warm-up. Whole
    /// calls of gRPC are not in it, only their messages; and in the sum of all kinds none of those that last on purpose.
    pub steady: Latency,
    /// The same, of those that touched an upgrade: begun or ended in a phase other than [`Phase::Steady`].
    pub upgrading: Latency,
}

impl KindRow {
    /// How many exchanges ended in a class, all units together.
    #[must_use]
    pub fn in_class(&self, class: Class) -> u64 {
        self.exchanges.values().filter_map(|classes| classes.get(&class)).sum()
    }

    /// How many exchanges there were.
    #[must_use]
    pub fn exchanges(&self) -> u64 {
        self.exchanges.values().flat_map(BTreeMap::values).sum()
    }

    /// How many failed, the excused ones too.
    #[must_use]
    pub fn failures(&self) -> u64 {
        Class::ALL.into_iter().filter(|class| class.is_failure()).map(|class| self.in_class(class)).sum()
    }

    /// How many disturbances there were, all together.
    #[must_use]
    pub fn disturbances(&self) -> u64 {
        self.disturbances.values().sum()
    }
}

/// Connections, each counted once by how it ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Connections {
    /// Attempts.
    pub attempted: u64,
    /// Those that could not be made, by class.
    pub failed: BTreeMap<Class, u64>,
    /// Closed by the witness, or by both as announced.
    pub closed: u64,
    /// Ended by the proxy without a word.
    pub lost: u64,
}

/// Quantiles, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Of how many.
    pub count: u64,
    /// Mean.
    pub mean: f64,
    /// Half were faster.
    pub p50: f64,
    /// 90 %.
    pub p90: f64,
    /// 99 %.
    pub p99: f64,
    /// 99.9 %.
    pub p999: f64,
    /// The slowest.
    pub max: f64,
}

/// The run cut into equal pieces, by the time at which an exchange ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Slices {
    /// The length of each.
    pub seconds: f64,
    /// In order of time.
    pub rows: Vec<Slice>,
}

/// One piece.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Slice {
    /// Where it begins.
    pub at: f64,
    /// Exchanges that ended ok, by unit.
    pub ok: BTreeMap<Unit, u64>,
    /// Those that failed, by class, the excused ones too.
    pub failed: BTreeMap<Class, u64>,
    /// Disturbances.
    pub disturbances: BTreeMap<Disturbance, u64>,
    /// Latency of those that ended ok, all together, without those that last on purpose.
    pub p50: f64,
    /// See above.
    pub p99: f64,
    /// See above.
    pub max: f64,
    /// Connections open at its end, by how many processes had become ready when they were made: 0 is the first
    /// generation.
    pub open: BTreeMap<u32, u64>,
}

/// What was done to the proxy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Deed {
    /// What it was.
    pub deed: DeedKind,
    /// In words: by which way, which generation.
    pub detail: String,
    /// Whether it went as it should: a good upgrade committed, a bad one failed and nothing changed.
    pub as_expected: bool,
    /// Whether anything told how it went. After a signal that leaves the process id as it was, nothing does.
    pub told: bool,
    /// When it began.
    pub at: f64,
    /// The phases that followed, in order, each with its beginning and end.
    pub phases: Vec<Band>,
}

/// The kinds of deeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeedKind {
    /// An upgrade to a good program.
    Upgrade,
    /// An upgrade to a program that cannot serve.
    BadUpgrade,
    /// SIGKILL to the new process.
    KillNew,
    /// SIGKILL to the old process.
    KillOld,
    /// An upgrade with another configuration.
    Change,
}

/// A phase in time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Band {
    /// Which.
    pub phase: Phase,
    /// When it began.
    pub from: f64,
    /// When it ended.
    pub to: f64,
}

/// What a group of processes took.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// `proxy`, `witness` or `upstream`.
    pub name: String,
    /// CPU time, user and system, while load was applied.
    pub cpu_seconds: f64,
    /// The same for each exchange, in microseconds.
    pub cpu_us_per_exchange: f64,
    /// The most memory that they had at once (proportional set size, so that what is shared counts once).
    pub peak_memory_bytes: u64,
    /// Each slice's CPU use: 1 is one CPU, all of it.
    pub cpu_by_slice: Vec<f64>,
}
