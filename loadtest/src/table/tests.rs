//! The exact text of small examples.

use std::collections::BTreeMap;

use super::{markdown, terminal};
use crate::results::{
    Band, Deed, DeedKind, KindRow, Latency, Results, SCHEMA, Slices, Surroundings, Usage, Verdict,
};
use crate::scenario::{DEFAULT, Scenario};
use crate::verdict::INTERRUPTED;
use crate::witness::{Class, Disturbance, Failure, Phase, Unit};

fn row(kind: &str, ok: u64, failed: &[(Class, u64)], closed: u64) -> KindRow {
    let classes: BTreeMap<_, _> = failed.iter().copied().chain([(Class::Ok, ok)]).collect();
    let latency = |p50, p99, max| Latency { count: 9, p50, p99, max, ..Latency::default() };
    KindRow {
        kind: kind.to_owned(),
        exchanges: BTreeMap::from([(Unit::Request, classes)]),
        disturbances: [(Disturbance::ClosedIdle, closed)].into_iter().filter(|(_, n)| *n > 0).collect(),
        steady: latency(0.214, 3.44, 12.3),
        upgrading: latency(0.4, 34.6, 120.2),
        ..KindRow::default()
    }
}

fn deed(deed: DeedKind, at: f64, as_expected: bool) -> Deed {
    let phases = vec![Band { phase: Phase::Starting, from: at, to: at + 0.2 }];
    Deed { deed, detail: "by the control socket".into(), as_expected, told: true, at, phases }
}

fn passed() -> Results {
    Results {
        schema: SCHEMA,
        verdict: Verdict { passed: true, ..Verdict::default() },
        started_unix_ms: 1_790_000_000_000,
        seconds: 30.0,
        scenario: Scenario::parse(DEFAULT).unwrap(),
        surroundings: Surroundings::default(),
        kinds: vec![row("http1", 70_000, &[], 200), row("http1-new", 1_234, &[], 12)],
        total: row("total", 71_234, &[], 212),
        slices: Slices::default(),
        disturbers: vec![deed(DeedKind::Upgrade, 2.8, true), deed(DeedKind::Upgrade, 5.6, true)],
        failures: Vec::new(),
        processes: vec![
            Usage {
                name: "proxy".into(),
                cpu_seconds: 10.12,
                cpu_us_per_exchange: 142.1,
                peak_memory_bytes: 39_845_888,
                ..Usage::default()
            },
            Usage { name: "witness".into(), cpu_seconds: 6.4, cpu_us_per_exchange: 89.8, ..Usage::default() },
        ],
    }
}

fn failed() -> Results {
    let failure = Failure {
        at: 5.713,
        kind: "http1".into(),
        unit: Unit::Request,
        class: Class::Reset,
        phase: Phase::Draining,
        upgrade: 2,
        local_port: 50_312,
        reused: true,
        bytes_seen: 1_460,
        after_ms: 3.21,
        excused: false,
        second: Some(Class::Ok),
        detail: "read: Connection reset\x1b[2J by peer".into(),
    };
    let mut http1 = row("http1", 70_000, &[(Class::Reset, 3), (Class::Timeout, 1)], 0);
    (http1.excused, http1.mended_by_retry) = (2, 1);
    Results {
        verdict: Verdict {
            passed: false,
            failures: 2,
            excused: 2,
            failures_with_retry: 1,
            reasons: vec!["2 exchanges failed".into(), "1 upgrade did not go as it should".into()],
            remarks: Vec::new(),
            interrupted: false,
        },
        total: KindRow { kind: "total".into(), ..http1.clone() },
        kinds: vec![http1],
        disturbers: vec![deed(DeedKind::Upgrade, 2.8, true), deed(DeedKind::KillOld, 5.6, false)],
        failures: vec![failure],
        processes: Vec::new(),
        ..passed()
    }
}

#[test]
fn a_passed_run_in_the_terminal() {
    assert_eq!(terminal(&passed()), include_str!("tests/passed.txt"));
}

#[test]
fn a_failed_run_in_the_terminal() {
    assert_eq!(terminal(&failed()), include_str!("tests/failed.txt"));
}

#[test]
fn both_as_markdown() {
    assert_eq!(
        format!("{}\n{}", markdown(&passed()), markdown(&failed())),
        include_str!("tests/markdown.txt")
    );
}

#[test]
fn an_interrupted_run_has_passed_only_so_far() {
    let mut results = passed();
    let reasons = vec![INTERRUPTED.into()];
    results.verdict = Verdict { interrupted: true, reasons, ..Verdict::default() };
    (results.seconds, results.total, results.disturbers) = (12.2, row("total", 1, &[], 0), Vec::new());
    let text = terminal(&results);
    let first = text.lines().next().unwrap();
    assert_eq!(first, "interrupted after 12 s: 1 exchange without any upgrade, 0 failed, 0 disturbances");
    // A process that had to be killed is no failure of an exchange, and one of the proxy.
    results.verdict.reasons.push("1 process did not end when told to, and had to be killed".into());
    assert!(terminal(&results).starts_with("FAILED, interrupted after 12 s: "));
}

#[test]
fn no_line_is_wider_than_a_window() {
    let mut results = failed();
    results.kinds[0].kind = "a-name-that-someone-gave-without-a-thought-of-tables".into();
    results.failures[0].detail = "long ".repeat(100);
    results.disturbers[1].detail = "long ".repeat(100);
    for width in terminal(&results).lines().map(|line| line.chars().count()) {
        assert!(width <= 110, "{width}");
    }
}
