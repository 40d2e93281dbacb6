//! Counters in shared memory: they outlive the process that counts, whatever ends it.
//!
//! Each generation has one segment, a `memfd` that the others hold too. Only its own process writes to it, each
//! thread to a [`Shard`] of its own; everybody reads. Nothing is sent and nothing lags, and what a process had
//! counted when SIGKILL ended it is there to be read.
//!
//! # Layout, version 1
//!
//! Words of 64 bits in the machine's own order:
//!
//! | from | words | what |
//! |---|---|---|
//! | 0 | 1 | [`MAGIC`], which holds the version |
//! | 1 | 1 | identity: a random number, not zero |
//! | 2 | 1 | pid in the upper half, generation in the lower one; zero: the sum of processes that are dead |
//! | 3 | 1 | when the process started, in milliseconds since the Unix epoch |
//! | 4 | 1 | *s*, the number of shards |
//! | 5 | 1 | *c*, the values in each shard |
//! | 6 | 1 | *t*, the words of the table |
//! | 7 | 9 | zero; for later versions |
//! | 16 | *t* | the table: records |
//! | 16 + *t* | *s* · *c* | the values, shard by shard |
//!
//! A record is one word (kind in bits 0–7, bytes of text in bits 8–31, in bits 32–63 one more than the place of
//! another entry, or zero; see [`Entry::link`]) and its text, filled up with zeros to whole words. Kinds below 128 are entries: the *n*th
//! has the *n*th value of every shard, and its text is the series, see [`Series`]. The other kinds have no value, and a
//! reader that does not know one skips it. A table ends with a record of kind 0, or with its last word. It is whole
//! before anyone else gets the descriptor, and nothing is ever added: a later version that has more to say has other
//! kinds of records, and versions differ only where that is not enough.

mod plan;
mod series;

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tokio::time::Instant;

use super::sys::Mapping;
pub use plan::{Histogram, Plan, Slot};
pub use series::Series;

/// The first word of every segment.
pub(crate) const MAGIC: u64 = u64::from_be_bytes(*b"exuvia\x00\x01");

/// The words before the table.
const HEADER: usize = 16;

/// The most that one segment may have of each; far above what any settings give, and small enough to be read.
const MAX_SHARDS: u64 = 4096;
const MAX_TABLE: u64 = 1 << 22;

/// What an entry counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// Only grows. Goes on when its process is dead.
    Counter,
    /// A counter of ends: of what began, and is counted as that in another entry.
    End,
    /// What is so at the moment; signed. Ends with its process.
    Gauge,
    /// What a later version counts: added up, as counters are.
    Unknown(u8),
}

impl Kind {
    fn code(self) -> u8 {
        match self {
            Kind::Counter => 1,
            Kind::Gauge => 2,
            Kind::End => 3,
            Kind::Unknown(code) => code,
        }
    }

    fn of(code: u8) -> Kind {
        match code {
            1 => Kind::Counter,
            2 => Kind::Gauge,
            3 => Kind::End,
            code => Kind::Unknown(code),
        }
    }
}

/// The first kind of record that has no value.
const NO_VALUE: u8 = 128;
/// A record that names a segment whose values are in this one; its text is the identity, in the machine's order.
const INCLUDES: u8 = 128;

/// One series of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it counts.
    pub kind: Kind,
    /// Its name and labels.
    pub series: Series,
    /// A place in [`Table::entries`]. Of an end, that of what has ended. Of a counter of what began, that of the end
    /// which it comes to when its process dies: nothing that is open is stored, it is what began and has not ended. So
    /// there is no moment between two stores at which a process could die and leave the two untrue.
    pub link: Option<usize>,
}

/// What a segment holds, but for the values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Who it is among all segments that anyone may meet.
    pub identity: u64,
    /// Whose it is; zero if it is the sum of processes that are dead.
    pub generation: u32,
    /// The pid of that process.
    pub pid: u32,
    /// When that started, in milliseconds since the Unix epoch.
    pub started_ms: u64,
    /// The series.
    pub entries: Vec<Entry>,
    /// The segments whose values are in this one.
    pub includes: Vec<u64>,
    shards: usize,
    capacity: usize,
    values: usize,
}

/// Why what came is no segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It is something else, or of a version with another layout.
    #[error("it does not begin as a segment of this version does")]
    Magic,
    /// Its header and its size do not agree.
    #[error("its parts do not fit into its size")]
    Size,
    /// A record reaches beyond the table, or its text is no series.
    #[error("a record of its table is broken")]
    Record,
    /// There are more series than values.
    #[error("it has more series than values")]
    Capacity,
}

