//! `exuvia upgrade`: asks for it, tells how it goes on, ends with the verdict.

use std::path::Path;
use std::time::Duration;

use http::Method;
use tokio::time::{Instant, sleep_until};

use super::screen::Screen;
use super::time::{exactly, roughly};
use super::{Exit, Interrupts, Trouble, answered, indented};
use crate::control::Until;
use crate::control::client;
use crate::restart::{Failure, PastUpgrade, Progress, Verdict, cost_words};

const BROKE: &str = "error: the connection to the old process broke before the verdict: it may have been \
    killed. Whether another one serves is what `exuvia status` tells; why, its log";
const INTERRUPTED: &str = "interrupted; the upgrade goes on. `exuvia status` tells how far it is, `exuvia rollback` \
    takes it back until it is committed";

/// Asks the process behind `socket` for an upgrade and waits for what comes of it.
pub(super) async fn run(
    socket: &Path,
    until: Until,
    json: bool,
    screen: &mut Screen,
) -> Result<Exit, Trouble> {
    let mut interrupts = Interrupts::new();
    let target = format!("/v1/upgrade?stream=1&until={}", until.as_str());
    let mut lines = match client::stream(socket, Method::POST, &target).await? {
        Ok(lines) => lines,
        Err(answer) => return Err(Trouble::answered("upgrade", &answer)),
    };
    let mut story = Story::new(until);
    loop {
        let line = tokio::select! {
            line = lines.next() => line,
            () = story.count_down(screen) => continue,
            () = interrupts.next() => {
                screen.error(INTERRUPTED);
                return Ok(Exit::Interrupted);
            }
        };
        let Ok(Some(line)) = line else {
            screen.error(BROKE);
            return Ok(Exit::Failed);
        };
        if json {
            screen.raw(&[&line[..], b"\n"].concat()).ok();
        }
        // A later version may tell more; the last word has been the same from the first.
        let Ok(progress) = serde_json::from_slice::<Progress>(&line) else { continue };
        let (words, exit) = story.tell(&progress);
        match (exit, json) {
            (_, true) => {}
            (None, false) if words.is_empty() => {}
            (None | Some(Exit::Done), false) => screen.line(&words),
            (Some(_), false) => screen.error(&words),
        }
        if let Some(exit) = exit {
            return Ok(exit);
        }
    }
}

/// An upgrade as it is told.
#[derive(Debug)]
struct Story {
    until: Until,
    generation: u32,
    /// When the old process lets go.
    probation_ends: Option<Instant>,
    /// When the line about that is due.
    next_tick: Option<Instant>,
    /// Whether there was a probation.
    watched: bool,
    /// What is left to say of the old processes once it is over.
    left: String,
}

impl Story {
    fn new(until: Until) -> Self {
        Story {
            until,
            generation: 0,
            probation_ends: None,
            next_tick: None,
            watched: false,
            left: String::new(),
        }
    }

    /// What to say, and how to exit if it is the end.
    fn tell(&mut self, progress: &Progress) -> (String, Option<Exit>) {
        match progress {
            Progress::Refused { reason } => {
                (format!("error: upgrade refused: {reason}"), Some(Exit::Refused))
            }
            Progress::Started { generation, pid, executable } => {
                self.generation = *generation;
                (format!("generation {generation} (pid {pid}) started from {executable}"), None)
            }
            Progress::Ready { elapsed_ms, probation_ms, wanted, longest_ms, version: _ } => {
                let took = exactly(*elapsed_ms);
                let now = Instant::now();
                let words = match probation_ms {
                    _ if *wanted > 0 => format!(
                        "ready after {took}; the old process watches for {}, and until {wanted} requests are answered, for {} at most",
                        exactly(*probation_ms),
                        exactly(*longest_ms)
                    ),
                    0 => format!("ready after {took}"),
                    _ => {
                        format!("ready after {took}; the old process watches for {}", exactly(*probation_ms))
                    }
                };
                self.probation_ends = Some(now + Duration::from_millis(*probation_ms.max(longest_ms)));
                self.watched = *probation_ms > 0 || *wanted > 0;
                self.next_tick = Some(now);
                (words, (self.until == Until::Ready).then_some(Exit::Done))
            }
            Progress::Draining { generation, connections, left_ms, before } => {
                self.left = left(*generation, *connections, *left_ms, before.as_ref());
                (String::new(), None)
            }
            Progress::Ended { elapsed_ms, done, verdict } => {
                let took = exactly(*elapsed_ms);
                match verdict {
                    Verdict::Committed => {
                        let mut words =
                            format!("committed after {took}: generation {} serves", self.generation);
                        if self.watched {
                            let answered = answered::requests(done);
                            words.push_str(&format!("; while it was watched it answered {answered}"));
                        }
                        words.push_str(&self.left);
                        (words, Some(Exit::Done))
                    }
                    Verdict::RolledBack => (
                        format!("error: the upgrade was rolled back after {took}: the old process serves on"),
                        Some(Exit::Failed),
                    ),
                    Verdict::Failed(failure) => (failed(&took, failure), Some(Exit::Failed)),
                }
            }
        }
    }

    /// Shows on a terminal how long the new process is still watched. Ready when the line is to change.
    async fn count_down(&mut self, screen: &mut Screen) {
        let (Some(end), Some(tick)) = (self.probation_ends, self.next_tick) else {
            return std::future::pending().await;
        };
        sleep_until(tick).await;
        let left = end.saturating_duration_since(Instant::now());
        // To the full second, so that the first line does not say that one is gone already.
        let left_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX).div_ceil(1000) * 1000;
        if left_ms > 0 {
            screen.live(&format!("watching: {} left; `exuvia rollback` takes it back", roughly(left_ms)));
        }
        self.next_tick = (left_ms > 0).then_some(tick + Duration::from_secs(1));
    }
}

