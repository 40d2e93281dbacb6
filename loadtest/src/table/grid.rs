//! What the results say, as cells: the same ones in the terminal and on the page, so that the two cannot disagree.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Serialize;

use super::text::{at, count, deed, ending, plain, sensible, size, took, unit};
use crate::results::{KindRow, Latency, Results};
use crate::scenario::{Carrier, Traffic};
use crate::witness::{Class, Disturbance, Phase};

/// A table.
#[derive(Debug, Default, PartialEq, Serialize)]
pub struct Grid {
    /// Its columns.
    pub head: Vec<Head>,
    /// Its rows, a cell for each column.
    pub rows: Vec<Row>,
}

/// A column's head.
#[derive(Debug, PartialEq, Serialize)]
pub struct Head {
    /// What several columns have in common; empty if nothing.
    pub group: &'static str,
    /// What this one is.
    pub name: Cow<'static, str>,
    /// Whether it is a number, which stands at the right.
    pub number: bool,
}

/// A row.
#[derive(Debug, PartialEq, Serialize)]
pub struct Row {
    /// What it is.
    pub tone: Tone,
    /// The text of each cell.
    pub cells: Vec<String>,
}

/// What a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Tone {
    /// One like the others.
    Plain,
    /// The sum of the others.
    Total,
    /// Something went wrong.
    Bad,
}

impl Grid {
    /// With words in these columns.
    pub(super) fn words(mut self, names: &[&'static str]) -> Grid {
        self.head.extend(names.iter().map(|name| Head {
            group: "",
            name: Cow::Borrowed(name),
            number: false,
        }));
        self
    }

    /// With numbers in these columns.
    pub(super) fn numbers(mut self, group: &'static str, names: &[&'static str]) -> Grid {
        self.head.extend(names.iter().map(|name| Head { group, name: Cow::Borrowed(name), number: true }));
        self
    }

    pub(super) fn row(&mut self, tone: Tone, cells: Vec<String>) {
        debug_assert_eq!(cells.len(), self.head.len());
        self.rows.push(Row { tone, cells });
    }
}

fn bad_if(bad: bool) -> Tone {
    if bad { Tone::Bad } else { Tone::Plain }
}

/// The main table: what each kind of traffic saw.
pub fn kinds(results: &Results) -> Grid {
    let verdict = &results.verdict;
    let excused = verdict.excused > 0;
    let retry = verdict.failures_with_retry != verdict.failures;
    let mut grid = Grid::default().words(&["kind"]).numbers("", &["exchanges", "failed"]);
    if excused {
        grid = grid.numbers("", &["excused"]);
    }
    if retry {
        grid = grid.numbers("with", &["retry"]);
    }
    grid = grid.numbers("", &["disturbed"]);
    grid = grid.numbers("steady", &["p50 ms", "p99", "max"]).numbers("upgrading", &["p99 ms", "max"]);
    let mut row = |row: &KindRow, failed: u64, with_retry: u64, whole: bool| {
        let mut cells = vec![plain(&row.kind), count(row.exchanges()), count(failed)];
        if excused {
            cells.push(count(row.excused));
        }
        if retry {
            cells.push(count(with_retry));
        }
        cells.push(count(row.disturbances()));
        let quantile = |of: &Latency, value: f64| if of.count == 0 { "–".into() } else { sensible(value) };
        let (steady, upgrading) = (&row.steady, &row.upgrading);
        cells.extend([steady.p50, steady.p99, steady.max].map(|value| quantile(steady, value)));
        cells.extend([upgrading.p99, upgrading.max].map(|value| quantile(upgrading, value)));
        grid.row(if whole { Tone::Total } else { bad_if(failed > 0) }, cells);
    };
    for kind in &results.kinds {
        let failed = kind.failures().saturating_sub(kind.excused);
        row(kind, failed, failed.saturating_sub(kind.mended_by_retry), false);
    }
    row(&results.total, verdict.failures, verdict.failures_with_retry, true);
    grid
}

/// How many exchanges of each kind failed in each class; without rows if none did.
pub fn classes(results: &Results) -> Grid {
    let failed = |row: &KindRow| -> BTreeMap<Class, u64> {
        let counts = Class::ALL.into_iter().filter(|class| class.is_failure());
        counts.map(|class| (class, row.in_class(class))).filter(|(_, number)| *number > 0).collect()
    };
    by_kind(results, "failed", failed, Class::label)
}

/// How often each kind was disturbed in which way; without rows if none was.
pub fn disturbances(results: &Results) -> Grid {
    by_kind(results, "disturbed", |row| row.disturbances.clone(), Disturbance::label)
}

/// A row for each of some sorts, and which kinds it was seen by.
fn by_kind<K: Ord + Copy>(
    results: &Results,
    what: &'static str,
    counts: impl Fn(&KindRow) -> BTreeMap<K, u64>,
    label: impl Fn(K) -> &'static str,
) -> Grid {
    let mut grid = Grid::default().words(&[what]).numbers("", &["times"]).words(&["by kind"]);
    for (sort, number) in counts(&results.total).into_iter().filter(|(_, number)| *number > 0) {
        let mut kinds: Vec<(u64, &str)> = results
            .kinds
            .iter()
            .filter_map(|kind| Some((counts(kind).get(&sort).copied()?, kind.kind.as_str())))
            .filter(|(number, _)| *number > 0)
            .collect();
        kinds.sort_by_key(|(number, _)| std::cmp::Reverse(*number));
        let kinds: Vec<String> =
            kinds.into_iter().map(|(number, kind)| format!("{} {}", plain(kind), count(number))).collect();
        grid.row(Tone::Plain, vec![label(sort).to_owned(), count(number), kinds.join(", ")]);
    }
    grid
}

