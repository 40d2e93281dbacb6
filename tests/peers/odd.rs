//! HTTP/2 clients that do what none should. `http2_odd.py` has the cases, and asks in good order after each.

use super::program::{Need, Program, skipped};
use super::twenty::{encrypted, ends_well, plain};

/// Short enough for a test, long enough for a busy machine.
const SHORT: &str =
    "[http2]\nack_timeout = \"2s\"\n[timeouts]\nhandshake = \"2s\"\nheader = \"2s\"\nidle = \"2s\"\n";

#[test]
fn frames_that_no_one_should_send() {
    if skipped(&[Need::Python("h2")]) {
        return;
    }
    let exuvia = plain(SHORT);
    Program::client("http2_odd.py", exuvia.address(), &["--acknowledge", "2"]).end();
    ends_well(exuvia);
}

#[test]
fn frames_that_no_one_should_send_over_tls() {
    if skipped(&[Need::Python("h2")]) {
        return;
    }
    let (exuvia, certificate) = encrypted(SHORT);
    let arguments = ["--acknowledge", "2", "--ca", certificate.authority()];
    Program::client("http2_odd.py", exuvia.address(), &arguments).end();
    ends_well(exuvia);
}
