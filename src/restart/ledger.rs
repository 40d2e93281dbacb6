//! The segments of every generation that counts, or has counted: what all of them say together.
//!
//! Each process holds its own segment, those of the generations that are alive, and one that is the sum of all the dead.
//! When another dies, its values go into a new sum, which takes the place of the old one and of its own: nothing that
//! others hold is ever changed. So two processes may do that each for themselves, and either may die in the middle of
//! it. A sum names the segments that are in it, so that whoever meets both counts none twice.
//!
//! Series of what has left the settings, such as an address of a server, are left out of the next sum once no process
//! alive has any of them (`Plan::passing`): all of them at once and as a whole. So a counter that comes back begins anew,
//! which those who read it take for the reset that it is; it never goes on from a part of what it was.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use tokio::sync::watch;

use super::segment::{Entry, Kind, Owner, Plan, Segment, Series, Table};

/// The most segments that a sum names; by then the oldest are long gone from everywhere.
const MAX_INCLUDES: usize = 256;

/// The segments that a process holds.
#[derive(Debug)]
pub(crate) struct Ledger {
    books: watch::Sender<Books>,
    /// Labels whose values come and go with the settings.
    passing: Vec<&'static str>,
}

/// What a process knows of all counters at a moment; to be read from any thread. It ends with the driver.
pub type BooksViewer = watch::Receiver<Books>;

/// Segments, whose values go on changing. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Books(Vec<Held>);

#[derive(Clone, Debug)]
struct Held {
    segment: Segment,
    /// Whether its process is.
    dead: bool,
}

/// The sum of a series.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Total {
    /// What it counts.
    pub kind: Kind,
    /// A gauge is an `i64` in the same bits.
    pub value: u64,
    /// See [`Entry::link`].
    link: Option<Series>,
}

/// The sums by series.
#[derive(Clone, Debug, Default)]
pub struct Totals(BTreeMap<Series, Total>);

impl Totals {
    /// The series of this name, in the order of their labels.
    pub fn named(&self, name: &str) -> impl Iterator<Item = (&Series, &Total)> {
        let from = Series::new(name, &[]);
        self.0.range(from.clone()..).take_while(move |(series, _)| series.name() == from.name())
    }

    /// Of the series of this name, which count what began, how much has not ended.
    pub fn open(&self, name: &str) -> BTreeMap<&Series, i64> {
        let mut open: BTreeMap<_, _> =
            self.named(name).map(|(series, total)| (series, total.value.cast_signed())).collect();
        for total in self.0.values().filter(|total| total.kind == Kind::End) {
            if let Some(began) = total.link.as_ref().and_then(|link| open.get_mut(link)) {
                *began = began.wrapping_sub(total.value.cast_signed());
            }
        }
        open
    }

    fn add(&mut self, entries: &[Entry], entry: &Entry, value: u64) {
        if let Some(total) = self.0.get_mut(&entry.series) {
            total.value = total.value.wrapping_add(value);
        } else {
            let link = entry.link.and_then(|link| entries.get(link)).map(|entry| entry.series.clone());
            self.0.insert(entry.series.clone(), Total { kind: entry.kind, value, link });
        }
    }
}

/// What has changed in the segments that a service manager should keep.
#[derive(Clone, Debug, Default)]
pub(crate) struct Change {
    pub(crate) added: Vec<Segment>,
    pub(crate) removed: Vec<u64>,
}

impl Change {
    /// And then another.
    pub(crate) fn extend(&mut self, later: Change) {
        self.added.extend(later.added);
        self.removed.extend(later.removed);
        self.added.retain(|segment| !self.removed.contains(&segment.table().identity));
    }
}

impl Books {
    /// The generations that count, and are alive.
    pub fn alive(&self) -> impl Iterator<Item = &Segment> {
        self.0.iter().filter(|held| !held.dead).map(|held| &held.segment)
    }

    /// This process's own.
    pub fn own(&self) -> Option<&Segment> {
        self.0.first().map(|held| &held.segment)
    }

    /// One of them alone, whose process is alive.
    pub fn only(segment: &Segment) -> Books {
        Books(vec![Held { segment: segment.clone(), dead: false }])
    }

