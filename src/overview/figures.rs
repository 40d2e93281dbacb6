//! What the segments say at a moment, and what the difference of two moments says.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use super::{Connections, Generation, Rates, Totals, Upstream};
use crate::restart::{self, Books, Segment};

/// Rates are of at least so long: of less they would jump.
const SHORTEST: Duration = Duration::from_millis(900);
/// And of at most so long: of more they would not be of this moment.
const LONGEST: Duration = Duration::from_secs(10);

/// The ends of requests that are no fault of the client's.
const OUR_FAULT: [&str; 4] = ["broken_off", "dropped_before_answer", "dropped_in_answer", "crashed"];
/// The ends of connections that are drops.
const DROPS: [&str; 4] = ["dropped_in_flight", "dropped_idle", "crashed", "lost"];

/// All values at one moment.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Figures {
    pub(super) at: Instant,
    pub(super) at_ms: u64,
    pub(super) owner_since_ms: Option<u64>,
    pub(super) generations: Vec<Generation>,
    pub(super) totals: Totals,
    pub(super) upstreams: Vec<Upstream>,
    /// How many requests took how long: by upper bound in nanoseconds, the last without one.
    durations: BTreeMap<u64, u64>,
}

impl Figures {
    pub(super) fn read(books: &Books) -> Figures {
        let all = books.totals();
        let by = |name: &str, label: &str| -> BTreeMap<String, u64> {
            let mut sums = BTreeMap::new();
            for (series, total) in all.named(name).filter(|(_, total)| total.value > 0) {
                let label = series.label(label).unwrap_or_default();
                if !label.is_empty() {
                    *sums.entry(label.to_owned()).or_default() += total.value;
                }
            }
            sums
        };
        let sum = |name: &str| all.named(name).map(|(_, total)| total.value).sum();

        let mut unanswered = by("requests_ended_total", "end");
        unanswered.remove("answered");
        let mut dropped = by("connections_ended_total", "end");
        dropped.retain(|end, _| DROPS.contains(&end.as_str()));
        let mut durations = BTreeMap::new();
        for (series, total) in all.named("request_duration_bucket") {
            let bound = series.label("le").and_then(|bound| bound.parse().ok()).unwrap_or(u64::MAX);
            *durations.entry(bound).or_default() += total.value;
        }
        let owner_since = |own: &Segment| gauge(&Books::only(own).totals(), "owner_since_ms");
        let mut generations: Vec<Generation> = books.alive().map(generation).collect();
        generations.sort_by_key(|one| one.generation);
        Figures {
            at: Instant::now(),
            at_ms: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, millis),
            owner_since_ms: books.own().and_then(owner_since),
            generations,
            totals: Totals {
                requests: sum("requests_total"),
                answers: by("requests_ended_total", "status"),
                unanswered,
                errors: by("request_errors_total", "error"),
                connections: sum("connections_total"),
                dropped,
                accept_errors: sum("accept_errors_total"),
            },
            upstreams: upstreams(&all),
            durations,
        }
    }

    /// Whether rates can be told of the time since `base`.
    pub(super) fn is_apart_from(&self, base: &Figures) -> bool {
        self.at.saturating_duration_since(base.at) >= SHORTEST
    }

    /// Whether what was told of the time before `base` is still of this moment.
    pub(super) fn is_soon_after(&self, base: &Figures) -> bool {
        self.at.saturating_duration_since(base.at) <= LONGEST
    }

    /// What happened since `base`.
    pub(super) fn rates_since(&self, base: &Figures) -> Rates {
        let interval = self.at.saturating_duration_since(base.at);
        let per_s = |count: u64| per_second(count, interval);
        let answers = growth(&self.totals.answers, &base.totals.answers);
        let unanswered = growth(&self.totals.unanswered, &base.totals.unanswered);
        let of = |counts: &BTreeMap<String, u64>, name: &str| counts.get(name).copied().unwrap_or(0);
        let failures =
            of(&answers, "5xx") + OUR_FAULT.iter().map(|reason| of(&unanswered, reason)).sum::<u64>();
        let durations = growth(&self.durations, &base.durations);
        Rates {
            interval_ms: millis(interval),
            requests_per_s: per_s(self.totals.requests.saturating_sub(base.totals.requests)),
            answers_per_s: answers.into_iter().map(|(class, count)| (class, per_s(count))).collect(),
            failures_per_s: per_s(failures),
            latency_p50_ms: quantile(&durations, 0.5),
            latency_p99_ms: quantile(&durations, 0.99),
        }
    }

    /// The servers, with what happened since `base`.
    pub(super) fn upstreams_since(&self, base: &Figures) -> Vec<Upstream> {
        let interval = self.at.saturating_duration_since(base.at);
        let since = |upstream: &Upstream| {
            let before = base.upstreams.iter().find(|before| before.name == upstream.name);
            let grown = |value: fn(&Upstream) -> u64| {
                per_second(value(upstream).saturating_sub(before.map_or(0, value)), interval)
            };
            Upstream {
                requests_per_s: Some(grown(|one| one.requests)),
                failures_per_s: Some(grown(|one| one.failures)),
                ..upstream.clone()
            }
        };
        self.upstreams.iter().map(since).collect()
    }
}

