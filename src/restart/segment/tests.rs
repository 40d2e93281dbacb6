//! Segments as their own process, another one and a broken one see them.

use super::*;

fn owner() -> Owner {
    Owner { generation: 3, pid: 4711, started_ms: 1_700_000_000_000 }
}

fn words(segment: &Segment) -> Vec<u64> {
    segment.0.mapping.snapshot()
}

/// As another process sees it.
fn seen(segment: &Segment) -> Segment {
    Segment::adopt(segment.as_fd().try_clone_to_owned().unwrap()).unwrap()
}

#[test]
fn what_threads_count_is_added_up_by_whoever_looks() {
    let mut plan = Plan::default();
    let requests = plan.counter("requests", &[("kind", "a"), ("class", "2xx")]);
    let ended = plan.end("ended", &[], requests);
    let open = plan.gauge("open", &[]);
    plan.lost(requests, ended);
    assert_eq!(plan.counter("requests", &[("kind", "a"), ("class", "2xx")]), requests, "the same again");
    let segment = Segment::create(&plan, owner(), 3).unwrap();
    let other = seen(&segment);

    let threads: Vec<_> = (0..3)
        .map(|shard| {
            let seat = segment.seat(shard);
            std::thread::spawn(move || {
                let shard = seat.take();
                for _ in 0..1000 {
                    shard.add(requests, 2);
                    shard.shift(open, -1);
                }
                shard.shift(open, 1005);
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());

    let table = other.table();
    assert_eq!((table.generation, table.pid, table.started_ms), (3, 4711, 1_700_000_000_000));
    assert_eq!(table.identity, segment.table().identity);
    let found: Vec<_> =
        table.entries.iter().map(|entry| (format!("{:?}", entry.series), entry.kind)).collect();
    let expected = [
        (r#"requests{"kind": "a", "class": "2xx"}"#.to_owned(), Kind::Counter),
        ("ended{}".to_owned(), Kind::End),
        ("open{}".to_owned(), Kind::Gauge),
    ];
    assert_eq!(found, expected);
    assert_eq!(table.entries.iter().map(|entry| entry.link).collect::<Vec<_>>(), [Some(1), Some(0), None]);
    assert_eq!((segment.open(), other.open()), (vec![6000, 0, 0], vec![6000, 0, 0]));
    assert_eq!([0, 1, 2].map(|place| other.value(place)), [6000, 0, 15]);
    assert_eq!((segment.at(requests), segment.at(open).cast_signed()), (6000, 15));
    assert_eq!(table.entries[0].series.label("class"), Some("2xx"));
}

#[test]
fn an_observation_falls_into_one_bucket() {
    let mut plan = Plan::default();
    plan.counter("before", &[]);
    let histogram = plan.histogram("seconds", &[("route", "a")], &[10, 100]);
    let segment = Segment::create(&plan, owner(), 1).unwrap();
    let shard = segment.seat(0).take();
    [0, 10, 11, 100, 101, 5000].into_iter().for_each(|value| shard.observe(&histogram, value));
    let other = seen(&segment);
    let entries = other.table().entries.iter().enumerate();
    let values: Vec<_> =
        entries.map(|(at, entry)| (format!("{:?}", entry.series), other.value(at))).collect();
    let expected = [
        ("before{}", 0),
        (r#"seconds_bucket{"route": "a", "le": "10"}"#, 2),
        (r#"seconds_bucket{"route": "a", "le": "100"}"#, 2),
        (r#"seconds_bucket{"route": "a", "le": "+Inf"}"#, 2),
        (r#"seconds_sum{"route": "a"}"#, 5222),
    ];
    assert_eq!(values, expected.map(|(text, value)| (text.to_owned(), value)));
}

#[test]
fn texts_of_any_kind_come_back() {
    let mut plan = Plan::default();
    plan.counter("n", &[("route", "/ü/\"\\\n"), ("empty", "")]);
    plan.counter("nul\0l", &[("a\0b", "c\0d")]);
    plan.counter("long", &[("text", &"é".repeat(100_000))]);
    let segment = Segment::create(&plan, owner(), 1).unwrap();
    let entries = &seen(&segment).table().entries.clone();
    let labels: Vec<_> = entries[0].series.labels().collect();
    assert_eq!(labels, [("route", "/ü/\"\\\n"), ("empty", "")]);
    assert_eq!(format!("{:?}", entries[1].series), r#"nul?l{"a?b": "c?d"}"#);
    assert!(entries[2].series.as_bytes().len() <= series::MAX_BYTES);
}

#[test]
fn an_empty_plan_is_a_segment() {
    let segment = seen(&Segment::create(&Plan::default(), owner(), 1).unwrap());
    assert!(segment.table().entries.is_empty());
    assert_eq!(segment.value(0), 0);
    assert_eq!(segment.value(usize::MAX / 2), 0);
}

/// A later version has kinds that this one does not know.
#[test]
fn unknown_records_are_carried_or_skipped() {
    let mut plan = Plan::default();
    plan.add(Kind::Unknown(77), Series::new("later", &[]), None);
    plan.include([11, 12]);
    let after = plan.counter("after", &[]);
    let segment = Segment::create(&plan, owner(), 1).unwrap();
    segment.seat(0).take().add(after, 5);
    let other = seen(&segment);
    assert_eq!(other.table().entries[0].kind, Kind::Unknown(77));
    assert_eq!(other.table().includes, [11, 12]);
    assert_eq!(other.value(1), 5);

    let mut altered = words(&segment);
    // The first record becomes one without a value, of a kind that nobody knows.
    altered[HEADER] = altered[HEADER] & !0xff | 200;
    let table = Table::read(&altered).unwrap();
    assert_eq!(table.entries.len(), 1);
    assert_eq!(table.entries[0].series.name(), "after");
}

#[test]
fn what_is_no_segment_is_refused_with_the_reason() {
    let mut plan = Plan::default();
    let began = plan.counter("lost", &[]);
    plan.end("open", &[("kind", "http1")], began);
    let good = words(&Segment::create(&plan, owner(), 2).unwrap());
    let with = |at: usize, value: u64| {
        let mut words = good.clone();
        words[at] = value;
        Table::read(&words).map(drop)
    };
    assert_eq!(with(0, MAGIC), Ok(()));
    assert_eq!(with(0, MAGIC + 1), Err(Malformed::Magic));
    for (at, value) in
        [(1, 0), (4, 1), (4, u64::MAX), (5, 7), (5, u64::MAX), (6, 0), (6, 1 << 40), (6, u64::MAX)]
    {
        assert_eq!(with(at, value), Err(Malformed::Size), "word {at} is {value}");
    }
    // A text that is longer than the table, none at all, one that is not UTF-8, a label without a value.
    for value in [1 | 0xff_ffff << 8, 1] {
        assert_eq!(with(HEADER, value), Err(Malformed::Record), "{value:x}");
    }
    assert_eq!(with(HEADER + 1, u64::MAX), Err(Malformed::Record));
    assert_eq!(with(HEADER + 1, u64::from_ne_bytes(*b"lo\0t\0\0\0\0")), Err(Malformed::Record));
    // It ends what is not there.
    let end = good[HEADER + 2];
    assert_eq!(with(HEADER + 2, end & 0xffff_ffff | 3 << 32), Err(Malformed::Record));
    for length in 0..good.len() {
        assert!(Table::read(&good[..length]).is_err(), "the first {length} words");
    }
}

/// Whatever the words are, reading them ends and says something.
#[test]
fn noise_is_survived() {
    let mut plan = Plan::default();
    for n in 0..20 {
        plan.counter("series", &[("n", &n.to_string())]);
    }
    let good = words(&Segment::create(&plan, owner(), 2).unwrap());
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let mut refused = 0;
    for _ in 0..20_000 {
        let mut words = good.clone();
        for _ in 0..1 + random() % 3 {
            let at = random() as usize % (HEADER + 40);
            words[at] = match random() % 3 {
                0 => random(),
                1 => words[at] ^ 1 << (random() % 64),
                _ => random() % 300,
            };
        }
        refused += u32::from(Table::read(&words).is_err());
    }
    assert!(refused > 10_000, "only {refused} were refused");
}
