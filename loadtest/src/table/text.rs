//! Numbers and sentences as people read them.

use crate::results::{Deed, DeedKind, Results};
use crate::verdict::INTERRUPTED;
use crate::witness::{Failure, Unit};

/// With a comma at each thousand.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A number and its noun: `1 upgrade`, `10 upgrades`.
pub fn counted(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", count(number), if number == 1 { "" } else { "s" })
}

/// With as many digits as say something: `0.21`, `3.4`, `12`, `1,200`.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast of a float saturates")]
pub fn sensible(number: f64) -> String {
    if !number.is_finite() {
        "–".to_owned()
    } else if number < 0.995 {
        format!("{number:.2}")
    } else if number < 9.95 {
        format!("{number:.1}")
    } else {
        count(number.round() as u64)
    }
}

/// A time since the run began.
pub fn at(seconds: f64) -> String {
    if seconds.is_finite() { format!("{seconds:.2} s") } else { "–".to_owned() }
}

/// How long something took, in seconds.
pub fn took(seconds: f64) -> String {
    if seconds < 0.9995 { format!("{:.0} ms", seconds * 1000.0) } else { format!("{} s", sensible(seconds)) }
}

/// How long the run lasted.
fn lasted(seconds: f64) -> String {
    if seconds < 9.95 { format!("{seconds:.1} s") } else { format!("{seconds:.0} s") }
}

/// `38 MiB`.
#[allow(clippy::cast_precision_loss, reason = "a few digits are shown")]
pub fn size(bytes: u64) -> String {
    let mut size = bytes as f64;
    for unit in ["bytes", "KiB", "MiB", "GiB"] {
        if size < 1023.5 {
            return format!("{} {unit}", if unit == "bytes" { count(bytes) } else { sensible(size) });
        }
        size /= 1024.0;
    }
    format!("{} TiB", sensible(size))
}

/// What a peer, a file or a kernel has written, without what would steer a terminal, on one line.
pub fn plain(text: &str) -> String {
    text.split(|c: char| c.is_control() || c.is_whitespace())
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Not more than so many characters.
pub fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => text.to_owned(),
        Some(_) => text.chars().take(most.saturating_sub(1)).chain(['…']).collect(),
    }
}

/// What is counted, more than one of it.
pub fn unit(unit: Unit) -> &'static str {
    match unit {
        Unit::Request => "requests",
        Unit::Stream => "streams",
        Unit::Tunnel => "tunnels",
        Unit::Message => "messages",
    }
}

/// All kinds of deeds, in the order in which they are shown.
pub const DEEDS: [DeedKind; 5] =
    [DeedKind::Upgrade, DeedKind::Change, DeedKind::BadUpgrade, DeedKind::KillNew, DeedKind::KillOld];

/// What was done, one of it.
pub fn deed(kind: DeedKind) -> &'static str {
    match kind {
        DeedKind::Upgrade => "upgrade",
        DeedKind::Change => "upgrade with a change",
        DeedKind::BadUpgrade => "bad upgrade",
        DeedKind::KillNew => "kill of the new process",
        DeedKind::KillOld => "kill of the old process",
    }
}

/// What was done, so many times.
pub fn deeds(kind: DeedKind, number: usize) -> String {
    let plural = match kind {
        DeedKind::Upgrade => "upgrades",
        DeedKind::Change => "upgrades with a change",
        DeedKind::BadUpgrade => "bad upgrades",
        DeedKind::KillNew => "kills of the new process",
        DeedKind::KillOld => "kills of the old process",
    };
    format!("{} {}", count(number as u64), if number == 1 { deed(kind) } else { plural })
}

/// What became of a failed exchange, in words.
pub fn ending(failure: &Failure) -> String {
    let excused = if failure.excused { ", excused" } else { "" };
    format!("{}{excused}", failure.class.label())
}

/// The verdict in one sentence.
pub fn sentence(results: &Results) -> String {
    let verdict = &results.verdict;
    let mut parts = Vec::new();
    parts.push(format!("{} failed", count(verdict.failures)));
    if verdict.failures_with_retry != verdict.failures {
        parts.push(format!("{} with a retry", count(verdict.failures_with_retry)));
    }
    if verdict.excused > 0 {
        parts.push(format!("{} excused", count(verdict.excused)));
    }
    parts.push(counted(results.total.disturbances(), "disturbance"));
    let exchanges = counted(results.total.exchanges(), "exchange");
    format!("{}: {exchanges} {}, {}", state(results), over(&results.disturbers), parts.join(", "))
}

/// `passed`, `FAILED`, or what was so far when it was ended before its time.
fn state(results: &Results) -> String {
    let verdict = &results.verdict;
    // An interrupted run has not passed for that alone: only what it saw makes it a failed one.
    let clean = verdict.reasons.iter().all(|reason| reason == INTERRUPTED);
    match (verdict.interrupted, verdict.passed || clean) {
        (true, true) => format!("interrupted after {}", lasted(results.seconds)),
        (true, false) => format!("FAILED, interrupted after {}", lasted(results.seconds)),
        (false, _) => if verdict.passed { "passed" } else { "FAILED" }.to_owned(),
    }
}

/// `over 9 upgrades and 1 bad upgrade`.
fn over(deeds_done: &[Deed]) -> String {
    let number = |wanted: &[DeedKind]| deeds_done.iter().filter(|deed| wanted.contains(&deed.deed)).count();
    let counts = [
        (number(&[DeedKind::Upgrade, DeedKind::Change]), "upgrade"),
        (number(&[DeedKind::BadUpgrade]), "bad upgrade"),
        (number(&[DeedKind::KillNew, DeedKind::KillOld]), "kill"),
    ];
    let parts: Vec<String> = counts
        .into_iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, noun)| counted(number as u64, noun))
        .collect();
    match parts.split_last() {
        None => "without any upgrade".to_owned(),
        Some((last, [])) => format!("over {last}"),
        Some((last, before)) => format!("over {} and {last}", before.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_digits_that_say_something() {
        let found = [0.0, 0.214, 0.996, 3.44, 9.96, 34.6, 120.4, 12_345.0, f64::NAN].map(sensible);
        assert_eq!(found, ["0.00", "0.21", "1.0", "3.4", "10", "35", "120", "12,345", "–"]);
        assert_eq!(
            [0, 999, 1_000, 71_234, 1_000_000].map(count),
            ["0", "999", "1,000", "71,234", "1,000,000"]
        );
        assert_eq!(
            [0, 1_023, 1_024, 39_845_888, 1 << 34, 1 << 52].map(size),
            ["0 bytes", "1,023 bytes", "1.0 KiB", "38 MiB", "16 GiB", "4,096 TiB"]
        );
        assert_eq!([0.0312, 0.9996, 2.04, 61.2].map(took), ["31 ms", "1.0 s", "2.0 s", "61 s"]);
    }

    #[test]
    fn text_of_others_does_not_steer_the_terminal() {
        assert_eq!(plain("a\x1b[31mred\r\n\tb\u{9b}c  d "), "a [31mred b c d");
        assert_eq!([cut("häuser", 6), cut("häuser", 4)], ["häuser", "häu…"]);
    }
}
