//! The results as a page: one file that needs nothing else, to be kept, mailed and shown.
//!
//! The page's script draws what is embedded as JSON. Nothing of the results becomes markup: the JSON has no `<`, `>`
//! and `&`, so that no text of it can end the element that it stands in; the script makes text nodes only; and the
//! page's policy lets no other script run than the one whose hash it has.
//!
//! The parts of the script, in order: [`FORMAT`] numbers and times; [`RUN`] the slices with their real lengths;
//! [`PLOT`] axes and shapes; [`PANELS`] what is plotted, each panel a function of a run; [`SCRIPT`] the page.

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::BASE64;
use serde::Serialize;
use serde_json::json;

use crate::results::{Deed, DeedKind, Latency, Results, Slice};
use crate::table::grid::{self, Grid};
use crate::table::text::{self, count, cut, plain, sensible, sentence, size};
use crate::witness::{Class, Disturbance, Phase};

const PAGE: &str = include_str!("report/page.html");
const STYLE: &str = include_str!("report/page.css");
const FORMAT: &str = include_str!("report/format.js");
const RUN: &str = include_str!("report/run.js");
const PLOT: &str = include_str!("report/plot.js");
const PANELS: &str = include_str!("report/panels.js");
const SCRIPT: &str = include_str!("report/page.js");

/// So many failures are listed: they are like each other, and all are in the JSON file.
const FAILURES: usize = 200;

/// What the script is given.
#[derive(Serialize)]
struct Data<'a> {
    /// The proxy, when, and the witness.
    who: Vec<String>,
    verdict: Verdict,
    figures: Vec<Figure>,
    run: Run<'a>,
    tables: Vec<Table>,
    surroundings: Vec<(&'static str, String)>,
    toml: String,
}

#[derive(Serialize)]
struct Verdict {
    state: &'static str,
    /// The first word of the sentence, and the rest of it.
    word: String,
    sentence: String,
    reasons: Vec<String>,
}

/// A key figure.
#[derive(Serialize)]
struct Figure {
    name: &'static str,
    value: String,
    note: String,
    bad: bool,
}

/// What is plotted.
#[derive(Serialize)]
struct Run<'a> {
    seconds: f64,
    slice_seconds: f64,
    slices: &'a [Slice],
    /// How many of each slice's failures are excused.
    excused: Vec<u64>,
    deeds: &'a [Deed],
    cpu: Vec<Cpu<'a>>,
    /// The words of each key.
    labels: serde_json::Value,
}

#[derive(Serialize)]
struct Cpu<'a> {
    name: String,
    by_slice: &'a [f64],
}

#[derive(Serialize)]
struct Table {
    id: &'static str,
    title: String,
    note: &'static str,
    grid: Grid,
}

/// The page.
#[must_use]
pub fn page(results: &Results) -> String {
    let data = Data {
        who: who(results),
        verdict: verdict(results),
        figures: figures(results),
        run: run(results),
        tables: tables(results),
        surroundings: surroundings(results),
        toml: results.scenario.to_toml(),
    };
    // Nothing of it is known to have no JSON; if something has none, the page says so.
    let json = serde_json::to_string(&data)
        .unwrap_or_else(|error| json!({ "problem": error.to_string() }).to_string());
    let script = script();
    // The data comes last, so that no text of it is taken for a place.
    let places = [
        ("STYLE-HASH", hash(STYLE)),
        ("SCRIPT-HASH", hash(&script)),
        ("STYLE", STYLE.to_owned()),
        ("SCRIPT", script),
        ("\"DATA\"", harmless(&json)),
    ];
    places.into_iter().fold(PAGE.to_owned(), |page, (place, text)| page.replacen(place, &text, 1))
}

/// All parts of it, with names that only they see.
fn script() -> String {
    let parts = [FORMAT, RUN, PLOT, PANELS, SCRIPT].join("\n");
    format!("\n'use strict';\n(() => {{\n{parts}}})();\n")
}

/// As a page's policy names what may run.
fn hash(text: &str) -> String {
    format!("sha256-{}", BASE64.encode(digest(&SHA256, text.as_bytes()).as_ref()))
}

