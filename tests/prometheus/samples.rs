//! Values by name and labels, be they from exuvia's own page or from Prometheus.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// The labels of a series.
pub type Labels = BTreeMap<String, String>;

/// One series at a moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    pub name: String,
    pub labels: Labels,
    pub value: f64,
}

/// Some of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Samples(pub Vec<Sample>);

impl Samples {
    /// Of a page in either text format.
    #[track_caller]
    pub fn of_page(page: &str) -> Samples {
        let lines = page.lines().filter(|line| !line.starts_with('#'));
        Samples(lines.map(|line| sample(line).unwrap_or_else(|| panic!("not a sample: {line:?}"))).collect())
    }

    /// Of a vector as Prometheus' HTTP API gives it.
    #[track_caller]
    pub fn of_vector(vector: &Value) -> Samples {
        let sample = |one: &Value| -> Option<Sample> {
            let mut labels: Labels = serde_json::from_value(one["metric"].clone()).ok()?;
            let name = labels.remove("__name__").unwrap_or_default();
            Some(Sample { name, labels, value: one["value"][1].as_str()?.parse().ok()? })
        };
        let all = vector.as_array().unwrap_or_else(|| panic!("not a vector: {vector}"));
        Samples(all.iter().map(|one| sample(one).unwrap_or_else(|| panic!("not a sample: {one}"))).collect())
    }

    /// The names that there are.
    pub fn names(&self) -> BTreeSet<&str> {
        self.0.iter().map(|sample| sample.name.as_str()).collect()
    }

    /// The values of this name with these labels, whatever others they have.
    pub fn values(&self, name: &str, labels: &[(&str, &str)]) -> impl Iterator<Item = f64> {
        let has = |sample: &&Sample| {
            let mut labels = labels.iter();
            sample.name == name
                && labels.all(|(label, value)| sample.labels.get(*label).is_some_and(|has| has == value))
        };
        self.0.iter().filter(has).map(|sample| sample.value).collect::<Vec<_>>().into_iter()
    }

    /// Their sum. That of counters is a whole number, and exact.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        self.values(name, labels).sum::<f64>() as u64
    }

    /// The values that a label has in series of this name.
    pub fn label(&self, name: &str, label: &str) -> BTreeSet<&str> {
        let of = self.0.iter().filter(|sample| sample.name == name);
        of.filter_map(|sample| sample.labels.get(label)).map(String::as_str).collect()
    }
}

/// No label of ours holds a quotation mark or a comma.
fn sample(line: &str) -> Option<Sample> {
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
    let pair = |pair: &str| {
        let (label, value) = pair.split_once("=\"")?;
        Some((label.to_owned(), value.strip_suffix('"')?.to_owned()))
    };
    let labels = labels.strip_suffix('}')?.split(',').filter(|text| !text.is_empty()).map(pair);
    Some(Sample { name: name.to_owned(), labels: labels.collect::<Option<_>>()?, value: value.parse().ok()? })
}
