//! What was counted becomes results, and the results are judged.
//!
//! A run has passed when nothing failed **and** everything was done that it was to be: a kind of traffic of which
//! nothing came through, or an upgrade that was never asked for, proves nothing.

use crate::results::{Deed, DeedKind, KindRow, Results, SCHEMA, Surroundings, Usage, Verdict};
use crate::run::Ran;
use crate::scenario::Scenario;
use crate::table::text::{count, counted, deed, plain};
use crate::witness::Class;

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
        reasons.push("it was ended before its time".into());
    } else {
        unproven(&mut reasons, &kinds, &total);
    }
    let verdict = Verdict {
        passed: reasons.is_empty(),
        failures: total.failures() - total.excused,
        excused: total.excused,
        failures_with_retry,
        reasons,
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
    if done < plan.upgrades || done == 0 {
        reasons.push(format!(
            "{} of {} were begun: there was no time for more",
            count(u64::from(done)),
            counted(u64::from(plan.upgrades.max(1)), "upgrade")
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
    use crate::witness::Unit;

    fn row(counts: &[(Class, u64)]) -> KindRow {
        let exchanges = BTreeMap::from([(Unit::Request, counts.iter().copied().collect())]);
        KindRow { kind: "http1".into(), exchanges, ..KindRow::default() }
    }

    fn done(kind: DeedKind, as_expected: bool) -> Deed {
        Deed { deed: kind, detail: "refused".into(), as_expected, at: 2.0, phases: Vec::new() }
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
            ("every = \"1s\"", upgrades(1, true), &[]),
            ("", Vec::new(), &[]),
            ("every = \"1s\"", Vec::new(), &["0 of 1 upgrade were begun"]),
            ("every = \"1s\"\nupgrades = 3", upgrades(2, true), &["2 of 3 upgrades were begun"]),
            (
                "every = \"1s\"",
                upgrades(2, false),
                &["2 of 2 upgrades did not go as expected; the first: upgrade at 2.00 s: refused"],
            ),
            (
                "every = \"1s\"\nbad_every = 2\nkill_every = 3\nchange_every = 5",
                upgrades(1, true),
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
    fn silence_proves_nothing() {
        let mut reasons = Vec::new();
        unproven(&mut reasons, &[row(&[(Class::Ok, 1)])], &row(&[(Class::Ok, 1)]));
        assert_eq!(reasons, Vec::<String>::new());
        unproven(&mut reasons, &[row(&[(Class::Unfinished, 1)])], &row(&[(Class::Unfinished, 1)]));
        assert!(reasons[0].starts_with("nothing of http1 came through"), "{reasons:?}");
        assert!(reasons[1].starts_with("1 exchange was unfinished"), "{reasons:?}");
    }
}
