//! Every key there is, with its default.

use config::{Value, ValueKind};

/// One setting's key.
#[derive(Debug)]
pub(in crate::settings) struct Key {
    /// The table that it stands in: empty for the root, `listeners` for each table of a listener.
    pub(in crate::settings) section: &'static str,
    /// Its name in the table.
    pub(in crate::settings) name: &'static str,
    /// What holds without it, written as an environment variable would be.
    pub(in crate::settings) default: Option<&'static str>,
    /// Its value is a list.
    pub(in crate::settings) is_list: bool,
}

/// All of them, in the order of the reference.
pub(in crate::settings) const KEYS: &[Key] = &[
    Key::new("", "workers", "auto"),
    Key::without_default("listeners", "address"),
    Key::new("listeners", "backlog", "4096"),
    Key::new("listeners", "unix_mode", "0666"),
    Key { is_list: true, ..Key::new("upstream", "servers", "") },
    Key::new("upstream", "connect_timeout", "3s"),
    Key::new("upstream", "response_timeout", "60s"),
    Key::new("upstream", "idle_timeout", "50s"),
    Key::new("upstream", "max_idle_per_worker", "256"),
    Key::new("timeouts", "header", "10s"),
    Key::new("timeouts", "idle", "75s"),
    Key::new("timeouts", "stall", "60s"),
    Key::new("limits", "connections_per_worker", "10000"),
    Key::new("limits", "header_bytes", "64KiB"),
    Key::new("limits", "headers", "100"),
    Key::without_default("restart", "executable"),
    Key::new("restart", "ready_timeout", "30s"),
    Key::new("restart", "probation", "5s"),
    Key::new("restart", "max_generations", "8"),
    Key::without_default("restart", "pid_file"),
    Key::new("drain", "timeout", "30s"),
    Key::new("drain", "idle_grace", "5s"),
    Key::without_default("control", "socket"),
    Key::without_default("admin", "address"),
    Key::new("log", "level", "info"),
    Key::new("log", "format", "text"),
];

impl Key {
    const fn new(section: &'static str, name: &'static str, default: &'static str) -> Key {
        Key { section, name, default: Some(default), is_list: false }
    }

    const fn without_default(section: &'static str, name: &'static str) -> Key {
        Key { section, name, default: None, is_list: false }
    }

    /// The key's path; a listener's name is `NAME`.
    pub(in crate::settings) fn path(&self) -> String {
        match self.section {
            "" => self.name.to_owned(),
            "listeners" => format!("listeners.NAME.{}", self.name),
            section => format!("{section}.{}", self.name),
        }
    }

    /// The environment variable that sets it.
    pub(in crate::settings) fn variable(&self) -> String {
        format!("EXUVIA__{}", self.path().to_uppercase().replace('.', "__"))
    }

    /// The value of a text from the environment: a list's items are separated by commas.
    pub(in crate::settings) fn value_of_text(&self, text: &str) -> ValueKind {
        if !self.is_list {
            return ValueKind::String(text.to_owned());
        }
        let items = text.split(',').map(str::trim).filter(|_| !text.trim().is_empty());
        ValueKind::Array(items.map(|item| Value::new(None, item)).collect())
    }
}

/// The key of this name in this section.
pub(super) fn find(section: &str, name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.section == section && key.name == name)
}

/// Whether the root has a table of this name.
pub(super) fn is_section(name: &str) -> bool {
    KEYS.iter().any(|key| !key.section.is_empty() && key.section == name)
}

/// What to say of a key that is not there: the one that was meant, or else those that are.
pub(super) fn unknown(section: &str, name: &str, is_table: bool) -> String {
    let sections = || {
        let mut names: Vec<&str> =
            KEYS.iter().map(|key| key.section).filter(|name| !name.is_empty()).collect();
        names.dedup();
        names
    };
    if section.is_empty() && is_table {
        return match nearest(name, sections()) {
            Some(meant) => format!("unknown table; did you mean [{meant}]?"),
            None => format!("unknown table; allowed are {}", sections().join(", ")),
        };
    }
    let here: Vec<&str> = KEYS.iter().filter(|key| key.section == section).map(|key| key.name).collect();
    let elsewhere = KEYS.iter().find(|key| key.name == name).map(Key::path);
    let near_here =
        || nearest(name, here.iter().copied()).and_then(|name| find(section, name)).map(Key::path);
    match near_here().or(elsewhere) {
        Some(meant) => format!("unknown key; did you mean {meant}?"),
        None if section.is_empty() => {
            format!("unknown key; allowed are {} and the tables {}", here.join(", "), sections().join(", "))
        }
        None => format!("unknown key; allowed here are {}", here.join(", ")),
    }
}

/// The candidate that someone who wrote `name` may have meant.
pub(super) fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    /// Names longer than this are nobody's slip, and comparing them takes time.
    const LENGTH_MAX: usize = 100;
    if name.len() > LENGTH_MAX {
        return None;
    }
    candidates
        .into_iter()
        .map(|candidate| {
            (strsim::damerau_levenshtein(&name.to_lowercase(), &candidate.to_lowercase()), candidate)
        })
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 5)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}
