//! Every key there is, with its default.

use config::{Value, ValueKind};

/// One setting's key.
#[derive(Debug)]
pub(in crate::settings) struct Key {
    /// The table that it stands in: empty for the root, one of [`NAMED`] for each table of that kind.
    pub(in crate::settings) section: &'static str,
    /// Its name in the table.
    pub(in crate::settings) name: &'static str,
    /// What holds without it, written as an environment variable would be.
    pub(in crate::settings) default: Option<&'static str>,
    /// Its value is a list.
    pub(in crate::settings) is_list: bool,
}

/// The sections that hold one table for each name that the operator chooses, such as `[listeners.NAME]`.
pub(in crate::settings) const NAMED: &[&str] = &["listeners", "certificates"];

/// All of them, in the order of the reference.
pub(in crate::settings) const KEYS: &[Key] = &[
    Key::new("", "workers", "auto"),
    Key::new("", "errors", "brief"),
    Key::without_default("listeners", "address"),
    Key::new("listeners", "backlog", "4096"),
    Key::new("listeners", "unix_mode", "0666"),
    Key::list("listeners", "certificates", ""),
    Key::new("listeners", "tls_min_version", "1.2"),
    Key::new("listeners", "client_certificates", "off"),
    Key::without_default("listeners", "client_ca"),
    Key::list("listeners", "protocols", "h2,http/1.1"),
    Key::new("listeners", "proxy_protocol", "off"),
    Key::list("listeners", "proxy_protocol_from", ""),
    Key::without_default("certificates", "chain"),
    Key::without_default("certificates", "key"),
    Key::new("tls", "ticket_lifetime", "12h"),
    Key::list("tls", "ticket_key_files", ""),
    Key::new("http2", "max_streams", "128"),
    Key::new("http2", "stream_window", "128KiB"),
    Key::new("http2", "connection_window", "16MiB"),
    Key::new("http2", "max_resets_per_minute", "300"),
    Key::new("http2", "max_control_frames_per_minute", "6000"),
    Key::new("http2", "ack_timeout", "10s"),
    Key::list("upstream", "servers", ""),
    Key::new("upstream", "protocol", "http1"),
    Key::new("upstream", "tls", "false"),
    Key::without_default("upstream", "tls_name"),
    Key::without_default("upstream", "ca"),
    Key::without_default("upstream", "client_certificate"),
    Key::new("upstream", "max_streams", "100"),
    Key::new("upstream", "proxy_protocol", "off"),
    Key::list("upstream", "upgrades", "websocket"),
    Key::new("upstream", "connect", "false"),
    Key::new("upstream", "request_id", "false"),
    Key::new("upstream", "connect_timeout", "3s"),
    Key::new("upstream", "response_timeout", "60s"),
    Key::new("upstream", "idle_timeout", "50s"),
    Key::new("upstream", "max_idle_per_worker", "256"),
    Key::list("resolver", "servers", ""),
    Key::new("resolver", "min_ttl", "1s"),
    Key::new("resolver", "max_ttl", "1h"),
    Key::new("resolver", "max_stale", "24h"),
    Key::new("timeouts", "handshake", "10s"),
    Key::new("timeouts", "header", "10s"),
    Key::new("timeouts", "idle", "75s"),
    Key::new("timeouts", "stall", "60s"),
    Key::new("timeouts", "tunnel", "1h"),
    Key::new("limits", "connections_per_worker", "10000"),
    Key::new("limits", "header_bytes", "64KiB"),
    Key::new("limits", "headers", "100"),
    Key::without_default("restart", "executable"),
    Key::new("restart", "ready_timeout", "30s"),
    Key::new("restart", "probation", "5s"),
    Key::new("restart", "probation_requests", "0"),
    Key::new("restart", "probation_max", "60s"),
    Key::new("restart", "max_generations", "8"),
    Key::without_default("restart", "pid_file"),
    Key::new("drain", "timeout", "30s"),
    Key::new("drain", "idle_grace", "30s"),
    Key::new("drain", "stop_delay", "0s"),
    Key::without_default("control", "socket"),
    Key::without_default("admin", "address"),
    Key::new("log", "level", "info"),
    Key::new("log", "format", "text"),
    Key::new("log", "query", "false"),
];

impl Key {
    const fn new(section: &'static str, name: &'static str, default: &'static str) -> Key {
        Key { section, name, default: Some(default), is_list: false }
    }

    const fn without_default(section: &'static str, name: &'static str) -> Key {
        Key { section, name, default: None, is_list: false }
    }

    /// A list whose items the default separates by commas.
    const fn list(section: &'static str, name: &'static str, default: &'static str) -> Key {
        Key { section, name, default: Some(default), is_list: true }
    }

    /// The key's path; the name of a table that the operator names is `NAME`.
    pub(in crate::settings) fn path(&self) -> String {
        self.parts(is_named(self.section).then_some("NAME")).join(".")
    }

    /// The parts of the key's path, given the name of the table if the operator names it.
    pub(super) fn parts<'a>(&self, name: Option<&'a str>) -> Vec<&'a str> {
        let section = Some(self.section).filter(|section| !section.is_empty());
        section.into_iter().chain(name).chain([self.name]).collect()
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

/// Whether the operator names the tables of this section.
pub(super) fn is_named(section: &str) -> bool {
    NAMED.contains(&section)
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
pub(in crate::settings) fn nearest<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
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
