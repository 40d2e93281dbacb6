//! Makes the document for those who watch, once for all of them.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::task::{spawn_blocking, spawn_local};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::figures::Figures;
use super::{Overview, Past, Rates, words};
use crate::restart::{Audience, BooksViewer, HistoryViewer, View, Viewer};

/// How often it is made while somebody watches; beside that, when this process does something else.
const PERIOD: Duration = Duration::from_secs(1);
/// How many may watch at once by one listener: pages that nobody closes keep no operator from watching.
const MAX_WATCHERS: usize = 32;

/// Makes the document. Lives on the control thread, in its `LocalSet`.
#[derive(Debug)]
pub struct Observer {
    generation: u32,
    version: String,
    viewer: Viewer,
    history: HistoryViewer,
    books: BooksViewer,
    state: RefCell<State>,
    documents: watch::Sender<Bytes>,
    /// How many watch, by the name of the listener.
    watchers: RefCell<BTreeMap<&'static str, usize>>,
    /// Whether a task makes documents. It ends some time after the last one who watched has gone.
    ticking: Cell<bool>,
    /// Whether the past is kept when nobody watches, too.
    keeps: Cell<bool>,
    past: RefCell<Past>,
    /// The servers that are configured; others have been, and are counted still.
    servers: Vec<String>,
}

#[derive(Debug, Default)]
struct State {
    /// Where the interval began of which rates are told next.
    base: Option<Figures>,
    rates: Option<(Rates, Vec<super::Upstream>)>,
    /// The last document, and of which moment and what it was.
    latest: Option<(Instant, Seen, Bytes)>,
}

/// What makes a document old at once when it changes.
type Seen = (u64, usize, bool);

/// Whom a watcher has asked: a listener of this process, whose connections another generation accepts from some moment
/// on.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The name of the listener.
    pub listener: &'static str,
    /// Who accepts on it.
    pub audience: Audience,
}

impl Place {
    /// Whether one who asks there now is answered by this process, as far as it knows.
    fn is_served(self, view: &View) -> bool {
        let leaving = view.leaving.iter().any(|name| name == self.listener);
        leaving
            || match self.audience {
                Audience::Owner => view.phase.owns(),
                Audience::Public => view.phase.accepts(),
            }
    }
}

impl Observer {
    /// For the process of this `generation` and `version`.
    pub fn new(
        generation: u32,
        version: &str,
        viewer: Viewer,
        history: HistoryViewer,
        books: BooksViewer,
        servers: Vec<String>,
    ) -> Rc<Self> {
        Rc::new(Observer {
            generation,
            version: version.to_owned(),
            viewer,
            history,
            books,
            state: RefCell::default(),
            documents: watch::Sender::new(Bytes::new()),
            watchers: RefCell::default(),
            ticking: Cell::new(false),
            keeps: Cell::new(false),
            past: RefCell::default(),
            servers,
        })
    }

    /// Keeps the last ten minutes from now on, beginning with what the predecessor had. Must be called within a
    /// `LocalSet`.
    pub fn keep(self: &Rc<Self>, past: Past) {
        self.past.replace(past);
        self.keeps.set(true);
        if !self.ticking.replace(true) {
            spawn_local(tick(self.clone()));
        }
    }

    /// The last ten minutes, as text of at most so many bytes.
    pub fn hand_on(&self, most: usize) -> Option<String> {
        self.past.borrow().hand_on(most)
    }

    /// Whether this process is one that people look at.
    fn is_looked_at(&self) -> bool {
        let phase = self.viewer.borrow().phase;
        self.is_watched() || self.keeps.get() && (phase.accepts() || phase.owns())
    }

    /// The document as JSON, on one line without its end. It may be a second old, but it is never of an earlier phase.
    pub async fn look(&self) -> Bytes {
        let latest = self.state.borrow().latest.clone();
        match latest {
            Some((at, seen, document)) if at.elapsed() < PERIOD && seen == self.seen() => document,
            _ => self.make().await,
        }
    }

    /// The document again and again, for one who has asked at `place`; `None` if too many watch there already. Must be called
    /// within a `LocalSet`.
    pub fn watch(self: &Rc<Self>, place: Place) -> Option<Watcher> {
        let mut watchers = self.watchers.borrow_mut();
        let watch_there = watchers.entry(place.listener).or_default();
        if *watch_there >= MAX_WATCHERS {
            return None;
        }
        *watch_there += 1;
        drop(watchers);
        let mut documents = self.documents.subscribe();
        if !self.ticking.replace(true) {
            spawn_local(tick(self.clone()));
        } else if !documents.borrow().is_empty() {
            // The last one is not so old.
            documents.mark_changed();
        }
        Some(Watcher {
            observer: self.clone(),
            documents,
            viewer: self.viewer.clone(),
            place,
            told: Told::Nothing,
        })
    }

