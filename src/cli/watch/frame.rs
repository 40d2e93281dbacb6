//! What is shown, line by line.

use std::time::Duration;

use super::super::answered;
use super::super::screen::{Line, Style};
use super::super::time::{exactly, roughly};
use super::lanes::{Known, Lane};
use crate::overview::{Overview, words};

/// How wide it is where nothing says how wide it can be.
pub(super) const PLAIN_WIDTH: usize = 100;
/// How wide a figure of the traffic is.
const CELL: usize = 12;
/// What a lane has before its bar: its number and its phase.
const BEFORE: usize = 23;
/// What it may have behind it, with and without the version and what is left of a drain.
const BEHIND: [usize; 3] = [37, 19, 0];
const LEAST_BAR: usize = 10;
/// How many of the last upgrades are shown.
const UPGRADES: usize = 5;

const TICKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// How a phase is drawn and called.
fn drawn(phase: &str) -> (char, Style, &str) {
    let (sign, style) = match phase {
        "serving" | "upgrading" | "aborting" | "reclaiming" => ('█', Style::Green),
        "candidate" => ('▓', Style::Blue),
        "probation" | "committing" => ('▒', Style::Magenta),
        "draining" | "lame_duck" => ('░', Style::Yellow),
        "rolled_back" | "cut" => ('░', Style::Red),
        "starting" => ('·', Style::Faint),
        _ => (' ', Style::Faint),
    };
    (sign, style, words::phase(phase))
}

/// All of it, at most so wide.
pub(super) fn frame(known: &Known, width: usize) -> Vec<Line> {
    let mut lines = vec![title(&known.latest), Line::default()];
    lines.extend(traffic(known, width));
    lines.push(Line::default());
    lines.extend(lanes(known, width));
    lines.push(Line::default());
    lines.extend(upgrades(&known.latest));
    lines.iter().map(|line| line.cut(width)).collect()
}

/// All of it for a terminal of this size, with what ends it on the last line.
pub(super) fn whole(known: &Known, width: usize, height: usize, hint: &str) -> Vec<Line> {
    hinted(frame(known, width), width, height, hint)
}

fn hinted(mut lines: Vec<Line>, width: usize, height: usize, hint: &str) -> Vec<Line> {
    lines.truncate(height.saturating_sub(1));
    lines.push(Line::of(Style::Faint, hint).cut(width));
    lines
}

/// What is shown when nobody answers any more.
pub(super) fn lost(known: &Known, silent: Duration, width: usize, height: usize, hint: &str) -> Vec<Line> {
    let silent = u64::try_from(silent.as_millis()).unwrap_or(u64::MAX);
    let (style, words) = match known.latest.stopped {
        true => (
            Style::Bold,
            format!("exuvia was stopped {} ago; what is below was so before that", roughly(silent)),
        ),
        false => (
            Style::Alarm,
            format!("no word from exuvia for {}; what is below was so before that", roughly(silent)),
        ),
    };
    let mut lines = vec![Line::of(style, words).cut(width)];
    lines.extend(frame(known, width).into_iter().skip(1));
    hinted(lines, width, height, hint)
}

/// The lines as text, without the end of the last.
pub(super) fn plain(lines: &[Line]) -> String {
    lines.iter().map(Line::plain).collect::<Vec<_>>().join("\n")
}

fn title(overview: &Overview) -> Line {
    let Overview { version, generation, pid, phase, at_ms, owner_since_ms, headline, .. } = overview;
    let (_, style, words) = drawn(phase);
    // An earlier version has none.
    let headline =
        if headline.is_empty() { format!("generation {generation}: {words}") } else { headline.clone() };
    let mut line = Line::of(style, headline);
    let since =
        owner_since_ms.map(|since| format!(", the owner for {}", roughly(at_ms.saturating_sub(since))));
    line.push(Style::Faint, format!("   exuvia {version}, pid {pid}{}", since.unwrap_or_default()));
    line
}

fn traffic(known: &Known, width: usize) -> Vec<Line> {
    let Overview { generations, totals, rates, .. } = &known.latest;
    let in_flight: u64 = generations.iter().map(|one| one.requests_in_flight).sum();
    let open: u64 = generations.iter().map(|one| one.all_connections().open).sum();
    let dropped: u64 = totals.dropped.values().sum();
    let failures = rates.as_ref().map(|rates| rates.failures_per_s);
    let latency = |ms: Option<f64>| ms.map_or("-".into(), milliseconds);
    let alarming = |is_bad: bool| if is_bad { Style::Alarm } else { Style::Bold };
    let cells = [
        ("REQUESTS", format!("{}/s", count(known.rates.back().copied().unwrap_or(0.0))), Style::Bold),
        (
            "FAILURES",
            failures.map_or("-".into(), |rate| format!("{}/s", count(rate))),
            alarming(failures.unwrap_or(0.0) > 0.0),
        ),
        ("P50", latency(rates.as_ref().and_then(|rates| rates.latency_p50_ms)), Style::Bold),
        ("P99", latency(rates.as_ref().and_then(|rates| rates.latency_p99_ms)), Style::Bold),
        ("IN FLIGHT", in_flight.to_string(), Style::Bold),
        ("CONNECTIONS", open.to_string(), Style::Bold),
        ("DROPPED", dropped.to_string(), alarming(dropped > 0)),
    ];
    let mut lines = Vec::new();
    for cells in cells.chunks((width / CELL).max(1)) {
        let (mut heads, mut values) = (Line::default(), Line::default());
        for (head, value, style) in cells {
            heads.push(Style::Faint, format!("{head:<CELL$}"));
            values.push(*style, value);
            values.push(Style::Plain, " ".repeat(CELL.saturating_sub(value.chars().count()).max(1)));
        }
        lines.extend([heads, values]);
    }
    let room = width.min(PLAIN_WIDTH);
    let shown = known.rates.iter().skip(known.rates.len().saturating_sub(room));
    let most = shown.clone().fold(1.0, |most: f64, rate| most.max(*rate));
    let tick = |rate: &f64| TICKS[((rate / most * 7.0).round() as usize).min(7)];
    lines.push(Line::of(Style::Blue, shown.map(tick).collect::<String>()));
    lines
}

