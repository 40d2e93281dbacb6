//! A comparison as cells: a row or a column for each proxy.

use std::borrow::Cow;
use std::collections::BTreeSet;

use super::grid::{Grid, Head, Tone};
use super::text::{count, plain, sensible, size};
use crate::compare::{Comparison, Contender};
use crate::witness::{Class, Disturbance};

/// The main table: what each proxy did, in one row.
pub(super) fn proxies(comparison: &Comparison) -> Grid {
    let retry = |one: &Contender| one.sum(|round| round.failures_with_retry);
    let with_retry = comparison.proxies.iter().any(|one| retry(one) != one.sum(|round| round.failures));
    let mut grid = Grid::default().words(&["proxy"]).numbers("", &["exchanges", "failed"]);
    if with_retry {
        grid = grid.numbers("with", &["retry"]);
    }
    grid = grid.numbers("", &["disturbed"]);
    grid = grid.numbers("steady", &["p50 ms", "p99"]).numbers("upgrading", &["p99 ms", "max"]);
    grid = grid.numbers("CPU", &["µs each"]).numbers("peak", &["memory"]);
    for one in comparison.proxies.iter().filter(|one| !one.rounds.is_empty()) {
        let failed = one.sum(|round| round.failures);
        let mut cells = vec![plain(&one.name)];
        cells.extend([one.sum(|round| round.exchanges), failed].map(count));
        if with_retry {
            cells.push(count(retry(one)));
        }
        cells.push(count(one.sum(|round| round.disturbances.values().sum())));
        cells.push(sensible(one.median(|round| round.steady.p50)));
        cells.push(sensible(one.median(|round| round.steady.p99)));
        cells.push(sensible(one.median(|round| round.upgrading.p99)));
        cells.push(sensible(one.most(|round| round.upgrading.max)));
        cells.push(sensible(one.median(|round| round.cpu_us_per_exchange)));
        let memory = one.rounds.iter().map(|round| round.peak_memory_bytes).max();
        cells.push(size(memory.unwrap_or(0)));
        grid.row(if failed > 0 { Tone::Bad } else { Tone::Plain }, cells);
    }
    grid
}

/// How often each sort of failure and of disturbance was seen, with a column for each proxy.
pub(super) fn sorts(comparison: &Comparison) -> Grid {
    let ran: Vec<&Contender> = comparison.proxies.iter().filter(|one| !one.rounds.is_empty()).collect();
    let mut grid = Grid::default().words(&["seen"]);
    let heads = ran.iter().map(|one| Head { group: "", name: Cow::Owned(plain(&one.name)), number: true });
    grid.head.extend(heads);
    let rounds = || ran.iter().flat_map(|one| &one.rounds);
    let classes: BTreeSet<Class> = rounds().flat_map(|round| round.classes.keys().copied()).collect();
    let disturbances: BTreeSet<Disturbance> =
        rounds().flat_map(|round| round.disturbances.keys().copied()).collect();
    for class in classes {
        let numbers = ran.iter().map(|one| one.sum(|round| round.classes.get(&class).copied().unwrap_or(0)));
        let cells = std::iter::once(format!("failed: {}", class.label())).chain(numbers.map(count));
        grid.row(Tone::Bad, cells.collect());
    }
    for sort in disturbances {
        let numbers =
            ran.iter().map(|one| one.sum(|round| round.disturbances.get(&sort).copied().unwrap_or(0)));
        let cells = std::iter::once(sort.label().to_owned()).chain(numbers.map(count));
        grid.row(Tone::Plain, cells.collect());
    }
    grid
}
