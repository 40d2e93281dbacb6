//! Of lines of the same kind, one a second is written, and says how many were suppressed.
//!
//! A kind is a place in the code together with the fields in [`KEYS`], such as the server that a line is about. What
//! traffic causes may come thousands of times a second. Lines about upgrades are never thinned, nor is anything below
//! INFO, which only somebody asks for who wants all of it.
//!
//! A request that logs takes no lock: the table is made of atomics, and has an end. Kinds for which there is no room
//! share its last place.

use std::fmt::{self, Write};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata};

use super::queue::Counter;
use crate::restart::Tally;

/// The fields that make lines of one place in the code different kinds. None may take values that clients choose.
const KEYS: [&str; 5] = ["server", "upstream", "name", "listener", "label"];

/// Who is never thinned: they log what an upgrade does and what it cuts, and what the log itself has left out.
const EXEMPT: [&str; 5] =
    ["exuvia::restart::driver", "exuvia::app", "exuvia::supervise", "exuvia::log", "exuvia::cut"];

/// One line of a kind in this time.
pub(super) const PERIOD: Duration = Duration::from_secs(1);

/// How many kinds are told apart.
const KINDS: usize = 1024;

/// What has been logged lately, by kind.
#[derive(Debug)]
pub(super) struct Thinning {
    since: Instant,
    places: Box<[Place]>,
    suppressed: Counter,
}

#[derive(Debug, Default)]
struct Place {
    /// The hash of the kind; 0: none yet.
    kind: AtomicU64,
    /// When the next line may be written, in milliseconds.
    next_ms: AtomicU64,
    suppressed: AtomicU64,
    about: OnceLock<String>,
}

impl Default for Thinning {
    fn default() -> Self {
        let places = (0..KINDS).map(|_| Place::default()).collect();
        Thinning { since: Instant::now(), places, suppressed: Counter::default() }
    }
}

impl Thinning {
    /// From now on what is suppressed is counted there.
    pub(super) fn count_in(&self, tally: Tally) {
        self.suppressed.count_in(tally);
    }

    /// Whether the line is to be written, and how many of its kind were suppressed since the last one.
    pub(super) fn admit(&self, event: &Event<'_>) -> Option<u64> {
        if !is_thinned(event.metadata()) {
            return Some(0);
        }
        let mut kind = Kind(DefaultHasher::new());
        event.metadata().callsite().hash(&mut kind.0);
        event.record(&mut kind);
        let about = || {
            let mut message = Message(String::new());
            event.record(&mut message);
            message.0
        };
        self.admit_kind(kind.0.finish(), about, self.now_ms())
    }

    fn admit_kind(&self, kind: u64, about: impl FnOnce() -> String, now_ms: u64) -> Option<u64> {
        let place = self.place(kind.max(1), about);
        let next_ms = place.next_ms.load(Relaxed);
        // Of several threads at the same moment one writes.
        let later = now_ms + PERIOD.as_millis() as u64;
        if now_ms >= next_ms && place.next_ms.compare_exchange(next_ms, later, Relaxed, Relaxed).is_ok() {
            return Some(place.suppressed.swap(0, Relaxed));
        }
        place.suppressed.fetch_add(1, Relaxed);
        self.suppressed.add(1);
        None
    }

    /// The place of a kind, from now on its own if it had none.
    fn place(&self, kind: u64, about: impl FnOnce() -> String) -> &Place {
        let start = kind as usize % self.places.len();
        let (front, back) = self.places.split_at(start);
        for place in back.iter().chain(front) {
            match place.kind.compare_exchange(0, kind, Relaxed, Relaxed) {
                Ok(_) => {
                    place.about.get_or_init(about);
                    return place;
                }
                Err(found) if found == kind => return place,
                Err(_) => {}
            }
        }
        &self.places[self.places.len() - 1]
    }

