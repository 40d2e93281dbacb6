//! The shapes of a scenario file. Every field may be missing; what it means then is in [`super::check`].

use std::path::PathBuf;

use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Scenario {
    pub(super) seed: Option<u64>,
    pub(super) duration: Option<String>,
    pub(super) warm_up: Option<String>,
    pub(super) timeout: Option<String>,
    pub(super) threads: Option<usize>,
    pub(super) disturb: Option<Disturb>,
    #[serde(default)]
    pub(super) traffic: Vec<Traffic>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Traffic {
    pub(super) kind: String,
    pub(super) name: Option<String>,
    pub(super) connections: Option<usize>,
    pub(super) rate: Option<f64>,
    pub(super) pause: Option<[String; 2]>,
    pub(super) bytes: Option<[usize; 2]>,
    pub(super) streams: Option<usize>,
    pub(super) messages: Option<u32>,
    pub(super) lasts: Option<String>,
    pub(super) over: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Disturb {
    pub(super) first: Option<String>,
    pub(super) every: Option<String>,
    pub(super) upgrades: Option<u32>,
    pub(super) control: Option<PathBuf>,
    pub(super) signal: Option<String>,
    pub(super) pid_file: Option<PathBuf>,
    pub(super) command: Option<String>,
    pub(super) bad_every: Option<u32>,
    pub(super) kill_every: Option<u32>,
    pub(super) kill: Option<String>,
    pub(super) change_every: Option<u32>,
    pub(super) settle: Option<String>,
}
