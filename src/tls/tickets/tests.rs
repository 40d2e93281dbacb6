use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::*;

const HOUR: u64 = 3600;
const LIFETIME: Duration = Duration::from_secs(12 * HOUR);

/// A clock that stands until it is moved.
#[derive(Clone)]
struct Hand(Arc<AtomicU64>);

impl Hand {
    fn new() -> Hand {
        Hand(Arc::new(AtomicU64::new(1_000_000)))
    }

    fn tickets(&self, handed: Option<&str>) -> (Arc<Tickets>, Option<String>) {
        let hand = self.0.clone();
        let clock = Box::new(move || hand.load(Relaxed));
        let (tickets, warning) = Tickets::random_at(LIFETIME, handed, clock).unwrap();
        (Arc::new(tickets), warning)
    }

    fn advance(&self, hours: u64) {
        self.0.fetch_add(hours * HOUR, Relaxed);
    }
}

fn opens(tickets: &Tickets, ticket: &[u8]) -> bool {
    match tickets.open(b"p", ticket) {
        Some(plain) => {
            assert_eq!(plain, b"session");
            true
        }
        None => false,
    }
}

fn seal(tickets: &Tickets) -> Vec<u8> {
    tickets.seal(b"p", b"session").unwrap()
}

#[test]
fn a_ticket_opens_for_its_lifetime_and_no_longer() {
    let hand = Hand::new();
    let (tickets, _) = hand.tickets(None);
    hand.advance(6);
    let ticket = seal(&tickets);
    hand.advance(12);
    assert!(opens(&tickets, &ticket), "its key is the previous one now");
    hand.advance(1);
    assert!(!opens(&tickets, &ticket), "the key is there, the ticket is too old");
    let ticket = seal(&tickets);
    hand.advance(40);
    assert!(!opens(&tickets, &ticket));
}

/// The time of day was asked, and when it was put back, keys lived for so much longer.
#[test]
fn keys_of_a_process_grow_old_by_a_clock_that_is_never_put_back() {
    let uptime = || {
        let text = std::fs::read_to_string("/proc/uptime").unwrap();
        text.split('.').next().unwrap().parse::<u64>().unwrap()
    };
    let (tickets, _) = Tickets::random(LIFETIME, None).unwrap();
    let before = uptime();
    let now = (tickets.clock)();
    assert!((before..=uptime()).contains(&now), "{now} is no time since the start of this machine");
    // The next generation counts from the same moment.
    let born = tickets.hand_on().unwrap().split(' ').nth(1).unwrap().parse::<u64>().unwrap();
    assert!(born <= before);

    // Hosts that share files have nothing in common but the time of day.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    std::fs::write(&path, [1; 48]).unwrap();
    let shared = Tickets::from_files(LIFETIME, &[path]).unwrap();
    let before = unix_seconds();
    assert!((shared.clock)() >= before);
}

#[test]
fn keys_are_forgotten_after_two_rotations() {
    let hand = Hand::new();
    let (tickets, _) = hand.tickets(None);
    let name = seal(&tickets)[..NAME].to_vec();
    let has = || tickets.keys_at((tickets.clock)()).named(&name).is_some();
    assert!(has());
    hand.advance(12);
    assert!(has());
    assert_ne!(seal(&tickets)[..NAME], name);
    hand.advance(12);
    assert!(!has());
}

#[test]
fn no_two_tickets_are_alike_and_none_opens_that_was_changed() {
    let (tickets, _) = Hand::new().tickets(None);
    let ticket = seal(&tickets);
    assert_ne!(ticket, seal(&tickets));
    assert_eq!(ticket.len(), NAME + NONCE_LEN + TIME + b"session".len() + 16);
    for at in 0..ticket.len() {
        let mut changed = ticket.clone();
        changed[at] ^= 1;
        assert!(!opens(&tickets, &changed), "byte {at}");
        assert!(!opens(&tickets, &ticket[..at]), "only {at} bytes");
    }
    assert!(tickets.open(b"another policy", &ticket).is_none());
    assert!(opens(&tickets, &ticket));
}

