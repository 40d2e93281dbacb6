//! The last upgrades and how they ended. Each generation gives them to the next; after a crash they begin anew.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::ledger::Totals;
use super::state::{Failure, Verdict};

/// How many are remembered.
const MOST: usize = 10;
/// What is remembered of the cause of the last failure, in bytes.
const MAX_CAUSE: usize = 4 * 1024;
/// And of those before it: all of them go into one message.
const MAX_OLD_CAUSE: usize = 240;

/// The upgrades that a process knows of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// Those that have ended, the oldest first.
    pub past: Vec<PastUpgrade>,
    /// The one that has not.
    pub under_way: Option<UnderWay>,
    /// What a generation has cost of which the upgrade has not ended yet.
    unclaimed: Option<(u32, Cost)>,
}

/// What a process had begun and did not finish, by what it is, such as `requests`; what is zero is missing.
pub type Cost = BTreeMap<String, u64>;

/// A series of ends that tell what a process did not finish: of its label `end`, these values.
#[derive(Clone, Copy, Debug)]
pub struct Loss {
    /// What has ended so, in the plural.
    pub what: &'static str,
    /// The name of the series.
    pub series: &'static str,
    /// The ends that count.
    pub ends: &'static [&'static str],
}

/// What `losses` say of a process that is dead.
pub(super) fn cost<'l>(totals: &Totals, losses: impl IntoIterator<Item = &'l Loss>) -> Cost {
    let count = |loss: &Loss| -> u64 {
        let series = totals.named(loss.series);
        let lost =
            series.filter(|(series, _)| series.label("end").is_some_and(|end| loss.ends.contains(&end)));
        lost.map(|(_, total)| total.value).sum()
    };
    let counts = losses.into_iter().map(|loss| (loss.what.to_owned(), count(loss)));
    counts.filter(|(_, count)| *count > 0).collect()
}

/// In words, such as `4 connections, 1 request`.
pub fn cost_words(cost: &Cost) -> String {
    let word = |(what, count): (&String, &u64)| match count {
        1 => format!("1 {}", what.strip_suffix('s').unwrap_or(what)),
        _ => format!("{count} {what}"),
    };
    let words: Vec<String> = cost.iter().map(word).collect();
    if words.is_empty() { "nothing".to_owned() } else { words.join(", ") }
}

/// An upgrade that has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PastUpgrade {
    /// The generation that was asked.
    pub from: u32,
    /// The one that was to take over.
    pub to: u32,
    /// `committed`, `failed` or `rolled_back`.
    pub result: String,
    /// The step that failed.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub step: String,
    /// Why it failed, or what was odd; of the last one that failed all of it, of the others the first line.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// When it ended, in milliseconds since the Unix epoch.
    pub ended_ms: u64,
    /// How long it took from the request to its end, in milliseconds.
    pub took_ms: u64,
    /// What the process that it took out of service (the new one, if it failed or was rolled back) has cut at its
    /// deadline, or lost by its death. `None` while that process is alive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<Cost>,
}

impl PastUpgrade {
    /// The generation that it took out of service.
    pub fn leaver(&self) -> u32 {
        if self.result == "committed" { self.from } else { self.to }
    }
}

/// An upgrade that has not ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UnderWay {
    /// The generation that was asked.
    pub from: u32,
    /// The one that is to take over.
    pub to: u32,
    /// When it was asked for, in milliseconds since the Unix epoch.
    pub since_ms: u64,
}

/// Where the [`History`] is read, on any thread. It ends with the driver.
pub type HistoryViewer = watch::Receiver<History>;

impl History {
    /// What a child knows from its parent.
    pub(super) fn handed_on(mut past: Vec<PastUpgrade>, under_way: UnderWay) -> History {
        past.drain(..past.len().saturating_sub(MOST));
        shorten(&mut past);
        History { past, under_way: Some(under_way), unclaimed: None }
    }

    /// The one that is under way has ended. Nothing, if none is.
    pub(super) fn end(&mut self, verdict: &Verdict, note: &str, now_ms: u64) {
        let Some(UnderWay { from, to, since_ms }) = self.under_way.take() else { return };
        let (result, step, message) = match verdict {
            Verdict::Committed => ("committed", "", note),
            Verdict::RolledBack => ("rolled_back", "", note),
            Verdict::Failed(Failure { step, message }) => ("failed", step.as_str(), message.as_str()),
        };
        if self.past.len() >= MOST {
            self.past.remove(0);
        }
        self.past.push(PastUpgrade {
            from,
            to,
            result: result.to_owned(),
            step: first_line(step),
            message: message.to_owned(),
            ended_ms: now_ms,
            took_ms: now_ms.saturating_sub(since_ms),
            cost: None,
        });
        shorten(&mut self.past);
        if let Some((generation, cost)) = self.unclaimed.take() {
            self.lost(generation, cost);
        }
    }

    /// A generation is dead, and this is what it did not finish.
    pub(super) fn lost(&mut self, generation: u32, cost: Cost) {
        // The number of one that was never ready is given out again: there may be an entry of its namesake.
        let is_under_way = self.under_way.as_ref().is_some_and(|under_way| under_way.to == generation);
        match self.past.iter_mut().rev().find(|past| past.leaver() == generation) {
            Some(past) if !is_under_way => past.cost = Some(cost),
            // Its upgrade ends by that.
            _ => self.unclaimed = Some((generation, cost)),
        }
    }
}

