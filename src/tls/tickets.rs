//! The keys to sessions that clients keep (RFC 5077, and RFC 8446, section 4.6.1), from one generation to the
//! next.
//!
//! A ticket is what the server must know to resume a session, sealed: name of the key (16 bytes), nonce (12),
//! the sealed text with the time at which it was issued before it, tag (16). AES-256-GCM; a nonce is random,
//! which is good for 2³² tickets of one key (NIST SP 800-38D, section 8.3), and a key lives for a day at most.
//!
//! ```text
//!           birth        + lifetime      + 2 lifetimes
//!   next ────┼── current ────┼── previous ────┼── forgotten
//!            │ seals, opens  │ opens          │
//! ```
//!
//! All three keys go to the next generation, so that two processes that live at the same time change to the
//! same key, whichever comes to it first. They grow old by the time since the machine started, which all its
//! processes see alike and nobody puts back.

use std::fmt;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand;
use aws_lc_rs::{digest, hkdf};
use nix::time::{ClockId, clock_gettime};
use rustls::server::ProducesTickets;

use super::{Error, read};

const NAME: usize = 16;
const SECRET: usize = 32;
const TIME: usize = 8;

/// The least that a file of key material must hold, in bytes.
pub const MIN_KEY_FILE: usize = 32;

/// What the keys are called, and how they are written, in what one generation tells the next.
const FORMAT: &str = "2";

/// The keys of a process, for all its threads.
pub struct Tickets {
    keys: RwLock<Arc<Keys>>,
    /// In seconds.
    lifetime: u64,
    clock: Clock,
}

/// Seconds since a moment that is the same for all who have the keys.
type Clock = Box<dyn Fn() -> u64 + Send + Sync>;

/// Which keys there are at a moment.
enum Keys {
    /// Made here, or by a generation before.
    Random { next: Arc<Key>, current: Arc<Key>, previous: Option<Arc<Key>>, born: u64 },
    /// From files: the first seals.
    Fixed(Vec<Arc<Key>>),
}

struct Key {
    name: [u8; NAME],
    aead: LessSafeKey,
    /// From which both were derived.
    secret: Secret,
}

/// Bytes that are wiped when they are not needed any more.
struct Secret([u8; SECRET]);

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.fill(0);
        // So that it is not left out as a write that nobody reads.
        black_box(&self.0);
    }
}

impl Key {
    fn derive(secret: Secret) -> Result<Key, Unspecified> {
        let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, b"exuvia ticket").extract(&secret.0);
        let derive = |what: &'static [u8]| -> Result<Secret, Unspecified> {
            let mut bytes = Secret([0; SECRET]);
            prk.expand(&[what], hkdf::HKDF_SHA256)?.fill(&mut bytes.0)?;
            Ok(bytes)
        };
        let mut name = [0; NAME];
        name.copy_from_slice(&derive(b"name")?.0[..NAME]);
        let aead = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &derive(b"key")?.0)?);
        Ok(Key { name, aead, secret })
    }

    fn random() -> Result<Arc<Key>, Unspecified> {
        let mut secret = Secret([0; SECRET]);
        rand::fill(&mut secret.0)?;
        Key::derive(secret).map(Arc::new)
    }

    /// From all that a file holds.
    fn from_file(path: &Path) -> Result<Arc<Key>, Error> {
        let mut content = read(path)?;
        if content.len() < MIN_KEY_FILE {
            let length = content.len();
            return Err(Error::new(
                path,
                format!(
                    "it has {length} bytes, where a ticket key needs at least {MIN_KEY_FILE}; make one: \
                 openssl rand -out {} 48",
                    path.display()
                ),
            ));
        }
        let mut secret = Secret([0; SECRET]);
        secret.0.copy_from_slice(digest::digest(&digest::SHA256, &content).as_ref());
        content.fill(0);
        black_box(&content);
        let key = Key::derive(secret);
        key.map(Arc::new).map_err(|_| Error::new(path, "no key can be derived from it"))
    }

    fn seal(&self, now: u64, context: &[u8], plain: &[u8]) -> Result<Vec<u8>, Unspecified> {
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce)?;
        let mut sealed = [&now.to_be_bytes(), plain].concat();
        let nonce_of_this = Nonce::assume_unique_for_key(nonce);
        self.aead.seal_in_place_append_tag(nonce_of_this, Aad::from(context), &mut sealed)?;
        Ok([&self.name[..], &nonce, &sealed].concat())
    }

    /// The text and when it was sealed.
    fn open(&self, context: &[u8], ticket: &[u8]) -> Option<(u64, Vec<u8>)> {
        let (nonce, sealed) = ticket.get(NAME..)?.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut sealed = sealed.to_vec();
        let opened = self.aead.open_in_place(nonce, Aad::from(context), &mut sealed).ok()?;
        let (time, plain) = opened.split_first_chunk::<TIME>()?;
        Some((u64::from_be_bytes(*time), plain.to_vec()))
    }
}

impl Keys {
    fn current(&self) -> Option<&Arc<Key>> {
        match self {
            Keys::Random { current, .. } => Some(current),
            Keys::Fixed(keys) => keys.first(),
        }
    }

    fn named(&self, name: &[u8]) -> Option<&Arc<Key>> {
        let is_named = |key: &&Arc<Key>| key.name == *name;
        match self {
            Keys::Random { next, current, previous, .. } => {
                [current, next].into_iter().chain(previous).find(is_named)
            }
            Keys::Fixed(keys) => keys.iter().find(is_named),
        }
    }
}