    /// What was suppressed of each kind of which no line came in time to say so; with `all`, of every kind.
    pub(super) fn take_overdue(&self, all: bool) -> Vec<(&str, u64)> {
        let now_ms = self.now_ms();
        let is_due = |place: &&Place| {
            place.suppressed.load(Relaxed) > 0 && (all || now_ms >= place.next_ms.load(Relaxed))
        };
        let mut taken = Vec::new();
        for place in self.places.iter().filter(is_due) {
            // A line that came meanwhile may have taken it.
            let suppressed = place.suppressed.swap(0, Relaxed);
            if suppressed > 0 {
                taken.push((place.about.get().map_or("?", String::as_str), suppressed));
            }
        }
        taken
    }

    /// Whether anything was suppressed that nobody has been told of.
    pub(super) fn is_owing(&self) -> bool {
        self.places.iter().any(|place| place.suppressed.load(Relaxed) > 0)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX / 2)
    }
}

fn is_thinned(metadata: &Metadata<'_>) -> bool {
    let target = metadata.target();
    *metadata.level() <= Level::INFO && !EXEMPT.iter().any(|exempt| target.starts_with(exempt))
}

/// Reads the fields that tell kinds apart.
struct Kind(DefaultHasher);

impl Visit for Kind {
    fn record_str(&mut self, field: &Field, value: &str) {
        if KEYS.contains(&field.name()) {
            (field.name(), value).hash(&mut self.0);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if KEYS.contains(&field.name()) {
            (field.name(), format!("{value:?}")).hash(&mut self.0);
        }
    }
}

/// Reads the message, and the fields that tell its kind from others.
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let space = if self.0.is_empty() { "" } else { " " };
        // To a string nothing fails.
        if field.name() == "message" {
            write!(self.0, "{space}{value:?}").ok();
        } else if KEYS.contains(&field.name()) {
            write!(self.0, "{space}{}={value:?}", field.name()).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about() -> String {
        "a line".to_owned()
    }

    #[test]
    fn one_line_a_second_of_each_kind_says_what_was_suppressed() {
        let thinning = Thinning::default();
        assert_eq!(thinning.admit_kind(7, about, 0), Some(0));
        for _ in 0..5 {
            assert_eq!(thinning.admit_kind(7, about, 999), None);
        }
        assert_eq!(thinning.admit_kind(8, about, 999), Some(0), "another kind has a second of its own");
        assert_eq!(thinning.admit_kind(7, about, 1000), Some(5));
        assert_eq!(thinning.admit_kind(7, about, 2500), Some(0));
    }

    #[test]
    fn what_no_line_has_said_is_not_forgotten() {
        let thinning = Thinning::default();
        let now_ms = thinning.now_ms() + 3_600_000;
        for _ in 0..4 {
            thinning.admit_kind(7, about, now_ms);
        }
        assert_eq!(thinning.take_overdue(false), [], "a line of the kind may come and say it");
        assert_eq!(thinning.take_overdue(true), [("a line", 3)]);
        assert_eq!(thinning.take_overdue(true), []);
        assert_eq!(thinning.admit_kind(7, about, now_ms + 1000), Some(0), "it is said once");
    }

    #[test]
    fn there_is_an_end_to_the_kinds() {
        let thinning = Thinning::default();
        for kind in 1..=KINDS as u64 {
            assert_eq!(thinning.admit_kind(kind, about, 0), Some(0));
        }
        assert_eq!(thinning.admit_kind(5000, about, 500), None, "it shares a place");
        assert_eq!(thinning.admit_kind(6000, about, 1000), Some(1));
        assert_eq!(thinning.admit_kind(1, about, 1000), Some(0), "and takes none away");
    }

    #[test]
    fn threads_that_log_at_the_same_time_lose_no_number() {
        let thinning = Thinning::default();
        let admitted: u64 = std::thread::scope(|scope| {
            let log =
                || (0..1000).filter_map(|at| thinning.admit_kind(9, about, at)).map(|left| left + 1).sum();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(log)).collect();
            threads.into_iter().map(|thread| -> u64 { thread.join().unwrap() }).sum()
        });
        let left: u64 = thinning.take_overdue(true).iter().map(|(_, left)| left).sum();
        assert_eq!(admitted + left, 4000);
    }
}
