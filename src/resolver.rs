//! The addresses of the servers that the settings name by host name.
//!
//! ```text
//! worker: `Name::addresses` ◄── watch: what is known ◄── one task for each name: look up, publish, wait for the TTL
//!                                                       └────────────── a thread of its own ──────────────┘
//! ```
//!
//! A name is looked up when the process starts and whenever its addresses expire, whether anybody connects or not: so
//! there is one look-up in flight for each name, no request waits for one but the very first, and an address that
//! changes is taken up within its TTL. The names are those of the settings, so their number is bounded.
//!
//! An answer whose time is over stays in use while no new one can be had (RFC 8767), up to [`Config::max_stale`]. That
//! the name has no address is an answer, and takes the place of the addresses before. The next generation is given what
//! is known: its first requests must not fail because a name server is down.

mod handed;
mod lookup;
mod tally;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use lookup::{Found, Outcome};
pub use tally::{Columns, FAMILIES, Results};

/// How names are looked up.
#[derive(Clone, Debug)]
pub struct Config {
    /// The name servers. None: those of `/etc/resolv.conf`, which is read again for every look-up, as `/etc/hosts` is.
    pub servers: Vec<SocketAddr>,
    /// The least time between two look-ups of a name, whatever the TTL.
    pub min_ttl: Duration,
    /// The most.
    pub max_ttl: Duration,
    /// How long addresses are used beyond that while name servers do not answer.
    pub max_stale: Duration,
}

/// The waits between look-ups that fail: they double from the first to the last.
const RETRY: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(30)];

/// How long at most a name is taken to have no address.
const MAX_ABSENT: Duration = Duration::from_secs(30);

/// How many look-ups may wait to be counted.
const MAX_UNCOUNTED: usize = 1024;

/// What is known of a name.
#[derive(Clone, Debug)]
enum Known {
    /// The first look-up is under way.
    Nothing,
    /// At least one address, and when their time is over.
    Addresses(Arc<[IpAddr]>, Instant),
    /// Why there is none.
    Failed(Arc<str>),
}

/// Where what is known of names can be read. Cheap to clone; may be used on any thread.
#[derive(Clone, Debug, Default)]
pub struct Resolver(Arc<HashMap<String, watch::Receiver<Known>>>);

/// The addresses of one name, whatever they are at the time.
#[derive(Clone, Debug)]
pub struct Name(watch::Receiver<Known>);

impl Resolver {
    /// Begins to look these names up, on a thread of its own that lives as long as the process. What comes of each
    /// look-up is told to the [`Results`]. `handed` is what the generation before had from [`Resolver::hand_on`].
    ///
    /// # Errors
    ///
    /// The thread cannot begin. A name that cannot be looked up is no error here.
    pub fn start(
        config: Config,
        names: impl IntoIterator<Item = String>,
        handed: Option<&str>,
    ) -> io::Result<(Resolver, Results)> {
        let mut handed = handed::unpack(handed.unwrap_or_default(), Instant::now());
        let (told, results) = mpsc::channel(MAX_UNCOUNTED);
        let (mut watched, mut tasks) = (HashMap::new(), Vec::new());
        for name in names {
            watched.entry(name).or_insert_with_key(|name| {
                let found = handed.remove(name);
                let known = found
                    .clone()
                    .map_or(Known::Nothing, |(addresses, until)| Known::Addresses(addresses, until));
                let (publisher, known) = watch::channel(known);
                let entry = Entry { found, ..Entry::default() };
                tasks.push((name.clone(), entry, publisher));
                known
            });
        }
        if !tasks.is_empty() {
            // Of this thread alone: what a name server sends is parsed here, and a fault in that must not take the
            // control thread or a worker with it.
            let runtime = Builder::new_current_thread().enable_all().build()?;
            thread::Builder::new().name("resolver".to_owned()).spawn(move || {
                let config = Arc::new(config);
                let follow = |(name, entry, known)| follow(config.clone(), name, entry, known, told.clone());
                let tasks: Vec<_> = tasks.into_iter().map(|task| runtime.spawn(follow(task))).collect();
                runtime.block_on(async {
                    for task in tasks {
                        task.await.ok();
                    }
                });
            })?;
        }
        Ok((Resolver(Arc::new(watched)), Results(results)))
    }