    /// The same of one whose process is dead.
    pub(crate) fn dead(segment: &Segment) -> Books {
        Books(vec![Held { segment: segment.clone(), dead: true }])
    }

    /// Adds up what is there now.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for Held { segment, dead } in &self.0 {
            let entries = &segment.table().entries;
            // From the last to the first: the ends before what they end, see `Segment::open`.
            for (place, entry) in entries.iter().enumerate().rev() {
                if *dead && entry.kind == Kind::Gauge {
                    continue;
                }
                totals.add(entries, entry, segment.value(place));
            }
            if *dead {
                for (entry, lost) in entries.iter().zip(segment.open()) {
                    if let (Some(end), Ok(lost @ 1..)) = (entry.link, u64::try_from(lost)) {
                        totals.add(entries, &entries[end], lost);
                    }
                }
            }
        }
        totals
    }

    /// The descriptors of all of them.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.0.iter().map(|held| held.segment.as_fd())
    }
}

impl Ledger {
    /// With a process's own segment.
    pub(crate) fn new(own: Segment, passing: Vec<&'static str>) -> Self {
        Ledger { books: watch::Sender::new(Books(vec![Held { segment: own, dead: false }])), passing }
    }

    /// Where it is read.
    pub(crate) fn viewer(&self) -> BooksViewer {
        self.books.subscribe()
    }

    /// What is held.
    pub(crate) fn books(&self) -> Books {
        self.books.borrow().clone()
    }

    /// Adds the segment of another process, by its descriptor. What is none is told in the log, and nothing else
    /// comes of it.
    pub(crate) fn adopt(&self, fd: OwnedFd) -> Change {
        match Segment::adopt(fd) {
            Ok(segment) => self.add(segment),
            Err(error) => {
                tracing::warn!(%error, "counters of another generation cannot be read, and are left out");
                Change::default()
            }
        }
    }

    fn add(&self, segment: Segment) -> Change {
        let mut change = Change::default();
        self.books.send_modify(|Books(held)| {
            let includes = |one: &Table, other: &Table| {
                one.identity == other.identity || one.includes.contains(&other.identity)
            };
            if held.iter().any(|held| includes(held.segment.table(), segment.table())) {
                return;
            }
            // Which should not come to be. What is in one alone is lost, and that is better than all of it twice.
            let overlaps =
                |other: &Table| other.includes.iter().any(|one| segment.table().includes.contains(one));
            let includes_none = |held: &Held| !includes(segment.table(), held.segment.table());
            if held.iter().any(|held| overlaps(held.segment.table()) && includes_none(held)) {
                tracing::warn!("two sums of the same counters; one of them is left out");
                change.removed.push(segment.table().identity);
                return;
            }
            held.retain(|held| {
                let stays = !includes(segment.table(), held.segment.table());
                if !stays {
                    change.removed.push(held.segment.table().identity);
                }
                stays
            });
            change.added.push(segment.clone());
            held.push(Held { dead: segment.table().generation == 0, segment });
        });
        change
    }

    /// Closes the books of the processes that are dead: nothing of theirs changes any more. Without `adds_up` no new sum
    /// is made of them: where a child holds the same segments and may come to add them up as well, there would be two
    /// sums of the same.
    pub(crate) fn close(&self, adds_up: bool, is_dead: impl Fn(&Table) -> bool) -> Change {
        let mut change = Change::default();
        self.books.send_modify(|Books(held)| {
            // The first is this process's own.
            for held in held.iter_mut().skip(1) {
                held.dead |= is_dead(held.segment.table());
            }
            if !adds_up {
                return;
            }
            let (dead, alive): (Vec<Held>, Vec<Held>) = held.iter().cloned().partition(|held| held.dead);
            let stays = self.stays(&alive);
            let is_sum = |table: &Table| {
                table.generation == 0 && table.entries.iter().all(|entry| stays(&entry.series))
            };
            if dead.len() < 2 && dead.iter().all(|held| is_sum(held.segment.table())) {
                return;
            }
            match sum(&Books(dead.clone()), stays) {
                Ok(sum) => {
                    held.retain(|held| !held.dead);
                    held.push(Held { segment: sum.clone(), dead: true });
                    change.added.push(sum);
                    change.removed.extend(dead.iter().map(|held| held.segment.table().identity));
                }
                // They are added up all the same, each time that somebody asks.
                Err(error) => tracing::warn!(%error, "cannot add up the counters of the dead"),
            }
        });
        change
    }

