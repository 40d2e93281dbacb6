//! What was counted becomes results, and the results are judged.
//!
//! A run has passed when nothing failed **and** everything was done that it was to be: a kind of traffic of which
//! nothing came through, or an upgrade that was never asked for, proves nothing.

use std::time::Duration;

use crate::results::{Deed, DeedKind, KindRow, Results, SCHEMA, Surroundings, Usage, Verdict};
use crate::run::Ran;
use crate::scenario::Scenario;
use crate::table::text::{count, counted, deed, plain};
use crate::witness::{Class, Phase};

/// The reason that says nothing against the proxy.
pub const INTERRUPTED: &str = "it was ended before its time";

/// How much longer than it may an old process may take to be gone: a busy machine is slow to notice.
const MARGIN: Duration = Duration::from_secs(3);

/// Makes results of a run, with its verdict.
#[must_use]
#[allow(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
pub fn results(
    ran: Ran,
    scenario: &Scenario,
    started_unix_ms: u64,
    surroundings: Surroundings,
    mut processes: Vec<Usage>,
) -> Results {
    let slices = ran.slices();
    let (kinds, total, failures_with_retry) = ran.sum.kinds(&scenario.traffic);
    let exchanges = total.exchanges().max(1) as f64;
    for usage in &mut processes {
        usage.cpu_us_per_exchange = usage.cpu_seconds * 1e6 / exchanges;
    }
    let mut reasons = ran.troubles;
    failed(&mut reasons, &total);
    undone(&mut reasons, scenario, &ran.deeds, ran.interrupted);
    if ran.interrupted {
        reasons.push(INTERRUPTED.into());
    } else {
        unproven(&mut reasons, &kinds, &total);
    }
    let verdict = Verdict {
        passed: reasons.is_empty(),
        failures: total.failures() - total.excused,
        excused: total.excused,
        failures_with_retry,
        reasons,
        remarks: remarks(scenario, &ran.deeds),
        interrupted: ran.interrupted,
    };
    Results {
        schema: SCHEMA,
        verdict,
        started_unix_ms,
        seconds: ran.seconds,
        scenario: scenario.clone(),
        surroundings,
        kinds,
        total,
        slices,
        disturbers: ran.deeds,
        failures: ran.sum.failures(),
        processes,
    }
}

/// What failed.
fn failed(reasons: &mut Vec<String>, total: &KindRow) {
    let own = total.in_class(Class::Local);
    let failures = total.failures() - total.excused - own;
    if failures > 0 {
        reasons.push(format!("{} failed", counted(failures, "exchange")));
    }
    if own > 0 {
        reasons.push(format!(
            "{} could not be made for want of a descriptor or a port here; that is not the proxy's doing, but \
             the run proves nothing",
            counted(own, "exchange")
        ));
    }
}

/// What was to be done to the proxy and was not, or did not go as it should.
fn undone(reasons: &mut Vec<String>, scenario: &Scenario, deeds: &[Deed], interrupted: bool) {
    let unexpected: Vec<&Deed> = deeds.iter().filter(|deed| !deed.as_expected).collect();
    if let Some(first) = unexpected.first() {
        reasons.push(format!(
            "{} of {} did not go as expected; the first: {} at {:.2} s: {}",
            count(unexpected.len() as u64),
            counted(deeds.len() as u64, "upgrade"),
            deed(first.deed),
            first.at,
            plain(&first.detail)
        ));
    }
    let plan = &scenario.disturb;
    if interrupted || plan.every.is_zero() {
        return;
    }
    let done = u32::try_from(deeds.len()).unwrap_or(u32::MAX);
    let due = plan.due(scenario.duration);
    // So many are due; where their number is not named, some may be late.
    if done == 0 || done < plan.upgrades || done < due / 2 {
        reasons.push(format!(
            "{} of {} were begun",
            count(u64::from(done)),
            counted(u64::from(due), "upgrade")
        ));
    }
    let turns = [
        (plan.bad_every, &[DeedKind::BadUpgrade][..], "no bad upgrade was made"),
        (plan.kill_every, &[DeedKind::KillNew, DeedKind::KillOld], "no process was killed"),
        (plan.change_every, &[DeedKind::Change], "no configuration was changed"),
    ];
    for (every, kinds, reason) in turns {
        if every > 0 && !deeds.iter().any(|deed| kinds.contains(&deed.deed)) {
            reasons.push(format!("{reason}, though it was asked for"));
        }
    }
}

