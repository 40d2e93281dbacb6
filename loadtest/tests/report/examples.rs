//! Results that no run had to make: a rich one, and those at the edges.

use std::collections::BTreeMap;

use fastrand::Rng;
use loadtest::results::{
    Band, Connections, Deed, DeedKind, KindRow, Latency, Results, SCHEMA, Slice, Slices, Surroundings, Usage,
    Verdict,
};
use loadtest::scenario::{DEFAULT, Scenario};
use loadtest::witness::{Class, Disturbance, Failure, Phase, Unit};

/// What a peer could write to harm whoever looks at the page.
pub(crate) const HOSTILE: &str = "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=2>\
    \u{202e}desrever\u{202c}\u{2066}<!--\u{1b}[31m\0 &lt;\"'`${window.hacked=3}";

/// Nothing happened at all.
pub(crate) fn empty() -> Results {
    Results {
        schema: SCHEMA,
        verdict: Verdict { reasons: vec!["nothing ended".into()], ..Verdict::default() },
        started_unix_ms: 0,
        seconds: 0.0,
        scenario: Scenario::parse(DEFAULT).unwrap(),
        surroundings: Surroundings::default(),
        kinds: Vec::new(),
        total: KindRow { kind: "total".into(), ..KindRow::default() },
        slices: Slices::default(),
        disturbers: Vec::new(),
        failures: Vec::new(),
        processes: Vec::new(),
    }
}

/// Only one slice, and it is short.
pub(crate) fn one_slice() -> Results {
    let slice =
        Slice { ok: BTreeMap::from([(Unit::Request, 7)]), p50: 0.2, p99: 1.0, max: 1.0, ..Slice::default() };
    Results {
        verdict: Verdict { passed: true, ..Verdict::default() },
        seconds: 0.02,
        slices: Slices { seconds: 0.1, rows: vec![slice] },
        ..empty()
    }
}

/// Half a minute of everything, in which some things went wrong: what the page is made for.
pub(crate) fn rich() -> Results {
    let mut random = Rng::with_seed(7);
    let deeds: Vec<Deed> = (0..10).map(|at| rich_deed(at, &mut random)).collect();
    let mut rows: Vec<Slice> =
        (0..300).map(|at| busy_slice(f64::from(at) * 0.1, &deeds, &mut random)).collect();
    fail(&mut rows[172], Class::Reset, 3);
    fail(&mut rows[173], Class::ClosedInAnswer, 1);
    fail(&mut rows[201], Class::Timeout, 1);
    // What was under way when the load ended.
    rows.push(Slice {
        at: 30.0,
        ok: BTreeMap::from([(Unit::Request, 11)]),
        p50: 1.0,
        p99: 200.0,
        max: 340.0,
        ..Slice::default()
    });
    rows.push(Slice { at: 30.1, ..Slice::default() });
    let failures = vec![
        failure(17.21, Class::Reset, 7, true),
        failure(17.25, Class::Reset, 7, true),
        failure(17.27, Class::Reset, 7, false),
        failure(17.31, Class::ClosedInAnswer, 7, true),
        failure(20.14, Class::Timeout, 8, false),
    ];
    with_sums(Results {
        verdict: Verdict {
            failures: 2,
            excused: 3,
            failures_with_retry: 1,
            reasons: vec![
                "2 exchanges failed".into(),
                "upgrade 8 did not go as it should: rolled back".into(),
            ],
            ..Verdict::default()
        },
        started_unix_ms: 1_795_741_200_000,
        seconds: 30.0,
        surroundings: machine(),
        slices: Slices { seconds: 0.1, rows },
        disturbers: deeds,
        failures,
        processes: processes(300, &mut random),
        ..empty()
    })
}

