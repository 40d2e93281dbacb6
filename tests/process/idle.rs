//! Idle keep-alive connections over several upgrades.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

use super::harness::{Exuvia, eventually};
use super::traffic::Client;

/// Clients that rest for a while between two requests, as browsers do, and none of which asks again when a
/// request has failed. What an old process still has must be answered by it, with the word that it closes.
#[test]
fn a_hundred_that_wake_at_random_lose_no_request() {
    let exuvia = Exuvia::start(
        "[restart]\nprobation = \"0s\"\nmax_generations = 64\n[drain]\ntimeout = \"60s\"\nidle_grace = \"20s\"\n",
    );
    let news = Arc::new(News::default());
    let address = exuvia.address();
    let clients: Vec<_> = (0..100)
        .map(|seed| {
            let news = news.clone();
            spawn(move || news.client(address, seed))
        })
        .collect();
    for generation in 2..=21 {
        let before = news.answered.load(Ordering::Relaxed);
        eventually("the clients ask", || {
            (news.answered.load(Ordering::Relaxed) > before + 100).then_some(())
        });
        exuvia.upgrade();
        assert_eq!(exuvia.generation(), generation);
    }
    eventually("the old processes answer", || (news.told.load(Ordering::Relaxed) >= 100).then_some(()));
    news.over.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().unwrap();
    }
    assert_eq!(exuvia.stop(), 0);
}

#[derive(Default)]
struct News {
    over: AtomicBool,
    answered: AtomicU64,
    /// Answers that said that the connection closes.
    told: AtomicU64,
}

impl News {
    fn client(&self, address: SocketAddr, seed: u64) {
        let mut pauses = (1..).map(|n: u64| Duration::from_millis((seed * 7919 + n * 104_729) % 600));
        while !self.over.load(Ordering::Relaxed) {
            let mut client = Client::connect(address).unwrap();
            while !self.over.load(Ordering::Relaxed) {
                let answer =
                    client.get("/bytes?n=100").unwrap_or_else(|error| panic!("client {seed}: {error}"));
                assert_eq!((answer.status, answer.body.len()), (200, 100));
                self.answered.fetch_add(1, Ordering::Relaxed);
                if answer.closes() {
                    self.told.fetch_add(1, Ordering::Relaxed);
                    assert!(client.at_end().unwrap());
                    break;
                }
                // The time that a person takes: this is the load, and nobody waits for it.
                sleep(pauses.next().unwrap());
            }
        }
    }
}

/// One that stays silent is closed in good order, and not before its grace is over.
#[test]
fn a_hundred_that_stay_silent_have_their_grace() {
    let grace = Duration::from_millis(700);
    let exuvia = Exuvia::start("[restart]\nprobation = \"0s\"\n[drain]\nidle_grace = \"700ms\"\n");
    let connect = |n: usize| {
        let mut client = Client::connect(exuvia.address()).unwrap();
        // Every other one has never sent anything.
        if n.is_multiple_of(2) {
            assert!(!client.get("/").unwrap().closes());
        }
        client
    };
    for _ in 0..2 {
        let clients: Vec<Client> = (0..100).map(connect).collect();
        eventually("all are accepted", || {
            let status = exuvia.status();
            let all = status["generations"].as_array()?;
            let owner = all.iter().find(|one| one["pid"] == status["pid"])?;
            let rows = owner["connections"].as_array()?;
            (rows.iter().filter_map(|row| row["open"].as_u64()).sum::<u64>() >= 100).then_some(())
        });
        let begun = Instant::now();
        exuvia.upgrade();
        for mut client in clients {
            assert!(client.at_end().unwrap(), "it was closed in good order");
            let open = begun.elapsed();
            assert!(open >= grace, "it was closed after {open:?}");
        }
    }
    for generation in 1..exuvia.generation() {
        exuvia.says(&format!("ended generation={generation}"));
    }
    assert!(!exuvia.log().contains("dropped"), "{}", exuvia.log());
    assert_eq!(exuvia.stop(), 0);
}