fn generation(segment: &Segment) -> Generation {
    let totals = Books::only(segment).totals();
    let mut connections: BTreeMap<String, Connections> = BTreeMap::new();
    for (series, open) in totals.open("connections_total") {
        let kind = series.label("kind").unwrap_or_default().to_owned();
        connections.entry(kind).or_default().open += at_least_none(open);
    }
    for (series, total) in totals.named("connections_active") {
        let kind = series.label("kind").unwrap_or_default();
        if let Some(connections) = connections.get_mut(kind) {
            connections.active += at_least_none(total.value.cast_signed());
        }
    }
    let set = |name: &str, label: &str| -> String {
        let set = totals.named(name).find(|(_, total)| total.value == 1);
        set.and_then(|(series, _)| series.label(label)).unwrap_or_default().to_owned()
    };
    Generation {
        generation: segment.table().generation,
        pid: segment.table().pid,
        version: set("version", "version"),
        phase: set("generations", "phase"),
        started_ms: segment.table().started_ms,
        drain_deadline_ms: gauge(&totals, "drain_deadline_ms"),
        connections,
        answers: answers(&totals),
        requests_in_flight: totals.open("requests_total").into_values().map(at_least_none).sum(),
    }
}

/// Requests that were answered in full, by class of status.
fn answers(totals: &restart::Totals) -> BTreeMap<String, u64> {
    let mut answers = BTreeMap::new();
    for (series, total) in totals.named("requests_ended_total") {
        let class = series.label("status").filter(|class| !class.is_empty() && total.value > 0);
        if let Some(class) = class {
            *answers.entry(class.to_owned()).or_default() += total.value;
        }
    }
    answers
}

fn upstreams(all: &restart::Totals) -> Vec<Upstream> {
    let mut upstreams: BTreeMap<&str, Upstream> = BTreeMap::new();
    let mut add = |name: &str, to: fn(&mut Upstream, Option<&str>, u64)| {
        for (series, total) in all.named(name) {
            if let Some(upstream) = series.label("upstream") {
                let entry = upstreams.entry(upstream).or_default();
                to(entry, series.label("status"), total.value);
            }
        }
    };
    add("upstream_requests_total", |upstream, _, count| upstream.requests += count);
    add("upstream_connect_failures_total", |upstream, _, count| upstream.failures += count);
    add("upstream_responses_total", |upstream, status, count| {
        upstream.failures += if status == Some("5xx") { count } else { 0 };
    });
    for (series, open) in all.open("upstream_connections_total") {
        if let Some(upstream) = series.label("upstream").and_then(|name| upstreams.get_mut(name)) {
            upstream.connections_open += at_least_none(open);
        }
    }
    let named = |(name, upstream): (&str, Upstream)| Upstream { name: name.to_owned(), ..upstream };
    upstreams.into_iter().map(named).collect()
}

/// The value of a gauge that has been set.
fn gauge(totals: &restart::Totals, name: &str) -> Option<u64> {
    totals.named(name).map(|(_, total)| total.value).find(|value| *value > 0)
}

/// The parts are not read in one moment: what ends meanwhile must not make less than nothing.
fn at_least_none(count: i64) -> u64 {
    u64::try_from(count).unwrap_or(0)
}

fn growth<K: Ord + Clone>(now: &BTreeMap<K, u64>, before: &BTreeMap<K, u64>) -> BTreeMap<K, u64> {
    let grown =
        |(key, count): (&K, &u64)| (key.clone(), count.saturating_sub(before.get(key).copied().unwrap_or(0)));
    now.iter().map(grown).collect()
}

fn per_second(count: u64, interval: Duration) -> f64 {
    let seconds = interval.as_secs_f64();
    if seconds > 0.0 { rounded(count as f64 / seconds) } else { 0.0 }
}

/// To a thousandth: more would be noise.
fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

