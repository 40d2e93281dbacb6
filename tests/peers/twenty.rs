//! Twenty upgrades under a program that never stops.

use super::certificate::Certificate;
use super::harness::{Exuvia, Starter};
use super::program::Program;

pub const UPGRADES: u64 = 20;

/// An old process may take as long as its clients like, and there may be as many as there will be.
const PATIENT: &str =
    "[restart]\nprobation = \"0s\"\nmax_generations = 64\n[drain]\ntimeout = \"5m\"\nidle_grace = \"5m\"\n";

/// An exuvia for it: with these settings, on plain TCP.
pub fn plain(settings: &str) -> Exuvia {
    Exuvia::start(&format!("workers = 2\n{PATIENT}{settings}"))
}

/// An exuvia for it: with these settings, on TLS, with a certificate of its own.
pub fn encrypted(settings: &str) -> (Exuvia, Certificate) {
    let starter = Starter::new("");
    let certificate = Certificate::make(starter.folder());
    let settings = format!("workers = 2\n{PATIENT}{settings}{}", certificate.settings());
    (starter.settings(&settings).start(), certificate)
}

/// Replaces it twenty times, each time after the client has done more, and then ends the client: nothing may
/// have failed on either side.
#[track_caller]
pub fn upgrades(exuvia: Exuvia, mut client: Program, more: u64) -> serde_json::Value {
    for generation in 2..=UPGRADES + 1 {
        client.flows(more);
        exuvia.upgrade();
        assert_eq!(exuvia.generation(), generation);
    }
    client.flows(more);
    let summary = client.finish();
    ends_well(exuvia);
    summary
}

/// It stops, and has dropped nobody.
#[track_caller]
pub fn ends_well(exuvia: Exuvia) {
    let log = exuvia.folder().join("log");
    assert!(!exuvia.log().contains("dropped"), "{}", exuvia.log());
    // The log outlives the folder only if it is read before.
    let kept = std::fs::File::open(log).unwrap();
    assert_eq!(exuvia.stop(), 0);
    let rest = std::io::read_to_string(kept).unwrap();
    assert!(!rest.contains("dropped"), "{rest}");
}