/// Leaves of each cause what is remembered of it.
fn shorten(past: &mut [PastUpgrade]) {
    let last_failed = past.iter().rposition(|one| one.result == "failed");
    for (i, one) in past.iter_mut().enumerate() {
        one.message = match Some(i) == last_failed {
            true => beginning(&printable(&one.message), MAX_CAUSE),
            false => first_line(&one.message),
        };
    }
}

fn first_line(text: &str) -> String {
    beginning(&printable(text.lines().next().unwrap_or_default()), MAX_OLD_CAUSE)
}

/// Without what takes six bytes in a message, and moves a terminal's cursor.
fn printable(text: &str) -> String {
    text.chars().filter(|char| *char == '\n' || !char.is_control()).collect()
}

fn beginning(text: &str, most: usize) -> String {
    let end = (0..=text.len().min(most)).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    let more = if end < text.len() { "…" } else { "" };
    format!("{}{more}", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn under_way(from: u32) -> UnderWay {
        UnderWay { from, to: from + 1, since_ms: 1000 }
    }

    #[test]
    fn what_has_ended_is_remembered_up_to_a_limit() {
        let mut history = History::default();
        for from in 1..=2 * MOST as u32 {
            history.under_way = Some(under_way(from));
            let cause = format!("{}\nand more", "é".repeat(MAX_CAUSE));
            history.end(&Verdict::Failed(Failure::new("exec", cause)), "", 3500);
        }
        history.end(&Verdict::Committed, "", 9000);
        assert_eq!(history.past.len(), MOST, "one that never began has no end");
        let last = history.past.last().unwrap();
        assert_eq!((last.from, last.to, last.took_ms, last.step.as_str()), (20, 21, 2500, "exec"));
        assert_eq!(last.message, format!("{}…", "é".repeat(MAX_CAUSE / 2)));
        let before = &history.past[MOST - 2];
        assert_eq!(before.message, format!("{}…", "é".repeat(MAX_OLD_CAUSE / 2)));
        let text = serde_json::to_string(&history.past).unwrap();
        assert!(text.len() < 12 * 1024, "{}", text.len());
    }

    #[test]
    fn a_child_takes_no_more_than_it_would_keep() {
        let past = PastUpgrade { message: "x".repeat(4 * MAX_OLD_CAUSE), ..PastUpgrade::default() };
        let mut history = History::handed_on(vec![past; 3 * MOST], under_way(7));
        assert_eq!(history.past.len(), MOST);
        assert!(history.past[0].message.len() < MAX_OLD_CAUSE + 4);
        history.end(&Verdict::Committed, "the old process has died", 2000);
        let last = history.past.last().unwrap();
        assert_eq!((last.to, last.result.as_str(), last.took_ms), (8, "committed", 1000));
        assert_eq!(history.under_way, None);
    }

    /// The status page had its first 240 bytes.
    #[test]
    fn the_cause_of_the_last_failure_is_kept_in_full() {
        let mut history = History { under_way: Some(under_way(1)), ..History::default() };
        let cause = format!("exit status 1; its last lines:\n{}\nthe \u{1b}end", "x".repeat(1000));
        history.end(&Verdict::Failed(Failure::new("exec", cause.clone())), "", 2000);
        history.under_way = Some(under_way(1));
        history.end(&Verdict::Committed, "", 3000);
        assert_eq!(history.past[0].message, cause.replace('\u{1b}', ""));
    }

    #[test]
    fn what_an_upgrade_has_cost_is_known_when_the_old_process_is_gone() {
        let cost = |n| Cost::from([("requests".to_owned(), n), ("tunnels".to_owned(), 2)]);
        let mut history = History { under_way: Some(under_way(1)), ..History::default() };
        history.end(&Verdict::Committed, "", 2000);
        assert_eq!(history.past[0].cost, None);
        history.under_way = Some(under_way(2));
        // The new one dies, and that ends its upgrade.
        history.lost(3, cost(7));
        history.lost(1, cost(1));
        history.end(&Verdict::Failed(Failure::new("probation", "killed")), "", 3000);
        assert_eq!(history.past[0].cost, Some(cost(1)));
        assert_eq!(history.past[1].cost, Some(cost(7)));
        // The next of that number.
        history.under_way = Some(under_way(2));
        history.lost(3, cost(9));
        history.end(&Verdict::Failed(Failure::new("probation", "killed")), "", 4000);
        assert_eq!((&history.past[1].cost, &history.past[2].cost), (&Some(cost(7)), &Some(cost(9))));
        assert_eq!(cost_words(&cost(1)), "1 request, 2 tunnels");
        assert_eq!(cost_words(&Cost::new()), "nothing");
    }

    #[test]
    fn another_version_may_know_more_or_less() {
        let read: Vec<PastUpgrade> =
            serde_json::from_str(r#"[{"to":2,"result":"evaporated","moon":"full"}]"#).unwrap();
        assert_eq!((read[0].to, read[0].result.as_str()), (2, "evaporated"));
    }
}
