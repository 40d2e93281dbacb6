//! The configuration as it is written: its keys, its layers, its serde shapes.
//!
//! This file and those under `raw/` are the only users of the crate `config`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use config::{Config, ConfigError, Map, Source, Value, ValueKind};
use serde::Deserialize;

use super::problem::{Origin, Problem, Problems};
use super::value::{Leaf, quoted};

mod environment;
mod keys;
mod toml_file;

pub(super) use keys::{KEYS, Key, NAMED, nearest};

/// The name and address of the listener that there is when nobody configured one.
const DEFAULT_LISTENER: (&str, &str) = ("web", "127.0.0.1:8080");

/// A whole configuration. The defaults are in it, so only what has none is an `Option`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Raw {
    pub(super) workers: Leaf,
    pub(super) errors: Leaf,
    pub(super) listeners: BTreeMap<String, RawListener>,
    pub(super) certificates: BTreeMap<String, RawCertificate>,
    pub(super) tls: RawTls,
    pub(super) http2: RawHttp2,
    pub(super) upstream: RawUpstream,
    pub(super) resolver: RawResolver,
    pub(super) timeouts: RawTimeouts,
    pub(super) limits: RawLimits,
    pub(super) restart: RawRestart,
    pub(super) drain: RawDrain,
    pub(super) control: RawControl,
    pub(super) admin: RawAdmin,
    pub(super) log: RawLog,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawListener {
    pub(super) address: Option<Leaf>,
    pub(super) backlog: Leaf,
    pub(super) unix_mode: Leaf,
    pub(super) certificates: Leaf,
    pub(super) tls_min_version: Leaf,
    pub(super) client_certificates: Leaf,
    pub(super) client_ca: Option<Leaf>,
    pub(super) protocols: Leaf,
    pub(super) proxy_protocol: Leaf,
    pub(super) proxy_protocol_from: Leaf,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCertificate {
    pub(super) chain: Option<Leaf>,
    pub(super) key: Option<Leaf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTls {
    pub(super) ticket_lifetime: Leaf,
    pub(super) ticket_key_files: Leaf,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawHttp2 {
    pub(super) max_streams: Leaf,
    pub(super) stream_window: Leaf,
    pub(super) connection_window: Leaf,
    pub(super) max_resets_per_minute: Leaf,
    pub(super) max_control_frames_per_minute: Leaf,
    pub(super) ack_timeout: Leaf,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawUpstream {
    pub(super) servers: Leaf,
    pub(super) protocol: Leaf,
    pub(super) tls: Leaf,
    pub(super) tls_name: Option<Leaf>,
    pub(super) ca: Option<Leaf>,
    pub(super) client_certificate: Option<Leaf>,
    pub(super) max_streams: Leaf,
    pub(super) proxy_protocol: Leaf,
    pub(super) upgrades: Leaf,
    pub(super) connect: Leaf,
    pub(super) request_id: Leaf,
    pub(super) connect_timeout: Leaf,
    pub(super) response_timeout: Leaf,
    pub(super) idle_timeout: Leaf,
    pub(super) max_idle_per_worker: Leaf,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawResolver {
    pub(super) servers: Leaf,
    pub(super) min_ttl: Leaf,
    pub(super) max_ttl: Leaf,
    pub(super) max_stale: Leaf,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTimeouts {
    pub(super) handshake: Leaf,
    pub(super) header: Leaf,
    pub(super) idle: Leaf,
    pub(super) stall: Leaf,
    pub(super) tunnel: Leaf,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLimits {
    pub(super) connections_per_worker: Leaf,
    pub(super) header_bytes: Leaf,
    pub(super) headers: Leaf,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRestart {
    pub(super) executable: Option<Leaf>,
    pub(super) ready_timeout: Leaf,
    pub(super) probation: Leaf,
    pub(super) probation_requests: Leaf,
    pub(super) probation_max: Leaf,
    pub(super) max_generations: Leaf,
    pub(super) pid_file: Option<Leaf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDrain {
    pub(super) timeout: Leaf,
    pub(super) idle_grace: Leaf,
    pub(super) stop_delay: Leaf,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawControl {
    pub(super) socket: Option<Leaf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAdmin {
    pub(super) address: Option<Leaf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLog {
    pub(super) level: Leaf,
    pub(super) format: Leaf,
    pub(super) query: Leaf,
}

/// Who made each setting. The values cannot tell, because serde hands over the values alone.
#[derive(Debug, Default)]
pub(super) struct Origins {
    file: Option<PathBuf>,
    in_file: BTreeSet<String>,
    variables: BTreeMap<String, String>,
}

impl Origins {
    /// Who made the setting of this key, or should have made it.
    pub(super) fn of(&self, key: &str) -> Origin {
        match (self.variables.get(key), &self.file) {
            (Some(name), _) => Origin::Variable(name.clone()),
            (None, Some(file)) if self.in_file.contains(key) => Origin::File(file.clone()),
            (None, _) => Origin::Builtin,
        }
    }

    /// Who should have made the setting that `table` lacks: the file, or else a variable that names the table.
    pub(super) fn of_missing(&self, table: &str) -> Origin {
        let prefix = format!("{table}.");
        let variable = || self.variables.iter().find(|(key, _)| key.starts_with(&prefix));
        match (&self.file, variable()) {
            (Some(file), _) => Origin::File(file.clone()),
            (None, Some((_, name))) => Origin::Variable(name.clone()),
            (None, None) => Origin::Builtin,
        }
    }
}

/// Reads all layers. Returns nothing only if `problems` says why.
pub(super) fn read(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
    problems: &mut Problems,
) -> Option<(Raw, Origins)> {
    let mut origins = Origins { file: file.map(Path::to_path_buf), ..Origins::default() };

    let mut from_file = Layer::default();
    match file.map(toml_file::read) {
        Some(Ok(table)) => from_file.add_file(table, &mut origins, problems),
        Some(Err(found)) => problems.add_useless_file(found),
        None => {}
    }
    let mut from_environment = Layer::default();
    environment::add(environment, &from_file, &mut from_environment, &mut origins, problems);
    let defaults = Layer::defaults(&from_file, &from_environment);

    let merged =
        Config::builder().add_source(defaults).add_source(from_file).add_source(from_environment).build();
    match merged.and_then(Config::try_deserialize) {
        Ok(raw) => Some((raw, origins)),
        Err(err) => {
            let origin = file.map_or(Origin::Builtin, |path| Origin::File(path.to_path_buf()));
            problems.add(Problem {
                origin,
                key: None,
                value: None,
                message: format!("cannot be merged: {err}"),
            });
            None
        }
    }
}

/// Some of the settings, from one place.
///
/// Invariant: it holds known keys alone, since `config` takes a key such as `a[9]` for an expression.
#[derive(Clone, Debug, Default)]
struct Layer(Map<String, Value>);

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        Ok(self.0.clone())
    }
}

impl Layer {
    /// Every default, for the tables that are named in the file or the environment.
    ///
    /// The default listener is there when the file has none and the environment names no other.
    fn defaults(from_file: &Layer, from_environment: &Layer) -> Layer {
        let mut layer = Layer::default();
        for key in KEYS.iter().filter(|key| !keys::is_named(key.section)) {
            let path = key.parts(None);
            match key.default {
                Some(text) => layer.set(&path, key.value_of_text(text)),
                None => layer.table(&path[..path.len() - 1], |_| {}),
            }
        }
        let (listener, address) = DEFAULT_LISTENER;
        let has_no_other = from_environment.names("listeners").all(|other| other == listener);
        if from_file.names("listeners").next().is_none() && has_no_other {
            layer.set(&["listeners", listener, "address"], ValueKind::String(address.to_owned()));
        }
        for section in NAMED {
            layer.table(&[section], |_| {});
            let named = [&layer, from_file, from_environment].map(|layer| layer.names(section));
            let named: BTreeSet<String> = named.into_iter().flatten().map(str::to_owned).collect();
            for name in &named {
                for key in KEYS.iter().filter(|key| key.section == *section) {
                    if let Some(text) = key.default {
                        layer.set(&key.parts(Some(name)), key.value_of_text(text));
                    }
                }
            }
        }
        layer
    }

    /// Takes over what is known of the file's tables, and adds the rest to the problems.
    fn add_file(&mut self, table: Map<String, Value>, origins: &mut Origins, problems: &mut Problems) {
        let mut sift = Sift { layer: self, origins, problems };
        for (name, value) in table {
            match value.kind {
                _ if keys::find("", &name).is_some() => sift.keep(&[&name], value),
                ValueKind::Table(tables) if keys::is_named(&name) => {
                    sift.layer.table(&[&name], |_| {});
                    for (table_name, value) in tables {
                        let path = [name.as_str(), &table_name];
                        match value.kind {
                            ValueKind::Table(table) => sift.section(&path, &name, table),
                            _ => sift.refuse(&path, value, format!("expected a table, [{name}.NAME]")),
                        }
                    }
                }
                ValueKind::Table(table) if keys::is_section(&name) => sift.section(&[&name], &name, table),
                _ if keys::is_named(&name) => {
                    sift.refuse(&[&name], value, format!("expected a table for each, [{name}.NAME]"));
                }
                _ if keys::is_section(&name) => {
                    sift.refuse(&[&name], value, format!("expected a table, [{name}]"));
                }
                _ => sift.refuse_unknown(&[&name], "", &name, value),
            }
        }
    }

    /// The names of the tables in this section that this layer says anything about.
    fn names(&self, section: &str) -> impl Iterator<Item = &str> {
        let tables = match self.0.get(section).map(|value| &value.kind) {
            Some(ValueKind::Table(tables)) => Some(tables.keys()),
            _ => None,
        };
        tables.into_iter().flatten().map(String::as_str)
    }

    fn set(&mut self, path: &[&str], value: impl Into<ValueKind>) {
        if let [tables @ .., name] = path {
            self.table(tables, |table| {
                table.insert((*name).to_owned(), Value::new(None, value));
            });
        }
    }

    /// Calls `edit` with the table at `path`, which is made if it is not there.
    fn table(&mut self, path: &[&str], edit: impl FnOnce(&mut Map<String, Value>)) {
        let mut table = &mut self.0;
        for name in path {
            let value = table.entry((*name).to_owned()).or_insert_with(|| Map::<String, Value>::new().into());
            match &mut value.kind {
                ValueKind::Table(inner) => table = inner,
                _ => return,
            }
        }
        edit(table);
    }
}

/// Sorts what stands in a file into the known and the unknown.
struct Sift<'a> {
    layer: &'a mut Layer,
    origins: &'a mut Origins,
    problems: &'a mut Problems,
}

impl Sift<'_> {
    /// The table at `path`, whose keys are those of `section`.
    fn section(&mut self, path: &[&str], section: &str, table: Map<String, Value>) {
        self.layer.table(path, |_| {});
        for (name, value) in table {
            let path = [path, &[&name]].concat();
            match keys::find(section, &name) {
                Some(_) => self.keep(&path, value),
                None => self.refuse_unknown(&path, section, &name, value),
            }
        }
    }

    fn keep(&mut self, path: &[&str], value: Value) {
        self.origins.in_file.insert(dotted(path));
        self.layer.set(path, value.kind);
    }

    fn refuse_unknown(&mut self, path: &[&str], section: &str, name: &str, value: Value) {
        let is_table = matches!(value.kind, ValueKind::Table(_));
        self.refuse(path, value, keys::unknown(section, name, is_table));
    }

    fn refuse(&mut self, path: &[&str], value: Value, message: String) {
        let origin = self.origins.file.clone().map_or(Origin::Builtin, Origin::File);
        let value = value.try_deserialize::<Leaf>().ok().map(|leaf| leaf.to_string());
        self.problems.add(Problem { origin, key: Some(dotted(path)), value, message });
    }
}

/// A key's path as TOML writes it: parts that are not bare keys are quoted.
pub(super) fn dotted(path: &[&str]) -> String {
    let is_bare = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
    };
    let part = |part: &&str| if is_bare(part) { (*part).to_owned() } else { quoted(part) };
    path.iter().map(part).collect::<Vec<_>>().join(".")
}