    fn is_watched(&self) -> bool {
        self.watchers.borrow().values().any(|count| *count > 0)
    }

    fn seen(&self) -> Seen {
        let (view, history) = (self.viewer.borrow(), self.history.borrow());
        let last = history.past.last().map_or(0, |last| last.ended_ms);
        (last, view.phase as usize, history.under_way.is_some())
    }

    async fn make(&self) -> Bytes {
        let seen = self.seen();
        let books = self.books.borrow().clone();
        // On another thread: this one is the driver's, and has more to do.
        let read = spawn_blocking(move || Figures::read(&books)).await;
        // Only a defect of ours keeps it from that, and is in the log.
        let Ok(figures) = read else { return Bytes::from_static(b"{}") };
        let at = figures.at;
        let overview = self.overview(figures);
        self.past.borrow_mut().add(&overview);
        let document = Bytes::from(serde_json::to_vec(&overview).unwrap_or_default());
        self.state.borrow_mut().latest = Some((at, seen, document.clone()));
        document
    }

    fn overview(&self, mut figures: Figures) -> Overview {
        let mut state = self.state.borrow_mut();
        let State { base, rates, .. } = &mut *state;
        match base {
            Some(before) if !figures.is_soon_after(before) => {
                *rates = None;
                *base = Some(figures.clone());
            }
            Some(before) if figures.is_apart_from(before) => {
                *rates = Some((figures.rates_since(before), figures.upstreams_since(before)));
                *base = Some(figures.clone());
            }
            Some(_) => {}
            None => *base = Some(figures.clone()),
        }
        let (rates, upstreams) = rates.clone().unzip();
        let mut upstreams = upstreams.unwrap_or(figures.upstreams);
        upstreams.retain(|one| self.servers.contains(&one.name));
        let history = self.history.borrow().clone();
        Overview {
            at_ms: figures.at_ms,
            generation: self.generation,
            pid: std::process::id(),
            version: self.version.clone(),
            phase: self.viewer.borrow().phase.as_str().to_owned(),
            headline: words::headline(
                figures.generations.iter().map(|one| (one.generation, one.phase.as_str())),
            ),
            owner_since_ms: figures.owner_since_ms,
            generations: std::mem::take(&mut figures.generations),
            upgrade: history.under_way,
            upgrades: history.past,
            totals: figures.totals,
            rates,
            upstreams,
            past: None,
            stopped: false,
        }
    }
}

/// Makes documents until nobody watches, or the process ends.
async fn tick(observer: Rc<Observer>) {
    let (mut viewer, mut history) = (observer.viewer.clone(), observer.history.clone());
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while observer.is_watched() || observer.keeps.get() {
        let goes_on = tokio::select! {
            _ = ticks.tick() => true,
            changed = viewer.changed() => changed.is_ok(),
            changed = history.changed() => changed.is_ok(),
        };
        if !goes_on {
            break;
        }
        if !observer.is_looked_at() {
            continue;
        }
        let document = observer.make().await;
        observer.documents.send_replace(document);
    }
    observer.ticking.set(false);
}

/// One who watches. One who is slow misses documents, and nothing is kept for them.
#[derive(Debug)]
pub struct Watcher {
    observer: Rc<Observer>,
    documents: watch::Receiver<Bytes>,
    viewer: Viewer,
    place: Place,
    told: Told,
}

/// How far one who watches is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Nothing,
    ThePast,
    TheEnd,
}

impl Watcher {
    /// The next document, the first with the past; `None` as soon as one who asks again is answered by another process,
    /// or by none. The last document before none answers says that it is the last.
    pub async fn next(&mut self) -> Option<Bytes> {
        while self.told != Told::TheEnd && self.place.is_served(&self.viewer.borrow_and_update()) {
            tokio::select! {
                biased;
                changed = self.viewer.changed() => if changed.is_err() { return self.last() },
                changed = self.documents.changed() => {
                    changed.ok()?;
                    let document = self.documents.borrow_and_update().clone();
                    if self.told == Told::Nothing {
                        self.told = Told::ThePast;
                        let past = serde_json::to_vec(&*self.observer.past.borrow()).unwrap_or_default();
                        return Some(with(&document, "past", &past));
                    }
                    return Some(document);
                }
            }
        }
        None
    }