/// What is to be known beside the verdict.
fn remarks(scenario: &Scenario, deeds: &[Deed]) -> Vec<String> {
    let due = u64::from(scenario.disturb.due(scenario.duration));
    let done = deeds.len() as u64;
    let late = (done < due)
        .then(|| format!("{} of {} that were due were begun", count(done), counted(due, "upgrade")));
    untold(deeds).into_iter().chain(late).collect()
}

/// Of how many upgrades nothing told how they went.
fn untold(deeds: &[Deed]) -> Option<String> {
    let number = deeds.iter().filter(|deed| !deed.told).count() as u64;
    (number > 0).then(|| {
        format!(
            "of {} out of {} nothing told whether they were done: after a signal, see the proxy's log",
            count(number),
            counted(deeds.len() as u64, "upgrade")
        )
    })
}

/// Takes a run of a proxy that was started here as failed if one of its processes did not end when it should: one that
/// drained for longer than it may, or that did not end when it was told to.
pub fn overstayed(results: &mut Results, drain_timeout: Duration, killed: usize) {
    let most = (drain_timeout + MARGIN).as_secs_f64();
    let bands = results.disturbers.iter().flat_map(|deed| &deed.phases);
    let late = bands.filter(|band| band.phase == Phase::Draining && band.to - band.from > most).count();
    let reasons = &mut results.verdict.reasons;
    if late > 0 {
        reasons.push(format!(
            "after {} an old process drained for longer than {}",
            counted(late as u64, "upgrade"),
            humantime::format_duration(drain_timeout)
        ));
    }
    if killed > 0 {
        reasons.push(format!("{} did not end when told to, and had to be killed", processes(killed)));
    }
    results.verdict.passed = reasons.is_empty();
}

fn processes(number: usize) -> String {
    if number == 1 { "1 process".to_owned() } else { format!("{} processes", count(number as u64)) }
}