/// JSON that stands in an HTML file, whatever is in its strings; these characters are nowhere else in JSON.
fn harmless(json: &str) -> String {
    json.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

fn who(results: &Results) -> Vec<String> {
    let of = &results.surroundings;
    let began = std::time::UNIX_EPOCH.checked_add(std::time::Duration::from_millis(results.started_unix_ms));
    // What is after the year 9999 has no such form.
    let began = began.filter(|_| results.started_unix_ms < 253_402_300_800_000);
    let began = began.map(|at| humantime::format_rfc3339_seconds(at).to_string().replace(['T', 'Z'], " "));
    let began = began.map(|text| format!("{} UTC", text.trim_end())).unwrap_or_default();
    let witness =
        if of.loadtest.is_empty() { String::new() } else { format!("seen by {}", plain(&of.loadtest)) };
    [plain(&of.proxy), began, witness, plain(&of.cpu)].map(|part| cut(&part, 120)).into()
}

fn verdict(results: &Results) -> Verdict {
    let whole = sentence(results);
    let (word, rest) = whole.split_once(": ").unwrap_or((&whole, ""));
    let state = match (results.verdict.passed, word.starts_with("FAILED")) {
        (_, true) => "failed",
        (true, false) => "passed",
        (false, false) => "interrupted",
    };
    let verdict = &results.verdict;
    let reasons = verdict.reasons.iter().chain(&verdict.remarks).map(|reason| plain(reason)).collect();
    Verdict { state, word: word.to_owned(), sentence: rest.to_owned(), reasons }
}

fn figures(results: &Results) -> Vec<Figure> {
    let (verdict, total) = (&results.verdict, &results.total);
    let figure = |name, value: String, note: String| Figure { name, value, note, bad: false };
    let per_second = if results.seconds > 0.0 {
        format!("{} a second", sensible(total.in_class(Class::Ok) as f64 / results.seconds))
    } else {
        String::new()
    };
    let mut notes = Vec::new();
    if verdict.failures_with_retry != verdict.failures {
        notes.push(format!("{} with one retry", count(verdict.failures_with_retry)));
    }
    if verdict.excused > 0 {
        notes.push(format!("{} more excused by a kill", count(verdict.excused)));
    }
    vec![
        figure("exchanges", count(total.exchanges()), per_second),
        Figure { bad: verdict.failures > 0, ..figure("failures", count(verdict.failures), notes.join(", ")) },
        figure("disturbances", count(total.disturbances()), "noticed, nothing lost".to_owned()),
        upgrades(&results.disturbers),
        latency("p99, steady", &total.steady),
        latency("p99, upgrading", &total.upgrading),
    ]
}

fn upgrades(deeds: &[Deed]) -> Figure {
    let good = |deed: &&Deed| matches!(deed.deed, DeedKind::Upgrade | DeedKind::Change);
    let done = deeds.iter().filter(good).filter(|deed| deed.as_expected).count();
    let unexpected = deeds.iter().filter(|deed| !deed.as_expected).count();
    let asked = deeds.iter().filter(good).count();
    let others = deeds.len() - asked;
    let mut notes = Vec::new();
    if others > 0 {
        notes.push(format!("{} bad or killed", count(others as u64)));
    }
    match (deeds.is_empty(), unexpected) {
        (true, _) => notes.push("none was asked for".to_owned()),
        (false, 0) => notes.push("all as expected".to_owned()),
        (false, some) => notes.push(format!("{} not as expected", count(some as u64))),
    }
    let value = match asked == done {
        true => count(done as u64),
        false => format!("{} of {}", count(done as u64), count(asked as u64)),
    };
    Figure { name: "upgrades done", value, note: notes.join(", "), bad: unexpected > 0 }
}

fn latency(name: &'static str, of: &Latency) -> Figure {
    let (value, note) = if of.count == 0 {
        ("–".to_owned(), String::new())
    } else {
        (
            format!("{} ms", sensible(of.p99)),
            format!("p50 {} ms, max {} ms", sensible(of.p50), sensible(of.max)),
        )
    };
    Figure { name, value, note, bad: false }
}

fn run(results: &Results) -> Run<'_> {
    let cpu = results.processes.iter().filter(|one| !one.cpu_by_slice.is_empty());
    Run {
        seconds: results.seconds,
        slice_seconds: results.slices.seconds,
        slices: &results.slices.rows,
        excused: excused(results),
        deeds: &results.disturbers,
        cpu: cpu.map(|one| Cpu { name: plain(&one.name), by_slice: &one.cpu_by_slice }).collect(),
        labels: labels(),
    }
}

/// How many failures of each slice are excused, as far as they were kept.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast of a float saturates")]
fn excused(results: &Results) -> Vec<u64> {
    let mut found = vec![0; results.slices.rows.len()];
    for failure in results.failures.iter().filter(|failure| failure.excused) {
        let slice = (failure.at / results.slices.seconds) as usize;
        if let Some(number) = found.get_mut(slice) {
            *number += 1;
        }
    }
    found
}