    /// The process ends, and nobody follows it.
    fn last(&mut self) -> Option<Bytes> {
        self.told = Told::TheEnd;
        let was_stopped = self.viewer.borrow().leaving.iter().any(|name| name == self.place.listener);
        let document = self.documents.borrow().clone();
        (was_stopped && !document.is_empty()).then(|| with(&document, "stopped", b"true"))
    }
}

/// The document with one more entry.
fn with(document: &Bytes, name: &str, value: &[u8]) -> Bytes {
    match document.strip_suffix(b"}") {
        Some(open) if !value.is_empty() && open.len() > 1 => {
            [open, format!(",\"{name}\":").as_bytes(), value, b"}"].concat().into()
        }
        _ => document.clone(),
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        if let Some(watch_there) = self.observer.watchers.borrow_mut().get_mut(self.place.listener) {
            *watch_there -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::task::LocalSet;

    use super::*;
    use crate::restart::{Books, History, Phase, UnderWay};

    struct Process {
        view: watch::Sender<View>,
        history: watch::Sender<History>,
        _books: watch::Sender<Books>,
        observer: Rc<Observer>,
    }

    const PUBLIC: Place = Place { listener: "admin", audience: Audience::Public };
    const OWNER: Place = Place { listener: "control", audience: Audience::Owner };

    fn process() -> Process {
        let view = watch::Sender::new(View { phase: Phase::Serving, ..View::starting() });
        let (history, books) = (watch::Sender::new(History::default()), watch::Sender::new(Books::default()));
        let (viewer, past) = (view.subscribe(), history.subscribe());
        let observer = Observer::new(3, "0.1.0", viewer, past, books.subscribe(), Vec::new());
        Process { view, history, _books: books, observer }
    }

    fn overview(document: &Bytes) -> Overview {
        serde_json::from_slice(document).unwrap()
    }

    #[tokio::test]
    async fn one_document_is_for_all_until_something_changes() {
        let process = process();
        let first = process.observer.look().await;
        assert_eq!(process.observer.look().await, first);
        let Overview { generation, phase, rates, .. } = overview(&first);
        assert_eq!((generation, phase.as_str(), rates), (3, "serving", None));
        process.view.send_modify(|view| view.phase = Phase::Upgrading);
        let under_way = UnderWay { from: 3, to: 4, since_ms: 1 };
        process.history.send_modify(|history| history.under_way = Some(under_way));
        let second = overview(&process.observer.look().await);
        assert_eq!((second.phase.as_str(), second.upgrade), ("upgrading", Some(under_way)));
    }

    #[tokio::test]
    async fn one_who_watches_is_sent_away_when_another_process_answers() {
        let run = async {
            let process = process();
            let mut watchers = [PUBLIC, OWNER].map(|place| process.observer.watch(place).unwrap());
            for watcher in &mut watchers {
                assert_eq!(overview(&watcher.next().await.unwrap()).phase, "serving");
            }
            let [public, owner] = &mut watchers;
            process.view.send_modify(|view| view.phase = Phase::Probation);
            assert_eq!(public.next().await, None);
            assert_eq!(overview(&owner.next().await.unwrap()).phase, "probation");
            process.view.send_modify(|view| view.phase = Phase::Committing);
            assert_eq!(owner.next().await, None);
        };
        LocalSet::new().run_until(run).await;
    }

    #[tokio::test]
    async fn one_who_watches_sees_a_stop_to_its_end() {
        let run = async {
            let process = process();
            let mut watcher = process.observer.watch(PUBLIC).unwrap();
            process.view.send_modify(|view| {
                view.phase = Phase::Draining;
                view.leaving = Arc::new(vec!["admin".into()]);
            });
            assert_eq!(overview(&watcher.next().await.unwrap()).phase, "draining");
            let Process { view, observer, .. } = process;
            drop(view);
            assert!(overview(&watcher.next().await.unwrap()).stopped);
            assert_eq!(watcher.next().await, None);
            drop(watcher);
            assert!(!observer.is_watched());
        };
        LocalSet::new().run_until(run).await;
    }

    #[tokio::test]
    async fn not_everybody_can_watch() {
        let run = async {
            let process = process();
            let mut watchers: Vec<Watcher> =
                (0..MAX_WATCHERS).map(|_| process.observer.watch(PUBLIC).unwrap()).collect();
            assert!(process.observer.watch(PUBLIC).is_none());
            assert!(process.observer.watch(OWNER).is_some(), "pages that nobody closes keep an operator out");
            watchers.pop();
            assert!(process.observer.watch(PUBLIC).is_some());
        };
        LocalSet::new().run_until(run).await;
    }
}
