//! The page in Chromium, headless: what it draws of results that are known, and that nothing can harm it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by a panic")]

#[path = "report/examples.rs"]
mod examples;
#[path = "report/harness.rs"]
mod harness;
#[path = "../../tests/peers/program.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with tests/peers.rs")]
mod program;

use std::fs;

use loadtest::report::page;
use loadtest::results::{Results, Slice};
use loadtest::table::grid::{self, Grid};
use loadtest::table::text::{plain, sentence};
use program::{Need, Program, skipped};
use serde_json::Value;
use tempfile::TempDir;

/// What Chromium saw of some pages.
struct Seen(TempDir);

impl Seen {
    /// Opens each page; `None` where there is no Chromium.
    fn of(pages: &[(&str, String)]) -> Option<Seen> {
        if skipped(&[Need::Program("chromium", "chromium"), Need::Python("websockets")]) {
            return None;
        }
        let folder = TempDir::new().unwrap();
        for (name, html) in pages {
            fs::write(folder.path().join(format!("{name}.html")), html).unwrap();
        }
        // For those who want to see it.
        let pictures = std::env::var("EXUVIA_TEST_PICTURES").ok();
        let mut arguments = vec!["--folder", folder.path().to_str().unwrap()];
        arguments.extend(pictures.iter().flat_map(|folder| ["--pictures", folder]));
        let summary = Program::start("report_page.py", &arguments).end();
        assert_eq!(summary["done"], pages.len(), "{summary}");
        Some(Seen(folder))
    }

    /// What was seen of a page.
    fn page(&self, name: &str) -> Value {
        let text = fs::read_to_string(self.0.path().join(format!("{name}.json"))).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    /// What was seen of a page that is whole, in windows of each size, light and dark; and under its crosshair.
    fn whole_page(&self, name: &str) -> (Vec<Value>, Value) {
        let mut seen = self.page(name);
        let crosshair = seen["crosshair"].take();
        assert_eq!(seen["console"], serde_json::json!([]));
        let looks: Vec<Value> =
            seen.as_object().unwrap().values().filter(|one| one.is_object()).cloned().collect();
        assert_eq!(looks.len(), 6);
        looks.iter().for_each(whole);
        let picture = |scheme| fs::read(self.0.path().join(format!("{name}.{scheme}.png"))).unwrap();
        let (light, dark) = (picture("light"), picture("dark"));
        assert!(light.len().min(dark.len()) > 20_000 && light != dark, "there is nothing on the pictures");
        (looks, crosshair)
    }
}

/// What must be so of every page, in every window.
fn whole(look: &Value) {
    assert_eq!(look["problem"], Value::Null);
    assert_eq!(look["hacked"], Value::Null, "a script of the data's has run");
    assert_eq!((&look["scripts"], &look["images"]), (&2.into(), &0.into()), "the data has become markup");
    for panel in look["panels"].as_array().unwrap() {
        assert_eq!(panel["broken"], 0, "{panel}");
        let mut labels: Vec<(f64, f64)> = serde_json::from_value(panel["labels"].clone()).unwrap();
        labels.sort_by(|one, other| one.0.total_cmp(&other.0));
        for pair in labels.windows(2) {
            assert!(pair[0].1 <= pair[1].0, "labels lie on each other: {pair:?}");
        }
    }
}

/// A panel of a page.
fn panel<'a>(look: &'a Value, name: &str) -> &'a Value {
    let panels = look["panels"].as_array().unwrap();
    panels.iter().find(|panel| panel["id"] == format!("panel-{name}")).unwrap()
}

/// The page has the very cells of the terminal.
fn has(look: &Value, name: &str, grid: &Grid) {
    let tables = look["tables"].as_array().unwrap();
    let table = tables.iter().find(|table| table["id"] == format!("table-{name}")).unwrap();
    let head: Vec<&str> = grid.head.iter().map(|head| &*head.name).collect();
    let rows: Vec<&[String]> = grid.rows.iter().map(|row| row.cells.as_slice()).collect();
    assert_eq!(
        (&table["head"], &table["rows"]),
        (&serde_json::json!(head), &serde_json::json!(rows)),
        "{name}"
    );
}

fn slices(results: &Results, wanted: impl Fn(&Slice) -> bool) -> usize {
    results.slices.rows.iter().filter(|slice| wanted(slice)).count()
}