impl Tickets {
    /// With keys of their own, after those of the generation before if it `handed` any on; see
    /// [`Tickets::hand_on`]. What was handed on and is not understood is told as a warning: it costs
    /// clients a full handshake, and no more.
    ///
    /// `None` if the system has no randomness.
    pub fn random(lifetime: Duration, handed: Option<&str>) -> Option<(Tickets, Option<String>)> {
        Tickets::random_at(lifetime, handed, Box::new(seconds_since_boot))
    }

    fn random_at(
        lifetime: Duration,
        handed: Option<&str>,
        clock: Clock,
    ) -> Option<(Tickets, Option<String>)> {
        let now = clock();
        let inherited = handed.map(|text| parse(text, now));
        let warning = matches!(inherited, Some(None)).then(|| {
            "the ticket keys of the generation before are not understood; sessions begin anew".to_owned()
        });
        let keys = match inherited.flatten() {
            Some(keys) => keys,
            None => Keys::Random {
                next: Key::random().ok()?,
                current: Key::random().ok()?,
                previous: None,
                born: now,
            },
        };
        Some((Tickets::with(keys, lifetime, clock), warning))
    }

    /// With keys from files, for several hosts: the first seals, all open. They do not change by themselves.
    ///
    /// Errors name the file.
    pub fn from_files(lifetime: Duration, files: &[PathBuf]) -> Result<Tickets, Error> {
        let keys = files.iter().map(|path| Key::from_file(path)).collect::<Result<_, _>>()?;
        Ok(Tickets::with(Keys::Fixed(keys), lifetime, Box::new(unix_seconds)))
    }

    fn with(keys: Keys, lifetime: Duration, clock: Clock) -> Tickets {
        Tickets { keys: RwLock::new(Arc::new(keys)), lifetime: lifetime.as_secs().max(1), clock }
    }

    /// What the next generation must know to open what this one seals. It is as secret as the keys: only for
    /// a channel between two processes. `None` for keys from files, which the next one reads by itself.
    pub fn hand_on(&self) -> Option<String> {
        let Keys::Random { next, current, previous, born } = &*self.keys_at((self.clock)()) else {
            return None;
        };
        let keys = [next, current].into_iter().chain(previous);
        let keys: Vec<String> = keys.map(|key| hex(&key.secret.0)).collect();
        Some(format!("{FORMAT} {born} {}", keys.join(" ")))
    }

    /// The same keys for sessions of one `policy`: what was sealed under another does not open.
    pub fn bound_to(self: &Arc<Self>, policy: &[u8]) -> Arc<dyn ProducesTickets> {
        Arc::new(Bound { tickets: self.clone(), policy: policy.to_vec() })
    }

    /// The keys of this moment.
    fn keys_at(&self, now: u64) -> Arc<Keys> {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner).clone();
        if !self.is_due(&keys, now) {
            return keys;
        }
        let mut place = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        // Another thread may have been first.
        if self.is_due(&place, now)
            && let Keys::Random { next, current, born, .. } = &**place
            // Without randomness the old key serves on.
            && let Ok(fresh) = Key::random()
        {
            let age = now.saturating_sub(*born);
            let rotated = if age < self.lifetime.saturating_mul(2) {
                let born = born.saturating_add(self.lifetime);
                Keys::Random { next: fresh, current: next.clone(), previous: Some(current.clone()), born }
            } else {
                // Nobody has come for so long that even the next key would be too old.
                Keys::Random { next: fresh, current: next.clone(), previous: None, born: now }
            };
            *place = Arc::new(rotated);
        }
        place.clone()
    }

    fn is_due(&self, keys: &Keys, now: u64) -> bool {
        matches!(keys, Keys::Random { born, .. } if now >= born.saturating_add(self.lifetime))
    }

    fn seal(&self, policy: &[u8], plain: &[u8]) -> Option<Vec<u8>> {
        let now = (self.clock)();
        self.keys_at(now).current()?.seal(now, policy, plain).ok()
    }

    fn open(&self, policy: &[u8], ticket: &[u8]) -> Option<Vec<u8>> {
        let now = (self.clock)();
        let (issued, plain) = self.keys_at(now).named(ticket.get(..NAME)?)?.open(policy, ticket)?;
        (now.saturating_sub(issued) <= self.lifetime).then_some(plain)
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tickets").field("lifetime", &self.lifetime).finish_non_exhaustive()
    }
}

/// [`Tickets`] for one policy.
#[derive(Debug)]
struct Bound {
    tickets: Arc<Tickets>,
    policy: Vec<u8>,
}

impl ProducesTickets for Bound {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(self.tickets.lifetime).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.tickets.seal(&self.policy, plain)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.tickets.open(&self.policy, cipher)
    }
}

/// With the time in which the machine was suspended, in which keys grow old, too.
fn seconds_since_boot() -> u64 {
    // Linux has had this clock since 2.6.39.
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0, |time| u64::try_from(time.tv_sec()).unwrap_or(0))
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What [`Tickets::hand_on`] wrote.
fn parse(text: &str, now: u64) -> Option<Keys> {
    let mut words = text.split(' ');
    if words.next()? != FORMAT {
        return None;
    }
    // In another time namespace the machine has started at another time; that must not make a key immortal.
    let born = words.next()?.parse::<u64>().ok()?.min(now);
    let mut keys =
        words.map(|word| parse_secret(word).and_then(|secret| Key::derive(secret).ok()).map(Arc::new));
    let (next, current) = (keys.next()??, keys.next()??);
    let previous = match keys.next() {
        Some(key) => Some(key?),
        None => None,
    };
    keys.next().is_none().then_some(Keys::Random { next, current, previous, born })
}

fn parse_secret(word: &str) -> Option<Secret> {
    let mut secret = Secret([0; SECRET]);
    if word.len() != 2 * SECRET || !word.is_ascii() {
        return None;
    }
    for (i, byte) in secret.0.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&word[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(secret)
}

#[cfg(test)]
mod tests;
