//! What all threads counted, together, as the results show it.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::{Slice, Tally, Totals};
use crate::results::{self, KindRow, Latency};
use crate::scenario::Traffic;
use crate::witness::{Failure, Unit};

/// The sum of what threads hand over.
#[derive(Debug, Default)]
pub struct Sum {
    slices: BTreeMap<usize, Slice>,
    tallies: Vec<Tally>,
    failures: Vec<Failure>,
}

impl Sum {
    /// A slice of a thread, or a part of one. Slices in which a thread counted nothing do not come.
    pub fn slice(&mut self, slice: Slice) {
        let Some(sum) = self.slices.get_mut(&slice.index) else {
            self.slices.insert(slice.index, slice);
            return;
        };
        add_all(&mut sum.ok, &slice.ok);
        add_all(&mut sum.failed, &slice.failed);
        add_all(&mut sum.disturbances, &slice.disturbances);
        add_all(&mut sum.open, &slice.open);
        merge(&mut sum.latency, &slice.latency);
    }

    /// What a thread counted in all.
    pub fn totals(&mut self, totals: Totals) {
        self.failures.extend(totals.failures);
        if self.tallies.is_empty() {
            self.tallies = totals.tallies;
            return;
        }
        for (sum, tally) in self.tallies.iter_mut().zip(totals.tallies) {
            sum.add(&tally, true);
        }
    }

    /// Exchanges that ended ok, failures and disturbances so far, and the median and 99 % of the last slice that is
    /// known, in milliseconds: for the line that shows how it goes.
    #[must_use]
    pub fn so_far(&self) -> SoFar {
        let mut so_far = SoFar::default();
        for slice in self.slices.values() {
            so_far.ok += slice.ok.values().sum::<u64>();
            so_far.failed += slice.failed.values().sum::<u64>();
            so_far.disturbances += slice.disturbances.values().sum::<u64>();
        }
        // One that has just begun may have nothing but a disturbance.
        if let Some(last) = self.slices.values().rev().find(|slice| !slice.latency.is_empty()) {
            so_far.p50 = millis(last.latency.value_at_quantile(0.5));
            so_far.p99 = millis(last.latency.value_at_quantile(0.99));
        }
        so_far
    }

    /// All slices, those without anything too.
    #[must_use]
    pub fn slices(&self, length: Duration) -> results::Slices {
        let last = self.slices.last_key_value().map_or(0, |(index, _)| index + 1);
        let mut open = BTreeMap::new();
        #[allow(clippy::cast_precision_loss, reason = "some hundreds")]
        let rows = (0..last).map(|index| {
            let at = length.as_secs_f64() * index as f64;
            let Some(slice) = self.slices.get(&index) else {
                // What was open stays open.
                return results::Slice { at, open: open.clone(), ..results::Slice::default() };
            };
            open.clone_from(&slice.open);
            results::Slice {
                at,
                ok: slice.ok.clone(),
                failed: slice.failed.clone(),
                disturbances: slice.disturbances.clone(),
                p50: millis(slice.latency.value_at_quantile(0.5)),
                p99: millis(slice.latency.value_at_quantile(0.99)),
                max: millis(slice.latency.max()),
                open: slice.open.clone(),
            }
        });
        results::Slices { seconds: length.as_secs_f64(), rows: rows.collect() }
    }

    /// One row for each kind, and one for all. Beside them, how many failures a client that retries once would have
    /// seen that are not excused.
    #[must_use]
    pub fn kinds(&self, traffic: &[Traffic]) -> (Vec<KindRow>, KindRow, u64) {
        let mut all = Tally::new();
        for (one, tally) in traffic.iter().zip(&self.tallies) {
            all.add(tally, !one.is_paced());
        }
        let rows =
            traffic.iter().zip(&self.tallies).map(|(traffic, tally)| tally.row(&traffic.name)).collect();
        let total = all.row("total");
        let seen = total.failures() + all.mended_and_excused - all.excused - all.mended_by_retry;
        (rows, total, seen)
    }

