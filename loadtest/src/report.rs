//! The results as a page: one file that needs nothing else, to be kept, mailed and shown.
//!
//! The page's script draws what is embedded as JSON. Nothing of the results becomes markup: the JSON has no `<`, `>`
//! and `&`, so that no text of it can end the element that it stands in, and the script makes text nodes only.

use serde::Serialize;
use serde_json::json;

use crate::results::Results;
use crate::table::grid::{self, Grid};
use crate::table::text::{self, plain, sentence, size};
use crate::witness::{Class, Disturbance, Phase};

const PAGE: &str = include_str!("report/page.html");
/// Where the data stands in it.
const PLACE: &str = "\"DATA\"";

/// So many failures are listed: they are like each other, and all are in the JSON file.
const FAILURES: usize = 200;

/// What the script is given.
#[derive(Serialize)]
struct Data<'a> {
    results: &'a Results,
    sentence: String,
    toml: String,
    /// The words of each key in `results`.
    labels: serde_json::Value,
    tables: Tables,
    surroundings: Vec<(&'static str, String)>,
    /// All failures, the excused too.
    failures: u64,
}

#[derive(Serialize)]
struct Tables {
    kinds: Grid,
    classes: Grid,
    disturbances: Grid,
    deeds: Grid,
    failures: Grid,
    usage: Grid,
    connections: Grid,
    traffic: Grid,
}

/// The page.
#[must_use]
pub fn page(results: &Results) -> String {
    let data = Data {
        results,
        sentence: sentence(results),
        toml: results.scenario.to_toml(),
        labels: labels(),
        tables: Tables {
            kinds: grid::kinds(results),
            classes: grid::classes(results),
            disturbances: grid::disturbances(results),
            deeds: grid::deeds(results),
            failures: grid::failures(results, FAILURES),
            usage: grid::usage(results),
            connections: grid::connections(results),
            traffic: grid::traffic(results),
        },
        surroundings: surroundings(results),
        failures: results.total.failures().max(results.failures.len() as u64),
    };
    // A path in the scenario that is not UTF-8 has no JSON; the page then says so.
    let json = serde_json::to_string(&data)
        .unwrap_or_else(|error| json!({ "problem": error.to_string() }).to_string());
    PAGE.replacen(PLACE, &harmless(&json), 1)
}

/// JSON that stands in an HTML file, whatever is in its strings; these characters are nowhere else in JSON.
fn harmless(json: &str) -> String {
    json.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
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
        ("timeout", time(scenario.timeout)),
        ("upgrades", upgrades),
    ];
    rows.into_iter().filter(|(_, value)| !value.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_one_place_for_the_data() {
        assert_eq!(PAGE.matches(PLACE).count(), 1);
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