/// The first failures, not more than so many.
pub fn failures(results: &Results, most: usize) -> Grid {
    let mut grid = Grid::default().numbers("", &["at"]).words(&["kind", "ended", "phase"]);
    grid = grid.numbers("", &["port", "bytes", "after, ms"]).words(&["seen"]);
    for one in results.failures.iter().take(most) {
        let phase = match (one.phase, one.upgrade) {
            (Phase::Steady, _) => one.phase.label().to_owned(),
            (phase, upgrade) => format!("{} {upgrade}", phase.label()),
        };
        let port = if one.local_port == 0 { "–".to_owned() } else { one.local_port.to_string() };
        let second = one.second.map(|class| format!("; sent again: {}", class.label())).unwrap_or_default();
        let detail = format!("{}{second}", plain(&one.detail));
        let cells = vec![
            at(one.at),
            plain(&one.kind),
            ending(one),
            phase,
            port,
            count(one.bytes_seen),
            sensible(one.after_ms),
            detail,
        ];
        grid.row(bad_if(!one.excused), cells);
    }
    grid
}

/// What was done to the proxy, with the length of each phase.
pub fn deeds(results: &Results) -> Grid {
    let mut grid = Grid::default().numbers("", &["at"]).words(&["deed", "as expected"]);
    grid = grid.numbers("", &["starting", "probation", "draining"]).words(&["detail"]);
    for one in &results.disturbers {
        let phase = |phase| {
            let bands: Vec<_> = one.phases.iter().filter(|band| band.phase == phase).collect();
            let sum = bands.iter().map(|band| (band.to - band.from).max(0.0)).sum();
            if bands.is_empty() { "–".to_owned() } else { took(sum) }
        };
        let cells = vec![
            at(one.at),
            deed(one.deed).to_owned(),
            if one.as_expected { "yes" } else { "NO" }.to_owned(),
            phase(Phase::Starting),
            phase(Phase::Probation),
            phase(Phase::Draining),
            plain(&one.detail),
        ];
        grid.row(bad_if(!one.as_expected), cells);
    }
    grid
}

/// What the processes took.
pub fn usage(results: &Results) -> Grid {
    let mut grid = Grid::default().words(&["process"]);
    grid = grid.numbers("", &["CPU", "CPU/exchange", "peak memory"]);
    for one in &results.processes {
        let memory = if one.peak_memory_bytes == 0 { "–".to_owned() } else { size(one.peak_memory_bytes) };
        let each = format!("{} µs", sensible(one.cpu_us_per_exchange));
        let cpu = format!("{} s", sensible(one.cpu_seconds));
        grid.row(Tone::Plain, vec![plain(&one.name), cpu, each, memory]);
    }
    grid
}

/// How the connections of each kind ended, and what they carried.
pub fn connections(results: &Results) -> Grid {
    let mut grid = Grid::default().words(&["kind"]);
    grid = grid.numbers("connections", &["attempted", "failed", "closed", "lost"]);
    grid = grid.numbers("bytes", &["received", "sent"]).words(&["exchanges by unit"]);
    let rows = results.kinds.iter().map(|row| (row, Tone::Plain));
    for (row, tone) in rows.chain([(&results.total, Tone::Total)]) {
        let ends = &row.connections;
        let mut cells = vec![plain(&row.kind)];
        let failed = ends.failed.values().sum();
        cells.extend([ends.attempted, failed, ends.closed, ends.lost].map(count));
        cells.extend([row.bytes_in, row.bytes_out].map(size));
        let units = row.exchanges.iter().map(|(of, classes)| (*of, classes.values().sum::<u64>()));
        let units: Vec<String> = units.map(|(of, sum)| format!("{} {}", count(sum), unit(of))).collect();
        cells.push(units.join(", "));
        grid.row(if failed > 0 && tone == Tone::Plain { Tone::Bad } else { tone }, cells);
    }
    grid
}

/// The traffic that was asked for.
pub fn traffic(results: &Results) -> Grid {
    let mut grid = Grid::default().words(&["name", "kind", "over"]);
    grid = grid.numbers("", &["connections", "streams each"]).words(&["load", "bytes", "pause"]);
    for one in &results.scenario.traffic {
        let over = match one.carrier() {
            Carrier::Http1 => "HTTP/1.1",
            Carrier::Http1Tls => "HTTP/1.1, TLS",
            Carrier::Http2 => "HTTP/2, TLS",
        };
        let streams = if one.carrier() == Carrier::Http2 { count(one.streams as u64) } else { "–".into() };
        let bytes = format!("{} to {}", count(one.bytes.0 as u64), count(one.bytes.1 as u64));
        let pause = if one.pause.1.is_zero() {
            "none".to_owned()
        } else {
            let [low, high] = [one.pause.0, one.pause.1].map(humantime::format_duration);
            format!("{low} to {high}")
        };
        let connections = count(one.connections as u64);
        let kind = one.kind.name().to_owned();
        let cells = vec![plain(&one.name), kind, over.into(), connections, streams, load(one), bytes, pause];
        grid.row(Tone::Plain, cells);
    }
    grid
}

fn load(one: &Traffic) -> String {
    let rate = if one.rate > 0.0 {
        format!("{} a second, open loop", sensible(one.rate))
    } else {
        "one after the other".to_owned()
    };
    let messages = if one.messages > 0 { format!(", {} messages each", one.messages) } else { String::new() };
    let lasts = if one.lasts.is_zero() {
        String::new()
    } else {
        format!(", each {}", humantime::format_duration(one.lasts))
    };
    format!("{rate}{messages}{lasts}")
}