fn lanes(known: &Known, width: usize) -> Vec<Line> {
    // What does not fit is left out, column by column from the right, and at last the bar.
    let fits = |behind: &usize| BEFORE + LEAST_BAR + behind <= width;
    let behind = BEHIND.into_iter().find(fits).unwrap_or(0);
    let bar = width.min(2 * PLAIN_WIDTH).saturating_sub(BEFORE + behind);
    let bar = if bar < LEAST_BAR { 0 } else { bar };
    let window = known.window_ms();
    let begins = format!("{} ago", roughly(window));
    let mut heads = format!("{:>4} {:<17} ", "GEN", "PHASE");
    if bar > 0 {
        heads.push_str(&format!("{begins:<room$} now", room = bar - 4));
    }
    let columns = ["  IN FLIGHT   OPEN", "  VERSION  LEFT"];
    heads.extend(columns.iter().take(BEHIND.len() - 1 - position(behind)).copied());
    let mut lines = vec![Line::of(Style::Faint, heads)];
    let lane = |(number, lane): (&u32, &Lane)| self::lane(known, *number, lane, window, bar, behind);
    lines.extend(known.lanes.iter().rev().map(lane));
    lines
}

/// Which of [`BEHIND`] it is.
fn position(behind: usize) -> usize {
    BEHIND.iter().position(|one| *one == behind).unwrap_or(0)
}

fn lane(known: &Known, number: u32, lane: &Lane, window_ms: u64, bar: usize, behind: usize) -> Line {
    let now = known.latest.at_ms;
    let (_, style, words) = drawn(&lane.one.phase);
    let mut line = Line::of(Style::Bold, format!("{number:>4} "));
    line.push(style, format!("{words:<17} "));
    let step = window_ms / bar.max(1) as u64;
    for cell in 0..bar as u64 {
        // The last cell is now.
        let phase = lane.at(now.saturating_sub((bar as u64 - 1 - cell) * step)).unwrap_or_default();
        let (sign, style, _) = drawn(phase);
        line.push(style, if phase.is_empty() { ' ' } else { sign });
    }
    let Some(gone) = lane.gone_ms else {
        let open = lane.one.all_connections().open;
        if behind >= BEHIND[1] {
            line.push(Style::Plain, format!("  {:>9} {open:>6}  ", lane.one.requests_in_flight));
        }
        if behind >= BEHIND[0] {
            line.push(Style::Faint, format!("{:<8} ", lane.one.version));
            if lane.one.phase == "candidate" {
                line.push(Style::Blue, format!("answered {}", answered::requests(&lane.one.answers)));
            }
            if let Some(deadline) = lane.one.drain_deadline_ms {
                line.push(Style::Yellow, roughly(deadline.saturating_sub(now)));
            }
        }
        return line;
    };
    if behind > 0 {
        line.push(Style::Faint, format!("  {} ago", roughly(now.saturating_sub(gone))));
    }
    line
}

fn upgrades(overview: &Overview) -> Vec<Line> {
    let mut lines = vec![Line::of(Style::Faint, "LAST UPGRADES")];
    if let Some(next) = overview.upgrade {
        let since = exactly(overview.at_ms.saturating_sub(next.since_ms));
        let mut line = Line::of(Style::Plain, format!("{:>14}  {:>3} → {:<3} ", "now", next.from, next.to));
        line.push(Style::Blue, format!("under way for {since}"));
        lines.push(line);
    }
    for past in overview.upgrades.iter().rev().take(UPGRADES) {
        let ago = format!("{} ago", roughly(overview.at_ms.saturating_sub(past.ended_ms)));
        let style = match past.result.as_str() {
            "committed" => Style::Green,
            "rolled_back" => Style::Yellow,
            _ => Style::Red,
        };
        let mut line = Line::of(Style::Plain, format!("{ago:>14}  {:>3} → {:<3} ", past.from, past.to));
        line.push(style, format!("{:<11} ", past.result.replace('_', " ")));
        line.push(Style::Plain, format!("{:>9}  ", exactly(past.took_ms)));
        let why: Vec<&str> =
            [&*past.step, &*past.message].into_iter().filter(|text| !text.is_empty()).collect();
        line.push(Style::Faint, why.join(": ").replace('\n', "; "));
        lines.push(line);
    }
    if lines.len() == 1 {
        lines.push(Line::of(Style::Faint, format!("{:>14}", "none yet")));
    }
    lines
}

