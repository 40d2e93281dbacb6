//! The last ten minutes: what whoever begins to watch now has missed. Kept by the process, whether anybody watches or
//! not, and given to the next generation.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Generation, Overview};

/// How long it reaches back, in milliseconds.
const KEPT_MS: u64 = 600_000;
/// Moments are at least so far apart, in milliseconds: documents are made more often when something changes.
const APART_MS: u64 = 900;
/// The newest moments that are never thinned out.
const ALL_OF: usize = 60;
/// How many generations are remembered, and how many phases of each.
const MOST_LANES: usize = 32;
const MOST_STRETCHES: usize = 16;

/// What was, in columns: each has a value for each moment of `t_ms`. Another version may have more of them, or fewer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Past {
    /// The moments, in milliseconds since `begin_ms`.
    pub t_ms: Vec<u64>,
    /// Milliseconds from the Unix epoch to the first moment.
    pub begin_ms: u64,
    /// Requests per second.
    pub requests_per_s: Vec<Option<f64>>,
    /// Failures per second.
    pub failures_per_s: Vec<Option<f64>>,
    /// Half of the requests took no longer, in milliseconds.
    pub latency_p50_ms: Vec<Option<f64>>,
    /// All but one in a hundred took no longer.
    pub latency_p99_ms: Vec<Option<f64>>,
    /// Requests in flight.
    pub in_flight: Vec<u64>,
    /// Connections that are open.
    pub open: Vec<u64>,
    /// Connections that were dropped so far.
    pub dropped: Vec<u64>,
    /// What each generation did.
    pub lanes: BTreeMap<u32, Lane>,
}

/// What one generation did, and what it had.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Lane {
    /// Its pid; zero if it never was ready.
    pub pid: u32,
    /// The version of its program.
    pub version: String,
    /// When it was started, in milliseconds since the Unix epoch.
    pub started_ms: u64,
    /// When it was seen to be gone.
    pub gone_ms: Option<u64>,
    /// What it did, the earliest first.
    pub stretches: Vec<Stretch>,
    /// Moments at which it had something else than before, in milliseconds since it was started.
    pub t_ms: Vec<u64>,
    /// Its connections then.
    pub open: Vec<u64>,
    /// Its requests in flight then.
    pub in_flight: Vec<u64>,
}

/// A phase of a generation, in milliseconds since the Unix epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stretch {
    /// What it did.
    pub phase: String,
    /// Since when.
    pub from_ms: u64,
    /// Until when.
    pub to_ms: u64,
}

impl Past {
    /// What a predecessor handed on, at most so long as this process keeps it; nothing, if it is not understood.
    pub fn handed_on(text: &str) -> Past {
        let mut past: Past = serde_json::from_str(text).unwrap_or_default();
        let length = past.t_ms.len();
        past.requests_per_s.resize(length, None);
        past.failures_per_s.resize(length, None);
        past.latency_p50_ms.resize(length, None);
        past.latency_p99_ms.resize(length, None);
        past.in_flight.resize(length, 0);
        past.open.resize(length, 0);
        past.dropped.resize(length, 0);
        for lane in past.lanes.values_mut() {
            lane.open.resize(lane.t_ms.len(), 0);
            lane.in_flight.resize(lane.t_ms.len(), 0);
        }
        past
    }

    /// As text of at most so many bytes: what is older is told more coarsely, as far as that takes.
    pub fn hand_on(&self, most: usize) -> Option<String> {
        let mut past = self.clone();
        loop {
            let text = serde_json::to_string(&past).ok()?;
            if text.len() <= most {
                return Some(text);
            }
            if !past.thin_out() {
                return None;
            }
        }
    }

    /// Adds what is so now.
    pub(super) fn add(&mut self, overview: &Overview) {
        let now = overview.at_ms;
        self.follow(overview);
        let last = self.t_ms.last().map(|t| self.begin_ms + t);
        if last.is_some_and(|last| now < last + APART_MS) {
            return;
        }
        if self.t_ms.is_empty() {
            self.begin_ms = now;
        }
        let rates = overview.rates.as_ref();
        self.t_ms.push(now.saturating_sub(self.begin_ms));
        self.requests_per_s.push(rates.map(|rates| rates.requests_per_s));
        self.failures_per_s.push(rates.map(|rates| rates.failures_per_s));
        self.latency_p50_ms.push(rates.and_then(|rates| rates.latency_p50_ms));
        self.latency_p99_ms.push(rates.and_then(|rates| rates.latency_p99_ms));
        self.in_flight.push(overview.generations.iter().map(|one| one.requests_in_flight).sum());
        self.open.push(overview.generations.iter().map(|one| one.all_connections().open).sum());
        self.dropped.push(overview.totals.dropped.values().sum());
        for one in &overview.generations {
            if let Some(lane) = self.lanes.get_mut(&one.generation) {
                lane.note(now, one.all_connections().open, one.requests_in_flight);
            }
        }
        self.forget_before(now.saturating_sub(KEPT_MS));
    }

