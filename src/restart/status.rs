//! What the driver tells of itself: the answers to those who ask.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::counts::KindStatus;
use super::handoff::millis;
use super::history::PastUpgrade;
use super::state::{Phase, Verdict};
use super::trial::Trial;

/// What the owner knows of itself and of every generation alive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The number of the process that answers.
    pub generation: u32,
    /// Its pid.
    pub pid: u32,
    /// The version of its program.
    pub version: String,
    /// What it is doing.
    pub phase: Phase,
    /// The file that the next upgrade starts.
    pub executable: String,
    /// Its listeners.
    pub listeners: Vec<ListenerStatus>,
    /// How often accepting failed for want of descriptors or memory.
    pub accept_errors: u64,
    /// How the last upgrade that this process took part in ended: one that it was asked for, or the one that made
    /// it the owner.
    pub last_upgrade: Option<Verdict>,
    /// The new generation that is watched.
    #[serde(default)]
    pub trial: Option<Trial>,
    /// The last upgrades that have ended, the oldest first, and what each has cost.
    #[serde(default)]
    pub upgrades: Vec<PastUpgrade>,
    /// Every generation alive, the oldest first, the one that answers included.
    pub generations: Vec<GenerationStatus>,
}

/// A listener and where it is bound.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerStatus {
    /// Its name.
    pub name: String,
    /// Its address, as in the settings, with the port that the kernel chose.
    pub address: String,
    /// How many sockets it has.
    pub sockets: usize,
}

/// A generation that is alive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenerationStatus {
    /// Its number.
    pub generation: u32,
    /// Its pid.
    pub pid: i32,
    /// The version of its program; empty while it has not said.
    pub version: String,
    /// What it is doing; `None` if it does not answer.
    pub phase: Option<Phase>,
    /// How long ago it was started, in milliseconds.
    pub age_ms: u64,
    /// Its connections by kind.
    pub connections: Vec<KindStatus>,
    /// Until its connections are cut, in milliseconds, while it drains.
    pub left_ms: Option<u64>,
}

/// How an upgrade goes on, told to the one who asked for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub enum Progress {
    /// It cannot be done now.
    Refused {
        /// Why.
        reason: String,
    },
    /// The new process exists.
    Started {
        /// Its generation.
        generation: u32,
        /// Its pid.
        pid: i32,
        /// The file that it was started from.
        executable: String,
    },
    /// The new process accepts.
    Ready {
        /// Since the upgrade was asked for, in milliseconds.
        elapsed_ms: u64,
        /// How long the old process will watch it, in milliseconds.
        probation_ms: u64,
        /// How much it is to have done by then, or it is watched longer.
        #[serde(default)]
        wanted: u64,
        /// How long it is watched at most, in milliseconds.
        #[serde(default)]
        longest_ms: u64,
        /// The version of its program.
        version: String,
    },
    /// The old process, which answers, lets go: what follows is the end.
    Draining {
        /// Its generation.
        generation: u32,
        /// How many connections it still has.
        connections: u64,
        /// Until it cuts them, in milliseconds.
        left_ms: u64,
        /// The upgrade before this one.
        before: Option<PastUpgrade>,
    },
    /// The end.
    Ended {
        /// Since the upgrade was asked for, in milliseconds.
        elapsed_ms: u64,
        /// What the new process has done by then, by how that ended.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        done: BTreeMap<String, u64>,
        /// How it ended.
        #[serde(flatten)]
        verdict: Verdict,
    },
}

/// Milliseconds since the Unix epoch.
pub(crate) fn unix_ms(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map(millis).unwrap_or(0)
}

/// How long before `now` something was that began at `started_ms` after the Unix epoch.
pub(crate) fn age_ms(started_ms: u64, now: SystemTime) -> u64 {
    unix_ms(now).saturating_sub(started_ms)
}