/// An hour with an upgrade every nine seconds, and a connection or two of every generation that stays for ever.
pub(crate) fn many() -> Results {
    let mut random = Rng::with_seed(8);
    let deeds: Vec<Deed> =
        (0..400).map(|at| deed(DeedKind::Upgrade, 9.0 * f64::from(at) + 1.0, 0.3, 1.5, 4.0)).collect();
    let mut rows: Vec<Slice> =
        (0..300).map(|at| busy_slice(f64::from(at) * 12.0, &deeds, &mut random)).collect();
    for (at, row) in rows.iter_mut().enumerate() {
        let generations = u32::try_from(at * 4 / 3).unwrap();
        row.open = (0..=generations).map(|one| (one, if one == generations { 120 } else { 1 })).collect();
        row.ok.values_mut().for_each(|number| *number *= 120);
    }
    with_sums(Results {
        verdict: Verdict { passed: true, ..Verdict::default() },
        seconds: 3600.0,
        surroundings: machine(),
        slices: Slices { seconds: 12.0, rows },
        disturbers: deeds,
        processes: processes(300, &mut random),
        ..empty()
    })
}

/// Two hundred failures and more, by peers that write what harms, with numbers that are none.
pub(crate) fn hostile() -> Results {
    let mut results = rich();
    let long = format!("{HOSTILE} {}", "x".repeat(10_000));
    results.failures = (0..250)
        .map(|at| Failure {
            detail: long.clone(),
            kind: HOSTILE.into(),
            ..failure(f64::from(at) * 0.1, Class::Malformed, 1, at % 2 == 0)
        })
        .collect();
    for (at, row) in results.slices.rows.iter_mut().enumerate() {
        row.failed = BTreeMap::from([(Class::Malformed, u64::MAX / 1000), (Class::Local, 1)]);
        row.disturbances = BTreeMap::from([(Disturbance::GoAway, u64::MAX / 1000)]);
        row.p99 = if at % 3 == 0 { f64::NAN } else { f64::INFINITY };
        row.max = 1e300;
        row.open = BTreeMap::from([(0, u64::MAX / 1000), (u32::MAX, u64::MAX / 1000)]);
    }
    results.verdict.reasons = vec![HOSTILE.into(), long];
    results.total.disturbances = BTreeMap::from([(Disturbance::GoAway, u64::MAX)]);
    results.kinds[0].kind = HOSTILE.into();
    results.disturbers[0].detail = HOSTILE.into();
    results.disturbers[1].at = f64::NAN;
    results.processes[0].name = HOSTILE.into();
    results.processes[1].cpu_by_slice[7] = f64::NAN;
    results.surroundings.proxy = HOSTILE.into();
    results.surroundings.arguments = vec![HOSTILE.into()];
    results.scenario.traffic[0].name = HOSTILE.into();
    results.started_unix_ms = u64::MAX;
    results
}

fn machine() -> Surroundings {
    Surroundings {
        proxy: "exuvia 0.1.0".into(),
        targets: vec!["127.0.0.1:8080".into(), "127.0.0.1:8443".into()],
        loadtest: "exuvia-loadtest 0.1.0".into(),
        kernel: "6.1.0-28-amd64".into(),
        cpu: "AMD EPYC 7763 64-Core Processor".into(),
        cpus: 2,
        memory_bytes: 8 << 30,
        threads: 1,
        arguments: ["exuvia-loadtest", "run", "--proxy", "exuvia"].map(str::to_owned).to_vec(),
    }
}

fn deed(kind: DeedKind, at: f64, starting: f64, probation: f64, draining: f64) -> Deed {
    let mut from = at;
    let lengths = [(Phase::Starting, starting), (Phase::Probation, probation), (Phase::Draining, draining)];
    let phases = lengths.into_iter().filter(|(_, length)| *length > 0.0).map(|(phase, length)| {
        let band = Band { phase, from, to: from + length };
        from = band.to;
        band
    });
    let phases = phases.collect();
    Deed { deed: kind, detail: "by the control socket".into(), as_expected: true, told: true, at, phases }
}