    /// The failures that were kept, in order of time.
    #[must_use]
    pub fn failures(mut self) -> Vec<Failure> {
        self.failures.sort_by(|one, other| one.at.total_cmp(&other.at));
        self.failures
    }
}

/// How it goes.
#[derive(Clone, Copy, Debug, Default)]
pub struct SoFar {
    /// Exchanges that ended ok.
    pub ok: u64,
    /// Those that failed.
    pub failed: u64,
    /// Disturbances.
    pub disturbances: u64,
    /// Median of the last slice, in milliseconds.
    pub p50: f64,
    /// 99 % of it.
    pub p99: f64,
}

impl Tally {
    /// Adds another kind's counts; its latencies only if they are the proxy's doing.
    fn add(&mut self, other: &Tally, latency: bool) {
        add_all(&mut self.exchanges, &other.exchanges);
        add_all(&mut self.disturbances, &other.disturbances);
        self.excused += other.excused;
        self.mended_by_retry += other.mended_by_retry;
        self.mended_and_excused += other.mended_and_excused;
        self.connections.attempted += other.connections.attempted;
        self.connections.closed += other.connections.closed;
        self.connections.lost += other.connections.lost;
        add_all(&mut self.connections.failed, &other.connections.failed);
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
        if latency {
            merge(&mut self.steady, &other.steady);
            merge(&mut self.upgrading, &other.upgrading);
        }
    }

    fn row(&self, kind: &str) -> KindRow {
        let mut exchanges: BTreeMap<Unit, BTreeMap<_, _>> = BTreeMap::new();
        for ((unit, class), count) in &self.exchanges {
            exchanges.entry(*unit).or_default().insert(*class, *count);
        }
        KindRow {
            kind: kind.to_owned(),
            exchanges,
            excused: self.excused,
            mended_by_retry: self.mended_by_retry,
            disturbances: self.disturbances.clone(),
            connections: self.connections.clone(),
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            steady: latency(&self.steady),
            upgrading: latency(&self.upgrading),
        }
    }
}

fn add_all<K: Ord + Copy>(sum: &mut BTreeMap<K, u64>, other: &BTreeMap<K, u64>) {
    for (key, count) in other {
        *sum.entry(*key).or_default() += count;
    }
}

fn merge(sum: &mut Histogram<u64>, other: &Histogram<u64>) {
    // Both have the same bounds, so that nothing is out of them.
    let added = sum.add(other);
    debug_assert!(added.is_ok(), "{added:?}");
}

#[allow(clippy::cast_precision_loss, reason = "an hour in microseconds is far below 2^53")]
fn millis(micros: u64) -> f64 {
    micros as f64 / 1e3
}