fn count(rate: f64) -> String {
    if rate >= 100.0 || rate.fract() == 0.0 { format!("{rate:.0}") } else { format!("{rate:.1}") }
}

fn milliseconds(ms: f64) -> String {
    match ms {
        ..10.0 => format!("{ms:.2} ms"),
        10.0..1_000.0 => format!("{ms:.0} ms"),
        _ => format!("{:.1} s", ms / 1e3),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::overview::{Connections, Generation, Rates};
    use crate::restart::PastUpgrade;

    fn generation(generation: u32, phase: &str, started_ms: u64, open: u64) -> Generation {
        let connections = BTreeMap::from([("http1".to_owned(), Connections { open, active: 1 })]);
        Generation {
            generation,
            pid: 4700 + generation,
            version: "0.1.0".into(),
            phase: phase.into(),
            started_ms,
            drain_deadline_ms: (phase == "draining").then_some(125_000),
            connections,
            requests_in_flight: 1,
            answers: BTreeMap::new(),
        }
    }

    fn known() -> Known {
        let mut known = Known::default();
        let past = |from, to, ended_ms, result: &str, message: &str| PastUpgrade {
            from,
            to,
            result: result.into(),
            step: if message.is_empty() { "" } else { "exec" }.into(),
            message: message.into(),
            ended_ms,
            took_ms: 5_040,
            cost: None,
        };
        let upgrades =
            vec![past(1, 2, 50_000, "failed", "no such file"), past(1, 2, 85_000, "committed", "")];
        let rates = Rates { requests_per_s: 12.5, latency_p99_ms: Some(7.5), ..Rates::default() };
        known.add(Overview {
            at_ms: 100_000,
            generation: 2,
            pid: 4702,
            version: "0.1.0".into(),
            phase: "serving".into(),
            headline: "generation 2 serves".into(),
            owner_since_ms: Some(85_000),
            generations: vec![generation(1, "draining", 10_000, 3), generation(2, "serving", 80_000, 40)],
            upgrades,
            rates: Some(rates),
            ..Overview::default()
        });
        known
    }

    #[test]
    fn a_frame_has_everything() {
        let expected = "\
generation 2 serves   exuvia 0.1.0, pid 4702, the owner for 15 s

REQUESTS    FAILURES    P50         P99         IN FLIGHT   CONNECTIONS DROPPED
12.5/s      0/s         -           7.50 ms     2           43          0
█

 GEN PHASE             2 min ago                            now  IN FLIGHT   OPEN  VERSION  LEFT
   2 serving                                            ▓██████          1     40  0.1.0
   1 draining                   █████████████████████████░░░░░░          1      3  0.1.0    25 s

LAST UPGRADES
      15 s ago    1 → 2   committed      5.04 s
      50 s ago    1 → 2   failed         5.04 s  exec: no such file";
        let shown = plain(&frame(&known(), PLAIN_WIDTH));
        assert_eq!(shown, expected, "\n{shown}");
    }

    #[test]
    fn a_small_terminal_gets_what_fits_and_what_ends_it() {
        let lines = whole(&known(), 20, 8, "q: end");
        assert_eq!(lines.len(), 8);
        assert_eq!(lines.last().unwrap().plain(), "q: end");
        let lines = lost(&known(), Duration::from_secs(3), 100, 24, "q: end");
        assert!(plain(&lines).starts_with("no word from exuvia for 3 s"));
        assert_eq!(lines.last().unwrap().plain(), "q: end");
    }

    /// On a narrow terminal the right half of a word, or of a number, was missing.
    #[test]
    fn a_narrow_terminal_has_whole_words() {
        let words = |lines: &[Line]| -> Vec<String> {
            let text = plain(lines).replace(|char| "█▓▒░·…".contains(char), " ");
            text.split_whitespace().map(str::to_owned).collect()
        };
        let wide = words(&frame(&known(), 400));
        for width in 12..100 {
            let lines = frame(&known(), width);
            for line in &lines {
                assert!(line.plain().chars().count() <= width, "{width}: {}", line.plain());
            }
            for word in words(&lines) {
                assert!(wide.contains(&word), "{width}: {word:?} of\n{}", plain(&lines));
            }
        }
    }

    #[test]
    fn one_that_is_gone_is_told_so() {
        let mut known = known();
        known.add(Overview { at_ms: 104_000, ..Overview::default() });
        known.add(Overview { at_ms: 109_000, ..Overview::default() });
        let shown = plain(&frame(&known, PLAIN_WIDTH));
        assert!(shown.contains("   1 gone ") && shown.contains("  5 s ago"), "{shown}");
    }
}
