//! What the witness found at the faulty proxy, beside what was planted there.

use std::collections::BTreeMap;

use loadtest::now::Now;
use loadtest::results::{Deed, KindRow};
use loadtest::scenario::Scenario;
use loadtest::traffic::Order;
use loadtest::witness::{Class, Disturbance, Failure, Unit};
use tokio::sync::watch;

use crate::faulty::{Faulty, Plan, Planted, What};
use crate::harness::{Server, apply_to, over, rows};

pub(crate) struct Found {
    pub(crate) row: KindRow,
    pub(crate) failures: Vec<Failure>,
    /// What a client that retries once would have seen.
    pub(crate) with_retry: u64,
    pub(crate) planted: Vec<Planted>,
    /// How many of each came to the proxy, by [`What`].
    came: [u64; 4],
    name: String,
}

/// A scenario with one kind of traffic, that goes on until the proxy ends it.
pub(crate) fn scenario(kind: &str, more: &str) -> Scenario {
    let timeout = if more.contains("timeout") { "" } else { "timeout = \"20s\"" };
    let (top, traffic) = more.split_once('|').unwrap_or(("", more));
    Scenario::parse(&format!(
        "duration = \"50s\"\n{timeout}\n{top}\n[[traffic]]\nkind = \"{kind}\"\n{traffic}"
    ))
    .unwrap()
}

/// Applies a scenario to a proxy with a plan.
pub(crate) fn found(name: &str, server: &Server, scenario: &Scenario, plan: Plan) -> Found {
    let proxy = Faulty::start(server, plan);
    let nobody = |_now: Now, orders: watch::Receiver<Order>| async move {
        over(orders).await;
        Vec::new()
    };
    found_at(name, &proxy, scenario, nobody)
}

/// Applies a scenario to a proxy, while somebody disturbs.
pub(crate) fn found_at<D: Future<Output = Vec<Deed>>>(
    name: &str,
    proxy: &Faulty,
    scenario: &Scenario,
    disturb: impl FnOnce(Now, watch::Receiver<Order>) -> D,
) -> Found {
    let ran = apply_to(scenario, &proxy.aim, disturb, proxy.book.interruption());
    assert!(ran.interrupted, "{name}: the proxy has not seen what it waited for");
    let (_, row) = rows(&ran.sum, scenario);
    let with_retry = ran.sum.kinds(&scenario.traffic).2;
    let found = Found {
        row,
        failures: ran.sum.failures(),
        with_retry,
        planted: proxy.book.planted(),
        came: [What::Connection, What::Answer, What::Message, What::Stream].map(|what| proxy.book.came(what)),
        name: name.to_owned(),
    };
    found.adds_up();
    found
}

impl Found {
    /// What must be so whatever was planted.
    fn adds_up(&self) {
        let (name, row) = (&self.name, &self.row);
        let connections = &row.connections;
        let failed: u64 = connections.failed.values().sum();
        let ended = connections.closed + connections.lost + failed;
        assert_eq!(connections.attempted, ended, "{name}: connections that never ended: {self:#?}");
        assert_eq!(row.failures(), self.failures.len() as u64, "{name}: {self:#?}");
    }

    pub(crate) fn came(&self, what: What) -> u64 {
        self.came[what as usize]
    }

    pub(crate) fn seconds(&self) -> Vec<Option<Class>> {
        self.failures.iter().map(|failure| failure.second).collect()
    }

    /// Nothing failed but this, and something went well.
    pub(crate) fn only(&self, expected: &[(Unit, Class, usize)]) {
        let mut failed = BTreeMap::new();
        for (unit, classes) in &self.row.exchanges {
            for (class, count) in classes.iter().filter(|(class, _)| **class != Class::Ok) {
                failed.insert((*unit, *class), usize::try_from(*count).unwrap());
            }
        }
        let expected = expected.iter().filter(|(.., count)| *count > 0);
        let expected: BTreeMap<_, _> =
            expected.map(|(unit, class, count)| ((*unit, *class), *count)).collect();
        assert_eq!(failed, expected, "{}: {self:#?}", self.name);
        assert!(self.row.in_class(Class::Ok) > 0, "{}: {self:#?}", self.name);
    }

    /// Every fault that was planted was found, as this, on the connection in which it was planted; nothing else was.
    pub(crate) fn all_planted(&self, unit: Unit, class: Class, count: usize) {
        assert_eq!(self.planted.len(), count, "{}: not planted: {self:#?}", self.name);
        self.only(&[(unit, class, count)]);
        let sorted = |ports: &mut Vec<u16>| ports.sort_unstable();
        let mut planted = self.planted.iter().map(|planted| planted.port).collect();
        let mut found = self.failures.iter().map(|failure| failure.local_port).collect();
        sorted(&mut planted);
        sorted(&mut found);
        assert_eq!(planted, found, "{}: on other connections: {self:#?}", self.name);
    }

    /// Nobody was disturbed but so.
    pub(crate) fn disturbed(&self, expected: &[(Disturbance, u64)]) {
        let expected = expected.iter().filter(|(_, count)| *count > 0).copied();
        assert_eq!(self.row.disturbances, expected.collect::<BTreeMap<_, _>>(), "{}: {self:#?}", self.name);
    }
}

impl std::fmt::Debug for Found {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Found { row, failures, planted, came, with_retry, .. } = self;
        let KindRow { exchanges, disturbances, connections, mended_by_retry, excused, .. } = row;
        let failures: Vec<_> = failures
            .iter()
            .map(|failure| {
                let Failure { unit, class, local_port, reused, bytes_seen, second, detail, .. } = failure;
                format!("{unit:?} {class:?} port {local_port} reused {reused} seen {bytes_seen} second {second:?}: {detail}")
            })
            .collect();
        writeln!(formatter, "exchanges {exchanges:?}\ndisturbances {disturbances:?}\n{connections:?}")?;
        writeln!(formatter, "mended {mended_by_retry} excused {excused} with retry {with_retry}")?;
        write!(formatter, "planted {planted:?} came {came:?}\n{failures:#?}")
    }
}
