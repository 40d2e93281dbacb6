//! What there is to be seen at one look: every generation and what it still has, the traffic of all, the last upgrades.
//!
//! One document, for the status page, for scripts and for `exuvia status --watch`. It is read out of the segments of all
//! generations, so that no process is asked and none can hold it up, and made once a second while somebody watches, for
//! all who do.

mod figures;
mod observer;
mod past;
pub mod words;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::restart::{PastUpgrade, UnderWay};
pub use observer::{Observer, Place, Watcher};
pub use past::{Lane, Past, Stretch};

/// The document. Times are milliseconds since the Unix epoch; phases are words, because another version may have more.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Overview {
    /// When it was made.
    pub at_ms: u64,
    /// The generation that made it.
    pub generation: u32,
    /// Its pid.
    pub pid: u32,
    /// The version of its program.
    pub version: String,
    /// What it is doing.
    pub phase: String,
    /// Who serves, in words.
    pub headline: String,
    /// Since when it is the owner.
    pub owner_since_ms: Option<u64>,
    /// Every generation alive that has been ready, the oldest first.
    pub generations: Vec<Generation>,
    /// The upgrade that has not ended.
    pub upgrade: Option<UnderWay>,
    /// The last upgrades, the oldest first.
    pub upgrades: Vec<PastUpgrade>,
    /// What all generations have counted, those that are gone included.
    pub totals: Totals,
    /// How it goes at the moment; `None` if nobody has looked a short while ago.
    pub rates: Option<Rates>,
    /// The servers behind this proxy.
    pub upstreams: Vec<Upstream>,
    /// The last ten minutes, in the first document that somebody is given who watches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub past: Option<Past>,
    /// Whether this is the last document, because exuvia was stopped.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub stopped: bool,
}

impl Overview {
    /// Every generation alive, and the one that an upgrade has started and that is not ready.
    pub fn with_starting(&self) -> Vec<Generation> {
        let mut all = self.generations.clone();
        if let Some(next) = self.upgrade.filter(|next| all.iter().all(|one| one.generation != next.to)) {
            let phase = "starting".to_owned();
            let started_ms = next.since_ms;
            all.push(Generation { generation: next.to, phase, started_ms, ..Generation::default() });
        }
        all
    }
}

/// A generation that is alive.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Generation {
    /// Its number.
    pub generation: u32,
    /// Its pid.
    pub pid: u32,
    /// The version of its program.
    pub version: String,
    /// What it is doing.
    pub phase: String,
    /// When it was started.
    pub started_ms: u64,
    /// When what it still has will be cut, if it drains.
    pub drain_deadline_ms: Option<u64>,
    /// Its connections by kind.
    pub connections: BTreeMap<String, Connections>,
    /// Requests that it has not answered yet.
    pub requests_in_flight: u64,
    /// Requests that it has answered in full, by class of status.
    pub answers: BTreeMap<String, u64>,
}

/// Connections of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Connections {
    /// Those that are open.
    pub open: u64,
    /// Of those, the ones with something in flight.
    pub active: u64,
}

/// Counts since the first generation; what is zero may be missing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Totals {
    /// Requests that began.
    pub requests: u64,
    /// Requests that were answered in full, by class of status.
    pub answers: BTreeMap<String, u64>,
    /// Requests that were not, by why.
    pub unanswered: BTreeMap<String, u64>,
    /// Answers that were errors of this proxy's own, by why.
    pub errors: BTreeMap<String, u64>,
    /// Connections that began.
    pub connections: u64,
    /// Connections that were cut, or died with their process, by how.
    pub dropped: BTreeMap<String, u64>,
    /// Times that accepting failed for want of descriptors or memory.
    pub accept_errors: u64,
}

/// What happened in the last interval, each second.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rates {
    /// How long the interval was.
    pub interval_ms: u64,
    /// Requests that began.
    pub requests_per_s: f64,
    /// Requests that were answered, by class of status.
    pub answers_per_s: BTreeMap<String, f64>,
    /// Requests that failed, and not because of their client: answered with 5xx, or not to the end.
    pub failures_per_s: f64,
    /// Half of the requests took no longer; `None` if there were none.
    pub latency_p50_ms: Option<f64>,
    /// All but one in a hundred took no longer.
    pub latency_p99_ms: Option<f64>,
}

/// A server behind this proxy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Upstream {
    /// Where it is.
    pub name: String,
    /// Connections to it that are open.
    pub connections_open: u64,
    /// Requests that were sent to it.
    pub requests: u64,
    /// Connects that failed, and answers with 5xx.
    pub failures: u64,
    /// Requests in the last interval.
    pub requests_per_s: Option<f64>,
    /// Failures in the last interval.
    pub failures_per_s: Option<f64>,
}

impl Generation {
    /// Its connections of every kind.
    pub fn all_connections(&self) -> Connections {
        let add = |sum: Connections, one: &Connections| Connections {
            open: sum.open + one.open,
            active: sum.active + one.active,
        };
        self.connections.values().fold(Connections::default(), add)
    }
}