fn rich_deed(number: i32, random: &mut Rng) -> Deed {
    let at = 0.4 + 2.8 * f64::from(number);
    let starting = 0.25 + 0.1 * random.f64();
    match number {
        3 => Deed {
            detail: "crashes at once: refused".into(),
            ..deed(DeedKind::BadUpgrade, at, starting, 0.0, 0.0)
        },
        6 => Deed {
            detail: "SIGKILL to generation 6".into(),
            ..deed(DeedKind::KillOld, at, starting, 0.1, 0.05)
        },
        7 => Deed {
            as_expected: false,
            told: true,
            detail: "rolled back: not ready in 1 s".into(),
            ..deed(DeedKind::Upgrade, at, 1.0, 0.0, 0.0)
        },
        8 => Deed { detail: "one worker more".into(), ..deed(DeedKind::Change, at, starting, 0.5, 0.8) },
        _ => deed(DeedKind::Upgrade, at, starting, 0.5, 0.7 + 0.5 * random.f64()),
    }
}

/// The phase at a time, of the last deed if there are several.
fn phase_at(deeds: &[Deed], at: f64) -> Option<Phase> {
    let bands = deeds.iter().flat_map(|deed| &deed.phases);
    bands.filter(|band| band.from <= at && at < band.to).map(|band| band.phase).next_back()
}

fn busy_slice(at: f64, deeds: &[Deed], random: &mut Rng) -> Slice {
    let phase = phase_at(deeds, at);
    let (slow, rate) = match phase {
        Some(Phase::Starting) => (1.9, 0.95),
        Some(Phase::Probation) => (1.3, 0.98),
        Some(Phase::Draining) => (1.5, 0.96),
        _ => (1.0, 1.0),
    };
    let mut about = |value: f64, by: f64| value * (1.0 + by * (random.f64() - 0.5));
    let mut number = |of: f64| about(of * rate, 0.12) as u64;
    let ok = [(Unit::Request, 158.0), (Unit::Stream, 41.0), (Unit::Tunnel, 0.99), (Unit::Message, 30.0)];
    let ok = ok.map(|(unit, of)| (unit, number(of))).into();
    let p50 = about(0.34 * slow, 0.2);
    let p99 = about(p50 * 9.0 * slow, 0.7);
    let max = p99 * (1.3 + 9.0 * random.f64().powi(4));
    let mut disturbances = BTreeMap::new();
    if phase == Some(Phase::Draining) && random.bool() {
        disturbances.insert(Disturbance::GoAway, random.u64(1..4));
        disturbances.insert(Disturbance::AnnouncedClose, random.u64(0..20));
    }
    Slice { at, ok, failed: BTreeMap::new(), disturbances, p50, p99, max, open: open_at(deeds, at) }
}

/// Connections that move to the newest generation bit by bit.
fn open_at(deeds: &[Deed], at: f64) -> BTreeMap<u32, u64> {
    const ALL: u64 = 196;
    let began = |deed: &Deed| deed.phases.get(1).map(|probation| probation.from).filter(|from| *from <= at);
    let generations: Vec<f64> = deeds.iter().filter_map(began).collect();
    let newest = u32::try_from(generations.len()).unwrap();
    let Some(last) = generations.last() else { return BTreeMap::from([(0, ALL)]) };
    let old = (150.0 * (-(at - last) * 1.6).exp()) as u64;
    let open = [(newest, ALL - old), (newest - 1, old)];
    open.into_iter().filter(|(_, number)| *number > 0).collect()
}

fn fail(slice: &mut Slice, class: Class, number: u64) {
    slice.failed.insert(class, number);
}

fn failure(at: f64, class: Class, upgrade: u32, excused: bool) -> Failure {
    Failure {
        at,
        kind: "http1".into(),
        unit: Unit::Request,
        class,
        phase: if class == Class::Timeout { Phase::Starting } else { Phase::Probation },
        upgrade,
        local_port: 50_312,
        reused: true,
        bytes_seen: 1_460,
        after_ms: 3.21,
        excused,
        second: (!excused && class == Class::Reset).then_some(Class::Ok),
        detail: "read: Connection reset by peer (os error 104)".into(),
    }
}