fn latency(histogram: &Histogram<u64>) -> Latency {
    let at = |quantile| millis(histogram.value_at_quantile(quantile));
    Latency {
        count: histogram.len(),
        mean: if histogram.is_empty() { 0.0 } else { histogram.mean() / 1e3 },
        p50: at(0.5),
        p90: at(0.9),
        p99: at(0.99),
        p999: at(0.999),
        max: millis(histogram.max()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by a panic")]
mod tests {
    use tokio::sync::mpsc;
    use tokio::time::Instant;

    use super::*;
    use crate::now::Now;
    use crate::recorder::{Ended, Peer, Recorder};
    use crate::scenario::Scenario;
    use crate::witness::{Class, Disturbance};

    #[tokio::test(start_paused = true)]
    async fn threads_add_up_and_each_exchange_is_counted_once() {
        let scenario =
            Scenario::parse("warm_up = \"0s\"\n[[traffic]]\nkind = \"http1\"\n[[traffic]]\nkind = \"idle\"")
                .unwrap();
        let now = Now::new(Instant::now());
        tokio::time::advance(Duration::from_millis(2)).await;
        let length = Duration::from_millis(100);
        let (sender, mut slices) = mpsc::unbounded_channel();
        let threads: Vec<_> =
            (0..2).map(|_| Recorder::new(now.clone(), &scenario, length, sender.clone())).collect();
        drop(sender);
        let peer = Peer { local_port: 7, connected: Instant::now(), reused: true };
        let ended = |class, second| Ended {
            unit: Unit::Request,
            class,
            intended: Instant::now() - Duration::from_millis(2),
            before: now.moment(),
            peer: Some(peer),
            bytes_seen: 0,
            bytes_in: 10,
            bytes_out: 1,
            second,
            detail: String::new(),
        };
        for thread in &threads {
            thread.connecting(0);
            thread.connected(0);
            thread.ended(0, ended(Class::Ok, None));
            thread.ended(1, ended(Class::Reset, Some(Class::Ok)));
        }
        tokio::time::advance(Duration::from_millis(250)).await;
        threads[0].disturbed(1, Disturbance::ClosedIdle);
        threads[1].disconnected(0, 0, true);
        let mut sum = Sum::default();
        threads.iter().for_each(|thread| sum.totals(thread.finish()));
        drop(threads);
        while let Some(slice) = slices.recv().await {
            sum.slice(slice);
        }
        let (kinds, total, seen) = sum.kinds(&scenario.traffic);
        assert_eq!((total.exchanges(), total.failures(), seen, total.disturbances()), (4, 2, 0, 1));
        assert_eq!((kinds[0].in_class(Class::Ok), kinds[1].in_class(Class::Reset)), (2, 2));
        assert_eq!((kinds[0].connections.attempted, kinds[0].connections.lost), (2, 1));
        assert_eq!((total.bytes_in, total.bytes_out, total.steady.count), (40, 4, 2));
        assert!((total.steady.p50 - 2.0).abs() < 0.01, "{:?}", total.steady);
        let slices = sum.slices(length);
        assert_eq!(slices.rows.len(), 3);
        assert_eq!(slices.rows[0].ok[&Unit::Request], 2);
        assert_eq!(slices.rows[1].open, slices.rows[0].open);
        assert_eq!(slices.rows[2].open[&0], 1);
        assert_eq!(sum.failures().len(), 2);
    }
    /// The line that shows how it goes said `0.00/s` in the middle of all slices that are longer than the second over
    /// which it measures.
    #[tokio::test(start_paused = true)]
    async fn what_is_counted_is_told_before_its_slice_is_over() {
        let scenario = Scenario::parse("warm_up = \"0s\"\n[[traffic]]\nkind = \"http1\"").unwrap();
        let now = Now::new(Instant::now());
        let (sender, mut slices) = mpsc::unbounded_channel();
        let length = Duration::from_secs(12);
        let recorder = Recorder::new(now.clone(), &scenario, length, sender);
        let mut sum = Sum::default();
        recorder.connected(0);
        for done in 1..=3 {
            recorder.ended(0, ok(&now, Instant::now()));
            recorder.report();
            sum.slice(slices.try_recv().unwrap());
            assert_eq!(sum.so_far().ok, done);
            recorder.report();
            assert!(slices.try_recv().is_err(), "nothing is told twice");
        }
        tokio::time::advance(length).await;
        recorder.report();
        drop(recorder.finish());
        while let Ok(slice) = slices.try_recv() {
            sum.slice(slice);
        }
        let rows = sum.slices(length).rows;
        assert_eq!(rows[0].ok.values().sum::<u64>(), 3);
        assert_eq!(rows[0].open.values().sum::<u64>(), 1, "what is open counts once for a slice");
    }

    fn ok(now: &Now, intended: Instant) -> Ended {
        Ended {
            unit: Unit::Request,
            class: Class::Ok,
            intended,
            before: now.moment(),
            peer: None,
            bytes_seen: 0,
            bytes_in: 0,
            bytes_out: 0,
            second: None,
            detail: String::new(),
        }
    }
}
