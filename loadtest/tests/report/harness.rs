//! What the programs that play others need of a test.

use std::time::{Duration, Instant};

/// How long anything may take on a machine however busy.
const PATIENCE: Duration = Duration::from_secs(120);

/// Waits until `check` gives something; fails loudly, with what it was about, when it never does.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(Instant::now() < deadline, "gave up waiting until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