    /// What is known, for the next generation.
    pub fn hand_on(&self) -> Option<String> {
        let known = self.0.iter().map(|(name, known)| (name.as_str(), known.borrow().clone()));
        handed::pack(
            known.filter_map(|(name, known)| match known {
                Known::Addresses(addresses, until) => Some((name, addresses, until)),
                Known::Nothing | Known::Failed(_) => None,
            }),
            Instant::now(),
        )
    }

    /// `None`: it was not among the names at the start.
    pub fn name(&self, name: &str) -> Option<Name> {
        self.0.get(name).cloned().map(Name)
    }
}

impl Name {
    /// Its addresses, at least one, in the order in which the name server gave them, IPv6 first. Waits for the first
    /// look-up only.
    ///
    /// # Errors
    ///
    /// Why there is none.
    pub async fn addresses(&self) -> io::Result<Arc<[IpAddr]>> {
        let mut known = self.0.clone();
        let found = known.wait_for(|known| !matches!(known, Known::Nothing)).await;
        let cause = match found.as_deref() {
            Ok(Known::Addresses(addresses, _)) => return Ok(addresses.clone()),
            Ok(Known::Failed(cause)) => cause.to_string(),
            Ok(Known::Nothing) | Err(_) => "its look-ups have ended".to_owned(),
        };
        Err(io::Error::new(io::ErrorKind::NotFound, format!("the name cannot be looked up: {cause}")))
    }
}

/// Keeps what is known of a name new, for as long as the process lives.
async fn follow(
    config: Arc<Config>,
    name: String,
    mut entry: Entry,
    known: watch::Sender<Known>,
    told: mpsc::Sender<tally::Result>,
) {
    loop {
        let partly = |addresses: &[IpAddr]| {
            // The first that anybody knows of it: better than to wait for all.
            known.send_if_modified(|known| {
                let is_first = !matches!(known, Known::Addresses(..));
                if is_first {
                    *known = Known::Addresses(addresses.into(), Instant::now());
                }
                is_first
            });
        };
        let begun = Instant::now();
        let outcome = lookup::look_up(&config, &name, partly).await;
        // What is not counted must not hold up what is looked up.
        told.try_send(tally::Result::of(&outcome, begun)).ok();
        let now = Instant::now();
        let Step { publish, next, news } = entry.step(outcome, &config, now);
        if let Some(new) = publish {
            known.send_replace(new);
        }
        match news {
            Some(News::Found(addresses)) => tracing::info!(name, ?addresses, "the name has new addresses"),
            Some(News::Lost(cause)) => tracing::warn!(name, %cause, "the name cannot be looked up"),
            Some(News::Stale(cause)) => {
                tracing::warn!(name, %cause, "the name cannot be looked up; its last addresses stay in use");
            }
            None => {}
        }
        sleep_until(now + next).await;
    }
}

/// What is remembered of a name between its look-ups.
#[derive(Debug, Default)]
struct Entry {
    /// Its addresses, and when their time is over.
    found: Option<(Arc<[IpAddr]>, Instant)>,
    /// The look-ups in a row that have failed.
    failures: u32,
    /// Whether it was said that the name has no address.
    is_absent: bool,
}

/// What follows from a look-up.
#[derive(Debug)]
struct Step {
    publish: Option<Known>,
    /// How long until the next.
    next: Duration,
    /// What the log says, if that has changed.
    news: Option<News>,
}

#[derive(Debug, PartialEq, Eq)]
enum News {
    Found(Arc<[IpAddr]>),
    Lost(Arc<str>),
    Stale(Arc<str>),
}