    fn follow(&mut self, overview: &Overview) {
        let now = overview.at_ms;
        let alive = overview.with_starting();
        for one in &alive {
            let lane = self.lanes.entry(one.generation).or_default();
            if lane.gone_ms.is_some() {
                // One that failed had this number, too.
                *lane = Lane::default();
            }
            lane.see(one, now);
        }
        for (number, lane) in &mut self.lanes {
            if lane.gone_ms.is_none() && alive.iter().all(|one| one.generation != *number) {
                lane.gone_ms = Some(now);
                lane.note(now, 0, 0);
            }
        }
        while self.lanes.len() > MOST_LANES {
            self.lanes.pop_first();
        }
    }

    fn forget_before(&mut self, ms: u64) {
        let old = self.t_ms.partition_point(|t| self.begin_ms + t < ms);
        self.keep(|i| i >= old);
        self.lanes.retain(|_, lane| lane.gone_ms.is_none_or(|gone| gone >= ms));
        for lane in self.lanes.values_mut() {
            // The last of the old ones is what was so when the ten minutes began.
            let old = lane.t_ms.partition_point(|t| lane.started_ms + t < ms).saturating_sub(1);
            lane.keep(|i| i >= old);
            lane.stretches.retain(|stretch| stretch.to_ms >= ms);
        }
    }

    /// Leaves out every other of the older moments; `false` if nothing is left to be left out.
    fn thin_out(&mut self) -> bool {
        let moments =
            |past: &Past| past.t_ms.len() + past.lanes.values().map(|lane| lane.t_ms.len()).sum::<usize>();
        let before = moments(self);
        let old = self.t_ms.len().saturating_sub(ALL_OF);
        self.keep(|i| i >= old || i % 2 == 0);
        for lane in self.lanes.values_mut() {
            let old = lane.t_ms.len().saturating_sub(ALL_OF / 2);
            lane.keep(|i| i >= old || i % 2 == 0);
        }
        if moments(self) < before {
            return true;
        }
        // Many short generations: those that are gone first.
        self.lanes.pop_first().is_some()
    }

    fn keep(&mut self, wanted: impl Fn(usize) -> bool) {
        let first = self.t_ms.iter().enumerate().find(|(i, _)| wanted(*i)).map_or(0, |(_, t)| *t);
        for column in [&mut self.t_ms, &mut self.in_flight, &mut self.open, &mut self.dropped] {
            keep(column, &wanted);
        }
        let rates = [&mut self.requests_per_s, &mut self.failures_per_s];
        for column in rates.into_iter().chain([&mut self.latency_p50_ms, &mut self.latency_p99_ms]) {
            keep(column, &wanted);
        }
        self.begin_ms += first;
        self.t_ms.iter_mut().for_each(|t| *t -= first);
    }
}

impl Lane {
    fn see(&mut self, one: &Generation, now: u64) {
        match self.stretches.last_mut() {
            Some(last) => {
                last.to_ms = now;
                // Between two phases none may be read.
                if last.phase != one.phase && !one.phase.is_empty() {
                    self.begin(&one.phase, now, now);
                }
            }
            None => self.begin(&one.phase, one.started_ms.min(now), now),
        }
        self.pid = one.pid;
        self.version.clone_from(&one.version);
        if self.started_ms == 0 {
            self.started_ms = one.started_ms;
        }
    }

    fn begin(&mut self, phase: &str, from_ms: u64, to_ms: u64) {
        self.stretches.push(Stretch { phase: phase.to_owned(), from_ms, to_ms });
        self.stretches.drain(..self.stretches.len().saturating_sub(MOST_STRETCHES));
    }

    fn note(&mut self, now: u64, open: u64, in_flight: u64) {
        if (self.open.last(), self.in_flight.last()) == (Some(&open), Some(&in_flight)) {
            return;
        }
        self.t_ms.push(now.saturating_sub(self.started_ms));
        self.open.push(open);
        self.in_flight.push(in_flight);
    }

