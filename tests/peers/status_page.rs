//! The status page in Chromium, headless.

use super::harness::Exuvia;
use super::program::{Need, Program, skipped};
use super::traffic::Client;

/// The program has the steps, and ends after the last.
#[test]
fn the_page_shows_an_upgrade_while_it_happens() {
    if skipped(&[Need::Program("chromium", "chromium"), Need::Python("websockets")]) {
        return;
    }
    let exuvia = Exuvia::start("[admin]\naddress = \"127.0.0.1:0\"\n[restart]\nprobation = \"1s\"\n");
    let admin = exuvia.status()["admin"].as_str().unwrap().parse().unwrap();
    // For those who want to see it.
    let pictures = std::env::var("EXUVIA_TEST_PICTURES").ok();
    let arguments: Vec<&str> = pictures.iter().flat_map(|folder| ["--pictures", folder]).collect();
    let mut browser = Program::client("status_page.py", admin, &arguments);
    browser.reaches(1);

    let mut slow = Client::connect(exuvia.address()).unwrap();
    slow.ask("/slow?ms=600000").unwrap();
    exuvia.upgrade();
    browser.reaches(2);
    assert_eq!(exuvia.generation(), 2);

    // Its client goes, and with it all that generation 1 still has.
    drop(slow);
    let summary = browser.end();
    assert_eq!(summary["done"], 3, "{summary}");
    // The page, and its events from each generation.
    assert!(summary["asked"].as_u64().unwrap() >= 3, "{summary}");
    assert_eq!(exuvia.stop(), 0);
}