fn tables(results: &Results) -> Vec<Table> {
    let table = |id, title: &str, note, grid| Table { id, title: title.to_owned(), note, grid };
    let failures = grid::failures(results, FAILURES);
    let all = results.total.failures().max(results.failures.len() as u64);
    let first = match failures.rows.len() {
        shown if shown as u64 == all => "Failures".to_owned(),
        shown => format!("The first {shown} of {} failures", count(all)),
    };
    vec![
        table("kinds", "Kinds of traffic", "latency in milliseconds, of what ended ok", grid::kinds(results)),
        table("classes", "How exchanges failed", "the excused ones too", grid::classes(results)),
        table(
            "disturbances",
            "Disturbances",
            "noticed by a client that lost nothing by it",
            grid::disturbances(results),
        ),
        table("usage", "What the processes took", "while there was load", grid::usage(results)),
        table("deeds", "What was done to the proxy", "", grid::deeds(results)),
        table("failures", &first, "", failures),
        table("connections", "Connections", "", grid::connections(results)),
        table("traffic", "Traffic asked for", "", grid::traffic(results)),
    ]
}

/// The key of a value in JSON, and its words.
fn words<T: Serialize + Copy>(
    all: impl IntoIterator<Item = T>,
    label: impl Fn(T) -> &'static str,
) -> serde_json::Value {
    let pairs = all.into_iter().filter_map(|one| {
        let key = serde_json::to_value(one).ok()?;
        Some((key.as_str()?.to_owned(), label(one).into()))
    });
    serde_json::Value::Object(pairs.collect())
}

fn labels() -> serde_json::Value {
    json!({
        "classes": words(Class::ALL, Class::label),
        "disturbances": words(Disturbance::ALL, Disturbance::label),
        "phases": words([Phase::Starting, Phase::Probation, Phase::Draining], Phase::label),
        "deeds": words(text::DEEDS, text::deed),
    })
}

fn surroundings(results: &Results) -> Vec<(&'static str, String)> {
    let of = &results.surroundings;
    let (scenario, disturb) = (&results.scenario, &results.scenario.disturb);
    let time = |duration| humantime::format_duration(duration).to_string();
    let upgrades = match (disturb.every.is_zero(), disturb.upgrades) {
        (true, _) => "none".to_owned(),
        (false, 0) => format!("every {}", time(disturb.every)),
        (false, most) => format!("every {}, at most {most}", time(disturb.every)),
    };
    let rows = [
        ("proxy", plain(&of.proxy)),
        ("targets", plain(&of.targets.join(" "))),
        ("witness", plain(&of.loadtest)),
        ("kernel", plain(&of.kernel)),
        ("processor", if of.cpus == 0 { String::new() } else { format!("{} × {}", of.cpus, plain(&of.cpu)) }),
        ("memory", if of.memory_bytes == 0 { String::new() } else { size(of.memory_bytes) }),
        ("threads of load", of.threads.to_string()),
        ("arguments", plain(&of.arguments.join(" "))),
        ("seed", scenario.seed.to_string()),
        ("duration", time(scenario.duration)),
        ("warm-up", time(scenario.warm_up)),
        ("timeout", time(scenario.timeout)),
        ("upgrades", upgrades),
    ];
    rows.into_iter().filter(|(_, value)| !value.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_a_place_for_each_part_before_the_data() {
        let places = ["STYLE-HASH", "SCRIPT-HASH", "<style>STYLE<", "\"DATA\"<", "<script>SCRIPT<"];
        assert!(places.iter().all(|place| PAGE.matches(place).count() == 1));
        // Each is replaced where it stands first, after those before it in the page are gone.
        assert_eq!([PAGE.matches("STYLE").count(), PAGE.matches("SCRIPT").count()], [2, 2]);
        for place in ["STYLE", "SCRIPT", "DATA"] {
            assert!(!STYLE.contains(place) && !script().contains(place), "{place}");
        }
    }

    #[test]
    fn no_part_ends_the_element_that_it_stands_in() {
        assert!(!STYLE.contains("</") && !script().contains("</"));
    }

    #[test]
    fn no_string_leaves_the_data() {
        let json = serde_json::to_string("</script><!-- & -->").unwrap();
        let safe = harmless(&json);
        assert!(!safe.contains(['<', '>', '&']), "{safe}");
        assert_eq!(serde_json::from_str::<String>(&safe).unwrap(), "</script><!-- & -->");
    }

    #[test]
    fn words_go_by_their_keys() {
        let labels = labels();
        assert_eq!(labels["classes"]["closed_in_answer"], "closed in mid-answer");
        assert_eq!(labels["deeds"]["kill_old"], "kill of the old process");
    }
}