/// What a share of all are not above, in milliseconds. Within a bucket they are taken to be spread evenly.
fn quantile(buckets: &BTreeMap<u64, u64>, share: f64) -> Option<f64> {
    let all: u64 = buckets.values().sum();
    let wanted = share * all as f64;
    let (mut below, mut lower) = (0.0, 0.0);
    for (bound, count) in buckets.iter().filter(|_| all > 0) {
        let (bound, count) = (*bound, *count as f64);
        if bound == u64::MAX {
            break;
        }
        if count > 0.0 && below + count >= wanted {
            return Some(rounded((lower + (bound as f64 - lower) * (wanted - below) / count) / 1e6));
        }
        below += count;
        lower = bound as f64;
    }
    // Longer than what the buckets can tell.
    (all > 0).then_some(rounded(lower / 1e6))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::restart::Plan;

    const BOUNDS: [u64; 2] = [1_000_000, 10_000_000];

    #[test]
    fn a_quantile_is_where_its_share_is_reached() {
        let buckets = |counts: [u64; 3]| {
            BTreeMap::from([(1_000_000, counts[0]), (10_000_000, counts[1]), (u64::MAX, counts[2])])
        };
        assert_eq!(quantile(&buckets([0, 0, 0]), 0.5), None);
        assert_eq!(quantile(&buckets([100, 0, 0]), 0.5), Some(0.5));
        assert_eq!(quantile(&buckets([50, 50, 0]), 0.5), Some(1.0));
        assert_eq!(quantile(&buckets([50, 50, 0]), 0.99), Some(9.82));
        assert_eq!(quantile(&buckets([0, 0, 7]), 0.5), Some(10.0));
        assert_eq!(quantile(&buckets([1, 0, 99]), 0.99), Some(10.0));
    }

    /// A generation that has two connections, one of them active, and a request in flight.
    #[tokio::test(start_paused = true)]
    async fn what_is_counted_is_seen() {
        let mut plan = Plan::default();
        let began = plan.counter("connections_total", &[("kind", "http1")]);
        let ends = ["closed", "dropped_idle", "crashed"]
            .map(|end| plan.end("connections_ended_total", &[("kind", "http1"), ("end", end)], began));
        let active = plan.gauge("connections_active", &[("kind", "http1")]);
        let requests = plan.counter("requests_total", &[("protocol", "http1")]);
        let ended = [("2xx", "answered"), ("5xx", "answered"), ("", "client_gone"), ("", "broken_off")].map(
            |(status, end)| plan.end("requests_ended_total", &[("status", status), ("end", end)], requests),
        );
        let duration = plan.histogram("request_duration", &[("protocol", "http1")], &BOUNDS);
        let phase = plan.gauge("generations", &[("phase", "draining")]);
        let version = plan.gauge("version", &[("version", "0.2.0")]);
        let deadline = plan.gauge("drain_deadline_ms", &[]);
        let server = ("upstream", "127.0.0.1:9000");
        let sent = plan.counter("upstream_requests_total", &[server, ("connection", "new")]);
        let bad = plan.counter("upstream_responses_total", &[server, ("status", "5xx")]);
        let segment = Segment::alone(&plan);
        let shard = segment.seat(0).take();
        let books = Books::only(&segment);
        let empty = Figures::read(&books);
        assert_eq!(empty.totals, Totals::default());

        for (slot, count) in [(began, 5), (ends[0], 1), (ends[1], 2), (requests, 21), (ended[0], 16)] {
            shard.add(slot, count);
        }
        for (slot, count) in [(ended[1], 2), (ended[2], 1), (ended[3], 1), (sent, 20), (bad, 2)] {
            shard.add(slot, count);
        }
        (0..20).for_each(|_| shard.observe(&duration, 500_000));
        shard.shift(active, 1);
        shard.set(phase, 1);
        shard.set(version, 1);
        shard.set(deadline, 1_000);
        tokio::time::advance(Duration::from_secs(2)).await;
        let figures = Figures::read(&books);

        let [generation] = &figures.generations[..] else { panic!("{figures:?}") };
        assert_eq!((generation.phase.as_str(), generation.version.as_str()), ("draining", "0.2.0"));
        assert_eq!(generation.all_connections(), Connections { open: 2, active: 1 });
        assert_eq!((generation.requests_in_flight, generation.drain_deadline_ms), (1, Some(1_000)));
        assert_eq!(figures.totals.dropped, BTreeMap::from([("dropped_idle".to_owned(), 2)]));
        assert_eq!((figures.totals.requests, figures.totals.connections), (21, 5));

        assert!(figures.is_apart_from(&empty) && figures.is_soon_after(&empty));
        let rates = figures.rates_since(&empty);
        assert_eq!((rates.interval_ms, rates.requests_per_s), (2000, 10.5));
        // Two with 5xx and one broken off; that a client has gone is no failure.
        assert_eq!((rates.answers_per_s["2xx"], rates.failures_per_s), (8.0, 1.5));
        assert_eq!((rates.latency_p50_ms, rates.latency_p99_ms), (Some(0.5), Some(0.99)));
        let [upstream] = &figures.upstreams_since(&empty)[..] else { panic!("{figures:?}") };
        assert_eq!((upstream.requests, upstream.failures), (20, 2));
        assert_eq!((upstream.requests_per_s, upstream.failures_per_s), (Some(10.0), Some(1.0)));
    }
}