    fn keep(&mut self, wanted: impl Fn(usize) -> bool) {
        for column in [&mut self.t_ms, &mut self.open, &mut self.in_flight] {
            keep(column, &wanted);
        }
    }
}

fn keep<T>(column: &mut Vec<T>, wanted: &impl Fn(usize) -> bool) {
    let mut i = 0;
    column.retain(|_| {
        i += 1;
        wanted(i - 1)
    });
}

#[cfg(test)]
mod tests {
    use super::super::{Connections, Rates};
    use super::*;

    fn overview(at_ms: u64, phases: &[(u32, &str)]) -> Overview {
        let generation = |(generation, phase): &(u32, &str)| Generation {
            generation: *generation,
            phase: (*phase).to_owned(),
            started_ms: 1_000,
            connections: BTreeMap::from([(
                "http1".to_owned(),
                Connections { open: at_ms / 1_000 % 97, active: 1 },
            )]),
            requests_in_flight: at_ms / 1_000 % 7,
            ..Generation::default()
        };
        let requests_per_s = at_ms as f64 / 1e3 + 0.125;
        Overview {
            at_ms,
            generations: phases.iter().map(generation).collect(),
            rates: Some(Rates { requests_per_s, latency_p99_ms: Some(12.345), ..Rates::default() }),
            ..Overview::default()
        }
    }

    #[test]
    fn ten_minutes_are_kept_and_no_more() {
        let mut past = Past::default();
        for second in 1..=2_000 {
            past.add(&overview(second * 1_000, &[(1, "serving")]));
            past.add(&overview(second * 1_000 + 1, &[(1, "serving")]));
        }
        assert_eq!((past.begin_ms, past.t_ms.len()), (1_400_000, 601));
        assert_eq!((past.t_ms[0], past.t_ms[600]), (0, 600_000));
        assert_eq!(past.requests_per_s[600], Some(2_000.125));
        assert!(past.lanes[&1].t_ms.len() <= 602);
        assert_eq!(past.lanes[&1].stretches.len(), 1);
    }

    #[test]
    fn what_is_handed_on_fits_and_reaches_as_far() {
        let mut past = Past::default();
        for second in 1..=700 {
            past.add(&overview(second * 1_000, &[(1, "draining"), (2, "draining"), (3, "serving")]));
        }
        let text = past.hand_on(16 * 1024).unwrap();
        assert!(text.len() <= 16 * 1024);
        let next = Past::handed_on(&text);
        assert!(next.begin_ms <= past.begin_ms + 4_000, "{} {}", next.begin_ms, past.begin_ms);
        let last = |past: &Past| past.begin_ms + past.t_ms.last().unwrap();
        assert_eq!(last(&next), last(&past));
        assert_eq!(next.requests_per_s.last(), past.requests_per_s.last());
        assert_eq!(next.lanes.keys().collect::<Vec<_>>(), [&1, &2, &3]);
        assert_eq!(past.hand_on(10), None);
    }

    #[test]
    fn a_generation_is_followed_over_its_phases() {
        let mut past = Past::default();
        past.add(&overview(2_000, &[(1, "serving")]));
        past.add(&overview(3_000, &[(1, "probation"), (2, "candidate")]));
        past.add(&overview(4_000, &[(1, "draining"), (2, "serving")]));
        past.add(&overview(5_000, &[(2, "serving")]));
        let phases = |lane: &Lane| -> Vec<(String, u64, u64)> {
            lane.stretches.iter().map(|one| (one.phase.clone(), one.from_ms, one.to_ms)).collect()
        };
        let expected = [("serving", 1_000, 3_000), ("probation", 3_000, 4_000), ("draining", 4_000, 4_000)];
        assert_eq!(phases(&past.lanes[&1]), expected.map(|(phase, from, to)| (phase.to_owned(), from, to)));
        assert_eq!(past.lanes[&1].gone_ms, Some(5_000));
    }

    #[test]
    fn another_version_may_know_more_or_less() {
        let past = Past::handed_on(
            r#"{"begin_ms":5,"t_ms":[0,1000],"moons":[1,2],"lanes":{"3":{"pid":7,"t_ms":[4]}}}"#,
        );
        assert_eq!((past.t_ms.len(), past.open.len(), past.requests_per_s.len()), (2, 2, 2));
        assert_eq!((past.lanes[&3].pid, past.lanes[&3].open.len()), (7, 1));
        for text in ["", "7", "{\"t_ms\":7}"] {
            assert_eq!(Past::handed_on(text), Past::default());
        }
    }
}
