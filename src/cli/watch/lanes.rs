//! What is known of each generation: what it did when, and what it has now.

use std::collections::{BTreeMap, VecDeque};

use crate::overview::{Generation, Overview, Past, Stretch};

/// The longest time that is shown, in milliseconds.
const KEPT_MS: u64 = 600_000;
/// The times that may be shown.
const WINDOWS_MS: [u64; 4] = [60_000, 120_000, 300_000, KEPT_MS];
/// How many rates are kept.
const RATES: usize = 600;
/// Less than that is not taken for an interval, in milliseconds.
const SHORTEST_MS: u64 = 900;

/// What was seen so far.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) latest: Overview,
    pub(super) lanes: BTreeMap<u32, Lane>,
    /// Requests per second, one for each document.
    pub(super) rates: VecDeque<f64>,
    /// When the interval of the next rate begins, and how many requests there were.
    base: Option<(u64, u64)>,
}

/// One generation.
#[derive(Debug, Default)]
pub(super) struct Lane {
    pub(super) one: Generation,
    /// What it did, from when to when.
    pub(super) stretches: Vec<(String, u64, u64)>,
    pub(super) gone_ms: Option<u64>,
}

impl Known {
    /// Takes what another document says.
    pub(super) fn add(&mut self, overview: Overview) {
        let now = overview.at_ms;
        if let Some(past) = overview.past.as_ref().filter(|_| self.lanes.is_empty()) {
            self.begin_with(past);
        }
        let alive = overview.with_starting();
        for one in &alive {
            let lane = self.lanes.entry(one.generation).or_default();
            if lane.gone_ms.is_some() {
                // One that failed had this number, too.
                *lane = Lane::default();
            }
            lane.see(one, &overview);
        }
        for (number, lane) in &mut self.lanes {
            if lane.gone_ms.is_none() && alive.iter().all(|one| one.generation != *number) {
                lane.gone_ms = Some(now);
                lane.one.phase = "gone".to_owned();
            }
        }
        self.lanes.retain(|_, lane| lane.gone_ms.is_none_or(|gone| gone + KEPT_MS > now));
        let rate = self.rate(&overview);
        self.rates.push_back(rate);
        self.rates.drain(..self.rates.len().saturating_sub(RATES));
        self.latest = overview;
    }

    /// Takes what was before anybody watched.
    fn begin_with(&mut self, past: &Past) {
        self.rates = past.requests_per_s.iter().map(|rate| rate.unwrap_or(0.0)).collect();
        for (number, was) in &past.lanes {
            let Lane { one, stretches, gone_ms } = self.lanes.entry(*number).or_default();
            let phase = if was.gone_ms.is_some() { "gone" } else { "" };
            *one = Generation {
                generation: *number,
                pid: was.pid,
                version: was.version.clone(),
                phase: phase.to_owned(),
                started_ms: was.started_ms,
                ..Generation::default()
            };
            let stretch = |one: &Stretch| (one.phase.clone(), one.from_ms, one.to_ms);
            *stretches = was.stretches.iter().map(stretch).collect();
            *gone_ms = was.gone_ms;
        }
    }

    /// A generation that has just begun to be watched knows no interval yet; the counters go on over all of them.
    fn rate(&mut self, overview: &Overview) -> f64 {
        let (now, requests) = (overview.at_ms, overview.totals.requests);
        let (at, before) = *self.base.get_or_insert((now, requests));
        let ours = (now >= at + SHORTEST_MS).then(|| {
            self.base = Some((now, requests));
            requests.saturating_sub(before) as f64 * 1e3 / (now - at) as f64
        });
        let told = overview.rates.as_ref().map(|rates| rates.requests_per_s);
        told.or(ours).or(self.rates.back().copied()).unwrap_or(0.0)
    }

    /// How long ago the time line begins, in milliseconds.
    pub(super) fn window_ms(&self) -> u64 {
        let begun = self.lanes.values().filter_map(|lane| lane.stretches.first()).map(|(_, from, _)| *from);
        let age = self.latest.at_ms.saturating_sub(begun.min().unwrap_or(0));
        WINDOWS_MS.into_iter().find(|window| *window >= age).unwrap_or(KEPT_MS)
    }
}

impl Lane {
    fn see(&mut self, one: &Generation, overview: &Overview) {
        let now = overview.at_ms;
        if self.stretches.is_empty() {
            self.stretches = before(one, overview);
        }
        match self.stretches.last_mut() {
            Some((phase, _, to)) => {
                *to = now;
                // Between two phases none may be read.
                if *phase != one.phase && !one.phase.is_empty() {
                    self.stretches.push((one.phase.clone(), now, now));
                }
            }
            None => self.stretches.push((one.phase.clone(), one.started_ms.min(now), now)),
        }
        self.one = one.clone();
    }

    /// What it did at this time.
    pub(super) fn at(&self, ms: u64) -> Option<&str> {
        // Of two that meet there, the later.
        let found = self.stretches.iter().rev().find(|(_, from, to)| (*from..=*to).contains(&ms));
        found.map(|(phase, ..)| phase.as_str())
    }
}