/// Of which traffic nothing can be said.
fn unproven(reasons: &mut Vec<String>, kinds: &[KindRow], total: &KindRow) {
    let silent = kinds.iter().filter(|row| row.in_class(Class::Ok) == 0);
    let silent: Vec<&str> = silent.map(|row| row.kind.as_str()).collect();
    if !silent.is_empty() {
        reasons.push(format!("nothing of {} came through, so nothing is proven for it", silent.join(", ")));
    }
    let unfinished = total.in_class(Class::Unfinished);
    if unfinished > 0 {
        reasons.push(format!(
            "{} unfinished at the end: they had been due, and the proxy or this machine did not keep up",
            match unfinished {
                1 => "1 exchange was".to_owned(),
                some => format!("{} exchanges were", count(some)),
            }
        ));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::recorder::Sum;
    use crate::results::Band;
    use crate::witness::Unit;

    fn row(counts: &[(Class, u64)]) -> KindRow {
        let exchanges = BTreeMap::from([(Unit::Request, counts.iter().copied().collect())]);
        KindRow { kind: "http1".into(), exchanges, ..KindRow::default() }
    }

    fn ran() -> Ran {
        Ran {
            sum: Sum::default(),
            deeds: Vec::new(),
            seconds: 30.0,
            interrupted: false,
            troubles: Vec::new(),
            slice: Duration::from_millis(100),
        }
    }

    fn done(kind: DeedKind, as_expected: bool) -> Deed {
        Deed { deed: kind, detail: "refused".into(), as_expected, told: true, at: 2.0, phases: Vec::new() }
    }

    fn scenario(disturb: &str) -> Scenario {
        Scenario::parse(&format!("[disturb]\n{disturb}\n[[traffic]]\nkind = \"http1\"")).unwrap()
    }

    #[test]
    fn every_failure_is_a_reason_and_the_excused_is_none() {
        let mut reasons = Vec::new();
        failed(&mut reasons, &row(&[(Class::Ok, 9)]));
        failed(&mut reasons, &KindRow { excused: 2, ..row(&[(Class::Ok, 9), (Class::Reset, 2)]) });
        assert_eq!(reasons, Vec::<String>::new());
        failed(&mut reasons, &row(&[(Class::Reset, 2), (Class::Refused, 1), (Class::Local, 1)]));
        assert_eq!((reasons.len(), reasons[0].as_str()), (2, "3 exchanges failed"));
        assert!(reasons[1].starts_with("1 exchange could not be made"), "{reasons:?}");
    }

    #[test]
    fn what_was_not_done_is_a_reason() {
        let upgrades = |number, as_expected| vec![done(DeedKind::Upgrade, as_expected); number];
        let cases = [
            ("every = \"1s\"\nupgrades = 3", upgrades(3, true), &[][..]),
            ("every = \"1s\"", upgrades(20, true), &[]),
            ("", Vec::new(), &[]),
            ("every = \"1s\"", Vec::new(), &["0 of 29 upgrades were begun"]),
            ("every = \"1s\"", upgrades(13, true), &["13 of 29 upgrades were begun"]),
            ("every = \"1s\"\nupgrades = 3", upgrades(2, true), &["2 of 3 upgrades were begun"]),
            (
                "every = \"9s\"",
                upgrades(2, false),
                &["2 of 2 upgrades did not go as expected; the first: upgrade at 2.00 s: refused"],
            ),
            (
                "every = \"4s\"\nbad_every = 2\nkill_every = 3\nchange_every = 5",
                upgrades(6, true),
                &["no bad upgrade", "no process was killed", "no configuration was changed"],
            ),
        ];
        for (disturb, deeds, expected) in cases {
            let mut reasons = Vec::new();
            undone(&mut reasons, &scenario(disturb), &deeds, false);
            assert_eq!(reasons.len(), expected.len(), "{disturb}: {reasons:?}");
            let as_expected = reasons.iter().zip(expected).all(|(reason, start)| reason.starts_with(start));
            assert!(as_expected, "{disturb}: {reasons:?}");
        }
        let mut reasons = Vec::new();
        undone(&mut reasons, &scenario("every = \"1s\"\nupgrades = 3"), &upgrades(1, true), true);
        assert_eq!(reasons, Vec::<String>::new(), "an interrupted run could not do more");
    }

    #[test]
    fn a_process_that_stays_too_long_is_a_reason() {
        let with = |seconds: f64| {
            let band = |phase| Band { phase, from: 1.0, to: 1.0 + seconds };
            let phases = vec![band(Phase::Starting), band(Phase::Draining)];
            let deed = Deed { phases, ..done(DeedKind::Upgrade, true) };
            let ran = Ran { deeds: vec![deed], ..ran() };
            results(ran, &scenario("every = \"20s\""), 0, Surroundings::default(), Vec::new())
        };
        let judged = |seconds, killed| {
            let mut results = with(seconds);
            results.verdict = Verdict::default();
            overstayed(&mut results, Duration::from_secs(5), killed);
            results.verdict
        };
        assert!(judged(7.9, 0).passed);
        let late = judged(8.1, 0);
        assert_eq!(late.reasons, ["after 1 upgrade an old process drained for longer than 5s"]);
        assert!(!late.passed);
        assert_eq!(judged(1.0, 2).reasons, ["2 processes did not end when told to, and had to be killed"]);
    }

    #[test]
    fn what_nothing_told_of_is_remarked() {
        let untold_one = Deed { told: false, ..done(DeedKind::Upgrade, true) };
        assert_eq!(untold(&[done(DeedKind::Upgrade, true)]), None);
        let remark = untold(&[untold_one, done(DeedKind::Upgrade, true)]).unwrap();
        assert!(remark.starts_with("of 1 out of 2 upgrades nothing told"), "{remark}");
    }

    #[test]
    fn silence_proves_nothing() {
        let mut reasons = Vec::new();
        unproven(&mut reasons, &[row(&[(Class::Ok, 1)])], &row(&[(Class::Ok, 1)]));
        assert_eq!(reasons, Vec::<String>::new());
        unproven(&mut reasons, &[row(&[(Class::Unfinished, 1)])], &row(&[(Class::Unfinished, 1)]));
        assert!(reasons[0].starts_with("nothing of http1 came through"), "{reasons:?}");
        assert!(reasons[1].starts_with("1 exchange was unfinished"), "{reasons:?}");
    }
}