impl Table {
    /// Reads all but the values. The words may be anything: the other side may be of another version, or broken.
    pub fn read(words: &[u64]) -> Result<Table, Malformed> {
        let header = words.get(..HEADER).ok_or(Malformed::Size)?;
        if header[0] != MAGIC {
            return Err(Malformed::Magic);
        }
        let [_, identity, process, started_ms, shards, capacity, table, ..] = *header else {
            return Err(Malformed::Size);
        };
        if shards > MAX_SHARDS || table > MAX_TABLE || capacity > words.len() as u64 {
            return Err(Malformed::Size);
        }
        let (shards, capacity, values) = (shards as usize, capacity as usize, HEADER + table as usize);
        if identity == 0
            || shards.checked_mul(capacity).and_then(|n| n.checked_add(values)) != Some(words.len())
        {
            return Err(Malformed::Size);
        }
        let (mut entries, mut includes) = (Vec::new(), Vec::new());
        let mut rest = words.get(HEADER..values).ok_or(Malformed::Size)?;
        while let [record, behind @ ..] = rest {
            let (kind, length, link) =
                (*record as u8, (*record >> 8) as usize & 0xff_ffff, (*record >> 32) as usize);
            if kind == 0 {
                break;
            }
            let text = behind.get(..length.div_ceil(8)).ok_or(Malformed::Record)?;
            rest = &behind[text.len()..];
            if kind < NO_VALUE {
                let bytes = text.iter().flat_map(|word| word.to_ne_bytes()).take(length).collect();
                let series = Series::from_bytes(bytes).ok_or(Malformed::Record)?;
                entries.push(Entry { kind: Kind::of(kind), series, link: link.checked_sub(1) });
            } else if kind == INCLUDES {
                includes.extend(text);
            }
        }
        if entries.len() > capacity {
            return Err(Malformed::Capacity);
        }
        if entries.iter().any(|entry| entry.link.is_some_and(|link| link >= entries.len())) {
            return Err(Malformed::Record);
        }
        let (generation, pid) = (process as u32, (process >> 32) as u32);
        Ok(Table { identity, generation, pid, started_ms, entries, includes, shards, capacity, values })
    }
}

/// Who writes to a segment, and since when.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Owner {
    /// Zero for the sum of processes that are dead.
    pub(crate) generation: u32,
    pub(crate) pid: u32,
    pub(crate) started_ms: u64,
}

/// The counters of one process, or of all that are dead. Clones are the same segment.
#[derive(Clone)]
pub struct Segment(Arc<Inner>);

struct Inner {
    fd: OwnedFd,
    mapping: Mapping,
    table: Table,
}

impl Segment {
    /// A new segment, all values zero, for `shards` threads to write to.
    pub(crate) fn create(plan: &Plan, owner: Owner, shards: usize) -> std::io::Result<Segment> {
        let (header_and_table, words) = plan.lay_out(owner, shards)?;
        let (fd, mapping) = Mapping::create(c"exuvia-segment", words)?;
        for (word, value) in mapping.writable().unwrap_or_default().iter().zip(&header_and_table) {
            word.store(*value, Relaxed);
        }
        Segment::with(fd, mapping)
    }

    /// One that no driver knows of.
    #[cfg(test)]
    pub(crate) fn alone(plan: &Plan) -> Segment {
        Segment::create(plan, Owner::default(), 1).unwrap()
    }

    /// The segment that a descriptor from another process stands for.
    pub(crate) fn adopt(fd: OwnedFd) -> std::io::Result<Segment> {
        let mapping = Mapping::open(fd.as_fd())?;
        Segment::with(fd, mapping)
    }

    fn with(fd: OwnedFd, mapping: Mapping) -> std::io::Result<Segment> {
        let words = mapping.snapshot();
        let table = Table::read(&words)
            .map_err(|error| std::io::Error::new(std::io::ErrorKind::InvalidData, error))?;
        Ok(Segment(Arc::new(Inner { fd, mapping, table })))
    }

    /// What it holds.
    pub fn table(&self) -> &Table {
        &self.0.table
    }

    /// The value of the entry at `place` in the table, over all shards. A gauge is an `i64` in the same bits.
    pub fn value(&self, place: usize) -> u64 {
        let Table { shards, capacity, values, .. } = self.0.table;
        let in_shard = |shard| self.0.mapping.load(values + shard * capacity + place);
        (0..shards).filter_map(in_shard).fold(0, u64::wrapping_add)
    }

