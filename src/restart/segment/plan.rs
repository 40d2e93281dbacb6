//! What a segment will hold, before it exists.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};

use super::super::sys::MAX_WORDS;
use super::{Entry, HEADER, INCLUDES, Kind, MAGIC, MAX_SHARDS, MAX_TABLE, Owner, Series};

/// The place of a series in the shards of this process's own segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot(pub(super) u32);

#[cfg(test)]
impl Slot {
    /// The place of the entry that was planned so late.
    pub(crate) fn at(place: usize) -> Slot {
        Slot(place as u32)
    }
}

/// The places of a histogram: how many observations fell into each bucket, and their sum.
#[derive(Clone, Debug)]
pub struct Histogram {
    /// The upper bounds, each inclusive, in ascending order; what is above them has a bucket, too.
    bounds: &'static [u64],
    first: Slot,
    sum: Slot,
}

impl Histogram {
    /// The place of the bucket in which `value` falls, and that of the sum.
    pub(super) fn slots(&self, value: u64) -> (Slot, Slot) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        (Slot(self.first.0 + bucket as u32), self.sum)
    }
}

/// The series that a process is going to count, in order.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    entries: Vec<Entry>,
    known: HashMap<Series, Slot>,
    passing: Vec<&'static str>,
    includes: Vec<u64>,
}

/// Shards begin at a cache line of their own, so that no thread's counting slows another's.
const LINE: usize = 8;

impl Plan {
    /// A counter. The same series again is the same place.
    pub fn counter(&mut self, name: &str, labels: &[(&str, &str)]) -> Slot {
        self.add(Kind::Counter, Series::new(name, labels), None)
    }

    /// A histogram of whole numbers, such as nanoseconds: counters `name_bucket`, with the upper bound as label `le`,
    /// which are not cumulative, and `name_sum`. The same series again must have the same bounds.
    pub fn histogram(&mut self, name: &str, labels: &[(&str, &str)], bounds: &'static [u64]) -> Histogram {
        let texts = bounds.iter().map(u64::to_string).chain(["+Inf".to_owned()]);
        let mut slots = texts.map(|bound| {
            let labels: Vec<(&str, &str)> = labels.iter().copied().chain([("le", &*bound)]).collect();
            self.counter(&format!("{name}_bucket"), &labels)
        });
        let first = slots.next().unwrap_or(Slot(u32::MAX));
        slots.for_each(drop);
        let sum = self.counter(&format!("{name}_sum"), labels);
        Histogram { bounds, first, sum }
    }

    /// A gauge: ends with its process.
    pub fn gauge(&mut self, name: &str, labels: &[(&str, &str)]) -> Slot {
        self.add(Kind::Gauge, Series::new(name, labels), None)
    }

    /// A counter of ends of what began and is counted in `began`.
    pub fn end(&mut self, name: &str, labels: &[(&str, &str)], began: Slot) -> Slot {
        self.add(Kind::End, Series::new(name, labels), Some(began.0 as usize))
    }

    /// Has what began and has not ended when its process dies be counted in `end`.
    pub fn lost(&mut self, began: Slot, end: Slot) {
        if let Some(entry) = self.entries.get_mut(began.0 as usize) {
            entry.link = Some(end.0 as usize);
        }
    }

    /// Has an entry lead to another, if that is there.
    pub(crate) fn link(&mut self, slot: Slot, to: &Series) {
        let to = self.known.get(to).map(|slot| slot.0 as usize);
        if let Some(entry) = self.entries.get_mut(slot.0 as usize) {
            entry.link = to;
        }
    }

    /// Says that the values of this label are of settings, and come and go with them: when no process alive counts
    /// anything with a value of it, what the dead have counted with that is given up.
    pub fn passing(&mut self, label: &'static str) {
        if !self.passing.contains(&label) {
            self.passing.push(label);
        }
    }

    /// The labels of which that was said.
    pub(crate) fn passing_labels(&self) -> Vec<&'static str> {
        self.passing.clone()
    }

    pub(crate) fn add(&mut self, kind: Kind, series: Series, link: Option<usize>) -> Slot {
        if let Some(slot) = self.known.get(&series) {
            return *slot;
        }
        let slot = Slot(u32::try_from(self.entries.len()).unwrap_or(u32::MAX));
        self.known.insert(series.clone(), slot);
        self.entries.push(Entry { kind, series, link });
        slot
    }

    /// Says that the values of other segments will be in this one.
    pub(crate) fn include(&mut self, identities: impl IntoIterator<Item = u64>) {
        self.includes.extend(identities);
    }

    /// The words of the header and the table, and how many the whole segment has.
    pub(super) fn lay_out(&self, owner: Owner, shards: usize) -> io::Result<(Vec<u64>, usize)> {
        let Owner { generation, pid, started_ms } = owner;
        let mut words = vec![0; HEADER];
        for Entry { kind, series, link } in &self.entries {
            let link = link.map_or(0, |place| place + 1) as u64;
            push(&mut words, kind.code(), link, series.as_bytes());
        }
        for identity in &self.includes {
            push(&mut words, INCLUDES, 0, &identity.to_ne_bytes());
        }
        let table = (words.len() - HEADER) as u64;
        let capacity = self.entries.len().next_multiple_of(LINE);
        // The values begin at a line of their own.
        words.resize(words.len().next_multiple_of(LINE), 0);
        let table = table.next_multiple_of(LINE as u64);
        if table > MAX_TABLE || shards as u64 > MAX_SHARDS {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "there is too much to be counted"));
        }
        words[0] = MAGIC;
        words[1] = identity()?;
        words[2] = u64::from(generation) | u64::from(pid) << 32;
        words[3] = started_ms;
        words[4] = shards as u64;
        words[5] = capacity as u64;
        words[6] = table;
        let all = words.len() + shards * capacity;
        // More than others would map.
        if all > MAX_WORDS {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "there is too much to be counted"));
        }
        Ok((words, all))
    }
}

fn push(words: &mut Vec<u64>, kind: u8, link: u64, text: &[u8]) {
    words.push(u64::from(kind) | (text.len() as u64) << 8 | link << 32);
    words.extend(text.chunks(8).map(|chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        u64::from_ne_bytes(word)
    }));
}

/// A random number that is not zero.
fn identity() -> io::Result<u64> {
    let mut bytes = [0; 8];
    while bytes == [0; 8] {
        File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    }
    Ok(u64::from_ne_bytes(bytes))
}