fn rich_page(looks: &[Value], crosshair: &Value) {
    let results = examples::rich();
    let bands: usize = results.disturbers.iter().map(|deed| deed.phases.len()).sum();
    let failed = slices(&results, |slice| slice.failed.values().sum::<u64>() > 0);
    let disturbed = slices(&results, |slice| slice.disturbances.values().sum::<u64>() > 0);
    for look in looks {
        assert_eq!(look["badge"], "✕ FAILED");
        assert_eq!(format!("FAILED: {}", look["sentence"].as_str().unwrap()), sentence(&results));
        assert_eq!(look["reasons"], serde_json::json!(results.verdict.reasons));
        assert_eq!(look["toml"].as_str().unwrap(), results.scenario.to_toml());
        let panels = look["panels"].as_array().unwrap();
        assert_eq!(panels.len(), 5);
        assert!(panels.iter().all(|panel| panel["bands"] == bands), "{panels:?}");
        let top = panel(look, "deeds");
        assert_eq!((&top["deeds"], &top["failed"]), (&results.disturbers.len().into(), &failed.into()));
        assert_eq!((&top["excused"], &top["disturbed"]), (&1.into(), &disturbed.into()));
        assert_eq!(panel(look, "rate")["failures"], failed);
        assert_eq!(panel(look, "cpu")["lines"], 3);
        has(look, "kinds", &grid::kinds(&results));
        has(look, "classes", &grid::classes(&results));
        has(look, "disturbances", &grid::disturbances(&results));
        has(look, "deeds", &grid::deeds(&results));
        has(look, "failures", &grid::failures(&results, usize::MAX));
        has(look, "usage", &grid::usage(&results));
        has(look, "connections", &grid::connections(&results));
        has(look, "traffic", &grid::traffic(&results));
    }
    let grounds: Vec<&Value> = looks.iter().map(|look| &look["ground"]).collect();
    assert!(grounds.iter().any(|ground| *ground != grounds[0]), "light and dark are the same: {grounds:?}");
    let says = |step: &str, text: &str| {
        let said = crosshair[step]["readout"].as_str().unwrap();
        assert!(said.starts_with(text), "after {step}: {said}");
        assert_eq!(crosshair[step]["crosses"], if step == "Escape" { 0 } else { 5 });
    };
    says("Home", "0.0–0.1 s steady · ");
    says("ArrowRight", "0.1–0.2 s steady · ");
    says("PageDown", "0.4–0.5 s starting of 1 · ");
    says("End", "30.1–30.2 s after the load · ");
    says("ArrowLeft", "30.0–30.1 s after the load · ");
    // What ends after the load is no rate.
    assert_eq!(crosshair["End"]["values"][0], "–");
    says("Escape", "Point at a plot");
    says("pointed", "14.");
}

fn hostile_page(looks: &[Value]) {
    let results = examples::hostile();
    for look in looks {
        has(look, "kinds", &grid::kinds(&results));
        has(look, "failures", &grid::failures(&results, 200));
        let reasons: Vec<String> = results.verdict.reasons.iter().map(|reason| plain(reason)).collect();
        assert_eq!(look["reasons"], serde_json::json!(reasons));
        assert_eq!(panel(look, "rate")["failures"], results.slices.rows.len());
    }
}

/// All pages in one browser, since its start takes longer than they do.
#[test]
fn pages_in_chromium() {
    let (rich, many, hostile) = (examples::rich(), examples::many(), examples::hostile());
    let (empty, one) = (examples::empty(), examples::one_slice());
    let results = [("rich", &rich), ("many", &many), ("hostile", &hostile), ("empty", &empty), ("one", &one)];
    let mut pages: Vec<(&str, String)> =
        results.into_iter().map(|(name, results)| (name, page(results))).collect();
    // One that was cut in two and joined wrongly, and that has a script which is not its own.
    let stranger = "</script><script>window.hacked = 1</script>";
    pages.push(("broken", page(&rich).replacen("</script>", stranger, 1).replacen("\"run\":", "", 1)));
    let Some(seen) = Seen::of(&pages) else { return };

    let broken = seen.page("broken");
    let look = &broken["wide light"];
    assert!(look["problem"].as_str().unwrap().starts_with("This page is not whole: "), "{look}");
    assert_eq!(
        (&look["scripts"], &look["hacked"]),
        (&3.into(), &Value::Null),
        "the policy lets strangers in"
    );
    assert!(!broken["console"].as_array().unwrap().is_empty());

    let (looks, crosshair) = seen.whole_page("rich");
    rich_page(&looks, &crosshair);
    hostile_page(&seen.whole_page("hostile").0);

    for look in seen.whole_page("many").0 {
        assert_eq!(look["badge"], "✓ passed");
        assert_eq!(panel(&look, "deeds")["deeds"], 400);
        assert_eq!(panel(&look, "latency")["bands"], 1200);
        let times = panel(&look, "rate")["texts"].as_array().unwrap();
        assert!(times.contains(&"60 min".into()), "{times:?}");
    }
    for look in seen.whole_page("empty").0 {
        assert_eq!(look["readout"], "Nothing ended, so that there is nothing to plot.");
        assert_eq!(look["panels"].as_array().unwrap().len(), 4);
    }
    for look in seen.whole_page("one").0 {
        // 7 in 20 ms.
        assert_eq!(panel(&look, "rate")["lines"], 1);
        let rate = panel(&look, "rate")["texts"].as_array().unwrap();
        assert!(rate.contains(&"400/s".into()), "{rate:?}");
    }
}
