//! The results as tables of text: for the terminal, and for a README.

mod compared;
pub mod grid;
pub mod text;

use std::fmt::Write;

use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::{Cell, CellAlignment, ColumnConstraint, ContentArrangement, LineStyle, Table, TableStyle};

use crate::compare::Comparison;
use crate::results::Results;
use crate::witness::Class;
use grid::Grid;
use text::{at, count, counted, cut, deed, deeds, plain, sentence};

/// No frame: the columns stand for themselves, and a line parts them from their heads.
const CALM: TableStyle = TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─'));

/// Wide enough for the numbers, narrow enough for a window beside another.
const WIDTH: u16 = 99;

/// The first failures say how it began; all are in the file.
const FAILURES: usize = 5;
/// So many unexpected deeds are named.
const UNEXPECTED: usize = 10;
/// Characters of what was seen of a failure.
const DETAIL: usize = 100;

/// What an operator reads when the run is over: the verdict first.
#[must_use]
pub fn terminal(results: &Results) -> String {
    let mut out = sentence(results);
    out.push('\n');
    for reason in results.verdict.reasons.iter().chain(&results.verdict.remarks) {
        line(&mut out, format_args!("  - {}", plain(reason)));
    }
    add(&mut out, &grid::kinds(results));
    add(&mut out, &grid::classes(results));
    add(&mut out, &grid::disturbances(results));
    failures(&mut out, results);
    done(&mut out, results);
    add(&mut out, &grid::usage(results));
    out
}

/// The main table for a README, without the verdict.
#[must_use]
pub fn markdown(results: &Results) -> String {
    as_markdown(&grid::kinds(results))
}

/// What an operator reads when a comparison is over.
#[must_use]
pub fn compared(comparison: &Comparison) -> String {
    let mut out = String::new();
    for one in &comparison.proxies {
        let version = if one.version.is_empty() { "" } else { ": " };
        let missing = one.missing.as_deref().map(|why| format!(": MISSING: {}", plain(why)));
        let rounds = counted(one.rounds.len() as u64, "round");
        let upgrades = counted(one.sum(|round| round.upgrades), "upgrade");
        line(
            &mut out,
            format_args!(
                "{}{version}{}, {rounds}, {upgrades}{}",
                one.name,
                one.version,
                missing.unwrap_or_default()
            ),
        );
    }
    if comparison.interrupted {
        line(&mut out, format_args!("interrupted: what follows is what was done until then"));
    }
    add(&mut out, &compared::proxies(comparison));
    add(&mut out, &compared::sorts(comparison));
    out
}

/// The same as Markdown, the tables alone.
#[must_use]
pub fn compared_markdown(comparison: &Comparison) -> String {
    format!("{}\n{}", as_markdown(&compared::proxies(comparison)), as_markdown(&compared::sorts(comparison)))
}

fn as_markdown(grid: &Grid) -> String {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN).set_content_arrangement(ContentArrangement::Disabled);
    // One line is all that a head has there.
    let heads = grid.head.iter().map(|head| format!("{} {}", head.group, head.name).trim().to_owned());
    table.set_header(heads.collect::<Vec<_>>());
    table.add_rows(grid.rows.iter().map(|row| row.cells.iter().map(|cell| cell.replace('|', "\\|"))));
    align(&mut table, grid);
    format!("{table}\n")
}

/// A line, in a buffer that cannot fail.
fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    writeln!(out, "{text}").ok();
}

/// A table, and an empty line before it; nothing if it has no rows.
fn add(out: &mut String, grid: &Grid) {
    if grid.rows.is_empty() {
        return;
    }
    let mut table = Table::new();
    table.load_style(CALM).set_content_arrangement(ContentArrangement::Dynamic).set_width(WIDTH);
    let grouped = grid.head.iter().any(|head| !head.group.is_empty());
    let heads = grid.head.iter().enumerate().map(|(at, head)| {
        let alignment = if head.number { CellAlignment::Right } else { CellAlignment::Left };
        // A group is named once, above its first column.
        let first = at == 0 || grid.head[at - 1].group != head.group;
        let group = if first { head.group } else { "" };
        let text = if grouped { format!("{group}\n{}", head.name) } else { head.name.clone().into_owned() };
        Cell::new(text).set_alignment(alignment)
    });
    table.set_header(heads.collect::<Vec<_>>());
    table.add_rows(grid.rows.iter().map(|row| row.cells.clone()));
    align(&mut table, grid);
    for column in table.column_iter_mut() {
        column.set_padding((0, 1));
    }
    out.push('\n');
    for one in table.lines() {
        line(out, format_args!("{}", one.trim_end()));
    }
}

fn align(table: &mut Table, grid: &Grid) {
    for (column, head) in table.column_iter_mut().zip(&grid.head) {
        if head.number {
            column.set_cell_alignment(CellAlignment::Right);
            // Words may be broken where there is no room, numbers not.
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
}

/// The first failures, each in a line or two: a table of them would be wider than a window.
fn failures(out: &mut String, results: &Results) {
    let all = results.total.failures().max(results.failures.len() as u64);
    let grid = grid::failures(results, FAILURES);
    if grid.rows.is_empty() {
        return;
    }
    match all > grid.rows.len() as u64 {
        true => line(out, format_args!("\nthe first {} of {} failures", grid.rows.len(), count(all))),
        false => line(out, format_args!("\nfailures")),
    }
    for row in &grid.rows {
        if let [at, kind, ended, phase, port, bytes, after, detail] = row.cells.as_slice() {
            line(
                out,
                format_args!(
                    "  {at:>8}  {kind}: {ended}, {phase}, port {port}, {bytes} bytes seen, after {after} ms"
                ),
            );
            if !detail.is_empty() {
                line(out, format_args!("            {}", cut(detail, DETAIL - 15)));
            }
        }
    }
    let own = results.total.in_class(Class::Local);
    if own > 0 {
        line(
            out,
            format_args!("  {} of them the witness's own: it lacked a descriptor or a port", count(own)),
        );
    }
}

/// What was done to the proxy, and each deed that did not go as it should.
fn done(out: &mut String, results: &Results) {
    if results.disturbers.is_empty() {
        return;
    }
    let of = |kind| results.disturbers.iter().filter(move |one| one.deed == kind);
    let parts: Vec<String> = text::DEEDS
        .into_iter()
        .filter(|kind| of(*kind).count() > 0)
        .map(|kind| deeds(kind, of(kind).count()))
        .collect();
    let unexpected: Vec<_> = results.disturbers.iter().filter(|one| !one.as_expected).collect();
    let verdict = match unexpected.len() {
        0 => "all as expected".to_owned(),
        some => {
            format!("{} of {} NOT as expected", count(some as u64), count(results.disturbers.len() as u64))
        }
    };
    line(out, format_args!("\n{}: {verdict}", parts.join(", ")));
    for one in unexpected.iter().take(UNEXPECTED) {
        let detail = cut(&plain(&one.detail), DETAIL - 40);
        line(out, format_args!("  {:>8}  {}: {detail}", at(one.at), deed(one.deed)));
    }
    if unexpected.len() > UNEXPECTED {
        line(out, format_args!("  and {} more", count((unexpected.len() - UNEXPECTED) as u64)));
    }
}

#[cfg(test)]
mod tests;
