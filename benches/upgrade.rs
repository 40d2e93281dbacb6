//! What an upgrade costs, and what 200 of them in a row do to clients, descriptors and memory.
//!
//! ```sh
//! cargo bench --bench upgrade
//! ```
//!
//! Prints figures; fails only if a request fails, or if descriptors or memory grow from generation to
//! generation. Times are for people: the machine may be busy.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by a panic")]
#![allow(unreachable_pub, reason = "a test has no API: `pub` is for its other files")]

#[path = "../tests/process/harness.rs"]
#[allow(dead_code)]
mod harness;
#[path = "../tests/process/traffic.rs"]
#[allow(dead_code)]
mod traffic;

use std::fs;
use std::time::{Duration, Instant};

use harness::{Exuvia, eventually, is_alive, signal};
use nix::sys::signal::Signal;
use traffic::{Client, Traffic};

const SETTINGS: &str =
    "workers = 2\n[restart]\nprobation = \"0s\"\nmax_generations = 64\n[log]\nlevel = \"warn\"\n";
const KEEP_ALIVE: usize = 64;
const CHURNING: usize = 16;
const GENERATIONS: u64 = 200;

fn main() {
    // `cargo test --benches` and `cargo bench` both run this; there is nothing to choose from.
    if std::env::args().any(|argument| argument == "--list") {
        return;
    }
    latency();
    recovery();
    soak();
}

/// From request to commit, with nothing else to do.
fn latency() {
    let exuvia = Exuvia::start(SETTINGS);
    let mut times: Vec<Duration> = (0..50)
        .map(|_| {
            let answer = exuvia.ask(&["upgrade", "--json"]);
            assert_eq!(answer.code, 0, "{answer:?}");
            let last = answer.out.lines().last().unwrap();
            let ended: serde_json::Value = serde_json::from_str(last).unwrap();
            Duration::from_millis(ended["elapsed_ms"].as_u64().unwrap())
        })
        .collect();
    times.sort();
    println!(
        "an upgrade from request to commit, 50 times: median {:?}, fastest {:?}, slowest {:?}",
        times[times.len() / 2],
        times[0],
        times[times.len() - 1]
    );
    assert_eq!(exuvia.stop(), 0);
}

/// From the death of a new process in its probation to the answer of the old one: the request waits in the
/// accept queue of a process that is stopped, and then killed.
fn recovery() {
    let exuvia = Exuvia::start(&SETTINGS.replace("0s", "60s"));
    let mut times: Vec<Duration> = (0..20)
        .map(|_| {
            let upgrade = exuvia.begin(&["upgrade"]);
            exuvia.wait_phase("probation");
            let new = exuvia.generations().last().unwrap().1;
            signal(new, Signal::SIGSTOP);
            let mut client = Client::connect(exuvia.address()).unwrap();
            client.ask("/").unwrap();
            let killed = Instant::now();
            signal(new, Signal::SIGKILL);
            assert_eq!(client.response().unwrap().generation(), 1);
            let recovered = killed.elapsed();
            assert_eq!(upgrade.answer().code, 1);
            recovered
        })
        .collect();
    times.sort();
    println!(
        "from a death in probation to the old process's answer, 20 times: median {:?}, slowest {:?}",
        times[times.len() / 2],
        times[times.len() - 1]
    );
    assert_eq!(exuvia.stop(), 0);
}

/// Upgrade after upgrade under load.
fn soak() {
    let exuvia = Exuvia::start(SETTINGS);
    let traffic = Traffic::with(exuvia.address(), KEEP_ALIVE, CHURNING);
    let begun = Instant::now();
    let mut at_ten = None;
    for generation in 2..=GENERATIONS {
        let old = exuvia.pid();
        exuvia.upgrade();
        traffic.reaches(generation);
        eventually("the old process is gone", || (!is_alive(old)).then_some(()));
        if generation == 10 {
            at_ten = Some(Footprint::of(exuvia.pid()));
        }
    }
    let (first, last) = (at_ten.unwrap(), Footprint::of(exuvia.pid()));
    let answered = traffic.answered();
    traffic.finish();
    println!(
        "{GENERATIONS} generations in {:?} under {KEEP_ALIVE} keep-alive and {CHURNING} churning connections: \
         {answered} requests, 0 failed",
        begun.elapsed()
    );
    println!("generation 10: {first:?}\ngeneration {GENERATIONS}: {last:?}");
    assert!(last.descriptors <= first.descriptors + 16, "descriptors grow: {first:?} → {last:?}");
    assert!(last.resident_kib <= first.resident_kib * 3 / 2, "memory grows: {first:?} → {last:?}");
    assert_eq!(exuvia.stop(), 0);
}

/// What a process holds. Descriptors without those of connections, which come and go with the load.
#[derive(Debug)]
struct Footprint {
    descriptors: usize,
    resident_kib: u64,
}

impl Footprint {
    fn of(pid: i32) -> Footprint {
        let targets = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
        let targets = targets.filter_map(|entry| fs::read_link(entry.path()).ok());
        let descriptors = targets.filter(|target| !target.to_string_lossy().starts_with("socket:")).count();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let resident_kib = resident.trim().trim_end_matches(" kB").parse().unwrap();
        Footprint { descriptors, resident_kib }
    }
}