fn processes(slices: usize, random: &mut Rng) -> Vec<Usage> {
    let groups = [("proxy", 0.46, 39 << 20), ("witness", 0.31, 0), ("upstream", 0.12, 12 << 20)];
    let usage = groups.map(|(name, use_of_cpu, peak_memory_bytes)| Usage {
        name: name.into(),
        cpu_seconds: use_of_cpu * 30.0,
        cpu_us_per_exchange: use_of_cpu * 430.0,
        peak_memory_bytes,
        cpu_by_slice: (0..slices).map(|_| use_of_cpu * (0.8 + 0.4 * random.f64())).collect(),
    });
    usage.into()
}

/// Kinds and a total that fit the slices.
fn with_sums(results: Results) -> Results {
    let total = total(&results);
    let traffic = (0..).zip(&results.scenario.traffic).zip(SHARES);
    let kinds = traffic.map(|((at, traffic), share)| kind(&traffic.name, at, share, &total)).collect();
    Results { kinds, total, ..results }
}

/// What each kind of traffic has of all, in percent.
const SHARES: [u64; 11] = [40, 8, 6, 16, 17, 1, 1, 1, 4, 4, 2];

fn latency(count: u64, p50: f64) -> Latency {
    let [mean, p90, p99, p999, max] = [1.4, 3.0, 9.1, 20.0, 60.0].map(|times| p50 * times);
    Latency { count, mean, p50, p90, p99, p999, max }
}

fn total(results: &Results) -> KindRow {
    let mut exchanges: BTreeMap<Unit, BTreeMap<Class, u64>> = BTreeMap::new();
    let mut disturbances = BTreeMap::new();
    for slice in &results.slices.rows {
        let failed = slice.failed.iter().map(|(class, number)| (Unit::Request, *class, *number));
        let ok = slice.ok.iter().map(|(unit, number)| (*unit, Class::Ok, *number));
        for (unit, class, number) in ok.chain(failed) {
            *exchanges.entry(unit).or_default().entry(class).or_default() += number;
        }
        for (disturbance, number) in &slice.disturbances {
            *disturbances.entry(*disturbance).or_default() += number;
        }
    }
    let number: u64 = exchanges.values().flat_map(BTreeMap::values).sum();
    KindRow {
        kind: "total".into(),
        exchanges,
        excused: results.verdict.excused,
        disturbances,
        connections: Connections { attempted: 7_812, closed: 7_610, lost: 6, ..Connections::default() },
        bytes_in: number * 3_200,
        bytes_out: number * 800,
        steady: latency(number / 2, 0.34),
        upgrading: latency(number / 2, 0.58),
        ..KindRow::default()
    }
}

/// The share of a kind; all failures are the first one's.
fn kind(name: &str, at: u32, share: u64, total: &KindRow) -> KindRow {
    let of = |class: Class, number: u64| match (class, at) {
        (Class::Ok, _) => number * share / 100,
        (_, 0) => number,
        _ => 0,
    };
    let part = |row: &BTreeMap<Class, u64>| {
        row.iter().map(|(class, number)| (*class, of(*class, *number))).collect()
    };
    KindRow {
        kind: name.into(),
        exchanges: total.exchanges.iter().map(|(unit, row)| (*unit, part(row))).collect(),
        excused: if at == 0 { total.excused } else { 0 },
        disturbances: total.disturbances.iter().map(|(one, number)| (*one, number * share / 100)).collect(),
        connections: Connections { attempted: 71 * share, closed: 70 * share, ..Connections::default() },
        bytes_in: total.bytes_in * share / 100,
        bytes_out: total.bytes_out * share / 100,
        steady: latency(9, 0.2 + 0.05 * f64::from(at)),
        upgrading: latency(9, 0.3 + 0.08 * f64::from(at)),
        ..KindRow::default()
    }
}