/// What it did before anybody looked, as far as the last upgrades tell.
fn before(one: &Generation, overview: &Overview) -> Vec<(String, u64, u64)> {
    let committed = |is_its: &dyn Fn(u32, u32) -> bool| {
        let mut committed = overview.upgrades.iter().filter(|past| past.result == "committed");
        committed.find(|past| is_its(past.from, past.to)).map(|past| past.ended_ms)
    };
    let came = committed(&|_, to| to == one.generation);
    let left = committed(&|from, _| from == one.generation);
    let serves = came.unwrap_or(one.started_ms);
    let mut stretches = Vec::new();
    if let Some(came) = came {
        stretches.push(("candidate".to_owned(), one.started_ms, came));
    }
    if let Some(left) = left {
        stretches.push(("serving".to_owned(), serves, left));
    }
    stretches.push((one.phase.clone(), left.unwrap_or(serves), overview.at_ms));
    stretches
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::restart::{PastUpgrade, UnderWay};

    fn generation(generation: u32, phase: &str, started_ms: u64) -> Generation {
        Generation { generation, phase: phase.into(), started_ms, ..Generation::default() }
    }

    fn overview(at_ms: u64, generations: &[Generation]) -> Overview {
        Overview { at_ms, generations: generations.to_vec(), ..Overview::default() }
    }

    fn stretches(known: &Known, generation: u32) -> Vec<(&str, u64, u64)> {
        known.lanes[&generation]
            .stretches
            .iter()
            .map(|(phase, from, to)| (phase.as_str(), *from, *to))
            .collect()
    }

    #[test]
    fn what_was_before_is_told_by_the_last_upgrades() {
        let mut known = Known::default();
        let past = |from, to, ended_ms| PastUpgrade {
            from,
            to,
            result: "committed".into(),
            ended_ms,
            ..PastUpgrade::default()
        };
        let upgrades = vec![past(1, 2, 3_000), past(2, 3, 8_000)];
        let generations = vec![generation(2, "draining", 2_000), generation(3, "serving", 7_000)];
        known.add(Overview { at_ms: 9_000, upgrades, generations, ..Overview::default() });
        let second = [("candidate", 2_000, 3_000), ("serving", 3_000, 8_000), ("draining", 8_000, 9_000)];
        assert_eq!(stretches(&known, 2), second);
        assert_eq!(stretches(&known, 3), [("candidate", 7_000, 8_000), ("serving", 8_000, 9_000)]);
        assert_eq!(known.lanes[&2].at(2_500), Some("candidate"));
        assert_eq!(known.lanes[&2].at(9_500), None);
        assert_eq!(known.window_ms(), 60_000);
    }

    #[test]
    fn a_generation_is_followed_from_its_start_to_its_end() {
        let mut known = Known::default();
        let one = generation(1, "serving", 500);
        known.add(overview(1_000, std::slice::from_ref(&one)));
        let next = UnderWay { from: 1, to: 2, since_ms: 1_500 };
        known.add(Overview { upgrade: Some(next), ..overview(2_000, std::slice::from_ref(&one)) });
        known.add(overview(3_000, &[one.clone(), generation(2, "candidate", 1_600)]));
        known.add(overview(4_000, &[generation(2, "serving", 1_600)]));
        assert_eq!(known.lanes[&1].gone_ms, Some(4_000));
        let second = [("starting", 1_500, 3_000), ("candidate", 3_000, 4_000), ("serving", 4_000, 4_000)];
        assert_eq!(stretches(&known, 2), second);
        known.add(overview(4_000 + KEPT_MS, &[generation(2, "", 1_600)]));
        assert_eq!(known.lanes.keys().collect::<Vec<_>>(), [&2]);
        assert_eq!(stretches(&known, 2)[2], ("serving", 4_000, 4_000 + KEPT_MS));
    }

    #[test]
    fn what_the_process_has_kept_is_there_at_once() {
        let mut known = Known::default();
        let stretch = |phase: &str, from_ms, to_ms| Stretch { phase: phase.into(), from_ms, to_ms };
        let gone = crate::overview::Lane {
            gone_ms: Some(4_000),
            stretches: vec![stretch("serving", 1_000, 3_000), stretch("draining", 3_000, 4_000)],
            ..Default::default()
        };
        let past = Past {
            t_ms: vec![0, 1_000],
            requests_per_s: vec![Some(7.0), None],
            lanes: BTreeMap::from([(1, gone)]),
            ..Past::default()
        };
        let now = overview(9_000, &[generation(2, "serving", 2_000)]);
        known.add(Overview { past: Some(past), ..now });
        assert_eq!(known.lanes[&1].gone_ms, Some(4_000));
        assert_eq!(stretches(&known, 1), [("serving", 1_000, 3_000), ("draining", 3_000, 4_000)]);
        assert_eq!(known.rates.len(), 3);
    }

    #[test]
    fn the_rate_goes_on_over_an_upgrade() {
        let mut known = Known::default();
        let mut counted = |at_ms, requests, told: Option<f64>| {
            let mut overview = overview(at_ms, &[]);
            overview.totals.requests = requests;
            overview.rates =
                told.map(|requests_per_s| crate::overview::Rates { requests_per_s, ..Default::default() });
            known.add(overview);
            *known.rates.back().unwrap()
        };
        assert_eq!(counted(1_000, 100, None), 0.0);
        assert_eq!(counted(2_000, 150, Some(50.0)), 50.0);
        // Another generation answers.
        assert_eq!(counted(2_100, 151, None), 50.0);
        assert_eq!(counted(3_000, 210, None), 60.0);
    }
}
