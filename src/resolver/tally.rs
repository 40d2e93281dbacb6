//! What is counted about look-ups. They are made on a thread that has no place to count; the control thread does it.

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::lookup::Outcome;
use crate::metrics::{Family, NANOSECONDS, ONE, Source};
use crate::restart::{Histogram, Plan, Shard, Slot};

/// The metrics of look-ups.
pub const FAMILIES: &[Family] = &[
    Family {
        name: "name_lookups_total",
        help: "Look-ups of the names of servers: addresses were found (found), there are none (absent), or no name \
               server could tell (failed).",
        source: Source::Counter("name_lookups_total", ONE),
    },
    Family {
        name: "name_lookup_duration_seconds",
        help: "How long look-ups of the names of servers took.",
        source: Source::Histogram("name_lookup_duration", NANOSECONDS),
    },
];

/// The upper bounds in nanoseconds.
const DURATIONS: [u64; 7] =
    [1_000_000, 5_000_000, 25_000_000, 100_000_000, 500_000_000, 2_000_000_000, 5_000_000_000];

/// The values of the label `result`.
const RESULTS: [&str; 3] = ["found", "absent", "failed"];

/// What came of one look-up.
#[derive(Debug)]
pub(super) struct Result {
    /// A place in [`RESULTS`].
    which: usize,
    nanoseconds: u64,
}

impl Result {
    pub(super) fn of(outcome: &Outcome, begun: Instant) -> Result {
        let which = match outcome {
            Outcome::Found(_) => 0,
            Outcome::Absent(_) => 1,
            Outcome::Failed(_) => 2,
        };
        Result { which, nanoseconds: u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX) }
    }
}

/// The places of all that is counted about look-ups.
#[derive(Clone, Debug)]
pub struct Columns {
    results: [Slot; RESULTS.len()],
    duration: Histogram,
}

impl Columns {
    /// Plans them.
    pub fn plan(plan: &mut Plan) -> Columns {
        Columns {
            results: RESULTS.map(|result| plan.counter("name_lookups_total", &[("result", result)])),
            duration: plan.histogram("name_lookup_duration", &[], &DURATIONS),
        }
    }
}

/// What came of look-ups, to be counted.
#[derive(Debug)]
pub struct Results(pub(super) mpsc::Receiver<Result>);

impl Results {
    /// Counts them, for as long as there are any.
    pub async fn count(mut self, columns: Columns, shard: Shard) {
        while let Some(Result { which, nanoseconds }) = self.0.recv().await {
            shard.add(columns.results[which], 1);
            shard.observe(&columns.duration, nanoseconds);
        }
    }
}