    /// By place in the table: of what began and is counted there, how much has not ended; 0 for entries that count
    /// something else.
    pub fn open(&self) -> Vec<i64> {
        let entries = &self.table().entries;
        let mut open = vec![0_i64; entries.len()];
        // The ends first: what ends while this looks must not seem to have ended before it began.
        for (place, entry) in entries.iter().enumerate() {
            if let (Kind::End, Some(began)) = (entry.kind, entry.link) {
                open[began] = open[began].wrapping_sub(self.value(place).cast_signed());
            }
        }
        for (place, entry) in entries.iter().enumerate() {
            if let (Kind::Counter, Some(_)) = (entry.kind, entry.link) {
                open[place] = open[place].wrapping_add(self.value(place).cast_signed());
            }
        }
        open
    }

    /// The value of a series of this process's own segment.
    pub(crate) fn at(&self, slot: Slot) -> u64 {
        self.value(slot.0 as usize)
    }

    /// The place of one thread in a segment of this process's own. No two may ask for the same.
    pub(crate) fn seat(&self, shard: usize) -> Seat {
        Seat { segment: self.clone(), shard, here: PhantomData }
    }
}

impl Segment {
    /// A counter that any thread may add to, in a shard whose own thread never does.
    pub(crate) fn tally(&self, shard: usize, slot: Slot) -> Tally {
        let Table { capacity, values, .. } = self.0.table;
        Tally { segment: self.clone(), word: values + shard * capacity + slot.0 as usize }
    }
}

impl AsFd for Segment {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.fd.as_fd()
    }
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Table { identity, generation, pid, .. } = &self.0.table;
        f.debug_struct("Segment")
            .field("identity", identity)
            .field("generation", generation)
            .field("pid", pid)
            .finish_non_exhaustive()
    }
}

/// The right to write to one shard, on its way to the thread that will.
#[derive(Debug)]
pub(crate) struct Seat {
    segment: Segment,
    shard: usize,
    /// Only one thread has it.
    here: PhantomData<Cell<()>>,
}

impl Seat {
    /// From here on this thread writes, and no other may take it.
    pub(crate) fn take(&self) -> Shard {
        let Table { capacity, values, .. } = self.segment.0.table;
        let first = values + self.shard * capacity;
        Shard(Rc::new(Place { segment: self.segment.clone(), words: first..first + capacity }))
    }
}

/// Where one thread writes. Clones are the same place; it cannot leave the thread, so that a count is a load and a
/// store and needs no lock on the bus.
#[derive(Clone, Debug)]
pub struct Shard(Rc<Place>);

#[derive(Debug)]
struct Place {
    segment: Segment,
    words: std::ops::Range<usize>,
}

impl Shard {
    /// Counts.
    pub fn add(&self, slot: Slot, n: u64) {
        if let Some(word) = self.word(slot) {
            word.store(word.load(Relaxed).wrapping_add(n), Relaxed);
        }
    }

    /// Adds an observation.
    pub fn observe(&self, histogram: &Histogram, value: u64) {
        let (bucket, sum) = histogram.slots(value);
        self.add(bucket, 1);
        self.add(sum, value);
    }

    /// Adds the time since then, in nanoseconds.
    pub fn observe_since(&self, histogram: &Histogram, since: Instant) {
        self.observe(histogram, u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }

    /// Moves a gauge up or down.
    pub fn shift(&self, slot: Slot, by: i64) {
        self.add(slot, by.cast_unsigned());
    }

    /// Sets a gauge. All shards are added up: only one may set it.
    pub fn set(&self, slot: Slot, value: u64) {
        if let Some(word) = self.word(slot) {
            word.store(value, Relaxed);
        }
    }

    fn word(&self, slot: Slot) -> Option<&AtomicU64> {
        let Place { segment, words } = &*self.0;
        segment.0.mapping.writable()?.get(words.clone())?.get(slot.0 as usize)
    }
}

/// A counter that any thread may add to: for what happens anywhere in the process, and rarely. In its shard nobody else
/// writes to this place.
#[derive(Clone, Debug)]
pub struct Tally {
    segment: Segment,
    word: usize,
}

impl Tally {
    /// Counts.
    pub fn add(&self, n: u64) {
        if let Some(word) = self.segment.0.mapping.writable().and_then(|words| words.get(self.word)) {
            word.fetch_add(n, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests;
