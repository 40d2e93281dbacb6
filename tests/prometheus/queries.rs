//! Queries that are written down somewhere, and must give something.

use std::time::{Duration, SystemTime};

use super::server::Prometheus;

/// For operators.
const PAGE: &str = include_str!("../../docs/metrics.md");

/// A query, and where it stands.
pub struct Query {
    pub place: String,
    pub text: String,
}

/// Each gives a number at some moment since then.
#[track_caller]
pub fn give_something(prometheus: &Prometheus, begun: SystemTime, queries: &[Query]) {
    let seconds = |time: SystemTime| {
        time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs_f64().to_string()
    };
    let (start, end) = (seconds(begun), seconds(SystemTime::now()));
    let mut empty = Vec::new();
    for Query { place, text } in queries {
        let parameters = [("query", &**text), ("start", &*start), ("end", &*end), ("step", "1")];
        let answer = prometheus.ask("query_range", &parameters);
        let answer = answer.unwrap_or_else(|error| panic!("{place}: {error}"));
        let series = answer["result"].as_array().unwrap();
        let mut points = series.iter().flat_map(|series| series["values"].as_array().unwrap());
        if !points.any(|point| point[1] != "NaN") {
            empty.push(format!("{place}: {text}"));
        }
    }
    assert!(empty.is_empty(), "there is nothing to be seen at {empty:#?}");
}

/// Those of `docs/metrics.md`.
pub fn of_the_page() -> Vec<Query> {
    let blocks =
        PAGE.split("```promql\n").skip(1).map(|behind| behind.split("```").next().unwrap_or_default());
    let found: Vec<Query> =
        blocks.map(|text| Query { place: "docs/metrics.md".into(), text: text.to_owned() }).collect();
    assert!(found.len() > 3, "only {} queries in docs/metrics.md", found.len());
    found
}