    /// Which series are kept when their process is dead: those that do not pass, and those of which one of the alive has
    /// any with the same value.
    fn stays(&self, alive: &[Held]) -> impl Fn(&Series) -> bool {
        let passing = self.passing.clone();
        let values = move |series: &Series| -> Vec<(&'static str, String)> {
            let value = |label: &&'static str| Some((*label, series.label(label)?.to_owned()));
            passing.iter().filter_map(value).collect()
        };
        let entries = alive.iter().flat_map(|held| &held.segment.table().entries);
        let known: BTreeSet<_> = entries.flat_map(|entry| values(&entry.series)).collect();
        move |series| values(series).iter().all(|value| known.contains(value))
    }
}

/// A segment that takes the place of all of these, whose processes are dead, with what `stays` of them.
fn sum(books: &Books, stays: impl Fn(&Series) -> bool) -> std::io::Result<Segment> {
    let totals = books.totals();
    let mut plan = Plan::default();
    let staying = totals.0.iter().filter(|(series, _)| stays(series));
    let slots: Vec<_> =
        staying.map(|(series, total)| (plan.add(total.kind, series.clone(), None), total)).collect();
    for (slot, total) in &slots {
        if let Some(link) = &total.link {
            plan.link(*slot, link);
        }
    }
    let tables = || books.0.iter().map(|held| held.segment.table());
    let inherited = tables().flat_map(|table| table.includes.iter().copied());
    plan.include(tables().map(|table| table.identity).chain(inherited).take(MAX_INCLUDES));
    let segment = Segment::create(&plan, Owner::default(), 1)?;
    let shard = segment.seat(0).take();
    for (slot, total) in &slots {
        shard.add(*slot, total.value);
    }
    Ok(segment)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::restart::segment::Slot;

    struct Process {
        segment: Segment,
        slots: [Slot; 4],
    }

    /// With connections, their ends, and a gauge; `extra` is a series that only this one has.
    fn process(generation: u32, extra: &str) -> Process {
        let mut plan = Plan::default();
        let began = plan.counter("began", &[]);
        let closed = plan.end("ended", &[("end", "closed")], began);
        let crashed = plan.end("ended", &[("end", "crashed")], began);
        plan.lost(began, crashed);
        let active = plan.gauge("active", &[]);
        let extra = plan.counter(extra, &[]);
        let segment = Segment::create(&plan, Owner { generation, ..Owner::default() }, 1).unwrap();
        let process = Process { segment, slots: [began, closed, active, extra] };
        process.count([10, 7, 2, 1]);
        process
    }

    impl Process {
        fn count(&self, counts: [u64; 4]) {
            let shard = self.segment.seat(0).take();
            self.slots.into_iter().zip(counts).for_each(|(slot, n)| shard.add(slot, n));
        }

        fn descriptor(&self) -> OwnedFd {
            self.segment.as_fd().try_clone_to_owned().unwrap()
        }
    }

    fn values(books: &Books) -> Vec<(String, i64)> {
        books
            .totals()
            .0
            .iter()
            .map(|(series, total)| (format!("{series:?}"), total.value.cast_signed()))
            .collect()
    }

    fn expect(ledger: &Ledger, began: i64, closed: i64, crashed: i64, active: i64, extras: &[(&str, i64)]) {
        let mut expected = vec![
            ("active{}".to_owned(), active),
            ("began{}".to_owned(), began),
            (r#"ended{"end": "closed"}"#.to_owned(), closed),
            (r#"ended{"end": "crashed"}"#.to_owned(), crashed),
        ];
        expected.extend(extras.iter().map(|(name, value)| (format!("{name}{{}}"), *value)));
        assert_eq!(values(&ledger.books()), expected);
    }

    #[test]
    fn what_the_dead_had_open_is_their_last_end() {
        let (one, two) = (process(1, "x"), process(2, "y"));
        let ledger = Ledger::new(two.segment.clone(), Vec::new());
        assert_eq!(ledger.adopt(one.descriptor()).added.len(), 1);
        expect(&ledger, 20, 14, 0, 4, &[("x", 1), ("y", 1)]);
        one.count([1, 0, 1, 1]);
        expect(&ledger, 21, 14, 0, 5, &[("x", 2), ("y", 1)]);
        assert_eq!(ledger.books().alive().count(), 2);

        let change = ledger.close(true, |table| table.generation == 1);
        assert_eq!(change.removed, [one.segment.table().identity]);
        assert_eq!(change.added[0].table().includes, change.removed);
        expect(&ledger, 21, 14, 4, 2, &[("x", 2), ("y", 1)]);
        assert_eq!(ledger.books().alive().count(), 1);
        // There is nothing to be done again.
        assert!(ledger.close(true, |table| table.generation == 1).added.is_empty());
        expect(&ledger, 21, 14, 4, 2, &[("x", 2), ("y", 1)]);
    }

    #[test]
    fn a_sum_takes_the_place_of_the_one_before() {
        let own = process(9, "x");
        let ledger = Ledger::new(own.segment.clone(), Vec::new());
        for generation in 1..=8 {
            ledger.adopt(process(generation, "x").descriptor());
            ledger.close(true, |table| table.generation == generation);
            assert_eq!(ledger.books().0.len(), 2);
        }
        expect(&ledger, 90, 63, 24, 2, &[("x", 9)]);
    }

    /// A child holds what its parent held when it was made. The parent, in its own books, adds up what has died since,
    /// and both may come to the same descriptor store.
    #[test]
    fn nothing_is_counted_twice() {
        let (one, two, three) = (process(1, "x"), process(2, "x"), process(3, "x"));
        let parent = Ledger::new(two.segment.clone(), Vec::new());
        parent.adopt(one.descriptor());
        let sum = parent.close(true, |table| table.generation == 1).added.remove(0);

        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0], [2, 0, 1]] {
            let child = Ledger::new(three.segment.clone(), Vec::new());
            let all = [one.descriptor(), two.descriptor(), sum.as_fd().try_clone_to_owned().unwrap()];
            for place in order {
                child.adopt(all[place].try_clone().unwrap());
            }
            child.adopt(two.descriptor());
            expect(&child, 30, 21, 3, 4, &[("x", 3)]);
            child.close(true, |table| table.generation < 3);
            expect(&child, 30, 21, 6, 2, &[("x", 3)]);
            child.adopt(one.descriptor());
            expect(&child, 30, 21, 6, 2, &[("x", 3)]);
        }
    }

    /// The owner and its child had each added up the generation that died in a probation. systemd kept both sums, and
    /// after the next crash everything that was ever counted counted twice.
    #[test]
    fn of_two_sums_of_the_same_one_counts() {
        let (one, two, three) = (process(1, "x"), process(2, "x"), process(3, "x"));
        let sums = [&two, &three].map(|process| {
            let ledger = Ledger::new(process.segment.clone(), Vec::new());
            ledger.adopt(one.descriptor());
            ledger.close(true, |table| table.generation == 1).added.remove(0)
        });
        let next = Ledger::new(process(4, "x").segment, Vec::new());
        for sum in &sums {
            next.adopt(sum.as_fd().try_clone_to_owned().unwrap());
        }
        expect(&next, 20, 14, 3, 2, &[("x", 2)]);
        // While it has a child, the owner makes none.
        let owner = Ledger::new(two.segment.clone(), Vec::new());
        owner.adopt(one.descriptor());
        assert!(owner.close(false, |table| table.generation == 1).added.is_empty());
        expect(&owner, 20, 14, 3, 2, &[("x", 2)]);
        assert_eq!(owner.close(true, |_| false).removed, [one.segment.table().identity]);
        expect(&owner, 20, 14, 3, 2, &[("x", 2)]);
    }

    #[test]
    fn what_is_no_segment_is_left_out() {
        let own = process(1, "x");
        let ledger = Ledger::new(own.segment.clone(), Vec::new());
        let file = || OwnedFd::from(std::fs::File::open("/proc/self/exe").unwrap());
        assert!(ledger.adopt(file()).added.is_empty());
        let (memory, _mapping) = crate::restart::sys::Mapping::create(c"test", 64).unwrap();
        assert!(ledger.adopt(memory).added.is_empty());
        expect(&ledger, 10, 7, 0, 2, &[("x", 1)]);
    }

    /// A version that counts something that this one does not know, and one that counts less.
    #[test]
    fn what_a_version_does_not_know_is_carried() {
        let mut plan = Plan::default();
        let later = plan.add(Kind::Unknown(77), Series::new("later", &[]), None);
        let segment = Segment::create(&plan, Owner { generation: 1, ..Owner::default() }, 1).unwrap();
        segment.seat(0).take().add(later, 42);
        let own = process(2, "x");
        let ledger = Ledger::new(own.segment.clone(), Vec::new());
        ledger.adopt(segment.as_fd().try_clone_to_owned().unwrap());
        ledger.close(true, |table| table.generation == 1);
        let next = Ledger::new(process(3, "x").segment, Vec::new());
        for held in &ledger.books().0[1..] {
            next.adopt(held.segment.as_fd().try_clone_to_owned().unwrap());
        }
        let totals = next.books().totals();
        let (_, total) = totals.named("later").next().unwrap();
        assert_eq!((total.kind, total.value), (Kind::Unknown(77), 42));
    }

    /// The series of every address that a server ever had were added up and carried for ever.
    #[test]
    fn what_has_left_the_settings_goes_with_the_last_process_that_knows_it() {
        let process = |generation, servers: &[&str]| {
            let mut plan = Plan::default();
            for server in servers {
                let began = plan.counter("made", &[("server", server)]);
                let ended = plan.end("ended", &[("server", server)], began);
                plan.lost(began, ended);
            }
            let segment = Segment::create(&plan, Owner { generation, ..Owner::default() }, 1).unwrap();
            let shard = segment.seat(0).take();
            (0..2 * servers.len()).for_each(|place| shard.add(Slot::at(place), 10 - place as u64 % 2));
            segment
        };
        let copy = |segment: &Segment| segment.as_fd().try_clone_to_owned().unwrap();
        let series = |ledger: &Ledger| {
            values(&ledger.books())
                .into_iter()
                .map(|(name, value)| format!("{name} {value}"))
                .collect::<Vec<_>>()
        };
        let [one, two, three, four] =
            [process(1, &["a", "b"]), process(2, &["a"]), process(3, &["b"]), process(4, &["a", "b"])];
        let ledger = Ledger::new(three.clone(), vec!["server"]);
        ledger.adopt(copy(&one));
        ledger.adopt(copy(&two));
        // Another that is alive has it: all of it stays, that of the dead as well.
        ledger.close(true, |table| table.generation == 1);
        let made = [r#"made{"server": "a"} 20"#, r#"made{"server": "b"} 20"#];
        let ended = [r#"ended{"server": "a"} 19"#, r#"ended{"server": "b"} 19"#];
        assert_eq!(series(&ledger), [ended, made].concat());
        ledger.close(true, |table| table.generation == 2);
        assert_eq!(series(&ledger), [ended[1], made[1]]);

        // One that has it again begins anew; so does one that takes over what systemd has kept.
        let sum = copy(&ledger.books().0[1].segment);
        let next = Ledger::new(four, vec!["server"]);
        next.adopt(copy(&three));
        next.adopt(sum);
        let again = [r#"ended{"server": "a"} 9"#, r#"made{"server": "a"} 10"#];
        let on = [r#"ended{"server": "b"} 28"#, r#"made{"server": "b"} 30"#];
        assert_eq!(series(&next), [again[0], on[0], again[1], on[1]]);
        let late = Ledger::new(process(5, &[]), vec!["server"]);
        late.adopt(copy(&next.books().0[2].segment));
        late.close(true, |_| false);
        assert_eq!(series(&late), Vec::<String>::new());
    }
}