#[test]
fn the_next_generation_opens_what_this_one_seals_and_back() {
    let hand = Hand::new();
    let (first, _) = hand.tickets(None);
    let early = seal(&first);
    hand.advance(11);
    let (second, warning) = hand.tickets(first.hand_on().as_deref());
    assert_eq!(warning, None);
    let (third, _) = hand.tickets(second.hand_on().as_deref());
    assert!(opens(&third, &early));
    assert!(opens(&first, &seal(&third)), "after a rollback");
    // The age of the key goes along.
    hand.advance(1);
    let (a, b) = (seal(&second), seal(&first));
    assert_eq!(a[..NAME], b[..NAME], "both have changed to the same key");
    assert!(opens(&first, &a) && opens(&second, &b) && opens(&third, &a));
    assert!(opens(&second, &early));
    hand.advance(12);
    assert!(!opens(&second, &early));
}

#[test]
fn one_process_may_change_keys_before_the_other() {
    let hand = Hand::new();
    let (first, _) = hand.tickets(None);
    let (second, _) = Hand(hand.0.clone()).tickets(first.hand_on().as_deref());
    let ahead = Hand::new();
    ahead.advance(13);
    let (fast, _) = ahead.tickets(first.hand_on().as_deref());
    let ticket = seal(&fast);
    assert!(first.keys_at(hand.0.load(Relaxed)).named(&ticket[..NAME]).is_some());
    assert!(second.keys_at(hand.0.load(Relaxed)).named(&ticket[..NAME]).is_some());
}

#[test]
fn what_is_not_understood_is_told_and_new_keys_are_made() {
    let hand = Hand::new();
    let (first, _) = hand.tickets(None);
    let handed = first.hand_on().unwrap();
    let wrong = [
        String::new(),
        "2".into(),
        "1".to_owned() + &handed[1..],
        handed.clone() + " 00",
        handed[..handed.len() - 1].into(),
        handed.replacen("1000000", "yesterday", 1),
        handed.clone() + " ü",
        handed.clone() + &handed[handed.len() - 65..] + &handed[handed.len() - 65..],
    ];
    for text in wrong {
        let (tickets, warning) = hand.tickets(Some(&text));
        assert!(warning.is_some(), "{text:?}");
        let ticket = seal(&tickets);
        assert!(opens(&tickets, &ticket) && !opens(&first, &ticket), "{text:?}");
    }
}

#[test]
fn nothing_printed_has_a_key() {
    let (tickets, _) = Hand::new().tickets(None);
    let handed = tickets.hand_on().unwrap();
    let shown = format!("{tickets:?} {:?}", tickets.bound_to(b"policy"));
    for secret in handed.split(' ').skip(2) {
        assert!(!shown.contains(secret), "{shown}");
    }
    assert!(shown.len() < 200, "{shown}");
}

#[test]
fn files_are_keys_for_several_hosts() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    };
    let (a, b) = (file("a", &[1; 48]), file("b", &[2; 80]));
    let load = |files: &[PathBuf]| Tickets::from_files(LIFETIME, files);
    let old = load(std::slice::from_ref(&a)).unwrap();
    let new = load(&[b.clone(), a.clone()]).unwrap();
    let ticket = seal(&old);
    assert!(opens(&load(std::slice::from_ref(&a)).unwrap(), &ticket) && opens(&new, &ticket));
    assert!(!opens(&load(&[b]).unwrap(), &ticket) && !opens(&old, &seal(&new)));
    assert_eq!(new.hand_on(), None);

    let missing = load(&[a.clone(), folder.path().join("missing")]).unwrap_err().to_string();
    assert!(missing.contains("missing\": cannot read it: No such file"), "{missing}");
    let short = load(&[file("short", &[3; 31])]).unwrap_err().to_string();
    assert!(short.contains("short\": it has 31 bytes") && short.contains("at least 32"), "{short}");
}