impl Entry {
    fn step(&mut self, outcome: Outcome, config: &Config, now: Instant) -> Step {
        let was_failing = self.failures > 0;
        match outcome {
            Outcome::Found(Found { addresses, ttl }) => {
                let next = ttl.min(config.max_ttl).max(config.min_ttl);
                let addresses: Arc<[IpAddr]> = addresses.into();
                let is_other = self.found.as_ref().is_some_and(|(before, _)| !same(before, &addresses));
                let news =
                    (is_other || was_failing || self.is_absent).then(|| News::Found(addresses.clone()));
                let until = now + next;
                *self = Entry { found: Some((addresses.clone(), until)), ..Entry::default() };
                Step { publish: Some(Known::Addresses(addresses, until)), next, news }
            }
            Outcome::Absent(ttl) => {
                let next = ttl.min(MAX_ABSENT).max(config.min_ttl);
                let cause: Arc<str> = "it has no address".into();
                let news = (!self.is_absent).then(|| News::Lost(cause.clone()));
                *self = Entry { is_absent: true, ..Entry::default() };
                Step { publish: Some(Known::Failed(cause)), next, news }
            }
            Outcome::Failed(cause) => {
                let [least, most] = RETRY;
                let next = least.saturating_mul(1 << self.failures.min(16)).min(most);
                self.failures = self.failures.saturating_add(1);
                let cause: Arc<str> = cause.into();
                let is_usable = |(_, until): &(_, Instant)| now < *until + config.max_stale;
                if self.found.as_ref().is_some_and(is_usable) {
                    let news = (!was_failing).then_some(News::Stale(cause));
                    return Step { publish: None, next, news };
                }
                let is_lost = self.found.take().is_some();
                let news = (is_lost || !was_failing).then(|| News::Lost(cause.clone()));
                Step { publish: Some(Known::Failed(cause)), next, news }
            }
        }
    }
}

/// Whether these are the same addresses, in whatever order: name servers turn it with every answer.
fn same(one: &[IpAddr], other: &[IpAddr]) -> bool {
    one.len() == other.len() && one.iter().all(|address| other.contains(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn config() -> Config {
        Config { servers: Vec::new(), min_ttl: 2 * S, max_ttl: 100 * S, max_stale: 1000 * S }
    }

    fn found(last: u8, ttl: Duration) -> Outcome {
        Outcome::Found(Found { addresses: vec![[127, 0, 0, last].into()], ttl })
    }

    fn failed() -> Outcome {
        Outcome::Failed("a word".into())
    }

    #[test]
    fn addresses_are_looked_up_again_when_their_time_is_over() {
        let (config, now) = (config(), Instant::now());
        for (ttl, next) in [(0, 2), (1, 2), (30, 30), (1_000_000, 100)] {
            assert_eq!(Entry::default().step(found(1, S * ttl), &config, now).next, S * next);
        }
        for (ttl, next) in [(0, 2), (10, 10), (1_000_000, 30)] {
            assert_eq!(Entry::default().step(Outcome::Absent(S * ttl), &config, now).next, S * next);
        }
    }

    #[test]
    fn addresses_stay_while_nobody_answers_but_not_for_ever() {
        let (config, now) = (config(), Instant::now());
        let mut entry = Entry::default();
        entry.step(found(1, 10 * S), &config, now);
        let waits: Vec<u64> = (0..7)
            .map(|n| {
                let step = entry.step(failed(), &config, now + 10 * S);
                assert!(step.publish.is_none());
                assert_eq!(step.news.is_some(), n == 0, "it is told once");
                step.next.as_secs()
            })
            .collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30]);
        let over = entry.step(failed(), &config, now + 1010 * S);
        assert!(matches!(over.publish, Some(Known::Failed(_))), "{over:?}");
        assert!(matches!(over.news, Some(News::Lost(_))), "{over:?}");
        let back = entry.step(found(1, 10 * S), &config, now + 1040 * S);
        assert!(matches!(back.news, Some(News::Found(_))), "{back:?}");
        assert_eq!(entry.step(failed(), &config, now + 1050 * S).next, S);
    }

    #[test]
    fn what_is_told_is_what_has_changed() {
        let (config, now) = (config(), Instant::now());
        let mut entry = Entry::default();
        assert!(entry.step(found(1, S), &config, now).news.is_none());
        assert!(entry.step(found(2, S), &config, now).news.is_some());
        assert!(entry.step(Outcome::Absent(S), &config, now).news.is_some());
        assert!(entry.step(Outcome::Absent(S), &config, now).news.is_none());
        assert!(entry.step(found(2, S), &config, now).news.is_some());
    }
}
