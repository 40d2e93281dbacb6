//! What a new process has done in its probation, for those who decide about it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ledger::Books;

/// What a daemon's work is, as it is counted: a series, and the label that tells how a piece of work ended. Where the
/// label is empty it was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    /// The name of the series, see [`Plan::counter`](super::Plan::counter).
    pub series: &'static str,
    /// The label.
    pub label: &'static str,
}

/// A probation under way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Trial {
    /// The generation that is watched.
    pub generation: u32,
    /// What it has done, by how that ended.
    pub done: BTreeMap<String, u64>,
    /// How much is wanted of it.
    pub wanted: u64,
    /// How long it is still watched at most, in milliseconds.
    pub left_ms: u64,
}

impl Work {
    /// What a generation that is alive has done.
    pub(super) fn done_by(self, generation: u32, books: &Books) -> BTreeMap<String, u64> {
        let mut done = BTreeMap::new();
        let segment = books.alive().find(|segment| segment.table().generation == generation);
        for (place, entry) in segment.iter().flat_map(|segment| segment.table().entries.iter().enumerate()) {
            let ended = entry.series.label(self.label).filter(|ended| !ended.is_empty());
            if let (Some(segment), Some(ended)) = (segment, ended)
                && entry.series.name() == self.series
            {
                *done.entry(ended.to_owned()).or_default() += segment.value(place);
            }
        }
        done.retain(|_, count| *count > 0);
        done
    }
}
