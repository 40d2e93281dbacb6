//! Several proxies under the same scenario, in turn, round after round: what each of them did to the same traffic.
//!
//! A machine is never the same for two runs. So the proxies take turns, the first of a round is another one each time,
//! and of what varies the median of all rounds is shown; of what must not happen, the sum.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::results::{Latency, Results};
use crate::scenario::Scenario;
use crate::witness::{Class, Disturbance};

/// The version of the document: raised when a field changes its meaning or goes.
pub const SCHEMA: u32 = 1;

/// A comparison, whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// [`SCHEMA`].
    pub schema: u32,
    /// What each was put through.
    pub scenario: Scenario,
    /// The machine: kernel, processor, how many of them.
    pub machine: String,
    /// Each proxy, ours first.
    pub proxies: Vec<Contender>,
    /// Whether it was ended before its time.
    pub interrupted: bool,
}

/// A proxy, and what it did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Contender {
    /// How it was asked for: `nginx-binary`.
    pub name: String,
    /// As it says itself: `nginx 1.22.1`; empty if it never ran.
    pub version: String,
    /// Why there is nothing of it, or less than of others: not installed, did not start.
    pub missing: Option<String>,
    /// One for each round.
    pub rounds: Vec<Round>,
}

/// What a proxy did in one round.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Round {
    /// Whether nothing failed, and everything was done that was to be.
    pub passed: bool,
    /// Upgrades that went as they should.
    pub upgrades: u64,
    /// Exchanges.
    pub exchanges: u64,
    /// Those that failed.
    pub failures: u64,
    /// Those that would have failed for a client that retries once.
    pub failures_with_retry: u64,
    /// The failures by class.
    pub classes: BTreeMap<Class, u64>,
    /// What clients noticed and lost nothing by.
    pub disturbances: BTreeMap<Disturbance, u64>,
    /// Latency outside of upgrades.
    pub steady: Latency,
    /// Latency of what touched an upgrade.
    pub upgrading: Latency,
    /// CPU time of the proxy's processes for each exchange, in microseconds.
    pub cpu_us_per_exchange: f64,
    /// The most memory that the proxy's processes had at once, in bytes.
    pub peak_memory_bytes: u64,
}

impl Round {
    /// What matters of a run's results.
    #[must_use]
    pub fn of(results: &Results) -> Round {
        let total = &results.total;
        let failed = Class::ALL.into_iter().filter(|class| class.is_failure());
        let classes = failed.map(|class| (class, total.in_class(class))).filter(|(_, number)| *number > 0);
        let proxy = results.processes.iter().find(|usage| usage.name == "proxy");
        Round {
            passed: results.verdict.passed,
            upgrades: results.disturbers.iter().filter(|deed| deed.as_expected).count() as u64,
            exchanges: total.exchanges(),
            failures: results.verdict.failures,
            failures_with_retry: results.verdict.failures_with_retry,
            classes: classes.collect(),
            disturbances: total.disturbances.clone(),
            steady: total.steady,
            upgrading: total.upgrading,
            cpu_us_per_exchange: proxy.map_or(0.0, |usage| usage.cpu_us_per_exchange),
            peak_memory_bytes: proxy.map_or(0, |usage| usage.peak_memory_bytes),
        }
    }
}

impl Contender {
    /// The sum over all rounds.
    pub fn sum(&self, of: impl Fn(&Round) -> u64) -> u64 {
        self.rounds.iter().map(of).sum()
    }

    /// The median of all rounds, of two in the middle the mean; not a number if there is none.
    pub fn median(&self, of: impl Fn(&Round) -> f64) -> f64 {
        let mut values: Vec<f64> = self.rounds.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        match values.len() {
            0 => f64::NAN,
            even if even.is_multiple_of(2) => f64::midpoint(values[even / 2 - 1], values[even / 2]),
            odd => values[odd / 2],
        }
    }

    /// The largest of all rounds; not a number if there is none.
    pub fn most(&self, of: impl Fn(&Round) -> f64) -> f64 {
        self.rounds.iter().map(of).fold(f64::NAN, f64::max)
    }
}

/// In which order so many take their turn in a round: each comes first as often as the others.
pub fn turns(proxies: usize, round: usize) -> impl Iterator<Item = usize> {
    (0..proxies).map(move |at| (at + round) % proxies)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_the_first_as_often_as_the_others() {
        let orders: Vec<Vec<usize>> = (0..3).map(|round| turns(3, round).collect()).collect();
        assert_eq!(orders, [[0, 1, 2], [1, 2, 0], [2, 0, 1]]);
        assert_eq!(turns(0, 5).count(), 0);
    }

    #[test]
    fn rounds_become_one_figure() {
        let round = |cpu: f64, failures| Round { cpu_us_per_exchange: cpu, failures, ..Round::default() };
        let with = |rounds| Contender { rounds, ..Contender::default() };
        let three = with(vec![round(9.0, 1), round(2.0, 0), round(3.0, 4)]);
        let cpu = |round: &Round| round.cpu_us_per_exchange;
        assert_eq!((three.median(cpu), three.most(cpu), three.sum(|round| round.failures)), (3.0, 9.0, 5));
        assert_eq!(with(vec![round(2.0, 0), round(4.0, 0)]).median(cpu), 3.0);
        let none = with(Vec::new());
        assert!(none.median(cpu).is_nan() && none.most(cpu).is_nan());
    }
}