/// Each on a line of its own, and none if there is nothing to say.
fn left(generation: u32, connections: u64, left_ms: u64, before: Option<&PastUpgrade>) -> String {
    let mut lines = String::new();
    if connections > 0 {
        let (s, left) = (if connections == 1 { "" } else { "s" }, roughly(left_ms));
        lines.push_str(&format!(
            "\ngeneration {generation} finishes {connections} connection{s}, and cuts what is left in {left}; \
             `exuvia status` then tells how much that was"
        ));
    }
    if let Some(before) = before
        && let Some(cost) = before.cost.as_ref().filter(|cost| !cost.is_empty())
    {
        let (of, cost) = (before.leaver(), cost_words(cost));
        lines.push_str(&format!("\nthe upgrade before cost {cost}, which generation {of} did not finish"));
    }
    lines
}

fn failed(took: &str, Failure { step, message }: &Failure) -> String {
    let cause = indented(message);
    let after = match step.as_str() {
        "stop" => "",
        _ => "\nNothing has changed: the old process serves on",
    };
    format!("error: the upgrade failed after {took} at step {step}:\n{cause}{after}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn started() -> Progress {
        Progress::Started { generation: 2, pid: 4711, executable: "/opt/exuvia/bin/exuvia".into() }
    }

    fn ready(probation_ms: u64) -> Progress {
        Progress::Ready {
            elapsed_ms: 38,
            probation_ms,
            wanted: 0,
            longest_ms: probation_ms,
            version: "0.2.0".into(),
        }
    }

    fn ended(verdict: Verdict) -> Progress {
        Progress::Ended { elapsed_ms: 5041, done: BTreeMap::from([("2xx".into(), 3)]), verdict }
    }

    #[test]
    fn a_good_upgrade_in_three_lines() {
        let mut story = Story::new(Until::Committed);
        let mut tell = |progress| story.tell(&progress);
        assert_eq!(
            tell(started()),
            ("generation 2 (pid 4711) started from /opt/exuvia/bin/exuvia".into(), None)
        );
        assert_eq!(tell(ready(5000)), ("ready after 38 ms; the old process watches for 5 s".into(), None));
        assert_eq!(
            tell(ended(Verdict::Committed)),
            ("committed after 5.04 s: generation 2 serves; while it was watched it answered 3 requests (3 2xx)".into(), Some(Exit::Done))
        );
    }

    #[test]
    fn what_is_left_and_what_the_last_one_has_cost() {
        let mut story = Story::new(Until::Committed);
        story.tell(&started());
        let before = PastUpgrade {
            from: 1,
            to: 2,
            result: "committed".into(),
            cost: Some([("requests".to_owned(), 3), ("tunnels".to_owned(), 1)].into()),
            ..PastUpgrade::default()
        };
        let draining =
            Progress::Draining { generation: 2, connections: 12, left_ms: 30_000, before: Some(before) };
        assert_eq!(story.tell(&draining), (String::new(), None));
        let (words, _) = story.tell(&ended(Verdict::Committed));
        let expected = "committed after 5.04 s: generation 2 serves\n\
            generation 2 finishes 12 connections, and cuts what is left in 30 s; `exuvia status` then tells how much \
            that was\n\
            the upgrade before cost 3 requests, 1 tunnel, which generation 1 did not finish";
        assert_eq!(words, expected);
    }

    #[test]
    fn without_probation_there_is_nothing_to_watch() {
        let (words, exit) = Story::new(Until::Committed).tell(&ready(0));
        assert_eq!((words.as_str(), exit), ("ready after 38 ms", None));
    }

    #[test]
    fn who_waits_until_ready_waits_no_longer() {
        let mut story = Story::new(Until::Ready);
        assert_eq!(story.tell(&started()).1, None);
        assert_eq!(story.tell(&ready(5000)).1, Some(Exit::Done));
    }

    #[test]
    fn a_failure_names_the_step_and_the_whole_cause() {
        let message = "exit status 1\nits last words on standard error:\nno such file: x.toml";
        let verdict = Verdict::Failed(Failure::new("configuration", message));
        let (words, exit) = Story::new(Until::Committed).tell(&ended(verdict));
        let expected = "error: the upgrade failed after 5.04 s at step configuration:
    exit status 1
    its last words on standard error:
    no such file: x.toml
Nothing has changed: the old process serves on";
        assert_eq!((words.as_str(), exit), (expected, Some(Exit::Failed)));

        let verdict = Verdict::Failed(Failure::new("stop", "the old process was asked to stop"));
        let (words, _) = Story::new(Until::Committed).tell(&ended(verdict));
        assert!(!words.contains("Nothing has changed"), "{words}");
    }

    #[test]
    fn what_is_not_done_has_an_exit_status_of_its_own() {
        let mut story = Story::new(Until::Committed);
        let (words, exit) = story.tell(&Progress::Refused { reason: "busy".into() });
        assert_eq!((words.as_str(), exit), ("error: upgrade refused: busy", Some(Exit::Refused)));
        let (words, exit) = story.tell(&ended(Verdict::RolledBack));
        let expected = "error: the upgrade was rolled back after 5.04 s: the old process serves on";
        assert_eq!((words.as_str(), exit), (expected, Some(Exit::Failed)));
    }
}
